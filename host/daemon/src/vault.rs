//! Opening the vault of the configuration: its address, its store's options and secrets, what opens it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{IsTerminal as _, Write as _},
    num::NonZeroUsize,
    path::Path,
    sync::Arc,
};

use farshore_core::{Passphrase, VaultId};
use farshore_vault::{
    Address, Context as VaultContext, Error as VaultError, Kit, Opener, PacedConnector, Power, Store, StoreOptions,
    Vault, Workers,
};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::{
    config::{
        Configuration,
        model::{OptionValue, SecretPlace},
        secret,
    },
    context::Context,
    error::CliError,
    keys,
    output::{Failure, Output},
};

/// What a command needs of the vault.
#[derive(Debug, Clone, Copy)]
pub enum Needs {
    /// These powers, of this host or by the kit and the passphrase.
    Powers(&'static [Power]),
    /// The kit and the passphrase.
    Administrator,
}

/// Opens the vault: as this host, if it has joined and has the powers that are needed; otherwise with the recovery kit and
/// the passphrase.
///
/// # Errors
/// [`CliError::NothingOpens`]; when a secret cannot be had; and what the vault says.
pub async fn open(context: &Context, configuration: &Configuration, needs: Needs) -> Result<Arc<Vault>, Failure> {
    let store = store(context, configuration)?;
    let nothing_done = "nothing was done";
    let found = context.until_stopped(nothing_done, Vault::id_at(&store)).await??;
    let missing = || VaultError::VaultMissing { address: store.address().to_owned() };
    let id = found.ok_or_else(missing)?;
    let kit_file = keys::kit_file(context, configuration);
    if let Needs::Powers(powers) = needs {
        match as_host(context, configuration, &store, id).await {
            // Without a kit the vault itself says which power is missing.
            Ok(Some(vault)) if kit_file.is_none() || powers.iter().all(|power| vault.powers().contains(power)) => {
                return Ok(Arc::new(vault));
            }
            Ok(_) => {}
            // Whoever has the kit does not depend on this host.
            Err(failure) if kit_file.is_some() && !context.stop.is_cancelled() => {
                context.output.warn(&format!("opened with the recovery kit instead: {}", failure.message));
            }
            Err(failure) => return Err(failure),
        }
    }
    if kit_file.is_none() && matches!(needs, Needs::Powers(_)) {
        return Err(CliError::NothingOpens.into());
    }
    Ok(Arc::new(with_kit(context, configuration, store).await?.vault))
}

/// A vault that was opened with a recovery kit, and with what.
pub struct WithKit {
    pub vault: Vault,
    pub kit: Kit,
    pub passphrase: Passphrase,
}

/// Opens the vault with the recovery kit and the passphrase.
///
/// # Errors
/// When no kit is named, or a secret cannot be had; and what the vault says.
pub async fn with_kit(context: &Context, configuration: &Configuration, store: Store) -> Result<WithKit, Failure> {
    let file = keys::kit_file(context, configuration).ok_or(CliError::NoKitNamed)?;
    let kit = keys::read_kit(context.output, &file)?;
    let passphrase = passphrase(context, configuration, Asking::Once).await?;
    let opener = Opener::Kit(Box::new(kit.clone()), passphrase.clone());
    let opening = Vault::open(store, &opener, vault_context(context, configuration));
    let vault = context.until_stopped("nothing was done", opening).await??;
    Ok(WithKit { vault, kit, passphrase })
}

/// The vault, opened as this host; none if it has not joined.
async fn as_host(
    context: &Context,
    configuration: &Configuration,
    store: &Store,
    id: VaultId,
) -> Result<Option<Vault>, Failure> {
    let Some(credential) = keys::credential(context, configuration, id)? else { return Ok(None) };
    let opener = Opener::Host(Box::new(credential));
    let opening = Vault::open(store.clone(), &opener, vault_context(context, configuration));
    Ok(Some(context.until_stopped("nothing was done", opening).await??))
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

/// The store behind the vault, or the two.
///
/// # Errors
/// When a secret cannot be had, or a store cannot be used as it is configured.
pub fn store(context: &Context, configuration: &Configuration) -> Result<Store, Failure> {
    let vault = &configuration.vault;
    context.uploads.set(vault.bandwidth.limits(&configuration.host.time_zone));
    let upload = vault.bandwidth.says_something().then(|| Arc::clone(&context.uploads));
    let connector = PacedConnector { upload, download: None };
    let at = |address, options, secrets| store_at(context.output, configuration, address, options, secrets, &connector);
    let store = at(&vault.address, &vault.options, &vault.secrets)?;
    let Some(data) = &vault.data else { return Ok(store) };
    Ok(store.with_data(at(&data.address, &data.options, &data.secrets)?))
}

fn store_at(
    output: Output,
    configuration: &Configuration,
    address: &str,
    options: &BTreeMap<String, OptionValue>,
    secrets: &BTreeMap<String, SecretPlace>,
    connector: &PacedConnector,
) -> Result<Store, Failure> {
    let address: Address = address.parse()?;
    let name_in_store = |name: &str| name.replace('-', "_");
    let mut values: BTreeMap<String, String> =
        options.iter().map(|(name, value)| (name_in_store(name), value.to_string())).collect();
    for (name, place) in secrets {
        let refused = |source| CliError::Secret { what: format!("the vault's secret `{name}`"), source };
        let value = configuration.secret(output, place).map_err(refused)?;
        values.insert(name_in_store(name), value.to_string());
    }
    Ok(Store::open_paced(&address, &StoreOptions::from_env(values), connector)?)
}

/// How a passphrase is asked for on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// To open what is there.
    Once,
    /// To make something that only it will open.
    Twice,
    /// The same, when there is another already.
    New,
}

/// The vault's passphrase, from its file, its environment variable, or the terminal.
///
/// # Errors
/// When it cannot be had.
pub async fn passphrase(
    context: &Context,
    configuration: &Configuration,
    asking: Asking,
) -> Result<Passphrase, Failure> {
    let refused = |source| CliError::Secret { what: "the vault's passphrase".to_owned(), source };
    let vault = &configuration.vault;
    if let Some(file) = &vault.passphrase_file {
        let read = secret::read_file(&configuration.path(file)).map_err(refused)?;
        read.warning.iter().for_each(|warning| context.output.warn(warning));
        // The first line counts, so that a file may say below what it is.
        return Ok(Passphrase::new(read.secret.lines().next().unwrap_or_default()));
    }
    if let Some(variable) = &vault.passphrase_env {
        return Ok(Passphrase::new(secret::read_variable(variable).map_err(refused)?.as_str()));
    }
    if !std::io::stdin().is_terminal() {
        return Err(CliError::NobodyToAsk.into());
    }
    let typed = typed(context, vault.address.clone(), asking).await?;
    Ok(Passphrase::new(typed.as_str()))
}

/// A new passphrase, from a file or the terminal.
///
/// # Errors
/// When it cannot be had.
pub async fn new_passphrase(
    context: &Context,
    configuration: &Configuration,
    file: Option<&Path>,
) -> Result<Passphrase, Failure> {
    if let Some(file) = file {
        let refused = |source| CliError::Secret { what: "the new passphrase".to_owned(), source };
        let read = secret::read_file(file).map_err(refused)?;
        read.warning.iter().for_each(|warning| context.output.warn(warning));
        return Ok(Passphrase::new(read.secret.lines().next().unwrap_or_default()));
    }
    if !std::io::stdin().is_terminal() {
        return Err(CliError::NobodyToAsk.into());
    }
    let typed = typed(context, configuration.vault.address.clone(), Asking::New).await?;
    Ok(Passphrase::new(typed.as_str()))
}

/// What is typed on the terminal, until a signal comes.
///
/// While it reads, `rpassword` has the terminal without echo and without signals from the keyboard: it reads Ctrl-C as a
/// letter, restores the terminal, raises SIGINT and fails. A signal from elsewhere does not wake its read. The thread that
/// reads is then left behind, and the terminal is restored here, because the process ends without that thread's doing so.
async fn typed(context: &Context, address: String, asking: Asking) -> Result<Zeroizing<String>, CliError> {
    let nothing_done = "nothing was done";
    let terminal = Terminal::now();
    let typing = tokio::task::spawn_blocking(move || ask(&address, asking));
    let typed = match context.until_stopped(nothing_done, typing).await {
        Ok(typed) => typed.unwrap_or(Err(Unasked::Refused(CliError::NobodyToAsk))),
        Err(interrupted) => {
            terminal.restore();
            return Err(interrupted);
        }
    };
    match typed {
        Ok(typed) => Ok(typed),
        Err(Unasked::Refused(error)) => Err(error),
        Err(Unasked::Interrupted) => {
            // The signal was raised already; whoever waits for signals hears of it in a moment.
            context.stop.cancelled().await;
            Err(context.interrupted(nothing_done))
        }
    }
}

/// Why nothing was typed.
enum Unasked {
    /// Ctrl-C.
    Interrupted,
    /// Anything else.
    Refused(CliError),
}

fn ask(address: &str, asking: Asking) -> Result<Zeroizing<String>, Unasked> {
    let prompt = |text: &str| {
        rpassword::prompt_password(text).map(Zeroizing::new).map_err(|error| match error.kind() {
            std::io::ErrorKind::Interrupted => Unasked::Interrupted,
            _ => Unasked::Refused(CliError::NobodyToAsk),
        })
    };
    let unusable = |why| Unasked::Refused(CliError::PassphraseUnusable { why });
    let what = if asking == Asking::New { "New passphrase" } else { "Passphrase" };
    let first = prompt(&format!("{what} of the vault at {address}: "))?;
    if first.is_empty() {
        return Err(unusable("it is empty"));
    }
    if asking != Asking::Once && *prompt("The same again: ")? != *first {
        return Err(unusable("the two typings differ"));
    }
    Ok(first)
}

/// The settings of the terminal that `rpassword` asks on, as they were.
struct Terminal(Option<(File, Termios)>);

impl Terminal {
    fn now() -> Self {
        // Without a terminal there is nothing to restore, and asking fails by itself.
        let terminal = File::options().read(true).write(true).open("/dev/tty").ok();
        Self(terminal.and_then(|terminal| tcgetattr(&terminal).ok().map(|settings| (terminal, settings))))
    }

    fn restore(self) {
        if let Some((terminal, settings)) = self.0 {
            // It fails when the terminal has gone, and then nobody sees it. The prompt's line is still open.
            let _ = tcsetattr(&terminal, OptionalActions::Now, &settings);
            let _ = (&terminal).write_all(b"\n");
        }
    }
}
