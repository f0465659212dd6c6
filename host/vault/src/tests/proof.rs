//! What was proven of a point stands beside it, said only by who can have proven it; and it is never in anybody's way.

use farshore_core::Sequence;
use object_store::{ObjectStoreExt, path::Path};

use super::{powers::World, *};
use crate::{CheckDepth, Error, Grace, Power, ProofClaim, ProofKind, SampleSize, telling_proofs};

const KINDS: [ProofKind; 5] = [
    ProofKind::Structure,
    ProofKind::Sample { billionths: 20_000_000 },
    ProofKind::Full,
    ProofKind::Restored,
    ProofKind::Drill,
];

fn claim(what: ProofKind) -> ProofClaim {
    let at = |second: i64| Timestamp::from_unix_milliseconds(second * 1_000);
    ProofClaim { what, begun_at: at(10), ended_at: at(20), bytes_read: 77, hurt: None }
}

fn proof_keys(objects: &[(String, u64)]) -> Vec<String> {
    objects.iter().filter(|(key, _)| key.contains("/proofs/")).map(|(key, _)| key.clone()).collect()
}

#[tokio::test]
async fn a_check_says_of_each_point_what_it_proved() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    // The second point needs the first pack and its own, the first one the first pack only.
    let mut content = noise(1, 20 * CHUNK);
    commit_disk(&lineage, &content).await.expect("committed");
    let known = super::objects(&objects).await;
    content[..CHUNK].copy_from_slice(&noise(2, CHUNK));
    commit_disk(&lineage, &content).await.expect("committed");
    let new = super::objects(&objects).await;
    let new = new.iter().find(|(key, _)| key.contains("/packs/") && !known.iter().any(|(known, _)| known == key));
    assert!(lineage.proofs(Sequence::new(2)).await.expect("readable").is_empty(), "nothing was proven yet");
    assert!(lineage.points_with_proofs().await.expect("listed").is_empty());

    let sample = CheckDepth::Sample(SampleSize::Billionths(1_000_000_000));
    for (depth, kind) in [
        (CheckDepth::Structure, ProofKind::Structure),
        (sample, ProofKind::Sample { billionths: 1_000_000_000 }),
        (CheckDepth::Full, ProofKind::Full),
    ] {
        let report = vault.check(depth, &|_| {}).await.expect("checked");
        assert_eq!(vault.record(&report).await.expect("written"), 2);
        let points = lineage.points_with_proofs().await.expect("listed");
        assert_eq!(points, [Sequence::new(3), Sequence::new(2)], "each once, the newest first");
        for point in [2, 3] {
            let proofs = lineage.proofs(Sequence::new(point)).await.expect("readable");
            let newest = proofs.iter().max_by_key(|proof| proof.received_at).expect("it was just written");
            let newest = proofs.iter().filter(|proof| proof.received_at == newest.received_at);
            assert!(newest.clone().any(|proof| proof.claim.what == kind && proof.is_whole()), "{proofs:?}");
            assert!(newest.clone().all(|proof| proof.claim.bytes_read == report.bytes_read && report.bytes_read > 0));
        }
        a_moment().await;
    }

    objects.delete(&Path::from(new.expect("a pack").0.as_str())).await.expect("deleted");
    let report = vault.check(CheckDepth::Structure, &|_| {}).await.expect("checked");
    vault.record(&report).await.expect("written");
    let newest = async |point| {
        let proofs = lineage.proofs(Sequence::new(point)).await.expect("readable");
        proofs.into_iter().max_by_key(|proof| proof.received_at).expect("there").claim.hurt
    };
    assert_eq!(newest(2).await, None);
    let hurt = newest(3).await.expect("it is hurt");
    assert_eq!((hurt.objects, hurt.machines, hurt.bytes), (1, 1, CHUNK as u64));
}

