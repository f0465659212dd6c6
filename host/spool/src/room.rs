//! The room that all groups of a host share.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::SpoolError;

/// The last bytes of a file system are never taken: journals of captures and the state file may need them.
pub const FREE_BYTES_MIN: u64 = 1 << 30;

/// How much may wait, and how much does. Groups and their tasks share it.
#[derive(Debug)]
pub struct SpoolRoom {
    folder: PathBuf,
    limit_bytes: AtomicU64,
    used_bytes: AtomicU64,
}

impl SpoolRoom {
    /// The room below a folder, which need not be there. What lies in it counts.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn open(folder: PathBuf, limit_bytes: u64) -> Result<Arc<Self>, SpoolError> {
        let used_bytes = match measure(&folder, 2) {
            Ok(bytes) => bytes,
            Err(source) => return Err(SpoolError::File { path: folder, doing: "measured", source }),
        };
        let (limit_bytes, used_bytes) = (AtomicU64::new(limit_bytes), AtomicU64::new(used_bytes));
        Ok(Arc::new(Self { folder, limit_bytes, used_bytes }))
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// From now on so many bytes may wait. What waits already stays.
    pub fn limit(&self, limit_bytes: u64) {
        self.limit_bytes.store(limit_bytes, Ordering::Relaxed);
    }

    /// How many bytes may wait.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes.load(Ordering::Relaxed)
    }

    /// How many bytes wait, of all groups, those of points in the making among them.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Takes so many bytes. What somebody else has removed since, an operator or another process, is found when there is no room.
    pub(crate) fn take(&self, bytes: u64) -> Result<(), SpoolError> {
        self.take_counted(bytes).or_else(|full| match measure(&self.folder, 2) {
            Ok(measured) if measured < self.used_bytes() => {
                self.used_bytes.store(measured, Ordering::Relaxed);
                self.take_counted(bytes)
            }
            _ => Err(full),
        })
    }

    fn take_counted(&self, bytes: u64) -> Result<(), SpoolError> {
        let limit_bytes = self.limit_bytes();
        let more = |used: u64| used.checked_add(bytes).filter(|used| *used <= limit_bytes);
        let full = |used_bytes| SpoolError::Full { used_bytes, limit_bytes };
        self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map(|_| ()).map_err(full)
    }

    /// Gives them back.
    pub(crate) fn give_back(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        let _ = self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// That the file system has more than what is not for the spool.
    pub(crate) fn look_at_the_disk(&self) -> Result<(), SpoolError> {
        let failed = |source: rustix::io::Errno| SpoolError::File {
            path: self.folder.clone(),
            doing: "looked at",
            source: source.into(),
        };
        let system = rustix::fs::statvfs(&self.folder).map_err(failed)?;
        let free_bytes = system.f_bavail.saturating_mul(system.f_frsize);
        match free_bytes < FREE_BYTES_MIN {
            true => Err(SpoolError::NoSpace { folder: self.folder.clone(), free_bytes }),
            false => Ok(()),
        }
    }
}

/// The bytes of the files in the folders that are so far below this one. What is removed meanwhile has none.
fn measure(folder: &Path, below: u32) -> io::Result<u64> {
    let if_there = |result: io::Result<u64>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        result => result,
    };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut bytes = 0u64;
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        bytes = bytes.saturating_add(match below {
            0 if kind.is_file() => if_there(entry.metadata().map(|metadata| metadata.len()))?,
            1.. if kind.is_dir() => measure(&entry.path(), below - 1)?,
            _ => 0,
        });
    }
    Ok(bytes)
}
