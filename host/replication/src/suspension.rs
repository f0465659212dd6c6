//! Machines that cannot be captured, and what becomes of the others.
//!
//! *By policy.* Without [`Suspensions`] a point is all or nothing: a machine that fails, fails its group's cycle. With them it is
//! *suspended*: the cycle captures the others, and the point has of this machine what the point before it has, with the time at
//! which that was captured. So a point still recovers the whole group, and says how far each machine is behind, but for a machine of which no point
//! has anything yet: it is left out. The last machine of a group is never suspended: then the cycle fails.
//!
//! *Who failed.* Sites say what failed, and not always which machine. One that is missing, or whose disk cannot be read, is known. If
//! a capture of several cannot begin, it is tried without the one that was suspended and was to come back, and without those that the platform does not
//! reach. If that fails too, each machine is tried alone, which begins a capture of it and gives it up at once; if nobody is to blame, that is not done
//! again for a time that doubles. A capture that is found broken only at its end, by a site that does not say by which machine, is the group's failure.
//!
//! *Coming back.* Suspended machines are tried again with the others, one in a cycle, each after a pause that doubles from ten seconds to ten minutes, so
//! that one that makes its site wait makes the others wait seldom; all of them at once if somebody asks for a point. One that is only missing is
//! looked for in each cycle: machines are listed in each. Change tracking goes on meanwhile: what leads from the part that the points have is named
//! in each request. A machine that fails only when it is read costs the others the cycle in which it is tried.
//!
//! *An application-consistent point* of a schedule of its own is all or nothing: if it fails, an ordinary one takes its place.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use farshore_core::{Code, Coded as _, Consistency, Machine, MachineId, PowerState};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    CaptureJournal, CycleEvent, ReplicationError, Replicator, Wishes, before::Before, capture::Capture,
    cycle::AdapterMeter, error::chain,
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
pub struct Suspensions(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    machines: BTreeMap<MachineId, Suspended>,
    /// Nobody was to blame when each was tried alone; how often in a row, and when that is done again.
    blameless: Retry,
}

#[derive(Debug)]
struct Suspended {
    since: Duration,
    /// The code of why, as it was told last.
    code: Code,
    retry: Retry,
}

/// When something is tried again that has failed so often.
#[derive(Debug, Default)]
struct Retry {
    failures: u32,
    /// By the clock that is never put back.
    next: Duration,
}

const PAUSE_MIN: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(600);

impl Retry {
    fn failed(&mut self, now: Duration) {
        let pause = PAUSE_MIN.saturating_mul(1 << self.failures.min(8)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        self.next = now.saturating_add(pause);
    }
}

impl Suspensions {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a machine is not to be tried yet.
    pub(crate) fn pauses(&self, machine: &MachineId, now: Duration) -> bool {
        self.lock().machines.get(machine).is_some_and(|suspended| now < suspended.retry.next)
    }

    fn has(&self, machine: &MachineId) -> bool {
        self.lock().machines.contains_key(machine)
    }

    /// Of these machines those that rest in this cycle: the suspended ones, but for the one whose turn it is to be tried. None if that leaves
    /// nobody, because others have left the group.
    fn resting(&self, machines: &[MachineId], now: Duration) -> Vec<MachineId> {
        let state = self.lock();
        let next = |machine: &MachineId| Some(state.machines.get(machine)?.retry.next);
        let due =
            machines.iter().filter_map(|machine| Some((next(machine)?, machine))).filter(|(next, _)| now >= *next);
        let tried = due.min().map(|(_, machine)| machine);
        let rests = |machine: &&MachineId| next(machine).is_some() && tried != Some(*machine);
        let resting: Vec<MachineId> = machines.iter().filter(rests).cloned().collect();
        if resting.len() < machines.len() { resting } else { Vec::new() }
    }

    /// A machine has failed, and is tried again after a pause; or is missing, and is looked for all the time. Whether that is to be told: it
    /// was not suspended before, or for another reason.
    fn failed(&self, failing: &Failing, now: Duration) -> bool {
        let mut state = self.lock();
        let Failing { machine, code, is_missing, .. } = failing;
        let before = state.machines.get(machine).map(|suspended| suspended.code);
        let new = || Suspended { since: now, code: *code, retry: Retry { failures: 0, next: now } };
        let suspended = state.machines.entry(machine.clone()).or_insert_with(new);
        suspended.code = *code;
        match is_missing {
            true => suspended.retry.next = now,
            false => suspended.retry.failed(now),
        }
        before != Some(*code)
    }

