//! A host with a group of two machines, whose way to the vault can be lost, and what is known of how its disks were.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use farshore_core::{
    Basis, CHUNK_BYTES, Clock as _, Consistency, GroupName, MachineId, Passphrase, Sequence, SystemClock,
    SystemEntropy, Timestamp,
};
use farshore_replication::{
    CatchUp, CopyLimits, CycleEvent, CycleObserver, CycleReport, Link, Outage, OutageMemory, Protection,
    ReplicationError, Replicator, Suspensions, Wishes,
};
use farshore_spool::SpoolRoom;
use farshore_vault::{Context, CreateOptions, KdfParameters, Kit, Opener, Point, Store, Vault, Workers};
use futures::StreamExt as _;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{SimulatedSite, SleptClock, lost_store::LostStore, machine_id};

pub fn group() -> GroupName {
    GroupName::new("orders").expect("a name")
}

#[derive(Default)]
pub struct Heard {
    pub caught_up: Mutex<Vec<CycleReport>>,
    pub given_up: Mutex<Vec<(usize, String)>>,
    pub waiting: Mutex<usize>,
    pub warnings: Mutex<Vec<String>>,
    /// What was said of suspended machines: each with the code of why, or with nothing when it was back.
    pub suspended: Mutex<Vec<(MachineId, Option<String>)>>,
}

impl CycleObserver for Heard {
    fn event(&self, event: CycleEvent) {
        match event {
            CycleEvent::CaughtUp(report) => self.caught_up.lock().expect("no panic").push(*report),
            CycleEvent::GivenUp { points, why } => self.given_up.lock().expect("no panic").push((points, why)),
            CycleEvent::Spooled { points, .. } => *self.waiting.lock().expect("no panic") = points,
            CycleEvent::Suspended { machine, code, .. } => {
                self.suspended.lock().expect("no panic").push((machine, Some(code.to_string())));
            }
            CycleEvent::Returned { machine, .. } => self.suspended.lock().expect("no panic").push((machine, None)),
            CycleEvent::Warning(text) => self.warnings.lock().expect("no panic").push(text),
            _ => {}
        }
    }
}

/// A host with a group of two machines, whose way to the vault can be lost.
pub struct Scene {
    pub store: Arc<LostStore>,
    pub vault: Arc<Vault>,
    pub site: Arc<SimulatedSite>,
    pub clock: Arc<SleptClock>,
    pub heard: Arc<Heard>,
    pub room: Arc<SpoolRoom>,
    pub link: Arc<Link>,
    pub memory: Arc<OutageMemory>,
    pub suspensions: Option<Arc<Suspensions>>,
    pub kit: Kit,
    pub folder: TempDir,
    pub catch_up: CatchUp,
    /// A third machine of the group, if it has one, of whose disk nobody takes note.
    pub third: Option<MachineId>,
    /// What each disk was when each point was captured.
    pub were: BTreeMap<Timestamp, [Vec<u8>; 2]>,
    pub seed: u8,
}

pub fn context() -> Context {
    Context { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy), workers: Workers::inline() }
}

pub fn passphrase() -> Passphrase {
    Passphrase::new("correct horse")
}

pub async fn vault_in(store: &Arc<LostStore>) -> (Arc<Vault>, Kit) {
    let store = Store::from_object_store(Arc::clone(store) as _, "v").expect("a good prefix");
    let options = CreateOptions { kdf: KdfParameters::FLOOR };
    let draft = Vault::draft(store, &passphrase(), options, context()).await.expect("a draft");
    let kit = draft.kit().clone();
    (Arc::new(draft.create().await.expect("a new vault")), kit)
}

impl Scene {
    pub async fn new(catch_up: CatchUp) -> Self {
        let (store, folder) = (LostStore::new(), tempfile::tempdir().expect("a folder"));
        let (vault, kit) = vault_in(&store).await;
        Self {
            vault,
            kit,
            memory: Arc::default(),
            suspensions: None,
            store,
            site: SimulatedSite::new(&["web", "db"]),
            clock: Arc::new(SleptClock::default()),
            heard: Arc::default(),
            room: SpoolRoom::open(folder.path().join("spool"), 1 << 30).expect("room"),
            link: Arc::default(),
            folder,
            catch_up,
            third: None,
            were: BTreeMap::new(),
            seed: 0,
        }
    }

    pub fn replicator(&self) -> Replicator {
        Replicator {
            vault: Arc::clone(&self.vault),
            source: Arc::clone(&self.site) as _,
            protection: Protection {
                group: group(),
                machines: ["web", "db"].map(machine_id).into_iter().chain(self.third.clone()).collect(),
                consistency: Consistency::Crash,
                stall_limit: Duration::from_millis(250),
                doubt: None,
            },
            capsule: Vec::new(),
            state_folder: self.folder.path().to_owned(),
            clock: Arc::clone(&self.clock) as _,
            entropy: Arc::new(SystemEntropy),
            observer: Arc::clone(&self.heard) as _,
            limits: CopyLimits::default(),
            suspensions: self.suspensions.clone(),
            outage: Some(Outage {
                room: Arc::clone(&self.room),
                link: Arc::clone(&self.link),
                catch_up: self.catch_up,
                objective: Duration::from_secs(15),
                memory: Arc::clone(&self.memory),
            }),
        }
    }

