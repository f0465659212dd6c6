//! A vault of very large disks: how much memory copying, checking, pruning and restoring take.
//!
//! Every chunk of the disk is another one, so that nothing of a map is shared, and nearly empty, so that the data of a TiB fit on this
//! machine: what grows with a disk's size are its map, the list of its packs and the index, and those are whole. Packs are as
//! large as they may be in chunks (256 MiB of disk); of data that do not compress there are eight times as many.

use std::{collections::BTreeMap, fmt, num::NonZeroUsize, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use farshore_core::{
    Basis, CHUNK_BYTES, Clock, Consistency, Instant, Passphrase, Sequence, SystemClock, SystemEntropy,
};
use farshore_vault::{
    Address, CheckDepth, Context, CreateOptions, Grace, KdfParameters, Kit, Lineage, Opener, PointDetails,
    PointDiskDraft, PointMachineDraft, Retention, Store, StoreOptions, Vault, Workers,
};

use crate::scene;

/// How many chunks are written at once.
const WRITTEN_AT_ONCE: u64 = 16;

/// Of so many chunks one is changed for a further point.
const CHANGED_EVERY: u64 = 1_000;

/// Of so many regions of [`WRITTEN_AT_ONCE`] chunks one is read back; some of them have a changed chunk.
const READ_EVERY: u64 = 62;

/// What is made.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The disk's size, in GiB.
    pub gibibytes: u64,
    /// How many points there are in the end.
    pub points: u32,
}

/// What an operation took, in a process that is asked for all of them.
#[derive(Debug, Clone)]
pub struct Step {
    /// What was done.
    pub what: &'static str,
    /// How long it took.
    pub took: Duration,
    /// The most memory of the process while it was done, in bytes; what the ones before have left among it.
    pub peak_bytes: u64,
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = self.peak_bytes as f64 / 1_048_576.0;
        write!(formatter, "| {} | {:.1} | {mebibytes:.0} |", self.what, self.took.as_secs_f64())
    }
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Step by step.
    pub steps: Vec<Step>,
    /// What the vault took on disk before it was pruned, in bytes.
    pub vault_bytes: u64,
    /// What the index of the host took, in bytes.
    pub index_bytes: u64,
}

/// The heading of the table that steps are lines of.
pub const HEADING: &str = "| what | seconds | peak MiB |\n| --- | ---: | ---: |";

/// Forgets the peak of this process's memory. Only Linux can; elsewhere the measurement fails at once.
fn forget_peak() -> Result<()> {
    std::fs::write("/proc/self/clear_refs", "5").context("forgetting the peak of this process's memory")
}

fn peak_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the kernel tells no peak")?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1_024)
}

async fn step<T>(steps: &mut Vec<Step>, what: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
    forget_peak()?;
    let began = SystemClock.monotonic();
    let result = work.await.context(what)?;
    let took = SystemClock.monotonic().saturating_sub(began);
    steps.push(Step { what, took, peak_bytes: peak_bytes()? });
    Ok(result)
}

fn context() -> Context {
    let count = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    Context { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy), workers: Workers::threads(count) }
}

/// A disk, of which nothing is kept but in which point a chunk was changed.
#[derive(Debug, Clone, Copy)]
struct Disk {
    chunks: u64,
}

impl Disk {
    fn bytes(self) -> u64 {
        self.chunks * CHUNK_BYTES
    }

    /// In which point up to this one the chunk was changed; the first has the number 0.
    fn version(self, chunk: u64, point: u32) -> u32 {
        (1..=point).rev().find(|number| is_changed(chunk, *number)).unwrap_or(0)
    }

    /// What the point holds of these chunks: each has its own number and version, and is empty besides.
    fn content(self, from: u64, count: u64, point: u32) -> Bytes {
        let mut bytes = Vec::new();
        for chunk in from..from + count {
            let begins = bytes.len();
            bytes.extend_from_slice(&(chunk + 1).to_le_bytes());
            bytes.extend_from_slice(&self.version(chunk, point).to_le_bytes());
            bytes.resize(begins + usize::try_from(CHUNK_BYTES).unwrap_or(usize::MAX), 0);
        }
        Bytes::from(bytes)
    }
}

fn is_changed(chunk: u64, point: u32) -> bool {
    (chunk + u64::from(point)).is_multiple_of(CHANGED_EVERY)
}

fn details(disk: Disk, basis: Basis) -> Result<PointDetails> {
    let disks = vec![PointDiskDraft { disk: scene::disk()?, basis, tracking_token: None }];
    Ok(PointDetails {
        capture: None,
        captured_at: SystemClock.now(),
        instant: Instant::Group,
        consistency: Consistency::Crash,
        machines: vec![PointMachineDraft { machine: scene::machine(disk.bytes())?, disks }],
        suspended: Vec::new(),
        label: None,
        note: String::new(),
    })
}

/// Adds a point: all of the disk, or what was changed.
async fn copy(lineage: &Lineage, disk: Disk, point: u32) -> Result<Sequence> {
    let writer = lineage.begin_next_point(&scene::site()?).await?;
    let written = writer.add_disk(&scene::machine(disk.bytes())?.id, &scene::disk()?, disk.bytes()).await?;
    if point == 0 {
        for from in (0..disk.chunks).step_by(usize::try_from(WRITTEN_AT_ONCE)?) {
            written.write(from * CHUNK_BYTES, disk.content(from, WRITTEN_AT_ONCE, 0)).await?;
        }
    } else {
        for chunk in (0..disk.chunks).filter(|chunk| is_changed(*chunk, point)) {
            written.write(chunk * CHUNK_BYTES, disk.content(chunk, 1, point)).await?;
        }
    }
    let basis = if point == 0 { Basis::Full } else { Basis::Tracked };
    Ok(writer.commit(details(disk, basis)?).await?.sequence)
}

