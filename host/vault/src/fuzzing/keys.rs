//! Targets: the header, what is below `keys/`, the box of a lineage for a host, and journals.

use farshore_core::{RunId, SeededEntropy};

use super::{World, expect_damage, expect_damage_or_bounds, object};
use crate::{
    Opener, Vault,
    header::Header,
    keys::{Bundle, Ring, Slot, epochs, ring_key},
    plain,
    seal::{BoxPurpose, PublicKey, Purpose, SigningKey, Statement, stored_hash},
    store::Addresses,
    wire::Kind,
};

pub(super) const RUN: RunId = RunId::from_bytes([3; 16]);

/// An object that ends with the hash of what stands before.
fn hashed(mut bytes: Vec<u8>) -> Vec<u8> {
    let hash = stored_hash(&bytes);
    bytes.extend_from_slice(&hash);
    bytes
}

pub(super) fn header(_: &World, depth: u8, input: &[u8]) {
    let bytes = match depth {
        0 => input.to_vec(),
        _ => hashed(object(Kind::Header, input.len(), input)),
    };
    let Some(header) = expect_damage(Header::parse(&bytes)) else { return };
    assert_eq!(Header::parse(&header.encode()).expect("its own bytes"), header);
}

pub(super) fn addresses(_: &World, depth: u8, input: &[u8]) {
    let bytes = match depth {
        0 => input.to_vec(),
        _ => hashed(object(Kind::Addresses, input.len(), input)),
    };
    let Some(addresses) = expect_damage(Addresses::parse("addresses", &bytes)) else { return };
    let again = plain::encode(Kind::Addresses, &addresses);
    assert_eq!(Addresses::parse("addresses", &again).expect("its own bytes"), addresses);
}

/// Depth 1 puts lengths and hash right; depth 2 is the keys within, as a passphrase would have opened them.
pub(super) fn slot(_: &World, depth: u8, input: &[u8]) {
    let parse = |bytes: &[u8]| {
        if let Some(slot) = expect_damage_or_bounds(Slot::parse("slot", bytes)) {
            slot.kdf.check().expect("bounds are checked before anybody derives a key");
        }
    };
    match depth {
        0 => parse(input),
        1 => parse(&hashed(object(Kind::Slot, input.len() + 48, input))),
        _ => {
            if let Some(bundle) = expect_damage(Bundle::decode("slot", input)) {
                Bundle::decode("slot", &bundle.encode()).expect("its own bytes");
            }
        }
    }
}

/// Depth 1 is the JSON, signed by the administrator; depth 2 what is sealed, signature and all.
pub(super) fn ring(world: &World, depth: u8, input: &[u8]) {
    let (access, number) = (&world.lineage.access, 9);
    let mut plain = Vec::new();
    if depth == 1 {
        plain.extend_from_slice(&access.sign(&Statement::Ring { number, body: stored_hash(input) }));
    }
    plain.extend_from_slice(input);
    let bytes = match depth {
        0 => input.to_vec(),
        _ => {
            let purpose = Purpose::Ring { number };
            let sealed = access.member.ring.seal("ring", purpose, &plain, &SeededEntropy::new(4)).expect("sealed");
            object(Kind::Ring, plain.len(), &sealed)
        }
    };
    let store = world.with_object(&ring_key(number), bytes);
    let admin = access.bundle("to fuzz").expect("the administrator's").admin.public();
    let Some(ring) = expect_damage(world.wait(Ring::newest(&store, &access.member, &admin, number))) else { return };
    let again = ring.encode(&access.member, &access.bundle("to fuzz").expect("it").admin, &SeededEntropy::new(5));
    let store = world.with_object(&ring_key(number), again.expect("it is not longer than it was"));
    assert_eq!(world.wait(Ring::newest(&store, &access.member, &admin, number)).expect("its own bytes"), ring);
}

/// Depth 1 is the JSON, signed with the key of a join file; depth 2 what is sealed, signature and all.
pub(super) fn enrolment(world: &World, depth: u8, input: &[u8]) {
    let access = &world.lineage.access;
    let invitation = SigningKey::from_seed(farshore_core::SecretBytes::new([6; 32]));
    let mut invited = access.ring().hosts.first().expect("it has one").clone();
    invited.invitation = *invitation.public().as_bytes();
    let host = invited.host;
    let mut plain = Vec::new();
    if depth == 1 {
        let statement = Statement::Enrolment { host, body: stored_hash(input) };
        plain.extend_from_slice(&invitation.sign(access.vault(), &statement));
    }
    plain.extend_from_slice(input);
    let bytes = match depth {
        0 => input.to_vec(),
        _ => {
            let purpose = Purpose::Enrolment { host };
            let sealed = access.member.ring.seal("host", purpose, &plain, &SeededEntropy::new(4)).expect("sealed");
            object(Kind::Enrolment, plain.len(), &sealed)
        }
    };
    let store = world.with_object(&format!("keys/hosts/{host}"), bytes);
    let vault = world.administrator.reopen(store, super::context());
    expect_damage(world.wait(vault.0.access.enrolment(&invited)));
}

