//! What a component is instantiated for.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What a component is instantiated for; it decides what is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Looking: what machines there are.
    Observe,
    /// Protecting machines, at the source.
    Protect,
    /// A test failover, which must not reach the source or a production network.
    Drill,
    /// A real failover.
    Live,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 4] = [Self::Observe, Self::Protect, Self::Drill, Self::Live];

    /// Its word in TOML.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Protect => "protect",
            Self::Drill => "drill",
            Self::Live => "live",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// A word that is not a mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a mode: expected observe, protect, drill or live")]
pub struct ModeError(String);

impl FromStr for Mode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| ModeError(text.chars().take(64).collect()))
    }
}
