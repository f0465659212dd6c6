//! A store in memory that counts requests and has a clock of its own.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use farshore_core::{Clock, Timestamp};
use futures::{StreamExt, stream, stream::BoxStream};
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};

/// When the time of every scene begins: 2026-11-26T00:00:00Z.
const BEGINS_MILLISECONDS: i64 = 1_795_651_200_000;

/// How many objects one request lists, as S3 does.
const LISTED_AT_ONCE: usize = 1_000;

/// Time that passes when it is told to, for the hosts and for the store. Clones are the same time.
#[derive(Debug, Clone)]
pub struct Time(Arc<AtomicI64>);

impl Default for Time {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(BEGINS_MILLISECONDS)))
    }
}

impl Time {
    /// Lets time pass.
    pub fn pass(&self, span: Duration) {
        self.0.fetch_add(i64::try_from(span.as_millis()).unwrap_or(0), Ordering::Relaxed);
    }

    fn milliseconds(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Clock for Time {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_milliseconds(self.milliseconds())
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis((self.milliseconds() - BEGINS_MILLISECONDS).unsigned_abs())
    }

    async fn sleep(&self, duration: Duration) {
        self.pass(duration);
    }
}

/// Requests by kind. A listing counts once for each thousand objects, a deletion once for each object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// Objects that were put.
    pub puts: u64,
    /// Objects, or ranges of them, that were read.
    pub gets: u64,
    /// Objects that were asked for without their bytes, whether they were there or not.
    pub heads: u64,
    /// Listings.
    pub lists: u64,
    /// Objects that were deleted.
    pub deletes: u64,
    /// Bytes of the objects that were put.
    pub put_bytes: u64,
    /// Bytes that were read.
    pub get_bytes: u64,
}

impl Requests {
    /// What came since.
    pub fn since(self, before: Self) -> Self {
        Self {
            puts: self.puts - before.puts,
            gets: self.gets - before.gets,
            heads: self.heads - before.heads,
            lists: self.lists - before.lists,
            deletes: self.deletes - before.deletes,
            put_bytes: self.put_bytes - before.put_bytes,
            get_bytes: self.get_bytes - before.get_bytes,
        }
    }
}

#[derive(Debug, Clone)]
struct Object {
    bytes: Bytes,
    written_at: i64,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Object>,
    requests: Requests,
    /// What was asked for, while somebody wants to know.
    log: Option<Vec<String>>,
}

impl State {
    fn note(&mut self, verb: &str, key: &str) {
        if let Some(log) = &mut self.log {
            log.push(format!("{verb} {key}"));
        }
    }
}

/// See the module. Clones are the same store.
#[derive(Debug, Clone)]
pub struct CountingStore {
    time: Time,
    state: Arc<Mutex<State>>,
}

impl fmt::Display for CountingStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("counting")
    }
}

