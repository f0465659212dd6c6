//! What a cycle promises: committed points are restorable byte for byte, whatever is stopped at whatever moment; nothing is
//! left at the source after the next cycle; the next cycle is a delta where tracking survived and a comparison where it
//! did not; what cannot be true harms nothing.

#[expect(dead_code, reason = "the tests of the loop use the rest")]
mod support;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use farshore_core::{
    Basis, CHUNK_BYTES, Clock as _, Code, Coded as _, Consistency, Entropy as _, Passphrase, SeededEntropy, Sequence,
    SiteName, SystemClock,
};
use farshore_replication::{
    CopyLimits, CycleEvent, CycleObserver, CycleReport, Doubt, Protection, ReplicationError, Replicator, Wishes,
};
use farshore_vault::{Address, Context, CreateOptions, KdfParameters, Store, StoreOptions, Vault, Workers};
use support::{
    DISK_BYTES, Lie, SimulatedSite, SleptClock, machine_id,
    scene::{group, restored},
};
use tokio_util::sync::CancellationToken;

struct Silent;

impl CycleObserver for Silent {
    fn event(&self, _: CycleEvent) {}
}

/// A vault in memory. Every test has its own.
async fn vault(name: &str) -> Arc<Vault> {
    vault_at(&format!("memory:{name}")).await
}

async fn vault_at(address: &str) -> Arc<Vault> {
    let address: Address = address.parse().expect("an address");
    let store = Store::open(&address, &StoreOptions::default()).expect("a store");
    let options = CreateOptions { kdf: KdfParameters::FLOOR };
    let context = Context {
        clock: Arc::new(SystemClock),
        entropy: Arc::new(farshore_core::SystemEntropy),
        workers: Workers::inline(),
    };
    let draft = Vault::draft(store, &Passphrase::new("correct horse"), options, context).await.expect("a draft");
    Arc::new(draft.create().await.expect("a new vault"))
}

fn replicator(vault: &Arc<Vault>, site: &Arc<SimulatedSite>, machines: &[&str], folder: &Path) -> Replicator {
    Replicator {
        vault: Arc::clone(vault),
        source: Arc::clone(site) as _,
        protection: Protection {
            group: group(),
            machines: machines.iter().map(|name| machine_id(name)).collect(),
            consistency: Consistency::Crash,
            stall_limit: Duration::from_millis(250),
            doubt: None,
        },
        capsule: Vec::new(),
        state_folder: folder.to_owned(),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SeededEntropy::new(folder.as_os_str().len() as u64)),
        observer: Arc::new(Silent),
        limits: CopyLimits::default(),
        outage: None,
        suspensions: None,
    }
}

fn noise(seed: u8, length: u64) -> Vec<u8> {
    (0..length).map(|index| (index.wrapping_mul(31).wrapping_add(u64::from(seed) * 97) % 251) as u8).collect()
}

/// What one machine has is not stored again for another, by a process that knows it from the index in the state folder.
#[tokio::test]
async fn what_another_machine_has_is_not_stored_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (vault, site) = (vault("elsewhere").await, SimulatedSite::new(&["web", "db"]));
    let replicator = replicator(&vault, &site, &["web", "db"], folder.path());
    let stop = CancellationToken::new();
    let content: Vec<u8> = (0..8).flat_map(|seed| noise(seed, CHUNK_BYTES)).collect();
    site.write("web", 0, &content);
    replicator.cycle(Wishes::default(), &stop).await.expect("a cycle");
    site.write("db", 4 * CHUNK_BYTES, &content);
    let report = replicator.cycle(Wishes::default(), &stop).await.expect("a cycle");
    let stats = report.point.stats;
    assert_eq!((stats.bytes_changed, stats.bytes_deduplicated), (8 * CHUNK_BYTES, 8 * CHUNK_BYTES));
    assert_eq!(stats.frames_written, 0);
    assert!(restored(&vault, report.point.sequence, "db").await == site.content("db"));
    let lineage = vault.lineage_id(&group());
    let file = folder.path().join("index").join(vault.id().to_string()).join(format!("{lineage}.redb"));
    assert!(file.is_file(), "{}", file.display());
}

