//! `drill`, and what it shares with `failover`: opening sites, planning, executing, the report.

use std::sync::Arc;

use farshore_core::{MachineId, SiteName, Timestamp};
use farshore_failover::{
    Execution, FailoverError, FailoverPlan, MachineReport, PlanRequest, RunKind, RunOutcome, RunReport, plan,
};
use farshore_platform::{ReadinessLevel, Source, Target};
use farshore_plugin::Mode;
use farshore_vault::{MachineBehind, Power, ProofClaim, ProofKind, Vault};

use crate::{
    adapters::Adapters,
    arguments::{DrillArguments, PointChoice, ReadinessArguments, Until},
    config::{Configuration, Group, reach},
    context::Context,
    error::CliError,
    observers::{Shown, level},
    output::{Failure, Table, human},
    vault::{self, Needs},
};

/// Runs it.
pub async fn run(context: &Context, arguments: &DrillArguments) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let group = configuration.group(&arguments.group)?;
    let vault = vault::open(context, &configuration, Needs::Powers(&[Power::Recoverer, Power::Controller])).await?;
    let mut adapters = Adapters::new(context, &configuration)?;
    let ask = Ask {
        kind: RunKind::Drill,
        point: arguments.point,
        machines: &arguments.machine,
        readiness: arguments.readiness,
        attestation: None,
        discard_recovered: false,
    };
    // A drill is never given a way to the source.
    let target = open_target(&mut adapters, &configuration, group, &arguments.group, Mode::Drill).await?;
    let plan = make_plan(context, &vault, &arguments.group, &ask, None, &*target).await?;
    tell_remarks(context, &plan);
    let until = arguments.readiness.until;
    let report = execute(context, &configuration, Arc::clone(&vault), &plan, ask, group, None, target).await?;
    keep_proof(context, &vault, &report, until).await?;
    finish(context, &report)
}

/// A drill that brought up every machine of its point, and whose guests themselves answered, proves the point.
async fn keep_proof(context: &Context, vault: &Vault, report: &RunReport, until: Until) -> Result<(), Failure> {
    if report.outcome != RunOutcome::Succeeded || until != Until::Ready {
        return Ok(());
    }
    let lineage = super::lineage(vault, &report.group).await?;
    let point = lineage.point(report.point).await?;
    if !point.machines.iter().all(|held| report.machines.iter().any(|machine| machine.machine == held.machine.id)) {
        return Ok(());
    }
    let claim = ProofClaim {
        what: ProofKind::Drill,
        begun_at: report.began_at,
        ended_at: report.ended_at,
        bytes_read: report.machines.iter().fold(0, |sum, machine| sum.saturating_add(machine.written_bytes)),
        hurt: None,
    };
    super::keep_proof(context, &lineage, report.point, claim).await
}

/// What is asked of a run.
pub struct Ask<'a> {
    /// What it is for.
    pub kind: RunKind,
    /// Which point.
    pub point: PointChoice,
    /// Which machines.
    pub machines: &'a [MachineId],
    /// How far they must come.
    pub readiness: ReadinessArguments,
    /// Who says that the source is off.
    pub attestation: Option<String>,
    /// What earlier failovers started may be removed.
    pub discard_recovered: bool,
}

/// Opens a group's recovery site.
pub async fn open_target(
    adapters: &mut Adapters,
    configuration: &Configuration,
    group: &Group,
    name: &farshore_core::GroupName,
    mode: Mode,
) -> Result<Arc<dyn Target>, Failure> {
    let site = group.recovery_site.as_ref();
    let site = site.ok_or_else(|| CliError::NoRecoverySite { group: name.to_string() })?;
    Ok(adapters.open(configuration, site, mode).await?)
}

/// Plans a run. Nothing is done yet.
pub async fn make_plan(
    context: &Context,
    vault: &Vault,
    group: &farshore_core::GroupName,
    ask: &Ask<'_>,
    source: Option<Arc<dyn Source>>,
    target: &dyn Target,
) -> Result<FailoverPlan, Failure> {
    let request = PlanRequest {
        vault,
        kind: ask.kind,
        group,
        point: super::chosen(ask.point),
        machines: ask.machines,
        source,
        target,
        clock: &*context.clock,
        discard_recovered: ask.discard_recovered,
    };
    Ok(context.until_stopped("nothing was done", plan(request)).await??)
}

/// Tells what the target says that does not stand in the way.
pub fn tell_remarks(context: &Context, plan: &FailoverPlan) {
    for remark in &plan.remarks {
        context.output.warn(remark);
    }
}

