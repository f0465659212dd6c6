//! Story: a machine with a database is protected, rehearsed, lost and brought back. An outside witness counts.

use std::time::Duration;

use farshore_e2e::{Acknowledgement, BootReport, Stop, World, leftovers, processes_with_uuid};
use serde_json::Value;

const BOOT_MAX: Duration = Duration::from_secs(120);

/// What the console of the only recovered machine said when it came up.
fn boot_report(world: &World) -> BootReport {
    let machines = world.recovered().expect("processes");
    let [machine] = &machines[..] else { panic!("one recovered machine, not {machines:?}") };
    let console = farshore_e2e::Console::follow(machine.console.as_ref().expect("a console")).expect("its console");
    let found = console.wait_for("the boot report", 0, BOOT_MAX, &Stop::default(), BootReport::parse);
    found.expect("it came up").0
}

#[test]
fn what_was_acknowledged_before_the_point_is_there_after_the_failover() {
    let mut world = World::new().expect("a world");
    world.resume_guest("orders").expect("a guest");
    world.protect("orders", &["orders"]).expect("a group");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    world.guest("orders").start_workload("database 100").expect("a database");
    let console = world.guest("orders").console().log().to_owned();
    let console = farshore_e2e::Console::follow(&console).expect("its console");
    let acknowledged = |least: u64| {
        let take = |line: &farshore_e2e::Line| Acknowledgement::parse(line).filter(|found| found.row >= least);
        let found = console.wait_for("a committed row", 0, Duration::from_secs(60), &Stop::default(), take);
        found.expect("the database commits").0.row
    };
    acknowledged(3);
    world.succeed(&["replicate", "--once"]).expect("the first copy");
    let certain = acknowledged(8);
    let reports = world.succeed(&["replicate", "--once"]).expect("a delta");
    let point = &reports[0]["point"];
    assert_eq!(point["machines"][0]["disks"][0]["basis"], "tracked");

    // The drill: while production goes on, isolated, and nothing is left of it.
    let drill = world.succeed(&["drill", "orders"]).expect("a drill");
    assert_eq!((&drill["outcome"], &drill["cleaned_up"]), (&Value::from("succeeded"), &Value::from(true)), "{drill}");
    assert_eq!(world.recovered().expect("processes"), []);
    for folder in [world.site.drill_folder(), world.site.recovered_folder()] {
        let left = files_below(&folder);
        assert!(left.is_empty(), "{left:?}");
    }
    let after_drill = acknowledged(certain + 1);
    assert!(after_drill > certain, "production went on");

    // The disaster.
    let production = world.guest_mut("orders");
    production.kill();
    let refused = world.run(&["failover", "unplanned", "orders", "--yes"]).expect("ran");
    assert_eq!(refused.failure().expect("an error")["code"], "FS5005", "nobody proved that the source is off");
    let attested = ["failover", "unplanned", "orders", "--yes", "--source-is-down", "the test killed it"];
    let report = world.succeed(&attested).expect("a failover");
    assert_eq!(report["outcome"], "succeeded", "{report}");
    assert!(report["seconds_lost_at_most"].as_f64().is_some_and(|seconds| seconds > 0.0), "{report}");
    let boot = boot_report(&world);
    assert!(
        boot.integrity_ok && boot.last_row >= Some(certain),
        "{boot:?}, but row {certain} was acknowledged before the point"
    );

    // The recovered machine outlives the command, and is found by its UUID.
    let id = report["machines"][0]["recovered_id"].as_str().expect("an id").to_owned();
    let uuid = [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-");
    assert_eq!(processes_with_uuid(&uuid).len(), 1, "{uuid}");
    // Who repeats the command gets no second copy.
    let again = world.run(&attested).expect("ran");
    assert_eq!(again.failure().expect("an error")["code"], "FS5010", "{}", again.errors);
    assert_eq!(world.recovered().expect("processes").len(), 1);
    assert_eq!(processes_with_uuid(&uuid).len(), 1, "{uuid}");

    // The source comes back, and may not add to what is now another side's.
    let disks = world.guest("orders").disks().to_vec();
    drop(world.take_guest("orders"));
    let (revived, _) = farshore_e2e::Guest::boot(world.guest_options("orders", disks)).expect("it boots again");
    world.add_guest(revived);
    world.protect("orders", &["orders"]).expect("the same group");
    let fenced = world.run(&["replicate", "--once"]).expect("ran");
    assert_eq!(fenced.failure().expect("an error")["code"], "FS4004");
    let left = leftovers(world.guest("orders")).expect("QEMU answers");
    assert!(left.nothing_attached(), "{left:?}");

    let runs = world.succeed(&["run", "list"]).expect("runs");
    let shown = world.succeed(&["run", "show", report["run"].as_str().expect("a run")]).expect("the run");
    assert!(runs.to_string().contains("drill") && shown.to_string().contains("the test killed it"));
}

fn files_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}
