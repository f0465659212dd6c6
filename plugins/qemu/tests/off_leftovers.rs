//! What captures of machines that are off leave behind, and who stands in the way of whom.

mod support;

use std::process::Command;

use farshore_adapter_qemu::{
    bindings::exports::farshore::platform::{
        ownership::Kind,
        source::{Changes, Consistency, Outcome},
    },
    capture,
    error::PlatformError,
    ownership,
    ports::{Repetition, Slot},
};
use serde_json::json;
use support::{
    Daemons, FileTimes, Machine, OWNER, Qemu, Template, disks, folder, host_with_images, id, request, run, serve_images,
};

fn small(name: &str) -> Machine<'_> {
    Machine { name, mebibytes: 16, ..Machine::default() }
}

#[test]
fn whatever_a_killed_host_left_is_gone_with_the_next_capture() {
    let folder = folder();
    let daemons = Daemons(folder.path().to_owned());
    let host = host_with_images(folder.path(), &["one", "two"]);
    let names = ["one", "two"];
    let qemu = Qemu::start(folder.path(), &small("one"));
    Qemu::start(folder.path(), &small("two")).quit();
    let step = capture::begin(&host, &request(0, &names, &[])).expect("a capture");
    let tracked = disks(&step.state);
    capture::end(&host, &step.state, Some(Outcome::Committed)).expect("its end");
    let (mut kills, mut left, mut number) = (0_u32, 0, 0);
    loop {
        number += 1;
        // The host is killed before its n-th command: neither its undo nor anything else of it runs.
        *host.writes_left.borrow_mut() = Some(kills);
        let outcome = capture::begin(&host, &request(number, &names, &tracked));
        *host.writes_left.borrow_mut() = None;
        if let Ok(step) = outcome {
            capture::end(&host, &step.state, Some(Outcome::Abandoned)).expect("its end");
            break;
        }
        left += daemons.pids().len();
        // Whatever state its disk is in, the machine that runs can write; and QEMU has seen meanwhile that its visitor died.
        qemu.io(0, "write -P 5 1M 64k");
        number += 1;
        let step = capture::begin(&host, &request(number, &names, &tracked))
            .unwrap_or_else(|error| panic!("after a kill before command {kills}: {error:?}"));
        daemons.assert_one();
        assert!(disks(&step.state).iter().all(|disk| matches!(disk.changes, Changes::Context(_))), "kill {kills}");
        capture::verify(&host, &step.state).expect("it holds");
        capture::end(&host, &step.state, Some(Outcome::Abandoned)).expect("its end");
        qemu.assert_clean();
        daemons.assert_nothing_left();
        kills += 1;
    }
    assert!(kills > 20 && left > 10, "{kills} kills, {left} of them with a daemon left");
}

#[test]
fn a_daemon_that_a_killed_host_left_is_gone_when_its_machine_runs_again() {
    let folder = folder();
    let daemons = Daemons(folder.path().to_owned());
    let host = host_with_images(folder.path(), &["orders"]);
    Qemu::start(folder.path(), &small("orders")).quit();
    capture::begin(&host, &request(1, &["orders"], &[])).expect("a capture");
    daemons.assert_one();
    let qemu = Qemu::start(folder.path(), &small("orders"));
    let step = capture::begin(&host, &request(2, &["orders"], &[])).expect("a capture");
    daemons.assert_nothing_left();
    capture::end(&host, &step.state, Some(Outcome::Committed)).expect("its end");
    qemu.assert_clean();
}

#[test]
fn a_lost_journal_is_found_through_its_owner() {
    let folder = folder();
    let daemons = Daemons(folder.path().to_owned());
    let host = host_with_images(folder.path(), &["one", "two"]);
    let qemu = Qemu::start(folder.path(), &small("one"));
    Qemu::start(folder.path(), &small("two")).quit();
    let step = capture::begin(&host, &request(1, &["one", "two"], &[])).expect("a capture");
    drop(step);
    let list = |owner| ownership::list(&host, Kind::Capture, owner, None).expect("a list").items;
    assert!(list("farshore-another").is_empty());
    let owned = list(OWNER);
    assert_eq!(owned.iter().map(|item| item.id.clone()).collect::<Vec<_>>(), [id(1)]);
    assert!(owned[0].description.contains("one, two"), "{owned:?}");
    for _ in 0..2 {
        ownership::release(&host, &owned[0]).expect("its release");
        daemons.assert_nothing_left();
    }
    qemu.assert_clean();
    assert!(list(OWNER).is_empty());
}

