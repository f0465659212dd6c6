//! Files below a granted folder, reached so that no symbolic link leads out of it.
//!
//! A path of a component's is first compared by its names with the granted folders. The part below the folder is then
//! opened by `openat2` with `RESOLVE_BENEATH`, which makes the kernel itself refuse a link (or a race with one) that
//! leaves the folder; nothing is checked first and opened later. The granted folder is the operator's word: links on the
//! way to it are followed.
//!
//! What remains: a transport to a file is opened later, by the host, by the path that the open file had here. Somebody
//! who may rename things inside the granted folder in between can make that path lead elsewhere; so a granted folder
//! should be writable only by the host's own user. The same holds for a path that is handed to a program.

use std::{
    ffi::OsString,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, fsync, ftruncate, mkdirat, openat, openat2, unlinkat},
    io::Errno,
};

use crate::limits::{FOLDER_ENTRIES_MAX, FOLDER_PAGE_ENTRIES_MAX};

/// Why a file could not be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FolderError {
    /// A link leads out of the folder.
    #[error("a symbolic link leads out of the granted folder")]
    LeadsOut,
    /// It is neither a file nor a block device, or not a folder.
    #[error("{0}")]
    WrongKind(&'static str),
    /// The folder has more entries than can be listed.
    #[error("the folder has more than {FOLDER_ENTRIES_MAX} entries")]
    TooMany,
    /// What the system said.
    #[error("{0}")]
    System(Errno),
}

