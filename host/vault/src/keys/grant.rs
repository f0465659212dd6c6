//! What is granted to a host: the keys of the vault that its powers need, sealed for it and signed by the administrator.
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | prologue of kind 9; its length is that of the box |
//! | rest | a box for the host: signature (64), JSON |
//!
//! Grants of a host are numbered from 1; all of them count. Beside them, `lineages/<lineage>/hosts/<host>` (kind 10) is a
//! box with the secrets of a lineage that the host did not begin itself. That one needs no signature: the secrets either
//! open the lineage's commits, and are those of which the first commit speaks, or they are refused.

use farshore_core::{Entropy, Epoch, GroupName, HostId, LineageId, SecretBytes};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{
    Bundle, EpochSecrets, Power,
    boxes::{KeyBox, Recipient},
    ring::RingHost,
};
use crate::{
    Error, Result, Store,
    seal::{
        BOX_OVERHEAD_BYTES, BoxPurpose, LineageSecrets, MemberKeys, PrivateKey, PublicKey, SIGNATURE_BYTES, Statement,
        VerifyingKey, stored_hash,
    },
    wire::{Kind, PROLOGUE_BYTES, length_u32, open_prologue, prologue},
};

/// The most bytes of a grant before it is sealed.
const GRANT_BYTES_MAX: usize = 64 * 1024;

/// The most grants of a host that are read.
const GRANTS_MAX: u64 = 1024;

/// Bytes of a box with both secrets of a lineage.
const LINEAGE_BOX_BYTES: usize = BOX_OVERHEAD_BYTES + 64;

pub(crate) fn grant_key(host: HostId, number: u64) -> String {
    format!("keys/grants/{host}/{number:08}")
}

pub(crate) fn lineage_host_key(lineage: LineageId, host: HostId) -> String {
    format!("lineages/{lineage}/hosts/{host}")
}

/// What an approval gave to a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Approval {
    /// The host.
    pub host: HostId,
    /// Powers whose keys it got.
    pub powers: Vec<Power>,
    /// Groups that it may add recovery points to from now on, beside those that it begins itself.
    pub groups: Vec<GroupName>,
}

/// Keys that were granted.
#[derive(Debug, Default, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub(crate) struct Grant {
    epochs: Vec<GrantedEpoch>,
    runs: Option<Key>,
}

#[derive(Debug, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct GrantedEpoch {
    epoch: u64,
    graph: Key,
    reading: Option<Key>,
}

