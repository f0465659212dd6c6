//! `vault check`.

use std::{collections::BTreeSet, sync::Mutex};

use farshore_core::GroupName;
use farshore_vault::{CheckDepth, CheckFinding, CheckProgress, CheckReport, Closes, HurtPoint, Means, Power, Vault};
use serde::Serialize;

use crate::{
    arguments::CheckArguments,
    config::Configuration,
    context::Context,
    error::CliError,
    output::{Failure, Progress, human},
    vault::{self, Needs},
};

/// So many lost extents of a point are shown; `--json` has more.
const EXTENTS_SHOWN_MAX: usize = 8;

/// What the check found, and what is not there to be checked.
#[derive(Serialize)]
struct Checked {
    #[serde(flatten)]
    report: CheckReport,
    /// Groups of the configuration of which the vault has nothing: new ones, or ones that were wholly deleted.
    groups_without_points: Vec<GroupName>,
}

/// Runs it.
pub async fn run(context: &Context, arguments: &CheckArguments) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let depth = arguments.depth();
    let needs: &[Power] = if depth == CheckDepth::Structure { &[] } else { &[Power::Recoverer] };
    let vault = vault::open(context, &configuration, Needs::Powers(needs)).await?;
    let listing = groups_without_points(&configuration, &vault);
    let groups_without_points = context.until_stopped("nothing was changed", listing).await??;
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
    let checked = Checked { report, groups_without_points };
    // What was found is told before anything else can fail or be interrupted.
    context.output.result(&checked, || render(&checked))?;
    let kept = keep(context, &vault, &checked.report).await;
    match checked.report.findings.len() {
        0 => kept,
        count => {
            if let Err(failure) = kept {
                context.output.warn(&failure.message);
            }
            Err(CliError::Damage { count }.into())
        }
    }
}

async fn groups_without_points(configuration: &Configuration, vault: &Vault) -> Result<Vec<GroupName>, Failure> {
    let listed: BTreeSet<_> = vault.list_lineages().await?.into_iter().map(|(id, _)| id).collect();
    let groups = configuration.groups.keys();
    Ok(groups.filter(|group| !listed.contains(&vault.lineage_id(group))).cloned().collect())
}

/// Keeps what was proven with the points. That a store may only be read does not make the check fail.
async fn keep(context: &Context, vault: &Vault, report: &CheckReport) -> Result<(), Failure> {
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
        match finding.closes {
            Some(Closes::Lineage(lineage)) => {
                text.push_str(&format!("  hurts every point of lineage {lineage}: nobody can open them without it\n"));
            }
            Some(Closes::Vault) => text.push_str("  hurts all that was sealed with the keys in it\n"),
            None => {}
        }
        match finding.means {
            Some(Means::BrokenChain) => text.push_str(
                "  it was not written on top of the commit before it that is there: one of the two was exchanged, or the store \
                 was put back to an older state and written to again. Both can be read, and no point is hurt by that alone; look \
                 which of them is the true one before more is written\n",
            ),
            Some(Means::WrongState) => text.push_str(
                "  what is captured may sign such commits. No point is hurt by it, and a prune keeps what was pinned; look whether the group \
                 is where it should be (`farshore points`, `farshore vault pin list`), and shut the host out (`farshore vault join revoke`) if it \
                 is not yours any more\n",
            ),
            Some(Means::NoNewest(lineage)) => text.push_str(&format!(
                "  nothing can be added to lineage {lineage}, or pruned, before it is right again; which points it has is told by \
                 what was true before\n"
            )),
            Some(Means::NotAtBoth) => text.push_str(
                "  points are read with both addresses of the vault; from that of the data alone something may be missing\n",
            ),
            None if finding.points.is_empty() && finding.closes.is_none() => {
                text.push_str("  no recovery point needs it\n");
            }
            None => {}
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

fn render(checked: &Checked) -> String {
    let Checked { report, groups_without_points } = checked;
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
    text.push_str(&render_closed(report.closed.len()));
    for group in groups_without_points {
        text.push_str(&format!("group {group} of the configuration has no recovery points in the vault\n"));
    }
    if report.findings.is_empty() {
        let is_all = report.closed.is_empty() && groups_without_points.is_empty();
        text.push_str(if is_all { "Nothing is wrong.\n" } else { "Nothing is wrong in what was looked at.\n" });
    }
    text
}

/// The groups that could not be looked at; empty if all were.
pub fn render_closed(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => "1 group was not looked at: this host has no key to it.\n".to_owned(),
        count => format!("{count} groups were not looked at: this host has no key to them.\n"),
    }
}
