//! `run list|show`.

use farshore_core::{RunId, Timestamp};
use farshore_failover::{FenceReport, RunHead, RunReport, RunState, RunSummary, list_runs, load_run};
use farshore_vault::{Power, Vault};
use serde::Serialize;

use super::drill::render as render_report;
use crate::{
    arguments::RunCommand,
    context::Context,
    error::CliError,
    output::{Failure, Table, human},
    vault::{self, Needs},
};

/// How many of the newest runs are looked through for one whose id was shortened.
const SEARCH_RUNS_MAX: usize = 10_000;

/// Runs it.
pub async fn run(context: &Context, command: &RunCommand) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let vault = vault::open(context, &configuration, Needs::Powers(&[Power::Controller])).await?;
    match command {
        RunCommand::List { limit } => list(context, &vault, usize::try_from(*limit).unwrap_or(usize::MAX)).await,
        RunCommand::Show { run } => show(context, &vault, run).await,
    }
}

#[derive(Serialize)]
struct Listed {
    run: RunId,
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<RunHead>,
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

impl From<RunSummary> for Listed {
    fn from(RunSummary { run, state }: RunSummary) -> Self {
        match state {
            Ok(state) => Self { run, status: status(&state), head: Some(state.head), error: None },
            Err(error) => Self { run, status: "unreadable".to_owned(), head: None, error: Some(error.into()) },
        }
    }
}

fn status(state: &RunState) -> String {
    state.outcome().map_or_else(|| "not ended".to_owned(), |outcome| outcome.to_string())
}

async fn list(context: &Context, vault: &Vault, limit: usize) -> Result<(), Failure> {
    let runs = context.until_stopped("nothing was changed", list_runs(vault, limit)).await??;
    let runs: Vec<Listed> = runs.into_iter().map(Listed::from).collect();
    context.output.result(&runs, || render_list(&runs, context.clock.now()))?;
    Ok(())
}

fn render_list(runs: &[Listed], now: Timestamp) -> String {
    let mut table = Table::new(&["RUN", "KIND", "GROUP", ">POINT", "BEGAN", "SITES", "STATUS"]);
    for Listed { run, head, status, error } in runs {
        let text = |of: &dyn Fn(&RunHead) -> String| head.as_ref().map(of).unwrap_or_default();
        table.row([
            run.to_string(),
            text(&|head| head.kind.to_string()),
            text(&|head| head.group.to_string()),
            text(&|head| head.point.to_string()),
            text(&|head| human::time_and_age(head.began_at, now)),
            text(&|head| format!("{} -> {}", head.source, head.target)),
            error.as_ref().map_or_else(|| status.clone(), |error| format!("unreadable: {}", error.message)),
        ]);
    }
    if table.is_empty() { "There are no runs yet.\n".to_owned() } else { table.render() }
}

#[derive(Serialize)]
struct Shown<'a> {
    head: &'a RunHead,
    status: String,
    generation: Option<farshore_core::Generation>,
    fences: &'a [FenceReport],
    machines: Vec<ShownMachine>,
    report: Option<&'a RunReport>,
}

#[derive(Serialize)]
struct ShownMachine {
    machine: farshore_core::MachineId,
    steps: Vec<String>,
}

async fn show(context: &Context, vault: &Vault, text: &str) -> Result<(), Failure> {
    let run = match text.parse() {
        Ok(run) => run,
        Err(_) => find(vault, text).await?,
    };
    let state = load_run(vault, run).await?;
    let machines = state
        .machines
        .keys()
        .map(|machine| ShownMachine { machine: machine.clone(), steps: steps(&state, machine) })
        .collect();
    let shown = Shown {
        head: &state.head,
        status: status(&state),
        generation: state.generation,
        fences: &state.fences,
        machines,
        report: state.report.as_ref(),
    };
    context.output.result(&shown, || render_shown(&shown, context.clock.now()))?;
    Ok(())
}

/// The one run whose id begins so.
async fn find(vault: &Vault, beginning: &str) -> Result<RunId, Failure> {
    let runs = vault.runs(SEARCH_RUNS_MAX).await?;
    let mut found = runs.into_iter().filter(|run| run.to_string().starts_with(beginning));
    match (found.next(), found.next()) {
        (Some(run), None) => Ok(run),
        (None, _) => Err(CliError::NoSuchRun { text: beginning.to_owned(), why: "no run begins with it" }.into()),
        (Some(_), Some(_)) => {
            Err(CliError::NoSuchRun { text: beginning.to_owned(), why: "several runs begin with it" }.into())
        }
    }
}

/// What the journal says was done for a machine, in order.
fn steps(state: &RunState, machine: &farshore_core::MachineId) -> Vec<String> {
    let Some(progress) = state.machines.get(machine) else { return Vec::new() };
    let mut steps = Vec::new();
    for (disk, made) in &progress.disks {
        let step = match (made.sealed, made.restored) {
            (sealed, Some((bytes, milliseconds))) => format!(
                "disk {disk}: {} written in {}{}",
                human::bytes(bytes),
                human::duration(std::time::Duration::from_millis(milliseconds)),
                if sealed { ", sealed" } else { "" }
            ),
            (_, None) if made.state.is_some() => format!("disk {disk}: made, not written"),
            _ => format!("disk {disk}: about to be made"),
        };
        steps.push(step);
    }
    if let Some(id) = &progress.id {
        steps.push(format!("machine {id}: {}", if progress.defined { "made" } else { "about to be made" }));
    }
    steps.extend(progress.start_intended_at.map(|at| format!("start asked for at {at}")));
    steps.extend(progress.up.as_ref().map(|(readiness, at)| format!("up at {at}: {}", readiness.evidence)));
    steps.extend(progress.error.as_ref().map(|error| format!("failed: {error}")));
    steps
}

fn render_shown(shown: &Shown<'_>, now: Timestamp) -> String {
    let head = shown.head;
    let mut text = match shown.report {
        Some(report) => render_report(report, now),
        None => format!(
            "run {}: {} of group {}, {}\nbegan {}; point {}, captured {}; {} -> {}\n",
            head.run,
            head.kind,
            head.group,
            shown.status,
            human::time_and_age(head.began_at, now),
            head.point,
            human::time_and_age(head.captured_at, now),
            head.source,
            head.target,
        ),
    };
    for ShownMachine { machine, steps } in &shown.machines {
        text.push_str(&format!("\n{machine}\n"));
        text.extend(steps.iter().map(|step| format!("  {step}\n")));
    }
    text
}
