//! The boxes at the front of a lineage's first commit: its secrets, sealed for each who may have them.
//!
//! `count (1)`, then for each: `recipient (1) | whose (16) | length (2) | box`. A recipient is 1 for who follows references
//! and 2 for readers (whose: the epoch in 8 bytes, then zeros), 3 for a host (whose: its id). Other commits have no boxes.

use farshore_core::{Epoch, HostId, LineageId};

use crate::{Error, Result, seal::BoxPurpose, wire::Reader};

/// The most boxes of a commit.
const BOXES_MAX: usize = 16;

/// The most bytes of a box.
const BOX_BYTES_MAX: usize = 512;

/// For whom a box is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recipient {
    /// Who follows references, with the keys of this epoch.
    Graph(Epoch),
    /// Readers, with the keys of this epoch.
    Reading(Epoch),
    /// A host.
    Host(HostId),
}

impl Recipient {
    /// What a box with a lineage's secrets is for.
    pub(crate) fn purpose(self, lineage: LineageId) -> BoxPurpose {
        match self {
            Self::Graph(epoch) => BoxPurpose::LineageGraph { lineage, epoch },
            Self::Reading(epoch) => BoxPurpose::LineageReading { lineage, epoch },
            Self::Host(host) => BoxPurpose::LineageHost { lineage, host },
        }
    }

    /// Whether the box holds the second secret too.
    pub(crate) fn gets_content(self) -> bool {
        !matches!(self, Self::Graph(_))
    }

    fn encode(self) -> (u8, [u8; 16]) {
        let of_epoch = |epoch: Epoch| {
            let mut whose = [0; 16];
            whose[..8].copy_from_slice(&epoch.get().to_le_bytes());
            whose
        };
        match self {
            Self::Graph(epoch) => (1, of_epoch(epoch)),
            Self::Reading(epoch) => (2, of_epoch(epoch)),
            Self::Host(host) => (3, *host.as_bytes()),
        }
    }

    fn decode(kind: u8, whose: [u8; 16]) -> Option<Self> {
        let (front, back) = whose.split_first_chunk::<8>()?;
        let epoch = Epoch::new(u64::from_le_bytes(*front));
        match (kind, back) {
            (1, [0, 0, 0, 0, 0, 0, 0, 0]) => Some(Self::Graph(epoch)),
            (2, [0, 0, 0, 0, 0, 0, 0, 0]) => Some(Self::Reading(epoch)),
            (3, _) => Some(Self::Host(HostId::from_bytes(whose))),
            _ => None,
        }
    }
}

/// A box and for whom it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyBox {
    pub(crate) recipient: Recipient,
    pub(crate) sealed: Vec<u8>,
}

/// The bytes of boxes as they stand in a commit.
pub(crate) fn encode(boxes: &[KeyBox]) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(boxes.len()).expect("a commit has few boxes")];
    for KeyBox { recipient, sealed } in boxes {
        let (kind, whose) = recipient.encode();
        bytes.push(kind);
        bytes.extend_from_slice(&whose);
        let length = u16::try_from(sealed.len()).expect("a box is short");
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(sealed);
    }
    bytes
}

/// The boxes at the front, and how many bytes they take.
pub(crate) fn decode(object: &str, bytes: &[u8]) -> Result<(Vec<KeyBox>, usize)> {
    let mut reader = Reader::new(object, bytes);
    let count = usize::from(reader.u8()?);
    let count = reader.count(count, BOXES_MAX, 19)?;
    let mut boxes = Vec::with_capacity(count);
    for _ in 0..count {
        let kind = reader.u8()?;
        let recipient = Recipient::decode(kind, reader.array()?)
            .ok_or_else(|| Error::damaged(object, "a box in it is for nobody that there could be"))?;
        let length = usize::from(u16::from_le_bytes(reader.array()?));
        if length > BOX_BYTES_MAX {
            return Err(reader.damaged(format!("a box in it claims to have {length} bytes")));
        }
        boxes.push(KeyBox { recipient, sealed: reader.take(length)?.to_vec() });
    }
    Ok((boxes, bytes.len() - reader.rest().len()))
}
