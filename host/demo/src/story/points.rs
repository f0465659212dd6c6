//! The recovery points that the story sees, as `farshore replicate --watch --json` tells them.

use std::time::Duration;

use farshore_core::Timestamp;
use serde_json::Value;

/// A committed recovery point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeenPoint {
    /// Its number.
    pub(super) number: u64,
    /// The instant that it shows.
    pub(super) captured_at: Timestamp,
    /// When it was durable.
    pub(super) committed_at: Timestamp,
    /// What it added to the vault, in bytes.
    pub(super) stored_bytes: u64,
    /// `full`, `tracked` or `compared`.
    pub(super) basis: String,
}

impl SeenPoint {
    /// Reads the point of a line; none if the line is about something else.
    pub(super) fn parse(line: &Value) -> Option<Self> {
        let point = line.get("point").filter(|point| point.is_object())?;
        let time = |name| point.get(name)?.as_str()?.parse::<Timestamp>().ok();
        let disks = point.get("machines")?.as_array()?.iter().filter_map(|machine| machine.get("disks")?.as_array());
        let basis = disks.flatten().find_map(|disk| disk.get("basis")?.as_str());
        Some(Self {
            number: point.get("sequence")?.as_u64()?,
            captured_at: time("captured_at")?,
            committed_at: time("committed_at")?,
            stored_bytes: point.get("stats")?.get("bytes_stored")?.as_u64()?,
            basis: basis.unwrap_or("unknown").to_owned(),
        })
    }

    /// From its instant until it was durable.
    pub(super) fn lag(&self) -> Duration {
        self.committed_at.since(self.captured_at)
    }
}

/// The greatest age that the newest point reached: just before the next one was durable, or at the end.
pub(super) fn age_max(points: &[SeenPoint], end: Timestamp) -> Duration {
    let until = points.iter().skip(1).map(|next| next.committed_at).chain([end]);
    points.iter().zip(until).map(|(point, until)| until.since(point.captured_at)).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn point(number: u64, captured: i64, committed: i64) -> SeenPoint {
        let time = Timestamp::from_unix_milliseconds;
        let basis = "tracked".to_owned();
        SeenPoint { number, captured_at: time(captured), committed_at: time(committed), stored_bytes: 5, basis }
    }

    #[test]
    fn a_line_with_a_point_is_read() {
        let line = json!({ "group": "orders", "point": {
            "sequence": 3, "captured_at": "1970-01-01T00:00:01Z", "committed_at": "1970-01-01T00:00:01.5Z",
            "machines": [{ "disks": [{ "basis": "tracked" }] }], "stats": { "bytes_stored": 5 },
        }});
        assert_eq!(SeenPoint::parse(&line), Some(point(3, 1_000, 1_500)));
        assert_eq!(SeenPoint::parse(&line).map(|point| point.lag()), Some(Duration::from_millis(500)));
        for other in [json!({}), json!({ "point": 3 }), json!({ "error": { "code": "FS4001" } })] {
            assert_eq!(SeenPoint::parse(&other), None);
        }
    }

    #[test]
    fn the_greatest_age_is_reached_just_before_a_commit_or_at_the_end() {
        let points = [point(1, 0, 400), point(2, 4_000, 4_300), point(3, 8_000, 8_900)];
        let at = |milliseconds| age_max(&points, Timestamp::from_unix_milliseconds(milliseconds)).as_millis();
        assert_eq!(at(10_000), 4_900, "the second point was that old when the third came");
        assert_eq!(at(14_000), 6_000, "the third was that old at the end");
        assert_eq!(age_max(&[], Timestamp::from_unix_milliseconds(5)), Duration::ZERO);
    }
}
