//! A hostile or rotten store: every kind of object truncated, flipped, exchanged, replaced by an older one or taken
//! away. The answer is an error that names the object; never other content, never a panic; and points that do not need
//! the object still restore.

use object_store::{ObjectStoreExt, path::Path};

use super::*;
use crate::{CheckDepth, Error};

struct World {
    objects: Arc<InMemory>,
    run: farshore_core::RunId,
    contents: [Vec<u8>; 2],
}

/// Two points of two disks that share nothing, and a run.
async fn world() -> World {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), seeded(1)).await;
    let lineage = lineage(&vault).await;
    let contents = [noise(1, 20 * CHUNK), vec![b'x'; 70 * CHUNK]];
    for content in &contents {
        let writer = begin(&lineage).await;
        let disk = writer.add_disk(&machine_id(), &disk_id("d"), content.len() as u64).await.expect("added");
        write_all(&disk, content).await.expect("accepted");
        writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("committed");
    }
    let run = farshore_core::RunId::from_bytes([7; 16]);
    vault.create_run(run, b"first").await.expect("written");
    vault.append_run(run, 2, b"second").await.expect("written");
    World { objects, run, contents }
}

async fn copy(objects: &InMemory) -> Arc<InMemory> {
    let copy = InMemory::new();
    for (key, _) in self::objects(objects).await {
        let bytes = objects.get(&Path::from(key.as_str())).await.expect("there").bytes().await.expect("there");
        copy.put(&Path::from(key), bytes.into()).await.expect("copied");
    }
    Arc::new(copy)
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// Which points restored, with their right content.
    whole: Vec<u64>,
    errors: Vec<String>,
}

/// Reads everything that can be read. What is returned must be right.
async fn read_everything(world: &World, objects: &Arc<InMemory>) -> Outcome {
    let mut outcome = Outcome::default();
    let vault = vault_on(store(objects), seeded(2)).await;
    let lineage = match vault.lineage(&group()).await {
        Ok(Some(lineage)) => lineage,
        Ok(None) => {
            outcome.errors.push("no lineage".to_owned());
            return outcome;
        }
        Err(error) => {
            outcome.errors.push(error.to_string());
            return outcome;
        }
    };
    if let Err(error) = lineage.head().await {
        outcome.errors.push(error.to_string());
    }
    for (sequence, content) in (2..).zip(&world.contents) {
        let read = async {
            let point = lineage.point(farshore_core::Sequence::new(sequence)).await?;
            restore(&lineage, &point).await
        };
        match read.await {
            Ok(read) => {
                assert!(read == *content, "point {sequence} was given back with other content");
                outcome.whole.push(sequence);
            }
            Err(error) => {
                assert!(error.is_damage() || matches!(error, Error::PointMissing { .. }), "{error}");
                outcome.errors.push(error.to_string());
            }
        }
    }
    match vault.run_entries(world.run).await {
        Ok(entries) => {
            let expected = [&b"first"[..], b"second"];
            assert_eq!(entries, expected[..entries.len()]);
            if entries.len() < expected.len() {
                outcome.errors.push("the journal has lost its newest entries".to_owned());
            }
        }
        Err(error) => outcome.errors.push(error.to_string()),
    }
    outcome
}

/// Which point needs an object, by its key; the lineage's first commit is needed by all.
fn needed_by(key: &str, packs: &[String]) -> Vec<u64> {
    if key.ends_with("commits/00000000000000000001") {
        return vec![2, 3];
    }
    if key.contains("/commits/") {
        return vec![key.rsplit('/').next().and_then(|number| number.parse().ok()).expect("a number")];
    }
    match packs.iter().any(|pack| pack == key) {
        true if key.contains("/00000000000000000001/") => vec![2],
        true => vec![3],
        false => vec![],
    }
}

async fn expect_harm(world: &World, objects: &Arc<InMemory>, key: &str, packs: &[String], what: &str) {
    let outcome = read_everything(world, objects).await;
    assert!(!outcome.errors.is_empty(), "{what} of {key} was not noticed");
    assert!(
        outcome.errors.iter().any(|error| error.contains(key.trim_start_matches("v/"))),
        "{what} of {key}: {:?}",
        outcome.errors
    );
    let needed = needed_by(key, packs);
    for sequence in [2, 3] {
        let should_be_whole = !needed.contains(&sequence);
        assert!(!should_be_whole || outcome.whole.contains(&sequence), "{what} of {key} hurts point {sequence}");
    }
    let vault = vault_on(store(objects), seeded(3)).await;
    let report = vault.check(CheckDepth::Full, &|_| {}).await.expect("damage is no error of a check");
    if key.contains("/runs/") {
        return;
    }
    assert!(
        report.findings.iter().any(|finding| key.ends_with(&finding.object)),
        "{what} of {key}: {:?}",
        report.findings
    );
    for finding in &report.findings {
        for hurt in &finding.points {
            assert!(needed.contains(&hurt.sequence.get()), "{what} of {key}: {finding:?}");
        }
    }
}

