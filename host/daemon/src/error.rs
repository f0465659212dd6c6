//! What can go wrong at the edge: the command line, the configuration, the terminal.

use std::path::PathBuf;

use farshore_core::{Code, Coded, Sequence, SlotId};

use crate::config::{
    problem::{LocatedProblem, closest},
    secret::SecretError,
};

farshore_core::code_pages! {
    /// FS60xx: the command line and the configuration.
    6001 "The configuration cannot be read",
    6002 "The configuration has mistakes",
    6003 "The command line is not understood",
    6004 "The configuration has no such name",
    6005 "A secret cannot be had",
    6006 "Nobody is there to type the passphrase",
    6007 "Something destructive was not confirmed",
    6008 "The output exists already",
    6009 "The output cannot be written",
    6010 "There is no such error code",
    6011 "The command was interrupted",
    6012 "A folder of this host cannot be used",
    6014 "The group has no recovery site",
    6015 "A check found damage",
    6016 "It ended with errors",
    6017 "The operating system refused what every command needs",
    6018 "Nothing here opens the vault",
    6019 "The recovery kit was not confirmed",
    6020 "The group has no retention",
    6030 "The bucket does not lock what a locked vault stores",
    6031 "The locks of what a group needs run out",
    6032 "The vault is not locked",
    6033 "The lock would hold less than before",
    6034 "The store has no bucket policy",
    6035 "Something that recovery points need is lost",
    6036 "Some groups are not as they should be",
    6037 "The daemon cannot be used",
    6038 "The daemon replicates already",
    6039 "A change of the configuration takes a restart",
    6040 "The recovery point has no capsule",
    6041 "Parts of a capsule are damaged",
    6042 "The daemon cannot listen at its TCP address",
    6043 "The token of the API is missing or wrong",
}

