//! A slot: an object that opens with a passphrase and a recovery kit, and holds every key of the vault.
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | prologue of kind 6; its length is the whole object's |
//! | 16, 16 | vault id, slot id |
//! | 4, 4, 4 | Argon2id: memory in KiB, passes, lanes |
//! | 32 | salt |
//! | | commitment (32), the bundle as AES-256-GCM ciphertext, tag (16); everything before is authenticated |
//! | 32 | BLAKE3 of everything before |
//!
//! The hash tells damage from a wrong passphrase. The bounds of the Argon2id parameters are checked before anything is
//! allocated, because the store may be hostile: the floors keep it from making the passphrase cheap to try, the ceilings
//! from exhausting this machine.

use farshore_core::{Entropy, Epoch, Passphrase, SecretBytes, SlotId, VaultId};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::RingEpoch;
use crate::{
    Error, Result,
    seal::{self, PrivateKey, SigningKey, SlotKey},
    wire::{Kind, PROLOGUE_BYTES, Reader, length_u32, open_prologue, prologue},
};

const FRONT_BYTES: usize = PROLOGUE_BYTES + 16 + 16 + 12 + 32;

/// The most bytes of a slot.
pub(crate) const SLOT_BYTES_MAX: usize = 64 * 1024;

/// Memory times passes: what keeps a slot at both ceilings from occupying this machine for minutes.
const KDF_KIB_PASSES_MAX: u64 = 16 * 1024 * 1024;

/// The key of a slot's object.
pub(crate) fn slot_key(slot: SlotId) -> String {
    format!("keys/slots/{slot}")
}

/// How dear it is to try a passphrase: Argon2id's parameters. Memory times passes may be at most 16 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KdfParameters {
    /// Memory in KiB: 65,536 (64 MiB) to 4,194,304 (4 GiB).
    pub memory_kib: u32,
    /// Passes over the memory: 3 to 16.
    pub passes: u32,
    /// Lanes that can be computed side by side: 1 to 16.
    pub lanes: u32,
}

impl KdfParameters {
    /// The least that is allowed: for tests, and for machines with little memory.
    pub const FLOOR: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };

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

impl Default for KdfParameters {
    /// 256 MiB, 3 passes, 4 lanes: about a second of one processor.
    fn default() -> Self {
        Self { memory_kib: 256 * 1024, passes: 3, lanes: 4 }
    }
}

/// The private keys of an epoch.
#[derive(Debug, Clone)]
pub(crate) struct EpochSecrets {
    pub(crate) epoch: Epoch,
    /// Opens what is sealed for readers.
    pub(crate) reading: PrivateKey,
    /// Opens what is sealed for who follows references.
    pub(crate) graph: PrivateKey,
}

impl EpochSecrets {
    /// Fresh keys.
    pub(crate) fn random(epoch: Epoch, entropy: &dyn Entropy) -> Self {
        Self { epoch, reading: PrivateKey::random(entropy), graph: PrivateKey::random(entropy) }
    }

    /// Their public halves.
    pub(crate) fn public(&self) -> RingEpoch {
        RingEpoch::new(self.epoch, self.reading.public(), self.graph.public())
    }
}

/// Every key of a vault.
#[derive(Debug, Clone)]
pub(crate) struct Bundle {
    pub(crate) admin: SigningKey,
    pub(crate) member: SecretBytes,
    pub(crate) runs: SecretBytes,
    pub(crate) epochs: Vec<EpochSecrets>,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct BundleText {
    #[serde(with = "crate::wire::hex")]
    admin: [u8; 32],
    #[serde(with = "crate::wire::hex")]
    member: [u8; 32],
    #[serde(with = "crate::wire::hex")]
    runs: [u8; 32],
    epochs: Vec<EpochText>,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct EpochText {
    epoch: u64,
    #[serde(with = "crate::wire::hex")]
    reading: [u8; 32],
    #[serde(with = "crate::wire::hex")]
    graph: [u8; 32],
}

impl Bundle {
    /// The keys of a vault that begins.
    pub(crate) fn random(entropy: &dyn Entropy) -> Self {
        Self {
            admin: SigningKey::random(entropy),
            member: SecretBytes::random(entropy),
            runs: SecretBytes::random(entropy),
            epochs: vec![EpochSecrets::random(Epoch::FIRST, entropy)],
        }
    }

    pub(crate) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let epochs = self.epochs.iter().map(|epoch| EpochText {
            epoch: epoch.epoch.get(),
            reading: *epoch.reading.secret().expose(),
            graph: *epoch.graph.secret().expose(),
        });
        let text = BundleText {
            admin: *self.admin.seed().expose(),
            member: *self.member.expose(),
            runs: *self.runs.expose(),
            epochs: epochs.collect(),
        };
        Zeroizing::new(serde_json::to_vec(&text).expect("hexadecimal texts can always be written"))
    }

    pub(crate) fn decode(object: &str, bytes: &[u8]) -> Result<Self> {
        let damaged = || Error::damaged(object, "it opens, and what it holds is not the keys of a vault");
        let text: BundleText = serde_json::from_slice(bytes).map_err(|_| damaged())?;
        let epochs = text.epochs.iter().map(|epoch| {
            Some(EpochSecrets {
                epoch: Epoch::new(epoch.epoch),
                reading: PrivateKey::from_secret(SecretBytes::new(epoch.reading))?,
                graph: PrivateKey::from_secret(SecretBytes::new(epoch.graph))?,
            })
        });
        Ok(Self {
            admin: SigningKey::from_seed(SecretBytes::new(text.admin)),
            member: SecretBytes::new(text.member),
            runs: SecretBytes::new(text.runs),
            epochs: epochs.collect::<Option<_>>().ok_or_else(damaged)?,
        })
    }
}

/// What can be read of a slot without the passphrase.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) id: SlotId,
    pub(crate) vault: VaultId,
    pub(crate) kdf: KdfParameters,
    salt: [u8; 32],
    front: Vec<u8>,
    sealed: Vec<u8>,
}

