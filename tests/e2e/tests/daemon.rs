//! Story: the daemon keeps a group at its objective, is asked by the command line, takes the configuration as it changes, says so when
//! it cannot keep what it promised, and ends in order.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use farshore_e2e::{COMMAND_MAX, Finished, ProtectedGroup, Running, Stop, World, json, leftovers, pause};
use serde_json::Value;

/// An event comes within seconds; a breach has a minute.
const EVENT_MAX: Duration = Duration::from_secs(60);

/// The first event of this name from this line on, with the line after it.
fn event(daemon: &mut Running, name: &str, from: usize) -> (Value, usize) {
    let take = |line: &Value| (line["name"] == name).then(|| line.clone());
    daemon.wait_for(name, from, EVENT_MAX, &Stop::default(), take).expect("the event")
}

fn socket(world: &World) -> PathBuf {
    world.site.folder().join("state").join("farshore.sock")
}

/// What the daemon answers to a request: its status and its body.
fn ask(socket: &Path, method: &str, path: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).expect("it listens");
    stream.set_read_timeout(Some(EVENT_MAX)).expect("a limit");
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, body.to_owned())
}

fn status(world: &World) -> (Finished, Value) {
    let finished = world.run(&["status"]).expect("it runs");
    let told = json(&finished).expect("a status");
    (finished, told["groups"][0].clone())
}

/// The status once it is as it should be.
fn status_when(world: &World, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..240 {
        let (_, group) = status(world);
        if wanted(&group) {
            return group;
        }
        pause(Duration::from_millis(250));
    }
    panic!("never {what}: {:?}", status(world));
}

fn signal(daemon: &Running, name: &str) {
    let pid = daemon.process_id().to_string();
    let sent = std::process::Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill runs");
    assert!(sent.success());
}

/// The status with which the daemon ends in order after SIGTERM.
fn terminate(mut daemon: Running) -> Option<i32> {
    signal(&daemon, "TERM");
    for _ in 0..480 {
        if let Some(status) = daemon.try_status().expect("the system says") {
            return status.code();
        }
        pause(Duration::from_millis(250));
    }
    panic!("it does not end");
}

