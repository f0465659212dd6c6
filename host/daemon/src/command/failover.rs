//! `failover unplanned`: the plan with its loss, the operator's yes, the run.

use std::{
    io::{BufRead as _, IsTerminal as _},
    sync::Arc,
    time::Duration,
};

use farshore_core::MachineId;
use farshore_failover::{FailoverError, FailoverPlan, RunKind};
use farshore_platform::Source;
use farshore_plugin::Mode;
use farshore_vault::{MachineBehind, Power};

use super::drill::{Ask, execute, finish, make_plan, open_target, tell_remarks};
use crate::{
    adapters::Adapters,
    arguments::UnplannedArguments,
    config::{Configuration, Group},
    context::Context,
    error::CliError,
    output::{Failure, Table, human},
    vault::{self, Needs},
};

/// Runs it.
pub async fn run(context: &Context, arguments: UnplannedArguments) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let group = configuration.group(&arguments.group)?;
    let vault = vault::open(context, &configuration, Needs::Powers(&[Power::Recoverer, Power::Controller])).await?;
    let mut adapters = Adapters::new(context, &configuration)?;
    let source = open_source(context, &mut adapters, &configuration, group).await;
    let target = open_target(&mut adapters, &configuration, group, &arguments.group, Mode::Live).await?;
    let ask = Ask {
        kind: RunKind::Unplanned,
        point: arguments.point,
        machines: &arguments.machine,
        readiness: arguments.readiness,
        attestation: arguments.source_is_down,
        discard_recovered: arguments.discard_recovered,
    };
    let plan = make_plan(context, &vault, &arguments.group, &ask, source.clone(), &*target).await?;
    tell_remarks(context, &plan);
    if let (Some(why), None) = (plan.attestation_needed(), &ask.attestation) {
        return Err(FailoverError::AttestationNeeded { group: plan.group.clone(), why }.into());
    }
    confirm(context, &plan, group).await?;
    let report = execute(context, &configuration, vault, &plan, ask, group, source, target).await?;
    finish(context, &report)
}

/// Opens the site that ran the machines, to fence them if it answers. A site that cannot be opened does not answer: in a
/// disaster its adapter or its settings may be gone with it.
async fn open_source(
    context: &Context,
    adapters: &mut Adapters,
    configuration: &Configuration,
    group: &Group,
) -> Option<Arc<dyn Source>> {
    match adapters.open(configuration, &group.site, Mode::Live).await {
        Ok(site) => Some(site),
        Err(failure) => {
            context.output.warn(&format!("site {} cannot be asked: {}", group.site, failure.message));
            None
        }
    }
}

/// States what is going to be lost and done, and asks.
async fn confirm(context: &Context, plan: &FailoverPlan, group: &Group) -> Result<(), Failure> {
    context.output.remark(&render(context, plan, group));
    if context.yes {
        return Ok(());
    }
    let not_confirmed = || CliError::NotConfirmed { what: format!("the failover of group {}", plan.group) };
    if context.output.json || !std::io::stdin().is_terminal() {
        return Err(not_confirmed().into());
    }
    context.output.remark(&format!("Type the name of the group, {}, to fail it over:", plan.group));
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let answer = context.until_stopped("nothing was done", answer).await?;
    match answer {
        Ok(Ok(line)) if line.trim() == plan.group.as_str() => Ok(()),
        _ => Err(not_confirmed().into()),
    }
}

fn render(context: &Context, plan: &FailoverPlan, group: &Group) -> String {
    let age = Duration::try_from_secs_f64(plan.age_seconds).unwrap_or(Duration::ZERO);
    let target = group.recovery_site.as_ref().map_or("", |site| site.as_str());
    let mut table = Table::new(&["MACHINE", ">DISKS", ">SIZE", "THE SOURCE SAYS"]);
    for machine in &plan.machines {
        let answer = plan.source_answers.iter().find(|answer| answer.machine == machine.id);
        table.row([
            machine.id.to_string(),
            machine.disks.len().to_string(),
            human::bytes(machine.disks.iter().map(|disk| disk.size_bytes).sum()),
            answer.map(|answer| answer.evidence.clone()).unwrap_or_default(),
        ]);
    }
    let mut more = String::new();
    for MachineBehind { machine, captured_at } in &plan.behind {
        let captured = human::time_and_age(*captured_at, context.clock.now());
        more += &format!(
            "  OLDER: machine {machine} could not be captured with the others: the point has it as of {captured}\n"
        );
    }
    for copy in &plan.discards {
        let (machine, run) = (&copy.machine, copy.run);
        more += &format!(
            "  GIVEN UP: machine {machine}, which failover {run} started, is removed with all that happened on it\n"
        );
    }
    let is_known = |machine: &&MachineId| {
        plan.left_unprotected.contains(machine) || plan.machines.iter().any(|known| known.id == **machine)
    };
    let absent: Vec<_> = group.machines.iter().filter(|machine| !is_known(machine)).map(ToString::to_string).collect();
    if !absent.is_empty() {
        more += &format!("  NOT IN THE POINT, and so not recovered: {}\n", absent.join(", "));
    }
    if !plan.left_unprotected.is_empty() {
        let names: Vec<_> = plan.left_unprotected.iter().map(ToString::to_string).collect();
        more += &format!("  NO LONGER PROTECTED: {}, which stay at site {}\n", names.join(", "), group.site);
    }
    format!(
        "Unplanned failover of group {} from site {} to site {target}:\n  point {}, captured {}\n  LOSS: what the group did \
         in the last {} is lost\n  site {} can commit no recovery points after this\n{more}\n{}",
        plan.group,
        group.site,
        plan.point,
        human::time_and_age(plan.captured_at, context.clock.now()),
        human::duration(age),
        group.site,
        table.render(),
    )
}
