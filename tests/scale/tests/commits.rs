//! A lineage of very many commits: what is asked of the store grows with the logarithm of their number, or not at all.

use farshore_scale::commits::{self, Settings, Step};

/// Commits of a long run, and of an ordinary one.
fn commits() -> u64 {
    if std::env::var_os("FARSHORE_LONG").is_some() { 100_000 } else { 1_000 }
}

fn measure(is_pruned: bool) -> Vec<Step> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let settings = Settings { commits: commits(), is_pruned };
    runtime.block_on(commits::measure(settings)).expect("points are what they were")
}

fn step<'a>(steps: &'a [Step], what: &str) -> &'a Step {
    steps.iter().find(|step| step.what == what).unwrap_or_else(|| panic!("{what}: {steps:?}"))
}

#[test]
fn a_long_lineage_is_opened_listed_and_restored_without_reading_it() {
    for is_pruned in [false, true] {
        let steps = measure(is_pruned);
        // Steps that double, then halving, each with a boundary behind it.
        let doublings = 2 * u64::from(commits().ilog2()) + 8;
        let found = step(&steps, "find the newest commit").requests;
        assert!(found.heads <= doublings && found.gets <= 8 && found.lists <= 1, "{found:?}");
        let again = step(&steps, "find it again").requests;
        assert!(again.heads <= 3 && again.gets <= 1 && again.lists == 0, "{again:?}");
        for what in ["list the newest 50 points", "list 50 points from the middle"] {
            let listed = step(&steps, what).requests;
            assert!(listed.gets <= 50 + 8 + 10 && listed.heads <= doublings && listed.lists <= 1, "{what}: {listed:?}");
        }
        for what in ["restore the newest point", "restore the oldest point"] {
            let restored = step(&steps, what).requests;
            assert!(restored.gets <= 64 + 16 && restored.heads <= doublings, "{what}: {restored:?}");
        }
        // One listing sees that nothing follows the end; one for each commit from the newest point on looks for what writers left.
        let begun = step(&steps, "begin a point").requests;
        assert!(begun.gets <= 8 && begun.heads <= doublings && begun.lists <= 4, "{begun:?}");
    }
}
