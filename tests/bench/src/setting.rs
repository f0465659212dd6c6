//! Where and with what it was measured. No name of a host, a user or a folder.

use std::path::Path;

use anyhow::Result;
use farshore_core::{Clock as _, SystemClock};
use farshore_e2e::binary;

use crate::{
    Arguments,
    tools::{Programs, Tool, version},
};

/// Where and with what.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The day.
    pub date: String,
    /// Processors, memory, system.
    pub machine: String,
    /// The tools, ours first.
    pub versions: Vec<String>,
    /// Tools that could not be had, each with the reason.
    pub absent: Vec<String>,
    /// What was typed.
    pub command: String,
}

impl Setting {
    /// Asks the clock and the tools.
    pub fn find(arguments: &Arguments, programs: &Programs) -> Result<Self> {
        let farshore = binary()?;
        let profile = farshore.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        let profile = match profile.as_str() {
            "debug" => "cargo's profile `dev`: optimised, with assertions and overflow checks".to_owned(),
            "release" => "cargo's profile `release`".to_owned(),
            _ => "named by the caller".to_owned(),
        };
        let commit = arguments.commit.as_ref().map(|commit| format!("commit {commit}, ")).unwrap_or_default();
        let mut versions = vec![
            format!("{} ({commit}{profile})", version(&farshore, "--version", "farshore")?),
            version("restic", "version", "Debian's package restic")?,
            version("borg", "--version", "Debian's package borgbackup")?,
        ];
        if let Some(rustic) = &programs.rustic {
            versions.push(version(rustic, "--version", "it")?);
        }
        if let Some(kopia) = &programs.kopia {
            // What follows is of the build.
            let line = version(kopia, "--version", "it")?;
            versions.push(format!("kopia {}", line.split(' ').next().unwrap_or_default()));
        }
        versions.push(version("zstd", "--version", "Debian's package zstd")?);
        versions.push(version("dd", "--version", "Debian's package coreutils")?);
        versions.push(version("qemu-system-x86_64", "--version", "Debian's package qemu-system-x86")?);
        let date = SystemClock.now().to_string().chars().take_while(|character| *character != 'T').collect();
        let absent = absent(&arguments.absent, programs);
        let command = arguments.command.clone().unwrap_or_else(|| "farshore-bench".to_owned());
        Ok(Self { date, machine: arguments.machine.clone(), versions, absent, command })
    }
}

/// Who is missing, and why: what the caller said, or that nobody said where the program is.
fn absent(reasons: &[String], programs: &Programs) -> Vec<String> {
    let missing = Tool::ALL.into_iter().filter(|tool| *tool != Tool::Farshore && programs.find(*tool).is_none());
    let told = |tool: Tool| reasons.iter().find(|reason| reason.starts_with(&format!("{tool}:"))).cloned();
    missing.map(|tool| told(tool).unwrap_or_else(|| format!("{tool}: the bench was not told where it is"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_missing_is_named_with_the_reason() {
        let programs = Programs::default();
        let found = absent(&["kopia: no Go compiler".to_owned(), "other: no matter".to_owned()], &programs);
        assert_eq!(found, ["rustic: the bench was not told where it is", "kopia: no Go compiler"]);
        let programs = Programs { rustic: Some("/r".into()), kopia: Some("/k".into()) };
        assert!(absent(&[], &programs).is_empty());
    }
}
