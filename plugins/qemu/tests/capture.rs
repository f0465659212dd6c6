//! Captures of real QEMU processes, read and compared by tools that are not ours.

mod support;

use std::process::Command;

use farshore_adapter_qemu::{
    bindings::exports::farshore::platform::ownership::Kind,
    bindings::exports::farshore::platform::source::{CaptureStatus, Changes, Instant, Outcome},
    capture,
    error::PlatformError,
    ownership,
};
use serde_json::json;
use support::{Machine, OWNER, Qemu, copy, dirty, disks, folder, host, id, is_same, request, run, sentence, uri};

#[test]
fn full_then_deltas_stay_identical_while_the_machine_writes() {
    let folder = folder();
    let qemu = Qemu::start(folder.path(), &Machine { disks: 2, ..Machine::default() });
    let host = host(folder.path(), &["orders"]);
    for disk in 0..2 {
        qemu.io(disk, &format!("write -P {} 0 8M", disk + 1));
    }
    let mut tracked = Vec::new();
    for cycle in 0..6_u32 {
        let step = capture::begin(&host, &request(cycle, &["orders"], &tracked)).expect("a capture");
        let CaptureStatus::Ready(report) = step.status else { panic!("captures are never pending") };
        assert_eq!((report.instant, report.note.as_str()), (Instant::Group, ""));
        let captured = disks(&step.state);
        assert_eq!(captured.len(), 2);
        // After the instant the machine goes on writing, where the view has not been read yet.
        for disk in 0..2 {
            qemu.io(disk, &format!("write -P {} {}k 200k", 100 + cycle, 64 * cycle));
            qemu.io(disk, &format!("write -P {} {}M 64k", 200 + cycle, 20 + cycle));
        }
        for (index, disk) in captured.iter().enumerate() {
            assert_eq!(
                (disk.machine.as_str(), disk.disk.as_str(), disk.size_bytes),
                ("orders", &*format!("vd{index}"), 64 << 20)
            );
            let replica = folder.path().join(format!("replica{index}"));
            let uri = uri(&host, &step.state, disk);
            match (&disk.changes, cycle) {
                (Changes::Unknown(_), 0) => run(Command::new("truncate").args(["-s", "64M"]).arg(&replica)),
                (Changes::Context(_), 1..) => {
                    let changed: u64 = dirty(&uri, disk).iter().map(|(_, length)| length).sum();
                    assert!((1..=512 * 1024).contains(&changed), "{changed} bytes changed");
                    assert!(!is_same(&uri, &replica), "the delta is not empty");
                    run(&mut Command::new("true"))
                }
                (changes, _) => panic!("cycle {cycle}: {changes:?}"),
            };
            copy(&uri, disk, &replica);
            assert!(is_same(&uri, &replica), "cycle {cycle}, disk {index}");
        }
        capture::verify(&host, &step.state).expect("the view held");
        let outcome = if cycle == 3 { Outcome::Abandoned } else { Outcome::Committed };
        for _ in 0..2 {
            capture::end(&host, &step.state, Some(outcome)).expect("it can be ended, and again");
        }
        qemu.assert_clean();
        assert_eq!(qemu.bitmaps("disk0").len(), 1, "one bitmap records");
        if outcome == Outcome::Committed {
            tracked = captured;
        } else {
            // What was copied from the abandoned capture is thrown away: the next delta must bring all of it again.
            for index in 0..2 {
                let replica = folder.path().join(format!("replica{index}"));
                std::fs::copy(folder.path().join(format!("committed{index}")), &replica).expect("a copy");
            }
        }
        for index in 0..2 {
            let replica = folder.path().join(format!("replica{index}"));
            std::fs::copy(&replica, folder.path().join(format!("committed{index}"))).expect("a copy");
        }
    }
}

