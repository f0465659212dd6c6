//! What a component says of itself, before any of it runs.
//!
//! A component carries its manifest as TOML in a custom section named `farshore-manifest`, at the component's own level
//! (sections inside the modules it contains do not count). A permission needs two yeses: the operator's, in a grant, and
//! the component's, here. So an update of a component that suddenly wants more is refused until the operator has seen it.
//!
//! ```toml
//! name = "qemu"
//! version = "0.1.0"
//! wit = "0.1.0-draft.5"
//!
//! [wants.protect]
//! unix = true
//! nbd = true
//! files = "read-write"
//!
//! [wants.drill]
//! files = "read-write"
//! programs = ["create-disk", "start-machine"]
//! ```

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use wasmparser::{Parser, Payload};

use crate::{Access, Mode, limits::MANIFEST_BYTES_MAX};

/// The name of the custom section.
pub const SECTION: &str = "farshore-manifest";

/// What a component says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Manifest {
    /// `[a-z0-9-]`, at most 64 characters.
    pub name: String,
    /// Semantic version of the component.
    pub version: String,
    /// Version of the `farshore:platform` package that it was built against.
    pub wit: String,
    /// What it may want, by mode.
    #[serde(default)]
    pub wants: WantsByMode,
}

/// What a component may want, by mode.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct WantsByMode {
    /// For looking.
    #[serde(default)]
    pub observe: Wants,
    /// For protecting.
    #[serde(default)]
    pub protect: Wants,
    /// For a test failover.
    #[serde(default)]
    pub drill: Wants,
    /// For a real failover.
    #[serde(default)]
    pub live: Wants,
}

impl WantsByMode {
    /// What it may want in one mode.
    pub const fn for_mode(&self, mode: Mode) -> &Wants {
        match mode {
            Mode::Observe => &self.observe,
            Mode::Protect => &self.protect,
            Mode::Drill => &self.drill,
            Mode::Live => &self.live,
        }
    }
}

/// What a component may want in one mode.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Wants {
    /// Streams to unix sockets.
    #[serde(default)]
    pub unix: bool,
    /// Streams to TCP ports.
    #[serde(default)]
    pub tcp: bool,
    /// Disks behind NBD servers.
    #[serde(default)]
    pub nbd: bool,
    /// Files in folders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Access>,
    /// HTTP APIs, by the names of their endpoints.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub endpoints: BTreeSet<String>,
    /// Programs, by the names of their templates.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub programs: BTreeSet<String>,
}

/// A manifest that is not one.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The bytes are not a component that can be read.
    #[error("the file is not a WebAssembly component: {0}")]
    NotAComponent(#[source] wasmparser::BinaryReaderError),
    /// The bytes are a core module.
    #[error("the file is a WebAssembly module, not a component")]
    Module,
    /// There is no manifest.
    #[error("the component has no section `{SECTION}`")]
    Missing,
    /// There are several.
    #[error("the component has more than one section `{SECTION}`")]
    Several,
    /// It is larger than 64 KiB, or not UTF-8.
    #[error("the component's manifest {0}")]
    Unreadable(&'static str),
    /// It is not the TOML that it should be.
    #[error("the component's manifest is wrong: {0}")]
    Toml(#[source] toml::de::Error),
    /// A value in it is not allowed.
    #[error("the component's manifest is wrong: {field} is {value:?}, but {rule}")]
    Value {
        /// Which value.
        field: &'static str,
        /// The value, cut to 64 characters.
        value: String,
        /// What it has to be.
        rule: &'static str,
    },
}

impl Manifest {
    /// Reads the manifest out of a component.
    ///
    /// # Errors
    /// When the bytes are not a component, or its manifest is missing or wrong.
    pub fn of_component(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut found = None;
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(ManifestError::NotAComponent)? {
                Payload::Version { encoding: wasmparser::Encoding::Module, .. } if depth == 0 => {
                    return Err(ManifestError::Module);
                }
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth = depth.saturating_add(1),
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::CustomSection(section) if depth == 0 && section.name() == SECTION => {
                    let earlier = found.replace(section.data());
                    earlier.map_or(Ok(()), |_| Err(ManifestError::Several))?;
                }
                _ => {}
            }
        }
        Self::from_section(found.ok_or(ManifestError::Missing)?)
    }

    fn from_section(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::Unreadable("is larger than 64 KiB"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| ManifestError::Unreadable("is not UTF-8"))?;
        let manifest: Self = toml::from_str(text).map_err(ManifestError::Toml)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let wrong = |field, value: &str, rule| {
            Err(ManifestError::Value { field, value: value.chars().take(64).collect(), rule })
        };
        if !is_name(&self.name) {
            return wrong("name", &self.name, "a name is 1 to 64 of a-z, 0-9 and -");
        }
        for (field, value) in [("version", &self.version), ("wit", &self.wit)] {
            if value.is_empty() || value.len() > 64 || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
                return wrong(field, value, "a version is 1 to 64 printable characters");
            }
        }
        for mode in Mode::ALL {
            let wants = self.wants.for_mode(mode);
            for (field, names) in [("programs", &wants.programs), ("endpoints", &wants.endpoints)] {
                if let Some(name) = names.iter().find(|name| !is_name(name)) {
                    return wrong(field, name, "a name is 1 to 64 of a-z, 0-9 and -");
                }
            }
        }
        Ok(())
    }
}

/// Whether a text is 1 to 64 of `[a-z0-9-]`.
pub(crate) fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= 64 && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests;
