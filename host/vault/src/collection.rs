//! Collections: sealed frames and map pages that were moved out of packs in which little was still needed.
//!
//! Maps name a frame by the pack in which it was born, and a page by its pack and offset. Neither changes when the sealed
//! bytes are copied elsewhere; the newest ledger says in which collection the pieces of a pack are now. Who moves them
//! needs no key to what they hold: a frame authenticates itself, a page has the hash of its reference.
//!
//! `lineages/<lineage>/collections/<number of the newest commit that its maker had judged>/<id>`
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | prologue of kind 13; its length is that of the header, which ends where the body begins |
//! | 16 | id |
//! | 4, 32 | bytes of the body, BLAKE3 of the body |
//! | rest of the header | the directory, sealed: count of sources 4, then for each: sort 1, pack 16, base 8, count of pieces 4; each piece: key 4, offset in the object 4, length 4 |
//! | body | the pieces |
//!
//! The sort of a source is 1 for a data pack: the piece of key 0 is the pack's header as it was, that of key n + 1 the frame of
//! ordinal n. It is 2 for a map pack: the key of a page is its offset there. Sources and pieces are in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use farshore_core::{Entropy, LineageId, PackId};

use crate::{
    Error, Result, Store,
    cache::Cache,
    ledger::{Ledgers, Valid},
    seal::{Hash, Purpose, Sealer, stored_hash, stored_hash_of_parts},
    wire::{Kind, PROLOGUE_BYTES, Reader, length_u32, open_prologue, prologue},
};

/// When the pieces of a collection reach this many bytes, it is closed.
pub(crate) const COLLECTION_BODY_BYTES_TARGET: usize = 24 * 1024 * 1024;

/// The most pieces of a collection: more than a map pack has pages.
pub(crate) const COLLECTION_PIECES_MAX: usize = 100_000;

/// The most bytes that one source may bring: more than a pack has.
pub(crate) const COLLECTION_SOURCE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The most sources of a collection.
pub(crate) const COLLECTION_SOURCES_MAX: usize = 8_192;

/// The most bytes of a stored collection that a reader accepts.
pub(crate) const COLLECTION_BYTES_MAX: usize = 96 * 1024 * 1024;

/// The most bytes of a header that a reader accepts.
const HEADER_BYTES_MAX: usize = 2 * 1024 * 1024;

const FIXED_BYTES: usize = PROLOGUE_BYTES + 16 + 4 + 32;

/// Half the number of directories that are kept; each is about 30 KiB, at most 1.5 MiB.
const CACHED_DIRECTORIES_HALF: usize = 64;

/// The folder of a lineage's collections.
pub(crate) fn collection_folder(lineage: LineageId) -> String {
    format!("lineages/{lineage}/collections")
}

/// The key of a collection.
pub(crate) fn collection_key(lineage: LineageId, base: u64, id: PackId) -> String {
    format!("{}/{base:020}/{id}", collection_folder(lineage))
}

/// Of what sort a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Sort {
    /// A data pack.
    Data = 1,
    /// A map pack.
    Map = 2,
}

impl Sort {
    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        match reader.u8()? {
            1 => Ok(Self::Data),
            2 => Ok(Self::Map),
            _ => Err(reader.damaged("it has a source of no sort that there is")),
        }
    }
}

/// Where a collection lies, what it must be, and whose pieces it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CollectionRef {
    pub(crate) id: PackId,
    /// Part of its key.
    pub(crate) base: u64,
    pub(crate) bytes: u32,
    pub(crate) header_bytes: u32,
    pub(crate) header_hash: Hash,
    /// In order.
    pub(crate) sources: Vec<(Sort, PackId)>,
}

