//! How a recovery fails.

use std::{io, path::PathBuf};

use farshore_core::{Code, Coded, GroupName, MachineId, RunId, Sequence, SiteName};
use farshore_platform::{SiteError, TransportError};
use farshore_vault::Error as VaultError;

/// A recovery's failure.
#[derive(Debug, thiserror::Error)]
pub enum FailoverError {
    /// The vault failed.
    #[error("{doing} failed")]
    Vault {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: VaultError,
    },
    /// The adapter or the platform failed.
    #[error("{doing} failed")]
    Site {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: SiteError,
    },
    /// A disk could not be written.
    #[error("{doing} failed")]
    Write {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: TransportError,
    },
    /// A file could not be made.
    #[error("{} cannot be {doing}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was being done to it.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The vault has no lineage for the group, or the lineage has no recovery point.
    #[error("group {group:?} has no recovery point in this vault", group = group.as_str())]
    NothingToRecover {
        /// The group.
        group: GroupName,
    },
    /// The point does not have the machine.
    #[error("point {point} of group {group:?} has no machine {machine}", group = group.as_str())]
    MachineNotInPoint {
        /// The group.
        group: GroupName,
        /// The point.
        point: Sequence,
        /// The machine.
        machine: MachineId,
    },
    /// The target cannot run a machine; nothing was made.
    #[error("site {site:?} cannot run machine {machine}: {problems}", site = site.as_str())]
    Prerequisite {
        /// The target.
        site: SiteName,
        /// The machine.
        machine: MachineId,
        /// The target's sentences.
        problems: String,
    },
    /// Nobody can prove that the source is off.
    #[error("nothing proves that the source of group {group:?} is off: {why}", group = group.as_str())]
    AttestationNeeded {
        /// The group.
        group: GroupName,
        /// What was asked and what was answered.
        why: String,
    },
    /// An earlier failover has started these machines, and a second copy would stand beside the first.
    #[error(
        "{machines} of group {group:?} {} started at site {site:?} already, by failover {run}",
        if *count == 1 { "was" } else { "were" }, group = group.as_str(), site = site.as_str()
    )]
    AlreadyRecovered {
        /// The group.
        group: GroupName,
        /// The machines' names.
        machines: String,
        /// How many they are.
        count: usize,
        /// Where they were started.
        site: SiteName,
        /// The failover that started the first of them.
        run: RunId,
    },
    /// Long work at the platform did not end.
    #[error("{doing} did not end within {limit_seconds} s")]
    TimedOut {
        /// What was being done.
        doing: String,
        /// The limit.
        limit_seconds: u64,
    },
    /// Long work at the platform makes no progress.
    #[error("{doing} makes no progress: for {limit_seconds} s the site has said nothing but {said:?}")]
    Stands {
        /// What was being done.
        doing: String,
        /// What the site said.
        said: String,
        /// For how long.
        limit_seconds: u64,
    },
    /// An entry of a run's journal cannot be read.
    #[error("entry {number} of run {run} cannot be read: {what}")]
    Journal {
        /// The run.
        run: RunId,
        /// The entry, from 1.
        number: u64,
        /// What is wrong.
        what: String,
    },
    /// Another process executes a run of the group.
    #[error("another process is executing a run of group {group:?}; it holds {}", path.display(), group = group.as_str())]
    Busy {
        /// The group.
        group: GroupName,
        /// The lock file.
        path: PathBuf,
    },
    /// The operator asked to stop.
    #[error("stopped on request")]
    Stopped,
}

impl FailoverError {
    /// For use with `map_err`.
    pub(crate) fn vault(doing: impl Into<String>) -> impl FnOnce(VaultError) -> Self {
        let doing = doing.into();
        move |source| Self::Vault { doing, source }
    }

    /// For use with `map_err`.
    pub(crate) fn site(doing: impl Into<String>) -> impl FnOnce(SiteError) -> Self {
        let doing = doing.into();
        move |source| Self::Site { doing, source }
    }

    /// The message with its causes, for a journal.
    pub(crate) fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl Coded for FailoverError {
    fn code(&self) -> Code {
        match self {
            Self::Vault { source, .. } => source.code(),
            Self::Site { source, .. } => source.code(),
            Self::Write { source, .. } => source.code(),
            Self::File { .. } => Code::new(5001),
            Self::NothingToRecover { .. } => Code::new(5002),
            Self::MachineNotInPoint { .. } => Code::new(5003),
            Self::Prerequisite { .. } => Code::new(5004),
            Self::AttestationNeeded { .. } => Code::new(5005),
            Self::TimedOut { .. } | Self::Stands { .. } => Code::new(5006),
            Self::Journal { .. } => Code::new(5007),
            Self::Busy { .. } => Code::new(5008),
            Self::Stopped => Code::new(5009),
            Self::AlreadyRecovered { .. } => Code::new(5010),
        }
    }

    fn advice(&self) -> Option<String> {
        match self {
            Self::Vault { source, .. } => source.advice(),
            Self::Site { source, .. } => source.advice(),
            Self::Write { source, .. } => source.advice(),
            Self::AttestationNeeded { .. } => Some(
                "make sure that the source is off, then say who knows it: --source-is-down \"NAME saw the machine off\""
                    .to_owned(),
            ),
            Self::AlreadyRecovered { .. } => Some(
                "name the other machines with --machine; to give up what happened on the recovered ones, and start them again from the point, add --discard-recovered"
                    .to_owned(),
            ),
            Self::NothingToRecover { .. } => Some("farshore points lists what the vault has".to_owned()),
            _ => None,
        }
    }
}
