//! How long work that a platform goes on with is waited for.

use std::time::Duration;

use crate::Pending;

/// Hears what a platform says of its work. As long as that changes the work goes on, however long it takes: the first
/// snapshot of a large volume takes hours. Times are of a monotonic clock.
#[derive(Debug)]
pub struct Patience {
    limit: Duration,
    said: Option<String>,
    since: Duration,
}

impl Patience {
    /// Waits from now on for at most this long between two things that are said.
    pub const fn new(limit: Duration, now: Duration) -> Self {
        Self { limit, said: None, since: now }
    }

    /// Hears what is waited for, and says whether it is something else than before.
    pub fn hears(&mut self, pending: &Pending, now: Duration) -> bool {
        let is_new = self.said.as_ref() != Some(&pending.doing);
        if is_new {
            (self.said, self.since) = (Some(pending.doing.clone()), now);
        }
        is_new
    }

    /// Whether the same has been said for longer than the limit.
    pub fn is_over(&self, now: Duration) -> bool {
        now.saturating_sub(self.since) >= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_waited_for_and_what_does_not_is_not() {
        let second = Duration::from_secs;
        let pending = |doing: &str| Pending { doing: doing.to_owned(), poll_after: second(1) };
        let mut patience = Patience::new(second(10), second(5));
        assert!(!patience.is_over(second(14)) && patience.is_over(second(15)), "nothing was said");
        for minute in 1..100 {
            assert!(patience.hears(&pending(&format!("at {minute} %")), second(60 * minute)));
            assert!(!patience.hears(&pending(&format!("at {minute} %")), second(60 * minute + 9)));
            assert!(!patience.is_over(second(60 * minute + 9)) && patience.is_over(second(60 * minute + 10)));
        }
    }
}
