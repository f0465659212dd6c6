//! A vault with two addresses: what is acknowledged is at both, the data alone restores every point, and a writer that is killed between
//! the two, at any operation on either, tears nothing apart. Both addresses are prefixes of one store in memory.

use std::collections::BTreeMap;

use farshore_core::{RunId, Sequence};
use object_store::{ObjectStoreExt, path::Path};

use super::{
    faulty::{Fault, FaultyStore},
    *,
};
use crate::{CheckDepth, Error, Grace, boundary::boundary_key};

const NO_GRACE: Grace = Grace { seconds: 0, commits: 0 };

const CHUNKS: usize = 12;

fn at(objects: Arc<dyn ObjectStore>, prefix: &str) -> Store {
    Store::from_object_store(objects, prefix).expect("a good prefix")
}

fn pair(objects: Arc<dyn ObjectStore>) -> Store {
    at(Arc::clone(&objects), "m").with_data(at(objects, "d"))
}

fn pair_on(objects: &Arc<InMemory>) -> Store {
    pair(Arc::clone(objects) as Arc<dyn ObjectStore>)
}

fn alone(objects: &Arc<InMemory>, prefix: &str) -> Store {
    at(Arc::clone(objects) as Arc<dyn ObjectStore>, prefix)
}

/// Keys below a prefix.
async fn keys(objects: &InMemory, prefix: &str) -> Vec<String> {
    let below = |(key, _): (String, u64)| key.strip_prefix(&format!("{prefix}/")).map(str::to_owned);
    self::objects(objects).await.into_iter().filter_map(below).collect()
}

fn content(cycle: u64) -> Vec<u8> {
    let mut content = noise(7, CHUNKS * CHUNK);
    let changed = noise(100 + cycle, 2 * CHUNK);
    let at = usize::try_from(cycle).expect("few") % (CHUNKS - 2) * CHUNK;
    content[at..at + 2 * CHUNK].copy_from_slice(&changed);
    content
}

async fn prune(lineage: &Lineage, retention: &Retention) -> Result<()> {
    let plan = lineage.plan_prune(retention, NO_GRACE).await?;
    lineage.prune(plan).await.map(drop)
}

/// That the points restore from this store alone to what they were.
async fn expect_points(store: Store, expected: &BTreeMap<Sequence, u64>, what: &str) {
    expect_in(&vault_on(store, context()).await, expected, what).await;
}

async fn expect_in(vault: &Vault, expected: &BTreeMap<Sequence, u64>, what: &str) {
    let Some(lineage) = vault.lineage(&group()).await.unwrap_or_else(|error| panic!("{what}: {error}")) else {
        assert!(expected.is_empty(), "{what}: the lineage is not there");
        return;
    };
    let points = lineage.points(None, usize::MAX).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    for (sequence, cycle) in expected {
        let point = points.iter().find(|point| point.sequence == *sequence);
        let point = point.unwrap_or_else(|| panic!("{what}: point {sequence} was acknowledged and is lost"));
        let restored = restore(&lineage, point).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(restored == content(*cycle), "{what}: point {sequence} has other content");
    }
    let report = vault.check(CheckDepth::Structure, &|_| {}).await;
    let report = report.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(report.findings, [], "{what}");
}

