//! A controller: it gives groups to sites, as a failover does, and journals what it does. Two of them may go on with the
//! same run. After the faults the first one hands each group to the site that shall write next.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use farshore_core::{GroupName, RunId, Sequence};
use farshore_vault::{Error, Head, Lineage, Vault};

use super::{Actor, Desk, Trying};
use crate::{
    history::{EntryFate, PinRequest, Raise, Task},
    template::{Host, SITES, site},
    world::Phase,
};

/// How many rounds it has while things go wrong.
const ROUNDS: u64 = 8;

/// How many of the newest points it chooses from.
const POINTS_MAX: usize = 20;

/// See the module.
#[derive(Debug)]
pub struct Controller {
    host: Host,
    /// All groups, with the number of the site of their only writer, if they have one only.
    groups: Vec<(GroupName, Option<usize>)>,
    rounds: Mutex<u64>,
}

impl Controller {
    /// The controller of this number, in a world with these groups.
    pub fn new(number: usize, groups: Vec<(GroupName, Option<usize>)>) -> Arc<Self> {
        Arc::new(Self { host: Host::Controller(number), groups, rounds: Mutex::new(ROUNDS) })
    }

    fn take_round(&self) -> bool {
        let mut rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        let left = *rounds > 0;
        *rounds = rounds.saturating_sub(1);
        left
    }

    /// One failover: journalled before and after.
    async fn failover(&self, desk: &mut Desk) -> Result<(), Error> {
        let vault = desk.vault().await?;
        let (run, mut number) = begin_or_go_on(desk, &vault).await?;
        let (group, _) = desk.dice.pick(&self.groups).clone();
        let Some(lineage) = vault.lineage(&group).await? else { return Ok(()) };
        let head = lineage.head().await?;
        append(desk, &vault, run, &mut number, &format!("raise {group} from {}", head.generation)).await?;
        // Also to the site that has it, and to one that its writer is not at.
        let to = *desk.dice.pick(&SITES);
        let raised = self.raise(desk, &lineage, &head, to).await;
        append(
            desk,
            &vault,
            run,
            &mut number,
            &format!("{} {group}", if raised.is_ok() { "raised" } else { "gave up" }),
        )
        .await?;
        raised
    }

    /// One run that needs a point for a while: it pins it, and mostly gives it up. What a run has forgotten to give up,
    /// somebody gives up later, or nobody.
    async fn drill(&self, desk: &mut Desk) -> Result<(), Error> {
        let vault = desk.vault().await?;
        let (group, _) = desk.dice.pick(&self.groups).clone();
        let Some(lineage) = vault.lineage(&group).await? else { return Ok(()) };
        let stale = lineage.head().await?.pins;
        if !stale.is_empty() && desk.dice.permille(300) {
            return pin(desk, &lineage, desk.dice.pick(&stale).run, None).await;
        }
        let points = lineage.points(None, POINTS_MAX).await?;
        if points.is_empty() {
            return Ok(());
        }
        let (run, point) = (random_run(desk), desk.dice.pick(&points).sequence);
        pin(desk, &lineage, run, Some(point)).await?;
        desk.pause().await;
        if desk.dice.permille(300) {
            return Ok(());
        }
        pin(desk, &lineage, run, None).await
    }

    async fn raise(&self, desk: &Desk, lineage: &Lineage, head: &Head, to: &str) -> Result<(), Error> {
        let generation = lineage.raise_generation(&site(to), "a failover", head).await?;
        let raise =
            Raise { group: lineage.group().clone(), generation, sequence: head.sequence.next(), site: site(to) };
        desk.world.history().raises.push(raise);
        desk.world.totals().raises += 1;
        Ok(())
    }

    /// Gives a group to a site, if it is another's. False if it has no lineage.
    async fn hand(&self, desk: &mut Desk, group: &GroupName, to: usize) -> Result<bool, Error> {
        // A group that was never begun is begun by its writer, for its own site.
        let Some(lineage) = desk.vault().await?.lineage(group).await? else { return Ok(true) };
        let head = lineage.head().await?;
        if head.active_site.as_str() != SITES[to] {
            self.raise(desk, &lineage, &head, SITES[to]).await?;
        }
        Ok(true)
    }
}

