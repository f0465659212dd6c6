//! Compiled components, by the digest of the component and the engine's compatibility hash.
//!
//! Compiling a Python component takes 7 s, loading its code from here a few hundredths of one. An entry is one file:
//! a line that names the format, the BLAKE3 hash of the code, and the code. It is written under another name, made
//! durable and renamed, so that an entry is whole or absent; an entry whose hash is wrong is removed and the component
//! compiled again. Nothing depends on the cache: if it cannot be used, components are compiled at each start, and one
//! warning says why.
//!
//! **Safety.** Loading compiled code runs it with all the host's power, and wasmtime does not check that the bytes came
//! from its compiler. So:
//!
//! - only this module writes into the folder, and only what `Component::serialize` gave;
//! - the folder must belong to the host's own user and be closed to everyone else (mode 0700), and must not be a link;
//!   both are checked on the open folder, and entries are opened relative to it without following links. Who can write
//!   there is the host's own user or root, who could replace the host itself;
//! - the entry's hash is checked over exactly the bytes that are then loaded (they are in the host's own memory, not a
//!   mapping of the file), so damage by a disk or a crash is found;
//! - the name and wasmtime's own header bind the code to this version, processor and configuration; wasmtime refuses
//!   what does not fit.

use std::{
    collections::hash_map::DefaultHasher,
    fs::File,
    hash::{Hash, Hasher},
    io::{Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, fstat, fsync, mkdirat, openat, renameat, unlinkat},
    io::Errno,
};
use wasmtime::{Engine, component::Component};

use crate::{
    Digest,
    limits::{CACHE_ENTRIES_MAX, CACHE_ENTRY_BYTES_MAX},
};

/// The first bytes of an entry.
const FORMAT: &[u8; 16] = b"farshore code 1\n";

/// The folder of compiled components, or none if it cannot be used.
pub(crate) struct Cache {
    folder: Option<OwnedFd>,
    path: PathBuf,
}

impl Cache {
    /// Opens the folder, and makes it if it is missing.
    pub(crate) fn open(path: PathBuf) -> Self {
        let folder = match open_private(&path) {
            Ok(folder) => Some(folder),
            Err(reason) => {
                tracing::warn!(folder = %path.display(), %reason, "compiled components are not kept");
                None
            }
        };
        Self { folder, path }
    }

    /// The component, from the cache or compiled and then kept, and whether it was in the cache.
    pub(crate) fn load_or_compile(
        &self,
        engine: &Engine,
        digest: &Digest,
        bytes: &[u8],
    ) -> wasmtime::Result<(Component, bool)> {
        let Some(folder) = &self.folder else { return Ok((Component::new(engine, bytes)?, false)) };
        let name = entry_name(engine, digest);
        match read_entry(folder, &name) {
            Ok(Some(code)) => match deserialize(engine, &code) {
                Ok(component) => return Ok((component, true)),
                Err(error) => self.discard(folder, &name, &format!("{error:#}")),
            },
            Ok(None) => {}
            Err(EntryError::Damaged(reason)) => self.discard(folder, &name, reason),
            Err(EntryError::System(error)) => self.warn(&name, "cannot be read", &error.to_string()),
        }
        let component = Component::new(engine, bytes)?;
        let kept = component.serialize().map_err(|error| format!("{error:#}")).and_then(|code| {
            write_entry(folder, &name, &code).and_then(|()| remove_oldest(folder)).map_err(|error| error.to_string())
        });
        if let Err(reason) = kept {
            self.warn(&name, "cannot be kept", &reason);
        }
        Ok((component, false))
    }

    fn discard(&self, folder: &OwnedFd, name: &str, reason: &str) {
        self.warn(name, "is damaged and is made again", reason);
        if let Err(error) = unlinkat(folder, name, AtFlags::empty()) {
            self.warn(name, "cannot be removed", &error.to_string());
        }
    }

    fn warn(&self, name: &str, what: &str, reason: &str) {
        tracing::warn!(entry = %self.path.join(name).display(), %reason, "compiled code {what}");
    }
}

