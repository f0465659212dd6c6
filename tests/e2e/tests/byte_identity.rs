//! Story: every recovery point is, byte for byte, what the guest's disk was at the instant of its capture, while the guest
//! writes all the time.
//!
//! Between the last read of a capture and its release, `qemu-img convert` (which knows nothing of Farshore) reads the same
//! frozen view through a connection of its own. Afterwards every point is restored and compared with what it read.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use farshore_core::{
    Consistency, GroupName, Machine, MachineId, OwnerTag, Passphrase, Sequence, SiteName, SystemClock, SystemEntropy,
};
use farshore_e2e::World;
use farshore_failover::{RestoreLimits, restore_to_file};
use farshore_platform::{
    AdapterState, CaptureOutcome, CaptureReport, CaptureRequest, CapturedDisk, ComponentSite, DiskTransport, Owned,
    SiteError, Source, Step, StopManner,
};
use farshore_plugin::{Binding, Endpoints, Grants, HostOptions, LogObserver, Mode, PluginHost, Templates};
use farshore_replication::{
    CopyLimits, CycleEvent, CycleObserver, CycleReport, Protection, ReplicationError, Replicator, Wishes,
};
use farshore_vault::{Context, CreateOptions, KdfParameters, Store, StoreOptions, Vault, Workers};
use tokio_util::sync::CancellationToken;

/// A site that lets an independent tool read each capture before it is committed.
struct Witnessed {
    site: ComponentSite,
    sockets: PathBuf,
    references: PathBuf,
    capture: AtomicU32,
    failures: Mutex<Vec<String>>,
}

impl Witnessed {
    fn reference(&self, capture: u32) -> PathBuf {
        self.references.join(format!("{capture}.raw"))
    }

    /// Lets `qemu-img` read every export that the guest offers now: there is one, of the capture.
    fn read_independently(&self) -> Result<(), String> {
        let entries = std::fs::read_dir(&self.sockets).map_err(|error| error.to_string())?;
        for entry in entries {
            let socket = entry.map_err(|error| error.to_string())?.path();
            let listed = output(Command::new("qemu-nbd").arg("--list").arg("-k").arg(&socket));
            let Ok(listed) = listed else { continue };
            let name = listed.lines().find_map(|line| line.trim().strip_prefix("export: '")?.strip_suffix('\''));
            let name = name.ok_or_else(|| format!("no export in {listed:?}"))?;
            let source = format!("nbd:unix:{}:exportname={name}", socket.display());
            let target = self.reference(self.capture.load(Ordering::SeqCst));
            let mut command = Command::new("qemu-img");
            output(command.args(["convert", "-f", "raw", "-O", "raw", &source]).arg(target))?;
            return Ok(());
        }
        Err("the guest offers no export".to_owned())
    }
}

fn output(command: &mut Command) -> Result<String, String> {
    let done = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    match done.status.success() {
        true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&done.stderr))),
    }
}

#[async_trait::async_trait]
impl Source for Witnessed {
    fn site(&self) -> &SiteName {
        Source::site(&self.site)
    }

    async fn machines(&self) -> Result<Vec<Machine>, SiteError> {
        self.site.machines().await
    }

    async fn begin_capture(&self, request: &CaptureRequest) -> Result<Step<CaptureReport>, SiteError> {
        self.site.begin_capture(request).await
    }

    async fn continue_capture(
        &self,
        request: &CaptureRequest,
        state: &AdapterState,
    ) -> Result<Step<CaptureReport>, SiteError> {
        self.site.continue_capture(request, state).await
    }

    async fn captured_disks(
        &self,
        request: &CaptureRequest,
        state: &AdapterState,
    ) -> Result<Vec<CapturedDisk>, SiteError> {
        self.site.captured_disks(request, state).await
    }

    async fn open_captured_disk(
        &self,
        state: &AdapterState,
        disk: &CapturedDisk,
    ) -> Result<Arc<dyn DiskTransport>, SiteError> {
        self.site.open_captured_disk(state, disk).await
    }

    async fn verify_capture(&self, state: &AdapterState) -> Result<(), SiteError> {
        if let Err(failure) = self.read_independently() {
            self.failures.lock().expect("nobody panicked").push(failure);
        }
        self.site.verify_capture(state).await
    }

    async fn end_capture(&self, state: &AdapterState, outcome: CaptureOutcome) -> Result<String, SiteError> {
        self.site.end_capture(state, outcome).await
    }

    async fn stop_machine(&self, machine: &MachineId, manner: StopManner) -> Result<Step<String>, SiteError> {
        Source::stop_machine(&self.site, machine, manner).await
    }

    async fn continue_stop(
        &self,
        machine: &MachineId,
        manner: StopManner,
        state: &AdapterState,
    ) -> Result<Step<String>, SiteError> {
        self.site.continue_stop(machine, manner, state).await
    }

    async fn owned(&self, owner: &OwnerTag) -> Result<Vec<Owned>, SiteError> {
        Source::owned(&self.site, owner).await
    }

    async fn release(&self, item: &Owned) -> Result<(), SiteError> {
        Source::release(&self.site, item).await
    }
}

struct Silent;

impl CycleObserver for Silent {
    fn event(&self, _: CycleEvent) {}
}

