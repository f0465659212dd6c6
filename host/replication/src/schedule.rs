//! Whose turn it is: which group's cycle begins next, so that objectives hold with only so many cycles at once.
//!
//! A group is *due* when its next cycle has to begin to be durable in time, see [`Objective`]. Of the groups that are due and
//! for which the host and their site have a place, the one begins whose *deadline* is the earliest: the instant of its newest
//! point, or of its last try if that came later, plus its objective, which counts half for a high priority and twice for a low
//! one. A deadline stands while a group waits and is later after each of its tries, so that every group has its turn, however
//! many are due, and those that fail do not keep the others from theirs.
//!
//! Some cycles take long, and hold their place for hours. First copies (of groups without a point) have at most half of the
//! places, at a site as at the host; with them, those of groups whose last try took more than [`LONG`] have three quarters of
//! the host's. So a hundred first copies do not make the hundred groups late that are protected already.
//!
//! Groups come and go, and change, while cycles run. A group that is *hurried*, because somebody asked for a point, begins before all
//! others, within the same limits.
//!
//! Time comes in with each call, and nothing here waits: a simulator owns it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use farshore_core::SiteName;
use serde::{Deserialize, Serialize};

/// A cycle that took longer may do so again.
pub const LONG: Duration = Duration::from_secs(60);
/// The first pause after a failed cycle; each later one is twice as long.
const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause after a failed cycle.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);
/// The pause after a cycle that no later try can help before somebody changes something elsewhere: a group that was failed over
/// may have come back.
const FINAL_PAUSE: Duration = Duration::from_secs(300);

/// The longest pause of a group whose points wait: so soon it sees that the vault is back. It is captured after half an objective at the soonest.
const WAITING_PAUSE_MAX: Duration = Duration::from_secs(60);
/// The longest pause of a group that catches up.
const CATCHING_UP_PAUSE_MAX: Duration = Duration::from_secs(5);

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
    /// What of an objective counts.
    fn share(self, rpo: Duration) -> Duration {
        match self {
            Self::High => rpo / 2,
            Self::Normal => rpo,
            Self::Low => rpo.saturating_mul(2),
        }
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
    /// How old its newest point is now; none if it has none.
    pub newest_age: Option<Duration>,
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
    /// Its point waits at this host: for its turns that is as good as durable.
    Waiting,
    /// The same, and the group may have another turn soon to catch up.
    CatchingUp,
    /// It failed, and another way to do it may begin at once.
    Otherwise,
    /// No later try can help before somebody changes something: the group is looked at now and then.
    Final,
}

/// How long a cycle may hold its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Short,
    Long,
    First,
}

impl Class {
    const ALL: [Self; 3] = [Self::Short, Self::Long, Self::First];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Sleeping {
        due: Duration,
    },
    Ready {
        due: Duration,
        deadline: Duration,
    },
    /// At the site where it began.
    Running {
        since: Duration,
        class: Class,
        site: usize,
    },
    Gone,
}

#[derive(Debug)]
struct Group {
    site: usize,
    objective: Objective,
    priority: Priority,
    phase: Phase,
    has_point: bool,
    /// From when its objective counts: its newest point's instant or its last try, [`BEFORE`] later.
    counts_from: Duration,
    /// How long its last try took.
    length: Duration,
    failures: u32,
    /// Whether its last try was one that no later try can help.
    is_hopeless: bool,
    /// Whether it is to begin before all others.
    is_hurried: bool,
    /// Whether it has no turn after the one that it has.
    is_leaving: bool,
}

impl Group {
    fn class(&self) -> Class {
        match self.has_point {
            false => Class::First,
            true if self.length > LONG => Class::Long,
            true => Class::Short,
        }
    }
}

/// Places for cycles.
#[derive(Debug)]
struct Places {
    limit: usize,
    /// Taken ones, by the class of the cycle.
    taken: [usize; 3],
    /// How many cycles that are not short there may be.
    long_limit: usize,
}

