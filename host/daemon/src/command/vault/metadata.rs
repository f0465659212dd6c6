//! `vault make-metadata`.

use farshore_vault::MetadataPlan;
use serde::Serialize;

use crate::{
    arguments::MakeMetadataArguments,
    context::Context,
    output::{Failure, human},
    vault,
};

/// What was planned, and whether it was done.
#[derive(Serialize)]
struct Made {
    #[serde(flatten)]
    plan: MetadataPlan,
    executed: bool,
}

/// Runs it. The vault is not opened: where its metadata should be there is nothing.
pub async fn run(context: &Context, arguments: &MakeMetadataArguments) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let store = vault::store(context, &configuration)?;
    let planning = store.plan_metadata(context.clock.now(), &*context.entropy);
    let plan = context.until_stopped("nothing was made", planning).await??;
    let executed = arguments.execute || context.yes;
    if executed {
        let left = "some of the metadata was made; the same command goes on";
        context.until_stopped(left, store.make_metadata(&plan, &*context.entropy)).await??;
    }
    let made = Made { plan, executed };
    context.output.result(&made, || render(&made, store.address(), store.rescue_address()))?;
    Ok(())
}

fn render(made: &Made, metadata: &str, data: &str) -> String {
    let Made { plan, executed } = made;
    if plan.says_only {
        let verb = if *executed { "was" } else { "is to be" };
        let next = if *executed { "" } else { " Nothing was done; --execute does it." };
        return format!(
            "The metadata of vault {} is at {metadata}, its data at {data}. What an address says of itself {verb} written again.{next}\n",
            plan.vault
        );
    }
    let what = format!("{} objects, {}, of vault {}", plan.objects, human::bytes(plan.bytes), plan.vault);
    if *executed {
        return format!(
            "{what} were copied from {data} to {metadata}. Both together are the vault from now on: give every host this configuration.\n"
        );
    }
    format!(
        "{what} are to be copied from {data} to {metadata}.\nNothing was done; --execute does it. Stop every host first: what one writes \
         meanwhile, or later with the configuration that it has now, would tear the two apart.\n"
    )
}
