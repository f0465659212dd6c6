//! Reading frames: from the slots of a leaf to verified chunks.
//!
//! A pack's header is read once and kept for a while; the frames that are wanted of it are read in ranges that join
//! neighbours, and opened, decompressed and identified by the workers. Nothing is handed on before the chunk's identity
//! is the one in the leaf. Frames that were moved are read from their collection, where their pack's header is too.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use farshore_core::{LineageId, PackId};
use futures::{StreamExt, TryStreamExt, future::try_join_all};

use crate::{
    Error, Result, Store, Workers,
    cache::Cache,
    collection::{Collection, HEADER_PIECE, Places, Sort, frame_piece},
    keys::{Access, Power},
    ledger::Valid,
    pack::{CHUNK, Directory, PackRef, ReadingKeys},
    page::LeafSlot,
    seal::{self, Hash, LineageKeys},
};

/// Half the number of pack headers that are kept; each is about 30 KiB, at most 150.
const CACHED_HEADERS_HALF: usize = 256;

/// Frames whose distance is at most this are read together.
const GAP_BYTES_MAX: u32 = 64 * 1024;

/// No more than this is read in one request, except for a single frame.
const RANGE_BYTES_MAX: u32 = 4 * 1024 * 1024;

/// How many frames of a sample are read side by side, of one pack.
const SAMPLED_AT_ONCE: usize = 4;

/// Reads the frames of one lineage.
#[derive(Debug)]
pub(crate) struct Frames {
    store: Store,
    workers: Workers,
    access: Arc<Access>,
    lineage: LineageId,
    keys: LineageKeys,
    places: Arc<Places>,
    directories: Mutex<Cache<DirectoryKey, Arc<Directory>>>,
}

/// A pack, and the collection in which its header was found, if in one.
type DirectoryKey = (PackId, Option<PackId>);

/// A chunk that was read: which slot of its leaf, and its bytes.
#[derive(Debug, Clone)]
pub(crate) struct SlotBytes {
    pub(crate) slot: usize,
    pub(crate) chunks: usize,
    pub(crate) bytes: Bytes,
}

/// What is wanted of a frame.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    slot: usize,
    chunk: usize,
    identity: Hash,
}

/// Frames of one pack that are read in one request.
#[derive(Debug)]
struct Range {
    start: u32,
    end: u32,
    frames: Vec<(u32, Vec<Wanted>)>,
}

impl Frames {
    pub(crate) fn new(
        store: Store,
        workers: Workers,
        access: Arc<Access>,
        lineage: LineageId,
        keys: LineageKeys,
        places: Arc<Places>,
    ) -> Self {
        let directories = Mutex::new(Cache::new(CACHED_HEADERS_HALF));
        Self { store, workers, access, lineage, keys, places, directories }
    }

    /// What opens the frames of a pack.
    ///
    /// # Errors
    /// [`Error::PowerMissing`] when the holder of the vault cannot read.
    fn reading_keys(&self, directory: &Directory) -> Result<ReadingKeys> {
        match (&directory.session, &self.keys.content) {
            (Some(session), Some(content)) => Ok(ReadingKeys { session: session.clone(), content: content.clone() }),
            _ => {
                self.access.require(Power::Recoverer, "to read what disks hold")?;
                Err(Error::damaged(&directory.object, "it is sealed to keys that the vault does not have"))
            }
        }
    }

    /// The verified directory of a pack, as it lies in the pack.
    pub(crate) async fn directory(&self, reference: &PackRef) -> Result<Arc<Directory>> {
        self.directory_in(reference, None).await
    }

    /// The verified directory of a pack whose header was moved into this collection: only frames that were moved too can be
    /// read by it, from there.
    pub(crate) async fn moved_directory(&self, reference: &PackRef, collection: &Collection) -> Result<Arc<Directory>> {
        self.directory_in(reference, Some(collection)).await
    }

