//! Where the newest point has a chunk that is given at another place: an index on this host's disk.
//!
//! A chunk that a writer is given is compared with the parent point at its own place first, and then with what the session knows.
//! What the parent has at another offset, on another disk or in its capsule is found here. The index is a cache: losing it costs
//! space in the vault, never correctness, so it is no part of the format.
//!
//! *The index proposes, the parent's map decides.* An entry is 49 bits of a chunk's identity, and a place: which map, which chunk
//! of it. On a hit the parent's leaf for this place is read, and only if the chunk there has the same whole identity, the new chunk
//! becomes a reference to the same frame. So no entry can do harm, whether it is stale, damaged, another lineage's or a lie: it is a
//! proposal that the parent's map does not confirm. And a pack to which the parent's map refers is one that the newest point needs,
//! exactly as if the chunk had been found at its own place: no prune condemns it as long as no newer point is committed,
//! and if one is, this session's commit loses (see `session`). What only older points need is not used at all: a prune that runs
//! meanwhile may drop these points and delete it.
//!
//! *Kept up to date.* The session notes what it changes: the chunk that a place has from now on, and the one that it had. The index
//! is told after the commit, in portions if there is much of it. For each map it knows the root up to which it is indexed. If the
//! parent's root is another (the index is new or was lost, another host has written, a process ended too early), what differs
//! between the two maps is walked, within the limits of [`CATCH_UP`] in a session, and the next one goes on: so it is rebuilt by those who write anyway, while nothing waits but their own first chunk, and nothing outlives them.
//!
//! *Bounded.* By its layout, see `table`: a bucket that is full forgets its oldest entry. In memory, a cache of the store and
//! [`PENDING_MAX`] changes.
//!
//! *Opened* with the first chunk that the parent does not have at its place, and kept open: an idle cycle does not touch it.
//! One process has it at a time. What goes wrong with it is a warning, and the cycle goes on without it; a
//! file that cannot be read is taken away, and the next session makes another.
//!
//! *What it tells* to whoever reads the host's disk: how many chunks the disks have, and at which places. Names are hashed, and an
//! identity says nothing of a content without the lineage's content key.

mod entry;
mod session;
mod table;
#[cfg(test)]
mod tests;
mod walk;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

pub(crate) use entry::MapTag;
pub(crate) use session::SessionIndex;
use table::{Ahead, FILE_BYTES_MAX, IndexError, Row, Table};

use crate::{Point, Result, lineage::LineageShared, page::PageRef};

/// How far a session walks to catch up: 16 GiB of disks, which is about 15 MiB of map pages.
const CATCH_UP: CatchUp = CatchUp { leaves_max: 4096, time_max: Duration::from_secs(2) };

/// How many leaves are walked before the index is told.
const WALK_LEAVES: usize = 512;

/// How many changes a session keeps before it tells the index: 24 MiB of memory, 32 GiB of disks at least. Tests meet it.
const PENDING_MAX: usize = if cfg!(test) { 200 } else { 1024 * 1024 };

/// For so long an index that could not be used is left alone.
const PAUSE_AFTER_TROUBLE: Duration = Duration::from_secs(600);

/// How many proposals of one write are looked up side by side.
const PLACES_READ_AT_ONCE: usize = 8;

/// The limits of a walk.
#[derive(Debug, Clone, Copy)]
struct CatchUp {
    leaves_max: usize,
    /// After so long it goes no further.
    time_max: Duration,
}

/// The maps of a point that are not all zero, by tag.
pub(crate) fn roots(point: &Point) -> BTreeMap<MapTag, PageRef> {
    let mut roots = BTreeMap::new();
    for machine in &point.machines {
        let disks = machine.disks.iter().map(|disk| (MapTag::of_disk(&machine.machine.id, &disk.disk), disk.map));
        roots.extend(disks.filter_map(|(tag, map)| Some((tag, map?))));
    }
    roots.extend(point.capsule.iter().filter_map(|item| Some((MapTag::of_item(&item.name), item.map?))));
    roots
}

