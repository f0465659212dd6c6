//! One cycle: capture, read what changed, store, commit, release.
//!
//! ## Order, and what a crash leaves at each place
//! 1. The captures that an earlier process left are released (or kept in the journal if the platform does not answer),
//!    also when the vault cannot be reached or the group was failed over: `leftovers.rs`.
//! 2. The capture's id is journalled, then the adapter is asked to begin. *Crash:* step 1 of the next cycle finds what is
//!    there by its tag.
//! 3. Every state that the adapter returns is journalled before it is used. *Crash:* step 1 of the next cycle ends the
//!    capture as `abandoned`: change tracking goes on from the last committed point, and the next cycle is a delta.
//! 4. Disks are read and stored. *Crash:* stored packs are orphans that the next writer of the lineage uses again.
//! 5. The adapter is asked whether the capture held its instant until after the last read. Only then the point is
//!    committed. *Crash after the commit:* the vault's newest point names the capture, so step 1 of the next cycle ends it
//!    as `committed`.
//! 6. The capture is released. Nothing is released at the source before the commit is durable.
//!
//! Where points may wait at this host, a cycle that does not reach the vault goes through the spool instead: `outage.rs`.
//!
//! A cycle is dropped only by a crash: to end one early, cancel its token; it then releases the capture and returns
//! [`ReplicationError::Stopped`].

use std::{path::PathBuf, sync::Arc, time::Duration};

use farshore_core::{
    Basis, CaptureId, Clock, Code, Consistency, DiskId, Entropy, GroupName, MachineId, PointLabel, Sequence, Timestamp,
};
use farshore_platform::{CaptureOutcome, CaptureReport, CapturedDisk, SiteError, Source};
use farshore_spool::Spool;
use farshore_vault::{CapsuleDraft, Error as VaultError, Lineage, Point, PointWriter, Vault};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    CaptureJournal, CopyLimits, CopyPlan, DiskCopy, Doubt, Outage, ReplicationError,
    before::Before,
    capture::Capture,
    copy::{CopyError, Target, copy_disk},
    outage::known_to_build_on,
    plan::plan_disk,
    suspension::{Cast, Suspensions},
};

/// What of a site is protected, and how.
#[derive(Debug, Clone)]
pub struct Protection {
    /// The group's name: its lineage in the vault.
    pub group: GroupName,
    /// Its machines, by the ids of their site.
    pub machines: Vec<MachineId>,
    /// What the guests are asked to do before the instant.
    pub consistency: Consistency,
    /// No guest is held longer than this.
    pub stall_limit: Duration,
    /// How much of what is said to be unchanged is read again; none if nothing is.
    pub doubt: Option<Doubt>,
}

/// What happens in a cycle, as it happens.
#[derive(Debug, Clone)]
pub enum CycleEvent {
    /// A capture that an earlier process left was dealt with; the text says how.
    Leftover(String),
    /// The capture is not ready yet; the text says what the site waits for. Each text comes once.
    Waiting(String),
    /// The capture is ready.
    Captured(CaptureReport),
    /// A disk's reading begins.
    Disk {
        /// Its machine.
        machine: MachineId,
        /// The disk.
        disk: DiskId,
        /// Its size in bytes.
        size_bytes: u64,
        /// How its changes are found.
        basis: Basis,
        /// Why it is compared, if it is.
        reason: String,
    },
    /// Change tracking left out bytes of a disk that had changed. All of the disk is read and compared now.
    Untracked {
        /// Its machine.
        machine: MachineId,
        /// The disk.
        disk: DiskId,
        /// How many were found.
        bytes: u64,
    },
    /// So many more bytes were read and accepted.
    Moved(u64),
    /// So many points wait at this host for the vault.
    Spooled {
        /// How many.
        points: usize,
        /// Bytes of them.
        bytes: u64,
    },
    /// A point that had waited is durable in the vault, and others still wait.
    CaughtUp(Box<CycleReport>),
    /// Points that waited will not come into the vault.
    GivenUp {
        /// How many.
        points: usize,
        /// Why, as a clause.
        why: String,
    },
    /// A machine cannot be captured, and its group goes on without it.
    Suspended {
        /// Which.
        machine: MachineId,
        /// The code of why.
        code: Code,
        /// Why, with its causes.
        why: String,
        /// When what the points have of it was captured; none if they have nothing.
        captured_at: Option<Timestamp>,
    },
    /// A machine that was suspended is part of a point again.
    Returned {
        /// Which.
        machine: MachineId,
        /// For how long it was not.
        suspended_for: Duration,
    },
    /// The point is durable.
    Committed(Sequence),
    /// Something that the operator should know, though the cycle goes on.
    Warning(String),
}

