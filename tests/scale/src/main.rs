//! `farshore-scale`: measures what a vault costs in the long run, and prints it.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use farshore_scale::{commits, requests, schedule, size, thinning};
use farshore_vault::{Grace, Retention};

/// The allocator of `farshore`, whose memory is measured.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures what a vault costs in the long run.
#[derive(Debug, Parser)]
#[command(name = "farshore-scale")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Days of random writes of 64 KiB, with points that are thinned daily: stored bytes for those that points need.
    Thinning(ThinningArguments),
    /// A lineage of very many commits: what opening it, finding its newest, listing and restoring take.
    Commits(CommitsArguments),
    /// The requests of idle and of changing cycles and of daily prunes, and what they cost in a month.
    Requests(RequestsArguments),
    /// Very many groups on one schedule, in simulated time: how late cycles begin, and what deciding costs.
    Schedule(ScheduleArguments),
    /// Points of a very large disk: how much memory copying, checking, pruning and restoring take.
    Size(SizeArguments),
}

#[derive(Debug, Args)]
struct ScheduleArguments {
    /// Groups, of a machine each.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    groups: u32,
    /// Sites that they are spread over.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    sites: u32,
    /// Their objective in seconds.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    rpo: u64,
    /// How long a cycle takes on average, in milliseconds.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    length: u64,
    /// Cycles at once; half as many again as are needed on average if it is left out.
    #[arg(long)]
    concurrent_cycles: Option<u32>,
    /// For so many simulated minutes.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Decides how long each cycle takes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Args)]
struct SizeArguments {
    /// The disk's size in GiB. Its vault is made in the system's folder for temporary files, and takes about 1 MiB for each GiB,
    /// and 0.1 MiB more for each of its points.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    gibibytes: u64,
    /// How many points there are in the end.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=999))]
    points: u32,
}

#[derive(Debug, Args)]
struct CommitsArguments {
    /// Commits of the lineage. A thousand take about a mebibyte of memory.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    commits: u64,
    /// Prune it before it is measured.
    #[arg(long)]
    pruned: bool,
}

#[derive(Debug, Args)]
struct RequestsArguments {
    /// How many cycles of each kind make a day.
    #[arg(long, default_value_t = 240, value_parser = clap::value_parser!(u64).range(2..=28_800))]
    cycles: u64,
    /// How many chunks of 64 KiB a cycle that is not idle finds changed.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=61))]
    written: u64,
    /// Dollars for a thousand PUTs or LISTs.
    #[arg(long, default_value_t = 0.005)]
    put_price: f64,
    /// Dollars for a thousand GETs or HEADs.
    #[arg(long, default_value_t = 0.0004)]
    get_price: f64,
    /// Objectives in seconds.
    #[arg(long, value_delimiter = ',', default_values_t = [3, 15, 300])]
    objectives: Vec<u64>,
    /// Print what the last cycle of each kind asked for.
    #[arg(long)]
    log: bool,
}

#[derive(Debug, Args)]
struct ThinningArguments {
    /// The disk's size in MiB. About four times as much memory is needed.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=16_384))]
    mebibytes: u64,
    /// For how many days.
    #[arg(long, default_value_t = 30)]
    days: u64,
    /// Cycles of a day.
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    cycles: u64,
    /// How many random chunks of 64 KiB are written between two cycles.
    #[arg(long, default_value_t = 4)]
    written: u64,
    /// All points of so many hours stand.
    #[arg(long, default_value_t = 24)]
    all_hours: u64,
    /// The newest point of each of so many hours stands.
    #[arg(long, default_value_t = 48)]
    hourly: u32,
    /// The newest point of each of so many days stands.
    #[arg(long, default_value_t = 30)]
    daily: u32,
    /// How many days condemned objects wait.
    #[arg(long, default_value_t = 3)]
    grace_days: u64,
    /// Decides which chunks are written.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print every day, and not only the last.
    #[arg(long)]
    each_day: bool,
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
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
    match &arguments.verb {
        Verb::Thinning(arguments) => runtime.block_on(thin(arguments)),
        Verb::Commits(arguments) => runtime.block_on(measure_commits(arguments)),
        Verb::Requests(arguments) => runtime.block_on(count(arguments)),
        Verb::Schedule(arguments) => give_turns(arguments),
        Verb::Size(arguments) => runtime.block_on(measure_size(arguments)),
    }
}

async fn thin(arguments: &ThinningArguments) -> Result<()> {
    let settings = thinning::Settings {
        chunks: arguments.mebibytes * 16,
        days: arguments.days,
        cycles: arguments.cycles,
        written: arguments.written,
        retention: Retention {
            all_seconds: arguments.all_hours * 3_600,
            hourly: arguments.hourly,
            daily: arguments.daily,
            ..Retention::default()
        },
        grace: Grace { seconds: arguments.grace_days * 86_400, commits: 8 },
        seed: arguments.seed,
    };
    let days = thinning::run(settings, |day| {
        if arguments.each_day || day.day == arguments.days {
            println!("{day}");
        }
    })
    .await?;
    let worst = days.iter().map(thinning::Day::ratio).fold(0.0, f64::max);
    println!("the most on any day: {worst:.3}");
    Ok(())
}

async fn measure_commits(arguments: &CommitsArguments) -> Result<()> {
    let settings = commits::Settings { commits: arguments.commits, is_pruned: arguments.pruned };
    let steps = commits::measure(settings).await?;
    println!("{}", commits::HEADING);
    steps.iter().for_each(|step| println!("{step}"));
    Ok(())
}

fn give_turns(arguments: &ScheduleArguments) -> Result<()> {
    let needed = u64::from(arguments.groups) * arguments.length / (arguments.rpo * 1_000);
    let concurrent_cycles = arguments.concurrent_cycles.map_or((needed * 3 / 2).max(4), u64::from);
    let plan = schedule::Plan {
        groups: arguments.groups as usize,
        sites: arguments.sites as usize,
        rpo: Duration::from_secs(arguments.rpo),
        length: Duration::from_millis(arguments.length),
        concurrent_cycles: usize::try_from(concurrent_cycles)?,
        span: Duration::from_secs(arguments.minutes * 60),
        seed: arguments.seed,
    };
    let outcome = schedule::measure(plan)?;
    println!(
        "{} groups, {concurrent_cycles} cycles at once, {} cycles in {} min",
        plan.groups, outcome.cycles, arguments.minutes
    );
    for (what, sorted) in [("waited for their turn", &outcome.waits), ("age before a commit", &outcome.ages)] {
        let at = |per_mille| schedule::Outcome::per_mille(sorted, per_mille).as_secs_f64();
        println!("{what}: p50 {:.3} s, p99 {:.3} s, most {:.3} s", at(500), at(990), at(1_000));
    }
    let share = outcome.deciding.as_secs_f64() / (plan.span + Duration::from_secs(60)).as_secs_f64();
    println!("deciding took {:.2} s: {:.2} % of one processor", outcome.deciding.as_secs_f64(), share * 100.0);
    Ok(())
}

async fn measure_size(arguments: &SizeArguments) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = size::Settings { gibibytes: arguments.gibibytes, points: arguments.points };
    let measured = size::measure(settings, folder.path()).await?;
    println!("{}", size::HEADING);
    measured.steps.iter().for_each(|step| println!("{step}"));
    let mebibytes = |bytes: u64| bytes as f64 / 1_048_576.0;
    println!(
        "the vault: {:.0} MiB, the index: {:.0} MiB",
        mebibytes(measured.vault_bytes),
        mebibytes(measured.index_bytes)
    );
    Ok(())
}

async fn count(arguments: &RequestsArguments) -> Result<()> {
    let settings = requests::Settings { cycles: arguments.cycles, written: arguments.written };
    let measured = requests::measure(settings).await?;
    if arguments.log {
        for (name, log) in [("idle", &measured.idle.log), ("changing", &measured.changing.log)] {
            println!("{name}:");
            log.iter().for_each(|line| println!("  {line}"));
        }
    }
    let prices = requests::Prices { puts: arguments.put_price, gets: arguments.get_price };
    let objectives: Vec<Duration> = arguments.objectives.iter().map(|seconds| Duration::from_secs(*seconds)).collect();
    print!("{}", requests::table(settings, &measured, prices, &objectives));
    Ok(())
}
