//! Targets: what is below `lineages/`.

use farshore_core::{SeededEntropy, Sequence};

use super::{BASE, PACK, World, expect_damage, object};
use crate::{
    Point,
    boundary::{Boundary, boundary_key},
    collection::{Collection, CollectionRef},
    commit::{self, commit_key},
    keys::boxes,
    ledger::Ledger,
    pack::{CHUNK, Codec, Directory, FRAME_CHUNKS_MAX, header_length, open_frame},
    page::{self, Page},
    seal::{FrameContext, Purpose, SessionKey, Statement, stored_hash},
    wire::{Kind, Reader, length_u32},
};

fn seal(world: &World, purpose: Purpose, plain: &[u8]) -> Vec<u8> {
    world.lineage.keys.metadata.seal("fuzzed", purpose, plain, &SeededEntropy::new(4)).expect("sealed")
}

/// A commit whose JSON is packed in these bytes, signed by the administrator.
fn signed_commit(world: &World, sequence: Sequence, json_bytes: u32, boxes: &[u8], packed: &[u8]) -> Vec<u8> {
    let (access, lineage, number) = (&world.lineage.access, world.id(), sequence.get());
    let (boxes_hash, body, author) = (stored_hash(boxes), stored_hash(packed), access.author());
    let statement = Statement::Commit { lineage, sequence: number, author, boxes: boxes_hash, body };
    let mut plain = author.as_bytes().to_vec();
    plain.extend_from_slice(&access.sign(&statement));
    plain.extend_from_slice(packed);
    let mut rest = boxes.to_vec();
    let purpose = Purpose::Commit { lineage, sequence: number, boxes: boxes_hash };
    rest.extend_from_slice(&seal(world, purpose, &plain));
    object(Kind::Commit, usize::try_from(json_bytes).expect("64 bits"), &rest)
}

/// Depth 1 is the JSON; depth 2 a claim of its length (4) and the Zstandard frame; depth 3 the boxes of a first commit; depth 4
/// the JSON of the newest commit of a lineage in which everything is looked for.
pub(super) fn commit(world: &World, depth: u8, input: &[u8]) {
    let pack = |json: &[u8]| zstd::bulk::compress(json, 1).expect("memory");
    let mut sequence = Sequence::new(9);
    let bytes = match depth {
        0 => input.to_vec(),
        1 => signed_commit(world, sequence, length_u32(input.len()), &[0], &pack(input)),
        2 => match input.split_first_chunk::<4>() {
            Some((claim, packed)) => signed_commit(world, sequence, u32::from_le_bytes(*claim), &[0], packed),
            None => return,
        },
        3 => {
            let Ok((_, used)) = boxes::decode("fuzzed", input) else { return };
            sequence = Sequence::FIRST;
            signed_commit(world, sequence, 2, &input[..used], &pack(b"{}"))
        }
        _ => return newest_commit(world, input),
    };
    let store = world.with_object(&commit_key(world.id(), sequence), bytes);
    let stored = expect_damage(world.wait(commit::read_stored(&store, world.id(), sequence)));
    let Some(Some(stored)) = stored else { return };
    let (access, keys) = (&world.lineage.access, &world.lineage.keys);
    expect_damage(world.wait(access.open_lineage("fuzzed", world.id(), &stored.boxes)));
    let Some(commit) = expect_damage(world.wait(stored.open(access, &keys.metadata))) else { return };
    let json = serde_json::to_vec(&commit.body).expect("it was JSON");
    let again = signed_commit(world, sequence, length_u32(json.len()), &[0], &pack(&json));
    let store = world.with_object(&commit_key(world.id(), sequence), again);
    let stored = world.wait(commit::read_stored(&store, world.id(), sequence)).expect("its own bytes").expect("there");
    let again = world.wait(stored.open(access, &keys.metadata)).expect("its own bytes");
    assert_eq!(serde_json::to_vec(&again.body).expect("JSON"), json);
}

