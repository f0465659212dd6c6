//! One world, from its seed to the verdict.

use std::sync::{Arc, Mutex};

use farshore_core::GroupName;
use farshore_vault::Error;

use crate::{
    actors::{
        Actor, Desk,
        controller::Controller,
        pruner::Pruner,
        recoverer::{Recoverer, observe},
        replicator::{Replicator, own_group},
        supervise,
    },
    checkers::{self, Violation},
    clock::ClockPlan,
    evidence::Evidence,
    faults::{FaultPlan, LATE_EFFECT_MAX},
    history::{Fate, Hash},
    panics,
    process::Process,
    store::{Conditions, Objects},
    template::{Host, SHARED_GROUPS, SITES, Template, group},
    trace::TraceHash,
    world::{Phase, Totals, World},
};

/// The most points of a group that are restored between the faults and the calm.
const POINTS_MAX: usize = 1_000;

/// In how many of a thousand worlds the vault has two addresses.
const PAIRED_PERMILLE: u32 = 300;

/// How a seed is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// Another plan than the one that the seed draws: its name, and how many of a thousand operations are hurt.
    pub plan: Option<(&'static str, u32)>,
    /// Other clocks than those that the seed draws.
    pub clocks: Option<ClockPlan>,
    /// Whether the vault has two addresses, whatever the seed draws.
    pub is_paired: Option<bool>,
}

/// What became of a world.
#[derive(Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// The name of its plan.
    pub plan: &'static str,
    /// The plan was asked for with this many of a thousand operations hurt, and not drawn.
    pub asked_permille: Option<u32>,
    /// The promises that were broken.
    pub violations: Vec<Violation>,
    /// The hash of its trace.
    pub trace: TraceHash,
    /// The hash of everything in its store at the end.
    pub store: Hash,
    /// What happened, in numbers.
    pub totals: Totals,
    /// The last lines of its trace.
    pub last_lines: Vec<String>,
}

impl Outcome {
    /// The line that replays it.
    pub fn replay(&self) -> String {
        let asked = self.asked_permille.map(|permille| format!(" --plan {} --permille {permille}", self.plan));
        format!("cargo xtask sim --seeds 1 --from {}{}", self.seed, asked.unwrap_or_default())
    }

    /// What is to be told of a world that broke a promise.
    pub fn report(&self) -> String {
        let broken: String = self.violations.iter().map(|violation| format!("\n  {violation}")).collect();
        format!("seed {} (plan {}) breaks promises:{broken}\nreplay: {}", self.seed, self.plan, self.replay())
    }
}

/// Runs the world of a seed.
pub fn seed(seed: u64, settings: &Settings) -> Outcome {
    let template = Template::get();
    let dice = crate::dice::Dice::new(seed, "world");
    let drawn = FaultPlan::drawn(&dice);
    let plan = settings.plan.map_or(drawn, |(name, permille)| FaultPlan::named(name, permille));
    let has_wrong_clocks = dice.permille(500);
    let clocks = settings.clocks.unwrap_or(if has_wrong_clocks { ClockPlan::Wrong } else { ClockPlan::Right });
    let with_probe = dice.permille(500);
    let is_paired = settings.is_paired.unwrap_or_else(|| dice.permille(PAIRED_PERMILLE));
    let objects = if is_paired { template.paired_objects(with_probe) } else { template.objects(with_probe) };
    let world = World::new(seed, plan, clocks, Objects::new(objects, Conditions::Honoured));
    let outcome = judge(&world, &template, live(&world, &template));
    Outcome { asked_permille: settings.plan.map(|(_, permille)| permille), ..outcome }
}

