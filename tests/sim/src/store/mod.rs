//! The object store as one process reaches it: with latency, with faults, and with the process's own death in between.
//!
//! *A put* is a request that travels apart from its sender: it arrives even if the sender died meanwhile, or gave up.
//! All else is answered on the spot. Each operation has three places where the process may die: before the request is
//! sent, after the effect while the reply is lost, and after the reply.
//!
//! Nothing here depends on how many bytes an object has: what hosts' clocks tell is in some of them, and must not change
//! the course of a world.

mod objects;

use std::{
    fmt,
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, StreamExt, stream, stream::BoxStream};
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use tokio::sync::oneshot;

pub use self::objects::{Conditions, Effect, Object, Objects};
use crate::{
    clock::WORLD_BEGINS_MILLISECONDS,
    faults::{DeleteFault, GetFault, LATE_EFFECT_MAX, ListFault, PutFault},
    history::Task,
    process::{Place, Process},
    world::World,
};

/// What errors name as the store.
const NAME: &str = "sim";

/// How old a stale listing is at most.
const STALE_MAX: Duration = Duration::from_secs(3600);

/// See the module. One for each process.
pub struct SimStore {
    world: World,
    process: Arc<Process>,
}

impl fmt::Debug for SimStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("SimStore").field(&self.process.name()).finish()
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(NAME)
    }
}

/// An operation that was begun.
struct Call {
    verb: &'static str,
    key: String,
    dies: Option<Place>,
}

fn failed(what: &str) -> Error {
    Error::Generic { store: NAME, source: what.into() }
}

fn exists(key: &str, why: &str) -> Error {
    Error::AlreadyExists { path: key.to_owned(), source: why.into() }
}

fn absent(key: &str) -> Error {
    Error::NotFound { path: key.to_owned(), source: "there is no such object".into() }
}

/// In a word, for the trace.
fn word<T>(result: &Result<T>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(Error::AlreadyExists { .. }) => "exists",
        Err(Error::NotFound { .. }) => "absent",
        Err(Error::Precondition { .. }) => "precondition",
        Err(_) => "failed",
    }
}

impl SimStore {
    /// The store of this world, for this process.
    pub fn new(world: &World, process: &Arc<Process>) -> Arc<Self> {
        Arc::new(Self { world: world.clone(), process: Arc::clone(process) })
    }

    fn share(&self) -> Self {
        Self { world: self.world.clone(), process: Arc::clone(&self.process) }
    }

    fn note(&self, verb: &str, key: &str, outcome: &str) {
        self.world.trace().add(self.world.time().now(), self.process.name(), verb, key, outcome);
    }

    async fn die(&self, call: &Call, how: &str) {
        self.note(call.verb, &call.key, how);
        self.process.kill();
        std::future::pending::<()>().await;
    }

    /// Begins an operation: when it returns, the request may be sent.
    async fn enter(&self, verb: &'static str, key: &str) -> Call {
        self.process.go_on(self.world.time()).await;
        let dies = self.process.begin_operation().or_else(|| self.world.draw_crash());
        self.world.count_operation().await;
        self.stall_perhaps().await;
        let call = Call { verb, key: key.to_owned(), dies };
        if dies == Some(Place::Before) {
            self.die(&call, "dies before").await;
        }
        call
    }

    /// Ends an operation: when it returns, the caller has the reply.
    async fn leave<T>(&self, call: Call, result: Result<T>) -> Result<T> {
        if call.dies == Some(Place::AfterEffect) {
            self.die(&call, "dies after the effect").await;
        }
        self.world.time().sleep(self.world.draw_latency()).await;
        self.stall_perhaps().await;
        self.note(call.verb, &call.key, word(&result));
        if call.dies == Some(Place::AfterReply) {
            self.note(call.verb, &call.key, "dies after the reply");
            self.process.kill();
        }
        result
    }

    async fn stall_perhaps(&self) {
        if let Some(stall) = self.world.draw_stall(self.process.name()) {
            self.process.stall(self.world.time().now() + stall);
        }
        self.process.go_on(self.world.time()).await;
    }

