//! Pruning a lineage: giving points up, and deleting what no point needs any more.
//!
//! ## How it goes
//! A *plan* looks, and changes nothing. It applies the rules of retention to the points, follows the references of those that
//! stand, and compares with what a listing proposes. What no point needs is *condemned*, in a batch that waits; a batch whose
//! grace has passed becomes *final*; packs of which little is needed are *collected*, so that they can be condemned too.
//! Executing it writes collections and a ledger, then one commit that makes the ledger valid, then deletes what is final.
//!
//! ## Why nothing that is needed is deleted
//! - What is needed is learned from the points themselves, never from a listing. A listing only proposes; a short one makes
//!   the prune delete less.
//! - A point that is committed while the prune runs was built on the newest point that the prune judged, or a later one. It
//!   refers to what that one needs, which stands, and to packs that were born since, whose base is at least that point's
//!   number: nothing of such a base is condemned. So points and prunes need not wait for each other, and the prune's commit
//!   may come under a later number than the one it was planned for.
//! - A writer that stood still since before the newest point cannot commit any more: its number is taken, or below a boundary.
//! - A second prune that lands first changes which ledger counts: then this one gives up, and is planned anew.
//! - A pin that lands first is compared with what this one keeps.
//! - Only what has been condemned by a commit, and then declared final by a later one, is deleted. Names are random and
//!   numbers are used once, so that a deletion that was delayed for a month still deletes the same thing.
//!
//! ## Crashes
//! Before the commit nothing has changed: collections and a ledger that no commit names are condemned by a later prune. After
//! it the deletion is repeated by the next prune, which therefore begins with it.
//!
//! ## Grace
//! It protects readers that have not pinned their point, and people who change their minds: until its batch is final, a
//! dropped point comes back when a later prune's rules want it. It is measured in commits, by the pruner's clock, and by the
//! store's; all three must have passed.

mod collect;
mod live;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use farshore_core::{GroupName, PackId, Sequence, Timestamp};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use self::{
    collect::{Move, Mover},
    live::Live,
};
use crate::{
    Error, Head, Lineage, Pin, Result, Retention,
    collection::{CollectionRef, HEADER_PIECE, Sort, collection_folder, frame_piece},
    commit::{Event, Pruned, commit_folder},
    keys::Power,
    ledger::{Batch, Condemned, JudgedPoint, LEDGER_OBJECTS_MAX, LEDGER_POINTS_MAX, Ledger, Valid, ledger_folder},
    lineage::LineageShared,
    log::HeadCommit,
    pack::packs_folder,
    page::maps_folder,
    retention::{Candidate, make_rising},
    store::Created,
    wire::Kind,
};

/// How many commits are read side by side.
const COMMITS_READ_AT_ONCE: usize = 8;

/// How many objects are deleted between two looks at whether to go on.
const DELETED_AT_ONCE: usize = 1_000;

/// How often the commit is tried under a later number because writers went on meanwhile.
const REBASES_MAX: usize = 64;

/// A data pack or collection with fewer bytes is small: small ones are collected, many at a time.
const SMALL_DATA_BYTES: u64 = 1024 * 1024;

/// A map pack with fewer bytes is small.
const SMALL_MAP_BYTES: u64 = 256 * 1024;

/// Fewer small ones than this are left alone.
const SMALL_PACKS_MIN: usize = 16;

/// So many commits and ledgers are swept though there is nothing else to do.
const SWEPT_ALONE_MIN: usize = 64;

/// How long condemned objects wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Grace {
    /// At least this time, by the pruner's clock and by the store's.
    pub seconds: u64,
    /// At least so many commits of the lineage.
    pub commits: u64,
}

impl Default for Grace {
    /// Three days, and eight commits.
    fn default() -> Self {
        Self { seconds: 3 * 24 * 3_600, commits: 8 }
    }
}

/// A recovery point that a prune gives up, or brings back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PrunedPoint {
    /// The point.
    pub sequence: Sequence,
    /// When the store received it.
    pub received_at: Timestamp,
}

/// How many objects, and how many bytes they have together. A commit's bytes are not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Objects.
    pub objects: u64,
    /// Their stored bytes.
    pub bytes: u64,
}

