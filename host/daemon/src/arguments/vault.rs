//! The words of `farshore vault`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use farshore_core::{GroupName, HostName, RunId, SlotId};
use farshore_vault::{CheckDepth, Grace, LockMode, Power, SampleSize};

use super::store_option;

/// `vault`.
#[derive(Debug, Subcommand)]
pub enum VaultCommand {
    /// Make a vault at the address of the configuration, and its recovery kit. Nothing is overwritten.
    Create(CreateArguments),
    /// Say what the vault holds and what it takes up.
    Info,
    /// Look for what is missing, cut short or altered, and say which points, machines and extents that hurts.
    ///
    /// What it proves is kept beside each point, as `farshore points` shows, if it can be written and this host could have
    /// proven it. Nothing else is changed.
    Check(CheckArguments),
    /// See that everything that points need is there, read a part of it, and keep with each point that it was proven.
    ///
    /// Once, it looks at everything now. With --watch it goes on until a signal comes, and within each period of `--every` it
    /// sees every object, a twenty-fourth at a time, and what is new at once. What is lost is logged as an error with all points
    /// that it hurts. A recoverer also reads data; a controller or pruner sees only whether it is there.
    Prove(ProveArguments),
    /// Say what is lost, and copy back from a copy of the vault what is missing and right there. It never deletes or overwrites.
    ///
    /// It prints a plan, and does nothing before it is told --execute (or --yes). A copy is a mirror of the bucket or folder, or
    /// what it was before. What is missing is copied back, also a group of which nothing is left. Packs and collections that
    /// are damaged are replaced: what recovery points need of them is moved from the copy to another place, which takes the power of a
    /// pruner, or the kit and the passphrase. Nothing is overwritten or deleted: a commit, a ledger, a boundary or a ring that is
    /// damaged stays as it is until its owner moves it aside in the store.
    Repair(RepairArguments),
    /// Give up points as the groups' retention says, and delete what no point needs any more.
    ///
    /// What is given up waits for its grace before it is deleted; until then a change of the rules brings it back. It needs the
    /// power of a pruner, or the kit and the passphrase.
    Prune(PruneArguments),
    /// Look at the claims that drills and failovers have laid to points.
    #[command(subcommand)]
    Pin(PinCommand),
    /// Lock what the vault holds against deletion, by whomever, for a span of time. Only in S3.
    #[command(subcommand)]
    Lock(LockCommand),
    /// Show objects again that somebody with the store's credentials has hidden, in a bucket that keeps versions.
    ///
    /// What is locked cannot be destroyed, but a delete marker or a newer version above it hides it. Delete markers are removed,
    /// newer versions if asked for, and never an object. It needs no kit, and credentials that may list versions and delete
    /// them, which no host should have.
    Unhide(UnhideArguments),
    /// Make the metadata of a vault at an address of its own, from what lies at the address of its data.
    ///
    /// For a vault whose metadata was lost, and for one that had one address until now. Name the new, empty address with `address` in
    /// [vault], and the one at which the vault is in [vault.data]; stop every host first, and give all the new configuration afterwards. It
    /// needs no kit. What was proven and the journals of runs lie with the metadata only: what was lost of them stays lost. Its credential
    /// writes what hosts write otherwise, so give the new bucket the policy of `vault policy` afterwards. If both addresses are there, and one has
    /// lost what it says of itself, only that is written again.
    MakeMetadata(MakeMetadataArguments),
    /// Print the bucket policy with which S3 itself lets each host do what its powers need, and nothing else.
    ///
    /// Nothing is contacted. Give the policy to the bucket, and a credential of its own to each host. Print it anew when the vault
    /// was locked.
    Policy(PolicyArguments),
    /// Let other hosts in, each with the powers that it needs.
    #[command(subcommand)]
    Join(JoinCommand),
    /// Print the recovery kit, type it in again, see whether it opens the vault.
    #[command(subcommand)]
    Kit(KitCommand),
    /// Give several people a recovery kit and a passphrase of their own. It needs a kit and its passphrase.
    #[command(subcommand)]
    Slots(SlotsCommand),
    /// Change the passphrase, the recovery kit, or the keys of what is stored from now on. It needs a kit and its passphrase.
    #[command(subcommand)]
    Rotate(RotateCommand),
}

