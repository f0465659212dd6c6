//! What is sealed for one session: frames.

use farshore_core::{LineageId, PackId, SecretBytes, SessionId, VaultId};
use zeroize::Zeroizing;

use super::{Hash, NONCE_BYTES, TAG_BYTES, decrypt, encrypt, expand};
use crate::wire::{FORMAT, MAGIC, length_u32};

/// How many bytes sealing adds to a frame: nonce, tag.
pub(crate) const FRAME_OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;

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
    /// The key of a session with this secret.
    pub(crate) fn new(vault: VaultId, lineage: LineageId, session: SessionId, secret: SecretBytes) -> Self {
        Self { vault, lineage, session, secret }
    }

    fn frame_parts(&self, context: &FrameContext) -> Zeroizing<[u8; 64]> {
        expand(
            self.secret.expose(),
            &[
                b"farshore/1/frame",
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
