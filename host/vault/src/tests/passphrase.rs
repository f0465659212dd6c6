//! Making and opening a vault: the passphrase, the header, the store that cannot be trusted.

use std::collections::BTreeMap;

use farshore_core::Coded;
use object_store::{ObjectStoreExt, path::Path};

use super::{
    faulty::{Fault, FaultyStore},
    *,
};
use crate::{Address, Error, StoreOptions};

const FLOOR: CreateOptions = CreateOptions { kdf: KdfParameters::FLOOR };

async fn open(objects: &Arc<InMemory>, passphrase: &str) -> Result<Vault> {
    Vault::open(store(objects), &Passphrase::new(passphrase), context()).await
}

#[tokio::test]
async fn a_vault_opens_with_its_passphrase_only_and_damage_is_not_mistaken_for_a_wrong_one() {
    let objects = Arc::new(InMemory::new());
    let error = open(&objects, "correct horse").await.expect_err("nothing is there");
    assert!(matches!(error, Error::VaultMissing { .. }), "{error}");
    // Composed and decomposed letters are the same passphrase.
    let passphrase = Passphrase::new("caf\u{e9}");
    let made = Vault::create(store(&objects), &passphrase, FLOOR, context()).await.expect("made");
    lineage(&made).await;
    let again = Vault::create(store(&objects), &passphrase, FLOOR, context()).await.expect_err("it exists");
    assert!(matches!(again, Error::VaultExists { .. }), "{again}");

    let opened = open(&objects, "cafe\u{301}").await.expect("the same passphrase");
    assert_eq!(opened.info().await.expect("readable"), made.info().await.expect("readable"));
    assert_eq!(opened.lineages().await.expect("readable").len(), 1);
    for wrong in ["cafe", "caf\u{e9} ", "Caf\u{e9}"] {
        let error = open(&objects, wrong).await.expect_err("another passphrase");
        assert!(matches!(error, Error::WrongPassphrase { .. }), "{error}");
    }
    assert!(matches!(open(&objects, "").await, Err(Error::EmptyPassphrase)));

    let path = Path::from("v/vault");
    let header = objects.get(&path).await.expect("there").bytes().await.expect("there").to_vec();
    for position in 0..header.len() {
        let mut damaged = header.clone();
        damaged[position] ^= 0x10;
        objects.put(&path, damaged.into()).await.expect("written");
        let error = open(&objects, "caf\u{e9}").await.expect_err("damaged");
        let expected = matches!(error, Error::Damaged { .. } | Error::UnsupportedFormat { .. });
        assert!(expected, "a flip at {position}: {error}");
    }
    objects.put(&path, header[..100].to_vec().into()).await.expect("written");
    assert!(matches!(open(&objects, "caf\u{e9}").await, Err(Error::Damaged { .. })));
}