/// A commit that its author may make, and that says anything: all that follows it must take it as it is.
fn newest_commit(world: &World, json: &[u8]) {
    let sequence = world.next_commit();
    let packed = zstd::bulk::compress(json, 1).expect("memory");
    let bytes = signed_commit(world, sequence, length_u32(json.len()), &[0], &packed);
    let store = world.with_object(&commit_key(world.id(), sequence), bytes);
    let lineage = crate::Lineage(world.lineage_in(store).expect("its first commit is whole"));
    world.wait(async {
        if let Some(points) = expect_damage(lineage.list_points(None, 4).await) {
            for (sequence, _) in points {
                let Ok(reader) = lineage.open_point(sequence).await else { continue };
                for machine in &reader.point().machines {
                    for disk in machine.disks.iter().take(2) {
                        if let Ok(disk) = reader.disk(&machine.machine.id, &disk.disk) {
                            let _ = disk.read(0, 4096.min(disk.size_bytes())).await;
                        }
                    }
                }
            }
        }
    });
}

pub(super) fn point(_: &World, _: u8, input: &[u8]) {
    let Ok(point) = serde_json::from_slice::<Point>(input) else { return };
    let json = serde_json::to_vec(&point).expect("it was JSON");
    assert_eq!(serde_json::from_slice::<Point>(&json).expect("its own JSON"), point);
    let _ = point.size_bytes();
}

/// The depth is the level; the page's number is that of the input.
pub(super) fn page(_: &World, depth: u8, input: &[u8]) {
    let level = depth % 5;
    let index = input.get(1..9).and_then(|index| index.try_into().ok()).map_or(0, u64::from_le_bytes);
    let mut bytes = input.to_vec();
    if let Some(first) = bytes.first_mut() {
        *first = level;
    }
    let Some(page) = expect_damage(page::decode("fuzzed", level, index, &bytes)) else { return };
    let encode = |page: &Page| match page {
        Page::Leaf(slots) => page::encode_leaf(index, slots),
        Page::Inner(slots) => page::encode_inner(level, index, slots),
    };
    // A table that names packs twice, or in another order, becomes shorter once, and then no more; so does a slot's pack that
    // differs from another's of the same id.
    let again = encode(&page);
    assert!(again.len() <= bytes.len());
    let decoded = page::decode("fuzzed", level, index, &again).expect("its own bytes");
    assert_eq!(encode(&decoded), again);
}

/// Depth 1 is a claim of the body's length (4), and the directory.
pub(super) fn pack(world: &World, depth: u8, input: &[u8]) {
    let header = match depth {
        0 => input.to_vec(),
        _ => {
            let Some((body_bytes, directory)) = input.split_first_chunk::<4>() else { return };
            let (lineage, session, body_hash) = (world.id(), world.session, [0; 32]);
            let claim = u32::from_le_bytes(*body_bytes);
            let purpose = Purpose::Directory { lineage, session, pack: PACK, body_bytes: claim, body_hash };
            let mut rest = PACK.as_bytes().to_vec();
            rest.extend_from_slice(session.as_bytes());
            rest.extend_from_slice(&world.sealed_secret);
            rest.extend_from_slice(body_bytes);
            rest.extend_from_slice(&body_hash);
            rest.extend_from_slice(&seal(world, purpose, directory));
            object(Kind::DataPack, rest.len() + 16, &rest)
        }
    };
    expect_damage(header_length("fuzzed", &header));
    let lineage = &world.lineage;
    let opened = Directory::open(&lineage.access, &lineage.keys, lineage.id, PACK, BASE, &header);
    let Some(directory) = expect_damage(opened) else { return };
    for frame in &directory.frames {
        let end = frame.offset.checked_add(frame.stored_bytes).expect("a frame ends within its pack");
        assert!(end <= directory.reference.bytes);
        assert!(frame.offset >= directory.reference.header_bytes);
        assert!((1..=FRAME_CHUNKS_MAX).contains(&frame.chunks.len()));
    }
}

