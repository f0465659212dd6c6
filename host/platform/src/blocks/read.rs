//! Reading blocks, and what the listings say of them.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};
use farshore_core::Extent;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{BLOCKS_IN_FLIGHT, BlockDisk, BlockPage, BlockSet, PAGES_KEPT, request::ReadFailure};
use crate::{SiteError, TransportError, transport::BlockStatus};

/// The flag of an extent that changed.
const CHANGED: u32 = 1;
/// The flags of an extent that is not allocated and reads as zeros.
const HOLE: u32 = 0b11;

/// A page, and where it begins.
#[derive(Debug)]
struct Kept {
    set: BlockSet,
    offset: u64,
    page: BlockPage,
}

/// The pages that were asked for last.
#[derive(Debug, Default)]
pub(super) struct Pages {
    kept: Mutex<VecDeque<Arc<Kept>>>,
    /// Held while a page is asked for, so that those who need the same one ask once.
    asking: tokio::sync::Mutex<()>,
}

/// What the pages say of a block.
enum Told {
    /// It reads as zeros.
    Zeros,
    /// It is read by this key, which the listing of this set told.
    Key(BlockSet, String),
    /// Nothing.
    Nothing,
}

impl Pages {
    /// The page of a set that tells about this offset.
    fn about(&self, set: BlockSet, offset: u64) -> Option<Arc<Kept>> {
        let pages = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let tells = |kept: &&Arc<Kept>| kept.set == set && (kept.offset..kept.page.told_to).contains(&offset);
        pages.iter().find(tells).cloned()
    }

    fn keep(&self, kept: Arc<Kept>) {
        let mut pages = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        pages.retain(|earlier| earlier.set != kept.set || earlier.offset != kept.offset);
        if pages.iter().filter(|earlier| earlier.set == kept.set).count() >= PAGES_KEPT
            && let Some(oldest) = pages.iter().position(|earlier| earlier.set == kept.set)
        {
            pages.remove(oldest);
        }
        pages.push_back(kept);
    }

    /// Drops what was said about this offset.
    fn forget(&self, offset: u64) {
        let mut pages = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        pages.retain(|kept| !(kept.offset..kept.page.told_to).contains(&offset));
    }

    /// What the pages that are kept say of a block.
    fn tell(&self, index: u64, offset: u64) -> Told {
        let told = |set| self.about(set, offset).map_or(Told::Nothing, |kept| kept.tell(index));
        match told(BlockSet::Changed) {
            Told::Nothing => told(BlockSet::Allocated),
            told => told,
        }
    }
}

impl Kept {
    fn tell(&self, index: u64) -> Told {
        match self.page.blocks.binary_search_by_key(&index, |block| block.index) {
            Ok(found) => {
                let key = self.page.blocks.get(found).and_then(|block| block.key.clone());
                key.map_or(Told::Zeros, |key| Told::Key(self.set, key))
            }
            // What did not change has what it had, but what is not allocated is zeros.
            Err(_) if self.set == BlockSet::Allocated => Told::Zeros,
            Err(_) => Told::Nothing,
        }
    }
}

impl BlockDisk {
    /// The page of a set that tells about the block at this offset: one that is kept, or a new one.
    async fn page(&self, set: BlockSet, offset: u64) -> Result<Arc<Kept>, TransportError> {
        if let Some(kept) = self.pages.about(set, offset) {
            return Ok(kept);
        }
        let _asking = self.pages.asking.lock().await;
        if let Some(kept) = self.pages.about(set, offset) {
            return Ok(kept);
        }
        let Some(lister) = &self.lister else { return Err(self.unsupported("nobody lists its blocks")) };
        let extent = Extent { offset, length: self.words.size_bytes.saturating_sub(offset) };
        let page = lister.page(set, offset).await.map_err(|error| match error {
            SiteError::Nonsense { what, .. } => TransportError::Protocol { transport: self.name.clone(), what },
            error => self.failed("ask about", extent, io::Error::other(error)),
        })?;
        self.check_page(&page, offset)?;
        let kept = Arc::new(Kept { set, offset, page });
        self.pages.keep(Arc::clone(&kept));
        Ok(kept)
    }

