//! Making the locks of what points need longer, in a locked vault. (Why: see `lock`.)
//!
//! ## How it goes
//! A *plan* follows the references of all points that stand, as a prune does, and looks up the lock of each object that they
//! need: packs, maps and collections with something that is needed; their commits, all commits since the newest boundary, the
//! ledger that counts, the boundaries, and the vault's own ring and keys. *Executing* it makes each lock that ends too early end
//! one span after the plan was made, and then commits the horizon: the earliest end of all of them.
//!
//! ## Why the horizon is true
//! - What is needed is learned from the points, never from a listing; an object that is needed and not there is an error, and then
//!   the horizon is not raised. A listing of versions only tells which version is the object.
//! - Points that are committed meanwhile are looked at before the commit: their new objects' locks count too. Another prune that lands
//!   meanwhile may have brought points back: then this one gives up, and is planned anew.
//! - A failure anywhere leaves locks that are longer than the horizon says, which is harmless, and the next plan finds them done.
//!
//! ## What is not made longer
//! What no point that stands needs: so the lock of what a prune condemns ends at the latest one span later. Journals of runs, and
//! what hides an object.
//!
//! ## Who does it
//! A pruner: it follows references already, and it decides already what is paid for. A controller follows them too, but
//! has no business with packs; a replicator could lock everything that it ever wrote for ever.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use farshore_core::{GroupName, LineageId, Sequence, Timestamp};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::{Followed, JudgedPoint, Listed, follow, live::Live, placement::Placement, read_point};
use crate::{
    Error, Head, Lineage, Result,
    boundary::boundary_key,
    commit::{Event, commit_key},
    header::HEADER_KEY,
    keys::Power,
    ledger::{Valid, ledger_key},
    lineage::LineageShared,
    lock::{LockMode, VaultLock},
    log::HeadCommit,
    store::{
        Created,
        bucket::{Copies, Retained, Side},
    },
};

/// How many locks are looked up, or made longer, side by side.
const LOCKS_AT_ONCE: usize = 16;

/// A lock that ends less than one part of so many of the span too early is left as it is: so that an extension that was
/// interrupted goes on where it stopped, and a daily one makes all locks longer each day.
const LEFT_ALONE_SHARE: u64 = 16;

/// How often points that came meanwhile are looked at.
const REBASES_MAX: usize = 64;

/// What an extension of one lineage would do.
#[derive(Debug, Serialize)]
pub struct ExtensionPlan {
    /// The group of the lineage.
    pub group: GroupName,
    /// Until when locks would be made to hold.
    pub until: Timestamp,
    /// Until when what is needed is locked as far as was recorded before; none if that was never seen to.
    pub horizon_before: Option<Timestamp>,
    /// How many objects are needed.
    pub needed: u64,
    /// How many of their locks would be made longer.
    pub extended: u64,
    /// Objects that are needed and hidden by a delete marker or a newer version, which somebody else has put there.
    pub hidden: Vec<String>,
    #[serde(skip)]
    work: Work,
}

#[derive(Debug)]
struct Work {
    built_on: HeadCommit,
    valid: Option<Arc<Valid>>,
    lock: VaultLock,
    live: Live,
    /// The newest commit whose point is in `live`.
    followed: Sequence,
    locks: Locks,
}

/// What an extension did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExtensionReport {
    /// The group of the lineage.
    pub group: GroupName,
    /// The commit that says so; none if the horizon was recorded already.
    pub commit: Option<Sequence>,
    /// Until when everything that the points that stand need is locked.
    pub locked_until: Timestamp,
    /// How many objects are needed.
    pub needed: u64,
    /// How many locks were made longer.
    pub extended: u64,
    /// Objects that are needed and hidden.
    pub hidden: Vec<String>,
}

/// A lock that is to be made longer.
#[derive(Debug, Clone)]
struct Short {
    side: Side,
    key: String,
    version: String,
    mode: LockMode,
}

/// The locks of what is needed.
#[derive(Debug, Default)]
struct Locks {
    /// Objects whose locks were looked up, at each address that has them.
    known: BTreeSet<String>,
    /// The earliest end of those that are long enough.
    earliest: Option<Timestamp>,
    short: Vec<Short>,
    hidden: Vec<String>,
    /// Needed objects that are at the metadata, and not at the data: of an interrupted writer.
    uncopied: BTreeSet<String>,
}

