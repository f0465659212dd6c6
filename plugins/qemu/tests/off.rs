//! Machines that are off: captured from their images by a storage daemon, read and compared by tools that are not ours.

mod support;

use std::{path::Path, process::Command};

use farshore_adapter_qemu::{
    bindings::{
        exports::farshore::platform::source::{
            CaptureReport, CaptureStatus, CapturedDisk, Changes, Consistency, Instant, Outcome,
        },
        farshore::platform::model::PowerState,
    },
    capture,
    error::PlatformError,
    inventory,
};
use serde_json::json;
use support::{
    Daemons, FileTimes, Machine, Qemu, TestHost, copy, dirty, disks, folder, host_with_images, is_same, request, run,
    sentence, uri,
};

const CHUNK: u64 = 64 * 1024;
const MEBIBYTE: u64 = 1 << 20;

fn small() -> Machine<'static> {
    Machine { mebibytes: 16, ..Machine::default() }
}

/// A capture of `orders`, of which its only disk is looked at, verified and committed.
fn commit(
    host: &TestHost,
    number: u32,
    tracked: &[CapturedDisk],
    look: impl FnOnce(&str, &CapturedDisk),
) -> Vec<CapturedDisk> {
    let step = capture::begin(host, &request(number, &["orders"], tracked)).expect("a capture");
    let captured = disks(&step.state);
    assert_eq!(captured.iter().map(|disk| disk.disk.as_str()).collect::<Vec<_>>(), ["vd0"]);
    look(&uri(host, &step.state, &captured[0]), &captured[0]);
    capture::verify(host, &step.state).expect("the view held");
    for _ in 0..2 {
        capture::end(host, &step.state, Some(Outcome::Committed)).expect("it can be ended, and again");
    }
    captured
}

/// Brings a replica up to a view and compares both.
fn replicate(uri: &str, disk: &CapturedDisk, replica: &Path) {
    if !replica.exists() {
        run(Command::new("truncate").arg("-s").arg(disk.size_bytes.to_string()).arg(replica));
    }
    copy(uri, disk, replica);
    assert!(is_same(uri, replica), "the replica is another");
}

fn unknown(disk: &CapturedDisk, expected: &str) {
    let Changes::Unknown(reason) = &disk.changes else { panic!("{disk:?} is trusted") };
    assert!(reason.contains(expected), "{reason}");
}

/// When a file was changed last, as its file system says.
fn changed(path: &Path) -> Vec<u8> {
    run(Command::new("stat").args(["-c", "%z %s"]).arg(path)).stdout
}

fn ready(status: CaptureStatus) -> CaptureReport {
    let CaptureStatus::Ready(report) = status else { panic!("captures are never pending") };
    report
}

#[test]
fn what_changed_before_a_machine_went_off_is_told_by_the_bitmap_that_its_image_kept() {
    let folder = folder();
    let daemons = Daemons(folder.path().to_owned());
    let (image, replica) = (folder.path().join("orders0.qcow2"), folder.path().join("replica"));
    let host = host_with_images(folder.path(), &["orders"]);
    let qemu = Qemu::start(folder.path(), &small());
    qemu.io(0, "write -P 1 0 8M");
    let live = commit(&host, 1, &[], |uri, disk| replicate(uri, disk, &replica));
    qemu.io(0, "write -P 2 1M 64k");
    qemu.io(0, "write -P 3 9M 64k");
    qemu.quit();

    let page = inventory::list_machines(&host, None).expect("a list").machines;
    assert_eq!((page[0].id.as_str(), page[0].power), ("orders", PowerState::Off));
    assert!(page[0].disks.is_empty() && page[0].cpus == 0, "{page:?}");

    let before = changed(&image);
    let off = commit(&host, 2, &live, |uri, disk| {
        assert_eq!(dirty(uri, disk), [(MEBIBYTE, CHUNK), (9 * MEBIBYTE, CHUNK)]);
        assert!(!is_same(uri, &replica), "the delta is not empty");
        replicate(uri, disk, &replica);
        daemons.assert_one();
    });
    run(Command::new("qemu-img").args(["compare", "-f", "qcow2", "-F", "raw"]).arg(&image).arg(&replica));
    // While it stays off there is nothing to tell, however often it is captured.
    let again = commit(&host, 3, &off, |uri, disk| assert_eq!(dirty(uri, disk), []));
    let again = commit(&host, 4, &again, |uri, disk| assert_eq!(dirty(uri, disk), []));
    daemons.assert_nothing_left();
    assert_eq!(changed(&image), before, "a capture has written to an image");

    // Its bitmap goes on when it runs again.
    let qemu = Qemu::start(folder.path(), &small());
    qemu.io(0, "write -P 4 12M 64k");
    let live = commit(&host, 5, &again, |uri, disk| {
        let expected = [(MEBIBYTE, CHUNK), (9 * MEBIBYTE, CHUNK), (12 * MEBIBYTE, CHUNK)];
        assert_eq!(dirty(uri, disk), expected, "too much by what the points of the off machine have, and no more");
        replicate(uri, disk, &replica);
    });
    qemu.assert_clean();
    assert_eq!(qemu.bitmaps("disk0"), [live[0].token.clone().expect("a token")]);
    qemu.io(0, "write -P 5 13M 64k");
    let live = commit(&host, 6, &live, |uri, disk| {
        assert_eq!(dirty(uri, disk), [(13 * MEBIBYTE, CHUNK)]);
        replicate(uri, disk, &replica);
    });
    qemu.quit();
    // It was off without a change, and a tool of QEMU's takes note of what it writes.
    let off = commit(&host, 7, &live, |uri, disk| assert_eq!(dirty(uri, disk), []));
    run(Command::new("qemu-io").args(["-f", "qcow2", "-c", "write -P 6 2M 64k"]).arg(&image));
    commit(&host, 8, &off, |uri, disk| {
        assert_eq!(dirty(uri, disk), [(2 * MEBIBYTE, CHUNK)]);
        replicate(uri, disk, &replica);
    });
    daemons.assert_nothing_left();
}

