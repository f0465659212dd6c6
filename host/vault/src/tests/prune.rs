//! What no point needs is deleted, and nothing else: whatever comes between, and wherever it is interrupted.

use std::collections::BTreeMap;

use farshore_core::{Clock, RunId, Sequence};
use object_store::ObjectStoreExt;
use proptest::prelude::*;

use super::{
    faulty::{Fault, FaultyStore},
    *,
};
use crate::{Error, Grace, PruneReport};

/// What is condemned by one prune is deleted by the next.
pub(super) const NO_GRACE: Grace = Grace { seconds: 0, commits: 0 };

pub(super) fn run(number: u8) -> RunId {
    RunId::from_bytes([number; 16])
}

pub(super) async fn prune(lineage: &Lineage, retention: &Retention, grace: Grace) -> Result<PruneReport> {
    let plan = lineage.plan_prune(retention, grace).await?;
    lineage.prune(plan).await
}

/// Prunes until there is nothing left to do.
pub(super) async fn prune_to_the_end(lineage: &Lineage, retention: &Retention) {
    for _ in 0..12 {
        if prune(lineage, retention, NO_GRACE).await.expect("pruned").commit.is_none() {
            return;
        }
    }
    panic!("it never ends");
}

/// Points of one disk of so many chunks; each changes one chunk of the one before.
pub(super) async fn history(lineage: &Lineage, chunks: usize, points: u64) -> BTreeMap<Sequence, Vec<u8>> {
    let mut content = match lineage.points(None, 1).await.expect("readable").first() {
        Some(newest) => restore(lineage, newest).await.expect("readable"),
        None => noise(7, chunks * CHUNK),
    };
    let mut history = BTreeMap::new();
    for number in 0..points {
        let at = usize::try_from(number).expect("few") * 7 % chunks * CHUNK;
        let changed = noise(1_000 * lineage.head().await.expect("readable").sequence.get(), CHUNK);
        content[at..at + CHUNK].copy_from_slice(&changed);
        let point = commit_changes(lineage, &content, at..at + CHUNK).await.expect("committed");
        history.insert(point.sequence, content.clone());
    }
    history
}

/// Commits a point of which only this range differs from the one before, if there is one.
async fn commit_changes(lineage: &Lineage, content: &[u8], changed: std::ops::Range<usize>) -> Result<Point> {
    let (head, writer) = begin_next(lineage).await?;
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), content.len() as u64).await?;
    match head.newest_point {
        None => write_all(&disk, content).await?,
        Some(_) => disk.write(changed.start as u64, Bytes::copy_from_slice(&content[changed])).await?,
    }
    writer.commit(details(&[(&machine_id(), &["d"])])).await
}

/// That exactly these points are there, and each restores to what it was, for a handle that knows nothing yet.
pub(super) async fn expect_points(objects: &Arc<InMemory>, expected: &BTreeMap<Sequence, Vec<u8>>) {
    let vault = vault_on(store(objects), context()).await;
    let lineage = vault.lineage(&group()).await.expect("readable").expect("there");
    let points = lineage.points(None, usize::MAX).await.expect("readable");
    let listed: Vec<_> = points.iter().rev().map(|point| point.sequence).collect();
    assert_eq!(listed, expected.keys().copied().collect::<Vec<_>>());
    for point in &points {
        assert!(restore(&lineage, point).await.expect("readable") == expected[&point.sequence], "{}", point.sequence);
        assert_eq!(lineage.point(point.sequence).await.expect("there"), *point);
    }
    let report = vault.check(crate::CheckDepth::Full, &|_| {}).await.expect("checked");
    assert_eq!((report.findings, report.points_checked), (Vec::new(), points.len() as u64));
}

/// But for the reserve, whose bytes do not grow with the data.
async fn stored_bytes(objects: &InMemory) -> u64 {
    let there = self::objects(objects).await;
    there.iter().filter(|(key, _)| !key.contains("/reserves/")).map(|(_, bytes)| bytes).sum()
}

