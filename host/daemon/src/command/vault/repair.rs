//! `vault repair`.

use farshore_vault::{Address, CheckDepth, CheckFinding, RepairPlan, RepairReport, Store, StoreOptions, Vault};
use serde::Serialize;

use super::check::render_findings;
use crate::{
    arguments::{RepairArguments, RepairDepth},
    context::Context,
    error::CliError,
    output::{Failure, human},
    vault::{self, Needs},
};

/// What was planned, and done.
#[derive(Serialize)]
struct Repaired {
    plan: RepairPlan,
    /// What is missing at the address of the data was copied there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    copied_to_data: bool,
    /// None if nothing was copied back or replaced.
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
    let depth = match arguments.depth {
        RepairDepth::Structure => CheckDepth::Structure,
        RepairDepth::Full => CheckDepth::Full,
    };
    let planning = vault.plan_repair(copy.as_ref(), depth);
    let plan = context.until_stopped("nothing was changed", planning).await??;
    let is_wanted = arguments.execute || context.yes;
    if is_wanted && !(plan.is_empty() && plan.uncopied.is_empty()) {
        // What is going to be done is told before it is done.
        context.output.remark(&render_plan(&plan));
    }
    let copied_to_data = is_wanted && !plan.uncopied.is_empty();
    if copied_to_data {
        let left = "what was copied to the address of the data stays; the same command goes on";
        context.until_stopped(left, vault.copy_to_data(&plan)).await??;
    }
    let report = match &copy {
        Some(copy) if is_wanted && !plan.is_empty() => Some(execute(context, &vault, copy, &plan).await?),
        Some(_) | None => None,
    };
    let repaired = Repaired { plan, copied_to_data, report };
    context.output.result(&repaired, || render(&repaired, copy.is_some()))?;
    if repaired.report.is_none() && !copied_to_data && !repaired.plan.findings.is_empty() {
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

async fn execute(context: &Context, vault: &Vault, copy: &Store, plan: &RepairPlan) -> Result<RepairReport, Failure> {
    let left = "what was copied back stays, nothing was overwritten or deleted, and the same command goes on";
    Ok(context.until_stopped(left, vault.repair(copy, plan)).await??)
}

fn render_plan(plan: &RepairPlan) -> String {
    let bytes = plan.objects.iter().fold(0u64, |sum, lost| sum.saturating_add(lost.bytes));
    let mut text = String::new();
    for lineage in &plan.lineages {
        text.push_str(&format!("  bring back group {} (lineage {})\n", lineage.group, lineage.id));
    }
    for lost in &plan.objects {
        text.push_str(&format!("  copy back {} ({})\n", lost.object, human::bytes(lost.bytes)));
    }
    for object in &plan.uncopied {
        text.push_str(&format!("  copy {object} to the address of the data\n"));
    }
    for object in &plan.replaced {
        text.push_str(&format!("  replace {object}: what points need of it is moved from the copy\n"));
    }
    for object in &plan.refused {
        text.push_str(&format!("  not {object}: it is not right in the copy either\n"));
    }
    for object in &plan.not_permitted {
        text.push_str(&format!(
            "  not {object}: to replace what is damaged takes the power of a pruner, or the kit and the passphrase\n"
        ));
    }
    text.push_str(&format!(
        "{} objects, {}, are to be copied back, and {} that are damaged to be replaced; {} points are whole then that are hurt \
         now.\n",
        plan.objects.len(),
        human::bytes(bytes),
        plan.replaced.len(),
        plan.healed.len(),
    ));
    text
}

fn render_report(report: &RepairReport, plan: &RepairPlan) -> String {
    let (objects, bytes) = (report.objects_copied, human::bytes(report.bytes_copied));
    let mut text = format!("{objects} objects, {bytes}, were copied back");
    if !plan.replaced.is_empty() {
        let (replaced, written) = (plan.replaced.len(), report.collections_written);
        text.push_str(&format!("; {written} collections were written in the place of {replaced} that are damaged"));
    }
    text.push_str(". Nothing was overwritten or deleted.\n");
    for (group, commit) in &report.commits {
        text.push_str(&format!("  group {group}: commit {commit} says where what was replaced is now\n"));
    }
    for problem in &report.problems {
        text.push_str(&format!("  not replaced: {problem}\n"));
    }
    if !plan.lineages.is_empty() {
        text.push_str(
            "Hosts that had not begun a group that came back get its keys again by `farshore vault join approve`.\n",
        );
    }
    text
}

fn render(repaired: &Repaired, has_copy: bool) -> String {
    let Repaired { plan, copied_to_data, report } = repaired;
    let is_read = plan.depth == CheckDepth::Full;
    if plan.findings.is_empty() {
        return match is_read {
            true => "Nothing is missing or damaged; all data was read.\n".to_owned(),
            false => "Nothing is missing. Stored data was not read: with `--depth full` it is read, and what is found damaged \
                      can be replaced.\n"
                .to_owned(),
        };
    }
    let mut text = String::new();
    match report {
        Some(report) => text.push_str(&render_report(report, plan)),
        None if *copied_to_data => {}
        None if has_copy || !plan.uncopied.is_empty() => {
            text.push_str(&render_plan(plan));
            if !(plan.is_empty() && plan.uncopied.is_empty()) {
                text.push_str("Nothing was done; --execute does it.\n");
            }
        }
        None => text.push_str("Without a copy nothing can be copied back or replaced; --from names one.\n"),
    }
    if *copied_to_data {
        text.push_str(&format!("{} objects were copied to the address of the data.\n", plan.uncopied.len()));
    }
    let left = repaired.left();
    if left.is_empty() {
        let tells = if is_read { "a check of all data" } else { "a check of the structure" };
        text.push_str(&match report {
            _ if *copied_to_data => format!("All that recovery points need is there, as far as {tells} tells.\n"),
            Some(_) => format!("All that recovery points need is there again, as far as {tells} tells.\n"),
            None => format!("All that recovery points need would be there then, as far as {tells} tells.\n"),
        });
        return text;
    }
    text.push_str("\nWhat stays lost:\n");
    text.push_str(&render_findings(left));
    text.push_str(if is_read {
        "Points that are not named are whole. "
    } else {
        "Points that are not named have all their objects; stored data was not read. "
    });
    text.push_str(
        "A commit, ledger, boundary or ring that is damaged has one name only: it can be brought back only after it was moved \
         aside in the store, by its owner: run this again then. Unchanged parts of a disk are not sent again by replication; \
         to have a machine whole without what is lost, protect it under a new group name.\n",
    );
    text
}
