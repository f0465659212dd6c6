//! Between the words of the WIT and those of the host.
//!
//! What comes from a component is checked here as far as it can be checked alone: names, sizes, counts, duplicates. What
//! cannot be true becomes a sentence, and the caller makes it [`crate::SiteError::Nonsense`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use farshore_core::{Consistency, Disk, DiskId, Firmware, Instant, Machine, MachineId, NetworkInterface, PowerState};
use farshore_plugin::abi;

use crate::{
    AdapterState, CaptureReport, CaptureRequest, CapturedDisk, Changes, DiskRequest, Owned, OwnedKind, Pending,
    Readiness, ReadinessLevel, Step, StepStatus,
    blocks::{ALLOCATED_BLOCKS, CHANGED_BLOCKS},
};

/// Sizes of disks are multiples of this.
const SECTOR_BYTES: u64 = 512;
/// No disk is larger: 2^53 is the bound of every size in the WIT.
const DISK_BYTES_MAX: u64 = 1 << 53;
/// The least and the most that the host waits between two steps.
const POLL_AFTER_MILLISECONDS: std::ops::RangeInclusive<u64> = 10..=60_000;

/// What cannot be true, as a sentence.
pub(crate) type Nonsense = String;

fn machine_id(text: String) -> Result<MachineId, Nonsense> {
    MachineId::new(text).map_err(|error| error.to_string())
}

fn disk_id(text: String) -> Result<DiskId, Nonsense> {
    DiskId::new(text).map_err(|error| error.to_string())
}

fn disk_size(machine: &str, disk: &DiskId, size_bytes: u64) -> Result<u64, Nonsense> {
    if size_bytes == 0 || !size_bytes.is_multiple_of(SECTOR_BYTES) || size_bytes >= DISK_BYTES_MAX {
        return Err(format!("disk {disk} of machine {machine} has {size_bytes} bytes"));
    }
    Ok(size_bytes)
}

fn properties(list: Vec<abi::Property>) -> BTreeMap<String, String> {
    list.into_iter().map(|property| (property.name, property.value)).collect()
}

fn property_list(map: &BTreeMap<String, String>) -> Vec<abi::Property> {
    map.iter().map(|(name, value)| abi::Property { name: name.clone(), value: value.clone() }).collect()
}

pub(crate) fn machine(from: abi::Machine) -> Result<Machine, Nonsense> {
    let id = machine_id(from.id)?;
    let mut seen = BTreeSet::new();
    let mut disks = Vec::with_capacity(from.disks.len());
    for disk in from.disks {
        let disk_id = disk_id(disk.id)?;
        if !seen.insert(disk_id.clone()) {
            return Err(format!("machine {id} has disk {disk_id} twice"));
        }
        let size_bytes = disk_size(id.as_str(), &disk_id, disk.size_bytes)?;
        disks.push(Disk { id: disk_id, size_bytes, boot: disk.boot, properties: properties(disk.properties) });
    }
    let interface = |interface: abi::NetworkInterface| NetworkInterface {
        id: interface.id,
        mac: interface.mac,
        network: interface.network,
        properties: properties(interface.properties),
    };
    Ok(Machine {
        id,
        name: from.name,
        cpus: from.cpus,
        memory_bytes: from.memory_bytes,
        firmware: match from.firmware {
            abi::Firmware::Bios => Firmware::Bios,
            abi::Firmware::Uefi => Firmware::Uefi,
        },
        power: match from.power {
            abi::PowerState::Off => PowerState::Off,
            abi::PowerState::Running => PowerState::Running,
            abi::PowerState::Paused => PowerState::Paused,
            abi::PowerState::Unknown => PowerState::Unknown,
        },
        disks,
        network_interfaces: from.network_interfaces.into_iter().map(interface).collect(),
        properties: properties(from.properties),
    })
}

