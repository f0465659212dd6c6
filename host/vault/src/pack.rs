//! Data packs: stored objects of sealed frames.
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | prologue of kind 3; its length is that of the header, which ends where the body begins |
//! | 16 | pack id |
//! | 16 | session id |
//! | 88 | the session's secret: the epoch (8) of the keys that it is sealed to, and a box |
//! | 4 | bytes of the body |
//! | 32 | BLAKE3 of the body |
//! | rest of the header | the directory, sealed: 4 bytes count of frames, then for each frame 4 bytes stored length, 1 byte codec, 1 byte count of chunks, 32 bytes identity of each chunk |
//! | body | the frames, one after the other |
//!
//! A reference holds the hash of the header, and the header that of the body, so that everything can be checked without
//! keys. The header comes first: one read of the front of a pack gives all that is needed to read any of its frames, and
//! a pack that an interrupted writer left tells by itself what it holds.

use bytes::Bytes;
use farshore_core::{CHUNK_BYTES, Entropy, LineageId, PackId, SessionId};

use crate::{
    Error, Result,
    collection::Piece,
    keys::access::{Access, SEALED_SECRET_BYTES},
    seal::{self, ContentKeys, FRAME_OVERHEAD_BYTES, FrameContext, Hash, LineageKeys, Purpose, SessionKey},
    wire::{Kind, PROLOGUE_BYTES, Reader, length_u32, open_prologue, prologue},
};

/// Bytes of a chunk.
pub(crate) const CHUNK: usize = CHUNK_BYTES as usize;

/// The most chunks of a frame.
pub(crate) const FRAME_CHUNKS_MAX: usize = 16;

/// When the frames of a pack reach this many bytes, it is closed.
pub(crate) const PACK_BODY_BYTES_TARGET: usize = 24 * 1024 * 1024;

/// When a pack holds this many chunks, it is closed, whatever they compress to.
pub(crate) const PACK_CHUNKS_TARGET: usize = 4096;

/// The most bytes of a stored pack that a reader accepts.
pub(crate) const PACK_BYTES_MAX: usize = 40 * 1024 * 1024;

/// The most bytes of a header that a reader accepts.
pub(crate) const PACK_HEADER_BYTES_MAX: usize = 1024 * 1024;

/// How much of a pack whose header's length is not known is read first.
pub(crate) const PACK_FRONT_BYTES: u64 = 64 * 1024;

const FIXED_BYTES: usize = PROLOGUE_BYTES + 16 + 16 + SEALED_SECRET_BYTES + 4 + 32;

/// The most bytes of a sealed frame.
const FRAME_BYTES_MAX: usize = FRAME_CHUNKS_MAX * CHUNK + FRAME_OVERHEAD_BYTES;

/// How a frame's payload is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Codec {
    /// Not at all: compression would have saved less than a sixteenth.
    Raw = 0,
    /// Zstandard (RFC 8878), one frame.
    Zstd = 1,
}

/// Where a data pack lies, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackRef {
    pub(crate) pack: PackId,
    /// The commit on which its writer built: part of its key.
    pub(crate) base: u64,
    pub(crate) bytes: u32,
    pub(crate) header_bytes: u32,
    pub(crate) header_hash: Hash,
}

/// Bytes of an encoded reference.
pub(crate) const PACK_REF_BYTES: usize = 16 + 8 + 4 + 4 + 32;

impl PackRef {
    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.pack.as_bytes());
        bytes.extend_from_slice(&self.base.to_le_bytes());
        bytes.extend_from_slice(&self.bytes.to_le_bytes());
        bytes.extend_from_slice(&self.header_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.header_hash);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let reference = Self {
            pack: PackId::from_bytes(reader.array()?),
            base: reader.u64()?,
            bytes: reader.u32()?,
            header_bytes: reader.u32()?,
            header_hash: reader.array()?,
        };
        let fits = |length: u32, limit: usize| usize::try_from(length).is_ok_and(|length| length <= limit);
        let sound = fits(reference.bytes, PACK_BYTES_MAX)
            && fits(reference.header_bytes, PACK_HEADER_BYTES_MAX)
            && reference.header_bytes <= reference.bytes;
        if sound { Ok(reference) } else { Err(reader.damaged("it refers to a pack of an impossible length")) }
    }

    /// The pack's key in the lineage's folder.
    pub(crate) fn key(&self, lineage: LineageId) -> String {
        pack_key(lineage, self.base, self.pack)
    }
}

/// The folder of a lineage's data packs.
pub(crate) fn packs_folder(lineage: LineageId) -> String {
    format!("lineages/{lineage}/packs")
}

/// The folder of the packs whose writers built on this commit.
pub(crate) fn pack_folder(lineage: LineageId, base: u64) -> String {
    format!("{}/{base:020}", packs_folder(lineage))
}

/// The key of a data pack.
pub(crate) fn pack_key(lineage: LineageId, base: u64, pack: PackId) -> String {
    format!("{}/{pack}", pack_folder(lineage, base))
}

