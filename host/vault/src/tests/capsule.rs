//! A point's capsule is stored once, kept as long as its point, and never in a disk's way.

use std::collections::BTreeMap;

use farshore_core::Sequence;
use object_store::{ObjectStoreExt, path::Path};

use super::*;
use crate::{
    CAPSULE_ITEM_BYTES_MAX, CAPSULE_ITEMS_MAX, CapsuleDraft, CapsuleItem, CheckDepth, Error, Grace, commit::Event,
};

fn draft(name: &str, content: &[u8]) -> CapsuleDraft {
    let details = BTreeMap::from([("version".to_owned(), "1.2.3".to_owned())]);
    CapsuleDraft::new(name, "component", details, Bytes::copy_from_slice(content)).expect("a good item")
}

/// Commits a point with one disk, of which only what differs is written, and this capsule.
async fn commit(lineage: &Lineage, disk: &[u8], items: &[CapsuleDraft]) -> Result<Point> {
    let (_, writer) = begin_next(lineage).await?;
    for item in items {
        writer.add_item(item).await?;
    }
    let disk_writer = writer.add_disk(&machine_id(), &disk_id("d"), disk.len() as u64).await?;
    write_all(&disk_writer, disk).await?;
    writer.commit(details(&[(&machine_id(), &["d"])])).await
}

async fn read(lineage: &Lineage, point: &Point, name: &str) -> Result<Bytes> {
    lineage.open_point(point.sequence).await?.read_item(name).await
}

async fn bytes_of(objects: &InMemory, folder: &str) -> u64 {
    let listed = self::objects(objects).await;
    listed.iter().filter(|(key, _)| key.contains(folder)).map(|(_, bytes)| bytes).sum()
}

#[tokio::test]
async fn what_is_given_comes_back_and_an_unchanged_capsule_is_stored_once() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let (disk, component) = (noise(1, 3 * CHUNK), noise(2, 20 * CHUNK + 77));
    let items = [draft("component/qemu", &component), draft("configuration", b"[vault]\n"), draft("empty", b"")];
    let first = commit(&lineage, &disk, &items).await.expect("committed");
    assert_eq!(first.stats.objects_written, 3, "one data pack, one map pack, one commit");
    assert_eq!((first.stats.bytes_given, first.stats.bytes_changed), (3 * CHUNK as u64, 3 * CHUNK as u64));
    let before = self::objects(&objects).await;

    let second = commit(&lineage, &disk, &items).await.expect("committed");
    assert_eq!((second.stats.objects_written, second.stats.bytes_stored), (1, 0));
    let after = self::objects(&objects).await;
    let new: Vec<_> = after.iter().filter(|object| !before.contains(object)).collect();
    assert!(new.len() == 1 && new[0].0.contains("/commits/") && new[0].1 < 4096, "{new:?}");
    assert_eq!(first.capsule, second.capsule);
    // Under another name it is the same bytes.
    let renamed = [draft("component/other", &component)];
    assert_eq!(commit(&lineage, &disk, &renamed).await.expect("committed").stats.objects_written, 1);

    let vault = vault_on(store(&objects), context()).await;
    let lineage = vault.lineage(&group()).await.expect("readable").expect("there");
    for point in [&first, &second] {
        let reader = lineage.open_point(point.sequence).await.expect("there");
        let names: Vec<_> = reader.capsule().expect("sound").iter().map(|item| item.name.as_str()).collect();
        assert_eq!(names, ["component/qemu", "configuration", "empty"]);
        assert!(reader.read_item("component/qemu").await.expect("readable") == component);
        assert_eq!(reader.read_item("configuration").await.expect("readable").as_ref(), b"[vault]\n");
        assert_eq!(reader.read_item("empty").await.expect("readable").len(), 0);
        assert!(matches!(reader.read_item("none").await, Err(Error::InvalidRequest { .. })));
        assert_eq!(reader.capsule().expect("sound")[0].details["version"], "1.2.3");
        assert!(restore(&lineage, point).await.expect("readable") == disk);
    }
    let report = vault.check(CheckDepth::Full, &|_| {}).await.expect("checked");
    assert_eq!((report.findings, report.points_checked), (Vec::new(), 3));
}

