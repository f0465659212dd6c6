//! A repair brings back what is lost, from a copy in which it is right, and touches nothing else: over a corpus of vaults of
//! which it is known what is lost.

use std::collections::BTreeMap;

use farshore_core::Sequence;
use object_store::{ObjectStoreExt, PutPayload, path::Path};

use super::*;
use crate::{CheckDepth, Error, Grace, RepairPlan};

pub(super) type Objects = BTreeMap<String, Bytes>;

pub(super) async fn contents(objects: &InMemory) -> Objects {
    let mut contents = BTreeMap::new();
    for (key, _) in super::objects(objects).await {
        let bytes = objects.get(&Path::from(key.as_str())).await.expect("there").bytes().await.expect("there");
        contents.insert(key, bytes);
    }
    contents
}

/// A store with the header of the vault that the tests share.
pub(super) async fn begin_objects() -> Arc<InMemory> {
    let objects = Arc::new(InMemory::new());
    let (key, header) = vault_on(store(&objects), seeded(1)).await.header_object();
    objects.put(&Path::from(format!("v/{key}")), header.into()).await.expect("written");
    objects
}

pub(super) async fn store_of(contents: &Objects) -> Arc<InMemory> {
    let objects = Arc::new(InMemory::new());
    for (key, bytes) in contents {
        objects.put(&Path::from(key.as_str()), PutPayload::from(bytes.clone())).await.expect("written");
    }
    objects
}

/// A vault with points before and after prunes, so that there are moved pieces and a ledger; and what each point holds.
pub(super) async fn original() -> (Objects, BTreeMap<Sequence, Vec<u8>>) {
    let objects = begin_objects().await;
    let vault = vault_on(store(&objects), seeded(11)).await;
    let lineage = lineage(&vault).await;
    let mut content = noise(1, 40 * CHUNK);
    for number in 0..24usize {
        content[number * CHUNK..(number + 1) * CHUNK].copy_from_slice(&noise(number as u64 + 100, CHUNK));
        commit_disk(&lineage, &content).await.expect("committed");
    }
    let grace = Grace { seconds: 0, commits: 0 };
    for _ in 0..3 {
        let plan = lineage.plan_prune(&KEEP_NEWEST, grace).await.expect("planned");
        lineage.prune(plan).await.expect("pruned");
    }
    let mut points = BTreeMap::new();
    for number in 30..33usize {
        content[number * CHUNK..(number + 1) * CHUNK].copy_from_slice(&noise(number as u64 + 100, CHUNK));
        points.insert(commit_disk(&lineage, &content).await.expect("committed").sequence, content.clone());
    }
    lineage
        .pin(farshore_core::RunId::from_bytes([1; 16]), *points.keys().next().expect("points"))
        .await
        .expect("pinned");
    (contents(&objects).await, points)
}

pub(super) async fn open(objects: &Arc<InMemory>) -> Vault {
    vault_on(store(objects), seeded(5)).await
}

/// That the vault holds what it should.
pub(super) async fn assert_whole(objects: &Arc<InMemory>, points: &BTreeMap<Sequence, Vec<u8>>, what: &str) {
    let vault = open(objects).await;
    assert_eq!(vault.check(CheckDepth::Full, &|_| {}).await.expect("checked").findings, [], "{what}");
    let lineage = vault.lineage(&group()).await.expect("readable").expect("there");
    for (point, content) in points {
        let point = lineage.point(*point).await.expect("it stands");
        assert!(restore(&lineage, &point).await.expect("readable") == *content, "{what}");
    }
}

pub(super) async fn repair(objects: &Arc<InMemory>, copy: &Arc<InMemory>) -> (RepairPlan, crate::RepairReport) {
    let vault = open(objects).await;
    let plan = vault.plan_repair(Some(&store(copy)), CheckDepth::Structure).await.expect("planned");
    let report = vault.repair(&store(copy), &plan).await.expect("repaired");
    (plan, report)
}