/// Executes a plan to its report.
#[expect(clippy::too_many_arguments, reason = "each is a part of the run, and none is optional")]
pub async fn execute(
    context: &Context,
    configuration: &Configuration,
    vault: Arc<Vault>,
    plan: &FailoverPlan,
    ask: Ask<'_>,
    group: &Group,
    source: Option<Arc<dyn Source>>,
    target: Arc<dyn Target>,
) -> Result<RunReport, Failure> {
    let shown = Arc::new(Shown::with_progress(context.output));
    let execution = Execution {
        vault,
        source,
        target,
        state_folder: super::state_folder(configuration)?,
        clock: Arc::clone(&context.clock),
        entropy: Arc::clone(&context.entropy),
        observer: Arc::clone(&shown) as _,
        readiness: match ask.readiness.until {
            Until::Running => ReadinessLevel::Running,
            Until::Ready => ReadinessLevel::Ready,
        },
        readiness_limit: ask.readiness.until_limit,
        attestation: ask.attestation,
        drill_reaches: drill_reaches(configuration, ask.kind, group)?,
    };
    let source_site: &SiteName = &group.site;
    let result = execution.execute(plan, source_site, &context.stop).await;
    shown.end();
    match result {
        Err(FailoverError::Stopped) if context.stop.is_cancelled() => {
            Err(context.interrupted("`farshore run list` shows how far the run came; the same command goes on").into())
        }
        result => Ok(result?),
    }
}

/// What a drill at the group's recovery site could reach that is not a drill's.
fn drill_reaches(configuration: &Configuration, kind: RunKind, group: &Group) -> Result<Vec<String>, Failure> {
    match &group.recovery_site {
        Some(name) if kind == RunKind::Drill => {
            let shared = reach::drill_reaches(name, &configuration.sites);
            Ok(shared.iter().map(ToString::to_string).collect())
        }
        _ => Ok(Vec::new()),
    }
}

/// Shows the report, and fails if not all went well.
pub fn finish(context: &Context, report: &RunReport) -> Result<(), Failure> {
    context.output.result(report, || render(report, context.clock.now()))?;
    if context.stop.is_cancelled() {
        return Err(context.interrupted("the report says what was done and cleaned up").into());
    }
    if report.outcome == RunOutcome::Succeeded && report.leftovers.is_empty() {
        return Ok(());
    }
    let left = if report.leftovers.is_empty() { "" } else { ", and left something behind" };
    let what = format!("the {} of group {} {}{left}", report.kind, report.group, ended(report.outcome));
    Err(CliError::EndedWithErrors { what }.into())
}

fn ended(outcome: RunOutcome) -> &'static str {
    match outcome {
        RunOutcome::Succeeded => "succeeded",
        RunOutcome::Partly => "brought back only some of the machines",
        RunOutcome::Failed => "failed",
    }
}

/// A report as a person reads it.
pub fn render(report: &RunReport, now: Timestamp) -> String {
    let took = report.ended_at.since(report.began_at);
    let mut lines = vec![
        ("run", format!("{}: {} of group {}", report.run, report.kind, report.group)),
        ("outcome", format!("{}, after {}", report.outcome, human::duration(took))),
        ("point", format!("{}, captured {}", report.point, human::time_and_age(report.captured_at, now))),
        ("sites", format!("{} -> {}", report.source, report.target)),
        ("loss", report.loss.clone()),
    ];
    let mut line = |name, text: Option<String>| lines.extend(text.map(|text| (name, text)));
    for MachineBehind { machine, captured_at } in &report.behind {
        line("older", Some(format!("machine {machine}, captured {}", human::time_and_age(*captured_at, now))));
    }
    line("recovery", report.seconds_to_recover.map(|seconds| format!("{seconds:.1} s to readiness")));
    line("fenced by", report.generation.map(|generation| format!("generation {generation}")));
    line("attested by", report.attestation.clone());
    line("isolation", report.isolation.clone());
    for fence in &report.fences {
        let text = match (&fence.proof, &fence.error) {
            (Some(proof), _) => format!("{} is off: {proof}", fence.machine),
            (None, error) => format!("{} may still run: {}", fence.machine, error.as_deref().unwrap_or("no proof")),
        };
        line("source", Some(text));
    }
    report.refusals.iter().for_each(|refusal| line("refused", Some(refusal.clone())));
    if report.kind == RunKind::Drill {
        let text = match (report.cleaned_up, report.leftovers.is_empty()) {
            (true, _) => "everything that the drill made is gone",
            (false, true) => "not done",
            (false, false) => "not all of it; the group's next drill tries again",
        };
        line("clean-up", Some(text.to_owned()));
    }
    report.leftovers.iter().for_each(|leftover| line("left behind", Some(leftover.clone())));
    let mut text: String = lines.into_iter().map(|(name, value)| format!("{name:<11}  {value}\n")).collect();
    text.push('\n');
    text.push_str(&machines(&report.machines));
    text
}

fn machines(reports: &[MachineReport]) -> String {
    let mut table = Table::new(&["MACHINE", "STATE", ">READY AFTER", ">WRITTEN", "RECOVERED AS", "EVIDENCE OR ERROR"]);
    for report in reports {
        let readiness = report.readiness.as_ref();
        let state = match readiness {
            Some(readiness) => level(readiness.level),
            None if report.left_running => "started, left as it is",
            None => "not recovered",
        };
        table.row([
            report.machine.to_string(),
            state.to_owned(),
            report.seconds_to_readiness.map(|seconds| format!("{seconds:.1} s")).unwrap_or_default(),
            human::bytes(report.written_bytes),
            report.recovered_id.clone().unwrap_or_default(),
            report.error.clone().or_else(|| readiness.map(|readiness| readiness.evidence.clone())).unwrap_or_default(),
        ]);
    }
    table.render()
}
