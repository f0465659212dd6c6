//! Bounded memory: a store that does not keep up holds the writer back; a map that is larger than what is held still
//! comes out right.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, path::Path,
};
use tokio::sync::Semaphore;

use super::*;
use crate::{
    pipeline::bad_memory::{self, Place},
    session::{IN_FLIGHT_BYTES_MAX, PACKS_UPLOADING_MAX},
};

/// Creates wait until they are let through.
#[derive(Debug)]
struct Gate {
    inner: InMemory,
    open: Semaphore,
    waiting_bytes: AtomicU64,
    waiting_bytes_max: AtomicU64,
}

impl fmt::Display for Gate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("gate")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Gate {
    async fn put_opts(&self, to: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        if !to.as_ref().contains("/commits/") {
            let bytes = payload.content_length() as u64;
            let waiting = self.waiting_bytes.fetch_add(bytes, Ordering::SeqCst) + bytes;
            self.waiting_bytes_max.fetch_max(waiting, Ordering::SeqCst);
            self.open.acquire().await.expect("never closed").forget();
            self.waiting_bytes.fetch_sub(bytes, Ordering::SeqCst);
        }
        self.inner.put_opts(to, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        unreachable!("the vault writes objects at once")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        unreachable!("the vault deletes nothing")
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
        unreachable!("the vault copies nothing")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_stands_still_holds_the_writer_back() {
    const DISK: u64 = 1 << 30;
    const PIECE: usize = 1 << 20;
    let gate = Arc::new(Gate {
        inner: InMemory::new(),
        open: Semaphore::new(0),
        waiting_bytes: AtomicU64::new(0),
        waiting_bytes_max: AtomicU64::new(0),
    });
    let vault = vault_on(wrap(Arc::clone(&gate) as Arc<dyn ObjectStore>), context()).await;
    let lineage = lineage(&vault).await;
    let writer = begin(&lineage).await;
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), DISK).await.expect("added");
    let accepted = Arc::new(AtomicU64::new(0));
    let feed = {
        let (disk, accepted) = (disk.clone(), Arc::clone(&accepted));
        tokio::spawn(async move {
            let mut piece = noise(1, PIECE);
            for number in 0..DISK / PIECE as u64 {
                // Different in every chunk, so that nothing is deduplicated.
                for chunk in piece.chunks_exact_mut(CHUNK) {
                    chunk[..8].copy_from_slice(&number.to_le_bytes());
                }
                disk.write(number * PIECE as u64, Bytes::copy_from_slice(&piece)).await.expect("accepted");
                accepted.fetch_add(PIECE as u64, Ordering::SeqCst);
            }
        })
    };
    // The writer stops by itself: what it was allowed stays the same for a while.
    let mut before = u64::MAX;
    for _ in 0..200 {
        farshore_core::Clock::sleep(&SystemClock, std::time::Duration::from_millis(300)).await;
        let now = accepted.load(Ordering::SeqCst);
        if now == before {
            break;
        }
        before = now;
    }
    let pack = (crate::pack::PACK_BODY_BYTES_TARGET + (2 << 20)) as u64;
    let limit = 2 * IN_FLIGHT_BYTES_MAX as u64 + (PACKS_UPLOADING_MAX as u64 + 1) * pack;
    assert!(
        before > IN_FLIGHT_BYTES_MAX as u64 && before <= limit,
        "{before} bytes were accepted, {limit} are allowed"
    );
    assert!(!feed.is_finished());
    gate.open.add_permits(100_000);
    feed.await.expect("no panic");
    let point = writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("committed");
    assert_eq!(point.stats.bytes_changed, DISK);
    let waiting = gate.waiting_bytes_max.load(Ordering::SeqCst);
    assert!(waiting <= limit - IN_FLIGHT_BYTES_MAX as u64, "{waiting} bytes were waiting for the store");
}

/// More leaves than are held, in an order that comes back to them.
#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_does_not_fit_in_memory_is_swept_and_read_back() {
    const LEAF: u64 = 64 * CHUNK as u64;
    const LEAVES: u64 = 4700;
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let writer = begin(&lineage).await;
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), LEAVES * LEAF).await.expect("added");
    let content = |number: u64| {
        let mut chunk = vec![0; CHUNK];
        chunk[..8].copy_from_slice(&(number + 1).to_le_bytes());
        Bytes::from(chunk)
    };
    // Two chunks of every leaf, the second ones when the first ones have long been swept; some are overwritten.
    for round in 0..2 {
        for leaf in 0..LEAVES {
            let chunk = leaf * 64 + round * 7;
            disk.write(chunk * CHUNK as u64, content(chunk)).await.expect("accepted");
        }
    }
    for leaf in (0..LEAVES).step_by(500) {
        disk.write(leaf * LEAF, content(leaf + 1_000_000)).await.expect("accepted");
    }
    let point = writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("committed");
    let reader = lineage.open_point(point.sequence).await.expect("there");
    let mut pieces = reader.disk(&machine_id(), &disk_id("d")).expect("there").pieces();
    let mut found = 0;
    while let Some(piece) = pieces.try_next().await.expect("readable") {
        for (position, bytes) in (piece.offset / CHUNK as u64..).zip(piece.data.chunks(CHUNK)) {
            let leaf = position / 64;
            let expected =
                if position % 64 == 0 && leaf % 500 == 0 { content(leaf + 1_000_000) } else { content(position) };
            assert!(bytes == expected, "chunk {position}");
            assert!(matches!(position % 64, 0 | 7), "chunk {position}");
            found += 1;
        }
    }
    assert_eq!(found, 2 * LEAVES);
}

#[tokio::test]
async fn a_writer_that_is_dropped_leaves_nothing_visible_and_stops_its_disks() {
    let vault = vault_on(store(&Arc::default()), context()).await;
    let lineage = lineage(&vault).await;
    let writer = begin(&lineage).await;
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), 1 << 20).await.expect("added");
    disk.write(0, Bytes::from(noise(1, 1 << 20))).await.expect("accepted");
    drop(writer);
    let error = disk.write(0, Bytes::from(noise(1, 1 << 20))).await.expect_err("given up");
    assert!(matches!(error, crate::Error::Stopped { .. }), "{error}");
    assert_eq!(lineage.points(None, 1).await.expect("readable"), []);
}

#[tokio::test]
async fn a_bit_that_flips_before_the_upload_is_noticed_and_stores_nothing() {
    let whole = Arc::new(InMemory::new());
    let vault = vault_on(store(&whole), seeded(1)).await;
    let source = lineage(&vault).await;
    let text = |words: &str| words.repeat(CHUNK).as_bytes()[..8 * CHUNK].to_vec();
    for (place, content) in [
        (Place::Compressed, noise(1, 8 * CHUNK)),
        (Place::Compressed, text("rows that compress well; ")),
        (Place::Sealed, noise(2, 8 * CHUNK)),
        (Place::Sealed, text("other rows that compress well; ")),
    ] {
        let before = objects(&whole).await.len();
        bad_memory::flip(Some(place));
        let error = commit_disk(&source, &content).await.expect_err("the memory is bad");
        bad_memory::flip(None);
        assert_eq!(farshore_core::Coded::code(&error).to_string(), "FS1018", "{place:?}: {error}");
        assert_eq!(objects(&whole).await.len(), before, "{place:?}: nothing was stored");
        let point = commit_disk(&source, &content).await.expect("the memory is good again");
        assert!(restore(&source, &point).await.expect("readable") == content, "{place:?}");
    }
}
