//! The packs that a session is filling.
//!
//! A frame's key depends on its pack and ordinal, so a place is reserved first (when the compressed length is known),
//! then the frame is sealed without any lock, then it is put into its place. A pack that is full takes no more
//! reservations; whoever fills its last place finishes it. So all workers fill one pack together, and a small cycle
//! makes one pack only.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use farshore_core::PackId;

use crate::pack::{PACK_BODY_BYTES_TARGET, PACK_CHUNKS_TARGET, PackRef, SealedFrame};

/// A pack of this session; its reference is known once it is finished.
#[derive(Debug)]
pub(crate) struct NewPack {
    pub(crate) id: PackId,
    pub(crate) reference: OnceLock<Arc<PackRef>>,
}

/// A pack whose places are all filled.
#[derive(Debug)]
pub(crate) struct FullPack {
    pub(crate) pack: Arc<NewPack>,
    pub(crate) frames: Vec<SealedFrame>,
}

#[derive(Debug)]
struct Filling {
    pack: Arc<NewPack>,
    frames: Vec<Option<SealedFrame>>,
    filled: usize,
    body_bytes: usize,
    chunks: usize,
}

impl Filling {
    fn is_filled(&self) -> bool {
        self.filled == self.frames.len()
    }

    fn into_full(self) -> FullPack {
        FullPack { pack: self.pack, frames: self.frames.into_iter().flatten().collect() }
    }
}

#[derive(Debug, Default)]
struct State {
    open: Option<Filling>,
    closed: BTreeMap<PackId, Filling>,
}

/// Hands out places in packs.
#[derive(Debug, Default)]
pub(crate) struct Packer(Mutex<State>);

impl Packer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves a place for a frame of this stored length and number of chunks; a pack that begins with it gets this name.
    pub(crate) fn reserve(
        &self,
        name: impl FnOnce() -> PackId,
        stored_bytes: usize,
        chunks: usize,
    ) -> (Arc<NewPack>, u32) {
        let mut state = self.lock();
        let mut filling = state.open.take().unwrap_or_else(|| Filling {
            pack: Arc::new(NewPack { id: name(), reference: OnceLock::new() }),
            frames: Vec::new(),
            filled: 0,
            body_bytes: 0,
            chunks: 0,
        });
        let ordinal = u32::try_from(filling.frames.len()).expect("a pack has at most 4,096 frames");
        filling.frames.push(None);
        filling.body_bytes += stored_bytes;
        filling.chunks += chunks;
        let pack = Arc::clone(&filling.pack);
        if filling.body_bytes >= PACK_BODY_BYTES_TARGET || filling.chunks >= PACK_CHUNKS_TARGET {
            state.closed.insert(pack.id, filling);
        } else {
            state.open = Some(filling);
        }
        (pack, ordinal)
    }

    /// Fills a place that was reserved. The pack is returned if it is complete now.
    ///
    /// # Panics
    /// When the place was never reserved or is filled already.
    pub(crate) fn fill(&self, pack: &NewPack, ordinal: u32, frame: SealedFrame) -> Option<FullPack> {
        let mut state = self.lock();
        let index = usize::try_from(ordinal).expect("ordinals are small");
        let is_open = state.open.as_ref().is_some_and(|open| open.pack.id == pack.id);
        let filling = if is_open { state.open.as_mut() } else { state.closed.get_mut(&pack.id) };
        let filling = filling.expect("a pack stays until its places are filled");
        let before = filling.frames[index].replace(frame);
        assert!(before.is_none(), "a place is filled once");
        filling.filled += 1;
        if is_open || !filling.is_filled() {
            return None;
        }
        state.closed.remove(&pack.id).map(Filling::into_full)
    }

    /// Takes no more frames into the pack that is open. The pack is returned if it is complete now; otherwise whoever
    /// fills its last place gets it.
    pub(crate) fn close(&self) -> Option<FullPack> {
        let mut state = self.lock();
        let filling = state.open.take()?;
        if filling.is_filled() {
            return Some(filling.into_full());
        }
        state.closed.insert(filling.pack.id, filling);
        None
    }

    /// Whether a closed pack still waits for frames.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.lock().closed.is_empty()
    }
}
