//! Story: the machines of a group are failed over one by one, and the host is killed in the middle of it. Each machine comes
//! back once, whatever is repeated.

use std::time::{Duration, Instant};

use farshore_e2e::World;
use serde_json::Value;

const RECOVERY_MAX: Duration = Duration::from_secs(120);

fn machines(report: &Value) -> Vec<&str> {
    report["machines"].as_array().into_iter().flatten().filter_map(|machine| machine["machine"].as_str()).collect()
}

#[test]
fn each_machine_comes_back_once() {
    let mut world = World::new().expect("a world");
    world.resume_guest("first").expect("a guest");
    world.resume_guest("second").expect("a guest");
    world.protect("pair", &["first", "second"]).expect("a group");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    world.succeed(&["replicate", "--once"]).expect("a point");

    let drill = world.succeed(&["drill", "pair", "--machine", "second"]).expect("a drill");
    assert_eq!((machines(&drill), &drill["outcome"]), (vec!["second"], &Value::from("succeeded")), "{drill}");
    assert_eq!(world.recovered().expect("processes"), []);

    world.guest_mut("first").kill();
    world.guest_mut("second").kill();
    let said = ["--yes", "--source-is-down", "the test killed it", "--machine"];
    let of = |machine: &'static str| [&["failover", "unplanned", "pair"][..], &said, &[machine]].concat();
    let mut running = world.start(&of("first")).expect("a failover");
    #[expect(clippy::disallowed_methods, reason = "the test waits for a real process")]
    let started = Instant::now();
    while world.recovered().expect("processes").is_empty() {
        assert!(started.elapsed() < RECOVERY_MAX, "the failover starts a machine");
        assert!(running.try_status().expect("asked").is_none(), "the failover goes on");
        #[expect(clippy::disallowed_methods, reason = "the test waits for a real process")]
        std::thread::sleep(Duration::from_millis(20));
    }
    running.kill();

    // The same command goes on with the same run, and finds the machine that the killed one started.
    let report = world.succeed(&of("first")).expect("the failover goes on");
    assert_eq!((machines(&report), &report["outcome"]), (vec!["first"], &Value::from("succeeded")), "{report}");
    let runs = world.succeed(&["run", "list"]).expect("runs");
    let failovers = runs.as_array().into_iter().flatten().filter(|run| run["head"]["kind"] == "unplanned");
    assert_eq!(failovers.count(), 1, "{runs}");
    assert_eq!(world.recovered().expect("processes").len(), 1);

    let report = world.succeed(&of("second")).expect("the other machine");
    assert_eq!((machines(&report), &report["outcome"]), (vec!["second"], &Value::from("succeeded")), "{report}");
    assert_eq!(world.recovered().expect("processes").len(), 2);
    let whole = world.run(&[&["failover", "unplanned", "pair"][..], &said[..3]].concat()).expect("ran");
    assert_eq!(whole.failure().expect("an error")["code"], "FS5010", "{}", whole.errors);
    assert_eq!(world.recovered().expect("processes").len(), 2, "no second copy of either");

    // What is given up on request is made anew, and the other machine is left alone.
    let before = world.recovered().expect("processes");
    let again = [&of("second")[..], &["--discard-recovered"]].concat();
    let report = world.succeed(&again).expect("a failover");
    assert_eq!(report["outcome"], "succeeded", "{report}");
    let after = world.recovered().expect("processes");
    assert_eq!(after.len(), 2);
    assert_eq!(after.iter().filter(|machine| before.contains(machine)).count(), 1, "{before:?}, then {after:?}");
}
