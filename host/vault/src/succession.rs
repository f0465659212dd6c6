//! What a commit may change of its lineage's state.
//!
//! The head is repeated by everybody who commits, and each event is a matter of one power. So what a head says counts less than what
//! the events say: who follows a lineage from commit to commit knows what its state must be, whatever a captured host claims. A
//! commit is judged by what the one before it says, which it repeats in good faith; so a lie is its author's alone.

use farshore_core::{Generation, RunId, Sequence};
use futures::StreamExt;

use crate::{
    Error, Head, Pin, Result,
    commit::{Commit, CommitBody, Event},
    ledger::Valid,
    lineage::LineageShared,
    seal::Hash,
};

/// How many commits are read side by side.
const COMMITS_READ_AT_ONCE: usize = 16;

/// Goes through a lineage in the order of its commits, as far as they are there.
#[derive(Debug, Default)]
pub(crate) struct Succession {
    last: Option<(Sequence, Hash, Head)>,
}

/// How a commit contradicts the one before it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Contradiction {
    /// It was written on top of another one; the one that is there has this hash.
    OtherBefore(Hash),
    /// These parts of its head are not what its event makes of the head before it, by the names of the format.
    State(Vec<&'static str>),
}

impl Succession {
    /// Goes on to this commit. Nothing can be said against it if the one before it was not the last.
    pub(crate) fn follow(&mut self, commit: &Commit) -> Option<Contradiction> {
        let head = &commit.body.head;
        let last = self.last.replace((head.sequence, commit.hash, head.clone()));
        let expected = match last {
            _ if head.sequence == Sequence::FIRST => first(head),
            Some((sequence, hash, before)) if sequence.next() == head.sequence => {
                if hash != commit.body.previous {
                    return Some(Contradiction::OtherBefore(hash));
                }
                after(&before, &commit.body)
            }
            _ => return None,
        };
        let wrong = differences(head, &expected);
        (!wrong.is_empty()).then_some(Contradiction::State(wrong))
    }
}

/// The state with the first commit. Its own word is taken of the site, and of the horizon of locks, which follows from what was
/// stored when.
fn first(said: &Head) -> Head {
    Head { generation: Generation::FIRST, newest_point: None, pruned: None, pins: Vec::new(), ..said.clone() }
}

/// The state with this commit, if the one before it left this state. A prune's own word is taken of pins: it has followed what was
/// pinned, as far back as it was still told.
fn after(before: &Head, commit: &CommitBody) -> Head {
    let said = &commit.head;
    let mut head = Head { sequence: said.sequence, ..before.clone() };
    // Whoever stores something can only have stored it later than what it is added to.
    let lowered = || before.locked_until.map(|before| said.locked_until.map_or(before, |said| said.min(before)));
    match &commit.event {
        Event::Point(_) => {
            head.newest_point = Some(said.sequence);
            head.locked_until = lowered();
        }
        Event::GenerationRaised { .. } => {
            // A captured host may have claimed the last one.
            head.generation = Generation::new(before.generation.get().saturating_add(1));
            head.active_site = said.active_site.clone();
        }
        Event::Pruned(_) => {
            head.pruned = Some(said.sequence);
            head.pins.clone_from(&said.pins);
            head.locked_until = lowered();
        }
        Event::Pinned { .. } | Event::Unpinned { .. } => head.pins = pins_after(&before.pins, commit),
        Event::LockExtended { until, .. } => head.locked_until = Some(*until),
        Event::Genesis { .. } | Event::HostRevoked { .. } => {}
    }
    head
}

/// What two states of one commit differ in, by the names of the format.
fn differences(one: &Head, other: &Head) -> Vec<&'static str> {
    let pins = |head: &Head| {
        let mut pins: Vec<_> = head.pins.iter().map(|pin| (pin.run, pin.point, pin.since)).collect();
        pins.sort_unstable();
        pins
    };
    let differ = [
        ("generation", one.generation != other.generation),
        ("active_site", one.active_site != other.active_site),
        ("newest_point", one.newest_point != other.newest_point),
        ("pruned", one.pruned != other.pruned),
        ("pins", pins(one) != pins(other)),
        ("locked_until", one.locked_until != other.locked_until),
    ];
    differ.into_iter().filter(|(_, differ)| *differ).map(|(name, _)| name).collect()
}

