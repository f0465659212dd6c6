//! Reading a recovery point.
//!
//! [`DiskReader::pieces`] goes through the map leaf by leaf (4 MiB of disk), a bounded number of leaves ahead of whoever
//! takes the pieces; the leaves' frames are fetched side by side and opened by all workers, and the pieces come in
//! order. What is dropped is stopped. [`DiskReader::differences`] does the same where two points differ. [`DiskReader::read`]
//! serves any range, zeros included.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use farshore_core::{CHUNK_BYTES, DiskId, MachineId};
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    CapsuleItem, Error, PageRef, Point, Result,
    capsule::{check_digest, name_item, sound_items},
    frames::SlotBytes,
    lineage::LineageShared,
    map::{PagePair, leaf_slots},
    page::{Page, SLOTS},
};

/// The most bytes of one random read.
pub const READ_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How many leaves are read ahead: 32 MiB of disk, and as much again of stored bytes at most.
const LEAVES_AHEAD: usize = 8;

const LEAF_BYTES: u64 = CHUNK_BYTES * SLOTS as u64;

/// A run of bytes of a disk. What no piece covers is zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where on the disk it begins, in bytes; a multiple of 64 KiB.
    pub offset: u64,
    /// The bytes: whole chunks, except at the disk's end; at most 1 MiB, or a unit of a comparison.
    pub data: Bytes,
}

/// Reads the disks of a recovery point. Clones share caches.
#[derive(Debug, Clone)]
pub struct PointReader {
    shared: Arc<LineageShared>,
    point: Arc<Point>,
}

impl PointReader {
    pub(crate) fn new(shared: Arc<LineageShared>, point: Point) -> Self {
        Self { shared, point: Arc::new(point) }
    }

    /// The point that is read.
    pub fn point(&self) -> &Point {
        &self.point
    }

    /// A disk of the point.
    ///
    /// # Errors
    /// [`Error::DiskMissing`] when the point does not hold it.
    pub fn disk(&self, machine: &MachineId, disk: &DiskId) -> Result<DiskReader> {
        let found = self.point.disk(machine, disk).ok_or_else(|| Error::DiskMissing {
            sequence: self.point.sequence,
            machine: machine.clone(),
            disk: disk.clone(),
        })?;
        Ok(DiskReader { shared: Arc::clone(&self.shared), size_bytes: found.size_bytes, map: found.map })
    }

    /// The items of the point's capsule; none if it has no capsule. It needs no power.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the capsule breaks a rule. The disks can be read all the same.
    pub fn capsule(&self) -> Result<&[CapsuleItem]> {
        sound_items(&self.point)
    }

    /// The bytes of an item of the point's capsule, at most [`crate::CAPSULE_ITEM_BYTES_MAX`], which have its digest.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] when the capsule has not this item; the item is damaged, and the error names it; or the store
    /// failed.
    pub async fn read_item(&self, name: &str) -> Result<Bytes> {
        let missing = || Error::invalid(format!("the capsule of point {} has no item {name:?}", self.point.sequence));
        let item = self.capsule()?.iter().find(|item| item.name == name).ok_or_else(missing)?;
        let reader = DiskReader { shared: Arc::clone(&self.shared), size_bytes: item.size_bytes, map: item.map };
        let content = reader.read(0, item.size_bytes).await.map_err(|error| name_item(error, &self.point, item))?;
        check_digest(&self.point, item, &content)?;
        Ok(content)
    }
}

/// Reads one disk of a recovery point. Every chunk is identified before it is handed on.
#[derive(Debug, Clone)]
pub struct DiskReader {
    shared: Arc<LineageShared>,
    size_bytes: u64,
    map: Option<PageRef>,
}

