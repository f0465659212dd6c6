//! All cryptography of the vault: what opens with the passphrase, what seals an object, what identifies a chunk.
//!
//! A caller gives what is sealed and what it is ([`Purpose`], [`FrameContext`]); it never chooses a key or a nonce. The
//! machine that runs this is itself rolled back and cloned, so nothing here may rely on a counter or on randomness that
//! never repeats:
//!
//! - *Metadata* ([`Sealer`]): the salt is a keyed hash of fresh randomness, the purpose and the plaintext. Key, nonce and
//!   commitment are derived from the salt and the purpose. If the randomness repeats, the salt repeats only if the
//!   message does.
//! - *Frames* ([`SessionKey`]): the key is derived from the session's secret, the pack in which the frame is born, its
//!   ordinal there and its content's identity; the nonce is a keyed hash of exactly the bytes that are sealed.
//!
//! The commitment is compared before anything is decrypted, so that one sealed text opens with one key only. Full
//! context is authenticated: format, purpose, vault, lineage, session, pack, ordinal, lengths, codec.
//!
//! *The seam for format 1:* a session's secret is sealed with [`VaultKeys::seal_session`] under a key of the vault that
//! every host with the passphrase has. Format 1 replaces that one pair of functions by a public key, so that a
//! replicator cannot read what earlier sessions wrote; nothing else here changes.
//!
//! AES-256-GCM comes from AWS-LC (measured on one core with AVX-512: 3.4 GB/s, against 0.4 GB/s of the `aes-gcm` crate);
//! the hash of stored bytes is BLAKE3 because SHA-256 reaches 0.3 GB/s on machines without SHA instructions.

use aws_lc_rs::{aead, constant_time, hkdf};
use farshore_core::{Entropy, GroupName, LineageId, PackId, Passphrase, RunId, SecretBytes, SessionId, VaultId};
use unicode_normalization::UnicodeNormalization;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    Error, KdfParameters, Result,
    wire::{FORMAT, MAGIC, length_u32},
};

/// The hash of bytes as they are stored, or the identity of content.
pub(crate) type Hash = [u8; 32];

const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const SALT_BYTES: usize = 32;
const COMMITMENT_BYTES: usize = 32;

/// How many bytes sealing adds to metadata: salt, commitment, tag.
pub(crate) const SEALED_OVERHEAD_BYTES: usize = SALT_BYTES + COMMITMENT_BYTES + TAG_BYTES;

/// How many bytes sealing adds to a frame: nonce, tag.
pub(crate) const FRAME_OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;

/// Bytes of a sealed session secret.
pub(crate) const SEALED_SECRET_BYTES: usize = 32 + SEALED_OVERHEAD_BYTES;

/// Bytes of a vault key that is wrapped under a passphrase: commitment, key, tag.
pub(crate) const WRAPPED_KEY_BYTES: usize = COMMITMENT_BYTES + 32 + TAG_BYTES;

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

/// HKDF-Expand with SHA-512 of a key that is uniform already.
fn expand<const N: usize>(key: &[u8; 32], info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    let mut output = Zeroizing::new([0; N]);
    hkdf::Prk::new_less_safe(hkdf::HKDF_SHA512, key)
        .expand(info, Length(N))
        .and_then(|okm| okm.fill(&mut *output))
        .expect("the lengths are constants that HKDF allows");
    output
}

fn subkey(key: &SecretBytes, info: &[&[u8]]) -> SecretBytes {
    SecretBytes::new(*expand::<32>(key.expose(), info))
}

fn cipher(key: &[u8; 32]) -> aead::LessSafeKey {
    let key = aead::UnboundKey::new(&aead::AES_256_GCM, key).expect("the key has 32 bytes");
    aead::LessSafeKey::new(key)
}

fn encrypt(key: &[u8; 32], nonce: [u8; NONCE_BYTES], aad: &[u8], buffer: &mut [u8]) -> [u8; TAG_BYTES] {
    #[cfg(test)]
    census::record(key, &nonce, aad, buffer);
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

/// What a piece of metadata is, and where it belongs. It is authenticated with the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The first commit of a lineage, which holds the lineage's own secret.
    Genesis { lineage: LineageId },
    /// A later commit.
    Commit { lineage: LineageId, sequence: u64 },
    /// A page of a disk's map.
    Page { lineage: LineageId, pack: PackId, offset: u32, level: u8, index: u64 },
    /// The secret of a session.
    Session { lineage: LineageId, session: SessionId },
    /// The directory of a data pack.
    Directory { lineage: LineageId, session: SessionId, pack: PackId, body_bytes: u32, body_hash: Hash },
    /// An entry of a run's journal.
    RunEntry { run: RunId, number: u64 },
}

