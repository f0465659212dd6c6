//! Rates and limits as people write them: `20MiB/s`, `100Mbit/s`, `unlimited`.

use std::{fmt, num::NonZeroU64, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a rate looks like, for error messages.
const RATE_EXAMPLES: &str = "a rate such as \"20MiB/s\" or \"100Mbit/s\"";
/// The text of no limit.
const UNLIMITED: &str = "unlimited";
/// Units of a rate and their bytes per second, each after those that end like it.
const RATE_UNITS: [(&str, u64); 7] = [
    ("GiB/s", 1 << 30),
    ("MiB/s", 1 << 20),
    ("KiB/s", 1 << 10),
    ("B/s", 1),
    ("Gbit/s", 125_000_000),
    ("Mbit/s", 125_000),
    ("kbit/s", 125),
];

/// Debts are counted in billionths of a byte, so that a rate times nanoseconds is exact.
pub(super) const NANOBYTES_PER_BYTE: u128 = 1_000_000_000;

/// Bytes per second, at least one. The text is a whole number and a unit: `B/s`, `KiB/s`, `MiB/s` or `GiB/s` (powers of
/// 1024 bytes), `kbit/s`, `Mbit/s` or `Gbit/s` (powers of 1000 bits). It is written in the unit that needs the smallest
/// number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(NonZeroU64);

impl Rate {
    /// So many bytes per second.
    pub const fn from_bytes_per_second(bytes: NonZeroU64) -> Self {
        Self(bytes)
    }

    /// Bytes per second.
    pub const fn bytes_per_second(self) -> u64 {
        self.0.get()
    }

    /// What this long is worth, in billionths of a byte.
    pub(super) fn nanobytes_in(self, time: Duration) -> u128 {
        time.as_nanos().saturating_mul(u128::from(self.bytes_per_second()))
    }

    /// How long so many billionths of a byte take, rounded up.
    pub(super) fn time_of(self, nanobytes: u128) -> Duration {
        let nanoseconds = nanobytes.div_ceil(u128::from(self.bytes_per_second()));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unreadable = || format!("{text:?} is not {RATE_EXAMPLES}");
        let unit = RATE_UNITS.into_iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?, size)));
        let (number, size) = unit.ok_or_else(unreadable)?;
        let number: u64 = number.trim_end().parse().map_err(|_| unreadable())?;
        let bytes = number.checked_mul(size).ok_or_else(unreadable)?;
        let rate = NonZeroU64::new(bytes).map(Self);
        rate.ok_or_else(|| format!("{text:?} would let nothing through: expected {RATE_EXAMPLES}"))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes_per_second();
        let whole = RATE_UNITS.into_iter().filter(|(_, size)| bytes.is_multiple_of(*size));
        let (unit, size) = whole.min_by_key(|(_, size)| bytes / size).unwrap_or(("B/s", 1));
        write!(formatter, "{}{unit}", bytes / size)
    }
}

/// How much may pass. The text is that of a [`Rate`], or `unlimited`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Limit {
    /// As much as there is.
    #[default]
    Unlimited,
    /// At most so many bytes per second.
    Rate(Rate),
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == UNLIMITED {
            return Ok(Self::Unlimited);
        }
        text.parse().map(Self::Rate).map_err(|error: String| format!("{error}, or \"{UNLIMITED}\""))
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => formatter.write_str(UNLIMITED),
            Self::Rate(rate) => rate.fmt(formatter),
        }
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
