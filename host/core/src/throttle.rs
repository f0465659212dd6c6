//! A limit of bytes per second that many tasks share.
//!
//! What has passed is a debt in bytes, which time pays off at the rate of the moment. Tasks stand in a queue; only the
//! first of them waits for time, until the debt leaves room for its bytes, and only then is it charged. So the order is
//! that of the callers, who gives up (drops [`Throttle::pass`]) has been charged nothing and holds nobody up, and no
//! wait is fixed in advance: the first looks at the limit again every [`STEP_MAX`], because the hours may have changed
//! or the operator may have set another.
//!
//! When the rate falls, a debt is made smaller so that it is paid when it would have been paid at the rate under which
//! it was made: a second's worth of bytes stays a second. When the rate rises it is paid off faster.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use self::rate::{Limit, Rate};
use crate::{Clock, Timestamp, hours::Timetable};

mod rate;

/// A limit that has changed counts for who waits after this long at most.
const STEP_MAX: Duration = Duration::from_millis(250);
/// After a rest, this long's worth of bytes passes at once,
const BURST: Duration = Duration::from_millis(250);
/// or this many if they are more.
const BURST_BYTES_MIN: u64 = 64 << 10;

/// The limits of a [`Throttle`]; none unless said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// What holds at its hours.
    pub hours: Timetable<Limit>,
    /// What holds at all others.
    pub otherwise: Limit,
}

impl Limits {
    fn rate(&self, now: Timestamp) -> Option<Rate> {
        match self.hours.at(now).unwrap_or(&self.otherwise) {
            Limit::Unlimited => None,
            Limit::Rate(rate) => Some(*rate),
        }
    }
}

/// Lets bytes pass no faster than its limits, in the order of those who ask.
pub struct Throttle {
    clock: Arc<dyn Clock>,
    /// Held by the first in the queue while it waits. It is handed on in the order of asking.
    turn: tokio::sync::Mutex<()>,
    account: Mutex<Account>,
}

struct Account {
    limits: Limits,
    /// What has passed and is not yet paid off.
    debt_nanobytes: u128,
    /// Up to when it has been paid off, on the monotonic clock,
    settled: Duration,
    /// and the rate from then on. Without one there is no debt.
    rate: Option<Rate>,
}

impl Throttle {
    /// Nothing has passed yet.
    pub fn new(clock: Arc<dyn Clock>, limits: Limits) -> Self {
        let account = Account { limits, debt_nanobytes: 0, settled: clock.monotonic(), rate: None };
        Self { clock, turn: tokio::sync::Mutex::default(), account: Mutex::new(account) }
    }

    /// Returns when so many bytes may go, after all who asked before. After a rest 250 ms worth of bytes, or 64 KiB if
    /// that is more, go at once; who asks for more than that waits for a rest, and those who come after wait until it
    /// has been paid off. Nothing is charged if this is dropped before it returns. Whoever is first holds up all others: it must
    /// not rest unpolled, as one of a `buffered` stream may.
    pub async fn pass(&self, bytes: u64) {
        let _turn = self.turn.lock().await;
        while let Some(wait) = self.charge(bytes) {
            self.clock.sleep(wait.min(STEP_MAX)).await;
        }
    }

    /// From now on these limits hold, for those who wait too.
    pub fn set(&self, limits: Limits) {
        let mut account = self.account();
        account.limits = limits;
        self.settle(&mut account);
    }

    /// The limit at this time in bytes per second, if there is one.
    pub fn rate(&self, now: Timestamp) -> Option<Rate> {
        self.account().limits.rate(now)
    }

    /// Charges so many bytes if there is room for them. Otherwise how long that takes at the rate of this moment.
    fn charge(&self, bytes: u64) -> Option<Duration> {
        let mut account = self.account();
        self.settle(&mut account);
        let rate = account.rate?;
        let bytes = u128::from(bytes) * rate::NANOBYTES_PER_BYTE;
        let burst = rate.nanobytes_in(BURST).max(u128::from(BURST_BYTES_MIN) * rate::NANOBYTES_PER_BYTE);
        let missing = account.debt_nanobytes.saturating_sub(burst.saturating_sub(bytes));
        if missing > 0 {
            return Some(rate.time_of(missing));
        }
        account.debt_nanobytes = account.debt_nanobytes.saturating_add(bytes);
        None
    }

    /// Pays off the debt for the time since this was last done, and looks which rate holds now.
    fn settle(&self, account: &mut Account) {
        let (now, rate) = (self.clock.monotonic(), account.limits.rate(self.clock.now()));
        if let Some(before) = account.rate {
            let paid = before.nanobytes_in(now.saturating_sub(account.settled));
            let debt = account.debt_nanobytes.saturating_sub(paid);
            account.debt_nanobytes = match rate {
                None => 0,
                Some(rate) if rate < before => rate.nanobytes_in(before.time_of(debt)),
                Some(_) => debt,
            };
        }
        (account.settled, account.rate) = (now, rate);
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
