//! Moving a captured disk's bytes into the vault.
//!
//! Extents come from the transport a bounded number at a time, checked to cover the disk without gaps or overlaps: a gap
//! would silently be taken for zeros or for unchanged. A part of what is said to be unchanged may be read all the same, and
//! compared. They are widened to whole chunks and merged, cut into reads, and several reads are in flight at once. The vault's
//! writer pushes back when its pipeline is full, which stops new reads: memory is bounded by `reads_in_flight * read_bytes` here and by the vault's own limit there.

use std::{
    ops::AddAssign,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use farshore_core::{CHUNK_BYTES, Extent, ExtentError, Throttle};
use farshore_platform::{BlockStatus, DiskTransport, TransportError, extents};
use farshore_spool::{RECORD_BYTES_MAX, SpoolError, SpoolWriter};
use farshore_vault::{DiskWriter, Error as VaultError};
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use tokio_util::sync::CancellationToken;

/// Bit 0 of a dirty-bitmap context: the extent changed.
const FLAG_CHANGED: u32 = 1;
/// Bit 1 of `base:allocation`: the extent reads as zeros.
const FLAG_ZERO: u32 = 2;

/// How much is on the way at once.
#[derive(Clone)]
pub struct CopyLimits {
    /// Bytes of one read; a multiple of a chunk.
    pub read_bytes: u64,
    /// Reads of one disk that are on the way together.
    pub reads_in_flight: usize,
    /// How fast the site is read, together with all else that is read there; as fast as it can be if there is no limit.
    pub pace: Option<Arc<Throttle>>,
}

impl Default for CopyLimits {
    fn default() -> Self {
        Self { read_bytes: 16 * CHUNK_BYTES, reads_in_flight: 8, pace: None }
    }
}

/// What of a disk is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyPlan {
    /// What this context says changed; the rest is as at the parent point.
    Changed {
        /// The context's name.
        context: String,
        /// What of the rest is read and compared all the same: whole chunks, in the disk's order.
        doubted: [Extent; 2],
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
    /// Bytes that the platform said are unchanged, and that differ all the same.
    pub untracked_bytes: u64,
}

impl AddAssign for DiskCopy {
    fn add_assign(&mut self, other: Self) {
        self.read_bytes = self.read_bytes.saturating_add(other.read_bytes);
        self.zero_bytes = self.zero_bytes.saturating_add(other.zero_bytes);
        self.untracked_bytes = self.untracked_bytes.saturating_add(other.untracked_bytes);
    }
}

/// Where the bytes of a disk go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target<'a> {
    /// Into the vault.
    Vault(&'a DiskWriter),
    /// Into the spool, as a disk of this number.
    Spool {
        /// The point that is to wait.
        writer: &'a SpoolWriter,
        /// The disk.
        disk: u32,
    },
}

impl Target<'_> {
    async fn write(&self, offset: u64, data: Bytes) -> Result<(), CopyError> {
        match self {
            Self::Vault(writer) => writer.write(offset, data).await.map_err(CopyError::Vault),
            Self::Spool { writer, disk } => writer.write(*disk, offset, data).await.map_err(CopyError::Spool),
        }
    }

    async fn write_zeroes(&self, extent: Extent) -> Result<(), CopyError> {
        let Self::Vault(writer) = self else {
            let bytes = u64::try_from(RECORD_BYTES_MAX).unwrap_or(CHUNK_BYTES);
            for (piece, _) in pieces(extent, Treatment::Move, bytes) {
                self.write(piece.offset, vec![0; usize::try_from(piece.length).unwrap_or(0)].into()).await?;
            }
            return Ok(());
        };
        writer.write_zeroes(extent).await.map_err(CopyError::Vault)
    }

    /// How many bytes differ from what is said to be unchanged. Without the vault there is nothing to compare with.
    async fn compare(&self, extent: Extent, data: Bytes) -> Result<u64, CopyError> {
        let Self::Vault(writer) = self else { return Ok(0) };
        match writer.compare(extent.offset, data).await {
            Ok(differing) => Ok(differing),
            // What the vault has lost is its own proof's to find, and no reason to make no points.
            Err(error) if error.is_damage() => {
                tracing::warn!(?extent, "nothing to compare with: {error}");
                Ok(0)
            }
            Err(error) => Err(CopyError::Vault(error)),
        }
    }
}

/// Why a copy stopped.
#[derive(Debug)]
pub(crate) enum CopyError {
    Transport(TransportError),
    /// What the context says cannot be true.
    Extents(TransportError),
    Vault(VaultError),
    Spool(SpoolError),
    Stopped,
}

/// A part of a disk of whole chunks, cut at the disk's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Region {
    extent: Extent,
    wanted: bool,
}

/// What is done with a part of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    /// It is read and written.
    Move,
    /// It is read and compared.
    Compare,
    /// It is not read.
    PassOver,
}

