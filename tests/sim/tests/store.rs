//! The simulated store itself: what its faults do, and that deletes work where writes do not.

use std::time::Duration;

use farshore_sim::{
    clock::{ClockPlan, WORLD_BEGINS_MILLISECONDS},
    faults::{FaultPlan, PutFault},
    process::{Kill, Place, Process},
    store::{Conditions, Objects, SimStore},
    world::World,
};
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, Result, path::Path};

fn world(put: PutFault, permille: u32) -> World {
    let plan = FaultPlan { put_permille: permille, put: vec![put], ..FaultPlan::calm() };
    World::new(1, plan, ClockPlan::Right, Objects::new(Default::default(), Conditions::Honoured))
}

async fn create(store: &SimStore, key: &str) -> Result<()> {
    store.put_opts(&Path::from(key), "content".into(), PutMode::Create.into()).await.map(drop)
}

#[test]
fn a_fault_of_a_put_has_its_effect_or_none_and_tells_what_it_should() {
    for (fault, is_there, told) in [
        (PutFault::Refused, false, "failed"),
        (PutFault::Reset, true, "failed"),
        (PutFault::OwnConflict, true, "exists"),
        (PutFault::FalseConflict, false, "exists"),
        (PutFault::OwnPrecondition, true, "precondition"),
        (PutFault::Late, false, "failed"),
    ] {
        let world = world(fault, 1000);
        let process = Process::start("p", None);
        let store = SimStore::new(&world, &process);
        let error = world.time().run(create(&store, "k")).expect("nobody waits").expect_err("a fault");
        let word = match error {
            Error::AlreadyExists { .. } => "exists",
            Error::Precondition { .. } => "precondition",
            _ => "failed",
        };
        assert_eq!((word, world.objects().get("k").is_some()), (told, is_there), "{fault:?}");
    }
}

#[test]
fn what_was_sent_late_arrives() {
    let world = world(PutFault::Late, 1000);
    let process = Process::start("p", None);
    let store = SimStore::new(&world, &process);
    let there = world.time().run(async {
        create(&store, "k").await.expect_err("the client gave up");
        world.time().sleep(farshore_sim::faults::LATE_EFFECT_MAX).await;
        world.objects().get("k").is_some()
    });
    assert_eq!(there, Ok(true));
}

#[test]
fn a_full_disk_refuses_writes_and_lets_deletes_through() {
    let plan = FaultPlan { is_full_for_a_while: true, ..FaultPlan::calm() };
    let world = World::new(1, plan, ClockPlan::Right, Objects::new(Default::default(), Conditions::Honoured));
    let process = Process::start("p", None);
    let store = SimStore::new(&world, &process);
    let ran = world.time().run(async {
        let mut number = 0;
        // The disk is full within the first hundred puts.
        while create(&store, &format!("k{number}")).await.is_ok() {
            number += 1;
            assert!(number < 100, "the disk is never full");
        }
        let before = world.objects().all().len();
        store.delete(&Path::from("k0")).await.expect("deletes work");
        assert_eq!(world.objects().all().len(), before.saturating_sub(1));
        create(&store, "more").await.expect_err("it is still full");
        for _ in 0..100 {
            let _ = create(&store, "again").await;
        }
        world.objects().get("again").is_some()
    });
    assert_eq!(ran, Ok(true), "it is full for a while only");
}

#[test]
fn objects_are_dated_by_the_stores_own_clock() {
    let world = world(PutFault::Refused, 0);
    let process = Process::start("p", None);
    let store = SimStore::new(&world, &process);
    let dated = world.time().run(async {
        world.time().sleep(Duration::from_secs(3600)).await;
        create(&store, "k").await.expect("created");
        store.head(&Path::from("k")).await.expect("there").last_modified.timestamp_millis()
    });
    let passed = dated.expect("nobody waits") - WORLD_BEGINS_MILLISECONDS;
    assert!((3_600_000..3_610_000).contains(&passed), "{passed} ms");
}

#[test]
fn a_process_dies_before_or_after_the_effect_and_its_tasks_wait_for_ever() {
    for (place, is_there, goes_on) in
        [(Place::Before, false, false), (Place::AfterEffect, true, false), (Place::AfterReply, true, true)]
    {
        let world = world(PutFault::Refused, 0);
        let process = Process::start("p", Some(Kill { operation: 0, place }));
        let store = SimStore::new(&world, &process);
        let ran = world.time().run(create(&store, "k"));
        assert_eq!(ran.is_ok(), goes_on, "{place:?}");
        assert!(process.is_dead(), "{place:?}");
        assert_eq!(world.objects().get("k").is_some(), is_there, "{place:?}");
    }
}