#[tokio::test]
async fn a_changed_item_adds_its_changed_chunks_only_and_may_grow_and_shrink() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let disk = noise(1, CHUNK);
    let mut component = noise(2, 100 * CHUNK);
    commit(&lineage, &disk, &[draft("component/qemu", &component)]).await.expect("committed");
    let mut stored = bytes_of(&objects, "/packs/").await;
    let mut add = async |component: &[u8], chunks: u64| {
        let point = commit(&lineage, &disk, &[draft("component/qemu", component)]).await.expect("committed");
        assert!(read(&lineage, &point, "component/qemu").await.expect("readable") == component);
        let now = bytes_of(&objects, "/packs/").await;
        let room = CHUNK as u64 / 4;
        let added = now - stored;
        assert!(
            (chunks * CHUNK as u64..=chunks * CHUNK as u64 + room).contains(&added) || chunks + added == 0,
            "{added}"
        );
        stored = now;
    };
    component[5 * CHUNK] ^= 1;
    component[80 * CHUNK] ^= 1;
    add(&component, 2).await;
    component.extend(noise(3, 3 * CHUNK));
    add(&component, 3).await;
    // Cut at a chunk's end, and across a page of the map.
    component.truncate(63 * CHUNK);
    add(&component, 0).await;
    let point = lineage.head().await.expect("readable").newest_point.expect("some");
    let point = lineage.point(point).await.expect("there");
    assert_eq!(point.stats.bytes_changed, 0, "of disks");
    let map = point.capsule[0].map.expect("it has bytes");
    let slots = lineage.0.maps.leaf(Some(map), 1).await.expect("readable");
    assert!(slots.is_none(), "nothing is kept past the end");
    add(&component, 0).await;
}

#[tokio::test]
async fn a_damaged_item_is_named_and_hurts_no_disk() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let disk = noise(1, 3 * CHUNK);
    commit_disk(&lineage, &disk).await.expect("committed");
    let known = self::objects(&objects).await;
    let items = [draft("component/qemu", &noise(2, 4 * CHUNK))];
    let point = commit(&lineage, &disk, &items).await.expect("committed");
    let last = commit(&lineage, &disk, &items).await.expect("committed");
    let new = self::objects(&objects).await.into_iter();
    let pack = new.filter(|object| !known.contains(object)).find(|(key, _)| key.contains("/packs/")).expect("a pack").0;
    let path = Path::from(pack.as_str());
    let mut bytes = objects.get(&path).await.expect("there").bytes().await.expect("there").to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    objects.put(&path, bytes.into()).await.expect("written");

    let vault = vault_on(store(&objects), context()).await;
    let lineage = vault.lineage(&group()).await.expect("readable").expect("there");
    let found = read(&lineage, &point, "component/qemu").await.map(|content| content.len());
    let error = found.expect_err("damaged");
    assert!(error.is_damage() && error.to_string().contains("the item component/qemu of the capsule"), "{error}");
    assert!(restore(&lineage, &point).await.expect("readable") == disk);
    let report = vault.check(CheckDepth::Full, &|_| {}).await.expect("checked");
    let [finding] = report.findings.as_slice() else { panic!("{:?}", report.findings) };
    let hurt: Vec<_> =
        finding.points.iter().map(|hurt| (hurt.sequence, hurt.machines.len(), hurt.items.clone())).collect();
    let item = vec!["component/qemu".to_owned()];
    assert_eq!(hurt, [(point.sequence, 0, item.clone()), (last.sequence, 0, item)]);
}

