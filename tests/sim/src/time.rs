//! The world's time: it stands still while anything can run, and then jumps to the next moment that somebody waits for.
//!
//! tokio's paused time would do the same, but needs a feature that a build of the whole workspace would also give to the
//! product. Here the runtime has no timers at all: it tells that it is about to park, which means that every task waits,
//! and then exactly one waiter is woken, in the order of moment and number. So whoever asks tokio for a timer panics,
//! and is found.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

/// The world's time since it began. Clones are the same time.
#[derive(Debug, Clone, Default)]
pub struct Time(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    now: Duration,
    next_number: u64,
    waiting: BTreeMap<(Duration, u64), Waker>,
    /// Nobody waits for a moment, and still nobody can run.
    is_stuck: bool,
    root: Option<Waker>,
}

/// Every task waits for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("every task waits for another one")]
pub struct Stuck;

impl Time {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time of a world that has been for this long already.
    pub fn from(now: Duration) -> Self {
        Self(Arc::new(Mutex::new(State { now, ..State::default() })))
    }

    /// How long the world has been.
    pub fn now(&self) -> Duration {
        self.lock().now
    }

    /// Returns after exactly this long.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        let mut state = self.lock();
        let number = state.next_number;
        state.next_number += 1;
        Sleep { time: self.clone(), key: (state.now.saturating_add(duration), number) }
    }

    /// Jumps to the next moment that somebody waits for.
    fn advance(&self) {
        let mut state = self.lock();
        let woken = match state.waiting.pop_first() {
            Some(((moment, _), waker)) => {
                state.now = state.now.max(moment);
                Some(waker)
            }
            None => {
                state.is_stuck = true;
                state.root.take()
            }
        };
        // A waker may take the lock.
        drop(state);
        if let Some(waker) = woken {
            waker.wake();
        }
    }

    /// Runs a world's future to its end, on this thread.
    ///
    /// # Errors
    /// [`Stuck`].
    ///
    /// # Panics
    /// When no runtime can be made.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> Result<T, Stuck> {
        let time = self.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().on_thread_park(move || time.advance()).build();
        let runtime = runtime.expect("a runtime without drivers can be made");
        let mut future = std::pin::pin!(future);
        runtime.block_on(poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            let mut state = self.lock();
            if state.is_stuck {
                return Poll::Ready(Err(Stuck));
            }
            state.root = Some(context.waker().clone());
            Poll::Pending
        }))
    }
}

/// Waits for a moment.
#[derive(Debug)]
pub struct Sleep {
    time: Time,
    key: (Duration, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.time.lock();
        if state.now >= self.key.0 {
            state.waiting.remove(&self.key);
            return Poll::Ready(());
        }
        state.waiting.insert(self.key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.time.lock().waiting.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleepers_wake_in_order_and_time_jumps() {
        let time = Time::default();
        let order: Arc<Mutex<Vec<u64>>> = Arc::default();
        let sleepers = |time: Time, order: Arc<Mutex<Vec<u64>>>| async move {
            let sleeper = |seconds: u64| {
                let (time, order) = (time.clone(), Arc::clone(&order));
                tokio::spawn(async move {
                    time.sleep(Duration::from_secs(seconds)).await;
                    order.lock().expect("no panic").push(seconds);
                })
            };
            let tasks: Vec<_> = [3, 1, 2, 86_400].into_iter().map(sleeper).collect();
            for task in tasks {
                task.await.expect("no panic");
            }
            time.now()
        };
        let ended = time.run(sleepers(time.clone(), Arc::clone(&order))).expect("nobody is stuck");
        assert_eq!(ended, Duration::from_secs(86_400));
        assert_eq!(*order.lock().expect("no panic"), [1, 2, 3, 86_400]);
    }

    #[test]
    fn a_world_in_which_everybody_waits_for_another_ends() {
        let outcome = Time::default().run(async {
            tokio::spawn(std::future::pending::<()>()).await.expect("never");
        });
        assert_eq!(outcome, Err(Stuck));
    }
}
