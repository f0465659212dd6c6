//! A store in memory behind a bad line, in simulated time: each request takes a moment, a share of them fails and is tried again as clients
//! of object stores do, and at times none is answered at all.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use farshore_core::{Clock as _, Entropy as _, SeededEntropy};
use futures::{StreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};

use super::virtual_clock::VirtualClock;

/// What a request takes.
const LATENCY: Duration = Duration::from_millis(20);
/// A request that failed so often is given up: ten times in object_store, and we ask for the same.
const TRIES_MAX: u32 = 10;
/// The pauses of object_store 0.14: from 100 ms, twice as long each time, 15 s at most.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// See the module.
pub struct ShakyStore {
    pub inner: Arc<InMemory>,
    clock: Arc<VirtualClock>,
    dice: Mutex<SeededEntropy>,
    /// Of a hundred.
    failing_percent: u8,
    is_away: AtomicBool,
}

impl ShakyStore {
    pub fn new(clock: &Arc<VirtualClock>, seed: u64, failing_percent: u8) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::new(InMemory::new()),
            clock: Arc::clone(clock),
            dice: Mutex::new(SeededEntropy::new(seed)),
            failing_percent,
            is_away: AtomicBool::new(false),
        })
    }

    /// From now on no request is answered, or they are again.
    pub fn be_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }

    fn fails(&self) -> bool {
        let mut roll = [0; 1];
        self.dice.lock().unwrap_or_else(PoisonError::into_inner).fill(&mut roll);
        self.is_away.load(Ordering::SeqCst) || u16::from(roll[0]) * 100 < u16::from(self.failing_percent) * 256
    }

    async fn pass(&self) -> Result<()> {
        let mut pause = PAUSE_MIN;
        for _ in 0..TRIES_MAX {
            self.clock.sleep(LATENCY).await;
            if !self.fails() {
                return Ok(());
            }
            self.clock.sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Err(lost())
    }
}

fn lost() -> Error {
    Error::Generic { store: "shaky", source: "no answer came".into() }
}

impl fmt::Debug for ShakyStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ShakyStore")
    }
}

impl fmt::Display for ShakyStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("shaky")
    }
}

#[async_trait::async_trait]
impl ObjectStore for ShakyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.pass().await?;
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unreachable!("the vault writes objects at once")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.pass().await?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.is_away.load(Ordering::SeqCst) {
            true => futures::stream::iter([Err(lost())]).boxed(),
            false => self.inner.list(prefix),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.pass().await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unreachable!("the vault copies nothing")
    }
}
