//! The recoverer: it restores points while the world goes on, and remembers what it saw.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use farshore_core::{GroupName, Sequence};
use farshore_vault::{Error, Lineage};

use super::{Actor, Desk};
use crate::{
    evidence::restore,
    faults::GetFault,
    history::{Listing, Observation, description},
    template::Host,
    world::Phase,
};

/// How many rounds it has while things go wrong.
const ROUNDS: u64 = 8;

/// How many of the newest points it chooses from.
const POINTS_MAX: usize = 20;

/// How often it looks again after what it wanted was gone.
const LOOKS_MAX: usize = 5;

/// See the module.
#[derive(Debug)]
pub struct Recoverer {
    groups: Vec<GroupName>,
    rounds: Mutex<u64>,
}

impl Recoverer {
    /// The recoverer of a world with these groups.
    pub fn new(groups: Vec<GroupName>) -> Arc<Self> {
        Arc::new(Self { groups, rounds: Mutex::new(ROUNDS) })
    }

    fn take_round(&self) -> bool {
        let mut rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        let left = *rounds > 0;
        *rounds = rounds.saturating_sub(1);
        left
    }

    async fn round(&self, desk: &mut Desk) -> Result<(), Error> {
        let vault = desk.vault().await?;
        let group = desk.dice.pick(&self.groups);
        let Some(lineage) = vault.lineage(group).await? else { return Ok(()) };
        let began_at = desk.world.time().now();
        let points = lineage.points(None, POINTS_MAX).await?;
        let (ended_at, listed) = (desk.world.time().now(), points.iter().map(|point| point.sequence).collect());
        desk.world.history().listings.push(Listing { group: group.clone(), began_at, ended_at, points: listed });
        let pins = lineage.head().await?.pins;
        let sequence = match points.as_slice() {
            [] => return Ok(()),
            _ if !pins.is_empty() && desk.dice.permille(500) => desk.dice.pick(&pins).point,
            points => desk.dice.pick(points).sequence,
        };
        let group = group.clone();
        let mut gone = match observe(desk, &lineage, sequence).await {
            Err(error) if is_gone(&error) => error,
            outcome => return outcome,
        };
        // A point that is not pinned may be dropped while it is read, and even a pin may be given up meanwhile. What still
        // stands must be readable.
        for _ in 0..LOOKS_MAX {
            desk.close();
            let Some(lineage) = desk.vault().await?.lineage(&group).await? else { return Err(gone) };
            match lineage.point(sequence).await {
                Err(Error::PointMissing { .. }) => return Ok(()),
                Err(error) if !is_gone(&error) => return Err(error),
                Err(error) => gone = error,
                Ok(_) => match observe(desk, &lineage, sequence).await {
                    Err(error) if is_gone(&error) => gone = error,
                    outcome => return outcome,
                },
            }
        }
        let is_cut = desk.world.plan().get.contains(&GetFault::Truncated);
        if !is_cut {
            let what = format!("point {sequence} of {group} stands, and cannot be restored: {gone}");
            desk.world.history().impossible.push(what);
        }
        Err(gone)
    }
}

fn is_gone(error: &Error) -> bool {
    matches!(error, Error::ObjectMissing { .. } | Error::PointMissing { .. } | Error::Damaged { .. })
}

/// Restores a point, and remembers what it holds.
///
/// # Errors
/// The vault's.
pub async fn observe(desk: &Desk, lineage: &Lineage, sequence: Sequence) -> Result<(), Error> {
    let point = lineage.point(sequence).await?;
    let disks = restore(lineage, &point).await?;
    desk.world.totals().restores += 1;
    let (group, description) = (lineage.group().clone(), description(&point));
    desk.world.history().observations.push(Observation { group, sequence, description, disks });
    Ok(())
}

#[async_trait]
impl Actor for Recoverer {
    fn host(&self) -> Host {
        Host::Recoverer
    }

    async fn run(&self, desk: &mut Desk) {
        while desk.world.phase() == Phase::Chaos && self.take_round() {
            desk.pause().await;
            if let Err(error) = self.round(desk).await {
                desk.note(&error);
                if desk.dice.permille(300) {
                    desk.close();
                }
            }
        }
        desk.idle().await;
    }
}