impl CollectionRef {
    /// The least bytes that one takes in a ledger.
    pub(crate) const BYTES_MIN: usize = 16 + 8 + 4 + 4 + 32 + 4;

    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.extend_from_slice(&self.base.to_le_bytes());
        bytes.extend_from_slice(&self.bytes.to_le_bytes());
        bytes.extend_from_slice(&self.header_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.header_hash);
        bytes.extend_from_slice(&length_u32(self.sources.len()).to_le_bytes());
        for (sort, pack) in &self.sources {
            bytes.push(*sort as u8);
            bytes.extend_from_slice(pack.as_bytes());
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>, sources_max: usize) -> Result<Self> {
        let (id, base) = (PackId::from_bytes(reader.array()?), reader.u64()?);
        let (bytes, header_bytes, header_hash) = (reader.u32()?, reader.u32()?, reader.array()?);
        let fits = |length: u32, limit: usize| usize::try_from(length).is_ok_and(|length| length <= limit);
        if !fits(bytes, COLLECTION_BYTES_MAX) || !fits(header_bytes, HEADER_BYTES_MAX) || header_bytes > bytes {
            return Err(reader.damaged("it refers to a collection of an impossible length"));
        }
        let count = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
        let count = reader.count(count, sources_max.min(COLLECTION_SOURCES_MAX), 17)?;
        let source = |reader: &mut Reader<'_>| Ok((Sort::decode(reader)?, PackId::from_bytes(reader.array()?)));
        let sources = (0..count).map(|_| source(reader)).collect::<Result<_>>()?;
        Ok(Self { id, base, bytes, header_bytes, header_hash, sources })
    }

    /// The collection's key in the lineage's folder.
    pub(crate) fn key(&self, lineage: LineageId) -> String {
        collection_key(lineage, self.base, self.id)
    }
}

/// Where a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) key: u32,
    /// In the collection's object.
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

/// The piece of a data pack that is its header.
pub(crate) const HEADER_PIECE: u32 = 0;

/// The key of the piece that is the frame of this ordinal.
pub(crate) fn frame_piece(ordinal: u32) -> u32 {
    ordinal.saturating_add(1)
}

/// The pieces of one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) sort: Sort,
    pub(crate) pack: PackId,
    pub(crate) base: u64,
    /// In order of their keys.
    pub(crate) pieces: Vec<Piece>,
}

impl Source {
    /// The ordinals of the frames of a data pack that were moved.
    pub(crate) fn ordinals(&self) -> impl Iterator<Item = u32> {
        self.pieces.iter().filter_map(|piece| piece.key.checked_sub(1))
    }

    /// The piece of this key.
    pub(crate) fn piece(&self, key: u32) -> Option<&Piece> {
        let index = self.pieces.binary_search_by_key(&key, |piece| piece.key).ok()?;
        self.pieces.get(index)
    }
}

/// What a collection holds.
#[derive(Debug)]
pub(crate) struct Collection {
    /// The object's key, for errors and reads.
    pub(crate) object: String,
    pub(crate) reference: CollectionRef,
    body_hash: Hash,
    sources: Vec<Source>,
}

impl Collection {
    /// Reads the header of a collection.
    ///
    /// # Errors
    /// It is missing or damaged, or the store failed.
    pub(crate) async fn read(
        store: &Store,
        sealer: &Sealer,
        lineage: LineageId,
        reference: &CollectionRef,
    ) -> Result<Self> {
        let object = reference.key(lineage);
        let reason = "frames or map pages that recovery points need were moved into it";
        let header = store.read_exact(&object, 0..u64::from(reference.header_bytes), reason).await?;
        if stored_hash(&header) != reference.header_hash {
            return Err(Error::damaged(object, "its header does not have the hash of its reference"));
        }
        let collection = Self::open(object, sealer, lineage, reference, &header)?;
        if store.lender_of(&collection.object).is_some() {
            // It is to be copied: then it must be right to the last byte.
            let missing = || Error::ObjectMissing { object: collection.object.clone(), reason: reason.to_owned() };
            let bytes = store.read(&collection.object, COLLECTION_BYTES_MAX).await?.ok_or_else(missing)?;
            if !collection.is_as_stored(&bytes) {
                let problem = "its stored bytes do not have the length and hash of its header";
                return Err(Error::damaged(&collection.object, problem));
            }
        }
        Ok(collection)
    }