/// Hears what happens in a cycle. It must return at once.
pub trait CycleObserver: Send + Sync {
    /// Called at each event, from any thread.
    fn event(&self, event: CycleEvent);
}

/// How long each phase took.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct PhaseTimes {
    /// Asking for machines, and beginning the capture.
    pub capture_milliseconds: u64,
    /// Reading and storing.
    pub copy_milliseconds: u64,
    /// Making the point durable.
    pub commit_milliseconds: u64,
    /// Releasing the capture.
    pub release_milliseconds: u64,
    /// What of all these was spent in calls of the adapter, in microseconds.
    pub adapter_microseconds: u64,
}

/// What a cycle did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CycleReport {
    /// The group.
    pub group: GroupName,
    /// The point.
    pub point: Point,
    /// Bytes read from the source.
    pub read_bytes: u64,
    /// Bytes that the source said are zeros.
    pub zero_bytes: u64,
    /// Bytes that the source said are unchanged, and that differed all the same. Their disks were compared.
    #[serde(default)]
    pub untracked_bytes: u64,
    /// The longest hold of a guest, in microseconds.
    pub held_microseconds: u64,
    /// From the capture's instant to the durable point.
    pub lag_milliseconds: u64,
    /// How long each phase took.
    pub times: PhaseTimes,
    /// What could not be released yet; may be empty.
    pub release_note: String,
}

/// Replicates one group.
pub struct Replicator {
    /// The vault.
    pub vault: Arc<Vault>,
    /// The site that runs the machines.
    pub source: Arc<dyn Source>,
    /// What is protected.
    pub protection: Protection,
    /// What each point carries beside the disks. What the last point has too is not stored again.
    pub capsule: Vec<CapsuleDraft>,
    /// Where the host keeps its diaries, and the index of what the vault holds.
    pub state_folder: PathBuf,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where ids come from.
    pub entropy: Arc<dyn Entropy>,
    /// Who hears what happens.
    pub observer: Arc<dyn CycleObserver>,
    /// How much is on the way at once.
    pub limits: CopyLimits,
    /// What happens while the vault cannot be reached; if none, there are no points then.
    pub outage: Option<Outage>,
    /// Machines that the others go on without; if none, a machine that fails, fails the group's cycle.
    pub suspensions: Option<Arc<Suspensions>>,
}

/// What somebody wants of a cycle that they asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// What the point is called.
    pub label: Option<PointLabel>,
    /// What the guests are asked to do before the instant, if not what the group's protection says.
    pub consistency: Option<Consistency>,
    /// Somebody wants a point of now, however young the newest is.
    pub is_asked: bool,
    /// Nothing is captured: what waits at this host comes into the vault, as far as it can.
    pub only_catches_up: bool,
}

impl Wishes {
    /// What one cycle has to do for both, if it can.
    pub(crate) fn join(&self, other: &Self) -> Option<Self> {
        let label = match (&self.label, &other.label) {
            (Some(one), Some(another)) if one != another => return None,
            (label, None) | (_, label) => label.clone(),
        };
        let consistency = match (self.consistency, other.consistency) {
            (Some(Consistency::Application), _) | (_, Some(Consistency::Application)) => Some(Consistency::Application),
            (one, other) => one.or(other),
        };
        let is_asked = self.is_asked || other.is_asked;
        Some(Self { label, consistency, is_asked, only_catches_up: self.only_catches_up && other.only_catches_up })
    }
}

