//! Story: machines go from QEMU to EC2 and from EC2 to QEMU. EC2 and EBS direct are the twin, which checks what it is asked
//! and boots its instances. An outside witness counts.

use std::{fs, path::Path, time::Duration};

use farshore_demo::guest::Agent;
use farshore_e2e::{Acknowledgement, BootReport, Cloud, Console, Line, Stop, World};
use farshore_twin_ebs::{Call, Seen};
use serde_json::Value;

const BOOT_MAX: Duration = Duration::from_secs(120);

fn report_of(console: &Path) -> BootReport {
    let console = Console::follow(console).expect("its console");
    console.wait_for("the boot report", 0, BOOT_MAX, &Stop::default(), BootReport::parse).expect("it came up").0
}

/// Waits until the guest has acknowledged a row, and returns the newest one then.
fn acknowledged(console: &Console, least: u64) -> u64 {
    let take = |line: &Line| Acknowledgement::parse(line).filter(|found| found.row >= least);
    console.wait_for("a committed row", 0, BOOT_MAX, &Stop::default(), take).expect("the database commits").0.row
}

#[test]
fn a_machine_goes_from_qemu_to_ec2_and_on_to_qemu_with_every_row_of_the_point() {
    let cloud = Cloud::start(true).expect("an account");
    let mut world = World::new().expect("a world");
    world.resume_guest("orders").expect("a guest");
    world.protect("orders", &["orders"]).expect("a group");
    let text = cloud.join(&world).expect("a configuration");
    let checked = world.succeed(&["config", "check"]).expect("it is right");
    assert!(!checked["warnings"].to_string().contains("a drill at site"), "{checked}");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    world.guest("orders").start_workload("database 100").expect("a database");
    let console = Console::follow(world.guest("orders").console().log()).expect("its console");
    acknowledged(&console, 3);
    world.succeed(&["replicate", "--once"]).expect("the first copy");
    let certain = acknowledged(&console, 8);
    world.succeed(&["replicate", "--once"]).expect("a delta");

    // The drill boots where drills boot, and nothing is left of it.
    let drill = world.succeed(&["drill", "orders"]).expect("a drill");
    assert_eq!((&drill["outcome"], &drill["cleaned_up"]), (&Value::from("succeeded"), &Value::from(true)), "{drill}");
    assert_eq!(cloud.twin.seen(), Seen::default());

    world.guest_mut("orders").kill();
    let report = world
        .succeed(&["failover", "unplanned", "orders", "--yes", "--source-is-down", "the test killed it"])
        .expect("a failover");
    assert_eq!(report["outcome"], "succeeded", "{report}");
    for key in ["DRILL", "LIVE"] {
        let asked = |call: &Call| call.by == key && call.action == "servicequotas:GetServiceQuota";
        assert!(cloud.twin.calls().iter().any(asked), "{key} asks for quotas");
    }
    let instances = cloud.instances();
    let [instance] = &instances[..] else { panic!("one instance, not {instances:?}") };
    let log = cloud.twin.console_of(instance);
    let boot = report_of(&log);
    assert!(boot.integrity_ok && boot.last_row >= Some(certain), "{boot:?}, and row {certain} was acknowledged before");
    let seen = cloud.twin.seen();
    assert_eq!((seen.images.len(), seen.snapshots.len(), seen.volumes.len()), (1, 1, 1), "{seen:?}");

    // Now it lives in EC2, and is protected there.
    let group = format!(
        "\n[groups.back]\nsite = \"instances\"\nmachines = [\"{instance}\"]\nrecovery-site = \"recovery\"\nrpo = \"5m\"\n"
    );
    fs::write(world.site.configuration_file(), text + &group).expect("a file");
    let agent = Agent::new(&log.with_file_name("agent"), Duration::from_secs(20), &Stop::default());
    agent.succeed("workload database 100").expect("a database");
    let console = Console::follow(&log).expect("its console");
    acknowledged(&console, boot.last_row.unwrap_or(0) + 3);
    let before = cloud.blocks_read();
    let first = world.succeed(&["replicate", "back", "--once"]).expect("the first copy");
    let whole = cloud.blocks_read() - before;
    assert_eq!(first[0]["point"]["machines"][0]["disks"][0]["basis"], "full", "{first}");
    let certain = acknowledged(&console, boot.last_row.unwrap_or(0) + 8);
    let delta = world.succeed(&["replicate", "back", "--once"]).expect("a delta");
    assert_eq!(delta[0]["point"]["machines"][0]["disks"][0]["basis"], "tracked", "{delta}");
    let read = |report: &Value| report[0]["read_bytes"].as_u64().expect("a number");
    assert!(read(&delta) < read(&first), "only blocks that changed were read: {delta}");
    let changed = cloud.blocks_read() - before - whole;
    assert!(changed > 0 && changed < whole, "{changed} blocks were read for a delta, and {whole} at first");
    let snapshots = cloud.twin.seen().snapshots.len();
    assert_eq!(snapshots, 2, "the image's, and the one that the next changes are told from");

    // The disaster: EC2 itself proves that the instance is off.
    let report = world.succeed(&["failover", "unplanned", "back", "--yes"]).expect("a failover");
    assert_eq!(report["outcome"], "succeeded", "{report}");
    assert!(report.to_string().contains("with the state `stopped`"), "{report}");
    let machines = world.recovered().expect("processes");
    let [machine] = &machines[..] else { panic!("one recovered machine, not {machines:?}") };
    let boot = report_of(machine.console.as_ref().expect("a console"));
    assert!(boot.integrity_ok && boot.last_row >= Some(certain), "{boot:?}, and row {certain} was acknowledged before");
    assert_eq!(cloud.denied(), [], "the policies that we ship are enough");
}

