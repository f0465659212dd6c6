//! Map pages: what a disk holds, as a tree of small pages that share everything unchanged.
//!
//! A leaf stands for 64 chunks (4 MiB of disk), an inner page for 64 pages of the level below; the root is always at
//! level 4, so a disk has at most 64 TiB and growth changes nothing. A page without content is not stored: its
//! parent's slot is empty, and it reads as zeros. A changed chunk costs one page of each level; these sizes keep that
//! at about 3 KiB a level when changes are far apart, and below 0.1 % of the data when they are close together.
//!
//! A leaf names a frame by the pack in which it was born and its ordinal there, never by a place.
//!
//! | bytes | what (before sealing) |
//! | --- | --- |
//! | 1 | level: 0 for a leaf |
//! | 8 | number of the page in its level, from the disk's start |
//! | 1 | count of packs, at most 64 |
//! | for each | leaf: data pack id 16, base 8, bytes 4, header bytes 4, header hash 32; inner: map pack id 16, base 8 |
//! | 64 slots | 1 byte: 0 for nothing, else 1 and then |
//! | | leaf: 1 byte pack in the table, 4 bytes ordinal of the frame, 1 byte chunk in the frame, 32 bytes identity |
//! | | inner: 1 byte pack in the table, 4 bytes offset, 4 bytes stored length, 32 bytes BLAKE3 of the stored page |
//!
//! A map pack is a prologue of kind 4 with length 0, its own id (16), and sealed pages one after the other.

use std::sync::Arc;

use farshore_core::{LineageId, PackId};
use serde::{Deserialize, Serialize};

use crate::{
    Result,
    pack::{FRAME_CHUNKS_MAX, PACK_REF_BYTES, PackRef},
    seal::Hash,
    wire::{PROLOGUE_BYTES, Reader},
};

/// Slots of a page.
pub(crate) const SLOTS: usize = 64;

/// Bits of a chunk's number that choose a slot in one page.
pub(crate) const SLOT_BITS: u32 = 6;

/// Levels of a map; the root's is one less.
pub(crate) const LEVELS: usize = 5;

/// The most bytes of a disk.
pub(crate) const DISK_BYTES_MAX: u64 = 1 << (16 + SLOT_BITS * 5);

/// The most bytes of a sealed page that a reader accepts.
pub(crate) const PAGE_BYTES_MAX: u32 = 16 * 1024;

/// Where the first page of a map pack begins.
pub(crate) const MAP_PACK_FRONT_BYTES: usize = PROLOGUE_BYTES + 16;

/// Where a map page lies, and what its stored bytes must hash to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageRef {
    pub(crate) pack: PackId,
    /// The commit on which the page's writer built: part of the pack's key.
    pub(crate) base: u64,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    #[serde(with = "crate::wire::hex")]
    pub(crate) hash: Hash,
}

impl PageRef {
    /// The key of the pack that holds the page.
    pub(crate) fn key(&self, lineage: LineageId) -> String {
        map_key(lineage, self.base, self.pack)
    }
}

/// The folder of a lineage's map packs.
pub(crate) fn maps_folder(lineage: LineageId) -> String {
    format!("lineages/{lineage}/maps")
}

/// The key of a map pack.
pub(crate) fn map_key(lineage: LineageId, base: u64, pack: PackId) -> String {
    format!("{}/{base:020}/{pack}", maps_folder(lineage))
}

/// Where a chunk's content is.
#[derive(Debug, Clone)]
pub(crate) struct LeafSlot {
    pub(crate) pack: Arc<PackRef>,
    pub(crate) ordinal: u32,
    pub(crate) chunk: u8,
    pub(crate) identity: Hash,
}

/// A page that was read.
#[derive(Debug, Clone)]
pub(crate) enum Page {
    /// 64 chunks.
    Leaf(Vec<Option<LeafSlot>>),
    /// 64 pages of the level below.
    Inner(Vec<Option<PageRef>>),
}

fn begin(level: u8, index: u64, table: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4096);
    bytes.push(level);
    bytes.extend_from_slice(&index.to_le_bytes());
    bytes.push(u8::try_from(table).expect("a page refers to at most 64 packs"));
    bytes
}

/// The position of each slot's pack in the table of distinct packs.
fn table<'a, T, K: Ord>(slots: &'a [Option<T>], key: impl Fn(&'a T) -> K) -> (Vec<&'a T>, Vec<u8>) {
    let mut seen = std::collections::BTreeMap::new();
    let mut distinct = Vec::new();
    let mut positions = Vec::with_capacity(SLOTS);
    for slot in slots {
        let position = slot.as_ref().map_or(0, |slot| {
            *seen.entry(key(slot)).or_insert_with(|| {
                distinct.push(slot);
                u8::try_from(distinct.len() - 1).expect("a page refers to at most 64 packs")
            })
        });
        positions.push(position);
    }
    (distinct, positions)
}

