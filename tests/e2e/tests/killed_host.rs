//! Story: the host is killed at any moment of a cycle. No committed point is lost, nothing stays attached in QEMU after the
//! next cycle, and the next cycle is a delta.
//!
//! Opening the vault takes longer than a cycle, so a kill that is timed from the start of the process hardly ever hits one.
//! Here the host is killed at a random moment counted from the beginning of a capture, which is seen in the journal of
//! captures in its state folder, and the test counts how many of the kills came while there was a capture.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use farshore_core::{Clock as _, Entropy as _, SeededEntropy, SystemClock};
use farshore_e2e::{ProtectedGroup, Running, Stop, World, leftovers, pause};
use serde_json::Value;

/// How long the watch may take to its next capture: the vault is opened, and under load a cycle takes seconds.
const CAPTURE_WAIT_MAX: Duration = Duration::from_secs(60);

/// How often the journal is looked at.
const LOOK: Duration = Duration::from_millis(1);

fn sequences(world: &World) -> BTreeSet<u64> {
    let points = world.succeed(&["points", "orders", "--limit", "1000"]).expect("points");
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

fn sequence(report: &Value) -> Option<u64> {
    report.get("point")?.get("sequence")?.as_u64()
}

/// The one journal of the world, which has one group; the first cycle made it.
fn journal(world: &World) -> PathBuf {
    let list =
        |folder: PathBuf| std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let vaults = list(world.site.folder().join("state").join("captures"));
    let mut files = vaults.flat_map(list).filter(|path| path.extension().is_some_and(|name| name == "json"));
    files.next().expect("the journal of the group")
}

/// Whether a capture is written down that may still exist. The file is replaced by rename, so it is always whole.
fn is_captured(journal: &Path) -> bool {
    let text = std::fs::read(journal).expect("the journal");
    let content: Value = serde_json::from_slice(&text).expect("JSON");
    content["entries"].as_array().is_some_and(|entries| !entries.is_empty())
}

/// Waits until the journal says so.
fn wait_until_captured(journal: &Path, captured: bool) {
    let begun = SystemClock.monotonic();
    while is_captured(journal) != captured {
        assert!(SystemClock.monotonic() - begun < CAPTURE_WAIT_MAX, "no capture begins or ends (captured: {captured})");
        pause(LOOK);
    }
}

/// Kills the watch or the daemon at a random moment from the beginning of its second capture to a little after its end, which is
/// guessed from the length of the first. Returns the points that the watch told of; a daemon tells events only.
fn kill_in_a_cycle(mut running: Running, is_watch: bool, journal: &Path, entropy: &SeededEntropy) -> BTreeSet<u64> {
    wait_until_captured(journal, true);
    let begun = SystemClock.monotonic();
    wait_until_captured(journal, false);
    let length = SystemClock.monotonic() - begun;
    let none = Stop::default();
    let tell = |running: &mut Running, next| running.wait_for("a point", next, CAPTURE_WAIT_MAX, &none, sequence);
    let mut told = BTreeSet::new();
    let mut next = 0;
    if is_watch {
        let (first, after) = tell(&mut running, next).expect("a point");
        told.insert(first);
        next = after;
    }
    let mut random = [0; 4];
    entropy.fill(&mut random);
    let delay = length.mul_f64(1.25 * f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX));
    wait_until_captured(journal, true);
    pause(delay);
    running.kill();
    // What it wrote before it was killed can still be read, up to the end.
    while is_watch && let Ok((sequence, after)) = tell(&mut running, next) {
        told.insert(sequence);
        next = after;
    }
    told
}

#[test]
fn nothing_is_lost_and_nothing_is_left() {
    let mut world = World::new().expect("a world");
    world.resume_guest("orders").expect("a guest");
    world.guest("orders").start_workload("writer 16 512").expect("a writer");
    // A small objective, so that the next capture comes soon.
    let group = ProtectedGroup { rpo: "1s".to_owned(), ..ProtectedGroup::new("orders", &["orders"]) };
    world.protect_group(group).expect("a group");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    let mut committed = BTreeSet::from_iter(sequence(&cycle(&world)));
    let journal = journal(&world);
    let seed = SystemClock.now().as_unix_milliseconds().unsigned_abs();
    let entropy = SeededEntropy::new(seed);
    let kills: u32 = if farshore_e2e::is_long() { 200 } else { 12 };
    let (mut attached, mut inside) = (0, 0);
    for kill in 0..kills {
        let is_watch = kill % 2 == 0;
        let running = world.start(if is_watch { &["replicate", "--watch"] } else { &["serve"] }).expect("it starts");
        committed.extend(kill_in_a_cycle(running, is_watch, &journal, &entropy));
        let left = leftovers(world.guest("orders")).expect("QEMU answers");
        attached += u32::from(!left.nothing_attached());
        inside += u32::from(!left.nothing_attached() || is_captured(&journal));

        let after = sequences(&world);
        assert!(after.is_superset(&committed), "seed {seed}, kill {kill}: {committed:?} became {after:?}");
        let report = cycle(&world);
        let disk = &report["point"]["machines"][0]["disks"][0];
        assert_eq!(disk["basis"], "tracked", "seed {seed}, kill {kill}: {report}");
        committed.extend(after.into_iter().chain(sequence(&report)));
        let left = leftovers(world.guest("orders")).expect("QEMU answers");
        assert!(left.nothing_attached() && left.bitmaps.len() == 1, "seed {seed}, kill {kill}: {left:?}");
        assert!(!is_captured(&journal), "seed {seed}, kill {kill}: the journal still has a capture");
    }
    eprintln!("{inside} of {kills} kills came inside a capture; after {attached} something was attached in QEMU");
    assert!(inside * 3 >= kills, "seed {seed}: only {inside} of {kills} kills came inside a capture");
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
