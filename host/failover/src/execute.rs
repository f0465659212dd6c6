//! Executing a plan: each step is recorded, taken, and its answer recorded.
//!
//! ## Order
//! An unplanned failover first raises the lineage's generation: from then on a source that comes back is refused by the
//! vault. Then it turns the source's machines off, if their platform answers; without the platform's proof it goes on only
//! with somebody's attestation. Then, machine by machine, the disks are made, written and sealed, the machine is made of
//! them and started, and its readiness awaited. A drill is the same without the first two parts, and ends by removing
//! everything. What an earlier failover had started, and this one gives up, is removed before anything is started; before
//! that the disks are written if they can begin from those that are given up.
//!
//! ## Pins
//! A run pins its point in the vault until it has ended, so that no prune takes it away. What cannot be pinned is recovered all
//! the same: on the worst day nothing waits for housekeeping. The point of what is given up is not pinned: if a prune takes it
//! away, disks that could begin from it are written whole.
//!
//! ## Errors
//! A drill stops at the first error and cleans up. An unplanned failover records the error, removes what is half-made of
//! that machine, and goes on with the others. A failure to record a step ends the process's part of the run: what is not
//! recorded is not done.
//!
//! ## Crashes
//! The journal says what was intended. A drill that was cut short is cleaned up by the group's next drill; a failover that
//! was cut short is taken up by the next failover command that asks for the same. Steps are repeated with the ids that the journal has.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use farshore_core::{Clock, Entropy, GroupName, LineageId, Machine, MachineId, OwnerTag, RunId, Sequence, VaultId};
use farshore_platform::{
    AdapterState, MachineRequest, Owned, OwnedKind, Readiness, ReadinessLevel, SiteError, Source, StepStatus,
    StopManner, Target,
};
use farshore_vault::Vault;
use tokio_util::sync::CancellationToken;

use crate::{
    FailoverError, FailoverPlan, FenceReport, RecoveredCopy, RunEntry, RunHead, RunJournal, RunKind, RunReport,
    RunState,
    disks::Bases,
    earlier::{Earlier, Planned},
    journal::runs_of,
    plan::refuse_second_copies,
    run::{MachineProgress, mint_id},
};

/// Turning a machine off is given up after this.
const STOP_MAX: Duration = Duration::from_secs(300);
/// How often raising the generation is tried again because the source committed first.
const RAISE_RACES_MAX: u32 = 16;

/// What happens in a run, as it happens.
#[derive(Debug, Clone)]
pub enum RunEvent {
    /// The run has this id; `resumed` if it was begun before.
    Begun {
        /// The run.
        run: RunId,
        /// It was begun before.
        resumed: bool,
    },
    /// A step that the operator follows, in a few words.
    Step(String),
    /// A disk's restore begins.
    DiskStarted {
        /// Its machine.
        machine: MachineId,
        /// The disk.
        disk: farshore_core::DiskId,
        /// Its size in bytes.
        size_bytes: u64,
    },
    /// So many more bytes were written.
    Moved(u64),
    /// A machine came so far.
    Readiness {
        /// The machine.
        machine: MachineId,
        /// How far.
        readiness: Readiness,
    },
    /// Something that the operator should know, though the run goes on.
    Warning(String),
}

/// Hears what happens in a run. It must return at once.
pub trait RunObserver: Send + Sync {
    /// Called at each event, from any thread.
    fn event(&self, event: RunEvent);
}

/// What executes runs.
pub struct Execution {
    /// The vault.
    pub vault: Arc<Vault>,
    /// The site that ran the machines, in mode `live`; none if it is not configured here. A drill never calls it.
    pub source: Option<Arc<dyn Source>>,
    /// The site that shall run them, in the run's mode.
    pub target: Arc<dyn Target>,
    /// Where the host keeps its diaries.
    pub state_folder: PathBuf,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where ids come from.
    pub entropy: Arc<dyn Entropy>,
    /// Who hears what happens.
    pub observer: Arc<dyn RunObserver>,
    /// How far a machine must come.
    pub readiness: ReadinessLevel,
    /// How long it may take.
    pub readiness_limit: Duration,
    /// Who says that the source is off.
    pub attestation: Option<String>,
    /// For a drill: what of a failover's machines its grants would let it reach, in a sentence each.
    pub drill_reaches: Vec<String>,
}