/// A point in the making.
struct Begun<'a> {
    lineage: &'a Lineage,
    writer: PointWriter,
    before: Option<&'a Before>,
    cast: &'a Cast,
}

impl Replicator {
    /// Runs one cycle to a committed point.
    ///
    /// # Errors
    /// See [`ReplicationError`]; the capture is then released, or journalled for the next cycle to release.
    pub async fn cycle(&self, wishes: Wishes, stop: &CancellationToken) -> Result<CycleReport, ReplicationError> {
        let started = self.clock.monotonic();
        let group = &self.protection.group;
        let mut journal =
            CaptureJournal::open(&self.state_folder, self.vault.id(), self.vault.lineage_id(group), group)?;
        let mut meter = AdapterMeter { clock: &*self.clock, spent: Duration::ZERO };
        let lineage = match self.lineage().await {
            Ok(lineage) => lineage,
            Err(error) => {
                self.release_without_point(&mut journal, &error, &mut meter).await;
                return Err(error);
            }
        };
        let mut spool = self.open_spool(&lineage);
        if wishes.only_catches_up {
            return Err(self.only_catch_up(spool, &lineage, &mut journal, &mut meter, stop).await);
        }
        let mut begun = match spool.as_ref().is_some_and(|spool| self.goes_through(spool, &lineage)) {
            true => None,
            false => Some(self.begin_point(&lineage, self.may_wait(spool.as_ref(), &lineage)).await),
        };
        let is_unanswered = matches!(&begun, Some(Err(error)) if error.is_unanswered());
        if let Some(Err(error)) = &begun {
            self.note_answer(error);
        }
        let may_wait = begun.is_none() || (is_unanswered && self.may_wait(spool.as_ref(), &lineage));
        if let Some(spool) = spool.take_if(|_| may_wait) {
            let (wishes, why) = (wishes.clone(), begun.take().and_then(Result::err));
            let through = self.cycle_through(spool, &lineage, &mut journal, wishes, why, &mut meter, stop).await?;
            if let Some(report) = through {
                return Ok(report);
            }
        }
        let begun = match begun {
            Some(begun) => begun,
            None => self.begin_point(&lineage, false).await,
        };
        let (writer, before) = match begun {
            Ok((writer, parent)) => (writer, parent.as_ref().map(Before::from)),
            Err(error) => {
                self.release_without_point(&mut journal, &error, &mut meter).await;
                return Err(error);
            }
        };
        self.reached_the_vault();
        self.release_leftovers(&mut journal, before.as_ref().and_then(|before| before.capture), &mut meter).await;

        let (capture, cast) = self.capture(&mut journal, before.as_ref(), &wishes, &mut meter, stop).await?;
        let captured = self.clock.monotonic();
        self.observer.event(CycleEvent::Captured(capture.report.clone()));
        let begun = Begun { lineage: &lineage, writer, before: before.as_ref(), cast: &cast };
        let stored = self.store(&mut journal, &capture, begun, wishes.clone(), &mut meter, stop).await;
        let (point, copied, copy_end) = match stored {
            Ok(stored) => stored,
            Err(error) => {
                let error = self.explain_break(&capture, error, &mut meter).await;
                if error.is_unanswered() {
                    self.note_answer(&error);
                    let after = before.as_ref().and_then(|before| Some((before, before.capture?)));
                    if let (Some(spool), Some(after)) = (&mut spool, after) {
                        let made =
                            self.keep_instead(spool, &journal, &capture, &cast, after, wishes, &mut meter, stop).await;
                        if let Some(made) = made {
                            let outcome =
                                made.as_ref().map_or(CaptureOutcome::Abandoned, |()| CaptureOutcome::Committed);
                            self.release(&mut journal, &capture, outcome, &mut meter).await;
                            made?;
                            return Err(self.waiting(spool, Some(error), false));
                        }
                    }
                }
                self.release(&mut journal, &capture, CaptureOutcome::Abandoned, &mut meter).await;
                return Err(self.suspend_culprit(error, &cast, before.as_ref()));
            }
        };
        let committed = self.clock.monotonic();
        self.observer.event(CycleEvent::Committed(point.sequence));
        // A disk that was not believed was compared for this point.
        if let Err(error) = journal.trust_again(&cast.machines) {
            self.observer.event(CycleEvent::Warning(format!("disks are compared once more: {error}")));
        }
        self.returned(&cast);
        let lag = committed.saturating_sub(capture.captured);
        let release_note = self.release(&mut journal, &capture, CaptureOutcome::Committed, &mut meter).await;
        Ok(CycleReport {
            group: self.protection.group.clone(),
            read_bytes: copied.read_bytes,
            zero_bytes: copied.zero_bytes,
            untracked_bytes: copied.untracked_bytes,
            held_microseconds: capture.report.held_microseconds,
            lag_milliseconds: milliseconds(lag),
            times: PhaseTimes {
                capture_milliseconds: milliseconds(captured.saturating_sub(started)),
                copy_milliseconds: milliseconds(copy_end.saturating_sub(captured)),
                commit_milliseconds: milliseconds(committed.saturating_sub(copy_end)),
                release_milliseconds: milliseconds(self.clock.monotonic().saturating_sub(committed)),
                adapter_microseconds: u64::try_from(meter.spent.as_micros()).unwrap_or(u64::MAX),
            },
            point,
            release_note,
        })
    }

