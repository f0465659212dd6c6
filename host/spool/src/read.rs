//! Reading a point that waits.

use std::{
    fs::File,
    io::{self, BufReader, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use farshore_core::PackId;
use farshore_vault::WaitingSealer;
use zeroize::Zeroizing;

use crate::{
    SpoolError, SpooledPoint,
    part::{END_BYTES, HEADER_BYTES, MAGIC, PART_BYTES_MAX, VERSION, decode},
};

/// Bytes of a disk of a point that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpooledBytes {
    /// The disk's number in the point.
    pub disk: u32,
    /// Where on the disk.
    pub offset: u64,
    /// The bytes.
    pub data: Bytes,
}

/// A point that waits, as it is read. Its calls wait for the disk: their place is a blocking task.
#[derive(Debug)]
pub struct SpoolReader {
    parts: Parts,
    point: SpooledPoint,
    /// How many parts are before the last.
    count: u64,
    /// Bytes of the last, as they are said behind it.
    last_bytes: u32,
    next: u64,
}

/// A file as a sequence of sealed parts.
#[derive(Debug)]
struct Parts {
    path: PathBuf,
    file: BufReader<File>,
    /// How many there are.
    bytes: u64,
    id: PackId,
    sealer: WaitingSealer,
}

pub(crate) fn open(path: &Path, sealer: &WaitingSealer) -> Result<SpoolReader, SpoolError> {
    let failed = |source| SpoolError::File { path: path.to_owned(), doing: "read", source };
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let (file, id) = (BufReader::new(file), PackId::from_bytes([0; 16]));
    let mut parts = Parts { path: path.to_owned(), file, bytes, id, sealer: sealer.clone() };
    let header: [u8; HEADER_BYTES] = parts.read()?;
    let (magic, rest) = header.split_first_chunk::<8>().expect("a header has fixed lengths");
    let (version, id) = rest.split_first_chunk::<4>().expect("a header has fixed lengths");
    if *magic != MAGIC {
        return Err(parts.damaged("it is no point that waits"));
    }
    if u32::from_le_bytes(*version) != VERSION {
        let problem = format!("version {}", u32::from_le_bytes(*version));
        return Err(SpoolError::OtherVersion { path: path.to_owned(), problem });
    }
    parts.id = PackId::from_bytes(id.try_into().expect("a header has fixed lengths"));
    let (count, last_bytes, point) = parts.last()?;
    parts.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
    Ok(SpoolReader { parts, point, count, last_bytes, next: 0 })
}

impl Parts {
    fn damaged(&self, problem: &str) -> SpoolError {
        SpoolError::Damaged { path: self.path.clone(), problem: problem.to_owned() }
    }

    fn failed(&self, source: io::Error) -> SpoolError {
        match source.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput => self.damaged("it ends too early"),
            _ => SpoolError::File { path: self.path.clone(), doing: "read", source },
        }
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N], SpoolError> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes).map_err(|source| self.failed(source))?;
        Ok(bytes)
    }

    fn seek(&mut self, to: SeekFrom) -> Result<(), SpoolError> {
        self.file.seek(to).map(|_| ()).map_err(|source| self.failed(source))
    }

    /// Opens the part of this number and length that comes next.
    fn open(&mut self, number: u64, length: u32) -> Result<Zeroizing<Vec<u8>>, SpoolError> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > PART_BYTES_MAX || length as u64 > self.bytes {
            return Err(self.damaged("a part of it is too long"));
        }
        let mut sealed = vec![0; length];
        self.file.read_exact(&mut sealed).map_err(|source| self.failed(source))?;
        self.sealer.open(self.id, number, &sealed).map_err(|error| self.damaged(&error.to_string()))
    }

    /// The last part, how many are before it, and its bytes.
    fn last(&mut self) -> Result<(u64, u32, SpooledPoint), SpoolError> {
        let back = |bytes: usize| SeekFrom::End(-i64::try_from(bytes).unwrap_or(i64::MAX));
        self.seek(back(END_BYTES))?;
        let (count, length) = (u64::from_le_bytes(self.read()?), u32::from_le_bytes(self.read()?));
        self.seek(back(END_BYTES.saturating_add(usize::try_from(length).unwrap_or(usize::MAX))))?;
        let plain = self.open(count, length)?;
        // It is what was sealed, so that it is no damage.
        let unknown =
            |error: serde_json::Error| SpoolError::OtherVersion { path: self.path.clone(), problem: error.to_string() };
        Ok((count, length, serde_json::from_slice(&plain).map_err(unknown)?))
    }
}

impl SpoolReader {
    /// What the point is.
    pub const fn point(&self) -> &SpooledPoint {
        &self.point
    }

    /// The same, without what its disks have.
    pub fn into_point(self) -> SpooledPoint {
        self.point
    }

    /// The next bytes of a disk; none after the last.
    ///
    /// # Errors
    /// The file is damaged, or cannot be read.
    pub fn next_bytes(&mut self) -> Result<Option<SpooledBytes>, SpoolError> {
        if self.next >= self.count {
            // What is said before it is the same, or there were other parts between.
            if self.next == self.count && u32::from_le_bytes(self.parts.read()?) != self.last_bytes {
                return Err(self.parts.damaged("its last part has not the length that is said before it"));
            }
            self.next = self.count.saturating_add(1);
            return Ok(None);
        }
        let length = u32::from_le_bytes(self.parts.read()?);
        let plain = self.parts.open(self.next, length)?;
        self.next += 1;
        let bytes = decode(&self.parts.path, &plain)?;
        let disk = self.point.disks.get(usize::try_from(bytes.disk).unwrap_or(usize::MAX));
        let end = bytes.offset.checked_add(bytes.data.len() as u64);
        match disk.zip(end) {
            Some((disk, end)) if end <= disk.size_bytes && !bytes.data.is_empty() => Ok(Some(bytes)),
            _ => Err(self.parts.damaged("it has bytes of a disk that it does not have")),
        }
    }
}
