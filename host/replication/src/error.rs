//! How replication fails.

use std::{io, path::PathBuf, time::Duration};

use farshore_core::{Code, Coded, DiskId, Generation, GroupName, MachineId, SiteName};
use farshore_platform::{SiteError, TransportError};
use farshore_spool::SpoolError;
use farshore_vault::Error as VaultError;

/// A cycle's failure. Whatever it is, the group's last committed point is still the newest, and change tracking still
/// leads from it.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// The adapter or the platform failed.
    #[error("group {group:?}: {doing} failed", group = group.as_str())]
    Site {
        /// The group.
        group: GroupName,
        /// What was being done.
        doing: &'static str,
        /// With which machine, if it was with one.
        machine: Option<MachineId>,
        /// Why it failed.
        source: SiteError,
    },
    /// A disk could not be read.
    #[error("group {group:?}: disk {disk} of machine {machine} could not be read", group = group.as_str())]
    Read {
        /// The group.
        group: GroupName,
        /// The machine.
        machine: MachineId,
        /// The disk.
        disk: DiskId,
        /// Why.
        source: TransportError,
    },
    /// What a block-status context says of a disk cannot be true.
    #[error("group {group:?}: the extents of disk {disk} of machine {machine} cannot be true", group = group.as_str())]
    Extents {
        /// The group.
        group: GroupName,
        /// The machine.
        machine: MachineId,
        /// The disk.
        disk: DiskId,
        /// What is wrong with them.
        source: TransportError,
    },
    /// A disk is smaller than it was at the last point.
    #[error(
        "group {group:?}: disk {disk} of machine {machine} has {now_bytes} bytes, but had {before_bytes} at the last recovery point",
        group = group.as_str()
    )]
    DiskShrank {
        /// The group.
        group: GroupName,
        /// The machine.
        machine: MachineId,
        /// The disk.
        disk: DiskId,
        /// Its size at the last point.
        before_bytes: u64,
        /// Its size now.
        now_bytes: u64,
    },
    /// The group has a machine that its site does not.
    #[error("group {group:?}: site {site:?} has no machine {machine}", group = group.as_str(), site = site.as_str())]
    MachineMissing {
        /// The group.
        group: GroupName,
        /// The site.
        site: SiteName,
        /// The machine.
        machine: MachineId,
    },
    /// A machine is off, and nobody knows what it is.
    #[error(
        "group {group:?}: machine {machine} is off, site {site:?} knows no more of it, and no recovery point describes it",
        group = group.as_str(), site = site.as_str()
    )]
    MachineUndescribed {
        /// The group.
        group: GroupName,
        /// The site.
        site: SiteName,
        /// The machine.
        machine: MachineId,
    },
    /// The platform does not reach a machine.
    #[error("group {group:?}: site {site:?} does not reach machine {machine}", group = group.as_str(), site = site.as_str())]
    MachineUnreached {
        /// The group.
        group: GroupName,
        /// The site.
        site: SiteName,
        /// The machine.
        machine: MachineId,
    },
    /// A machine failed, and is suspended: the next cycle goes without it.
    #[error("group {group:?}: machine {machine} is suspended, and the others go on without it", group = group.as_str())]
    Suspending {
        /// The group.
        group: GroupName,
        /// The machine.
        machine: MachineId,
        /// How it failed.
        source: Box<Self>,
    },
    /// The vault failed.
    #[error("group {group:?}: {doing} failed", group = group.as_str())]
    Vault {
        /// The group.
        group: GroupName,
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: VaultError,
    },
    /// The group's active side is another site: it was failed over.
    #[error(
        "group {group:?} was failed over: site {active:?} is its active side since generation {generation}, so site {site:?} may not commit recovery points",
        group = group.as_str(), active = active.as_str(), site = site.as_str()
    )]
    Fenced {
        /// The group.
        group: GroupName,
        /// This side.
        site: SiteName,
        /// The side that may.
        active: SiteName,
        /// Since when.
        generation: Generation,
    },
    /// The local journal of captures cannot be used.
    #[error("the journal {} cannot be {doing}", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// What was being done to it.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another process replicates the group.
    #[error("group {group:?} is being replicated by another process, which holds {}", path.display(), group = group.as_str())]
    Busy {
        /// The group.
        group: GroupName,
        /// The lock file.
        path: PathBuf,
    },
    /// The platform made the point, and did not bring the guests to rest first.
    #[error("group {group:?}: the point is crash-consistent only{}{note}", if note.is_empty() { "" } else { ": " }, group = group.as_str())]
    NotAtRest {
        /// The group.
        group: GroupName,
        /// What the platform says; may be empty.
        note: String,
    },
    /// The vault has not said in time on what the next point builds.
    #[error("group {group:?}: the vault did not answer in {} s", waited.as_secs(), group = group.as_str())]
    VaultSilent {
        /// The group.
        group: GroupName,
        /// For how long it was waited for.
        waited: Duration,
    },
    /// The vault could not be reached when a group of this host asked it last.
    #[error("the vault could not be reached when it was asked last: {why}")]
    VaultLost {
        /// The group whose point waits for it.
        group: GroupName,
        /// The code of what was found.
        code: Code,
        /// What was found, with its causes.
        why: String,
    },
    /// The point was made, and waits at this host until the vault can be reached.
    #[error(
        "group {group:?}: {points} recovery point{} ({bytes} bytes) wait{} at this host for the vault{}",
        if *points == 1 { "" } else { "s" }, if *points == 1 { "s" } else { "" },
        if *is_catching_up { ", which answers, and come into it one after the other" } else { "" }, group = group.as_str()
    )]
    Waiting {
        /// The group.
        group: GroupName,
        /// How many wait, with this one.
        points: usize,
        /// Bytes of them.
        bytes: u64,
        /// The vault answers, and the others come into it with the next cycle, which may begin at once.
        is_catching_up: bool,
        /// Why it is not in the vault; none if only those before it had to come first.
        source: Option<Box<Self>>,
    },
    /// Nothing was to be captured, and no point of the group waits at this host any more.
    #[error("group {group:?}: no point waits at this host", group = group.as_str())]
    NothingWaits {
        /// The group.
        group: GroupName,
    },
    /// A disk cannot be part of a point that waits.
    #[error(
        "group {group:?}: disk {disk} of machine {machine} cannot wait at this host, but needs the vault: {reason}",
        group = group.as_str()
    )]
    NeedsVault {
        /// The group.
        group: GroupName,
        /// The machine.
        machine: MachineId,
        /// The disk.
        disk: DiskId,
        /// Why.
        reason: String,
    },
    /// The spool, where points wait, failed.
    #[error("group {group:?}: {doing} failed", group = group.as_str())]
    Spool {
        /// The group.
        group: GroupName,
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: SpoolError,
    },
    /// The operator asked to stop.
    #[error("group {group:?}: stopped on request; the capture was released", group = group.as_str())]
    Stopped {
        /// The group.
        group: GroupName,
    },
}

