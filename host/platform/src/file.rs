//! Disks that are files or block devices of this machine.
//!
//! **Use.** [`FileDisk::open`] opens what exists, never makes it: whoever makes a disk gives it its size. The size is fixed
//! for the life of a [`FileDisk`]; a file that shrinks meanwhile fails the read that notices.
//!
//! **Concurrency.** Each call runs on tokio's threads for blocking work, with positioned reads and writes that share no
//! cursor; at most [`FileOptions::requests_in_flight`] at once, the others wait. (The cursor that finding holes moves is
//! used by nothing else.)
//!
//! **Cancellation.** A dropped call that has begun is carried out; it keeps its place among the calls in flight until then.
//!
//! **Durability.** `flush` is `fdatasync`. Linux reports a failed write-back once and then forgets the data, so after a
//! failed flush no later one can be believed: the disk counts as lost.
//!
//! **Zeros.** Holes are punched where the file system can; elsewhere zeros are written in pieces of bounded size. Holes are
//! found with `SEEK_DATA` and `SEEK_HOLE`; where they cannot be found, all is reported as data, which is always true enough.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use farshore_core::Extent;
use rustix::{
    fs::{FallocateFlags, OFlags, SeekFrom},
    io::Errno,
};
use tokio::sync::Semaphore;

use crate::{
    TransportError,
    transport::{BlockStatus, DiskTransport, REQUEST_BYTES_MAX, check_extent},
};

/// The only context that files have, with NBD's meaning.
pub const ALLOCATION_CONTEXT: &str = "base:allocation";
/// The flags of a hole: not allocated, and reads as zeros.
const HOLE_FLAGS: u32 = 0b11;
/// The flags of data.
const DATA_FLAGS: u32 = 0;
/// The most entries of one answer about blocks: each costs two system calls.
const STATUS_ENTRIES_MAX: usize = 4096;
/// The most bytes that one call to the system punches out, so that no thread is away for long.
const PUNCH_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// The most zeros that are written at once.
const ZEROES_BYTES_MAX: u64 = 1024 * 1024;
/// The most that [`FileOptions::requests_in_flight`] can be.
const REQUESTS_IN_FLIGHT_MAX: usize = 64;

/// How a file is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileOptions {
    /// Calls that run at the same time, 1 to 64; numbers outside are moved to the nearest bound.
    pub requests_in_flight: usize,
    /// The size that the disk must have, if it is known.
    pub expected_size_bytes: Option<u64>,
}

impl Default for FileOptions {
    /// Eight calls, any size.
    fn default() -> Self {
        Self { requests_in_flight: 8, expected_size_bytes: None }
    }
}

/// A disk in a file or on a block device.
#[derive(Debug)]
pub struct FileDisk {
    inner: Arc<Inner>,
    permits: Arc<Semaphore>,
    requests_in_flight: u32,
}

#[derive(Debug)]
struct Inner {
    file: File,
    name: String,
    size_bytes: u64,
    read_only: bool,
    /// The file system said that it cannot punch holes.
    cannot_punch: AtomicBool,
    /// A flush failed.
    flush_failed: AtomicBool,
}

impl FileDisk {
    /// Opens a regular file or a block device that exists.
    ///
    /// # Errors
    /// [`TransportError::Open`] when it cannot be opened, [`TransportError::Unsupported`] when it is neither,
    /// [`TransportError::Protocol`] when it has another size than the expected one.
    pub async fn open(path: impl Into<PathBuf>, read_only: bool, options: FileOptions) -> Result<Self, TransportError> {
        let path = path.into();
        let name = path.display().to_string();
        let opened = tokio::task::spawn_blocking(move || open_file(&path, read_only)).await;
        let open_error = |source| TransportError::Open { transport: name.clone(), source };
        let opened = opened.map_err(|error| open_error(io::Error::other(error)))?;
        let Some((file, size_bytes)) = opened.map_err(open_error)? else {
            let what = "it is neither a regular file nor a block device".into();
            return Err(TransportError::Unsupported { transport: name, what });
        };
        if let Some(expected) = options.expected_size_bytes.filter(|expected| *expected != size_bytes) {
            let what = format!("it has {size_bytes} bytes, where it must have {expected}");
            return Err(TransportError::Protocol { transport: name, what });
        }
        let in_flight = options.requests_in_flight.clamp(1, REQUESTS_IN_FLIGHT_MAX);
        let (cannot_punch, flush_failed) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self {
            inner: Arc::new(Inner { file, name, size_bytes, read_only, cannot_punch, flush_failed }),
            permits: Arc::new(Semaphore::new(in_flight)),
            requests_in_flight: u32::try_from(in_flight).unwrap_or(u32::MAX),
        })
    }

    /// Runs one call to the system where it may block.
    async fn run<T, F>(&self, work: F) -> Result<T, TransportError>
    where
        T: Send + 'static,
        F: FnOnce(&Inner) -> Result<T, TransportError> + Send + 'static,
    {
        let closed = || self.inner.lost(io::Error::new(io::ErrorKind::NotConnected, "it was closed"));
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| closed())?;
        let inner = Arc::clone(&self.inner);
        let task = tokio::task::spawn_blocking(move || {
            // Dropped with the work, not with the call: a dropped call's work still goes on.
            let _permit = permit;
            work(&inner)
        });
        task.await.unwrap_or_else(|error| Err(self.inner.lost(io::Error::other(error))))
    }
}

