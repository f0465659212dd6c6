//! The disk that everything is measured on: made from a seed, the same every time, and near to what disks hold.
//!
//! It is laid out in regions of 64 KiB to 2 MiB, three of a length at a time and in random order: one is empty, one is
//! text, one is noise. So a third of the disk is of each kind, whatever its size:
//!
//! - *empty*: never written (a hole in the file), but for one region in six, which was written with zeros
//! - *text*: lines as a program logs them, which zstd at level 1 makes about a third of
//! - *noise*: bytes that nothing makes smaller, as of pictures, archives and encrypted files
//!
//! One region of text or noise in eight says again what an earlier one says, as a copied file does. Half of these lie where
//! a tool with blocks of 64 KiB sees it; the others are shifted by a multiple of 4 KiB, as file systems place files, and
//! only a tool that cuts by content sees it.
//!
//! The content of a region is a stream of pages of 4 KiB, each made from its number alone: nothing is kept in memory, and
//! this process stays small. That matters: Linux counts the parent's peak into that of a child that it starts.

use std::{fs::File, os::unix::fs::FileExt as _, path::Path};

use anyhow::{Context as _, Result};

use crate::dice::Dice;

/// What disks are measured in: Farshore's unit, and the unit in which the disk is laid out and changed.
pub const CHUNK_BYTES: u64 = 64 << 10;
const PAGE_BYTES: usize = 4 << 10;
const PAGES_PER_CHUNK: u64 = CHUNK_BYTES / PAGE_BYTES as u64;
const REGION_CHUNKS_MAX: u64 = 32;
const WORDS: u64 = 1024;
/// One of so many empty regions was written with zeros.
const WRITTEN_ZEROS_ONE_IN: u64 = 6;
/// One of so many other regions repeats an earlier one.
const REPEATED_ONE_IN: u64 = 8;

/// What a stream of pages is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Compresses well.
    Text,
    /// Does not compress.
    Noise,
}

/// What is in a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Hole,
    Zeros,
    Pages { kind: Kind, stream: u64, first_page: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Region {
    first_chunk: u64,
    chunks: u64,
    content: Content,
}

/// Makes pages of a seed.
pub struct Pages {
    seed: u64,
    words: Vec<String>,
}

impl Pages {
    /// The pages of this seed.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed, u64::MAX);
        let mut letter = || char::from(b"etaoinshrdlcumwfgypbvk"[usize::try_from(dice.below(22)).expect("small")]);
        let words = (0..WORDS).map(|number| (0..3 + number % 8).map(|_| letter()).collect()).collect();
        Self { seed, words }
    }

    /// Fills a buffer of whole pages from this page of a stream on.
    pub fn fill(&self, kind: Kind, stream: u64, first_page: u64, buffer: &mut [u8]) {
        for (page, number) in buffer.chunks_mut(PAGE_BYTES).zip(first_page..) {
            let dice = Dice::new(self.seed ^ stream.rotate_left(32), number);
            match kind {
                Kind::Noise => dice.fill(page),
                Kind::Text => self.write_lines(dice, page),
            }
        }
    }

    fn write_lines(&self, mut dice: Dice, page: &mut [u8]) {
        let mut text = String::with_capacity(page.len() + 256);
        while text.len() < page.len() {
            let (second, milliseconds, process) = (dice.below(60), dice.below(1000), dice.below(30_000));
            let level = if dice.below(20) == 0 { "WARN" } else { "INFO" };
            text += &format!("2026-11-22T10:{:02}:{second:02}.{milliseconds:03}Z {level} [{process}]", dice.below(60));
            for _ in 0..4 + dice.below(10) {
                // A product of two falls off from the first word to the last, as words of a language do.
                let word = dice.below(WORDS) * dice.below(WORDS) / WORDS;
                text.push(' ');
                text += &self.words[usize::try_from(word).expect("small")];
            }
            text += &format!(" id={:08x}\n", dice.below(1 << 32));
        }
        page.copy_from_slice(&text.as_bytes()[..page.len()]);
    }
}

