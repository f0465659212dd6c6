//! Making disks for guests, and comparing them with a tool that is not ours.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
};

use super::{DiskFormat, GuestDisk};
use crate::{
    error::{AtPath, DemoError},
    program,
};

/// Copies a raw disk, leaving holes where it is zero. The copy stands alone.
///
/// # Errors
/// `qemu-img` fails.
pub fn copy(raw: &Path, target: &Path, format: DiskFormat) -> Result<GuestDisk, DemoError> {
    let mut command = program::command("qemu-img");
    command.args(["convert", "-f", "raw", "-O", format.as_str()]).arg(raw).arg(target);
    program::output(&mut command)?;
    fs::set_permissions(target, fs::Permissions::from_mode(0o600)).at("set the mode of", target)?;
    Ok(GuestDisk { path: target.to_owned(), format })
}

/// Makes an empty qcow2 disk over another, which must not be written to from now on.
///
/// # Errors
/// `qemu-img` fails.
pub fn overlay(below: &GuestDisk, target: &Path) -> Result<GuestDisk, DemoError> {
    let mut command = program::command("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-F", below.format.as_str(), "-b"]).arg(&below.path).arg(target);
    program::output(&mut command)?;
    Ok(GuestDisk { path: target.to_owned(), format: DiskFormat::Qcow2 })
}

/// Makes an empty disk of this size, in bytes.
///
/// # Errors
/// `qemu-img` fails.
pub fn empty(target: &Path, size_bytes: u64, format: DiskFormat) -> Result<GuestDisk, DemoError> {
    let mut command = program::command("qemu-img");
    command.args(["create", "-q", "-f", format.as_str()]).arg(target).arg(size_bytes.to_string());
    program::output(&mut command)?;
    Ok(GuestDisk { path: target.to_owned(), format })
}

/// Whether two disks have the same content, as `qemu-img compare` says.
///
/// # Errors
/// `qemu-img` cannot read one of them.
pub fn identical(left: &GuestDisk, right: &GuestDisk) -> Result<bool, DemoError> {
    let mut command = program::command("qemu-img");
    command.args(["compare", "-q", "-U", "-f", left.format.as_str(), "-F", right.format.as_str()]);
    let result = command.arg(&left.path).arg(&right.path).output().at("start", "qemu-img")?;
    match result.status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => {
            let errors = String::from_utf8_lossy(&result.stderr).into_owned();
            Err(DemoError::Program { command: program::describe(&command), status: result.status, errors })
        }
    }
}

/// Overwrites bytes of a raw disk that nobody uses: to show that a comparison would see it.
///
/// # Errors
/// The file cannot be written.
pub fn overwrite_raw(disk: &Path, offset: u64, bytes: &[u8]) -> Result<(), DemoError> {
    File::options().write(true).open(disk).and_then(|file| file.write_all_at(bytes, offset)).at("write", disk)
}
