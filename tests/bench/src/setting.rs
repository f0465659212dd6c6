//! Where and with what it was measured. No name of a host, a user or a folder.

use std::{fs, num::NonZero, path::Path, process::Command, thread};

use anyhow::Result;
use farshore_core::{Clock as _, SystemClock};
use farshore_e2e::binary;

use crate::tools::version;

/// Where and with what.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The day.
    pub date: String,
    /// Processors, memory, system.
    pub machine: String,
    /// The tools, ours first.
    pub versions: Vec<String>,
}

impl Setting {
    /// Asks the system and the tools. `commit` names the sources of Farshore.
    pub fn find(commit: Option<&str>) -> Result<Self> {
        let farshore = binary()?;
        let profile = farshore.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        let profile = match profile.as_str() {
            "debug" => "cargo's profile `dev`: optimised, with assertions and overflow checks".to_owned(),
            "release" => "cargo's profile `release`".to_owned(),
            _ => "named by the caller".to_owned(),
        };
        let commit = commit.map(|commit| format!("commit {commit}, ")).unwrap_or_default();
        let versions = vec![
            format!("{} ({commit}{profile})", version(&farshore, "--version", "farshore")?),
            version("restic", "version", "restic")?,
            version("borg", "--version", "borgbackup")?,
            version("zstd", "--version", "zstd")?,
            version("qemu-system-x86_64", "--version", "qemu-system-x86")?,
        ];
        let date = SystemClock.now().to_string().chars().take_while(|character| *character != 'T').collect();
        Ok(Self { date, machine: machine(), versions })
    }
}

fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = Command::new("uname").arg("--kernel-release").output();
    let kernel = kernel.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let name = read("/etc/os-release").lines().find_map(|line| line.strip_prefix("PRETTY_NAME=").map(str::to_owned));
    format!(
        "{} cores ({}), {} of memory, {}, Linux {kernel}",
        thread::available_parallelism().map_or(1, NonZero::get),
        after_colon(&read("/proc/cpuinfo"), "model name"),
        memory(&read("/proc/meminfo")),
        name.as_deref().unwrap_or("an unknown system").trim_matches('"'),
    )
}

/// The value of the first line `key : value`.
fn after_colon(text: &str, key: &str) -> String {
    let found = text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == key);
    found.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

fn memory(meminfo: &str) -> String {
    let total = after_colon(meminfo, "MemTotal");
    let kibibytes: Option<u64> = total.strip_suffix(" kB").and_then(|count| count.parse().ok());
    kibibytes.map_or_else(|| "unknown".to_owned(), |kibibytes| format!("{} GiB", (kibibytes + (1 << 19)) >> 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described_from_what_linux_says() {
        assert_eq!(after_colon("processor\t: 0\nmodel name\t: AMD EPYC\n", "model name"), "AMD EPYC");
        assert_eq!(memory("MemTotal:       24676880 kB\n"), "24 GiB");
        assert_eq!(memory("MemTotal: lots\n"), "unknown");
    }
}