impl Execution {
    /// Executes a plan: takes up a failover of the group that was cut short, or begins a new run. A drill cleans up the
    /// group's drills that were cut short first.
    ///
    /// # Errors
    /// [`FailoverError::AttestationNeeded`] before anything is done, or after the generation was raised if the source
    /// stopped answering in between; [`FailoverError::AlreadyRecovered`]; [`FailoverError::Busy`]; a vault that cannot record. What happens to a machine is in
    /// the report instead.
    pub async fn execute(
        &self,
        plan: &FailoverPlan,
        source_site: &farshore_core::SiteName,
        stop: &CancellationToken,
    ) -> Result<RunReport, FailoverError> {
        if let (Some(why), None) = (plan.attestation_needed(), &self.attestation) {
            return Err(FailoverError::AttestationNeeded { group: plan.group.clone(), why });
        }
        let lineage = plan.lineage.id();
        let _lock = lock_group(&self.state_folder, self.vault.id(), lineage, &plan.group)?;
        let runs = runs_of(&self.vault, lineage).await?;
        let goes_on = match plan.kind {
            RunKind::Drill => None,
            RunKind::Unplanned => self.look_again(plan, &runs).await?,
        };
        let mut journal = match self.settle_unfinished(plan, &runs, goes_on).await? {
            Some(journal) => journal,
            None => {
                let head = RunHead {
                    run: RunId::timed(&*self.clock, &*self.entropy),
                    kind: plan.kind,
                    group: plan.group.clone(),
                    lineage,
                    point: plan.point,
                    captured_at: plan.captured_at,
                    machines: plan.machines.iter().map(|machine| machine.id.clone()).collect(),
                    behind: plan.behind.clone(),
                    source: source_site.clone(),
                    target: self.target.site().clone(),
                    began_at: self.clock.now(),
                    attestation: self.attestation.clone(),
                    discards: plan.discards.clone(),
                    drill_reaches: self.drill_reaches.clone(),
                };
                self.observer.event(RunEvent::Begun { run: head.run, resumed: false });
                RunJournal::begin(Arc::clone(&self.vault), head).await?
            }
        };
        match plan.kind {
            RunKind::Drill => self.drill(&mut journal, plan, stop).await,
            RunKind::Unplanned => self.unplanned(&mut journal, plan, &runs, stop).await,
        }
    }

    /// Under the group's lock, the run to go on with; another process may have failed the group over since the plan was made.
    async fn look_again(&self, plan: &FailoverPlan, runs: &[RunState]) -> Result<Option<RunId>, FailoverError> {
        let head = plan.lineage.head().await.map_err(FailoverError::vault("finding the active side"))?;
        let planned = Planned {
            target: self.target.site(),
            point: plan.point,
            generation: head.generation,
            machines: plan.machines.iter().map(|machine| &machine.id).collect(),
            discards: plan.may_discard,
        };
        let mut earlier = Earlier::of(runs, &planned, &head.active_site);
        earlier.copies.retain(|copy| copy.site == *self.target.site() && !plan.discards.contains(copy));
        refuse_second_copies(&plan.group, &earlier.copies)?;
        Ok(earlier.unfinished)
    }

