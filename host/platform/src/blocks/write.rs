//! Gathering writes into blocks, and sending them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use aws_lc_rs::digest::{Context, SHA256};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use farshore_core::Extent;
use futures::{TryStreamExt as _, stream};

use super::{BLOCKS_IN_FLIGHT, BlockDisk, HELD_BLOCKS, OPEN_BLOCKS_MAX, request::sha256};
use crate::{
    TransportError,
    transport::{REQUEST_BYTES_MAX, WrittenBlocks},
};

/// A block in the making.
struct Open {
    data: BytesMut,
    filled_bytes: u64,
}

/// A block that is to be sent.
struct Whole {
    index: u64,
    data: Bytes,
    digest: [u8; 32],
}

/// What is being written.
#[derive(Default)]
pub(super) struct Writing(Mutex<State>);

struct State {
    open: BTreeMap<u64, Open>,
    /// Every block before this is done.
    next: u64,
    /// Blocks that were taken to be sent, and that were sent.
    taken: u64,
    sent: u64,
    is_broken: bool,
    digests: Context,
    summary: Option<WrittenBlocks>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            open: BTreeMap::new(),
            next: 0,
            taken: 0,
            sent: 0,
            is_broken: false,
            digests: Context::new(&SHA256),
            summary: None,
        }
    }
}

impl State {
    /// The lowest block, if it has to go: it is whole and enough are behind it, or there are too many.
    fn take_lowest(&mut self, whole_bytes: impl Fn(u64) -> u64, all: bool) -> Option<Whole> {
        let (index, lowest) = self.open.first_key_value()?;
        let is_whole = lowest.filled_bytes >= whole_bytes(*index);
        let goes = all || (is_whole && self.open.len() > HELD_BLOCKS) || self.open.len() > OPEN_BLOCKS_MAX;
        if !goes {
            return None;
        }
        let (index, Open { data, .. }) = self.open.pop_first()?;
        self.next = index.saturating_add(1);
        let data = data.freeze();
        let digest = sha256(&data);
        self.digests.update(&digest);
        self.taken = self.taken.saturating_add(1);
        Some(Whole { index, data, digest })
    }
}

impl Writing {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn summary(&self) -> Option<WrittenBlocks> {
        self.state().summary.clone()
    }
}

/// A range of a buffer.
fn range(offset: u64, length: u64) -> std::ops::Range<usize> {
    let within = |number| usize::try_from(number).unwrap_or(usize::MAX);
    within(offset)..within(offset.saturating_add(length))
}

impl BlockDisk {
    /// The parts of an extent, block by block.
    fn parts(&self, extent: Extent) -> impl Iterator<Item = (u64, Extent)> {
        let block_bytes = self.block_bytes();
        let end = extent.offset.saturating_add(extent.length);
        (extent.offset / block_bytes..end.div_ceil(block_bytes)).map(move |index| {
            let begins = index.saturating_mul(block_bytes);
            let (from, to) = (extent.offset.max(begins), end.min(begins.saturating_add(block_bytes)));
            (index, Extent { offset: from, length: to.saturating_sub(from) })
        })
    }

    fn backwards(&self, index: u64) -> TransportError {
        self.unsupported(format!("block {index} was sent already; blocks are written in ascending order, each once"))
    }

    pub(super) async fn write_extent(&self, extent: Extent, data: &[u8]) -> Result<(), TransportError> {
        // All parts are there before the first block goes: another write must not pass between them.
        let whole = self.gather(extent, data)?;
        stream::iter(whole.into_iter().map(Ok))
            .try_for_each_concurrent(BLOCKS_IN_FLIGHT, |whole| self.send(whole))
            .await
    }

    /// Puts the bytes of an extent into their blocks. The blocks that must go now, in ascending order.
    fn gather(&self, extent: Extent, data: &[u8]) -> Result<Vec<Whole>, TransportError> {
        let mut state = self.writing.state();
        if state.is_broken {
            return Err(self.broken());
        }
        let first = extent.offset / self.block_bytes();
        if first < state.next {
            return Err(self.backwards(first));
        }
        state.summary = None;
        for (index, part) in self.parts(extent) {
            let new = || Open { data: BytesMut::zeroed(self.words.block_bytes as usize), filled_bytes: 0 };
            let open = state.open.entry(index).or_insert_with(new);
            let source = data.get(range(part.offset.saturating_sub(extent.offset), part.length));
            let target = open.data.get_mut(range(part.offset % self.block_bytes(), part.length));
            if let (Some(source), Some(target)) = (source, target) {
                target.copy_from_slice(source);
            }
            open.filled_bytes = open.filled_bytes.saturating_add(part.length);
        }
        let mut whole = Vec::new();
        while let Some(next) = state.take_lowest(|index| self.extent_of(index).length, false) {
            whole.push(next);
        }
        Ok(whole)
    }

    fn broken(&self) -> TransportError {
        let source = std::io::Error::other("a block before this could not be sent");
        TransportError::Lost { transport: self.name.clone(), source }
    }

    /// Writes zeros a piece at a time: only a fresh disk reads as zeros where nobody has written.
    pub(super) async fn zero_extent(&self, extent: Extent) -> Result<(), TransportError> {
        let end = extent.offset.saturating_add(extent.length);
        let zeros = vec![0; range(0, extent.length.min(REQUEST_BYTES_MAX)).end];
        let mut offset = extent.offset;
        while offset < end {
            let length = end.saturating_sub(offset).min(REQUEST_BYTES_MAX);
            self.write_extent(Extent { offset, length }, zeros.get(range(0, length)).unwrap_or_default()).await?;
            offset = offset.saturating_add(length);
        }
        Ok(())
    }

    async fn send(&self, whole: Whole) -> Result<(), TransportError> {
        let outcome = self.put(whole.index, whole.data, whole.digest).await;
        let mut state = self.writing.state();
        match outcome {
            Ok(()) => state.sent = state.sent.saturating_add(1),
            Err(_) => state.is_broken = true,
        }
        outcome
    }

    /// Sends what is open, and sums up.
    pub(super) async fn send_open_blocks(&self) -> Result<(), TransportError> {
        // One block at a time is taken, so that no more than those in flight are held beside those that are open.
        let taken = stream::unfold((), |()| async {
            let whole = self.writing.state().take_lowest(|_| u64::MAX, true)?;
            Some((Ok(whole), ()))
        });
        taken.try_for_each_concurrent(BLOCKS_IN_FLIGHT, |whole| self.send(whole)).await?;
        let mut state = self.writing.state();
        if state.sent != state.taken {
            let missing = state.taken.saturating_sub(state.sent);
            let source = std::io::Error::other(format!("{missing} blocks were not sent"));
            return Err(TransportError::Lost { transport: self.name.clone(), source });
        }
        let checksum = STANDARD.encode(state.digests.clone().finish());
        state.summary = Some(WrittenBlocks { count: state.sent, checksum });
        Ok(())
    }
}
