//! The ring: which public keys the vault has, which slots open it, which hosts were invited. The administrator signs it.
//!
//! A change is a new ring under the next number, created if absent; the newest counts. It is sealed with the member key, so
//! that the store does not learn the names of hosts.
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | prologue of kind 7; its length is that of what is sealed, before sealing |
//! | rest | sealed: signature (64), JSON |

use std::collections::BTreeMap;

use bytes::Bytes;
use farshore_core::{Entropy, Epoch, HostId, HostName, LineageId, RunId, SlotId, Timestamp, VaultId};
use serde::{Deserialize, Serialize};

use super::Power;
use crate::{
    Error, Result, Store, VaultLock,
    seal::{
        Hash, MemberKeys, PublicKey, Purpose, SEALED_OVERHEAD_BYTES, SIGNATURE_BYTES, SigningKey, Statement,
        VerifyingKey, stored_hash,
    },
    store::Created,
    wire::{Kind, PROLOGUE_BYTES, length_u32, open_prologue, prologue},
};

/// The most bytes of a ring before sealing: about 10,000 hosts.
const RING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The key of a ring.
pub(crate) fn ring_key(number: u64) -> String {
    format!("keys/ring/{number:08}")
}

/// The public keys of an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RingEpoch {
    pub(crate) epoch: Epoch,
    #[serde(with = "crate::wire::hex")]
    reading: [u8; 32],
    #[serde(with = "crate::wire::hex")]
    graph: [u8; 32],
}

impl RingEpoch {
    pub(crate) fn new(epoch: Epoch, reading: PublicKey, graph: PublicKey) -> Self {
        Self { epoch, reading: *reading.as_bytes(), graph: *graph.as_bytes() }
    }

    /// To which what readers may open is sealed.
    pub(crate) fn reading(&self) -> PublicKey {
        PublicKey::from_bytes(self.reading)
    }

    /// To which what leads along references is sealed.
    pub(crate) fn graph(&self) -> PublicKey {
        PublicKey::from_bytes(self.graph)
    }
}

/// A slot that opens the vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RingSlot {
    pub(crate) slot: SlotId,
    /// BLAKE3 of its object.
    #[serde(with = "crate::wire::hex")]
    pub(crate) hash: Hash,
    /// To which the keys of later epochs are sealed; none of a slot that was made before there was a rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    receiving: Option<HexKey>,
    /// For people: whose it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) label: String,
    /// When it was made, as its maker counted time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) made_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct HexKey(#[serde(with = "crate::wire::hex")] [u8; 32]);

impl RingSlot {
    pub(crate) fn new(slot: SlotId, hash: Hash, receiving: PublicKey, label: String, made_at: Timestamp) -> Self {
        Self { slot, hash, receiving: Some(HexKey(*receiving.as_bytes())), label, made_at: Some(made_at) }
    }

    /// To which the keys of later epochs are sealed.
    pub(crate) fn receiving(&self) -> Option<PublicKey> {
        self.receiving.map(|key| PublicKey::from_bytes(key.0))
    }
}

/// Up to where what a host wrote counts, after it was revoked: the numbers of the last commit and boundary of each lineage
/// and of the last entry of each run that were there. Of those that are not listed, nothing counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenUntil {
    /// Commit and boundary.
    pub(crate) lineages: BTreeMap<LineageId, (u64, u64)>,
    pub(crate) runs: BTreeMap<RunId, u64>,
}

/// That a host was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revocation {
    /// When, as the administrator's host counts time.
    pub(crate) at: Timestamp,
    /// None while the lineages are still being told: the host must not write any more, and what it wrote still counts.
    pub(crate) written_until: Option<WrittenUntil>,
}

/// A host that was invited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RingHost {
    pub(crate) host: HostId,
    pub(crate) name: HostName,
    pub(crate) powers: Vec<Power>,
    /// Verifies its enrolment.
    #[serde(with = "crate::wire::hex")]
    pub(crate) invitation: [u8; 32],
    pub(crate) invited_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revoked: Option<Revocation>,
}

impl RingHost {
    pub(crate) fn invitation(&self) -> VerifyingKey {
        VerifyingKey::from_bytes(self.invitation)
    }

    pub(crate) fn has(&self, power: Power) -> bool {
        self.powers.contains(&power)
    }

    /// Whether what it says there counts, if it was revoked.
    pub(crate) fn counts(&self, statement: &Statement) -> bool {
        let Some(revocation) = &self.revoked else { return true };
        let Some(until) = &revocation.written_until else { return true };
        match statement {
            Statement::Commit { lineage, sequence, .. } => {
                until.lineages.get(lineage).is_some_and(|(commit, _)| sequence <= commit)
            }
            Statement::Boundary { lineage, number, .. } => {
                until.lineages.get(lineage).is_some_and(|(_, boundary)| number <= boundary)
            }
            Statement::RunEntry { run, number, .. } => until.runs.get(run).is_some_and(|last| number <= last),
            // A proof has no number: what a revoked host has proven is not worth anything any more.
            Statement::Proof { .. }
            | Statement::Ring { .. }
            | Statement::Enrolment { .. }
            | Statement::Grant { .. } => false,
        }
    }