/// Reads a part of a point, which is spread over all of it.
async fn read(lineage: &Lineage, disk: Disk, point: u32, sequence: Sequence) -> Result<()> {
    let reader = lineage.open_point(sequence).await?;
    let read = reader.disk(&scene::machine(0)?.id, &scene::disk()?)?;
    for from in (0..disk.chunks).step_by(usize::try_from(WRITTEN_AT_ONCE * READ_EVERY)?) {
        let bytes = read.read(from * CHUNK_BYTES, WRITTEN_AT_ONCE * CHUNK_BYTES).await?;
        ensure!(bytes == disk.content(from, WRITTEN_AT_ONCE, point), "chunk {from} of point {sequence} is another one");
    }
    Ok(())
}

/// Handles that know nothing, as those of processes of their own.
struct Handles {
    address: Address,
    kit: Kit,
    passphrase: Passphrase,
    /// Where the index is kept.
    state: std::path::PathBuf,
}

impl Handles {
    async fn vault(&self) -> Result<Vault> {
        let store = Store::open(&self.address, &StoreOptions::new(BTreeMap::new()))?;
        let opener = Opener::Kit(Box::new(self.kit.clone()), self.passphrase.clone());
        Ok(Vault::open(store, &opener, context()).await?)
    }

    async fn lineage(&self) -> Result<Lineage> {
        let lineage = self.vault().await?.lineage(&scene::group()?).await?;
        let lineage = lineage.context("there is no lineage")?;
        lineage.keep_index(&self.state);
        Ok(lineage)
    }
}

/// Makes a vault in the folder, and measures it; each step with a handle that knows nothing.
///
/// # Errors
/// The vault failed, a point is not what it was, or this system tells no peaks of memory.
pub async fn measure(settings: Settings, folder: &Path) -> Result<Measured> {
    ensure!(settings.points >= 2 && u64::from(settings.points) < CHANGED_EVERY, "from 2 to 999 points");
    let disk = Disk { chunks: settings.gibibytes * (1 << 30) / CHUNK_BYTES };
    let address: Address = format!("file:{}", folder.join("vault").display()).parse()?;
    let passphrase = Passphrase::new("correct horse battery staple");
    let store = Store::open(&address, &StoreOptions::new(BTreeMap::new()))?;
    let draft = Vault::draft(store, &passphrase, CreateOptions { kdf: KdfParameters::FLOOR }, context()).await?;
    let handles = Handles { address, kit: draft.kit().clone(), passphrase, state: folder.join("state") };
    draft.create().await?.create_lineage(&scene::group()?, &scene::site()?).await?;

    let mut steps = Vec::new();
    let lineage = handles.lineage().await?;
    let first = step(&mut steps, "first copy", copy(&lineage, disk, 0)).await?;
    drop(lineage);
    let lineage = handles.lineage().await?;
    step(&mut steps, "second point, one chunk of a thousand changed", copy(&lineage, disk, 1)).await?;
    let others = async {
        let mut newest = first;
        for point in 2..settings.points {
            newest = copy(&lineage, disk, point).await?;
        }
        Ok(newest)
    };
    step(&mut steps, "the other points, by one process", others).await?;
    drop(lineage);
    let lineage = handles.lineage().await?;
    let newest = lineage.head().await?.newest_point.context("there are points")?;
    step(&mut steps, "read a part of the newest point", read(&lineage, disk, settings.points - 1, newest)).await?;
    let vault = handles.vault().await?;
    let check = async { Ok(vault.check(CheckDepth::Structure, &|_| {}).await?) };
    let report = step(&mut steps, "check the structure of all points", check).await?;
    ensure!(report.findings.is_empty() && report.points_checked == u64::from(settings.points), "{report:?}");
    drop((vault, lineage));
    let lineage = handles.lineage().await?;
    let vault_bytes = bytes_below(&folder.join("vault"))?;
    let none = Grace { seconds: 0, commits: 0 };
    let all = Retention { all_seconds: 86_400, ..Retention::default() };
    let plan = async { Ok(lineage.plan_prune(&all, none).await.map(drop)?) };
    step(&mut steps, "plan a prune by which all points stand", plan).await?;
    drop(lineage);
    let lineage = handles.lineage().await?;
    let prune = async {
        // The first condemns, the second deletes.
        for _ in 0..2 {
            let plan = lineage.plan_prune(&Retention { hourly: 1, ..Retention::default() }, none).await?;
            lineage.prune(plan).await?;
        }
        Ok(())
    };
    step(&mut steps, "prune all but the newest", prune).await?;
    drop(lineage);
    let lineage = handles.lineage().await?;
    step(&mut steps, "read a part of it again", read(&lineage, disk, settings.points - 1, newest)).await?;
    Ok(Measured { steps, vault_bytes, index_bytes: bytes_below(&handles.state)? })
}

fn bytes_below(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() { bytes_below(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}