impl Amount {
    fn of<'a>(objects: impl IntoIterator<Item = &'a Condemned>) -> Self {
        objects.into_iter().fold(Self::default(), |sum, object| Self {
            objects: sum.objects.saturating_add(1),
            bytes: sum.bytes.saturating_add(u64::from(object.bytes)),
        })
    }
}

/// What a prune of one lineage would do.
#[derive(Debug, Serialize)]
pub struct PrunePlan {
    /// The group of the lineage.
    pub group: GroupName,
    /// The rules that were applied.
    pub retention: Retention,
    /// The newest commit that was looked at.
    pub judged: Sequence,
    /// How many points stand.
    pub points_kept: u64,
    /// Points that are given up now.
    pub dropped: Vec<PrunedPoint>,
    /// Points that were given up before, and are wanted again.
    pub revived: Vec<PrunedPoint>,
    /// Points that stand because runs have pinned them, whatever the rules say.
    pub pins: Vec<Pin>,
    /// What is needed, as stored.
    pub needed: Amount,
    /// What is condemned now.
    pub condemned: Amount,
    /// What was condemned before and still waits.
    pub waiting: Amount,
    /// What is deleted now.
    pub deleted: Amount,
    /// Packs out of which what is needed is moved.
    pub collected: Amount,
    #[serde(skip)]
    work: Work,
}

impl PrunePlan {
    /// Whether there is nothing to do that is worth a commit. A prune leaves its own commit and ledger to the next: these, and
    /// the commits of pins, are swept with what else there is, or when there are many.
    pub fn is_empty(&self) -> bool {
        let finals = self.work.batches.iter().filter(|batch| batch.is_final).flat_map(|batch| &batch.objects);
        let objects = finals.chain(&self.work.condemned);
        let (small, large): (Vec<&Condemned>, Vec<&Condemned>) = objects.partition(|object| object.is_small());
        self.dropped.is_empty()
            && self.revived.is_empty()
            && self.work.emptied.is_empty()
            && self.work.unfinished.is_empty()
            && large.is_empty()
            && small.len() < SWEPT_ALONE_MIN
    }
}

/// What the plan's execution needs, and nobody else.
#[derive(Debug)]
struct Work {
    built_on: HeadCommit,
    valid: Option<std::sync::Arc<Valid>>,
    points: Vec<JudgedPoint>,
    /// Batches of earlier prunes that still wait, and those that are final now.
    batches: Vec<Batch>,
    /// What is condemned now, before anything was moved.
    condemned: Vec<Condemned>,
    moves: Vec<Move>,
    /// What is condemned as well once all its needed pieces were moved, by what must not be stuck for that.
    emptied: Vec<(Condemned, BTreeSet<(Sort, PackId)>)>,
    /// Collections that are still needed.
    collections: Vec<CollectionRef>,
    /// What an earlier prune declared final and may not have deleted.
    unfinished: Vec<Condemned>,
}

/// What a prune did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PruneReport {
    /// The group of the lineage.
    pub group: GroupName,
    /// The commit that made it valid; none if there was nothing to do.
    pub commit: Option<Sequence>,
    /// Points that were given up.
    pub points_dropped: u64,
    /// Points that were brought back.
    pub points_revived: u64,
    /// What was condemned.
    pub condemned: Amount,
    /// What was deleted.
    pub deleted: Amount,
    /// Collections that were written.
    pub collections_written: u64,
    /// What could not be moved, because it is damaged; it stays where it is.
    pub problems: Vec<String>,
}

