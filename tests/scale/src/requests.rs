//! The requests that cycles and prunes really make, and what they cost in a month.

use std::{fmt, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use farshore_core::{CHUNK_BYTES, Consistency, SeededEntropy};
use farshore_replication::{CopyLimits, CycleEvent, CycleObserver, Protection, Replicator, Wishes};
use farshore_vault::{Grace, Retention};
use tokio_util::sync::CancellationToken;

use crate::{
    scene::{self, Scene},
    site::Site,
    store::Requests,
};

/// A month, as prices mean it.
const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// What a provider takes, in dollars. Deleting costs nothing.
#[derive(Debug, Clone, Copy)]
pub struct Prices {
    /// For a thousand objects that are put, and for a thousand listings.
    pub puts: f64,
    /// For a thousand reads, of an object or of its head.
    pub gets: f64,
}

impl Prices {
    /// What these requests cost.
    pub fn of(&self, requests: &Mean) -> f64 {
        ((requests.puts + requests.lists) * self.puts + (requests.gets + requests.heads) * self.gets) / 1_000.0
    }
}

/// Requests of one cycle, as measured over many.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mean {
    /// As in [`Requests`].
    pub puts: f64,
    /// As in [`Requests`].
    pub gets: f64,
    /// As in [`Requests`].
    pub heads: f64,
    /// As in [`Requests`].
    pub lists: f64,
    /// As in [`Requests`].
    pub deletes: f64,
}

impl Mean {
    fn of(requests: Requests, cycles: u64) -> Self {
        let mean = |count: u64| count as f64 / (cycles as f64).max(1.0);
        let Requests { puts, gets, heads, lists, deletes, .. } = requests;
        Self { puts: mean(puts), gets: mean(gets), heads: mean(heads), lists: mean(lists), deletes: mean(deletes) }
    }

    fn times(&self, factor: f64) -> Self {
        let Self { puts, gets, heads, lists, deletes } = self;
        Self {
            puts: puts * factor,
            gets: gets * factor,
            heads: heads * factor,
            lists: lists * factor,
            deletes: deletes * factor,
        }
    }

    fn plus(&self, other: &Self) -> Self {
        Self {
            puts: self.puts + other.puts,
            gets: self.gets + other.gets,
            heads: self.heads + other.heads,
            lists: self.lists + other.lists,
            deletes: self.deletes + other.deletes,
        }
    }
}

impl fmt::Display for Mean {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { puts, gets, heads, lists, deletes } = self;
        write!(formatter, "{puts:.2} | {gets:.2} | {heads:.2} | {lists:.2} | {deletes:.2}")
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How many cycles make a day; half of that is measured too, because a prune costs something for each point that stands, and
    /// something for each cycle of its day.
    pub cycles: u64,
    /// How many chunks a cycle that is not idle finds changed.
    pub written: u64,
}

/// What cycles of one kind ask for.
#[derive(Debug, Clone)]
pub struct Kind {
    /// Each of them.
    pub cycle: Mean,
    /// What a daily prune asks for, for each cycle of its day.
    pub prune_cycle: Mean,
    /// What it asks for besides.
    pub prune_day: Mean,
    /// What the last cycle asked for.
    pub log: Vec<String>,
}

impl Kind {
    /// Prunes of a month with so many cycles a day.
    fn prunes(&self, cycles: f64) -> Mean {
        let days = MONTH.as_secs_f64() / 86_400.0;
        self.prune_cycle.times(cycles).plus(&self.prune_day).times(days)
    }
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Cycles that find nothing changed.
    pub idle: Kind,
    /// Cycles that find something changed.
    pub changing: Kind,
}

struct Silent;

impl CycleObserver for Silent {
    fn event(&self, _: CycleEvent) {}
}

struct Group {
    scene: Scene,
    site: Arc<Site>,
    replicator: Replicator,
    _folder: tempfile::TempDir,
}

impl Group {
    async fn begin(chunks: u64) -> Result<Self> {
        let scene = Scene::new(1).await?;
        let site = Arc::new(Site::new(chunks)?);
        let folder = tempfile::tempdir()?;
        let replicator = Replicator {
            vault: Arc::clone(&scene.vault),
            source: Arc::clone(&site) as _,
            protection: Protection {
                group: scene::group()?,
                machines: vec![scene::machine(0)?.id],
                consistency: Consistency::Crash,
                stall_limit: Duration::from_millis(250),
                doubt: None,
            },
            state_folder: folder.path().to_owned(),
            clock: Arc::new(scene.time.clone()),
            entropy: Arc::new(SeededEntropy::new(7)),
            observer: Arc::new(Silent),
            limits: CopyLimits::default(),
            outage: None,
            suspensions: None,
            capsule: Vec::new(),
        };
        Ok(Self { scene, site, replicator, _folder: folder })
    }

