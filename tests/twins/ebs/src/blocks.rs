//! What is in snapshots and volumes: blocks of 512 KiB in sparse files, which snapshots of one line share.

use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt as _, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use rustix::fs::SeekFrom;
use sha2::{Digest as _, Sha256};

/// The size of a block.
pub const BLOCK_BYTES: usize = 512 * 1024;
/// A gibibyte, in which sizes are stated.
pub const GIB: u64 = 1 << 30;

/// Where a block is, and the SHA-256 of it.
#[derive(Debug, Clone)]
pub struct Block {
    file: Arc<File>,
    /// Of its 512 KiB.
    pub digest: [u8; 32],
}

/// The blocks of a snapshot. What it does not have reads as zeros.
#[derive(Debug, Clone, Default)]
pub struct Content(BTreeMap<u32, Block>);

/// Makes a file for the blocks of a new snapshot. It has no name: it goes when no snapshot needs it any more.
///
/// # Errors
/// The folder cannot be written.
pub fn new_file(folder: &Path) -> Result<Arc<File>> {
    use rustix::fs::{Mode, OFlags};
    let opened = rustix::fs::open(folder, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
    Ok(Arc::new(File::from(opened.with_context(|| format!("making a file in {}", folder.display()))?)))
}

impl Content {
    /// The numbers and blocks, in order.
    pub fn blocks(&self) -> impl Iterator<Item = (u32, &Block)> {
        self.0.iter().map(|(number, block)| (*number, block))
    }

    /// The block of a number.
    pub fn block(&self, number: u32) -> Option<&Block> {
        self.0.get(&number)
    }

    /// Puts a block that was written to this file.
    pub fn put(&mut self, number: u32, file: Arc<File>, digest: [u8; 32]) {
        self.0.insert(number, Block { file, digest });
    }

    /// The numbers of blocks in which another differs, with whether this and whether the other has them.
    pub fn changed<'a>(&'a self, other: &'a Self) -> BTreeMap<u32, (bool, bool)> {
        let numbers = self.0.keys().chain(other.0.keys());
        let compared = numbers.map(|number| (*number, (self.0.get(number), other.0.get(number))));
        let changed = compared.filter(|(_, (one, other))| match (one, other) {
            (Some(one), Some(other)) => one.digest != other.digest,
            _ => true,
        });
        changed.map(|(number, (one, other))| (number, (one.is_some(), other.is_some()))).collect()
    }

    /// What is in the file of a volume now. Blocks that are as they were are shared; of the others the bytes go to this file.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn of_volume(volume: &Path, before: &Self, into: &Arc<File>) -> Result<Self> {
        let source = File::open(volume).with_context(|| format!("opening {}", volume.display()))?;
        let size = source.metadata()?.len();
        let (mut content, mut block) = (Self::default(), vec![0; BLOCK_BYTES]);
        let mut wanted: Vec<u32> = before.0.keys().copied().collect();
        let mut at = 0;
        while let Ok(data) = rustix::fs::seek(&source, SeekFrom::Data(at)) {
            let number = data / BLOCK_BYTES as u64;
            wanted.push(u32::try_from(number)?);
            at = (number + 1) * BLOCK_BYTES as u64;
        }
        wanted.sort_unstable();
        wanted.dedup();
        for number in wanted {
            let begin = u64::from(number) * BLOCK_BYTES as u64;
            block.fill(0);
            let length = usize::try_from(size.saturating_sub(begin).min(BLOCK_BYTES as u64))?;
            source.read_exact_at(block.get_mut(..length).unwrap_or_default(), begin)?;
            let digest: [u8; 32] = Sha256::digest(&block).into();
            match before.0.get(&number) {
                Some(known) if known.digest == digest => {
                    content.0.insert(number, known.clone());
                }
                None if block.iter().all(|byte| *byte == 0) => {}
                _ => {
                    into.write_all_at(&block, begin)?;
                    content.put(number, Arc::clone(into), digest);
                }
            }
        }
        Ok(content)
    }

    /// Makes the file of a volume with this content.
    ///
    /// # Errors
    /// It is there already, or cannot be written.
    pub fn to_volume(&self, volume: &Path, size_gib: u32) -> Result<()> {
        let file = File::create_new(volume).with_context(|| format!("making {}", volume.display()))?;
        file.set_len(u64::from(size_gib) * GIB)?;
        for (number, block) in self.blocks() {
            file.write_all_at(&block.read(number)?, u64::from(number) * BLOCK_BYTES as u64)?;
        }
        Ok(())
    }
}

impl Block {
    /// Its bytes.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, number: u32) -> Result<Vec<u8>> {
        let mut bytes = vec![0; BLOCK_BYTES];
        self.file.read_exact_at(&mut bytes, u64::from(number) * BLOCK_BYTES as u64)?;
        Ok(bytes)
    }
}
