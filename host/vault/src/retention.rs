//! Which recovery points stand: a rule and its application, without a store or a clock.
//!
//! A point's age is counted from when the *store* received it, and only up to when the store received the newest commit:
//! neither the times that a writer claims nor the pruner's own clock make a point older. So a group that nobody replicates
//! any more loses nothing, however long it rests, and a captured replicator cannot push good points out with points of
//! invented times. The store's times are made to rise with the commits' numbers, so that a store whose clock was set back
//! makes points younger and never older.

use std::collections::BTreeSet;

use farshore_core::Timestamp;
use serde::{Deserialize, Serialize};

/// Milliseconds of an hour.
const HOUR: i64 = 3_600_000;

/// Which points of a lineage stand. A point stands if any of the rules wants it; the newest always does, and one that a run
/// has pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Retention {
    /// Every point of at most this age stands, in seconds.
    pub all_seconds: u64,
    /// The newest point of each of so many hours that have one.
    #[serde(default)]
    pub hourly: u32,
    /// The newest point of each of so many days (UTC) that have one.
    #[serde(default)]
    pub daily: u32,
    /// The newest point of each of so many weeks (from Monday, UTC) that have one.
    #[serde(default)]
    pub weekly: u32,
    /// The newest point of each of so many months (UTC) that have one.
    #[serde(default)]
    pub monthly: u32,
    /// The newest point of each of so many years (UTC) that have one.
    #[serde(default)]
    pub yearly: u32,
}

/// A point whose standing is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// When the store received it.
    pub(crate) received_at: Timestamp,
    /// It stands whatever the rules say.
    pub(crate) is_held: bool,
}

/// The kinds of spans of which the newest point stands.
#[derive(Debug, Clone, Copy)]
enum Span {
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl Span {
    /// The number of the span in which a time lies; later spans have larger numbers.
    fn number(self, time: Timestamp) -> i64 {
        let milliseconds = time.as_unix_milliseconds();
        let days = milliseconds.div_euclid(24 * HOUR);
        let (year, month) = civil_year_and_month(days);
        match self {
            Self::Hour => milliseconds.div_euclid(HOUR),
            Self::Day => days,
            // The first day of 1970 was a Thursday.
            Self::Week => (days + 3).div_euclid(7),
            Self::Month => year * 12 + month,
            Self::Year => year,
        }
    }
}

/// The year, and the month from 0, of a day counted from 1970-01-01, in the Gregorian calendar.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn civil_year_and_month(days: i64) -> (i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let is_next_year = month_from_march >= 10;
    let month = if is_next_year { month_from_march - 10 } else { month_from_march + 2 };
    (year_of_era + era * 400 + i64::from(is_next_year), month)
}

/// Makes times rise: none is before the one before it.
pub(crate) fn make_rising(times: &mut [Timestamp]) {
    let mut latest = None;
    for time in times {
        let risen = latest.map_or(*time, |latest| (*time).max(latest));
        *time = risen;
        latest = Some(risen);
    }
}

