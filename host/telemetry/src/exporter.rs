//! What waits for the collector.
//!
//! Whoever has a span puts it in and goes on; one task sends. Nothing of it is on the disk: what was not sent when the
//! process ends is not sent.
//!
//! ## Batches
//! A batch is sent when [`BATCH_SPANS_MAX`] spans wait, or the oldest of them has waited for five seconds. A trace is never
//! parted: a batch that is lost takes whole traces with it. So a trace with more spans than a batch can have is cut.
//!
//! ## What fails
//! A batch that the collector does not take for now is tried again, with the same ids, until five minutes have passed since
//! its first try; others wait behind it, because they would fare no better. The pauses double until a batch is taken, and
//! each is longer by a random part, so that hosts that failed together do not come back together. A collector that says how
//! long it wants to be left alone is left alone for so long, but no longer than a batch is kept. What it refuses for good is
//! given up at once.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use farshore_core::{Clock, Entropy};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{Collector, Span, TelemetryError, wire};

/// At most so many spans wait, beside the batch that is being sent.
pub const QUEUE_SPANS_MAX: usize = 4_096;
/// A batch, and so a trace, has at most so many.
pub const BATCH_SPANS_MAX: usize = 512;
/// A batch that is not full is sent when its oldest trace has waited for so long.
const BATCH_WAIT_MAX: Duration = Duration::from_secs(5);
/// The pause after a first failure; it doubles
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// up to this, and each is longer by up to a quarter.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// No try of a batch begins later than this after its first.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// What waits when it is time to stop is sent within this, or not.
const LAST_MAX: Duration = Duration::from_secs(5);

/// Hears how an exporter fares. It is called by the task that sends, and must return at once.
pub trait ExportObserver: Send + Sync {
    /// The collector does not take spans, and `error` says why. It is told when a trouble begins, and once more if one that
    /// might have passed becomes one that will not ([`TelemetryError::is_final`]).
    fn failed(&self, collector: &str, error: &TelemetryError);

    /// The trouble is over: the collector took a batch whole. So many spans were lost in it.
    fn recovered(&self, collector: &str, lost_spans: u64);
}

/// A limited queue before a collector.
pub struct Exporter {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    task: JoinHandle<()>,
    stop: DropGuard,
}

/// What the exporter and its task share.
#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Notify,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Queue {
    /// The oldest first.
    waiting: VecDeque<Waiting>,
    /// How many spans they are.
    waiting_spans: usize,
    /// Spans that were taken out and whose end is not known.
    sent_spans: usize,
}

/// A trace, and the clock's monotonic time when it was put in.
struct Waiting {
    root: Span,
    spans: usize,
    since: Duration,
}

impl Exporter {
    /// Begins to send what is put in, in a task of its own. If it is dropped, its task ends as with [`Exporter::end`].
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start(
        collector: Collector,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        observer: Arc<dyn ExportObserver>,
    ) -> Self {
        let (shared, stop) = (Arc::<Shared>::default(), CancellationToken::new());
        let task = Task {
            shared: Arc::clone(&shared),
            collector,
            clock: Arc::clone(&clock),
            entropy,
            observer,
            stop: stop.clone(),
            pause: PAUSE_MIN,
            rest_until: Duration::ZERO,
            trouble: None,
        };
        Self { shared, clock, task: tokio::spawn(task.run()), stop: stop.drop_guard() }
    }

    /// Hands over a trace by its root, and never waits. If [`QUEUE_SPANS_MAX`] spans wait, the oldest traces are given up.
    pub fn span(&self, root: Span) {
        let all = root.count();
        let spans = all.min(BATCH_SPANS_MAX);
        let mut dropped = all.saturating_sub(spans);
        let mut queue = self.shared.queue();
        while queue.waiting_spans.saturating_add(spans) > QUEUE_SPANS_MAX
            && let Some(oldest) = queue.pop()
        {
            dropped = dropped.saturating_add(oldest.spans);
        }
        queue.waiting_spans = queue.waiting_spans.saturating_add(spans);
        queue.waiting.push_back(Waiting { root, spans, since: self.clock.monotonic() });
        drop(queue);
        self.shared.drop_spans(dropped);
        self.shared.filled.notify_one();
    }

    /// How many spans never reached the collector: there was no room, it did not take them, or the end came.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped()
    }

    /// Tries what waits once more, within five seconds, and ends. How many spans never reached the collector.
    pub async fn end(self) -> u64 {
        drop(self.stop);
        // A panic of the task was printed when it came.
        let _ = self.task.await;
        self.shared.dropped()
    }
}

impl Queue {
    fn pop(&mut self) -> Option<Waiting> {
        let oldest = self.waiting.pop_front()?;
        self.waiting_spans = self.waiting_spans.saturating_sub(oldest.spans);
        Some(oldest)
    }
}

impl Shared {
    /// Whole traces, the oldest first, that make a batch.
    fn take(&self) -> Vec<Span> {
        let (mut batch, mut queue) = (Vec::new(), self.queue());
        while let Some(next) = queue.waiting.front()
            && queue.sent_spans.saturating_add(next.spans) <= BATCH_SPANS_MAX
            && let Some(next) = queue.pop()
        {
            queue.sent_spans = queue.sent_spans.saturating_add(next.spans);
            batch.push(next.root);
        }
        batch
    }

