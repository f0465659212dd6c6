//! The initramfs: BusyBox, the modules of the devices that the guest may meet, and the program that finds the root.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use super::packages::Unpacked;
use crate::{
    error::{AtPath, DemoError},
    program,
};

/// The first program that the kernel starts.
pub(super) const INIT: &str = include_str!("guest/init");

/// What the guest has wherever QEMU runs it: disk, file system, network, serial ports, power button.
const USUAL_MODULES: &[&str] =
    &["virtio_pci", "virtio_blk", "ext4", "virtio_net", "virtio_console", "button", "evdev", "rtc_cmos"];

/// What it may meet when it was recovered elsewhere; loaded when no root was found.
const OTHER_MODULES: &[&str] = &["virtio_scsi", "sd_mod", "vmw_pvscsi", "ata_piix", "ahci", "nvme", "vmxnet3"];

/// Builds it in `work`, and returns its path.
pub(super) fn build(unpacked: &Unpacked, work: &Path) -> Result<PathBuf, DemoError> {
    let tree = work.join("initramfs");
    for folder in ["bin", "etc", "proc", "sys", "dev", "newroot"] {
        let path = tree.join(folder);
        fs::create_dir_all(&path).at("make", &path)?;
    }
    let busybox = tree.join("bin/busybox");
    fs::copy(unpacked.busybox()?, &busybox).at("write", &busybox)?;
    let init = tree.join("init");
    fs::write(&init, INIT).at("write", &init)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).at("make executable", &init)?;
    add_modules(unpacked, &tree, USUAL_MODULES, "modules.usual")?;
    add_modules(unpacked, &tree, OTHER_MODULES, "modules.other")?;
    pack(&tree, work)
}

/// Copies the modules and what they need, and writes the order in which to load them.
fn add_modules(unpacked: &Unpacked, tree: &Path, modules: &[&str], list: &str) -> Result<(), DemoError> {
    let kernel = unpacked.kernel()?;
    let mut order: Vec<String> = Vec::new();
    for module in modules {
        let mut command = program::command("modprobe");
        command.arg("-d").arg(kernel).args(["-S", &unpacked.kernel_release, "--show-depends", module]);
        // A driver that this kernel has built in, or does not have, is no error: the disk boots with those it has.
        let Ok(shown) = program::output(&mut command) else { continue };
        for line in shown.lines() {
            let Some(path) = line.strip_prefix("insmod ").and_then(|rest| rest.split_whitespace().next()) else {
                continue;
            };
            let Ok(inside) = Path::new(path).strip_prefix(kernel) else { continue };
            let name = format!("/{}", inside.display());
            if order.contains(&name) {
                continue;
            }
            let target = tree.join(inside);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).at("make", parent)?;
            }
            fs::copy(path, &target).at("write", &target)?;
            order.push(name);
        }
    }
    let list = tree.join("etc").join(list);
    fs::write(&list, order.join("\n") + "\n").at("write", &list)
}

/// Packs the tree as the kernel wants it: a cpio archive of the new ASCII kind, compressed by gzip.
fn pack(tree: &Path, work: &Path) -> Result<PathBuf, DemoError> {
    let (names, archive) = (work.join("initramfs.names"), work.join("initramfs.cpio"));
    let listed = program::output(program::command("find").arg(".").current_dir(tree))?;
    let mut sorted: Vec<&str> = listed.lines().collect();
    sorted.sort_unstable();
    fs::write(&names, sorted.join("\n") + "\n").at("write", &names)?;
    let mut cpio = program::command("cpio");
    cpio.args(["--create", "--format=newc", "--owner=0:0", "--reproducible", "--quiet", "--file"]).arg(&archive);
    program::output_with_input(cpio.current_dir(tree).stdout(Stdio::null()), &names)?;
    program::output(program::command("gzip").args(["-n", "-6"]).arg(&archive))?;
    Ok(work.join("initramfs.cpio.gz"))
}
