//! T01: the only host of a script is killed at every operation on the store, at each of its three places, and starts again.
//! Whatever happens it comes to the script's end, and every promise holds. The second script prunes.

use std::{
    num::NonZeroUsize,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use farshore_sim::{
    faults::FaultPlan,
    process::{Kill, Place},
    prune_script,
    run::Outcome,
    script,
};

/// The least number of places at which the script is to be killed.
const PLACES_MIN: usize = 600;

/// The most places at which nobody dies: a writer that reads ahead gives up what it does not need any more, and what was
/// given up has no reply.
const GIVEN_UP_PERCENT_MAX: usize = 5;

/// In how many worlds, with other content, all of them are gone through.
fn worlds() -> u64 {
    if std::env::var_os("FARSHORE_LONG").is_some() { 5 } else { 1 }
}

#[test]
fn a_writer_that_is_killed_at_any_operation_comes_to_the_end_and_loses_nothing() {
    for world in 0..worlds() {
        let (outcome, operations) = script::play(None, FaultPlan::calm(), world);
        assert_eq!(outcome.violations, [], "the script itself");
        assert_eq!((outcome.totals.crashes, outcome.totals.points), (0, 14), "nobody dies, and all points are there");
        let kills = kills(operations);
        assert!(kills.len() >= PLACES_MIN, "the script has {operations} operations only");
        survive(world, &kills, |kill| script::play(Some(kill), FaultPlan::calm(), world).0);
    }
}

#[test]
fn a_pruner_that_is_killed_at_any_operation_comes_to_the_end_and_what_stands_is_whole() {
    for world in 0..worlds() {
        let prologue = prune_script::prologue(world);
        let calm = prune_script::play(&prologue, None);
        assert_eq!(calm.outcome.violations, [], "the script itself");
        assert_eq!((calm.outcome.totals.crashes, calm.outcome.totals.prunes), (0, 4), "nobody dies, and all is pruned");
        assert!(calm.collections > 0, "small packs are collected");
        assert!(calm.outcome.totals.deletions > 40, "{} objects are deleted", calm.outcome.totals.deletions);
        let kills = kills(calm.operations);
        survive(world, &kills, |kill| prune_script::play(&prologue, Some(kill)).outcome);
    }
}

/// Every operation at every place.
fn kills(operations: u64) -> Vec<Kill> {
    (0..operations).flat_map(|operation| Place::ALL.map(|place| Kill { operation, place })).collect()
}

/// Plays with each of these kills, and fails with what was broken.
fn survive(world: u64, kills: &[Kill], play: impl Fn(Kill) -> Outcome + Sync) {
    let (next, given_up, failed) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(kill) = kills.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = play(*kill);
            let died = outcome.totals.crashes == 1;
            given_up.fetch_add(usize::from(!died), Ordering::Relaxed);
            let must_die = kill.place == Place::Before;
            if (must_die && !died) || !outcome.violations.is_empty() {
                let lines: Vec<_> = outcome.violations.iter().map(ToString::to_string).collect();
                failed.lock().expect("no panic").push(format!("world {world}, {kill:?}, died: {died}: {lines:?}"));
            }
        }
    };
    let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    thread::scope(|scope| {
        for _ in 0..threads.get() {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().expect("no panic");
    assert!(failed.is_empty(), "{} of {} places:\n{}", failed.len(), kills.len(), failed.join("\n"));
    let given_up = given_up.into_inner();
    assert!(given_up * 100 <= kills.len() * GIVEN_UP_PERCENT_MAX, "{given_up} of {} kill nobody", kills.len());
}
