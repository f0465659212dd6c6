//! `replicate`: one cycle of each group, or on and on to each group's objective.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use farshore_core::{Consistency, GroupName, Timestamp, Timetable};
use farshore_replication::{
    CycleReport, Newest, Order, Protection, ReplicationError, Replicator, Schedule, Stop, Turns, WatchObserver,
    Watched, Wishes, orders, watch,
};
use farshore_vault::Point;
use futures::{StreamExt as _, future, stream};
use serde::Serialize;

use super::points::basis;
use crate::{
    api::client::Client,
    arguments::ReplicateArguments,
    config::{Configuration, Group, format_duration},
    context::Context,
    engine::{self, Engine, GROUPS_ASKED_AT_ONCE, site_limits},
    error::CliError,
    observers::Shown,
    output::{Failure, Output, Table, human, milliseconds},
};

/// Runs it.
pub async fn run(context: &Context, arguments: ReplicateArguments) -> Result<(), Failure> {
    if arguments.watch {
        return on_and_on(context, arguments.groups).await;
    }
    once(context, arguments.groups, Wishes { is_asked: true, ..Wishes::default() }).await
}

/// One cycle of each of these groups, or of all if none is named, by the daemon if one runs.
///
/// # Errors
/// Why a group has no new point.
pub async fn once(context: &Context, names: Vec<GroupName>, wishes: Wishes) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let named = named(&configuration, names)?;
    let cycles = match Client::find(&configuration).await? {
        Some(daemon) => by_daemon(context, &daemon, &named, &wishes).await?,
        None => here(context, &configuration, &named, &wishes).await?,
    };
    tell(context, &configuration, cycles, &wishes)
}

type Named<'a> = Vec<(GroupName, &'a Group)>;

fn named(configuration: &Configuration, mut names: Vec<GroupName>) -> Result<Named<'_>, CliError> {
    if names.is_empty() {
        names = configuration.served_groups().map(|(name, _)| name.clone()).collect();
    }
    // A group that is named twice is replicated once, in the place where it was named first.
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names.into_iter().map(|name| configuration.group(&name).map(|group| (name, group))).collect()
}

/// What replicates these groups in this process. An adapter that is missing or broken is no reason to stop protecting what other
/// sites run.
async fn replicated(
    context: &Context,
    configuration: &Configuration,
    named: &Named<'_>,
    shown: impl Fn() -> Shown,
) -> Result<Vec<Result<Replicated, Unusable>>, Failure> {
    let mut engine = Engine::open(context, configuration).await?;
    let mut groups = Vec::new();
    for (name, group) in named {
        let shown = Arc::new(shown());
        let replicator = engine.replicator(configuration, name, group, Arc::clone(&shown) as _).await;
        groups.push(match replicator {
            Ok(replicator) => {
                let (turns, blackout) = (engine::turns(group), configuration.blackout(group));
                Ok(Replicated { replicator, turns, blackout, shown })
            }
            Err(error) => Err(Unusable { group: name.clone(), error }),
        });
    }
    Ok(groups)
}

/// A shorter wait for a turn is not worth a word.
const WAITED_SHOWN_MIN: Duration = Duration::from_secs(1);

/// A group whose site cannot be used at all.
struct Unusable {
    group: GroupName,
    error: Failure,
}

struct Replicated {
    replicator: Replicator,
    turns: Turns,
    blackout: Timetable<()>,
    shown: Arc<Shown>,
}

/// What became of a group in one cycle.
#[derive(Serialize)]
#[serde(untagged)]
enum Cycle {
    Committed(Box<CycleReport>),
    Failed { group: GroupName, error: Failure },
}

