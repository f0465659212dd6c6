//! What a commit may change of its lineage's state.
//!
//! The head is repeated by everybody who commits, and each event is a matter of one power. So what a head says counts less than what
//! the events say: who follows a lineage from commit to commit knows what its state must be, whatever a captured host claims.

use std::collections::BTreeMap;

use farshore_core::{Generation, RunId, Sequence, Timestamp};
use futures::{StreamExt, TryStreamExt};

use crate::{
    Head, Pin, Result,
    commit::{CommitBody, Event},
    lineage::LineageShared,
    pin::PINS_MAX,
};

/// How many commits are read side by side.
const COMMITS_READ_AT_ONCE: usize = 16;

/// The state with this commit, if the one before it left this state. The commit's own word is
/// taken of the horizon of locks, which follows from what was stored when, and a prune's of pins.
pub(crate) fn after(before: &Head, commit: &CommitBody) -> Head {
    let said = &commit.head;
    let mut head = Head { sequence: said.sequence, locked_until: said.locked_until, ..before.clone() };
    match &commit.event {
        Event::Point(_) => head.newest_point = Some(said.sequence),
        Event::GenerationRaised { .. } => {
            // A captured host may have claimed the last one.
            head.generation = Generation::new(before.generation.get().saturating_add(1));
            head.active_site = said.active_site.clone();
        }
        // It has followed what was pinned, as far back as it is still told.
        Event::Pruned(_) => {
            head.pruned = Some(said.sequence);
            head.pins.clone_from(&said.pins);
        }
        Event::Pinned { .. } | Event::Unpinned { .. } => head.pins = pins_after(&before.pins, commit),
        Event::Genesis { .. } | Event::HostRevoked { .. } | Event::LockExtended { .. } => {}
    }
    head
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

/// The pins that stand with the commit `to`, if these did with the commit `from`: by what the commits between do, not by what they say.
///
/// # Errors
/// One of them is missing or damaged, or the store failed.
pub(crate) async fn held_pins(
    shared: &LineageShared,
    mut pins: Vec<Pin>,
    from: Sequence,
    to: Sequence,
) -> Result<Vec<Pin>> {
    let read = |number| shared.log.read_existing(Sequence::new(number), "there are later commits in its lineage");
    let commits = futures::stream::iter(from.get() + 1..=to.get()).map(read);
    let mut commits = std::pin::pin!(commits.buffered(COMMITS_READ_AT_ONCE));
    while let Some(commit) = commits.try_next().await? {
        pins = pins_after(&pins, &commit.body);
    }
    Ok(pins)
}

/// These pins, and as many of those that a head claims beside them as there is room for: whoever pins a point looks at the head, and adds
/// nothing to it that it has.
pub(crate) fn with_claimed(mut pins: Vec<Pin>, claimed: &[Pin]) -> Vec<Pin> {
    for pin in claimed {
        let is_known = pins.iter().any(|known| (known.run, known.point) == (pin.run, pin.point));
        if !is_known && pins.len() < PINS_MAX {
            pins.push(pin.clone());
        }
    }
    pins
}

/// What two states of one commit differ in, by the names of the format.
pub(crate) fn differences(one: &Head, other: &Head) -> Vec<&'static str> {
    let pins = |head: &Head| -> BTreeMap<RunId, (Sequence, Timestamp)> {
        head.pins.iter().map(|pin| (pin.run, (pin.point, pin.since))).collect()
    };
    let differ = [
        ("generation", one.generation != other.generation),
        ("active_site", one.active_site != other.active_site),
        ("newest_point", one.newest_point != other.newest_point),
        ("pruned", one.pruned != other.pruned),
        ("pins", pins(one) != pins(other)),
    ];
    differ.into_iter().filter(|(_, differ)| *differ).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use farshore_core::{HostId, LineageId, SiteName};

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
            locked_until: None,
        }
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
    fn what_is_claimed_is_added_and_displaces_nothing() {
        let other = Pin { point: Sequence::new(5), ..pin(1) };
        let claimed = [pin(2), other.clone(), pin(1)];
        assert_eq!(with_claimed(vec![pin(1)], &claimed), [pin(1), pin(2), other], "both points of a run are kept");
        let many: Vec<Pin> = (0..100).map(pin).collect();
        let kept = with_claimed(vec![pin(99)], &many);
        assert_eq!((kept.len(), &kept[0]), (PINS_MAX, &pin(99)));
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
        let until = Timestamp::from_unix_milliseconds(77);
        let extended = || Event::LockExtended { until, objects: 1 };
        assert_eq!(wrong(extended(), |head| head.locked_until = Some(until)), [""; 0]);
        let forget = |head: &mut Head| (head.newest_point, head.pruned) = (None, Some(Sequence::new(3)));
        assert_eq!(wrong(extended(), forget), ["newest_point", "pruned"]);
    }
}