#[tokio::test]
async fn every_flip_truncation_exchange_and_loss_is_noticed() {
    let world = world().await;
    let keys: Vec<(String, u64)> = objects(&world.objects).await;
    let packs: Vec<String> = keys
        .iter()
        .map(|(key, _)| key.clone())
        .filter(|key| key.contains("/packs/") || key.contains("/maps/"))
        .collect();
    assert_eq!((keys.len(), packs.len()), (9, 4), "{keys:?}");
    let path = |key: &str| Path::from(key);
    for (key, length) in &keys {
        let bytes = world.objects.get(&path(key)).await.expect("there").bytes().await.expect("there").to_vec();
        let mut positions: Vec<usize> = (0..24.min(bytes.len())).collect();
        positions.extend((1..40).map(|step| bytes.len() * step / 40));
        positions.push(bytes.len() - 1);
        for position in positions {
            let copy = copy(&world.objects).await;
            let mut flipped = bytes.clone();
            flipped[position] ^= 1 << (position % 8);
            copy.put(&path(key), flipped.into()).await.expect("written");
            // A map pack's own prologue and name are not needed to read its pages.
            if key.contains("/maps/") && position < 32 {
                continue;
            }
            expect_harm(&world, &copy, key, &packs, &format!("a flip at {position} of {length}")).await;
        }
        for kept in [0, 1, 15, 16, 40, bytes.len() / 2, bytes.len() - 1] {
            let copy = copy(&world.objects).await;
            copy.put(&path(key), bytes[..kept].to_vec().into()).await.expect("written");
            expect_harm(&world, &copy, key, &packs, &format!("a truncation to {kept} of {length}")).await;
        }
        let copy = copy(&world.objects).await;
        copy.delete(&path(key)).await.expect("deleted");
        if key.ends_with("commits/00000000000000000003")
            || key.ends_with("/00000002")
            || key.ends_with("commits/00000000000000000001")
        {
            // Without an anchor outside the store, the loss of the newest cannot be told from its never having been.
            let outcome = read_everything(&world, &copy).await;
            assert!(!outcome.whole.contains(&3) || key.contains("/runs/"), "{key}");
        } else {
            expect_harm(&world, &copy, key, &packs, "the loss").await;
        }
    }
}

#[tokio::test]
async fn exchanged_objects_are_noticed() {
    let world = world().await;
    let keys: Vec<String> = objects(&world.objects).await.into_iter().map(|(key, _)| key).collect();
    for left in &keys {
        for right in keys.iter().filter(|right| *right > left) {
            let copy = copy(&world.objects).await;
            let read = |key: String| {
                let copy = Arc::clone(&copy);
                async move { copy.get(&Path::from(key)).await.expect("there").bytes().await.expect("there") }
            };
            let (first, second) = (read(left.clone()).await, read(right.clone()).await);
            copy.put(&Path::from(left.as_str()), second.into()).await.expect("written");
            copy.put(&Path::from(right.as_str()), first.into()).await.expect("written");
            let outcome = read_everything(&world, &copy).await;
            assert!(!outcome.errors.is_empty(), "exchanging {left} and {right} was not noticed");
        }
    }
}

#[tokio::test]
async fn another_format_is_refused_politely() {
    let world = world().await;
    for (key, _) in objects(&world.objects).await {
        let copy = copy(&world.objects).await;
        let mut bytes =
            copy.get(&Path::from(key.as_str())).await.expect("there").bytes().await.expect("there").to_vec();
        bytes[8] = 0;
        copy.put(&Path::from(key.as_str()), bytes.into()).await.expect("written");
        if key.contains("/maps/") || key.contains("/packs/") {
            continue;
        }
        let outcome = read_everything(&world, &copy).await;
        assert!(
            outcome.errors.iter().any(|error| error.contains("has format 0; this version reads format 1")),
            "{outcome:?}"
        );
    }
}
