//! Each lineage has one history, written by one side at a time: its commits came to be in their order and without gaps, gaps
//! come only by prunes, and what a writer makes again in such a hole is nobody's commit. Its
//! generations never go back, each generation has one site, and after a raise nothing of an older generation follows.

use std::collections::{BTreeMap, BTreeSet};

use farshore_core::{Generation, GroupName, SiteName};

use super::{Report, Violation, chronicle::Chronicle};
use crate::{
    evidence::{Evidence, FoundLineage},
    history::{Fate, History, Task},
};

/// See the module.
pub fn check(history: &History, evidence: &Evidence) -> Vec<Violation> {
    let mut report = Report::of("single_writer");
    for (group, lineage) in &evidence.lineages {
        numbers(&mut report, history, group, lineage);
        generations(&mut report, history, group, lineage);
    }
    let mut acknowledged = BTreeMap::new();
    for (id, attempt) in history.attempts.iter().enumerate() {
        let Fate::Acknowledged(sequence, _) = attempt.fate else { continue };
        if let Some(other) = acknowledged.insert((&attempt.group, sequence), id) {
            let group = &attempt.group;
            report.add(format!("commit {sequence} of {group} was acknowledged to the attempts {other} and {id}"));
        }
    }
    for raise in &history.raises {
        let also_a_point = acknowledged.get(&(&raise.group, raise.sequence));
        if let Some(id) = also_a_point {
            let (sequence, group) = (raise.sequence, &raise.group);
            report.add(format!("commit {sequence} of {group} was acknowledged as a raise, and to attempt {id}"));
        }
    }
    report.done()
}

/// Each commit came to be after the one before it, and none is missing that no prune had judged.
fn numbers(report: &mut Report, history: &History, group: &GroupName, lineage: &FoundLineage) {
    let chronicle = Chronicle::of(history, lineage);
    let mut newest = 0;
    let mut holes_end = 0;
    for made in &lineage.made {
        let number = made.number;
        match made.by {
            _ if number > newest + 1 => report.add(format!("commit {number} of {group} came to be after {newest}")),
            _ if number <= newest && number > holes_end => {
                report.add(format!("commit {number} of {group} came to be again, and no prune had judged it"));
            }
            Task::Prune(id) if number > newest => {
                let judged = history.prunes.get(id).map_or(0, |prune| prune.judged.get());
                holes_end = holes_end.max(judged);
            }
            _ => {}
        }
        newest = newest.max(number);
    }
    let there: BTreeSet<u64> = lineage.commits.iter().copied().collect();
    if let Some(gap) = (1..=newest).find(|number| !there.contains(number) && (*number > holes_end || *number == 1)) {
        report.add(format!("the commits of {group} have a gap at {gap}, which no prune had judged"));
    }
    for (id, attempt) in history.attempts.iter().enumerate().filter(|(_, attempt)| attempt.group == *group) {
        let Fate::Acknowledged(sequence, _) = attempt.fate else { continue };
        if chronicle.commit(sequence.get()).is_none_or(|made| made.by != Task::Point(id)) {
            report.add(format!("commit {sequence} of {group} was acknowledged to attempt {id}, and is not its"));
        }
    }
    let newest = Some(newest).filter(|newest| *newest > 0);
    if lineage.head.map(|(sequence, _)| sequence.get()) != newest {
        report.add(format!("the head of {group} is {:?}, and its newest commit is {newest:?}", lineage.head));
    }
}