impl DiskReader {
    /// The disk's size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Everything on the disk that is not zero, in order and apart, in bounded memory. It must be polled within a tokio
    /// runtime. After an error the stream ends.
    pub fn pieces(&self) -> BoxStream<'static, Result<Piece>> {
        let leaves_end = self.size_bytes.div_ceil(LEAF_BYTES);
        let reader = self.clone();
        let leaves = stream::try_unfold(0, move |from| {
            let reader = reader.clone();
            async move {
                let next = reader.shared.maps.next_leaf(reader.map, from, leaves_end).await?;
                Ok::<_, Error>(next.map(|(leaf, page)| ((leaf, page), leaf + 1)))
            }
        });
        let reader = self.clone();
        let pieces = leaves.map_ok(move |(leaf, page)| {
            let reader = reader.clone();
            let task = AbortOnDropHandle::new(tokio::spawn(async move { reader.leaf_pieces(leaf, page).await }));
            async move {
                task.await.unwrap_or_else(|error| Err(Error::Stopped { reason: format!("its reader ended: {error}") }))
            }
        });
        let pieces = pieces.try_buffered(LEAVES_AHEAD);
        pieces.map_ok(|pieces| stream::iter(pieces.into_iter().map(Ok))).try_flatten().boxed()
    }

    /// Where this disk differs from another of the lineage with the same size: whole units of `unit_bytes`, each with all its
    /// bytes, zeros included, in order and apart, in bounded memory. What both maps share is not read. It must be polled within a
    /// tokio runtime. After an error the stream ends.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] when the disks differ in size or lineage, or a unit is no power of two from 64 KiB to 4 MiB.
    pub fn differences(&self, base: &Self, unit_bytes: u64) -> Result<BoxStream<'static, Result<Piece>>> {
        if !unit_bytes.is_power_of_two() || !(CHUNK_BYTES..=LEAF_BYTES).contains(&unit_bytes) {
            return Err(Error::invalid(format!("disks are not compared by units of {unit_bytes} bytes")));
        }
        if (self.shared.id, self.size_bytes) != (base.shared.id, base.size_bytes) {
            return Err(Error::invalid("only disks of one lineage and of one size are compared"));
        }
        let unit_slots = usize::try_from(unit_bytes / CHUNK_BYTES).unwrap_or(SLOTS);
        let (reader, waiting) = (self.clone(), vec![PagePair::roots(base.map, self.map)]);
        let leaves = stream::try_unfold(waiting, move |mut waiting| {
            let reader = reader.clone();
            async move {
                while let Some(pair) = waiting.pop() {
                    if pair.is_same() {
                        continue;
                    }
                    let pages = (reader.page_of(&pair, pair.old), reader.page_of(&pair, pair.new));
                    let (old, new) = futures::try_join!(pages.0, pages.1)?;
                    if pair.level > 0 {
                        waiting.extend(pair.children(old.as_deref(), new.as_deref()));
                        continue;
                    }
                    let units = differing_units(old.as_deref(), new.as_deref(), unit_slots);
                    return Ok::<_, Error>(Some(((pair.index, new, units), waiting)));
                }
                Ok(None)
            }
        });
        let reader = self.clone();
        let pieces = leaves.map_ok(move |(leaf, page, units)| {
            let reader = reader.clone();
            let work = async move { reader.leaf_units(leaf, page, units, unit_slots).await };
            let task = AbortOnDropHandle::new(tokio::spawn(work));
            async move {
                task.await.unwrap_or_else(|error| Err(Error::Stopped { reason: format!("its reader ended: {error}") }))
            }
        });
        let pieces = pieces.try_buffered(LEAVES_AHEAD);
        Ok(pieces.map_ok(|pieces| stream::iter(pieces.into_iter().map(Ok))).try_flatten().boxed())
    }

    async fn page_of(&self, pair: &PagePair, reference: Option<PageRef>) -> Result<Option<Arc<Page>>> {
        match reference {
            Some(reference) => self.shared.maps.page(&reference, pair.level, pair.index).await.map(Some),
            None => Ok(None),
        }
    }

    /// The whole content of some units of a leaf, whose frames are read side by side, each once.
    async fn leaf_units(
        &self,
        leaf: u64,
        page: Option<Arc<Page>>,
        units: Vec<usize>,
        unit_slots: usize,
    ) -> Result<Vec<Piece>> {
        let mut slots = page.as_ref().map_or(Vec::new(), |page| leaf_slots(page).to_vec());
        for (number, slot) in slots.iter_mut().enumerate() {
            if !units.contains(&(number / unit_slots)) {
                *slot = None;
            }
        }
        let runs = self.shared.frames.read(&slots, 0..SLOTS).await?;
        let piece = |unit: usize| {
            let offset = leaf * LEAF_BYTES + slot_offset(unit * unit_slots);
            let length = slot_offset(unit_slots).min(self.size_bytes.saturating_sub(offset));
            let mut data = BytesMut::zeroed(usize::try_from(length).unwrap_or(0));
            for run in &runs {
                copy_overlap(&mut data, offset, leaf * LEAF_BYTES + slot_offset(run.slot), &run.bytes);
            }
            (length > 0).then(|| Piece { offset, data: data.freeze() })
        };
        Ok(units.into_iter().filter_map(piece).collect())
    }

    async fn leaf_pieces(&self, leaf: u64, page: Arc<Page>) -> Result<Vec<Piece>> {
        let runs = self.shared.frames.read(leaf_slots(&page), 0..SLOTS).await?;
        let piece = |run: SlotBytes| {
            let offset = leaf * LEAF_BYTES + slot_offset(run.slot);
            let room = usize::try_from(self.size_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
            let data = run.bytes.slice(..run.bytes.len().min(room));
            (!data.is_empty()).then_some(Piece { offset, data })
        };
        Ok(runs.into_iter().filter_map(piece).collect())
    }

    /// The bytes of a range, zeros included.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] when the range passes the disk's end, [`Error::LimitExceeded`] when it has more than
    /// [`READ_BYTES_MAX`] bytes; or the vault is damaged, or the store failed.
    pub async fn read(&self, offset: u64, length: u64) -> Result<Bytes> {
        if length > READ_BYTES_MAX {
            return Err(Error::LimitExceeded { what: "a read, in bytes,", found: length, limit: READ_BYTES_MAX });
        }
        let end = offset.checked_add(length).filter(|end| *end <= self.size_bytes).ok_or_else(|| {
            Error::invalid(format!(
                "a read of {length} bytes at {offset} passes the end of the disk at {}",
                self.size_bytes
            ))
        })?;
        let mut bytes = BytesMut::zeroed(usize::try_from(length).unwrap_or(0));
        if length == 0 {
            return Ok(bytes.freeze());
        }
        let leaves = stream::iter(offset / LEAF_BYTES..end.div_ceil(LEAF_BYTES)).map(|leaf| async move {
            let page = self.shared.maps.leaf(self.map, leaf).await?;
            let Some(page) = page else { return Ok::<_, Error>((leaf, Vec::new())) };
            let start = leaf * LEAF_BYTES;
            let first = offset.saturating_sub(start) / CHUNK_BYTES;
            let last = (end - start).div_ceil(CHUNK_BYTES).min(SLOTS as u64);
            let slots = usize::try_from(first).unwrap_or(0)..usize::try_from(last).unwrap_or(SLOTS);
            Ok((leaf, self.shared.frames.read(leaf_slots(&page), slots).await?))
        });
        let mut leaves = std::pin::pin!(leaves.buffered(LEAVES_AHEAD));
        while let Some((leaf, runs)) = leaves.try_next().await? {
            for run in runs {
                copy_overlap(&mut bytes, offset, leaf * LEAF_BYTES + slot_offset(run.slot), &run.bytes);
            }
        }
        Ok(bytes.freeze())
    }
}

