//! `vault prove`.

use std::path::{Path, PathBuf};

use farshore_core::GroupName;
use farshore_vault::{Error as VaultError, ProveOptions, ProveReport, Prover, ProverState, Vault};
use serde::Serialize;

use super::check::{render_closed, render_findings};
use crate::{
    arguments::ProveArguments,
    context::Context,
    error::CliError,
    output::{Failure, human},
    vault::{self, Needs},
};

/// A line of `--watch`.
#[derive(Serialize)]
struct Line<'a> {
    at: farshore_core::Timestamp,
    #[serde(flatten)]
    turn: Turn<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Turn<'a> {
    Done(&'a ProveReport),
    Failed { error: Failure },
}

/// Runs it.
pub async fn run(context: &Context, arguments: &ProveArguments) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let vault = vault::open(context, &configuration, Needs::Powers(&[])).await?;
    let file = crate::command::state_folder(&configuration)?.join(format!("prover-{}.json", vault.id()));
    let options = ProveOptions { window: arguments.every, sample: arguments.sample };
    if arguments.watch {
        return watch(context, vault.prover(options, read_state(context, &file))?, &file).await;
    }
    // Who asks once wants to know of everything now.
    let mut prover = vault.prover(options, ProverState::default())?;
    let report = context.until_stopped("what was seen is not kept", prover.turn()).await??;
    keep_state(context, &prover, &file);
    context.output.result(&report, || render(&report))?;
    finish(context, &vault, &report)
}

fn finish(context: &Context, vault: &Vault, report: &ProveReport) -> Result<(), Failure> {
    tell(context, report);
    tracing::debug!(vault = %vault.id(), objects = report.objects_seen, "proven");
    match report.findings.len() {
        0 => Ok(()),
        count => Err(CliError::Lost { count, points: hurt_points(report) }.into()),
    }
}

/// Turn by turn, until a signal comes.
async fn watch(context: &Context, mut prover: Prover, file: &Path) -> Result<(), Failure> {
    let left = "what was seen is kept; the next `vault prove --watch` goes on there";
    loop {
        let result = context.until_stopped(left, prover.turn()).await?;
        let at = context.clock.now();
        match result {
            Ok(report) => {
                keep_state(context, &prover, file);
                tell(context, &report);
                let human = || format!("{at}  {}", render(&report).trim_end());
                context.output.line(&Line { at, turn: Turn::Done(&report) }, human)?;
            }
            // The store may be back at the next turn; what was due then is due again.
            Err(error @ VaultError::Store { .. }) => {
                let error = Failure::from(error);
                let human = format!("{at}  nothing could be proven: {}", error.message);
                context.output.line(&Line { at, turn: Turn::Failed { error } }, || human)?;
            }
            Err(error) => return Err(error.into()),
        }
        context.until_stopped(left, context.clock.sleep(prover.turn_length())).await?;
    }
}

/// What somebody must look at.
fn tell(context: &Context, report: &ProveReport) {
    for finding in &report.findings {
        let points = finding.points.len();
        tracing::error!(object = %finding.object, code = %finding.code, points, "lost: {}", finding.problem);
    }
    if let Some(why) = &report.not_kept {
        context.output.warn(&format!("what was proven could not be kept with the points: {why}"));
    }
}

fn hurt_points(report: &ProveReport) -> usize {
    let points = report.findings.iter().flat_map(|finding| &finding.points);
    points.map(|point| (&point.group, point.sequence)).collect::<std::collections::BTreeSet<(&GroupName, _)>>().len()
}

/// The state of the last process; none, with a remark, if it cannot be read: it is a cache, and everything is seen at once then.
fn read_state(context: &Context, file: &Path) -> ProverState {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return ProverState::default(),
        Err(error) => {
            context.output.warn(&format!("{} cannot be read, so everything is looked at now: {error}", file.display()));
            return ProverState::default();
        }
    };
    serde_json::from_str(&text).unwrap_or_else(|error| {
        context.output.warn(&format!("{} makes no sense, so everything is looked at now: {error}", file.display()));
        ProverState::default()
    })
}

fn keep_state(context: &Context, prover: &Prover, file: &Path) {
    let new = PathBuf::from(format!("{}.new", file.display()));
    let text = serde_json::to_string(prover.state()).map_err(std::io::Error::other);
    // A file that is cut short by a power failure is only a cache lost.
    if let Err(error) = text.and_then(|text| std::fs::write(&new, text)).and_then(|()| std::fs::rename(&new, file)) {
        context.output.warn(&format!("{} cannot be written: {error}", file.display()));
    }
}

fn render(report: &ProveReport) -> String {
    let mut text = render_findings(&report.findings);
    text.push_str(&format!(
        "{} points, {} objects seen, {} read, {} proofs kept: {}.\n",
        report.points,
        report.objects_seen,
        human::bytes(report.bytes_read),
        report.proofs_written,
        if report.findings.is_empty() { "all that was due is there" } else { "something is lost" },
    ));
    if !report.closed.is_empty() {
        text.push_str(&render_closed(report.closed.len()));
        if report.findings.is_empty() {
            text.push_str("Nothing is wrong in what was looked at.\n");
        }
    }
    text
}
