//! The recoverer: it restores points while the world goes on, and remembers what it saw.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use farshore_core::GroupName;
use farshore_vault::Error;

use super::{Actor, Desk};
use crate::{
    evidence::restore,
    history::{Observation, description},
    template::Host,
    world::Phase,
};

/// How many rounds it has while things go wrong.
const ROUNDS: u64 = 5;

/// How many of the newest points it chooses from.
const POINTS_MAX: usize = 20;

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
        let points = lineage.points(None, POINTS_MAX).await?;
        if points.is_empty() {
            return Ok(());
        }
        let point = desk.dice.pick(&points);
        let disks = restore(&lineage, point).await?;
        desk.world.totals().restores += 1;
        let (sequence, description) = (point.sequence, description(point));
        desk.world.history().observations.push(Observation { group: group.clone(), sequence, description, disks });
        Ok(())
    }
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
