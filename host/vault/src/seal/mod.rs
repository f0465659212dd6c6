//! All cryptography of the vault: what opens with a passphrase, what is sealed for whom, what is signed, what identifies
//! a chunk. `CRYPTO.md` beside this crate says the same for who implements it again.
//!
//! A caller gives what is sealed and what it is ([`Purpose`], [`BoxPurpose`], [`FrameContext`]); it never chooses a key or a
//! nonce. The machine that runs this is itself rolled back and cloned, so nothing here may rely on a counter or on
//! randomness that never repeats:
//!
//! - *Metadata* ([`Sealer`]): the salt is a keyed hash of fresh randomness, the purpose and the plaintext. Key, nonce and
//!   commitment are derived from the salt and the purpose. If the randomness repeats, the salt repeats only if the
//!   message does.
//! - *Boxes* ([`PublicKey`], [`PrivateKey`]): what is sealed for somebody who holds a private key. The ephemeral key comes
//!   from a hash of fresh randomness, the purpose and the plaintext, with the same effect.
//! - *Frames* ([`SessionKey`]): the key is derived from the session's secret, the pack in which the frame is born, its
//!   ordinal there and its content's identity; the nonce is a keyed hash of exactly the bytes that are sealed.
//!
//! The commitment of metadata is compared before anything is decrypted, so that one sealed text opens with one key only.
//! Full context is authenticated: format, purpose, vault, lineage, session, pack, ordinal, lengths, codec.
//!
//! AES-256-GCM comes from AWS-LC (measured on one core with AVX-512: 3.4 GB/s, against 0.4 GB/s of the `aes-gcm` crate);
//! the hash of stored bytes is BLAKE3 because SHA-256 reaches 0.3 GB/s on machines without SHA instructions.

mod frame;
mod lineage;
mod member;
mod metadata;
mod passphrase;
mod sealed_box;
mod signature;

use aws_lc_rs::{aead, hkdf};
use farshore_core::SecretBytes;
use zeroize::{Zeroize, Zeroizing};

pub(crate) use self::{
    frame::{FRAME_OVERHEAD_BYTES, FrameContext, SessionKey},
    lineage::{ContentKeys, LineageKeys, LineageSecrets},
    member::MemberKeys,
    metadata::{Purpose, SEALED_OVERHEAD_BYTES, Sealer},
    passphrase::{SlotKey, passphrase_salt},
    sealed_box::{BOX_OVERHEAD_BYTES, BoxPurpose, PrivateKey, PublicKey},
    signature::{SIGNATURE_BYTES, Signature, SigningKey, Statement, VerifyingKey},
};

/// The hash of bytes as they are stored, or the identity of content.
pub(crate) type Hash = [u8; 32];

const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const COMMITMENT_BYTES: usize = 32;

/// Key, nonce and commitment, derived together.
const PARTS_BYTES: usize = 32 + NONCE_BYTES + COMMITMENT_BYTES;

/// The hash of bytes as they are stored: plain BLAKE3, so that it can be checked without keys.
pub(crate) fn stored_hash(bytes: &[u8]) -> Hash {
    *blake3::hash(bytes).as_bytes()
}

/// The hash of stored bytes that lie in pieces.
pub(crate) fn stored_hash_of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand_prk<const N: usize>(prk: &hkdf::Prk, info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    let mut output = Zeroizing::new([0; N]);
    prk.expand(info, Length(N))
        .and_then(|okm| okm.fill(&mut *output))
        .expect("the lengths are constants that HKDF allows");
    output
}

/// HKDF-Expand with SHA-512 of a key that is uniform already.
fn expand<const N: usize>(key: &[u8; 32], info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    expand_prk(&hkdf::Prk::new_less_safe(hkdf::HKDF_SHA512, key), info)
}

fn subkey(key: &SecretBytes, info: &[&[u8]]) -> SecretBytes {
    SecretBytes::new(*expand::<32>(key.expose(), info))
}

/// Key, nonce and commitment out of what was derived for all three.
fn split_parts(parts: &[u8; PARTS_BYTES]) -> (&[u8; 32], [u8; NONCE_BYTES], &[u8]) {
    let (key, rest) = parts.split_first_chunk::<32>().expect("the parts have a fixed length");
    let (nonce, commitment) = rest.split_first_chunk::<NONCE_BYTES>().expect("the parts have a fixed length");
    (key, *nonce, commitment)
}

fn cipher(key: &[u8; 32]) -> aead::LessSafeKey {
    let key = aead::UnboundKey::new(&aead::AES_256_GCM, key).expect("the key has 32 bytes");
    aead::LessSafeKey::new(key)
}

fn encrypt(key: &[u8; 32], nonce: [u8; NONCE_BYTES], aad: &[u8], buffer: &mut [u8]) -> [u8; TAG_BYTES] {
    #[cfg(test)]
    census::record(key, &nonce, aad, buffer);
    encrypt_uncounted(key, nonce, aad, buffer)
}

fn encrypt_uncounted(key: &[u8; 32], nonce: [u8; NONCE_BYTES], aad: &[u8], buffer: &mut [u8]) -> [u8; TAG_BYTES] {
    let tag = cipher(key)
        .seal_in_place_separate_tag(aead::Nonce::assume_unique_for_key(nonce), aead::Aad::from(aad), buffer)
        .expect("the message is far below the limit of AES-GCM");
    tag.as_ref().try_into().expect("a tag has 16 bytes")
}

/// Decrypts in place and cuts the tag off; the buffer is emptied when the tag is wrong.
fn decrypt(key: &[u8; 32], nonce: [u8; NONCE_BYTES], aad: &[u8], buffer: &mut Vec<u8>) -> bool {
    let nonce = aead::Nonce::assume_unique_for_key(nonce);
    match cipher(key).open_in_place(nonce, aead::Aad::from(aad), buffer).map(|plain| plain.len()) {
        Ok(length) => {
            buffer.truncate(length);
            true
        }
        Err(_) => {
            buffer.zeroize();
            false
        }
    }
}

/// Counts, in tests, with which key and nonce each message is sealed: one pair, one message.
#[cfg(test)]
pub(crate) mod census {
    use std::{
        cell::Cell,
        collections::BTreeMap,
        sync::{Mutex, PoisonError},
    };

    /// By a hash of key and nonce, a hash of the message: small, because a long run keeps ten million of them.
    static SEEN: Mutex<BTreeMap<u128, u64>> = Mutex::new(BTreeMap::new());

    std::thread_local! {
        static NEW: Cell<u64> = const { Cell::new(0) };
    }

    fn number<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        *hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes")
    }

    pub(crate) fn record(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], plain: &[u8]) {
        let pair = u128::from_le_bytes(number(&[key, nonce]));
        let message = u64::from_le_bytes(number(&[aad, plain]));
        let before = SEEN.lock().unwrap_or_else(PoisonError::into_inner).insert(pair, message);
        NEW.set(NEW.get() + u64::from(before.is_none()));
        assert!(before.is_none_or(|before| before == message), "two messages were sealed with one key and nonce");
    }

    /// How many pairs this thread was the first to use.
    pub(crate) fn new_pairs() -> u64 {
        NEW.get()
    }

    /// How many pairs have been used so far by all tests of this process.
    pub(crate) fn pairs() -> usize {
        SEEN.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod known_answers;
