//! How exporting fails. No sentence holds a header's value, or of the collector's address more than the host.

use std::{error::Error as StdError, time::Duration};

use farshore_core::{Code, Coded};

/// Why spans did not reach the collector.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The target contradicts itself or its headers. It was never contacted.
    #[error("{collector} cannot be used: {why}")]
    Unusable {
        /// The collector.
        collector: String,
        /// Why.
        why: String,
    },
    /// Nothing listens, the name is not known, TLS failed, or the connection broke.
    #[error("{collector} cannot be reached: {}", deepest(&**source))]
    Unreachable {
        /// The collector.
        collector: String,
        /// What the system said.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// It took too long.
    #[error("{collector} did not take the spans within {} ms", limit.as_millis())]
    TimedOut {
        /// The collector.
        collector: String,
        /// How long was waited.
        limit: Duration,
    },
    /// It answered with another status than 2xx.
    #[error("{collector} answered with status {status}{}", quoted(said))]
    Status {
        /// The collector.
        collector: String,
        /// The status.
        status: u16,
        /// How long it wants to be left alone, if it said so.
        retry_after: Option<Duration>,
        /// The beginning of the answer, without control characters and secrets.
        said: String,
    },
    /// It took the request, and has something to say: it rejected spans, or, if none, it warns.
    #[error("{collector} took the request, but rejected {rejected_spans} spans of it{}", quoted(said))]
    Partly {
        /// The collector.
        collector: String,
        /// How many it did not take.
        rejected_spans: u64,
        /// Why, without control characters and secrets.
        said: String,
    },
}

impl TelemetryError {
    /// The same spans are not worth another try. Which statuses are, the protocol says (OTLP 1.x, "Retryable Response
    /// Codes").
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Unusable { .. } | Self::Partly { .. } => true,
            Self::Unreachable { .. } | Self::TimedOut { .. } => false,
            Self::Status { status, .. } => !matches!(*status, 429 | 502 | 503 | 504),
        }
    }
}

impl Coded for TelemetryError {
    fn code(&self) -> Code {
        match self {
            Self::Unusable { .. } => Code::new(6500),
            _ if self.is_final() => Code::new(6502),
            _ => Code::new(6501),
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
