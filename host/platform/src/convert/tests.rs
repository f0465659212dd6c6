//! What cannot be true is refused, with a sentence that names it.

use farshore_core::CaptureId;

use super::*;
use crate::TrackedDisk;

fn request(machines: &[&str], tracked: &[(&str, &str)]) -> CaptureRequest {
    let machine = |name: &str| MachineId::new(name).expect("a name");
    CaptureRequest {
        id: CaptureId::from_bytes([1; 16]),
        owner: "farshore-test".to_owned(),
        machines: machines.iter().map(|name| machine(name)).collect(),
        tracked: tracked
            .iter()
            .map(|(name, disk)| TrackedDisk {
                machine: machine(name),
                disk: DiskId::new(*disk).expect("a name"),
                token: "t".to_owned(),
            })
            .collect(),
        consistency: Consistency::Crash,
        stall_limit_milliseconds: 1,
    }
}

fn captured(machine: &str, disk: &str, size_bytes: u64) -> abi::CapturedDisk {
    abi::CapturedDisk {
        machine: machine.to_owned(),
        disk: disk.to_owned(),
        size_bytes,
        token: None,
        changes: abi::Changes::Unknown("new".to_owned()),
        allocation: abi::Allocation::Unknown,
    }
}

#[test]
fn a_capture_has_each_disk_once_and_only_of_its_machines() {
    let one = || captured("a", "d", 512);
    let asked = request(&["a"], &[]);
    assert_eq!(captured_disks(&asked, vec![one()]).expect("true").len(), 1);
    let refused = [
        (vec![one(), one()], "twice"),
        (vec![one(), captured("b", "d", 512)], "not asked for"),
        (vec![], "no disk of machine a"),
        (vec![captured("a", "d", 0)], "has 0 bytes"),
        (vec![captured("a", "d", 513)], "has 513 bytes"),
        (vec![captured("a", "d", 1 << 53)], "bytes"),
        (vec![captured("a", "", 512)], "cannot name a disk"),
        (vec![captured("a\n", "d", 512)], "cannot name a machine"),
    ];
    for (disks, expected) in refused {
        let what = captured_disks(&asked, disks).expect_err("nonsense");
        assert!(what.contains(expected), "{what}");
    }
}

#[test]
fn changes_since_nothing_are_refused() {
    let mut disk = captured("a", "d", 512);
    disk.changes = abi::Changes::Context("qemu:dirty-bitmap:x".to_owned());
    assert!(captured_disks(&request(&["a"], &[("a", "d")]), vec![disk.clone()]).is_ok());
    let what = captured_disks(&request(&["a"], &[("a", "other")]), vec![disk]).expect_err("nobody asked");
    assert!(what.contains("since when"), "{what}");
}

#[test]
fn what_is_listed_becomes_contexts_and_changes_are_never_listed_alone() {
    let asked = request(&["a"], &[("a", "d")]);
    let disk = |changes, allocation| abi::CapturedDisk { changes, allocation, ..captured("a", "d", 512) };
    let both = captured_disks(&asked, vec![disk(abi::Changes::Listed, abi::Allocation::Listed)]).expect("true");
    assert_eq!(both[0].changes, Changes::Context(CHANGED_BLOCKS.to_owned()));
    assert_eq!(both[0].allocation_context.as_deref(), Some(ALLOCATED_BLOCKS));
    let unknown = abi::Changes::Unknown("new".to_owned());
    assert!(captured_disks(&asked, vec![disk(unknown, abi::Allocation::Listed)]).is_ok());
    for allocation in [abi::Allocation::Unknown, abi::Allocation::Context("base:allocation".to_owned())] {
        let what = captured_disks(&asked, vec![disk(abi::Changes::Listed, allocation)]).expect_err("nonsense");
        assert!(what.contains("what has content is not"), "{what}");
    }
    let since_nothing = disk(abi::Changes::Listed, abi::Allocation::Listed);
    let what = captured_disks(&request(&["a"], &[]), vec![since_nothing]).expect_err("nobody asked");
    assert!(what.contains("since when"), "{what}");
}

#[test]
fn a_machine_survives_the_boundary() {
    let machine = Machine {
        id: MachineId::new("orders").expect("a name"),
        name: "Orders".to_owned(),
        cpus: 2,
        memory_bytes: 1 << 28,
        firmware: Firmware::Uefi,
        power: PowerState::Paused,
        disks: vec![Disk {
            id: DiskId::new("vd0").expect("a name"),
            size_bytes: 1 << 29,
            boot: true,
            properties: BTreeMap::from([("controller".to_owned(), "virtio-blk-pci".to_owned())]),
        }],
        network_interfaces: vec![NetworkInterface {
            id: "net0".to_owned(),
            mac: Some("52:54:00:12:34:56".to_owned()),
            network: None,
            properties: BTreeMap::new(),
        }],
        properties: BTreeMap::new(),
    };
    assert_eq!(super::machine(machine_to_wit(&machine)), Ok(machine));
}

#[test]
fn a_platform_cannot_make_the_host_spin_or_sleep_for_ever() {
    for (asked, expected) in [(0, 10), (500, 500), (u32::MAX, 60_000)] {
        let wait = abi::Pending { doing: String::new(), poll_after_milliseconds: asked };
        assert_eq!(pending(wait).poll_after, Duration::from_millis(expected));
    }
}
