//! What a site can do, as replication and failover ask for it.
//!
//! [`Source`] and [`Target`] are the verbs of `wit/platform`, with checked words: whatever comes from an adapter through
//! them has been examined (names, sizes, limits, duplicates), so that nonsense ends as [`SiteError::Nonsense`] here and
//! goes no further. [`crate::component`] implements both with a sandboxed component; a simulator implements them with
//! seeded faults.
//!
//! Everything that must survive a crash is in an [`AdapterState`], which is plain data: journal it before acting on it.

use std::{fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use farshore_core::{CaptureId, Consistency, Disk, DiskId, Instant, Machine, MachineId, OwnerTag, RunId, SiteName};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{DiskTransport, SiteError, WrittenBlocks};

/// What an adapter must see again in later calls: opaque, at most 64 KiB, written as base64.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct AdapterState(pub Vec<u8>);

impl fmt::Debug for AdapterState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "AdapterState({} bytes)", self.0.len())
    }
}

impl Serialize for AdapterState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for AdapterState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// Work that a platform goes on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// What is being waited for, for the operator.
    pub doing: String,
    /// When to ask again.
    pub poll_after: std::time::Duration,
}

/// One step of long work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step<T> {
    /// What later calls need.
    pub state: AdapterState,
    /// How far the work has come.
    pub status: StepStatus<T>,
}

/// How far long work has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepStatus<T> {
    /// Ask again.
    Pending(Pending),
    /// It is done, with this result.
    Ready(T),
}

/// A disk of the group's newest point, as the platform tracks it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackedDisk {
    /// Its machine.
    pub machine: MachineId,
    /// The disk.
    pub disk: DiskId,
    /// What stands for the point's instant.
    pub token: String,
}

/// What a capture shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureRequest {
    /// The host's id for it.
    pub id: CaptureId,
    /// Text of the owner's tag.
    pub owner: String,
    /// The machines of the group.
    pub machines: Vec<MachineId>,
    /// The newest point's disks.
    pub tracked: Vec<TrackedDisk>,
    /// What the guests are asked to do first.
    pub consistency: Consistency,
    /// No guest is held longer than this, in milliseconds.
    pub stall_limit_milliseconds: u32,
}

/// What a capture became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureReport {
    /// What the machines' instants have in common.
    pub instant: Instant,
    /// What the guests did first.
    pub consistency: Consistency,
    /// The longest hold of a guest, in microseconds.
    pub held_microseconds: u64,
    /// Why it is less than what was asked; may be empty.
    pub note: String,
}

/// How to learn what changed since the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// Nobody knows, for this reason.
    Unknown(String),
    /// The transport's block-status context of this name says it, with bit 0.
    Context(String),
}

/// A disk of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedDisk {
    /// Its machine.
    pub machine: MachineId,
    /// The disk.
    pub disk: DiskId,
    /// Size in bytes.
    pub size_bytes: u64,
    /// What stands for the captured instant.
    pub token: Option<String>,
    /// How to learn what changed.
    pub changes: Changes,
    /// The block-status context that says what reads as zeros, with bit 1.
    pub allocation_context: Option<String>,
}

/// How a capture ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaptureOutcome {
    /// The recovery point is durable.
    Committed,
    /// It is not.
    Abandoned,
}

/// How a machine is turned off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopManner {
    /// The guest is asked to shut down.
    Graceful,
    /// At once.
    Forced,
}

/// A disk that a target shall make.
#[derive(Debug, Clone)]
pub struct DiskRequest {
    /// The host's id for it.
    pub id: String,
    /// Text of the owner's tag.
    pub owner: String,
    /// The run that it is made for.
    pub run: RunId,
    /// The source machine's name.
    pub machine_name: String,
    /// The disk as it was at the source.
    pub disk: Disk,
}

/// A machine that a target shall make.
#[derive(Debug, Clone)]
pub struct MachineRequest {
    /// The host's id for it.
    pub id: String,
    /// Text of the owner's tag.
    pub owner: String,
    /// The run that it is made for.
    pub run: RunId,
    /// The machine as it was at the source.
    pub machine: Machine,
    /// The states of its sealed disks, in the machine's order.
    pub disks: Vec<AdapterState>,
}

/// Something that a target says about a machine that it shall run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The machine cannot be recovered here until it is mended.
    pub blocking: bool,
    /// What, and what to do.
    pub problem: String,
}

/// How far a recovered machine has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadinessLevel {
    /// It does not run.
    Off,
    /// It runs, but nothing in it has answered.
    Running,
    /// The guest itself has answered.
    Ready,
}

/// How far a recovered machine has come, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// How far.
    pub level: ReadinessLevel,
    /// What was asked and answered.
    pub evidence: String,
}

/// The kind of a thing that Farshore made on a platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OwnedKind {
    /// A capture.
    Capture,
    /// A disk that no machine uses yet.
    Disk,
    /// A machine with its disks.
    Machine,
}

impl fmt::Display for OwnedKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Capture => "capture",
            Self::Disk => "disk",
            Self::Machine => "machine",
        })
    }
}