#[test]
fn a_raw_image_is_compared_once_and_then_only_when_it_was_written() {
    let folder = folder();
    let daemons = Daemons(folder.path().to_owned());
    let (image, replica) = (folder.path().join("orders.raw"), folder.path().join("replica"));
    let mut host = host_with_images(folder.path(), &["orders"]);
    host.settings["machines"][0]["images"] = json!([{ "disk": "vd0", "path": image, "format": "raw" }]);
    run(Command::new("truncate").args(["-s", "16M"]).arg(&image));
    let blockdev = format!("driver=file,node-name=disk0,filename={}", image.display());
    let extra = ["-blockdev", &blockdev, "-device", "virtio-blk-pci,drive=disk0,id=vd0"];
    let machine = Machine { disks: 0, extra: &extra, ..Machine::default() };
    let qemu = Qemu::start(folder.path(), &machine);
    qemu.io(0, "write -P 1 0 8M");
    let live = commit(&host, 1, &[], |uri, disk| replicate(uri, disk, &replica));
    qemu.io(0, "write -P 2 9M 64k");
    qemu.quit();

    let off = commit(&host, 2, &live, |uri, disk| {
        unknown(disk, "kept no bitmap");
        replicate(uri, disk, &replica);
    });
    assert!(is_same(&image.to_string_lossy(), &replica));
    let off = commit(&host, 3, &off, |uri, disk| assert_eq!(dirty(uri, disk), []));
    run(Command::new("qemu-io").args(["-f", "raw", "-c", "write -P 3 10M 64k"]).arg(&image));
    let off = commit(&host, 4, &off, |uri, disk| {
        unknown(disk, "was written since");
        replicate(uri, disk, &replica);
    });
    let off = commit(&host, 5, &off, |uri, disk| assert_eq!(dirty(uri, disk), []));
    // Another file in its place is another file, and the first capture of all has nothing to follow.
    let other = folder.path().join("other.raw");
    run(Command::new("cp").arg(&image).arg(&other));
    host.settings["machines"][0]["images"][0]["path"] = json!(other);
    commit(&host, 6, &off, |_, disk| unknown(disk, "was written since"));
    commit(&host, 7, &[], |_, disk| unknown(disk, "no earlier point"));
    daemons.assert_nothing_left();

    let qemu = Qemu::start(folder.path(), &machine);
    let live = commit(&host, 8, &off, |_, disk| unknown(disk, "has been started since"));
    commit(&host, 9, &live, |uri, disk| assert_eq!(dirty(uri, disk), []));
    qemu.assert_clean();
    daemons.assert_nothing_left();
}

#[test]
fn a_bitmap_that_missed_writes_is_not_trusted() {
    let folder = folder();
    let daemons = Daemons(folder.path().to_owned());
    let replica = folder.path().join("replica");
    let host = host_with_images(folder.path(), &["orders"]);
    let qemu = Qemu::start(folder.path(), &small());
    let live = commit(&host, 1, &[], |_, _| {});
    qemu.quit();
    let qemu = Qemu::start(folder.path(), &small());
    qemu.io(0, "write -P 2 1M 64k");
    qemu.kill();
    let off = commit(&host, 2, &live, |uri, disk| {
        unknown(disk, "inconsistent");
        replicate(uri, disk, &replica);
    });
    // The image has not changed since then all the same.
    let mut off = commit(&host, 3, &off, |uri, disk| assert_eq!(dirty(uri, disk), []));
    off[0].token = Some("somebody-else".into());
    commit(&host, 4, &off, |_, disk| unknown(disk, "not begun by this site"));
    daemons.assert_nothing_left();
}

