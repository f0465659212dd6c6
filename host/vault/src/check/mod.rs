//! Checking a vault: what is damaged, and whom it hurts.
//!
//! The check goes through each lineage: its commits and their chain, then the map of every disk of every point. Pages
//! and packs are shared by points, so each is looked at once and its verdict kept: the findings below it, by number, each
//! with the chunks that it hurts. A point's findings are those below its roots; a finding thus names exactly the points,
//! machines and extents that need what is damaged, and everything else is known to be whole. Where frames are read, the
//! verdict on a pack is by frame: a point that needs only its whole frames is not hurt. Frames that were moved are checked
//! where they are now.
//!
//! It reads only, and through caches of its own: what another task of this process has read long ago may be gone. A commit
//! that is damaged hides its own point; the check goes on with the others. What a prune moves or deletes meanwhile looks as
//! if it were missing; so a lineage with findings is checked again when a newer ledger counts by then.
//!
//! A sample is drawn frame by frame: a keyed hash of pack and ordinal says whether a frame is read, so that each frame of
//! each pack has the same chance, whatever the order in which they are met.

mod packs;
mod sample;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use farshore_core::{Code, Coded, DiskId, GroupName, LineageId, MachineId, PackId, Sequence, Timestamp};
use futures::{FutureExt, future::BoxFuture};
use serde::Serialize;

pub use self::sample::SampleSize;
pub(crate) use self::sample::{Dice, Share};
use self::{packs::ReadCollection, sample::stored_bytes};
use crate::{
    CAPSULE_ITEMS_MAX, Error, PageRef, Point, Result, Vault,
    capsule::sound_items,
    commit::{Event, commit_key},
    ledger::{Valid, ledger_key},
    lineage::LineageShared,
    map::leaf_slots,
    pack::CHUNK,
    page::{LEVELS, Page, SLOT_BITS, SLOTS},
    seal::Hash,
    store::Uncopied,
    succession::{Contradiction, Succession},
};

/// The most extents that a finding names of one point; how many bytes are hurt it says in any case.
const EXTENTS_MAX: usize = 1_024;

/// How often a lineage is checked again because prunes went on meanwhile.
const RECHECKS_MAX: usize = 4;

/// How much is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckDepth {
    /// Every commit and map page is read and verified; of every pack, its length and its header.
    Structure,
    /// As well: a random part of all frames is read, opened and identified.
    Sample(SampleSize),
    /// As well: every stored byte of every pack is read, and every frame is opened and identified.
    Full,
}

/// How far a check has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CheckProgress {
    /// The group whose lineage is being checked.
    pub group: String,
    /// Points whose maps have been walked.
    pub points_checked: u64,
    /// Points that are known of so far.
    pub points_total: u64,
    /// Commits, map pages and packs that have been looked at.
    pub objects_checked: u64,
    /// Bytes of packs that have been verified.
    pub bytes_read: u64,
}

/// A point that cannot be restored as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct HurtPoint {
    /// The group.
    pub group: GroupName,
    /// The point.
    pub sequence: Sequence,
    /// The machines that are hurt; the point's other machines can be restored. Empty when the point's own commit is
    /// damaged, so that none of them can, or when only its capsule is hurt.
    pub machines: Vec<MachineId>,
    /// The items of its capsule that are hurt. A capsule never hurts a machine.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<String>,
    /// What of their disks is lost, as far as it is on the list: at most 1,024 extents.
    pub extents: Vec<HurtExtent>,
    /// How many bytes of disks are lost.
    pub bytes: u64,
}

/// A range of a disk that cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct HurtExtent {
    /// The machine.
    pub machine: MachineId,
    /// Its disk.
    pub disk: DiskId,
    /// The first byte.
    pub start: u64,
    /// How many bytes.
    pub length: u64,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckFinding {
    /// The object's key below the vault's address.
    pub object: String,
    /// The code of what is wrong.
    pub code: Code,
    /// What is wrong, and what to do.
    pub problem: String,
    /// The points that need the object. All other points are unaffected.
    pub points: Vec<HurtPoint>,
    /// Nobody, or not everybody, can open the points of this lineage without the object; of all lineages, if it is the vault's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closes: Option<Closes>,
    /// What else it means, though no point is hurt by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub means: Option<Means>,
}

