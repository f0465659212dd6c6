//! What was told to whom: the model that the vault is compared with.
//!
//! A writer's attempt at a point is named in the point's note, so that a point that is found tells which attempt it is
//! without trusting anything else of it. What an actor was told stays here when its process dies.

use std::{collections::BTreeMap, time::Duration};

use farshore_core::{Generation, GroupName, RunId, Sequence, SiteName};
use farshore_vault::{Grace, Point, Retention};

/// BLAKE3 of something.
pub type Hash = [u8; 32];

/// The content of a point's disks, by name: length and hash.
pub type Disks = BTreeMap<String, (u64, Hash)>;

/// Names an attempt at a point in its world.
pub type AttemptId = usize;

/// What became of an attempt at a point, as its writer knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It was begun, and its commit was never asked for: it must never be seen.
    Begun,
    /// Its commit was asked for, and no answer came, or one that leaves it open.
    Open,
    /// It is committed, its writer was told: under this number, as this point.
    Acknowledged(Sequence, Hash),
    /// It is refused, its writer was told: it must never be seen.
    Refused,
}

/// What a process is about. What it asks the store to create or delete is made on behalf of this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Task {
    /// Something that nobody follows.
    #[default]
    Other,
    /// This attempt at a point.
    Point(AttemptId),
    /// The prune of this place in the history.
    Prune(usize),
    /// The pin, or the giving up of a pin, of this place in the history.
    Pin(usize),
}

/// A prune that was planned, and whose execution was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prune {
    /// Its group.
    pub group: GroupName,
    /// The newest commit that it judged.
    pub judged: Sequence,
    /// The rules.
    pub retention: Retention,
    /// How long what it condemned before must have waited.
    pub grace: Grace,
    /// The points that it says it gives up.
    pub dropped: Vec<Sequence>,
    /// The points that it says it brings back.
    pub revived: Vec<Sequence>,
    /// How many objects it says it declares final.
    pub finals: u64,
    /// How many effects the store had seen when it was planned.
    pub effects_seen: usize,
    /// When its pruner was told that it is committed, by the world's time.
    pub told_at: Option<Duration>,
}

/// A pin that a controller asked for, or asked to be given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinRequest {
    /// Its group.
    pub group: GroupName,
    /// Its run.
    pub run: RunId,
    /// The point; none if the pin is given up.
    pub point: Option<Sequence>,
    /// Whether its controller was told that it is done.
    pub is_acknowledged: bool,
}

/// A list of points that somebody read while the world went on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The group.
    pub group: GroupName,
    /// When it was asked for, by the world's time.
    pub began_at: Duration,
    /// When it was there.
    pub ended_at: Duration,
    /// The points.
    pub points: Vec<Sequence>,
}

/// A writer's attempt at a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Its group.
    pub group: GroupName,
    /// The writer's host.
    pub host: String,
    /// The site that it wrote for.
    pub site: SiteName,
    /// The generation that it took to be current.
    pub generation: Generation,
    /// What its disks hold.
    pub disks: Disks,
    /// What became of it.
    pub fate: Fate,
}

/// A raise of a generation that its controller was told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raise {
    /// Its group.
    pub group: GroupName,
    /// The new generation.
    pub generation: Generation,
    /// The number of its commit.
    pub sequence: Sequence,
    /// The site that may write from then on.
    pub site: SiteName,
}

/// An entry that somebody tried to write into a run's journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The run.
    pub run: RunId,
    /// The entry's number.
    pub number: u64,
    /// What it says.
    pub bytes: Vec<u8>,
    /// What became of it.
    pub fate: EntryFate,
}

/// What became of an entry, as its writer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryFate {
    /// No answer came, or one that leaves it open.
    Open,
    /// It is written, its writer was told.
    Acknowledged,
    /// Another's is there, its writer was told.
    Refused,
}

/// A point that somebody restored while the world went on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Its group.
    pub group: GroupName,
    /// Its number.
    pub sequence: Sequence,
    /// The point as it was described.
    pub description: Hash,
    /// What its disks held.
    pub disks: Disks,
}

/// An actor that was to get something done after all faults had stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Who.
    pub actor: String,
    /// What, as in `a point of orders`.
    pub what: String,
    /// How long it took; none if it was given up.
    pub took: Option<Duration>,
    /// The last error, if there was one.
    pub error: String,
}

/// See the module.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct History {
    /// All attempts; an attempt's id is its place.
    pub attempts: Vec<Attempt>,
    /// All raises that were told of, in the order of being told.
    pub raises: Vec<Raise>,
    /// All entries of journals that somebody tried to write.
    pub entries: Vec<Entry>,
    /// Groups that somebody was told have a lineage.
    pub groups: std::collections::BTreeSet<GroupName>,
    /// All prunes that were begun.
    pub prunes: Vec<Prune>,
    /// All pins that were asked for.
    pub pins: Vec<PinRequest>,
    /// What was listed.
    pub listings: Vec<Listing>,
    /// What was restored.
    pub observations: Vec<Observation>,
    /// The texts of all errors, with how often each came.
    pub errors: BTreeMap<String, u64>,
    /// What was to be done after the faults.
    pub progress: Vec<Progress>,
    /// What an actor found that must never be, whatever else holds.
    pub impossible: Vec<String>,
}

/// The note of an attempt's point.
pub fn note(attempt: AttemptId) -> String {
    format!("attempt {attempt}")
}

/// The attempt that a point's note names.
pub fn attempt_of(note: &str) -> Option<AttemptId> {
    note.strip_prefix("attempt ")?.parse().ok()
}

/// The hash of a point's whole description.
pub fn description(point: &Point) -> Hash {
    *blake3::hash(format!("{point:?}").as_bytes()).as_bytes()
}

impl History {
    /// Remembers that an attempt begins.
    pub fn begin(&mut self, attempt: Attempt) -> AttemptId {
        self.attempts.push(attempt);
        self.attempts.len() - 1
    }

    /// Remembers what became of an attempt.
    pub fn settle(&mut self, attempt: AttemptId, fate: Fate) {
        self.attempts[attempt].fate = fate;
    }

    /// Remembers an error's text.
    pub fn note_error(&mut self, text: String) {
        *self.errors.entry(text).or_default() += 1;
    }

    /// Remembers that an entry is being written.
    pub fn begin_entry(&mut self, run: RunId, number: u64, bytes: Vec<u8>) -> usize {
        self.entries.push(Entry { run, number, bytes, fate: EntryFate::Open });
        self.entries.len() - 1
    }
}
