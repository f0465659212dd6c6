//! Whoever sleeps, a writer, a pruner or a reader, wakes in a vault in which others have pruned: nothing is lost by it, and nobody is
//! told what is not so.

use farshore_core::Sequence;

use super::{
    faulty::FaultyStore,
    prune::{NO_GRACE, copy, expect_points, history, prune, prune_to_the_end, run},
    *,
};
use crate::{Error, ProofClaim, ProofKind};

/// What a writer has stored before its commit looks like an orphan to a listing.
#[tokio::test]
async fn packs_of_a_writer_that_is_still_at_work_are_not_condemned() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let mut history = history(&lineage, 8, 3).await;
    let content = noise(52, 420 * CHUNK);
    let writer = begin(&lineage).await;
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), content.len() as u64).await.expect("added");
    write_all(&disk, &content).await.expect("accepted");
    let packs = |there: Vec<(String, u64)>| there.iter().filter(|(key, _)| key.contains("/packs/")).count();
    while packs(self::objects(&objects).await) < 4 {
        a_moment().await;
    }
    prune_to_the_end(&lineage, &KEEP_NEWEST).await;
    let point = writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("committed");
    let newest = *history.keys().next_back().expect("some");
    history.retain(|sequence, _| *sequence == newest);
    history.insert(point.sequence, content);
    expect_points(&objects, &history).await;
}

/// A commit was created, and its writer stood still before it looked for a boundary.
#[tokio::test]
async fn a_writer_that_slept_after_its_commit_is_told_that_it_stands() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let mut history = history(&lineage, 8, 3).await;
    let content = noise(61, 8 * CHUNK);
    let mut held = Arc::new(FaultyStore::sound(&objects));
    let (sent, wake) = held.hold_commits();
    let sleeper = vault_on(wrap(held), context()).await.lineage(&group()).await.expect("readable").expect("there");
    let sleeping = content.clone();
    let sleeping = tokio::spawn(async move { commit_disk(&sleeper, &sleeping).await });
    sent.notified().await;
    let late = self::history(&lineage, 8, 1).await;
    lineage.pin(run(1), Sequence::new(late.keys().next().expect("some").get() - 1)).await.expect("pinned");
    prune_to_the_end(&lineage, &KEEP_NEWEST).await;
    wake.notify_one();
    let point = sleeping.await.expect("it ends").expect("its point stands, and a boundary speaks of its number");
    history.clear();
    history.insert(point.sequence, content.clone());
    let points = lineage.points(None, 10).await.expect("readable");
    assert_eq!(points.iter().map(|point| point.sequence).min(), Some(point.sequence));
    assert!(restore(&lineage, &points[1]).await.expect("readable") == content);
}

/// A writer that stood still wants a number that was free once and is free again, because its commit was deleted.
#[tokio::test]
async fn a_writer_that_slept_through_a_prune_is_not_told_that_it_committed() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let mut history = history(&lineage, 8, 2).await;
    let sleeper =
        begin(&vault_on(store(&objects), context()).await.lineage(&group()).await.expect("readable").expect("there"))
            .await;
    let disk = sleeper.add_disk(&machine_id(), &disk_id("d"), 8 * CHUNK as u64).await.expect("added");
    write_all(&disk, &noise(60, 8 * CHUNK)).await.expect("accepted");
    history.extend(self::history(&lineage, 8, 3).await);
    prune_to_the_end(&lineage, &KEEP_NEWEST).await;
    let wanted = "v/lineages/".to_owned();
    let there = self::objects(&objects).await;
    assert!(
        !there.iter().any(|(key, _)| key.starts_with(&wanted) && key.ends_with("/commits/00000000000000000004")),
        "the number that it wants is free again"
    );
    let error = sleeper.commit(details(&[(&machine_id(), &["d"])])).await.expect_err("it lost long ago");
    assert!(matches!(error, Error::LostRace { .. }), "{error}");
    let newest = *history.keys().next_back().expect("some");
    history.retain(|sequence, _| *sequence == newest);
    expect_points(&objects, &history).await;
    // What it left is swept.
    prune_to_the_end(&lineage, &KEEP_NEWEST).await;
    let there = self::objects(&objects).await;
    assert!(!there.iter().any(|(key, _)| key.ends_with("/commits/00000000000000000004")));
    expect_points(&objects, &history).await;
}

