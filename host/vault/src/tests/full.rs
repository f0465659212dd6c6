//! T19: the store is full. At whichever write that happens, nothing that was acknowledged is harmed, reading goes on, and a prune
//! deletes although next to nothing can be written.

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use farshore_core::{Clock, RunId, Sequence};
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, path::Path,
};

use super::{whole::lines, *};
use crate::{Error, Grace, Means};

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
    /// Bytes that were written, but for reserves.
    written: AtomicU64,
    refused: AtomicUsize,
    /// What is deleted makes room.
    gives_back: bool,
}

impl Full {
    fn new(inner: &Arc<InMemory>, writes_left: usize, bytes_left: u64) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::clone(inner),
            writes_left: AtomicUsize::new(writes_left),
            bytes_left: AtomicU64::new(bytes_left),
            written: AtomicU64::new(0),
            refused: AtomicUsize::new(0),
            gives_back: false,
        })
    }

    /// One in which what is deleted makes room.
    fn giving_back(inner: &Arc<InMemory>, bytes_left: u64) -> Arc<Self> {
        let mut full = Self::new(inner, usize::MAX, bytes_left);
        Arc::get_mut(&mut full).expect("it is not shared yet").gives_back = true;
        full
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
        if !location.as_ref().contains("/reserves/") {
            self.written.fetch_add(bytes, Ordering::SeqCst);
        }
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
        if !self.gives_back {
            return self.inner.delete_stream(paths);
        }
        let paths: Vec<_> = futures::executor::block_on_stream(paths).collect();
        for path in paths.iter().flatten() {
            let there = futures::executor::block_on(self.inner.head(path));
            self.bytes_left.fetch_add(there.map_or(0, |meta| meta.size), Ordering::SeqCst);
        }
        self.inner.delete_stream(futures::stream::iter(paths).boxed())
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

/// Which store is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// That of a vault with one address.
    One,
    /// That of the metadata of a vault with two; its data has room.
    Metadata,
    /// That of its data.
    Data,
}

impl Place {
    /// The vault's store, of which this place is on `full`; both have their objects in one store in memory.
    fn store(self, full: Arc<dyn ObjectStore>, objects: &Arc<InMemory>) -> Store {
        let with_room = Arc::clone(objects) as Arc<dyn ObjectStore>;
        let (metadata, data) = match self {
            Self::One => return wrap(full),
            Self::Metadata => (full, with_room),
            Self::Data => (with_room, full),
        };
        let at = |objects, prefix| Store::from_object_store(objects, prefix).expect("a good prefix");
        at(metadata, "m").with_data(at(data, "d"))
    }

    /// The same with room.
    fn with_room(self, objects: &Arc<InMemory>) -> Store {
        self.store(Arc::clone(objects) as Arc<dyn ObjectStore>, objects)
    }
}

async fn expect_unharmed(place: Place, objects: &Arc<InMemory>, done: &Acknowledged, case: &str) {
    let vault = vault_on(place.with_room(objects), context()).await;
    let mut findings = vault.check(crate::CheckDepth::Full, &|_| {}).await.expect("checked").findings;
    if place == Place::Data {
        // What nobody was told of may be at the metadata only.
        findings.retain(|finding| finding.means != Some(Means::NotAtBoth));
    }
    assert_eq!(findings, [], "{case}");
    if done.entries > 0 {
        let entries = vault.run_entries(RunId::from_bytes([4; 16])).await.expect("readable");
        assert_eq!(entries.len(), done.entries, "{case}");
    }
    if place != Place::One {
        // What was acknowledged is at the data.
        let data = Store::from_object_store(Arc::clone(objects) as Arc<dyn ObjectStore>, "d").expect("a good prefix");
        expect_points(&vault_on(data, context()).await, Place::Data, done, &format!("{case}, from the data")).await;
    }
    expect_points(&vault, place, done, case).await;
}

