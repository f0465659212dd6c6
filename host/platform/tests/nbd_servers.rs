//! The client against the servers that people run: `qemu-nbd` and `nbdkit`.

#![allow(clippy::disallowed_methods, reason = "tests measure real servers")]

mod nbd_support;

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use farshore_core::Extent;
use farshore_platform::{
    DiskTransport, TransportError, extents,
    nbd::{NbdDisk, NbdOptions, REQUESTS_IN_FLIGHT_MAX},
};
use futures::{StreamExt, TryStreamExt};
use nbd_support::{MIB, Server, clock, extent, nbdkit, pattern, qemu_nbd, run, text};
use tempfile::TempDir;

const ALLOCATION: &str = "base:allocation";

/// A sparse raw image of 32 MiB with data at 1 MiB and at 20 MiB.
fn sparse_image(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("disk.raw");
    let file = File::create(&path).expect("a new file");
    file.set_len(32 * MIB).expect("room for nothing");
    for offset in [MIB, 20 * MIB] {
        file.write_all_at(&pattern(offset, 3 << 20), offset).expect("room for 3 MiB");
    }
    path
}

async fn walk(disk: &NbdDisk, context: &str) -> Vec<(Extent, u32)> {
    let walk = extents(disk, context, disk.size_bytes());
    walk.map_ok(|status| (status.extent, status.flags)).try_collect().await.expect("an honest server")
}

/// Reads the whole disk with many unequal reads side by side.
async fn read_all(disk: &NbdDisk) -> Vec<u8> {
    let mut extents = Vec::new();
    let mut offset = 0;
    while offset < disk.size_bytes() {
        let length = (1 + offset % 700_001 + 17 * (offset % 4099)).min(disk.size_bytes() - offset);
        extents.push(extent(offset, length));
        offset += length;
    }
    let reads = extents.into_iter().map(|extent| disk.read(extent));
    let parts: Vec<Bytes> = futures::stream::iter(reads).buffered(64).try_collect().await.expect("bytes");
    parts.concat()
}

#[tokio::test]
async fn parallel_reads_are_the_bytes_of_the_file() {
    let folder = TempDir::new().expect("a folder");
    let image = sparse_image(&folder);
    let expected = std::fs::read(&image).expect("the image");
    let qemu = qemu_nbd(&folder, &["-r", "-f", "raw", "-x", "disk", text(&image)]);
    let disk = qemu.connect("disk", true, &[ALLOCATION]).await;
    assert!(read_all(&disk).await == expected, "qemu-nbd");
    assert!(matches!(disk.write(0, Bytes::from_static(&[1; 512])).await, Err(TransportError::Unsupported { .. })));
    disk.close().await.expect("an orderly end");
    drop(qemu);
    for arguments in [vec![], vec!["--no-sr"]] {
        let kit = nbdkit(&folder, &[&arguments[..], &["-r", "file", text(&image)]].concat());
        let disk = kit.connect("", true, &[ALLOCATION]).await;
        assert!(read_all(&disk).await == expected, "nbdkit {arguments:?}");
        disk.close().await.expect("an orderly end");
    }
}

