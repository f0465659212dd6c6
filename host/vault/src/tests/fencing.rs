//! Who may write: a raise of the generation and another writer both make a stalled writer lose, and nothing of what it
//! wrote becomes visible.

use farshore_core::Sequence;

use super::*;
use crate::Error;

async fn stalled(lineage: &Lineage) -> PointWriter {
    let writer = begin(lineage).await;
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), 4 * CHUNK as u64).await.expect("added");
    write_all(&disk, &noise(9, 4 * CHUNK)).await.expect("accepted");
    writer
}

#[tokio::test]
async fn a_raised_generation_refuses_the_writer_that_began_before() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let source = lineage(&vault).await;
    let first = commit_disk(&source, &noise(1, 4 * CHUNK)).await.expect("committed");
    let writer = stalled(&source).await;

    // Another host, with caches of its own.
    let other = vault_on(store(&objects), context()).await.lineage(&group()).await.expect("readable").expect("there");
    let head = other.head().await.expect("readable");
    let generation = other.raise_generation(&site("b"), "the source is gone", &head).await.expect("raised");
    assert_eq!(generation, head.generation.next());

    let error = writer.commit(details(&[(&machine_id(), &["d"])])).await.expect_err("fenced");
    match &error {
        Error::Fenced { current_generation, active_site, .. } => {
            assert_eq!((*current_generation, active_site), (generation, &site("b")));
        }
        other => panic!("{other}"),
    }
    assert_eq!(farshore_core::Coded::code(&error).to_string(), "FS1010");
    let error = source.begin_point(Generation::FIRST, &site("a")).await.expect_err("fenced from the start");
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    let error = source.begin_point(generation, &site("a")).await.expect_err("the other site is active");
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    assert_eq!(source.points(None, 10).await.expect("readable"), std::slice::from_ref(&first));

    let head = source.head().await.expect("readable");
    assert_eq!((head.sequence, head.newest_point), (Sequence::new(3), Some(first.sequence)));
    let second = commit_disk(&source, &noise(2, 4 * CHUNK)).await.expect("the active site commits");
    assert_eq!((second.generation, second.parent), (generation, Some(first.sequence)));
    assert_eq!(source.points(Some(second.sequence), 10).await.expect("readable"), std::slice::from_ref(&first));
    assert_eq!(source.points(None, 1).await.expect("readable"), [second]);
    assert!(matches!(source.point(Sequence::new(3)).await, Err(Error::PointMissing { .. })), "a raise is no point");
}

#[tokio::test]
async fn a_raise_on_a_head_that_has_moved_is_refused() {
    let vault = vault_on(store(&Arc::default()), context()).await;
    let lineage = lineage(&vault).await;
    let head = lineage.head().await.expect("readable");
    commit_disk(&lineage, &noise(1, CHUNK)).await.expect("committed");
    let error = lineage.raise_generation(&site("b"), "", &head).await.expect_err("the head has moved");
    assert!(matches!(error, Error::LostRace { .. }), "{error}");
    let mut invented = lineage.head().await.expect("readable");
    invented.generation = invented.generation.next();
    assert!(lineage.raise_generation(&site("b"), "", &invented).await.is_err(), "a head that never was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_writers_exactly_one_wins() {
    let rounds = if std::env::var_os("FARSHORE_LONG").is_some() { 500 } else { 5 };
    for round in 0..rounds {
        one_of_many_writers_wins(round * 6..(round + 1) * 6).await;
    }
}

async fn one_of_many_writers_wins(seeds: std::ops::Range<u64>) {
    let objects = Arc::new(InMemory::new());
    let mut writers = Vec::new();
    for seed in seeds {
        let vault = vault_on(store(&objects), seeded(seed)).await;
        writers.push((stalled(&lineage(&vault).await).await, seed));
    }
    let commits = writers.into_iter().map(|(writer, seed)| {
        tokio::spawn(async move { (writer.commit(details(&[(&machine_id(), &["d"])])).await, seed) })
    });
    let mut won = 0;
    for commit in futures::future::join_all(commits).await {
        match commit.expect("no panic").0 {
            Ok(_) => won += 1,
            Err(error) => assert!(matches!(error, Error::LostRace { .. }), "{error}"),
        }
    }
    assert_eq!(won, 1);
    let vault = vault_on(store(&objects), context()).await;
    assert_eq!(lineage(&vault).await.points(None, 10).await.expect("readable").len(), 1);
}

#[tokio::test]
async fn racing_creators_get_the_same_lineage_and_the_first_decides_the_site() {
    let objects = Arc::new(InMemory::new());
    let make = |seed: u64, site: &'static str| {
        let objects = Arc::clone(&objects);
        async move {
            let vault = vault_on(store(&objects), seeded(seed)).await;
            vault.create_lineage(&group(), &super::site(site)).await.expect("a lineage")
        }
    };
    let (first, second) = futures::future::join(make(1, "a"), make(2, "b")).await;
    assert_eq!(first.id(), second.id());
    assert_eq!(first.head().await.expect("readable"), second.head().await.expect("readable"));
    commit_disk(&first, &noise(1, CHUNK)).await.expect("committed");
    let point = second.points(None, 1).await.expect("readable").remove(0);
    assert_eq!(restore(&second, &point).await.expect("the same keys"), noise(1, CHUNK));
}

#[tokio::test]
async fn a_commit_that_is_missing_from_the_middle_stops_writers() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let first = lineage(&vault).await;
    for seed in 0..10 {
        commit_disk(&first, &noise(seed, CHUNK)).await.expect("committed");
    }
    let key =
        self::objects(&objects).await.into_iter().map(|(key, _)| key).filter(|key| key.contains("/commits/")).nth(7);
    object_store::ObjectStoreExt::delete(&*objects, &key.expect("eleven commits").into()).await.expect("deleted");
    let vault = vault_on(store(&objects), context()).await;
    let error = lineage(&vault).await.head().await.expect_err("a gap");
    assert!(matches!(error, Error::ObjectMissing { .. }), "{error}");
}
