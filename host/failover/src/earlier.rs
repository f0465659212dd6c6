//! What earlier failovers of a group mean for the next one: a run that was cut short is taken up, what is proven of the
//! source is not asked for again, and no second copy of a machine is started beside the first.
//!
//! A copy counts from the moment at which its start was *intended*: whether it runs now, was shut down since, or cannot be
//! asked does not matter, for in each case it may hold what no recovery point has.

use std::collections::{BTreeMap, BTreeSet};

use farshore_core::{MachineId, RunId, Sequence, SiteName};

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
    pub(crate) machines: BTreeSet<&'a MachineId>,
    /// What was started is to be given up, also by a run that was cut short.
    pub(crate) discards: bool,
}

impl Planned<'_> {
    /// Whether a run that was cut short does the same.
    fn is_work_of(&self, state: &RunState) -> bool {
        let head = &state.head;
        let same_machines = state.machines.keys().collect::<BTreeSet<_>>() == self.machines;
        !self.discards && !state.has_ended() && head.target == *self.target && head.point == self.point && same_machines
    }
}

impl Earlier {
    /// What `runs`, the lineage's, oldest first, mean. `active` is the lineage's active side: what ran elsewhere before is
    /// not production.
    pub(crate) fn of(runs: &[RunState], planned: &Planned<'_>, active: &SiteName) -> Self {
        let runs: Vec<_> = runs.iter().filter(|state| state.head.kind == RunKind::Unplanned).collect();
        let mut earlier = Self::default();
        // The oldest goes on; a later one of the same work would have taken it up.
        if let Some(state) = runs.iter().find(|state| planned.is_work_of(state)) {
            earlier.unfinished = Some(state.head.run);
        }
        let gone: BTreeSet<(RunId, &MachineId)> =
            runs.iter().flat_map(|state| state.discarded.iter().map(|(run, machine)| (*run, machine))).collect();
        let others = runs.iter().filter(|state| Some(state.head.run) != earlier.unfinished);
        for state in runs.iter().filter(|state| state.head.target == *active) {
            let proofs = state.fences.iter().filter(|fence| fence.proof.is_some());
            earlier.proven.extend(proofs.map(|fence| (fence.machine.clone(), fence.clone())));
        }
        for state in others.filter(|state| state.head.target == *active) {
            for (machine, progress) in &state.machines {
                let here = planned.machines.contains(machine) && !gone.contains(&(state.head.run, machine));
                if let (true, Some(_), Some(made)) = (here, progress.start_intended_at, &progress.state) {
                    earlier.copies.push(RecoveredCopy {
                        run: state.head.run,
                        machine: machine.clone(),
                        site: state.head.target.clone(),
                        state: made.clone(),
                    });
                }
            }
        }
        earlier
    }
}
