//! T08, the tamper matrix: a store that flips any bit of any kind of object, splices two of a kind, gives one object under the
//! name of another, an older one for a newer, slots of its own, other parameters of the key derivation. All of it is noticed as
//! damage by whoever reads the object; nothing wrong is ever given out. `FARSHORE_LONG` tries more bits.

use farshore_core::{Entropy, Sequence};

use super::{
    whole::{RUN, Whole, billing, orders, whole},
    *,
};
use crate::{
    Error,
    keys::{Bundle, Slot, epochs, slot_key},
    seal,
};

/// How many bits of a kind are flipped, if an object has so many.
fn bits() -> usize {
    if std::env::var_os("FARSHORE_LONG").is_some() { 20_000 } else { 1_000 }
}

/// One object of each kind, and what reads it.
fn targets(whole: &Whole) -> Vec<String> {
    let fixed =
        ["header", "slot", "epoch keys", "enrolment of keeper", "grant of keeper", "lineage box 1", "first commit 1"];
    let more = ["commit B", "raise", "pin", "pack B", "map B", "run entry 2", "collection 1"];
    let newest = ["ring", "boundary", "ledger", "pruned commit"].map(|kind| whole.newest(kind));
    fixed.into_iter().chain(more).map(str::to_owned).chain(newest).collect()
}

/// Everything that whoever reads this object learns from it.
async fn read(whole: &Whole, name: &str, objects: &Arc<InMemory>) -> Result<Vec<u8>> {
    let host = |vault: &Vault| format!("{:?} {:?}", vault.id(), vault.powers()).into_bytes();
    let (kind, _) = name.rsplit_once(' ').unwrap_or((name, ""));
    match kind {
        "slot" => {
            let key = &whole.named[name];
            let bytes = whole_object(objects, key).await;
            return Slot::parse(key, &bytes).map(|slot| format!("{slot:?}").into_bytes());
        }
        "epoch" => {
            let bytes = whole_object(objects, &whole.named[name]).await;
            let access = &whole.administrator.0.access;
            let (ring, administrator) = (access.ring(), access.as_administrator("for a test")?);
            let (of, slot) =
                (ring.epochs.last().expect("there is one"), (administrator.slot, &administrator.receiving));
            let keys = epochs::decode(&whole.named[name], &access.member, of, slot, &bytes)?;
            return Ok(format!("{:?}", keys.public()).into_bytes());
        }
        "header" | "ring" | "enrolment of" | "grant of" => {
            return whole.open(store(objects), &whole.keeper).await.map(|vault| host(&vault));
        }
        "lineage box" => {
            let vault = whole.open(store(objects), &whole.writer).await?;
            let lineage = vault.lineage(&orders()).await?.expect("its first commit is there");
            return Ok(format!("{:?}", lineage.head().await?).into_bytes());
        }
        _ => {}
    }
    let vault = whole.administrator.reopen(store(objects), seeded(2));
    if kind == "run entry" {
        return Ok(vault.run_entries(RUN).await?.concat());
    }
    let is_of_orders = whole.named[name].contains(&vault.lineage_id(&orders()).to_string());
    let group = if is_of_orders { orders() } else { billing() };
    let lineage = vault.lineage(&group).await?.expect("its first commit is there");
    match kind {
        "first commit" | "raise" | "pin" | "boundary" => {
            let sequence = match kind {
                "raise" => Sequence::new(5),
                "pin" => Sequence::new(6),
                _ => return Ok(format!("{:?}", lineage.head().await?).into_bytes()),
            };
            Ok(format!("{:?}", lineage.0.log.read_existing(sequence, "for a test").await?.body).into_bytes())
        }
        "ledger" | "pruned commit" => {
            let (head, valid) = lineage.0.ledgers.newest().await?;
            Ok(format!("{:?} {:?}", head.head, valid.map(|valid| valid.ledger.clone())).into_bytes())
        }
        _ => {
            let key = &whole.named[name];
            let known = whole.points.iter().find(|known| known.needs.contains(key)).expect("a point needs it");
            let point = lineage.point(known.sequence).await?;
            let content = restore(&lineage, &point).await?;
            assert!(content == known.content, "a point was given back with other content");
            Ok(content)
        }
    }
}

