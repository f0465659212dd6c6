//! The disks of a run: made, written and sealed. Where the platform can, they begin from those that an earlier failover
//! sealed and this one gives up, so that another point is reached by writing what differs.

use std::collections::{BTreeMap, BTreeSet};

use farshore_core::{Disk, DiskId, Machine, MachineId, RunId, Sequence};
use farshore_platform::{AdapterState, DiskRequest, Target};
use farshore_vault::{Lineage, Point};
use tokio_util::sync::CancellationToken;

use crate::{
    Execution, FailoverError, FailoverPlan, RestoreLimits, RunEntry, RunEvent, RunJournal, RunState, restore_disk,
    run::mint_id,
};

/// A disk that an earlier failover sealed, and whose content the vault has.
#[derive(Debug)]
pub(crate) struct Base {
    /// The failover.
    run: RunId,
    /// What it wrote.
    point: Sequence,
    /// The adapter's state of the sealed disk.
    state: AdapterState,
}

/// What the disks of a run can begin from.
#[derive(Debug, Default)]
pub(crate) struct Bases(BTreeMap<(MachineId, DiskId), Base>);

impl Bases {
    /// The disks of what the run gives up and has not removed yet, as `runs`, the lineage's, made them: those with the size
    /// that the disk has now. And a sentence for each machine and disk of which all is written, though the target could begin
    /// from another.
    pub(crate) async fn of(
        target: &dyn Target,
        lineage: &Lineage,
        state: &RunState,
        runs: &[RunState],
        machines: &[Machine],
    ) -> (Self, Vec<String>) {
        let (mut bases, mut reasons) = (Self::default(), Vec::new());
        if !target.begins_from_sealed() {
            return (bases, reasons);
        }
        for copy in &state.head.discards {
            let machine = machines.iter().find(|machine| machine.id == copy.machine);
            let is_gone = state.discarded.contains(&(copy.run, copy.machine.clone()));
            let (Some(machine), false) = (machine, is_gone) else { continue };
            let mut whole = |what: &str, why: &str| {
                reasons.push(format!("{what} of machine {} is written whole: {why}", machine.id));
            };
            let made = runs.iter().find(|earlier| earlier.head.run == copy.run);
            let made = made.and_then(|earlier| Some((earlier.head.point, earlier.machines.get(&copy.machine)?)));
            let Some((point, made)) = made else {
                whole("each disk", &format!("failover {} is not known any more", copy.run));
                continue;
            };
            let detail = match lineage.point(point).await {
                Ok(detail) => detail,
                Err(error) => {
                    whole(
                        "each disk",
                        &format!("point {point}, which failover {} wrote, cannot be read: {error}", copy.run),
                    );
                    continue;
                }
            };
            for disk in &machine.disks {
                let held = detail.disk(&machine.id, &disk.id);
                let sealed = made.disks.get(&disk.id).filter(|made| made.sealed).and_then(|made| made.state.clone());
                match (sealed, held) {
                    (Some(state), Some(held)) if held.size_bytes == disk.size_bytes => {
                        let base = Base { run: copy.run, point, state };
                        bases.0.insert((machine.id.clone(), disk.id.clone()), base);
                    }
                    (Some(_), Some(_)) => {
                        whole(&format!("disk {}", disk.id), "it has another size than in the point that is given up");
                    }
                    _ => whole(&format!("disk {}", disk.id), &format!("failover {} did not make it", copy.run)),
                }
            }
        }
        (bases, reasons)
    }

    fn get(&self, machine: &Machine, disk: &Disk) -> Option<&Base> {
        self.0.get(&(machine.id.clone(), disk.id.clone()))
    }
}

impl Execution {
    /// Writes the disks that can begin from those of what is given up, while that is still there. A disk of which that fails
    /// is written whole when its machine's turn comes.
    pub(crate) async fn write_on_bases(
        &self,
        journal: &mut RunJournal,
        plan: &FailoverPlan,
        bases: &Bases,
        stop: &CancellationToken,
    ) -> Result<(), FailoverError> {
        for machine in &plan.machines {
            let based: Vec<_> =
                machine.disks.iter().filter_map(|disk| Some((disk, bases.get(machine, disk)?))).collect();
            let is_up = journal.state().machines.get(&machine.id).is_some_and(|made| made.up.is_some());
            if based.is_empty() || is_up {
                continue;
            }
            let text = format!("writing what differs from what an earlier failover made of machine {}", machine.id);
            self.observer.event(RunEvent::Step(text));
            for (disk, base) in based {
                match self.recover_disk(journal, &plan.detail, machine, disk, Some(base), stop).await {
                    Ok(_) => {}
                    Err(_) if stop.is_cancelled() => return Err(FailoverError::Stopped),
                    Err(error) => self.give_up_disk(journal, machine, disk, error.with_causes(), stop).await?,
                }
            }
        }
        Ok(())
    }

    /// Removes a disk in the making that cannot begin from another, so that it is made afresh when its machine's turn comes.
    /// What cannot be removed stands in the journal, and stops nothing.
    async fn give_up_disk(
        &self,
        journal: &mut RunJournal,
        machine: &Machine,
        disk: &Disk,
        why: String,
        stop: &CancellationToken,
    ) -> Result<(), FailoverError> {
        let known = journal.state().machines.get(&machine.id).and_then(|made| made.disks.get(&disk.id)).cloned();
        let Some(known) = known else { return Ok(()) };
        let removed = match &known.state {
            Some(state) => {
                let doing = format!("removing disk {} of machine {}", disk.id, machine.id);
                self.answered(stop, || self.target.discard_disk(state)).await.map_err(FailoverError::site(doing))
            }
            None => self.release_ids(journal.state(), &machine.id, &BTreeSet::from([&known.id])).await,
        };
        let left = removed.err().map(|error| format!("disk {} (id {}): {}", disk.id, known.id, error.with_causes()));
        let mut text = format!("disk {} of machine {} is written whole: {why}", disk.id, machine.id);
        if let Some(left) = &left {
            text += &format!("; what was begun of it is left behind: {left}");
        }
        self.observer.event(RunEvent::Warning(text));
        let (machine, disk) = (machine.id.clone(), disk.id.clone());
        journal.record(RunEntry::DiskGivenUp { machine, disk, why, left }).await
    }

