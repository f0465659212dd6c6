//! Numbers that a seed decides, so that two runs have the same bytes on the disk.

use farshore_core::{Entropy as _, SeededEntropy};

/// How many bytes are drawn at once: a draw takes a lock.
const DRAWN_BYTES: usize = 512;

/// A source of numbers.
pub struct Dice {
    entropy: SeededEntropy,
    drawn: [u8; DRAWN_BYTES],
    used: usize,
}

impl Dice {
    /// The source of this seed and this number of the seed's.
    pub fn new(seed: u64, number: u64) -> Self {
        // An odd factor permutes the numbers, so that neighbours do not get seeds that overlap with the next seed's.
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Self { entropy: SeededEntropy::new(mixed), drawn: [0; DRAWN_BYTES], used: DRAWN_BYTES }
    }

    /// The next number below `bound`, which is not 0. Small bounds are what this is for: the bias is below 1 in 4 billion.
    pub fn below(&mut self, bound: u64) -> u64 {
        if self.used + 8 > DRAWN_BYTES {
            self.entropy.fill(&mut self.drawn);
            self.used = 0;
        }
        let bytes = self.drawn[self.used..].first_chunk::<8>().expect("eight bytes are left");
        self.used += 8;
        u64::from_le_bytes(*bytes) % bound
    }

    /// Fills a buffer with noise.
    pub fn fill(&self, buffer: &mut [u8]) {
        self.entropy.fill(buffer);
    }
}