    /// What a page says must be possible: a block that is told twice, or skipped, would be lost silently.
    fn check_page(&self, page: &BlockPage, offset: u64) -> Result<(), TransportError> {
        let nonsense = |what: String| Err(TransportError::Protocol { transport: self.name.clone(), what });
        let told_to = page.told_to;
        if told_to <= offset || told_to > self.words.size_bytes {
            return nonsense(format!("a page of blocks from byte {offset} tells up to byte {told_to}"));
        }
        if told_to != self.words.size_bytes && !told_to.is_multiple_of(self.block_bytes()) {
            return nonsense(format!("a page of blocks ends inside a block, at byte {told_to}"));
        }
        let mut least = offset / self.block_bytes();
        for block in &page.blocks {
            let begins = block.index.checked_mul(self.block_bytes());
            if block.index < least || begins.is_none_or(|begins| begins >= told_to) {
                return nonsense(format!(
                    "a page of blocks from byte {offset} to {told_to} has the block {}",
                    block.index
                ));
            }
            least = block.index.saturating_add(1);
        }
        Ok(())
    }

    /// What a page says of an extent, as far as it goes.
    pub(super) async fn told_about(&self, set: BlockSet, extent: Extent) -> Result<Vec<BlockStatus>, TransportError> {
        let from = extent.offset - extent.offset % self.block_bytes();
        let kept = self.page(set, from).await?;
        let end = extent.offset.saturating_add(extent.length).min(kept.page.told_to);
        let mut statuses: Vec<BlockStatus> = Vec::new();
        let mut told = extent.offset;
        let mut tell = |to: u64, flags: u32| {
            let to = to.clamp(told, end);
            if to > told {
                statuses.push(BlockStatus { extent: Extent { offset: told, length: to - told }, flags });
                told = to;
            }
        };
        let without = if set == BlockSet::Changed { 0 } else { HOLE };
        for block in &kept.page.blocks {
            let bounds = self.extent_of(block.index);
            tell(bounds.offset, without);
            let flags = match (set, &block.key) {
                (BlockSet::Changed, _) => CHANGED,
                (BlockSet::Allocated, Some(_)) => 0,
                (BlockSet::Allocated, None) => HOLE,
            };
            tell(bounds.offset.saturating_add(bounds.length), flags);
        }
        tell(end, without);
        Ok(statuses)
    }

    pub(super) async fn read_extent(&self, extent: Extent) -> Result<Bytes, TransportError> {
        let block_bytes = self.block_bytes();
        let end = extent.offset.saturating_add(extent.length);
        let (first, last) = (extent.offset / block_bytes, end.saturating_sub(1) / block_bytes);
        if first == last {
            let block = self.block(first).await?;
            return Ok(cut(block, extent, self.extent_of(first)));
        }
        let blocks = stream::iter(first..=last).map(|index| async move {
            let block = self.block(index).await?;
            Ok::<Bytes, TransportError>(cut(block, extent, self.extent_of(index)))
        });
        let mut parts = blocks.buffered(BLOCKS_IN_FLIGHT);
        let mut joined = BytesMut::with_capacity(usize::try_from(extent.length).unwrap_or(0));
        while let Some(part) = parts.try_next().await? {
            joined.extend_from_slice(&part);
        }
        Ok(joined.freeze())
    }

    /// The bytes of one block.
    async fn block(&self, index: u64) -> Result<Bytes, TransportError> {
        let offset = index.saturating_mul(self.block_bytes());
        let (mut refused, mut set) = (None, BlockSet::Allocated);
        for _ in 0..2 {
            let told = match self.pages.tell(index, offset) {
                Told::Nothing => self.page(set, offset).await?.tell(index),
                told => told,
            };
            match told {
                Told::Zeros => return Ok(BytesMut::zeroed(self.words.block_bytes as usize).freeze()),
                Told::Nothing => {
                    let what = format!("its listing tells nothing about block {index}");
                    return Err(TransportError::Protocol { transport: self.name.clone(), what });
                }
                Told::Key(of, key) => match self.get(index, &key).await {
                    Ok(block) => return Ok(block),
                    Err(ReadFailure::Other(error)) => return Err(error),
                    Err(ReadFailure::Refused(error)) => {
                        self.pages.forget(offset);
                        set = of;
                        refused = Some(error);
                    }
                },
            }
        }
        Err(refused.unwrap_or_else(|| self.unsupported(format!("block {index} cannot be read"))))
    }
}

/// The part of a block that lies in an extent.
fn cut(block: Bytes, extent: Extent, bounds: Extent) -> Bytes {
    let end = extent.offset.saturating_add(extent.length).min(bounds.offset.saturating_add(bounds.length));
    let from = extent.offset.saturating_sub(bounds.offset);
    let to = end.saturating_sub(bounds.offset);
    let length = block.len();
    let within = |offset: u64| usize::try_from(offset).unwrap_or(length).min(length);
    block.slice(within(from).min(within(to))..within(to))
}