/// Between any two reads others prune, twice, and a writer who slept too makes his commit in the place of the first prune's.
#[tokio::test]
async fn who_sleeps_while_he_reads_sees_a_vault_that_there_was() {
    let objects = Arc::new(InMemory::new());
    let of = async |store| {
        let vault = vault_on(store, context()).await;
        vault.lineage(&group()).await.expect("readable").expect("there")
    };
    let lineage = lineage(&vault_on(store(&objects), context()).await).await;
    history(&lineage, 8, 3).await;
    let writer = begin(&of(store(&objects)).await).await;
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), 8 * CHUNK as u64).await.expect("added");
    write_all(&disk, &noise(60, 8 * CHUNK)).await.expect("accepted");
    let pruned =
        prune(&lineage, &KEEP_NEWEST, NO_GRACE).await.expect("pruned").commit.expect("there was something to do");
    let newest = pin_newest(&lineage, 1).await;
    lineage.record_proof(newest, &proven()).await.expect("written");
    // Its newest point was judged by no prune yet, and is not its newest commit.
    history(&lineage, 8, 1).await;
    pin_newest(&lineage, 3).await;
    let before = copy(&objects).await;
    for given_up in [1, 3] {
        lineage.unpin(run(given_up)).await.expect("given up");
    }
    history(&lineage, 8, 3).await;
    prune_to_the_end(&lineage, &KEEP_NEWEST).await;
    let newest_after = pin_newest(&lineage, 2).await;
    lineage.record_proof(newest_after, &proven()).await.expect("written");
    writer.commit(details(&[(&machine_id(), &["d"])])).await.expect_err("it lost long ago");
    let key = format!("/commits/{:020}", pruned.get());
    let there = self::objects(&objects).await;
    assert!(there.iter().any(|(there, _)| there.ends_with(&key)), "it is in the prune's place");

    for look in [
        Look::Newest,
        Look::Points,
        Look::Point(pruned),
        Look::Pins,
        Look::Proofs(newest),
        Look::Proofs(newest_after),
        Look::Prune,
        Look::Begin,
    ] {
        let mut possible = Vec::new();
        for objects in [&before, &objects] {
            possible.push(look.at(&of(store(objects)).await).await);
        }
        let differ = !matches!(look, Look::Point(_) | Look::Proofs(_) | Look::Begin);
        assert_eq!(possible[0] != possible[1], differ, "{look:?}: {possible:?}");
        let mut slept = 0;
        for operation in 0.. {
            let mut sleeper = FaultyStore::sound(&before);
            sleeper.later = Some((operation, Arc::clone(&objects)));
            let sleeper = Arc::new(sleeper);
            let reader = of(wrap(sleeper.clone())).await;
            // Once by a handle that knows nothing, and once by one that knows what it has just seen.
            for _ in 0..2 {
                let seen = look.at(&reader).await;
                assert!(possible.contains(&seen), "{look:?}, slept before {operation}: {seen} is none of {possible:?}");
            }
            if sleeper.operations() <= operation {
                break;
            }
            slept += 1;
        }
        assert!(slept > 8, "{look:?}: {slept} operations");
    }
}

fn proven() -> ProofClaim {
    let at = Timestamp::from_unix_milliseconds(1_000);
    ProofClaim { what: ProofKind::Full, begun_at: at, ended_at: at, bytes_read: 1, hurt: None }
}

async fn pin_newest(lineage: &Lineage, by: u8) -> Sequence {
    let newest = lineage.head().await.expect("readable").newest_point.expect("there are points");
    lineage.pin(run(by), newest).await.expect("pinned");
    newest
}

/// What somebody who reads wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// The newest commit, and whether the ledger is the one that it needs.
    Newest,
    Points,
    Point(Sequence),
    Pins,
    /// Whether anything is told to be damaged.
    Proofs(Sequence),
    Prune,
    /// The same of somebody who begins a point.
    Begin,
}

impl Look {
    async fn at(self, lineage: &Lineage) -> String {
        match self {
            Self::Newest => {
                let (newest, valid) = lineage.0.ledgers.newest().await.expect("readable");
                assert_eq!(newest.head.pruned, valid.map(|valid| valid.commit));
                format!("{newest:?}")
            }
            Self::Points => {
                let listed = lineage.list_points(None, usize::MAX).await.expect("listed").into_iter();
                format!("{:?}", listed.map(|(number, point)| (number, point.is_ok())).collect::<Vec<_>>())
            }
            Self::Point(number) => match lineage.point(number).await {
                Err(Error::PointMissing { .. }) => "none".to_owned(),
                point => format!("{:?}", point.expect("readable")),
            },
            Self::Pins => format!("{:?}", lineage.pins().await.expect("readable")),
            Self::Proofs(point) => {
                lineage.proofs_of(&[point]).await.expect("readable");
                match lineage.proofs(point).await {
                    Ok(_) | Err(Error::PointMissing { .. }) => "no damage".to_owned(),
                    Err(error) => error.to_string(),
                }
            }
            Self::Begin => match lineage.begin_point(Generation::FIRST, &site("a")).await {
                Ok(_) | Err(Error::LostRace { .. }) => "no damage".to_owned(),
                Err(error) => error.to_string(),
            },
            Self::Prune => {
                let plan = lineage.plan_prune(&KEEP_ALL, NO_GRACE).await.expect("planned");
                serde_json::to_string(&plan).expect("JSON")
            }
        }
    }
}

/// What its plan was built on is deleted by then: it has lost, and nothing is damaged.
#[tokio::test]
async fn a_pruner_that_slept_is_told_to_plan_anew() {
    let objects = Arc::new(InMemory::new());
    let of = async || vault_on(store(&objects), context()).await.lineage(&group()).await.expect("readable");
    let lineage = lineage(&vault_on(store(&objects), context()).await).await;
    history(&lineage, 8, 3).await;
    let sleeper = of().await.expect("there");
    let slow = sleeper.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect("planned");
    history(&lineage, 8, 3).await;
    prune_to_the_end(&lineage, &KEEP_NEWEST).await;
    history(&lineage, 8, 3).await;
    prune_to_the_end(&lineage, &KEEP_NEWEST).await;
    let error = sleeper.prune(slow).await.expect_err("others have pruned");
    assert!(matches!(error, Error::LostRace { .. }), "{error}");
}