/// One after the other, in this process.
async fn here(
    context: &Context,
    configuration: &Configuration,
    named: &Named<'_>,
    wishes: &Wishes,
) -> Result<Vec<Cycle>, Failure> {
    let groups = replicated(context, configuration, named, || Shown::with_progress(context.output)).await?;
    let mut cycles = Vec::new();
    for group in groups {
        let Replicated { replicator, shown, .. } = match group {
            Ok(group) => group,
            Err(Unusable { group, error }) => {
                cycles.push(Cycle::Failed { group, error });
                continue;
            }
        };
        let result = replicator.cycle(wishes.clone(), &context.stop).await;
        shown.end();
        match result {
            Ok(report) => cycles.push(Cycle::Committed(Box::new(report))),
            Err(ReplicationError::Stopped { .. }) if context.stop.is_cancelled() => {
                return Err(context.interrupted("the capture was released; the last committed points stand").into());
            }
            Err(error) => {
                cycles.push(Cycle::Failed { group: replicator.protection.group.clone(), error: error.into() });
            }
        }
    }
    Ok(cycles)
}

/// All at once, as the daemon's limits allow.
async fn by_daemon(
    context: &Context,
    daemon: &Client,
    named: &Named<'_>,
    wishes: &Wishes,
) -> Result<Vec<Cycle>, Failure> {
    context.output.remark("the daemon of this host is asked");
    let cycles = future::join_all(named.iter().map(|(group, _)| async {
        match daemon.cycle(group, wishes).await {
            Ok(report) => Cycle::Committed(Box::new(report)),
            Err(error) => Cycle::Failed { group: group.clone(), error },
        }
    }));
    Ok(context.until_stopped("the daemon goes on with what it began", cycles).await?)
}

fn tell(
    context: &Context,
    configuration: &Configuration,
    mut cycles: Vec<Cycle>,
    wishes: &Wishes,
) -> Result<(), Failure> {
    // One group that fails is the command's own error.
    if let [Cycle::Failed { .. }] = &cycles[..]
        && let Some(Cycle::Failed { error, .. }) = cycles.pop()
    {
        return Err(error);
    }
    context.output.result(&cycles, || render(&cycles, configuration, context.clock.now()))?;
    let mut failed = Vec::new();
    for cycle in &cycles {
        if let Cycle::Failed { group, error } = cycle {
            failed.push(group.as_str());
            if !context.output.json {
                context.output.fail(error);
            }
        }
    }
    if !failed.is_empty() {
        let what = format!("these groups have no new point: {}", failed.join(", "));
        return Err(CliError::EndedWithErrors { what }.into());
    }
    // A point that was made is told above. Whoever asked for more than it is hears that, too.
    for cycle in cycles {
        if let Cycle::Committed(report) = cycle
            && wishes.consistency == Some(Consistency::Application)
            && report.point.consistency != Consistency::Application
        {
            return Err(ReplicationError::NotAtRest { group: report.group, note: report.point.note }.into());
        }
    }
    Ok(())
}

fn render(cycles: &[Cycle], configuration: &Configuration, now: Timestamp) -> String {
    if cycles.is_empty() {
        return format!("{} has no groups: nothing is protected.\n", configuration.file().display());
    }
    let mut table =
        Table::new(&["GROUP", ">POINT", "CAPTURED", "BASIS", ">READ", ">CHANGED", ">STORED", ">LAG", "NOTE"]);
    for cycle in cycles {
        match cycle {
            Cycle::Committed(report) => table.row([
                report.group.to_string(),
                report.point.sequence.to_string(),
                human::time_and_age(report.point.captured_at, now),
                basis(&report.point),
                human::bytes(report.read_bytes),
                human::bytes(report.point.stats.bytes_changed),
                human::bytes(report.point.stats.bytes_stored),
                human::duration(Duration::from_millis(report.lag_milliseconds)),
                notes(report),
            ]),
            Cycle::Failed { group, error } => {
                let mut cells = vec![group.to_string(), "none".to_owned()];
                cells.resize(8, String::new());
                cells.push(format!("failed: {}", error.message));
                table.row(cells);
            }
        }
    }
    table.render()
}

fn notes(report: &CycleReport) -> String {
    let notes = [report.point.note.as_str(), report.release_note.as_str()];
    notes.into_iter().filter(|note| !note.is_empty()).collect::<Vec<_>>().join("; ")
}

