//! Entries of the index: a few bits of a chunk's identity, and where the newest point may have the chunk.

use farshore_core::{DiskId, MachineId};

use crate::{
    page::{SLOT_BITS, SLOTS},
    seal::Hash,
    working::Owner,
};

/// Bits of a place that number the chunk: as many as a disk of the largest size needs.
const CHUNK_BITS: u32 = 30;

/// Bits of an identity that choose a bucket.
const BUCKET_BITS: u32 = 17;

/// Bytes of an entry in a bucket: mark (4) and place (8).
const ENTRY_BYTES: usize = 12;

/// The most entries of a bucket: with its key it fits one page of the store, 4 KiB.
pub(super) const BUCKET_ENTRIES_MAX: usize = 320;

/// Which map of a point: 34 bits of a hash of its owner's name. Two maps of one tag would cost space, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MapTag(u64);

impl MapTag {
    pub(crate) fn of(owner: &Owner) -> Self {
        match owner {
            Owner::Disk(machine, disk) => Self::of_disk(machine, disk),
            Owner::Item(name) => Self::of_item(name),
        }
    }

    pub(crate) fn of_disk(machine: &MachineId, disk: &DiskId) -> Self {
        Self::hash(&["disk", machine.as_str(), disk.as_str()])
    }

    pub(crate) fn of_item(name: &str) -> Self {
        Self::hash(&["item", name])
    }

    fn hash(words: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("farshore/1/index-map");
        for word in words {
            hasher.update(&u64::try_from(word.len()).unwrap_or(u64::MAX).to_le_bytes()).update(word.as_bytes());
        }
        let hash = hasher.finalize();
        let (front, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
        Self(u64::from_le_bytes(*front) >> CHUNK_BITS)
    }

    pub(super) const fn number(self) -> u64 {
        self.0
    }

    pub(super) const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// A chunk of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(u64);

impl Place {
    /// A slot of a leaf.
    pub(crate) fn new(map: MapTag, leaf: u64, slot: usize) -> Self {
        let chunk = (leaf << SLOT_BITS) + u64::try_from(slot).unwrap_or(0);
        Self(map.0 << CHUNK_BITS | chunk & ((1 << CHUNK_BITS) - 1))
    }

    pub(crate) const fn map(self) -> MapTag {
        MapTag(self.0 >> CHUNK_BITS)
    }

    pub(crate) const fn leaf(self) -> u64 {
        (self.0 & ((1 << CHUNK_BITS) - 1)) >> SLOT_BITS
    }

    pub(crate) fn slot(self) -> usize {
        usize::try_from(self.0 % SLOTS as u64).unwrap_or(0)
    }
}

/// What the index knows of an identity: 17 bits that choose a bucket, 32 that mark an entry in it. Two chunks with the same
/// 49 bits take each other's entry, which costs space at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryKey(u64);

impl From<&Hash> for EntryKey {
    fn from(identity: &Hash) -> Self {
        let (front, _) = identity.split_first_chunk().expect("an identity has 32 bytes");
        Self(u64::from_be_bytes(*front) >> (64 - BUCKET_BITS - 32))
    }
}

impl EntryKey {
    /// One of 131,072.
    pub(super) fn bucket(self) -> u32 {
        u32::try_from(self.0 >> 32).expect("17 bits are left")
    }

    fn mark(self) -> [u8; 4] {
        u32::try_from(self.0 & u64::from(u32::MAX)).expect("32 bits are left").to_le_bytes()
    }
}

/// That a place has a chunk from now on, or has it no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: EntryKey,
    pub(crate) place: Place,
    pub(crate) has_it: bool,
}

/// The entries of a bucket, oldest first. What is stored is not trusted: an entry that is wrong proposes a place that
/// has something else.
#[derive(Debug, Default)]
pub(super) struct Bucket(Vec<u8>);

impl Bucket {
    pub(super) fn new(stored: &[u8]) -> Self {
        let whole = stored.len() / ENTRY_BYTES * ENTRY_BYTES;
        Self(stored[..whole.min(BUCKET_ENTRIES_MAX * ENTRY_BYTES)].to_vec())
    }

