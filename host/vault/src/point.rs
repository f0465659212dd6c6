//! A recovery point as the vault keeps it, and what its writer says of it.

use farshore_core::{
    Basis, CaptureId, Consistency, DiskId, Generation, Instant, LineageId, Machine, MachineId, PointLabel, RunId,
    Sequence, SessionId, SiteName, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::{CapsuleItem, page::PageRef};

/// A recovery point: a committed, restorable state of a whole group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Its number among the commits of its lineage.
    pub sequence: Sequence,
    /// The lineage's generation when it was made.
    pub generation: Generation,
    /// The lineage that it belongs to.
    pub lineage: LineageId,
    /// The site that was active when it was made.
    pub site: SiteName,
    /// The writer's visit that made it.
    pub session: SessionId,
    /// The point that it was built on.
    pub parent: Option<Sequence>,
    /// The capture that it was read from, as the writer said: after a crash it learns from this whether its capture became
    /// a point.
    pub capture: Option<CaptureId>,
    /// A time at or before the instant that the disks show, as the source's host counts time: when the capture was asked
    /// for, so that the point's age is never understated.
    pub captured_at: Timestamp,
    /// When the commit was written, as the writer counts time.
    pub committed_at: Timestamp,
    /// What the instants of the machines have in common.
    pub instant: Instant,
    /// What the guests were asked to do before the instant.
    pub consistency: Consistency,
    /// The machines, in the order that the writer gave.
    pub machines: Vec<PointMachine>,
    /// What is needed to use it, beside the disks. [`crate::PointReader::capsule`] says whether it keeps the rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capsule: Vec<CapsuleItem>,
    /// What it cost.
    pub stats: PointStats,
    /// What whoever asked for it calls it; none if nobody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<PointLabel>,
    /// What the operator should know; may be empty.
    pub note: String,
}

impl Point {
    /// The machine of this id.
    pub fn machine(&self, machine: &MachineId) -> Option<&PointMachine> {
        self.machines.iter().find(|candidate| candidate.machine.id == *machine)
    }

    /// The disk of this id of the machine of this id.
    pub fn disk(&self, machine: &MachineId, disk: &DiskId) -> Option<&PointDisk> {
        self.machine(machine)?.disks.iter().find(|candidate| candidate.disk == *disk)
    }

    /// The roots of all its maps, of disks and of the capsule: what keeps pages and frames alive.
    pub(crate) fn maps(&self) -> impl Iterator<Item = PageRef> {
        let disks = self.machines.iter().flat_map(|machine| &machine.disks).filter_map(|disk| disk.map);
        disks.chain(self.capsule.iter().filter_map(|item| item.map))
    }

    /// When what it has of a machine was captured: with it, or earlier if the machine was suspended.
    pub fn captured(&self, machine: &PointMachine) -> Timestamp {
        machine.captured_at.unwrap_or(self.captured_at)
    }

    /// When what it has of the machine that is furthest behind was captured: the point is as old as that.
    pub fn oldest_part(&self) -> Timestamp {
        self.machines.iter().map(|machine| self.captured(machine)).fold(self.captured_at, Timestamp::min)
    }

    /// The machines that were suspended when it was made, each with when what it has of them was captured.
    pub fn behind(&self) -> impl Iterator<Item = MachineBehind> {
        let earlier = self.machines.iter().filter(|machine| machine.captured_at.is_some());
        earlier.map(|held| MachineBehind { machine: held.machine.id.clone(), captured_at: self.captured(held) })
    }

    /// Bytes of all disks together, zeros included.
    pub fn size_bytes(&self) -> u64 {
        let disks = self.machines.iter().flat_map(|machine| &machine.disks);
        disks.fold(0, |sum, disk| sum.saturating_add(disk.size_bytes))
    }
}

/// A machine of a recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointMachine {
    /// The machine as it was discovered.
    pub machine: Machine,
    /// Its disks, in the order that the writer gave.
    pub disks: Vec<PointDisk>,
    /// When they were captured, if the machine was suspended when the point was made: they are those of an earlier point then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captured_at: Option<Timestamp>,
}

