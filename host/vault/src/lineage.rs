//! A lineage: the recovery points of one group, and who may add to them.
//!
//! The one mutable fact is which commit is the newest (see `log`). Which points there are is said by the newest prune's ledger
//! for the commits that it judged (see `ledger`), and by each commit after those.
//!
//! Fencing: a raise of the generation is a commit like any other. A writer that began before it wants the same number as
//! the raise, or one that is taken already, so its create loses.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use farshore_core::{Entropy, Generation, GroupName, LineageId, Sequence, SiteName, Timestamp};
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture};
use serde::Serialize;

use crate::{
    Context, Error, Head, Point, PointReader, PointWriter, Result, Store,
    boundary::boundary_key,
    collection::Places,
    commit::{self, Commit, Event, StoredCommit, commit_folder, commit_key, commit_number, read_stored},
    frames::Frames,
    index::Index,
    keys::{Access, Power},
    ledger::{Ledgers, Valid},
    log::{CommitLog, HeadCommit},
    map::Maps,
    seal::{ContentKeys, Hash, LineageKeys, LineageSecrets},
    store::Created,
    waiting::WaitingSealer,
};

/// How many commits are read side by side when points are listed.
const COMMITS_READ_AT_ONCE: usize = 8;

/// How often what a reader wants of the commits is looked for anew because others deleted some meanwhile.
const READS_MAX: usize = 8;

/// A list of points ends after so many commits that cannot be read: a listing may claim any number of them.
const UNREADABLE_LISTED_MAX: usize = 1000;

/// How often the newest commit is judged again because the ring changed meanwhile.
const RINGS_MAX: usize = 8;

/// The most bytes of a reason or note.
pub(crate) const NOTE_BYTES_MAX: usize = 4096;

/// What can be told of a lineage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineageInfo {
    /// Its id.
    pub id: LineageId,
    /// The group whose points it holds.
    pub group: GroupName,
}

/// The sequence of recovery points of one group. Clones are the same lineage and share its caches.
#[derive(Debug, Clone)]
pub struct Lineage(pub(crate) Arc<LineageShared>);

/// What all handles of a lineage share.
#[derive(Debug)]
pub(crate) struct LineageShared {
    pub(crate) store: Store,
    pub(crate) context: Context,
    pub(crate) access: Arc<Access>,
    pub(crate) id: LineageId,
    pub(crate) group: GroupName,
    pub(crate) keys: LineageKeys,
    pub(crate) secrets: LineageSecrets,
    pub(crate) log: Arc<CommitLog>,
    pub(crate) ledgers: Arc<Ledgers>,
    pub(crate) places: Arc<Places>,
    pub(crate) maps: Maps,
    pub(crate) frames: Frames,
    pub(crate) index: Index,
    /// The newest point that a writer of this process began on or made.
    pub(crate) newest_written: Mutex<Option<Arc<Point>>>,
}

impl LineageShared {
    /// The lineage of this id; none if there is none.
    ///
    /// # Errors
    /// [`Error::NoKey`] when nobody sealed its keys for the holder of the vault; its first commit is damaged; or the store
    /// failed.
    pub(crate) async fn open(
        store: &Store,
        context: &Context,
        access: &Arc<Access>,
        id: LineageId,
    ) -> Result<Option<Self>> {
        let stored = match read_stored(store, id, Sequence::FIRST).await? {
            Some(stored) => stored,
            None => match first_after_all(store, id).await? {
                Some(stored) => stored,
                None => return Ok(None),
            },
        };
        let object = commit_key(id, Sequence::FIRST);
        let secrets = access.open_lineage(&object, id, &stored.boxes).await?.ok_or(Error::NoKey { lineage: id })?;
        let keys = secrets.keys(access.vault(), id);
        let genesis = stored.open(access, &keys.metadata).await?;
        let Event::Genesis { group, content_check } = genesis.body.event else {
            return Err(Error::damaged(object, "it does not begin a lineage"));
        };
        if access.member.lineage_id(&group) != id {
            return Err(Error::damaged(object, "it belongs to another group"));
        }
        if keys.content.as_ref().is_some_and(|content| !content.are(&content_check)) {
            return Err(Error::damaged(object, "the keys of its content are not those that it speaks of"));
        }
        let (store, context, access) = (store.clone(), context.clone(), Arc::clone(access));
        let metadata = || keys.metadata.clone();
        let log = CommitLog::new(store.clone(), context.clone(), Arc::clone(&access), id, group.clone(), metadata());
        let log = Arc::new(log);
        let ledgers = Arc::new(Ledgers::new(store.clone(), Arc::clone(&log), id, metadata()));
        let places = Arc::new(Places::new(store.clone(), metadata(), id, Arc::clone(&ledgers)));
        let workers = context.workers.clone();
        let frames = Frames::new(store.clone(), workers, Arc::clone(&access), id, keys.clone(), Arc::clone(&places));
        Ok(Some(Self {
            maps: Maps::new(store.clone(), id, metadata(), Arc::clone(&places)),
            frames,
            index: Index::default(),
            newest_written: Mutex::default(),
            log,
            ledgers,
            places,
            group,
            store,
            context,
            access,
            id,
            keys,
            secrets,
        }))
    }

