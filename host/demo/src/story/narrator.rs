//! Telling the story: one line at a time, each with the time since the beginning.

use std::{io::Write, time::Duration};

use farshore_core::{Clock, SystemClock};

/// Writes the story's lines.
pub(super) struct Narrator<'output> {
    output: &'output mut (dyn Write + Send),
    began: Duration,
}

impl<'output> Narrator<'output> {
    pub(super) fn new(output: &'output mut (dyn Write + Send)) -> Self {
        Self { output, began: SystemClock.monotonic() }
    }

    /// What happens, with the time.
    pub(super) fn say(&mut self, text: &str) {
        let seconds = (SystemClock.monotonic() - self.began).as_secs_f64();
        self.line(&format!("{seconds:6.1} s  {text}"));
    }

    /// A heading.
    pub(super) fn heading(&mut self, text: &str) {
        self.line("");
        self.line(text);
    }

    /// A line as it is. Nobody is left to tell if it cannot be written.
    pub(super) fn line(&mut self, text: &str) {
        let _ = writeln!(self.output, "{text}").and_then(|()| self.output.flush());
    }
}

/// Bytes for people: `512 B`, `1.5 MiB`.
pub(super) fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let unit_name = units.get(unit).copied().unwrap_or_default();
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {unit_name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        assert_eq!([0, 1023, 1024, 1_572_864, 5 << 30].map(size), ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "5.0 GiB"]);
    }
}
