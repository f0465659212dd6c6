//! The loop that repeats a group's cycle to its objective.
//!
//! A recovery point objective bounds the age of the newest committed point at every moment. Just before a cycle commits,
//! that age is the pause since the last instant plus the cycle's own length; so the next cycle begins early enough for
//! its expected length. What is achieved is measured from commits, and is not this module's to claim.

use std::time::Duration;

use farshore_core::GroupName;
use tokio_util::sync::CancellationToken;

use crate::{CycleReport, ReplicationError, Replicator};

/// The first pause after a failed cycle; each later one is twice as long.
const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause after a failed cycle.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);

/// How old the newest point of a group may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Objective {
    /// The recovery point objective.
    pub rpo: Duration,
}

impl Objective {
    /// How long after the start of a cycle that took `length` the next one begins. A tenth of the objective is kept free
    /// for the source, even when the objective cannot be met.
    fn pause(self, length: Duration) -> Duration {
        let expected = length + length / 2 + self.rpo / 20;
        self.rpo.saturating_sub(expected).max(length + self.rpo / 10)
    }
}

/// Hears what happens in the loop. It must return at once.
pub trait WatchObserver: Send + Sync {
    /// A cycle ended well.
    fn committed(&self, report: &CycleReport);

    /// A cycle failed for the `failures`th time in a row; the next try is after `pause`, or never if that is `None`.
    fn failed(&self, group: &GroupName, error: &ReplicationError, failures: u32, pause: Option<Duration>);
}

/// Repeats the cycle until `stop` is cancelled.
///
/// # Errors
/// The error that no later try can mend ([`ReplicationError::is_final`]), after it was told to the observer.
pub async fn watch(
    replicator: &Replicator,
    objective: Objective,
    observer: &dyn WatchObserver,
    stop: &CancellationToken,
) -> Result<(), ReplicationError> {
    let clock = &*replicator.clock;
    let mut failures = 0;
    while !stop.is_cancelled() {
        let started = clock.monotonic();
        let pause = match replicator.cycle(stop).await {
            Ok(report) => {
                failures = 0;
                observer.committed(&report);
                let length = clock.monotonic().saturating_sub(started);
                objective.pause(length).saturating_sub(length)
            }
            Err(ReplicationError::Stopped { .. }) if stop.is_cancelled() => break,
            Err(error) if error.is_final() => {
                observer.failed(&replicator.protection.group, &error, failures + 1, None);
                return Err(error);
            }
            Err(error) => {
                failures += 1;
                let doubled = RETRY_PAUSE_MIN.saturating_mul(1 << (failures - 1).min(6));
                let pause = doubled.min(RETRY_PAUSE_MAX).min(objective.rpo.max(RETRY_PAUSE_MIN));
                observer.failed(&replicator.protection.group, &error, failures, Some(pause));
                pause
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = clock.sleep(pause) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_cycle_begins_early_enough_for_its_length() {
        let objective = Objective { rpo: Duration::from_secs(5) };
        for length_milliseconds in [0, 50, 500, 1_500] {
            let length = Duration::from_millis(length_milliseconds);
            assert!(objective.pause(length) + length <= objective.rpo, "{length:?}");
            assert!(objective.pause(length) >= length, "{length:?}");
        }
        // An objective that cannot be met still leaves the source some peace.
        let length = Duration::from_secs(20);
        assert_eq!(objective.pause(length), length + Duration::from_millis(500));
    }
}
