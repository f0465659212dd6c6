//! What the component answers.

use crate::{
    Component, Settings,
    bindings::{
        exports::farshore::platform::{inventory, ownership, power, source, target_disks, target_machines},
        farshore::{
            host::{
                files,
                nbd::{self, Address, ExportedDisk},
            },
            platform::model::{
                Disk, Done, Firmware, Machine, NetworkInterface, Pending, PlatformError, PowerState, Property,
            },
        },
    },
    deeds, told,
};

/// The behaviour of an adapter that protects one machine with one disk: the file `path`, which it says has `value` bytes.
const SOURCE: &str = "source";

fn machine(id: &str, name: &str) -> Machine {
    Machine {
        id: id.to_owned(),
        name: name.to_owned(),
        cpus: 1,
        memory_bytes: 1 << 30,
        firmware: Firmware::Bios,
        power: PowerState::Off,
        disks: Vec::new(),
        network_interfaces: Vec::new(),
        properties: Vec::new(),
    }
}

fn disk(id: &str, size_bytes: u64) -> Disk {
    Disk { id: id.to_owned(), size_bytes, boot: false, properties: Vec::new() }
}

fn interface(id: &str, mac: Option<&str>) -> NetworkInterface {
    NetworkInterface { id: id.to_owned(), mac: mac.map(str::to_owned), network: None, properties: Vec::new() }
}

impl inventory::Guest for Component {
    fn describe() -> Result<inventory::Description, PlatformError> {
        let name = "hostile".to_owned();
        Ok(inventory::Description { name, version: "0.1.0".to_owned(), settings_schema: "{}".to_owned() })
    }

    fn list_machines(_: Option<String>) -> Result<inventory::MachinePage, PlatformError> {
        let settings = Settings::read()?;
        let mut page = inventory::MachinePage { machines: vec![machine("one", "one")], next: None };
        let Some(first) = page.machines.first_mut() else { return Ok(page) };
        match settings.behaviour.as_str() {
            SOURCE => first.disks.push(disk("d", settings.size()?)),
            "huge-name" => first.name = "x".repeat(2 << 20),
            "control-name" => first.name = "\u{1b}[2J".to_owned(),
            "empty-id" => first.id = String::new(),
            "huge-page" => page.machines = (0..101).map(|n| machine(&n.to_string(), "x")).collect(),
            "same-id-twice" => page.machines.push(machine("one", "two")),
            "huge-result" => {
                let property = Property { name: "x".to_owned(), value: "x".repeat(1 << 20) };
                first.properties = vec![property; 20];
            }
            "odd-size" => first.disks.push(disk("d", 1_000)),
            "size-beyond-doubles" => first.disks.push(disk("d", 1 << 53)),
            "same-disk-twice" => first.disks = vec![disk("d", 512), disk("d", 1_024)],
            "many-disks" => first.disks = (0..257).map(|n| disk(&n.to_string(), 512)).collect(),
            "bad-mac" => first.network_interfaces.push(interface("n", Some("52:54:00:12:34"))),
            "huge-cursor" => page.next = Some("x".repeat(5_000)),
            "error-with-control" => return Err(PlatformError::Failed("\u{1b}[2J".to_owned())),
            "huge-error" => return Err(PlatformError::Failed("x".repeat(1 << 20))),
            _ => {
                let told = deeds::perform(&settings)?;
                let plain = |character: char| if character.is_control() { ' ' } else { character };
                first.name = format!("={told}").chars().map(plain).take(200).collect();
            }
        }
        Ok(page)
    }
}

fn pending(poll_after_milliseconds: u32) -> Pending {
    Pending { doing: "waiting".to_owned(), poll_after_milliseconds }
}

impl source::Guest for Component {
    fn begin_capture(_: source::CaptureRequest) -> Result<source::CaptureStep, PlatformError> {
        let settings = Settings::read()?;
        if settings.behaviour == SOURCE {
            let report = source::CaptureReport {
                instant: source::Instant::Group,
                consistency: source::Consistency::Crash,
                held_microseconds: 0,
                note: String::new(),
            };
            return Ok(source::CaptureStep { state: vec![7], status: source::CaptureStatus::Ready(report) });
        }
        let (bytes, wait) = match settings.behaviour.as_str() {
            "huge-state" => ((64 << 10) + 1, 1),
            "huge-wait" => (0, 60_001),
            _ => (64 << 10, 60_000),
        };
        Ok(source::CaptureStep { state: vec![7; bytes], status: source::CaptureStatus::Pending(pending(wait)) })
    }

    fn continue_capture(request: source::CaptureRequest, _: Vec<u8>) -> Result<source::CaptureStep, PlatformError> {
        Self::begin_capture(request)
    }

