//! A sequence of stages that stops at the first that fails, with a heading and a time for each.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::clock::{Stopwatch, words};

/// Runs stages, and remembers how long they took.
#[derive(Debug)]
pub struct Stages {
    stopwatch: Stopwatch,
    done: Vec<(String, Duration)>,
}

impl Stages {
    /// No stage yet.
    pub fn start() -> Self {
        Self { stopwatch: Stopwatch::start(), done: Vec::new() }
    }

    /// Runs one stage. Its error names it.
    pub fn run<T>(&mut self, name: &str, stage: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("\n=== {name}");
        let stopwatch = Stopwatch::start();
        let result = stage().with_context(|| format!("stage failed: {name}"));
        let took = stopwatch.elapsed();
        let verdict = if result.is_ok() { "done in" } else { "FAILED after" };
        eprintln!("=== {name}: {verdict} {}", words(took));
        self.done.push((name.to_owned(), took));
        result
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.stopwatch.elapsed()
    }

    /// Each stage with its time.
    pub fn done(&self) -> &[(String, Duration)] {
        &self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_its_cause_and_names_the_stage() {
        let mut stages = Stages::start();
        assert_eq!(stages.run("first", || Ok(7)).unwrap(), 7);
        let error = stages.run("second", || anyhow::bail!("no such file") as Result<()>).unwrap_err();
        assert_eq!(format!("{error:#}"), "stage failed: second: no such file");
        assert_eq!(stages.done().len(), 2);
    }
}