impl ReplicationError {
    /// The vault could not be asked, or not in time: another way, or a later try, is all that can help. A commit that can be read and may be
    /// gone after a power failure is none: it was answered.
    pub fn is_unanswered(&self) -> bool {
        match self {
            Self::VaultSilent { .. } => true,
            Self::Vault { source, .. } => matches!(source, VaultError::Store { .. }) && !source.is_not_durable(),
            _ => false,
        }
    }

    /// The machine with which it failed, if it was with one.
    pub(crate) const fn machine(&self) -> Option<&MachineId> {
        match self {
            Self::Read { machine, .. }
            | Self::Extents { machine, .. }
            | Self::DiskShrank { machine, .. }
            | Self::NeedsVault { machine, .. }
            | Self::Site { machine: Some(machine), .. } => Some(machine),
            _ => None,
        }
    }

    /// The source failed, or a machine of it.
    pub(crate) const fn is_of_the_source(&self) -> bool {
        matches!(
            self,
            Self::Site { .. }
                | Self::MachineMissing { .. }
                | Self::MachineUndescribed { .. }
                | Self::MachineUnreached { .. }
                | Self::Suspending { .. }
        )
    }

    /// The spool cannot be used, though the vault may be.
    pub(crate) const fn is_of_a_sick_spool(&self) -> bool {
        matches!(self, Self::Spool { source: SpoolError::File { .. } | SpoolError::OtherVersion { .. }, .. })
    }

    /// No later try can succeed before somebody changes something.
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Fenced { .. } | Self::DiskShrank { .. } | Self::Stopped { .. } => true,
            Self::Site { source, .. } => matches!(source, SiteError::Settings { .. } | SiteError::Unsupported { .. }),
            Self::Vault { source, .. } => matches!(source, VaultError::Fenced { .. }),
            _ => false,
        }
    }
}

impl Coded for ReplicationError {
    fn code(&self) -> Code {
        match self {
            Self::Site { source, .. } => source.code(),
            Self::Vault { source, .. } => source.code(),
            Self::Read { source, .. } => source.code(),
            Self::Extents { .. } => Code::new(4001),
            Self::DiskShrank { .. } => Code::new(4002),
            Self::MachineMissing { .. } => Code::new(4003),
            Self::Fenced { .. } => Code::new(4004),
            Self::Journal { .. } => Code::new(4005),
            Self::Busy { .. } => Code::new(4006),
            Self::Stopped { .. } => Code::new(4007),
            Self::NotAtRest { .. } => Code::new(4008),
            Self::Waiting { .. } => Code::new(4009),
            Self::VaultSilent { .. } => Code::new(4010),
            Self::VaultLost { code, .. } => *code,
            Self::NeedsVault { .. } => Code::new(4011),
            Self::Spool { source, .. } => source.code(),
            Self::MachineUndescribed { .. } => Code::new(4012),
            Self::MachineUnreached { .. } => Code::new(4013),
            Self::Suspending { source, .. } => source.code(),
            Self::NothingWaits { .. } => Code::new(4014),
        }
    }

    fn advice(&self) -> Option<String> {
        match self {
            Self::Site { source, .. } => source.advice(),
            Self::Vault { source, .. } => source.advice(),
            Self::Read { source, .. } => source.advice(),
            Self::Spool { source, .. } => source.advice(),
            Self::Waiting { source: Some(source), .. } | Self::Suspending { source, .. } => source.advice(),
            Self::MachineUndescribed { .. } => {
                Some("start the machine once, so that it can be captured with what it is".to_owned())
            }
            Self::MachineMissing { site, .. } => {
                Some(format!("farshore machine discover --site {site} lists the machines that are there"))
            }
            _ => None,
        }
    }
}

/// An error with its causes, in a line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
