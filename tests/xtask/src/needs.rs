//! Which packages and which parts of the Rust toolchain each command needs. Those of the demonstration are what a
//! person with a fresh machine waits for: what only the tests need is not among them.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::debian::{Package, Stop};
use crate::process;

const RUSTUP_LIMIT: Duration = Duration::from_secs(60);

/// Name, what it brings, what for.
type Row = (&'static str, &'static str, &'static str);

/// To build anything of the host.
const COMPILER: &[Row] = &[
    ("gcc", "gcc", "linking, and the C and assembler parts of libraries"),
    ("libc6-dev", "/usr/include/stdlib.h", "the same"),
    ("make", "make", "building the allocator"),
    ("ca-certificates", "/etc/ssl/certs/ca-certificates.crt", "downloading crates and packages"),
];

/// To make the small guest, and to run it.
const DEMO: &[Row] = &[
    ("qemu-system-x86", "qemu-system-x86_64", "the machines"),
    ("qemu-utils", "qemu-img", "their disks"),
    ("seabios", "/usr/share/seabios/bios-256k.bin", "their firmware"),
    ("ipxe-qemu", "/usr/lib/ipxe/qemu/efi-virtio.rom", "the firmware of their network cards"),
    ("syslinux", "syslinux", "the guest's boot loader"),
    ("syslinux-common", "/usr/lib/syslinux/mbr/mbr.bin", "the guest's boot sector"),
    ("mtools", "mcopy", "the guest's boot partition"),
    ("dosfstools", "mkfs.fat", "the same"),
    ("e2fsprogs", "mke2fs", "the guest's root partition"),
    ("fdisk", "sfdisk", "the guest's partition table"),
    ("cpio", "cpio", "the guest's first file system"),
    ("gzip", "gzip", "the same"),
    ("kmod", "modprobe", "choosing the guest's kernel modules"),
];

/// What the bench needs besides.
const BENCH: &[Row] = &[
    ("git", "git", "naming the commit that was measured"),
    ("zstd", "zstd", "the limit that the bench compares with"),
    ("restic", "restic", "another tool that the bench compares with"),
    ("borgbackup", "borg", "another tool that the bench compares with"),
];

/// What fuzzing needs besides a compiler.
const FUZZ: &[Row] = &[("g++", "g++", "the fuzzing engine, libFuzzer")];

/// What the tests need besides that of the bench, whose own tests are among them.
const TEST: &[Row] = &[
    ("nbdkit", "nbdkit", "an NBD server that is not ours"),
    ("libnbd-bin", "nbdcopy", "an NBD client that is not ours"),
    ("python3-venv", "python3", "the toolchain for components in Python"),
    ("curl", "curl", "an HTTP client that is not ours"),
    ("iproute2", "ip", "a link that is cut"),
];

/// The packages of `cargo xtask sim`.
pub fn compiler() -> Vec<Package> {
    rows(COMPILER)
}

/// The packages of `cargo xtask fuzz`.
pub fn fuzz() -> Vec<Package> {
    let mut packages = compiler();
    packages.extend(rows(FUZZ));
    packages
}

/// The packages of `cargo xtask demo`.
pub fn demo() -> Vec<Package> {
    let mut packages = compiler();
    packages.extend(rows(DEMO));
    packages
}

/// The packages of `cargo xtask bench`.
pub fn bench() -> Vec<Package> {
    let mut packages = demo();
    packages.extend(rows(BENCH));
    packages
}

/// The packages of `cargo xtask test`.
pub fn test() -> Vec<Package> {
    let mut packages = bench();
    packages.extend(rows(FUZZ));
    packages.extend(rows(TEST));
    packages
}

fn rows(rows: &[Row]) -> Vec<Package> {
    rows.iter().map(|&(name, brings, purpose)| Package { name: name.to_owned(), brings, purpose }).collect()
}

/// Makes sure that the compiler in use has rustfmt and clippy, which rustup's minimal profile leaves out.
pub fn ensure_lints() -> Result<()> {
    let missing = || {
        let tools = [("rustfmt", "fmt"), ("clippy", "clippy")];
        tools.into_iter().filter(|(_, verb)| process::answer(Command::new("cargo").args([verb, "--version"])).is_none())
    };
    let components: Vec<&str> = missing().map(|(component, _)| component).collect();
    if components.is_empty() {
        return Ok(());
    }
    if process::find_program("rustup").is_some() {
        eprintln!("Adding {} to the compiler in use, by rustup.", components.join(" and "));
        // Whether it worked is asked of the tools themselves.
        process::run_limited(Command::new("rustup").args(["component", "add"]).args(&components), RUSTUP_LIMIT)?;
    }
    if missing().next().is_none() {
        return Ok(());
    }
    let hint = format!("rustup component add {}", components.join(" "));
    Err(Stop::Missing { what: format!("{} of the compiler in use", components.join(" and ")), hint }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demonstration_needs_less_than_the_bench_and_that_less_than_the_tests_and_nothing_is_there_twice() {
        let (demo, bench) = (demo(), bench());
        let mut names: Vec<String> = test().into_iter().map(|package| package.name).collect();
        assert!(bench.iter().all(|package| names.contains(&package.name)));
        assert!(demo.iter().all(|package| bench.contains(package)));
        assert!(demo.len() < bench.len() && bench.len() < names.len());
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
