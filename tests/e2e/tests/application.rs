//! Story: a group whose consistency is `application`. The guest's own agent brings its file systems to rest for the instant
//! of a capture, while the guest writes: what is restored is clean without a repair, and the guest goes on.
//!
//! A crash-consistent point of the same guest is restored too. Its file system still needs its journal, which shows that
//! the check can tell the two apart.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use farshore_e2e::{Line, ProtectedGroup, Stop, World, leftovers};
use serde_json::Value;

/// What `sfdisk` calls the type of a Linux partition.
const LINUX_PARTITION: &str = "83";
const SECTOR_BYTES: u64 = 512;

/// How long the guest may take to say that it has written again; it says so every second.
const WRITTEN_MAX: Duration = Duration::from_secs(60);

fn replicate(world: &World, consistency: &str) -> Value {
    let reports = world.succeed(&["replicate", "--once"]).expect("a cycle");
    let point = reports[0]["point"].clone();
    assert_eq!(point["consistency"], consistency, "{reports}");
    point
}

fn restore(world: &World, point: &Value) -> PathBuf {
    let sequence = point["sequence"].to_string();
    let target = world.folder().join(format!("{sequence}.raw"));
    let file = target.to_string_lossy().into_owned();
    world
        .succeed(&["restore", "orders", "--point", &sequence, "--machine", "orders", "--to", &file])
        .expect("a restore");
    target
}

/// Where the guest's root file system begins on its disk, in bytes.
fn root_offset(disk: &Path) -> u64 {
    let output = Command::new("sfdisk").arg("--json").arg(disk).output().expect("sfdisk is installed");
    let table: Value = serde_json::from_slice(&output.stdout).expect("sfdisk writes JSON");
    let partitions = table["partitiontable"]["partitions"].as_array().expect("partitions");
    let root = partitions.iter().find(|partition| partition["type"] == LINUX_PARTITION).expect("a Linux partition");
    root["start"].as_u64().expect("a sector") * SECTOR_BYTES
}

/// What the file system's own checker says of it, without repairing anything: whether it is sound, and its words.
fn check(disk: &Path) -> (bool, String) {
    let place = format!("{}?offset={}", disk.display(), root_offset(disk));
    let output = Command::new("e2fsck").args(["-f", "-n", &place]).output().expect("e2fsck is installed");
    let words = [output.stdout, output.stderr].map(|words| String::from_utf8_lossy(&words).into_owned()).concat();
    (output.status.code() == Some(0), words)
}

/// Waits until the guest says that it has written since now.
fn wait_for_writes(world: &World) {
    let console = world.guest("orders").console();
    let none = Stop::default();
    console.catch_up(&none).expect("the console");
    let from = console.line_count();
    let wrote = |line: &Line| line.text.starts_with("WROTE ").then_some(());
    // The first line may have been on its way already.
    let (_, next) = console.wait_for("the writer", from, WRITTEN_MAX, &none, wrote).expect("the guest writes");
    console.wait_for("the writer again", next, WRITTEN_MAX, &none, wrote).expect("the guest goes on writing");
}

#[test]
fn an_application_consistent_point_is_clean_and_the_guest_goes_on() {
    let mut world = World::new().expect("a world");
    world.resume_guest("orders").expect("a guest");
    world.guest("orders").start_workload("writer 16 512").expect("a writer");
    wait_for_writes(&world);
    world.protect("orders", &["orders"]).expect("a group");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    let crash = replicate(&world, "crash");

    let group = ProtectedGroup { consistency: "application".to_owned(), ..ProtectedGroup::new("orders", &["orders"]) };
    world.protect_group(group).expect("a group");
    let points: Vec<Value> = (0..2)
        .map(|_| {
            let point = replicate(&world, "application");
            // The agent runs no program while file systems are frozen, so this answer says that they are not.
            let agent = world.guest("orders").agent();
            agent.succeed("echo thawed > /data/thawed && sync").expect("the guest's file system takes writes");
            wait_for_writes(&world);
            let left = leftovers(world.guest("orders")).expect("QEMU answers");
            assert!(left.nothing_attached(), "{left:?}");
            point
        })
        .collect();

    let (_, words) = check(&restore(&world, &crash));
    assert!(words.contains("journal recovery"), "a file system that was not at rest needs its journal: {words}");
    for point in &points {
        let (sound, words) = check(&restore(&world, point));
        assert!(sound && !words.contains("journal recovery"), "point {}: {words}", point["sequence"]);
    }
}
