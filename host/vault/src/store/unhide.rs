//! Showing again what somebody has hidden in a bucket that keeps versions.
//!
//! Who may delete and overwrite, and nothing more, cannot destroy what is locked: a deletion puts a marker above the object, and
//! an overwrite a newer version. The object is still there, as the first version of its key, and nothing finds it. Then not even
//! the vault's header may be found; so this needs no keys, only credentials that may list versions and delete them.
//!
//! Markers hold nothing, and are removed. A newer version is removed only when that was asked for: it may be of a host that went
//! on writing while the object was hidden, and was told that its point stands. In a locked vault it is locked for a span of its own,
//! and can be removed when that is over. The first version is never touched.

use farshore_core::Timestamp;
use futures::{StreamExt, stream};
use serde::Serialize;

use super::{Store, bucket::Version, objects::Objects};
use crate::Result;

/// How many objects are shown again side by side.
const SHOWN_AT_ONCE: usize = 8;

/// An object that is hidden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HiddenObject {
    /// Its key below the vault's address.
    pub object: String,
    /// How many delete markers lie above it.
    pub markers: u64,
    /// How many newer versions do.
    pub newer_versions: u64,
    /// When the newest of all these was put there.
    pub hidden_at: Timestamp,
    /// At which address.
    pub address: String,
    /// Which of the store's addresses that is: two may have one name, at servers of their own.
    #[serde(skip)]
    side: usize,
    /// What lies above it, newest first.
    #[serde(skip)]
    above: Vec<Version>,
}

/// What is hidden in a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnhidePlan {
    /// The objects, by key.
    pub hidden: Vec<HiddenObject>,
}

/// What was shown again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UnhideReport {
    /// How many objects can be read again.
    pub shown: u64,
    /// How many delete markers and newer versions were removed.
    pub removed: u64,
    /// Objects that are still hidden, each with the reason.
    pub still_hidden: Vec<StillHidden>,
}

/// An object that is still hidden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StillHidden {
    /// Its key below the vault's address.
    pub object: String,
    /// Why, as a sentence without a full stop.
    pub reason: String,
}

/// What became of one object.
struct Outcome {
    removed: u64,
    reason: Option<String>,
}

impl Store {
    /// Looks for objects that are hidden. It changes nothing, and needs no keys.
    ///
    /// # Errors
    /// [`crate::Error::BucketUnfit`] when the store keeps no versions; or the store failed.
    pub async fn plan_unhide(&self) -> Result<UnhidePlan> {
        let mut plan = UnhidePlan { hidden: Vec::new() };
        // Of two addresses one may keep versions and the other none.
        let all: Vec<_> = self.all("").enumerate().collect();
        let keeping: Vec<_> = all.iter().copied().filter(|(_, objects)| objects.bucket.is_some()).collect();
        for (side, objects) in if keeping.is_empty() { all } else { keeping } {
            let hidden = objects.versions("").await?.into_iter().filter_map(|(object, versions)| {
                let above = versions.above_first().to_vec();
                let hidden_at = above.first()?.received_at;
                let count = |is_marker| above.iter().filter(|version| version.is_marker == is_marker).count();
                let count = |is_marker| u64::try_from(count(is_marker)).unwrap_or(u64::MAX);
                let address = objects.address.to_string();
                Some(HiddenObject {
                    object,
                    markers: count(true),
                    newer_versions: count(false),
                    hidden_at,
                    address,
                    side,
                    above,
                })
            });
            plan.hidden.extend(hidden);
        }
        Ok(plan)
    }

    /// Removes what hides objects, newest first, and never the object: markers, and newer versions if `newer_versions` says so.
    pub async fn unhide(&self, plan: UnhidePlan, newer_versions: bool, now: Timestamp) -> UnhideReport {
        let at = |side| self.all("").nth(side).unwrap_or(&self.objects);
        let outcomes = stream::iter(plan.hidden).map(|hidden| async move {
            let outcome = at(hidden.side).show(&hidden, newer_versions, now).await;
            (hidden.object, outcome)
        });
        let mut outcomes = outcomes.buffered(SHOWN_AT_ONCE);
        let mut report = UnhideReport::default();
        while let Some((object, outcome)) = outcomes.next().await {
            report.removed = report.removed.saturating_add(outcome.removed);
            match outcome.reason {
                Some(reason) => report.still_hidden.push(StillHidden { object, reason }),
                None => report.shown = report.shown.saturating_add(1),
            }
        }
        report
    }
}

impl Objects {
    async fn show(&self, hidden: &HiddenObject, newer_versions: bool, now: Timestamp) -> Outcome {
        let mut outcome = Outcome { removed: 0, reason: None };
        for version in &hidden.above {
            if !version.is_marker && !newer_versions {
                outcome.reason = Some(format!(
                    "a newer version of {} bytes lies above it, since {}, which is removed only when asked for",
                    version.bytes, version.received_at
                ));
                // Markers below it are removed all the same.
                continue;
            }
            let Err(error) = self.delete_version(&hidden.object, &version.id).await else {
                outcome.removed = outcome.removed.saturating_add(1);
                continue;
            };
            let retained = self.retained(&hidden.object, &version.id).await.ok().flatten();
            let reason = match retained.filter(|retained| !version.is_marker && retained.until > now) {
                Some(retained) => format!("a newer version lies above it, which is locked until {}", retained.until),
                None => error.to_string(),
            };
            outcome.reason = Some(reason);
        }
        outcome
    }
}
