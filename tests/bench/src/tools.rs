//! The tools that are measured: Farshore, its peers, and the limits, which do only a part of what a tool must do.
//!
//! restic and Borg are Debian's packages. rustic and kopia are built from their sources by whoever starts the bench, and each
//! may be missing: the page then says why.

use std::{
    ffi::OsStr,
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::round::Deed;

/// A tool that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// Ours.
    Farshore,
    /// restic.
    Restic,
    /// Borg.
    Borg,
    /// rustic.
    Rustic,
    /// kopia.
    Kopia,
    /// Compression alone.
    Zstd,
    /// Moving bytes alone.
    Dd,
}

/// What a tool is in a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// What is compared.
    Ours,
    /// Does the same as ours.
    Peer,
    /// Does only a part of it: no encryption, no deduplication, no repository.
    Limit,
}

impl Tool {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 7] =
        [Self::Farshore, Self::Restic, Self::Borg, Self::Rustic, Self::Kopia, Self::Zstd, Self::Dd];

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Farshore => "farshore",
            Self::Restic => "restic",
            Self::Borg => "borg",
            Self::Rustic => "rustic",
            Self::Kopia => "kopia",
            Self::Zstd => "zstd",
            Self::Dd => "dd",
        }
    }

    /// What it is in a comparison.
    pub const fn role(self) -> Role {
        match self {
            Self::Farshore => Role::Ours,
            Self::Restic | Self::Borg | Self::Rustic | Self::Kopia => Role::Peer,
            Self::Zstd | Self::Dd => Role::Limit,
        }
    }

    /// What its row is called in the table of a deed: a limit by what is run there.
    pub const fn row(self, deed: Deed) -> &'static str {
        match (self, deed) {
            (Self::Zstd, Deed::Restore) => "limit: `zstd -d`",
            (Self::Zstd, Deed::Copy(_)) => "limit: `zstd -1 -T2`",
            (Self::Dd, Deed::Restore) => "limit: `dd` from file to file",
            (Self::Dd, Deed::Copy(_)) => "limit: `dd` to /dev/null",
            _ => self.name(),
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// When a copy is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Into an empty repository.
    First,
    /// After a hundredth of the disk was written.
    Delta,
    /// After nothing happened.
    Idle,
}

/// Where the programs are that no package brings.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    /// rustic, if it could be had.
    pub rustic: Option<PathBuf>,
    /// kopia, if it could be had.
    pub kopia: Option<PathBuf>,
}

impl Programs {
    /// The program of a tool. None of Farshore, which is started otherwise, and of a tool that is missing.
    pub fn find(&self, tool: Tool) -> Option<&Path> {
        match tool {
            Tool::Farshore => None,
            Tool::Rustic => self.rustic.as_deref(),
            Tool::Kopia => self.kopia.as_deref(),
            Tool::Restic | Tool::Borg | Tool::Zstd | Tool::Dd => Some(Path::new(tool.name())),
        }
    }

    /// The tools that are there, in the order of the tables.
    pub fn tools(&self) -> Vec<Tool> {
        Tool::ALL.into_iter().filter(|tool| *tool == Tool::Farshore || self.find(*tool).is_some()).collect()
    }
}

/// The first line that a program says of its version.
pub fn version(program: impl AsRef<OsStr>, argument: &str, from: &str) -> Result<String> {
    let program = program.as_ref();
    let output = Command::new(program).arg(argument).output();
    let output = output.with_context(|| format!("starting {}: is {from} installed?", program.to_string_lossy()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let Some(line) = text.lines().find(|line| !line.trim().is_empty()) else {
        bail!("{} does not say its version", program.to_string_lossy());
    };
    Ok(line.trim_matches(['*', ' ']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_missing_is_not_measured() {
        let programs = Programs { rustic: None, kopia: Some("/tools/kopia".into()) };
        let tools = programs.tools();
        assert!(tools.contains(&Tool::Farshore) && tools.contains(&Tool::Kopia) && !tools.contains(&Tool::Rustic));
        assert!(tools.is_sorted());
    }
}
