//! A check names what is damaged, the points and machines that it hurts, and no others.

use std::sync::Mutex;

use object_store::{ObjectStoreExt, path::Path};

use super::{faulty::FaultyStore, *};
use crate::{CheckDepth, Error, HurtExtent, SampleSize};

#[tokio::test]
async fn a_damaged_frame_hurts_the_machine_and_the_points_that_need_it_only() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let machines = ["vm-1", "vm-2"].map(|name| MachineId::new(name).expect("a good name"));
    let both: [(&MachineId, &[&str]); 2] = [(&machines[0], &["d"]), (&machines[1], &["d"])];
    let mut damaged = String::new();
    // The first machine's disk is written in the first cycle and overwritten in the third, the second's once.
    for cycle in 0..4u64 {
        let writer = begin(&lineage).await;
        for (number, machine) in machines.iter().enumerate() {
            let disk = writer.add_disk(machine, &disk_id("d"), 2 << 20).await.expect("added");
            if (number == 0 && (cycle == 1 || cycle == 3)) || (number == 1 && cycle == 0) {
                disk.write(0, Bytes::from(noise(cycle, 1 << 20))).await.expect("accepted");
            }
        }
        let known = self::objects(&objects).await;
        writer.commit(details(&both)).await.expect("committed");
        if cycle == 1 {
            let new = self::objects(&objects)
                .await
                .into_iter()
                .find(|object| !known.contains(object) && object.0.contains("/packs/"));
            damaged = new.expect("a pack").0;
        }
    }
    let calls = Mutex::new(Vec::new());
    let report = vault.check(CheckDepth::Full, &|progress| calls.lock().expect("sound").push(progress.clone())).await;
    let report = report.expect("checked");
    assert_eq!((report.findings.len(), report.points_checked), (0, 4));
    assert_eq!(report.frames_verified, 3);
    let calls = calls.into_inner().expect("sound");
    assert_eq!(calls.last().map(|last| (last.points_checked, last.points_total)), Some((4, 4)));

    let path = Path::from(damaged.as_str());
    let mut bytes = objects.get(&path).await.expect("there").bytes().await.expect("there").to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    objects.put(&path, bytes.into()).await.expect("written");
    let vault = vault_on(store(&objects), context()).await;
    let report = vault.check(CheckDepth::Structure, &|_| {}).await.expect("checked");
    assert_eq!(report.findings, [], "the structure is whole");
    let report = vault.check(CheckDepth::Full, &|_| {}).await.expect("checked");
    let [finding] = report.findings.as_slice() else { panic!("{:?}", report.findings) };
    assert!(damaged.ends_with(&finding.object) && finding.code.to_string() == "FS1004", "{finding:?}");
    // Commit 3 is the second cycle's point; commit 5 overwrote what it had written.
    let hurt: Vec<_> = finding.points.iter().map(|point| (point.sequence.get(), point.machines.clone())).collect();
    assert_eq!(hurt, [(3, vec![machines[0].clone()]), (4, vec![machines[0].clone()])]);
    let extent =
        |machine: &MachineId| HurtExtent { machine: machine.clone(), disk: disk_id("d"), start: 0, length: 1 << 20 };
    for point in &finding.points {
        assert_eq!((point.extents.as_slice(), point.bytes), ([extent(&machines[0])].as_slice(), 1 << 20));
    }
    // A sample of everything finds the same; one of next to nothing reads next to nothing, and proves no more than that.
    let sample = async |billionths| {
        let depth = CheckDepth::Sample(SampleSize::Billionths(billionths));
        vault.check(depth, &|_| {}).await.expect("checked")
    };
    let everything = sample(1_000_000_000).await;
    assert_eq!(everything.findings.iter().map(|found| &found.points).collect::<Vec<_>>(), [&finding.points]);
    assert_eq!((everything.frames_verified, everything.sampled_billionths), (2, Some(1_000_000_000)));
    let nothing = sample(1).await;
    assert_eq!((nothing.findings.len(), nothing.frames_verified), (0, 0));
}

