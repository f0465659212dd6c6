//! The key that everybody has who was ever invited: it opens nothing that a machine holds.
//!
//! It hides the names of groups in the store's listing, the ring and the enrolments from who has the store alone, and it is
//! the pre-shared key of every box: who records the store today and breaks X25519 one day still lacks it.

use farshore_core::{GroupName, LineageId, SecretBytes, VaultId};

use super::{Sealer, subkey};

/// The member key and what it leads to.
#[derive(Debug, Clone)]
pub(crate) struct MemberKeys {
    vault: VaultId,
    names: SecretBytes,
    shared: SecretBytes,
    /// Seals rings and enrolments.
    pub(crate) ring: Sealer,
}

impl MemberKeys {
    /// The keys that the member key of this vault leads to.
    pub(crate) fn new(vault: VaultId, secret: &SecretBytes) -> Self {
        let key = |name: &[u8]| subkey(secret, &[b"farshore/1/member/", name, vault.as_bytes()]);
        let (names, shared, ring) = (key(b"names"), key(b"shared"), Sealer::new(vault, key(b"ring")));
        Self { vault, names, shared, ring }
    }

    /// The vault.
    pub(crate) fn vault(&self) -> VaultId {
        self.vault
    }

    /// The pre-shared key of boxes.
    pub(super) fn shared(&self) -> &SecretBytes {
        &self.shared
    }

    /// The id of the lineage of a group: a keyed hash of its name, so that racing creators mean the same lineage and the
    /// store's listing does not tell the name.
    pub(crate) fn lineage_id(&self, group: &GroupName) -> LineageId {
        let hash = blake3::keyed_hash(self.names.expose(), group.as_str().as_bytes());
        let (id, _) = hash.as_bytes().split_first_chunk::<16>().expect("a hash has 32 bytes");
        LineageId::from_bytes(*id)
    }
}

impl Sealer {
    /// The sealer of a key that was made for it alone.
    pub(crate) fn of_runs(vault: VaultId, secret: &SecretBytes) -> Self {
        Self::new(vault, subkey(secret, &[b"farshore/1/runs", vault.as_bytes()]))
    }
}
