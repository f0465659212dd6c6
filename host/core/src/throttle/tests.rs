use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::{sync::oneshot, task::JoinHandle};

use super::*;
use crate::hours::Zone;

const MIB: u64 = 1 << 20;
/// 2026-10-02 17:59:50, a Friday.
const START: &str = "2026-10-02T17:59:50Z";
/// So often all tasks have their turn before the clock goes on: there are fewer tasks.
const YIELDS: usize = 256;
/// Nothing takes longer.
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// A clock that goes on only when every task waits: then to when the first of them is woken.
#[derive(Default)]
struct PausedClock {
    now: Mutex<Duration>,
    sleepers: Mutex<BTreeMap<(Duration, u64), oneshot::Sender<()>>>,
    slept: AtomicU64,
}

#[async_trait::async_trait]
impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        let start: Timestamp = START.parse().expect("a time");
        let elapsed = i64::try_from(self.monotonic().as_millis()).expect("not so long");
        Timestamp::from_unix_milliseconds(start.as_unix_milliseconds() + elapsed)
    }

    fn monotonic(&self) -> Duration {
        *self.now.lock().expect("no panic")
    }

    async fn sleep(&self, duration: Duration) {
        let (wake, woken) = oneshot::channel();
        let key = (self.monotonic() + duration, self.slept.fetch_add(1, Ordering::Relaxed));
        self.sleepers.lock().expect("no panic").insert(key, wake);
        // The clock lives as long as who sleeps by it.
        let _ = woken.await;
    }
}

impl PausedClock {
    /// Lets every task go on until all of them wait.
    async fn settle() {
        for _ in 0..YIELDS {
            tokio::task::yield_now().await;
        }
    }

    /// Goes on to when the first task is woken, or to `limit` if that is before; false at the limit.
    fn go_on(&self, limit: Duration) -> bool {
        let mut sleepers = self.sleepers.lock().expect("no panic");
        let mut now = self.now.lock().expect("no panic");
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

/// What has passed: when, the number of who asked, and how many bytes.
type Passed = Arc<Mutex<Vec<(Duration, usize, u64)>>>;

struct Scene {
    clock: Arc<PausedClock>,
    throttle: Arc<Throttle>,
    passed: Passed,
}

impl Scene {
    fn new(limits: Limits) -> Self {
        let clock = Arc::new(PausedClock::default());
        let throttle = Arc::new(Throttle::new(Arc::clone(&clock) as Arc<dyn Clock>, limits));
        Self { clock, throttle, passed: Passed::default() }
    }

    /// A task that asks for so many bytes again and again. It has its place in the queue when this returns.
    async fn ask(&self, number: usize, bytes: u64, times: usize) -> JoinHandle<()> {
        let (clock, throttle, passed) = (Arc::clone(&self.clock), Arc::clone(&self.throttle), Arc::clone(&self.passed));
        let task = tokio::spawn(async move {
            for _ in 0..times {
                throttle.pass(bytes).await;
                passed.lock().expect("no panic").push((clock.monotonic(), number, bytes));
            }
        });
        tokio::task::yield_now().await;
        task
    }

    /// What has passed up to this long after the start.
    async fn passed_by(&self, seconds: f64) -> Vec<(Duration, usize, u64)> {
        let limit = Duration::from_secs_f64(seconds);
        PausedClock::settle().await;
        while self.clock.go_on(limit) {
            PausedClock::settle().await;
        }
        self.passed.lock().expect("no panic").clone()
    }

    async fn seconds_of(&self, work: impl Future<Output = ()>) -> f64 {
        let began = self.clock.monotonic();
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                () = &mut work => return (self.clock.monotonic() - began).as_secs_f64(),
                () = PausedClock::settle() => assert!(self.clock.go_on(began + DAY), "it ends within a day"),
            }
        }
    }
}

fn limit(text: &str) -> Limit {
    text.parse().expect(text)
}

fn limits(otherwise: &str, hours: &[(&str, &str)]) -> Limits {
    let hours = hours.iter().map(|(hours, rate)| (hours.parse().expect(hours), limit(rate))).collect();
    Limits { hours: Timetable::new(Zone::utc(), hours), otherwise: limit(otherwise) }
}

#[test]
fn rates_and_limits_are_read_and_written() {
    for (text, bytes, canonical) in [
        ("1B/s", 1, "1B/s"),
        ("512KiB/s", 512 << 10, "512KiB/s"),
        ("20 MiB/s", 20 << 20, "20MiB/s"),
        ("2048MiB/s", 2 << 30, "2GiB/s"),
        ("100Mbit/s", 12_500_000, "100Mbit/s"),
        ("1024Mbit/s", 128_000_000, "1024Mbit/s"),
        ("9kbit/s", 1_125, "9kbit/s"),
        ("1000Mbit/s", 125_000_000, "1Gbit/s"),
        ("18446744073709551615B/s", u64::MAX, "18446744073709551615B/s"),
    ] {
        let rate: Rate = text.parse().expect(text);
        assert_eq!((rate.bytes_per_second(), rate.to_string().as_str()), (bytes, canonical), "{text}");
        assert_eq!(canonical.parse(), Ok(rate));
        assert_eq!(limit(text), Limit::Rate(rate));
    }
    assert_eq!(limit("unlimited"), Limit::Unlimited);
    for text in ["\"20MiB/s\"", "\"unlimited\""] {
        let read: Limit = serde_json::from_str(text).expect(text);
        assert_eq!(serde_json::to_string(&read).expect("text"), text);
    }
}

