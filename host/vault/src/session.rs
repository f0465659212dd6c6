//! Writing a recovery point.
//!
//! A *session* is one writer's visit: it begins on the newest commit, seals its frames under a secret of its own, and
//! ends with one commit on top of that newest one, or with nothing: what it has stored by then are orphans that no one
//! sees, and that the next session of the lineage finds and uses again.
//!
//! *Order of writes.* Data packs and map packs are durable before the commit is created; the commit makes the point
//! visible. Nothing that is visible is ever changed.
//!
//! *Memory.* At most [`IN_FLIGHT_BYTES_MAX`] of given bytes are held; a write waits for room before it is accepted, and
//! work waits while [`PACKS_UPLOADING_MAX`] packs are on their way to the store. With the packs that the accepted bytes
//! can still fill, that is below 256 MiB. The map is bounded by `working`, the cache of known chunks by a constant, the
//! index of the parent's chunks by `index`.
//!
//! *Cancellation.* Dropping the [`PointWriter`] gives the point up: accepted work ends at its next step. A failure is
//! kept; every later call, and the commit, report it.
//!
//! *Fencing* is checked at the beginning, for a clear message early, and decided at the end: the commit's number is the
//! one after the commit on which the session began, so a raise of the generation and another writer both make it lose.
//! Pins and prunes do not: if generation, active site and newest point are what they were, everything that the point refers
//! to still stands, because a prune touches neither what the newest point needs nor what was born since. The commit is then
//! created under the next number that is free.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use farshore_core::{DiskId, Extent, Generation, MachineId, Sequence, SessionId, SiteName, Timestamp};
use tokio::sync::{Notify, OwnedSemaphorePermit, RwLock, Semaphore};
use tokio_util::task::TaskTracker;

use crate::{
    CAPSULE_ITEMS_MAX, CapsuleDraft, CapsuleItem, Error, Head, Point, PointDetails, PointDisk, PointMachine,
    PointStats, Result, VaultLock,
    cache::Cache,
    capsule::{WorkingItem, sound_items},
    commit::Event,
    index::SessionIndex,
    leftovers::Leftovers,
    lineage::{LineageShared, check_note},
    log::HeadCommit,
    map_writer::MapPacker,
    pack::CHUNK,
    packer::Packer,
    page::{DISK_BYTES_MAX, LEVELS, Page, SLOTS},
    pipeline::Part,
    seal::{ContentKeys, Hash, SessionKey},
    store::Created,
    working::{Owner, Slot, WorkingDisk},
};

/// The most bytes of one write.
pub const WRITE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The most bytes that are accepted and not yet sealed.
pub(crate) const IN_FLIGHT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// While this many packs are finished and not yet durable, no frame is sealed.
pub(crate) const PACKS_UPLOADING_MAX: usize = 3;

/// Half the number of chunks of this session that are known by identity: at most 64 GiB of disks, 150 MiB of memory.
const KNOWN_CHUNKS_HALF: usize = 512 * 1024;

/// The most disks of a point.
const DISKS_MAX: usize = 4096;

/// How often a commit is tried under a later number because pins and prunes went on meanwhile.
const REBASES_MAX: usize = 64;

/// The most bytes of a tracking token.
const TOKEN_BYTES_MAX: usize = 1024;

const IN_FLIGHT_CHUNKS_MAX: usize = IN_FLIGHT_BYTES_MAX / CHUNK;

