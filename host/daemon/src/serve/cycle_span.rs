//! A finished cycle as a trace.
//!
//! A cycle is known when it has ended, so its phases are laid one after the other from its beginning, by the lengths that a
//! clock measured which is never set. The civil clock says only when it began; if it was put back meanwhile, the trace ends
//! with the last phase all the same.

use std::time::Duration;

use farshore_core::Timestamp;
use farshore_replication::PhaseTimes;
use farshore_state::{CycleOutcome, CycleRecord};
use farshore_telemetry::{Outcome, Span};

/// The trace of one cycle of a group. A cycle that failed has no times.
pub fn cycle_span(record: &CycleRecord, times: Option<&PhaseTimes>) -> Span {
    let CycleRecord { group, begun_at, ended_at, outcome } = record;
    let span = Span::new("cycle", *begun_at, (*ended_at).max(*begun_at)).with("farshore.group", group.as_str());
    match outcome {
        CycleOutcome::Failed { code, message } => {
            let outcome = Outcome::Failed { message: message.clone() };
            Span { outcome, ..span.with("error.type", code.as_str()) }
        }
        CycleOutcome::Committed {
            point,
            captured_at: _,
            basis,
            bytes_read,
            bytes_changed,
            bytes_stored,
            held_microseconds,
            lag_milliseconds,
            age_before_milliseconds: _,
            waited_milliseconds,
        } => {
            let mut begin = *begun_at;
            let mut phase = |name, milliseconds| {
                let end = later(begin, milliseconds);
                Span::new(name, std::mem::replace(&mut begin, end), end)
            };
            let children = times.map_or_else(Vec::new, |times| {
                vec![
                    phase("capture", times.capture_milliseconds).with("farshore.held_microseconds", *held_microseconds),
                    phase("copy", times.copy_milliseconds)
                        .with("farshore.basis", basis.as_str())
                        .with("farshore.bytes.read", *bytes_read)
                        .with("farshore.bytes.stored", *bytes_stored),
                    phase("commit", times.commit_milliseconds).with("farshore.point", point.get()),
                    phase("release", times.release_milliseconds),
                ]
            });
            let span = span
                .with("farshore.point", point.get())
                .with("farshore.basis", basis.as_str())
                .with("farshore.bytes.read", *bytes_read)
                .with("farshore.bytes.changed", *bytes_changed)
                .with("farshore.bytes.stored", *bytes_stored)
                .with("farshore.held_microseconds", *held_microseconds)
                .with("farshore.lag_milliseconds", *lag_milliseconds)
                .with("farshore.waited_milliseconds", *waited_milliseconds);
            Span { ended: span.ended.max(begin), children, ..span }
        }
    }
}

fn later(at: Timestamp, milliseconds: u64) -> Timestamp {
    let since_1970 = u64::try_from(at.as_unix_milliseconds()).unwrap_or_default();
    Timestamp::from_unix_milliseconds(
        i64::try_from(Duration::from_millis(since_1970.saturating_add(milliseconds)).as_millis()).unwrap_or(i64::MAX),
    )
}

#[cfg(test)]
mod tests {
    use farshore_core::{GroupName, Sequence};
    use farshore_telemetry::Value;

    use super::*;

    const TIMES: PhaseTimes = PhaseTimes {
        capture_milliseconds: 200,
        copy_milliseconds: 1_500,
        commit_milliseconds: 40,
        release_milliseconds: 0,
        adapter_microseconds: 7,
    };

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_unix_milliseconds(1_790_000_000_000 + milliseconds)
    }

    fn record(ended: i64, outcome: CycleOutcome) -> CycleRecord {
        let group = GroupName::new("orders").expect("a name");
        CycleRecord { group, begun_at: at(0), ended_at: at(ended), outcome }
    }

    fn committed() -> CycleOutcome {
        CycleOutcome::Committed {
            point: Sequence::new(7),
            captured_at: at(100),
            basis: "tracked".to_owned(),
            bytes_read: 4_096,
            bytes_changed: 2_048,
            bytes_stored: 1_024,
            held_microseconds: 900,
            lag_milliseconds: 1_540,
            age_before_milliseconds: None,
            waited_milliseconds: 12,
        }
    }

    fn failed() -> CycleOutcome {
        CycleOutcome::Failed { code: "FS4003".to_owned(), message: "the site does not answer".to_owned() }
    }

    fn times(span: &Span) -> Vec<(&str, i64, i64)> {
        let since = |time: Timestamp| time.as_unix_milliseconds() - at(0).as_unix_milliseconds();
        let all = std::iter::once(span).chain(&span.children);
        all.map(|span| (span.name, since(span.begun), since(span.ended))).collect()
    }

    #[test]
    fn a_point_has_its_phases_one_after_the_other() {
        let span = cycle_span(&record(1_745, committed()), Some(&TIMES));
        let expected = [
            ("cycle", 0, 1_745),
            ("capture", 0, 200),
            ("copy", 200, 1_700),
            ("commit", 1_700, 1_740),
            ("release", 1_740, 1_740),
        ];
        assert_eq!(times(&span), expected);
        assert_eq!(span.outcome, Outcome::Ok);
        let known = [
            ("farshore.group", Value::from("orders")),
            ("farshore.point", Value::Integer(7)),
            ("farshore.basis", Value::from("tracked")),
            ("farshore.bytes.read", Value::Integer(4_096)),
            ("farshore.bytes.changed", Value::Integer(2_048)),
            ("farshore.bytes.stored", Value::Integer(1_024)),
            ("farshore.held_microseconds", Value::Integer(900)),
            ("farshore.lag_milliseconds", Value::Integer(1_540)),
            ("farshore.waited_milliseconds", Value::Integer(12)),
        ];
        assert_eq!(span.attributes, known);
    }

    #[test]
    fn a_clock_that_is_put_back_leaves_no_phase_outside_of_its_cycle() {
        let span = cycle_span(&record(-60_000, committed()), Some(&TIMES));
        assert_eq!(times(&span)[0], ("cycle", 0, 1_740));
        assert_eq!(times(&cycle_span(&record(-60_000, failed()), None)), [("cycle", 0, 0)]);
    }

    #[test]
    fn a_failure_says_why_and_has_no_phases() {
        let span = cycle_span(&record(900, failed()), None);
        assert_eq!(times(&span), [("cycle", 0, 900)]);
        assert_eq!(span.outcome, Outcome::Failed { message: "the site does not answer".to_owned() });
        let known = [("farshore.group", Value::from("orders")), ("error.type", Value::from("FS4003"))];
        assert_eq!(span.attributes, known);
    }
}