    fn open(
        object: String,
        sealer: &Sealer,
        lineage: LineageId,
        reference: &CollectionRef,
        header: &[u8],
    ) -> Result<Self> {
        let (length, _) = open_prologue(&object, Kind::Collection, header)?;
        let mut reader = Reader::new(&object, header);
        reader.take(PROLOGUE_BYTES)?;
        if usize::try_from(length) != Ok(header.len()) || reader.array()? != *reference.id.as_bytes() {
            return Err(reader.damaged("it is another collection under this one's name"));
        }
        let (body_bytes, body_hash) = (reader.u32()?, reader.array()?);
        if reference.header_bytes.checked_add(body_bytes) != Some(reference.bytes) {
            return Err(reader.damaged("its length is not that of its reference"));
        }
        let purpose = Purpose::Collection { lineage, collection: reference.id, body_bytes, body_hash };
        let plain = sealer.open(&object, purpose, reader.rest())?;
        let sources = decode_sources(&object, &plain, reference)?;
        if !sources.iter().map(|source| (source.sort, source.pack)).eq(reference.sources.iter().copied()) {
            return Err(Error::damaged(object, "its sources are not those of its reference"));
        }
        Ok(Self { object, reference: reference.clone(), body_hash, sources })
    }

    /// The pieces of a pack.
    pub(crate) fn source(&self, sort: Sort, pack: PackId) -> Option<&Source> {
        let index = self.sources.binary_search_by_key(&(sort, pack), |source| (source.sort, source.pack)).ok()?;
        self.sources.get(index)
    }

    /// Whether the object's bytes are those that its header describes.
    pub(crate) fn is_as_stored(&self, bytes: &[u8]) -> bool {
        let header_bytes = usize::try_from(self.reference.header_bytes).unwrap_or(usize::MAX);
        usize::try_from(self.reference.bytes) == Ok(bytes.len())
            && bytes.split_at_checked(header_bytes).is_some_and(|(header, body)| {
                stored_hash(header) == self.reference.header_hash && stored_hash(body) == self.body_hash
            })
    }
}

fn decode_sources(object: &str, plain: &[u8], reference: &CollectionRef) -> Result<Vec<Source>> {
    let mut reader = Reader::new(object, plain);
    let count = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
    let count = reader.count(count, COLLECTION_SOURCES_MAX, 29)?;
    let mut sources: Vec<Source> = Vec::with_capacity(count);
    let mut left = COLLECTION_PIECES_MAX;
    for _ in 0..count {
        let sort = Sort::decode(&mut reader)?;
        let (pack, base) = (PackId::from_bytes(reader.array()?), reader.u64()?);
        if sources.last().is_some_and(|last| (last.sort, last.pack) >= (sort, pack)) {
            return Err(reader.damaged("its sources are not in order"));
        }
        let count = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
        let count = reader.count(count, left, 12)?;
        left -= count;
        let mut pieces: Vec<Piece> = Vec::with_capacity(count);
        for _ in 0..count {
            let piece = Piece { key: reader.u32()?, offset: reader.u32()?, length: reader.u32()? };
            let end = piece.offset.checked_add(piece.length);
            let is_inside = piece.offset >= reference.header_bytes && end.is_some_and(|end| end <= reference.bytes);
            if !is_inside || pieces.last().is_some_and(|last| last.key >= piece.key) {
                return Err(reader.damaged("it describes an impossible piece"));
            }
            pieces.push(piece);
        }
        sources.push(Source { sort, pack, base, pieces });
    }
    reader.finish()?;
    Ok(sources)
}