/// What a finding means that hurts no point by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Means {
    /// Points are read with both addresses of the vault; from that of the data alone something may be missing.
    NotAtBoth,
    /// The object is a commit that was not written on top of the one before it that is there: one of the two was exchanged, or
    /// two histories were mixed.
    BrokenChain,
    /// The object is a commit that says something else of the lineage's state than what the commits up to it have made of it. Whoever
    /// signed it claims what he may not, or has built on what he cannot have read.
    WrongState,
    /// Without it nobody can tell what the newest commit of the lineage is, or by which ledger points stand: nothing can be added
    /// or pruned, and points are found by what was true before.
    NoNewest(LineageId),
}

/// Whose points cannot be opened without an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Closes {
    /// All of a lineage: the object holds its keys.
    Lineage(LineageId),
    /// Everybody's, or what was sealed with keys that lie in the object.
    Vault,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// How much was checked.
    pub depth: CheckDepth,
    /// When it began, as this host counts time.
    pub begun_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Which part of all frames a sample was to read, in billionths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampled_billionths: Option<u32>,
    /// Points that were checked, in all lineages.
    pub points_checked: u64,
    /// Commits, map pages and packs that were looked at.
    pub objects_checked: u64,
    /// Bytes of packs that were verified.
    pub bytes_read: u64,
    /// Frames that were opened and identified.
    pub frames_verified: u64,
    /// Lineages that were not checked, because their keys were never sealed for this host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub closed: Vec<LineageId>,
    /// What is wrong; empty if all is well.
    pub findings: Vec<CheckFinding>,
    /// What it says of each point, to be kept with the point.
    #[serde(skip)]
    pub(crate) points: Vec<CheckedPoint>,
}

/// What a check says of one point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CheckedPoint {
    pub(crate) lineage: LineageId,
    pub(crate) point: Sequence,
    /// Of its commit.
    pub(crate) hash: Hash,
    /// The findings that hurt it.
    pub(crate) findings: usize,
    pub(crate) machines: usize,
    pub(crate) bytes: u64,
    /// One of the findings is of data that was read.
    pub(crate) is_rotten: bool,
}

/// The chunks of a disk that a finding hurts, in order: the first ranges, and how many there are in all.
#[derive(Debug, Clone, Default)]
struct Hurt {
    ranges: Vec<std::ops::Range<u64>>,
    chunks: u64,
}

impl Hurt {
    fn add(&mut self, range: std::ops::Range<u64>) {
        self.chunks = self.chunks.saturating_add(range.end.saturating_sub(range.start));
        let has_room = self.ranges.len() < EXTENTS_MAX;
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ if has_room => self.ranges.push(range),
            _ => {}
        }
    }

    fn extend(&mut self, other: &Self) {
        let counted = self.chunks.saturating_add(other.chunks);
        other.ranges.iter().for_each(|range| self.add(range.clone()));
        self.chunks = counted;
    }
}

/// Numbers of findings, each with what it hurts below a page.
type Hurts = BTreeMap<usize, Hurt>;
type Verdict = Arc<Hurts>;

/// What is known to be damaged before a check begins: so that it says whom that hurts.
#[derive(Debug, Clone)]
pub(crate) struct Suspect {
    pub(crate) lineage: LineageId,
    pub(crate) part: Part,
    pub(crate) error: Error,
    /// The frames that do not open.
    pub(crate) frames: BTreeSet<u32>,
}

/// What is wrong with a pack.
#[derive(Debug, Clone)]
enum PackVerdict {
    Whole,
    Lost(usize),
    Frames(usize, Arc<BTreeSet<u32>>),
}

/// What is looked at of a pack.
#[derive(Debug, Clone)]
enum Look {
    Structure,
    Sample(Arc<Dice>),
    Full,
}

struct Check<'a> {
    look: Look,
    progress: CheckProgress,
    report: &'a (dyn Fn(&CheckProgress) + Send + Sync),
    frames_verified: u64,
    closed: Vec<LineageId>,
    findings: Vec<CheckFinding>,
    pages: BTreeMap<PageRef, Verdict>,
    packs: BTreeMap<Part, PackVerdict>,
    /// Packs whose collections cannot be read.
    unplaced: BTreeMap<PackId, usize>,
    collection: Option<ReadCollection>,
    none: Verdict,
    points: Vec<CheckedPoint>,
    suspects: &'a [Suspect],
    /// What only reading has shown to be damaged.
    rotten: Vec<Suspect>,
    /// The findings that say so.
    rotten_findings: BTreeSet<usize>,
}

