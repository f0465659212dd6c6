//! Making a ledger valid: the only way by which one ever is, for a prune and for a repair that moves pieces.
//!
//! The collections are durable by then. The ledger is stored under a fresh name, and then one commit names it. Until the commit
//! is there nothing has changed, and a later prune condemns what was stored in vain.

use farshore_core::{Sequence, Timestamp};

use super::reserve::Reserve;
use crate::{
    Error, Head, Lineage, Result, Retention,
    commit::{Event, Pruned},
    ledger::{Ledger, LedgerRef},
    log::HeadCommit,
    store::Created,
    succession::Held,
};

/// How often the commit is tried under a later number because writers went on meanwhile.
const REBASES_MAX: usize = 64;

/// Whether a create that failed is worth another try.
async fn frees_room(reserve: Option<&Reserve<'_>>, error: &Error) -> bool {
    match reserve {
        Some(reserve) => reserve.frees_room(error).await,
        None => false,
    }
}

/// What the commit says beside the ledger.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decision {
    /// The newest commit that was looked at.
    pub(super) judged: Sequence,
    /// The rules that were applied.
    pub(super) retention: Retention,
    pub(super) points_dropped: u64,
    pub(super) points_kept: u64,
    /// Points stand again that did not.
    pub(super) brings_back: bool,
    /// When its author began: nothing that the ledger needs was stored by it before.
    pub(super) began_at: Timestamp,
}

impl Lineage {
    /// Stores a ledger and makes it valid, under the number after the newest commit, whatever points came between. The pins of
    /// `planned_on` are those that stand, whatever it says itself.
    ///
    /// # Errors
    /// [`Error::LostRace`] when another ledger counts by now than with `planned_on`, or a pin names a point that would not stand.
    /// [`Error::LimitExceeded`], or the store failed: the ledger may be valid then.
    pub(super) async fn publish(
        &self,
        planned_on: &HeadCommit,
        ledger: &Ledger,
        decision: Decision,
        reserve: Option<&Reserve<'_>>,
    ) -> Result<Sequence> {
        let shared = &*self.0;
        let name = (planned_on.object_name(shared.entropy()), decision.judged);
        let (object, bytes, reference) = ledger.object(&shared.context, &shared.keys.metadata, shared.id, name)?;
        let created = match shared.store.create(&object, vec![bytes.clone()]).await {
            Err(error) if frees_room(reserve, &error).await => shared.store.create(&object, vec![bytes]).await,
            created => created,
        };
        match created? {
            Created::Mine => self.commit_ledger(planned_on, ledger, reference, decision, reserve).await,
            Created::Other => Err(Error::repeated_randomness(&object)),
        }
    }

    /// If points are brought back, the horizon of locks ends: nobody made the locks of what they need longer while they were
    /// given up.
    async fn commit_ledger(
        &self,
        planned_on: &HeadCommit,
        ledger: &Ledger,
        reference: LedgerRef,
        decision: Decision,
        reserve: Option<&Reserve<'_>>,
    ) -> Result<Sequence> {
        let shared = &*self.0;
        let Decision { judged, retention, points_dropped, points_kept, brings_back, began_at } = decision;
        let pruned = Pruned { judged, ledger: reference, retention, points_dropped, points_kept };
        let mut built_on = planned_on.clone();
        for _ in 0..REBASES_MAX {
            let sequence = built_on.head.sequence.next();
            let ended =
                |horizon: Timestamp| if brings_back { horizon.min(shared.context.clock.now()) } else { horizon };
            // The ledger and the collections are locked from when they were stored.
            let own = shared.access.ring().lock.map(|lock| lock.until(began_at));
            let locked_until = built_on.head.locked_until.map(ended);
            let locked_until = locked_until.map(|horizon| own.map_or(horizon, |own| own.min(horizon)));
            let head = Head { sequence, pruned: Some(sequence), locked_until, ..built_on.head.clone() };
            let event = || Event::Pruned(Box::new(pruned.clone()));
            let created = match shared.log.create(&built_on, head.clone(), event()).await {
                Err(error) if frees_room(reserve, &error).await => shared.log.create(&built_on, head, event()).await,
                created => created,
            };
            if created?.0 == Created::Mine {
                return Ok(sequence);
            }
            let (newest, valid, seen) = shared.newest_to_build_on().await?;
            // A create whose outcome could not be told had come through.
            if let Some(own) = valid.filter(|valid| valid.pruned.ledger == pruned.ledger) {
                shared.store.settle().await?;
                return Ok(own.commit);
            }
            let before = std::mem::replace(&mut built_on, newest);
            if built_on.head.pruned != planned_on.head.pruned {
                break;
            }
            let held = Held::between(shared, before.head.pins, before.head.sequence, built_on.head.sequence).await?;
            built_on.head.pins = shared.unless_overtaken(held.certain(), seen).await?;
            let stands = |point: Sequence| {
                point > judged || ledger.points.iter().any(|judged| judged.sequence == point && judged.stands)
            };
            if !built_on.head.pins.iter().all(|pin| stands(pin.point)) {
                break;
            }
        }
        Err(Error::LostRace { group: shared.group.clone(), sequence: built_on.head.sequence })
    }
}
