//! Moving a captured disk's bytes into the vault.
//!
//! Extents come from the transport a bounded number at a time, checked to cover the disk without gaps or overlaps: a gap
//! would silently be taken for zeros or for unchanged. They are widened to whole chunks and merged, cut into reads, and several reads are in flight at once. The vault's writer pushes back when its pipeline is full, which
//! stops new reads: memory is bounded by `reads_in_flight * read_bytes` here and by the vault's own limit there.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use farshore_core::{CHUNK_BYTES, Extent, ExtentError};
use farshore_platform::{BlockStatus, DiskTransport, TransportError, extents};
use farshore_vault::{DiskWriter, Error as VaultError};
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use tokio_util::sync::CancellationToken;

/// Bit 0 of a dirty-bitmap context: the extent changed.
const FLAG_CHANGED: u32 = 1;
/// Bit 1 of `base:allocation`: the extent reads as zeros.
const FLAG_ZERO: u32 = 2;

/// How much is on the way at once.
#[derive(Debug, Clone, Copy)]
pub struct CopyLimits {
    /// Bytes of one read; a multiple of a chunk.
    pub read_bytes: u64,
    /// Reads of one disk that are on the way together.
    pub reads_in_flight: usize,
}

impl Default for CopyLimits {
    fn default() -> Self {
        Self { read_bytes: 16 * CHUNK_BYTES, reads_in_flight: 8 }
    }
}

/// What of a disk is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyPlan {
    /// What this context says changed; the rest is as at the parent point.
    Changed {
        /// The context's name.
        context: String,
    },
    /// All that may have content, by this context if there is one; the rest is zeros.
    Everything {
        /// The context's name.
        allocation_context: Option<String>,
    },
}

/// What was moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskCopy {
    /// Bytes read from the transport.
    pub read_bytes: u64,
    /// Bytes that the platform said are zeros, and that were not read.
    pub zero_bytes: u64,
}

/// Why a copy stopped.
#[derive(Debug)]
pub(crate) enum CopyError {
    Transport(TransportError),
    /// What the context says cannot be true.
    Extents(TransportError),
    Vault(VaultError),
    Stopped,
}

/// A part of a disk of whole chunks, cut at the disk's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Region {
    extent: Extent,
    wanted: bool,
}

/// Turns extents of any alignment, in order and apart, into regions of whole chunks that cover the disk without gaps or
/// overlaps. A chunk is wanted if any byte of it is.
struct ChunkRegions {
    disk_bytes: u64,
    /// Everything before this was given out.
    given_to: u64,
    wanted: Option<Extent>,
}

impl ChunkRegions {
    fn new(disk_bytes: u64) -> Self {
        Self { disk_bytes, given_to: 0, wanted: None }
    }

    fn push(&mut self, extent: Extent, wanted: bool) -> Result<Vec<Region>, ExtentError> {
        if !wanted {
            return Ok(Vec::new());
        }
        let bounds = extent.to_chunk_bounds(self.disk_bytes)?;
        match &mut self.wanted {
            Some(open) if bounds.offset <= open.end()? => {
                open.length = bounds.end()?.max(open.end()?) - open.offset;
                Ok(Vec::new())
            }
            _ => {
                let regions = self.give_open()?;
                self.wanted = Some(bounds);
                Ok(regions)
            }
        }
    }

    fn give_open(&mut self) -> Result<Vec<Region>, ExtentError> {
        let Some(extent) = self.wanted.take() else { return Ok(Vec::new()) };
        let mut regions = Vec::with_capacity(2);
        if extent.offset > self.given_to {
            let gap = Extent { offset: self.given_to, length: extent.offset - self.given_to };
            regions.push(Region { extent: gap, wanted: false });
        }
        regions.push(Region { extent, wanted: true });
        self.given_to = extent.end()?;
        Ok(regions)
    }

    fn finish(mut self) -> Result<Vec<Region>, ExtentError> {
        let mut regions = self.give_open()?;
        if self.given_to < self.disk_bytes {
            let extent = Extent { offset: self.given_to, length: self.disk_bytes - self.given_to };
            regions.push(Region { extent, wanted: false });
        }
        Ok(regions)
    }
}