#[tokio::test]
async fn points_are_what_the_disks_were_and_cost_what_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (vault, site) = (vault("points").await, SimulatedSite::new(&["web", "db"]));
    let replicator = replicator(&vault, &site, &["web", "db"], folder.path());
    let stop = CancellationToken::new();
    let mut expected = Vec::new();
    site.write("web", 5, &noise(1, 10 * CHUNK_BYTES));
    for round in 0..5u8 {
        site.write("db", u64::from(round) * 3 * CHUNK_BYTES, &noise(round, CHUNK_BYTES + 7));
        let report = replicator.cycle(Wishes::default(), &stop).await.expect("a cycle");
        let basis = if round == 0 { Basis::Full } else { Basis::Tracked };
        assert!(report.point.machines.iter().flat_map(|machine| &machine.disks).all(|disk| disk.basis == basis));
        if round > 0 {
            assert_eq!(report.read_bytes, 2 * CHUNK_BYTES, "only what changed is read");
        }
        expected.push((report.point.sequence, site.content("web"), site.content("db")));
    }
    for (point, web, db) in expected {
        assert!(restored(&vault, point, "web").await == web, "web at point {point}");
        assert!(restored(&vault, point, "db").await == db, "db at point {point}");
    }
    let idle = replicator.cycle(Wishes::default(), &stop).await.expect("an idle cycle");
    assert_eq!((idle.read_bytes, idle.point.stats.bytes_changed), (0, 0));
    assert_eq!(idle.point.stats.objects_written, 1, "an idle cycle writes its commit and nothing else");
    assert_eq!((site.captures(), site.tracked("web"), site.tracked("db")), (0, 1, 1));
}

#[derive(Default)]
struct Waits(Mutex<Vec<String>>);

impl CycleObserver for Waits {
    fn event(&self, event: CycleEvent) {
        if let CycleEvent::Waiting(text) = event {
            self.0.lock().expect("a test").push(text);
        }
    }
}

/// The first snapshot of a large volume takes hours.
#[tokio::test]
async fn a_capture_is_waited_for_as_long_as_it_makes_progress() {
    let folder = tempfile::tempdir().expect("a folder");
    let (vault, site) = (vault("waits").await, SimulatedSite::new(&["web"]));
    let (clock, waits) = (Arc::new(SleptClock::default()), Arc::new(Waits::default()));
    let replicator = Replicator {
        clock: Arc::clone(&clock) as _,
        observer: Arc::clone(&waits) as _,
        ..replicator(&vault, &site, &["web"], folder.path())
    };
    site.write("web", 0, &noise(1, CHUNK_BYTES));
    // Each percent takes five hours.
    let said = |percent: u32| std::iter::repeat_n(format!("at {percent} %"), 300);
    site.wait((0..5).flat_map(said));
    let report = replicator.cycle(Wishes::default(), &CancellationToken::new()).await.expect("a cycle");
    assert!(restored(&vault, report.point.sequence, "web").await == site.content("web"));
    assert_eq!(clock.monotonic(), Duration::from_secs(25 * 3_600));
    assert_eq!(
        *waits.0.lock().expect("a test"),
        ["at 0 %", "at 1 %", "at 2 %", "at 3 %", "at 4 %"],
        "each is told once"
    );

    site.wait(said(7).chain(said(7)));
    let error =
        replicator.cycle(Wishes::default(), &CancellationToken::new()).await.expect_err("it stands still").to_string();
    assert!(error.contains("beginning a capture"), "{error}");
    assert_eq!(clock.monotonic(), Duration::from_secs(31 * 3_600), "after six hours");
    assert_eq!(site.captures(), 0, "it is given up");
}

#[tokio::test]
async fn what_was_read_is_not_given_up_for_an_answer_that_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let (vault, site) = (vault("silent").await, SimulatedSite::new(&["web"]));
    let clock = Arc::new(SleptClock::default());
    let replicator =
        Replicator { clock: Arc::clone(&clock) as _, ..replicator(&vault, &site, &["web"], folder.path()) };
    site.be_silent(5);
    replicator.cycle(Wishes::default(), &CancellationToken::new()).await.expect("a cycle");
    site.be_silent(1_000);
    let error =
        replicator.cycle(Wishes::default(), &CancellationToken::new()).await.expect_err("nobody knows whether it held");
    assert!(matches!(error, ReplicationError::Site { doing: "verifying the capture", .. }), "{error:?}");
    assert_eq!(clock.monotonic(), Duration::from_secs(10 + 60));
    assert_eq!(site.captures(), 0, "it is given up");
}

