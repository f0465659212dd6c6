//! Whatever a server sends, the reader ends with an error that names it, and what it let through is true.

use farshore_core::SystemClock;
use proptest::prelude::*;

use super::*;
use crate::nbd::reply::{STATUS_ENTRIES_MAX, StatusEntry};

const DISK_BYTES: u64 = 1 << 20;
const CONTEXT: u32 = 7;

type Answered = oneshot::Receiver<Result<Answer, NbdError>>;

/// A connection's shared part with one request of each kind in flight, under the cookies 1, 2 and 3.
fn three_requests() -> (Arc<Shared>, [Answered; 3]) {
    let shared = Arc::new(Shared::new(true, Arc::new(SystemClock)));
    let assemblies = [
        Assembly::data(4096, 1024),
        Assembly::nothing(0, 512),
        Assembly::status(8192, 65536, DISK_BYTES, CONTEXT, vec![CONTEXT, 8]),
    ];
    let mut cookie = 0;
    let answered = assemblies.map(|assembly| {
        cookie += 1;
        let (answer, answered) = oneshot::channel();
        let permit = Arc::clone(&shared.permits).try_acquire_owned().expect("three of sixteen permits");
        let pending = Pending { assembly, answer, started: Duration::ZERO, _permit: permit };
        shared.lock().pending.insert(cookie, pending);
        answered
    });
    (shared, answered)
}

