//! `vault join create|accept|approve|withdraw|revoke|list`.

use std::path::{Path, PathBuf};

use farshore_core::{HostName, Timestamp, VaultId};
use farshore_vault::{HostCredential, HostInfo, JoinFile, Power, RevocationPlan, Vault};
use serde::Serialize;

use crate::{
    arguments::JoinCommand,
    context::Context,
    keys,
    output::{Failure, Table, human},
    vault::{self, Needs},
};

#[derive(Serialize)]
struct Invited {
    host: HostName,
    powers: Vec<Power>,
    expires_at: Timestamp,
    file: PathBuf,
}

#[derive(Serialize)]
struct Joined {
    vault: VaultId,
    host: HostName,
    /// What it may do now.
    powers: Vec<Power>,
    /// What it may do once it is approved.
    awaits_approval: Vec<Power>,
    credential: PathBuf,
}

/// Runs it.
pub async fn run(context: &Context, command: &JoinCommand) -> Result<(), Failure> {
    let nothing_done = "the invitation may have been made: `farshore vault join list` tells";
    match command {
        JoinCommand::Create { host, powers, expires, output } => {
            let configuration = context.configuration()?;
            if output.exists() {
                return Err(crate::error::CliError::OutputExists { path: output.clone() }.into());
            }
            let vault = vault::open(context, &configuration, Needs::Administrator).await?;
            let now = context.clock.now().as_unix_milliseconds();
            let milliseconds = i64::try_from(expires.as_millis()).unwrap_or(i64::MAX);
            let expires_at = Timestamp::from_unix_milliseconds(now.saturating_add(milliseconds));
            let join = context.until_stopped(nothing_done, vault.invite(host, powers, expires_at)).await??;
            if let Err(error) = keys::write(output, &join.to_text()) {
                // Nobody has the file, so nobody needs the invitation.
                vault.withdraw(host).await?;
                return Err(error.into());
            }
            let powers = join.powers().to_vec();
            let invited = Invited { host: host.clone(), powers, expires_at, file: output.clone() };
            context.output.result(&invited, || render_invited(&invited))?;
        }
        JoinCommand::Accept { file } => accept(context, file).await?,
        JoinCommand::Approve { host } => {
            let configuration = context.configuration()?;
            let vault = vault::open(context, &configuration, Needs::Administrator).await?;
            let left = "it may have got some of its keys: run it again";
            let approval = context.until_stopped(left, vault.approve(host)).await??;
            context.output.result(&approval, || {
                let powers = names(&approval.powers);
                let groups: Vec<&str> = approval.groups.iter().map(|group| group.as_str()).collect();
                match (approval.powers.is_empty(), groups.is_empty()) {
                    (true, true) => format!("Host {host} needed no keys.\n"),
                    (false, true) => format!("Host {host} has the keys of a {powers}.\n"),
                    (true, false) => format!("Host {host} can add points to {}.\n", groups.join(", ")),
                    (false, false) => {
                        format!(
                            "Host {host} has the keys of a {powers}, and can add points to {}.\n",
                            groups.join(", ")
                        )
                    }
                }
            })?;
        }
        JoinCommand::Withdraw { host } => {
            let configuration = context.configuration()?;
            let vault = vault::open(context, &configuration, Needs::Administrator).await?;
            let left = "it may have been withdrawn: `farshore vault join list` tells";
            context.until_stopped(left, vault.withdraw(host)).await??;
            context.output.result(&host, || format!("Host {host} cannot join any more.\n"))?;
        }
        JoinCommand::Revoke { host, dry_run } => revoke(context, host, *dry_run).await?,
        JoinCommand::List => {
            let configuration = context.configuration()?;
            let vault = vault::open(context, &configuration, Needs::Powers(&[])).await?;
            let hosts = context.until_stopped("nothing was changed", vault.hosts()).await??;
            context.output.result(&hosts, || render_hosts(&hosts, context.clock.now()))?;
        }
    }
    Ok(())
}