impl Lineage {
    /// Plans a prune. It changes nothing.
    ///
    /// # Errors
    /// [`Error::PowerMissing`]. A commit or page is missing or damaged: then nobody knows what is needed, and nothing can be
    /// deleted before it is repaired. Or the store failed.
    pub async fn plan_prune(&self, retention: &Retention, grace: Grace) -> Result<PrunePlan> {
        let shared = &*self.0;
        shared.access.require(Power::Pruner, "to delete what no recovery point needs")?;
        let (built_on, valid) = shared.ledgers.newest().await?;
        let judged = built_on.head.sequence;
        let candidates = candidates(shared, valid.as_deref(), judged).await?;
        let (points, now) = judge(&candidates, retention, &built_on);
        if points.len() > LEDGER_POINTS_MAX {
            let (found, limit) = (to_u64(points.len()), to_u64(LEDGER_POINTS_MAX));
            return Err(Error::LimitExceeded { what: "the number of points that a group has", found, limit });
        }
        let mut live = Live::default();
        for point in points.iter().filter(|point| point.stands) {
            live.add(&shared.maps, &read_point(shared, point).await?).await?;
        }
        let listed = Listed::read(shared, &built_on.head).await?;
        let placement = Placement::find(shared, valid.as_deref(), &live, &listed).await?;
        let changed = |stands: bool| {
            let changed = points
                .iter()
                .zip(&candidates)
                .filter(move |(point, before)| point.stands == stands && before.stands != stands);
            changed
                .map(|(point, _)| PrunedPoint { sequence: point.sequence, received_at: point.received_at })
                .collect::<Vec<_>>()
        };
        let (dropped, revived) = (changed(false), changed(true));
        let kept = points.iter().filter(|point| point.stands).count();
        let stand: BTreeSet<u64> =
            points.iter().filter(|point| point.stands).map(|point| point.sequence.get()).collect();
        let is_needed = |object: &Condemned| match object.is_commit() {
            true => stand.contains(&object.base),
            false => placement.is_needed(object),
        };
        let wait =
            Wait { head: built_on.head.sequence, received_at: now, clock_now: shared.context.clock.now(), grace };
        let batches = settle_batches(valid.as_deref(), is_needed, &wait)?;
        let known: BTreeSet<Condemned> = batches.iter().flat_map(|batch| &batch.objects).copied().collect();
        let condemned = placement.unneeded(&listed, &stand, &known, valid.as_deref(), judged);
        let (moves, emptied, collections) = placement.moves(&live, &listed, valid.as_deref());
        let finals = valid.iter().flat_map(|valid| &valid.ledger.batches).filter(|batch| batch.is_final);
        let unfinished = finals.flat_map(|batch| &batch.objects).filter(|object| listed.has(object));
        let amount = |is_final: bool| {
            let batches = batches.iter().filter(|batch| batch.is_final == is_final);
            Amount::of(batches.flat_map(|batch| &batch.objects))
        };
        Ok(PrunePlan {
            group: shared.group.clone(),
            retention: *retention,
            judged,
            points_kept: to_u64(kept),
            dropped,
            revived,
            pins: built_on.head.pins.clone(),
            needed: placement.needed(&listed),
            condemned: Amount::of(&condemned),
            waiting: amount(false),
            deleted: amount(true),
            collected: Amount::of(emptied.iter().map(|(object, _)| object)),
            work: Work {
                unfinished: unfinished.copied().collect(),
                // What is final is not spoken of again, except by the ledger that declares it so.
                points: forget_final(points, &batches),
                built_on,
                valid,
                batches,
                condemned,
                moves,
                emptied,
                collections,
            },
        })
    }

    /// Executes a plan.
    ///
    /// # Errors
    /// [`Error::LostRace`] when another prune or a pin came between: plan anew. Or the store failed: what was planned is then
    /// done in part or not at all, and nothing that is needed is lost; plan anew.
    pub async fn prune(&self, plan: PrunePlan) -> Result<PruneReport> {
        let shared = &*self.0;
        shared.access.require(Power::Pruner, "to delete what no recovery point needs")?;
        let mut report = PruneReport {
            group: shared.group.clone(),
            commit: None,
            points_dropped: to_u64(plan.dropped.len()),
            points_revived: to_u64(plan.revived.len()),
            condemned: Amount::default(),
            deleted: Amount::default(),
            collections_written: 0,
            problems: Vec::new(),
        };
        if plan.is_empty() {
            return Ok(report);
        }
        shared.store.prove_conditions(shared.entropy()).await?;
        let work = plan.work;
        if let Some(valid) = &work.valid {
            delete(shared, valid.commit, &work.unfinished).await?;
        }
        let mut mover = Mover::new(shared, work.valid.as_deref(), &work.built_on);
        let moved = mover.run(&work.moves).await?;
        report.collections_written = to_u64(moved.collections.len());
        report.problems = moved.problems.iter().map(ToString::to_string).collect();
        let stuck: BTreeSet<_> = moved.stuck.iter().copied().collect();

        let mut condemned = work.condemned;
        let mut collections = work.collections;
        for (object, sources) in work.emptied {
            match sources.is_disjoint(&stuck) {
                true => condemned.push(object),
                // A collection out of which something could not be moved stays valid, before those that hold the rest.
                false => collections.extend(reference_of(&object, work.valid.as_deref())),
            }
        }
        collections.extend(moved.collections);
        report.condemned = Amount::of(&condemned);
        let mut batches = work.batches;
        if !condemned.is_empty() {
            batches.push(Batch {
                judged: plan.judged,
                condemned_at: shared.context.clock.now(),
                received_at: work.built_on.received_at,
                is_final: false,
                objects: condemned,
            });
        }
        let ledger = Ledger { points: work.points, batches, collections };
        let reference =
            ledger.store(&shared.store, &shared.context, &shared.keys.metadata, shared.id, &work.built_on).await?;
        let pruned = Pruned {
            judged: plan.judged,
            ledger: reference,
            retention: plan.retention,
            points_dropped: report.points_dropped,
            points_kept: plan.points_kept,
        };
        let commit = self.commit_prune(&work.built_on, &ledger, pruned).await?;
        report.commit = Some(commit);
        let finals = ledger.batches.iter().filter(|batch| batch.is_final).flat_map(|batch| &batch.objects);
        let finals: Vec<Condemned> = finals.copied().collect();
        report.deleted = Amount::of(&finals);
        delete(shared, commit, &finals).await?;
        Ok(report)
    }