    /// Makes a disk, writes it and seals it, as far as the journal says that it is not done yet. It begins from `base` if there
    /// is one.
    pub(crate) async fn recover_disk(
        &self,
        journal: &mut RunJournal,
        point: &Point,
        machine: &Machine,
        disk: &Disk,
        base: Option<&Base>,
        stop: &CancellationToken,
    ) -> Result<AdapterState, FailoverError> {
        let known = |journal: &RunJournal| {
            journal.state().machines.get(&machine.id).and_then(|progress| progress.disks.get(&disk.id)).cloned()
        };
        // Another disk than was asked for with its id would be made.
        if let Some(known) = known(journal)
            && let Some(run) = known.base.filter(|run| base.is_none_or(|base| base.run != *run))
            && known.restored.is_none()
        {
            let why = format!("it began from what failover {run} made, which is gone");
            self.give_up_disk(journal, machine, disk, why, stop).await?;
        }
        let known = known(journal);
        if let Some(known) = &known
            && let (true, Some(state)) = (known.sealed, &known.state)
        {
            return Ok(state.clone());
        }
        let (id, begins_from) = match &known {
            Some(known) => (known.id.clone(), known.base),
            None => {
                let (id, base) = (mint_id(&*self.clock, &*self.entropy), base.map(|base| base.run));
                let (machine, disk) = (machine.id.clone(), disk.id.clone());
                journal.record(RunEntry::DiskIntended { machine, disk, id: id.clone(), base }).await?;
                (id, base)
            }
        };
        let doing = format!("making disk {} of machine {}", disk.id, machine.id);
        let request = DiskRequest {
            id: id.clone(),
            owner: self.owner(journal.state()).to_string(),
            run: journal.state().head.run,
            machine_name: machine.name.clone(),
            disk: disk.clone(),
        };
        let mut state = match known.and_then(|known| known.state.filter(|_| known.restored.is_some())) {
            Some(state) => state,
            None => {
                // One that is known without a base began as zeros.
                let base = base.filter(|base| begins_from == Some(base.run));
                let step = match base {
                    Some(base) => self.target.begin_disk_from(&request, &base.state).await,
                    None => self.target.begin_disk(&request).await,
                };
                let state = self.settle_disk(journal, &id, step, &doing, stop).await?;
                self.write_disk(journal, point, machine, disk, &id, &state, base, stop).await?;
                state
            }
        };
        let progress = journal.state().machines.get(&machine.id).and_then(|progress| progress.disks.get(&disk.id));
        let blocks = progress.and_then(|progress| progress.blocks.clone());
        let step = self.answered(stop, || self.target.seal_disk(&state, blocks.as_ref())).await;
        state = self
            .settle_disk(journal, &id, step, &format!("sealing disk {} of machine {}", disk.id, machine.id), stop)
            .await?;
        journal.record(RunEntry::DiskSealed { id }).await?;
        Ok(state)
    }

    #[expect(clippy::too_many_arguments, reason = "they are what a disk in a run is")]
    async fn write_disk(
        &self,
        journal: &mut RunJournal,
        point: &Point,
        machine: &Machine,
        disk: &Disk,
        id: &str,
        state: &AdapterState,
        base: Option<&Base>,
        stop: &CancellationToken,
    ) -> Result<(), FailoverError> {
        let (machine_id, disk_id) = (machine.id.clone(), disk.id.clone());
        self.observer.event(RunEvent::DiskStarted { machine: machine_id, disk: disk_id, size_bytes: disk.size_bytes });
        let lineage = self
            .vault
            .lineage(&journal.state().head.group)
            .await
            .map_err(FailoverError::vault("opening the lineage"))?
            .ok_or_else(|| FailoverError::NothingToRecover { group: journal.state().head.group.clone() })?;
        let open = async |point: Sequence| {
            let reader = lineage.open_point(point).await.map_err(FailoverError::vault("opening the recovery point"))?;
            reader.disk(&machine.id, &disk.id).map_err(FailoverError::vault("opening a disk of the point"))
        };
        let reader = open(point.sequence).await?;
        let base = match base {
            Some(base) => Some(open(base.point).await?),
            None => None,
        };
        let doing = format!("opening the new disk {} of machine {}", disk.id, machine.id);
        let transport = self.target.open_disk(state, disk).await.map_err(FailoverError::site(doing))?;
        let moved = |bytes| self.observer.event(RunEvent::Moved(bytes));
        let limits = RestoreLimits::default();
        let report = restore_disk(&reader, base.as_ref(), &*transport, limits, &*self.clock, stop, &moved).await;
        // After the flush the bytes are durable, whatever the goodbye answers.
        let _ = transport.close().await;
        let report = report?;
        let (written_bytes, milliseconds) = (report.written_bytes, report.milliseconds);
        let (id, blocks) = (id.to_owned(), transport.written_blocks());
        journal.record(RunEntry::DiskRestored { id, written_bytes, milliseconds, blocks }).await
    }
}
