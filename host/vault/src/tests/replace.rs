//! What is damaged is replaced, and never overwritten: what points need of it is moved from a copy into collections.

use std::collections::BTreeMap;

use farshore_core::HostName;
use object_store::{ObjectStoreExt, path::Path};

use super::{
    faulty::{Fault, FaultyStore},
    repair::{Objects, assert_whole, begin_objects, contents, open, original, repair, store_of},
    *,
};
use crate::{CheckDepth, Error, Grace, HostCredential, Power, RepairPlan, RepairReport};

const NO_GRACE: Grace = Grace { seconds: 0, commits: 0 };

async fn repair_at(vault: &Vault, copy: &Arc<InMemory>, depth: CheckDepth) -> Result<(RepairPlan, RepairReport)> {
    let plan = vault.plan_repair(Some(&store(copy)), depth).await?;
    let report = vault.repair(&store(copy), &plan).await?;
    Ok((plan, report))
}

async fn group_of(objects: &Arc<InMemory>) -> Lineage {
    open(objects).await.lineage(&group()).await.expect("readable").expect("there")
}

/// Prunes until there is nothing left to do.
async fn prune_to_the_end(objects: &Arc<InMemory>, retention: &Retention) {
    for _ in 0..12 {
        let lineage = group_of(objects).await;
        let plan = lineage.plan_prune(retention, NO_GRACE).await.expect("planned");
        if lineage.prune(plan).await.expect("pruned").commit.is_none() {
            return;
        }
    }
    panic!("it never ends");
}

/// What the store may make of an object.
fn damages(bytes: &Bytes) -> Vec<(&'static str, Bytes)> {
    let flip = |at: usize| {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1;
        Bytes::from(flipped)
    };
    let mut longer = bytes.to_vec();
    longer.push(0);
    vec![
        ("nothing is left", Bytes::new()),
        ("cut short", bytes.slice(..bytes.len() - 100)),
        ("longer", Bytes::from(longer)),
        ("its format", flip(8)),
        ("its header", flip(60)),
        ("its last byte", flip(bytes.len() - 1)),
    ]
}

fn of_kinds<'a>(objects: &'a Objects, kinds: &'a [&str]) -> impl Iterator<Item = &'a String> {
    objects.keys().filter(move |key| kinds.iter().any(|kind| key.contains(kind)))
}

#[tokio::test]
async fn each_damaged_pack_and_collection_is_replaced_and_a_later_prune_deletes_it() {
    let (original, points) = original().await;
    let copy = store_of(&original).await;
    let mut replaced = BTreeMap::new();
    for key in of_kinds(&original, &["/packs/", "/maps/", "/collections/"]) {
        for (how, bytes) in damages(&original[key]) {
            let what = format!("{key}: {how}");
            let mut damaged = original.clone();
            damaged.insert(key.clone(), bytes);
            let objects = store_of(&damaged).await;
            let (plan, report) = repair_at(&open(&objects).await, &copy, CheckDepth::Full).await.expect("repaired");
            let after = contents(&objects).await;
            assert!(damaged.iter().all(|(key, bytes)| after.get(key) == Some(bytes)), "{what}: nothing is overwritten");
            assert_eq!((report.left.len(), report.problems.len(), report.objects_copied), (0, 0, 0), "{what}");
            assert_whole(&objects, &points, &what).await;
            let kind = key.split('/').nth(3).expect("a kind").to_owned();
            if plan.findings.is_empty() {
                assert_eq!(after.len(), damaged.len(), "{what}");
                continue;
            }
            *replaced.entry((kind, how)).or_insert(0) += 1;
            assert!(plan.replaced.iter().map(|object| format!("v/{object}")).eq([key.clone()]), "{what}: {plan:?}");
            assert_eq!((report.commits.len(), plan.left.len()), (1, 0), "{what}");
            // Once more there is nothing to do.
            let (plan, report) = repair_at(&open(&objects).await, &copy, CheckDepth::Full).await.expect("repaired");
            assert!(plan.is_empty() && plan.findings.is_empty() && report.commits.is_empty(), "{what}");
        }
    }
    let kinds: std::collections::BTreeSet<&str> = replaced.keys().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["collections", "maps", "packs"], "{replaced:?}");
    assert!(replaced.len() >= 15, "{replaced:?}");
}