async fn on_and_on(context: &Context, names: Vec<GroupName>) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let named = named(&configuration, names)?;
    if Client::find(&configuration).await?.is_some() {
        return Err(CliError::DaemonRuns { path: configuration.socket() }.into());
    }
    let groups = replicated(context, &configuration, &named, || Shown::quiet(context.output)).await?;
    let (mut watched, mut unusable) = (Vec::new(), Vec::new());
    for group in groups {
        match group {
            Ok(Replicated { replicator, turns, blackout, .. }) => {
                watched.push(Watched { replicator, turns, application: None, blackout });
            }
            Err(group) => unusable.push(group),
        }
    }
    if watched.is_empty() {
        // One group that fails is the command's own error.
        let only = if unusable.len() == 1 { unusable.pop() } else { None };
        if let Some(only) = only {
            return Err(only.error);
        }
        if unusable.is_empty() {
            return Err(CliError::NothingToWatch.into());
        }
    }
    let mut failed: Vec<GroupName> = Vec::new();
    for Unusable { group, error } in unusable {
        // The same components are in place until somebody changes the configuration and starts this anew.
        let line = FailedLine {
            group: &group,
            error,
            failures_in_a_row: 1,
            next_try_in_milliseconds: None,
            age_milliseconds: None,
        };
        context.output.line(&line, || line.render(context.clock.now()))?;
        failed.push(group);
    }
    failed.extend(watch_all(context, &configuration, watched).await?);
    if context.stop.is_cancelled() {
        let left = "the captures were released; the last committed points stand";
        return Err(context.interrupted(left).into());
    }
    let failed: Vec<&str> = failed.iter().map(GroupName::as_str).collect();
    Err(CliError::EndedWithErrors { what: format!("no later try can help these groups: {}", failed.join(", ")) }.into())
}

/// Replicates the groups, as many at once as may be, until the operator stops them. Returns those that no later try can help.
async fn watch_all(
    context: &Context,
    configuration: &Configuration,
    groups: Vec<Watched>,
) -> Result<Vec<GroupName>, Failure> {
    for Watched { replicator, turns, .. } in &groups {
        let Protection { group, machines, .. } = &replicator.protection;
        let rpo = format_duration(turns.objective.rpo);
        context.output.remark(&format!("{group}: {} machines, at most {rpo} old", machines.len()));
    }
    let mut schedule = Schedule::new(configuration.host.concurrent_cycles.into());
    schedule.limit(configuration.host.concurrent_cycles.into(), &site_limits(configuration));
    let asked = stream::iter(groups).map(|watched| async {
        let Replicator { vault, protection, .. } = &watched.replicator;
        let newest = engine::newest(vault, &protection.group, &*context.clock).await;
        (watched, newest)
    });
    let asking = asked.buffered(GROUPS_ASKED_AT_ONCE).collect::<Vec<_>>();
    let asked = context.until_stopped("nothing was begun", asking).await?;
    let mut last = BTreeMap::new();
    for (watched, newest) in &asked {
        if let Newest::Point(point) = newest {
            last.insert(watched.replicator.protection.group.clone(), point.oldest_part());
        }
    }
    let (sender, orders) = orders();
    let giving = async {
        for (mut watched, newest) in asked {
            watched.turns.newest_age = match newest {
                Newest::Point(point) => Some(context.clock.now().since(point.captured_at)),
                Newest::None => None,
                // Its cycle will tell why. Until then it is no first copy.
                Newest::Unknown => Some(Duration::ZERO),
            };
            let _ = sender.send(Order::Protect(Box::new(watched))).await;
        }
        drop(sender);
    };
    let told = Told { output: context.output, clock: &*context.clock, stop: &context.stop, last: last.into() };
    let stop = Stop::at_once(&context.stop);
    let (failed, ()) = tokio::join!(watch(orders, schedule, &*context.clock, &told, &stop), giving);
    Ok(failed)
}

/// A line of `--watch --json` for a cycle that failed.
#[derive(Serialize)]
struct FailedLine<'a> {
    group: &'a GroupName,
    error: Failure,
    failures_in_a_row: u32,
    next_try_in_milliseconds: Option<u64>,
    /// How old the newest point is now, as far as this process knows one.
    age_milliseconds: Option<u64>,
}