impl Retention {
    /// For each point, oldest first, whether it stands. `now` is not later than when the store received the newest commit.
    pub(crate) fn judge(&self, points: &[Candidate], now: Timestamp) -> Vec<bool> {
        let mut times: Vec<_> = points.iter().map(|point| point.received_at).collect();
        make_rising(&mut times);
        let all_milliseconds = u128::from(self.all_seconds).saturating_mul(1_000);
        let mut stands: Vec<bool> = points
            .iter()
            .zip(&times)
            .map(|(point, time)| point.is_held || now.since(*time).as_millis() <= all_milliseconds)
            .collect();
        if let Some(newest) = stands.last_mut() {
            *newest = true;
        }
        let rules = [
            (Span::Hour, self.hourly),
            (Span::Day, self.daily),
            (Span::Week, self.weekly),
            (Span::Month, self.monthly),
            (Span::Year, self.yearly),
        ];
        for (span, count) in rules {
            let mut seen = BTreeSet::new();
            for (stands, time) in stands.iter_mut().zip(&times).rev() {
                if seen.len() >= usize::try_from(count).unwrap_or(usize::MAX) {
                    break;
                }
                *stands |= seen.insert(span.number(*time));
            }
        }
        stands
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn points(times: &[&str]) -> Vec<Candidate> {
        times.iter().map(|time| Candidate { received_at: at(time), is_held: false }).collect()
    }

    const NOTHING: Retention = Retention { all_seconds: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0 };

    #[test]
    fn spans_are_those_of_the_calendar() {
        for (text, year, month) in [
            ("1970-01-01T00:00:00Z", 1970, 0),
            ("2000-02-29T12:00:00Z", 2000, 1),
            ("2026-12-31T23:59:59Z", 2026, 11),
            ("1969-12-31T23:59:59Z", 1969, 11),
            ("2100-03-01T00:00:00Z", 2100, 2),
        ] {
            assert_eq!(Span::Month.number(at(text)), year * 12 + month, "{text}");
            assert_eq!(Span::Year.number(at(text)), year, "{text}");
        }
        // 2026-11-23 is a Monday.
        let week = |text: &str| Span::Week.number(at(text));
        assert_eq!(week("2026-11-23T00:00:00Z"), week("2026-11-29T23:59:59Z"));
        assert_eq!(week("2026-11-22T23:59:59Z") + 1, week("2026-11-23T00:00:00Z"));
    }

    #[test]
    fn each_rule_keeps_the_newest_point_of_its_spans() {
        let times = [
            "2024-05-01T10:00:00Z",
            "2025-05-01T10:00:00Z",
            "2026-10-30T10:00:00Z",
            "2026-11-24T10:00:00Z",
            "2026-11-25T10:10:00Z",
            "2026-11-25T10:50:00Z",
            "2026-11-25T11:10:00Z",
            "2026-11-25T11:20:00Z",
        ];
        let kept = |retention: Retention| {
            let judged = retention.judge(&points(&times), at(times[7]));
            (0..times.len()).filter(|index| judged[*index]).collect::<Vec<_>>()
        };
        assert_eq!(kept(NOTHING), [7], "the newest stands whatever the rules say");
        assert_eq!(kept(Retention { hourly: 2, ..NOTHING }), [5, 7]);
        assert_eq!(kept(Retention { daily: 2, ..NOTHING }), [3, 7]);
        assert_eq!(kept(Retention { weekly: 2, ..NOTHING }), [2, 7]);
        assert_eq!(kept(Retention { monthly: 3, ..NOTHING }), [1, 2, 7]);
        assert_eq!(kept(Retention { yearly: 9, ..NOTHING }), [0, 1, 7]);
        assert_eq!(kept(Retention { all_seconds: 600, ..NOTHING }), [6, 7]);
        assert_eq!(kept(Retention { all_seconds: 599, ..NOTHING }), [7]);
    }

    #[test]
    fn a_group_that_rests_loses_nothing() {
        // What counts is when the newest commit arrived, not what the time is.
        let resting = points(&["2020-01-01T00:00:00Z", "2020-01-01T00:10:00Z"]);
        let retention = Retention { all_seconds: 3_600, ..NOTHING };
        assert_eq!(retention.judge(&resting, at("2020-01-01T00:10:00Z")), [true, true]);
    }

    #[test]
    fn a_store_whose_clock_was_set_back_makes_nothing_older() {
        let retention = Retention { all_seconds: 60, ..NOTHING };
        let set_back = points(&["2026-01-02T00:00:00Z", "2020-01-01T00:00:00Z", "2026-01-02T00:00:30Z"]);
        assert_eq!(retention.judge(&set_back, at("2026-01-02T00:00:30Z")), [true, true, true]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("FARSHORE_LONG").is_some() { 20_000 } else { 256 }))]
        #[test]
        fn what_is_young_held_or_newest_stands_whatever_the_counts_are(
            steps in prop::collection::vec((0i64..200 * HOUR, any::<bool>()), 1..60),
            all_seconds in 0u64..400_000,
            counts in any::<[u8; 5]>(),
        ) {
            let mut time = 0;
            let points: Vec<Candidate> = steps.iter().map(|(step, is_held)| {
                time += step;
                Candidate { received_at: Timestamp::from_unix_milliseconds(time), is_held: *is_held }
            }).collect();
            let now = Timestamp::from_unix_milliseconds(time);
            let [hourly, daily, weekly, monthly, yearly] = counts.map(|count| u32::from(count % 5));
            let retention = Retention { all_seconds, hourly, daily, weekly, monthly, yearly };
            let judged = retention.judge(&points, now);
            prop_assert_eq!(judged.len(), points.len());
            prop_assert!(judged[judged.len() - 1]);
            for (point, stands) in points.iter().zip(&judged) {
                let young = now.since(point.received_at).as_secs_f64() <= all_seconds as f64;
                prop_assert!(*stands || !(young || point.is_held));
            }
            // A more generous rule gives up nothing that a stricter one keeps.
            let generous = Retention { all_seconds: all_seconds + 7_200, hourly: hourly + 1, daily: daily + 1, ..retention };
            for (strict, generous) in judged.iter().zip(generous.judge(&points, now)) {
                prop_assert!(generous || !strict);
            }
            // What a rule has given up once it does not want later, when more points have come.
            let mut later = points.clone();
            later.push(Candidate { received_at: Timestamp::from_unix_milliseconds(time + 3 * HOUR), is_held: false });
            let rejudged = retention.judge(&later, Timestamp::from_unix_milliseconds(time + 3 * HOUR));
            for (before, after) in judged.iter().zip(&rejudged) {
                prop_assert!(*before || !after);
            }
        }
    }
}
