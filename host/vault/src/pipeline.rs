//! What becomes of a write: identify, look up, compress, seal, verify, place, store.
//!
//! Every part of a write (at most one leaf, 4 MiB) is a task that hands its computing to the workers and its packs to
//! the store, and then says in the working map where each chunk is. If a task ends in any other way than by doing that,
//! the session fails: a chunk can not be forgotten silently.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use farshore_core::PackId;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    Error, Result,
    leftovers::LeftoverSlot,
    pack::{CHUNK, Codec, FRAME_CHUNKS_MAX, PackMaker, PackRef, SealedFrame, open_frame, pack_key},
    packer::FullPack,
    seal::{FRAME_OVERHEAD_BYTES, FrameContext, Hash, SessionKey},
    session::{PACKS_UPLOADING_MAX, Session, lock},
    store::Created,
    working::{Accepted, PackPointer, Slot, WorkingDisk},
};

static ZERO_CHUNK: [u8; CHUNK] = [0; CHUNK];

/// The level of compression: the one at which two cores keep up with a fast disk.
const ZSTD_LEVEL: i32 = 1;

/// Chunks of one leaf that were accepted.
pub(crate) struct Part {
    pub(crate) disk: Arc<WorkingDisk>,
    pub(crate) leaf: u64,
    pub(crate) slot: usize,
    /// Whole chunks.
    pub(crate) data: Bytes,
    pub(crate) accepted: Accepted,
    pub(crate) room: OwnedSemaphorePermit,
}

/// What is known of a chunk.
#[derive(Debug, Clone)]
enum Found {
    /// It is zero.
    Zero,
    /// It has the content that it had before, or that another place has.
    Held { slot: Slot, same_place: bool },
    /// An interrupted writer may have stored it.
    Leftover { identity: Hash, place: LeftoverSlot },
    /// It is new.
    New(Hash),
    /// It has the content of an earlier chunk of this part.
    Repeats(usize),
}

/// Packs that were completed while a part was sealed, ready to be stored.
struct Completed {
    key: String,
    parts: Vec<Bytes>,
}

/// Fails the session unless it is told that all went well.
struct Watch(Option<Arc<Session>>);

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(session) = self.0.take() {
            session.fail(Error::Stopped { reason: "a part of its work ended unexpectedly".to_owned() });
        }
    }
}

