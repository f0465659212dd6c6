//! What the parts of one world share: its time, its store, its draws, what was told to whom, and what phase it is in.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use farshore_core::SeededEntropy;
use farshore_vault::{Context, Store, Workers};
use object_store::PutMode;
use tokio::sync::Notify;

use crate::{
    clock::{ClockPlan, HostClock},
    dice::{Dice, stream_seed},
    faults::{DeleteFault, FaultPlan, GetFault, ListFault, PutFault, STALL_MAX},
    history::History,
    process::{Place, Process},
    store::{Objects, SimStore},
    template::Host,
    time::Time,
    trace::Trace,
};

/// The most operations on the store of one world: more means that something runs in circles.
const OPERATIONS_MAX: u64 = 200_000;

/// The prefix of the vault's keys in the store; in a world whose vault has two addresses that of its metadata.
pub const PREFIX: &str = "v";

/// The prefix of its data there.
pub const DATA_PREFIX: &str = "data";

/// What happened in a world, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Worlds.
    pub worlds: u64,
    /// Operations on the store.
    pub operations: u64,
    /// Faults of operations.
    pub faults: u64,
    /// Deaths of processes.
    pub crashes: u64,
    /// Times that a process stood still.
    pub stalls: u64,
    /// Points that a writer was told are committed.
    pub points: u64,
    /// Attempts that a writer was told are refused.
    pub refusals: u64,
    /// Raises of a generation that a controller was told of.
    pub raises: u64,
    /// Prunes that a pruner was told are committed.
    pub prunes: u64,
    /// Objects that were deleted.
    pub deletions: u64,
    /// Pins that a controller was told of.
    pub pins: u64,
    /// Entries of journals that a controller was told of.
    pub entries: u64,
    /// Points that were restored and compared.
    pub restores: u64,
}

impl Totals {
    /// Adds those of another world.
    pub fn add(&mut self, other: &Self) {
        self.worlds += other.worlds;
        self.operations += other.operations;
        self.faults += other.faults;
        self.crashes += other.crashes;
        self.stalls += other.stalls;
        self.points += other.points;
        self.refusals += other.refusals;
        self.raises += other.raises;
        self.prunes += other.prunes;
        self.deletions += other.deletions;
        self.pins += other.pins;
        self.entries += other.entries;
        self.restores += other.restores;
    }
}

/// What the actors of a world are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Their rounds, while everything goes wrong.
    Chaos,
    /// Nothing goes wrong any more, and nobody does anything: what is there is looked at.
    Looking,
    /// Controllers give each group to the site of this number, or to that of its only writer.
    Handing(usize),
    /// The writers of the site of this number commit a point for each of their groups.
    Writing(usize),
    /// The pruners prune every group.
    Pruning,
    /// Nothing.
    Over,
}

#[derive(Debug)]
struct PhaseState {
    phase: Phase,
    arrived: BTreeSet<String>,
}