pub(crate) fn machine_to_wit(machine: &Machine) -> abi::Machine {
    abi::Machine {
        id: machine.id.to_string(),
        name: machine.name.clone(),
        cpus: machine.cpus,
        memory_bytes: machine.memory_bytes,
        firmware: match machine.firmware {
            Firmware::Bios => abi::Firmware::Bios,
            Firmware::Uefi => abi::Firmware::Uefi,
        },
        power: match machine.power {
            PowerState::Off => abi::PowerState::Off,
            PowerState::Running => abi::PowerState::Running,
            PowerState::Paused => abi::PowerState::Paused,
            PowerState::Unknown => abi::PowerState::Unknown,
        },
        disks: machine
            .disks
            .iter()
            .map(|disk| abi::Disk {
                id: disk.id.to_string(),
                size_bytes: disk.size_bytes,
                boot: disk.boot,
                properties: property_list(&disk.properties),
            })
            .collect(),
        network_interfaces: machine
            .network_interfaces
            .iter()
            .map(|interface| abi::NetworkInterface {
                id: interface.id.clone(),
                mac: interface.mac.clone(),
                network: interface.network.clone(),
                properties: property_list(&interface.properties),
            })
            .collect(),
        properties: property_list(&machine.properties),
    }
}

fn pending(from: abi::Pending) -> Pending {
    let (least, most) = POLL_AFTER_MILLISECONDS.into_inner();
    let poll_after = Duration::from_millis(u64::from(from.poll_after_milliseconds).clamp(least, most));
    Pending { doing: from.doing, poll_after }
}

fn consistency(from: abi::Consistency) -> Consistency {
    match from {
        abi::Consistency::Crash => Consistency::Crash,
        abi::Consistency::Application => Consistency::Application,
    }
}

pub(crate) fn capture_request(request: &CaptureRequest) -> abi::CaptureRequest {
    abi::CaptureRequest {
        id: request.id.to_string(),
        owner: request.owner.clone(),
        machines: request.machines.iter().map(ToString::to_string).collect(),
        tracked: request
            .tracked
            .iter()
            .map(|tracked| abi::TrackedDisk {
                machine: tracked.machine.to_string(),
                disk: tracked.disk.to_string(),
                token: tracked.token.clone(),
            })
            .collect(),
        consistency: match request.consistency {
            Consistency::Crash => abi::Consistency::Crash,
            Consistency::Application => abi::Consistency::Application,
        },
        stall_limit_milliseconds: request.stall_limit_milliseconds,
    }
}

pub(crate) fn capture_step(from: abi::CaptureStep) -> Step<CaptureReport> {
    let status = match from.status {
        abi::CaptureStatus::Pending(wait) => StepStatus::Pending(pending(wait)),
        abi::CaptureStatus::Ready(report) => StepStatus::Ready(CaptureReport {
            instant: match report.instant {
                abi::Instant::Group => Instant::Group,
                abi::Instant::Machine => Instant::Machine,
            },
            consistency: consistency(report.consistency),
            held_microseconds: report.held_microseconds,
            note: report.note,
        }),
    };
    Step { state: AdapterState(from.state), status }
}

pub(crate) fn power_step(from: abi::PowerStep) -> Step<String> {
    let status = match from.status {
        abi::PowerStatus::Pending(wait) => StepStatus::Pending(pending(wait)),
        abi::PowerStatus::Off(proof) => StepStatus::Ready(proof),
    };
    Step { state: AdapterState(from.state), status }
}

pub(crate) fn disk_step(from: abi::DiskStep) -> Step<String> {
    let status = match from.status {
        abi::DiskStatus::Pending(wait) => StepStatus::Pending(pending(wait)),
        abi::DiskStatus::Ready(done) => StepStatus::Ready(done.note),
    };
    Step { state: AdapterState(from.state), status }
}

pub(crate) fn machine_step(from: abi::MachineStep) -> Step<String> {
    let status = match from.status {
        abi::MachineStatus::Pending(wait) => StepStatus::Pending(pending(wait)),
        abi::MachineStatus::Ready(done) => StepStatus::Ready(done.note),
    };
    Step { state: AdapterState(from.state), status }
}

pub(crate) fn readiness(from: abi::Readiness) -> Readiness {
    let level = match from.level {
        abi::Level::Off => ReadinessLevel::Off,
        abi::Level::Running => ReadinessLevel::Running,
        abi::Level::Ready => ReadinessLevel::Ready,
    };
    Readiness { level, evidence: from.evidence }
}

