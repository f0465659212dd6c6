//! The loop that repeats the cycles of many groups, each to its objective.
//!
//! Whose turn it is says [`Schedule`]. What is achieved is measured from commits, and is not this module's to claim.
//!
//! *Orders* say what is replicated, and change it while cycles run: a cycle that has begun goes on as it began, and only one of a
//! group that is forgotten is ended. *Application-consistent points* of a group whose others are not come on a schedule of their own: the next
//! cycle after one is due is of that kind. If it fails, because a guest does not come to rest, another cycle of the usual kind begins at once, so
//! that the objective does not depend on guests. *Stopping* has two steps, see [`Stop`].

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use farshore_core::{Clock, Consistency, GroupName, SiteName, Timestamp, Timetable};
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    CycleReport, ReplicationError, Replicator, Wishes,
    schedule::{Begun, CycleEnd, Member, Schedule, Turns},
};

/// Orders that were not taken yet, at most.
const ORDERS_MAX: usize = 1_024;

/// Requests for cycles of one group that wait, at most. More are not answered.
const ASKED_MAX: usize = 64;

/// What a cycle came to.
pub type CycleResult = Result<CycleReport, ReplicationError>;

/// Hears what happens in the loop. It must return at once.
pub trait WatchObserver: Send + Sync {
    /// A cycle has begun. It had been due for `waited` before there was a place for it.
    fn begun(&self, group: &GroupName, waited: Duration);

    /// A cycle ended well. It had been due for `waited` before there was a place for it. The next is due after `pause`; never if
    /// that is `None`.
    fn committed(&self, report: &CycleReport, waited: Duration, pause: Option<Duration>);

    /// A cycle failed for the `failures`th time in a row; the next try is after `pause`, or never if that is `None`.
    fn failed(&self, group: &GroupName, error: &ReplicationError, failures: u32, pause: Option<Duration>);

    /// An application-consistent point failed, and a cycle of the usual kind begins in its place; or it came, and is not
    /// application-consistent. The next one is tried after `pause`.
    fn application_failed(&self, group: &GroupName, error: &ReplicationError, pause: Duration);

    /// A cycle made a point, and points of the group wait at this host ([`ReplicationError::Waiting`]). The next is due after `pause`.
    fn waits(&self, group: &GroupName, error: &ReplicationError, pause: Option<Duration>);

    /// A cycle that was only to catch up had nothing to do any more. The group is looked at again after `pause`.
    fn rests(&self, group: &GroupName, pause: Option<Duration>);

    /// A cycle was ended on request, and its capture released.
    fn stopped(&self, group: &GroupName);
}

/// A group of the loop.
pub struct Watched {
    /// What replicates it.
    pub replicator: Replicator,
    /// How its turns are given.
    pub turns: Turns,
    /// How often a point is application-consistent, if not all or none are.
    pub application: Option<ApplicationPoints>,
    /// When no cycle of it begins, but one that somebody asks for, and those that only bring points into the vault that wait at this
    /// host. One that runs goes on.
    pub blackout: Timetable<()>,
}

/// Application-consistent points among others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplicationPoints {
    /// One is due after so long.
    pub every: Duration,
    /// How old the newest is; none if there is none.
    pub newest_age: Option<Duration>,
}

/// In a blackout the clock on the wall is looked at so often, because it may be set.
const BLACKOUT_LOOK: Duration = Duration::from_secs(60);

/// An application-consistent point that failed is tried again after so long, or after its own time if that is shorter.
const APPLICATION_RETRY_PAUSE: Duration = Duration::from_secs(600);

/// A cycle that somebody asked for.
#[derive(Debug)]
pub struct Asked {
    /// What they want of it.
    pub wishes: Wishes,
    /// Told what it came to; dropped untold if it never begins.
    pub answer: oneshot::Sender<Arc<CycleResult>>,
}

