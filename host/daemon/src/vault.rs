//! Opening the vault of the configuration: its address, its store's options and secrets, its passphrase.

use std::{collections::BTreeMap, io::IsTerminal as _, num::NonZeroUsize, sync::Arc};

use farshore_core::Passphrase;
use farshore_vault::{Address, Context as VaultContext, Store, StoreOptions, Vault, Workers};

use crate::{
    config::{Configuration, model::SecretPlace, secret},
    context::Context,
    error::CliError,
    output::{Failure, Output},
};

/// Opens the vault.
///
/// # Errors
/// When a secret cannot be had, and what the vault says.
pub async fn open(context: &Context, configuration: &Configuration) -> Result<Arc<Vault>, Failure> {
    let store = store(context.output, configuration)?;
    let passphrase = passphrase(context.output, configuration, Asking::Once).await?;
    let opening = Vault::open(store, &passphrase, vault_context(context, configuration));
    let vault = context.until_stopped("nothing was done", opening).await??;
    Ok(Arc::new(vault))
}

/// What the vault takes from outside.
pub fn vault_context(context: &Context, configuration: &Configuration) -> VaultContext {
    let mut vault_context = VaultContext::system();
    vault_context.clock = Arc::clone(&context.clock);
    vault_context.entropy = Arc::clone(&context.entropy);
    if let Some(count) = configuration.host.worker_threads.and_then(|count| NonZeroUsize::new(count.into())) {
        vault_context.workers = Workers::threads(count);
    }
    vault_context
}

/// The store behind the vault.
///
/// # Errors
/// When a secret cannot be had, or the store cannot be used as it is configured.
pub fn store(output: Output, configuration: &Configuration) -> Result<Store, Failure> {
    let vault = &configuration.vault;
    let address: Address = vault.address.parse()?;
    let name_in_store = |name: &str| name.replace('-', "_");
    let mut values: BTreeMap<String, String> =
        vault.options.iter().map(|(name, value)| (name_in_store(name), value.to_string())).collect();
    for (name, place) in &vault.secrets {
        let refused = |source| CliError::Secret { what: format!("the vault's secret `{name}`"), source };
        let value = match place {
            SecretPlace::Env(variable) => secret::read_variable(variable).map_err(refused)?,
            SecretPlace::File(file) => {
                let read = secret::read_file(&configuration.path(file)).map_err(refused)?;
                read.warning.iter().for_each(|warning| output.warn(warning));
                read.secret
            }
        };
        values.insert(name_in_store(name), value.to_string());
    }
    Ok(Store::open(&address, &StoreOptions::from_env(values))?)
}

/// How a passphrase is asked for on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// To open what is there.
    Once,
    /// To make something that only it will open.
    Twice,
}

/// The vault's passphrase, from its file, its environment variable, or the terminal.
///
/// # Errors
/// When it cannot be had.
pub async fn passphrase(output: Output, configuration: &Configuration, asking: Asking) -> Result<Passphrase, Failure> {
    let refused = |source| CliError::Secret { what: "the vault's passphrase".to_owned(), source };
    let vault = &configuration.vault;
    if let Some(file) = &vault.passphrase_file {
        let read = secret::read_file(&configuration.path(file)).map_err(refused)?;
        read.warning.iter().for_each(|warning| output.warn(warning));
        // The first line counts, so that a file may say below what it is.
        return Ok(Passphrase::new(read.secret.lines().next().unwrap_or_default()));
    }
    if let Some(variable) = &vault.passphrase_env {
        return Ok(Passphrase::new(secret::read_variable(variable).map_err(refused)?.as_str()));
    }
    if !std::io::stdin().is_terminal() {
        return Err(CliError::NobodyToAsk.into());
    }
    let address = vault.address.clone();
    let typed = tokio::task::spawn_blocking(move || ask(&address, asking)).await;
    Ok(typed.unwrap_or(Err(CliError::NobodyToAsk))?)
}

fn ask(address: &str, asking: Asking) -> Result<Passphrase, CliError> {
    let prompt =
        |text: &str| rpassword::prompt_password(text).map(zeroize::Zeroizing::new).map_err(|_| CliError::NobodyToAsk);
    let first = prompt(&format!("Passphrase of the vault at {address}: "))?;
    if first.is_empty() {
        return Err(CliError::PassphraseUnusable { why: "it is empty" });
    }
    if asking == Asking::Twice && *prompt("The same again: ")? != *first {
        return Err(CliError::PassphraseUnusable { why: "the two typings differ" });
    }
    Ok(Passphrase::new(first.as_str()))
}
