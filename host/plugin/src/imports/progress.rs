//! What the operator sees while a call takes its time.

use std::time::Duration;

use super::log::one_line;
use crate::{
    Progress,
    limits::{DOING_BYTES_MAX, PROGRESS_PER_SECOND_MAX},
    state::CallState,
    v0_1::host::progress::{Host, Update},
};

/// How many reports an instance made in the second that began at `since`.
#[derive(Debug, Default)]
pub(crate) struct ProgressWindow {
    since: Duration,
    reports: u32,
}

impl ProgressWindow {
    /// Whether one more report may pass now.
    fn admits(&mut self, now: Duration) -> bool {
        if now.saturating_sub(self.since) >= Duration::from_secs(1) {
            *self = Self { since: now, reports: 0 };
        }
        self.reports = self.reports.saturating_add(1);
        self.reports <= PROGRESS_PER_SECOND_MAX
    }
}

impl Host for CallState {
    async fn report(&mut self, update: Update) -> wasmtime::Result<()> {
        if self.progress.admits(self.bound.clock().monotonic()) {
            let Update { doing, done, total } = update;
            let progress = Progress { doing: one_line(&doing, DOING_BYTES_MAX), done, total };
            self.bound.observer().progress(&self.call, &progress);
        }
        Ok(())
    }
}
