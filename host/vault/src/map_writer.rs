//! The session's side of maps: loading leaves, sweeping them into map packs, writing zeros. See `working` for what is
//! held and why.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use farshore_core::{CHUNK_BYTES, PackId};

use crate::{
    Result,
    map::{index_at, leaf_slots, slot_of},
    page::{self, LEVELS, MAP_PACK_FRONT_BYTES, Page, PageRef, SLOTS, map_key},
    seal::{Purpose, stored_hash},
    session::{Session, lock},
    wire::{Kind, length_u32, prologue},
    working::{Accepted, Slot, WorkingDisk, WorkingInner, WorkingLeaf},
};

/// The most leaves that are held before they are swept: 16 GiB of disk written in order, about 20 MiB of memory.
const LEAVES_HELD_MAX: usize = 4096;

/// The most inner pages of a level that are held: about 2 MiB of memory.
const INNERS_HELD_MAX: usize = 512;

/// When the pages of a map pack reach this many bytes, it is stored.
const MAP_PACK_BYTES_TARGET: usize = 16 * 1024 * 1024;

const ROOT_LEVEL: usize = LEVELS - 1;

/// The map packs of a session that are not durable yet.
#[derive(Debug, Default)]
pub(crate) struct MapPacker {
    open: Option<(PackId, Vec<u8>)>,
    storing: Vec<(PackId, Bytes)>,
}

impl MapPacker {
    /// A page's stored bytes, while its pack is in memory.
    fn stored_page(&self, reference: &PageRef) -> Option<Bytes> {
        let start = usize::try_from(reference.offset).ok()?;
        let range = start..start.checked_add(usize::try_from(reference.length).ok()?)?;
        if let Some((_, bytes)) = self.open.as_ref().filter(|(pack, _)| *pack == reference.pack) {
            return bytes.get(range).map(Bytes::copy_from_slice);
        }
        let (_, bytes) = self.storing.iter().find(|(pack, _)| *pack == reference.pack)?;
        (range.end <= bytes.len()).then(|| bytes.slice(range))
    }
}

/// The chunks that a page at this level covers, as leaf numbers.
fn leaves_below(level: usize, index: u64) -> Range<u64> {
    let leaves = 1u64 << (6 * level);
    index * leaves..(index + 1) * leaves
}

impl Session {
    async fn page(&self, reference: &PageRef, level: usize, index: u64) -> Result<Arc<Page>> {
        let stored = lock(&self.maps).stored_page(reference);
        match stored {
            Some(stored) => Ok(Arc::new(self.shared.maps.open(reference, level, index, &stored)?)),
            None => self.shared.maps.page(reference, level, index).await,
        }
    }

    /// The reference of a page that is not held, read through the pages above it.
    async fn find(&self, disk: &WorkingDisk, level: usize, index: u64) -> Result<Option<PageRef>> {
        let leaf = leaves_below(level, index).start;
        let (mut at, mut reference) = {
            let map = disk.map();
            let held = (level + 1..LEVELS).find_map(|above| {
                let slots = map.inners[above].get(&index_at(above, leaf))?;
                Some((above - 1, slots.get(slot_of(index_at(above - 1, leaf))).copied().flatten()))
            });
            held.unwrap_or((ROOT_LEVEL, map.root))
        };
        while at > level {
            let Some(above) = reference else { return Ok(None) };
            let page = self.page(&above, at, index_at(at, leaf)).await?;
            let Page::Inner(children) = &*page else { return Ok(None) };
            at -= 1;
            reference = children.get(slot_of(index_at(at, leaf))).copied().flatten();
        }
        Ok(reference)
    }

    /// Accepts a write to some slots of a leaf, which is loaded if it is not held.
    pub(crate) async fn accept(
        self: &Arc<Self>,
        disk: &Arc<WorkingDisk>,
        leaf: u64,
        slots: Range<usize>,
    ) -> Result<Accepted> {
        // A sweep that failed has taken leaves out, of any disk: no point may come of that.
        self.make_room().await.inspect_err(|error| self.fail(error.clone()))?;
        let _shared = self.sweeping.read().await;
        if let Some(accepted) = disk.map().accept(leaf, slots.clone()) {
            return Ok(accepted);
        }
        let loaded = match self.find(disk, 0, leaf).await? {
            None => vec![None; SLOTS],
            Some(reference) => {
                let page = self.page(&reference, 0, leaf).await?;
                leaf_slots(&page).iter().map(|slot| slot.as_ref().map(Slot::from)).collect()
            }
        };
        let mut map = disk.map();
        map.leaves.entry(leaf).or_insert_with(|| WorkingLeaf::new(loaded));
        Ok(map.accept(leaf, slots).expect("the leaf is held now"))
    }