impl Locks {
    /// Looks up the locks of those objects that are not known yet: of those that are needed, and of the optional ones as far as they
    /// are there. `versions` is what a listing says that there is.
    async fn look_up(
        &mut self,
        shared: &LineageShared,
        lock: VaultLock,
        until: Timestamp,
        needed: BTreeSet<String>,
        optional: BTreeSet<String>,
        versions: &BTreeMap<String, Copies>,
    ) -> Result<()> {
        let mut new = Vec::new();
        for key in needed.union(&optional).filter(|key| !self.known.contains(*key)) {
            let copies = versions.get(key);
            let first =
                |side| copies.and_then(|copies| copies.get(&side)).and_then(|found| Some((found, found.first()?)));
            let sides: Vec<Side> = shared.store.sides_of(key).collect();
            let missing = sides.iter().find(|side| first(**side).is_none() && needed.contains(key));
            match missing {
                Some(Side::Data) if sides.contains(&Side::Metadata) => {
                    self.uncopied.insert(key.clone());
                    continue;
                }
                Some(_) => {
                    let reason = "a point that stands needs it".to_owned();
                    return Err(Error::ObjectMissing { object: key.clone(), reason });
                }
                None => {}
            }
            let found = sides.into_iter().filter_map(|side| Some((side, first(side)?)));
            new.extend(found.map(|(side, (versions, first))| {
                (side, key.clone(), first.id.clone(), !versions.above_first().is_empty())
            }));
        }
        let looked = stream::iter(new).map(|(side, key, version, is_hidden)| async move {
            let retained = shared.store.retained(side, &key, &version).await?;
            Ok::<_, Error>((side, key, version, is_hidden, retained))
        });
        let looked: Vec<_> = looked.buffered(LOCKS_AT_ONCE).try_collect().await?;
        let slack = i64::try_from(lock.span_seconds.saturating_mul(1_000) / LEFT_ALONE_SHARE).unwrap_or(i64::MAX);
        let enough = Timestamp::from_unix_milliseconds(until.as_unix_milliseconds().saturating_sub(slack));
        for (side, key, version, is_hidden, retained) in looked {
            if is_hidden && !self.hidden.contains(&key) {
                self.hidden.push(key.clone());
            }
            match retained.filter(|retained| retained.until >= enough && retained.mode >= lock.mode) {
                Some(retained) => self.note(retained.until),
                None => {
                    let mode = retained.map_or(lock.mode, |retained| retained.mode.max(lock.mode));
                    self.short.push(Short { side, key: key.clone(), version, mode });
                }
            }
            self.known.insert(key);
        }
        Ok(())
    }

    fn note(&mut self, end: Timestamp) {
        self.earliest = Some(self.earliest.map_or(end, |earliest| earliest.min(end)));
    }

    /// How many objects have a lock that is short.
    fn count_short(&self) -> u64 {
        let keys: BTreeSet<&str> = self.short.iter().map(|short| short.key.as_str()).collect();
        super::to_u64(keys.len())
    }

    /// Makes the locks that are short longer; of how many objects these were.
    async fn extend(&mut self, shared: &LineageShared, until: Timestamp) -> Result<u64> {
        let count = self.count_short();
        let short = std::mem::take(&mut self.short);
        let extended = stream::iter(short).map(|Short { side, key, version, mode }| async move {
            shared.store.retain(side, &key, &version, Retained { mode, until }).await
        });
        let mut extended = extended.buffer_unordered(LOCKS_AT_ONCE);
        while extended.try_next().await?.is_some() {}
        if count > 0 {
            self.note(until);
        }
        Ok(count)
    }
}

