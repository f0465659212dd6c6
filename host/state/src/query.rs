//! From records to rows and back.

use std::error::Error;

use farshore_core::{GroupName, Sequence, SiteName, Timestamp};
use rusqlite::{
    Row, Rows, Transaction, named_params, params,
    types::{FromSql, Value},
};

use crate::{
    CycleOutcome, CycleQuery, CycleRecord, Event, EventQuery, EventRecord, RunEnd, RunQuery, RunRecord, Severity,
    record::{cut, details_json},
};

/// Why a row cannot be understood. It is skipped.
type Unreadable = Box<dyn Error + Send + Sync>;

/// A count as SQLite can keep it.
pub(crate) fn stored(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(crate) fn insert_cycle(transaction: &Transaction<'_>, cycle: &CycleRecord) -> Result<(), rusqlite::Error> {
    let CycleRecord { group, begun_at, ended_at, outcome } = cycle;
    let (group, begun_at, ended_at) =
        (group.as_str(), begun_at.as_unix_milliseconds(), ended_at.as_unix_milliseconds());
    match outcome {
        CycleOutcome::Committed {
            point,
            captured_at,
            basis,
            bytes_read,
            bytes_changed,
            bytes_stored,
            held_microseconds,
            lag_milliseconds,
            age_before_milliseconds,
            waited_milliseconds,
        } => transaction
            .prepare_cached(
                "INSERT INTO cycles (group_name, begun_at, ended_at, point, captured_at, basis, bytes_read,
                     bytes_changed, bytes_stored, held_microseconds, lag_milliseconds, age_before_milliseconds,
                     waited_milliseconds)
                 VALUES (:group, :begun_at, :ended_at, :point, :captured_at, :basis, :read, :changed, :stored, :held,
                     :lag, :age_before, :waited)",
            )?
            .execute(named_params! {
                ":group": group,
                ":begun_at": begun_at,
                ":ended_at": ended_at,
                ":point": stored(point.get()),
                ":captured_at": captured_at.as_unix_milliseconds(),
                ":basis": cut(basis),
                ":read": stored(*bytes_read),
                ":changed": stored(*bytes_changed),
                ":stored": stored(*bytes_stored),
                ":held": stored(*held_microseconds),
                ":lag": stored(*lag_milliseconds),
                ":age_before": age_before_milliseconds.map(stored),
                ":waited": stored(*waited_milliseconds),
            })?,
        CycleOutcome::Failed { code, message } => transaction
            .prepare_cached(
                "INSERT INTO cycles (group_name, begun_at, ended_at, code, message) VALUES (?, ?, ?, ?, ?)",
            )?
            .execute(params![group, begun_at, ended_at, cut(code), cut(message)])?,
    };
    Ok(())
}

pub(crate) fn insert_event(transaction: &Transaction<'_>, event: &Event) -> Result<(), rusqlite::Error> {
    let Event { at, name, severity, group, text, details } = event;
    transaction
        .prepare_cached("INSERT INTO events (at, name, severity, group_name, text, details) VALUES (?, ?, ?, ?, ?, ?)")?
        .execute(params![
            at.as_unix_milliseconds(),
            cut(name),
            severity.rank(),
            group.as_ref().map(GroupName::as_str),
            cut(text),
            details_json(details),
        ])?;
    Ok(())
}

/// An end is final: whoever read the journal earlier, and writes later, takes nothing back.
const PUT_RUN: &str = "
    INSERT INTO runs (run, vault, kind, group_name, point, captured_at, source, target, machines, began_at, ended_at,
        outcome, machines_recovered, leftovers, recovered_in_milliseconds, lost_at_most_milliseconds)
    VALUES (:run, :vault, :kind, :group, :point, :captured_at, :source, :target, :machines, :began_at, :ended_at,
        :outcome, :recovered, :leftovers, :recovered_in, :lost_at_most)
    ON CONFLICT (run) DO UPDATE SET vault = excluded.vault, kind = excluded.kind, group_name = excluded.group_name,
        point = excluded.point, captured_at = excluded.captured_at, source = excluded.source, target = excluded.target,
        machines = excluded.machines, began_at = excluded.began_at, ended_at = excluded.ended_at,
        outcome = excluded.outcome, machines_recovered = excluded.machines_recovered, leftovers = excluded.leftovers,
        recovered_in_milliseconds = excluded.recovered_in_milliseconds,
        lost_at_most_milliseconds = excluded.lost_at_most_milliseconds
        WHERE runs.ended_at IS NULL";

