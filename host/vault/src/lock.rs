//! Immutability: what is stored stays for a span, whoever asks for its deletion.
//!
//! ## What is locked
//! A vault is *locked* when its ring says so ([`VaultLock`]): signed by the administrator, seen by every host. The bucket's own
//! default retention then locks every new object, from the moment at which the store receives it, for at least the span. A
//! writer asks the bucket before it writes, and refuses one that does not do that. So there is no moment in which an object
//! is stored and not locked, and no writer needs the right to lock anything.
//!
//! ## Why that is not enough
//! Points share what they have in common, so an object is needed for much longer than a span after it was stored. The
//! locks of what is needed are therefore made longer by who follows references (see `prune::extend`), and the lineage's head
//! says until when they hold: the *horizon*, `locked_until`. It is raised by that commit alone. A writer refuses to commit when
//! the horizon is near ([`HORIZON_MIN_SHARE`]): a point that shares objects whose locks are about to end would only seem to be
//! locked.
//!
//! ## What a horizon promises
//! Until then every object that the points that stand need is locked: their packs, maps, collections, their commits, and what
//! leads to them. So what a commit does to it is: a point keeps the smaller of its parent's horizon, its own objects' locks,
//! and the locks of what it found of an interrupted writer; a prune that brings points back ends it, because nobody made the
//! locks of what those need longer meanwhile; everything else keeps it. A lineage that begins has that of its first objects.
//!
//! ## Clocks
//! S3 refuses requests whose signature is more than 15 minutes away from its own time, so a host that can lock or write has
//! nearly the store's time. A writer that judges a horizon believes the later of its own clock and the time at which the
//! store received the newest commit.

use std::{fmt, time::Duration};

use farshore_core::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Error, Head, Result, Vault};

/// A horizon is near when less than one part of so many of the span is left. With a quarter, `vault lock extend` may fail for
/// almost three quarters of a span before replication stops, and then there is a quarter left in which everything is
/// still locked and somebody can look.
pub(crate) const HORIZON_MIN_SHARE: u64 = 4;

/// The shortest span: stores count default retentions in days.
const SPAN_SECONDS_MIN: u64 = 24 * 3_600;

/// The longest span: ten years. A lock of compliance mode cannot be taken back.
const SPAN_SECONDS_MAX: u64 = 3_653 * 24 * 3_600;

/// Who can take a lock back before it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockMode {
    /// Whoever has the right to bypass it.
    Governance,
    /// Nobody, the owner of the account included.
    Compliance,
}

impl LockMode {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Governance => "governance",
            Self::Compliance => "compliance",
        }
    }

    /// As stores call it.
    pub(crate) const fn in_store(self) -> &'static str {
        match self {
            Self::Governance => "GOVERNANCE",
            Self::Compliance => "COMPLIANCE",
        }
    }

    /// The mode that a store calls by this name.
    pub(crate) fn of_store(name: &str) -> Option<Self> {
        [Self::Governance, Self::Compliance].into_iter().find(|mode| mode.in_store() == name)
    }
}

impl fmt::Display for LockMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl std::str::FromStr for LockMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Governance, Self::Compliance].into_iter().find(|mode| mode.name() == text);
        known.ok_or_else(|| format!("there is no mode {text:?}: governance and compliance are those"))
    }
}

/// For how long the objects of a vault are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultLock {
    /// Who can take a lock back.
    pub mode: LockMode,
    /// For how long after it was stored, or was last found to be needed, an object is locked.
    pub span_seconds: u64,
}

impl VaultLock {
    fn check(&self) -> Result<()> {
        let (found, days) = (self.span_seconds, |seconds: u64| seconds / 86_400);
        if (SPAN_SECONDS_MIN..=SPAN_SECONDS_MAX).contains(&found) {
            return Ok(());
        }
        let (min, max) = (days(SPAN_SECONDS_MIN), days(SPAN_SECONDS_MAX));
        Err(Error::invalid(format!("a lock of {found} seconds is outside of what is allowed, {min} to {max} days")))
    }

    /// Whether this holds less than the other.
    fn is_weaker_than(&self, other: &Self) -> bool {
        self.mode < other.mode || self.span_seconds < other.span_seconds
    }

    /// When a lock ends that begins now.
    pub(crate) fn until(&self, now: Timestamp) -> Timestamp {
        after(now, self.span_seconds)
    }

    /// The horizon of a point that is committed on this head now: of its parent's objects and of its own.
    ///
    /// # Errors
    /// The horizon that must be there is not, or is near: none, or the one that was recorded.
    pub(crate) fn next_horizon(&self, head: &Head, now: Timestamp) -> Result<Timestamp, Option<Timestamp>> {
        let recorded = head.locked_until.ok_or(None)?;
        let left = recorded.since(now);
        if left < Duration::from_secs(self.span_seconds / HORIZON_MIN_SHARE) {
            return Err(Some(recorded));
        }
        Ok(recorded.min(self.until(now)))
    }
}

/// A time so many seconds later.
pub(crate) fn after(time: Timestamp, seconds: u64) -> Timestamp {
    let milliseconds = i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX);
    Timestamp::from_unix_milliseconds(time.as_unix_milliseconds().saturating_add(milliseconds))
}

impl Vault {
    /// For how long its objects are locked, as the newest ring that was read says; none if they are not.
    pub fn lock(&self) -> Option<VaultLock> {
        self.0.access.ring().lock
    }

    /// Says in the ring that objects of the vault are locked, after the bucket was asked whether it locks them. A lock that
    /// holds less than the one before needs `weaken`: what is locked already stays locked as it is.
    ///
    /// # Errors
    /// [`Error::NotAdministrator`]; [`Error::BucketUnfit`]; [`Error::LockWeaker`]; [`Error::InvalidRequest`] for an impossible
    /// span; or the store failed.
    pub async fn set_lock(&self, lock: VaultLock, weaken: bool) -> Result<()> {
        self.0.access.bundle("to lock the vault")?;
        lock.check()?;
        self.0.store.prove_lock(&lock).await?;
        self.change_ring("to lock the vault", |ring| {
            if let Some(before) = ring.lock.filter(|before| !weaken && lock.is_weaker_than(before)) {
                return Err(Error::LockWeaker { before, after: lock });
            }
            ring.lock = Some(lock);
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests;
