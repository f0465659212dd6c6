//! Whose turn it is: which group's cycle begins next, so that objectives hold with only so many cycles at once.
//!
//! A group is *due* when its next cycle has to begin to be durable in time, see [`Objective`]. Of the groups that are due and
//! for which the host and their site have a place, the one begins whose *deadline* is the earliest: the instant of its newest
//! point plus its objective, which counts half for a high priority and twice for a low one. A deadline stands while a group
//! waits and is later after each of its cycles, so that every group has its turn, however many are due.
//!
//! Cycles that may be long (the first, and those whose last took more than [`LONG`]) leave a quarter of the places to the others,
//! so that a hundred first copies do not make the hundred groups late that are protected already. A cycle that only waits for
//! its platform has no place; when it goes on it takes one, also beyond the limit, for its capture is there.
//!
//! Time comes in with each call, and nothing here waits: a simulator owns it.

use std::{collections::BTreeSet, time::Duration};

use farshore_core::SiteName;
use serde::{Deserialize, Serialize};

/// A cycle that took longer may do so again.
pub const LONG: Duration = Duration::from_secs(60);
/// The first pause after a failed cycle; each later one is twice as long.
const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause after a failed cycle.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);

/// How old the newest point of a group may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Objective {
    /// The recovery point objective.
    pub rpo: Duration,
}

impl Objective {
    /// How long after the start of a cycle that took `length` the next one is due. Just before a cycle commits, the age of the
    /// newest point is the pause since the last instant plus the cycle's own length, so that the next begins early enough for
    /// that. A tenth of the objective is kept free for the source, even when the objective cannot be met.
    fn pause(self, length: Duration) -> Duration {
        let expected = length + length / 2 + self.rpo / 20;
        self.rpo.saturating_sub(expected).max(length + self.rpo / 10)
    }
}

/// Who begins first where not all can.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// As if its objective were half as long.
    High,
    /// By its objective.
    #[default]
    Normal,
    /// As if its objective were twice as long.
    Low,
}

impl Priority {
    fn deadline(self, newest: Duration, Objective { rpo }: Objective) -> Duration {
        newest.saturating_add(match self {
            Self::High => rpo / 2,
            Self::Normal => rpo,
            Self::Low => rpo.saturating_mul(2),
        })
    }
}

/// A group as its turns are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turns {
    /// Where its machines run.
    pub site: SiteName,
    /// How old its newest point may become.
    pub objective: Objective,
    /// Whether it begins before others.
    pub priority: Priority,
}

/// A group of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member(usize);

/// A cycle that is to begin now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// Whose.
    pub member: Member,
    /// How long it has been due.
    pub waited: Duration,
}

/// How a cycle ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CycleEnd {
    /// Its point is durable.
    Committed,
    /// It failed, and is tried again.
    Failed,
    /// No later try can help: the group has no more turns.
    Final,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Sleeping { due: Duration },
    Ready { due: Duration, deadline: Duration },
    Running { since: Duration, is_long: bool, has_place: bool },
    Gone,
}

#[derive(Debug)]
struct Group {
    site: usize,
    objective: Objective,
    priority: Priority,
    phase: Phase,
    /// When its newest point's cycle began; when it was added if it has none.
    newest: Duration,
    /// How long the last good cycle took.
    length: Option<Duration>,
    failures: u32,
}

impl Group {
    /// Whether its next cycle may be long.
    fn is_long(&self) -> bool {
        self.length.is_none_or(|length| length > LONG)
    }
}

/// Places for cycles.
#[derive(Debug)]
struct Places {
    limit: usize,
    taken: usize,
    /// How many of those that are taken are of cycles that may be long.
    long: usize,
}

impl Places {
    const fn new(limit: usize) -> Self {
        Self { limit, taken: 0, long: 0 }
    }

    /// Whether there is one, for a cycle that may be long or for another.
    fn has_room(&self, is_long: bool) -> bool {
        // Of one place nothing can be left to others.
        let kept = if self.limit > 1 { self.limit.div_ceil(4) } else { 0 };
        self.taken < self.limit && (!is_long || self.long < self.limit.saturating_sub(kept))
    }

