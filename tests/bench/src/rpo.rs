//! `cargo xtask bench rpo`: how old the newest point of a guest gets that writes all the time, and what protection costs it.
//!
//! A guest under software emulation has a second disk, on which a load writes at random places at a steady pace
//! (`bin/farshore-bench-writer.rs`). Rounds have two parts: one without Farshore, in which QEMU has no bitmap either, and one
//! in which `farshore serve` keeps the guest at an objective, so that latencies are compared within minutes of each other;
//! which comes first alternates. The protected part counts from the third cycle in a row on that read only what the bitmaps
//! told, and until a cycle that ends after its time, so that no age is left out because its cycle was late.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use farshore_core::{Clock as _, SystemClock};
use farshore_e2e::Stop;

mod busy;
mod figures;
mod records;
mod report;
mod scene;

use figures::Figures;
use scene::Scene;

/// An unprotected part need not be longer: it has some thousands of writes then.
const UNPROTECTED_MAX: Duration = Duration::from_secs(60);

/// Measures achieved RPO, the guest's write latency, and what is read and stored for what it writes.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// An objective as the configuration writes it. Say it again to try more; the best that holds is named.
    #[arg(long, value_name = "TIME", default_values_t = ["3s".to_owned()])]
    rpo: Vec<String>,
    /// How long the guest is protected for each objective, over all rounds. Each round has an unprotected part, too, of at
    /// most a minute.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Over how many rounds that is divided.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// What the guest writes at once, at a multiple of it.
    #[arg(long, value_name = "BYTES", default_value_t = 65_536, value_parser = clap::value_parser!(u64).range(4096..=1 << 20))]
    write_bytes: u64,
    /// What the guest writes in a second, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 2.0)]
    rate_mib: f64,
    /// The size of the disk that is written to, in MiB. Three times as much is needed below the folder for temporary files, and
    /// there what is stored, too: 130 MiB for each protected minute of 2 MiB/s in writes of 64 KiB, 1.9 GiB in writes of
    /// 4 KiB.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(64..=1 << 16))]
    mebibytes: u64,
    /// A write ends when QEMU has taken it, instead of when it is flushed to the machine's disk.
    #[arg(long)]
    unflushed: bool,
    /// The group's `stall-limit`.
    #[arg(long, value_name = "TIME", default_value = "500ms")]
    stall_limit: String,
    /// Decides what is written where.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The program `farshore-bench-writer`.
    #[arg(long, value_name = "FILE")]
    writer: PathBuf,
}

/// Measures, and prints a table and then JSON.
pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    ensure!(arguments.write_bytes.is_power_of_two(), "--write-bytes is no power of two");
    ensure!(arguments.minutes > 0.0 && arguments.minutes < 100_000.0, "--minutes makes no sense");
    ensure!(arguments.rate_mib > 0.0 && arguments.rate_mib < 10_000.0, "--rate-mib makes no sense");
    let part = Duration::from_secs_f64(arguments.minutes * 60.0 / f64::from(arguments.rounds));
    let begun = SystemClock.now();
    let mut scene = Scene::begin(arguments, stop)?;
    let mut all = Vec::new();
    for rpo in &arguments.rpo {
        scene.set_objective(rpo)?;
        let mut rounds = Vec::new();
        for number in 0..arguments.rounds {
            let unprotected_first = number % 2 == 0;
            eprintln!("objective {rpo}, round {} of {}", number + 1, arguments.rounds);
            let unprotected = |scene: &mut Scene| scene.unprotected(part.min(UNPROTECTED_MAX));
            rounds.push(if unprotected_first {
                let unprotected = unprotected(&mut scene)?;
                records::Round { unprotected, protected: scene.protected(part)? }
            } else {
                let protected = scene.protected(part)?;
                records::Round { unprotected: unprotected(&mut scene)?, protected }
            });
        }
        let figures = Figures::of(rpo, &rounds).with_context(|| format!("working out the figures of {rpo}"))?;
        eprintln!("{}", report::sentence(&figures));
        all.push(figures);
    }
    let measured = report::Measured {
        begun_at: begun.to_string(),
        write_bytes: arguments.write_bytes,
        rate_bytes_per_second: arguments.rate_bytes_per_second(),
        disk_mebibytes: arguments.mebibytes,
        flushed: !arguments.unflushed,
        objectives: all,
    };
    print!("{}", report::page(&measured));
    println!("{}", serde_json::to_string(&measured).context("writing the figures")?);
    Ok(())
}

impl Arguments {
    fn rate_bytes_per_second(&self) -> u64 {
        (self.rate_mib * f64::from(1 << 20)) as u64
    }
}
