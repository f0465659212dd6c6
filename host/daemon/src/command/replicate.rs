//! `replicate`: one cycle of each group, or on and on to each group's objective.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use farshore_core::{GroupName, Timestamp};
use farshore_plugin::Mode;
use farshore_replication::{
    CopyLimits, CycleReport, Objective, Protection, ReplicationError, Replicator, Schedule, Turns, WatchObserver,
    Watched, watch,
};
use farshore_vault::{Point, Power};
use futures::{StreamExt as _, stream};
use serde::Serialize;

use super::points::basis;
use crate::{
    adapters::Adapters,
    arguments::ReplicateArguments,
    capsule,
    config::{Configuration, Group, format_duration},
    context::Context,
    error::CliError,
    observers::Shown,
    output::{Failure, Output, Table, human},
    vault::{self, Needs},
};

/// Runs it.
pub async fn run(context: &Context, arguments: ReplicateArguments) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let mut names = arguments.groups;
    if names.is_empty() {
        names = configuration.groups.keys().cloned().collect();
    }
    // A group that is named twice is replicated once, in the place where it was named first.
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    let named = names.into_iter().map(|name| configuration.group(&name).map(|group| (name, group)));
    let named: Vec<(GroupName, &Group)> = named.collect::<Result<_, _>>()?;
    let vault = vault::open(context, &configuration, Needs::Powers(&[Power::Replicator])).await?;
    let state_folder = super::state_folder(&configuration)?;
    let mut adapters = Adapters::new(context, &configuration)?;
    let capsule = capsule::gather(&configuration);
    capsule.warnings.iter().for_each(|warning| context.output.warn(warning));
    let mut groups = Vec::new();
    for (name, group) in named {
        // An adapter that is missing or broken is no reason to stop protecting what other sites run.
        let source = match adapters.open(&configuration, &group.site, Mode::Protect).await {
            Ok(source) => source,
            Err(error) => {
                groups.push(Err(Unusable { group: name, error }));
                continue;
            }
        };
        let shown = if arguments.watch { Shown::quiet(context.output) } else { Shown::with_progress(context.output) };
        let shown = Arc::new(shown);
        let replicator = Replicator {
            vault: Arc::clone(&vault),
            source,
            protection: Protection {
                group: name.clone(),
                machines: group.machines.clone(),
                consistency: group.consistency,
                stall_limit: group.stall_limit,
            },
            capsule: capsule.items.clone(),
            state_folder: state_folder.clone(),
            clock: Arc::clone(&context.clock),
            entropy: Arc::clone(&context.entropy),
            observer: Arc::clone(&shown) as _,
            limits: CopyLimits::default(),
        };
        let (site, objective) = (group.site.clone(), Objective { rpo: group.rpo });
        let turns = Turns { site, objective, priority: group.priority, newest_age: None };
        groups.push(Ok(Replicated { replicator, turns, shown }));
    }
    if arguments.watch {
        on_and_on(context, &configuration, groups).await
    } else {
        once(context, &configuration, groups).await
    }
}

/// The newest points of so many groups are asked for at once when watching begins.
const GROUPS_ASKED_AT_ONCE: usize = 16;
/// A vault that does not say in this time how old a group's newest point is, is not waited for.
const NEWEST_ASKED_MAX: Duration = Duration::from_secs(10);
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
    shown: Arc<Shown>,
}

/// What became of a group in one cycle.
#[derive(Serialize)]
#[serde(untagged)]
enum Cycle {
    Committed(Box<CycleReport>),
    Failed { group: GroupName, error: Failure },
}

