//! What is found in a vault when a world is over: everything that can be listed, restored and read, by a process that has
//! just started and trusts nobody's memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use farshore_core::{Generation, GroupName, RunId, Sequence, SiteName};
use farshore_vault::{CheckDepth, Error, Lineage, Point, Vault};
use futures::TryStreamExt;

use crate::{
    content,
    history::{AttemptId, Disks, Fate, Hash, Task, attempt_of, description},
    process::Process,
    store::{Effect, Objects},
    template::{Host, Template},
    world::{DATA_PREFIX, PREFIX, World},
};

/// The most points of a lineage that are looked at.
const POINTS_MAX: usize = 10_000;

/// The most runs that are looked at.
const RUNS_MAX: usize = 10_000;

/// A point that is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub sequence: Sequence,
    /// Its generation.
    pub generation: Generation,
    /// The site that wrote it.
    pub site: SiteName,
    /// The attempt that it says it is.
    pub attempt: Option<AttemptId>,
    /// The hash of its whole description.
    pub description: Hash,
    /// What its disks hold, or why they cannot be read.
    pub disks: Result<Disks, String>,
}

/// A commit that came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Its number.
    pub number: u64,
    /// What its maker was about.
    pub by: Task,
    /// When, by the store's clock.
    pub at: Duration,
    /// How many effects the store had seen before.
    pub effect: usize,
}

/// What is found of a group's lineage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundLineage {
    /// Its points, oldest first; or why a place in the list could not be read.
    pub points: Vec<Result<Found, String>>,
    /// The numbers of its commits, from the keys in the store, sorted.
    pub commits: Vec<u64>,
    /// Its commits in the order in which they came to be, also those that are gone; a number that was made again after it was
    /// deleted is there again.
    pub made: Vec<Made>,
    /// The folder of its objects.
    pub folder: String,
    /// Its pins, as the head says: runs and points.
    pub pins: Vec<(RunId, Sequence)>,
    /// The newest commit and its generation, as the head says.
    pub head: Option<(Sequence, Generation)>,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// By group.
    pub lineages: BTreeMap<GroupName, FoundLineage>,
    /// The entries of each run, or why they cannot be read.
    pub runs: BTreeMap<String, Result<Vec<Bytes>, String>>,
    /// What a full check of the vault finds.
    pub findings: Vec<String>,
    /// Everything that changed in the store, in order.
    pub effects: Vec<Effect>,
    /// What is in the store, by key: the hash of the bytes.
    pub objects: BTreeMap<String, Hash>,
    /// Every payload that was ever sent to the store, with its key.
    pub sent: Vec<(String, Bytes)>,
    /// The hash of everything in the store.
    pub store: Hash,
}

/// Reads all disks of a point: in pieces, and one range more, which must be the same bytes.
///
/// # Errors
/// The vault's.
pub async fn restore(lineage: &Lineage, point: &Point) -> Result<Disks, Error> {
    let reader = lineage.open_point(point.sequence).await?;
    let mut disks = Disks::new();
    for machine in &point.machines {
        for disk in &machine.disks {
            let reader = reader.disk(&machine.machine.id, &disk.disk)?;
            let mut content = vec![0; usize::try_from(reader.size_bytes()).unwrap_or(0)];
            let mut pieces = reader.pieces();
            while let Some(piece) = pieces.try_next().await? {
                let start = usize::try_from(piece.offset).unwrap_or(usize::MAX);
                content[start..start + piece.data.len()].copy_from_slice(&piece.data);
            }
            disks.insert(disk.disk.to_string(), content::describe(&content));
        }
    }
    Ok(disks)
}

