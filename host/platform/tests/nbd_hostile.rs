//! Each lie that a server can tell ends its connection with an error that says so, and nothing else.

mod nbd_support;

use std::{io, time::Duration};

use bytes::Bytes;
use farshore_core::Coded;
use farshore_platform::{DiskTransport, TransportError, extents, nbd::STATUS_ENTRIES_MAX};
use futures::StreamExt;
use nbd_support::{BLOCK_STATUS, MIB, READ, Reaction, Request, Scripted, WRITE, extent, honest_options, pattern};

/// Has flags, can flush; cannot write zeros.
const FLAGS: u16 = 0b101;
const CONTEXT: &str = "base:allocation";

/// Reads 64 KiB at 1 MiB from a server that answers reads like this, and gives the error.
async fn read_error(answer: impl Fn(&Request) -> Vec<u8> + Send + 'static) -> TransportError {
    let server = Scripted::start(honest_options(8 * MIB, FLAGS), move |request| Reaction::Send(answer(&request)));
    let disk = server.connect(&[CONTEXT]).await;
    let error = disk.read(extent(MIB, 65536)).await.expect_err("a lie");
    if matches!(error, TransportError::Protocol { .. }) {
        let later = disk.read(extent(0, 4096)).await.expect_err("a dead connection");
        assert_eq!(later.to_string(), error.to_string(), "every later call is told the same");
        assert!(later.is_lost());
    }
    error
}

#[track_caller]
fn assert_protocol(error: &TransportError, words: &str) {
    assert!(matches!(error, TransportError::Protocol { what, .. } if what.contains(words)), "{error:?}");
    assert_eq!(error.code().to_string(), "FS3103");
}

