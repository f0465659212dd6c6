//! What must hold in every world, one file for each promise. Each looks at what was told to whom and at what was found,
//! and says what contradicts its promise; each is seen to fail in its own tests.

pub(crate) mod chronicle;
pub mod deletion;
pub mod durability;
pub mod immutability;
pub mod liveness;
pub mod no_phantom;
pub mod retention;
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
    found.extend(retention::check(history, evidence));
    found.extend(deletion::check(history, evidence));
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
    use farshore_core::{Generation, GroupName, RunId, Sequence};
    use farshore_vault::{Grace, Retention};

    use crate::{
        evidence::{Evidence, Found, FoundLineage, Made},
        history::{
            Attempt, Disks, Entry, EntryFate, Fate, History, Listing, Observation, PinRequest, Progress, Prune, Raise,
            Task,
        },
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
        let mut history = History {
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
            prunes: Vec::new(),
            pins: Vec::new(),
            listings: Vec::new(),
            impossible: Vec::new(),
        };
        let lineage = FoundLineage {
            points: vec![Ok(found(2, 1, "a", 0, 10)), Ok(found(4, 2, "b", 2, 12))],
            commits: vec![1, 2, 3, 4],
            made: made(&[Task::Other, Task::Point(0), Task::Other, Task::Point(2)]),
            folder: "v/lineages/orders/".to_owned(),
            pins: Vec::new(),
            head: Some((Sequence::new(4), Generation::new(2))),
        };
        let mut evidence = Evidence {
            lineages: [(group("orders"), lineage)].into(),
            runs: [(run().to_string(), Ok(vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")]))].into(),
            findings: Vec::new(),
            effects: vec![Effect::Created {
                key: "v/x".to_owned(),
                hash: [1; 32],
                by: Task::Other,
                at: Duration::ZERO,
            }],
            objects: BTreeMap::from([("v/x".to_owned(), [1; 32])]),
            sent: vec![("v/x".to_owned(), Bytes::from_static(b"nothing to see"))],
            store: [0; 32],
        };
        add_pruned(&mut history, &mut evidence);
        (history, evidence)
    }

    /// Commits by these, ten seconds apart.
    fn made(by: &[Task]) -> Vec<Made> {
        let made = |(place, by): (u64, &Task)| Made {
            number: place + 1,
            by: *by,
            at: Duration::from_secs(10 * place),
            effect: 0,
        };
        (0..).zip(by).map(made).collect()
    }

    /// The group that is pruned.
    pub(crate) fn pruned() -> GroupName {
        group("ledger")
    }

    /// The key of an object of its lineage.
    pub(crate) fn key(name: &str) -> String {
        format!("v/lineages/ledger/{name}")
    }

    /// Commit 1 begins; 2 and 3 are points; 4 pins point 2; 5 is a prune that gives nothing up; 6 is a point; 7 is a prune
    /// that gives point 3 up, and 8 one that deletes its commit and its pack.
    fn add_pruned(history: &mut History, evidence: &mut Evidence) {
        let acknowledged = |point: u64, content| Fate::Acknowledged(Sequence::new(point), [content; 32]);
        for (point, content) in [(2, 20), (3, 21), (6, 22)] {
            history
                .attempts
                .push(Attempt { group: pruned(), ..attempt("a", 1, content, acknowledged(point, content)) });
        }
        let pin = PinRequest { group: pruned(), run: run(), point: Some(Sequence::new(2)), is_acknowledged: true };
        history.pins.push(pin);
        let retention = Retention { all_seconds: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0 };
        for (judged, dropped, finals, told_at) in [(4, None, 0, 41), (6, Some(3), 0, 61), (7, None, 2, 71)] {
            history.prunes.push(Prune {
                group: pruned(),
                judged: Sequence::new(judged),
                retention,
                grace: Grace { seconds: 0, commits: 0 },
                dropped: dropped.map(Sequence::new).into_iter().collect(),
                revived: Vec::new(),
                finals,
                effects_seen: usize::MAX,
                told_at: Some(Duration::from_secs(told_at)),
            });
        }
        let (began_at, ended_at) = (Duration::from_secs(65), Duration::from_secs(66));
        let points = vec![Sequence::new(6), Sequence::new(2)];
        history.listings.push(Listing { group: pruned(), began_at, ended_at, points });
        let by = [
            Task::Other,
            Task::Point(4),
            Task::Point(5),
            Task::Pin(0),
            Task::Prune(0),
            Task::Point(6),
            Task::Prune(1),
            Task::Prune(2),
        ];
        let mut lineage = FoundLineage {
            points: vec![Ok(found(2, 1, "a", 4, 20)), Ok(found(6, 1, "a", 6, 22))],
            commits: vec![1, 2, 4, 5, 6, 7, 8],
            made: made(&by),
            folder: key(""),
            pins: vec![(run(), Sequence::new(2))],
            head: Some((Sequence::new(8), Generation::FIRST)),
        };
        let mut create = |name: &str, by: Task, at: Duration| {
            let (key, hash) = (key(name), [1; 32]);
            evidence.objects.insert(key.clone(), hash);
            evidence.effects.push(Effect::Created { key, hash, by, at });
            evidence.effects.len() - 1
        };
        create("packs/00000000000000000002/aa", Task::Point(5), Duration::from_secs(19));
        for made in &mut lineage.made {
            made.effect = create(&format!("commits/{:020}", made.number), made.by, made.at);
        }
        create("boundaries/00000001", Task::Prune(2), Duration::from_secs(71));
        for name in ["commits/00000000000000000003", "packs/00000000000000000002/aa"] {
            evidence.objects.remove(&key(name));
            evidence.effects.push(Effect::Deleted { key: key(name), by: Task::Prune(2) });
        }
        evidence.lineages.insert(pruned(), lineage);
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
