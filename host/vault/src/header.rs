//! The vault's header: what anybody may know of it, and the object that makes it a vault.
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | prologue of kind 1; its length is that of the JSON |
//! | | JSON: the vault's id, when it was made, the administrator's public key |
//! | 32 | BLAKE3 of everything before |
//!
//! Nothing in it is trusted by itself: a kit, a join file and a credential each say which vault and which administrator
//! they belong to.

use farshore_core::{Timestamp, VaultId};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result, Store,
    seal::{self, VerifyingKey},
    wire::{Kind, length_u32, open_prologue, prologue},
};

/// The key of the header.
pub(crate) const HEADER_KEY: &str = "vault";

/// The most bytes of a header.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// What the header says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    pub(crate) vault: VaultId,
    pub(crate) created_at: Timestamp,
    #[serde(with = "crate::wire::hex")]
    admin_key: [u8; 32],
}

impl Header {
    pub(crate) fn new(vault: VaultId, created_at: Timestamp, admin: VerifyingKey) -> Self {
        Self { vault, created_at, admin_key: *admin.as_bytes() }
    }

    /// The administrator's public key.
    pub(crate) fn admin(&self) -> VerifyingKey {
        VerifyingKey::from_bytes(self.admin_key)
    }

    /// Its object.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("hexadecimal texts can always be written");
        let mut bytes = prologue(Kind::Header, length_u32(json.len())).to_vec();
        bytes.extend_from_slice(&json);
        let hash = seal::stored_hash(&bytes);
        bytes.extend_from_slice(&hash);
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// It is damaged, or of another format.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let (length, _) = open_prologue(HEADER_KEY, Kind::Header, bytes)?;
        let damaged = |problem: String| Error::damaged(HEADER_KEY, problem);
        let (front, hash) =
            bytes.split_last_chunk::<32>().ok_or_else(|| damaged("it ends before its hash".to_owned()))?;
        if seal::stored_hash(front) != *hash {
            return Err(damaged("its bytes do not have the hash that stands at its end".to_owned()));
        }
        let (_, json) = open_prologue(HEADER_KEY, Kind::Header, front)?;
        if usize::try_from(length) != Ok(json.len()) {
            return Err(damaged("it has another length than it claims".to_owned()));
        }
        serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))
    }

    /// The header of the vault in this store.
    ///
    /// # Errors
    /// [`Error::VaultMissing`]; it is damaged, or of another format; or the store failed.
    pub(crate) async fn read(store: &Store) -> Result<Self> {
        let missing = || Error::VaultMissing { address: store.address().to_owned() };
        Self::parse(&store.read(HEADER_KEY, HEADER_BYTES_MAX).await?.ok_or_else(missing)?)
    }
}
