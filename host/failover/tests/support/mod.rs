//! A simulated target and a simulated source to be fenced, with a switch that stops the world at any call.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use farshore_core::{Disk, Extent, Machine, MachineId, OwnerTag, PowerState, SiteName};
use farshore_platform::{
    AdapterState, BlockStatus, CaptureOutcome, CaptureReport, CaptureRequest, CapturedDisk, DiskRequest, DiskTransport,
    Finding, MachineRequest, Owned, OwnedKind, Readiness, ReadinessLevel, SiteError, Source, Step, StepStatus,
    StopManner, Target, TransportError, WrittenBlocks,
};
use tokio::sync::Notify;

#[derive(Clone, Debug)]
pub struct MadeDisk {
    pub run: String,
    pub owner: String,
    pub bytes: Vec<u8>,
    pub sealed: bool,
    /// The disk that it began from.
    pub base: Option<String>,
    /// What was told of it when it was flushed, which whoever seals it has to repeat.
    written: Option<WrittenBlocks>,
}

#[derive(Clone, Debug)]
pub struct MadeMachine {
    pub run: String,
    pub owner: String,
    pub source: MachineId,
    pub disks: Vec<Vec<u8>>,
    /// Its disks as they were sealed.
    kept: BTreeMap<String, Vec<u8>>,
    pub running: bool,
}

#[derive(Default)]
struct World {
    disks: BTreeMap<String, MadeDisk>,
    machines: BTreeMap<String, MadeMachine>,
    calls: u64,
    stop_at: Option<u64>,
    full: bool,
    /// What is made exists, and the answer is lost.
    unanswered: Option<OwnedKind>,
    /// So many seals are not answered.
    silent_seals: u32,
    clings: bool,
    busy: u32,
    refuses: Option<String>,
    never_ready: Option<MachineId>,
    begins_from_sealed: bool,
    /// Nothing is begun from another disk.
    refuses_bases: bool,
    /// What is begun from another disk exists, and the answer is lost.
    loses_bases: bool,
    /// Disks without a machine cannot be removed.
    keeps_disks: bool,
    /// Machines cannot be removed, and never will.
    keeps_machines: bool,
}

impl World {
    /// What a sealed disk held then, also when a machine has it.
    fn sealed(&self, id: &str) -> Option<Vec<u8>> {
        let free = self.disks.get(id).filter(|disk| disk.sealed).map(|disk| disk.bytes.clone());
        free.or_else(|| self.machines.values().find_map(|machine| machine.kept.get(id).cloned()))
    }

    fn remove_machine(&mut self, id: &str) {
        let Some(gone) = self.machines.remove(id) else { return };
        let needs = |disk: &&MadeDisk| {
            !self.keeps_disks && !disk.sealed && disk.base.as_ref().is_some_and(|base| gone.kept.contains_key(base))
        };
        assert!(self.disks.values().find(needs).is_none(), "a disk in the making needs what is removed");
    }
}

