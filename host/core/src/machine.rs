//! A machine as its platform describes it: what a recovery point keeps so that it can be made again elsewhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{DiskId, MachineId};

/// A disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Unique in its machine.
    pub id: DiskId,
    /// Size in bytes, a multiple of 512.
    pub size_bytes: u64,
    /// The machine boots from it.
    pub boot: bool,
    /// What only the platform understands.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

/// A network interface of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkInterface {
    /// Unique in its machine.
    pub id: String,
    /// Six pairs of lower-case hexadecimal digits with colons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// What the platform calls its network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// What only the platform understands.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

/// How a machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// PC BIOS and its master boot record.
    Bios,
    /// UEFI.
    Uefi,
}

/// Whether a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PowerState {
    /// It is off.
    Off,
    /// It runs.
    Running,
    /// It is held in memory; its disks do not change.
    Paused,
    /// The platform does not answer, or answers something else.
    Unknown,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// What its platform calls it.
    pub id: MachineId,
    /// What people call it.
    pub name: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// How it starts.
    pub firmware: Firmware,
    /// Whether it ran when it was described.
    pub power: PowerState,
    /// Its disks, in the platform's order.
    pub disks: Vec<Disk>,
    /// Its network interfaces, in the platform's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network_interfaces: Vec<NetworkInterface>,
    /// What only the platform understands.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

/// What the instants of the machines of a group have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Instant {
    /// One instant for all disks of all machines.
    Group,
    /// One instant for all disks of each machine; the machines' instants differ.
    Machine,
}

/// What a guest was asked to do before the instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// Nothing: the disks are as if the power had failed.
    Crash,
    /// To bring its file systems to rest.
    Application,
}

/// How a disk of a recovery point was obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// The platform said what changed since the parent, by tracking that chains to it.
    Tracked,
    /// All of it was read and compared with the parent.
    Compared,
    /// All of it was read; there was no parent.
    Full,
}
