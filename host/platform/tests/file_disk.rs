//! Disks that are files.

use std::{fs::File, os::unix::fs::FileExt, os::unix::fs::MetadataExt, path::PathBuf};

use bytes::Bytes;
use farshore_core::{Coded, Extent};
use farshore_platform::{
    DiskTransport, TransportError, extents,
    file::{ALLOCATION_CONTEXT, FileDisk, FileOptions},
};
use futures::TryStreamExt;
use tempfile::TempDir;

const MIB: u64 = 1024 * 1024;

const fn extent(offset: u64, length: u64) -> Extent {
    Extent { offset, length }
}

/// A sparse file of 8 MiB and an odd byte, with data in its third and its last MiB.
fn image(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("disk.raw");
    let file = File::create(&path).expect("a new file");
    file.set_len(8 * MIB + 1).expect("room for nothing");
    file.write_all_at(&[3; 1 << 20], 2 * MIB).expect("room");
    file.write_all_at(&[7; (1 << 20) + 1], 7 * MIB).expect("room");
    path
}

async fn open(path: &std::path::Path, read_only: bool) -> FileDisk {
    FileDisk::open(path, read_only, FileOptions::default()).await.expect("an image")
}

async fn walk(disk: &FileDisk) -> Vec<(Extent, u32)> {
    let walk = extents(disk, ALLOCATION_CONTEXT, disk.size_bytes());
    walk.map_ok(|status| (status.extent, status.flags)).try_collect().await.expect("a file")
}

#[tokio::test]
async fn bytes_and_holes_of_a_file() {
    let folder = TempDir::new().expect("a folder");
    let path = image(&folder);
    let disk = open(&path, true).await;
    assert_eq!(disk.size_bytes(), 8 * MIB + 1);
    let whole = std::fs::read(&path).expect("the image");
    let reads = (0..8).map(|index| disk.read(extent(index * MIB, MIB + 1)));
    for (index, read) in futures::future::try_join_all(reads).await.expect("bytes").into_iter().enumerate() {
        assert!(read == whole[index << 20..((index + 1) << 20) + 1]);
    }
    let expected = [
        (extent(0, 2 * MIB), 3),
        (extent(2 * MIB, MIB), 0),
        (extent(3 * MIB, 4 * MIB), 3),
        (extent(7 * MIB, MIB + 1), 0),
    ];
    assert_eq!(walk(&disk).await, expected);
    let part = disk.block_status(ALLOCATION_CONTEXT, extent(2 * MIB + 5, 10)).await.expect("a part of the data");
    assert_eq!(part.first().expect("an entry").extent, extent(2 * MIB + 5, 10));
    let other = disk.block_status("qemu:dirty-bitmap:b", extent(0, 1)).await;
    assert!(matches!(other, Err(TransportError::Unsupported { .. })));
    assert!(matches!(disk.write(0, Bytes::from_static(b"x")).await, Err(TransportError::Unsupported { .. })));
    disk.flush().await.expect("nothing to do");
}

#[tokio::test]
async fn zeros_become_holes() {
    let folder = TempDir::new().expect("a folder");
    let path = image(&folder);
    let blocks = || std::fs::metadata(&path).expect("the image").blocks();
    let disk = open(&path, false).await;
    let before = blocks();
    disk.write(5 * MIB, Bytes::from(vec![9; 1 << 20])).await.expect("a write");
    disk.write_zeroes(extent(2 * MIB + 10, 3 * MIB + 90)).await.expect("zeros");
    disk.flush().await.expect("a flush");
    let mut expected = vec![0; (8 << 20) + 1];
    expected[2 << 20..(2 << 20) + 10].fill(3);
    expected[(5 << 20) + 100..6 << 20].fill(9);
    expected[7 << 20..].fill(7);
    assert!(std::fs::read(&path).expect("the image") == expected);
    assert!(blocks() <= before + 16, "what was zeroed is not stored: {} blocks after {before}", blocks());
    assert_eq!(disk.size_bytes(), 8 * MIB + 1);
}

#[tokio::test]
async fn refusals() {
    let folder = TempDir::new().expect("a folder");
    let path = image(&folder);
    let open_as = |path: PathBuf, options| FileDisk::open(path, false, options);
    let missing = open_as(folder.path().join("none"), FileOptions::default()).await.expect_err("no file");
    assert_eq!(missing.code().to_string(), "FS3101");
    let a_folder = FileDisk::open(folder.path(), true, FileOptions::default()).await;
    assert!(matches!(a_folder, Err(TransportError::Unsupported { .. })), "{a_folder:?}");
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a FIFO");
    // Opening must not wait for a writer.
    let a_fifo = FileDisk::open(&fifo, true, FileOptions::default()).await;
    assert!(matches!(a_fifo, Err(TransportError::Unsupported { .. })), "{a_fifo:?}");
    let shrunk = FileOptions { expected_size_bytes: Some(9 * MIB), ..FileOptions::default() };
    assert!(matches!(open_as(path.clone(), shrunk).await, Err(TransportError::Protocol { .. })));

    let disk = open(&path, false).await;
    for wrong in [extent(0, 0), extent(8 * MIB, 2), extent(u64::MAX, 1), extent(0, 4 * MIB + 1)] {
        assert!(matches!(disk.read(wrong).await, Err(TransportError::Unsupported { .. })), "{wrong:?}");
    }
    File::options().write(true).open(&path).and_then(|file| file.set_len(MIB)).expect("a file cut short");
    let error = disk.read(extent(2 * MIB, MIB)).await.expect_err("bytes that are gone");
    assert!(matches!(error, TransportError::Protocol { .. }), "{error:?}");
    disk.close().await.expect("nothing in flight");
    assert!(matches!(disk.read(extent(0, 1)).await, Err(TransportError::Lost { .. })));
    disk.close().await.expect("closed already");
}
