//! What goes wrong: by a seed, or as a test wants it.

use std::time::Duration;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// How often, of a thousand calls of each kind. A call is the n-th of its kind, and its fate depends on the seed, its kind and n alone.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Where the dice begin.
    pub seed: u64,
    /// The caller is told to slow down, and nothing is done.
    pub throttled: u64,
    /// The service fails, and nothing is done.
    pub failing: u64,
    /// What was asked is done, and the answer does not arrive, or half of it.
    pub lost: u64,
    /// A page has fewer things than there are, or none, and a token for more.
    pub short_pages: u64,
    /// A block that was not changed is listed as changed.
    pub over_reported: u64,
    /// How long at most what was made is not there for those who ask for it.
    pub unseen: Duration,
}

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Fault {
    /// See [`Faults`].
    Throttled,
    /// See [`Faults`].
    Failing,
    /// See [`Faults`].
    Lost,
}

impl Faults {
    /// A number below this, for this purpose.
    pub fn thrown(&self, purpose: &str, nth: u64, below: u64) -> u64 {
        let digest: [u8; 32] = Sha256::digest(format!("{}|{purpose}|{nth}", self.seed)).into();
        let number = digest.iter().take(8).fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
        number.checked_rem(below).unwrap_or(0)
    }

    /// What goes wrong with the n-th call of a kind.
    pub fn of_call(&self, action: &str, nth: u64) -> Option<Fault> {
        let thrown = self.thrown(action, nth, 1_000);
        let kinds = [(self.throttled, Fault::Throttled), (self.failing, Fault::Failing), (self.lost, Fault::Lost)];
        let mut up_to: u64 = 0;
        kinds.into_iter().find_map(|(often, fault)| {
            up_to = up_to.saturating_add(often);
            (thrown < up_to).then_some(fault)
        })
    }

    /// How many things are on a page that could have so many.
    pub fn page(&self, purpose: &str, nth: u64, most: usize) -> usize {
        if self.thrown(&format!("page of {purpose}"), nth, 1_000) >= self.short_pages {
            return most;
        }
        let below = u64::try_from(most).unwrap_or(u64::MAX);
        usize::try_from(self.thrown(&format!("length of {purpose}"), nth, below)).unwrap_or(0)
    }

    /// Whether a block is listed as changed that was not.
    pub fn is_over_reported(&self, number: u32) -> bool {
        self.thrown("over-reported", u64::from(number), 1_000) < self.over_reported
    }
}