    fn take(&mut self, is_long: bool) {
        self.taken = self.taken.saturating_add(1);
        self.long = self.long.saturating_add(is_long.into());
    }

    fn give_back(&mut self, is_long: bool) {
        self.taken = self.taken.saturating_sub(1);
        self.long = self.long.saturating_sub(is_long.into());
    }
}

#[derive(Debug)]
struct Site {
    name: SiteName,
    places: Places,
    /// Those that are due, by their deadline: of short cycles, and of cycles that may be long.
    ready: [BTreeSet<(Duration, usize)>; 2],
}

/// The turns of all groups of a host. Times are those of one monotonic clock.
#[derive(Debug)]
pub struct Schedule {
    host: Places,
    sites: Vec<Site>,
    groups: Vec<Group>,
    /// Those that are not due yet, by when they are.
    sleeping: BTreeSet<(Duration, usize)>,
    members: usize,
}

impl Schedule {
    /// A schedule without groups. At most so many cycles run at once; none never begins one.
    pub const fn new(concurrent_cycles: usize) -> Self {
        Self {
            host: Places::new(concurrent_cycles),
            sites: Vec::new(),
            groups: Vec::new(),
            sleeping: BTreeSet::new(),
            members: 0,
        }
    }

    /// At most so many of them run at once at a site. Without it a site has as many places as the host.
    pub fn limit_site(&mut self, site: &SiteName, concurrent_cycles: usize) {
        let index = self.site(site);
        if let Some(site) = self.sites.get_mut(index) {
            site.places.limit = concurrent_cycles;
        }
    }

    /// Adds a group, which is due at once.
    pub fn add(&mut self, turns: &Turns, now: Duration) -> Member {
        let (site, index) = (self.site(&turns.site), self.groups.len());
        self.groups.push(Group {
            site,
            objective: turns.objective,
            priority: turns.priority,
            phase: Phase::Sleeping { due: now },
            newest: now,
            length: None,
            failures: 0,
        });
        self.sleeping.insert((now, index));
        self.members = self.members.saturating_add(1);
        Member(index)
    }

    /// Whether no group has turns any more.
    pub const fn is_empty(&self) -> bool {
        self.members == 0
    }

    /// The next cycle that is to begin now. Ask until there is none.
    pub fn begin(&mut self, now: Duration) -> Option<Begun> {
        self.wake(now);
        let index = self.most_urgent()?;
        let group = self.groups.get_mut(index)?;
        let Phase::Ready { due, deadline } = group.phase else { return None };
        let (site, is_long) = (group.site, group.is_long());
        group.phase = Phase::Running { since: now, is_long, has_place: true };
        if let Some(site) = self.sites.get_mut(site) {
            site.ready[usize::from(is_long)].remove(&(deadline, index));
        }
        self.take(site, is_long, true);
        Some(Begun { member: Member(index), waited: now.saturating_sub(due) })
    }

    /// When the next group is due that is not yet, if there is one. Until then only the end of a cycle lets another begin.
    pub fn wakes_at(&self) -> Option<Duration> {
        self.sleeping.first().map(|(due, _)| *due)
    }

    /// A cycle waits for its platform, and needs no place; or it goes on, and has one.
    pub fn holds(&mut self, member: Member, place: bool) {
        let Some(group) = self.groups.get_mut(member.0) else { return };
        let (site, Phase::Running { is_long, has_place, .. }) = (group.site, &mut group.phase) else { return };
        if *has_place != place {
            *has_place = place;
            let is_long = *is_long;
            self.take(site, is_long, place);
        }
    }

