//! Reading maps: pages by reference, and the leaves of a disk in order.
//!
//! Pages are small and their writer lays neighbours side by side, so a read of one fetches the bytes that follow it as
//! well. Both the fetched segments and the decoded pages are kept in bounded caches that all readers and writers of a
//! lineage share. Nothing leaves here before its hash was compared with its reference and its seal was opened.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use farshore_core::{LineageId, PackId};

use crate::{
    Error, Result, Store,
    cache::Cache,
    collection::{Places, Sort},
    ledger::Valid,
    page::{self, LEVELS, LeafSlot, PAGE_BYTES_MAX, Page, PageRef, SLOT_BITS, SLOTS},
    seal::{self, Purpose, Sealer},
};

/// Half the number of decoded pages that are kept: at most about 32 MiB.
const CACHED_PAGES_HALF: usize = 4096;

/// How many bytes of a map pack are fetched at once.
const SEGMENT_BYTES: u64 = 256 * 1024;

/// How many such segments are kept.
const SEGMENTS_MAX: usize = 16;

#[derive(Debug)]
struct Segment {
    /// The map pack or collection.
    object: PackId,
    offset: u64,
    bytes: Bytes,
}

/// Reads the map pages of one lineage.
#[derive(Debug)]
pub(crate) struct Maps {
    store: Store,
    lineage: LineageId,
    sealer: Sealer,
    places: Arc<Places>,
    pages: Mutex<Cache<PageRef, Arc<Page>>>,
    segments: Mutex<VecDeque<Segment>>,
}

/// That a page's stored bytes, which were found in this object, are those of its reference.
///
/// # Errors
/// [`Error::Damaged`] with the object that is.
pub(crate) fn check_page(object: &str, reference: &PageRef, stored: &[u8]) -> Result<()> {
    if seal::stored_hash(stored) == reference.hash {
        return Ok(());
    }
    let problem =
        format!("the map page that was stored at byte {} does not have the hash of its reference", reference.offset);
    Err(Error::damaged(object, problem))
}

/// The number of the page at this level that covers a leaf.
pub(crate) fn index_at(level: usize, leaf: u64) -> u64 {
    leaf >> (SLOT_BITS * u32::try_from(level).expect("levels are few"))
}

/// The slot of a page's number in the page above it.
pub(crate) fn slot_of(index: u64) -> usize {
    usize::try_from(index % SLOTS as u64).expect("a slot is below 64")
}

impl Maps {
    pub(crate) fn new(store: Store, lineage: LineageId, sealer: Sealer, places: Arc<Places>) -> Self {
        let pages = Mutex::new(Cache::new(CACHED_PAGES_HALF));
        Self { store, lineage, sealer, places, pages, segments: Mutex::default() }
    }

