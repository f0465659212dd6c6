//! Ten million extents pass through a walk in bounded memory. This file is one test, so that the process is measured.

mod nbd_support;

use farshore_platform::extents;
use futures::StreamExt;
use nbd_support::{Reaction, Scripted, extent, honest_options};

const EXTENTS: u64 = 10_000_000;
const EXTENT_BYTES: u64 = 4096;
/// What QEMU puts into one reply at most.
const ENTRIES_PER_REPLY_MAX: u32 = 128 * 1024;
/// Ten million entries alone would be 240 MB.
const GROWTH_KIB_MAX: u64 = 32 * 1024;

/// The most memory that this process has had.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

#[tokio::test]
async fn ten_million_extents_pass_in_bounded_memory() {
    let size_bytes = EXTENTS * EXTENT_BYTES;
    let server = Scripted::start(honest_options(size_bytes, 1), move |request| {
        let first = request.offset / EXTENT_BYTES;
        let count = u32::try_from(u64::from(request.length).div_ceil(EXTENT_BYTES)).expect("a short question");
        let entries = (0..count.min(ENTRIES_PER_REPLY_MAX)).map(|index| (4096, (first as u32 + index) % 2));
        Reaction::Send(request.status(1, entries))
    });
    let disk = server.connect(&["qemu:dirty-bitmap:b"]).await;
    let before_kib = peak_kib();
    let mut walk = extents(&disk, "qemu:dirty-bitmap:b", size_bytes);
    let mut count = 0;
    while let Some(status) = walk.next().await {
        let status = status.expect("an honest answer");
        assert_eq!(status.extent, extent(count * EXTENT_BYTES, EXTENT_BYTES));
        assert_eq!(u64::from(status.flags), count % 2);
        count += 1;
    }
    assert_eq!(count, EXTENTS);
    let growth_kib = peak_kib() - before_kib;
    println!("{count} extents, peak memory grew by {growth_kib} KiB");
    assert!(growth_kib < GROWTH_KIB_MAX, "{growth_kib} KiB");
}
