//! Where and with what it was measured. No name of a host, a user or a folder.

use std::path::Path;

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
    /// Asks the clock and the tools. `commit` names the sources of Farshore, `machine` describes what it runs on.
    pub fn find(commit: Option<&str>, machine: &str) -> Result<Self> {
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
        Ok(Self { date, machine: machine.to_owned(), versions })
    }
}