#[tokio::test]
async fn replies_that_lie_about_reads() {
    let data = pattern(0, 65536);
    let (one, two, three, four, five) = (data.clone(), data.clone(), data.clone(), data.clone(), data.clone());
    let unknown_cookie = read_error(move |request| Request { cookie: 999, ..request.clone() }.data(true, MIB, &one));
    assert_protocol(&unknown_cookie.await, "not sent");
    let too_long = read_error(move |request| request.data(true, MIB, &[&two[..], &[0]].concat()));
    assert_protocol(&too_long.await, "not asked for");
    let before = read_error(move |request| request.data(true, MIB - 1, &three));
    assert_protocol(&before.await, "not asked for");
    let huge = read_error(|request| {
        let mut head = request.chunk(true, 1, &MIB.to_be_bytes());
        head[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        head
    });
    assert_protocol(&huge.await, "not asked for");
    let twice = read_error(move |request| [request.data(false, MIB, &four), request.data(true, MIB, &four)].concat());
    assert_protocol(&twice.await, "twice");
    let overlapping =
        read_error(move |request| [request.data(false, MIB, &five), request.hole(true, MIB + 65535, 1)].concat());
    assert_protocol(&overlapping.await, "twice");
    let wrapping = read_error(|request| request.hole(true, u64::MAX, 2));
    assert_protocol(&wrapping.await, "not asked for");
    let in_part = read_error(|request| request.hole(true, MIB, 65535));
    assert_protocol(&in_part.await, "in part");
    let nothing = read_error(|request| request.chunk(true, 0, &[]));
    assert_protocol(&nothing.await, "in part");
    let empty_data = read_error(|request| request.data(true, MIB, &[]));
    assert_protocol(&empty_data.await, "type 1");
    let empty_hole = read_error(|request| request.hole(true, MIB, 0));
    assert_protocol(&empty_hole.await, "not asked for");
    let simple = read_error(|request| request.simple(0));
    assert_protocol(&simple.await, "simple reply");
    let unknown_type = read_error(|request| request.chunk(true, 77, &[1, 2, 3]));
    assert_protocol(&unknown_type.await, "type 77");
    let status = read_error(|request| request.status(1, [(65536, 0)]));
    assert_protocol(&status.await, "asked for none");
    let noise = read_error(|_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    assert_protocol(&noise.await, "magic");
    let long_error = read_error(|request| request.chunk(true, 0x8001, &[1; 5000]));
    assert_protocol(&long_error.await, "5000 bytes");
    let no_error = read_error(|request| request.chunk(true, 0x8001, &[0; 6]));
    assert_protocol(&no_error.await, "without an error");
}

#[tokio::test]
async fn an_answer_twice_is_a_lie() {
    let server = Scripted::start(honest_options(MIB, FLAGS), |request| {
        Reaction::Send([request.hole(true, 0, 4096), request.hole(true, 0, 4096)].concat())
    });
    let disk = server.connect(&[]).await;
    assert_eq!(disk.read(extent(0, 4096)).await.expect("the first answer"), vec![0; 4096]);
    assert_protocol(&disk.read(extent(0, 4096)).await.expect_err("the second"), "answered already");
}

async fn status_error(answer: impl Fn(&Request) -> Vec<u8> + Send + 'static) -> TransportError {
    let server = Scripted::start(honest_options(8 * MIB, FLAGS), move |request| Reaction::Send(answer(&request)));
    let disk = server.connect(&[CONTEXT, "qemu:dirty-bitmap:b"]).await;
    disk.block_status(CONTEXT, extent(4 * MIB, MIB)).await.expect_err("a lie")
}

#[tokio::test]
async fn replies_that_lie_about_blocks() {
    assert_protocol(&status_error(|request| request.status(1, [(0, 0)])).await, "no bytes");
    let past_disk = status_error(|request| request.status(1, [(4 * MIB as u32 + 1, 0)])).await;
    assert_protocol(&past_disk, "end of the disk");
    let after_end = status_error(|request| request.status(1, [(MIB as u32, 0), (512, 1)])).await;
    assert_protocol(&after_end, "after the end");
    assert_protocol(&status_error(|request| request.status(9, [(512, 0)])).await, "not agreed on");
    assert_protocol(&status_error(|request| request.status(2, [(512, 0)])).await, "without block status");
    assert_protocol(&status_error(|request| request.status(1, [])).await, "type 5");
    assert_protocol(&status_error(|request| request.chunk(true, 5, &[0; 13])).await, "13 bytes");
    assert_protocol(&status_error(|request| request.chunk(true, 0, &[])).await, "without block status");
    assert_protocol(&status_error(|request| request.simple(0)).await, "simple reply");
    let claimed = status_error(|request| {
        let mut head = request.chunk(true, 5, &[]);
        head[16..20].copy_from_slice(&0xffff_fffc_u32.to_be_bytes());
        head
    });
    assert_protocol(&claimed.await, "type 5");
}

#[tokio::test]
async fn the_last_run_of_blocks_may_pass_the_question_but_is_cut() {
    let server = Scripted::start(honest_options(8 * MIB, FLAGS), |request| {
        assert_eq!(request.kind, BLOCK_STATUS);
        Reaction::Send(request.status(1, [(512, 1), (2 * MIB as u32, 3)]))
    });
    let disk = server.connect(&[CONTEXT]).await;
    let statuses = disk.block_status(CONTEXT, extent(4 * MIB, MIB)).await.expect("an honest answer");
    let found: Vec<_> = statuses.iter().map(|status| (status.extent, status.flags)).collect();
    assert_eq!(found, [(extent(4 * MIB, 512), 1), (extent(4 * MIB + 512, MIB - 512), 3)]);
    let error = disk.block_status("qemu:dirty-bitmap:none", extent(0, MIB)).await.expect_err("not agreed on");
    assert!(matches!(error, TransportError::Unsupported { .. }), "{error:?}");
    assert!(disk.block_status(CONTEXT, extent(0, MIB)).await.is_ok(), "the connection is still good");
}

#[tokio::test]
async fn one_answer_holds_a_bounded_number_of_runs() {
    let server = Scripted::start(honest_options(1 << 30, FLAGS), |request| {
        Reaction::Send(request.status(1, (0..200_000).map(|index| (512, index % 2))))
    });
    let disk = server.connect(&[CONTEXT]).await;
    let statuses = disk.block_status(CONTEXT, extent(0, 1 << 30)).await.expect("an honest answer");
    assert_eq!(statuses.len(), STATUS_ENTRIES_MAX);
    assert_eq!(statuses.last().expect("many").extent, extent(512 * (STATUS_ENTRIES_MAX as u64 - 1), 512));
}

#[tokio::test]
async fn handshakes_that_lie() {
    async fn connect(option: u32, replies: Vec<(u32, Vec<u8>)>) -> TransportError {
        let mut honest = honest_options(MIB, FLAGS);
        let options = move |asked, data: &[u8]| if asked == option { replies.clone() } else { honest(asked, data) };
        let server = Scripted::start(options, |_| Reaction::Send(Vec::new()));
        server.try_connect(&[CONTEXT]).await.expect_err("a lie")
    }
    let export = |size: u64| (3, [&[0, 0][..], &size.to_be_bytes(), &FLAGS.to_be_bytes()].concat());
    let ack = (1, Vec::new());
    assert_protocol(&connect(7, vec![export(MIB), export(2 * MIB), ack.clone()]).await, "two sizes");
    assert_protocol(&connect(7, vec![export(u64::MAX), ack.clone()]).await, "an export of");
    assert_protocol(&connect(7, vec![ack.clone()]).await, "without telling its size");
    assert_protocol(&connect(7, vec![(3, vec![0])]).await, "too early");
    assert_protocol(&connect(7, vec![(3, vec![0; 17_000])]).await, "17000 bytes");
    assert_protocol(&connect(7, vec![export(MIB); 65]).await, "does not end");
    assert_protocol(&connect(7, vec![(55, Vec::new())]).await, "reply type 55");
    let sizes = |sizes: [u32; 3]| (3, [&[0, 3][..], &sizes.map(u32::to_be_bytes).concat()].concat());
    for lie in [[0, 4096, 4096], [3, 4096, 4096], [1 << 17, 1 << 17, 1 << 20], [512, 100, 1024], [512, 512, 1000]] {
        assert_protocol(&connect(7, vec![export(MIB), sizes(lie), ack.clone()]).await, "block sizes");
    }
    let context = |id: u32, name: &str| (4, [&id.to_be_bytes()[..], name.as_bytes()].concat());
    assert_protocol(&connect(10, vec![context(1, "x:y"), ack.clone()]).await, "not asked for");
    assert_protocol(&connect(10, vec![context(1, CONTEXT), context(2, CONTEXT)]).await, "twice");
    assert_protocol(&connect(8, vec![(3, Vec::new())]).await, "structured replies");

    let refused = connect(7, vec![((1 << 31) | 6, b"no such \x1b[2Jexport".to_vec())]).await;
    assert!(matches!(&refused, TransportError::Open { source, .. } if source.kind() == io::ErrorKind::NotFound));
    assert!(refused.to_string().contains("\\u{1b}[2J"), "{refused}");
    let tls = connect(8, vec![((1 << 31) | 5, Vec::new())]).await;
    assert!(tls.to_string().contains("TLS"), "{tls}");
    let odd_end = connect(7, vec![export(MIB + 1), sizes([512, 512, 1024]), ack]).await;
    assert!(matches!(odd_end, TransportError::Unsupported { .. }), "{odd_end:?}");
}

#[tokio::test]
async fn a_disk_of_another_size_than_known_is_refused() {
    let server = Scripted::start(honest_options(MIB, FLAGS), |_| Reaction::Send(Vec::new()));
    let options = farshore_platform::nbd::NbdOptions { expected_size_bytes: Some(2 * MIB), ..Default::default() };
    let connected = farshore_platform::nbd::NbdDisk::connect(server.endpoint(&[]), options, nbd_support::clock()).await;
    assert_protocol(&connected.expect_err("a disk that shrank"), "must have 2097152");
    let disk = server.connect(&[CONTEXT]).await;
    let first = extents(&disk, CONTEXT, 2 * MIB).next().await.expect("an error");
    assert_protocol(&first.expect_err("a disk that shrank"), "not 2097152");
}

#[tokio::test]
async fn something_else_listens_there() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join("sock");
    let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
    let endpoint = farshore_platform::nbd::NbdEndpoint {
        address: farshore_platform::nbd::NbdAddress::Unix(path),
        export: String::new(),
        read_only: true,
        contexts: Vec::new(),
    };
    let options =
        farshore_platform::nbd::NbdOptions { connect_timeout: Duration::from_millis(200), ..Default::default() };
    let connect = || farshore_platform::nbd::NbdDisk::connect(endpoint.clone(), options, nbd_support::clock());
    let (connected, ()) = tokio::join!(connect(), async {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let greeting = b"220 smtp.example ESMTP ready\r\n";
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, greeting).await;
    });
    assert_protocol(&connected.expect_err("not a server"), "not an NBD server");
    // Accepted by the system, but nobody answers.
    let silent = connect().await.expect_err("silence");
    assert!(matches!(&silent, TransportError::Open { source, .. } if source.kind() == io::ErrorKind::TimedOut));
    drop(listener);
    assert!(matches!(connect().await, Err(TransportError::Open { .. })), "nothing listens");
}