fn code(finished: &Finished) -> String {
    finished.failure().map(|failure| failure["code"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
}

fn edit(world: &World, from: &str, to: &str) {
    let file = world.site.configuration_file();
    let text = std::fs::read_to_string(&file).expect("the file");
    assert!(text.contains(from), "{from:?} stands in {text}");
    // The daemon may look at any moment.
    let next = file.with_extension("next");
    std::fs::write(&next, text.replacen(from, to, 1)).expect("written");
    std::fs::rename(&next, &file).expect("renamed");
}

#[test]
fn it_keeps_a_group_at_its_objective_and_is_honest_when_it_cannot() {
    let mut world = World::new().expect("a world");
    world.resume_guest("orders").expect("a guest");
    world.guest("orders").start_workload("writer 16 512").expect("a writer");
    let group = ProtectedGroup { rpo: "8s".to_owned(), ..ProtectedGroup::new("orders", &["orders"]) };
    world.protect_group(group).expect("a group");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");

    // Without a daemon the vault says how things stand.
    let (finished, group) = status(&world);
    assert_eq!((finished.exit_code(), &group["state"]), (Some(3), &"unprotected".into()), "{finished:?}");
    assert_eq!(code(&finished), "FS6036");
    assert_eq!(code(&world.run(&["config", "reload"]).expect("it runs")), "FS6037");

    let mut daemon = world.start(&["serve"]).expect("a daemon");
    let (_, next) = event(&mut daemon, "vault-opened", 0);
    let group = status_when(&world, "ok", |group| group["state"] == "ok");
    assert_eq!((&group["objective_milliseconds"], &group["site"]), (&8_000.into(), &"production".into()), "{group}");
    assert_eq!(ask(&socket(&world), "GET", "/healthz"), (200, "alive\n".to_owned()));
    assert_eq!(ask(&socket(&world), "GET", "/readyz"), (200, "ready\n".to_owned()));

    // A second one stands in its way; a command asks it.
    assert_eq!(code(&world.run(&["serve"]).expect("it runs")), "FS6038");
    assert_eq!(code(&world.run(&["replicate", "--watch"]).expect("it runs")), "FS6038");
    let report = world.succeed(&["replicate", "--once"]).expect("a cycle");
    assert_eq!(report[0]["point"]["machines"][0]["disks"][0]["basis"], "tracked", "{report}");
    let report = world.succeed(&["point", "create", "orders", "--label", "before the upgrade"]).expect("a point");
    let labelled = report[0]["point"]["sequence"].as_u64().expect("a number");
    let points = world.succeed(&["points", "orders"]).expect("points");
    let labels: Vec<(&Value, &Value)> = points[0]["points"]
        .as_array()
        .expect("points")
        .iter()
        .filter(|point| !point["label"].is_null())
        .map(|point| (&point["sequence"], &point["label"]))
        .collect();
    assert_eq!(labels, [(&labelled.into(), &"before the upgrade".into())]);
    let (created, next) = event(&mut daemon, "point-created", next);
    assert_eq!(created["details"]["point"], labelled);

    // The file is taken whole, or not at all.
    edit(&world, "rpo = \"8s\"", "rpo = \"6s\"");
    let (changed, next) = event(&mut daemon, "configuration-changed", next);
    let text = changed["text"].as_str().expect("a text");
    assert!(text.contains("~ groups.orders.rpo = \"6s\" (was \"8s\")"), "{text}");
    status_when(&world, "at its new objective", |group| group["objective_milliseconds"] == 6_000);
    edit(&world, "rpo = \"6s\"", "rpo = \"soon\"");
    let (refused, next) = event(&mut daemon, "configuration-refused", next);
    assert!(refused["text"].as_str().expect("a text").contains("\"soon\" is not a length of time"), "{refused}");
    let (finished, group) = status(&world);
    assert_eq!(group["objective_milliseconds"], 6_000, "it goes on as before");
    assert!(json(&finished).expect("JSON")["configuration"]["refused"].is_string(), "{finished:?}");
    edit(&world, "rpo = \"soon\"", "rpo = \"6s\"");
    edit(&world, "address = \"file:", "address = \"file:/elsewhere");
    let finished = world.run(&["config", "reload"]).expect("it runs");
    assert_eq!(code(&finished), "FS6039", "{finished:?}");
    edit(&world, "address = \"file:/elsewhere", "address = \"file:");
    edit(&world, "rpo = \"6s\"", "rpo = \"7s\"");
    signal(&daemon, "HUP");
    let (_, next) = event(&mut daemon, "configuration-changed", next);
    assert_eq!(world.succeed(&["config", "reload"]).expect("nothing differs")["differences"], Value::Array(vec![]));

    // The machine is lost: that is said, and seen by whoever looks.
    world.guest_mut("orders").kill();
    let (failed, _) = event(&mut daemon, "cycle-failed", next);
    assert_eq!(failed["group"], "orders");
    let (missed, _) = event(&mut daemon, "objective-missed", next);
    let age = missed["details"]["age_milliseconds"].as_u64().expect("an age");
    assert!((7_000..67_000).contains(&age), "told within a minute: {missed}");
    let (finished, group) = status(&world);
    assert_eq!((finished.exit_code(), &group["state"]), (Some(3), &"late".into()));
    assert!(group["failing"]["code"].as_str().is_some_and(|code| code.starts_with("FS3")), "{group}");
    let (_, metrics) = ask(&socket(&world), "GET", "/metrics");
    for line in ["farshore_objective_met{group=\"orders\",site=\"production\"} 0.0", "# EOF"] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    let finished = world.run(&["point", "create", "orders"]).expect("it runs");
    assert!(code(&finished).starts_with("FS3"), "whoever asks hears why: {finished:?}");

    assert_eq!(terminate(daemon), Some(0));
    assert!(!socket(&world).exists());
    let events = world.succeed(&["events", "--limit", "1000"]).expect("events");
    let names: Vec<&str> =
        events.as_array().expect("events").iter().filter_map(|event| event["name"].as_str()).collect();
    assert_eq!((names.first(), names.last()), (Some(&"daemon-started"), Some(&"daemon-stopped")), "{names:?}");
    let missed = world.succeed(&["events", "orders", "--name", "objective-missed"]).expect("events");
    assert_eq!(missed["name"], "objective-missed", "one: {missed}");

    let told = world.run(&["status", "--achieved", "1h"]).expect("it runs");
    let achieved = &json(&told).expect("a status")["achieved"]["orders"];
    assert!(achieved["points"].as_u64() > Some(1) && achieved["age_max_milliseconds"].is_u64(), "{achieved}");

    // What it remembers of its doings is a diary: a damaged one is set aside, and nothing else is lost.
    let before = world.succeed(&["points", "orders"]).expect("points");
    std::fs::write(world.site.folder().join("state").join("farshore.db"), b"no database").expect("written");
    let mut daemon = world.start(&["serve"]).expect("a daemon");
    event(&mut daemon, "diary-set-aside", 0);
    event(&mut daemon, "vault-opened", 0);
    assert_eq!(terminate(daemon), Some(0));
    assert_eq!(world.succeed(&["points", "orders"]).expect("points"), before);
}

#[test]
fn another_process_takes_over_in_the_middle_of_a_cycle_and_copies_only_what_changed() {
    let mut world = World::new().expect("a world");
    world.resume_guest("orders").expect("a guest");
    world.guest("orders").start_workload("writer 16 512").expect("a writer");
    let group = ProtectedGroup { rpo: "1s".to_owned(), ..ProtectedGroup::new("orders", &["orders"]) };
    world.protect_group(group).expect("a group");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    let rounds = if farshore_e2e::is_long() { 20 } else { 3 };
    let mut newest = 0;
    for round in 0..rounds {
        let daemon = world.start(&["serve"]).expect("a daemon");
        let group = status_when(&world, "further", |group| group["newest"]["point"].as_u64() > Some(newest + 1));
        if round > 0 {
            assert_eq!(group["newest"]["bases"], serde_json::json!(["tracked"]), "{group}");
        }
        newest = group["newest"]["point"].as_u64().expect("a number");
        // Every second one is killed, the others are told to end.
        if round % 2 == 0 {
            drop(daemon);
        } else {
            assert_eq!(terminate(daemon), Some(0));
            assert!(leftovers(world.guest("orders")).expect("QEMU answers").nothing_attached());
        }
    }
    let finished = world.farshore().expect("the binary").run(&["replicate", "--once"], COMMAND_MAX).expect("it runs");
    assert!(leftovers(world.guest("orders")).expect("QEMU answers").nothing_attached(), "{finished:?}");
}