impl Places {
    /// Those of a host.
    fn of_host(limit: usize) -> Self {
        // Of one place nothing can be left to others.
        let kept = if limit > 1 { (limit / 4).max(1) } else { 0 };
        Self { limit, taken: [0; 3], long_limit: limit.saturating_sub(kept) }
    }

    /// Those of a site.
    const fn of_site(limit: usize) -> Self {
        Self { limit, taken: [0; 3], long_limit: limit }
    }

    fn has_room(&self, class: Class) -> bool {
        let [short, long, first] = self.taken;
        let long = long.saturating_add(first);
        short.saturating_add(long) < self.limit
            && (class == Class::Short || long < self.long_limit)
            && (class != Class::First || first < (self.limit / 2).max(1))
    }
}

/// Deadlines are told from so long before the clock's beginning, so that points that are older than it have some.
const BEFORE: Duration = Duration::from_secs(10 * 365 * 86_400);

#[derive(Debug)]
struct Site {
    name: SiteName,
    places: Places,
    /// Those that are due, by their deadline, of each class.
    ready: [BTreeSet<(Duration, usize)>; 3],
}

/// The turns of all groups of a host. Times are those of one monotonic clock.
#[derive(Debug)]
pub struct Schedule {
    host: Places,
    sites: Vec<Site>,
    groups: Vec<Group>,
    /// Those that are not due yet, by when they are.
    sleeping: BTreeSet<(Duration, usize)>,
}

impl Schedule {
    /// A schedule without groups. At most so many cycles run at once; none never begins one.
    pub fn new(concurrent_cycles: usize) -> Self {
        Self {
            host: Places::of_host(concurrent_cycles),
            sites: Vec::new(),
            groups: Vec::new(),
            sleeping: BTreeSet::new(),
        }
    }

