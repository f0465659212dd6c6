//! From what was recorded to figures: ages, amplification, latencies of both parts.

use anyhow::{Context as _, Result, ensure};
use farshore_bench::latencies::Histogram;
use serde::Serialize;

use super::{
    busy::Busy,
    records::{Committed, Cycle, Part, Round},
};
use crate::spread::Spread;

/// What percentiles are told of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half are at most this.
    pub p50: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// All are.
    pub max: f64,
}

impl Percentiles {
    /// By nearest rank. None of none.
    pub fn of(values: impl IntoIterator<Item = u64>) -> Option<Self> {
        let mut values: Vec<u64> = values.into_iter().collect();
        values.sort_unstable();
        let rank = |percent: usize| (values.len() * percent).div_ceil(100).checked_sub(1);
        let at = |index: Option<usize>| values.get(index?).map(|value| *value as f64);
        Some(Self { p50: at(rank(50))?, p99: at(rank(99))?, max: *values.last()? as f64 })
    }
}

/// Latencies of one kind of part, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// How many writes there were.
    pub writes: u64,
    /// Of their latencies.
    #[serde(flatten)]
    pub microseconds: Percentiles,
    /// How far the load was behind its pace at most.
    pub behind_microseconds_max: u64,
    /// What the guest wrote in a second.
    pub bytes_per_second: f64,
    /// Who used the processors, by the parts' median.
    pub busy: Busy,
}

/// A ratio of protected to unprotected within each round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// Of the rounds.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

/// What was measured at an objective.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// The objective as it was given.
    pub rpo: String,
    /// In milliseconds.
    pub objective_milliseconds: u64,
    /// Protected time that counts.
    pub protected_seconds: f64,
    /// Rounds.
    pub rounds: usize,
    /// Cycles that made a point.
    pub cycles: usize,
    /// Cycles that failed.
    pub failed: usize,
    /// Cycles that read more than bitmaps told.
    pub untracked: usize,
    /// How old the newest point had become just before the next one, in milliseconds: what the objective bounds.
    pub age_milliseconds: Percentiles,
    /// Whether the 99th percentile of the age is within the objective.
    pub holds: bool,
    /// From the captured moment to the commit, in milliseconds.
    pub lag_milliseconds: Percentiles,
    /// From a cycle's begin to its end, in milliseconds.
    pub cycle_milliseconds: Percentiles,
    /// How long a cycle waited for its turn, in milliseconds.
    pub waited_milliseconds: Percentiles,
    /// How long the guest was held, in microseconds.
    pub held_microseconds: Percentiles,
    /// What the guest wrote between the first and the last captured moment of each part.
    pub bytes_written: u64,
    /// What the cycles between read.
    pub bytes_read: u64,
    /// What differed.
    pub bytes_changed: u64,
    /// What they stored.
    pub bytes_stored: u64,
    /// By how much the vault's files grew.
    pub vault_bytes: u64,
    /// Bytes read for each byte that the guest wrote.
    pub read_by_written: f64,
    /// Bytes read for each byte that differed.
    pub read_by_changed: f64,
    /// Bytes stored for each byte that the guest wrote.
    pub stored_by_written: f64,
    /// Bytes stored for each byte that differed.
    pub stored_by_changed: f64,
    /// Latencies without Farshore.
    pub unprotected: Latency,
    /// With it.
    pub protected: Latency,
    /// Of the median latencies.
    pub ratio_p50: Ratio,
    /// Of the 99th percentiles.
    pub ratio_p99: Ratio,
}

