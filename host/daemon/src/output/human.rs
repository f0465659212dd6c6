//! Sizes, times and ages as people read them.

use std::time::Duration;

use farshore_core::Timestamp;

const UNITS: [(&str, u64); 5] =
    [("PiB", 1 << 50), ("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// `0 B`, `512 B`, `3.4 MiB`, `120 GiB`: three digits at most.
pub fn bytes(count: u64) -> String {
    let Some((unit, size)) = UNITS.into_iter().find(|(_, size)| count >= *size) else {
        return format!("{count} B");
    };
    let tenths = (u128::from(count) * 10 + u128::from(size) / 2) / u128::from(size);
    if tenths < 1_000 && !tenths.is_multiple_of(10) {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    } else {
        format!("{} {unit}", (tenths + 5) / 10)
    }
}

/// `85 ms`, `4.2 s`, `12 min`, `3 h 5 min`, `9 d 4 h`.
pub fn duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match milliseconds {
        0..1_000 => format!("{milliseconds} ms"),
        1_000..10_000 => format!("{}.{} s", milliseconds / 1_000, milliseconds % 1_000 / 100),
        10_000..120_000 => format!("{seconds} s"),
        _ if minutes < 120 => format!("{minutes} min"),
        _ if hours < 48 => two(hours, "h", minutes % 60, "min"),
        _ => two(days, "d", hours % 24, "h"),
    }
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 { format!("{large} {large_unit}") } else { format!("{large} {large_unit} {small} {small_unit}") }
}

/// `12 s ago`; a time that is still to come by this clock is shown as such, because a clock is wrong then.
pub fn age(time: Timestamp, now: Timestamp) -> String {
    let whole = |span: Duration| match span.as_secs() {
        0 => Duration::ZERO,
        seconds => Duration::from_secs(seconds),
    };
    if time > now {
        return format!("{} ahead of this clock", duration(time.since(now)));
    }
    match whole(now.since(time)) {
        Duration::ZERO => "just now".to_owned(),
        span if span < Duration::from_secs(120) => format!("{} s ago", span.as_secs()),
        span => format!("{} ago", duration(span)),
    }
}

/// The time with its age.
pub fn time_and_age(time: Timestamp, now: Timestamp) -> String {
    format!("{time} ({})", age(time, now))
}

/// The text with its control characters made visible: names and sentences come from platforms and components, and a
/// terminal obeys what it is sent. Line breaks and tabs stay.
pub fn clean(text: &str) -> String {
    let is_harmful = |c: char| {
        (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_harmful) {
        return text.to_owned();
    }
    text.chars().map(|c| if is_harmful(c) { format!("\\u{{{:x}}}", u32::from(c)) } else { c.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_at_most() {
        for (count, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1 KiB"),
            (3_565_158, "3.4 MiB"),
            (128 << 20, "128 MiB"),
            ((1 << 30) - 1, "1024 MiB"),
            (120 << 30, "120 GiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn lengths_of_time_are_short() {
        for (milliseconds, text) in [
            (85, "85 ms"),
            (4_250, "4.2 s"),
            (59_000, "59 s"),
            (721_000, "12 min"),
            (11_100_000, "3 h 5 min"),
            (10_800_000, "3 h"),
            (792_000_000, "9 d 4 h"),
        ] {
            assert_eq!(duration(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn ages_are_told_from_now() {
        let now = Timestamp::from_unix_milliseconds(1_790_000_000_000);
        let at = |milliseconds: i64| age(Timestamp::from_unix_milliseconds(1_790_000_000_000 - milliseconds), now);
        assert_eq!(at(400), "just now");
        assert_eq!(at(12_300), "12 s ago");
        assert_eq!(at(7_200_000), "2 h ago");
        assert_eq!(at(-5_000), "5.0 s ahead of this clock");
    }

    #[test]
    fn a_name_cannot_command_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\r\u{202e}c\n"), "a\\u{1b}[2Jb\\u{d}\\u{202e}c\n");
    }
}