#[test]
fn what_is_no_rate_is_refused_with_an_example() {
    for text in
        ["", "5", "5MiB", "MiB/s", "0B/s", "0Mbit/s", "1.5MiB/s", "-1B/s", "10MB/s", "8bit/s", "99999999999GiB/s"]
    {
        let message = text.parse::<Rate>().expect_err(text);
        assert!(message.contains("\"20MiB/s\""), "{message}");
        let message = text.parse::<Limit>().expect_err(text);
        assert!(message.contains("\"20MiB/s\"") && message.contains("\"unlimited\""), "{message}");
    }
}

#[tokio::test]
async fn many_tasks_together_keep_to_the_rate() {
    let scene = Scene::new(limits("8MiB/s", &[]));
    let sizes = [1, 700, 4 << 10, 64 << 10, 100_000, MIB, 3 * MIB / 2, 2 * MIB];
    for (number, bytes) in sizes.into_iter().cycle().take(40).enumerate() {
        scene.ask(number, bytes, usize::MAX).await;
    }
    let passed = scene.passed_by(60.0).await;
    let bytes: u64 = passed.iter().map(|(_, _, bytes)| bytes).sum();
    let share = bytes as f64 / (60 * 8 * MIB) as f64;
    assert!((0.98..1.02).contains(&share), "{share} of the rate");
    // Nor does it go faster for a while: over no span more than the rate and the allowance after a rest.
    for (index, (began, _, _)) in passed.iter().enumerate() {
        let mut bytes = 0;
        for (at, _, more) in passed.iter().skip(index).take(200) {
            bytes += more;
            let most = 8.0 * MIB as f64 * (*at - *began).as_secs_f64() + (2 * MIB) as f64;
            assert!(bytes as f64 <= most + 1.0, "{bytes} bytes from {began:?} to {at:?}, {most} would do");
        }
    }
}

#[tokio::test]
async fn who_asks_first_goes_first() {
    let scene = Scene::new(limits("1MiB/s", &[]));
    let sizes = [MIB, 1, 3 * MIB, 10, 500_000, 1];
    for (number, bytes) in sizes.into_iter().cycle().take(60).enumerate() {
        scene.ask(number, bytes, 1).await;
    }
    let passed = scene.passed_by(60.0).await;
    assert_eq!(passed.iter().map(|(_, number, _)| *number).collect::<Vec<_>>(), (0..60).collect::<Vec<_>>());
}

#[tokio::test]
async fn more_than_the_allowance_goes_after_a_rest_and_is_paid_off_after() {
    let scene = Scene::new(limits("1MiB/s", &[]));
    assert_eq!(scene.seconds_of(scene.throttle.pass(10 * MIB)).await, 0.0);
    // A quarter of a second's worth may still be owed when the next goes.
    let waited = scene.seconds_of(scene.throttle.pass(1)).await;
    assert!((9.74..9.76).contains(&waited), "{waited} s");
    scene.passed_by(7_200.0).await;
    // An hour of rest is worth no more than a quarter of a second.
    assert_eq!(scene.seconds_of(scene.throttle.pass(MIB / 4)).await, 0.0);
    let waited = scene.seconds_of(scene.throttle.pass(MIB / 4)).await;
    assert!((0.25..0.26).contains(&waited), "{waited} s");
    // At a low rate it is 64 KiB.
    let scene = Scene::new(limits("1KiB/s", &[]));
    assert_eq!(scene.seconds_of(scene.throttle.pass(64 << 10)).await, 0.0);
    let waited = scene.seconds_of(scene.throttle.pass(1 << 10)).await;
    assert!((1.0..1.01).contains(&waited), "{waited} s");
}

#[tokio::test]
async fn without_a_limit_nothing_waits() {
    for limits in [Limits::default(), limits("1B/s", &[("fri 00:00-24:00", "unlimited")])] {
        let scene = Scene::new(limits);
        for number in 0..100 {
            scene.ask(number, u64::MAX, 100).await;
        }
        let passed = scene.passed_by(1.0).await;
        assert_eq!(passed.iter().filter(|(at, _, _)| at.is_zero()).count(), 10_000);
        assert_eq!(scene.throttle.rate(scene.clock.now()), None);
    }
}