    /// Makes the ledger valid, under the number after the newest commit, whatever points came between.
    async fn commit_prune(&self, planned_on: &HeadCommit, ledger: &Ledger, pruned: Pruned) -> Result<Sequence> {
        let shared = &*self.0;
        let mut built_on = planned_on.clone();
        for _ in 0..REBASES_MAX {
            let sequence = built_on.head.sequence.next();
            let head = Head { sequence, pruned: Some(sequence), ..built_on.head.clone() };
            let event = Event::Pruned(Box::new(pruned.clone()));
            if shared.log.create(&built_on, head, event).await? == Created::Mine {
                return Ok(sequence);
            }
            built_on = shared.log.newest().await?;
            let stands = |point: Sequence| {
                point > pruned.judged || ledger.points.iter().any(|judged| judged.sequence == point && judged.stands)
            };
            let is_same_ledger = built_on.head.pruned == planned_on.head.pruned;
            if !is_same_ledger || !built_on.head.pins.iter().all(|pin| stands(pin.point)) {
                break;
            }
        }
        Err(Error::LostRace { group: shared.group.clone(), sequence: built_on.head.sequence })
    }
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Deletes what a prune declared final with this commit. No commit is deleted before a boundary says so.
async fn delete(shared: &LineageShared, commit: Sequence, objects: &[Condemned]) -> Result<()> {
    if objects.iter().any(Condemned::is_commit) {
        shared.log.raise_boundary(commit).await?;
    }
    for objects in objects.chunks(DELETED_AT_ONCE) {
        shared.store.delete(objects.iter().map(|object| object.key(shared.id)).collect()).await?;
    }
    Ok(())
}

/// The points about which there is something to decide, oldest first: those of the newest ledger that can still stand, and
/// those that were committed since.
async fn candidates(shared: &LineageShared, valid: Option<&Valid>, judged: Sequence) -> Result<Vec<JudgedPoint>> {
    let mut candidates = Vec::new();
    let mut from = Sequence::FIRST.next();
    if let Some(valid) = valid {
        // The points whose batch is final were left out when it became so.
        candidates.extend(valid.ledger.points.iter().copied());
        from = valid.pruned.judged.next();
    }
    let commits = futures::stream::iter(from.get()..=judged.get()).map(|number| async move {
        let sequence = Sequence::new(number);
        let commit = shared.log.read_existing(sequence, "there are later commits in its lineage").await?;
        let point = matches!(commit.body.event, Event::Point(_)).then_some(JudgedPoint {
            sequence,
            hash: commit.hash,
            received_at: commit.received_at,
            stands: true,
        });
        Ok::<_, Error>(point)
    });
    let found: Vec<_> = commits.buffered(COMMITS_READ_AT_ONCE).try_collect().await?;
    candidates.extend(found.into_iter().flatten());
    Ok(candidates)
}

/// Applies the rules. The second value is the store's time of the newest commit, not before that of any point.
fn judge(candidates: &[JudgedPoint], retention: &Retention, built_on: &HeadCommit) -> (Vec<JudgedPoint>, Timestamp) {
    let mut times: Vec<_> = candidates.iter().map(|point| point.received_at).collect();
    times.push(built_on.received_at);
    make_rising(&mut times);
    let now = times.last().copied().unwrap_or(built_on.received_at);
    let head = &built_on.head;
    let held =
        |sequence: Sequence| head.newest_point == Some(sequence) || head.pins.iter().any(|pin| pin.point == sequence);
    let judged: Vec<_> = candidates
        .iter()
        .map(|point| Candidate { received_at: point.received_at, is_held: held(point.sequence) })
        .collect();
    let stands = retention.judge(&judged, now);
    let points = candidates.iter().zip(stands).map(|(point, stands)| JudgedPoint { stands, ..*point });
    (points.collect(), now)
}

async fn read_point(shared: &LineageShared, judged: &JudgedPoint) -> Result<crate::Point> {
    let commit = shared.log.read_existing(judged.sequence, "its point stands").await?;
    let object = crate::commit::commit_key(shared.id, judged.sequence);
    if commit.hash != judged.hash {
        return Err(Error::damaged(object, "it is not the commit that was judged"));
    }
    match commit.body.event {
        Event::Point(point) => Ok(*point),
        _ => Err(Error::damaged(object, "it is no recovery point")),
    }
}

/// Leaves out the dropped points whose commits are final.
fn forget_final(mut points: Vec<JudgedPoint>, batches: &[Batch]) -> Vec<JudgedPoint> {
    let objects = batches.iter().filter(|batch| batch.is_final).flat_map(|batch| &batch.objects);
    let finals: BTreeSet<u64> = objects.filter(|object| object.is_commit()).map(|object| object.base).collect();
    points.retain(|point| point.stands || !finals.contains(&point.sequence.get()));
    points
}

/// What listings propose: objects that could be deleted, because no writer and no other prune can still make them needed.
#[derive(Debug, Default)]
struct Listed {
    objects: BTreeMap<(u8, PackId), Condemned>,
    commits: BTreeSet<Condemned>,
}

impl Listed {
    async fn read(shared: &LineageShared, head: &Head) -> Result<Self> {
        let mut listed = Self::default();
        let newest_point = head.newest_point.map_or(0, Sequence::get);
        let pruned = head.pruned.map_or(0, Sequence::get);
        for (kind, folder, base_end) in [
            (Kind::DataPack, packs_folder(shared.id), newest_point),
            (Kind::MapPack, maps_folder(shared.id), newest_point),
            (Kind::Collection, collection_folder(shared.id), pruned),
            (Kind::Ledger, ledger_folder(shared.id), pruned),
        ] {
            let mut objects = std::pin::pin!(shared.store.list(&folder));
            while let Some(object) = objects.try_next().await? {
                let mut names = object.key.rsplit('/');
                let (Some(id), Some(base)) = (names.next(), names.next()) else { continue };
                let (Ok(id), Ok(base)) = (id.parse(), base.parse::<u64>()) else { continue };
                if base < base_end {
                    let bytes = u32::try_from(object.bytes).unwrap_or(u32::MAX);
                    listed.objects.insert((kind as u8, id), Condemned { kind: kind as u8, base, id, bytes });
                }
            }
        }
        let mut commits = std::pin::pin!(shared.store.list(&commit_folder(shared.id)));
        while let Some(object) = commits.try_next().await? {
            let number = object.key.rsplit('/').next().and_then(crate::commit::commit_number);
            listed.commits.extend(number.map(Condemned::commit));
        }
        Ok(listed)
    }