#[tokio::test]
async fn what_only_dropped_points_needed_is_deleted_after_its_grace() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let mut history = history(&lineage, 40, 10).await;
    let before = self::objects(&objects).await;
    let newest = *history.keys().next_back().expect("some");

    let plan = lineage.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect("planned");
    assert_eq!((plan.dropped.len(), plan.points_kept, plan.judged), (9, 1, newest));
    assert_eq!(self::objects(&objects).await, before, "a plan changes nothing");
    let report = lineage.prune(plan).await.expect("pruned");
    assert_eq!(report.deleted.objects, 0, "what is condemned waits");
    for (key, _) in &before {
        assert!(self::objects(&objects).await.iter().any(|(there, _)| there == key), "{key} waits for its grace");
    }
    // Dropped points are not shown any more, though their objects are there.
    let dropped = history.keys().next().copied().expect("some");
    history.retain(|sequence, _| *sequence == newest);
    expect_points(&objects, &history).await;
    let error = lineage.open_point(dropped).await.expect_err("dropped");
    assert!(matches!(error, Error::PointMissing { .. }), "{error}");

    prune_to_the_end(&lineage, &KEEP_NEWEST).await;
    expect_points(&objects, &history).await;
    let (stored, needed) = (stored_bytes(&objects).await, 40 * CHUNK as u64);
    assert!(stored < needed * 13 / 10, "{stored} bytes are stored for {needed} that are needed");
    let commits = self::objects(&objects).await.iter().filter(|(key, _)| key.contains("/commits/")).count();
    assert!(commits <= 5, "the first, the newest point, and the last prunes are there: {commits}");

    // The lineage goes on, for old handles and new ones.
    let content = noise(99, 40 * CHUNK);
    history.insert(commit_disk(&lineage, &content).await.expect("committed").sequence, content);
    expect_points(&objects, &history).await;
}

#[tokio::test]
async fn grace_is_counted_in_commits_and_in_time_and_points_come_back_until_it_has_passed() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let history = history(&lineage, 8, 4).await;
    for grace in [Grace { seconds: 3_600, commits: 0 }, Grace { seconds: 0, commits: 1_000 }] {
        for _ in 0..3 {
            let report = prune(&lineage, &KEEP_NEWEST, grace).await.expect("pruned");
            assert_eq!(report.deleted.objects, 0, "{grace:?}");
        }
        let plan = lineage.plan_prune(&KEEP_ALL, grace).await.expect("planned");
        assert_eq!(plan.revived.len(), 3, "{grace:?}");
        assert_eq!(lineage.prune(plan).await.expect("pruned").points_revived, 3);
        expect_points(&objects, &history).await;
    }
    // They stand again: what was condemned with them is not deleted.
    for _ in 0..3 {
        prune(&lineage, &KEEP_ALL, NO_GRACE).await.expect("pruned");
    }
    expect_points(&objects, &history).await;
}

/// A clock that is ten years late for everything.
struct Ahead;

#[async_trait::async_trait]
impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_milliseconds(SystemClock.now().as_unix_milliseconds() + 315_576_000_000)
    }
    fn monotonic(&self) -> std::time::Duration {
        SystemClock.monotonic()
    }
    async fn sleep(&self, duration: std::time::Duration) {
        SystemClock.sleep(duration).await;
    }
}

#[tokio::test]
async fn a_pruner_whose_clock_jumps_ahead_deletes_nothing_early() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let history = history(&lineage(&vault).await, 8, 4).await;
    let grace = Grace { seconds: 60, commits: 0 };
    prune(&lineage(&vault).await, &KEEP_NEWEST, grace).await.expect("pruned");
    let ahead = Context { clock: Arc::new(Ahead), ..context() };
    let there = lineage(&vault_on(store(&objects), ahead).await).await;
    for _ in 0..3 {
        let plan = there.plan_prune(&KEEP_NEWEST, grace).await.expect("planned");
        assert_eq!(plan.deleted.objects, 0);
        there.prune(plan).await.expect("pruned");
    }
    prune(&there, &KEEP_ALL, grace).await.expect("pruned");
    expect_points(&objects, &history).await;
}

