//! A lineage of very many commits: opening it, finding its newest, listing its points, restoring the newest and the oldest.
//!
//! Every commit is made by the vault's own code. Some carry a changed chunk, most are idle, as cycles of a group that rests are.

use std::{fmt, time::Duration};

use anyhow::{Result, ensure};
use bytes::Bytes;
use farshore_core::{Basis, CHUNK_BYTES, Clock, Sequence, SystemClock};
use farshore_vault::{Grace, Lineage, Retention};

use crate::{
    scene::{self, Scene},
    site::content,
    store::Requests,
};

/// Chunks of the disk.
const CHUNKS: u64 = 64;

/// One commit of so many has a changed chunk.
const CHANGED_EVERY: u64 = 1_000;

/// How many points the command line lists.
const LISTED: usize = 50;

/// What is made.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Commits of the lineage.
    pub commits: u64,
    /// Whether it is pruned before it is measured, with a rule that lets some hundred points stand.
    pub is_pruned: bool,
}

/// What an operation took.
#[derive(Debug, Clone)]
pub struct Step {
    /// What was done.
    pub what: &'static str,
    /// How long it took.
    pub took: Duration,
    /// What it asked of the store.
    pub requests: Requests,
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Requests { puts, gets, heads, lists, deletes, get_bytes, .. } = self.requests;
        let milliseconds = self.took.as_secs_f64() * 1_000.0;
        let mebibytes = get_bytes as f64 / 1_048_576.0;
        write!(
            formatter,
            "| {} | {milliseconds:.1} | {puts} | {gets} | {heads} | {lists} | {deletes} | {mebibytes:.2} |",
            self.what
        )
    }
}

/// The heading of the table that steps are lines of.
pub const HEADING: &str = "| what | milliseconds | PUT | GET | HEAD | LIST | DELETE | MiB read |\n\
                           | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |";

struct Meter<'a> {
    scene: &'a Scene,
    clock: SystemClock,
    steps: Vec<Step>,
}

impl Meter<'_> {
    async fn step<T>(&mut self, what: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let (before, began) = (self.scene.objects.requests(), self.clock.monotonic());
        let result = work.await?;
        let took = self.clock.monotonic().saturating_sub(began);
        self.steps.push(Step { what, took, requests: self.scene.objects.requests().since(before) });
        Ok(result)
    }
}

/// Makes the lineage. The number of the first point and of the newest, and the version of chunk 0 in the newest.
async fn make(scene: &Scene, settings: Settings) -> Result<(Sequence, Sequence, u32)> {
    let lineage = scene.lineage().await?;
    let (site, disk_bytes) = (scene::site()?, CHUNKS * CHUNK_BYTES);
    let (mut first, mut newest, mut version) = (None, Sequence::FIRST, 0);
    for number in 0..settings.commits.saturating_sub(1) {
        scene.time.pass(Duration::from_secs(3));
        let writer = lineage.begin_next_point(&site).await?;
        let disk = writer.add_disk(&scene::machine(disk_bytes)?.id, &scene::disk()?, disk_bytes).await?;
        if number % CHANGED_EVERY == 0 {
            version += 1;
            let changed = if number == 0 { CHUNKS } else { 1 };
            for chunk in 0..changed {
                disk.write(chunk * CHUNK_BYTES, Bytes::from(content(chunk, version))).await?;
            }
        }
        newest = writer.commit(scene::details(&scene.time, disk_bytes, Basis::Tracked)?).await?.sequence;
        first = first.or(Some(newest));
    }
    let first = first.ok_or_else(|| anyhow::anyhow!("a lineage has at least two commits here"))?;
    Ok((first, newest, version))
}

async fn restore(lineage: &Lineage, sequence: Sequence, version: u32) -> Result<()> {
    let reader = lineage.open_point(sequence).await?;
    let disk = reader.disk(&scene::machine(0)?.id, &scene::disk()?)?;
    for chunk in 0..CHUNKS {
        let expected = content(chunk, if chunk == 0 { version } else { 1 });
        ensure!(disk.read(chunk * CHUNK_BYTES, CHUNK_BYTES).await? == expected, "chunk {chunk} of point {sequence}");
    }
    Ok(())
}

async fn prune(lineage: &Lineage) -> Result<()> {
    let retention = Retention { all_seconds: 300, hourly: 48, daily: 60, ..Retention::default() };
    // The first condemns, the second deletes.
    for _ in 0..2 {
        let plan = lineage.plan_prune(&retention, Grace { seconds: 0, commits: 0 }).await?;
        lineage.prune(plan).await?;
    }
    Ok(())
}

/// Makes a lineage, and measures it with handles that know nothing of it.
///
/// # Errors
/// The vault failed, or a point is not what it was.
pub async fn measure(settings: Settings) -> Result<Vec<Step>> {
    let scene = Scene::new(1).await?;
    let mut meter = Meter { scene: &scene, clock: SystemClock, steps: Vec::new() };
    let (mut first, newest, version) = meter.step("make it", make(&scene, settings)).await?;
    if settings.is_pruned {
        let lineage = fresh(&scene).await?;
        meter.step("prune it: condemn, and delete", prune(&lineage)).await?;
    }
    let vault = meter.step("open the vault", async { scene.open(2).await }).await?;
    let lineage = meter.step("open the lineage", async { Ok(vault.lineage(&scene::group()?).await?) }).await?;
    let lineage = lineage.ok_or_else(|| anyhow::anyhow!("there is no lineage"))?;
    let head = meter.step("find the newest commit", async { Ok(lineage.head().await?) }).await?;
    ensure!(head.newest_point == Some(newest), "the newest point is {:?}, not {newest}", head.newest_point);
    meter.step("find it again", async { Ok(lineage.head().await?) }).await?;
    let lineage = fresh(&scene).await?;
    let listed = meter.step("list the newest 50 points", async { Ok(lineage.points(None, LISTED).await?) }).await?;
    ensure!(listed.first().map(|point| point.sequence) == Some(newest), "the newest is listed first");
    meter.step("restore the newest point", restore(&lineage, newest, version)).await?;
    if settings.is_pruned {
        let all = meter.step("list all points", async { Ok(lineage.points(None, usize::MAX).await?) }).await?;
        let oldest = all.last().ok_or_else(|| anyhow::anyhow!("points stand"))?;
        first = oldest.sequence;
        ensure!(all.len() >= LISTED, "only {} points stand", all.len());
    }
    let oldest_version = u32::try_from((first.get() - 2) / CHANGED_EVERY)? + 1;
    let lineage = fresh(&scene).await?;
    meter.step("restore the oldest point", restore(&lineage, first, oldest_version)).await?;
    let before = Some(Sequence::new(newest.get() / 2));
    meter.step("list 50 points from the middle", async { Ok(lineage.points(before, LISTED).await?) }).await?;
    let lineage = fresh(&scene).await?;
    let site = scene::site()?;
    meter.step("begin a point", async { Ok(lineage.begin_next_point(&site).await.map(drop)?) }).await?;
    Ok(meter.steps)
}

/// The lineage, by a handle of the vault that has seen nothing.
async fn fresh(scene: &Scene) -> Result<Lineage> {
    let vault = scene.open(3).await?;
    vault.lineage(&scene::group()?).await?.ok_or_else(|| anyhow::anyhow!("there is no lineage"))
}