impl CountingStore {
    /// An empty one.
    pub fn new(time: &Time) -> Self {
        Self { time: time.clone(), state: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was asked of it so far.
    pub fn requests(&self) -> Requests {
        self.lock().requests
    }

    /// Begins to remember requests, one line each, and gives what was remembered before.
    pub fn take_log(&self) -> Vec<String> {
        self.lock().log.replace(Vec::new()).unwrap_or_default()
    }

    /// Objects and bytes whose keys have this in them.
    pub fn stored(&self, part: &str) -> (u64, u64) {
        let state = self.lock();
        let found = state.objects.iter().filter(|(key, _)| key.contains(part));
        found.fold((0, 0), |(objects, bytes), (_, object)| (objects + 1, bytes + object.bytes.len() as u64))
    }

    fn meta(key: &str, object: &Object) -> ObjectMeta {
        let since = Duration::from_millis(object.written_at.unsigned_abs());
        ObjectMeta {
            location: Path::from(key),
            last_modified: (SystemTime::UNIX_EPOCH + since).into(),
            size: object.bytes.len() as u64,
            e_tag: None,
            version: None,
        }
    }

    fn listed(&self, prefix: Option<&Path>, offset: Option<&Path>) -> Vec<ObjectMeta> {
        let prefix = prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default();
        let from = offset.map_or(Bound::Included(prefix.clone()), |offset| Bound::Excluded(offset.to_string()));
        let mut state = self.lock();
        let objects = state.objects.range((from, Bound::Unbounded));
        let objects = objects.take_while(|(key, _)| key.starts_with(&prefix));
        let listed: Vec<_> = objects.map(|(key, object)| Self::meta(key, object)).collect();
        state.requests.lists += listed.len().div_ceil(LISTED_AT_ONCE).max(1) as u64;
        state.note("LIST", &prefix);
        listed
    }
}

#[async_trait]
impl ObjectStore for CountingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let mut bytes = BytesMut::with_capacity(payload.content_length());
        payload.iter().for_each(|part| bytes.extend_from_slice(part));
        let object = Object { bytes: bytes.freeze(), written_at: self.time.milliseconds() };
        let key = location.to_string();
        let mut state = self.lock();
        state.requests.puts += 1;
        state.note("PUT", &key);
        match options.mode {
            PutMode::Create if !state.objects.contains_key(&key) => {}
            PutMode::Create => return Err(Error::AlreadyExists { path: key, source: "it is there".into() }),
            PutMode::Overwrite | PutMode::Update(_) => {
                return Err(Error::NotSupported { source: "the vault overwrites nothing".into() });
            }
        }
        state.requests.put_bytes += object.bytes.len() as u64;
        state.objects.insert(key, object);
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotSupported { source: "the vault writes objects at once".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let key = location.to_string();
        let mut state = self.lock();
        let GetOptions { range, head, .. } = options;
        if head {
            state.requests.heads += 1;
        } else {
            state.requests.gets += 1;
        }
        state.note(if head { "HEAD" } else { "GET" }, &key);
        let Some(object) = state.objects.get(&key).cloned() else {
            return Err(Error::NotFound { path: key, source: "there is no such object".into() });
        };
        let size = object.bytes.len() as u64;
        let range = match range.map(|range| range.as_range(size)) {
            None => 0..size,
            Some(Ok(range)) => range,
            Some(Err(error)) => return Err(Error::Generic { store: "counting", source: Box::new(error) }),
        };
        let index = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        let body = if head { Bytes::new() } else { object.bytes.slice(index(range.start)..index(range.end)) };
        state.requests.get_bytes += body.len() as u64;
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::iter([Ok(body)]).boxed()),
            meta: Self::meta(&key, &object),
            range,
            attributes: Attributes::default(),
            extensions: Default::default(),
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |location: Result<Path>| {
            let location = location?;
            let key = location.to_string();
            let mut state = store.lock();
            state.requests.deletes += 1;
            state.note("DELETE", &key);
            state.objects.remove(&key);
            Ok(location)
        };
        locations.map(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::iter(self.listed(prefix, None).into_iter().map(Ok)).boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::iter(self.listed(prefix, Some(offset)).into_iter().map(Ok)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let root = Path::default();
        let below = prefix.unwrap_or(&root).clone();
        let mut result =
            ListResult { common_prefixes: Vec::new(), objects: Vec::new(), extensions: Default::default() };
        for meta in self.listed(prefix, None) {
            let mut parts = meta.location.prefix_match(&below).into_iter().flatten();
            let Some(first) = parts.next() else { continue };
            let folder = below.clone().join(first);
            let is_folder = parts.next().is_some();
            drop(parts);
            match is_folder {
                // The keys come sorted, so the same folders follow each other.
                true if result.common_prefixes.last() != Some(&folder) => result.common_prefixes.push(folder),
                true => {}
                false => result.objects.push(meta),
            }
        }
        Ok(result)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotSupported { source: "the vault copies nothing".into() })
    }
}