    async fn directory_in(&self, reference: &PackRef, collection: Option<&Collection>) -> Result<Arc<Directory>> {
        let key = (reference.pack, collection.map(|collection| collection.reference.id));
        let cached = self.directories.lock().unwrap_or_else(PoisonError::into_inner).get(&key);
        let directory = match cached {
            Some(directory) => directory,
            None => {
                let directory = Arc::new(self.read_directory(reference, collection).await?);
                let mut cache = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
                cache.insert(key, Arc::clone(&directory));
                directory
            }
        };
        if directory.reference != *reference {
            return Err(Error::damaged(&directory.object, "two references to it differ"));
        }
        Ok(directory)
    }

    async fn read_directory(&self, reference: &PackRef, collection: Option<&Collection>) -> Result<Directory> {
        let source = match collection {
            None => None,
            Some(collection) => {
                let nothing = || Error::damaged(&collection.object, "it does not have what its directory says");
                Some((collection, collection.source(Sort::Data, reference.pack).ok_or_else(nothing)?))
            }
        };
        let (object, header) = match source {
            None => (reference.key(self.lineage), 0..u64::from(reference.header_bytes)),
            Some((collection, source)) => {
                let no_header = || Error::damaged(&collection.object, "a pack was moved into it without its header");
                let piece = source.piece(HEADER_PIECE).ok_or_else(no_header)?;
                let start = u64::from(piece.offset);
                (collection.object.clone(), start..start + u64::from(piece.length))
            }
        };
        let header = self.store.read_exact(&object, header, "a recovery point refers to it").await?;
        if seal::stored_hash(&header) != reference.header_hash {
            return Err(Error::damaged(object, "its header does not have the hash of its reference"));
        }
        let mut directory =
            Directory::open(&self.access, &self.keys, self.lineage, reference.pack, reference.base, &header)?;
        if let Some((collection, source)) = source {
            directory.place(&collection.object, |ordinal| source.piece(frame_piece(ordinal)).copied())?;
        }
        Ok(directory)
    }

    /// The chunks of these slots of a leaf that have content, in order; neighbours of one frame are joined.
    pub(crate) async fn read(
        &self,
        slots: &[Option<LeafSlot>],
        wanted: std::ops::Range<usize>,
    ) -> Result<Vec<SlotBytes>> {
        type Pack = (Arc<PackRef>, WantedFrames);
        let mut packs: BTreeMap<PackId, Pack> = BTreeMap::new();
        for (number, slot) in slots.iter().enumerate().take(wanted.end).skip(wanted.start) {
            let Some(slot) = slot else { continue };
            let (_, frames) = packs.entry(slot.pack.pack).or_insert_with(|| (Arc::clone(&slot.pack), BTreeMap::new()));
            let wanted = Wanted { slot: number, chunk: usize::from(slot.chunk), identity: slot.identity };
            frames.entry(slot.ordinal).or_default().push(wanted);
        }
        let reads = packs.into_values().map(|(pack, frames)| self.read_pack(pack, frames));
        let mut found: Vec<SlotBytes> = try_join_all(reads).await?.into_iter().flatten().collect();
        found.sort_unstable_by_key(|found| found.slot);
        Ok(found)
    }

    async fn read_pack(&self, pack: Arc<PackRef>, frames: WantedFrames) -> Result<Vec<SlotBytes>> {
        let valid = self.places.kept();
        match self.read_placed(valid.as_deref(), &pack, &frames).await {
            // It may have been moved since the newest ledger was read here.
            Err(error @ Error::ObjectMissing { .. }) => match self.places.newer_than(valid.as_deref()).await? {
                Some(newer) => self.read_placed(Some(&newer), &pack, &frames).await,
                None => Err(error),
            },
            read => read,
        }
    }

    async fn read_placed(
        &self,
        valid: Option<&Valid>,
        pack: &PackRef,
        frames: &WantedFrames,
    ) -> Result<Vec<SlotBytes>> {
        let pieces = frames.keys().map(|ordinal| frame_piece(*ordinal));
        let moved = self.places.find(valid, Sort::Data, pack.pack, pieces).await?;
        let mut by_place: BTreeMap<Option<PackId>, (Option<&Collection>, WantedFrames)> = BTreeMap::new();
        for (ordinal, wanted) in frames {
            let collection = moved.get(&frame_piece(*ordinal)).map(|(collection, _)| &**collection);
            let place = by_place.entry(collection.map(|collection| collection.reference.id));
            place.or_insert_with(|| (collection, BTreeMap::new())).1.insert(*ordinal, wanted.clone());
        }
        let mut reads = Vec::new();
        for (collection, frames) in by_place.into_values() {
            let directory = match collection {
                Some(collection) => self.moved_directory(pack, collection).await?,
                None => self.directory(pack).await?,
            };
            let ranges = join_neighbours(&directory, frames)?;
            reads.extend(ranges.into_iter().map(|range| self.read_one(Arc::clone(&directory), range)));
        }
        Ok(try_join_all(reads).await?.into_iter().flatten().collect())
    }