impl Session {
    /// Does the work on a part in a task of its own.
    pub(crate) fn spawn(self: &Arc<Self>, part: Part) {
        let session = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut watch = Watch(Some(Arc::clone(&session)));
            if let Err(error) = session.process(part).await {
                session.fail(error);
            }
            watch.0 = None;
        });
    }

    async fn process(self: &Arc<Self>, part: Part) -> Result<()> {
        let Part { disk, leaf, slot, data, accepted, room } = part;
        let Accepted { ticket, before } = accepted;
        let (session, bytes) = (Arc::clone(self), data.clone());
        let found = self.shared.context.workers.run(move || session.identify(&bytes, &before)).await?;
        let found = self.resolve_elsewhere(found).await;
        let (found, reused) = self.resolve_leftovers(found).await?;
        // No frame is sealed while the store is behind: the memory of finished packs is bounded here.
        self.wait_until(|| *lock(&self.uploading) < PACKS_UPLOADING_MAX).await?;
        let (session, bytes) = (Arc::clone(self), data.clone());
        let seal = move || session.seal(&bytes, found, slot);
        let (slots, zero, unchanged, new, completed) = self.shared.context.workers.run(seal).await??;

        let count = slots.len();
        let changed = disk.map().apply(leaf, slot, ticket, slots);
        self.note_changes(&disk, leaf, &changed).await;
        {
            let chunk = u64::try_from(CHUNK).unwrap_or(u64::MAX);
            let bytes = |chunks: usize| u64::try_from(chunks).unwrap_or(u64::MAX).saturating_mul(chunk);
            let mut stats = lock(&self.stats);
            stats.packs_reused += reused;
            if disk.is_disk() {
                stats.bytes_zero += bytes(zero);
                stats.bytes_changed += bytes(count - unchanged);
                stats.bytes_deduplicated +=
                    bytes(count - unchanged - zero.min(count - unchanged) - new.min(count - unchanged));
            }
        }
        drop(data);
        for completed in completed {
            self.spawn_store(completed.key, completed.parts, None);
        }
        drop(room);
        self.changed.notify_waiters();
        Ok(())
    }

    fn identify(&self, data: &[u8], before: &[Option<Slot>]) -> Vec<Found> {
        let mut first_at: BTreeMap<Hash, usize> = BTreeMap::new();
        let mut found = Vec::with_capacity(before.len());
        for (number, (chunk, before)) in data.chunks_exact(CHUNK).zip(before).enumerate() {
            if chunk == ZERO_CHUNK {
                found.push(Found::Zero);
                continue;
            }
            let identity = self.content.identify(chunk);
            let held = match before {
                Some(slot) if slot.identity == identity => Some(Found::Held { slot: slot.clone(), same_place: true }),
                _ => lock(&self.known).get(&identity).map(|slot| Found::Held { slot, same_place: false }),
            };
            found.push(match held {
                Some(held) => held,
                None => match first_at.get(&identity) {
                    Some(first) => Found::Repeats(*first),
                    None => {
                        first_at.insert(identity, number);
                        let place = self.leftovers.get(&identity);
                        place.map_or(Found::New(identity), |place| Found::Leftover { identity, place })
                    }
                },
            });
        }
        found
    }

    /// How many of these chunks have another content than these slots.
    pub(crate) fn count_differing(&self, data: &[u8], slots: &[Option<Slot>]) -> usize {
        let differs = |(chunk, slot): (&[u8], &Option<Slot>)| match slot {
            None => chunk != ZERO_CHUNK,
            Some(slot) => slot.identity != self.content.identify(chunk),
        };
        data.chunks_exact(CHUNK).zip(slots).filter(|pair| differs(*pair)).count()
    }

    /// Looks for what is not known yet at other places of the parent point.
    async fn resolve_elsewhere(&self, mut found: Vec<Found>) -> Vec<Found> {
        let unknown = |(number, found): (usize, &Found)| match found {
            Found::New(identity) | Found::Leftover { identity, .. } => Some((number, *identity)),
            Found::Zero | Found::Held { .. } | Found::Repeats(_) => None,
        };
        let unknown: Vec<(usize, Hash)> = found.iter().enumerate().filter_map(unknown).collect();
        let slots = self.elsewhere(unknown.iter().map(|(_, identity)| *identity).collect()).await;
        for ((number, identity), slot) in unknown.into_iter().zip(slots) {
            if let Some(slot) = slot {
                lock(&self.known).insert(identity, slot.clone());
                found[number] = Found::Held { slot, same_place: false };
            }
        }
        found
    }

    /// Reads and verifies the packs of interrupted writers that are wanted; how many of them were wanted first here.
    async fn resolve_leftovers(&self, mut found: Vec<Found>) -> Result<(Vec<Found>, u64)> {
        let mut reused = 0;
        for found in &mut found {
            let Found::Leftover { identity, place } = *found else { continue };
            let (pack, first) = self.leftovers.verify(&self.shared, place).await?;
            reused += u64::from(first);
            *found = match pack {
                None => Found::New(identity),
                Some(pack) => {
                    let pack = PackPointer::Stored(pack);
                    let slot = Slot { pack, ordinal: place.ordinal, chunk: place.chunk, identity };
                    lock(&self.known).insert(identity, slot.clone());
                    Found::Held { slot, same_place: false }
                }
            };
        }
        Ok((found, reused))
    }

    /// Seals what is new, in frames of neighbours that do not cross a multiple of 1 MiB. It returns what each slot is
    /// now, how many are zero, unchanged and new, and the packs that were completed.
    #[expect(clippy::type_complexity, reason = "the counts belong to this one call")]
    fn seal(
        &self,
        data: &[u8],
        found: Vec<Found>,
        first_slot: usize,
    ) -> Result<(Vec<Option<Slot>>, usize, usize, usize, Vec<Completed>)> {
        let (mut zero, mut unchanged, mut new) = (0, 0, 0);
        let mut slots: Vec<Option<Slot>> = Vec::with_capacity(found.len());
        let mut completed = Vec::new();
        let mut run: Vec<Hash> = Vec::new();
        let mut compressor = Compressor::new()?;
        for (number, entry) in found.iter().enumerate() {
            let boundary = (first_slot + number).is_multiple_of(FRAME_CHUNKS_MAX);
            if boundary || !matches!(entry, Found::New(_)) {
                self.seal_run(data, &mut run, &mut slots, &mut compressor, &mut completed)?;
            }
            match entry {
                Found::New(identity) => {
                    new += 1;
                    run.push(*identity);
                }
                Found::Zero => {
                    zero += 1;
                    slots.push(None);
                }
                Found::Held { slot, same_place } => {
                    unchanged += usize::from(*same_place);
                    slots.push(Some(slot.clone()));
                }
                Found::Repeats(first) => {
                    let slot = slots.get(*first).cloned().flatten();
                    slots.push(Some(slot.expect("an earlier chunk that is not zero has its slot by now")));
                }
                Found::Leftover { .. } => unreachable!("they were resolved before"),
            }
        }
        self.seal_run(data, &mut run, &mut slots, &mut compressor, &mut completed)?;
        Ok((slots, zero, unchanged, new, completed))
    }

    /// Seals the chunks that were collected, which follow those that have their slots.
    fn seal_run(
        &self,
        data: &[u8],
        run: &mut Vec<Hash>,
        slots: &mut Vec<Option<Slot>>,
        compressor: &mut Compressor,
        completed: &mut Vec<Completed>,
    ) -> Result<()> {
        if run.is_empty() {
            return Ok(());
        }
        let chunks = std::mem::take(run);
        let start = slots.len() * CHUNK;
        let plain = &data[start..start + chunks.len() * CHUNK];
        let (codec, buffer) = compressor.compress(plain);
        #[cfg(test)]
        let buffer = bad_memory::pass(bad_memory::Place::Compressed, buffer);
        let payload_and_nonce = buffer.len();
        let stored_bytes = payload_and_nonce + FRAME_OVERHEAD_BYTES;
        let name = || self.built_on.object_name(self.shared.entropy());
        let (pack, ordinal) = self.packer.reserve(name, stored_bytes, chunks.len());
        let identity = self.content.identify_frame(&chunks);
        let count = u8::try_from(chunks.len()).expect("a frame has at most 16 chunks");
        let context = FrameContext { pack: pack.id, ordinal, codec: codec as u8, chunks: count, identity };
        let sealed = self.key.seal_frame(&context, buffer);
        #[cfg(test)]
        let sealed = bad_memory::pass(bad_memory::Place::Sealed, sealed);
        self.verify(&context, &chunks, &sealed, plain)?;
        {
            let mut known = lock(&self.known);
            for (chunk, identity) in (0..).zip(&chunks) {
                let slot = Slot { pack: PackPointer::New(Arc::clone(&pack)), ordinal, chunk, identity: *identity };
                known.insert(*identity, slot.clone());
                slots.push(Some(slot));
            }
        }
        let frame = SealedFrame { codec, chunks, bytes: Bytes::from(sealed) };
        if let Some(full) = self.packer.fill(&pack, ordinal, frame) {
            completed.push(self.finish_pack(full)?);
        }
        Ok(())
    }

    /// Opens, decompresses and identifies a frame from the buffer that will be stored.
    fn verify(&self, context: &FrameContext, chunks: &[Hash], sealed: &[u8], plain: &[u8]) -> Result<()> {
        let problem = match open_frame(&self.key, &self.content, context, chunks, sealed) {
            Ok(opened) if opened == plain => {
                let mut stats = lock(&self.stats);
                stats.frames_written += 1;
                stats.frames_verified += 1;
                return Ok(());
            }
            Ok(_) => "its content differs".to_owned(),
            Err(problem) => problem.to_owned(),
        };
        let object = pack_key(self.shared.id, self.built_on.head.sequence.get(), context.pack);
        Err(Error::VerificationFailed { object, problem })
    }

    fn finish_pack(&self, full: FullPack) -> Result<Completed> {
        let base = self.built_on.head.sequence.get();
        let maker = PackMaker {
            lineage: self.shared.id,
            keys: &self.shared.keys,
            session: self.id,
            sealed_secret: &self.sealed_secret,
            entropy: self.shared.entropy(),
        };
        let (parts, reference): (Vec<Bytes>, PackRef) = maker.make(full.pack.id, base, &full.frames)?;
        let key = reference.key(self.shared.id);
        *lock(&self.uploading) += 1;
        full.pack.reference.set(Arc::new(reference)).expect("a pack is finished once");
        self.changed.notify_waiters();
        Ok(Completed { key, parts })
    }

    /// Finishes a pack that no part of a write completes, and begins to store it.
    pub(crate) async fn finish_pack_apart(self: &Arc<Self>, full: FullPack) -> Result<()> {
        let session = Arc::clone(self);
        let completed = self.shared.context.workers.run(move || session.finish_pack(full)).await??;
        self.spawn_store(completed.key, completed.parts, None);
        Ok(())
    }

    /// Stores an object in a task of its own, which was counted as uploading before; a map pack is named, so that its
    /// pages in memory can be forgotten.
    pub(crate) fn spawn_store(self: &Arc<Self>, key: String, parts: Vec<Bytes>, map_pack: Option<PackId>) {
        let session = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut watch = Watch(Some(Arc::clone(&session)));
            let stored = session.store_object(&key, parts).await;
            *lock(&session.uploading) -= 1;
            match (stored, map_pack) {
                (Err(error), _) => session.fail(error),
                (Ok(()), Some(pack)) => session.forget_map_pack(pack),
                (Ok(()), None) => {}
            }
            session.changed.notify_waiters();
            watch.0 = None;
        });
    }

    /// Stores an object of the session under its random name.
    pub(crate) async fn store_object(&self, key: &str, parts: Vec<Bytes>) -> Result<()> {
        self.check()?;
        let bytes: usize = parts.iter().map(Bytes::len).sum();
        match self.shared.store.create(key, parts).await? {
            Created::Mine => {
                let mut stats = lock(&self.stats);
                stats.objects_written += 1;
                stats.bytes_stored += u64::try_from(bytes).unwrap_or(u64::MAX);
                Ok(())
            }
            Created::Other => Err(Error::repeated_randomness(key)),
        }
    }
}