/// The frames of a pack that lie in the pack itself, or in the collection of this id.
pub(crate) type Part = (PackId, Option<PackId>);

impl Vault {
    /// Checks the vault. It changes nothing, and may run beside writers: what they commit meanwhile is not looked at.
    /// `progress` is called often, from the task that checks.
    ///
    /// # Errors
    /// The store failed. Damage is no error but a finding.
    pub async fn check(
        &self,
        depth: CheckDepth,
        progress: &(dyn Fn(&CheckProgress) + Send + Sync),
    ) -> Result<CheckReport> {
        Ok(self.check_knowing(depth, &[], progress).await?.0)
    }

    /// The same where this is known to be damaged already; also what only reading has shown to be damaged, which another check
    /// need not read again to know.
    pub(crate) async fn check_knowing(
        &self,
        depth: CheckDepth,
        suspects: &[Suspect],
        progress: &(dyn Fn(&CheckProgress) + Send + Sync),
    ) -> Result<(CheckReport, Vec<Suspect>)> {
        self.0.access.refresh().await?;
        let begun_at = self.0.context.clock.now();
        let share = match depth {
            CheckDepth::Sample(size) => Some(size.share(|| stored_bytes(&self.0.store)).await?),
            CheckDepth::Structure | CheckDepth::Full => None,
        };
        let look = match (depth, share) {
            (CheckDepth::Full, _) => Look::Full,
            (_, None) => Look::Structure,
            (_, Some(share)) => Look::Sample(Arc::new(Dice::new(share, &*self.0.context.entropy))),
        };
        let mut check = Check::new(look, suspects, progress);
        check.own_objects(self).await?;
        check.copies(self).await?;
        for id in self.lineage_ids().await? {
            check.lineage_of(self, id).await?;
        }
        let rotten = std::mem::take(&mut check.rotten);
        Ok((check.report(depth, share, begun_at, self.0.context.clock.now()), rotten))
    }

    /// Checks the structure of one lineage, and says whom these damages hurt.
    pub(crate) async fn check_suspects(&self, lineage: LineageId, suspects: &[Suspect]) -> Result<CheckReport> {
        let begun_at = self.0.context.clock.now();
        let mut check = Check::new(Look::Structure, suspects, &|_| {});
        check.lineage_of(self, lineage).await?;
        let mut report = check.report(CheckDepth::Structure, None, begun_at, self.0.context.clock.now());
        // What was suspected of something that no point needs any more is no damage.
        let is_idle = |finding: &CheckFinding| {
            let is_suspect = |suspect: &Suspect| finding.problem.starts_with(&suspect.error.to_string());
            finding.points.is_empty() && suspects.iter().any(is_suspect)
        };
        report.findings.retain(|finding| !is_idle(finding));
        Ok(report)
    }
}

impl<'a> Check<'a> {
    fn new(look: Look, suspects: &'a [Suspect], report: &'a (dyn Fn(&CheckProgress) + Send + Sync)) -> Self {
        Self {
            look,
            progress: CheckProgress::default(),
            report,
            frames_verified: 0,
            closed: Vec::new(),
            findings: Vec::new(),
            pages: BTreeMap::new(),
            packs: BTreeMap::new(),
            unplaced: BTreeMap::new(),
            collection: None,
            none: Arc::default(),
            points: Vec::new(),
            suspects,
            rotten: Vec::new(),
            rotten_findings: BTreeSet::new(),
        }
    }

    fn report(self, depth: CheckDepth, share: Option<Share>, begun_at: Timestamp, ended_at: Timestamp) -> CheckReport {
        CheckReport {
            depth,
            begun_at,
            ended_at,
            sampled_billionths: share.map(Share::billionths),
            points_checked: self.progress.points_checked,
            objects_checked: self.progress.objects_checked,
            bytes_read: self.progress.bytes_read,
            frames_verified: self.frames_verified,
            closed: self.closed,
            findings: self.findings,
            points: self.points,
        }
    }
}

