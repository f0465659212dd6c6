//! The commits of one lineage, as a sequence that only grows at its end and is only deleted from behind.
//!
//! *The newest* is found by asking for numbers: from the newest that this handle has seen, in steps that double, then by
//! halving. The numbers have no gaps, so a number that is there and a next one that is not there are the end. A commit that
//! was lost from the middle would make an older one look like the newest, and the next writer would fork the history; so
//! the first search of a handle also lists what follows, and a number past the end that was found is reported as the damage
//! that it is.
//!
//! *Deletion.* Commits that no surviving point needs are deleted by a prune (see `prune`). Their numbers are then free, and
//! two things must not happen: a search must not take the hole for the end, and a writer that stood still for a month must
//! not take its create in the hole for a success. So before a commit is deleted, a *boundary* ([`crate::boundary`]) says so
//! in an object of its own, numbered from 1 and never deleted: a commit that is there, and up to which number before it others
//! may not be. A search begins at the newest boundary, and ends by seeing that there is no newer one; a create is a success
//! only if, after it, no boundary says that its number may have been deleted. Neither needs a clock.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;
use farshore_core::{Entropy, GroupName, LineageId, PackId, Sequence, Timestamp};

use crate::{
    Context, Error, Head, Point, Result, Store,
    boundary::{Boundary, boundary_key},
    commit::{Commit, CommitBody, Event, commit_folder, commit_key, commit_number, read_stored},
    keys::Access,
    seal::{Hash, Sealer, stored_hash},
    store::Created,
};

/// How often a search for the newest commit begins anew because other hosts went on meanwhile.
const SEARCHES_MAX: usize = 8;

/// The newest commit, as a writer builds on it.
#[derive(Debug, Clone)]
pub(crate) struct HeadCommit {
    pub(crate) head: Head,
    pub(crate) hash: [u8; 32],
    /// When the store received it, as the store counts time.
    pub(crate) received_at: Timestamp,
    /// The point that it is, if it is one and was read.
    pub(crate) point: Option<Arc<Point>>,
}

impl HeadCommit {
    /// A random name for an object that is built on this commit. Packs are known by their names alone, wherever they lie; so a
    /// name must not come again even if this machine is rolled back and its randomness repeats. It can repeat only on the
    /// same commit, and then create-if-absent tells.
    pub(crate) fn object_name(&self, entropy: &dyn Entropy) -> PackId {
        let mut random = [0; 32];
        entropy.fill(&mut random);
        let mut hasher = blake3::Hasher::new_derive_key("farshore/1/object-name");
        let hash = *hasher.update(&random).update(&self.hash).finalize().as_bytes();
        let (name, _) = hash.split_first_chunk::<16>().expect("a hash has 32 bytes");
        PackId::from_bytes(*name)
    }

    /// A commit that is, or was, the newest.
    pub(crate) fn of(commit: Commit) -> Self {
        let point = match commit.body.event {
            Event::Point(point) => Some(Arc::new(*point)),
            _ => None,
        };
        Self { head: commit.body.head, hash: commit.hash, received_at: commit.received_at, point }
    }
}

/// The newest boundary that was seen: its number, and what it says; zeros if there is none.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    number: u64,
    commit: u64,
    deleted_to: u64,
}

/// The commits of one lineage.
#[derive(Debug)]
pub(crate) struct CommitLog {
    store: Store,
    context: Context,
    access: Arc<Access>,
    lineage: LineageId,
    group: GroupName,
    sealer: Sealer,
    /// The newest commit that was ever seen.
    known: AtomicU64,
    /// Whether a listing has confirmed that there is none past the end that was found.
    listed: AtomicBool,
    boundary: Mutex<Seen>,
    /// The newest commit that this handle has created; 0 if it has created none.
    created: AtomicU64,
    /// The newest commit on which a writer of this handle has built; 0 if none has.
    built_on: AtomicU64,
}

impl CommitLog {
    pub(crate) fn new(
        store: Store,
        context: Context,
        access: Arc<Access>,
        lineage: LineageId,
        group: GroupName,
        sealer: Sealer,
    ) -> Self {
        Self {
            store,
            context,
            access,
            lineage,
            group,
            sealer,
            known: AtomicU64::new(Sequence::FIRST.get()),
            listed: AtomicBool::new(false),
            boundary: Mutex::default(),
            created: AtomicU64::new(0),
            built_on: AtomicU64::new(0),
        }
    }

