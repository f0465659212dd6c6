//! Tests of the whole vault against a store in memory, one file per promise.

mod addresses;
mod bucket;
mod capsule;
mod census;
mod check;
mod corpus;
mod crash;
mod differences;
mod faulty;
mod fencing;
mod full;
mod golden_powers;
mod lies;
mod lock;
mod lost_lineage;
mod matrix;
mod model;
mod passphrase;
mod pipeline;
mod policy;
mod powers;
mod proof;
mod prove;
mod prune;
mod repair;
mod replace;
mod resume;
mod revoke;
mod run;
mod sharing;
mod sleepers;
mod slots;
mod suspended;
mod tamper;
mod whole;

use std::{num::NonZeroUsize, sync::Arc};

use bytes::Bytes;
use farshore_core::{
    Basis, CHUNK_BYTES, Consistency, DiskId, Firmware, Generation, GroupName, Instant, Machine, MachineId, Passphrase,
    PowerState, SeededEntropy, SiteName, SystemClock, SystemEntropy, Timestamp,
};
use futures::TryStreamExt;
use object_store::{ObjectStore, memory::InMemory};
use tokio::sync::OnceCell;

use crate::{
    Context, CreateOptions, DiskWriter, Head, KdfParameters, Kit, Lineage, Opener, Point, PointDetails, PointDiskDraft,
    PointMachineDraft, PointReader, PointWriter, Result, Retention, Store, Vault, Workers,
};

/// A rule under which no point is ever dropped.
pub(crate) const KEEP_ALL: Retention =
    Retention { all_seconds: u64::MAX, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0 };

/// A rule under which only the newest point stands, and what is pinned.
pub(crate) const KEEP_NEWEST: Retention =
    Retention { all_seconds: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0 };

pub(crate) const CHUNK: usize = CHUNK_BYTES as usize;

pub(crate) fn context() -> Context {
    let workers = Workers::threads(NonZeroUsize::new(2).expect("two is not zero"));
    Context { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy), workers }
}

pub(crate) fn seeded(seed: u64) -> Context {
    Context { clock: Arc::new(SystemClock), entropy: Arc::new(SeededEntropy::new(seed)), workers: Workers::inline() }
}

pub(crate) fn store(objects: &Arc<InMemory>) -> Store {
    wrap(Arc::clone(objects) as Arc<dyn ObjectStore>)
}

pub(crate) fn wrap(objects: Arc<dyn ObjectStore>) -> Store {
    Store::from_object_store(objects, "v").expect("a good prefix")
}

/// A vault with the keys of one that was made with a passphrase once for all tests.
pub(crate) async fn vault_on(store: Store, context: Context) -> Vault {
    static TEMPLATE: OnceCell<Vault> = OnceCell::const_new();
    let make = || async {
        let options = CreateOptions { kdf: KdfParameters::FLOOR };
        let passphrase = Passphrase::new("correct horse");
        let draft = Vault::draft(self::store(&Arc::default()), &passphrase, options, self::context()).await;
        draft.expect("a draft").create().await.expect("a vault")
    };
    TEMPLATE.get_or_init(make).await.reopen(store, context)
}

/// A vault that is made in this store, and its kit.
pub(crate) async fn make(store: Store, passphrase: &str) -> Result<(Vault, Kit)> {
    let options = CreateOptions { kdf: KdfParameters::FLOOR };
    let draft = Vault::draft(store, &Passphrase::new(passphrase), options, context()).await?;
    let kit = draft.kit().clone();
    Ok((draft.create().await?, kit))
}

/// The vault in this store, opened with its kit.
pub(crate) async fn open_with(store: Store, kit: &Kit, passphrase: &str) -> Result<Vault> {
    let opener = Opener::Kit(Box::new(kit.clone()), Passphrase::new(passphrase));
    Vault::open(store, &opener, context()).await
}

pub(crate) fn group() -> GroupName {
    GroupName::new("orders").expect("a good name")
}

/// Longer than the step of the store's clock, which has whole milliseconds here.
pub(crate) async fn a_moment() {
    farshore_core::Clock::sleep(&SystemClock, std::time::Duration::from_millis(3)).await;
}

pub(crate) fn site(name: &str) -> SiteName {
    SiteName::new(name).expect("a good name")
}

