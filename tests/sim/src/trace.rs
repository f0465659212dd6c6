//! The trace: one hash over everything that happened at the store, in its order. Two runs of a seed must give the same.
//!
//! Bytes, lengths and random names of objects are not part of it: commits hold the times that clocks tell, and a run with wrong clocks
//! must take the same course as one with right ones.

use std::{fmt, time::Duration};

/// How many of the last lines are kept, to be shown when a seed fails.
const LINES_KEPT_MAX: usize = 20_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Trace {
    hasher: blake3::Hasher,
    lines: std::collections::VecDeque<String>,
    total: u64,
}

/// The hash of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceHash([u8; 32]);

impl fmt::Display for TraceHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// A key without the random name at its end: names hang on the commits before, and so on what clocks told.
fn without_random_name(key: &str) -> &str {
    match key.rsplit_once('/') {
        Some((folder, name)) if name.len() == 32 => folder,
        _ => key,
    }
}

impl Trace {
    /// Adds what happened: who asked for what, and what became of it.
    pub fn add(&mut self, now: Duration, who: &str, verb: &str, key: &str, outcome: &str) {
        let line = format!("{:>16.6} {who:<14} {verb:<8} {key} {outcome}", now.as_secs_f64());
        let named = format!("{:.6} {who} {verb} {} {outcome}", now.as_secs_f64(), without_random_name(key));
        self.hasher.update(named.as_bytes()).update(b"\n");
        self.total += 1;
        if self.lines.len() >= LINES_KEPT_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// The hash of all that was added.
    pub fn hash(&self) -> TraceHash {
        TraceHash(*self.hasher.finalize().as_bytes())
    }

    /// How many lines were added.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The last lines, oldest first.
    pub fn last_lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