    async fn lineage(&self) -> Result<Lineage, ReplicationError> {
        let site = self.source.site();
        self.vault
            .create_lineage(&self.protection.group, site)
            .await
            .map_err(|source| self.vault_error("opening its lineage", source))
    }

    /// Whether a point could wait instead of being made in the vault.
    fn may_wait(&self, spool: Option<&Spool>, lineage: &Lineage) -> bool {
        spool.is_some() && known_to_build_on(lineage).is_some()
    }

    /// Begins a point. If it could wait instead, the vault is not waited for longer than that is worth.
    pub(crate) async fn begin_point(
        &self,
        lineage: &Lineage,
        may_wait: bool,
    ) -> Result<(PointWriter, Option<Point>), ReplicationError> {
        lineage.keep_index(&self.state_folder.join("index"));
        let beginning = lineage.begin_next_point(self.source.site());
        let begun = match self.outage.as_ref().filter(|_| may_wait) {
            None => beginning.await,
            Some(outage) => {
                let patience = outage.patience();
                let begun = tokio::select! {
                    biased;
                    begun = beginning => Some(begun),
                    () = self.clock.sleep(patience) => None,
                };
                outage.note_silence(begun.is_none());
                let group = self.protection.group.clone();
                begun.ok_or(ReplicationError::VaultSilent { group, waited: patience })?
            }
        };
        let writer = begun.map_err(|source| match source {
            VaultError::Fenced { group, site, current_generation, active_site, .. } => {
                ReplicationError::Fenced { group, site, active: active_site, generation: current_generation }
            }
            source => self.vault_error("beginning a recovery point", source),
        })?;
        let parent = writer.parent().cloned();
        Ok((writer, parent))
    }