pub(crate) fn machine_id() -> MachineId {
    MachineId::new("vm-1").expect("a good name")
}

pub(crate) fn disk_id(name: &str) -> DiskId {
    DiskId::new(name).expect("a good name")
}

pub(crate) async fn lineage(vault: &Vault) -> Lineage {
    vault.create_lineage(&group(), &site("a")).await.expect("a lineage")
}

pub(crate) fn machine(id: &MachineId) -> Machine {
    Machine {
        id: id.clone(),
        name: id.to_string(),
        cpus: 1,
        memory_bytes: 1 << 28,
        firmware: Firmware::Bios,
        power: PowerState::Running,
        disks: Vec::new(),
        network_interfaces: Vec::new(),
        properties: std::collections::BTreeMap::new(),
    }
}

pub(crate) fn details(machines: &[(&MachineId, &[&str])]) -> PointDetails {
    let disk = |disk: &&str| PointDiskDraft { disk: disk_id(disk), basis: Basis::Full, tracking_token: None };
    let draft = |(id, disks): &(&MachineId, &[&str])| PointMachineDraft {
        machine: machine(id),
        disks: disks.iter().map(disk).collect(),
    };
    PointDetails {
        capture: None,
        captured_at: Timestamp::from_unix_milliseconds(0),
        instant: Instant::Group,
        consistency: Consistency::Crash,
        machines: machines.iter().map(draft).collect(),
        suspended: Vec::new(),
        label: None,
        note: String::new(),
    }
}

pub(crate) async fn begin(lineage: &Lineage) -> PointWriter {
    a_moment().await;
    lineage.begin_point(Generation::FIRST, &site("a")).await.expect("the site is active")
}

/// Begins a point on the newest commit, a moment after it: points of one millisecond have one age, and a rule for
/// retention that keeps the newest keeps all of that age.
pub(crate) async fn begin_next(lineage: &Lineage) -> Result<(Head, PointWriter)> {
    a_moment().await;
    let head = lineage.head().await?;
    let writer = lineage.begin_point(head.generation, &head.active_site).await?;
    Ok((head, writer))
}

/// Writes everything of a disk that is not zero in the content, in pieces of at most 1 MiB.
pub(crate) async fn write_all(disk: &DiskWriter, content: &[u8]) -> Result<()> {
    for (number, piece) in content.chunks(1 << 20).enumerate() {
        disk.write((number << 20) as u64, Bytes::copy_from_slice(piece)).await?;
    }
    Ok(())
}

/// Commits a point of one machine with one disk of this content.
pub(crate) async fn commit_disk(lineage: &Lineage, content: &[u8]) -> Result<Point> {
    let (_, writer) = begin_next(lineage).await?;
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), content.len() as u64).await?;
    write_all(&disk, content).await?;
    writer.commit(details(&[(&machine_id(), &["d"])])).await
}

pub(crate) async fn read_pieces(reader: &PointReader, disk: &str) -> Result<Vec<u8>> {
    let disk = reader.disk(&machine_id(), &disk_id(disk))?;
    let mut content = vec![0; usize::try_from(disk.size_bytes()).expect("a small disk")];
    let mut pieces = disk.pieces();
    let mut end = 0;
    while let Some(piece) = pieces.try_next().await? {
        let offset = usize::try_from(piece.offset).expect("a small disk");
        assert!(offset >= end, "pieces are in order and apart");
        end = offset + piece.data.len();
        content[offset..end].copy_from_slice(&piece.data);
    }
    Ok(content)
}

pub(crate) async fn restore(lineage: &Lineage, point: &Point) -> Result<Vec<u8>> {
    read_pieces(&lineage.open_point(point.sequence).await?, "d").await
}

/// Bytes that do not compress and differ by seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    farshore_core::Entropy::fill(&SeededEntropy::new(seed), &mut bytes);
    bytes
}

/// The keys and lengths of all objects.
pub(crate) async fn objects(store: &InMemory) -> Vec<(String, u64)> {
    let listed: Vec<_> = store.list(None).try_collect().await.expect("memory can be listed");
    let mut listed: Vec<_> = listed.into_iter().map(|meta| (meta.location.to_string(), meta.size)).collect();
    listed.sort();
    listed
}
