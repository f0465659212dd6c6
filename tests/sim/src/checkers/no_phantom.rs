//! What is listed is whole, and is what some writer tried to commit: nothing that was given up or refused is ever seen,
//! nothing is seen twice, and nothing is there that nobody wrote.

use std::collections::BTreeSet;

use super::{Report, Violation};
use crate::{
    evidence::{Evidence, Found},
    history::{EntryFate, Fate, History, Task},
};

/// See the module.
pub fn check(history: &History, evidence: &Evidence) -> Vec<Violation> {
    let mut report = Report::of("no_phantom");
    let mut seen = BTreeSet::new();
    for (group, lineage) in &evidence.lineages {
        for point in &lineage.points {
            let found = match point {
                Ok(found) => found,
                Err(error) => {
                    report.add(format!("a place in the list of {group} cannot be read: {error}"));
                    continue;
                }
            };
            let what = format!("point {} of {group}", found.sequence);
            let attempt = found.attempt.and_then(|id| Some((id, history.attempts.get(id)?)));
            let Some((id, attempt)) = attempt else {
                report.add(format!("{what} is nobody's"));
                continue;
            };
            if !seen.insert(id) {
                report.add(format!("{what} is attempt {id}, which is listed twice"));
            }
            if attempt.group != *group {
                report.add(format!("{what} was an attempt for {}", attempt.group));
            }
            let made = lineage.made.iter().find(|made| made.number == found.sequence.get());
            if made.is_none_or(|made| made.by != Task::Point(id)) {
                report.add(format!("{what} is attempt {id}, and the commit of this number was another's first"));
            }
            compare(&mut report, &what, found, attempt);
        }
    }
    for (run, entries) in &evidence.runs {
        let Ok(entries) = entries else { continue };
        for (number, bytes) in (1..).zip(entries) {
            let is_it = |entry: &&crate::history::Entry| {
                entry.run.to_string() == *run && entry.number == number && entry.bytes == *bytes
            };
            match history.entries.iter().filter(is_it).map(|entry| entry.fate).collect::<Vec<_>>().as_slice() {
                [] => report.add(format!("entry {number} of run {run} is nobody's")),
                fates if fates.iter().all(|fate| *fate == EntryFate::Refused) => {
                    report.add(format!("entry {number} of run {run} was refused, and is there"));
                }
                _ => {}
            }
        }
    }
    for (run, entries) in &evidence.runs {
        if let Err(error) = entries {
            report.add(format!("run {run} cannot be read: {error}"));
        }
    }
    for finding in &evidence.findings {
        report.add(format!("a full check finds: {finding}"));
    }
    report.done()
}

fn compare(report: &mut Report, what: &str, found: &Found, attempt: &crate::history::Attempt) {
    match &attempt.fate {
        Fate::Begun => report.add(format!("{what} is there, and its commit was never asked for")),
        Fate::Refused => report.add(format!("{what} is there, and its writer was told that it is refused")),
        Fate::Acknowledged(sequence, _) if *sequence != found.sequence => {
            report.add(format!("{what} was acknowledged as point {sequence}"));
        }
        Fate::Acknowledged(..) | Fate::Open => {}
    }
    if (found.generation, &found.site) != (attempt.generation, &attempt.site) {
        report.add(format!("{what} is of another generation or site than its writer's"));
    }
    match &found.disks {
        Err(error) => report.add(format!("{what} is not whole: {error}")),
        Ok(disks) if *disks != attempt.disks => report.add(format!("{what} is not what its writer gave")),
        Ok(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use farshore_core::{Generation, Sequence};

    use super::*;
    use crate::{
        checkers::sound,
        template::{group, site},
    };

    fn broken(change: impl FnOnce(&mut History, &mut Evidence)) -> String {
        let (mut history, mut evidence) = sound::world();
        change(&mut history, &mut evidence);
        let found = check(&history, &evidence);
        assert!(!found.is_empty(), "it must be found");
        found.iter().map(Violation::to_string).collect::<Vec<_>>().join("; ")
    }

    /// The second point, whose writer was never told.
    fn second(evidence: &mut Evidence) -> &mut Found {
        let lineage = evidence.lineages.get_mut(&group("orders")).expect("there");
        lineage.points[1].as_mut().expect("readable")
    }

    #[test]
    fn it_fails_when_a_listed_point_is_not_whole_or_not_what_was_given() {
        let found = broken(|_, evidence| second(evidence).disks = Err("a pack is gone".to_owned()));
        assert!(found.contains("point 4 of orders is not whole: a pack is gone"), "{found}");
        let found = broken(|_, evidence| second(evidence).disks = Ok(sound::disks(99)));
        assert!(found.contains("is not what its writer gave"), "{found}");
        let found = broken(|_, evidence| second(evidence).generation = Generation::FIRST);
        assert!(found.contains("of another generation or site"), "{found}");
        let found = broken(|_, evidence| second(evidence).site = site("a"));
        assert!(found.contains("of another generation or site"), "{found}");
    }

    #[test]
    fn it_fails_when_a_point_is_nobodys_or_somebody_elses() {
        assert!(broken(|_, evidence| second(evidence).attempt = None).contains("is nobody's"));
        assert!(broken(|_, evidence| second(evidence).attempt = Some(77)).contains("is nobody's"));
        assert!(broken(|_, evidence| second(evidence).attempt = Some(0)).contains("listed twice"));
        let found = broken(|_, evidence| {
            evidence.lineages.get_mut(&group("orders")).expect("there").made[3].by = Task::Point(3);
        });
        assert!(found.contains("the commit of this number was another's first"), "{found}");
        let found = broken(|history, _| history.attempts[2].group = group("ledger"));
        assert!(found.contains("was an attempt for ledger"), "{found}");
        let moved = Fate::Acknowledged(Sequence::new(9), [12; 32]);
        assert!(broken(|history, _| history.attempts[2].fate = moved).contains("was acknowledged as point 9"));
    }

    #[test]
    fn it_fails_when_what_was_refused_or_given_up_is_seen() {
        let found = broken(|history, _| history.attempts[2].fate = Fate::Refused);
        assert!(found.contains("its writer was told that it is refused"), "{found}");
        let found = broken(|history, _| history.attempts[2].fate = Fate::Begun);
        assert!(found.contains("its commit was never asked for"), "{found}");
    }

    #[test]
    fn it_fails_when_a_journal_holds_what_nobody_wrote_or_what_was_refused() {
        let name = sound::run().to_string();
        let found = broken(|_, evidence| {
            evidence.runs.insert(name.clone(), Ok(vec!["three".into()]));
        });
        assert!(found.contains("is nobody's"), "{found}");
        let found = broken(|_, evidence| {
            evidence.runs.insert(name.clone(), Ok(vec!["one".into(), "mine".into()]));
        });
        assert!(found.contains("was refused, and is there"), "{found}");
        let found = broken(|_, evidence| {
            evidence.runs.insert(name, Err("a gap".to_owned()));
        });
        assert!(found.contains("cannot be read: a gap"), "{found}");
    }

    #[test]
    fn it_fails_when_a_list_or_a_check_finds_damage() {
        let found = broken(|_, evidence| {
            evidence.lineages.get_mut(&group("orders")).expect("there").points.push(Err("rotten".to_owned()));
        });
        assert!(found.contains("cannot be read: rotten"), "{found}");
        let found = broken(|_, evidence| evidence.findings.push("a pack is gone".to_owned()));
        assert!(found.contains("a full check finds: a pack is gone"), "{found}");
    }
}
