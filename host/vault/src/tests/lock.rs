//! Locked vaults: what the bucket must do, what a horizon promises, and what a prune deletes. Time passes when a test says so,
//! and the bucket enforces its locks.

mod two_addresses;

use std::{collections::BTreeMap, sync::atomic::Ordering};

use farshore_core::Sequence;

use super::{
    bucket::{DAY, LockingBucket},
    *,
};
use crate::{
    CheckDepth, Error, Grace, LockMode, PruneReport, VaultLock,
    store::bucket::{BucketSettings, DefaultRetention, Versions},
};

const SPAN_DAYS: u64 = 12;

const LOCK: VaultLock = VaultLock { mode: LockMode::Compliance, span_seconds: SPAN_DAYS * DAY };

const NO_GRACE: Grace = Grace { seconds: 0, commits: 0 };

/// Where the vault of a world lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lies {
    /// At one address.
    AtOne,
    /// At two, which are folders of one bucket.
    AtTwo,
}

impl Lies {
    const ALL: [Self; 2] = [Self::AtOne, Self::AtTwo];

    fn store(self, bucket: &Arc<LockingBucket>) -> Store {
        match self {
            Self::AtOne => bucket.store(),
            Self::AtTwo => bucket.pair(),
        }
    }

    /// The vault in what is left of the bucket.
    fn left(self, objects: &Arc<InMemory>) -> Store {
        let data = || Store::from_object_store(Arc::clone(objects) as Arc<dyn ObjectStore>, "d").expect("a prefix");
        match self {
            Self::AtOne => store(objects),
            Self::AtTwo => store(objects).with_data(data()),
        }
    }
}

struct World {
    lies: Lies,
    bucket: Arc<LockingBucket>,
    vault: Vault,
    lineage: Lineage,
    kit: Kit,
    /// What every point held that was ever committed.
    history: BTreeMap<Sequence, Vec<u8>>,
    content: Vec<u8>,
}

async fn made(bucket: &Arc<LockingBucket>) -> (Vault, Kit) {
    made_in(bucket, bucket.store()).await
}

async fn made_in(bucket: &LockingBucket, store: Store) -> (Vault, Kit) {
    let options = CreateOptions { kdf: KdfParameters::FLOOR };
    let draft = Vault::draft(store, &Passphrase::new("p"), options, bucket.context()).await.expect("a draft");
    let kit = draft.kit().clone();
    (draft.create().await.expect("made"), kit)
}

impl World {
    async fn new() -> Self {
        Self::of(Lies::AtOne).await
    }

    async fn of(lies: Lies) -> Self {
        let bucket = LockingBucket::new(LockMode::Compliance, SPAN_DAYS);
        let (vault, kit) = made_in(&bucket, lies.store(&bucket)).await;
        vault.set_lock(LOCK, false).await.expect("the bucket locks");
        let lineage = lineage(&vault).await;
        Self { lies, bucket, vault, lineage, kit, history: BTreeMap::new(), content: noise(1, 40 * CHUNK) }
    }

    /// Six points, and four days later.
    async fn with_six_points(lies: Lies) -> Self {
        let mut world = Self::of(lies).await;
        for number in 0..6 {
            world.point(number).await.expect("committed");
        }
        world.bucket.clock.pass(4 * DAY);
        world
    }

    /// Commits a point that changes one chunk.
    async fn point(&mut self, chunk: usize) -> Result<Point> {
        let (head, writer) = begin_next(&self.lineage).await?;
        let disk = writer.add_disk(&machine_id(), &disk_id("d"), self.content.len() as u64).await?;
        let at = chunk % 40 * CHUNK;
        let changed = noise(1_000 + head.sequence.get(), CHUNK);
        let mut content = self.content.clone();
        content[at..at + CHUNK].copy_from_slice(&changed);
        match head.newest_point {
            None => write_all(&disk, &content).await?,
            Some(_) => disk.write(at as u64, Bytes::copy_from_slice(&content[at..at + CHUNK])).await?,
        }
        let point = writer.commit(details(&[(&machine_id(), &["d"])])).await?;
        self.history.insert(point.sequence, content.clone());
        self.content = content;
        Ok(point)
    }