impl Figures {
    /// Of these rounds.
    pub fn of(rpo: &str, rounds: &[Round]) -> Result<Self> {
        let objective_milliseconds = milliseconds(rpo).with_context(|| format!("{rpo} is no length of time"))?;
        let counted: Vec<&Cycle> = rounds.iter().flat_map(|round| round.protected.cycles.iter().skip(1)).collect();
        let made: Vec<&Committed> = counted.iter().filter_map(|cycle| cycle.committed()).collect();
        ensure!(!made.is_empty(), "no cycle made a point");
        let told =
            |figure: fn(&Committed) -> u64| Percentiles::of(made.iter().map(|made| figure(made))).unwrap_or_default();
        let ages = made.iter().filter_map(|made| made.age_before_milliseconds);
        let age_milliseconds = Percentiles::of(ages).context("no cycle tells an age")?;
        let lengths = counted.iter().filter(|cycle| cycle.committed().is_some());
        let lengths = lengths.map(|cycle| cycle.ended_at.since(cycle.begun_at).as_millis());
        let sum = |figure: fn(&Committed) -> u64| made.iter().map(|made| figure(made)).sum::<u64>();
        let (read, changed) = (sum(|made| made.bytes_read), sum(|made| made.bytes_changed));
        let stored = sum(|made| made.bytes_stored);
        let written: f64 = rounds.iter().filter_map(|round| written(&round.protected)).sum();
        let by = |bytes: u64, other: f64| bytes as f64 / other.max(1.0);
        let parts = |part: fn(&Round) -> &Part| rounds.iter().map(part).collect::<Vec<_>>();
        let ratio = |percent: f64| ratio(rounds, percent).context("a part has no writes");
        Ok(Self {
            rpo: rpo.to_owned(),
            objective_milliseconds,
            protected_seconds: rounds.iter().map(|round| round.protected.length_seconds()).sum(),
            rounds: rounds.len(),
            cycles: made.len(),
            failed: counted.len() - made.len(),
            untracked: made.iter().filter(|made| made.basis != "tracked").count(),
            age_milliseconds,
            holds: age_milliseconds.p99 <= objective_milliseconds as f64,
            lag_milliseconds: told(|made| made.lag_milliseconds),
            cycle_milliseconds: Percentiles::of(lengths.map(|length| u64::try_from(length).unwrap_or(u64::MAX)))
                .unwrap_or_default(),
            waited_milliseconds: told(|made| made.waited_milliseconds),
            held_microseconds: told(|made| made.held_microseconds),
            bytes_written: written as u64,
            bytes_read: read,
            bytes_changed: changed,
            bytes_stored: stored,
            vault_bytes: rounds.iter().map(|round| round.protected.vault_bytes).sum(),
            read_by_written: by(read, written),
            read_by_changed: by(read, changed as f64),
            stored_by_written: by(stored, written),
            stored_by_changed: by(stored, changed as f64),
            unprotected: latency(&parts(|round| &round.unprotected)).context("the unprotected parts have no writes")?,
            protected: latency(&parts(|round| &round.protected)).context("the protected parts have no writes")?,
            ratio_p50: ratio(50.0)?,
            ratio_p99: ratio(99.0)?,
        })
    }
}

/// What the guest wrote from the point before the first cycle of a part to its last point. A failed cycle captured nothing
/// that counts, so points are what is looked for.
fn written(part: &Part) -> Option<f64> {
    let captured = |cycle: &Cycle| Some(cycle.committed()?.captured_at.as_unix_milliseconds());
    let first = part.cycles.iter().find_map(captured)?;
    let last = part.cycles.iter().rev().find_map(captured)?;
    Some(part.bytes_between(first, last))
}

fn latency(parts: &[&Part]) -> Option<Latency> {
    let mut all = Histogram::default();
    parts.iter().for_each(|part| all.merge(&part.latencies()));
    let percentile = |percent: f64| Some(all.percentile(percent)? as f64);
    let seconds: f64 = parts.iter().map(|part| part.length_seconds()).sum();
    let bytes: f64 = parts.iter().map(|part| part.bytes_between(part.begun, part.ended)).sum();
    let busy = |share: fn(&Busy) -> f64| Some(Spread::of(parts.iter().map(|part| share(&part.busy)))?.median);
    Some(Latency {
        writes: all.count(),
        microseconds: Percentiles { p50: percentile(50.0)?, p99: percentile(99.0)?, max: percentile(100.0)? },
        behind_microseconds_max: parts.iter().map(|part| part.behind_microseconds()).max()?,
        bytes_per_second: bytes / seconds.max(1e-3),
        busy: Busy {
            qemu: busy(|busy| busy.qemu)?,
            farshore: busy(|busy| busy.farshore)?,
            others: busy(|busy| busy.others)?,
        },
    })
}

fn ratio(rounds: &[Round], percent: f64) -> Option<Ratio> {
    let of = |round: &Round| {
        let told = |part: &Part| part.latencies().percentile(percent);
        Some(told(&round.protected)? as f64 / told(&round.unprotected)?.max(1) as f64)
    };
    let ratios: Vec<f64> = rounds.iter().map(of).collect::<Option<_>>()?;
    Spread::of(ratios).map(|Spread { median, min, max }| Ratio { median, min, max })
}

/// A length of time as the configuration writes it: `3s`, `1500ms`, `2m`.
fn milliseconds(text: &str) -> Option<u64> {
    let digits = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let unit_milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_milliseconds)
}

#[cfg(test)]
mod tests {
    use farshore_bench::latencies::Second;
    use farshore_core::Timestamp;

    use super::*;
    use crate::rpo::{records::Outcome, report};

    const START: i64 = 1_800_000_000_000;

    /// A cycle that begins this many seconds after the start, takes 500 ms, and captures 200 ms after its begin.
    fn cycle(second: i64, age: Option<u64>, chunks: u64) -> Cycle {
        let at = |milliseconds: i64| Timestamp::from_unix_milliseconds(START + second * 1_000 + milliseconds);
        let outcome = Outcome::Committed(Committed {
            captured_at: at(200),
            basis: "tracked".to_owned(),
            bytes_read: chunks << 16,
            bytes_changed: chunks << 16,
            bytes_stored: (chunks << 16) + 1_024,
            held_microseconds: 0,
            lag_milliseconds: 300,
            age_before_milliseconds: age,
            waited_milliseconds: 1,
        });
        Cycle { begun_at: at(0), ended_at: at(500), outcome }
    }

