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
//! ## A full store
//! A prune writes before it deletes. What it writes at least fits into the room of its reserve (see `reserve`), which it deletes
//! when a create fails; pieces are not moved then, and what they lie in stays.
//!
//! ## Grace
//! It protects readers that have not pinned their point, and people who change their minds: until its batch is final, a
//! dropped point comes back when a later prune's rules want it. It is measured in commits, by the pruner's clock, and by the
//! store's; all three must have passed.

mod collect;
mod extend;
pub(crate) mod live;
mod placement;
mod publish;
pub(crate) mod replace;
pub(crate) mod reserve;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use farshore_core::{GroupName, PackId, Sequence, Timestamp};
use futures::{FutureExt, StreamExt, TryStreamExt};
use serde::Serialize;

pub use self::extend::{ExtensionPlan, ExtensionReport};
use self::{
    collect::Mover,
    live::Live,
    placement::{Collecting, Listed, Placement},
    publish::Decision,
    reserve::Reserve,
};
use crate::{
    Error, Lineage, Pin, Point, Result, Retention,
    collection::CollectionRef,
    commit::{Event, commit_key},
    keys::Power,
    ledger::{Batch, Condemned, JudgedPoint, LEDGER_BATCHES_MAX, LEDGER_OBJECTS_MAX, LEDGER_POINTS_MAX, Ledger, Valid},
    lineage::LineageShared,
    log::HeadCommit,
    proof,
    retention::{Candidate, make_rising},
    seal::Hash,
    succession::{self, Contradiction, Succession},
};

/// How many commits are read side by side.
const COMMITS_READ_AT_ONCE: usize = 8;

/// How many objects are deleted between two looks at whether to go on.
const DELETED_AT_ONCE: usize = 1_000;

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
    /// Proofs that are deleted: those of points that are finally gone, and those that newer ones have replaced.
    pub proofs_deleted: u64,
    #[serde(skip)]
    work: Work,
}

impl PrunePlan {
    /// Whether there is nothing to do that is worth a commit. A prune leaves its own commit and ledger to the next: these, and
    /// the commits of pins, are swept with what else there is, or when there are many.
    pub fn is_empty(&self) -> bool {
        self.work.unfinished.is_empty() && !self.has_more_than_unfinished()
    }

    /// Whether there is something to do beside repeating the deletion of what an earlier prune declared final.
    fn has_more_than_unfinished(&self) -> bool {
        let finals = self.work.batches.iter().filter(|batch| batch.is_final).flat_map(|batch| &batch.objects);
        let objects = finals.chain(&self.work.condemned);
        let (small, large): (Vec<&Condemned>, Vec<&Condemned>) = objects.partition(|object| object.is_small());
        !(self.dropped.is_empty()
            && self.revived.is_empty()
            && self.work.collecting.emptied.is_empty()
            && large.is_empty()
            && small.len() + self.work.proofs.len() < SWEPT_ALONE_MIN)
    }
}

/// What the plan's execution needs, and nobody else.
#[derive(Debug)]
struct Work {
    built_on: HeadCommit,
    valid: Option<Arc<Valid>>,
    /// When the store received the newest commit, not before any point.
    received_at: Timestamp,
    points: Vec<JudgedPoint>,
    /// Batches of earlier prunes that still wait, and those that are final now.
    batches: Vec<Batch>,
    /// What is condemned now, beside what is emptied.
    condemned: Vec<Condemned>,
    collecting: Collecting,
    /// Collections that stay, in order.
    collections: Vec<CollectionRef>,
    /// What an earlier prune declared final and may not have deleted.
    unfinished: Vec<Condemned>,
    unfinished_judged: Option<Sequence>,
    /// Keys of proofs that say nothing any more.
    proofs: Vec<String>,
    /// How many bytes the next prune may have to write, about.
    next_bytes: u64,
}