/// The keys first, then the enrolment: a join file works once, so the keys that it lets in must not be lost.
async fn accept(context: &Context, file: &Path) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let join = JoinFile::parse(&keys::read(context.output, "the join file", file)?)?;
    let store = vault::store(context, &configuration)?;
    super::super::state_folder(&configuration)?;
    let kept = keys::credential(context, &configuration, join.vault())?;
    let (credential, credential_file) = match kept {
        // An earlier try was interrupted after the keys were kept.
        Some(credential) if credential.host() == join.host() => {
            (credential, keys::credential_file(&configuration, join.vault()))
        }
        Some(_) => {
            let path = keys::credential_file(&configuration, join.vault());
            return Err(crate::error::CliError::OutputExists { path }.into());
        }
        None => {
            let credential = HostCredential::new(&join, &*context.entropy);
            let file = keys::keep_credential(&configuration, &credential)?;
            (credential, file)
        }
    };
    let vault_context = vault::vault_context(context, &configuration);
    let left = "the host may have joined: run it again with the same file";
    let enrolled = context.until_stopped(left, credential.enrol(&store, &join, &vault_context)).await?;
    if let Err(error) = enrolled {
        if matches!(error, farshore_vault::Error::JoinRefused { .. }) {
            // The keys were let in nowhere.
            let _ = std::fs::remove_file(&credential_file);
        }
        return Err(error.into());
    }
    let opener = farshore_vault::Opener::Host(Box::new(credential));
    let vault = Vault::open(store, &opener, vault_context).await?;
    let powers = vault.powers();
    let awaits_approval = join.powers().iter().copied().filter(|power| !powers.contains(power)).collect();
    let host = join.name().clone();
    let joined = Joined { vault: join.vault(), host, powers, awaits_approval, credential: credential_file };
    context.output.result(&joined, || render_joined(&joined))?;
    Ok(())
}

#[derive(Serialize)]
struct Revoked {
    #[serde(flatten)]
    plan: RevocationPlan,
    dry_run: bool,
}

async fn revoke(context: &Context, host: &HostName, dry_run: bool) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let vault = vault::open(context, &configuration, Needs::Administrator).await?;
    let plan = context.until_stopped("nothing was done", vault.plan_revocation(host)).await??;
    if !dry_run {
        let left = "the host writes nothing any more, and others may not know it yet: run it again";
        context.until_stopped(left, vault.revoke(&plan)).await??;
    }
    let revoked = Revoked { plan, dry_run };
    context.output.result(&revoked, || render_revoked(&revoked))?;
    Ok(())
}

fn render_revoked(revoked: &Revoked) -> String {
    let Revoked { plan, dry_run } = revoked;
    let host = &plan.name;
    let mut text = match dry_run {
        true => format!("Host {host} ({}) would be shut out; {} groups would say so.\n", plan.host, plan.lineages),
        false => format!("Host {host} ({}) is shut out. What it stored stands.\n", plan.host),
    };
    text.push_str(
        "Take its access to the store away too: whoever has its files can still put objects in the way of others.\n",
    );
    if plan.had_keys {
        text.push_str(
            "It had keys of the vault: `farshore vault rotate epoch` keeps it from opening what is stored from now on.\n",
        );
    }
    text
}

fn names(powers: &[Power]) -> String {
    powers.iter().map(|power| power.name()).collect::<Vec<_>>().join(" and ")
}

fn render_invited(invited: &Invited) -> String {
    let Invited { host, powers, expires_at, file } = invited;
    let file = file.display();
    let approval = if powers.iter().any(|power| power.needs_approval()) {
        format!("Then run `farshore vault join approve {host}` here: its powers need keys of the vault.\n")
    } else {
        String::new()
    };
    format!(
        "Host {host} can join as {} until {expires_at}.\nBring {file} to it, and run `farshore vault join accept` with it \
         there. The file works once.\n{approval}",
        names(powers),
    )
}

fn render_joined(joined: &Joined) -> String {
    let Joined { vault, host, powers, awaits_approval, .. } = joined;
    let mut text = format!("This host has joined vault {vault} as {host}.\n");
    if !powers.is_empty() {
        text.push_str(&format!("It may be {} now.\n", names(powers)));
    }
    if !awaits_approval.is_empty() {
        text.push_str(&format!(
            "To be {}, it needs keys: where the recovery kit is, run `farshore vault join approve {host}`.\n",
            names(awaits_approval)
        ));
    }
    text
}

fn render_hosts(hosts: &[HostInfo], now: Timestamp) -> String {
    let mut table = Table::new(&["HOST", "POWERS", "STATE", "INVITED"]);
    for host in hosts {
        let state = match (host.has_joined, host.is_approved) {
            _ if host.revoked_at.is_some() => "revoked".to_owned(),
            (true, true) => "joined".to_owned(),
            (true, false) => "waits for approval".to_owned(),
            (false, _) if host.expires_at < now => "expired".to_owned(),
            (false, _) => format!("invited until {}", host.expires_at),
        };
        table.row([host.name.to_string(), names(&host.powers), state, human::time_and_age(host.invited_at, now)]);
    }
    if table.is_empty() { "No host was ever invited.\n".to_owned() } else { table.render() }
}