#[tokio::test]
async fn a_silent_server_and_one_that_hangs_up_are_lost() {
    let server = Scripted::start(honest_options(MIB, FLAGS), |request| match request.offset {
        0 => Reaction::Send(Vec::new()),
        offset => Reaction::SendAndHangUp(request.data(true, offset, &[1; 512])[..100].to_vec()),
    });
    let disk = server.connect(&[]).await;
    let (silent, other) = tokio::join!(disk.read(extent(0, 512)), disk.read(extent(0, 4096)));
    for error in [silent.expect_err("silence"), other.expect_err("silence")] {
        let timed_out =
            matches!(&error, TransportError::Lost { source, .. } if source.kind() == io::ErrorKind::TimedOut);
        assert!(timed_out, "{error:?}");
    }
    let disk = server.connect(&[]).await;
    let error = disk.read(extent(4096, 512)).await.expect_err("half an answer");
    assert!(error.to_string().contains("hung up"), "{error}");
    assert!(error.is_lost());
}

#[tokio::test]
async fn a_dropped_call_leaves_the_connection_usable() {
    // The first read is answered only when the second arrives, after its caller gave up.
    let mut held: Option<Request> = None;
    let server = Scripted::start(honest_options(MIB, FLAGS), move |request| match held.take() {
        None if request.offset == 0 => {
            held = Some(request);
            Reaction::Send(Vec::new())
        }
        late => {
            let late = late.map(|late| late.data(true, 0, &[9; 65536]));
            let answer = request.data(true, request.offset, &pattern(request.offset, request.length as usize));
            Reaction::Send([late.unwrap_or_default(), answer].concat())
        }
    });
    let disk = server.connect(&[]).await;
    for _ in 0..40 {
        // More often than there are permits: a dropped call gives its permit back once its reply came.
        let given_up = tokio::select! {
            biased;
            result = disk.read(extent(0, 65536)) => Some(result),
            () = tokio::task::yield_now() => None,
        };
        assert!(given_up.is_none());
        let read = disk.read(extent(4096, 4096)).await.expect("the connection is whole");
        assert_eq!(read, pattern(4096, 4096));
    }
    disk.close().await.expect("nothing is owed");
    assert!(matches!(disk.read(extent(0, 1)).await, Err(TransportError::Lost { .. })), "it was closed");
}