#[tokio::test]
async fn parameters_from_a_hostile_store_are_refused_before_they_cost_anything() {
    let objects = Arc::new(InMemory::new());
    Vault::create(store(&objects), &Passphrase::new("p"), FLOOR, context()).await.expect("made");
    let path = Path::from("v/vault");
    let header = objects.get(&path).await.expect("there").bytes().await.expect("there").to_vec();
    for (at, value) in [(40, 1u32), (40, u32::MAX), (44, 1), (44, u32::MAX), (48, 0), (48, 17)] {
        let mut forged = header.clone();
        forged[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let front = forged.len() - 32;
        let hash = crate::seal::stored_hash(&forged[..front]);
        forged[front..].copy_from_slice(&hash);
        objects.put(&path, forged.into()).await.expect("written");
        let error = open(&objects, "p").await.expect_err("out of bounds");
        assert!(matches!(error, Error::KdfOutOfBounds { found, .. } if found == value), "{at}: {error}");
    }
    for kdf in [
        KdfParameters { memory_kib: 1024, ..KdfParameters::FLOOR },
        KdfParameters { passes: 1, ..KdfParameters::FLOOR },
    ] {
        let weak = Vault::create(store(&Arc::default()), &Passphrase::new("p"), CreateOptions { kdf }, context()).await;
        assert!(matches!(weak, Err(Error::KdfOutOfBounds { .. })));
    }
    let dear = KdfParameters { memory_kib: 4 << 20, passes: 16, lanes: 1 };
    assert!(matches!(dear.check(), Err(Error::LimitExceeded { .. })));
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused() {
    let ignoring = |objects: &Arc<InMemory>| {
        let mut faulty = FaultyStore::new(objects, usize::MAX, Fault::Before, false);
        faulty.ignores_conditions = true;
        wrap(Arc::new(faulty))
    };
    let fresh = Arc::new(InMemory::new());
    let error = Vault::create(ignoring(&fresh), &Passphrase::new("p"), FLOOR, context()).await.expect_err("refused");
    assert!(matches!(error, Error::ConditionsIgnored { .. }), "{error}");
    assert_eq!(error.code().to_string(), "FS1007");
    assert!(objects(&fresh).await.iter().all(|(key, _)| key == "v/probe"), "no vault was made");

    // One that was sound when the vault was made and is not any more.
    let objects = Arc::new(InMemory::new());
    let made = Vault::create(store(&objects), &Passphrase::new("p"), FLOOR, context()).await.expect("made");
    commit_disk(&lineage(&made).await, &noise(1, CHUNK)).await.expect("committed");
    let before = self::objects(&objects).await;
    let vault =
        Vault::open(ignoring(&objects), &Passphrase::new("p"), context()).await.expect("nothing is written yet");
    let run = farshore_core::RunId::from_bytes([7; 16]);
    let there = vault.lineage(&group()).await.expect("readable").expect("there");
    let head = there.head().await.expect("readable");
    let another = GroupName::new("another").expect("a good name");
    for error in [
        there.begin_point(head.generation, &head.active_site).await.map(drop).expect_err("refused"),
        there.raise_generation(&site("b"), "lost", &head).await.map(drop).expect_err("refused"),
        vault.create_lineage(&another, &site("a")).await.map(drop).expect_err("refused"),
        vault.create_run(run, b"x").await.expect_err("refused"),
    ] {
        assert!(matches!(error, Error::ConditionsIgnored { .. }), "{error}");
    }
    assert_eq!(self::objects(&objects).await, before, "no writer went past the proof");
    for _ in 0..3 {
        let vault = open(&Arc::clone(&objects), "p").await.expect("a sound store");
        drop(begin(&lineage(&vault).await).await);
        objects.delete(&Path::from("v/probe")).await.expect("deleted");
    }
}

#[tokio::test]
async fn a_vault_that_cannot_be_written_to_can_be_recovered_from() {
    let objects = Arc::new(InMemory::new());
    let made = Vault::create(store(&objects), &Passphrase::new("p"), FLOOR, context()).await.expect("made");
    let content = noise(1, 3 * CHUNK);
    let point = commit_disk(&lineage(&made).await, &content).await.expect("committed");
    let run = farshore_core::RunId::from_bytes([7; 16]);
    made.create_run(run, b"x").await.expect("written");

    let mut read_only = FaultyStore::sound(&objects);
    read_only.read_only = true;
    let vault = Vault::open(wrap(Arc::new(read_only)), &Passphrase::new("p"), context()).await.expect("opened");
    assert_eq!(vault.info().await.expect("readable").lineages.len(), 1);
    assert_eq!(vault.runs(10).await.expect("listed"), [run]);
    assert_eq!(vault.run_entries(run).await.expect("readable").len(), 1);
    assert_eq!(vault.check(crate::CheckDepth::Full, &|_| {}).await.expect("checked").findings, []);
    let lineage = vault.create_lineage(&group(), &site("a")).await.expect("it is there already");
    assert_eq!(lineage.points(None, 10).await.expect("listed"), std::slice::from_ref(&point));
    assert!(restore(&lineage, &point).await.expect("readable") == content);

    let head = lineage.head().await.expect("readable");
    let error = lineage.begin_point(head.generation, &head.active_site).await.map(drop).expect_err("read-only");
    assert!(matches!(&error, Error::Store { operation: "create", object, .. } if object == "probe"), "{error}");
    assert!(error.to_string().contains("may only read"), "{error}");
    assert!(error.advice().is_some_and(|advice| advice.contains("read-only")), "{error}");
}

#[tokio::test]
async fn a_folder_is_made_by_create_and_never_by_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("deep/er/vault with space");
    let address: Address = format!("file:{}", path.display()).parse().expect("an address");
    let options = StoreOptions::default();
    let store = Store::open(&address, &options).expect("nothing is done yet");
    let error = Vault::open(store.clone(), &Passphrase::new("p"), context()).await.expect_err("nothing is there");
    assert!(matches!(error, Error::VaultMissing { .. }), "{error}");
    assert!(!folder.path().join("deep").exists());

    let vault = Vault::create(store, &Passphrase::new("p"), FLOOR, context()).await.expect("made");
    let content = noise(1, 3 * CHUNK);
    let point = commit_disk(&lineage(&vault).await, &content).await.expect("committed");
    assert!(path.join("vault").is_file());
    let again = Store::open(&address, &options).expect("a store");
    let vault = Vault::open(again, &Passphrase::new("p"), context()).await.expect("opened");
    assert_eq!(vault.lineages().await.expect("listed").len(), 1);
    assert_eq!(vault.usage().await.expect("listed").kinds["data packs"].objects, 1);
    let lineage = vault.lineage(&group()).await.expect("readable").expect("there");
    assert!(restore(&lineage, &point).await.expect("readable") == content);
    assert_eq!(vault.check(crate::CheckDepth::Full, &|_| {}).await.expect("checked").findings, []);

    let unknown = StoreOptions::new(BTreeMap::from([("region".to_owned(), "x".to_owned())]));
    assert!(matches!(Store::open(&address, &unknown), Err(Error::StoreConfiguration { .. })));
}

#[tokio::test]
async fn a_file_whose_folder_could_not_be_synced_is_not_called_durable() {
    let store = || wrap(Arc::new(FaultyStore::new(&Arc::default(), 0, Fault::After, false)));
    let parts = || vec![Bytes::from_static(b"content")];
    let created = store().create("x", parts()).await.expect("over a network it was only the reply that was lost");
    assert_eq!(created, crate::store::Created::Mine);
    let error = store().assume_local().create("x", parts()).await.expect_err("it may be gone tomorrow");
    assert!(error.is_not_durable(), "{error}");
}

#[tokio::test]
async fn options_are_the_providers_own() {
    let options = |pairs: &[(&str, &str)]| {
        StoreOptions::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    };
    let s3: Address = "s3://bucket/prefix".parse().expect("an address");
    let good = [
        ("endpoint", "http://127.0.0.1:1"),
        ("allow_http", "true"),
        ("access_key_id", "a"),
        ("secret_access_key", "b"),
    ];
    let store = Store::open(&s3, &options(&good)).expect("a store");
    assert_eq!(store.address(), "s3://bucket/prefix");
    let error = Store::open(&s3, &options(&[("no_such_key", "x")])).expect_err("unknown");
    assert!(matches!(error, Error::StoreConfiguration { .. }) && error.to_string().contains("no_such_key"), "{error}");
}

#[test]
fn every_code_has_its_page() {
    for (number, page) in (1001..).zip(crate::CODES) {
        assert_eq!(page.code, farshore_core::Code::new(number));
        assert!(page.page.contains("## What to do") && page.page.len() > 150, "{}", page.code);
        assert!(!page.title.ends_with('.'), "{}", page.title);
    }
    assert_eq!(crate::CODES.len(), 19);
}
