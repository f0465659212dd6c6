//! `vault pin list|release`.

use farshore_core::{GroupName, RunId, Timestamp};
use farshore_vault::{Lineage, Pin, Power, Vault};
use serde::Serialize;

use crate::{
    arguments::PinCommand,
    context::Context,
    error::CliError,
    output::{Failure, Table, human},
    vault::{self, Needs},
};

#[derive(Serialize)]
struct GroupPin {
    group: GroupName,
    #[serde(flatten)]
    pin: Pin,
}

#[derive(Serialize)]
struct Released {
    run: RunId,
    groups: Vec<GroupName>,
}

/// Runs it.
pub async fn run(context: &Context, command: &PinCommand) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    match command {
        PinCommand::List => {
            let vault = vault::open(context, &configuration, Needs::Powers(&[])).await?;
            let pins = context.until_stopped("nothing was changed", gather(&vault)).await??;
            context.output.result(&pins, || render(&pins, context.clock.now()))?;
        }
        PinCommand::Release { run } => {
            let vault = vault::open(context, &configuration, Needs::Powers(&[Power::Controller])).await?;
            let left = "some of the pins may have been given up: `farshore vault pin list` tells";
            let groups = context.until_stopped(left, release(&vault, *run)).await??;
            if groups.is_empty() {
                let (text, why) = (run.to_string(), "no point is pinned by it");
                return Err(CliError::NoSuchRun { text, why }.into());
            }
            let released = Released { run: *run, groups };
            context.output.result(&released, || {
                let groups: Vec<&str> = released.groups.iter().map(|group| group.as_str()).collect();
                format!("Run {} holds no point of {} any more.\n", released.run, groups.join(", "))
            })?;
        }
    }
    Ok(())
}

async fn lineages(vault: &Vault) -> Result<Vec<Lineage>, Failure> {
    let mut lineages = Vec::new();
    for (_, known) in vault.list_lineages().await? {
        // A group that cannot be read hides no other; `vault info` names it.
        let Ok(known) = known else { continue };
        lineages.extend(vault.lineage(&known.group).await?);
    }
    Ok(lineages)
}

/// The pins of a group; none if it cannot be read.
async fn held(lineage: &Lineage) -> Result<Option<Vec<Pin>>, Failure> {
    match lineage.pins().await {
        Ok(pins) => Ok(Some(pins)),
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn gather(vault: &Vault) -> Result<Vec<GroupPin>, Failure> {
    let mut pins = Vec::new();
    for lineage in lineages(vault).await? {
        let Some(held) = held(&lineage).await? else { continue };
        let group = || lineage.group().clone();
        pins.extend(held.into_iter().map(|pin| GroupPin { group: group(), pin }));
    }
    Ok(pins)
}

async fn release(vault: &Vault, run: RunId) -> Result<Vec<GroupName>, Failure> {
    let mut groups = Vec::new();
    for lineage in lineages(vault).await? {
        let Some(held) = held(&lineage).await? else { continue };
        if held.iter().any(|pin| pin.run == run) {
            lineage.unpin(run).await?;
            groups.push(lineage.group().clone());
        }
    }
    Ok(groups)
}

fn render(pins: &[GroupPin], now: Timestamp) -> String {
    if pins.is_empty() {
        return "No point is pinned.\n".to_owned();
    }
    let mut table = Table::new(&["GROUP", ">POINT", "RUN", "PINNED"]);
    for GroupPin { group, pin } in pins {
        let pinned = human::time_and_age(pin.since, now);
        table.row([group.to_string(), pin.point.to_string(), pin.run.to_string(), pinned]);
    }
    table.render()
}
