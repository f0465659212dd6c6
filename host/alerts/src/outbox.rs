//! What waits for one target.
//!
//! Whoever has an event puts it in and goes on; one task sends, one event after the other, the oldest first. Nothing of it
//! is on the disk: what was not sent when the process ends is not sent.
//!
//! ## What fails
//! A failure says something of the event or of the target, and what comes next depends on which:
//! - The target *refused* the event for now (500, 429, an SMTP 4xx). It may take another, so the event goes behind all that
//!   were not refused, and the next has its turn at once. When there is none left, there is a pause. Who comes during that
//!   pause has a turn at once too, and the others have theirs no later for it.
//! - The target *did not answer*. Other events would fare no better, so there is a pause at once, whoever waits or comes.
//! - No other try can succeed: the event is given up.
//!
//! After a pause all have their turn again. The pauses double until an event is taken. So each event that is put in
//! makes one try, and each pause at most one more for each that waits. An event is given up when its hour is over.

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

/// At most so many events wait, with the one that is being sent: in a big outage every group has one.
pub const QUEUE_MAX: usize = 4_096;
/// The pause after a first failure; it doubles
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// up to this.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// No try begins later than this after an event was put in.
const RETRY_MAX: Duration = Duration::from_secs(3_600);
/// What waits when it is time to stop is sent within this, or not.
const LAST_MAX: Duration = Duration::from_secs(5);

/// Hears how an outbox fares. It is called by the task that sends, which waits for it.
pub trait OutboxObserver: Send + Sync {
    /// A try failed; `given_up` if there is no other.
    fn failed(&self, target: &str, error: &AlertError, given_up: bool);

    /// An event was taken.
    fn sent(&self, target: &str);

    /// So many events were given up untold: others came while the queue was full, their hour was over before they had a
    /// turn, or the end came.
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

/// All that failed are older than all that have a turn.
#[derive(Default)]
struct Queue {
    /// Those that have a turn before the next pause, the oldest first.
    next: VecDeque<Waiting>,
    /// Those whose turn failed since the last pause, the oldest first.
    failed: VecDeque<Waiting>,
    /// Whether one was taken out and its end is not known.
    is_sending: bool,
    /// Given up since the observer was told.
    dropped: u64,
}

impl Queue {
    /// With the one that is being sent, so that there is room for it if it has to wait again.
    fn len(&self) -> usize {
        self.next.len().saturating_add(self.failed.len()).saturating_add(usize::from(self.is_sending))
    }

    fn drop_oldest(&mut self) {
        let oldest = self.failed.pop_front().or_else(|| self.next.pop_front());
        self.count_dropped(usize::from(oldest.is_some()));
    }

    fn count_dropped(&mut self, count: usize) {
        self.dropped = self.dropped.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// Those that failed have a turn again.
    fn recall(&mut self) {
        self.failed.append(&mut self.next);
        std::mem::swap(&mut self.failed, &mut self.next);
    }
}

/// An event, and the clock's monotonic time when it was put in.
struct Waiting {
    event: Event,
    since: Duration,
}

impl Waiting {
    fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.since)
    }
}

/// The pause that is next, or that was begun.
struct Pause {
    length: Duration,
    /// By the clock's monotonic time; the greatest if it was not begun.
    end: Duration,
}

impl Pause {
    const fn new(length: Duration) -> Self {
        Self { length, end: Duration::MAX }
    }
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
        let mut queue = self.queue();
        if queue.len() >= QUEUE_MAX {
            queue.drop_oldest();
        }
        queue.next.push_back(Waiting { event, since: self.clock.monotonic() });
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
        let mut pause = Pause::new(PAUSE_MIN);
        loop {
            let next = self.take();
            self.tell_dropped(observer);
            if let Some(waiting) = next {
                match self.deliver(waiting, pause.length, stop, observer).await {
                    Ok(()) => pause.length = PAUSE_MIN,
                    Err(error) if error.is_silence() => self.rest(&mut pause, stop).await,
                    Err(_) => {}
                }
            } else if !self.queue().failed.is_empty() {
                tokio::select! {
                    biased;
                    () = self.filled.notified() => {}
                    () = self.rest(&mut pause, stop) => {}
                }
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

    /// Tries once. What is neither taken nor given up waits again. `pause` is how long it waits at most until its turn.
    async fn deliver(
        &self,
        waiting: Waiting,
        pause: Duration,
        stop: &CancellationToken,
        observer: &dyn OutboxObserver,
    ) -> Result<(), AlertError> {
        let result = self.sender.send(&self.host, &waiting.event).await;
        let mut queue = self.queue();
        queue.is_sending = false;
        let Err(error) = &result else {
            drop(queue);
            observer.sent(self.target());
            return result;
        };
        let age = waiting.age(self.clock.monotonic());
        let given_up = error.is_final() || stop.is_cancelled() || age.saturating_add(pause) > RETRY_MAX;
        if !given_up {
            queue.failed.push_back(waiting);
        }
        drop(queue);
        observer.failed(self.target(), error, given_up);
        result
    }

    /// Waits until the pause is over, or it is time to stop; then all have their turn again, and the next pause is longer.
    /// If it is dropped and called again, the pause goes on, but for no longer than one that begins.
    async fn rest(&self, pause: &mut Pause, stop: &CancellationToken) {
        let now = self.clock.monotonic();
        pause.end = pause.end.min(now.saturating_add(pause.length));
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.clock.sleep(pause.end.saturating_sub(now)) => {}
        }
        *pause = Pause::new(pause.length.saturating_mul(2).min(PAUSE_MAX));
        self.queue().recall();
    }

    /// The oldest that has a turn. Those whose hour is over have none.
    fn take(&self) -> Option<Waiting> {
        let now = self.clock.monotonic();
        let mut queue = self.queue();
        let late = queue.next.partition_point(|waiting| waiting.age(now) > RETRY_MAX);
        queue.next.drain(..late);
        queue.count_dropped(late);
        let next = queue.next.pop_front();
        queue.is_sending = next.is_some();
        next
    }

    fn give_up_all(&self) {
        let mut queue = self.queue();
        let unsent = queue.len();
        queue.count_dropped(unsent);
        queue.next.clear();
        queue.failed.clear();
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