/// Objects that a check can miss: the newest commit cannot be told from one that never was.
fn lineage_objects(original: &Objects) -> Vec<String> {
    let newest = original.keys().filter(|key| key.contains("/commits/")).max().expect("commits").clone();
    let kinds = ["/packs/", "/maps/", "/collections/", "/ledgers/", "/commits/"];
    original.keys().filter(|key| kinds.iter().any(|kind| key.contains(kind)) && **key != newest).cloned().collect()
}

#[tokio::test]
async fn each_lost_object_comes_back_as_it_was_and_nothing_else_changes() {
    let (original, points) = original().await;
    let copy = store_of(&original).await;
    let (mut needed, mut idle) = (BTreeMap::new(), 0);
    for key in lineage_objects(&original) {
        let mut damaged = original.clone();
        damaged.remove(&key);
        let objects = store_of(&damaged).await;
        let (plan, report) = repair(&objects, &copy).await;
        assert_whole(&objects, &points, &key).await;
        if plan.findings.is_empty() {
            // What a prune left behind that no point needs.
            assert!(plan.objects.is_empty() && report.objects_copied == 0, "{key}");
            idle += 1;
            continue;
        }
        let planned: Vec<_> = plan.objects.iter().map(|lost| format!("v/{}", lost.object)).collect();
        assert_eq!((planned, plan.left.as_slice(), report.left.as_slice()), (vec![key.clone()], &[][..], &[][..]));
        assert_eq!(contents(&objects).await.get(&key), original.get(&key), "{key}");
        let kind = key.split('/').nth(3).expect("a kind").to_owned();
        *needed.entry(kind).or_insert(0) += 1;
    }
    let kinds: Vec<&str> = needed.keys().map(String::as_str).collect();
    assert_eq!(kinds, ["collections", "commits", "ledgers", "maps", "packs"], "{needed:?}, {idle} not needed");
}

#[tokio::test]
async fn what_is_wrong_in_the_copy_is_not_brought_back() {
    let (original, points) = original().await;
    for key in lineage_objects(&original) {
        let mut damaged = original.clone();
        let bytes = damaged.remove(&key).expect("there").to_vec();
        let mut flipped = bytes.clone();
        *flipped.last_mut().expect("not empty") ^= 1;
        let kind = key.split('/').nth(3).expect("a kind").to_owned();
        let other = original.iter().find(|(other, _)| **other != key && other.contains(&format!("/{kind}/")));
        let mut wrong = vec![flipped, bytes[..bytes.len() - 1].to_vec(), Vec::new()];
        wrong.extend(other.map(|(_, bytes)| bytes.to_vec()));
        for wrong in wrong {
            let mut copy = original.clone();
            copy.insert(key.clone(), Bytes::from(wrong));
            let (objects, copy) = (store_of(&damaged).await, store_of(&copy).await);
            let (plan, report) = repair(&objects, &copy).await;
            let after = contents(&objects).await;
            assert!(damaged.iter().all(|(key, bytes)| after.get(key) == Some(bytes)), "{key}: nothing else changes");
            if plan.findings.is_empty() {
                assert_eq!(after.len(), damaged.len(), "{key}");
            } else if kind == "maps" && plan.refused.is_empty() {
                // A page that no point needs may be wrong.
                assert_whole(&objects, &points, &key).await;
            } else {
                assert!(plan.objects.is_empty() && report.objects_copied == 0 && !report.left.is_empty(), "{key}");
                assert!(plan.refused.iter().any(|refused| key.ends_with(refused)) && !after.contains_key(&key));
            }
        }
    }
}

