//! A vault of a large disk: what is measured is really done, and every part that is read back is what was written.

use farshore_scale::size::{self, Settings};

#[test]
fn a_large_disk_is_copied_checked_pruned_and_read_back() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let measured = runtime.block_on(size::measure(Settings { gibibytes: 1, points: 3 }, folder.path()));
    let measured = measured.expect("points are what they were");
    assert_eq!(measured.steps.len(), 8, "{measured:?}");
    assert!(measured.steps.iter().all(|step| step.peak_bytes > 0), "{measured:?}");
    assert!(measured.vault_bytes > 500_000 && measured.index_bytes > 500_000, "{measured:?}");
}