    /// A writer that stores a pack and dies.
    async fn interrupted(&self, seed: u64) {
        let (_, writer) = begin_next(&self.lineage).await.expect("begun");
        let disk = writer.add_disk(&machine_id(), &disk_id("d"), 40 * CHUNK as u64).await.expect("added");
        // More than a pack holds, so that one is stored before the end.
        let before = self.packs();
        for part in 0..13 {
            disk.write(0, Bytes::from(noise(seed + part, 2 << 20))).await.expect("written");
        }
        while self.packs() == before {
            farshore_core::Clock::sleep(&SystemClock, std::time::Duration::from_millis(5)).await;
        }
    }

    fn packs(&self) -> usize {
        self.bucket.keys().iter().filter(|key| key.contains("/packs/")).count()
    }

    async fn extend(&self) -> Result<crate::ExtensionReport> {
        let plan = self.lineage.plan_extension().await?;
        self.lineage.extend(plan).await
    }

    async fn prune(&self, retention: &Retention) -> PruneReport {
        let plan = self.lineage.plan_prune(retention, NO_GRACE).await.expect("planned");
        self.lineage.prune(plan).await.expect("pruned")
    }

    fn horizon(&self, days: u64) -> Timestamp {
        crate::lock::after(farshore_core::Clock::now(&*self.bucket.clock), days * DAY)
    }

    /// T18: destroys all that is not locked at the horizon, and restores every point that stands from what is left.
    async fn audit(&self) {
        let horizon = self.lineage.head().await.expect("readable").locked_until.expect("recorded");
        let left = self.bucket.survivors(horizon).await;
        let vault = open_with(self.lies.left(&left), &self.kit, "p").await.expect("ring and header are locked too");
        let lineage = vault.lineage(&group()).await.expect("readable").expect("its first commit is locked");
        let points = lineage.points(None, usize::MAX).await.expect("all commits that lead to them are locked");
        let standing = self.lineage.points(None, usize::MAX).await.expect("readable");
        assert_eq!(points, standing, "no point that stands is lost");
        for point in &points {
            assert!(
                restore(&lineage, point).await.expect("whole") == self.history[&point.sequence],
                "{}",
                point.sequence
            );
        }
        if self.lies == Lies::AtTwo {
            let data = Store::from_object_store(left as Arc<dyn ObjectStore>, "d").expect("a good prefix");
            let vault = open_with(data, &self.kit, "p").await.expect("so they are at the data");
            let lineage = vault.lineage(&group()).await.expect("readable").expect("there");
            assert_eq!(lineage.points(None, usize::MAX).await.expect("readable"), points, "the data alone");
        }
    }
}

#[tokio::test]
async fn a_bucket_that_does_not_lock_what_the_vault_needs_locked_is_refused() {
    let good = BucketSettings {
        keeps_versions: true,
        can_lock: true,
        retention: Some(DefaultRetention { mode: LockMode::Compliance, span_seconds: SPAN_DAYS * DAY }),
    };
    let retention = |mode, span_seconds| Some(DefaultRetention { mode, span_seconds });
    let bad = [
        (BucketSettings { keeps_versions: false, ..good }, "keeps no versions"),
        (BucketSettings { can_lock: false, ..good }, "object lock is not enabled"),
        (BucketSettings { retention: None, ..good }, "no default retention"),
        (BucketSettings { retention: retention(LockMode::Governance, SPAN_DAYS * DAY), ..good }, "mode governance"),
        (
            BucketSettings { retention: retention(LockMode::Compliance, 11 * DAY), ..good },
            "is 11 days; the vault wants 12",
        ),
    ];
    let bucket = LockingBucket::new(LockMode::Compliance, SPAN_DAYS);
    let (vault, kit) = made(&bucket).await;
    let set = |settings| *bucket.settings.lock().expect("whole") = settings;
    for (settings, reason) in bad {
        set(settings);
        let refused = vault.set_lock(LOCK, false).await.expect_err(reason);
        assert!(matches!(&refused, Error::BucketUnfit { problem, .. } if problem.contains(reason)), "{refused}");
        assert_eq!(farshore_core::Coded::code(&refused).to_string(), "FS6030");
        assert_eq!(vault.lock(), None);
    }
    set(good);
    vault.set_lock(LOCK, false).await.expect("the bucket locks");
    assert_eq!(vault.lock(), Some(LOCK));
    commit_disk(&lineage(&vault).await, &noise(1, 4 * CHUNK)).await.expect("written");

    // Whoever opens the vault later asks too, before anything is written.
    let opener = Opener::Kit(Box::new(kit), Passphrase::new("p"));
    for (settings, reason) in bad {
        let vault = Vault::open(bucket.store(), &opener, bucket.context()).await.expect("reading needs no lock");
        set(settings);
        let before = bucket.keys();
        let refused = commit_disk(&lineage(&vault).await, &noise(2, 4 * CHUNK)).await.expect_err(reason);
        assert!(matches!(refused, Error::BucketUnfit { .. }), "{refused}");
        let run = farshore_core::RunId::from_bytes([1; 16]);
        assert!(matches!(vault.create_run(run, b"x").await, Err(Error::BucketUnfit { .. })));
        assert_eq!(bucket.keys(), before, "nothing was written");
        set(good);
    }
    // A handle that stays open looks again within the hour.
    let vault = Vault::open(bucket.store(), &opener, bucket.context()).await.expect("opened");
    commit_disk(&lineage(&vault).await, &noise(2, 4 * CHUNK)).await.expect("written");
    set(bad[2].0);
    commit_disk(&lineage(&vault).await, &noise(3, 4 * CHUNK)).await.expect("nobody has looked again");
    bucket.clock.pass(3_601);
    assert!(matches!(commit_disk(&lineage(&vault).await, &noise(4, 4 * CHUNK)).await, Err(Error::BucketUnfit { .. })));
}

