//! What must hold in every world, one file for each promise. Each looks at what was told to whom and at what was found,
//! and says what contradicts its promise; each is seen to fail in its own tests.

pub mod durability;
pub mod immutability;
pub mod liveness;
pub mod no_phantom;
pub mod secrecy;
pub mod single_writer;

use std::fmt;

use crate::{evidence::Evidence, history::History, template::Secret};

/// Something that must never be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The promise that is broken.
    pub checker: &'static str,
    /// How.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.checker, self.what)
    }
}

/// Collects what one checker finds.
#[derive(Debug)]
pub(crate) struct Report {
    checker: &'static str,
    found: Vec<Violation>,
}

impl Report {
    pub(crate) fn of(checker: &'static str) -> Self {
        Self { checker, found: Vec::new() }
    }

    pub(crate) fn add(&mut self, what: String) {
        self.found.push(Violation { checker: self.checker, what });
    }

    pub(crate) fn done(self) -> Vec<Violation> {
        self.found
    }
}

/// All that any checker finds.
pub fn all(history: &History, evidence: &Evidence, secrets: &[Secret]) -> Vec<Violation> {
    let mut found = durability::check(history, evidence);
    found.extend(no_phantom::check(history, evidence));
    found.extend(immutability::check(evidence));
    found.extend(single_writer::check(history, evidence));
    found.extend(secrecy::check(history, evidence, secrets));
    found.extend(liveness::check(history));
    found
}

/// A history and its evidence that break no promise, for the checkers' tests to break.
#[cfg(test)]
pub(crate) mod sound {
    use std::{collections::BTreeMap, time::Duration};

    use bytes::Bytes;
    use farshore_core::{Generation, RunId, Sequence};

    use crate::{
        evidence::{Evidence, Found, FoundLineage},
        history::{Attempt, Disks, Entry, EntryFate, Fate, History, Observation, Progress, Raise},
        store::Effect,
        template::{Secret, group, site},
    };

    pub(crate) fn disks(content: u8) -> Disks {
        [("system".to_owned(), (4, [content; 32]))].into()
    }

    fn attempt(site_name: &str, generation: u64, content: u8, fate: Fate) -> Attempt {
        Attempt {
            group: group("orders"),
            host: format!("host-{site_name}"),
            site: site(site_name),
            generation: Generation::new(generation),
            disks: disks(content),
            fate,
        }
    }

    fn found(sequence: u64, generation: u64, site_name: &str, attempt: usize, content: u8) -> Found {
        Found {
            sequence: Sequence::new(sequence),
            generation: Generation::new(generation),
            site: site(site_name),
            attempt: Some(attempt),
            description: [content; 32],
            disks: Ok(disks(content)),
        }
    }

    pub(crate) fn run() -> RunId {
        RunId::from_bytes([7; 16])
    }

    /// Commit 1 begins; 2 is a point of site a; 3 gives the group to site b; 4 is a point of b whose writer was never told.
    pub(crate) fn world() -> (History, Evidence) {
        let acknowledged = Fate::Acknowledged(Sequence::new(2), [10; 32]);
        let history = History {
            attempts: vec![
                attempt("a", 1, 10, acknowledged),
                attempt("a", 1, 11, Fate::Refused),
                attempt("b", 2, 12, Fate::Open),
                attempt("b", 2, 13, Fate::Begun),
            ],
            raises: vec![Raise {
                group: group("orders"),
                generation: Generation::new(2),
                sequence: Sequence::new(3),
                site: site("b"),
            }],
            entries: vec![
                Entry { run: run(), number: 1, bytes: b"one".to_vec(), fate: EntryFate::Acknowledged },
                Entry { run: run(), number: 2, bytes: b"mine".to_vec(), fate: EntryFate::Refused },
                Entry { run: run(), number: 2, bytes: b"two".to_vec(), fate: EntryFate::Open },
            ],
            groups: [group("orders")].into(),
            observations: vec![Observation {
                group: group("orders"),
                sequence: Sequence::new(4),
                description: [12; 32],
                disks: disks(12),
            }],
            errors: [("could not create an object".to_owned(), 3)].into(),
            progress: vec![Progress {
                actor: "host-a".to_owned(),
                what: "a point".to_owned(),
                took: Some(Duration::from_secs(3)),
                error: String::new(),
            }],
            impossible: Vec::new(),
        };
        let lineage = FoundLineage {
            points: vec![Ok(found(2, 1, "a", 0, 10)), Ok(found(4, 2, "b", 2, 12))],
            commits: vec![1, 2, 3, 4],
            commits_made: vec![1, 2, 3, 4],
            head: Some((Sequence::new(4), Generation::new(2))),
        };
        let evidence = Evidence {
            lineages: [(group("orders"), lineage)].into(),
            runs: [(run().to_string(), Ok(vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")]))].into(),
            findings: Vec::new(),
            effects: vec![Effect::Created { key: "v/x".to_owned(), hash: [1; 32] }],
            objects: BTreeMap::from([("v/x".to_owned(), [1; 32])]),
            sent: vec![("v/x".to_owned(), Bytes::from_static(b"nothing to see"))],
            store: [0; 32],
        };
        (history, evidence)
    }

    pub(crate) fn secrets() -> Vec<Secret> {
        vec![Secret { what: "the passphrase".to_owned(), bytes: b"open sesame, please".to_vec() }]
    }

    #[test]
    fn a_sound_world_breaks_no_promise() {
        let (history, evidence) = world();
        assert_eq!(super::all(&history, &evidence, &secrets()), []);
    }
}
