//! Story: the host is killed at any moment of a cycle. No committed point is lost, nothing stays attached in QEMU after the
//! next cycle, and the next cycle is a delta.

use std::{collections::BTreeSet, time::Duration};

use farshore_core::{Clock as _, Entropy as _, SeededEntropy, SystemClock};
use farshore_e2e::{Stop, World, leftovers};
use serde_json::Value;

/// A cycle of the guest takes less than this; the kill comes at a random moment within it.
const CYCLE_MILLISECONDS_MAX: u16 = 600;

fn sequences(world: &World) -> BTreeSet<u64> {
    let points = world.succeed(&["points", "orders"]).expect("points");
    let mut found = BTreeSet::new();
    collect(&points, &mut found);
    found
}

/// Every `sequence` in a document, wherever it stands.
fn collect(value: &Value, found: &mut BTreeSet<u64>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("sequence").and_then(Value::as_u64));
            fields.values().for_each(|value| collect(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        _ => {}
    }
}

fn cycle(world: &World) -> Value {
    let reports = world.succeed(&["replicate", "--once"]).expect("a cycle");
    reports[0].clone()
}

fn pause(milliseconds: u64) {
    // A thread of this test has nothing else to do.
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let _ = receiver.recv_timeout(Duration::from_millis(milliseconds));
    drop(sender);
}

#[test]
fn nothing_is_lost_and_nothing_is_left() {
    let mut world = World::new().expect("a world");
    world.resume_guest("orders").expect("a guest");
    world.guest("orders").start_workload("writer 16 512").expect("a writer");
    world.protect("orders", &["orders"]).expect("a group");
    world.succeed(&["vault", "create"]).expect("a vault");
    cycle(&world);
    let seed = SystemClock.now().as_unix_milliseconds().unsigned_abs();
    let entropy = SeededEntropy::new(seed);
    for kill in 0..if farshore_e2e::is_long() { 150 } else { 12 } {
        let before = sequences(&world);
        let mut running = world.start(&["replicate", "--watch"]).expect("a watch");
        // The first cycle begins when the vault is open; a committed point shows that.
        running
            .wait_for("a point", 0, Duration::from_secs(60), &Stop::default(), |line| line.get("point").cloned())
            .expect("a point");
        let committed = sequences(&world);
        assert!(committed.is_superset(&before), "seed {seed}, kill {kill}");
        drop(running);

        let mut running = world.start(&["replicate", "--once"]).expect("a cycle");
        let mut random = [0; 2];
        entropy.fill(&mut random);
        pause(400 + u64::from(u16::from_le_bytes(random) % CYCLE_MILLISECONDS_MAX));
        running.kill();

        let after = sequences(&world);
        assert!(after.is_superset(&committed), "seed {seed}, kill {kill}: {committed:?} became {after:?}");
        let report = cycle(&world);
        let disk = &report["point"]["machines"][0]["disks"][0];
        assert_eq!(disk["basis"], "tracked", "seed {seed}, kill {kill}: {report}");
        let left = leftovers(world.guest("orders")).expect("QEMU answers");
        assert!(left.nothing_attached() && left.bitmaps.len() == 1, "seed {seed}, kill {kill}: {left:?}");
    }
    world.guest("orders").stop_workload("writer").expect("stopped");
    let mut control = world.guest("orders").control().expect("QEMU answers");
    control.execute("stop", serde_json::json!({})).expect("held");
    drop(control);
    let newest = cycle(&world)["point"]["sequence"].to_string();
    let target = world.folder().join("newest.raw");
    let file = target.to_string_lossy().into_owned();
    world.succeed(&["restore", "orders", "--point", &newest, "--machine", "orders", "--to", &file]).expect("a restore");
    world.guest_mut("orders").kill();
    assert!(world.identical("orders", 0, &target).expect("compared"), "seed {seed}: the newest point is the disk");
}