/// What was failed over to the newest point turns out to be no good: an older point is reached by writing what differs.
#[test]
fn another_point_is_reached_in_ec2_by_writing_what_differs() {
    let cloud = Cloud::start_for_recoveries(true).expect("an account");
    let mut world = World::new().expect("a world");
    world.resume_guest("orders").expect("a guest");
    world.protect("orders", &["orders"]).expect("a group");
    cloud.join(&world).expect("a configuration");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    world.guest("orders").start_workload("database 100").expect("a database");
    let console = Console::follow(world.guest("orders").console().log()).expect("its console");
    let certain = acknowledged(&console, 3);
    let older = world.succeed(&["replicate", "--once"]).expect("the first copy");
    let point = older[0]["point"]["sequence"].to_string();
    let after = acknowledged(&console, certain + 5);
    world.succeed(&["replicate", "--once"]).expect("a delta");
    world.guest_mut("orders").kill();

    let failover = ["failover", "unplanned", "orders", "--yes", "--source-is-down", "the test killed it"];
    world.succeed(&failover).expect("a failover");
    let whole = cloud.blocks_written();
    let newest = report_of(&cloud.twin.console_of(&cloud.instances()[0]));
    assert!(newest.integrity_ok && newest.last_row >= Some(after), "{newest:?}");

    let again = [&failover[..], &["--point", &point, "--discard-recovered"]].concat();
    let report = world.succeed(&again).expect("a failover");
    assert_eq!((&report["outcome"], report["point"].to_string()), (&Value::from("succeeded"), point), "{report}");
    let written = cloud.blocks_written() - whole;
    assert!(
        written > 0 && written * 2 < whole,
        "{written} blocks were written for another point, and {whole} at first"
    );
    let instances = cloud.instances();
    let [instance] = &instances[..] else { panic!("one instance, not {instances:?}") };
    let boot = report_of(&cloud.twin.console_of(instance));
    assert!(boot.integrity_ok && boot.last_row >= Some(certain) && boot.last_row < newest.last_row, "{boot:?}");
    let seen = cloud.twin.seen();
    assert_eq!((seen.images.len(), seen.snapshots.len(), seen.volumes.len()), (1, 1, 1), "{seen:?}");
    assert_eq!(cloud.denied(), [], "the policies are enough");
}
