//! Every point restores to exactly what a model says, whatever was written in whatever order.

use bytes::Bytes;
use farshore_core::Extent;
use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// Chunks of one disk: first, count, what to fill them with.
    Write {
        disk: usize,
        chunk: usize,
        count: usize,
        content: u8,
    },
    Zero {
        disk: usize,
        chunk: usize,
        count: usize,
    },
    /// The disk has this many more sectors of 512 bytes in the next point.
    Grow {
        disk: usize,
        sectors: usize,
    },
    Commit,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..2usize, 0..150usize, 1..40usize, any::<u8>())
            .prop_map(|(disk, chunk, count, content)| Step::Write { disk, chunk, count, content }),
        3 => (0..2usize, 0..150usize, 1..150usize).prop_map(|(disk, chunk, count)| Step::Zero { disk, chunk, count }),
        1 => (0..2usize, 1..3000usize).prop_map(|(disk, sectors)| Step::Grow { disk, sectors }),
        3 => Just(Step::Commit),
    ]
}

/// A few kinds of content: repeated often, so that dropping and deduplication happen; some compress, some do not.
fn content(kind: u8, position: usize, length: usize) -> Vec<u8> {
    match kind % 4 {
        0 => vec![kind; length],
        1 => noise(u64::from(kind), length),
        2 => (0..length).map(|byte| if byte % CHUNK < 512 { 0 } else { kind }).collect(),
        _ => noise(u64::from(kind) << 32 | position as u64, length),
    }
}

async fn play(steps: Vec<Step>, context: Context) {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context.clone()).await;
    let lineage = lineage(&vault).await;
    let names = ["d", "e"];
    let mut disks = [vec![0u8; 100 * CHUNK + 512], vec![0u8; 70 * CHUNK]];
    let mut committed = Vec::new();
    for cycle in steps.split(|step| matches!(step, Step::Commit)) {
        for step in cycle {
            if let Step::Grow { disk, sectors } = step {
                let length = disks[*disk].len() + sectors * 512;
                disks[*disk].resize(length, 0);
            }
        }
        let writer = begin(&lineage).await;
        let mut writers = Vec::new();
        for (name, content) in names.iter().zip(&disks) {
            writers.push(writer.add_disk(&machine_id(), &disk_id(name), content.len() as u64).await.expect("added"));
        }
        for step in cycle {
            match *step {
                Step::Write { disk, chunk, count, content: kind } => {
                    let start = (chunk * CHUNK).min(disks[disk].len() / CHUNK * CHUNK);
                    let end = (start + count * CHUNK).min(disks[disk].len());
                    if start == end {
                        continue;
                    }
                    let bytes = content(kind, chunk, end - start);
                    disks[disk][start..end].copy_from_slice(&bytes);
                    writers[disk].write(start as u64, Bytes::from(bytes)).await.expect("accepted");
                }
                Step::Zero { disk, chunk, count } => {
                    let start = (chunk * CHUNK).min(disks[disk].len() / CHUNK * CHUNK);
                    let end = (start + count * CHUNK).min(disks[disk].len());
                    if start == end {
                        continue;
                    }
                    disks[disk][start..end].fill(0);
                    let extent = Extent { offset: start as u64, length: (end - start) as u64 };
                    writers[disk].write_zeroes(extent).await.expect("accepted");
                }
                Step::Grow { .. } | Step::Commit => {}
            }
        }
        let point = writer.commit(details(&[(&machine_id(), &names)])).await.expect("committed");
        assert_eq!(point.stats.frames_written, point.stats.frames_verified);
        committed.push((point, disks.clone()));
    }
    // Another process reads: nothing is in its caches.
    let vault = vault_on(store(&objects), context).await;
    let lineage = vault.lineage(&group()).await.expect("readable").expect("it is there");
    let listed = lineage.points(None, usize::MAX).await.expect("readable");
    assert_eq!(listed.len(), committed.len());
    for ((point, disks), listed) in committed.iter().zip(listed.iter().rev()) {
        assert_eq!(point, listed);
        let reader = lineage.open_point(point.sequence).await.expect("it is there");
        for (name, content) in names.iter().zip(disks) {
            assert!(read_pieces(&reader, name).await.expect("readable") == *content, "{name} of {}", point.sequence);
            let disk = reader.disk(&machine_id(), &disk_id(name)).expect("it is there");
            let (from, to) = (content.len() / 3, content.len() / 3 + content.len() / 2);
            let read = disk.read(from as u64, (to - from) as u64).await.expect("readable");
            assert!(read == content[from..to], "a part of {name} of {}", point.sequence);
        }
    }
}

