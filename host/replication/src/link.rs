//! The way to the vault, as the cycles of a host last found it.
//!
//! While it is lost, not every group asks every time: one of them, whichever comes first, asks after each pause for something small, once its
//! own point waits. The first answer lets all of them go to the vault again.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use farshore_core::Code;

/// How often a vault that does not answer is asked.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Whether a vault can be reached. All groups of a host that use it share one.
#[derive(Debug, Default)]
pub struct Link(Mutex<Option<Lost>>);

/// It cannot.
#[derive(Debug, Clone)]
struct Lost {
    ask_again: Duration,
    /// What the last question came to.
    why: (Code, String),
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, Option<Lost>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last question was not answered.
    pub fn is_lost(&self) -> bool {
        self.lock().is_some()
    }

    /// Whether the vault may be asked now. If it is lost, only one who asks this is told so in each pause.
    pub(crate) fn may_ask(&self, now: Duration) -> bool {
        match &mut *self.lock() {
            None => true,
            Some(lost) if now >= lost.ask_again => {
                lost.ask_again = now.saturating_add(ASK_EVERY);
                true
            }
            Some(_) => false,
        }
    }

    /// A question was not answered.
    pub(crate) fn was_lost(&self, now: Duration, code: Code, why: &str) {
        *self.lock() = Some(Lost { ask_again: now.saturating_add(ASK_EVERY), why: (code, why.to_owned()) });
    }

    /// What the last question came to, if it was not answered.
    pub(crate) fn why(&self) -> Option<(Code, String)> {
        self.lock().as_ref().map(|lost| lost.why.clone())
    }

    /// The vault has answered.
    pub(crate) fn answered(&self) {
        *self.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_vault_is_asked_by_one_in_each_pause_and_by_all_once_it_has_answered() {
        let (link, at) = (Link::default(), Duration::from_secs);
        assert!(link.may_ask(at(0)) && link.may_ask(at(0)) && !link.is_lost());
        link.was_lost(at(10), Code::new(4010), "no answer came");
        assert_eq!(link.why(), Some((Code::new(4010), "no answer came".to_owned())));
        assert!(link.is_lost());
        let asked = |seconds| (0..3).filter(|_| link.may_ask(at(seconds))).count();
        assert_eq!([10, 14, 15, 16, 19, 20].map(asked), [0, 0, 1, 0, 0, 1]);
        link.was_lost(at(21), Code::new(4010), "nor now");
        assert_eq!([24, 26].map(asked), [0, 1]);
        link.answered();
        assert_eq!((asked(26), link.is_lost()), (3, false));
    }
}
