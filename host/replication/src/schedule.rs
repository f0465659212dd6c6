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
    /// There was nothing to do: all is as if it had not begun.
    Nothing,
    /// It failed, and another way to do it may begin at once.
    Otherwise,
    /// No later try can help before somebody changes something: the group is looked at now and then.
    Final,
}

/// A group that had nothing to do is looked at again after so long.
const NOTHING_PAUSE: Duration = Duration::from_secs(1);

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
        if end != CycleEnd::Nothing {
            group.length = now.saturating_sub(since);
        }
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
            CycleEnd::Nothing => NOTHING_PAUSE,
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
mod tests;
