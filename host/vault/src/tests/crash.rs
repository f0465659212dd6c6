//! The writer is killed at every operation on the store, before its effect and after it with the reply lost; or that one
//! operation fails and the store goes on. Whatever happens: a point that was acknowledged can be restored, a point that
//! is listed is complete, and trying again works.

use super::{
    faulty::{Fault, FaultyStore},
    *,
};

const CHUNKS: usize = 24;

/// The content of the disk in the cycle of this number.
fn content(cycle: u64) -> Vec<u8> {
    let mut content = noise(7, CHUNKS * CHUNK);
    let changed = noise(100 + cycle, 3 * CHUNK);
    content[5 * CHUNK..8 * CHUNK].copy_from_slice(&changed);
    content
}

/// Makes a lineage and commits two points, or as many as the store lets it.
async fn history(vault: &Vault, acknowledged: &mut Vec<(Point, u64)>) -> Result<()> {
    let lineage = vault.create_lineage(&group(), &site("a")).await?;
    for cycle in 1..=2 {
        let point = commit_disk(&lineage, &content(cycle)).await?;
        acknowledged.push((point, cycle));
    }
    Ok(())
}

/// What is listed restores to the content of its cycle, and what was acknowledged is listed.
async fn check(objects: &Arc<InMemory>, acknowledged: &[(Point, u64)], what: &str) {
    let vault = vault_on(store(objects), seeded(2)).await;
    let lineage = lineage(&vault).await;
    let listed = lineage.points(None, 100).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    for (point, _) in acknowledged {
        assert!(listed.contains(point), "{what}: point {} was acknowledged and is lost", point.sequence);
    }
    for (cycle, point) in (1..).zip(listed.iter().rev()) {
        let restored = restore(&lineage, point).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(restored == content(cycle), "{what}: point {} has other content", point.sequence);
    }
    let done = listed.len() as u64;
    for cycle in done + 1..=3 {
        let point = commit_disk(&lineage, &content(cycle)).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let restored = restore(&lineage, &point).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(restored == content(cycle), "{what}: the point that was made after it has other content");
    }
    let report = vault.check(crate::CheckDepth::Full, &|_| {}).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(report.findings, [], "{what}");
    assert_eq!(report.points_checked, 3, "{what}");
}

#[tokio::test]
async fn a_crash_at_any_store_operation_loses_nothing() {
    let sound = Arc::new(FaultyStore::sound(&Arc::new(InMemory::new())));
    let mut acknowledged = Vec::new();
    let vault = vault_on(wrap(Arc::clone(&sound) as Arc<dyn ObjectStore>), seeded(1)).await;
    history(&vault, &mut acknowledged).await.expect("nothing fails");
    let operations = sound.operations();
    assert!(operations > 15, "the history has {operations} operations");

    for operation in 0..operations {
        for fault in [Fault::Before, Fault::After] {
            for stays_dead in [true, false] {
                let what = format!("operation {operation} of {operations}, {fault:?}, stays dead: {stays_dead}");
                let objects = Arc::new(InMemory::new());
                let faulty = Arc::new(FaultyStore::new(&objects, operation, fault, stays_dead));
                let vault = vault_on(wrap(faulty), seeded(1)).await;
                let mut acknowledged = Vec::new();
                let outcome = history(&vault, &mut acknowledged).await;
                if stays_dead {
                    outcome.expect_err(&what);
                } else if outcome.is_err() {
                    // The same process tries again, with what it still has in memory.
                    let lineage = vault.create_lineage(&group(), &site("a")).await.expect(&what);
                    let next = lineage.points(None, 100).await.expect(&what).len() as u64 + 1;
                    if next <= 2 {
                        acknowledged.push((commit_disk(&lineage, &content(next)).await.expect(&what), next));
                    }
                }
                check(&objects, &acknowledged, &what).await;
            }
        }
    }
}
