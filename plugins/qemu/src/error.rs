//! How an error of the host or of QEMU becomes a sentence for the operator.

use std::fmt;

use crate::ports::HostError;

pub use crate::bindings::farshore::platform::model::PlatformError;

/// What the adapter's functions return.
pub type Result<T> = std::result::Result<T, PlatformError>;

/// The sentence of a host error.
pub fn sentence(error: &HostError) -> &str {
    match error {
        HostError::NotFound(text)
        | HostError::Unreachable(text)
        | HostError::TimedOut(text)
        | HostError::Conflict(text)
        | HostError::Invalid(text)
        | HostError::Limit(text)
        | HostError::NoSpace(text)
        | HostError::Failed(text) => text,
    }
}

/// A host error in the middle of something, which is named.
pub fn while_doing(doing: impl fmt::Display, error: &HostError) -> PlatformError {
    let text = format!("{doing}: {}", sentence(error));
    match error {
        HostError::Unreachable(_) | HostError::TimedOut(_) => PlatformError::Unreachable(text),
        HostError::Conflict(_) => PlatformError::Conflict(text),
        _ => PlatformError::Failed(text),
    }
}

/// The sentence of a platform error.
pub fn platform_sentence(error: &PlatformError) -> &str {
    match error {
        PlatformError::Settings(text)
        | PlatformError::NotFound(text)
        | PlatformError::Unreachable(text)
        | PlatformError::Conflict(text)
        | PlatformError::CaptureBroken(text)
        | PlatformError::Unsupported(text)
        | PlatformError::Failed(text) => text,
    }
}
