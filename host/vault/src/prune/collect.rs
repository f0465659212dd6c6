//! Moving what is still needed out of packs in which little is, without reading it: sealed frames and pages are copied as
//! they are, and packs become collections.
//!
//! Everything is verified on the way, as far as that goes without the keys of content: a pack and a collection have hashes of
//! their stored bytes, a page has the hash of its reference. What does not verify stays where it is.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use farshore_core::{PackId, Sequence};

use super::live::{LiveData, LiveMap, Ordinals};
use crate::{
    Error, PageRef, Result,
    collection::{
        COLLECTION_BYTES_MAX, COLLECTION_PIECES_MAX, COLLECTION_SOURCE_BYTES_MAX, Collection, CollectionMaker,
        CollectionRef, HEADER_PIECE, Piece, Sort, frame_piece,
    },
    ledger::Valid,
    lineage::LineageShared,
    log::HeadCommit,
    map::check_page,
    pack::PackRef,
    store::Created,
};

/// A pack whose needed pieces are to be moved.
#[derive(Debug, Clone)]
pub(super) enum Move {
    Data { reference: Arc<PackRef>, frames: Ordinals },
    Map { pack: PackId, map: LiveMap },
}

impl Move {
    pub(super) fn data(live: &LiveData) -> Self {
        Self::Data { reference: Arc::clone(&live.reference), frames: live.frames.clone() }
    }

    pub(super) fn map(pack: PackId, live: &LiveMap) -> Self {
        Self::Map { pack, map: live.clone() }
    }

    pub(super) fn source(&self) -> (Sort, PackId, u64) {
        match self {
            Self::Data { reference, .. } => (Sort::Data, reference.pack, reference.base),
            Self::Map { pack, map } => (Sort::Map, *pack, map.base),
        }
    }
}

/// What came of moving.
#[derive(Debug, Default)]
pub(super) struct Moved {
    pub(super) collections: Vec<CollectionRef>,
    /// Packs that could not be moved, because they are damaged or missing.
    pub(super) problems: Vec<Error>,
    pub(super) stuck: Vec<(Sort, PackId)>,
    /// Why a collection could not be created; nothing was tried after that.
    pub(super) full: Option<Error>,
}

impl Moved {
    /// That every collection was stored.
    pub(super) fn or_full(self) -> Result<Self> {
        match self.full {
            Some(error) => Err(error),
            None => Ok(self),
        }
    }
}

/// Moves pieces into new collections.
pub(super) struct Mover<'a> {
    shared: &'a LineageShared,
    valid: Option<&'a Valid>,
    built_on: &'a HeadCommit,
    judged: Sequence,
    /// The bytes of the collection that was read last.
    read: Option<(PackId, Bytes)>,
}

impl<'a> Mover<'a> {
    pub(super) fn new(
        shared: &'a LineageShared,
        valid: Option<&'a Valid>,
        built_on: &'a HeadCommit,
        judged: Sequence,
    ) -> Self {
        Self { shared, valid, built_on, judged, read: None }
    }

