//! The points of one group that wait.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use farshore_core::{LineageId, VaultId};
use farshore_vault::WaitingSealer;

use crate::{SpoolError, SpoolReader, SpoolRoom, SpoolWriter, SpooledPoint, read, write};

const DONE: &str = "point";
const PART: &str = "part";

/// A point that waits, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Points wait in the order of their numbers.
    pub number: u64,
    /// Bytes of its file.
    pub bytes: u64,
}

/// The points of one group that wait. Its process holds the group's journal.
#[derive(Debug)]
pub struct Spool {
    room: Arc<SpoolRoom>,
    folder: PathBuf,
    sealer: WaitingSealer,
    waiting: VecDeque<Waiting>,
}

impl Spool {
    /// Looks what of a lineage waits, and removes what a crash left unfinished.
    ///
    /// # Errors
    /// Its folder cannot be read.
    pub fn open(
        room: &Arc<SpoolRoom>,
        vault: VaultId,
        lineage: LineageId,
        sealer: WaitingSealer,
    ) -> Result<Self, SpoolError> {
        let folder = room.folder().join(vault.to_string()).join(lineage.to_string());
        let mut waiting = Vec::new();
        let failed = |source| SpoolError::File { path: folder.clone(), doing: "read", source };
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => Some(entries),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(failed(source)),
        };
        for entry in entries.into_iter().flatten() {
            let path = entry.map_err(failed)?.path();
            let bytes = match fs::metadata(&path) {
                Ok(metadata) => metadata.len(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(failed(source)),
            };
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(DONE) => waiting.extend(number_of(&path).map(|number| Waiting { number, bytes })),
                Some(PART) => remove(room, &path, bytes)?,
                _ => {}
            }
        }
        waiting.sort_unstable_by_key(|waiting| waiting.number);
        Ok(Self { room: Arc::clone(room), folder, sealer, waiting: waiting.into() })
    }

    /// What waits, the oldest first.
    pub fn waiting(&self) -> impl DoubleEndedIterator<Item = Waiting> + ExactSizeIterator {
        self.waiting.iter().copied()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> u64 {
        self.waiting.iter().map(|waiting| waiting.bytes).sum()
    }

    /// What the newest point is that waits.
    ///
    /// # Errors
    /// It is damaged, or cannot be read.
    pub fn newest(&self) -> Result<Option<SpooledPoint>, SpoolError> {
        self.waiting.back().map(|waiting| Ok(self.read(*waiting)?.into_point())).transpose()
    }

    /// Begins a point that is to wait.
    ///
    /// # Errors
    /// There is no room, or the file cannot be made.
    pub fn begin(&self) -> Result<SpoolWriter, SpoolError> {
        let failed = |source| SpoolError::File { path: self.folder.clone(), doing: "made", source };
        if !self.folder.is_dir() {
            fs::create_dir_all(&self.folder).map_err(failed)?;
            // The folders stay after a power failure, as what is in them does.
            self.folder.ancestors().skip(1).take(2).try_for_each(sync)?;
        }
        let id = self.sealer.file_id();
        write::begin(&self.room, self.folder.join(format!("{id}.{PART}")), id, self.sealer.clone())
    }

    /// A point that was begun waits from now on. Durable when it returns.
    ///
    /// # Errors
    /// There is no room, or the file cannot be written; then it does not wait.
    pub async fn finish(&mut self, writer: SpoolWriter, point: SpooledPoint) -> Result<Waiting, SpoolError> {
        let number = self.waiting.back().map_or(1, |waiting| waiting.number.saturating_add(1));
        let (place, folder) = (self.path(number, DONE), self.folder.clone());
        let bytes = writer.finish(point, place, folder).await?;
        let waiting = Waiting { number, bytes };
        self.waiting.push_back(waiting);
        Ok(waiting)
    }

    /// Reads a point that waits.
    ///
    /// # Errors
    /// It is damaged, or cannot be read.
    pub fn read(&self, waiting: Waiting) -> Result<SpoolReader, SpoolError> {
        read::open(&self.path(waiting.number, DONE), &self.sealer)
    }

    /// The points up to this one wait no more, the oldest first.
    ///
    /// # Errors
    /// A file cannot be removed: it and the later ones still wait.
    pub fn remove_to(&mut self, last: Waiting) -> Result<(), SpoolError> {
        while let Some(first) = self.waiting.front().copied().filter(|first| first.number <= last.number) {
            remove(&self.room, &self.path(first.number, DONE), first.bytes)?;
            self.waiting.pop_front();
        }
        sync(&self.folder)
    }

    /// The points from this one on wait no more, the newest first, so that what is left can still be built on.
    ///
    /// # Errors
    /// A file cannot be removed: it and the earlier ones still wait.
    pub fn remove_from(&mut self, first: Waiting) -> Result<(), SpoolError> {
        while let Some(last) = self.waiting.back().copied().filter(|last| last.number >= first.number) {
            remove(&self.room, &self.path(last.number, DONE), last.bytes)?;
            self.waiting.pop_back();
        }
        sync(&self.folder)
    }

    fn path(&self, number: u64, extension: &str) -> PathBuf {
        self.folder.join(format!("{number:020}.{extension}"))
    }
}

fn number_of(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str().filter(|stem| stem.len() == 20)?.parse().ok()
}

pub(crate) fn remove(room: &SpoolRoom, path: &Path, bytes: u64) -> Result<(), SpoolError> {
    match fs::remove_file(path) {
        Ok(()) => {
            room.give_back(bytes);
            Ok(())
        }
        // Whoever removed it has not told the room.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            room.give_back(bytes);
            Ok(())
        }
        Err(source) => Err(SpoolError::File { path: path.to_owned(), doing: "removed", source }),
    }
}

/// What was renamed or removed in a folder stays so after a power failure.
pub(crate) fn sync(folder: &Path) -> Result<(), SpoolError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| SpoolError::File { path: folder.to_owned(), doing: "synced", source })
}