/// What the tasks of a session share.
pub(crate) struct Session {
    pub(crate) shared: Arc<LineageShared>,
    pub(crate) built_on: HeadCommit,
    /// Nothing that it stores is received before.
    began_at: Timestamp,
    /// The vault's lock when it began.
    lock: Option<VaultLock>,
    pub(crate) id: SessionId,
    pub(crate) key: SessionKey,
    pub(crate) content: ContentKeys,
    pub(crate) sealed_secret: Vec<u8>,
    pub(crate) packer: Packer,
    pub(crate) known: Mutex<Cache<Hash, Slot>>,
    pub(crate) leftovers: Leftovers,
    pub(crate) index: SessionIndex,
    pub(crate) disks: Mutex<BTreeMap<(MachineId, DiskId), Arc<WorkingDisk>>>,
    /// The capsule, by the items' names.
    pub(crate) items: Mutex<BTreeMap<String, WorkingItem>>,
    /// Loading a leaf holds it shared, a sweep alone: so that no leaf is loaded while it is being stored.
    pub(crate) sweeping: RwLock<()>,
    pub(crate) maps: Mutex<MapPacker>,
    pub(crate) room: Arc<Semaphore>,
    pub(crate) uploading: Mutex<usize>,
    /// Something that a task may wait for has changed: a pack was finished or stored, or the session has failed.
    pub(crate) changed: Notify,
    pub(crate) tasks: TaskTracker,
    pub(crate) stats: Mutex<PointStats>,
    closed: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Session").field("id", &self.id).finish_non_exhaustive()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    /// The disks, and those items of the capsule, that are written.
    pub(crate) fn working(&self) -> Vec<Arc<WorkingDisk>> {
        let mut working: Vec<_> = lock(&self.disks).values().cloned().collect();
        working.extend(lock(&self.items).values().filter_map(|item| item.written.clone()));
        working
    }

    /// Remembers the first failure and wakes whoever waits.
    pub(crate) fn fail(&self, error: Error) {
        lock(&self.failure).get_or_insert(error);
        self.changed.notify_waiters();
    }

    /// The failure, if there is one.
    pub(crate) fn check(&self) -> Result<()> {
        lock(&self.failure).clone().map_or(Ok(()), Err)
    }

    fn check_open(&self) -> Result<()> {
        self.check()?;
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Stopped { reason: "it is being committed, or was given up".to_owned() });
        }
        Ok(())
    }

    /// Waits until the condition holds; it is looked at again whenever something has changed.
    ///
    /// # Errors
    /// The session has failed.
    pub(crate) async fn wait_until(&self, mut condition: impl FnMut() -> bool) -> Result<()> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            self.check()?;
            if condition() {
                return Ok(());
            }
            changed.await;
        }
    }
}

/// Writes the next recovery point of a lineage. Dropping it gives the point up.
#[derive(Debug)]
pub struct PointWriter {
    session: Arc<Session>,
    generation: Generation,
    site: SiteName,
    parent: Option<Arc<Point>>,
}

impl Drop for PointWriter {
    fn drop(&mut self) {
        self.session.closed.store(true, Ordering::Release);
        self.session.fail(Error::Stopped { reason: "its writer has gone".to_owned() });
    }
}

impl PointWriter {
    /// Without a generation, that of the newest commit.
    pub(crate) async fn begin(
        shared: Arc<LineageShared>,
        generation: Option<Generation>,
        site: &SiteName,
    ) -> Result<Self> {
        let content = shared.writing_keys()?.clone();
        // Here, before anything was captured, and not at the first write: who cannot commit should learn it at once.
        let (built_on, valid, seen) = shared.newest_to_build_on().await?;
        let head = &built_on.head;
        let generation = generation.unwrap_or(head.generation);
        if head.generation != generation || head.active_site != *site {
            return Err(shared.fenced(generation, site, head));
        }
        // A lock that was set, or whose span was changed, since this process opened the vault is in the ring by now.
        let began_at = shared.context.clock.now();
        shared.next_horizon(&built_on, began_at)?;
        let parent = match head.newest_point {
            // No prune has judged the newest commit, so nothing but itself says what it is.
            Some(sequence) if sequence == head.sequence && built_on.point.is_some() => built_on.point.clone(),
            Some(sequence) => {
                let point = shared.point_in(valid.as_deref(), sequence).await;
                Some(Arc::new(shared.unless_overtaken(point, seen).await?))
            }
            None => None,
        };
        shared.note_newest(parent.clone());
        // On a point that was just made here only another host could have left anything. A miss costs space, and a listing
        // as much as a commit, every few seconds.
        let leftovers = match shared.log.builds_first(head) {
            true => Leftovers::default(),
            false => Leftovers::find(&shared, head).await?,
        };
        let id = SessionId::random(shared.entropy());
        let (key, sealed_secret) = shared.access.seal_session(shared.id, id, shared.entropy())?;
        let session = Session {
            built_on,
            began_at,
            lock: shared.access.ring().lock,
            id,
            key,
            content,
            sealed_secret,
            packer: Packer::default(),
            known: Mutex::new(Cache::new(KNOWN_CHUNKS_HALF)),
            leftovers,
            index: SessionIndex::new(parent.as_deref()),
            disks: Mutex::default(),
            items: Mutex::default(),
            sweeping: RwLock::new(()),
            maps: Mutex::default(),
            room: Arc::new(Semaphore::new(IN_FLIGHT_CHUNKS_MAX)),
            uploading: Mutex::new(0),
            changed: Notify::new(),
            tasks: TaskTracker::new(),
            stats: Mutex::default(),
            closed: AtomicBool::new(false),
            failure: Mutex::default(),
            shared,
        };
        Ok(Self { session: Arc::new(session), generation, site: site.clone(), parent })
    }

