//! Waiting with an end: every wait of this crate has a limit, and ends early when the operator asks to stop.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use farshore_core::{Clock, SystemClock};

use crate::error::DemoError;

/// How often something that cannot wake us is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// The operator's wish to stop, shared by everything that waits.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks everything that waits with this token to give up.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// # Errors
    /// Stopping was asked for.
    pub fn check(&self) -> Result<(), DemoError> {
        if self.0.load(Ordering::SeqCst) { Err(DemoError::Interrupted) } else { Ok(()) }
    }
}

/// The end of a wait.
#[derive(Debug, Clone)]
pub(crate) struct Deadline {
    limit: Duration,
    ends: Duration,
    stop: Stop,
}

impl Deadline {
    pub(crate) fn after(limit: Duration, stop: &Stop) -> Self {
        Self { limit, ends: SystemClock.monotonic().saturating_add(limit), stop: stop.clone() }
    }

    /// What is left; never zero, because sockets take that for "for ever".
    pub(crate) fn left(&self) -> Duration {
        self.ends.saturating_sub(SystemClock.monotonic()).max(Duration::from_millis(1))
    }

    /// # Errors
    /// The time is over, or stopping was asked for. `seen` tells what was there instead of what was awaited.
    pub(crate) fn check(&self, awaited: &str, seen: impl FnOnce() -> String) -> Result<(), DemoError> {
        self.stop.check()?;
        if SystemClock.monotonic() < self.ends {
            return Ok(());
        }
        let waited_seconds = self.limit.as_secs_f64();
        Err(DemoError::TooLate { awaited: awaited.to_owned(), waited_seconds, seen: seen() })
    }
}

/// Sleeps.
#[expect(clippy::disallowed_methods, reason = "this crate drives real processes, which no simulator owns")]
pub(crate) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
