//! `status`: who is protected, how well, and what is done about the rest. It is read in three seconds.

use std::{collections::BTreeMap, io::IsTerminal as _, sync::Arc, time::Duration};

use farshore_core::{Clock, GroupName, Timestamp};
use farshore_replication::{Activity, Board, Failing, GroupState, GroupStatus, Newest, SpooledStatus, SuspendedStatus};
use farshore_state::{Achieved, State};
use farshore_vault::{MachineBehind, Vault};
use futures::{StreamExt as _, stream};
use serde::Serialize;

use crate::{
    api::{DaemonStatus, HostStatus, Source, client::Client},
    arguments::StatusArguments,
    config::{Configuration, Examined},
    context::Context,
    engine::{GROUPS_ASKED_AT_ONCE, newest_of},
    error::CliError,
    output::{Failure, Output, Table, human},
    serve::{Proven, STATE_FILE, proven},
    vault::{self, Needs},
};

/// How often it is shown anew.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// Clears a terminal and begins at its top (ECMA-48: CUP, ED).
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// Runs it.
pub async fn run(context: &Context, arguments: &StatusArguments) -> Result<(), Failure> {
    let configuration = configuration(context).await?;
    let mut vault = None;
    loop {
        let status = match ask(context, &configuration, &mut vault).await {
            Ok(status) => Shown { achieved: achieved(context, &configuration, arguments, &status)?, status },
            // A daemon that is being restarted is there again in a moment.
            Err(failure) if arguments.watch && !context.stop.is_cancelled() => {
                context.output.fail(&failure);
                context.clock.sleep(WATCH_EVERY).await;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        if !arguments.watch {
            context.output.result(&status, || render(&status))?;
            return judged(&status.status).map_err(Failure::from);
        }
        // A program or a file gets one status after the other.
        let clear = if std::io::stdout().is_terminal() && !context.output.json { CLEAR } else { "" };
        context.output.clear(clear)?;
        context.output.line(&status, || render(&status))?;
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            () = context.clock.sleep(WATCH_EVERY) => {}
        }
    }
}

/// A status, and what was achieved.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    status: HostStatus,
    /// By group, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    achieved: Option<BTreeMap<GroupName, Achieved>>,
}

/// What the daemon of this host remembers to have achieved.
fn achieved(
    context: &Context,
    configuration: &Configuration,
    arguments: &StatusArguments,
    status: &HostStatus,
) -> Result<Option<BTreeMap<GroupName, Achieved>>, Failure> {
    let Some(span) = arguments.achieved else { return Ok(None) };
    let milliseconds = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    let since = context.clock.now().as_unix_milliseconds().saturating_sub(milliseconds);
    let since = Timestamp::from_unix_milliseconds(since);
    let mut achieved = BTreeMap::new();
    if let Some(state) = State::open_to_read(&super::state_folder(configuration)?.join(STATE_FILE))? {
        for group in &status.groups {
            achieved.insert(group.group.clone(), state.achieved(&group.group, since)?);
        }
    }
    Ok(Some(achieved))
}

/// The configuration. A daemon that runs goes on though its file has mistakes by now, and can be asked all the same.
async fn configuration(context: &Context) -> Result<Configuration, Failure> {
    let error = match context.configuration() {
        Ok(configuration) => return Ok(configuration),
        Err(error) => error,
    };
    let Ok(mut examined) = Examined::read(&context.config_file) else { return Err(error.into()) };
    let sites = std::mem::take(&mut examined.document.sites);
    let right = examined.preview(sites);
    if Client::find(&right).await?.is_some() { Ok(right) } else { Err(error.into()) }
}

async fn ask(
    context: &Context,
    configuration: &Configuration,
    vault: &mut Option<Arc<Vault>>,
) -> Result<HostStatus, Failure> {
    let nothing_done = "nothing was changed";
    if let Some(daemon) = Client::find(configuration).await? {
        return context.until_stopped(nothing_done, daemon.status()).await?;
    }
    let opened = match vault.take() {
        Some(vault) => vault,
        None => vault::open(context, configuration, Needs::Powers(&[])).await?,
    };
    let status =
        context.until_stopped(nothing_done, of_vault(&opened, configuration, &context.clock, context.output)).await?;
    *vault = Some(opened);
    Ok(status)
}

/// What the vault says of all groups of the configuration.
async fn of_vault(vault: &Vault, configuration: &Configuration, clock: &Arc<dyn Clock>, output: Output) -> HostStatus {
    let board = Board::new(Arc::clone(clock));
    for (name, group) in &configuration.groups {
        board.put(name, &group.site, group.rpo, configuration.blackout(group));
    }
    let asking = stream::iter(configuration.groups.keys()).map(|name| {
        let board = &board;
        async move {
            let Ok(lineage) = vault.lineage(name).await else { return };
            let Some(lineage) = lineage else { return board.read(name, Newest::None) };
            board.read(name, newest_of(&lineage).await.unwrap_or(Newest::Unknown));
            match proven(&lineage).await {
                Ok(Proven { whole, hurt }) => board.proven(name, whole, hurt),
                Err(error) => output.warn(&format!("{name}: what was proven of its points cannot be read: {error}")),
            }
        }
    });
    asking.buffer_unordered(GROUPS_ASKED_AT_ONCE).collect::<Vec<()>>().await;
    let groups = board.all().into_iter().map(|(status, _)| status).collect();
    HostStatus { source: Source::Vault, at: clock.now(), groups }
}

/// A blackout is the operator's wish.
const fn is_as_wished(state: GroupState) -> bool {
    matches!(state, GroupState::Ok | GroupState::Paused)
}