    /// The point that this one is built on: what is not written keeps its content.
    pub fn parent(&self) -> Option<&Point> {
        self.parent.as_deref()
    }

    /// Adds a disk. It begins with the content that the parent has for the same disk of the same machine, and with zeros
    /// where the parent has none.
    ///
    /// # Errors
    /// [`Error::DiskShrank`] when the parent's is larger; [`Error::LimitExceeded`]; [`Error::InvalidRequest`] when it was
    /// added before.
    pub async fn add_disk(&self, machine: &MachineId, disk: &DiskId, size_bytes: u64) -> Result<DiskWriter> {
        let before = self.parent().and_then(|parent| parent.disk(machine, disk));
        if let Some(before) = before.filter(|before| before.size_bytes > size_bytes) {
            return Err(Error::DiskShrank {
                machine: machine.clone(),
                disk: disk.clone(),
                parent_bytes: before.size_bytes,
                size_bytes,
            });
        }
        let key = (machine.clone(), disk.clone());
        let owner = Owner::Disk(machine.clone(), disk.clone());
        self.add(key, WorkingDisk::new(owner, size_bytes, before.and_then(|before| before.map)))
    }

    fn add(&self, key: (MachineId, DiskId), disk: WorkingDisk) -> Result<DiskWriter> {
        self.session.check_open()?;
        if disk.size_bytes > DISK_BYTES_MAX {
            let what = "the size of a disk, in bytes,";
            return Err(Error::LimitExceeded { what, found: disk.size_bytes, limit: DISK_BYTES_MAX });
        }
        let mut disks = lock(&self.session.disks);
        if disks.len() >= DISKS_MAX {
            let limit = u64::try_from(DISKS_MAX).unwrap_or(u64::MAX);
            return Err(Error::LimitExceeded { what: "the number of disks of a point", found: limit + 1, limit });
        }
        if disks.contains_key(&key) {
            return Err(Error::invalid(format!("the disk {} of the machine {} was added twice", key.1, key.0)));
        }
        let disk = Arc::new(disk);
        disks.insert(key, Arc::clone(&disk));
        Ok(DiskWriter { session: Arc::clone(&self.session), disk })
    }

