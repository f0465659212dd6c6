//! Writing a point that is to wait.
//!
//! Calls may run side by side: bytes are compressed beside each other, and sealed and written one after the other. Dropping the writer removes
//! its file.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use farshore_core::PackId;
use farshore_vault::WaitingSealer;

use crate::{
    SpoolError, SpoolRoom, SpooledPoint,
    part::{HEADER_BYTES, LAST_BYTES_MAX, MAGIC, VERSION, encode},
    spool::{remove, sync},
};

/// The most bytes of a disk that are given at once.
pub const RECORD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How often, in bytes written, the file system is asked how much it has left.
const LOOK_EVERY_BYTES: u64 = 16 * 1024 * 1024;

/// A point in the making.
#[derive(Debug)]
pub struct SpoolWriter {
    open: Arc<Mutex<OpenFile>>,
    room: Arc<SpoolRoom>,
}

/// Its file, which is removed when it is dropped unless it was finished.
#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    file: File,
    id: PackId,
    sealer: WaitingSealer,
    room: Arc<SpoolRoom>,
    parts: u64,
    bytes: u64,
    looked_at: u64,
    is_finished: bool,
    /// Something failed: what was written since may lack its end.
    is_torn: bool,
}

pub(crate) fn begin(
    room: &Arc<SpoolRoom>,
    path: PathBuf,
    id: PackId,
    sealer: WaitingSealer,
) -> Result<SpoolWriter, SpoolError> {
    room.look_at_the_disk()?;
    let failed = |source| SpoolError::File { path: path.clone(), doing: "made", source };
    let file = File::options().write(true).create(true).truncate(true).open(&path).map_err(failed)?;
    let mut open = OpenFile {
        path,
        file,
        id,
        sealer,
        room: Arc::clone(room),
        parts: 0,
        bytes: 0,
        looked_at: 0,
        is_finished: false,
        is_torn: false,
    };
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(id.as_bytes());
    open.append(&[&header])?;
    Ok(SpoolWriter { open: Arc::new(Mutex::new(open)), room: Arc::clone(room) })
}

impl OpenFile {
    fn append(&mut self, pieces: &[&[u8]]) -> Result<(), SpoolError> {
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        if self.bytes.saturating_sub(self.looked_at) >= LOOK_EVERY_BYTES {
            self.room.look_at_the_disk()?;
            self.looked_at = self.bytes;
        }
        self.room.take(bytes)?;
        self.bytes = self.bytes.saturating_add(bytes);
        self.is_torn = true;
        for piece in pieces {
            let failed = |source| SpoolError::File { path: self.path.clone(), doing: "written", source };
            self.file.write_all(piece).map_err(failed)?;
        }
        self.is_torn = false;
        Ok(())
    }

    fn append_part(&mut self, plain: &[u8], is_last: bool) -> Result<(), SpoolError> {
        if self.is_torn {
            let source = std::io::Error::other("an earlier write failed");
            return Err(SpoolError::File { path: self.path.clone(), doing: "written", source });
        }
        let sealed = self.sealer.seal(self.id, self.parts, plain).map_err(|source| SpoolError::Seal { source })?;
        let length = u32::try_from(sealed.len()).unwrap_or(u32::MAX).to_le_bytes();
        let place = self.parts.to_le_bytes();
        let end: [&[u8]; 2] = if is_last { [&place, &length] } else { [&[], &[]] };
        self.append(&[&length, &sealed, end[0], end[1]])?;
        self.parts += 1;
        Ok(())
    }

    fn finish(&mut self, point: SpooledPoint, place: &Path, folder: &Path) -> Result<u64, SpoolError> {
        let last = serde_json::to_vec(&point);
        let failed = |doing| {
            let path = self.path.clone();
            move |source| SpoolError::File { path, doing, source }
        };
        let last = last.map_err(std::io::Error::from).map_err(failed("written"))?;
        if last.len() > LAST_BYTES_MAX {
            let source = std::io::Error::other("the group has too many disks to be described in it");
            return Err(failed("written")(source));
        }
        let (sync_failed, rename_failed) = (failed("synced"), failed("renamed"));
        self.append_part(&last, true)?;
        self.file.sync_all().map_err(sync_failed)?;
        fs::rename(&self.path, place).map_err(rename_failed)?;
        self.is_finished = true;
        if let Err(error) = sync(folder) {
            // It is there, and may be gone after a power failure: then it never waited.
            self.is_finished = false;
            place.clone_into(&mut self.path);
            return Err(error);
        }
        Ok(self.bytes)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if !self.is_finished && remove(&self.room, &self.path, self.bytes).is_err() {
            tracing::warn!(path = %self.path.display(), "what was given up in the spool could not be removed");
        }
    }
}

fn lock(open: &Mutex<OpenFile>) -> MutexGuard<'_, OpenFile> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SpoolWriter {
    /// Bytes of a disk, which has this number in the point: at most [`RECORD_BYTES_MAX`].
    ///
    /// # Errors
    /// There is no room, or the file cannot be written. Whatever it is, the point cannot be finished then.
    ///
    /// # Panics
    /// If there are more bytes.
    pub async fn write(&self, disk: u32, offset: u64, data: Bytes) -> Result<(), SpoolError> {
        assert!(data.len() <= RECORD_BYTES_MAX, "what is given at once can be read again");
        let open = Arc::clone(&self.open);
        self.apart(move || {
            let failed = |source| SpoolError::File { path: lock(&open).path.clone(), doing: "compressed for", source };
            let part = encode(disk, offset, &data).map_err(failed)?;
            let mut open = lock(&open);
            open.append_part(&part, false).inspect_err(|_| open.is_torn = true)
        })
        .await
    }

    /// How many bytes it has so far.
    pub fn bytes(&self) -> u64 {
        lock(&self.open).bytes
    }

    pub(crate) async fn finish(self, point: SpooledPoint, place: PathBuf, folder: PathBuf) -> Result<u64, SpoolError> {
        let open = Arc::clone(&self.open);
        self.apart(move || lock(&open).finish(point, &place, &folder)).await
    }

    /// Work that waits for processors and disks has no place among tasks.
    async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => {
                let source = std::io::Error::other(error);
                Err(SpoolError::File { path: self.room.folder().to_owned(), doing: "written", source })
            }
        }
    }
}
