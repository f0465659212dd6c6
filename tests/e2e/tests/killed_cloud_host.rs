//! Story: the host is killed again and again while it recovers a machine in EC2, drills it and protects it there. Each time the
//! next command goes on; in the end there is what there should be in the account, and nothing else. EC2 and EBS direct are
//! the twin.
//!
//! A kill comes when so many calls have arrived at the twin; a few more may be under way then. That nothing is left by a death before or after
//! any one request is shown request by request in `plugins/aws/tests/twin.rs`.

use std::{collections::BTreeSet, fs, time::Duration};

use farshore_core::{Clock as _, SystemClock};
use farshore_e2e::{Cloud, World};
use farshore_twin_ebs::Seen;
use serde_json::Value;

/// No command takes so long.
const END_MAX: Duration = Duration::from_secs(120);

fn pause() {
    // A thread of this test has nothing else to do.
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let _ = receiver.recv_timeout(Duration::from_millis(1));
    drop(sender);
}

/// Starts a command and kills it after so many calls of EC2 and EBS. Whether it had not ended before.
fn is_killed_after(calls: usize, arguments: &[&str], world: &World, cloud: &Cloud) -> bool {
    let (before, begun) = (cloud.twin.calls().len(), SystemClock.monotonic());
    let mut running = world.start(arguments).expect("it starts");
    while running.try_status().expect("asked").is_none() {
        assert!(SystemClock.monotonic() - begun < END_MAX, "{arguments:?} does not end");
        if cloud.twin.calls().len() >= before + calls {
            running.kill();
            return true;
        }
        pause();
    }
    false
}

/// Kills a command after 1 call, after some more the next time, and so on, until it ends by itself. How many were killed.
fn kill_ever_later(step: usize, arguments: &[&str], world: &World, cloud: &Cloud) -> usize {
    (0..100).take_while(|kill| is_killed_after(1 + kill * step, arguments, world, cloud)).count()
}

#[test]
fn nothing_is_left_in_the_account_that_should_not_be_there() {
    let cloud = Cloud::start(false).expect("an account");
    let mut world = World::new().expect("a world");
    world.resume_guest("orders").expect("a guest");
    world.protect("orders", &["orders"]).expect("a group");
    let text = cloud.join(&world).expect("a configuration");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    world.succeed(&["replicate", "--once"]).expect("a point");
    world.guest_mut("orders").kill();
    let step = if farshore_e2e::is_long() { 3 } else { 16 };

    let kills = kill_ever_later(step, &["drill", "orders"], &world, &cloud);
    assert!(kills > 3, "{kills} drills were killed");
    world.succeed(&["drill", "orders"]).expect("a drill");
    assert_eq!(cloud.twin.seen(), Seen::default(), "after {kills} drills that were killed");

    let failover = ["failover", "unplanned", "orders", "--yes", "--source-is-down", "the test killed it"];
    let kills = kill_ever_later(step, &failover, &world, &cloud);
    assert!(kills > 1, "{kills} failovers were killed");
    let runs = world.succeed(&["run", "list"]).expect("runs");
    assert_eq!(
        (&runs[0]["head"]["kind"], &runs[0]["status"]),
        (&Value::from("unplanned"), &Value::from("succeeded")),
        "{runs}"
    );
    let seen = cloud.twin.seen();
    let counts = (seen.instances.len(), seen.images.len(), seen.snapshots.len(), seen.volumes.len());
    assert_eq!(counts, (1, 1, 1, 1), "after {kills} failovers that were killed: {seen:?}, {runs}");

    let instance = &cloud.instances()[0];
    let group = format!(
        "\n[groups.back]\nsite = \"instances\"\nmachines = [\"{instance}\"]\nrecovery-site = \"recovery\"\nrpo = \"5m\"\n"
    );
    fs::write(world.site.configuration_file(), text + &group).expect("a file");
    let cycle = ["replicate", "back", "--once"];
    let mut committed = BTreeSet::new();
    let kills = kill_ever_later(step, &cycle, &world, &cloud);
    for number in 0..5 {
        // One that is killed at its beginning, and one that is not.
        is_killed_after(2 + number * 2, &cycle, &world, &cloud);
        let report = world.succeed(&cycle).expect("a cycle");
        let disk = &report[0]["point"]["machines"][0]["disks"][0];
        assert_eq!(disk["basis"], "tracked", "{report}");
        committed.extend(report[0]["point"]["sequence"].as_u64());
        assert_eq!(
            cloud.twin.seen().snapshots.len(),
            2,
            "the image's, and the one that the next changes are told from"
        );
    }
    assert!(kills > 1, "{kills} cycles were killed");
    let points = world.succeed(&["points", "back", "--limit", "1000"]).expect("points").to_string();
    assert!(committed.iter().all(|sequence| points.contains(&format!("\"sequence\":{sequence}"))), "{points}");
    // The newest point is the volume, byte for byte.
    let target = world.folder().join("back.raw");
    let file = target.to_string_lossy().into_owned();
    world.succeed(&["restore", "back", "--machine", instance, "--to", &file]).expect("a restore");
    let volume = cloud.twin.console_of(instance).with_file_name("-dev-sda1.raw");
    let (restored, volume) = (fs::read(target).expect("it is restored"), fs::read(volume).expect("a volume"));
    assert!(restored == volume, "{} and {} bytes", restored.len(), volume.len());
    assert_eq!(cloud.denied(), []);
}