#[tokio::test]
async fn only_who_can_have_proven_it_says_so_and_nobody_else_is_believed() {
    let world = World::new().await;
    let lineage = lineage(&world.administrator).await;
    let point = commit_disk(&lineage, &noise(1, CHUNK)).await.expect("committed").sequence;
    for kind in KINDS {
        lineage.record_proof(point, &claim(kind)).await.expect("the administrator can have done everything");
    }
    let mut believed = KINDS.len();
    for power in Power::ALL {
        let vault = world.open(&world.host(power.name(), &[power]).await).await.expect("opened");
        if power == Power::Replicator {
            // It did not begin the group.
            world.administrator.approve(&host("replicator")).await.expect("approved");
        }
        let vault_lineage = vault.lineage(&group()).await.expect("readable").expect("there");
        for kind in KINDS {
            let may = match power {
                Power::Recoverer => true,
                Power::Controller | Power::Pruner => kind == ProofKind::Structure,
                Power::Replicator => false,
            };
            let depth = if kind == ProofKind::Structure { CheckDepth::Structure } else { CheckDepth::Full };
            assert_eq!(vault.may_record(depth), may, "{power} {kind:?}");
            match vault_lineage.record_proof(point, &claim(kind)).await {
                Ok(()) => assert!(may, "{power} {kind:?}"),
                Err(error) => assert!(!may && matches!(error, Error::PowerMissing { .. }), "{power} {kind:?}: {error}"),
            }
            believed += usize::from(may);
            // Whoever has the keys of metadata can write the object all the same: it is not believed.
            let (key, bytes) = vault_lineage.forged_proof(point, &claim(kind)).await.expect("it has the keys");
            world.objects.put(&Path::from(format!("v/{key}")), bytes.into()).await.expect("written");
            believed += usize::from(may);
            let read = lineage.proofs(point).await.expect("readable");
            assert_eq!(read.len(), believed, "{power} {kind:?}");
        }
    }
    // All of them are there; what is not believed is passed over.
    assert!(proof_keys(&super::objects(&world.objects).await).len() > believed);
}

fn host(name: &str) -> farshore_core::HostName {
    farshore_core::HostName::new(name).expect("a good name")
}

#[tokio::test]
async fn a_proof_that_was_altered_or_moved_is_none_and_hides_no_other() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    for seed in 0..2 {
        commit_disk(&lineage, &noise(seed, CHUNK)).await.expect("committed");
    }
    let (first, second) = (Sequence::new(2), Sequence::new(3));
    lineage.record_proof(first, &claim(ProofKind::Full)).await.expect("written");
    let [key] = &proof_keys(&super::objects(&objects).await)[..] else { panic!("one proof") };
    let bytes = objects.get(&Path::from(key.as_str())).await.expect("there").bytes().await.expect("there");
    let put = async |key: String, bytes: Vec<u8>| {
        objects.put(&Path::from(key), bytes.into()).await.expect("written");
    };
    let moved = key.replace("/00000000000000000002/", "/00000000000000000003/");
    put(moved, bytes.to_vec()).await;
    assert_eq!(lineage.proofs(second).await.expect("readable"), []);
    let renamed = format!("{}{:032x}", &key[..key.len() - 32], 5);
    put(renamed, bytes.to_vec()).await;
    for position in [0, 10, 11, 12, 20, 60, 100, bytes.len() - 1] {
        let mut altered = bytes.to_vec();
        altered[position] ^= 1;
        put(format!("{}{:032x}", &key[..key.len() - 32], 100 + position), altered).await;
        put(format!("{}{:032x}", &key[..key.len() - 32], 9_000 + position), bytes[..position].to_vec()).await;
    }
    put(format!("{}notes", &key[..key.len() - 32]), b"hello".to_vec()).await;
    let proofs = lineage.proofs(first).await.expect("readable");
    assert_eq!(proofs.iter().map(|proof| proof.claim).collect::<Vec<_>>(), [claim(ProofKind::Full)]);
    // They are in nobody's way.
    assert_eq!(vault.check(CheckDepth::Full, &|_| {}).await.expect("checked").findings, []);
    assert_eq!(lineage.points(None, 10).await.expect("readable").len(), 2);
    lineage.plan_prune(&KEEP_ALL, Grace::default()).await.expect("planned");
}

