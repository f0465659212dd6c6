//! Lengths of time as people write them: `250ms`, `5s`, `15m`, `1h30m`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

/// What a length of time looks like, for error messages.
const DURATION_EXAMPLES: &str = "a length of time such as \"250ms\", \"5s\", \"15m\" or \"24h\"";

/// Reads a length of time above zero. Units are `ms`, `s`, `m` and `h`; several may stand together, largest first.
///
/// # Errors
/// A sentence that shows what was expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let unreadable = || format!("{text:?} is not {DURATION_EXAMPLES}");
    let signed: jiff::SignedDuration = text.parse().map_err(|_| unreadable())?;
    let duration = Duration::try_from(signed).map_err(|_| unreadable())?;
    if duration.is_zero() {
        Err(format!("{text:?} is no time at all: expected {DURATION_EXAMPLES}"))
    } else {
        Ok(duration)
    }
}

/// Writes a length of time as [`parse_duration`] reads it.
pub fn format_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    match milliseconds {
        0..1_000 => format!("{milliseconds}ms"),
        _ if !milliseconds.is_multiple_of(1_000) => format!("{}s{}ms", milliseconds / 1_000, milliseconds % 1_000),
        _ => {
            let seconds = milliseconds / 1_000;
            let parts = [(seconds / 3_600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
            parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect()
        }
    }
}

/// Reads an amount of bytes above zero, such as `512MiB`, `10GiB` or `4096`.
///
/// # Errors
/// A sentence that shows what was expected.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
    let unreadable = || format!("{text:?} is not an amount of bytes such as \"512MiB\" or \"10GiB\"");
    let unit = UNITS.into_iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?, size)));
    let (number, size) = unit.unwrap_or((text, 1));
    let number: u64 = number.trim_end().parse().map_err(|_| unreadable())?;
    number.checked_mul(size).filter(|bytes| *bytes > 0).ok_or_else(unreadable)
}

/// Writes an amount of bytes as [`parse_bytes`] reads it.
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let whole = UNITS.into_iter().find(|(_, size)| bytes > 0 && bytes.is_multiple_of(*size));
    whole.map_or(format!("{bytes}B"), |(unit, size)| format!("{}{unit}", bytes / size))
}

/// For `#[serde(with = "...")]` on an amount of bytes that may be none: `0`.
pub mod bytes_or_none {
    use super::*;

    /// Reads it from text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "0" { Ok(0) } else { parse_bytes(&text).map_err(serde::de::Error::custom) }
    }

    /// Writes it as text.
    pub fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        if *bytes == 0 { serializer.serialize_str("0") } else { serializer.serialize_str(&format_bytes(*bytes)) }
    }
}

/// For `#[serde(with = "...")]` on a [`Duration`].
pub mod duration {
    use super::*;

    /// Reads it from text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).map_err(serde::de::Error::custom)
    }

    /// Writes it as text.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_duration(*duration))
    }

    /// The same for a length of time that may be left out.
    pub mod optional {
        use super::*;

        /// Reads it from text.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
            super::deserialize(deserializer).map(Some)
        }

        /// Writes it as text.
        pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
            match duration {
                Some(duration) => super::serialize(duration, serializer),
                None => serializer.serialize_none(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_and_written() {
        for (text, milliseconds) in [
            ("250ms", 250),
            ("5s", 5_000),
            ("15m", 900_000),
            ("24h", 86_400_000),
            ("1h30m", 5_400_000),
            ("1s5ms", 1_005),
        ] {
            let duration = parse_duration(text).expect(text);
            assert_eq!(duration, Duration::from_millis(milliseconds), "{text}");
            assert_eq!(format_duration(duration), text);
        }
    }

    #[test]
    fn amounts_of_bytes_are_read() {
        for (text, bytes) in [("1", 1), ("7B", 7), ("2KiB", 2_048), ("10 GiB", 10 << 30), ("3TiB", 3 << 40)] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
            assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes), "{text}");
        }
        assert_eq!([1 << 20, 1_025, 3 << 30].map(format_bytes), ["1MiB", "1025B", "3GiB"]);
        for text in ["", "0", "0GiB", "GiB", "-1", "1.5GiB", "10GB", "99999999999TiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_length_of_time_is_refused_with_an_example() {
        for text in ["", "5", "s", "-5s", "0s", "soon", "5 parsecs", "99999999999999999999h", "1d"] {
            let message = parse_duration(text).expect_err(text);
            assert!(message.contains("\"15m\""), "{message}");
        }
    }
}
