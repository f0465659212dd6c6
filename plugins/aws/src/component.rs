//! The shell around the adapter: the host's imports as [`Host`], and the adapter's functions as exports.

use crate::{
    bindings::{
        export,
        exports::farshore::platform::{
            inventory, ownership as ownership_abi, power as power_abi, sealed_disks, source, source_blocks,
        },
        exports::farshore::platform::{target_disks as disks_abi, target_machines as machines_abi},
        farshore::{
            host::{clock, http, log, settings, transports::Transport},
            platform::model::{Done, Machine, PlatformError},
        },
    },
    blocks, capture,
    error::while_doing,
    inventory as instances, ownership,
    ports::{BlockDisk, Host, HostError, Level, Request, Response},
    power, target_disks, target_machines,
};

struct Imports;

impl Host for Imports {
    fn settings(&self) -> Result<String, HostError> {
        settings::get().map(|document| document.json)
    }

    fn send(&self, endpoint: &str, request: &Request) -> Result<Response, HostError> {
        http::send(endpoint, request)
    }

    fn monotonic_nanoseconds(&self) -> Result<u64, HostError> {
        clock::monotonic().map(|instant| instant.nanoseconds)
    }

    fn sleep(&self, milliseconds: u32) -> Result<(), HostError> {
        clock::sleep(milliseconds).map(drop)
    }

    fn log(&self, level: Level, line: &str) {
        log::write(level, line);
    }
}

fn open(disk: &BlockDisk) -> Result<Transport, PlatformError> {
    http::open_blocks(disk).map_err(|error| while_doing("opening a disk", error))
}

struct Component;

impl inventory::Guest for Component {
    fn describe() -> Result<inventory::Description, PlatformError> {
        Ok(instances::describe())
    }

    fn list_machines(cursor: Option<String>) -> Result<inventory::MachinePage, PlatformError> {
        instances::list_machines(&Imports, cursor.as_deref())
    }
}

impl source::Guest for Component {
    fn begin_capture(request: source::CaptureRequest) -> Result<source::CaptureStep, PlatformError> {
        capture::begin(&Imports, &request)
    }

    fn continue_capture(request: source::CaptureRequest, state: Vec<u8>) -> Result<source::CaptureStep, PlatformError> {
        capture::go_on(&Imports, &request, &state)
    }

    fn list_disks(state: Vec<u8>, cursor: Option<String>) -> Result<source::CapturedDiskPage, PlatformError> {
        capture::list_disks(&state, cursor.as_deref())
    }

    fn open_disk(state: Vec<u8>, machine: String, disk: String) -> Result<Transport, PlatformError> {
        open(&blocks::place(&state, &machine, &disk)?)
    }

    fn verify_capture(state: Vec<u8>) -> Result<source::CaptureEnd, PlatformError> {
        capture::verify(&Imports, &state)
    }

    fn end_capture(state: Vec<u8>, outcome: source::Outcome) -> Result<source::CaptureEnd, PlatformError> {
        capture::end(&Imports, &state, Some(outcome))
    }
}

impl source_blocks::Guest for Component {
    fn list_blocks(
        state: Vec<u8>,
        machine: String,
        disk: String,
        set: source_blocks::BlockSet,
        offset: u64,
    ) -> Result<source_blocks::BlockPage, PlatformError> {
        blocks::list(&Imports, &state, &machine, &disk, set, offset)
    }
}

impl power_abi::Guest for Component {
    fn stop_machine(machine: String, manner: power_abi::Manner) -> Result<power_abi::PowerStep, PlatformError> {
        power::stop_machine(&Imports, &machine, manner)
    }

    fn continue_stop(
        machine: String,
        manner: power_abi::Manner,
        _state: Vec<u8>,
    ) -> Result<power_abi::PowerStep, PlatformError> {
        power::stop_machine(&Imports, &machine, manner)
    }
}

impl disks_abi::Guest for Component {
    fn begin_disk(request: disks_abi::DiskRequest) -> Result<disks_abi::DiskStep, PlatformError> {
        target_disks::begin(&Imports, &request)
    }

    fn open_disk(state: Vec<u8>) -> Result<Transport, PlatformError> {
        open(&target_disks::open(&state)?)
    }

    fn seal_disk(
        state: Vec<u8>,
        written: Option<disks_abi::WrittenBlocks>,
    ) -> Result<disks_abi::DiskStep, PlatformError> {
        target_disks::seal(&Imports, &state, written.as_ref())
    }

    fn continue_disk(state: Vec<u8>) -> Result<disks_abi::DiskStep, PlatformError> {
        target_disks::go_on(&Imports, &state)
    }

    fn discard_disk(state: Vec<u8>) -> Result<Done, PlatformError> {
        target_disks::discard(&Imports, &state)
    }
}

impl sealed_disks::Guest for Component {
    fn begin_disk_from(request: disks_abi::DiskRequest, base: Vec<u8>) -> Result<disks_abi::DiskStep, PlatformError> {
        target_disks::begin_from(&Imports, &request, &base)
    }
}

impl machines_abi::Guest for Component {
    fn check_machine(machine: Machine, _cursor: Option<String>) -> Result<machines_abi::FindingPage, PlatformError> {
        target_machines::check(&Imports, &machine)
    }

    fn define_machine(request: machines_abi::MachineRequest) -> Result<machines_abi::MachineStep, PlatformError> {
        target_machines::define(&Imports, &request)
    }

    fn start_machine(state: Vec<u8>) -> Result<machines_abi::MachineStep, PlatformError> {
        target_machines::start(&Imports, &state)
    }

    fn continue_machine(state: Vec<u8>) -> Result<machines_abi::MachineStep, PlatformError> {
        target_machines::go_on(&Imports, &state)
    }

    fn check_readiness(state: Vec<u8>) -> Result<machines_abi::Readiness, PlatformError> {
        target_machines::check_readiness(&Imports, &state)
    }

    fn stop_machine(state: Vec<u8>, manner: machines_abi::Manner) -> Result<machines_abi::MachineStep, PlatformError> {
        target_machines::stop(&Imports, &state, manner)
    }

    fn remove_machine(state: Vec<u8>) -> Result<Done, PlatformError> {
        target_machines::remove(&Imports, &state)
    }
}

impl ownership_abi::Guest for Component {
    fn list_owned(
        kind: ownership_abi::Kind,
        owner: String,
        cursor: Option<String>,
    ) -> Result<ownership_abi::OwnedPage, PlatformError> {
        ownership::list(&Imports, kind, &owner, cursor.as_deref())
    }

    fn release_owned(item: ownership_abi::Owned) -> Result<Done, PlatformError> {
        ownership::release(&Imports, &item)
    }
}

export!(Component with_types_in crate::bindings);
