//! Points that wait while the vault cannot be reached, and how they come into it.
//!
//! *Making a point wait.* The capture is read as always, what changed goes into the group's spool, and the capture is
//! released as committed: what waits is durable at this host, and the next capture builds on it. Only disks whose changes
//! are tracked can wait; what must be compared needs the vault. A cycle that loses the vault on its way makes the capture
//! that it holds wait.
//!
//! *Catching up.* As long as a group has points that wait, all its points go through the spool, in order. Each cycle first
//! makes its own, and then commits what waits, as new points of the lineage with the times at which they were captured:
//! every one, or what all of them come to ([`CatchUp`]). No other point is begun once the rest of its objective's time is
//! over, or a minute.
//!
//! *A lost vault is asked beside captures.* Only when a cycle's own point waits, and for no longer than until the next
//! one is due, something small is asked for. So a vault that swallows every question makes no capture late. One that
//! answers that, and is silent when a point is begun, makes captures late by its patience: two minutes at most.
//!
//! *Turns and captures.* While points wait a group has a turn each minute at least, to find the vault again. What it has
//! captured for less than half an objective is not captured again for that, unless somebody wants a point.
//!
//! *In a blackout* no guest is touched, and what waits comes into the vault all the same: a cycle then only catches up.
//!
//! *What is fenced, is fenced.* A vault that answers is asked whether this site may still write, before anything is
//! captured. A point that waits is committed as every other: on the newest commit, for the site that is active. It comes
//! into the vault only if it was captured at this site, and the newest point there is the one on which it builds. If not,
//! because the group was failed over, or another process replicated it, what waits is given up, and said to be.
//!
//! *What the vault refuses.* If it answers and a point that waits cannot be committed all the same, for another reason than
//! the store's rights or room, no other is captured until one can: the spool is not filled with what nobody may want.
//!
//! *A crash* between a commit and the removal of the point that waited is found by its capture's id, which the vault's
//! newest point has. Losing the spool loses the points in it and nothing else: the platform's tracking then does not lead
//! from the vault's newest point, and the next cycle compares. A spool that cannot be read or written is passed by while
//! the vault answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use farshore_core::{CaptureId, Coded as _, MachineId, Timestamp};
use farshore_platform::{CaptureOutcome, CapturedDisk, Changes};
use farshore_spool::{Spool, SpoolError, SpoolReader, SpoolRoom, SpoolWriter, SpooledDisk, SpooledPoint, Waiting};
use farshore_vault::{Lineage, PointDetails};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    CaptureJournal, CopyPlan, CycleEvent, CycleReport, DiskCopy, Link, PhaseTimes, ReplicationError, Replicator,
    Wishes,
    before::Before,
    capture::Capture,
    copy::{Target, copy_disk},
    cycle::{AdapterMeter, milliseconds},
    error::chain,
    plan::plan_disk,
    suspension::Cast,
};

/// What comes into the vault of the points that waited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CatchUp {
    /// Every one, in the order in which they were captured.
    #[default]
    EveryPoint,
    /// The newest at once, with what all of them changed; the others are passed over.
    Newest,
}

/// What a group does while the vault cannot be reached.
#[derive(Debug, Clone)]
pub struct Outage {
    /// Where its points wait.
    pub room: Arc<SpoolRoom>,
    /// The way to the vault.
    pub link: Arc<Link>,
    /// What comes into the vault afterwards.
    pub catch_up: CatchUp,
    /// How old the newest point may become: for how long a vault is waited for, and how long catching up may take in one cycle.
    pub objective: Duration,
    /// What this process knows of the group's outages.
    pub memory: Arc<OutageMemory>,
}

/// What a process knows of a group's outages. Another begins without it.
#[derive(Debug, Default)]
pub struct OutageMemory {
    /// How often the vault was silent when a point was begun, less half with each answer.
    silences: AtomicU32,
    /// What waits was refused by a vault that answers.
    is_stuck: AtomicBool,
    /// When what waits was captured, by the clock that is never put back.
    captured: Mutex<BTreeMap<CaptureId, Duration>>,
}