    /// Adds an item to the capsule. If the parent has the same, nothing is written; else its bytes are accepted, which may wait for
    /// room.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] when there is one of its name; [`Error::LimitExceeded`]; or the session's failure.
    pub async fn add_item(&self, draft: &CapsuleDraft) -> Result<()> {
        self.session.check_open()?;
        // A parent whose capsule breaks a rule has nothing that could be taken over.
        let parent = self.parent().and_then(|parent| sound_items(parent).ok()).unwrap_or_default();
        let mut item = draft.item().clone();
        let same = parent.iter().find(|held| held.digest == item.digest && held.size_bytes == item.size_bytes);
        let before = match same {
            None => self.readable(parent.iter().find(|held| held.name == item.name)).await?,
            Some(_) => None,
        };
        let written = match same {
            Some(same) => {
                item.map = same.map;
                None
            }
            None => {
                let owner = Owner::Item(item.name.clone());
                let root = before.and_then(|before| before.map);
                Some(Arc::new(WorkingDisk::new(owner, item.size_bytes, root)))
            }
        };
        self.insert_item(WorkingItem { item, written: written.clone() })?;
        let Some(disk) = written else { return Ok(()) };
        let chunks = |bytes: u64| bytes.div_ceil(u64::try_from(CHUNK).unwrap_or(u64::MAX));
        let (first, end) = (chunks(disk.size_bytes), before.map_or(0, |before| chunks(before.size_bytes)));
        if first < end {
            let cut = self.session.write_zeroes(&disk, first, end).await;
            cut.inspect_err(|error| self.session.fail(error.clone()))?;
        }
        let writer = DiskWriter { session: Arc::clone(&self.session), disk };
        let mut rest = draft.content().clone();
        let mut offset = 0;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(WRITE_BYTES_MAX));
            let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            writer.write(offset, piece).await?;
            offset += length;
        }
        Ok(())
    }

    /// An item of the parent, if all pages of its map can be read. One that is damaged is in no cycle's way: what takes its place is
    /// written anew.
    async fn readable<'a>(&self, held: Option<&'a CapsuleItem>) -> Result<Option<&'a CapsuleItem>> {
        let mut waiting: Vec<_> =
            held.and_then(|held| held.map).map(|root| (root, LEVELS - 1, 0)).into_iter().collect();
        while let Some((reference, level, index)) = waiting.pop() {
            match self.session.shared.maps.page(&reference, level, index).await {
                Ok(page) => {
                    if let Page::Inner(children) = &*page {
                        let below = children.iter().zip(index * SLOTS as u64..);
                        waiting.extend(below.filter_map(|(child, slot)| Some(((*child)?, level - 1, slot))));
                    }
                }
                Err(error) if error.is_damage() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(held)
    }

    fn insert_item(&self, item: WorkingItem) -> Result<()> {
        let mut items = lock(&self.session.items);
        if items.len() >= CAPSULE_ITEMS_MAX {
            let limit = u64::try_from(CAPSULE_ITEMS_MAX).unwrap_or(u64::MAX);
            return Err(Error::LimitExceeded { what: "the number of items of a capsule", found: limit + 1, limit });
        }
        let name = item.item.name.clone();
        if items.contains_key(&name) {
            return Err(Error::invalid(format!("the item {name} of the capsule was added twice")));
        }
        items.insert(name, item);
        Ok(())
    }

    /// What the point has cost so far.
    pub fn stats(&self) -> PointStats {
        *lock(&self.session.stats)
    }

    /// Waits for everything that was accepted, stores it, and makes the point visible. When it returns, the point is
    /// durable; when it fails with [`Error::Store`] while the commit was being created, the lineage's head tells whether
    /// it is.
    ///
    /// # Errors
    /// The first failure of the session; [`Error::Fenced`] or [`Error::LostRace`] when the lineage has gone on without
    /// it; [`Error::InvalidRequest`] when the details do not name the disks that were added.
    pub async fn commit(self, details: PointDetails) -> Result<Point> {
        let session = &self.session;
        session.check_open()?;
        check_details(&details, &lock(&session.disks))?;
        let suspended = suspended_machines(&details, self.parent(), lock(&session.disks).len())?;
        session.closed.store(true, Ordering::Release);
        session.finish().await?;

        if session.lock.is_some() {
            // Packs may have been stored for days since the bucket was asked.
            session.shared.access.may_write(&session.shared.context).await?;
        }
        let mut built_on = session.built_on.clone();
        for _ in 0..REBASES_MAX {
            let point = self.point(&details, &suspended, built_on.head.sequence.next())?;
            let locked_until = session.horizon(&built_on)?;
            let (sequence, newest_point) = (point.sequence, Some(point.sequence));
            let head = Head { sequence, newest_point, locked_until, ..built_on.head.clone() };
            let event = Event::Point(Box::new(point.clone()));
            let (created, hash) = session.shared.log.create(&built_on, head, event).await?;
            if created == Created::Mine || session.shared.stands(point.sequence, hash).await? {
                session.shared.note_newest(Some(Arc::new(point.clone())));
                session.index_point(&point).await;
                return Ok(point);
            }
            let (newest, ..) = session.shared.newest_to_build_on().await?;
            if !newest.head.continues(&built_on.head) {
                break;
            }
            built_on = newest;
        }
        Err(session.shared.explain_lost_race(&session.built_on.head, self.generation, &self.site).await)
    }

    /// The point as it will be under this number.
    fn point(&self, details: &PointDetails, suspended: &[PointMachine], sequence: Sequence) -> Result<Point> {
        let session = &self.session;
        let mut machines = point_machines(details, &lock(&session.disks))?;
        machines.extend_from_slice(suspended);
        let mut stats = self.stats();
        stats.objects_written += 1;
        Ok(Point {
            sequence,
            generation: self.generation,
            lineage: session.shared.id,
            site: self.site.clone(),
            session: session.id,
            parent: session.built_on.head.newest_point,
            capture: details.capture,
            captured_at: details.captured_at,
            committed_at: session.shared.context.clock.now(),
            instant: details.instant,
            consistency: details.consistency,
            machines,
            capsule: lock(&session.items).values().map(WorkingItem::finished).collect::<Vec<CapsuleItem>>(),
            stats,
            label: details.label.clone(),
            note: details.note.clone(),
        })
    }
}