impl Lineage {
    /// Plans to make the locks longer of everything that the points that stand need, at each address that has it. It changes nothing.
    ///
    /// # Errors
    /// [`Error::PowerMissing`]; [`Error::NotLocked`]; [`Error::BucketUnfit`]. An object that is needed is missing or damaged: then
    /// nobody knows what is needed. [`Error::LostRace`] when others pruned all the while. Or the store failed.
    pub async fn plan_extension(&self) -> Result<ExtensionPlan> {
        let shared = &*self.0;
        shared.access.require(Power::Pruner, "to make locks longer")?;
        shared.access.refresh().await?;
        let lock = shared.access.ring().lock.ok_or(Error::NotLocked)?;
        shared.store.prove_lock(&lock).await?;
        // Before anything is looked at: a lock that is made longer ends at most a span after it was found to be needed.
        let until = lock.until(shared.context.clock.now());
        shared.by_newest(|built_on, valid| self.plan_extension_on(built_on, valid, lock, until).boxed()).await
    }

    /// The same, by this commit and this ledger.
    async fn plan_extension_on(
        &self,
        built_on: HeadCommit,
        valid: Option<Arc<Valid>>,
        lock: VaultLock,
        until: Timestamp,
    ) -> Result<ExtensionPlan> {
        let shared = &*self.0;
        let Followed { candidates: points, judged: followed, .. } = follow(shared, valid.as_deref(), &built_on).await?;
        let mut work = Work { built_on, valid, lock, live: Live::default(), followed, locks: Locks::default() };
        work.follow(shared, &points).await?;
        work.look_up(shared, until).await?;
        Ok(ExtensionPlan {
            group: shared.group.clone(),
            until,
            horizon_before: work.built_on.head.locked_until,
            needed: super::to_u64(work.locks.known.len()),
            extended: work.locks.count_short(),
            hidden: work.locks.hidden.clone(),
            work,
        })
    }

    /// Makes the locks longer, and records until when they hold.
    ///
    /// # Errors
    /// [`Error::LostRace`] when a prune came between: plan anew. [`Error::NotAtData`] when one of two addresses lacks what is needed, and
    /// not only because its writer was interrupted just now. Or the store failed: some locks are longer then, and the
    /// horizon is as it was; plan anew.
    pub async fn extend(&self, plan: ExtensionPlan) -> Result<ExtensionReport> {
        let shared = &*self.0;
        shared.access.require(Power::Pruner, "to make locks longer")?;
        if shared.access.may_write(&shared.context).await? {
            // The plan was made by an older ring, which may have let commits count that do not.
            return Err(Error::LostRace { group: plan.group, sequence: plan.work.built_on.head.sequence });
        }
        let ExtensionPlan { group, until, mut work, .. } = plan;
        let planned_on = work.built_on.head.pruned;
        let mut extended: u64 = 0;
        for _ in 0..REBASES_MAX {
            work.copy(shared, until).await?;
            extended = extended.saturating_add(work.locks.extend(shared, until).await?);
            let locked_until = work.locks.earliest.unwrap_or(until);
            let mut report = ExtensionReport {
                group: group.clone(),
                commit: None,
                locked_until,
                needed: super::to_u64(work.locks.known.len()),
                extended,
                hidden: work.locks.hidden.clone(),
            };
            if work.followed != work.built_on.head.sequence {
                // More points than a ledger can name: the horizon of those that were not looked at is not known.
                return Err(Error::LimitExceeded {
                    what: "the number of points since the newest prune",
                    found: work.built_on.head.sequence.get(),
                    limit: work.followed.get(),
                });
            }
            if work.built_on.head.locked_until == Some(locked_until) {
                return Ok(report);
            }
            let sequence = work.built_on.head.sequence.next();
            let head = Head { sequence, locked_until: Some(locked_until), ..work.built_on.head.clone() };
            let event = Event::LockExtended { until: locked_until, objects: report.needed };
            if shared.log.create(&work.built_on, head, event).await?.0 == Created::Mine {
                report.commit = Some(sequence);
                return Ok(report);
            }
            let (built_on, valid, seen) = shared.newest_to_build_on().await?;
            if built_on.head.pruned != planned_on {
                break;
            }
            (work.built_on, work.valid) = (built_on, valid);
            let found = work.look_again(shared, until).await;
            // What is found may need no create, which would tell.
            if shared.log.has_risen(seen).await? {
                break;
            }
            found?;
        }
        Err(Error::LostRace { group, sequence: work.built_on.head.sequence })
    }
}

impl Work {
    /// Follows the references of the points that stand.
    async fn follow(&mut self, shared: &LineageShared, points: &[JudgedPoint]) -> Result<()> {
        for point in points.iter().filter(|point| point.stands) {
            self.live.add(&shared.maps, &read_point(shared, point).await?).await?;
        }
        Ok(())
    }

