//! What a point that waits is.

use farshore_core::{CaptureId, DiskId, MachineId, SiteName, Timestamp};
use farshore_vault::PointDetails;
use serde::{Deserialize, Serialize};

/// A point that waits: what will be said of it in the vault, and on what it builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpooledPoint {
    /// The capture of the point before it, on whose content it builds.
    pub after: CaptureId,
    /// The site that captured it.
    pub site: SiteName,
    /// What the vault will be told. Its `capture` is there.
    pub details: PointDetails,
    /// Its disks, by the numbers under which their bytes were given.
    pub disks: Vec<SpooledDisk>,
    /// The disks of machines that were suspended, as far as the point after it has to know them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspended: Vec<SuspendedDisk>,
    /// Bytes read from the source.
    pub read_bytes: u64,
    /// The longest hold of a guest, in microseconds.
    pub held_microseconds: u64,
}

/// A disk of a machine that was suspended when a point that waits was made: the point has of it what the one before it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuspendedDisk {
    /// Its machine.
    pub machine: MachineId,
    /// Which disk of the machine.
    pub disk: DiskId,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Stands for the instant at which it was captured; none if it is not tracked.
    pub tracking_token: Option<String>,
    /// That instant.
    pub captured_at: Timestamp,
}

/// A disk of a point that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpooledDisk {
    /// Its machine.
    pub machine: MachineId,
    /// Which disk of the machine.
    pub disk: DiskId,
    /// Its size in bytes.
    pub size_bytes: u64,
}