#[tokio::test]
async fn each_object_has_its_address_and_the_data_alone_can_be_read() {
    let objects = Arc::new(InMemory::new());
    let (vault, kit) = make(pair_on(&objects), "correct horse").await.expect("made");
    assert_eq!(kit.address(), alone(&objects, "d").address(), "the kit names where everything can be read");
    let lineage = lineage(&vault).await;
    for cycle in 1..=3 {
        commit_disk(&lineage, &content(cycle)).await.expect("committed");
    }
    prune(&lineage, &KEEP_NEWEST).await.expect("condemned");
    let last = commit_disk(&lineage, &content(4)).await.expect("committed");
    prune(&lineage, &KEEP_NEWEST).await.expect("deleted");
    vault.create_run(RunId::from_bytes([7; 16]), b"begun").await.expect("begun");
    let report = vault.check(CheckDepth::Structure, &|_| {}).await.expect("checked");
    vault.record(&report).await.expect("recorded");

    let (metadata, data) = (keys(&objects, "m").await, keys(&objects, "d").await);
    let has = |keys: &[String], part: &str| keys.iter().any(|key| key.contains(part));
    for part in ["/packs/", "/maps/", "/reserves/"] {
        assert!(!has(&metadata, part) && has(&data, part), "{part}");
    }
    for part in ["runs/", "/proofs/"] {
        assert!(has(&metadata, part) && !has(&data, part), "{part}");
    }
    let both = |keys: &[String]| -> Vec<String> {
        let is_elsewhere = |key: &str| {
            ["/packs/", "/maps/", "/collections/", "/reserves/", "/proofs/", "runs/", "addresses/", "probe"]
                .iter()
                .any(|part| key.contains(part))
        };
        keys.iter().filter(|key| !is_elsewhere(key)).cloned().collect()
    };
    assert_eq!(both(&metadata), both(&data));
    assert!(has(&both(&data), "/boundaries/") && has(&both(&data), "/ledgers/") && has(&both(&data), "keys/ring/"));
    for key in both(&metadata) {
        let of = async |prefix: &str| {
            let path = Path::from(format!("{prefix}/{key}"));
            objects.get(&path).await.expect("there").bytes().await.expect("bytes")
        };
        assert_eq!(of("m").await, of("d").await, "{key}");
    }

    let rescued = open_with(alone(&objects, "d"), &kit, "correct horse").await.expect("opened");
    let found = rescued.lineage(&group()).await.expect("readable").expect("there");
    assert!(restore(&found, &last).await.expect("restored") == content(4));
    assert_eq!(rescued.check(CheckDepth::Full, &|_| {}).await.expect("checked").findings, []);
    let refused = commit_disk(&found, &content(5)).await.expect_err("the data alone is read only");
    assert!(matches!(refused, Error::DataAddressAlone { .. }), "{refused}");
    let refused = rescued.create_run(RunId::from_bytes([9; 16]), b"x").await.expect_err("nothing else either");
    assert!(matches!(refused, Error::DataAddressAlone { .. }), "{refused}");

    let again = open_with(pair_on(&objects), &kit, "correct horse").await.expect("opened");
    commit_disk(&lineage_of(&again).await, &content(5)).await.expect("both together can be written to");
    let info = again.info().await.expect("told");
    assert_eq!(info.data_address.as_deref(), Some(alone(&objects, "d").address()));
}

async fn lineage_of(vault: &Vault) -> Lineage {
    vault.lineage(&group()).await.expect("readable").expect("there")
}

#[tokio::test]
async fn addresses_that_do_not_belong_together_are_refused() {
    let objects = Arc::new(InMemory::new());
    let (_, kit) = make(pair_on(&objects), "correct horse").await.expect("made");
    let store_of = |metadata: &str, data: &str| alone(&objects, metadata).with_data(alone(&objects, data));
    make(store_of("m2", "d2"), "correct horse").await.expect("made");
    let (_, kit1) = make(alone(&objects, "one"), "correct horse").await.expect("made");
    for (store, kit, reason) in [
        (alone(&objects, "m"), &kit, "whose data is at another address"),
        (store_of("d", "m"), &kit, "was given as the address of metadata"),
        (store_of("m", "m"), &kit, "was given as the address of data"),
        (store_of("m", "d2"), &kit, "its metadata is not"),
        (store_of("m", "one"), &kit, "not the address of the data"),
        (store_of("one", "d"), &kit1, "not the address of the metadata"),
    ] {
        let refused = open_with(store, kit, "correct horse").await.expect_err(reason);
        assert!(matches!(&refused, Error::AddressesUnfit { problem, .. } if problem.contains(reason)), "{refused}");
    }
    for (store, taken) in [(store_of("m", "new"), "m"), (store_of("new", "d"), "d"), (store_of("new", "one"), "one")] {
        let refused = make(store, "correct horse").await.expect_err("there is a vault");
        let address = alone(&objects, taken).address().to_owned();
        assert!(matches!(&refused, Error::VaultExists { address: at } if *at == address), "{refused}");
    }
    let refused = make(store_of("same", "same"), "correct horse").await.expect_err("one is not two");
    assert!(matches!(refused, Error::VaultHalfMade { .. }), "{refused}");
}

