//! Time zones. The time zone library is seen nowhere but here.

use std::{fmt, str::FromStr};

use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a zone without a name is called: the machine's own.
const LOCAL: &str = "local";

/// A time zone, with its past and future changes as the machine's database has them, or else the program's own. The text is its name in the IANA
/// database, or `local` for the machine's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    /// Universal time.
    pub const fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// The machine's own zone as it is set now; UTC if it cannot be told.
    pub fn system() -> Self {
        Self(TimeZone::try_system().ok().filter(|zone| !zone.is_unknown()).unwrap_or(TimeZone::UTC))
    }

    /// How far wall clocks are ahead of UTC.
    pub(super) fn offset_ms(&self, at_ms: i64) -> i64 {
        let at = jiff::Timestamp::from_millisecond(at_ms);
        at.map_or(0, |at| i64::from(self.0.to_offset(at).seconds()) * 1_000)
    }

    /// When wall clocks are next put forward or back, or might be.
    pub(super) fn next_offset_change_ms(&self, after_ms: i64) -> Option<i64> {
        let after = jiff::Timestamp::from_millisecond(after_ms).ok()?;
        self.0.following(after).map(|change| change.timestamp().as_millisecond()).find(|at_ms| *at_ms > after_ms)
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self::system()
    }
}

impl FromStr for Zone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == LOCAL {
            return Ok(Self::system());
        }
        match TimeZone::get(text) {
            Ok(zone) if !zone.is_unknown() => Ok(Self(zone)),
            _ => Err(format!("{text:?} is not a time zone such as \"Europe/Berlin\" or \"UTC\"")),
        }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.iana_name().unwrap_or(LOCAL))
    }
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
