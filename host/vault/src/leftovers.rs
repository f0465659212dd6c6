//! What an interrupted writer left: packs that no commit refers to, under the commits that nothing was built on since.
//!
//! A listing proposes them. Each pack's header is read, opened and compared with the pack's length; its chunks then
//! count as known, so that a first copy that was interrupted does not send them again. Before the first chunk of a pack
//! is used, all its stored bytes are read and compared with the hash in its authenticated header.
//!
//! The index is bounded: of a larger rest, what does not fit is sent again. A pack that does not verify is passed over:
//! it harms nothing, because nothing refers to it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use farshore_core::{PackId, Timestamp};
use futures::StreamExt;
use tokio::sync::OnceCell;

use crate::{
    Error, Head, Result,
    lineage::LineageShared,
    lock,
    pack::{Directory, PACK_BYTES_MAX, PACK_FRONT_BYTES, PackRef, header_length, pack_folder},
    seal::Hash,
    store::Listed,
};

/// The most packs whose headers are read.
const LEFTOVER_PACKS_MAX: usize = 8192;

/// The most chunks that are remembered: 128 GiB of disks, about 200 MiB of memory.
const LEFTOVER_CHUNKS_MAX: usize = 2 * 1024 * 1024;

/// How many commits back packs are looked for: pins, prunes and raises may have come since they were written.
const LEFTOVER_BASES_MAX: u64 = 64;

/// How many headers are read side by side.
const HEADERS_READ_AT_ONCE: usize = 8;

/// A pack that no commit refers to.
#[derive(Debug)]
struct Leftover {
    reference: Arc<PackRef>,
    /// When the store received it: since then it is locked, if the vault is.
    received_at: Timestamp,
    verified: OnceCell<bool>,
}

/// Where a chunk lies in a pack that no commit refers to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeftoverSlot {
    pack: u32,
    pub(crate) ordinal: u32,
    pub(crate) chunk: u8,
}

/// The chunks of interrupted writers.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    packs: Vec<Leftover>,
    chunks: BTreeMap<Hash, LeftoverSlot>,
    /// When the store received the oldest pack of which a chunk was used.
    oldest_used: Mutex<Option<Timestamp>>,
}

impl Leftovers {
    /// Finds what writers left that built on this head, or on one between it and its newest point.
    ///
    /// # Errors
    /// The store failed. Damage is passed over.
    pub(crate) async fn find(shared: &Arc<LineageShared>, head: &Head) -> Result<Self> {
        let newest = head.sequence.get();
        let oldest = head.newest_point.map_or(1, farshore_core::Sequence::get);
        let oldest = oldest.max(newest.saturating_sub(LEFTOVER_BASES_MAX - 1));
        let mut leftovers = Self::default();
        let span_seconds = shared.access.ring().lock.map(|lock| lock.span_seconds);
        for base in (oldest..=newest).rev() {
            let listed = shared.store.list(&pack_folder(shared.id, base)).take(LEFTOVER_PACKS_MAX);
            // In a locked vault, what is locked for less long than what the parent needs is not worth a nearer horizon.
            let is_locked_enough = |listed: &Result<Listed>| match (listed, span_seconds, head.locked_until) {
                (Ok(listed), Some(span), Some(horizon)) => lock::after(listed.received_at, span) >= horizon,
                _ => true,
            };
            let listed = listed.filter(|listed| futures::future::ready(is_locked_enough(listed)));
            let directories = listed.map(|listed| read_header(shared, base, listed)).buffered(HEADERS_READ_AT_ONCE);
            let mut directories = std::pin::pin!(directories);
            while let Some(directory) = directories.next().await {
                if let Some((directory, received_at)) = directory? {
                    leftovers.add(&directory, received_at);
                }
                if leftovers.is_full() {
                    tracing::warn!(
                        group = %shared.group,
                        "an interrupted writer left more than fits in memory: some of it is sent again"
                    );
                    return Ok(leftovers);
                }
            }
        }
        Ok(leftovers)
    }

    fn is_full(&self) -> bool {
        self.packs.len() >= LEFTOVER_PACKS_MAX || self.chunks.len() >= LEFTOVER_CHUNKS_MAX
    }

