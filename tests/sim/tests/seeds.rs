//! Worlds of many seeds; worlds with a sleeper (T03); that a seed is a world; and that the clocks of hosts never make anything
//! happen sooner (T04).

use std::num::NonZeroUsize;

use farshore_sim::{
    clock::ClockPlan,
    faults::PLAN_NAMES,
    many,
    run::{self, Settings},
};

fn is_long() -> bool {
    std::env::var_os("FARSHORE_LONG").is_some()
}

fn threads() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Runs these seeds, and fails with the lines that replay those that broke a promise.
fn hold(from: u64, count: u64, settings: &Settings) {
    let (totals, failed) = many::seeds(from, count, threads(), settings, &|_| {});
    let reports: Vec<String> = failed.iter().map(run::Outcome::report).collect();
    assert!(reports.is_empty(), "{}", reports.join("\n"));
    assert_eq!(totals.worlds, count);
    assert!(totals.points > count, "worlds in which next to nothing is committed prove next to nothing: {totals:?}");
}

#[test]
fn drawn_worlds_keep_every_promise() {
    let count = if is_long() { 6_000 } else { 300 };
    hold(0, count, &Settings::default());
}

#[test]
fn every_plan_at_its_worst_keeps_every_promise() {
    let count = if is_long() { 300 } else { 12 };
    for name in PLAN_NAMES {
        let plan = Some((name, 300));
        hold(1_000_000, count, &Settings { plan, ..Settings::default() });
    }
}

/// T03: three writers, two pruners and a recoverer, of whom one stands still for up to thirty days between any two operations.
#[test]
fn what_a_sleeper_slept_through_is_neither_lost_nor_committed_again() {
    let count = if is_long() { 600 } else { 60 };
    let plan = Some(("sleeper", 0));
    hold(4_000_000, count, &Settings { plan, ..Settings::default() });
}

/// What each of these found in the vault is told in `host/decisions/2026-11-26-simulator-pruning.md`.
#[test]
fn worlds_that_broke_a_promise_once_do_not_break_it_again() {
    let one_address = Settings { is_paired: Some(false), ..Settings::default() };
    for seed in [26, 31, 2_064, 2_070] {
        hold(seed, 1, &one_address);
    }
    hold(5_000_142, 1, &Settings { plan: Some(("stalls", 300)), ..one_address });
    for seed in [1_000_048, 1_000_158] {
        hold(seed, 1, &Settings { plan: Some(("stalls", 300)), ..Settings::default() });
    }
    hold(113, 1, &Settings::default());
    hold(802, 1, &Settings::default());
    // This one found nothing in the vault: a checker expected what nobody had been told yet.
    hold(2_662, 1, &Settings::default());
    hold(1_000_137, 1, &Settings { plan: Some(("full", 300)), ..Settings::default() });
    hold(3_000_138, 1, &Settings { clocks: Some(ClockPlan::Wrong), ..one_address });
}

#[test]
fn vaults_with_two_addresses_keep_every_promise() {
    let count = if is_long() { 300 } else { 30 };
    hold(6_000_000, count, &Settings { is_paired: Some(true), ..Settings::default() });
}

#[test]
fn a_seed_is_a_world() {
    let count = if is_long() { 200 } else { 24 };
    let mut traces = std::collections::BTreeSet::new();
    for seed in 2_000_000..2_000_000 + count {
        let (one, other) = (run::seed(seed, &Settings::default()), run::seed(seed, &Settings::default()));
        assert_eq!((one.trace, one.totals), (other.trace, other.totals), "seed {seed} takes another course");
        assert!(one.store == other.store, "seed {seed} leaves another store");
        traces.insert(one.trace.to_string());
    }
    assert_eq!(traces.len() as u64, count, "every seed is another world");
}

#[test]
fn clocks_change_no_verdict() {
    let count = if is_long() { 300 } else { 40 };
    for seed in 3_000_000..3_000_000 + count {
        let with = |clocks| run::seed(seed, &Settings { clocks: Some(clocks), ..Settings::default() });
        let (right, wrong) = (with(ClockPlan::Right), with(ClockPlan::Wrong));
        // The course may be another: a pruner whose clock is late takes points for younger and waits longer. That it never
        // drops or deletes sooner is for the checkers.
        assert_eq!(right.violations, wrong.violations, "seed {seed}");
        assert_eq!(right.violations, [], "{}", right.report());
        assert!(right.store != wrong.store, "seed {seed}: commits tell what their writers' clocks told");
    }
}