impl Purpose {
    /// Bytes that no other purpose has: a number for the variant, then fields of fixed length.
    fn encode(&self, vault: VaultId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(160);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(vault.as_bytes());
        let mut put = |number: u8, fields: &[&[u8]]| {
            bytes.push(number);
            fields.iter().for_each(|field| bytes.extend_from_slice(field));
        };
        match self {
            Self::Genesis { lineage } => put(1, &[lineage.as_bytes()]),
            Self::Commit { lineage, sequence } => put(2, &[lineage.as_bytes(), &sequence.to_le_bytes()]),
            Self::Page { lineage, pack, offset, level, index } => {
                put(3, &[lineage.as_bytes(), pack.as_bytes(), &offset.to_le_bytes(), &[*level], &index.to_le_bytes()])
            }
            Self::Session { lineage, session } => put(4, &[lineage.as_bytes(), session.as_bytes()]),
            Self::Directory { lineage, session, pack, body_bytes, body_hash } => {
                put(5, &[lineage.as_bytes(), session.as_bytes(), pack.as_bytes(), &body_bytes.to_le_bytes(), body_hash])
            }
            Self::RunEntry { run, number } => put(6, &[run.as_bytes(), &number.to_le_bytes()]),
        }
        bytes
    }
}

/// Seals and opens metadata under one key.
#[derive(Debug, Clone)]
pub(crate) struct Sealer {
    vault: VaultId,
    key: SecretBytes,
}

impl Sealer {
    fn parts(&self, context: &[u8], salt: &[u8]) -> Zeroizing<[u8; 32 + NONCE_BYTES + COMMITMENT_BYTES]> {
        expand(self.key.expose(), &[b"farshore/0/seal", salt, context])
    }

    /// Seals, and opens what was sealed to see that it is what was given.
    ///
    /// # Errors
    /// [`Error::VerificationFailed`] when it is not.
    pub(crate) fn seal(&self, object: &str, purpose: Purpose, plain: &[u8], entropy: &dyn Entropy) -> Result<Vec<u8>> {
        let context = purpose.encode(self.vault);
        let mut random = [0; 32];
        entropy.fill(&mut random);
        let salt_key = expand::<32>(self.key.expose(), &[b"farshore/0/salt"]);
        let mut hasher = blake3::Hasher::new_keyed(&salt_key);
        hasher.update(&random).update(&u64::from(length_u32(context.len())).to_le_bytes());
        let salt = *hasher.update(&context).update(plain).finalize().as_bytes();

        let parts = self.parts(&context, &salt);
        let (key, rest) = parts.split_first_chunk::<32>().expect("the parts have a fixed length");
        let (nonce, commitment) = rest.split_first_chunk::<NONCE_BYTES>().expect("the parts have a fixed length");
        let mut sealed = Vec::with_capacity(plain.len() + SEALED_OVERHEAD_BYTES);
        sealed.extend_from_slice(&salt);
        sealed.extend_from_slice(commitment);
        sealed.extend_from_slice(plain);
        let tag = encrypt(key, *nonce, &context, &mut sealed[SALT_BYTES + COMMITMENT_BYTES..]);
        sealed.extend_from_slice(&tag);

        let problem = match self.open(object, purpose, &sealed) {
            Ok(opened) if *opened == plain => return Ok(sealed),
            Ok(_) => "its content differs".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(Error::VerificationFailed { object: object.to_owned(), problem })
    }

    /// Opens what [`Sealer::seal`] made for the same purpose.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is anything else.
    pub(crate) fn open(&self, object: &str, purpose: Purpose, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let damaged = |problem| Error::damaged(object, problem);
        let too_short = || damaged("it ends inside what is sealed");
        let (salt, rest) = sealed.split_at_checked(SALT_BYTES).ok_or_else(too_short)?;
        let (commitment, body) = rest.split_at_checked(COMMITMENT_BYTES).ok_or_else(too_short)?;
        if body.len() < TAG_BYTES {
            return Err(too_short());
        }
        let context = purpose.encode(self.vault);
        let parts = self.parts(&context, salt);
        let (key, rest) = parts.split_first_chunk::<32>().expect("the parts have a fixed length");
        let (nonce, expected) = rest.split_first_chunk::<NONCE_BYTES>().expect("the parts have a fixed length");
        if constant_time::verify_slices_are_equal(expected, commitment).is_err() {
            return Err(damaged("it was not sealed for this place in this vault, or its bytes have changed"));
        }
        let mut plain = Zeroizing::new(body.to_vec());
        if !decrypt(key, *nonce, &context, &mut plain) {
            return Err(damaged("its bytes have changed since it was sealed"));
        }
        Ok(plain)
    }
}

/// The keys of a vault, all derived from the one that the passphrase opens.
#[derive(Debug, Clone)]
pub(crate) struct VaultKeys {
    vault: VaultId,
    root: SecretBytes,
    names: SecretBytes,
    /// Seals the first commits of lineages.
    pub(crate) genesis: Sealer,
    /// Seals the journals of runs.
    pub(crate) runs: Sealer,
    sessions: Sealer,
}

impl VaultKeys {
    /// The keys of the vault whose root key this is.
    pub(crate) fn new(vault: VaultId, root: SecretBytes) -> Self {
        let key = |purpose: &[u8]| subkey(&root, &[b"farshore/0/vault/", purpose]);
        let sealer = |purpose: &[u8]| Sealer { vault, key: key(purpose) };
        Self {
            vault,
            names: key(b"names"),
            genesis: sealer(b"genesis"),
            runs: sealer(b"runs"),
            sessions: sealer(b"sessions"),
            root,
        }
    }

