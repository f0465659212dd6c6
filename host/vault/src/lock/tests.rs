use farshore_core::{Generation, Sequence, SiteName};

use super::*;

const DAY: u64 = 86_400;

fn day(number: u64) -> Timestamp {
    after(Timestamp::from_unix_milliseconds(1_790_000_000_000), number * DAY)
}

fn head(locked_until: Option<Timestamp>) -> Head {
    Head {
        sequence: Sequence::FIRST,
        generation: Generation::FIRST,
        active_site: SiteName::new("a").expect("a good name"),
        newest_point: None,
        pruned: None,
        pins: Vec::new(),
        locked_until,
    }
}

#[test]
fn a_point_has_at_most_its_parents_horizon_and_none_is_built_on_one_that_is_near() {
    let lock = VaultLock { mode: LockMode::Compliance, span_seconds: 12 * DAY };
    assert_eq!(lock.next_horizon(&head(Some(day(10))), day(0)), Ok(day(10)));
    // A lock that is longer than the span, as after the span was made shorter, promises nothing about new objects.
    assert_eq!(lock.next_horizon(&head(Some(day(30))), day(0)), Ok(day(12)));
    assert_eq!(lock.next_horizon(&head(Some(day(10))), day(7)), Ok(day(10)), "a quarter is left");
    let late = after(day(7), 1);
    assert_eq!(lock.next_horizon(&head(Some(day(10))), late), Err(Some(day(10))), "less than a quarter is left");
    assert_eq!(lock.next_horizon(&head(Some(day(10))), day(20)), Err(Some(day(10))), "it is over");
    assert_eq!(lock.next_horizon(&head(None), day(0)), Err(None), "nobody ever looked");
}

#[test]
fn a_lock_is_weaker_when_either_part_is() {
    let lock = |mode, days| VaultLock { mode, span_seconds: days * DAY };
    let before = lock(LockMode::Governance, 14);
    assert!(lock(LockMode::Compliance, 13).is_weaker_than(&before));
    assert!(before.is_weaker_than(&lock(LockMode::Compliance, 14)));
    assert!(!lock(LockMode::Compliance, 14).is_weaker_than(&before) && !before.is_weaker_than(&before));
}

#[test]
fn spans_have_bounds() {
    let lock = |span_seconds| VaultLock { mode: LockMode::Governance, span_seconds };
    for (seconds, allowed) in [(0, false), (DAY - 1, false), (DAY, true), (3_653 * DAY, true), (3_654 * DAY, false)] {
        assert_eq!(lock(seconds).check().is_ok(), allowed, "{seconds}");
    }
    assert!(lock(u64::MAX).check().is_err());
}
