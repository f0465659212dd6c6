//! `machine discover`.

use farshore_core::{GroupName, Machine, PowerState, SiteName};
use farshore_platform::Source as _;
use farshore_plugin::Mode;
use serde::Serialize;

use crate::{
    adapters::Adapters,
    arguments::MachineCommand,
    config::Configuration,
    context::Context,
    error::CliError,
    output::{Failure, Table, human},
};

#[derive(Serialize)]
struct SiteMachines {
    site: SiteName,
    machines: Vec<Described>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

#[derive(Serialize)]
struct Described {
    #[serde(flatten)]
    machine: Machine,
    groups: Vec<GroupName>,
}

/// Runs it. A site that fails does not hide the others.
pub async fn run(context: &Context, command: &MachineCommand) -> Result<(), Failure> {
    let MachineCommand::Discover { site } = command;
    let configuration = context.configuration()?;
    let names: Vec<SiteName> = match site {
        Some(name) => {
            configuration.site(name)?;
            vec![name.clone()]
        }
        None => configuration.sites.keys().cloned().collect(),
    };
    let mut adapters = Adapters::new(context, &configuration)?;
    let mut found = Vec::new();
    for name in names {
        let asking = discover(&mut adapters, &configuration, &name);
        let (machines, error) = match context.until_stopped("nothing was changed", asking).await? {
            Ok(machines) => (describe(&configuration, &name, machines), None),
            Err(failure) => (Vec::new(), Some(failure)),
        };
        found.push(SiteMachines { site: name, machines, error });
    }
    if let [SiteMachines { error: error @ Some(_), .. }] = &mut found[..]
        && let Some(failure) = error.take()
    {
        return Err(failure);
    }
    context.output.result(&found, || render(&found))?;
    let failed: Vec<&str> = found.iter().filter(|site| site.error.is_some()).map(|site| site.site.as_str()).collect();
    if failed.is_empty() {
        return Ok(());
    }
    for site in found.iter().filter(|_| !context.output.json) {
        site.error.iter().for_each(|failure| context.output.fail(failure));
    }
    Err(CliError::EndedWithErrors { what: format!("these sites could not be asked: {}", failed.join(", ")) }.into())
}

async fn discover(
    adapters: &mut Adapters,
    configuration: &Configuration,
    site: &SiteName,
) -> Result<Vec<Machine>, Failure> {
    Ok(adapters.open(configuration, site, Mode::Observe).await?.machines().await?)
}

fn describe(configuration: &Configuration, site: &SiteName, machines: Vec<Machine>) -> Vec<Described> {
    let groups_of = |machine: &Machine| {
        let holds = |group: &crate::config::Group| group.site == *site && group.machines.contains(&machine.id);
        configuration.groups.iter().filter(|(_, group)| holds(group)).map(|(name, _)| name.clone()).collect()
    };
    machines.into_iter().map(|machine| Described { groups: groups_of(&machine), machine }).collect()
}

fn render(found: &[SiteMachines]) -> String {
    let mut table = Table::new(&["SITE", "MACHINE", "NAME", "POWER", ">CPUS", ">MEMORY", "DISKS", "NETWORKS", "GROUP"]);
    for SiteMachines { site, machines, .. } in found {
        for Described { machine, groups } in machines {
            let disks = machine.disks.iter().map(|disk| {
                let boot = if disk.boot { ", boot" } else { "" };
                format!("{} ({}{boot})", disk.id, human::bytes(disk.size_bytes))
            });
            let networks =
                machine.network_interfaces.iter().map(|nic| nic.network.clone().unwrap_or_else(|| nic.id.clone()));
            let name = if machine.name == machine.id.as_str() { String::new() } else { machine.name.clone() };
            table.row([
                site.to_string(),
                machine.id.to_string(),
                name,
                power(machine.power).to_owned(),
                machine.cpus.to_string(),
                human::bytes(machine.memory_bytes),
                disks.collect::<Vec<_>>().join(", "),
                networks.collect::<Vec<_>>().join(", "),
                groups.iter().map(GroupName::as_str).collect::<Vec<_>>().join(", "),
            ]);
        }
    }
    if table.is_empty() { "No site has a machine.\n".to_owned() } else { table.render() }
}

const fn power(state: PowerState) -> &'static str {
    match state {
        PowerState::Off => "off",
        PowerState::Running => "running",
        PowerState::Paused => "paused",
        PowerState::Unknown => "unknown",
    }
}