/// How many bytes a prune writes, about, that follows this ledger and has so many points to decide upon: as if it dropped all.
fn bytes_to_write(ledger: &Ledger, points: usize) -> u64 {
    // A point, and its commit, pack and map pack that are condemned; a commit and a boundary.
    const POINT_BYTES: u64 = 49 + 3 * 29;
    const REST_BYTES: u64 = 16 * 1024;
    ledger.size_bytes().saturating_add(to_u64(points).saturating_mul(POINT_BYTES)).saturating_add(REST_BYTES)
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
    /// What the store would not let go because it is still locked: a later prune tries again.
    pub still_locked: Amount,
    /// Proofs that were deleted.
    pub proofs_deleted: u64,
    /// Collections that were written.
    pub collections_written: u64,
    /// What could not be moved, because it is damaged; it stays where it is.
    pub problems: Vec<String>,
    /// Why a collection could not be stored, as in a store that is full; what it was to hold stays where it is, and a later prune tries
    /// again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_stored: Option<String>,
}

impl Lineage {
    /// Plans a prune. It changes nothing.
    ///
    /// # Errors
    /// [`Error::PowerMissing`]. A commit or page is missing or damaged: then nobody knows what is needed, and nothing can be
    /// deleted before it is repaired. [`Error::LimitExceeded`] when more points stand than a ledger can name. [`Error::LostRace`]
    /// when others pruned all the while. Or the store failed.
    pub async fn plan_prune(&self, retention: &Retention, grace: Grace) -> Result<PrunePlan> {
        let shared = &*self.0;
        shared.access.require(Power::Pruner, "to delete what no recovery point needs")?;
        shared.access.refresh().await?;
        shared.by_newest(|built_on, valid| self.plan_prune_on(built_on, valid, retention, grace).boxed()).await
    }

