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

/// On one and the same commit a name comes again, and the store tells.
#[tokio::test]
async fn a_writer_whose_names_repeat_is_stopped_by_the_store() {
    let objects = Arc::new(InMemory::new());
    lineage(&vault_on(store(&objects), context()).await).await;
    let mut outcomes = Vec::new();
    for content in [noise(1, CHUNK), noise(2, CHUNK)] {
        let vault = vault_on(store(&objects), seeded(5)).await;
        outcomes.push(commit_disk(&lineage(&vault).await, &content).await);
        // As if the first writer had been killed before its commit, and its machine rolled back.
        for (key, _) in
            self::objects(&objects).await.iter().filter(|(key, _)| key.ends_with("commits/00000000000000000002"))
        {
            object_store::ObjectStoreExt::delete(&*objects, &key.as_str().into()).await.expect("deleted");
        }
    }
    assert!(outcomes[0].is_ok());
    let error = outcomes.remove(1).expect_err("the packs exist with other content");
    assert!(error.to_string().contains("randomness has repeated"), "{error}");
}

/// Packs are known by their names alone: a machine that is rolled back past a commit must not give a name again.
#[tokio::test]
async fn a_machine_that_is_rolled_back_past_a_commit_gives_no_name_again() {
    let objects = Arc::new(InMemory::new());
    lineage(&vault_on(store(&objects), context()).await).await;
    let mut points = Vec::new();
    for number in 0..3 {
        let vault = vault_on(store(&objects), seeded(5)).await;
        let lineage = lineage(&vault).await;
        let writer = begin(&lineage).await;
        let disk = writer.add_disk(&machine_id(), &disk_id("d"), 8 * CHUNK as u64).await.expect("added");
        disk.write(number * CHUNK as u64, Bytes::from(noise(number, CHUNK))).await.expect("accepted");
        points.push(writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("committed"));
    }
    let reader = vault_on(store(&objects), context()).await;
    let lineage = lineage(&reader).await;
    let mut expected = vec![0; 8 * CHUNK];
    for (number, point) in (0..).zip(&points) {
        let at = usize::try_from(number).expect("few") * CHUNK;
        expected[at..at + CHUNK].copy_from_slice(&noise(number, CHUNK));
        assert!(restore(&lineage, point).await.expect("readable") == expected, "point {}", point.sequence);
    }
}
