//! What of a disk is read again although its platform says that it has not changed.
//!
//! Change tracking has lied on every platform that has it, and a lie is silent until the day of a recovery. So a window moves over each
//! disk, once in [`Doubt::within`]: what lies between its places at the last point's instant and at this one's is read and compared. It needs no memory of
//! its own, is the same after a restart, and costs alike however often cycles run.

use std::time::Duration;

use farshore_core::{CHUNK_BYTES, Extent, Timestamp};

/// How much is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doubt {
    /// All of a disk is, in so long.
    pub within: Duration,
    /// What falls to a longer time than this is left to the next round: a cycle after a long pause has other things to do.
    pub at_once_max: Duration,
}

impl Doubt {
    /// What of a disk of this size is read again between the instants of two points: whole chunks, cut at the disk's end, in the disk's
    /// order. At the disk's end the window goes on at its beginning.
    pub(crate) fn window(self, disk_bytes: u64, before: Timestamp, now: Timestamp) -> [Extent; 2] {
        let (within, chunks) = (self.within.as_millis().max(1), u128::from(disk_bytes.div_ceil(CHUNK_BYTES)));
        let extent = |first: u128, end: u128| {
            let bytes =
                |chunks: u128| u64::try_from(chunks).unwrap_or(u64::MAX).saturating_mul(CHUNK_BYTES).min(disk_bytes);
            Extent { offset: bytes(first), length: bytes(end).saturating_sub(bytes(first)) }
        };
        // Chunks since 1970, of a disk that has no end.
        let now_milliseconds = u128::from(now.as_unix_milliseconds().max(0).unsigned_abs());
        let passed = now.since(before).min(self.at_once_max).as_millis();
        let place = |milliseconds: u128| milliseconds.saturating_mul(chunks) / within;
        let (begins, ends) = (place(now_milliseconds.saturating_sub(passed)), place(now_milliseconds));
        if ends - begins >= chunks {
            return [extent(0, chunks), extent(0, 0)];
        }
        match (begins % chunks, ends % chunks) {
            (first, end) if first <= end => [extent(first, end), extent(0, 0)],
            (first, end) => [extent(0, end), extent(first, chunks)],
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_unix_milliseconds(1_790_000_000_000 + milliseconds)
    }

    proptest! {
        /// Whatever the pauses between points are, each chunk is read again within the time; and not much more than once.
        #[test]
        fn every_chunk_is_doubted_once_in_the_time(
            disk_bytes in 1_u64..200 * CHUNK_BYTES,
            within_milliseconds in 2_000_u64..100_000,
            pauses in prop::collection::vec(1_i64..1_900, 400),
            begins in 0_i64..1_000_000,
        ) {
            let within = Duration::from_millis(within_milliseconds);
            let doubt = Doubt { within, at_once_max: Duration::from_secs(3_600) };
            let chunks = usize::try_from(disk_bytes.div_ceil(CHUNK_BYTES)).expect("few");
            let (mut doubted, mut now) = (vec![0; chunks], begins);
            let round_ends = begins + i64::try_from(within_milliseconds).expect("short");
            for pause in pauses {
                if now >= round_ends {
                    break;
                }
                let windows = doubt.window(disk_bytes, at(now), at(now + pause));
                now += pause;
                for Extent { offset, length } in windows {
                    prop_assert!(offset.is_multiple_of(CHUNK_BYTES) || length == 0);
                    prop_assert!(offset + length <= disk_bytes);
                    for chunk in offset / CHUNK_BYTES..(offset + length).div_ceil(CHUNK_BYTES) {
                        doubted[usize::try_from(chunk).expect("small")] += 1;
                    }
                }
            }
            if now >= round_ends {
                prop_assert!(doubted.iter().all(|times| *times >= 1), "{doubted:?}");
            }
            prop_assert!(doubted.iter().all(|times| *times <= 2), "{doubted:?}");
        }
    }

    #[test]
    fn a_long_pause_and_a_clock_that_was_put_back_cost_little() {
        let doubt = Doubt { within: Duration::from_secs(1_000), at_once_max: Duration::from_secs(10) };
        let disk_bytes = 1_000 * CHUNK_BYTES;
        let bytes =
            |from, to| -> u64 { doubt.window(disk_bytes, at(from), at(to)).iter().map(|extent| extent.length).sum() };
        assert_eq!(bytes(0, 5_000), 5 * CHUNK_BYTES);
        assert_eq!(bytes(0, 9_999_000), 10 * CHUNK_BYTES, "the rest is left to the next round");
        assert_eq!(bytes(5_000, 0), 0);
        // All of it at once, if so long is allowed.
        let doubt = Doubt { at_once_max: Duration::from_secs(5_000), ..doubt };
        let window = doubt.window(disk_bytes + 7, at(0), at(2_000_000));
        assert_eq!(window, [Extent { offset: 0, length: disk_bytes + 7 }, Extent { offset: 0, length: 0 }]);
    }
}
