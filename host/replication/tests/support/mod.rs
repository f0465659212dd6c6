//! A simulated site: machines in memory, change tracking that can be lost, and a switch that stops the world at any call.

pub mod lost_store;
pub mod scene;
pub mod shaky_store;
pub mod virtual_clock;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use farshore_core::{
    CHUNK_BYTES, Clock, Consistency, Disk, DiskId, Extent, Firmware, Instant, Machine, MachineId, OwnerTag, PowerState,
    SiteName, SystemClock, Timestamp,
};
use farshore_platform::{
    AdapterState, BlockStatus, CaptureOutcome, CaptureReport, CaptureRequest, CapturedDisk, Changes, DiskTransport,
    Owned, OwnedKind, Pending, SiteError, Source, Step, StepStatus, StopManner, TransportError,
};
use tokio::sync::Notify;

pub const DISK_BYTES: u64 = 40 * CHUNK_BYTES;

/// What a capture of the simulated site is.
#[derive(Clone)]
struct Capture {
    owner: String,
    bytes: BTreeMap<MachineId, Vec<u8>>,
    /// For each machine: the chunks that changed since the token of the request, if it chains.
    changed: BTreeMap<MachineId, Option<BTreeSet<u64>>>,
    new_token: String,
    old_tokens: Vec<String>,
}

#[derive(Default)]
struct World {
    disks: BTreeMap<MachineId, Vec<u8>>,
    /// Chunks that were written since each token.
    tracking: BTreeMap<(MachineId, String), BTreeSet<u64>>,
    captures: BTreeMap<String, Capture>,
    calls: u64,
    stop_at: Option<u64>,
    broken: bool,
    lie: Lie,
    size_told: Option<u64>,
    /// When the newest capture froze its view.
    frozen_at: Option<Timestamp>,
    /// What happens to the host while a capture begins.
    meanwhile: Option<Box<dyn Fn() + Send>>,
    /// So many questions whether a capture held are not answered.
    silent: u32,
    /// What is said of captures before they are ready.
    waits: VecDeque<(Duration, String)>,
    asked: Vec<Consistency>,
    never_rests: bool,
    only_crash: bool,
    /// Chunks that can be read of a disk, if not all as often as anybody likes.
    reads_left: Option<u64>,
    /// Machines with which something is wrong.
    ill: BTreeMap<MachineId, Ill>,
    /// No capture of more than one machine can begin.
    refuses_together: bool,
    /// Captures of these machines cannot be released.
    held_on_to: BTreeSet<MachineId>,
}

/// What is wrong with a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ill {
    /// No capture of it can begin.
    CannotBegin,
    /// The site does not have it.
    Missing,
    /// Its platform does not reach it.
    Unreached,
    /// Nothing: its platform does not say whether it runs.
    Unclear,
    /// What was captured of it cannot be read.
    Unreadable,
    /// Nothing: it is off, can be captured all the same, and nothing else is known of it.
    Off,
}

/// A clock that goes as far as somebody sleeps.
#[derive(Default)]
pub struct SleptClock(AtomicU64);

impl SleptClock {
    /// So much time goes by.
    pub fn pass(&self, duration: Duration) {
        self.0.fetch_add(u64::try_from(duration.as_millis()).expect("a short time"), Ordering::SeqCst);
    }
}

#[async_trait::async_trait]
impl Clock for SleptClock {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }

    async fn sleep(&self, duration: Duration) {
        self.0.fetch_add(u64::try_from(duration.as_millis()).expect("a short sleep"), Ordering::SeqCst);
        tokio::task::yield_now().await;
    }
}

/// What the site lies about.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub enum Lie {
    #[default]
    None,
    OverlappingExtents,
    ExtentsPastTheEnd,
    /// The context leaves chunks out.
    GapsBetweenExtents,
    /// The context leaves out every second chunk that changed.
    ChangesLeftOut,
    /// Machines have a disk more than their captures.
    DiskLeftOut,
}

/// The simulated site.
pub struct SimulatedSite {
    name: SiteName,
    world: Arc<Mutex<World>>,
    stopped: Notify,
}

