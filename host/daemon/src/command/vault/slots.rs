//! `vault slots list|add|remove`, and the making of a slot, which `vault rotate` needs too.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
};

use farshore_core::{SlotId, Timestamp, VaultId};
use farshore_vault::{KdfParameters, Kit, SlotInfo, SlotRequest, Vault};
use serde::Serialize;

use super::create;
use crate::{
    arguments::SlotsCommand,
    context::Context,
    error::CliError,
    keys,
    output::{Failure, Table, human},
    vault::{self, Needs},
};

#[derive(Serialize)]
struct Added {
    vault: VaultId,
    slot: SlotId,
    kit: PathBuf,
}

#[derive(Serialize)]
struct Removed {
    slot: SlotId,
}

/// Runs it.
pub async fn run(context: &Context, command: &SlotsCommand) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    match command {
        SlotsCommand::List => {
            let vault = vault::open(context, &configuration, Needs::Powers(&[])).await?;
            let slots = context.until_stopped("nothing was changed", vault.slots()).await??;
            context.output.result(&slots, || render(&slots, context.clock.now()))?;
        }
        SlotsCommand::Add { output, label, new_passphrase_file } => {
            let store = vault::store(context, &configuration)?;
            let vault = vault::with_kit(context, &configuration, store).await?.vault;
            let passphrase = vault::new_passphrase(context, &configuration, new_passphrase_file.as_deref()).await?;
            let request =
                SlotRequest { passphrase: &passphrase, kdf: KdfParameters::default(), same_words_as: None, label };
            let kit = make(context, &vault, request, output, None).await?;
            let added = Added { vault: vault.id(), slot: kit.slot(), kit: output.clone() };
            context.output.result(&added, || {
                let kit = added.kit.display();
                format!("{kit} and its passphrase open vault {} from now on, with every power.\n", added.vault)
            })?;
        }
        SlotsCommand::Remove { slot } => {
            let vault = vault::open(context, &configuration, Needs::Administrator).await?;
            let known = context.until_stopped("nothing was changed", vault.slots()).await??;
            if known.iter().all(|known| known.id != *slot) {
                return Err(CliError::NoSuchSlot { slot: *slot }.into());
            }
            let left = "the slot may be gone: `farshore vault slots list` tells";
            context.until_stopped(left, vault.remove_slot(*slot)).await??;
            context.output.result(&Removed { slot: *slot }, || {
                format!(
                    "The kit of slot {slot} opens the vault no more.\nIf somebody else may have opened the vault with it, \
                     begin a new epoch: `farshore vault rotate epoch`.\n"
                )
            })?;
        }
    }
    Ok(())
}

/// Makes a slot, in place of another: the kit's file first, so that what is interrupted can be finished with it.
pub(super) async fn make(
    context: &Context,
    vault: &Vault,
    request: SlotRequest<'_>,
    output: &Path,
    replaces: Option<SlotId>,
) -> Result<Kit, Failure> {
    let has_new_words = request.same_words_as.is_none();
    let is_resumed = output.exists();
    let draft = if is_resumed {
        let kit = keys::read_kit(context.output, output)?;
        let resuming = vault.resume_slot(kit, request.passphrase, request.label);
        context.until_stopped("nothing was done", resuming).await??
    } else {
        if has_new_words && !context.yes && !std::io::stdin().is_terminal() {
            return Err(CliError::KitNotConfirmed { why: "nobody is there to type its words" }.into());
        }
        let draft = context.until_stopped("nothing was done", vault.draft_slot(request)).await??;
        keys::write(output, &draft.kit().to_text())?;
        draft
    };
    if has_new_words && !context.yes {
        let confirmed = create::confirm(context, draft.kit()).await;
        // A kit that was drafted just now opens nothing yet; one that was found may open the vault already.
        if confirmed.is_err() && !is_resumed {
            let _ = std::fs::remove_file(output);
        }
        confirmed?;
    }
    let kit = draft.kit().clone();
    let left = "run it again with the same file to finish it";
    context.until_stopped(left, draft.commit(replaces)).await??;
    Ok(kit)
}

/// The label of a slot, for the one that takes its place.
pub(super) fn label_of(slots: &[SlotInfo], own: SlotId) -> String {
    slots.iter().find(|slot| slot.id == own).map(|slot| slot.label.clone()).unwrap_or_default()
}

fn render(slots: &[SlotInfo], now: Timestamp) -> String {
    let mut table = Table::new(&["SLOT", "LABEL", "MADE", ""]);
    for slot in slots {
        table.row([
            slot.id.to_string(),
            slot.label.clone(),
            slot.made_at.map(|time| human::time_and_age(time, now)).unwrap_or_default(),
            match (slot.is_own, slot.follows_epochs) {
                (true, _) => "opened with this one".to_owned(),
                (false, true) => String::new(),
                (false, false) => "keeps a new epoch from beginning: replace or remove it".to_owned(),
            },
        ]);
    }
    table.render()
}