    /// Notes the newest point that a writer of this process knows.
    pub(crate) fn note_newest(&self, point: Option<Arc<Point>>) {
        *self.newest_written.lock().unwrap_or_else(PoisonError::into_inner) = point;
    }

    /// The newest commit and the ledger that counts, judged by the newest ring, and the number of the newest boundary then: what a
    /// write builds on. What the writer finds besides may be no damage if that boundary is the newest no more (see
    /// [`LineageShared::unless_overtaken`]); its create, if it makes one, tells.
    ///
    /// # Errors
    /// As those of [`Access::may_write`]; a commit is damaged, or the store failed; [`Error::LostRace`] when the ring changed all
    /// the while.
    pub(crate) async fn newest_to_build_on(&self) -> Result<(HeadCommit, Option<Arc<Valid>>, u64)> {
        for _ in 0..RINGS_MAX {
            let newest = self.ledgers.newest_seen().await?;
            // The ring comes after what is built on: a host that is revoked has been told by then, in the lineage or here. What
            // was judged by an older ring is judged again.
            if !self.access.may_write(&self.context).await? {
                return Ok(newest);
            }
        }
        let sequence = self.log.newest().await?.head.sequence;
        Err(Error::LostRace { group: self.group.clone(), sequence })
    }

    /// What identifies content, for a writer.
    ///
    /// # Errors
    /// [`Error::PowerMissing`], or [`Error::NoKey`] when the holder has the power, but not for this group.
    pub(crate) fn writing_keys(&self) -> Result<&ContentKeys> {
        self.access.require(Power::Replicator, "to add recovery points")?;
        self.keys.content.as_ref().ok_or(Error::NoKey { lineage: self.id })
    }

    pub(crate) fn entropy(&self) -> &dyn Entropy {
        &*self.context.entropy
    }

    /// A recovery point that stands.
    ///
    /// # Errors
    /// [`Error::PointMissing`] when there is none of this number, or it was dropped; [`Error::LostRace`] when others pruned all the while.
    pub(crate) async fn point(&self, sequence: Sequence) -> Result<Point> {
        let find =
            |_, valid: Option<Arc<Valid>>| async move { self.point_in(valid.as_deref(), sequence).await }.boxed();
        self.by_newest_that_opens(find).await
    }

    /// What a writer found, or that others went on: what is missing or wrong once a boundary has risen may be a sleeper's, or gone.
    ///
    /// # Errors
    /// Those of what was found, or [`Error::LostRace`]; the newest boundary is damaged, or the store failed.
    pub(crate) async fn unless_overtaken<T>(&self, found: Result<T>, seen: u64) -> Result<T> {
        match found {
            Err(error) if error.is_damage() || matches!(error, Error::PointMissing { .. }) => {
                match self.log.has_risen(seen).await? {
                    true => Err(self.log.overtaken()),
                    false => Err(error),
                }
            }
            found => found,
        }
    }