/// What happens in the story in which a process is killed at each operation: points, a pin, prunes that delete, another ring.
async fn story(vault: &Vault, acknowledged: &mut BTreeMap<Sequence, u64>) -> Result<()> {
    let lineage = vault.create_lineage(&group(), &site("a")).await?;
    for cycle in 1..=2 {
        let point = commit_disk(&lineage, &content(cycle)).await?;
        acknowledged.insert(point.sequence, cycle);
    }
    // What is given up from here on counts no more, whether the prune was told that it succeeded or not.
    let newest = acknowledged.last_entry().map(|entry| (*entry.key(), *entry.get()));
    acknowledged.retain(|sequence, _| newest.is_some_and(|(newest, _)| newest == *sequence));
    prune(&lineage, &KEEP_NEWEST).await?;
    prune(&lineage, &KEEP_NEWEST).await?;
    let point = commit_disk(&lineage, &content(3)).await?;
    acknowledged.insert(point.sequence, 3);
    Ok(())
}

#[tokio::test]
async fn a_crash_between_the_two_tears_nothing_apart() {
    let memory = Arc::new(InMemory::new());
    let sound = Arc::new(FaultyStore::sound(&memory));
    let mut acknowledged = BTreeMap::new();
    let vault = vault_on(pair(Arc::clone(&sound) as Arc<dyn ObjectStore>), seeded(1)).await;
    story(&vault, &mut acknowledged).await.expect("nothing fails");
    let operations = sound.operations();
    assert!(operations > 60, "the story has {operations} operations");
    let mut halves = 0;
    for operation in 0..operations {
        for fault in [Fault::Before, Fault::After] {
            let what = format!("operation {operation} of {operations}, {fault:?}");
            let objects = Arc::new(InMemory::new());
            let faulty = Arc::new(FaultyStore::new(&objects, operation, fault, true));
            let mut acknowledged = BTreeMap::new();
            let vault = vault_on(pair(faulty), seeded(1)).await;
            story(&vault, &mut acknowledged).await.expect_err(&what);
            // What was acknowledged is in the data alone, as the crash left it.
            expect_points(alone(&objects, "d"), &acknowledged, &format!("{what}, from the data")).await;
            let after = vault_on(pair_on(&objects), context()).await;
            let uncopied = after.0.store.uncopied(false).await.expect("listed");
            halves += usize::from(!uncopied.is_empty());
            // Another process goes on.
            let lineage = lineage(&after).await;
            let point = commit_disk(&lineage, &content(4)).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            acknowledged.insert(point.sequence, 4);
            prune(&lineage, &KEEP_ALL).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            expect_points(alone(&objects, "d"), &acknowledged, &format!("{what}, later, from the data")).await;
            expect_points(pair_on(&objects), &acknowledged, &format!("{what}, from both")).await;
        }
    }
    assert!(halves > 4, "only {halves} crashes were between the two");
}