    /// The page behind a reference.
    pub(crate) async fn page(&self, reference: &PageRef, level: usize, index: u64) -> Result<Arc<Page>> {
        if let Some(page) = self.pages.lock().unwrap_or_else(PoisonError::into_inner).get(reference) {
            // The cache knows a page by its reference alone, so its kind is compared with what is wanted here.
            if matches!(*page, Page::Leaf(_)) == (level == 0) {
                return Ok(page);
            }
        }
        let (object, stored) = self.stored_page(reference).await?;
        let page = Arc::new(self.open_in(&object, reference, level, index, &stored)?);
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).insert(*reference, Arc::clone(&page));
        Ok(page)
    }

    /// Keeps a page that was just sealed: the next writer's changes are often near those of this one.
    pub(crate) fn keep(&self, reference: PageRef, page: Page) {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).insert(reference, Arc::new(page));
    }

    /// Verifies, opens and decodes a page's stored bytes.
    pub(crate) fn open(&self, reference: &PageRef, level: usize, index: u64, stored: &[u8]) -> Result<Page> {
        self.open_in(&reference.key(self.lineage), reference, level, index, stored)
    }

    /// The same for a page that was found in this object.
    fn open_in(&self, object: &str, reference: &PageRef, level: usize, index: u64, stored: &[u8]) -> Result<Page> {
        check_page(object, reference, stored)?;
        let level = u8::try_from(level).expect("levels are few");
        let (lineage, pack, offset) = (self.lineage, reference.pack, reference.offset);
        let plain = self.sealer.open(object, Purpose::Page { lineage, pack, offset, level, index }, stored)?;
        page::decode(object, level, index, &plain)
    }

    /// A page's stored bytes, and the object in which they are now. Their hash is not compared here, see [`check_page`].
    ///
    /// # Errors
    /// They are missing, or the store failed.
    pub(crate) async fn stored_page(&self, reference: &PageRef) -> Result<(String, Bytes)> {
        if reference.length > PAGE_BYTES_MAX {
            let problem = format!("a page of it claims to have {} bytes", reference.length);
            return Err(Error::damaged(reference.key(self.lineage), problem));
        }
        let valid = self.places.kept();
        match self.placed_page(valid.as_deref(), reference).await {
            // It may have been moved since the newest ledger was read here.
            Err(error @ Error::ObjectMissing { .. }) => match self.places.newer_than(valid.as_deref()).await? {
                Some(newer) => self.placed_page(Some(&newer), reference).await,
                None => Err(error),
            },
            read => read,
        }
    }

    async fn placed_page(&self, valid: Option<&Valid>, reference: &PageRef) -> Result<(String, Bytes)> {
        let moved = self.places.find(valid, Sort::Map, reference.pack, [reference.offset]).await?;
        let (object, id, offset) =
            match moved.get(&reference.offset).filter(|(_, piece)| piece.length == reference.length) {
                Some((collection, piece)) => (collection.object.clone(), collection.reference.id, piece.offset),
                None => (reference.key(self.lineage), reference.pack, reference.offset),
            };
        let bytes = self.read_piece(&object, id, offset, reference.length).await?;
        Ok((object, bytes))
    }

    async fn read_piece(&self, object: &str, id: PackId, offset: u32, length: u32) -> Result<Bytes> {
        if let Some(bytes) = self.cached_bytes(id, offset, length) {
            return Ok(bytes);
        }
        let (offset, length) = (u64::from(offset), u64::from(length));
        let fetched = self.store.read_range(object, offset..offset + SEGMENT_BYTES.max(length)).await?;
        let fetched = fetched.ok_or_else(|| Error::ObjectMissing {
            object: object.to_owned(),
            reason: "a recovery point's map refers to it".to_owned(),
        })?;
        if u64::try_from(fetched.len()).map_or(true, |found| found < length) {
            return Err(Error::damaged(object, format!("it ends inside the map page at byte {offset}")));
        }
        let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        if segments.len() >= SEGMENTS_MAX {
            segments.pop_front();
        }
        segments.push_back(Segment { object: id, offset, bytes: fetched.clone() });
        Ok(fetched.slice(..usize::try_from(length).unwrap_or(0)))
    }

    fn cached_bytes(&self, object: PackId, offset: u32, length: u32) -> Option<Bytes> {
        let segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let length = usize::try_from(length).ok()?;
        segments.iter().rev().find_map(|segment| {
            let start = u64::from(offset).checked_sub(segment.offset)?;
            let start = usize::try_from(start).ok()?;
            let end = start.checked_add(length)?;
            (segment.object == object && end <= segment.bytes.len()).then(|| segment.bytes.slice(start..end))
        })
    }

    /// A leaf of the map below a root; none if all of it is zero.
    pub(crate) async fn leaf(&self, root: Option<PageRef>, leaf: u64) -> Result<Option<Arc<Page>>> {
        self.descend(root, LEVELS - 1, leaf).await
    }

    /// A leaf below an inner page of this level.
    pub(crate) async fn descend(&self, from: Option<PageRef>, level: usize, leaf: u64) -> Result<Option<Arc<Page>>> {
        let mut reference = from;
        let mut level = level;
        loop {
            let Some(at) = reference else { return Ok(None) };
            let page = self.page(&at, level, index_at(level, leaf)).await?;
            let Page::Inner(children) = &*page else { return Ok(Some(page)) };
            level -= 1;
            reference = children.get(slot_of(index_at(level, leaf))).copied().flatten();
        }
    }

    /// The first leaf with content at or after this one, below the limit.
    pub(crate) async fn next_leaf(
        &self,
        root: Option<PageRef>,
        from: u64,
        limit: u64,
    ) -> Result<Option<(u64, Arc<Page>)>> {
        let mut leaf = from;
        'restart: while leaf < limit {
            let mut reference = root;
            for level in (0..LEVELS).rev() {
                let Some(at) = reference else {
                    // Nothing is stored below this page: go on after all that it covers.
                    let Some(next) = (index_at(level, leaf) + 1).checked_shl(SLOT_BITS * level as u32) else { break };
                    leaf = next;
                    if root.is_none() {
                        return Ok(None);
                    }
                    continue 'restart;
                };
                let page = self.page(&at, level, index_at(level, leaf)).await?;
                match &*page {
                    Page::Leaf(_) => return Ok(Some((leaf, page))),
                    Page::Inner(children) => {
                        reference = children.get(slot_of(index_at(level - 1, leaf))).copied().flatten();
                    }
                }
            }
            return Ok(None);
        }
        Ok(None)
    }
}

/// A page of one map, and the page of another at its place: what a walk of both looks at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PagePair {
    pub(crate) level: usize,
    pub(crate) index: u64,
    pub(crate) old: Option<PageRef>,
    pub(crate) new: Option<PageRef>,
}

impl PagePair {
    /// Two whole maps.
    pub(crate) fn roots(old: Option<PageRef>, new: Option<PageRef>) -> Self {
        Self { level: LEVELS - 1, index: 0, old, new }
    }

    /// Both maps share it: nothing below it differs.
    pub(crate) fn is_same(&self) -> bool {
        self.old == self.new
    }

    /// The leaf after all that it covers.
    pub(crate) fn end(&self) -> u64 {
        (self.index + 1) << (SLOT_BITS * u32::try_from(self.level).unwrap_or(0))
    }

    /// What is below it, the last first, for a stack.
    pub(crate) fn children(self, old: Option<&Page>, new: Option<&Page>) -> impl Iterator<Item = Self> {
        let child = |page: Option<&Page>, slot: usize| match page {
            Some(Page::Inner(children)) => children.get(slot).copied().flatten(),
            _ => None,
        };
        let slots: Vec<_> = (0..SLOTS).rev().map(|slot| (slot, child(old, slot), child(new, slot))).collect();
        slots.into_iter().map(move |(slot, old, new)| Self {
            level: self.level.saturating_sub(1),
            index: self.index * SLOTS as u64 + slot as u64,
            old,
            new,
        })
    }
}

/// The slots of a page that is known to be a leaf.
pub(crate) fn leaf_slots(page: &Page) -> &[Option<LeafSlot>] {
    match page {
        Page::Leaf(slots) => slots,
        Page::Inner(_) => &[],
    }
}
