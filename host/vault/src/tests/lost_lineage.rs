//! A lineage of which no listing shows anything any more comes back from a copy that still has it, as a whole or not at all.

use std::collections::BTreeMap;

use farshore_core::Sequence;
use object_store::{ObjectStoreExt, path::Path};

use super::{
    faulty::{Fault, FaultyStore},
    repair::{Objects, assert_whole, contents, open, original, repair, store_of},
    *,
};
use crate::{CheckDepth, Error};

fn without_lineages(original: &Objects) -> Objects {
    original
        .iter()
        .filter(|(key, _)| !key.contains("/lineages/"))
        .map(|(key, held)| (key.clone(), held.clone()))
        .collect()
}

fn commits(objects: &Objects) -> Vec<String> {
    objects.keys().filter(|key| key.contains("/commits/")).cloned().collect()
}

#[tokio::test]
async fn a_lineage_that_is_gone_comes_back_as_it_was() {
    let (original, points) = original().await;
    let copy = store_of(&original).await;
    let objects = store_of(&without_lineages(&original)).await;
    let nothing = open(&objects).await.check(CheckDepth::Full, &|_| {}).await.expect("checked");
    assert_eq!((nothing.findings.len(), nothing.points_checked), (0, 0), "a listing tells of nothing");
    let (plan, report) = repair(&objects, &copy).await;
    assert_eq!((plan.lineages.len(), plan.findings.len(), plan.left.len()), (1, 1, 0), "{plan:?}");
    let healed: Vec<_> = plan.healed.iter().map(|point| point.sequence).collect();
    assert!(points.keys().all(|point| healed.contains(point)));
    assert_eq!((report.objects_copied, report.left.len()), (plan.objects.len() as u64, 0));
    let after = contents(&objects).await;
    assert!(after.iter().all(|(key, bytes)| original.get(key) == Some(bytes)), "nothing but what was there");
    assert_whole(&objects, &points, "it is back").await;
    let there = open(&objects).await.lineage(&group()).await.expect("readable").expect("there");
    let before = open(&copy).await.lineage(&group()).await.expect("readable").expect("there");
    assert_eq!(there.head().await.expect("readable"), before.head().await.expect("readable"));
    // It goes on: a point is added, and a prune finds its way.
    commit_disk(&there, &noise(1, 40 * CHUNK)).await.expect("committed");
    let plan = there.plan_prune(&KEEP_NEWEST, crate::Grace { seconds: 0, commits: 0 }).await.expect("planned");
    there.prune(plan).await.expect("pruned");
    let (plan, _) = repair(&objects, &copy).await;
    assert!(plan.findings.is_empty() && plan.is_empty());
}

/// As one that has the copy of the first commit only by its listing, which may leave it out.
#[tokio::test]
async fn a_lineage_of_which_only_the_first_commit_is_gone_gets_nothing_else() {
    let (original, points) = original().await;
    let copy = store_of(&original).await;
    let mut damaged = original.clone();
    damaged.remove(&commits(&original)[0]);
    let objects = store_of(&damaged).await;
    let (plan, report) = repair(&objects, &copy).await;
    assert_eq!((plan.objects.len(), plan.lineages.len(), report.left.len()), (1, 1, 0));
    assert_eq!(contents(&objects).await, original);
    assert_whole(&objects, &points, "the first commit").await;
}

/// What would be taken for the whole lineage must be the whole of what the copy has.
#[tokio::test]
async fn a_lineage_whose_commits_are_not_right_in_the_copy_does_not_come_back() {
    let (original, _) = original().await;
    let empty = without_lineages(&original);
    let there = open(&store_of(&original).await).await.lineage(&group()).await.expect("readable").expect("there");
    let newest = there.head().await.expect("readable").sequence;
    let key = |number: u64| format!("v/{}", crate::commit::commit_key(there.id(), Sequence::new(number)));
    let boundaries = original.keys().filter(|key| key.contains("/boundaries/")).cloned();
    let wrong: Vec<String> = (newest.get() - 2..=newest.get()).map(key).chain([key(1)]).chain(boundaries).collect();
    for key in wrong {
        for is_hole in [true, false] {
            let is_newest = key == format!("v/{}", crate::commit::commit_key(there.id(), newest));
            if is_hole && (is_newest || key.contains("/boundaries/") || key.ends_with("/00000000000000000001")) {
                // Nobody can tell that from a copy that never had it.
                continue;
            }
            let mut copied = original.clone();
            let bytes = copied.remove(&key).expect("there");
            if !is_hole {
                let mut flipped = bytes.to_vec();
                *flipped.last_mut().expect("not empty") ^= 1;
                copied.insert(key.clone(), Bytes::from(flipped));
            }
            let (objects, copy) = (store_of(&empty).await, store_of(&copied).await);
            let (plan, report) = repair(&objects, &copy).await;
            assert!(plan.lineages.is_empty() && plan.objects.is_empty(), "{key}, hole: {is_hole}: {plan:?}");
            assert_eq!((plan.findings.len(), plan.left.len(), report.objects_copied), (1, 1, 0), "{key}");
            assert_eq!(contents(&objects).await, empty, "{key}");
        }
    }
}