    /// Sends a put on its way. It arrives after this long, whatever becomes of who sent it, unless the connection ends
    /// with the process.
    fn send(&self, key: String, bytes: Bytes, mode: PutMode, travels: Duration) -> oneshot::Receiver<Result<()>> {
        let (reply, receiver) = oneshot::channel();
        let store = self.share();
        let (ends_with_process, by) = (self.world.draw_connection_ends(), self.process.task());
        let existed = self.world.objects().get(&key).is_some();
        self.world.objects().sent.push((key.clone(), bytes.clone()));
        tokio::spawn(async move {
            store.world.time().sleep(travels).await;
            if store.process.is_dead() && ends_with_process {
                return;
            }
            let now = store.world.time().now();
            let created = match mode {
                PutMode::Create => store.world.objects().create(&key, bytes, by, now, existed),
                PutMode::Overwrite | PutMode::Update(_) => {
                    store.world.objects().write(&key, bytes, by, now);
                    true
                }
            };
            store.note("arrive", &key, if created { "created" } else { "exists" });
            // Who sent it may be gone.
            let _ = reply.send(if created { Ok(()) } else { Err(exists(&key, "the store says so")) });
        });
        receiver
    }

    async fn put(&self, key: String, bytes: Bytes, mode: PutMode) -> Result<()> {
        let call = self.enter("put", &key).await;
        let fault = self.world.draw_put_fault(&mode);
        if let Some(fault) = fault {
            self.note("fault", &key, &format!("{fault:?}"));
        }
        let latency = self.world.draw_latency();
        let refused = |what: Error| async {
            self.world.time().sleep(latency).await;
            self.process.go_on(self.world.time()).await;
            Err(what)
        };
        let arrived = |travels| {
            let receiver = self.send(key.clone(), bytes.clone(), mode.clone(), travels);
            receiver.map(|reply| reply.unwrap_or_else(|_| Err(failed("the connection was reset"))))
        };
        let result = match fault {
            None => arrived(latency).await,
            Some(PutFault::Refused) => refused(failed("503: slow down")).await,
            Some(PutFault::FalseConflict) => refused(exists(&key, "409: a conflicting operation is under way")).await,
            Some(PutFault::Reset) => arrived(latency).await.and(Err(failed("the connection was reset"))),
            Some(PutFault::OwnConflict) => arrived(latency).await.and(Err(exists(&key, "409 to the repetition"))),
            Some(PutFault::OwnPrecondition) => {
                let source = "412 to the repetition".into();
                arrived(latency).await.and(Err(Error::Precondition { path: key.clone(), source }))
            }
            Some(PutFault::Late) => {
                drop(arrived(self.world.draw_up_to(LATE_EFFECT_MAX)));
                refused(failed("timed out")).await
            }
        };
        self.leave(call, result).await
    }

    fn meta(key: &str, bytes: u64, written_at: Duration) -> ObjectMeta {
        let begins = Duration::from_millis(WORLD_BEGINS_MILLISECONDS.unsigned_abs());
        ObjectMeta {
            location: Path::from(key),
            last_modified: (SystemTime::UNIX_EPOCH + begins + written_at).into(),
            size: bytes,
            e_tag: None,
            version: None,
        }
    }

    async fn get(&self, key: String, range: Option<GetRange>, head: bool) -> Result<GetResult> {
        let call = self.enter(if head { "head" } else { "get" }, &key).await;
        let fault = self.world.draw_get_fault();
        if let Some(fault) = fault {
            self.note("fault", &key, &format!("{fault:?}"));
        }
        self.world.time().sleep(self.world.draw_latency()).await;
        let result = match (fault, self.world.objects().get(&key)) {
            (Some(GetFault::Refused), _) => Err(failed("500: internal error")),
            (_, None) => Err(absent(&key)),
            (fault, Some(object)) => answer(&key, object, range, head, fault),
        };
        self.leave(call, result).await
    }

    /// What a listing shows, and whether it breaks off after that.
    async fn listed(&self, prefix: Option<Path>) -> (Vec<ObjectMeta>, Option<Error>) {
        let prefix = prefix.map(|prefix| prefix.to_string()).unwrap_or_default();
        let call = self.enter("list", &prefix).await;
        let fault = self.world.draw_list_fault();
        self.world.time().sleep(self.world.draw_latency()).await;
        let now = self.world.time().now();
        let at = match fault {
            Some(ListFault::Stale) => now.saturating_sub(self.world.draw_up_to(STALE_MAX)),
            _ => now,
        };
        let mut listed = self.world.objects().listed(&prefix, at);
        let kept = self.world.draw_below(listed.len() as u64);
        let mut error = None;
        match fault {
            Some(ListFault::Empty) => listed.clear(),
            Some(ListFault::Short | ListFault::Refused) => listed.truncate(usize::try_from(kept).unwrap_or(0)),
            Some(ListFault::Stale) | None => {}
        }
        if fault == Some(ListFault::Refused) {
            error = Some(failed("503 within a listing"));
        }
        let count = format!("{} {fault:?}", listed.len());
        self.note("listed", &prefix, &count);
        // Its outcome is told by what is listed.
        let _ = self.leave(call, Ok(())).await;
        (listed.iter().map(|(key, bytes, at)| Self::meta(key, *bytes, *at)).collect(), error)
    }

