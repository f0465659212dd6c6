//! The command line's words.

mod vault;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use farshore_core::{DiskId, GroupName, MachineId, PointLabel, SiteName};

pub use self::vault::*;

const EXIT_STATUSES: &str = "\
Exit statuses:
  0    it did what it was asked to do
  1    it failed
  2    the command line or the configuration is wrong; nothing was done
  3    it ran to its end, but a check found damage, or not all of it went well
  130  SIGINT ended it in order (143: SIGTERM)

Results go to standard output, everything else to standard error. With --json the result is one JSON document (one a
line for what streams), and an error is one JSON object on standard error: code, message, causes, advice.";

/// Keeps machines recoverable: replicates them, encrypted, into a vault, and brings them back somewhere else.
#[derive(Debug, Parser)]
#[command(name = "farshore", version, after_help = EXIT_STATUSES, propagate_version = true, infer_long_args = false)]
pub struct Arguments {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// What holds for every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The configuration.
    #[arg(
        long,
        global = true,
        env = "FARSHORE_CONFIG",
        value_name = "FILE",
        default_value = "/etc/farshore/farshore.toml"
    )]
    pub config: PathBuf,
    /// Write results and errors as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Tell more of what happens, on standard error. FARSHORE_LOG takes a filter such as `farshore_vault=trace`.
    #[arg(long, short, global = true)]
    pub verbose: bool,
    /// No colours, also on a terminal. NO_COLOR does the same.
    #[arg(long, global = true)]
    pub no_color: bool,
    /// The vault's recovery kit, instead of `kit-file` of the configuration.
    #[arg(long, global = true, value_name = "FILE")]
    pub kit: Option<PathBuf>,
    /// Do not ask before what cannot be undone.
    #[arg(long, short, global = true)]
    pub yes: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make, describe and check the vault.
    #[command(subcommand)]
    Vault(VaultCommand),
    /// Look at the machines of the sites.
    #[command(subcommand)]
    Machine(MachineCommand),
    /// Run the daemon: keep every group at its objective, until a signal comes.
    ///
    /// It takes the configuration's file again when that changes, or with SIGHUP, and refuses a bad one whole. SIGTERM lets cycles that
    /// run end within `drain-limit`. It prints events; --json writes each as a JSON object.
    Serve,
    /// Show how every group stands against its objective.
    ///
    /// The daemon of this host says so, or if none runs the vault. The status is 3 if a group is late or has no point.
    Status(StatusArguments),
    /// Show what happened: what the daemon of this host remembers, the newest last.
    Events(EventsArguments),
    /// Replicate groups into the vault. A daemon that runs is asked to do it.
    Replicate(ReplicateArguments),
    /// Make recovery points.
    #[command(subcommand)]
    Point(PointCommand),
    /// List the recovery points. Their numbers are those of the group's commits, which also count its first and each failover.
    Points(PointsArguments),
    /// Write the disks of a recovery point to files.
    Restore(RestoreArguments),
    /// Look at what a recovery point carries beside its disks: the configuration, and the components that can restore it.
    #[command(subcommand)]
    Capsule(CapsuleCommand),
    /// On a machine that has nothing but this program: list a vault's recovery points, and write disks to files.
    ///
    /// It needs the recovery kit and the passphrase, and no configuration. Without a group it lists all points; with one, that
    /// group's; with --to it restores disks, with --capsule what the point carries beside them. Secrets of the store come from its usual environment variables.
    Rescue(RescueArguments),
    /// Test a failover: start a group at its recovery site, isolated, and clean up again. The source is not touched.
    Drill(DrillArguments),
    /// Bring a group up at its recovery site, for real.
    #[command(subcommand)]
    Failover(FailoverCommand),
    /// Look at what drills and failovers did.
    #[command(subcommand)]
    Run(RunCommand),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Explain an error code; without one, list them all.
    Explain {
        /// Such as FS1003.
        code: Option<String>,
    },
    /// See all of it work, in about two minutes, with a tiny guest of its own.
    Demo(DemoArguments),
}

/// `machine`.
#[derive(Debug, Subcommand)]
pub enum MachineCommand {
    /// List the machines that the sites have.
    Discover {
        /// Only this site.
        #[arg(long)]
        site: Option<SiteName>,
    },
}