/// Runs a world's future to its end and judges it: the future tells the groups whose lineages are looked at.
pub fn judge(world: &World, template: &Arc<Template>, future: impl Future<Output = Vec<GroupName>>) -> Outcome {
    let panics_before = panics::count();
    let found = Mutex::new(Evidence::default());
    let ran = world.time().run(async {
        let groups = future.await;
        let evidence = Evidence::gather(world, template, &groups).await;
        *found.lock().expect("nobody else holds it") = evidence;
    });
    let evidence = found.into_inner().expect("nobody else held it");
    let history = world.history();
    let mut violations = Vec::new();
    let mut broken = |what: String| violations.push(Violation { checker: "world", what });
    if let Err(stuck) = ran {
        broken(stuck.to_string());
    }
    let panicked = panics::count() - panics_before;
    if panicked > 0 {
        broken(format!("{panicked} tasks panicked"));
    }
    history.impossible.iter().cloned().for_each(&mut broken);
    violations.extend(checkers::all(&history, &evidence, template.secrets()));
    debug_assert_eq!(
        world.totals().points as usize,
        history.attempts.iter().filter(|attempt| matches!(attempt.fate, Fate::Acknowledged(..))).count()
    );
    let trace = world.trace();
    Outcome {
        seed: world.seed(),
        plan: world.plan().name,
        asked_permille: None,
        violations,
        trace: trace.hash(),
        store: evidence.store,
        totals: *world.totals(),
        last_lines: trace.last_lines().map(str::to_owned).collect(),
    }
}

/// The life of a drawn world: everybody's rounds while things go wrong, then calm, in which each site writes in turn.
async fn live(world: &World, template: &Arc<Template>) -> Vec<GroupName> {
    let replicators: Vec<_> = (0..3).map(|number| Replicator::new(world, number)).collect();
    let own =
        replicators.iter().enumerate().filter(|(number, replicator)| replicator.groups().contains(&own_group(*number)));
    let own: Vec<_> = own.map(|(number, _)| (own_group(number), Some(Host::Replicator(number).site()))).collect();
    let mut groups: Vec<_> = SHARED_GROUPS.iter().map(|name| (group(name), None)).collect();
    groups.extend(own);
    let names: Vec<GroupName> = groups.iter().map(|(name, _)| name.clone()).collect();

    let mut actors: Vec<Arc<dyn Actor>> = Vec::new();
    actors.extend(replicators.into_iter().map(|actor| actor as Arc<dyn Actor>));
    actors.extend((0..2).map(|number| Controller::new(number, groups.clone()) as Arc<dyn Actor>));
    actors.extend((0..2).map(|number| Pruner::new(number, names.clone()) as Arc<dyn Actor>));
    actors.push(Recoverer::new(names.clone()));
    let count = actors.len();
    let start = |actor| tokio::spawn(supervise(world.clone(), Arc::clone(template), actor, None));
    let supervisors: Vec<_> = actors.into_iter().map(start).collect();

    world.wait_for_arrivals(count).await;
    // What was sent during the chaos and is still under way arrives before the calm.
    world.time().sleep(LATE_EFFECT_MAX).await;
    world.begin_phase(Phase::Looking);
    world.wait_for_arrivals(count).await;
    witness(world, template, &names).await;
    for number in 0..SITES.len() {
        for phase in [Phase::Handing(number), Phase::Writing(number)] {
            world.begin_phase(phase);
            world.wait_for_arrivals(count).await;
        }
    }
    world.begin_phase(Phase::Pruning);
    world.wait_for_arrivals(count).await;
    world.begin_phase(Phase::Over);
    for supervisor in supervisors {
        if let Err(error) = supervisor.await {
            world.history().impossible.push(format!("a supervisor ended: {error}"));
        }
    }
    names
}

/// Restores everything that is listed between the faults and the calm, in which much of it may be given up. The data alone, if the
/// vault has two addresses, must give the same of all that was acknowledged: nobody has mended anything yet.
async fn witness(world: &World, template: &Arc<Template>, groups: &[GroupName]) {
    let process = Process::start("witness", None);
    for problem in Evidence::of_data_alone(world, template, groups).await {
        world.history().impossible.push(format!("after the faults, from the data alone: {problem}"));
    }
    let desk = &mut Desk::new(world, template, Host::Recoverer, &process);
    for group in groups {
        if let Err(error) = witness_group(desk, group).await {
            world.history().impossible.push(format!("after the faults {group} cannot be read: {error}"));
        }
    }
}

async fn witness_group(desk: &mut Desk, group: &GroupName) -> Result<(), Error> {
    let Some(lineage) = desk.vault().await?.lineage(group).await? else { return Ok(()) };
    for point in lineage.points(None, POINTS_MAX).await? {
        observe(desk, &lineage, point.sequence).await?;
    }
    Ok(())
}
