//! Opening the file, and what can be done with it.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use farshore_core::{GroupName, Timestamp, VaultId};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, config::DbConfig, params, params_from_iter};

use crate::{
    Achieved, CycleQuery, CycleRecord, EventQuery, EventRecord, Record, RunQuery, RunRecord, StateError, file,
    query::{
        collect, insert_cycle, insert_event, put_run, read_cycle, read_event, read_run, select_cycles, select_events,
        select_runs, stored,
    },
    schema::{self, Condition},
};

/// Another process that writes is waited for so long.
const BUSY_MAX: Duration = Duration::from_secs(5);
/// The write-ahead log is cut to this size when what it holds has been moved into the file.
const LOG_BYTES_MAX: i64 = 16 << 20;

/// The host's memory.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    connection: Mutex<Connection>,
}

/// The host's memory, and what was found of it.
#[derive(Debug)]
pub struct Opened {
    /// The memory.
    pub state: State,
    /// Whether nothing is in it, because there was no file or it was set aside.
    pub is_new: bool,
    /// Where a damaged file was put.
    pub set_aside: Option<PathBuf>,
}

impl State {
    /// Opens the file, or makes it, readable by its owner alone. A damaged one is renamed to `FILE.damaged-N`, with the
    /// smallest number that is free, and a new one made. All of the file is read once.
    ///
    /// # Errors
    /// [`StateError::Newer`] and [`StateError::Foreign`], and the file is as it was; others when it cannot be read or
    /// written.
    pub fn open(path: &Path) -> Result<Opened, StateError> {
        let _lock =
            file::lock(path).map_err(|source| StateError::File { path: path.to_owned(), doing: "locked", source })?;
        match Self::open_or_find_damage(path)? {
            Ok((state, is_new)) => Ok(Opened { state, is_new, set_aside: None }),
            Err(damage) => {
                let file_error = |source| StateError::File { path: path.to_owned(), doing: "set aside", source };
                let aside = file::set_aside(path).map_err(file_error)?;
                tracing::warn!(
                    path = %path.display(), aside = %aside.display(), damage,
                    "the state file is damaged and was set aside; no recovery point depends on it"
                );
                let (state, _) = Self::open_or_find_damage(path)?
                    .map_err(|_| file_error(std::io::Error::other("the new file is damaged as well")))?;
                Ok(Opened { state, is_new: true, set_aside: Some(aside) })
            }
        }
    }

    /// Opens the file to read it, while another process may write. None if there is none, or nothing is in it.
    ///
    /// # Errors
    /// [`StateError`]; a damaged file is not set aside.
    pub fn open_to_read(path: &Path) -> Result<Option<Self>, StateError> {
        let file_error = |source| StateError::File { path: path.to_owned(), doing: "opened", source };
        if !path.try_exists().map_err(file_error)? {
            return Ok(None);
        }
        let state = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let condition = schema::headers(&state.lock()).map_err(state.failed("read"))?;
        state.refuse(&condition)?;
        Ok((condition != Condition::Empty).then_some(state))
    }

    /// The state and whether it is new; or what is wrong with the file, after it was closed.
    fn open_or_find_damage(path: &Path) -> Result<Result<(Self, bool), String>, StateError> {
        file::make(path).map_err(|source| StateError::File { path: path.to_owned(), doing: "made", source })?;
        let mut state = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let condition = schema::examine(&state.lock()).map_err(state.failed("read"))?;
        state.refuse(&condition)?;
        if let Condition::Damaged(damage) = condition {
            return Ok(Err(damage));
        }
        state.prepare().map_err(state.failed("prepared"))?;
        Ok(Ok((state, condition == Condition::Empty)))
    }

    /// Nothing is written, not even when it is closed again.
    fn connect(path: &Path, flags: OpenFlags) -> Result<Self, StateError> {
        let open = || {
            let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
            connection.busy_timeout(BUSY_MAX)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            Ok(connection)
        };
        let failed = |source| StateError::Database { path: path.to_owned(), doing: "opened", source };
        Ok(Self { path: path.to_owned(), connection: Mutex::new(open().map_err(failed)?) })
    }

    fn refuse(&self, condition: &Condition) -> Result<(), StateError> {
        let path = self.path.clone();
        match condition {
            Condition::Newer(found) => Err(StateError::Newer { path, found: *found, known: schema::VERSION }),
            Condition::Foreign => Err(StateError::Foreign { path }),
            Condition::Empty | Condition::Usable | Condition::Damaged(_) => Ok(()),
        }
    }

