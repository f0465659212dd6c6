//! What the loop over many groups promises: no more cycles at once than may be, a turn for every group, and no group that keeps
//! the others from theirs.

#[expect(dead_code, reason = "the tests of one cycle use the rest")]
mod support;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use farshore_core::{
    CHUNK_BYTES, Clock as _, Code, Coded as _, Consistency, GroupName, Passphrase, SiteName, SystemClock, SystemEntropy,
};
use farshore_replication::{
    CopyLimits, CycleEvent, CycleObserver, CycleReport, Objective, Priority, Protection, ReplicationError, Replicator,
    Schedule, Turns, WatchObserver, Watched, watch,
};
use farshore_vault::{Address, Context, CreateOptions, KdfParameters, Store, StoreOptions, Vault, Workers};
use support::{SimulatedSite, machine_id};
use tokio_util::sync::CancellationToken;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn production() -> SiteName {
    SiteName::new("production").expect("a name")
}

fn group(name: &str) -> GroupName {
    GroupName::new(name).expect("a name")
}

async fn vault(name: &str) -> Arc<Vault> {
    let address: Address = format!("memory:watch-{name}").parse().expect("an address");
    let store = Store::open(&address, &StoreOptions::default()).expect("a store");
    let options = CreateOptions { kdf: KdfParameters::FLOOR };
    let context =
        Context { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy), workers: Workers::inline() };
    let draft = Vault::draft(store, &Passphrase::new("correct horse"), options, context).await.expect("a draft");
    Arc::new(draft.create().await.expect("a new vault"))
}

/// How many captures are open at once.
#[derive(Default)]
struct Open {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl CycleObserver for Open {
    fn event(&self, event: CycleEvent) {
        match event {
            CycleEvent::Captured(_) => {
                let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
                self.most.fetch_max(now, Ordering::SeqCst);
            }
            CycleEvent::Committed(_) => {
                self.now.fetch_sub(1, Ordering::SeqCst);
            }
            _ => {}
        }
    }
}

/// What is told of a cycle that failed: the group, the error, how many failed in a row, the pause.
type Failure = (GroupName, Code, u32, Option<Duration>);

/// Stops the loop when what is waited for has happened.
struct Told<F> {
    stop: CancellationToken,
    committed: Mutex<BTreeMap<GroupName, usize>>,
    failed: Mutex<Vec<Failure>>,
    is_enough: F,
}

impl<F: Fn(&BTreeMap<GroupName, usize>, usize) -> bool + Send + Sync> Told<F> {
    fn new(stop: &CancellationToken, is_enough: F) -> Self {
        Self { stop: stop.clone(), committed: Mutex::default(), failed: Mutex::default(), is_enough }
    }

    fn look(&self) {
        let failed = self.failed.lock().expect("no panic").len();
        if (self.is_enough)(&self.committed.lock().expect("no panic"), failed) {
            self.stop.cancel();
        }
    }
}

impl<F: Fn(&BTreeMap<GroupName, usize>, usize) -> bool + Send + Sync> WatchObserver for Told<F> {
    fn committed(&self, report: &CycleReport, _: Duration) {
        *self.committed.lock().expect("no panic").entry(report.group.clone()).or_default() += 1;
        self.look();
    }