/// A failure of the edge itself. What the crates below report keeps its own type and code.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The file is not there, or access is denied.
    #[error("the configuration {file} cannot be read", file = file.display())]
    ConfigurationUnreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file has mistakes.
    #[error("the configuration {file} has {errors} mistake{s}", file = file.display(), s = if *errors == 1 { "" } else { "s" })]
    ConfigurationWrong {
        /// The file.
        file: PathBuf,
        /// How many of the problems are errors.
        errors: usize,
        /// All of them, in the file's order.
        problems: Vec<LocatedProblem>,
    },
    /// clap did not understand the arguments.
    #[error("{message}")]
    Usage {
        /// What was not understood.
        message: String,
        /// What to do.
        advice: Option<String>,
    },
    /// The operator named something that the configuration does not have.
    #[error("the configuration has no {kind} {name:?}")]
    Unknown {
        /// `group` or `site`.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// What to do.
        advice: String,
    },
    /// A secret's place holds none.
    #[error("{what} cannot be had")]
    Secret {
        /// Which secret.
        what: String,
        /// Why.
        source: SecretError,
    },
    /// No file, no variable, no terminal.
    #[error("the passphrase is needed, and nobody is there to type it")]
    NobodyToAsk,
    /// Two typings of a new passphrase differ, or it is empty.
    #[error("the passphrase cannot be used: {why}")]
    PassphraseUnusable {
        /// Why.
        why: &'static str,
    },
    /// The operator did not say yes.
    #[error("{what} was not confirmed")]
    NotConfirmed {
        /// What would have been done.
        what: String,
    },
    /// The file that should be written is there.
    #[error("{path} exists already", path = path.display())]
    OutputExists {
        /// The file.
        path: PathBuf,
    },
    /// A kit should take the place of itself.
    #[error("{path} is the recovery kit that the vault was opened with", path = path.display())]
    KitInUse {
        /// The kit's file.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("{path} cannot be written", path = path.display())]
    OutputFailed {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// `explain` was asked for a code that no crate has.
    #[error("there is no error code {text:?}")]
    NoSuchCode {
        /// What was asked for.
        text: String,
    },
    /// `run show` was asked for a run that cannot be told.
    #[error("there is no run {text:?}: {why}")]
    NoSuchRun {
        /// What was asked for.
        text: String,
        /// Why.
        why: &'static str,
    },
    /// A slot that the vault does not have.
    #[error("the vault has no slot {slot}")]
    NoSuchSlot {
        /// What was asked for.
        slot: SlotId,
    },
    /// `replicate --watch` without groups.
    #[error("there are no groups to replicate")]
    NothingToWatch,
    /// SIGINT or SIGTERM.
    #[error("interrupted by {signal}; {left}")]
    Interrupted {
        /// The signal's name.
        signal: Signal,
        /// In what state things were left.
        left: &'static str,
    },
    /// A folder that the host needs cannot be made or read.
    #[error("the {what} {path} cannot be used", path = path.display())]
    Folder {
        /// Which folder.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A drill or failover of a group that is only protected.
    #[error("group {group:?} has no recovery site")]
    NoRecoverySite {
        /// The group.
        group: String,
    },
    /// A prune of a group whose points all stand.
    #[error("group {group:?} has no retention: all its recovery points stand")]
    NoRetention {
        /// The group.
        group: String,
    },
    /// A point that carries nothing beside its disks.
    #[error("point {point} of group {group:?} carries nothing beside its disks")]
    NoCapsule {
        /// The group.
        group: String,
        /// The point.
        point: Sequence,
    },
    /// Not all of a capsule could be written.
    #[error("these items of the capsule are damaged, and the others were written: {items}")]
    CapsuleDamaged {
        /// Their names.
        items: String,
    },
    /// No group has a retention.
    #[error("no group has a retention: all recovery points stand")]
    NothingToPrune,
    /// Neither a credential nor a kit.
    #[error("this host has not joined the vault, and no recovery kit is named")]
    NothingOpens,
    /// A kit has to be written or read, and nobody said where.
    #[error("nobody said where the recovery kit is")]
    NoKitNamed,
    /// The words of the kit were not typed back.
    #[error("nothing was made: the recovery kit was not confirmed ({why})")]
    KitNotConfirmed {
        /// Why.
        why: &'static str,
    },
    /// Threads could not be started.
    #[error("the threads that do the work could not be started")]
    Runtime {
        /// What the system said.
        source: std::io::Error,
    },
    /// A check ran to its end and found something.
    #[error("the check found {count} damaged thing{s}", s = if *count == 1 { "" } else { "s" })]
    Damage {
        /// How many.
        count: usize,
    },
    /// The standing proof found something lost.
    #[error(
        "{count} object{s} of the vault {are} lost or damaged; recovery points that are hurt: {points}",
        s = if *count == 1 { "" } else { "s" },
        are = if *count == 1 { "is" } else { "are" }
    )]
    Lost {
        /// How many things.
        count: usize,
        /// How many points.
        points: usize,
    },
    /// Groups are late or have no point.
    #[error("{count} group{s} {are} not as {they} should be: {groups}", s = if *count == 1 { "" } else { "s" }, are = if *count == 1 { "is" } else { "are" }, they = if *count == 1 { "it" } else { "they" })]
    Unwell {
        /// How many.
        count: usize,
        /// Their names.
        groups: String,
    },
    /// A daemon may run here, and does not answer as it should.
    #[error("the daemon at {socket} cannot be asked: {why}", socket = socket.display())]
    Daemon {
        /// Where it listens.
        socket: PathBuf,
        /// Why.
        why: String,
    },
    /// The daemon was asked for what it does not have.
    #[error("the daemon does not replicate group {group:?}")]
    NotServed {
        /// The group.
        group: String,
    },
    /// The daemon does not begin what it was asked for.
    #[error("the daemon begins no cycle of group {group:?}: {why}")]
    NotBegun {
        /// The group.
        group: String,
        /// Why.
        why: &'static str,
    },
    /// The daemon cannot do what it was asked for now.
    #[error("the daemon cannot do that now: {why}")]
    NotDone {
        /// Why.
        why: String,
    },
    /// There is no daemon to ask.
    #[error("no daemon runs here: nobody listens at {socket}", socket = socket.display())]
    NoDaemon {
        /// Where it would listen.
        socket: PathBuf,
    },
    /// A file of authorities cannot be read.
    #[error("the certificates in {path} cannot be read", path = path.display())]
    CertificatesUnreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The daemon cannot listen at its TCP address.
    #[error("nobody can listen as [host.listen] says: {why}")]
    ListenUnusable {
        /// Why.
        why: String,
    },
    /// Somebody has not the token.
    #[error("the token is missing or wrong")]
    Unauthorised,
    /// A daemon has the state folder.
    #[error("a daemon replicates on this host already: it has {path}", path = path.display())]
    DaemonRuns {
        /// Its lock file.
        path: PathBuf,
    },
    /// Keys that a running daemon does not change.
    #[error("these keys are changed by a restart only: {keys}")]
    NeedsRestart {
        /// The keys.
        keys: String,
    },
    /// Something ran to its end, but not all of it went well.
    #[error("{what}")]
    EndedWithErrors {
        /// What ended, and how.
        what: String,
    },
}

/// A signal that ends a command in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// From the keyboard.
    Interrupt,
    /// From another program.
    Terminate,
}

impl std::fmt::Display for Signal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

