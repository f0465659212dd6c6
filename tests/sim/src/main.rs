//! `farshore-sim`: runs the worlds of many seeds, and ends with exit status 1 when one of them broke a promise.

use std::{num::NonZeroUsize, process::ExitCode, sync::Mutex, time::Duration};

use clap::{Parser, builder::PossibleValuesParser};
use farshore_core::{Clock, SystemClock};
use farshore_sim::{
    faults::{FaultPlan, PLAN_NAMES},
    many,
    run::Settings,
    world::Totals,
};

/// How often the progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Runs worlds in which hosts, stores and clocks fail, and says which promises of the vault were broken.
#[derive(Debug, Parser)]
#[command(name = "farshore-sim")]
struct Arguments {
    /// How many worlds.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// The seed of the first.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many worlds at a time; one for each processor, if it is not said.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// This plan of faults for all of them, instead of the one that each seed draws.
    #[arg(long, value_parser = plan_names())]
    plan: Option<String>,
    /// With --plan: how many of a thousand operations are hurt.
    #[arg(long, default_value_t = 100, requires = "plan", value_parser = clap::value_parser!(u32).range(0..=300))]
    permille: u32,
    /// Print the last lines of the traces of the worlds that failed, or of the only one.
    #[arg(long)]
    trace: bool,
}

fn plan_names() -> PossibleValuesParser {
    PLAN_NAMES.into()
}

fn summary(totals: &Totals, took: Duration) -> String {
    let Totals {
        worlds,
        operations,
        faults,
        crashes,
        stalls,
        points,
        refusals,
        raises,
        prunes,
        deletions,
        pins,
        entries,
        restores,
    } = totals;
    let rate = *worlds as f64 / took.as_secs_f64().max(0.001);
    format!(
        "{worlds} seeds, {rate:.1} a second; {points} points acknowledged and {refusals} refused, {raises} raises, {prunes} \
         prunes, {deletions} deletions, {pins} pins, {entries} \
         journal entries, {restores} restores; {operations} operations with {faults} faults, {crashes} crashes, {stalls} stalls"
    )
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let threads = arguments.threads.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    let plan = arguments.plan.as_deref().map(|name| (FaultPlan::named(name, 0).name, arguments.permille));
    let settings = Settings { plan, ..Settings::default() };
    let clock = SystemClock;
    let began = clock.monotonic();
    let told = Mutex::new(began);
    let progress = |totals: &Totals| {
        let now = clock.monotonic();
        let Ok(mut told) = told.lock() else { return };
        if now.saturating_sub(*told) >= PROGRESS_EVERY {
            *told = now;
            eprintln!("{}", summary(totals, now.saturating_sub(began)));
        }
    };
    let (totals, failed) = many::seeds(arguments.from, arguments.seeds, threads, &settings, &progress);
    println!("{}", summary(&totals, clock.monotonic().saturating_sub(began)));
    for outcome in &failed {
        if arguments.trace {
            outcome.last_lines.iter().for_each(|line| println!("{line}"));
        }
        println!("{}", outcome.report());
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
