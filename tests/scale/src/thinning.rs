//! Stored bytes for live ones: a disk of which random chunks are written for a month, points that are thinned daily.
//!
//! *Live* are the chunks that the points which stand need, each once, at 64 KiB: their content does not compress. *Stored*
//! are all objects of the vault, those that wait for their deletion, maps, commits and ledgers among them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use farshore_core::{Basis, CHUNK_BYTES, Entropy, SeededEntropy, Sequence};
use farshore_vault::{Grace, Lineage, Retention, WRITE_BYTES_MAX};

use crate::{
    scene::{self, Scene},
    site::content,
};

const DAY: Duration = Duration::from_secs(86_400);

/// What is simulated.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Chunks of the disk.
    pub chunks: u64,
    /// For how many days.
    pub days: u64,
    /// Cycles of a day.
    pub cycles: u64,
    /// How many random chunks are written between two cycles.
    pub written: u64,
    /// Which points stand.
    pub retention: Retention,
    /// How long condemned objects wait.
    pub grace: Grace,
    /// Decides which chunks.
    pub seed: u64,
}

/// What came of it on one day, after its prune.
#[derive(Debug, Clone, Copy, Default)]
pub struct Day {
    /// Which.
    pub day: u64,
    /// Points that stand.
    pub points: u64,
    /// Bytes of the chunks that these need.
    pub live: u64,
    /// Bytes of all objects.
    pub stored: u64,
    /// Of these: objects that wait for their deletion.
    pub waiting: u64,
    /// Of these: data packs and collections, those that wait among them.
    pub data: u64,
    /// Of these: map packs, those that wait among them.
    pub maps: u64,
    /// Chunks that are dead in frames of the first copy of which another chunk lives, in bytes.
    pub first_frames: u64,
    /// Bytes that were put since the beginning.
    pub put: u64,
    /// Bytes of the chunks that were written on the disk, the first copy among them.
    pub given: u64,
}

impl Day {
    /// Stored bytes for a live one.
    pub fn ratio(&self) -> f64 {
        self.stored as f64 / (self.live as f64).max(1.0)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |bytes: u64| bytes as f64 / (self.live as f64).max(1.0);
        write!(
            formatter,
            "day {:2}: {:4} points, {:6.1} MiB live, stored {:.3} of that (waiting {:.3}, data {:.3}, maps {:.3}, dead in the \
             first copy's frames {:.3}); put {:.2} of what was written",
            self.day,
            self.points,
            self.live as f64 / 1_048_576.0,
            self.ratio(),
            share(self.waiting),
            share(self.data),
            share(self.maps),
            share(self.first_frames),
            self.put as f64 / (self.given as f64).max(1.0),
        )
    }
}

struct Month {
    settings: Settings,
    scene: Scene,
    lineage: Lineage,
    dice: SeededEntropy,
    versions: Vec<u32>,
    /// What the disk held at each point that stands.
    points: BTreeMap<Sequence, Vec<u32>>,
    given: u64,
}

impl Month {
    async fn begin(settings: Settings) -> Result<Self> {
        let scene = Scene::new(settings.seed).await?;
        let lineage = scene.lineage().await?;
        let versions = vec![0; usize::try_from(settings.chunks)?];
        let dice = SeededEntropy::new(settings.seed ^ 0x5eed);
        Ok(Self { settings, scene, lineage, dice, versions, points: BTreeMap::new(), given: 0 })
    }

    fn draw(&self) -> u64 {
        let mut bytes = [0; 8];
        self.dice.fill(&mut bytes);
        u64::from_le_bytes(bytes) % self.settings.chunks
    }

    /// What the disk has there now.
    fn read(&self, first: u64, count: u64) -> Result<Bytes> {
        let mut bytes = Vec::with_capacity(usize::try_from(count * CHUNK_BYTES)?);
        for chunk in first..first + count {
            bytes.extend_from_slice(&content(chunk, self.versions[usize::try_from(chunk)?]));
        }
        Ok(Bytes::from(bytes))
    }

