//! What exporting promises, against servers on this machine.

mod collector;
mod exporter;
mod servers;
mod spans;
mod target;

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use farshore_core::{Clock, Passphrase, SeededEntropy, Timestamp};
use tokio::sync::watch;

use crate::{Collector, ExportObserver, Exporter, Service, Span, TelemetryError, TelemetryTarget};

/// No error and no debug text may hold this.
const SECRET: &str = "s3cret-Of-The-Operator";
/// What a collector has for its answer in these tests: a length that nothing else has.
const TIMEOUT: Duration = Duration::from_secs(59);
/// When these tests take place.
const NOW: i64 = 1_790_000_000_000;

fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_unix_milliseconds(NOW + milliseconds)
}

/// A clock that stands until it is set, but for sleeps that pass at once and take it with them.
struct TestClock {
    now: watch::Sender<Duration>,
    sleeps: Mutex<Vec<Duration>>,
    passes: fn(Duration) -> bool,
}

impl TestClock {
    /// It goes on by hand only.
    fn standing() -> Arc<Self> {
        Self::passing(|_| false)
    }

    /// Everything passes at once but the time that a collector has.
    fn quick() -> Arc<Self> {
        Self::passing(|length| length != TIMEOUT && length != Duration::from_secs(1))
    }

    fn passing(passes: fn(Duration) -> bool) -> Arc<Self> {
        Arc::new(Self { now: watch::Sender::default(), sleeps: Mutex::default(), passes })
    }

    fn advance(&self, length: Duration) {
        self.now.send_modify(|now| *now += length);
    }

    fn sleeps(&self) -> Vec<Duration> {
        self.sleeps.lock().expect("no panic").clone()
    }

    /// Those that are no collector's time.
    fn pauses(&self) -> Vec<u64> {
        let own = |length: &Duration| (self.passes)(*length) && *length != Duration::from_secs(5);
        self.sleeps().iter().filter(|length| own(length)).map(Duration::as_secs).collect()
    }
}

#[async_trait::async_trait]
impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        at(0)
    }

    fn monotonic(&self) -> Duration {
        *self.now.borrow()
    }

    async fn sleep(&self, duration: Duration) {
        self.sleeps.lock().expect("no panic").push(duration);
        if (self.passes)(duration) {
            self.advance(duration);
            tokio::task::yield_now().await;
        } else {
            let end = self.monotonic() + duration;
            self.now.subscribe().wait_for(|now| *now >= end).await.expect("a clock");
        }
    }
}

/// Notes what it hears.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Notes {
    fn lines(&self) -> Vec<String> {
        self.0.lock().expect("no panic").clone()
    }
}

impl ExportObserver for Notes {
    fn failed(&self, collector: &str, error: &TelemetryError) {
        let text = error.to_string();
        let why = text.strip_prefix(collector).expect("the collector's name");
        self.0.lock().expect("no panic").push(format!("failed{why}"));
    }

    fn recovered(&self, _: &str, lost_spans: u64) {
        self.0.lock().expect("no panic").push(format!("recovered, {lost_spans} lost"));
    }
}

fn target(endpoint: impl Into<String>) -> TelemetryTarget {
    TelemetryTarget { endpoint: endpoint.into(), timeout: TIMEOUT, certificates: None, resource: BTreeMap::new() }
}

fn service() -> Service {
    Service { version: "1.2.3".to_owned(), instance: "instance-1".to_owned(), host: "left".to_owned() }
}

fn headers() -> BTreeMap<String, Passphrase> {
    BTreeMap::from([("Authorization".to_owned(), Passphrase::new(format!("Bearer {SECRET}")))])
}

fn collector(endpoint: impl Into<String>) -> Collector {
    Collector::new(&target(endpoint), &service(), headers(), None).expect("a collector")
}

fn start(endpoint: impl Into<String>, clock: &Arc<TestClock>) -> (Exporter, Arc<Notes>) {
    let notes = Arc::<Notes>::default();
    let (clock, entropy) = (Arc::clone(clock) as _, Arc::new(SeededEntropy::new(7)));
    (Exporter::start(collector(endpoint), clock, entropy, Arc::clone(&notes) as _), notes)
}

/// A trace of so many spans.
fn trace(name: &'static str, spans: usize) -> Span {
    let child = Span::new("child", at(0), at(1));
    Span { children: vec![child; spans - 1], ..Span::new(name, at(0), at(1)) }
}

/// What never ends fails its test.
async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("an end")
}

async fn until(is_so: impl Fn() -> bool) {
    in_time(async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
