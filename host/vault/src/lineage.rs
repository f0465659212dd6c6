//! A lineage: the recovery points of one group, and who may add to them.
//!
//! The one mutable fact is which commit is the newest. It is found by asking for numbers: from the newest that this
//! handle has seen, in steps that double, then by halving. The numbers have no gaps, so a number that is there and a
//! next one that is not there are the end. A commit that was lost from the middle would make an older one look like the
//! newest, and the next writer would fork the history; so the first search of a handle also lists the folder, and a
//! number past the end that was found is reported as the damage that it is.
//!
//! Fencing: a raise of the generation is a commit like any other. A writer that began before it wants the same number as
//! the raise, or one that is taken already, so its create loses.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;
use farshore_core::{Entropy, Generation, GroupName, LineageId, Sequence, SiteName};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use crate::{
    Context, Error, Head, Point, PointReader, PointWriter, Result, Store,
    commit::{self, Commit, CommitBody, Event, commit_folder, commit_key, commit_number, read_stored},
    frames::Frames,
    keys::{Access, Power},
    map::Maps,
    seal::{ContentKeys, LineageKeys, LineageSecrets},
    store::Created,
};

/// How often a search for the newest commit begins anew because other writers went on meanwhile.
const SEARCHES_MAX: usize = 8;

/// How many commits are read side by side when points are listed.
const COMMITS_READ_AT_ONCE: usize = 8;

/// A list of points ends after so many commits that cannot be read: a listing may claim any number of them.
const UNREADABLE_LISTED_MAX: usize = 1000;

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
    pub(crate) maps: Maps,
    pub(crate) frames: Frames,
    /// The newest commit that was ever seen.
    known: AtomicU64,
    /// Whether a listing has confirmed that there is none past the end that was found.
    listed: AtomicBool,
}

/// The newest commit, as a writer builds on it.
#[derive(Debug, Clone)]
pub(crate) struct HeadCommit {
    pub(crate) head: Head,
    pub(crate) hash: [u8; 32],
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
        let Some(stored) = read_stored(store, id, Sequence::FIRST).await? else { return Ok(None) };
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
        Ok(Some(Self {
            maps: Maps::new(store.clone(), id, keys.metadata.clone()),
            frames: Frames::new(store.clone(), context.workers.clone(), Arc::clone(&access), id, keys.clone()),
            group,
            store,
            context,
            access,
            id,
            keys,
            secrets,
            known: AtomicU64::new(Sequence::FIRST.get()),
            listed: AtomicBool::new(false),
        }))
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

    /// Reads a commit; none if there is none of this number.
    pub(crate) async fn read(&self, sequence: Sequence) -> Result<Option<Commit>> {
        match read_stored(&self.store, self.id, sequence).await? {
            Some(stored) => stored.open(&self.access, &self.keys.metadata).await.map(Some),
            None => Ok(None),
        }
    }

    async fn exists(&self, number: u64) -> Result<bool> {
        let size = self.store.size(&commit_key(self.id, Sequence::new(number))).await?;
        Ok(size.is_some())
    }

    /// The highest number that a listing proposes: for a check of a lineage whose newest commit cannot be told.
    pub(crate) async fn newest_listed(&self) -> Result<u64> {
        let mut newest = self.known.load(Ordering::Relaxed);
        let note = |name: &str| {
            newest = newest.max(commit_number(name).unwrap_or(0));
            false
        };
        self.store.any_in(&commit_folder(self.id), note).await?;
        Ok(newest)
    }

    /// The newest commit.
    pub(crate) async fn head_commit(&self) -> Result<HeadCommit> {
        for _ in 0..SEARCHES_MAX {
            let key = |number| commit_key(self.id, Sequence::new(number));
            let newest = self.store.last_number(self.known.load(Ordering::Relaxed), key).await?;
            self.known.fetch_max(newest, Ordering::Relaxed);
            if !self.listed.load(Ordering::Relaxed) {
                let past_end = |name: &str| commit_number(name).is_some_and(|number| number > newest);
                if self.store.any_in(&commit_folder(self.id), past_end).await? {
                    if self.exists(newest + 1).await? {
                        continue;
                    }
                    return Err(Error::ObjectMissing {
                        object: commit_key(self.id, Sequence::new(newest + 1)),
                        reason: "there are commits before and after it".to_owned(),
                    });
                }
                self.listed.store(true, Ordering::Relaxed);
            }
            let sequence = Sequence::new(newest);
            let commit = self.read(sequence).await?.ok_or_else(|| Error::ObjectMissing {
                object: commit_key(self.id, sequence),
                reason: "it was the newest commit of its lineage a moment ago".to_owned(),
            })?;
            return Ok(HeadCommit { head: commit.body.head, hash: commit.hash });
        }
        Err(Error::LostRace { group: self.group.clone(), sequence: Sequence::new(self.known.load(Ordering::Relaxed)) })
    }

    pub(crate) async fn point(&self, sequence: Sequence) -> Result<Point> {
        let missing = || Error::PointMissing { group: self.group.clone(), sequence };
        match self.read(sequence).await?.ok_or_else(missing)?.body.event {
            Event::Point(point) => Ok(*point),
            Event::Genesis { .. } | Event::GenerationRaised { .. } => Err(missing()),
        }
    }

