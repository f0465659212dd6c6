//! What a vault needs from the process that it runs in: time, randomness and processors.

use std::{fmt, num::NonZeroUsize, sync::Arc};

use farshore_core::{Clock, Entropy, SystemClock, SystemEntropy};
use tokio::sync::Semaphore;

use crate::{Error, Result};

/// What comes in from outside, so that a simulator can own it.
#[derive(Clone)]
pub struct Context {
    /// Where the times in commits come from. They are shown, and decide nothing; a pruner's clock can only make points younger
    /// and a grace longer.
    pub clock: Arc<dyn Clock>,
    /// Where keys and names come from.
    pub entropy: Arc<dyn Entropy>,
    /// Where identities, compression and encryption are computed.
    pub workers: Workers,
}

impl Context {
    /// The machine's own clock and randomness, and a worker for each of its processors.
    pub fn system() -> Self {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy), workers: Workers::threads(threads) }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Context").field("workers", &self.workers).finish_non_exhaustive()
    }
}

/// Where work that keeps a processor busy is done. Clones share their limit.
#[derive(Debug, Clone)]
pub struct Workers(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Threads(Arc<Semaphore>),
    Inline,
}

impl Workers {
    /// At most this many pieces of work at a time, on the blocking threads of the tokio runtime that asks.
    pub fn threads(count: NonZeroUsize) -> Self {
        Self(Kind::Threads(Arc::new(Semaphore::new(count.get()))))
    }

    /// In the task that asks, one after the other: the order is decided by the tasks alone, as a simulation needs it.
    pub fn inline() -> Self {
        Self(Kind::Inline)
    }

    /// Does the work. If the caller goes away, work that has begun still runs to its end.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let stopped = |reason: &str| Error::Stopped { reason: reason.to_owned() };
        match &self.0 {
            Kind::Inline => Ok(work()),
            Kind::Threads(permits) => {
                let permit =
                    Arc::clone(permits).acquire_owned().await.map_err(|_| stopped("its workers were closed"))?;
                let job = tokio::task::spawn_blocking(move || {
                    let _permit = permit;
                    work()
                });
                job.await.map_err(|error| {
                    if error.is_panic() {
                        std::panic::resume_unwind(error.into_panic());
                    }
                    stopped("the runtime is shutting down")
                })
            }
        }
    }
}
