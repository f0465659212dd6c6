//! A bucket in memory that keeps versions and enforces locks as S3 does, by a clock of the test's own.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use farshore_core::Clock;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error as ObjectError, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, path::Path,
};

use super::*;
use crate::{
    LockMode,
    lock::after,
    store::bucket::{Bucket, BucketSettings, DefaultRetention, Retained, Version, VersionsPage},
};

/// Time that passes when a test says so.
#[derive(Debug)]
pub(crate) struct VirtualClock(AtomicI64);

impl VirtualClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(1_790_000_000_000)))
    }

    pub(crate) fn pass(&self, seconds: u64) {
        let milliseconds = i64::try_from(seconds * 1_000).expect("not for ever");
        self.0.fetch_add(milliseconds, Ordering::SeqCst);
    }
}

#[async_trait]
impl Clock for VirtualClock {
    /// A little later each time, so that no two things happen at once.
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_milliseconds(self.0.fetch_add(1, Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        let milliseconds = self.0.load(Ordering::SeqCst) - 1_790_000_000_000;
        Duration::from_millis(milliseconds.unsigned_abs())
    }

    async fn sleep(&self, _: Duration) {}
}

#[derive(Debug, Clone)]
struct Stored {
    id: String,
    /// None in a delete marker.
    data: Option<Bytes>,
    received_at: Timestamp,
    retained: Option<Retained>,
}

/// See the module.
pub(crate) struct LockingBucket {
    pub(crate) clock: Arc<VirtualClock>,
    pub(crate) settings: Mutex<BucketSettings>,
    /// By path: versions, oldest first.
    versions: Mutex<BTreeMap<Path, Vec<Stored>>>,
    /// What a plain read sees.
    latest: InMemory,
    ids: AtomicI64,
    /// Calls of the side that knows versions and locks: verb and path.
    pub(crate) calls: Mutex<Vec<(&'static str, String)>>,
    /// From now on so many locks are made, and then every call fails.
    pub(crate) locks_left: AtomicI64,
    /// As for credentials that may not see locks.
    pub(crate) hides_locks: std::sync::atomic::AtomicBool,
}

impl fmt::Debug for LockingBucket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("LockingBucket")
    }
}

impl fmt::Display for LockingBucket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("locking")
    }
}

pub(crate) const DAY: u64 = 86_400;

fn denied(path: &Path) -> ObjectError {
    ObjectError::PermissionDenied { path: path.to_string(), source: "it is locked".into() }
}

impl LockingBucket {
    /// One that locks each new object for so many days.
    pub(crate) fn new(mode: LockMode, days: u64) -> Arc<Self> {
        Self::by(VirtualClock::new(), mode, days)
    }

    /// Another one, by the same clock.
    pub(crate) fn by(clock: Arc<VirtualClock>, mode: LockMode, days: u64) -> Arc<Self> {
        let retention = Some(DefaultRetention { mode, span_seconds: days * DAY });
        Arc::new(Self {
            clock,
            settings: Mutex::new(BucketSettings { keeps_versions: true, can_lock: true, retention }),
            versions: Mutex::default(),
            latest: InMemory::new(),
            ids: AtomicI64::new(0),
            calls: Mutex::default(),
            locks_left: AtomicI64::new(i64::MAX),
            hides_locks: false.into(),
        })
    }

    pub(crate) fn store(self: &Arc<Self>) -> Store {
        wrap(Arc::clone(self) as Arc<dyn ObjectStore>).with_bucket(Arc::clone(self) as Arc<dyn Bucket>)
    }

    /// A store of a vault with two addresses, both in this bucket: that of the data is the folder `d`.
    pub(crate) fn pair(self: &Arc<Self>) -> Store {
        let objects = Arc::clone(self) as Arc<dyn ObjectStore>;
        let data = Store::from_object_store(objects, "d").expect("a good prefix");
        self.store().with_data(data.with_bucket(Arc::clone(self) as Arc<dyn Bucket>))
    }

    pub(crate) fn context(&self) -> Context {
        let workers = Workers::inline();
        Context { clock: Arc::clone(&self.clock) as Arc<dyn Clock>, entropy: Arc::new(SystemEntropy), workers }
    }

    fn call(&self, verb: &'static str, path: impl fmt::Display) {
        self.calls.lock().expect("no test panics in it").push((verb, path.to_string()));
    }

