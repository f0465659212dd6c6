//! How a call of a component ends: exactly one of ok, plugin error, refused, timed out, trapped.

use std::time::Duration;

use farshore_core::{Code, Coded, SiteName};
use serde::Serialize;

use crate::{Mode, Refusal, abi::PlatformError};

/// Which call it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Call {
    /// The component's name.
    pub component: String,
    /// The site that it served.
    pub site: SiteName,
    /// What it was instantiated for.
    pub mode: Mode,
    /// The function, as WIT names it: `source.begin-capture`.
    pub function: &'static str,
}

impl std::fmt::Display for Call {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { component, site, mode, function } = self;
        write!(formatter, "component {component} of site \"{site}\", {function} in mode {mode}")
    }
}

/// The five ways in which a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It gave its result.
    Ok,
    /// It gave an error of its own.
    PluginError,
    /// It wanted what it may not have.
    Refused,
    /// It did not end in time.
    TimedOut,
    /// It broke: it trapped, asked for too much, or answered with what the interface does not allow.
    Trapped,
}

/// A call that did not end well. Its instance is gone; the next call gets a fresh one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The component gave an error of its own.
    #[error("{call}: {}", sentence(.error))]
    Plugin {
        /// Which call it was.
        call: Box<Call>,
        /// What the component said.
        error: PlatformError,
    },
    /// The component wanted what it may not have.
    #[error("{refusal}")]
    Refused {
        /// Which call it was.
        call: Box<Call>,
        /// What it wanted, and what would grant it.
        refusal: Box<Refusal>,
    },
    /// The call did not end in time.
    #[error("{call}: it did not end within {} ms, {}", .limit.as_millis(), waiting(.waiting_for))]
    TimedOut {
        /// Which call it was.
        call: Box<Call>,
        /// How long it could have taken.
        limit: Duration,
        /// The host function that it was in, or none if its own code was running.
        waiting_for: Option<&'static str>,
    },
    /// The component broke.
    #[error("{call}: it broke: {reason}")]
    Trapped {
        /// Which call it was.
        call: Box<Call>,
        /// What happened, in the engine's words.
        reason: String,
    },
    /// The component answered with what the interface does not allow. The answer went no further.
    #[error("{call}: its answer is not allowed by the interface: {problem}")]
    Nonsense {
        /// Which call it was.
        call: Box<Call>,
        /// What is wrong with the answer.
        problem: String,
    },
    /// The component does not export the interface. Nothing was called.
    #[error("{call}: the component does not offer the interface {interface}")]
    NotExported {
        /// Which call it would have been.
        call: Box<Call>,
        /// The interface.
        interface: &'static str,
    },
}

impl CallError {
    /// Which call it was.
    pub const fn call(&self) -> &Call {
        match self {
            Self::Plugin { call, .. }
            | Self::Refused { call, .. }
            | Self::TimedOut { call, .. }
            | Self::Trapped { call, .. }
            | Self::Nonsense { call, .. }
            | Self::NotExported { call, .. } => call,
        }
    }

    /// Which of the five ways it ended in. A missing interface counts as the plugin error `unsupported`.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Plugin { .. } | Self::NotExported { .. } => Outcome::PluginError,
            Self::Refused { .. } => Outcome::Refused,
            Self::TimedOut { .. } => Outcome::TimedOut,
            Self::Trapped { .. } | Self::Nonsense { .. } => Outcome::Trapped,
        }
    }

    /// The component's own error, if it gave one.
    pub const fn platform_error(&self) -> Option<&PlatformError> {
        match self {
            Self::Plugin { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// The component's sentence, with its kind.
fn sentence(error: &PlatformError) -> String {
    let (kind, text) = match error {
        PlatformError::Settings(text) => ("the settings cannot work", text),
        PlatformError::NotFound(text) => ("not found", text),
        PlatformError::Unreachable(text) => ("unreachable", text),
        PlatformError::Conflict(text) => ("conflict", text),
        PlatformError::CaptureBroken(text) => ("the capture no longer holds its instant", text),
        PlatformError::Unsupported(text) => ("unsupported", text),
        PlatformError::Failed(text) => ("failed", text),
    };
    format!("{kind}: {text}")
}

fn waiting(waiting_for: &Option<&'static str>) -> String {
    waiting_for.map_or_else(|| "and its own code was running".to_owned(), |what| format!("and was waiting in {what}"))
}

impl Coded for CallError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::Plugin { .. } => 2101,
            Self::Refused { .. } => 2102,
            Self::TimedOut { .. } => 2103,
            Self::Trapped { .. } => 2104,
            Self::Nonsense { .. } => 2105,
            Self::NotExported { .. } => 2106,
        })
    }

    fn advice(&self) -> Option<String> {
        match self {
            Self::Plugin { error: PlatformError::Settings(_), call } => {
                Some(format!("Mend the settings of the site \"{}\", then run `farshore config check`.", call.site))
            }
            Self::Plugin { error: PlatformError::Unreachable(_), .. } => {
                Some("Check that the platform runs and that the address in the settings is right.".to_owned())
            }
            Self::Refused { .. } => Some(
                "Grant it only if this component should have it in this mode; otherwise look at why it asks."
                    .to_owned(),
            ),
            _ => None,
        }
    }
}
