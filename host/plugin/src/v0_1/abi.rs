//! The records of `wit/platform`, as plain Rust types. The documents are those of the WIT.

pub use super::bindings::{
    exports::farshore::platform::{
        inventory::{Description, MachinePage},
        ownership::{Kind, Owned, OwnedPage},
        power::{Manner as PowerManner, PowerStatus, PowerStep},
        source::{
            Allocation, CaptureEnd, CaptureReport, CaptureRequest, CaptureStatus, CaptureStep, CapturedDisk,
            CapturedDiskPage, Changes, Consistency, Instant, Outcome as CaptureOutcome, TrackedDisk,
        },
        source_blocks::{Block, BlockPage, BlockSet},
        target_disks::{DiskRequest, DiskStatus, DiskStep, WrittenBlocks},
        target_machines::{
            Finding, FindingPage, Level, MachineRequest, MachineStatus, MachineStep, Manner as MachineManner, Readiness,
        },
    },
    farshore::platform::model::{
        Disk, Done, Firmware, Machine, NetworkInterface, Pending, PlatformError, PowerState, Property,
    },
};
