//! A pruner: it gives points up and deletes what no point needs, by rules and a grace that the seed draws. At times it
//! executes a plan that is weeks old. After the faults it prunes every group, so that what is final is really gone.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use farshore_core::{GroupName, Sequence};
use farshore_vault::{Error, Grace, Lineage, Retention};

use super::{Actor, Desk, Trying};
use crate::{
    dice::Dice,
    faults::STALL_MAX,
    history::{Prune, Task},
    template::Host,
    world::{Phase, World},
};

/// How many rounds it has while things go wrong.
const ROUNDS: u64 = 8;

/// How many prunes of each group follow each other after the faults: the third deletes what the first condemned.
const ROUNDS_AT_THE_END: usize = 3;

/// See the module.
#[derive(Debug)]
pub struct Pruner {
    host: Host,
    groups: Vec<GroupName>,
    rounds: Mutex<u64>,
}

impl Pruner {
    /// The pruner of this number, in a world with these groups.
    pub fn new(number: usize, groups: Vec<GroupName>) -> Arc<Self> {
        Arc::new(Self { host: Host::Pruner(number), groups, rounds: Mutex::new(ROUNDS) })
    }

    fn take_round(&self) -> bool {
        let mut rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        let left = *rounds > 0;
        *rounds = rounds.saturating_sub(1);
        left
    }

    async fn round(&self, desk: &mut Desk, group: &GroupName) -> Result<bool, Error> {
        let vault = desk.vault().await?;
        let Some(lineage) = vault.lineage(group).await? else { return Ok(true) };
        let (retention, grace) = draw_rules(&desk.world, &desk.dice);
        prune(desk, &lineage, retention, grace, draw_hold(desk)).await.map(|()| true)
    }
}

/// The rules of a prune. In some worlds all keep the newest point only, in some all are generous, in others each is drawn;
/// the same with the grace.
fn draw_rules(world: &World, dice: &Dice) -> (Retention, Grace) {
    let nothing = Retention { all_seconds: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0 };
    let habits = world.dice("habits of pruners");
    let (retention_habit, grace_habit) = (habits.below(4), habits.below(4));
    let pace = world.pace_seconds();
    let some = Retention {
        all_seconds: *dice.pick(&[0, pace, pace * 5, pace * 20]),
        hourly: *dice.pick(&[0, 0, 1, 3]),
        daily: *dice.pick(&[0, 0, 1, 4]),
        weekly: *dice.pick(&[0, 0, 2]),
        ..nothing
    };
    let retention = match retention_habit {
        0 => nothing,
        1 => Retention { all_seconds: pace * 30, daily: 10, ..nothing },
        _ if dice.permille(300) => nothing,
        _ => some,
    };
    let grace = match grace_habit {
        0 | 1 => Grace { seconds: 0, commits: 0 },
        2 => Grace { seconds: *dice.pick(&[0, pace]), commits: *dice.pick(&[0, 1, 4]) },
        _ => Grace { seconds: *dice.pick(&[3_600, 3 * 86_400]), commits: *dice.pick(&[2, 8]) },
    };
    (retention, grace)
}

/// How long a plan is held before it is executed: mostly not at all, at times for weeks.
fn draw_hold(desk: &Desk) -> Duration {
    if !desk.world.has_faults() || !desk.dice.permille(250) {
        return Duration::ZERO;
    }
    let most = *desk.dice.pick(&[Duration::from_secs(desk.world.pace_seconds() * 10), STALL_MAX]);
    Duration::from_millis(desk.dice.below(u64::try_from(most.as_millis()).unwrap_or(0)))
}

/// Plans a prune, holds the plan for so long, and executes it; what it says is remembered.
///
/// # Errors
/// The vault's.
pub async fn prune(
    desk: &Desk,
    lineage: &Lineage,
    retention: Retention,
    grace: Grace,
    hold: Duration,
) -> Result<(), Error> {
    let plan = lineage.plan_prune(&retention, grace).await?;
    if plan.is_empty() {
        return Ok(());
    }
    let prune = Prune {
        group: lineage.group().clone(),
        judged: plan.judged,
        retention,
        grace,
        dropped: plan.dropped.iter().map(|point| point.sequence).collect(),
        revived: plan.revived.iter().map(|point| point.sequence).collect(),
        finals: plan.deleted.objects,
        effects_seen: desk.world.objects().effects.len(),
        told_at: None,
    };
    let numbers = |points: &[Sequence]| points.iter().map(|point| point.get()).collect::<Vec<_>>();
    let (dropped, revived) = (numbers(&prune.dropped), numbers(&prune.revived));
    let told = format!(
        "judged {}, drops {dropped:?}, revives {revived:?}, condemns {}, finals {}, collects {}",
        prune.judged, plan.condemned.objects, plan.deleted.objects, plan.collected.objects
    );
    desk.world.trace().add(desk.world.time().now(), desk.process.name(), "plan", lineage.group().as_str(), &told);
    let id = {
        let mut history = desk.world.history();
        history.prunes.push(prune);
        history.prunes.len() - 1
    };
    desk.world.time().sleep(hold).await;
    desk.process.set_task(Task::Prune(id));
    let outcome = lineage.prune(plan).await;
    desk.process.set_task(Task::Other);
    let report = outcome?;
    if !report.problems.is_empty() {
        let problems = report.problems.join("; ");
        desk.world.history().impossible.push(format!("{} could not move: {problems}", desk.process.name()));
    }
    desk.world.totals().prunes += 1;
    desk.world.history().prunes[id].told_at = Some(desk.world.time().now());
    Ok(())
}

#[async_trait]
impl Actor for Pruner {
    fn host(&self) -> Host {
        self.host
    }

    async fn run(&self, desk: &mut Desk) {
        while desk.world.phase() == Phase::Chaos && self.take_round() {
            desk.pause().await;
            let group = desk.dice.pick(&self.groups).clone();
            if let Err(error) = self.round(desk, &group).await {
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
                Phase::Pruning => {
                    for group in self.groups.iter().flat_map(|group| [group; ROUNDS_AT_THE_END]) {
                        let mut trying = Trying::begin(desk, format!("a prune of {group}"));
                        loop {
                            let outcome = self.round(desk, group).await;
                            if !trying.again(desk, outcome).await {
                                break;
                            }
                        }
                    }
                }
                Phase::Chaos | Phase::Looking | Phase::Handing(_) | Phase::Writing(_) => {}
            }
            desk.world.arrive(&self.host.name(), phase).await;
        }
    }
}