/// A run of its own, or one that somebody has begun, and the number of the next entry.
async fn begin_or_go_on(desk: &Desk, vault: &Vault) -> Result<(RunId, u64), Error> {
    let others: Vec<RunId> = desk.world.history().entries.iter().map(|entry| entry.run).collect();
    if !others.is_empty() && desk.dice.permille(400) {
        let run = *desk.dice.pick(&others);
        match vault.run_entries(run).await {
            Ok(entries) => return Ok((run, entries.len() as u64 + 1)),
            Err(Error::RunMissing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let run = random_run(desk);
    let mut number = 1;
    append(desk, vault, run, &mut number, "begin").await?;
    Ok((run, number))
}

fn random_run(desk: &Desk) -> RunId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&desk.dice.number().to_be_bytes());
    RunId::from_bytes(bytes)
}

/// Pins a point for a run, or gives the run's pin up.
///
/// # Errors
/// The vault's.
pub(crate) async fn pin(desk: &Desk, lineage: &Lineage, run: RunId, point: Option<Sequence>) -> Result<(), Error> {
    let id = {
        let mut history = desk.world.history();
        history.pins.push(PinRequest { group: lineage.group().clone(), run, point, is_acknowledged: false });
        history.pins.len() - 1
    };
    desk.process.set_task(Task::Pin(id));
    let outcome = match point {
        Some(point) => lineage.pin(run, point).await,
        None => lineage.unpin(run).await,
    };
    desk.process.set_task(Task::Other);
    if outcome.is_ok() {
        desk.world.history().pins[id].is_acknowledged = true;
        desk.world.totals().pins += u64::from(point.is_some());
    }
    outcome
}

/// Writes the next entry.
pub(crate) async fn append(desk: &Desk, vault: &Vault, run: RunId, number: &mut u64, text: &str) -> Result<(), Error> {
    // Two that write the same entry at the same place would be one and the same to the checkers.
    let bytes = format!("{text}, by {} ({:x})", desk.process.name(), desk.dice.number()).into_bytes();
    let entry = desk.world.history().begin_entry(run, *number, bytes.clone());
    let written = match *number {
        1 => vault.create_run(run, &bytes).await,
        number => vault.append_run(run, number, &bytes).await,
    };
    let mut history = desk.world.history();
    match &written {
        Ok(()) => {
            history.entries[entry].fate = EntryFate::Acknowledged;
            desk.world.totals().entries += 1;
            *number += 1;
        }
        Err(Error::RunRace { .. } | Error::RunGap { .. }) => history.entries[entry].fate = EntryFate::Refused,
        Err(_) => {}
    }
    written
}

#[async_trait]
impl Actor for Controller {
    fn host(&self) -> Host {
        self.host
    }

    async fn run(&self, desk: &mut Desk) {
        while desk.world.phase() == Phase::Chaos && self.take_round() {
            desk.pause().await;
            let outcome = if desk.dice.permille(500) { self.failover(desk).await } else { self.drill(desk).await };
            if let Err(error) = outcome {
                desk.note(&error);
                if desk.dice.permille(300) {
                    desk.close();
                }
            }
        }
        loop {
            let phase = desk.world.phase();
            match phase {
                Phase::Over => return,
                Phase::Handing(to) if self.host == Host::Controller(0) => {
                    for (group, only) in &self.groups {
                        let mut trying = Trying::begin(desk, format!("{group} at its site"));
                        loop {
                            let outcome = self.hand(desk, group, only.unwrap_or(to)).await;
                            if !trying.again(desk, outcome).await {
                                break;
                            }
                        }
                    }
                }
                Phase::Chaos | Phase::Looking | Phase::Handing(_) | Phase::Writing(_) | Phase::Pruning => {}
            }
            desk.world.arrive(&self.host.name(), phase).await;
        }
    }
}