#[tokio::test]
async fn a_store_without_versions_cannot_keep_a_locked_vault() {
    let vault = vault_on(store(&Arc::default()), context()).await;
    assert!(matches!(vault.set_lock(LOCK, false).await, Err(Error::BucketUnfit { .. })));
    let lineage = lineage(&vault).await;
    assert!(matches!(lineage.plan_extension().await, Err(Error::NotLocked)));
}

#[tokio::test]
async fn a_lock_is_made_weaker_on_purpose_only_and_impossible_spans_are_refused() {
    let world = World::new().await;
    let lock = |mode, days| VaultLock { mode, span_seconds: days * DAY };
    for weaker in [lock(LockMode::Governance, SPAN_DAYS), lock(LockMode::Compliance, SPAN_DAYS - 1)] {
        let refused = world.vault.set_lock(weaker, false).await.expect_err("weaker");
        assert!(matches!(refused, Error::LockWeaker { before: LOCK, .. }), "{refused}");
        assert_eq!(world.vault.lock(), Some(LOCK));
    }
    world.vault.set_lock(lock(LockMode::Compliance, SPAN_DAYS - 1), true).await.expect("on purpose");
    let opener = Opener::Kit(Box::new(world.kit.clone()), Passphrase::new("p"));
    let other = Vault::open(world.bucket.store(), &opener, world.bucket.context()).await.expect("opened");
    assert_eq!(other.lock(), Some(lock(LockMode::Compliance, SPAN_DAYS - 1)), "every host sees it");
    assert!(matches!(
        world.vault.set_lock(lock(LockMode::Compliance, 0), true).await,
        Err(Error::InvalidRequest { .. })
    ));
    *world.bucket.settings.lock().expect("whole") = BucketSettings {
        keeps_versions: true,
        can_lock: true,
        retention: Some(DefaultRetention { mode: LockMode::Compliance, span_seconds: 40 * DAY }),
    };
    world.vault.set_lock(lock(LockMode::Compliance, 40), false).await.expect("longer is always allowed");
}

/// Days go by with points, extensions and prunes; at every point in time what the horizon promises is true.
#[tokio::test]
async fn at_the_horizon_everything_that_stands_can_be_restored_from_what_is_locked() {
    for lies in Lies::ALL {
        weeks_and_audits(World::of(lies).await).await;
    }
}

async fn weeks_and_audits(mut world: World) {
    let rules = Retention { all_seconds: 5 * DAY, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0 };
    world.point(0).await.expect("the first");
    world.audit().await;
    let mut deleted = 0;
    for day in 1..37usize {
        world.bucket.clock.pass(DAY);
        if day % 15 == 0 {
            world.interrupted(day as u64).await;
        }
        world.point(day * 7).await.expect("the horizon is far enough");
        if day % 4 == 0 {
            deleted += world.prune(&rules).await.deleted.objects;
        }
        if day % 6 == 1 {
            world.audit().await;
        }
        if day % 2 == 0 {
            let report = world.extend().await.expect("extended");
            assert!(report.commit.is_some() && report.hidden.is_empty(), "{report:?}");
            assert!(report.locked_until >= world.horizon(SPAN_DAYS - 1), "{report:?}");
        }
        if day % 12 == 0 {
            world.audit().await;
        }
    }
    assert!(deleted > 20, "prunes deleted what was given up: {deleted}");
    world.prune(&rules).await;
}

