//! How telling fails. No sentence holds a secret, or of a webhook's address more than the host.

use std::{error::Error as StdError, time::Duration};

use farshore_core::{Code, Coded};

/// Why an event did not reach its target.
#[derive(Debug, thiserror::Error)]
pub enum AlertError {
    /// The target contradicts itself or its secret. It was never contacted.
    #[error("{target} cannot be used: {why}")]
    Unusable {
        /// The target.
        target: String,
        /// Why.
        why: String,
    },
    /// Nothing listens, the name is not known, TLS failed, or the connection broke.
    #[error("{target} cannot be reached: {}", deepest(&**source))]
    Unreachable {
        /// The target.
        target: String,
        /// What the system said.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// It took too long.
    #[error("{target} did not take the event within {} ms", limit.as_millis())]
    TimedOut {
        /// The target.
        target: String,
        /// How long was waited.
        limit: Duration,
    },
    /// A webhook answered with another status than 2xx.
    #[error("{target} answered with status {status}{}", quoted(said))]
    Status {
        /// The target.
        target: String,
        /// The status.
        status: u16,
        /// The beginning of the answer, without control characters and secrets.
        said: String,
    },
    /// A mail server refused the sender, a recipient, the password or the mail. The error that it came in is not kept,
    /// because it holds the answer as it was.
    #[error("{target} refused the mail with {status}{}", quoted(said))]
    MailRefused {
        /// The target.
        target: String,
        /// The reply code: 4xx for now, 5xx for good.
        status: u16,
        /// The beginning of the answer, without control characters and secrets.
        said: String,
    },
}

impl AlertError {
    /// Another try cannot succeed before somebody changes something.
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Unusable { .. } => true,
            Self::Unreachable { .. } | Self::TimedOut { .. } => false,
            // Too slow, too early, too many: those are about this try. A redirect is not followed, so it stays one.
            Self::Status { status, .. } => matches!(*status, 300..=499) && !matches!(*status, 408 | 425 | 429),
            Self::MailRefused { status, .. } => *status >= 500,
        }
    }

    /// The target was tried and did not answer, so that it would not have taken another event either.
    pub(crate) const fn is_silence(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. })
    }
}

impl Coded for AlertError {
    fn code(&self) -> Code {
        match self {
            Self::Unusable { .. } => Code::new(6300),
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Status { .. } | Self::MailRefused { .. } => {
                Code::new(6301)
            }
        }
    }
}

/// The innermost cause, which says what happened and not only that something did.
fn deepest(error: &(dyn StdError + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

fn quoted(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}