/// A machine that was suspended when a point was made: the point has of it what an earlier one had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineBehind {
    /// Which.
    pub machine: MachineId,
    /// When that was captured.
    pub captured_at: Timestamp,
}

/// A disk of a recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointDisk {
    /// Which disk of the machine.
    pub disk: DiskId,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// How its content was obtained.
    pub basis: Basis,
    /// Stands for the captured instant when the platform is asked what changed after it.
    pub tracking_token: Option<String>,
    /// The root page of its map; none if all of it is zero.
    pub map: Option<PageRef>,
}

/// What making a recovery point took. Bytes of disks are counted in whole chunks, except at a disk's end. A capsule counts in what
/// was stored, and not in what was given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointStats {
    /// Bytes of disks that the writer was given, those given as zeros included.
    pub bytes_given: u64,
    /// Of these: bytes that are zero.
    pub bytes_zero: u64,
    /// Of those given: bytes that differ from the parent point at the same place, or have no parent.
    pub bytes_changed: u64,
    /// Of those changed: bytes that the vault held already, under another place or from a writer that was interrupted.
    pub bytes_deduplicated: u64,
    /// Bytes of the objects that were written for the point, without its commit.
    pub bytes_stored: u64,
    /// Objects that were written for the point, with its commit.
    pub objects_written: u64,
    /// Frames that were sealed.
    pub frames_written: u64,
    /// Frames that were opened again and compared with what was given, before they were stored.
    pub frames_verified: u64,
    /// Packs of an interrupted writer whose stored bytes were read, verified and used.
    pub packs_reused: u64,
}

/// What the writer says of a point when it commits it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointDetails {
    /// The capture that the disks were read from, if there was one.
    pub capture: Option<CaptureId>,
    /// A time at or before the instant that the disks show, as the source's host counts time: when the capture was asked
    /// for, so that the point's age is never understated.
    pub captured_at: Timestamp,
    /// What the instants of the machines have in common.
    pub instant: Instant,
    /// What the guests were asked to do before the instant.
    pub consistency: Consistency,
    /// The machines that were captured: each disk that was added, and no other.
    pub machines: Vec<PointMachineDraft>,
    /// Machines that were not captured: the point has of them what its parent has, and says when that was captured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspended: Vec<MachineId>,
    /// What whoever asked for it calls it; none if nobody did.
    pub label: Option<PointLabel>,
    /// What the operator should know; may be empty. At most 4 KiB.
    pub note: String,
}

/// A machine of a point in the making.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointMachineDraft {
    /// The machine as it was discovered.
    pub machine: Machine,
    /// Its disks that the point holds.
    pub disks: Vec<PointDiskDraft>,
}

/// A disk of a point in the making.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointDiskDraft {
    /// Which disk of the machine; it was added to the writer.
    pub disk: DiskId,
    /// How its content was obtained.
    pub basis: Basis,
    /// Stands for the captured instant in later requests. At most 1,024 bytes.
    pub tracking_token: Option<String>,
}

/// The newest state of a lineage, as its newest commit says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The number of the newest commit.
    pub sequence: Sequence,
    /// The fencing number.
    pub generation: Generation,
    /// The site whose host may write.
    pub active_site: SiteName,
    /// The newest recovery point.
    pub newest_point: Option<Sequence>,
    /// The newest commit that says which of the points before it stand; none if all do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruned: Option<Sequence>,
    /// Points that runs have laid claim to, as the commits up to this one repeat it: [`crate::Lineage::pins`] tells what was done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<Pin>,
    /// Until when everything that the points that stand need is locked in the store; none if that was never seen to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<Timestamp>,
}

/// A run's claim on a point: what is pinned is not deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The run.
    pub run: RunId,
    /// The point.
    pub point: Sequence,
    /// When it was pinned, as the run's host counts time.
    pub since: Timestamp,
}

impl Head {
    /// Whether a writer that began on `before` may still commit on this: only pins, prunes and extensions of locks came
    /// between.
    pub(crate) fn continues(&self, before: &Self) -> bool {
        self.sequence > before.sequence
            && self.generation == before.generation
            && self.active_site == before.active_site
            && self.newest_point == before.newest_point
    }
}