#[tokio::test]
async fn what_an_interrupted_writer_left_does_not_make_a_horizon_untrue() {
    let mut world = World::new().await;
    world.point(0).await.expect("the first");
    world.interrupted(5).await;
    assert!(world.packs() > 1, "the writer left a pack");
    world.bucket.clock.pass(6 * DAY);
    // Nobody needs it, so its lock stays as it is, and the horizon is beyond it.
    world.extend().await.expect("extended");
    let content: Vec<u8> = noise(5, 2 << 20).into_iter().chain(noise(9, CHUNK)).collect();
    let head = world.lineage.head().await.expect("readable");
    let writer = world.lineage.begin_point(head.generation, &head.active_site).await.expect("begun");
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), 40 * CHUNK as u64).await.expect("added");
    write_all(&disk, &content).await.expect("written");
    let point = writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("committed");
    let mut whole = world.content.clone();
    whole[..content.len()].copy_from_slice(&content);
    world.history.insert(point.sequence, whole);
    assert_eq!(point.stats.packs_reused, 0, "its lock ends before the horizon");
    world.audit().await;

    // One that is locked for as long as the horizon is used, and the horizon does not pass its lock.
    world.interrupted(77).await;
    world.bucket.clock.pass(60);
    let again = world.lineage.begin_point(head.generation, &head.active_site).await.expect("begun");
    let disk = again.add_disk(&machine_id(), &disk_id("d"), 40 * CHUNK as u64).await.expect("added");
    disk.write(0, Bytes::from(noise(77, 2 << 20))).await.expect("written");
    // Meanwhile the horizon rises, over what the writer had found.
    world.bucket.clock.pass(DAY);
    let report = world.extend().await.expect("extended");
    let point = again.commit(details(&[(&machine_id(), &["d"])])).await.expect("committed");
    assert!(point.stats.packs_reused > 0, "{:?}", point.stats);
    let horizon = world.lineage.head().await.expect("readable").locked_until.expect("recorded");
    assert!(horizon < report.locked_until, "the pack that was found is locked for less long");
    let mut whole = world.history.values().last().expect("one").clone();
    whole[..2 << 20].copy_from_slice(&noise(77, 2 << 20));
    world.history.insert(point.sequence, whole);
    world.audit().await;
}

/// A first copy that lasts for days: its first packs are locked for less long than its last.
#[tokio::test]
async fn a_long_session_promises_no_more_than_its_first_object_holds() {
    let mut world = World::new().await;
    let head = world.lineage.head().await.expect("readable");
    let writer = world.lineage.begin_point(head.generation, &head.active_site).await.expect("begun");
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), 600 * CHUNK as u64).await.expect("added");
    let content = noise(3, 600 * CHUNK);
    for (number, part) in content.chunks(100 * CHUNK).enumerate() {
        for (at, piece) in part.chunks(50 * CHUNK).enumerate() {
            let offset = (number * 100 + at * 50) * CHUNK;
            disk.write(offset as u64, Bytes::copy_from_slice(piece)).await.expect("written");
        }
        farshore_core::Clock::sleep(&SystemClock, std::time::Duration::from_millis(50)).await;
        world.bucket.clock.pass(DAY / 2);
    }
    let point = writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("committed");
    world.history.insert(point.sequence, content);
    let horizon = world.lineage.head().await.expect("readable").locked_until.expect("recorded");
    assert!(horizon < world.horizon(SPAN_DAYS - 2), "{horizon}");
    world.audit().await;
}

#[tokio::test]
async fn a_writer_refuses_to_build_on_locks_that_run_out_until_they_are_made_longer() {
    let mut world = World::new().await;
    world.point(0).await.expect("the first");
    let head = world.lineage.head().await.expect("readable");
    world.bucket.clock.pass(9 * DAY - 60);
    let begun = world.lineage.begin_point(head.generation, &head.active_site).await.expect("a quarter is left");
    world.bucket.clock.pass(120);
    let before = world.bucket.keys();
    let refused = begun.commit(details(&[])).await.expect_err("the horizon is near");
    assert!(matches!(refused, Error::LockNear { horizon: Some(_), .. }), "{refused}");
    let refused = world.point(1).await.expect_err("the horizon is near");
    assert_eq!(farshore_core::Coded::code(&refused).to_string(), "FS6031");
    assert!(farshore_core::Coded::advice(&refused).expect("advice").contains("vault lock extend"), "{refused}");
    assert_eq!(world.bucket.keys(), before, "nothing was stored or committed");
    world.extend().await.expect("extended");
    world.point(1).await.expect("locked again");
    world.audit().await;
}