    /// Notes that a writer builds on this head, and tells whether it is the first, as far as this host can know: the head is a
    /// point that this handle has just created, and none of its writers has built on it.
    pub(crate) fn builds_first(&self, head: &Head) -> bool {
        let number = head.sequence.get();
        let before = self.built_on.fetch_max(number, Ordering::Relaxed);
        head.newest_point == Some(head.sequence) && before < number && self.created.load(Ordering::Relaxed) == number
    }

    fn key(&self, number: u64) -> String {
        commit_key(self.lineage, Sequence::new(number))
    }

    fn seen(&self) -> Seen {
        *self.boundary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a commit; none if there is none of this number.
    ///
    /// # Errors
    /// It is damaged, or the store failed.
    pub(crate) async fn read(&self, sequence: Sequence) -> Result<Option<Commit>> {
        match read_stored(&self.store, self.lineage, sequence).await? {
            Some(stored) => stored.open(&self.access, &self.sealer).await.map(Some),
            None => Ok(None),
        }
    }

    /// Reads a commit that must be there.
    ///
    /// # Errors
    /// It is missing or damaged, or the store failed.
    pub(crate) async fn read_existing(&self, sequence: Sequence, reason: &str) -> Result<Commit> {
        let missing = || Error::ObjectMissing { object: self.key(sequence.get()), reason: reason.to_owned() };
        self.read(sequence).await?.ok_or_else(missing)
    }

    /// Up to which number commits may have been deleted; 0 if none was.
    pub(crate) fn deleted_to(&self) -> u64 {
        self.seen().deleted_to
    }

    /// The newest boundary that was seen, and the commit that it names; zeros if there is none.
    pub(crate) fn boundary(&self) -> (u64, u64) {
        let Seen { number, commit, .. } = self.seen();
        (number, commit)
    }

    /// Looks whether there is a boundary that this handle has not seen.
    async fn boundary_rose(&self) -> Result<bool> {
        let known = self.seen().number;
        let key = |number| boundary_key(self.lineage, number);
        if self.store.size(&key(known + 1)).await?.is_none() {
            return Ok(false);
        }
        let number = self.store.last_number(known + 1, key).await?;
        let boundary = Boundary::read(&self.store, &self.access, &self.sealer, self.lineage, number).await?;
        self.known.fetch_max(boundary.commit, Ordering::Relaxed);
        let mut seen = self.boundary.lock().unwrap_or_else(PoisonError::into_inner);
        if number > seen.number {
            let (commit, deleted_to) = (seen.commit.max(boundary.commit), seen.deleted_to.max(boundary.deleted_to));
            *seen = Seen { number, commit, deleted_to };
        }
        Ok(true)
    }

    /// The highest number that a listing proposes: for a check of a lineage whose newest commit cannot be told.
    pub(crate) async fn newest_listed(&self) -> Result<u64> {
        let known = self.known.load(Ordering::Relaxed);
        let mut newest = known;
        let note = |name: &str| {
            newest = newest.max(commit_number(name).unwrap_or(0));
            false
        };
        self.store.any_after(&commit_folder(self.lineage), &self.key(known), note).await?;
        Ok(newest)
    }

    /// The newest commit.
    ///
    /// # Errors
    /// It is missing or damaged, [`Error::LostRace`] when others went on all the while, or the store failed.
    pub(crate) async fn newest(&self) -> Result<HeadCommit> {
        Ok(self.newest_seen().await?.0)
    }

    /// The same, with the number of the newest boundary then: as long as there is none above it, the newest prune, the points that it lets
    /// stand and what it has not judged are there, and are no sleeper's (see [`CommitLog::has_risen`]).
    pub(crate) async fn newest_seen(&self) -> Result<(HeadCommit, u64)> {
        for _ in 0..SEARCHES_MAX {
            let seen = self.seen();
            let found = self.store.last_number(self.known.load(Ordering::Relaxed), |number| self.key(number)).await?;
            let read = self.read(Sequence::new(found)).await;
            // What was found may be the edge of a hole, and what was read a sleeper's, unless no boundary has risen by now.
            if self.has_risen(seen.number).await? {
                continue;
            }
            self.known.fetch_max(found, Ordering::Relaxed);
            if !self.listed.load(Ordering::Relaxed) {
                let past_end = |name: &str| commit_number(name).is_some_and(|number| number > found);
                if self.store.any_after(&commit_folder(self.lineage), &self.key(found), past_end).await? {
                    if self.store.size(&self.key(found + 1)).await?.is_some() || self.has_risen(seen.number).await? {
                        continue;
                    }
                    return Err(Error::ObjectMissing {
                        object: self.key(found + 1),
                        reason: "there are commits before and after it".to_owned(),
                    });
                }
                self.listed.store(true, Ordering::Relaxed);
            }
            let Some(commit) = read? else {
                let reason = "it was the newest commit of its lineage a moment ago".to_owned();
                return Err(Error::ObjectMissing { object: self.key(found), reason });
            };
            // A boundary is a pruner's word, and a head is repeated by everybody who commits.
            if commit.body.head.pruned.map_or(0, Sequence::get) < seen.commit {
                let problem = "it has forgotten a prune that a boundary speaks of";
                return Err(Error::damaged(self.key(found), problem));
            }
            return Ok((HeadCommit::of(commit), seen.number));
        }
        Err(self.overtaken())
    }

    /// Others went on each time that it was looked at.
    pub(crate) fn overtaken(&self) -> Error {
        Error::LostRace { group: self.group.clone(), sequence: Sequence::new(self.known.load(Ordering::Relaxed)) }
    }

    /// Whether there is a boundary above this one by now. If so, a commit may have been deleted, and a writer who slept may have
    /// put one of his own into its place.
    ///
    /// # Errors
    /// The boundary is damaged, or the store failed.
    pub(crate) async fn has_risen(&self, seen: u64) -> Result<bool> {
        // Another task of this handle may have seen it.
        Ok(self.boundary_rose().await? || self.seen().number != seen)
    }

    /// Creates the commit that follows `built_on`; also the hash of its object. Who stood still for long after the create may be
    /// told that it is another's although it counts: a prune that has judged it since knows.
    ///
    /// # Errors
    /// As [`Store::create`]; then the commit may be there.
    pub(crate) async fn create(&self, built_on: &HeadCommit, head: Head, event: Event) -> Result<(Created, Hash)> {
        debug_assert_eq!(head.sequence, built_on.head.sequence.next());
        let written_at = self.context.clock.now();
        let number = head.sequence.get();
        let body = CommitBody { lineage: self.lineage, head, previous: built_on.hash, written_at, event };
        let bytes = body.encode(&self.access, &self.sealer, &[], &*self.context.entropy)?;
        let hash = stored_hash(&bytes);
        let created = match self.store.create(&self.key(number), vec![Bytes::from(bytes)]).await {
            // A prune deletes at the metadata first: a number may be free there whose old commit is still at the data.
            Err(Error::AddressesDiffer { object }) if object == self.key(number) => {
                self.boundary_rose().await?;
                if self.seen().deleted_to < number {
                    return Err(Error::AddressesDiffer { object });
                }
                Created::Other
            }
            created => created?,
        };
        self.boundary_rose().await?;
        if self.seen().deleted_to >= number {
            // The number was free because its commit was deleted: this one is seen by nobody.
            return Ok((Created::Other, hash));
        }
        self.known.fetch_max(number, Ordering::Relaxed);
        if created == Created::Mine {
            self.created.fetch_max(number, Ordering::Relaxed);
        }
        Ok((created, hash))
    }

    /// Says durably that commits up to a number may be deleted from now on, and that this later one is there. Idempotent.
    ///
    /// # Errors
    /// The store failed, a boundary is damaged, or [`Error::LostRace`] when other pruners raised it all the while.
    pub(crate) async fn raise_boundary(&self, commit: Sequence, deleted_to: Sequence) -> Result<()> {
        for _ in 0..SEARCHES_MAX {
            self.boundary_rose().await?;
            let seen = self.seen();
            if seen.commit >= commit.get() && seen.deleted_to >= deleted_to.get() {
                return Ok(());
            }
            let boundary = Boundary {
                lineage: self.lineage,
                number: seen.number + 1,
                commit: commit.get().max(seen.commit),
                deleted_to: deleted_to.get().max(seen.deleted_to),
            };
            // A prune may have taken hours, and who is revoked meanwhile must put no boundary in the way of others.
            self.access.may_write(&self.context).await?;
            let bytes = boundary.encode(&self.access, &self.sealer, &*self.context.entropy)?;
            // Whoever made it, the next round reads what is there now.
            self.store.create(&boundary_key(self.lineage, boundary.number), vec![Bytes::from(bytes)]).await?;
        }
        Err(Error::LostRace { group: self.group.clone(), sequence: commit })
    }
}