    pub(super) fn stored(&self) -> &[u8] {
        &self.0
    }

    /// Where the chunk may be.
    pub(super) fn get(stored: &[u8], key: EntryKey) -> Option<Place> {
        let mark = key.mark();
        let entry = stored.chunks_exact(ENTRY_BYTES).rev().find(|entry| entry.starts_with(&mark))?;
        Some(Place(u64::from_le_bytes(*entry.last_chunk()?)))
    }

    /// A chunk that is there has one entry, at the end; where there is no room, the oldest goes.
    pub(super) fn change(&mut self, change: &Change) {
        let mark = change.key.mark();
        let found = self.0.chunks_exact(ENTRY_BYTES).position(|entry| entry.starts_with(&mark));
        let place = change.place.0.to_le_bytes();
        if let Some(number) = found {
            let start = number * ENTRY_BYTES;
            let is_here = self.0[start..start + ENTRY_BYTES].ends_with(&place);
            if !change.has_it && !is_here {
                return;
            }
            self.0.drain(start..start + ENTRY_BYTES);
        }
        if change.has_it {
            if self.0.len() >= BUCKET_ENTRIES_MAX * ENTRY_BYTES {
                self.0.drain(..ENTRY_BYTES);
            }
            self.0.extend_from_slice(&mark);
            self.0.extend_from_slice(&place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(mark: u32, leaf: u64, has_it: bool) -> Change {
        Change { key: EntryKey(u64::from(mark)), place: Place::new(MapTag(7), leaf, 3), has_it }
    }

    #[test]
    fn a_place_keeps_its_parts() {
        let map = MapTag::of_item("configuration");
        for (leaf, slot) in [(0, 0), (0, 63), (1, 0), ((1 << 24) - 1, 63)] {
            let place = Place::new(map, leaf, slot);
            assert_eq!((place.map(), place.leaf(), place.slot()), (map, leaf, slot));
        }
        let (machine, disk) = (MachineId::new("a").expect("a name"), DiskId::new("b").expect("a name"));
        assert_ne!(MapTag::of_disk(&machine, &disk), MapTag::of_item("a"));
        assert!(map.number() < 1 << 34);
    }

    #[test]
    fn the_bits_of_an_identity_are_its_first() {
        let mut identity = [0; 32];
        identity[..8].copy_from_slice(&[0xff, 0xff, 0x80, 1, 2, 3, 4, 0xff]);
        let key = EntryKey::from(&identity);
        assert_eq!((key.bucket(), key.mark()), (131_071, 0x0002_0406_u32.to_le_bytes()));
    }

    #[test]
    fn a_bucket_is_bounded_and_forgets_the_oldest() {
        let mut bucket = Bucket::default();
        for mark in 0..1000 {
            bucket.change(&change(mark, u64::from(mark), true));
            // What is written again is young.
            bucket.change(&change(0, 5, true));
            assert!(bucket.stored().len() <= BUCKET_ENTRIES_MAX * ENTRY_BYTES);
        }
        let get = |bucket: &Bucket, mark: u32| Bucket::get(bucket.stored(), EntryKey(u64::from(mark)));
        assert_eq!(get(&bucket, 0), Some(Place::new(MapTag(7), 5, 3)));
        assert_eq!(get(&bucket, 999), Some(Place::new(MapTag(7), 999, 3)));
        assert_eq!(get(&bucket, 500), None);
        // It goes only from the place that the entry names.
        bucket.change(&change(999, 998, false));
        assert!(get(&bucket, 999).is_some());
        bucket.change(&change(999, 999, false));
        assert_eq!(get(&bucket, 999), None);
    }

    #[test]
    fn any_stored_bytes_are_a_bucket() {
        for length in [0, 1, 11, 12, 13, 100_000] {
            let mut bucket = Bucket::new(&vec![0xee; length]);
            bucket.change(&change(1, 1, true));
            assert!(bucket.stored().len() <= BUCKET_ENTRIES_MAX * ENTRY_BYTES);
            assert!(Bucket::get(bucket.stored(), EntryKey(1)).is_some());
        }
    }
}
