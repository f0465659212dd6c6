//! `rescue`: recovery points, disks and capsules from the kit, the passphrase and the store alone.

use farshore_vault::Address;

use crate::{
    arguments::{PointsArguments, RescueArguments, RestoreArguments},
    config::{
        Configuration, Vault,
        model::{Bandwidth, OptionValue},
    },
    context::Context,
    error::CliError,
    keys,
    output::Failure,
    vault::{self, Needs},
};

/// The most points of each group that are listed.
const POINTS_LISTED_MAX: u32 = 1_000;

/// Runs it.
pub async fn run(context: &Context, arguments: RescueArguments) -> Result<(), Failure> {
    let file = context.kit_file.clone().ok_or(CliError::NoKitNamed)?;
    let kit = keys::read_kit(context.output, &file)?;
    let RescueArguments { group, vault, option, passphrase_file, point, machine, disk, to, capsule } = arguments;
    let address = vault.unwrap_or_else(|| kit.address().to_owned());
    // Before anything is asked for.
    address.parse::<Address>()?;
    let configuration = Configuration::of_vault(Vault {
        address,
        kit_file: Some(file),
        passphrase_file,
        passphrase_env: None,
        options: option.into_iter().map(|(name, value)| (name, OptionValue::Text(value))).collect(),
        secrets: std::collections::BTreeMap::new(),
        // The data alone can be read.
        data: None,
        bandwidth: Bandwidth::default(),
    });
    let vault = vault::open(context, &configuration, Needs::Administrator).await?;
    match (group, to, capsule) {
        (Some(group), _, Some(folder)) => super::capsule::extract(context, &vault, &group, point, &folder).await,
        (Some(group), Some(to), None) => {
            // On the worst day nothing is written to the vault, not even that this point came back.
            super::restore::restore(context, &vault, &RestoreArguments { group, point, machine, disk, to }).await?;
            Ok(())
        }
        (group, ..) => super::points::list(context, &vault, &PointsArguments { group, limit: POINTS_LISTED_MAX }).await,
    }
}
