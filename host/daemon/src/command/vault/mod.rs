//! `vault create|info|check|prove|repair|prune|pin|lock|unhide|policy|join|kit|slots|rotate`.

mod check;
mod create;
mod join;
mod kit;
mod lock;
mod metadata;
mod pin;
mod policy;
mod prove;
mod prune;
mod repair;
mod rotate;
mod slots;
mod unhide;

use farshore_core::{GroupName, LineageId, Timestamp};
use farshore_vault::{Error as VaultError, Head, Lineage, Usage, Vault, VaultInfo};
use serde::Serialize;

use crate::{
    arguments::VaultCommand,
    context::Context,
    error::CliError,
    output::{Failure, Table, human},
    vault::{self, Needs},
};

/// Runs it.
pub async fn run(context: &Context, command: &VaultCommand) -> Result<(), Failure> {
    match command {
        VaultCommand::Create(arguments) => create::run(context, arguments).await,
        VaultCommand::Info => info(context).await,
        VaultCommand::Check(arguments) => check::run(context, arguments).await,
        VaultCommand::Prove(arguments) => prove::run(context, arguments).await,
        VaultCommand::Repair(arguments) => repair::run(context, arguments).await,
        VaultCommand::Prune(arguments) => prune::run(context, arguments).await,
        VaultCommand::Pin(command) => pin::run(context, command).await,
        VaultCommand::Lock(command) => lock::run(context, command).await,
        VaultCommand::Unhide(arguments) => unhide::run(context, arguments).await,
        VaultCommand::MakeMetadata(arguments) => metadata::run(context, arguments).await,
        VaultCommand::Policy(arguments) => policy::run(context, arguments),
        VaultCommand::Join(command) => join::run(context, command).await,
        VaultCommand::Kit(command) => kit::run(context, command).await,
        VaultCommand::Slots(command) => slots::run(context, command).await,
        VaultCommand::Rotate(command) => rotate::run(context, command).await,
    }
}

#[derive(Serialize)]
struct Info {
    #[serde(flatten)]
    vault: VaultInfo,
    groups: Vec<GroupInfo>,
    usage: Usage,
}

#[derive(Serialize)]
struct GroupInfo {
    group: GroupName,
    lineage: LineageId,
    /// None if it cannot be read.
    head: Option<Head>,
    newest_captured_at: Option<Timestamp>,
    /// What is damaged of the newest commit or point; it hides no other group.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
}

async fn info(context: &Context) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let vault = vault::open(context, &configuration, Needs::Powers(&[])).await?;
    let info = context.until_stopped("nothing was changed", gather(&vault)).await??;
    context.output.result(&info, || render_info(&info, context.clock.now()))?;
    let unreadable_groups = info.groups.iter().filter(|group| group.unreadable.is_some()).count();
    match unreadable_groups.saturating_add(info.vault.unreadable.len()) {
        0 => Ok(()),
        count => Err(CliError::Damage { count }.into()),
    }
}

async fn gather(vault: &Vault) -> Result<Info, Failure> {
    let info = vault.info().await?;
    let mut groups = Vec::new();
    for known in &info.lineages {
        let Some(lineage) = vault.lineage(&known.group).await? else { continue };
        groups.push(group_info(&lineage).await?);
    }
    Ok(Info { groups, usage: vault.usage().await?, vault: info })
}

async fn group_info(lineage: &Lineage) -> Result<GroupInfo, Failure> {
    let (group, lineage_id) = (lineage.group().clone(), lineage.id());
    let mut info = GroupInfo { group, lineage: lineage_id, head: None, newest_captured_at: None, unreadable: None };
    let damage = |error: VaultError| if error.is_damage() { Ok(error.to_string()) } else { Err(error) };
    let head = match lineage.head().await {
        Ok(head) => info.head.insert(head),
        Err(error) => {
            info.unreadable = Some(damage(error)?);
            return Ok(info);
        }
    };
    if let Some(newest) = head.newest_point {
        match lineage.point(newest).await {
            Ok(point) => info.newest_captured_at = Some(point.captured_at),
            Err(error) => info.unreadable = Some(damage(error)?),
        }
    }
    Ok(info)
}

/// As whom it was opened, and what that allows.
fn opened_as(vault: &VaultInfo) -> String {
    if vault.is_administrator {
        return "with the recovery kit".to_owned();
    }
    let powers: Vec<&str> = vault.powers.iter().map(|power| power.name()).collect();
    format!("as a host that is {}", if powers.is_empty() { "nothing yet".to_owned() } else { powers.join(" and ") })
}

fn render_info(info: &Info, now: Timestamp) -> String {
    let Info { vault, groups, usage } = info;
    let mut text = format!(
        "vault    {}\naddress  {}\n{}format   {}\nmade     {}\nopened   {}\nholds    {} in {} objects\n",
        vault.id,
        vault.address,
        vault.data_address.as_ref().map(|address| format!("data     {address}\n")).unwrap_or_default(),
        vault.format,
        human::time_and_age(vault.created_at, now),
        opened_as(vault),
        human::bytes(usage.total.bytes),
        usage.total.objects,
    );
    let mut table = Table::new(&["GROUP", "ACTIVE SITE", ">GENERATION", ">NEWEST", "CAPTURED"]);
    for group in groups {
        table.row([
            group.group.to_string(),
            group.head.as_ref().map(|head| head.active_site.to_string()).unwrap_or_default(),
            group.head.as_ref().map(|head| head.generation.to_string()).unwrap_or_default(),
            match &group.head {
                Some(head) => head.newest_point.map_or_else(|| "none".to_owned(), |point| point.to_string()),
                None => "?".to_owned(),
            },
            group.newest_captured_at.map(|time| human::time_and_age(time, now)).unwrap_or_default(),
        ]);
    }
    if !table.is_empty() {
        text.push('\n');
        text.push_str(&table.render());
    }
    for group in groups {
        let pins = group.head.iter().flat_map(|head| &head.pins);
        if let Some(oldest) = pins.clone().map(|pin| pin.since).min() {
            let (count, since) = (pins.count(), human::time_and_age(oldest, now));
            text.push_str(&format!("group {}: {count} pinned, the oldest since {since}\n", group.group));
        }
        if let Some(problem) = &group.unreadable {
            text.push_str(&format!("group {}: unreadable: {problem}\n", group.group));
        }
    }
    match vault.closed.len() {
        0 => {}
        1 => text.push_str("1 more group, to which this host has no key\n"),
        count => text.push_str(&format!("{count} more groups, to which this host has no key\n")),
    }
    for lineage in &vault.unreadable {
        text.push_str(&format!("group of lineage {}: unreadable: {}\n", lineage.id, lineage.problem));
    }
    let mut table = Table::new(&["KIND", ">OBJECTS", ">SIZE"]);
    for (kind, usage) in usage.kinds.iter().filter(|(_, usage)| usage.objects > 0) {
        table.row([kind.clone(), usage.objects.to_string(), human::bytes(usage.bytes)]);
    }
    if !table.is_empty() {
        text.push('\n');
        text.push_str(&table.render());
    }
    text
}
