//! What each power needs of the store, and the bucket policy that lets it do nothing else.
//!
//! One table ([`GRANTS`]) says which calls are made for which power, on which keys. A test lets each power do everything that it is
//! for on a store that refuses all other calls, and finds every line of the table used; so the policy that is made of the
//! table is neither too small nor too large.
//!
//! The policy allows what the table says, to the principals that the operator names, and denies to everybody what nobody needs:
//! to overwrite, to delete anything that is never deleted, to delete at all without being a pruner, to lock at will, to bypass
//! a lock. A denial counts whatever else allows. Whoever may change the bucket's policy can change that; so that is denied to the
//! named principals too.
//!
//! *Listing.* Without the right to list a bucket S3 answers 403 instead of 404 for a key that is not there, and Farshore asks
//! for such keys all the time. The condition on the prefix must therefore let requests through that have none
//! (`StringLikeIfExists`). Names of objects tell nothing but numbers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{Address, Error, Result};

/// For whom a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoreRole {
    /// A host that adds recovery points.
    Replicator,
    /// A host that reads what disks hold.
    Recoverer,
    /// A host that makes runs, fences groups and pins points.
    Controller,
    /// A host that deletes what retention gives up, and makes locks longer.
    Pruner,
    /// Who makes the vault, and lets hosts in, with the kit and the passphrase.
    Administrator,
}

use StoreRole::{Administrator, Controller, Pruner, Recoverer, Replicator};

impl StoreRole {
    /// All there are.
    pub const ALL: [Self; 5] = [Replicator, Recoverer, Controller, Pruner, Administrator];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Replicator => "replicator",
            Recoverer => "recoverer",
            Controller => "controller",
            Pruner => "pruner",
            Administrator => "administrator",
        }
    }
}

/// A sort of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verb {
    /// Reads or looks up an object.
    Read,
    /// Creates an object if there is none.
    Create,
    /// Deletes an object.
    Delete,
    /// Lists objects.
    List,
    /// Asks what the bucket is set to.
    ReadSettings,
    /// Lists versions.
    ListVersions,
    /// Looks up the lock of a version.
    ReadLock,
    /// Locks a version, or makes its lock longer.
    Lock,
    /// Deletes a version for good.
    DeleteVersion,
}

impl Verb {
    /// As S3 calls the rights that it needs.
    const fn actions(self) -> &'static [&'static str] {
        match self {
            Self::Read => &["s3:GetObject"],
            Self::Create => &["s3:PutObject"],
            Self::Delete => &["s3:DeleteObject"],
            Self::List => &["s3:ListBucket"],
            Self::ReadSettings => &["s3:GetBucketVersioning", "s3:GetBucketObjectLockConfiguration"],
            Self::ListVersions => &["s3:ListBucketVersions"],
            Self::ReadLock => &["s3:GetObjectVersion", "s3:GetObjectRetention"],
            Self::Lock => &["s3:PutObjectRetention"],
            Self::DeleteVersion => &["s3:DeleteObjectVersion"],
        }
    }

    /// Whether it concerns the bucket, and not an object.
    const fn is_of_bucket(self) -> bool {
        matches!(self, Self::List | Self::ReadSettings | Self::ListVersions)
    }
}

/// In which vaults a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum In {
    All,
    Locked,
    NotLocked,
}

/// A line of the table. In a key `*` stands for any text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grant {
    pub(crate) roles: &'static [StoreRole],
    pub(crate) verb: Verb,
    /// Empty for calls that concern the bucket.
    pub(crate) keys: &'static [&'static str],
    vaults: In,
}

