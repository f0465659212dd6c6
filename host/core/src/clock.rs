//! Time comes in through a trait, so that a simulator owns it.

use std::{fmt, str::FromStr, sync::LazyLock, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in civil time, in milliseconds since 1970-01-01T00:00:00Z. It is shown to people; no decision about deleting
/// or fencing may rest on it, because hosts are rolled back and clocks are wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The time this many milliseconds after 1970 began. Times outside the years -9999 to 9999 are moved to the nearest
    /// bound.
    pub fn from_unix_milliseconds(milliseconds: i64) -> Self {
        let (min, max) = (jiff::Timestamp::MIN.as_second() + 1, jiff::Timestamp::MAX.as_second() - 1);
        Self(milliseconds.clamp(min * 1_000, max * 1_000))
    }

    /// Milliseconds since 1970 began; negative before.
    pub const fn as_unix_milliseconds(self) -> i64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not after.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0).max(0).unsigned_abs())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(timestamp) => write!(formatter, "{timestamp:.3}"),
            Err(_) => write!(formatter, "{} ms since 1970", self.0),
        }
    }
}

impl FromStr for Timestamp {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        Ok(Self(text.parse::<jiff::Timestamp>()?.as_millisecond()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where time comes from.
#[async_trait::async_trait]
pub trait Clock: Send + Sync {
    /// The civil time now.
    fn now(&self) -> Timestamp;

    /// Time since a fixed moment of this process; it never goes back.
    fn monotonic(&self) -> Duration;

    /// Returns after at least this long.
    async fn sleep(&self, duration: Duration);
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
static PROCESS_START: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);

#[async_trait::async_trait]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp(jiff::Timestamp::now().as_millisecond())
    }

    fn monotonic(&self) -> Duration {
        PROCESS_START.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_its_text_to_the_millisecond() {
        let time = Timestamp::from_unix_milliseconds(1_790_000_000_123);
        assert_eq!(time.to_string(), "2026-09-21T14:13:20.123Z");
        assert_eq!(time.to_string().parse::<Timestamp>().expect("its own text"), time);
    }

    #[test]
    fn impossible_times_are_moved_to_the_bounds() {
        for milliseconds in [i64::MIN, i64::MAX] {
            let time = Timestamp::from_unix_milliseconds(milliseconds);
            assert_eq!(time.to_string().parse::<Timestamp>().expect("a year that can be written"), time);
        }
        let (early, late) = (Timestamp::from_unix_milliseconds(i64::MIN), Timestamp::from_unix_milliseconds(i64::MAX));
        assert_eq!(early.since(late), Duration::ZERO);
    }
}
