//! The guest's disk: a small Linux with a database, made of Debian packages, without root privileges and without mounts.
//!
//! The disk has 512 MiB (about 50 MiB of it occupied), a master boot record, a FAT partition with SYSLINUX, Debian's cloud
//! kernel and an initramfs, and an ext4 root with BusyBox, SQLite and the QEMU guest agent. It boots through a PC BIOS from
//! whatever controller it is attached to, because it finds its root by label: a replica on other hardware boots as well.
//!
//! On its serial console it says, at the end of each boot, what its disk remembers:
//! `FARSHORE-UP boots=1 last_row=0 integrity=ok pair_row=0 clean=no`. Loads are started through the guest agent with
//! `workload` (see `image/guest/`): `database` acknowledges each durable commit, `writer` overwrites random pages, `pair`
//! writes in turn with a second guest.
//!
//! ## What is stored
//! Below `$XDG_CACHE_HOME/farshore/guest` (or `~/.cache/farshore/guest`): `packages/NAME_VERSION/`, unpacked; `images/KEY/`
//! with `disk.raw` (read-only) and `made-of.json`; `current-RECIPE.json`, which spares the second call the package lists;
//! `warm/` (see [`crate::guest`]). The key covers the recipe, the versions of every package that went in and of every tool
//! that was used. All of it may be deleted at any time.
//!
//! ## Concurrency and crashes
//! Builders take the lock on `lock`, which the system releases when a process ends, however it ends. Everything appears by
//! a rename, so a name that is there is complete; what a killed builder left has a temporary name and goes at the next build.

use std::{
    fs,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};

use crate::error::{AtPath, DemoError};

mod disk;
mod initramfs;
mod packages;
mod root;
mod tools;

pub use tools::{Tool, missing_programs};

/// The disk's size in bytes.
pub const DISK_BYTES: u64 = 512 << 20;

/// Rises when the builder's own code changes what it makes. The guest's scripts are part of the key by themselves.
const RECIPE_VERSION: u32 = 1;

/// A guest's disk, ready to be copied or used as the backing of overlays. It must not be written to.
#[derive(Debug, Clone)]
pub struct GuestImage {
    /// The raw disk: sparse, read-only.
    pub disk: PathBuf,
    /// What it was made of, in 32 hexadecimal digits: another key, another disk.
    pub key: String,
    /// The cache that it is kept in.
    pub cache: PathBuf,
}

/// What a cached image was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MadeOf {
    key: String,
    recipe: String,
    packages: Vec<String>,
    tools: String,
}

/// Which image this machine's package lists lead to, as long as they stay as they are.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Current {
    key: String,
    lists: String,
}

/// The folder in which images and packages are kept: `$XDG_CACHE_HOME/farshore/guest`, or `~/.cache/farshore/guest`.
pub fn default_cache() -> PathBuf {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("farshore/guest")
}

/// The guest's image, from the cache or freshly built: 5 to 15 s and about 30 MB of downloads the first time, at once
/// later. `say` is told what is being done, once for each step that takes long.
///
/// # Errors
/// Programs or packages are missing, a program fails, or the cache cannot be written.
pub fn prepare(cache: &Path, say: &mut dyn FnMut(&str)) -> Result<GuestImage, DemoError> {
    fs::create_dir_all(cache).at("make", cache)?;
    let recipe = recipe();
    let pointer = cache.join(format!("current-{recipe}.json"));
    if let Some(image) = remembered(cache, &pointer) {
        return Ok(image);
    }
    tools::check()?;
    let lock_path = cache.join("lock");
    let lock = fs::File::options().create(true).append(true).open(&lock_path).at("open", &lock_path)?;
    lock.lock().at("lock", &lock_path)?;
    // Another builder may have made it while this one waited for the lock.
    if let Some(image) = remembered(cache, &pointer) {
        return Ok(image);
    }
    remove_unfinished(cache)?;
    let lists = lists_fingerprint();
    let wanted = packages::resolve()?;
    let made_of = made_of(recipe, &wanted, tools::versions()?);
    let folder = cache.join("images").join(&made_of.key);
    if !folder.is_dir() {
        say("building the guest's disk (once; it is kept for the next time)");
        let unpacked = packages::fetch(cache, &wanted, say)?;
        build(cache, &unpacked, &made_of, &folder)?;
    }
    write_json(&pointer, &Current { key: made_of.key.clone(), lists })?;
    Ok(GuestImage { disk: folder.join("disk.raw"), key: made_of.key, cache: cache.to_owned() })
}