#[tokio::test]
async fn who_waits_for_a_capture_can_be_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    let (vault, site) = (vault("stopped while waiting").await, SimulatedSite::new(&["web"]));
    let stop = CancellationToken::new();
    // The system's clock: the site wants to be asked in a minute.
    let replicator = replicator(&vault, &site, &["web"], folder.path());
    site.wait(["at 0 %".to_owned()]);
    let (result, ()) = tokio::join!(replicator.cycle(Wishes::default(), &stop), async {
        while site.captures() == 0 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    });
    assert!(matches!(result, Err(ReplicationError::Stopped { .. })), "{result:?}");
    assert_eq!(site.captures(), 0, "it is given up");
}

/// Runs a cycle that is killed at its `call`th call to the site, counted from 0; false if it made so many only, and ended.
async fn is_killed_at(call: u64, site: &SimulatedSite, replicator: Replicator) -> bool {
    let stop = CancellationToken::new();
    site.stop_at(Some(call));
    let was_killed = tokio::select! {
        _ = replicator.cycle(Wishes::default(), &stop) => false,
        () = site.was_stopped() => true,
    };
    let calls = site.calls();
    site.stop_at(None);
    assert!(was_killed || calls == call, "every call was tried: {calls} of {call}");
    was_killed
}

#[tokio::test]
async fn a_host_killed_at_any_call_loses_nothing_and_leaves_nothing() {
    let mut call = 0;
    loop {
        let folder = tempfile::tempdir().expect("a folder");
        let (vault, site) = (vault(&format!("killed-{call}")).await, SimulatedSite::new(&["web"]));
        let stop = CancellationToken::new();
        site.write("web", 0, &noise(1, 4 * CHUNK_BYTES));
        let first = replicator(&vault, &site, &["web"], folder.path())
            .cycle(Wishes::default(), &stop)
            .await
            .expect("the first cycle");
        let first_content = site.content("web");

        site.write("web", 7 * CHUNK_BYTES, &noise(2, CHUNK_BYTES));
        let killed = replicator(&vault, &site, &["web"], folder.path());
        if !is_killed_at(call, &site, killed).await {
            assert!(call >= 8, "a cycle has at least 8 calls, not {call}");
            return;
        }

        assert!(restored(&vault, first.point.sequence, "web").await == first_content, "killed at call {call}");
        site.write("web", 9 * CHUNK_BYTES, &noise(3, CHUNK_BYTES));
        let next = replicator(&vault, &site, &["web"], folder.path())
            .cycle(Wishes::default(), &stop)
            .await
            .expect("the next cycle");
        assert_eq!(next.point.machines[0].disks[0].basis, Basis::Tracked, "killed at call {call}");
        assert!(next.read_bytes <= 2 * CHUNK_BYTES, "killed at call {call}: read {}", next.read_bytes);
        assert!(restored(&vault, next.point.sequence, "web").await == site.content("web"), "killed at call {call}");
        assert_eq!((site.captures(), site.tracked("web")), (0, 1), "killed at call {call}");
        call += 1;
    }
}

#[tokio::test]
async fn what_no_journal_names_is_found_by_its_tag() {
    let stop = CancellationToken::new();
    for call in 0.. {
        let (folder, another) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let (vault, site) = (vault(&format!("journal-{call}")).await, SimulatedSite::new(&["web", "db"]));
        site.stop_at(Some(call));
        let killed = replicator(&vault, &site, &["web", "db"], folder.path());
        tokio::select! {
            _ = killed.cycle(Wishes::default(), &stop) => panic!("it was stopped before it could capture"),
            () = site.was_stopped() => {}
        }
        drop(killed);
        site.stop_at(None);
        if site.captures() == 0 {
            continue;
        }
        // The host's folder is lost, and one of the machines left the group: beginning a capture does not concern it.
        replicator(&vault, &site, &["web"], another.path())
            .cycle(Wishes::default(), &stop)
            .await
            .expect("the next cycle");
        assert_eq!(site.captures(), 0);
        return;
    }
}