/// To which the host of the credential opens.
fn receiving(world: &World) -> PublicKey {
    let access = &world.lineage.access;
    let ring = access.ring();
    let invited = ring.hosts.first().expect("it has one");
    world.wait(access.enrolment(invited)).expect("readable").expect("there").receiving()
}

/// Depth 1 is the JSON, signed by the administrator and boxed; depth 2 what is boxed, signature and all.
pub(super) fn grant(world: &World, depth: u8, input: &[u8]) {
    let (access, host, number) = (&world.lineage.access, world.credential.host(), 1);
    let mut plain = Vec::new();
    if depth == 1 {
        plain.extend_from_slice(&access.sign(&Statement::Grant { host, number, body: stored_hash(input) }));
    }
    plain.extend_from_slice(input);
    let bytes = match depth {
        0 => input.to_vec(),
        _ => {
            let purpose = BoxPurpose::Grant { host, number };
            let sealed = receiving(world).seal("grant", &access.member, purpose, &plain, &SeededEntropy::new(4));
            let sealed = sealed.expect("sealed");
            object(Kind::Grant, sealed.len(), &sealed)
        }
    };
    let store = world.with_object(&format!("keys/grants/{host}/{number:08}"), bytes);
    let opener = Opener::Host(Box::new(world.credential.clone()));
    if let Some(vault) = expect_damage(world.wait(Vault::open(store, &opener, super::context()))) {
        let _ = (vault.powers(), world.wait(vault.info()).expect("only listings and reads of memory"));
    }
}

/// Depth 1 is what stands in the box; depth 2 is what follows the prologue.
pub(super) fn epoch_keys(world: &World, depth: u8, input: &[u8]) {
    let access = &world.lineage.access;
    let administrator = access.as_administrator("to fuzz").expect("it was opened with its kit");
    let (slot, ring) = ((administrator.slot, &administrator.receiving), access.ring());
    let of = ring.epochs.first().expect("it has one");
    let bytes = match depth {
        0 => input.to_vec(),
        1 => {
            let purpose = BoxPurpose::Epoch { slot: slot.0, epoch: of.epoch };
            let sealed = slot.1.public().seal("keys", &access.member, purpose, input, &SeededEntropy::new(4));
            let rest = [slot.0.as_bytes().as_slice(), &sealed.expect("sealed")].concat();
            object(Kind::EpochKeys, rest.len(), &rest)
        }
        _ => object(Kind::EpochKeys, input.len(), input),
    };
    if let Some(found) = expect_damage(epochs::decode("keys", &access.member, of, slot, &bytes)) {
        assert_eq!(found.public(), *of, "keys that are not the ring's were taken for them");
    }
}

/// Depth 1 is what is boxed.
pub(super) fn lineage_box(world: &World, depth: u8, input: &[u8]) {
    let (access, host, lineage) = (&world.lineage.access, world.credential.host(), world.id());
    let bytes = match depth {
        0 => input.to_vec(),
        _ => {
            let purpose = BoxPurpose::LineageHost { lineage, host };
            let sealed = receiving(world).seal("box", &access.member, purpose, input, &SeededEntropy::new(4));
            let sealed = sealed.expect("sealed");
            object(Kind::LineageBox, sealed.len(), &sealed)
        }
    };
    let store = world.with_object(&format!("lineages/{lineage}/hosts/{host}"), bytes);
    let opener = Opener::Host(Box::new(world.credential.clone()));
    let vault = world.wait(Vault::open(store, &opener, super::context())).expect("its keys are whole");
    // Without a box for it in the first commit, the box of its own is the only one that it can use.
    let opened = world.wait(vault.0.access.open_lineage("lineage", lineage, &[]));
    if let Some(Some(secrets)) = expect_damage(opened) {
        drop(secrets.keys(access.vault(), lineage));
    }
}

/// Depth 1 is an entry, signed; depth 2 what is sealed, author, signature and all.
pub(super) fn run_entry(world: &World, depth: u8, input: &[u8]) {
    let access = &world.lineage.access;
    let (run, number, author) = (RUN, 1, access.author());
    let mut plain = Vec::new();
    if depth == 1 {
        plain.extend_from_slice(author.as_bytes());
        plain.extend_from_slice(&access.sign(&Statement::RunEntry { run, number, author, entry: stored_hash(input) }));
    }
    plain.extend_from_slice(input);
    let bytes = match depth {
        0 => input.to_vec(),
        _ => {
            let sealer = access.runs("to fuzz").expect("the administrator's");
            let purpose = Purpose::RunEntry { run, number };
            let sealed = sealer.seal("run", purpose, &plain, &SeededEntropy::new(4)).expect("sealed");
            object(Kind::RunEntry, plain.len(), &sealed)
        }
    };
    let store = world.with_object(&format!("runs/{run}/{number:08}"), bytes);
    let vault = world.administrator.reopen(store, super::context());
    if let Some(entries) = expect_damage(world.wait(vault.run_entries(run))) {
        assert!(depth != 1 || *entries == [input], "an entry comes back as it was");
    }
}
