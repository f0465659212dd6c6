//! What a host remembers of its own doings, in an embedded SQLite: cycles and events; and a view of the vault's runs.
//!
//! It must not decide anything. What is in a vault, which point is the newest, whether a group may be written: that is
//! asked of the vault and of the configuration. This file answers only what a person asks afterwards: when was the last
//! cycle, how old did the newest point become, what went wrong in the night, which drills and failovers were there.
//!
//! ## What is whose
//! Cycles and events are written once, by the host whose they are ([`State::record`]). A run is in the vault, whichever host
//! executed it, and its row here says how it was when somebody last looked there ([`State::put_runs`]): it is replaced until the
//! run has ended, and all rows can be made again from the vault.
//!
//! ## What may be lost
//! All of it. The vault is the truth, and no recovery point depends on this file. So a write is not waited for until it
//! is on the disk: after a power failure the last few records may be missing, and the file is still whole. A file that
//! is damaged all the same is set aside, with whatever SQLite keeps beside it, and a new one is made; nothing is deleted,
//! so that somebody may still look into it.
//!
//! ## What is not touched
//! A file that a newer version of Farshore made, and a database of another program: both are refused.
//!
//! ## Concurrency
//! A [`State`] may be shared by threads; they take turns. Several processes may have the same file open, one of them
//! writing at a time: SQLite's write-ahead log lets the others read meanwhile. `FILE-lock` beside it is held while the file
//! is opened to be written. Every call may wait for a disk, and up to five seconds for another process, so it has no place
//! in an async task other than `spawn_blocking`.
//!
//! ## Limits
//! Texts are cut at 4 KiB and details at 16 KiB. The tables grow until [`State::trim`] is called. Of a run only what a list shows
//! is remembered: its report is in the vault.

mod codes;
mod error;
mod file;
mod query;
mod record;
mod schema;
mod state;
#[cfg(test)]
mod tests;

pub use self::{
    codes::CODES,
    error::StateError,
    record::{
        Achieved, CycleOutcome, CycleQuery, CycleRecord, DETAILS_BYTES_MAX, Event, EventQuery, EventRecord, Record,
        RunEnd, RunQuery, RunRecord, Severity, TEXT_BYTES_MAX,
    },
    state::{Opened, State},
};
