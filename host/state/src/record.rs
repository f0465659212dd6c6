//! What is remembered, and how it is asked for.

use std::fmt;

use farshore_core::{GroupName, RunId, Sequence, SiteName, Timestamp, VaultId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A text is cut when it is longer than this.
pub const TEXT_BYTES_MAX: usize = 4 << 10;
/// Details whose JSON is longer than this are replaced by `{"cut": true}`.
pub const DETAILS_BYTES_MAX: usize = 16 << 10;

/// Something to remember.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A cycle that has ended.
    Cycle(CycleRecord),
    /// Something that happened.
    Event(Event),
}

/// A cycle that has ended: one attempt to make a recovery point of a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CycleRecord {
    /// The group.
    pub group: GroupName,
    /// When it began.
    pub begun_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: CycleOutcome,
}

/// How a cycle ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case", rename_all_fields = "snake_case")]
pub enum CycleOutcome {
    /// With a recovery point.
    Committed {
        /// The point's number.
        point: Sequence,
        /// The moment that the point shows.
        captured_at: Timestamp,
        /// How it was known what to read, such as `tracked`.
        basis: String,
        /// Bytes that were read from disks.
        bytes_read: u64,
        /// Bytes that differed from the point before.
        bytes_changed: u64,
        /// Bytes that went to the vault.
        bytes_stored: u64,
        /// How long the machines were held still, in microseconds.
        held_microseconds: u64,
        /// From the captured moment to the commit, in milliseconds.
        lag_milliseconds: u64,
        /// How old the newest point had become just before this one, in milliseconds; none for the first.
        age_before_milliseconds: Option<u64>,
        /// How long the cycle waited for its turn, in milliseconds.
        waited_milliseconds: u64,
    },
    /// Without.
    Failed {
        /// The error's code, such as `FS4003`.
        code: String,
        /// The error's sentence.
        message: String,
    },
}

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look when there is time.
    Warning,
    /// Somebody must look.
    Error,
}

impl Severity {
    /// All of them, mildest first: the place is the number in the file.
    const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Error];

    /// Its number in the file.
    pub(crate) const fn rank(self) -> i64 {
        match self {
            Self::Info => 0,
            Self::Warning => 1,
            Self::Error => 2,
        }
    }

    /// The severity with this number in the file.
    pub(crate) fn from_rank(rank: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.rank() == rank)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// Something that happened, with a stable name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// What kind of event it is, such as `objective-missed`. Programs depend on it.
    pub name: String,
    /// How much it matters.
    pub severity: Severity,
    /// The group that it is about; none if it is about the host.
    pub group: Option<GroupName>,
    /// What happened, in a sentence for people.
    pub text: String,
    /// What happened, for programs.
    pub details: Map<String, Value>,
}

/// An event as it is remembered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Its number in the file. Later events have higher ones, and none is used twice; a new file begins anew.
    pub id: u64,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}

/// A run as it was when it was last looked at. Its journal in the vault says all of it; this is what a list shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The run.
    pub run: RunId,
    /// The vault that has its journal.
    pub vault: VaultId,
    /// What it is for, such as `drill`.
    pub kind: String,
    /// The group.
    pub group: GroupName,
    /// The point that is recovered.
    pub point: Sequence,
    /// The moment that the point shows.
    pub captured_at: Timestamp,
    /// Where the machines were protected.
    pub source: SiteName,
    /// Where they are recovered.
    pub target: SiteName,
    /// How many machines are recovered.
    pub machines: u64,
    /// When it began.
    pub began_at: Timestamp,
    /// How it ended; none as long as it has not.
    #[serde(flatten)]
    pub end: Option<RunEnd>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunEnd {
    /// When.
    pub ended_at: Timestamp,
    /// How, such as `succeeded`.
    pub outcome: String,
    /// How many machines came as far as was asked.
    pub machines_recovered: u64,
    /// How much of what it made could not be removed.
    pub leftovers: u64,
    /// From its beginning until the last machine came as far as was asked, in milliseconds; none if one did not.
    pub recovered_in_milliseconds: Option<u64>,
    /// For how long the group worked at most after what the point shows, in milliseconds; none for a drill.
    pub lost_at_most_milliseconds: Option<u64>,
}

/// Which cycles are wanted, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CycleQuery {
    /// Of this group only.
    pub group: Option<GroupName>,
    /// At most so many.
    pub limit: u32,
}

/// Which runs are wanted, newest first, by their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunQuery {
    /// Of this group only.
    pub group: Option<GroupName>,
    /// At most so many.
    pub limit: u32,
}

/// Which events are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// About this group only.
    pub group: Option<GroupName>,
    /// Of this name only.
    pub name: Option<String>,
    /// As severe as this, or more.
    pub severity_min: Option<Severity>,
    /// Those with a higher id than this, oldest first. Without it the newest, newest first.
    pub after: Option<u64>,
    /// At most so many.
    pub limit: u32,
}

/// How old the newest recovery point of a group became, over the cycles that replaced it. Percentiles are by nearest
/// rank: an age that was really reached, and that so many percent of the ages do not exceed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Achieved {
    /// The committed cycles that are counted: those that had a point before them.
    pub points: u64,
    /// Half of the ages are no higher, in milliseconds; none without points.
    pub age_p50_milliseconds: Option<u64>,
    /// 99 of 100 ages are no higher, in milliseconds; none without points.
    pub age_p99_milliseconds: Option<u64>,
    /// The highest age, in milliseconds; none without points.
    pub age_max_milliseconds: Option<u64>,
}

impl Achieved {
    /// What ages in milliseconds, in any order, come to.
    pub(crate) fn of(mut ages: Vec<u64>) -> Self {
        ages.sort_unstable();
        let percentile = |percent: usize| {
            let rank = ages.len().saturating_mul(percent).div_ceil(100);
            ages.get(rank.checked_sub(1)?).copied()
        };
        Self {
            points: u64::try_from(ages.len()).unwrap_or(u64::MAX),
            age_p50_milliseconds: percentile(50),
            age_p99_milliseconds: percentile(99),
            age_max_milliseconds: percentile(100),
        }
    }
}

/// As much of a text as is remembered.
pub(crate) fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default()
}

/// The JSON of details, as much as is remembered.
pub(crate) fn details_json(details: &Map<String, Value>) -> String {
    let json = serde_json::to_string(details).unwrap_or_default();
    if json.is_empty() || json.len() > DETAILS_BYTES_MAX { r#"{"cut":true}"#.to_owned() } else { json }
}