#[tokio::test]
async fn what_is_pinned_stands_whatever_the_rules_say() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let mut history = history(&lineage, 8, 5).await;
    let sequences: Vec<_> = history.keys().copied().collect();
    lineage.pin(run(1), sequences[1]).await.expect("pinned");
    lineage.pin(run(1), sequences[1]).await.expect("again");
    assert_eq!(lineage.head().await.expect("readable").pins.len(), 1);
    prune_to_the_end(&lineage, &KEEP_NEWEST).await;
    history.retain(|sequence, _| [sequences[1], sequences[4]].contains(sequence));
    expect_points(&objects, &history).await;

    let gone = lineage.pin(run(2), sequences[0]).await.expect_err("it was dropped");
    assert!(matches!(gone, Error::PointMissing { .. }), "{gone}");

    // A pin that comes between the plan and its execution.
    let plan = {
        lineage.unpin(run(1)).await.expect("given up");
        let plan = lineage.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect("planned");
        assert_eq!(plan.dropped.len(), 1);
        lineage.pin(run(3), sequences[1]).await.expect("pinned");
        plan
    };
    let error = lineage.prune(plan).await.expect_err("it would drop what is pinned");
    assert!(matches!(error, Error::LostRace { .. }), "{error}");
    prune_to_the_end(&lineage, &KEEP_NEWEST).await;
    expect_points(&objects, &history).await;

    lineage.unpin(run(3)).await.expect("given up");
    lineage.unpin(run(3)).await.expect("again");
    prune_to_the_end(&lineage, &KEEP_NEWEST).await;
    history.remove(&sequences[1]);
    expect_points(&objects, &history).await;
}

#[tokio::test]
async fn pins_and_prunes_do_not_disturb_a_writer_nor_points_a_prune() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let mut history = history(&lineage, 8, 5).await;
    let sequences: Vec<_> = history.keys().copied().collect();
    let content = noise(50, 8 * CHUNK);
    let writer = begin(&lineage).await;
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), content.len() as u64).await.expect("added");
    write_all(&disk, &content).await.expect("accepted");
    lineage.pin(run(1), sequences[0]).await.expect("pinned");
    prune_to_the_end(&lineage, &KEEP_NEWEST).await;
    let point = writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("nothing that it needs was touched");
    history.retain(|sequence, _| [sequences[0], sequences[4]].contains(sequence));
    history.insert(point.sequence, content);
    expect_points(&objects, &history).await;

    let plan = lineage.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect("planned");
    let content = noise(51, 8 * CHUNK);
    let late = commit_disk(&lineage, &content).await.expect("committed");
    lineage.prune(plan).await.expect("a point that came between stands");
    history.remove(&sequences[4]);
    history.insert(late.sequence, content);
    expect_points(&objects, &history).await;
}

#[tokio::test]
async fn packs_of_which_little_is_needed_are_collected_without_reading_them() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let mut history = history(&lineage, 60, 1).await;
    let first = history.keys().next().copied().expect("one");
    // Most of the first pack is overwritten; its last frame lives on.
    let mut content = history[&first].clone();
    content[..48 * CHUNK].copy_from_slice(&noise(70, 48 * CHUNK));
    let second = commit_disk(&lineage, &content).await.expect("committed");
    history.insert(second.sequence, content.clone());
    // A reader who opened its point before does not notice that what it reads is moved away.
    let reader = vault_on(store(&objects), context()).await.lineage(&group()).await.expect("readable").expect("there");
    let opened = reader.open_point(second.sequence).await.expect("there");
    for number in 0..20 {
        content[..16 * CHUNK].copy_from_slice(&noise(200 + number, 16 * CHUNK));
        let point = commit_changes(&lineage, &content, 0..16 * CHUNK).await.expect("committed");
        history.insert(point.sequence, content.clone());
    }
    let expected: BTreeMap<_, _> = history.into_iter().rev().take(1).collect();
    prune_to_the_end(&lineage, &KEEP_NEWEST).await;
    expect_points(&objects, &expected).await;
    let stored = stored_bytes(&objects).await;
    let needed = 60 * CHUNK as u64;
    assert!(stored < needed * 14 / 10, "{stored} bytes are stored for {needed} that are needed");
    let there = self::objects(&objects).await;
    assert!(there.iter().any(|(key, _)| key.contains("/collections/")));
    let error = read_pieces(&opened, "d").await.expect_err("its point was dropped, without a pin");
    assert!(matches!(error, Error::ObjectMissing { .. }), "{error}");
}

