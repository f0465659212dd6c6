//! Puts the disk together: partition table, boot partition, root file system.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
};

use super::{DISK_BYTES, tools::BOOT_RECORD};
use crate::{
    error::{AtPath, DemoError},
    program,
};

const MIB: u64 = 1 << 20;
const SECTORS_PER_MIB: u64 = MIB / 512;
const BOOT_START_MIB: u64 = 1;
const BOOT_MIB: u64 = 40;
const ROOT_START_MIB: u64 = BOOT_START_MIB + BOOT_MIB;
const ROOT_MIB: u64 = DISK_BYTES / MIB - ROOT_START_MIB - 1;

/// How much of the boot record is code; the partition table follows.
const BOOT_CODE_BYTES: usize = 440;

/// The kernel's messages stay off the console, which belongs to the guest's own lines; a panic is shown and ends in a
/// restart.
const SYSLINUX_CONFIGURATION: &str = "DEFAULT farshore\nPROMPT 0\nTIMEOUT 0\nLABEL farshore\n KERNEL vmlinuz\n INITRD \
                                      initrd.gz\n APPEND console=ttyS0,115200 quiet panic=5\n";

/// Fixed, so that the same inputs make the same disk.
const ROOT_UUID: &str = "fa25fa25-0000-4000-8000-000000000001";

/// Writes the disk to `target`, with `work` for what is only needed meanwhile.
pub(super) fn assemble(
    kernel: &Path,
    initramfs: &Path,
    root: &Path,
    work: &Path,
    target: &Path,
) -> Result<(), DemoError> {
    let disk = File::options().read(true).write(true).create_new(true).open(target).at("make", target)?;
    disk.set_len(DISK_BYTES).at("extend", target)?;
    let table = work.join("partitions");
    let (boot_start, boot_size) = (BOOT_START_MIB * SECTORS_PER_MIB, BOOT_MIB * SECTORS_PER_MIB);
    let root_start = ROOT_START_MIB * SECTORS_PER_MIB;
    let text = format!(
        "label: dos\nlabel-id: 0xfa25fa25\nstart={boot_start}, size={boot_size}, type=e, bootable\nstart={root_start}, \
         type=83\n"
    );
    fs::write(&table, text).at("write", &table)?;
    program::output_with_input(program::command("sfdisk").arg("-q").arg(target), &table)?;
    let record = fs::read(BOOT_RECORD).at("read", BOOT_RECORD)?;
    let code = record.get(..record.len().min(BOOT_CODE_BYTES)).unwrap_or_default();
    disk.write_all_at(code, 0).at("write", target)?;

    let boot = boot_partition(kernel, initramfs, work)?;
    copy_sparse(&boot, &disk, BOOT_START_MIB * MIB, target)?;
    let root = root_partition(root, work)?;
    copy_sparse(&root, &disk, ROOT_START_MIB * MIB, target)?;
    disk.sync_all().at("write", target)?;
    fs::set_permissions(target, fs::Permissions::from_mode(0o444)).at("protect", target)
}

fn empty_file(path: &Path, size_mib: u64) -> Result<(), DemoError> {
    File::create(path).and_then(|file| file.set_len(size_mib * MIB)).at("make", path)
}

fn boot_partition(kernel: &Path, initramfs: &Path, work: &Path) -> Result<std::path::PathBuf, DemoError> {
    let (partition, configuration) = (work.join("boot.fat"), work.join("syslinux.cfg"));
    empty_file(&partition, BOOT_MIB)?;
    let mut make = program::command("mkfs.fat");
    program::output(make.args(["-F", "16", "-n", "FSBOOT", "--invariant"]).arg(&partition))?;
    fs::write(&configuration, SYSLINUX_CONFIGURATION).at("write", &configuration)?;
    for (source, name) in
        [(kernel, "::vmlinuz"), (initramfs, "::initrd.gz"), (configuration.as_path(), "::syslinux.cfg")]
    {
        program::output(program::command("mcopy").arg("-i").arg(&partition).arg(source).arg(name))?;
    }
    program::output(program::command("syslinux").arg("--install").arg(&partition))?;
    Ok(partition)
}

fn root_partition(root: &Path, work: &Path) -> Result<std::path::PathBuf, DemoError> {
    let partition = work.join("root.ext4");
    empty_file(&partition, ROOT_MIB)?;
    let extended = format!("lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,hash_seed={ROOT_UUID}");
    let mut make = program::command("mke2fs");
    make.args(["-q", "-t", "ext4", "-L", "fsroot", "-U", ROOT_UUID, "-E", &extended, "-d"]).arg(root).arg(&partition);
    program::output(&mut make)?;
    Ok(partition)
}

/// Copies a file into the disk at an offset, and leaves holes where it is zero.
fn copy_sparse(source: &Path, disk: &File, offset: u64, target: &Path) -> Result<(), DemoError> {
    let mut reader = File::open(source).at("open", source)?;
    let mut buffer = vec![0; 64 << 10];
    let mut position = offset;
    loop {
        let count = reader.read(&mut buffer).at("read", source)?;
        let Some(block) = buffer.get(..count).filter(|block| !block.is_empty()) else { return Ok(()) };
        if block.iter().any(|byte| *byte != 0) {
            disk.write_all_at(block, position).at("write", target)?;
        }
        position += count as u64;
    }
}
