//! What opens with a passphrase and the secret of a recovery kit together.
//!
//! The kit's secret is 32 random bytes, so whoever has the store alone cannot even begin to guess the passphrase; and
//! whoever finds the kit alone has to guess at the price of Argon2id.

use aws_lc_rs::{constant_time, hkdf};
use farshore_core::{Entropy, Passphrase, SecretBytes};
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use super::{COMMITMENT_BYTES, PARTS_BYTES, PrivateKey, TAG_BYTES, decrypt, encrypt, expand_prk, split_parts};
use crate::{Error, KdfParameters, Result};

/// A salt for a passphrase: a hash of fresh randomness and of what it will protect, so that randomness that repeats cannot
/// lead to two contents being sealed alike.
pub(crate) fn passphrase_salt(content: &[u8], entropy: &dyn Entropy) -> [u8; 32] {
    let mut random = [0; 32];
    entropy.fill(&mut random);
    let mut hasher = blake3::Hasher::new_derive_key("farshore/1/passphrase-salt");
    *hasher.update(&random).update(content).finalize().as_bytes()
}

/// The key of a slot.
pub(crate) struct SlotKey(hkdf::Prk);

impl SlotKey {
    /// Argon2id (RFC 9106) of the passphrase's NFKC form, then HKDF-Extract of that and the kit's secret. It takes the time
    /// that the parameters ask for; their bounds are the caller's to check.
    ///
    /// # Errors
    /// The passphrase is empty, or the memory is not there.
    pub(crate) fn derive(
        passphrase: &Passphrase,
        kit_secret: &SecretBytes,
        salt: &[u8; 32],
        kdf: KdfParameters,
    ) -> Result<Self> {
        let normal = Zeroizing::new(passphrase.expose().nfkc().collect::<String>());
        if normal.is_empty() {
            return Err(Error::EmptyPassphrase);
        }
        let failed = |error: argon2::Error| Error::KdfFailed { memory_kib: kdf.memory_kib, reason: error.to_string() };
        let parameters = argon2::Params::new(kdf.memory_kib, kdf.passes, kdf.lanes, Some(32)).map_err(failed)?;
        let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, parameters);
        let mut material = Zeroizing::new([0; 64]);
        argon2.hash_password_into(normal.as_bytes(), salt, &mut material[..32]).map_err(failed)?;
        material[32..].copy_from_slice(kit_secret.expose());
        Ok(Self(hkdf::Salt::new(hkdf::HKDF_SHA512, b"farshore/1/slot").extract(&*material)))
    }

    fn parts(&self, context: &[u8]) -> Zeroizing<[u8; PARTS_BYTES]> {
        expand_prk(&self.0, &[b"farshore/1/slot", context])
    }

    /// The key that opens what is sealed for this slot later on. `context` is what stands before what is sealed in it.
    pub(crate) fn receiving(&self, context: &[u8]) -> PrivateKey {
        let secret = expand_prk::<32>(&self.0, &[b"farshore/1/slot/receiving", context]);
        PrivateKey::from_secret(SecretBytes::new(*secret)).expect("any 32 bytes are a key of X25519")
    }

    /// Commitment, ciphertext and tag of a content that is sealed once with this key. `context` is what stands before.
    pub(crate) fn seal(&self, context: &[u8], content: &[u8]) -> Vec<u8> {
        let parts = self.parts(context);
        let (key, nonce, commitment) = split_parts(&parts);
        let mut sealed = Vec::with_capacity(COMMITMENT_BYTES + content.len() + TAG_BYTES);
        sealed.extend_from_slice(commitment);
        sealed.extend_from_slice(content);
        let tag = encrypt(key, nonce, context, &mut sealed[COMMITMENT_BYTES..]);
        sealed.extend_from_slice(&tag);
        sealed
    }

    /// The content; none if the passphrase or the kit is not the one.
    pub(crate) fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let parts = self.parts(context);
        let (key, nonce, expected) = split_parts(&parts);
        let (commitment, body) = sealed.split_at_checked(COMMITMENT_BYTES)?;
        constant_time::verify_slices_are_equal(expected, commitment).ok()?;
        let mut content = Zeroizing::new(body.to_vec());
        decrypt(key, nonce, context, &mut content).then_some(content)
    }
}