    /// A machine is part of a point again. For how long it was not, if it was suspended.
    fn returned(&self, machine: &MachineId, now: Duration) -> Option<Duration> {
        self.lock().machines.remove(machine).map(|suspended| now.saturating_sub(suspended.since))
    }

    /// Forgets those that have left the group.
    pub fn retain(&self, machines: &[MachineId]) {
        self.lock().machines.retain(|machine, _| machines.contains(machine));
    }

    fn may_try_each(&self, now: Duration) -> bool {
        now >= self.lock().blameless.next
    }

    fn nobody_is_to_blame(&self, now: Duration) {
        self.lock().blameless.failed(now);
    }

    /// A capture is part of a point.
    fn succeeded(&self) {
        self.lock().blameless = Retry::default();
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

    /// The same without these; none if that leaves all or nobody.
    fn without(&self, failing: &[Failing]) -> Option<Self> {
        let mut rest = self.clone();
        failing.iter().for_each(|failing| rest.leave_out(&failing.machine));
        (1..self.machines.len()).contains(&rest.machines.len()).then_some(rest)
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
    /// The machines without which the group may go on, if it may without any. A point at rest is all or nothing.
    fn suspensions_for(&self, wishes: &Wishes) -> Option<&Suspensions> {
        self.suspensions.as_deref().filter(|_| wishes.consistency != Some(Consistency::Application))
    }

    /// Chooses what is captured, and captures it.
    pub(crate) async fn capture(
        &self,
        journal: &mut CaptureJournal,
        before: Option<&Before>,
        wishes: &Wishes,
        meter: &mut AdapterMeter<'_>,
        stop: &CancellationToken,
    ) -> Result<(Capture, Cast), ReplicationError> {
        let cast = self.cast(before, wishes, meter).await?;
        let error = match self.begin_capture(journal, before, &cast.ids(), wishes, meter, stop).await {
            Ok(capture) => return Ok((capture, cast)),
            Err(error) => error,
        };
        let Some(suspensions) = self.suspensions_for(wishes).filter(|_| cast.machines.len() > 1) else {
            return Err(error);
        };
        if !matches!(error, ReplicationError::Site { .. }) {
            return Err(error);
        }
        for suspected in [self.came_back(suspensions, &cast, &error), self.unreached(&cast)] {
            let Some(rest) = cast.without(&suspected) else { continue };
            match self.begin_capture(journal, before, &rest.ids(), wishes, meter, stop).await {
                Ok(capture) => {
                    suspected.iter().for_each(|failing| self.suspend(failing, before));
                    return Ok((capture, rest));
                }
                Err(ReplicationError::Site { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        let now = self.clock.monotonic();
        if !suspensions.may_try_each(now) {
            return Err(error);
        }
        let failing = self.try_each(journal, before, &cast, wishes, meter, stop).await?;
        let Some(rest) = cast.without(&failing) else {
            suspensions.nobody_is_to_blame(now);
            return Err(error);
        };
        let capture = self.begin_capture(journal, before, &rest.ids(), wishes, meter, stop).await?;
        failing.iter().for_each(|failing| self.suspend(failing, before));
        Ok((capture, rest))
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
        let Some(suspensions) = self.suspensions_for(wishes) else {
            let machines = wanted.iter().map(|id| self.describe(&known, before, id)).collect::<Result<_, _>>()?;
            return Ok(Cast { machines, left_out: Vec::new() });
        };
        suspensions.retain(wanted);
        let now = self.clock.monotonic();
        let (mut cast, mut failed) = (Cast { machines: Vec::new(), left_out: Vec::new() }, Vec::new());
        for id in wanted {
            match self.describe(&known, before, id) {
                Ok(machine) => cast.machines.push(machine),
                Err(error) => failed.push(Failing { is_missing: true, ..Failing::new(id, &error) }),
            }
        }
        if cast.machines.is_empty()
            && let Some(id) = wanted.first()
        {
            self.describe(&known, before, id)?;
        }
        for failing in failed {
            self.suspend(&failing, before);
            cast.left_out.push(failing.machine);
        }
        if !wishes.is_asked {
            suspensions.resting(&cast.ids(), now).iter().for_each(|id| cast.leave_out(id));
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

    /// The one of these that was suspended, and was to come back.
    fn came_back(&self, suspensions: &Suspensions, cast: &Cast, error: &ReplicationError) -> Vec<Failing> {
        let came_back: Vec<MachineId> = cast.ids().into_iter().filter(|id| suspensions.has(id)).collect();
        match &came_back[..] {
            [only] => vec![Failing::new(only, error)],
            // Of several nobody knows which: each is tried alone.
            _ => Vec::new(),
        }
    }

    /// Those of these that their platform does not reach.
    fn unreached(&self, cast: &Cast) -> Vec<Failing> {
        let unreached = cast.machines.iter().filter(|machine| machine.power == PowerState::Unknown).map(|machine| {
            let (group, site) = (self.protection.group.clone(), self.source.site().clone());
            let error = ReplicationError::MachineUnreached { group, site, machine: machine.id.clone() };
            Failing::new(&machine.id, &error)
        });
        unreached.collect()
    }

    /// Those of these of which no capture can begin.
    async fn try_each(
        &self,
        journal: &mut CaptureJournal,
        before: Option<&Before>,
        cast: &Cast,
        wishes: &Wishes,
        meter: &mut AdapterMeter<'_>,
        stop: &CancellationToken,
    ) -> Result<Vec<Failing>, ReplicationError> {
        let mut failing = Vec::new();
        for id in cast.ids() {
            if stop.is_cancelled() {
                return Err(ReplicationError::Stopped { group: self.protection.group.clone() });
            }
            if let Err(error) = self.try_alone(journal, before, &id, wishes, meter).await? {
                failing.push(Failing::new(&id, &error));
            }
        }
        Ok(failing)
    }

    /// Whether a capture of one machine can begin. It is given up at once, ready or not.
    async fn try_alone(
        &self,
        journal: &mut CaptureJournal,
        before: Option<&Before>,
        machine: &MachineId,
        wishes: &Wishes,
        meter: &mut AdapterMeter<'_>,
    ) -> Result<Result<(), ReplicationError>, ReplicationError> {
        let mut entry = self.journal_entry(before, std::slice::from_ref(machine), wishes);
        journal.remember(entry.clone())?;
        match meter.time(self.source.begin_capture(&entry.request)).await {
            Ok(step) => {
                entry.state = Some(step.state.clone());
                let remembered = journal.remember(entry.clone());
                self.give_up(journal, &entry, &step.state, meter).await;
                remembered.map(Ok)
            }
            Err(source) => {
                // What these may have left is looked for by its tag as long as the journal has one of them.
                let unanswered = journal.entries().iter().filter(|entry| entry.state.is_none()).skip(1);
                for entry in unanswered.cloned().collect::<Vec<_>>() {
                    self.forget(journal, &entry);
                }
                Ok(Err(self.site_error("beginning a capture", source)))
            }
        }
    }

    /// Suspends a machine, and says so if that is new, or why is.
    fn suspend(&self, failing: &Failing, before: Option<&Before>) {
        let Some(suspensions) = &self.suspensions else { return };
        let Failing { machine, code, why, .. } = failing;
        if suspensions.failed(failing, self.clock.monotonic()) {
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
        suspensions.succeeded();
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
        let failing = |code, is_missing| {
            let (machine, why) = (machine.clone(), String::new());
            Failing { machine, code: Code::new(code), why, is_missing }
        };
        let mut now = Duration::from_secs(100);
        let mut pauses = Vec::new();
        for round in 0..9 {
            assert_eq!(suspensions.failed(&failing(3007, false), now), round == 0, "it is told once");
            let seconds = (0..).find(|seconds| !suspensions.pauses(&machine, now + Duration::from_secs(*seconds)));
            pauses.push(seconds.expect("it ends"));
            now += Duration::from_secs(pauses[round]);
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
        assert!(suspensions.failed(&failing(3003, false), now), "there is another reason");
        assert_eq!(suspensions.returned(&machine, now), Some(now - Duration::from_secs(100)));
        assert_eq!(suspensions.returned(&machine, now), None);
        assert!(suspensions.failed(&failing(4003, true), now) && !suspensions.pauses(&machine, now), "it is missing");
        assert!(suspensions.failed(&failing(3007, false), now) && suspensions.pauses(&machine, now));
        suspensions.retain(&[]);
        assert!(!suspensions.pauses(&machine, now));
    }
}