/// The depth has the codec in its lowest bit, and the count of chunks less one in the next four. The input is the payload. Each
/// chunk should be zeros.
pub(super) fn frame(world: &World, depth: u8, input: &[u8]) {
    let keys = world.lineage.keys.content.as_ref().expect("the administrator's");
    let zeros = keys.identify(&[0; CHUNK]);
    let chunks = vec![zeros; usize::from(depth >> 1) % FRAME_CHUNKS_MAX + 1];
    let context = FrameContext {
        pack: PACK,
        ordinal: 7,
        codec: if depth & 1 == 0 { Codec::Raw as u8 } else { Codec::Zstd as u8 },
        chunks: u8::try_from(chunks.len()).expect("at most 16"),
        identity: keys.identify_frame(&chunks),
    };
    let mut buffer = SessionKey::frame_buffer(input.len());
    buffer.extend_from_slice(input);
    let sealed = world.session_key.seal_frame(&context, buffer);
    if let Ok(plain) = open_frame(&world.session_key, keys, &context, &chunks, &sealed) {
        assert!(plain.len() == chunks.len() * CHUNK && plain.iter().all(|byte| *byte == 0));
    }
    // The input as a sealed frame opens never.
    assert!(open_frame(&world.session_key, keys, &context, &chunks, input).is_err());
}

/// Depth 1 is the two numbers, signed; depth 2 what is sealed, author, signature and all.
pub(super) fn boundary(world: &World, depth: u8, input: &[u8]) {
    let (access, lineage, number, author) = (&world.lineage.access, world.id(), 4, world.lineage.access.author());
    let mut plain = Vec::new();
    if depth == 1 {
        let mut reader = Reader::new("fuzzed", input);
        let (Ok(commit), Ok(deleted_to)) = (reader.u64(), reader.u64()) else { return };
        let statement = Statement::Boundary { lineage, number, author, commit, deleted_to };
        plain.extend_from_slice(author.as_bytes());
        plain.extend_from_slice(&access.sign(&statement));
    }
    plain.extend_from_slice(input);
    let bytes = match depth {
        0 => input.to_vec(),
        _ => object(Kind::Boundary, plain.len(), &seal(world, Purpose::Boundary { lineage, number }, &plain)),
    };
    let store = world.with_object(&boundary_key(lineage, number), bytes);
    let read = Boundary::read(&store, access, &world.lineage.keys.metadata, lineage, number);
    if let Some(boundary) = expect_damage(world.wait(read)) {
        assert!(boundary.deleted_to < boundary.commit);
    }
}

pub(super) fn ledger(_: &World, _: u8, input: &[u8]) {
    if let Some(ledger) = expect_damage(Ledger::decode("fuzzed", input)) {
        assert_eq!(ledger.encode().expect("it is not longer than it was"), input);
    }
}

/// Depth 1 is a claim of the body's length (4), and the directory.
pub(super) fn collection(world: &World, depth: u8, input: &[u8]) {
    let Some((body_bytes, directory)) = input.split_first_chunk::<4>() else { return };
    let (lineage, body_bytes, body_hash) = (world.id(), u32::from_le_bytes(*body_bytes) % (90 << 20), [0; 32]);
    let header = match depth {
        0 => directory.to_vec(),
        _ => {
            let purpose = Purpose::Collection { lineage, collection: PACK, body_bytes, body_hash };
            let mut rest = PACK.as_bytes().to_vec();
            rest.extend_from_slice(&body_bytes.to_le_bytes());
            rest.extend_from_slice(&body_hash);
            rest.extend_from_slice(&seal(world, purpose, directory));
            object(Kind::Collection, rest.len() + 16, &rest)
        }
    };
    let header_bytes = length_u32(header.len());
    let sources = crate::collection::fuzzed_sources(directory, header_bytes, header_bytes.saturating_add(body_bytes));
    let reference = CollectionRef {
        id: PACK,
        base: BASE,
        bytes: header_bytes.saturating_add(body_bytes),
        header_bytes,
        header_hash: stored_hash(&header),
        sources: sources.unwrap_or_default(),
    };
    let store = world.with_object(&reference.key(lineage), header);
    let read = Collection::read(&store, &world.lineage.keys.metadata, lineage, &reference);
    let Some(collection) = expect_damage(world.wait(read)) else { return };
    for (sort, pack) in &reference.sources {
        let source = collection.source(*sort, *pack).expect("every source of the reference is found");
        for piece in &source.pieces {
            assert_eq!(source.piece(piece.key), Some(piece), "every piece is found by its key");
            assert!(piece.offset >= header_bytes && piece.offset + piece.length <= reference.bytes);
        }
    }
}
