//! Nothing is deleted before its time, as far as that shows from outside. Only prunes delete, and only commits, packs, maps,
//! ledgers and collections, and the reserves that they keep. What goes away was there when one prune was planned, was old enough for it to be condemned, and
//! a later prune, whose grace had passed since, is committed by then. Before a commit goes away there is a boundary that is
//! younger than that prune.

use std::collections::BTreeMap;

use super::{Report, Violation, chronicle::Chronicle};
use crate::{
    evidence::{Evidence, Made},
    history::{History, Prune, Task},
    store::Effect,
};

/// What an object is, as its key says, below the folder of its lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Commit,
    /// A data pack or a map pack.
    Pack,
    /// A ledger or a collection.
    Record,
}

/// The kind, and the number of the commit that it is or is built on.
fn parse(key: &str) -> Option<(Kind, u64)> {
    let mut parts = key.split('/');
    let kind = match parts.next()? {
        "commits" => Kind::Commit,
        "packs" | "maps" => Kind::Pack,
        "ledgers" | "collections" => Kind::Record,
        _ => return None,
    };
    Some((kind, parts.next()?.parse().ok()?))
}

/// See the module.
pub fn check(history: &History, evidence: &Evidence) -> Vec<Violation> {
    let mut report = Report::of("deletion");
    let lineages: Vec<_> =
        evidence.lineages.values().map(|lineage| (&lineage.folder, Chronicle::of(history, lineage))).collect();
    let mut created: BTreeMap<&str, usize> = BTreeMap::new();
    let mut boundaries: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, effect) in evidence.effects.iter().enumerate() {
        match effect {
            Effect::Created { key, .. } => {
                created.entry(key).or_insert(index);
                if let Some((folder, _)) = key.split_once("boundaries/") {
                    boundaries.insert(folder, index);
                }
            }
            Effect::Overwritten { .. } => {}
            Effect::Deleted { key, by } => {
                let Task::Prune(id) = by else {
                    report.add(format!("{key} was deleted, and not by a prune"));
                    continue;
                };
                // Room that a pruner keeps for itself.
                if key.contains("/reserves/") {
                    continue;
                }
                let lineage = lineages.iter().find_map(|(folder, chronicle)| {
                    Some((*folder, parse(key.strip_prefix(folder.as_str())?)?, chronicle))
                });
                let Some((folder, (kind, number), chronicle)) = lineage else {
                    report.add(format!("{key} was deleted, which no prune may"));
                    continue;
                };
                let deletion = Deletion {
                    history,
                    chronicle,
                    index,
                    kind,
                    number,
                    by: *id,
                    created: created.get(key.as_str()).copied().unwrap_or(usize::MAX),
                    boundary: boundaries.get(folder.as_str()).copied(),
                };
                if !deletion.is_allowed() {
                    report.add(format!("{key} was deleted by prune {id} before its time"));
                }
            }
        }
    }
    report.done()
}

struct Deletion<'a> {
    history: &'a History,
    chronicle: &'a Chronicle<'a>,
    /// How many effects there were before.
    index: usize,
    kind: Kind,
    number: u64,
    by: usize,
    /// How many effects there were before the object came to be.
    created: usize,
    /// The same of the newest boundary.
    boundary: Option<usize>,
}

