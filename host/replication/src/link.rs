//! The way to the vault, as the cycles of a host last found it.
//!
//! While it is lost, not every group asks every time: one of them, whichever comes first, asks after each pause, and the others
//! make their points wait at once. The first answer lets all of them ask again.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How often a vault that does not answer is asked.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// A vault that has not said in this time on what the next point builds is taken for lost: an objective, within these bounds; twice as
/// long after each question that was not answered, so that a slow one is not asked in vain for ever.
const PATIENCE_MIN: Duration = Duration::from_secs(5);
const PATIENCE_MAX: Duration = Duration::from_secs(30);
const PATIENCE_GROWN_MAX: Duration = Duration::from_secs(120);

/// Whether a vault can be reached. All groups of a host that use it share one.
#[derive(Debug, Default)]
pub struct Link(Mutex<Option<Lost>>);

/// It cannot.
#[derive(Debug, Clone, Copy)]
struct Lost {
    /// How many questions were not answered.
    unanswered: u32,
    ask_again: Duration,
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
    pub(crate) fn was_lost(&self, now: Duration) {
        let mut state = self.lock();
        let unanswered = state.map_or(0, |lost| lost.unanswered).saturating_add(1);
        *state = Some(Lost { unanswered, ask_again: now.saturating_add(ASK_EVERY) });
    }

    /// The vault has answered.
    pub(crate) fn answered(&self) {
        *self.lock() = None;
    }

    /// How long an answer is waited for, of a group with this objective.
    pub(crate) fn patience(&self, objective: Duration) -> Duration {
        let unanswered = self.lock().map_or(0, |lost| lost.unanswered);
        let first = objective.clamp(PATIENCE_MIN, PATIENCE_MAX);
        first.saturating_mul(1 << unanswered.min(5)).min(PATIENCE_GROWN_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_vault_is_asked_by_one_in_each_pause_and_by_all_once_it_has_answered() {
        let (link, at) = (Link::default(), Duration::from_secs);
        assert!(link.may_ask(at(0)) && link.may_ask(at(0)) && !link.is_lost());
        link.was_lost(at(10));
        assert!(link.is_lost());
        let asked = |seconds| (0..3).filter(|_| link.may_ask(at(seconds))).count();
        assert_eq!([10, 14, 15, 16, 19, 20].map(asked), [0, 0, 1, 0, 0, 1]);
        link.was_lost(at(21));
        assert_eq!([24, 26].map(asked), [0, 1]);
        link.answered();
        assert_eq!((asked(26), link.is_lost()), (3, false));
    }

    #[test]
    fn patience_follows_the_objective_and_grows_with_each_silence() {
        let (link, at) = (Link::default(), Duration::from_secs);
        assert_eq!([3, 15, 900].map(|rpo| link.patience(at(rpo))), [5, 15, 30].map(at));
        let grown = (0..6).map(|_| {
            link.was_lost(at(0));
            link.patience(at(3))
        });
        assert_eq!(grown.collect::<Vec<_>>(), [10, 20, 40, 80, 120, 120].map(at));
        link.answered();
        assert_eq!(link.patience(at(3)), at(5));
    }
}
