//! Many worlds: one for each seed, one thread for each processor. Each world stays on its thread.

use std::{
    num::NonZeroUsize,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use crate::{
    run::{self, Outcome, Settings},
    template::Template,
    world::Totals,
};

/// Runs these seeds; after a failure no new one is begun. It gives the totals, and the worlds that broke a promise.
/// `progress` is called after each world, from any thread.
///
/// # Panics
/// When a world panics outside its tasks.
pub fn seeds(
    from: u64,
    count: u64,
    threads: NonZeroUsize,
    settings: &Settings,
    progress: &(dyn Fn(&Totals) + Sync),
) -> (Totals, Vec<Outcome>) {
    // Made before the threads begin, or all of them would wait for it.
    Template::get();
    let next = AtomicU64::new(0);
    let has_failed = AtomicBool::new(false);
    let results = Mutex::new((Totals::default(), Vec::new()));
    let work = || {
        while !has_failed.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            let outcome = run::seed(from.wrapping_add(number), settings);
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.0.add(&outcome.totals);
            progress(&results.0);
            if !outcome.violations.is_empty() {
                has_failed.store(true, Ordering::Relaxed);
                results.1.push(outcome);
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.get()).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().expect("a world does not panic outside its tasks");
        }
    });
    let (totals, mut failed) = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort_by_key(|outcome| outcome.seed);
    (totals, failed)
}
