//! Story: the host is killed in the middle of a drill. The machine of the drill may go on running; the next run of the
//! group removes it and everything else that the drill made.

use std::time::{Duration, Instant};

use farshore_e2e::World;
use serde_json::Value;

#[test]
fn the_next_drill_removes_what_the_killed_one_made() {
    let mut world = World::new().expect("a world");
    world.resume_guest("orders").expect("a guest");
    world.protect("orders", &["orders"]).expect("a group");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    world.succeed(&["replicate", "--once"]).expect("a point");
    let mut drill = world.start(&["drill", "orders"]).expect("a drill");
    #[expect(clippy::disallowed_methods, reason = "the test waits for a real process")]
    let started = Instant::now();
    let machine = loop {
        if let [machine] = &world.recovered().expect("processes")[..] {
            break machine.clone();
        }
        assert!(started.elapsed() < Duration::from_secs(120), "the drill starts a machine");
        assert!(drill.try_status().expect("asked").is_none(), "the drill goes on");
        #[expect(clippy::disallowed_methods, reason = "the test waits for a real process")]
        std::thread::sleep(Duration::from_millis(20));
    };
    drill.kill();
    assert!(machine.is_without_network(), "{machine:?}");
    let own_folder = world.site.drill_folder();
    assert!(machine.qmp.as_ref().is_some_and(|socket| socket.starts_with(own_folder)), "{machine:?}");
    // A machine that was just being started is two processes for a moment: one that starts it, and itself.
    let until = started.elapsed() + Duration::from_secs(20);
    while world.recovered().expect("processes").len() != 1 {
        assert!(started.elapsed() < until, "the machine outlives the command: {:?}", world.recovered());
        #[expect(clippy::disallowed_methods, reason = "the test waits for a real process")]
        std::thread::sleep(Duration::from_millis(20));
    }

    let report = world.succeed(&["drill", "orders"]).expect("the next drill");
    assert_eq!(
        (&report["outcome"], &report["cleaned_up"]),
        (&Value::from("succeeded"), &Value::from(true)),
        "{report}"
    );
    assert_eq!(world.recovered().expect("processes"), []);
    let runs = world.succeed(&["run", "list"]).expect("runs").to_string();
    assert_eq!(runs.matches("\"drill\"").count(), 2, "{runs}");
}