/// What the loop is to do.
pub enum Order {
    /// Replicate this group; or go on with it as it is said here, if it is there already.
    Protect(Box<Watched>),
    /// Replicate a group no more. A cycle that it has is ended, and its capture released.
    Forget(GroupName),
    /// Begin a cycle of a group before all others.
    Now(GroupName, Asked),
    /// Keep to these limits, see [`Schedule::limit`].
    Limit {
        /// At the host.
        concurrent_cycles: usize,
        /// At its sites.
        sites: BTreeMap<SiteName, usize>,
    },
}

/// Where orders come from.
pub type Orders = mpsc::Receiver<Order>;

/// A way to give orders to a loop.
pub fn orders() -> (mpsc::Sender<Order>, Orders) {
    mpsc::channel(ORDERS_MAX)
}

/// How the loop ends.
#[derive(Debug, Clone)]
pub struct Stop {
    /// When it is cancelled no cycle begins any more, and the loop ends when those that run have ended.
    pub begin_no_more: CancellationToken,
    /// When it is cancelled those that run are ended as well, and their captures released.
    pub end_now: CancellationToken,
}

impl Stop {
    /// Both at once.
    pub fn at_once(token: &CancellationToken) -> Self {
        Self { begin_no_more: token.clone(), end_now: token.clone() }
    }
}

/// Repeats the cycles until it is stopped, or no more orders can come and no later try can help any of the groups
/// ([`ReplicationError::is_final`]). Returns those that none can help. `schedule` has the limits, and no groups.
pub async fn watch(
    mut orders: Orders,
    schedule: Schedule,
    clock: &dyn Clock,
    observer: &dyn WatchObserver,
    stop: &Stop,
) -> Vec<GroupName> {
    let mut cycles = FuturesUnordered::new();
    let mut watching = Watching { schedule, groups: BTreeMap::new(), members: BTreeMap::new(), clock, observer, stop };
    let mut may_be_told = true;
    loop {
        let is_stopping = stop.begin_no_more.is_cancelled();
        if is_stopping {
            watching.ask_no_more();
        }
        while !is_stopping && let Some(cycle) = watching.begin() {
            cycles.push(cycle);
        }
        if cycles.is_empty() && (is_stopping || (!may_be_told && watching.schedule.is_hopeless())) {
            return watching.hopeless();
        }
        let next_due = watching.schedule.wakes_at().filter(|_| !is_stopping);
        let pause = next_due.map_or(Duration::MAX, |due| due.saturating_sub(clock.monotonic()));
        tokio::select! {
            biased;
            () = stop.begin_no_more.cancelled(), if !is_stopping => {}
            Some(ended) = cycles.next(), if !cycles.is_empty() => watching.end(ended),
            order = orders.recv(), if may_be_told => match order {
                Some(order) => watching.take(order),
                None => may_be_told = false,
            },
            () = clock.sleep(pause), if next_due.is_some() => {}
        }
    }
}

/// A group that has turns.
struct Group {
    replicator: Arc<Replicator>,
    /// Ends the cycle that it has.
    end_cycle: CancellationToken,
    asked: VecDeque<Asked>,
    is_hopeless: bool,
    /// How often a point is application-consistent, and when the next is due.
    application: Option<(Duration, Duration)>,
    blackout: Timetable<()>,
    /// Points of it wait at this host, as far as is known: also in its blackout they come into the vault.
    may_wait: bool,
}

impl Group {
    /// Whether the next cycle that nobody asked for is application-consistent.
    fn is_application_due(&self, now: Duration) -> bool {
        self.application.is_some_and(|(_, due)| now >= due)
    }

    /// For how long no cycle that nobody asked for begins, as far as the clock is believed.
    fn blackout(&self, now: Timestamp) -> Option<Duration> {
        self.blackout.at(now)?;
        let end = self.blackout.next_change(now).map_or(Duration::MAX, |end| end.since(now));
        Some(end.min(BLACKOUT_LOOK))
    }

