//! Latencies as a histogram, and a second of a load as a line of text.
//!
//! A histogram has a bucket for each microsecond below 64 and, from there on, 32 for each power of two: what it says of a
//! latency is wrong by 1.6 % at most. Buckets are counted, so two histograms add up to one, and a second is a line of some
//! hundred bytes however many writes it had.
//!
//! ```text
//! WROTE 12 32 2097152 170 88:1 93:30 120:1
//!       |  |  |       |   bucket:writes ...
//!       |  |  |       how far behind its pace the load was at most, in microseconds
//!       |  |  bytes written
//!       |  writes
//!       the second, counted from the load's start
//! ```

use std::{collections::BTreeMap, fmt, str::FromStr};

/// What a line of a load begins with.
const MARK: &str = "WROTE";
/// Below this each microsecond is a bucket of its own; above, each half of it divides a power of two.
const FINE: u64 = 64;
const PARTS: u64 = FINE / 2;

/// How often each latency came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram(BTreeMap<u64, u64>);

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, microseconds: u64) {
        *self.0.entry(bucket(microseconds)).or_default() += 1;
    }

    /// Counts all that another has counted.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.0 {
            *self.0.entry(*bucket).or_default() += count;
        }
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The smallest latency, in microseconds, that so many of a hundred do not exceed (nearest rank, the middle of its
    /// bucket). None of none.
    pub fn percentile(&self, percent: f64) -> Option<u64> {
        let rank = ((percent / 100.0 * self.count() as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.0.iter().find(|(_, count)| {
            seen += **count;
            seen >= rank
        });
        found.map(|(bucket, _)| middle(*bucket))
    }
}

fn bucket(microseconds: u64) -> u64 {
    if microseconds < FINE {
        return microseconds;
    }
    let halvings = u64::from((microseconds / PARTS).ilog2());
    halvings * PARTS + (microseconds >> halvings)
}

fn middle(bucket: u64) -> u64 {
    if bucket < FINE {
        return bucket;
    }
    let halvings = (bucket / PARTS - 1).min(58);
    ((bucket % PARTS + PARTS) << halvings) + (1 << halvings) / 2
}

/// A second of a load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Second {
    /// Counted from the load's start.
    pub number: u64,
    /// How many writes ended in it.
    pub writes: u64,
    /// How many bytes they had.
    pub bytes: u64,
    /// How far behind its pace the load was at most, in microseconds.
    pub behind_microseconds: u64,
    /// From each write's call to its return.
    pub latencies: Histogram,
}

impl fmt::Display for Second {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, writes, bytes, behind_microseconds, latencies } = self;
        write!(formatter, "{MARK} {number} {writes} {bytes} {behind_microseconds}")?;
        latencies.0.iter().try_for_each(|(bucket, count)| write!(formatter, " {bucket}:{count}"))
    }
}

/// The line is none of a load's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotASecond;

impl FromStr for Second {
    type Err = NotASecond;

    fn from_str(line: &str) -> Result<Self, NotASecond> {
        let number = |word: &str| word.parse::<u64>().map_err(|_| NotASecond);
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some(MARK) {
            return Err(NotASecond);
        }
        let mut next = || words.next().ok_or(NotASecond).and_then(number);
        let (second, writes, bytes, behind_microseconds) = (next()?, next()?, next()?, next()?);
        let buckets = words.map(|word| {
            let (bucket, count) = word.split_once(':').ok_or(NotASecond)?;
            Ok((number(bucket)?, number(count)?))
        });
        let latencies = Histogram(buckets.collect::<Result<_, NotASecond>>()?);
        // A line of which a part was lost must not count as a quieter second.
        if latencies.count() != writes {
            return Err(NotASecond);
        }
        Ok(Self { number: second, writes, bytes, behind_microseconds, latencies })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_no_wider_than_a_32th_of_what_is_in_it() {
        for microseconds in (0..5_000).chain([123_456, 9_876_543, 60_000_000]) {
            let told = middle(bucket(microseconds));
            assert!(told.abs_diff(microseconds) * 63 <= microseconds, "{microseconds} became {told}");
            assert!(bucket(microseconds) <= bucket(microseconds + 1));
        }
        assert!(middle(u64::MAX) > 0, "what a line could say does not break it");
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank_and_histograms_add_up() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(50.0), None);
        (1..=50).for_each(|microseconds| histogram.add(microseconds));
        let mut other = Histogram::default();
        (0..50).for_each(|_| other.add(1_000));
        histogram.merge(&other);
        assert_eq!(histogram.count(), 100);
        assert_eq!(histogram.percentile(25.0), Some(25));
        assert_eq!(histogram.percentile(50.0), Some(50));
        assert_eq!(histogram.percentile(51.0), histogram.percentile(100.0));
        assert_eq!(histogram.percentile(0.0), Some(1));
    }

    #[test]
    fn a_second_survives_the_console_and_a_damaged_line_is_none() {
        let mut second = Second { number: 7, writes: 3, bytes: 196_608, behind_microseconds: 12, ..Second::default() };
        [5, 300, 300].into_iter().for_each(|microseconds| second.latencies.add(microseconds));
        let line = second.to_string();
        assert_eq!(line.parse(), Ok(second));
        assert_eq!(line[..line.len() - 1].parse::<Second>(), Err(NotASecond), "a count is lost");
        assert_eq!("FARSHORE-UP boots=1".parse::<Second>(), Err(NotASecond));
    }
}
