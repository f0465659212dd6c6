//! `vault check`.

use std::sync::Mutex;

use farshore_vault::{CheckDepth, CheckFinding, CheckProgress, CheckReport, HurtPoint, Power, Vault};

use crate::{
    arguments::CheckArguments,
    context::Context,
    error::CliError,
    output::{Failure, Progress, human},
    vault::{self, Needs},
};

/// So many lost extents of a point are shown; `--json` has more.
const EXTENTS_SHOWN_MAX: usize = 8;

/// Runs it.
pub async fn run(context: &Context, arguments: &CheckArguments) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let depth = arguments.depth();
    let needs: &[Power] = if depth == CheckDepth::Structure { &[] } else { &[Power::Recoverer] };
    let vault = vault::open(context, &configuration, Needs::Powers(needs)).await?;
    let progress = Progress::new(context.output);
    progress.begin("reading the vault", None);
    let told = Mutex::new(0);
    let report_progress = |now: &CheckProgress| {
        let mut told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        progress.advance(now.bytes_read.saturating_sub(*told));
        *told = now.bytes_read;
    };
    let checking = vault.check(depth, &report_progress);
    let report = context.until_stopped("nothing was changed", checking).await??;
    progress.pause();
    keep(context, &vault, &report).await?;
    context.output.result(&report, || render(&report))?;
    match report.findings.len() {
        0 => Ok(()),
        count => Err(CliError::Damage { count }.into()),
    }
}

/// Keeps what was proven with the points. That a store may only be read does not make the check fail.
pub async fn keep(context: &Context, vault: &Vault, report: &CheckReport) -> Result<(), Failure> {
    if !vault.may_record(report.depth) {
        return Ok(());
    }
    let left = "some of what was proven is kept with the points, the rest is not";
    if let Err(error) = context.until_stopped(left, vault.record(report)).await? {
        context.output.warn(&format!("what was proven could not be kept with the points: {error}"));
    }
    Ok(())
}

/// The findings, and whom each hurts.
pub fn render_findings(findings: &[CheckFinding]) -> String {
    let mut text = String::new();
    for finding in findings {
        text.push_str(&format!("{} [{}]\n  {}\n", finding.object, finding.code, finding.problem));
        finding.points.iter().for_each(|hurt| text.push_str(&render_hurt(hurt)));
        if finding.points.is_empty() {
            text.push_str("  no recovery point needs it\n");
        }
    }
    text
}

fn render_hurt(hurt: &HurtPoint) -> String {
    if hurt.machines.is_empty() && hurt.items.is_empty() {
        return format!("  hurts point {} of group {}: all of it\n", hurt.sequence, hurt.group);
    }
    let machines: Vec<&str> = hurt.machines.iter().map(|machine| machine.as_str()).collect();
    let disks = (!machines.is_empty()).then(|| format!("{} of {}", human::bytes(hurt.bytes), machines.join(", ")));
    let items = hurt.items.iter().map(|item| format!("{item} of its capsule"));
    let hurts: Vec<String> = disks.into_iter().chain(items).collect();
    let mut text = format!("  hurts point {} of group {}: {}\n", hurt.sequence, hurt.group, hurts.join(", "));
    for extent in hurt.extents.iter().take(EXTENTS_SHOWN_MAX) {
        let end = extent.start.saturating_add(extent.length);
        text.push_str(&format!("    {} {}: bytes {} to {end}\n", extent.machine, extent.disk, extent.start));
    }
    if hurt.extents.len() > EXTENTS_SHOWN_MAX {
        text.push_str("    and more, as --json tells\n");
    }
    text
}

fn render(report: &CheckReport) -> String {
    let mut text = render_findings(&report.findings);
    let depth = match report.depth {
        CheckDepth::Structure => {
            "what leads to the data; `--depth sample` reads a part of it, `--depth full` all".to_owned()
        }
        CheckDepth::Sample(size) => format!("what leads to the data, and a sample of it ({size})"),
        CheckDepth::Full => "everything".to_owned(),
    };
    text.push_str(&format!(
        "{} points, {} objects, {} read, {} frames opened: checked {depth}.\n",
        report.points_checked,
        report.objects_checked,
        human::bytes(report.bytes_read),
        report.frames_verified,
    ));
    if report.findings.is_empty() {
        text.push_str("Nothing is wrong.\n");
    }
    text
}
