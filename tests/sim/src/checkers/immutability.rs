//! No object's bytes ever change, and none goes away that nobody deleted: what a key held first it holds for ever. A deleted
//! key never comes back with other bytes, except that of a commit: a writer that slept may make it again, in the hole. Who
//! may delete what is another checker's.

use std::collections::{BTreeMap, BTreeSet};

use super::{Report, Violation};
use crate::{evidence::Evidence, history::Hash, store::Effect};

/// See the module.
pub fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut report = Report::of("immutability");
    let mut first: BTreeMap<&str, &Hash> = BTreeMap::new();
    let mut there: BTreeSet<&str> = BTreeSet::new();
    for effect in &evidence.effects {
        match effect {
            Effect::Created { key, hash, .. } => {
                let before = first.insert(key, hash);
                if before.is_some_and(|before| before != hash) && !key.contains("/commits/") {
                    report.add(format!("{key} came back with other bytes"));
                }
                there.insert(key);
            }
            Effect::Overwritten { key, hash } => {
                if first.get(key.as_str()) != Some(&hash) {
                    report.add(format!("{key} was overwritten with other bytes"));
                }
            }
            Effect::Deleted { key, .. } => {
                there.remove(key.as_str());
            }
        }
    }
    for (key, hash) in first {
        match evidence.objects.get(key) {
            None if there.contains(key) => report.add(format!("{key} is gone")),
            None => {}
            Some(_) if !there.contains(key) => report.add(format!("{key} was deleted, and is there")),
            Some(now) if now != hash => report.add(format!("{key} has other bytes than it was created with")),
            Some(_) => {}
        }
    }
    report.done()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checkers::sound, history::Task};

    fn created(key: String, hash: Hash) -> Effect {
        Effect::Created { key, hash, by: Task::Other, at: Default::default() }
    }

    fn broken(change: impl FnOnce(&mut Evidence)) -> String {
        let (_, mut evidence) = sound::world();
        change(&mut evidence);
        let found = check(&evidence);
        assert!(!found.is_empty(), "it must be found");
        found.iter().map(Violation::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn it_fails_when_bytes_change() {
        let key = || "v/x".to_owned();
        let found = broken(|evidence| evidence.effects.push(Effect::Overwritten { key: key(), hash: [2; 32] }));
        assert!(found.contains("v/x was overwritten with other bytes"), "{found}");
        let found = broken(|evidence| evidence.effects.push(created(key(), [2; 32])));
        assert!(found.contains("came back with other bytes"), "{found}");
        let found = broken(|evidence| {
            evidence.objects.insert(key(), [2; 32]);
        });
        assert!(found.contains("has other bytes than it was created with"), "{found}");
    }

    #[test]
    fn it_fails_when_an_object_goes_away() {
        let deleted = || Effect::Deleted { key: "v/x".to_owned(), by: Task::Prune(0) };
        let found = broken(|evidence| evidence.effects.push(deleted()));
        assert!(found.contains("v/x was deleted, and is there"), "{found}");
        let found = broken(|evidence| evidence.effects.extend([deleted(), created("v/x".to_owned(), [2; 32])]));
        assert!(found.contains("v/x came back with other bytes"), "{found}");
        let found = broken(|evidence| evidence.objects.clear());
        assert!(found.contains("v/x is gone"), "{found}");
    }
}