/// Below a lost map lie packs that nobody could miss until the map is there again.
#[tokio::test]
async fn what_the_loss_had_hidden_comes_back_too() {
    let (original, points) = original().await;
    let copy = store_of(&original).await;
    let mut damaged = original.clone();
    damaged.retain(|key, _| !["/packs/", "/maps/", "/collections/"].iter().any(|kind| key.contains(kind)));
    let objects = store_of(&damaged).await;
    let vault = open(&objects).await;
    let alone = vault.plan_repair(None, CheckDepth::Structure).await.expect("planned");
    assert!(alone.objects.is_empty() && alone.left == alone.findings && !alone.findings.is_empty());
    let (plan, report) = repair(&objects, &copy).await;
    assert!(plan.objects.len() > plan.findings.len());
    let healed: Vec<_> = plan.healed.iter().map(|point| point.sequence).collect();
    assert!(points.keys().all(|point| healed.contains(point)), "{healed:?}");
    assert_eq!((report.objects_copied, report.left.len()), (plan.objects.len() as u64, 0));
    assert_whole(&objects, &points, "all packs and maps").await;
    // Once more there is nothing to do.
    let (plan, report) = repair(&objects, &copy).await;
    assert_eq!((plan.findings.len(), report.objects_copied), (0, 0));
}

/// Commits and ledgers have one name only, and readers look nowhere else.
#[tokio::test]
async fn a_damaged_commit_or_ledger_is_left_alone_and_can_be_repaired_once_it_was_moved_aside() {
    let (original, points) = original().await;
    let copy = store_of(&original).await;
    let newest = points.keys().next_back().expect("points").get();
    let commit = format!("/commits/{:020}", newest - 1);
    for kind in [commit.as_str(), "/ledgers/"] {
        let key = original.keys().rfind(|key| key.contains(kind)).expect("one").clone();
        let mut damaged = original.clone();
        let mut bytes = damaged[&key].to_vec();
        bytes.truncate(bytes.len() - 10);
        damaged.insert(key.clone(), Bytes::from(bytes));
        let objects = store_of(&damaged).await;
        let (plan, report) = repair(&objects, &copy).await;
        assert!(plan.is_empty() && plan.replaced.is_empty() && !plan.left.is_empty(), "{plan:?}");
        assert_eq!(report.left, plan.left);
        assert_eq!(contents(&objects).await, damaged, "{key}");
        objects.delete(&Path::from(key.as_str())).await.expect("moved aside");
        let (plan, report) = repair(&objects, &copy).await;
        assert_eq!((plan.objects.len(), report.left.len()), (1, 0), "{plan:?}");
        assert_whole(&objects, &points, "moved aside").await;
    }
}

/// Two hosts that each believed to have the vault have gone on apart: their histories are not mixed.
#[tokio::test]
async fn a_commit_of_another_history_is_not_brought_back() {
    let objects = begin_objects().await;
    let lineage = lineage(&vault_on(store(&objects), seeded(1)).await).await;
    commit_disk(&lineage, &noise(1, CHUNK)).await.expect("committed");
    let copy = store_of(&contents(&objects).await).await;
    for (objects, seed) in [(&objects, 50), (&copy, 60)] {
        let vault = vault_on(store(objects), seeded(seed)).await;
        let lineage = vault.lineage(&group()).await.expect("readable").expect("there");
        for number in 0..2 {
            commit_disk(&lineage, &noise(seed + number, CHUNK)).await.expect("committed");
        }
    }
    let middle = format!("v/{}", crate::commit::commit_key(lineage.id(), Sequence::new(3)));
    objects.delete(&Path::from(middle.as_str())).await.expect("deleted");
    let (plan, report) = repair(&objects, &copy).await;
    assert!(plan.refused.iter().any(|object| middle.ends_with(object)), "{plan:?}");
    assert!(plan.objects.is_empty() && !report.left.is_empty() && !contents(&objects).await.contains_key(&middle));
}

#[tokio::test]
async fn only_a_copy_of_the_same_vault_is_one() {
    let objects = Arc::new(InMemory::new());
    let (vault, _) = make(store(&objects), "p").await.expect("made");
    let other = Arc::new(InMemory::new());
    make(store(&other), "p").await.expect("made");
    assert!(matches!(
        vault.plan_repair(Some(&store(&other)), CheckDepth::Structure).await,
        Err(Error::OtherVault { .. })
    ));
    assert!(matches!(
        vault.plan_repair(Some(&store(&Arc::default())), CheckDepth::Structure).await,
        Err(Error::OtherVault { .. })
    ));
}
