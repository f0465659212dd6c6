//! Machines that cannot be captured, and what becomes of the others.
//!
//! *By policy.* Without [`Suspensions`] a point is all or nothing: a machine that fails, fails its group's cycle. With them it is
//! *suspended*: the cycle captures the others, and the point has of this machine what the point before it has, with the time at
//! which that was captured. So every point still recovers the whole group, and says how far each machine is behind. A machine of which no point
//! has anything yet is left out. The last machine of a group is never suspended: then the cycle fails.
//!
//! *Who failed.* Sites say what failed, and not always which machine. One that is missing, or whose disk cannot be read, is known. If
//! a capture of several cannot begin, those are left out first that were suspended before and were to come back, then those that the platform does not
//! reach; then each machine is tried alone, and its capture released at once. A failure that no machine fails with alone is the group's.
//!
//! *Coming back.* A suspended machine is tried again with the others after a pause that doubles from ten seconds to ten minutes, so that one that
//! makes its site wait makes the others wait seldom; and at once if somebody asks for a point. Its change tracking goes on meanwhile: what leads from the part that the points
//! have is named in each request. One that is only missing is looked for in each cycle.
//!
//! *An application-consistent point* of a schedule of its own is all or nothing: if it fails, an ordinary one takes its place.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use farshore_core::{Code, Coded as _, Consistency, Machine, MachineId, PowerState};
use farshore_platform::CaptureOutcome;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    CaptureJournal, CycleEvent, ReplicationError, Replicator, Wishes,
    before::Before,
    cycle::{AdapterMeter, Capture},
    error::chain,
};

/// What becomes of a group when one of its machines cannot be captured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailingMachine {
    /// It has no point until the machine can be captured again.
    #[default]
    StopGroup,
    /// The machine is suspended, and the others go on.
    Suspend,
}

/// The machines of a group that are suspended, as long as a process lives. Another finds out anew.
#[derive(Debug, Default)]
pub struct Suspensions(Mutex<BTreeMap<MachineId, Suspended>>);

#[derive(Debug)]
struct Suspended {
    since: Duration,
    failures: u32,
    /// When it is tried again, by the clock that is never put back.
    next_try: Duration,
}

const PAUSE_MIN: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(600);

impl Suspensions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<MachineId, Suspended>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a machine is not to be tried yet.
    fn pauses(&self, machine: &MachineId, now: Duration) -> bool {
        self.lock().get(machine).is_some_and(|suspended| now < suspended.next_try)
    }

    /// A machine has failed, and is tried again after a pause; or is missing, and is looked for all the time. Whether it was not suspended
    /// before.
    fn failed(&self, machine: &MachineId, is_missing: bool, now: Duration) -> bool {
        let mut all = self.lock();
        let is_new = !all.contains_key(machine);
        let known = all.entry(machine.clone());
        let suspended = known.or_insert(Suspended { since: now, failures: 0, next_try: now });
        if !is_missing {
            let pause = PAUSE_MIN.saturating_mul(1 << suspended.failures.min(8)).min(PAUSE_MAX);
            suspended.failures = suspended.failures.saturating_add(1);
            suspended.next_try = now.saturating_add(pause);
        }
        is_new
    }

    fn has(&self, machine: &MachineId) -> bool {
        self.lock().contains_key(machine)
    }

    /// A machine is part of a point again. For how long it was not, if it was suspended.
    fn returned(&self, machine: &MachineId, now: Duration) -> Option<Duration> {
        self.lock().remove(machine).map(|suspended| now.saturating_sub(suspended.since))
    }

    /// Forgets those that have left the group.
    fn retain(&self, machines: &[MachineId]) {
        self.lock().retain(|machine, _| machines.contains(machine));
    }
}

/// Which machines a cycle captures, and which it leaves out.
#[derive(Debug, Clone)]
pub(crate) struct Cast {
    pub machines: Vec<Machine>,
    left_out: Vec<MachineId>,
}

impl Cast {
    fn ids(&self) -> Vec<MachineId> {
        self.machines.iter().map(|machine| machine.id.clone()).collect()
    }

    /// Those that are left out, and of which the point before has something.
    pub fn suspended(&self, before: Option<&Before>) -> Vec<MachineId> {
        let has = |machine: &&MachineId| before.is_some_and(|before| before.has(machine));
        self.left_out.iter().filter(has).cloned().collect()
    }

    /// What the operator should know of a point without them; empty if none is left out.
    pub fn note(&self) -> String {
        const NAMED_MAX: usize = 10;
        if self.left_out.is_empty() {
            return String::new();
        }
        let names: Vec<&str> = self.left_out.iter().take(NAMED_MAX).map(MachineId::as_str).collect();
        let more = match self.left_out.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("without {}{more}, which could not be captured", names.join(", "))
    }

    fn leave_out(&mut self, machine: &MachineId) {
        self.machines.retain(|kept| kept.id != *machine);
        self.left_out.push(machine.clone());
    }
}