/// `vault slots`.
#[derive(Debug, Subcommand)]
pub enum SlotsCommand {
    /// List the slots: each is opened by a recovery kit and a passphrase.
    List,
    /// Make another recovery kit, with a passphrase of its own and every power over the vault.
    ///
    /// A command that was interrupted is finished by running it again with the same file.
    Add {
        /// The new kit's file.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        /// Whose it is, for people.
        #[arg(long, value_name = "TEXT", default_value = "")]
        label: String,
        /// A file whose first line is the new kit's passphrase; otherwise it is asked for.
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
    },
    /// Take a slot out: its kit does not open the vault any more.
    ///
    /// Against somebody who opened the vault with it before, begin a new epoch too: `farshore vault rotate epoch`.
    Remove {
        /// The slot, as `slots list` and its kit show it.
        slot: SlotId,
    },
}

/// `vault rotate`.
#[derive(Debug, Subcommand)]
pub enum RotateCommand {
    /// Change the passphrase of the kit that the configuration or --kit names. The words of its sheet stay; its file is written
    /// anew.
    ///
    /// A command that was interrupted is finished by running it again with the same file.
    Passphrase {
        /// The kit's new file.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        /// A file whose first line is the new passphrase; otherwise it is asked for.
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Replace the kit that the configuration or --kit names by one with other words. The passphrase stays.
    ///
    /// A command that was interrupted is finished by running it again with the same file.
    Kit {
        /// The new kit's file.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Begin a new epoch: what is stored from now on is sealed to new keys, which today's kits and hosts get.
    ///
    /// Do this after a host was revoked or a kit was lost: whoever has them opens nothing that comes later. What was stored
    /// before stays open to them.
    Epoch {
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

/// `vault create`.
#[derive(Debug, Args)]
pub struct CreateArguments {
    /// What this host is called in the vault.
    #[arg(long, value_name = "NAME", default_value = "first")]
    pub host: HostName,
    /// What this host may do without the kit and the passphrase, from now on.
    #[arg(long, value_name = "POWERS", value_delimiter = ',', value_parser = power, default_value = "replicator,controller")]
    pub powers: Vec<Power>,
}

/// `vault check`.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// `structure` follows all references and sees that each object is there with its length; it reads no data. `sample` also
    /// reads and opens a random part of all data. `full` reads and opens all of it. The last two need the power of a
    /// recoverer, or the kit and the passphrase.
    #[arg(long, value_enum, default_value_t = Depth::Structure, value_name = "DEPTH")]
    pub depth: Depth,
    /// How much a sample reads: a share such as `2%`, or about so many bytes, such as `10GiB`.
    #[arg(long, default_value = "1%", value_parser = sample_size, value_name = "HOW MUCH")]
    pub sample: SampleSize,
    /// The same as `--depth full`.
    #[arg(long, conflicts_with = "depth")]
    pub full: bool,
}

impl CheckArguments {
    /// What they mean together.
    pub fn depth(&self) -> CheckDepth {
        match self.depth {
            _ if self.full => CheckDepth::Full,
            Depth::Structure => CheckDepth::Structure,
            Depth::Sample => CheckDepth::Sample(self.sample),
            Depth::Full => CheckDepth::Full,
        }
    }
}

/// `vault prove`.
#[derive(Debug, Args)]
pub struct ProveArguments {
    /// Go on until a signal comes.
    #[arg(long)]
    pub watch: bool,
    /// Within which time everything is seen.
    #[arg(long, default_value = "24h", value_parser = crate::config::parse_duration, value_name = "TIME")]
    pub every: Duration,
    /// How much is read within that time: a share of all data such as `2%`, or about so many bytes. Each part has the same
    /// chance.
    #[arg(long, default_value = "1GiB", value_parser = sample_size, value_name = "HOW MUCH")]
    pub sample: SampleSize,
}

/// `vault repair`.
#[derive(Debug, Args)]
pub struct RepairArguments {
    /// Where a copy of the vault is: `file:/folder`, `s3://bucket/prefix`, `az://...`, `gs://...`.
    #[arg(long, value_name = "URL")]
    pub from: Option<String>,
    /// What the copy's store needs to know beside its address, as in `region=eu-west-1`; it may be given several times. No
    /// secrets: these come from the store's usual environment variables.
    #[arg(long, value_name = "NAME=VALUE", value_parser = store_option, requires = "from")]
    pub option: Vec<(String, String)>,
    /// How far to look for damage: `full` reads and opens all data first, which takes the power to read it.
    #[arg(long, value_enum, value_name = "DEPTH", default_value = "structure")]
    pub depth: RepairDepth,
    /// Do what the plan says.
    #[arg(long)]
    pub execute: bool,
}

/// `vault make-metadata`.
#[derive(Debug, Args)]
pub struct MakeMetadataArguments {
    /// Do it. No host may write to the vault meanwhile, nor go on later with the configuration that it has now.
    #[arg(long)]
    pub execute: bool,
}

/// How much a repair looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RepairDepth {
    /// What leads to the data.
    Structure,
    /// And all of the data.
    Full,
}

/// How much a check looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Depth {
    /// What leads to the data.
    Structure,
    /// And a part of the data.
    Sample,
    /// And all of it.
    Full,
}

/// `2%`, `0.01%` or `10GiB`.
fn sample_size(text: &str) -> Result<SampleSize, String> {
    let Some(share) = text.strip_suffix('%') else {
        let expected = |error| format!("{error}, nor a share such as \"2%\"");
        return crate::config::parse_bytes(text).map(SampleSize::Bytes).map_err(expected);
    };
    let unreadable = || format!("{text:?} is not a share between 0.0000001% and 100%");
    let (whole, rest) = share.trim_end().split_once('.').unwrap_or((share.trim_end(), ""));
    let digits = |text: &str| text.chars().all(|digit| digit.is_ascii_digit());
    if whole.is_empty() || whole.len() > 3 || rest.len() > 7 || !digits(whole) || !digits(rest) {
        return Err(unreadable());
    }
    let billionths: u64 = format!("{whole}{rest:0<7}").parse().map_err(|_| unreadable())?;
    match u32::try_from(billionths) {
        Ok(billionths @ 1..=1_000_000_000) => Ok(SampleSize::Billionths(billionths)),
        _ => Err(unreadable()),
    }
}

/// `vault prune`.
#[derive(Debug, Args)]
pub struct PruneArguments {
    /// Only these groups; otherwise all that have a retention.
    pub groups: Vec<GroupName>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// How long what is given up waits before it is deleted: so long by this host's clock and by the store's, and for at least
    /// eight commits of its group. `none` deletes with the next prune.
    #[arg(long, default_value = "72h", value_parser = grace, value_name = "TIME")]
    pub grace: Grace,
}

fn grace(text: &str) -> Result<Grace, String> {
    if text == "none" {
        return Ok(Grace { seconds: 0, commits: 0 });
    }
    crate::config::parse_duration(text).map(|time| Grace { seconds: time.as_secs(), ..Grace::default() })
}

/// `vault lock`.
#[derive(Debug, Subcommand)]
pub enum LockCommand {
    /// Say that what is stored is locked, and for how long. It needs the kit and the passphrase.
    ///
    /// The bucket must have versioning and object lock enabled, with a default retention of at least this span and mode: it is
    /// asked, and refused if it has not. Of a vault with two addresses both must.
    Set(LockSetArguments),
    /// Say whether the vault is locked, and until when what each group's points need is.
    Show,
    /// Extend the locks of everything that standing points need. Run it daily.
    ///
    /// It needs the power of a pruner, or the kit and the passphrase. Interrupted, it goes on where it stopped when it is run
    /// again. While locks are about to end no new points are made.
    Extend(LockExtendArguments),
}

/// `vault lock set`.
#[derive(Debug, Args)]
pub struct LockSetArguments {
    /// For how long an object cannot be deleted after it was stored or its lock was last extended: at least 1d.
    #[arg(long, value_parser = span, value_name = "TIME")]
    pub span: Duration,
    /// `compliance`: nobody can take a lock back, the owner of the account included. `governance`: who has the right to bypass it
    /// can.
    #[arg(long, value_parser = lock_mode)]
    pub mode: LockMode,
    /// A shorter span, or a weaker mode, than the vault has now. What is locked already stays locked as it is.
    #[arg(long)]
    pub weaken: bool,
}

/// `vault lock extend`.
#[derive(Debug, Args)]
pub struct LockExtendArguments {
    /// Only these groups; otherwise all that the vault has.
    #[arg(value_name = "GROUP")]
    pub groups: Vec<GroupName>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
}

fn lock_mode(text: &str) -> Result<LockMode, String> {
    text.parse()
}

/// As other lengths of time, and in whole days.
fn span(text: &str) -> Result<Duration, String> {
    const DAY_SECONDS: u64 = 86_400;
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok());
    match days.and_then(|days| days.checked_mul(DAY_SECONDS)) {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => {
            crate::config::parse_duration(text).map_err(|problem| format!("{problem}, or in days, such as \"14d\""))
        }
    }
}