    /// The id of the lineage of a group: a keyed hash of its name, so that racing creators mean the same lineage and the
    /// store's listing does not tell the name.
    pub(crate) fn lineage_id(&self, group: &GroupName) -> LineageId {
        let hash = blake3::keyed_hash(self.names.expose(), group.as_str().as_bytes());
        let (id, _) = hash.as_bytes().split_first_chunk::<16>().expect("a hash has 32 bytes");
        LineageId::from_bytes(*id)
    }

    /// The keys of a lineage, from the secret in its first commit.
    pub(crate) fn lineage(&self, lineage: LineageId, secret: &SecretBytes) -> LineageKeys {
        let key = |purpose: &[u8]| {
            subkey(secret, &[b"farshore/0/lineage/", purpose, self.vault.as_bytes(), lineage.as_bytes()])
        };
        LineageKeys {
            metadata: Sealer { vault: self.vault, key: key(b"metadata") },
            identity: key(b"identity"),
            frame_identity: key(b"frames"),
        }
    }

    /// A fresh session with its secret sealed.
    pub(crate) fn seal_session(
        &self,
        lineage: LineageId,
        session: SessionId,
        entropy: &dyn Entropy,
    ) -> Result<(SessionKey, Vec<u8>)> {
        let secret = SecretBytes::random(entropy);
        let object = format!("session {session}");
        let sealed = self.sessions.seal(&object, Purpose::Session { lineage, session }, secret.expose(), entropy)?;
        Ok((SessionKey { vault: self.vault, lineage, session, secret }, sealed))
    }

    /// The session whose sealed secret lies in this object.
    pub(crate) fn open_session(
        &self,
        object: &str,
        lineage: LineageId,
        session: SessionId,
        sealed: &[u8],
    ) -> Result<SessionKey> {
        let secret = self.sessions.open(object, Purpose::Session { lineage, session }, sealed)?;
        let secret: [u8; 32] =
            secret.as_slice().try_into().map_err(|_| Error::damaged(object, "its secret is too short"))?;
        Ok(SessionKey { vault: self.vault, lineage, session, secret: SecretBytes::new(secret) })
    }

    /// The salt for a passphrase: a hash of fresh randomness and of the key that it will protect, so that a repeated
    /// random number cannot lead to two keys being wrapped alike.
    pub(crate) fn passphrase_salt(&self, entropy: &dyn Entropy) -> [u8; 32] {
        let mut random = Zeroizing::new([0; 64]);
        entropy.fill(&mut random[..32]);
        random[32..].copy_from_slice(self.root.expose());
        blake3::derive_key("farshore/0/passphrase-salt", random.as_slice())
    }

