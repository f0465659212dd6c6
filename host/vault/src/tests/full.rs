//! T19: the store is full. At whichever write that happens, nothing that was acknowledged is harmed, reading goes on, and a prune
//! deletes although next to nothing can be written.

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use farshore_core::{RunId, Sequence};
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, path::Path,
};

use super::{whole::lines, *};
use crate::{Error, Grace};

const NO_GRACE: Grace = Grace { seconds: 0, commits: 0 };

/// What one deletion may write, by the promise.
const DELETION_BYTES_MAX: u64 = 64 * 1024;

/// A store in memory with so much room left; what is deleted does not come back as room, as on a store that frees it later.
#[derive(Debug)]
struct Full {
    inner: Arc<InMemory>,
    /// So many more objects, and bytes, can be written.
    writes_left: AtomicUsize,
    bytes_left: AtomicU64,
    written: AtomicU64,
    refused: AtomicUsize,
}

impl Full {
    fn new(inner: &Arc<InMemory>, writes_left: usize, bytes_left: u64) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::clone(inner),
            writes_left: AtomicUsize::new(writes_left),
            bytes_left: AtomicU64::new(bytes_left),
            written: AtomicU64::new(0),
            refused: AtomicUsize::new(0),
        })
    }

    fn written(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    /// Takes room for an object, if there is enough.
    fn take(&self, bytes: u64) -> bool {
        let less = |left: usize| left.checked_sub(1);
        let fits = self.bytes_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(bytes));
        fits.is_ok() && self.writes_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }
}

impl fmt::Display for Full {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("full")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Full {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let bytes = payload.content_length() as u64;
        if !self.take(bytes) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(object_store::Error::Generic { store: "full", source: source.into() });
        }
        self.written.fetch_add(bytes, Ordering::SeqCst);
        self.inner.put_opts(location, payload, options).await
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
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(paths)
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

/// What was acknowledged.
#[derive(Default)]
struct Acknowledged {
    points: BTreeMap<Sequence, Vec<u8>>,
    entries: usize,
    pin: Option<Sequence>,
    refused: usize,
}

impl Acknowledged {
    /// What the step gave; nothing if the store was full.
    fn take<T>(&mut self, outcome: Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                assert!(matches!(error, Error::Store { .. }), "full is an error of the store: {error}");
                self.refused += 1;
                None
            }
        }
    }
}

/// Commits points, writes a journal, fences, pins and prunes; what fails is left, and the next is tried.
async fn work(store: Store) -> Acknowledged {
    let mut done = Acknowledged::default();
    let vault = vault_on(store, context()).await;
    let Some(lineage) = done.take(vault.create_lineage(&group(), &site("a")).await) else { return done };
    let run = RunId::from_bytes([4; 16]);
    for number in 0..6u64 {
        let mut content = lines(1, 20);
        content[..CHUNK].copy_from_slice(&lines(100 + number, 1));
        if let Some(point) = done.take(commit_disk(&lineage, &content).await) {
            done.points.insert(point.sequence, content);
        }
        let next = done.entries as u64 + 1;
        let written = match next {
            1 => vault.create_run(run, b"entry").await,
            _ => vault.append_run(run, next, b"entry").await,
        };
        done.entries += usize::from(done.take(written).is_some());
        if number == 2 {
            let head = lineage.head().await.expect("readable");
            done.take(lineage.raise_generation(&head.active_site, "a test", &head).await);
            if let Some(newest) = done.points.keys().next_back().copied() {
                done.pin = done.take(lineage.pin(run, newest).await).map(|()| newest);
            }
        }
        if number % 2 == 1 {
            let plan = lineage.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect("planning only reads");
            done.take(lineage.prune(plan).await);
        }
    }
    done
}

