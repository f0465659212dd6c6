//! A site in memory that runs one machine with one disk, of which nothing is kept but which chunk has which version.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use farshore_core::{
    CHUNK_BYTES, Consistency, Entropy, Extent, Instant, Machine, MachineId, OwnerTag, SeededEntropy, SiteName,
};
use farshore_platform::{
    AdapterState, BlockStatus, CaptureOutcome, CaptureReport, CaptureRequest, CapturedDisk, Changes, DiskTransport,
    Owned, SiteError, Source, Step, StepStatus, StopManner, TransportError,
};

use crate::scene;

const CHUNK: usize = CHUNK_BYTES as usize;

/// The content of a chunk at a version: it does not compress, and nothing else has it.
pub fn content(chunk: u64, version: u32) -> Vec<u8> {
    let mut bytes = vec![0; CHUNK];
    SeededEntropy::new(chunk << 32 | u64::from(version)).fill(&mut bytes);
    bytes
}

#[derive(Debug, Default)]
struct State {
    /// Chunks that are not zero.
    versions: BTreeMap<u64, u32>,
    /// Since the newest committed capture.
    changed: BTreeSet<u64>,
    /// Of the capture that is open.
    captured: BTreeSet<u64>,
    captures: u64,
    /// The token of the newest committed capture.
    token: Option<String>,
}

/// See the module.
pub struct Site {
    name: SiteName,
    machine: Machine,
    disk_bytes: u64,
    state: Arc<Mutex<State>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Site {
    /// A machine whose disk is zero.
    ///
    /// # Errors
    /// Never.
    pub fn new(chunks: u64) -> anyhow::Result<Self> {
        let disk_bytes = chunks * CHUNK_BYTES;
        Ok(Self { name: scene::site()?, machine: scene::machine(disk_bytes)?, disk_bytes, state: Arc::default() })
    }

    /// The guest writes this chunk.
    pub fn write(&self, chunk: u64) {
        let mut state = lock(&self.state);
        *state.versions.entry(chunk).or_default() += 1;
        state.changed.insert(chunk);
    }

    fn fail<T>(&self, what: &str) -> Result<T, SiteError> {
        Err(SiteError::Failed { site: self.name.clone(), message: what.to_owned() })
    }
}

#[async_trait]
impl Source for Site {
    fn site(&self) -> &SiteName {
        &self.name
    }

    async fn machines(&self) -> Result<Vec<Machine>, SiteError> {
        Ok(vec![self.machine.clone()])
    }

    async fn begin_capture(&self, request: &CaptureRequest) -> Result<Step<CaptureReport>, SiteError> {
        let mut state = lock(&self.state);
        state.captures += 1;
        let chains = request.tracked.first().map(|disk| disk.token.clone()) == state.token && state.token.is_some();
        state.captured = if chains { state.changed.clone() } else { state.versions.keys().copied().collect() };
        let report = CaptureReport {
            instant: Instant::Group,
            consistency: Consistency::Crash,
            held_microseconds: 1,
            note: String::new(),
        };
        let name = format!("{} {chains}", state.captures);
        Ok(Step { state: AdapterState(name.into_bytes()), status: StepStatus::Ready(report) })
    }

    async fn continue_capture(&self, _: &CaptureRequest, _: &AdapterState) -> Result<Step<CaptureReport>, SiteError> {
        self.fail("a capture of this site is never pending")
    }

    async fn captured_disks(&self, _: &CaptureRequest, state: &AdapterState) -> Result<Vec<CapturedDisk>, SiteError> {
        let Some(disk) = self.machine.disks.first() else { return self.fail("the machine has no disk") };
        let changes = match state.0.ends_with(b"true") {
            true => Changes::Context("changed".to_owned()),
            false => Changes::Unknown("nothing was tracked".to_owned()),
        };
        Ok(vec![CapturedDisk {
            machine: self.machine.id.clone(),
            disk: disk.id.clone(),
            size_bytes: self.disk_bytes,
            token: Some(format!("token-{}", lock(&self.state).captures)),
            changes,
            allocation_context: Some("allocated".to_owned()),
        }])
    }

