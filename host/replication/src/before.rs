//! The newest point, as far as the next one builds on it: it is in the vault, or it waits.

use std::collections::BTreeMap;

use farshore_core::{CaptureId, DiskId, MachineId, Timestamp};
use farshore_platform::TrackedDisk;
use farshore_spool::SpooledPoint;
use farshore_vault::Point;

/// The newest point.
#[derive(Debug, Clone)]
pub(crate) struct Before {
    /// The capture that it was made of, if there was one.
    pub capture: Option<CaptureId>,
    /// When that was asked for.
    pub captured_at: Timestamp,
    disks: BTreeMap<(MachineId, DiskId), DiskBefore>,
}

/// A disk at that point.
#[derive(Debug, Clone)]
pub(crate) struct DiskBefore {
    pub size_bytes: u64,
    /// Stands for its instant in requests; none if it is not tracked.
    pub token: Option<String>,
}

impl Before {
    pub fn disk(&self, machine: &MachineId, disk: &DiskId) -> Option<&DiskBefore> {
        self.disks.get(&(machine.clone(), disk.clone()))
    }

    /// What a capture is asked for the changes of.
    pub fn tracked(&self) -> Vec<TrackedDisk> {
        let tracked = self.disks.iter().filter_map(|((machine, disk), before)| {
            Some(TrackedDisk { machine: machine.clone(), disk: disk.clone(), token: before.token.clone()? })
        });
        tracked.collect()
    }
}

impl From<&Point> for Before {
    fn from(point: &Point) -> Self {
        let disks = point.machines.iter().flat_map(|machine| {
            machine.disks.iter().map(|disk| {
                let before = DiskBefore { size_bytes: disk.size_bytes, token: disk.tracking_token.clone() };
                ((machine.machine.id.clone(), disk.disk.clone()), before)
            })
        });
        Self { capture: point.capture, captured_at: point.captured_at, disks: disks.collect() }
    }
}

impl From<&SpooledPoint> for Before {
    fn from(point: &SpooledPoint) -> Self {
        let sizes: BTreeMap<_, _> =
            point.disks.iter().map(|disk| ((&disk.machine, &disk.disk), disk.size_bytes)).collect();
        let disks = point.details.machines.iter().flat_map(|machine| {
            machine.disks.iter().filter_map(|disk| {
                let size_bytes = *sizes.get(&(&machine.machine.id, &disk.disk))?;
                let before = DiskBefore { size_bytes, token: disk.tracking_token.clone() };
                Some(((machine.machine.id.clone(), disk.disk.clone()), before))
            })
        });
        Self { capture: point.details.capture, captured_at: point.details.captured_at, disks: disks.collect() }
    }
}
