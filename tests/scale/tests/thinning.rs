//! Random writes of 64 KiB with points that are thinned daily: what is stored for what the points need.

use farshore_scale::thinning::{self, Settings};
use farshore_vault::{Grace, Retention};

/// Whether the long tests run.
fn is_long() -> bool {
    std::env::var_os("FARSHORE_LONG").is_some()
}

#[test]
fn at_most_one_and_a_half_times_what_points_need_is_stored() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (days, chunks) = if is_long() { (30, 1_024) } else { (10, 256) };
    let settings = Settings {
        chunks,
        days,
        cycles: 24,
        // A twentieth of the disk each day.
        written: chunks / 480 + 1,
        retention: Retention { all_seconds: 86_400, hourly: 48, daily: 30, ..Retention::default() },
        grace: Grace { seconds: 3 * 86_400, commits: 8 },
        seed: 1,
    };
    let days = runtime.block_on(thinning::run(settings, |_| {})).expect("the points are what they were");
    for day in &days {
        assert!(day.ratio() <= 1.5, "{day}");
    }
    let last = days.last().expect("some");
    assert!(last.waiting > 0, "something was given up: {last}");
    assert!(last.points < 24 * last.day, "points were thinned: {last}");
}
