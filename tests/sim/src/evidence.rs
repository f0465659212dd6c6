//! What is found in a vault when a world is over: everything that can be listed, restored and read, by a process that has
//! just started and trusts nobody's memory.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use farshore_core::{Generation, GroupName, RunId, Sequence, SiteName};
use farshore_vault::{CheckDepth, Error, Lineage, Point, Vault};
use futures::TryStreamExt;

use crate::{
    content,
    history::{AttemptId, Disks, Hash, Task, attempt_of, description},
    process::Process,
    store::Effect,
    template::{Host, Template},
    world::World,
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
        let objects = world.objects();
        evidence.effects = objects.effects.clone();
        evidence.sent = objects.sent.clone();
        evidence.store = objects.hash();
        let hash = |object: &crate::store::Object| *blake3::hash(&object.bytes).as_bytes();
        evidence.objects = objects.all().iter().map(|(key, object)| (key.clone(), hash(object))).collect();
        evidence
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
        found.folder = format!("{}/lineages/{}/", crate::world::PREFIX, lineage.id());
        let commits = format!("{}commits/", found.folder);
        let number = |key: &str| key.strip_prefix(&commits).and_then(|name| name.parse().ok());
        let objects = world.objects();
        found.commits = objects.all().keys().filter_map(|key| number(key)).collect();
        let made = objects.effects.iter().enumerate().filter_map(|(effect, change)| match change {
            Effect::Created { key, by, at, .. } => Some(Made { number: number(key)?, by: *by, at: *at, effect }),
            Effect::Overwritten { .. } | Effect::Deleted { .. } => None,
        });
        found.made = made.collect();
        found
    }
}
