//! What the newest point has anywhere is not stored again; and whatever the index is or says, points are what was given.

use std::{
    collections::BTreeMap,
    panic::catch_unwind,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use farshore_core::{Entropy, Extent, SeededEntropy, Sequence};
use object_store::memory::InMemory;
use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    entry::{Change, EntryKey, Place},
    *,
};
use crate::{
    CapsuleDraft, CheckDepth, Grace, Lineage, PointWriter, Vault,
    tests::{
        CHUNK, KEEP_ALL, KEEP_NEWEST, begin, context, details, disk_id, group, lineage, machine_id, noise, read_pieces,
        seeded, store, vault_on, write_all,
    },
};

const NO_GRACE: Grace = Grace { seconds: 0, commits: 0 };

const ALL: CatchUp = CatchUp { leaves_max: usize::MAX, time_max: Duration::from_secs(3600) };

/// The content of disks by name.
type Disks = BTreeMap<&'static str, Vec<u8>>;

/// A store, and the state folder of a host.
struct World {
    objects: Arc<InMemory>,
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        Self { objects: Arc::default(), folder: tempfile::tempdir().expect("a folder") }
    }

    /// A process of the host, with nothing in its memory.
    async fn process(&self) -> (Vault, Lineage) {
        let (vault, lineage) = self.process_without().await;
        lineage.keep_index(self.folder.path());
        (vault, lineage)
    }

    /// A process that keeps no index.
    async fn process_without(&self) -> (Vault, Lineage) {
        let vault = vault_on(store(&self.objects), context()).await;
        let lineage = lineage(&vault).await;
        (vault, lineage)
    }

    /// The index's file.
    fn file(&self, (vault, lineage): &(Vault, Lineage)) -> PathBuf {
        self.folder.path().join(vault.id().to_string()).join(format!("{}.redb", lineage.id()))
    }

    /// That a process that knows nothing restores all these points, and that nothing is wrong with the vault.
    async fn expect(&self, expected: &BTreeMap<Sequence, Disks>) {
        let (vault, lineage) = self.process_without().await;
        for (sequence, disks) in expected {
            let reader = lineage.open_point(*sequence).await.expect("it stands");
            for (name, content) in disks {
                assert!(read_pieces(&reader, name).await.expect("readable") == *content, "{name} of point {sequence}");
            }
        }
        let report = vault.check(CheckDepth::Full, &|_| {}).await.expect("checked");
        assert_eq!(report.findings, []);
    }
}