async fn whole_object(objects: &InMemory, key: &str) -> Vec<u8> {
    let path = object_store::path::Path::from(format!("v/{key}"));
    let read = object_store::ObjectStoreExt::get(objects, &path).await.expect("there");
    read.bytes().await.expect("there").to_vec()
}

/// The front of a map pack is read by nobody: each page has the hash of its reference, and its place is sealed with it.
fn is_unread(name: &str, byte: usize) -> bool {
    name.starts_with("map ") && byte < crate::page::MAP_PACK_FRONT_BYTES
}

/// Every bit of a small object; else a bit of every byte, as far as there is room, and bits anywhere.
fn positions(bytes: usize) -> Vec<usize> {
    let (all, count) = (bytes * 8, bits());
    if all <= count {
        return (0..all).collect();
    }
    let entropy = SeededEntropy::new(all as u64);
    let draw = |limit: usize| {
        let mut drawn = [0; 8];
        entropy.fill(&mut drawn);
        usize::try_from(u64::from_le_bytes(drawn)).expect("64 bits") % limit
    };
    let mut positions: Vec<usize> = (0..bytes).step_by(bytes.div_ceil(count)).map(|byte| byte * 8 + draw(8)).collect();
    while positions.len() < count {
        positions.push(draw(all));
    }
    positions
}

/// That an object with these bytes is refused as damage.
async fn expect_refusal(whole: &Whole, name: &str, bytes: Vec<u8>, how: &str) -> bool {
    let objects = whole.with(&[(&whole.named[name], Some(bytes))]).await;
    match read(whole, name, &objects).await {
        Ok(_) => false,
        Err(error) => {
            let is_bounds = matches!(error, Error::KdfOutOfBounds { .. }) && name == "slot";
            assert!(error.is_damage() || is_bounds, "{how} in {name} was refused otherwise: {error}");
            true
        }
    }
}

async fn flip(names: &[&str]) {
    let whole = whole().await;
    let targets = targets(whole);
    for name in targets.iter().filter(|name| names.iter().any(|kind| name.starts_with(kind))) {
        let original = whole.bytes(name).await;
        let expected = read(whole, name, &whole.with(&[]).await).await.expect("it is whole");
        assert!(!expected.is_empty());
        let positions = positions(original.len());
        assert!(positions.len() >= 1_000, "{name} has {} bits to flip", positions.len());
        for bit in positions {
            let mut flipped = original.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let is_refused = expect_refusal(whole, name, flipped, &format!("a flip of bit {bit}")).await;
            assert!(is_refused || is_unread(name, bit / 8), "a flip of bit {bit} in {name} was not noticed");
        }
    }
}

#[tokio::test]
async fn flipped_bits_of_header_slot_and_ring() {
    flip(&["header", "slot", "ring"]).await;
}

#[tokio::test]
async fn flipped_bits_of_enrolments_grants_and_boxes() {
    flip(&["enrolment", "grant", "lineage box"]).await;
}

#[tokio::test]
async fn flipped_bits_of_commits() {
    flip(&["first commit", "commit B", "raise", "pin", "pruned commit"]).await;
}

#[tokio::test]
async fn flipped_bits_of_packs() {
    flip(&["pack B"]).await;
}

#[tokio::test]
async fn flipped_bits_of_maps() {
    flip(&["map B"]).await;
}

#[tokio::test]
async fn flipped_bits_of_collections() {
    flip(&["collection"]).await;
}

#[tokio::test]
async fn flipped_bits_of_boundaries_ledgers_and_journals() {
    flip(&["boundary", "ledger", "run entry"]).await;
}

/// Objects of one kind as the target's.
fn of_same_kind<'a>(whole: &'a Whole, target: &str) -> Vec<&'a str> {
    let kind = |name: &str| match name.split(' ').next() {
        Some("raise" | "pin" | "pruned" | "first" | "commit") => "commit".to_owned(),
        first => first.unwrap_or_default().to_owned(),
    };
    let all = whole.named.keys().map(String::as_str);
    all.filter(|name| *name != target && kind(name) == kind(target)).collect()
}