/// A frame in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FrameInfo {
    /// Where it begins in the directory's object.
    pub(crate) offset: u32,
    /// Its sealed bytes.
    pub(crate) stored_bytes: u32,
    pub(crate) codec: u8,
    /// The identities of its chunks.
    pub(crate) chunks: Vec<Hash>,
}

/// What a pack holds, and the key to it.
#[derive(Debug)]
pub(crate) struct Directory {
    /// The object's key, for errors.
    pub(crate) object: String,
    pub(crate) reference: PackRef,
    pub(crate) body_hash: Hash,
    /// Opens its frames; none if the holder of the vault cannot read.
    pub(crate) session: Option<SessionKey>,
    pub(crate) frames: Vec<FrameInfo>,
}

/// What opens and identifies the frames of one pack.
#[derive(Debug, Clone)]
pub(crate) struct ReadingKeys {
    pub(crate) session: SessionKey,
    pub(crate) content: ContentKeys,
}

/// The frames of a pack that is being written, as they are placed.
#[derive(Debug, Clone)]
pub(crate) struct SealedFrame {
    pub(crate) codec: Codec,
    pub(crate) chunks: Vec<Hash>,
    pub(crate) bytes: Bytes,
}

/// What the header of a pack needs beside its frames.
pub(crate) struct PackMaker<'a> {
    pub(crate) lineage: LineageId,
    pub(crate) keys: &'a LineageKeys,
    pub(crate) session: SessionId,
    pub(crate) sealed_secret: &'a [u8],
    pub(crate) entropy: &'a dyn Entropy,
}

impl PackMaker<'_> {
    /// The parts of the object, header first, and the reference to it.
    pub(crate) fn make(&self, pack: PackId, base: u64, frames: &[SealedFrame]) -> Result<(Vec<Bytes>, PackRef)> {
        let body_bytes = length_u32(frames.iter().map(|frame| frame.bytes.len()).sum());
        let body_hash = seal::stored_hash_of_parts(frames.iter().map(|frame| frame.bytes.as_ref()));
        let mut directory = Vec::new();
        directory.extend_from_slice(&length_u32(frames.len()).to_le_bytes());
        for frame in frames {
            directory.extend_from_slice(&length_u32(frame.bytes.len()).to_le_bytes());
            directory.push(frame.codec as u8);
            directory.push(u8::try_from(frame.chunks.len()).expect("a frame has at most 16 chunks"));
            directory.extend_from_slice(frame.chunks.as_flattened());
        }
        let object = pack_key(self.lineage, base, pack);
        let purpose = Purpose::Directory { lineage: self.lineage, session: self.session, pack, body_bytes, body_hash };
        let sealed = self.keys.metadata.seal(&object, purpose, &directory, self.entropy)?;
        let header_bytes = length_u32(FIXED_BYTES + sealed.len());
        let mut header = Vec::with_capacity(FIXED_BYTES + sealed.len());
        header.extend_from_slice(&prologue(Kind::DataPack, header_bytes));
        header.extend_from_slice(pack.as_bytes());
        header.extend_from_slice(self.session.as_bytes());
        header.extend_from_slice(self.sealed_secret);
        header.extend_from_slice(&body_bytes.to_le_bytes());
        header.extend_from_slice(&body_hash);
        header.extend_from_slice(&sealed);
        let header_hash = seal::stored_hash(&header);
        let reference = PackRef { pack, base, bytes: header_bytes + body_bytes, header_bytes, header_hash };
        let mut parts = Vec::with_capacity(frames.len() + 1);
        parts.push(Bytes::from(header));
        parts.extend(frames.iter().map(|frame| frame.bytes.clone()));
        Ok((parts, reference))
    }
}

/// The length of the header of a pack, from its first bytes.
pub(crate) fn header_length(object: &str, front: &[u8]) -> Result<u32> {
    let (length, _) = open_prologue(object, Kind::DataPack, front)?;
    if usize::try_from(length).map_or(true, |length| !(FIXED_BYTES..=PACK_HEADER_BYTES_MAX).contains(&length)) {
        return Err(Error::damaged(object, format!("its header claims to have {length} bytes")));
    }
    Ok(length)
}