/// The pins that stand after this commit, if these did before it.
pub(crate) fn pins_after(before: &[Pin], commit: &CommitBody) -> Vec<Pin> {
    let mut pins = before.to_vec();
    match commit.event {
        Event::Pinned { run, point } => {
            pins.retain(|pin| pin.run != run);
            let said = commit.head.pins.iter().find(|pin| pin.run == run && pin.point == point);
            pins.push(said.cloned().unwrap_or(Pin { run, point, since: commit.written_at }));
        }
        Event::Unpinned { run } => pins.retain(|pin| pin.run != run),
        _ => {}
    }
    pins
}

/// What was pinned and not given up.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) pins: Vec<Pin>,
    /// Why that may not be all: a commit is missing or damaged.
    unread: Option<Error>,
}

impl Held {
    /// With the newest commit of a lineage: by what was done since the newest prune, not by what is said.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn at(shared: &LineageShared, valid: Option<&Valid>, newest: Sequence) -> Result<Self> {
        let (pins, from) = valid.map_or((Vec::new(), Sequence::FIRST), |valid| (valid.pins.clone(), valid.commit));
        Self::between(shared, pins, from, newest).await
    }

    /// With the commit `to`, if these pins stood with the commit `from`.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn between(shared: &LineageShared, pins: Vec<Pin>, from: Sequence, to: Sequence) -> Result<Self> {
        let mut held = Self { pins, unread: None };
        let read = |number| shared.log.read_existing(Sequence::new(number), "there are later commits in its lineage");
        let commits = futures::stream::iter(from.get() + 1..=to.get()).map(read);
        let mut commits = std::pin::pin!(commits.buffered(COMMITS_READ_AT_ONCE));
        while let Some(commit) = commits.next().await {
            match commit {
                Ok(commit) => held.pins = pins_after(&held.pins, &commit.body),
                Err(error) if error.is_damage() => held.unread = Some(error),
                Err(error) => return Err(error),
            }
        }
        Ok(held)
    }

    /// Whether a run has pinned this point, or any. Not to be told where a commit cannot be read.
    pub(crate) fn has(&self, run: RunId, point: Option<Sequence>) -> Option<bool> {
        let is_it = |pin: &Pin| pin.run == run && point.is_none_or(|point| pin.point == point);
        self.unread.is_none().then(|| self.pins.iter().any(is_it))
    }

    /// All of them.
    ///
    /// # Errors
    /// A commit is missing or damaged.
    pub(crate) fn all(self) -> Result<Vec<Pin>> {
        match self.unread {
            None => Ok(self.pins),
            Some(error) => Err(error),
        }
    }

    /// As many as can be found: where a commit cannot be read, those that the newest one claims count too.
    pub(crate) fn at_least(mut self, claimed: &[Pin]) -> Vec<Pin> {
        if self.unread.is_some() {
            for pin in claimed {
                if !self.pins.iter().any(|known| (known.run, known.point) == (pin.run, pin.point)) {
                    self.pins.push(pin.clone());
                }
            }
        }
        self.pins
    }
}

#[cfg(test)]
mod tests {
    use farshore_core::{HostId, LineageId, SiteName, Timestamp};

    use super::*;

    fn run(number: u8) -> RunId {
        RunId::from_bytes([number; 16])
    }

    fn pin(number: u8) -> Pin {
        Pin { run: run(number), point: Sequence::new(2), since: Timestamp::from_unix_milliseconds(1) }
    }

    fn before() -> Head {
        Head {
            sequence: Sequence::new(7),
            generation: Generation::FIRST,
            active_site: SiteName::new("a").expect("a good name"),
            newest_point: Some(Sequence::new(5)),
            pruned: None,
            pins: vec![pin(1), pin(2)],
            locked_until: Some(until(50)),
        }
    }

    fn until(milliseconds: i64) -> Timestamp {
        Timestamp::from_unix_milliseconds(milliseconds)
    }

