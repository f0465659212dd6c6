//! How fast requests go.
//!
//! The operator may name a limit. A service names its own only by refusing (429, or its own word for it), and it does so
//! for everybody who uses the account, so an endpoint gives way at once and comes back slowly: its rate is halved when the
//! service throttles (once a second at most, because what was under way is refused too), and grows by a twentieth a second
//! while it does not. Before the first throttle there is no rate.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use farshore_core::Clock;

/// No slower than this, in requests a second: a service that throttles everybody else too must not stop us for good.
const RATE_MIN: f64 = 0.5;
/// The rate is measured over this long.
const WINDOW: Duration = Duration::from_secs(1);
/// What the rate grows by with each answer, so that it grows by this share each second.
const GROWTH: f64 = 0.05;
/// What it grows by each second at least, in requests a second.
const GROWTH_MIN: f64 = 1.0;

/// The turns of one endpoint's requests.
pub(crate) struct Pace {
    clock: Arc<dyn Clock>,
    limit: Option<f64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Requests a second, once the service has throttled.
    rate: Option<f64>,
    /// When the next may go.
    next: Duration,
    slowed: Option<Duration>,
    window_began: Duration,
    window_count: u32,
    last_rate: f64,
}

impl Pace {
    pub(crate) fn new(clock: Arc<dyn Clock>, per_second_max: Option<u32>) -> Self {
        Self { clock, limit: per_second_max.map(f64::from), state: Mutex::default() }
    }

    /// Waits for the turn of a request, unless that comes later than it can wait. Whether it came.
    pub(crate) async fn turn(&self, patience: Duration) -> bool {
        let now = self.clock.monotonic();
        let wait = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.count(now);
            let rate = match (state.rate, self.limit) {
                (Some(rate), Some(limit)) => Some(rate.min(limit)),
                (rate, limit) => rate.or(limit),
            };
            match rate {
                None => Duration::ZERO,
                Some(rate) => {
                    let turn = state.next.max(now);
                    if turn.saturating_sub(now) > patience {
                        // The turn is left to who comes after.
                        return false;
                    }
                    state.next = turn.saturating_add(Duration::from_secs_f64(1.0 / rate.max(RATE_MIN)));
                    turn.saturating_sub(now)
                }
            }
        };
        if !wait.is_zero() {
            self.clock.sleep(wait).await;
        }
        true
    }

    /// The service throttled.
    pub(crate) fn throttled(&self) {
        let now = self.clock.monotonic();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.slowed.is_some_and(|slowed| now.saturating_sub(slowed) < WINDOW) {
            return;
        }
        let before = state.rate.unwrap_or_else(|| state.last_rate.max(f64::from(state.window_count)));
        state.rate = Some((before / 2.0).max(RATE_MIN));
        state.slowed = Some(now);
    }

    /// The service answered.
    pub(crate) fn answered(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rate) = state.rate {
            state.rate = Some(rate + GROWTH + GROWTH_MIN / rate);
        }
    }
}

impl State {
    fn count(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.window_began);
        if elapsed >= WINDOW {
            self.last_rate = f64::from(self.window_count) / elapsed.as_secs_f64();
            (self.window_began, self.window_count) = (now, 0);
        }
        self.window_count = self.window_count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use farshore_core::Timestamp;

    use super::*;

    /// A clock that goes on only when somebody sleeps.
    #[derive(Default)]
    struct Slept(AtomicU64);

    #[async_trait::async_trait]
    impl Clock for Slept {
        fn now(&self) -> Timestamp {
            Timestamp::from_unix_milliseconds(0)
        }

        fn monotonic(&self) -> Duration {
            Duration::from_nanos(self.0.load(Ordering::Relaxed))
        }

        async fn sleep(&self, duration: Duration) {
            self.0.fetch_add(u64::try_from(duration.as_nanos()).expect("not so long"), Ordering::Relaxed);
        }
    }

    /// The turns of so many requests, and how long they took.
    async fn turns(pace: &Pace, clock: &Slept, count: u32) -> Duration {
        let began = clock.monotonic();
        for _ in 0..count {
            assert!(pace.turn(Duration::MAX).await);
        }
        clock.monotonic() - began
    }

    #[tokio::test]
    async fn a_limit_of_the_operators_holds() {
        let clock = Arc::new(Slept::default());
        let pace = Pace::new(Arc::clone(&clock) as Arc<dyn Clock>, Some(100));
        let took = turns(&pace, &clock, 1_001).await;
        assert!((9_999..10_001).contains(&took.as_millis()), "{took:?}");
        let free = Pace::new(Arc::clone(&clock) as Arc<dyn Clock>, None);
        assert_eq!(turns(&free, &clock, 1_000).await, Duration::ZERO);
    }

    #[tokio::test]
    async fn a_throttle_halves_the_rate_once_and_answers_bring_it_back() {
        let clock = Arc::new(Slept::default());
        let pace = Pace::new(Arc::clone(&clock) as Arc<dyn Clock>, None);
        turns(&pace, &clock, 200).await;
        // Of 200 that were under way many are refused: that is one throttle.
        (0..50).for_each(|_| pace.throttled());
        let took = turns(&pace, &clock, 101).await;
        assert!((999..1_001).contains(&took.as_millis()), "100 a second: {took:?}");
        let mut seconds = 0;
        loop {
            let before = clock.monotonic();
            for _ in 0..100 {
                pace.turn(Duration::MAX).await;
                pace.answered();
            }
            seconds += 1;
            if (clock.monotonic() - before) < Duration::from_millis(500) {
                break;
            }
        }
        assert!((5..40).contains(&seconds), "after {seconds} hundreds it has its rate again");
    }

    #[tokio::test]
    async fn who_cannot_wait_takes_no_turn() {
        let clock = Arc::new(Slept::default());
        let pace = Pace::new(Arc::clone(&clock) as Arc<dyn Clock>, Some(1));
        turns(&pace, &clock, 1).await;
        for _ in 0..100 {
            assert!(!pace.turn(Duration::from_millis(500)).await);
        }
        assert!(pace.turn(Duration::from_millis(1_500)).await, "the hundred before took nothing");
    }

    #[tokio::test]
    async fn it_never_stands_still() {
        let clock = Arc::new(Slept::default());
        let pace = Pace::new(Arc::clone(&clock) as Arc<dyn Clock>, None);
        pace.turn(Duration::MAX).await;
        for _ in 0..100 {
            pace.throttled();
            clock.sleep(WINDOW).await;
        }
        let took = turns(&pace, &clock, 3).await;
        assert!(took <= Duration::from_secs(4), "{took:?}");
    }
}