    async fn open_captured_disk(
        &self,
        _: &AdapterState,
        _: &CapturedDisk,
    ) -> Result<Arc<dyn DiskTransport>, SiteError> {
        let state = lock(&self.state);
        Ok(Arc::new(View {
            disk_bytes: self.disk_bytes,
            versions: state.versions.clone(),
            changed: state.captured.clone(),
        }))
    }

    async fn verify_capture(&self, _: &AdapterState) -> Result<(), SiteError> {
        Ok(())
    }

    async fn end_capture(&self, _: &AdapterState, outcome: CaptureOutcome) -> Result<String, SiteError> {
        let mut state = lock(&self.state);
        if outcome == CaptureOutcome::Committed {
            state.token = Some(format!("token-{}", state.captures));
            state.changed.clear();
        }
        Ok(String::new())
    }

    async fn stop_machine(&self, _: &MachineId, _: StopManner) -> Result<Step<String>, SiteError> {
        self.fail("it is not stopped here")
    }

    async fn continue_stop(&self, _: &MachineId, _: StopManner, _: &AdapterState) -> Result<Step<String>, SiteError> {
        self.fail("it is not stopped here")
    }

    async fn owned(&self, _: &OwnerTag) -> Result<Vec<Owned>, SiteError> {
        Ok(Vec::new())
    }

    async fn release(&self, _: &Owned) -> Result<(), SiteError> {
        Ok(())
    }
}

/// The disk as it was when the capture began.
struct View {
    disk_bytes: u64,
    versions: BTreeMap<u64, u32>,
    changed: BTreeSet<u64>,
}

impl View {
    fn refuse<T>(what: &str) -> Result<T, TransportError> {
        Err(TransportError::Unsupported { transport: "a view of the site".to_owned(), what: what.to_owned() })
    }

    fn status(&self, context: &str, chunk: u64) -> u32 {
        match context {
            "changed" => u32::from(self.changed.contains(&chunk)),
            // Bit 1: it reads as zeros.
            _ => u32::from(!self.versions.contains_key(&chunk)) << 1,
        }
    }

    /// Where the next chunk of another status may be.
    fn next(&self, context: &str, chunk: u64) -> Option<u64> {
        match context {
            "changed" => self.changed.range(chunk + 1..).next().copied(),
            _ => self.versions.range(chunk + 1..).next().map(|(chunk, _)| *chunk),
        }
    }
}

#[async_trait]
impl DiskTransport for View {
    fn size_bytes(&self) -> u64 {
        self.disk_bytes
    }

    async fn read(&self, extent: Extent) -> Result<Bytes, TransportError> {
        let first = extent.offset / CHUNK_BYTES;
        let mut bytes = Vec::new();
        for chunk in first..first + extent.length.div_ceil(CHUNK_BYTES) {
            match self.versions.get(&chunk) {
                Some(version) => bytes.extend_from_slice(&content(chunk, *version)),
                None => bytes.resize(bytes.len() + CHUNK, 0),
            }
        }
        Ok(Bytes::from(bytes))
    }

    async fn write(&self, _: u64, _: Bytes) -> Result<(), TransportError> {
        Self::refuse("a view is only read")
    }

    async fn write_zeroes(&self, _: Extent) -> Result<(), TransportError> {
        Self::refuse("a view is only read")
    }

    async fn flush(&self) -> Result<(), TransportError> {
        Ok(())
    }

    async fn block_status(&self, context: &str, extent: Extent) -> Result<Vec<BlockStatus>, TransportError> {
        let chunk = extent.offset / CHUNK_BYTES;
        let flags = self.status(context, chunk);
        let is_run = flags == u32::from(context != "changed") << 1;
        let end = if is_run { self.next(context, chunk).unwrap_or(u64::MAX) } else { chunk + 1 };
        let end = end.saturating_mul(CHUNK_BYTES).min(extent.offset + extent.length);
        Ok(vec![BlockStatus { extent: Extent { offset: extent.offset, length: end - extent.offset }, flags }])
    }

    async fn close(&self) -> Result<(), TransportError> {
        Ok(())
    }
}