impl Check<'_> {
    /// Makes a finding of damage, or gives any other error back.
    fn find(&mut self, error: &Error) -> Result<usize> {
        let object = match error {
            Error::Damaged { object, .. }
            | Error::ObjectMissing { object, .. }
            | Error::UnsupportedFormat { object, .. }
            | Error::NotAtData { object }
            | Error::AddressesDiffer { object } => object.clone(),
            other => return Err(other.clone()),
        };
        let advice = error.advice().map(|advice| format!("; {advice}")).unwrap_or_default();
        let problem = format!("{error}{advice}");
        self.findings.push(CheckFinding {
            object,
            code: error.code(),
            problem,
            points: Vec::new(),
            closes: None,
            means: None,
        });
        Ok(self.findings.len() - 1)
    }

    fn count_object(&mut self) {
        self.progress.objects_checked += 1;
        (self.report)(&self.progress);
    }

    /// Looks for the keys of epochs: whoever opened the vault has seen its header and its ring.
    async fn own_objects(&mut self, vault: &Vault) -> Result<()> {
        for (object, reason) in vault.0.access.needed_objects() {
            self.count_object();
            if !vault.0.store.is_listed(&object).await? {
                let finding = self.find(&Error::ObjectMissing { object, reason: reason.to_owned() })?;
                self.findings[finding].closes = Some(Closes::Vault);
            }
        }
        Ok(())
    }

    /// That what should be at both of two addresses is; in a full check also that it is the same.
    async fn copies(&mut self, vault: &Vault) -> Result<()> {
        let compare = matches!(self.look, Look::Full);
        let mut counted = BTreeMap::new();
        for uncopied in vault.0.store.uncopied(compare).await? {
            if does_count(vault, &uncopied.object, &mut counted).await? {
                self.uncopied(uncopied)?;
            }
        }
        Ok(())
    }

    fn uncopied(&mut self, Uncopied { object, differs }: Uncopied) -> Result<()> {
        let error = if differs { Error::AddressesDiffer { object } } else { Error::NotAtData { object } };
        let finding = self.find(&error)?;
        self.findings[finding].means = Some(Means::NotAtBoth);
        Ok(())
    }

    async fn lineage_of(&mut self, vault: &Vault, id: LineageId) -> Result<()> {
        match vault.open_lineage(id).await {
            Ok(Some(lineage)) => self.lineage(&lineage).await?,
            Err(Error::NoKey { .. }) => self.closed.push(id),
            Ok(None) => {
                let object = commit_key(id, Sequence::FIRST);
                let reason = "its lineage has a folder".to_owned();
                let finding = self.find(&Error::ObjectMissing { object, reason })?;
                self.findings[finding].closes = Some(Closes::Lineage(id));
            }
            Err(error) => {
                let finding = self.find(&error)?;
                self.findings[finding].closes = Some(Closes::Lineage(id));
            }
        }
        Ok(())
    }

    async fn lineage(&mut self, lineage: &Arc<LineageShared>) -> Result<()> {
        self.progress.group = lineage.group.to_string();
        let first = self.findings.len();
        let mut lies: Vec<CheckFinding> = Vec::new();
        for round in 1..=RECHECKS_MAX {
            let (findings, points, progress) = (self.findings.len(), self.points.len(), self.progress.clone());
            let rotten = self.rotten.len();
            let counted = self.lineage_once(lineage).await?;
            if self.findings.len() == findings || round == RECHECKS_MAX || !has_gone_on(lineage, counted).await? {
                break;
            }
            // What was not there may have been moved or deleted rightly: only what the newer ledger needs counts. What somebody
            // has claimed he has, though his commit be deleted by now.
            lies.extend(self.findings.drain(findings..).filter(|finding| finding.means == Some(Means::WrongState)));
            self.points.truncate(points);
            self.rotten.truncate(rotten);
            self.rotten_findings.split_off(&findings);
            self.progress.points_checked = progress.points_checked;
            self.progress.points_total = progress.points_total;
        }
        for lie in lies {
            if !self.findings[first..].iter().any(|known| known.object == lie.object && known.means == lie.means) {
                self.findings.push(lie);
            }
        }
        Ok(())
    }

    /// Checks a lineage by the ledger that counts now; its commit.
    async fn lineage_once(&mut self, lineage: &Arc<LineageShared>) -> Result<Option<Sequence>> {
        // References are unique to a lineage, whose folder is part of every key.
        self.pages.clear();
        self.packs.clear();
        self.unplaced.clear();
        self.collection = None;
        for suspect in self.suspects.iter().filter(|suspect| suspect.lineage == lineage.id) {
            let finding = self.find(&suspect.error)?;
            self.rotten_findings.insert(finding);
            self.packs.insert(suspect.part, PackVerdict::Frames(finding, Arc::new(suspect.frames.clone())));
        }
        let head = lineage.ledgers.newest().await;
        let (newest, valid) = match &head {
            Ok((newest, valid)) => (newest.head.sequence.get(), valid.clone()),
            Err(error) if error.is_damage() => (lineage.log.newest_listed().await?, lineage.ledgers.readable().await?),
            Err(error) => return Err(error.clone()),
        };
        let found = self.findings.len();
        if let Some(valid) = &valid {
            let ledger = ledger_key(lineage.id, valid.pruned.judged.get(), valid.pruned.ledger.id);
            if let Some(uncopied) = lineage.store.uncopied_object(ledger).await? {
                self.uncopied(uncopied)?;
            }
        }
        let points = self.commits(lineage, valid.as_deref(), newest).await?;
        if let Err(error) = head {
            let finding = self.find(&error)?;
            // The newest commit itself was looked at with all others.
            self.findings[finding].means = Some(Means::NoNewest(lineage.id));
            let object = self.findings[finding].object.clone();
            let is_known = |other: &CheckFinding| other.object == object && other.means != Some(Means::WrongState);
            if self.findings[found..finding].iter().any(is_known) {
                self.findings.remove(finding);
            }
        }
        self.progress.points_total += u64::try_from(points.len()).unwrap_or(u64::MAX);
        // The oldest first: later points then find most of their pages checked.
        for (sequence, hash) in points {
            match lineage.point_in(valid.as_deref(), sequence).await {
                Ok(point) => self.point(lineage, &point, hash).await?,
                // It was there a moment ago: a prune goes on, or the store loses what it has.
                Err(error) => {
                    let object = commit_key(lineage.id, sequence);
                    let finding = match error {
                        Error::PointMissing { .. } => {
                            let reason = "it was there a moment ago".to_owned();
                            self.find(&Error::ObjectMissing { object, reason })?
                        }
                        error => self.find(&error)?,
                    };
                    let hurt = HurtPoint::whole(lineage, sequence);
                    self.findings[finding].points.push(hurt);
                }
            }
            self.progress.points_checked += 1;
            (self.report)(&self.progress);
        }
        self.collections(lineage, valid.as_deref(), found).await?;
        Ok(valid.map(|valid| valid.commit))
    }

    /// That no collection has more bytes than it should: pages and frames are read by their places, and see nothing of what
    /// follows.
    async fn collections(&mut self, lineage: &LineageShared, valid: Option<&Valid>, found: usize) -> Result<()> {
        for reference in valid.iter().flat_map(|valid| &valid.ledger.collections) {
            let object = reference.key(lineage.id);
            let is_known = self.findings[found..].iter().any(|finding| finding.object == object);
            match lineage.store.size(&object).await? {
                Some(bytes) if bytes != u64::from(reference.bytes) && !is_known => {
                    let problem = format!("it has {bytes} bytes, and should have {}", reference.bytes);
                    self.find(&Error::damaged(object, problem))?;
                }
                // One that is missing was missed by whatever needs it.
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads every commit that counts, and compares the chain of their hashes where it has no holes; the numbers of the points
    /// among them.
    async fn commits(
        &mut self,
        lineage: &Arc<LineageShared>,
        valid: Option<&Valid>,
        newest: u64,
    ) -> Result<Vec<(Sequence, Hash)>> {
        let judged = valid.map_or(1, |valid| valid.pruned.judged.get());
        let standing = standing(valid);
        let mut points = Vec::new();
        let mut succession = Succession::default();
        for number in std::iter::once(1).chain(standing).chain(judged + 1..=newest) {
            let sequence = Sequence::new(number);
            let object = commit_key(lineage.id, sequence);
            if number == judged + 1 {
                succession.follow_judged(lineage, Sequence::new(judged)).await?;
            }
            let read = match number {
                1 => lineage.log.read(sequence).await,
                _ => lineage.commit_in(valid, sequence).await,
            };
            let read = match read {
                Ok(Some(commit)) => Ok(commit),
                // Without a ledger nobody knows which of them were deleted; that the ledger is damaged is a finding.
                Ok(None) if valid.is_none() && number <= lineage.log.deleted_to() => continue,
                Ok(None) => {
                    let reason = "there are later commits".to_owned();
                    Err(Error::ObjectMissing { object: object.clone(), reason })
                }
                Err(error) => Err(error),
            };
            self.count_object();
            let commit = match read {
                Ok(commit) => commit,
                Err(error) => {
                    let finding = self.find(&error)?;
                    let hurt = HurtPoint::whole(lineage, sequence);
                    if number > 1 {
                        self.findings[finding].points.push(hurt);
                    }
                    continue;
                }
            };
            match succession.follow(&commit) {
                None => {}
                Some(Contradiction::OtherBefore(hash)) => {
                    let expected = crate::wire::hex::encode(&hash);
                    let problem = format!("it does not follow commit {}, whose hash is {expected}", number - 1);
                    let finding = self.find(&Error::damaged(object, problem))?;
                    self.findings[finding].means = Some(Means::BrokenChain);
                }
                Some(Contradiction::State(wrong)) => {
                    let problem = format!(
                        "its author, {}, says of the group's state what the commits up to it have not made of it: {}",
                        lineage.access.host_shown(commit.author),
                        wrong.join(", ")
                    );
                    let error = Error::damaged(object, problem);
                    let finding = self.find(&error)?;
                    // To bring another back would help nobody.
                    self.findings[finding].problem = error.to_string();
                    self.findings[finding].means = Some(Means::WrongState);
                }
            }
            if matches!(commit.body.event, Event::Point(_)) {
                points.push((sequence, commit.hash));
            }
        }
        Ok(points)
    }

    async fn point(&mut self, lineage: &Arc<LineageShared>, point: &Point, hash: Hash) -> Result<()> {
        let mut hurt: BTreeMap<usize, HurtPoint> = BTreeMap::new();
        for machine in &point.machines {
            for disk in &machine.disks {
                let Some(root) = disk.map else { continue };
                for (finding, below) in self.page(lineage, root, LEVELS - 1, 0).await?.iter() {
                    let hurt = hurt.entry(*finding).or_insert_with(|| HurtPoint::whole(lineage, point.sequence));
                    hurt.add(&machine.machine.id, &disk.disk, disk.size_bytes, below);
                }
            }
        }
        for (item, root) in point.capsule.iter().filter_map(|item| Some((item, item.map?))) {
            for finding in self.page(lineage, root, LEVELS - 1, 0).await?.keys() {
                let hurt = hurt.entry(*finding).or_insert_with(|| HurtPoint::whole(lineage, point.sequence));
                hurt.items.push(item.name.clone());
            }
        }
        if let Err(error) = sound_items(point) {
            let hurt = hurt.entry(self.find(&error)?).or_insert_with(|| HurtPoint::whole(lineage, point.sequence));
            hurt.items.extend(point.capsule.iter().take(CAPSULE_ITEMS_MAX).map(|item| item.name.clone()));
        }
        let machines: BTreeSet<&MachineId> = hurt.values().flat_map(|hurt| &hurt.machines).collect();
        self.points.push(CheckedPoint {
            lineage: lineage.id,
            point: point.sequence,
            hash,
            findings: hurt.len(),
            machines: machines.len(),
            bytes: hurt.values().fold(0, |sum, hurt| sum.saturating_add(hurt.bytes)),
            is_rotten: hurt.keys().any(|finding| self.rotten_findings.contains(finding)),
        });
        for (finding, hurt) in hurt {
            self.findings[finding].points.push(hurt);
        }
        Ok(())
    }

    /// The findings at and below a page.
    fn page<'b>(
        &'b mut self,
        lineage: &'b Arc<LineageShared>,
        reference: PageRef,
        level: usize,
        index: u64,
    ) -> BoxFuture<'b, Result<Verdict>> {
        async move {
            if let Some(verdict) = self.pages.get(&reference) {
                return Ok(Arc::clone(verdict));
            }
            self.count_object();
            let read = lineage.maps.page(&reference, level, index).await;
            let mut below = Hurts::new();
            match read {
                Err(error) => below.entry(self.find(&error)?).or_default().add(chunks_of(level, index)),
                Ok(page) => match &*page {
                    Page::Leaf(_) => self.leaf(lineage, index, leaf_slots(&page), &mut below).await?,
                    Page::Inner(children) => {
                        for (child, slot) in children.iter().zip(index * SLOTS as u64..) {
                            let Some(child) = child else { continue };
                            for (finding, hurt) in self.page(lineage, *child, level - 1, slot).await?.iter() {
                                below.entry(*finding).or_default().extend(hurt);
                            }
                        }
                    }
                },
            }
            let verdict = if below.is_empty() { Arc::clone(&self.none) } else { Arc::new(below) };
            self.pages.insert(reference, Arc::clone(&verdict));
            Ok(verdict)
        }
        .boxed()
    }
}

