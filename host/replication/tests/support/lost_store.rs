//! A store in memory to which the way can be lost: at once, after so many more operations, or with the last reply.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use futures::{StreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};

/// See the module.
#[derive(Debug)]
pub struct LostStore {
    inner: InMemory,
    /// Operations that still succeed; none any more below 1.
    left: AtomicI64,
    /// Bytes that were put.
    put_bytes: AtomicI64,
    /// Whether an operation that cannot be answered never returns, as in a black hole.
    swallows: std::sync::atomic::AtomicBool,
    /// What happens while an operation is answered.
    meanwhile: Meanwhile,
}

struct Meanwhile(std::sync::Mutex<Box<dyn Fn() + Send>>);

impl fmt::Debug for Meanwhile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Meanwhile")
    }
}

impl LostStore {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: InMemory::new(),
            left: AtomicI64::new(i64::MAX),
            put_bytes: AtomicI64::new(0),
            swallows: false.into(),
            meanwhile: Meanwhile(std::sync::Mutex::new(Box::new(|| {}))),
        })
    }

    /// What happens from now on while an operation is answered.
    pub fn meanwhile(&self, happens: impl Fn() + Send + 'static) {
        *self.meanwhile.0.lock().expect("no panic") = Box::new(happens);
    }

    /// So many more operations succeed.
    pub fn lose_after(&self, operations: i64) {
        self.left.store(operations, Ordering::SeqCst);
    }

    pub fn find(&self) {
        self.lose_after(i64::MAX);
    }

    /// From now on an operation fails, or never returns.
    pub fn swallow(&self, swallows: bool) {
        self.swallows.store(swallows, Ordering::SeqCst);
    }

    pub fn put_bytes(&self) -> i64 {
        self.put_bytes.load(Ordering::SeqCst)
    }

    /// Whether the operation that comes now is the last that takes effect: then its reply is lost.
    async fn pass(&self) -> Result<bool> {
        (self.meanwhile.0.lock().expect("no panic"))();
        let left = self.left.load(Ordering::SeqCst);
        if left == i64::MAX {
            return Ok(false);
        }
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            1 => Ok(true),
            2.. => Ok(false),
            _ => {
                if self.swallows.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                Err(lost())
            }
        }
    }
}

fn lost() -> Error {
    Error::Generic { store: "lost", source: "no answer came".into() }
}

impl fmt::Display for LostStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("lost")
    }
}

#[async_trait::async_trait]
impl ObjectStore for LostStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let is_last = self.pass().await?;
        let bytes = i64::try_from(payload.content_length()).expect("small");
        let put = self.inner.put_opts(location, payload, options).await;
        if put.is_ok() {
            self.put_bytes.fetch_add(bytes, Ordering::SeqCst);
        }
        if is_last { Err(lost()) } else { put }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unreachable!("the vault writes objects at once")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if self.pass().await? { Err(lost()) } else { self.inner.get_opts(location, options).await }
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.left.load(Ordering::SeqCst) < 1 {
            return futures::stream::iter([Err(lost())]).boxed();
        }
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        if self.pass().await? { Err(lost()) } else { self.inner.list_with_delimiter(prefix).await }
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unreachable!("the vault copies nothing")
    }
}
