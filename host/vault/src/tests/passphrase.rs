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

async fn open(objects: &Arc<InMemory>, kit: &Kit, passphrase: &str) -> Result<Vault> {
    open_with(store(objects), kit, passphrase).await
}

#[tokio::test]
async fn a_vault_opens_with_its_passphrase_and_kit_only_and_damage_is_not_mistaken_for_a_wrong_one() {
    let objects = Arc::new(InMemory::new());
    let elsewhere = Arc::new(InMemory::new());
    let (_, other_kit) = make(store(&elsewhere), "caf\u{e9}").await.expect("made");
    let error = open(&objects, &other_kit, "correct horse").await.expect_err("nothing is there");
    assert!(matches!(error, Error::VaultMissing { .. }), "{error}");
    // Composed and decomposed letters are the same passphrase.
    let (made, kit) = make(store(&objects), "caf\u{e9}").await.expect("made");
    lineage(&made).await;
    let again = make(store(&objects), "caf\u{e9}").await.expect_err("it exists");
    assert!(matches!(again, Error::VaultExists { .. }), "{again}");

    let opened = open(&objects, &kit, "cafe\u{301}").await.expect("the same passphrase");
    assert_eq!(opened.info().await.expect("readable"), made.info().await.expect("readable"));
    assert_eq!(opened.lineages().await.expect("readable").len(), 1);
    for wrong in ["cafe", "caf\u{e9} ", "Caf\u{e9}"] {
        let error = open(&objects, &kit, wrong).await.expect_err("another passphrase");
        assert!(matches!(error, Error::WrongPassphrase { .. }), "{error}");
    }
    assert!(matches!(open(&objects, &kit, "").await, Err(Error::EmptyPassphrase)));
    let error = open(&objects, &other_kit, "caf\u{e9}").await.expect_err("another vault's kit");
    assert!(matches!(error, Error::OtherVault { .. }), "{error}");
    // The right slot with another kit's secret: the passphrase alone is not enough.
    let forged = kit.to_text().replace(&secret_of(&kit), &secret_of(&other_kit));
    let forged = Kit::parse(&forged).expect("a kit by its looks");
    let error = open(&objects, &forged, "caf\u{e9}").await.expect_err("another secret");
    assert!(matches!(error, Error::WrongPassphrase { .. }), "{error}");

    let path = Path::from("v/vault");
    let header = objects.get(&path).await.expect("there").bytes().await.expect("there").to_vec();
    for position in 0..header.len() {
        let mut damaged = header.clone();
        damaged[position] ^= 0x10;
        objects.put(&path, damaged.into()).await.expect("written");
        let error = open(&objects, &kit, "caf\u{e9}").await.expect_err("damaged");
        let expected = matches!(error, Error::Damaged { .. } | Error::UnsupportedFormat { .. });
        assert!(expected, "a flip at {position}: {error}");
    }
    objects.put(&path, header[..100].to_vec().into()).await.expect("written");
    assert!(matches!(open(&objects, &kit, "caf\u{e9}").await, Err(Error::Damaged { .. })));
    objects.put(&path, header.into()).await.expect("written");
    // The kit has a copy of its slot, which its hash in the ring vouches for.
    objects.delete(&Path::from(format!("v/keys/slots/{}", kit.slot()))).await.expect("deleted");
    open(&objects, &kit, "caf\u{e9}").await.expect("opened with the kit's copy");
    let slot = crate::wire::hex::encode(kit.slot_object());
    for position in (0..kit.slot_object().len()).step_by(5) {
        let mut damaged = kit.slot_object().to_vec();
        damaged[position] ^= 0x10;
        let text = kit.to_text().replace(&slot, &crate::wire::hex::encode(&damaged));
        let damaged = Kit::parse(&text).expect("a kit by its looks");
        let error = open(&objects, &damaged, "caf\u{e9}").await.expect_err("damaged");
        let expected = matches!(error, Error::Damaged { .. } | Error::UnsupportedFormat { .. });
        assert!(expected, "a flip at {position} of the kit's slot: {error}");
    }
}

fn secret_of(kit: &Kit) -> String {
    let text = kit.to_text();
    let line = text.lines().find_map(|line| line.strip_prefix("secret = ")).expect("a secret");
    line.trim_matches('"').to_owned()
}