#[test]
fn a_machine_starts_while_its_images_are_served_and_the_capture_is_broken() {
    let folder = folder();
    let daemons = Daemons(folder.path().to_owned());
    let mut host = host_with_images(folder.path(), &["orders"]);
    Qemu::start(folder.path(), &small()).quit();
    let broken = |host: &TestHost, state: &[u8], expected: &str| {
        let error = capture::verify(host, state).expect_err("it is broken");
        assert!(matches!(&error, PlatformError::CaptureBroken(text) if text.contains(expected)), "{error:?}");
    };
    // With a file system that counts in seconds, too: what is written at once after the begin has another time.
    for (number, file_times) in [(1, FileTimes::Fine), (2, FileTimes::WholeSeconds)] {
        host.file_times = file_times;
        let step = capture::begin(&host, &request(number, &["orders"], &[])).expect("a capture");
        capture::verify(&host, &step.state).expect("it holds");
        daemons.assert_one();
        let qemu = Qemu::start(folder.path(), &small());
        qemu.io(0, "write -P 7 1M 64k");
        broken(&host, &step.state, "was started");
        qemu.io(0, "read -P 7 1M 64k");
        qemu.quit();
        broken(&host, &step.state, "was written");
        let qemu = Qemu::start(folder.path(), &small());
        for _ in 0..2 {
            capture::end(&host, &step.state, Some(Outcome::Abandoned)).expect("its end");
        }
        daemons.assert_nothing_left();
        qemu.assert_clean();
        qemu.io(0, "read -P 7 1M 64k");
        qemu.quit();
    }
    // The daemon dies, or its image is named no longer.
    host.file_times = FileTimes::Fine;
    let step = capture::begin(&host, &request(3, &["orders"], &[])).expect("a capture");
    daemons.kill();
    broken(&host, &step.state, "no longer served");
    host.settings["machines"][0]["images"][0]["disk"] = json!("vd1");
    broken(&host, &step.state, "no longer in the site's settings");
    // Its sockets are there, and stand in nobody's way.
    assert!(folder.path().join("orders.off-qmp").exists() && folder.path().join("orders.off-nbd").exists());
    let next = capture::begin(&host, &request(4, &["orders"], &[])).expect("a capture");
    capture::verify(&host, &next.state).expect("it holds");
    daemons.kill();
    for _ in 0..2 {
        capture::end(&host, &next.state, Some(Outcome::Committed)).expect("its end");
    }
    daemons.assert_nothing_left();
}

#[test]
fn machines_that_run_and_machines_that_are_off_share_an_instant() {
    let folder = folder();
    let daemons = Daemons(folder.path().to_owned());
    let machine = |name| Machine { name, ..small() };
    let host = host_with_images(folder.path(), &["one", "two", "three"]);
    let names = ["one", "two", "three"];
    let mut qemus: Vec<Qemu> = names.map(|name| Qemu::start(folder.path(), &machine(name))).into();
    let mut tracked = Vec::new();
    // All run; then one more is off each time, until all are.
    for number in 0..=3 {
        let mut request = request(number, &names, &tracked);
        if qemus.is_empty() {
            request.consistency = Consistency::Application;
        }
        let step = capture::begin(&host, &request).expect("a capture");
        let report = ready(step.status);
        assert_eq!(report.instant, Instant::Group);
        match qemus.len() {
            0 => {
                assert_eq!(report.held_microseconds, 0);
                assert!(names.iter().all(|name| report.note.contains(&format!("machine {name} is off"))), "{report:?}");
            }
            _ => assert!(report.held_microseconds > 0 && report.note.is_empty(), "{report:?}"),
        }
        daemons.wait_for(3 - qemus.len());
        let captured = disks(&step.state);
        assert_eq!(
            captured.iter().map(|disk| disk.machine.as_str()).collect::<std::collections::BTreeSet<_>>().len(),
            3
        );
        for disk in &captured {
            let replica = folder.path().join(format!("{}.replica", disk.machine));
            let uri = uri(&host, &step.state, disk);
            if number > 0 {
                assert!(dirty(&uri, disk).len() <= 1, "{disk:?}");
            }
            replicate(&uri, disk, &replica);
        }
        capture::verify(&host, &step.state).expect("it holds");
        capture::end(&host, &step.state, Some(Outcome::Committed)).expect("its end");
        daemons.assert_nothing_left();
        qemus.iter().for_each(Qemu::assert_clean);
        tracked = captured;
        if let Some(qemu) = qemus.pop() {
            qemu.io(0, &format!("write -P {} 1M 64k", number + 1));
            qemu.quit();
        }
    }
    // Without its images a machine that does not answer is as unreachable as ever.
    let host = support::host(folder.path(), &names);
    let error = capture::begin(&host, &request(9, &names, &[])).expect_err("nobody answers");
    assert!(matches!(&error, PlatformError::Unreachable(text) if text.contains("machine one")), "{error:?}");
    assert!(!sentence(&error).is_empty());
    let page = inventory::list_machines(&host, None).expect("a list").machines;
    assert!(page.iter().all(|machine| machine.power == PowerState::Unknown), "{page:?}");
}
