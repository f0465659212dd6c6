//! What a file has, and bytes of a disk as a part of it, before it is sealed.

use std::{io, path::Path};

use bytes::Bytes;

use crate::{RECORD_BYTES_MAX, SpoolError, SpooledBytes};

/// What a file begins with.
pub(crate) const MAGIC: [u8; 8] = *b"FARSPOOL";
pub(crate) const VERSION: u32 = 1;
/// Bytes of a file before its first part: magic, version, id.
pub(crate) const HEADER_BYTES: usize = 8 + 4 + 16;
/// Bytes after its last part: how many parts are before that, and its length.
pub(crate) const END_BYTES: usize = 8 + 4;
/// The most bytes of the last part: it names every disk of a group.
pub(crate) const LAST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most bytes of any sealed part.
pub(crate) const PART_BYTES_MAX: usize = LAST_BYTES_MAX + 4096;

/// Before the Zstandard frame: disk, offset, length.
const PREFIX_BYTES: usize = 4 + 8 + 4;
/// Like the vault's: fast, because a link that is down must not make captures slow.
const ZSTD_LEVEL: i32 = 1;

/// Bytes of a disk as a part.
pub(crate) fn encode(disk: u32, offset: u64, data: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(data.len()).map_err(io::Error::other)?;
    let mut part = Vec::with_capacity(PREFIX_BYTES + data.len() / 2);
    part.extend_from_slice(&disk.to_le_bytes());
    part.extend_from_slice(&offset.to_le_bytes());
    part.extend_from_slice(&length.to_le_bytes());
    part.extend_from_slice(&zstd::bulk::compress(data, ZSTD_LEVEL)?);
    Ok(part)
}

/// What [`encode`] made.
pub(crate) fn decode(path: &Path, part: &[u8]) -> Result<SpooledBytes, SpoolError> {
    let damaged = |problem: &str| SpoolError::Damaged { path: path.to_owned(), problem: problem.to_owned() };
    let short = || damaged("a part of it ends too early");
    let (disk, rest) = part.split_first_chunk().ok_or_else(short)?;
    let (offset, rest) = rest.split_first_chunk().ok_or_else(short)?;
    let (length, frame) = rest.split_first_chunk().ok_or_else(short)?;
    let (disk, offset, length) = (u32::from_le_bytes(*disk), u64::from_le_bytes(*offset), u32::from_le_bytes(*length));
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > RECORD_BYTES_MAX {
        return Err(damaged("a part of it claims too many bytes"));
    }
    let data = zstd::bulk::decompress(frame, length).map_err(|error| damaged(&error.to_string()))?;
    if data.len() != length {
        return Err(damaged("a part of it has not the length that it claims"));
    }
    Ok(SpooledBytes { disk, offset, data: Bytes::from(data) })
}
