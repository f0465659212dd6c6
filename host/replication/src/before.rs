//! The newest point, as far as the next one builds on it: it is in the vault, or it waits.

use std::collections::BTreeMap;

use farshore_core::{CaptureId, DiskId, Machine, MachineId, Timestamp};
use farshore_platform::TrackedDisk;
use farshore_spool::{SpooledPoint, SuspendedDisk};
use farshore_vault::Point;

/// The newest point.
#[derive(Debug, Clone)]
pub(crate) struct Before {
    /// The capture that it was made of, if there was one.
    pub capture: Option<CaptureId>,
    /// When that was asked for.
    pub captured_at: Timestamp,
    disks: BTreeMap<(MachineId, DiskId), DiskBefore>,
    /// Each machine of which it has something, as it was described; none where a point that waits does not say that.
    machines: BTreeMap<MachineId, Option<Machine>>,
}

/// A disk at that point.
#[derive(Debug, Clone)]
pub(crate) struct DiskBefore {
    pub size_bytes: u64,
    /// Stands for its instant in requests; none if it is not tracked.
    pub token: Option<String>,
    /// When it was captured.
    pub captured_at: Timestamp,
}

impl Before {
    pub fn disk(&self, machine: &MachineId, disk: &DiskId) -> Option<&DiskBefore> {
        self.disks.get(&(machine.clone(), disk.clone()))
    }

    /// Whether it has something of a machine.
    pub fn has(&self, machine: &MachineId) -> bool {
        self.machines.contains_key(machine)
    }

    /// What a machine is, as it says.
    pub fn machine(&self, machine: &MachineId) -> Option<&Machine> {
        self.machines.get(machine)?.as_ref()
    }

    fn disks_of<'a>(&'a self, machine: &'a MachineId) -> impl Iterator<Item = (&'a DiskId, &'a DiskBefore)> {
        let own = self.disks.iter().filter(move |((owner, _), _)| owner == machine);
        own.map(|((_, disk), before)| (disk, before))
    }

    /// When what it has of a machine was captured; none if it has nothing.
    pub fn captured(&self, machine: &MachineId) -> Option<Timestamp> {
        self.disks_of(machine).map(|(_, disk)| disk.captured_at).min()
    }

    /// What the point after one that waits has to know of machines that are suspended.
    pub fn suspended_disks(&self, machines: &[MachineId]) -> Vec<SuspendedDisk> {
        let of_machine = |machine: &MachineId| {
            let disk = |(disk, before): (&DiskId, &DiskBefore)| SuspendedDisk {
                machine: machine.clone(),
                disk: disk.clone(),
                size_bytes: before.size_bytes,
                tracking_token: before.token.clone(),
                captured_at: before.captured_at,
            };
            self.disks_of(machine).map(disk).collect::<Vec<_>>()
        };
        machines.iter().flat_map(of_machine).collect()
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
                let (size_bytes, token) = (disk.size_bytes, disk.tracking_token.clone());
                let before = DiskBefore { size_bytes, token, captured_at: point.captured(machine) };
                ((machine.machine.id.clone(), disk.disk.clone()), before)
            })
        });
        let machines = point.machines.iter().map(|held| (held.machine.id.clone(), Some(held.machine.clone())));
        Self {
            capture: point.capture,
            captured_at: point.captured_at,
            disks: disks.collect(),
            machines: machines.collect(),
        }
    }
}

impl From<&SpooledPoint> for Before {
    fn from(point: &SpooledPoint) -> Self {
        let captured_at = point.details.captured_at;
        let sizes: BTreeMap<_, _> =
            point.disks.iter().map(|disk| ((&disk.machine, &disk.disk), disk.size_bytes)).collect();
        let captured = point.details.machines.iter().flat_map(|machine| {
            machine.disks.iter().filter_map(|disk| {
                let size_bytes = *sizes.get(&(&machine.machine.id, &disk.disk))?;
                let before = DiskBefore { size_bytes, token: disk.tracking_token.clone(), captured_at };
                Some(((machine.machine.id.clone(), disk.disk.clone()), before))
            })
        });
        let suspended = point.suspended.iter().map(|disk| {
            let (size_bytes, token) = (disk.size_bytes, disk.tracking_token.clone());
            let before = DiskBefore { size_bytes, token, captured_at: disk.captured_at };
            ((disk.machine.clone(), disk.disk.clone()), before)
        });
        let described = point.details.machines.iter();
        let described = described.map(|draft| (draft.machine.id.clone(), Some(draft.machine.clone())));
        let undescribed = point.details.suspended.iter().map(|machine| (machine.clone(), None));
        Self {
            capture: point.details.capture,
            captured_at,
            disks: captured.chain(suspended).collect(),
            machines: described.chain(undescribed).collect(),
        }
    }
}
