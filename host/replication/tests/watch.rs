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
    CHUNK_BYTES, Clock as _, Code, Coded as _, Consistency, GroupName, Passphrase, PointLabel, SiteName, SystemClock,
    SystemEntropy, Timestamp, Timetable, Zone,
};
use farshore_replication::{
    ApplicationPoints, Asked, CopyLimits, CycleEvent, CycleObserver, CycleReport, CycleResult, Objective, Order,
    Priority, Protection, ReplicationError, Replicator, Schedule, Stop, Turns, WatchObserver, Watched, Wishes, orders,
    watch,
};
use farshore_vault::{Address, Context, CreateOptions, KdfParameters, Store, StoreOptions, Vault, Workers};
use support::{SimulatedSite, machine_id};
use tokio::sync::{mpsc, oneshot};
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
    stopped: Mutex<Vec<GroupName>>,
    application_failed: Mutex<Vec<(GroupName, Code, Duration)>>,
    is_enough: F,
}

impl<F: Fn(&BTreeMap<GroupName, usize>, usize) -> bool + Send + Sync> Told<F> {
    fn new(stop: &CancellationToken, is_enough: F) -> Self {
        let (committed, failed, stopped, application_failed) = Default::default();
        Self { stop: stop.clone(), committed, failed, stopped, application_failed, is_enough }
    }

    fn look(&self) {
        let failed = self.failed.lock().expect("no panic").len();
        if (self.is_enough)(&self.committed.lock().expect("no panic"), failed) {
            self.stop.cancel();
        }
    }
}

impl<F: Fn(&BTreeMap<GroupName, usize>, usize) -> bool + Send + Sync> WatchObserver for Told<F> {
    fn begun(&self, _: &GroupName, _: Duration) {}

    fn committed(&self, report: &CycleReport, _: Duration, _: Option<Duration>) {
        *self.committed.lock().expect("no panic").entry(report.group.clone()).or_default() += 1;
        self.look();
    }

    fn failed(&self, group: &GroupName, error: &ReplicationError, failures: u32, pause: Option<Duration>) {
        self.failed.lock().expect("no panic").push((group.clone(), error.code(), failures, pause));
        self.look();
    }

    fn application_failed(&self, group: &GroupName, error: &ReplicationError, pause: Duration) {
        self.application_failed.lock().expect("no panic").push((group.clone(), error.code(), pause));
    }

    fn waits(&self, group: &GroupName, error: &ReplicationError, pause: Option<Duration>) {
        self.failed.lock().expect("no panic").push((group.clone(), error.code(), 0, pause));
        self.look();
    }

    fn rests(&self, _: &GroupName, _: Option<Duration>) {}

    fn stopped(&self, group: &GroupName) {
        self.stopped.lock().expect("no panic").push(group.clone());
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
            doubt: None,
        },
        capsule: Vec::new(),
        state_folder: folder.to_owned(),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        observer: Arc::clone(open) as _,
        limits: CopyLimits::default(),
        outage: None,
        suspensions: None,
    };
    let objective = Objective { rpo: Duration::from_millis(50) };
    let turns = Turns { site: production(), objective, priority: Priority::Normal, newest_age: Some(Duration::ZERO) };
    Watched { replicator, turns, application: None, blackout: Timetable::default() }
}