type Disks = BTreeMap<(MachineId, DiskId), Arc<WorkingDisk>>;

fn check_details(details: &PointDetails, disks: &Disks) -> Result<()> {
    check_note("the note, in bytes,", &details.note)?;
    let mut named = std::collections::BTreeSet::new();
    let mut machines = std::collections::BTreeSet::new();
    for machine in &details.machines {
        let id = &machine.machine.id;
        if !machines.insert(id) {
            return Err(Error::invalid(format!("the point names the machine {id} twice")));
        }
        for disk in &machine.disks {
            let name = (id.clone(), disk.disk.clone());
            let problem = match disk.tracking_token.as_ref().map(String::len) {
                Some(length) if length > TOKEN_BYTES_MAX => "has a tracking token of more than 1,024 bytes",
                _ if !disks.contains_key(&name) => "was not added to the writer",
                _ if named.contains(&name) => "is named twice by the point",
                _ => {
                    named.insert(name);
                    continue;
                }
            };
            return Err(Error::invalid(format!("the disk {} of the machine {id} {problem}", disk.disk)));
        }
    }
    match disks.keys().find(|name| !named.contains(*name)) {
        Some((machine, disk)) => Err(Error::invalid(format!(
            "the disk {disk} of the machine {machine} was added, and the point does not name it"
        ))),
        None => Ok(()),
    }
}

fn point_machines(details: &PointDetails, disks: &Disks) -> Result<Vec<PointMachine>> {
    let mut machines = Vec::with_capacity(details.machines.len());
    for draft in &details.machines {
        let mut point_disks = Vec::with_capacity(draft.disks.len());
        for disk in &draft.disks {
            let name = (draft.machine.id.clone(), disk.disk.clone());
            let working =
                disks.get(&name).ok_or_else(|| Error::invalid(format!("the disk {} is not there", disk.disk)))?;
            point_disks.push(PointDisk {
                disk: disk.disk.clone(),
                size_bytes: working.size_bytes,
                basis: disk.basis,
                tracking_token: disk.tracking_token.clone(),
                map: working.map().root,
            });
        }
        machines.push(PointMachine { machine: draft.machine.clone(), disks: point_disks, captured_at: None });
    }
    Ok(machines)
}

/// What the point has of machines that were not captured: what its parent has. So many disks were added beside theirs.
fn suspended_machines(details: &PointDetails, parent: Option<&Point>, added_disks: usize) -> Result<Vec<PointMachine>> {
    let mut suspended: Vec<PointMachine> = Vec::with_capacity(details.suspended.len());
    for id in &details.suspended {
        let is_named = details.machines.iter().any(|draft| draft.machine.id == *id)
            || suspended.iter().any(|other| other.machine.id == *id);
        if is_named {
            return Err(Error::invalid(format!("the point names the machine {id} twice")));
        }
        let Some((parent, held)) = parent.and_then(|parent| Some((parent, parent.machine(id)?))) else {
            let why = "is suspended, and the point before has nothing of it";
            return Err(Error::invalid(format!("the machine {id} {why}")));
        };
        suspended.push(PointMachine { captured_at: Some(parent.captured(held)), ..held.clone() });
    }
    let disks = suspended.iter().map(|machine| machine.disks.len()).fold(added_disks, usize::saturating_add);
    if disks > DISKS_MAX {
        let as_number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let (found, limit) = (as_number(disks), as_number(DISKS_MAX));
        return Err(Error::LimitExceeded { what: "the number of disks of a point", found, limit });
    }
    Ok(suspended)
}

