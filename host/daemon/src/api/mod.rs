//! What the daemon and its clients say to each other: versioned JSON over HTTP, on a Unix socket.
//!
//! Paths begin with `/v1`. A field may be added to an answer within a version; none is taken away or given another meaning. An error
//! is a problem document (RFC 9457) with the error's code, causes and advice, as every command shows them.

pub mod client;

use std::path::PathBuf;

use farshore_core::{Consistency, PointLabel, Timestamp};
use farshore_replication::GroupStatus;
use serde::{Deserialize, Serialize};

use crate::{config::difference::Difference, output::Failure};

/// `GET /v1/status`: how everything stands.
#[derive(Debug, Serialize, Deserialize)]
pub struct HostStatus {
    /// Who says so.
    #[serde(flatten)]
    pub source: Source,
    /// The time of that host.
    pub at: Timestamp,
    /// The groups, by name.
    pub groups: Vec<GroupStatus>,
}

/// Who says how things stand.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "kebab-case")]
pub enum Source {
    /// The daemon of this host.
    Daemon(DaemonStatus),
    /// The vault: no daemon runs here, and what cycles do elsewhere is not known.
    Vault,
}

/// How a daemon does.
#[derive(Debug, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Its version.
    pub version: String,
    /// Its process.
    pub process: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// Why it does not replicate all that it should, if so.
    pub waits_for: Vec<String>,
    /// Whether no cycle begins any more, because it was told to stop.
    pub is_stopping: bool,
    /// What it goes by.
    pub configuration: ConfigurationStatus,
}

/// The configuration that a daemon goes by.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// Its file.
    pub file: PathBuf,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// Why the file as it is now was not taken, if so.
    pub refused: Option<String>,
}

/// `POST /v1/groups/GROUP/cycles`: begin a cycle before all others, and answer with its report when its point is durable.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CycleRequest {
    /// What the point is called.
    pub label: Option<PointLabel>,
    /// What the guests are asked to do before the instant, if not what the configuration says.
    pub consistency: Option<Consistency>,
}

/// `POST /v1/reload`: take the configuration's file as it is now.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReloadReport {
    /// What is otherwise now.
    pub differences: Vec<Difference>,
}

/// An error of the API.
#[derive(Debug, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:farshore:FS6002`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, in a few words.
    pub title: String,
    /// All that a command would show.
    #[serde(flatten)]
    pub failure: Failure,
}