    /// The same of the points that have come since, and then looks at the locks of what is needed.
    async fn look_again(&mut self, shared: &LineageShared, until: Timestamp) -> Result<()> {
        let Followed { candidates: points, judged: followed, .. } =
            follow(shared, self.valid.as_deref(), &self.built_on).await?;
        let new: Vec<_> = points.into_iter().filter(|point| point.sequence > self.followed).collect();
        self.followed = followed;
        self.follow(shared, &new).await?;
        self.look_up(shared, until).await
    }

    /// Copies to the data what an interrupted writer left at the metadata only.
    async fn copy(&mut self, shared: &LineageShared, until: Timestamp) -> Result<()> {
        if std::mem::take(&mut self.locks.uncopied).is_empty() {
            return Ok(());
        }
        shared.store.settle().await?;
        self.look_up(shared, until).await?;
        match self.locks.uncopied.pop_first() {
            Some(object) => Err(Error::NotAtData { object }),
            None => Ok(()),
        }
    }

    async fn look_up(&mut self, shared: &LineageShared, until: Timestamp) -> Result<()> {
        let needed = self.needed(shared).await?;
        let folder = format!("lineages/{}", shared.id);
        let mut versions = shared.store.versions(&folder).await?;
        for own in ["addresses", "keys", HEADER_KEY] {
            versions.extend(shared.store.versions(own).await?);
        }
        let own = |key: &&String| {
            ["addresses/", "keys/"].iter().any(|own| key.starts_with(own))
                || key.starts_with(&format!("{folder}/hosts/"))
        };
        // Slots, enrolments and boxes need not be there; those that are there lead to what is needed.
        let optional = versions.keys().filter(own).cloned().collect();
        self.locks.look_up(shared, self.lock, until, needed, optional, &versions).await
    }

    /// The keys of all objects that must be there for the points that stand.
    async fn needed(&self, shared: &LineageShared) -> Result<BTreeSet<String>> {
        let own = shared.access.own_objects().into_iter();
        let mut needed: BTreeSet<String> = own.filter(|(_, must_exist)| *must_exist).map(|(key, _)| key).collect();
        needed.extend(self.commits(shared));
        if let Some(valid) = &self.valid {
            needed.insert(ledger_key(shared.id, valid.pruned.judged.get(), valid.pruned.ledger.id));
        }
        // No listing: how large packs are does not matter here.
        let placement = Placement::find(shared, self.valid.as_deref(), &self.live, &Listed::default()).await?;
        needed.extend(placement.keys(shared.id, self.valid.as_deref(), &self.live));
        Ok(needed)
    }

    /// The commits of points that stand, and what leads to the newest.
    fn commits(&self, shared: &LineageShared) -> Vec<String> {
        let commit = |number: u64| commit_key(shared.id, Sequence::new(number));
        let (boundaries, first) = shared.log.boundary();
        let head = &self.built_on.head;
        let standing = self.valid.iter().flat_map(|valid| &valid.ledger.points).filter(|point| point.stands);
        let judged = self.valid.as_ref().map_or(0, |valid| valid.pruned.judged.get());
        let mut numbers: BTreeSet<u64> = standing.map(|point| point.sequence.get()).collect();
        numbers.insert(Sequence::FIRST.get());
        numbers.extend(head.pruned.map(Sequence::get));
        // All commits that were not judged count, and a search for the newest asks for those since the boundary.
        numbers.extend(first.max(1).min(judged + 1)..=head.sequence.get());
        let commits = numbers.into_iter().map(commit);
        commits.chain((1..=boundaries).map(|number| boundary_key(shared.id, number))).collect()
    }
}

impl Placement {
    /// The keys of the objects in which something is needed.
    fn keys(&self, lineage: LineageId, valid: Option<&Valid>, live: &Live) -> BTreeSet<String> {
        let collections = valid.iter().flat_map(|valid| &valid.ledger.collections);
        let collections = collections.map(|collection| (collection.id, collection.base)).collect();
        self.needed_objects(live, &collections).map(|object| object.key(lineage)).collect()
    }
}