#[tokio::test]
async fn an_object_that_differs_at_the_data_stops_the_writer() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(pair_on(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let first = commit_disk(&lineage, &content(1)).await.expect("committed");
    let next = crate::commit::commit_key(vault.lineage_id(&group()), first.sequence.next());
    objects.put(&Path::from(format!("d/{next}")), "another".into()).await.expect("put");
    let refused = commit_disk(&lineage, &content(2)).await.expect_err("torn apart");
    assert!(matches!(&refused, Error::AddressesDiffer { object } if *object == next), "{refused}");
    // Nor does anybody build on it later.
    let later = vault_on(pair_on(&objects), context()).await;
    let refused = commit_disk(&lineage_of(&later).await, &content(3)).await.expect_err("torn apart");
    assert!(matches!(&refused, Error::AddressesDiffer { .. }), "{refused}");
    let report = later.check(CheckDepth::Structure, &|_| {}).await.expect("checked");
    let differs = report.findings.iter().filter(|finding| finding.object == next).count();
    assert_eq!(differs, 1, "{:?}", report.findings);
}

#[tokio::test]
async fn what_one_address_lacks_is_found_and_copied() {
    let objects = Arc::new(InMemory::new());
    let (vault, kit) = make(pair_on(&objects), "correct horse").await.expect("made");
    let point = commit_disk(&lineage(&vault).await, &content(1)).await.expect("committed");
    let key = crate::commit::commit_key(vault.lineage_id(&group()), point.sequence);
    objects.delete(&Path::from(format!("d/{key}"))).await.expect("lost");
    let open = || open_with(pair_on(&objects), &kit, "correct horse");

    let later = open().await.expect("opened");
    let report = later.check(CheckDepth::Structure, &|_| {}).await.expect("checked");
    assert!(matches!(&report.findings[..], [finding] if finding.object == key), "{:?}", report.findings);
    let plan = later.plan_repair(None, CheckDepth::Structure).await.expect("planned");
    assert_eq!((plan.uncopied.as_slice(), plan.left.as_slice()), ([key.clone()].as_slice(), [].as_slice()));
    later.copy_to_data(&plan).await.expect("copied");
    assert_eq!(later.check(CheckDepth::Structure, &|_| {}).await.expect("checked").findings, []);
    let expected = BTreeMap::from([(point.sequence, 1)]);
    let rescued = open_with(alone(&objects, "d"), &kit, "correct horse").await.expect("opened");
    expect_in(&rescued, &expected, "repaired").await;

    // What the metadata has lost, the data lends like any copy.
    objects.delete(&Path::from(format!("m/{key}"))).await.expect("lost");
    let later = open().await.expect("opened");
    let copy = alone(&objects, "d");
    let plan = later.plan_repair(Some(&copy), CheckDepth::Structure).await.expect("planned");
    let lost: Vec<_> = plan.objects.iter().map(|lost| lost.object.as_str()).collect();
    assert_eq!((lost, plan.left.as_slice()), (vec![key.as_str()], [].as_slice()));
    later.repair(&copy, &plan).await.expect("repaired");
    expect_in(&open().await.expect("opened"), &expected, "repaired").await;
}

#[tokio::test]
async fn a_replicator_goes_on_where_a_pruner_was_killed() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(pair_on(&objects), context()).await;
    let lineage = lineage(&vault).await;
    for cycle in 1..=2 {
        commit_disk(&lineage, &content(cycle)).await.expect("committed");
    }
    for _ in 0..2 {
        prune(&lineage, &KEEP_NEWEST).await.expect("pruned");
    }
    // As if the pruner had been killed between the two.
    let boundary = boundary_key(vault.lineage_id(&group()), 1);
    objects.delete(&Path::from(format!("d/{boundary}"))).await.expect("it was there");
    let mut faulty = FaultyStore::sound(&objects);
    faulty.denied = Some("/boundaries/");
    let replicator = vault_on(pair(Arc::new(faulty)), context()).await;
    commit_disk(&lineage_of(&replicator).await, &content(3)).await.expect("it needs no boundary at the data");
    assert!(!keys(&objects, "d").await.contains(&boundary));
    // Who may make it copies it, before anything that it hides is deleted.
    let pruner = vault_on(pair_on(&objects), context()).await;
    commit_disk(&lineage_of(&pruner).await, &content(4)).await.expect("committed");
    assert!(keys(&objects, "d").await.contains(&boundary));
}

#[tokio::test]
async fn what_is_found_at_the_metadata_is_told_only_when_it_is_at_both() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(pair_on(&objects), context()).await;
    let point = commit_disk(&lineage(&vault).await, &content(1)).await.expect("committed");
    let mut faulty = FaultyStore::sound(&objects);
    faulty.denied = Some("d/lineages");
    let controller = vault_on(pair(Arc::new(faulty)), context()).await;
    let (run, half) = (RunId::from_bytes([7; 16]), lineage_of(&controller).await);
    half.pin(run, point.sequence).await.expect_err("it is at the metadata only");
    assert_eq!(half.head().await.expect("readable").pins.len(), 1);
    for _ in 0..2 {
        let refused = half.pin(run, point.sequence).await.expect_err("it still is");
        assert!(matches!(refused, Error::NotAtData { .. }), "{refused}");
        let refused = half.settled_head().await.expect_err("it still is");
        assert!(matches!(refused, Error::NotAtData { .. }), "{refused}");
    }
    let later = vault_on(pair_on(&objects), context()).await;
    assert_eq!(later.0.store.uncopied(false).await.expect("listed").len(), 1);
    lineage_of(&later).await.pin(run, point.sequence).await.expect("pinned");
    assert_eq!(later.0.store.uncopied(false).await.expect("listed"), []);
}

