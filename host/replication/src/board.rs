//! What is known of each group: how old its newest point is against its objective, and what its cycles do.
//!
//! *Honesty.* Nobody sets a group's state. It is worked out when somebody asks, from the time of the newest point that this host has
//! seen committed or has read in the vault, so that it gets worse while nothing happens at all. A group of which nothing is known is
//! `unknown`, never `ok`; that its cycles fail stands beside its state, and changes it only when its point gets too old.
//!
//! *Suspended machines.* A point is as old as what it has of the machine that is furthest behind. A group that has had a machine of
//! which no point has anything, for longer than its objective, is late.
//!
//! *Clocks.* A point's age is the greater of two: by the civil clock, and by what it was when this host learnt of the point with the
//! time that has passed since. So a clock that is put back makes no point young.
//!
//! *Blackouts.* The time in which a group's blackout let no cycle begin does not count against its objective: a group whose
//! point is too old only with that time is `paused`, and nobody is alarmed. Who was late before stays late, and so does who
//! has points that wait at this host.
//!
//! *Misses.* [`Board::judge`] says once when a group passes its objective, once if damage is found or mended meanwhile, and once when it is back. A group without a point passes it
//! when that long has gone since it came.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use farshore_core::{Basis, Clock, Code, GroupName, MachineId, PointLabel, Sequence, SiteName, Timestamp, Timetable};
use farshore_vault::{MachineBehind, Point};
use serde::{Deserialize, Serialize};

use crate::{CycleReport, cycle::milliseconds};

/// How a group stands against its objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupState {
    /// Its newest point is no older than its objective.
    Ok,
    /// Its newest point is older.
    Late,
    /// It is older too, and only because of its blackout: without the blackout's time it is not.
    Paused,
    /// The newest of its points of which something was proven is damaged, so that it may have none that can be restored.
    Hurt,
    /// It has no point.
    Unprotected,
    /// The vault has not said yet whether it has one.
    Unknown,
}

/// A point of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointStatus {
    /// Its number.
    pub point: Sequence,
    /// When it was captured.
    pub captured_at: Timestamp,
    /// How the disks that were captured for it were obtained, each kind once.
    pub bases: Vec<Basis>,
    /// What whoever asked for it calls it.
    pub label: Option<PointLabel>,
    /// Machines that were suspended when it was made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<MachineBehind>,
}

impl PointStatus {
    /// When what it has of the machine that is furthest behind was captured.
    pub fn oldest_part(&self) -> Timestamp {
        self.behind.iter().map(|behind| behind.captured_at).fold(self.captured_at, Timestamp::min)
    }
}

impl From<&Point> for PointStatus {
    fn from(point: &Point) -> Self {
        let mut bases: Vec<Basis> = Vec::new();
        let captured = point.machines.iter().filter(|machine| machine.captured_at.is_none());
        for disk in captured.flat_map(|machine| &machine.disks) {
            if !bases.contains(&disk.basis) {
                bases.push(disk.basis);
            }
        }
        Self {
            point: point.sequence,
            captured_at: point.captured_at,
            bases,
            label: point.label.clone(),
            behind: point.behind().collect(),
        }
    }
}

/// What the vault says of a group's newest point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Newest {
    /// This is it.
    Point(PointStatus),
    /// There is none.
    None,
    /// It did not answer.
    Unknown,
}

/// The newest point of which a reader has proven something, and nothing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenStatus {
    /// Its number.
    pub point: Sequence,
    /// When it was captured.
    pub captured_at: Timestamp,
    /// What was proven of it, in a word.
    pub by: String,
    /// When.
    pub proven_at: Timestamp,
}

/// What a group's cycles do now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "activity", rename_all = "kebab-case")]
pub enum Activity {
    /// It has no turns here.
    None,
    /// It is due, or will be in so long.
    Waiting {
        /// Until it is due, in milliseconds.
        due_in_milliseconds: u64,
    },
    /// A cycle runs.
    Replicating {
        /// For how long, in milliseconds.
        running_milliseconds: u64,
        /// Bytes read by it.
        read_bytes: u64,
        /// What it waits for or does, in the site's words; may be empty.
        doing: String,
    },
}

/// Points that wait at this host for the vault. They are lost with the host, and count for nothing yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpooledStatus {
    /// How many.
    pub points: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Why they are not in the vault, with its causes, as a cycle said last; none if the vault takes one after the other.
    pub why: Option<String>,
}