fn chunk(flags: u16, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = wire::CHUNK_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(payload.len()).expect("a short payload").to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn simple(number: u32, cookie: u64) -> Vec<u8> {
    [wire::SIMPLE_REPLY_MAGIC.to_be_bytes().as_slice(), &number.to_be_bytes(), &cookie.to_be_bytes()].concat()
}

/// Messages that are nearly right, which reach further than noise does.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let offset = prop_oneof![4 => 4000_u64..5300, 1 => any::<u64>()];
    let cookie = prop_oneof![8 => 1_u64..4, 1 => any::<u64>()];
    let length = prop_oneof![4 => 0_u32..2000, 1 => any::<u32>()];
    let data = (any::<bool>(), cookie.clone(), offset.clone(), prop::collection::vec(any::<u8>(), 0..1100)).prop_map(
        |(done, cookie, offset, data)| chunk(done.into(), 1, cookie, &[&offset.to_be_bytes()[..], &data].concat()),
    );
    let hole = (any::<bool>(), cookie.clone(), offset, length.clone()).prop_map(|(done, cookie, offset, length)| {
        chunk(done.into(), 2, cookie, &[&offset.to_be_bytes()[..], &length.to_be_bytes()].concat())
    });
    let entries = prop::collection::vec((length, 0_u32..3), 0..40);
    let status = (any::<bool>(), cookie.clone(), 6_u32..10, entries).prop_map(|(done, cookie, context, entries)| {
        let entries = entries.iter().flat_map(|(length, flags)| [length.to_be_bytes(), flags.to_be_bytes()].concat());
        chunk(done.into(), 5, cookie, &[&context.to_be_bytes()[..], &entries.collect::<Vec<_>>()].concat())
    });
    let other = (any::<u16>(), any::<u16>(), cookie.clone(), prop::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(flags, kind, cookie, payload)| chunk(flags, kind, cookie, &payload));
    let noise = prop::collection::vec(any::<u8>(), 0..64);
    let simple =
        (prop_oneof![Just(0_u32), Just(5), any::<u32>()], cookie).prop_map(|(number, cookie)| simple(number, cookie));
    prop_oneof![3 => data, 2 => hole, 2 => status, 2 => other, 1 => noise, 2 => simple]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("FARSHORE_LONG").is_some() { 20_000 } else { 256 }))]
    #[test]
    fn any_bytes_end_in_an_error_and_never_in_a_false_answer(messages in prop::collection::vec(message(), 0..12)) {
        let (shared, [read, write, status]) = three_requests();
        let bytes = messages.concat();
        let failure = futures::executor::block_on(read_replies(bytes.as_slice(), &shared));
        let hung_up = matches!(&failure, NbdError::Lost { kind: io::ErrorKind::UnexpectedEof, .. });
        prop_assert!(hung_up || matches!(&failure, NbdError::Protocol { .. }), "{failure:?}");
        shared.end(failure);
        for (mut answered, kind) in [(read, 0), (write, 1), (status, 2)] {
            // An entry that the reader held when it failed is dropped with it; the caller is then told the failure.
            let Ok(Ok(answer)) = answered.try_recv() else { continue };
            match answer {
                Answer::Data(data) => prop_assert!(kind == 0 && data.len() == 1024),
                Answer::Done => prop_assert!(kind == 1),
                Answer::Status(entries) => {
                    prop_assert!(kind == 2 && !entries.is_empty() && entries.len() <= STATUS_ENTRIES_MAX);
                    prop_assert!(entries.iter().all(|entry| entry.length > 0));
                    prop_assert!(entries.iter().map(|entry| entry.length).sum::<u64>() <= DISK_BYTES - 8192);
                }
            }
        }
    }

    #[test]
    fn a_read_is_whole_however_it_is_cut_and_shuffled(
        cuts in prop::collection::btree_set(1_usize..1024, 0..20),
        holes in prop::collection::vec(any::<bool>(), 21),
        order in Just((0..21_usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let (shared, [mut read, _write, _status]) = three_requests();
        let bounds: Vec<usize> = std::iter::once(0).chain(cuts).chain([1024]).collect();
        let mut expected: Vec<u8> = (0..1024_u32).map(|index| (index % 251 + 1) as u8).collect();
        let mut bytes = Vec::new();
        for index in order {
            let Some(&[start, end]) = bounds.get(index..index + 2) else { continue };
            let offset = (4096 + start as u64).to_be_bytes();
            if holes[index] {
                expected[start..end].fill(0);
                let length = u32::try_from(end - start).expect("a short hole").to_be_bytes();
                bytes.extend(chunk(0, 2, 1, &[&offset[..], &length].concat()));
            } else {
                bytes.extend(chunk(0, 1, 1, &[&offset[..], &expected[start..end]].concat()));
            }
        }
        bytes.extend(chunk(1, 0, 1, &[]));
        futures::executor::block_on(read_replies(bytes.as_slice(), &shared));
        let answer = read.try_recv().expect("an answer").expect("a whole answer");
        prop_assert_eq!(answer, Answer::Data(expected.into()));
    }
}

/// What the reader says after these bytes, and what the status request was answered.
fn after(bytes: &[u8]) -> (NbdError, Option<Result<Answer, NbdError>>) {
    let (shared, [_read, _write, mut status]) = three_requests();
    let failure = futures::executor::block_on(read_replies(bytes, &shared));
    (failure, status.try_recv().ok())
}

fn status_payload(context: u32, entries: impl IntoIterator<Item = (u32, u32)>) -> Vec<u8> {
    let entries = entries.into_iter().flat_map(|(length, flags)| [length.to_be_bytes(), flags.to_be_bytes()].concat());
    context.to_be_bytes().into_iter().chain(entries).collect()
}

#[test]
fn status_is_joined_and_what_is_cut_leaves_no_gap() {
    let (_, answer) = after(&chunk(1, 5, 3, &status_payload(CONTEXT, [(512, 1), (512, 1), (1024, 0)])));
    let entry = |length, flags| StatusEntry { length, flags };
    let Some(Ok(Answer::Status(entries))) = answer else { panic!("{answer:?}") };
    assert_eq!(entries, [entry(1024, 1), entry(1024, 0)]);

    // One byte each, alternating; after the cut come entries with the flags of the last one kept.
    let many = (0..40_000_u32).map(|index| (1, index % 2)).chain(std::iter::repeat_n((1, 1), 20_000));
    let (_, answer) = after(&chunk(1, 5, 3, &status_payload(CONTEXT, many)));
    let Some(Ok(Answer::Status(entries))) = answer else { panic!("{answer:?}") };
    assert_eq!(entries.len(), STATUS_ENTRIES_MAX);
    assert!(entries.iter().all(|entry| entry.length == 1));
}

#[test]
fn the_other_contexts_of_a_reply_are_checked_and_dropped() {
    let other = chunk(0, 5, 3, &status_payload(8, [(65536, 5)]));
    let ours = chunk(1, 5, 3, &status_payload(CONTEXT, [(65536, 2)]));
    let (_, answer) = after(&[other.clone(), ours].concat());
    assert!(matches!(&answer, Some(Ok(Answer::Status(entries))) if entries.len() == 1 && entries[0].flags == 2));

    let lying = chunk(0, 5, 3, &status_payload(8, [(0, 5)]));
    assert!(matches!(after(&lying).0, NbdError::Protocol { .. }));
    assert!(matches!(after(&[other.clone(), other].concat()).0, NbdError::Protocol { .. }));
}

#[test]
fn an_error_chunk_fails_the_request_and_not_the_connection() {
    let error = [&5_u32.to_be_bytes()[..], &4_u16.to_be_bytes(), b"oops"].concat();
    let (failure, answer) = after(&chunk(1, wire::CHUNK_ERROR_BIT | 1, 3, &error));
    assert!(matches!(answer, Some(Err(NbdError::Request { number: 5, message })) if message == "oops"));
    assert!(matches!(failure, NbdError::Lost { kind: io::ErrorKind::UnexpectedEof, .. }), "only the bytes ended");

    let unknown = chunk(1, wire::CHUNK_ERROR_BIT | 99, 3, &error);
    assert!(matches!(after(&unknown).1, Some(Err(NbdError::Request { number: 5, .. }))));
    let message_too_long = [&5_u32.to_be_bytes()[..], &400_u16.to_be_bytes(), b"oops"].concat();
    assert!(matches!(after(&chunk(1, wire::CHUNK_ERROR_BIT | 1, 3, &message_too_long)).0, NbdError::Protocol { .. }));
}