/// None if it is not a thing with a size.
fn open_file(path: &Path, read_only: bool) -> io::Result<Option<(File, u64)>> {
    // Without O_NONBLOCK, opening a FIFO would wait for its other end. It means nothing to files and block devices.
    let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).write(!read_only).custom_flags(nonblock).open(path)?;
    let metadata = file.metadata()?;
    let size_bytes = if metadata.is_file() {
        metadata.len()
    } else if metadata.file_type().is_block_device() {
        rustix::fs::seek(&file, SeekFrom::End(0))?
    } else {
        return Ok(None);
    };
    Ok(Some((file, size_bytes)))
}

impl Inner {
    fn lost(&self, source: io::Error) -> TransportError {
        TransportError::Lost { transport: self.name.clone(), source }
    }

    fn error(&self, operation: &'static str, extent: Extent, source: io::Error) -> TransportError {
        let transport = self.name.clone();
        let full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if full && operation != "read" {
            return TransportError::NoSpace { transport, extent };
        }
        TransportError::Request { transport, operation, extent, source }
    }

    fn check(&self, extent: Extent, length_max: u64) -> Result<(), TransportError> {
        check_extent(&self.name, self.size_bytes, extent, length_max)
    }

    fn check_write(&self, extent: Extent, length_max: u64) -> Result<(), TransportError> {
        if self.read_only {
            let what = "it was opened for reading".into();
            return Err(TransportError::Unsupported { transport: self.name.clone(), what });
        }
        self.check(extent, length_max)
    }

    fn read(&self, extent: Extent) -> Result<Bytes, TransportError> {
        // At most 4 MiB: the length was checked.
        let mut buffer = BytesMut::zeroed(extent.length as usize);
        match self.file.read_exact_at(&mut buffer, extent.offset) {
            Ok(()) => Ok(buffer.freeze()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let what = format!("it ends before its {} bytes: it was cut short", self.size_bytes);
                Err(TransportError::Protocol { transport: self.name.clone(), what })
            }
            Err(error) => Err(self.error("read", extent, error)),
        }
    }

    /// One piece of at most [`PUNCH_BYTES_MAX`]. Gives how many bytes of it are zeros now.
    fn zero_piece(&self, piece: Extent) -> Result<u64, TransportError> {
        if !self.cannot_punch.load(Ordering::Relaxed) {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            loop {
                match rustix::fs::fallocate(&self.file, flags, piece.offset, piece.length) {
                    Ok(()) => return Ok(piece.length),
                    Err(Errno::INTR) => {}
                    // A block device takes whole sectors only, and answers so to others.
                    Err(Errno::INVAL) => break,
                    Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::PERM) => {
                        self.cannot_punch.store(true, Ordering::Relaxed);
                        break;
                    }
                    Err(error) => return Err(self.error("zero", piece, error.into())),
                }
            }
        }
        let written = Extent { length: piece.length.min(ZEROES_BYTES_MAX), ..piece };
        let zeros = vec![0; written.length as usize];
        self.file.write_all_at(&zeros, written.offset).map_err(|error| self.error("zero", written, error))?;
        Ok(written.length)
    }

    fn flush(&self) -> Result<(), TransportError> {
        if self.flush_failed.load(Ordering::Acquire) {
            return Err(self.lost(io::Error::other("an earlier flush failed, and what it held may be gone")));
        }
        self.file.sync_data().map_err(|error| {
            self.flush_failed.store(true, Ordering::Release);
            match self.error("flush", Extent { offset: 0, length: self.size_bytes }, error) {
                TransportError::Request { source, .. } => self.lost(source),
                no_space => no_space,
            }
        })
    }

    fn block_status(&self, extent: Extent) -> Result<Vec<BlockStatus>, TransportError> {
        let end = extent.offset.saturating_add(extent.length);
        let mut statuses = Vec::new();
        let mut offset = extent.offset;
        let mut push = |from: u64, to: u64, flags: u32| {
            if to > from {
                statuses.push(BlockStatus { extent: Extent { offset: from, length: to.saturating_sub(from) }, flags });
            }
            statuses.len() < STATUS_ENTRIES_MAX
        };
        while offset < end {
            let data = match seek(&self.file, SeekFrom::Data(offset)) {
                Ok(data) => data.clamp(offset, end),
                // No data from here on.
                Err(Errno::NXIO) => end,
                Err(Errno::INVAL | Errno::OPNOTSUPP) => offset,
                Err(error) => return Err(self.error("ask about", extent, error.into())),
            };
            if !push(offset, data, HOLE_FLAGS) || data >= end {
                break;
            }
            let hole = match seek(&self.file, SeekFrom::Hole(data)) {
                // Past the data even if someone punched a hole there meanwhile: calling it data is never wrong.
                Ok(hole) => hole.clamp(data.saturating_add(1), end),
                Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => end,
                Err(error) => return Err(self.error("ask about", extent, error.into())),
            };
            offset = hole;
            if !push(data, hole, DATA_FLAGS) {
                break;
            }
        }
        Ok(statuses)
    }
}