/// A machine that cannot be captured, and without which its group goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuspendedStatus {
    /// Which.
    pub machine: MachineId,
    /// Since when.
    pub since: Timestamp,
    /// The code of why, such as `FS4003`.
    pub code: String,
    /// Why, with its causes.
    pub message: String,
    /// When what the points have of it was captured; none if they have nothing.
    pub captured_at: Option<Timestamp>,
}

/// Cycles that fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// How many in a row.
    pub failures: u32,
    /// Since when.
    pub since: Timestamp,
    /// The newest one's code, such as `FS3001`.
    pub code: String,
    /// What it said, with its causes.
    pub message: String,
    /// No later try helps before somebody changes something.
    pub is_final: bool,
}

/// What is known of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name.
    pub group: GroupName,
    /// Where its machines run.
    pub site: SiteName,
    /// How it stands.
    pub state: GroupState,
    /// How old its newest point may become.
    pub objective_milliseconds: u64,
    /// How old its newest point is; none if it has none.
    pub age_milliseconds: Option<u64>,
    /// Its newest point.
    pub newest: Option<PointStatus>,
    /// Its newest proven point.
    pub proven: Option<ProvenStatus>,
    /// How old that is; none if nothing was proven.
    pub proven_age_milliseconds: Option<u64>,
    /// What its cycles do.
    #[serde(flatten)]
    pub activity: Activity,
    /// Why they fail, if they do.
    pub failing: Option<Failing>,
    /// Until when no cycle begins, because it is in its blackout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blackout_until: Option<Timestamp>,
    /// What waits at this host for the vault, if something does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spooled: Option<SpooledStatus>,
    /// Machines that are suspended, as this host's cycles found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspended: Vec<SuspendedStatus>,
}

/// What a group's cycles did since this host began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Cycles that became points.
    pub committed: u64,
    /// Cycles that failed.
    pub failed: u64,
    /// Bytes read from the source.
    pub read_bytes: u64,
    /// Bytes that the points stored.
    pub stored_bytes: u64,
    /// The longest hold of a guest by the newest capture, in microseconds.
    pub held_microseconds: u64,
    /// From the newest point's instant until it was durable, in milliseconds.
    pub lag_milliseconds: u64,
}

/// That a group passed its objective, or is back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Which group.
    pub group: GroupName,
    /// Whether it is late now.
    pub is_late: bool,
    /// How it stands.
    pub status: GroupStatus,
    /// For how long it was late, if it is back.
    pub late_for: Duration,
}

#[derive(Debug)]
enum Doing {
    Nothing,
    Waiting { due: Duration },
    Replicating { since: Duration, read_bytes: u64, text: String },
}

#[derive(Debug)]
struct Known {
    site: SiteName,
    rpo: Duration,
    came: Duration,
    newest: Newest,
    /// How old the newest point was when it became known, and when that was.
    learnt: (Duration, Duration),
    /// When that of it was captured whose age this is.
    learnt_of: Option<Timestamp>,
    proven: Option<ProvenStatus>,
    hurt: Option<Sequence>,
    doing: Doing,
    failing: Option<Failing>,
    /// The codes of its failures since the last good cycle.
    codes: BTreeSet<Code>,
    totals: Totals,
    /// Since when it is late, and whether what was told is that it is hurt.
    late_since: Option<(Duration, bool)>,
    blackout: Timetable<()>,
    spooled: Option<SpooledStatus>,
    /// For which reasons it was said that points wait.
    told_to_wait: BTreeSet<Code>,
    /// Each with since when it is, by the clock that is never put back.
    suspended: BTreeMap<MachineId, (SuspendedStatus, Duration)>,
}

impl Known {
    /// The newest point is at least so old now.
    fn learn(&mut self, newest: Newest, age_min: Duration, clock: &dyn Clock) {
        if let Newest::Point(point) = &newest {
            // What it still has of a machine has not become younger because a clock was put back.
            let still_has = |part: &Timestamp| point.behind.iter().any(|behind| behind.captured_at == *part);
            let (part, known) = match self.learnt_of.filter(still_has) {
                Some(part) => (part, self.age(clock).unwrap_or_default()),
                None => (point.oldest_part(), Duration::ZERO),
            };
            let age = clock.now().since(point.oldest_part()).max(age_min).max(known);
            self.learnt_of = Some(part);
            self.learnt = (age, clock.monotonic());
        }
        self.newest = newest;
    }