/// The generations never go back, and agree with the raises.
fn generations(report: &mut Report, history: &History, group: &GroupName, lineage: &FoundLineage) {
    let mut sites: BTreeMap<Generation, &SiteName> = BTreeMap::new();
    let mut newest = Generation::FIRST;
    for found in lineage.points.iter().flatten() {
        if found.generation < newest {
            let (sequence, generation) = (found.sequence, found.generation);
            report.add(format!("point {sequence} of {group} is of generation {generation}, after one of {newest}"));
        }
        newest = newest.max(found.generation);
        if *sites.entry(found.generation).or_insert(&found.site) != &found.site {
            report.add(format!("generation {} of {group} was written by two sites", found.generation));
        }
    }
    if let Some((_, generation)) = lineage.head
        && generation < newest
    {
        report.add(format!("the head of {group} is of generation {generation}, after a point of {newest}"));
    }
    let mut raised = BTreeMap::new();
    for raise in history.raises.iter().filter(|raise| raise.group == *group) {
        if raised.insert(raise.generation, raise.sequence).is_some() {
            report.add(format!("generation {} of {group} was given twice", raise.generation));
        }
        if sites.get(&raise.generation).is_some_and(|site| **site != raise.site) {
            report.add(format!("generation {} of {group} was given to {}", raise.generation, raise.site));
        }
        if lineage.head.is_none_or(|(_, generation)| generation < raise.generation) {
            report.add(format!("generation {} of {group} was acknowledged, and is lost", raise.generation));
        }
        for found in lineage.points.iter().flatten() {
            let is_older = found.generation < raise.generation;
            if (found.sequence > raise.sequence) == is_older {
                let (point, of) = (found.sequence, found.generation);
                let (commit, to) = (raise.sequence, raise.generation);
                report
                    .add(format!("point {point} of {group} is of generation {of}; commit {commit} raised it to {to}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use farshore_core::Sequence;

    use super::*;
    use crate::{
        checkers::sound,
        evidence::Made,
        template::{group, site},
    };

    fn broken(change: impl FnOnce(&mut History, &mut FoundLineage)) -> String {
        let (mut history, mut evidence) = sound::world();
        change(&mut history, evidence.lineages.get_mut(&group("orders")).expect("there"));
        let found = check(&history, &evidence);
        assert!(!found.is_empty(), "it must be found");
        found.iter().map(Violation::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn it_fails_when_commits_have_gaps_or_come_out_of_order() {
        assert!(broken(|_, lineage| lineage.commits = vec![1, 2, 4]).contains("have a gap at 3"));
        let found = broken(|_, lineage| lineage.made.swap(1, 2));
        assert!(found.contains("commit 3 of orders came to be after 1"), "{found}");
        let found = broken(|_, lineage| lineage.made.push(lineage.made[1]));
        assert!(found.contains("commit 2 of orders came to be again, and no prune had judged it"), "{found}");
        let found = broken(|_, lineage| lineage.made[1].by = Task::Point(3));
        assert!(found.contains("commit 2 of orders was acknowledged to attempt 0, and is not its"), "{found}");
        let found = broken(|_, lineage| lineage.head = Some((Sequence::new(3), Generation::new(2))));
        assert!(found.contains("its newest commit is Some(4)"), "{found}");
    }

    #[test]
    fn it_fails_when_there_is_a_hole_that_no_prune_made_or_somebody_was_told_of_a_commit_in_one() {
        let broken = |change: fn(&mut History, &mut FoundLineage)| {
            let (mut history, mut evidence) = sound::world();
            change(&mut history, evidence.lineages.get_mut(&sound::pruned()).expect("there"));
            check(&history, &evidence).iter().map(Violation::to_string).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(broken(|_, lineage| lineage.commits.retain(|number| *number != 7)), "", "the last prune judged it");
        let found = broken(|_, lineage| lineage.commits.retain(|number| *number != 8));
        assert!(found.contains("have a gap at 8"), "{found}");
        assert!(broken(|_, lineage| lineage.commits.retain(|number| *number != 1)).contains("have a gap at 1"));
        let sleeper = |history: &mut History, lineage: &mut FoundLineage| {
            history.attempts[1].group = sound::pruned();
            lineage.made.push(Made { by: Task::Point(1), ..lineage.made[2] });
        };
        let (mut history, mut evidence) = sound::world();
        sleeper(&mut history, evidence.lineages.get_mut(&sound::pruned()).expect("there"));
        assert_eq!(check(&history, &evidence), [], "a sleeper made it again, and knows that it is nothing");
        history.attempts[1].fate = Fate::Acknowledged(Sequence::new(3), [0; 32]);
        let found = check(&history, &evidence);
        assert!(format!("{found:?}").contains("was acknowledged to attempt 1, and is not its"), "{found:?}");
    }

    #[test]
    fn it_fails_when_an_older_generation_follows_a_raise() {
        let found = broken(|_, lineage| {
            lineage.points[1].as_mut().expect("readable").generation = Generation::FIRST;
        });
        assert!(found.contains("point 4 of orders is of generation 1; commit 3 raised it to 2"), "{found}");
        // Also where the raise was never acknowledged.
        let found = broken(|history, lineage| {
            history.raises.clear();
            lineage.points.reverse();
        });
        assert!(found.contains("is of generation 1, after one of 2"), "{found}");
        let found = broken(|history, lineage| {
            history.raises.clear();
            lineage.head = Some((Sequence::new(4), Generation::FIRST));
        });
        assert!(found.contains("the head of orders is of generation 1"), "{found}");
    }

    #[test]
    fn it_fails_when_a_generation_has_two_sites_or_is_given_twice() {
        let found = broken(|_, lineage| {
            lineage.points[0].as_mut().expect("readable").generation = Generation::new(2);
        });
        assert!(found.contains("generation 2 of orders was written by two sites"), "{found}");
        assert!(broken(|history, _| history.raises[0].site = site("a")).contains("was given to a"));
        let found = broken(|history, _| {
            let again = history.raises[0].clone();
            history.raises.push(again);
        });
        assert!(found.contains("was given twice"), "{found}");
        let found = broken(|history, lineage| {
            history.raises[0].generation = Generation::new(5);
            lineage.points.pop();
        });
        assert!(found.contains("generation 5 of orders was acknowledged, and is lost"), "{found}");
    }

    #[test]
    fn it_fails_when_one_commit_was_acknowledged_to_two() {
        let found = broken(|history, _| history.attempts[2].fate = Fate::Acknowledged(Sequence::new(2), [0; 32]));
        assert!(found.contains("was acknowledged to the attempts 0 and 2"), "{found}");
        let found = broken(|history, _| history.attempts[2].fate = Fate::Acknowledged(Sequence::new(3), [0; 32]));
        assert!(found.contains("was acknowledged as a raise, and to attempt 2"), "{found}");
    }
}
