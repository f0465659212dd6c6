//! Moving a recovery point's disk out of the vault.
//!
//! The vault gives pieces that it has decrypted and identified, a bounded number ahead; each is written as soon as it is
//! there, several at once. Where no piece is given the disk stays as it began: as zeros, or as the disk that it began from. It
//! is flushed at the end: only then it counts.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use farshore_core::{CHUNK_BYTES, Clock};
use farshore_platform::{
    DiskTransport,
    file::{FileDisk, FileOptions},
};
use farshore_vault::DiskReader;
use futures::TryStreamExt as _;
use rustix::fs::{CWD, RenameFlags};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::FailoverError;

/// How much is on the way at once.
#[derive(Debug, Clone, Copy)]
pub struct RestoreLimits {
    /// Writes of one disk that are on the way together.
    pub writes_in_flight: usize,
}

impl Default for RestoreLimits {
    fn default() -> Self {
        Self { writes_in_flight: 8 }
    }
}

/// What a restore moved.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct RestoreReport {
    /// The disk's size in bytes.
    pub disk_bytes: u64,
    /// Bytes written; the rest is as the disk began.
    pub written_bytes: u64,
    /// How long it took.
    pub milliseconds: u64,
}

/// Writes a disk of a point to a fresh disk that reads as zeros, or, where it differs from `base`, a disk of another point, to one
/// that reads as that: then whole blocks of the transport, or of 64 KiB, with their zeros. `moved` is called with the bytes of each
/// write.
///
/// # Errors
/// [`FailoverError::Vault`] names what of the vault is damaged or missing; [`FailoverError::Write`] what the target
/// refused. The target's content is then undefined: discard it.
pub async fn restore_disk(
    reader: &DiskReader,
    base: Option<&DiskReader>,
    transport: &dyn DiskTransport,
    limits: RestoreLimits,
    clock: &dyn Clock,
    stop: &CancellationToken,
    moved: &(dyn Fn(u64) + Send + Sync),
) -> Result<RestoreReport, FailoverError> {
    let unit_bytes = transport.block_bytes().unwrap_or_default().max(CHUNK_BYTES);
    let pieces = match base {
        None => reader.pieces(),
        Some(base) => {
            reader.differences(base, unit_bytes).map_err(FailoverError::vault("comparing two recovery points"))?
        }
    };
    let started = clock.monotonic();
    let written_bytes = std::sync::atomic::AtomicU64::new(0);
    let write_error = |source| FailoverError::Write { doing: "writing a restored disk".to_owned(), source };
    pieces
        .map_err(|source| FailoverError::Vault { doing: "reading a disk of the recovery point".to_owned(), source })
        .try_for_each_concurrent(limits.writes_in_flight, |piece| {
            let written_bytes = &written_bytes;
            async move {
                if stop.is_cancelled() {
                    return Err(FailoverError::Stopped);
                }
                let length = piece.data.len() as u64;
                transport.write(piece.offset, piece.data).await.map_err(write_error)?;
                written_bytes.fetch_add(length, std::sync::atomic::Ordering::Relaxed);
                moved(length);
                Ok(())
            }
        })
        .await?;
    transport.flush().await.map_err(write_error)?;
    Ok(RestoreReport {
        disk_bytes: reader.size_bytes(),
        written_bytes: written_bytes.into_inner(),
        milliseconds: milliseconds(clock.monotonic().saturating_sub(started)),
    })
}

/// Writes a disk of a point to a new raw file, sparse where the disk is zeros.
///
/// # Errors
/// Those of [`restore_disk`], and [`FailoverError::File`]. Nothing half-made is left: the file appears under its name only
/// when it is complete and durable.
pub async fn restore_to_file(
    reader: &DiskReader,
    path: &Path,
    limits: RestoreLimits,
    clock: Arc<dyn Clock>,
    stop: &CancellationToken,
    moved: &(dyn Fn(u64) + Send + Sync),
) -> Result<RestoreReport, FailoverError> {
    let failed = |path: &Path, doing| {
        let path = path.to_owned();
        move |source| FailoverError::File { path, doing, source }
    };
    if fs::symlink_metadata(path).is_ok() {
        return Err(failed(path, "made")(io::Error::from(io::ErrorKind::AlreadyExists)));
    }
    let partial = Partial::create(path, reader.size_bytes())?;
    let disk = FileDisk::open(&partial.path, false, FileOptions::default())
        .await
        .map_err(|source| FailoverError::Write { doing: format!("opening {}", partial.path.display()), source })?;
    let report = restore_disk(reader, None, &disk, limits, &*clock, stop, moved).await?;
    // The bytes are durable already; what the goodbye says changes nothing.
    let _ = disk.close().await;
    partial.finish(path)?;
    Ok(report)
}

/// A file in the making; removed unless it is finished.
struct Partial {
    path: PathBuf,
    finished: bool,
}

impl Partial {
    fn create(target: &Path, size_bytes: u64) -> Result<Self, FailoverError> {
        let mut name = target.as_os_str().to_owned();
        name.push(".partial");
        let path = PathBuf::from(name);
        let failed = |doing| {
            let path = path.clone();
            move |source| FailoverError::File { path, doing, source }
        };
        let file = fs::File::create_new(&path).map_err(failed("made"))?;
        let partial = Self { path: path.clone(), finished: false };
        file.set_len(size_bytes).map_err(failed("sized"))?;
        Ok(partial)
    }

    fn finish(mut self, target: &Path) -> Result<(), FailoverError> {
        let failed = |source| FailoverError::File { path: target.to_owned(), doing: "put in place", source };
        // Unlike a plain rename, this does not replace a file that came in between.
        rustix::fs::renameat_with(CWD, &self.path, CWD, target, RenameFlags::NOREPLACE)
            .map_err(|error| failed(io::Error::from(error)))?;
        self.finished = true;
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.finished {
            // The error that led here says more than a failed removal would.
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
