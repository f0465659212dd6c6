//! What is recorded while the guest runs: the load's seconds, the cycles as the daemon tells them, who used the processors.

use farshore_bench::latencies::{Histogram, Second};
use farshore_core::Timestamp;
use serde::Deserialize;

use super::busy::Busy;

/// A length of time with a load.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// When it began and ended, in milliseconds of civil time.
    pub begun: i64,
    /// See `begun`.
    pub ended: i64,
    /// The load's seconds, each with the moment at which its line was seen. There are some from before and after, too.
    pub seconds: Vec<(i64, Second)>,
    /// Who used the processors.
    pub busy: Busy,
    /// Cycles that ended from its beginning on to its end, in their order, with the one before them. None if it was not
    /// protected.
    pub cycles: Vec<Cycle>,
    /// By how many bytes the vault's files grew.
    pub vault_bytes: u64,
}

/// Two parts, minutes apart.
#[derive(Debug, Clone, Default)]
pub struct Round {
    /// Without Farshore.
    pub unprotected: Part,
    /// With it.
    pub protected: Part,
}

/// A cycle as `/v1/cycles` has it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Cycle {
    /// When it began.
    pub begun_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How a cycle ended.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// With a point.
    Committed(Committed),
    /// Without.
    Failed {
        /// The error's code.
        code: String,
        /// Its sentence.
        message: String,
    },
}

/// What a cycle says that made a point: the fields of the daemon's `CycleOutcome`, which documents them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Committed {
    pub captured_at: Timestamp,
    pub basis: String,
    pub bytes_read: u64,
    pub bytes_changed: u64,
    pub bytes_stored: u64,
    pub held_microseconds: u64,
    pub lag_milliseconds: u64,
    pub age_before_milliseconds: Option<u64>,
    pub waited_milliseconds: u64,
}

impl Cycle {
    /// What it says, if it made a point.
    pub fn committed(&self) -> Option<&Committed> {
        match &self.outcome {
            Outcome::Committed(committed) => Some(committed),
            Outcome::Failed { .. } => None,
        }
    }
}

impl Part {
    /// How long it was, in seconds.
    pub fn length_seconds(&self) -> f64 {
        (self.ended - self.begun) as f64 / 1e3
    }

    /// The latencies of the seconds that were told in it.
    pub fn latencies(&self) -> Histogram {
        let mut sum = Histogram::default();
        self.own().for_each(|second| sum.merge(&second.latencies));
        sum
    }

    /// How far the load was behind its pace at most, in microseconds.
    pub fn behind_microseconds(&self) -> u64 {
        self.own().map(|second| second.behind_microseconds).max().unwrap_or(0)
    }

    fn own(&self) -> impl Iterator<Item = &Second> {
        self.seconds.iter().filter(|(seen, _)| (self.begun..=self.ended).contains(seen)).map(|(_, second)| second)
    }

    /// How much the guest wrote between two moments. A line tells of the second before it was seen.
    pub fn bytes_between(&self, from: i64, to: i64) -> f64 {
        let share = |(seen, second): &(i64, Second)| {
            let covered = to.min(*seen) - from.max(*seen - 1_000);
            second.bytes as f64 * covered.max(0) as f64 / 1e3
        };
        self.seconds.iter().map(share).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_is_read_as_the_daemon_tells_it() {
        let text = r#"[{"group":"g","begun_at":"2026-11-27T15:00:00.000Z","ended_at":"2026-11-27T15:00:01.500Z",
            "outcome":"committed","point":7,"captured_at":"2026-11-27T15:00:00.200Z","basis":"tracked","bytes_read":65536,
            "bytes_changed":65536,"bytes_stored":66000,"held_microseconds":0,"lag_milliseconds":1300,
            "age_before_milliseconds":2900,"waited_milliseconds":1},
            {"group":"g","begun_at":"2026-11-27T15:00:02.000Z","ended_at":"2026-11-27T15:00:02.500Z",
            "outcome":"failed","code":"FS1","message":"no"}]"#;
        let cycles: Vec<Cycle> = serde_json::from_str(text).expect("two cycles");
        assert_eq!(cycles[0].committed().and_then(|committed| committed.age_before_milliseconds), Some(2_900));
        assert_eq!(cycles[1].committed(), None);
    }

    #[test]
    fn what_was_written_between_two_moments_is_shared_out_by_seconds() {
        let second = |number, bytes| Second { number, bytes, ..Second::default() };
        let seconds = vec![(1_000, second(0, 100)), (2_000, second(1, 200)), (3_000, second(2, 400))];
        let part = Part { seconds, begun: 1_500, ended: 2_500, ..Part::default() };
        assert_eq!(part.bytes_between(0, 3_000), 700.0);
        assert_eq!(part.bytes_between(500, 2_250), 50.0 + 200.0 + 100.0);
        assert_eq!(part.bytes_between(4_000, 9_000), 0.0);
        assert_eq!(part.own().map(|second| second.number).collect::<Vec<_>>(), [1]);
    }
}
