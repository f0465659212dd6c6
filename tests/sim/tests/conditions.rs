//! T05: a store that does not honour create-if-absent is refused before anything is written to it, in every trial: whether it
//! overwrites openly, in secret, or only when two creates meet; whoever comes first, with whatever it wants to write.

use farshore_core::{HostName, Passphrase, RunId, Timestamp};
use farshore_sim::{
    clock::ClockPlan,
    dice::Dice,
    faults::FaultPlan,
    process::Process,
    store::{Conditions, Objects},
    template::{Host, PASSPHRASE, SHARED_GROUPS, SITES, Template, group, site},
    world::World,
};
use farshore_vault::{CreateOptions, Error, KdfParameters, Power, Result, Vault};

/// How often a trial is tried again because the store failed before it could be judged.
const TRIES_MAX: usize = 100;

fn trials() -> u64 {
    if std::env::var_os("FARSHORE_LONG").is_some() { 1_000 } else { 200 }
}

/// What somebody wants to write first.
async fn write(vault: &Vault, host: Host, dice: &Dice) -> Result<()> {
    let shared = || async { Ok::<_, Error>(vault.lineage(&group(SHARED_GROUPS[0])).await?.expect("it is there")) };
    match (host, dice.below(2)) {
        (Host::Replicator(_), 0) => {
            let head = shared().await?.head().await?;
            shared().await?.begin_point(head.generation, &head.active_site).await.map(drop)
        }
        (Host::Replicator(_), _) => vault.create_lineage(&group("new"), &site(SITES[0])).await.map(drop),
        (_, 0) => {
            let head = shared().await?.head().await?;
            shared().await?.raise_generation(&site(SITES[1]), "a failover", &head).await.map(drop)
        }
        (_, _) => vault.create_run(RunId::from_bytes([1; 16]), b"begin").await,
    }
}

/// The error with which a store is refused, and what had changed there by then.
async fn refused(world: &World, template: &Template, seed: u64) -> Option<Error> {
    let dice = Dice::new(seed, "conditions");
    let host = if dice.permille(500) { Host::Replicator(0) } else { Host::Controller(0) };
    for number in 0..TRIES_MAX {
        let process = Process::start(format!("{}.{number}", host.name()), None);
        let context = world.context(&host.name(), &process);
        let outcome = match template.open(world, host, &process, context).await {
            Ok(vault) => write(&vault, host, &dice).await,
            Err(error) => Err(error),
        };
        match outcome {
            Err(Error::Store { .. }) => {}
            Err(error) => return Some(error),
            Ok(()) => return None,
        }
    }
    panic!("seed {seed}: the store never gave an answer");
}

#[test]
fn a_store_that_ignores_conditions_is_refused_before_anything_is_written() {
    let template = Template::get();
    for seed in 0..trials() {
        let dice = Dice::new(seed, "store");
        // A race can only be seen where the probe is not there yet.
        let has_probe = dice.permille(500);
        let conditions = match (has_probe, dice.below(3)) {
            (_, 0) => Conditions::Ignored,
            (_, 1) => Conditions::IgnoredInSecret,
            (true, _) => Conditions::Ignored,
            (false, _) => Conditions::IgnoredInRaces,
        };
        // A race is run once: if the first try fails half-way, the probe is there, and a second try can see no race.
        let is_race = conditions == Conditions::IgnoredInRaces;
        let plan = if is_race || dice.permille(500) { FaultPlan::calm() } else { FaultPlan::named("flaky", 100) };
        let world = World::new(seed, plan, ClockPlan::Wrong, Objects::new(template.objects(has_probe), conditions));
        let error = world.time().run(refused(&world, &template, seed)).expect("nobody waits");
        assert!(
            matches!(error, Some(Error::ConditionsIgnored { .. })),
            "seed {seed}: {conditions:?}, with a probe: {has_probe}: {error:?}"
        );
        let (now, before) = (world.objects(), template.objects(true));
        let changed =
            now.all().iter().find(|(key, object)| !key.ends_with("/probe") && before.get(*key) != Some(&object.bytes));
        assert_eq!(changed.map(|(key, _)| key), None, "seed {seed}: nothing but the probe may have been written");
    }
}

#[test]
fn no_vault_is_made_in_a_store_that_ignores_conditions() {
    for (seed, conditions) in
        [Conditions::Ignored, Conditions::IgnoredInSecret, Conditions::IgnoredInRaces].into_iter().enumerate()
    {
        let world =
            World::new(seed as u64, FaultPlan::calm(), ClockPlan::Right, Objects::new(Default::default(), conditions));
        let made = world.time().run(async {
            let process = Process::start("maker", None);
            let context = world.context("maker", &process);
            let options = CreateOptions { kdf: KdfParameters::FLOOR };
            let draft = Vault::draft(world.store(&process), &Passphrase::new(PASSPHRASE), options, context).await?;
            draft.create().await.map(drop)
        });
        let error = made.expect("nobody waits").expect_err("it is refused");
        assert!(matches!(error, Error::ConditionsIgnored { .. }), "{conditions:?}: {error}");
        assert!(world.objects().all().keys().all(|key| key.ends_with("/probe")), "{conditions:?}");
    }
}

#[test]
fn the_same_writes_succeed_where_conditions_are_honoured() {
    let template = Template::get();
    for seed in 0..20 {
        let objects = Objects::new(template.objects(seed % 2 == 0), Conditions::Honoured);
        let world = World::new(seed, FaultPlan::calm(), ClockPlan::Right, objects);
        let error = world.time().run(refused(&world, &template, seed)).expect("nobody waits");
        assert!(error.is_none(), "seed {seed}: {error:?}");
    }
}

#[test]
fn a_join_file_is_not_accepted_at_a_store_that_ignores_conditions() {
    let world =
        World::new(1, FaultPlan::calm(), ClockPlan::Right, Objects::new(Default::default(), Conditions::Honoured));
    let refused = world.time().run(async {
        let process = Process::start("maker", None);
        let context = world.context("maker", &process);
        let options = CreateOptions { kdf: KdfParameters::FLOOR };
        let store = world.store(&process);
        let draft = Vault::draft(store, &Passphrase::new(PASSPHRASE), options, context.clone()).await?;
        let vault = draft.create().await?;
        let name = HostName::new("late").expect("a good name");
        let expires = Timestamp::from_unix_milliseconds(9_000_000_000_000);
        let join = vault.invite(&name, &[Power::Replicator], expires).await?;
        world.objects().conditions = Conditions::Ignored;
        let credential = farshore_vault::HostCredential::new(&join, &*context.entropy);
        let other = Process::start("late", None);
        credential.enrol(&world.store(&other), &join, &world.context("late", &other)).await
    });
    let error = refused.expect("nobody waits").expect_err("it is refused");
    assert!(matches!(error, Error::ConditionsIgnored { .. }), "{error}");
}