    fn list_disks(_: Vec<u8>, _: Option<String>) -> Result<source::CapturedDiskPage, PlatformError> {
        let settings = Settings::read()?;
        if settings.behaviour == SOURCE {
            let disk = source::CapturedDisk {
                machine: "one".to_owned(),
                disk: "d".to_owned(),
                size_bytes: settings.size()?,
                token: None,
                changes: source::Changes::Unknown("nothing is tracked".to_owned()),
                allocation: source::Allocation::Unknown,
            };
            return Ok(source::CapturedDiskPage { disks: vec![disk], next: None });
        }
        let disk = source::CapturedDisk {
            machine: "one".to_owned(),
            disk: "d".to_owned(),
            size_bytes: 512,
            token: Some("x".repeat(1_025)),
            changes: source::Changes::Context(String::new()),
            allocation: source::Allocation::Unknown,
        };
        Ok(source::CapturedDiskPage { disks: vec![disk], next: None })
    }

    fn open_disk(_: Vec<u8>, _: String, _: String) -> Result<source::Transport, PlatformError> {
        let settings = Settings::read()?;
        if ["file", SOURCE].contains(&settings.behaviour.as_str()) {
            return files::open(&settings.path, true).map_err(told);
        }
        let address = Address::Unix(settings.path);
        nbd::open(&ExportedDisk { address, name: "d".to_owned(), read_only: true }).map_err(told)
    }

    fn verify_capture(_: Vec<u8>) -> Result<source::CaptureEnd, PlatformError> {
        if Settings::read()?.behaviour == SOURCE {
            return Ok(source::CaptureEnd { note: String::new() });
        }
        Err(PlatformError::CaptureBroken("the store is full".to_owned()))
    }

    fn end_capture(_: Vec<u8>, _: source::Outcome) -> Result<source::CaptureEnd, PlatformError> {
        let note = if Settings::read()?.behaviour == SOURCE { String::new() } else { "x".repeat(1_025) };
        Ok(source::CaptureEnd { note })
    }
}

fn unsupported<T>() -> Result<T, PlatformError> {
    Err(PlatformError::Unsupported("hostile".to_owned()))
}

impl power::Guest for Component {
    fn stop_machine(_: String, _: power::Manner) -> Result<power::PowerStep, PlatformError> {
        unsupported()
    }

    fn continue_stop(_: String, _: power::Manner, _: Vec<u8>) -> Result<power::PowerStep, PlatformError> {
        unsupported()
    }
}

impl target_disks::Guest for Component {
    fn begin_disk(_: target_disks::DiskRequest) -> Result<target_disks::DiskStep, PlatformError> {
        unsupported()
    }

    fn open_disk(_: Vec<u8>) -> Result<target_disks::Transport, PlatformError> {
        unsupported()
    }

    fn seal_disk(_: Vec<u8>, _: Option<target_disks::WrittenBlocks>) -> Result<target_disks::DiskStep, PlatformError> {
        unsupported()
    }

    fn continue_disk(_: Vec<u8>) -> Result<target_disks::DiskStep, PlatformError> {
        unsupported()
    }

    fn discard_disk(_: Vec<u8>) -> Result<Done, PlatformError> {
        unsupported()
    }
}

impl target_machines::Guest for Component {
    fn check_machine(_: Machine, _: Option<String>) -> Result<target_machines::FindingPage, PlatformError> {
        unsupported()
    }

    fn define_machine(_: target_machines::MachineRequest) -> Result<target_machines::MachineStep, PlatformError> {
        unsupported()
    }

    fn start_machine(_: Vec<u8>) -> Result<target_machines::MachineStep, PlatformError> {
        unsupported()
    }

    fn continue_machine(_: Vec<u8>) -> Result<target_machines::MachineStep, PlatformError> {
        unsupported()
    }

    fn check_readiness(_: Vec<u8>) -> Result<target_machines::Readiness, PlatformError> {
        unsupported()
    }

    fn stop_machine(_: Vec<u8>, _: target_machines::Manner) -> Result<target_machines::MachineStep, PlatformError> {
        unsupported()
    }

    fn remove_machine(_: Vec<u8>) -> Result<Done, PlatformError> {
        unsupported()
    }
}

impl ownership::Guest for Component {
    fn list_owned(_: ownership::Kind, _: String, _: Option<String>) -> Result<ownership::OwnedPage, PlatformError> {
        let owned = ownership::Owned {
            kind: ownership::Kind::Capture,
            id: String::new(),
            owner: "farshore".to_owned(),
            run: None,
            description: String::new(),
            state: Vec::new(),
        };
        Ok(ownership::OwnedPage { items: vec![owned; 101], next: None })
    }

    fn release_owned(_: ownership::Owned) -> Result<Done, PlatformError> {
        unsupported()
    }
}
