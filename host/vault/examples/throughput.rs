//! Measures the whole pipeline on synthetic data: first copy, comparison, restore, check.
//!
//! `cargo run -p farshore-vault --example throughput -- [MiB] [memory|FOLDER] [text|mixed|noise]`
//!
//! Without a folder the store is in memory, so that the processors are what is measured. `text` compresses about
//! eightfold, `noise` not at all, `mixed` is half of each and one tenth zeros, as disks are.

use std::{error::Error, num::NonZeroUsize, sync::Arc, time::Duration};

use bytes::Bytes;
use farshore_core::{
    Basis, Clock, Consistency, DiskId, Entropy, Firmware, Generation, GroupName, Instant, Machine, MachineId,
    Passphrase, PowerState, SeededEntropy, SiteName, SystemClock, Timestamp,
};
use farshore_vault::{
    Address, CheckDepth, Context, CreateOptions, Lineage, Point, PointDetails, PointDiskDraft, PointMachineDraft,
    Store, StoreOptions, Vault, WRITE_BYTES_MAX,
};
use futures::TryStreamExt;

/// Blocks that the disk is made of; each is changed a little when it is used again, so that nothing is deduplicated.
fn blocks(kind: &str) -> Vec<Vec<u8>> {
    let noise = |seed: u64| {
        let mut block = vec![0; WRITE_BYTES_MAX];
        SeededEntropy::new(seed).fill(&mut block);
        block
    };
    let text = |seed: u64| {
        let mut block = Vec::with_capacity(WRITE_BYTES_MAX + 64);
        let mut number = seed;
        while block.len() < WRITE_BYTES_MAX {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (id, shard) = (number >> 40, number >> 61);
            block.extend_from_slice(format!("2026-11-22 order {id} shipped from shard {shard}\n").as_bytes());
        }
        block.truncate(WRITE_BYTES_MAX);
        block
    };
    (0..10)
        .map(|seed| match (kind, seed) {
            ("noise", _) => noise(seed),
            ("text", _) => text(seed),
            (_, 9) => vec![0; WRITE_BYTES_MAX],
            (_, seed) if seed % 2 == 0 => noise(seed),
            (_, seed) => text(seed),
        })
        .collect()
}

fn block(blocks: &[Vec<u8>], number: u64) -> Bytes {
    let kinds = u64::try_from(blocks.len()).unwrap_or(1);
    let mut block = blocks[usize::try_from(number % kinds).unwrap_or(0)].clone();
    if block.iter().any(|byte| *byte != 0) {
        for chunk in block.chunks_mut(65_536) {
            chunk[..8].copy_from_slice(&number.to_le_bytes());
        }
    }
    Bytes::from(block)
}

fn line(what: &str, bytes: u64, elapsed: Duration, more: &str) {
    let rate = bytes as f64 / 1e6 / elapsed.as_secs_f64();
    println!("{what:<12} {:>8.2} s  {rate:>7.0} MB/s  {more}", elapsed.as_secs_f64());
}

async fn copy(lineage: &Lineage, blocks: &[Vec<u8>], count: u64) -> Result<Point, Box<dyn Error>> {
    let (machine, disk) = (MachineId::new("bench")?, DiskId::new("disk")?);
    let writer = lineage.begin_point(Generation::FIRST, &SiteName::new("here")?).await?;
    let size_bytes = count * u64::try_from(WRITE_BYTES_MAX)?;
    let target = writer.add_disk(&machine, &disk, size_bytes).await?;
    for number in 0..count {
        target.write(number * u64::try_from(WRITE_BYTES_MAX)?, block(blocks, number)).await?;
    }
    let machine = Machine {
        id: machine,
        name: "bench".to_owned(),
        cpus: 1,
        memory_bytes: 1 << 30,
        firmware: Firmware::Uefi,
        power: PowerState::Running,
        disks: Vec::new(),
        network_interfaces: Vec::new(),
        properties: std::collections::BTreeMap::new(),
    };
    let disks = vec![PointDiskDraft { disk, basis: Basis::Full, tracking_token: None }];
    let details = PointDetails {
        capture: None,
        captured_at: Timestamp::from_unix_milliseconds(0),
        instant: Instant::Group,
        consistency: Consistency::Crash,
        machines: vec![PointMachineDraft { machine, disks }],
        suspended: Vec::new(),
        label: None,
        note: String::new(),
    };
    Ok(writer.commit(details).await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mebibytes: u64 = arguments.next().map_or(Ok(2048), |text| text.parse())?;
    let target = arguments.next().unwrap_or_else(|| "memory".to_owned());
    let kind = arguments.next().unwrap_or_else(|| "mixed".to_owned());
    let address: Address =
        if target == "memory" { "memory:bench".parse()? } else { format!("file:{target}").parse()? };
    let clock = SystemClock;
    let context = Context::system();
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    println!("{mebibytes} MiB of {kind} data, {target}, {threads} processors");

    let start = clock.monotonic();
    let passphrase = Passphrase::new("bench");
    let store = Store::open(&address, &StoreOptions::default())?;
    let vault = Vault::draft(store, &passphrase, CreateOptions::default(), context).await?.create().await?;
    line("create", 0, clock.monotonic() - start, "");
    let lineage = vault.create_lineage(&GroupName::new("bench")?, &SiteName::new("here")?).await?;

    let blocks = Arc::new(blocks(&kind));
    let count = mebibytes.div_ceil(4);
    for what in ["first copy", "comparison"] {
        let start = clock.monotonic();
        let point = copy(&lineage, &blocks, count).await?;
        let stats = point.stats;
        let more = format!("{} MB stored in {} objects", stats.bytes_stored / 1_000_000, stats.objects_written);
        line(what, stats.bytes_given, clock.monotonic() - start, &more);
    }
    let newest = lineage.points(None, 1).await?.into_iter().next().ok_or("no point")?;
    let start = clock.monotonic();
    let reader = lineage.open_point(newest.sequence).await?;
    let mut pieces = reader.disk(&MachineId::new("bench")?, &DiskId::new("disk")?)?.pieces();
    let mut bytes = 0;
    while let Some(piece) = pieces.try_next().await? {
        bytes += u64::try_from(piece.data.len())?;
    }
    line("restore", bytes, clock.monotonic() - start, "");
    let start = clock.monotonic();
    let report = vault.check(CheckDepth::Full, &|_| {}).await?;
    let more = format!("{} findings", report.findings.len());
    line("full check", report.bytes_read, clock.monotonic() - start, &more);
    Ok(())
}
