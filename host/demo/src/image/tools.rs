//! The programs that the builder and the guest need, and the Debian packages that have them.

use std::collections::BTreeSet;

use crate::{error::DemoError, program};

/// A program of a Debian package.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// The program's name.
    pub program: &'static str,
    /// The package that has it.
    pub package: &'static str,
}

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

/// Everything that `prepare` and a running guest call.
const TOOLS: &[Tool] = &[
    tool("apt-get", "apt"),
    tool("cpio", "cpio"),
    tool("depmod", "kmod"),
    tool("dpkg", "dpkg"),
    tool("gzip", "gzip"),
    tool("mcopy", "mtools"),
    tool("mke2fs", "e2fsprogs"),
    tool("mkfs.fat", "dosfstools"),
    tool("modprobe", "kmod"),
    tool("qemu-img", "qemu-utils"),
    tool("qemu-system-x86_64", "qemu-system-x86"),
    tool("sfdisk", "fdisk"),
    tool("syslinux", "syslinux"),
];

/// The master boot record that starts the active partition.
pub(super) const BOOT_RECORD: &str = "/usr/lib/syslinux/mbr/mbr.bin";

/// The programs that are not installed.
pub fn missing_programs() -> Vec<Tool> {
    let mut missing: Vec<Tool> = TOOLS.iter().copied().filter(|tool| program::find(tool.program).is_none()).collect();
    if !std::path::Path::new(BOOT_RECORD).is_file() {
        missing.push(tool(BOOT_RECORD, "syslinux-common"));
    }
    missing
}

/// # Errors
/// Programs are missing: all of them are named at once.
pub(super) fn check() -> Result<(), DemoError> {
    let missing = missing_programs();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: BTreeSet<_> = missing.iter().map(|tool| tool.package).collect();
    Err(DemoError::MissingPrograms {
        programs: missing.iter().map(|tool| tool.program).collect(),
        packages: packages.into_iter().collect(),
    })
}

/// The versions of the installed packages that shape the image, as one text.
pub(super) fn versions() -> Result<String, DemoError> {
    let shaping = ["cpio", "dosfstools", "e2fsprogs", "fdisk", "kmod", "mtools", "syslinux", "syslinux-common"];
    program::output(program::command("dpkg-query").args(["-W", "-f", "${Package}=${Version} "]).args(shaping))
}