    fn next_application(&mut self, after: Duration, now: Duration) {
        if let Some((_, due)) = &mut self.application {
            *due = now.saturating_add(after);
        }
    }
}

/// A cycle that has ended.
struct Ended {
    begun: Begun,
    began: Duration,
    /// It was application-consistent because that was due.
    is_application: bool,
    group: GroupName,
    answers: Vec<oneshot::Sender<Arc<CycleResult>>>,
    result: CycleResult,
}

struct Watching<'a> {
    schedule: Schedule,
    groups: BTreeMap<Member, Group>,
    members: BTreeMap<GroupName, Member>,
    clock: &'a dyn Clock,
    observer: &'a dyn WatchObserver,
    stop: &'a Stop,
}

impl Watching<'_> {
    fn take(&mut self, order: Order) {
        let now = self.clock.monotonic();
        match order {
            Order::Protect(watched) => self.protect(*watched, now),
            Order::Forget(name) => {
                let Some(member) = self.members.remove(&name) else { return };
                self.schedule.remove(member);
                if let Some(group) = self.groups.remove(&member) {
                    group.end_cycle.cancel();
                }
            }
            Order::Now(name, asked) => {
                let Some(member) = self.members.get(&name) else { return };
                if let Some(group) = self.groups.get_mut(member)
                    && group.asked.len() < ASKED_MAX
                {
                    group.asked.push_back(asked);
                    self.schedule.hurry(*member, now);
                }
            }
            Order::Limit { concurrent_cycles, sites } => self.schedule.limit(concurrent_cycles, &sites),
        }
    }

    fn protect(&mut self, Watched { replicator, turns, application, blackout }: Watched, now: Duration) {
        let application = application.map(|ApplicationPoints { every, newest_age }| {
            (every, newest_age.map_or(now, |age| now.saturating_add(every.saturating_sub(age))))
        });
        let name = replicator.protection.group.clone();
        if let Some(member) = self.members.get(&name)
            && let Some(group) = self.groups.get_mut(member)
        {
            group.replicator = Arc::new(replicator);
            (group.application, group.blackout) = (application, blackout);
            self.schedule.change(*member, &turns, now);
            return;
        }
        let member = self.schedule.add(&turns, now);
        let (replicator, end_cycle) = (Arc::new(replicator), self.stop.end_now.child_token());
        let asked = VecDeque::new();
        let group = Group { replicator, end_cycle, asked, is_hopeless: false, application, blackout, may_wait: true };
        self.groups.insert(member, group);
        self.members.insert(name, member);
    }

    /// The cycle whose turn it is now.
    fn begin(&mut self) -> Option<BoxFuture<'static, Ended>> {
        let (began, begun, only_catches_up) = loop {
            let now = self.clock.monotonic();
            let begun = self.schedule.begin(now)?;
            let group = self.groups.get(&begun.member)?;
            match group.blackout(self.clock.now()).filter(|_| group.asked.is_empty()) {
                Some(pause) if !group.may_wait => self.schedule.postpone(begun.member, pause, now),
                blackout => break (now, begun, blackout.is_some()),
            }
        };
        let group = self.groups.get_mut(&begun.member)?;
        let (mut wishes, answers) = take_asked(&mut group.asked);
        wishes.is_asked = !answers.is_empty();
        // Whoever asked for a point gets it also from guests that do not come to rest.
        wishes.only_catches_up = only_catches_up;
        let is_application = answers.is_empty() && !only_catches_up && group.is_application_due(began);
        if is_application {
            wishes.consistency = Some(Consistency::Application);
        }
        if !group.asked.is_empty() {
            self.schedule.hurry(begun.member, self.clock.monotonic());
        }
        let (replicator, end) = (Arc::clone(&group.replicator), group.end_cycle.clone());
        let group = replicator.protection.group.clone();
        self.observer.begun(&group, begun.waited);
        Some(Box::pin(async move {
            let result = replicator.cycle(wishes, &end).await;
            Ended { begun, began, is_application, group, answers, result }
        }))
    }

    fn end(&mut self, ended: Ended) {
        let Ended { begun: Begun { member, waited }, began, is_application, group: name, answers, result } = ended;
        let end = match &result {
            Ok(_) => CycleEnd::Committed,
            Err(ReplicationError::Waiting { is_catching_up: true, .. }) => CycleEnd::CatchingUp,
            Err(ReplicationError::Waiting { .. }) => CycleEnd::Waiting,
            Err(ReplicationError::NothingWaits { .. }) => CycleEnd::Nothing,
            // The vault and the journal are no guests.
            Err(error) if is_application && error.is_of_the_source() => CycleEnd::Otherwise,
            Err(error) if error.is_final() => CycleEnd::Final,
            Err(_) => CycleEnd::Failed,
        };
        let pause = self.schedule.end(member, end, self.clock.monotonic());
        let mut not_at_rest = None;
        if let Some(group) = self.groups.get_mut(&member) {
            group.may_wait = !matches!(&result, Ok(_) | Err(ReplicationError::NothingWaits { .. }));
            group.is_hopeless = end == CycleEnd::Final && !group.end_cycle.is_cancelled();
            let every = group.application.map_or(Duration::MAX, |(every, _)| every);
            let retry_pause = every.min(APPLICATION_RETRY_PAUSE);
            match &result {
                Ok(report) if report.point.consistency == Consistency::Application => {
                    group.next_application(every, began);
                }
                Ok(report) if is_application => {
                    group.next_application(retry_pause, self.clock.monotonic());
                    let note = report.point.note.clone();
                    not_at_rest = Some((ReplicationError::NotAtRest { group: name.clone(), note }, retry_pause));
                }
                Err(ReplicationError::Waiting { .. }) if is_application => group.next_application(every, began),
                Err(error) if end == CycleEnd::Otherwise => {
                    group.next_application(retry_pause, self.clock.monotonic());
                    self.observer.application_failed(&name, error, retry_pause);
                }
                _ => {}
            }
        }
        match &result {
            Ok(report) => self.observer.committed(report, waited, pause),
            Err(ReplicationError::Stopped { .. }) => self.observer.stopped(&name),
            Err(ReplicationError::NothingWaits { .. }) => self.observer.rests(&name, pause),
            Err(error @ ReplicationError::Waiting { .. }) => self.observer.waits(&name, error, pause),
            Err(_) if end == CycleEnd::Otherwise => {}
            Err(error) => self.observer.failed(&name, error, self.schedule.failures(member), pause),
        }
        if let Some((error, retry_pause)) = not_at_rest {
            self.observer.application_failed(&name, &error, retry_pause);
        }
        let result = Arc::new(result);
        for answer in answers {
            // Whoever asked may have gone.
            let _ = answer.send(Arc::clone(&result));
        }
    }

    /// Whoever waits for a cycle that will not begin is not told what it came to.
    fn ask_no_more(&mut self) {
        self.groups.values_mut().for_each(|group| group.asked.clear());
    }

    fn hopeless(self) -> Vec<GroupName> {
        let hopeless = self.groups.into_values().filter(|group| group.is_hopeless);
        hopeless.map(|group| group.replicator.protection.group.clone()).collect()
    }
}

/// Those who can have the same cycle: it has one label at most.
fn take_asked(asked: &mut VecDeque<Asked>) -> (Wishes, Vec<oneshot::Sender<Arc<CycleResult>>>) {
    let (mut together, mut answers) = (Wishes::default(), Vec::new());
    while let Some(next) = asked.pop_front() {
        match together.join(&next.wishes) {
            Some(joined) => together = joined,
            None => {
                asked.push_front(next);
                break;
            }
        }
        answers.push(next.answer);
    }
    (together, answers)
}
