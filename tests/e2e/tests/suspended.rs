//! Story: one machine of a group is lost, and the others are protected as before. Nobody is told that all is well, a failover says how old
//! what it has of the lost one is, and when it is back it is compared and not copied.

use std::time::Duration;

use farshore_e2e::{Guest, ProtectedGroup, Running, Stop, World, json, leftovers, pause};
use serde_json::Value;

const EVENT_MAX: Duration = Duration::from_secs(90);

fn event(daemon: &mut Running, name: &str) -> Value {
    let take = |line: &Value| (line["name"] == name).then(|| line.clone());
    daemon.wait_for(name, 0, EVENT_MAX, &Stop::default(), take).expect("the event").0
}

/// The group's status once it is as it should be.
fn status_when(world: &World, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..360 {
        last = json(&world.run(&["status"]).expect("it runs")).expect("a status")["groups"][0].clone();
        if wanted(&last) {
            return last;
        }
        pause(Duration::from_millis(250));
    }
    panic!("never {what}: {last}");
}

fn protect(world: &mut World) {
    let more = "failing-machine = \"suspend\"\n".to_owned();
    let group = ProtectedGroup { rpo: "4s".to_owned(), more, ..ProtectedGroup::new("shop", &["web", "db"]) };
    world.protect_group(group).expect("a group");
}

#[test]
fn the_others_go_on_and_nobody_is_told_that_all_is_well() {
    let mut world = World::new().expect("a world");
    world.resume_guest("web").expect("a guest");
    world.resume_guest("db").expect("a guest");
    world.guest("web").start_workload("writer 16 512").expect("a writer");
    protect(&mut world);
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    let mut daemon = world.start(&["serve"]).expect("a daemon");
    let point = |group: &Value| group["newest"]["point"].as_u64();
    let whole = status_when(&world, "replicated", |group| point(group) > Some(3) && group["state"] == "ok");
    assert!(whole["newest"].get("behind").is_none() && whole.get("suspended").is_none(), "{whole}");

    let mut killed = world.take_guest("db");
    killed.kill();
    let suspended = event(&mut daemon, "machine-suspended");
    assert_eq!((&suspended["severity"], &suspended["details"]["machine"]), (&"warning".into(), &"db".into()));
    let since = point(&status_when(&world, "without db", |group| group["newest"]["behind"][0]["machine"] == "db"));
    let late =
        status_when(&world, "late", |group| point(group) > since.map(|since| since + 2) && group["state"] == "late");
    assert_eq!(late["failing"], Value::Null, "the cycles go on: {late}");
    assert_eq!(late["suspended"][0]["machine"], "db", "{late}");
    let age = |group: &Value| group["age_milliseconds"].as_u64().expect("an age");
    assert!(age(&late) > 4_000, "it is as old as what it has of db: {late}");
    let missed = event(&mut daemon, "objective-missed");
    assert_eq!(missed["group"], "shop", "{missed}");

    // Who recovers the group now is told what they get.
    let drill = world.succeed(&["drill", "shop"]).expect("a drill");
    assert_eq!(drill["outcome"], "succeeded", "both machines come up: {drill}");
    assert_eq!((&drill["behind"][0]["machine"], drill["machines"].as_array().map(Vec::len)), (&"db".into(), Some(2)));

    let disks = killed.disks().to_vec();
    drop(killed);
    let (revived, _) = Guest::boot(world.guest_options("db", disks)).expect("it boots again");
    world.add_guest(revived);
    protect(&mut world);
    event(&mut daemon, "machine-returned");
    let back =
        status_when(&world, "whole again", |group| group["state"] == "ok" && group["newest"].get("behind").is_none());
    assert!(back.get("suspended").is_none(), "{back}");
    let points = world.succeed(&["points", "shop", "--limit", "10000"]).expect("points");
    let of_db = |point: &Value| {
        let machines = point["machines"].as_array().expect("machines");
        machines.iter().find(|held| held["machine"]["id"] == "db").expect("each point has both").clone()
    };
    let points = points[0]["points"].as_array().expect("points");
    let parts: Vec<Value> = points.iter().map(of_db).collect();
    assert!(parts.iter().filter(|part| part.get("captured_at").is_some()).count() > 2, "{parts:?}");
    let copies = parts.iter().filter(|part| part.get("captured_at").is_none() && part["disks"][0]["basis"] == "full");
    assert_eq!(copies.count(), 1, "it was copied once, and then compared");

    let finished = daemon.interrupt(&Stop::default()).expect("it ends");
    assert_eq!(finished.exit_code(), Some(0), "{finished:?}");
    for machine in ["web", "db"] {
        let left = leftovers(world.guest(machine)).expect("QEMU answers");
        assert!(left.nothing_attached() && left.bitmaps.len() == 1, "{machine}: {left:?}");
    }
}
