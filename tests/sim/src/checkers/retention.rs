//! What the rules keep stands: no prune gives up the newest point, one that is pinned, or one that its own rules want, by an
//! oracle of the rules that is not the vault's. What is listed is what was committed without what was given up: nothing
//! less, nothing more, at the end and in every list that somebody read meanwhile. And a pin that was told of holds.

use std::collections::BTreeSet;

use farshore_core::GroupName;

use super::{Report, Violation, chronicle::Chronicle};
use crate::{
    clock::WORLD_BEGINS_MILLISECONDS,
    evidence::{Evidence, FoundLineage, Made},
    history::{History, Listing, Prune},
};

const HOUR_MILLISECONDS: i64 = 3_600_000;
const DAY_MILLISECONDS: i64 = 24 * HOUR_MILLISECONDS;

/// See the module.
pub fn check(history: &History, evidence: &Evidence) -> Vec<Violation> {
    let mut report = Report::of("retention");
    for (group, lineage) in &evidence.lineages {
        let chronicle = Chronicle::of(history, lineage);
        for (commit, prune) in chronicle.prunes() {
            rules(&mut report, group, &chronicle, commit, prune);
        }
        standing(&mut report, group, &chronicle, lineage);
        pins(&mut report, history, group, &chronicle, lineage);
        for listing in history.listings.iter().filter(|listing| listing.group == *group) {
            listed(&mut report, group, &chronicle, listing);
        }
    }
    report.done()
}

fn milliseconds(made: &Made) -> i64 {
    WORLD_BEGINS_MILLISECONDS + i64::try_from(made.at.as_millis()).unwrap_or(i64::MAX / 4)
}

/// A prune gives up nothing that it must keep.
fn rules(report: &mut Report, group: &GroupName, chronicle: &Chronicle<'_>, commit: &Made, prune: &Prune) {
    let judged = prune.judged.get();
    let newest = chronicle.newest_point(judged);
    let pins = chronicle.pins(commit.number);
    let wanted = wanted(chronicle, prune);
    for dropped in prune.dropped.iter().map(|dropped| dropped.get()) {
        let what = format!("prune {} of {group} gave point {dropped} up", commit.number);
        if newest == Some(dropped) {
            report.add(format!("{what}, the newest that it judged"));
        }
        if let Some((run, _)) = pins.iter().find(|(_, point)| point.get() == dropped) {
            report.add(format!("{what}, which run {run} had pinned"));
        }
        if wanted.contains(&dropped) {
            report.add(format!("{what}, which its rules want: {:?}", prune.retention));
        }
    }
}

/// Points that the rules want for sure: among all that ever were, and so also among those that the prune knew.
fn wanted(chronicle: &Chronicle<'_>, prune: &Prune) -> BTreeSet<u64> {
    let judged = prune.judged.get();
    let points: Vec<&Made> =
        chronicle.points().map(|(made, _)| made).take_while(|made| made.number <= judged).collect();
    let now = chronicle.commit(judged).map_or(i64::MAX, milliseconds);
    let all = i64::try_from(prune.retention.all_seconds).unwrap_or(i64::MAX).saturating_mul(1_000);
    let mut wanted: BTreeSet<u64> =
        points.iter().filter(|made| now - milliseconds(made) <= all).map(|made| made.number).collect();
    // Weeks begin on Monday, and the first day of 1970 was a Thursday.
    type Span = fn(i64) -> i64;
    let rules: [(u32, Span); 3] = [
        (prune.retention.hourly, |time| time.div_euclid(HOUR_MILLISECONDS)),
        (prune.retention.daily, |time| time.div_euclid(DAY_MILLISECONDS)),
        (prune.retention.weekly, |time| (time.div_euclid(DAY_MILLISECONDS) + 3).div_euclid(7)),
    ];
    for (count, span) in rules {
        let mut spans = BTreeSet::new();
        for made in points.iter().rev() {
            if u64::from(count) <= spans.len() as u64 {
                break;
            }
            if spans.insert(span(milliseconds(made))) {
                wanted.insert(made.number);
            }
        }
    }
    wanted
}

/// At the end exactly that is listed which was committed and not given up.
fn standing(report: &mut Report, group: &GroupName, chronicle: &Chronicle<'_>, lineage: &FoundLineage) {
    let dropped = chronicle.dropped();
    let listed: BTreeSet<u64> = lineage.points.iter().flatten().map(|found| found.sequence.get()).collect();
    for (made, _) in chronicle.points() {
        let number = made.number;
        match (dropped.contains(&number), listed.contains(&number)) {
            (false, false) => report.add(format!("point {number} of {group} was not given up, and is not listed")),
            (true, true) => report.add(format!("point {number} of {group} was given up, and is listed")),
            _ => {}
        }
    }
}

/// The head has the pins that were asked for, and those that were told of are among them.
fn pins(report: &mut Report, history: &History, group: &GroupName, chronicle: &Chronicle<'_>, lineage: &FoundLineage) {
    let expected = chronicle.pins(u64::MAX);
    let found = lineage.pins.iter().copied().collect();
    if expected != found {
        report.add(format!("the pins of {group} are {found:?}, and should be {expected:?}"));
    }
    let listed = |point| lineage.points.iter().flatten().any(|found| found.sequence == point);
    for (number, request) in history.pins.iter().enumerate().filter(|(_, request)| request.group == *group) {
        let (true, Some(point)) = (request.is_acknowledged, request.point) else { continue };
        let later = history.pins.iter().skip(number + 1);
        if later.clone().any(|other| other.group == *group && other.run == request.run) {
            continue;
        }
        if expected.get(&request.run) != Some(&point) {
            report.add(format!("the pin of run {} on point {point} of {group} was told of, and is lost", request.run));
        }
        if !listed(point) {
            report.add(format!("point {point} of {group} is pinned by run {}, and not listed", request.run));
        }
    }
}

