//! What the spool promises: what waits is what was given, or is refused; no limit is passed; nothing is left of what was given up.

use std::{fs, path::PathBuf, sync::Arc};

use bytes::Bytes;
use farshore_core::{
    Basis, CaptureId, Coded as _, Consistency, DiskId, Firmware, GroupName, Instant, LineageId, Machine, MachineId,
    Passphrase, PowerState, SiteName, SystemClock, SystemEntropy, Timestamp, VaultId,
};
use farshore_vault::{
    Address, Context, CreateOptions, KdfParameters, PointDetails, PointDiskDraft, PointMachineDraft, Store,
    StoreOptions, Vault, WaitingSealer, Workers,
};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::{Spool, SpoolError, SpoolRoom, SpooledBytes, SpooledDisk, SpooledPoint, Waiting};

const VAULT: VaultId = VaultId::from_bytes([1; 16]);
const DISK_BYTES: u64 = 1 << 20;

/// A sealer of a lineage of a new vault in memory.
async fn sealer(vault: &str, group: &str) -> (LineageId, WaitingSealer) {
    let address: Address = format!("memory:{vault}").parse().expect("an address");
    let store = Store::open(&address, &StoreOptions::default()).expect("a store");
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    let context = Context { clock, entropy, workers: Workers::inline() };
    let options = CreateOptions { kdf: KdfParameters::FLOOR };
    let draft = Vault::draft(store, &Passphrase::new("correct horse"), options, context).await.expect("a draft");
    let vault = draft.create().await.expect("a vault");
    let (group, site) = (GroupName::new(group).expect("a name"), SiteName::new("production").expect("a name"));
    let lineage = vault.create_lineage(&group, &site).await.expect("a lineage");
    (lineage.id(), lineage.waiting_sealer().expect("the keys of an administrator"))
}

fn point(number: u8) -> SpooledPoint {
    let (machine, disk) = (MachineId::new("web").expect("a name"), DiskId::new("vda").expect("a name"));
    let details = PointDetails {
        capture: Some(CaptureId::from_bytes([number; 16])),
        captured_at: Timestamp::from_unix_milliseconds(1_790_000_000_000 + i64::from(number)),
        instant: Instant::Group,
        consistency: Consistency::Crash,
        machines: vec![PointMachineDraft {
            machine: Machine {
                id: machine.clone(),
                name: "web".to_owned(),
                cpus: 1,
                memory_bytes: 1 << 28,
                firmware: Firmware::Bios,
                power: PowerState::Running,
                disks: Vec::new(),
                network_interfaces: Vec::new(),
                properties: std::collections::BTreeMap::new(),
            },
            disks: vec![PointDiskDraft {
                disk: disk.clone(),
                basis: Basis::Tracked,
                tracking_token: Some(format!("token-{number}")),
            }],
        }],
        suspended: Vec::new(),
        label: None,
        note: String::new(),
    };
    SpooledPoint {
        after: CaptureId::from_bytes([number.wrapping_sub(1); 16]),
        site: SiteName::new("production").expect("a name"),
        suspended: vec![crate::SuspendedDisk {
            machine: MachineId::new("cache").expect("a name"),
            disk: DiskId::new("vda").expect("a name"),
            size_bytes: 1 << 20,
            tracking_token: None,
            captured_at: Timestamp::from_unix_milliseconds(7),
        }],
        details,
        disks: vec![SpooledDisk { machine, disk, size_bytes: DISK_BYTES }],
        read_bytes: u64::from(number),
        held_microseconds: 7,
    }
}

struct Scene {
    folder: TempDir,
    room: Arc<SpoolRoom>,
    lineage: LineageId,
    sealer: WaitingSealer,
}

impl Scene {
    async fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let room = SpoolRoom::open(folder.path().join("spool"), 1 << 30).expect("room");
        let (lineage, sealer) = sealer(name, "orders").await;
        Self { folder, room, lineage, sealer }
    }

    fn spool(&self) -> Spool {
        Spool::open(&self.room, VAULT, self.lineage, self.sealer.clone()).expect("a spool")
    }

    async fn add(&self, spool: &mut Spool, number: u8, bytes: &[(u64, Bytes)]) -> Waiting {
        let writer = spool.begin().expect("room");
        for (offset, data) in bytes {
            writer.write(0, *offset, data.clone()).await.expect("room");
        }
        spool.finish(writer, point(number)).await.expect("room")
    }

    fn file(&self, number: u64) -> PathBuf {
        let folder = self.room.folder().join(VAULT.to_string()).join(self.lineage.to_string());
        folder.join(format!("{number:020}.point"))
    }

    fn files(&self) -> usize {
        let folder = self.file(1);
        fs::read_dir(folder.parent().expect("a folder")).map_or(0, Iterator::count)
    }
}

