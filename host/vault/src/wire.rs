//! How numbers and lists lie in an object's bytes, and the sixteen bytes with which every object begins.
//!
//! Numbers are unsigned and little-endian. A decoder never trusts a length: it is compared with what is left, and with
//! the limit of its kind, before anything is allocated.

use crate::{Error, Result};

/// The first bytes of every object.
pub(crate) const MAGIC: [u8; 8] = *b"FARSHORE";

/// The format that this version writes, and the only one that it reads.
pub(crate) const FORMAT: u16 = 1;

/// Bytes of an object's prologue: magic (8), format (2), kind (1), zero (1), a length whose meaning the kind decides (4).
pub(crate) const PROLOGUE_BYTES: usize = 16;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The vault's header.
    Header = 1,
    /// A commit of a lineage.
    Commit = 2,
    /// A pack of frames.
    DataPack = 3,
    /// A pack of map pages.
    MapPack = 4,
    /// An entry of a run's journal.
    RunEntry = 5,
    /// What opens with the passphrase and a kit.
    Slot = 6,
    /// Who may do what.
    Ring = 7,
    /// The public keys of a host.
    Enrolment = 8,
    /// Keys of the vault for a host.
    Grant = 9,
    /// The secrets of a lineage for a host.
    LineageBox = 10,
    /// Before which commit of a lineage others may have been deleted.
    Boundary = 11,
    /// Which points of a lineage stand, what is to be deleted, and what was moved.
    Ledger = 12,
    /// Sealed frames and pages that were moved out of their packs.
    Collection = 13,
    /// What was proven of a point.
    Proof = 14,
    /// The private keys of an epoch, for each slot.
    EpochKeys = 15,
    /// Room that a prune can give back in a full store.
    Reserve = 16,
    /// Which two addresses a vault has.
    Addresses = 17,
}

/// Begins an object.
pub(crate) fn prologue(kind: Kind, length: u32) -> [u8; PROLOGUE_BYTES] {
    let mut bytes = [0; PROLOGUE_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[10] = kind as u8;
    bytes[12..].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// Checks how an object begins, and returns the length in its prologue with what follows it.
pub(crate) fn open_prologue<'a>(object: &str, kind: Kind, bytes: &'a [u8]) -> Result<(u32, &'a [u8])> {
    let mut reader = Reader::new(object, bytes);
    if reader.array::<8>()? != MAGIC {
        return Err(reader.damaged("it does not begin like an object of a vault"));
    }
    let found = u16::from_le_bytes(reader.array()?);
    if found != FORMAT {
        return Err(Error::UnsupportedFormat { object: object.to_owned(), found, supported: FORMAT });
    }
    let [found_kind, zero] = reader.array()?;
    if found_kind != kind as u8 || zero != 0 {
        return Err(reader.damaged(format!("it is of kind {found_kind}, not {}", kind as u8)));
    }
    let length = reader.u32()?;
    Ok((length, bytes.get(PROLOGUE_BYTES..).unwrap_or_default()))
}

/// Takes numbers and byte strings off the front of an object's bytes.
pub(crate) struct Reader<'a> {
    object: &'a str,
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(object: &'a str, bytes: &'a [u8]) -> Self {
        Self { object, bytes }
    }

    pub(crate) fn damaged(&self, problem: impl Into<String>) -> Error {
        Error::damaged(self.object, problem)
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.bytes.split_at_checked(length) else {
            return Err(self.damaged(format!("it ends {} bytes too early", length.saturating_sub(self.bytes.len()))));
        };
        self.bytes = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things that each take at least this many bytes.
    pub(crate) fn count(&self, count: usize, limit: usize, bytes_each: usize) -> Result<usize> {
        let possible = self.bytes.len().checked_div(bytes_each).unwrap_or(usize::MAX);
        if count > limit || count > possible {
            return Err(self.damaged(format!("it claims to hold {count} entries")));
        }
        Ok(count)
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn finish(self) -> Result<()> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.damaged("it has more bytes than it should")) }
    }
}

/// A length as a 32-bit number.
///
/// # Panics
/// When it does not fit: every caller's lengths are bounded by constants far below.
pub(crate) fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("lengths of objects and their parts are bounded far below 4 GiB")
}

/// Bytes that are written as hexadecimal text in JSON.
pub(crate) mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(crate) fn encode(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
        bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
    }

    pub(crate) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
        decode_all(text)?.try_into().ok()
    }

    /// The bytes of any even number of digits.
    pub(crate) fn decode_all(text: &str) -> Option<Vec<u8>> {
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
        pairs.iter().map(|[high, low]| Some((nibble(*high)? << 4) | nibble(*low)?)).collect()
    }

    pub(crate) fn serialize<S: Serializer, const N: usize>(bytes: &[u8; N], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(deserializer: D) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(deserializer)?;
        decode(&text).ok_or_else(|| D::Error::custom(format!("expected {} hexadecimal digits", N * 2)))
    }
}
