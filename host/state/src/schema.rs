//! The tables, and how a file of an earlier version gets them.
//!
//! SQLite's `application_id` says that a file is ours, its `user_version` how many of [`MIGRATIONS`] were applied. A
//! migration that was published is never edited; another is appended.

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

/// `FSst`.
const APPLICATION_ID: i32 = 0x4653_7374;

/// Times are milliseconds since 1970. Ids of cycles and events come of AUTOINCREMENT, so that one is not given again after its
/// row was deleted; a run has the vault's. The indexes end in the row's id without naming it, which is the order that rows are
/// read in.
pub(crate) const MIGRATIONS: [&str; 2] = [CYCLES_AND_EVENTS, RUNS];

const CYCLES_AND_EVENTS: &str = "
    CREATE TABLE cycles (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        group_name TEXT NOT NULL,
        begun_at INTEGER NOT NULL,
        ended_at INTEGER NOT NULL,
        -- A committed cycle has these,
        point INTEGER,
        captured_at INTEGER,
        basis TEXT,
        bytes_read INTEGER,
        bytes_changed INTEGER,
        bytes_stored INTEGER,
        held_microseconds INTEGER,
        lag_milliseconds INTEGER,
        age_before_milliseconds INTEGER,
        waited_milliseconds INTEGER,
        -- a failed one those.
        code TEXT,
        message TEXT,
        CHECK ((point IS NULL) <> (code IS NULL))
    ) STRICT;
    CREATE INDEX cycles_by_group ON cycles (group_name);
    CREATE INDEX cycles_by_end ON cycles (ended_at);
    CREATE INDEX cycles_by_age ON cycles (group_name, ended_at, age_before_milliseconds)
        WHERE age_before_milliseconds IS NOT NULL;

    CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL,
        name TEXT NOT NULL,
        -- 0 info, 1 warning, 2 error
        severity INTEGER NOT NULL,
        group_name TEXT,
        text TEXT NOT NULL,
        details TEXT NOT NULL
    ) STRICT;
    CREATE INDEX events_by_time ON events (at);
    CREATE INDEX events_by_name ON events (name);
    CREATE INDEX events_by_group ON events (group_name) WHERE group_name IS NOT NULL;
    CREATE INDEX events_warnings ON events (id) WHERE severity >= 1;
    CREATE INDEX events_errors ON events (id) WHERE severity >= 2;
";

/// The text of a run's id sorts by the time of its making.
const RUNS: &str = "
    CREATE TABLE runs (
        run TEXT PRIMARY KEY,
        vault TEXT NOT NULL,
        kind TEXT NOT NULL,
        group_name TEXT NOT NULL,
        point INTEGER NOT NULL,
        captured_at INTEGER NOT NULL,
        source TEXT NOT NULL,
        target TEXT NOT NULL,
        machines INTEGER NOT NULL,
        began_at INTEGER NOT NULL,
        -- A run that has ended has these; the last two, if there is something to say.
        ended_at INTEGER,
        outcome TEXT,
        machines_recovered INTEGER,
        leftovers INTEGER,
        recovered_in_milliseconds INTEGER,
        lost_at_most_milliseconds INTEGER,
        CHECK ((ended_at IS NULL) = (outcome IS NULL))
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX runs_by_group ON runs (group_name);
";

/// The version of the tables that this crate makes and understands.
pub(crate) const VERSION: u32 = MIGRATIONS.len() as u32;

/// What a file is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Nothing is in it.
    Empty,
    /// A state file of this version or an earlier one.
    Usable,
    /// A state file of this later version.
    Newer(u32),
    /// A database of another program.
    Foreign,
    /// Not to be read, or not to be trusted.
    Damaged(String),
}

/// Looks into a file, all of it if it is ours. Nothing is written.
///
/// # Errors
/// What SQLite says when the reason is not in the file.
pub(crate) fn examine(connection: &Connection) -> Result<Condition, rusqlite::Error> {
    let found = headers(connection).and_then(|headers| match headers {
        Condition::Usable => quick_check(connection),
        other => Ok(other),
    });
    // No statement here can be wrong by itself, so a plain "error" speaks of the file as well.
    match found {
        Err(error) if error.sqlite_error_code().is_some_and(speaks_of_the_file) => {
            Ok(Condition::Damaged(error.to_string()))
        }
        other => other,
    }
}

const fn speaks_of_the_file(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt | ErrorCode::Unknown)
}

/// What the file says of itself, at one moment: another process may be making it.
pub(crate) fn headers(connection: &Connection) -> Result<Condition, rusqlite::Error> {
    let moment = connection.unchecked_transaction()?;
    let number = |sql| moment.query_row(sql, (), |row| row.get::<_, i32>(0));
    let (application, version) = (number("PRAGMA application_id")?, number("PRAGMA user_version")?);
    let has_tables = moment.query_row("SELECT EXISTS (SELECT * FROM sqlite_schema)", (), |row| row.get(0))?;
    Ok(match (application, u32::try_from(version), has_tables) {
        (0, Ok(0), false) => Condition::Empty,
        (APPLICATION_ID, Ok(version), _) if version > VERSION => Condition::Newer(version),
        (APPLICATION_ID, Ok(1..), true) => Condition::Usable,
        (APPLICATION_ID, ..) => Condition::Damaged("its header contradicts its content".to_owned()),
        _ => Condition::Foreign,
    })
}

fn quick_check(connection: &Connection) -> Result<Condition, rusqlite::Error> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", (), |row| row.get(0))?;
    Ok(if verdict == "ok" { Condition::Usable } else { Condition::Damaged(verdict) })
}

/// Gives the file the tables of this version. Another process may do the same at the same time.
///
/// # Errors
/// What SQLite says; the file is then as it was.
pub(crate) fn migrate(connection: &mut Connection) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let applied: u32 = transaction.query_row("PRAGMA user_version", (), |row| row.get(0))?;
    for migration in MIGRATIONS.iter().skip(applied as usize) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION.max(applied))?;
    transaction.commit()
}
