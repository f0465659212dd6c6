//! What earlier failovers of a group mean for the next one: a run that was cut short is taken up, what is proven of the
//! source is not asked for again, and no second copy of a machine is started beside the first.
//!
//! A copy counts from the moment at which its start was *intended*: whether it runs now, was shut down since, or cannot be
//! asked does not matter, for in each case it may hold what no recovery point has.

use std::collections::{BTreeMap, BTreeSet};

use farshore_core::{Generation, MachineId, RunId, Sequence, SiteName};

use crate::{FenceReport, RecoveredCopy, RunKind, RunState};

/// What earlier failovers of a lineage left.
#[derive(Debug, Clone, Default)]
pub(crate) struct Earlier {
    /// The failover that was cut short and does what is planned now.
    pub(crate) unfinished: Option<RunId>,
    /// What is known of the source since the group was failed over: machines that were proven to be off.
    pub(crate) proven: BTreeMap<MachineId, FenceReport>,
    /// What others started of the planned machines.
    pub(crate) copies: Vec<RecoveredCopy>,
}

/// What is planned now.
#[derive(Debug)]
pub(crate) struct Planned<'a> {
    pub(crate) target: &'a SiteName,
    pub(crate) point: Sequence,
    /// The lineage's generation now: what a run has fenced by an earlier one, others may have unfenced since.
    pub(crate) generation: Generation,
    pub(crate) machines: BTreeSet<&'a MachineId>,
    /// What was started is to be given up, also by a run that was cut short.
    pub(crate) discards: bool,
}

impl Planned<'_> {
    /// Whether a run that was cut short does the same. `there` is what others started of the planned machines: where that is
    /// to be given up, only a run goes on that gives up all of it, and that has started nothing itself.
    fn is_work_of(&self, state: &RunState, there: &[RecoveredCopy]) -> bool {
        let head = &state.head;
        let same_machines = state.machines.keys().collect::<BTreeSet<_>>() == self.machines;
        let is_valid = state.generation.is_none_or(|generation| generation == self.generation);
        let is_same =
            is_valid && !state.has_ended() && head.target == *self.target && head.point == self.point && same_machines;
        if !self.discards {
            return is_same;
        }
        let name = |copy: &RecoveredCopy| (copy.run, copy.machine.clone());
        let here = there.iter().filter(|copy| copy.site == *self.target).map(name);
        let left = head.discards.iter().map(name).filter(|name| !state.discarded.contains(name));
        let has_started = state.machines.values().any(|made| made.start_intended_at.is_some());
        is_same && !has_started && here.collect::<BTreeSet<_>>() == left.collect()
    }
}

impl Earlier {
    /// What `runs`, the lineage's, oldest first, mean. `active` is the lineage's active side: what ran elsewhere before is
    /// not production.
    pub(crate) fn of(runs: &[RunState], planned: &Planned<'_>, active: &SiteName) -> Self {
        let runs: Vec<_> = runs.iter().filter(|state| state.head.kind == RunKind::Unplanned).collect();
        let mut earlier = Self::default();
        let copies = |but: Option<RunId>| copies(&runs, planned, active, but);
        // The oldest goes on; a later one of the same work would have taken it up.
        let goes_on = |state: &&&RunState| planned.is_work_of(state, &copies(Some(state.head.run)));
        earlier.unfinished = runs.iter().find(goes_on).map(|state| state.head.run);
        for state in runs.iter().filter(|state| state.head.target == *active) {
            let proofs = state.fences.iter().filter(|fence| fence.proof.is_some());
            earlier.proven.extend(proofs.map(|fence| (fence.machine.clone(), fence.clone())));
        }
        earlier.copies = copies(earlier.unfinished);
        earlier
    }
}

/// What the runs started of the planned machines at the active side, and nobody has removed; without those of one run.
fn copies(runs: &[&RunState], planned: &Planned<'_>, active: &SiteName, but: Option<RunId>) -> Vec<RecoveredCopy> {
    let gone: BTreeSet<(RunId, &MachineId)> =
        runs.iter().flat_map(|state| state.discarded.iter().map(|(run, machine)| (*run, machine))).collect();
    let mut copies = Vec::new();
    let others = runs.iter().filter(|state| Some(state.head.run) != but);
    for state in others.filter(|state| state.head.target == *active) {
        for (machine, progress) in &state.machines {
            let here = planned.machines.contains(machine) && !gone.contains(&(state.head.run, machine));
            if let (true, Some(_), Some(made)) = (here, progress.start_intended_at, &progress.state) {
                copies.push(RecoveredCopy {
                    run: state.head.run,
                    machine: machine.clone(),
                    site: state.head.target.clone(),
                    state: made.clone(),
                });
            }
        }
    }
    copies
}

#[cfg(test)]
mod tests {
    use farshore_core::{GroupName, LineageId, Timestamp};

    use super::*;
    use crate::{RunEntry, RunHead};

    /// Another site was the active one since the run fenced the source: it must fence again, and so is begun anew.
    #[test]
    fn a_run_whose_fence_is_not_the_newest_is_not_taken_up() {
        let (machine, target) = (MachineId::new("db").expect("a name"), SiteName::new("recovery").expect("a name"));
        let head = RunHead {
            run: RunId::from_bytes([1; 16]),
            kind: RunKind::Unplanned,
            group: GroupName::new("orders").expect("a name"),
            lineage: LineageId::from_bytes([2; 16]),
            point: Sequence::new(5),
            captured_at: Timestamp::from_unix_milliseconds(1),
            machines: vec![machine.clone()],
            behind: Vec::new(),
            source: SiteName::new("production").expect("a name"),
            target: target.clone(),
            began_at: Timestamp::from_unix_milliseconds(2),
            attestation: None,
            discards: Vec::new(),
            drill_reaches: Vec::new(),
        };
        let mut state = RunState::new(head);
        let fenced = Generation::FIRST.next();
        let planned = |generation, discards| Planned {
            target: &target,
            point: Sequence::new(5),
            generation,
            machines: BTreeSet::from([&machine]),
            discards,
        };
        let unfinished = |state: &RunState, generation, discards| {
            let elsewhere = SiteName::new("elsewhere").expect("a name");
            Earlier::of(std::slice::from_ref(state), &planned(generation, discards), &elsewhere).unfinished
        };
        let later = fenced.next();
        for discards in [false, true] {
            assert!(unfinished(&state, later, discards).is_some(), "it has fenced nothing yet");
        }
        let (at, point) = (Timestamp::from_unix_milliseconds(3), Sequence::new(5));
        let entry = RunEntry::Fenced { at, generation: fenced, point, captured_at: at, behind: Vec::new() };
        state.apply(entry).expect("it fits the run");
        for discards in [false, true] {
            assert!(unfinished(&state, fenced, discards).is_some());
            assert_eq!(unfinished(&state, later, discards), None);
        }
    }
}
