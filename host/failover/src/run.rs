//! A run: what it is, what its journal holds, and what the journal means.
//!
//! Every step is recorded before it is taken, and again with what the platform answered. An entry that says *intended*
//! without a later answer means that the step may or may not have happened; every step is safe to repeat, because the id
//! in the entry was minted before. [`RunState`] folds the entries; the executor does whatever the state lacks. That is all
//! there is to resuming.

use std::collections::BTreeMap;

use farshore_core::{
    CaptureId, Clock, DiskId, Entropy, Generation, GroupName, LineageId, MachineId, RunId, Sequence, SiteName,
    Timestamp,
};
use farshore_platform::{AdapterState, Readiness, WrittenBlocks};
use farshore_vault::MachineBehind;
use serde::{Deserialize, Serialize};

use crate::{FenceReport, RunOutcome, RunReport};

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunKind {
    /// A test failover: the source stays up, and everything made is removed.
    Drill,
    /// A failover that does not wait for the source.
    Unplanned,
}

impl std::fmt::Display for RunKind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Drill => "drill",
            Self::Unplanned => "unplanned failover",
        })
    }
}

/// What a run was begun with. The point is pinned by it for as long as the run has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunHead {
    /// The run.
    pub run: RunId,
    /// What it is for.
    pub kind: RunKind,
    /// The group.
    pub group: GroupName,
    /// Its lineage.
    pub lineage: LineageId,
    /// The point that is recovered.
    pub point: Sequence,
    /// The instant of that point.
    pub captured_at: Timestamp,
    /// The machines that are recovered.
    pub machines: Vec<MachineId>,
    /// Those of which the point has what was captured earlier.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<MachineBehind>,
    /// Where they were protected.
    pub source: SiteName,
    /// Where they are recovered.
    pub target: SiteName,
    /// When the run began: what the group did after `captured_at` and before this is lost in an unplanned failover.
    pub began_at: Timestamp,
    /// Who says that the source is off, in the operator's words.
    pub attestation: Option<String>,
    /// What earlier failovers started, and this one removes before it starts the machines again.
    pub discards: Vec<RecoveredCopy>,
    /// For a drill: what it could have reached of what failovers start at the site, by the operator's grants.
    pub drill_reaches: Vec<String>,
}

/// A machine that a failover has started and nobody has removed since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveredCopy {
    /// The failover.
    pub run: RunId,
    /// The source machine.
    pub machine: MachineId,
    /// Where it was started.
    pub site: SiteName,
    /// The adapter's newest state of it.
    pub state: AdapterState,
}

/// An entry of a run's journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum RunEntry {
    /// The first entry.
    Begun(RunHead),
    /// The run was taken up again, perhaps by another process, perhaps with an attestation that it lacked.
    Resumed {
        /// When.
        at: Timestamp,
        /// Who says that the source is off.
        attestation: Option<String>,
    },
    /// The vault refuses the old active side from here on.
    Fenced {
        /// When.
        at: Timestamp,
        /// The new generation.
        generation: Generation,
        /// The point that the run recovers: the planned one, or one that was committed before the vault refused more.
        point: Sequence,
        /// That point's instant.
        captured_at: Timestamp,
        /// The machines of which it has what was captured earlier.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        behind: Vec<MachineBehind>,
    },
    /// What came of turning a source machine off.
    SourceStop(FenceReport),
    /// What an earlier failover had started of a machine is gone.
    Discarded {
        /// The earlier failover.
        run: RunId,
        /// The source machine.
        machine: MachineId,
        /// When.
        at: Timestamp,
    },
    /// A disk is about to be made.
    DiskIntended {
        /// Its machine.
        machine: MachineId,
        /// The disk.
        disk: DiskId,
        /// The host's id for it.
        id: String,
        /// The failover from whose disk it begins.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base: Option<RunId>,
    },
    /// The adapter's newest state of a disk.
    DiskState {
        /// The host's id for it.
        id: String,
        /// The state.
        state: AdapterState,
    },
    /// A disk that began from another is given up: it is made afresh, from zeros.
    DiskGivenUp {
        /// Its machine.
        machine: MachineId,
        /// The disk.
        disk: DiskId,
        /// Why.
        why: String,
        /// What of it could not be removed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        left: Option<String>,
    },
    /// All bytes are written and durable.
    DiskRestored {
        /// The host's id for it.
        id: String,
        /// What was written.
        written_bytes: u64,
        /// How long it took.
        milliseconds: u64,
        /// What a transport of blocks said of it, which the platform compares when the disk is sealed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blocks: Option<WrittenBlocks>,
    },
    /// A machine can use the disk.
    DiskSealed {
        /// The host's id for it.
        id: String,
    },
    /// A machine is about to be made.
    MachineIntended {
        /// The source machine.
        machine: MachineId,
        /// The host's id for it.
        id: String,
    },
    /// The adapter's newest state of a machine.
    MachineState {
        /// The source machine.
        machine: MachineId,
        /// The state.
        state: AdapterState,
    },
    /// The machine is made of its disks, and not started.
    MachineDefined {
        /// The source machine.
        machine: MachineId,
    },
    /// The machine is about to be started.
    StartIntended {
        /// The source machine.
        machine: MachineId,
        /// When.
        at: Timestamp,
    },
    /// The machine runs, and this is how far it came.
    Up {
        /// The source machine.
        machine: MachineId,
        /// How far.
        readiness: Readiness,
        /// When.
        at: Timestamp,
    },
    /// The machine could not be recovered; an unplanned failover goes on with the others.
    MachineFailed {
        /// The source machine.
        machine: MachineId,
        /// Why.
        error: String,
    },
    /// What was half-made of a machine whose recovery failed is gone; a later try begins afresh.
    MachineRemoved {
        /// The source machine.
        machine: MachineId,
    },
    /// Everything that the run made is gone.
    CleanedUp {
        /// When.
        at: Timestamp,
        /// What could not be removed.
        leftovers: Vec<String>,
    },
    /// The last entry.
    Ended(Box<RunReport>),
}

