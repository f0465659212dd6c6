//! A first copy that was interrupted does not send again what it has stored, and does not trust what has rotted since.

use std::sync::atomic::Ordering;

use object_store::{ObjectStoreExt, path::Path};

use super::{faulty::FaultyStore, *};

const DISK: usize = 80 << 20;

/// Writes the disk with a writer that goes away before it commits. It returns what it has stored by then.
async fn interrupted(objects: &Arc<InMemory>, content: &[u8]) -> u64 {
    let vault = vault_on(store(objects), context()).await;
    let lineage = lineage(&vault).await;
    let writer = begin(&lineage).await;
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), content.len() as u64).await.expect("added");
    write_all(&disk, content).await.expect("accepted");
    // Three packs fill up; what is in the fourth is lost.
    while writer.stats().objects_written < 3 {
        tokio::task::yield_now().await;
    }
    let stored = writer.stats().bytes_stored;
    drop(writer);
    stored
}

async fn resume(objects: &Arc<InMemory>, content: &[u8]) -> (Point, u64) {
    let counting = Arc::new(FaultyStore::sound(objects));
    let vault = vault_on(wrap(Arc::clone(&counting) as Arc<dyn ObjectStore>), context()).await;
    let lineage = lineage(&vault).await;
    let point = commit_disk(&lineage, content).await.expect("committed");
    assert!(restore(&lineage, &point).await.expect("readable") == content);
    (point, counting.pack_bytes.load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_interrupted_writer_stored_is_used() {
    let objects = Arc::new(InMemory::new());
    let content = noise(1, DISK);
    let stored = interrupted(&objects, &content).await;
    assert!(stored > 70 << 20, "{stored}");
    // The generation may rise in between: the packs are found all the same.
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let head = lineage.head().await.expect("readable");
    lineage.raise_generation(&site("b"), "", &head).await.expect("raised");
    let (point, sent) = resume(&objects, &content).await;
    assert!(sent < 10 << 20, "{sent} bytes were sent again");
    assert_eq!(point.stats.packs_reused, 3);
    assert_eq!(point.stats.bytes_changed, DISK as u64);
    assert!(point.stats.bytes_deduplicated > 70 << 20, "{:?}", point.stats);
    assert_eq!(vault.check(crate::CheckDepth::Full, &|_| {}).await.expect("checked").findings, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leftover_that_has_rotted_is_sent_again() {
    let objects = Arc::new(InMemory::new());
    let content = noise(2, DISK);
    interrupted(&objects, &content).await;
    let packs: Vec<_> = self::objects(&objects).await.into_iter().filter(|(key, _)| key.contains("/packs/")).collect();
    assert_eq!(packs.len(), 3, "{packs:?}");
    // One with a rotten body, one with a rotten header, one cut short; and something that is no pack at all.
    for (number, (key, length)) in packs.iter().enumerate() {
        let path = Path::from(key.as_str());
        let mut bytes = objects.get(&path).await.expect("there").bytes().await.expect("there").to_vec();
        match number {
            0 => bytes[*length as usize - 1000] ^= 1,
            1 => bytes[500] ^= 1,
            _ => bytes.truncate(1 << 20),
        }
        objects.put(&path, bytes.into()).await.expect("written");
        objects.put(&Path::from(format!("{key}.tmp")), vec![0; 99].into()).await.expect("written");
    }
    let (point, sent) = resume(&objects, &content).await;
    assert!(sent > DISK as u64, "{sent}");
    assert_eq!(point.stats.packs_reused, 0);
}

/// A handle that made the newest point itself looks for what writers left only if one of its own has built on it since.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_writer_of_the_same_process_stored_is_used() {
    let objects = Arc::new(InMemory::new());
    let content = noise(3, DISK);
    let lineage = lineage(&vault_on(store(&objects), context()).await).await;
    commit_disk(&lineage, &content[..CHUNK]).await.expect("committed");
    let writer = begin(&lineage).await;
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), content.len() as u64).await.expect("added");
    write_all(&disk, &content).await.expect("accepted");
    while writer.stats().objects_written < 3 {
        tokio::task::yield_now().await;
    }
    drop(writer);
    let point = commit_disk(&lineage, &content).await.expect("committed");
    assert_eq!(point.stats.packs_reused, 3);
}
