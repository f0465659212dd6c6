//! What it costs to move a disk of blocks through a component, beside a plain parallel copy of the same bytes by HTTP. Both talk to one twin
//! of EBS direct on loopback, in turn, in one run, so that the figures can be compared.
//!
//! The component is the adapter for EC2. Bytes never pass through it: it says what to ask for, and the host asks.

mod ours;
mod plain;

use std::{os::unix::fs::FileExt as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use farshore_core::{Clock as _, SystemClock};
use farshore_platform::CaptureOutcome;
use farshore_twin_ebs::{Options, Twin};
use ours::{Ours, Spent, Wanted, ensure_moved};
use plain::Plain;

const BLOCK_BYTES: u64 = 512 << 10;
const REGION: &str = "eu-west-1";
const KEY_ID: &str = "TWIN";
const SECRET: &str = "twin-secret";
/// Of so many blocks one is changed for a delta.
const CHANGED_EVERY: u64 = 100;
/// The least share of a plain copy's speed that is wanted.
const TARGET: f64 = 0.70;

/// Moves a disk through the adapter for EC2 and by plain HTTP, and compares.
#[derive(Debug, Parser)]
#[command(name = "farshore-blocks")]
struct Arguments {
    /// How much of the disk has content, in MiB. So much for each round, and four times as much, is needed below the folder for
    /// temporary files.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(64..=65_536))]
    mebibytes: u64,
    /// How often everything is measured.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// The component.
    #[arg(long, value_name = "FILE", default_value = "target/components/aws.wasm")]
    component: PathBuf,
}

/// What a block holds: bytes that do not compress, another in each.
fn content(index: u64) -> Bytes {
    let mut state = index.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let words = (0..BLOCK_BYTES / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let folder = tempfile::Builder::new().prefix("blocks").tempdir()?;
    let twin = Twin::start(Options { pending_max: 10_000, ..Options::new(folder.path().join("twin")) }, [0, 0])?;
    let (blocks, gibibytes) = (arguments.mebibytes * 2, arguments.mebibytes.div_ceil(1_024));
    let urls = [("ec2", twin.ec2_url()), ("ebs", twin.ebs_url())];
    let ours = Ours::open(&arguments.component, &folder.path().join("cache"), urls, gibibytes).await?;
    let plain = Plain::new(twin.ebs_url(), ours.blocks_in_flight());

    let (_, disk) = ours.write(blocks).await?;
    let machine = ours.start(disk).await?;
    let instance = machine.as_str().to_owned();
    let image = twin.seen().snapshots.first().cloned().context("the image's snapshot")?;
    let (_, mut token) = ours.read(&machine, None, Wanted::Everything, CaptureOutcome::Committed).await?;
    let volume = folder.path().join("twin").join(&instance).join("-dev-sda1.raw");
    let volume = std::fs::File::options().write(true).open(volume)?;

    let mut measured = Measured::default();
    for round in 0..u64::from(arguments.rounds) {
        // Each goes first as often as the other.
        for is_ours in [round % 2 == 0, round % 2 != 0] {
            if is_ours {
                let (spent, _) =
                    ours.read(&machine, Some(&token), Wanted::Everything, CaptureOutcome::Abandoned).await?;
                ensure_moved(&spent, blocks)?;
                measured.read.ours.push(spent);
                let (spent, _) = ours.write(blocks).await?;
                measured.write.ours.push(spent);
            } else {
                let mut both = [(false, &mut measured.read.plain), (true, &mut measured.checked)];
                both.rotate_left(usize::from(round % 2 != 0));
                for (is_checked, times) in both {
                    let begun = SystemClock.monotonic();
                    let bytes = plain.read(&image, is_checked).await?;
                    ensure!(bytes == blocks * BLOCK_BYTES, "a plain copy read {bytes} bytes");
                    times.push(SystemClock.monotonic() - begun);
                }
                let begun = SystemClock.monotonic();
                plain.write(gibibytes, blocks, &format!("plain-{round}")).await?;
                measured.write.plain.push(SystemClock.monotonic() - begun);
            }
        }
        // A given-up capture has not changed what changes are told from.
        let changed: Vec<u64> = (0..blocks / CHANGED_EVERY).map(|number| number * CHANGED_EVERY + round).collect();
        for index in &changed {
            volume.write_all_at(&content(index + blocks * (round + 1)), index * BLOCK_BYTES)?;
        }
        let (spent, next) = ours.read(&machine, Some(&token), Wanted::Changes, CaptureOutcome::Committed).await?;
        ensure_moved(&spent, changed.len() as u64)?;
        measured.deltas.push(spent);
        token = next;
        eprintln!("round {} of {}", round + 1, arguments.rounds);
    }
    measured.print(arguments.mebibytes, blocks);
    Ok(())
}

/// One direction, both ways.
#[derive(Default)]
struct Pair {
    ours: Vec<Spent>,
    plain: Vec<Duration>,
}

#[derive(Default)]
struct Measured {
    read: Pair,
    write: Pair,
    /// A plain read that hashes what it reads.
    checked: Vec<Duration>,
    deltas: Vec<Spent>,
}

fn median(durations: impl Iterator<Item = Duration>) -> Duration {
    let mut sorted: Vec<Duration> = durations.collect();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

impl Measured {
    fn print(&self, mebibytes: u64, blocks: u64) {
        println!("{mebibytes} MiB in {blocks} blocks; medians of {} rounds\n", self.deltas.len());
        println!(
            "| | seconds | of which calls of the component | moving bytes, MiB/s | plain, MiB/s | share of plain | without the calls | at least {TARGET} |"
        );
        println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |");
        for (name, pair) in [("read a captured disk", &self.read), ("write and seal a disk", &self.write)] {
            let seconds = |of: fn(&Spent) -> Duration| median(pair.ours.iter().map(of)).as_secs_f64();
            let (all, calls) = (seconds(|spent| spent.all), seconds(|spent| spent.calls));
            let moving = seconds(|spent| spent.all - spent.calls);
            let plain = median(pair.plain.iter().copied()).as_secs_f64();
            let share = plain / all;
            let verdict = if share >= TARGET { "met" } else { "**missed**" };
            let speed = |seconds: f64| mebibytes as f64 / seconds;
            println!(
                "| {name} | {all:.2} | {calls:.2} | {:.0} | {:.0} | {share:.2} | {:.2} | {verdict} |",
                speed(moving),
                speed(plain),
                plain / moving
            );
        }
        let checked = mebibytes as f64 / median(self.checked.iter().copied()).as_secs_f64();
        println!("\na plain read that also hashes each block: {checked:.0} MiB/s");
        let read: u64 = self.deltas.iter().map(|spent| spent.bytes / BLOCK_BYTES).max().unwrap_or_default();
        println!(
            "a delta of {} changed blocks of {blocks}: {read} were read, in {:.2} s, of which {:.2} s in calls of the component",
            blocks / CHANGED_EVERY,
            median(self.deltas.iter().map(|spent| spent.all)).as_secs_f64(),
            median(self.deltas.iter().map(|spent| spent.calls)).as_secs_f64()
        );
    }
}