/// What a seed decides, one step after another.
struct Dice(SeededEntropy);

impl Dice {
    /// A number below `end`.
    fn below(&self, end: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % end
    }
}

/// Forty steps in which the guests write, tracking is lost, captures break, the site lies and the host is killed at any
/// call. Whatever happened: each point is what the disks were, and the next undisturbed cycle leaves nothing behind.
async fn live_through(seed: u64) {
    let names = ["web", "db"];
    let dice = Dice(SeededEntropy::new(seed));
    let folder = tempfile::tempdir().expect("a folder");
    let (vault, site) = (vault(&format!("soak-{seed}")).await, SimulatedSite::new(&names));
    let stop = CancellationToken::new();
    let mut known: BTreeMap<Sequence, Vec<Vec<u8>>> = BTreeMap::new();
    for step in 0..40 {
        for name in names {
            for _ in 0..dice.below(4) {
                let (offset, length) = (dice.below(DISK_BYTES - 1), dice.below(3 * CHUNK_BYTES) + 1);
                let zero = dice.below(4) == 0;
                let bytes = noise(dice.below(250) as u8, length.min(DISK_BYTES - offset));
                site.write(name, offset, &if zero { vec![0; bytes.len()] } else { bytes });
            }
        }
        let trouble = dice.below(8);
        match trouble {
            0 => site.lose_tracking(),
            1 => site.break_captures(true),
            2 => site.lie(if dice.below(2) == 0 { Lie::OverlappingExtents } else { Lie::ExtentsPastTheEnd }),
            3 | 4 => site.stop_at(Some(dice.below(24))),
            _ => {}
        }
        let replicator = Replicator {
            entropy: Arc::new(SeededEntropy::new(seed << 8 | step)),
            ..replicator(&vault, &site, &names, folder.path())
        };
        let ended = tokio::select! {
            ended = replicator.cycle(Wishes::default(), &stop) => Some(ended),
            () = site.was_stopped() => None,
        };
        site.stop_at(None);
        site.break_captures(false);
        site.lie(Lie::None);
        let content: Vec<_> = names.iter().map(|name| site.content(name)).collect();
        let what = format!("seed {seed}, step {step}, trouble {trouble}");
        let lineage = vault.lineage(&group()).await.expect("the vault answers");
        let newest = match &lineage {
            Some(lineage) => lineage.head().await.expect("a head").newest_point,
            None => None,
        };
        match &ended {
            Some(Ok(report)) => {
                assert_eq!(newest, Some(report.point.sequence), "{what}");
                assert!(!matches!(trouble, 1), "{what}: a broken capture makes no point");
                assert_eq!(site.captures(), 0, "{what}");
                assert!(names.iter().all(|name| site.tracked(name) == 1), "{what}: one tracking is left");
            }
            Some(Err(error)) => assert!(matches!(trouble, 1 | 2), "{what}: {error}"),
            None => {}
        }
        if let Some(newest) = newest.filter(|newest| !known.contains_key(newest)) {
            known.insert(newest, content);
        }
        // Older points are looked at now and then, the newest always.
        for (point, disks) in known.iter().rev().take(1).chain(known.iter().filter(|_| step == 39)) {
            for (name, disk) in names.iter().zip(disks) {
                assert!(restored(&vault, *point, name).await == *disk, "{what}: {name} at point {point}");
            }
        }
    }
    assert!(known.len() > 5, "seed {seed}: some cycles went well");
}

#[tokio::test]
async fn whatever_happens_points_are_true_and_nothing_stays() {
    let seeds = if std::env::var_os("FARSHORE_LONG").is_some() { 0..200 } else { 0..12 };
    for seed in seeds {
        live_through(seed).await;
    }
}