#[tokio::test]
async fn a_server_from_before_structured_replies_is_served() {
    // It knows NBD_OPT_EXPORT_NAME only, answers with simple replies, and cannot write zeros.
    let options = |option, _data: &[u8]| match option {
        1 => vec![(0, [&MIB.to_be_bytes()[..], &FLAGS.to_be_bytes()].concat())],
        _ => vec![((1 << 31) | 1, Vec::new())],
    };
    let mut stored = pattern(0, MIB as usize);
    let server = Scripted::start(options, move |request| {
        let range = request.offset as usize..request.offset as usize + request.length as usize;
        let mut reply = request.simple(0);
        match request.kind {
            READ if request.offset == 512 => reply = request.simple(5),
            READ => reply.extend_from_slice(&stored[range]),
            WRITE => stored[range].copy_from_slice(&request.data),
            _ => {}
        }
        Reaction::Send(reply)
    });
    let disk = server.connect(&[CONTEXT]).await;
    assert_eq!(disk.size_bytes(), MIB);
    assert_eq!(disk.contexts().count(), 0);
    assert_eq!(disk.read(extent(1000, 5000)).await.expect("bytes"), pattern(1000, 5000));
    disk.write(2000, Bytes::from_static(b"written")).await.expect("a write");
    disk.write_zeroes(extent(3000, 100)).await.expect("zeros that are sent");
    disk.flush().await.expect("a flush");
    let mut expected = pattern(1000, 5000);
    expected[1000..1007].copy_from_slice(b"written");
    expected[2000..2100].fill(0);
    assert_eq!(disk.read(extent(1000, 5000)).await.expect("bytes"), expected);
    let error = disk.read(extent(512, 512)).await.expect_err("EIO");
    assert!(matches!(error, TransportError::Request { operation: "read", .. }) && !error.is_lost());
    let error = disk.block_status(CONTEXT, extent(0, MIB)).await.expect_err("no contexts");
    assert!(matches!(error, TransportError::Unsupported { .. }));
}