async fn expect_points(vault: &Vault, place: Place, done: &Acknowledged, case: &str) {
    let Some(lineage) = vault.lineage(&group()).await.expect("readable") else {
        assert!(done.points.is_empty(), "{case}");
        return;
    };
    let standing = lineage.points(None, usize::MAX).await.expect("readable");
    for point in &standing {
        let restored = restore(&lineage, point).await.expect("readable");
        match done.points.get(&point.sequence) {
            Some(content) => assert!(restored == *content, "{case}: {}", point.sequence),
            None => assert_eq!(place, Place::Data, "{case}: a point out of nowhere"),
        }
    }
    // What the rules gave up is gone; never the newest, nor what is pinned.
    let stands = |sequence: &Sequence| standing.iter().any(|point| point.sequence == *sequence);
    assert!(done.points.keys().next_back().is_none_or(stands), "{case}: the newest point that was acknowledged");
    assert!(done.pin.as_ref().is_none_or(stands), "{case}: the pinned point");
}

async fn full_at_any_write(place: Place) {
    let objects = Arc::new(InMemory::new());
    let sound = Full::new(&objects, usize::MAX, u64::MAX);
    let done = work(place.store(Arc::clone(&sound) as Arc<dyn ObjectStore>, &objects)).await;
    assert_eq!((done.refused, done.points.len(), done.entries), (0, 6, 6));
    expect_unharmed(place, &objects, &done, "with room").await;
    let writes = usize::MAX - sound.writes_left.load(Ordering::SeqCst);
    assert!(writes > 20, "{writes} objects are written");
    for room in 0..writes {
        // Full from here on.
        let case = format!("{place:?} is full after {room} writes");
        let objects = Arc::new(InMemory::new());
        let full = Full::new(&objects, room, u64::MAX);
        let done = work(place.store(Arc::clone(&full) as Arc<dyn ObjectStore>, &objects)).await;
        assert!(full.refused.load(Ordering::SeqCst) > 0, "{case}, and nobody saw it");
        // A reserve that does not fit is nobody's failure.
        assert!(done.refused > 0 || room + 1 == writes, "{case}, and nobody was told");
        expect_unharmed(place, &objects, &done, &case).await;
        // With room again, everything goes on.
        let vault = vault_on(place.with_room(&objects), context()).await;
        let there = lineage(&vault).await;
        let content = lines(7, 20);
        let point = commit_disk(&there, &content).await.expect("there is room again");
        assert!(restore(&there, &point).await.expect("readable") == content);
        assert_eq!(vault.check(crate::CheckDepth::Full, &|_| {}).await.expect("checked").findings, [], "{case}");
    }
}

#[tokio::test]
async fn a_store_that_is_full_at_any_write_harms_nothing() {
    full_at_any_write(Place::One).await;
}

#[tokio::test]
async fn one_of_two_addresses_that_is_full_at_any_write_harms_nothing() {
    full_at_any_write(Place::Metadata).await;
    full_at_any_write(Place::Data).await;
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

/// The reserves that there are, by their bytes.
async fn reserves(objects: &InMemory) -> Vec<u64> {
    let there = self::objects(objects).await;
    there.into_iter().filter(|(key, _)| key.contains("/reserves/")).map(|(_, bytes)| bytes).collect()
}

/// A point that changes one chunk, or nothing.
async fn point(lineage: &Lineage, seed: Option<u64>) -> Sequence {
    let writer = begin(lineage).await;
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), CHUNK as u64).await.expect("added");
    if let Some(seed) = seed {
        disk.write(0, Bytes::from(noise(seed, CHUNK))).await.expect("accepted");
    }
    writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("committed").sequence
}