    /// The guests write, and a cycle runs.
    pub async fn cycle(&mut self) -> Result<CycleReport, ReplicationError> {
        // By the clock on the wall all points of a test are young: they are made because they are asked for.
        self.cycle_of(Wishes { is_asked: true, ..Wishes::default() }).await
    }

    pub async fn cycle_of(&mut self, wishes: Wishes) -> Result<CycleReport, ReplicationError> {
        let before = self.write_and_remember();
        let result = self.replicator().cycle(wishes, &CancellationToken::new()).await;
        // Times are in milliseconds: no two points are of the same.
        while SystemClock.now() == before {
            tokio::task::yield_now().await;
        }
        result
    }

    /// The guests write. What they are then is what a capture from now on has.
    pub fn write_and_remember(&mut self) -> Timestamp {
        self.write();
        let now = SystemClock.now();
        self.were.insert(now, [self.site.content("web"), self.site.content("db")]);
        now
    }

    /// Another process takes over. It can only if the vault answers.
    pub async fn restart(&mut self) {
        let store = Store::from_object_store(Arc::clone(&self.store) as _, "v").expect("a good prefix");
        let opener = Opener::Kit(Box::new(self.kit.clone()), passphrase());
        let Ok(vault) = Vault::open(store, &opener, context()).await else { return };
        self.vault = Arc::new(vault);
        let limit = self.room.limit_bytes();
        self.room = SpoolRoom::open(self.room.folder().to_owned(), limit).expect("room");
        (self.link, self.memory) = (Arc::default(), Arc::default());
        self.suspensions = self.suspensions.as_ref().map(|_| Arc::default());
    }

    pub fn write(&mut self) {
        self.seed = self.seed.wrapping_add(1);
        let seed = u64::from(self.seed);
        for (machine, chunk) in [("web", seed * 7 % 38), ("db", seed * 11 % 38), ("web", seed * 13 % 38)] {
            let bytes: Vec<u8> = (0..CHUNK_BYTES + 9)
                .map(|index| (index.wrapping_mul(31).wrapping_add(seed * 97) % 251) as u8)
                .collect();
            self.site.write(machine, chunk * CHUNK_BYTES + seed, &bytes);
        }
    }

    pub fn add_machine(&mut self, name: &str) {
        self.site.add_machine(name);
        self.third = Some(machine_id(name));
    }

    /// Some seconds go by.
    pub async fn pass(&self, seconds: u64) {
        self.clock.sleep(Duration::from_secs(seconds)).await;
    }

    pub fn lose(&self) {
        self.store.lose_after(0);
    }

    pub async fn find(&self) {
        self.store.find();
        self.pass(600).await;
    }

    pub fn waiting(&self) -> usize {
        *self.heard.waiting.lock().expect("no panic")
    }

    /// All points of the vault, oldest first, each of them as its disks were.
    pub async fn right_points(&self) -> Vec<Point> {
        let lineage = self.vault.lineage(&group()).await.expect("the vault answers").expect("the group is there");
        let mut points = lineage.points(None, 1_000).await.expect("whole");
        points.reverse();
        for point in &points {
            for (machine, place) in [("web", 0), ("db", 1)] {
                let Some(held) = point.machine(&machine_id(machine)) else { continue };
                let state = self.were.range(..=point.captured(held)).next_back();
                let were = &state.expect("a state before its instant").1[place];
                let is = restored(&self.vault, point.sequence, machine).await;
                assert!(is == *were, "{machine} at point {} of {}", point.sequence, point.captured_at);
            }
        }
        points
    }

    pub fn files(&self) -> usize {
        files_below(self.room.folder())
    }
}

pub fn files_below(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let count = |entry: std::fs::DirEntry| match entry.file_type().expect("a type").is_dir() {
        true => files_below(&entry.path()),
        false => 1,
    };
    entries.map(|entry| count(entry.expect("an entry"))).sum()
}

/// The disk of a machine at a point, restored.
pub async fn restored(vault: &Vault, point: Sequence, machine: &str) -> Vec<u8> {
    let lineage = vault.lineage(&group()).await.expect("the vault answers").expect("the group is there");
    let reader = lineage.open_point(point).await.expect("the point opens");
    let disk = reader.point().machine(&machine_id(machine)).expect("the machine is there").disks[0].disk.clone();
    let disk = reader.disk(&machine_id(machine), &disk).expect("the disk is there");
    let mut bytes = vec![0; usize::try_from(disk.size_bytes()).expect("small")];
    let mut pieces = disk.pieces();
    while let Some(piece) = pieces.next().await {
        let piece = piece.expect("the vault is whole");
        let start = usize::try_from(piece.offset).expect("small");
        bytes[start..start + piece.data.len()].copy_from_slice(&piece.data);
    }
    bytes
}

pub fn waits(result: &Result<CycleReport, ReplicationError>) -> usize {
    match result {
        Err(ReplicationError::Waiting { points, .. }) => *points,
        other => panic!("a point that waits, not {other:?}"),
    }
}

pub fn bases(point: &Point) -> Vec<Basis> {
    point.machines.iter().flat_map(|machine| &machine.disks).map(|disk| disk.basis).collect()
}