    /// One cycle: the changed chunks, or all.
    async fn cycle(&mut self, changed: Option<&BTreeSet<u64>>) -> Result<()> {
        let head = self.lineage.head().await?;
        let writer = self.lineage.begin_point(head.generation, &head.active_site).await?;
        let disk_bytes = self.settings.chunks * CHUNK_BYTES;
        let disk = writer.add_disk(&scene::machine(disk_bytes)?.id, &scene::disk()?, disk_bytes).await?;
        let at_once = WRITE_BYTES_MAX as u64 / CHUNK_BYTES;
        match changed {
            None => {
                for first in (0..self.settings.chunks).step_by(usize::try_from(at_once)?) {
                    let bytes = self.read(first, at_once.min(self.settings.chunks - first))?;
                    disk.write(first * CHUNK_BYTES, bytes).await?;
                }
                self.given += disk_bytes;
            }
            Some(changed) => {
                for chunk in changed {
                    disk.write(chunk * CHUNK_BYTES, self.read(*chunk, 1)?).await?;
                }
                self.given += changed.len() as u64 * CHUNK_BYTES;
            }
        }
        let basis = if changed.is_some() { Basis::Tracked } else { Basis::Full };
        let point = writer.commit(scene::details(&self.scene.time, disk_bytes, basis)?).await?;
        self.points.insert(point.sequence, self.versions.clone());
        Ok(())
    }

    async fn day(&mut self, day: u64) -> Result<Day> {
        for _ in 0..self.settings.cycles {
            self.scene.time.pass(DAY / u32::try_from(self.settings.cycles)?);
            let mut changed = BTreeSet::new();
            for _ in 0..self.settings.written {
                let chunk = self.draw();
                self.versions[usize::try_from(chunk)?] += 1;
                changed.insert(chunk);
            }
            self.cycle(Some(&changed)).await?;
        }
        let plan = self.lineage.plan_prune(&self.settings.retention, self.settings.grace).await?;
        for dropped in &plan.dropped {
            self.points.remove(&dropped.sequence);
        }
        ensure!(plan.revived.is_empty() && plan.points_kept == self.points.len() as u64, "the rules have not changed");
        let report = self.lineage.prune(plan).await?;
        ensure!(report.problems.is_empty() && report.not_stored.is_none(), "nothing stays where it is: {report:?}");
        let after = self.lineage.plan_prune(&self.settings.retention, self.settings.grace).await?;
        Ok(self.measure(day, after.waiting.bytes + after.condemned.bytes))
    }

    fn measure(&self, day: u64, waiting: u64) -> Day {
        let (mut live, mut first) = (0, 0);
        let mut dead_in_frame = 0;
        for chunk in 0..self.versions.len() {
            let versions: BTreeSet<u32> = self.points.values().map(|point| point[chunk]).collect();
            live += versions.len() as u64 * CHUNK_BYTES;
            if chunk % 16 == 0 {
                first += if dead_in_frame < 16 { dead_in_frame } else { 0 };
                dead_in_frame = 0;
            }
            dead_in_frame += u64::from(!versions.contains(&0));
        }
        first += if dead_in_frame < 16 { dead_in_frame } else { 0 };
        let stored = |part| self.scene.objects.stored(part).1;
        Day {
            day,
            points: self.points.len() as u64,
            live,
            stored: stored("/lineages/"),
            waiting,
            data: stored("/packs/") + stored("/collections/"),
            maps: stored("/maps/"),
            first_frames: first * CHUNK_BYTES,
            put: self.scene.objects.requests().put_bytes,
            given: self.given,
        }
    }

    /// Restores the oldest and the newest point, and compares every byte.
    async fn compare(&self) -> Result<()> {
        let ends = self.points.iter().next().into_iter().chain(self.points.iter().next_back());
        for (sequence, versions) in ends {
            let reader = self.lineage.open_point(*sequence).await?;
            let disk = reader.disk(&scene::machine(0)?.id, &scene::disk()?)?;
            for (chunk, version) in (0..).zip(versions) {
                let bytes = disk.read(chunk * CHUNK_BYTES, CHUNK_BYTES).await?;
                ensure!(bytes == content(chunk, *version), "chunk {chunk} of point {sequence} is another");
            }
        }
        Ok(())
    }
}

/// Simulates the days, tells each, and compares the oldest and the newest point with what the disk held.
///
/// # Errors
/// The vault failed, or a point is not what it was.
pub async fn run(settings: Settings, mut each: impl FnMut(&Day)) -> Result<Vec<Day>> {
    let mut month = Month::begin(settings).await?;
    month.cycle(None).await?;
    let mut days = Vec::new();
    for day in 1..=settings.days {
        let day = month.day(day).await?;
        each(&day);
        days.push(day);
    }
    month.compare().await?;
    Ok(days)
}
