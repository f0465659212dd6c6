//! A clock that goes on only when every task waits: then to when the first of them is woken.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use farshore_core::{Clock, Timestamp};
use tokio::sync::oneshot;

/// So often all tasks have their turn before the clock goes on: more often than any of them gives up its turn.
const YIELDS: usize = 200;

/// See the module.
#[derive(Default)]
pub struct VirtualClock {
    now: Mutex<Duration>,
    sleepers: Mutex<BTreeMap<(Duration, u64), oneshot::Sender<()>>>,
    slept: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait::async_trait]
impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        let passed = i64::try_from(self.monotonic().as_millis()).expect("not so long");
        Timestamp::from_unix_milliseconds(1_800_000_000_000 + passed)
    }

    fn monotonic(&self) -> Duration {
        *locked(&self.now)
    }

    async fn sleep(&self, duration: Duration) {
        let (wake, woken) = oneshot::channel();
        let key = (self.monotonic().saturating_add(duration), self.slept.fetch_add(1, Ordering::Relaxed));
        locked(&self.sleepers).insert(key, wake);
        // The clock lives as long as who sleeps by it.
        let _ = woken.await;
    }
}

impl VirtualClock {
    /// Lets every task go on until all of them wait.
    pub async fn settle() {
        for _ in 0..YIELDS {
            tokio::task::yield_now().await;
        }
    }

    /// Goes on to when the first task is woken, or to `limit` if that is before; false at the limit.
    pub fn go_on(&self, limit: Duration) -> bool {
        let (mut sleepers, mut now) = (locked(&self.sleepers), locked(&self.now));
        match sleepers.first_entry().filter(|first| first.key().0 <= limit) {
            Some(first) => {
                let ((at, _), wake) = first.remove_entry();
                *now = at.max(*now);
                // Who slept may have given up.
                let _ = wake.send(());
                true
            }
            None => {
                *now = limit.max(*now);
                false
            }
        }
    }
}
