//! Counts panics of this thread. A task that panics takes only itself down, and its world would go on without it.

use std::{cell::Cell, sync::Once};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// How many panics this thread has had.
pub fn count() -> u64 {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            COUNT.set(COUNT.get() + 1);
            before(info);
        }));
    });
    COUNT.get()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_panic_is_counted_in_its_own_thread() {
        let before = super::count();
        let outcome = std::panic::catch_unwind(|| panic!("on purpose: this is counted"));
        assert!(outcome.is_err());
        assert_eq!(super::count(), before + 1);
        assert_eq!(std::thread::spawn(super::count).join().expect("no panic"), 0);
    }
}