fn plan(seed: u64, chunks: u64) -> Vec<Region> {
    let mut dice = Dice::new(seed, u64::MAX - 1);
    let mut regions: Vec<Region> = Vec::new();
    let mut first_chunk = 0;
    while first_chunk < chunks {
        let length = 1 + dice.below(REGION_CHUNKS_MAX);
        let mut kinds = [None, Some(Kind::Text), Some(Kind::Noise)];
        kinds.swap(2, usize::try_from(dice.below(3)).expect("small"));
        kinds.swap(1, usize::try_from(dice.below(2)).expect("small"));
        for kind in kinds {
            let region_chunks = length.min(chunks - first_chunk);
            if region_chunks > 0 {
                let content = content(&mut dice, kind, &regions);
                regions.push(Region { first_chunk, chunks: region_chunks, content });
                first_chunk += region_chunks;
            }
        }
    }
    regions
}

fn content(dice: &mut Dice, kind: Option<Kind>, earlier: &[Region]) -> Content {
    let Some(kind) = kind else {
        return if dice.below(WRITTEN_ZEROS_ONE_IN) == 0 { Content::Zeros } else { Content::Hole };
    };
    let same = |region: &&Region| matches!(region.content, Content::Pages { kind: other, .. } if other == kind);
    let candidates: Vec<&Region> = earlier.iter().filter(same).collect();
    if !candidates.is_empty() && dice.below(REPEATED_ONE_IN) == 0 {
        let chosen = candidates[usize::try_from(dice.below(candidates.len() as u64)).expect("an index")];
        if let Content::Pages { kind, stream, first_page } = chosen.content {
            let shift = if dice.below(2) == 0 { 0 } else { 1 + dice.below(PAGES_PER_CHUNK - 1) };
            return Content::Pages { kind, stream, first_page: first_page + shift };
        }
    }
    Content::Pages { kind, stream: earlier.len() as u64, first_page: 0 }
}

/// Makes the disk of this seed and size, which is a whole number of MiB.
pub fn write(path: &Path, seed: u64, size_bytes: u64) -> Result<()> {
    let failed = || format!("writing {}", path.display());
    let file = File::create_new(path).with_context(failed)?;
    file.set_len(size_bytes).with_context(failed)?;
    let pages = Pages::new(seed);
    let mut buffer = Vec::new();
    for region in plan(seed, size_bytes / CHUNK_BYTES) {
        buffer.clear();
        buffer.resize(usize::try_from(region.chunks * CHUNK_BYTES).context("a region is too large")?, 0);
        match region.content {
            Content::Hole => continue,
            Content::Zeros => {}
            Content::Pages { kind, stream, first_page } => pages.fill(kind, stream, first_page, &mut buffer),
        }
        file.write_all_at(&buffer, region.first_chunk * CHUNK_BYTES).with_context(failed)?;
    }
    file.sync_all().with_context(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_seed_makes_the_same_disk_and_another_seed_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = |name: &str, seed: u64| {
            let path = folder.path().join(name);
            write(&path, seed, 4 << 20).expect("written");
            std::fs::read(&path).expect("read")
        };
        let first = made("first", 7);
        assert_eq!(first.len(), 4 << 20);
        assert!(first == made("second", 7));
        assert!(first != made("third", 8));
    }

    #[test]
    fn a_third_is_of_each_kind_and_holes_are_not_stored() {
        let size_bytes = 64 << 20;
        let regions = plan(1, size_bytes / CHUNK_BYTES);
        let share = |wanted: fn(&Content) -> bool| {
            let chunks: u64 = regions.iter().filter(|region| wanted(&region.content)).map(|region| region.chunks).sum();
            chunks as f64 / (size_bytes / CHUNK_BYTES) as f64
        };
        let is_third = |share: f64| (0.30..0.37).contains(&share);
        assert!(is_third(share(|content| matches!(content, Content::Hole | Content::Zeros))));
        assert!(is_third(share(|content| matches!(content, Content::Pages { kind: Kind::Text, .. }))));
        assert!(is_third(share(|content| matches!(content, Content::Pages { kind: Kind::Noise, .. }))));
        let end = regions.iter().fold(0, |end, region| {
            assert_eq!(region.first_chunk, end, "regions follow one another");
            end + region.chunks
        });
        assert_eq!(end, size_bytes / CHUNK_BYTES);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("disk.raw");
        write(&path, 1, size_bytes).expect("written");
        let allocated = path.metadata().expect("it is there").blocks() * 512;
        assert!(allocated < size_bytes * 3 / 4, "{allocated} of {size_bytes}");
    }
}
