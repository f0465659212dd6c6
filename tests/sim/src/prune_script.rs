//! The second part of the script: cycles, and prunes that condemn, collect and delete, with a pin that stands for a while. It
//! begins where a prologue has left the vault, which is played once and whole; then its one host with every power is killed
//! at one operation on the store, at one of its three places, and starts again. Every operation has its turn.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use farshore_core::RunId;
use farshore_vault::{Error, Grace, Lineage, Retention};

use crate::{
    actors::{Actor, Desk, Trying, controller, pruner, replicator, supervise},
    clock::ClockPlan,
    content::Guest,
    faults::FaultPlan,
    history::{AttemptId, History},
    process::Kill,
    run::{Outcome, judge},
    store::{Conditions, Objects},
    template::{Host, SHARED_GROUPS, Template, group},
    time::Time,
    world::{Totals, World},
};

/// Points of the prologue: so many that the small packs of those that stand are worth collecting.
const PROLOGUE_POINTS: usize = 20;

/// The point of the prologue that is pinned.
const PINNED: usize = 3;

#[derive(Debug, Clone, Copy)]
enum Step {
    Point,
    Pin,
    Unpin,
    Prune,
}

use Step::{Pin, Point, Prune, Unpin};

/// The first prune condemns; the second deletes that, and collects small packs; the third deletes what was collected, and
/// condemns what was pinned; the fourth deletes it.
const STEPS: [Step; 8] = [Point, Prune, Point, Prune, Unpin, Prune, Point, Prune];

/// What a prologue leaves behind.
#[derive(Debug)]
pub struct Prologue {
    seed: u64,
    objects: Objects,
    history: History,
    guest: Guest,
    ended: Duration,
    totals: Totals,
}

/// What became of a play.
#[derive(Debug)]
pub struct Played {
    /// The verdict.
    pub outcome: Outcome,
    /// How many operations its last process made.
    pub operations: u64,
    /// How many collections there ever were.
    pub collections: usize,
}

struct Script {
    steps: Vec<Step>,
    next: Mutex<usize>,
    guest: Mutex<Guest>,
    operations: Mutex<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run() -> RunId {
    RunId::from_bytes([0x5d; 16])
}

impl Script {
    fn of(steps: Vec<Step>, guest: Guest) -> Arc<Self> {
        Arc::new(Self { steps, next: Mutex::default(), guest: Mutex::new(guest), operations: Mutex::default() })
    }

    /// The script, from the step at which it was left. It is done when this returns true.
    async fn play(&self, desk: &mut Desk) -> Result<bool, Error> {
        let vault = desk.vault().await?;
        let Some(lineage) = vault.lineage(&group(SHARED_GROUPS[1])).await? else { return Ok(false) };
        let mut base = None;
        loop {
            let next = *lock(&self.next);
            let Some(step) = self.steps.get(next) else { return Ok(true) };
            self.step(desk, &lineage, &mut base, *step, next).await?;
            *lock(&self.next) += 1;
        }
    }

    async fn step(
        &self,
        desk: &Desk,
        lineage: &Lineage,
        base: &mut Option<AttemptId>,
        step: Step,
        number: usize,
    ) -> Result<(), Error> {
        match step {
            Point => {
                lock(&self.guest).renew(number, &desk.dice);
                let head = lineage.head().await?;
                replicator::commit(desk, &self.guest, base, lineage, head.generation, &head.active_site).await
            }
            Pin => {
                let points = lineage.points(None, PROLOGUE_POINTS).await?;
                let point = points.iter().rev().nth(PINNED).map(|point| point.sequence);
                controller::pin(desk, lineage, run(), point).await
            }
            Unpin => controller::pin(desk, lineage, run(), None).await,
            Prune => {
                let newest = Retention { all_seconds: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0 };
                pruner::prune(desk, lineage, newest, Grace { seconds: 0, commits: 0 }, Duration::ZERO).await
            }
        }
    }
}

#[async_trait]
impl Actor for Script {
    fn host(&self) -> Host {
        Host::Keeper
    }

    async fn run(&self, desk: &mut Desk) {
        let mut trying = Trying::begin(desk, "the script".to_owned());
        loop {
            let outcome = self.play(desk).await;
            if !trying.again(desk, outcome).await {
                break;
            }
        }
        *lock(&self.operations) = desk.process.operations();
    }
}

/// Plays the prologue: points, each of which has one chunk of its own at least, and a pin.
///
/// # Panics
/// When it cannot be played: nothing is in its way.
pub fn prologue(seed: u64) -> Prologue {
    let template = Template::get();
    let objects = Objects::new(template.objects(false), Conditions::Honoured);
    let world = World::new(seed, FaultPlan::calm(), ClockPlan::Right, objects);
    let mut steps = vec![Point; PROLOGUE_POINTS];
    steps.push(Pin);
    let script = Script::of(steps, Guest::wide(&world.dice("prologue")));
    let actor = Arc::clone(&script) as Arc<dyn Actor>;
    world.time().run(supervise(world.clone(), template, actor, None)).expect("nobody waits");
    let (objects, history, totals) = (world.objects().clone(), world.history().clone(), *world.totals());
    assert_eq!(history.impossible, Vec::<String>::new(), "the prologue is played whole");
    let guest = lock(&script.guest).clone();
    Prologue { seed, objects, history, guest, ended: world.time().now(), totals }
}

/// Plays the script after its prologue, with its first process killed there, or not at all.
pub fn play(prologue: &Prologue, kill: Option<Kill>) -> Played {
    let template = Template::get();
    let (time, objects) = (Time::from(prologue.ended), prologue.objects.clone());
    // Another seed, so that no randomness of the prologue comes again.
    let world = World::at(time, prologue.seed ^ 1 << 63, FaultPlan::calm(), ClockPlan::Right, objects);
    *world.history() = prologue.history.clone();
    *world.totals() = prologue.totals;
    let script = Script::of(STEPS.to_vec(), prologue.guest.clone());
    let live = async {
        let actor = Arc::clone(&script) as Arc<dyn Actor>;
        supervise(world.clone(), Arc::clone(&template), actor, kill).await;
        vec![group(SHARED_GROUPS[1])]
    };
    let outcome = judge(&world, &template, live);
    let operations = *lock(&script.operations);
    let is_collection = |effect: &&crate::store::Effect| matches!(effect, crate::store::Effect::Created { key, .. } if key.contains("/collections/"));
    let collections = world.objects().effects.iter().filter(is_collection).count();
    Played { outcome, operations, collections }
}