    fn has(&self, object: &Condemned) -> bool {
        match object.is_commit() {
            true => self.commits.contains(object),
            false => self.objects.contains_key(&(object.kind, object.id)),
        }
    }

    fn bytes(&self, kind: Kind, id: PackId) -> Option<u64> {
        self.objects.get(&(kind as u8, id)).map(|object| u64::from(object.bytes))
    }
}

/// How much of an object is needed.
#[derive(Debug, Clone, Default)]
struct Need {
    /// Needed bytes, as far as they are known.
    bytes: u64,
    /// Packs whose pieces they are.
    sources: BTreeSet<(Sort, PackId)>,
}

/// In which objects what is needed lies now.
#[derive(Debug, Default)]
struct Placement {
    needs: BTreeMap<(u8, PackId), Need>,
}

impl Placement {
    async fn find(shared: &LineageShared, valid: Option<&Valid>, live: &Live, listed: &Listed) -> Result<Self> {
        let mut placement = Self::default();
        for (pack, data) in &live.data {
            let source = (Sort::Data, *pack);
            let collection = match valid {
                Some(valid) => shared.places.find_in(valid, Sort::Data, *pack).await?,
                None => None,
            };
            let moved = collection.as_ref().and_then(|collection| collection.source(Sort::Data, *pack));
            let mut rest = Vec::new();
            let mut moved_bytes = 0;
            for ordinal in data.frames.iter() {
                match moved.and_then(|moved| moved.piece(frame_piece(ordinal))) {
                    Some(piece) => moved_bytes += u64::from(piece.length),
                    None => rest.push(ordinal),
                }
            }
            if let Some(collection) = collection.as_ref().filter(|_| moved_bytes > 0) {
                let header = moved.and_then(|moved| moved.piece(HEADER_PIECE)).map_or(0, |piece| piece.length);
                placement.add(Kind::Collection, collection.reference.id, moved_bytes + u64::from(header), source);
            }
            if rest.is_empty() {
                continue;
            }
            // How long the frames are is in the pack's header. Small packs are collected whatever it says, and packs that no
            // listing proposes are left alone: their headers need not be read.
            let size = listed.bytes(Kind::DataPack, *pack);
            let bytes = match size {
                Some(size) if size >= SMALL_DATA_BYTES => {
                    let directory = shared.frames.directory(&data.reference).await?;
                    let frame = |ordinal: &u32| usize::try_from(*ordinal).ok().and_then(|at| directory.frames.get(at));
                    let frames = rest.iter().filter_map(frame).map(|frame| u64::from(frame.stored_bytes));
                    u64::from(data.reference.header_bytes) + frames.sum::<u64>()
                }
                _ => u64::from(data.reference.bytes),
            };
            placement.add(Kind::DataPack, *pack, bytes, source);
        }
        for (pack, map) in &live.maps {
            let source = (Sort::Map, *pack);
            let collection = match valid {
                Some(valid) => shared.places.find_in(valid, Sort::Map, *pack).await?,
                None => None,
            };
            let moved = collection.as_ref().and_then(|collection| collection.source(Sort::Map, *pack));
            for (offset, (length, _)) in &map.pages {
                match (&collection, moved.and_then(|moved| moved.piece(*offset))) {
                    (Some(collection), Some(_)) => {
                        placement.add(Kind::Collection, collection.reference.id, u64::from(*length), source);
                    }
                    _ => placement.add(Kind::MapPack, *pack, u64::from(*length), source),
                }
            }
        }
        Ok(placement)
    }

