//! A capture, from the request until it is released: what the journal knows of it at each moment stands in `cycle.rs`.

use std::{sync::Arc, time::Duration};

use farshore_core::{Basis, CaptureId, Instant, Machine, MachineId, OwnerTag, PointLabel, Timestamp};
use farshore_platform::{
    AdapterState, CaptureOutcome, CaptureReport, CaptureRequest, CapturedDisk, DiskTransport, Patience, SiteError,
    Step, StepStatus,
};
use farshore_vault::PointDetails;
use tokio_util::sync::CancellationToken;

use crate::{
    CaptureJournal, CycleEvent, JournalEntry, ReplicationError, Replicator, Wishes,
    before::Before,
    cycle::AdapterMeter,
    plan::{drafts, lacking, note},
    suspension::Cast,
};

/// A capture that is not ready, and of which the site says the same for so long, is given up. A percentage of a large volume
/// can take hours.
const CAPTURE_STILL_MAX: Duration = Duration::from_secs(6 * 3_600);

/// A site that does not answer whether a capture held is asked again for so long, and so often.
const VERIFY_UNANSWERED_MAX: Duration = Duration::from_secs(60);
const VERIFY_PAUSE: Duration = Duration::from_secs(2);

/// A ready capture and what is known of it.
pub(crate) struct Capture {
    pub(crate) entry: JournalEntry,
    pub(crate) state: AdapterState,
    pub(crate) report: CaptureReport,
    pub(crate) captured_at: Timestamp,
    /// The same instant by the clock that is never put back.
    pub(crate) captured: Duration,
}

impl Capture {
    pub(crate) const fn id(&self) -> CaptureId {
        self.entry.request.id
    }

    /// What is said of the point that it becomes.
    pub(crate) fn details(
        &self,
        cast: &Cast,
        before: Option<&Before>,
        disks: &[CapturedDisk],
        bases: &[Basis],
        label: Option<PointLabel>,
        untracked_bytes: u64,
    ) -> PointDetails {
        let suspended = cast.suspended(before);
        PointDetails {
            capture: Some(self.entry.request.id),
            captured_at: self.captured_at,
            // What was captured earlier shares no instant with the others.
            instant: if suspended.is_empty() { self.report.instant } else { Instant::Machine },
            consistency: self.report.consistency,
            machines: drafts(cast.machines.clone(), disks, bases),
            suspended,
            label,
            note: note(&[&self.report.note, &cast.note()], untracked_bytes),
        }
    }
}

impl Replicator {
    pub(crate) fn owner(&self) -> OwnerTag {
        OwnerTag { vault: self.vault.id(), lineage: self.vault.lineage_id(&self.protection.group) }
    }

    /// What the journal has of a capture that is about to be asked for.
    pub(crate) fn journal_entry(
        &self,
        before: Option<&Before>,
        machines: &[MachineId],
        wishes: &Wishes,
    ) -> JournalEntry {
        JournalEntry { request: self.capture_request(before, machines, wishes), state: None, is_committed: false }
    }

    fn capture_request(&self, before: Option<&Before>, machines: &[MachineId], wishes: &Wishes) -> CaptureRequest {
        CaptureRequest {
            id: CaptureId::timed(&*self.clock, &*self.entropy),
            owner: self.owner().to_string(),
            machines: machines.to_vec(),
            tracked: before.map(Before::tracked).unwrap_or_default(),
            consistency: wishes.consistency.unwrap_or(self.protection.consistency),
            stall_limit_milliseconds: u32::try_from(self.protection.stall_limit.as_millis()).unwrap_or(u32::MAX),
        }
    }

