//! The vault's header: what anybody may know of it, and the object that makes it a vault.
//!
//! It is JSON with a hash (see [`plain`]): the vault's id, when it was made, the administrator's public key.
//!
//! Nothing in it is trusted by itself: a kit, a join file and a credential each say which vault and which administrator
//! they belong to.

use farshore_core::{Timestamp, VaultId};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, Store, plain, seal::VerifyingKey, wire::Kind};

/// The key of the header.
pub(crate) const HEADER_KEY: &str = "vault";

/// The most bytes of a header.
pub(crate) const HEADER_BYTES_MAX: usize = 64 * 1024;

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
        plain::encode(Kind::Header, self)
    }

    /// Reads a header.
    ///
    /// # Errors
    /// It is damaged, or of another format.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        plain::parse(HEADER_KEY, Kind::Header, bytes)
    }

    /// The header of the vault in this store.
    ///
    /// # Errors
    /// [`Error::VaultMissing`]; it is damaged, or of another format; [`Error::AddressesUnfit`]; or the store failed.
    pub(crate) async fn read(store: &Store) -> Result<Self> {
        let missing = || Error::VaultMissing { address: store.address().to_owned() };
        let header = Self::parse(&store.read(HEADER_KEY, HEADER_BYTES_MAX).await?.ok_or_else(missing)?)?;
        store.check_addresses().await?;
        Ok(header)
    }
}