/// A vault that has not said in this time on what the next point builds is taken for lost: an objective, within these bounds; twice as
/// long after each silence, so that a slow one is not asked in vain for ever.
const PATIENCE_MIN: Duration = Duration::from_secs(5);
const PATIENCE_MAX: Duration = Duration::from_secs(30);
const PATIENCE_GROWN_MAX: Duration = Duration::from_secs(120);
/// A lost vault has so long for a small answer, however short the objective is.
const ANSWER_MIN: Duration = Duration::from_secs(1);

impl Outage {
    /// How long the vault is waited for when a point is begun.
    pub(crate) fn patience(&self) -> Duration {
        let first = self.objective.clamp(PATIENCE_MIN, PATIENCE_MAX);
        let silences = self.memory.silences.load(Ordering::Relaxed);
        first.saturating_mul(1 << silences.min(5)).min(PATIENCE_GROWN_MAX)
    }

    /// Notes whether the vault was silent when a point was begun.
    pub(crate) fn note_silence(&self, is_silent: bool) {
        let next = |silences: u32| Some(if is_silent { (silences + 1).min(5) } else { silences / 2 });
        let _ = self.memory.silences.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

impl OutageMemory {
    fn captured(&self) -> std::sync::MutexGuard<'_, BTreeMap<CaptureId, Duration>> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No cycle begins to commit another point after so long: other groups want its place. It has another turn soon.
const CATCHING_UP_MAX: Duration = Duration::from_secs(60);

/// For how long one cycle catches up: nine tenths of an objective, because the rest is for the source.
fn budget(objective: Duration) -> Duration {
    (objective / 10 * 9).min(CATCHING_UP_MAX)
}

impl Replicator {
    /// The group's spool, if its points may wait.
    pub(crate) fn open_spool(&self, lineage: &Lineage) -> Option<Spool> {
        let outage = self.outage.as_ref()?;
        let warn = |why: &dyn std::fmt::Display| {
            let text = format!("points cannot wait at this host if the vault is lost: {why}");
            self.observer.event(CycleEvent::Warning(text));
        };
        let sealer = lineage.waiting_sealer().inspect_err(|error| warn(error)).ok()?;
        let spool = Spool::open(&outage.room, self.vault.id(), lineage.id(), sealer);
        let spool = spool.inspect_err(|error| warn(error)).ok()?;
        // Nothing waits, and nothing may.
        (!spool.is_empty() || outage.room.limit_bytes() > 0).then_some(spool)
    }

    /// Whether the next point goes into the spool without the vault being asked first.
    pub(crate) fn goes_through(&self, spool: &Spool, lineage: &Lineage) -> bool {
        let is_lost = |outage: &Outage| outage.link.is_lost();
        !spool.is_empty() || (known_to_build_on(lineage).is_some() && self.outage.as_ref().is_some_and(is_lost))
    }

    /// What the vault was asked came to this error: it did not answer, or it did. What one group may not do, or has no room for, says
    /// nothing of the way there.
    pub(crate) fn note_answer(&self, error: &ReplicationError) {
        let Some(outage) = &self.outage else { return };
        match error {
            ReplicationError::Vault { source, .. } if source.is_refusal() => {}
            error if error.is_unanswered() => {
                outage.link.was_lost(self.clock.monotonic(), error.code(), &chain(error));
            }
            ReplicationError::Spool { .. } | ReplicationError::Stopped { .. } => {}
            _ => outage.link.answered(),
        }
    }

    /// The vault has answered.
    pub(crate) fn reached_the_vault(&self) {
        if let Some(outage) = &self.outage {
            outage.link.answered();
        }
    }

    /// Says how many points wait.
    pub(crate) fn tell_waiting(&self, spool: &Spool) {
        let (points, bytes) = (spool.waiting().len(), spool.bytes());
        self.observer.event(CycleEvent::Spooled { points, bytes });
    }

    /// One cycle through the spool: makes a point wait, and commits what waits as far as it can. None if nothing waits any more, and no point
    /// came of it: what waited was in the vault already, or was given up.
    ///
    /// # Errors
    /// [`ReplicationError::Waiting`] when points wait afterwards; else as a cycle's.
    #[expect(clippy::too_many_arguments, reason = "they are a cycle's own, at their places")]
    pub(crate) async fn cycle_through(
        &self,
        mut spool: Spool,
        lineage: &Lineage,
        journal: &mut CaptureJournal,
        wishes: Wishes,
        why: Option<ReplicationError>,
        meter: &mut AdapterMeter<'_>,
        stop: &CancellationToken,
    ) -> Result<Option<CycleReport>, ReplicationError> {
        let started = self.clock.monotonic();
        self.tell_waiting(&spool);
        self.see_that_it_may_write(lineage, journal, meter).await?;
        let before = self.before(&mut spool, lineage);
        if let Ok(Some((_, after))) = &before {
            self.release_leftovers(journal, Some(*after), meter).await;
        }
        let made = match before {
            Ok(Some((before, after))) if self.is_to_capture(&spool, &before, &wishes) => {
                self.make_wait(&mut spool, journal, (&before, after), wishes, meter, stop).await.map(Some)
            }
            Ok(_) => Ok(None),
            Err(error) => Err(error),
        };
        self.tell_waiting(&spool);
        if let Err(error @ ReplicationError::Stopped { .. }) = made {
            return Err(error);
        }
        let until = started.saturating_add(budget(self.outage.as_ref().map_or(Duration::ZERO, |one| one.objective)));
        let caught_up = self.catch_up(&mut spool, lineage, until, stop).await;
        self.tell_waiting(&spool);
        let is_lost = self.outage.as_ref().is_some_and(|outage| outage.link.is_lost());
        match (made, caught_up) {
            (Err(error), Ok(CaughtUp::All(_))) if is_lost => Err(error),
            (made, Ok(CaughtUp::All(report))) => {
                let is_mine = |report: &CycleReport| matches!(made, Ok(Some(id)) if report.point.capture == Some(id));
                match report {
                    Some(report) if is_mine(&report) => Ok(Some(*report)),
                    // All that waited is there. What this cycle did not capture is made in the vault now.
                    other => {
                        other.into_iter().for_each(|report| self.observer.event(CycleEvent::CaughtUp(report)));
                        Ok(None)
                    }
                }
            }
            // What cannot be read. A spool that only cannot be written is emptied first.
            (_, Err(error)) if error.is_of_a_sick_spool() && !is_lost => {
                let text = format!("the vault has to do without what waits: {}", chain(&error));
                self.observer.event(CycleEvent::Warning(text));
                Ok(None)
            }
            (_, Err(error)) if !error.is_unanswered() => Err(error),
            (Err(error), _) => Err(error),
            (Ok(_), Err(error)) => Err(self.waiting(&spool, Some(error), false)),
            (Ok(_), Ok(CaughtUp::NotYet)) => Err(self.waiting(&spool, why.or_else(|| self.lost_because()), false)),
            (Ok(_), Ok(CaughtUp::Partly)) => Err(self.waiting(&spool, None, true)),
        }
    }

    /// A cycle that touches no guest: what waits comes into the vault. Returns [`ReplicationError::NothingWaits`] when nothing does any more, else
    /// as a cycle fails.
    pub(crate) async fn only_catch_up(
        &self,
        spool: Option<Spool>,
        lineage: &Lineage,
        journal: &mut CaptureJournal,
        meter: &mut AdapterMeter<'_>,
        stop: &CancellationToken,
    ) -> ReplicationError {
        let wishes = Wishes { only_catches_up: true, ..Wishes::default() };
        if let Some(spool) = spool.filter(|spool| !spool.is_empty())
            && let Err(error) = self.cycle_through(spool, lineage, journal, wishes, None, meter, stop).await
        {
            return error;
        }
        ReplicationError::NothingWaits { group: self.protection.group.clone() }
    }

    /// Why the vault is lost, as whoever asked it last found.
    fn lost_because(&self) -> Option<ReplicationError> {
        let (code, why) = self.outage.as_ref()?.link.why()?;
        Some(ReplicationError::VaultLost { group: self.protection.group.clone(), code, why })
    }

    /// Whether a point is to wait beside those that wait already.
    fn is_to_capture(&self, spool: &Spool, newest: &Before, wishes: &Wishes) -> bool {
        let Some(outage) = &self.outage else { return false };
        if wishes.only_catches_up {
            return false;
        }
        if spool.is_empty() {
            return true;
        }
        if outage.memory.is_stuck.load(Ordering::Relaxed) && !outage.link.is_lost() {
            return false;
        }
        // Turns come faster than captures have to, so that a vault is found again soon, and caught up with.
        let now = self.clock.now();
        let is_young = now >= newest.captured_at && now.since(newest.captured_at) < outage.objective / 2;
        let is_wanted = wishes.is_asked || wishes.label.is_some() || wishes.consistency.is_some();
        is_wanted || !is_young
    }

    /// A group that was failed over is not captured any more, as soon as the vault says so. One that does not answer is lost.
    async fn see_that_it_may_write(
        &self,
        lineage: &Lineage,
        journal: &mut CaptureJournal,
        meter: &mut AdapterMeter<'_>,
    ) -> Result<(), ReplicationError> {
        if self.outage.as_ref().is_none_or(|outage| outage.link.is_lost()) {
            return Ok(());
        }
        match self.begin_point(lineage, true).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_unanswered() => {
                self.note_answer(&error);
                Ok(())
            }
            Err(error) => {
                self.release_without_point(journal, &error, meter).await;
                Err(error)
            }
        }
    }

    pub(crate) fn waiting(
        &self,
        spool: &Spool,
        why: Option<ReplicationError>,
        is_catching_up: bool,
    ) -> ReplicationError {
        ReplicationError::Waiting {
            group: self.protection.group.clone(),
            points: spool.waiting().len(),
            bytes: spool.bytes(),
            is_catching_up,
            source: why.map(Box::new),
        }
    }

    /// The point on which the next one that waits builds.
    fn before(&self, spool: &mut Spool, lineage: &Lineage) -> Result<Option<(Before, CaptureId)>, ReplicationError> {
        loop {
            let Some(last) = spool.waiting().next_back() else { return Ok(known_to_build_on(lineage)) };
            match spool.newest() {
                Ok(newest) => {
                    let known = |point: SpooledPoint| Some((Before::from(&point), point.details.capture?));
                    return Ok(newest.and_then(known));
                }
                Err(error @ SpoolError::Damaged { .. }) => self.give_up_from(spool, last, &error.to_string())?,
                Err(source) => return Err(self.spool_error("looking at what waits", source)),
            }
        }
    }

    /// Captures, and makes what was captured wait.
    async fn make_wait(
        &self,
        spool: &mut Spool,
        journal: &mut CaptureJournal,
        (before, after): (&Before, CaptureId),
        wishes: Wishes,
        meter: &mut AdapterMeter<'_>,
        stop: &CancellationToken,
    ) -> Result<CaptureId, ReplicationError> {
        // Before any guest is held.
        let writer = self.begin_to_wait(spool)?;
        let (capture, cast) = self.capture(journal, Some(before), &wishes, meter, stop).await?;
        self.observer.event(CycleEvent::Captured(capture.report.clone()));
        let kept = self.keep(spool, writer, journal, &capture, &cast, (before, after), wishes, meter, stop).await;
        match kept {
            Ok(id) => {
                self.returned(&cast);
                self.release(journal, &capture, CaptureOutcome::Committed, meter).await;
                Ok(id)
            }
            Err(error) => {
                let error = self.explain_break(&capture, error, meter).await;
                self.release(journal, &capture, CaptureOutcome::Abandoned, meter).await;
                Err(self.suspend_culprit(error, &cast, Some(before)))
            }
        }
    }

    /// Reads a capture into the spool. It waits when this returns.
    #[expect(clippy::too_many_arguments, reason = "they are a cycle's own, at their places")]
    pub(crate) async fn keep(
        &self,
        spool: &mut Spool,
        writer: SpoolWriter,
        journal: &CaptureJournal,
        capture: &Capture,
        cast: &Cast,
        (before, after): (&Before, CaptureId),
        wishes: Wishes,
        meter: &mut AdapterMeter<'_>,
        stop: &CancellationToken,
    ) -> Result<CaptureId, ReplicationError> {
        let disks = self.disks_of(capture, &cast.machines, meter).await?;
        let mut planned = Vec::with_capacity(disks.len());
        for disk in &disks {
            let known = self.known(before, disk)?;
            let is_distrusted = journal.distrusts(&disk.machine, &disk.disk);
            let (basis, reason, plan) = plan_disk(known, is_distrusted, disk);
            if !matches!(plan, CopyPlan::Changed { .. }) {
                let reason = match (&disk.changes, reason.is_empty()) {
                    (Changes::Unknown(why), true) => why.clone(),
                    (_, true) => "no point has it yet".to_owned(),
                    (_, false) => reason,
                };
                let (group, machine, disk) = (self.protection.group.clone(), disk.machine.clone(), disk.disk.clone());
                return Err(ReplicationError::NeedsVault { group, machine, disk, reason });
            }
            planned.push((disk, basis, reason, plan));
        }
        let (mut copied, mut bases, mut spooled) = (DiskCopy::default(), Vec::new(), Vec::new());
        for (number, (disk, basis, reason, plan)) in (0u32..).zip(planned) {
            self.tell_disk(disk, basis, reason);
            copied += self.keep_disk(capture, disk, number, &writer, &plan, meter, stop).await?;
            bases.push(basis);
            let (machine, disk_id, size_bytes) = (disk.machine.clone(), disk.disk.clone(), disk.size_bytes);
            spooled.push(SpooledDisk { machine, disk: disk_id, size_bytes });
        }
        self.verify(capture, meter, stop).await?;
        if stop.is_cancelled() {
            return Err(ReplicationError::Stopped { group: self.protection.group.clone() });
        }
        let details = capture.details(cast, Some(before), &disks, &bases, wishes.label, copied.untracked_bytes);
        let point = SpooledPoint {
            suspended: before.suspended_disks(&details.suspended),
            after,
            site: self.source.site().clone(),
            details,
            disks: spooled,
            read_bytes: copied.read_bytes,
            held_microseconds: capture.report.held_microseconds,
        };
        let (id, kept) = (capture.id(), spool.finish(writer, point).await);
        kept.map_err(|source| self.spool_error("making a point wait", source))?;
        if let Some(outage) = &self.outage {
            outage.memory.captured().insert(id, capture.captured);
        }
        Ok(id)
    }

    /// Makes a capture wait whose cycle has lost the vault on its way. None if it cannot, which is said; an error if it was stopped.
    #[expect(clippy::too_many_arguments, reason = "they are a cycle's own, at their places")]
    pub(crate) async fn keep_instead(
        &self,
        spool: &mut Spool,
        journal: &CaptureJournal,
        capture: &Capture,
        cast: &Cast,
        after: (&Before, CaptureId),
        wishes: Wishes,
        meter: &mut AdapterMeter<'_>,
        stop: &CancellationToken,
    ) -> Option<Result<(), ReplicationError>> {
        let kept = match self.begin_to_wait(spool) {
            Ok(to) => self.keep(spool, to, journal, capture, cast, after, wishes, meter, stop).await,
            Err(error) => Err(error),
        };
        match kept {
            Ok(_) => {
                self.tell_waiting(spool);
                self.returned(cast);
                Some(Ok(()))
            }
            Err(stopped @ ReplicationError::Stopped { .. }) => Some(Err(stopped)),
            Err(why) => {
                let text = format!("the point cannot wait at this host either: {why}");
                self.observer.event(CycleEvent::Warning(text));
                None
            }
        }
    }

    /// Begins a point that is to wait.
    pub(crate) fn begin_to_wait(&self, spool: &Spool) -> Result<SpoolWriter, ReplicationError> {
        spool.begin().map_err(|source| self.spool_error("making a point wait", source))
    }

    #[expect(clippy::too_many_arguments, reason = "they are a cycle's own, at their places")]
    async fn keep_disk(
        &self,
        capture: &Capture,
        disk: &CapturedDisk,
        number: u32,
        writer: &SpoolWriter,
        plan: &CopyPlan,
        meter: &mut AdapterMeter<'_>,
        stop: &CancellationToken,
    ) -> Result<DiskCopy, ReplicationError> {
        let transport = self.open_disk(capture, disk, meter).await?;
        let moved = |bytes| self.observer.event(CycleEvent::Moved(bytes));
        let target = Target::Spool { writer, disk: number };
        let copied =
            copy_disk(Arc::clone(&transport), disk.size_bytes, &target, plan, &self.limits, stop, &moved).await;
        // The capture is released whatever the server answers to the goodbye.
        let _ = transport.close().await;
        copied.map_err(|error| self.copy_error(disk, error))
    }

    /// Commits what waits, until nothing does, the vault is lost, or it is time for the next capture. The points are told, but for the last
    /// if nothing waits any more.
    async fn catch_up(
        &self,
        spool: &mut Spool,
        lineage: &Lineage,
        until: Duration,
        stop: &CancellationToken,
    ) -> Result<CaughtUp, ReplicationError> {
        let Some(outage) = &self.outage else { return Ok(CaughtUp::NotYet) };
        let mut caught_up = CaughtUp::NotYet;
        while !stop.is_cancelled() {
            let now = self.clock.monotonic();
            if matches!(caught_up, CaughtUp::Partly) && now >= until {
                return Ok(caught_up);
            }
            if outage.link.is_lost() {
                if !outage.link.may_ask(now) {
                    return Ok(CaughtUp::NotYet);
                }
                self.see_that_it_answers(until.saturating_sub(now).max(ANSWER_MIN)).await?;
            }
            // A lost vault was asked all the same: what cannot wait can be made there.
            if spool.is_empty() {
                return Ok(CaughtUp::All(None));
            }
            let committed = self.commit_waiting(spool, lineage, outage, stop).await;
            let is_refused = matches!(&committed, Err(error) if !error.is_unanswered()
                && !matches!(error, ReplicationError::Spool { .. } | ReplicationError::Stopped { .. }));
            outage.memory.is_stuck.store(is_refused, Ordering::Relaxed);
            if let Err(error) = &committed {
                self.note_answer(error);
            } else {
                self.reached_the_vault();
            }
            caught_up = CaughtUp::Partly;
            match committed? {
                report if spool.is_empty() => return Ok(CaughtUp::All(report.map(Box::new))),
                Some(report) => self.observer.event(CycleEvent::CaughtUp(Box::new(report))),
                None => {}
            }
        }
        match spool.is_empty() {
            true => Ok(CaughtUp::All(None)),
            false => Ok(caught_up),
        }
    }

    /// Asks a lost vault for something small.
    async fn see_that_it_answers(&self, limit: Duration) -> Result<(), ReplicationError> {
        let answer = tokio::select! {
            biased;
            answer = self.vault.answers() => answer.map_err(|source| self.vault_error("asking the vault", source)),
            () = self.clock.sleep(limit) => {
                Err(ReplicationError::VaultSilent { group: self.protection.group.clone(), waited: limit })
            }
        };
        match &answer {
            Ok(()) => self.reached_the_vault(),
            Err(error) => self.note_answer(error),
        }
        answer
    }

    /// Commits the oldest point that waits, or what all of them come to. None if what waited is there already, or was given up.
    async fn commit_waiting(
        &self,
        spool: &mut Spool,
        lineage: &Lineage,
        outage: &Outage,
        stop: &CancellationToken,
    ) -> Result<Option<CycleReport>, ReplicationError> {
        let begun = self.clock.monotonic();
        let (writer, parent) = self.begin_point(lineage, true).await?;
        let newest = parent.as_ref().and_then(|point| point.capture);
        let waiting: Vec<Waiting> = spool.waiting().collect();
        let Some(first) = waiting.first().copied() else { return Ok(None) };
        let Some(oldest) = self.readable(spool, first, SpoolReader::into_point)? else { return Ok(None) };
        if newest.is_some() && newest == oldest.details.capture {
            // A crash came between its commit and its removal.
            return self.is_there(spool, first).map(|()| None);
        }
        if oldest.site != *self.source.site() {
            let why = format!("they were captured at site {}", oldest.site);
            return self.give_up_from(spool, first, &why).map(|()| None);
        }
        if newest != Some(oldest.after) {
            // The same, of points that came in as one.
            for later in waiting.iter().rev() {
                let Some(point) = self.readable(spool, *later, SpoolReader::into_point)? else { return Ok(None) };
                if newest.is_some() && point.details.capture == newest {
                    return self.is_there(spool, *later).map(|()| None);
                }
            }
            let why = "the vault's newest point is not the one on which they build";
            return self.give_up_from(spool, first, why).map(|()| None);
        }
        let chosen = match outage.catch_up {
            CatchUp::EveryPoint => 1,
            CatchUp::Newest => {
                let Some(count) = self.that_come_to_one(spool, &waiting)? else { return Ok(None) };
                count
            }
        };
        let chosen = &waiting[..chosen];
        let Some(replayed) = self.replay(spool, chosen, &writer, stop).await? else { return Ok(None) };
        let copied = self.clock.monotonic();
        let SpooledPoint { mut details, held_microseconds, .. } = replayed.point;
        let capture = details.capture;
        let waited = self.since(capture, details.captured_at);
        add_note(&mut details, waited, chosen.len());
        let point = match writer.commit(details).await {
            Ok(point) => point,
            Err(error) if error.is_not_durable() => {
                return Err(self.vault_error("committing the recovery point", error));
            }
            Err(error) => match self.committed_all_the_same(lineage, capture).await {
                Some(point) => point,
                None => return Err(self.vault_error("committing the recovery point", error)),
            },
        };
        let committed = self.clock.monotonic();
        self.observer.event(CycleEvent::Committed(point.sequence));
        let lag = self.since(capture, point.captured_at);
        if let Some(last) = chosen.last()
            && let Err(error) = self.is_there(spool, *last)
        {
            // It is found by its capture once it can be removed.
            let text = format!("a point that is in the vault by now still waits: {}", chain(&error));
            self.observer.event(CycleEvent::Warning(text));
        }
        Ok(Some(CycleReport {
            group: self.protection.group.clone(),
            read_bytes: replayed.read_bytes,
            zero_bytes: 0,
            untracked_bytes: 0,
            held_microseconds,
            lag_milliseconds: milliseconds(lag),
            times: PhaseTimes {
                copy_milliseconds: milliseconds(copied.saturating_sub(begun)),
                commit_milliseconds: milliseconds(committed.saturating_sub(copied)),
                ..PhaseTimes::default()
            },
            point,
            release_note: String::new(),
        }))
    }

    /// How many of these come to one point: all up to the first that somebody asked for by a label, and without the same machines. None if
    /// one is damaged.
    fn that_come_to_one(&self, spool: &mut Spool, waiting: &[Waiting]) -> Result<Option<usize>, ReplicationError> {
        let mut suspended = None;
        for (number, one) in (1..).zip(waiting) {
            let Some(point) = self.readable(spool, *one, SpoolReader::into_point)? else { return Ok(None) };
            let own: BTreeSet<MachineId> = point.details.suspended.iter().cloned().collect();
            if *suspended.get_or_insert_with(|| own.clone()) != own {
                return Ok(Some(number - 1));
            }
            if point.details.label.is_some() {
                return Ok(Some(number));
            }
        }
        Ok(Some(waiting.len()))
    }

    /// How long ago a point was captured: by the clock on the wall, or by the other if this process captured it and that is longer.
    fn since(&self, capture: Option<CaptureId>, captured_at: Timestamp) -> Duration {
        let by_the_wall = self.clock.now().since(captured_at);
        let remembered = self.outage.as_ref().zip(capture);
        let captured = remembered.and_then(|(outage, id)| outage.memory.captured().get(&id).copied());
        captured.map_or(by_the_wall, |captured| self.clock.monotonic().saturating_sub(captured).max(by_the_wall))
    }

    /// Something of a point that waits; none if it is damaged: then it and those after it are given up.
    pub(crate) fn readable<T>(
        &self,
        spool: &mut Spool,
        waiting: Waiting,
        take: impl FnOnce(SpoolReader) -> T,
    ) -> Result<Option<T>, ReplicationError> {
        match spool.read(waiting) {
            Ok(reader) => Ok(Some(take(reader))),
            Err(error @ SpoolError::Damaged { .. }) => {
                self.give_up_from(spool, waiting, &error.to_string())?;
                Ok(None)
            }
            Err(source) => Err(self.spool_error("reading what waits", source)),
        }
    }

    /// What waited up to this point is in the vault.
    fn is_there(&self, spool: &mut Spool, last: Waiting) -> Result<(), ReplicationError> {
        if let Some(outage) = self.outage.as_ref().filter(|_| spool.waiting().next_back() == Some(last)) {
            outage.memory.captured().clear();
        }
        spool.remove_to(last).map_err(|source| self.spool_error("removing what waited", source))
    }

    /// This point and those after it will not come into the vault.
    pub(crate) fn give_up_from(&self, spool: &mut Spool, first: Waiting, why: &str) -> Result<(), ReplicationError> {
        let points = spool.waiting().filter(|waiting| waiting.number >= first.number).count();
        spool.remove_from(first).map_err(|source| self.spool_error("removing what waited", source))?;
        self.observer.event(CycleEvent::GivenUp { points, why: why.to_owned() });
        Ok(())
    }

    pub(crate) fn spool_error(&self, doing: &'static str, source: SpoolError) -> ReplicationError {
        ReplicationError::Spool { group: self.protection.group.clone(), doing, source }
    }
}

/// How far a cycle caught up.
enum CaughtUp {
    /// Nothing waits any more; the report of the last point, if one was committed for it.
    All(Option<Box<CycleReport>>),
    /// The vault answers, and there is more to do.
    Partly,
    /// It was not asked.
    NotYet,
}

/// The newest point that is known to be in the vault, if what waits can say that it builds on it.
pub(crate) fn known_to_build_on(lineage: &Lineage) -> Option<(Before, CaptureId)> {
    let newest = lineage.newest_written()?;
    Some((Before::from(&*newest), newest.capture?))
}

/// Says that a point waited.
fn add_note(details: &mut PointDetails, waited: Duration, points: usize) {
    let of = match points {
        1 => String::new(),
        points => format!(", with what {} points before it had changed", points - 1),
    };
    let text = format!("it waited {} s at its source's host for the vault{of}", waited.as_secs());
    details.note = if details.note.is_empty() { text } else { format!("{}; {text}", details.note) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_the_objective_and_grows_with_each_silence() {
        let at = Duration::from_secs;
        let folder = std::path::PathBuf::from("nowhere");
        let outage = |objective| Outage {
            room: SpoolRoom::open(folder.clone(), 0).expect("room"),
            link: Arc::default(),
            catch_up: CatchUp::default(),
            objective,
            memory: Arc::default(),
        };
        assert_eq!([3, 15, 900].map(|rpo| outage(at(rpo)).patience()), [5, 15, 30].map(at));
        let short = outage(at(3));
        let grown = (0..6).map(|_| {
            short.note_silence(true);
            short.patience()
        });
        assert_eq!(grown.collect::<Vec<_>>(), [10, 20, 40, 80, 120, 120].map(at));
        let fallen = (0..4).map(|_| {
            short.note_silence(false);
            short.patience()
        });
        assert_eq!(fallen.collect::<Vec<_>>(), [20, 10, 5, 5].map(at));
    }
}