    /// Adds a version, above all others.
    async fn add(&self, path: &Path, data: Option<Bytes>) {
        let received_at = self.clock.now();
        let retention = self.settings.lock().expect("whole").retention.filter(|_| data.is_some());
        let retained = retention
            .map(|retention| Retained { mode: retention.mode, until: after(received_at, retention.span_seconds) });
        let id = format!("version/{}", self.ids.fetch_add(1, Ordering::SeqCst));
        let stored = Stored { id, data, received_at, retained };
        self.versions.lock().expect("whole").entry(path.clone()).or_default().push(stored);
        self.show(path).await;
    }

    /// Lets a plain read see the newest version.
    async fn show(&self, path: &Path) {
        let newest = self.versions.lock().expect("whole").get(path).and_then(|versions| versions.last().cloned());
        match newest.and_then(|newest| newest.data) {
            Some(data) => drop(self.latest.put(path, data.into()).await.expect("memory")),
            None => drop(self.latest.delete(path).await),
        }
    }

    /// What an attacker does who may write: another version above the object.
    pub(crate) async fn overwrite(&self, key: &str, data: &'static [u8]) {
        self.add(&Path::from(format!("v/{key}")), Some(Bytes::from_static(data))).await;
    }

    /// What an attacker does who may delete: a marker above the object.
    pub(crate) async fn hide(&self, key: &str) {
        self.add(&Path::from(format!("v/{key}")), None).await;
    }

    /// The keys of objects of which a version that is no marker is there.
    pub(crate) fn keys(&self) -> Vec<String> {
        let versions = self.versions.lock().expect("whole");
        let there = versions.iter().filter(|(_, versions)| versions.iter().any(|version| version.data.is_some()));
        there.map(|(path, _)| path.to_string().trim_start_matches("v/").to_owned()).collect()
    }

    /// Until when the object of a key is locked: its first version.
    pub(crate) fn locked_until(&self, key: &str) -> Option<Timestamp> {
        let versions = self.versions.lock().expect("whole");
        let first = versions.get(&Path::from(format!("v/{key}")))?.iter().find(|version| version.data.is_some())?;
        Some(first.retained?.until)
    }

    fn dated(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let versions = self.versions.lock().expect("whole");
        let newest = versions.get(&meta.location).and_then(|versions| versions.last()).expect("it is there");
        let milliseconds = newest.received_at.as_unix_milliseconds();
        let epoch =
            meta.last_modified - std::time::Duration::from_millis(meta.last_modified.timestamp_millis().unsigned_abs());
        meta.last_modified = epoch + std::time::Duration::from_millis(milliseconds.unsigned_abs());
        meta
    }

    fn all_dated(&self, listed: Vec<object_store::Result<ObjectMeta>>) -> Vec<object_store::Result<ObjectMeta>> {
        listed.into_iter().map(|meta| meta.map(|meta| self.dated(meta))).collect()
    }
}

#[async_trait]
impl ObjectStore for LockingBucket {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        let bytes: Bytes = payload.iter().flat_map(|part| part.to_vec()).collect::<Vec<_>>().into();
        // Whether there is an object is decided by what a plain read sees, as in S3.
        let result = self.latest.put_opts(path, payload, options).await?;
        self.add(path, Some(bytes)).await;
        Ok(result)
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        unreachable!("the vault writes objects at once")
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let mut result = self.latest.get_opts(path, options).await?;
        result.meta = self.dated(result.meta);
        Ok(result)
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        unreachable!("in a locked vault versions are deleted")
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let listed: Vec<_> = futures::executor::block_on_stream(self.latest.list(prefix)).collect();
        futures::stream::iter(self.all_dated(listed)).boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let listed: Vec<_> = futures::executor::block_on_stream(self.latest.list_with_offset(prefix, offset)).collect();
        futures::stream::iter(self.all_dated(listed)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.latest.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
        unreachable!("the vault copies nothing")
    }
}

#[async_trait]
impl Bucket for LockingBucket {
    async fn settings(&self) -> Result<BucketSettings, ObjectError> {
        self.call("settings", "");
        Ok(*self.settings.lock().expect("whole"))
    }

