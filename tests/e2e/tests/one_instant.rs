//! Story: two guests of one group are captured at one instant.
//!
//! The guests write in turn, relayed from outside, so that at any true instant the rows of the first are the rows of the
//! second, or one more. Disks of different instants break this, which the test shows too: otherwise it would catch nothing.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use farshore_e2e::{PairRelay, World};
use serde_json::Value;

const POINTS: usize = 5;
const PAGE_BYTES: usize = 4096;

/// The last row on a raw disk: the load keeps its rows in pages of `row N` and blanks, which it overwrites in place.
fn last_row(disk: &Path) -> u64 {
    let file = File::open(disk).expect("the restored disk");
    let size_bytes = file.metadata().expect("its size").len();
    let mut page = [0; PAGE_BYTES];
    let rows = (0..size_bytes / PAGE_BYTES as u64).filter_map(|number| {
        file.read_exact_at(&mut page, number * PAGE_BYTES as u64).expect("a page");
        let text = std::str::from_utf8(&page).ok()?.strip_prefix("row ")?;
        text.ends_with("  \n").then(|| text.trim_end().parse::<u64>().ok()).flatten()
    });
    rows.max().expect("the disk has the pages of the load")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a number, not {value}"))
}

fn restore(world: &World, point: u64, machine: &str) -> PathBuf {
    let target = world.folder().join(format!("{machine}-{point}.raw"));
    let (point, file) = (point.to_string(), target.to_string_lossy().into_owned());
    world
        .succeed(&["restore", "pair", "--point", &point, "--machine", machine, "--to", &file, "--json"])
        .expect("a restore");
    target
}

#[test]
fn what_one_guest_did_before_another_is_there_if_the_other_is() {
    let mut world = World::new().expect("a world");
    world.resume_guest("first").expect("a guest");
    world.resume_guest("second").expect("a guest");
    world.protect("pair", &["first", "second"]).expect("a group");
    world.succeed(&["vault", "create", "--yes", "--json"]).expect("a vault");
    let relay = PairRelay::start(world.guest("first"), world.guest("second")).expect("a relay");
    let mut points = Vec::new();
    for _ in 0..POINTS {
        assert!(relay.wait_for_row(relay.rows() + 2, Duration::from_secs(60)), "the guests write");
        let report = world.succeed(&["replicate", "--once", "--json"]).expect("a point");
        let report = report.as_array().map_or(&report, |reports| &reports[0]);
        assert_eq!(report["point"]["instant"], "group", "{report}");
        points.push(number(&report["point"]["sequence"]));
    }
    relay.finish().expect("the relay");
    let rows: Vec<(u64, u64)> = points
        .iter()
        .map(|point| {
            let disks = (restore(&world, *point, "first"), restore(&world, *point, "second"));
            let rows = (last_row(&disks.0), last_row(&disks.1));
            std::fs::remove_file(disks.0).and_then(|()| std::fs::remove_file(disks.1)).expect("removed");
            rows
        })
        .collect();
    for (first, second) in &rows {
        assert!(*first == *second || *first == *second + 1, "one instant: {rows:?}");
    }
    for pair in rows.windows(2) {
        let (earlier, later) = (pair[0], pair[1]);
        assert!(earlier.0 < later.1, "disks of two instants would have been caught: {rows:?}");
    }
}
