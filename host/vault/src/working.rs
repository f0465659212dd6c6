//! The map of a disk while it is being written, in bounded memory.
//!
//! *What is held.* The leaves that writes touch, and the inner pages above leaves that were stored already; everything
//! else is read through the parent's map. When too many leaves are held they are *swept*: leaves without writes in
//! flight whose packs are finished are encoded, sealed and appended to the session's map pack, and only their reference
//! stays, in the page above. Inner pages go the same way, level by level. A leaf that is written again is read back,
//! from the map pack in memory or from the store. Writes in the order of the disk store every page once.
//!
//! *Order of writes.* A write takes a ticket when it is accepted; a slot keeps what the newest ticket says, so that of
//! two writes to one chunk the later accepted wins, whichever is computed first. A leaf with a write in flight is not
//! swept, so tickets need not outlive the leaf.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use farshore_core::{DiskId, MachineId};

use crate::{
    index::MapTag,
    pack::PackRef,
    packer::NewPack,
    page::{LEVELS, LeafSlot, PageRef, SLOTS},
    seal::Hash,
};

/// Which pack holds a frame.
#[derive(Debug, Clone)]
pub(crate) enum PackPointer {
    /// One that is stored.
    Stored(Arc<PackRef>),
    /// One of this session.
    New(Arc<NewPack>),
}

impl PackPointer {
    /// Its reference; none while it is being filled.
    pub(crate) fn reference(&self) -> Option<Arc<PackRef>> {
        match self {
            Self::Stored(reference) => Some(Arc::clone(reference)),
            Self::New(pack) => pack.reference.get().cloned(),
        }
    }
}

/// Where a chunk's content is, or will be.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) pack: PackPointer,
    pub(crate) ordinal: u32,
    pub(crate) chunk: u8,
    pub(crate) identity: Hash,
}

impl From<&LeafSlot> for Slot {
    fn from(slot: &LeafSlot) -> Self {
        let LeafSlot { pack, ordinal, chunk, identity } = slot;
        Self { pack: PackPointer::Stored(Arc::clone(pack)), ordinal: *ordinal, chunk: *chunk, identity: *identity }
    }
}

/// A leaf that is held.
#[derive(Debug)]
pub(crate) struct WorkingLeaf {
    pub(crate) slots: Vec<Option<Slot>>,
    tickets: [u64; SLOTS],
    in_flight: u32,
    changed: bool,
}

impl WorkingLeaf {
    pub(crate) fn new(slots: Vec<Option<Slot>>) -> Self {
        assert_eq!(slots.len(), SLOTS);
        Self { slots, tickets: [0; SLOTS], in_flight: 0, changed: false }
    }

    /// The leaf as it is stored, when all its packs are finished.
    fn finished(&self) -> Option<Vec<Option<LeafSlot>>> {
        let finish = |slot: &Option<Slot>| match slot {
            None => Some(None),
            Some(Slot { pack, ordinal, chunk, identity }) => {
                let pack = pack.reference()?;
                Some(Some(LeafSlot { pack, ordinal: *ordinal, chunk: *chunk, identity: *identity }))
            }
        };
        self.slots.iter().map(finish).collect()
    }
}

/// What a sweep does with a leaf.
#[derive(Debug)]
pub(crate) struct SweptLeaf {
    pub(crate) index: u64,
    pub(crate) slots: Vec<Option<LeafSlot>>,
}

/// An inner page that is held: it differs from the parent's.
pub(crate) type WorkingInner = Vec<Option<PageRef>>;

/// The part of a disk's map that is held.
#[derive(Debug, Default)]
pub(crate) struct WorkingMap {
    /// The root of everything that is not held.
    pub(crate) root: Option<PageRef>,
    pub(crate) leaves: BTreeMap<u64, WorkingLeaf>,
    /// By level; that of the leaves stays empty.
    pub(crate) inners: [BTreeMap<u64, WorkingInner>; LEVELS],
    last_ticket: u64,
}

/// A slot that has another content than before: the identities of its chunk; none for zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChangedSlot {
    pub(crate) slot: usize,
    pub(crate) before: Option<Hash>,
    pub(crate) after: Option<Hash>,
}

/// What a write that was accepted knows of its leaf.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) ticket: u64,
    pub(crate) before: Vec<Option<Slot>>,
}