impl FailedLine<'_> {
    fn render(&self, now: Timestamp) -> String {
        let Self { group, error, .. } = self;
        let causes: String = error.causes.iter().map(|cause| format!(": {cause}")).collect();
        let problems: String =
            error.problems.iter().map(|problem| format!("\n{}", problem.render().trim_end())).collect();
        let next = self.next_try_in_milliseconds.map_or("it is not tried again".to_owned(), |pause| {
            format!("next try in {}", human::duration(Duration::from_millis(pause)))
        });
        let age = self.age_milliseconds.map_or(String::new(), |age| {
            format!("; the newest point is {} old", human::duration(Duration::from_millis(age)))
        });
        // A point that waits is none that failed.
        let failed = if self.failures_in_a_row == 0 { "" } else { "failed " };
        format!("{now}  {group}  {failed}[{}] {}{causes}; {next}{age}{problems}", error.code, error.message)
    }
}

/// A line of `--watch --json` for a point.
#[derive(Serialize)]
struct PointLine<'a> {
    #[serde(flatten)]
    report: &'a CycleReport,
    /// How old the point before this one had become when this one was durable: the age that the objective bounds.
    age_before_milliseconds: Option<u64>,
    /// How long the cycle had been due before there was a place for it.
    waited_milliseconds: u64,
}

/// Writes a line for each cycle.
struct Told<'a> {
    output: Output,
    clock: &'a dyn farshore_core::Clock,
    stop: &'a tokio_util::sync::CancellationToken,
    /// When the newest point of each group was captured.
    last: std::sync::Mutex<BTreeMap<GroupName, Timestamp>>,
}

impl Told<'_> {
    fn age(&self, group: &GroupName, now: Timestamp) -> Option<Duration> {
        let last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        last.get(group).map(|captured_at| now.since(*captured_at))
    }

    fn write<T: Serialize>(&self, line: &T, human: impl FnOnce() -> String) {
        // Nobody reads any more: there is no reason to go on.
        if self.output.line(line, human).is_err() {
            self.stop.cancel();
        }
    }
}

impl WatchObserver for Told<'_> {
    fn begun(&self, _: &GroupName, _: Duration) {}

    // Only the daemon knows blackouts.
    fn rests(&self, _: &GroupName, _: Option<Duration>) {}

    fn stopped(&self, _: &GroupName) {}

    fn waits(&self, group: &GroupName, error: &ReplicationError, pause: Option<Duration>) {
        self.failed(group, error, 0, pause);
    }

    // Such points come on a schedule of their own only with the daemon.
    fn application_failed(&self, _: &GroupName, _: &ReplicationError, _: Duration) {}

    fn committed(&self, report: &CycleReport, waited: Duration, _: Option<Duration>) {
        let before = self.age(&report.group, self.clock.now());
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        last.insert(report.group.clone(), report.point.oldest_part());
        drop(last);
        let line = PointLine {
            report,
            age_before_milliseconds: before.map(milliseconds),
            waited_milliseconds: milliseconds(waited),
        };
        self.write(&line, || {
            let Point { sequence, captured_at, stats, .. } = &report.point;
            let lag = human::duration(Duration::from_millis(report.lag_milliseconds));
            let mut age = before.map(|age| format!(", age reached {}", human::duration(age))).unwrap_or_default();
            if waited >= WAITED_SHOWN_MIN {
                age += &format!(", waited {} for its turn", human::duration(waited));
            }
            let notes = notes(report);
            let note = if notes.is_empty() { notes } else { format!("  ({notes})") };
            format!(
                "{captured_at}  {}  point {sequence}  {}  read {}, changed {}, stored {}  lag {lag}{age}{note}",
                report.group,
                basis(&report.point),
                human::bytes(report.read_bytes),
                human::bytes(stats.bytes_changed),
                human::bytes(stats.bytes_stored),
            )
        });
    }

    fn failed(&self, group: &GroupName, error: &ReplicationError, failures: u32, pause: Option<Duration>) {
        let now = self.clock.now();
        let line = FailedLine {
            group,
            failures_in_a_row: failures,
            next_try_in_milliseconds: pause.map(milliseconds),
            age_milliseconds: self.age(group, now).map(milliseconds),
            error: Failure::describe(error),
        };
        self.write(&line, || line.render(now));
    }
}
