use std::{os::unix::fs::PermissionsExt as _, sync::Arc, thread};

use farshore_core::{Sequence, Timestamp};
use serde_json::json;

use super::*;
use crate::{Achieved, DETAILS_BYTES_MAX, TEXT_BYTES_MAX};

#[test]
fn every_record_comes_back_as_it_was_also_after_a_restart() {
    let (_folder, path) = folder();
    let cycles = [failed("orders", 10), committed("orders", 20, None), committed("mail", 30, Some(4_000))];
    let mut happened = event("objective-missed", Severity::Error, Some("orders"), 40);
    happened.details = json!({"seconds": 5, "of": ["a", {"b": null}]}).as_object().expect("an object").clone();
    let events = [event("host-started", Severity::Info, None, 5), happened];
    let records: Vec<Record> =
        cycles.iter().cloned().map(Record::Cycle).chain(events.iter().cloned().map(Record::Event)).collect();
    {
        let opened = State::open(&path).expect("a new file");
        assert!(opened.is_new && opened.set_aside.is_none());
        opened.state.record(&records).expect("remembered");
    }
    let opened = State::open(&path).expect("the same file");
    assert!(!opened.is_new && opened.set_aside.is_none());
    let newest_first: Vec<CycleRecord> = cycles.into_iter().rev().collect();
    assert_eq!(all_cycles(&opened.state), newest_first);
    let found = opened.state.events(&EventQuery { limit: 9, ..EventQuery::default() }).expect("events");
    assert_eq!(found.iter().map(|record| record.id).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(found.into_iter().map(|record| record.event).rev().collect::<Vec<_>>(), events);
}

#[test]
fn json_has_the_outcome_and_the_event_beside_their_fields() {
    let cycle = serde_json::to_value(failed("orders", 1_000)).expect("JSON");
    assert_eq!(
        cycle,
        json!({
            "group": "orders", "begun_at": "1970-01-01T00:00:00.999Z", "ended_at": "1970-01-01T00:00:01.000Z",
            "outcome": "failed", "code": "FS4003", "message": "no machine",
        })
    );
    for record in [failed("orders", 9), committed("orders", 9, Some(u64::MAX)), committed("orders", 9, None)] {
        let text = serde_json::to_string(&record).expect("JSON");
        assert_eq!(serde_json::from_str::<CycleRecord>(&text).expect("comes back"), record);
    }
}

#[test]
fn counts_that_no_file_can_hold_are_the_highest_that_it_can() {
    let (_folder, path) = folder();
    let state = opened(&path);
    let mut cycle = committed("orders", 1, Some(u64::MAX));
    let CycleOutcome::Committed { point, bytes_read, .. } = &mut cycle.outcome else { unreachable!() };
    (*point, *bytes_read) = (Sequence::new(u64::MAX), u64::MAX);
    state.record(&[Record::Cycle(cycle)]).expect("remembered");
    let CycleOutcome::Committed { point, bytes_read, age_before_milliseconds, .. } =
        all_cycles(&state).remove(0).outcome
    else {
        unreachable!()
    };
    let highest = i64::MAX.unsigned_abs();
    assert_eq!((point.get(), bytes_read, age_before_milliseconds), (highest, highest, Some(highest)));
    let achieved = state.achieved(&group("orders"), time(0)).expect("achieved");
    assert_eq!(achieved.age_max_milliseconds, Some(highest));
}

#[test]
fn long_texts_are_cut_between_characters_and_large_details_are_replaced() {
    let (_folder, path) = folder();
    let state = opened(&path);
    let mut long = event("cycle-failed", Severity::Info, None, 1);
    long.text = format!("a{}", "é".repeat(TEXT_BYTES_MAX));
    long.details.insert("list".to_owned(), "x".repeat(DETAILS_BYTES_MAX).into());
    let mut cycle = failed("orders", 1);
    cycle.outcome = CycleOutcome::Failed { code: "FS4003".to_owned(), message: long.text.clone() };
    state.record(&[Record::Event(long.clone()), Record::Cycle(cycle)]).expect("remembered");
    let found = state.events(&EventQuery { limit: 1, ..EventQuery::default() }).expect("events").remove(0).event;
    assert_eq!(found.text.len(), TEXT_BYTES_MAX - 1);
    assert!(long.text.starts_with(&found.text));
    assert_eq!(serde_json::Value::from(found.details), json!({"cut": true}));
    let CycleOutcome::Failed { message, .. } = all_cycles(&state).remove(0).outcome else { unreachable!() };
    assert_eq!(message, found.text);
}

#[test]
fn the_file_and_what_is_beside_it_are_for_their_owner_alone() {
    let (folder, _) = folder();
    let path = folder.path().join("new").join("state.db");
    let state = opened(&path);
    state.record(&some_events(1)).expect("remembered");
    for suffix in ["", "-wal", "-shm", "-lock"] {
        let name = format!("{}{suffix}", path.display());
        let mode = std::fs::metadata(&name).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn one_handle_reads_whole_batches_while_another_writes() {
    const BATCHES: u64 = 200;
    let (_folder, path) = folder();
    assert!(State::open_to_read(&path).expect("no file is no error").is_none());
    std::fs::write(&path, b"").expect("an empty file");
    assert!(State::open_to_read(&path).expect("nothing in it is no error").is_none());
    let writer = Arc::new(opened(&path));
    let reader = State::open_to_read(&path).expect("it opens").expect("there is one");
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..BATCHES {
                writer.record(&some_events(3)).expect("remembered");
            }
        });
        let mut seen = 0;
        while seen < BATCHES * 3 {
            let after = EventQuery { after: Some(seen), limit: u32::MAX, ..EventQuery::default() };
            let found = reader.events(&after).expect("events");
            let ids: Vec<u64> = found.iter().map(|record| record.id).collect();
            let count = u64::try_from(ids.len()).expect("a count");
            assert_eq!(ids, (seen + 1..=seen + count).collect::<Vec<_>>());
            assert_eq!(count % 3, 0, "half a batch was seen");
            seen += count;
        }
    });
    reader.record(&some_events(1)).expect_err("it only reads");
}