    /// Moves them all, pages and frames into collections of their own. When one cannot be created, as in a store that is full,
    /// what is left is stuck.
    ///
    /// # Errors
    /// The store failed to be read. Damage is part of the result.
    pub(super) async fn run(&mut self, moves: &[Move]) -> Result<Moved> {
        let mut moved = Moved::default();
        // Sources that lie in one collection come one after the other, so that it is read once.
        let mut ordered: BTreeMap<(Sort, Option<usize>, PackId), &Move> = BTreeMap::new();
        for one in moves {
            let (sort, pack, _) = one.source();
            let at = self.valid.and_then(|valid| valid.moved.get(&(sort, pack))?.last().copied());
            ordered.insert((sort, at, pack), one);
        }
        for sort in [Sort::Map, Sort::Data] {
            let mut maker = CollectionMaker::default();
            for one in ordered.range((sort, None, PackId::from_bytes([0; 16]))..).take_while(|(key, _)| key.0 == sort) {
                let (sort, pack, base) = one.1.source();
                if moved.full.is_some() {
                    moved.stuck.push((sort, pack));
                    continue;
                }
                let pieces = match self.pieces(one.1).await {
                    Ok(pieces) if fit(&pieces) => pieces,
                    // No honest writer makes such a pack.
                    Ok(_) => {
                        let problem = "more of it is needed than a collection takes";
                        moved.problems.push(Error::damaged(format!("pack {pack}"), problem));
                        moved.stuck.push((sort, pack));
                        continue;
                    }
                    Err(error) if error.is_damage() => {
                        moved.problems.push(error);
                        moved.stuck.push((sort, pack));
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                if maker.is_full(pieces.len()) {
                    self.store_or_stick(std::mem::take(&mut maker), &mut moved).await?;
                }
                maker.add(sort, pack, base, pieces);
            }
            if !maker.is_empty() {
                self.store_or_stick(maker, &mut moved).await?;
            }
        }
        Ok(moved)
    }

    async fn store_or_stick(&self, maker: CollectionMaker, moved: &mut Moved) -> Result<()> {
        let sources: Vec<_> = maker.sources().collect();
        match self.store(maker).await {
            Ok(collection) => moved.collections.push(collection),
            Err(error @ Error::Store { operation: "create", .. }) => {
                moved.stuck.extend(sources);
                moved.full = Some(error);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn store(&self, maker: CollectionMaker) -> Result<CollectionRef> {
        let shared = self.shared;
        let name = (self.built_on.object_name(shared.entropy()), self.judged.get());
        let (parts, reference) = maker.make(shared.id, name, &shared.keys.metadata, shared.entropy())?;
        let object = reference.key(shared.id);
        match shared.store.create(&object, parts).await? {
            Created::Mine => Ok(reference),
            Created::Other => Err(Error::repeated_randomness(&object)),
        }
    }

    async fn pieces(&mut self, one: &Move) -> Result<Vec<(u32, Bytes)>> {
        match one {
            Move::Data { reference, frames } => self.data_pieces(reference, frames).await,
            Move::Map { pack, map } => self.map_pieces(*pack, map).await,
        }
    }

    async fn map_pieces(&self, pack: PackId, map: &LiveMap) -> Result<Vec<(u32, Bytes)>> {
        let mut pieces = Vec::with_capacity(map.pages.len());
        for (offset, (length, hash)) in &map.pages {
            let reference = PageRef { pack, base: map.base, offset: *offset, length: *length, hash: *hash };
            let (object, bytes) = self.shared.maps.stored_page(&reference).await?;
            check_page(&object, &reference, &bytes)?;
            // A slice would keep all that was fetched with it in memory.
            pieces.push((*offset, Bytes::copy_from_slice(&bytes)));
        }
        Ok(pieces)
    }

    async fn data_pieces(&mut self, reference: &PackRef, frames: &Ordinals) -> Result<Vec<(u32, Bytes)>> {
        let pack = reference.pack;
        let places = self.shared.places.find(self.valid, Sort::Data, pack, frames.iter().map(frame_piece)).await?;
        let mut moved: BTreeMap<PackId, (Arc<Collection>, Vec<Piece>)> = BTreeMap::new();
        let mut rest = Vec::new();
        for ordinal in frames.iter() {
            match places.get(&frame_piece(ordinal)) {
                Some((collection, piece)) => {
                    let place = moved.entry(collection.reference.id);
                    place.or_insert_with(|| (Arc::clone(collection), Vec::new())).1.push(*piece);
                }
                None => rest.push(ordinal),
            }
        }
        let mut found = BTreeMap::new();
        for (collection, mut pieces) in moved.into_values() {
            let header = collection.source(Sort::Data, pack).and_then(|source| source.piece(HEADER_PIECE));
            pieces.extend(header.copied());
            let bytes = self.collection_bytes(&collection).await?;
            for piece in pieces {
                let piece_bytes = slice(&bytes, piece.offset, piece.length);
                let broken = || Error::damaged(&collection.object, "it ends inside a frame");
                found.insert(piece.key, piece_bytes.ok_or_else(broken)?);
            }
        }
        if !rest.is_empty() {
            let (directory, bytes) = self.shared.frames.verify_stored(reference).await?;
            let broken = || Error::damaged(&directory.object, "a map refers to a frame that it does not have");
            found.insert(HEADER_PIECE, slice(&bytes, 0, reference.header_bytes).ok_or_else(broken)?);
            for ordinal in rest {
                let frame = usize::try_from(ordinal).ok().and_then(|index| directory.frames.get(index));
                let frame = frame.ok_or_else(broken)?;
                let frame_bytes = slice(&bytes, frame.offset, frame.stored_bytes);
                found.insert(frame_piece(ordinal), frame_bytes.ok_or_else(broken)?);
            }
        }
        Ok(found.into_iter().collect())
    }

    async fn collection_bytes(&mut self, collection: &Arc<Collection>) -> Result<Bytes> {
        let id = collection.reference.id;
        if let Some((_, bytes)) = self.read.as_ref().filter(|(read, _)| *read == id) {
            return Ok(bytes.clone());
        }
        let reason = "frames that recovery points need were moved into it".to_owned();
        let missing = || Error::ObjectMissing { object: collection.object.clone(), reason };
        let bytes = self.shared.store.read(&collection.object, COLLECTION_BYTES_MAX).await?.ok_or_else(missing)?;
        let (checked, compared) = (Arc::clone(collection), bytes.clone());
        if !self.shared.context.workers.run(move || checked.is_as_stored(&compared)).await? {
            let problem = "its stored bytes do not have the length and hash of its reference";
            return Err(Error::damaged(&collection.object, problem));
        }
        self.read = Some((id, bytes.clone()));
        Ok(bytes)
    }
}

/// A copy of a part of what was read: a slice would keep all of it in memory.
fn slice(bytes: &Bytes, offset: u32, length: u32) -> Option<Bytes> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    bytes.get(start..end).map(Bytes::copy_from_slice)
}

/// Whether a collection can take all of these.
fn fit(pieces: &[(u32, Bytes)]) -> bool {
    let bytes = pieces.iter().map(|(_, bytes)| u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    pieces.len() <= COLLECTION_PIECES_MAX && bytes.fold(0u64, u64::saturating_add) <= COLLECTION_SOURCE_BYTES_MAX
}