    /// What is found in the commits by the newest of them and the ledger that counts. It is looked for again when others have
    /// deleted commits since: what was read meanwhile may be a sleeper's, and what is missing no damage.
    ///
    /// # Errors
    /// Those of `find`; the newest commit, boundary or ledger is missing or damaged; the store failed; [`Error::LostRace`] when others
    /// pruned all the while.
    pub(crate) async fn by_newest<'a, T>(
        &'a self,
        find: impl Fn(HeadCommit, Option<Arc<Valid>>) -> BoxFuture<'a, Result<T>> + Send + Sync,
    ) -> Result<T> {
        for _ in 0..READS_MAX {
            let (head, valid, seen) = self.ledgers.newest_seen().await?;
            let found = match find(head, valid).await {
                Err(error @ Error::Store { .. }) => return Err(error),
                found => found,
            };
            if !self.log.has_risen(seen).await? {
                return found;
            }
        }
        Err(self.log.overtaken())
    }

    /// The same for readers, whom damage of the newest commit, boundary or ledger does not keep from what is before it: they go by the
    /// newest ledger that opens then, without a head.
    pub(crate) async fn by_newest_that_opens<'a, T: 'a>(
        &'a self,
        find: impl Fn(Option<HeadCommit>, Option<Arc<Valid>>) -> BoxFuture<'a, Result<T>> + Send + Sync,
    ) -> Result<T> {
        match self.by_newest(|head, valid| find(Some(head), valid).map(Ok).boxed()).await {
            Ok(found) => found,
            Err(error) if error.is_damage() => find(None, self.ledgers.readable().await?).await,
            Err(error) => Err(error),
        }
    }

    /// The same, as this ledger says.
    pub(crate) async fn point_in(&self, valid: Option<&Valid>, sequence: Sequence) -> Result<Point> {
        match self.commit_in(valid, sequence).await?.map(|commit| commit.body.event) {
            Some(Event::Point(point)) => Ok(*point),
            _ => Err(Error::PointMissing { group: self.group.clone(), sequence }),
        }
    }

    /// A commit that this ledger did not judge, or one of a point that it lets stand; none if there is none.
    pub(crate) async fn commit_in(&self, valid: Option<&Valid>, sequence: Sequence) -> Result<Option<Commit>> {
        let judged = valid.filter(|valid| sequence <= valid.pruned.judged);
        match judged.map(|valid| valid.standing(sequence)) {
            None => self.log.read(sequence).await,
            Some(None) => Ok(None),
            Some(Some(point)) => {
                let commit = self.log.read_existing(sequence, "the newest prune says that its point stands").await?;
                if commit.hash != point.hash {
                    let problem = "it is not the commit that the newest prune judged";
                    return Err(Error::damaged(commit_key(self.id, sequence), problem));
                }
                Ok(Some(commit))
            }
        }
    }

    /// Whether a prune has judged the commit of this number, and lets a point of this object stand.
    pub(crate) async fn stands(&self, sequence: Sequence, hash: Hash) -> Result<bool> {
        let (_, valid) = self.ledgers.newest().await?;
        Ok(valid.is_some_and(|valid| valid.standing(sequence).is_some_and(|point| point.hash == hash)))
    }

    /// The point behind a number that must be a commit's; none if that commit is no point.
    async fn listed_point(&self, valid: Option<&Valid>, sequence: Sequence) -> Result<Option<Point>> {
        let missing = || Error::ObjectMissing {
            object: commit_key(self.id, sequence),
            reason: "there are later commits in its lineage".to_owned(),
        };
        match self.commit_in(valid, sequence).await?.ok_or_else(missing)?.body.event {
            Event::Point(point) => Ok(Some(*point)),
            _ => Ok(None),
        }
    }

    /// The horizon of what is committed on this head now, if the vault is locked. Of two clocks the one that makes it nearer
    /// is believed.
    ///
    /// # Errors
    /// [`Error::LockNear`].
    pub(crate) fn next_horizon(&self, built_on: &HeadCommit, now: Timestamp) -> Result<Option<Timestamp>> {
        let Some(lock) = self.access.ring().lock else { return Ok(None) };
        let near = |horizon| Error::LockNear { group: self.group.clone(), horizon };
        lock.next_horizon(&built_on.head, now.max(built_on.received_at)).map(Some).map_err(near)
    }

    /// That the lineage has gone on without the writer who built on this head: its newest commit says how.
    pub(crate) async fn explain_lost_race(&self, built_on: &Head, generation: Generation, site: &SiteName) -> Error {
        match self.log.newest().await {
            Ok(newest) if newest.head.generation != generation || newest.head.active_site != *site => {
                self.fenced(generation, site, &newest.head)
            }
            Ok(_) => Error::LostRace { group: self.group.clone(), sequence: built_on.sequence.next() },
            Err(error) => error,
        }
    }

    pub(crate) fn fenced(&self, generation: Generation, site: &SiteName, head: &Head) -> Error {
        Error::Fenced {
            group: self.group.clone(),
            generation,
            site: site.clone(),
            current_generation: head.generation,
            active_site: head.active_site.clone(),
        }
    }
}