    /// Makes the file ready to be written.
    fn prepare(&mut self) -> Result<(), rusqlite::Error> {
        let connection = self.connection.get_mut().unwrap_or_else(PoisonError::into_inner);
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        match connection.pragma_update(None, "journal_mode", "WAL") {
            // Somebody looks into an empty file just now. It can be written without, and the next one to open it tries.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {}
            other => other?,
        }
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "journal_size_limit", LOG_BYTES_MAX)?;
        schema::migrate(connection)
    }

    /// Remembers all of these or none. They are in the file when it returns, and after a power failure perhaps not.
    ///
    /// # Errors
    /// [`StateError`]; then none is remembered.
    pub fn record(&self, records: &[Record]) -> Result<(), StateError> {
        let write = |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for record in records {
                match record {
                    Record::Cycle(cycle) => insert_cycle(&transaction, cycle)?,
                    Record::Event(event) => insert_event(&transaction, event)?,
                }
            }
            transaction.commit()
        };
        if records.is_empty() { Ok(()) } else { write(&mut self.lock()).map_err(self.failed("written")) }
    }

    /// The cycles that were remembered last, newest first.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn cycles(&self, query: &CycleQuery) -> Result<Vec<CycleRecord>, StateError> {
        let (sql, values) = select_cycles(query);
        let read = |connection: &Connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            collect(statement.query(params_from_iter(values))?, query.limit, read_cycle)
        };
        read(&self.lock()).map_err(self.failed("read"))
    }

    /// Events: the newest first, or what came after an id, oldest first.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn events(&self, query: &EventQuery) -> Result<Vec<EventRecord>, StateError> {
        let (sql, values) = select_events(query);
        let read = |connection: &Connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            collect(statement.query(params_from_iter(values))?, query.limit, read_event)
        };
        read(&self.lock()).map_err(self.failed("read"))
    }

    /// Remembers how these runs were last seen, all of them or none. A run that is remembered already is replaced, unless it is
    /// remembered as one that has ended: that changes no more.
    ///
    /// # Errors
    /// [`StateError`]; then none is remembered.
    pub fn put_runs(&self, runs: &[RunRecord]) -> Result<(), StateError> {
        let write = |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            runs.iter().try_for_each(|run| put_run(&transaction, run))?;
            transaction.commit()
        };
        if runs.is_empty() { Ok(()) } else { write(&mut self.lock()).map_err(self.failed("written")) }
    }

    /// The runs that are remembered, newest first.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>, StateError> {
        let (sql, values) = select_runs(query);
        let read = |connection: &Connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            collect(statement.query(params_from_iter(values))?, query.limit, read_run)
        };
        read(&self.lock()).map_err(self.failed("read"))
    }

    /// Forgets the runs of all vaults but this one. Returns how many they were.
    ///
    /// # Errors
    /// [`StateError`]; then none is forgotten.
    pub fn forget_other_vaults(&self, vault: VaultId) -> Result<u64, StateError> {
        let write = |connection: &Connection| {
            let rows = connection.execute("DELETE FROM runs WHERE vault <> ?", [vault.to_string()])?;
            Ok(u64::try_from(rows).unwrap_or(u64::MAX))
        };
        write(&self.lock()).map_err(self.failed("written"))
    }

    /// How old the group's newest point became, over the cycles that ended since then with a new one.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn achieved(&self, group: &GroupName, since: Timestamp) -> Result<Achieved, StateError> {
        let read = |connection: &Connection| {
            let mut statement = connection.prepare_cached(ACHIEVED)?;
            let ages = statement.query_map(params![group.as_str(), since.as_unix_milliseconds()], |row| {
                Ok(row.get::<_, i64>(0)?.max(0).unsigned_abs())
            })?;
            ages.collect::<Result<Vec<u64>, _>>().map(Achieved::of)
        };
        read(&self.lock()).map_err(self.failed("read"))
    }

    /// Forgets cycles that ended and events that happened before this time, and of the others, and of runs of any age, all but the
    /// newest `rows_max` of each: a run that the vault still has is not forgotten for its age, or it would be read there again.
    /// Returns how many rows were deleted. Their room in the file is used again.
    ///
    /// # Errors
    /// [`StateError`]; then none is deleted.
    pub fn trim(&self, before: Timestamp, rows_max: u64) -> Result<u64, StateError> {
        let write = |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut rows = 0_usize;
            for old in TRIM_OLD {
                rows = rows.saturating_add(transaction.execute(old, [before.as_unix_milliseconds()])?);
            }
            for beyond in TRIM_BEYOND {
                rows = rows.saturating_add(transaction.execute(beyond, [stored(rows_max)])?);
            }
            transaction.commit()?;
            Ok(u64::try_from(rows).unwrap_or(u64::MAX))
        };
        write(&mut self.lock()).map_err(self.failed("trimmed"))
    }

    /// A thread that panicked left no transaction open, so its lock is no reason to stop.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(rusqlite::Error) -> StateError {
        let path = self.path.clone();
        move |source| StateError::Database { path, doing, source }
    }
}

pub(crate) const ACHIEVED: &str = "SELECT age_before_milliseconds FROM cycles
     WHERE group_name = ? AND ended_at >= ? AND age_before_milliseconds IS NOT NULL";

/// What is older than a time.
pub(crate) const TRIM_OLD: [&str; 2] = ["DELETE FROM cycles WHERE ended_at < ?", "DELETE FROM events WHERE at < ?"];

/// What is beyond a number of rows.
pub(crate) const TRIM_BEYOND: [&str; 3] = [
    "DELETE FROM cycles WHERE id <= (SELECT id FROM cycles ORDER BY id DESC LIMIT 1 OFFSET ?)",
    "DELETE FROM events WHERE id <= (SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?)",
    "DELETE FROM runs WHERE run <= (SELECT run FROM runs ORDER BY run DESC LIMIT 1 OFFSET ?)",
];