/// A world. Clones are the same one.
#[derive(Debug, Clone)]
pub struct World(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    seed: u64,
    plan: FaultPlan,
    clocks: ClockPlan,
    time: Time,
    dice: Dice,
    /// Its vault has two addresses.
    is_paired: bool,
    /// Puts of these numbers find the disk full.
    full: std::ops::Range<u64>,
    /// The host that stands still, and how often, in a world that has a sleeper.
    sleeper: Option<(String, u32)>,
    puts: Mutex<u64>,
    objects: Mutex<Objects>,
    trace: Mutex<Trace>,
    history: Mutex<History>,
    totals: Mutex<Totals>,
    phase: Mutex<PhaseState>,
    changed: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// A world that begins with these objects in its store.
    pub fn new(seed: u64, plan: FaultPlan, clocks: ClockPlan, objects: Objects) -> Self {
        Self::at(Time::default(), seed, plan, clocks, objects)
    }

    /// The same, at a time of its own.
    pub fn at(time: Time, seed: u64, plan: FaultPlan, clocks: ClockPlan, objects: Objects) -> Self {
        let dice = Dice::new(seed, "faults");
        let full = match plan.is_full_for_a_while {
            true => {
                let first = dice.below(100);
                first..first + dice.between(5, 60)
            }
            false => 0..0,
        };
        let sleeper = plan.has_sleeper.then(|| {
            let mut sleepers: Vec<Host> = (0..3).map(Host::Replicator).collect();
            sleepers.extend([Host::Pruner(0), Host::Pruner(1), Host::Recoverer]);
            (dice.pick(&sleepers).name(), *dice.pick(&[100, 30, 10]))
        });
        Self(Arc::new(Shared {
            seed,
            plan,
            clocks,
            time,
            dice,
            is_paired: objects.all().keys().any(|key| key.starts_with(&format!("{DATA_PREFIX}/"))),
            full,
            sleeper,
            puts: Mutex::default(),
            objects: Mutex::new(objects),
            trace: Mutex::default(),
            history: Mutex::default(),
            totals: Mutex::new(Totals { worlds: 1, ..Totals::default() }),
            phase: Mutex::new(PhaseState { phase: Phase::Chaos, arrived: BTreeSet::new() }),
            changed: Notify::new(),
        }))
    }

    /// Its seed.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// Its plan of faults.
    pub fn plan(&self) -> &FaultPlan {
        &self.0.plan
    }

    /// Whether its writers commit many points of one group, whose machines have many chunks.
    pub fn is_busy(&self) -> bool {
        self.dice("busy").permille(120)
    }

    /// How long its actors wait between two rounds, about, in seconds.
    pub fn pace_seconds(&self) -> u64 {
        *self.dice("pace").pick(&[60, 3600, 86_400])
    }

    /// Its time.
    pub fn time(&self) -> &Time {
        &self.0.time
    }

    /// What is in its store. Not to be held over an await.
    pub fn objects(&self) -> MutexGuard<'_, Objects> {
        lock(&self.0.objects)
    }

    /// What happened at its store. Not to be held over an await.
    pub fn trace(&self) -> MutexGuard<'_, Trace> {
        lock(&self.0.trace)
    }

    /// What was told to whom. Not to be held over an await.
    pub fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.0.history)
    }

    /// What happened so far, in numbers. Not to be held over an await.
    pub fn totals(&self) -> MutexGuard<'_, Totals> {
        lock(&self.0.totals)
    }

    /// Draws of this world for a purpose of their own.
    pub fn dice(&self, purpose: &str) -> Dice {
        Dice::new(self.0.seed, purpose)
    }

    /// What a process that starts needs from its host: a clock as wrong as the host's, randomness of its own. To be made
    /// once for each process: another one would repeat the randomness.
    pub fn context(&self, host: &str, process: &Process) -> Context {
        let source = if self.0.plan.repeats_randomness { host } else { process.name() };
        let entropy = SeededEntropy::new(stream_seed(self.0.seed, &format!("entropy {source}")));
        let clock = HostClock::new(&self.0.time, self.0.clocks, self.dice(&format!("clock {host}")));
        Context { clock, entropy: Arc::new(entropy), workers: Workers::inline() }
    }

    /// The store as this process reaches it.
    ///
    /// # Panics
    /// Never: the prefix is a good one.
    pub fn store(&self, process: &Arc<Process>) -> Store {
        let at = |prefix| Store::from_object_store(SimStore::new(self, process), prefix).expect("a good prefix");
        if self.0.is_paired { at(PREFIX).with_data(at(DATA_PREFIX)) } else { at(PREFIX) }
    }

    /// The address of the data alone, if the vault has two.
    ///
    /// # Panics
    /// Never: the prefix is a good one.
    pub fn data_alone(&self, process: &Arc<Process>) -> Option<Store> {
        let at = |prefix| Store::from_object_store(SimStore::new(self, process), prefix).expect("a good prefix");
        self.0.is_paired.then(|| at(DATA_PREFIX))
    }

    /// Whether its vault has two addresses.
    pub fn is_paired(&self) -> bool {
        self.0.is_paired
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        lock(&self.0.phase).phase
    }

    /// Begins a phase; nobody has arrived at its end yet.
    pub fn begin_phase(&self, phase: Phase) {
        *lock(&self.0.phase) = PhaseState { phase, arrived: BTreeSet::new() };
        self.trace().add(self.0.time.now(), "world", "phase", &format!("{phase:?}"), "");
        self.0.changed.notify_waiters();
    }

    /// Says that this actor has done its part of the phase, and waits for the next phase.
    pub async fn arrive(&self, actor: &str, phase: Phase) {
        if self.phase() == phase {
            lock(&self.0.phase).arrived.insert(actor.to_owned());
            self.0.changed.notify_waiters();
        }
        self.wait_until(|state| state.phase != phase).await;
    }

    /// Whether this actor has done its part of the phase.
    pub fn has_arrived(&self, actor: &str) -> bool {
        lock(&self.0.phase).arrived.contains(actor)
    }

    /// Waits until so many actors have done their part of the phase.
    pub async fn wait_for_arrivals(&self, count: usize) {
        self.wait_until(|state| state.arrived.len() >= count).await;
    }

    async fn wait_until(&self, condition: impl Fn(&PhaseState) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            if condition(&lock(&self.0.phase)) {
                return;
            }
            changed.await;
        }
    }

    /// Whether things go wrong.
    pub fn has_faults(&self) -> bool {
        self.phase() == Phase::Chaos
    }

    /// Counts an operation; of a world that runs in circles, none ever ends.
    pub async fn count_operation(&self) {
        let total = {
            let mut totals = self.totals();
            totals.operations += 1;
            totals.operations
        };
        if total > OPERATIONS_MAX {
            std::future::pending::<()>().await;
        }
    }

    fn count_fault<T>(&self, fault: Option<T>) -> Option<T> {
        self.totals().faults += u64::from(fault.is_some());
        fault
    }

    /// A number below `end`.
    pub fn draw_below(&self, end: u64) -> u64 {
        self.0.dice.below(end)
    }

    /// A time up to this.
    pub fn draw_up_to(&self, most: Duration) -> Duration {
        Duration::from_micros(self.0.dice.below(u64::try_from(most.as_micros()).unwrap_or(u64::MAX)))
    }

    /// How long a request or a reply travels: mostly some milliseconds, at times seconds.
    pub fn draw_latency(&self) -> Duration {
        let most = if self.0.dice.permille(20) { Duration::from_secs(5) } else { Duration::from_millis(40) };
        Duration::from_micros(100) + self.draw_up_to(most)
    }

    /// Whether the process dies at this operation, and where within it.
    pub fn draw_crash(&self) -> Option<Place> {
        let dies = self.has_faults() && self.0.dice.permille(self.0.plan.crash_permille);
        dies.then(|| *self.0.dice.pick(&Place::ALL))
    }

    /// How long the process of this name stands still now: moments, hours, or days.
    pub fn draw_stall(&self, process: &str) -> Option<Duration> {
        let sleeps = match &self.0.sleeper {
            Some((host, permille)) if process.split('.').next() == Some(host) => *permille,
            _ => 0,
        };
        let stalls = self.has_faults() && self.0.dice.permille(self.0.plan.stall_permille.max(sleeps));
        if !stalls {
            return None;
        }
        self.totals().stalls += 1;
        let most = *self.0.dice.pick(&[Duration::from_secs(60), Duration::from_secs(7200), STALL_MAX, STALL_MAX]);
        Some(self.draw_up_to(most))
    }

    /// Whether what a process has sent ends with it.
    pub fn draw_connection_ends(&self) -> bool {
        self.0.dice.permille(500)
    }

    /// What goes wrong with a put that comes now.
    pub fn draw_put_fault(&self, mode: &PutMode) -> Option<PutFault> {
        if !self.has_faults() {
            return None;
        }
        let number = {
            let mut puts = lock(&self.0.puts);
            *puts += 1;
            *puts - 1
        };
        let drawn = self.0.plan.put_fault(&self.0.dice);
        let fault = if self.0.full.contains(&number) { Some(PutFault::Refused) } else { drawn };
        // Who writes without a condition is never told that one failed.
        let fault = match (fault, mode) {
            (Some(PutFault::OwnConflict | PutFault::FalseConflict | PutFault::OwnPrecondition), PutMode::Overwrite) => {
                Some(PutFault::Reset)
            }
            (fault, _) => fault,
        };
        self.count_fault(fault)
    }

    /// What goes wrong with a get that comes now.
    pub fn draw_get_fault(&self) -> Option<GetFault> {
        if self.has_faults() { self.count_fault(self.0.plan.get_fault(&self.0.dice)) } else { None }
    }

    /// What goes wrong with a listing that comes now.
    pub fn draw_list_fault(&self) -> Option<ListFault> {
        if self.has_faults() { self.count_fault(self.0.plan.list_fault(&self.0.dice)) } else { None }
    }

    /// What goes wrong with a delete that comes now.
    pub fn draw_delete_fault(&self) -> Option<DeleteFault> {
        if self.has_faults() { self.count_fault(self.0.plan.delete_fault(&self.0.dice)) } else { None }
    }
}