    /// Cycles over a day, and what they asked for.
    async fn day(&self, cycles: u64, written: u64) -> Result<(Requests, Vec<String>)> {
        let stop = CancellationToken::new();
        let before = self.scene.objects.requests();
        for cycle in 0..cycles {
            self.scene.time.pass(Duration::from_secs(86_400) / u32::try_from(cycles)?);
            for chunk in 0..written {
                self.site.write((cycle * written + chunk) * 61 % 4_096);
            }
            if cycle + 1 == cycles {
                self.scene.objects.take_log();
            }
            let report = self.replicator.cycle(Wishes::default(), &stop).await?;
            ensure!(report.point.stats.bytes_changed == written * CHUNK_BYTES, "the cycle found what was written");
        }
        Ok((self.scene.objects.requests().since(before), self.scene.objects.take_log()))
    }

    /// A daily prune by another process, and what it asked for.
    async fn prune(&self) -> Result<Requests> {
        let vault = self.scene.open(9).await?;
        let Some(lineage) = vault.lineage(&scene::group()?).await? else { anyhow::bail!("there is no lineage") };
        let before = self.scene.objects.requests();
        let retention = Retention { all_seconds: 86_400, hourly: 48, daily: 30, ..Retention::default() };
        let plan = lineage.plan_prune(&retention, Grace { seconds: 2 * 86_400, commits: 8 }).await?;
        lineage.prune(plan).await?;
        Ok(self.scene.objects.requests().since(before))
    }
}

/// A day's cycles and its prune, once retention and grace bite.
async fn days(cycles: u64, written: u64, first: u64) -> Result<(Mean, Mean, Vec<String>)> {
    let group = Group::begin(4_096).await?;
    group.day(1, first).await?;
    let mut last = (Requests::default(), Vec::new());
    let mut pruned = Requests::default();
    for _ in 0..6 {
        last = group.day(cycles, written).await?;
        pruned = group.prune().await?;
    }
    Ok((Mean::of(last.0, cycles), Mean::of(pruned, 1), last.1))
}

async fn kind(settings: Settings, written: u64) -> Result<Kind> {
    let half = settings.cycles / 2;
    let (_, few, _) = days(half, written, settings.written).await?;
    let (cycle, many, log) = days(settings.cycles, written, settings.written).await?;
    let prune_cycle = many.plus(&few.times(-1.0)).times(1.0 / (settings.cycles - half) as f64);
    let prune_day = few.plus(&prune_cycle.times(-(half as f64)));
    Ok(Kind { cycle, prune_cycle, prune_day, log })
}

/// Runs cycles of both kinds and daily prunes, and counts.
///
/// # Errors
/// The vault failed.
pub async fn measure(settings: Settings) -> Result<Measured> {
    Ok(Measured { idle: kind(settings, 0).await?, changing: kind(settings, settings.written).await? })
}

/// The page's table: requests of a cycle, and what a month costs at each objective.
pub fn table(settings: Settings, measured: &Measured, prices: Prices, objectives: &[Duration]) -> String {
    let mut text = String::from(
        "| requests of | PUT | GET | HEAD | LIST | DELETE |\n| --- | ---: | ---: | ---: | ---: | ---: |\n",
    );
    let changing = format!("a cycle that finds {} KiB changed", settings.written * CHUNK_BYTES / 1_024);
    for (name, mean) in [
        ("an idle cycle", &measured.idle.cycle),
        (changing.as_str(), &measured.changing.cycle),
        ("a daily prune, for each idle cycle of its day", &measured.idle.prune_cycle),
        ("the same, for each that finds something", &measured.changing.prune_cycle),
        ("a daily prune besides, idle", &measured.idle.prune_day),
        ("the same, changing", &measured.changing.prune_day),
    ] {
        text += &format!("| {name} | {mean} |\n");
    }
    text += "\n| objective | cycles a month | PUTs, idle | dollars, idle | of these for prunes | PUTs, changing | dollars, changing | of these for prunes |\n";
    text += "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
    for objective in objectives {
        let cycles = MONTH.as_secs_f64() / objective.as_secs_f64();
        let mut row = format!("| {} s | {cycles:.0} |", objective.as_secs());
        for kind in [&measured.idle, &measured.changing] {
            let prunes = kind.prunes(86_400.0 / objective.as_secs_f64());
            let all = kind.cycle.times(cycles).plus(&prunes);
            row += &format!(" {:.0} | {:.2} | {:.2} |", all.puts, prices.of(&all), prices.of(&prunes));
        }
        text += &row;
        text.push('\n');
    }
    text
}