#[tokio::test]
async fn spliced_objects_are_noticed() {
    let whole = whole().await;
    let mut tried = 0;
    for target in targets(whole) {
        let own = whole.bytes(&target).await;
        for other in of_same_kind(whole, &target) {
            let foreign = whole.bytes(other).await;
            let shorter = own.len().min(foreign.len());
            let cuts = [0, 8, 16, 32, 48, shorter / 4, shorter / 2, shorter * 3 / 4, shorter - 48, shorter - 16];
            for cut in cuts.into_iter().filter(|cut| *cut < shorter) {
                for (front, back) in [(&own, &foreign), (&foreign, &own)] {
                    let spliced = [&front[..cut], &back[cut..]].concat();
                    let changed = own.iter().zip(&spliced).position(|(one, other)| one != other);
                    let Some(changed) = changed.or((spliced.len() != own.len()).then_some(shorter)) else { continue };
                    let how = format!("a splice with {other} at {cut}");
                    let is_refused = expect_refusal(whole, &target, spliced.clone(), &how).await;
                    let is_whole_behind = spliced.len() == own.len() && spliced[32..] == own[32..];
                    assert!(is_refused || (is_unread(&target, changed) && is_whole_behind), "{how} in {target}");
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 500, "{tried} splices");
}

#[tokio::test]
async fn objects_under_the_names_of_others_are_noticed() {
    let whole = whole().await;
    let mut tried = 0;
    for target in targets(whole) {
        let own = whole.bytes(&target).await;
        for other in whole.named.keys().filter(|other| **other != target) {
            let foreign = whole.bytes(other).await;
            assert!(foreign != own, "no two objects have the same bytes");
            // A kit's slot is compared with the ring when it is used; as an object the store's other slots are slots too.
            assert!(expect_refusal(whole, &target, foreign, other).await, "{other} under the name of {target}");
            tried += 1;
        }
        let more = [own.as_slice(), &[0]].concat();
        if !expect_refusal(whole, &target, more.clone(), "a byte more").await {
            // Who restores reads ranges. A check sees what follows; what follows the last page of a map pack is nobody's.
            let objects = whole.with(&[(&whole.named[&target], Some(more))]).await;
            let vault = whole.administrator.reopen(store(&objects), seeded(2));
            let report = vault.check(crate::CheckDepth::Structure, &|_| {}).await.expect("checked");
            let is_named = report.findings.iter().any(|finding| finding.object == whole.named[&target]);
            assert!(is_named || target.starts_with("map "), "a byte more in {target}");
        }
        for length in [0, 1, 15, 16, 17, own.len() / 2, own.len() - 1] {
            let shorter = own[..length].to_vec();
            assert!(expect_refusal(whole, &target, shorter, "an end").await, "{target} that ends at {length}");
        }
    }
    assert!(tried > 500, "{tried} exchanges");
}

/// A kit whose copy of the slot has been changed, with the hash at its end put right, as somebody would do it who finds one.
fn kit_with(whole: &Whole, change: impl Fn(&mut [u8])) -> Kit {
    let slot = whole.kit.slot_object();
    let (front, _) = slot.split_last_chunk::<32>().expect("a slot ends with a hash");
    let mut changed = front.to_vec();
    change(&mut changed);
    changed.extend_from_slice(&seal::stored_hash(&changed));
    let text = whole.kit.to_text();
    let text = text.replace(&crate::wire::hex::encode(slot), &crate::wire::hex::encode(&changed));
    Kit::parse(&text).expect("its form is right")
}

#[tokio::test]
async fn other_parameters_of_the_key_derivation_are_refused_before_or_after_it() {
    let whole = whole().await;
    let objects = whole.with(&[]).await;
    open_with(store(&objects), &whole.kit, "correct horse").await.expect("the kit opens it");
    let at = |position: usize, value: u32| {
        move |slot: &mut [u8]| slot[position..position + 4].copy_from_slice(&value.to_le_bytes())
    };
    let (memory, passes, lanes) = (48, 52, 56);
    let out_of_bounds = [
        (memory, 0),
        (memory, 65_535),
        (memory, 4_194_305),
        (memory, u32::MAX),
        (passes, 2),
        (passes, 17),
        (lanes, 0),
        (lanes, 17),
    ];
    for (position, value) in out_of_bounds {
        let error = open_with(store(&objects), &kit_with(whole, at(position, value)), "correct horse").await;
        assert!(matches!(error, Err(Error::KdfOutOfBounds { .. })), "{value} at {position}");
    }
    let both = |slot: &mut [u8]| {
        at(memory, 4_194_304)(slot);
        at(passes, 5)(slot);
    };
    let error = open_with(store(&objects), &kit_with(whole, both), "correct horse").await;
    assert!(matches!(error, Err(Error::LimitExceeded { .. })), "both at their ceilings");
    // Within the bounds it takes the derivation to tell; and then the slot is not the ring's.
    for (position, value) in [(memory, 65_544), (passes, 4), (lanes, 3)] {
        let error = open_with(store(&objects), &kit_with(whole, at(position, value)), "correct horse").await;
        assert!(matches!(error, Err(Error::WrongPassphrase { .. })), "{value} at {position}");
    }
    // Salt, commitment, what is sealed, its tag.
    let last = whole.kit.slot_object().len() - 33;
    for position in [16, 32, 60, 91, 92, 123, 124, 300, last] {
        let kit = kit_with(whole, |slot| slot[position] ^= 1);
        let error = open_with(store(&objects), &kit, "correct horse").await.expect_err("refused");
        let is_expected = error.is_damage() || matches!(error, Error::WrongPassphrase { .. });
        assert!(is_expected, "a flip at {position}: {error}");
    }
}

#[tokio::test]
async fn slots_that_a_store_puts_in_or_takes_away_open_nothing() {
    let whole = whole().await;
    let passphrase = Passphrase::new("chosen by the store");
    // A slot with keys of the store's own, that opens with a passphrase and a kit's secret of its own.
    let (id, secret) = (farshore_core::SlotId::from_bytes([9; 16]), farshore_core::SecretBytes::new([9; 32]));
    let (vault, bundle) = (whole.kit.vault(), Bundle::random(&SystemEntropy));
    let make = Slot::make(id, vault, &bundle, &passphrase, &secret, KdfParameters::FLOOR, &SystemEntropy);
    let ((object, _), key) = (make.expect("made"), slot_key(id));
    let slot = Slot::parse(&key, &object).expect("its own bytes");
    let now = Timestamp::from_unix_milliseconds(0);
    let forged = Kit::new("here", now, whole.kit.admin(), &slot, object.clone(), secret);
    let objects = whole.with(&[(&key, Some(object.clone()))]).await;
    for outcome in [
        open_with(store(&objects), &forged, "chosen by the store").await.map(drop),
        Vault::kit_from_words(store(&objects), &forged.words().join(" "), &passphrase, context()).await.map(drop),
    ] {
        assert!(matches!(outcome, Err(Error::OtherVault { .. })), "its keys are not the administrator's");
    }
    // The true kit and words open the vault as before.
    open_with(store(&objects), &whole.kit, "correct horse").await.expect("the kit has its own copy");

    // The keys of the administrator in a slot that no ring names: as of a kit that was retired.
    let bundle = whole.administrator.0.access.bundle("for a test").expect("the administrator's");
    let secret = farshore_core::SecretBytes::new([9; 32]);
    let make = Slot::make(id, vault, &bundle, &passphrase, &secret, KdfParameters::FLOOR, &SystemEntropy);
    let (object, _) = make.expect("made");
    let slot = Slot::parse(&key, &object).expect("its own bytes");
    let retired = Kit::new("here", now, whole.kit.admin(), &slot, object.clone(), secret);
    let error = open_with(store(&objects), &retired, "chosen by the store").await.map(drop);
    assert!(matches!(error, Err(Error::KitRetired { .. })));

    let without = whole.with(&[(&whole.named["slot"], None)]).await;
    open_with(store(&without), &whole.kit, "correct horse").await.expect("the kit has its own copy");
    let words = whole.kit.words().join(" ");
    let error = Vault::kit_from_words(store(&without), &words, &Passphrase::new("correct horse"), context()).await;
    assert!(matches!(error, Err(Error::WrongPassphrase { .. })), "the words alone need the store's slot");
}