const fn grant(roles: &'static [StoreRole], verb: Verb, keys: &'static [&'static str], vaults: In) -> Grant {
    Grant { roles, verb, keys, vaults }
}

const ALL: &[StoreRole] = &StoreRole::ALL;

/// Which calls are made for which power.
const GRANTS: &[Grant] = &[
    // To open the vault, to follow its groups, and to prove that the store honours conditions.
    grant(ALL, Verb::List, &[], In::All),
    grant(ALL, Verb::ReadSettings, &[], In::Locked),
    grant(
        ALL,
        Verb::Read,
        &["vault", "addresses/*", "probe", "keys/ring/*", "keys/hosts/*", "lineages/*/commits/*"],
        In::All,
    ),
    grant(ALL, Verb::Read, &["lineages/*/boundaries/*", "lineages/*/ledgers/*"], In::All),
    grant(ALL, Verb::Create, &["probe"], In::All),
    // To join, and to get what was granted.
    grant(&[Replicator, Recoverer, Controller, Pruner], Verb::Create, &["keys/hosts/*"], In::All),
    grant(&[Replicator, Recoverer, Controller, Pruner], Verb::Read, &["keys/grants/*"], In::All),
    grant(&[Replicator, Controller, Pruner], Verb::Read, &["lineages/*/hosts/*"], In::All),
    // Recovery points.
    grant(&[Replicator, Controller, Pruner], Verb::Create, &["lineages/*/commits/*"], In::All),
    grant(&[Replicator], Verb::Create, &["lineages/*/packs/*", "lineages/*/maps/*"], In::All),
    grant(
        &[Replicator, Recoverer, Controller, Pruner],
        Verb::Read,
        &["lineages/*/packs/*", "lineages/*/maps/*", "lineages/*/collections/*"],
        In::All,
    ),
    // A group that begins needs what the vault itself needs: the lock of what a plain read gets is asked for, which is such a read.
    grant(&[Replicator], Verb::Read, &["keys/epochs/*"], In::Locked),
    grant(
        &[Replicator],
        Verb::ReadLock,
        &["vault", "addresses/*", "keys/ring/*", "keys/hosts/*", "keys/epochs/*"],
        In::Locked,
    ),
    // Runs.
    grant(&[Controller], Verb::Create, &["runs/*"], In::All),
    grant(&[Recoverer, Controller], Verb::Read, &["runs/*"], In::All),
    // Prunes.
    grant(
        &[Pruner],
        Verb::Create,
        &["lineages/*/ledgers/*", "lineages/*/collections/*", "lineages/*/boundaries/*"],
        In::All,
    ),
    grant(&[Pruner], Verb::Delete, DELETED, In::NotLocked),
    grant(&[Pruner], Verb::ListVersions, &[], In::Locked),
    grant(&[Pruner], Verb::DeleteVersion, DELETED, In::Locked),
    grant(&[Pruner], Verb::ReadLock, &["vault", "addresses/*", "keys/*", "lineages/*"], In::Locked),
    grant(&[Pruner], Verb::Lock, &["vault", "addresses/*", "keys/*", "lineages/*"], In::Locked),
    grant(&[Pruner], Verb::Create, RESERVES, In::NotLocked),
    grant(&[Pruner], Verb::Delete, RESERVES, In::NotLocked),
    // What was proven.
    grant(ALL, Verb::Read, &["lineages/*/proofs/*"], In::All),
    grant(&[Recoverer, Controller, Pruner], Verb::Create, &["lineages/*/proofs/*"], In::All),
    // The vault itself, and its hosts: those that are revoked have written to groups and journals.
    grant(&[Administrator], Verb::Create, &["vault", "addresses/*"], In::All),
    grant(&[Administrator], Verb::Create, &["keys/slots/*", "keys/ring/*", "keys/grants/*"], In::All),
    grant(&[Administrator], Verb::Create, &["keys/epochs/*", "lineages/*/hosts/*", "lineages/*/commits/*"], In::All),
    grant(
        &[Administrator],
        Verb::Read,
        &["keys/slots/*", "keys/grants/*", "keys/epochs/*", "lineages/*/hosts/*", "runs/*"],
        In::All,
    ),
];

/// The most bytes that a bucket's policy may have.
const POLICY_BYTES_MAX: usize = 20 * 1024;

/// What a prune keeps so that it can delete in a full store; in a locked vault it could not be given back.
const RESERVES: &[&str] = &["lineages/*/reserves/*"];

/// What a prune may delete.
const DELETED: &[&str] = &[
    "lineages/*/commits/*",
    "lineages/*/packs/*",
    "lineages/*/maps/*",
    "lineages/*/ledgers/*",
    "lineages/*/collections/*",
    "lineages/*/proofs/*",
];

/// What nobody ever deletes, the first commit of each lineage among it.
const NEVER_DELETED: &[&str] = &[
    "vault",
    "addresses/*",
    "probe",
    "keys/*",
    "runs/*",
    "lineages/*/hosts/*",
    "lineages/*/boundaries/*",
    "lineages/*/commits/00000000000000000001",
];

/// The lines of the table that are true of such a vault.
pub(crate) fn grants(is_locked: bool) -> impl Iterator<Item = &'static Grant> {
    GRANTS.iter().filter(move |grant| match grant.vaults {
        In::All => true,
        In::Locked => is_locked,
        In::NotLocked => !is_locked,
    })
}