async fn add_all(writer: &PointWriter, disks: &[(&'static str, &[u8])]) {
    for (name, content) in disks {
        let disk = writer.add_disk(&machine_id(), &disk_id(name), content.len() as u64).await.expect("added");
        write_all(&disk, content).await.expect("accepted");
    }
}

/// Commits a point of these disks, all of which is given.
async fn commit(lineage: &Lineage, disks: &[(&'static str, &[u8])]) -> Point {
    let writer = begin(lineage).await;
    add_all(&writer, disks).await;
    let names: Vec<&str> = disks.iter().map(|(name, _)| *name).collect();
    writer.commit(details(&[(&machine_id(), &names)])).await.expect("committed")
}

fn disks(of: &[(&'static str, &[u8])]) -> Disks {
    of.iter().map(|(name, content)| (*name, content.to_vec())).collect()
}

/// The chunks in another order: none is where it was.
fn moved(content: &[u8]) -> Vec<u8> {
    content.chunks(CHUNK).rev().flatten().copied().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_parent_has_elsewhere_is_not_stored_again() {
    for is_kept in [true, false] {
        let world = World::new();
        let content = noise(1, 100 * CHUNK);
        let first = world.process().await;
        let point = commit(&first.1, &[("d", &content)]).await;
        let mut expected = BTreeMap::from([(point.sequence, disks(&[("d", &content)]))]);
        drop(first);

        let process = if is_kept { world.process().await } else { world.process_without().await };
        let all: &[(&str, &[u8])] = &[("d", &moved(&content)), ("e", &content[7 * CHUNK..50 * CHUNK])];
        let point = commit(&process.1, all).await;
        expected.insert(point.sequence, disks(all));
        world.expect(&expected).await;
        let changed = (143 * CHUNK) as u64;
        assert_eq!((point.stats.bytes_given, point.stats.bytes_changed), (changed, changed));
        match is_kept {
            true => {
                assert_eq!((point.stats.bytes_deduplicated, point.stats.frames_written), (changed, 0));
                assert_eq!(point.stats.objects_written, 2, "a map pack and a commit");
            }
            false => assert!(point.stats.bytes_stored > (100 * CHUNK) as u64, "{:?}", point.stats),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capsule_is_part_of_what_the_parent_has() {
    let world = World::new();
    let process = world.process().await;
    let (disk, item) = (noise(1, 3 * CHUNK), noise(2, 5 * CHUNK));
    let writer = begin(&process.1).await;
    let draft = CapsuleDraft::new("component/a", "component", BTreeMap::new(), Bytes::from(item.clone()));
    writer.add_item(&draft.expect("a good item")).await.expect("added");
    add_all(&writer, &[("d", &disk)]).await;
    writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("committed");
    let all: &[(&str, &[u8])] = &[("d", &disk), ("e", &item)];
    let point = commit(&process.1, all).await;
    assert_eq!(point.stats.frames_written, 0);
    // Nothing has it any more after the point that gave up the capsule and the disk.
    let last = commit(&process.1, &[("d", &disk)]).await;
    let again = commit(&process.1, all).await;
    assert_eq!(again.stats.bytes_deduplicated, 0);
    let expected = [(point.sequence, disks(all)), (last.sequence, disks(&all[..1])), (again.sequence, disks(all))];
    world.expect(&BTreeMap::from(expected)).await;
}

/// Only an older point has it, and a prune may delete that while the next is being written.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_an_older_point_has_is_stored_again() {
    let world = World::new();
    let (old, new) = (noise(1, 70 * CHUNK), noise(2, 70 * CHUNK));
    let process = world.process().await;
    commit(&process.1, &[("d", &old)]).await;
    let file = world.file(&process);
    drop(process);
    let stale = std::fs::read(&file).expect("it was made");
    let process = world.process().await;
    commit(&process.1, &[("d", &new)]).await;
    // The session itself has taken it out.
    let shared = &process.1.0;
    let table = shared.index.open(shared).await.expect("it opens");
    let keys = |content: &[u8]| identities(shared, content).iter().map(EntryKey::from).collect::<Vec<_>>();
    assert!(table.propose(&keys(&old)).expect("readable").iter().all(Option::is_none));
    assert!(table.propose(&keys(&new)).expect("readable").iter().all(Option::is_some));
    drop((table, process));
    for index in ["as it is", "of the older point"] {
        let process = world.process().await;
        commit(&process.1, &[("d", &new)]).await;
        drop(process);
        if index != "as it is" {
            std::fs::write(&file, &stale).expect("written");
        }
        let process = world.process().await;
        let writer = begin(&process.1).await;
        add_all(&writer, &[("d", &new), ("e", &old)]).await;
        for _ in 0..3 {
            let plan = process.1.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect("planned");
            process.1.prune(plan).await.expect("pruned");
        }
        let point = writer.commit(details(&[(&machine_id(), &["d", "e"])])).await.expect("committed");
        assert_eq!(point.stats.bytes_deduplicated, 0, "{index}");
        world.expect(&BTreeMap::from([(point.sequence, disks(&[("d", &new), ("e", &old)]))])).await;
        commit(&process.1, &[("d", &old)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_rebuilt_when_it_is_missing_and_learns_what_others_wrote() {
    let world = World::new();
    let (one, two, three) = (noise(1, 70 * CHUNK), noise(2, 9 * CHUNK), noise(3, 6 * CHUNK));
    let other = world.process_without().await;
    commit(&other.1, &[("d", &one)]).await;
    let process = world.process().await;
    let point = commit(&process.1, &[("d", &one), ("e", &moved(&one))]).await;
    assert_eq!(point.stats.frames_written, 0, "it is missing");
    // Another host overwrites a part of one disk; the rest is known already.
    let mut changed = one.clone();
    changed[..9 * CHUNK].copy_from_slice(&two);
    let other = world.process_without().await;
    commit(&other.1, &[("d", &changed), ("e", &moved(&one)), ("f", &three)]).await;
    let all: &[(&str, &[u8])] = &[("d", &moved(&changed)), ("g", &two), ("h", &three)];
    let point = commit(&process.1, all).await;
    assert_eq!(point.stats.frames_written, 0, "another host has written");
    world.expect(&BTreeMap::from([(point.sequence, disks(all))])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_goes_on_where_it_ended() {
    let world = World::new();
    let content = noise(1, 200 * CHUNK);
    let process = world.process().await;
    let (shared, parent) = (&process.1.0, roots(&commit(&world.process_without().await.1, &[("d", &content)]).await));
    let table = shared.index.open(shared).await.expect("it opens");
    let keys: Vec<EntryKey> = identities(shared, &content).iter().map(EntryKey::from).collect();
    let one = CatchUp { leaves_max: 1, ..ALL };
    for leaf in 0..4 {
        let known = table.propose(&keys).expect("readable").iter().filter(|place| place.is_some()).count();
        assert_eq!(known, leaf * 64);
        catch_up(shared, &table, &parent, one).await.expect("usable");
    }
    assert!(table.propose(&keys).expect("readable").iter().all(Option::is_some));
    let rows = table.rows().expect("readable");
    assert!(rows.values().all(|row| row.ahead.is_none()), "{rows:?}");
    // No time, no step.
    let other = noise(3, 200 * CHUNK);
    let parent = roots(&commit(&world.process_without().await.1, &[("d", &other)]).await);
    catch_up(shared, &table, &parent, CatchUp { time_max: Duration::ZERO, ..ALL }).await.expect("usable");
    assert_eq!(table.rows().expect("readable"), rows);
    catch_up(shared, &table, &parent, ALL).await.expect("usable");
    // What is not there any more is out of it.
    assert!(table.propose(&keys).expect("readable").iter().all(Option::is_none));
}

/// A session that commits in the middle of a rebuild takes the walk along.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_takes_an_unfinished_rebuild_along() {
    let world = World::new();
    let content = noise(1, 200 * CHUNK);
    let parent = roots(&commit(&world.process_without().await.1, &[("d", &content)]).await);
    let process = world.process().await;
    let shared = &process.1.0;
    let table = shared.index.open(shared).await.expect("it opens");
    catch_up(shared, &table, &parent, CatchUp { leaves_max: 2, ..ALL }).await.expect("usable");
    let rows = table.rows().expect("readable");
    let point = BTreeMap::from_iter(parent.keys().map(|tag| (*tag, PageRef { base: 99, ..parent[tag] })));
    let next = super::session::advance(&rows, &parent, &point);
    let ahead = next[0].1.as_ref().and_then(|row| row.ahead.clone()).expect("it is on its way");
    assert_eq!((ahead.root.base, ahead.leaf), (99, 2));
    // From another parent's map nothing can be told.
    let other = BTreeMap::from_iter(parent.keys().map(|tag| (*tag, PageRef { base: 98, ..parent[tag] })));
    assert_eq!(super::session::advance(&rows, &other, &point), []);
}

fn identities(shared: &LineageShared, content: &[u8]) -> Vec<crate::seal::Hash> {
    let keys = shared.keys.content.as_ref().expect("a writer's keys");
    content.chunks(CHUNK).map(|chunk| keys.identify(chunk)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_lies_is_not_believed() {
    let world = World::new();
    let content = noise(1, 70 * CHUNK);
    let process = world.process().await;
    commit(&process.1, &[("d", &content)]).await;
    let shared = &process.1.0;
    let table = shared.index.open(shared).await.expect("it is open");
    let other = noise(9, 70 * CHUNK);
    let lies = [
        MapTag::of_disk(&machine_id(), &disk_id("d")),
        MapTag::of_disk(&machine_id(), &disk_id("nobody has it")),
        MapTag::of_item("d"),
    ];
    let mut expected = BTreeMap::new();
    for (number, map) in lies.into_iter().enumerate() {
        // Content that the point does not have, and that it has at another place.
        let lie = |(number, identity): (usize, &_)| {
            let place = Place::new(map, number as u64 % 3, (number * 7 + 1) % 64);
            Change { key: EntryKey::from(identity), place, has_it: true }
        };
        let all = [identities(shared, &content), identities(shared, &other)].concat();
        table.apply(all.iter().enumerate().map(lie).collect(), &[]).expect("usable");
        let given: &[(&str, &[u8])] = &[("d", &content), ("e", if number == 1 { &content } else { &other })];
        let point = commit(&process.1, given).await;
        expected.insert(point.sequence, disks(given));
    }
    world.expect(&expected).await;
}

/// Bytes that were flipped, cut off, or overwritten.
fn hurt(bytes: &mut Vec<u8>, entropy: &SeededEntropy) {
    let mut random = [0; 8];
    let mut number = |limit: usize| {
        entropy.fill(&mut random);
        usize::try_from(u64::from_le_bytes(random) % u64::try_from(limit.max(1)).expect("small")).expect("small")
    };
    match number(4) {
        0 => {
            let length = number(bytes.len());
            bytes.truncate(length);
        }
        1 => {
            let start = number(bytes.len() / 4096) * 4096;
            let value = [0, 0xff][number(2)];
            bytes.iter_mut().skip(start).take(4096).for_each(|byte| *byte = value);
        }
        // Most of a new file is empty; its front says what is where.
        kind => {
            let length = if kind == 2 { bytes.len() } else { bytes.len().min(64 * 1024) };
            for _ in 0..=number(8) {
                let at = number(length);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << number(8);
                }
            }
        }
    }
}

fn rounds() -> u64 {
    if std::env::var_os("FARSHORE_LONG").is_some() { 1000 } else { 24 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_costs_space_at_most() {
    let world = World::new();
    let content = noise(1, 66 * CHUNK);
    let process = world.process().await;
    let file = world.file(&process);
    commit(&process.1, &[("d", &content)]).await;
    drop(process);
    let good = std::fs::read(&file).expect("it was made");
    for seed in 0..rounds() {
        let mut bytes = good.clone();
        hurt(&mut bytes, &SeededEntropy::new(seed));
        std::fs::write(&file, &bytes).expect("written");
        let process = world.process().await;
        let new = noise(seed + 100, CHUNK);
        let all: &[(&str, &[u8])] = &[("d", &content), ("e", &content[CHUNK..]), ("f", &new)];
        let point = commit(&process.1, all).await;
        let reader = process.1.open_point(point.sequence).await.expect("it stands");
        for (name, content) in all {
            assert!(read_pieces(&reader, name).await.expect("readable") == **content, "seed {seed}: {name}");
        }
        // What took its place works.
        let point = commit(&process.1, &[("d", &moved(&content)), ("f", &new)]).await;
        assert_eq!(point.stats.frames_written, 0, "seed {seed}");
        commit(&process.1, &[("d", &content)]).await;
    }
    world.expect(&BTreeMap::new()).await;
}

/// The file is overwritten under a process that has it open.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_damaged_while_it_is_open_costs_space_at_most() {
    let mut expected = BTreeMap::new();
    let world = World::new();
    let process = world.process().await;
    for round in 0..4u8 {
        let content = noise(u64::from(round), 200 * CHUNK);
        let all: &[(&str, &[u8])] = &[("d", &content), ("e", &moved(&content))];
        expected.insert(commit(&process.1, all).await.sequence, disks(all));
        let file = world.file(&process);
        let length = std::fs::metadata(&file).map_or(0, |metadata| metadata.len());
        let open = std::fs::OpenOptions::new().write(true).open(&file);
        if let Ok(mut open) = open {
            std::io::Write::write_all(&mut open, &vec![round; usize::try_from(length).expect("small")])
                .expect("written");
        }
    }
    world.expect(&expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_this_index_is_replaced() {
    let world = World::new();
    let content = noise(1, 10 * CHUNK);
    let process = world.process().await;
    let file = world.file(&process);
    commit(&process.1, &[("d", &content)]).await;
    drop(process);
    let name = |what: &str| format!("{what} {what}");
    type Make = Box<dyn Fn(&Path)>;
    let makes: Vec<(&str, Make)> = vec![
        ("nothing", Box::new(|file| std::fs::remove_file(file).expect("removed"))),
        ("an empty file", Box::new(|file| std::fs::write(file, b"").expect("written"))),
        ("a text", Box::new(|file| std::fs::write(file, b"good morning\n").expect("written"))),
        (
            "another's index",
            Box::new(move |file| {
                std::fs::remove_file(file).expect("removed");
                drop(Table::open(file, FILE_BYTES_MAX, &name("other")).expect("made"));
            }),
        ),
        (
            "another program's store",
            Box::new(|file| {
                std::fs::remove_file(file).expect("removed");
                let store = redb::Database::create(file).expect("made");
                let writing = store.begin_write().expect("open");
                let table: redb::TableDefinition<'_, u64, u64> = redb::TableDefinition::new("about");
                writing.open_table(table).expect("made").insert(1, 2).expect("written");
                writing.commit().expect("written");
            }),
        ),
    ];
    for (what, make) in makes {
        make(&file);
        let process = world.process().await;
        let point = commit(&process.1, &[("d", &content), ("e", &moved(&content))]).await;
        assert_eq!(point.stats.frames_written, 0, "{what}");
        commit(&process.1, &[("d", &content)]).await;
    }
    world.expect(&BTreeMap::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_cannot_be_used_is_in_no_cycles_way() {
    let content = noise(1, 10 * CHUNK);
    for what in ["a folder in its place", "a file in its folder's place", "another process", "no room", "little room"] {
        let world = World::new();
        let first = world.process().await;
        let file = world.file(&first);
        let folder = file.parent().expect("a folder");
        let mut holder = None;
        let process = world.process_without().await;
        match what {
            "a folder in its place" => std::fs::create_dir_all(&file).expect("made"),
            "a file in its folder's place" => std::fs::write(folder, b"").expect("written"),
            "another process" => {
                commit(&first.1, &[("d", &content)]).await;
                holder = Some(first);
            }
            _ => {}
        }
        let bytes_max = match what {
            "no room" => 0,
            "little room" => 64 * 1024,
            _ => FILE_BYTES_MAX,
        };
        process.1.0.index.file.set(IndexFile { path: file.clone(), bytes_max }).expect("it has none");
        let all: &[(&str, &[u8])] = &[("d", &content), ("e", &moved(&content))];
        commit(&process.1, &all[..1]).await;
        let point = commit(&process.1, all).await;
        assert!(point.stats.frames_written > 0, "{what}: {:?}", point.stats);
        world.expect(&BTreeMap::from([(point.sequence, disks(all))])).await;
        // It is left alone for a while.
        assert!(process.1.0.index.state().paused_until > Duration::ZERO, "{what}");
        if let Some(holder) = holder.take() {
            // The holder's own is as good as before.
            let point = commit(&holder.1, &[("d", &moved(&content)), ("f", &content)]).await;
            assert_eq!(point.stats.frames_written, 0);
        }
    }
}

#[test]
fn a_file_does_not_grow_past_its_limit() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("index.redb");
    let limit = 8 * 1024 * 1024;
    let table = Table::open(&path, limit, "a").expect("made");
    let changes = |from: u64| {
        (from..from + 200_000).map(|number| {
            let identity = blake3::derive_key("farshore test", &number.to_le_bytes());
            let place = Place::new(MapTag::of_item("a"), number / 64, usize::try_from(number % 64).expect("small"));
            Change { key: EntryKey::from(&identity), place, has_it: true }
        })
    };
    let first: Vec<Change> = changes(0).take(1000).collect();
    table.apply(first.clone(), &[]).expect("room");
    let error = (0..5).find_map(|round| table.apply(changes(round * 200_000).collect(), &[]).err());
    assert!(matches!(error, Some(IndexError::File(_))), "{error:?}");
    drop(table);
    assert!(std::fs::metadata(&path).expect("there").len() <= limit);
    let table = Table::open(&path, limit, "a").expect("it is whole");
    let keys: Vec<EntryKey> = first.iter().map(|change| change.key).collect();
    let expected: Vec<_> = first.iter().map(|change| Some(change.place)).collect();
    assert_eq!(table.propose(&keys).expect("readable"), expected);
}

#[test]
fn a_store_that_panics_is_damaged() {
    let error = catch_unwind(|| Table::panics().expect_err("it panics")).expect("it was caught");
    assert!(matches!(error, IndexError::Damaged { .. }), "{error}");
}

/// An idle cycle makes no index; and what lies there is its owner's, and tells no name and no content.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn it_is_made_when_it_is_needed_and_tells_little() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    let process = world.process().await;
    let file = world.file(&process);
    let writer = begin(&process.1).await;
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), 8 << 20).await.expect("added");
    disk.write_zeroes(Extent { offset: 0, length: 8 << 20 }).await.expect("accepted");
    disk.write(0, Bytes::from(vec![0; 1 << 20])).await.expect("accepted");
    writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("committed");
    assert!(!file.exists());
    let canary = b"CANARY of a disk".repeat(CHUNK / 16);
    commit(&process.1, &[("d", &[noise(1, 8 << 20).as_slice(), &canary].concat())]).await;
    let identity = identities(&process.1.0, &canary)[0];
    drop(process);
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().expect("a folder"))), (0o600, 0o700));
    let bytes = std::fs::read(&file).expect("readable");
    let has = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
    assert!(!has(&canary[..16]) && !has(machine_id().as_str().as_bytes()) && !has(group().as_str().as_bytes()));
    assert!(!has(&identity[..8]), "an identity is not there as it is");
}

/// A writer that gives up tells the index nothing that matters.
#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_was_given_up_is_not_proposed() {
    let world = World::new();
    let (one, two) = (noise(1, 70 * CHUNK), noise(2, 70 * CHUNK));
    let process = world.process().await;
    commit(&process.1, &[("d", &one)]).await;
    let writer = begin(&process.1).await;
    add_all(&writer, &[("d", &two)]).await;
    drop(writer);
    let all: &[(&str, &[u8])] = &[("d", &one), ("e", &moved(&one)), ("f", &two)];
    let point = commit(&process.1, all).await;
    assert_eq!(point.stats.bytes_deduplicated, (70 * CHUNK) as u64);
    world.expect(&BTreeMap::from([(point.sequence, disks(all))])).await;
}

/// What may happen in a history. Numbers are of chunks.
#[derive(Debug, Clone)]
enum Step {
    Write {
        disk: usize,
        chunk: usize,
        count: usize,
        content: u8,
    },
    Move {
        from: usize,
        to: usize,
        chunk: usize,
        count: usize,
        target: usize,
    },
    Zero {
        disk: usize,
        chunk: usize,
        count: usize,
    },
    /// All prunes delete at once what they may.
    Prune {
        all: bool,
    },
    Commit,
    GiveUp,
    /// Another host, which has no index, makes a point that writes this.
    Elsewhere {
        chunk: usize,
        content: u8,
    },
    Restart,
    Index(Fate),
}

/// What becomes of the index's file while no process has it.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Lost,
    Hurt(u64),
    /// It is as it was once.
    Old,
    /// All contents are at places where they may not be.
    Lies(u64),
    /// It says what a point had, so many before the newest.
    Past(usize),
}

/// Says of each chunk that it is at a random place.
fn lie(file: &Path, name: &str, identities: &[crate::seal::Hash], seed: u64) {
    // One that was hurt before is made anew by the next process.
    let Ok(table) = Table::open(file, FILE_BYTES_MAX, name) else { return };
    let random = noise(seed, identities.len() * 2);
    let lie = |(identity, random): (&_, &[u8])| {
        let map = MapTag::of_disk(&machine_id(), &disk_id(NAMES[usize::from(random[0] % 2)]));
        let chunk = usize::from(random[1]) % CHUNKS;
        Change { key: EntryKey::from(identity), place: Place::new(map, chunk as u64 / 64, chunk % 64), has_it: true }
    };
    table.apply(identities.iter().zip(random.chunks(2)).map(lie).collect(), &[]).expect("usable");
}

/// Says of each chunk of a disk that it is at its place.
fn tell_of(file: &Path, name: &str, keys: &crate::seal::ContentKeys, disk: &str, content: &[u8]) {
    let Ok(table) = Table::open(file, FILE_BYTES_MAX, name) else { return };
    let map = MapTag::of_disk(&machine_id(), &disk_id(disk));
    let tell = |(number, chunk): (usize, &[u8])| {
        let place = Place::new(map, number as u64 / 64, number % 64);
        Change { key: EntryKey::from(&keys.identify(chunk)), place, has_it: true }
    };
    table.apply(content.chunks(CHUNK).enumerate().map(tell).collect(), &[]).expect("usable");
}

/// How many contents are written, and four more: few, so that they come back.
const CONTENTS: u64 = 40;

const CHUNKS: usize = 90;
const NAMES: [&str; 2] = ["d", "e"];

fn step() -> impl Strategy<Value = Step> {
    let (disk, chunk, count) = (0..2usize, 0..CHUNKS, 1..20usize);
    prop_oneof![
        8 => (disk.clone(), chunk.clone(), count.clone(), 0..CONTENTS as u8)
            .prop_map(|(disk, chunk, count, content)| Step::Write { disk, chunk, count, content }),
        5 => (disk.clone(), disk.clone(), chunk.clone(), count.clone(), chunk.clone())
            .prop_map(|(from, to, chunk, count, target)| Step::Move { from, to, chunk, count, target }),
        2 => (disk, chunk.clone(), count).prop_map(|(disk, chunk, count)| Step::Zero { disk, chunk, count }),
        4 => prop::bool::weighted(0.8).prop_map(|all| Step::Prune { all }),
        5 => Just(Step::Commit),
        1 => Just(Step::GiveUp),
        1 => (chunk, 0..CONTENTS as u8).prop_map(|(chunk, content)| Step::Elsewhere { chunk, content }),
        1 => Just(Step::Restart),
        4 => prop_oneof![
            Just(Fate::Lost),
            any::<u64>().prop_map(Fate::Hurt),
            Just(Fate::Old),
            any::<u64>().prop_map(Fate::Lies),
            (1..4usize).prop_map(Fate::Past),
        ].prop_map(Step::Index),
    ]
}

/// A history as it is played.
struct Player {
    world: World,
    seed: u64,
    process: Option<(Vault, Lineage)>,
    /// The newest point's disks, and those of the point in the making.
    committed: [Vec<u8>; 2],
    disks: [Vec<u8>; 2],
    writer: Option<(PointWriter, Vec<crate::DiskWriter>)>,
    points: BTreeMap<Sequence, [Vec<u8>; 2]>,
    old_index: Option<Vec<u8>>,
}

impl Player {
    fn new(seed: u64) -> Self {
        let empty = [vec![0; CHUNKS * CHUNK], vec![0; CHUNKS * CHUNK]];
        Self {
            world: World::new(),
            seed,
            process: None,
            committed: empty.clone(),
            disks: empty,
            writer: None,
            points: BTreeMap::new(),
            old_index: None,
        }
    }

    async fn lineage(&mut self) -> Lineage {
        if self.process.is_none() {
            self.seed += 1;
            let vault = vault_on(store(&self.world.objects), seeded(self.seed)).await;
            let lineage = lineage(&vault).await;
            lineage.keep_index(self.world.folder.path());
            self.process = Some((vault, lineage));
        }
        self.process.as_ref().expect("it is there now").1.clone()
    }

    async fn writer(&mut self) -> &mut (PointWriter, Vec<crate::DiskWriter>) {
        if self.writer.is_none() {
            let writer = begin(&self.lineage().await).await;
            let mut disks = Vec::new();
            for name in NAMES {
                let bytes = (CHUNKS * CHUNK) as u64;
                disks.push(writer.add_disk(&machine_id(), &disk_id(name), bytes).await.expect("added"));
            }
            self.writer = Some((writer, disks));
        }
        self.writer.as_mut().expect("it is there now")
    }

    async fn write(&mut self, disk: usize, chunk: usize, content: Vec<u8>) {
        let start = chunk * CHUNK;
        self.disks[disk][start..start + content.len()].copy_from_slice(&content);
        let (_, disks) = self.writer().await;
        disks[disk].write(start as u64, Bytes::from(content)).await.expect("accepted");
    }

    fn give_up(&mut self) {
        self.writer = None;
        self.disks = self.committed.clone();
    }

    async fn commit(&mut self) {
        self.writer().await;
        let Some((writer, _)) = self.writer.take() else { return };
        let point = writer.commit(details(&[(&machine_id(), &NAMES)])).await.expect("committed");
        self.points.insert(point.sequence, self.disks.clone());
        self.committed = self.disks.clone();
    }

    async fn play(&mut self, step: Step) {
        match step {
            Step::Write { disk, chunk, count, content } => {
                let count = count.min(CHUNKS - chunk);
                let bytes: Vec<u8> =
                    (0..count).flat_map(|at| noise(u64::from(content) + at as u64 % 5, CHUNK)).collect();
                self.write(disk, chunk, bytes).await;
            }
            Step::Move { from, to, chunk, count, target } => {
                let count = count.min(CHUNKS - chunk).min(CHUNKS - target);
                let bytes = self.committed[from][chunk * CHUNK..(chunk + count) * CHUNK].to_vec();
                self.write(to, target, bytes).await;
            }
            Step::Zero { disk, chunk, count } => {
                let (start, length) = (chunk * CHUNK, count.min(CHUNKS - chunk) * CHUNK);
                self.disks[disk][start..start + length].fill(0);
                let extent = Extent { offset: start as u64, length: length as u64 };
                self.writer().await.1[disk].write_zeroes(extent).await.expect("accepted");
            }
            Step::Prune { all } => {
                let lineage = self.lineage().await;
                let retention = if all { KEEP_NEWEST } else { KEEP_ALL };
                let plan = lineage.plan_prune(&retention, NO_GRACE).await.expect("planned");
                lineage.prune(plan).await.expect("pruned");
            }
            Step::Commit => self.commit().await,
            Step::GiveUp => self.give_up(),
            Step::Elsewhere { chunk, content } => {
                self.give_up();
                let (_vault, lineage) = self.world.process_without().await;
                let writer = begin(&lineage).await;
                for (number, name) in NAMES.into_iter().enumerate() {
                    let bytes = (CHUNKS * CHUNK) as u64;
                    let disk = writer.add_disk(&machine_id(), &disk_id(name), bytes).await.expect("added");
                    let new = noise(u64::from(content), CHUNK);
                    self.disks[number][chunk * CHUNK..(chunk + 1) * CHUNK].copy_from_slice(&new);
                    disk.write((chunk * CHUNK) as u64, Bytes::from(new)).await.expect("accepted");
                }
                let point = writer.commit(details(&[(&machine_id(), &NAMES)])).await.expect("committed");
                self.points.insert(point.sequence, self.disks.clone());
                self.committed = self.disks.clone();
            }
            Step::Restart => {
                self.give_up();
                self.process = None;
            }
            Step::Index(fate) => {
                self.lineage().await;
                let process = self.process.as_ref().expect("it is there");
                let file = self.world.file(process);
                let name = format!("{} {}", process.0.id(), process.1.id());
                let contents: Vec<u8> = (0..CONTENTS + 4).flat_map(|content| noise(content, CHUNK)).collect();
                let identities = identities(&process.1.0, &contents);
                let keys = process.1.0.keys.content.clone().expect("a writer's keys");
                self.give_up();
                self.process = None;
                // A writer that gave up ends what it had begun, and the store's file is its own until then.
                while Table::is_open(&file) {
                    tokio::task::yield_now().await;
                }
                let Ok(mut bytes) = std::fs::read(&file) else { return };
                match fate {
                    Fate::Lost => std::fs::remove_file(&file).expect("removed"),
                    Fate::Past(back) => {
                        if let Some((_, past)) = self.points.iter().rev().nth(back) {
                            past.iter()
                                .zip(NAMES)
                                .for_each(|(content, disk)| tell_of(&file, &name, &keys, disk, content));
                        }
                    }
                    Fate::Lies(seed) => lie(&file, &name, &identities, seed),
                    Fate::Hurt(seed) => {
                        hurt(&mut bytes, &SeededEntropy::new(seed));
                        std::fs::write(&file, &bytes).expect("written");
                    }
                    Fate::Old => {
                        if let Some(old) = self.old_index.replace(bytes) {
                            std::fs::write(&file, old).expect("written");
                        }
                    }
                }
            }
        }
    }

    async fn end(mut self) {
        self.give_up();
        let lineage = self.lineage().await;
        let standing = lineage.points(None, usize::MAX).await.expect("readable");
        let expected = |point: &Point| {
            let [d, e] = self.points[&point.sequence].clone();
            (point.sequence, BTreeMap::from([("d", d), ("e", e)]))
        };
        self.world.expect(&standing.iter().map(expected).collect()).await;
    }
}

fn cases() -> u32 {
    if std::env::var_os("FARSHORE_LONG").is_some() { 60 } else { 24 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 300, ..ProptestConfig::default() })]
    #[test]
    fn whatever_the_index_is_points_are_what_was_given(steps in prop::collection::vec(step(), 1..60), seed in 0..1_000_000u64) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut player = Player::new(seed * 1000);
            for step in steps {
                player.play(step).await;
            }
            player.end().await;
        });
    }
}
