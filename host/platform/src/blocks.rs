//! Disks whose bytes are blocks of one size, each read and written by an HTTP request of its own.
//!
//! **Reading.** A listing, a page at a time, says which blocks there are and by which key each is read: [`BlockLister`], which
//! the adapter answers. The listing is also what says which blocks changed and which have content: it is asked through the
//! contexts [`CHANGED_BLOCKS`] and [`ALLOCATED_BLOCKS`], so that whoever copies a disk need not know what kind it is. A block
//! that is in no listing of what has content reads as zeros. Each block is read whole and compared with the checksum that came with it; one that
//! does not fit is read again, and then the read fails. Keys expire: a refused read is repeated once with a page that is asked
//! for anew.
//!
//! **Writing.** Blocks are gathered from writes of any size, filled with zeros where nothing was written, and sent in
//! ascending order, each once. A block that nobody writes is not sent: a fresh disk reads as zeros there, and one that began from
//! another as that. Writes therefore go forward: a
//! write to a block that was sent already fails. Writes that run side by side may overtake each other by [`HELD_BLOCKS`] blocks,
//! which are held back though they are whole. After a block that could not be sent nothing more can be written. After
//! [`flush`](DiskTransport::flush), [`written_blocks`](DiskTransport::written_blocks) says how many blocks were sent and what
//! they hash to, which the platform compares when the disk is sealed.
//!
//! **Memory.** [`PAGES_KEPT`] pages of each listing, [`OPEN_BLOCKS_MAX`] blocks in the making, and what the callers have in
//! flight.
//!
//! **Cancellation.** A dropped read is abandoned. A dropped write or flush leaves it unknown whether a block was sent, so that
//! no later flush succeeds.

mod read;
mod request;
mod write;

use std::sync::Arc;

use bytes::Bytes;
use farshore_core::Extent;
use farshore_http::Endpoint;
pub use farshore_plugin::{BlockRead, BlockWords, BlockWrite};

use self::{read::Pages, write::Writing};
use crate::{
    SiteError, TransportError,
    transport::{BlockStatus, DiskTransport, REQUEST_BYTES_MAX, WrittenBlocks, check_extent},
};

/// The context whose extents with bit 0 set changed.
pub const CHANGED_BLOCKS: &str = "farshore:changed-blocks";
/// The context whose extents with bit 1 set read as zeros.
pub const ALLOCATED_BLOCKS: &str = "farshore:allocated-blocks";

/// Pages of each listing that are kept.
const PAGES_KEPT: usize = 8;
/// Blocks that are kept while they are not whole.
const OPEN_BLOCKS_MAX: usize = 32;
/// Whole blocks that wait until writes that began before theirs cannot be on the way any more.
const HELD_BLOCKS: usize = 16;
/// Blocks that one flush sends at once.
const BLOCKS_IN_FLIGHT: usize = 8;

/// Which blocks are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockSet {
    /// Those that may have changed.
    Changed,
    /// Those that may have content.
    Allocated,
}

/// A block of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedBlock {
    /// Its number.
    pub index: u64,
    /// What it is read by; none if it reads as zeros.
    pub key: Option<String>,
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockPage {
    /// In ascending order.
    pub blocks: Vec<ListedBlock>,
    /// Every block of the set that begins before this offset has been told.
    pub told_to: u64,
}

/// Who lists the blocks of one disk.
#[async_trait::async_trait]
pub trait BlockLister: Send + Sync {
    /// The page that begins at an offset.
    ///
    /// # Errors
    /// The adapter's.
    async fn page(&self, set: BlockSet, offset: u64) -> Result<BlockPage, SiteError>;
}

/// A disk whose bytes are blocks behind an API.
pub struct BlockDisk {
    name: String,
    endpoint: Arc<Endpoint>,
    words: BlockWords,
    lister: Option<Arc<dyn BlockLister>>,
    pages: Pages,
    writing: Writing,
}

impl BlockDisk {
    /// The disk of these words. Nothing is sent. Without a lister it cannot be read.
    ///
    /// # Panics
    /// When a block has no size that it may have: whoever makes the words checks them.
    pub fn new(endpoint: Arc<Endpoint>, words: BlockWords, lister: Option<Arc<dyn BlockLister>>) -> Self {
        let block_bytes = u64::from(words.block_bytes);
        assert!(block_bytes.is_power_of_two() && block_bytes <= REQUEST_BYTES_MAX, "a block of {block_bytes} bytes");
        let of = words.read.as_ref().map(|read| &read.target).or(words.write.as_ref().map(|write| &write.target));
        let path = of.and_then(|target| target.split(['?', '{']).next()).unwrap_or_default();
        let name = format!("{}{path}", endpoint.address());
        Self { name, endpoint, words, lister, pages: Pages::default(), writing: Writing::default() }
    }

    fn block_bytes(&self) -> u64 {
        u64::from(self.words.block_bytes)
    }

    fn unsupported(&self, what: impl Into<String>) -> TransportError {
        TransportError::Unsupported { transport: self.name.clone(), what: what.into() }
    }

    fn failed(&self, operation: &'static str, extent: Extent, source: std::io::Error) -> TransportError {
        TransportError::Request { transport: self.name.clone(), operation, extent, source }
    }

    /// The bytes of the disk that a block has.
    fn extent_of(&self, index: u64) -> Extent {
        let offset = index.saturating_mul(self.block_bytes());
        Extent { offset, length: self.block_bytes().min(self.words.size_bytes.saturating_sub(offset)) }
    }
}

#[async_trait::async_trait]
impl DiskTransport for BlockDisk {
    fn size_bytes(&self) -> u64 {
        self.words.size_bytes
    }

    async fn read(&self, extent: Extent) -> Result<Bytes, TransportError> {
        check_extent(&self.name, self.words.size_bytes, extent, REQUEST_BYTES_MAX)?;
        self.read_extent(extent).await
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<(), TransportError> {
        let extent = Extent { offset, length: data.len() as u64 };
        check_extent(&self.name, self.words.size_bytes, extent, REQUEST_BYTES_MAX)?;
        self.write_extent(extent, &data).await
    }

    async fn write_zeroes(&self, extent: Extent) -> Result<(), TransportError> {
        check_extent(&self.name, self.words.size_bytes, extent, u64::MAX)?;
        self.zero_extent(extent).await
    }

    async fn flush(&self) -> Result<(), TransportError> {
        self.send_open_blocks().await
    }

    async fn block_status(&self, context: &str, extent: Extent) -> Result<Vec<BlockStatus>, TransportError> {
        check_extent(&self.name, self.words.size_bytes, extent, u64::MAX)?;
        let set = match context {
            CHANGED_BLOCKS => BlockSet::Changed,
            ALLOCATED_BLOCKS => BlockSet::Allocated,
            other => return Err(self.unsupported(format!("it has no block status context {other:?}"))),
        };
        self.told_about(set, extent).await
    }

    async fn close(&self) -> Result<(), TransportError> {
        Ok(())
    }

    fn block_bytes(&self) -> Option<u64> {
        Some(u64::from(self.words.block_bytes))
    }

    fn written_blocks(&self) -> Option<WrittenBlocks> {
        self.writing.summary()
    }
}
