//! `vault policy`.

use std::collections::BTreeMap;

use farshore_vault::{Address, StoreRole, bucket_policy};
use serde_json::Value;

use crate::{arguments::PolicyArguments, context::Context, output::Failure};

/// The most bytes that S3 takes of a policy, should it count spaces.
const INDENTED_BYTES_MAX: usize = 20 * 1024;

/// Runs it.
///
/// It contacts nothing: credentials that may do something in the bucket are made with the policy that it prints.
pub fn run(context: &Context, arguments: &PolicyArguments) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let vault = &configuration.vault;
    let metadata: Address = vault.address.parse()?;
    let data = vault.data.as_ref().map(|data| data.address.parse::<Address>()).transpose()?;
    // Buckets of one name may be on two servers; a policy for both folders is right in each.
    let is_one_bucket = match (&metadata, &data) {
        (Address::S3 { bucket, .. }, Some(Address::S3 { bucket: other, .. })) => bucket == other,
        _ => false,
    };
    let addresses = match (data, arguments.data) {
        (Some(data), _) if is_one_bucket => vec![metadata, data],
        (Some(data), true) => vec![data],
        (_, false) => vec![metadata],
        (None, true) => {
            let address = vault.address.clone();
            let problem = "the configuration names no other address for the vault's data".to_owned();
            return Err(farshore_vault::Error::AddressesUnfit { address, problem }.into());
        }
    };
    let principals = BTreeMap::from([
        (StoreRole::Replicator, arguments.replicator.clone()),
        (StoreRole::Recoverer, arguments.recoverer.clone()),
        (StoreRole::Controller, arguments.controller.clone()),
        (StoreRole::Pruner, arguments.pruner.clone()),
        (StoreRole::Administrator, arguments.administrator.clone()),
    ]);
    let policy = bucket_policy(&addresses, &principals, arguments.locked)?;
    // It is JSON for people too: this is what the store takes.
    context.output.result(&policy, || text(&policy))?;
    if arguments.pruner.is_empty() {
        context.output.warn("no pruner is named: nobody will be able to delete anything, or to make locks longer");
    }
    Ok(())
}

/// As it is printed: in lines, or without a space if S3 would not take that.
fn text(policy: &Value) -> String {
    let indented = format!("{policy:#}\n");
    if indented.len() > INDENTED_BYTES_MAX { format!("{policy}\n") } else { indented }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_policy_is_printed_without_spaces() {
        let policy = |keys: usize| serde_json::json!({ "Resource": vec!["arn:aws:s3:::recovery/vault"; keys] });
        assert!(text(&policy(10)).lines().count() > 10);
        assert_eq!(text(&policy(590)).lines().count(), 1);
        assert!(text(&policy(590)).len() < INDENTED_BYTES_MAX);
    }
}