/// `vault unhide`.
#[derive(Debug, Args)]
pub struct UnhideArguments {
    /// Say what is hidden, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Remove newer versions too. A host that wrote while objects were hidden may have made some of them: look at what --dry-run
    /// says first.
    #[arg(long)]
    pub newer_versions: bool,
}

/// `vault policy`.
#[derive(Debug, Args)]
pub struct PolicyArguments {
    /// The ARN of who adds recovery points; it may be given several times, as may the others.
    #[arg(long, value_name = "ARN")]
    pub replicator: Vec<String>,
    /// The ARN of who reads what disks hold.
    #[arg(long, value_name = "ARN")]
    pub recoverer: Vec<String>,
    /// The ARN of who makes runs, fences groups and pins points.
    #[arg(long, value_name = "ARN")]
    pub controller: Vec<String>,
    /// The ARN of who deletes what retention gives up, and makes locks longer.
    #[arg(long, value_name = "ARN")]
    pub pruner: Vec<String>,
    /// The ARN of who makes the vault and lets hosts in, with the kit and the passphrase.
    #[arg(long, value_name = "ARN")]
    pub administrator: Vec<String>,
    /// For a vault that is locked, or is about to be.
    #[arg(long)]
    pub locked: bool,
    /// For the bucket of the data, of a vault with two addresses; otherwise for that of its metadata. If both are in one bucket, the
    /// policy is for both in any case.
    #[arg(long)]
    pub data: bool,
}

