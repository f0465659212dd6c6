//! Journals of runs: entries in order, one writer for each, bounded.

use farshore_core::RunId;
use object_store::{ObjectStoreExt, path::Path};

use super::*;
use crate::{Error, RUN_ENTRY_BYTES_MAX};

#[tokio::test]
async fn of_two_writers_of_an_entry_one_wins_and_the_other_knows() {
    let objects = Arc::new(InMemory::new());
    let first = vault_on(store(&objects), seeded(1)).await;
    let second = vault_on(store(&objects), seeded(2)).await;
    let run = RunId::timed(&SystemClock, &SystemEntropy);
    assert!(matches!(first.run_entries(run).await, Err(Error::RunMissing { .. })));
    assert!(matches!(first.append_run(run, 2, b"x").await, Err(Error::RunGap { .. })));
    assert!(matches!(first.append_run(run, 1, b"x").await, Err(Error::RunGap { .. })));
    assert!(matches!(first.append_run(run, 0, b"x").await, Err(Error::RunGap { .. })));
    first.create_run(run, b"begin").await.expect("written");
    assert!(matches!(second.create_run(run, b"begin").await, Err(Error::RunRace { number: 1, .. })));

    let mut expected = vec![Bytes::from_static(b"begin")];
    for number in 2..30 {
        let entries = [format!("{number} of the first"), format!("{number} of the second")];
        let (left, right) = futures::future::join(
            first.append_run(run, number, entries[0].as_bytes()),
            second.append_run(run, number, entries[1].as_bytes()),
        )
        .await;
        let winner = match (left, right) {
            (Ok(()), Err(Error::RunRace { .. })) => 0,
            (Err(Error::RunRace { .. }), Ok(())) => 1,
            other => panic!("{other:?}"),
        };
        expected.push(Bytes::from(entries[winner].clone()));
    }
    assert_eq!(second.run_entries(run).await.expect("readable"), expected);
}

#[tokio::test]
async fn entries_are_bounded_and_a_gap_is_damage() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let run = RunId::timed(&SystemClock, &SystemEntropy);
    let large = vec![1; RUN_ENTRY_BYTES_MAX + 1];
    assert!(matches!(vault.create_run(run, &large).await, Err(Error::LimitExceeded { .. })));
    vault.create_run(run, &large[1..]).await.expect("at the limit");
    // States of adapters, 64 KiB each, fit in as base64 inside JSON.
    const { assert!(RUN_ENTRY_BYTES_MAX >= 8 * (64 << 10)) };
    for number in 2..=20 {
        vault.append_run(run, number, &[]).await.expect("written");
    }
    assert_eq!(vault.run_entries(run).await.expect("readable").len(), 20);
    objects.delete(&Path::from(format!("v/runs/{run}/00000010"))).await.expect("deleted");
    let error = vault.run_entries(run).await.expect_err("a gap");
    assert!(matches!(&error, Error::ObjectMissing { object, .. } if object.ends_with("00000010")), "{error}");
}

#[tokio::test]
async fn runs_are_listed_newest_first() {
    let vault = vault_on(store(&Arc::default()), context()).await;
    let mut runs = Vec::new();
    for number in 1..=5u8 {
        let mut bytes = [0; 16];
        bytes[5] = number;
        let run = RunId::from_bytes(bytes);
        vault.create_run(run, b"x").await.expect("written");
        runs.insert(0, run);
    }
    assert_eq!(vault.runs(3).await.expect("listed"), runs[..3]);
    assert_eq!(vault.runs(100).await.expect("listed"), runs);
}