/// The regions of a disk as a context tells them; all of it wanted if there is no context.
fn regions<'a>(
    transport: &'a dyn DiskTransport,
    disk_bytes: u64,
    plan: &'a CopyPlan,
) -> impl Stream<Item = Result<Region, CopyError>> + 'a {
    let context = match plan {
        CopyPlan::Changed { context } => Some(context.as_str()),
        CopyPlan::Everything { allocation_context } => allocation_context.as_deref(),
    };
    let wanted = move |status: &BlockStatus| match plan {
        CopyPlan::Changed { .. } => status.flags & FLAG_CHANGED != 0,
        CopyPlan::Everything { .. } => status.flags & FLAG_ZERO == 0,
    };
    let Some(context) = context else {
        let extent = Extent { offset: 0, length: disk_bytes };
        let whole = (disk_bytes > 0).then_some(Ok(Region { extent, wanted: true }));
        return stream::iter(whole).left_stream();
    };
    let start = Some((extents(transport, context, disk_bytes), ChunkRegions::new(disk_bytes)));
    stream::try_unfold(start, move |walk| async move {
        let Some((mut told, mut chunks)) = walk else { return Ok(None) };
        let nonsense = |error: ExtentError| {
            let transport = format!("the block status context {context:?}");
            CopyError::Extents(TransportError::Protocol { transport, what: error.to_string() })
        };
        match told.try_next().await {
            Ok(Some(status)) => {
                let found = chunks.push(status.extent, wanted(&status)).map_err(nonsense)?;
                Ok(Some((found, Some((told, chunks)))))
            }
            Ok(None) => Ok(Some((chunks.finish().map_err(nonsense)?, None))),
            Err(error @ TransportError::Protocol { .. }) => Err(CopyError::Extents(error)),
            Err(error) => Err(CopyError::Transport(error)),
        }
    })
    .map_ok(|found| stream::iter(found.into_iter().map(Ok)))
    .try_flatten()
    .right_stream()
}

/// Cuts a region into pieces of at most `bytes_max`, without holding them.
fn pieces(region: Region, bytes_max: u64) -> impl Iterator<Item = Region> {
    let Region { extent, wanted } = region;
    // A region that is not read is passed on whole.
    let step = if wanted { bytes_max.max(CHUNK_BYTES) } else { extent.length.max(1) };
    (0..extent.length.div_ceil(step)).map(move |index| {
        let offset = extent.offset + index * step;
        let length = step.min(extent.offset + extent.length - offset);
        Region { extent: Extent { offset, length }, wanted }
    })
}

/// Moves a disk of this size, which must be the transport's. `moved` is called with the bytes of each read when the vault has accepted them.
pub(crate) async fn copy_disk(
    transport: Arc<dyn DiskTransport>,
    disk_bytes: u64,
    writer: &DiskWriter,
    plan: &CopyPlan,
    limits: CopyLimits,
    stop: &CancellationToken,
    moved: &(dyn Fn(u64) + Send + Sync),
) -> Result<DiskCopy, CopyError> {
    let transport = transport.as_ref();
    let (read_bytes, zero_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let zeros_are_told = matches!(plan, CopyPlan::Everything { .. });
    regions(transport, disk_bytes, plan)
        .map_ok(|region| stream::iter(pieces(region, limits.read_bytes).map(Ok)))
        .try_flatten()
        .try_for_each_concurrent(limits.reads_in_flight, |piece| {
            let (read_bytes, zero_bytes) = (&read_bytes, &zero_bytes);
            async move {
                if stop.is_cancelled() {
                    return Err(CopyError::Stopped);
                }
                let Region { extent, wanted } = piece;
                if wanted {
                    let data = transport.read(extent).await.map_err(CopyError::Transport)?;
                    writer.write(extent.offset, data).await.map_err(CopyError::Vault)?;
                    read_bytes.fetch_add(extent.length, Ordering::Relaxed);
                    moved(extent.length);
                } else if zeros_are_told {
                    writer.write_zeroes(extent).await.map_err(CopyError::Vault)?;
                    zero_bytes.fetch_add(extent.length, Ordering::Relaxed);
                }
                Ok(())
            }
        })
        .await?;
    Ok(DiskCopy { read_bytes: read_bytes.into_inner(), zero_bytes: zero_bytes.into_inner() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cover(disk_bytes: u64, extents: &[(u64, u64, bool)]) -> Result<Vec<(u64, u64, bool)>, ExtentError> {
        let mut chunks = ChunkRegions::new(disk_bytes);
        let mut found = Vec::new();
        for (offset, length, wanted) in extents {
            found.extend(chunks.push(Extent { offset: *offset, length: *length }, *wanted)?);
        }
        found.extend(chunks.finish()?);
        Ok(found.into_iter().map(|region| (region.extent.offset, region.extent.length, region.wanted)).collect())
    }

    const K64: u64 = CHUNK_BYTES;

    #[test]
    fn regions_are_whole_chunks_and_cover_the_disk_once() {
        // Two small extents in one chunk, one that spans two, and a disk that does not end on a chunk.
        let extents = [(0, 100, false), (100, 50, true), (150, 10, false), (200, 1, true), (K64 * 3 - 1, 2, true)];
        let expected = [(0, K64, true), (K64, K64, false), (2 * K64, 2 * K64, true), (4 * K64, 512, false)];
        assert_eq!(cover(4 * K64 + 512, &extents), Ok(expected.to_vec()));
        assert_eq!(cover(K64, &[]), Ok(vec![(0, K64, false)]));
        assert_eq!(cover(100, &[(0, 100, true)]), Ok(vec![(0, 100, true)]));
    }

    #[test]
    fn pieces_cover_a_region_exactly() {
        let region = Region { extent: Extent { offset: K64, length: 5 * K64 + 7 }, wanted: true };
        let cut: Vec<_> = pieces(region, 2 * K64).map(|piece| (piece.extent.offset, piece.extent.length)).collect();
        assert_eq!(cut, [(K64, 2 * K64), (3 * K64, 2 * K64), (5 * K64, K64 + 7)]);
    }
}