/// `replicate`.
#[derive(Debug, Args)]
pub struct ReplicateArguments {
    /// The groups; all of them when none is named.
    #[arg(value_name = "GROUP")]
    pub groups: Vec<GroupName>,
    /// One cycle of each group; this is what happens when --watch is not given.
    #[arg(long, conflicts_with = "watch")]
    pub once: bool,
    /// Go on, as often as each group's objective asks, until a signal comes.
    #[arg(long)]
    pub watch: bool,
}

/// `status`.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Show it anew every two seconds, until a signal comes.
    #[arg(long)]
    pub watch: bool,
    /// Show too how old newest points became within this time: 99 of 100 (P99), and the oldest. The daemon of this host remembers it.
    #[arg(long, value_name = "TIME", value_parser = crate::config::parse_duration)]
    pub achieved: Option<Duration>,
}

/// `events`.
#[derive(Debug, Args)]
pub struct EventsArguments {
    /// Only about this group.
    #[arg(value_name = "GROUP")]
    pub group: Option<GroupName>,
    /// Only as severe as this, or more.
    #[arg(long, value_enum, value_name = "SEVERITY")]
    pub severity: Option<EventSeverity>,
    /// Only of this name, such as `objective-missed`.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// At most so many, from the newest.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    /// Go on with those that come, until a signal does.
    #[arg(long, short)]
    pub follow: bool,
}

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EventSeverity {
    /// Good to know.
    Info,
    /// Somebody should look when there is time.
    Warning,
    /// Somebody must look.
    Error,
}

/// `point`.
#[derive(Debug, Subcommand)]
pub enum PointCommand {
    /// Make a recovery point of a group now.
    ///
    /// A daemon that runs begins it before all other cycles. Retention thins it like every other point.
    Create(PointCreateArguments),
}

/// `point create`.
#[derive(Debug, Args)]
pub struct PointCreateArguments {
    /// The group.
    #[arg(value_name = "GROUP")]
    pub group: GroupName,
    /// What it is called: `farshore points` shows it.
    #[arg(long, value_name = "TEXT")]
    pub label: Option<PointLabel>,
    /// Bring the guests' file systems to rest first, whatever the configuration says. It fails if a guest does not come to rest.
    #[arg(long)]
    pub application: bool,
}

/// `points`.
#[derive(Debug, Args)]
pub struct PointsArguments {
    /// Only this group. It need not be in the configuration.
    #[arg(value_name = "GROUP")]
    pub group: Option<GroupName>,
    /// At most so many points of each group, from the newest.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

/// Which recovery point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointChoice {
    /// The newest.
    Newest,
    /// The one with this number.
    Number(u64),
}

fn point_choice(text: &str) -> Result<PointChoice, String> {
    match text {
        "newest" => Ok(PointChoice::Newest),
        _ => match text.parse() {
            Ok(number) if number > 0 => Ok(PointChoice::Number(number)),
            _ => Err("a point is `newest` or a number that `farshore points` shows".to_owned()),
        },
    }
}

/// `restore`.
#[derive(Debug, Args)]
pub struct RestoreArguments {
    /// The group. It need not be in the configuration.
    pub group: GroupName,
    /// `newest` or a number.
    #[arg(long, default_value = "newest", value_parser = point_choice, value_name = "N")]
    pub point: PointChoice,
    /// Only this machine.
    #[arg(long)]
    pub machine: Option<MachineId>,
    /// Only this disk; --machine says whose.
    #[arg(long, requires = "machine")]
    pub disk: Option<DiskId>,
    /// The new file for one disk; the folder for several, or when it is a folder already: each disk becomes
    /// MACHINE.DISK.raw in it. Nothing is overwritten.
    #[arg(long, value_name = "PATH")]
    pub to: PathBuf,
}

