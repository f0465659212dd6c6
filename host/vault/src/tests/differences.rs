//! What a disk of one point has that a disk of another has not.

use proptest::prelude::*;

use super::{faulty::FaultyStore, *};

const DISK_CHUNKS: usize = 150;

fn bytes_of(chunks: usize) -> u64 {
    chunks as u64 * CHUNK_BYTES
}

async fn disk_of(lineage: &Lineage, point: &Point) -> crate::DiskReader {
    let reader = lineage.open_point(point.sequence).await.expect("a reader");
    reader.disk(&machine_id(), &disk_id("d")).expect("a disk")
}

/// The units of two contents that differ.
fn differing(old: &[u8], new: &[u8], unit: usize) -> Vec<u64> {
    let pairs = old.chunks(unit).zip(new.chunks(unit)).enumerate();
    pairs.filter(|(_, (old, new))| old != new).map(|(index, _)| (index * unit) as u64).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("FARSHORE_LONG").is_some() { 200 } else { 20 }))]

    /// Chunks that change to others, to zeros and from zeros, on a disk whose last chunk is cut off.
    #[test]
    fn the_differences_make_the_one_disk_of_the_other(
        first in prop::collection::vec(prop::option::of(0_u64..40), DISK_CHUNKS),
        changes in prop::collection::vec((0..DISK_CHUNKS, prop::option::of(0_u64..40)), 0..20),
        unit_bits in 0_u32..=6,
        tail in 1_usize..=CHUNK / 512,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let length = (DISK_CHUNKS - 1) * CHUNK + tail * 512;
            let content = |chunks: &[Option<u64>]| {
                let of = |chunk: &Option<u64>| chunk.map_or_else(|| vec![0; CHUNK], |seed| noise(seed, CHUNK));
                let mut bytes: Vec<u8> = chunks.iter().flat_map(of).collect();
                bytes.truncate(length);
                bytes
            };
            let mut second = first.clone();
            changes.iter().for_each(|(at, chunk)| second[*at] = *chunk);
            let (old, new) = (content(&first), content(&second));
            let vault = vault_on(store(&Arc::new(InMemory::new())), context()).await;
            let lineage = lineage(&vault).await;
            let (before, after) = (commit_disk(&lineage, &old).await.expect("a point"), commit_disk(&lineage, &new).await.expect("a point"));
            let (base, disk) = (disk_of(&lineage, &before).await, disk_of(&lineage, &after).await);

            let unit = CHUNK << unit_bits;
            let pieces: Vec<_> = disk.differences(&base, unit as u64).expect("a stream").try_collect().await.expect("pieces");
            let offsets: Vec<u64> = pieces.iter().map(|piece| piece.offset).collect();
            assert_eq!(offsets, differing(&old, &new, unit), "whole units that differ, in order, and no others");
            let mut made = old;
            for piece in pieces {
                let at = usize::try_from(piece.offset).expect("small");
                assert_eq!(piece.data.len(), unit.min(length - at), "with all their bytes");
                made[at..at + piece.data.len()].copy_from_slice(&piece.data);
            }
            assert!(made == new);
        });
    }
}

#[tokio::test]
async fn what_two_points_share_is_not_read() {
    let counting = Arc::new(FaultyStore::sound(&Arc::new(InMemory::new())));
    let vault = vault_on(wrap(Arc::clone(&counting) as _), context()).await;
    let lineage = lineage(&vault).await;
    let mut content = noise(1, 4 * DISK_CHUNKS * CHUNK);
    let before = commit_disk(&lineage, &content).await.expect("a point");
    content[3 * CHUNK] ^= 1;
    let after = commit_disk(&lineage, &content).await.expect("a point");
    let (base, disk) = (disk_of(&lineage, &before).await, disk_of(&lineage, &after).await);
    let before = counting.operations();
    let pieces: Vec<_> = disk.differences(&base, CHUNK_BYTES).expect("a stream").try_collect().await.expect("pieces");
    assert!(counting.operations() - before <= 2, "one frame is read, and perhaps its pack's directory");
    assert!(pieces.len() == 1 && pieces[0].data[..] == content[3 * CHUNK..4 * CHUNK]);
}

