//! Cost follows change: what an idle cycle, a small change and a growing disk store.

use super::*;

const DISK: usize = 64 << 20;

#[tokio::test]
async fn an_idle_cycle_stores_one_small_object() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let content = noise(1, 4 << 20);
    let first = commit_disk(&lineage, &content).await.expect("committed");
    assert_eq!(first.stats.objects_written, 3, "one data pack, one map pack, one commit");
    let before = self::objects(&objects).await;

    let writer = begin(&lineage).await;
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), content.len() as u64).await.expect("added");
    // Given again, as a comparison does, but not changed.
    write_all(&disk, &content).await.expect("accepted");
    let second = writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("committed");
    assert_eq!((second.stats.objects_written, second.stats.bytes_stored, second.stats.bytes_changed), (1, 0, 0));
    assert_eq!(second.stats.bytes_given, content.len() as u64);

    let after = self::objects(&objects).await;
    let new: Vec<_> = after.iter().filter(|object| !before.contains(object)).collect();
    assert_eq!(new.len(), 1, "{new:?}");
    assert!(new[0].0.contains("/commits/") && new[0].1 < 4096, "{new:?}");
    assert!(restore(&lineage, &second).await.expect("readable") == content);
}

#[tokio::test]
async fn one_percent_changed_costs_about_one_percent() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let mut content = noise(1, DISK);
    let first = commit_disk(&lineage, &content).await.expect("committed");
    let overhead = first.stats.bytes_stored - DISK as u64;
    assert!(overhead * 1000 < 2 * DISK as u64, "{overhead} bytes more than the data itself");

    // Ten chunks of 1,024, as far apart as they can be: the dearest way to change one percent.
    let writer = begin(&lineage).await;
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), DISK as u64).await.expect("added");
    for number in 0..10 {
        let start = number * 100 * CHUNK;
        let changed = noise(1000 + number as u64, CHUNK);
        content[start..start + CHUNK].copy_from_slice(&changed);
        disk.write(start as u64, Bytes::from(changed)).await.expect("accepted");
    }
    let point = writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("committed");
    assert_eq!(point.stats.bytes_changed, 10 * CHUNK as u64);
    assert_eq!(point.stats.objects_written, 3);
    let limit = 10 * CHUNK as u64 * 112 / 100;
    assert!(point.stats.bytes_stored < limit, "{} bytes for {}", point.stats.bytes_stored, 10 * CHUNK);
    assert!(restore(&lineage, &point).await.expect("readable") == content);
}

#[tokio::test]
async fn equal_chunks_are_stored_once() {
    let vault = vault_on(store(&Arc::default()), context()).await;
    let lineage = lineage(&vault).await;
    let block = noise(1, CHUNK);
    let content = block.repeat(300);
    let point = commit_disk(&lineage, &content).await.expect("committed");
    // Parts that run side by side may each store it once.
    assert!(point.stats.bytes_stored < 30 * CHUNK as u64, "{}", point.stats.bytes_stored);
    assert!(point.stats.bytes_deduplicated > 270 * CHUNK as u64, "{}", point.stats.bytes_deduplicated);
    assert!(restore(&lineage, &point).await.expect("readable") == content);
}

#[tokio::test]
async fn zeros_cost_nothing_and_a_huge_empty_disk_is_quick() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let size = 1u64 << 45;
    let writer = begin(&lineage).await;
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), size).await.expect("added");
    disk.write_zeroes(farshore_core::Extent { offset: 0, length: size }).await.expect("accepted");
    let last = size - CHUNK as u64;
    disk.write(last, Bytes::from(noise(1, CHUNK))).await.expect("accepted");
    disk.write(0, Bytes::from(vec![0; 1 << 20])).await.expect("accepted");
    let point = writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("committed");
    assert!(point.stats.bytes_stored < 2 * CHUNK as u64, "{:?}", point.stats);

    let reader = lineage.open_point(point.sequence).await.expect("there");
    let disk = reader.disk(&machine_id(), &disk_id("d")).expect("there");
    let pieces: Vec<_> = disk.pieces().try_collect().await.expect("readable");
    assert_eq!(pieces.len(), 1);
    assert_eq!((pieces[0].offset, pieces[0].data.as_ref()), (last, noise(1, CHUNK).as_slice()));

    // Zeroed again, nothing is left of it.
    let writer = begin(&lineage).await;
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), size).await.expect("added");
    disk.write_zeroes(farshore_core::Extent { offset: 1 << 30, length: size - (1 << 30) }).await.expect("accepted");
    let point = writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("committed");
    assert_eq!(point.disk(&machine_id(), &disk_id("d")).expect("there").map, None);
    assert_eq!(point.stats.objects_written, 1);

    let writer = begin(&lineage).await;
    let error = writer.add_disk(&machine_id(), &disk_id("e"), u64::MAX).await.expect_err("larger than a map");
    assert!(matches!(error, crate::Error::LimitExceeded { .. }), "{error}");
}

#[tokio::test]
async fn usage_counts_by_kind() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    commit_disk(&lineage, &noise(1, CHUNK)).await.expect("committed");
    let usage = vault.usage().await.expect("listed");
    let listed = self::objects(&objects).await;
    assert_eq!(usage.total.objects, listed.len() as u64);
    assert_eq!(usage.total.bytes, listed.iter().map(|(_, bytes)| bytes).sum::<u64>());
    let count = |kind: &str| usage.kinds.get(kind).map_or(0, |kind| kind.objects);
    assert_eq!((count("commits"), count("data packs"), count("map packs")), (2, 1, 1));
}