/// The site of a world's guest with the embedded adapter's component, as the binary would bind it.
async fn bind(world: &World, guest: &str) -> Witnessed {
    let component = std::fs::read("../../target/components/qemu.wasm");
    let component = component.expect("`cargo xtask components` was run");
    let host = PluginHost::new(HostOptions::new(world.folder().join("cache"))).expect("an engine");
    let component = host.load(component).await.expect("the component loads");
    let guest = world.guest(guest);
    let run = world.site.run_folder();
    let grants = format!(
        "unix = [{:?}, {:?}, {:?}]\nnbd = [{:?}]\nfiles = [{{ folder = {:?}, access = \"read-write\" }}]",
        guest.qmp_socket(),
        guest.agent_socket(),
        run.join("*"),
        format!("unix:{}", run.join("*").display()),
        run,
    );
    let site = SiteName::new("production").expect("a name");
    let binding = Binding {
        site: site.clone(),
        mode: Mode::Protect,
        settings: serde_json::json!({
            "socket-folder": run, "fleece-folder": run, "fleece-limit-mib": 256,
            "machines": [{ "name": guest.name(), "qmp": guest.qmp_socket(), "agent": guest.agent_socket() }],
        }),
        grants: toml::from_str::<Grants>(&grants).expect("grants"),
        endpoints: Endpoints::new(),
        programs: Templates::default(),
        observer: Arc::new(LogObserver),
    };
    let bound = component.bind(binding).expect("the binding holds");
    let references = world.folder().join("references");
    std::fs::create_dir(&references).expect("a folder");
    Witnessed {
        site: ComponentSite::new(site, bound, Arc::new(SystemClock)),
        sockets: run,
        references,
        capture: AtomicU32::new(0),
        failures: Mutex::default(),
    }
}

async fn restore(vault: &Vault, group: &GroupName, point: Sequence, target: &Path) {
    let lineage = vault.lineage(group).await.expect("an answer").expect("a lineage");
    let reader = lineage.open_point(point).await.expect("the point opens");
    let machine = &reader.point().machines[0];
    let disk = reader.disk(&machine.machine.id, &machine.disks[0].disk).expect("the disk is there");
    let (clock, stop) = (Arc::new(SystemClock), CancellationToken::new());
    restore_to_file(&disk, target, RestoreLimits::default(), clock, &stop, &|_| {}).await.expect("restored");
}

/// A cycle that ends with a point. On a machine with much else to do the guest overwrites more during a capture than is kept
/// for it; that capture breaks, as it must, and makes no point.
async fn cycle(replicator: &Replicator, site: &Witnessed, stop: &CancellationToken) -> CycleReport {
    const BROKEN_MAX: usize = 3;
    for _ in 0..BROKEN_MAX {
        match replicator.cycle(Wishes::default(), stop).await {
            Ok(report) => return report,
            Err(ReplicationError::Site { source: SiteError::CaptureBroken { message, .. }, .. }) => {
                eprintln!("a capture broke: {message}");
                // The independent tool could not read it either.
                site.failures.lock().expect("nobody panicked").clear();
            }
            Err(error) => panic!("a cycle: {error:?}"),
        }
    }
    panic!("{BROKEN_MAX} captures broke, one after the other")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_point_is_what_the_disk_was_while_the_guest_writes() {
    let mut world = World::new().expect("a world");
    world.resume_guest("orders").expect("a guest");
    let guest = world.guest("orders");
    guest.start_workload("database 100").expect("a database");
    guest.start_workload("writer 32 1024").expect("a writer");
    let site = Arc::new(bind(&world, "orders").await);
    let address = format!("file:{}", world.site.vault_folder().display()).parse().expect("an address");
    let store = Store::open(&address, &StoreOptions::default()).expect("a store");
    let options = CreateOptions { kdf: KdfParameters::FLOOR };
    let context = Context {
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        workers: Workers::threads(std::num::NonZero::<usize>::MIN.saturating_add(1)),
    };
    let draft = Vault::draft(store, &Passphrase::new("a test"), options, context).await.expect("a draft");
    let vault = draft.create().await.expect("a new vault");
    let (vault, group) = (Arc::new(vault), GroupName::new("orders").expect("a name"));
    let replicator = Replicator {
        vault: Arc::clone(&vault),
        source: Arc::clone(&site) as _,
        protection: Protection {
            group: group.clone(),
            machines: vec![MachineId::new("orders").expect("a name")],
            consistency: Consistency::Crash,
            stall_limit: Duration::from_millis(500),
            doubt: None,
        },
        capsule: Vec::new(),
        state_folder: world.folder().join("state"),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        observer: Arc::new(Silent),
        limits: CopyLimits::default(),
        outage: None,
        suspensions: None,
    };
    let stop = CancellationToken::new();
    let (mut points, mut changed_bytes) = (Vec::new(), 0);
    for capture in 0..if farshore_e2e::is_long() { 100 } else { 20 } {
        site.capture.store(capture, Ordering::SeqCst);
        let report = cycle(&replicator, &site, &stop).await;
        if capture > 0 {
            changed_bytes += report.point.stats.bytes_changed;
        }
        points.push(report.point.sequence);
    }
    assert_eq!(*site.failures.lock().expect("nobody panicked"), Vec::<String>::new());
    assert!(changed_bytes > 20 * farshore_core::CHUNK_BYTES, "the guest wrote all the time: {changed_bytes} bytes");
    for (capture, point) in (0..).zip(points) {
        let restored = world.folder().join(format!("point-{point}.raw"));
        restore(&vault, &group, point, &restored).await;
        let mut compare = Command::new("qemu-img");
        compare.args(["compare", "-f", "raw", "-F", "raw"]).arg(site.reference(capture)).arg(&restored);
        output(&mut compare).expect("the point is what the disk was");
        std::fs::remove_file(&restored).expect("removed");
        std::fs::remove_file(site.reference(capture)).expect("removed");
    }
}
