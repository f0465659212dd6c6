//! Who used the processors: QEMU, Farshore, and everything else on the machine.
//!
//! All figures are the system's own ticks, and only their ratios are used.

use std::fs;

use anyhow::{Context as _, Result};

/// Processors, as shares of all of them: 1 is all of the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Busy {
    /// The guest's QEMU, with what it does for Farshore.
    pub qemu: f64,
    /// `farshore serve`.
    pub farshore: f64,
    /// Everything else: the bench itself, the system, and what the machine is otherwise used for.
    pub others: f64,
}

/// A moment's counts.
#[derive(Debug, Clone, Copy)]
pub struct Ticks {
    qemu: u64,
    farshore: u64,
    working: u64,
    all: u64,
}

impl Ticks {
    /// Counts now.
    pub fn now(qemu: u32, farshore: Option<u32>) -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        let (working, all) = of_machine(&stat).context("/proc/stat has no line of all processors")?;
        let process = |id: u32| {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).context("reading what a process used")?;
            of_process(&stat).context("a process has no times")
        };
        Ok(Self { qemu: process(qemu)?, farshore: farshore.map_or(Ok(0), process)?, working, all })
    }

    /// The shares since an earlier moment.
    pub fn since(self, earlier: Self) -> Busy {
        let all = self.all.saturating_sub(earlier.all).max(1) as f64;
        let share = |now: u64, before: u64| now.saturating_sub(before) as f64 / all;
        let (qemu, farshore) = (share(self.qemu, earlier.qemu), share(self.farshore, earlier.farshore));
        let others = (share(self.working, earlier.working) - qemu - farshore).max(0.0);
        Busy { qemu, farshore, others }
    }
}

/// The ticks in which processors worked, and all.
fn of_machine(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // user nice system idle iowait irq softirq steal; what follows is in user already.
    let ticks: Vec<u64> = line.split_whitespace().take(8).filter_map(|word| word.parse().ok()).collect();
    let idle = ticks.get(3)? + ticks.get(4)?;
    let all: u64 = ticks.iter().sum();
    Some((all - idle, all))
}

/// The ticks of a process and its threads. Its name stands in parentheses, and may have any character.
fn of_process(stat: &str) -> Option<u64> {
    let mut words = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(words.next()?.parse::<u64>().ok()? + words.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_all_processors() {
        assert_eq!(of_machine("cpu  10 0 5 80 5 0 0 0 9 9\ncpu0 1 1"), Some((15, 100)));
        let process = "42 (a ) b) S 1 42 42 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 1 0 5";
        assert_eq!(of_process(process), Some(42));
        let earlier = Ticks { qemu: 10, farshore: 0, working: 100, all: 1_000 };
        let later = Ticks { qemu: 40, farshore: 10, working: 150, all: 1_100 };
        let busy = later.since(earlier);
        assert!((busy.qemu - 0.3).abs() < 1e-9 && (busy.farshore - 0.1).abs() < 1e-9, "{busy:?}");
        assert!((busy.others - 0.1).abs() < 1e-9, "{busy:?}");
    }
}