#[tokio::test]
async fn hours_that_begin_and_end_count_for_who_waits() {
    // From the start it is ten seconds to 18:00 and seventy to 18:01.
    let hours = [("17:00-18:00", "1KiB/s"), ("18:00-18:01", "unlimited"), ("18:01-19:00", "1MiB/s")];
    let scene = Scene::new(limits("1B/s", &hours));
    let rate_at = |text: &str| scene.throttle.rate(text.parse().expect("a time")).map(|rate| rate.to_string());
    assert_eq!(rate_at("2026-10-02T17:59:59Z").as_deref(), Some("1KiB/s"));
    assert_eq!(rate_at("2026-10-02T18:00:00Z"), None);
    assert_eq!(rate_at("2026-10-02T19:00:00Z").as_deref(), Some("1B/s"));
    for number in 0..50 {
        scene.ask(number, 10 * MIB, 1).await;
    }
    assert_eq!(scene.passed_by(9.99).await.len(), 1, "the next would wait for three hours");
    assert_eq!(scene.passed_by(10.5).await.len(), 50);
    scene.passed_by(75.0).await;
    for number in 50..53 {
        scene.ask(number, 10 * MIB, 1).await;
    }
    let passed = scene.passed_by(300.0).await;
    let late: Vec<_> = passed.iter().filter(|(_, number, _)| *number >= 50).map(|(at, _, _)| at.as_secs()).collect();
    assert_eq!(late, [75, 85, 95]);
}

#[tokio::test]
async fn limits_set_anew_count_within_a_second_for_who_waits() {
    let scene = Scene::new(limits("1B/s", &[]));
    for number in 0..4 {
        scene.ask(number, u64::MAX, 1).await;
    }
    assert_eq!(scene.passed_by(5.0).await.len(), 1);
    scene.throttle.set(Limits::default());
    let passed = scene.passed_by(6.0).await;
    assert_eq!(passed.len(), 4, "a limit that is taken away holds nobody");

    scene.throttle.set(limits("1KiB/s", &[]));
    for number in 4..8 {
        scene.ask(number, 10 * MIB, 1).await;
    }
    assert_eq!(scene.passed_by(10.0).await.len(), 5);
    scene.throttle.set(limits("10MiB/s", &[]));
    let passed = scene.passed_by(20.0).await;
    // Four seconds at the low rate were paid off by then, which is less than a millisecond at the high one.
    let seconds = passed.iter().skip(5).map(|(at, _, _)| at.as_secs_f64().round());
    assert_eq!(seconds.collect::<Vec<_>>(), [11.0, 12.0, 13.0]);

    // What is owed is paid off at the new rate from then on, also while nobody waits.
    scene.throttle.set(limits("1MiB/s", &[]));
    scene.passed_by(30.0).await;
    scene.seconds_of(scene.throttle.pass(10 * MIB)).await;
    scene.throttle.set(limits("10MiB/s", &[]));
    scene.passed_by(31.0).await;
    assert_eq!(scene.seconds_of(scene.throttle.pass(2 * MIB)).await, 0.0);

    // And a limit that is set where there was none.
    scene.throttle.set(Limits::default());
    let waited = scene.seconds_of(scene.throttle.pass(u64::MAX)).await;
    assert_eq!(waited, 0.0);
    scene.throttle.set(limits("1MiB/s", &[]));
    scene.seconds_of(scene.throttle.pass(MIB)).await;
    let waited = scene.seconds_of(scene.throttle.pass(MIB)).await;
    assert!((1.0..1.01).contains(&waited), "{waited} s");
}

#[tokio::test]
async fn a_second_owed_at_a_high_rate_is_not_hours_at_a_low_one() {
    let scene = Scene::new(limits("100MiB/s", &[]));
    scene.seconds_of(scene.throttle.pass(100 * MIB)).await;
    scene.throttle.set(limits("1KiB/s", &[]));
    let waited = scene.seconds_of(scene.throttle.pass(64 << 10)).await;
    assert!((1.0..1.01).contains(&waited), "{waited} s");
}

#[tokio::test]
async fn who_gives_up_leaves_no_trace() {
    let mut times = Vec::new();
    for give_up in [false, true] {
        let scene = Scene::new(limits("1MiB/s", &[]));
        scene.ask(0, MIB, 1).await;
        if give_up {
            // One gives up while it is the first, one while it is not, one when its bytes are all but paid off.
            let first = scene.ask(100, 5 * MIB, 1).await;
            scene.ask(1, MIB, 1).await;
            let second = scene.ask(101, 5 * MIB, 1).await;
            scene.ask(2, MIB, 1).await;
            let third = scene.ask(102, 5 * MIB, 1).await;
            scene.passed_by(0.3).await;
            first.abort();
            scene.passed_by(0.6).await;
            second.abort();
            scene.passed_by(2.9).await;
            third.abort();
        } else {
            scene.ask(1, MIB, 1).await;
            scene.ask(2, MIB, 1).await;
        }
        scene.ask(3, MIB, 1).await;
        let passed = scene.passed_by(60.0).await;
        times.push(passed.into_iter().map(|(at, number, _)| (number, at.as_millis() / 100)).collect::<Vec<_>>());
    }
    assert_eq!(times, [vec![(0, 0), (1, 10), (2, 20), (3, 30)], vec![(0, 0), (1, 10), (2, 20), (3, 30)]]);
}
