//! Farshore beside restic, borg, rustic and kopia, and beside limits: one disk, one run, in turn, so that the figures can be
//! compared.
//!
//! It must not reach into the host's crates: it measures the `farshore` command line, as an operator has it. `cargo xtask
//! bench` installs what it needs, builds it and runs it; the module `report` says how it measures.
//!
//! It takes about six times the disk's size below the folder for temporary files. Whatever it starts ends with it, also
//! when it fails or is interrupted.

mod change;
mod dice;
mod image;
mod measure;
mod report;
mod round;
mod rpo;
mod setting;
mod spread;
mod targets;
mod tools;
mod workshop;

use std::{path::PathBuf, process::ExitCode, thread, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use farshore_core::{Clock as _, SystemClock};
use farshore_e2e::Stop;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

/// Measures Farshore beside restic, borg, rustic, kopia and limits, on one disk image, in one run.
#[derive(Debug, Parser)]
#[command(name = "farshore-bench", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// No further round is begun that would end later than this, if it takes as long as the longest so far.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
    /// The disk's size in MiB. Six times as much is needed below the folder for temporary files.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    mebibytes: u64,
    /// Decides the disk's content and what changes on it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The page that is written; what stands in it below the line for handwriting stays.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The program rustic. Without it rustic is not measured.
    #[arg(long, value_name = "FILE")]
    rustic: Option<PathBuf>,
    /// The program kopia. Without it kopia is not measured.
    #[arg(long, value_name = "FILE")]
    kopia: Option<PathBuf>,
    /// Why a tool is not measured, for the page: its name, a colon, the reason.
    #[arg(long, value_name = "TEXT")]
    absent: Vec<String>,
    /// The commit that Farshore was built from, for the page.
    #[arg(long, value_name = "NAME")]
    commit: Option<String>,
    /// What it is measured on, for the page: processors, memory, system.
    #[arg(long, value_name = "TEXT", default_value = "not described")]
    machine: String,
    /// What was typed to measure it, for the page.
    #[arg(long, value_name = "TEXT")]
    command: Option<String>,
}

/// Something else that is measured.
#[derive(Debug, Subcommand)]
enum Other {
    /// Measure achieved RPO, the guest's write latency, and what is read and stored for what it writes.
    Rpo(rpo::Arguments),
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let stop = Stop::default();
    listen_for_signals(&stop)?;
    if let Some(Other::Rpo(arguments)) = &arguments.other {
        return rpo::run(arguments, &stop);
    }
    let programs = tools::Programs { rustic: arguments.rustic.clone(), kopia: arguments.kopia.clone() };
    let setting = setting::Setting::find(arguments, &programs)?;
    let disk_bytes = arguments.mebibytes << 20;
    let (start, mut longest) = (SystemClock.monotonic(), Duration::ZERO);
    let mut rounds = Vec::new();
    for round in 0..usize::from(arguments.rounds) {
        let begun = SystemClock.monotonic();
        if begun.saturating_sub(start) + longest > Duration::from_secs(arguments.minutes * 60) {
            eprintln!("no further round: it would end after {} minutes", arguments.minutes);
            break;
        }
        eprintln!("round {} of at most {}", round + 1, arguments.rounds);
        let settings = round::Settings { seed: arguments.seed, disk_bytes, round, programs: programs.clone() };
        rounds.push(round::run(&settings, &stop)?);
        longest = longest.max(SystemClock.monotonic().saturating_sub(begun));
    }
    let page = report::page(&setting, disk_bytes, &rounds);
    print!("{page}");
    match &arguments.output {
        Some(path) => report::write(path, &page),
        None => Ok(()),
    }
}

/// Turns Ctrl-C and a polite request to end into the wish to stop, so that everything is ended and removed in good order.
fn listen_for_signals(stop: &Stop) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("listening for signals")?;
    let guard = runtime.enter();
    let listen = |kind| signal(kind).context("listening for signals");
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    drop(guard);
    let stop = stop.clone();
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        stop.request();
    });
    Ok(())
}