/// Encodes a leaf.
///
/// # Panics
/// When it does not have 64 slots.
pub(crate) fn encode_leaf(index: u64, slots: &[Option<LeafSlot>]) -> Vec<u8> {
    assert_eq!(slots.len(), SLOTS);
    let (packs, positions) = table(slots, |slot| slot.pack.pack);
    let mut bytes = begin(0, index, packs.len());
    packs.iter().for_each(|slot| slot.pack.encode(&mut bytes));
    for (slot, position) in slots.iter().zip(positions) {
        let Some(slot) = slot else {
            bytes.push(0);
            continue;
        };
        bytes.extend_from_slice(&[1, position]);
        bytes.extend_from_slice(&slot.ordinal.to_le_bytes());
        bytes.push(slot.chunk);
        bytes.extend_from_slice(&slot.identity);
    }
    bytes
}

/// Encodes an inner page.
///
/// # Panics
/// When it does not have 64 slots.
pub(crate) fn encode_inner(level: u8, index: u64, slots: &[Option<PageRef>]) -> Vec<u8> {
    assert_eq!(slots.len(), SLOTS);
    let (packs, positions) = table(slots, |slot| (slot.pack, slot.base));
    let mut bytes = begin(level, index, packs.len());
    for slot in packs {
        bytes.extend_from_slice(slot.pack.as_bytes());
        bytes.extend_from_slice(&slot.base.to_le_bytes());
    }
    for (slot, position) in slots.iter().zip(positions) {
        let Some(slot) = slot else {
            bytes.push(0);
            continue;
        };
        bytes.extend_from_slice(&[1, position]);
        bytes.extend_from_slice(&slot.offset.to_le_bytes());
        bytes.extend_from_slice(&slot.length.to_le_bytes());
        bytes.extend_from_slice(&slot.hash);
    }
    bytes
}

/// Decodes a page that must be this one.
///
/// # Errors
/// [`crate::Error::Damaged`] when it is another page, or none.
pub(crate) fn decode(object: &str, level: u8, index: u64, plain: &[u8]) -> Result<Page> {
    let mut reader = Reader::new(object, plain);
    if reader.u8()? != level || reader.u64()? != index {
        return Err(reader.damaged("a page of a map is in another page's place"));
    }
    let count = usize::from(reader.u8()?);
    let page = if level == 0 {
        let count = reader.count(count, SLOTS, PACK_REF_BYTES)?;
        let packs = (0..count).map(|_| PackRef::decode(&mut reader).map(Arc::new)).collect::<Result<Vec<_>>>()?;
        let slot = |reader: &mut Reader<'_>| {
            let pack = table_entry(reader, &packs)?;
            let slot = LeafSlot { pack, ordinal: reader.u32()?, chunk: reader.u8()?, identity: reader.array()? };
            let sound = usize::from(slot.chunk) < FRAME_CHUNKS_MAX;
            if sound { Ok(slot) } else { Err(reader.damaged("a page refers to an impossible chunk")) }
        };
        Page::Leaf(decode_slots(&mut reader, slot)?)
    } else {
        let count = reader.count(count, SLOTS, 24)?;
        let pack = |reader: &mut Reader<'_>| Ok((PackId::from_bytes(reader.array()?), reader.u64()?));
        let packs = (0..count).map(|_| pack(&mut reader)).collect::<Result<Vec<_>>>()?;
        let slot = |reader: &mut Reader<'_>| {
            let (pack, base) = table_entry(reader, &packs)?;
            let (offset, length, hash) = (reader.u32()?, reader.u32()?, reader.array()?);
            Ok(PageRef { pack, base, offset, length, hash })
        };
        Page::Inner(decode_slots(&mut reader, slot)?)
    };
    reader.finish()?;
    Ok(page)
}

fn table_entry<T: Clone>(reader: &mut Reader<'_>, table: &[T]) -> Result<T> {
    let position = usize::from(reader.u8()?);
    table.get(position).cloned().ok_or_else(|| reader.damaged("a page refers to a pack that it does not name"))
}

fn decode_slots<T>(
    reader: &mut Reader<'_>,
    mut slot: impl FnMut(&mut Reader<'_>) -> Result<T>,
) -> Result<Vec<Option<T>>> {
    let mut slots = Vec::with_capacity(SLOTS);
    for _ in 0..SLOTS {
        slots.push(match reader.u8()? {
            0 => None,
            1 => Some(slot(reader)?),
            _ => return Err(reader.damaged("a page has an impossible slot")),
        });
    }
    Ok(slots)
}