impl WorkingMap {
    /// Accepts a write to some slots of a leaf that is held.
    pub(crate) fn accept(&mut self, leaf: u64, slots: std::ops::Range<usize>) -> Option<Accepted> {
        let working = self.leaves.get_mut(&leaf)?;
        working.in_flight += 1;
        self.last_ticket += 1;
        Some(Accepted { ticket: self.last_ticket, before: working.slots[slots].to_vec() })
    }

    /// Puts what a write found into the slots that no later write has changed, and ends the write. It returns the slots
    /// that have another content than before.
    ///
    /// # Panics
    /// When the write was not accepted.
    pub(crate) fn apply(&mut self, leaf: u64, first: usize, ticket: u64, found: Vec<Option<Slot>>) -> Vec<ChangedSlot> {
        let working = self.leaves.get_mut(&leaf).expect("a leaf with a write in flight is held");
        let mut changed = Vec::new();
        for (number, slot) in (first..).zip(found) {
            if working.tickets[number] > ticket {
                continue;
            }
            working.tickets[number] = ticket;
            let identity = |slot: &Option<Slot>| slot.as_ref().map(|slot| slot.identity);
            let (before, after) = (identity(&working.slots[number]), identity(&slot));
            if before != after {
                working.slots[number] = slot;
                changed.push(ChangedSlot { slot: number, before, after });
            }
        }
        working.changed |= !changed.is_empty();
        working.in_flight -= 1;
        changed
    }

    /// Ends a write that was accepted and changes nothing.
    ///
    /// # Panics
    /// When the write was not accepted.
    pub(crate) fn give_back(&mut self, leaf: u64) {
        self.leaves.get_mut(&leaf).expect("a leaf with a write in flight is held").in_flight -= 1;
    }

    /// Takes out the leaves that can be stored or forgotten now. Those to be stored are returned.
    pub(crate) fn take_leaves(&mut self) -> (Vec<SweptLeaf>, usize) {
        let mut swept = Vec::new();
        let before = self.leaves.len();
        self.leaves.retain(|index, leaf| {
            if leaf.in_flight > 0 {
                return true;
            }
            if !leaf.changed {
                return false;
            }
            match leaf.finished() {
                Some(slots) => {
                    swept.push(SweptLeaf { index: *index, slots });
                    false
                }
                None => true,
            }
        });
        (swept, before - self.leaves.len())
    }

    /// Takes out the inner pages of a level that no held page lies below.
    pub(crate) fn take_inners(&mut self, level: usize) -> Vec<(u64, WorkingInner)> {
        let (below, this) = self.inners.split_at_mut(level);
        let below = below.last();
        let mut taken = Vec::new();
        this[0].retain(|index, slots| {
            let children = index * SLOTS as u64..(index + 1) * SLOTS as u64;
            let held = if level == 1 {
                self.leaves.range(children).next().is_some()
            } else {
                below.is_some_and(|below| below.range(children).next().is_some())
            };
            if !held {
                taken.push((*index, std::mem::take(slots)));
            }
            held
        });
        taken
    }
}

/// What is written through a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A disk of a machine.
    Disk(MachineId, DiskId),
    /// An item of the capsule, by its name.
    Item(String),
}

impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(machine, disk) => write!(formatter, "the disk {disk} of {machine}"),
            Self::Item(name) => write!(formatter, "the item {name} of the capsule"),
        }
    }
}

/// A disk, or an item of the capsule, that is being written.
#[derive(Debug)]
pub(crate) struct WorkingDisk {
    pub(crate) owner: Owner,
    pub(crate) tag: MapTag,
    pub(crate) size_bytes: u64,
    map: Mutex<WorkingMap>,
}

impl WorkingDisk {
    pub(crate) fn new(owner: Owner, size_bytes: u64, root: Option<PageRef>) -> Self {
        let tag = MapTag::of(&owner);
        Self { owner, tag, size_bytes, map: Mutex::new(WorkingMap { root, ..WorkingMap::default() }) }
    }

    /// Whether its bytes count among those of disks.
    pub(crate) const fn is_disk(&self) -> bool {
        matches!(self.owner, Owner::Disk(..))
    }

    /// The map; the lock is never held while waiting.
    pub(crate) fn map(&self) -> MutexGuard<'_, WorkingMap> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
