//! What is heard of a cycle or a run, as progress on the terminal.

use farshore_core::Basis;
use farshore_failover::{RunEvent, RunObserver};
use farshore_platform::ReadinessLevel;
use farshore_replication::{CycleEvent, CycleObserver};

use crate::output::{Output, Progress, human};

/// Shows what happens.
pub struct Shown {
    output: Output,
    progress: Progress,
    bars: bool,
}

impl Shown {
    /// With bars or lines of progress.
    pub fn with_progress(output: Output) -> Self {
        Self { output, progress: Progress::new(output), bars: true }
    }

    /// Only what the operator must know: for commands that go on for ever.
    pub fn quiet(output: Output) -> Self {
        Self { output, progress: Progress::new(Output { json: true, ..output }), bars: false }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.progress.pause();
    }

    fn warn(&self, text: &str) {
        self.progress.pause();
        self.output.warn(text);
    }
}

impl CycleObserver for Shown {
    fn event(&self, event: CycleEvent) {
        match event {
            CycleEvent::Leftover(text) | CycleEvent::Warning(text) => self.warn(&text),
            CycleEvent::Waiting(text) if self.bars => self.progress.remark(&text),
            CycleEvent::Waiting(text) => tracing::info!("{text}"),
            CycleEvent::Captured(report) if !report.note.is_empty() => self.warn(&report.note),
            CycleEvent::Disk { machine, disk, size_bytes, basis, reason } if self.bars => {
                if !reason.is_empty() {
                    self.progress.remark(&format!("{machine} {disk}: {reason}"));
                }
                // Each byte is read once at most; how much has changed is known only when all of it was read.
                let bytes_max = match basis {
                    Basis::Full | Basis::Compared => Some(size_bytes),
                    Basis::Tracked => None,
                };
                self.progress.begin(&format!("{machine} {disk} ({})", human::bytes(size_bytes)), bytes_max);
            }
            CycleEvent::Untracked { machine, disk, bytes } => {
                let bytes = human::bytes(bytes);
                self.warn(&format!(
                    "{machine} {disk}: change tracking left out {bytes} that had changed; all of it is compared"
                ));
            }
            CycleEvent::Moved(bytes) => self.progress.advance(bytes),
            CycleEvent::CaughtUp(report) if self.bars => {
                let captured_at = report.point.captured_at;
                self.progress.remark(&format!("point {}, of {captured_at}, waits no more", report.point.sequence));
            }
            CycleEvent::GivenUp { points, why } => {
                self.warn(&format!("{points} that waited will not come into the vault: {why}"));
            }
            CycleEvent::Suspended { machine, code, why, .. } => {
                self.warn(&format!("machine {machine} is suspended, and the others go on: [{code}] {why}"));
            }
            CycleEvent::Returned { machine, .. } => self.progress.remark(&format!("machine {machine} is back")),
            CycleEvent::Captured(_)
            | CycleEvent::Disk { .. }
            | CycleEvent::Committed(_)
            | CycleEvent::CaughtUp(_)
            | CycleEvent::Spooled { .. } => {}
        }
    }
}

impl RunObserver for Shown {
    fn event(&self, event: RunEvent) {
        match event {
            RunEvent::Begun { run, resumed: false } => self.progress.remark(&format!("run {run}")),
            RunEvent::Begun { run, resumed: true } => {
                self.progress.remark(&format!("run {run}, which was cut short, goes on"));
            }
            RunEvent::Step(text) => {
                self.progress.pause();
                self.progress.remark(&text);
            }
            RunEvent::DiskStarted { machine, disk, size_bytes } => {
                // Zeros are not written, and how much the rest is the vault does not know beforehand.
                self.progress.begin(&format!("{machine} {disk} ({})", human::bytes(size_bytes)), None);
            }
            RunEvent::Moved(bytes) => self.progress.advance(bytes),
            RunEvent::Readiness { machine, readiness } => {
                let level = level(readiness.level);
                self.progress.remark(&format!("{machine} is {level}: {}", readiness.evidence));
            }
            RunEvent::Warning(text) => self.warn(&text),
        }
    }
}

/// The word for how far a machine came.
pub const fn level(level: ReadinessLevel) -> &'static str {
    match level {
        ReadinessLevel::Off => "off",
        ReadinessLevel::Running => "running",
        ReadinessLevel::Ready => "ready",
    }
}