    /// What is left of an age without the time in which no cycle began because of its blackout.
    fn without_blackouts(&self, age: Duration, now: Timestamp) -> Duration {
        let earlier = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let mut at = Timestamp::from_unix_milliseconds(now.as_unix_milliseconds().saturating_sub(earlier));
        let mut left = age;
        for _ in 0..BLACKOUT_CHANGES_MAX {
            let next = self.blackout.next_change(at).filter(|next| *next < now).unwrap_or(now);
            if self.blackout.at(at).is_some() {
                left = left.saturating_sub(next.since(at));
            }
            if next >= now || left.is_zero() {
                return left;
            }
            at = next;
        }
        left
    }

    /// A cycle, of now or of when the vault could not be reached, became a point.
    fn take(&mut self, report: &CycleReport, clock: &dyn Clock) {
        let passed = report.lag_milliseconds.saturating_add(report.times.release_milliseconds);
        self.learn(Newest::Point(PointStatus::from(&report.point)), Duration::from_millis(passed), clock);
        let totals = &mut self.totals;
        totals.committed = totals.committed.saturating_add(1);
        totals.read_bytes = totals.read_bytes.saturating_add(report.read_bytes);
        totals.stored_bytes = totals.stored_bytes.saturating_add(report.point.stats.bytes_stored);
        (totals.held_microseconds, totals.lag_milliseconds) = (report.held_microseconds, report.lag_milliseconds);
    }

    fn age(&self, clock: &dyn Clock) -> Option<Duration> {
        let Newest::Point(point) = &self.newest else { return None };
        let (age, at) = self.learnt;
        let passed = age.saturating_add(clock.monotonic().saturating_sub(at));
        Some(clock.now().since(point.oldest_part()).max(passed))
    }

    /// For how long it has had a machine of which no point has anything.
    fn lacks_for(&self, now: Duration) -> Option<Duration> {
        let lacking = self.suspended.values().filter(|(status, _)| status.captured_at.is_none());
        lacking.map(|(_, since)| now.saturating_sub(*since)).max()
    }
}

/// So often a blackout begins or ends within an age that is worth looking at: a month of hours.
const BLACKOUT_CHANGES_MAX: usize = 1_500;

/// What is known of all groups of a host.
pub struct Board {
    clock: Arc<dyn Clock>,
    groups: Mutex<BTreeMap<GroupName, Known>>,
}