/// The keys of the commits at the metadata, in order.
async fn commits(objects: &InMemory) -> Vec<String> {
    keys(objects, "m").await.into_iter().filter(|key| key.contains("/commits/")).collect()
}

/// Makes metadata at `metadata` for the vault at `data`.
async fn make_metadata(store: &Store) -> Result<u64> {
    let plan = store.plan_metadata(Timestamp::from_unix_milliseconds(5), &SystemEntropy).await?;
    store.make_metadata(&plan, &SystemEntropy).await?;
    Ok(plan.objects)
}

#[tokio::test]
async fn lost_metadata_is_made_again_from_the_data() {
    let objects = Arc::new(InMemory::new());
    let (vault, kit) = make(pair_on(&objects), "correct horse").await.expect("made");
    let point = commit_disk(&lineage(&vault).await, &content(1)).await.expect("committed");
    let expected = BTreeMap::from([(point.sequence, 1)]);
    let refused = make_metadata(&pair_on(&objects)).await.expect_err("it is there");
    assert!(matches!(refused, Error::VaultExists { .. }), "{refused}");
    let refused = make_metadata(&alone(&objects, "d")).await.expect_err("there is one address");
    assert!(matches!(refused, Error::InvalidRequest { .. }), "{refused}");
    let refused = make_metadata(&alone(&objects, "new").with_data(alone(&objects, "m"))).await.expect_err("swapped");
    assert!(matches!(refused, Error::AddressesUnfit { .. }), "{refused}");

    let sound = Arc::new(FaultyStore::sound(&Arc::new(objects.fork())));
    let on = |store: &Arc<FaultyStore>| {
        let store = Arc::clone(store) as Arc<dyn ObjectStore>;
        at(Arc::clone(&store), "m2").with_data(at(store, "d"))
    };
    make_metadata(&on(&sound)).await.expect("nothing fails");
    let operations = sound.operations();
    for operation in 0..operations {
        for fault in [Fault::Before, Fault::After] {
            let what = format!("operation {operation} of {operations}, {fault:?}");
            let objects = Arc::new(objects.fork());
            let faulty = Arc::new(FaultyStore::new(&objects, operation, fault, true));
            make_metadata(&on(&faulty)).await.expect_err(&what);
            let new = alone(&objects, "m2").with_data(alone(&objects, "d"));
            match make_metadata(&new).await {
                Ok(_) | Err(Error::VaultExists { .. }) => {}
                Err(error) => panic!("{what}: {error}"),
            }
            let opened = open_with(new, &kit, "correct horse").await.unwrap_or_else(|error| panic!("{what}: {error}"));
            let found = lineage_of(&opened).await;
            assert!(restore(&found, &point).await.expect("restored") == content(1), "{what}");
            commit_disk(&found, &content(2)).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(opened.check(CheckDepth::Full, &|_| {}).await.expect("checked").findings, [], "{what}");
            let rescued = open_with(alone(&objects, "d"), &kit, "correct horse").await.expect("opened");
            expect_in(&rescued, &expected, &what).await;
            let refused = open_with(pair_on(&objects), &kit, "correct horse").await.expect_err("it was replaced");
            assert!(
                matches!(&refused, Error::AddressesUnfit { problem, .. } if problem.contains("any more")),
                "{refused}"
            );
        }
    }
}