    fn add(&mut self, directory: &Directory, received_at: Timestamp) {
        let Ok(pack) = u32::try_from(self.packs.len()) else { return };
        let reference = Arc::new(directory.reference.clone());
        self.packs.push(Leftover { reference, received_at, verified: OnceCell::new() });
        for (ordinal, frame) in (0..).zip(&directory.frames) {
            for (chunk, identity) in (0..).zip(&frame.chunks) {
                self.chunks.entry(*identity).or_insert(LeftoverSlot { pack, ordinal, chunk });
            }
        }
    }

    /// When the store received the oldest pack of which a chunk was used; none if no pack was.
    pub(crate) fn oldest_used(&self) -> Option<Timestamp> {
        *self.oldest_used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_use(&self, received_at: Timestamp) {
        let mut oldest = self.oldest_used.lock().unwrap_or_else(PoisonError::into_inner);
        *oldest = Some(oldest.map_or(received_at, |oldest| oldest.min(received_at)));
    }

    /// Where a chunk may be.
    pub(crate) fn get(&self, identity: &Hash) -> Option<LeftoverSlot> {
        self.chunks.get(identity).copied()
    }

    /// The pack of a slot, if its stored bytes are what its header says; they are read the first time. The flag says
    /// whether this call was the first.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn verify(
        &self,
        shared: &LineageShared,
        slot: LeftoverSlot,
    ) -> Result<(Option<Arc<PackRef>>, bool)> {
        let Some(pack) = usize::try_from(slot.pack).ok().and_then(|index| self.packs.get(index)) else {
            return Ok((None, false));
        };
        let mut first = false;
        let verified = pack.verified.get_or_try_init(|| async {
            first = true;
            match shared.frames.verify_stored(&pack.reference).await {
                Ok(_) => Ok(true),
                Err(error) if error.is_damage() => {
                    tracing::warn!(%error, "a pack of an interrupted writer is passed over");
                    Ok(false)
                }
                Err(error) => Err(error),
            }
        });
        let verified = *verified.await?;
        if verified {
            self.note_use(pack.received_at);
        }
        Ok((verified.then(|| Arc::clone(&pack.reference)), first && verified))
    }
}

/// The header of a pack, and when the store received it.
async fn read_header(
    shared: &Arc<LineageShared>,
    base: u64,
    listed: Result<Listed>,
) -> Result<Option<(Directory, Timestamp)>> {
    let listed = listed?;
    match open_listed(shared, base, &listed).await {
        Ok(directory) => Ok(Some((directory, listed.received_at))),
        Err(error) if error.is_damage() => {
            tracing::warn!(%error, "an object of an interrupted writer is passed over");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn open_listed(shared: &Arc<LineageShared>, base: u64, listed: &Listed) -> Result<Directory> {
    let object = listed.key.as_str();
    let name = object.rsplit('/').next().unwrap_or_default();
    let pack: PackId = name.parse().map_err(|_| Error::damaged(object, "its name is not that of a pack"))?;
    if usize::try_from(listed.bytes).map_or(true, |bytes| bytes > PACK_BYTES_MAX) {
        return Err(Error::damaged(object, "it is too long for a pack"));
    }
    let reason = "it was listed a moment ago";
    let front = shared.store.read_exact(object, 0..listed.bytes.min(PACK_FRONT_BYTES), reason).await?;
    let header_bytes = u64::from(header_length(object, &front)?);
    let header = match usize::try_from(header_bytes).ok().and_then(|length| front.get(..length)) {
        Some(_) => front.slice(..usize::try_from(header_bytes).unwrap_or(0)),
        None => shared.store.read_exact(object, 0..header_bytes.min(listed.bytes), reason).await?,
    };
    let directory = Directory::open(&shared.access, &shared.keys, shared.id, pack, base, &header)?;
    if u64::from(directory.reference.bytes) != listed.bytes {
        let problem = format!("it has {} bytes, and should have {}", listed.bytes, directory.reference.bytes);
        return Err(Error::damaged(object, problem));
    }
    Ok(directory)
}