    /// A cycle has ended. How long the group is left alone now; none if it has no more turns.
    pub fn end(&mut self, member: Member, end: CycleEnd, now: Duration) -> Option<Duration> {
        let group = self.groups.get_mut(member.0)?;
        let Phase::Running { since, is_long, has_place } = group.phase else { return None };
        let pause = match end {
            CycleEnd::Committed => {
                let length = now.saturating_sub(since);
                (group.newest, group.length, group.failures) = (since, Some(length), 0);
                Some(group.objective.pause(length).saturating_sub(length))
            }
            CycleEnd::Failed => {
                let doubled = RETRY_PAUSE_MIN.saturating_mul(1 << group.failures.min(6));
                group.failures = group.failures.saturating_add(1);
                Some(doubled.min(RETRY_PAUSE_MAX).min(group.objective.rpo.max(RETRY_PAUSE_MIN)))
            }
            CycleEnd::Final => None,
        };
        let site = group.site;
        match pause {
            Some(pause) => {
                let due = now.saturating_add(pause);
                group.phase = Phase::Sleeping { due };
                self.sleeping.insert((due, member.0));
            }
            None => {
                group.phase = Phase::Gone;
                self.members = self.members.saturating_sub(1);
            }
        }
        if has_place {
            self.take(site, is_long, false);
        }
        pause
    }

    /// How many cycles of a group have failed since its last good one.
    pub fn failures(&self, member: Member) -> u32 {
        self.groups.get(member.0).map_or(0, |group| group.failures)
    }

    /// A place is taken at a site and the host, or given back.
    fn take(&mut self, site: usize, is_long: bool, place: bool) {
        let places = self.sites.get_mut(site).map(|site| &mut site.places);
        for places in places.into_iter().chain([&mut self.host]) {
            if place { places.take(is_long) } else { places.give_back(is_long) }
        }
    }

    fn site(&mut self, name: &SiteName) -> usize {
        let known = self.sites.iter().position(|site| site.name == *name);
        known.unwrap_or_else(|| {
            let places = Places::new(self.host.limit);
            self.sites.push(Site { name: name.clone(), places, ready: Default::default() });
            self.sites.len() - 1
        })
    }

    /// Those that are due by now wait for a place.
    fn wake(&mut self, now: Duration) {
        while let Some((due, index)) = self.sleeping.pop_first() {
            if due > now {
                self.sleeping.insert((due, index));
                return;
            }
            let Some(group) = self.groups.get_mut(index) else { continue };
            let deadline = group.priority.deadline(group.newest, group.objective);
            group.phase = Phase::Ready { due, deadline };
            if let Some(site) = self.sites.get_mut(group.site) {
                site.ready[usize::from(group.is_long())].insert((deadline, index));
            }
        }
    }

