//! The file itself: how it is made, and how a damaged one is set aside.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// What SQLite keeps beside a database, and the database itself at the end: as long as it has its name, a later start
/// finds the damage again and goes on.
const SUFFIXES: [&str; 4] = ["-wal", "-shm", "-journal", ""];

/// At most so many damaged files are kept apart by number.
const ASIDE_MAX: u32 = 1_000;

/// Makes the folder of the file, and takes the lock beside it, under which a file is made, examined and set aside: two
/// processes that begin at the same time would otherwise set aside each other's new one. It ends when it is dropped.
pub(crate) fn lock(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let lock_path = with_suffix(path, "-lock");
    let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(lock_path)?;
    lock.lock()?;
    Ok(lock)
}

/// Makes an empty file for its owner alone, if there is none. SQLite gives what it makes beside it the same mode. A file
/// that is there is not even opened: closing it again would end the locks that SQLite holds on it for this process.
pub(crate) fn make(path: &Path) -> io::Result<()> {
    match File::options().create_new(true).write(true).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map(drop),
    }
}

/// Renames a damaged file, and what SQLite keeps beside it, to the first free name, and returns that.
pub(crate) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let is_free = |aside: &PathBuf| !SUFFIXES.iter().any(|suffix| exists(&with_suffix(aside, suffix)));
    let aside = (1..=ASIDE_MAX)
        .map(|number| with_suffix(path, &format!(".damaged-{number}")))
        .find(is_free)
        .ok_or_else(|| io::Error::other(format!("there are {ASIDE_MAX} damaged ones already")))?;
    for suffix in SUFFIXES {
        let from = with_suffix(path, suffix);
        if exists(&from) {
            fs::rename(from, with_suffix(&aside, suffix))?;
        }
    }
    Ok(aside)
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
