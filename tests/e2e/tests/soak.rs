//! Story: the daemon runs on and on beside a guest that writes, and grows in nothing: memory, handles, QEMU's bitmaps, files.
//!
//! A short form runs always; `cargo xtask test --long` runs an hour.

use std::{fs, path::Path, time::Duration};

use farshore_core::{Clock as _, SystemClock};
use farshore_e2e::{ProtectedGroup, Running, Stop, World, leftovers, pause};
use serde_json::Value;

/// Cycles of one second: the first are to fill what is filled once, such as the allocator's and the index's room.
const SHORT: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(3_600);
/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What the peak of the second half may have more than that of the first, in bytes: 1 MiB an hour would be a leak, and noise of the
/// allocator is more than that within a minute.
const GROWTH_BYTES_MAX: u64 = 24 << 20;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    resident_bytes: u64,
    handles: usize,
    files: usize,
    bitmaps: usize,
}

impl Seen {
    fn max(self, other: Self) -> Self {
        Self {
            resident_bytes: self.resident_bytes.max(other.resident_bytes),
            handles: self.handles.max(other.handles),
            files: self.files.max(other.files),
            bitmaps: self.bitmaps.max(other.bitmaps),
        }
    }
}

fn resident_bytes(daemon: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.process_id())).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes << 10
}

fn files(folder: &Path) -> usize {
    let entries =
        fs::read_dir(folder).map(|entries| entries.filter_map(Result::ok).collect::<Vec<_>>()).unwrap_or_default();
    entries.iter().map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

fn look(world: &World, daemon: &Running) -> Seen {
    let handles = fs::read_dir(format!("/proc/{}/fd", daemon.process_id())).expect("it lives").count();
    Seen {
        resident_bytes: resident_bytes(daemon),
        handles,
        files: files(&world.site.folder().join("state")) + files(&world.site.run_folder()),
        bitmaps: leftovers(world.guest("orders")).expect("QEMU answers").bitmaps.len(),
    }
}

#[test]
fn nothing_grows() {
    let span = if farshore_e2e::is_long() { LONG } else { SHORT };
    let mut world = World::new().expect("a world");
    world.resume_guest("orders").expect("a guest");
    world.guest("orders").start_workload("writer 16 512").expect("a writer");
    let group = ProtectedGroup { rpo: "1s".to_owned(), ..ProtectedGroup::new("orders", &["orders"]) };
    world.protect_group(group).expect("a group");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    let mut daemon = world.start(&["serve"]).expect("a daemon");
    let opened = |line: &Value| (line["name"] == "vault-opened").then_some(());
    daemon.wait_for("the vault", 0, Duration::from_secs(60), &Stop::default(), opened).expect("it opens");

    let begun = SystemClock.monotonic();
    let (mut first, mut second) = (Seen::default(), Seen::default());
    loop {
        let passed = SystemClock.monotonic() - begun;
        if passed >= span {
            break;
        }
        // A first copy and the first cycles are the beginning, and count as such.
        let half = if passed < span / 2 { &mut first } else { &mut second };
        *half = half.max(look(&world, &daemon));
        pause(LOOK_EVERY);
    }
    let cycles = world.succeed(&["status"]).expect("a status")["groups"][0]["newest"]["point"].as_u64();
    eprintln!("{cycles:?} points in {span:?}: at most {first:?} in the first half, {second:?} in the second");
    assert!(cycles >= Some(span.as_secs() / 6), "cycles ran: {cycles:?}");
    assert!(second.resident_bytes <= first.resident_bytes + GROWTH_BYTES_MAX, "memory: {first:?}, then {second:?}");
    assert!(second.handles <= first.handles + 4, "handles: {first:?}, then {second:?}");
    assert!(second.files <= first.files + 4, "files: {first:?}, then {second:?}");
    assert!(second.bitmaps <= first.bitmaps, "bitmaps: {first:?}, then {second:?}");
    let finished = daemon.interrupt(&Stop::default()).expect("it ends");
    assert_eq!(finished.exit_code(), Some(0), "{finished:?}");
    let left = leftovers(world.guest("orders")).expect("QEMU answers");
    assert!(left.nothing_attached() && left.bitmaps.len() == 1, "{left:?}");
}