#[tokio::test]
async fn prunes_keep_the_capsules_of_points_that_stand_and_free_the_others() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let disk = noise(1, CHUNK);
    let (old, kept, new) = (noise(2, 40 * CHUNK), noise(3, 40 * CHUNK), noise(4, 40 * CHUNK));
    let mut points = Vec::new();
    for component in [&old, &kept, &new] {
        points.push(commit(&lineage, &disk, &[draft("component/qemu", component)]).await.expect("committed"));
        // The store's clock has whole milliseconds here.
        farshore_core::Clock::sleep(&SystemClock, std::time::Duration::from_millis(3)).await;
    }
    lineage.pin(farshore_core::RunId::from_bytes([1; 16]), points[1].sequence).await.expect("pinned");
    // What the points that stand share with one that is dropped was born before both.
    for _ in 0..8 {
        let plan = lineage.plan_prune(&KEEP_NEWEST, Grace { seconds: 0, commits: 0 }).await.expect("planned");
        lineage.prune(plan).await.expect("pruned");
    }
    let vault = vault_on(store(&objects), context()).await;
    let lineage = vault.lineage(&group()).await.expect("readable").expect("there");
    let dropped = read(&lineage, &points[0], "component/qemu").await.expect_err("dropped");
    assert!(matches!(dropped, Error::PointMissing { .. }), "{dropped}");
    assert!(read(&lineage, &points[1], "component/qemu").await.expect("pinned") == kept);
    assert!(read(&lineage, &points[2], "component/qemu").await.expect("the newest") == new);
    let stored = bytes_of(&objects, "/packs/").await + bytes_of(&objects, "/collections/").await;
    assert!((80..95).contains(&(stored / CHUNK as u64)), "{stored} bytes are kept for 81 chunks");
    let report = vault.check(CheckDepth::Full, &|_| {}).await.expect("checked");
    assert_eq!(report.findings, []);
}

/// Commits the newest point again with another capsule, as a captured replicator can.
async fn forge(lineage: &Lineage, capsule: Vec<CapsuleItem>) -> Point {
    let built_on = lineage.0.log.newest().await.expect("readable");
    let sequence = built_on.head.sequence.next();
    let newest = lineage.point(built_on.head.newest_point.expect("some")).await.expect("there");
    let point = Point { sequence, capsule, ..newest };
    let head = crate::Head { sequence, newest_point: Some(sequence), ..built_on.head.clone() };
    lineage.0.log.create(&built_on, head, Event::Point(Box::new(point.clone()))).await.expect("created");
    point
}