/// The units of two leaves whose chunks are not the same.
fn differing_units(old: Option<&Page>, new: Option<&Page>, unit_slots: usize) -> Vec<usize> {
    let identity = |page: Option<&Page>, slot: usize| Some(leaf_slots(page?).get(slot)?.as_ref()?.identity);
    let differs = |unit: &usize| {
        (unit * unit_slots..(unit + 1) * unit_slots).any(|slot| identity(old, slot) != identity(new, slot))
    };
    (0..SLOTS / unit_slots).filter(differs).collect()
}

fn slot_offset(slot: usize) -> u64 {
    u64::try_from(slot).unwrap_or(0) * CHUNK_BYTES
}

/// Copies what two ranges share: the target begins at `target_offset` of the disk, the source at `source_offset`.
fn copy_overlap(target: &mut [u8], target_offset: u64, source_offset: u64, source: &[u8]) {
    let skip = usize::try_from(target_offset.saturating_sub(source_offset)).unwrap_or(usize::MAX);
    let at = usize::try_from(source_offset.saturating_sub(target_offset)).unwrap_or(usize::MAX);
    let (Some(source), Some(target)) = (source.get(skip..), target.get_mut(at..)) else { return };
    let shared = source.len().min(target.len());
    target[..shared].copy_from_slice(&source[..shared]);
}