/// The bucket policy, as JSON, that enforces the powers at the store, for these principals (ARNs). A bucket has one policy: if both
/// addresses of a vault are in one bucket, it is made for both together. It has to be made anew when principals change, and when the vault is
/// locked.
///
/// # Errors
/// [`Error::NoBucketPolicy`] when the vault is not in S3; [`Error::InvalidRequest`] for addresses in several buckets, for a principal
/// that is no ARN, or when none is named.
pub fn bucket_policy(
    addresses: &[Address],
    principals: &BTreeMap<StoreRole, Vec<String>>,
    is_locked: bool,
) -> Result<Value> {
    let mut buckets = BTreeSet::new();
    let mut prefixes = Vec::new();
    for address in addresses {
        let Address::S3 { bucket, prefix } = address else {
            return Err(Error::NoBucketPolicy { address: address.to_string() });
        };
        buckets.insert(bucket);
        // Buckets of one name on two servers may have the same folder.
        if !prefixes.contains(&prefix.as_str()) {
            prefixes.push(prefix.as_str());
        }
    }
    let (Some(bucket), 1) = (buckets.first(), buckets.len()) else {
        return Err(Error::invalid("a policy is that of one bucket"));
    };
    let named: Vec<&String> = principals.values().flatten().collect();
    let Some(first) = named.first() else {
        return Err(Error::invalid("a policy names nobody: who may do what has to be said"));
    };
    if let Some(wrong) = named.iter().find(|arn| !is_arn(arn)) {
        return Err(Error::invalid(format!(
            "{wrong:?} is not the ARN of a role or user, such as arn:aws:iam::123456789012:role/name"
        )));
    }
    let partition = first.split(':').nth(1).unwrap_or("aws");
    let place = Place { bucket: format!("arn:{partition}:s3:::{bucket}"), prefixes };
    let mut statements = allowed(principals, &place, is_locked);
    let pruners = principals.get(&Pruner).map_or(&[][..], Vec::as_slice);
    statements.extend(denied(&place, pruners, &named));
    let policy = json!({ "Version": "2012-10-17", "Id": "farshore", "Statement": statements });
    let bytes = policy.to_string().len();
    if bytes > POLICY_BYTES_MAX {
        return Err(Error::invalid(format!(
            "the policy would have {bytes} bytes, and S3 takes {POLICY_BYTES_MAX}: give each address a bucket of its own, or a shorter folder \
             in it"
        )));
    }
    Ok(policy)
}

fn is_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let is_plain = !text.contains(['*', '?']) && !text.chars().any(|char| char.is_control() || char == ' ');
    matches!(parts.as_slice(), ["arn", partition, "iam" | "sts", _, account, name]
        if !partition.is_empty() && !account.is_empty() && !name.is_empty() && is_plain)
}

/// Where the vault is in the bucket.
struct Place<'a> {
    /// The bucket's ARN.
    bucket: String,
    /// What comes before every key, for each address.
    prefixes: Vec<&'a str>,
}