/// The parts of a region, of which what is doubted is compared if it is not wanted.
fn treated(region: Region, doubted: [Extent; 2]) -> impl Iterator<Item = (Extent, Treatment)> {
    let Region { extent, wanted } = region;
    let end = extent.offset + extent.length;
    let (inside, outside) = match wanted {
        true => (Treatment::Move, Treatment::Move),
        false => (Treatment::Compare, Treatment::PassOver),
    };
    let [one, other] = doubted.map(|doubted| {
        let start = doubted.offset.clamp(extent.offset, end);
        (start, doubted.offset.saturating_add(doubted.length).clamp(start, end))
    });
    let parts = match wanted {
        true => vec![(extent.offset, end, inside)],
        false => vec![
            (extent.offset, one.0, outside),
            (one.0, one.1, inside),
            (one.1, other.0.max(one.1), outside),
            (other.0.max(one.1), other.1.max(one.1), inside),
            (other.1.max(one.1), end, outside),
        ],
    };
    let parts = parts.into_iter().filter(|(start, end, _)| start < end);
    parts.map(|(start, end, treatment)| (Extent { offset: start, length: end - start }, treatment))
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
        CopyPlan::Changed { context, .. } => Some(context.as_str()),
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

/// Cuts what is read into pieces of at most `bytes_max`, without holding them. What is not read is passed on whole.
fn pieces(extent: Extent, treatment: Treatment, bytes_max: u64) -> impl Iterator<Item = (Extent, Treatment)> {
    let step = if treatment == Treatment::PassOver { extent.length.max(1) } else { bytes_max.max(CHUNK_BYTES) };
    (0..extent.length.div_ceil(step)).map(move |index| {
        let offset = extent.offset + index * step;
        let length = step.min(extent.offset + extent.length - offset);
        (Extent { offset, length }, treatment)
    })
}

/// Moves a disk of this size, which must be the transport's. `moved` is called with the bytes of each read when they were accepted.
pub(crate) async fn copy_disk(
    transport: Arc<dyn DiskTransport>,
    disk_bytes: u64,
    target: &Target<'_>,
    plan: &CopyPlan,
    limits: &CopyLimits,
    stop: &CancellationToken,
    moved: &(dyn Fn(u64) + Send + Sync),
) -> Result<DiskCopy, CopyError> {
    let transport = transport.as_ref();
    let (read_bytes, zero_bytes, untracked_bytes) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (zeros_are_told, doubted) = match plan {
        CopyPlan::Changed { doubted, .. } => (false, *doubted),
        CopyPlan::Everything { .. } => (true, [Extent { offset: 0, length: 0 }; 2]),
    };
    let cut =
        |region| treated(region, doubted).flat_map(|(extent, treatment)| pieces(extent, treatment, limits.read_bytes));
    regions(transport, disk_bytes, plan)
        .map_ok(|region| stream::iter(cut(region).map(Ok)))
        .try_flatten()
        .try_for_each_concurrent(limits.reads_in_flight, |(extent, treatment)| {
            let (read_bytes, zero_bytes, untracked_bytes) = (&read_bytes, &zero_bytes, &untracked_bytes);
            async move {
                if stop.is_cancelled() {
                    return Err(CopyError::Stopped);
                }
                if treatment == Treatment::PassOver {
                    if zeros_are_told {
                        target.write_zeroes(extent).await?;
                        zero_bytes.fetch_add(extent.length, Ordering::Relaxed);
                    }
                    return Ok(());
                }
                if let Some(pace) = &limits.pace {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return Err(CopyError::Stopped),
                        () = pace.pass(extent.length) => {}
                    }
                }
                let data = transport.read(extent).await.map_err(CopyError::Transport)?;
                if treatment == Treatment::Move {
                    target.write(extent.offset, data).await?;
                } else {
                    untracked_bytes.fetch_add(target.compare(extent, data).await?, Ordering::Relaxed);
                }
                read_bytes.fetch_add(extent.length, Ordering::Relaxed);
                moved(extent.length);
                Ok(())
            }
        })
        .await?;
    Ok(DiskCopy {
        read_bytes: read_bytes.into_inner(),
        zero_bytes: zero_bytes.into_inner(),
        untracked_bytes: untracked_bytes.into_inner(),
    })
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
        let extent = Extent { offset: K64, length: 5 * K64 + 7 };
        let cut: Vec<_> =
            pieces(extent, Treatment::Move, 2 * K64).map(|(piece, _)| (piece.offset, piece.length)).collect();
        assert_eq!(cut, [(K64, 2 * K64), (3 * K64, 2 * K64), (5 * K64, K64 + 7)]);
    }

    #[test]
    fn what_is_doubted_is_compared_where_it_is_not_moved() {
        use Treatment::{Compare, Move, PassOver};
        let chunks = |(from, to): (u64, u64)| Extent { offset: from * K64, length: (to - from) * K64 };
        let told_of = |wanted, doubted: [(u64, u64); 2]| {
            let parts = treated(Region { extent: chunks((10, 20)), wanted }, doubted.map(chunks));
            parts.map(|(part, what)| (part.offset / K64, part.length / K64, what)).collect::<Vec<_>>()
        };
        let told = |wanted, from, to| told_of(wanted, [(from, to), (0, 0)]);
        assert_eq!(told_of(false, [(0, 12), (18, 30)]), [(10, 2, Compare), (12, 6, PassOver), (18, 2, Compare)]);
        assert_eq!(told_of(true, [(0, 12), (18, 30)]), [(10, 10, Move)]);
        assert_eq!(told(true, 0, 40), [(10, 10, Move)]);
        assert_eq!(told(false, 0, 40), [(10, 10, Compare)]);
        assert_eq!(told(false, 12, 15), [(10, 2, PassOver), (12, 3, Compare), (15, 5, PassOver)]);
        assert_eq!(told(false, 5, 11), [(10, 1, Compare), (11, 9, PassOver)]);
        assert_eq!(told(false, 19, 30), [(10, 9, PassOver), (19, 1, Compare)]);
        for (from, to) in [(0, 10), (20, 30), (13, 13)] {
            assert_eq!(told(false, from, to).iter().map(|(_, length, _)| length).sum::<u64>(), 10);
            assert!(told(false, from, to).iter().all(|(.., what)| *what == PassOver));
        }
    }
}