    /// Reads and stores all disks, and commits. Returns the point, what was moved, and when the copy ended.
    async fn store(
        &self,
        journal: &mut CaptureJournal,
        capture: &Capture,
        begun: Begun<'_>,
        wishes: Wishes,
        meter: &mut AdapterMeter<'_>,
        stop: &CancellationToken,
    ) -> Result<(Point, DiskCopy, Duration), ReplicationError> {
        let Begun { lineage, writer, before, cast } = begun;
        let disks = self.disks_of(capture, &cast.machines, meter).await?;
        for item in &self.capsule {
            let added = writer.add_item(item).await;
            added.map_err(|source| self.vault_error("storing what the recovery point carries beside disks", source))?;
        }
        let mut copied = DiskCopy::default();
        let mut bases = Vec::with_capacity(disks.len());
        for disk in &disks {
            let (basis, moved) = self.store_disk(journal, capture, &writer, before, disk, meter, stop).await?;
            bases.push(basis);
            copied += moved;
        }
        self.verify(capture, meter, stop).await?;
        if stop.is_cancelled() {
            return Err(ReplicationError::Stopped { group: self.protection.group.clone() });
        }
        let copy_end = self.clock.monotonic();
        let details = capture.details(cast, before, &disks, &bases, wishes.label, copied.untracked_bytes);
        let point = match writer.commit(details).await {
            Ok(point) => point,
            // What can be read now may be gone after a power failure: it is not called committed.
            Err(error) if error.is_not_durable() => {
                return Err(self.vault_error("committing the recovery point", error));
            }
            Err(error) => match self.committed_all_the_same(lineage, Some(capture.entry.request.id)).await {
                Some(point) => point,
                None => return Err(self.vault_error("committing the recovery point", error)),
            },
        };
        Ok((point, copied, copy_end))
    }

    /// The point of a capture whose commit failed: the store may have kept it and lost the answer. If the vault cannot be
    /// asked either, the capture is abandoned; should the point be there after all, the next cycle compares.
    pub(crate) async fn committed_all_the_same(&self, lineage: &Lineage, capture: Option<CaptureId>) -> Option<Point> {
        let newest = lineage.settled_head().await.ok()?.newest_point?;
        let point = lineage.point(newest).await.ok()?;
        (capture.is_some() && point.capture == capture).then_some(point)
    }

    /// What the point before has of a disk: its size, and whether it is tracked.
    ///
    /// # Errors
    /// [`ReplicationError::DiskShrank`].
    pub(crate) fn known(&self, before: &Before, disk: &CapturedDisk) -> Result<Option<(u64, bool)>, ReplicationError> {
        match before.disk(&disk.machine, &disk.disk) {
            Some(before) if before.size_bytes > disk.size_bytes => Err(ReplicationError::DiskShrank {
                group: self.protection.group.clone(),
                machine: disk.machine.clone(),
                disk: disk.disk.clone(),
                before_bytes: before.size_bytes,
                now_bytes: disk.size_bytes,
            }),
            known => Ok(known.map(|before| (before.size_bytes, before.token.is_some()))),
        }
    }

    /// Says that a disk's reading begins.
    pub(crate) fn tell_disk(&self, disk: &CapturedDisk, basis: Basis, reason: String) {
        self.observer.event(CycleEvent::Disk {
            machine: disk.machine.clone(),
            disk: disk.disk.clone(),
            size_bytes: disk.size_bytes,
            basis,
            reason,
        });
    }

