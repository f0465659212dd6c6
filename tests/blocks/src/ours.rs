//! The same through a component: the adapter for EC2 in its sandbox, the host's signing, checks and transport of blocks.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use farshore_core::{
    CaptureId, Clock as _, Consistency, Disk, DiskId, Extent, Firmware, Machine, MachineId, PowerState, RunId,
    SystemClock, SystemEntropy,
};
use farshore_http::{Endpoint, EndpointGrant, EndpointOptions, KeyError, KeySource, SigV4, SigV4Keys};
use farshore_platform::{
    AdapterState, CaptureOutcome, CaptureRequest, CapturedDisk, Changes, ComponentSite, DiskRequest, MachineRequest,
    SiteError, Source as _, Step, StepStatus, Target as _, TrackedDisk, TransportError, extents,
};
use farshore_plugin::{Binding, Endpoints, Grants, HostOptions, LogObserver, Mode, PluginHost, Templates};
use farshore_replication::CopyLimits;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;

use crate::{BLOCK_BYTES, KEY_ID, REGION, SECRET, content};

const OWNER: &str = "farshore-blocks";

struct Keys;

impl KeySource for Keys {
    fn keys(&self) -> Result<SigV4Keys, KeyError> {
        let text = |text: &str| text.to_owned().into();
        Ok(SigV4Keys { access_key_id: text(KEY_ID), secret_access_key: text(SECRET), session_token: None })
    }
}

/// How long something took, and how much of it was in calls of the component (and in what these asked the service).
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// From the first call to the last.
    pub all: Duration,
    /// In calls of the component before and after the bytes were moved.
    pub calls: Duration,
    /// How many bytes were moved.
    pub bytes: u64,
}

/// What of a disk is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All that has content.
    Everything,
    /// What changed since the newest committed capture.
    Changes,
}

/// The site, opened for all that is measured.
pub struct Ours {
    site: ComponentSite,
    limits: CopyLimits,
    gibibytes: u64,
    ids: AtomicU64,
}

impl Ours {
    /// Loads the component and grants it these addresses.
    ///
    /// # Errors
    /// The component was not built, or does not load.
    pub async fn open(component: &Path, cache: &Path, urls: [(&str, String); 2], gibibytes: u64) -> Result<Self> {
        let bytes = std::fs::read(component).context("`cargo xtask components` makes the component")?;
        let host = PluginHost::new(HostOptions::new(cache.to_owned()))?;
        let (mut grants, mut endpoints) = (Grants::default(), Endpoints::new());
        for (service, url) in urls {
            let grant = json!({"address": url, "allow-http": true, "credential": "keys", "service": service});
            let grant: EndpointGrant = serde_json::from_value(grant)?;
            let signing = SigV4 { region: REGION.to_owned(), service: service.to_owned(), keys: Arc::new(Keys) };
            let made = Endpoint::new(EndpointOptions {
                name: service.parse()?,
                grant: grant.clone(),
                certificates: None,
                signing: Some(signing),
                clock: Arc::new(SystemClock),
                entropy: Arc::new(SystemEntropy),
            })?;
            grants.endpoints.insert(service.parse()?, grant);
            endpoints.insert(service.parse()?, Arc::new(made));
        }
        let settings = json!({"instance-type": "t3.large", "subnet": "subnet-0live", "security-groups": ["sg-0live"]});
        let binding = Binding {
            site: "cloud".parse()?,
            mode: Mode::Live,
            settings,
            grants,
            endpoints,
            programs: Templates::new(),
            observer: Arc::new(LogObserver),
        };
        let bound = host.load(bytes).await?.bind(binding)?;
        let site = ComponentSite::new("cloud".parse()?, bound, Arc::new(SystemClock));
        Ok(Self { site, limits: CopyLimits::default(), gibibytes, ids: AtomicU64::new(1) })
    }

    /// How many reads a cycle has in flight, as blocks.
    pub fn blocks_in_flight(&self) -> usize {
        self.limits.reads_in_flight * usize::try_from(self.limits.read_bytes / BLOCK_BYTES).unwrap_or(1).max(1)
    }

    fn id(&self) -> String {
        format!("{:032x}", self.ids.fetch_add(1, Ordering::Relaxed))
    }

    fn disk(&self) -> Result<Disk> {
        let (id, size_bytes) = (DiskId::new("vda")?, self.gibibytes << 30);
        Ok(Disk { id, size_bytes, boot: true, properties: BTreeMap::new() })
    }

    /// Restores so many blocks to a new disk, and seals it.
    ///
    /// # Errors
    /// Anything.
    pub async fn write(&self, blocks: u64) -> Result<(Spent, AdapterState)> {
        let (begun, disk) = (SystemClock.monotonic(), self.disk()?);
        let request = DiskRequest {
            id: self.id(),
            owner: OWNER.to_owned(),
            run: self.run()?,
            machine_name: "orders".to_owned(),
            disk: disk.clone(),
        };
        let state = self.settle_disk(self.site.begin_disk(&request).await).await?;
        let transport = self.site.open_disk(&state, &disk).await?;
        let opened = SystemClock.monotonic();
        let all = stream::iter((0..blocks).map(anyhow::Ok));
        all.try_for_each_concurrent(self.limits.reads_in_flight, |index| {
            let transport = &transport;
            async move { Ok(transport.write(index * BLOCK_BYTES, content(index)).await?) }
        })
        .await?;
        transport.flush().await?;
        let written = transport.written_blocks();
        transport.close().await?;
        let moved = SystemClock.monotonic();
        let state = self.settle_disk(self.site.seal_disk(&state, written.as_ref()).await).await?;
        let all = SystemClock.monotonic() - begun;
        Ok((Spent { all, calls: all - (moved - opened), bytes: blocks * BLOCK_BYTES }, state))
    }