#[tokio::test]
async fn a_prune_deletes_the_proofs_of_points_that_are_gone_and_those_that_say_nothing_new() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    for seed in 0..3 {
        commit_disk(&lineage, &noise(seed, CHUNK)).await.expect("committed");
    }
    let numbers = [2, 3, 4].map(Sequence::new);
    for point in numbers {
        for (second, what) in (10..).zip([ProofKind::Full, ProofKind::Structure, ProofKind::Structure]) {
            let ended_at = Timestamp::from_unix_milliseconds(second * 1_000);
            lineage.record_proof(point, &ProofClaim { ended_at, ..claim(what) }).await.expect("written");
        }
    }
    let grace = Grace { seconds: 0, commits: 0 };
    let plan = lineage.plan_prune(&KEEP_NEWEST, grace).await.expect("planned");
    // No point is gone for ever yet: of each, the older of the two alike goes.
    assert_eq!((plan.dropped.len(), plan.proofs_deleted), (2, 3));
    let report = lineage.prune(plan).await.expect("pruned");
    assert_eq!((report.proofs_deleted, proof_keys(&super::objects(&objects).await).len()), (3, 6));
    let newest = lineage.proofs(numbers[2]).await.expect("readable");
    let ends: Vec<_> = newest.iter().map(|proof| proof.claim.ended_at.as_unix_milliseconds()).collect();
    assert_eq!(ends, [12_000, 10_000]);

    let plan = lineage.plan_prune(&KEEP_NEWEST, grace).await.expect("planned");
    let report = lineage.prune(plan).await.expect("pruned");
    assert!(report.deleted.objects > 0);
    let left = proof_keys(&super::objects(&objects).await);
    assert_eq!((report.proofs_deleted, left.len()), (4, 2));
    assert!(left.iter().all(|key| key.contains("/00000000000000000004/")), "{left:?}");
}

#[tokio::test]
async fn a_proof_of_a_point_that_is_not_there_is_refused() {
    let vault = vault_on(store(&Arc::default()), context()).await;
    let lineage = lineage(&vault).await;
    let refused = lineage.record_proof(Sequence::new(1), &claim(ProofKind::Full)).await;
    assert!(matches!(refused, Err(Error::PointMissing { .. })), "the first commit is no point");
    assert!(matches!(lineage.proofs(Sequence::new(9)).await, Err(Error::PointMissing { .. })));
}

/// A sample that looks elsewhere does not make a point whole: neither for people nor for a prune.
#[tokio::test]
async fn a_point_that_was_found_hurt_stays_so_until_all_its_data_was_read() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    // One that prunes give up, so that they have something to do.
    commit_disk(&lineage, &noise(2, 64 * CHUNK)).await.expect("committed");
    let point = commit_disk(&lineage, &noise(1, 64 * CHUNK)).await.expect("committed").sequence;
    let (key, _) = super::objects(&objects).await.into_iter().rfind(|(key, _)| key.contains("/packs/")).expect("one");
    let whole = objects.get(&Path::from(key.as_str())).await.expect("there").bytes().await.expect("there");
    let mut rotten = whole.to_vec();
    *rotten.last_mut().expect("not empty") ^= 1;
    objects.put(&Path::from(key.as_str()), rotten.into()).await.expect("written");
    let all = CheckDepth::Sample(SampleSize::Billionths(1_000_000_000));
    let none = CheckDepth::Sample(SampleSize::Billionths(1));
    let told = async || {
        let proofs = lineage.proofs(point).await.expect("readable");
        telling_proofs(&proofs).first().map(|proof| (proof.claim.what.name(), proof.is_whole())).expect("proven")
    };
    for (depth, expected) in
        [(all, ("sample", false)), (none, ("sample", false)), (CheckDepth::Structure, ("sample", false))]
    {
        let report = vault.check(depth, &|_| {}).await.expect("checked");
        vault.record(&report).await.expect("kept");
        assert_eq!(told().await, expected, "{depth:?}");
        a_moment().await;
    }
    for _ in 0..3 {
        let plan = lineage.plan_prune(&KEEP_NEWEST, Grace { seconds: 0, commits: 0 }).await.expect("planned");
        lineage.prune(plan).await.expect("pruned");
    }
    assert_eq!(told().await, ("sample", false), "no prune makes it forgotten");
    objects.put(&Path::from(key.as_str()), whole.into()).await.expect("mended");
    let report = vault.check(CheckDepth::Full, &|_| {}).await.expect("checked");
    vault.record(&report).await.expect("kept");
    assert_eq!(told().await, ("full", true));
}
