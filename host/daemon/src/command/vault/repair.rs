//! `vault repair`.

use farshore_vault::{Address, CheckFinding, RepairPlan, RepairReport, Store, StoreOptions, Vault};
use serde::Serialize;

use super::check::render_findings;
use crate::{
    arguments::RepairArguments,
    context::Context,
    error::CliError,
    output::{Failure, human},
    vault::{self, Needs},
};

/// What was planned, and done.
#[derive(Serialize)]
struct Repaired {
    plan: RepairPlan,
    /// None if nothing was done.
    report: Option<RepairReport>,
}

impl Repaired {
    fn left(&self) -> &[CheckFinding] {
        self.report.as_ref().map_or(&self.plan.left, |report| &report.left)
    }
}

/// Runs it.
pub async fn run(context: &Context, arguments: &RepairArguments) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let copy = arguments.from.as_deref().map(|address| open_copy(address, arguments)).transpose()?;
    let vault = vault::open(context, &configuration, Needs::Powers(&[])).await?;
    let planning = vault.plan_repair(copy.as_ref());
    let plan = context.until_stopped("nothing was changed", planning).await??;
    let has_work = !plan.objects.is_empty() || !plan.uncopied.is_empty();
    let report = if has_work && (arguments.execute || context.yes) {
        // What is going to be done is told before it is done.
        context.output.remark(&render_plan(&plan));
        Some(execute(context, &vault, copy.as_ref(), &plan).await?)
    } else {
        None
    };
    let repaired = Repaired { plan, report };
    context.output.result(&repaired, || render(&repaired, copy.is_some()))?;
    if repaired.report.is_none() && !repaired.plan.findings.is_empty() {
        return Err(CliError::Damage { count: repaired.plan.findings.len() }.into());
    }
    match repaired.left().len() {
        0 => Ok(()),
        count => Err(CliError::Damage { count }.into()),
    }
}

/// The store with the copy. Its secrets come from the store's usual environment variables.
fn open_copy(address: &str, arguments: &RepairArguments) -> Result<Store, Failure> {
    let address: Address = address.parse()?;
    let options = arguments.option.iter().map(|(name, value)| (name.replace('-', "_"), value.clone()));
    Ok(Store::open(&address, &StoreOptions::from_env(options.collect()))?)
}

async fn execute(
    context: &Context,
    vault: &Vault,
    copy: Option<&Store>,
    plan: &RepairPlan,
) -> Result<RepairReport, Failure> {
    let left = "what was copied back stays, and nothing else was changed; the same command goes on";
    Ok(context.until_stopped(left, vault.repair(copy, plan)).await??)
}

fn render_plan(plan: &RepairPlan) -> String {
    let bytes = plan.objects.iter().fold(0u64, |sum, lost| sum.saturating_add(lost.bytes));
    let mut text = String::new();
    for lost in &plan.objects {
        text.push_str(&format!("  copy back {} ({})\n", lost.object, human::bytes(lost.bytes)));
    }
    for object in &plan.uncopied {
        text.push_str(&format!("  copy {object} to the address of the data\n"));
    }
    for object in &plan.refused {
        text.push_str(&format!("  not {object}: it is not right in the copy either\n"));
    }
    text.push_str(&format!(
        "{} objects, {}, are to be copied back; {} points are whole then that are hurt now.\n",
        plan.objects.len(),
        human::bytes(bytes),
        plan.healed.len(),
    ));
    text
}

fn render(repaired: &Repaired, has_copy: bool) -> String {
    let Repaired { plan, report } = repaired;
    if plan.findings.is_empty() {
        return "Nothing is missing. Stored data was not read: `farshore vault check --full` reads it. An object that it finds \
                damaged has to be moved aside in the store before it can be copied back.\n"
            .to_owned();
    }
    let mut text = String::new();
    match report {
        Some(report) => {
            let (objects, bytes) = (report.objects_copied, human::bytes(report.bytes_copied));
            text.push_str(&format!("{objects} objects, {bytes}, were copied back. Nothing was deleted.\n"));
            if report.objects_mirrored > 0 {
                text.push_str(&format!(
                    "{} objects were copied to the address of the data.\n",
                    report.objects_mirrored
                ));
            }
        }
        None if has_copy || !plan.uncopied.is_empty() => {
            text.push_str(&render_plan(plan));
            if !plan.objects.is_empty() || !plan.uncopied.is_empty() {
                text.push_str("Nothing was done; --execute does it.\n");
            }
        }
        None => text.push_str("Without a copy nothing can be copied back; --from names one.\n"),
    }
    let left = repaired.left();
    if left.is_empty() {
        text.push_str(match report {
            Some(_) => "All that recovery points need is there again, as far as a check of the structure tells.\n",
            None => "All that recovery points need would be there then, as far as a check of the structure tells.\n",
        });
        return text;
    }
    text.push_str("\nWhat stays lost:\n");
    text.push_str(&render_findings(left));
    text.push_str(
        "Points that are not named have all their objects; stored data was not read. An object that is damaged can be \
         replaced only after it was moved aside in the store, by its owner: run this again then. Unchanged parts of a disk \
         are not sent again by replication; to have a machine whole without what is lost, protect it under a new group \
         name.\n",
    );
    text
}
