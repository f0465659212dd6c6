//! A guest that never stops writing: every view equals its replica, and what a capture costs it.
//!
//! It needs a bootable raw image whose guest writes all the time, made by whoever runs it:
//! `FARSHORE_GUEST_IMAGE=... cargo test --test live -- --ignored --nocapture`.

mod support;

use std::{path::Path, process::Command, time::Instant};

use farshore_adapter_qemu::{
    bindings::exports::farshore::platform::source::{CaptureStatus, Changes, Outcome},
    capture,
};
use serde_json::json;
use support::{Machine, Qemu, copy, dirty, disks, folder, host, is_same, request, run, uri};

const CYCLES: u32 = 25;

fn median(mut values: Vec<u128>) -> String {
    values.sort_unstable();
    format!("median {} us, most {} us", values[values.len() / 2], values[values.len() - 1])
}

#[test]
#[ignore = "needs a bootable image whose guest writes all the time: FARSHORE_GUEST_IMAGE"]
#[expect(clippy::disallowed_methods, reason = "it measures")]
fn every_view_of_a_busy_guest_equals_its_replica() {
    let image = std::env::var("FARSHORE_GUEST_IMAGE").expect("FARSHORE_GUEST_IMAGE names a bootable raw image");
    let folder = folder();
    let disk = folder.path().join("orders0.qcow2");
    run(Command::new("qemu-img").args(["convert", "-O", "qcow2", &image]).arg(&disk));
    let size = run(Command::new("qemu-img").args(["info", "--output=json"]).arg(&disk)).stdout;
    let size =
        serde_json::from_slice::<serde_json::Value>(&size).expect("JSON")["virtual-size"].as_u64().expect("a size");
    let extra = ["-m", "256", "-cpu", "Nehalem", "-serial", "null"];
    let qemu = Qemu::start(folder.path(), &Machine { extra: &extra, ..Machine::default() });
    let mut host = host(folder.path(), &["orders"]);
    // The tools that copy here are slow: one process for each extent.
    host.settings["fleece-limit-mib"] = json!(512);
    let written = |qemu: &Qemu| qemu.command("query-blockstats", json!({}))[0]["stats"]["wr_bytes"].as_u64();
    let until = Instant::now() + std::time::Duration::from_secs(120);
    while written(&qemu).is_none_or(|bytes| bytes < 110 << 20) {
        assert!(Instant::now() < until, "the guest does not write: {:?}", written(&qemu));
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let replica = folder.path().join("replica");
    run(Command::new("truncate").arg("-s").arg(size.to_string()).arg(&replica));
    let (mut tracked, mut begins, mut holds, mut ends, mut changed) = (Vec::new(), vec![], vec![], vec![], 0_u64);
    for cycle in 0..CYCLES {
        let start = Instant::now();
        let step = capture::begin(&host, &request(cycle, &["orders"], &tracked)).expect("a capture");
        begins.push(start.elapsed().as_micros());
        let CaptureStatus::Ready(report) = step.status else { panic!("captures are never pending") };
        holds.push(u128::from(report.held_microseconds));
        let captured = disks(&step.state);
        let uri = uri(&host, &step.state, &captured[0]);
        if cycle > 0 {
            assert!(matches!(captured[0].changes, Changes::Context(_)));
            changed += dirty(&uri, &captured[0]).iter().map(|(_, length)| length).sum::<u64>();
        }
        copy(&uri, &captured[0], &replica);
        assert!(is_same(&uri, &replica), "cycle {cycle}");
        capture::verify(&host, &step.state).expect("the view held");
        let start = Instant::now();
        capture::end(&host, &step.state, Some(Outcome::Committed)).expect("its end");
        ends.push(start.elapsed().as_micros());
        tracked = captured;
    }
    qemu.assert_clean();
    eprintln!("begin: {}", median(begins));
    eprintln!("held:  {}", median(holds));
    eprintln!("end:   {}", median(ends));
    eprintln!(
        "changed a cycle: {} KiB; guest wrote {:?} bytes",
        changed / 1024 / u64::from(CYCLES - 1),
        written(&qemu)
    );
    assert!(Path::new(&replica).exists() && changed > 0, "the guest did write");
}
