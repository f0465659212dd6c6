//! `vault lock set|show|extend`.

use std::time::Duration;

use farshore_core::{Coded as _, GroupName, LineageId, Timestamp};
use farshore_vault::{Error as VaultError, ExtensionPlan, ExtensionReport, Lineage, Power, Vault, VaultLock};
use serde::Serialize;

use crate::{
    arguments::{LockCommand, LockExtendArguments, LockSetArguments},
    config::format_duration,
    context::Context,
    error::CliError,
    output::{Failure, Table},
    vault::{self, Needs},
};

/// How often an extension is planned anew because prunes came between.
const RACES_MAX: usize = 8;

/// Runs it.
pub async fn run(context: &Context, command: &LockCommand) -> Result<(), Failure> {
    match command {
        LockCommand::Set(arguments) => set(context, arguments).await,
        LockCommand::Show => show(context).await,
        LockCommand::Extend(arguments) => extend(context, arguments).await,
    }
}

#[derive(Serialize)]
struct Shown {
    /// None if the vault is not locked.
    lock: Option<VaultLock>,
    groups: Vec<GroupHorizon>,
}

#[derive(Serialize)]
struct GroupHorizon {
    /// None if not even its name can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<GroupName>,
    lineage: LineageId,
    /// Until when everything that its points need is locked; none if that was never seen to.
    locked_until: Option<Timestamp>,
    /// Why that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
}

fn describe(lock: VaultLock) -> String {
    let span = Duration::from_secs(lock.span_seconds);
    let days = lock.span_seconds / 86_400;
    let span = if lock.span_seconds.is_multiple_of(86_400) { format!("{days} days") } else { format_duration(span) };
    format!("for {span} in the mode {}", lock.mode)
}

async fn set(context: &Context, arguments: &LockSetArguments) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let vault = vault::open(context, &configuration, Needs::Administrator).await?;
    let lock = VaultLock { mode: arguments.mode, span_seconds: arguments.span.as_secs() };
    let before = vault.lock();
    context.until_stopped("nothing was changed, or all of it", vault.set_lock(lock, arguments.weaken)).await??;
    let shown = Shown { lock: vault.lock(), groups: Vec::new() };
    context.output.result(&shown, || {
        let mut text = format!("What is stored in the vault is locked {} from now on.\n", describe(lock));
        if before != Some(lock) {
            text.push_str(match before {
                None => "What was stored before is not locked yet: run `farshore vault lock extend` now, and then daily.\n",
                Some(_) => {
                    "What is locked already stays locked as it is; `farshore vault lock extend` follows the new span from now \
                     on. A shorter span frees nothing earlier, and a weaker mode does not weaken a lock that is there.\n"
                }
            });
        }
        text
    })?;
    Ok(())
}

/// A lineage, or why it cannot be opened.
struct Found {
    /// None if it cannot be read, and nobody named it.
    group: Option<GroupName>,
    id: LineageId,
    lineage: Result<Lineage, VaultError>,
}

/// The lineages of the groups that are named, or all. One that is damaged, or to which this host has no key, hides no other.
async fn lineages(vault: &Vault, named: &[GroupName]) -> Result<Vec<Found>, Failure> {
    let listed = vault.list_lineages().await?;
    if let Some(name) = named.iter().find(|name| listed.iter().all(|(id, _)| *id != vault.lineage_id(name))) {
        let known = listed.iter().filter_map(|(_, known)| Some(known.as_ref().ok()?.group.as_str()));
        return Err(CliError::unknown("group", name.as_str(), known).into());
    }
    let mut lineages = Vec::new();
    for (id, known) in listed {
        let group = match &known {
            Ok(known) => Some(known.group.clone()),
            Err(_) => named.iter().find(|name| vault.lineage_id(name) == id).cloned(),
        };
        if !named.is_empty() && group.as_ref().is_none_or(|group| !named.contains(group)) {
            continue;
        }
        let lineage = match known {
            Ok(known) => match vault.lineage(&known.group).await? {
                Some(lineage) => Ok(lineage),
                None => continue,
            },
            Err(error) => Err(error),
        };
        lineages.push(Found { group, id, lineage });
    }
    Ok(lineages)
}

async fn show(context: &Context) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let vault = vault::open(context, &configuration, Needs::Powers(&[])).await?;
    let gathering = async {
        let mut groups = Vec::new();
        for Found { group, id, lineage } in lineages(&vault, &[]).await? {
            let head = match lineage {
                Ok(lineage) => match lineage.head().await {
                    Err(error) if !error.is_damage() => return Err(error.into()),
                    head => head,
                },
                Err(error) => Err(error),
            };
            let (locked_until, unreadable) = match head {
                Ok(head) => (head.locked_until, None),
                Err(error) => (None, Some(error.to_string())),
            };
            groups.push(GroupHorizon { group, lineage: id, locked_until, unreadable });
        }
        Ok::<_, Failure>(groups)
    };
    let groups = context.until_stopped("nothing was changed", gathering).await??;
    let shown = Shown { lock: vault.lock(), groups };
    context.output.result(&shown, || render_shown(&shown, context.clock.now()))?;
    Ok(())
}