    /// The root key, wrapped under a key that a passphrase gives. `context` is what stands before it in the header.
    pub(crate) fn wrap(&self, passphrase_key: &SecretBytes, context: &[u8]) -> [u8; WRAPPED_KEY_BYTES] {
        let parts = wrapping_parts(passphrase_key, context);
        let (key, rest) = parts.split_first_chunk::<32>().expect("the parts have a fixed length");
        let (nonce, commitment) = rest.split_first_chunk::<NONCE_BYTES>().expect("the parts have a fixed length");
        let mut wrapped = [0; WRAPPED_KEY_BYTES];
        let (front, tag) = wrapped.split_at_mut(COMMITMENT_BYTES + 32);
        front[..COMMITMENT_BYTES].copy_from_slice(commitment);
        front[COMMITMENT_BYTES..].copy_from_slice(self.root.expose());
        tag.copy_from_slice(&encrypt(key, *nonce, context, &mut front[COMMITMENT_BYTES..]));
        wrapped
    }

    /// The keys of a vault whose wrapped root key this is; none if the passphrase's key is not the one that wrapped it.
    pub(crate) fn unwrap(
        vault: VaultId,
        passphrase_key: &SecretBytes,
        context: &[u8],
        wrapped: &[u8; WRAPPED_KEY_BYTES],
    ) -> Option<Self> {
        let parts = wrapping_parts(passphrase_key, context);
        let (key, rest) = parts.split_first_chunk::<32>()?;
        let (nonce, expected) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let (commitment, body) = wrapped.split_at(COMMITMENT_BYTES);
        constant_time::verify_slices_are_equal(expected, commitment).ok()?;
        let mut root = Zeroizing::new(body.to_vec());
        decrypt(key, *nonce, context, &mut root).then_some(())?;
        let root: [u8; 32] = root.as_slice().try_into().ok()?;
        Some(Self::new(vault, SecretBytes::new(root)))
    }
}

fn wrapping_parts(key: &SecretBytes, context: &[u8]) -> Zeroizing<[u8; 32 + NONCE_BYTES + COMMITMENT_BYTES]> {
    expand(key.expose(), &[b"farshore/0/kek", context])
}

/// The key that a passphrase gives: Argon2id (RFC 9106) of its NFKC form.
///
/// # Errors
/// The passphrase is empty, or the memory is not there. The parameters' bounds are the caller's to check.
pub(crate) fn passphrase_key(passphrase: &Passphrase, salt: &[u8; 32], kdf: KdfParameters) -> Result<SecretBytes> {
    let normal = Zeroizing::new(passphrase.expose().nfkc().collect::<String>());
    if normal.is_empty() {
        return Err(Error::EmptyPassphrase);
    }
    let failed = |error: argon2::Error| Error::KdfFailed { memory_kib: kdf.memory_kib, reason: error.to_string() };
    let parameters = argon2::Params::new(kdf.memory_kib, kdf.passes, kdf.lanes, Some(32)).map_err(failed)?;
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, parameters);
    let mut key = Zeroizing::new([0; 32]);
    argon2.hash_password_into(normal.as_bytes(), salt, &mut *key).map_err(failed)?;
    Ok(SecretBytes::new(*key))
}

/// The keys of a lineage: they pass to its new writer when the direction changes.
#[derive(Debug, Clone)]
pub(crate) struct LineageKeys {
    /// Seals commits and map pages.
    pub(crate) metadata: Sealer,
    identity: SecretBytes,
    frame_identity: SecretBytes,
}

impl LineageKeys {
    /// The identity of a chunk: keyed BLAKE3 of its 65,536 bytes.
    pub(crate) fn identify(&self, chunk: &[u8]) -> Hash {
        *blake3::keyed_hash(self.identity.expose(), chunk).as_bytes()
    }

    /// The identity of a frame: keyed BLAKE3 of its chunks' identities.
    pub(crate) fn identify_frame(&self, chunks: &[Hash]) -> Hash {
        *blake3::keyed_hash(self.frame_identity.expose(), chunks.as_flattened()).as_bytes()
    }
}

/// Where a frame was born and what it holds: all of it is authenticated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameContext {
    /// The pack in which it was sealed.
    pub(crate) pack: PackId,
    /// Its number there.
    pub(crate) ordinal: u32,
    /// How it was compressed.
    pub(crate) codec: u8,
    /// How many chunks it holds.
    pub(crate) chunks: u8,
    /// The identity of its content.
    pub(crate) identity: Hash,
}