pub(crate) fn put_run(transaction: &Transaction<'_>, record: &RunRecord) -> Result<(), rusqlite::Error> {
    let RunRecord { run, vault, kind, group, point, captured_at, source, target, machines, began_at, end } = record;
    let end = end.as_ref();
    transaction.prepare_cached(PUT_RUN)?.execute(named_params! {
        ":run": run.to_string(),
        ":vault": vault.to_string(),
        ":kind": cut(kind),
        ":group": group.as_str(),
        ":point": stored(point.get()),
        ":captured_at": captured_at.as_unix_milliseconds(),
        ":source": source.as_str(),
        ":target": target.as_str(),
        ":machines": stored(*machines),
        ":began_at": began_at.as_unix_milliseconds(),
        ":ended_at": end.map(|end| end.ended_at.as_unix_milliseconds()),
        ":outcome": end.map(|end| cut(&end.outcome)),
        ":recovered": end.map(|end| stored(end.machines_recovered)),
        ":leftovers": end.map(|end| stored(end.leftovers)),
        ":recovered_in": end.and_then(|end| end.recovered_in_milliseconds).map(stored),
        ":lost_at_most": end.and_then(|end| end.lost_at_most_milliseconds).map(stored),
    })?;
    Ok(())
}

/// A statement and its values.
pub(crate) type Statement = (String, Vec<Value>);

pub(crate) fn select_cycles(query: &CycleQuery) -> Statement {
    of_group("SELECT * FROM cycles", query.group.as_ref(), "id")
}

pub(crate) fn select_runs(query: &RunQuery) -> Statement {
    of_group("SELECT * FROM runs", query.group.as_ref(), "run")
}

/// Of one group or of all, the highest ids first.
fn of_group(select: &str, group: Option<&GroupName>, id: &str) -> Statement {
    let filter = if group.is_some() { " WHERE group_name = ?" } else { "" };
    let values = group.map(|group| Value::from(group.as_str().to_owned())).into_iter().collect();
    (format!("{select}{filter} ORDER BY {id} DESC"), values)
}

/// Each combination reads along an index that is in the order of ids, so that a limit ends the reading early.
pub(crate) fn select_events(query: &EventQuery) -> Statement {
    let EventQuery { group, name, severity_min, after, limit: _ } = query;
    let (mut conditions, mut values, mut table) = (Vec::new(), Vec::new(), "events");
    if let Some(group) = group {
        conditions.push("group_name = ?");
        values.push(Value::from(group.as_str().to_owned()));
    }
    if let Some(name) = name {
        conditions.push("name = ?");
        values.push(Value::from(name.clone()));
    }
    // These are written out, because an index for some rows is used only for a condition that is seen to imply its own.
    // The planner does not know that such rows are few, so where there is no better index it is told.
    let is_alone = conditions.is_empty();
    match severity_min {
        Some(Severity::Error) => {
            conditions.push("severity >= 2");
            table = if is_alone { "events INDEXED BY events_errors" } else { table };
        }
        Some(Severity::Warning) => {
            conditions.push("severity >= 1");
            table = if is_alone { "events INDEXED BY events_warnings" } else { table };
        }
        Some(Severity::Info) | None => {}
    }
    if let Some(after) = after {
        conditions.push("id > ?");
        values.push(Value::from(stored(*after)));
    }
    let filter = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    let order = if after.is_some() { "ASC" } else { "DESC" };
    (format!("SELECT * FROM {table}{filter} ORDER BY id {order}"), values)
}

