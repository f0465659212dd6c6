//! Time, as the host counts it.

use std::{sync::Arc, time::Duration};

use crate::{
    limits::SLEEP_MILLISECONDS_MAX,
    state::CallState,
    v0_1::host::{
        clock::{Host, Instant},
        errors::HostError,
    },
};

impl CallState {
    fn instant(&self) -> Instant {
        let since = self.bound.clock().monotonic().saturating_sub(self.clock_base);
        Instant { nanoseconds: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX) }
    }
}

impl Host for CallState {
    async fn monotonic(&mut self) -> wasmtime::Result<Result<Instant, HostError>> {
        Ok(Ok(self.instant()))
    }

    async fn sleep(&mut self, milliseconds: u32) -> wasmtime::Result<Result<Instant, HostError>> {
        if milliseconds > SLEEP_MILLISECONDS_MAX {
            let told = format!("a sleep is at most {SLEEP_MILLISECONDS_MAX} ms; ask again for more");
            return Ok(Err(HostError::Invalid(told)));
        }
        let clock = Arc::clone(self.bound.clock());
        self.waiting_for = Some("clock.sleep");
        clock.sleep(Duration::from_millis(u64::from(milliseconds))).await;
        self.waiting_for = None;
        Ok(Ok(self.instant()))
    }
}