#[tokio::test]
async fn a_reader_follows_what_was_moved_while_it_reads() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let history = history(&lineage, 40, 30).await;
    let (newest, content) = history.iter().next_back().expect("some");
    let elsewhere =
        vault_on(store(&objects), context()).await.lineage(&group()).await.expect("readable").expect("there");
    let opened = elsewhere.open_point(*newest).await.expect("there");
    // Another has the maps in its cache, and looks for nothing but frames later.
    let elsewhere =
        vault_on(store(&objects), context()).await.lineage(&group()).await.expect("readable").expect("there");
    let known = elsewhere.open_point(*newest).await.expect("there");
    assert!(read_pieces(&known, "d").await.expect("readable") == *content);
    let packs = |there: Vec<(String, u64)>| there.iter().filter(|(key, _)| key.contains("/packs/")).count();
    let before = packs(self::objects(&objects).await);
    prune_to_the_end(&lineage, &KEEP_NEWEST).await;
    // So that what the point needs moves once more, out of its first collection.
    commit_disk(&lineage, &noise(3, 40 * CHUNK)).await.expect("committed");
    lineage.pin(run(1), *newest).await.expect("pinned");
    prune_to_the_end(&lineage, &KEEP_NEWEST).await;
    assert!(packs(self::objects(&objects).await) < before / 2, "most packs are gone");
    assert!(read_pieces(&opened, "d").await.expect("it finds them") == *content);
    assert!(read_pieces(&known, "d").await.expect("it finds them") == *content);
}

#[tokio::test]
async fn a_pruner_without_a_reading_key_prunes() {
    let objects = Arc::new(InMemory::new());
    let (administrator, kit) = make(store(&objects), "correct horse").await.expect("a vault");
    let name = farshore_core::HostName::new("pruner").expect("a good name");
    let far = Timestamp::from_unix_milliseconds(9_000_000_000_000);
    let join = administrator.invite(&name, &[crate::Power::Pruner], far).await.expect("invited");
    let credential = crate::HostCredential::new(&join, &SystemEntropy);
    credential.enrol(&store(&objects), &join, &context()).await.expect("joined");
    administrator.approve(&name).await.expect("approved");
    let lineage = lineage(&administrator).await;
    let history = history(&lineage, 40, 30).await;
    let vault = Vault::open(store(&objects), &Opener::Host(Box::new(credential)), context()).await.expect("opened");
    let there = vault.lineage(&group()).await.expect("readable").expect("there");
    prune_to_the_end(&there, &KEEP_NEWEST).await;
    assert!(self::objects(&objects).await.iter().any(|(key, _)| key.contains("/collections/")), "it moved frames");
    let (newest, content) = history.iter().next_back().expect("some");
    assert!(read_pieces(&there.open_point(*newest).await.expect("there"), "d").await.is_err(), "it cannot read them");
    let reader = open_with(store(&objects), &kit, "correct horse").await.expect("opened");
    let reader = reader.lineage(&group()).await.expect("readable").expect("there");
    assert!(read_pieces(&reader.open_point(*newest).await.expect("there"), "d").await.expect("readable") == *content);
}

#[tokio::test]
async fn nothing_is_deleted_when_nobody_knows_what_is_needed() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    history(&lineage, 8, 3).await;
    let there = self::objects(&objects).await;
    // A map of a point that stands.
    let (map, _) = there.iter().rfind(|(key, _)| key.contains("/maps/")).expect("some");
    objects.delete(&map.as_str().into()).await.expect("deleted");
    let there = self::objects(&objects).await;
    let fresh = vault_on(store(&objects), context()).await.lineage(&group()).await.expect("readable").expect("there");
    let error = fresh.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect_err("what is needed cannot be told");
    assert!(error.is_damage(), "{error}");
    assert_eq!(self::objects(&objects).await, there);
}