fn seek(file: &File, to: SeekFrom) -> Result<u64, Errno> {
    rustix::io::retry_on_intr(|| rustix::fs::seek(file, to))
}

#[async_trait::async_trait]
impl DiskTransport for FileDisk {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes
    }

    async fn read(&self, extent: Extent) -> Result<Bytes, TransportError> {
        self.inner.check(extent, REQUEST_BYTES_MAX)?;
        self.run(move |inner| inner.read(extent)).await
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<(), TransportError> {
        let extent = Extent { offset, length: data.len() as u64 };
        self.inner.check_write(extent, REQUEST_BYTES_MAX)?;
        self.run(move |inner| {
            inner.file.write_all_at(&data, offset).map_err(|error| inner.error("write", extent, error))
        })
        .await
    }

    async fn write_zeroes(&self, extent: Extent) -> Result<(), TransportError> {
        self.inner.check_write(extent, u64::MAX)?;
        let end = extent.offset.saturating_add(extent.length);
        let mut offset = extent.offset;
        while offset < end {
            let piece = Extent { offset, length: end.saturating_sub(offset).min(PUNCH_BYTES_MAX) };
            let zeroed_bytes = self.run(move |inner| inner.zero_piece(piece)).await?;
            offset = offset.saturating_add(zeroed_bytes);
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), TransportError> {
        if self.inner.read_only {
            return Ok(());
        }
        self.run(Inner::flush).await
    }

    async fn block_status(&self, context: &str, extent: Extent) -> Result<Vec<BlockStatus>, TransportError> {
        self.inner.check(extent, u64::MAX)?;
        if context != ALLOCATION_CONTEXT {
            let what = format!("files do not tell about {context:?}");
            return Err(TransportError::Unsupported { transport: self.inner.name.clone(), what });
        }
        self.run(move |inner| inner.block_status(extent)).await
    }

    /// Waits for the calls in flight. It does not flush. The file is closed when the disk is dropped.
    async fn close(&self) -> Result<(), TransportError> {
        // An error means that it is closed already.
        let _permits = self.permits.acquire_many(self.requests_in_flight).await;
        self.permits.close();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_system_has_a_name_of_its_own() {
        let file = tempfile::tempfile().expect("a file");
        let (cannot_punch, flush_failed) = (AtomicBool::new(false), AtomicBool::new(false));
        let inner = Inner { file, name: "disk".into(), size_bytes: 0, read_only: false, cannot_punch, flush_failed };
        let extent = Extent { offset: 1, length: 2 };
        for errno in [Errno::NOSPC, Errno::DQUOT] {
            for operation in ["write", "zero", "flush"] {
                let error = inner.error(operation, extent, errno.into());
                assert!(matches!(error, TransportError::NoSpace { .. }), "{operation}: {error:?}");
            }
            assert!(matches!(inner.error("read", extent, errno.into()), TransportError::Request { .. }));
        }
        assert!(matches!(inner.error("write", extent, Errno::IO.into()), TransportError::Request { .. }));
    }

    #[test]
    fn after_a_failed_flush_none_is_believed() {
        let file = tempfile::tempfile().expect("a file");
        let (cannot_punch, flush_failed) = (AtomicBool::new(false), AtomicBool::new(true));
        let inner = Inner { file, name: "disk".into(), size_bytes: 0, read_only: false, cannot_punch, flush_failed };
        // The system would say that all is well, as it does after it has reported a failure once.
        assert!(inner.file.sync_data().is_ok());
        assert!(inner.flush().is_err_and(|error| error.is_lost()));
    }
}
