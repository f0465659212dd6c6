//! Checking a vault: what is damaged, and whom it hurts.
//!
//! The check goes through each lineage: its commits and their chain, then the map of every disk of every point. Pages
//! and packs are shared by points, so each is looked at once and its verdict kept: the findings below it, by number. A
//! point's findings are those below its roots; a finding thus names exactly the points and machines that need what is
//! damaged, and everything else is known to be whole. In a full check the verdict on a pack is by frame: a point that
//! needs only its whole frames is not hurt. Frames that were moved are checked where they are now.
//!
//! It reads only. A commit that is damaged hides its own point; the check goes on with the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use farshore_core::{Code, Coded, GroupName, LineageId, MachineId, PackId, Sequence};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use serde::Serialize;

use crate::{
    CAPSULE_ITEMS_MAX, Error, PageRef, Point, Result, Vault,
    capsule::sound_items,
    collection::{COLLECTION_BYTES_MAX, Collection, Sort, find_piece, frame_piece},
    commit::{Event, commit_key},
    ledger::Valid,
    lineage::LineageShared,
    map::leaf_slots,
    pack::PackRef,
    page::{LEVELS, LeafSlot, Page, SLOTS},
};

/// How many packs are checked side by side.
const PACKS_AT_ONCE: usize = 4;

/// How much is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckDepth {
    /// Every commit and map page is read and verified; of every pack, its length and its header.
    Structure,
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
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// How much was checked.
    pub depth: CheckDepth,
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
}

/// Numbers of findings.
type Verdict = Arc<BTreeSet<usize>>;

/// What is wrong with a pack.
#[derive(Debug, Clone)]
enum PackVerdict {
    Whole,
    Lost(usize),
    Frames(usize, Arc<BTreeSet<u32>>),
}

struct Check<'a> {
    depth: CheckDepth,
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
}

/// The frames of a pack that lie in the pack itself, or in the collection of this id.
type Part = (PackId, Option<PackId>);

/// The collection that was read last.
struct ReadCollection {
    id: PackId,
    bytes: Bytes,
    is_sound: bool,
}

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
        let mut check = Check {
            depth,
            progress: CheckProgress::default(),
            report: progress,
            frames_verified: 0,
            closed: Vec::new(),
            findings: Vec::new(),
            pages: BTreeMap::new(),
            packs: BTreeMap::new(),
            unplaced: BTreeMap::new(),
            collection: None,
            none: Arc::default(),
        };
        for id in self.lineage_ids().await? {
            match self.lineage_by_id(id).await {
                Ok(Some(lineage)) => check.lineage(&lineage).await?,
                Err(Error::NoKey { .. }) => check.closed.push(id),
                Ok(None) => {
                    let object = commit_key(id, Sequence::FIRST);
                    let reason = "its lineage has a folder".to_owned();
                    check.find(&Error::ObjectMissing { object, reason })?;
                }
                Err(error) => {
                    check.find(&error)?;
                }
            }
        }
        Ok(CheckReport {
            depth,
            points_checked: check.progress.points_checked,
            objects_checked: check.progress.objects_checked,
            bytes_read: check.progress.bytes_read,
            frames_verified: check.frames_verified,
            closed: check.closed,
            findings: check.findings,
        })
    }
}