/// What is damaged is neither copied, which would make the damage last, nor condemned: it may come back.
#[tokio::test]
async fn what_does_not_verify_stays_where_it_is() {
    for damaged in ["/packs/", "/maps/"] {
        let objects = Arc::new(InMemory::new());
        let vault = vault_on(store(&objects), context()).await;
        let lineage = lineage(&vault).await;
        // Each point writes into a leaf of its own, so that its map pack is needed by those that follow.
        let mut content = vec![0; 24 * 64 * CHUNK];
        commit_disk(&lineage, &content).await.expect("committed");
        let mut newest = None;
        for leaf in 0..24 {
            let range = leaf * 64 * CHUNK..(leaf * 64 + 1) * CHUNK;
            content[range.clone()].copy_from_slice(&noise(leaf as u64, CHUNK));
            newest = Some(commit_changes(&lineage, &content, range).await.expect("committed").sequence);
        }
        prune(&lineage, &KEEP_NEWEST, NO_GRACE).await.expect("pruned");
        // All of these small objects would be moved; in each something is needed.
        let plan = lineage.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect("planned");
        assert!(plan.collected.objects > 0);
        let there = self::objects(&objects).await;
        let mut whole = BTreeMap::new();
        for (key, _) in there.iter().filter(|(key, _)| key.contains(damaged)) {
            let path = object_store::path::Path::from(key.as_str());
            let stored = objects.get(&path).await.expect("there").bytes().await.expect("readable");
            let mut hurt = stored.to_vec();
            // In the leaf, which comes first; or in the frame, which comes last.
            let at = if damaged == "/maps/" { 200 } else { hurt.len() - 9 };
            hurt[at] ^= 1;
            objects.put(&path, hurt.into()).await.expect("stored");
            whole.insert(path, stored);
        }
        // The plan was made by a handle that has seen the maps whole; it keeps a few of them, not all.
        let report = lineage.prune(plan).await.expect("what is whole is pruned");
        assert!(!report.problems.is_empty(), "{damaged}");
        for _ in 0..3 {
            if let Ok(plan) = lineage.plan_prune(&KEEP_NEWEST, NO_GRACE).await {
                lineage.prune(plan).await.expect("pruned");
            }
        }
        for (path, stored) in whole {
            if objects.head(&path).await.is_ok() {
                objects.put(&path, stored.into()).await.expect("stored");
            }
        }
        let expected = BTreeMap::from([(newest.expect("some"), content)]);
        expect_points(&objects, &expected).await;
    }
}

/// A point is dropped; what it needs of a collection is not moved on with what others need; then the point comes back.
#[tokio::test]
async fn a_point_that_comes_back_finds_what_was_moved_in_between() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let history = history(&lineage, 400, 30).await;
    let sequences: Vec<_> = history.keys().copied().collect();
    let (pinned, newest) = (sequences[12], sequences[29]);
    lineage.pin(run(1), pinned).await.expect("pinned");
    prune_to_the_end(&lineage, &KEEP_NEWEST).await;
    let there = self::objects(&objects).await;
    assert!(there.iter().any(|(key, _)| key.contains("/collections/")), "both points' pieces were moved");
    let both = [pinned, newest].map(|sequence| (sequence, history[&sequence].clone()));
    expect_points(&objects, &both.into_iter().collect()).await;

    // It is dropped, with a grace; meanwhile most of what the collections hold for the newest point is overwritten, so that
    // they are collected anew, more than once, without what only the dropped point needs.
    let grace = Grace { seconds: 0, commits: 1_000 };
    lineage.unpin(run(1)).await.expect("given up");
    prune(&lineage, &KEEP_NEWEST, grace).await.expect("pruned");
    let (mut content, mut last, mut collected) = (history[&newest].clone(), newest, 0);
    for at in (0..360).step_by(40) {
        let range = at * CHUNK..(at + 40) * CHUNK;
        content[range.clone()].copy_from_slice(&noise(at as u64, range.len()));
        last = commit_changes(&lineage, &content, range).await.expect("committed").sequence;
        collected += prune(&lineage, &KEEP_NEWEST, grace).await.expect("pruned").collections_written;
    }
    assert!(collected > 0, "something was moved on");
    let plan = lineage.plan_prune(&KEEP_ALL, grace).await.expect("planned");
    assert!(plan.revived.iter().any(|point| point.sequence == pinned));
    lineage.prune(plan).await.expect("pruned");
    let fresh = vault_on(store(&objects), context()).await.lineage(&group()).await.expect("readable").expect("there");
    for (sequence, content) in [(pinned, &history[&pinned]), (last, &content)] {
        let point = fresh.point(sequence).await.expect("it stands");
        assert!(restore(&fresh, &point).await.expect("readable") == *content, "{sequence}");
    }
    // And it goes on standing when the rest is swept.
    lineage.pin(run(2), pinned).await.expect("pinned");
    prune_to_the_end(&lineage, &KEEP_NEWEST).await;
    let expected = BTreeMap::from([(pinned, history[&pinned].clone()), (last, content)]);
    expect_points(&objects, &expected).await;
}

