//! What the state file promises.

mod damage;
mod queries;
mod records;
mod runs;

use std::path::PathBuf;

use farshore_core::{GroupName, Sequence, Timestamp};
use serde_json::Map;
use tempfile::TempDir;

use crate::{CycleOutcome, CycleQuery, CycleRecord, Event, EventQuery, Opened, Record, Severity, State};

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.db");
    (folder, path)
}

fn opened(path: &std::path::Path) -> State {
    let Opened { state, set_aside, .. } = State::open(path).expect("the file opens");
    assert_eq!(set_aside, None);
    state
}

fn time(milliseconds: i64) -> Timestamp {
    Timestamp::from_unix_milliseconds(milliseconds)
}

fn group(name: &str) -> GroupName {
    GroupName::new(name).expect("a name")
}

fn committed(name: &str, ended_at: i64, age_before: Option<u64>) -> CycleRecord {
    CycleRecord {
        group: group(name),
        begun_at: time(ended_at - 7),
        ended_at: time(ended_at),
        outcome: CycleOutcome::Committed {
            point: Sequence::new(11),
            captured_at: time(ended_at - 5),
            basis: "tracked".to_owned(),
            bytes_read: 1,
            bytes_changed: 2,
            bytes_stored: 3,
            held_microseconds: 4,
            lag_milliseconds: 5,
            age_before_milliseconds: age_before,
            waited_milliseconds: 6,
        },
    }
}

fn failed(name: &str, ended_at: i64) -> CycleRecord {
    let outcome = CycleOutcome::Failed { code: "FS4003".to_owned(), message: "no machine".to_owned() };
    CycleRecord { group: group(name), begun_at: time(ended_at - 1), ended_at: time(ended_at), outcome }
}

fn event(name: &str, severity: Severity, of: Option<&str>, at: i64) -> Event {
    Event {
        at: time(at),
        name: name.to_owned(),
        severity,
        group: of.map(group),
        text: format!("{name} at {at}"),
        details: Map::new(),
    }
}

fn some_events(count: i64) -> Vec<Record> {
    (0..count).map(|at| Record::Event(event("cycle-failed", Severity::Warning, Some("orders"), at))).collect()
}

fn all_events(state: &State) -> Vec<u64> {
    let query = EventQuery { after: Some(0), limit: u32::MAX, ..EventQuery::default() };
    state.events(&query).expect("events").into_iter().map(|record| record.id).collect()
}

fn all_cycles(state: &State) -> Vec<CycleRecord> {
    state.cycles(&CycleQuery { group: None, limit: u32::MAX }).expect("cycles")
}