#[test]
fn tracking_that_cannot_be_trusted_is_unknown() {
    let folder = folder();
    let machine = Machine::default();
    let qemu = Qemu::start(folder.path(), &machine);
    let host = host(folder.path(), &["orders"]);
    let commit = |number, tracked: &[_]| {
        let step = capture::begin(&host, &request(number, &["orders"], tracked)).expect("a capture");
        let captured = disks(&step.state);
        capture::end(&host, &step.state, Some(Outcome::Committed)).expect("its end");
        captured
    };
    let unknown = |number, tracked: &[_], expected: &str| {
        let captured = commit(number, tracked);
        let Changes::Unknown(reason) = &captured[0].changes else { panic!("{:?} is trusted", captured[0].changes) };
        assert!(reason.contains(expected), "{reason}");
        captured
    };
    let first = unknown(1, &[], "no earlier point");
    let second = commit(2, &first);
    assert!(matches!(second[0].changes, Changes::Context(_)));
    // The token of a point before the last one leads nowhere.
    let third = unknown(3, &first, "no longer tracks");
    let mut foreign = third.clone();
    foreign[0].token = Some("somebody-else".into());
    let fourth = unknown(4, &foreign, "not begun by this site");
    // Switched off for a time.
    let bitmap = json!({ "node": "disk0", "name": fourth[0].token });
    qemu.command("block-dirty-bitmap-disable", bitmap);
    let fifth = unknown(5, &fourth, "switched off");
    // Removed by somebody.
    qemu.command("block-dirty-bitmap-remove", json!({ "node": "disk0", "name": fifth[0].token }));
    let sixth = unknown(6, &fifth, "no longer tracks");
    // A clean restart keeps the bitmap, and what was written before and after it is in the delta.
    qemu.io(0, "write -P 7 1M 64k");
    qemu.quit();
    let qemu = Qemu::start(folder.path(), &machine);
    qemu.io(0, "write -P 8 3M 64k");
    let step = capture::begin(&host, &request(7, &["orders"], &sixth)).expect("a capture");
    let seventh = disks(&step.state);
    let extents = dirty(&uri(&host, &step.state, &seventh[0]), &seventh[0]);
    assert_eq!(extents, [(1 << 20, 65_536), (3 << 20, 65_536)]);
    capture::end(&host, &step.state, Some(Outcome::Committed)).expect("its end");
    // A power failure does not: QEMU says that the bitmap is inconsistent.
    qemu.quit();
    let qemu = Qemu::start(folder.path(), &machine);
    qemu.io(0, "write -P 9 5M 64k");
    qemu.kill();
    let qemu = Qemu::start(folder.path(), &machine);
    unknown(8, &seventh, "inconsistent");
    qemu.assert_clean();
    assert_eq!(qemu.bitmaps("disk0").len(), 1, "the inconsistent bitmap is gone");
}

#[test]
fn a_full_fleece_breaks_the_capture_and_not_the_machine() {
    let folder = folder();
    let qemu = Qemu::start(folder.path(), &Machine::default());
    let mut host = host(folder.path(), &["orders"]);
    host.settings["fleece-limit-mib"] = json!(16);
    qemu.io(0, "write -P 1 0 40M");
    let step = capture::begin(&host, &request(1, &["orders"], &[])).expect("a capture");
    let disk = disks(&step.state).remove(0);
    let uri = uri(&host, &step.state, &disk);
    capture::verify(&host, &step.state).expect("it still holds");
    qemu.io(0, "write -P 2 0 8M");
    capture::verify(&host, &step.state).expect("half full, it still holds");
    qemu.io(0, "write -P 3 8M 32M");
    let error = capture::verify(&host, &step.state).expect_err("the fleece is full");
    assert!(matches!(error, PlatformError::CaptureBroken(_)), "{error:?}");
    assert!(sentence(&error).contains("fleece-limit-mib"), "{error:?}");
    let read = Command::new("nbdcopy").args([&uri, "null:"]).output().expect("nbdcopy is installed");
    assert!(!read.status.success(), "nobody can read a broken view");
    qemu.io(0, "read -P 2 0 8M");
    qemu.io(0, "read -P 3 8M 32M");
    qemu.io(0, "write -P 4 0 40M");
    capture::end(&host, &step.state, Some(Outcome::Abandoned)).expect("its end");
    qemu.assert_clean();
    assert_eq!(qemu.bitmaps("disk0"), Vec::<String>::new());
    qemu.io(0, "read -P 4 0 40M");
}