#[tokio::test]
async fn what_was_replaced_is_needed_by_nobody_and_deleted_as_usual() {
    let (original, points) = original().await;
    let copy = store_of(&original).await;
    for kind in ["/packs/", "/maps/", "/collections/"] {
        let key = of_kinds(&original, &[kind]).next().expect("one").clone();
        let mut damaged = original.clone();
        damaged.insert(key.clone(), damages(&original[&key]).remove(1).1);
        let objects = store_of(&damaged).await;
        let (plan, _) = repair(&objects, &copy).await;
        assert_eq!(plan.replaced.len(), 1, "{kind}");
        // A newest point that needs none of it, so that its base is old; and the pinned one, which needs what was replaced.
        let newest = noise(77, 40 * CHUNK);
        let mut expected = BTreeMap::from([points.iter().next().map(|(at, held)| (*at, held.clone())).expect("one")]);
        expected.insert(commit_disk(&group_of(&objects).await, &newest).await.expect("committed").sequence, newest);
        prune_to_the_end(&objects, &KEEP_NEWEST).await;
        assert!(!contents(&objects).await.contains_key(&key), "{kind}");
        assert_whole(&objects, &expected, kind).await;
    }
}

/// A lineage that was never pruned has no ledger yet.
#[tokio::test]
async fn what_is_damaged_is_replaced_where_nothing_was_ever_pruned() {
    let objects = begin_objects().await;
    let there = lineage(&vault_on(store(&objects), seeded(11)).await).await;
    let mut points = BTreeMap::new();
    for seed in 0..4 {
        let content = noise(seed, 20 * CHUNK);
        points.insert(commit_disk(&there, &content).await.expect("committed").sequence, content);
    }
    let original = contents(&objects).await;
    let copy = store_of(&original).await;
    for key in of_kinds(&original, &["/packs/", "/maps/"]) {
        let mut damaged = original.clone();
        damaged.insert(key.clone(), damages(&original[key]).remove(1).1);
        let objects = store_of(&damaged).await;
        let (plan, report) = repair(&objects, &copy).await;
        assert_eq!((plan.healed.len(), report.commits.len(), report.left.len()), (1, 1, 0), "{key}");
        assert_whole(&objects, &points, key).await;
        let stood = group_of(&objects).await.points(None, 10).await.expect("readable").len();
        assert_eq!(stood, 4, "a repair gives up no point");
        prune_to_the_end(&objects, &KEEP_NEWEST).await;
        let newest = points.iter().next_back().map(|(at, held)| (*at, held.clone())).into_iter().collect();
        assert_whole(&objects, &newest, key).await;
    }
}

/// Only reading tells that a frame is rotten; then it is repaired when reading was asked for.
#[tokio::test]
async fn rotten_frames_are_replaced_when_all_data_was_read() {
    let (original, points) = original().await;
    let copy = store_of(&original).await;
    let key = of_kinds(&original, &["/packs/"]).last().expect("a pack").clone();
    let mut damaged = original.clone();
    let mut rotten = original[&key].to_vec();
    *rotten.last_mut().expect("not empty") ^= 1;
    damaged.insert(key.clone(), Bytes::from(rotten));
    let objects = store_of(&damaged).await;
    let (plan, _) = repair(&objects, &copy).await;
    assert!(plan.findings.is_empty() && plan.is_empty(), "the structure is whole");
    let vault = open(&objects).await;
    // In a copy that is rotten too it is refused, and told to be left.
    let (plan, report) = repair_at(&vault, &objects, CheckDepth::Full).await.expect("tried");
    assert!(plan.is_empty() && plan.refused.iter().any(|refused| key.ends_with(refused)), "{plan:?}");
    assert_eq!((plan.left.len(), report.left.len()), (1, 1));
    assert!(!report.left[0].points.is_empty() && report.commits.is_empty());
    let (plan, report) = repair_at(&vault, &copy, CheckDepth::Full).await.expect("repaired");
    assert!(!plan.healed.is_empty() && report.left.is_empty(), "{plan:?}");
    assert_whole(&objects, &points, "rotten").await;
}