#[tokio::test]
async fn a_kit_survives_its_file_and_its_sheet() {
    let objects = Arc::new(InMemory::new());
    // Always the same words: of two that are exchanged, one kit in 256 has the same checksum.
    let draft = Vault::draft(store(&objects), &Passphrase::new("p"), FLOOR, seeded(11)).await.expect("a draft");
    let kit = draft.kit().clone();
    let vault = draft.create().await.expect("made");
    let again = Kit::parse(&kit.to_text()).expect("its own file");
    assert_eq!((again.vault(), again.address()), (vault.id(), kit.address()));
    assert_eq!(again.to_text(), kit.to_text());

    let words = kit.words();
    assert_eq!(words.len(), crate::KIT_WORDS);
    assert!(words.iter().all(|word| kit.sheet().contains(word.as_str())));
    let asked = kit.asked_words();
    assert!(asked.is_sorted() && asked.iter().all(|number| (1..=crate::KIT_WORDS).contains(number)), "{asked:?}");
    let right: Vec<&str> = asked.iter().map(|number| words[number - 1].as_str()).collect();
    let shouted: Vec<String> = right.iter().map(|word| format!(" {} ", word.to_uppercase())).collect();
    assert!(kit.accepts(&right) && kit.accepts(&shouted.iter().map(String::as_str).collect::<Vec<_>>()));
    assert!(!kit.accepts(&right[..2]) && !kit.accepts(&[right[0], right[1], "zebra"]));

    let typed = |words: &str| {
        let words = words.to_owned();
        let objects = Arc::clone(&objects);
        async move { Vault::kit_from_words(store(&objects), &words, &Passphrase::new("p"), context()).await }
    };
    let made_again = typed(&words.join("  ").to_uppercase()).await.expect("the words of the sheet");
    assert_eq!(secret_of(&made_again), secret_of(&kit));
    open(&objects, &made_again, "p").await.expect("opened");
    let mut swapped = words.to_vec();
    swapped.swap(0, 1);
    for (wrong, expected) in [
        (swapped.join(" "), "the words do not belong together"),
        (words[..12].join(" "), "a kit has 24 words"),
        (words.join(" ").replace(&words[3], "farshore"), "word 4 is not one of the list"),
    ] {
        let error = typed(&wrong).await.expect_err("not the words");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn what_is_not_a_kit_is_refused_without_showing_it() {
    let (_, kit) = make(store(&Arc::default()), "p").await.expect("made");
    let text = kit.to_text().to_string();
    let secret = secret_of(&kit);
    for (wrong, expected) in [
        (String::new(), "it is not such a file, or not whole"),
        (text.replace("recovery kit\"", "join file\""), "it is a join file"),
        (text.replace("format = 1", "format = 2"), "it has format 2"),
        (text.replace("secret = \"", "secret = \"0"), "its secret is not 64 hexadecimal digits"),
        (text.replace("slot = \"", "slot = \"0"), "its slot is not hexadecimal digits"),
        (format!("{text}more = 1\n"), "a value in it is missing, unknown or not of its kind"),
        (text.replace("secret = \"", "secret = "), "it is not such a file, or not whole"),
        ("x".repeat(300_000), "more than 262144 bytes"),
    ] {
        let error = Kit::parse(&wrong).expect_err("not a kit");
        assert!(matches!(error, Error::KeyFile { .. }) && error.to_string().contains(expected), "{error}");
        assert!(!error.to_string().contains(&secret[..16]), "{error}");
    }
}

#[tokio::test]
async fn parameters_from_a_hostile_store_are_refused_before_they_cost_anything() {
    let objects = Arc::new(InMemory::new());
    let (_, kit) = make(store(&objects), "p").await.expect("made");
    let path = Path::from(format!("v/keys/slots/{}", kit.slot()));
    let slot = objects.get(&path).await.expect("there").bytes().await.expect("there").to_vec();
    for (at, value) in [(48, 1u32), (48, u32::MAX), (52, 1), (52, u32::MAX), (56, 0), (56, 17)] {
        let mut forged = slot.clone();
        forged[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let front = forged.len() - 32;
        let hash = crate::seal::stored_hash(&forged[..front]);
        forged[front..].copy_from_slice(&hash);
        objects.put(&path, forged.into()).await.expect("written");
        let (words, passphrase) = (kit.words().join(" "), Passphrase::new("p"));
        let typed = Vault::kit_from_words(store(&objects), &words, &passphrase, context()).await;
        let error = typed.expect_err("out of bounds");
        assert!(matches!(error, Error::KdfOutOfBounds { found, .. } if found == value), "{at}: {error}");
    }
    for kdf in [
        KdfParameters { memory_kib: 1024, ..KdfParameters::FLOOR },
        KdfParameters { passes: 1, ..KdfParameters::FLOOR },
    ] {
        let weak = Vault::draft(store(&Arc::default()), &Passphrase::new("p"), CreateOptions { kdf }, context()).await;
        assert!(matches!(weak, Err(Error::KdfOutOfBounds { .. })));
    }
    let dear = KdfParameters { memory_kib: 4 << 20, passes: 16, lanes: 1 };
    assert!(matches!(dear.check(), Err(Error::LimitExceeded { .. })));
}

#[tokio::test]
async fn a_vault_whose_making_was_interrupted_says_so() {
    let objects = Arc::new(InMemory::new());
    let (_, kit) = make(store(&objects), "p").await.expect("made");
    objects.delete(&Path::from("v/vault")).await.expect("deleted");
    assert!(matches!(open(&objects, &kit, "p").await, Err(Error::VaultMissing { .. })));
    let error = make(store(&objects), "p").await.expect_err("half made");
    assert!(matches!(error, Error::VaultHalfMade { .. }), "{error}");
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused() {
    let ignoring = |objects: &Arc<InMemory>| {
        let mut faulty = FaultyStore::new(objects, usize::MAX, Fault::Before, false);
        faulty.ignores_conditions = true;
        wrap(Arc::new(faulty))
    };
    let fresh = Arc::new(InMemory::new());
    let error = make(ignoring(&fresh), "p").await.expect_err("refused");
    assert!(matches!(error, Error::ConditionsIgnored { .. }), "{error}");
    assert_eq!(error.code().to_string(), "FS1007");
    assert!(objects(&fresh).await.iter().all(|(key, _)| key == "v/probe"), "no vault was made");

    // One that was sound when the vault was made and is not any more.
    let objects = Arc::new(InMemory::new());
    let (made, kit) = make(store(&objects), "p").await.expect("made");
    commit_disk(&lineage(&made).await, &noise(1, CHUNK)).await.expect("committed");
    let before = self::objects(&objects).await;
    let vault = open_with(ignoring(&objects), &kit, "p").await.expect("nothing is written yet");
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
        let vault = open(&objects, &kit, "p").await.expect("a sound store");
        drop(begin(&lineage(&vault).await).await);
        objects.delete(&Path::from("v/probe")).await.expect("deleted");
    }
}

#[tokio::test]
async fn a_vault_that_cannot_be_written_to_can_be_recovered_from() {
    let objects = Arc::new(InMemory::new());
    let (made, kit) = make(store(&objects), "p").await.expect("made");
    let content = noise(1, 3 * CHUNK);
    let point = commit_disk(&lineage(&made).await, &content).await.expect("committed");
    let run = farshore_core::RunId::from_bytes([7; 16]);
    made.create_run(run, b"x").await.expect("written");

    let mut read_only = FaultyStore::sound(&objects);
    read_only.read_only = true;
    let vault = open_with(wrap(Arc::new(read_only)), &kit, "p").await.expect("opened");
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
    let (_, other) = make(self::store(&Arc::default()), "p").await.expect("made");
    let error = open_with(store.clone(), &other, "p").await.expect_err("nothing is there");
    assert!(matches!(error, Error::VaultMissing { .. }), "{error}");
    assert!(!folder.path().join("deep").exists());

    let (vault, kit) = make(store, "p").await.expect("made");
    let content = noise(1, 3 * CHUNK);
    let point = commit_disk(&lineage(&vault).await, &content).await.expect("committed");
    assert!(path.join("vault").is_file());
    let again = Store::open(&address, &options).expect("a store");
    let vault = open_with(again, &kit, "p").await.expect("opened");
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
    assert_eq!(crate::CODES.len(), 25);
}