    async fn read_one(&self, directory: Arc<Directory>, range: Range) -> Result<Vec<SlotBytes>> {
        let reason = "a recovery point refers to it";
        let bytes = u64::from(range.start)..u64::from(range.end);
        let stored = self.store.read_exact(&directory.object, bytes, reason).await?;
        let keys = self.reading_keys(&directory)?;
        self.workers.run(move || open_range(&directory, &keys, &range, &stored)).await?
    }

    /// Reads the whole pack and checks that its stored bytes are what its reference says.
    pub(crate) async fn verify_stored(&self, reference: &PackRef) -> Result<(Arc<Directory>, Bytes)> {
        let directory = self.directory(reference).await?;
        let object = directory.object.clone();
        let bytes_max = usize::try_from(reference.bytes).unwrap_or(usize::MAX);
        let reason = "a recovery point refers to it";
        let bytes = self.store.read(&object, bytes_max).await?;
        let bytes = bytes.ok_or_else(|| Error::ObjectMissing { object: object.clone(), reason: reason.to_owned() })?;
        if self.is_as_stored(&directory, bytes.clone()).await? {
            Ok((directory, bytes))
        } else {
            Err(Error::damaged(object, "its stored bytes do not have the length and hash of its reference"))
        }
    }

    /// Whether the bytes of a pack are those that its header describes.
    pub(crate) async fn is_as_stored(&self, directory: &Arc<Directory>, bytes: Bytes) -> Result<bool> {
        let directory = Arc::clone(directory);
        let compare = move || {
            let reference = &directory.reference;
            let header_bytes = usize::try_from(reference.header_bytes).unwrap_or(usize::MAX);
            usize::try_from(reference.bytes) == Ok(bytes.len())
                && bytes.split_at_checked(header_bytes).is_some_and(|(header, body)| {
                    seal::stored_hash(header) == reference.header_hash && seal::stored_hash(body) == directory.body_hash
                })
        };
        self.workers.run(compare).await
    }

    /// Reads and opens these frames of a pack. How many bytes were read, and the ordinals of those that do not open, with
    /// what is wrong with each.
    ///
    /// # Errors
    /// Their object is not there, or the store failed.
    pub(crate) async fn read_and_verify(
        &self,
        directory: &Arc<Directory>,
        ordinals: BTreeSet<u32>,
    ) -> Result<(u64, Vec<(u32, Error)>)> {
        let keys = self.reading_keys(directory)?;
        let reads = futures::stream::iter(ordinals).map(|ordinal| {
            let (keys, directory) = (keys.clone(), Arc::clone(directory));
            async move {
                let frame = usize::try_from(ordinal).ok().and_then(|index| directory.frames.get(index));
                let (start, length) = frame.map_or((0, 0), |frame| (u64::from(frame.offset), frame.stored_bytes));
                let range = start..start + u64::from(length);
                let stored = self.store.read_exact(&directory.object, range, "a recovery point refers to it").await;
                let opened = match stored {
                    Ok(stored) => self.workers.run(move || directory.open_frame(&keys, ordinal, &stored)).await?,
                    Err(error) => Err(error),
                };
                match opened {
                    Ok(_) => Ok((length, None)),
                    Err(error @ Error::Damaged { .. }) => Ok((length, Some((ordinal, error)))),
                    Err(error) => Err(error),
                }
            }
        });
        let read: Vec<(u32, Option<(u32, Error)>)> = reads.buffered(SAMPLED_AT_ONCE).try_collect().await?;
        let bytes = read.iter().fold(0, |sum, (length, _)| sum + u64::from(*length));
        Ok((bytes, read.into_iter().filter_map(|(_, bad)| bad).collect()))
    }

