//! The host is itself a VM that is rolled back: the same randomness comes twice, and what is written the second time
//! differs. `seal::census` asserts, at every seal of every test, that one key and nonce seal one message only; here the
//! randomness really repeats.

use farshore_core::{Epoch, PackId, SecretBytes, SessionId, VaultId};

use super::*;
use crate::seal::{BoxPurpose, FrameContext, LineageSecrets, MemberKeys, PrivateKey, Purpose, SessionKey, census};

#[tokio::test]
async fn repeated_randomness_never_seals_two_messages_alike() {
    let before = census::pairs();
    for repetition in 0..6u64 {
        // Each time a store of its own, so that names that repeat do not stop the writer.
        let objects = Arc::new(InMemory::new());
        let vault = vault_on(store(&objects), seeded(77)).await;
        let lineage = lineage(&vault).await;
        for cycle in 0..3 {
            let mut content = noise(repetition, 20 * CHUNK);
            content[3 * CHUNK] = cycle;
            content[10 * CHUNK..].fill(repetition as u8);
            commit_disk(&lineage, &content).await.expect("committed");
        }
        let run = farshore_core::RunId::from_bytes([1; 16]);
        vault.create_run(run, &[repetition as u8]).await.expect("written");
    }
    assert!(census::pairs() > before + 6 * 3 * 4, "the census counts");
}

/// On one and the same commit a name comes again, and the store tells.
#[tokio::test]
async fn a_writer_whose_names_repeat_is_stopped_by_the_store() {
    let objects = Arc::new(InMemory::new());
    lineage(&vault_on(store(&objects), context()).await).await;
    let mut outcomes = Vec::new();
    for content in [noise(1, CHUNK), noise(2, CHUNK)] {
        let vault = vault_on(store(&objects), seeded(5)).await;
        outcomes.push(commit_disk(&lineage(&vault).await, &content).await);
        // As if the first writer had been killed before its commit, and its machine rolled back.
        for (key, _) in
            self::objects(&objects).await.iter().filter(|(key, _)| key.ends_with("commits/00000000000000000002"))
        {
            object_store::ObjectStoreExt::delete(&*objects, &key.as_str().into()).await.expect("deleted");
        }
    }
    assert!(outcomes[0].is_ok());
    let error = outcomes.remove(1).expect_err("the packs exist with other content");
    assert!(error.to_string().contains("randomness has repeated"), "{error}");
}

/// Packs are known by their names alone: a machine that is rolled back past a commit must not give a name again.
#[tokio::test]
async fn a_machine_that_is_rolled_back_past_a_commit_gives_no_name_again() {
    let objects = Arc::new(InMemory::new());
    lineage(&vault_on(store(&objects), context()).await).await;
    let mut points = Vec::new();
    for number in 0..3 {
        let vault = vault_on(store(&objects), seeded(5)).await;
        let lineage = lineage(&vault).await;
        let writer = begin(&lineage).await;
        let disk = writer.add_disk(&machine_id(), &disk_id("d"), 8 * CHUNK as u64).await.expect("added");
        disk.write(number * CHUNK as u64, Bytes::from(noise(number, CHUNK))).await.expect("accepted");
        points.push(writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("committed"));
    }
    let reader = vault_on(store(&objects), context()).await;
    let lineage = lineage(&reader).await;
    let mut expected = vec![0; 8 * CHUNK];
    for (number, point) in (0..).zip(&points) {
        let at = usize::try_from(number).expect("few") * CHUNK;
        expected[at..at + CHUNK].copy_from_slice(&noise(number, CHUNK));
        assert!(restore(&lineage, point).await.expect("readable") == expected, "point {}", point.sequence);
    }
}

/// How many messages are sealed (T09).
fn seals() -> u64 {
    if std::env::var_os("FARSHORE_LONG").is_some() { 10_000_000 } else { 100_000 }
}

/// What one life of a machine seals from one state of its randomness: the same as the other life at first, then its own.
struct Life {
    number: u8,
    seed: u64,
}

/// How many metadata messages and as many frames one life seals, and how many of these are the other life's too.
const MESSAGES: u64 = 250;
const IN_COMMON: u64 = 20;
/// So many boxes, because each is dear; the first is in common.
const BOXES: u64 = 4;

impl Life {
    fn content(&self, message: u64, in_common: u64) -> Vec<u8> {
        let life = if message < in_common { 0 } else { self.number + 1 };
        let mut content = message.to_le_bytes().to_vec();
        content.extend_from_slice(&[life; 24]);
        content
    }

    fn run(&self) {
        let entropy = SeededEntropy::new(self.seed);
        let (vault, secret) = (VaultId::from_bytes([1; 16]), SecretBytes::random(&entropy));
        let lineage = farshore_core::LineageId::from_bytes([2; 16]);
        let (pack, session) = (PackId::random(&entropy), SessionId::random(&entropy));
        let metadata = LineageSecrets::random(&entropy).keys(vault, lineage).metadata;
        let frames = SessionKey::new(vault, lineage, session, SecretBytes::random(&entropy));
        let (member, reader) = (MemberKeys::new(vault, &secret), PrivateKey::random(&entropy));
        for number in 0..MESSAGES {
            let content = self.content(number, IN_COMMON);
            let index = number % 7;
            let purpose = Purpose::Page { lineage, pack, offset: 32, level: 0, index };
            metadata.seal("page", purpose, &content, &entropy).expect("sealed");
            // The same chunks at the same place, compressed otherwise: the one thing that can differ under one key.
            let ordinal = u32::try_from(number).expect("few");
            let codec = if number < IN_COMMON { 0 } else { self.number };
            let context = FrameContext { pack, ordinal, codec, chunks: 1, identity: [9; 32] };
            let mut buffer = SessionKey::frame_buffer(content.len());
            buffer.extend_from_slice(&content);
            frames.seal_frame(&context, buffer);
        }
        for number in 0..BOXES {
            let purpose = BoxPurpose::Session { lineage, session, epoch: Epoch::new(number % 2) };
            let content = self.content(number, 1);
            reader.public().seal("box", &member, purpose, &content, &entropy).expect("sealed");
        }
    }
}

/// One state of a machine's randomness, resumed twice, and what is sealed differs: at volume. The assertion is the census's, at
/// every seal; here it is counted that it saw them all.
#[test]
fn a_machine_that_is_resumed_twice_seals_no_two_messages_alike() {
    let of_one_seed = 2 * (2 * MESSAGES + BOXES);
    let seeds = seals().div_ceil(of_one_seed);
    let before = census::new_pairs();
    for seed in 0..seeds {
        for number in 0..2 {
            Life { number, seed: 7_000_000 + seed }.run();
        }
    }
    let in_common = 2 * IN_COMMON + 1;
    assert_eq!(census::new_pairs() - before, seeds * (of_one_seed - in_common), "what is in common is sealed once");
}