    pub(crate) async fn begin_capture(
        &self,
        journal: &mut CaptureJournal,
        before: Option<&Before>,
        machines: &[MachineId],
        wishes: &Wishes,
        meter: &mut AdapterMeter<'_>,
        stop: &CancellationToken,
    ) -> Result<Capture, ReplicationError> {
        let mut entry = self.journal_entry(before, machines, wishes);
        journal.remember(entry.clone())?;
        let mut patience = Patience::new(CAPTURE_STILL_MAX, self.clock.monotonic());
        // The instant lies somewhere between here and the answer. The earliest time is taken, so that the point's age, and
        // with it the loss that a failover states, is never understated.
        let (captured_at, captured) = (self.clock.now(), self.clock.monotonic());
        let mut step = meter.time(self.source.begin_capture(&entry.request)).await;
        loop {
            let Step { state, status } = step.map_err(|source| self.site_error("beginning a capture", source))?;
            entry.state = Some(state.clone());
            if let Err(error) = journal.remember(entry.clone()) {
                // No crash would find this state again, so it is used now, while it is known.
                self.give_up(journal, &entry, &state, meter).await;
                return Err(error);
            }
            match status {
                StepStatus::Ready(report) => {
                    // What was left of these machines is gone now, or is the adapter's to remove with the next: it is tagged.
                    for other in journal.entries().to_vec() {
                        let is_covered = other.request.machines.iter().all(|machine| machines.contains(machine));
                        if other.request.id != entry.request.id && is_covered {
                            self.forget(journal, &other);
                        }
                    }
                    return Ok(Capture { entry, state, report, captured_at, captured });
                }
                StepStatus::Pending(pending) => {
                    if patience.hears(&pending, self.clock.monotonic()) {
                        self.observer.event(CycleEvent::Waiting(pending.doing.clone()));
                    }
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => {
                            self.give_up(journal, &entry, &state, meter).await;
                            return Err(ReplicationError::Stopped { group: self.protection.group.clone() });
                        }
                        () = self.clock.sleep(pending.poll_after) => {}
                    }
                    if patience.is_over(self.clock.monotonic()) {
                        self.give_up(journal, &entry, &state, meter).await;
                        let hours = CAPTURE_STILL_MAX.as_secs() / 3_600;
                        let message = format!("the capture made no progress for {hours} h: {}", pending.doing);
                        let source = SiteError::Failed { site: self.source.site().clone(), message };
                        return Err(self.site_error("beginning a capture", source));
                    }
                    step = meter.time(self.source.continue_capture(&entry.request, &state)).await;
                }
            }
        }
    }

    /// Releases a capture that did not get ready. What is not released stays in the journal.
    pub(crate) async fn give_up(
        &self,
        journal: &mut CaptureJournal,
        entry: &JournalEntry,
        state: &AdapterState,
        meter: &mut AdapterMeter<'_>,
    ) {
        match meter.time(self.source.end_capture(state, CaptureOutcome::Abandoned)).await {
            Ok(_) => self.forget(journal, entry),
            Err(error) => {
                let id = entry.request.id;
                let text = format!("capture {id}, which was given up, could not be released yet: {error}");
                self.observer.event(CycleEvent::Warning(text));
            }
        }
    }

    /// Forgets a capture that is gone. If that fails, the next cycle releases it once more, which is harmless.
    pub(crate) fn forget(&self, journal: &mut CaptureJournal, entry: &JournalEntry) {
        if let Err(error) = journal.forget(entry) {
            let text = format!("capture {} was released, but stays in the journal: {error}", entry.request.id);
            self.observer.event(CycleEvent::Warning(text));
        }
    }

    /// The disks of a capture: at least those that its machines have.
    pub(crate) async fn disks_of(
        &self,
        capture: &Capture,
        machines: &[Machine],
        meter: &mut AdapterMeter<'_>,
    ) -> Result<Vec<CapturedDisk>, ReplicationError> {
        let disks = meter
            .time(self.source.captured_disks(&capture.entry.request, &capture.state))
            .await
            .map_err(|source| self.site_error("listing the disks of the capture", source))?;
        if let Some((machine, disk)) = lacking(machines, &disks) {
            let what = format!("the capture lacks disk {disk} of machine {machine}, which the list of machines has");
            let source = SiteError::Nonsense { site: self.source.site().clone(), what };
            return Err(self.site_error_of(Some(machine), "listing the disks of the capture", source));
        }
        Ok(disks)
    }

    /// Asks whether the capture held. A site that does not answer is asked again for a while: hours may have been read.
    pub(crate) async fn verify(
        &self,
        capture: &Capture,
        meter: &mut AdapterMeter<'_>,
        stop: &CancellationToken,
    ) -> Result<(), ReplicationError> {
        let deadline = self.clock.monotonic() + VERIFY_UNANSWERED_MAX;
        loop {
            match meter.time(self.source.verify_capture(&capture.state)).await {
                Err(SiteError::Unreachable { .. }) if self.clock.monotonic() < deadline && !stop.is_cancelled() => {
                    self.clock.sleep(VERIFY_PAUSE).await;
                }
                answer => return answer.map_err(|source| self.site_error("verifying the capture", source)),
            }
        }
    }

    pub(crate) async fn open_disk(
        &self,
        capture: &Capture,
        disk: &CapturedDisk,
        meter: &mut AdapterMeter<'_>,
    ) -> Result<Arc<dyn DiskTransport>, ReplicationError> {
        let opened = meter.time(self.source.open_captured_disk(&capture.state, disk)).await;
        opened.map_err(|source| self.site_error_of(Some(&disk.machine), "opening a captured disk", source))
    }

    /// A read that failed may have failed because the capture broke, which says more.
    pub(crate) async fn explain_break(
        &self,
        capture: &Capture,
        error: ReplicationError,
        meter: &mut AdapterMeter<'_>,
    ) -> ReplicationError {
        let ReplicationError::Read { machine, .. } = &error else { return error };
        match meter.time(self.source.verify_capture(&capture.state)).await {
            Err(source @ SiteError::CaptureBroken { .. }) => {
                self.site_error_of(Some(machine), "reading the capture", source)
            }
            _ => error,
        }
    }

    /// A capture became a point, and could not be released: other points may follow before it can.
    pub(crate) fn remember_commit(&self, journal: &mut CaptureJournal, entry: &JournalEntry) {
        if let Err(error) = journal.remember(JournalEntry { is_committed: true, ..entry.clone() }) {
            let text = format!("that capture {} became a point is not in the journal: {error}", entry.request.id);
            self.observer.event(CycleEvent::Warning(text));
        }
    }

    /// Releases a capture, and says what could not be released.
    pub(crate) async fn release(
        &self,
        journal: &mut CaptureJournal,
        capture: &Capture,
        outcome: CaptureOutcome,
        meter: &mut AdapterMeter<'_>,
    ) -> String {
        let note = match meter.time(self.source.end_capture(&capture.state, outcome)).await {
            Ok(note) => match journal.forget(&capture.entry) {
                Ok(()) => note,
                Err(error) => error.to_string(),
            },
            Err(error) => {
                if outcome == CaptureOutcome::Committed {
                    self.remember_commit(journal, &capture.entry);
                }
                format!("the capture could not be released yet: {error}")
            }
        };
        if !note.is_empty() {
            self.observer.event(CycleEvent::Warning(note.clone()));
        }
        note
    }
}