impl Directory {
    /// Opens the header of a pack.
    ///
    /// # Errors
    /// It is damaged, or it is another pack's.
    pub(crate) fn open(
        access: &Access,
        keys: &LineageKeys,
        lineage: LineageId,
        pack: PackId,
        base: u64,
        header: &[u8],
    ) -> Result<Self> {
        let object = pack_key(lineage, base, pack);
        let header_bytes = header_length(&object, header)?;
        let mut reader = Reader::new(&object, header);
        if usize::try_from(header_bytes) != Ok(header.len()) {
            return Err(reader.damaged("its header ends too early"));
        }
        reader.take(PROLOGUE_BYTES)?;
        if reader.array()? != *pack.as_bytes() {
            return Err(reader.damaged("it is another pack under this pack's name"));
        }
        let session = SessionId::from_bytes(reader.array()?);
        let sealed_secret = reader.take(SEALED_SECRET_BYTES)?;
        let body_bytes = reader.u32()?;
        let body_hash = reader.array()?;
        let purpose = Purpose::Directory { lineage, session, pack, body_bytes, body_hash };
        let plain = keys.metadata.open(&object, purpose, reader.rest())?;
        let session = access.open_session(&object, lineage, session, sealed_secret)?;
        let frames = decode_frames(&object, &plain, header_bytes, body_bytes)?;
        let bytes = header_bytes
            .checked_add(body_bytes)
            .ok_or_else(|| Error::damaged(&object, "its body has an impossible length"))?;
        let reference = PackRef { pack, base, bytes, header_bytes, header_hash: seal::stored_hash(header) };
        Ok(Self { object, reference, body_hash, session, frames })
    }

    /// Says that the frames lie in another object, those that have a place there.
    ///
    /// # Errors
    /// [`Error::Damaged`] when a frame has another length there.
    pub(crate) fn place(&mut self, object: &str, place: impl Fn(u32) -> Option<Piece>) -> Result<()> {
        object.clone_into(&mut self.object);
        for (ordinal, frame) in (0..).zip(&mut self.frames) {
            let Some(piece) = place(ordinal) else { continue };
            if piece.length != frame.stored_bytes {
                return Err(Error::damaged(object, "a frame in it has another length than its pack said"));
            }
            frame.offset = piece.offset;
        }
        Ok(())
    }

    /// Opens, decompresses and identifies a frame from its stored bytes. Nothing is returned that is not exactly what
    /// was given to the writer.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub(crate) fn open_frame(&self, keys: &ReadingKeys, ordinal: u32, stored: &[u8]) -> Result<Vec<u8>> {
        let damaged = |problem: String| Error::damaged(&self.object, format!("frame {ordinal}: {problem}"));
        let index = usize::try_from(ordinal).unwrap_or(usize::MAX);
        let frame = self.frames.get(index).ok_or_else(|| damaged("the pack has no such frame".to_owned()))?;
        let context = FrameContext {
            pack: self.reference.pack,
            ordinal,
            codec: frame.codec,
            chunks: u8::try_from(frame.chunks.len()).unwrap_or(u8::MAX),
            identity: keys.content.identify_frame(&frame.chunks),
        };
        open_frame(&keys.session, &keys.content, &context, &frame.chunks, stored)
            .map_err(|problem| damaged(problem.to_owned()))
    }
}

fn decode_frames(object: &str, plain: &[u8], header_bytes: u32, body_bytes: u32) -> Result<Vec<FrameInfo>> {
    let mut reader = Reader::new(object, plain);
    let count = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
    let count = reader.count(count, PACK_HEADER_BYTES_MAX, 6)?;
    let mut frames = Vec::with_capacity(count);
    let mut offset = header_bytes;
    for _ in 0..count {
        let stored_bytes = reader.u32()?;
        let codec = reader.u8()?;
        let chunk_count = usize::from(reader.u8()?);
        let stored = usize::try_from(stored_bytes).unwrap_or(usize::MAX);
        if !(1..=FRAME_CHUNKS_MAX).contains(&chunk_count)
            || codec > Codec::Zstd as u8
            || !(FRAME_OVERHEAD_BYTES..=FRAME_BYTES_MAX).contains(&stored)
        {
            return Err(reader.damaged("its directory describes an impossible frame"));
        }
        let chunks = (0..chunk_count).map(|_| reader.array()).collect::<Result<Vec<Hash>>>()?;
        frames.push(FrameInfo { offset, stored_bytes, codec, chunks });
        offset = offset.checked_add(stored_bytes).ok_or_else(|| reader.damaged("its frames are too long"))?;
    }
    if offset.checked_sub(header_bytes) != Some(body_bytes) {
        return Err(reader.damaged("its frames do not fill its body"));
    }
    reader.finish()?;
    Ok(frames)
}

/// Opens, decompresses and identifies a frame.
pub(crate) fn open_frame(
    session: &SessionKey,
    keys: &ContentKeys,
    context: &FrameContext,
    chunks: &[Hash],
    stored: &[u8],
) -> Result<Vec<u8>, &'static str> {
    let payload = session.open_frame(context, stored).ok_or("its bytes have changed since it was sealed")?;
    let plain_bytes = chunks.len() * CHUNK;
    let plain = if context.codec == Codec::Raw as u8 {
        payload
    } else {
        zstd::bulk::decompress(&payload, plain_bytes).map_err(|_| "it cannot be decompressed")?
    };
    if plain.len() != plain_bytes {
        return Err("it has another length than its directory says");
    }
    let same = plain.chunks_exact(CHUNK).zip(chunks).all(|(chunk, identity)| keys.identify(chunk) == *identity);
    if same { Ok(plain) } else { Err("its content is not what its identity says") }
}