impl Lineage {
    /// Its id.
    pub fn id(&self) -> LineageId {
        self.0.id
    }

    /// The group whose points it holds.
    pub fn group(&self) -> &GroupName {
        &self.0.group
    }

    /// The state of the lineage as its newest commit says.
    ///
    /// # Errors
    /// A commit is missing or damaged, or the store failed.
    pub async fn head(&self) -> Result<Head> {
        Ok(self.0.log.newest().await?.head)
    }

    /// The same, once it is at both addresses of a vault that has two: what it says may then be told as durable.
    ///
    /// # Errors
    /// [`Error::NotAtData`], [`Error::AddressesDiffer`]; a commit is missing or damaged; or a store failed.
    pub async fn settled_head(&self) -> Result<Head> {
        let head = self.head().await?;
        self.0.store.settle().await?;
        Ok(head)
    }

    /// At most `limit` points, newest first: all, or those before the commit of this number.
    ///
    /// # Errors
    /// A commit is missing or damaged, or the store failed.
    pub async fn points(&self, before: Option<Sequence>, limit: usize) -> Result<Vec<Point>> {
        self.list_points(before, limit).await?.into_iter().map(|(_, point)| point).collect()
    }

    /// The same item by item: a commit that is missing or damaged takes the place of a point, and hides no other. Whether
    /// it was a point nobody can tell.
    ///
    /// # Errors
    /// [`Error::LostRace`] when others pruned all the while, or the store failed.
    pub async fn list_points(&self, before: Option<Sequence>, limit: usize) -> Result<Vec<(Sequence, Result<Point>)>> {
        let shared = &self.0;
        let find = |head: Option<HeadCommit>, valid: Option<Arc<Valid>>| {
            let listed = async move {
                let newest = match head {
                    Some(head) => head.head.newest_point.map_or(0, Sequence::get),
                    // Without the newest commit only a listing tells where to begin; each commit is read all the same.
                    None => shared.log.newest_listed().await?,
                };
                self.list_points_in(valid.as_ref(), newest, before, limit).await
            };
            listed.boxed()
        };
        shared.by_newest_that_opens(find).await
    }

    /// The same, as this ledger says, of points up to this number.
    async fn list_points_in(
        &self,
        valid: Option<&Arc<Valid>>,
        newest: u64,
        before: Option<Sequence>,
        limit: usize,
    ) -> Result<Vec<(Sequence, Result<Point>)>> {
        let last = before.map_or(newest, |before| newest.min(before.get().saturating_sub(1)));
        let judged = valid.map_or(1, |valid| valid.pruned.judged.get());
        let standing: Vec<u64> = valid
            .into_iter()
            .flat_map(|valid| &valid.ledger.points)
            .filter(|point| point.stands)
            .map(|point| point.sequence.get())
            .filter(|number| *number <= last)
            .collect();
        let numbers = (judged + 1..=last).rev().chain(standing.into_iter().rev());
        let commits = futures::stream::iter(numbers).map(|number| {
            let (shared, valid) = (Arc::clone(&self.0), valid.cloned());
            async move {
                let sequence = Sequence::new(number);
                (sequence, shared.listed_point(valid.as_deref(), sequence).await)
            }
        });
        let points = commits.buffered(COMMITS_READ_AT_ONCE).filter_map(|(sequence, point)| async move {
            match point {
                Ok(point) => point.map(|point| Ok((sequence, Ok(point)))),
                Err(error) if error.is_damage() => Some(Ok((sequence, Err(error)))),
                Err(error) => Some(Err(error)),
            }
        });
        let mut unreadable: usize = 0;
        let few_unreadable = move |(_, point): &(Sequence, Result<Point>)| {
            unreadable = unreadable.saturating_add(usize::from(point.is_err()));
            futures::future::ready(Ok(unreadable <= UNREADABLE_LISTED_MAX))
        };
        points.take(limit).try_take_while(few_unreadable).try_collect().await
    }