    fn remove(&self, key: &str, by: Task) {
        let was_there = self.world.objects().delete(key, by, self.world.time().now());
        self.world.totals().deletions += u64::from(was_there);
        self.note("gone", key, if was_there { "deleted" } else { "absent" });
    }

    async fn delete_one(&self, location: Path) -> Result<Path> {
        let key = location.to_string();
        let call = self.enter("delete", &key).await;
        let fault = self.world.draw_delete_fault();
        let by = self.process.task();
        if let Some(fault) = fault {
            self.note("fault", &key, &format!("{fault:?}"));
        }
        self.world.time().sleep(self.world.draw_latency()).await;
        let result = match fault {
            Some(DeleteFault::Refused) => Err(failed("503: slow down")),
            Some(DeleteFault::Late) => {
                let (store, key, travels) = (self.share(), key.clone(), self.world.draw_up_to(LATE_EFFECT_MAX));
                tokio::spawn(async move {
                    store.world.time().sleep(travels).await;
                    store.remove(&key, by);
                });
                Err(failed("timed out"))
            }
            None | Some(DeleteFault::Reset) => {
                self.remove(&key, by);
                if fault.is_some() { Err(failed("the connection was reset")) } else { Ok(location) }
            }
        };
        self.leave(call, result).await
    }
}

/// The answer to a get of an object that is there.
fn answer(
    key: &str,
    object: &Object,
    range: Option<GetRange>,
    head: bool,
    fault: Option<GetFault>,
) -> Result<GetResult> {
    let size = object.bytes.len() as u64;
    let whole = 0..size;
    let range: Range<u64> = match range.map(|range| range.as_range(size)) {
        None => whole,
        Some(Ok(range)) => range,
        Some(Err(error)) => return Err(failed(&error.to_string())),
    };
    let index = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
    let body = if head { Bytes::new() } else { object.bytes.slice(index(range.start)..index(range.end)) };
    let half = body.slice(..body.len() / 2);
    let payload = match fault {
        Some(GetFault::Broken) if !head => stream::iter([Ok(half), Err(failed("the body ended early"))]).boxed(),
        Some(GetFault::Truncated) if !head => stream::iter([Ok(half)]).boxed(),
        _ => stream::iter([Ok(body)]).boxed(),
    };
    Ok(GetResult {
        payload: GetResultPayload::Stream(payload),
        meta: SimStore::meta(key, size, object.written_at),
        range,
        attributes: Attributes::default(),
        extensions: Default::default(),
    })
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if matches!(options.mode, PutMode::Update(_)) {
            return Err(Error::NotSupported { source: "this store has no update".into() });
        }
        let mut bytes = BytesMut::with_capacity(payload.content_length());
        payload.iter().for_each(|part| bytes.extend_from_slice(part));
        self.put(location.to_string(), bytes.freeze(), options.mode).await?;
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotSupported { source: "the vault writes objects at once".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.get(location.to_string(), options.range, options.head).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = Arc::new(self.share());
        let delete = move |location: Result<Path>| {
            let store = Arc::clone(&store);
            async move { store.delete_one(location?).await }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.share(), prefix.cloned());
        let listed = async move {
            let (listed, error) = store.listed(prefix).await;
            stream::iter(listed.into_iter().map(Ok).chain(error.map(Err)))
        };
        stream::once(listed).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (listed, error) = self.listed(prefix.cloned()).await;
        if let Some(error) = error {
            return Err(error);
        }
        let root = Path::default();
        let prefix = prefix.unwrap_or(&root);
        let mut result =
            ListResult { common_prefixes: Vec::new(), objects: Vec::new(), extensions: Default::default() };
        for meta in listed {
            let mut parts = meta.location.prefix_match(prefix).into_iter().flatten();
            let Some(first) = parts.next() else { continue };
            let folder = prefix.clone().join(first);
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
