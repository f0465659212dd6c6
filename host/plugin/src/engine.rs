//! The engine that compiles and runs components, and the threads that it needs.
//!
//! What is not needed is off: threads, shared memory, 64-bit memories, garbage-collected types, exceptions and
//! component-model concurrency (a component's functions are plain, and calls are several times cheaper without it).
//! Instances are allocated on demand: a pool would save 13 microseconds a call and cost a fixed number of slots.
//!
//! Guest code is interrupted by epochs: a thread advances the engine's epoch every millisecond, and every few ticks a
//! guest gives way to the others, so that a component that loops shares its thread until its deadline. The thread ends
//! with the host. Components run on a runtime of their own, so that a caller's runtime is never kept waiting by guest
//! code; `event_interval(1)` makes that runtime look at its timers after each slice.

use std::{
    sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    thread::JoinHandle,
};

use tokio::runtime::{Builder, Handle, Runtime};
use wasmtime::{Config, Engine, Strategy};

use crate::limits::{BLOCKING_THREADS_MAX, CALL_STACK_BYTES, EPOCH_TICK, GUEST_STACK_BYTES_MAX, WORKER_THREADS_MAX};

/// How components are compiled and run. The cache's names contain its hash.
fn config() -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .epoch_interruption(true)
        .concurrency_support(false)
        .gc_support(false)
        .max_wasm_stack(GUEST_STACK_BYTES_MAX)
        .async_stack_size(CALL_STACK_BYTES)
        .wasm_memory64(false)
        .wasm_tail_call(false)
        .wasm_relaxed_simd(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false);
    config
}

/// An engine with the threads that it needs.
pub(crate) struct Running {
    engine: Engine,
    runtime: Option<Runtime>,
    ticker: Option<(SyncSender<()>, JoinHandle<()>)>,
}

impl Running {
    /// Starts it.
    pub(crate) fn start() -> Result<Self, EngineError> {
        let engine = Engine::new(&config()).map_err(|error| EngineError::Engine(format!("{error:#}")))?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(WORKER_THREADS_MAX);
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .event_interval(1)
            .thread_name("farshore-plugin")
            .enable_all()
            .build()
            .map_err(EngineError::Threads)?;
        let (stop, stopped) = sync_channel(1);
        let ticking = engine.weak();
        let thread = std::thread::Builder::new()
            .name("farshore-epoch".to_owned())
            .spawn(move || {
                while let (Err(RecvTimeoutError::Timeout), Some(engine)) =
                    (stopped.recv_timeout(EPOCH_TICK), ticking.upgrade())
                {
                    engine.increment_epoch();
                }
            })
            .map_err(EngineError::Threads)?;
        Ok(Self { engine, runtime: Some(runtime), ticker: Some((stop, thread)) })
    }

    /// The engine.
    pub(crate) const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Where components run.
    pub(crate) fn handle(&self) -> &Handle {
        self.runtime.as_ref().map(Runtime::handle).expect("the runtime is taken only when this is dropped")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The host may be dropped inside another runtime, which must not be made to wait.
            runtime.shutdown_background();
        }
        if let Some((stop, thread)) = self.ticker.take() {
            drop(stop);
            // The thread does nothing that could panic; if it did, nothing here depends on how it ended.
            let _ = thread.join();
        }
    }
}

/// Why the component host could not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine does not run on this machine.
    #[error("the WebAssembly engine does not run on this machine: {0}")]
    Engine(String),
    /// The system gave no threads.
    #[error("the system gave no threads for components: {0}")]
    Threads(#[source] std::io::Error),
}