/// What a person is told of whose lineage it is.
fn name_of(group: Option<&GroupName>, lineage: LineageId) -> String {
    group.map_or_else(|| format!("lineage {lineage}"), ToString::to_string)
}

fn render_shown(shown: &Shown, now: Timestamp) -> String {
    let Some(lock) = shown.lock else {
        return "The vault is not locked: what it holds can be deleted by whoever may delete in its store.\n"
            .to_owned();
    };
    let mut text = format!("What is stored in the vault is locked {}.\n", describe(lock));
    let mut table = Table::new(&["GROUP", "ALL THAT ITS POINTS NEED IS LOCKED UNTIL"]);
    for group in &shown.groups {
        let until = match (&group.unreadable, group.locked_until) {
            (Some(problem), _) => format!("unreadable: {problem}"),
            (None, None) => "never seen to: run `farshore vault lock extend`".to_owned(),
            (None, Some(until)) if until <= now => format!("{until}, which is over: run `farshore vault lock extend`"),
            (None, Some(until)) => {
                let left = format_duration(Duration::from_secs(until.since(now).as_secs() / 60 * 60));
                format!("{until}, in {left}")
            }
        };
        table.row([name_of(group.group.as_ref(), group.lineage), until]);
    }
    if !table.is_empty() {
        text.push('\n');
        text.push_str(&table.render());
    }
    text
}

/// What was planned for one group, and done.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// With `--dry-run`.
    Planned(Box<ExtensionPlan>),
    Done(ExtensionReport),
    Failed(String),
}

#[derive(Serialize)]
struct Extended {
    /// None if not even its name can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<GroupName>,
    lineage: LineageId,
    #[serde(flatten)]
    outcome: Outcome,
}

async fn extend(context: &Context, arguments: &LockExtendArguments) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let vault = vault::open(context, &configuration, Needs::Powers(&[Power::Pruner])).await?;
    if vault.lock().is_none() {
        return Err(VaultError::NotLocked.into());
    }
    let left = "some locks may be longer; the next extension goes on from there";
    let mut all = Vec::new();
    for Found { group, id, lineage } in context.until_stopped(left, lineages(&vault, &arguments.groups)).await?? {
        let outcome = match lineage {
            Ok(lineage) => context.until_stopped(left, extend_one(&lineage, arguments.dry_run)).await?,
            Err(error) => Err(error),
        };
        // A group whose locks cannot be made longer keeps no other from it.
        let outcome = outcome.unwrap_or_else(|error| {
            let advice = error.advice().map(|advice| format!("; {advice}")).unwrap_or_default();
            Outcome::Failed(format!("[{}] {error}{advice}", error.code()))
        });
        all.push(Extended { group, lineage: id, outcome });
    }
    context.output.result(&all, || match all.is_empty() {
        true => "The vault has no groups yet.\n".to_owned(),
        false => all.iter().map(render).collect(),
    })?;
    match all.iter().filter(|extended| !extended.went_well()).count() {
        0 => Ok(()),
        count => {
            let what = format!("{count} of {} groups were not wholly locked", all.len());
            Err(CliError::EndedWithErrors { what }.into())
        }
    }
}

impl Extended {
    fn went_well(&self) -> bool {
        match &self.outcome {
            Outcome::Planned(plan) => plan.hidden.is_empty(),
            Outcome::Done(report) => report.hidden.is_empty(),
            Outcome::Failed(_) => false,
        }
    }
}

async fn extend_one(lineage: &Lineage, dry_run: bool) -> Result<Outcome, VaultError> {
    let mut races = 0;
    loop {
        let plan = lineage.plan_extension().await?;
        if dry_run {
            return Ok(Outcome::Planned(Box::new(plan)));
        }
        match lineage.extend(plan).await {
            Err(VaultError::LostRace { .. }) if races < RACES_MAX => races += 1,
            report => return report.map(Outcome::Done),
        }
    }
}

fn render(extended: &Extended) -> String {
    let group = name_of(extended.group.as_ref(), extended.lineage);
    let (mut text, hidden) = match &extended.outcome {
        Outcome::Failed(problem) => return format!("{group}: its locks are as they were recorded: {problem}\n"),
        Outcome::Planned(plan) => {
            let before = plan.horizon_before.map_or_else(|| "never".to_owned(), |before| before.to_string());
            let ExtensionPlan { needed, extended, until, .. } = plan.as_ref();
            let text = format!(
                "{group}: {extended} of {needed} objects would be locked until {until}; recorded before: {before}\n"
            );
            (text, &plan.hidden)
        }
        Outcome::Done(report) => {
            let ExtensionReport { needed, extended, locked_until, .. } = report;
            let text = format!(
                "{group}: all {needed} objects that its points need are locked until {locked_until}; {extended} locks were \
                 made longer\n"
            );
            (text, &report.hidden)
        }
    };
    match hidden.len() {
        0 => {}
        count => text.push_str(&format!(
            "  {count} of them are hidden in the store by somebody else, {} first; they are locked, and `farshore vault unhide` shows \
             them again\n",
            hidden.first().map_or("", String::as_str)
        )),
    }
    text
}