/// Loads compiled code that this module wrote.
#[allow(unsafe_code, reason = "wasmtime has no other way to load compiled code")]
fn deserialize(engine: &Engine, code: &Code) -> wasmtime::Result<Component> {
    // SAFETY: a `Code` is only made by `read_entry`, from an entry of a folder that only the host's own user can write,
    // whose hash fits the bytes that are passed here; the module's document says why that is enough.
    unsafe { Component::deserialize(engine, &code.0) }
}

/// Compiled code whose hash was checked.
struct Code(Vec<u8>);

/// Why an entry cannot be used.
enum EntryError {
    Damaged(&'static str),
    System(Errno),
}

impl From<Errno> for EntryError {
    fn from(error: Errno) -> Self {
        Self::System(error)
    }
}

fn open_private(path: &Path) -> Result<OwnedFd, String> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| error.to_string())?;
    }
    match mkdirat(CWD, path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.to_string()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(CWD, path, flags, Mode::empty()).map_err(|error| error.to_string())?;
    let stat = fstat(&folder).map_err(|error| error.to_string())?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err("the folder belongs to another user".to_owned());
    }
    if stat.st_mode & 0o077 != 0 {
        return Err("the folder is open to other users; `chmod 700` closes it".to_owned());
    }
    Ok(folder)
}

fn entry_name(engine: &Engine, digest: &Digest) -> String {
    // The hasher is the standard one with fixed keys: the name is only looked up on this machine, and wasmtime checks
    // compatibility once more when it loads the code.
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{}-{:016x}.code", blake3::Hash::from_bytes(*digest.as_bytes()).to_hex(), hasher.finish())
}

fn read_entry(folder: &OwnedFd, name: &str) -> Result<Option<Code>, EntryError> {
    let file = match openat(folder, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut header = [0; 48];
    let mut code = Vec::new();
    let mut limited = file.take(CACHE_ENTRY_BYTES_MAX);
    if limited.read_exact(&mut header).is_err() || limited.read_to_end(&mut code).is_err() {
        return Err(EntryError::Damaged("it is cut short or cannot be read"));
    }
    let (format, hash) = header.split_at(FORMAT.len());
    if format != FORMAT {
        return Err(EntryError::Damaged("it has another format"));
    }
    if hash != blake3::hash(&code).as_bytes() {
        return Err(EntryError::Damaged("its hash is wrong"));
    }
    Ok(Some(Code(code)))
}

fn write_entry(folder: &OwnedFd, name: &str, code: &[u8]) -> std::io::Result<()> {
    // Two hosts may compile the same component at once: each writes its own file, and the last rename wins with the
    // same content.
    let unfinished = format!("{name}.{}.unfinished", std::process::id());
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(folder, &unfinished, flags, Mode::RUSR | Mode::WUSR)?);
    let written = file
        .write_all(FORMAT)
        .and_then(|()| file.write_all(blake3::hash(code).as_bytes()))
        .and_then(|()| file.write_all(code))
        .and_then(|()| file.sync_all())
        .and_then(|()| Ok(renameat(folder, &unfinished, folder, name)?));
    if written.is_err() {
        // What stopped the writing is the error to tell; the leftover is overwritten or removed later.
        let _ = unlinkat(folder, &unfinished, AtFlags::empty());
    }
    written?;
    Ok(fsync(folder)?)
}

/// Removes the entries that were written longest ago until few enough are left.
fn remove_oldest(folder: &OwnedFd) -> std::io::Result<()> {
    let mut entries = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        if entry.file_name().to_bytes().starts_with(b".") {
            continue;
        }
        let stat = rustix::fs::statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
        entries.push(((stat.st_mtime, stat.st_mtime_nsec), entry.file_name().to_owned()));
    }
    entries.sort_unstable();
    let excess = entries.len().saturating_sub(CACHE_ENTRIES_MAX);
    for (_, name) in entries.iter().take(excess) {
        unlinkat(folder, name, AtFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
