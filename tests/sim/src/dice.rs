//! Draws that a seed decides. Each purpose has a stream of its own, so that one more draw for one of them moves no other.

use std::sync::Arc;

use farshore_core::{Entropy, SeededEntropy};

/// A stream of draws. Clones share it.
#[derive(Debug, Clone)]
pub struct Dice(Arc<SeededEntropy>);

/// The seed of a stream: of the world's seed, for a purpose.
pub fn stream_seed(seed: u64, purpose: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(purpose.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

impl Dice {
    /// The stream of a seed for a purpose.
    pub fn new(seed: u64, purpose: &str) -> Self {
        Self(Arc::new(SeededEntropy::new(stream_seed(seed, purpose))))
    }

    /// Any number.
    pub fn number(&self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A number below `end`, and 0 if that is 0. The last numbers of a huge range come a little less often.
    pub fn below(&self, end: u64) -> u64 {
        self.number() % end.max(1)
    }

    /// A number from `first` to `last`, both included.
    pub fn between(&self, first: u64, last: u64) -> u64 {
        first + self.below(last.saturating_sub(first).saturating_add(1))
    }

    /// True so many times of a thousand.
    pub fn permille(&self, chance: u32) -> bool {
        // Nothing is drawn for what cannot happen, so that plans which differ by one fault share the rest.
        chance > 0 && self.below(1000) < u64::from(chance)
    }

    /// One of these.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        assert!(!from.is_empty(), "there must be something to pick from");
        &from[usize::try_from(self.below(from.len() as u64)).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_by_seed_and_purpose_and_differ_otherwise() {
        let take = |seed, purpose| {
            let dice = Dice::new(seed, purpose);
            (0..4).map(|_| dice.number()).collect::<Vec<_>>()
        };
        assert_eq!(take(1, "a"), take(1, "a"));
        assert_ne!(take(1, "a"), take(2, "a"));
        assert_ne!(take(1, "a"), take(1, "b"));
    }

    #[test]
    fn a_chance_comes_about_as_often_as_it_says() {
        let dice = Dice::new(1, "chance");
        let hits = (0..10_000).filter(|_| dice.permille(300)).count();
        assert!((2_800..3_200).contains(&hits), "{hits}");
        assert!(!(0..1000).any(|_| dice.permille(0)));
        assert!((0..1000).all(|_| dice.permille(1000)));
        assert!((0..1000).all(|_| (3..=5).contains(&dice.between(3, 5))));
    }
}