/// The simulated target.
pub struct SimulatedTarget {
    name: SiteName,
    world: Arc<Mutex<World>>,
    stopped: Notify,
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ready(id: &str) -> Step<String> {
    Step { state: AdapterState(id.as_bytes().to_vec()), status: StepStatus::Ready(String::new()) }
}

fn checksum_of(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish().to_string()
}

fn name_of(state: &AdapterState) -> String {
    String::from_utf8_lossy(&state.0).into_owned()
}

impl SimulatedTarget {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            name: SiteName::new("recovery").expect("a name"),
            world: Arc::default(),
            stopped: Notify::new(),
        })
    }

    /// The `call`th call from now on, counting from 0, never returns.
    pub fn stop_at(&self, call: Option<u64>) {
        let mut world = locked(&self.world);
        world.calls = 0;
        world.stop_at = call;
    }

    pub fn disks(&self) -> BTreeMap<String, MadeDisk> {
        locked(&self.world).disks.clone()
    }

    pub fn machines(&self) -> BTreeMap<String, MadeMachine> {
        locked(&self.world).machines.clone()
    }

    pub fn be_full(&self, full: bool) {
        locked(&self.world).full = full;
    }

    /// So many seals are done, and not answered.
    pub fn be_silent(&self, seals: u32) {
        locked(&self.world).silent_seals = seals;
    }

    /// What is made of this kind exists, and the answers are lost.
    pub fn lose_answers(&self, of: Option<OwnedKind>) {
        locked(&self.world).unanswered = of;
    }

    /// Disks can begin as others were when they were sealed.
    pub fn begin_from_sealed(&self) {
        locked(&self.world).begins_from_sealed = true;
    }

    /// Disks could begin as others were, but none does.
    pub fn refuse_bases(&self) {
        locked(&self.world).refuses_bases = true;
    }

    /// What is begun from another disk exists, and is not answered; whether it can be removed.
    pub fn lose_bases(&self, can_be_removed: bool) {
        let mut world = locked(&self.world);
        (world.loses_bases, world.keeps_disks) = (true, !can_be_removed);
    }

    /// Machines can be removed, or cannot.
    pub fn keep_machines(&self, keeps: bool) {
        locked(&self.world).keeps_machines = keeps;
    }

    /// The machines write to their disks.
    pub fn work(&self) {
        for machine in locked(&self.world).machines.values_mut() {
            machine.disks.iter_mut().for_each(|disk| disk.fill(0xEE));
        }
    }

    fn answered(&self, of: OwnedKind, id: &str) -> Result<Step<String>, SiteError> {
        if locked(&self.world).unanswered == Some(of) {
            return Err(SiteError::Unreachable { site: self.name.clone(), message: "no answer came".to_owned() });
        }
        Ok(ready(id))
    }

    pub fn refuse(&self, problem: Option<&str>) {
        locked(&self.world).refuses = problem.map(ToOwned::to_owned);
    }

    pub fn never_ready(&self, machine: Option<&MachineId>) {
        locked(&self.world).never_ready = machine.cloned();
    }

    /// Machines cannot be removed.
    pub fn cling(&self, clings: bool) {
        locked(&self.world).clings = clings;
    }

    /// So many questions for readiness find it busy.
    pub fn be_busy(&self, questions: u32) {
        locked(&self.world).busy = questions;
    }

    /// Returns when a call was stopped for ever.
    pub async fn was_stopped(&self) {
        self.stopped.notified().await;
    }

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

    fn missing<T>(&self, what: &str) -> Result<T, SiteError> {
        Err(SiteError::NotFound { site: self.name.clone(), message: what.to_owned() })
    }
}

#[async_trait::async_trait]
impl Target for SimulatedTarget {
    fn site(&self) -> &SiteName {
        &self.name
    }

    async fn check_machine(&self, _: &Machine) -> Result<Vec<Finding>, SiteError> {
        let refuses = locked(&self.world).refuses.clone();
        Ok(refuses.into_iter().map(|problem| Finding { blocking: true, problem }).collect())
    }

    async fn begin_disk(&self, request: &DiskRequest) -> Result<Step<String>, SiteError> {
        self.passing().await;
        let made = MadeDisk {
            run: request.run.to_string(),
            owner: request.owner.clone(),
            bytes: vec![0; usize::try_from(request.disk.size_bytes).expect("small")],
            sealed: false,
            base: None,
            written: None,
        };
        let disk = locked(&self.world).disks.entry(request.id.clone()).or_insert(made).clone();
        assert_eq!(disk.base, None, "the id stands for a disk that began from another");
        self.passing().await;
        self.answered(OwnedKind::Disk, &request.id)
    }

    fn begins_from_sealed(&self) -> bool {
        locked(&self.world).begins_from_sealed
    }

    async fn begin_disk_from(&self, request: &DiskRequest, base: &AdapterState) -> Result<Step<String>, SiteError> {
        self.passing().await;
        {
            let mut world = locked(&self.world);
            if world.refuses_bases {
                let message = "nothing begins from another".to_owned();
                return Err(SiteError::Failed { site: self.name.clone(), message });
            }
            let base = name_of(base);
            let Some(bytes) = world.sealed(&base) else { return self.missing("no such sealed disk") };
            assert_eq!(bytes.len() as u64, request.disk.size_bytes);
            let made = MadeDisk {
                run: request.run.to_string(),
                owner: request.owner.clone(),
                bytes,
                sealed: false,
                base: Some(base.clone()),
                written: None,
            };
            let disk = world.disks.entry(request.id.clone()).or_insert(made);
            assert_eq!(disk.base, Some(base), "the id stands for a disk with another beginning");
        }
        self.passing().await;
        if locked(&self.world).loses_bases {
            return Err(SiteError::Unreachable { site: self.name.clone(), message: "no answer came".to_owned() });
        }
        self.answered(OwnedKind::Disk, &request.id)
    }