    /// The point of this number.
    ///
    /// # Errors
    /// [`Error::PointMissing`] when there is no commit of this number, or it is no point.
    pub async fn point(&self, sequence: Sequence) -> Result<Point> {
        self.0.point(sequence).await
    }

    /// Takes the right to write from whoever has it and gives it to a site, if the lineage still stands where the caller
    /// saw it. Points that began before are refused from then on.
    ///
    /// # Errors
    /// [`Error::LostRace`] when the lineage has gone on: look at the head again, and decide again.
    pub async fn raise_generation(&self, active_site: &SiteName, reason: &str, expected: &Head) -> Result<Generation> {
        check_note("the reason", reason)?;
        let shared = &self.0;
        shared.access.require(Power::Controller, "to give a group to another site")?;
        let lost = || Error::LostRace { group: shared.group.clone(), sequence: expected.sequence.next() };
        let commit = shared.log.read(expected.sequence).await?.ok_or_else(lost)?;
        if commit.body.head != *expected {
            return Err(lost());
        }
        let next = expected.generation.get().checked_add(1).ok_or_else(|| {
            let problem = "it says that the group is in the last generation that there is, as no honest host claims";
            Error::damaged(commit_key(shared.id, expected.sequence), problem)
        });
        let generation = Generation::new(next?);
        let head = Head {
            sequence: expected.sequence.next(),
            generation,
            active_site: active_site.clone(),
            ..expected.clone()
        };
        let event = Event::GenerationRaised { previous_site: expected.active_site.clone(), reason: reason.to_owned() };
        let built_on = HeadCommit::of(commit);
        if shared.access.may_write(&shared.context).await? {
            // What the caller has looked at was judged by an older ring.
            return Err(lost());
        }
        match shared.log.create(&built_on, head, event).await?.0 {
            Created::Mine => Ok(generation),
            Created::Other => Err(lost()),
        }
    }

    /// From now on writers find what the newest point has at other places, with an index in this folder: one file for each vault and
    /// lineage, of at most 1.25 GiB. It is a cache, and no other process may use it meanwhile: what is wrong with it is a warning,
    /// and costs space in the vault. The first folder counts.
    pub fn keep_index(&self, folder: &Path) {
        let shared = &self.0;
        let file = folder.join(shared.access.vault().to_string()).join(format!("{}.redb", shared.id));
        shared.index.keep_at(file);
    }