/// A vault that is locked when it has points already.
#[tokio::test]
async fn what_was_stored_before_the_vault_was_locked_is_locked_by_the_first_extension() {
    let bucket = LockingBucket::new(LockMode::Compliance, SPAN_DAYS);
    let locking = *bucket.settings.lock().expect("whole");
    bucket.settings.lock().expect("whole").retention = None;
    let (vault, kit) = made(&bucket).await;
    let content = noise(1, 40 * CHUNK);
    let lineage = lineage(&vault).await;
    let first = commit_disk(&lineage, &content).await.expect("committed");
    *bucket.settings.lock().expect("whole") = locking;
    vault.set_lock(LOCK, false).await.expect("the bucket locks");
    let mut world = World {
        lies: Lies::AtOne,
        bucket,
        vault,
        lineage,
        kit,
        history: BTreeMap::from([(first.sequence, content.clone())]),
        content,
    };
    let refused = world.point(1).await.expect_err("nothing of the first point is locked");
    assert!(matches!(refused, Error::LockNear { horizon: None, .. }), "{refused}");
    let report = world.extend().await.expect("extended");
    assert!(report.extended >= 5, "{report:?}");
    world.point(1).await.expect("locked");
    world.audit().await;
}

#[tokio::test]
async fn an_extension_that_fails_does_not_raise_the_horizon_and_goes_on_where_it_stopped() {
    for lies in Lies::ALL {
        an_extension_fails(lies).await;
    }
}

async fn an_extension_fails(lies: Lies) {
    let whole = World::with_six_points(lies).await;
    whole.extend().await.expect("extended");
    let needed = whole.bucket.take_calls("retain");

    let world = World::with_six_points(lies).await;
    let before = world.lineage.head().await.expect("readable");
    let plan = world.lineage.plan_extension().await.expect("planned");
    assert!(plan.extended == plan.needed && plan.needed > 12, "{plan:?}");
    assert_eq!(world.bucket.take_calls("retain"), 0, "a plan changes nothing");
    let mut done = 0;
    for made in [0, 1, 2, 2, 2, 2] {
        world.bucket.locks_left.store(made, Ordering::SeqCst);
        world.extend().await.expect_err("the store failed");
        assert_eq!(world.lineage.head().await.expect("readable"), before, "the horizon is as it was");
        done += usize::try_from(made).expect("few");
    }
    world.bucket.locks_left.store(i64::MAX, Ordering::SeqCst);
    world.bucket.take_calls("retain");
    let report = world.extend().await.expect("extended");
    let calls = world.bucket.take_calls("retain");
    assert_eq!(calls, needed - done, "what was done is not done again: {report:?}");
    let extended = usize::try_from(report.extended).expect("few");
    match lies {
        Lies::AtOne => assert_eq!(calls, extended),
        // What lies at both is locked at both, and counts once.
        Lies::AtTwo => assert!(calls > extended && calls < 2 * extended, "{calls} calls: {report:?}"),
    }
    world.audit().await;
    let again = world.extend().await.expect("nothing to do");
    assert_eq!((again.extended, world.bucket.take_calls("retain"), again.commit), (0, 0, None));
}

#[tokio::test]
async fn points_that_come_while_locks_are_made_longer_are_covered_and_prunes_are_not_missed() {
    for lies in Lies::ALL {
        points_and_prunes_meanwhile(World::of(lies).await).await;
    }
}

async fn points_and_prunes_meanwhile(mut world: World) {
    for number in 0..4 {
        world.point(number).await.expect("committed");
    }
    world.bucket.clock.pass(4 * DAY);
    let plan = world.lineage.plan_extension().await.expect("planned");
    world.bucket.clock.pass(60);
    world.point(9).await.expect("committed meanwhile");
    let report = world.lineage.extend(plan).await.expect("extended");
    assert_eq!(world.lineage.head().await.expect("readable").locked_until, Some(report.locked_until));
    world.audit().await;

    world.bucket.clock.pass(2 * DAY);
    let plan = world.lineage.plan_extension().await.expect("planned");
    world.prune(&KEEP_NEWEST).await;
    let refused = world.lineage.extend(plan).await.expect_err("a prune came between");
    assert!(matches!(refused, Error::LostRace { .. }), "{refused}");
    world.audit().await;
}