impl Session {
    /// Until when everything that the point needs is locked: what its parent needs, what was stored since the session began,
    /// and what an interrupted writer had stored before.
    fn horizon(&self, built_on: &HeadCommit) -> Result<Option<Timestamp>> {
        let Some(horizon) = self.shared.next_horizon(built_on, self.shared.context.clock.now())? else {
            return Ok(built_on.head.locked_until);
        };
        let stored_from = self.leftovers.oldest_used().map_or(self.began_at, |oldest| oldest.min(self.began_at));
        // What was stored before the vault was locked, or under a shorter lock, is locked no longer than that.
        let (then, now) = (self.lock, self.shared.access.ring().lock);
        let Some((then, now)) = then.zip(now) else {
            let reason =
                "the vault was locked while the point was made, and what was stored before is not: begin it again";
            return Err(Error::Stopped { reason: reason.to_owned() });
        };
        Ok(Some(then.until(stored_from).min(now.until(stored_from)).min(horizon)))
    }

    /// Makes everything durable that was accepted, and settles the disks' maps.
    async fn finish(self: &Arc<Self>) -> Result<()> {
        let all = u32::try_from(IN_FLIGHT_CHUNKS_MAX).expect("the limit is small");
        let stopped = |_| Error::Stopped { reason: "its writer has gone".to_owned() };
        // Work gives its room back when it has ended, so all of the room is there when all work has.
        let room = Arc::clone(&self.room).acquire_many_owned(all).await.map_err(stopped)?;
        self.check()?;
        if let Some(full) = self.packer.close() {
            self.finish_pack_apart(full).await?;
        }
        self.wait_until(|| !self.packer.is_waiting()).await?;
        {
            let _alone = self.sweeping.write().await;
            self.sweep(true).await?;
        }
        self.store_map_pack();
        self.tasks.close();
        self.tasks.wait().await;
        drop(room);
        self.check()
    }
}

/// Writes one disk of a point. Clones write the same disk; calls may run side by side.
#[derive(Debug, Clone)]
pub struct DiskWriter {
    session: Arc<Session>,
    disk: Arc<WorkingDisk>,
}

