//! Who hears what a component says while a call runs.

use serde::Serialize;

use crate::{Call, Refusal};

/// How important a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// For the component's author.
    Debug,
    /// For the operator's record.
    Info,
    /// The operator should look, though nothing has failed.
    Warn,
}

/// How far a call has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Progress {
    /// What is being done, in a few words.
    pub doing: String,
    /// How much is done, in the unit that the words imply.
    pub done: u64,
    /// How much there is in all, when it is known.
    pub total: Option<u64>,
}

/// Hears what a component says. It is called while the component waits, so it must return soon and must not block.
/// Lines and words are limited and free of control characters already.
pub trait Observer: Send + Sync {
    /// A line of the component's log.
    fn log(&self, call: &Call, level: LogLevel, line: &str);

    /// How far the call has come; it replaces what was said before.
    fn progress(&self, call: &Call, progress: &Progress);

    /// The component wanted what it may not have; its call ends.
    fn refused(&self, call: &Call, refusal: &Refusal);
}

/// Passes on what a component says to the host's own log.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogObserver;

impl Observer for LogObserver {
    fn log(&self, call: &Call, level: LogLevel, line: &str) {
        let Call { component, site, mode, function } = call;
        match level {
            LogLevel::Debug => tracing::debug!(%component, %site, %mode, %function, "{line}"),
            LogLevel::Info => tracing::info!(%component, %site, %mode, %function, "{line}"),
            LogLevel::Warn => tracing::warn!(%component, %site, %mode, %function, "{line}"),
        }
    }

    fn progress(&self, call: &Call, progress: &Progress) {
        let Call { component, site, mode, function } = call;
        let Progress { doing, done, total } = progress;
        tracing::debug!(%component, %site, %mode, %function, doing, done, total, "progress");
    }

    fn refused(&self, call: &Call, refusal: &Refusal) {
        tracing::warn!(function = %call.function, "{refusal}");
    }
}
