//! A way to a disk's bytes, whatever carries them.

use bytes::Bytes;
use farshore_core::{Extent, ExtentSequence};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::TransportError;

/// The most bytes that one read or write moves.
pub const REQUEST_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What a block-status context says of an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockStatus {
    /// The extent.
    pub extent: Extent,
    /// The context's flags for it. In `base:allocation` bit 0 is a hole and bit 1 reads as zeros; in a dirty-bitmap
    /// context bit 0 is dirty.
    pub flags: u32,
}

/// What was written to a disk of blocks, which the platform compares when the disk is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenBlocks {
    /// How many different blocks.
    pub count: u64,
    /// The SHA-256 of their SHA-256s in ascending order of blocks, as base64.
    pub checksum: String,
}

/// An open disk. Calls may run side by side; each is one request, and a transport that can keeps several in flight.
///
/// Dropping the future of a call abandons its result but leaves the transport usable. After
/// [`TransportError::is_lost`] every later call fails: open another.
#[async_trait::async_trait]
pub trait DiskTransport: Send + Sync {
    /// The disk's size in bytes.
    fn size_bytes(&self) -> u64;

    /// Reads an extent inside the disk, of at most [`REQUEST_BYTES_MAX`] bytes. The result has exactly its length.
    async fn read(&self, extent: Extent) -> Result<Bytes, TransportError>;

    /// Writes at most [`REQUEST_BYTES_MAX`] bytes inside the disk. Durable only after [`flush`](Self::flush).
    async fn write(&self, offset: u64, data: Bytes) -> Result<(), TransportError>;

    /// Makes an extent of any length read as zeros, without storing them where the disk can.
    async fn write_zeroes(&self, extent: Extent) -> Result<(), TransportError>;

    /// Returns when all that was written before is durable.
    async fn flush(&self) -> Result<(), TransportError>;

    /// Asks a block-status context about an extent. The answer starts at the extent's offset, has at least one entry,
    /// goes on without gaps, and may stop before the extent's end: ask again from there. It is checked against the
    /// disk's size, and holds a bounded number of entries.
    async fn block_status(&self, context: &str, extent: Extent) -> Result<Vec<BlockStatus>, TransportError>;

    /// Ends the connection in an orderly way. Further calls fail.
    async fn close(&self) -> Result<(), TransportError>;

    /// The size of a block in bytes if this is a disk of blocks, each of which is written whole: what is not written of a block
    /// that is, reads as zeros. A power of two.
    fn block_bytes(&self) -> Option<u64> {
        None
    }

    /// What was written, once it is flushed, if this is a disk of blocks.
    fn written_blocks(&self) -> Option<WrittenBlocks> {
        None
    }
}

/// Refuses a request for bytes outside the disk, for none, or for more than this many.
pub(crate) fn check_extent(
    transport: &str,
    disk_bytes: u64,
    extent: Extent,
    length_max: u64,
) -> Result<(), TransportError> {
    let what = match ExtentSequence::new(disk_bytes).accept(extent) {
        Err(error) => error.to_string(),
        Ok(()) if extent.length > length_max => format!("at most {length_max} bytes are moved at once"),
        Ok(()) => return Ok(()),
    };
    Err(TransportError::Unsupported { transport: transport.to_owned(), what })
}

/// An answer with so many entries is taken to be all that a transport tells at once.
const WALK_ENTRIES_FULL: usize = 8 * 1024;

/// Walks what a block-status context says of a whole disk, from its first byte to its last: without gaps, in order, with
/// neighbours of the same flags joined. It holds one answer of the transport at a time, however many extents pass.
///
/// # Errors
/// The stream ends with the first error: that of the transport, or [`TransportError::Protocol`] when the disk does not
/// have `size_bytes`, or an answer leaves a gap or passes the disk's end.
pub fn extents<'a>(
    transport: &'a dyn DiskTransport,
    context: &'a str,
    size_bytes: u64,
) -> BoxStream<'a, Result<BlockStatus, TransportError>> {
    let walk = Walk {
        transport,
        context,
        size_bytes,
        sequence: ExtentSequence::new(size_bytes),
        asked_from: 0,
        window_bytes: u64::MAX,
        joined: None,
    };
    let answers = stream::try_unfold(walk, |mut walk| async move { Ok(walk.next().await?.map(|told| (told, walk))) });
    answers.map_ok(|told| stream::iter(told.into_iter().map(Ok))).try_flatten().boxed()
}

struct Walk<'a> {
    transport: &'a dyn DiskTransport,
    context: &'a str,
    size_bytes: u64,
    sequence: ExtentSequence,
    /// Everything before this has been told.
    asked_from: u64,
    /// How far ahead to ask. Where extents are small, asking far makes a server send what is cut off here and asked
    /// again.
    window_bytes: u64,
    /// What has been told but may still grow.
    joined: Option<BlockStatus>,
}

impl Walk<'_> {
    /// What one answer adds: none when all has been told.
    async fn next(&mut self) -> Result<Option<Vec<BlockStatus>>, TransportError> {
        let told_bytes = self.transport.size_bytes();
        if told_bytes != self.size_bytes {
            return Err(self.nonsense(format!("the disk has {told_bytes} bytes, not {}", self.size_bytes)));
        }
        if self.asked_from >= self.size_bytes {
            return Ok(self.joined.take().map(|last| vec![last]));
        }
        let offset = self.asked_from;
        let length = self.size_bytes.saturating_sub(offset).min(self.window_bytes);
        let mut answer = self.transport.block_status(self.context, Extent { offset, length }).await?;
        let is_full = answer.len() >= WALK_ENTRIES_FULL;
        let mut kept = 0_usize;
        for index in 0..answer.len() {
            let Some(&status) = answer.get(index) else { break };
            self.accept(status.extent)?;
            match &mut self.joined {
                Some(joined) if joined.flags == status.flags => {
                    joined.extent.length = joined.extent.length.saturating_add(status.extent.length);
                }
                joined => {
                    // At most one goes out for each that came in, so the answer's own room is enough.
                    if let (Some(complete), Some(place)) = (joined.replace(status), answer.get_mut(kept)) {
                        *place = complete;
                        kept = kept.saturating_add(1);
                    }
                }
            }
        }
        let told_bytes = self.asked_from.saturating_sub(offset);
        if told_bytes == 0 {
            return Err(self.nonsense(format!("it tells nothing about byte {offset}")));
        }
        self.window_bytes = if is_full { told_bytes } else { self.window_bytes.saturating_mul(2) };
        answer.truncate(kept);
        Ok(Some(answer))
    }

    /// The next extent must start where the one before it ended.
    fn accept(&mut self, extent: Extent) -> Result<(), TransportError> {
        let accepted = self.sequence.accept(extent).and_then(|()| extent.end());
        let end = accepted.map_err(|error| self.nonsense(error.to_string()))?;
        if extent.offset != self.asked_from {
            return Err(self.nonsense(format!("it leaves a gap before byte {}", extent.offset)));
        }
        self.asked_from = end;
        Ok(())
    }

    fn nonsense(&self, what: String) -> TransportError {
        TransportError::Protocol { transport: format!("the block status context {:?}", self.context), what }
    }
}
