//! What a commit may change of its lineage's state.
//!
//! The head is repeated by everybody who commits, and each event is a matter of one power. So what a head says counts less than what
//! the events say: who follows a lineage from commit to commit knows what its state must be, whatever a captured host claims. A
//! commit is judged by what the one before it says, which it repeats in good faith; so a lie is its author's alone.

use farshore_core::{Generation, RunId, Sequence};
use futures::{StreamExt, TryStreamExt};

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
    last: Option<Last>,
}

#[derive(Debug)]
struct Last {
    hash: Hash,
    head: Head,
    /// It is the lineage's, and no sleeper's in the place of a deleted one.
    counts: bool,
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
        let last = self.last.replace(Last { hash: commit.hash, head: head.clone(), counts: true });
        let expected = match last {
            _ if head.sequence == Sequence::FIRST => first(head),
            Some(Last { hash, head: before, counts }) if before.sequence.next() == head.sequence => {
                if hash != commit.body.previous {
                    return counts.then_some(Contradiction::OtherBefore(hash));
                }
                after(&before, &commit.body)
            }
            _ => return None,
        };
        let wrong = differences(head, &expected);
        (!wrong.is_empty()).then_some(Contradiction::State(wrong))
    }

    /// Goes on to the last commit that a prune has judged, if it is still there: the next may have been written on top of it.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn follow_judged(&mut self, shared: &LineageShared, judged: Sequence) -> Result<()> {
        if self.last.as_ref().is_some_and(|last| last.head.sequence == judged) {
            return Ok(());
        }
        match shared.log.read(judged).await {
            Ok(Some(Commit { hash, body, .. })) => self.last = Some(Last { hash, head: body.head, counts: false }),
            Ok(None) => {}
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
        Ok(())
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
    /// Where a commit cannot be read, those that the next one claims are among them.
    pub(crate) pins: Vec<Pin>,
    /// Why they may be others: a commit is missing or damaged.
    unread: Option<Error>,
}

impl Held {
    /// With the newest commit of a lineage: by what was done since the newest prune, not by what is said.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn at(shared: &LineageShared, valid: Option<&Valid>, newest: Sequence) -> Result<Self> {
        let (pins, from) = since_prune(valid);
        Self::between(shared, pins.to_vec(), from, newest).await
    }

    /// With the commit `to`, if these pins stood with the commit `from`.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn between(shared: &LineageShared, pins: Vec<Pin>, from: Sequence, to: Sequence) -> Result<Self> {
        let mut held = Self { pins, unread: None };
        let mut is_after_hole = false;
        let commits = futures::stream::iter(from.get() + 1..=to.get()).map(|number| read(shared, number));
        let mut commits = std::pin::pin!(commits.buffered(COMMITS_READ_AT_ONCE));
        while let Some(commit) = commits.next().await {
            match commit {
                Ok(commit) => {
                    if std::mem::take(&mut is_after_hole) {
                        held.add(&commit.body.head.pins);
                    }
                    held.pins = pins_after(&held.pins, &commit.body);
                }
                Err(error) if error.is_damage() => (held.unread, is_after_hole) = (Some(error), true),
                Err(error) => return Err(error),
            }
        }
        Ok(held)
    }

    fn add(&mut self, claimed: &[Pin]) {
        for pin in claimed {
            if !self.pins.iter().any(|known| (known.run, known.point) == (pin.run, pin.point)) {
                self.pins.push(pin.clone());
            }
        }
    }

    /// All of them, and no others.
    ///
    /// # Errors
    /// A commit is missing or damaged.
    pub(crate) fn certain(self) -> Result<Vec<Pin>> {
        match self.unread {
            None => Ok(self.pins),
            Some(error) => Err(error),
        }
    }
}

/// The point that a run has pinned and not given up, as the newest of its own commits says.
///
/// # Errors
/// A commit after that is missing or damaged, or the store failed.
pub(crate) async fn pinned_by(
    shared: &LineageShared,
    valid: Option<&Valid>,
    newest: Sequence,
    run: RunId,
) -> Result<Option<Sequence>> {
    let (pins, from) = since_prune(valid);
    let commits = futures::stream::iter((from.get() + 1..=newest.get()).rev()).map(|number| read(shared, number));
    let mut commits = std::pin::pin!(commits.buffered(COMMITS_READ_AT_ONCE));
    while let Some(commit) = commits.try_next().await? {
        match commit.body.event {
            Event::Pinned { run: by, point } if by == run => return Ok(Some(point)),
            Event::Unpinned { run: by } if by == run => return Ok(None),
            _ => {}
        }
    }
    Ok(pins.iter().find(|pin| pin.run == run).map(|pin| pin.point))
}

/// The pins of the newest prune, and its number.
fn since_prune(valid: Option<&Valid>) -> (&[Pin], Sequence) {
    valid.map_or((&[], Sequence::FIRST), |valid| (&valid.pins, valid.commit))
}

async fn read(shared: &LineageShared, number: u64) -> Result<Commit> {
    shared.log.read_existing(Sequence::new(number), "there are later commits in its lineage").await
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