    fn add(&mut self, kind: Kind, id: PackId, bytes: u64, source: (Sort, PackId)) {
        let need = self.needs.entry((kind as u8, id)).or_default();
        need.bytes = need.bytes.saturating_add(bytes);
        need.sources.insert(source);
    }

    fn is_needed(&self, object: &Condemned) -> bool {
        self.needs.contains_key(&(object.kind, object.id))
    }

    /// What is needed of the objects that a listing proposes, whole objects counted.
    fn needed(&self, listed: &Listed) -> Amount {
        Amount::of(self.needs.keys().filter_map(|key| listed.objects.get(key)))
    }

    /// What no point needs, and was not condemned before.
    fn unneeded(
        &self,
        listed: &Listed,
        stand: &BTreeSet<u64>,
        known: &BTreeSet<Condemned>,
        valid: Option<&Valid>,
        judged: Sequence,
    ) -> Vec<Condemned> {
        let room = LEDGER_OBJECTS_MAX.saturating_sub(known.len());
        let ledger = valid.map(|valid| valid.pruned.ledger.id);
        let is_ledger = |object: &&Condemned| object.kind == Kind::Ledger as u8 && Some(object.id) == ledger;
        let objects =
            listed.objects.values().filter(|object| !self.is_needed(object)).filter(|object| !is_ledger(object));
        let is_over = |commit: &&Condemned| {
            commit.base > Sequence::FIRST.get() && commit.base <= judged.get() && !stand.contains(&commit.base)
        };
        let commits = listed.commits.iter().filter(is_over);
        let new = objects.chain(commits).filter(|object| !known.contains(object));
        new.take(room).copied().collect()
    }