impl CliError {
    /// The error for a name that the configuration does not have.
    pub fn unknown<'a>(kind: &'static str, name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.collect();
        let advice = match closest(name, known.iter().copied()) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None if known.is_empty() => format!("it has no {kind}s at all"),
            None => format!("it has \"{}\"", known.join("\", \"")),
        };
        Self::Unknown { kind, name: name.to_owned(), advice }
    }
}

impl Coded for CliError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::ConfigurationUnreadable { .. } => 6001,
            Self::ConfigurationWrong { .. } => 6002,
            Self::Usage { .. } => 6003,
            Self::Unknown { .. } | Self::NoSuchRun { .. } | Self::NoSuchSlot { .. } | Self::NothingToWatch => 6004,
            Self::Secret { .. } | Self::PassphraseUnusable { .. } => 6005,
            Self::NobodyToAsk => 6006,
            Self::NotConfirmed { .. } => 6007,
            Self::OutputExists { .. } | Self::KitInUse { .. } => 6008,
            Self::OutputFailed { .. } => 6009,
            Self::NoSuchCode { .. } => 6010,
            Self::Interrupted { .. } => 6011,
            Self::Folder { .. } | Self::CertificatesUnreadable { .. } => 6012,
            Self::NoRecoverySite { .. } => 6014,
            Self::Damage { .. } => 6015,
            Self::EndedWithErrors { .. } => 6016,
            Self::Runtime { .. } => 6017,
            Self::NothingOpens | Self::NoKitNamed => 6018,
            Self::KitNotConfirmed { .. } => 6019,
            Self::NoRetention { .. } | Self::NothingToPrune => 6020,
            Self::Lost { .. } => 6035,
            Self::Unwell { .. } => 6036,
            Self::ListenUnusable { .. } => 6042,
            Self::Unauthorised => 6043,
            Self::Daemon { .. }
            | Self::NotServed { .. }
            | Self::NotBegun { .. }
            | Self::NotDone { .. }
            | Self::NoDaemon { .. } => 6037,
            Self::DaemonRuns { .. } => 6038,
            Self::NeedsRestart { .. } => 6039,
            Self::NoCapsule { .. } => 6040,
            Self::CapsuleDamaged { .. } => 6041,
        })
    }

    fn advice(&self) -> Option<String> {
        let text = match self {
            Self::ConfigurationUnreadable { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                "name another with --config FILE or FARSHORE_CONFIG; examples/config/minimal.toml is a start"
            }
            Self::Usage { advice, .. } => return advice.clone(),
            Self::Unknown { advice, .. } => return Some(advice.clone()),
            Self::NoSuchRun { .. } => "`farshore run list` shows the runs",
            Self::NoSuchSlot { .. } => "`farshore vault slots list` shows the slots",
            Self::NothingToWatch => "add `[groups.NAME]` to the configuration",
            Self::NobodyToAsk => "set `passphrase-file` or `passphrase-env` in [vault], or run this in a terminal",
            Self::NotConfirmed { .. } => "say --yes when you mean it",
            Self::NothingOpens => {
                "run `farshore vault join accept FILE` with a join file for this host, or name the kit with `kit-file` in \
                 [vault] or with --kit"
            }
            Self::NoKitNamed => "name it with --kit FILE, or with `kit-file` in [vault]",
            Self::KitNotConfirmed { .. } => {
                "run it again, and type the words from the sheet; --yes goes on without asking for them"
            }
            Self::OutputExists { .. } => "name another, or remove it first: nothing is overwritten",
            Self::KitInUse { .. } => "name a new file: a kit cannot take its own place",
            Self::NoSuchCode { .. } => "a code looks like FS1002; `farshore explain` without a code lists them all",
            Self::NoRetention { .. } | Self::NothingToPrune => {
                "add `[groups.NAME.retention]` with `all = \"24h\"`, and how many of `hourly`, `daily`, `weekly`, `monthly` and \
                 `yearly` stand"
            }
            Self::NoCapsule { .. } => {
                "choose another with --point; `farshore --json points` shows the machines of every point"
            }
            Self::CapsuleDamaged { .. } => {
                "`farshore vault check --full` says which points have them whole; choose one with --point"
            }
            Self::NotServed { .. } => {
                "`farshore status` shows the groups that it replicates; a group of the file needs its site in `sites` of [host]"
            }
            Self::NoDaemon { .. } => "start it: `farshore serve`, or `systemctl start farshore`",
            Self::DaemonRuns { .. } => {
                "`farshore status --watch` shows what it does; `farshore replicate GROUP` asks it for a cycle"
            }
            Self::NeedsRestart { .. } => "restart the daemon: it goes on with what it has until then",
            Self::NoRecoverySite { .. } => "add `recovery-site = \"...\"` to the group",
            _ => return None,
        };
        Some(text.to_owned())
    }
}