impl Board {
    /// One without groups.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, groups: Mutex::default() }
    }

    fn groups(&self) -> MutexGuard<'_, BTreeMap<GroupName, Known>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, group: &GroupName, change: impl FnOnce(&mut Known)) {
        if let Some(known) = self.groups().get_mut(group) {
            change(known);
        }
    }

    /// A group comes, or has another site, objective or blackout from now on.
    pub fn put(&self, group: &GroupName, site: &SiteName, rpo: Duration, blackout: Timetable<()>) {
        let mut groups = self.groups();
        match groups.get_mut(group) {
            Some(known) => (known.site, known.rpo, known.blackout) = (site.clone(), rpo, blackout),
            None => {
                let known = Known {
                    site: site.clone(),
                    rpo,
                    came: self.clock.monotonic(),
                    newest: Newest::Unknown,
                    learnt: Default::default(),
                    learnt_of: None,
                    proven: None,
                    hurt: None,
                    doing: Doing::Nothing,
                    failing: None,
                    codes: BTreeSet::new(),
                    totals: Totals::default(),
                    late_since: None,
                    blackout,
                    spooled: None,
                    told_to_wait: BTreeSet::new(),
                    suspended: BTreeMap::new(),
                };
                groups.insert(group.clone(), known);
            }
        }
    }

    /// A group goes.
    pub fn remove(&self, group: &GroupName) {
        self.groups().remove(group);
    }

    /// What the vault says of a group's newest point. One that is newer is known already if a cycle has ended meanwhile.
    pub fn read(&self, group: &GroupName, newest: Newest) {
        self.with(group, |known| match (&known.newest, &newest) {
            (_, Newest::Unknown) | (Newest::Point(_), Newest::None) => {}
            (Newest::Point(one), Newest::Point(other)) if one.point >= other.point => {}
            _ => known.learn(newest, Duration::ZERO, &*self.clock),
        });
    }

    /// What was proven of a group, as the vault says now: its newest proven point, and its newest of which something was proven, if that
    /// is damaged.
    pub fn proven(&self, group: &GroupName, proven: Option<ProvenStatus>, hurt: Option<Sequence>) {
        self.with(group, |known| (known.proven, known.hurt) = (proven, hurt));
    }

    /// A cycle has begun.
    pub fn begun(&self, group: &GroupName) {
        let since = self.clock.monotonic();
        self.with(group, |known| known.doing = Doing::Replicating { since, read_bytes: 0, text: String::new() });
    }

    /// A cycle has read so many bytes more.
    pub fn moved(&self, group: &GroupName, bytes: u64) {
        self.with(group, |known| {
            if let Doing::Replicating { read_bytes, .. } = &mut known.doing {
                *read_bytes = read_bytes.saturating_add(bytes);
            }
        });
    }

    /// What a cycle does or waits for now.
    pub fn does(&self, group: &GroupName, what: &str) {
        self.with(group, |known| {
            if let Doing::Replicating { text, .. } = &mut known.doing {
                what.clone_into(text);
            }
        });
    }

    /// A cycle became a point; the next is due after `pause`. What had failed before it, and how old the point before it had become.
    pub fn committed(&self, report: &CycleReport, pause: Option<Duration>) -> (Option<Failing>, Option<Duration>) {
        let due = self.due(pause);
        let mut before = (None, None);
        self.with(&report.group, |known| {
            before = (known.failing.take(), known.age(&*self.clock));
            known.codes.clear();
            known.take(report, &*self.clock);
            known.doing = due;
        });
        before
    }

    /// A point that had waited is in the vault, and others still wait. How old the point before it had become.
    pub fn caught_up(&self, report: &CycleReport) -> Option<Duration> {
        let mut age = None;
        self.with(&report.group, |known| {
            age = known.age(&*self.clock);
            known.take(report, &*self.clock);
        });
        age
    }

    /// So many points of a group wait at this host. Whether none does any more, though it was said that some do.
    pub fn spooled(&self, group: &GroupName, points: usize, bytes: u64) -> bool {
        let mut is_over = false;
        self.with(group, |known| {
            let why = known.spooled.take().and_then(|spooled| spooled.why);
            known.spooled = (points > 0).then_some(SpooledStatus { points, bytes, why });
            is_over = points == 0 && !std::mem::take(&mut known.told_to_wait).is_empty();
        });
        is_over
    }

    /// A cycle made its point wait, because of this if it is not only that others have to come first; the next is due after `pause`. Whether
    /// that was not said yet.
    pub fn waits(&self, group: &GroupName, code: Code, why: Option<String>, pause: Option<Duration>) -> bool {
        let due = self.due(pause);
        let mut is_new = false;
        self.with(group, |known| {
            is_new = known.told_to_wait.insert(code);
            if let Some(spooled) = &mut known.spooled {
                spooled.why = why;
            }
            (known.failing, known.doing) = (None, due);
            known.codes.clear();
        });
        is_new
    }

    /// A cycle had nothing to do; the group is looked at again after `pause`.
    pub fn rests(&self, group: &GroupName, pause: Option<Duration>) {
        let due = self.due(pause);
        self.with(group, |known| known.doing = due);
    }

    /// A machine of a group is suspended, or still is, for this reason.
    pub fn suspended(
        &self,
        group: &GroupName,
        machine: &MachineId,
        code: Code,
        message: String,
        captured_at: Option<Timestamp>,
    ) {
        let (since, now) = (self.clock.now(), self.clock.monotonic());
        let mut status =
            SuspendedStatus { machine: machine.clone(), since, code: code.to_string(), message, captured_at };
        self.with(group, |known| {
            let before = known.suspended.get(machine).map(|(before, then)| (before.since, *then));
            let (since, then) = before.unwrap_or((since, now));
            status.since = since;
            known.suspended.insert(machine.clone(), (status, then));
        });
    }

    /// A machine of a group is suspended no more.
    pub fn returned(&self, group: &GroupName, machine: &MachineId) {
        self.with(group, |known| {
            known.suspended.remove(machine);
        });
    }

    /// A group has these machines, and no others.
    pub fn keep_machines(&self, group: &GroupName, machines: &[MachineId]) {
        self.with(group, |known| known.suspended.retain(|machine, _| machines.contains(machine)));
    }

    /// A cycle failed for the `failures`th time in a row; the next try is after `pause`. Whether none in the row has failed like it.
    pub fn failed(
        &self,
        group: &GroupName,
        code: Code,
        message: String,
        is_final: bool,
        failures: u32,
        pause: Option<Duration>,
    ) -> bool {
        let (due, now) = (self.due(pause), self.clock.now());
        let mut is_new = false;
        self.with(group, |known| {
            is_new = known.codes.insert(code);
            let since = known.failing.as_ref().map_or(now, |failing| failing.since);
            let code = code.to_string();
            known.failing = Some(Failing { failures, since, code, message, is_final });
            known.totals.failed = known.totals.failed.saturating_add(1);
            known.doing = due;
        });
        is_new
    }

    /// A cycle was ended on request.
    pub fn stopped(&self, group: &GroupName) {
        self.with(group, |known| known.doing = Doing::Nothing);
    }

    fn due(&self, pause: Option<Duration>) -> Doing {
        match pause {
            Some(pause) => Doing::Waiting { due: self.clock.monotonic().saturating_add(pause) },
            None => Doing::Nothing,
        }
    }

    /// All groups, by name.
    pub fn all(&self) -> Vec<(GroupStatus, Totals)> {
        let groups = self.groups();
        groups.iter().map(|(group, known)| (self.status(group, known), known.totals)).collect()
    }

    /// Whether the vault or a cycle has said how old a group's newest point is, or that it has none.
    pub fn knows(&self, group: &GroupName) -> bool {
        self.groups().get(group).is_some_and(|known| known.newest != Newest::Unknown)
    }

    /// Whether there is such a group.
    pub fn has(&self, group: &GroupName) -> bool {
        self.groups().contains_key(group)
    }

    /// The groups of which the vault has not said whether they have a point.
    pub fn unknown(&self) -> Vec<GroupName> {
        let groups = self.groups();
        let unknown = groups.iter().filter(|(_, known)| known.newest == Newest::Unknown);
        unknown.map(|(group, _)| group.clone()).collect()
    }

    /// Those that have passed their objective since this was asked last, and those that are back.
    pub fn judge(&self) -> Vec<Judged> {
        let (mut groups, now) = (self.groups(), self.clock.monotonic());
        let mut judged = Vec::new();
        for (group, known) in &mut *groups {
            let status = self.status(group, known);
            let is_late = match status.state {
                // What was told of it still holds.
                GroupState::Paused => continue,
                GroupState::Ok => false,
                GroupState::Late | GroupState::Hurt => true,
                GroupState::Unprotected | GroupState::Unknown => {
                    known.without_blackouts(now.saturating_sub(known.came), self.clock.now()) > known.rpo
                }
            };
            let is_hurt = status.state == GroupState::Hurt;
            let was = known.late_since;
            if is_late == was.is_some() && was.is_none_or(|(_, was_hurt)| was_hurt == is_hurt) {
                continue;
            }
            let late_for = was.map_or(Duration::ZERO, |(since, _)| now.saturating_sub(since));
            known.late_since = is_late.then_some((was.map_or(now, |(since, _)| since), is_hurt));
            judged.push(Judged { group: group.clone(), is_late, status, late_for });
        }
        judged
    }

    fn status(&self, group: &GroupName, known: &Known) -> GroupStatus {
        let (age, monotonic) = (known.age(&*self.clock), self.clock.monotonic());
        let newest = match &known.newest {
            Newest::Point(point) => Some(point.clone()),
            Newest::None | Newest::Unknown => None,
        };
        let now = self.clock.now();
        let blackout = known.blackout.at(now).is_some();
        let state = match (&known.newest, age) {
            (Newest::Unknown, _) => GroupState::Unknown,
            _ if known.hurt.is_some() => GroupState::Hurt,
            (Newest::Point(_), _) if known.lacks_for(monotonic).is_some_and(|lacking| lacking > known.rpo) => {
                GroupState::Late
            }
            (_, Some(age)) if age <= known.rpo => GroupState::Ok,
            (_, Some(age)) if known.spooled.is_none() && known.without_blackouts(age, now) <= known.rpo => {
                GroupState::Paused
            }
            (_, Some(_)) => GroupState::Late,
            (_, None) => GroupState::Unprotected,
        };
        let activity = match &known.doing {
            Doing::Nothing => Activity::None,
            Doing::Waiting { due } => {
                Activity::Waiting { due_in_milliseconds: milliseconds(due.saturating_sub(monotonic)) }
            }
            Doing::Replicating { since, read_bytes, text } => Activity::Replicating {
                running_milliseconds: milliseconds(monotonic.saturating_sub(*since)),
                read_bytes: *read_bytes,
                doing: text.clone(),
            },
        };
        GroupStatus {
            group: group.clone(),
            site: known.site.clone(),
            state,
            objective_milliseconds: milliseconds(known.rpo),
            age_milliseconds: age.map(milliseconds),
            newest,
            proven: known.proven.clone(),
            proven_age_milliseconds: known
                .proven
                .as_ref()
                .map(|proven| milliseconds(self.clock.now().since(proven.captured_at))),
            activity,
            failing: known.failing.clone(),
            blackout_until: blackout.then(|| known.blackout.next_change(now)).flatten(),
            spooled: known.spooled.clone(),
            suspended: known.suspended.values().map(|(status, _)| status.clone()).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