impl Deletion<'_> {
    /// Whether some prune may have condemned it, and a later one declared it final.
    fn is_allowed(&self) -> bool {
        let prunes: Vec<_> = self.chronicle.prunes().collect();
        let may_be_final = |(place, (made, last)): (usize, &(&Made, &Prune))| {
            let has_boundary =
                self.kind != Kind::Commit || self.boundary.is_some_and(|boundary| boundary > made.effect);
            made.effect < self.index
                && last.finals > 0
                && self.may_repeat(made)
                && has_boundary
                && prunes
                    .iter()
                    .take(place)
                    .any(|(_, first)| self.may_be_condemned(first) && self.has_waited(first, last))
        };
        prunes.iter().enumerate().any(may_be_final)
    }

    /// Whether who deletes may do that on behalf of this prune: it is its own, or the newest that it knew.
    fn may_repeat(&self, made: &Made) -> bool {
        let Some(prune) = self.history.prunes.get(self.by) else { return false };
        let known = self.chronicle.prunes().rfind(|(known, _)| known.number <= prune.judged.get());
        made.by == Task::Prune(self.by) || known.is_some_and(|(known, _)| known.number == made.number)
    }

    fn may_be_condemned(&self, prune: &Prune) -> bool {
        let judged = prune.judged.get();
        let newest_prune = || self.chronicle.prunes().map(|(made, _)| made.number).rfind(|number| *number <= judged);
        let is_old = match self.kind {
            Kind::Commit => self.number > 1 && self.number <= judged,
            Kind::Pack => self.chronicle.newest_point(judged).is_some_and(|newest| self.number < newest),
            Kind::Record => newest_prune().is_some_and(|newest| self.number < newest),
        };
        self.created < prune.effects_seen && is_old
    }

    fn has_waited(&self, first: &Prune, last: &Prune) -> bool {
        let received_at = |prune: &Prune| self.chronicle.commit(prune.judged.get()).map(|made| made.at.as_millis());
        let (Some(before), Some(after)) = (received_at(first), received_at(last)) else { return false };
        last.judged.get().saturating_sub(first.judged.get()) >= last.grace.commits
            && after.saturating_sub(before) >= u128::from(last.grace.seconds) * 1_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::sound;

    fn broken(change: impl FnOnce(&mut History, &mut Evidence)) -> String {
        let (mut history, mut evidence) = sound::world();
        change(&mut history, &mut evidence);
        let found = check(&history, &evidence);
        assert!(!found.is_empty(), "it must be found");
        found.iter().map(Violation::to_string).collect::<Vec<_>>().join("; ")
    }

    fn deleted(key: &str, by: Task) -> Effect {
        Effect::Deleted { key: key.to_owned(), by }
    }

    #[test]
    fn it_fails_when_somebody_else_deletes_or_what_no_prune_may() {
        let pack = sound::key("packs/00000000000000000002/aa");
        let found = broken(|_, evidence| evidence.effects.push(deleted(&pack, Task::Point(4))));
        assert!(found.contains("and not by a prune"), "{found}");
        for key in ["v/keys/ring/00000001".to_owned(), "v/probe".to_owned(), sound::key("boundaries/00000001")] {
            let found = broken(|_, evidence| evidence.effects.push(deleted(&key, Task::Prune(2))));
            assert!(found.contains("which no prune may"), "{found}");
        }
    }

    #[test]
    fn it_fails_when_what_was_too_young_to_be_condemned_is_deleted() {
        // A pack that is built on the newest point; the first commit; one after all that was judged.
        for key in ["packs/00000000000000000006/bb", "commits/00000000000000000001", "commits/00000000000000000008"] {
            let found = broken(|_, evidence| {
                let (key, by) = (sound::key(key), Task::Prune(2));
                evidence
                    .effects
                    .insert(0, Effect::Created { key: key.clone(), hash: [0; 32], by, at: Default::default() });
                evidence.lineages.values_mut().flat_map(|lineage| &mut lineage.made).for_each(|made| made.effect += 1);
                evidence.effects.push(deleted(&key, by));
            });
            assert!(found.contains("before its time"), "{found}");
        }
        // What came to be after it would have been condemned.
        assert!(
            broken(|history, _| history.prunes[..2].iter_mut().for_each(|prune| prune.effects_seen = 0))
                .contains("before its time")
        );
    }

    #[test]
    fn it_fails_when_the_grace_has_not_passed() {
        // The first prune judged commit 4, of second 30, and the last commit 7, of second 60.
        assert!(broken(|history, _| history.prunes[2].grace.commits = 4).contains("before its time"));
        assert!(broken(|history, _| history.prunes[2].grace.seconds = 31).contains("before its time"));
        assert!(broken(|history, _| history.prunes[2].finals = 0).contains("before its time"));
    }

    #[test]
    fn it_fails_when_it_is_deleted_before_its_prune_or_its_boundary() {
        let move_to_front = |evidence: &mut Evidence, wanted: &str, to: &str| {
            let is = |effect: &Effect, wanted: &str| match effect {
                Effect::Created { key, .. } | Effect::Deleted { key, .. } | Effect::Overwritten { key, .. } => {
                    key.contains(wanted)
                }
            };
            let from = evidence.effects.iter().rposition(|effect| is(effect, wanted)).expect("there");
            let effect = evidence.effects.remove(from);
            let to = evidence.effects.iter().position(|effect| is(effect, to)).expect("there");
            evidence.effects.insert(to, effect);
            let folder = sound::key("commits/");
            let effects = evidence.effects.clone();
            for made in evidence.lineages.values_mut().flat_map(|lineage| &mut lineage.made) {
                let key = format!("{folder}{:020}", made.number);
                let place = effects.iter().position(|effect| is(effect, &key));
                made.effect = place.unwrap_or(made.effect);
            }
        };
        let found =
            broken(|_, evidence| move_to_front(evidence, "packs/00000000000000000002", "commits/00000000000000000008"));
        assert!(found.contains("packs/00000000000000000002/aa was deleted by prune 2 before its time"), "{found}");
        let found =
            broken(|_, evidence| evidence.effects.retain(|effect| !format!("{effect:?}").contains("boundaries")));
        assert!(found.contains("commits/00000000000000000003 was deleted by prune 2 before its time"), "{found}");
    }
}
