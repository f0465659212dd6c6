//! The shell around the adapter: the host's imports as [`Host`], and the adapter's functions as exports.

use crate::{
    bindings::{
        export,
        exports::farshore::platform::{inventory, ownership as ownership_abi, power as power_abi, source},
        exports::farshore::platform::{target_disks as disks_abi, target_machines as machines_abi},
        farshore::{
            host::{clock, files, log, nbd, programs, progress, settings, streams, transports::Transport},
            platform::model::{Done, Machine, PlatformError},
        },
    },
    capture,
    error::while_doing,
    inventory as machines, ownership,
    ports::{Chunk, Completion, Connection, EntryPage, File, Host, HostError, Level, Place, Repetition, Slot},
    power, target_disks, target_machines,
};

struct Imports;

impl Connection for streams::Connection {
    fn read(&mut self, max_bytes: u32, timeout_milliseconds: u32) -> Result<Chunk, HostError> {
        streams::Connection::read(self, max_bytes, timeout_milliseconds)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), HostError> {
        streams::Connection::write(self, bytes).map(drop)
    }
}

impl Host for Imports {
    fn settings(&self) -> Result<String, HostError> {
        settings::get().map(|document| document.json)
    }

    fn connect_unix(&self, path: &str) -> Result<Box<dyn Connection>, HostError> {
        Ok(Box::new(streams::Connection::connect_unix(path)?))
    }

    fn monotonic_nanoseconds(&self) -> Result<u64, HostError> {
        clock::monotonic().map(|instant| instant.nanoseconds)
    }

    fn sleep(&self, milliseconds: u32) -> Result<(), HostError> {
        clock::sleep(milliseconds).map(drop)
    }

    fn create_file(&self, path: &str, size_bytes: u64) -> Result<File, HostError> {
        files::create(path, size_bytes)
    }

    fn inspect_file(&self, path: &str) -> Result<File, HostError> {
        files::inspect(path)
    }

    fn remove_file(&self, path: &str) -> Result<bool, HostError> {
        files::remove(path).map(|removal| removal.removed)
    }

    fn list_folder(&self, path: &str, cursor: Option<&str>) -> Result<EntryPage, HostError> {
        files::list_folder(path, cursor)
    }

    fn run_program(&self, template: &str, slots: &[Slot], repetitions: &[Repetition]) -> Result<Completion, HostError> {
        programs::run(template, slots, repetitions)
    }

    fn log(&self, level: Level, line: &str) {
        log::write(level, line);
    }

    fn progress(&self, doing: &str, done: u64, total: Option<u64>) {
        progress::report(&progress::Update { doing: doing.into(), done, total });
    }
}

fn open(place: Place) -> Result<Transport, PlatformError> {
    match place {
        Place::Nbd { socket, name } => {
            let exported = nbd::ExportedDisk { address: nbd::Address::Unix(socket), name, read_only: true };
            nbd::open(&exported)
        }
        Place::File { path } => files::open(&path, false),
    }
    .map_err(|error| match error {
        HostError::NotFound(text) => PlatformError::NotFound(text),
        error => while_doing("opening a disk", &error),
    })
}

struct Component;

impl inventory::Guest for Component {
    fn describe() -> Result<inventory::Description, PlatformError> {
        Ok(machines::describe())
    }

    fn list_machines(cursor: Option<String>) -> Result<inventory::MachinePage, PlatformError> {
        machines::list_machines(&Imports, cursor.as_deref())
    }
}

impl source::Guest for Component {
    fn begin_capture(request: source::CaptureRequest) -> Result<source::CaptureStep, PlatformError> {
        capture::begin(&Imports, &request)
    }

    fn continue_capture(
        _request: source::CaptureRequest,
        _state: Vec<u8>,
    ) -> Result<source::CaptureStep, PlatformError> {
        Err(PlatformError::Failed("a capture of QEMU machines is never pending".into()))
    }

    fn list_disks(state: Vec<u8>, cursor: Option<String>) -> Result<source::CapturedDiskPage, PlatformError> {
        capture::list_disks(&state, cursor.as_deref())
    }

    fn open_disk(state: Vec<u8>, machine: String, disk: String) -> Result<Transport, PlatformError> {
        open(capture::open_disk(&Imports, &state, &machine, &disk)?)
    }

    fn verify_capture(state: Vec<u8>) -> Result<source::CaptureEnd, PlatformError> {
        capture::verify(&Imports, &state)
    }

    fn end_capture(state: Vec<u8>, outcome: source::Outcome) -> Result<source::CaptureEnd, PlatformError> {
        capture::end(&Imports, &state, Some(outcome))
    }
}

impl power_abi::Guest for Component {
    fn stop_machine(machine: String, manner: power_abi::Manner) -> Result<power_abi::PowerStep, PlatformError> {
        power::stop_machine(&Imports, &machine, manner)
    }

    fn continue_stop(
        machine: String,
        manner: power_abi::Manner,
        state: Vec<u8>,
    ) -> Result<power_abi::PowerStep, PlatformError> {
        power::continue_stop(&Imports, &machine, manner, &state)
    }
}

impl disks_abi::Guest for Component {
    fn begin_disk(request: disks_abi::DiskRequest) -> Result<disks_abi::DiskStep, PlatformError> {
        target_disks::begin(&Imports, &request)
    }

    fn open_disk(state: Vec<u8>) -> Result<Transport, PlatformError> {
        open(target_disks::open(&Imports, &state)?)
    }

    fn seal_disk(state: Vec<u8>, _: Option<disks_abi::WrittenBlocks>) -> Result<disks_abi::DiskStep, PlatformError> {
        target_disks::seal(&Imports, &state)
    }

    fn continue_disk(state: Vec<u8>) -> Result<disks_abi::DiskStep, PlatformError> {
        target_disks::seal(&Imports, &state)
    }

    fn discard_disk(state: Vec<u8>) -> Result<Done, PlatformError> {
        target_disks::discard(&Imports, &state)
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