#[test]
fn whatever_a_killed_host_left_is_gone_with_the_next_capture() {
    let folder = folder();
    let qemus: Vec<Qemu> = [("one", 2), ("two", 1)]
        .map(|(name, disks)| Qemu::start(folder.path(), &Machine { name, disks, mebibytes: 8, ..Machine::default() }))
        .into();
    let mut host = host(folder.path(), &["one", "two"]);
    let step = capture::begin(&host, &request(0, &["one", "two"], &[])).expect("a capture");
    let tracked = disks(&step.state);
    capture::end(&host, &step.state, Some(Outcome::Committed)).expect("its end");
    let (mut kills, mut held, mut number) = (0_u32, 0, 0);
    loop {
        number += 1;
        // The host is killed before its n-th command: neither its undo nor anything else of it runs.
        *host.writes_left.borrow_mut() = Some(kills);
        let outcome = capture::begin(&host, &request(number, &["one", "two"], &tracked));
        *host.writes_left.borrow_mut() = None;
        if let Ok(step) = outcome {
            capture::end(&host, &step.state, Some(Outcome::Abandoned)).expect("its end");
            break;
        }
        held += u32::from(qemus.iter().any(|qemu| qemu.status() == "paused"));
        // Whatever state the disks are in, the machines can write.
        qemus.iter().for_each(|qemu| qemu.io(0, "write -P 5 1M 64k"));
        number += 1;
        let step = capture::begin(&host, &request(number, &["one", "two"], &tracked))
            .unwrap_or_else(|error| panic!("after a kill before command {kills}: {error:?}"));
        assert!(disks(&step.state).iter().all(|disk| matches!(disk.changes, Changes::Context(_))), "kill {kills}");
        assert!(qemus.iter().all(|qemu| qemu.status() == "running"), "kill {kills}: a guest is still held");
        capture::end(&host, &step.state, Some(Outcome::Abandoned)).expect("its end");
        qemus.iter().for_each(Qemu::assert_clean);
        kills += 1;
    }
    assert!(kills > 50 && held > 0, "{kills} kills, {held} of them with a guest held");
    host.lines.get_mut().retain(|line| line.contains("left held"));
    assert!(!host.lines.borrow().is_empty(), "a guest that was let go is worth a line");
}

#[test]
fn a_lost_journal_is_found_through_its_owner() {
    let folder = folder();
    let qemu = Qemu::start(folder.path(), &Machine { mebibytes: 8, ..Machine::default() });
    let host = host(folder.path(), &["orders", "gone"]);
    let step = capture::begin(&host, &request(1, &["orders"], &[])).expect("a capture");
    drop(step);
    let owned = ownership::list(&host, Kind::Capture, OWNER, None).expect("a list").items;
    assert_eq!(owned.len(), 1, "{owned:?}");
    assert_eq!((owned[0].id.as_str(), owned[0].owner.as_str()), (&*id(1), OWNER));
    assert!(ownership::list(&host, Kind::Capture, "farshore-another", None).expect("a list").items.is_empty());
    ownership::release(&host, &owned[0]).expect("its release");
    qemu.assert_clean();
    assert!(ownership::list(&host, Kind::Capture, OWNER, None).expect("a list").items.is_empty());
    assert_eq!(qemu.bitmaps("disk0").len(), 1, "a committed point may rely on the bitmap");
}

