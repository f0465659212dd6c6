//! The clocks of hosts: wrong by years, jumping, or frozen. What a host may rely on, time since its start, is the world's.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use farshore_core::{Clock, Timestamp};

use crate::{dice::Dice, time::Time};

/// When the world begins: 2026-11-26T00:00:00Z.
pub const WORLD_BEGINS_MILLISECONDS: i64 = 1_795_651_200_000;

/// The most that a clock is wrong: ten years.
pub const SKEW_MILLISECONDS_MAX: u64 = 10 * 365 * 86_400_000;

/// How wrong clocks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockPlan {
    /// All tell the world's time.
    Right,
    /// Each is drawn: skewed, jumping or frozen.
    Wrong,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    /// It tells another time, always by as much.
    Skewed {
        by_milliseconds: i64,
    },
    /// It tells any time at all, each time that it is asked.
    Jumping,
    /// It tells the same time for ever.
    Frozen {
        at_milliseconds: i64,
    },
}

/// The clock of one host.
#[derive(Debug)]
pub struct HostClock {
    time: Time,
    fault: Fault,
    dice: Mutex<Dice>,
}

impl HostClock {
    /// The clock of the host whose draws these are.
    pub fn new(time: &Time, plan: ClockPlan, dice: Dice) -> Arc<Self> {
        let skew = draw_skew(&dice);
        let fault = match (plan, dice.below(4)) {
            (ClockPlan::Right, _) => Fault::None,
            (ClockPlan::Wrong, 0) => Fault::Jumping,
            (ClockPlan::Wrong, 1) => Fault::Frozen { at_milliseconds: WORLD_BEGINS_MILLISECONDS + skew },
            (ClockPlan::Wrong, _) => Fault::Skewed { by_milliseconds: skew },
        };
        Arc::new(Self { time: time.clone(), fault, dice: Mutex::new(dice) })
    }
}

fn draw_skew(dice: &Dice) -> i64 {
    let skew = i64::try_from(dice.below(2 * SKEW_MILLISECONDS_MAX)).unwrap_or(0);
    skew - i64::try_from(SKEW_MILLISECONDS_MAX).unwrap_or(0)
}

#[async_trait]
impl Clock for HostClock {
    fn now(&self) -> Timestamp {
        let passed = i64::try_from(self.time.now().as_millis()).unwrap_or(i64::MAX / 4);
        let right = WORLD_BEGINS_MILLISECONDS.saturating_add(passed);
        Timestamp::from_unix_milliseconds(match self.fault {
            Fault::None => right,
            Fault::Skewed { by_milliseconds } => right.saturating_add(by_milliseconds),
            Fault::Jumping => right + draw_skew(&self.dice.lock().unwrap_or_else(PoisonError::into_inner)),
            Fault::Frozen { at_milliseconds } => at_milliseconds,
        })
    }

    fn monotonic(&self) -> Duration {
        self.time.now()
    }

    async fn sleep(&self, duration: Duration) {
        self.time.sleep(duration).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_clocks_are_wrong_by_years_and_right_ones_are_not() {
        let time = Time::default();
        let error_of = |plan, seed| {
            let told = HostClock::new(&time, plan, Dice::new(seed, "clock")).now().as_unix_milliseconds();
            (told - WORLD_BEGINS_MILLISECONDS).unsigned_abs()
        };
        assert!((0..50).all(|seed| error_of(ClockPlan::Right, seed) == 0));
        assert!((0..50).all(|seed| error_of(ClockPlan::Wrong, seed) <= SKEW_MILLISECONDS_MAX));
        assert!((0..50).filter(|seed| error_of(ClockPlan::Wrong, *seed) > SKEW_MILLISECONDS_MAX / 10).count() > 30);
    }
}