    /// Takes up the failover to go on with, and ends what else of the group was cut short at this target: a drill cleans up
    /// drills, a failover ends failovers. A failover does not wait for drills to be cleaned up.
    async fn settle_unfinished(
        &self,
        plan: &FailoverPlan,
        runs: &[RunState],
        goes_on: Option<RunId>,
    ) -> Result<Option<RunJournal>, FailoverError> {
        let mut taken_up = None;
        for state in runs.iter().filter(|state| !state.has_ended()) {
            let head = &state.head;
            let same_target = head.target == *self.target.site();
            if !same_target || head.kind != plan.kind {
                let text = format!("{} {} of this group has not ended; it is left alone", head.kind, head.run);
                self.observer.event(RunEvent::Warning(text));
                continue;
            }
            let mut journal = RunJournal::resume(Arc::clone(&self.vault), head.run).await?;
            match head.kind {
                RunKind::Drill => {
                    self.observer.event(RunEvent::Step(format!("cleaning up drill {}, which was cut short", head.run)));
                    self.end_drill(&mut journal, Some("the drill was cut short")).await?;
                }
                RunKind::Unplanned if goes_on == Some(head.run) => {
                    self.observer.event(RunEvent::Begun { run: head.run, resumed: true });
                    let entry = RunEntry::Resumed { at: self.clock.now(), attestation: self.attestation.clone() };
                    journal.record(entry).await?;
                    taken_up = Some(journal);
                }
                RunKind::Unplanned => {
                    for machine in &head.machines {
                        self.remove_half_made(&mut journal, machine).await?;
                    }
                    let text = format!("failover {} of this group was cut short; this one takes its place", head.run);
                    self.observer.event(RunEvent::Warning(text));
                    self.end(&mut journal, Some("another run of the group took its place")).await?;
                }
            }
        }
        Ok(taken_up)
    }

    async fn drill(
        &self,
        journal: &mut RunJournal,
        plan: &FailoverPlan,
        stop: &CancellationToken,
    ) -> Result<RunReport, FailoverError> {
        let mut interrupted = None;
        self.pin(journal, plan, plan.point).await;
        for machine in &plan.machines {
            if let Err(error) = self.recover_machine(journal, plan, machine, stop).await {
                let text = error.with_causes();
                self.observer.event(RunEvent::Warning(format!("machine {}: {text}", machine.id)));
                journal.record(RunEntry::MachineFailed { machine: machine.id.clone(), error: text }).await?;
                interrupted = Some("the drill stopped at the first error");
                break;
            }
        }
        self.end_drill(journal, interrupted).await
    }

    /// Removes everything that a drill made, and ends it.
    async fn end_drill(&self, journal: &mut RunJournal, interrupted: Option<&str>) -> Result<RunReport, FailoverError> {
        self.observer.event(RunEvent::Step("removing what the drill made".to_owned()));
        let mut leftovers = Vec::new();
        let machines: Vec<_> = journal.state().machines.keys().cloned().collect();
        for machine in machines {
            if let Err(error) = self.remove_made(journal.state(), &machine).await {
                leftovers.push(format!("machine {machine}: {}", error.with_causes()));
            }
        }
        leftovers.extend(self.release_owned_by(journal.state()).await);
        let clean = leftovers.is_empty();
        journal.record(RunEntry::CleanedUp { at: self.clock.now(), leftovers }).await?;
        if clean {
            return self.end(journal, interrupted).await;
        }
        // It has not ended: the group's next drill tries again to remove what is left.
        Ok(RunReport::of(journal.state(), self.clock.now(), self.target.refusals(), interrupted))
    }

    async fn end(&self, journal: &mut RunJournal, interrupted: Option<&str>) -> Result<RunReport, FailoverError> {
        let report = RunReport::of(journal.state(), self.clock.now(), self.target.refusals(), interrupted);
        journal.record(RunEntry::Ended(Box::new(report.clone()))).await?;
        self.unpin(&journal.state().head).await;
        Ok(report)
    }

    async fn pin(&self, journal: &RunJournal, plan: &FailoverPlan, point: Sequence) {
        if let Err(error) = plan.lineage.pin(journal.state().head.run, point).await {
            let text = format!("point {point} could not be pinned, so a prune could take it away: {error}");
            self.observer.event(RunEvent::Warning(text));
        }
    }