impl Check<'_> {
    /// Makes a finding of damage, or gives any other error back.
    fn find(&mut self, error: &Error) -> Result<usize> {
        let object = match error {
            Error::Damaged { object, .. }
            | Error::ObjectMissing { object, .. }
            | Error::UnsupportedFormat { object, .. } => object.clone(),
            other => return Err(other.clone()),
        };
        let advice = error.advice().map(|advice| format!("; {advice}")).unwrap_or_default();
        let problem = format!("{error}{advice}");
        self.findings.push(CheckFinding { object, code: error.code(), problem, points: Vec::new() });
        Ok(self.findings.len() - 1)
    }

    fn count_object(&mut self) {
        self.progress.objects_checked += 1;
        (self.report)(&self.progress);
    }

    async fn lineage(&mut self, lineage: &Arc<LineageShared>) -> Result<()> {
        self.progress.group = lineage.group.to_string();
        // References are unique to a lineage, whose folder is part of every key.
        self.pages.clear();
        self.packs.clear();
        self.unplaced.clear();
        let head = lineage.ledgers.newest().await;
        let (newest, valid) = match &head {
            Ok((newest, valid)) => (newest.head.sequence.get(), valid.clone()),
            Err(error) if error.is_damage() => (lineage.log.newest_listed().await?, lineage.ledgers.readable().await?),
            Err(error) => return Err(error.clone()),
        };
        let found = self.findings.len();
        let points = self.commits(lineage, valid.as_deref(), newest).await?;
        if let Err(error) = head {
            let finding = self.find(&error)?;
            // The newest commit itself was looked at with all others.
            let object = self.findings[finding].object.clone();
            if self.findings[found..finding].iter().any(|other| other.object == object) {
                self.findings.remove(finding);
            }
        }
        self.progress.points_total += u64::try_from(points.len()).unwrap_or(u64::MAX);
        // The oldest first: later points then find most of their pages checked.
        for sequence in points {
            let point = lineage.point_in(valid.as_deref(), sequence).await?;
            self.point(lineage, &point).await?;
            self.progress.points_checked += 1;
            (self.report)(&self.progress);
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
    ) -> Result<Vec<Sequence>> {
        let judged = valid.map_or(1, |valid| valid.pruned.judged.get());
        let standing = valid.iter().flat_map(|valid| &valid.ledger.points).filter(|point| point.stands);
        let standing = standing.map(|point| point.sequence.get());
        let mut points = Vec::new();
        let mut previous: Option<[u8; 32]> = None;
        let mut before = 0;
        for number in std::iter::once(1).chain(standing).chain(judged + 1..=newest) {
            let sequence = Sequence::new(number);
            let object = commit_key(lineage.id, sequence);
            previous = previous.filter(|_| before + 1 == number);
            before = number;
            let read = match number {
                1 => lineage.log.read(sequence).await,
                _ => lineage.commit_in(valid, sequence).await,
            };
            let read = match read {
                Ok(Some(commit)) => Ok(commit),
                // Without a ledger nobody knows which of them were deleted; that the ledger is damaged is a finding.
                Ok(None) if valid.is_none() && number <= lineage.log.deleted_to() => continue,
                Ok(None) => Err(Error::ObjectMissing { object, reason: "there are later commits".to_owned() }),
                Err(error) => Err(error),
            };
            self.count_object();
            let commit = match read {
                Ok(commit) => commit,
                Err(error) => {
                    let finding = self.find(&error)?;
                    let (machines, items) = (Vec::new(), Vec::new());
                    let hurt = HurtPoint { group: lineage.group.clone(), sequence, machines, items };
                    if number > 1 {
                        self.findings[finding].points.push(hurt);
                    }
                    previous = None;
                    continue;
                }
            };
            if let Some(previous) = previous.filter(|previous| *previous != commit.body.previous) {
                let expected = crate::wire::hex::encode(&previous);
                let problem = format!("it does not follow commit {}, whose hash is {expected}", number - 1);
                self.find(&Error::damaged(commit_key(lineage.id, sequence), problem))?;
            }
            previous = Some(commit.hash);
            if matches!(commit.body.event, Event::Point(_)) {
                points.push(sequence);
            }
        }
        Ok(points)
    }

    async fn point(&mut self, lineage: &Arc<LineageShared>, point: &Point) -> Result<()> {
        let mut hurt: BTreeMap<usize, (BTreeSet<MachineId>, BTreeSet<String>)> = BTreeMap::new();
        for machine in &point.machines {
            for root in machine.disks.iter().filter_map(|disk| disk.map) {
                for finding in self.page(lineage, root, LEVELS - 1, 0).await?.iter() {
                    hurt.entry(*finding).or_default().0.insert(machine.machine.id.clone());
                }
            }
        }
        for (item, root) in point.capsule.iter().filter_map(|item| Some((item, item.map?))) {
            for finding in self.page(lineage, root, LEVELS - 1, 0).await?.iter() {
                hurt.entry(*finding).or_default().1.insert(item.name.clone());
            }
        }
        if let Err(error) = sound_items(point) {
            let finding = self.find(&error)?;
            hurt.entry(finding)
                .or_default()
                .1
                .extend(point.capsule.iter().take(CAPSULE_ITEMS_MAX).map(|item| item.name.clone()));
        }
        for (finding, (machines, items)) in hurt {
            let (machines, items) = (machines.into_iter().collect(), items.into_iter().collect());
            let hurt = HurtPoint { group: lineage.group.clone(), sequence: point.sequence, machines, items };
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
            let mut below = BTreeSet::new();
            match read {
                Err(error) => {
                    below.insert(self.find(&error)?);
                }
                Ok(page) => match &*page {
                    Page::Leaf(_) => self.leaf(lineage, leaf_slots(&page), &mut below).await?,
                    Page::Inner(children) => {
                        for (child, slot) in children.iter().zip(index * SLOTS as u64..) {
                            if let Some(child) = child {
                                below.extend(self.page(lineage, *child, level - 1, slot).await?.iter());
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

    async fn leaf(
        &mut self,
        lineage: &Arc<LineageShared>,
        slots: &[Option<LeafSlot>],
        below: &mut BTreeSet<usize>,
    ) -> Result<()> {
        let mut places = Vec::with_capacity(slots.len());
        let mut unknown: BTreeMap<PackId, Arc<PackRef>> = BTreeMap::new();
        for slot in slots.iter().flatten() {
            if let Some(finding) = self.unplaced.get(&slot.pack.pack) {
                below.insert(*finding);
                continue;
            }
            let collection = match place(lineage, slot).await {
                Ok(collection) => collection,
                Err(error) => {
                    let finding = self.find(&error)?;
                    self.unplaced.insert(slot.pack.pack, finding);
                    below.insert(finding);
                    continue;
                }
            };
            let part = (slot.pack.pack, collection.as_ref().map(|collection| collection.reference.id));
            match &collection {
                Some(collection) if !self.packs.contains_key(&part) => {
                    let checked = self.check_moved(lineage, &slot.pack, collection).await;
                    self.take(part, &slot.pack, checked)?;
                }
                None if !self.packs.contains_key(&part) => {
                    unknown.insert(slot.pack.pack, Arc::clone(&slot.pack));
                }
                Some(_) | None => {}
            }
            places.push((slot, part, collection));
        }
        let depth = self.depth;
        let checks = stream::iter(unknown.into_values()).map(|pack| async move {
            let checked = check_pack(lineage, &pack, depth).await;
            (pack, checked)
        });
        let checked: Vec<_> = checks.buffered(PACKS_AT_ONCE).collect().await;
        for (pack, checked) in checked {
            self.take((pack.pack, None), &pack, checked)?;
        }
        for (slot, part, collection) in places {
            match self.packs.get(&part) {
                Some(PackVerdict::Lost(finding)) => {
                    below.insert(*finding);
                }
                Some(PackVerdict::Frames(finding, frames)) if frames.contains(&slot.ordinal) => {
                    below.insert(*finding);
                }
                Some(PackVerdict::Whole | PackVerdict::Frames(..)) | None => {
                    if let Some(error) = mismatch(lineage, slot, collection.as_deref()).await? {
                        below.insert(self.find(&error)?);
                    }
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, part: Part, pack: &PackRef, checked: Result<CheckedPack>) -> Result<()> {
        let verdict = match checked {
            Ok(checked) => self.take_pack(pack, checked)?,
            Err(error) => PackVerdict::Lost(self.find(&error)?),
        };
        self.packs.insert(part, verdict);
        self.count_object();
        Ok(())
    }

    /// Checks the frames of a pack that were moved into a collection.
    async fn check_moved(
        &mut self,
        lineage: &Arc<LineageShared>,
        pack: &PackRef,
        collection: &Collection,
    ) -> Result<CheckedPack> {
        let directory = lineage.frames.moved_directory(pack, collection).await?;
        let object = &collection.object;
        let missing =
            || Error::ObjectMissing { object: object.clone(), reason: "recovery points need what is in it".to_owned() };
        let source = collection.source(Sort::Data, pack.pack);
        let ordinals: BTreeSet<u32> = source.into_iter().flat_map(|source| source.ordinals()).collect();
        let mut checked = CheckedPack::default();
        if self.depth == CheckDepth::Structure {
            let size = lineage.store.size(object).await?.ok_or_else(missing)?;
            let expected = u64::from(collection.reference.bytes);
            if size != expected {
                checked.error =
                    Some(Error::damaged(object, format!("it has {size} bytes, and should have {expected}")));
                checked.bad_frames = ordinals;
            }
            return Ok(checked);
        }
        let id = collection.reference.id;
        let read = match self.collection.take().filter(|read| read.id == id) {
            Some(read) => read,
            None => {
                let bytes = lineage.store.read(object, COLLECTION_BYTES_MAX).await?.ok_or_else(missing)?;
                checked.bytes_read = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                ReadCollection { id, is_sound: collection.is_as_stored(&bytes), bytes }
            }
        };
        let count = ordinals.len();
        let bad = lineage.frames.verify_frames(directory, read.bytes.clone(), Some(ordinals)).await;
        let is_sound = read.is_sound;
        self.collection = Some(read);
        let bad = bad?;
        checked.frames_verified = u64::try_from(count - bad.len()).unwrap_or(u64::MAX);
        if !is_sound || !bad.is_empty() {
            let problem = match bad.first() {
                Some((ordinal, _)) => format!("{} frames in it do not open, the first is {ordinal}", bad.len()),
                None => "its stored bytes do not have the length and hash of its header".to_owned(),
            };
            checked.error = Some(Error::damaged(object, problem));
            checked.bad_frames = bad.into_iter().map(|(ordinal, _)| ordinal).collect();
        }
        Ok(checked)
    }

    fn take_pack(&mut self, pack: &PackRef, checked: CheckedPack) -> Result<PackVerdict> {
        self.progress.bytes_read += checked.bytes_read;
        self.frames_verified += checked.frames_verified;
        let Some(error) = checked.error else { return Ok(PackVerdict::Whole) };
        let finding = self.find(&error)?;
        tracing::debug!(pack = %pack.pack, frames = checked.bad_frames.len(), "a pack is damaged");
        Ok(PackVerdict::Frames(finding, Arc::new(checked.bad_frames)))
    }
}

/// The collection into which the frame of a slot was moved; none if it was not.
async fn place(lineage: &LineageShared, slot: &LeafSlot) -> Result<Option<Arc<Collection>>> {
    let valid = lineage.places.kept();
    let collections = lineage.places.collections(valid.as_deref(), Sort::Data, slot.pack.pack).await?;
    let found = find_piece(&collections, Sort::Data, slot.pack.pack, frame_piece(slot.ordinal));
    Ok(found.map(|(collection, _)| Arc::clone(collection)))
}

/// That a slot means a chunk which its pack does not have where the slot says.
async fn mismatch(
    lineage: &Arc<LineageShared>,
    slot: &LeafSlot,
    collection: Option<&Collection>,
) -> Result<Option<Error>> {
    let directory = match collection {
        Some(collection) => lineage.frames.moved_directory(&slot.pack, collection).await,
        None => lineage.frames.directory(&slot.pack).await,
    };
    let directory = match directory {
        Ok(directory) => directory,
        Err(error) if error.is_damage() => return Ok(Some(error)),
        Err(error) => return Err(error),
    };
    let frame = usize::try_from(slot.ordinal).ok().and_then(|index| directory.frames.get(index));
    let chunk = frame.and_then(|frame| frame.chunks.get(usize::from(slot.chunk)));
    let problem = "it does not hold a chunk that a recovery point expects in it";
    Ok((chunk != Some(&slot.identity)).then(|| Error::damaged(&directory.object, problem)))
}

#[derive(Debug, Default)]
struct CheckedPack {
    bytes_read: u64,
    frames_verified: u64,
    error: Option<Error>,
    bad_frames: BTreeSet<u32>,
}

/// Checks a pack. Damage that leaves some of its frames readable is part of the result.
async fn check_pack(lineage: &Arc<LineageShared>, pack: &PackRef, depth: CheckDepth) -> Result<CheckedPack> {
    let object = pack.key(lineage.id);
    let missing =
        || Error::ObjectMissing { object: object.clone(), reason: "a recovery point refers to it".to_owned() };
    let directory = lineage.frames.directory(pack).await?;
    if depth == CheckDepth::Structure {
        let size = lineage.store.size(&object).await?.ok_or_else(missing)?;
        let expected = u64::from(pack.bytes);
        let bytes_read = u64::from(pack.header_bytes);
        let mut checked = CheckedPack { bytes_read, ..CheckedPack::default() };
        if size != expected {
            checked.error = Some(Error::damaged(object, format!("it has {size} bytes, and should have {expected}")));
            let lost = |(_, frame): &(u32, &crate::pack::FrameInfo)| {
                u64::from(frame.offset) + u64::from(frame.stored_bytes) > size
            };
            checked.bad_frames = (0..).zip(&directory.frames).filter(lost).map(|(ordinal, _)| ordinal).collect();
        }
        return Ok(checked);
    }
    let bytes_max = usize::try_from(pack.bytes).unwrap_or(usize::MAX);
    let bytes = lineage.store.read(&object, bytes_max).await?.ok_or_else(missing)?;
    let mut checked =
        CheckedPack { bytes_read: u64::try_from(bytes.len()).unwrap_or(u64::MAX), ..CheckedPack::default() };
    let sound = lineage.frames.is_as_stored(&directory, bytes.clone()).await?;
    let bad = lineage.frames.verify_frames(Arc::clone(&directory), bytes, None).await?;
    checked.frames_verified = u64::try_from(directory.frames.len() - bad.len()).unwrap_or(u64::MAX);
    if !sound || !bad.is_empty() {
        let problem = match bad.first() {
            Some((ordinal, _)) => format!("{} of its frames do not open, the first is {ordinal}", bad.len()),
            None => "its stored bytes do not have the length and hash of its header".to_owned(),
        };
        checked.error = Some(Error::damaged(object, problem));
        checked.bad_frames = bad.into_iter().map(|(ordinal, _)| ordinal).collect();
    }
    Ok(checked)
}
