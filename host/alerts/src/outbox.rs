//! What waits for one target.
//!
//! Whoever has an event puts it in and goes on; one task sends, one event after the other. Nothing of it is on the disk:
//! what was not sent when the process ends is not sent.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use farshore_core::Clock;
use farshore_state::Event;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{AlertError, Sender};

/// At most so many events wait, beside the one that is being sent.
pub const QUEUE_MAX: usize = 256;
/// The pause after a first failure; it doubles
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// up to this.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// No try begins later than this after an event was put in, but for its first.
const RETRY_MAX: Duration = Duration::from_secs(3_600);
/// What waits when it is time to stop is sent within this, or not.
const LAST_MAX: Duration = Duration::from_secs(5);

/// Hears how an outbox fares. It is called by the task that sends, which waits for it.
pub trait OutboxObserver: Send + Sync {
    /// A try failed; `given_up` if there is no other.
    fn failed(&self, target: &str, error: &AlertError, given_up: bool);

    /// An event was taken.
    fn sent(&self, target: &str);

    /// So many events were given up untold: others came while the queue was full, or the end came.
    fn dropped(&self, target: &str, count: u64);
}

/// A limited queue before a sender.
pub struct Outbox {
    sender: Sender,
    host: String,
    clock: Arc<dyn Clock>,
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Whether one was taken out and its end is not known.
    is_sending: bool,
    /// Given up since the observer was told.
    dropped: u64,
}

/// An event, and the clock's monotonic time when it was put in.
struct Waiting {
    event: Event,
    since: Duration,
}

impl Outbox {
    /// An empty outbox. The host's name goes to the target with each event.
    pub fn new(sender: Sender, host_name: impl Into<String>, clock: Arc<dyn Clock>) -> Self {
        Self { sender, host: host_name.into(), clock, queue: Mutex::default(), filled: Notify::new() }
    }

    /// What its target is called in a sentence.
    pub fn target(&self) -> &str {
        self.sender.name()
    }

    /// Hands over an event, and never waits. If [`QUEUE_MAX`] wait already, the oldest of them is given up.
    pub fn put(&self, event: Event) {
        let waiting = Waiting { event, since: self.clock.monotonic() };
        let mut queue = self.queue();
        if queue.waiting.len() >= QUEUE_MAX {
            queue.waiting.pop_front();
            queue.dropped = queue.dropped.saturating_add(1);
        }
        queue.waiting.push_back(waiting);
        drop(queue);
        self.filled.notify_one();
    }

    /// Sends what is put in until `stop` is cancelled; then tries what waits once more, within five seconds, and ends. It
    /// runs once at a time. If it is dropped, the event that was being sent is lost.
    pub async fn run(&self, stop: &CancellationToken, observer: &dyn OutboxObserver) {
        let limit = async {
            stop.cancelled().await;
            self.clock.sleep(LAST_MAX).await;
        };
        tokio::select! {
            biased;
            () = self.work(stop, observer) => {}
            () = limit => self.give_up_all(),
        }
        self.tell_dropped(observer);
    }

    /// Ends when it is time to stop and nothing waits.
    async fn work(&self, stop: &CancellationToken, observer: &dyn OutboxObserver) {
        loop {
            self.tell_dropped(observer);
            if let Some(waiting) = self.take() {
                self.deliver(&waiting, stop, observer).await;
                self.queue().is_sending = false;
            } else if stop.is_cancelled() {
                return;
            } else {
                tokio::select! {
                    () = self.filled.notified() => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }

    /// Tries until the event is taken or given up.
    async fn deliver(&self, waiting: &Waiting, stop: &CancellationToken, observer: &dyn OutboxObserver) {
        let mut pause = PAUSE_MIN;
        loop {
            let Err(error) = self.sender.send(&self.host, &waiting.event).await else {
                return observer.sent(self.target());
            };
            let age = self.clock.monotonic().saturating_sub(waiting.since);
            let given_up = error.is_final() || stop.is_cancelled() || age.saturating_add(pause) > RETRY_MAX;
            observer.failed(self.target(), &error, given_up);
            if given_up {
                return;
            }
            tokio::select! {
                () = self.clock.sleep(pause) => {}
                () = stop.cancelled() => {}
            }
            self.tell_dropped(observer);
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
        }
    }

    fn take(&self) -> Option<Waiting> {
        let mut queue = self.queue();
        let waiting = queue.waiting.pop_front();
        queue.is_sending = waiting.is_some();
        waiting
    }

    fn give_up_all(&self) {
        let mut queue = self.queue();
        let unsent = queue.waiting.len().saturating_add(usize::from(queue.is_sending));
        queue.dropped = queue.dropped.saturating_add(u64::try_from(unsent).unwrap_or(u64::MAX));
        queue.waiting.clear();
        queue.is_sending = false;
    }

    fn tell_dropped(&self, observer: &dyn OutboxObserver) {
        let dropped = std::mem::take(&mut self.queue().dropped);
        if dropped > 0 {
            observer.dropped(self.target(), dropped);
        }
    }

    /// Nothing between taking this lock and giving it back can leave the queue half changed.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