#[test]
fn what_is_not_ours_stands_in_the_way_by_name() {
    let folder = folder();
    let qemu = Qemu::start(folder.path(), &Machine { mebibytes: 8, ..Machine::default() });
    let host = host(folder.path(), &["orders"]);
    let socket = folder.path().join("foreign.nbd").to_string_lossy().into_owned();
    let address = json!({ "addr": { "type": "unix", "data": { "path": socket } } });
    qemu.command("nbd-server-start", address.clone());
    qemu.command("blockdev-add", json!({ "driver": "null-co", "node-name": "their-node", "size": 512 }));
    qemu.command("block-export-add", json!({ "id": "theirs", "type": "nbd", "node-name": "their-node", "name": "x" }));
    let error = capture::begin(&host, &request(1, &["orders"], &[])).expect_err("the server is theirs");
    assert!(
        matches!(&error, PlatformError::Conflict(text) if text.contains("theirs") && text.contains("their-node")),
        "{error:?}"
    );
    assert_eq!(qemu.bitmaps("disk0"), Vec::<String>::new());
    qemu.command("block-export-del", json!({ "id": "theirs" }));
    qemu.command("blockdev-del", json!({ "node-name": "their-node" }));
    // A server without exports is in nobody's use.
    let step = capture::begin(&host, &request(2, &["orders"], &[])).expect("a capture");
    // Another group's capture of the same machine.
    let mut other = request(3, &["orders"], &[]);
    other.owner = "farshore-another".into();
    let error = capture::begin(&host, &other).expect_err("the machine is being captured");
    assert!(matches!(&error, PlatformError::Conflict(text) if text.contains("another group")), "{error:?}");
    capture::verify(&host, &step.state).expect("the first capture is untouched");
    capture::end(&host, &step.state, Some(Outcome::Committed)).expect("its end");
    qemu.assert_clean();
    // Somebody sits on the control socket.
    let visitor = std::os::unix::net::UnixStream::connect(folder.path().join("orders.qmp")).expect("a visitor");
    let error = capture::begin(&host, &request(4, &["orders"], &[])).expect_err("QEMU has one client at a time");
    assert!(matches!(&error, PlatformError::Conflict(text) if text.contains("another program")), "{error:?}");
    drop(visitor);
    // And a machine that is not there.
    qemu.kill();
    let error = capture::begin(&host, &request(5, &["orders"], &[])).expect_err("nothing listens");
    assert!(matches!(error, PlatformError::Unreachable(_)), "{error:?}");
    let note = capture::end(&host, &step.state, Some(Outcome::Committed)).expect("nothing is left to end").note;
    assert!(note.contains("orders"), "{note}");
}

#[test]
fn machines_share_an_instant_or_the_report_says_that_they_do_not() {
    let folder = folder();
    let small = |name| Machine { name, mebibytes: 8, ..Machine::default() };
    let one = Qemu::start(folder.path(), &small("one"));
    let two = Qemu::start(folder.path(), &small("two"));
    let mut host = host(folder.path(), &["one", "two"]);
    let begin = |host: &_, number, limit| {
        let mut request = request(number, &["one", "two"], &[]);
        request.stall_limit_milliseconds = limit;
        let step = capture::begin(host, &request).expect("a capture");
        let CaptureStatus::Ready(report) = step.status else { panic!("captures are never pending") };
        for qemu in [&one, &two] {
            assert_eq!(qemu.status(), "running");
        }
        capture::verify(host, &step.state).expect("both views are there");
        capture::end(host, &step.state, Some(Outcome::Abandoned)).expect("its end");
        report
    };
    let report = begin(&host, 1, 5_000);
    assert_eq!((report.instant, report.note.as_str()), (Instant::Group, ""));
    assert!((1..5_000_000).contains(&report.held_microseconds), "{report:?}");
    // Marking takes longer than the limit: the guests are let go first.
    host.delay = Some(("qom-set", 120));
    let report = begin(&host, 2, 100);
    assert_eq!(report.instant, Instant::Machine);
    assert!(report.note.contains("within 100 ms"), "{}", report.note);
    // Not even the stop is in time.
    host.delay = Some(("stop", 120));
    let report = begin(&host, 3, 100);
    assert_eq!(report.instant, Instant::Machine);
    assert!(report.note.contains("one, two"), "{}", report.note);
    // A guest that its operator paused stays paused.
    host.delay = None;
    one.command("stop", json!({}));
    let step = capture::begin(&host, &request(4, &["one", "two"], &[])).expect("a capture");
    assert_eq!((one.status().as_str(), two.status().as_str()), ("paused", "running"));
    capture::end(&host, &step.state, Some(Outcome::Abandoned)).expect("its end");
    assert_eq!(one.status(), "paused");
}