fn read(spool: &Spool, waiting: Waiting) -> Result<Vec<SpooledBytes>, SpoolError> {
    let mut reader = spool.read(waiting)?;
    let mut all = Vec::new();
    while let Some(bytes) = reader.next_bytes()? {
        all.push(bytes);
    }
    Ok(all)
}

fn noise(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

#[tokio::test]
async fn what_waits_is_what_was_given_also_after_a_restart() {
    let scene = Scene::new("given").await;
    let mut spool = scene.spool();
    assert!(spool.is_empty() && spool.newest().expect("nothing").is_none());
    let given = [(0, noise(1, 65_536)), (131_072, Bytes::from(vec![0; 65_536]))];
    let first = scene.add(&mut spool, 1, &given).await;
    let second = scene.add(&mut spool, 2, &[]).await;
    let abandoned = spool.begin().expect("room");
    abandoned.write(0, 0, noise(3, 4_096)).await.expect("room");
    // As a crash leaves it: the writer's clean-up does not run.
    std::mem::forget(abandoned);
    assert_eq!(scene.files(), 3);

    let room = SpoolRoom::open(scene.room.folder().to_owned(), 1 << 30).expect("room");
    let again = Spool::open(&room, VAULT, scene.lineage, scene.sealer.clone()).expect("a spool");
    assert_eq!(scene.files(), 2, "what was not finished is gone");
    assert_eq!(again.waiting().collect::<Vec<_>>(), [first, second]);
    assert_eq!((again.bytes(), room.used_bytes()), (first.bytes + second.bytes, first.bytes + second.bytes));
    assert_eq!(*again.read(first).expect("whole").point(), point(1));
    assert_eq!(again.newest().expect("whole"), Some(point(2)));
    let expected: Vec<_> = given.into_iter().map(|(offset, data)| SpooledBytes { disk: 0, offset, data }).collect();
    assert_eq!(read(&again, first).expect("whole"), expected);
    assert_eq!(read(&again, second).expect("whole"), []);
}

#[tokio::test]
async fn nothing_that_a_disk_holds_lies_in_clear() {
    let scene = Scene::new("clear").await;
    let mut spool = scene.spool();
    let secret = b"the name of the patient is Ada Lovelace".repeat(4);
    scene.add(&mut spool, 1, &[(0, Bytes::from(secret))]).await;
    let bytes = fs::read(scene.file(1)).expect("the file");
    for clear in [b"Ada Lovelace".as_slice(), b"production", b"token-1", b"vda"] {
        assert!(!bytes.windows(clear.len()).any(|window| window == clear), "{:?}", String::from_utf8_lossy(clear));
    }
    let (_, other) = sealer("clear-other", "orders").await;
    let stranger = Spool::open(&scene.room, VAULT, scene.lineage, other).expect("a listing");
    let error = stranger.newest().expect_err("another vault's keys");
    assert_eq!(error.code().to_string(), "FS6402");
}

#[tokio::test]
async fn no_limit_is_passed_and_what_is_given_up_takes_no_room() {
    let scene = Scene::new("limit").await;
    let mut spool = scene.spool();
    let first = scene.add(&mut spool, 1, &[(0, noise(1, 65_536))]).await;
    scene.room.limit(first.bytes * 2);
    let writer = spool.begin().expect("room for a header");
    writer.write(0, 0, noise(2, 65_536)).await.expect("room");
    let error = writer.write(0, 65_536, noise(3, 65_536)).await.expect_err("no room");
    assert_eq!(error.code().to_string(), "FS6401", "{error}");
    assert!(writer.write(0, 0, Bytes::from_static(b"x")).await.is_err(), "what lacks a part takes no other");
    assert!(spool.finish(writer, point(2)).await.is_err(), "what lacks a part is not finished");
    assert_eq!((scene.files(), scene.room.used_bytes()), (1, first.bytes));
    assert_eq!(spool.waiting().len(), 1);

    // Of its last part too, and the place is free for another.
    let writer = spool.begin().expect("room for a header");
    scene.room.limit(first.bytes + writer.bytes());
    assert!(matches!(spool.finish(writer, point(2)).await, Err(SpoolError::Full { .. })));
    assert_eq!((scene.files(), scene.room.used_bytes()), (1, first.bytes));
    scene.room.limit(1 << 30);
    let second = scene.add(&mut spool, 2, &[]).await;
    assert_eq!(second.number, 2);
    spool.remove_to(first).expect("removed");
    assert_eq!((spool.waiting().collect::<Vec<_>>(), scene.room.used_bytes()), (vec![second], second.bytes));
    let third = scene.add(&mut spool, 3, &[]).await;
    spool.remove_from(second).expect("removed");
    assert_eq!((spool.is_empty(), third.number, scene.room.used_bytes(), scene.files()), (true, 3, 0, 0));
    drop(scene.folder);
}

/// Every byte of a file counts: whatever is changed or cut, what is read is what was given or an error that names the file.
#[tokio::test]
async fn a_file_that_is_not_what_was_written_is_refused() {
    let scene = Scene::new("damage").await;
    let mut spool = scene.spool();
    let given = [(0, noise(1, 3_000)), (65_536, noise(2, 100))];
    let first = scene.add(&mut spool, 1, &given).await;
    scene.add(&mut spool, 2, &given).await;
    let (whole, other) = (fs::read(scene.file(1)).expect("a file"), fs::read(scene.file(2)).expect("a file"));
    let mut variants: Vec<Vec<u8>> = (0..whole.len()).step_by(7).map(|length| whole[..length].to_vec()).collect();
    variants.extend((0..whole.len()).step_by(5).map(|at| {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        changed
    }));
    variants.push([&whole[..], &[0]].concat());
    variants.push([&whole[..28], &other[28..]].concat());
    // Two parts change places.
    let length = u32::from_le_bytes(whole[28..32].try_into().expect("four bytes")) as usize + 4;
    let next = u32::from_le_bytes(whole[28 + length..32 + length].try_into().expect("four bytes")) as usize + 4;
    let (one, two) = (&whole[28..28 + length], &whole[28 + length..28 + length + next]);
    variants.push([&whole[..28], two, one, &whole[28 + length + next..]].concat());
    for (index, variant) in variants.iter().enumerate() {
        fs::write(scene.file(1), variant).expect("written");
        let error = read(&spool, first).expect_err("damaged");
        let is_named = match &error {
            // Who changes the version in the header claims another.
            SpoolError::OtherVersion { path, .. } => *path == scene.file(1) && variant[8..12] != whole[8..12],
            SpoolError::Damaged { path, .. } => *path == scene.file(1),
            _ => false,
        };
        assert!(is_named, "{index}: {error}");
    }
    fs::write(scene.file(1), &whole).expect("written");
    assert_eq!(read(&spool, first).expect("whole").len(), 2);
}

/// An operator makes room by hand, or another process does.
#[tokio::test]
async fn what_others_removed_is_no_room_that_is_taken() {
    let scene = Scene::new("others").await;
    let mut spool = scene.spool();
    let first = scene.add(&mut spool, 1, &[(0, noise(1, 65_536))]).await;
    scene.room.limit(first.bytes + 100);
    let writer = spool.begin().expect("room for a header");
    assert!(writer.write(0, 0, noise(2, 65_536)).await.is_err());
    drop(writer);
    fs::remove_file(scene.file(1)).expect("removed");
    let again = scene.add(&mut scene.spool(), 2, &[(0, noise(2, 65_536))]).await;
    assert_eq!(scene.room.used_bytes(), again.bytes);
}

#[tokio::test]
async fn what_another_version_wrote_is_left_alone() {
    let scene = Scene::new("version").await;
    let mut spool = scene.spool();
    let first = scene.add(&mut spool, 1, &[]).await;
    let mut bytes = fs::read(scene.file(1)).expect("a file");
    bytes[8] = 2;
    fs::write(scene.file(1), bytes).expect("written");
    assert_eq!(read(&spool, first).expect_err("another version").code().to_string(), "FS6403");
    assert_eq!(scene.spool().waiting().len(), 1);
}

#[tokio::test]
async fn writes_side_by_side_are_all_there() {
    let scene = Scene::new("beside").await;
    let mut spool = scene.spool();
    let writer = spool.begin().expect("room");
    let writes = (0..16u64).map(|at| writer.write(0, at * 65_536, noise(at, 65_536)));
    for written in futures_of(writes).await {
        written.expect("room");
    }
    let waiting = spool.finish(writer, point(1)).await.expect("room");
    let mut all = read(&spool, waiting).expect("whole");
    all.sort_by_key(|bytes| bytes.offset);
    assert_eq!(all.len(), 16);
    for (at, bytes) in (0u64..).zip(all) {
        assert_eq!((bytes.offset, bytes.data), (at * 65_536, noise(at, 65_536)));
    }
}

async fn futures_of<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    futures::future::join_all(futures).await
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes as a file: an error, and no panic.
    #[test]
    fn any_bytes_as_a_file_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), with_header: bool) {
        static SCENE: std::sync::LazyLock<Scene> = std::sync::LazyLock::new(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(Scene::new("any"))
        });
        let scene = &*SCENE;
        let header = if with_header { [b"FARSPOOL".as_slice(), &1u32.to_le_bytes(), &[7; 16]].concat() } else { Vec::new() };
        fs::create_dir_all(scene.file(1).parent().expect("a folder")).expect("made");
        fs::write(scene.file(1), [header, bytes].concat()).expect("written");
        prop_assert!(scene.spool().newest().is_err());
    }
}