/// The sources that a directory names, as the reference to it would have them; none if it is damaged.
#[cfg(fuzzing)]
pub(crate) fn fuzzed_sources(directory: &[u8], header_bytes: u32, bytes: u32) -> Option<Vec<(Sort, PackId)>> {
    let id = PackId::from_bytes([0; 16]);
    let reference = CollectionRef { id, base: 0, bytes, header_bytes, header_hash: [0; 32], sources: Vec::new() };
    let sources = decode_sources("fuzzed", directory, &reference).ok()?;
    Some(sources.iter().map(|source| (source.sort, source.pack)).collect())
}

/// Makes collections: pieces are added, and when there are enough the object is taken.
#[derive(Debug, Default)]
pub(crate) struct CollectionMaker {
    body: Vec<Bytes>,
    body_bytes: usize,
    pieces: usize,
    /// Offsets are relative to the body here.
    sources: BTreeMap<(Sort, PackId), Source>,
}

impl CollectionMaker {
    /// Whether so many pieces belong into another collection.
    pub(crate) fn is_full(&self, pieces_to_come: usize) -> bool {
        !self.is_empty()
            && (self.body_bytes >= COLLECTION_BODY_BYTES_TARGET
                || self.pieces + pieces_to_come > COLLECTION_PIECES_MAX
                || self.sources.len() >= COLLECTION_SOURCES_MAX)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// The packs whose pieces it has.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (Sort, PackId)> {
        self.sources.keys().copied()
    }

    /// Adds the pieces of a pack, in order of their keys.
    pub(crate) fn add(&mut self, sort: Sort, pack: PackId, base: u64, pieces: Vec<(u32, Bytes)>) {
        let mut source = Source { sort, pack, base, pieces: Vec::with_capacity(pieces.len()) };
        for (key, bytes) in pieces {
            let (offset, length) = (length_u32(self.body_bytes), length_u32(bytes.len()));
            source.pieces.push(Piece { key, offset, length });
            self.body_bytes += bytes.len();
            self.pieces += 1;
            self.body.push(bytes);
        }
        self.sources.insert((sort, pack), source);
    }

    /// The parts of the object, and the reference to it.
    ///
    /// # Errors
    /// [`Error::VerificationFailed`].
    pub(crate) fn make(
        self,
        lineage: LineageId,
        (id, base): (PackId, u64),
        sealer: &Sealer,
        entropy: &dyn Entropy,
    ) -> Result<(Vec<Bytes>, CollectionRef)> {
        let body_bytes = length_u32(self.body_bytes);
        let body_hash = stored_hash_of_parts(self.body.iter().map(AsRef::as_ref));
        // The length of what is sealed does not depend on the offsets in it.
        let directory_bytes = 4 + self.sources.values().map(|source| 29 + 12 * source.pieces.len()).sum::<usize>();
        let header_bytes = length_u32(FIXED_BYTES + directory_bytes + crate::seal::SEALED_OVERHEAD_BYTES);
        let mut directory = Vec::with_capacity(directory_bytes);
        directory.extend_from_slice(&length_u32(self.sources.len()).to_le_bytes());
        for source in self.sources.values() {
            directory.push(source.sort as u8);
            directory.extend_from_slice(source.pack.as_bytes());
            directory.extend_from_slice(&source.base.to_le_bytes());
            directory.extend_from_slice(&length_u32(source.pieces.len()).to_le_bytes());
            for piece in &source.pieces {
                directory.extend_from_slice(&piece.key.to_le_bytes());
                directory.extend_from_slice(&(header_bytes + piece.offset).to_le_bytes());
                directory.extend_from_slice(&piece.length.to_le_bytes());
            }
        }
        let object = collection_key(lineage, base, id);
        let purpose = Purpose::Collection { lineage, collection: id, body_bytes, body_hash };
        let sealed = sealer.seal(&object, purpose, &directory, entropy)?;
        let mut header = Vec::with_capacity(FIXED_BYTES + sealed.len());
        header.extend_from_slice(&prologue(Kind::Collection, header_bytes));
        header.extend_from_slice(id.as_bytes());
        header.extend_from_slice(&body_bytes.to_le_bytes());
        header.extend_from_slice(&body_hash);
        header.extend_from_slice(&sealed);
        assert_eq!(length_u32(header.len()), header_bytes, "sealing adds a fixed number of bytes");
        let reference = CollectionRef {
            id,
            base,
            bytes: header_bytes + body_bytes,
            header_bytes,
            header_hash: stored_hash(&header),
            sources: self.sources.into_keys().collect(),
        };
        // What its readers would refuse must not become the only place of what is moved.
        Collection::open(object, sealer, lineage, &reference, &header)?;
        let mut parts = vec![Bytes::from(header)];
        parts.extend(self.body);
        Ok((parts, reference))
    }
}

