//! Randomness comes in through a trait, so that a simulator owns it.

use std::sync::{Mutex, PoisonError};

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};

/// Where randomness comes from.
pub trait Entropy: Send + Sync {
    /// Fills the buffer with bytes that nobody can guess (or, in a simulation, that the seed decides).
    fn fill(&self, buffer: &mut [u8]);
}

/// The machine's own randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    /// # Panics
    /// When the operating system has no randomness to give: nothing that follows could be kept secret.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's randomness")]
    fn fill(&self, buffer: &mut [u8]) {
        getrandom::fill(buffer).expect("the operating system gives randomness");
    }
}

/// Bytes that are the same for the same seed: for simulations and tests, never for real keys.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<ChaCha20Rng>);

impl SeededEntropy {
    /// The source of this seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(ChaCha20Rng::seed_from_u64(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_the_machine_does_not() {
        let take = |entropy: &dyn Entropy| {
            let mut bytes = [0; 32];
            entropy.fill(&mut bytes);
            bytes
        };
        assert_eq!(take(&SeededEntropy::new(3)), take(&SeededEntropy::new(3)));
        assert_ne!(take(&SeededEntropy::new(3)), take(&SeededEntropy::new(4)));
        assert_ne!(take(&SystemEntropy), take(&SystemEntropy));
    }
}
