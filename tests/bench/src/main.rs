//! Farshore beside restic, borg and zstd: one disk, one run, in turn, so that the figures can be compared.
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
mod setting;
mod tools;

use std::{path::PathBuf, process::ExitCode, thread};

use anyhow::{Context as _, Result};
use clap::Parser;
use farshore_e2e::Stop;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

/// Measures Farshore beside restic, borg and zstd, on one disk image, in one run.
#[derive(Debug, Parser)]
#[command(name = "farshore-bench")]
struct Arguments {
    /// How often everything is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// The disk's size in MiB. Six times as much is needed below the folder for temporary files.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    mebibytes: u64,
    /// Decides the disk's content and what changes on it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The page that is written; what stands in it below the line for handwriting stays.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The commit that Farshore was built from, for the page.
    #[arg(long, value_name = "NAME")]
    commit: Option<String>,
    /// What it is measured on, for the page: processors, memory, system.
    #[arg(long, value_name = "TEXT", default_value = "not described")]
    machine: String,
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
    let setting = setting::Setting::find(arguments.commit.as_deref(), &arguments.machine)?;
    let disk_bytes = arguments.mebibytes << 20;
    let mut rounds = Vec::new();
    for round in 0..usize::from(arguments.rounds) {
        eprintln!("round {} of {}", round + 1, arguments.rounds);
        let settings = round::Settings { seed: arguments.seed, disk_bytes, round };
        rounds.push(round::run(settings, &stop)?);
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