#[test]
fn several_handles_write_by_turns() {
    let (_folder, path) = folder();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let state = opened(&path);
                for _ in 0..25 {
                    state.record(&some_events(2)).expect("remembered");
                }
            });
        }
    });
    assert_eq!(all_events(&opened(&path)), (1..=200).collect::<Vec<_>>());
}

#[test]
fn trimming_forgets_by_age_and_by_count_and_gives_no_id_twice() {
    let (_folder, path) = folder();
    let state = opened(&path);
    state.record(&some_events(10)).expect("remembered");
    let cycles: Vec<Record> = (0..10).map(|at| Record::Cycle(committed("orders", at, None))).collect();
    state.record(&cycles).expect("remembered");

    assert_eq!(state.trim(time(3), 100).expect("trimmed"), 6);
    assert_eq!(all_events(&state), [4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(state.trim(time(3), 2).expect("trimmed"), 10);
    assert_eq!(all_events(&state), [9, 10]);
    assert_eq!(all_cycles(&state), [committed("orders", 9, None), committed("orders", 8, None)]);
    assert_eq!(state.trim(time(0), 2).expect("trimmed"), 0);
    assert_eq!(state.trim(time(0), u64::MAX).expect("trimmed"), 0);

    assert_eq!(state.trim(time(0), 0).expect("trimmed"), 4);
    assert!(all_events(&state).is_empty() && all_cycles(&state).is_empty());
    drop(state);
    let state = opened(&path);
    state.record(&some_events(1)).expect("remembered");
    assert_eq!(all_events(&state), [11]);
}

/// The lowest age that at least so many percent do not exceed, straight from the definition.
fn naive_percentile(ages: &[u64], percent: usize) -> Option<u64> {
    let reaches = |age: &u64| ages.iter().filter(|other| *other <= age).count() * 100 >= ages.len() * percent;
    ages.iter().copied().filter(reaches).min()
}

#[test]
fn achieved_ages_are_those_of_a_naive_computation() {
    let (_folder, path) = folder();
    let state = opened(&path);
    let since = 1_000;
    assert_eq!(state.achieved(&group("orders"), time(since)).expect("achieved"), Achieved::default());
    let mut ages = Vec::new();
    for step in 0..257_u64 {
        let age = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 90_000;
        let at = since + i64::try_from(step).expect("small");
        let records = [
            committed("orders", at, Some(age)),
            committed("orders", at, None),
            committed("orders", since - 1, Some(1_000_000)),
            committed("mail", at, Some(2_000_000)),
            failed("orders", at),
        ];
        state.record(&records.map(Record::Cycle)).expect("remembered");
        ages.push(age);
        let expected = Achieved {
            points: step + 1,
            age_p50_milliseconds: naive_percentile(&ages, 50),
            age_p99_milliseconds: naive_percentile(&ages, 99),
            age_max_milliseconds: ages.iter().copied().max(),
        };
        assert_eq!(state.achieved(&group("orders"), time(since)).expect("achieved"), expected, "{step}");
    }
}

#[test]
fn times_of_any_year_are_remembered() {
    let (_folder, path) = folder();
    let state = opened(&path);
    for milliseconds in [i64::MIN, -1, 0, i64::MAX] {
        let mut cycle = failed("orders", 1);
        cycle.ended_at = Timestamp::from_unix_milliseconds(milliseconds);
        state.record(&[Record::Cycle(cycle.clone())]).expect("remembered");
        assert_eq!(all_cycles(&state).remove(0), cycle);
    }
}