/// A machine that cannot be captured.
struct Failing {
    machine: MachineId,
    code: Code,
    /// Why, with its causes.
    why: String,
    /// Its site does not have it, or does not say what it is.
    is_missing: bool,
}

impl Failing {
    fn new(machine: &MachineId, error: &ReplicationError) -> Self {
        Self { machine: machine.clone(), code: error.code(), why: chain(error), is_missing: false }
    }
}

impl Replicator {
    /// Chooses what is captured, and captures it.
    pub(crate) async fn capture(
        &self,
        journal: &mut CaptureJournal,
        before: Option<&Before>,
        wishes: &Wishes,
        meter: &mut AdapterMeter<'_>,
        stop: &CancellationToken,
    ) -> Result<(Capture, Cast), ReplicationError> {
        let mut cast = self.cast(before, wishes, meter).await?;
        loop {
            let error = match self.begin_capture(journal, before, &cast.ids(), wishes, meter, stop).await {
                Ok(capture) => return Ok((capture, cast)),
                Err(error) => error,
            };
            let failing = self.find_failing(&error, &cast, journal, before, wishes, meter, stop).await?;
            if failing.is_empty() {
                return Err(error);
            }
            for failing in failing {
                self.suspend(&failing, before);
                cast.leave_out(&failing.machine);
            }
        }
    }

    /// The machines that can be asked for, and are not suspended.
    async fn cast(
        &self,
        before: Option<&Before>,
        wishes: &Wishes,
        meter: &mut AdapterMeter<'_>,
    ) -> Result<Cast, ReplicationError> {
        let known =
            meter.time(self.source.machines()).await.map_err(|source| self.site_error("listing machines", source))?;
        let wanted = &self.protection.machines;
        let Some(suspensions) = &self.suspensions else {
            let machines = wanted.iter().map(|id| self.describe(&known, before, id)).collect::<Result<_, _>>()?;
            return Ok(Cast { machines, left_out: Vec::new() });
        };
        suspensions.retain(wanted);
        let now = self.clock.monotonic();
        let described: Vec<_> = wanted.iter().map(|id| (id, self.describe(&known, before, id))).collect();
        let pauses = |id: &MachineId| !wishes.is_asked && suspensions.pauses(id, now);
        // If all pause, because others have left the group, each is tried.
        let may_pause = described.iter().any(|(id, machine)| machine.is_ok() && !pauses(id));
        let (mut cast, mut failed) = (Cast { machines: Vec::new(), left_out: Vec::new() }, Vec::new());
        for (id, machine) in described {
            match machine {
                Ok(_) if may_pause && pauses(id) => cast.left_out.push(id.clone()),
                Ok(machine) => cast.machines.push(machine),
                Err(error) => failed.push((id, error)),
            }
        }
        if cast.machines.is_empty()
            && let Some((_, error)) = failed.pop()
        {
            return Err(error);
        }
        for (id, error) in failed {
            self.suspend(&Failing { is_missing: true, ..Failing::new(id, &error) }, before);
            cast.left_out.push(id.clone());
        }
        Ok(cast)
    }

    /// A machine as its site lists it. One that is off, and of which the site knows no more, is described by the point before.
    fn describe(
        &self,
        known: &[Machine],
        before: Option<&Before>,
        id: &MachineId,
    ) -> Result<Machine, ReplicationError> {
        let Some(machine) = known.iter().find(|machine| machine.id == *id) else {
            let (group, site) = (self.protection.group.clone(), self.source.site().clone());
            return Err(ReplicationError::MachineMissing { group, site, machine: id.clone() });
        };
        if machine.power != PowerState::Off || machine.cpus > 0 || !machine.disks.is_empty() {
            return Ok(machine.clone());
        }
        let described = before.and_then(|before| before.machine(id));
        let described = described.ok_or_else(|| ReplicationError::MachineUndescribed {
            group: self.protection.group.clone(),
            site: self.source.site().clone(),
            machine: id.clone(),
        })?;
        Ok(Machine { power: PowerState::Off, ..described.clone() })
    }