    /// In pages of three, newest first, markers after versions.
    async fn versions(&self, prefix: &str, after: Option<(String, String)>) -> Result<VersionsPage, ObjectError> {
        self.call("versions", prefix);
        let versions = self.versions.lock().expect("whole");
        let all = versions.iter().filter(|(path, _)| path.as_ref().starts_with(prefix)).flat_map(|(path, stored)| {
            let newest = stored.last().map(|newest| newest.id.clone());
            stored.iter().rev().map(move |stored| {
                let version = Version {
                    id: stored.id.clone(),
                    is_marker: stored.data.is_none(),
                    received_at: stored.received_at,
                    bytes: stored.data.as_ref().map_or(0, |data| data.len() as u64),
                    is_latest: Some(&stored.id) == newest.as_ref(),
                };
                (path.to_string(), version)
            })
        });
        let is_before = |(path, version): &(String, Version)| match &after {
            Some((key, id)) => path < key || (path == key && version.id != *id),
            None => false,
        };
        let mut rest = all.skip_while(is_before).skip(usize::from(after.is_some()));
        let mut page: Vec<_> = rest.by_ref().take(3).collect();
        let next = rest.next().and(page.last()).map(|(path, version)| (path.clone(), version.id.clone()));
        page.sort_by_key(|(_, version)| version.is_marker);
        Ok(VersionsPage { versions: page, next })
    }

    async fn retained(&self, path: &Path, version: Option<&str>) -> Result<Option<Retained>, ObjectError> {
        self.call("retained", path);
        if self.hides_locks.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let versions = self.versions.lock().expect("whole");
        let is_meant = |stored: &&Stored| version.is_none_or(|version| stored.id == version);
        let found = versions.get(path).and_then(|versions| versions.iter().rev().find(is_meant));
        let missing = || ObjectError::NotFound { path: path.to_string(), source: "no such version".into() };
        Ok(found.ok_or_else(missing)?.retained)
    }

    async fn retain(&self, path: &Path, version: &str, retained: Retained) -> Result<(), ObjectError> {
        self.call("retain", path);
        if self.locks_left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Err(ObjectError::Generic { store: "locking", source: "injected fault".into() });
        }
        let now = self.clock.now();
        let mut versions = self.versions.lock().expect("whole");
        let missing = || ObjectError::NotFound { path: path.to_string(), source: "no such version".into() };
        let found = versions.get_mut(path).and_then(|versions| versions.iter_mut().find(|stored| stored.id == version));
        let found = found.ok_or_else(missing)?;
        let held = found.retained.filter(|held| held.until > now);
        if held.is_some_and(|held| held.until > retained.until || held.mode > retained.mode) || retained.until <= now {
            return Err(denied(path));
        }
        found.retained = Some(retained);
        Ok(())
    }

    async fn delete(&self, path: &Path, version: &str) -> Result<(), ObjectError> {
        self.call("delete", path);
        let now = self.clock.now();
        {
            let mut versions = self.versions.lock().expect("whole");
            let Some(stored) = versions.get_mut(path) else { return Ok(()) };
            let of_id = stored.iter().find(|stored| stored.id == version);
            if of_id.and_then(|stored| stored.retained).is_some_and(|held| held.until > now) {
                return Err(denied(path));
            }
            stored.retain(|stored| stored.id != version);
            if stored.is_empty() {
                versions.remove(path);
            }
        }
        self.show(path).await;
        Ok(())
    }
}

impl LockingBucket {
    /// What is left of the store if all that is not locked at this time is destroyed, and what hides the rest is taken away.
    pub(crate) async fn survivors(&self, at: Timestamp) -> Arc<InMemory> {
        let left = InMemory::new();
        let kept: Vec<(Path, Bytes)> = {
            let versions = self.versions.lock().expect("whole");
            let kept = versions.iter().filter_map(|(path, versions)| {
                let first = versions.iter().find(|version| version.data.is_some())?;
                let is_locked = first.retained.is_some_and(|retained| retained.until >= at);
                is_locked.then(|| (path.clone(), first.data.clone().unwrap_or_default()))
            });
            kept.collect()
        };
        for (path, data) in kept {
            left.put(&path, data.into()).await.expect("memory");
        }
        Arc::new(left)
    }

    /// How often a call of this verb was made since the last time.
    pub(crate) fn take_calls(&self, verb: &str) -> usize {
        let calls = std::mem::take(&mut *self.calls.lock().expect("whole"));
        calls.iter().filter(|(called, _)| *called == verb).count()
    }
}