/// What is wrong in the copy too is not taken for right because it is damaged here.
#[tokio::test]
async fn what_is_not_right_in_the_copy_either_replaces_nothing() {
    let (original, _) = original().await;
    for key in of_kinds(&original, &["/packs/", "/maps/", "/collections/"]) {
        let [(_, empty), (_, short), .., (_, flipped)] = &damages(&original[key])[..] else { panic!("several") };
        for wrong in [short, flipped, empty] {
            let mut damaged = original.clone();
            damaged.insert(key.clone(), empty.clone());
            let mut copy = original.clone();
            copy.insert(key.clone(), wrong.clone());
            let (objects, copy) = (store_of(&damaged).await, store_of(&copy).await);
            let (plan, report) = repair(&objects, &copy).await;
            let is_page_unneeded = key.contains("/maps/") && report.left.is_empty();
            if plan.findings.is_empty() || is_page_unneeded {
                continue;
            }
            assert!(plan.objects.is_empty() && plan.replaced.is_empty() && !report.left.is_empty(), "{key}: {plan:?}");
            assert_eq!(contents(&objects).await, damaged, "{key}");
        }
    }
}

/// A copy that was made before the prune has the packs out of which a collection was made.
#[tokio::test]
async fn a_collection_is_made_again_out_of_the_packs_of_an_older_copy() {
    let objects = begin_objects().await;
    let there = lineage(&vault_on(store(&objects), seeded(11)).await).await;
    let mut content = noise(1, 40 * CHUNK);
    let mut points = BTreeMap::new();
    for number in 0..24usize {
        content[number * CHUNK..(number + 1) * CHUNK].copy_from_slice(&noise(number as u64 + 100, CHUNK));
        points = BTreeMap::from([(commit_disk(&there, &content).await.expect("committed").sequence, content.clone())]);
    }
    let older = store_of(&contents(&objects).await).await;
    prune_to_the_end(&objects, &KEEP_NEWEST).await;
    content[..CHUNK].copy_from_slice(&noise(500, CHUNK));
    points.insert(commit_disk(&there, &content).await.expect("committed").sequence, content);
    let original = contents(&objects).await;
    let collections: Vec<_> = of_kinds(&original, &["/collections/"]).cloned().collect();
    assert!(collections.len() >= 2, "of frames and of pages");
    for lost in [&collections[..1], &collections[1..2], &collections[..]] {
        for is_missing in [true, false] {
            let what = format!("{lost:?}, missing: {is_missing}");
            let mut damaged = original.clone();
            for key in lost {
                match is_missing {
                    true => drop(damaged.remove(key)),
                    false => drop(damaged.insert(key.clone(), damages(&original[key]).remove(4).1)),
                }
            }
            let objects = store_of(&damaged).await;
            let (plan, report) = repair(&objects, &older).await;
            assert_eq!(plan.replaced.len(), lost.len(), "{what}: {:?}", plan.replaced);
            assert_eq!((report.left.len(), report.objects_copied, report.commits.len()), (0, 0, 1), "{what}");
            assert_whole(&objects, &points, &what).await;
            prune_to_the_end(&objects, &KEEP_NEWEST).await;
            let newest = points.iter().next_back().map(|(at, held)| (*at, held.clone())).into_iter().collect();
            assert_whole(&objects, &newest, &what).await;
        }
    }
}