    /// Which machines are to blame that a capture of these could not begin; none if nobody knows.
    #[expect(clippy::too_many_arguments, reason = "they are a cycle's own, at their places")]
    async fn find_failing(
        &self,
        error: &ReplicationError,
        cast: &Cast,
        journal: &mut CaptureJournal,
        before: Option<&Before>,
        wishes: &Wishes,
        meter: &mut AdapterMeter<'_>,
        stop: &CancellationToken,
    ) -> Result<Vec<Failing>, ReplicationError> {
        let Some(suspensions) = &self.suspensions else { return Ok(Vec::new()) };
        let is_all_or_nothing = wishes.consistency == Some(Consistency::Application) || cast.machines.len() < 2;
        if is_all_or_nothing || !matches!(error, ReplicationError::Site { .. }) {
            return Ok(Vec::new());
        }
        let some_of = |failing: Vec<Failing>| (1..cast.machines.len()).contains(&failing.len()).then_some(failing);
        let came_back = cast.machines.iter().filter(|machine| suspensions.has(&machine.id));
        if let Some(came_back) = some_of(came_back.map(|machine| Failing::new(&machine.id, error)).collect()) {
            return Ok(came_back);
        }
        let unreached = cast.machines.iter().filter(|machine| machine.power == PowerState::Unknown).map(|machine| {
            let (group, site) = (self.protection.group.clone(), self.source.site().clone());
            let machine = machine.id.clone();
            Failing::new(&machine.clone(), &ReplicationError::MachineUnreached { group, site, machine })
        });
        if let Some(unreached) = some_of(unreached.collect()) {
            return Ok(unreached);
        }
        let mut failing = Vec::new();
        for id in cast.ids() {
            match self.try_alone(journal, before, &id, wishes, meter, stop).await {
                Ok(()) => {}
                Err(error @ ReplicationError::Site { .. }) => failing.push(Failing::new(&id, &error)),
                Err(error) => return Err(error),
            }
        }
        Ok(some_of(failing).unwrap_or_default())
    }

    /// Whether a capture of one machine can begin.
    async fn try_alone(
        &self,
        journal: &mut CaptureJournal,
        before: Option<&Before>,
        machine: &MachineId,
        wishes: &Wishes,
        meter: &mut AdapterMeter<'_>,
        stop: &CancellationToken,
    ) -> Result<(), ReplicationError> {
        if stop.is_cancelled() {
            return Err(ReplicationError::Stopped { group: self.protection.group.clone() });
        }
        let machines = std::slice::from_ref(machine);
        match self.begin_capture(journal, before, machines, wishes, meter, stop).await {
            Ok(capture) => {
                self.release(journal, &capture, CaptureOutcome::Abandoned, meter).await;
                Ok(())
            }
            Err(error) => {
                // What these may have left is looked for by its tag as long as the journal has one of them.
                let unanswered = journal.entries().iter().filter(|entry| entry.state.is_none()).skip(1);
                for entry in unanswered.cloned().collect::<Vec<_>>() {
                    self.forget(journal, &entry);
                }
                Err(error)
            }
        }
    }

    /// Suspends a machine, and says so if it is new.
    fn suspend(&self, failing: &Failing, before: Option<&Before>) {
        let Some(suspensions) = &self.suspensions else { return };
        let Failing { machine, code, why, is_missing } = failing;
        if suspensions.failed(machine, *is_missing, self.clock.monotonic()) {
            self.observer.event(CycleEvent::Suspended {
                machine: machine.clone(),
                code: *code,
                why: why.clone(),
                captured_at: before.and_then(|before| before.captured(machine)),
            });
        }
    }

    /// Suspends the machine with which a cycle failed, if that is known and the group has others: the next cycle goes without it.
    pub(crate) fn suspend_culprit(
        &self,
        error: ReplicationError,
        cast: &Cast,
        before: Option<&Before>,
    ) -> ReplicationError {
        let culprit = error.machine().filter(|_| self.suspensions.is_some() && cast.machines.len() > 1);
        let Some(machine) = culprit.cloned() else { return error };
        self.suspend(&Failing::new(&machine, &error), before);
        let group = self.protection.group.clone();
        ReplicationError::Suspending { group, machine, source: Box::new(error) }
    }

    /// What was captured is part of a point.
    pub(crate) fn returned(&self, cast: &Cast) {
        let Some(suspensions) = &self.suspensions else { return };
        let now = self.clock.monotonic();
        for machine in cast.ids() {
            if let Some(suspended_for) = suspensions.returned(&machine, now) {
                self.observer.event(CycleEvent::Returned { machine, suspended_for });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_tried_again_after_pauses_that_grow() {
        let (suspensions, machine) = (Suspensions::default(), MachineId::new("db").expect("a name"));
        let mut now = Duration::from_secs(100);
        let mut pauses = Vec::new();
        for round in 0..9 {
            assert_eq!(suspensions.failed(&machine, false, now), round == 0, "it is new once");
            let seconds = (0..).find(|seconds| !suspensions.pauses(&machine, now + Duration::from_secs(*seconds)));
            pauses.push(seconds.expect("it ends"));
            now += Duration::from_secs(pauses[round]);
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
        assert_eq!(suspensions.returned(&machine, now), Some(now - Duration::from_secs(100)));
        assert_eq!(suspensions.returned(&machine, now), None);
        assert!(suspensions.failed(&machine, true, now) && !suspensions.pauses(&machine, now), "it is missing");
        assert!(!suspensions.failed(&machine, false, now) && suspensions.pauses(&machine, now));
        suspensions.retain(&[]);
        assert!(!suspensions.has(&machine));
    }
}
