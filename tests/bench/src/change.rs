//! What happens on the disk between two copies: one hundredth of it is written, in scattered runs, by the machine.
//!
//! The bytes go through the machine's own device in QEMU, as a guest's would, because that is where changes are followed.
//! The other tools read the same file afterwards. QEMU writes what `qemu-io` finds wrong to its own standard output, so
//! the file itself is asked whether the bytes are there.

use std::{collections::BTreeSet, fs, fs::File, os::unix::fs::FileExt as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use farshore_e2e::Guest;
use serde_json::json;

use crate::{
    dice::Dice,
    image::{CHUNK_BYTES, Kind, Pages},
};

/// One of so many chunks is written.
const CHANGED_ONE_IN: u64 = 100;
const RUN_CHUNKS_MAX: u64 = 8;
/// Streams of the disk's own content are numbered from 0.
const FIRST_STREAM: u64 = 1 << 40;

/// Some chunks that are written together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    first_chunk: u64,
    chunks: u64,
}

/// The runs that are written on a disk of this size, by their place. No two of them overlap.
pub fn plan(seed: u64, disk_bytes: u64) -> Vec<Run> {
    let mut dice = Dice::new(seed, u64::MAX - 2);
    let chunks = disk_bytes / CHUNK_BYTES;
    let mut left = (chunks / CHANGED_ONE_IN).max(1).min(chunks);
    let mut taken = BTreeSet::new();
    let mut runs = Vec::new();
    // Ends: a run of one chunk fits wherever a chunk is free, and 99 of 100 stay free.
    while left > 0 {
        let first_chunk = dice.below(chunks);
        let length = (1 + dice.below(RUN_CHUNKS_MAX)).min(left).min(chunks - first_chunk);
        let range = first_chunk..first_chunk + length;
        if range.clone().all(|chunk| !taken.contains(&chunk)) {
            taken.extend(range);
            runs.push(Run { first_chunk, chunks: length });
            left -= length;
        }
    }
    runs.sort_unstable_by_key(|run| run.first_chunk);
    runs
}

/// Writes the runs through the first device of a machine, flushes, and looks at the file. `folder` is for a file of the
/// bench's own.
pub fn apply(guest: &Guest, image: &Path, folder: &Path, seed: u64, runs: &[Run]) -> Result<()> {
    let source = folder.join("written");
    let source_text = source.to_str().filter(|path| !path.contains([' ', '"', '\\'])).with_context(|| {
        format!("{} cannot stand in a command for QEMU: set TMPDIR to a plainer path", source.display())
    })?;
    let pages = Pages::new(seed);
    let mut control = guest.control()?;
    let mut run_io = |io: &str| {
        let line = format!("qemu-io -d /machine/peripheral/vd0/virtio-backend \"{io}\"");
        control.execute("human-monitor-command", json!({ "command-line": line }))
    };
    let mut wanted = Vec::new();
    for (number, run) in (FIRST_STREAM..).zip(runs) {
        fill(&pages, number, *run, &mut wanted)?;
        fs::write(&source, &wanted).with_context(|| format!("writing {}", source.display()))?;
        run_io(&format!("write -q -s {source_text} {} {}", run.first_chunk * CHUNK_BYTES, run.chunks * CHUNK_BYTES))?;
    }
    run_io("flush")?;
    let file = File::open(image).with_context(|| format!("opening {}", image.display()))?;
    let mut found = Vec::new();
    for (number, run) in (FIRST_STREAM..).zip(runs) {
        fill(&pages, number, *run, &mut wanted)?;
        found.clear();
        found.resize(wanted.len(), 0);
        file.read_exact_at(&mut found, run.first_chunk * CHUNK_BYTES).context("reading the disk")?;
        ensure!(found == wanted, "QEMU did not write what it was asked to write at chunk {}", run.first_chunk);
    }
    Ok(())
}

/// Every other run is text, the others are noise.
fn fill(pages: &Pages, number: u64, run: Run, buffer: &mut Vec<u8>) -> Result<()> {
    buffer.clear();
    buffer.resize(usize::try_from(run.chunks * CHUNK_BYTES).context("a run is too large")?, 0);
    let kind = if number.is_multiple_of(2) { Kind::Text } else { Kind::Noise };
    pages.fill(kind, number, 0, buffer);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundredth_of_the_disk_changes_in_scattered_runs_that_do_not_overlap() {
        for mebibytes in [16_u64, 64, 2048] {
            let disk_bytes = mebibytes << 20;
            let runs = plan(3, disk_bytes);
            assert_eq!(runs, plan(3, disk_bytes), "the seed decides");
            let chunks: u64 = runs.iter().map(|run| run.chunks).sum();
            assert_eq!(chunks, disk_bytes / CHUNK_BYTES / 100);
            let ends = runs.iter().map(|run| run.first_chunk + run.chunks);
            assert!(ends.clone().zip(runs.iter().skip(1)).all(|(end, next)| end <= next.first_chunk));
            assert!(ends.max().expect("there are runs") * CHUNK_BYTES <= disk_bytes);
            assert!(runs.iter().all(|run| (1..=RUN_CHUNKS_MAX).contains(&run.chunks)));
        }
    }
}