/// The numbers of the chunks that a page stands for.
fn chunks_of(level: usize, index: u64) -> std::ops::Range<u64> {
    let bits = SLOT_BITS * (u32::try_from(level).expect("levels are few") + 1);
    let chunk = |index: u64| index.checked_shl(bits).unwrap_or(u64::MAX);
    chunk(index)..chunk(index.saturating_add(1))
}

/// The numbers of the points that stand by a ledger.
fn standing(valid: Option<&Valid>) -> impl Iterator<Item = u64> {
    let points = valid.into_iter().flat_map(|valid| &valid.ledger.points);
    points.filter(|point| point.stands).map(|point| point.sequence.get())
}

/// Which commits of a lineage count.
#[derive(Debug, Default)]
struct Counted {
    deleted_to: u64,
    valid: Option<Arc<Valid>>,
}

impl Counted {
    /// Where it cannot be told, because of damage or for lack of keys, all do; the check of the lineage says why.
    async fn of(vault: &Vault, lineage: LineageId) -> Result<Self> {
        let lineage = match vault.open_lineage(lineage).await {
            Ok(Some(lineage)) => lineage,
            Ok(None) | Err(Error::NoKey { .. }) => return Ok(Self::default()),
            Err(error) if error.is_damage() => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        match lineage.ledgers.newest().await {
            Ok((_, valid)) => Ok(Self { deleted_to: lineage.log.deleted_to(), valid }),
            Err(error) if error.is_damage() => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }
}

/// Whether an object counts that is at one address only: a commit under a number that a prune has freed was made by somebody who
/// slept meanwhile, and does not.
async fn does_count(vault: &Vault, object: &str, counted: &mut BTreeMap<LineageId, Counted>) -> Result<bool> {
    let parts: Vec<&str> = object.split('/').collect();
    let ["lineages", lineage, "commits", number] = parts[..] else { return Ok(true) };
    let (Ok(lineage), Ok(number)) = (lineage.parse::<LineageId>(), number.parse::<u64>()) else { return Ok(true) };
    let counted = match counted.entry(lineage) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(unknown) => unknown.insert(Counted::of(vault, lineage).await?),
    };
    let is_freed = number != 1 && number <= counted.deleted_to;
    Ok(!is_freed || standing(counted.valid.as_deref()).any(|stands| stands == number))
}

/// Whether another ledger counts by now. Where that cannot be told, because of damage, there is nothing newer to check by.
async fn has_gone_on(lineage: &LineageShared, counted: Option<Sequence>) -> Result<bool> {
    match lineage.ledgers.newest().await {
        Ok((_, valid)) => Ok(valid.map(|valid| valid.commit) != counted),
        Err(error) if error.is_damage() => Ok(false),
        Err(error) => Err(error),
    }
}

impl HurtPoint {
    /// Nothing of it can be restored, as far as is known yet.
    fn whole(lineage: &LineageShared, sequence: Sequence) -> Self {
        let group = lineage.group.clone();
        Self { group, sequence, machines: Vec::new(), items: Vec::new(), extents: Vec::new(), bytes: 0 }
    }

    fn add(&mut self, machine: &MachineId, disk: &DiskId, size_bytes: u64, hurt: &Hurt) {
        if self.machines.last() != Some(machine) {
            self.machines.push(machine.clone());
        }
        let chunk_bytes = CHUNK as u64;
        let to_byte = |chunk: u64| chunk.saturating_mul(chunk_bytes).min(size_bytes);
        // The last chunk of a disk, and the last page, may end after it.
        let past_end = hurt.ranges.last().map_or(0, |last| {
            last.end.saturating_mul(chunk_bytes).saturating_sub(size_bytes.max(last.start.saturating_mul(chunk_bytes)))
        });
        let bytes = hurt.chunks.saturating_mul(chunk_bytes).saturating_sub(past_end);
        self.bytes = self.bytes.saturating_add(bytes);
        for range in hurt.ranges.iter().take(EXTENTS_MAX.saturating_sub(self.extents.len())) {
            let (start, end) = (to_byte(range.start), to_byte(range.end));
            self.extents.push(HurtExtent {
                machine: machine.clone(),
                disk: disk.clone(),
                start,
                length: end.saturating_sub(start),
            });
        }
    }
}
