//! No object's bytes ever change, and none goes away: what a key held first it holds for ever.

use std::collections::BTreeMap;

use super::{Report, Violation};
use crate::{evidence::Evidence, history::Hash, store::Effect};

/// See the module.
pub fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut report = Report::of("immutability");
    let mut first: BTreeMap<&str, &Hash> = BTreeMap::new();
    for effect in &evidence.effects {
        match effect {
            Effect::Created { key, hash } => {
                if first.insert(key, hash).is_some_and(|before| before != hash) {
                    report.add(format!("{key} came back with other bytes"));
                }
            }
            Effect::Overwritten { key, hash } => {
                if first.get(key.as_str()) != Some(&hash) {
                    report.add(format!("{key} was overwritten with other bytes"));
                }
            }
            Effect::Deleted { key } => report.add(format!("{key} was deleted")),
        }
    }
    for (key, hash) in first {
        match evidence.objects.get(key) {
            None => report.add(format!("{key} is gone")),
            Some(now) if now != hash => report.add(format!("{key} has other bytes than it was created with")),
            Some(_) => {}
        }
    }
    report.done()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::sound;

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
        let found = broken(|evidence| evidence.effects.push(Effect::Created { key: key(), hash: [2; 32] }));
        assert!(found.contains("came back with other bytes"), "{found}");
        let found = broken(|evidence| {
            evidence.objects.insert(key(), [2; 32]);
        });
        assert!(found.contains("has other bytes than it was created with"), "{found}");
    }

    #[test]
    fn it_fails_when_an_object_goes_away() {
        let found = broken(|evidence| evidence.effects.push(Effect::Deleted { key: "v/x".to_owned() }));
        assert!(found.contains("v/x was deleted"), "{found}");
        let found = broken(|evidence| evidence.objects.clear());
        assert!(found.contains("v/x is gone"), "{found}");
    }
}