    /// That the lineage has gone on without the writer who built on this head: the other one's commit says how.
    pub(crate) async fn explain_lost_race(&self, built_on: &Head, generation: Generation, site: &SiteName) -> Error {
        let sequence = built_on.sequence.next();
        match self.read(sequence).await {
            Ok(Some(winner)) => {
                let head = winner.body.head;
                if head.generation != generation || head.active_site != *site {
                    self.fenced(generation, site, &head)
                } else {
                    Error::LostRace { group: self.group.clone(), sequence }
                }
            }
            Ok(None) => Error::LostRace { group: self.group.clone(), sequence },
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

    /// Creates the commit that follows `built_on`.
    pub(crate) async fn create(&self, built_on: &HeadCommit, head: Head, event: Event) -> Result<Created> {
        debug_assert_eq!(head.sequence, built_on.head.sequence.next());
        let written_at = self.context.clock.now();
        let number = head.sequence.get();
        let body = CommitBody { lineage: self.id, head, previous: built_on.hash, written_at, event };
        let bytes = body.encode(&self.access, &self.keys.metadata, &[], self.entropy())?;
        let key = commit_key(self.id, body.head.sequence);
        let created = self.store.create(&key, vec![Bytes::from(bytes)]).await?;
        self.known.fetch_max(number, Ordering::Relaxed);
        Ok(created)
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
        Ok(self.0.head_commit().await?.head)
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
    /// The store failed.
    pub async fn list_points(&self, before: Option<Sequence>, limit: usize) -> Result<Vec<(Sequence, Result<Point>)>> {
        let newest = match self.head().await {
            Ok(head) => head.newest_point.map_or(0, Sequence::get),
            // Without the newest commit only a listing tells where to begin; each commit is read all the same.
            Err(error) if error.is_damage() => self.0.newest_listed().await?,
            Err(error) => return Err(error),
        };
        let last = before.map_or(newest, |before| newest.min(before.get().saturating_sub(1)));
        let commits = futures::stream::iter((2..=last).rev()).map(|number| {
            let shared = Arc::clone(&self.0);
            async move {
                let sequence = Sequence::new(number);
                let missing = || Error::ObjectMissing {
                    object: commit_key(shared.id, sequence),
                    reason: "there are later commits in its lineage".to_owned(),
                };
                (sequence, shared.read(sequence).await.and_then(|commit| commit.ok_or_else(missing)))
            }
        });
        let points = commits.buffered(COMMITS_READ_AT_ONCE).filter_map(|(sequence, commit)| async move {
            match commit {
                Ok(commit) => match commit.body.event {
                    Event::Point(point) => Some(Ok((sequence, Ok(*point)))),
                    Event::Genesis { .. } | Event::GenerationRaised { .. } => None,
                },
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
        let commit = shared.read(expected.sequence).await?.ok_or_else(lost)?;
        if commit.body.head != *expected {
            return Err(lost());
        }
        let generation = expected.generation.next();
        let head = Head {
            sequence: expected.sequence.next(),
            generation,
            active_site: active_site.clone(),
            newest_point: expected.newest_point,
        };
        let event = Event::GenerationRaised { previous_site: expected.active_site.clone(), reason: reason.to_owned() };
        let built_on = HeadCommit { head: expected.clone(), hash: commit.hash };
        shared.store.prove_conditions(shared.entropy()).await?;
        match shared.create(&built_on, head, event).await? {
            Created::Mine => Ok(generation),
            Created::Other => Err(lost()),
        }
    }

    /// Begins the next point, on behalf of the site that the caller takes to be active in this generation.
    ///
    /// # Errors
    /// [`Error::Fenced`] when another site or generation is current; [`Error::ConditionsIgnored`], or the store failed,
    /// when nothing can be written safely.
    pub async fn begin_point(&self, generation: Generation, site: &SiteName) -> Result<PointWriter> {
        PointWriter::begin(Arc::clone(&self.0), generation, site).await
    }

    /// Opens a point to read its disks.
    ///
    /// # Errors
    /// [`Error::PointMissing`] when there is no commit of this number, or it is no point.
    pub async fn open_point(&self, sequence: Sequence) -> Result<PointReader> {
        let point = self.0.point(sequence).await?;
        Ok(PointReader::new(Arc::clone(&self.0), point))
    }
}

/// Checks the length of a text for people.
pub(crate) fn check_note(what: &'static str, text: &str) -> Result<()> {
    let limit = u64::try_from(NOTE_BYTES_MAX).unwrap_or(u64::MAX);
    let found = u64::try_from(text.len()).unwrap_or(u64::MAX);
    if found > limit { Err(Error::LimitExceeded { what, found, limit }) } else { Ok(()) }
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
    store.prove_conditions(entropy).await?;
    let secrets = LineageSecrets::random(entropy);
    let keys = secrets.keys(access.vault(), id);
    let object = commit_key(id, Sequence::FIRST);
    let boxes = access.seal_lineage(&object, id, &secrets, entropy)?;
    let check = keys.content.as_ref().map(ContentKeys::check).unwrap_or_default();
    let body = commit::genesis(id, group, active_site, check, context.clock.now());
    let bytes = body.encode(access, &keys.metadata, &boxes, entropy)?;
    // Whether this creator or another was first: what is there now is the lineage.
    store.create(&object, vec![Bytes::from(bytes)]).await?;
    let missing = || Error::ObjectMissing { object, reason: "it was just created".to_owned() };
    LineageShared::open(store, context, access, id).await?.ok_or_else(missing)
}