/// The image that was right last time, if nothing that could change the answer has changed since.
fn remembered(cache: &Path, pointer: &Path) -> Option<GuestImage> {
    let current: Current = serde_json::from_slice(&fs::read(pointer).ok()?).ok()?;
    let hexadecimal = current.key.len() == 32 && current.key.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !hexadecimal || current.lists != lists_fingerprint() {
        return None;
    }
    let disk = cache.join("images").join(&current.key).join("disk.raw");
    let complete = fs::metadata(&disk).is_ok_and(|metadata| metadata.len() == DISK_BYTES);
    complete.then(|| GuestImage { disk, key: current.key, cache: cache.to_owned() })
}

/// Changes whenever the package lists or the installed packages change, and costs next to nothing to ask.
fn lists_fingerprint() -> String {
    let modified = |path: &str| {
        let time = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_nanos())
    };
    let watched = ["/var/lib/apt/lists", "/var/lib/dpkg/status", "/etc/apt/sources.list", "/etc/apt/sources.list.d"];
    watched.map(|path| modified(path).to_string()).join("-")
}

/// Identifies the builder's own part: the guest's scripts and this code's version.
fn recipe() -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&RECIPE_VERSION.to_le_bytes());
    for (path, _, content) in root::SCRIPTS {
        hasher.update(path.as_bytes()).update(&[0]).update(content.as_bytes()).update(&[0]);
    }
    hasher.update(initramfs::INIT.as_bytes());
    short_hex(&hasher)
}

fn made_of(recipe: String, wanted: &[packages::Package], tools: String) -> MadeOf {
    let packages: Vec<String> = wanted.iter().map(packages::Package::to_string).collect();
    let mut hasher = blake3::Hasher::new();
    hasher.update(recipe.as_bytes()).update(&[0]).update(tools.as_bytes());
    for package in &packages {
        hasher.update(&[0]).update(package.as_bytes());
    }
    MadeOf { key: short_hex(&hasher), recipe, packages, tools }
}

fn short_hex(hasher: &blake3::Hasher) -> String {
    hasher.finalize().to_hex().chars().take(32).collect()
}

/// Makes the image below a temporary name, and renames it when it is complete.
fn build(cache: &Path, unpacked: &packages::Unpacked, made_of: &MadeOf, folder: &Path) -> Result<(), DemoError> {
    let parent = cache.join("images");
    fs::create_dir_all(&parent).at("make", &parent)?;
    let work = tempfile::Builder::new().prefix("unfinished-").tempdir_in(cache).at("make a folder in", cache)?;
    let result = work.path().join("result");
    fs::create_dir(&result).at("make", &result)?;
    let initramfs = initramfs::build(unpacked, work.path())?;
    let root = root::build(unpacked, work.path())?;
    disk::assemble(&unpacked.kernel_image()?, &initramfs, &root, work.path(), &result.join("disk.raw"))?;
    write_json(&result.join("made-of.json"), made_of)?;
    fs::rename(&result, folder).at("rename to", folder)
}

/// Removes what builders that were killed left behind. Called under the lock, so none of it is in use.
fn remove_unfinished(cache: &Path) -> Result<(), DemoError> {
    for entry in fs::read_dir(cache).at("list", cache)? {
        let entry = entry.at("list", cache)?;
        if entry.file_name().to_string_lossy().starts_with("unfinished-") {
            fs::remove_dir_all(entry.path()).at("remove", entry.path())?;
        }
    }
    Ok(())
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), DemoError> {
    let text = serde_json::to_vec_pretty(value).map_err(std::io::Error::from).at("write", path)?;
    let unfinished = path.with_extension("unfinished");
    fs::write(&unfinished, text).at("write", &unfinished)?;
    fs::rename(&unfinished, path).at("rename to", path)
}
