//! `vault kit print|check|type`.

use std::{
    io::{IsTerminal as _, Read as _},
    path::PathBuf,
};

use farshore_core::VaultId;
use farshore_vault::Vault;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{
    arguments::KitCommand,
    context::Context,
    error::CliError,
    keys,
    output::Failure,
    vault::{self, Asking, Needs},
};

/// The most bytes that are read as the words of a sheet.
const WORDS_BYTES_MAX: u64 = 4096;

#[derive(Serialize)]
struct Checked {
    vault: VaultId,
    opens: bool,
}

#[derive(Serialize)]
struct Typed {
    vault: VaultId,
    kit: PathBuf,
}

/// Runs it.
pub async fn run(context: &Context, command: &KitCommand) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    match command {
        KitCommand::Print => {
            let file = keys::kit_file(context, &configuration).ok_or(CliError::NoKitNamed)?;
            let kit = keys::read_kit(context.output, &file)?;
            context.output.result(&*kit.words(), || kit.sheet().to_string())?;
        }
        KitCommand::Check => {
            let vault = vault::open(context, &configuration, Needs::Administrator).await?;
            let checked = Checked { vault: vault.id(), opens: true };
            context
                .output
                .result(&checked, || format!("The recovery kit and the passphrase open vault {}.\n", checked.vault))?;
        }
        KitCommand::Type { output } => {
            if output.exists() {
                return Err(CliError::OutputExists { path: output.clone() }.into());
            }
            let store = vault::store(context, &configuration)?;
            let passphrase = vault::passphrase(context, &configuration, Asking::Once).await?;
            if std::io::stdin().is_terminal() {
                context.output.remark("Type the words of the sheet in their order, then Ctrl-D in a line of its own:");
            }
            let reading = tokio::task::spawn_blocking(|| {
                let mut words = Zeroizing::new(String::new());
                std::io::stdin().lock().take(WORDS_BYTES_MAX).read_to_string(&mut words).map(|_| words)
            });
            let words = context.until_stopped("nothing was done", reading).await?;
            let words = words.ok().and_then(Result::ok).unwrap_or_default();
            let vault_context = vault::vault_context(context, &configuration);
            let making = Vault::kit_from_words(store, &words, &passphrase, vault_context);
            let kit = context.until_stopped("nothing was done", making).await??;
            keys::write(output, &kit.to_text())?;
            let typed = Typed { vault: kit.vault(), kit: output.clone() };
            context.output.result(&typed, || {
                format!("{} is the recovery kit of vault {} again.\n", typed.kit.display(), typed.vault)
            })?;
        }
    }
    Ok(())
}
