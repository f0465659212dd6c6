//! The outside witness: what the guest said on its console, and when. Nothing that Farshore does can change it.

use std::time::Duration;

use crate::console::{Console, Line};

/// A row that the guest called durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The row's number: 1, 2, 3 without gaps.
    pub row: u64,
    /// When the acknowledgement was seen, on this process's monotonic clock.
    pub seen: Duration,
}

/// What a guest's disk remembers, as it says at the end of each boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootReport {
    /// How often this disk was booted, this time included.
    pub boots: u64,
    /// The last row of the database; none if it could not be read.
    pub last_row: Option<u64>,
    /// The database is whole and no row is missing.
    pub integrity_ok: bool,
    /// The last row of the load `pair`.
    pub pair_row: u64,
    /// The guest was shut down gracefully before.
    pub clean: bool,
    /// When it was seen, on this process's monotonic clock.
    pub seen: Duration,
    /// The line itself.
    pub text: String,
}

impl Acknowledgement {
    /// Reads `ACK ROW UPTIME`.
    pub fn parse(line: &Line) -> Option<Self> {
        let mut words = line.text.strip_prefix("ACK ")?.split(' ');
        let row = words.next()?.parse().ok()?;
        // The uptime proves that the line is whole.
        words.next()?.parse::<f64>().ok()?;
        Some(Self { row, seen: line.seen })
    }
}

impl BootReport {
    /// Reads `FARSHORE-UP boots=1 last_row=0 integrity=ok pair_row=0 clean=no`.
    pub fn parse(line: &Line) -> Option<Self> {
        let rest = line.text.strip_prefix("FARSHORE-UP ")?;
        let value = |name: &str| rest.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        Some(Self {
            boots: value("boots")?.parse().ok()?,
            last_row: value("last_row")?.parse().ok(),
            integrity_ok: value("integrity")? == "ok",
            pair_row: value("pair_row")?.parse().ok()?,
            clean: value("clean")? == "yes",
            seen: line.seen,
            text: line.text.clone(),
        })
    }
}

/// Looks at a console for what the guest acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Witness<'console>(pub &'console Console);

impl Witness<'_> {
    /// The last row that was acknowledged.
    pub fn last(&self) -> Option<Acknowledgement> {
        self.0.lines_from(0).iter().rev().find_map(Acknowledgement::parse)
    }

    /// The last row that was acknowledged before this moment of the monotonic clock.
    pub fn last_before(&self, moment: Duration) -> Option<Acknowledgement> {
        let lines = self.0.lines_from(0);
        lines.iter().rev().filter(|line| line.seen < moment).find_map(Acknowledgement::parse)
    }

    /// When this row was acknowledged.
    pub fn of_row(&self, row: u64) -> Option<Acknowledgement> {
        let lines = self.0.lines_from(0);
        lines.iter().filter_map(Acknowledgement::parse).find(|acknowledgement| acknowledgement.row == row)
    }

    /// The last boot that the console saw.
    pub fn boot(&self) -> Option<BootReport> {
        self.0.lines_from(0).iter().rev().find_map(BootReport::parse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line { seen: Duration::from_secs(7), text: text.to_owned() }
    }

    #[test]
    fn only_whole_acknowledgements_count() {
        let acknowledgement = Acknowledgement::parse(&line("ACK 17 31.72")).expect("a whole one");
        assert_eq!(acknowledgement, Acknowledgement { row: 17, seen: Duration::from_secs(7) });
        for text in ["ACK", "ACK 17", "ACK 1", "ACK x 3.1", "NACK 17 31.72", "ACK 17 ", "[ 1.0] ACK 17 31.72"] {
            assert_eq!(Acknowledgement::parse(&line(text)), None, "{text:?}");
        }
    }

    #[test]
    fn a_boot_says_what_the_disk_remembers() {
        let good = "FARSHORE-UP boots=2 last_row=41 integrity=ok pair_row=3 clean=no";
        let report = BootReport::parse(&line(good)).expect("a report");
        assert_eq!((report.boots, report.last_row, report.pair_row), (2, Some(41), 3));
        assert!(report.integrity_ok && !report.clean);
        let bad = "FARSHORE-UP boots=2 last_row=unknown integrity=broken: malformed database ok pair_row=0 clean=no";
        let report = BootReport::parse(&line(bad)).expect("a report");
        assert_eq!((report.last_row, report.integrity_ok), (None, false));
        assert_eq!(BootReport::parse(&line("FARSHORE-UP boo")), None);
    }
}