    /// The same, by this commit and this ledger.
    async fn plan_prune_on(
        &self,
        mut built_on: HeadCommit,
        newest_ledger: Option<Arc<Valid>>,
        retention: &Retention,
        grace: Grace,
    ) -> Result<PrunePlan> {
        let shared = &*self.0;
        let valid = newest_ledger.as_deref();
        let clock_now = shared.context.clock.now();
        let Followed { candidates, judged, pins } = follow(shared, valid, &built_on).await?;
        built_on.head.pins = pins;
        let points = judge(&candidates, retention, &built_on, clock_now);
        // What waits is counted by the store's own times, made to rise: a pruner whose clock is late must not make a batch older.
        let received = candidates.iter().map(|point| point.received_at).chain([built_on.received_at]);
        let now = received.max().unwrap_or(built_on.received_at);
        let mut live = Live::default();
        for point in points.iter().filter(|point| point.stands) {
            live.add(&shared.maps, &read_point(shared, point).await?).await?;
        }
        let newest_point = points.last().map_or(0, |point| point.sequence.get());
        let listed = Listed::read(shared, newest_point, built_on.head.pruned.map_or(0, Sequence::get)).await?;
        let placement = Placement::find(shared, valid, &live, &listed).await?;

        let stand: BTreeSet<u64> =
            points.iter().filter(|point| point.stands).map(|point| point.sequence.get()).collect();
        let is_needed = |object: &Condemned| match object.is_commit() {
            true => stand.contains(&object.base),
            false => placement.is_needed(object),
        };
        let lock = shared.access.ring().lock;
        // What is condemned was locked for at most the span, a moment before: before it is over nothing could be deleted.
        let seconds = grace.seconds.max(lock.map_or(0, |lock| lock.span_seconds));
        let grace = Grace { seconds, ..grace };
        let wait = Wait { head: built_on.head.sequence, received_at: now, clock_now, grace };
        let batches = settle_batches(valid, is_needed, &wait)?;
        let finals = batches.iter().filter(|batch| batch.is_final).flat_map(|batch| &batch.objects);
        let finals: BTreeSet<PackId> = finals.filter(|object| !object.is_commit()).map(|object| object.id).collect();
        // A collection that waits for its grace is still named: points that come back find in it what was moved elsewhere since.
        let collections = valid.iter().flat_map(|valid| &valid.ledger.collections);
        let collections: Vec<_> = collections.filter(|collection| !finals.contains(&collection.id)).cloned().collect();
        let previously_judged = valid.map_or(0, |valid| valid.pruned.judged.get());
        let collecting = placement.collecting(&live, &listed, previously_judged, &collections);

        let known: BTreeSet<Condemned> = batches.iter().flat_map(|batch| &batch.objects).copied().collect();
        let emptied: BTreeSet<Condemned> = collecting.emptied.iter().map(|(object, _)| *object).collect();
        let room = LEDGER_OBJECTS_MAX.saturating_sub(known.len() + emptied.len());
        let ledger = valid.map(|valid| valid.pruned.ledger.id);
        let is_over = |commit: &&Condemned| {
            commit.base > Sequence::FIRST.get() && commit.base <= judged.get() && !stand.contains(&commit.base)
        };
        // The commits of dropped points come first, whatever a listing says: no point may come back of which parts are gone.
        let dropped = points.iter().filter(|point| !point.stands).map(|point| Condemned::commit(point.sequence.get()));
        let commits: BTreeSet<Condemned> = dropped.chain(listed.commits.iter().filter(is_over).copied()).collect();
        let objects = listed.objects().filter(|object| Some(object.id) != ledger && !placement.is_needed(object));
        let new = commits.into_iter().chain(objects.copied()).filter(|object| !known.contains(object));
        let condemned: Vec<Condemned> = new.take(room).collect();

        let changed = |stands: bool| {
            let changed = points.iter().zip(&candidates);
            let changed = changed.filter(|(point, before)| point.stands == stands && before.stands != stands);
            let point = |point: &JudgedPoint| PrunedPoint { sequence: point.sequence, received_at: point.received_at };
            changed.map(|(now, _)| point(now)).collect::<Vec<_>>()
        };
        let finals = valid.iter().flat_map(|valid| &valid.ledger.batches).filter(|batch| batch.is_final);
        let unfinished = finals.clone().flat_map(|batch| &batch.objects).filter(|object| listed.has(object));
        let amount = |is_final: bool| {
            let batches = batches.iter().filter(|batch| batch.is_final == is_final);
            Amount::of(batches.flat_map(|batch| &batch.objects))
        };
        let (dropped, revived) = (changed(false), changed(true));
        // What is final is not spoken of again, except by the ledger that declares it so.
        let points = forget_final(points, &batches);
        let known: BTreeMap<Sequence, Hash> = points.iter().map(|point| (point.sequence, point.hash)).collect();
        let gone = |point: Sequence| point <= judged && !known.contains_key(&point);
        let proofs = proof::removable(shared, &known, gone).await?;
        let next_bytes = bytes_to_write(valid.map_or(&Ledger::default(), |valid| &valid.ledger), candidates.len());
        Ok(PrunePlan {
            group: shared.group.clone(),
            retention: *retention,
            judged,
            points_kept: to_u64(stand.len()),
            dropped,
            revived,
            pins: built_on.head.pins.clone(),
            needed: placement.needed(&listed),
            condemned: Amount::of(&condemned),
            waiting: amount(false),
            deleted: amount(true),
            collected: Amount::of(&emptied),
            proofs_deleted: to_u64(proofs.len()),
            work: Work {
                unfinished: unfinished.copied().collect(),
                unfinished_judged: finals.map(|batch| batch.judged).max(),
                points,
                proofs,
                next_bytes,
                valid: newest_ledger.clone(),
                built_on,
                received_at: now,
                batches,
                condemned,
                collecting,
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
            still_locked: Amount::default(),
            proofs_deleted: 0,
            collections_written: 0,
            problems: Vec::new(),
            not_stored: None,
        };
        let reserve = Reserve::new(shared);
        if plan.is_empty() {
            if shared.access.may_write(&shared.context).await.is_ok() {
                reserve.restock(&plan.work.built_on, plan.work.next_bytes).await;
            }
            return Ok(report);
        }
        let began_at = shared.context.clock.now();
        if shared.access.may_write(&shared.context).await? {
            // The plan was made by an older ring, which may have let commits count that do not.
            return Err(Error::LostRace { group: shared.group.clone(), sequence: plan.work.built_on.head.sequence });
        }
        let is_only_unfinished = !plan.has_more_than_unfinished();
        let brings_back = !plan.revived.is_empty();
        let work = plan.work;
        let mut still_locked = Vec::new();
        if let (Some(valid), Some(judged)) = (&work.valid, work.unfinished_judged) {
            still_locked = delete(shared, &reserve, valid.commit, judged, &work.unfinished).await?;
        }
        report.still_locked = Amount::of(&still_locked);
        if is_only_unfinished && !still_locked.is_empty() {
            // The ledger that counts names them as final already, and nothing else has changed.
            return Ok(report);
        }
        let mut mover = Mover::new(shared, work.valid.as_deref(), &work.built_on, plan.judged);
        let moved = mover.run(&work.collecting.moves).await?;
        report.collections_written = to_u64(moved.collections.len());
        report.problems = moved.problems.iter().map(ToString::to_string).collect();
        report.not_stored = moved.full.as_ref().map(ToString::to_string);
        let stuck: BTreeSet<_> = moved.stuck.iter().copied().collect();

        let mut condemned = work.condemned;
        let emptied = work.collecting.emptied.into_iter().filter(|(_, sources)| sources.is_disjoint(&stuck));
        condemned.extend(emptied.map(|(object, _)| object));
        report.condemned = Amount::of(&condemned);
        let mut batches = work.batches;
        if let Some(judged) = work.unfinished_judged.filter(|_| !still_locked.is_empty()) {
            // What a store would not let go stays final, so that a later prune tries again.
            let (condemned_at, received_at) = (shared.context.clock.now(), work.received_at);
            let objects = still_locked;
            batches.insert(0, Batch { judged, condemned_at, received_at, is_final: true, objects });
        }
        if !condemned.is_empty() {
            add_batch(
                &mut batches,
                Batch {
                    judged: plan.judged,
                    condemned_at: shared.context.clock.now(),
                    received_at: work.received_at,
                    is_final: false,
                    objects: condemned,
                },
            );
        }
        let mut collections = work.collections;
        collections.extend(moved.collections);
        let ledger = Ledger { points: work.points, batches, collections };
        let decision = Decision {
            judged: plan.judged,
            retention: plan.retention,
            points_dropped: report.points_dropped,
            points_kept: plan.points_kept,
            brings_back,
            began_at,
        };
        let commit = self.publish(&work.built_on, &ledger, decision, Some(&reserve)).await?;
        report.commit = Some(commit);
        // Moving may have taken hours.
        shared.access.may_write(&shared.context).await?;
        let finals = || ledger.batches.iter().filter(|batch| batch.is_final);
        let objects: Vec<Condemned> = finals().flat_map(|batch| &batch.objects).copied().collect();
        if let Some(judged) = finals().map(|batch| batch.judged).max() {
            let still_locked: BTreeSet<_> =
                delete(shared, &reserve, commit, judged, &objects).await?.into_iter().collect();
            report.deleted = Amount::of(objects.iter().filter(|object| !still_locked.contains(object)));
            report.still_locked = Amount::of(&still_locked);
        }
        for keys in work.proofs.chunks(DELETED_AT_ONCE) {
            // Those that are still locked are found again by the next plan.
            let still_locked = remove(shared, keys.to_vec()).await?;
            report.proofs_deleted += to_u64(keys.len() - still_locked.len());
        }
        reserve.restock(&work.built_on, work.next_bytes).await;
        Ok(report)
    }
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Deletes what a prune declared final with this commit; its batches had judged no commit after `judged`. No commit is deleted
/// before a boundary says so. Returns what the store would not let go because it is still locked.
///
/// In a locked vault all versions of an object are deleted: a plain deletion would only hide it.
async fn delete(
    shared: &LineageShared,
    reserve: &Reserve<'_>,
    commit: Sequence,
    judged: Sequence,
    objects: &[Condemned],
) -> Result<Vec<Condemned>> {
    if objects.iter().any(Condemned::is_commit) {
        match shared.log.raise_boundary(commit, judged).await {
            Err(error) if reserve.frees_room(&error).await => shared.log.raise_boundary(commit, judged).await?,
            raised => raised?,
        }
    }
    let mut still_locked = Vec::new();
    for objects in objects.chunks(DELETED_AT_ONCE) {
        let refused = remove(shared, objects.iter().map(|object| object.key(shared.id)).collect()).await?;
        still_locked.extend(objects.iter().filter(|object| refused.contains(&object.key(shared.id))).copied());
    }
    Ok(still_locked)
}

/// Deletes objects, with all their versions if the vault is locked; those that the store does not let go yet.
async fn remove(shared: &LineageShared, keys: Vec<String>) -> Result<BTreeSet<String>> {
    if shared.access.ring().lock.is_none() {
        shared.store.delete(keys).await?;
        return Ok(BTreeSet::new());
    }
    Ok(shared.store.delete_all_versions(keys, shared.context.clock.now()).await?.into_iter().collect())
}

/// Adds what is condemned now, to the last batch if there are too many: its grace then begins anew.
fn add_batch(batches: &mut Vec<Batch>, mut new: Batch) {
    if batches.len() >= LEDGER_BATCHES_MAX
        && let Some(last) = batches.pop_if(|last| !last.is_final)
    {
        new.objects.extend(last.objects);
    }
    batches.push(new);
}

/// What the commits since the newest prune have come to.
struct Followed {
    /// The points about which there is something to decide, oldest first: those of the newest ledger that can still stand, and
    /// those that were committed since, as many as a ledger can name.
    candidates: Vec<JudgedPoint>,
    /// The newest commit of which that is so.
    judged: Sequence,
    /// The pins that stand by what was done, whatever the newest commit repeats.
    pins: Vec<Pin>,
}

async fn follow(shared: &LineageShared, valid: Option<&Valid>, built_on: &HeadCommit) -> Result<Followed> {
    // The points whose batch is final were left out when it became so.
    let mut candidates: Vec<_> = valid.iter().flat_map(|valid| &valid.ledger.points).copied().collect();
    let newest = built_on.head.sequence;
    let mut judged = valid.map_or(Sequence::FIRST, |valid| valid.pruned.judged);
    let commits = futures::stream::iter(judged.get() + 1..=newest.get()).map(|number| async move {
        shared.log.read_existing(Sequence::new(number), "there are later commits in its lineage").await
    });
    let pruned = valid.map(|valid| valid.commit);
    let mut pins = valid.map(|valid| valid.pins.clone()).unwrap_or_default();
    let mut succession = Succession::default();
    succession.follow_judged(shared, judged).await?;
    let mut is_full = false;
    let mut commits = std::pin::pin!(commits.buffered(COMMITS_READ_AT_ONCE));
    while let Some(commit) = commits.try_next().await? {
        if let Some(Contradiction::State(wrong)) = succession.follow(&commit) {
            // No check can name it any more when the prune has deleted it.
            tracing::warn!(
                group = %shared.group, commit = %commit.body.head.sequence, author = shared.access.host_shown(commit.author),
                wrong = wrong.join(", "),
                "a commit says of the group's state what its author may not; pins are kept as they were made"
            );
        }
        let sequence = commit.body.head.sequence;
        // What the prune found when it was committed is in its pins already.
        if Some(sequence) > pruned {
            pins = succession::pins_after(&pins, &commit.body);
        }
        let is_point = matches!(commit.body.event, Event::Point(_));
        let point = JudgedPoint { sequence, hash: commit.hash, received_at: commit.received_at, stands: true };
        is_full |= is_point && candidates.len() >= LEDGER_POINTS_MAX;
        if is_full {
            continue;
        }
        judged = point.sequence;
        if is_point {
            candidates.push(point);
        }
    }
    let is_stuck = judged < newest
        && candidates.iter().all(|point| point.stands)
        && valid.is_some_and(|valid| valid.pruned.judged == judged);
    if is_stuck {
        let limit = to_u64(LEDGER_POINTS_MAX);
        return Err(Error::LimitExceeded { what: "the number of points that stand", found: limit + 1, limit });
    }
    Ok(Followed { candidates, judged, pins })
}

/// Applies the rules.
///
/// The store's times count, made to rise. Of the two clocks the one that makes points younger is believed: now is not later than the
/// pruner's own. Points in different hours stay in different hours, though, however late his clock is.
fn judge(
    candidates: &[JudgedPoint],
    retention: &Retention,
    built_on: &HeadCommit,
    clock_now: Timestamp,
) -> Vec<JudgedPoint> {
    let mut times: Vec<_> = candidates.iter().map(|point| point.received_at).chain([built_on.received_at]).collect();
    make_rising(&mut times);
    let now = times.pop().map_or(clock_now, |received_at| received_at.min(clock_now));
    let is_pinned = |sequence: Sequence| built_on.head.pins.iter().any(|pin| pin.point == sequence);
    let judged: Vec<_> = candidates
        .iter()
        .zip(times)
        .map(|(point, received_at)| Candidate { received_at, is_held: is_pinned(point.sequence) })
        .collect();
    let stands = retention.judge(&judged, now);
    candidates.iter().zip(stands).map(|(point, stands)| JudgedPoint { stands, ..*point }).collect()
}

async fn read_point(shared: &LineageShared, judged: &JudgedPoint) -> Result<Point> {
    let commit = shared.log.read_existing(judged.sequence, "its point stands").await?;
    let object = commit_key(shared.id, judged.sequence);
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
    let mut all_final = true;
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
        // In order, whatever the clocks say: a point's commit is final before anything that the point needs.
        all_final &= wait.is_over(&batch);
        batch.is_final = all_final;
        if !batch.objects.is_empty() {
            batches.push(batch);
        }
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use farshore_core::{Generation, SiteName};

    use super::*;
    use crate::{Head, tests::KEEP_NEWEST};

    /// Three points, two of them of one week, and a newest commit after them; which stand by a clock that tells this.
    fn stand(clock: &str, retention: Retention) -> Vec<bool> {
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let times = ["2026-11-20T12:00:00Z", "2026-12-08T12:00:00Z", "2026-12-10T12:00:00Z"];
        let point = |(number, time): (u64, &&str)| JudgedPoint {
            sequence: Sequence::new(number),
            hash: [0; 32],
            received_at: at(time),
            stands: true,
        };
        let points: Vec<_> = (2..).zip(&times).map(point).collect();
        let head = Head {
            sequence: Sequence::new(5),
            generation: Generation::FIRST,
            active_site: SiteName::new("a").expect("a good name"),
            newest_point: Some(Sequence::new(4)),
            pruned: None,
            pins: Vec::new(),
            locked_until: None,
        };
        let head = HeadCommit { head, hash: [0; 32], received_at: at("2026-12-10T13:00:00Z"), point: None };
        judge(&points, &retention, &head, at(clock)).iter().map(|point| point.stands).collect()
    }

    #[test]
    fn however_wrong_a_clock_is_nothing_is_given_up_that_the_rules_want() {
        let two_weeks = Retention { all_seconds: 0, weekly: 2, ..KEEP_NEWEST };
        for clock in ["2026-12-10T14:00:00Z", "2036-01-01T00:00:00Z"] {
            assert_eq!(stand(clock, two_weeks), [true, false, true], "{clock}");
        }
        for clock in ["2026-12-10T11:00:00Z", "2026-12-07T00:00:00Z", "2026-11-21T00:00:00Z", "2016-01-01T00:00:00Z"] {
            let stand = stand(clock, two_weeks);
            assert!(stand[0] && stand[2], "{clock}: {stand:?}");
        }
        let three_days = Retention { all_seconds: 3 * 86_400, ..KEEP_NEWEST };
        assert_eq!(
            stand("2036-01-01T00:00:00Z", three_days),
            [false, true, true],
            "a clock that is early makes nothing older"
        );
        assert_eq!(stand("2026-11-22T00:00:00Z", three_days), [true, true, true], "one that is late makes all younger");
    }
}
