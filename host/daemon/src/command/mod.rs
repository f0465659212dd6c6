//! The commands, one file each. A command turns arguments into one call of a library and renders what comes back; what
//! replication, failover or a vault do is decided elsewhere.

mod capsule;
mod config;
mod demo;
mod drill;
mod events;
mod explain;
mod failover;
mod machine;
mod point;
mod points;
mod replicate;
mod rescue;
mod restore;
mod run;
mod serve;
mod status;
mod vault;

use std::path::PathBuf;

use farshore_core::{GroupName, Sequence};
use farshore_vault::{Lineage, ProofClaim, Vault};

pub use self::points::basis;
use crate::{
    arguments::{Arguments, Command, FailoverCommand, PointChoice, PointCommand},
    config::Configuration,
    context::Context,
    error::CliError,
    output::Failure,
};

/// Does what the command line asks.
///
/// # Errors
/// The one error that ends the command.
pub async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Vault(command) => vault::run(context, &command).await,
        Command::Machine(command) => machine::run(context, &command).await,
        Command::Serve => serve::run(context).await,
        Command::Status(arguments) => status::run(context, &arguments).await,
        Command::Events(arguments) => events::run(context, &arguments).await,
        Command::Replicate(arguments) => replicate::run(context, arguments).await,
        Command::Point(PointCommand::Create(arguments)) => point::create(context, arguments).await,
        Command::Points(arguments) => points::run(context, &arguments).await,
        Command::Restore(arguments) => restore::run(context, &arguments).await,
        Command::Capsule(command) => capsule::run(context, &command).await,
        Command::Rescue(arguments) => rescue::run(context, arguments).await,
        Command::Drill(arguments) => drill::run(context, &arguments).await,
        Command::Failover(FailoverCommand::Unplanned(arguments)) => failover::run(context, arguments).await,
        Command::Run(command) => run::run(context, &command).await,
        Command::Config(command) => config::run(context, &command).await,
        Command::Explain { code } => explain::run(context, code.as_deref()),
        Command::Demo(arguments) => demo::run(context, arguments).await,
    }
}

/// The lineage of a group, which may have none in this vault.
async fn lineage(vault: &Vault, group: &GroupName) -> Result<Lineage, Failure> {
    let lineage = vault.lineage(group).await?;
    lineage.ok_or_else(|| farshore_failover::FailoverError::NothingToRecover { group: group.clone() }.into())
}

/// Keeps with a point what was proven of it. What was done is done, whether that can be kept or not.
async fn keep_proof(context: &Context, lineage: &Lineage, point: Sequence, claim: ProofClaim) -> Result<(), Failure> {
    let recording = lineage.record_proof(point, &claim);
    if let Err(error) = context.until_stopped("that it was proven may not be kept", recording).await? {
        context.output.warn(&format!("that this proved point {point} could not be kept with it: {error}"));
    }
    Ok(())
}

/// The number of the chosen point; none for the newest.
fn chosen(point: PointChoice) -> Option<Sequence> {
    match point {
        PointChoice::Newest => None,
        PointChoice::Number(number) => Some(Sequence::new(number)),
    }
}

/// The folder of the host's diaries, made if it is not there.
pub fn state_folder(configuration: &Configuration) -> Result<PathBuf, CliError> {
    let path = configuration.path(&configuration.host.state_folder);
    match std::fs::create_dir_all(&path) {
        Ok(()) => Ok(path),
        Err(source) => Err(CliError::Folder { what: "state folder", path, source }),
    }
}