    /// At most so many of them run at once at the host, and at these sites; a site that is not named has as many places as the host.
    /// Cycles that run are not touched: where there are more than that, none begins until enough have ended.
    pub fn limit(&mut self, concurrent_cycles: usize, sites: &BTreeMap<SiteName, usize>) {
        self.host = Places { taken: self.host.taken, ..Places::of_host(concurrent_cycles) };
        sites.keys().for_each(|name| {
            self.site(name);
        });
        for site in &mut self.sites {
            let limit = sites.get(&site.name).copied().unwrap_or(concurrent_cycles);
            site.places = Places { taken: site.places.taken, ..Places::of_site(limit) };
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
            has_point: turns.newest_age.is_some(),
            counts_from: (BEFORE + now).saturating_sub(turns.newest_age.unwrap_or_default()),
            length: Duration::ZERO,
            failures: 0,
            is_hopeless: false,
            is_hurried: false,
            is_leaving: false,
        });
        self.sleeping.insert((now, index));
        Member(index)
    }

    /// A group's turns are given like this from now on. It is due at once if that changes something, or if its last try failed. What
    /// is known of its newest point stays. A cycle that runs is not touched.
    pub fn change(&mut self, member: Member, turns: &Turns, now: Duration) {
        let site = self.site(&turns.site);
        let Some(group) = self.groups.get(member.0) else { return };
        let changed = (site, turns.objective, turns.priority);
        if changed == (group.site, group.objective, group.priority) && group.failures == 0 {
            return;
        }
        self.put_aside(member);
        let Some(group) = self.groups.get_mut(member.0) else { return };
        (group.site, group.objective, group.priority) = changed;
        (group.failures, group.is_hopeless) = (0, false);
        self.sleep_until(member, now);
    }

    /// A group begins before all others, once: now, or after the cycle that it has.
    pub fn hurry(&mut self, member: Member, now: Duration) {
        self.put_aside(member);
        let Some(group) = self.groups.get_mut(member.0) else { return };
        group.is_hurried = true;
        self.sleep_until(member, now);
    }

    /// A group has no more turns. The end of a cycle that it has is told as of every other.
    pub fn remove(&mut self, member: Member) {
        self.put_aside(member);
        let Some(group) = self.groups.get_mut(member.0) else { return };
        group.is_leaving = true;
        if !matches!(group.phase, Phase::Running { .. }) {
            group.phase = Phase::Gone;
        }
    }

    /// Whether no later try can help any group that has turns, before somebody changes something.
    pub fn is_hopeless(&self) -> bool {
        self.groups.iter().all(|group| group.is_hopeless || matches!(group.phase, Phase::Gone))
    }

    /// The next cycle that is to begin now. Ask until there is none.
    pub fn begin(&mut self, now: Duration) -> Option<Begun> {
        self.wake(now);
        let index = self.most_urgent()?;
        let group = self.groups.get_mut(index)?;
        let Phase::Ready { due, deadline } = group.phase else { return None };
        let (site, class) = (group.site, group.class());
        group.phase = Phase::Running { since: now, class, site };
        group.is_hurried = false;
        if let Some(site) = self.sites.get_mut(site) {
            site.ready[class as usize].remove(&(deadline, index));
        }
        self.places(site).for_each(|places| places.taken[class as usize] += 1);
        Some(Begun { member: Member(index), waited: now.saturating_sub(due) })
    }

    /// A cycle that was to begin does not: its group waits for so long, as if it had not had its turn.
    pub fn postpone(&mut self, member: Member, pause: Duration, now: Duration) {
        let Some(group) = self.groups.get_mut(member.0) else { return };
        let Phase::Running { class, site, .. } = group.phase else { return };
        let due = now.saturating_add(pause);
        group.phase = if group.is_leaving { Phase::Gone } else { Phase::Sleeping { due } };
        if !group.is_leaving {
            self.sleeping.insert((due, member.0));
        }
        self.places(site).for_each(|places| places.taken[class as usize] -= 1);
    }

    /// When the next group is due that is not yet, if there is one. Until then only the end of a cycle lets another begin.
    pub fn wakes_at(&self) -> Option<Duration> {
        self.sleeping.first().map(|(due, _)| *due)
    }

    /// A cycle has ended. How long the group is left alone now; none if it has no more turns.
    pub fn end(&mut self, member: Member, end: CycleEnd, now: Duration) -> Option<Duration> {
        let group = self.groups.get_mut(member.0)?;
        let Phase::Running { since, class, site } = group.phase else { return None };
        group.length = now.saturating_sub(since);
        group.is_hopeless = end == CycleEnd::Final;
        let mut pause = match end {
            CycleEnd::Committed | CycleEnd::Waiting | CycleEnd::CatchingUp => {
                (group.has_point, group.counts_from, group.failures) = (true, BEFORE + since, 0);
                let usual = group.objective.pause(group.length).saturating_sub(group.length);
                match end {
                    // Others have their turn first.
                    CycleEnd::CatchingUp => (group.objective.rpo / 10).min(CATCHING_UP_PAUSE_MAX),
                    CycleEnd::Waiting => usual.min(WAITING_PAUSE_MAX),
                    _ => usual,
                }
            }
            CycleEnd::Otherwise => Duration::ZERO,
            CycleEnd::Failed | CycleEnd::Final => {
                let doubled = RETRY_PAUSE_MIN.saturating_mul(1 << group.failures.min(6));
                group.failures = group.failures.saturating_add(1);
                group.counts_from = BEFORE + now;
                match end {
                    CycleEnd::Final => FINAL_PAUSE,
                    _ => doubled.min(RETRY_PAUSE_MAX).min(group.objective.rpo.max(RETRY_PAUSE_MIN)),
                }
            }
        };
        if group.is_hurried {
            pause = Duration::ZERO;
        }
        let is_leaving = group.is_leaving;
        group.phase = if is_leaving { Phase::Gone } else { Phase::Sleeping { due: now.saturating_add(pause) } };
        if !is_leaving {
            self.sleeping.insert((now.saturating_add(pause), member.0));
        }
        self.places(site).for_each(|places| places.taken[class as usize] -= 1);
        (!is_leaving).then_some(pause)
    }

    /// How many cycles of a group have failed since its last good one.
    pub fn failures(&self, member: Member) -> u32 {
        self.groups.get(member.0).map_or(0, |group| group.failures)
    }

    /// Those of a site and of the host.
    fn places(&mut self, site: usize) -> impl Iterator<Item = &mut Places> {
        self.sites.get_mut(site).map(|site| &mut site.places).into_iter().chain([&mut self.host])
    }

    /// Takes a group that has no cycle out of where it waits.
    fn put_aside(&mut self, member: Member) {
        let Some(group) = self.groups.get(member.0) else { return };
        match group.phase {
            Phase::Sleeping { due } => {
                self.sleeping.remove(&(due, member.0));
            }
            Phase::Ready { deadline, .. } => {
                if let Some(site) = self.sites.get_mut(group.site) {
                    site.ready[group.class() as usize].remove(&(deadline, member.0));
                }
            }
            Phase::Running { .. } | Phase::Gone => {}
        }
    }

    /// A group that was put aside waits again. One that has a cycle, or no turns any more, does not.
    fn sleep_until(&mut self, member: Member, due: Duration) {
        if let Some(group) = self.groups.get_mut(member.0)
            && matches!(group.phase, Phase::Sleeping { .. } | Phase::Ready { .. })
        {
            group.phase = Phase::Sleeping { due };
            self.sleeping.insert((due, member.0));
        }
    }

    fn site(&mut self, name: &SiteName) -> usize {
        let known = self.sites.iter().position(|site| site.name == *name);
        known.unwrap_or_else(|| {
            let places = Places::of_site(self.host.limit);
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
            let deadline = match group.is_hurried {
                true => Duration::ZERO,
                false => group.counts_from.saturating_add(group.priority.share(group.objective.rpo)),
            };
            group.phase = Phase::Ready { due, deadline };
            if let Some(site) = self.sites.get_mut(group.site) {
                site.ready[group.class() as usize].insert((deadline, index));
            }
        }
    }

    fn most_urgent(&self) -> Option<usize> {
        let mut first: Option<(Duration, usize)> = None;
        for class in Class::ALL.into_iter().filter(|class| self.host.has_room(*class)) {
            for site in self.sites.iter().filter(|site| site.places.has_room(class)) {
                first = [first, site.ready[class as usize].first().copied()].into_iter().flatten().min();
            }
        }
        first.map(|(_, index)| index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn turns(site: &str, rpo: Duration, priority: Priority) -> Turns {
        let site = SiteName::new(site).expect("a name");
        Turns { site, objective: Objective { rpo }, priority, newest_age: Some(Duration::ZERO) }
    }

    fn without_point(turns: Turns) -> Turns {
        Turns { newest_age: None, ..turns }
    }

    fn site_limits(limits: &[(&str, usize)]) -> BTreeMap<SiteName, usize> {
        limits.iter().map(|(name, limit)| (SiteName::new(*name).expect("a name"), *limit)).collect()
    }

    /// The members that begin now.
    fn beginning(schedule: &mut Schedule, now: Duration) -> Vec<Member> {
        std::iter::from_fn(|| schedule.begin(now)).map(|begun| begun.member).collect()
    }

    #[test]
    fn a_group_whose_points_wait_looks_for_the_vault_long_before_its_objective() {
        let mut schedule = Schedule::new(1);
        let member = schedule.add(&turns("a", seconds(86_400), Priority::Normal), seconds(0));
        for (end, pause) in [
            (CycleEnd::Waiting, seconds(60)),
            (CycleEnd::CatchingUp, seconds(5)),
            (CycleEnd::Committed, seconds(86_400 - 4_320 - 3 - 2)),
        ] {
            let now = schedule.wakes_at().expect("it is due");
            assert_eq!(beginning(&mut schedule, now), [member]);
            assert_eq!(schedule.end(member, end, now + seconds(2)), Some(pause), "{end:?}");
            assert_eq!(schedule.failures(member), 0);
        }
        // With a short one it is the usual pause.
        let pause = |end| {
            let mut schedule = Schedule::new(1);
            let member = schedule.add(&turns("a", seconds(10), Priority::Normal), seconds(0));
            assert_eq!(beginning(&mut schedule, seconds(0)), [member]);
            schedule.end(member, end, seconds(1))
        };
        assert_eq!(pause(CycleEnd::Waiting), pause(CycleEnd::Committed));
    }

    #[test]
    fn who_is_postponed_has_its_place_back_and_its_turn_later() {
        let mut schedule = Schedule::new(1);
        let [one, other] = ["a", "b"].map(|site| schedule.add(&turns(site, seconds(60), Priority::Normal), seconds(0)));
        let first = schedule.begin(seconds(0)).expect("one is due").member;
        schedule.postpone(first, seconds(30), seconds(0));
        let second = schedule.begin(seconds(0)).expect("the place is free").member;
        assert!(first != second && [one, other].contains(&first) && [one, other].contains(&second));
        assert_eq!(schedule.end(second, CycleEnd::Final, seconds(1)), Some(FINAL_PAUSE));
        assert_eq!(schedule.begin(seconds(29)), None);
        assert_eq!(schedule.begin(seconds(30)).map(|begun| (begun.member, begun.waited)), Some((first, seconds(0))));
        schedule.remove(first);
        schedule.postpone(first, seconds(30), seconds(31));
        assert_eq!(beginning(&mut schedule, seconds(200)), []);
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
        schedule.limit(8, &site_limits(&[("a", 1)]));
        let (first, second) = (turns("a", seconds(5), Priority::High), turns("b", seconds(60), Priority::Low));
        let members = [&first, &first, &second].map(|turns| schedule.add(turns, Duration::ZERO));
        let begun: Vec<_> =
            std::iter::from_fn(|| schedule.begin(seconds(1))).map(|begun| (begun.member, begun.waited)).collect();
        assert_eq!(begun, [(members[0], seconds(1)), (members[2], seconds(1))]);
        schedule.remove(members[0]);
        assert_eq!(schedule.end(members[0], CycleEnd::Committed, seconds(2)), None);
        assert_eq!(schedule.begin(seconds(3)), Some(Begun { member: members[1], waited: seconds(3) }));
    }

    #[test]
    fn first_copies_have_half_of_the_places_and_long_cycles_three_quarters() {
        let mut schedule = Schedule::new(8);
        schedule.limit(8, &site_limits(&[("small", 2)]));
        let high = |site| turns(site, seconds(1), Priority::High);
        let first_copies: Vec<_> = (0..9).map(|_| schedule.add(&without_point(high("a")), Duration::ZERO)).collect();
        assert_eq!(beginning(&mut schedule, Duration::ZERO), first_copies[..4]);
        // Those whose last try was long have two more, however urgent.
        let long: Vec<_> = (0..3).map(|_| schedule.add(&high("a"), Duration::ZERO)).collect();
        assert_eq!(beginning(&mut schedule, Duration::ZERO), long);
        for member in &long {
            schedule.end(*member, CycleEnd::Committed, seconds(100));
        }
        let due = seconds(300);
        assert_eq!(beginning(&mut schedule, due), long[..2]);
        // The others are for those that are short, which begin although the first copies wait for longer.
        let short: Vec<_> = (0..3).map(|_| schedule.add(&turns("b", seconds(60), Priority::Low), due)).collect();
        assert_eq!(beginning(&mut schedule, due), short[..2]);
        // A site leaves half of its places to groups that have a point.
        for member in &first_copies {
            schedule.remove(*member);
            schedule.end(*member, CycleEnd::Committed, due);
        }
        let small: Vec<_> = (0..2).map(|_| schedule.add(&without_point(high("small")), Duration::ZERO)).collect();
        let begun = beginning(&mut schedule, due);
        assert!(!small.iter().all(|member| begun.contains(member)), "{begun:?}");
        // The host's only place is for everybody.
        let mut schedule = Schedule::new(1);
        schedule.add(&without_point(high("a")), Duration::ZERO);
        assert!(schedule.begin(Duration::ZERO).is_some());
    }

    #[test]
    fn points_that_are_older_than_the_process_count_as_they_are() {
        let mut schedule = Schedule::new(1);
        let aged = |age| Turns { newest_age: Some(seconds(age)), ..turns("a", seconds(60), Priority::Normal) };
        let members = [0, 7_200, 3_600].map(|age| schedule.add(&aged(age), Duration::ZERO));
        let mut order = Vec::new();
        while let Some(begun) = schedule.begin(Duration::ZERO) {
            order.push(begun.member);
            schedule.end(begun.member, CycleEnd::Final, Duration::ZERO);
        }
        assert_eq!(order, [members[1], members[2], members[0]]);
    }

    #[test]
    fn who_is_hurried_begins_before_all_others_once() {
        let mut schedule = Schedule::new(1);
        let urgent = schedule.add(&turns("a", seconds(1), Priority::High), Duration::ZERO);
        let late = schedule.add(&turns("a", seconds(3_600), Priority::Low), Duration::ZERO);
        // While it waits for a place,
        assert_eq!(beginning(&mut schedule, Duration::ZERO), [urgent]);
        schedule.hurry(late, Duration::ZERO);
        schedule.end(urgent, CycleEnd::Committed, Duration::ZERO);
        assert_eq!(beginning(&mut schedule, seconds(5)), [late]);
        // while it has a cycle,
        schedule.hurry(late, seconds(6));
        assert_eq!(schedule.end(late, CycleEnd::Committed, seconds(7)), Some(Duration::ZERO));
        assert_eq!(beginning(&mut schedule, seconds(7)), [late]);
        // and while it sleeps; but once only.
        assert!(schedule.end(late, CycleEnd::Committed, seconds(8)) > Some(seconds(3_000)));
        schedule.hurry(late, seconds(9));
        assert_eq!(beginning(&mut schedule, seconds(9)), [late]);
        schedule.end(late, CycleEnd::Committed, seconds(10));
        assert_eq!(beginning(&mut schedule, seconds(10)), [urgent]);
        schedule.end(urgent, CycleEnd::Committed, seconds(10));
        assert!(!beginning(&mut schedule, seconds(20)).contains(&late));
    }

    #[test]
    fn what_is_tried_otherwise_begins_at_once_and_counts_as_no_failure() {
        let mut schedule = Schedule::new(1);
        let member = schedule.add(&turns("a", seconds(60), Priority::Normal), Duration::ZERO);
        assert_eq!(beginning(&mut schedule, Duration::ZERO), [member]);
        assert_eq!(schedule.end(member, CycleEnd::Otherwise, seconds(1)), Some(Duration::ZERO));
        assert_eq!((schedule.failures(member), schedule.is_hopeless()), (0, false));
        assert_eq!(beginning(&mut schedule, seconds(1)), [member]);
    }

    #[test]
    fn groups_and_limits_change_while_cycles_run() {
        let mut schedule = Schedule::new(4);
        let members: Vec<_> =
            (0..4).map(|_| schedule.add(&turns("a", seconds(60), Priority::Normal), Duration::ZERO)).collect();
        assert_eq!(beginning(&mut schedule, Duration::ZERO), members);
        // Fewer places than there are cycles: none begins until enough have ended.
        schedule.limit(4, &site_limits(&[("a", 2)]));
        let other = schedule.add(&turns("a", seconds(1), Priority::High), Duration::ZERO);
        for member in &members[..2] {
            schedule.end(*member, CycleEnd::Committed, seconds(1));
            assert_eq!(beginning(&mut schedule, seconds(1)), []);
        }
        schedule.end(members[2], CycleEnd::Committed, seconds(1));
        assert_eq!(beginning(&mut schedule, seconds(1)), [other]);
        // A cycle gives its place back where it began, wherever the group is now.
        schedule.change(other, &turns("b", seconds(600), Priority::Normal), seconds(2));
        schedule.end(other, CycleEnd::Committed, seconds(2));
        schedule.limit(4, &site_limits(&[("a", 2), ("b", 1)]));
        let third = schedule.add(&turns("a", seconds(60), Priority::Normal), seconds(2));
        assert_eq!(beginning(&mut schedule, seconds(2)), [third]);
        // Who sleeps is due at once with other turns, and who has left is not.
        schedule.change(other, &turns("b", seconds(5), Priority::Normal), seconds(3));
        schedule.remove(members[0]);
        assert_eq!(beginning(&mut schedule, seconds(3)), [other]);
        schedule.change(members[1], &turns("a", seconds(60), Priority::Normal), seconds(3));
        assert!(schedule.wakes_at() > Some(seconds(3)), "nothing is changed, and nothing is due");
        schedule.remove(other);
        assert_eq!(schedule.end(other, CycleEnd::Failed, seconds(4)), None);
        schedule.hurry(other, seconds(4));
        assert_eq!(
            beginning(&mut schedule, seconds(9_999)),
            [],
            "who has left does not begin, and the others have no place"
        );
    }

    #[test]
    fn groups_that_fail_do_not_keep_others_from_their_turns() {
        let mut schedule = Schedule::new(2);
        let broken: Vec<_> =
            (0..20).map(|_| schedule.add(&turns("a", seconds(5), Priority::High), Duration::ZERO)).collect();
        let healthy = schedule.add(&turns("b", seconds(30), Priority::Low), Duration::ZERO);
        let (mut running, mut turns, mut now) = (BTreeSet::new(), 0, Duration::ZERO);
        while now < seconds(3_600) {
            for member in beginning(&mut schedule, now) {
                // A site that does not answer holds them for half a minute.
                running.insert((now + seconds(if member == healthy { 1 } else { 30 }), member));
            }
            let ends = running.first().map(|(ends, _)| *ends);
            now = [ends, schedule.wakes_at()].into_iter().flatten().min().expect("something happens").max(now);
            while let Some((_, member)) = running.pop_first_if(|(ends, _)| *ends <= now) {
                let is_healthy = member == healthy;
                turns += usize::from(is_healthy);
                schedule.end(member, if is_healthy { CycleEnd::Committed } else { CycleEnd::Failed }, now);
            }
        }
        assert!(broken.iter().all(|member| schedule.failures(*member) > 2));
        assert!(turns > 8, "{turns} turns in an hour");
    }

    #[test]
    fn a_group_that_fails_is_tried_again_with_growing_pauses_and_one_that_cannot_be_helped_seldom() {
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
        assert!(!schedule.is_hopeless());
        assert_eq!(schedule.end(member, CycleEnd::Final, now), Some(seconds(300)));
        assert!(schedule.is_hopeless() && schedule.begin(now + seconds(299)).is_none());
        now += seconds(300);
        schedule.begin(now).expect("somebody may have changed something");
        schedule.end(member, CycleEnd::Failed, now);
        assert!(!schedule.is_hopeless());
        schedule.remove(member);
        assert!(schedule.is_hopeless() && schedule.begin(now + seconds(9_999)).is_none());
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
            failing in 1_usize..6,
        ) {
            let mut schedule = Schedule::new(host);
            let names = ["a", "b", "c"];
            schedule.limit(host, &site_limits(&[(names[0], sites[0]), (names[1], sites[1]), (names[2], sites[2])]));
            let mut now = Duration::ZERO;
            let members: Vec<_> = groups
                .iter()
                .map(|(site, rpo, length, priority)| {
                    let turns = turns(names[*site], seconds(*rpo), *priority);
                    schedule.add(&if length % 3 == 0 { without_point(turns) } else { turns }, now)
                })
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
                    let fails = (counts[index] + index) % failing == 0;
                    schedule.end(members[index], if fails { CycleEnd::Failed } else { CycleEnd::Committed }, now);
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