/// A store whose listings leave out what they like.
#[tokio::test]
async fn a_listing_that_leaves_things_out_only_makes_a_prune_delete_less() {
    for left_out in ["/commits/", "/packs/", "/maps/", "/collections/", "/ledgers/", ""] {
        let objects = Arc::new(InMemory::new());
        let vault = vault_on(store(&objects), context()).await;
        let history = history(&lineage(&vault).await, 40, 20).await;
        let mut faulty = FaultyStore::sound(&objects);
        faulty.left_out = Some(left_out);
        let there = vault_on(wrap(Arc::new(faulty)), context())
            .await
            .lineage(&group())
            .await
            .expect("readable")
            .expect("there");
        for _ in 0..4 {
            prune(&there, &KEEP_NEWEST, NO_GRACE).await.expect("pruned");
        }
        // What was dropped is gone for good or comes back whole.
        prune(&there, &KEEP_ALL, NO_GRACE).await.expect("pruned");
        let fresh =
            vault_on(store(&objects), context()).await.lineage(&group()).await.expect("readable").expect("there");
        let points = fresh.points(None, usize::MAX).await.expect("readable");
        let expected = points.iter().map(|point| (point.sequence, history[&point.sequence].clone())).collect();
        expect_points(&objects, &expected).await;
        prune_to_the_end(&fresh, &KEEP_NEWEST).await;
        let newest: BTreeMap<_, _> = history.into_iter().next_back().into_iter().collect();
        expect_points(&objects, &newest).await;
    }
}

/// A commit after those that were judged is lost, or the newest commit or ledger: that is said, and hides little.
#[tokio::test]
async fn a_lost_commit_and_a_lost_ledger_are_found_and_hide_little() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let history = history(&lineage, 40, 24).await;
    let sequences: Vec<_> = history.keys().copied().collect();
    lineage.pin(run(1), sequences[3]).await.expect("pinned");
    prune_to_the_end(&lineage, &KEEP_NEWEST).await;
    let late = self::history(&lineage, 40, 2).await;
    let head = lineage.head().await.expect("readable");
    let key = |sequence: Sequence| format!("v/lineages/{}/commits/{:020}", lineage.id(), sequence.get());
    let lost = *late.keys().next().expect("some");
    let copied = copy(&objects).await;
    copied.delete(&key(lost).as_str().into()).await.expect("deleted");
    let checking = vault_on(store(&copied), context()).await;
    let report = checking.check(crate::CheckDepth::Structure, &|_| {}).await.expect("checked");
    let found: Vec<_> = report.findings.iter().map(|finding| finding.object.as_str()).collect();
    assert!(found.len() == 1 && key(lost).ends_with(found[0]), "{found:?}");

    let there = self::objects(&objects).await;
    let ledgers: Vec<_> =
        there.iter().filter(|(key, _)| key.contains("/ledgers/")).map(|(key, _)| key.clone()).collect();
    assert!(ledgers.len() >= 2, "the ledger before the newest waits for its grace");
    for hurt in [ledgers.last().expect("some").clone(), key(head.sequence)] {
        let copied = copy(&objects).await;
        copied.put(&hurt.as_str().into(), b"rot".to_vec().into()).await.expect("stored");
        let reader =
            vault_on(store(&copied), context()).await.lineage(&group()).await.expect("readable").expect("there");
        for sequence in [sequences[3], sequences[23]] {
            let point = reader.point(sequence).await.expect("it stands");
            assert!(restore(&reader, &point).await.expect("readable") == history[&sequence], "{hurt} {sequence}");
        }
        let listed = reader.list_points(None, usize::MAX).await.expect("listed");
        assert!(listed.iter().any(|(sequence, point)| *sequence == sequences[3] && point.is_ok()), "{hurt}");
        assert!(reader.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect_err("nothing is deleted then").is_damage());
    }
}

