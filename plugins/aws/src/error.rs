//! How an error of the host, of EC2, of EBS direct or of Service Quotas becomes a sentence for the operator.

use std::fmt;

use crate::ports::HostError;

pub use crate::bindings::farshore::platform::model::PlatformError;

const SENTENCE_BYTES_MAX: usize = 2_000;

/// What the adapter's functions return.
pub type Result<T> = std::result::Result<T, PlatformError>;

/// What says that later it may work.
const THROTTLES: [&str; 7] = [
    "ConcurrentLimitExceededException",
    "RequestLimitExceeded",
    "RequestThrottledException",
    "SnapshotCreationPerVolumeRateExceeded",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
];

/// Why a call of an API did not do what it should.
#[derive(Debug, Clone, PartialEq)]
pub enum ApiError {
    /// There is no answer. Whether it was carried out nobody knows.
    Unanswered(HostError),
    /// The service refused it, and did nothing.
    Refused {
        /// HTTP's.
        status: u16,
        /// The service's word for it.
        code: String,
        /// The service's sentence.
        message: String,
    },
    /// The service failed in the middle of it, or what it answered cannot be read. Whether it was carried out nobody knows.
    Unclear {
        /// The service's word for it; empty if there is none.
        code: String,
        /// A sentence.
        message: String,
    },
}

impl ApiError {
    /// The service's word for its refusal.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } | Self::Unclear { code, .. } => code,
            Self::Unanswered(_) => "",
        }
    }

    /// The service knows no such thing, at least not yet or not any more.
    pub fn is_not_found(&self) -> bool {
        let code = self.code();
        // A snapshot whose key may not be used is there all the same.
        let is_dependency = matches!(self, Self::Refused { message, .. } if message.contains("(DEPENDENCY_"));
        code.ends_with(".NotFound") || (code == "ResourceNotFoundException" && !is_dependency)
    }

    /// The credential's policies do not allow it.
    pub fn is_denied(&self) -> bool {
        ["AccessDenied", "AccessDeniedException", "UnauthorizedOperation"].contains(&self.code())
    }

    /// It may have been carried out all the same.
    pub fn may_have_been_done(&self) -> bool {
        match self {
            // The request never left, so that nothing can have come of it.
            Self::Unanswered(HostError::Invalid(_) | HostError::Failed(_)) | Self::Refused { .. } => false,
            Self::Unanswered(_) | Self::Unclear { .. } => true,
        }
    }

    /// Too much was asked; later it may work.
    pub fn is_throttled(&self) -> bool {
        matches!(self, Self::Refused { status: 429 | 503, .. }) || THROTTLES.contains(&self.code())
    }

    /// Nothing is wrong with what was asked: another time it may be answered.
    pub fn may_pass(&self) -> bool {
        self.may_have_been_done() || self.is_throttled()
    }

    /// In the middle of something, which is named.
    pub fn while_doing(&self, doing: impl fmt::Display) -> PlatformError {
        match self {
            Self::Unanswered(error) => {
                let text = told(&format!("{doing}: {}", sentence(error)));
                match error {
                    HostError::Unreachable(_) | HostError::TimedOut(_) => PlatformError::Unreachable(text),
                    HostError::Conflict(_) => PlatformError::Conflict(text),
                    _ => PlatformError::Failed(text),
                }
            }
            Self::Unclear { message, .. } => PlatformError::Unreachable(told(&format!("{doing}: {message}"))),
            Self::Refused { code, message, .. } => {
                // What follows is of no use to people, and may have kilobytes.
                let message = message.split("Encoded authorization failure message").next().unwrap_or_default();
                let text = told(&format!("{doing}: {code}: {message}"));
                if code == "ConflictException" {
                    PlatformError::Conflict(text)
                } else if self.is_not_found() {
                    PlatformError::NotFound(text)
                } else if self.is_throttled() {
                    PlatformError::Unreachable(text)
                } else {
                    PlatformError::Failed(text)
                }
            }
        }
    }
}

/// A sentence as the host takes it.
fn told(text: &str) -> String {
    shortened(&printable(text), SENTENCE_BYTES_MAX)
}

/// A text without control characters.
pub fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

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
pub fn while_doing(doing: impl fmt::Display, error: HostError) -> PlatformError {
    ApiError::Unanswered(error).while_doing(doing)
}

/// A state that is none.
pub fn no_state(of: &str, why: impl fmt::Display) -> PlatformError {
    PlatformError::NotFound(format!("this is not the state of {of}: {why}"))
}

/// A text that fits, for what has a limit of so many bytes.
pub fn shortened(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = (0..=bytes_max.saturating_sub(3)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}...", text.get(..end).unwrap_or_default())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_may_not_be_used_is_no_missing_snapshot() {
        let refused = |code: &str, message: &str| ApiError::Refused {
            status: 404,
            code: code.to_owned(),
            message: message.to_owned(),
        };
        assert!(
            refused("ResourceNotFoundException", "The snapshot does not exist (SNAPSHOT_NOT_FOUND)").is_not_found()
        );
        assert!(refused("InvalidSnapshot.NotFound", "").is_not_found());
        let key = refused("ResourceNotFoundException", "The key cannot be used (DEPENDENCY_RESOURCE_NOT_FOUND)");
        assert!(!key.is_not_found() && !key.is_denied());
    }
}
