//! What is sealed for whoever holds a private key: the secrets of sessions and lineages, and what is granted to a host.
//!
//! HPKE (RFC 9180) with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM in its mode with a pre-shared key, one
//! message for each context. A box is the encapsulated key (32 bytes), the ciphertext and its tag (16).

use farshore_core::{Entropy, Epoch, HostId, LineageId, SecretBytes, SessionId, SlotId, VaultId};
use hpke::{
    Deserializable, Kem as _, OpModeR, OpModeS, PskBundle, Serializable, aead::AesGcm256, kdf::HkdfSha256,
    kem::X25519HkdfSha256, single_shot_open, single_shot_seal_with_rng,
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use zeroize::Zeroizing;

use super::{MemberKeys, TAG_BYTES};
use crate::{
    Error, Result,
    wire::{FORMAT, MAGIC},
};

type Kem = X25519HkdfSha256;

const ENCAPSULATED_BYTES: usize = 32;

/// How many bytes a box has more than its content.
pub(crate) const BOX_OVERHEAD_BYTES: usize = ENCAPSULATED_BYTES + TAG_BYTES;

/// Names the pre-shared key, as RFC 9180 asks for.
const SHARED_KEY_ID: &[u8] = b"farshore/1/member";

/// What is in a box, and for whom. It is authenticated with the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BoxPurpose {
    /// The secret of a session, for readers.
    Session { lineage: LineageId, session: SessionId, epoch: Epoch },
    /// The first secret of a lineage, for who follows references.
    LineageGraph { lineage: LineageId, epoch: Epoch },
    /// Both secrets of a lineage, for readers.
    LineageReading { lineage: LineageId, epoch: Epoch },
    /// Both secrets of a lineage, for a host that writes it.
    LineageHost { lineage: LineageId, host: HostId },
    /// Keys of the vault, for a host.
    Grant { host: HostId, number: u64 },
    /// The private keys of an epoch, for who opens this slot.
    Epoch { slot: SlotId, epoch: Epoch },
}

impl BoxPurpose {
    pub(super) fn encode(&self, vault: VaultId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(80);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(vault.as_bytes());
        let mut put = |number: u8, fields: &[&[u8]]| {
            bytes.push(number);
            fields.iter().for_each(|field| bytes.extend_from_slice(field));
        };
        match self {
            Self::Session { lineage, session, epoch } => {
                put(1, &[lineage.as_bytes(), session.as_bytes(), &epoch.get().to_le_bytes()])
            }
            Self::LineageGraph { lineage, epoch } => put(2, &[lineage.as_bytes(), &epoch.get().to_le_bytes()]),
            Self::LineageReading { lineage, epoch } => put(3, &[lineage.as_bytes(), &epoch.get().to_le_bytes()]),
            Self::LineageHost { lineage, host } => put(4, &[lineage.as_bytes(), host.as_bytes()]),
            Self::Grant { host, number } => put(5, &[host.as_bytes(), &number.to_le_bytes()]),
            Self::Epoch { slot, epoch } => put(6, &[slot.as_bytes(), &epoch.get().to_le_bytes()]),
        }
        bytes
    }
}

/// A public key, to which anybody can seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PublicKey([u8; 32]);

impl PublicKey {
    pub(crate) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Seals for the holder of the private key. It is done twice and compared, because nobody here can open it to see
    /// whether it was done right.
    ///
    /// # Errors
    /// [`Error::VerificationFailed`] when the two differ; [`Error::Damaged`] when this is no public key.
    pub(crate) fn seal(
        &self,
        object: &str,
        member: &MemberKeys,
        purpose: BoxPurpose,
        content: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>> {
        let info = purpose.encode(member.vault());
        let mut random = Zeroizing::new([0; 32]);
        entropy.fill(&mut *random);
        let mut hasher = blake3::Hasher::new_keyed(member.shared().expose());
        hasher.update(b"farshore/1/ephemeral").update(&*random).update(&self.0).update(&info).update(content);
        let seed = Zeroizing::new(*hasher.finalize().as_bytes());
        let unusable =
            |error: hpke::HpkeError| Error::damaged(object, format!("a public key in it is unusable: {error}"));
        let seal = || {
            let key = <Kem as hpke::Kem>::PublicKey::from_bytes(&self.0).map_err(unusable)?;
            let shared = PskBundle::new(member.shared().expose(), SHARED_KEY_ID).map_err(unusable)?;
            let (encapsulated, sealed) = single_shot_seal_with_rng::<AesGcm256, HkdfSha256, Kem>(
                &OpModeS::Psk(shared),
                &key,
                &info,
                content,
                &[],
                &mut ChaCha20Rng::from_seed(*seed),
            )
            .map_err(unusable)?;
            let mut bytes = Vec::with_capacity(ENCAPSULATED_BYTES + sealed.len());
            bytes.extend_from_slice(&encapsulated.to_bytes());
            bytes.extend_from_slice(&sealed);
            Ok(bytes)
        };
        let sealed = seal()?;
        #[cfg(test)]
        {
            // The ephemeral key decides the key and nonce.
            let encapsulated = sealed.first_chunk::<32>().expect("a box begins with its encapsulated key");
            super::census::record(encapsulated, &[0; 12], &info, content);
        }
        if sealed == seal()? {
            return Ok(sealed);
        }
        let problem = "sealing the same twice gave two results".to_owned();
        Err(Error::VerificationFailed { object: object.to_owned(), problem })
    }
}

/// A private key, and the public key that belongs to it.
#[derive(Debug, Clone)]
pub(crate) struct PrivateKey {
    secret: SecretBytes,
    public: PublicKey,
}

impl PrivateKey {
    /// The key with this secret; none if there is no such key.
    pub(crate) fn from_secret(secret: SecretBytes) -> Option<Self> {
        let key = <Kem as hpke::Kem>::PrivateKey::from_bytes(secret.expose()).ok()?;
        let public = PublicKey(Kem::sk_to_pk(&key).to_bytes().into());
        Some(Self { secret, public })
    }

    /// A fresh key.
    pub(crate) fn random(entropy: &dyn Entropy) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        entropy.fill(&mut *seed);
        let (key, _) = Kem::derive_keypair(&*seed);
        let secret = Zeroizing::new(<[u8; 32]>::from(key.to_bytes()));
        Self::from_secret(SecretBytes::new(*secret)).expect("a derived key is a key")
    }

    pub(crate) fn secret(&self) -> &SecretBytes {
        &self.secret
    }

    pub(crate) fn public(&self) -> PublicKey {
        self.public
    }

    /// Opens what [`PublicKey::seal`] made for the same purpose; none if it is anything else.
    pub(crate) fn open(&self, member: &MemberKeys, purpose: BoxPurpose, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (encapsulated, body) = sealed.split_at_checked(ENCAPSULATED_BYTES)?;
        let key = <Kem as hpke::Kem>::PrivateKey::from_bytes(self.secret.expose()).ok()?;
        let encapsulated = <Kem as hpke::Kem>::EncappedKey::from_bytes(encapsulated).ok()?;
        let shared = PskBundle::new(member.shared().expose(), SHARED_KEY_ID).ok()?;
        let info = purpose.encode(member.vault());
        single_shot_open::<AesGcm256, HkdfSha256, Kem>(&OpModeR::Psk(shared), &key, &encapsulated, &info, body, &[])
            .ok()
            .map(Zeroizing::new)
    }
}
