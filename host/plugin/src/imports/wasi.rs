//! WASI 0.2 as language runtimes need it, with nothing behind it.
//!
//! Python and JavaScript components import WASI's command-line world whether they use it or not. It is linked, and it is
//! closed: no arguments, no environment, no files, no sockets, no names to look up. Standard output and error are lines
//! of the component's log. Time and randomness are the host's. (A wait on WASI's own clock takes machine time; a
//! component for a simulator uses `farshore:host/clock`.)

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use farshore_core::{Clock, Entropy};
use tokio::io::AsyncWrite;
use wasmtime::component::Linker;
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use super::log::write_line;
use crate::{
    Call, LogLevel,
    bound::Bound,
    limits::{LIST_BYTES_MAX, LOG_LINE_BYTES_MAX},
    state::CallState,
};

/// Links WASI.
pub(crate) fn link_closed_wasi(linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)
}

/// What WASI gives to one instance.
pub(crate) fn closed_wasi(bound: &Arc<Bound>, call: &Arc<Call>) -> WasiCtx {
    let randomness = || Randomness(Arc::clone(bound.entropy()));
    let mut seed = [0; 16];
    bound.entropy().fill(&mut seed);
    let output = |level| LogOutput { bound: Arc::clone(bound), call: Arc::clone(call), level, line: Arc::default() };
    WasiCtxBuilder::new()
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .secure_random(randomness())
        .insecure_random(randomness())
        .insecure_random_seed(u128::from_le_bytes(seed))
        .max_random_size(LIST_BYTES_MAX as u64)
        .wall_clock(HostTime(Arc::clone(bound.clock())))
        .monotonic_clock(HostTime(Arc::clone(bound.clock())))
        .stdout(output(LogLevel::Debug))
        .stderr(output(LogLevel::Info))
        .build()
}

struct HostTime(Arc<dyn Clock>);

impl HostWallClock for HostTime {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.0.now().as_unix_milliseconds().max(0).unsigned_abs())
    }
}

impl HostMonotonicClock for HostTime {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.monotonic().as_nanos()).unwrap_or(u64::MAX)
    }
}

struct Randomness(Arc<dyn Entropy>);

impl rand_core::TryRng for Randomness {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

/// Standard output or error of a component: its lines go to the log.
#[derive(Clone)]
struct LogOutput {
    bound: Arc<Bound>,
    call: Arc<Call>,
    level: LogLevel,
    /// What was written since the last end of a line, at most one line's worth.
    line: Arc<Mutex<Vec<u8>>>,
}

impl LogOutput {
    fn take_in(&self, bytes: &[u8]) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (part, ended) = part.strip_suffix(b"\n").map_or((part, false), |part| (part, true));
            let room = LOG_LINE_BYTES_MAX.saturating_sub(line.len());
            line.extend(part.iter().take(room));
            if ended {
                self.pass_on(&mut line);
            }
        }
    }

    fn pass_on(&self, line: &mut Vec<u8>) {
        let bytes = std::mem::take(line);
        write_line(&self.bound, &self.call, self.level, &String::from_utf8_lossy(&bytes));
    }
}

impl Drop for LogOutput {
    fn drop(&mut self) {
        // The last clone passes on what had no end of line.
        if Arc::strong_count(&self.line) == 1 {
            let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            if !line.is_empty() {
                self.pass_on(&mut line);
            }
        }
    }
}

impl IsTerminal for LogOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogOutput {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

impl OutputStream for LogOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take_in(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LIST_BYTES_MAX)
    }
}

#[async_trait::async_trait]
impl Pollable for LogOutput {
    async fn ready(&mut self) {}
}

impl AsyncWrite for LogOutput {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.take_in(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