    fn most_urgent(&self) -> Option<usize> {
        let mut first: Option<(Duration, usize)> = None;
        for is_long in [false, true] {
            if !self.host.has_room(is_long) {
                continue;
            }
            for site in self.sites.iter().filter(|site| site.places.has_room(is_long)) {
                let next = site.ready[usize::from(is_long)].first().copied();
                first = [first, next].into_iter().flatten().min();
            }
        }
        first.map(|(_, index)| index)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn turns(site: &str, rpo: Duration, priority: Priority) -> Turns {
        Turns { site: SiteName::new(site).expect("a name"), objective: Objective { rpo }, priority }
    }

    /// Runs a cycle of each member now, which takes this long.
    fn first_cycles(schedule: &mut Schedule, length: Duration) {
        while let Some(begun) = schedule.begin(Duration::ZERO) {
            schedule.end(begun.member, CycleEnd::Committed, length);
        }
    }

    #[test]
    fn the_next_cycle_begins_early_enough_for_its_length() {
        let objective = Objective { rpo: seconds(5) };
        for length_milliseconds in [0, 50, 500, 1_500] {
            let length = Duration::from_millis(length_milliseconds);
            assert!(objective.pause(length) + length <= objective.rpo, "{length:?}");
            assert!(objective.pause(length) >= length, "{length:?}");
        }
        // An objective that cannot be met still leaves the source some peace.
        let length = seconds(20);
        assert_eq!(objective.pause(length), length + Duration::from_millis(500));
    }

    #[test]
    fn the_earliest_deadline_begins_and_priorities_move_it() {
        let mut schedule = Schedule::new(1);
        let names = [(40, Priority::Normal), (60, Priority::High), (30, Priority::Low), (50, Priority::Normal)];
        let members: Vec<_> = names
            .iter()
            .map(|(rpo, priority)| schedule.add(&turns("a", seconds(*rpo), *priority), Duration::ZERO))
            .collect();
        let mut order = Vec::new();
        while let Some(begun) = schedule.begin(Duration::ZERO) {
            assert_eq!(schedule.begin(Duration::ZERO), None, "there is one place");
            order.push(begun.member);
            schedule.end(begun.member, CycleEnd::Committed, Duration::ZERO);
        }
        assert_eq!(order, [members[1], members[0], members[3], members[2]], "30, 40, 50 and 60 seconds");
    }

    #[test]
    fn a_site_that_is_full_does_not_keep_others_from_beginning() {
        let mut schedule = Schedule::new(8);
        schedule.limit_site(&SiteName::new("a").expect("a name"), 1);
        let (first, second) = (turns("a", seconds(5), Priority::High), turns("b", seconds(60), Priority::Low));
        let members = [&first, &first, &second].map(|turns| schedule.add(turns, Duration::ZERO));
        let begun: Vec<_> =
            std::iter::from_fn(|| schedule.begin(seconds(1))).map(|begun| (begun.member, begun.waited)).collect();
        assert_eq!(begun, [(members[0], seconds(1)), (members[2], seconds(1))]);
        schedule.end(members[0], CycleEnd::Final, seconds(2));
        assert_eq!(schedule.begin(seconds(3)), Some(Begun { member: members[1], waited: seconds(3) }));
    }

    #[test]
    fn cycles_that_may_be_long_leave_a_quarter_of_the_places() {
        let mut schedule = Schedule::new(4);
        let short = schedule.add(&turns("a", seconds(10), Priority::Low), Duration::ZERO);
        first_cycles(&mut schedule, seconds(1));
        let first_copies: Vec<_> =
            (0..5).map(|_| schedule.add(&turns("a", seconds(1), Priority::High), seconds(2))).collect();
        let begun: Vec<_> = std::iter::from_fn(|| schedule.begin(seconds(2))).map(|begun| begun.member).collect();
        assert_eq!(begun, first_copies[..3], "three of four places");
        let due = schedule.wakes_at().expect("one sleeps");
        assert_eq!(schedule.begin(due).map(|begun| begun.member), Some(short), "the fourth is for the others");
        assert_eq!(schedule.begin(due), None);
        // The host's only place is for everybody.
        let mut schedule = Schedule::new(1);
        schedule.add(&turns("a", seconds(1), Priority::Normal), Duration::ZERO);
        assert!(schedule.begin(Duration::ZERO).is_some());
    }

    #[test]
    fn a_cycle_that_waits_for_its_platform_has_no_place() {
        let mut schedule = Schedule::new(1);
        let members = [1, 2, 3].map(|rpo| schedule.add(&turns("a", seconds(rpo), Priority::Normal), Duration::ZERO));
        let begin = |schedule: &mut Schedule| schedule.begin(Duration::ZERO).map(|begun| begun.member);
        assert_eq!(begin(&mut schedule), Some(members[0]));
        assert_eq!(begin(&mut schedule), None);
        for _ in 0..2 {
            schedule.holds(members[0], false);
        }
        assert_eq!(begin(&mut schedule), Some(members[1]));
        schedule.holds(members[0], true);
        schedule.end(members[1], CycleEnd::Final, Duration::ZERO);
        assert_eq!(begin(&mut schedule), None, "the one that goes on has the place");
        schedule.holds(members[0], false);
        schedule.end(members[0], CycleEnd::Final, Duration::ZERO);
        assert_eq!(begin(&mut schedule), Some(members[2]), "and gives it back once");
        assert_eq!(begin(&mut schedule), None);
    }

    #[test]
    fn a_group_that_fails_is_tried_again_with_growing_pauses_and_one_that_cannot_be_helped_never() {
        let mut schedule = Schedule::new(1);
        let member = schedule.add(&turns("a", seconds(3_600), Priority::Normal), Duration::ZERO);
        let mut now = Duration::ZERO;
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            schedule.begin(now).expect("it is due");
            assert_eq!(schedule.end(member, CycleEnd::Failed, now), Some(seconds(expected)));
            assert_eq!(schedule.begin(now), None);
            now += seconds(expected);
        }
        assert_eq!(schedule.failures(member), 8);
        schedule.begin(now).expect("it is due");
        schedule.end(member, CycleEnd::Committed, now);
        assert_eq!(schedule.failures(member), 0);
        now = schedule.wakes_at().expect("it is due again");
        schedule.begin(now).expect("it is due");
        assert_eq!(schedule.end(member, CycleEnd::Final, now), None);
        assert!(schedule.is_empty() && schedule.begin(now + seconds(9_999)).is_none());
        // One with a short objective is not left alone for longer than that.
        let member = schedule.add(&turns("a", seconds(3), Priority::Normal), now);
        for expected in [1, 2, 3, 3] {
            now += seconds(3);
            schedule.begin(now).expect("it is due");
            assert_eq!(schedule.end(member, CycleEnd::Failed, now), Some(seconds(expected)));
        }
    }

