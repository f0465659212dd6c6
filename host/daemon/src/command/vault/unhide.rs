//! `vault unhide`.

use farshore_vault::{UnhidePlan, UnhideReport};

use crate::{
    arguments::UnhideArguments,
    context::Context,
    error::CliError,
    output::{Failure, human},
    vault,
};

/// The most objects that are named.
const NAMED_MAX: usize = 20;

/// Runs it. The vault is not opened: its header may be hidden too.
pub async fn run(context: &Context, arguments: &UnhideArguments) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let store = vault::store(context, &configuration)?;
    let left = "some objects may be shown again: run it once more";
    let plan = context.until_stopped(left, store.plan_unhide()).await??;
    if arguments.dry_run || plan.hidden.is_empty() {
        context.output.result(&plan, || render_plan(&plan, context))?;
        return match plan.hidden.len() {
            0 => Ok(()),
            1 => Err(CliError::EndedWithErrors { what: "1 object is hidden".to_owned() }.into()),
            count => Err(CliError::EndedWithErrors { what: format!("{count} objects are hidden") }.into()),
        };
    }
    let unhiding = store.unhide(plan, arguments.newer_versions, context.clock.now());
    let report = context.until_stopped(left, unhiding).await?;
    context.output.result(&report, || render_report(&report))?;
    match report.still_hidden.len() {
        0 => Ok(()),
        count => Err(CliError::EndedWithErrors { what: format!("{count} objects are still hidden") }.into()),
    }
}

fn render_plan(plan: &UnhidePlan, context: &Context) -> String {
    if plan.hidden.is_empty() {
        return "Nothing is hidden.\n".to_owned();
    }
    let now = context.clock.now();
    let mut text = format!("{} objects are hidden:\n", plan.hidden.len());
    for hidden in plan.hidden.iter().take(NAMED_MAX) {
        let since = human::time_and_age(hidden.hidden_at, now);
        text.push_str(&format!(
            "  {} at {}: {} delete markers and {} newer versions lie above it, the newest since {since}\n",
            hidden.object, hidden.address, hidden.markers, hidden.newer_versions
        ));
    }
    if plan.hidden.len() > NAMED_MAX {
        text.push_str("  and others; --json names all\n");
    }
    text
}

fn render_report(report: &UnhideReport) -> String {
    let mut text = format!(
        "{} objects can be read again; {} delete markers and newer versions were removed.\n",
        report.shown, report.removed
    );
    for still in report.still_hidden.iter().take(NAMED_MAX) {
        text.push_str(&format!("  {} is still hidden: {}\n", still.object, still.reason));
    }
    text
}