#[tokio::test]
async fn disks_that_cannot_be_compared_are_refused() {
    let vault = vault_on(store(&Arc::new(InMemory::new())), context()).await;
    let lineage = lineage(&vault).await;
    let small = commit_disk(&lineage, &noise(1, CHUNK)).await.expect("a point");
    let large = commit_disk(&lineage, &noise(1, 2 * CHUNK)).await.expect("a point");
    let (small, large) = (disk_of(&lineage, &small).await, disk_of(&lineage, &large).await);
    let refused = |result: crate::Result<_>| matches!(result.map(drop), Err(crate::Error::InvalidRequest { .. }));
    assert!(refused(large.differences(&small, CHUNK_BYTES).map(drop)));
    for unit_bytes in [0, CHUNK_BYTES / 2, 3 * CHUNK_BYTES, bytes_of(128)] {
        assert!(refused(large.differences(&large, unit_bytes).map(drop)), "units of {unit_bytes}");
    }
    let other = vault.create_lineage(&GroupName::new("other").expect("a name"), &site("a")).await.expect("a lineage");
    let other = commit_disk(&other, &noise(1, CHUNK)).await.map(|point| (other, point)).expect("a point");
    assert!(refused(disk_of(&other.0, &other.1).await.differences(&small, CHUNK_BYTES).map(drop)));
}

#[tokio::test]
async fn a_disk_that_is_another_as_a_whole_is_read_with_as_many_requests() {
    let counting = Arc::new(FaultyStore::sound(&Arc::new(InMemory::new())));
    let vault = vault_on(wrap(Arc::clone(&counting) as _), context()).await;
    let lineage = lineage(&vault).await;
    let before = commit_disk(&lineage, &noise(1, DISK_CHUNKS * CHUNK)).await.expect("a point");
    let after = commit_disk(&lineage, &noise(2, DISK_CHUNKS * CHUNK)).await.expect("a point");
    let (base, disk) = (disk_of(&lineage, &before).await, disk_of(&lineage, &after).await);
    let mut requests = Vec::new();
    for differences in [false, true, false, true] {
        let before = counting.operations();
        let pieces =
            if differences { disk.differences(&base, 8 * CHUNK_BYTES).expect("a stream") } else { disk.pieces() };
        let read: u64 =
            pieces.map_ok(|piece| piece.data.len() as u64).try_collect::<Vec<_>>().await.expect("pieces").iter().sum();
        assert_eq!(read, bytes_of(DISK_CHUNKS));
        requests.push(counting.operations() - before);
    }
    assert_eq!(requests[2], requests[3], "once what is kept is kept: {requests:?}");
}

#[tokio::test]
async fn what_a_disk_is_said_to_have_is_compared_without_a_change() {
    let vault = vault_on(store(&Arc::new(InMemory::new())), context()).await;
    let lineage = lineage(&vault).await;
    // Two leaves and a bit: noise, then zeros, and a last chunk that is cut off.
    let length = 130 * CHUNK + 512;
    let mut content = noise(1, 100 * CHUNK);
    content.resize(length, 0);
    content[130 * CHUNK..].fill(7);
    let before = commit_disk(&lineage, &content).await.expect("a point");
    let (_, writer) = begin_next(&lineage).await.expect("a writer");
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), length as u64).await.expect("a disk");
    let compare = async |from: usize, bytes: &[u8]| {
        disk.compare((from * CHUNK) as u64, Bytes::copy_from_slice(bytes)).await.expect("compared")
    };
    for (from, to) in [(0, 10), (60, 70), (95, 105), (110, 130)] {
        assert_eq!(compare(from, &content[from * CHUNK..to * CHUNK]).await, 0, "{from}");
    }
    assert_eq!(compare(130, &content[130 * CHUNK..]).await, 0);
    // One byte in each of three chunks, of noise, of zeros, and of the end.
    let mut other = content.clone();
    for at in [63 * CHUNK + 5, 64 * CHUNK, 120 * CHUNK] {
        other[at] ^= 1;
    }
    assert_eq!(compare(60, &other[60 * CHUNK..130 * CHUNK]).await, 3 * CHUNK_BYTES);
    assert_eq!(compare(130, &[8; 512]).await, 512);
    assert_eq!(compare(0, &vec![0; CHUNK]).await, CHUNK_BYTES);
    // What was written counts, as soon as it is; and comparing has changed nothing.
    disk.write(0, Bytes::from(vec![9; CHUNK])).await.expect("written");
    assert!(disk.compare(1, Bytes::from(vec![0; CHUNK])).await.is_err(), "only whole chunks");
    let point = writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("a point");
    assert_eq!((point.parent, point.stats.bytes_changed), (Some(before.sequence), CHUNK_BYTES));
    content[..CHUNK].fill(9);
    assert!(restore(&lineage, &point).await.expect("restored") == content);
}
