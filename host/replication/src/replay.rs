//! Writing a point of what waited, as if the source were read again.
//!
//! Points are taken from the newest to the oldest, and each chunk is written once: as the newest of them has it. What a newer
//! point does not have any more, a machine that has left the group, is not written.

use farshore_core::{CHUNK_BYTES, DiskId, MachineId};
use farshore_spool::{Spool, SpoolError, SpoolReader, SpooledDisk, SpooledPoint, Waiting};
use farshore_vault::{DiskWriter, PointWriter};
use tokio_util::sync::CancellationToken;

use crate::{ReplicationError, Replicator};

impl Replicator {
    /// Writes what these points have, of which the last is the newest; none if one of them is damaged.
    pub(crate) async fn replay(
        &self,
        spool: &mut Spool,
        chosen: &[Waiting],
        writer: &PointWriter,
        stop: &CancellationToken,
    ) -> Result<Option<Replayed>, ReplicationError> {
        for item in &self.capsule {
            let added = writer.add_item(item).await;
            added.map_err(|source| self.vault_error("storing what the recovery point carries beside disks", source))?;
        }
        let mut replayed: Option<Replayed> = None;
        let mut disks: Vec<Replaying> = Vec::new();
        for waiting in chosen.iter().rev() {
            let Some(reader) = self.readable(spool, *waiting, |reader| reader)? else { return Ok(None) };
            let point = reader.point().clone();
            match &mut replayed {
                None => {
                    for SpooledDisk { machine, disk, size_bytes } in &point.disks {
                        let added = writer.add_disk(machine, disk, *size_bytes).await;
                        let writer =
                            added.map_err(|source| self.vault_error("adding a disk to the recovery point", source))?;
                        let disk = (machine.clone(), disk.clone());
                        disks.push(Replaying { disk, writer, written: Vec::new() });
                    }
                    replayed = Some(Replayed { read_bytes: point.read_bytes, point: point.clone() });
                }
                Some(replayed) => replayed.read_bytes = replayed.read_bytes.saturating_add(point.read_bytes),
            }
            // What a newer point does not have any more is not its.
            let places: Vec<Option<usize>> = point
                .disks
                .iter()
                .map(|own| disks.iter().position(|new| (&new.disk.0, &new.disk.1) == (&own.machine, &own.disk)))
                .collect();
            let is_only = chosen.len() == 1;
            if let Err(error) = write_all(reader, &places, &mut disks, is_only, stop).await {
                match error {
                    ReplayError::Stopped => {
                        return Err(ReplicationError::Stopped { group: self.protection.group.clone() });
                    }
                    ReplayError::Vault(source) => return Err(self.vault_error("storing a disk", source)),
                    ReplayError::Spool(error @ SpoolError::Damaged { .. }) => {
                        self.give_up_from(spool, *waiting, &error.to_string())?;
                        return Ok(None);
                    }
                    ReplayError::Spool(source) => return Err(self.spool_error("reading what waits", source)),
                }
            }
        }
        Ok(replayed)
    }
}

/// A point that is written from what waited.
pub(crate) struct Replayed {
    /// The newest of those that it comes from.
    pub point: SpooledPoint,
    /// Bytes read from the source for all of them.
    pub read_bytes: u64,
}

/// A disk of it, and the chunks that newer points have written.
struct Replaying {
    disk: (MachineId, DiskId),
    writer: DiskWriter,
    /// A bit for each.
    written: Vec<u64>,
}

impl Replaying {
    /// Whether no newer point has written this chunk. From now on one has.
    fn is_new(&mut self, chunk: u64) -> bool {
        let (word, bit) = (usize::try_from(chunk / 64).unwrap_or(usize::MAX), 1 << (chunk % 64));
        if self.written.is_empty() {
            let words = self.writer.size_bytes().div_ceil(64 * CHUNK_BYTES);
            self.written = vec![0; usize::try_from(words).unwrap_or(usize::MAX)];
        }
        // What is past the end the writer refuses.
        let Some(word) = self.written.get_mut(word) else { return true };
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

enum ReplayError {
    Stopped,
    Spool(SpoolError),
    Vault(farshore_vault::Error),
}

/// Writes what a point has, and newer ones have not written. Each of its disks has this place among those.
async fn write_all(
    mut reader: SpoolReader,
    places: &[Option<usize>],
    disks: &mut [Replaying],
    is_only: bool,
    stop: &CancellationToken,
) -> Result<(), ReplayError> {
    loop {
        if stop.is_cancelled() {
            return Err(ReplayError::Stopped);
        }
        let read = tokio::task::spawn_blocking(move || (reader.next_bytes(), reader)).await;
        let bytes = match read {
            Ok((bytes, same)) => {
                reader = same;
                bytes.map_err(ReplayError::Spool)?
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => {
                let reason = format!("the runtime is shutting down: {error}");
                return Err(ReplayError::Vault(farshore_vault::Error::Stopped { reason }));
            }
        };
        let Some(bytes) = bytes else { return Ok(()) };
        let place = places.get(usize::try_from(bytes.disk).unwrap_or(usize::MAX)).copied().flatten();
        let Some(disk) = place.and_then(|place| disks.get_mut(place)) else { continue };
        if is_only {
            disk.writer.write(bytes.offset, bytes.data).await.map_err(ReplayError::Vault)?;
            continue;
        }
        let (mut offset, mut rest) = (bytes.offset, bytes.data);
        while !rest.is_empty() {
            let chunk = rest.split_to(rest.len().min(usize::try_from(CHUNK_BYTES).unwrap_or(usize::MAX)));
            let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            if disk.is_new(offset / CHUNK_BYTES) {
                disk.writer.write(offset, chunk).await.map_err(ReplayError::Vault)?;
            }
            offset = offset.saturating_add(length);
        }
    }
}
