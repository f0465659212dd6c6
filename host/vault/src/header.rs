//! The vault's header: the object that the passphrase opens.
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | prologue of kind 1; its length is the whole object's |
//! | 16 | vault id |
//! | 8 | when it was made, milliseconds since 1970, signed |
//! | 4, 4, 4 | Argon2id: memory in KiB, passes, lanes |
//! | 32 | salt |
//! | 80 | the vault's root key, wrapped: commitment, key, tag; everything before it is authenticated |
//! | 32 | BLAKE3 of everything before it |
//!
//! The hash tells damage from a wrong passphrase. The bounds of the Argon2id parameters are checked before anything is
//! allocated, because the store may be hostile: the floors keep it from making the passphrase cheap to try, the ceilings
//! from exhausting this machine.

use farshore_core::{Entropy, Passphrase, SecretBytes, Timestamp, VaultId};

use crate::{
    Error, KdfParameters, Result,
    seal::{self, VaultKeys, WRAPPED_KEY_BYTES},
    wire::{Kind, PROLOGUE_BYTES, Reader, length_u32, open_prologue, prologue},
};

/// The key of the header.
pub(crate) const HEADER_KEY: &str = "vault";

const FRONT_BYTES: usize = PROLOGUE_BYTES + 16 + 8 + 12 + 32;

/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = FRONT_BYTES + WRAPPED_KEY_BYTES + 32;

/// Memory times passes: what keeps a header at both ceilings from occupying this machine for minutes.
const KDF_KIB_PASSES_MAX: u64 = 16 * 1024 * 1024;

/// What can be read of a header without the passphrase.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) id: VaultId,
    pub(crate) created_at: Timestamp,
    pub(crate) kdf: KdfParameters,
    salt: [u8; 32],
    front: Vec<u8>,
    wrapped: [u8; WRAPPED_KEY_BYTES],
}

impl KdfParameters {
    /// Checks the bounds.
    ///
    /// # Errors
    /// [`Error::KdfOutOfBounds`] for the first parameter outside its bounds.
    pub(crate) fn check(self) -> Result<()> {
        let bounds = [
            ("memory in KiB", self.memory_kib, 64 * 1024, 4 * 1024 * 1024),
            ("number of passes", self.passes, 3, 16),
            ("number of lanes", self.lanes, 1, 16),
        ];
        for (parameter, found, floor, ceiling) in bounds {
            if found < floor || found > ceiling {
                return Err(Error::KdfOutOfBounds { parameter, found, floor, ceiling });
            }
        }
        let work = u64::from(self.memory_kib) * u64::from(self.passes);
        if work > KDF_KIB_PASSES_MAX {
            let what = "the key derivation's memory in KiB times its passes";
            return Err(Error::LimitExceeded { what, found: work, limit: KDF_KIB_PASSES_MAX });
        }
        Ok(())
    }
}

impl Header {
    /// A header for these keys. It takes the time that the passphrase's key derivation takes.
    pub(crate) fn make(
        id: VaultId,
        keys: &VaultKeys,
        created_at: Timestamp,
        passphrase: &Passphrase,
        kdf: KdfParameters,
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>> {
        kdf.check()?;
        let salt = keys.passphrase_salt(entropy);
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&prologue(Kind::Header, length_u32(HEADER_BYTES)));
        bytes.extend_from_slice(id.as_bytes());
        bytes.extend_from_slice(&created_at.as_unix_milliseconds().to_le_bytes());
        for parameter in [kdf.memory_kib, kdf.passes, kdf.lanes] {
            bytes.extend_from_slice(&parameter.to_le_bytes());
        }
        bytes.extend_from_slice(&salt);
        let passphrase_key = seal::passphrase_key(passphrase, &salt, kdf)?;
        let wrapped = keys.wrap(&passphrase_key, &bytes);
        bytes.extend_from_slice(&wrapped);
        let hash = seal::stored_hash(&bytes);
        bytes.extend_from_slice(&hash);
        Ok(bytes)
    }

    /// Reads a header.
    ///
    /// # Errors
    /// It is damaged, of another format, or its parameters are out of bounds.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let (length, _) = open_prologue(HEADER_KEY, Kind::Header, bytes)?;
        let mut reader = Reader::new(HEADER_KEY, bytes);
        if length != length_u32(HEADER_BYTES) || bytes.len() != HEADER_BYTES {
            return Err(reader.damaged(format!("it has {} bytes, and should have {HEADER_BYTES}", bytes.len())));
        }
        let front = reader.take(FRONT_BYTES)?;
        let wrapped = reader.array()?;
        let hash: [u8; 32] = reader.array()?;
        if seal::stored_hash(&bytes[..FRONT_BYTES + WRAPPED_KEY_BYTES]) != hash {
            return Err(reader.damaged("its bytes do not have the hash that stands at its end"));
        }
        let mut reader = Reader::new(HEADER_KEY, front);
        reader.take(PROLOGUE_BYTES)?;
        let id = VaultId::from_bytes(reader.array()?);
        let created_at = Timestamp::from_unix_milliseconds(i64::from_le_bytes(reader.array()?));
        let kdf = KdfParameters { memory_kib: reader.u32()?, passes: reader.u32()?, lanes: reader.u32()? };
        kdf.check()?;
        let salt = reader.array()?;
        reader.finish()?;
        Ok(Self { id, created_at, kdf, salt, front: front.to_vec(), wrapped })
    }

    /// The key that the passphrase gives with this header's parameters. It takes the time that they ask for.
    pub(crate) fn passphrase_key(&self, passphrase: &Passphrase) -> Result<SecretBytes> {
        seal::passphrase_key(passphrase, &self.salt, self.kdf)
    }

    /// The vault's keys; none if the passphrase is not the vault's.
    pub(crate) fn unlock(&self, passphrase_key: &SecretBytes) -> Option<VaultKeys> {
        VaultKeys::unwrap(self.id, passphrase_key, &self.front, &self.wrapped)
    }
}

/// The error that tells a missing vault from everything else.
pub(crate) fn missing(address: &str) -> Error {
    Error::VaultMissing { address: address.to_owned() }
}