    /// A group of a world: its site, its objective and the length of its cycles in seconds, and its priority.
    fn group() -> impl Strategy<Value = (usize, u64, u64, Priority)> {
        let priority = prop_oneof![Just(Priority::High), Just(Priority::Normal), Just(Priority::Low)];
        (0..3_usize, 5_u64..600, 1_u64..100, priority)
    }

    proptest! {
        /// Whatever there is to do: no limit is passed, whoever begins was due, and no group waits for ever.
        #[test]
        fn limits_hold_and_every_group_has_its_turns(
            groups in prop::collection::vec(group(), 1..40),
            host in 1_usize..12,
            sites in prop::array::uniform3(1_usize..6),
        ) {
            let mut schedule = Schedule::new(host);
            let names = ["a", "b", "c"];
            for (name, limit) in names.iter().zip(sites) {
                schedule.limit_site(&SiteName::new(*name).expect("a name"), limit);
            }
            let mut now = Duration::ZERO;
            let members: Vec<_> = groups
                .iter()
                .map(|(site, rpo, _, priority)| schedule.add(&turns(names[*site], seconds(*rpo), *priority), now))
                .collect();
            let (mut running, mut begun_at, mut counts) = (BTreeSet::new(), vec![Duration::ZERO; groups.len()], vec![0; groups.len()]);
            let mut longest = vec![Duration::ZERO; groups.len()];
            for _ in 0..4_000 {
                while let Some(Begun { member, .. }) = schedule.begin(now) {
                    let index = members.iter().position(|known| *known == member).expect("a member");
                    longest[index] = longest[index].max(now - begun_at[index]);
                    (begun_at[index], counts[index]) = (now, counts[index] + 1);
                    running.insert((now + seconds(groups[index].2), index));
                    let mut by_site: BTreeMap<usize, usize> = BTreeMap::new();
                    running.iter().for_each(|(_, index)| *by_site.entry(groups[*index].0).or_default() += 1);
                    prop_assert!(running.len() <= host && by_site.iter().all(|(site, count)| *count <= sites[*site]));
                }
                let ends = running.first().map(|(ends, _)| *ends);
                now = [ends, schedule.wakes_at()].into_iter().flatten().min().expect("something happens").max(now);
                while let Some((_, index)) = running.pop_first_if(|(ends, _)| *ends <= now) {
                    schedule.end(members[index], CycleEnd::Committed, now);
                }
            }
            // All cycles that can be before its turn: each other group's, as often as its low deadline lets it be passed.
            let all: u64 = groups.iter().map(|(_, _, length, _)| length).sum();
            let bound = seconds(3 * (2 * 600 + 2 * all * groups.len() as u64));
            for (index, longest) in longest.iter().enumerate() {
                prop_assert!(counts[index] > 1 && *longest < bound, "{index}: {} turns, {longest:?}", counts[index]);
            }
        }
    }

    /// As `BTreeSet::pop_first`, if it is wanted.
    trait PopFirstIf<T> {
        fn pop_first_if(&mut self, wanted: impl Fn(&T) -> bool) -> Option<T>;
    }

    impl<T: Ord> PopFirstIf<T> for BTreeSet<T> {
        fn pop_first_if(&mut self, wanted: impl Fn(&T) -> bool) -> Option<T> {
            if wanted(self.first()?) { self.pop_first() } else { None }
        }
    }
}