async fn once(
    context: &Context,
    configuration: &Configuration,
    groups: Vec<Result<Replicated, Unusable>>,
) -> Result<(), Failure> {
    let mut cycles = Vec::new();
    for group in groups {
        let Replicated { replicator, shown, .. } = match group {
            Ok(group) => group,
            Err(Unusable { group, error }) => {
                cycles.push(Cycle::Failed { group, error });
                continue;
            }
        };
        let result = replicator.cycle(&context.stop).await;
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
    if failed.is_empty() {
        return Ok(());
    }
    Err(CliError::EndedWithErrors { what: format!("these groups have no new point: {}", failed.join(", ")) }.into())
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

async fn on_and_on(
    context: &Context,
    configuration: &Configuration,
    groups: Vec<Result<Replicated, Unusable>>,
) -> Result<(), Failure> {
    let (mut watched, mut unusable) = (Vec::new(), Vec::new());
    for group in groups {
        match group {
            Ok(Replicated { replicator, turns, .. }) => watched.push(Watched { replicator, turns }),
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
    failed.extend(watch_all(context, configuration, watched).await);
    if context.stop.is_cancelled() {
        let left = "the captures were released; the last committed points stand";
        return Err(context.interrupted(left).into());
    }
    let failed: Vec<&str> = failed.iter().map(GroupName::as_str).collect();
    Err(CliError::EndedWithErrors { what: format!("no later try can help these groups: {}", failed.join(", ")) }.into())
}

/// Replicates the groups, as many at once as may be, until the operator stops them. Returns those that no later try can help.
async fn watch_all(context: &Context, configuration: &Configuration, groups: Vec<Watched>) -> Vec<GroupName> {
    for Watched { replicator, turns } in &groups {
        let Protection { group, machines, .. } = &replicator.protection;
        let rpo = format_duration(turns.objective.rpo);
        context.output.remark(&format!("{group}: {} machines, at most {rpo} old", machines.len()));
    }
    let mut schedule = Schedule::new(configuration.host.concurrent_cycles.into());
    for (name, site) in &configuration.sites {
        if let Some(count) = site.concurrent_cycles {
            schedule.limit_site(name, count.into());
        }
    }
    let mut last = BTreeMap::new();
    let asked = stream::iter(groups).map(|watched| async {
        let newest = tokio::select! {
            biased;
            () = context.stop.cancelled() => Newest::Unknown,
            newest = newest(&watched.replicator) => newest,
            () = context.clock.sleep(NEWEST_ASKED_MAX) => Newest::Unknown,
        };
        (watched, newest)
    });
    let mut asked: Vec<(Watched, Newest)> = asked.buffered(GROUPS_ASKED_AT_ONCE).collect().await;
    for (watched, newest) in &mut asked {
        watched.turns.newest_age = match newest {
            Newest::Captured(at) => {
                last.insert(watched.replicator.protection.group.clone(), *at);
                Some(context.clock.now().since(*at))
            }
            Newest::None => None,
            // Its cycle will tell why. Until then it is no first copy.
            Newest::Unknown => Some(Duration::ZERO),
        };
    }
    let groups = asked.into_iter().map(|(watched, _)| watched).collect();
    let told = Told { output: context.output, clock: &*context.clock, stop: &context.stop, last: last.into() };
    watch(groups, schedule, &*context.clock, &told, &context.stop).await
}

/// When a group's newest point was captured.
enum Newest {
    Captured(Timestamp),
    None,
    Unknown,
}

async fn newest(replicator: &Replicator) -> Newest {
    let read = async {
        let Some(lineage) = replicator.vault.lineage(&replicator.protection.group).await? else { return Ok(None) };
        let Some(sequence) = lineage.head().await?.newest_point else { return Ok(None) };
        Ok::<_, farshore_vault::Error>(Some(lineage.point(sequence).await?.captured_at))
    };
    match read.await {
        Ok(Some(at)) => Newest::Captured(at),
        Ok(None) => Newest::None,
        Err(_) => Newest::Unknown,
    }
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
        let next = self.next_try_in_milliseconds.map_or("no later try can help".to_owned(), |pause| {
            format!("next try in {}", human::duration(Duration::from_millis(pause)))
        });
        let age = self.age_milliseconds.map_or(String::new(), |age| {
            format!("; the newest point is {} old", human::duration(Duration::from_millis(age)))
        });
        format!("{now}  {group}  failed [{}] {}{causes}; {next}{age}{problems}", error.code, error.message)
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

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl WatchObserver for Told<'_> {
    fn committed(&self, report: &CycleReport, waited: Duration) {
        let before = self.age(&report.group, self.clock.now());
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        last.insert(report.group.clone(), report.point.captured_at);
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