    async fn open_disk(&self, state: &AdapterState, disk: &Disk) -> Result<Arc<dyn DiskTransport>, SiteError> {
        self.passing().await;
        let world = Arc::clone(&self.world);
        Ok(Arc::new(SimulatedDisk {
            id: name_of(state),
            size_bytes: disk.size_bytes,
            world,
            written: Mutex::default(),
        }))
    }

    async fn seal_disk(
        &self,
        state: &AdapterState,
        written: Option<&WrittenBlocks>,
    ) -> Result<Step<String>, SiteError> {
        self.passing().await;
        match locked(&self.world).disks.get_mut(&name_of(state)) {
            Some(disk) if disk.written.is_none() || disk.written.as_ref() != written => {
                let message = format!("sealed with {written:?}, and {:?} was written", disk.written);
                return Err(SiteError::Failed { site: self.name.clone(), message });
            }
            Some(disk) => disk.sealed = true,
            None => return self.missing("no such disk"),
        }
        self.passing().await;
        let mut world = locked(&self.world);
        if world.silent_seals > 0 {
            world.silent_seals -= 1;
            return Err(SiteError::Unreachable { site: self.name.clone(), message: "no answer came".to_owned() });
        }
        Ok(ready(&name_of(state)))
    }

    async fn continue_disk(&self, _: &AdapterState) -> Result<Step<String>, SiteError> {
        self.missing("a disk of this site is never pending")
    }

    async fn discard_disk(&self, state: &AdapterState) -> Result<(), SiteError> {
        self.passing().await;
        locked(&self.world).disks.remove(&name_of(state));
        self.passing().await;
        Ok(())
    }

    async fn define_machine(&self, request: &MachineRequest) -> Result<Step<String>, SiteError> {
        self.passing().await;
        {
            let mut world = locked(&self.world);
            if !world.machines.contains_key(&request.id) {
                let (mut disks, mut kept) = (Vec::new(), BTreeMap::new());
                for state in &request.disks {
                    match world.disks.remove(&name_of(state)) {
                        Some(disk) if disk.sealed => {
                            kept.insert(name_of(state), disk.bytes.clone());
                            disks.push(disk.bytes);
                        }
                        _ => return self.missing("no such sealed disk"),
                    }
                }
                let made = MadeMachine {
                    run: request.run.to_string(),
                    owner: request.owner.clone(),
                    source: request.machine.id.clone(),
                    disks,
                    kept,
                    running: false,
                };
                world.machines.insert(request.id.clone(), made);
            }
        }
        self.passing().await;
        self.answered(OwnedKind::Machine, &request.id)
    }

    async fn start_machine(&self, state: &AdapterState) -> Result<Step<String>, SiteError> {
        self.passing().await;
        {
            let mut world = locked(&self.world);
            let run = world.machines.get(&name_of(state)).map(|machine| machine.run.clone());
            let Some(run) = run else { return self.missing("no such machine") };
            let beside = world.machines.values().find(|other| other.run != run && other.running);
            assert!(beside.is_none() || !world.begins_from_sealed, "started beside what another run made: {beside:?}");
            if let Some(machine) = world.machines.get_mut(&name_of(state)) {
                machine.running = true;
            }
        }
        self.passing().await;
        Ok(ready(&name_of(state)))
    }

    async fn stop_machine(&self, state: &AdapterState, _: StopManner) -> Result<Step<String>, SiteError> {
        self.passing().await;
        if let Some(machine) = locked(&self.world).machines.get_mut(&name_of(state)) {
            machine.running = false;
        }
        self.passing().await;
        Ok(ready(&name_of(state)))
    }