#[tokio::test]
async fn lost_tracking_leads_to_a_comparison_that_stores_only_what_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (vault, site) = (vault("lost").await, SimulatedSite::new(&["web"]));
    let replicator = replicator(&vault, &site, &["web"], folder.path());
    let stop = CancellationToken::new();
    site.write("web", 0, &noise(1, 20 * CHUNK_BYTES));
    replicator.cycle(Wishes::default(), &stop).await.expect("the first cycle");
    site.lose_tracking();
    site.write("web", 3 * CHUNK_BYTES, &noise(9, CHUNK_BYTES));
    site.write("web", 5 * CHUNK_BYTES, &vec![0; usize::try_from(CHUNK_BYTES).expect("small")]);
    let report = replicator.cycle(Wishes::default(), &stop).await.expect("the second cycle");
    assert_eq!(report.point.machines[0].disks[0].basis, Basis::Compared);
    assert_eq!(report.read_bytes, 19 * CHUNK_BYTES, "zeros are told, the rest is read");
    assert_eq!(report.point.stats.bytes_changed, 2 * CHUNK_BYTES);
    assert!(restored(&vault, report.point.sequence, "web").await == site.content("web"));
}

#[tokio::test]
async fn a_broken_capture_makes_no_point_and_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let (vault, site) = (vault("broken").await, SimulatedSite::new(&["web"]));
    let replicator = replicator(&vault, &site, &["web"], folder.path());
    let stop = CancellationToken::new();
    site.write("web", 0, &noise(1, CHUNK_BYTES));
    let first = replicator.cycle(Wishes::default(), &stop).await.expect("the first cycle");
    site.write("web", 0, &noise(2, CHUNK_BYTES));
    site.break_captures(true);
    let error = replicator.cycle(Wishes::default(), &stop).await.expect_err("a broken capture");
    assert_eq!(error.code(), Code::new(3005), "{error}");
    assert_eq!((site.captures(), site.tracked("web")), (0, 1), "it was abandoned");
    site.break_captures(false);
    let next = replicator.cycle(Wishes::default(), &stop).await.expect("the next cycle");
    assert_eq!(next.point.parent, Some(first.point.sequence));
    assert_eq!(next.point.machines[0].disks[0].basis, Basis::Tracked);
    assert!(restored(&vault, next.point.sequence, "web").await == site.content("web"));
}

#[tokio::test]
async fn what_cannot_be_true_makes_no_point() {
    let folder = tempfile::tempdir().expect("a folder");
    let (vault, site) = (vault("lies").await, SimulatedSite::new(&["web"]));
    let replicator = replicator(&vault, &site, &["web"], folder.path());
    let stop = CancellationToken::new();
    site.write("web", 0, &noise(1, CHUNK_BYTES));
    let first = replicator.cycle(Wishes::default(), &stop).await.expect("the first cycle");
    for (lie, size_told, code) in [
        (Lie::OverlappingExtents, None, 4001),
        (Lie::ExtentsPastTheEnd, None, 4001),
        (Lie::GapsBetweenExtents, None, 4001),
        (Lie::DiskLeftOut, None, 3008),
        (Lie::None, Some(DISK_BYTES - CHUNK_BYTES), 4002),
    ] {
        site.lie(lie);
        site.tell_size(size_told);
        let error = replicator.cycle(Wishes::default(), &stop).await.expect_err("nonsense");
        assert_eq!(error.code(), Code::new(code), "{error}");
        assert_eq!(site.captures(), 0);
    }
    site.lie(Lie::None);
    site.tell_size(None);
    let next = replicator.cycle(Wishes::default(), &stop).await.expect("the truth");
    assert_eq!(next.point.parent, Some(first.point.sequence));
}

#[tokio::test]
async fn a_source_that_was_failed_over_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (vault, site) = (vault("fenced").await, SimulatedSite::new(&["web"]));
    let replicator = replicator(&vault, &site, &["web"], folder.path());
    let stop = CancellationToken::new();
    site.write("web", 0, &noise(1, CHUNK_BYTES));
    replicator.cycle(Wishes::default(), &stop).await.expect("the first cycle");
    let lineage = vault.lineage(&group()).await.expect("an answer").expect("a lineage");
    let head = lineage.head().await.expect("a head");
    let recovery = SiteName::new("recovery").expect("a name");
    lineage.raise_generation(&recovery, "failed over", &head).await.expect("raised");
    let error = replicator.cycle(Wishes::default(), &stop).await.expect_err("fenced");
    assert!(matches!(error, ReplicationError::Fenced { .. }) && error.is_final(), "{error}");
    assert_eq!(site.captures(), 0, "nothing was captured");
}