/// Everybody who commits repeats the head; a captured replicator need not repeat it truly.
#[tokio::test]
async fn a_head_that_has_forgotten_a_prune_is_refused() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let history = history(&lineage, 40, 24).await;
    prune_to_the_end(&lineage, &KEEP_NEWEST).await;
    let built_on = lineage.0.log.newest().await.expect("readable");
    let forged = crate::Head { sequence: built_on.head.sequence.next(), pruned: None, ..built_on.head.clone() };
    let event = crate::commit::Event::Unpinned { run: run(1) };
    lineage.0.log.create(&built_on, forged, event).await.expect("the store knows nothing of heads");
    let reader = vault_on(store(&objects), context()).await.lineage(&group()).await.expect("readable").expect("there");
    let error = reader.head().await.expect_err("a boundary speaks of a prune");
    assert!(error.is_damage() && error.to_string().contains("forgotten a prune"), "{error}");
    let (newest, content) = history.iter().next_back().expect("some");
    let listed = reader.list_points(None, usize::MAX).await.expect("listed");
    let points: Vec<_> = listed.iter().filter(|(_, point)| point.is_ok()).map(|(sequence, _)| *sequence).collect();
    assert_eq!(points, [*newest], "dropped points stay dropped");
    let point = reader.point(*newest).await.expect("it stands");
    assert!(restore(&reader, &point).await.expect("readable") == *content, "what was moved is found");
}

#[tokio::test]
async fn of_two_pruners_one_gives_up() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let mut history = history(&lineage, 8, 6).await;
    let slow = lineage.plan_prune(&KEEP_ALL, NO_GRACE).await.expect("planned");
    assert!(slow.is_empty() || slow.dropped.is_empty());
    let slow = lineage.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect("planned");
    prune_to_the_end(&lineage, &Retention { all_seconds: 0, hourly: 1, ..KEEP_NEWEST }).await;
    let error = lineage.prune(slow).await.expect_err("another prune has landed");
    assert!(matches!(error, Error::LostRace { .. }), "{error}");
    let newest = *history.keys().next_back().expect("some");
    history.retain(|sequence, _| *sequence == newest);
    expect_points(&objects, &history).await;
    // What the loser wrote is swept once another point and prune have come.
    let content = noise(80, 8 * CHUNK);
    history.insert(commit_disk(&lineage, &content).await.expect("committed").sequence, content);
    prune_to_the_end(&lineage, &KEEP_ALL).await;
    prune_to_the_end(&lineage, &KEEP_ALL).await;
    expect_points(&objects, &history).await;
    let ledgers = self::objects(&objects).await.iter().filter(|(key, _)| key.contains("/ledgers/")).count();
    assert!(ledgers <= 3, "{ledgers} ledgers are left");
}

/// Copies what a store in memory holds.
pub(super) async fn copy(from: &Arc<InMemory>) -> Arc<InMemory> {
    Arc::new(from.fork())
}

/// A prune that deletes and collects is killed at every operation, before its effect and after it.
#[tokio::test]
async fn a_prune_that_is_killed_anywhere_harms_nothing_and_is_finished_by_the_next() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let mut history = history(&lineage, 40, 24).await;
    prune(&lineage, &KEEP_NEWEST, NO_GRACE).await.expect("pruned");
    let more = self::history(&lineage, 40, 4).await;
    history.extend(more);
    let kept: BTreeMap<_, _> = history.iter().rev().take(1).map(|(key, content)| (*key, content.clone())).collect();
    let mut kills = 0;
    for fault in [Fault::Before, Fault::After] {
        for fail_at in 0.. {
            let copied = copy(&objects).await;
            let faulty = Arc::new(FaultyStore::new(&copied, fail_at, fault, true));
            let killed = vault_on(wrap(faulty.clone()), seeded(fail_at as u64)).await;
            let outcome = match killed.lineage(&group()).await {
                Ok(found) => prune(&found.expect("there"), &KEEP_NEWEST, NO_GRACE).await.map(drop),
                Err(error) => Err(error),
            };
            if faulty.operations() <= fail_at {
                outcome.expect("nothing was in its way");
                break;
            }
            kills += 1;
            // Before its commit all points that stood stand; after it, those that it let stand.
            let fresh = vault_on(store(&copied), context()).await.lineage(&group()).await.expect("readable");
            let points = fresh.expect("there").points(None, usize::MAX).await.expect("readable");
            let standing: Vec<_> = points.iter().map(|point| point.sequence).collect();
            assert!(standing.iter().all(|sequence| history.contains_key(sequence)));
            assert!(kept.keys().all(|sequence| standing.contains(sequence)), "kill {fail_at} {fault:?}");
            let expected = standing.iter().map(|sequence| (*sequence, history[sequence].clone())).collect();
            expect_points(&copied, &expected).await;
            let next = vault_on(store(&copied), context()).await.lineage(&group()).await.expect("readable");
            prune_to_the_end(&next.expect("there"), &KEEP_NEWEST).await;
            expect_points(&copied, &kept).await;
        }
    }
    assert!(kills > 60, "only {kills} operations were hit");
}

