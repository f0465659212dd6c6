//! The loop that repeats the cycles of many groups, each to its objective.
//!
//! Whose turn it is says [`Schedule`]. What is achieved is measured from commits, and is not this module's to claim.

use std::{collections::BTreeMap, time::Duration};

use farshore_core::{Clock, GroupName};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;

use crate::{
    CycleReport, ReplicationError, Replicator,
    schedule::{CycleEnd, Schedule, Turns},
};

/// Hears what happens in the loop. It must return at once.
pub trait WatchObserver: Send + Sync {
    /// A cycle ended well. It had been due for `waited` before there was a place for it.
    fn committed(&self, report: &CycleReport, waited: Duration);

    /// A cycle failed for the `failures`th time in a row; the next try is after `pause`, or never if that is `None`.
    fn failed(&self, group: &GroupName, error: &ReplicationError, failures: u32, pause: Option<Duration>);
}

/// A group of the loop.
pub struct Watched {
    /// What replicates it.
    pub replicator: Replicator,
    /// How its turns are given.
    pub turns: Turns,
}

/// Repeats the cycles until `stop` is cancelled, or no later try can help any of the groups
/// ([`ReplicationError::is_final`]). Returns those that none can help. `schedule` has the limits, and no groups.
pub async fn watch(
    groups: Vec<Watched>,
    mut schedule: Schedule,
    clock: &dyn Clock,
    observer: &dyn WatchObserver,
    stop: &CancellationToken,
) -> Vec<GroupName> {
    let mut replicators = BTreeMap::new();
    for Watched { replicator, turns } in groups {
        replicators.insert(schedule.add(&turns, clock.monotonic()), replicator);
    }
    let (mut running, mut failed) = (FuturesUnordered::new(), Vec::new());
    loop {
        while !stop.is_cancelled()
            && let Some(begun) = schedule.begin(clock.monotonic())
        {
            let replicator = replicators.get(&begun.member);
            running.extend(replicator.map(|replicator| async move { (begun, replicator.cycle(stop).await) }));
        }
        if running.is_empty() && (stop.is_cancelled() || schedule.is_empty()) {
            return failed;
        }
        let next_due = schedule.wakes_at().filter(|_| !stop.is_cancelled());
        let pause = next_due.map_or(Duration::MAX, |due| due.saturating_sub(clock.monotonic()));
        tokio::select! {
            Some((begun, result)) = running.next(), if !running.is_empty() => {
                let end = match &result {
                    Ok(_) => CycleEnd::Committed,
                    Err(error) if error.is_final() => CycleEnd::Final,
                    Err(_) => CycleEnd::Failed,
                };
                let pause = schedule.end(begun.member, end, clock.monotonic());
                match result {
                    Ok(report) => observer.committed(&report, begun.waited),
                    Err(ReplicationError::Stopped { .. }) if stop.is_cancelled() => {}
                    Err(error) => {
                        let Some(replicator) = replicators.get(&begun.member) else { continue };
                        let group = &replicator.protection.group;
                        let failures = schedule.failures(begun.member).saturating_add(u32::from(pause.is_none()));
                        observer.failed(group, &error, failures, pause);
                        failed.extend(pause.is_none().then(|| group.clone()));
                    }
                }
            }
            () = clock.sleep(pause), if next_due.is_some() => {}
            () = stop.cancelled(), if !stop.is_cancelled() => {}
        }
    }
}
