//! What is said again and again is said once in a while.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// The same is said again only after so long.
const REPEATED_AFTER: Duration = Duration::from_secs(3_600);
/// Texts that are remembered. When there are more, the oldest is forgotten.
const TEXTS_MAX: usize = 64;

/// What was said of late.
#[derive(Debug, Default)]
pub struct Repeats(Mutex<BTreeMap<String, Duration>>);

impl Repeats {
    /// Whether this is to be said at this monotonic time. Then it counts as said.
    pub fn is_new(&self, text: &str, now: Duration) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|_, at| now.saturating_sub(*at) < REPEATED_AFTER);
        if said.contains_key(text) {
            return false;
        }
        if said.len() >= TEXTS_MAX
            && let Some(oldest) = said.iter().min_by_key(|(_, at)| **at).map(|(text, _)| text.clone())
        {
            said.remove(&oldest);
        }
        said.insert(text.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_an_hour_and_what_is_new_at_once() {
        let (repeats, hour) = (Repeats::default(), REPEATED_AFTER);
        assert!(repeats.is_new("a", Duration::ZERO) && repeats.is_new("b", hour / 2));
        assert!(!repeats.is_new("a", hour - Duration::from_secs(1)) && !repeats.is_new("b", hour));
        assert!(repeats.is_new("a", hour));
        for number in 0..200 {
            assert!(repeats.is_new(&number.to_string(), hour), "{number} is new, however many there were");
        }
        assert!(!repeats.is_new("199", hour));
    }
}