#[derive(Debug, Clone)]
enum Step {
    /// Changes so many chunks from one on, and commits.
    Commit {
        chunk: usize,
        count: usize,
        seed: u64,
    },
    Prune {
        keep: u8,
        has_grace: bool,
    },
    /// Pins the point of this age, or gives the pin up.
    Pin {
        run: u8,
        age: usize,
    },
    Unpin {
        run: u8,
    },
    /// A prune under rules that want everything back that can come back.
    Revive,
    /// A fresh handle goes on.
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..30usize, 1..12usize, any::<u64>()).prop_map(|(chunk, count, seed)| Step::Commit { chunk, count, seed }),
        3 => (0..4u8, any::<bool>()).prop_map(|(keep, has_grace)| Step::Prune { keep, has_grace }),
        1 => (0..3u8, 0..8usize).prop_map(|(run, age)| Step::Pin { run, age }),
        1 => (0..3u8).prop_map(|run| Step::Unpin { run }),
        1 => Just(Step::Revive),
        1 => Just(Step::Reopen),
    ]
}

async fn play(steps: Vec<Step>) {
    let objects = Arc::new(InMemory::new());
    let mut lineage = lineage(&vault_on(store(&objects), context()).await).await;
    let mut content = noise(1, 42 * CHUNK);
    // Everything that was committed, and what must stand.
    let mut history: BTreeMap<Sequence, Vec<u8>> = BTreeMap::new();
    let mut model: std::collections::BTreeSet<Sequence> = std::collections::BTreeSet::new();
    for step in steps {
        match step {
            Step::Commit { chunk, count, seed } => {
                let range = chunk * CHUNK..(chunk + count).min(42) * CHUNK;
                content[range.clone()].copy_from_slice(&noise(seed, range.len()));
                let point = commit_changes(&lineage, &content, range).await.expect("committed");
                history.insert(point.sequence, content.clone());
                model.insert(point.sequence);
            }
            Step::Prune { keep, has_grace } => {
                let retention = Retention { hourly: u32::from(keep), ..KEEP_NEWEST };
                let grace = Grace { seconds: 0, commits: if has_grace { 5 } else { 0 } };
                let pins = lineage.head().await.expect("readable").pins;
                prune(&lineage, &retention, grace).await.expect("pruned");
                let newest = model.last().copied();
                // All points are of one hour, or two: a rule of hours keeps little more than the newest.
                model.retain(|sequence| Some(*sequence) == newest || pins.iter().any(|pin| pin.point == *sequence));
            }
            Step::Pin { run: number, age } => {
                let Some(sequence) = model.iter().rev().nth(age) else { continue };
                lineage.pin(run(number), *sequence).await.expect("pinned");
            }
            Step::Unpin { run: number } => lineage.unpin(run(number)).await.expect("given up"),
            Step::Revive => {
                prune(&lineage, &KEEP_ALL, Grace { seconds: 0, commits: 5 }).await.expect("pruned");
            }
            Step::Reopen => {
                let vault = vault_on(store(&objects), context()).await;
                lineage = vault.lineage(&group()).await.expect("readable").expect("there");
            }
        }
    }
    let points = lineage.points(None, usize::MAX).await.expect("readable");
    let listed: BTreeMap<_, _> =
        points.iter().map(|point| (point.sequence, history[&point.sequence].clone())).collect();
    for sequence in &model {
        assert!(listed.contains_key(sequence), "{sequence} should stand");
    }
    expect_points(&objects, &listed).await;
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("FARSHORE_LONG").is_some() { 120 } else { 30 },
        max_shrink_iters: 100,
        ..ProptestConfig::default()
    })]
    #[test]
    fn what_the_rules_keep_restores_whatever_came_in_whatever_order(steps in prop::collection::vec(step(), 4..30)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(play(steps));
    }
}