/// A disk in a run.
#[derive(Debug, Clone, PartialEq)]
pub struct DiskProgress {
    /// The host's id for it.
    pub id: String,
    /// The failover from whose disk it begins; none if it begins as zeros.
    pub base: Option<RunId>,
    /// The adapter's newest state.
    pub state: Option<AdapterState>,
    /// Bytes and milliseconds of its restore, once it is durable.
    pub restored: Option<(u64, u64)>,
    /// What a transport of blocks said of it.
    pub blocks: Option<WrittenBlocks>,
    /// A machine can use it.
    pub sealed: bool,
}

/// A machine in a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MachineProgress {
    /// The host's id for it, once it is intended.
    pub id: Option<String>,
    /// Its disks.
    pub disks: BTreeMap<DiskId, DiskProgress>,
    /// The adapter's newest state.
    pub state: Option<AdapterState>,
    /// It is made.
    pub defined: bool,
    /// When it was first asked to start.
    pub start_intended_at: Option<Timestamp>,
    /// How far it came, and when.
    pub up: Option<(Readiness, Timestamp)>,
    /// Why it could not be recovered.
    pub error: Option<String>,
}

/// What a run's journal means.
#[derive(Debug, Clone, PartialEq)]
pub struct RunState {
    /// What it was begun with, with the newest attestation, and with the point that fencing left as the newest.
    pub head: RunHead,
    /// The generation that it raised.
    pub generation: Option<Generation>,
    /// What came of turning the source off.
    pub fences: Vec<FenceReport>,
    /// What it removed of earlier failovers: the run and the machine.
    pub discarded: Vec<(RunId, MachineId)>,
    /// Its machines.
    pub machines: BTreeMap<MachineId, MachineProgress>,
    /// What could not be removed of disks that were given up.
    pub left: Vec<String>,
    /// What could not be removed, once it was cleaned up.
    pub cleaned_up: Option<Vec<String>>,
    /// Its report, once it ended.
    pub report: Option<RunReport>,
}

impl RunState {
    /// The state after the first entry.
    pub fn new(head: RunHead) -> Self {
        let machines = head.machines.iter().map(|machine| (machine.clone(), MachineProgress::default())).collect();
        Self {
            head,
            generation: None,
            fences: Vec::new(),
            discarded: Vec::new(),
            machines,
            left: Vec::new(),
            cleaned_up: None,
            report: None,
        }
    }

    /// Takes one more entry.
    ///
    /// # Errors
    /// What is wrong with it: it names a machine or a disk that the run does not have, or is a second beginning.
    pub fn apply(&mut self, entry: RunEntry) -> Result<(), String> {
        match entry {
            RunEntry::Begun(_) => return Err("the run begins a second time".to_owned()),
            RunEntry::Resumed { attestation, .. } => {
                self.head.attestation = attestation.or(self.head.attestation.take());
            }
            RunEntry::Fenced { generation, point, captured_at, behind, .. } => {
                self.generation = Some(generation);
                (self.head.point, self.head.captured_at, self.head.behind) = (point, captured_at, behind);
            }
            RunEntry::SourceStop(report) => self.fences.push(report),
            RunEntry::Discarded { run, machine, .. } => self.discarded.push((run, machine)),
            RunEntry::DiskIntended { machine, disk, id, base } => {
                let progress = DiskProgress { id, base, state: None, restored: None, blocks: None, sealed: false };
                self.machine(&machine)?.disks.insert(disk, progress);
            }
            RunEntry::DiskGivenUp { machine, disk, left, .. } => {
                self.machine(&machine)?.disks.remove(&disk);
                self.left.extend(left);
            }
            RunEntry::DiskState { id, state } => self.disk(&id)?.state = Some(state),
            RunEntry::DiskRestored { id, written_bytes, milliseconds, blocks } => {
                let disk = self.disk(&id)?;
                disk.restored = Some((written_bytes, milliseconds));
                disk.blocks = blocks;
            }
            RunEntry::DiskSealed { id } => self.disk(&id)?.sealed = true,
            RunEntry::MachineIntended { machine, id } => self.machine(&machine)?.id = Some(id),
            RunEntry::MachineState { machine, state } => self.machine(&machine)?.state = Some(state),
            RunEntry::MachineDefined { machine } => self.machine(&machine)?.defined = true,
            RunEntry::StartIntended { machine, at } => {
                self.machine(&machine)?.start_intended_at.get_or_insert(at);
            }
            RunEntry::Up { machine, readiness, at } => {
                let progress = self.machine(&machine)?;
                progress.up = Some((readiness, at));
                progress.error = None;
            }
            RunEntry::MachineFailed { machine, error } => self.machine(&machine)?.error = Some(error),
            RunEntry::MachineRemoved { machine } => {
                let progress = self.machine(&machine)?;
                let error = progress.error.take();
                *progress = MachineProgress { error, ..MachineProgress::default() };
            }
            RunEntry::CleanedUp { leftovers, .. } => self.cleaned_up = Some(leftovers),
            RunEntry::Ended(report) => self.report = Some(*report),
        }
        Ok(())
    }