/// Who read a list after a prune was told of saw nothing that it gave up, unless a later one brought it back.
fn listed(report: &mut Report, group: &GroupName, chronicle: &Chronicle<'_>, listing: &Listing) {
    for point in &listing.points {
        let known: Vec<_> = chronicle.prunes().collect();
        let last = known.iter().rposition(|(_, prune)| {
            prune.told_at.is_some_and(|at| at <= listing.began_at) && prune.dropped.contains(point)
        });
        let Some(last) = last else { continue };
        let later = known.iter().skip(last + 1).filter(|(made, _)| made.at <= listing.ended_at);
        if !later.into_iter().any(|(_, prune)| prune.revived.contains(point)) {
            let commit = known[last].0.number;
            report.add(format!("point {point} of {group} was listed after prune {commit} had given it up"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use farshore_core::Sequence;

    use super::*;
    use crate::{
        checkers::sound::{self, pruned},
        history::{PinRequest, Task},
    };

    fn broken(change: impl FnOnce(&mut History, &mut FoundLineage)) -> String {
        let (mut history, mut evidence) = sound::world();
        change(&mut history, evidence.lineages.get_mut(&pruned()).expect("there"));
        let found = check(&history, &evidence);
        assert!(!found.is_empty(), "it must be found");
        found.iter().map(Violation::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn it_fails_when_a_prune_gives_up_the_newest_point_or_a_pinned_one() {
        let found = broken(|history, _| history.prunes[0].dropped.push(Sequence::new(3)));
        assert!(found.contains("prune 5 of ledger gave point 3 up, the newest that it judged"), "{found}");
        let found = broken(|history, _| history.prunes[1].dropped.push(Sequence::new(2)));
        assert!(found.contains("gave point 2 up, which run"), "{found}");
    }

    #[test]
    fn it_fails_when_a_prune_gives_up_what_its_rules_want() {
        // The point is of second 20, and the newest commit that was judged of second 50.
        assert!(broken(|history, _| history.prunes[1].retention.all_seconds = 30).contains("which its rules want"));
        let (mut history, evidence) = sound::world();
        history.prunes[1].retention.all_seconds = 29;
        assert_eq!(check(&history, &evidence), [], "it is too old");
        for change in [
            (|prune: &mut Prune| prune.retention.hourly = 2) as fn(&mut Prune),
            |prune| prune.retention.daily = 2,
            |prune| prune.retention.weekly = 2,
        ] {
            let found = broken(|history, lineage| {
                // It is the only point of the first week.
                lineage.made[1].at = Duration::from_secs(14 * 86_400 - 7_300);
                lineage.made[2].at = Duration::from_secs(14 * 86_400 - 7_200);
                lineage.made[5].at = Duration::from_secs(21 * 86_400);
                change(&mut history.prunes[1]);
            });
            assert!(found.contains("gave point 3 up, which its rules want"), "{found}");
        }
    }

    #[test]
    fn it_fails_when_another_set_of_points_is_listed() {
        let found = broken(|_, lineage| drop(lineage.points.remove(0)));
        assert!(found.contains("point 2 of ledger was not given up, and is not listed"), "{found}");
        assert!(found.contains("point 2 of ledger is pinned"), "{found}");
        let found = broken(|history, _| history.prunes[2].dropped.push(Sequence::new(2)));
        assert!(found.contains("point 2 of ledger was given up, and is listed"), "{found}");
        // It was brought back, and is not there.
        let found = broken(|history, _| history.prunes[2].revived.push(Sequence::new(3)));
        assert!(found.contains("point 3 of ledger was not given up, and is not listed"), "{found}");
    }

    #[test]
    fn it_fails_when_a_pin_is_lost_or_nobodys() {
        let found = broken(|_, lineage| lineage.pins.clear());
        assert!(found.contains("the pins of ledger are {}"), "{found}");
        let found = broken(|history, _| {
            let (group, run) = (pruned(), farshore_core::RunId::from_bytes([9; 16]));
            history.pins.push(PinRequest { group, run, point: Some(Sequence::new(6)), is_acknowledged: true });
        });
        assert!(found.contains("was told of, and is lost"), "{found}");
        let found = broken(|_, lineage| lineage.made[3].by = Task::Other);
        assert!(found.contains("and should be {}"), "{found}");
    }

    #[test]
    fn it_fails_when_a_list_shows_what_was_given_up() {
        let found = broken(|history, _| history.listings[0].points.push(Sequence::new(3)));
        assert!(found.contains("point 3 of ledger was listed after prune 7 had given it up"), "{found}");
        let (mut history, evidence) = sound::world();
        history.listings[0].began_at = Duration::from_secs(60);
        history.listings[0].points.push(Sequence::new(3));
        assert_eq!(check(&history, &evidence), [], "the list was begun before anybody was told of the prune");
    }
}
