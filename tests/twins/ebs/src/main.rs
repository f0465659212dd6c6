//! Serves a twin of EC2, EBS direct and Service Quotas on loopback until it is ended.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use clap::Parser;
use farshore_twin_ebs::{Faults, Key, Options, Policy, Principal, Twin};

/// A strict twin of EC2, EBS direct and Service Quotas, for tests and for authors of adapters. The access key `TWIN` with the secret
/// `twin-secret` may do everything.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where it keeps what there is. Instances have sockets in it, so that its path is short.
    #[arg(long)]
    folder: PathBuf,
    /// The port of loopback for EC2 and Service Quotas; one that is free if it is left out.
    #[arg(long, default_value_t = 0)]
    ec2_port: u16,
    /// The port of loopback for EBS direct; one that is free if it is left out.
    #[arg(long, default_value_t = 0)]
    ebs_port: u16,
    /// The region that calls must be signed for.
    #[arg(long, default_value = "eu-west-1")]
    region: String,
    /// Another access key: ID, SECRET and the file of its IAM policy, with commas between them.
    #[arg(long, value_name = "ID,SECRET,FILE")]
    principal: Vec<String>,
    /// Run instances in QEMU, by software emulation. Without it they only say that they run.
    #[arg(long)]
    runs: bool,
    /// How long snapshots are pending.
    #[arg(long, default_value_t = 200, value_name = "MILLISECONDS")]
    settle: u64,
    /// How long tokens of blocks are good for.
    #[arg(long, default_value_t = 604_800, value_name = "SECONDS")]
    block_token_life: u64,
    /// How long tokens of pages are good for.
    #[arg(long, default_value_t = 3_600, value_name = "SECONDS")]
    page_token_life: u64,
    /// How long there is between two snapshots of a volume.
    #[arg(long, default_value_t = 15, value_name = "SECONDS")]
    snapshot_interval: u64,
    /// How long at most what was made is not seen by those who look.
    #[arg(long, default_value_t = 0, value_name = "MILLISECONDS")]
    unseen: u64,
    /// Of a thousand calls, how many are throttled.
    #[arg(long, default_value_t = 0)]
    throttled: u64,
    /// Of a thousand calls, how many fail.
    #[arg(long, default_value_t = 0)]
    failing: u64,
    /// Of a thousand calls, how many are done without their answer arriving.
    #[arg(long, default_value_t = 0)]
    lost: u64,
    /// Of a thousand pages, how many have fewer things than there is room for.
    #[arg(long, default_value_t = 0)]
    short_pages: u64,
    /// Of a thousand blocks that were not changed, how many are listed as changed.
    #[arg(long, default_value_t = 0)]
    over_reported: u64,
    /// Where the dice begin.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut options = Options::new(arguments.folder);
    for principal in &arguments.principal {
        let [id, secret, file] = principal.split(',').collect::<Vec<_>>()[..] else {
            anyhow::bail!("`{principal}` is not ID,SECRET,FILE");
        };
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
        let policy = Policy::parse(&text).with_context(|| format!("the policy {file}"))?;
        let key = Key { secret: secret.to_owned(), token: None, expires_at: None };
        options.principals.insert(id.to_owned(), Principal { key, policy });
    }
    let options = Options {
        zone: format!("{}a", arguments.region),
        region: arguments.region,
        runs: arguments.runs,
        settle: Duration::from_millis(arguments.settle),
        block_token_life: Duration::from_secs(arguments.block_token_life),
        page_token_life: Duration::from_secs(arguments.page_token_life),
        snapshot_interval: Duration::from_secs(arguments.snapshot_interval),
        pending_max: 100,
        faults: Faults {
            seed: arguments.seed,
            throttled: arguments.throttled,
            failing: arguments.failing,
            lost: arguments.lost,
            short_pages: arguments.short_pages,
            over_reported: arguments.over_reported,
            unseen: Duration::from_millis(arguments.unseen),
        },
        ..options
    };
    let twin = Twin::start(options, [arguments.ec2_port, arguments.ebs_port])?;
    println!("EC2 at {}, EBS direct at {}", twin.ec2_url(), twin.ebs_url());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut ended = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            _ = ended.recv() => {}
            interrupted = tokio::signal::ctrl_c() => interrupted?,
        }
        Ok(())
    })
}
