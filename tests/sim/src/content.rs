//! What the disks of the simulated guests hold: chunks that are zero, that compress, that do not, and that repeat.
//!
//! Every chunk that is not zero begins with the canary, so that a stored object in which any chunk lies open is found.

use std::collections::{BTreeMap, BTreeSet};

use farshore_core::{CHUNK_BYTES, Entropy, SeededEntropy};

use crate::{
    dice::Dice,
    history::{Disks, Hash},
};

/// Stands at the beginning of every chunk that is not zero.
pub const CANARY: &[u8] = b"canary-in-the-plaintext-of-a-chunk";

/// Bytes of a chunk.
pub const CHUNK: usize = CHUNK_BYTES as usize;

/// The most chunks that change between two points.
const CHANGES_MAX: u64 = 3;

/// The disks of a group's machine: name and bytes. The second ends within a chunk.
pub const DISKS: [(&str, usize); 2] = [("system", 4 * CHUNK), ("data", 2 * CHUNK + 512)];

/// The same of a machine that has many chunks, so that many packs live at once.
pub const WIDE_DISKS: [(&str, usize); 2] = [("system", 4 * CHUNK), ("data", 24 * CHUNK)];

/// Length and hash of a disk's content.
pub fn describe(content: &[u8]) -> (u64, Hash) {
    (content.len() as u64, *blake3::hash(content).as_bytes())
}

/// A chunk of one of the kinds.
fn chunk(kind: u64, number: u64) -> Vec<u8> {
    if kind == 0 {
        return vec![0; CHUNK];
    }
    let mut bytes = vec![0; CHUNK];
    match kind {
        1 => SeededEntropy::new(number).fill(&mut bytes),
        _ => bytes.fill(b'a' + u8::try_from(number % 26).unwrap_or(0)),
    }
    bytes[..CANARY.len()].copy_from_slice(CANARY);
    bytes[CANARY.len()..CANARY.len() + 8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// The machine of a group at its site. It outlives the host's process.
#[derive(Debug, Clone)]
pub struct Guest {
    shape: &'static [(&'static str, usize)],
    disks: BTreeMap<&'static str, Vec<u8>>,
    changed: BTreeSet<(&'static str, usize)>,
}

impl Guest {
    /// A machine with some content.
    pub fn new(dice: &Dice) -> Self {
        Self::of(&DISKS, dice)
    }

    /// A machine with many chunks, none of which is zero and no two of which are the same.
    pub fn wide(dice: &Dice) -> Self {
        let mut guest = Self::of(&WIDE_DISKS, dice);
        for (name, bytes) in WIDE_DISKS {
            (0..bytes / CHUNK).for_each(|index| guest.put(name, index, &chunk(1, dice.number())));
        }
        guest
    }

    fn of(shape: &'static [(&'static str, usize)], dice: &Dice) -> Self {
        let disks = shape.iter().map(|(name, bytes)| (*name, vec![0; *bytes])).collect();
        let mut guest = Self { shape, disks, changed: BTreeSet::new() };
        for _ in 0..4 {
            guest.change(dice);
        }
        guest
    }

    /// Some chunks change, or none.
    pub fn change(&mut self, dice: &Dice) {
        for _ in 0..dice.below(CHANGES_MAX + 1) {
            let (name, bytes) = *dice.pick(self.shape);
            let chunks = bytes.div_ceil(CHUNK) as u64;
            let index = usize::try_from(dice.below(chunks)).unwrap_or(0);
            // Numbers of a small range come again, on this machine and on others: chunks that repeat.
            self.put(name, index, &chunk(dice.below(4), dice.below(40)));
        }
    }

    /// The chunk of this place of the second disk gets a content that nothing had before.
    pub fn renew(&mut self, index: usize, dice: &Dice) {
        let (name, bytes) = self.shape[1];
        self.put(name, index % (bytes / CHUNK), &chunk(1, dice.number()));
    }

    fn put(&mut self, name: &'static str, index: usize, content: &[u8]) {
        let disk = self.disks.get_mut(name).expect("the disk is there");
        let end = (index * CHUNK + CHUNK).min(disk.len());
        disk[index * CHUNK..end].copy_from_slice(&content[..end - index * CHUNK]);
        self.changed.insert((name, index));
    }

    /// Its disks: name and bytes.
    pub fn shape(&self) -> &'static [(&'static str, usize)] {
        self.shape
    }

    /// Everything that it holds, in short.
    pub fn disks(&self) -> Disks {
        self.disks.iter().map(|(name, content)| ((*name).to_owned(), describe(content))).collect()
    }

    /// The bytes of a chunk.
    pub fn chunk(&self, disk: &str, index: usize) -> &[u8] {
        let content = &self.disks[disk];
        &content[index * CHUNK..(index * CHUNK + CHUNK).min(content.len())]
    }

    /// The chunks that changed since tracking began, or all.
    pub fn to_send(&self, all: bool) -> Vec<(&'static str, usize)> {
        if !all {
            return self.changed.iter().copied().collect();
        }
        let chunks = |(name, bytes): &(&'static str, usize)| {
            let name = *name;
            (0..bytes.div_ceil(CHUNK)).map(move |index| (name, index))
        };
        self.shape.iter().flat_map(chunks).collect()
    }

    /// Tracking begins anew: what changed so far is in a point. What is held now is what that point holds.
    pub fn forget_changes(&mut self) {
        self.changed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_tracks_what_changed() {
        let dice = Dice::new(1, "guest");
        let mut guest = Guest::new(&dice);
        guest.forget_changes();
        let before = guest.clone();
        for _ in 0..3 {
            guest.change(&dice);
        }
        assert_ne!(guest.disks(), before.disks());
        let tracked = guest.to_send(false);
        for place in guest.to_send(true) {
            let differs = guest.chunk(place.0, place.1) != before.chunk(place.0, place.1);
            assert!(!differs || tracked.contains(&place), "{place:?}");
        }
        let canaries =
            guest.to_send(true).into_iter().filter(|(disk, index)| guest.chunk(disk, *index).starts_with(CANARY));
        assert!(canaries.count() > 1);
    }
}