/// Packs that are not right in the copy hurt their points, and keep nothing else from coming back.
#[tokio::test]
async fn what_else_is_wrong_in_the_copy_hurts_no_more_than_it_does_there() {
    let (original, points) = original().await;
    let mut copied = original.clone();
    let pack = copied.keys().rfind(|key| key.contains("/packs/")).expect("one").clone();
    copied.insert(pack.clone(), Bytes::from_static(b"rot"));
    let (objects, copy) = (store_of(&without_lineages(&original)).await, store_of(&copied).await);
    let (plan, report) = repair(&objects, &copy).await;
    assert_eq!((plan.lineages.len(), plan.left.len(), report.left.len()), (1, 1, 1), "{plan:?}");
    assert!(pack.ends_with(&plan.left[0].object) && !contents(&objects).await.contains_key(&pack));
    let hurt: Vec<_> = report.left[0].points.iter().map(|point| point.sequence).collect();
    let whole: BTreeMap<_, _> = points.into_iter().filter(|(point, _)| !hurt.contains(point)).collect();
    assert!(!whole.is_empty() && !hurt.is_empty());
    let there = open(&objects).await.lineage(&group()).await.expect("readable").expect("there");
    for (point, content) in whole {
        let point = there.point(point).await.expect("it stands");
        assert!(restore(&there, &point).await.expect("readable") == content);
    }
}

/// Until the first commit is there, nobody can write to the lineage or begin it anew; then it is whole.
#[tokio::test]
async fn a_repair_that_is_killed_leaves_no_lineage_that_is_shorter_than_it_was() {
    let (original, points) = original().await;
    let copy = store_of(&original).await;
    let empty = without_lineages(&original);
    let head =
        open(&copy).await.lineage(&group()).await.expect("readable").expect("there").head().await.expect("readable");
    let mut states = BTreeMap::new();
    for fault in [Fault::Before, Fault::After] {
        for fail_at in 0.. {
            let objects = store_of(&empty).await;
            // A plan only reads.
            let plan =
                open(&objects).await.plan_repair(Some(&store(&copy)), CheckDepth::Structure).await.expect("planned");
            let faulty = Arc::new(FaultyStore::new(&objects, fail_at, fault, true));
            let killed = vault_on(wrap(faulty.clone()), seeded(2_000 + fail_at as u64)).await;
            let outcome = killed.repair(&store(&copy), &plan).await;
            if faulty.operations() <= fail_at {
                outcome.expect("nothing was in its way");
                break;
            }
            let what = format!("kill {fail_at} {fault:?}");
            let there = commits(&contents(&objects).await);
            let begun = open(&objects).await.lineage(&group()).await;
            let state = match (&begun, there.is_empty()) {
                (Ok(None), true) => "nothing",
                (Err(Error::ObjectMissing { .. }), _) => "begun, and closed",
                (Ok(Some(_)), false) => "whole",
                other => panic!("{what}: {other:?}"),
            };
            *states.entry(state).or_insert(0) += 1;
            if state != "whole" {
                repair(&objects, &copy).await;
            }
            let there = open(&objects).await.lineage(&group()).await.expect("readable").expect("there");
            assert_eq!(there.head().await.expect("readable"), head, "{what}");
            assert_whole(&objects, &points, &what).await;
        }
    }
    assert_eq!(states.len(), 3, "{states:?}");
}

#[tokio::test]
async fn a_lineage_that_was_begun_anew_is_left_alone() {
    let (original, _) = original().await;
    let copy = store_of(&original).await;
    let objects = store_of(&without_lineages(&original)).await;
    let vault = open(&objects).await;
    let plan = vault.plan_repair(Some(&store(&copy)), CheckDepth::Structure).await.expect("planned");
    let there = lineage(&vault_on(store(&objects), seeded(90)).await).await;
    let content = noise(4, CHUNK);
    let point = commit_disk(&there, &content).await.expect("committed");
    let before = contents(&objects).await;
    let error = vault.repair(&store(&copy), &plan).await.expect_err("it is another lineage by now");
    assert!(matches!(error, Error::LostRace { .. }), "{error}");
    let new = |after: &Objects| after.keys().filter(|key| !before.contains_key(*key)).cloned().collect::<Vec<_>>();
    assert_eq!(new(&contents(&objects).await), Vec::<String>::new());
    let there = open(&objects).await.lineage(&group()).await.expect("readable").expect("there");
    assert!(restore(&there, &point).await.expect("readable") == content);
    let (plan, _) = repair(&objects, &copy).await;
    assert!(plan.is_empty() && plan.lineages.is_empty());
    objects.delete(&Path::from(commits(&original)[0].as_str())).await.expect("deleted");
}