#[tokio::test]
async fn a_prune_that_brings_points_back_ends_the_horizon() {
    for lies in Lies::ALL {
        points_come_back(World::of(lies).await).await;
    }
}

async fn points_come_back(mut world: World) {
    for number in 0..4 {
        world.point(number).await.expect("committed");
    }
    world.prune(&KEEP_NEWEST).await;
    world.bucket.clock.pass(5 * DAY);
    world.extend().await.expect("extended");
    world.audit().await;
    let report = world.prune(&KEEP_ALL).await;
    assert_eq!(report.points_revived, 3);
    world.audit().await;
    assert!(matches!(world.point(7).await, Err(Error::LockNear { .. })), "the locks of what came back end earlier");
    world.extend().await.expect("extended");
    world.point(7).await.expect("locked again");
    world.audit().await;
}

#[tokio::test]
async fn what_is_condemned_waits_for_its_lock_and_goes_with_all_its_versions() {
    let mut world = World::new().await;
    // Always the same chunk: no point needs what the ones before it wrote.
    for _ in 0..4 {
        world.point(0).await.expect("committed");
    }
    let packs: Vec<_> = world.bucket.keys().into_iter().filter(|key| key.contains("/packs/")).collect();
    let condemned = &packs[1..3];
    let report = world.prune(&KEEP_NEWEST).await;
    assert!(!world.bucket.keys().iter().any(|key| key.contains("/reserves/")), "a reserve could not be given back");
    assert!(report.condemned.objects > 0, "{report:?}");
    // Without a grace the next prune would delete.
    world.point(0).await.expect("committed");
    world.bucket.clock.pass(7 * DAY);
    world.extend().await.expect("extended");
    world.bucket.clock.pass(4 * DAY);
    world.point(0).await.expect("committed");
    let report = world.prune(&KEEP_NEWEST).await;
    assert_eq!((report.deleted.objects, report.still_locked.objects), (0, 0), "the span is not over: {report:?}");
    // Somebody hides what is to be deleted, and puts something above it.
    world.bucket.overwrite(&condemned[0], b"an attacker's").await;
    for key in condemned {
        world.bucket.hide(key).await;
    }
    world.extend().await.expect("extended");
    world.bucket.clock.pass(2 * DAY);
    world.point(0).await.expect("committed");
    let report = world.prune(&KEEP_NEWEST).await;
    assert!(report.deleted.objects > 0 && report.still_locked.objects > 0, "{report:?}");
    world.audit().await;
    // What was put above is locked too, for a span of its own; it is not forgotten.
    for _ in 0..3 {
        world.extend().await.expect("extended");
        world.bucket.clock.pass(5 * DAY);
        world.point(0).await.expect("committed");
    }
    world.prune(&KEEP_NEWEST).await;
    let left = world.bucket.keys();
    assert!(left.contains(&packs[0]), "it is needed");
    assert!(!condemned.iter().any(|key| left.contains(key)), "what is hidden is found, and deleted with what hides it");
    for key in condemned {
        assert_eq!(world.bucket.store().versions(key).await.expect("listed").len(), 0, "no marker is left");
    }
    world.audit().await;
}

/// The span is made shorter: what is condemned from then on may still be locked when it is final.
#[tokio::test]
async fn what_a_store_would_not_let_go_is_tried_again_by_later_prunes() {
    for lies in Lies::ALL {
        tried_again(World::of(lies).await).await;
    }
}