impl Slot {
    /// The object of a new slot, and the key that opens what is sealed for it later on. It takes the time that the
    /// passphrase's key derivation takes.
    ///
    /// # Errors
    /// A bad passphrase or key derivation; [`Error::VerificationFailed`] when what was sealed does not open.
    pub(crate) fn make(
        id: SlotId,
        vault: VaultId,
        bundle: &Bundle,
        passphrase: &Passphrase,
        kit_secret: &SecretBytes,
        kdf: KdfParameters,
        entropy: &dyn Entropy,
    ) -> Result<(Vec<u8>, PrivateKey)> {
        kdf.check()?;
        let content = bundle.encode();
        let salt = seal::passphrase_salt(&content, entropy);
        let sealed_bytes = 32 + content.len() + 16;
        let mut bytes = Vec::with_capacity(FRONT_BYTES + sealed_bytes + 32);
        bytes.extend_from_slice(&prologue(Kind::Slot, length_u32(FRONT_BYTES + sealed_bytes + 32)));
        bytes.extend_from_slice(vault.as_bytes());
        bytes.extend_from_slice(id.as_bytes());
        for parameter in [kdf.memory_kib, kdf.passes, kdf.lanes] {
            bytes.extend_from_slice(&parameter.to_le_bytes());
        }
        bytes.extend_from_slice(&salt);
        let key = SlotKey::derive(passphrase, kit_secret, &salt, kdf)?;
        let receiving = key.receiving(&bytes);
        let sealed = key.seal(&bytes, &content);
        if key.open(&bytes, &sealed).is_none_or(|opened| *opened != *content) {
            let problem = "it does not open again".to_owned();
            return Err(Error::VerificationFailed { object: slot_key(id), problem });
        }
        bytes.extend_from_slice(&sealed);
        let hash = seal::stored_hash(&bytes);
        bytes.extend_from_slice(&hash);
        Ok((bytes, receiving))
    }

    /// Reads a slot.
    ///
    /// # Errors
    /// It is damaged, of another format, or its parameters are out of bounds.
    pub(crate) fn parse(object: &str, bytes: &[u8]) -> Result<Self> {
        let (length, _) = open_prologue(object, Kind::Slot, bytes)?;
        let mut reader = Reader::new(object, bytes);
        if usize::try_from(length) != Ok(bytes.len()) || bytes.len() > SLOT_BYTES_MAX {
            return Err(reader.damaged(format!("it has {} bytes, and should have {length}", bytes.len())));
        }
        let front = reader.take(FRONT_BYTES)?;
        let rest = reader.rest();
        let (sealed, hash) =
            rest.split_last_chunk::<32>().ok_or_else(|| reader.damaged("it ends before its hash".to_owned()))?;
        if seal::stored_hash(&bytes[..bytes.len() - 32]) != *hash {
            return Err(reader.damaged("its bytes do not have the hash that stands at its end"));
        }
        let mut reader = Reader::new(object, front);
        reader.take(PROLOGUE_BYTES)?;
        let vault = VaultId::from_bytes(reader.array()?);
        let id = SlotId::from_bytes(reader.array()?);
        let kdf = KdfParameters { memory_kib: reader.u32()?, passes: reader.u32()?, lanes: reader.u32()? };
        kdf.check()?;
        let salt = reader.array()?;
        reader.finish()?;
        Ok(Self { id, vault, kdf, salt, front: front.to_vec(), sealed: sealed.to_vec() })
    }

    /// The keys, and the one that opens what was sealed for this slot later on; none if the passphrase or the kit is not the
    /// one. It takes the time that its parameters ask for.
    ///
    /// # Errors
    /// A bad passphrase or key derivation, or what it holds is damaged.
    pub(crate) fn open(
        &self,
        passphrase: &Passphrase,
        kit_secret: &SecretBytes,
    ) -> Result<Option<(Bundle, PrivateKey)>> {
        let key = SlotKey::derive(passphrase, kit_secret, &self.salt, self.kdf)?;
        match key.open(&self.front, &self.sealed) {
            Some(content) => {
                Bundle::decode(&slot_key(self.id), &content).map(|bundle| Some((bundle, key.receiving(&self.front))))
            }
            None => Ok(None),
        }
    }
}