fn locked(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn machine_id(name: &str) -> MachineId {
    MachineId::new(name).expect("a name")
}

fn disk_id() -> DiskId {
    DiskId::new("vda").expect("a name")
}

impl SimulatedSite {
    pub fn new(machines: &[&str]) -> Arc<Self> {
        Self::at("production", machines)
    }

    pub fn at(site: &str, machines: &[&str]) -> Arc<Self> {
        let mut world = World::default();
        for name in machines {
            world.disks.insert(machine_id(name), vec![0; usize::try_from(DISK_BYTES).expect("small")]);
        }
        let name = SiteName::new(site).expect("a name");
        Arc::new(Self { name, world: Arc::new(Mutex::new(world)), stopped: Notify::new() })
    }

    /// The guest writes.
    pub fn write(&self, machine: &str, offset: u64, bytes: &[u8]) {
        let mut world = locked(&self.world);
        let machine = machine_id(machine);
        let start = usize::try_from(offset).expect("small");
        world.disks.get_mut(&machine).expect("a machine")[start..start + bytes.len()].copy_from_slice(bytes);
        let chunks = offset / CHUNK_BYTES..=(offset + bytes.len() as u64 - 1) / CHUNK_BYTES;
        for ((tracked, _), dirty) in &mut world.tracking {
            if *tracked == machine {
                dirty.extend(chunks.clone());
            }
        }
    }

    pub fn content(&self, machine: &str) -> Vec<u8> {
        locked(&self.world).disks[&machine_id(machine)].clone()
    }

    /// The `call`th call from now on, counting from 0, never returns.
    pub fn stop_at(&self, call: Option<u64>) {
        let mut world = locked(&self.world);
        world.calls = 0;
        world.stop_at = call;
    }

    /// The number of calls since the switch was set.
    pub fn calls(&self) -> u64 {
        locked(&self.world).calls
    }

    pub fn lose_tracking(&self) {
        locked(&self.world).tracking.clear();
    }

    pub fn lose_tracking_of(&self, machine: &str) {
        let machine = machine_id(machine);
        locked(&self.world).tracking.retain(|(tracked, _), _| *tracked != machine);
    }

    pub fn refuse_together(&self, refuses: bool) {
        locked(&self.world).refuses_together = refuses;
    }

    /// Captures of a machine cannot be released from now on, or can.
    pub fn hold_on_to(&self, machine: &str, holds: bool) {
        let (machine, mut world) = (machine_id(machine), locked(&self.world));
        match holds {
            true => world.held_on_to.insert(machine),
            false => world.held_on_to.remove(&machine),
        };
    }

    pub fn add_machine(&self, machine: &str) {
        let bytes = vec![0; usize::try_from(DISK_BYTES).expect("small")];
        locked(&self.world).disks.insert(machine_id(machine), bytes);
    }

    /// From now on this is wrong with a machine, or nothing.
    pub fn ail(&self, machine: &str, ill: Option<Ill>) {
        let (machine, mut world) = (machine_id(machine), locked(&self.world));
        match ill {
            Some(ill) => world.ill.insert(machine, ill),
            None => world.ill.remove(&machine),
        };
    }

    fn is_any(&self, machines: &[MachineId], ill: Ill) -> bool {
        let world = locked(&self.world);
        machines.iter().any(|machine| world.ill.get(machine) == Some(&ill))
    }

    pub fn break_captures(&self, broken: bool) {
        locked(&self.world).broken = broken;
    }

    pub fn lie(&self, lie: Lie) {
        locked(&self.world).lie = lie;
    }

    pub fn tell_size(&self, size_bytes: Option<u64>) {
        locked(&self.world).size_told = size_bytes;
    }

    /// When the newest capture froze its view.
    pub fn frozen_at(&self) -> Option<Timestamp> {
        locked(&self.world).frozen_at
    }

    /// What happens to the host while captures begin.
    pub fn meanwhile(&self, happens: impl Fn() + Send + 'static) {
        locked(&self.world).meanwhile = Some(Box::new(happens));
    }

    /// So many questions whether a capture held are not answered.
    pub fn be_silent(&self, questions: u32) {
        locked(&self.world).silent = questions;
    }

    /// Captures are ready only when all this was said of them, one with each question, a minute after the one before.
    pub fn wait(&self, said: impl IntoIterator<Item = String>) {
        self.wait_each(Duration::from_secs(60), said);
    }

    /// The same, with another pause.
    pub fn wait_each(&self, pause: Duration, said: impl IntoIterator<Item = String>) {
        locked(&self.world).waits = said.into_iter().map(|doing| (pause, doing)).collect();
    }

    fn waiting(&self, ready: Step<CaptureReport>) -> Step<CaptureReport> {
        match locked(&self.world).waits.pop_front() {
            None => ready,
            Some((poll_after, doing)) => {
                Step { state: ready.state, status: StepStatus::Pending(Pending { doing, poll_after }) }
            }
        }
    }

    /// The next disk that is opened can be read once as a whole, and then no more.
    pub fn break_after_a_lie(&self) {
        locked(&self.world).reads_left = Some(DISK_BYTES / CHUNK_BYTES);
    }

    /// Disks can be read again.
    pub fn mend(&self) {
        locked(&self.world).reads_left = None;
    }

    /// From now on every point is crash-consistent, whatever is asked for.
    pub fn rests_not_and_says_nothing(&self) {
        let mut world = locked(&self.world);
        (world.never_rests, world.only_crash) = (false, true);
    }

    /// What guests were asked to do before each capture so far.
    pub fn asked(&self) -> Vec<Consistency> {
        locked(&self.world).asked.clone()
    }

    /// From now on no file system comes to rest.
    pub fn never_rests(&self) {
        locked(&self.world).never_rests = true;
    }

    pub fn captures(&self) -> usize {
        locked(&self.world).captures.len()
    }

    /// The tokens that are tracked for the machine.
    pub fn tracked(&self, machine: &str) -> usize {
        let machine = machine_id(machine);
        locked(&self.world).tracking.keys().filter(|(tracked, _)| *tracked == machine).count()
    }

    /// Returns when a call was stopped for ever.
    pub async fn was_stopped(&self) {
        self.stopped.notified().await;
    }

    /// Stops here for ever if the switch says so. Called before and after each effect.
    async fn passing(&self) {
        let stop = {
            let mut world = locked(&self.world);
            let stop = world.stop_at == Some(world.calls);
            world.calls += 1;
            stop
        };
        if stop {
            self.stopped.notify_one();
            std::future::pending::<()>().await;
        }
    }

    fn fail<T>(&self, message: &str) -> Result<T, SiteError> {
        Err(SiteError::Failed { site: self.name.clone(), message: message.to_owned() })
    }

    fn begin(&self, request: &CaptureRequest) -> Step<CaptureReport> {
        let mut world = locked(&self.world);
        world.asked.push(request.consistency);
        // What is left of these machines goes; what a capture has of others stays until it is ended.
        for capture in world.captures.values_mut().filter(|capture| capture.owner == request.owner) {
            capture.bytes.retain(|machine, _| !request.machines.contains(machine));
        }
        world.captures.retain(|_, capture| !capture.bytes.is_empty());
        let kept: Vec<_> = request.tracked.iter().map(|disk| disk.token.clone()).collect();
        world.tracking.retain(|(_, token), _| kept.contains(token));
        let new_token = format!("token-{}", request.id);
        let mut capture = Capture {
            owner: request.owner.clone(),
            bytes: BTreeMap::new(),
            changed: BTreeMap::new(),
            new_token: new_token.clone(),
            old_tokens: kept,
        };
        for machine in &request.machines {
            capture.bytes.insert(machine.clone(), world.disks[machine].clone());
            let token = request.tracked.iter().find(|disk| disk.machine == *machine).map(|disk| disk.token.clone());
            let changed = token.and_then(|token| world.tracking.get(&(machine.clone(), token)).cloned());
            capture.changed.insert(machine.clone(), changed);
            world.tracking.insert((machine.clone(), new_token.clone()), BTreeSet::new());
        }
        let consistency = if world.only_crash { Consistency::Crash } else { request.consistency };
        world.frozen_at = Some(SystemClock.now());
        if let Some(happens) = &world.meanwhile {
            happens();
        }
        let id = request.id.to_string();
        world.captures.insert(id.clone(), capture);
        ready(AdapterState(id.into_bytes()), consistency)
    }
}

fn ready(state: AdapterState, consistency: Consistency) -> Step<CaptureReport> {
    let report = CaptureReport { instant: Instant::Group, consistency, held_microseconds: 1, note: String::new() };
    Step { state, status: StepStatus::Ready(report) }
}

fn name_of(state: &AdapterState) -> String {
    String::from_utf8_lossy(&state.0).into_owned()
}

#[async_trait::async_trait]
impl Source for SimulatedSite {
    fn site(&self) -> &SiteName {
        &self.name
    }

    async fn machines(&self) -> Result<Vec<Machine>, SiteError> {
        self.passing().await;
        let disk = |id| Disk { id, size_bytes: DISK_BYTES, boot: true, properties: BTreeMap::new() };
        let left_out = locked(&self.world).lie == Lie::DiskLeftOut;
        let left_out = left_out.then(|| DiskId::new("vdb").expect("a name"));
        let machine = |id: &MachineId| Machine {
            id: id.clone(),
            name: id.to_string(),
            cpus: 1,
            memory_bytes: 1 << 28,
            firmware: Firmware::Bios,
            power: PowerState::Running,
            disks: std::iter::once(disk_id()).chain(left_out.clone()).map(disk).collect(),
            network_interfaces: Vec::new(),
            properties: BTreeMap::new(),
        };
        let world = locked(&self.world);
        let listed = world.disks.keys().filter_map(|id| match world.ill.get(id) {
            Some(Ill::Missing) => None,
            Some(Ill::Unreached | Ill::Unclear) => Some(Machine { power: PowerState::Unknown, ..machine(id) }),
            Some(Ill::Off) => {
                Some(Machine { power: PowerState::Off, cpus: 0, memory_bytes: 0, disks: Vec::new(), ..machine(id) })
            }
            _ => Some(machine(id)),
        });
        Ok(listed.collect())
    }

    async fn begin_capture(&self, request: &CaptureRequest) -> Result<Step<CaptureReport>, SiteError> {
        self.passing().await;
        if request.consistency == Consistency::Application && locked(&self.world).never_rests {
            return self.fail("a file system does not come to rest");
        }
        if self.is_any(&request.machines, Ill::Unreached) || self.is_any(&request.machines, Ill::Missing) {
            return Err(SiteError::Unreachable { site: self.name.clone(), message: "a machine is silent".to_owned() });
        }
        if request.machines.len() > 1 && locked(&self.world).refuses_together {
            return self.fail("they cannot be held together");
        }
        if self.is_any(&request.machines, Ill::CannotBegin) {
            return self.fail("a machine has a snapshot of somebody else's");
        }
        let step = self.begin(request);
        self.passing().await;
        Ok(self.waiting(step))
    }

    async fn continue_capture(
        &self,
        request: &CaptureRequest,
        state: &AdapterState,
    ) -> Result<Step<CaptureReport>, SiteError> {
        Ok(self.waiting(ready(state.clone(), request.consistency)))
    }

    async fn captured_disks(
        &self,
        request: &CaptureRequest,
        state: &AdapterState,
    ) -> Result<Vec<CapturedDisk>, SiteError> {
        self.passing().await;
        let world = locked(&self.world);
        let Some(capture) = world.captures.get(&name_of(state)) else { return self.fail("no such capture") };
        let disk = |machine: &MachineId| CapturedDisk {
            machine: machine.clone(),
            disk: disk_id(),
            size_bytes: world.size_told.unwrap_or(DISK_BYTES),
            token: Some(capture.new_token.clone()),
            changes: match capture.changed.get(machine) {
                Some(Some(_)) => Changes::Context("changed".to_owned()),
                _ => Changes::Unknown("the token does not chain".to_owned()),
            },
            allocation_context: Some("base:allocation".to_owned()),
        };
        Ok(request.machines.iter().map(disk).collect())
    }

    async fn open_captured_disk(
        &self,
        state: &AdapterState,
        disk: &CapturedDisk,
    ) -> Result<Arc<dyn DiskTransport>, SiteError> {
        self.passing().await;
        let world = locked(&self.world);
        let Some(capture) = world.captures.get(&name_of(state)) else { return self.fail("no such capture") };
        let mut bytes = capture.bytes[&disk.machine].clone();
        bytes.truncate(usize::try_from(disk.size_bytes).expect("small"));
        let changed = capture.changed.get(&disk.machine).cloned().flatten();
        Ok(Arc::new(SimulatedDisk {
            bytes: bytes.into(),
            changed,
            lie: world.lie,
            broken: world.broken || world.ill.get(&disk.machine) == Some(&Ill::Unreadable),
            reads_left: AtomicU64::new(world.reads_left.unwrap_or(u64::MAX)),
        }))
    }

    async fn verify_capture(&self, state: &AdapterState) -> Result<(), SiteError> {
        {
            let mut world = locked(&self.world);
            if world.silent > 0 {
                world.silent -= 1;
                return Err(SiteError::Unreachable { site: self.name.clone(), message: "no answer came".to_owned() });
            }
        }
        self.passing().await;
        let world = locked(&self.world);
        if world.broken || !world.captures.contains_key(&name_of(state)) {
            let message = "the store was full".to_owned();
            return Err(SiteError::CaptureBroken { site: self.name.clone(), message });
        }
        Ok(())
    }

    async fn end_capture(&self, state: &AdapterState, outcome: CaptureOutcome) -> Result<String, SiteError> {
        self.passing().await;
        {
            let mut world = locked(&self.world);
            let held = world.captures.get(&name_of(state));
            if held.is_some_and(|capture| capture.bytes.keys().any(|machine| world.held_on_to.contains(machine))) {
                return Err(SiteError::Unreachable { site: self.name.clone(), message: "no answer came".to_owned() });
            }
            if let Some(capture) = world.captures.remove(&name_of(state)) {
                let gone = match outcome {
                    CaptureOutcome::Committed => capture.old_tokens,
                    CaptureOutcome::Abandoned => vec![capture.new_token],
                };
                let is_of_it = |machine: &MachineId| capture.bytes.contains_key(machine);
                world.tracking.retain(|(machine, token), _| !is_of_it(machine) || !gone.contains(token));
            }
        }
        self.passing().await;
        Ok(String::new())
    }

    async fn stop_machine(&self, _: &MachineId, _: StopManner) -> Result<Step<String>, SiteError> {
        self.fail("not simulated")
    }

    async fn continue_stop(&self, _: &MachineId, _: StopManner, _: &AdapterState) -> Result<Step<String>, SiteError> {
        self.fail("not simulated")
    }

    async fn owned(&self, owner: &OwnerTag) -> Result<Vec<Owned>, SiteError> {
        self.passing().await;
        let owner = owner.to_string();
        let item = |id: &String| Owned {
            kind: OwnedKind::Capture,
            id: id.clone(),
            owner: owner.clone(),
            run: None,
            description: format!("the unfinished capture {id}"),
            state: AdapterState(id.clone().into_bytes()),
        };
        let world = locked(&self.world);
        Ok(world.captures.iter().filter(|(_, capture)| capture.owner == owner).map(|(id, _)| item(id)).collect())
    }

    async fn release(&self, item: &Owned) -> Result<(), SiteError> {
        self.passing().await;
        // Without an outcome both trackings stay: the newest point may be of this capture or of the one before.
        locked(&self.world).captures.remove(&item.id);
        self.passing().await;
        Ok(())
    }
}

struct SimulatedDisk {
    bytes: Bytes,
    changed: Option<BTreeSet<u64>>,
    lie: Lie,
    broken: bool,
    /// In chunks.
    reads_left: AtomicU64,
}

impl SimulatedDisk {
    fn refuse<T>(&self, what: &str) -> Result<T, TransportError> {
        Err(TransportError::Unsupported { transport: "simulated disk".to_owned(), what: what.to_owned() })
    }
}

#[async_trait::async_trait]
impl DiskTransport for SimulatedDisk {
    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    async fn read(&self, extent: Extent) -> Result<Bytes, TransportError> {
        let chunks = extent.length.div_ceil(CHUNK_BYTES);
        let left = self.reads_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(chunks));
        if self.broken || left.is_err() {
            let source = std::io::Error::other("the snapshot is gone");
            let transport = "simulated disk".to_owned();
            return Err(TransportError::Request { transport, operation: "read", extent, source });
        }
        let start = usize::try_from(extent.offset).expect("small");
        Ok(self.bytes.slice(start..start + usize::try_from(extent.length).expect("small")))
    }

    async fn write(&self, _: u64, _: Bytes) -> Result<(), TransportError> {
        self.refuse("write")
    }

    async fn write_zeroes(&self, _: Extent) -> Result<(), TransportError> {
        self.refuse("write")
    }

    async fn flush(&self) -> Result<(), TransportError> {
        Ok(())
    }

    async fn block_status(&self, context: &str, extent: Extent) -> Result<Vec<BlockStatus>, TransportError> {
        let status = |offset, length, flags| BlockStatus { extent: Extent { offset, length }, flags };
        match self.lie {
            Lie::OverlappingExtents if extent.offset == 0 => {
                return Ok(vec![status(0, 2 * CHUNK_BYTES, 1), status(CHUNK_BYTES, 2 * CHUNK_BYTES, 1)]);
            }
            Lie::ExtentsPastTheEnd => return Ok(vec![status(extent.offset, extent.length + 512, 1)]),
            Lie::GapsBetweenExtents if extent.offset == 0 => {
                let end = status(4 * CHUNK_BYTES, DISK_BYTES - 4 * CHUNK_BYTES, 0);
                return Ok(vec![status(0, CHUNK_BYTES, 1), end]);
            }
            _ => {}
        }
        let chunk = extent.offset / CHUNK_BYTES;
        let length = CHUNK_BYTES.min(extent.length);
        let flags = match context {
            "changed" => {
                let is_left_out = self.lie == Lie::ChangesLeftOut && chunk.is_multiple_of(2);
                u32::from(!is_left_out && self.changed.as_ref().is_some_and(|changed| changed.contains(&chunk)))
            }
            _ => {
                let start = usize::try_from(extent.offset).expect("small");
                let bytes = &self.bytes[start..start + usize::try_from(length).expect("small")];
                if bytes.iter().all(|byte| *byte == 0) { 3 } else { 0 }
            }
        };
        Ok(vec![status(extent.offset, length, flags)])
    }

    async fn close(&self) -> Result<(), TransportError> {
        Ok(())
    }
}