    /// The newest point that a writer of this process began on, or made. The vault is not asked: others may have gone on since.
    pub fn newest_written(&self) -> Option<Arc<Point>> {
        self.0.newest_written.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What seals, on this host, what waits for the vault.
    ///
    /// # Errors
    /// [`Error::PowerMissing`] or [`Error::NoKey`]: only who may write to the lineage has it.
    pub fn waiting_sealer(&self) -> Result<WaitingSealer> {
        self.0.writing_keys()?;
        let sealer = self.0.keys.waiting.clone().ok_or(Error::NoKey { lineage: self.0.id })?;
        Ok(WaitingSealer::new(sealer, self.0.id, Arc::clone(&self.0.context.entropy)))
    }

    /// Begins the next point, on behalf of the site that the caller takes to be active in this generation.
    ///
    /// # Errors
    /// [`Error::Fenced`] when another site or generation is current; [`Error::LostRace`] when others went on meanwhile;
    /// [`Error::ConditionsIgnored`], or the store failed, when nothing can be written safely.
    pub async fn begin_point(&self, generation: Generation, site: &SiteName) -> Result<PointWriter> {
        PointWriter::begin(Arc::clone(&self.0), Some(generation), site).await
    }

    /// The same, in whatever generation the lineage is: for a site that knows of none, and looks at the newest commit only
    /// once.
    ///
    /// # Errors
    /// As those of [`Lineage::begin_point`].
    pub async fn begin_next_point(&self, site: &SiteName) -> Result<PointWriter> {
        PointWriter::begin(Arc::clone(&self.0), None, site).await
    }

    /// Opens a point to read its disks.
    ///
    /// # Errors
    /// [`Error::PointMissing`] when there is no commit of this number, or it is no point.
    pub async fn open_point(&self, sequence: Sequence) -> Result<PointReader> {
        // It may have been sealed in an epoch that began since the vault was opened.
        self.0.access.refresh().await?;
        let point = self.0.point(sequence).await?;
        Ok(PointReader::new(Arc::clone(&self.0), point))
    }
}

/// The first commit of a lineage that was not there a moment ago; none if the lineage has not begun. Without it nobody has the keys
/// of what follows, and a second first commit would put others in their place.
async fn first_after_all(store: &Store, id: LineageId) -> Result<Option<StoredCommit>> {
    let first = commit_key(id, Sequence::FIRST);
    let is_commit = |name: &str| commit_number(name).is_some();
    let has_begun = store.any_after(&commit_folder(id), &first, is_commit).await?
        || store.size(&boundary_key(id, 1)).await?.is_some();
    if !has_begun {
        return Ok(None);
    }
    let reason = "there are later commits in its lineage, or were, and it holds their keys".to_owned();
    let missing = || Error::ObjectMissing { object: first.clone(), reason };
    read_stored(store, id, Sequence::FIRST).await?.map(Some).ok_or_else(missing)
}

/// Checks the length of a text for people.
pub(crate) fn check_note(what: &'static str, text: &str) -> Result<()> {
    let limit = u64::try_from(NOTE_BYTES_MAX).unwrap_or(u64::MAX);
    let found = u64::try_from(text.len()).unwrap_or(u64::MAX);
    if found > limit { Err(Error::LimitExceeded { what, found, limit }) } else { Ok(()) }
}

/// Until when what a lineage that begins now needs is locked, in a locked vault: its first commit, which the bucket locks, and the
/// vault's own objects, of which the oldest may have been locked long ago. None if one of them is not, or if nobody may tell.
async fn first_horizon(store: &Store, access: &Access, now: Timestamp) -> Result<Option<Timestamp>> {
    let Some(lock) = access.ring().lock else { return Ok(None) };
    let mut horizon = Some(lock.until(now));
    let mut note = |ends: Vec<Option<Option<Timestamp>>>, must_exist| {
        for end in ends {
            match end {
                Some(until) => horizon = horizon.zip(until).map(|(horizon, until)| horizon.min(until)),
                None if must_exist => horizon = None,
                None => {}
            }
        }
    };
    for (key, must_exist) in access.own_objects() {
        note(store.object_locked_until(&key).await?, must_exist);
    }
    for number in 1.. {
        let ends = store.object_locked_until(&Store::says_key(number)).await?;
        if ends.iter().all(Option::is_none) {
            break;
        }
        note(ends, false);
    }
    Ok(horizon)
}

/// Opens or begins the lineage of a group.
pub(crate) async fn open_or_begin(
    store: &Store,
    context: &Context,
    access: &Arc<Access>,
    group: &GroupName,
    active_site: &SiteName,
) -> Result<LineageShared> {
    let id = access.member.lineage_id(group);
    if let Some(there) = LineageShared::open(store, context, access, id).await? {
        return Ok(there);
    }
    access.require(Power::Replicator, "to begin the recovery points of a group")?;
    let entropy = &*context.entropy;
    access.may_write(context).await?;
    let secrets = LineageSecrets::random(entropy);
    let keys = secrets.keys(access.vault(), id);
    let object = commit_key(id, Sequence::FIRST);
    let boxes = access.seal_lineage(&object, id, &secrets, entropy)?;
    let check = keys.content.as_ref().map(ContentKeys::check).unwrap_or_default();
    let now = context.clock.now();
    let locked_until = first_horizon(store, access, now).await?;
    let body = commit::genesis(id, group, active_site, check, (now, locked_until));
    let bytes = body.encode(access, &keys.metadata, &boxes, entropy)?;
    // Whether this creator or another was first: what is there now is the lineage.
    store.create(&object, vec![Bytes::from(bytes)]).await?;
    let missing = || Error::ObjectMissing { object, reason: "it was just created".to_owned() };
    LineageShared::open(store, context, access, id).await?.ok_or_else(missing)
}