/// Whether all is well.
fn judged(status: &HostStatus) -> Result<(), CliError> {
    let unwell: Vec<&str> =
        status.groups.iter().filter(|group| !is_as_wished(group.state)).map(|group| group.group.as_str()).collect();
    match unwell.len() {
        0 => Ok(()),
        count => Err(CliError::Unwell { count, groups: unwell.join(", ") }),
    }
}

fn render(Shown { status: HostStatus { source, at, groups }, achieved }: &Shown) -> String {
    let mut text = match source {
        Source::Daemon(daemon) => render_daemon(daemon, *at),
        Source::Vault => "No daemon runs here: what follows is what the vault says.\n".to_owned(),
    };
    let mut table = Table::new(&["GROUP", "STATE", ">AGE", ">OBJECTIVE", ">P99", ">MOST", ">POINT", "PROVEN", "NOW"]);
    // What needs somebody stands first.
    let mut groups: Vec<&GroupStatus> = groups.iter().collect();
    groups.sort_by_key(|group| (urgency(group.state), group.failing.is_none()));
    for group in &groups {
        let age = |milliseconds: Option<u64>| {
            milliseconds.map_or("-".to_owned(), |milliseconds| human::duration(Duration::from_millis(milliseconds)))
        };
        // Without the question the columns are empty, and not shown.
        let reached = |of: fn(&Achieved) -> Option<u64>| {
            let achieved = achieved.as_ref().map(|achieved| achieved.get(&group.group).and_then(of));
            achieved.map_or(String::new(), age)
        };
        table.row([
            group.group.to_string(),
            state(group.state).to_owned(),
            age(group.age_milliseconds),
            age(Some(group.objective_milliseconds)),
            reached(|achieved| achieved.age_p99_milliseconds),
            reached(|achieved| achieved.age_max_milliseconds),
            group.newest.as_ref().map_or("-".to_owned(), |newest| newest.point.to_string()),
            group
                .proven
                .as_ref()
                .map_or("-".to_owned(), |proven| format!("{} by {}", age(group.proven_age_milliseconds), proven.by)),
            now(group, *at),
        ]);
    }
    text += &if table.is_empty() { "There are no groups: nothing is protected.\n".to_owned() } else { table.render() };
    text
}

fn render_daemon(daemon: &DaemonStatus, at: Timestamp) -> String {
    let DaemonStatus { version, process, started_at, waits_for, is_stopping, configuration } = daemon;
    let since = human::duration(at.since(*started_at));
    let stopping = if *is_stopping { ", stopping" } else { "" };
    let mut text = format!("Daemon {version}, process {process}, for {since}{stopping}.\n");
    if let Some(why) = &configuration.refused {
        text += &format!("The configuration's file is not taken as it is now: {why}\n");
    }
    waits_for.iter().for_each(|waited| text += &format!("Waits for {waited}\n"));
    text
}

const fn urgency(state: GroupState) -> u8 {
    match state {
        GroupState::Hurt | GroupState::Late => 0,
        GroupState::Unprotected => 1,
        GroupState::Unknown => 2,
        GroupState::Paused => 3,
        GroupState::Ok => 4,
    }
}

const fn state(state: GroupState) -> &'static str {
    match state {
        GroupState::Ok => "ok",
        GroupState::Late => "LATE",
        GroupState::Paused => "PAUSED",
        GroupState::Hurt => "HURT",
        GroupState::Unprotected => "UNPROTECTED",
        GroupState::Unknown => "UNKNOWN",
    }
}

fn now(group: &GroupStatus, at: Timestamp) -> String {
    let mut parts = Vec::new();
    match &group.activity {
        Activity::None => {}
        Activity::Waiting { due_in_milliseconds: 0 } => parts.push("waits for its turn".to_owned()),
        Activity::Waiting { due_in_milliseconds } => {
            parts.push(format!("next in {}", human::duration(Duration::from_millis(*due_in_milliseconds))));
        }
        Activity::Replicating { running_milliseconds, read_bytes, doing } => {
            let running = human::duration(Duration::from_millis(*running_milliseconds));
            let doing = if doing.is_empty() { String::new() } else { format!(": {doing}") };
            parts.push(format!("replicates for {running}, {} read{doing}", human::bytes(*read_bytes)));
        }
    }
    if let Some(until) = group.blackout_until {
        parts.insert(0, format!("blackout until {until}"));
    }
    if let Some(SpooledStatus { points, bytes, why }) = &group.spooled {
        let (noun, verb) = if *points == 1 { ("point", "waits") } else { ("points", "wait") };
        let why = why.as_ref().map_or(String::new(), |why| format!(": {why}"));
        parts.push(format!("{points} {noun} ({}) {verb} here for the vault{why}", human::bytes(*bytes)));
    }
    parts.extend(group.suspended.iter().map(|suspended| {
        let SuspendedStatus { machine, since, code, message, captured_at } = suspended;
        let part = captured_at
            .map_or("no point has it".to_owned(), |captured| format!("its part is of {}", human::age(captured, at)));
        format!("{machine} suspended for {}, {part}: [{code}] {message}", human::duration(at.since(*since)))
    }));
    // Without a daemon only the point tells it.
    let behind = group.newest.iter().flat_map(|newest| &newest.behind);
    let untold = behind.filter(|behind| !group.suspended.iter().any(|known| known.machine == behind.machine));
    parts.extend(untold.map(|MachineBehind { machine, captured_at }| {
        format!("{machine} was suspended, its part is of {}", human::age(*captured_at, at))
    }));
    if let Some(Failing { failures, since, code, message, is_final }) = &group.failing {
        let times = if *failures == 1 { " once".to_owned() } else { format!(" {failures} times") };
        let more = if *is_final { "; no later try helps" } else { "" };
        parts.push(format!("failed{times}, for {}: [{code}] {message}{more}", human::duration(at.since(*since))));
    }
    parts.join("; ")
}