    fn failed(&self, group: &GroupName, error: &ReplicationError, failures: u32, pause: Option<Duration>) {
        self.failed.lock().expect("no panic").push((group.clone(), error.code(), failures, pause));
        self.look();
    }
}

fn watched(vault: &Arc<Vault>, site: &Arc<SimulatedSite>, name: &str, open: &Arc<Open>, folder: &Path) -> Watched {
    let replicator = Replicator {
        vault: Arc::clone(vault),
        source: Arc::clone(site) as _,
        protection: Protection {
            group: group(name),
            machines: vec![machine_id(name)],
            consistency: Consistency::Crash,
            stall_limit: Duration::from_millis(250),
        },
        capsule: Vec::new(),
        state_folder: folder.to_owned(),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        observer: Arc::clone(open) as _,
        limits: CopyLimits::default(),
    };
    let objective = Objective { rpo: Duration::from_millis(50) };
    let turns = Turns { site: production(), objective, priority: Priority::Normal, newest_age: Some(Duration::ZERO) };
    Watched { replicator, turns }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_cycles_run_at_once_and_every_group_has_its_turns() {
    for limit in [1, 2] {
        let (folder, vault) = (tempfile::tempdir().expect("a folder"), vault(&format!("limit-{limit}")).await);
        let (open, stop) = (Arc::new(Open::default()), CancellationToken::new());
        let mut groups = Vec::new();
        for name in NAMES {
            let site = SimulatedSite::new(&[name]);
            site.write(name, 0, &vec![7; usize::try_from(CHUNK_BYTES).expect("small")]);
            groups.push(watched(&vault, &site, name, &open, folder.path()));
        }
        let told = Told::new(&stop, |committed, _| committed.len() == 4 && committed.values().all(|count| *count > 2));
        let failed = watch(groups, Schedule::new(limit), &SystemClock, &told, &stop).await;
        assert_eq!(failed, []);
        assert_eq!(told.failed.lock().expect("no panic").len(), 0);
        assert_eq!(open.most.load(Ordering::SeqCst), limit, "as many at once as may be");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_cannot_be_helped_is_told_once_and_the_others_go_on() {
    let (folder, vault) = (tempfile::tempdir().expect("a folder"), vault("final").await);
    let (open, stop) = (Arc::new(Open::default()), CancellationToken::new());
    let lineage = vault.create_lineage(&group("a"), &production()).await.expect("a lineage");
    let head = lineage.head().await.expect("a head");
    let elsewhere = SiteName::new("elsewhere").expect("a name");
    lineage.raise_generation(&elsewhere, "it was failed over", &head).await.expect("raised");
    let groups: Vec<_> = ["a", "b"]
        .map(|name| watched(&vault, &SimulatedSite::new(&[name]), name, &open, folder.path()))
        .into_iter()
        .collect();
    let told = Told::new(&stop, |committed, _| committed.get(&group("b")).is_some_and(|count| *count > 3));
    let failed = watch(groups, Schedule::new(1), &SystemClock, &told, &stop).await;
    assert_eq!(failed, [group("a")]);
    let told_failures = told.failed.lock().expect("no panic").clone();
    assert!(
        matches!(&told_failures[..], [(name, _, 1, None)] if *name == group("a")),
        "once, and as one that is not tried again: {told_failures:?}"
    );

    // Alone it ends the loop.
    let alone = vec![watched(&vault, &SimulatedSite::new(&["a"]), "a", &open, folder.path())];
    let told = Told::new(&stop, |_, _| false);
    assert_eq!(watch(alone, Schedule::new(1), &SystemClock, &told, &CancellationToken::new()).await, [group("a")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_fails_is_tried_again() {
    let (folder, vault) = (tempfile::tempdir().expect("a folder"), vault("again").await);
    let (open, stop) = (Arc::new(Open::default()), CancellationToken::new());
    // The site does not have its machine.
    let groups = vec![watched(&vault, &SimulatedSite::new(&["b"]), "a", &open, folder.path())];
    let told = Told::new(&stop, |_, failed| failed > 1);
    assert_eq!(watch(groups, Schedule::new(1), &SystemClock, &told, &stop).await, []);
    let failures: Vec<_> =
        told.failed.lock().expect("no panic").iter().map(|(_, _, failures, pause)| (*failures, *pause)).collect();
    assert_eq!(failures, [(1, Some(Duration::from_secs(1))), (2, Some(Duration::from_secs(1)))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_fail_or_wait_for_their_platform_do_not_keep_the_others_from_their_turns() {
    let (folder, vault) = (tempfile::tempdir().expect("a folder"), vault("beside").await);
    let (open, stop) = (Arc::new(Open::default()), CancellationToken::new());
    let (slow, quick) = (SimulatedSite::new(&["a"]), SimulatedSite::new(&["b"]));
    // A minute, which nobody waits for.
    slow.wait(["at 1 %".to_owned()]);
    let groups = vec![
        watched(&vault, &slow, "a", &open, folder.path()),
        watched(&vault, &SimulatedSite::new(&["x"]), "c", &open, folder.path()),
        watched(&vault, &quick, "b", &open, folder.path()),
    ];
    let told =
        Told::new(&stop, |committed, failed| failed > 1 && committed.get(&group("b")).is_some_and(|count| *count > 2));
    assert_eq!(watch(groups, Schedule::new(4), &SystemClock, &told, &stop).await, []);
    assert_eq!(told.committed.lock().expect("no panic").keys().collect::<Vec<_>>(), [&group("b")]);
    assert!(told.failed.lock().expect("no panic").iter().all(|(name, ..)| *name == group("c")));
    assert_eq!((slow.captures(), quick.captures()), (0, 0), "what was begun is released");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loop_ends_at_once_while_all_groups_sleep() {
    let (folder, vault) = (tempfile::tempdir().expect("a folder"), vault("sleeps").await);
    let (open, stop) = (Arc::new(Open::default()), CancellationToken::new());
    let mut watched = watched(&vault, &SimulatedSite::new(&["a"]), "a", &open, folder.path());
    watched.turns.objective.rpo = Duration::from_secs(3_600);
    let committed = CancellationToken::new();
    let told = Told::new(&committed, |committed, _| !committed.is_empty());
    let operator = async {
        committed.cancelled().await;
        SystemClock.sleep(Duration::from_millis(50)).await;
        stop.cancel();
        SystemClock.sleep(Duration::from_secs(60)).await;
    };
    tokio::select! {
        failed = watch(vec![watched], Schedule::new(1), &SystemClock, &told, &stop) => assert_eq!(failed, []),
        () = operator => panic!("it sleeps on for an hour"),
    }
}