#[tokio::test]
async fn a_missing_pack_is_found_without_reading_all_data() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    commit_disk(&lineage, &noise(1, 8 * CHUNK)).await.expect("committed");
    let key = self::objects(&objects).await.into_iter().find(|(key, _)| key.contains("/packs/")).expect("a pack").0;
    objects.delete(&Path::from(key.as_str())).await.expect("deleted");
    let vault = vault_on(store(&objects), context()).await;
    let report = vault.check(CheckDepth::Structure, &|_| {}).await.expect("checked");
    let [finding] = report.findings.as_slice() else { panic!("{:?}", report.findings) };
    assert_eq!(finding.code.to_string(), "FS1005");
    assert_eq!(finding.points.iter().map(|point| point.sequence.get()).collect::<Vec<_>>(), [2]);
    assert!(finding.problem.contains("farshore vault check"), "{}", finding.problem);
    let extents: Vec<_> = finding.points.iter().flat_map(|point| &point.extents).collect();
    assert_eq!(extents.iter().map(|extent| (extent.start, extent.length)).collect::<Vec<_>>(), [(0, 8 * CHUNK as u64)]);
}

/// Which bytes of which disk are lost is told to the byte: neighbours are joined, and the disk's end is kept.
#[tokio::test]
async fn the_extents_of_a_lost_pack_are_those_that_it_held_and_no_others() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    // The last chunk of the disk is not whole, and the disk has two leaves.
    let size = 70 * CHUNK + 1_000;
    let mut content = noise(1, size);
    commit_disk(&lineage, &content).await.expect("committed");
    let known = self::objects(&objects).await;
    for chunk in [3, 4, 9, 63, 64, 70] {
        let changed = noise(chunk as u64 + 50, CHUNK);
        let end = size.min((chunk + 1) * CHUNK);
        content[chunk * CHUNK..end].copy_from_slice(&changed[..end - chunk * CHUNK]);
    }
    commit_disk(&lineage, &content).await.expect("committed");
    let new = self::objects(&objects).await.into_iter().map(|(key, _)| key);
    let mut new = new.filter(|key| key.contains("/packs/") && !known.iter().any(|(known, _)| known == key));
    objects.delete(&Path::from(new.next().expect("a pack").as_str())).await.expect("deleted");
    assert_eq!(new.next(), None);
    let report = vault.check(CheckDepth::Structure, &|_| {}).await.expect("checked");
    let [finding] = report.findings.as_slice() else { panic!("{:?}", report.findings) };
    let [point] = finding.points.as_slice() else { panic!("{:?}", finding.points) };
    let chunk = CHUNK as u64;
    let extents: Vec<_> = point.extents.iter().map(|extent| (extent.start, extent.length)).collect();
    assert_eq!(extents, [(3 * chunk, 2 * chunk), (9 * chunk, chunk), (63 * chunk, 2 * chunk), (70 * chunk, 1_000)]);
    assert_eq!((point.sequence.get(), point.bytes), (3, 5 * chunk + 1_000));
}

#[tokio::test]
async fn what_a_prune_deletes_beside_a_check_is_not_reported_as_missing() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), seeded(1)).await;
    let lineage = lineage(&vault).await;
    for seed in 0..6 {
        commit_disk(&lineage, &noise(seed, 8 * CHUNK)).await.expect("committed");
    }
    let grace = crate::Grace { seconds: 0, commits: 0 };
    let pruned = Mutex::new(0);
    let beside = |progress: &crate::CheckProgress| {
        let mut pruned = pruned.lock().expect("sound");
        while progress.points_checked == 1 && *pruned < 3 {
            let prune = async {
                let plan = lineage.plan_prune(&KEEP_NEWEST, grace).await.expect("planned");
                lineage.prune(plan).await.expect("pruned")
            };
            futures::executor::block_on(prune);
            *pruned += 1;
        }
    };
    let before = self::objects(&objects).await.len();
    let report = vault.check(CheckDepth::Structure, &beside).await.expect("checked");
    assert!(*pruned.lock().expect("sound") == 3 && self::objects(&objects).await.len() < before);
    assert_eq!((report.findings, report.points_checked), (Vec::new(), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_told_however_often_others_prune_beside_a_check() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), seeded(1)).await;
    let lineage = lineage(&vault).await;
    commit_disk(&lineage, &noise(1, 8 * CHUNK)).await.expect("committed");
    let key = self::objects(&objects).await.into_iter().find(|(key, _)| key.contains("/packs/")).expect("a pack").0;
    objects.delete(&Path::from(key.as_str())).await.expect("deleted");
    let prunes = Mutex::new(0);
    let beside = |progress: &crate::CheckProgress| {
        // Once in each pass, which ends with another ledger than it began with.
        if progress.points_checked == 1 {
            let mut prunes = prunes.lock().expect("sound");
            *prunes += 1;
            let content = noise(*prunes + 100, CHUNK);
            let prune = async {
                let writer = begin(&lineage).await;
                let disk = writer.add_disk(&machine_id(), &disk_id("d"), 8 * CHUNK as u64).await.expect("added");
                disk.write(0, Bytes::from(content)).await.expect("accepted");
                writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("committed");
                let grace = crate::Grace { seconds: 0, commits: 0 };
                let plan = lineage.plan_prune(&KEEP_NEWEST, grace).await.expect("planned");
                lineage.prune(plan).await.expect("pruned");
            };
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(prune));
        }
    };
    let report = vault.check(CheckDepth::Structure, &beside).await.expect("checked");
    assert!(*prunes.lock().expect("sound") >= 4);
    let found: Vec<_> = report.findings.iter().map(|finding| format!("v/{}", finding.object)).collect();
    assert!(found.contains(&key), "{found:?}");
}