    async fn continue_machine(&self, _: &AdapterState) -> Result<Step<String>, SiteError> {
        self.missing("a machine of this site is never pending")
    }

    async fn readiness(&self, state: &AdapterState) -> Result<Readiness, SiteError> {
        self.passing().await;
        let mut world = locked(&self.world);
        if world.busy > 0 {
            world.busy -= 1;
            return Err(SiteError::Conflict { site: self.name.clone(), message: "busy for a moment".to_owned() });
        }
        let Some(machine) = world.machines.get(&name_of(state)) else { return self.missing("no such machine") };
        let level = match machine.running {
            true if world.never_ready.as_ref() != Some(&machine.source) => ReadinessLevel::Ready,
            true => ReadinessLevel::Running,
            false => ReadinessLevel::Off,
        };
        Ok(Readiness { level, evidence: "simulated".to_owned() })
    }

    async fn remove_machine(&self, state: &AdapterState) -> Result<(), SiteError> {
        self.passing().await;
        if locked(&self.world).clings {
            return Err(SiteError::Conflict { site: self.name.clone(), message: "something holds it".to_owned() });
        }
        {
            let mut world = locked(&self.world);
            if world.keeps_machines {
                return Err(SiteError::Failed { site: self.name.clone(), message: "it cannot be removed".to_owned() });
            }
            world.remove_machine(&name_of(state));
        }
        self.passing().await;
        Ok(())
    }

    async fn owned(&self, owner: &OwnerTag) -> Result<Vec<Owned>, SiteError> {
        self.passing().await;
        let (owner, world) = (owner.to_string(), locked(&self.world));
        let item = |kind, id: &String, run: &String| Owned {
            kind,
            id: id.clone(),
            owner: owner.clone(),
            run: Some(run.clone()),
            description: format!("{kind:?} {id}"),
            state: AdapterState(id.as_bytes().to_vec()),
        };
        let disks = world.disks.iter().filter(|(_, disk)| disk.owner == owner);
        let machines = world.machines.iter().filter(|(_, machine)| machine.owner == owner);
        Ok(disks
            .map(|(id, disk)| item(OwnedKind::Disk, id, &disk.run))
            .chain(machines.map(|(id, machine)| item(OwnedKind::Machine, id, &machine.run)))
            .collect())
    }

    async fn release(&self, item: &Owned) -> Result<(), SiteError> {
        self.passing().await;
        let mut world = locked(&self.world);
        if world.clings {
            return Err(SiteError::Conflict { site: self.name.clone(), message: "something holds it".to_owned() });
        }
        if world.keeps_disks && item.kind == OwnedKind::Disk {
            return Err(SiteError::Failed { site: self.name.clone(), message: "it cannot be removed".to_owned() });
        }
        world.disks.remove(&item.id);
        world.remove_machine(&item.id);
        Ok(())
    }

    fn refusals(&self) -> Vec<String> {
        Vec::new()
    }
}

struct SimulatedDisk {
    id: String,
    size_bytes: u64,
    world: Arc<Mutex<World>>,
    written: Mutex<Option<WrittenBlocks>>,
}

#[async_trait::async_trait]
impl DiskTransport for SimulatedDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    async fn read(&self, _: Extent) -> Result<Bytes, TransportError> {
        Err(TransportError::Unsupported { transport: self.id.clone(), what: "read".to_owned() })
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<(), TransportError> {
        let mut world = locked(&self.world);
        if world.full {
            let extent = Extent { offset, length: data.len() as u64 };
            return Err(TransportError::NoSpace { transport: self.id.clone(), extent });
        }
        let disk = world.disks.get_mut(&self.id).expect("the disk was not removed");
        assert!(!disk.sealed, "nothing writes to a sealed disk");
        let start = usize::try_from(offset).expect("small");
        disk.bytes[start..start + data.len()].copy_from_slice(&data);
        Ok(())
    }

    async fn write_zeroes(&self, _: Extent) -> Result<(), TransportError> {
        Err(TransportError::Unsupported { transport: self.id.clone(), what: "zero".to_owned() })
    }