#[tokio::test]
async fn a_vault_with_one_address_gets_another_for_its_metadata() {
    let objects = Arc::new(InMemory::new());
    let (vault, kit) = make(alone(&objects, "d"), "correct horse").await.expect("made");
    let point = commit_disk(&lineage(&vault).await, &content(1)).await.expect("committed");
    let run = RunId::from_bytes([7; 16]);
    vault.create_run(run, b"begun").await.expect("begun");
    make_metadata(&pair_on(&objects)).await.expect("made");
    let opened = open_with(pair_on(&objects), &kit, "correct horse").await.expect("opened");
    let found = lineage_of(&opened).await;
    assert!(restore(&found, &point).await.expect("restored") == content(1));
    assert_eq!(opened.runs(9).await.expect("listed"), [run], "journals came along");
    commit_disk(&found, &content(2)).await.expect("committed");
    assert_eq!(opened.check(CheckDepth::Full, &|_| {}).await.expect("checked").findings, []);
    // What is left of the journals at the data is old by now: it does not come back with metadata that is made again.
    let other = alone(&objects, "m2").with_data(alone(&objects, "d"));
    make_metadata(&other).await.expect("made");
    let opened = open_with(other, &kit, "correct horse").await.expect("opened");
    assert_eq!(opened.runs(9).await.expect("listed"), []);
    let old = open_with(alone(&objects, "d"), &kit, "correct horse").await.expect("readable");
    let refused = commit_disk(&lineage_of(&old).await, &content(3)).await.expect_err("it has two now");
    assert!(matches!(refused, Error::DataAddressAlone { .. }), "{refused}");
}

#[tokio::test]
async fn what_an_address_says_of_itself_is_made_again() {
    let says = ["m/addresses/00000001", "d/addresses/00000001"];
    for lost in [&says[..1], &says[1..], &says[..]] {
        let objects = Arc::new(InMemory::new());
        let (vault, kit) = make(pair_on(&objects), "correct horse").await.expect("made");
        commit_disk(&lineage(&vault).await, &content(1)).await.expect("committed");
        let old = Arc::new(objects.fork());
        commit_disk(&lineage(&vault).await, &content(2)).await.expect("committed");
        for key in lost {
            objects.delete(&Path::from(*key)).await.expect("deleted");
            old.delete(&Path::from(*key)).await.expect("deleted");
        }
        let refused = open_with(pair_on(&objects), &kit, "correct horse").await.expect_err("it is not told");
        assert!(matches!(refused, Error::AddressesUnfit { .. }), "{lost:?}: {refused}");

        let swapped = alone(&objects, "d").with_data(alone(&objects, "m"));
        let refused = make_metadata(&swapped).await.expect_err("swapped");
        assert!(matches!(refused, Error::AddressesUnfit { .. }), "{lost:?}: {refused}");
        // Metadata that was set back, or that is not that of this data any more.
        let behind = alone(&old, "m").with_data(alone(&objects, "d"));
        let refused = make_metadata(&behind).await.expect_err("it is older");
        let is_older = matches!(&refused, Error::AddressesUnfit { problem, .. } if problem.contains("older"));
        assert!(is_older, "{lost:?}: {refused}");
        let stranger = Arc::new(InMemory::new());
        make(pair_on(&stranger), "correct horse").await.expect("made");
        for key in lost {
            stranger.delete(&Path::from(*key)).await.expect("deleted");
        }
        let refused = make_metadata(&alone(&stranger, "m").with_data(alone(&objects, "d"))).await;
        assert!(matches!(refused, Err(Error::AddressesUnfit { .. })), "{lost:?}: {refused:?}");

        // Metadata with the same numbers, and another history.
        let other = Arc::new(objects.fork());
        let newest = commits(&objects).await.pop().expect("one");
        other.delete(&Path::from(format!("m/{newest}"))).await.expect("deleted");
        other.put(&Path::from(format!("m/{newest}")), "another".into()).await.expect("put");
        let refused = make_metadata(&pair_on(&other)).await.expect_err("it differs");
        assert!(matches!(&refused, Error::AddressesDiffer { object } if *object == newest), "{lost:?}: {refused}");
        // What is never deleted is missing at the metadata.
        let other = Arc::new(objects.fork());
        let slot = keys(&other, "m").await.into_iter().find(|key| key.starts_with("keys/slots/")).expect("one");
        other.delete(&Path::from(format!("m/{slot}"))).await.expect("deleted");
        let refused = make_metadata(&pair_on(&other)).await.expect_err("something is missing");
        assert!(matches!(&refused, Error::AddressesUnfit { .. }), "{lost:?}: {refused}");

        let before = self::objects(&objects).await.len();
        assert_eq!(make_metadata(&pair_on(&objects)).await.expect("made"), 0, "{lost:?}");
        assert_eq!(self::objects(&objects).await.len(), before + lost.len(), "and nothing else");
        let opened = open_with(pair_on(&objects), &kit, "correct horse").await.expect("opened");
        commit_disk(&lineage_of(&opened).await, &content(3)).await.expect("committed");
        assert_eq!(opened.check(CheckDepth::Full, &|_| {}).await.expect("checked").findings, [], "{lost:?}");
        let refused = make_metadata(&pair_on(&objects)).await.expect_err("nothing is missing");
        assert!(matches!(refused, Error::VaultExists { .. }), "{lost:?}: {refused}");
        let refused = make_metadata(&swapped).await.expect_err("swapped");
        assert!(matches!(refused, Error::AddressesUnfit { .. }), "{lost:?}: {refused}");
        let data = open_with(alone(&objects, "d"), &kit, "correct horse").await.expect("opened");
        let refused = commit_disk(&lineage_of(&data).await, &content(4)).await.expect_err("it is the data alone");
        assert!(matches!(refused, Error::DataAddressAlone { .. }), "{lost:?}: {refused}");
    }
}

