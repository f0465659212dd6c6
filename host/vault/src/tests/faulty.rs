//! A store in memory that fails at a chosen operation: before its effect, or after it, with its reply lost. From then
//! on it stays dead, as for a process that was killed, or works again, as after a passing fault.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use tokio::sync::Notify;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The operation has no effect.
    Before,
    /// It has its effect, and the reply is lost.
    After,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    inner: Arc<InMemory>,
    operations: AtomicUsize,
    fail_at: usize,
    fault: Fault,
    stays_dead: bool,
    dead: AtomicBool,
    /// Bytes of the packs that were created.
    pub(crate) pack_bytes: AtomicU64,
    /// Creates ignore that an object exists.
    pub(crate) ignores_conditions: bool,
    /// Nothing may be written, as with credentials that may only read.
    pub(crate) read_only: bool,
    /// Replies end in the middle, and nobody is told.
    pub(crate) cuts_replies: bool,
    /// Objects with this in their keys may not be written.
    pub(crate) denied: Option<&'static str>,
    /// Objects with this in their keys: the first is told when one was created; its reply waits for the second.
    held: Option<(&'static str, Arc<Notify>, Arc<Notify>)>,
    /// Listings leave out every other object whose key has this in it.
    pub(crate) left_out: Option<&'static str>,
    /// Whoever reads sleeps before the operation of this number, and all is as it is there when he wakes.
    pub(crate) later: Option<(usize, Arc<InMemory>)>,
}

impl FaultyStore {
    /// It fails at the operation of this number, from 0.
    pub(crate) fn new(inner: &Arc<InMemory>, fail_at: usize, fault: Fault, stays_dead: bool) -> Self {
        Self {
            inner: Arc::clone(inner),
            operations: AtomicUsize::new(0),
            fail_at,
            fault,
            stays_dead,
            dead: AtomicBool::new(false),
            pack_bytes: AtomicU64::new(0),
            ignores_conditions: false,
            read_only: false,
            denied: None,
            cuts_replies: false,
            held: None,
            left_out: None,
            later: None,
        }
    }

    /// It never fails.
    pub(crate) fn sound(inner: &Arc<InMemory>) -> Self {
        Self::new(inner, usize::MAX, Fault::Before, false)
    }

    /// From now on the reply to the create of a commit is held back: the first tells that one was created, the second lets its
    /// reply go.
    pub(crate) fn hold_commits(self: &mut Arc<Self>) -> (Arc<Notify>, Arc<Notify>) {
        self.hold("/commits/")
    }

    /// The same of other objects.
    pub(crate) fn hold(self: &mut Arc<Self>, part: &'static str) -> (Arc<Notify>, Arc<Notify>) {
        let held = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        Arc::get_mut(self).expect("it is not shared yet").held = Some((part, held.0.clone(), held.1.clone()));
        held
    }

    pub(crate) fn operations(&self) -> usize {
        self.operations.load(Ordering::SeqCst)
    }

    /// What is read by the operation that has begun.
    fn read(&self) -> &Arc<InMemory> {
        match &self.later {
            Some((number, later)) if self.operations() > *number => later,
            _ => &self.inner,
        }
    }

    fn error() -> Error {
        Error::Generic { store: "faulty", source: "injected fault".into() }
    }

    /// What happens to the operation that comes now.
    fn next(&self) -> Option<Fault> {
        let number = self.operations.fetch_add(1, Ordering::SeqCst);
        if self.dead.load(Ordering::SeqCst) {
            return Some(Fault::Before);
        }
        if number != self.fail_at {
            return None;
        }
        self.dead.store(self.stays_dead, Ordering::SeqCst);
        Some(self.fault)
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("faulty")
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let fault = self.next();
        if fault == Some(Fault::Before) {
            return Err(Self::error());
        }
        if self.read_only || self.denied.is_some_and(|part| location.as_ref().contains(part)) {
            let path = location.to_string();
            return Err(Error::PermissionDenied { path, source: "these credentials may only read".into() });
        }
        if self.ignores_conditions {
            options.mode = PutMode::Overwrite;
        }
        let bytes = payload.content_length() as u64;
        let result = self.inner.put_opts(location, payload, options).await;
        if result.is_ok() && location.as_ref().contains("/packs/") {
            self.pack_bytes.fetch_add(bytes, Ordering::SeqCst);
        }
        if let Some((_, sent, wake)) = self.held.as_ref().filter(|(part, ..)| location.as_ref().contains(part)) {
            sent.notify_one();
            wake.notified().await;
        }
        if fault.is_some() { Err(Self::error()) } else { result }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unreachable!("the vault writes objects at once")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.next() {
            Some(_) => Err(Self::error()),
            None if self.cuts_replies => {
                let whole = self.read().get_opts(location, options.clone()).await?.bytes().await?;
                let half = whole.slice(..whole.len() / 2);
                let payload = GetResultPayload::Stream(futures::stream::iter([Ok(half)]).boxed());
                Ok(GetResult { payload, ..self.read().get_opts(location, options).await? })
            }
            None => self.read().get_opts(location, options).await,
        }
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let fault = self.next();
        if fault == Some(Fault::Before) {
            return futures::stream::iter([Err(Self::error())]).boxed();
        }
        let deleted = self.inner.delete_stream(paths);
        match fault {
            // Some of them are gone.
            Some(_) => deleted.take(2).chain(futures::stream::iter([Err(Self::error())])).boxed(),
            None => deleted,
        }
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.next() {
            Some(_) => futures::stream::iter([Err(Self::error())]).boxed(),
            None => self.read().list_with_offset(prefix, offset),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.next() {
            Some(_) => futures::stream::iter([Err(Self::error())]).boxed(),
            None => {
                let left_out = self.left_out;
                let mut number = 0;
                let is_listed = move |meta: &ObjectMeta| {
                    let concerns = left_out.is_some_and(|part| meta.location.as_ref().contains(part));
                    number += usize::from(concerns);
                    futures::future::ready(!concerns || number % 2 == 0)
                };
                self.read().list(prefix).try_filter(is_listed).boxed()
            }
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        match self.next() {
            Some(_) => Err(Self::error()),
            None => self.read().list_with_delimiter(prefix).await,
        }
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unreachable!("the vault copies nothing")
    }
}
