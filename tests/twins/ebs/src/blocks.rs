//! What is in snapshots and volumes: blocks of 512 KiB in sparse files, which snapshots of one line share.

use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, Result};
use rustix::{fs::SeekFrom, io::Errno};
use sha2::{Digest as _, Sha256};

/// The size of a block.
pub const BLOCK_BYTES: usize = 512 * 1024;
/// A gibibyte, in which sizes are stated.
pub const GIB: u64 = 1 << 30;

/// A file of blocks. It has no name: it goes when no snapshot needs it any more.
#[derive(Debug)]
pub struct BlockFile {
    file: File,
    /// Blocks are only ever added, so that what a snapshot has is never written again.
    end: AtomicU64,
}

/// Where a block is, and the SHA-256 of it.
#[derive(Debug, Clone)]
pub struct Block {
    file: Arc<BlockFile>,
    at: u64,
    /// Of its 512 KiB.
    pub digest: [u8; 32],
}

/// The blocks of a snapshot. What it does not have reads as zeros.
#[derive(Debug, Clone, Default)]
pub struct Content(BTreeMap<u32, Block>);

/// Which of two snapshots have a block that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Having {
    /// The first has it.
    pub first: bool,
    /// The second has it.
    pub second: bool,
}

impl BlockFile {
    /// A new one in this folder.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn new(folder: &Path) -> Result<Arc<Self>> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let opened = rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(opened.with_context(|| format!("making a file in {}", folder.display()))?);
        Ok(Arc::new(Self { file, end: AtomicU64::new(0) }))
    }

    /// Adds a block of this SHA-256.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(self: &Arc<Self>, bytes: &[u8], digest: [u8; 32]) -> Result<Block> {
        let at = self.end.fetch_add(BLOCK_BYTES as u64, Ordering::SeqCst);
        self.file.write_all_at(bytes, at)?;
        Ok(Block { file: Arc::clone(self), at, digest })
    }
}

impl Block {
    /// Its bytes.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; BLOCK_BYTES];
        self.file.file.read_exact_at(&mut bytes, self.at)?;
        Ok(bytes)
    }

    /// Whether it is one and the same, not only of equal bytes.
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file, &other.file) && self.at == other.at
    }
}

impl Content {
    /// The numbers of its blocks, in order.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.0.keys().copied()
    }

    /// The block of a number.
    pub fn block(&self, number: u32) -> Option<&Block> {
        self.0.get(&number)
    }

    /// Puts a block.
    pub fn put(&mut self, number: u32, block: Block) {
        self.0.insert(number, block);
    }

    /// The numbers of blocks that were written between this and another, of which one may have been written with the bytes that it
    /// had; and of those that were not written all that `also` names.
    pub fn changed(&self, other: &Self, also: impl Fn(u32) -> bool) -> BTreeMap<u32, Having> {
        let numbers = self.0.keys().chain(other.0.keys());
        let compared = numbers.map(|number| (*number, (self.0.get(number), other.0.get(number))));
        let changed = compared.filter(|(number, (one, other))| match (one, other) {
            (Some(one), Some(other)) => !one.is_same(other) || also(*number),
            _ => true,
        });
        changed
            .map(|(number, (one, other))| (number, Having { first: one.is_some(), second: other.is_some() }))
            .collect()
    }

    /// What is in the file of a volume now. Blocks that are as they were are shared; of the others the bytes go to this file.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn of_volume(volume: &Path, before: &Self, into: &Arc<BlockFile>) -> Result<Self> {
        let source = File::open(volume).with_context(|| format!("opening {}", volume.display()))?;
        let size = source.metadata()?.len();
        let (mut content, mut bytes) = (Self::default(), vec![0; BLOCK_BYTES]);
        let mut wanted: Vec<u32> = before.numbers().collect();
        let mut at = 0;
        loop {
            let data = match rustix::fs::seek(&source, SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(Errno::NXIO) => break,
                Err(error) => return Err(error).with_context(|| format!("looking into {}", volume.display())),
            };
            let number = data / BLOCK_BYTES as u64;
            wanted.push(u32::try_from(number)?);
            at = (number + 1) * BLOCK_BYTES as u64;
        }
        wanted.sort_unstable();
        wanted.dedup();
        for number in wanted {
            let begin = u64::from(number) * BLOCK_BYTES as u64;
            bytes.fill(0);
            let length = usize::try_from(size.saturating_sub(begin).min(BLOCK_BYTES as u64))?;
            source.read_exact_at(bytes.get_mut(..length).unwrap_or_default(), begin)?;
            let digest: [u8; 32] = Sha256::digest(&bytes).into();
            match before.0.get(&number) {
                Some(known) if known.digest == digest => content.put(number, known.clone()),
                None if bytes.iter().all(|byte| *byte == 0) => {}
                _ => content.put(number, into.add(&bytes, digest)?),
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
        for (number, block) in &self.0 {
            file.write_all_at(&block.read()?, u64::from(*number) * BLOCK_BYTES as u64)?;
        }
        Ok(())
    }
}