/// Compresses frames, with its context kept from one to the next.
struct Compressor {
    zstd: zstd::bulk::Compressor<'static>,
    scratch: Vec<u8>,
}

impl Compressor {
    fn new() -> Result<Self> {
        let failed = |error: std::io::Error| Error::Stopped { reason: format!("zstd cannot be used: {error}") };
        let zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(failed)?;
        Ok(Self { zstd, scratch: Vec::new() })
    }

    /// A buffer that can be sealed in place.
    fn compress(&mut self, plain: &[u8]) -> (Codec, Vec<u8>) {
        self.scratch.clear();
        self.scratch.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        let worth_it = plain.len() - plain.len() / 16;
        let (codec, payload) = match self.zstd.compress_to_buffer(plain, &mut self.scratch) {
            Ok(length) if length < worth_it => (Codec::Zstd, self.scratch.as_slice()),
            _ => (Codec::Raw, plain),
        };
        let mut buffer = SessionKey::frame_buffer(payload.len());
        buffer.extend_from_slice(payload);
        (codec, buffer)
    }
}

/// A bit that flips on its way, for the tests of the verification. Only what is computed in the test's own thread is hurt,
/// as it is with [`crate::Workers::inline`].
#[cfg(test)]
pub(crate) mod bad_memory {
    use std::cell::Cell;

    /// Where it flips.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Place {
        /// After compressing, before sealing.
        Compressed,
        /// After sealing, before storing.
        Sealed,
    }

    thread_local! {
        static FLIPS: Cell<Option<Place>> = const { Cell::new(None) };
    }

    /// From now on a bit flips there, or none does.
    pub(crate) fn flip(place: Option<Place>) {
        FLIPS.set(place);
    }

    pub(super) fn pass(place: Place, mut buffer: Vec<u8>) -> Vec<u8> {
        if FLIPS.get() == Some(place) {
            let middle = buffer.len() / 2;
            buffer[middle] ^= 0x10;
        }
        buffer
    }
}