    async fn unpin(&self, head: &RunHead) {
        let given_up = async {
            match self.vault.lineage(&head.group).await? {
                Some(lineage) => lineage.unpin(head.run).await,
                None => Ok(()),
            }
        };
        if let Err(error) = given_up.await {
            let text = format!(
                "the run has ended and its point is still pinned (`farshore vault pin release {}` gives it up): {error}",
                head.run
            );
            self.observer.event(RunEvent::Warning(text));
        }
    }

    async fn unplanned(
        &self,
        journal: &mut RunJournal,
        plan: &FailoverPlan,
        runs: &[RunState],
        stop: &CancellationToken,
    ) -> Result<RunReport, FailoverError> {
        let plan = match journal.state().generation {
            Some(_) => Cow::Borrowed(plan),
            None => self.fence_lineage(journal, plan).await?,
        };
        let plan = &*plan;
        self.pin(journal, plan, plan.point).await;
        self.stop_source(journal, plan).await?;
        let (bases, reasons) = Bases::of(&*self.target, &plan.lineage, journal.state(), runs, &plan.machines).await;
        for reason in reasons {
            self.observer.event(RunEvent::Warning(reason));
        }
        self.write_on_bases(journal, plan, &bases, stop).await?;
        self.discard_recovered(journal, stop).await?;
        for machine in &plan.machines {
            if stop.is_cancelled() {
                return Err(FailoverError::Stopped);
            }
            match self.recover_machine(journal, plan, machine, stop).await {
                Ok(()) => {}
                // What was written is not given up for an answer that was not waited for.
                Err(_) if stop.is_cancelled() => return Err(FailoverError::Stopped),
                Err(error) => {
                    let text = error.with_causes();
                    self.observer.event(RunEvent::Warning(format!("machine {}: {text}", machine.id)));
                    journal.record(RunEntry::MachineFailed { machine: machine.id.clone(), error: text }).await?;
                    self.remove_half_made(journal, &machine.id).await?;
                }
            }
        }
        self.end(journal, None).await
    }

