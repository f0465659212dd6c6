//! The guest's root tree: BusyBox with its names, SQLite, the guest agent, and our scripts.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use super::packages::Unpacked;
use crate::{
    error::{AtPath, DemoError},
    program,
};

/// Path in the guest, mode, content.
pub(super) const SCRIPTS: &[(&str, u32, &str)] = &[
    ("etc/rc", 0o755, include_str!("guest/rc")),
    ("etc/rc.down", 0o755, include_str!("guest/rc.down")),
    ("etc/inittab", 0o644, include_str!("guest/inittab")),
    ("etc/database.sql", 0o644, include_str!("guest/database.sql")),
    ("etc/acpi/PWRF/00000080", 0o755, include_str!("guest/powerdown")),
    ("etc/passwd", 0o644, "root::0:0:root:/root:/bin/sh\n"),
    ("etc/group", 0o644, "root:x:0:\n"),
    ("sbin/shutdown", 0o755, include_str!("guest/shutdown")),
    ("usr/bin/workload", 0o755, include_str!("guest/workload")),
    ("usr/bin/database", 0o755, include_str!("guest/database")),
    ("usr/bin/acknowledge", 0o755, include_str!("guest/acknowledge")),
    ("usr/bin/writer", 0o755, include_str!("guest/writer")),
    ("usr/bin/pair", 0o755, include_str!("guest/pair")),
    ("usr/bin/pair-row", 0o755, include_str!("guest/pair-row")),
    ("data/boots", 0o644, "0\n"),
];

const FOLDERS: &[&str] = &[
    "bin", "sbin", "etc", "proc", "sys", "dev", "run", "tmp", "root", "data", "usr/bin", "usr/sbin", "var/run", "lib",
    "lib64",
];

/// The two slots of the load `pair`, one page each.
const PAIR_SLOTS: usize = 2;

/// Builds it in `work`, and returns its path.
pub(super) fn build(unpacked: &Unpacked, work: &Path) -> Result<PathBuf, DemoError> {
    let tree = work.join("root");
    for folder in FOLDERS {
        let path = tree.join(folder);
        fs::create_dir_all(&path).at("make", &path)?;
    }
    add_busybox(unpacked, &tree)?;
    for (source, name) in unpacked.linked_programs()? {
        add_linked(unpacked, &source, &tree, name)?;
    }
    for (name, mode, content) in SCRIPTS {
        let path = tree.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).at("make", parent)?;
        }
        // A script may take the place of one of BusyBox's names, which is a link.
        if path.is_symlink() {
            fs::remove_file(&path).at("replace", &path)?;
        }
        fs::write(&path, content).at("write", &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).at("set the mode of", &path)?;
    }
    let pair = tree.join("data/pair");
    fs::write(&pair, format!("row {:<4091}\n", 0).repeat(PAIR_SLOTS)).at("write", &pair)?;
    Ok(tree)
}

fn add_busybox(unpacked: &Unpacked, tree: &Path) -> Result<(), DemoError> {
    let busybox = tree.join("bin/busybox");
    fs::copy(unpacked.busybox()?, &busybox).at("write", &busybox)?;
    for name in program::output(program::command(&busybox).arg("--list"))?.lines().filter(|name| *name != "busybox") {
        let path = tree.join("bin").join(name);
        symlink("/bin/busybox", &path).at("make", &path)?;
    }
    let init = tree.join("sbin/init");
    symlink("/bin/busybox", &init).at("make", &init)
}

/// Copies a program and the libraries that the loader finds for it, to where the guest's loader looks for them.
fn add_linked(unpacked: &Unpacked, source: &Path, tree: &Path, name: &str) -> Result<(), DemoError> {
    let target = tree.join(name);
    fs::copy(source, &target).at("write", &target)?;
    let loader = unpacked.loader()?;
    let folders: Vec<String> =
        unpacked.library_folders().iter().map(|folder| folder.to_string_lossy().into_owned()).collect();
    let mut command = program::command(&loader);
    command.args(["--library-path", &folders.join(":"), "--list"]).arg(source);
    for line in program::output(&mut command)?.lines() {
        let Some((soname, found)) = line.trim().split_once(" => ") else { continue };
        let found = found.split(" (").next().unwrap_or_default();
        // What is not below the unpacked packages is the building machine's own, and not the guest's business.
        if !folders.iter().any(|folder| Path::new(found).starts_with(folder)) {
            return Err(DemoError::NoPackage { package: format!("a library package with {soname}") });
        }
        let Some(file_name) = Path::new(soname).file_name() else { continue };
        let path = tree.join("lib").join(file_name);
        if file_name != "ld-linux-x86-64.so.2" && !path.exists() {
            fs::copy(found, &path).at("write", &path)?;
        }
    }
    let loader_path = tree.join("lib64/ld-linux-x86-64.so.2");
    fs::copy(&loader, &loader_path).at("write", &loader_path).map(drop)
}