#[test]
fn what_is_not_ours_stands_in_the_way_by_name() {
    let folder = folder();
    let daemons = Daemons(folder.path().to_owned());
    let host = host_with_images(folder.path(), &["orders"]);
    Qemu::start(folder.path(), &small("orders")).quit();
    let step = capture::begin(&host, &request(1, &["orders"], &[])).expect("a capture");
    let mut other = request(2, &["orders"], &[]);
    other.owner = "farshore-another".into();
    let error = capture::begin(&host, &other).expect_err("the machine is being captured");
    assert!(matches!(&error, PlatformError::Conflict(text) if text.contains("another group or vault")), "{error:?}");
    daemons.assert_one();
    capture::verify(&host, &step.state).expect("the first capture is untouched");
    capture::end(&host, &step.state, Some(Outcome::Committed)).expect("its end");
    // Once that has ended, the other group can be captured, and ending the first again does it no harm.
    let step_of_other = capture::begin(&host, &other).expect("a capture");
    capture::end(&host, &step.state, Some(Outcome::Committed)).expect("its end, again");
    capture::verify(&host, &step_of_other.state).expect("it holds");
    capture::end(&host, &step_of_other.state, Some(Outcome::Committed)).expect("its end");
    daemons.assert_nothing_left();
    // Something that nobody knows.
    let monitor = folder.path().join("orders.off-qmp").to_string_lossy().into_owned();
    let slots = [Slot { name: "monitor".into(), value: monitor }];
    run(serve_images(&slots, &[]).args(["--blockdev", "driver=null-co,node-name=theirs"]));
    let error = capture::begin(&host, &request(3, &["orders"], &[])).expect_err("something is in the way");
    assert!(matches!(&error, PlatformError::Conflict(text) if text.contains("theirs")), "{error:?}");
    daemons.assert_one();
}

/// The operator's template with a part of its arguments written otherwise.
fn otherwise(slots: &[Slot], repetitions: &[Repetition], part: &str, instead: &str) -> Command {
    let command = serve_images(slots, repetitions);
    let mut other = Command::new(command.get_program());
    other.args(command.get_args().map(|argument| argument.to_string_lossy().replace(part, instead)));
    other
}

#[test]
fn what_cannot_be_served_says_why_and_leaves_nothing() {
    let folder = folder();
    let daemons = Daemons(folder.path().to_owned());
    let mut host = host_with_images(folder.path(), &["one", "fine", "orders"]);
    let qemu = Qemu::start(folder.path(), &small("one"));
    for name in ["fine", "orders"] {
        Qemu::start(folder.path(), &small(name)).quit();
    }
    let failure = |host: &_| {
        let error =
            capture::begin(host, &request(1, &["one", "fine", "orders"], &[])).expect_err("it cannot be captured");
        daemons.assert_nothing_left();
        qemu.assert_clean();
        assert_eq!(qemu.bitmaps("disk0"), Vec::<String>::new());
        error
    };
    host.templates = vec![];
    let error = failure(&host);
    assert!(matches!(&error, PlatformError::Settings(text) if text.contains("`serve-images`")), "{error:?}");
    host.templates = vec![("serve-images".into(), |_, _| Command::new("true"))];
    let error = failure(&host);
    assert!(matches!(&error, PlatformError::Failed(text) if text.contains("--daemonize")), "{error:?}");
    // What the template opens otherwise than it has to.
    let templates: [(Template, &str); 3] = [
        (|slots, items| otherwise(slots, items, "node-name=", "node-name=x-"), "node-name"),
        (|slots, items| otherwise(slots, items, "read-only=on,force-share=on", "read-only=off"), "force-share=on"),
        (|slots, items| otherwise(slots, items, "driver=qcow2", "driver=raw"), "driver={format:name}"),
    ];
    for (template, option) in templates {
        host.templates = vec![("serve-images".into(), template)];
        let error = failure(&host);
        assert!(matches!(&error, PlatformError::Settings(text) if text.contains(option)), "{error:?}");
    }
    host.templates = vec![("serve-images".into(), serve_images)];
    let image = host.settings["machines"][2]["images"].clone();
    run(Command::new("truncate").args(["-s", "16M"]).arg(folder.path().join("raw")));
    for (path, reason) in [("raw", "not in qcow2 format"), ("missing.qcow2", "No such file")] {
        host.settings["machines"][2]["images"][0]["path"] = json!(folder.path().join(path));
        let error = failure(&host);
        assert!(matches!(&error, PlatformError::Failed(text) if text.contains(reason)), "{error:?}");
    }
    // Whether a data file beside the image is written would be seen by nobody.
    let (apart, data) = (folder.path().join("apart.qcow2"), folder.path().join("apart.data"));
    let options = format!("data_file={}", data.display());
    run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-o", &options]).arg(&apart).arg("16M"));
    host.settings["machines"][2]["images"][0]["path"] = json!(apart);
    let error = failure(&host);
    assert!(matches!(&error, PlatformError::Unsupported(text) if text.contains("another file")), "{error:?}");
    host.settings["machines"][2]["images"] = image;
    // Nor whether a block device is.
    host.file_times = FileTimes::None;
    let error = failure(&host);
    assert!(matches!(&error, PlatformError::Unsupported(text) if text.contains("from files only")), "{error:?}");
    host.file_times = FileTimes::Fine;
    // What comes after the images are served fails: the machine that runs has no agent.
    let mut application = request(2, &["one", "fine", "orders"], &[]);
    application.consistency = Consistency::Application;
    let error = capture::begin(&host, &application).expect_err("there is no agent");
    assert!(matches!(&error, PlatformError::Failed(text) if text.contains("agent")), "{error:?}");
    daemons.assert_nothing_left();
    qemu.assert_clean();
    let step = capture::begin(&host, &request(3, &["one", "fine", "orders"], &[])).expect("a capture");
    capture::end(&host, &step.state, Some(Outcome::Abandoned)).expect("its end");
    daemons.assert_nothing_left();
}