/// A thing that carries an owner's tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// What kind of thing.
    pub kind: OwnedKind,
    /// The host's id for it, as far as it can be told.
    pub id: String,
    /// Its owner's tag.
    pub owner: String,
    /// The run that it was made for, if that can be told.
    pub run: Option<String>,
    /// What it is, for the operator.
    pub description: String,
    /// What releases it.
    pub state: AdapterState,
}

/// A site whose machines can be protected. Every call may be repeated; see `wit/platform` for what each does.
#[async_trait::async_trait]
pub trait Source: Send + Sync {
    /// The site's name.
    fn site(&self) -> &SiteName;

    /// All its machines.
    async fn machines(&self) -> Result<Vec<Machine>, SiteError>;

    /// Freezes a view of the machines at one instant.
    async fn begin_capture(&self, request: &CaptureRequest) -> Result<Step<CaptureReport>, SiteError>;

    /// Goes on with a pending capture.
    async fn continue_capture(
        &self,
        request: &CaptureRequest,
        state: &AdapterState,
    ) -> Result<Step<CaptureReport>, SiteError>;

    /// The disks of a ready capture: each disk once, of machines of the request only.
    async fn captured_disks(
        &self,
        request: &CaptureRequest,
        state: &AdapterState,
    ) -> Result<Vec<CapturedDisk>, SiteError>;

    /// Opens the frozen view of a disk, for reading and for asking the contexts that the disk names. It has the disk's
    /// size.
    async fn open_captured_disk(
        &self,
        state: &AdapterState,
        disk: &CapturedDisk,
    ) -> Result<Arc<dyn DiskTransport>, SiteError>;

    /// Fails with [`SiteError::CaptureBroken`] if the capture no longer holds its instant.
    async fn verify_capture(&self, state: &AdapterState) -> Result<(), SiteError>;

    /// Releases a capture. The text is for the operator; it may be empty.
    async fn end_capture(&self, state: &AdapterState, outcome: CaptureOutcome) -> Result<String, SiteError>;

    /// Begins to turn a machine off; ready with the proof.
    async fn stop_machine(&self, machine: &MachineId, manner: StopManner) -> Result<Step<String>, SiteError>;

    /// Goes on with a pending stop.
    async fn continue_stop(
        &self,
        machine: &MachineId,
        manner: StopManner,
        state: &AdapterState,
    ) -> Result<Step<String>, SiteError>;

    /// The captures that carry this tag.
    async fn owned(&self, owner: &OwnerTag) -> Result<Vec<Owned>, SiteError>;

    /// Releases one of them.
    async fn release(&self, item: &Owned) -> Result<(), SiteError>;
}

/// A site where machines can be recovered, in one mode. Every call may be repeated; see `wit/platform` for what each does.
#[async_trait::async_trait]
pub trait Target: Send + Sync {
    /// The site's name.
    fn site(&self) -> &SiteName;

    /// Whether the machine can run here.
    async fn check_machine(&self, machine: &Machine) -> Result<Vec<Finding>, SiteError>;

    /// Makes a disk that reads as zeros.
    async fn begin_disk(&self, request: &DiskRequest) -> Result<Step<String>, SiteError>;

    /// Whether a disk can begin as another was when that was sealed.
    fn begins_from_sealed(&self) -> bool;

    /// Makes a disk that reads as the one of the state `base` did when that was sealed. It has the same owner and size.
    async fn begin_disk_from(&self, request: &DiskRequest, base: &AdapterState) -> Result<Step<String>, SiteError>;

    /// Opens a disk for writing. It has the size of the request.
    async fn open_disk(&self, state: &AdapterState, disk: &Disk) -> Result<Arc<dyn DiskTransport>, SiteError>;

    /// Ends the making of a disk that was written and flushed. `written` is what its transport said then.
    async fn seal_disk(&self, state: &AdapterState, written: Option<&WrittenBlocks>)
    -> Result<Step<String>, SiteError>;

    /// Goes on with a pending making or sealing.
    async fn continue_disk(&self, state: &AdapterState) -> Result<Step<String>, SiteError>;

    /// Removes a disk that no machine uses.
    async fn discard_disk(&self, state: &AdapterState) -> Result<(), SiteError>;

    /// Makes a machine of sealed disks.
    async fn define_machine(&self, request: &MachineRequest) -> Result<Step<String>, SiteError>;

    /// Starts a machine.
    async fn start_machine(&self, state: &AdapterState) -> Result<Step<String>, SiteError>;

    /// Stops a machine.
    async fn stop_machine(&self, state: &AdapterState, manner: StopManner) -> Result<Step<String>, SiteError>;

    /// Goes on with a pending definition, start or stop.
    async fn continue_machine(&self, state: &AdapterState) -> Result<Step<String>, SiteError>;

    /// How far a machine has come.
    async fn readiness(&self, state: &AdapterState) -> Result<Readiness, SiteError>;

    /// Removes a machine with its disks.
    async fn remove_machine(&self, state: &AdapterState) -> Result<(), SiteError>;

    /// The disks and machines that carry this tag.
    async fn owned(&self, owner: &OwnerTag) -> Result<Vec<Owned>, SiteError>;

    /// Removes one of them.
    async fn release(&self, item: &Owned) -> Result<(), SiteError>;

    /// What the component was refused since the site was opened, for the run's report.
    fn refusals(&self) -> Vec<String>;
}