/// Something that only a point needs that was given up is in no copy: then the damaged collection is still named, and in the way
/// of nobody who finds all pieces in the new one.
#[tokio::test]
async fn a_damaged_collection_that_is_still_named_is_in_nobodys_way() {
    let objects = begin_objects().await;
    let there = lineage(&vault_on(store(&objects), seeded(11)).await).await;
    let mut content = noise(1, 40 * CHUNK);
    let mut points = Vec::new();
    // The last one overwrites what the sixth wrote: only those between need that.
    for (number, at) in (0..24usize).chain([5]).enumerate() {
        content[at * CHUNK..(at + 1) * CHUNK].copy_from_slice(&noise(number as u64 + 100, CHUNK));
        points.push(commit_disk(&there, &content).await.expect("committed"));
    }
    let newest = points.last().expect("points");
    let mut older = contents(&objects).await;
    let mut live = crate::prune::live::Live::default();
    live.add(&there.0.maps, newest).await.expect("whole");
    older.retain(|key, _| !key.contains("/packs/") || live.data.keys().any(|pack| key.ends_with(&pack.to_string())));
    let run = farshore_core::RunId::from_bytes([1; 16]);
    there.pin(run, points[12].sequence).await.expect("pinned");
    prune_to_the_end(&objects, &KEEP_NEWEST).await;
    there.unpin(run).await.expect("given up");
    let plan = there.plan_prune(&KEEP_NEWEST, Grace { seconds: 0, commits: 1_000 }).await.expect("planned");
    assert_eq!(plan.dropped.len(), 1);
    there.prune(plan).await.expect("pruned");
    // The collection of frames is the larger one.
    let mut damaged = contents(&objects).await;
    let collections = of_kinds(&damaged, &["/collections/"]);
    let key = collections.max_by_key(|key| damaged[*key].len()).expect("one").clone();
    let header = damages(&damaged[&key]).remove(4).1;
    damaged.insert(key.clone(), header);
    let objects = store_of(&damaged).await;
    let (plan, report) = repair(&objects, &store_of(&older).await).await;
    assert_eq!((plan.replaced.len(), report.left.len(), report.commits.len()), (1, 0, 1), "{plan:?}");
    let (_, valid) = group_of(&objects).await.0.ledgers.newest().await.expect("readable");
    let named = &valid.expect("there is one").ledger.collections;
    assert!(named.iter().any(|collection| key.ends_with(&collection.id.to_string())), "it is still named");
    assert_whole(&objects, &BTreeMap::from([(newest.sequence, content)]), "the newest").await;
}

/// A point that was given up and can be brought back needs of a damaged pack what no other point needs.
#[tokio::test]
async fn what_points_need_that_can_come_back_is_moved_too() {
    let objects = begin_objects().await;
    let there = lineage(&vault_on(store(&objects), seeded(11)).await).await;
    let mut content = noise(1, 40 * CHUNK);
    let mut points = BTreeMap::new();
    points.insert(commit_disk(&there, &content).await.expect("committed").sequence, content.clone());
    content[..16 * CHUNK].copy_from_slice(&noise(2, 16 * CHUNK));
    points.insert(commit_disk(&there, &content).await.expect("committed").sequence, content.clone());
    let grace = Grace { seconds: 0, commits: 1_000 };
    let plan = there.plan_prune(&KEEP_NEWEST, grace).await.expect("planned");
    there.prune(plan).await.expect("pruned");
    let original = contents(&objects).await;
    let first = of_kinds(&original, &["/packs/"]).next().expect("a pack").clone();
    let mut damaged = original.clone();
    damaged.insert(first.clone(), Bytes::new());
    let objects = store_of(&damaged).await;
    let (plan, report) = repair(&objects, &store_of(&original).await).await;
    assert_eq!((plan.healed.len(), report.left.len()), (1, 0));
    let there = group_of(&objects).await;
    let plan = there.plan_prune(&KEEP_ALL, grace).await.expect("planned");
    assert_eq!(plan.revived.len(), 1);
    there.prune(plan).await.expect("pruned");
    assert_whole(&objects, &points, "brought back").await;
}

