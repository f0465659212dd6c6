//! What was acknowledged can be brought back, byte for byte: every point that no prune gave up, every entry of a journal,
//! every lineage. And what anybody has restored once can be restored again until it is given up, and is the same.

use std::collections::BTreeMap;

use farshore_core::GroupName;

use super::{Report, Violation, chronicle::Chronicle};
use crate::{
    evidence::{Evidence, Found},
    history::{EntryFate, Fate, Hash, History, Observation},
};

/// See the module.
pub fn check(history: &History, evidence: &Evidence) -> Vec<Violation> {
    let mut report = Report::of("durability");
    for group in history.groups.iter().filter(|group| !evidence.lineages.contains_key(*group)) {
        report.add(format!("the lineage of {group} was begun, and is not there"));
    }
    let dropped: BTreeMap<_, _> =
        evidence.lineages.iter().map(|(group, lineage)| (group, Chronicle::of(history, lineage).dropped())).collect();
    let is_dropped = |group: &GroupName, point: u64| dropped.get(group).is_some_and(|dropped| dropped.contains(&point));
    for (id, attempt) in history.attempts.iter().enumerate() {
        let Fate::Acknowledged(sequence, description) = &attempt.fate else { continue };
        let what = format!("point {sequence} of {} (attempt {id}), which was acknowledged,", attempt.group);
        let found = find(evidence, &attempt.group, sequence.get());
        if is_dropped(&attempt.group, sequence.get()) {
            continue;
        }
        compare(&mut report, &what, found, description, &attempt.disks);
        if found.is_some_and(|found| found.attempt != Some(id)) {
            report.add(format!("{what} is another attempt"));
        }
    }
    let standing = |seen: &&Observation| !is_dropped(&seen.group, seen.sequence.get());
    for seen in history.observations.iter().filter(standing) {
        let what = format!("point {} of {}, which was restored before,", seen.sequence, seen.group);
        compare(&mut report, &what, find(evidence, &seen.group, seen.sequence.get()), &seen.description, &seen.disks);
    }
    for entry in history.entries.iter().filter(|entry| entry.fate == EntryFate::Acknowledged) {
        let what = format!("entry {} of run {}, which was acknowledged,", entry.number, entry.run);
        match evidence.runs.get(&entry.run.to_string()) {
            None => report.add(format!("{what} is lost with its run")),
            Some(Err(error)) => report.add(format!("{what} cannot be read: {error}")),
            Some(Ok(entries)) => {
                let index = usize::try_from(entry.number).ok().and_then(|number| number.checked_sub(1));
                match index.and_then(|index| entries.get(index)) {
                    None => report.add(format!("{what} is lost")),
                    Some(bytes) if *bytes != entry.bytes => report.add(format!("{what} says something else")),
                    Some(_) => {}
                }
            }
        }
    }
    report.done()
}

fn find<'a>(evidence: &'a Evidence, group: &GroupName, sequence: u64) -> Option<&'a Found> {
    let points = &evidence.lineages.get(group)?.points;
    points.iter().flatten().find(|found| found.sequence.get() == sequence)
}

fn compare(report: &mut Report, what: &str, found: Option<&Found>, description: &Hash, disks: &crate::history::Disks) {
    let Some(found) = found else {
        report.add(format!("{what} is not listed"));
        return;
    };
    if found.description != *description {
        report.add(format!("{what} is described otherwise"));
    }
    match &found.disks {
        Err(error) => report.add(format!("{what} cannot be restored: {error}")),
        Ok(restored) if restored != disks => report.add(format!("{what} has other content")),
        Ok(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checkers::sound, template::group};

    fn broken(change: impl FnOnce(&mut History, &mut Evidence)) -> String {
        let (mut history, mut evidence) = sound::world();
        change(&mut history, &mut evidence);
        let found = check(&history, &evidence);
        assert!(!found.is_empty(), "it must be found");
        found.iter().map(Violation::to_string).collect::<Vec<_>>().join("; ")
    }

    fn first_point(evidence: &mut Evidence) -> &mut Found {
        let lineage = evidence.lineages.get_mut(&group("orders")).expect("there");
        lineage.points[0].as_mut().expect("readable")
    }

    #[test]
    fn it_fails_when_an_acknowledged_point_is_not_listed() {
        let found = broken(|_, evidence| {
            evidence.lineages.get_mut(&group("orders")).expect("there").points.drain(..1);
        });
        assert!(found.contains("point 2 of orders (attempt 0), which was acknowledged, is not listed"), "{found}");
    }

    #[test]
    fn it_fails_when_an_acknowledged_point_has_other_content() {
        let found = broken(|_, evidence| first_point(evidence).disks = Ok(sound::disks(99)));
        assert!(found.contains("has other content"), "{found}");
        let found = broken(|_, evidence| first_point(evidence).disks = Err("a pack is gone".to_owned()));
        assert!(found.contains("cannot be restored: a pack is gone"), "{found}");
        let found = broken(|_, evidence| first_point(evidence).description = [0; 32]);
        assert!(found.contains("is described otherwise"), "{found}");
        let found = broken(|_, evidence| first_point(evidence).attempt = Some(2));
        assert!(found.contains("is another attempt"), "{found}");
    }

    #[test]
    fn it_fails_when_what_was_seen_once_is_gone() {
        let found = broken(|_, evidence| {
            evidence.lineages.get_mut(&group("orders")).expect("there").points.pop();
        });
        assert!(found.contains("point 4 of orders, which was restored before, is not listed"), "{found}");
    }

    #[test]
    fn it_fails_when_a_lineage_or_an_entry_is_lost() {
        let found = broken(|_, evidence| evidence.lineages.clear());
        assert!(found.contains("the lineage of orders was begun, and is not there"), "{found}");
        let found = broken(|_, evidence| evidence.runs.clear());
        assert!(found.contains("is lost with its run"), "{found}");
        let name = sound::run().to_string();
        let found = broken(|_, evidence| {
            evidence.runs.insert(name.clone(), Ok(Vec::new()));
        });
        assert!(found.contains("entry 1"), "{found}");
        let found = broken(|_, evidence| {
            evidence.runs.insert(name.clone(), Ok(vec!["other".into()]));
        });
        assert!(found.contains("says something else"), "{found}");
        let found = broken(|_, evidence| {
            evidence.runs.insert(name, Err("a gap".to_owned()));
        });
        assert!(found.contains("cannot be read: a gap"), "{found}");
    }
}