impl Place<'_> {
    fn objects(&self, keys: &[&str]) -> Vec<String> {
        let at = |prefix: &&str| {
            let slash = if prefix.is_empty() { "" } else { "/" };
            format!("{}/{prefix}{slash}", self.bucket)
        };
        self.prefixes.iter().map(at).flat_map(|at| keys.iter().map(move |key| format!("{at}{key}"))).collect()
    }
}

/// What is allowed: one statement for each sort of call and those who may make it on the same keys.
fn allowed(principals: &BTreeMap<StoreRole, Vec<String>>, place: &Place<'_>, is_locked: bool) -> Vec<Value> {
    let mut by_callers: BTreeMap<(Vec<StoreRole>, Verb), Vec<&str>> = BTreeMap::new();
    for grant in grants(is_locked) {
        let is_named = |role: &&StoreRole| principals.get(role).is_some_and(|arns| !arns.is_empty());
        let roles: Vec<StoreRole> = grant.roles.iter().filter(is_named).copied().collect();
        if !roles.is_empty() {
            by_callers.entry((roles, grant.verb)).or_default().extend(grant.keys);
        }
    }
    let statement = |((roles, verb), keys): ((Vec<StoreRole>, Verb), Vec<&str>)| {
        let resource = if verb.is_of_bucket() { vec![place.bucket.clone()] } else { place.objects(&keys) };
        let names: String = roles.iter().map(|role| capital(role.name())).collect();
        let arns: BTreeSet<&String> = roles.iter().flat_map(|role| &principals[role]).collect();
        let mut statement = json!({
            "Sid": format!("{names}{verb:?}"),
            "Effect": "Allow",
            "Principal": { "AWS": arns },
            "Action": verb.actions(),
            "Resource": resource,
        });
        if matches!(verb, Verb::List | Verb::ListVersions) && !place.prefixes.contains(&"") {
            let prefixes: Vec<_> =
                place.prefixes.iter().flat_map(|prefix| [(*prefix).to_owned(), format!("{prefix}/*")]).collect();
            statement["Condition"] = json!({ "StringLikeIfExists": { "s3:prefix": prefixes } });
        }
        statement
    };
    by_callers.into_iter().map(statement).collect()
}

/// What is denied to everybody, and to the named principals.
fn denied(place: &Place<'_>, pruners: &[String], named: &[&String]) -> Vec<Value> {
    let deny = |sid: &str, actions: &[&str], resource: Vec<String>| json!({ "Sid": sid, "Effect": "Deny", "Principal": "*", "Action": actions, "Resource": resource });
    let but_pruners = |mut statement: Value| {
        if !pruners.is_empty() {
            statement["Condition"] = json!({ "ArnNotEquals": { "aws:PrincipalArn": pruners } });
        }
        statement
    };
    let everything = || place.objects(&["*"]);
    let mut overwriting = deny("DenyOverwriting", &["s3:PutObject"], everything());
    overwriting["Condition"] = json!({ "Null": { "s3:if-none-match": "true" } });
    let deleting = ["s3:DeleteObject", "s3:DeleteObjectVersion"];
    let mut settings = deny(
        "DenySettings",
        &[
            "s3:DeleteBucket",
            "s3:DeleteBucketPolicy",
            "s3:PutBucketObjectLockConfiguration",
            "s3:PutBucketPolicy",
            "s3:PutBucketVersioning",
            "s3:PutLifecycleConfiguration",
        ],
        vec![place.bucket.clone()],
    );
    settings["Principal"] = json!({ "AWS": named });
    vec![
        overwriting,
        but_pruners(deny("DenyDeletingToOthers", &deleting, everything())),
        deny("DenyDeletingForEver", &deleting, place.objects(NEVER_DELETED)),
        but_pruners(deny("DenyLockingToOthers", &["s3:PutObjectLegalHold", "s3:PutObjectRetention"], everything())),
        deny("DenyBypassing", &["s3:BypassGovernanceRetention"], everything()),
        settings,
    ]
}

fn capital(name: &str) -> String {
    let (front, rest) = name.split_at_checked(1).unwrap_or((name, ""));
    format!("{}{rest}", front.to_ascii_uppercase())
}
