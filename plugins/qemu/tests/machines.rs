//! What machines say of themselves, and turning them off.

mod support;

use farshore_adapter_qemu::{
    bindings::{
        exports::farshore::platform::{
            power::{Manner, PowerStatus},
            source::Outcome,
        },
        farshore::platform::model::{Firmware, PowerState},
    },
    capture,
    error::PlatformError,
    inventory, power,
};
use serde_json::json;
use support::{Machine, Qemu, disks, folder, host, request};

#[test]
fn machines_are_described_also_while_they_are_captured() {
    let folder = folder();
    let extra = [
        "-smp",
        "2",
        "-uuid",
        "11111111-2222-3333-4444-555555555555",
        "-netdev",
        "user,id=lan,restrict=on",
        "-device",
        "e1000,id=n0,netdev=lan,mac=52:54:00:AA:BB:CC",
        "-device",
        "virtio-net-pci,netdev=wan,mac=52:54:00:aa:bb:dd",
        "-netdev",
        "user,id=wan,restrict=on",
        "-device",
        "virtio-scsi-pci",
        "-blockdev",
        "driver=null-co,node-name=n,size=1048576",
        "-device",
        "scsi-hd,drive=n,id=sd0,serial=XYZ,bootindex=1",
        "-device",
        "scsi-cd,id=cd0",
    ];
    let qemu = Qemu::start(folder.path(), &Machine { mebibytes: 8, extra: &extra, ..Machine::default() });
    let host = host(folder.path(), &["orders", "gone"]);
    let look = || {
        let page = inventory::list_machines(&host, None).expect("a list");
        assert_eq!((page.machines.len(), page.next), (2, None));
        page.machines
    };
    let machines = look();
    let orders = &machines[0];
    assert_eq!((orders.id.as_str(), orders.cpus, orders.memory_bytes), ("orders", 2, 16 << 20));
    assert_eq!((orders.firmware, orders.power), (Firmware::Bios, PowerState::Running));
    assert!(orders.properties.iter().any(|property| property.value == "11111111-2222-3333-4444-555555555555"));
    let disks_of = orders.disks.iter().map(|disk| (disk.id.as_str(), disk.size_bytes, disk.boot)).collect::<Vec<_>>();
    assert_eq!(disks_of, [("vd0", 8 << 20, false), ("sd0", 1 << 20, true)]);
    assert!(
        orders.disks[1]
            .properties
            .iter()
            .any(|property| (property.name.as_str(), property.value.as_str()) == ("serial", "XYZ"))
    );
    let interfaces = orders.network_interfaces.iter().map(|found| (found.mac.as_deref(), found.network.as_deref()));
    assert_eq!(
        interfaces.collect::<Vec<_>>(),
        [(Some("52:54:00:aa:bb:cc"), Some("lan")), (Some("52:54:00:aa:bb:dd"), Some("wan"))]
    );
    assert_eq!((machines[1].id.as_str(), machines[1].power), ("gone", PowerState::Unknown));
    // The guest's own view does not change during a capture.
    let step = capture::begin(&host, &request(1, &["orders"], &[])).expect("a capture");
    assert_eq!(look(), machines);
    capture::end(&host, &step.state, Some(Outcome::Abandoned)).expect("its end");
    qemu.command("stop", json!({}));
    assert_eq!(look()[0].power, PowerState::Paused);
}

#[test]
fn excluded_disks_are_left_out_and_wrong_ones_named() {
    let folder = folder();
    let _qemu = Qemu::start(folder.path(), &Machine { disks: 2, mebibytes: 8, ..Machine::default() });
    let mut host = host(folder.path(), &["orders"]);
    host.settings["machines"][0]["exclude-disks"] = json!(["vd0"]);
    let step = capture::begin(&host, &request(1, &["orders"], &[])).expect("a capture");
    let captured = disks(&step.state);
    assert_eq!(captured.iter().map(|disk| disk.disk.as_str()).collect::<Vec<_>>(), ["vd1"]);
    capture::end(&host, &step.state, Some(Outcome::Abandoned)).expect("its end");
    host.settings["machines"][0]["exclude-disks"] = json!(["vd0", "vd1"]);
    assert!(matches!(capture::begin(&host, &request(2, &["orders"], &[])), Err(PlatformError::Unsupported(_))));
    host.settings["machines"][0]["exclude-disks"] = json!(["vda"]);
    let error = capture::begin(&host, &request(3, &["orders"], &[])).expect_err("no such disk");
    assert!(matches!(&error, PlatformError::Settings(text) if text.contains("vd0, vd1")), "{error:?}");
    assert!(matches!(capture::begin(&host, &request(4, &["other"], &[])), Err(PlatformError::NotFound(_))));
}

#[test]
fn off_is_said_on_evidence_only() {
    let folder = folder();
    let mut qemu = Qemu::start(folder.path(), &Machine { mebibytes: 8, ..Machine::default() });
    let host = host(folder.path(), &["orders"]);
    // There is no guest that could shut down.
    let step = power::stop_machine(&host, "orders", Manner::Graceful).expect("asked");
    assert!(matches!(step.status, PowerStatus::Pending(_)));
    let step = power::continue_stop(&host, "orders", Manner::Graceful, &step.state).expect("still asked");
    assert!(matches!(step.status, PowerStatus::Pending(_)));
    assert_eq!(qemu.command("query-status", json!({}))["status"], "running");
    qemu.command("stop", json!({}));
    let error = power::continue_stop(&host, "orders", Manner::Graceful, &step.state).expect_err("it cannot");
    assert!(matches!(&error, PlatformError::Conflict(text) if text.contains("paused")), "{error:?}");
    let step = power::stop_machine(&host, "orders", Manner::Forced).expect("ended");
    assert!(matches!(&step.status, PowerStatus::Off(proof) if proof.contains("quit")), "{step:?}");
    assert!(qemu.has_ended());
    for manner in [Manner::Forced, Manner::Graceful] {
        let error = power::stop_machine(&host, "orders", manner).expect_err("nobody answers");
        assert!(matches!(error, PlatformError::Unreachable(_)), "{error:?}");
    }
}
