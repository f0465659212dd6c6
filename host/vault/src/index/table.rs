//! The index's file: buckets of entries, and how far each map has been indexed, in an embedded store (redb).
//!
//! *What is stored.* `about`: which index this is. `chunks`: by number of the bucket, its entries (see `entry`). `maps`: by tag, a
//! [`Row`]. There are 131,072 buckets of at most 320 entries, so the file is bounded by its layout: 40 million chunks (2.5 TiB of
//! disks that are all different). [`FILE_BYTES_MAX`] stands behind that as a limit of the file's length.
//!
//! *Trust.* The whole file is checked against the store's own checksums when it is opened, which is once in a process. What the
//! store does not expect all the same may make it panic: that is caught here, and is damage like any other. What is written into the
//! file by others while it is open has no such bound: the store may even go on without end. A lock keeps those out who ask for it.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use redb::{
    BackendError, Builder, Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    backends::FileBackend,
};
use serde::{Deserialize, Serialize};

use super::entry::{Bucket, Change, EntryKey, MapTag, Place};
use crate::page::PageRef;

/// The most bytes of the file.
pub(super) const FILE_BYTES_MAX: u64 = 1280 * 1024 * 1024;

/// Memory for the store's pages.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// The most buckets that one transaction rewrites: what it replaces is free again when the next has ended.
const BUCKETS_PER_TRANSACTION: usize = 16 * 1024;

/// What the tables mean. Another number is another index.
const VERSION: u32 = 1;

const ABOUT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("about");
const CHUNKS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("chunks");
const MAPS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("maps");

/// The key of the only row of `about`.
const NAME: &str = "index";

/// Why the index cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    /// Another process, or another handle of this one, has it open.
    #[error("another process uses it")]
    Busy,
    /// Its bytes are not those of this index.
    #[error("it is damaged, or of another version: {problem}")]
    Damaged {
        /// What is wrong.
        problem: String,
    },
    /// Its file cannot be read or written.
    #[error("its file cannot be read or written: {0}")]
    File(#[source] io::Error),
}

impl IndexError {
    fn damaged(problem: impl ToString) -> Self {
        Self::Damaged { problem: problem.to_string() }
    }
}

impl From<redb::Error> for IndexError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Self::Busy,
            // Not one of the store's files, or one that was cut short.
            redb::Error::Io(source)
                if matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                Self::damaged(source)
            }
            redb::Error::Io(source) => Self::File(source),
            error @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed) => Self::File(io::Error::other(error)),
            error => Self::damaged(error),
        }
    }
}

/// Does something with the store. A panic of it is damage: its checks are for files that it wrote itself.
fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, IndexError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => Ok(result?),
        Err(_) => Err(IndexError::damaged("its store met what it did not expect")),
    }
}

/// How far a map has been indexed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    /// All that this root leads to is indexed.
    pub(super) done: Option<PageRef>,
    /// A walk that goes on from there.
    pub(super) ahead: Option<Ahead>,
}

/// A walk that has not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ahead {
    /// The root that is walked.
    pub(super) root: PageRef,
    /// The leaves below this one are indexed.
    pub(super) leaf: u64,
}

/// An index that is open, which no other process has.
pub(crate) struct Table {
    /// None only while it is dropped.
    database: Option<Database>,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Table").finish_non_exhaustive()
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let database = self.database.take();
        // What goes wrong here was told before, or is found when it is opened again.
        let _ = guarded(|| {
            drop(database);
            Ok(())
        });
    }
}

impl Table {
    /// Opens the index in this file, or makes it, so that it does not grow past this length. `name` says whose it is.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] when it is another's too.
    pub(super) fn open(path: &Path, bytes_max: u64, name: &str) -> Result<Self, IndexError> {
        let file = open_file(path).map_err(IndexError::File)?;
        let about = format!("{VERSION} {name}");
        let mut is_other = false;
        let table = guarded(|| {
            let backend = Bounded { file: FileBackend::new(file)?, bytes_max };
            let mut builder = Builder::new();
            builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
            let table = Self { database: Some(builder.create_with_backend(backend)?) };
            is_other = !table.is_named(about.as_bytes())?;
            Ok(table)
        })?;
        if is_other { Err(IndexError::damaged("it is the index of something else")) } else { Ok(table) }
    }

    /// Whether somebody has the index in this file open.
    #[cfg(test)]
    pub(super) fn is_open(path: &Path) -> bool {
        let Ok(file) = File::options().read(true).write(true).open(path) else { return false };
        let backend = FileBackend::new(file).expect("a file");
        !backend.try_lock_range(Bound::Unbounded, Bound::Unbounded).expect("locks are kept here")
    }

