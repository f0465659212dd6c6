//! Story: the link to the vault is cut, and later swallows every packet. That is told, the guest goes on, points wait at the host, and when
//! the link is back they come into the vault, in their order, with no disk copied or compared.
//!
//! The daemon and the S3 server are in network namespaces of their own, with a pair of virtual cards between them: nothing listens where
//! another program of this machine could reach it. Only root can make these, so that others are told that it was not run.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command, time::Duration};

use farshore_e2e::{Farshore, ProtectedGroup, Running, S3Server, Stop, World, leftovers, pause};
use serde_json::{Value, json};

/// The link is away for so long.
const SHORT: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(600);
/// A store that does not answer is given up after minutes, and tried again.
const BACK_MAX: Duration = Duration::from_secs(420);

const HERE: &str = "10.213.77.1";
const THERE: &str = "10.213.77.2";

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().expect("id is there");
    output.stdout == b"0\n"
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Two namespaces with a link between them, which go with this value.
struct Link {
    here: String,
    there: String,
}

impl Link {
    fn new() -> Self {
        let id = std::process::id();
        let link = Self { here: format!("fs-here-{id}"), there: format!("fs-there-{id}") };
        let Self { here, there } = &link;
        ip(&format!("netns add {here}"));
        ip(&format!("netns add {there}"));
        ip(&format!("-n {here} link add wan type veth peer name wan netns {there}"));
        for (namespace, address) in [(here, HERE), (there, THERE)] {
            ip(&format!("-n {namespace} address add {address}/24 dev wan"));
            ip(&format!("-n {namespace} link set lo up"));
            ip(&format!("-n {namespace} link set wan up"));
        }
        link
    }

    fn cut(&self) {
        ip(&format!("-n {} link set wan down", self.there));
    }

    fn join(&self) {
        ip(&format!("-n {} link set wan up", self.there));
    }

    /// Packets leave, and none arrives: to whom they go does not exist.
    fn swallow(&self) {
        ip(&format!("-n {} neigh replace {THERE} lladdr 02:00:00:00:00:99 dev wan nud permanent", self.here));
    }

    fn release(&self) {
        ip(&format!("-n {} neigh del {THERE} dev wan", self.here));
    }

    /// A program that runs another in the namespace of the daemon.
    fn wrap(&self, world: &World, binary: &std::path::Path) -> PathBuf {
        let script = world.folder().join("farshore-here");
        let text = format!("#!/bin/sh\nexec ip netns exec {} {} \"$@\"\n", self.here, binary.display());
        fs::write(&script, text).expect("written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).expect("executable");
        script
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for namespace in [&self.here, &self.there] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

fn status(farshore: &Farshore) -> Value {
    farshore.run(&["status"], Duration::from_secs(60)).expect("it runs").json().expect("a status")["groups"][0].clone()
}

/// The status once it is as it should be.
fn status_when(farshore: &Farshore, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..limit.as_secs() * 2 {
        let group = status(farshore);
        if wanted(&group) {
            return group;
        }
        pause(Duration::from_millis(500));
    }
    panic!("never {what}: {}", status(farshore));
}

fn event(daemon: &mut Running, name: &str, from: usize) -> usize {
    let is_it = |line: &Value| (line["name"] == name).then_some(());
    daemon.wait_for(name, from, BACK_MAX, &Stop::default(), is_it).expect("the event").1
}

#[test]
fn a_link_that_is_away_costs_nothing_but_time() {
    let away = if farshore_e2e::is_long() { LONG } else { SHORT };
    if !is_root() {
        eprintln!("NOT RUN: only root can make network namespaces");
        return;
    }
    let link = Link::new();
    let server = S3Server::moto_in(&link.there, THERE);
    server.call("create_bucket", &json!({ "Bucket": "recovery" })).expect("a bucket");
    let mut world = World::new().expect("a world");
    world.resume_guest("orders").expect("a guest");
    world.guest("orders").start_workload("writer 16 512").expect("a writer");
    let group = ProtectedGroup { rpo: "8s".to_owned(), ..ProtectedGroup::new("orders", &["orders"]) };
    world.protect_group(group).expect("a group");
    server.keep(&world, "s3://recovery/farshore");
    let mut farshore = world.farshore().expect("the binary");
    farshore.binary = link.wrap(&world, &farshore.binary);
    farshore.run(&["vault", "create", "--yes"], Duration::from_secs(120)).expect("ran").succeeded().expect("a vault");
    let mut daemon = farshore.start(&["serve"]).expect("a daemon");
    status_when(&farshore, "ok", BACK_MAX, |group| group["state"] == "ok");

    let mut next = daemon.line_count();
    for (away_how, back_how) in [(Link::cut as fn(&Link), Link::join as fn(&Link)), (Link::swallow, Link::release)] {
        let before = status(&farshore)["newest"]["point"].as_u64().expect("a point");
        away_how(&link);
        next = event(&mut daemon, "objective-missed", next);
        pause(away);
        let group = status(&farshore);
        assert_eq!(group["state"], "late", "what waits here is lost with the host: {group}");
        let agent = world.guest("orders").agent();
        agent.succeed("echo here > /data/here && sync").expect("the guest goes on");
        back_how(&link);
        next = event(&mut daemon, "objective-met", next);
        let is_back = |group: &Value| group["state"] == "ok" && group.get("spooled").is_none();
        let group = status_when(&farshore, "ok again, with nothing that waits", BACK_MAX, is_back);
        assert!(group["newest"]["point"].as_u64() > Some(before), "{group}");
        assert_eq!(group["newest"]["bases"], json!(["tracked"]), "no full copy: {group}");
    }
    let cycles = farshore
        .run(&["points", "orders", "--limit", "10000"], Duration::from_secs(120))
        .expect("ran")
        .json()
        .expect("points");
    let points = cycles[0]["points"].as_array().expect("points");
    let bases: Vec<&Value> = points.iter().map(|point| &point["machines"][0]["disks"][0]["basis"]).collect();
    let full = bases.iter().filter(|basis| ***basis != "tracked").count();
    assert_eq!(full, 1, "only the first copy was one: {bases:?}");
    // A request that was under way when the link went is given up after a minute; all others at once.
    let waited = points.iter().filter(|point| point["note"].as_str().is_some_and(|note| note.contains("waited")));
    let (waited, expected) = (waited.count(), usize::try_from(away.as_secs() / 16).expect("small"));
    assert!(waited >= expected, "{waited} points of the time without a link, at least {expected} expected");
    let instants = points.iter().rev().map(|point| point["captured_at"].as_str().expect("a time"));
    assert!(instants.is_sorted(), "{points:?}");
    let finished = daemon.interrupt(&Stop::default()).expect("it ends");
    assert_eq!(finished.exit_code(), Some(0), "{finished:?}");
    let left = leftovers(world.guest("orders")).expect("QEMU answers");
    assert!(left.nothing_attached() && left.bitmaps.len() == 1, "{left:?}");
}