    #[expect(clippy::too_many_arguments, reason = "they are a cycle's own, at their places")]
    async fn store_disk(
        &self,
        journal: &mut CaptureJournal,
        capture: &Capture,
        writer: &PointWriter,
        before: Option<&Before>,
        disk: &CapturedDisk,
        meter: &mut AdapterMeter<'_>,
        stop: &CancellationToken,
    ) -> Result<(Basis, DiskCopy), ReplicationError> {
        let known = before.map(|before| self.known(before, disk)).transpose()?.flatten();
        let is_distrusted = journal.distrusts(&disk.machine, &disk.disk);
        let (mut basis, reason, mut plan) = plan_disk(known, is_distrusted, disk);
        self.tell_disk(disk, basis, reason);
        let transport = self.open_disk(capture, disk, meter).await?;
        let disk_writer = writer
            .add_disk(&disk.machine, &disk.disk, disk.size_bytes)
            .await
            .map_err(|source| self.vault_error("adding a disk to the recovery point", source))?;
        // Of a disk of blocks only what is listed can be read.
        if let (CopyPlan::Changed { doubted, .. }, Some(doubt), Some(before), None) =
            (&mut plan, self.protection.doubt, before, transport.block_bytes())
        {
            // A machine that was suspended was looked at last when its part was captured.
            let last = before.disk(&disk.machine, &disk.disk).map_or(before.captured_at, |known| known.captured_at);
            *doubted = doubt.window(disk.size_bytes, last, capture.captured_at);
        }
        let moved = |bytes| self.observer.event(CycleEvent::Moved(bytes));
        let copy = |plan: CopyPlan| {
            let (transport, target, moved) = (Arc::clone(&transport), Target::Vault(&disk_writer), &moved);
            async move { copy_disk(transport, disk.size_bytes, &target, &plan, &self.limits, stop, moved).await }
        };
        let mut copied = copy(plan).await;
        if let Ok(tracked) = &copied
            && tracked.untracked_bytes > 0
        {
            let (machine, id, bytes) = (disk.machine.clone(), disk.disk.clone(), tracked.untracked_bytes);
            self.observer.event(CycleEvent::Untracked { machine, disk: id, bytes });
            // Whatever becomes of the comparison, this is not forgotten.
            if let Err(error) = journal.distrust(&disk.machine, &disk.disk) {
                let text = format!("that it was wrong is forgotten if the comparison fails: {error}");
                self.observer.event(CycleEvent::Warning(text));
            }
            let read_before = tracked.read_bytes;
            basis = Basis::Compared;
            copied = copy(CopyPlan::Everything { allocation_context: disk.allocation_context.clone() }).await;
            copied = copied.map(|copied| DiskCopy {
                read_bytes: copied.read_bytes.saturating_add(read_before),
                untracked_bytes: bytes,
                ..copied
            });
        }
        // The capture is released whatever the server answers to the goodbye.
        let _ = transport.close().await;
        Ok((basis, copied.map_err(|error| self.copy_error(disk, error))?))
    }

    pub(crate) fn site_error(&self, doing: &'static str, source: SiteError) -> ReplicationError {
        self.site_error_of(None, doing, source)
    }

    pub(crate) fn site_error_of(
        &self,
        machine: Option<&MachineId>,
        doing: &'static str,
        source: SiteError,
    ) -> ReplicationError {
        ReplicationError::Site { group: self.protection.group.clone(), doing, machine: machine.cloned(), source }
    }

    pub(crate) fn vault_error(&self, doing: &'static str, source: farshore_vault::Error) -> ReplicationError {
        ReplicationError::Vault { group: self.protection.group.clone(), doing, source }
    }

    pub(crate) fn copy_error(&self, disk: &CapturedDisk, error: CopyError) -> ReplicationError {
        let (group, machine, name) = (self.protection.group.clone(), disk.machine.clone(), disk.disk.clone());
        match error {
            CopyError::Transport(source) => ReplicationError::Read { group, machine, disk: name, source },
            CopyError::Extents(source) => ReplicationError::Extents { group, machine, disk: name, source },
            CopyError::Vault(source) => ReplicationError::Vault { group, doing: "storing a disk", source },
            CopyError::Spool(source) => ReplicationError::Spool { group, doing: "making a point wait", source },
            CopyError::Stopped => ReplicationError::Stopped { group },
        }
    }
}

/// As many as are counted, at most.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Adds up what the calls of the adapter take.
pub(crate) struct AdapterMeter<'a> {
    clock: &'a dyn Clock,
    spent: Duration,
}

impl AdapterMeter<'_> {
    pub(crate) async fn time<T>(&mut self, call: impl Future<Output = T>) -> T {
        let started = self.clock.monotonic();
        let result = call.await;
        self.spent += self.clock.monotonic().saturating_sub(started);
        result
    }
}