/// Takes at most `limit` rows that can be understood, and says in the log how many could not.
pub(crate) fn collect<T>(
    mut rows: Rows<'_>,
    limit: u32,
    read: impl Fn(&Row<'_>) -> Result<T, Unreadable>,
) -> Result<Vec<T>, rusqlite::Error> {
    let (mut found, mut skipped, mut reason) = (Vec::new(), 0_u64, None);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    while found.len() < limit
        && let Some(row) = rows.next()?
    {
        match read(row) {
            Ok(record) => found.push(record),
            Err(error) => {
                skipped = skipped.saturating_add(1);
                reason.get_or_insert(error);
            }
        }
    }
    if let Some(error) = reason {
        tracing::warn!(skipped, %error, "rows of the state file cannot be understood and are left out");
    }
    Ok(found)
}

pub(crate) fn read_cycle(row: &Row<'_>) -> Result<CycleRecord, Unreadable> {
    let outcome = match row.get("code")? {
        Some(code) => CycleOutcome::Failed { code, message: row.get("message")? },
        None => CycleOutcome::Committed {
            point: Sequence::new(count(row, "point")?),
            captured_at: time(row, "captured_at")?,
            basis: row.get("basis")?,
            bytes_read: count(row, "bytes_read")?,
            bytes_changed: count(row, "bytes_changed")?,
            bytes_stored: count(row, "bytes_stored")?,
            held_microseconds: count(row, "held_microseconds")?,
            lag_milliseconds: count(row, "lag_milliseconds")?,
            age_before_milliseconds: count_or_none(row, "age_before_milliseconds")?,
            waited_milliseconds: count(row, "waited_milliseconds")?,
        },
    };
    Ok(CycleRecord {
        group: GroupName::new(get::<String>(row, "group_name")?)?,
        begun_at: time(row, "begun_at")?,
        ended_at: time(row, "ended_at")?,
        outcome,
    })
}

pub(crate) fn read_event(row: &Row<'_>) -> Result<EventRecord, Unreadable> {
    let rank = get(row, "severity")?;
    let event = Event {
        at: time(row, "at")?,
        name: row.get("name")?,
        severity: Severity::from_rank(rank).ok_or_else(|| format!("there is no severity {rank}"))?,
        group: get::<Option<String>>(row, "group_name")?.map(GroupName::new).transpose()?,
        text: row.get("text")?,
        details: serde_json::from_str(&get::<String>(row, "details")?)?,
    };
    Ok(EventRecord { id: count(row, "id")?, event })
}

pub(crate) fn read_run(row: &Row<'_>) -> Result<RunRecord, Unreadable> {
    let end = match get::<Option<i64>>(row, "ended_at")? {
        None => None,
        Some(_) => Some(RunEnd {
            ended_at: time(row, "ended_at")?,
            outcome: row.get("outcome")?,
            machines_recovered: count(row, "machines_recovered")?,
            leftovers: count(row, "leftovers")?,
            recovered_in_milliseconds: count_or_none(row, "recovered_in_milliseconds")?,
            lost_at_most_milliseconds: count_or_none(row, "lost_at_most_milliseconds")?,
        }),
    };
    Ok(RunRecord {
        run: get::<String>(row, "run")?.parse()?,
        vault: get::<String>(row, "vault")?.parse()?,
        kind: row.get("kind")?,
        group: GroupName::new(get::<String>(row, "group_name")?)?,
        point: Sequence::new(count(row, "point")?),
        captured_at: time(row, "captured_at")?,
        source: SiteName::new(get::<String>(row, "source")?)?,
        target: SiteName::new(get::<String>(row, "target")?)?,
        machines: count(row, "machines")?,
        began_at: time(row, "began_at")?,
        end,
    })
}

fn get<T: FromSql>(row: &Row<'_>, column: &str) -> Result<T, rusqlite::Error> {
    row.get(column)
}

fn count(row: &Row<'_>, column: &str) -> Result<u64, Unreadable> {
    Ok(u64::try_from(get::<i64>(row, column)?)?)
}

fn count_or_none(row: &Row<'_>, column: &str) -> Result<Option<u64>, Unreadable> {
    Ok(get::<Option<i64>>(row, column)?.map(u64::try_from).transpose()?)
}

fn time(row: &Row<'_>, column: &str) -> Result<Timestamp, Unreadable> {
    Ok(Timestamp::from_unix_milliseconds(get(row, column)?))
}
