//! `vault prune`.

use std::time::Duration;

use farshore_core::{Coded as _, GroupName};
use farshore_vault::{Amount, Error as VaultError, Grace, Lineage, Power, PrunePlan, PruneReport, Retention};
use serde::Serialize;

use crate::{
    arguments::PruneArguments,
    config::{Configuration, format_duration},
    context::Context,
    error::CliError,
    output::{Failure, human},
    vault::{self, Needs},
};

/// How often a prune is planned anew because pins or another prune came between.
const RACES_MAX: usize = 8;

/// What was planned for one group, and done.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// With `--dry-run`, and when there is nothing to do.
    Planned(Box<PrunePlan>),
    Done(PruneReport),
    /// Nothing was ever replicated.
    NoPoints {},
    Failed(String),
}

#[derive(Serialize)]
struct Pruned {
    group: GroupName,
    #[serde(flatten)]
    outcome: Outcome,
}

/// Runs it.
pub async fn run(context: &Context, arguments: &PruneArguments) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let chosen = choose(&configuration, &arguments.groups)?;
    let vault = vault::open(context, &configuration, Needs::Powers(&[Power::Pruner])).await?;
    let left = "what was begun is finished by the next prune; nothing that a point needs was touched";
    let mut all = Vec::new();
    for (group, retention) in chosen {
        let pruning = async {
            match vault.lineage(&group).await? {
                Some(lineage) => prune(&lineage, &retention, arguments).await,
                None => Ok(Outcome::NoPoints {}),
            }
        };
        // A group that cannot be pruned keeps no other from it.
        let outcome = context.until_stopped(left, pruning).await?.unwrap_or_else(|error| failed(&error));
        all.push(Pruned { group, outcome });
    }
    context.output.result(&all, || all.iter().map(|pruned| render(pruned, arguments.grace)).collect())?;
    match all.iter().filter(|pruned| !pruned.went_well()).count() {
        0 => Ok(()),
        count => {
            Err(CliError::EndedWithErrors { what: format!("{count} of {} groups were not wholly pruned", all.len()) }
                .into())
        }
    }
}

impl Pruned {
    fn went_well(&self) -> bool {
        match &self.outcome {
            Outcome::Planned(_) | Outcome::NoPoints {} => true,
            Outcome::Done(report) => report.problems.is_empty() && report.not_stored.is_none(),
            Outcome::Failed(_) => false,
        }
    }
}

fn failed(error: &VaultError) -> Outcome {
    let advice = error.advice().map(|advice| format!("; {advice}")).unwrap_or_default();
    Outcome::Failed(format!("[{}] {error}{advice}", error.code()))
}

fn choose(configuration: &Configuration, named: &[GroupName]) -> Result<Vec<(GroupName, Retention)>, CliError> {
    if named.is_empty() {
        let groups = configuration.groups.iter();
        let chosen: Vec<_> = groups.filter_map(|(name, group)| Some((name.clone(), group.retention?.into()))).collect();
        return if chosen.is_empty() { Err(CliError::NothingToPrune) } else { Ok(chosen) };
    }
    let rules = |name: &GroupName| {
        let retention = configuration.group(name)?.retention;
        let missing = || CliError::NoRetention { group: name.to_string() };
        Ok((name.clone(), retention.ok_or_else(missing)?.into()))
    };
    named.iter().map(rules).collect()
}

async fn prune(lineage: &Lineage, retention: &Retention, arguments: &PruneArguments) -> Result<Outcome, VaultError> {
    let mut races = 0;
    loop {
        let plan = lineage.plan_prune(retention, arguments.grace).await?;
        if arguments.dry_run || plan.is_empty() {
            return Ok(Outcome::Planned(Box::new(plan)));
        }
        match lineage.prune(plan).await {
            Err(VaultError::LostRace { .. }) if races < RACES_MAX => races += 1,
            report => return report.map(Outcome::Done),
        }
    }
}

fn amount(amount: Amount) -> String {
    format!("{} in {} objects", human::bytes(amount.bytes), amount.objects)
}

fn render(pruned: &Pruned, grace: Grace) -> String {
    let group = &pruned.group;
    match &pruned.outcome {
        Outcome::NoPoints {} => format!("{group}: it has no recovery points yet.\n"),
        Outcome::Failed(problem) => format!("{group}: not pruned: {problem}\n"),
        Outcome::Planned(plan) if plan.is_empty() => {
            format!("{group}: {} points stand, and nothing is to be done.\n", plan.points_kept)
        }
        Outcome::Planned(plan) => render_plan(plan),
        Outcome::Done(report) => render_report(report, grace),
    }
}

fn render_plan(plan: &PrunePlan) -> String {
    let mut text = format!(
        "{}: {} points would stand, {} would be given up{}\n",
        plan.group,
        plan.points_kept,
        plan.dropped.len(),
        match plan.revived.len() {
            0 => String::new(),
            count => format!(", and {count} that were given up would come back"),
        },
    );
    for point in &plan.dropped {
        text.push_str(&format!("  point {}, which the store received at {}\n", point.sequence, point.received_at));
    }
    for pin in &plan.pins {
        text.push_str(&format!("  point {} stands because run {} has pinned it\n", pin.point, pin.run));
    }
    text.push_str(&format!("  would be condemned:           {}\n", amount(plan.condemned)));
    text.push_str(&format!("  would be moved together from: {}\n", amount(plan.collected)));
    text.push_str(&format!("  waits for its grace:          {}\n", amount(plan.waiting)));
    text.push_str(&format!("  would be deleted:             {}\n", amount(plan.deleted)));
    text
}

fn render_report(report: &PruneReport, grace: Grace) -> String {
    let mut text = format!("{}: {} points were given up", report.group, report.points_dropped);
    if report.points_revived > 0 {
        text.push_str(&format!(", {} came back", report.points_revived));
    }
    text.push_str(&format!("; {} were deleted", amount(report.deleted)));
    if report.condemned.objects > 0 {
        let time = format_duration(Duration::from_secs(grace.seconds));
        let waits = match (grace.seconds, grace.commits) {
            (0, 0) => "by the next prune".to_owned(),
            (_, commits) => format!("by a prune after {time} and {commits} commits"),
        };
        text.push_str(&format!("; {} will be, {waits}", amount(report.condemned)));
    }
    text.push_str(".\n");
    if report.still_locked.objects > 0 {
        let locked = amount(report.still_locked);
        text.push_str(&format!("  {locked} are still locked in the store: a later prune deletes them\n"));
    }
    for problem in report.problems.iter().chain(&report.not_stored) {
        text.push_str(&format!("  left where it is: {problem}\n"));
    }
    text
}