#[tokio::test]
async fn a_damaged_commit_hides_no_other_point_and_a_damaged_lineage_no_other_group() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    for seed in 0..4 {
        commit_disk(&lineage, &noise(seed, CHUNK)).await.expect("committed");
    }
    let another = GroupName::new("another").expect("a good name");
    let other = vault.create_lineage(&another, &site("a")).await.expect("a lineage");
    let damage = async |id: farshore_core::LineageId, number: u64| {
        let key = format!("v/{}", crate::commit::commit_key(id, farshore_core::Sequence::new(number)));
        let path = Path::from(key.as_str());
        let mut bytes = objects.get(&path).await.expect("there").bytes().await.expect("there").to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        objects.put(&path, bytes.into()).await.expect("written");
    };
    // Commits 2 to 5 are points. First one in the middle is damaged, then the newest, which is the head, too.
    for (number, readable) in [(3, vec![5, 4, 2]), (5, vec![4, 2])] {
        damage(lineage.id(), number).await;
        let vault = vault_on(store(&objects), context()).await;
        let lineage = vault.lineage(&group()).await.expect("readable").expect("there");
        assert!(lineage.points(None, 10).await.is_err_and(|error| error.is_damage()));
        let listed = lineage.list_points(None, 10).await.expect("listed");
        assert_eq!(listed.iter().map(|(sequence, _)| sequence.get()).collect::<Vec<_>>(), [5, 4, 3, 2]);
        let whole: Vec<_> = listed.iter().filter(|(_, point)| point.is_ok()).collect();
        assert_eq!(whole.iter().map(|(sequence, _)| sequence.get()).collect::<Vec<_>>(), readable);
        for (sequence, point) in whole {
            let point = point.as_ref().expect("it is whole");
            let seed = sequence.get() - 2;
            assert!(restore(&lineage, point).await.expect("readable") == noise(seed, CHUNK));
        }
    }
    damage(other.id(), 1).await;
    let vault = vault_on(store(&objects), context()).await;
    let info = vault.info().await.expect("listed");
    assert_eq!(info.lineages.iter().map(|known| &known.group).collect::<Vec<_>>(), [&group()]);
    assert_eq!(info.unreadable.iter().map(|unreadable| unreadable.id).collect::<Vec<_>>(), [other.id()]);
}

/// A reply that ends early says nothing about the object: the next may be whole.
#[tokio::test]
async fn a_reply_that_ends_early_is_no_damage() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    commit_disk(&lineage(&vault).await, &noise(5, 3 * CHUNK)).await.expect("committed");
    let key = self::objects(&objects).await.into_iter().map(|(key, _)| key).find(|key| key.contains("/packs/"));
    let key = key.expect("a pack").trim_start_matches("v/").to_owned();
    let mut cut = FaultyStore::sound(&objects);
    cut.cuts_replies = true;
    let cut = wrap(Arc::new(cut));
    let failed = cut.read_exact(&key, 0..100, "a test").await.expect_err("half of it is missing");
    assert!(matches!(failed, Error::Store { .. }) && !failed.is_damage(), "{failed}");
    let failed = cut.read(&key, 1 << 30).await.expect_err("half of it is missing");
    assert!(matches!(failed, Error::Store { .. }), "{failed}");
    // Past its end there is no more: that is damage.
    let failed = store(&objects).read_exact(&key, 0..1 << 30, "a test").await.expect_err("it is shorter");
    assert!(failed.is_damage(), "{failed}");
}