    /// Makes chunks zero. What is zero already is passed over, a whole page of any level at a time.
    pub(crate) async fn write_zeroes(self: &Arc<Self>, disk: &Arc<WorkingDisk>, first: u64, end: u64) -> Result<()> {
        let slots = SLOTS as u64;
        let mut chunk = first;
        while chunk < end {
            let leaf = chunk / slots;
            let leaf_end = (leaf + 1) * slots;
            if chunk == leaf * slots {
                let empty_leaves = self.empty_leaves_from(disk, leaf).await?;
                if empty_leaves > 0 {
                    chunk = (leaf + empty_leaves) * slots;
                    continue;
                }
            }
            let slot = slot_of(chunk);
            let count = usize::try_from(end.min(leaf_end) - chunk).unwrap_or(SLOTS);
            let accepted = self.accept(disk, leaf, slot..slot + count).await?;
            let changed = disk.map().apply(leaf, slot, accepted.ticket, vec![None; count]);
            if disk.is_disk() {
                lock(&self.stats).bytes_changed += u64::try_from(changed.len()).unwrap_or(0) * CHUNK_BYTES;
            }
            self.note_changes(disk, leaf, &changed).await;
            chunk = leaf_end;
        }
        Ok(())
    }

    /// How many leaves from this one on are known to be zero, because a page that begins with it is not stored and
    /// nothing below that page is held.
    async fn empty_leaves_from(self: &Arc<Self>, disk: &Arc<WorkingDisk>, leaf: u64) -> Result<u64> {
        let _shared = self.sweeping.read().await;
        for level in (0..LEVELS).rev() {
            let index = index_at(level, leaf);
            let below = leaves_below(level, index);
            if below.start != leaf {
                continue;
            }
            let held = {
                let map = disk.map();
                map.leaves.range(below.clone()).next().is_some()
                    || (1..=level).any(|level| {
                        let pages = index_at(level, below.start)..=index_at(level, below.end - 1);
                        map.inners[level].range(pages).next().is_some()
                    })
            };
            if !held && self.find(disk, level, index).await?.is_none() {
                return Ok(below.end - leaf);
            }
        }
        Ok(0)
    }

    fn leaves_held(&self) -> usize {
        self.working().iter().map(|disk| disk.map().leaves.len()).sum()
    }

    /// Sweeps when too many leaves are held.
    async fn make_room(self: &Arc<Self>) -> Result<()> {
        if self.leaves_held() < LEAVES_HELD_MAX {
            return Ok(());
        }
        let _alone = self.sweeping.write().await;
        if self.leaves_held() < LEAVES_HELD_MAX {
            return Ok(());
        }
        self.sweep(false).await?;
        if self.leaves_held() > LEAVES_HELD_MAX / 4 * 3 {
            // Most of what is left waits for the open pack, so that is ended early. Frames in flight do not wait for
            // this sweep, so the packs that wait for them will be finished.
            if let Some(full) = self.packer.close() {
                self.finish_pack_apart(full).await?;
            }
            self.wait_until(|| !self.packer.is_waiting()).await?;
            self.sweep(false).await?;
        }
        Ok(())
    }