    /// Opens the frames of a pack that lie in this object, whose stored bytes were read: all, or those of these ordinals. The
    /// ordinals of those that do not open, with what is wrong with each.
    pub(crate) async fn verify_frames(
        &self,
        directory: Arc<Directory>,
        bytes: Bytes,
        only: Option<BTreeSet<u32>>,
    ) -> Result<Vec<(u32, Error)>> {
        let keys = self.reading_keys(&directory)?;
        let verify = move || {
            let mut bad = Vec::new();
            let is_asked_for = |ordinal: u32| only.as_ref().is_none_or(|only| only.contains(&ordinal));
            for (ordinal, frame) in (0..).zip(&directory.frames).filter(|(ordinal, _)| is_asked_for(*ordinal)) {
                let start = usize::try_from(frame.offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(usize::try_from(frame.stored_bytes).unwrap_or(usize::MAX));
                let stored = bytes.get(start..end).unwrap_or_default();
                if let Err(error) = directory.open_frame(&keys, ordinal, stored) {
                    bad.push((ordinal, error));
                }
            }
            bad
        };
        self.workers.run(verify).await
    }
}

/// Frames by ordinal, with what is wanted of each.
type WantedFrames = BTreeMap<u32, Vec<Wanted>>;

fn join_neighbours(directory: &Directory, frames: WantedFrames) -> Result<Vec<Range>> {
    let mut ranges: Vec<Range> = Vec::new();
    for (ordinal, wanted) in frames {
        let frame = usize::try_from(ordinal).ok().and_then(|index| directory.frames.get(index));
        let frame = frame.ok_or_else(|| {
            Error::damaged(
                &directory.object,
                format!("a recovery point refers to its frame {ordinal}, which it does not have"),
            )
        })?;
        let (start, end) = (frame.offset, frame.offset.saturating_add(frame.stored_bytes));
        match ranges.last_mut() {
            Some(range)
                if start.saturating_sub(range.end) <= GAP_BYTES_MAX
                    && end.saturating_sub(range.start) <= RANGE_BYTES_MAX =>
            {
                range.end = end;
                range.frames.push((ordinal, wanted));
            }
            _ => ranges.push(Range { start, end, frames: vec![(ordinal, wanted)] }),
        }
    }
    Ok(ranges)
}

fn open_range(directory: &Directory, keys: &ReadingKeys, range: &Range, stored: &[u8]) -> Result<Vec<SlotBytes>> {
    let mut found: Vec<SlotBytes> = Vec::new();
    for (ordinal, wanted) in &range.frames {
        let damaged = |problem: &str| Error::damaged(&directory.object, format!("frame {ordinal}: {problem}"));
        let frame = usize::try_from(*ordinal).ok().and_then(|index| directory.frames.get(index));
        let frame = frame.ok_or_else(|| damaged("the pack has no such frame"))?;
        let start = usize::try_from(frame.offset.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(frame.stored_bytes).unwrap_or(usize::MAX));
        let sealed = stored.get(start..end).ok_or_else(|| damaged("it ends too early"))?;
        let plain = Bytes::from(directory.open_frame(keys, *ordinal, sealed)?);
        let mut previous: Option<Wanted> = None;
        for wanted in wanted {
            // The frame's chunks were just compared with the directory; the leaf must mean the same chunk.
            if frame.chunks.get(wanted.chunk) != Some(&wanted.identity) {
                return Err(damaged("it does not hold the chunk that the recovery point expects in it"));
            }
            let joins =
                previous.is_some_and(|before| before.slot + 1 == wanted.slot && before.chunk + 1 == wanted.chunk);
            let (from, to) = (wanted.chunk * CHUNK, (wanted.chunk + 1) * CHUNK);
            match found.last_mut() {
                Some(run) if joins => {
                    let first = from - run.chunks * CHUNK;
                    run.chunks += 1;
                    run.bytes = plain.slice(first..to);
                }
                _ => found.push(SlotBytes { slot: wanted.slot, chunks: 1, bytes: plain.slice(from..to) }),
            }
            previous = Some(*wanted);
        }
    }
    Ok(found)
}