impl Evidence {
    /// Gathers it. What cannot be read is part of it; the store is sound by now.
    pub async fn gather(world: &World, template: &Template, groups: &[GroupName]) -> Self {
        let process = Process::start("evidence", None);
        let mut evidence = Self::default();
        let context = world.context("evidence", &process);
        match template.open(world, Host::Recoverer, &process, context).await {
            Ok(vault) => evidence.read(world, &vault, groups).await,
            Err(error) => evidence.findings.push(format!("the vault cannot be opened: {error}")),
        }
        let problems = Self::of_data_alone(world, template, groups).await;
        evidence.findings.extend(problems.iter().map(|problem| format!("from the data alone: {problem}")));
        let objects = world.objects();
        evidence.effects = effects(&objects, world.is_paired());
        evidence.sent = objects.sent.clone();
        evidence.store = objects.hash();
        let hash = |object: &crate::store::Object| *blake3::hash(&object.bytes).as_bytes();
        let placed =
            objects.all().iter().filter_map(|(key, object)| Some((place(key, world.is_paired())?, hash(object))));
        evidence.objects = placed.collect();
        evidence
    }

    /// What is wrong with what the address of the data alone gives, in a world whose vault has two: every point of these groups that was
    /// acknowledged, and that both addresses together list, must be listed, and restore to the same. One that was given up may
    /// be missing while the decision that takes it back is at the metadata only: nobody was told of that decision yet.
    pub async fn of_data_alone(world: &World, template: &Template, groups: &[GroupName]) -> Vec<String> {
        let mut problems = Vec::new();
        let process = Process::start("rescuer", None);
        let Some(store) = world.data_alone(&process) else { return problems };
        let opener = template.opener(Host::Recoverer);
        let both = template.open(world, Host::Recoverer, &process, world.context("rescuer", &process)).await;
        let alone = Vault::open(store, &opener, world.context("rescuer of the data", &process)).await;
        let (both, alone) = match (both, alone) {
            (Ok(both), Ok(alone)) => (both, alone),
            (Err(error), _) | (_, Err(error)) => return vec![format!("the vault cannot be opened: {error}")],
        };
        for group in groups {
            if let Err(error) = compare(world, &both, &alone, group, &mut problems).await {
                problems.push(format!("{group} cannot be read: {error}"));
            }
        }
        problems
    }

    async fn read(&mut self, world: &World, vault: &Vault, groups: &[GroupName]) {
        for group in groups {
            match vault.lineage(group).await {
                Ok(None) => {}
                Ok(Some(lineage)) => {
                    let found = FoundLineage::read(world, &lineage).await;
                    self.lineages.insert(group.clone(), found);
                }
                Err(error) => self.findings.push(format!("the lineage of {group} cannot be opened: {error}")),
            }
        }
        match vault.runs(RUNS_MAX).await {
            Err(error) => self.findings.push(format!("the runs cannot be listed: {error}")),
            Ok(runs) => {
                for run in runs {
                    let entries = vault.run_entries(run).await.map_err(|error| error.to_string());
                    self.runs.insert(run.to_string(), entries);
                }
            }
        }
        match vault.check(CheckDepth::Full, &|_| {}).await {
            Err(error) => self.findings.push(format!("the vault cannot be checked: {error}")),
            Ok(report) => {
                let said = report.findings.iter().map(|finding| format!("{}: {}", finding.object, finding.problem));
                self.findings.extend(said);
                self.findings
                    .extend(report.closed.iter().map(|id| format!("the lineage {id} is closed to a recoverer")));
            }
        }
    }
}