    #[cfg(test)]
    pub(super) fn panics() -> Result<(), IndexError> {
        guarded(|| panic!("a page is not what it should be"))
    }

    fn database(&self) -> &Database {
        self.database.as_ref().expect("it is there until it is dropped")
    }

    /// Whether it has this name. A new one gets it.
    fn is_named(&self, about: &[u8]) -> Result<bool, redb::Error> {
        let reading = self.database().begin_read()?;
        let is_new = reading.list_tables()?.next().is_none();
        if !is_new {
            let table = reading.open_table(ABOUT)?;
            let is_same = table.get(NAME)?.is_some_and(|stored| stored.value() == about);
            return Ok(is_same);
        }
        drop(reading);
        let writing = self.database().begin_write()?;
        writing.open_table(ABOUT)?.insert(NAME, about)?;
        writing.open_table(CHUNKS)?;
        writing.open_table(MAPS)?;
        writing.commit()?;
        Ok(true)
    }

    /// Where the newest point may have these chunks.
    pub(super) fn propose(&self, keys: &[EntryKey]) -> Result<Vec<Option<Place>>, IndexError> {
        guarded(|| {
            let table = self.database().begin_read()?.open_table(CHUNKS)?;
            let find = |key: &EntryKey| {
                let stored = table.get(key.bucket())?;
                Ok(stored.and_then(|stored| Bucket::get(stored.value(), *key)))
            };
            keys.iter().map(find).collect()
        })
    }

    /// How far the maps are indexed. A row that cannot be read is as one that is not there.
    pub(super) fn rows(&self) -> Result<BTreeMap<MapTag, Row>, IndexError> {
        guarded(|| {
            let table = self.database().begin_read()?.open_table(MAPS)?;
            let mut rows = BTreeMap::new();
            for entry in table.iter()? {
                let (tag, row) = entry?;
                rows.insert(MapTag::from_number(tag.value()), serde_json::from_slice(row.value()).unwrap_or_default());
            }
            Ok(rows)
        })
    }

    /// Makes changes, in their order, and then puts rows; none takes a row away. They are durable when it returns; where it fails, some
    /// of them may be, and no row is.
    pub(super) fn apply(&self, mut changes: Vec<Change>, rows: &[(MapTag, Option<Row>)]) -> Result<(), IndexError> {
        // The order within a bucket stays.
        changes.sort_by_key(|change| change.key.bucket());
        let buckets: Vec<&[Change]> = changes.chunk_by(|one, next| one.key.bucket() == next.key.bucket()).collect();
        let mut parts = buckets.chunks(BUCKETS_PER_TRANSACTION).peekable();
        guarded(|| {
            while let Some(part) = parts.next() {
                let rows = if parts.peek().is_none() { rows } else { &[] };
                self.apply_part(part, rows)?;
            }
            if buckets.is_empty() { self.apply_part(&[], rows) } else { Ok(()) }
        })
    }

    fn apply_part(&self, buckets: &[&[Change]], rows: &[(MapTag, Option<Row>)]) -> Result<(), redb::Error> {
        if buckets.is_empty() && rows.is_empty() {
            return Ok(());
        }
        let writing = self.database().begin_write()?;
        {
            let mut table = writing.open_table(CHUNKS)?;
            for changes in buckets {
                let Some(number) = changes.first().map(|change| change.key.bucket()) else { continue };
                let mut bucket = table.get(number)?.map(|stored| Bucket::new(stored.value())).unwrap_or_default();
                changes.iter().for_each(|change| bucket.change(change));
                match bucket.stored() {
                    [] => table.remove(number)?,
                    stored => table.insert(number, stored)?,
                };
            }
            let mut table = writing.open_table(MAPS)?;
            for (tag, row) in rows {
                match row {
                    None => table.remove(tag.number())?,
                    Some(row) => {
                        let stored = serde_json::to_vec(row).map_err(|error| redb::Error::Io(error.into()))?;
                        table.insert(tag.number(), stored.as_slice())?
                    }
                };
            }
        }
        Ok(writing.commit()?)
    }
}

/// The file, which only its owner may read: it tells which chunks of a machine's disks are equal.
fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// A file that does not grow past a limit.
#[derive(Debug)]
struct Bounded {
    file: FileBackend,
    bytes_max: u64,
}

impl StorageBackend for Bounded {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > self.bytes_max {
            let problem = format!("it would have {len} bytes, and may have {}", self.bytes_max);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
        }
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