/// Pieces of a pack by their keys: the collection in which each is, and where in it.
pub(crate) type Found = BTreeMap<u32, (Arc<Collection>, Piece)>;

/// Where pieces of packs are now, as the newest ledger says that this handle has read. It is read when something is not where
/// it was: what was moved stays where it was for a grace.
#[derive(Debug)]
pub(crate) struct Places {
    store: Store,
    sealer: Sealer,
    lineage: LineageId,
    ledgers: Arc<Ledgers>,
    directories: Mutex<Cache<PackId, Arc<Collection>>>,
}

impl Places {
    pub(crate) fn new(store: Store, sealer: Sealer, lineage: LineageId, ledgers: Arc<Ledgers>) -> Self {
        Self { store, sealer, lineage, ledgers, directories: Mutex::new(Cache::new(CACHED_DIRECTORIES_HALF)) }
    }

    /// The newest ledger that this handle has read.
    pub(crate) fn kept(&self) -> Option<Arc<Valid>> {
        self.ledgers.kept()
    }

    /// Where these pieces of a pack are, as this ledger says; those that are not among the answers are in the pack. A piece that
    /// several collections have is taken from the last. One before it is not read when all pieces were found: what it held
    /// may have been moved on because it is damaged.
    ///
    /// # Errors
    /// A collection that must be read is missing or damaged, or the store failed.
    pub(crate) async fn find(
        &self,
        valid: Option<&Valid>,
        sort: Sort,
        pack: PackId,
        keys: impl IntoIterator<Item = u32>,
    ) -> Result<Found> {
        let mut found = Found::new();
        let indices = valid.and_then(|valid| valid.moved.get(&(sort, pack)).map(|indices| (valid, indices)));
        let Some((valid, indices)) = indices else { return Ok(found) };
        let mut wanted: BTreeSet<u32> = keys.into_iter().collect();
        for reference in indices.iter().rev().filter_map(|index| valid.ledger.collections.get(*index)) {
            if wanted.is_empty() {
                break;
            }
            let collection = self.collection(reference).await?;
            let Some(source) = collection.source(sort, pack) else { continue };
            wanted.retain(|key| match source.piece(*key) {
                Some(piece) => found.insert(*key, (Arc::clone(&collection), *piece)).is_some(),
                None => true,
            });
        }
        Ok(found)
    }

    async fn collection(&self, reference: &CollectionRef) -> Result<Arc<Collection>> {
        let kept = self.directories.lock().unwrap_or_else(PoisonError::into_inner).get(&reference.id);
        if let Some(kept) = kept.filter(|kept| kept.reference == *reference) {
            return Ok(kept);
        }
        let collection = Arc::new(Collection::read(&self.store, &self.sealer, self.lineage, reference).await?);
        let mut directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        directories.insert(reference.id, Arc::clone(&collection));
        Ok(collection)
    }

    /// Reads the newest ledger; it is returned if it is another than the one by which something was not found.
    ///
    /// # Errors
    /// A commit or the ledger is missing or damaged, or the store failed.
    pub(crate) async fn newer_than(&self, before: Option<&Valid>) -> Result<Option<Arc<Valid>>> {
        let (_, now) = self.ledgers.newest().await?;
        Ok(now.filter(|now| before.is_none_or(|before| before.commit < now.commit)))
    }
}