#[tokio::test]
async fn what_is_outside_the_disk_is_not_sent() {
    let server = Scripted::start(honest_options(MIB, FLAGS), |request| panic!("{request:?}"));
    let disk = server.connect(&[CONTEXT]).await;
    for wrong in [extent(MIB, 1), extent(0, MIB + 1), extent(u64::MAX, 2), extent(5, 0)] {
        assert!(matches!(disk.read(wrong).await, Err(TransportError::Unsupported { .. })), "{wrong:?}");
        assert!(matches!(disk.write_zeroes(wrong).await, Err(TransportError::Unsupported { .. })), "{wrong:?}");
        let status = disk.block_status(CONTEXT, wrong).await;
        assert!(matches!(status, Err(TransportError::Unsupported { .. })), "{wrong:?}");
    }
    let past_end = disk.write(MIB - 3, Bytes::from_static(b"four")).await;
    assert!(matches!(past_end, Err(TransportError::Unsupported { .. })));
}

#[tokio::test]
async fn requests_in_flight_are_bounded_and_side_by_side() {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::<Request>::new()));
    let requests = std::sync::Arc::clone(&seen);
    // Answers nothing until 16 have come, then all of them, last first.
    let server = Scripted::start(honest_options(MIB, FLAGS), move |request| {
        let mut seen = seen.lock().expect("a test's lock");
        seen.push(request);
        if !seen.len().is_multiple_of(16) {
            return Reaction::Send(Vec::new());
        }
        let last = seen.iter().rev().take(16);
        Reaction::Send(
            last.flat_map(|request| request.data(true, request.offset, &pattern(request.offset, 512))).collect(),
        )
    });
    let disk = server.connect(&[]).await;
    let reads = (0..64_u64).map(|index| {
        let disk = &disk;
        async move { (index, disk.read(extent(index * 1024, 512)).await) }
    });
    for (index, read) in futures::future::join_all(reads).await {
        assert_eq!(read.expect("bytes"), pattern(index * 1024, 512));
    }
    assert_eq!(requests.lock().expect("a test's lock").len(), 64);
}