impl From<Errno> for FolderError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::XDEV => Self::LeadsOut,
            other => Self::System(other),
        }
    }
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inspected {
    /// Its size.
    pub(crate) size_bytes: u64,
    /// What it occupies.
    pub(crate) allocated_bytes: u64,
    /// When anything of it was changed last, in microseconds since the beginning of 1970; none of a block device, of which nobody notes that.
    pub(crate) changed_microseconds: Option<u64>,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FolderEntry {
    /// Its name.
    pub(crate) name: String,
    /// Whether it is a folder.
    pub(crate) folder: bool,
}

/// A granted folder, and the part of a path below it.
#[derive(Debug, Clone)]
pub(crate) struct Below {
    /// The granted folder.
    pub(crate) folder: PathBuf,
    /// The rest of the path; empty for the folder itself.
    pub(crate) rest: PathBuf,
}

impl Below {
    fn root(&self) -> Result<OwnedFd, FolderError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat(CWD, &self.folder, flags, Mode::empty())?)
    }

    fn open_below(root: &OwnedFd, rest: &Path, flags: OFlags) -> Result<OwnedFd, FolderError> {
        let rest = if rest.as_os_str().is_empty() { Path::new(".") } else { rest };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(root, rest, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
    }

    fn split(&self) -> Result<(&Path, OsString), FolderError> {
        match (self.rest.parent(), self.rest.file_name()) {
            (Some(parent), Some(name)) => Ok((parent, name.to_owned())),
            _ => Err(FolderError::WrongKind("it is the granted folder itself")),
        }
    }

    /// The path that the thing has after all links; the thing must exist.
    pub(crate) fn resolve(&self) -> Result<PathBuf, FolderError> {
        let file = Self::open_below(&self.root()?, &self.rest, OFlags::PATH)?;
        path_of(&file)
    }

    /// The path that the thing has after all links, or would have: only its folder must exist.
    pub(crate) fn resolve_or_place(&self) -> Result<PathBuf, FolderError> {
        match self.resolve() {
            Err(FolderError::System(Errno::NOENT)) => {
                let (parent, name) = self.split()?;
                // A link that leads nowhere is there all the same; writing through it could leave the folder.
                let parent = Self::open_below(&self.root()?, parent, OFlags::PATH | OFlags::DIRECTORY)?;
                match rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(_) => Err(FolderError::WrongKind("it is a symbolic link that leads nowhere")),
                    Err(Errno::NOENT) => Ok(path_of(&parent)?.join(name)),
                    Err(error) => Err(error.into()),
                }
            }
            other => other,
        }
    }

    /// The path of a file or block device that exists and can be opened.
    pub(crate) fn open_disk(&self, read_only: bool) -> Result<PathBuf, FolderError> {
        let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let file = Self::open_below(&self.root()?, &self.rest, access | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
            FileType::RegularFile | FileType::BlockDevice => path_of(&file),
            _ => Err(FolderError::WrongKind("it is neither a file nor a block device")),
        }
    }

    /// Makes a sparse file and the folders above it that are missing; durable when it returns.
    pub(crate) fn create(&self, size_bytes: u64) -> Result<Inspected, FolderError> {
        let root = self.root()?;
        let (parent, name) = self.split()?;
        let parent = make_folders(&root, parent)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&parent, &name, flags, Mode::from_raw_mode(0o640))?;
        let made = ftruncate(&file, size_bytes)
            .and_then(|()| fsync(&file))
            .and_then(|()| sync_folder(&parent))
            .map_err(FolderError::from)
            .and_then(|()| inspect(&file));
        if made.is_err() {
            // Nothing half-made is left behind; that it cannot be removed changes nothing about the error.
            let _ = unlinkat(&parent, &name, AtFlags::empty());
        }
        made
    }

    /// What a file or block device is.
    pub(crate) fn inspect(&self) -> Result<Inspected, FolderError> {
        let file = Self::open_below(&self.root()?, &self.rest, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        inspect(&file)
    }

    /// Removes a file, a link or an empty folder. Says whether something was removed.
    pub(crate) fn remove(&self) -> Result<bool, FolderError> {
        let (parent, name) = self.split()?;
        let parent =
            match self.root().and_then(|root| Self::open_below(&root, parent, OFlags::PATH | OFlags::DIRECTORY)) {
                Err(FolderError::System(Errno::NOENT)) => return Ok(false),
                other => other?,
            };
        let removed = match unlinkat(&parent, &name, AtFlags::empty()) {
            Err(Errno::ISDIR) => unlinkat(&parent, &name, AtFlags::REMOVEDIR),
            other => other,
        };
        match removed {
            Ok(()) => sync_folder(&parent).map(|()| true).map_err(FolderError::from),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// One page of a folder's files and folders whose names come after `after`, sorted, and whether there are more. An
    /// absent folder is empty.
    pub(crate) fn list(&self, after: Option<&str>) -> Result<(Vec<FolderEntry>, bool), FolderError> {
        let opened =
            self.root().and_then(|root| Self::open_below(&root, &self.rest, OFlags::RDONLY | OFlags::DIRECTORY));
        let folder = match opened {
            Err(FolderError::System(Errno::NOENT)) => return Ok((Vec::new(), false)),
            other => other?,
        };
        let mut page = std::collections::BTreeSet::new();
        let mut more = false;
        for (count, entry) in rustix::fs::Dir::read_from(&folder)?.enumerate() {
            if count >= FOLDER_ENTRIES_MAX {
                return Err(FolderError::TooMany);
            }
            let entry = entry?;
            // A name that is not UTF-8 cannot be said in WIT, and nothing that Farshore makes has one.
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name == "." || name == ".." || after.is_some_and(|after| name <= after) {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(&folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                known => known,
            };
            if matches!(kind, FileType::RegularFile | FileType::Directory) {
                page.insert(FolderEntry { name: name.to_owned(), folder: kind == FileType::Directory });
                if page.len() > FOLDER_PAGE_ENTRIES_MAX {
                    page.pop_last();
                    more = true;
                }
            }
        }
        Ok((page.into_iter().collect(), more))
    }
}

fn inspect(file: &OwnedFd) -> Result<Inspected, FolderError> {
    let stat = rustix::fs::fstat(file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(Inspected {
            size_bytes: u64::try_from(stat.st_size).unwrap_or_default(),
            allocated_bytes: u64::try_from(stat.st_blocks).unwrap_or_default().saturating_mul(512),
            changed_microseconds: u64::try_from(stat.st_ctime)
                .ok()
                .and_then(|seconds| Some(seconds.checked_mul(1_000_000)?.saturating_add(stat.st_ctime_nsec / 1_000))),
        }),
        FileType::BlockDevice => {
            let size_bytes = rustix::fs::seek(file, rustix::fs::SeekFrom::End(0))?;
            Ok(Inspected { size_bytes, allocated_bytes: size_bytes, changed_microseconds: None })
        }
        _ => Err(FolderError::WrongKind("it is neither a file nor a block device")),
    }
}

/// Makes the folders that are missing on the way, each durable, and opens the last.
fn make_folders(root: &OwnedFd, rest: &Path) -> Result<OwnedFd, FolderError> {
    let mut reached = PathBuf::new();
    let mut parent = Below::open_below(root, &reached, OFlags::PATH | OFlags::DIRECTORY)?;
    for name in rest.components() {
        reached.push(name);
        let opened = Below::open_below(root, &reached, OFlags::PATH | OFlags::DIRECTORY);
        parent = match opened {
            Err(FolderError::System(Errno::NOENT)) => {
                match mkdirat(&parent, name.as_os_str(), Mode::from_raw_mode(0o750)) {
                    // Another call of the component may have made it in the meantime.
                    Ok(()) | Err(Errno::EXIST) => sync_folder(&parent)?,
                    Err(error) => return Err(error.into()),
                }
                Below::open_below(root, &reached, OFlags::PATH | OFlags::DIRECTORY)?
            }
            other => other?,
        };
    }
    Ok(parent)
}

/// Makes durable what was made or removed in a folder that is open by its path only.
fn sync_folder(folder: &OwnedFd) -> Result<(), Errno> {
    fsync(openat(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The path of an open file, as the kernel knows it.
fn path_of(file: &OwnedFd) -> Result<PathBuf, FolderError> {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let path = rustix::fs::readlink(link, Vec::new())?;
    let path = path.into_string().map_err(|_| FolderError::WrongKind("its path is not UTF-8"))?;
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests;