#[derive(Debug, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
struct Key(#[serde(with = "crate::wire::hex")] [u8; 32]);

/// The private keys of an epoch, as far as they were granted.
#[derive(Debug, Clone)]
pub(crate) struct EpochKeys {
    pub(crate) epoch: Epoch,
    pub(crate) graph: PrivateKey,
    pub(crate) reading: Option<PrivateKey>,
}

impl EpochKeys {
    /// All keys of an epoch.
    pub(crate) fn of(secrets: &EpochSecrets) -> Self {
        Self { epoch: secrets.epoch, graph: secrets.graph.clone(), reading: Some(secrets.reading.clone()) }
    }
}

impl Grant {
    /// What the powers of a host need of the vault's keys; none if nothing.
    pub(crate) fn of(bundle: &Bundle, host: &RingHost) -> Option<Self> {
        if !host.needs_approval() {
            return None;
        }
        let key = |key: &PrivateKey| Key(*key.secret().expose());
        let epochs = bundle.epochs.iter().map(|epoch| GrantedEpoch {
            epoch: epoch.epoch.get(),
            graph: key(&epoch.graph),
            reading: host.has(Power::Recoverer).then(|| key(&epoch.reading)),
        });
        // A pruner follows the points' references, and has no business with the journals of runs.
        let reads_runs = host.has(Power::Recoverer) || host.has(Power::Controller);
        Some(Self { epochs: epochs.collect(), runs: reads_runs.then(|| Key(*bundle.runs.expose())) })
    }

    /// The granted keys of epochs; those that are no keys are left out.
    pub(crate) fn epochs(&self) -> impl Iterator<Item = EpochKeys> {
        self.epochs.iter().filter_map(|epoch| {
            let key = |key: &Key| PrivateKey::from_secret(SecretBytes::new(key.0));
            let reading = epoch.reading.as_ref().map(key);
            Some(EpochKeys { epoch: Epoch::new(epoch.epoch), graph: key(&epoch.graph)?, reading: reading.flatten() })
        })
    }

    /// The secret of runs.
    pub(crate) fn runs(&self) -> Option<SecretBytes> {
        self.runs.as_ref().map(|key| SecretBytes::new(key.0))
    }

    /// Its object.
    ///
    /// # Errors
    /// [`Error::VerificationFailed`].
    pub(crate) fn encode(
        &self,
        member: &MemberKeys,
        bundle: &Bundle,
        to: (HostId, PublicKey),
        number: u64,
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>> {
        let (host, receiving) = to;
        let json = Zeroizing::new(serde_json::to_vec(self).expect("hexadecimal texts can always be written"));
        let statement = Statement::Grant { host, number, body: stored_hash(&json) };
        let mut plain = Zeroizing::new(Vec::with_capacity(SIGNATURE_BYTES + json.len()));
        plain.extend_from_slice(&bundle.admin.sign(member.vault(), &statement));
        plain.extend_from_slice(&json);
        let object = grant_key(host, number);
        let sealed = receiving.seal(&object, member, BoxPurpose::Grant { host, number }, &plain, entropy)?;
        let mut bytes = prologue(Kind::Grant, length_u32(sealed.len())).to_vec();
        bytes.extend_from_slice(&sealed);
        Ok(bytes)
    }

    fn decode(
        member: &MemberKeys,
        admin: &VerifyingKey,
        host: HostId,
        receiving: &PrivateKey,
        number: u64,
        bytes: &[u8],
    ) -> Result<Self> {
        let object = grant_key(host, number);
        let (length, sealed) = open_prologue(&object, Kind::Grant, bytes)?;
        let damaged = |problem: &str| Error::damaged(&object, problem);
        if usize::try_from(length) != Ok(sealed.len()) {
            return Err(damaged("it has another length than it claims"));
        }
        let plain = receiving
            .open(member, BoxPurpose::Grant { host, number }, sealed)
            .ok_or_else(|| damaged("it was not sealed for this host, or its bytes have changed"))?;
        let (signature, json) =
            plain.split_first_chunk::<SIGNATURE_BYTES>().ok_or_else(|| damaged("it ends inside its signature"))?;
        let statement = Statement::Grant { host, number, body: stored_hash(json) };
        if !admin.verifies(member.vault(), &statement, signature) {
            return Err(damaged("it was not signed by the vault's administrator"));
        }
        serde_json::from_slice(json).map_err(|_| damaged("it opens, and what it holds is not a grant"))
    }

    /// All grants of a host, oldest first.
    ///
    /// # Errors
    /// One is damaged, or the store failed.
    pub(crate) async fn read_all(
        store: &Store,
        member: &MemberKeys,
        admin: &VerifyingKey,
        host: HostId,
        receiving: &PrivateKey,
    ) -> Result<Vec<Self>> {
        let mut grants = Vec::new();
        let bytes_max = PROLOGUE_BYTES + BOX_OVERHEAD_BYTES + SIGNATURE_BYTES + GRANT_BYTES_MAX;
        for number in 1..=GRANTS_MAX {
            let Some(bytes) = store.read(&grant_key(host, number), bytes_max).await? else { break };
            grants.push(Self::decode(member, admin, host, receiving, number, &bytes)?);
        }
        Ok(grants)
    }
}

/// The box with a lineage's secrets that was made for a host, with its object's key; none if there is none.
///
/// # Errors
/// It is damaged, or the store failed.
pub(super) async fn read_lineage_box(
    store: &Store,
    lineage: LineageId,
    host: HostId,
) -> Result<Option<(String, KeyBox)>> {
    let object = lineage_host_key(lineage, host);
    let Some(bytes) = store.read(&object, PROLOGUE_BYTES + LINEAGE_BOX_BYTES).await? else { return Ok(None) };
    let (length, sealed) = open_prologue(&object, Kind::LineageBox, &bytes)?;
    if usize::try_from(length) != Ok(sealed.len()) {
        return Err(Error::damaged(object, "it has another length than it claims"));
    }
    let found = KeyBox { recipient: Recipient::Host(host), sealed: sealed.to_vec() };
    Ok(Some((object, found)))
}

/// The object with a box of a lineage's secrets for a host.
///
/// # Errors
/// [`Error::VerificationFailed`].
pub(crate) fn lineage_box(
    member: &MemberKeys,
    lineage: LineageId,
    secrets: &LineageSecrets,
    to: (HostId, PublicKey),
    entropy: &dyn Entropy,
) -> Result<Vec<u8>> {
    let (host, receiving) = to;
    let purpose = BoxPurpose::LineageHost { lineage, host };
    let object = lineage_host_key(lineage, host);
    let sealed = receiving.seal(&object, member, purpose, &secrets.encode(true), entropy)?;
    let mut bytes = prologue(Kind::LineageBox, length_u32(sealed.len())).to_vec();
    bytes.extend_from_slice(&sealed);
    Ok(bytes)
}