/// `vault pin`.
#[derive(Debug, Subcommand)]
pub enum PinCommand {
    /// List the pins: what is pinned is not deleted. A pin whose run has ended is a mistake that keeps data.
    List,
    /// Give up the pins of a run that is over. A run that goes on would lose its point to the next prune.
    Release {
        /// The run, as `pin list` shows it.
        run: RunId,
    },
}

/// `vault join`.
#[derive(Debug, Subcommand)]
pub enum JoinCommand {
    /// Invite a host: write the file with which it can join once. It needs the kit and the passphrase.
    Create {
        /// What the host is called in the vault.
        host: HostName,
        /// What it may do: replicator (adds recovery points, reads nothing), recoverer (reads), controller (makes runs, fences
        /// groups, pins points), pruner (deletes what retention gives up, reads nothing).
        #[arg(long, value_name = "POWERS", value_delimiter = ',', value_parser = power, required = true)]
        powers: Vec<Power>,
        /// How long the file can be used.
        #[arg(long, default_value = "48h", value_parser = crate::config::parse_duration, value_name = "TIME")]
        expires: Duration,
        /// The new file.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Join the vault of the configuration with a join file, on the host that was invited.
    Accept {
        /// The join file.
        file: PathBuf,
    },
    /// Give a host that has joined the keys that its powers need. It needs the kit and the passphrase.
    Approve {
        /// The host.
        host: HostName,
    },
    /// Take the invitation of a host back that has not joined. It needs the kit and the passphrase.
    Withdraw {
        /// The host.
        host: HostName,
    },
    /// Shut a host out that has joined: what it stored stands, and it does nothing any more. It needs the kit and the passphrase.
    ///
    /// Stop Farshore on it first if you can, and take its access to the store away. If it could read, begin a new epoch too:
    /// `farshore vault rotate epoch`. A command that was interrupted is finished by running it again.
    Revoke {
        /// The host.
        host: HostName,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// List the hosts.
    List,
}

/// `vault kit`.
#[derive(Debug, Subcommand)]
pub enum KitCommand {
    /// Write the sheet that belongs on paper to standard output.
    Print,
    /// See that the kit and the passphrase open the vault.
    Check,
    /// Make the kit's file again from the words of its sheet, which are read from standard input.
    Type {
        /// The new file.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
}

fn power(text: &str) -> Result<Power, String> {
    text.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_a_share_or_an_amount() {
        for (text, size) in [
            ("2%", SampleSize::Billionths(20_000_000)),
            ("100 %", SampleSize::Billionths(1_000_000_000)),
            ("0.01%", SampleSize::Billionths(100_000)),
            ("0.0000001%", SampleSize::Billionths(1)),
            ("10GiB", SampleSize::Bytes(10 << 30)),
        ] {
            assert_eq!(sample_size(text), Ok(size), "{text}");
        }
        for text in ["0%", "%", "101%", "100.1%", "-1%", "1e2%", "0.00000001%", "2", "two percent", "", "0GiB"] {
            assert_eq!(sample_size(text).is_err(), text != "2", "{text}");
        }
    }
}