/// The ledger of a long history alone has more than 64 KiB.
#[tokio::test]
async fn a_long_history_is_pruned_in_a_full_store_and_the_reserve_is_made_again() {
    const OLD: u64 = 300;
    const YOUNG: u64 = 2_000;
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), seeded(1)).await;
    let lineage = lineage(&vault).await;
    for seed in 0..OLD {
        point(&lineage, Some(seed)).await;
    }
    SystemClock.sleep(std::time::Duration::from_secs(2)).await;
    let began = SystemClock.monotonic();
    for _ in 0..YOUNG {
        point(&lineage, None).await;
    }
    // Every point stands that is younger than the idle ones were when the last of them came.
    let young = Retention { all_seconds: (SystemClock.monotonic() - began).as_secs() + 1, ..KEEP_NEWEST };
    // A prune that finds nothing to do sees to it that there is a reserve.
    let plan = lineage.plan_prune(&KEEP_ALL, NO_GRACE).await.expect("planned");
    assert!(plan.is_empty());
    lineage.prune(plan).await.expect("pruned");
    let [reserve] = reserves(&objects).await[..] else { panic!("one reserve") };
    assert!(reserve >= 2 * (OLD + YOUNG) * 49, "{reserve}");

    let without = Arc::new(objects.fork());
    for (key, _) in self::objects(&without).await.iter().filter(|(key, _)| key.contains("/reserves/")) {
        without.delete(&Path::from(key.as_str())).await.expect("deleted");
    }
    for (objects, has_reserve) in [(&without, false), (&objects, true)] {
        let full = Full::giving_back(objects, DELETION_BYTES_MAX);
        let vault = vault_on(wrap(full.clone()), seeded(3)).await;
        let there = vault.lineage(&group()).await.expect("readable").expect("there");
        let plan = there.plan_prune(&young, NO_GRACE).await.expect("planned");
        assert!(plan.dropped.len() as u64 >= OLD && plan.points_kept >= YOUNG - OLD, "{:?}", plan.points_kept);
        let pruned = there.prune(plan).await;
        if !has_reserve {
            assert!(matches!(pruned, Err(Error::Store { .. })), "its ledger alone is too large: {pruned:?}");
            continue;
        }
        assert!(pruned.expect("there was a reserve").commit.is_some());
        assert!(full.written() > DELETION_BYTES_MAX, "{} bytes were written", full.written());
        assert_eq!(reserves(objects).await.len(), 1, "what room is left is kept");
        // As full as before, though there is a reserve.
        full.bytes_left.store(DELETION_BYTES_MAX, Ordering::SeqCst);
        let plan = there.plan_prune(&young, NO_GRACE).await.expect("planned");
        let report = there.prune(plan).await.expect("what was condemned is deleted");
        assert!(report.deleted.objects >= 2 * OLD && report.deleted.bytes > (OLD - 1) * CHUNK as u64, "{report:?}");
        assert!(matches!(reserves(objects).await[..], [again] if again >= reserve), "it is there again");
    }
    let report =
        vault_on(store(&objects), context()).await.check(crate::CheckDepth::Full, &|_| {}).await.expect("checked");
    assert_eq!(report.findings, []);
}

/// What is needed is not moved when there is no room for it; what is not needed goes all the same.
#[tokio::test]
async fn a_prune_of_a_full_store_moves_nothing_and_deletes_what_it_can() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let there = lineage(&vault).await;
    let mut content = noise(1, 24 * CHUNK);
    for number in 0..24 {
        content[number * CHUNK..(number + 1) * CHUNK].copy_from_slice(&noise(100 + number as u64, CHUNK));
        commit_disk(&there, &content).await.expect("committed");
    }
    let plan = there.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect("planned");
    there.prune(plan).await.expect("pruned");
    let full = Full::new(&objects, usize::MAX, DELETION_BYTES_MAX);
    let vault = vault_on(wrap(full.clone()), context()).await;
    let lineage = vault.lineage(&group()).await.expect("readable").expect("there");
    let plan = lineage.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect("planned");
    assert!(plan.collected.objects > 0 && plan.deleted.objects > 0, "{plan:?}");
    let report = lineage.prune(plan).await.expect("pruned");
    assert!(report.deleted.objects > 0 && report.not_stored.is_some(), "{report:?}");
    assert_eq!(report.problems, [""; 0], "nothing is damaged");
    let packs = |there: Vec<(String, u64)>| there.iter().filter(|(key, _)| key.contains("/packs/")).count();
    assert!(packs(self::objects(&objects).await) > 16, "what is needed stays where it is");
    let restored = async || {
        let vault = vault_on(store(&objects), context()).await;
        assert_eq!(vault.check(crate::CheckDepth::Full, &|_| {}).await.expect("checked").findings, []);
        let lineage = vault.lineage(&group()).await.expect("readable").expect("there");
        let newest = lineage.points(None, 1).await.expect("readable").remove(0);
        restore(&lineage, &newest).await.expect("readable")
    };
    assert!(restored().await == content);
    for _ in 0..3 {
        let plan = there.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect("planned");
        there.prune(plan).await.expect("there is room again");
    }
    assert!(packs(self::objects(&objects).await) < 3 && restored().await == content);
}