async fn tried_again(mut world: World) {
    for number in 0..4 {
        world.point(number).await.expect("committed");
    }
    let shorter = VaultLock { mode: LockMode::Compliance, span_seconds: 2 * DAY };
    world.vault.set_lock(shorter, true).await.expect("on purpose");
    world.prune(&KEEP_NEWEST).await;
    world.bucket.clock.pass(3 * DAY);
    // What the prune itself has stored was locked for the shorter span only.
    world.extend().await.expect("extended");
    world.point(9).await.expect("committed");
    let there = world.bucket.keys();
    let report = world.prune(&KEEP_NEWEST).await;
    assert_eq!(report.deleted.objects, 0, "{report:?}");
    assert!(report.still_locked.objects >= 6, "{report:?}");
    let locked = report.still_locked;
    for _ in 0..3 {
        let report = world.prune(&KEEP_NEWEST).await;
        assert!(report.still_locked.objects >= locked.objects, "not forgotten: {report:?}");
    }
    assert!(there.iter().all(|key| world.bucket.keys().contains(key)));
    world.extend().await.expect("extended");
    // A prune with other things to do carries them on.
    world.point(10).await.expect("committed");
    let report = world.prune(&KEEP_NEWEST).await;
    assert!(report.commit.is_some() && report.still_locked.objects >= locked.objects, "{report:?}");
    world.bucket.clock.pass(10 * DAY);
    let report = world.prune(&KEEP_NEWEST).await;
    assert_eq!(report.still_locked.objects, 0, "{report:?}");
    let expected: Vec<_> = world.lineage.points(None, usize::MAX).await.expect("readable");
    assert_eq!(expected.len(), 1);
    assert!(restore(&world.lineage, &expected[0]).await.expect("whole") == world.history[&expected[0].sequence]);
    let left = world.bucket.keys();
    assert!(there.iter().filter(|key| !left.contains(key)).count() as u64 >= locked.objects, "they are gone");
}

/// A refusal for another reason than a lock is told as what it is.
#[tokio::test]
async fn a_caller_without_the_right_to_delete_is_not_taken_for_a_lock() {
    let mut world = World::new().await;
    for number in 0..3 {
        world.point(number).await.expect("committed");
    }
    let shorter = VaultLock { mode: LockMode::Compliance, span_seconds: 2 * DAY };
    world.vault.set_lock(shorter, true).await.expect("on purpose");
    world.prune(&KEEP_NEWEST).await;
    world.bucket.clock.pass(3 * DAY);
    // What the prune itself has stored was locked for the shorter span only.
    world.extend().await.expect("extended");
    world.point(9).await.expect("committed");
    world.bucket.hides_locks.store(true, Ordering::SeqCst);
    let plan = world.lineage.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect("planned");
    let refused = world.lineage.prune(plan).await.expect_err("refused");
    assert!(matches!(refused, Error::Store { operation: "delete a version of", .. }), "{refused}");
}

#[tokio::test]
async fn an_object_that_is_needed_and_gone_is_an_error_and_one_that_is_hidden_is_named_and_locked() {
    let mut world = World::new().await;
    for number in 0..3 {
        world.point(number).await.expect("committed");
    }
    world.bucket.clock.pass(5 * DAY);
    let pack = world.bucket.keys().into_iter().find(|key| key.contains("/packs/")).expect("one");
    world.bucket.hide(&pack).await;
    let report = world.extend().await.expect("extended");
    assert_eq!(report.hidden, std::slice::from_ref(&pack));
    assert!(world.bucket.locked_until(&pack) >= Some(report.locked_until));
    world.audit().await;

    world.bucket.clock.pass(30 * DAY);
    let version = world.bucket.store().versions(&pack).await.expect("listed").remove(&pack).expect("there");
    let first = version.values().find_map(Versions::first).expect("the object").id.clone();
    world.bucket.store().delete_version(&pack, &first).await.expect("its lock is over");
    let before = world.lineage.head().await.expect("readable");
    let missing = world.lineage.plan_extension().await.expect_err("it is gone");
    assert!(matches!(&missing, Error::ObjectMissing { object, .. } if *object == pack), "{missing}");
    assert_eq!(world.lineage.head().await.expect("readable"), before);
}