/// Seals and opens the frames of one session.
#[derive(Debug, Clone)]
pub(crate) struct SessionKey {
    vault: VaultId,
    lineage: LineageId,
    session: SessionId,
    secret: SecretBytes,
}

impl SessionKey {
    fn frame_parts(&self, context: &FrameContext) -> Zeroizing<[u8; 64]> {
        expand(
            self.secret.expose(),
            &[
                b"farshore/0/frame",
                self.vault.as_bytes(),
                self.lineage.as_bytes(),
                self.session.as_bytes(),
                context.pack.as_bytes(),
                &context.ordinal.to_le_bytes(),
                &context.identity,
            ],
        )
    }

    fn frame_aad(&self, context: &FrameContext, payload_bytes: usize) -> Vec<u8> {
        let mut aad = Vec::with_capacity(128);
        aad.extend_from_slice(&MAGIC);
        aad.extend_from_slice(&FORMAT.to_le_bytes());
        aad.push(7);
        aad.extend_from_slice(self.vault.as_bytes());
        aad.extend_from_slice(self.lineage.as_bytes());
        aad.extend_from_slice(self.session.as_bytes());
        aad.extend_from_slice(context.pack.as_bytes());
        aad.extend_from_slice(&context.ordinal.to_le_bytes());
        aad.extend_from_slice(&[context.codec, context.chunks]);
        aad.extend_from_slice(&length_u32(payload_bytes).to_le_bytes());
        aad.extend_from_slice(&context.identity);
        aad
    }

    /// Seals a frame in the buffer that will be stored: room for the nonce, then the payload. The tag is appended.
    pub(crate) fn seal_frame(&self, context: &FrameContext, mut buffer: Vec<u8>) -> Vec<u8> {
        let parts = self.frame_parts(context);
        let (key, nonce_key) = parts.split_first_chunk::<32>().expect("the parts have a fixed length");
        let nonce_key = nonce_key.first_chunk::<32>().expect("the parts have a fixed length");
        let (front, payload) = buffer.split_at_mut(NONCE_BYTES);
        let mut hasher = blake3::Hasher::new_keyed(nonce_key);
        let hash = hasher.update(&[context.codec]).update(payload).finalize();
        let nonce = hash.as_bytes().first_chunk::<NONCE_BYTES>().expect("a hash has 32 bytes");
        front.copy_from_slice(nonce);
        let tag = encrypt(key, *nonce, &self.frame_aad(context, payload.len()), payload);
        buffer.extend_from_slice(&tag);
        buffer
    }

    /// A buffer to compress a frame's payload into, so that [`SessionKey::seal_frame`] can seal it in place.
    pub(crate) fn frame_buffer(capacity: usize) -> Vec<u8> {
        let mut buffer = Vec::with_capacity(capacity + FRAME_OVERHEAD_BYTES);
        buffer.resize(NONCE_BYTES, 0);
        buffer
    }

    /// Opens a frame; none if it is not what the context says.
    pub(crate) fn open_frame(&self, context: &FrameContext, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, body) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let payload_bytes = body.len().checked_sub(TAG_BYTES)?;
        let parts = self.frame_parts(context);
        let key = parts.first_chunk::<32>()?;
        let mut payload = body.to_vec();
        decrypt(key, *nonce, &self.frame_aad(context, payload_bytes), &mut payload).then_some(payload)
    }
}

/// Counts, in tests, with which key and nonce each message is sealed: one pair, one message.
#[cfg(test)]
pub(crate) mod census {
    use std::{
        collections::BTreeMap,
        sync::{Mutex, PoisonError},
    };

    type Pair = ([u8; 32], [u8; 12]);
    static SEEN: Mutex<BTreeMap<Pair, [u8; 32]>> = Mutex::new(BTreeMap::new());

    pub(crate) fn record(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], plain: &[u8]) {
        let mut hasher = blake3::Hasher::new();
        let message = *hasher.update(aad).update(plain).finalize().as_bytes();
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.insert((*key, *nonce), message);
        assert!(before.is_none_or(|before| before == message), "two messages were sealed with one key and nonce");
    }

    /// How many pairs have been used so far by all tests of this process.
    pub(crate) fn pairs() -> usize {
        SEEN.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
