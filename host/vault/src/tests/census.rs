//! The host is itself a VM that is rolled back: the same randomness comes twice, and what is written the second time
//! differs. `seal::census` asserts, at every seal of every test, that one key and nonce seal one message only; here the
//! randomness really repeats.

use super::*;
use crate::seal::census;

#[tokio::test]
async fn repeated_randomness_never_seals_two_messages_alike() {
    let before = census::pairs();
    for repetition in 0..6u64 {
        // Each time a store of its own, so that names that repeat do not stop the writer.
        let objects = Arc::new(InMemory::new());
        let vault = vault_on(store(&objects), seeded(77)).await;
        let lineage = lineage(&vault).await;
        for cycle in 0..3 {
            let mut content = noise(repetition, 20 * CHUNK);
            content[3 * CHUNK] = cycle;
            content[10 * CHUNK..].fill(repetition as u8);
            commit_disk(&lineage, &content).await.expect("committed");
        }
        let run = farshore_core::RunId::from_bytes([1; 16]);
        vault.create_run(run, &[repetition as u8]).await.expect("written");
    }
    assert!(census::pairs() > before + 6 * 3 * 4, "the census counts");
}

#[tokio::test]
async fn a_writer_whose_names_repeat_is_stopped_by_the_store() {
    let objects = Arc::new(InMemory::new());
    let mut outcomes = Vec::new();
    for content in [noise(1, CHUNK), noise(2, CHUNK)] {
        let vault = vault_on(store(&objects), seeded(5)).await;
        outcomes.push(commit_disk(&lineage(&vault).await, &content).await);
        // The lineage exists the second time, so the same state of randomness is reached by taking as much of it.
        if outcomes.len() == 1 {
            let path = object_store::path::Path::from("v");
            let kept: Vec<_> = objects.list(Some(&path)).try_collect().await.expect("listed");
            for meta in kept.iter().filter(|meta| meta.location.as_ref().contains("/commits/")) {
                object_store::ObjectStoreExt::delete(&*objects, &meta.location).await.expect("deleted");
            }
        }
    }
    assert!(outcomes[0].is_ok());
    let error = outcomes.remove(1).expect_err("the packs exist with other content");
    assert!(error.to_string().contains("randomness has repeated"), "{error}");
}