    /// Stores what can be stored; with `everything`, all that is held, which nothing is in flight for. The caller holds
    /// the right to sweep alone.
    pub(crate) async fn sweep(self: &Arc<Self>, everything: bool) -> Result<()> {
        for disk in self.working() {
            let (leaves, _) = disk.map().take_leaves();
            for leaf in leaves {
                let index = leaf.index;
                let stored = match leaf.slots.iter().any(Option::is_some) {
                    true => {
                        let stored = self.put_page(0, index, &page::encode_leaf(index, &leaf.slots))?;
                        self.shared.maps.keep(stored, Page::Leaf(leaf.slots));
                        Some(stored)
                    }
                    false => None,
                };
                self.set_child(&disk, 1, index, stored).await?;
            }
            for level in 1..LEVELS {
                if !everything && disk.map().inners[level].len() <= INNERS_HELD_MAX {
                    continue;
                }
                let inners = disk.map().take_inners(level);
                for (index, slots) in inners {
                    let stored = self.put_inner(level, index, slots)?;
                    if level == ROOT_LEVEL {
                        disk.map().root = stored;
                    } else {
                        self.set_child(&disk, level + 1, index, stored).await?;
                    }
                }
            }
        }
        Ok(())
    }

    fn put_inner(self: &Arc<Self>, level: usize, index: u64, slots: WorkingInner) -> Result<Option<PageRef>> {
        if slots.iter().all(Option::is_none) {
            return Ok(None);
        }
        let number = u8::try_from(level).expect("levels are few");
        let stored = self.put_page(number, index, &page::encode_inner(number, index, &slots))?;
        self.shared.maps.keep(stored, Page::Inner(slots));
        Ok(Some(stored))
    }

    /// Says in the page above, which is loaded if it is not held, where a page is stored now.
    async fn set_child(&self, disk: &WorkingDisk, level: usize, child: u64, stored: Option<PageRef>) -> Result<()> {
        let index = child / SLOTS as u64;
        let held = disk.map().inners[level].contains_key(&index);
        if !held {
            let loaded = match self.find(disk, level, index).await? {
                None => vec![None; SLOTS],
                Some(reference) => match &*self.page(&reference, level, index).await? {
                    Page::Inner(slots) => slots.clone(),
                    Page::Leaf(_) => vec![None; SLOTS],
                },
            };
            disk.map().inners[level].entry(index).or_insert(loaded);
        }
        if let Some(slots) = disk.map().inners[level].get_mut(&index) {
            slots[slot_of(child)] = stored;
        }
        Ok(())
    }

    /// Seals a page and appends it to the open map pack.
    fn put_page(self: &Arc<Self>, level: u8, index: u64, plain: &[u8]) -> Result<PageRef> {
        let base = self.built_on.head.sequence.get();
        let mut maps = lock(&self.maps);
        let (pack, mut bytes) = maps.open.take().unwrap_or_else(|| {
            let pack = self.built_on.object_name(self.shared.entropy());
            let mut bytes = prologue(Kind::MapPack, 0).to_vec();
            bytes.extend_from_slice(pack.as_bytes());
            debug_assert_eq!(bytes.len(), MAP_PACK_FRONT_BYTES);
            (pack, bytes)
        });
        let offset = length_u32(bytes.len());
        let purpose = Purpose::Page { lineage: self.shared.id, pack, offset, level, index };
        let object = map_key(self.shared.id, base, pack);
        let sealed = self.shared.keys.metadata.seal(&object, purpose, plain, self.shared.entropy())?;
        let reference = PageRef { pack, base, offset, length: length_u32(sealed.len()), hash: stored_hash(&sealed) };
        bytes.extend_from_slice(&sealed);
        let full = bytes.len() >= MAP_PACK_BYTES_TARGET;
        maps.open = Some((pack, bytes));
        drop(maps);
        if full {
            self.store_map_pack();
        }
        Ok(reference)
    }

    /// Begins to store the open map pack. Its pages stay readable in memory until it is durable.
    pub(crate) fn store_map_pack(self: &Arc<Self>) {
        let (pack, bytes) = {
            let mut maps = lock(&self.maps);
            let Some((pack, bytes)) = maps.open.take() else { return };
            let bytes = Bytes::from(bytes);
            maps.storing.push((pack, bytes.clone()));
            (pack, bytes)
        };
        *lock(&self.uploading) += 1;
        let key = map_key(self.shared.id, self.built_on.head.sequence.get(), pack);
        self.spawn_store(key, vec![bytes], Some(pack));
    }

    /// Forgets the pages of a map pack that is durable.
    pub(crate) fn forget_map_pack(&self, pack: PackId) {
        lock(&self.maps).storing.retain(|(storing, _)| *storing != pack);
    }
}