#[tokio::test]
async fn allocation_and_dirty_bitmap_are_told() {
    let folder = TempDir::new().expect("a folder");
    let image = folder.path().join("disk.qcow2");
    let image = text(&image);
    run("qemu-img", &["create", "-q", "-f", "qcow2", image, "64M"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -q -P 1 4M 1M", image]);
    run("qemu-img", &["bitmap", "--add", "--enable", "-g", "65536", image, "since"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -q -P 2 8M 2M", "-c", "write -q -P 3 63M 512", image]);
    let server = qemu_nbd(&folder, &["-r", "-f", "qcow2", "-B", "since", image]);
    let bitmap = "qemu:dirty-bitmap:since";
    let disk = server.connect("", true, &[ALLOCATION, bitmap, "qemu:dirty-bitmap:none"]).await;
    let mut contexts: Vec<&str> = disk.contexts().collect();
    contexts.sort_unstable();
    assert_eq!(contexts, [ALLOCATION, bitmap], "a context that the server lacks is left out");

    let expected = [
        (extent(0, 8 * MIB), 0),
        (extent(8 * MIB, 2 * MIB), 1),
        (extent(10 * MIB, 53 * MIB), 0),
        (extent(63 * MIB, 65536), 1),
        (extent(63 * MIB + 65536, MIB - 65536), 0),
    ];
    assert_eq!(walk(&disk, bitmap).await, expected);
    let data: Vec<Extent> = walk(&disk, ALLOCATION)
        .await
        .into_iter()
        .filter(|(_, flags)| flags & 2 == 0)
        .map(|(extent, _)| extent)
        .collect();
    assert_eq!(data, [extent(4 * MIB, MIB), extent(8 * MIB, 2 * MIB), extent(63 * MIB, 65536)]);
    let missing = disk.block_status("qemu:dirty-bitmap:none", extent(0, MIB)).await;
    assert!(matches!(missing, Err(TransportError::Unsupported { .. })));
}

#[tokio::test]
async fn what_is_written_zeroed_and_flushed_is_there() {
    let folder = TempDir::new().expect("a folder");
    let expected = sparse_image(&folder);
    let image = folder.path().join("target.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", text(&image), "32M"]);
    let mut server = qemu_nbd(&folder, &["-f", "qcow2", text(&image)]);
    let disk = server.connect("", false, &[]).await;
    let writes = [MIB, 20 * MIB].into_iter().flat_map(|start| (0..3).map(move |index| start + index * MIB));
    let writes = writes.map(|offset| disk.write(offset, pattern(offset, 1 << 20).into()));
    futures::future::try_join_all(writes).await.expect("writes side by side");
    disk.write(10 * MIB + 1, Bytes::from(vec![7; 100_000])).await.expect("an unaligned write");
    disk.write_zeroes(extent(10 * MIB, 2 * MIB)).await.expect("zeros");
    disk.flush().await.expect("a flush");
    // Killed, not asked to end: what was flushed is there all the same.
    server.kill();
    run("qemu-img", &["compare", "-q", "-f", "raw", "-F", "qcow2", text(&expected), text(&image)]);
    let lost = disk.flush().await.expect_err("the server is gone");
    assert!(lost.is_lost(), "{lost:?}");
}

#[tokio::test]
async fn zeros_reach_a_server_that_cannot_make_them() {
    let folder = TempDir::new().expect("a folder");
    let server = nbdkit(&folder, &["--filter=nozero", "memory", "8M"]);
    let disk = server.connect("", false, &[]).await;
    disk.write(0, pattern(0, 4 << 20).into()).await.expect("a write");
    disk.write_zeroes(extent(1000, 3 * MIB)).await.expect("zeros that are sent");
    let mut expected = pattern(0, 4 << 20);
    expected[1000..1000 + (3 << 20)].fill(0);
    assert!(disk.read(extent(0, 4 * MIB)).await.expect("bytes") == expected);
}

#[tokio::test]
async fn a_failed_request_fails_alone() {
    let folder = TempDir::new().expect("a folder");
    let errors = ["--filter=error", "memory", "8M", "error-pwrite=ENOSPC", "error-pwrite-rate=1"];
    let more = ["error-zero=ENOSPC", "error-zero-rate=1", "error-extents=EIO", "error-extents-rate=1"];
    let server = nbdkit(&folder, &[&errors[..], &more].concat());
    let disk = server.connect("", false, &[ALLOCATION]).await;
    let error = disk.write(4096, Bytes::from_static(&[1; 512])).await.expect_err("ENOSPC");
    assert!(matches!(error, TransportError::NoSpace { extent: Extent { offset: 4096, length: 512 }, .. }), "{error:?}");
    let error = disk.write_zeroes(extent(0, MIB)).await.expect_err("ENOSPC");
    assert!(matches!(error, TransportError::NoSpace { .. }), "{error:?}");
    let error = disk.block_status(ALLOCATION, extent(0, MIB)).await.expect_err("EIO");
    assert!(matches!(error, TransportError::Request { operation: "ask about", .. }), "{error:?}");
    assert_eq!(disk.read(extent(0, MIB)).await.expect("reads go on"), vec![0; 1 << 20]);
    drop(disk);
    drop(server);

    let server = nbdkit(&folder, &["--filter=error", "memory", "8M", "error-pread=EIO", "error-pread-rate=1"]);
    let disk = server.connect("", false, &[]).await;
    let reads = (0..40).map(|index| disk.read(extent(index * 4096, 4096)));
    for result in futures::future::join_all(reads).await {
        let error = result.expect_err("EIO");
        let io = matches!(&error, TransportError::Request { source, .. } if source.raw_os_error() == Some(5));
        assert!(io && !error.is_lost(), "{error:?}");
    }
    disk.write(0, Bytes::from_static(&[1; 512])).await.expect("writes go on");
}

#[tokio::test]
async fn requests_travel_side_by_side() {
    let folder = TempDir::new().expect("a folder");
    let server = nbdkit(&folder, &["--filter=delay", "memory", "64M", "rdelay=300ms"]);
    let disk = server.connect("", true, &[]).await;
    let started = Instant::now();
    let reads = (0..REQUESTS_IN_FLIGHT_MAX as u64).map(|index| disk.read(extent(index * MIB, MIB)));
    futures::future::try_join_all(reads).await.expect("bytes");
    let elapsed = started.elapsed();
    assert!(elapsed >= Duration::from_millis(300), "{elapsed:?}");
    assert!(elapsed < Duration::from_millis(1500), "one after another would take 4.8 s: {elapsed:?}");
}

#[tokio::test]
async fn a_large_sparse_disk_over_tcp() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = port.expect("a free port").port();
    let arguments = ["-f", "-i", "127.0.0.1", "-p", &port.to_string(), "memory", "1T"];
    let server = Server::start_tcp("nbdkit", &arguments, port);
    let disk = server.connect("", false, &[ALLOCATION]).await;
    assert_eq!(disk.size_bytes(), 1 << 40);
    // Across the bounds of questions (2 GiB), and at both ends.
    let offsets = [0, (2 << 30) - MIB, 700 << 30, (1 << 40) - 2 * MIB];
    for offset in offsets {
        disk.write(offset, pattern(offset, 2 << 20).into()).await.expect("a write");
    }
    let walked = walk(&disk, ALLOCATION).await;
    let data: Vec<Extent> = walked.iter().filter(|(_, flags)| flags & 2 == 0).map(|(extent, _)| *extent).collect();
    assert_eq!(data, offsets.map(|offset| extent(offset, 2 * MIB)));
    assert_eq!(walked.len(), 7, "neighbours are joined across questions");
    for offset in offsets {
        assert!(disk.read(extent(offset, 2 * MIB)).await.expect("bytes") == pattern(offset, 2 << 20));
    }
}

#[tokio::test]
async fn block_sizes_are_kept() {
    let folder = TempDir::new().expect("a folder");
    let sizes = ["blocksize-minimum=4096", "blocksize-preferred=65536", "blocksize-maximum=1M"];
    let policy = ["--filter=blocksize-policy", "memory", "64M", "blocksize-error-policy=error"];
    let server = nbdkit(&folder, &[&policy[..], &sizes].concat());
    let disk = server.connect("", false, &[ALLOCATION]).await;
    assert_eq!(disk.block_sizes().minimum, 4096);
    // Larger than the server takes at once, and it would refuse what is not whole blocks.
    disk.write(MIB, pattern(MIB, 4 << 20).into()).await.expect("a write in pieces");
    let read = disk.read(extent(MIB + 1234, 3_000_001)).await.expect("a widened read in pieces");
    assert!(read == pattern(MIB + 1234, 3_000_001));
    let statuses = disk.block_status(ALLOCATION, extent(MIB + 1, 2 * MIB)).await.expect("a widened question");
    assert_eq!(statuses.first().expect("an answer").extent.offset, MIB + 1);
    disk.write_zeroes(extent(0, 64 * MIB)).await.expect("zeros in pieces");
    let error = disk.write(1, Bytes::from_static(&[1; 512])).await.expect_err("half a block");
    assert!(matches!(&error, TransportError::Unsupported { what, .. } if what.contains("4096")), "{error:?}");
}

#[tokio::test]
async fn exports_that_cannot_be_opened_say_why() {
    let folder = TempDir::new().expect("a folder");
    let image = sparse_image(&folder);
    let server = qemu_nbd(&folder, &["-r", "-f", "raw", "-x", "disk", text(&image)]);
    let connect = |export: &'static str, read_only| {
        NbdDisk::connect(server.endpoint(export, read_only, &[ALLOCATION]), NbdOptions::default(), clock())
    };
    let unknown = connect("other", true).await.expect_err("no such export");
    let not_found =
        matches!(&unknown, TransportError::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound);
    assert!(not_found, "{unknown:?}");
    let read_only = connect("disk", false).await.expect_err("offered for reading");
    assert!(read_only.to_string().contains("only for reading"), "{read_only}");
    drop(server);

    let server = nbdkit(&folder, &["--mask-handshake=0", "memory", "1M"]);
    let old = NbdDisk::connect(server.endpoint("", true, &[]), NbdOptions::default(), clock()).await;
    assert!(matches!(old, Err(TransportError::Unsupported { .. })), "{old:?}");
}

#[tokio::test]
async fn a_server_that_is_killed_is_lost_at_once() {
    let folder = TempDir::new().expect("a folder");
    let mut server = nbdkit(&folder, &["--filter=delay", "memory", "64M", "rdelay=60"]);
    let disk = server.connect("", true, &[]).await;
    let started = Instant::now();
    let read = disk.read(extent(0, MIB));
    let kill = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.kill();
    };
    let (result, ()) = tokio::join!(read, kill);
    let error = result.expect_err("the server is gone");
    assert!(matches!(error, TransportError::Lost { .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(disk.read(extent(0, MIB)).await.expect_err("still gone").is_lost());
}
