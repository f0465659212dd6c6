//! `vault create`: the kit first, then the vault, then this host's credential.

use std::{
    io::{BufRead as _, IsTerminal as _},
    path::PathBuf,
};

use farshore_vault::{CreateOptions, HostCredential, Kit, Power, Vault, VaultInfo};
use serde::Serialize;

use crate::{
    arguments::CreateArguments,
    config::Configuration,
    context::Context,
    error::CliError,
    keys,
    output::Failure,
    vault::{self, Asking},
};

/// How often the words may be typed.
const TRIES_MAX: usize = 3;

/// The invitation of this host is used at once; it need not last.
const INVITATION_MILLISECONDS: i64 = 600_000;

#[derive(Serialize)]
struct Made {
    #[serde(flatten)]
    vault: VaultInfo,
    kit: PathBuf,
    credential: PathBuf,
}

/// Runs it.
pub async fn run(context: &Context, arguments: &CreateArguments) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let store = vault::store(context, &configuration)?;
    if context.until_stopped("nothing was made", Vault::id_at(&store)).await??.is_some() {
        return Err(farshore_vault::Error::VaultExists { address: store.address().to_owned() }.into());
    }
    let kit_file = keys::kit_file(context, &configuration).ok_or(CliError::NoKitNamed)?;
    if kit_file.exists() {
        return Err(CliError::OutputExists { path: kit_file }.into());
    }
    if !context.yes && !std::io::stdin().is_terminal() {
        return Err(CliError::KitNotConfirmed { why: "nobody is there to type its words" }.into());
    }
    super::super::state_folder(&configuration)?;
    let passphrase = vault::passphrase(context, &configuration, Asking::Twice).await?;
    let drafting = Vault::draft(
        store.clone(),
        &passphrase,
        CreateOptions::default(),
        vault::vault_context(context, &configuration),
    );
    let draft = context.until_stopped("nothing was made", drafting).await??;
    keys::write(&kit_file, &draft.kit().to_text())?;
    let made = async {
        if !context.yes {
            confirm(context, draft.kit()).await?;
        }
        let left = "the vault may have been made: `farshore vault info` tells";
        Ok::<_, Failure>(context.until_stopped(left, draft.create()).await??)
    };
    let vault = match made.await {
        Ok(vault) => vault,
        Err(failure) => {
            // A kit that opens nothing would only mislead. If the vault may be there, its kit stays.
            if matches!(Vault::id_at(&store).await, Ok(None)) {
                let _ = std::fs::remove_file(&kit_file);
            }
            return Err(failure);
        }
    };
    let joined = join(context, &configuration, &store, &vault, arguments).await;
    if joined.is_err() {
        let kit = kit_file.display();
        context.output.warn(&format!(
            "the vault was made, and {kit} is its kit; this host has not joined it: `farshore vault join create` lets it in"
        ));
    }
    let credential = joined?;
    let made = Made { vault: vault.info().await?, kit: kit_file, credential };
    context.output.result(&made, || render(&made, arguments))?;
    Ok(())
}

/// Lets this host in, with the powers that the operator wants it to have by itself.
async fn join(
    context: &Context,
    configuration: &Configuration,
    store: &farshore_vault::Store,
    vault: &Vault,
    arguments: &CreateArguments,
) -> Result<PathBuf, Failure> {
    let now = context.clock.now().as_unix_milliseconds();
    let expires_at = farshore_core::Timestamp::from_unix_milliseconds(now.saturating_add(INVITATION_MILLISECONDS));
    let invitation = vault.invite(&arguments.host, &arguments.powers, expires_at).await?;
    let credential = HostCredential::new(&invitation, &*context.entropy);
    let file = keys::keep_credential(configuration, &credential)?;
    credential.enrol(store, &invitation, &vault::vault_context(context, configuration)).await?;
    vault.approve(&arguments.host).await?;
    Ok(file)
}

/// Shows the sheet, and asks for some of its words.
pub(super) async fn confirm(context: &Context, kit: &Kit) -> Result<(), Failure> {
    let [first, second, third] = kit.asked_words();
    context.output.remark(&format!(
        "{}\nCopy or print this sheet now: it is not shown again unless you ask for it with `farshore vault kit print`.\n\
         Then type the words {first}, {second} and {third} from your copy, in one line:",
        kit.sheet().as_str()
    ));
    for _ in 0..TRIES_MAX {
        let typed = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).map(|_| line)
        });
        let nobody = || CliError::KitNotConfirmed { why: "nobody typed its words" };
        let line = context.until_stopped("nothing was made", typed).await?;
        let line = line.ok().and_then(Result::ok).filter(|line| !line.is_empty()).ok_or_else(nobody)?;
        if kit.accepts(&line.split_whitespace().collect::<Vec<_>>()) {
            return Ok(());
        }
        context.output.remark("These are not the words. Once more:");
    }
    Err(CliError::KitNotConfirmed { why: "the words were wrong" }.into())
}

fn render(made: &Made, arguments: &CreateArguments) -> String {
    let powers: Vec<&str> = arguments.powers.iter().map(|power| power.name()).collect();
    let reads = arguments.powers.contains(&Power::Recoverer);
    let reading = if reads { "" } else { " It cannot read what it stores." };
    format!(
        "Made vault {} at {}.\n\
         Recovery kit  {}\n  Whoever has it and the passphrase can read and change everything; without either nobody can. Print it\n  \
         (`farshore vault kit print`), and keep copies away from this host and from the passphrase.\n\
         This host     {}, which may be {} without them.{reading}\n",
        made.vault.id,
        made.vault.address,
        made.kit.display(),
        arguments.host,
        powers.join(" and "),
    )
}
