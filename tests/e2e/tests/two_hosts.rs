//! Story: two hosts, each with its own site, share one vault and nothing else. Each keeps its own group at its objective; one is lost with its
//! site, and the other brings its group back; the lost one returns, and may add nothing to what is another side's by now.

use std::{fs, time::Duration};

use farshore_e2e::{Guest, Running, Stop, World, json, leftovers, pause};
use serde_json::Value;

const EVENT_MAX: Duration = Duration::from_secs(90);

fn event(daemon: &mut Running, name: &str) -> Value {
    let take = |line: &Value| (line["name"] == name).then(|| line.clone());
    daemon.wait_for(name, 0, EVENT_MAX, &Stop::default(), take).expect("the event").0
}

fn replace(world: &World, from: &str, to: &str) {
    let file = world.site.configuration_file();
    let text = fs::read_to_string(&file).expect("a configuration");
    assert!(text.contains(from), "{from:?} is in the configuration");
    fs::write(&file, text.replace(from, to)).expect("written");
}

/// The groups that the world's daemon keeps, once the first is as it should be.
fn groups_when(world: &World, what: &str, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut last = Vec::new();
    for _ in 0..360 {
        let status = json(&world.run(&["status"]).expect("it runs")).expect("a status");
        last = status["groups"].as_array().expect("groups").clone();
        if last.first().is_some_and(&wanted) {
            return last;
        }
        pause(Duration::from_millis(250));
    }
    panic!("never {what}: {last:?}");
}

fn point(group: &Value) -> u64 {
    group["newest"]["point"].as_u64().unwrap_or_default()
}

fn is_well_past(before: u64) -> impl Fn(&Value) -> bool {
    move |group| group["state"] == "ok" && point(group) > before + 2
}

/// A host of a site of its own, with the vault of another, that can bring the other's machines back.
fn second_host(first: &World) -> World {
    let mut second = World::new().expect("a world");
    second.resume_guest("books").expect("a guest");
    second.protect("books", &["books"]).expect("a group");
    let own_kit = second.site.kit_file();
    for (own, shared) in [
        (second.site.vault_folder(), first.site.vault_folder()),
        (own_kit, first.site.kit_file()),
        (second.site.passphrase_file(), first.site.passphrase_file()),
    ] {
        replace(&second, &own.to_string_lossy(), &shared.to_string_lossy());
    }
    replace(&second, "sites.production", "sites.annex");
    replace(&second, "site = \"production\"", "site = \"annex\"");
    replace(&second, "[host]\n", "[host]\nsites = [\"annex\", \"recovery\"]\n");
    let file = second.site.configuration_file();
    let text = fs::read_to_string(&file).expect("a configuration");
    let others = "\n[sites.production]\nadapter = \"qemu\"\n\n[groups.orders]\nsite = \"production\"\nmachines = [\"orders\"]\n\
                  recovery-site = \"recovery\"\nrpo = \"5s\"\n";
    fs::write(&file, text + others).expect("written");
    second
}

#[test]
fn each_keeps_its_own_and_one_brings_back_what_the_other_lost() {
    let mut first = World::new().expect("a world");
    first.resume_guest("orders").expect("a guest");
    first.protect("orders", &["orders"]).expect("a group");
    replace(&first, "[host]\n", "[host]\nsites = [\"production\"]\n");
    first.succeed(&["vault", "create", "--yes"]).expect("a vault");
    let second = second_host(&first);

    let (mut here, there) = (first.start(&["serve"]).expect("a daemon"), second.start(&["serve"]).expect("a daemon"));
    for (world, own) in [(&first, "orders"), (&second, "books")] {
        let groups = groups_when(world, "replicated", is_well_past(3));
        let names: Vec<_> = groups.iter().map(|group| group["group"].as_str().unwrap_or_default()).collect();
        assert_eq!(names, [own], "it keeps the groups of the sites that it serves");
    }
    // Side by side, each sees the points of both.
    for world in [&first, &second] {
        let all = world.succeed(&["points"]).expect("points");
        let names: Vec<_> = all.as_array().expect("groups").iter().map(|group| group["group"].as_str()).collect();
        assert!(names.contains(&Some("orders")) && names.contains(&Some("books")), "{names:?}");
    }

    // The first site is lost, and its host with it.
    here.kill();
    let mut lost = first.take_guest("orders");
    lost.kill();
    let before = point(&groups_when(&second, "as before", |group| group["state"] == "ok")[0]);
    let attested = ["failover", "unplanned", "orders", "--yes", "--source-is-down", "the test killed it"];
    let report = second.succeed(&attested).expect("a failover by the other host");
    assert_eq!((&report["outcome"], &report["target"]), (&"succeeded".into(), &"recovery".into()), "{report}");
    assert_eq!(second.recovered().expect("processes").len(), 1, "it runs where the other host is");
    groups_when(&second, "still replicated", is_well_past(before));

    // The site comes back, with a host that knows nothing of it.
    let disks = lost.disks().to_vec();
    drop(lost);
    let (revived, _) = Guest::boot(first.guest_options("orders", disks)).expect("it boots again");
    first.add_guest(revived);
    first.protect("orders", &["orders"]).expect("the same group");
    replace(&first, "[host]\n", "[host]\nsites = [\"production\"]\n");
    let mut here = first.start(&["serve"]).expect("a daemon");
    let failed = event(&mut here, "cycle-failed");
    assert_eq!((&failed["details"]["code"], &failed["details"]["final"]), (&"FS4004".into(), &true.into()), "{failed}");
    let points = |world: &World| {
        let points = world.succeed(&["points", "orders", "--limit", "10000"]).expect("points")[0]["points"].clone();
        points.as_array().map(Vec::len)
    };
    let count = points(&second);
    pause(Duration::from_secs(6));
    assert_eq!(points(&first), count, "it adds nothing to what is another side's");
    let after = point(&groups_when(&second, "as before", |group| group["state"] == "ok")[0]);
    groups_when(&second, "still replicated", is_well_past(after));

    for (daemon, world, guest) in [(here, &first, "orders"), (there, &second, "books")] {
        let finished = daemon.interrupt(&Stop::default()).expect("it ends");
        assert_eq!(finished.exit_code(), Some(0), "{finished:?}");
        let left = leftovers(world.guest(guest)).expect("QEMU answers");
        assert!(left.nothing_attached(), "{guest}: {left:?}");
    }
}
