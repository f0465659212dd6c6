//! What there is in the account.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
};

use farshore_core::Timestamp;

use crate::{
    blocks::{Block, BlockFile, Content},
    faults::Fault,
    policy::{Policy, Tags},
    power::Power,
    signature::Key,
};

/// Somebody with an access key.
#[derive(Debug, Clone)]
pub struct Principal {
    /// What signs.
    pub key: Key,
    /// What it may do.
    pub policy: Policy,
}

/// How far a snapshot has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotState {
    /// It is made, or its blocks are put.
    Pending,
    /// It can be used from this time on.
    CompletesAt(Timestamp),
    /// What was put is not what was stated.
    Error,
}

/// A snapshot.
#[derive(Debug)]
pub struct Snapshot {
    /// Of the volume, or as it was begun.
    pub size_gib: u32,
    /// Snapshots of one line can be compared.
    pub line: String,
    /// The volume, or what the API shows for a snapshot that has none.
    pub volume: String,
    /// What people are told.
    pub description: String,
    /// Its tags.
    pub tags: Tags,
    /// When it was begun.
    pub started_at: Timestamp,
    /// See there.
    pub state: SnapshotState,
    /// What is in it.
    pub content: Content,
    /// Where new blocks go, while it was begun by EBS direct.
    pub puts: Option<Puts>,
    /// The snapshot that it was begun on.
    pub parent: Option<String>,
}

/// A snapshot whose blocks are put.
#[derive(Debug)]
pub struct Puts {
    /// Where the bytes go.
    pub file: Arc<BlockFile>,
    /// What was put, by number.
    pub blocks: BTreeMap<u32, Block>,
    /// When the time between two puts is over.
    pub expires_at: Timestamp,
    /// How long it is.
    pub timeout_minutes: i64,
}

/// A volume.
#[derive(Debug, Clone)]
pub struct Volume {
    /// Its size.
    pub size_gib: u32,
    /// The snapshot that it was made from.
    pub snapshot: Option<String>,
    /// Snapshots of one line can be compared.
    pub line: String,
    /// What its newest snapshot had.
    pub newest: Content,
    /// When its newest snapshot was begun.
    pub frozen_at: Option<Timestamp>,
    /// Its bytes.
    pub file: PathBuf,
    /// The instance that it is attached to.
    pub instance: String,
    /// As what.
    pub device: String,
    /// Whether it goes with its instance.
    pub delete_on_termination: bool,
    /// Its tags.
    pub tags: Tags,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A disk of an image.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// As what it is attached.
    pub device: String,
    /// Its content.
    pub snapshot: String,
    /// At least as large as the snapshot.
    pub size_gib: u32,
    /// Whether it goes with its instance.
    pub delete_on_termination: bool,
}

/// An image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Unique in the account.
    pub name: String,
    /// What people are told.
    pub description: String,
    /// The device that it boots from.
    pub root_device: String,
    /// Its disks.
    pub mappings: Vec<Mapping>,
    /// `legacy-bios` or `uefi`.
    pub boot_mode: String,
    /// Its tags.
    pub tags: Tags,
    /// When it was registered.
    pub created_at: Timestamp,
    /// It can be used from this time on.
    pub available_at: Timestamp,
}

/// How far an instance has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceState {
    /// It starts.
    Pending,
    /// It runs.
    Running,
    /// It stops.
    Stopping,
    /// It does not run.
    Stopped,
    /// It goes.
    ShuttingDown,
    /// It is gone, and still shown.
    Terminated,
}

impl InstanceState {
    /// The code and the name that the API gives it.
    pub const fn shown(self) -> (u32, &'static str) {
        match self {
            Self::Pending => (0, "pending"),
            Self::Running => (16, "running"),
            Self::ShuttingDown => (32, "shutting-down"),
            Self::Terminated => (48, "terminated"),
            Self::Stopping => (64, "stopping"),
            Self::Stopped => (80, "stopped"),
        }
    }
}

/// An instance.
#[derive(Debug)]
pub struct Instance {
    /// The image that it was made from.
    pub image: String,
    /// Its type.
    pub kind: String,
    /// Whether it is a spot instance.
    pub is_spot: bool,
    /// Its CPU cores.
    pub cores: u32,
    /// Its vCPUs for each core.
    pub threads_per_core: u32,
    /// Where its network interface is.
    pub subnet: String,
    /// Its address there.
    pub address: String,
    /// Its security groups.
    pub groups: Vec<String>,
    /// The interface's hardware address.
    pub mac: String,
    /// As its image says.
    pub boot_mode: String,
    /// The device that it boots from.
    pub root_device: String,
    /// See there.
    pub state: InstanceState,
    /// Its tags.
    pub tags: Tags,
    /// What the caller gave, so that asking again is no second instance.
    pub client_token: Option<String>,
    /// When it was started.
    pub launched_at: Timestamp,
    /// Why it ended by itself; empty if it did not.
    pub reason: String,
    /// What runs it.
    pub power: Arc<Power>,
}

/// A network that instances can be in.
#[derive(Debug, Clone)]
pub struct Subnet {
    /// Such as `subnet-0a`.
    pub id: String,
    /// Such as `10.1.2.0/24`.
    pub cidr: String,
    /// Its tags.
    pub tags: Tags,
}

/// Something whose identity others have asked for, and that must answer the same when asked again.
#[derive(Debug, Clone)]
pub struct Remembered {
    /// The whole request.
    pub request: String,
    /// What it made.
    pub made: String,
}

/// All of it.
#[derive(Debug, Default)]
pub struct State {
    /// By id.
    pub snapshots: BTreeMap<String, Snapshot>,
    /// By id.
    pub volumes: BTreeMap<String, Volume>,
    /// By id.
    pub images: BTreeMap<String, Image>,
    /// By id.
    pub instances: BTreeMap<String, Instance>,
    /// By client token, of each call that has one.
    pub remembered: BTreeMap<(&'static str, String), Remembered>,
    /// When each thing may be seen by those who look: at once, or a little later.
    pub visible_from: BTreeMap<String, Timestamp>,
    /// The newest calls.
    pub calls: VecDeque<Call>,
    /// What a test wants to go wrong with the next calls of a kind.
    pub wanted: Vec<(String, Fault)>,
}

/// A call that was answered.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Call {
    /// The access key.
    pub by: String,
    /// Such as `ec2:CreateSnapshots`.
    pub action: String,
    /// The code of the error, if it was refused or failed.
    pub error: Option<String>,
    /// What went wrong with it.
    pub fault: Option<Fault>,
}
