//! In which stored objects what is needed lies, what else there is, and what is worth moving.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use farshore_core::PackId;
use futures::TryStreamExt;

use super::{Amount, collect::Move, live::Live};
use crate::{
    Result,
    collection::{Collection, CollectionRef, HEADER_PIECE, Sort, collection_folder, frame_piece},
    commit::{commit_folder, commit_number},
    ledger::{Condemned, LEDGER_COLLECTIONS_MAX, LEDGER_SOURCES_MAX, Valid, ledger_folder},
    lineage::LineageShared,
    pack::packs_folder,
    page::maps_folder,
    store::{Listed as StoreListed, bucket::Versions},
    wire::Kind,
};

/// A data pack or collection with fewer bytes is small: small ones are collected, many at a time.
const SMALL_DATA_BYTES: u64 = 1024 * 1024;

/// A map pack with fewer bytes is small.
const SMALL_MAP_BYTES: u64 = 256 * 1024;

/// Fewer small ones than this are left alone.
const SMALL_PACKS_MIN: usize = 16;

/// What listings propose: objects that could be deleted, because no writer and no other prune can still make them needed.
#[derive(Debug, Default)]
pub(super) struct Listed {
    objects: BTreeMap<(u8, PackId), Condemned>,
    pub(super) commits: BTreeSet<Condemned>,
}

/// What a listing proposes below a folder. In a locked vault also what is hidden: it is there, and it is paid for.
async fn proposed(shared: &LineageShared, folder: &str) -> Result<Vec<StoreListed>> {
    if shared.access.ring().lock.is_none() {
        return shared.store.list(folder).try_collect().await;
    }
    let versions = shared.store.versions(folder).await?;
    let listed = versions.into_iter().filter_map(|(key, copies)| {
        let first = copies.values().find_map(Versions::first)?;
        Some(StoreListed { bytes: first.bytes, received_at: first.received_at, key })
    });
    Ok(listed.collect())
}

impl Listed {
    /// `newest_point` is the newest point that was judged, `pruned` the newest prune; 0 if there is none.
    pub(super) async fn read(shared: &LineageShared, newest_point: u64, pruned: u64) -> Result<Self> {
        let mut listed = Self::default();
        for (kind, folder, base_end) in [
            (Kind::DataPack, packs_folder(shared.id), newest_point),
            (Kind::MapPack, maps_folder(shared.id), newest_point),
            (Kind::Collection, collection_folder(shared.id), pruned),
            (Kind::Ledger, ledger_folder(shared.id), pruned),
        ] {
            for object in proposed(shared, &folder).await? {
                let mut names = object.key.rsplit('/');
                let (Some(id), Some(base)) = (names.next(), names.next()) else { continue };
                let (Ok(id), Ok(base)) = (id.parse(), base.parse::<u64>()) else { continue };
                if base < base_end {
                    let bytes = u32::try_from(object.bytes).unwrap_or(u32::MAX);
                    listed.objects.insert((kind as u8, id), Condemned { kind: kind as u8, base, id, bytes });
                }
            }
        }
        for object in proposed(shared, &commit_folder(shared.id)).await? {
            let number = object.key.rsplit('/').next().and_then(commit_number);
            listed.commits.extend(number.map(Condemned::commit));
        }
        Ok(listed)
    }

    /// Whether it is still there, as far as the listing says.
    pub(super) fn has(&self, object: &Condemned) -> bool {
        match object.is_commit() {
            true => self.commits.contains(object),
            false => self.objects.contains_key(&(object.kind, object.id)),
        }
    }

    /// Those that are no commits.
    pub(super) fn objects(&self) -> impl Iterator<Item = &Condemned> {
        self.objects.values()
    }

    fn bytes(&self, kind: Kind, id: PackId) -> Option<u64> {
        self.objects.get(&(kind as u8, id)).map(|object| u64::from(object.bytes))
    }
}

/// How many packs can be moved if these collections stay.
pub(super) fn room_beside(staying: &[CollectionRef]) -> usize {
    let sources: usize = staying.iter().map(|collection| collection.sources.len()).sum();
    // Each source may get a collection of its own.
    LEDGER_SOURCES_MAX.saturating_sub(sources).min(LEDGER_COLLECTIONS_MAX.saturating_sub(staying.len()))
}

/// How much of an object is needed.
#[derive(Debug, Clone, Default)]
struct Need {
    /// Needed bytes, as far as they are known.
    bytes: u64,
    /// Packs whose pieces they are.
    sources: BTreeSet<(Sort, PackId)>,
}

/// What is moved, and what is emptied by that.
#[derive(Debug, Default)]
pub(super) struct Collecting {
    pub(super) moves: Vec<Move>,
    /// Objects out of which everything that is needed is moved, each with the packs whose pieces it has.
    pub(super) emptied: Vec<(Condemned, BTreeSet<(Sort, PackId)>)>,
}

/// In which objects what is needed lies now.
#[derive(Debug, Default)]
pub(super) struct Placement {
    needs: BTreeMap<(u8, PackId), Need>,
}