    fn run(&self) -> Result<RunId> {
        Ok("01a21c2d0e848a50104e1a75239100c2".parse()?)
    }

    async fn settle_disk(&self, mut step: Result<Step<String>, SiteError>) -> Result<AdapterState> {
        loop {
            let Step { state, status } = step?;
            match status {
                StepStatus::Ready(_) => return Ok(state),
                StepStatus::Pending(pending) => SystemClock.sleep(pending.poll_after).await,
            }
            step = self.site.continue_disk(&state).await;
        }
    }

    /// Starts a machine of a disk. The id of its instance.
    ///
    /// # Errors
    /// Anything.
    pub async fn start(&self, disk: AdapterState) -> Result<MachineId> {
        let machine = Machine {
            id: MachineId::new("orders")?,
            name: "orders".to_owned(),
            cpus: 2,
            memory_bytes: 1 << 30,
            firmware: Firmware::Bios,
            power: PowerState::Running,
            disks: vec![self.disk()?],
            network_interfaces: Vec::new(),
            properties: BTreeMap::new(),
        };
        let (id, owner, run) = (self.id(), OWNER.to_owned(), self.run()?);
        let request = MachineRequest { id, owner, run, machine, disks: vec![disk] };
        let mut step = self.site.define_machine(&request).await?;
        for _ in 0..2 {
            while let StepStatus::Pending(pending) = &step.status {
                SystemClock.sleep(pending.poll_after).await;
                step = self.site.continue_machine(&step.state).await?;
            }
            step = self.site.start_machine(&step.state).await?;
        }
        let machines = self.site.machines().await?;
        let [machine] = &machines[..] else { bail!("one machine, not {machines:?}") };
        Ok(machine.id.clone())
    }

    /// Captures a machine's disk and reads all that has content, or what changed since the newest committed token. The new token.
    ///
    /// # Errors
    /// Anything.
    pub async fn read(
        &self,
        machine: &MachineId,
        newest: Option<&str>,
        wanted: Wanted,
        outcome: CaptureOutcome,
    ) -> Result<(Spent, String)> {
        let begun = SystemClock.monotonic();
        let tracked = newest.map(|token| TrackedDisk {
            machine: machine.clone(),
            disk: DiskId::new("sda1").expect("a name"),
            token: token.to_owned(),
        });
        let request = CaptureRequest {
            id: CaptureId::timed(&SystemClock, &SystemEntropy),
            owner: OWNER.to_owned(),
            machines: vec![machine.clone()],
            tracked: tracked.into_iter().collect(),
            consistency: Consistency::Crash,
            stall_limit_milliseconds: 1_000,
        };
        let mut step = self.site.begin_capture(&request).await?;
        while let StepStatus::Pending(pending) = &step.status {
            SystemClock.sleep(pending.poll_after).await;
            step = self.site.continue_capture(&request, &step.state).await?;
        }
        let state = step.state;
        let disks = self.site.captured_disks(&request, &state).await?;
        let [disk] = &disks[..] else { bail!("one disk, not {disks:?}") };
        let transport = self.site.open_captured_disk(&state, disk).await?;
        let opened = SystemClock.monotonic();
        let (context, is_wanted) = context(disk, wanted)?;
        let bytes = AtomicU64::new(0);
        extents(&*transport, &context, disk.size_bytes)
            .map_ok(|told| {
                stream::iter(pieces(told.extent, is_wanted(told.flags), self.limits.read_bytes))
                    .map(Ok::<Extent, TransportError>)
            })
            .try_flatten()
            .try_for_each_concurrent(self.limits.reads_in_flight, |piece| {
                let (transport, bytes) = (&transport, &bytes);
                async move {
                    let data: Bytes = transport.read(piece).await?;
                    bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
                    Ok(())
                }
            })
            .await?;
        transport.close().await?;
        let moved = SystemClock.monotonic();
        self.site.verify_capture(&state).await?;
        let all = SystemClock.monotonic() - begun;
        // What is removed is not waited for by anybody.
        self.site.end_capture(&state, outcome).await?;
        let token = disk.token.clone().context("a token")?;
        Ok((Spent { all, calls: all - (moved - opened), bytes: bytes.into_inner() }, token))
    }
}

/// Whether flags say that an extent is to be read.
type IsWanted = fn(u32) -> bool;

/// The context that says what is to be read, and how.
fn context(disk: &CapturedDisk, wanted: Wanted) -> Result<(String, IsWanted)> {
    match (wanted, &disk.changes) {
        (Wanted::Changes, Changes::Context(context)) => Ok((context.clone(), |flags| flags & 1 != 0)),
        (Wanted::Changes, Changes::Unknown(why)) => bail!("nobody knows what changed: {why}"),
        (Wanted::Everything, _) => Ok((disk.allocation_context.clone().context("a context")?, |flags| flags & 2 == 0)),
    }
}

/// What is read at once.
fn pieces(extent: Extent, is_wanted: bool, read_bytes: u64) -> Vec<Extent> {
    let end = if is_wanted { extent.offset + extent.length } else { extent.offset };
    let mut pieces = Vec::new();
    let mut offset = extent.offset;
    while offset < end {
        // As a cycle does: up to a multiple of what is read at once.
        let next = ((offset / read_bytes + 1) * read_bytes).min(end);
        pieces.push(Extent { offset, length: next - offset });
        offset = next;
    }
    pieces
}

/// That all that is there was moved.
///
/// # Errors
/// It was not.
pub fn ensure_moved(spent: &Spent, blocks: u64) -> Result<()> {
    let wanted = blocks * BLOCK_BYTES;
    ensure!(spent.bytes == wanted, "{} bytes were moved, and {wanted} were there", spent.bytes);
    Ok(())
}
