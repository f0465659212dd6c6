//! What goes wrong, by a seed.

use std::time::Duration;

use crate::account::Account;

/// How often, of a thousand calls each.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Where the dice begin.
    pub seed: u64,
    /// The caller is told to slow down, and nothing is done.
    pub throttled: u64,
    /// The service fails, and nothing is done.
    pub failing: u64,
    /// What was asked is done, and the answer does not arrive.
    pub lost: u64,
    /// How long at most what was made is not seen by those who look.
    pub unseen: Duration,
}

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// See [`Faults`].
    Throttled,
    /// See [`Faults`].
    Failing,
    /// See [`Faults`].
    Lost,
}

impl Faults {
    /// Throws the dice for a call.
    pub fn next(&self, account: &Account) -> Option<Fault> {
        let thrown = account.random(1_000);
        let kinds = [(self.throttled, Fault::Throttled), (self.failing, Fault::Failing), (self.lost, Fault::Lost)];
        let mut up_to = 0;
        kinds.into_iter().find_map(|(often, fault)| {
            up_to += often;
            (thrown < up_to).then_some(fault)
        })
    }
}