    /// Raises the generation in the vault, so that the old active side can commit nothing any more. What it committed
    /// until then is not lost: a plan for the newest point moves to it.
    async fn fence_lineage<'p>(
        &self,
        journal: &mut RunJournal,
        plan: &'p FailoverPlan,
    ) -> Result<Cow<'p, FailoverPlan>, FailoverError> {
        self.observer.event(RunEvent::Step("fencing the old active side in the vault".to_owned()));
        let reason = format!("unplanned failover, run {}", journal.state().head.run);
        let mut races = 0;
        // A source that still commits wins a number now and then; it cannot win them all.
        let (generation, newest) = loop {
            let head = plan.lineage.head().await.map_err(FailoverError::vault("finding the newest commit"))?;
            match plan.lineage.raise_generation(self.target.site(), &reason, &head).await {
                Err(farshore_vault::Error::LostRace { .. }) if races < RAISE_RACES_MAX => races += 1,
                raised => {
                    let generation = raised.map_err(FailoverError::vault("raising the generation"))?;
                    break (generation, head.newest_point);
                }
            }
        };
        let plan = match newest {
            Some(newest) if plan.wants_newest && newest > plan.point => self.moved_to(plan, newest).await,
            _ => Cow::Borrowed(plan),
        };
        let (at, point, captured_at, behind) = (self.clock.now(), plan.point, plan.captured_at, plan.behind.clone());
        journal.record(RunEntry::Fenced { at, generation, point, captured_at, behind }).await?;
        Ok(plan)
    }

    /// The plan from a point that was committed after it was made; the plan as it is if that point does not hold all of
    /// its machines.
    async fn moved_to<'p>(&self, plan: &'p FailoverPlan, newest: Sequence) -> Cow<'p, FailoverPlan> {
        let told = |text: String| self.observer.event(RunEvent::Warning(text));
        let moved = match plan.lineage.point(newest).await {
            Ok(detail) => plan.moved_to(detail, &*self.clock).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match moved {
            Ok(moved) => {
                let (before, after) = (plan.point, moved.point);
                told(format!("point {after} was committed while point {before} was being confirmed: it is taken"));
                Cow::Owned(moved)
            }
            Err(error) => {
                told(format!("point {newest} was committed meanwhile, and cannot be taken: {error}"));
                Cow::Borrowed(plan)
            }
        }
    }

    /// Turns the source's machines off. Machines with a proof in the journal are not asked again.
    async fn stop_source(&self, journal: &mut RunJournal, plan: &FailoverPlan) -> Result<(), FailoverError> {
        for machine in &plan.machines {
            let proven = |fence: &FenceReport| fence.machine == machine.id && fence.proof.is_some();
            if journal.state().fences.iter().any(proven) {
                continue;
            }
            let result = self.stop_source_machine(&machine.id).await;
            let (at, proof, error) = match (result, plan.proven.get(&machine.id)) {
                (Ok(proof), _) => (self.clock.now(), Some(proof), None),
                // It went off with what answered for it, when an earlier failover turned it off.
                (Err(_), Some(earlier)) => (earlier.at, earlier.proof.clone(), None),
                (Err(error), None) => (self.clock.now(), None, Some(error)),
            };
            let report = FenceReport { machine: machine.id.clone(), at, proof, error: error.clone() };
            journal.record(RunEntry::SourceStop(report)).await?;
            if let (Some(why), None) = (error, &journal.state().head.attestation) {
                return Err(FailoverError::AttestationNeeded { group: plan.group.clone(), why });
            }
        }
        Ok(())
    }

    /// Removes what earlier failovers had started, as the operator has asked. If one cannot be removed, nothing is started
    /// beside it.
    async fn discard_recovered(&self, journal: &mut RunJournal, stop: &CancellationToken) -> Result<(), FailoverError> {
        for copy in journal.state().head.discards.clone() {
            let RecoveredCopy { run, machine, state, .. } = copy;
            if journal.state().discarded.contains(&(run, machine.clone())) {
                continue;
            }
            self.observer.event(RunEvent::Step(format!("removing machine {machine}, which failover {run} started")));
            let doing = format!("removing machine {machine}, which failover {run} started,");
            self.turn_off(&machine, &state, stop).await?;
            let removed = self.answered(stop, || self.target.remove_machine(&state)).await;
            if removed.is_err() && stop.is_cancelled() {
                return Err(FailoverError::Stopped);
            }
            removed.map_err(FailoverError::site(doing))?;
            journal.record(RunEntry::Discarded { run, machine, at: self.clock.now() }).await?;
        }
        Ok(())
    }

    /// Turns a machine off that is given up, so that it does nothing any more when the next one starts. Its removal stops it,
    /// too, but need not wait until it is off: what goes wrong here is only said.
    async fn turn_off(
        &self,
        machine: &MachineId,
        state: &AdapterState,
        stop: &CancellationToken,
    ) -> Result<(), FailoverError> {
        let work = async {
            let mut step = self.answered(stop, || self.target.stop_machine(state, StopManner::Forced)).await?;
            while let StepStatus::Pending(pending) = step.status {
                self.clock.sleep(pending.poll_after).await;
                let state = step.state;
                step = self.answered(stop, || self.target.continue_machine(&state)).await?;
            }
            Ok::<_, SiteError>(())
        };
        let trouble = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(FailoverError::Stopped),
            result = work => result.err().map(|error| error.to_string()),
            () = self.clock.sleep(STOP_MAX) => Some(format!("it was not off after {} s", STOP_MAX.as_secs())),
        };
        if let Some(trouble) = trouble {
            let text = format!("machine {machine} is removed though it could not be turned off before: {trouble}");
            self.observer.event(RunEvent::Warning(text));
        }
        Ok(())
    }

    async fn stop_source_machine(&self, machine: &MachineId) -> Result<String, String> {
        let Some(source) = &self.source else { return Err("its site is not in this configuration".to_owned()) };
        self.observer.event(RunEvent::Step(format!("turning source machine {machine} off, if it answers")));
        let work = async {
            let mut step = source.stop_machine(machine, StopManner::Forced).await?;
            loop {
                match step.status {
                    StepStatus::Ready(proof) => return Ok::<_, SiteError>(proof),
                    StepStatus::Pending(pending) => {
                        self.clock.sleep(pending.poll_after).await;
                        step = source.continue_stop(machine, StopManner::Forced, &step.state).await?;
                    }
                }
            }
        };
        tokio::select! {
            result = work => result.map_err(|error| error.to_string()),
            () = self.clock.sleep(STOP_MAX) => Err(format!("it was not off after {} s", STOP_MAX.as_secs())),
        }
    }

    async fn recover_machine(
        &self,
        journal: &mut RunJournal,
        plan: &FailoverPlan,
        machine: &Machine,
        stop: &CancellationToken,
    ) -> Result<(), FailoverError> {
        if journal.state().machines.get(&machine.id).is_some_and(|progress| progress.up.is_some()) {
            return Ok(());
        }
        let mut sealed = Vec::with_capacity(machine.disks.len());
        for disk in &machine.disks {
            sealed.push(self.recover_disk(journal, &plan.detail, machine, disk, None, stop).await?);
        }
        let state = self.define_machine(journal, machine, sealed, stop).await?;
        journal.record(RunEntry::StartIntended { machine: machine.id.clone(), at: self.clock.now() }).await?;
        self.observer.event(RunEvent::Step(format!("starting machine {}", machine.id)));
        let doing = format!("starting machine {}", machine.id);
        let step = self.target.start_machine(&state).await;
        let (state, _) = self.settle_machine(journal, machine, step, &doing, stop).await?;
        let readiness = self.await_readiness(machine, &state, stop).await?;
        journal.record(RunEntry::Up { machine: machine.id.clone(), readiness, at: self.clock.now() }).await
    }

    async fn define_machine(
        &self,
        journal: &mut RunJournal,
        machine: &Machine,
        disks: Vec<AdapterState>,
        stop: &CancellationToken,
    ) -> Result<AdapterState, FailoverError> {
        let progress = journal.state().machines.get(&machine.id).cloned().unwrap_or_default();
        if let (true, Some(state)) = (progress.defined, progress.state) {
            return Ok(state);
        }
        let id = match progress.id {
            Some(id) => id,
            None => {
                let id = mint_id(&*self.clock, &*self.entropy);
                journal.record(RunEntry::MachineIntended { machine: machine.id.clone(), id: id.clone() }).await?;
                id
            }
        };
        let request = MachineRequest {
            id,
            owner: self.owner(journal.state()).to_string(),
            run: journal.state().head.run,
            machine: machine.clone(),
            disks,
        };
        let step = self.target.define_machine(&request).await;
        let doing = format!("making machine {}", machine.id);
        let (state, _) = self.settle_machine(journal, machine, step, &doing, stop).await?;
        journal.record(RunEntry::MachineDefined { machine: machine.id.clone() }).await?;
        Ok(state)
    }

    /// Removes all that a run made of a machine.
    async fn remove_made(&self, state: &RunState, machine: &MachineId) -> Result<(), FailoverError> {
        let Some(progress) = state.machines.get(machine) else { return Ok(()) };
        // Before the disks, which a machine that was made without an answer may use. What is known goes all the same.
        let unanswered = self.remove_unanswered(state, machine, progress).await;
        if let Some(made) = &progress.state {
            self.target
                .remove_machine(made)
                .await
                .map_err(FailoverError::site(format!("removing the recovered machine {machine}")))?;
        }
        if !progress.defined {
            for disk in progress.disks.values() {
                if let Some(made) = &disk.state {
                    let doing = format!("removing a recovered disk of machine {machine}");
                    self.target.discard_disk(made).await.map_err(FailoverError::site(doing))?;
                }
            }
        }
        unanswered
    }

    /// Removes what is half-made of a machine whose recovery failed. A machine that was started is left for the operator
    /// to look at.
    async fn remove_half_made(&self, journal: &mut RunJournal, machine: &MachineId) -> Result<(), FailoverError> {
        let started =
            |state: &RunState| state.machines.get(machine).is_none_or(|made| made.start_intended_at.is_some());
        if started(journal.state()) {
            return Ok(());
        }
        match self.remove_made(journal.state(), machine).await {
            Ok(()) => journal.record(RunEntry::MachineRemoved { machine: machine.clone() }).await,
            Err(error) => {
                let text = error.with_causes();
                self.observer.event(RunEvent::Warning(text.clone()));
                let known = journal.state().machines.get(machine).and_then(|made| made.error.clone());
                let error = format!("{}; left behind: {text}", known.as_deref().unwrap_or("it was not started"));
                journal.record(RunEntry::MachineFailed { machine: machine.clone(), error }).await
            }
        }
    }

    /// Removes what the site has of a machine though it never answered with a state: its ids were in the journal before it
    /// was asked.
    async fn remove_unanswered(
        &self,
        state: &RunState,
        machine: &MachineId,
        made: &MachineProgress,
    ) -> Result<(), FailoverError> {
        let unanswered = made.disks.values().filter(|disk| disk.state.is_none()).map(|disk| &disk.id);
        let ids: BTreeSet<&String> = unanswered.chain(made.id.as_ref().filter(|_| made.state.is_none())).collect();
        self.release_ids(state, machine, &ids).await
    }

    /// Removes what the site has of a machine by these ids.
    pub(crate) async fn release_ids(
        &self,
        state: &RunState,
        machine: &MachineId,
        ids: &BTreeSet<&String>,
    ) -> Result<(), FailoverError> {
        if ids.is_empty() {
            return Ok(());
        }
        let doing = format!("looking for what was begun of machine {machine}");
        let owned = self.target.owned(&self.owner(state)).await.map_err(FailoverError::site(doing))?;
        for item in owned.iter().filter(|item| item.kind != OwnedKind::Capture && ids.contains(&item.id)) {
            let doing = format!("removing {}", item.description);
            self.target.release(item).await.map_err(FailoverError::site(doing))?;
        }
        Ok(())
    }

    /// Releases what carries the owner's tag and was made for this run, though the journal does not know it. Says what
    /// could not be released.
    async fn release_owned_by(&self, state: &RunState) -> Vec<String> {
        let run = state.head.run.to_string();
        let owned = match self.target.owned(&self.owner(state)).await {
            Ok(owned) => owned,
            Err(error) => return vec![format!("what is left could not be listed: {error}")],
        };
        let mut leftovers = Vec::new();
        let of_this_run = |item: &&Owned| item.run.as_deref() == Some(&run) && item.kind != OwnedKind::Capture;
        for item in owned.iter().filter(of_this_run) {
            if let Err(error) = self.target.release(item).await {
                leftovers.push(format!("{}: {error}", item.description));
            }
        }
        leftovers
    }

    pub(crate) fn owner(&self, state: &RunState) -> OwnerTag {
        OwnerTag { vault: self.vault.id(), lineage: state.head.lineage }
    }
}

/// Keeps two processes of one host from executing runs of the same group at once. The lock ends with the returned file.
fn lock_group(
    state_folder: &Path,
    vault: VaultId,
    lineage: LineageId,
    group: &GroupName,
) -> Result<File, FailoverError> {
    let folder = state_folder.join("runs").join(vault.to_string());
    let path = folder.join(format!("{lineage}.lock"));
    let failed = |doing| {
        let path = path.clone();
        move |source: io::Error| FailoverError::File { path, doing, source }
    };
    fs::create_dir_all(&folder).map_err(failed("made"))?;
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed("locked"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(FailoverError::Busy { group: group.clone(), path }),
        Err(TryLockError::Error(source)) => Err(failed("locked")(source)),
    }
}
