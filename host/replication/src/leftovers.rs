//! Captures that an earlier process left at the source.
//!
//! A capture that stays attached slows its guests and fills the source's disk, so every cycle releases what is left
//! before it does anything else. What may be released how depends on what is known:
//!
//! - *The newest point is known*, from the vault, or because it waits at this host. The capture of that point is ended as `committed`, and so is one of which the
//!   journal knows that it became a point: others may have followed that go on without one of its machines. Any other is ended as `abandoned`: change tracking
//!   goes on from what points have.
//! - *The group was failed over.* Nothing will be committed from here, so all are ended as `abandoned`.
//! - *The vault does not answer.* Nobody knows whether the last capture became a point. The views are released by their
//!   tags, which keeps the change tracking of either outcome, and the journal keeps the captures: the next cycle that
//!   reaches the vault ends them with their outcome. Nothing is lost, and the next cycle is still a delta.
//!
//! What the journal cannot name is asked for by the owner's tag, if the journal is new or a begin was never answered. A
//! journal is held by its lock meanwhile, so that no capture of another process of this host is released.

use farshore_core::CaptureId;
use farshore_platform::{CaptureOutcome, Owned, SiteError};
use farshore_vault::Error as VaultError;

use crate::{CaptureJournal, CycleEvent, JournalEntry, ReplicationError, Replicator, cycle::AdapterMeter};

impl Replicator {
    /// Releases what is left, of a group of whose newest point the capture is known.
    pub(crate) async fn release_leftovers(
        &self,
        journal: &mut CaptureJournal,
        newest: Option<CaptureId>,
        meter: &mut AdapterMeter<'_>,
    ) {
        let may_lack_captures = journal.may_lack_captures();
        for entry in journal.entries().to_vec() {
            if self.rests(&entry) {
                continue;
            }
            // Without a state there is nothing to ask for: it is found by its tag.
            let Some(state) = &entry.state else {
                self.forget(journal, &entry);
                continue;
            };
            let id = entry.request.id;
            let committed = entry.is_committed || newest == Some(id);
            let outcome = if committed { CaptureOutcome::Committed } else { CaptureOutcome::Abandoned };
            match meter.time(self.source.end_capture(state, outcome)).await {
                Ok(_) | Err(SiteError::NotFound { .. }) => {
                    self.observer.event(CycleEvent::Leftover(format!("released capture {id} of an earlier process")));
                    self.forget(journal, &entry);
                }
                Err(error) => {
                    if committed && !entry.is_committed {
                        self.remember_commit(journal, &entry);
                    }
                    let text = format!("capture {id} of an earlier process could not be released yet: {error}");
                    self.observer.event(CycleEvent::Warning(text));
                }
            }
        }
        if may_lack_captures {
            self.release_by_tag(|item| !names(journal, item), meter).await;
        }
    }

    /// Whether a capture is left to the next try of a machine of it that is suspended: whoever makes its site wait makes the others wait seldom.
    fn rests(&self, entry: &JournalEntry) -> bool {
        let now = self.clock.monotonic();
        let suspensions = self.suspensions.as_ref().filter(|_| entry.state.is_some());
        suspensions.is_some_and(|known| entry.request.machines.iter().any(|machine| known.pauses(machine, now)))
    }

    /// Releases what is left when no point could be begun, for this reason.
    pub(crate) async fn release_without_point(
        &self,
        journal: &mut CaptureJournal,
        reason: &ReplicationError,
        meter: &mut AdapterMeter<'_>,
    ) {
        let fenced = matches!(
            reason,
            ReplicationError::Fenced { .. } | ReplicationError::Vault { source: VaultError::Fenced { .. }, .. }
        );
        if fenced {
            return self.release_leftovers(journal, None, meter).await;
        }
        let may_lack_captures = journal.may_lack_captures();
        if may_lack_captures || !journal.entries().is_empty() {
            self.release_by_tag(|item| may_lack_captures || names(journal, item), meter).await;
        }
    }

    /// Releases what carries the owner's tag and is chosen, without saying what became of it. What cannot be released
    /// stands in nobody's way now: beginning the next capture tries again, and says what it cannot remove.
    async fn release_by_tag(&self, chosen: impl Fn(&Owned) -> bool, meter: &mut AdapterMeter<'_>) {
        let warn = |text| self.observer.event(CycleEvent::Warning(text));
        let owned = match meter.time(self.source.owned(&self.owner())).await {
            Ok(owned) => owned,
            Err(error) => return warn(format!("what an earlier process left could not be listed: {error}")),
        };
        for item in owned.iter().filter(|item| chosen(item)) {
            match meter.time(self.source.release(item)).await {
                Ok(()) => self.observer.event(CycleEvent::Leftover(format!("released {}", item.description))),
                Err(error) => warn(format!("{} could not be released yet: {error}", item.description)),
            }
        }
    }
}

fn names(journal: &CaptureJournal, item: &Owned) -> bool {
    journal.entries().iter().any(|entry| entry.request.id.to_string() == item.id)
}