#[tokio::test]
async fn a_commit_under_a_number_that_was_freed_is_no_sign_that_the_addresses_were_torn_apart() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(pair_on(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let mut commits = Vec::new();
    for cycle in 1..6 {
        commits.push(commit_disk(&lineage, &content(cycle)).await.expect("committed").sequence);
    }
    for _ in 0..2 {
        prune(&lineage, &KEEP_NEWEST).await.expect("pruned");
    }
    let key = |sequence| crate::commit::commit_key(vault.lineage_id(&group()), sequence);
    let put = async |prefix: &str, sequence, content: &'static str| {
        objects.put(&Path::from(format!("{prefix}/{}", key(sequence))), content.into()).await.expect("put")
    };
    // A writer that slept has created it at the metadata, and was killed; of the other the old commit was still at the data.
    put("m", commits[1], "of a writer that slept").await;
    put("m", commits[2], "of a writer that slept").await;
    put("d", commits[2], "old").await;
    let report = vault.check(CheckDepth::Full, &|_| {}).await.expect("checked");
    assert_eq!(report.findings, []);
    // One that was given up and waits for its grace leads to those after it: it counts until a boundary says otherwise.
    let waiting = commit_disk(&lineage, &content(6)).await.expect("committed").sequence;
    commit_disk(&lineage, &content(7)).await.expect("committed");
    let plan = lineage.plan_prune(&KEEP_NEWEST, Grace { seconds: 1_000_000, commits: 0 }).await.expect("planned");
    lineage.prune(plan).await.expect("pruned");
    objects.delete(&Path::from(format!("d/{}", key(waiting)))).await.expect("deleted");
    let report = vault.check(CheckDepth::Structure, &|_| {}).await.expect("checked");
    let found: Vec<_> = report.findings.iter().map(|finding| finding.object.clone()).collect();
    assert_eq!(found, [key(waiting)]);
    let plan = vault.plan_repair(None, CheckDepth::Structure).await.expect("planned");
    vault.copy_to_data(&plan).await.expect("copied");
    assert_eq!(vault.check(CheckDepth::Structure, &|_| {}).await.expect("checked").findings, []);
    // So does the one that stands.
    let newest = commit_disk(&lineage, &content(8)).await.expect("committed").sequence;
    objects.delete(&Path::from(format!("d/{}", key(newest)))).await.expect("deleted");
    let report = vault.check(CheckDepth::Structure, &|_| {}).await.expect("checked");
    let found: Vec<_> = report.findings.iter().map(|finding| finding.object.clone()).collect();
    assert_eq!(found, [key(newest)]);
}