/// The disks of a capture: each once, of machines of the request only, with tokens only where the answer makes sense.
pub(crate) fn captured_disks(
    request: &CaptureRequest,
    from: Vec<abi::CapturedDisk>,
) -> Result<Vec<CapturedDisk>, Nonsense> {
    let mut seen = BTreeSet::new();
    let mut disks = Vec::with_capacity(from.len());
    for disk in from {
        let (machine, id) = (machine_id(disk.machine)?, disk_id(disk.disk)?);
        if !request.machines.contains(&machine) {
            return Err(format!("the capture has a disk of machine {machine}, which was not asked for"));
        }
        if !seen.insert((machine.clone(), id.clone())) {
            return Err(format!("the capture has disk {id} of machine {machine} twice"));
        }
        let size_bytes = disk_size(machine.as_str(), &id, disk.size_bytes)?;
        let asked = request.tracked.iter().any(|tracked| tracked.machine == machine && tracked.disk == id);
        let changes = match disk.changes {
            abi::Changes::Unknown(reason) => Changes::Unknown(reason),
            abi::Changes::Context(_) | abi::Changes::Listed if !asked => {
                return Err(format!(
                    "the capture knows what changed on disk {id} of machine {machine}, but not since when"
                ));
            }
            abi::Changes::Context(context) => Changes::Context(context),
            abi::Changes::Listed => Changes::Context(CHANGED_BLOCKS.to_owned()),
        };
        let allocation_context = match disk.allocation {
            abi::Allocation::Unknown => None,
            abi::Allocation::Context(context) => Some(context),
            abi::Allocation::Listed => Some(ALLOCATED_BLOCKS.to_owned()),
        };
        // A key that expired is asked for anew, and what a delta does not name is asked for there.
        if matches!(&changes, Changes::Context(context) if context == CHANGED_BLOCKS)
            && allocation_context.as_deref() != Some(ALLOCATED_BLOCKS)
        {
            return Err(format!(
                "what changed on disk {id} of machine {machine} is `listed`, but what has content is not"
            ));
        }
        disks.push(CapturedDisk { machine, disk: id, size_bytes, token: disk.token, changes, allocation_context });
    }
    if let Some(missing) = request.machines.iter().find(|machine| !disks.iter().any(|disk| disk.machine == **machine)) {
        return Err(format!("the capture has no disk of machine {missing}"));
    }
    Ok(disks)
}

pub(crate) fn owned(from: abi::Owned) -> Owned {
    let kind = match from.kind {
        abi::Kind::Capture => OwnedKind::Capture,
        abi::Kind::Disk => OwnedKind::Disk,
        abi::Kind::Machine => OwnedKind::Machine,
    };
    Owned {
        kind,
        id: from.id,
        owner: from.owner,
        run: from.run,
        description: from.description,
        state: AdapterState(from.state),
    }
}

pub(crate) const fn owned_kind(kind: OwnedKind) -> abi::Kind {
    match kind {
        OwnedKind::Capture => abi::Kind::Capture,
        OwnedKind::Disk => abi::Kind::Disk,
        OwnedKind::Machine => abi::Kind::Machine,
    }
}

pub(crate) fn owned_to_wit(item: &Owned) -> abi::Owned {
    abi::Owned {
        kind: owned_kind(item.kind),
        id: item.id.clone(),
        owner: item.owner.clone(),
        run: item.run.clone(),
        description: item.description.clone(),
        state: item.state.0.clone(),
    }
}

pub(crate) fn disk_request(request: &DiskRequest) -> abi::DiskRequest {
    abi::DiskRequest {
        id: request.id.clone(),
        owner: request.owner.clone(),
        run: request.run.to_string(),
        machine_name: request.machine_name.clone(),
        disk: request.disk.id.to_string(),
        size_bytes: request.disk.size_bytes,
        properties: property_list(&request.disk.properties),
    }
}

#[cfg(test)]
mod tests;