#[tokio::test]
async fn a_hostile_capsule_is_refused_and_the_disks_are_not() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let disk = noise(1, 3 * CHUNK);
    let component = noise(2, 2 * CHUNK);
    let honest = commit(&lineage, &disk, &[draft("component/qemu", &component)]).await.expect("committed");
    let item = honest.capsule[0].clone();
    let named = |name: &str| vec![CapsuleItem { name: name.to_owned(), ..item.clone() }];
    let detail = |name: &str, text: String| {
        vec![CapsuleItem { details: BTreeMap::from([(name.to_owned(), text)]), ..item.clone() }]
    };
    let numbered = |number: usize| CapsuleItem { name: number.to_string(), ..item.clone() };
    let hostile = [
        named(".."),
        named("../../etc/passwd"),
        named("component/../x"),
        named("/etc/passwd"),
        named("a//b"),
        named("a\\b"),
        named("A"),
        named(""),
        named("a/b/c/d/e"),
        named(&"a".repeat(65)),
        named("a\u{1b}[2J"),
        vec![CapsuleItem { kind: "../x".to_owned(), ..item.clone() }],
        vec![CapsuleItem { size_bytes: CAPSULE_ITEM_BYTES_MAX + 1, ..item.clone() }],
        vec![CapsuleItem { size_bytes: u64::MAX, ..item.clone() }],
        vec![item.clone(), item.clone()],
        (0..=CAPSULE_ITEMS_MAX).map(numbered).collect(),
        detail("a b", String::new()),
        detail("a", "x".repeat(1025)),
    ];
    let forged = hostile.len();
    for capsule in hostile {
        let point = forge(&lineage, capsule.clone()).await;
        let reader = lineage.open_point(point.sequence).await.expect("the point itself is read");
        let error = reader.capsule().expect_err("refused");
        assert!(error.is_damage() && error.to_string().contains("capsule"), "{error}");
        assert!(!error.to_string().contains('\u{1b}') && error.to_string().len() < 400, "{error:?}");
        assert!(reader.read_item(&capsule[0].name).await.expect_err("refused").is_damage());
        assert!(restore(&lineage, &point).await.expect("readable") == disk);
        // The next honest writer takes nothing over from it.
        let next = commit(&lineage, &disk, &[draft("component/qemu", &component)]).await.expect("committed");
        assert!(read(&lineage, &next, "component/qemu").await.expect("readable") == component);
    }
    let report = vault.check(CheckDepth::Structure, &|_| {}).await.expect("checked");
    assert_eq!(report.findings.len(), forged, "{:?}", report.findings);
    assert!(report.findings.iter().all(|finding| finding.points.len() == 1 && finding.points[0].machines.is_empty()));

    // A digest or a map that is not the item's is found when it is read.
    let lies = [
        CapsuleItem { digest: [7; 32], ..item.clone() },
        CapsuleItem { size_bytes: item.size_bytes - 1, ..item.clone() },
        CapsuleItem { size_bytes: CAPSULE_ITEM_BYTES_MAX, ..item.clone() },
        CapsuleItem { map: None, ..item.clone() },
        CapsuleItem { map: honest.machines[0].disks[0].map, ..item.clone() },
    ];
    for lie in lies {
        let point = forge(&lineage, vec![lie]).await;
        let read = read(&lineage, &point, "component/qemu").await.map(|content| content.len());
        let error = read.expect_err("it is not what it says");
        assert!(error.is_damage() && error.to_string().contains("component/qemu"), "{error}");
        assert!(restore(&lineage, &point).await.expect("readable") == disk);
    }
    // What nobody knows is kept and given back.
    let unknown = CapsuleItem { kind: "from-the-future".to_owned(), ..item.clone() };
    let point = forge(&lineage, vec![unknown.clone()]).await;
    let reader = lineage.open_point(point.sequence).await.expect("there");
    assert_eq!(reader.capsule().expect("sound"), [unknown]);
    assert!(reader.read_item("component/qemu").await.expect("readable") == component);
}

#[tokio::test]
async fn what_breaks_a_rule_is_not_written() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let make = |name: &str, kind: &str, bytes: usize| {
        CapsuleDraft::new(name, kind, BTreeMap::new(), Bytes::from(vec![0; bytes]))
    };
    let limit = usize::try_from(CAPSULE_ITEM_BYTES_MAX).expect("it fits");
    for (name, kind, bytes) in [("../x", "a", 1), ("a", "A", 1), ("a", "a", limit + 1)] {
        assert!(matches!(make(name, kind, bytes), Err(Error::InvalidRequest { .. })), "{name} {kind} {bytes}");
    }
    let writer = begin(&lineage).await;
    let item = make("a", "a", limit).expect("a good item");
    writer.add_item(&item).await.expect("zeros cost nothing");
    let error = writer.add_item(&item).await.expect_err("twice");
    assert!(error.to_string().contains("the item a of the capsule was added twice"), "{error}");
    for number in 1..CAPSULE_ITEMS_MAX {
        writer.add_item(&make(&number.to_string(), "a", 0).expect("a good item")).await.expect("added");
    }
    let error = writer.add_item(&make("b", "a", 0).expect("a good item")).await.expect_err("too many");
    assert!(matches!(error, Error::LimitExceeded { .. }), "{error}");
    let point = writer.commit(details(&[])).await.expect("committed");
    assert_eq!((point.capsule.len(), point.stats.objects_written), (CAPSULE_ITEMS_MAX, 1));
    assert_eq!(read(&lineage, &point, "a").await.expect("readable"), vec![0; limit]);
    assert!(!format!("{:?}", draft("a", b"secret-content")).contains("secret"), "bytes are not shown");
    assert_eq!(point.sequence, Sequence::new(2));
}
