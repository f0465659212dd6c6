//! Turns are given as long as there are places, and nobody is passed over where there are too few.

use std::time::Duration;

use farshore_scale::schedule::{Outcome, Plan, measure};

const PLAN: Plan = Plan {
    groups: 300,
    sites: 7,
    rpo: Duration::from_secs(15),
    length: Duration::from_millis(500),
    concurrent_cycles: 20,
    span: Duration::from_secs(600),
    seed: 1,
};

#[test]
fn objectives_hold_on_enough_places() {
    let outcome = measure(PLAN).expect("it runs");
    assert!(outcome.cycles > 300 * 600 / 15, "{} cycles", outcome.cycles);
    let worst = Outcome::per_mille(&outcome.ages, 990);
    assert!(worst <= PLAN.rpo, "99 of 100 points were at most {worst:?} old");
}

#[test]
fn too_few_places_make_all_late_alike() {
    let outcome = measure(Plan { concurrent_cycles: 5, ..PLAN }).expect("it runs");
    let (half, most) = (Outcome::per_mille(&outcome.ages, 500), Outcome::per_mille(&outcome.ages, 1_000));
    assert!(half > PLAN.rpo && most < half * 2, "half are {half:?} old, and the oldest {most:?}");
}
