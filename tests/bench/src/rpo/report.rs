//! The figures as tables of Markdown.

use std::fmt::Write as _;

use serde::Serialize;

use super::figures::{Figures, Latency, Percentiles, Ratio};

/// What is wanted at most of bytes read and stored for each byte that changed, counted in chunks of 64 KiB.
const AMPLIFICATION_MAX: f64 = 1.1;
/// How far the 99th percentile of the age may exceed the objective.
const AGE_BEYOND_MAX_MILLISECONDS: f64 = 2_000.0;

/// All that was measured, and of what.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// When it began.
    pub begun_at: String,
    /// What the guest wrote at once.
    pub write_bytes: u64,
    /// What it was to write in a second.
    pub rate_bytes_per_second: u64,
    /// The size of the disk that it wrote to.
    pub disk_mebibytes: u64,
    /// Whether each write was flushed.
    pub flushed: bool,
    /// For each objective.
    pub objectives: Vec<Figures>,
}

/// One objective in a sentence.
pub fn sentence(figures: &Figures) -> String {
    let Figures { rpo, cycles, age_milliseconds, holds, .. } = figures;
    let holds = if *holds { "holds" } else { "does not hold" };
    format!("objective {rpo}: age {} over {cycles} cycles: it {holds}", shown(age_milliseconds, 1e3, "s"))
}

/// All of it.
pub fn page(measured: &Measured) -> String {
    let Measured { write_bytes, rate_bytes_per_second, disk_mebibytes, flushed, objectives, .. } = measured;
    let flushed = if *flushed { "each flushed to the machine's disk" } else { "not flushed" };
    let mebibytes = *rate_bytes_per_second as f64 / f64::from(1 << 20);
    // Writing to a String does not fail, here and below.
    let mut text = format!(
        "A guest writes {} KiB at random places of a disk of {disk_mebibytes} MiB, {mebibytes} MiB/s, {flushed}.\n\n",
        write_bytes >> 10
    );
    text += "| objective | cycles (failed, untracked) | age before a commit: p50, p99, most | p99 within the objective | \
             p99 within 2 s more | lag p99 | cycle p50, p99 | held p99, most |\n\
             | ---: | ---: | ---: | --- | --- | ---: | ---: | ---: |\n";
    for figures in objectives {
        let Figures { rpo, cycles, failed, untracked, age_milliseconds: age, cycle_milliseconds: cycle, .. } = figures;
        let beyond = figures.objective_milliseconds as f64 + AGE_BEYOND_MAX_MILLISECONDS;
        let _ = writeln!(
            text,
            "| {rpo} | {cycles} ({failed}, {untracked}) | {} | {} | {} | {:.2} s | {:.2}, {:.2} s | {:.1}, {:.1} ms |",
            of_three(age, 1e3, 2, "s"),
            yes(figures.holds),
            yes(age.p99 <= beyond),
            figures.lag_milliseconds.p99 / 1e3,
            cycle.p50 / 1e3,
            cycle.p99 / 1e3,
            figures.held_microseconds.p99 / 1e3,
            figures.held_microseconds.max / 1e3,
        );
    }
    text += "\n| objective | written MiB | read by written | stored by written | read by changed | stored by changed | \
             by changed at most 1.1 | the vault's files grew by, MiB |\n\
             | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |\n";
    for figures in objectives {
        let Figures { rpo, read_by_written, read_by_changed, stored_by_written, stored_by_changed, .. } = figures;
        let most = read_by_changed.max(*stored_by_changed);
        let _ = writeln!(
            text,
            "| {rpo} | {:.0} | {read_by_written:.3} | {stored_by_written:.3} | {read_by_changed:.3} | \
             {stored_by_changed:.3} | {} | {:.0} |",
            figures.bytes_written as f64 / f64::from(1 << 20),
            yes(most <= AMPLIFICATION_MAX),
            figures.vault_bytes as f64 / f64::from(1 << 20),
        );
    }
    text += "\n| objective | | MiB/s reached | write latency: p50, p99, most | behind its pace at most | processors: QEMU, \
             farshore, others |\n| ---: | --- | ---: | ---: | ---: | ---: |\n";
    for figures in objectives {
        let rows = [("unprotected", &figures.unprotected), ("protected", &figures.protected)];
        for (name, latency) in rows {
            let Latency { microseconds, behind_microseconds_max, bytes_per_second, busy, .. } = latency;
            let _ = writeln!(
                text,
                "| {} | {name} | {:.2} | {} | {:.0} ms | {:.0} %, {:.0} %, {:.0} % |",
                figures.rpo,
                bytes_per_second / f64::from(1 << 20),
                of_three(microseconds, 1e3, 2, "ms"),
                *behind_microseconds_max as f64 / 1e3,
                busy.qemu * 100.0,
                busy.farshore * 100.0,
                busy.others * 100.0,
            );
        }
        let ratio = |ratio: Ratio| format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.min, ratio.max);
        let (p50, p99) = (ratio(figures.ratio_p50), ratio(figures.ratio_p99));
        let _ = writeln!(text, "| {} | ratio within a round | | p50 {p50}, p99 {p99} | | |", figures.rpo);
    }
    let best = objectives.iter().filter(|figures| figures.holds).min_by_key(|figures| figures.objective_milliseconds);
    let best = best.map_or_else(|| "none of them".to_owned(), |figures| figures.rpo.clone());
    let _ = writeln!(text, "\nThe best objective of these whose p99 is within it: {best}.\n");
    text
}

fn yes(met: bool) -> &'static str {
    if met { "yes" } else { "**no**" }
}

fn of_three(percentiles: &Percentiles, unit: f64, digits: usize, name: &str) -> String {
    let Percentiles { p50, p99, max } = percentiles;
    format!("{:.digits$}, {:.digits$}, {:.digits$} {name}", p50 / unit, p99 / unit, max / unit)
}

fn shown(percentiles: &Percentiles, unit: f64, name: &str) -> String {
    let Percentiles { p50, p99, max } = percentiles;
    format!("p50 {:.2} {name}, p99 {:.2} {name}, at most {:.2} {name}", p50 / unit, p99 / unit, max / unit)
}
