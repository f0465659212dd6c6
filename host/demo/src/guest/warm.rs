//! Guests that were booted once and are resumed many times.
//!
//! `warm/KEY/` in the cache has `state` (the memory) and `disk0.qcow2` (the disk as it was then, over the image). It is made
//! below a temporary name under a lock of its own, and renamed when complete. The frozen disk is made read-only: a resumed
//! guest writes to an overlay.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{DiskFormat, Guest, GuestDisk, GuestOptions, MEMORY_MIB, disk};
use crate::{
    error::{AtPath, DemoError},
    image::GuestImage,
    program,
    wait::Stop,
};

/// Rises when [`super::qemu`] gives a machine another shape: memory that was saved by another shape does not fit.
const SHAPE_VERSION: u32 = 1;

impl Guest {
    /// A guest of this image that has just booted, in about half a second; the first call boots it and takes longer. Its
    /// only disk is an overlay in `folder`, and its agent answers. Its console has no line from before.
    ///
    /// # Errors
    /// As [`Guest::start`]; the cache cannot be written; the agent does not answer.
    pub fn resume(image: &GuestImage, name: &str, folder: &Path, stop: &Stop) -> Result<Self, DemoError> {
        let warm = prepare(image, stop)?;
        fs::create_dir_all(folder).at("make", folder)?;
        let disk = disk::overlay(&frozen_disk(&warm), &folder.join("disk0.qcow2"))?;
        let options = options(name, folder, disk, stop);
        let guest = Self::launch(options, Some(&warm.join("state")))?;
        let mut control = guest.control()?;
        wait_until_loaded(&mut control, stop)?;
        control.execute("cont", serde_json::json!({}))?;
        drop(control);
        guest.agent().ping()?;
        Ok(guest)
    }
}

fn options(name: &str, folder: &Path, disk: GuestDisk, stop: &Stop) -> GuestOptions {
    let (name, folder) = (name.to_owned(), folder.to_owned());
    GuestOptions { name, folder, disks: vec![disk], arguments: Vec::new(), stop: stop.clone() }
}

fn frozen_disk(warm: &Path) -> GuestDisk {
    GuestDisk { path: warm.join("disk0.qcow2"), format: DiskFormat::Qcow2 }
}

fn wait_until_loaded(control: &mut super::Qmp, stop: &Stop) -> Result<(), DemoError> {
    let deadline = super::Deadline::after(super::ANSWER_MAX, stop);
    loop {
        let answer = control.execute("query-status", serde_json::json!({}))?;
        if answer.get("status").and_then(serde_json::Value::as_str) != Some("inmigrate") {
            return Ok(());
        }
        deadline.check("the guest's memory to be loaded", || answer.to_string())?;
        super::pause(super::POLL);
    }
}

/// The folder with the saved guest, which is made if it is not there yet.
fn prepare(image: &GuestImage, stop: &Stop) -> Result<PathBuf, DemoError> {
    let parent = image.cache.join("warm");
    fs::create_dir_all(&parent).at("make", &parent)?;
    let version = program::output(program::command("qemu-system-x86_64").arg("--version"))?;
    let made_of = format!("{SHAPE_VERSION} {} {MEMORY_MIB} {version}", image.key);
    let key: String = blake3::hash(made_of.as_bytes()).to_hex().chars().take(32).collect();
    let folder = parent.join(&key);
    if folder.is_dir() {
        return Ok(folder);
    }
    let lock_path = parent.join(format!("{key}.lock"));
    let lock = fs::File::options().create(true).append(true).open(&lock_path).at("open", &lock_path)?;
    lock.lock().at("lock", &lock_path)?;
    if !folder.is_dir() {
        make(image, &parent, &folder, stop)?;
    }
    Ok(folder)
}

fn make(image: &GuestImage, parent: &Path, folder: &Path, stop: &Stop) -> Result<(), DemoError> {
    let work = tempfile::Builder::new().prefix("unfinished-").tempdir_in(parent).at("make a folder in", parent)?;
    // Sockets need a short path, which the cache's may not be.
    let sockets = tempfile::tempdir().at("make a folder in", std::env::temp_dir())?;
    let base = GuestDisk { path: image.disk.clone(), format: DiskFormat::Raw };
    let disk = disk::overlay(&base, &work.path().join("disk0.qcow2"))?;
    let state = work.path().join("state");
    let (mut guest, _) = Guest::boot(options("warm", sockets.path(), disk, stop))?;
    guest.agent().ping()?;
    guest.save(&state)?;
    guest.quit()?;
    for path in [&state, &work.path().join("disk0.qcow2")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o444)).at("protect", path)?;
    }
    shell_safe(&folder.join("state"))?;
    fs::rename(work.keep(), folder).at("rename to", folder)
}

/// QEMU hands what it saves and loads to a shell.
///
/// # Errors
/// The path has a character that would end the quotes.
pub(super) fn shell_safe(path: &Path) -> Result<String, DemoError> {
    let text = path.to_string_lossy().into_owned();
    if text.contains(['\'', '\u{fffd}']) {
        let answer = format!("{} cannot be quoted for a shell", path.display());
        return Err(DemoError::Refused { peer: "QEMU", command: "migrate".to_owned(), answer });
    }
    Ok(text)
}
