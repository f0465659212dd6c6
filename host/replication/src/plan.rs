//! How the disks of a capture are read, and what is said of them, from what is known.

use farshore_core::{Basis, DiskId, Extent, Machine, MachineId};
use farshore_platform::{CapturedDisk, Changes};
use farshore_vault::{PointDiskDraft, PointMachineDraft};

use crate::CopyPlan;

/// What the operator should know of a point: what is said of it, and of change tracking that was wrong.
pub(crate) fn note(said: &[&str], untracked_bytes: u64) -> String {
    let lied =
        format!("change tracking left out changes ({untracked_bytes} bytes were found), and the disk was compared");
    let lied = (untracked_bytes > 0).then_some(lied.as_str());
    let said = said.iter().copied().filter(|text| !text.is_empty());
    said.chain(lied).collect::<Vec<_>>().join("; ")
}

/// Chooses how a disk is read. `known` is its size and whether it is tracked, at the parent point.
pub(crate) fn plan_disk(
    known: Option<(u64, bool)>,
    is_distrusted: bool,
    disk: &CapturedDisk,
) -> (Basis, String, CopyPlan) {
    let everything = || CopyPlan::Everything { allocation_context: disk.allocation_context.clone() };
    match (known, &disk.changes) {
        (None, _) => (Basis::Full, String::new(), everything()),
        (Some((before_bytes, _)), _) if before_bytes != disk.size_bytes => {
            (Basis::Compared, format!("the disk grew from {before_bytes} bytes"), everything())
        }
        (Some(_), Changes::Context(_)) if is_distrusted => {
            (Basis::Compared, "its change tracking was found wrong".to_owned(), everything())
        }
        (Some((_, true)), Changes::Context(context)) => {
            let doubted = [Extent { offset: 0, length: 0 }; 2];
            (Basis::Tracked, String::new(), CopyPlan::Changed { context: context.clone(), doubted })
        }
        (Some((_, false)), Changes::Context(_)) => {
            (Basis::Compared, "the last point did not track the disk".to_owned(), everything())
        }
        (Some(_), Changes::Unknown(reason)) => (Basis::Compared, reason.clone(), everything()),
    }
}

/// A disk that a machine's own description has and the capture has not. Without it the machine would come back with a
/// disk less, and nobody would know before the day it is needed.
pub(crate) fn lacking<'a>(machines: &'a [Machine], captured: &[CapturedDisk]) -> Option<(&'a MachineId, &'a DiskId)> {
    let described = machines.iter().flat_map(|machine| machine.disks.iter().map(move |disk| (&machine.id, &disk.id)));
    let is_captured =
        |machine: &MachineId, disk: &DiskId| captured.iter().any(|one| one.machine == *machine && one.disk == *disk);
    described.into_iter().find(|(machine, disk)| !is_captured(machine, disk))
}

/// The machines of a point, with how each of their disks was read.
pub(crate) fn drafts(machines: Vec<Machine>, disks: &[CapturedDisk], bases: &[Basis]) -> Vec<PointMachineDraft> {
    let draft = |machine: Machine| {
        let own = disks.iter().zip(bases).filter(|(disk, _)| disk.machine == machine.id);
        let disks = own
            .map(|(disk, basis)| PointDiskDraft {
                disk: disk.disk.clone(),
                basis: *basis,
                tracking_token: disk.token.clone(),
            })
            .collect();
        PointMachineDraft { machine, disks }
    };
    machines.into_iter().map(draft).collect()
}