/// Somebody who may delete and overwrite, and nothing more.
#[tokio::test]
async fn what_is_hidden_is_found_without_keys_and_shown_again_and_no_object_is_touched() {
    let mut world = World::new().await;
    for number in 0..4 {
        world.point(number).await.expect("committed");
    }
    let store = world.bucket.store();
    assert_eq!(store.plan_unhide().await.expect("listed").hidden, []);
    let keys = world.bucket.keys();
    let pack = keys.iter().find(|key| key.contains("/packs/")).expect("one").clone();
    for key in &keys {
        if *key == pack {
            world.bucket.hide(key).await;
            world.bucket.overwrite(key, b"an attacker's").await;
        }
        world.bucket.hide(key).await;
    }
    let opener = Opener::Kit(Box::new(world.kit.clone()), Passphrase::new("p"));
    let open = || Vault::open(world.bucket.store(), &opener, world.bucket.context());
    assert!(matches!(open().await, Err(Error::VaultMissing { .. })));

    let plan = store.plan_unhide().await.expect("listed");
    assert_eq!(plan.hidden.len(), keys.len());
    let of_pack = plan.hidden.iter().find(|hidden| hidden.object == pack).expect("it is hidden");
    assert_eq!((of_pack.markers, of_pack.newer_versions), (2, 1));
    let report = store.unhide(plan, false, world.horizon(0)).await;
    assert_eq!((report.shown, report.removed), (keys.len() as u64 - 1, keys.len() as u64 + 1));
    assert_eq!(report.still_hidden.len(), 1, "{report:?}");
    assert!(report.still_hidden[0].object == pack && report.still_hidden[0].reason.contains("only when asked for"));
    let lineage = open().await.expect("it is there again").lineage(&group()).await.expect("readable").expect("there");
    assert_eq!(lineage.points(None, 10).await.expect("readable").len(), 4);

    // The attacker's version is locked as everything else is.
    let plan = store.plan_unhide().await.expect("listed");
    let report = store.unhide(plan.clone(), true, world.horizon(0)).await;
    assert!(report.still_hidden[0].reason.contains("locked until"), "{report:?}");
    world.extend().await.expect("what is hidden stays locked");
    world.bucket.clock.pass(8 * DAY);
    world.extend().await.expect("extended");
    world.bucket.clock.pass(5 * DAY);
    let report = store.unhide(plan, true, world.horizon(0)).await;
    assert_eq!((report.shown, report.removed, report.still_hidden.len()), (1, 1, 0), "{report:?}");
    assert_eq!(world.bucket.keys().iter().filter(|key| keys.contains(key)).count(), keys.len(), "no object is gone");
    let lineage = open().await.expect("opened").lineage(&group()).await.expect("readable").expect("there");
    for point in lineage.points(None, 10).await.expect("readable") {
        assert!(restore(&lineage, &point).await.expect("whole") == world.history[&point.sequence]);
    }
}

/// What is put in the place of what is damaged is locked from then on, and the horizon promises no more than that.
#[tokio::test]
async fn what_a_repair_writes_is_locked_as_long_as_the_horizon_says() {
    let mut world = World::new().await;
    for number in 0..4 {
        world.point(number).await.expect("committed");
    }
    world.bucket.clock.pass(3 * DAY);
    world.extend().await.expect("extended");
    let copy = world.bucket.survivors(farshore_core::Clock::now(&*world.bucket.clock)).await;
    let packs: Vec<_> = world.bucket.keys().into_iter().filter(|key| key.contains("/packs/")).collect();
    // Whoever may write can put something above what is locked.
    world.bucket.overwrite(&packs[0], b"an attacker's").await;
    world.bucket.clock.pass(4 * DAY);
    let vault = open_with(world.bucket.store(), &world.kit, "p").await.expect("opened");
    let vault = vault.reopen(world.bucket.store(), world.bucket.context());
    let plan = vault.plan_repair(Some(&store(&copy)), crate::CheckDepth::Structure).await.expect("planned");
    assert_eq!((plan.replaced.len(), plan.left.len()), (1, 0), "{plan:?}");
    let before = world.lineage.head().await.expect("readable").locked_until.expect("recorded");
    let report = vault.repair(&store(&copy), &plan).await.expect("repaired");
    assert_eq!(report.left, []);
    let horizon = world.lineage.head().await.expect("readable").locked_until.expect("recorded");
    assert!(horizon <= before.min(world.horizon(SPAN_DAYS)), "a repair raises no horizon");
    for kind in ["/collections/", "/ledgers/"] {
        let written: Vec<_> = world.bucket.keys().into_iter().filter(|key| key.contains(kind)).collect();
        assert!(!written.is_empty(), "{kind}");
        for key in written {
            assert!(world.bucket.locked_until(&key).is_some_and(|until| until >= horizon), "{key}");
        }
    }
    world.audit().await;
    // It goes on: locks are made longer, points come, and what is not needed goes when its lock has ended.
    world.extend().await.expect("extended");
    world.point(0).await.expect("committed");
    for _ in 0..4 {
        world.prune(&KEEP_NEWEST).await;
        world.bucket.clock.pass(5 * DAY);
        world.extend().await.expect("extended");
        world.point(0).await.expect("committed");
    }
    world.audit().await;
}
