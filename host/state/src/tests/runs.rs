use farshore_core::{RunId, SiteName, VaultId};
use rusqlite::Connection;
use serde_json::json;

use super::*;
use crate::{RunEnd, RunQuery, RunRecord, schema::MIGRATIONS};

/// The `number`th run, which has not ended.
fn begun(number: u8, name: &str) -> RunRecord {
    RunRecord {
        run: RunId::from_bytes([number; 16]),
        vault: VaultId::from_bytes([1; 16]),
        kind: "drill".to_owned(),
        group: group(name),
        point: Sequence::new(5),
        captured_at: time(100),
        source: SiteName::new("production").expect("a name"),
        target: SiteName::new("recovery").expect("a name"),
        machines: 2,
        began_at: time(1_000),
        end: None,
    }
}

fn ended(number: u8, name: &str) -> RunRecord {
    let end = RunEnd {
        ended_at: time(2_000),
        outcome: "partly".to_owned(),
        machines_recovered: 1,
        leftovers: 3,
        recovered_in_milliseconds: None,
        lost_at_most_milliseconds: Some(900),
    };
    RunRecord { end: Some(end), ..begun(number, name) }
}

fn all_runs(state: &State) -> Vec<RunRecord> {
    state.runs(&RunQuery { group: None, limit: u32::MAX }).expect("runs")
}

#[test]
fn a_run_is_replaced_until_it_has_ended_and_then_no_more() {
    let (_folder, path) = folder();
    let state = opened(&path);
    state.put_runs(&[begun(1, "orders"), begun(2, "mail")]).expect("remembered");
    assert_eq!(all_runs(&state), [begun(2, "mail"), begun(1, "orders")]);

    // A failover that fenced may recover a later point than the planned one.
    let fenced = RunRecord { point: Sequence::new(6), captured_at: time(200), ..begun(1, "orders") };
    state.put_runs(std::slice::from_ref(&fenced)).expect("remembered");
    assert_eq!(all_runs(&state), [begun(2, "mail"), fenced]);

    state.put_runs(&[ended(1, "orders")]).expect("remembered");
    for stale in [begun(1, "orders"), ended(1, "mail")] {
        state.put_runs(&[stale]).expect("no error");
        assert_eq!(all_runs(&state), [begun(2, "mail"), ended(1, "orders")], "its end is final");
    }
    drop(state);
    assert_eq!(all_runs(&opened(&path)), [begun(2, "mail"), ended(1, "orders")], "also after a restart");
}

#[test]
fn runs_are_those_of_the_group_newest_first_and_no_more_than_wanted() {
    let (_folder, path) = folder();
    let state = opened(&path);
    // In whichever order the vault gave them.
    state.put_runs(&[begun(3, "orders"), ended(1, "orders"), begun(2, "mail")]).expect("remembered");
    let found = |of: Option<&str>, limit| state.runs(&RunQuery { group: of.map(group), limit }).expect("runs");
    assert_eq!(found(None, 2), [begun(3, "orders"), begun(2, "mail")]);
    assert_eq!(found(Some("orders"), 9), [begun(3, "orders"), ended(1, "orders")]);
    assert_eq!(found(Some("other"), 9), []);
    assert_eq!(found(None, 0), []);
}

#[test]
fn json_of_a_run_has_its_end_beside_its_beginning_or_nothing_of_it() {
    let of_begun = json!({
        "run": "07".repeat(16), "vault": "01".repeat(16), "kind": "drill", "group": "orders", "point": 5,
        "captured_at": "1970-01-01T00:00:00.100Z", "source": "production", "target": "recovery", "machines": 2,
        "began_at": "1970-01-01T00:00:01.000Z",
    });
    assert_eq!(serde_json::to_value(begun(7, "orders")).expect("JSON"), of_begun);
    let of_ended = serde_json::to_value(ended(7, "orders")).expect("JSON");
    assert_eq!((&of_ended["outcome"], &of_ended["ended_at"]), (&json!("partly"), &json!("1970-01-01T00:00:02.000Z")));
    for record in [begun(7, "orders"), ended(7, "orders")] {
        let text = serde_json::to_string(&record).expect("JSON");
        assert_eq!(serde_json::from_str::<RunRecord>(&text).expect("comes back"), record);
    }
}

#[test]
fn runs_of_another_vault_are_forgotten() {
    let (_folder, path) = folder();
    let state = opened(&path);
    let elsewhere = RunRecord { vault: VaultId::from_bytes([2; 16]), ..ended(2, "orders") };
    state.put_runs(&[begun(1, "orders"), elsewhere]).expect("remembered");
    assert_eq!(state.forget_other_vaults(VaultId::from_bytes([1; 16])).expect("forgotten"), 1);
    assert_eq!(all_runs(&state), [begun(1, "orders")]);
    assert_eq!(state.forget_other_vaults(VaultId::from_bytes([1; 16])).expect("nothing to do"), 0);
}

#[test]
fn runs_are_trimmed_by_their_number_and_not_by_their_age() {
    let (_folder, path) = folder();
    let state = opened(&path);
    state.put_runs(&[ended(1, "orders"), begun(2, "orders"), ended(3, "orders")]).expect("remembered");
    assert_eq!(state.trim(time(1_000_000), 3).expect("trimmed"), 0, "the vault has them still");
    assert_eq!(state.trim(time(0), 2).expect("trimmed"), 1);
    assert_eq!(all_runs(&state), [ended(3, "orders"), begun(2, "orders")]);
    assert_eq!(state.trim(time(0), 0).expect("trimmed"), 2);
    assert_eq!(all_runs(&state), []);
}

#[test]
fn runs_that_cannot_be_understood_are_left_out() {
    let (_folder, path) = folder();
    let state = opened(&path);
    let runs: Vec<RunRecord> = (1..=6).map(|number| ended(number, "orders")).collect();
    state.put_runs(&runs).expect("remembered");
    for (number, spoil) in [
        (1, "run = 'no run'"),
        (2, "group_name = ''"),
        (3, "machines = -1"),
        (4, "leftovers = NULL"),
        (5, "target = 'No Site'"),
    ] {
        let run = RunId::from_bytes([number; 16]);
        state.lock().execute_batch(&format!("UPDATE runs SET {spoil} WHERE run = '{run}'")).expect("spoilt");
    }
    assert_eq!(all_runs(&state), [ended(6, "orders")]);
}

#[test]
fn a_file_of_the_first_version_keeps_its_rows_and_can_hold_runs() {
    let (_folder, path) = folder();
    let old = Connection::open(&path).expect("a connection");
    old.execute_batch(MIGRATIONS[0]).expect("the tables of the first version");
    old.execute_batch(
        "PRAGMA application_id = 0x46537374; PRAGMA user_version = 1;
         INSERT INTO events (at, name, severity, text, details) VALUES (7, 'daemon-started', 0, 'long ago', '{}')",
    )
    .expect("a file of the first version");
    drop(old);
    let found = State::open(&path).expect("it opens");
    assert!(!found.is_new && found.set_aside.is_none());
    assert_eq!(all_events(&found.state), [1]);
    assert_eq!(all_runs(&found.state), []);
    found.state.put_runs(&[ended(1, "orders")]).expect("remembered");
    drop(found);
    let state = opened(&path);
    assert_eq!((all_events(&state), all_runs(&state)), (vec![1], vec![ended(1, "orders")]));
}