impl DiskWriter {
    /// The disk's size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.disk.size_bytes
    }

    fn check_range(&self, offset: u64, length: u64) -> Result<()> {
        let size = self.disk.size_bytes;
        let chunk = u64::try_from(CHUNK).unwrap_or(u64::MAX);
        let end = offset.checked_add(length);
        let problem = match end {
            _ if length == 0 => "is empty",
            _ if !offset.is_multiple_of(chunk) => "does not begin at a multiple of 65,536",
            None => "passes the end of the disk",
            Some(end) if end > size => "passes the end of the disk",
            Some(end) if !end.is_multiple_of(chunk) && end != size => {
                "does not end at a multiple of 65,536 or at the disk's end"
            }
            Some(_) => return Ok(()),
        };
        let owner = &self.disk.owner;
        Err(Error::invalid(format!(
            "a write of {length} bytes at {offset} of {owner}, which has {size} bytes, {problem}"
        )))
    }

    /// Writes bytes at an offset that is a multiple of 64 KiB: whole chunks, except at the disk's end. It returns when
    /// the bytes are accepted, which may wait for room; a later failure is reported by a later call or the commit.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`], [`Error::LimitExceeded`] for more than [`WRITE_BYTES_MAX`], or the session's failure.
    pub async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.session.check_open()?;
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        if data.len() > WRITE_BYTES_MAX {
            let limit = u64::try_from(WRITE_BYTES_MAX).unwrap_or(u64::MAX);
            return Err(Error::LimitExceeded { what: "a write, in bytes,", found: length, limit });
        }
        self.check_range(offset, length)?;
        if self.disk.is_disk() {
            lock(&self.session.stats).bytes_given += length;
        }
        for (leaf, slots, data) in parts(offset, data) {
            let room = self.session.take_room(slots.len()).await?;
            self.session.check_open()?;
            let accepted = self.session.accept(&self.disk, leaf, slots.clone()).await;
            let accepted = accepted.inspect_err(|error| self.session.fail(error.clone()))?;
            let part = Part { disk: Arc::clone(&self.disk), leaf, slot: slots.start, data, accepted, room };
            self.session.spawn(part);
        }
        Ok(())
    }

    /// Looks whether the disk has these bytes at an offset, as a write there would put them: its parent's, where nothing was written.
    /// Nothing is changed or stored. It returns how many bytes are in chunks that differ.
    ///
    /// # Errors
    /// As [`DiskWriter::write`].
    pub async fn compare(&self, offset: u64, data: Bytes) -> Result<u64> {
        self.session.check_open()?;
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.check_range(offset, length)?;
        let mut differing = 0;
        for (leaf, slots, data) in parts(offset, data) {
            let _room = self.session.take_room(slots.len()).await?;
            let accepted = self.session.accept(&self.disk, leaf, slots).await?;
            // Given back also when this is dropped while it waits.
            let _held = Held { disk: &self.disk, leaf };
            let session = Arc::clone(&self.session);
            let counting = move || session.count_differing(&data, &accepted.before);
            let counted = self.session.shared.context.workers.run(counting).await?;
            differing += u64::try_from(counted.saturating_mul(CHUNK)).unwrap_or(u64::MAX);
        }
        Ok(differing.min(length))
    }

    /// Writes zeros: whole chunks, except at the disk's end. It costs no data.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`], or the session's failure.
    pub async fn write_zeroes(&self, extent: Extent) -> Result<()> {
        self.session.check_open()?;
        self.check_range(extent.offset, extent.length)?;
        {
            let mut stats = lock(&self.session.stats);
            stats.bytes_given += extent.length;
            stats.bytes_zero += extent.length;
        }
        let chunk = u64::try_from(CHUNK).unwrap_or(u64::MAX);
        let (first, end) = (extent.offset / chunk, extent.end().unwrap_or(u64::MAX).div_ceil(chunk));
        let zeroed = self.session.write_zeroes(&self.disk, first, end).await;
        zeroed.inspect_err(|error| self.session.fail(error.clone()))
    }
}

impl Session {
    /// Room for so many chunks of one leaf. Whoever has all of it knows that nothing is under way.
    async fn take_room(&self, chunks: usize) -> Result<OwnedSemaphorePermit> {
        let permits = u32::try_from(chunks).expect("a leaf has 64 chunks");
        let stopped = |_| Error::Stopped { reason: "its writer has gone".to_owned() };
        Arc::clone(&self.room).acquire_many_owned(permits).await.map_err(stopped)
    }
}

/// A leaf that is held as by a write that changes nothing.
struct Held<'a> {
    disk: &'a WorkingDisk,
    leaf: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.disk.map().give_back(self.leaf);
    }
}

/// Cuts what is at an offset into leaves: each with its slots and their whole chunks.
fn parts(offset: u64, data: Bytes) -> impl Iterator<Item = (u64, Range<usize>, Bytes)> {
    let mut data = to_whole_chunks(data);
    let mut chunk = offset / u64::try_from(CHUNK).unwrap_or(u64::MAX);
    std::iter::from_fn(move || {
        let slot = usize::try_from(chunk % SLOTS as u64).unwrap_or(0);
        let count = (SLOTS - slot).min(data.len() / CHUNK);
        let part = (count > 0).then(|| (chunk / SLOTS as u64, slot..slot + count, data.split_to(count * CHUNK)));
        chunk += u64::try_from(count).unwrap_or(u64::MAX);
        part
    })
}

/// Fills the last chunk of a disk with zeros, so that every chunk has 65,536 bytes and a disk can grow.
fn to_whole_chunks(data: Bytes) -> Bytes {
    if data.len().is_multiple_of(CHUNK) {
        return data;
    }
    let mut whole = BytesMut::zeroed(data.len().next_multiple_of(CHUNK));
    whole[..data.len()].copy_from_slice(&data);
    whole.freeze()
}