#[tokio::test]
async fn a_source_that_was_failed_over_releases_what_a_crash_left() {
    let stop = CancellationToken::new();
    for call in 0.. {
        let folder = tempfile::tempdir().expect("a folder");
        let (vault, site) = (vault(&format!("fenced-{call}")).await, SimulatedSite::new(&["web"]));
        let killed = replicator(&vault, &site, &["web"], folder.path());
        if !is_killed_at(call, &site, killed).await {
            assert!(call >= 8, "a cycle has at least 8 calls, not {call}");
            return;
        }
        let lineage = vault.lineage(&group()).await.expect("an answer").expect("a lineage");
        let head = lineage.head().await.expect("a head");
        let recovery = SiteName::new("recovery").expect("a name");
        lineage.raise_generation(&recovery, "failed over", &head).await.expect("raised");
        let error = replicator(&vault, &site, &["web"], folder.path())
            .cycle(Wishes::default(), &stop)
            .await
            .expect_err("fenced");
        assert!(matches!(error, ReplicationError::Fenced { .. }), "killed at call {call}: {error}");
        assert_eq!(site.captures(), 0, "killed at call {call}");
    }
}

/// While the vault is away nobody knows whether the killed cycle's capture became a point. Its view must go all the same,
/// and the tracking of either outcome must stay, so that the next cycle is a delta.
#[tokio::test]
async fn a_vault_that_does_not_answer_leaves_no_view_attached_and_loses_no_tracking() {
    let stop = CancellationToken::new();
    for call in 0.. {
        let (folder, store) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let site = SimulatedSite::new(&["web"]);
        let vault = vault_at(&format!("file:{}", store.path().display())).await;
        replicator(&vault, &site, &["web"], folder.path())
            .cycle(Wishes::default(), &stop)
            .await
            .expect("the first cycle");
        site.write("web", 7 * CHUNK_BYTES, &noise(2, CHUNK_BYTES));
        let killed = replicator(&vault, &site, &["web"], folder.path());
        if !is_killed_at(call, &site, killed).await {
            assert!(call >= 8, "a cycle has at least 8 calls, not {call}");
            return;
        }

        // A file where the store expects a folder: every read fails, and not as if nothing were there.
        let (lineages, away) = (store.path().join("lineages"), store.path().join("away"));
        std::fs::rename(&lineages, &away).expect("moved");
        std::fs::write(&lineages, b"").expect("written");
        let error = replicator(&vault, &site, &["web"], folder.path())
            .cycle(Wishes::default(), &stop)
            .await
            .expect_err("no vault");
        assert!(matches!(error, ReplicationError::Vault { .. }), "killed at call {call}: {error}");
        assert_eq!(site.captures(), 0, "killed at call {call}");

        std::fs::remove_file(&lineages).expect("removed");
        std::fs::rename(&away, &lineages).expect("moved back");
        let next = replicator(&vault, &site, &["web"], folder.path())
            .cycle(Wishes::default(), &stop)
            .await
            .expect("the next cycle");
        assert_eq!(next.point.machines[0].disks[0].basis, Basis::Tracked, "killed at call {call}");
        assert!(restored(&vault, next.point.sequence, "web").await == site.content("web"), "killed at call {call}");
        assert_eq!((site.captures(), site.tracked("web")), (0, 1), "killed at call {call}");
    }
}

#[tokio::test]
async fn a_points_age_is_never_understated() {
    let folder = tempfile::tempdir().expect("a folder");
    let (vault, site) = (vault("age").await, SimulatedSite::new(&["web"]));
    // After the instant the adapter takes its time to answer.
    site.meanwhile(|| {
        let until = SystemClock.monotonic() + Duration::from_millis(30);
        while SystemClock.monotonic() < until {
            std::hint::spin_loop();
        }
    });
    let replicator = replicator(&vault, &site, &["web"], folder.path());
    let report = replicator.cycle(Wishes::default(), &CancellationToken::new()).await.expect("a cycle");
    assert!(Some(report.point.captured_at) <= site.frozen_at(), "not later than what the disks show");
}