    /// A part of a minute in which each second had 32 writes of 64 KiB that took so long.
    fn part(microseconds: u64, slow: u64) -> Part {
        let second = |number: u64| {
            let mut second = Second { number, writes: 32, bytes: 2 << 20, ..Second::default() };
            (0..31).for_each(|_| second.latencies.add(microseconds));
            second.latencies.add(slow);
            (START + i64::try_from(number).expect("small") * 1_000 + 1_000, second)
        };
        Part { begun: START, ended: START + 60_000, seconds: (0..60).map(second).collect(), ..Part::default() }
    }

    #[test]
    fn figures_are_of_what_the_records_say() {
        let mut protected = part(60, 900);
        // The first was there before: its bytes and its age are of an earlier time.
        protected.cycles =
            vec![cycle(0, Some(90_000), 9_999), cycle(10, Some(10_500), 320), cycle(20, Some(2_800), 310)];
        protected.cycles.insert(
            2,
            Cycle {
                begun_at: protected.cycles[1].ended_at,
                ended_at: protected.cycles[2].begun_at,
                outcome: Outcome::Failed { code: "FS1".to_owned(), message: "no".to_owned() },
            },
        );
        let rounds = [Round { unprotected: part(30, 600), protected }];
        let figures = Figures::of("3s", &rounds).expect("figures");
        assert_eq!((figures.cycles, figures.failed, figures.untracked), (2, 1, 0));
        assert_eq!(figures.age_milliseconds, Percentiles { p50: 2_800.0, p99: 10_500.0, max: 10_500.0 });
        assert!(!figures.holds && Figures::of("11s", &rounds).expect("figures").holds);
        // From 0.2 s to 20.2 s the guest wrote 40 MiB, that is 640 chunks, of which ten were written twice.
        assert_eq!((figures.bytes_written, figures.bytes_read), (640 << 16, 630 << 16));
        assert!((figures.read_by_written - 630.0 / 640.0).abs() < 1e-9, "{figures:?}");
        assert_eq!((figures.read_by_changed, figures.cycle_milliseconds.p50), (1.0, 500.0));
        assert!((figures.stored_by_changed - 1.0 - 2_048.0 / f64::from(630 << 16)).abs() < 1e-9, "{figures:?}");
        assert_eq!((figures.unprotected.writes, figures.protected.writes), (1_920, 1_920));
        assert!((figures.protected.bytes_per_second - f64::from(2 << 20)).abs() < 1.0, "{figures:?}");
        assert!((figures.ratio_p50.median - 2.0).abs() < 1e-9, "{figures:?}");
        assert!((1.45..1.55).contains(&figures.ratio_p99.median), "{figures:?}");
        let sentence = report::sentence(&figures);
        assert!(sentence.contains("p99 10.50 s") && sentence.contains("does not hold"), "{sentence}");
        let measured = report::Measured {
            begun_at: String::new(),
            write_bytes: 1 << 16,
            rate_bytes_per_second: 2 << 20,
            disk_mebibytes: 64,
            flushed: true,
            objectives: vec![figures, Figures::of("11s", &rounds).expect("figures")],
        };
        let page = report::page(&measured);
        for table in page.split("\n\n").filter(|paragraph| paragraph.starts_with('|')) {
            let columns = |line: &str| line.matches('|').count();
            assert!(
                table.lines().all(|line| columns(line) == columns(table.lines().next().unwrap_or_default())),
                "{table}"
            );
        }
        assert!(page.contains("whose p99 is within it: 11s."), "{page}");
    }

    #[test]
    fn nothing_is_made_up_where_nothing_was_measured() {
        Figures::of("3s", &[]).expect_err("no round");
        Figures::of("soon", &[]).expect_err("no objective");
        let protected = Part { cycles: vec![cycle(0, None, 1), cycle(3, None, 1)], ..part(1, 1) };
        let round = Round { unprotected: part(1, 1), protected };
        Figures::of("3s", &[round]).expect_err("no age");
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        assert_eq!(Percentiles::of([]), None);
        assert_eq!(Percentiles::of(1..=200), Some(Percentiles { p50: 100.0, p99: 198.0, max: 200.0 }));
        assert_eq!(Percentiles::of([7]), Some(Percentiles { p50: 7.0, p99: 7.0, max: 7.0 }));
        assert_eq!((milliseconds("1500ms"), milliseconds("3s"), milliseconds("3")), (Some(1_500), Some(3_000), None));
    }
}