    /// The end of a batch is known: so many of its spans were lost, or all of them.
    fn ended(&self, lost: Option<usize>) {
        let sent = mem::take(&mut self.queue().sent_spans);
        self.drop_spans(lost.unwrap_or(sent).min(sent));
    }

    fn give_up_all(&self) {
        let mut queue = self.queue();
        let left = mem::take(&mut queue.sent_spans).saturating_add(mem::take(&mut queue.waiting_spans));
        queue.waiting.clear();
        drop(queue);
        self.drop_spans(left);
    }

    fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn drop_spans(&self, count: usize) {
        self.dropped.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Nothing between taking this lock and giving it back can leave the queue half changed.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the observer was told and not yet that it is over.
struct Trouble {
    /// It will not pass before somebody changes something.
    is_final: bool,
    /// Spans that had been dropped when it began.
    dropped_before: u64,
}

struct Task {
    shared: Arc<Shared>,
    collector: Collector,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    observer: Arc<dyn ExportObserver>,
    stop: CancellationToken,
    /// How long the next pause is.
    pause: Duration,
    /// The collector is left alone until then, by the clock's monotonic time.
    rest_until: Duration,
    trouble: Option<Trouble>,
}

impl Task {
    async fn run(mut self) {
        let (shared, clock, stop) = (Arc::clone(&self.shared), Arc::clone(&self.clock), self.stop.clone());
        let limit = async {
            stop.cancelled().await;
            clock.sleep(LAST_MAX).await;
        };
        tokio::select! {
            biased;
            () = self.work() => {}
            () = limit => {}
        }
        shared.give_up_all();
    }

    /// Ends when it is time to stop and nothing waits.
    async fn work(&mut self) {
        loop {
            self.gather().await;
            let roots = self.shared.take();
            if !roots.is_empty() {
                let traces = roots.into_iter().flat_map(|root| wire::trace(root, BATCH_SPANS_MAX, &*self.entropy));
                let body = self.collector.body(traces.collect());
                let lost = self.deliver(body).await;
                self.shared.ended(lost);
            } else if self.stop.is_cancelled() {
                return;
            }
        }
    }

    /// Waits until there is a batch to send, or it is time to stop.
    async fn gather(&self) {
        loop {
            let next = {
                let queue = self.shared.queue();
                queue.waiting.front().map(|oldest| (oldest.since, queue.waiting_spans))
            };
            let wait = match next {
                Some((_, spans)) if spans >= BATCH_SPANS_MAX => return,
                Some((since, _)) => since.saturating_add(BATCH_WAIT_MAX).saturating_sub(self.clock.monotonic()),
                None => Duration::MAX,
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = self.shared.filled.notified() => {}
                () = self.clock.sleep(wait), if next.is_some() => return,
            }
        }
    }

    /// Tries a batch until its end is known. How many spans of it were lost; none if all.
    async fn deliver(&mut self, body: Bytes) -> Option<usize> {
        let begun = self.clock.monotonic();
        loop {
            let rest = self.rest_until.saturating_sub(self.clock.monotonic());
            if !rest.is_zero() {
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => {}
                    () = self.clock.sleep(rest) => {}
                }
            }
            let Err(error) = self.collector.send(body.clone(), &*self.clock).await else {
                self.pause = PAUSE_MIN;
                self.tell_end();
                return Some(0);
            };
            self.tell(&error);
            if error.is_final() {
                self.pause = PAUSE_MIN;
                return match error {
                    TelemetryError::Partly { rejected_spans, .. } => {
                        Some(rejected_spans.try_into().unwrap_or(usize::MAX))
                    }
                    _ => None,
                };
            }
            self.rest_until = self.clock.monotonic().saturating_add(self.next_pause(&error));
            if self.stop.is_cancelled() || self.rest_until.saturating_sub(begun) > RETRY_MAX {
                return None;
            }
        }
    }

    /// How long the collector is left alone after this.
    fn next_pause(&mut self, error: &TelemetryError) -> Duration {
        let pause = self.pause;
        self.pause = pause.saturating_mul(2).min(PAUSE_MAX);
        if let TelemetryError::Status { retry_after: Some(wanted), .. } = error {
            return (*wanted).clamp(PAUSE_MIN, RETRY_MAX);
        }
        let mut random = [0];
        self.entropy.fill(&mut random);
        pause.saturating_add(pause.saturating_mul(random[0].into()) / 1_024)
    }

    fn tell(&mut self, error: &TelemetryError) {
        let is_worse = self.trouble.as_ref().is_none_or(|trouble| error.is_final() && !trouble.is_final);
        if is_worse {
            let dropped_before =
                self.trouble.as_ref().map_or_else(|| self.shared.dropped(), |trouble| trouble.dropped_before);
            self.trouble = Some(Trouble { is_final: error.is_final(), dropped_before });
            self.observer.failed(self.collector.name(), error);
        }
    }

    fn tell_end(&mut self) {
        if let Some(trouble) = self.trouble.take() {
            let lost_spans = self.shared.dropped().saturating_sub(trouble.dropped_before);
            self.observer.recovered(self.collector.name(), lost_spans);
        }
    }
}