async fn compare(
    world: &World,
    both: &Vault,
    alone: &Vault,
    group: &GroupName,
    problems: &mut Vec<String>,
) -> Result<(), Error> {
    let acknowledged: BTreeSet<Sequence> = {
        let history = world.history();
        let of_group = history.attempts.iter().filter(|attempt| attempt.group == *group);
        of_group
            .filter_map(|attempt| match &attempt.fate {
                Fate::Acknowledged(sequence, _) => Some(*sequence),
                _ => None,
            })
            .collect()
    };
    let Some(lineage) = both.lineage(group).await? else { return Ok(()) };
    let listed = lineage.points(None, POINTS_MAX).await?;
    let alone = alone.lineage(group).await?;
    let known = match &alone {
        Some(alone) => alone.points(None, POINTS_MAX).await?,
        None => Vec::new(),
    };
    let is_behind = match &alone {
        Some(alone) => alone.head().await?.sequence < lineage.head().await?.sequence,
        None => false,
    };
    let taken_back: BTreeSet<Sequence> = {
        let history = world.history();
        let untold = history.prunes.iter().filter(|prune| prune.group == *group && prune.told_at.is_none());
        untold.flat_map(|prune| prune.revived.iter().copied()).collect()
    };
    for point in listed.iter().filter(|point| acknowledged.contains(&point.sequence)) {
        let Some(alone) = alone.as_ref().filter(|_| known.contains(point)) else {
            if is_behind && taken_back.contains(&point.sequence) {
                continue;
            }
            problems.push(format!("point {} of {group}, which was acknowledged, is not listed", point.sequence));
            continue;
        };
        match restore(alone, point).await {
            Err(error) => problems.push(format!("point {} of {group} cannot be restored: {error}", point.sequence)),
            Ok(disks) if disks != restore(&lineage, point).await? => {
                problems.push(format!("point {} of {group} has other content", point.sequence));
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Where an object counts, as if the vault had one address; none if it is a copy of one that is elsewhere.
fn place(key: &str, is_paired: bool) -> Option<String> {
    let is_data = |key: &str| {
        let folder = key.strip_prefix("/lineages/").and_then(|rest| rest.split('/').nth(1));
        matches!(folder, Some("packs" | "maps" | "collections" | "reserves"))
    };
    match key.strip_prefix(DATA_PREFIX).filter(|_| is_paired) {
        Some(rest) if rest.starts_with('/') => is_data(rest).then(|| format!("{PREFIX}{rest}")),
        _ => Some(key.to_owned()),
    }
}

/// What changed in the store, as if the vault had one address.
fn effects(objects: &Objects, is_paired: bool) -> Vec<Effect> {
    let placed = objects.effects.iter().filter_map(|effect| {
        let mut effect = effect.clone();
        let (Effect::Created { key, .. } | Effect::Overwritten { key, .. } | Effect::Deleted { key, .. }) = &mut effect;
        *key = place(key, is_paired)?;
        Some(effect)
    });
    placed.collect()
}

impl FoundLineage {
    async fn read(world: &World, lineage: &Lineage) -> Self {
        let mut found = Self::default();
        match lineage.head().await {
            Ok(head) => {
                found.head = Some((head.sequence, head.generation));
                found.pins = head.pins.iter().map(|pin| (pin.run, pin.point)).collect();
            }
            Err(error) => found.points.push(Err(format!("its head cannot be read: {error}"))),
        }
        match lineage.list_points(None, POINTS_MAX).await {
            Err(error) => found.points.push(Err(format!("its points cannot be listed: {error}"))),
            Ok(listed) => {
                for (_, point) in listed.into_iter().rev() {
                    let point = match point {
                        Err(error) => Err(error.to_string()),
                        Ok(point) => Ok(Found {
                            sequence: point.sequence,
                            generation: point.generation,
                            site: point.site.clone(),
                            attempt: attempt_of(&point.note),
                            description: description(&point),
                            disks: restore(lineage, &point).await.map_err(|error| error.to_string()),
                        }),
                    };
                    world.totals().restores += 1;
                    found.points.push(point);
                }
            }
        }
        found.folder = format!("{PREFIX}/lineages/{}/", lineage.id());
        let commits = format!("{}commits/", found.folder);
        let number = |key: &str| key.strip_prefix(&commits).and_then(|name| name.parse().ok());
        let objects = world.objects();
        found.commits = objects.all().keys().filter_map(|key| number(key)).collect();
        let effects = effects(&objects, world.is_paired());
        let made = effects.iter().enumerate().filter_map(|(effect, change)| match change {
            Effect::Created { key, by, at, .. } => Some(Made { number: number(key)?, by: *by, at: *at, effect }),
            Effect::Overwritten { .. } | Effect::Deleted { .. } => None,
        });
        found.made = made.collect();
        found
    }
}