/// The index of a lineage, if a folder was named for it.
#[derive(Debug, Default)]
pub(crate) struct Index {
    file: OnceLock<IndexFile>,
    /// One session opens it at a time.
    opening: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

/// Where the index is kept, and how long the file may get.
#[derive(Debug, Clone)]
struct IndexFile {
    path: PathBuf,
    bytes_max: u64,
}

#[derive(Debug, Default)]
struct State {
    open: Option<Arc<Table>>,
    /// Until then it is left alone, as the clock counts from the process's start.
    paused_until: Duration,
}

impl Index {
    /// The index is kept in this file from now on. The first that is named counts.
    pub(crate) fn keep_at(&self, path: PathBuf) {
        // A second folder for one lineage in one process would be a mistake that costs space only.
        let _ = self.file.set(IndexFile { path, bytes_max: FILE_BYTES_MAX });
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index, opened; none if it cannot be used now, which was told.
    async fn open(&self, shared: &LineageShared) -> Option<Arc<Table>> {
        let file = self.file.get()?.clone();
        let _opening = self.opening.lock().await;
        {
            let state = self.state();
            if state.open.is_some() {
                return state.open.clone();
            }
            if shared.context.clock.monotonic() < state.paused_until {
                return None;
            }
        }
        let name = format!("{} {}", shared.access.vault(), shared.id);
        let opened = shared.context.workers.run(move || open_or_replace(&file, &name)).await.ok()?;
        match opened {
            Ok(table) => {
                let table = Arc::new(table);
                self.state().open = Some(Arc::clone(&table));
                Some(table)
            }
            Err(error) => {
                self.trouble(shared, None, &error);
                None
            }
        }
    }

    /// Closes an index that cannot be used, and says so. A file that is damaged is taken away.
    fn trouble(&self, shared: &LineageShared, table: Option<&Arc<Table>>, error: &IndexError) {
        let Some(IndexFile { path, .. }) = self.file.get() else { return };
        {
            let mut state = self.state();
            let is_current = match (&state.open, table) {
                (Some(open), Some(table)) => Arc::ptr_eq(open, table),
                (None, None) => true,
                // Another session has told it before.
                _ => false,
            };
            if !is_current {
                return;
            }
            *state = State { open: None, paused_until: shared.context.clock.monotonic() + PAUSE_AFTER_TROUBLE };
        }
        tracing::warn!(
            group = %shared.group, file = %path.display(), %error,
            "the index of stored chunks is not used for a while: some chunks may be stored a second time"
        );
        if matches!(error, IndexError::Damaged { .. }) {
            take_away(path);
        }
    }
}

/// Opens the index. One that is damaged is replaced by a new one.
fn open_or_replace(file: &IndexFile, name: &str) -> Result<Table, IndexError> {
    let IndexFile { path, bytes_max } = file;
    if let Some(folder) = path.parent() {
        make_folder(folder).map_err(IndexError::File)?;
    }
    match Table::open(path, *bytes_max, name) {
        Err(error @ IndexError::Damaged { .. }) => {
            tracing::warn!(file = %path.display(), %error, "the index of stored chunks is made anew");
            take_away(path);
            Table::open(path, *bytes_max, name)
        }
        opened => opened,
    }
}

/// A folder that only its owner may look into.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Removes the file. What stays in the way is told when it is opened again.
fn take_away(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(file = %path.display(), %error, "a damaged index stays where it is");
    }
}

/// Brings the index nearer to the parent's maps, within the limits of a session.
///
/// # Errors
/// The index cannot be used. A store that fails only ends the walk.
async fn catch_up(
    shared: &LineageShared,
    table: &Arc<Table>,
    parent: &BTreeMap<MapTag, PageRef>,
    limits: CatchUp,
) -> Result<(), IndexError> {
    let clock = &shared.context.clock;
    let deadline = clock.monotonic() + limits.time_max;
    let rows = run(shared, table, Table::rows).await?.unwrap_or_default();
    let gone: Vec<_> = rows.keys().filter(|tag| !parent.contains_key(tag)).map(|tag| (*tag, None)).collect();
    if !gone.is_empty() {
        run(shared, table, move |table| table.apply(Vec::new(), &gone)).await?;
    }
    let mut leaves_left = limits.leaves_max;
    for (tag, root) in parent {
        let row = rows.get(tag).cloned().unwrap_or_default();
        if row.ahead.is_none() && row.done == Some(*root) {
            continue;
        }
        let mut next = match row.ahead {
            Some(ahead) if ahead.root == *root => Some(ahead.leaf),
            _ => Some(0),
        };
        while let Some(from) = next {
            if leaves_left == 0 || clock.monotonic() >= deadline {
                return Ok(());
            }
            let leaves = WALK_LEAVES.min(leaves_left);
            leaves_left -= leaves;
            let walked = walk::differences(&shared.maps, *tag, row.done, *root, from, leaves).await;
            let Ok((changes, after)) = walked.inspect_err(|error| {
                tracing::debug!(group = %shared.group, %error, "the index does not catch up now");
            }) else {
                return Ok(());
            };
            next = after;
            let row = match next {
                None => Row { done: Some(*root), ahead: None },
                Some(leaf) => Row { done: row.done, ahead: Some(Ahead { root: *root, leaf }) },
            };
            let rows = [(*tag, Some(row))];
            run(shared, table, move |table| table.apply(changes, &rows)).await?;
        }
    }
    Ok(())
}

/// Works with the index on one of the workers; none if they are gone.
async fn run<T: Send + 'static>(
    shared: &LineageShared,
    table: &Arc<Table>,
    work: impl FnOnce(&Table) -> Result<T, IndexError> + Send + 'static,
) -> Result<Option<T>, IndexError> {
    let table = Arc::clone(table);
    shared.context.workers.run(move || work(&table)).await.ok().transpose()
}
