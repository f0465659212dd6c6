//! Pins: a run's claim on a point. What is pinned is not deleted.
//!
//! A pin is a commit like any other. So a pin and a prune cannot miss each other: one of them is first, and the other one sees it.
//! Later commits repeat those that stand, and a captured host may repeat others; so that there is nothing to do is believed only if it
//! was done. A pin never lapses by itself: a run that ended without giving its pin up shows in the list of pins, and somebody has
//! to look.

use std::sync::Arc;

use farshore_core::{RunId, Sequence};
use futures::FutureExt;

use crate::{
    Error, Head, Lineage, Pin, Result,
    commit::Event,
    keys::Power,
    ledger::Valid,
    log::HeadCommit,
    store::Created,
    succession::{Held, pinned_by},
};

/// The most pins of a lineage.
pub const PINS_MAX: usize = 64;

/// How often a pin is tried again because other commits came between.
const RACES_MAX: usize = 64;

impl Lineage {
    /// The pins that stand: what was pinned and not given up, whatever the newest commit says of it. Where a commit since the newest
    /// prune is missing or damaged, those that the next one claims are among them.
    ///
    /// # Errors
    /// The newest commit or ledger is missing or damaged; [`Error::LostRace`] when others pruned all the while; or the store failed.
    pub async fn pins(&self) -> Result<Vec<Pin>> {
        let shared = &self.0;
        let held = |newest: HeadCommit, valid: Option<Arc<Valid>>| {
            async move { Held::at(shared, valid.as_deref(), newest.head.sequence).await }.boxed()
        };
        Ok(shared.by_newest(held).await?.pins)
    }

    /// Lays a run's claim to a point; a run has at most one in a lineage, so that an earlier one is given up. Idempotent.
    ///
    /// # Errors
    /// [`Error::PointMissing`] when the point does not stand, [`Error::LimitExceeded`] with more than [`PINS_MAX`] pins,
    /// [`Error::PowerMissing`], [`Error::LostRace`] when others committed all the while, or the store failed.
    pub async fn pin(&self, run: RunId, point: Sequence) -> Result<()> {
        let shared = &self.0;
        shared.access.require(Power::Controller, "to pin a recovery point")?;
        for _ in 0..RACES_MAX {
            let (built_on, valid, seen) = shared.newest_to_build_on().await?;
            let pins = match self.pins_with(&built_on, valid.as_deref(), run, point).await {
                Ok(Some(pins)) => pins,
                Err(error @ Error::Store { .. }) => return Err(error),
                // No create tells whether what was read still counts.
                _ if shared.log.has_risen(seen).await? => continue,
                Ok(None) => return shared.store.settle().await,
                Err(error) => return Err(error),
            };
            let head = Head { sequence: built_on.head.sequence.next(), pins, ..built_on.head.clone() };
            if shared.log.create(&built_on, head, Event::Pinned { run, point }).await?.0 == Created::Mine {
                return Ok(());
            }
        }
        Err(self.lost_race().await?)
    }

    /// What a commit is to say of the pins once this run has pinned this point; nothing if it has.
    async fn pins_with(
        &self,
        built_on: &HeadCommit,
        valid: Option<&Valid>,
        run: RunId,
        point: Sequence,
    ) -> Result<Option<Vec<Pin>>> {
        let shared = &self.0;
        let mut pins = built_on.head.pins.clone();
        let is_claimed = pins.iter().any(|pin| pin.run == run && pin.point == point);
        pins.retain(|pin| pin.run != run);
        let newest = built_on.head.sequence;
        if is_claimed && self.has_pinned(valid, newest, run).await? == Some(Some(point)) {
            return Ok(None);
        }
        if pins.len() >= PINS_MAX {
            let held = Held::at(shared, valid, newest).await?;
            if held.pins.iter().filter(|pin| pin.run != run).count() >= PINS_MAX {
                let limit = u64::try_from(PINS_MAX).unwrap_or(u64::MAX);
                return Err(Error::LimitExceeded { what: "the number of pins of a group", found: limit + 1, limit });
            }
        }
        shared.point_in(valid, point).await?;
        pins.push(Pin { run, point, since: shared.context.clock.now() });
        Ok(Some(pins))
    }

    /// Gives a run's claim up. Idempotent.
    ///
    /// # Errors
    /// [`Error::PowerMissing`], [`Error::LostRace`] when others committed all the while, or the store failed.
    pub async fn unpin(&self, run: RunId) -> Result<()> {
        let shared = &self.0;
        shared.access.require(Power::Controller, "to give a pin up")?;
        for _ in 0..RACES_MAX {
            let (built_on, valid, seen) = shared.newest_to_build_on().await?;
            let mut pins = built_on.head.pins.clone();
            pins.retain(|pin| pin.run != run);
            let is_claimed = pins.len() < built_on.head.pins.len();
            if !is_claimed {
                let pinned = self.has_pinned(valid.as_deref(), built_on.head.sequence, run).await?;
                // No create tells whether what was read still counts.
                if shared.log.has_risen(seen).await? {
                    continue;
                }
                if pinned == Some(None) {
                    return shared.store.settle().await;
                }
            }
            let head = Head { sequence: built_on.head.sequence.next(), pins, ..built_on.head.clone() };
            if shared.log.create(&built_on, head, Event::Unpinned { run }).await?.0 == Created::Mine {
                return Ok(());
            }
        }
        Err(self.lost_race().await?)
    }

    /// The point that a run has pinned; none where that cannot be told, because of damage.
    async fn has_pinned(
        &self,
        valid: Option<&Valid>,
        newest: Sequence,
        run: RunId,
    ) -> Result<Option<Option<Sequence>>> {
        match pinned_by(&self.0, valid, newest, run).await {
            Ok(pinned) => Ok(Some(pinned)),
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn lost_race(&self) -> Result<Error> {
        let sequence = self.head().await?.sequence;
        Ok(Error::LostRace { group: self.0.group.clone(), sequence })
    }
}