async fn expect_unharmed(objects: &Arc<InMemory>, done: &Acknowledged, case: &str) {
    let vault = vault_on(store(objects), context()).await;
    let report = vault.check(crate::CheckDepth::Full, &|_| {}).await.expect("checked");
    assert_eq!(report.findings, [], "{case}");
    if done.entries > 0 {
        let entries = vault.run_entries(RunId::from_bytes([4; 16])).await.expect("readable");
        assert_eq!(entries.len(), done.entries, "{case}");
    }
    let Some(lineage) = vault.lineage(&group()).await.expect("readable") else {
        assert!(done.points.is_empty(), "{case}");
        return;
    };
    let standing = lineage.points(None, usize::MAX).await.expect("readable");
    for point in &standing {
        let content = &done.points.get(&point.sequence).unwrap_or_else(|| panic!("{case}: a point out of nowhere"));
        assert!(restore(&lineage, point).await.expect("readable") == **content, "{case}: {}", point.sequence);
    }
    // What the rules gave up is gone; never the newest, nor what is pinned.
    let stands = |sequence: &Sequence| standing.iter().any(|point| point.sequence == *sequence);
    assert!(done.points.keys().next_back().is_none_or(stands), "{case}: the newest point that was acknowledged");
    assert!(done.pin.as_ref().is_none_or(stands), "{case}: the pinned point");
}

#[tokio::test]
async fn a_store_that_is_full_at_any_write_harms_nothing() {
    let objects = Arc::new(InMemory::new());
    let sound = Full::new(&objects, usize::MAX, u64::MAX);
    let done = work(wrap(Arc::clone(&sound) as Arc<dyn ObjectStore>)).await;
    assert_eq!((done.refused, done.points.len(), done.entries), (0, 6, 6));
    expect_unharmed(&objects, &done, "with room").await;
    let writes = usize::MAX - sound.writes_left.load(Ordering::SeqCst);
    assert!(writes > 30, "{writes} objects are written");
    for room in 0..writes {
        // Full from here on.
        let objects = Arc::new(InMemory::new());
        let full = Full::new(&objects, room, u64::MAX);
        let done = work(wrap(Arc::clone(&full) as Arc<dyn ObjectStore>)).await;
        assert!(
            done.refused > 0 && full.refused.load(Ordering::SeqCst) > 0,
            "full after {room} writes, and nobody saw it"
        );
        expect_unharmed(&objects, &done, &format!("full after {room} writes")).await;
        // With room again, everything goes on.
        let vault = vault_on(store(&objects), context()).await;
        let there = lineage(&vault).await;
        let content = lines(7, 20);
        let point = commit_disk(&there, &content).await.expect("there is room again");
        assert!(restore(&there, &point).await.expect("readable") == content);
    }
}

/// A vault with so many points, of which all but the newest are given up: how many bytes each prune writes until all is deleted, the
/// most of them, and how much is deleted.
async fn deletion(points: u64) -> (u64, u64) {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    // Noise in packs of more than the size of which several are collected: nothing is moved.
    for number in 0..points {
        commit_disk(&lineage, &noise(number, 20 * CHUNK)).await.expect("committed");
    }
    let before: u64 = self::objects(&objects).await.iter().map(|(_, bytes)| bytes).sum();
    let (mut most, mut prunes) = (0, 0);
    loop {
        let room = if points <= 50 { DELETION_BYTES_MAX } else { u64::MAX };
        let full = Full::new(&objects, usize::MAX, room);
        let vault = vault_on(wrap(Arc::clone(&full) as Arc<dyn ObjectStore>), context()).await;
        let there = vault.lineage(&group()).await.expect("readable").expect("there");
        let plan = there.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect("planned");
        if plan.is_empty() {
            break;
        }
        there.prune(plan).await.expect("a deletion needs little room");
        most = most.max(full.written());
        prunes += 1;
        assert!(prunes < 9, "it never ends");
    }
    let after: u64 = self::objects(&objects).await.iter().map(|(_, bytes)| bytes).sum();
    (most, before - after)
}

/// What a prune writes to delete is a ledger, a commit and a boundary. The ledger names each point that was judged and each object
/// that is condemned, so it grows with them: 49 bytes a point and 29 an object.
#[tokio::test]
async fn a_prune_deletes_in_a_full_store_with_64_kib_of_room() {
    let (most, deleted) = deletion(40).await;
    assert!(most <= DELETION_BYTES_MAX, "{most} bytes were written to delete");
    assert!(deleted > 39 * 20 * CHUNK as u64, "{deleted} bytes were deleted");
    let (more, _) = deletion(80).await;
    let per_point = (more - most) as f64 / 40.0;
    println!("{most} bytes were written to delete 39 points, {more} for 79: {per_point:.0} bytes a point");
    // A point, its commit, its pack and its map pack: what FORMAT.md says they take in a ledger.
    assert!(per_point < f64::from(49 + 3 * 29 + 40), "{per_point}");
}