#[tokio::test]
async fn a_capture_whose_state_cannot_be_journalled_is_released() {
    let folder = tempfile::tempdir().expect("a folder");
    let (vault, site) = (vault("no-journal").await, SimulatedSite::new(&["web"]));
    let journals = folder.path().join("captures").join(vault.id().to_string());
    let journal = journals.join(format!("{}.json", vault.lineage_id(&group())));
    let (taken, path) = (journal.clone(), journal.clone());
    // A folder stands where the journal was: renaming a file over it fails, whoever asks.
    site.meanwhile(move || {
        std::fs::remove_file(&taken).expect("it was written before the capture was begun");
        std::fs::create_dir(&taken).expect("made");
    });
    let replicator = replicator(&vault, &site, &["web"], folder.path());
    let error = replicator.cycle(Wishes::default(), &CancellationToken::new()).await.expect_err("no journal");
    assert!(matches!(error, ReplicationError::Journal { .. }), "{error}");
    assert_eq!(site.captures(), 0);

    std::fs::remove_dir(&path).expect("removed");
    site.meanwhile(|| {});
    replicator.cycle(Wishes::default(), &CancellationToken::new()).await.expect("the next cycle");
}

#[tokio::test]
async fn a_stop_releases_the_capture() {
    let folder = tempfile::tempdir().expect("a folder");
    let (vault, site) = (vault("stopped").await, SimulatedSite::new(&["web"]));
    let replicator = replicator(&vault, &site, &["web"], folder.path());
    site.write("web", 0, &noise(1, CHUNK_BYTES));
    let stop = CancellationToken::new();
    stop.cancel();
    let error = replicator.cycle(Wishes::default(), &stop).await.expect_err("stopped");
    assert!(matches!(error, ReplicationError::Stopped { .. }), "{error}");
    assert_eq!((site.captures(), site.tracked("web")), (0, 0));
}

/// Hears of changes that were left out.
#[derive(Default)]
struct Untracked(Mutex<Vec<u64>>);

impl CycleObserver for Untracked {
    fn event(&self, event: CycleEvent) {
        if let CycleEvent::Untracked { bytes, .. } = event {
            self.0.lock().expect("no panic").push(bytes);
        }
    }
}

/// An adapter whose tracking leaves out half of what changed: the lie is found within the time in which all is read again, and the point
/// that found it is right. An honest one is never accused.
#[tokio::test]
async fn tracking_that_lies_is_found_and_the_point_that_finds_it_is_right() {
    let folder = tempfile::tempdir().expect("a folder");
    let (vault, site) = (vault("untracked").await, SimulatedSite::new(&["web"]));
    let untracked = Arc::new(Untracked::default());
    let mut replicator = replicator(&vault, &site, &["web"], folder.path());
    replicator.observer = Arc::clone(&untracked) as _;
    let stop = CancellationToken::new();
    let cycle = async |replicator: &Replicator| replicator.cycle(Wishes::default(), &stop).await.expect("a cycle");
    site.write("web", 0, &noise(1, 6 * CHUNK_BYTES));
    cycle(&replicator).await;

    // Without doubt a lie is believed: the test would show nothing if it did not hurt.
    site.lie(Lie::ChangesLeftOut);
    site.write("web", 0, &noise(2, 4 * CHUNK_BYTES));
    let believed = cycle(&replicator).await;
    assert_eq!((believed.untracked_bytes, basis(&believed)), (0, Basis::Tracked));
    assert_ne!(restored(&vault, believed.point.sequence, "web").await, site.content("web"));

    // All is read again with each cycle.
    let within = Duration::from_millis(1);
    replicator.protection.doubt = Some(Doubt { within, at_once_max: Duration::from_secs(60) });
    SystemClock.sleep(2 * within).await;
    let found = cycle(&replicator).await;
    assert_eq!((found.untracked_bytes, basis(&found)), (2 * CHUNK_BYTES, Basis::Compared));
    assert!(found.point.note.contains("change tracking left out changes"), "{}", found.point.note);
    assert_eq!(restored(&vault, found.point.sequence, "web").await, site.content("web"));
    assert_eq!(untracked.0.lock().expect("no panic")[..], [2 * CHUNK_BYTES]);

    // What was found is not forgotten when the comparison does not come to its end, though the next window is elsewhere.
    site.write("web", 0, &noise(9, 4 * CHUNK_BYTES));
    replicator.protection.doubt = None;
    cycle(&replicator).await;
    replicator.protection.doubt = Some(Doubt { within, at_once_max: Duration::from_secs(60) });
    SystemClock.sleep(2 * within).await;
    site.break_after_a_lie();
    replicator.cycle(Wishes::default(), &stop).await.expect_err("the comparison failed");
    assert_eq!(untracked.0.lock().expect("no panic").len(), 2, "the lie was found again");
    site.mend();
    replicator.protection.doubt = None;
    let compared = cycle(&replicator).await;
    assert_eq!((compared.untracked_bytes, basis(&compared)), (0, Basis::Compared));
    assert_eq!(restored(&vault, compared.point.sequence, "web").await, site.content("web"));
    assert_eq!(basis(&cycle(&replicator).await), Basis::Tracked, "then it is believed again");

    // What is right is not accused, whatever changes.
    replicator.protection.doubt = Some(Doubt { within, at_once_max: Duration::from_secs(60) });
    site.lie(Lie::None);
    for seed in 3..8 {
        site.write("web", u64::from(seed) * CHUNK_BYTES, &noise(seed, CHUNK_BYTES));
        site.write("web", 0, &vec![0; usize::try_from(CHUNK_BYTES).expect("small")]);
        SystemClock.sleep(2 * within).await;
        let honest = cycle(&replicator).await;
        assert_eq!((honest.untracked_bytes, basis(&honest)), (0, Basis::Tracked));
        assert_eq!(honest.read_bytes, DISK_BYTES, "all of it was read");
        assert_eq!(restored(&vault, honest.point.sequence, "web").await, site.content("web"));
    }
    assert_eq!(untracked.0.lock().expect("no panic").len(), 2);
}

