//! The reserve: room in the store that a prune can give back, so that it can write when nothing else can be written.
//!
//! A deletion begins with writing: a ledger, which grows with the points and with what is condemned, a commit, a boundary. In a
//! store that is full to the last byte none of them fits, and nothing could be deleted that would make room. So a pruner keeps
//! an object that nothing needs, of at least twice the bytes that its next prune is going to write. When a create of a prune
//! fails, for whatever reason, the reserve is deleted, and the create is tried once more: stores have too many ways to say that
//! they are full (`ENOSPC`, `EDQUOT`, 507, 403 `QuotaExceeded`) to rely on one. At its end, with or without anything to delete,
//! each prune sees to it that there is a reserve that is large enough; if there is no room for one, a later prune does.
//!
//! `lineages/<lineage>/reserves/<id>`: a prologue of kind 16, whose length is that of what follows, and random bytes, so that no
//! store makes them fewer. Names are random, and a name that was deleted is never made again.
//!
//! *Nobody reads it,* so that it can be lost, damaged or there twice without harm. In a locked vault there is none: it could not be
//! deleted. Whoever else writes to the full store may be faster in taking the room; the prune then fails as it would have
//! without a reserve.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use farshore_core::{Entropy, LineageId, PackId};
use futures::TryStreamExt;

use crate::{
    Error, Result,
    lineage::LineageShared,
    log::HeadCommit,
    store::{Created, Listed},
    wire::{Kind, PROLOGUE_BYTES, length_u32, prologue},
};

/// The least bytes of a reserve: a ledger of some two thousand points that are dropped.
const RESERVE_BYTES_MIN: u64 = 256 * 1024;

/// The most bytes of a reserve: twice the largest ledger that there is.
const RESERVE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A reserve of more than so many times the bytes that are wanted is made anew.
const RESERVE_EXCESS_MAX: u64 = 8;

/// The folder of a lineage's reserves.
pub(crate) fn reserve_folder(lineage: LineageId) -> String {
    format!("lineages/{lineage}/reserves")
}

/// The reserve of a lineage, as one prune uses it.
pub(crate) struct Reserve<'a> {
    shared: &'a LineageShared,
    is_freed: AtomicBool,
}

impl<'a> Reserve<'a> {
    pub(crate) fn new(shared: &'a LineageShared) -> Self {
        Self { shared, is_freed: AtomicBool::new(false) }
    }

    /// Whether a create that failed is worth another try, because there is more room now: the reserve was deleted, which is done
    /// once.
    pub(super) async fn frees_room(&self, error: &Error) -> bool {
        let is_create = matches!(error, Error::Store { operation: "create", .. });
        if !is_create || self.shared.access.ring().lock.is_some() || self.is_freed.swap(true, Ordering::Relaxed) {
            return false;
        }
        match self.delete_all().await {
            Ok(freed) => {
                tracing::info!(group = %self.shared.group, bytes = freed, "the store is full: the reserve was deleted");
                freed > 0
            }
            // What counts is why nothing could be created.
            Err(error) => {
                tracing::warn!(%error, "the reserve could not be deleted");
                false
            }
        }
    }

    /// Deletes what there is; how many bytes that frees.
    pub(crate) async fn delete_all(&self) -> Result<u64> {
        let listed = self.listed().await?;
        let bytes = listed.iter().fold(0u64, |sum, object| sum.saturating_add(object.bytes));
        self.shared.store.delete(listed.into_iter().map(|object| object.key).collect()).await?;
        Ok(bytes)
    }

    async fn listed(&self) -> Result<Vec<Listed>> {
        self.shared.store.list(&reserve_folder(self.shared.id)).try_collect().await
    }

    /// Sees to it that there is one reserve of at least twice the bytes that the next prune may write. A failure only means that
    /// there is none yet: a later prune tries again.
    pub(super) async fn restock(&self, built_on: &HeadCommit, next_bytes: u64) {
        if self.shared.access.ring().lock.is_some() {
            return;
        }
        if let Err(error) = self.try_restock(built_on, next_bytes).await {
            tracing::warn!(%error, group = %self.shared.group, "there is no reserve for a prune of a full store");
        }
    }

    async fn try_restock(&self, built_on: &HeadCommit, next_bytes: u64) -> Result<()> {
        let shared = self.shared;
        // In steps, so that a history that grows does not make it anew each time.
        let wanted = next_bytes.saturating_mul(2).clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX).next_power_of_two();
        let listed = self.listed().await?;
        let fits = |object: &&Listed| (wanted..=wanted.saturating_mul(RESERVE_EXCESS_MAX)).contains(&object.bytes);
        let kept = listed.iter().filter(fits).min_by_key(|object| object.bytes).map(|object| object.key.clone());
        if kept.is_none() {
            self.create_if_it_fits(built_on, wanted, next_bytes).await?;
        }
        let surplus = listed.into_iter().map(|object| object.key).filter(|key| Some(key) != kept.as_ref());
        shared.store.delete(surplus.collect()).await
    }

    /// One of this size, or half of it as long as that is enough for one prune.
    async fn create_if_it_fits(&self, built_on: &HeadCommit, wanted: u64, least: u64) -> Result<()> {
        match self.create(built_on, wanted).await {
            Err(Error::Store { operation: "create", .. }) if wanted / 2 >= least => {
                self.create(built_on, wanted / 2).await
            }
            created => created,
        }
    }

    async fn create(&self, built_on: &HeadCommit, bytes: u64) -> Result<()> {
        let shared = self.shared;
        let id: PackId = built_on.object_name(shared.entropy());
        let object = format!("{}/{id}", reserve_folder(shared.id));
        let body_bytes = usize::try_from(bytes).unwrap_or(usize::MAX).saturating_sub(PROLOGUE_BYTES);
        let parts = vec![
            Bytes::copy_from_slice(&prologue(Kind::Reserve, length_u32(body_bytes))),
            Bytes::from(filling(shared.entropy(), body_bytes)),
        ];
        match shared.store.create(&object, parts).await? {
            Created::Mine => Ok(()),
            Created::Other => Err(Error::repeated_randomness(&object)),
        }
    }
}

/// So many bytes that nobody can make fewer, out of a few random ones.
fn filling(entropy: &dyn Entropy, bytes: usize) -> Vec<u8> {
    let mut seed = [0; 32];
    entropy.fill(&mut seed);
    let mut filling = vec![0; bytes];
    blake3::Hasher::new_derive_key("farshore/1/reserve").update(&seed).finalize_xof().fill(&mut filling);
    filling
}
