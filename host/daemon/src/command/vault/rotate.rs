//! `vault rotate passphrase|kit|epoch`.

use std::path::{Path, PathBuf};

use farshore_core::SlotId;
use farshore_vault::{EpochPlan, KdfParameters, SlotRequest};
use serde::Serialize;

use super::slots;
use crate::{
    arguments::RotateCommand,
    config::Configuration,
    context::Context,
    error::CliError,
    keys,
    output::Failure,
    vault::{self, Needs, WithKit},
};

/// What takes the place of what.
#[derive(Serialize)]
struct Replacement {
    /// The slot that is taken out.
    replaces: SlotId,
    label: String,
    /// The new kit's file.
    kit: PathBuf,
    /// Whether the words of the sheet stay.
    keeps_words: bool,
    /// Whether the passphrase stays.
    keeps_passphrase: bool,
    dry_run: bool,
}

#[derive(Serialize)]
struct Epoch {
    #[serde(flatten)]
    plan: EpochPlan,
    dry_run: bool,
}

/// Runs it.
pub async fn run(context: &Context, command: &RotateCommand) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    match command {
        RotateCommand::Passphrase { output, new_passphrase_file, dry_run } => {
            let opened = open(context, &configuration).await?;
            let replacement = plan(context, &opened, output, (true, false), *dry_run).await?;
            if !*dry_run {
                let passphrase = vault::new_passphrase(context, &configuration, new_passphrase_file.as_deref()).await?;
                let request = SlotRequest {
                    passphrase: &passphrase,
                    kdf: KdfParameters::default(),
                    same_words_as: Some(&opened.kit),
                    label: &replacement.label,
                };
                slots::make(context, &opened.vault, request, output, Some(replacement.replaces)).await?;
            }
            context.output.result(&replacement, || render(&replacement))?;
        }
        RotateCommand::Kit { output, dry_run } => {
            let opened = open(context, &configuration).await?;
            let replacement = plan(context, &opened, output, (false, true), *dry_run).await?;
            if !*dry_run {
                let request = SlotRequest {
                    passphrase: &opened.passphrase,
                    kdf: KdfParameters::default(),
                    same_words_as: None,
                    label: &replacement.label,
                };
                slots::make(context, &opened.vault, request, output, Some(replacement.replaces)).await?;
            }
            context.output.result(&replacement, || render(&replacement))?;
        }
        RotateCommand::Epoch { dry_run } => {
            let vault = vault::open(context, &configuration, Needs::Administrator).await?;
            let plan = context.until_stopped("nothing was done", vault.plan_epoch()).await??;
            if !*dry_run {
                let left = "the epoch may have begun: run it again with --dry-run to see which is next";
                context.until_stopped(left, vault.begin_epoch(&plan)).await??;
            }
            let epoch = Epoch { plan, dry_run: *dry_run };
            context.output.result(&epoch, || render_epoch(&epoch))?;
        }
    }
    Ok(())
}

async fn open(context: &Context, configuration: &Configuration) -> Result<WithKit, Failure> {
    let store = vault::store(context, configuration)?;
    vault::with_kit(context, configuration, store).await
}

async fn plan(
    context: &Context,
    opened: &WithKit,
    output: &Path,
    (keeps_words, keeps_passphrase): (bool, bool),
    dry_run: bool,
) -> Result<Replacement, Failure> {
    let replaces = opened.vault.own_slot()?;
    // A slot that took its own place would be gone. An interrupted change is finished with the old kit, not with the new one.
    if output.exists() && keys::read_kit(context.output, output)?.slot() == replaces {
        return Err(CliError::KitInUse { path: output.to_owned() }.into());
    }
    let known = context.until_stopped("nothing was done", opened.vault.slots()).await??;
    let label = slots::label_of(&known, replaces);
    Ok(Replacement { replaces, label, kit: output.to_owned(), keeps_words, keeps_passphrase, dry_run })
}

fn render(replacement: &Replacement) -> String {
    let Replacement { replaces, kit, keeps_words, keeps_passphrase, dry_run, .. } = replacement;
    let kit = kit.display();
    let words = if *keeps_words { "the same words" } else { "new words" };
    let passphrase = if *keeps_passphrase { "the same passphrase" } else { "a new passphrase" };
    if *dry_run {
        return format!(
            "{kit} would be a recovery kit with {words} and {passphrase}, and take the place of slot {replaces}.\n"
        );
    }
    let keep = if *keeps_words {
        "The sheet is still right; the kit's old file is not: destroy it, and name the new one in the configuration.\n"
    } else {
        "Print its sheet, destroy the old kit's file and sheet, and name the new one in the configuration.\n"
    };
    let place = if *keeps_passphrase {
        ""
    } else {
        "Put the new passphrase where `passphrase-file` or `passphrase-env` says.\n"
    };
    format!(
        "{kit} opens the vault from now on, with {words} and {passphrase}; the old kit does not.\n{keep}{place}\
         Whoever may know the old kit and its passphrase can still open what is stored until a new epoch begins: \
         `farshore vault rotate epoch`.\n"
    )
}

fn render_epoch(epoch: &Epoch) -> String {
    let Epoch { plan, dry_run } = epoch;
    let hosts: Vec<&str> = plan.hosts.iter().map(|host| host.as_str()).collect();
    let hosts = if hosts.is_empty() { "no host".to_owned() } else { hosts.join(", ") };
    let slots = plan.slots.len();
    if *dry_run {
        return format!(
            "Epoch {} would begin. Its keys would go to {slots} slots and to {hosts}; nobody else could open what is stored \
             then.\n",
            plan.epoch
        );
    }
    format!(
        "Epoch {} has begun. Its keys went to {slots} slots and to {hosts}. Replicators seal to it with their next cycle;\n\
         nobody else opens what is stored from now on. What was stored before stays open to who could open it.\n",
        plan.epoch
    )
}