/// Machines join a group and leave it: who stays goes on by what changed, who is new is copied, and what was of who left stands in the
/// points that have it.
#[tokio::test]
async fn machines_join_and_leave_and_nobody_loses_anything() {
    let folder = tempfile::tempdir().expect("a folder");
    let (vault, site) = (vault("members").await, SimulatedSite::new(&["web", "db"]));
    let stop = CancellationToken::new();
    let cycle = async |machines: &[&str]| {
        let replicator = replicator(&vault, &site, machines, folder.path());
        replicator.cycle(Wishes::default(), &stop).await.expect("a cycle")
    };
    let bases = |report: &CycleReport| -> Vec<(String, Basis)> {
        let machines = report.point.machines.iter();
        machines.map(|machine| (machine.machine.id.to_string(), machine.disks[0].basis)).collect()
    };
    let told = |machine: &str, basis| (machine.to_owned(), basis);
    site.write("web", 0, &noise(1, 8 * CHUNK_BYTES));
    site.write("db", 0, &noise(2, 8 * CHUNK_BYTES));
    let alone = cycle(&["web"]).await;
    assert_eq!(bases(&alone), [told("web", Basis::Full)]);

    site.write("web", 0, &noise(3, CHUNK_BYTES));
    let joined = cycle(&["web", "db"]).await;
    assert_eq!(bases(&joined), [told("web", Basis::Tracked), told("db", Basis::Full)]);
    assert_eq!(joined.point.parent, Some(alone.point.sequence), "one history");

    site.write("db", 0, &noise(4, CHUNK_BYTES));
    let left = cycle(&["web"]).await;
    assert_eq!(bases(&left), [told("web", Basis::Tracked)]);
    assert_eq!(site.captures(), 0);

    // Who comes back is copied anew.
    let back = cycle(&["web", "db"]).await;
    assert_eq!(bases(&back), [told("web", Basis::Tracked), told("db", Basis::Full)]);
    for report in [&joined, &back] {
        for (machine, _) in bases(report) {
            let restored = restored(&vault, report.point.sequence, &machine).await;
            let is_now = report.point.sequence == back.point.sequence;
            assert!(!is_now || restored == site.content(&machine), "{machine}");
            assert_eq!(restored.len() as u64, DISK_BYTES);
        }
    }
    let mut before = noise(2, 8 * CHUNK_BYTES);
    before.resize(usize::try_from(DISK_BYTES).expect("small"), 0);
    assert!(restored(&vault, joined.point.sequence, "db").await == before, "what it was then");
}

fn basis(report: &CycleReport) -> Basis {
    report.point.machines[0].disks[0].basis
}