    /// The run has nothing left to do.
    pub const fn has_ended(&self) -> bool {
        self.report.is_some()
    }

    /// How the run ended, if it did.
    pub fn outcome(&self) -> Option<RunOutcome> {
        self.report.as_ref().map(|report| report.outcome)
    }

    fn machine(&mut self, machine: &MachineId) -> Result<&mut MachineProgress, String> {
        self.machines.get_mut(machine).ok_or_else(|| format!("the run has no machine {machine}"))
    }

    fn disk(&mut self, id: &str) -> Result<&mut DiskProgress, String> {
        let mut disks = self.machines.values_mut().flat_map(|machine| machine.disks.values_mut());
        disks.find(|disk| disk.id == id).ok_or_else(|| format!("the run has no disk with the id {id}"))
    }
}

/// A fresh id for a thing at a target, in the form that the WIT asks for.
pub(crate) fn mint_id(clock: &dyn Clock, entropy: &dyn Entropy) -> String {
    CaptureId::timed(clock, entropy).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> RunHead {
        RunHead {
            run: RunId::from_bytes([1; 16]),
            kind: RunKind::Drill,
            group: GroupName::new("orders").expect("a name"),
            lineage: LineageId::from_bytes([2; 16]),
            point: Sequence::new(5),
            captured_at: Timestamp::from_unix_milliseconds(1),
            machines: vec![MachineId::new("web").expect("a name")],
            behind: Vec::new(),
            source: SiteName::new("production").expect("a name"),
            target: SiteName::new("recovery").expect("a name"),
            began_at: Timestamp::from_unix_milliseconds(2),
            attestation: None,
            discards: Vec::new(),
            drill_reaches: Vec::new(),
        }
    }

    #[test]
    fn entries_survive_json_and_fold_to_what_they_say() {
        let web = MachineId::new("web").expect("a name");
        let disk = DiskId::new("vda").expect("a name");
        let run = RunId::from_bytes([7; 16]);
        let entries = [
            RunEntry::DiskIntended { machine: web.clone(), disk: disk.clone(), id: "d0".to_owned(), base: Some(run) },
            RunEntry::DiskGivenUp {
                machine: web.clone(),
                disk: disk.clone(),
                why: "its base is gone".to_owned(),
                left: Some("disk d0".to_owned()),
            },
            RunEntry::DiskIntended { machine: web.clone(), disk: disk.clone(), id: "d1".to_owned(), base: Some(run) },
            RunEntry::DiskState { id: "d1".to_owned(), state: AdapterState(vec![1, 2]) },
            RunEntry::DiskRestored { id: "d1".to_owned(), written_bytes: 7, milliseconds: 8, blocks: None },
            RunEntry::DiskSealed { id: "d1".to_owned() },
            RunEntry::Resumed { at: Timestamp::from_unix_milliseconds(3), attestation: Some("ann saw it".to_owned()) },
            RunEntry::Resumed { at: Timestamp::from_unix_milliseconds(4), attestation: None },
        ];
        let mut state = RunState::new(head());
        for entry in entries {
            let json = serde_json::to_string(&entry).expect("an entry serializes");
            state.apply(serde_json::from_str(&json).expect("and comes back")).expect("it fits the run");
        }
        let progress = &state.machines[&web].disks[&disk];
        assert!(progress.sealed && progress.restored == Some((7, 8)) && progress.base == Some(run));
        assert_eq!(state.left, ["disk d0"]);
        assert_eq!(progress.state, Some(AdapterState(vec![1, 2])));
        let old = r#"{"step": "disk-intended", "machine": "web", "disk": "vda", "id": "d2"}"#;
        state.apply(serde_json::from_str(old).expect("as it was written before")).expect("it fits the run");
        assert_eq!(state.machines[&web].disks[&disk].base, None);
        assert_eq!(state.head.attestation.as_deref(), Some("ann saw it"));
    }

    #[test]
    fn entries_that_do_not_fit_are_refused() {
        let mut state = RunState::new(head());
        assert!(state.apply(RunEntry::Begun(head())).is_err());
        assert!(state.apply(RunEntry::DiskSealed { id: "none".to_owned() }).is_err());
        let other = MachineId::new("other").expect("a name");
        assert!(state.apply(RunEntry::MachineDefined { machine: other }).is_err());
    }
}
