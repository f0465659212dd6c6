//! How long work that a platform goes on with is waited for.

use std::{collections::BTreeSet, time::Duration};

use crate::Pending;

/// So many things that were said are known again. What comes after them is nothing new, so that waiting ends.
const SAID_MAX: usize = 10_000;

/// Hears what a platform says of its work. As long as it says something that it has not said before the work goes on, however
/// long it takes: the first snapshot of a large volume takes hours. Times are of a monotonic clock.
#[derive(Debug)]
pub struct Patience {
    limit: Duration,
    said: BTreeSet<String>,
    since: Duration,
}

impl Patience {
    /// Waits from now on for at most this long between two things that are said.
    pub const fn new(limit: Duration, now: Duration) -> Self {
        Self { limit, said: BTreeSet::new(), since: now }
    }

    /// Hears what is waited for, and says whether it was never said before.
    pub fn hears(&mut self, pending: &Pending, now: Duration) -> bool {
        let is_new = self.said.len() < SAID_MAX && self.said.insert(pending.doing.clone());
        if is_new {
            self.since = now;
        }
        is_new
    }

    /// Whether nothing new has been said for longer than the limit.
    pub fn is_over(&self, now: Duration) -> bool {
        now.saturating_sub(self.since) >= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(doing: &str) -> Pending {
        Pending { doing: doing.to_owned(), poll_after: Duration::from_secs(1) }
    }

    #[test]
    fn what_changes_is_waited_for_and_what_does_not_is_not() {
        let second = Duration::from_secs;
        let mut patience = Patience::new(second(10), second(5));
        assert!(!patience.is_over(second(14)) && patience.is_over(second(15)), "nothing was said");
        for minute in 1..100 {
            assert!(patience.hears(&pending(&format!("at {minute} %")), second(60 * minute)));
            assert!(!patience.hears(&pending(&format!("at {minute} %")), second(60 * minute + 9)));
            assert!(!patience.is_over(second(60 * minute + 9)) && patience.is_over(second(60 * minute + 10)));
        }
    }

    #[test]
    fn who_goes_to_and_fro_makes_no_progress_and_who_never_ends_is_given_up() {
        let second = Duration::from_secs;
        let mut patience = Patience::new(second(10), second(0));
        for time in 0..20 {
            patience.hears(&pending(if time % 2 == 0 { "stopped" } else { "pending" }), second(time));
        }
        assert!(patience.is_over(second(11)));
        let mut patience = Patience::new(second(10), second(0));
        let told = (0..20_000).filter(|time| patience.hears(&pending(&time.to_string()), second(*time)));
        assert_eq!(told.count(), SAID_MAX);
        assert!(patience.is_over(second(20_000)));
    }
}
