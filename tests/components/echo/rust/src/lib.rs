//! Sends back every type of `wit/`, in Rust.

#![allow(missing_docs, reason = "the code is generated")]

mod bindings {
    wit_bindgen::generate!({
        path: ["../../../../wit/host", "../../../../wit/platform", "../wit"],
        world: "farshore:echo/echo-adapter@0.1.0-draft.5",
        generate_all,
    });
}

use bindings::{
    exports::farshore::{
        echo::echo,
        platform::{inventory, ownership, power, sealed_disks, source, source_blocks, target_disks, target_machines},
    },
    farshore::{
        host::{clock, log, progress, settings},
        platform::model::{Done, Firmware, Machine, PlatformError, PowerState},
    },
};

struct Component;

bindings::export!(Component with_types_in bindings);

macro_rules! echoes {
    ($($name:ident $type:ident),* $(,)?) => {
        impl echo::Guest for Component {
            $(fn $name(value: echo::$type) -> Result<echo::$type, String> {
                Ok(value)
            })*
        }
    };
}

echoes! {
    echo_host_error HostError, echo_log_level LogLevel, echo_update Update, echo_document Document,
    echo_clock_instant ClockInstant, echo_chunk Chunk, echo_written Written, echo_tcp_address TcpAddress,
    echo_address Address, echo_exported_disk ExportedDisk, echo_http_method HttpMethod, echo_header Header,
    echo_http_request HttpRequest, echo_http_response HttpResponse, echo_block_read BlockRead,
    echo_block_write BlockWrite, echo_block_disk BlockDisk, echo_file File, echo_entry Entry,
    echo_entry_page EntryPage, echo_removal Removal, echo_slot Slot, echo_repetition Repetition,
    echo_completion Completion, echo_platform_error PlatformError, echo_property Property, echo_disk Disk,
    echo_network_interface NetworkInterface, echo_firmware Firmware, echo_power_state PowerState, echo_machine Machine,
    echo_pending Pending, echo_done Done, echo_description Description, echo_machine_page MachinePage,
    echo_consistency Consistency, echo_tracked_disk TrackedDisk, echo_capture_request CaptureRequest,
    echo_instant Instant, echo_capture_report CaptureReport, echo_capture_status CaptureStatus,
    echo_capture_step CaptureStep, echo_changes Changes, echo_allocation Allocation, echo_captured_disk CapturedDisk,
    echo_captured_disk_page CapturedDiskPage, echo_outcome Outcome, echo_capture_end CaptureEnd,
    echo_block_set BlockSet, echo_block Block, echo_block_page BlockPage, echo_power_manner PowerManner,
    echo_power_status PowerStatus, echo_power_step PowerStep, echo_disk_request DiskRequest,
    echo_disk_status DiskStatus, echo_disk_step DiskStep, echo_written_blocks WrittenBlocks, echo_finding Finding,
    echo_finding_page FindingPage, echo_machine_request MachineRequest, echo_machine_status MachineStatus,
    echo_machine_step MachineStep, echo_readiness_level ReadinessLevel, echo_readiness Readiness,
    echo_machine_manner MachineManner, echo_kind Kind, echo_owned Owned, echo_owned_page OwnedPage,
}

/// Implements functions that this component cannot do.
macro_rules! unsupported {
    ($interface:ident: $($name:ident($($type:ty),*) -> $result:ty;)*) => {
        impl $interface::Guest for Component {
            $(fn $name($(_: $type),*) -> Result<$result, PlatformError> {
                Err(PlatformError::Unsupported(String::from("echo")))
            })*
        }
    };
}

impl inventory::Guest for Component {
    fn describe() -> Result<inventory::Description, PlatformError> {
        let (name, version) = ("echo-rust".to_owned(), "0.1.0".to_owned());
        Ok(inventory::Description { name, version, settings_schema: "{}".to_owned() })
    }

    fn list_machines(_: Option<String>) -> Result<inventory::MachinePage, PlatformError> {
        let failed = |error| PlatformError::Failed(format!("{error:?}"));
        log::write(log::Level::Info, "listing");
        progress::report(&progress::Update { doing: "listing".to_owned(), done: 1, total: Some(2) });
        let before = clock::monotonic().map_err(failed)?;
        let after = clock::sleep(2).map_err(failed)?;
        let name = settings::get().map_err(failed)?.json;
        let machine = Machine {
            id: "echo".to_owned(),
            name,
            cpus: u32::from(after.nanoseconds > before.nanoseconds),
            memory_bytes: 0,
            firmware: Firmware::Bios,
            power: PowerState::Off,
            disks: Vec::new(),
            network_interfaces: Vec::new(),
            properties: Vec::new(),
        };
        Ok(inventory::MachinePage { machines: vec![machine], next: None })
    }
}

unsupported! { source:
    begin_capture(source::CaptureRequest) -> source::CaptureStep;
    continue_capture(source::CaptureRequest, Vec<u8>) -> source::CaptureStep;
    list_disks(Vec<u8>, Option<String>) -> source::CapturedDiskPage;
    open_disk(Vec<u8>, String, String) -> source::Transport;
    verify_capture(Vec<u8>) -> source::CaptureEnd;
    end_capture(Vec<u8>, source::Outcome) -> source::CaptureEnd;
}

unsupported! { source_blocks:
    list_blocks(Vec<u8>, String, String, source_blocks::BlockSet, u64) -> source_blocks::BlockPage;
}

unsupported! { power:
    stop_machine(String, power::Manner) -> power::PowerStep;
    continue_stop(String, power::Manner, Vec<u8>) -> power::PowerStep;
}

unsupported! { target_disks:
    begin_disk(target_disks::DiskRequest) -> target_disks::DiskStep;
    open_disk(Vec<u8>) -> target_disks::Transport;
    seal_disk(Vec<u8>, Option<target_disks::WrittenBlocks>) -> target_disks::DiskStep;
    continue_disk(Vec<u8>) -> target_disks::DiskStep;
    discard_disk(Vec<u8>) -> Done;
}

unsupported! { sealed_disks:
    begin_disk_from(target_disks::DiskRequest, Vec<u8>) -> target_disks::DiskStep;
}

unsupported! { target_machines:
    check_machine(Machine, Option<String>) -> target_machines::FindingPage;
    define_machine(target_machines::MachineRequest) -> target_machines::MachineStep;
    start_machine(Vec<u8>) -> target_machines::MachineStep;
    continue_machine(Vec<u8>) -> target_machines::MachineStep;
    check_readiness(Vec<u8>) -> target_machines::Readiness;
    stop_machine(Vec<u8>, target_machines::Manner) -> target_machines::MachineStep;
    remove_machine(Vec<u8>) -> Done;
}

unsupported! { ownership:
    list_owned(ownership::Kind, String, Option<String>) -> ownership::OwnedPage;
    release_owned(ownership::Owned) -> Done;
}