    /// What is wrong of a commit with this event that says this.
    fn wrong(event: Event, say: impl FnOnce(&mut Head)) -> Vec<&'static str> {
        let mut head = Head { sequence: Sequence::new(8), ..before() };
        say(&mut head);
        let (lineage, written_at) = (LineageId::from_bytes([0; 16]), Timestamp::from_unix_milliseconds(9));
        let commit = CommitBody { lineage, head, previous: [0; 32], written_at, event };
        differences(&commit.head, &after(&before(), &commit))
    }

    #[test]
    fn what_is_claimed_counts_only_where_something_cannot_be_read() {
        let other = Pin { point: Sequence::new(5), ..pin(1) };
        let claimed = [pin(2), other.clone(), pin(1)];
        let held = |unread| Held { pins: vec![pin(1)], unread };
        let damaged = || Some(Error::damaged("a commit", "it is torn"));
        assert_eq!(held(None).at_least(&claimed), [pin(1)]);
        assert_eq!(held(damaged()).at_least(&claimed), [pin(1), pin(2), other], "both points of a run are kept");
        assert_eq!(held(None).all().expect("whole"), [pin(1)]);
        assert!(held(damaged()).all().expect_err("it may not be all").is_damage());
        assert_eq!(
            (held(None).has(run(1), None), held(None).has(run(1), Some(Sequence::new(5)))),
            (Some(true), Some(false))
        );
        assert_eq!(held(damaged()).has(run(1), None), None);
    }

    #[test]
    fn a_last_generation_that_somebody_claims_stops_nobody() {
        let head = Head { generation: Generation::new(u64::MAX), ..before() };
        let event = Event::GenerationRaised { previous_site: head.active_site.clone(), reason: String::new() };
        let (lineage, written_at) = (LineageId::from_bytes([0; 16]), Timestamp::from_unix_milliseconds(9));
        let commit = CommitBody { lineage, head: before(), previous: [0; 32], written_at, event };
        assert_eq!(differences(&commit.head, &after(&head, &commit)), ["generation"]);
    }

    #[test]
    fn each_event_changes_its_own_and_nothing_else() {
        let raised = || Event::GenerationRaised { previous_site: before().active_site, reason: String::new() };
        let raise = |head: &mut Head| {
            head.generation = head.generation.next();
            head.active_site = SiteName::new("b").expect("a good name");
        };
        assert_eq!(wrong(raised(), raise), [""; 0]);
        assert_eq!(wrong(raised(), |_| {}), ["generation"]);
        let pinned = || Event::Pinned { run: run(2), point: Sequence::new(5) };
        let moved = Pin { point: Sequence::new(5), since: Timestamp::from_unix_milliseconds(9), ..pin(2) };
        assert_eq!(wrong(pinned(), |head| head.pins[1] = moved.clone()), [""; 0]);
        assert_eq!(wrong(pinned(), |head| head.pins = vec![moved.clone()]), ["pins"], "another run's is forgotten");
        assert_eq!(wrong(pinned(), |head| head.pins = vec![moved, pin(1)]), [""; 0], "their order says nothing");
        assert_eq!(wrong(Event::Unpinned { run: run(1) }, |head| head.pins = vec![pin(2)]), [""; 0]);
        assert_eq!(wrong(Event::Unpinned { run: run(1) }, |head| head.pins.clear()), ["pins"]);
        let revoked = || Event::HostRevoked { host: HostId::from_bytes([1; 16]) };
        assert_eq!(wrong(revoked(), |_| {}), [""; 0]);
        assert_eq!(wrong(revoked(), raise), ["generation", "active_site"]);
        let extended = || Event::LockExtended { until: until(77), objects: 1 };
        assert_eq!(wrong(extended(), |head| head.locked_until = Some(until(77))), [""; 0]);
        assert_eq!(wrong(revoked(), |head| head.locked_until = Some(until(49))), ["locked_until"]);
        let more = |head: &mut Head| head.pins.extend([Pin { point: Sequence::new(3), ..pin(2) }, pin(2)]);
        assert_eq!(wrong(revoked(), more), ["pins"], "a run has one");
        let forget = |head: &mut Head| (head.newest_point, head.pruned) = (None, Some(Sequence::new(3)));
        assert_eq!(wrong(revoked(), forget), ["newest_point", "pruned"]);
    }
}
