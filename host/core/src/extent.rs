//! Ranges of a disk.

use serde::{Deserialize, Serialize};

/// Bytes of a chunk: the unit of a disk that is identified and compared.
pub const CHUNK_BYTES: u64 = 64 * 1024;

/// A range of a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// The first byte.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// Extents that cannot be true of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExtentError {
    /// A range of nothing.
    #[error("an extent at byte {offset} is empty")]
    Empty {
        /// Where it starts.
        offset: u64,
    },
    /// A range that ends past the disk's end.
    #[error("an extent of {length} bytes at byte {offset} passes the end of the disk at byte {disk_bytes}")]
    PastEnd {
        /// Where it starts.
        offset: u64,
        /// How long it claims to be.
        length: u64,
        /// The disk's size.
        disk_bytes: u64,
    },
    /// A range that starts before the one before it ended.
    #[error("an extent at byte {offset} starts before the extent before it ends, at byte {previous_end}")]
    OutOfOrder {
        /// Where it starts.
        offset: u64,
        /// Where the one before it ended.
        previous_end: u64,
    },
}

impl Extent {
    /// The byte after the last.
    ///
    /// # Errors
    /// [`ExtentError::PastEnd`] when no 64-bit disk could hold it.
    pub fn end(self) -> Result<u64, ExtentError> {
        let past_end = ExtentError::PastEnd { offset: self.offset, length: self.length, disk_bytes: u64::MAX };
        self.offset.checked_add(self.length).ok_or(past_end)
    }

    /// The smallest extent of whole chunks that covers this one, cut at the disk's end.
    ///
    /// # Errors
    /// Those of [`ExtentSequence::accept`] for a lone extent.
    pub fn to_chunk_bounds(self, disk_bytes: u64) -> Result<Self, ExtentError> {
        ExtentSequence::new(disk_bytes).accept(self)?;
        let offset = self.offset - self.offset % CHUNK_BYTES;
        let end = self.end()?.checked_next_multiple_of(CHUNK_BYTES).unwrap_or(u64::MAX).min(disk_bytes);
        Ok(Self { offset, length: end - offset })
    }
}

/// Checks, one by one, that extents from outside are in order, apart and inside their disk. It holds two numbers however
/// many extents pass.
#[derive(Debug, Clone, Copy)]
pub struct ExtentSequence {
    disk_bytes: u64,
    previous_end: u64,
}

impl ExtentSequence {
    /// The check for a disk of this size in bytes.
    pub const fn new(disk_bytes: u64) -> Self {
        Self { disk_bytes, previous_end: 0 }
    }

    /// Takes the next extent.
    ///
    /// # Errors
    /// What is wrong with it; the check then still stands where it stood.
    pub fn accept(&mut self, extent: Extent) -> Result<(), ExtentError> {
        let Extent { offset, length } = extent;
        if length == 0 {
            return Err(ExtentError::Empty { offset });
        }
        let end = extent.end().unwrap_or(u64::MAX);
        if end > self.disk_bytes || extent.end().is_err() {
            return Err(ExtentError::PastEnd { offset, length, disk_bytes: self.disk_bytes });
        }
        if offset < self.previous_end {
            return Err(ExtentError::OutOfOrder { offset, previous_end: self.previous_end });
        }
        self.previous_end = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nonsense_extents_have_names() {
        let extent = |offset, length| Extent { offset, length };
        let mut sequence = ExtentSequence::new(100);
        assert_eq!(sequence.accept(extent(0, 0)), Err(ExtentError::Empty { offset: 0 }));
        assert_eq!(sequence.accept(extent(10, 20)), Ok(()));
        assert_eq!(sequence.accept(extent(29, 1)), Err(ExtentError::OutOfOrder { offset: 29, previous_end: 30 }));
        assert_eq!(sequence.accept(extent(30, 70)), Ok(()));
        let past = ExtentError::PastEnd { offset: 90, length: 11, disk_bytes: 100 };
        assert_eq!(ExtentSequence::new(100).accept(extent(90, 11)), Err(past));
        assert!(ExtentSequence::new(u64::MAX).accept(extent(u64::MAX, 2)).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("FARSHORE_LONG").is_some() { 20_000 } else { 256 }))]
        #[test]
        fn chunk_bounds_cover_the_extent_and_stay_inside(disk_bytes in 1u64..1 << 40, offset in 0u64..1 << 40, length in 1u64..1 << 20) {
            let extent = Extent { offset, length };
            match extent.to_chunk_bounds(disk_bytes) {
                Err(_) => prop_assert!(offset + length > disk_bytes),
                Ok(bounds) => {
                    prop_assert!(bounds.offset % CHUNK_BYTES == 0 && bounds.offset <= offset);
                    let end = bounds.offset + bounds.length;
                    prop_assert!(end >= offset + length && end <= disk_bytes);
                    prop_assert!(end % CHUNK_BYTES == 0 || end == disk_bytes);
                }
            }
        }
    }
}
