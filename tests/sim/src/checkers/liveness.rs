//! After all faults have stopped, everybody gets on: each writer commits a point within five minutes of its world's time.

use std::time::Duration;

use super::{Report, Violation};
use crate::history::History;

/// How long it may take.
pub const LIMIT: Duration = Duration::from_secs(300);

/// See the module.
pub fn check(history: &History) -> Vec<Violation> {
    let mut report = Report::of("liveness");
    if history.progress.is_empty() {
        report.add("nobody was asked to do anything after the faults".to_owned());
    }
    for progress in &history.progress {
        let what = format!("{} for {}", progress.what, progress.actor);
        match progress.took {
            None => report.add(format!("{what} was given up: {}", progress.error)),
            Some(took) if took > LIMIT => report.add(format!("{what} took {took:?}: {}", progress.error)),
            Some(_) => {}
        }
    }
    report.done()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::sound;

    fn broken(change: impl FnOnce(&mut History)) -> String {
        let (mut history, _) = sound::world();
        change(&mut history);
        let found = check(&history);
        assert!(!found.is_empty(), "it must be found");
        found.iter().map(Violation::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn it_fails_when_a_writer_does_not_get_on() {
        assert!(broken(|history| history.progress[0].took = None).contains("a point for host-a was given up"));
        assert!(broken(|history| history.progress[0].took = Some(Duration::from_secs(301))).contains("took 301s"));
        assert!(broken(|history| history.progress.clear()).contains("nobody was asked"));
    }
}
