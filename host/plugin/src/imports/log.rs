//! Lines for the operator and for whoever debugs the component.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    Call, LogLevel,
    bound::Bound,
    limits::{LOG_BYTES_PER_SECOND_MAX, LOG_LINE_BYTES_MAX},
    state::CallState,
    v0_1::host::log::{Host, Level},
};

/// What a component may still log in this second. All instances of a component share it.
#[derive(Debug, Default)]
pub(crate) struct LogBudget(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    since: Duration,
    bytes: usize,
    dropped_lines: u64,
}

impl LogBudget {
    /// The line as it is kept, with a word on what was dropped before it; none if it is dropped too.
    fn admit(&self, now: Duration, line: String) -> Option<String> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(window.since) >= Duration::from_secs(1) {
            window.since = now;
            window.bytes = 0;
        }
        let bytes = window.bytes.saturating_add(line.len().max(1));
        if bytes > LOG_BYTES_PER_SECOND_MAX {
            window.dropped_lines = window.dropped_lines.saturating_add(1);
            return None;
        }
        window.bytes = bytes;
        match std::mem::take(&mut window.dropped_lines) {
            0 => Some(line),
            dropped => Some(format!("({dropped} lines dropped before this one) {line}")),
        }
    }
}

/// A text of a component's as one line of at most so many bytes, with control characters escaped.
pub(super) fn one_line(text: &str, bytes_max: usize) -> String {
    let mut line = String::new();
    for character in text.chars() {
        let before = line.len();
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
        if line.len() > bytes_max {
            line.truncate(before);
            break;
        }
    }
    line
}

/// Passes a line on to whoever observes the call, within the component's allowance.
pub(super) fn write_line(bound: &Bound, call: &Call, level: LogLevel, line: &str) {
    let line = one_line(line, LOG_LINE_BYTES_MAX);
    if let Some(line) = bound.component.log_budget.admit(bound.clock().monotonic(), line) {
        bound.observer().log(call, level, &line);
    }
}

impl Host for CallState {
    async fn write(&mut self, level: Level, line: String) -> wasmtime::Result<()> {
        let level = match level {
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
        };
        write_line(&self.bound, &self.call, level, &line);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let budget = LogBudget::default();
        let line = "x".repeat(1_024);
        let kept = (0..1_000).filter(|_| budget.admit(Duration::ZERO, line.clone()).is_some()).count();
        assert_eq!(kept, LOG_BYTES_PER_SECOND_MAX / 1_024);
        let later = budget.admit(Duration::from_secs(1), "again".to_owned()).expect("a new second");
        assert_eq!(later, "(936 lines dropped before this one) again");
        assert_eq!(budget.admit(Duration::from_secs(1), "more".to_owned()).as_deref(), Some("more"));
    }

    #[test]
    fn empty_lines_are_no_way_around_the_limit() {
        let budget = LogBudget::default();
        let kept = (0..100_000).filter(|_| budget.admit(Duration::ZERO, String::new()).is_some()).count();
        assert_eq!(kept, LOG_BYTES_PER_SECOND_MAX);
    }

    #[test]
    fn a_line_is_one_line_and_is_cut_between_characters() {
        assert_eq!(one_line("a\nb\u{1b}[2J", 100), "a\\nb\\u{1b}[2J");
        assert_eq!(one_line("ééé", 5), "éé");
        assert_eq!(one_line("a\n", 2), "a");
    }
}
