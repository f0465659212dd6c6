//! The machine's clock, for limits and for saying how long things took. This program depends on no crate of the host,
//! so the host's `Clock` is not there to be used; nothing here is simulated.
#![expect(clippy::disallowed_methods, reason = "this program is a build tool that runs outside the simulator")]

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Measures from the moment of its creation.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts at zero.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// How long ago it was started.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Seconds since 1970-01-01T00:00:00Z; 0 on a machine whose clock is before that.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Waits.
pub fn sleep(duration: Duration) {
    thread::sleep(duration);
}

/// A duration as a person would say it: `0.4 s`, `12 s`, `3 min 20 s`.
pub fn words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        _ => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(words(Duration::from_millis(440)), "0.4 s");
        assert_eq!(words(Duration::from_secs(59)), "59 s");
        assert_eq!(words(Duration::from_secs(200)), "3 min 20 s");
    }
}