    async fn flush(&self) -> Result<(), TransportError> {
        let mut world = locked(&self.world);
        let disk = world.disks.get_mut(&self.id).expect("the disk was not removed");
        let count = disk.bytes.chunks(4_096).filter(|block| block.iter().any(|byte| *byte != 0)).count() as u64;
        disk.written = Some(WrittenBlocks { count, checksum: checksum_of(&disk.bytes) });
        *locked(&self.written) = disk.written.clone();
        Ok(())
    }

    fn written_blocks(&self) -> Option<WrittenBlocks> {
        locked(&self.written).clone()
    }

    async fn block_status(&self, _: &str, _: Extent) -> Result<Vec<BlockStatus>, TransportError> {
        Err(TransportError::Unsupported { transport: self.id.clone(), what: "ask".to_owned() })
    }

    async fn close(&self) -> Result<(), TransportError> {
        Ok(())
    }
}

/// A source that can only be asked for its machines and be turned off.
pub struct SimulatedSource {
    name: SiteName,
    machines: Vec<Machine>,
    power: PowerState,
    gone: Mutex<BTreeSet<MachineId>>,
}

impl SimulatedSource {
    pub fn new(machines: Vec<Machine>, power: PowerState) -> Arc<Self> {
        let name = SiteName::new("production").expect("a name");
        Arc::new(Self { name, machines, power, gone: Mutex::default() })
    }

    /// The machines that were turned off. As with QEMU, what answered for them went with them.
    pub fn gone(&self) -> BTreeSet<MachineId> {
        locked(&self.gone).clone()
    }

    fn power(&self, machine: &MachineId) -> PowerState {
        if locked(&self.gone).contains(machine) { PowerState::Unknown } else { self.power }
    }

    fn fail<T>(&self, message: &str) -> Result<T, SiteError> {
        Err(SiteError::Failed { site: self.name.clone(), message: message.to_owned() })
    }
}

#[async_trait::async_trait]
impl Source for SimulatedSource {
    fn site(&self) -> &SiteName {
        &self.name
    }

    async fn machines(&self) -> Result<Vec<Machine>, SiteError> {
        let with_power = |machine: &Machine| Machine { power: self.power(&machine.id), ..machine.clone() };
        Ok(self.machines.iter().map(with_power).collect())
    }

    async fn begin_capture(&self, _: &CaptureRequest) -> Result<Step<CaptureReport>, SiteError> {
        self.fail("not simulated")
    }

    async fn continue_capture(&self, _: &CaptureRequest, _: &AdapterState) -> Result<Step<CaptureReport>, SiteError> {
        self.fail("not simulated")
    }

    async fn captured_disks(&self, _: &CaptureRequest, _: &AdapterState) -> Result<Vec<CapturedDisk>, SiteError> {
        self.fail("not simulated")
    }

    async fn open_captured_disk(
        &self,
        _: &AdapterState,
        _: &CapturedDisk,
    ) -> Result<Arc<dyn DiskTransport>, SiteError> {
        self.fail("not simulated")
    }

    async fn verify_capture(&self, _: &AdapterState) -> Result<(), SiteError> {
        self.fail("not simulated")
    }

    async fn end_capture(&self, _: &AdapterState, _: CaptureOutcome) -> Result<String, SiteError> {
        self.fail("not simulated")
    }

    async fn stop_machine(&self, machine: &MachineId, _: StopManner) -> Result<Step<String>, SiteError> {
        match self.power(machine) {
            PowerState::Unknown => return self.fail("nobody answers"),
            PowerState::Off => {}
            PowerState::Running | PowerState::Paused => {
                locked(&self.gone).insert(machine.clone());
            }
        }
        let status = StepStatus::Ready("the platform says off".to_owned());
        Ok(Step { state: AdapterState::default(), status })
    }

    async fn continue_stop(&self, _: &MachineId, _: StopManner, _: &AdapterState) -> Result<Step<String>, SiteError> {
        self.fail("a stop of this site is never pending")
    }

    async fn owned(&self, _: &OwnerTag) -> Result<Vec<Owned>, SiteError> {
        self.fail("not simulated")
    }

    async fn release(&self, _: &Owned) -> Result<(), SiteError> {
        self.fail("not simulated")
    }
}