fn cases() -> u32 {
    if std::env::var_os("FARSHORE_LONG").is_some() { 80 } else { 24 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn every_point_restores_what_the_model_says(steps in prop::collection::vec(step(), 1..40), inline in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(play(steps, if inline { seeded(1) } else { context() }));
    }
}

#[tokio::test]
async fn reads_and_writes_outside_the_disk_are_refused() {
    let vault = vault_on(store(&Arc::default()), context()).await;
    let lineage = lineage(&vault).await;
    let writer = begin(&lineage).await;
    let size = 3 * CHUNK as u64 + 512;
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), size).await.expect("added");
    for (offset, length) in [
        (0, 0),
        (1, CHUNK),
        (0, 512),
        (3 * CHUNK as u64, CHUNK),
        (3 * CHUNK as u64, 1024),
        (4 * CHUNK as u64, CHUNK),
        (u64::MAX - 65_535, CHUNK),
    ] {
        let error = disk.write(offset, Bytes::from(vec![1; length])).await.expect_err("nonsense");
        assert!(matches!(error, crate::Error::InvalidRequest { .. }), "{offset} {length}: {error}");
        let extent = Extent { offset, length: length as u64 };
        assert!(disk.write_zeroes(extent).await.is_err(), "{offset} {length}");
    }
    let error = disk.write(0, Bytes::from(vec![1; 5 << 20])).await.expect_err("too long");
    assert!(matches!(error, crate::Error::LimitExceeded { .. }), "{error}");
    assert!(writer.add_disk(&machine_id(), &disk_id("d"), size).await.is_err(), "a disk is added once");
    disk.write(3 * CHUNK as u64, Bytes::from(vec![7; 512])).await.expect("the end of the disk");
    let point = writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("committed");
    assert_eq!(point.stats.bytes_given, 512);

    let reader = lineage.open_point(point.sequence).await.expect("it is there");
    let disk = reader.disk(&machine_id(), &disk_id("d")).expect("it is there");
    assert_eq!(disk.read(3 * CHUNK as u64 - 1, 513).await.expect("readable")[..2], [0, 7]);
    assert!(disk.read(size, 0).await.expect("nothing is there").is_empty());
    assert!(disk.read(size, 1).await.is_err());
    assert!(disk.read(u64::MAX, 2).await.is_err());
    assert!(reader.disk(&machine_id(), &disk_id("x")).is_err());
}

#[tokio::test]
async fn a_disk_that_shrank_is_refused() {
    let vault = vault_on(store(&Arc::default()), context()).await;
    let lineage = lineage(&vault).await;
    commit_disk(&lineage, &noise(1, 4 * CHUNK)).await.expect("committed");
    let writer = begin(&lineage).await;
    let error = writer.add_disk(&machine_id(), &disk_id("d"), 3 * CHUNK as u64).await.expect_err("it shrank");
    assert!(matches!(error, crate::Error::DiskShrank { .. }), "{error}");
}

#[tokio::test]
async fn a_point_names_exactly_the_disks_that_were_added() {
    let vault = vault_on(store(&Arc::default()), context()).await;
    let lineage = lineage(&vault).await;
    for named in [&["d", "e", "f"][..], &["d"], &["d", "d", "e"]] {
        let writer = begin(&lineage).await;
        for disk in ["d", "e"] {
            writer.add_disk(&machine_id(), &disk_id(disk), CHUNK as u64).await.expect("added");
        }
        let error = writer.commit(details(&[(&machine_id(), named)])).await.expect_err("another set of disks");
        assert!(matches!(error, crate::Error::InvalidRequest { .. }), "{error}");
    }
    assert_eq!(lineage.points(None, 10).await.expect("readable"), []);
}