/// Replicates these groups and no others.
async fn watch_all(
    groups: Vec<Watched>,
    limit: usize,
    observer: &dyn WatchObserver,
    stop: &CancellationToken,
) -> Vec<GroupName> {
    let (sender, orders) = orders();
    for watched in groups {
        sender.send(Order::Protect(Box::new(watched))).await.expect("there is room");
    }
    drop(sender);
    watch(orders, Schedule::new(limit), &SystemClock, observer, &Stop::at_once(stop)).await
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
        let failed = watch_all(groups, limit, &told, &stop).await;
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
    let failed = watch_all(groups, 1, &told, &stop).await;
    assert_eq!(failed, [group("a")]);
    let told_failures = told.failed.lock().expect("no panic").clone();
    assert!(
        matches!(&told_failures[..], [(name, _, 1, Some(pause))] if *name == group("a") && pause.as_secs() == 300),
        "once, and as one that is looked at later: {told_failures:?}"
    );

    // Alone it ends the loop.
    let alone = vec![watched(&vault, &SimulatedSite::new(&["a"]), "a", &open, folder.path())];
    let told = Told::new(&stop, |_, _| false);
    assert_eq!(watch_all(alone, 1, &told, &CancellationToken::new()).await, [group("a")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_fails_is_tried_again() {
    let (folder, vault) = (tempfile::tempdir().expect("a folder"), vault("again").await);
    let (open, stop) = (Arc::new(Open::default()), CancellationToken::new());
    // The site does not have its machine.
    let groups = vec![watched(&vault, &SimulatedSite::new(&["b"]), "a", &open, folder.path())];
    let told = Told::new(&stop, |_, failed| failed > 1);
    assert_eq!(watch_all(groups, 1, &told, &stop).await, []);
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
    assert_eq!(watch_all(groups, 4, &told, &stop).await, []);
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
        failed = watch_all(vec![watched], 1, &told, &stop) => assert_eq!(failed, []),
        () = operator => panic!("it sleeps on for an hour"),
    }
}

/// What a cycle of this group, which is asked for now, came to; none if nobody says.
async fn ask(sender: &mpsc::Sender<Order>, name: &str, label: Option<&str>) -> Option<Arc<CycleResult>> {
    let (answer, answered) = oneshot::channel();
    let label = label.map(|label| PointLabel::new(label).expect("a label"));
    let wishes = Wishes { label, ..Wishes::default() };
    sender.send(Order::Now(group(name), Asked { wishes, answer })).await.ok()?;
    answered.await.ok()
}

/// The label of the point that it came to.
async fn ask_for_point(sender: &mpsc::Sender<Order>, name: &str, label: Option<&str>) -> Option<String> {
    let result = ask(sender, name, label).await.expect("an answer");
    result.as_ref().as_ref().expect("a point").point.label.as_ref().map(ToString::to_string)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_is_asked_for_comes_at_once_with_its_label_and_groups_come_and_go() {
    let (folder, vault) = (tempfile::tempdir().expect("a folder"), vault("orders").await);
    let (open, stop) = (Arc::new(Open::default()), CancellationToken::new());
    let sites = ["a", "b"].map(|name| SimulatedSite::new(&[name]));
    let slow = |site, name| {
        let mut watched = watched(&vault, site, name, &open, folder.path());
        watched.turns.objective.rpo = Duration::from_secs(3_600);
        Order::Protect(Box::new(watched))
    };
    let (sender, orders) = orders();
    let told = Told::new(&CancellationToken::new(), |_, _| false);
    let operator = async {
        sender.send(slow(&sites[0], "a")).await.expect("it runs");
        // The first cycle is due at once, the next in an hour.
        let together = tokio::join!(
            ask_for_point(&sender, "a", Some("before the upgrade")),
            ask_for_point(&sender, "a", None),
            ask_for_point(&sender, "a", Some("after it")),
        );
        let label = |text: &str| Some(text.to_owned());
        assert_eq!(together.0, label("before the upgrade"));
        assert!(together.1 == label("before the upgrade") || together.1.is_none(), "{together:?}");
        assert_eq!(together.2, label("after it"));
        // Nobody answers for a group that is not there, or that is not there any more.
        assert!(ask(&sender, "b", None).await.is_none());
        sender.send(slow(&sites[1], "b")).await.expect("it runs");
        assert_eq!(ask_for_point(&sender, "b", None).await, None);
        sites[1].wait(["at 1 %".to_owned()]);
        let forget = async {
            while sites[1].captures() == 0 {
                SystemClock.sleep(Duration::from_millis(5)).await;
            }
            sender.send(Order::Forget(group("b"))).await.expect("it runs");
        };
        let ((), stopped) = tokio::join!(forget, ask(&sender, "b", None));
        let stopped = stopped.expect("an answer");
        assert!(
            matches!(&*stopped, Err(ReplicationError::Stopped { .. })),
            "whoever waits for it hears that it was stopped"
        );
        assert_eq!(told.stopped.lock().expect("no panic")[..], [group("b")]);
        assert_eq!(sites[1].captures(), 0, "its capture is released");
        assert!(ask(&sender, "b", None).await.is_none());
        stop.cancel();
    };
    let stop_at_once = Stop::at_once(&stop);
    let (left, ()) = tokio::join!(watch(orders, Schedule::new(4), &SystemClock, &told, &stop_at_once), operator);
    assert_eq!(left, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_that_runs_may_end_before_the_loop_does() {
    let (folder, vault) = (tempfile::tempdir().expect("a folder"), vault("drain").await);
    let (open, stop) = (Arc::new(Open::default()), Stop::at_once(&CancellationToken::new()));
    let stop = Stop { end_now: CancellationToken::new(), ..stop };
    let site = SimulatedSite::new(&["a"]);
    site.wait_each(Duration::from_millis(200), ["at 1 %".to_owned()]);
    let (sender, orders) = orders();
    sender.send(Order::Protect(Box::new(watched(&vault, &site, "a", &open, folder.path())))).await.expect("room");
    let told = Told::new(&CancellationToken::new(), |_, _| false);
    let operator = async {
        while site.captures() == 0 {
            SystemClock.sleep(Duration::from_millis(1)).await;
        }
        stop.begin_no_more.cancel();
        // Whoever asks now is not kept waiting.
        ask(&sender, "a", None).await
    };
    let (left, answer) = tokio::join!(watch(orders, Schedule::new(4), &SystemClock, &told, &stop), operator);
    assert!(left.is_empty() && answer.is_none());
    let committed = told.committed.lock().expect("no panic").get(&group("a")).copied();
    assert_eq!(committed, Some(1), "the cycle that ran became a point, and no other began");
}

#[tokio::test(flavor = "multi_thread")]
async fn application_consistent_points_come_on_their_own_schedule_and_a_guest_that_does_not_rest_costs_no_point() {
    let (folder, vault) = (tempfile::tempdir().expect("a folder"), vault("application").await);
    let (open, stop) = (Arc::new(Open::default()), CancellationToken::new());
    let site = SimulatedSite::new(&["a"]);
    let mut watched = watched(&vault, &site, "a", &open, folder.path());
    // One is due after every second or third cycle of fifty milliseconds.
    let every = Duration::from_millis(120);
    watched.application = Some(ApplicationPoints { every, newest_age: None });
    let told = Told::new(&stop, |committed, _| committed.values().any(|count| *count > 7));
    assert_eq!(watch_all(vec![watched], 1, &told, &stop).await, []);
    let asked = site.asked();
    assert_eq!(asked.first(), Some(&Consistency::Application), "there was none");
    let applications = asked.iter().filter(|consistency| **consistency == Consistency::Application).count();
    assert!((2..asked.len()).contains(&applications), "some are, and some are not: {asked:?}");

    // From now on its file systems do not come to rest.
    site.never_rests();
    let (open, stop) = (Arc::new(Open::default()), CancellationToken::new());
    let mut watched = self::watched(&vault, &site, "a", &open, folder.path());
    watched.application = Some(ApplicationPoints { every, newest_age: Some(every) });
    let told = Told::new(&stop, |committed, _| committed.values().any(|count| *count > 4));
    assert_eq!(watch_all(vec![watched], 1, &told, &stop).await, []);
    let failed = told.application_failed.lock().expect("no panic").clone();
    assert!(
        !failed.is_empty() && failed.iter().all(|(name, _, pause)| *name == group("a") && *pause == every),
        "{failed:?}"
    );
    assert_eq!(told.failed.lock().expect("no panic").len(), 0, "no cycle counts as failed");

    // A platform that does something else without a word of failure is not believed either.
    site.rests_not_and_says_nothing();
    let (open, stop) = (Arc::new(Open::default()), CancellationToken::new());
    let mut watched = self::watched(&vault, &site, "a", &open, folder.path());
    watched.application = Some(ApplicationPoints { every, newest_age: Some(every) });
    let told = Told::new(&stop, |committed, _| committed.values().any(|count| *count > 4));
    assert_eq!(watch_all(vec![watched], 1, &told, &stop).await, []);
    let failed = told.application_failed.lock().expect("no panic").clone();
    let committed = told.committed.lock().expect("no panic").values().sum::<usize>();
    assert!(failed.iter().all(|(_, code, _)| *code == Code::new(4008)), "{failed:?}");
    assert!((1..committed).contains(&failed.len()), "{} of {committed}", failed.len());
}

/// A clock whose civil time is put to where a test wants it, and whose other hand goes as always.
struct PutClock(std::sync::atomic::AtomicI64);

#[async_trait::async_trait]
impl farshore_core::Clock for PutClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_milliseconds(self.0.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }

    async fn sleep(&self, duration: Duration) {
        // A minute of looking at the wall is not waited for here.
        SystemClock.sleep(duration.min(Duration::from_millis(20))).await;
    }
}

#[tokio::test]
async fn in_a_blackout_only_cycles_that_somebody_asks_for_begin() {
    let folder = tempfile::tempdir().expect("a folder");
    let (vault, site) = (vault("blackout").await, SimulatedSite::new(&["a", "b"]));
    let open = Arc::new(Open::default());
    // 1970 began on a Thursday at midnight.
    let clock = PutClock(59_000.into());
    let nights = "thu 00:00-00:01".parse().expect("hours");
    let dark = Watched {
        blackout: Timetable::new(Zone::utc(), vec![(nights, ())]),
        ..watched(&vault, &site, "a", &open, folder.path())
    };
    let bright = watched(&vault, &site, "b", &open, folder.path());
    let (sender, orders) = orders();
    for watched in [dark, bright] {
        sender.send(Order::Protect(Box::new(watched))).await.expect("there is room");
    }
    let stop = CancellationToken::new();
    let told = Told::new(&stop, |_, _| false);
    let count = |name: &str| told.committed.lock().expect("no panic").get(&group(name)).copied().unwrap_or_default();
    let both = Stop::at_once(&stop);
    let looping = watch(orders, Schedule::new(2), &clock, &told, &both);
    let story = async {
        while count("b") < 5 {
            SystemClock.sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(count("a"), 0, "it is in its blackout");
        let (answer, answered) = tokio::sync::oneshot::channel();
        let asked = Asked { wishes: Wishes::default(), answer };
        sender.send(Order::Now(group("a"), asked)).await.expect("there is room");
        assert!(answered.await.expect("an answer").is_ok());
        let before = count("b");
        while count("b") < before + 5 {
            SystemClock.sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(count("a"), 1, "one was asked for");
        // The wall shows a minute later.
        clock.0.store(60_000, Ordering::SeqCst);
        while count("a") < 4 {
            SystemClock.sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
    };
    tokio::join!(looping, story);
}