    /// Which packs are collected; what is emptied by that; and which collections stay valid.
    #[expect(clippy::type_complexity, reason = "the parts belong to this one call")]
    fn moves(
        &self,
        live: &Live,
        listed: &Listed,
        valid: Option<&Valid>,
    ) -> (Vec<Move>, Vec<(Condemned, BTreeSet<(Sort, PackId)>)>, Vec<CollectionRef>) {
        let previous = valid.map_or(0, |valid| valid.pruned.judged.get());
        let (mut poor, mut small) = (Vec::new(), Vec::new());
        for (key, need) in &self.needs {
            let Some(object) = listed.objects.get(key) else { continue };
            let size = u64::from(object.bytes);
            let is_map = need.sources.iter().all(|(sort, _)| *sort == Sort::Map);
            let small_bytes = if is_map { SMALL_MAP_BYTES } else { SMALL_DATA_BYTES };
            if need.bytes.saturating_mul(2) < size {
                poor.push((object, need));
            } else if size < small_bytes && object.base < previous {
                // What has survived one prune already is worth moving.
                small.push((object, need));
            }
        }
        let mut chosen = poor;
        if small.len() >= SMALL_PACKS_MIN {
            chosen.extend(small);
        }
        let sources: BTreeSet<(Sort, PackId)> =
            chosen.iter().flat_map(|(_, need)| need.sources.iter().copied()).collect();
        let moves = sources.iter().filter_map(|(sort, pack)| match sort {
            Sort::Data => live.data.get(pack).map(Move::data),
            Sort::Map => live.maps.get(pack).map(|map| Move::map(*pack, map)),
        });
        // What is moved is moved whole, from wherever it is; so other objects may be emptied as well.
        let emptied = self.needs.iter().filter(|(_, need)| need.sources.is_subset(&sources));
        let emptied: Vec<_> = emptied
            .filter_map(|(key, need)| listed.objects.get(key).map(|object| (*object, need.sources.clone())))
            .collect();
        let gone: BTreeSet<PackId> = emptied.iter().map(|(object, _)| object.id).collect();
        let collections = valid.iter().flat_map(|valid| &valid.ledger.collections);
        let collections = collections
            .filter(|collection| self.needs.contains_key(&(Kind::Collection as u8, collection.id)))
            .filter(|collection| !gone.contains(&collection.id));
        (moves.collect(), emptied, collections.cloned().collect())
    }
}

/// The reference of an object that is a collection of this ledger.
fn reference_of(object: &Condemned, valid: Option<&Valid>) -> Option<CollectionRef> {
    let collections = &valid?.ledger.collections;
    collections.iter().find(|collection| object.kind == Kind::Collection as u8 && collection.id == object.id).cloned()
}

/// Since when, and for how long, what is condemned waits.
struct Wait {
    head: Sequence,
    /// When the store received the newest commit.
    received_at: Timestamp,
    clock_now: Timestamp,
    grace: Grace,
}

impl Wait {
    fn is_over(&self, batch: &Batch) -> bool {
        let span = Duration::from_secs(self.grace.seconds);
        self.head.get().saturating_sub(batch.judged.get()) >= self.grace.commits
            && self.clock_now.since(batch.condemned_at) >= span
            && self.received_at.since(batch.received_at) >= span
    }
}

/// The batches of earlier prunes: without what is needed again, and final if their grace has passed. Those that were final
/// before are left out, because their deletion is repeated before this prune commits.
fn settle_batches(valid: Option<&Valid>, is_needed: impl Fn(&Condemned) -> bool, wait: &Wait) -> Result<Vec<Batch>> {
    let mut batches = Vec::new();
    for batch in valid.iter().flat_map(|valid| &valid.ledger.batches) {
        if batch.is_final {
            if let Some(object) = batch.objects.iter().find(|object| is_needed(object)) {
                let problem = "a point that stands needs it, though an earlier prune declared it final";
                return Err(Error::damaged(format!("pack {}", object.id), problem));
            }
            continue;
        }
        let mut batch = batch.clone();
        batch.objects.retain(|object| !is_needed(object));
        batch.is_final = wait.is_over(&batch);
        if !batch.objects.is_empty() {
            batches.push(batch);
        }
    }
    Ok(batches)
}