#[tokio::test]
async fn without_the_power_to_prune_only_what_is_missing_is_repaired() {
    let objects = Arc::new(InMemory::new());
    let (administrator, _) = make(store(&objects), "p").await.expect("made");
    let there = lineage(&administrator).await;
    for seed in 0..3 {
        commit_disk(&there, &noise(seed, 20 * CHUNK)).await.expect("committed");
    }
    let original = contents(&objects).await;
    let copy = store_of(&original).await;
    let packs: Vec<_> = of_kinds(&original, &["/packs/"]).cloned().collect();
    objects.delete(&Path::from(packs[0].as_str())).await.expect("deleted");
    objects.put(&Path::from(packs[1].as_str()), b"rot".to_vec().into()).await.expect("written");
    let mut left = 1;
    for power in [Power::Recoverer, Power::Controller, Power::Pruner] {
        let name = HostName::new(power.name()).expect("a good name");
        let far = Timestamp::from_unix_milliseconds(9_000_000_000_000);
        let join = administrator.invite(&name, &[power], far).await.expect("invited");
        let credential = HostCredential::new(&join, &SystemEntropy);
        credential.enrol(&store(&objects), &join, &context()).await.expect("joined");
        administrator.approve(&name).await.expect("approved");
        let opener = Opener::Host(Box::new(credential));
        let vault = Vault::open(store(&objects), &opener, context()).await.expect("opened");
        let plan = vault.plan_repair(Some(&store(&copy)), CheckDepth::Structure).await.expect("planned");
        if power == Power::Pruner {
            assert_eq!((plan.replaced.len(), plan.not_permitted.len()), (1, 0));
            left = 0;
        } else {
            assert!(plan.replaced.is_empty() && plan.left.len() == 1, "{plan:?}");
            assert!(
                plan.not_permitted.iter().all(|object| packs[1].ends_with(object)) && plan.not_permitted.len() == 1
            );
        }
        let report = vault.repair(&store(&copy), &plan).await.expect("repaired");
        assert_eq!(report.left.len(), left, "{power}");
        assert_eq!(contents(&objects).await.get(&packs[0]), original.get(&packs[0]), "what was missing is there");
    }
    assert_eq!(administrator.check(CheckDepth::Full, &|_| {}).await.expect("checked").findings, []);
    // A plan of somebody who may is refused to somebody who may not.
    objects.put(&Path::from(packs[2].as_str()), b"rot".to_vec().into()).await.expect("written");
    let plan = administrator.plan_repair(Some(&store(&copy)), CheckDepth::Structure).await.expect("planned");
    assert_eq!(plan.replaced.len(), 1);
}

#[tokio::test]
async fn beside_a_prune_one_of_the_two_is_given_up() {
    let (original, points) = original().await;
    let copy = store_of(&original).await;
    let key = of_kinds(&original, &["/packs/"]).last().expect("a pack").clone();
    let mut damaged = original.clone();
    damaged.insert(key, Bytes::new());
    let objects = store_of(&damaged).await;
    let vault = open(&objects).await;
    let there = group_of(&objects).await;
    let plan = vault.plan_repair(Some(&store(&copy)), CheckDepth::Structure).await.expect("planned");
    assert_eq!(plan.replaced.len(), 1);
    // The pin keeps the oldest of the points, which need the damaged pack; one between is given up.
    let prune = there.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect("planned");
    assert!(!prune.dropped.is_empty());
    there.prune(prune).await.expect("pruned");
    let error = vault.repair(&store(&copy), &plan).await.expect_err("another ledger counts");
    assert!(matches!(error, Error::LostRace { .. }), "{error}");
    let late = there.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect("planned");
    assert!(!late.is_empty());
    let (plan, report) = repair(&objects, &copy).await;
    assert_eq!((plan.replaced.len(), report.left.len()), (1, 0));
    let error = there.prune(late).await.expect_err("a repair has landed");
    assert!(matches!(error, Error::LostRace { .. }), "{error}");
    let standing = [points.iter().next(), points.iter().next_back()].into_iter().flatten();
    let standing: BTreeMap<_, _> = standing.map(|(at, held)| (*at, held.clone())).collect();
    assert_whole(&objects, &standing, "planned anew").await;
    prune_to_the_end(&objects, &KEEP_NEWEST).await;
    assert_whole(&objects, &standing, "swept").await;
}