    /// Whether it needs keys that only an administrator can grant.
    pub(crate) fn needs_approval(&self) -> bool {
        self.powers.iter().any(|power| power.needs_approval())
    }
}

/// Who may do what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ring {
    pub(crate) vault: VaultId,
    pub(crate) number: u64,
    /// When it was written, as its writer counts time; shown, and never trusted.
    pub(crate) written_at: Timestamp,
    /// Oldest first; the last is the one to seal to.
    pub(crate) epochs: Vec<RingEpoch>,
    pub(crate) slots: Vec<RingSlot>,
    pub(crate) hosts: Vec<RingHost>,
    /// For how long objects are locked; none if they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lock: Option<VaultLock>,
}

impl Ring {
    /// The epoch to seal to.
    ///
    /// # Errors
    /// [`Error::Damaged`] when there is none.
    pub(crate) fn current(&self) -> Result<&RingEpoch> {
        self.epochs.last().ok_or_else(|| Error::damaged(ring_key(self.number), "it has no public keys"))
    }

    /// An invited host.
    pub(crate) fn host(&self, host: HostId) -> Option<&RingHost> {
        self.hosts.iter().find(|candidate| candidate.host == host)
    }

    /// The same, to change what the ring says of it.
    pub(crate) fn host_mut(&mut self, host: HostId) -> Option<&mut RingHost> {
        self.hosts.iter_mut().find(|candidate| candidate.host == host)
    }

    /// Its object.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`].
    pub(crate) fn encode(&self, member: &MemberKeys, admin: &SigningKey, entropy: &dyn Entropy) -> Result<Vec<u8>> {
        let json = serde_json::to_vec(self).map_err(|error| Error::invalid(format!("the ring: {error}")))?;
        if json.len() + SIGNATURE_BYTES > RING_BYTES_MAX {
            let (found, limit) = (u64::from(length_u32(json.len())), u64::from(length_u32(RING_BYTES_MAX)));
            return Err(Error::LimitExceeded { what: "the list of hosts, in bytes,", found, limit });
        }
        let statement = Statement::Ring { number: self.number, body: stored_hash(&json) };
        let mut plain = admin.sign(self.vault, &statement).to_vec();
        plain.extend_from_slice(&json);
        let mut bytes = prologue(Kind::Ring, length_u32(plain.len())).to_vec();
        let purpose = Purpose::Ring { number: self.number };
        bytes.extend_from_slice(&member.ring.seal(&ring_key(self.number), purpose, &plain, entropy)?);
        Ok(bytes)
    }

    fn decode(member: &MemberKeys, admin: &VerifyingKey, number: u64, bytes: &[u8]) -> Result<Self> {
        let object = ring_key(number);
        let (length, sealed) = open_prologue(&object, Kind::Ring, bytes)?;
        let plain = member.ring.open(&object, Purpose::Ring { number }, sealed)?;
        let damaged = |problem: &str| Error::damaged(&object, problem);
        if usize::try_from(length) != Ok(plain.len()) {
            return Err(damaged("it has another length than it claims"));
        }
        let (signature, json) =
            plain.split_first_chunk::<SIGNATURE_BYTES>().ok_or_else(|| damaged("it ends inside its signature"))?;
        let statement = Statement::Ring { number, body: stored_hash(json) };
        if !admin.verifies(member.vault(), &statement, signature) {
            return Err(damaged("it was not signed by the vault's administrator"));
        }
        let ring: Self = serde_json::from_slice(json).map_err(|error| damaged(&error.to_string()))?;
        if ring.vault != member.vault() || ring.number != number {
            return Err(damaged("it contradicts its own name"));
        }
        Ok(ring)
    }

    /// The newest ring, looked for from a number that is known to be there.
    ///
    /// # Errors
    /// It is missing or damaged, or the store failed.
    pub(crate) async fn newest(store: &Store, member: &MemberKeys, admin: &VerifyingKey, known: u64) -> Result<Self> {
        let number = store.last_number(known, ring_key).await?;
        let bytes_max = PROLOGUE_BYTES + SEALED_OVERHEAD_BYTES + RING_BYTES_MAX;
        let missing = || Error::ObjectMissing {
            object: ring_key(number),
            reason: "it says who may do what in the vault".to_owned(),
        };
        let bytes = store.read(&ring_key(number), bytes_max).await?.ok_or_else(missing)?;
        Self::decode(member, admin, number, &bytes)
    }

    /// Creates it under its number.
    ///
    /// # Errors
    /// [`Error::RingRace`] when another administrator was faster; or the store failed.
    pub(crate) async fn create(
        &self,
        store: &Store,
        member: &MemberKeys,
        admin: &SigningKey,
        entropy: &dyn Entropy,
    ) -> Result<()> {
        let bytes = self.encode(member, admin, entropy)?;
        match store.create(&ring_key(self.number), vec![Bytes::from(bytes)]).await? {
            Created::Mine => Ok(()),
            Created::Other => Err(Error::RingRace { number: self.number }),
        }
    }
}
