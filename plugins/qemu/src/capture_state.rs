//! What later calls must know of a capture: the state that the host journals.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    error::{PlatformError, Result},
    names::{Names, Scope},
    tracking::Stamp,
};

const STATE_BYTES_MAX: usize = 64 * 1024;

/// A capture.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    version: u32,
    pub(crate) owner: String,
    pub(crate) capture: String,
    pub(crate) machines: Vec<StateMachine>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StateMachine {
    pub(crate) name: String,
    /// It was off, and is captured from its images.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) off: bool,
    pub(crate) disks: Vec<StateDisk>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StateDisk {
    pub(crate) disk: String,
    pub(crate) bytes: u64,
    /// The bitmap of the request's token, which a commit drops. None of a machine that was off: its bitmap stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replaces: Option<String>,
    /// Why the changes since then are not known; empty if they are.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) unknown: String,
    /// What the image of a machine that was off was like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<Stamp>,
    /// The bitmap in it that goes on recording when the machine is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kept: Option<String>,
}

impl State {
    pub(crate) fn new(owner: &str, capture: &str, machines: Vec<StateMachine>) -> Self {
        Self { version: 1, owner: owner.into(), capture: capture.into(), machines }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let state: Self = serde_json::from_slice(bytes)
            .map_err(|error| PlatformError::NotFound(format!("this is not the state of a capture: {error}")))?;
        if state.version != 1 {
            return Err(PlatformError::NotFound(format!(
                "a capture's state of version {} is not known",
                state.version
            )));
        }
        Ok(state)
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        let bytes = serde_json::to_vec(self).map_err(|error| PlatformError::Failed(error.to_string()))?;
        if bytes.len() > STATE_BYTES_MAX {
            return Err(PlatformError::Unsupported("the group has too many disks with long names".into()));
        }
        Ok(bytes)
    }

    pub(crate) fn names(&self) -> Names {
        Names::new(&self.owner, &self.capture)
    }

    pub(crate) fn scope(&self) -> Scope<'_> {
        Scope { owner: &self.owner, capture: Some(&self.capture) }
    }
}

/// A state with which `end_capture` removes a capture of which only the names are known. Each machine with whether it was
/// off.
pub(crate) fn bare_state(owner: &str, capture: &str, machines: &BTreeMap<String, bool>) -> Result<Vec<u8>> {
    let machine = |(name, off): (&String, &bool)| StateMachine { name: name.clone(), off: *off, disks: Vec::new() };
    State::new(owner, capture, machines.iter().map(machine).collect()).to_bytes()
}