/// A point that comes between plan and execution stands.
#[tokio::test]
async fn points_and_pins_that_come_between_stand() {
    let (original, mut points) = original().await;
    let copy = store_of(&original).await;
    let key = of_kinds(&original, &["/collections/"]).next().expect("one").clone();
    let mut damaged = original.clone();
    damaged.insert(key, Bytes::new());
    let objects = store_of(&damaged).await;
    let vault = open(&objects).await;
    let plan = vault.plan_repair(Some(&store(&copy)), CheckDepth::Structure).await.expect("planned");
    let content = noise(900, 40 * CHUNK);
    let point = commit_disk(&group_of(&store_of(&original).await).await, &content).await;
    drop(point.expect("a copy can be written to as well"));
    let there = group_of(&objects).await;
    let writer = there.begin_point(there.head().await.expect("readable").generation, &site("a")).await.expect("begun");
    let disk = writer.add_disk(&machine_id(), &disk_id("e"), content.len() as u64).await.expect("added");
    write_all(&disk, &content).await.expect("accepted");
    let late = writer.commit(details(&[(&machine_id(), &["e"])])).await.expect("committed").sequence;
    let run = farshore_core::RunId::from_bytes([9; 16]);
    there.pin(run, *points.keys().next_back().expect("one")).await.expect("pinned");
    let report = vault.repair(&store(&copy), &plan).await.expect("repaired");
    assert_eq!(report.left, []);
    assert_whole(&objects, &points, "points came between").await;
    points.clear();
    let fresh = group_of(&objects).await;
    let read = read_pieces(&fresh.open_point(late).await.expect("it stands"), "e").await.expect("readable");
    assert!(read == content);
    assert_eq!(fresh.head().await.expect("readable").pins.len(), 2);
}

/// A repair that copies back and replaces is killed at every operation, before its effect and after it.
#[tokio::test]
async fn a_repair_that_is_killed_anywhere_harms_nothing_and_is_finished_by_the_next() {
    let (original, points) = original().await;
    let copy = store_of(&original).await;
    let mut damaged = original.clone();
    let packs: Vec<_> = of_kinds(&original, &["/packs/"]).cloned().collect();
    damaged.remove(packs.last().expect("packs"));
    for kind in ["/maps/", "/collections/"] {
        let key = of_kinds(&original, &[kind]).last().expect("one").clone();
        damaged.insert(key, Bytes::new());
    }
    let hurt = {
        let report = open(&store_of(&damaged).await).await.check(CheckDepth::Full, &|_| {}).await.expect("checked");
        report.findings.iter().flat_map(|finding| &finding.points).map(|point| point.sequence).collect::<Vec<_>>()
    };
    let mut kills = 0;
    for fault in [Fault::Before, Fault::After] {
        for fail_at in 0.. {
            let objects = store_of(&damaged).await;
            // A plan only reads.
            let plan =
                open(&objects).await.plan_repair(Some(&store(&copy)), CheckDepth::Structure).await.expect("planned");
            assert_eq!((plan.objects.len(), plan.replaced.len()), (1, 2));
            let faulty = Arc::new(FaultyStore::new(&objects, fail_at, fault, true));
            let killed = vault_on(wrap(faulty.clone()), seeded(1_000 + fail_at as u64)).await;
            let outcome = killed.repair(&store(&copy), &plan).await;
            if faulty.operations() <= fail_at {
                outcome.expect("nothing was in its way");
                break;
            }
            kills += 1;
            let what = format!("kill {fail_at} {fault:?}");
            let after = contents(&objects).await;
            assert!(damaged.iter().all(|(key, bytes)| after.get(key) == Some(bytes)), "{what}");
            let report = open(&objects).await.check(CheckDepth::Structure, &|_| {}).await.expect("checked");
            let mut now = report.findings.iter().flat_map(|finding| &finding.points).map(|point| point.sequence);
            assert!(now.all(|point| hurt.contains(&point)), "{what}");
            let (_, report) = repair(&objects, &copy).await;
            assert_eq!(report.left, [], "{what}");
            assert_whole(&objects, &points, &what).await;
        }
    }
    assert!(kills > 40, "only {kills} operations were hit");
}