/// `capsule`.
#[derive(Debug, Subcommand)]
pub enum CapsuleCommand {
    /// List the items of a point's capsule.
    List {
        /// The group. It need not be in the configuration.
        group: GroupName,
        /// `newest` or a number.
        #[arg(long, default_value = "newest", value_parser = point_choice, value_name = "N")]
        point: PointChoice,
    },
    /// Write the items of a point's capsule to files, with `capsule.json`, which has the machines' specs too. It needs the power of
    /// a recoverer, or the kit and the passphrase.
    Extract {
        /// The group. It need not be in the configuration.
        group: GroupName,
        /// `newest` or a number.
        #[arg(long, default_value = "newest", value_parser = point_choice, value_name = "N")]
        point: PointChoice,
        /// The new folder. Nothing is overwritten.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
}

/// `rescue`.
#[derive(Debug, Args)]
pub struct RescueArguments {
    /// The group.
    pub group: Option<GroupName>,
    /// Where the vault is: `file:/folder`, `s3://bucket/prefix`, `az://...`, `gs://...`; otherwise where the kit says it was.
    #[arg(long, value_name = "URL")]
    pub vault: Option<String>,
    /// What the store needs to know beside its address, as in `region=eu-west-1`; it may be given several times. No secrets.
    #[arg(long, value_name = "NAME=VALUE", value_parser = store_option)]
    pub option: Vec<(String, String)>,
    /// A file whose first line is the passphrase; otherwise it is asked for.
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// `newest` or a number.
    #[arg(long, default_value = "newest", value_parser = point_choice, value_name = "N")]
    pub point: PointChoice,
    /// Only this machine.
    #[arg(long, requires = "to")]
    pub machine: Option<MachineId>,
    /// Only this disk; --machine says whose.
    #[arg(long, requires = "machine")]
    pub disk: Option<DiskId>,
    /// Restore to this new file, or into this folder: each disk becomes MACHINE.DISK.raw in it. Nothing is overwritten.
    #[arg(long, value_name = "PATH", requires = "group")]
    pub to: Option<PathBuf>,
    /// Write what the point carries beside its disks to this new folder: the configuration, components, the machines' specs.
    #[arg(long, value_name = "DIR", requires = "group", conflicts_with = "to")]
    pub capsule: Option<PathBuf>,
}

fn store_option(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, such as region=eu-west-1")?;
    if crate::config::problem::is_secret_key(name) {
        return Err(format!(
            "{name} is a secret: give it in the store's environment variable, not on the command line"
        ));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// `drill`.
#[derive(Debug, Args)]
pub struct DrillArguments {
    /// The group.
    pub group: GroupName,
    /// `newest` or a number.
    #[arg(long, default_value = "newest", value_parser = point_choice, value_name = "N")]
    pub point: PointChoice,
    /// Only this machine; it may be given several times.
    #[arg(long)]
    pub machine: Vec<MachineId>,
    /// How far each machine must come.
    #[command(flatten)]
    pub readiness: ReadinessArguments,
}

/// How far a recovered machine must come.
#[derive(Debug, Clone, Copy, Args)]
pub struct ReadinessArguments {
    /// `ready`: the guest itself has answered (for QEMU: its guest agent). `running`: its processor runs.
    #[arg(long, value_enum, default_value_t = Until::Ready, value_name = "STATE")]
    pub until: Until,
    /// How long that may take.
    #[arg(long, default_value = "10m", value_parser = crate::config::parse_duration, value_name = "TIME")]
    pub until_limit: Duration,
}

/// A state of a recovered machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Until {
    /// It runs.
    Running,
    /// The guest itself has answered.
    Ready,
}

/// `failover`.
#[derive(Debug, Subcommand)]
pub enum FailoverCommand {
    /// The source is lost, or must be given up: boot from the last committed point. The loss is stated before it starts.
    Unplanned(UnplannedArguments),
}

/// `failover unplanned`.
#[derive(Debug, Args)]
pub struct UnplannedArguments {
    /// The group.
    pub group: GroupName,
    /// `newest` or a number.
    #[arg(long, default_value = "newest", value_parser = point_choice, value_name = "N")]
    pub point: PointChoice,
    /// Only this machine; it may be given several times.
    #[arg(long)]
    pub machine: Vec<MachineId>,
    /// How far each machine must come.
    #[command(flatten)]
    pub readiness: ReadinessArguments,
    /// Remove what an earlier failover of the group started, and start it again from the point. What happened there since is
    /// lost.
    #[arg(long)]
    pub discard_recovered: bool,
    /// Who says that the source is down, when the platform cannot prove it. Recorded in the run.
    #[arg(long, value_name = "WHO SAYS SO")]
    pub source_is_down: Option<String>,
}

/// `run`.
#[derive(Debug, Subcommand)]
pub enum RunCommand {
    /// List the runs, newest first.
    List {
        /// At most so many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Show a run with all its steps.
    Show {
        /// Its id; a beginning that only one run has is enough.
        run: String,
    },
}

/// `config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Find every mistake, and show what the configuration allows. It contacts neither a platform nor a vault.
    Check,
    /// Have the daemon take the file as it is now, and show what differs. It does so by itself within seconds; this waits, and shows why if
    /// it refuses.
    Reload,
}

/// `demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Write the result as JSON to this file too.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// The folder for everything that it writes; a new one below the system's folder for temporary files otherwise.
    #[arg(long, value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
}