impl Placement {
    pub(super) async fn find(
        shared: &LineageShared,
        valid: Option<&Valid>,
        live: &Live,
        listed: &Listed,
    ) -> Result<Self> {
        let mut placement = Self::default();
        for (pack, data) in &live.data {
            let moved = shared.places.find(valid, Sort::Data, *pack, data.frames.iter().map(frame_piece)).await?;
            let mut rest = Vec::new();
            for ordinal in data.frames.iter() {
                match moved.get(&frame_piece(ordinal)) {
                    Some((collection, piece)) => placement.add_piece(collection, Sort::Data, *pack, piece.length),
                    None => rest.push(ordinal),
                }
            }
            if rest.is_empty() {
                continue;
            }
            // How long the frames are is in the pack's header. Small packs are collected whatever it says, and packs that no
            // listing proposes are left alone: their headers need not be read.
            let bytes = match listed.bytes(Kind::DataPack, *pack) {
                Some(size) if size >= SMALL_DATA_BYTES => {
                    let directory = shared.frames.directory(&data.reference).await?;
                    let frame = |ordinal: &u32| usize::try_from(*ordinal).ok().and_then(|at| directory.frames.get(at));
                    let frames = rest.iter().filter_map(frame).map(|frame| u64::from(frame.stored_bytes));
                    u64::from(data.reference.header_bytes) + frames.sum::<u64>()
                }
                _ => u64::from(data.reference.bytes),
            };
            placement.add((Kind::DataPack, *pack), bytes, (Sort::Data, *pack));
        }
        for (pack, map) in &live.maps {
            let moved = shared.places.find(valid, Sort::Map, *pack, map.pages.keys().copied()).await?;
            for (offset, (length, _)) in &map.pages {
                match moved.get(offset) {
                    Some((collection, _)) => placement.add_piece(collection, Sort::Map, *pack, *length),
                    None => placement.add((Kind::MapPack, *pack), u64::from(*length), (Sort::Map, *pack)),
                }
            }
        }
        Ok(placement)
    }

    fn add_piece(&mut self, collection: &Arc<Collection>, sort: Sort, pack: PackId, length: u32) {
        let (key, source) = ((Kind::Collection, collection.reference.id), (sort, pack));
        let is_new = !self.needs.get(&(key.0 as u8, key.1)).is_some_and(|need| need.sources.contains(&source));
        let header = collection.source(sort, pack).filter(|_| is_new && sort == Sort::Data);
        let header = header.and_then(|source| source.piece(HEADER_PIECE)).map_or(0, |piece| piece.length);
        self.add(key, u64::from(length) + u64::from(header), source);
    }

    fn add(&mut self, (kind, id): (Kind, PackId), bytes: u64, source: (Sort, PackId)) {
        let need = self.needs.entry((kind as u8, id)).or_default();
        need.bytes = need.bytes.saturating_add(bytes);
        need.sources.insert(source);
    }

    /// Whether a point that stands needs something of it. Commits are not spoken of here.
    pub(super) fn is_needed(&self, object: &Condemned) -> bool {
        self.needs.contains_key(&(object.kind, object.id))
    }

    /// The objects in which something is needed, by the references that lead to them; their sizes are not told.
    pub(super) fn needed_objects(
        &self,
        live: &Live,
        collections: &BTreeMap<PackId, u64>,
    ) -> impl Iterator<Item = Condemned> {
        self.needs.keys().filter_map(move |(kind, id)| {
            let base = match *kind {
                kind if kind == Kind::DataPack as u8 => live.data.get(id).map(|data| data.reference.base),
                kind if kind == Kind::MapPack as u8 => live.maps.get(id).map(|map| map.base),
                _ => collections.get(id).copied(),
            };
            base.map(|base| Condemned { kind: *kind, base, id: *id, bytes: 0 })
        })
    }

    /// What is needed of the objects that a listing proposes, whole objects counted.
    pub(super) fn needed(&self, listed: &Listed) -> Amount {
        Amount::of(self.needs.keys().filter_map(|key| listed.objects.get(key)))
    }

    /// Which packs are moved together, if the collections that stay leave room for more.
    pub(super) fn collecting(
        &self,
        live: &Live,
        listed: &Listed,
        previously_judged: u64,
        staying: &[CollectionRef],
    ) -> Collecting {
        let (mut chosen, mut small) = (Vec::new(), Vec::new());
        for (key, need) in &self.needs {
            let Some(object) = listed.objects.get(key) else { continue };
            let size = u64::from(object.bytes);
            let is_map = need.sources.iter().all(|(sort, _)| *sort == Sort::Map);
            let small_bytes = if is_map { SMALL_MAP_BYTES } else { SMALL_DATA_BYTES };
            if need.bytes.saturating_mul(2) < size {
                chosen.push(need);
            } else if size < small_bytes && object.base < previously_judged {
                // What has survived one prune already is worth moving.
                small.push(need);
            }
        }
        if small.len() >= SMALL_PACKS_MIN {
            chosen.extend(small);
        }
        let room = room_beside(staying);
        let sources = chosen.iter().flat_map(|need| need.sources.iter().copied());
        let sources: BTreeSet<(Sort, PackId)> = sources.take(room).collect();
        let moves = sources.iter().filter_map(|(sort, pack)| match sort {
            Sort::Data => live.data.get(pack).map(Move::data),
            Sort::Map => live.maps.get(pack).map(|map| Move::map(*pack, map)),
        });
        // What is moved is moved whole, from wherever it is; so other objects may be emptied as well.
        let emptied = self.needs.iter().filter(|(_, need)| need.sources.is_subset(&sources));
        let emptied = emptied.filter_map(|(key, need)| Some((*listed.objects.get(key)?, need.sources.clone())));
        Collecting { moves: moves.collect(), emptied: emptied.collect() }
    }
}
