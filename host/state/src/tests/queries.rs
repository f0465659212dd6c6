use rusqlite::params_from_iter;

use super::*;
use crate::{
    RunQuery,
    query::{select_cycles, select_events, select_runs},
    state::{ACHIEVED, TRIM_BEYOND, TRIM_OLD},
};

const GROUPS: [Option<&str>; 3] = [None, Some("mail"), Some("orders")];
const NAMES: [Option<&str>; 3] = [None, Some("cycle-failed"), Some("objective-missed")];
const SEVERITIES: [Option<Severity>; 4] = [None, Some(Severity::Info), Some(Severity::Warning), Some(Severity::Error)];

/// Every combination of filters.
fn queries() -> Vec<EventQuery> {
    let mut queries = Vec::new();
    for of in GROUPS {
        for name in NAMES {
            for severity_min in SEVERITIES {
                for after in [None, Some(0), Some(17), Some(u64::MAX)] {
                    let name = name.map(str::to_owned);
                    queries.push(EventQuery { group: of.map(group), name, severity_min, after, limit: 7 });
                }
            }
        }
    }
    queries
}

#[test]
fn each_filter_and_order_gives_what_a_plain_search_gives() {
    let (_folder, path) = folder();
    let state = opened(&path);
    let mut events = Vec::new();
    for step in 0..72_usize {
        let severity = SEVERITIES[1..][step % 3].expect("one");
        let name = NAMES[1..][(step / 3) % 2].expect("one");
        events.push(event(name, severity, GROUPS[(step / 6) % 3], 1_000 - i64::try_from(step).expect("small")));
    }
    let records: Vec<Record> = events.iter().cloned().map(Record::Event).collect();
    state.record(&records).expect("remembered");
    for query in queries() {
        let is_wanted = |(id, event): &(u64, &Event)| {
            query.group.as_ref().is_none_or(|group| event.group.as_ref() == Some(group))
                && query.name.as_ref().is_none_or(|name| *name == event.name)
                && query.severity_min.is_none_or(|min| event.severity >= min)
                && query.after.is_none_or(|after| *id > after)
        };
        let mut expected: Vec<(u64, &Event)> = (1..).zip(&events).filter(is_wanted).collect();
        if query.after.is_none() {
            expected.reverse();
        }
        expected.truncate(7);
        let found = state.events(&query).expect("events");
        let found: Vec<(u64, &Event)> = found.iter().map(|record| (record.id, &record.event)).collect();
        assert_eq!(found, expected, "{query:?}");
    }
}

#[test]
fn cycles_are_those_of_the_group_newest_first_and_no_more_than_wanted() {
    let (_folder, path) = folder();
    let state = opened(&path);
    let cycles =
        [failed("orders", 40), committed("mail", 30, None), failed("orders", 20), committed("orders", 10, None)];
    state.record(&cycles.clone().map(Record::Cycle)).expect("remembered");
    let found = |of: Option<&str>, limit| state.cycles(&CycleQuery { group: of.map(group), limit }).expect("cycles");
    let [first, second, third, fourth] = cycles;
    assert_eq!(found(None, 2), [fourth.clone(), third.clone()], "by when they were remembered, not by the clock");
    assert_eq!(found(Some("orders"), 9), [fourth, third, first]);
    assert_eq!(found(Some("mail"), 9), [second]);
    assert_eq!(found(Some("other"), 9), []);
    assert_eq!(found(None, 0), []);
}

#[test]
fn rows_that_cannot_be_understood_are_left_out_and_take_no_place() {
    let (_folder, path) = folder();
    let state = opened(&path);
    for _ in 0..6 {
        let cycle = Record::Cycle(committed("orders", 1, None));
        state.record(&[cycle, Record::Event(event("cycle-failed", Severity::Info, None, 1))]).expect("remembered");
    }
    let spoil = "
        UPDATE events SET severity = 9 WHERE id = 2;
        UPDATE events SET group_name = 'No Group' WHERE id = 3;
        UPDATE events SET details = '[1]' WHERE id = 4;
        UPDATE events SET text = CAST(x'ff' AS TEXT) WHERE id = 5;
        UPDATE cycles SET group_name = '' WHERE id = 2;
        UPDATE cycles SET bytes_read = -1 WHERE id = 3;
        UPDATE cycles SET basis = NULL WHERE id = 4;
        UPDATE cycles SET begun_at = -9223372036854775808 WHERE id = 5;
    ";
    state.lock().execute_batch(spoil).expect("spoilt");
    let two = EventQuery { after: Some(0), limit: 2, ..EventQuery::default() };
    let ids: Vec<u64> = state.events(&two).expect("events").iter().map(|record| record.id).collect();
    assert_eq!(ids, [1, 6]);
    assert_eq!(all_cycles(&state).len(), 3);
}

/// What SQLite means to do, a line for each step.
fn plan(state: &State, sql: &str, values: Vec<rusqlite::types::Value>) -> Vec<String> {
    let connection = state.lock();
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("a statement");
    let steps = statement.query_map(params_from_iter(values), |row| row.get("detail")).expect("a plan");
    steps.collect::<Result<_, _>>().expect("steps")
}

#[test]
fn no_query_reads_a_whole_table_or_sorts() {
    let (_folder, path) = folder();
    let state = opened(&path);
    let check = |sql: &str, values: Vec<rusqlite::types::Value>, may_scan: bool| {
        for step in plan(&state, sql, values) {
            // A scan is no search, but along an index or the ids it is in order and ends at the limit.
            assert!(may_scan || !step.starts_with("SCAN"), "{sql}: {step}");
            assert!(!step.contains("TEMP B-TREE"), "{sql}: {step}");
        }
    };
    for query in queries() {
        let (sql, values) = select_events(&query);
        let is_rare = matches!(query.severity_min, Some(Severity::Warning | Severity::Error));
        let steps = plan(&state, &sql, values.clone());
        assert!(
            !is_rare || steps.iter().all(|step| step.contains("INDEX events_")),
            "{sql}: a search for the rare goes along the rare: {steps:?}"
        );
        check(&sql, values, query.group.is_none() && query.name.is_none());
    }
    for of in GROUPS {
        let (sql, values) = select_cycles(&CycleQuery { group: of.map(group), limit: 1 });
        check(&sql, values, of.is_none());
        let (sql, values) = select_runs(&RunQuery { group: of.map(group), limit: 1 });
        check(&sql, values, of.is_none());
    }
    check(ACHIEVED, vec!["orders".to_owned().into(), 1.into()], false);
    assert!(
        plan(&state, ACHIEVED, vec!["orders".to_owned().into(), 1.into()])[0].contains("COVERING INDEX cycles_by_age")
    );
    TRIM_OLD.iter().for_each(|old| check(old, vec![1.into()], false));
    TRIM_BEYOND.iter().for_each(|beyond| check(beyond, vec![1.into()], true));
}
