//! What holds while the vault cannot be reached: points go on, wait sealed at this host, and come into the vault in their order, each
//! byte for byte what the disks were, wherever the way was lost and whenever it is found again.

#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use farshore_core::{
    Basis, CHUNK_BYTES, Clock, Coded as _, Consistency, GroupName, PointLabel, SiteName, SystemClock, Timestamp,
    Timetable, Zone,
};
use farshore_replication::{
    CatchUp, CycleReport, Objective, Order, Priority, ReplicationError, Replicator, Schedule, Stop, Turns,
    WatchObserver, Watched, Wishes, orders, watch,
};
use proptest::prelude::*;
use support::{
    DISK_BYTES, Ill, SimulatedSite, machine_id,
    scene::{Scene, bases, group, restored, waits},
};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn an_outage_costs_no_point_and_each_is_right() {
    let mut scene = Scene::new(CatchUp::EveryPoint).await;
    for _ in 0..2 {
        scene.cycle().await.expect("the vault answers");
    }
    scene.lose();
    for number in 1..=5 {
        let result = scene.cycle().await;
        assert_eq!((waits(&result), scene.waiting()), (number, number));
        assert_eq!(result.expect_err("it waits").code().to_string(), "FS4009");
        assert_eq!(scene.site.captures(), 0, "nothing stays at the source");
        scene.pass(15).await;
    }
    assert_eq!((scene.files(), scene.right_points_before_loss().await), (5, 2));
    scene.find().await;
    let last = scene.cycle().await.expect("all are in the vault");
    assert_eq!((scene.waiting(), scene.files(), scene.room.used_bytes()), (0, 0, 0));
    let points = scene.right_points().await;
    assert_eq!(points.len(), 8);
    assert_eq!(points.last().map(|point| point.sequence), Some(last.point.sequence));
    assert!(points[1..].iter().all(|point| bases(point) == [Basis::Tracked; 2]), "no disk was compared or copied");
    assert!(points[2..7].iter().all(|point| point.note.contains("waited")), "{}", points[2].note);
    let caught_up = std::mem::take(&mut *scene.heard.caught_up.lock().expect("no panic"));
    let told: Vec<_> = caught_up.iter().map(|report| report.point.sequence).collect();
    assert_eq!(told, points[2..7].iter().map(|point| point.sequence).collect::<Vec<_>>());
    // And it goes on as before.
    let next = scene.cycle().await.expect("the vault answers");
    assert_eq!((bases(&next.point), next.point.note.as_str()), (vec![Basis::Tracked; 2], ""));
    assert_eq!((scene.site.captures(), scene.site.tracked("web"), scene.site.tracked("db")), (0, 1, 1));
    assert_eq!(*scene.heard.given_up.lock().expect("no panic"), []);
    scene.right_points().await;
}

impl Scene {
    /// How many points the vault has, if it could be asked.
    async fn right_points_before_loss(&self) -> usize {
        self.store.find();
        let points = self.right_points().await.len();
        self.lose();
        points
    }
}

#[tokio::test]
async fn the_newest_alone_has_what_all_of_them_changed() {
    let mut scene = Scene::new(CatchUp::Newest).await;
    scene.cycle().await.expect("the vault answers");
    scene.lose();
    for _ in 0..6 {
        waits(&scene.cycle().await);
    }
    scene.find().await;
    let last = scene.cycle().await.expect("the newest is in the vault");
    let points = scene.right_points().await;
    assert_eq!((points.len(), scene.files(), scene.waiting()), (2, 0, 0));
    assert!(last.point.note.contains("6 points before it"), "{}", last.point.note);
    let given = last.point.stats.bytes_given;
    assert!((2 * CHUNK_BYTES..=2 * DISK_BYTES).contains(&given), "each chunk once: {given}");
    assert_eq!(bases(&scene.cycle().await.expect("the vault answers").point), [Basis::Tracked; 2]);
    scene.right_points().await;
}

#[tokio::test]
async fn a_label_that_somebody_asked_for_is_not_lost() {
    for catch_up in [CatchUp::EveryPoint, CatchUp::Newest] {
        label_is_not_lost(catch_up).await;
    }
}

async fn label_is_not_lost(catch_up: CatchUp) {
    let mut scene = Scene::new(catch_up).await;
    scene.cycle().await.expect("the vault answers");
    scene.lose();
    let label: PointLabel = "before-the-update".parse().expect("a label");
    let consistency = Some(Consistency::Application);
    let wishes = Wishes { label: Some(label.clone()), consistency, is_asked: true, ..Wishes::default() };
    waits(&scene.cycle_of(wishes).await);
    scene.find().await;
    scene.cycle().await.expect("the vault answers");
    let points = scene.right_points().await;
    assert_eq!((points[1].label.as_ref(), points[1].consistency), (Some(&label), Consistency::Application));
    assert_eq!(points[2].label, None);
}

/// The way is lost at every operation of a cycle in turn, also with the reply of one that took effect.
#[tokio::test]
async fn wherever_a_cycle_loses_the_vault_its_point_is_there_once() {
    for operations in 0.. {
        let mut scene = Scene::new(CatchUp::EveryPoint).await;
        scene.cycle().await.expect("the vault answers");
        scene.store.lose_after(operations);
        let result = scene.cycle().await;
        let is_through = result.is_ok();
        if !is_through {
            waits(&result);
        }
        scene.find().await;
        scene.cycle().await.unwrap_or_else(|error| panic!("after {operations} operations: {error:?}"));
        let points = scene.right_points().await;
        assert_eq!(points.len(), 3, "after {operations} operations");
        assert!(points[1..].iter().all(|point| bases(point) == [Basis::Tracked; 2]), "after {operations} operations");
        assert_eq!((scene.files(), scene.site.captures(), scene.site.tracked("web")), (0, 0, 1));
        if is_through {
            assert!(operations > 5, "a cycle asks more than {operations} times");
            return;
        }
    }
}

/// The same for a cycle that catches up.
#[tokio::test]
async fn wherever_catching_up_is_lost_it_goes_on_from_there() {
    for catch_up in [CatchUp::EveryPoint, CatchUp::Newest] {
        for operations in 0.. {
            let mut scene = Scene::new(catch_up).await;
            scene.cycle().await.expect("the vault answers");
            scene.lose();
            waits(&scene.cycle().await);
            waits(&scene.cycle().await);
            scene.pass(600).await;
            scene.store.lose_after(operations);
            let is_through = scene.cycle().await.is_ok();
            scene.find().await;
            scene.cycle().await.unwrap_or_else(|error| panic!("after {operations} operations: {error:?}"));
            let points = scene.right_points().await;
            match catch_up {
                CatchUp::EveryPoint => assert_eq!(points.len(), 5, "after {operations} operations"),
                CatchUp::Newest => assert!((2..=4).contains(&points.len()), "{} points", points.len()),
            }
            assert_eq!(*scene.heard.given_up.lock().expect("no panic"), [], "after {operations} operations");
            assert_eq!((scene.files(), scene.site.captures(), scene.site.tracked("web")), (0, 0, 1));
            if is_through {
                break;
            }
        }
    }
}

/// What waits outlives the process, and so does what a crash left beside it.
#[tokio::test]
async fn what_waits_is_brought_in_by_the_next_process() {
    let mut scene = Scene::new(CatchUp::EveryPoint).await;
    scene.cycle().await.expect("the vault answers");
    scene.lose();
    waits(&scene.cycle().await);
    waits(&scene.cycle().await);
    scene.store.find();
    let before = Arc::clone(&scene.vault);
    scene.restart().await;
    assert!(!Arc::ptr_eq(&before, &scene.vault), "it knows nothing of what was");
    scene.cycle().await.expect("the vault answers");
    let points = scene.right_points().await;
    assert_eq!((points.len(), scene.files()), (4, 0));
    assert!(points[1..].iter().all(|point| bases(point) == [Basis::Tracked; 2]));
}

/// The host is killed at every call of the platform in turn, while its point is made to wait.
#[tokio::test]
async fn a_crash_at_any_call_of_the_platform_loses_at_most_the_point_that_was_being_made() {
    for call in 0.. {
        let mut scene = Scene::new(CatchUp::EveryPoint).await;
        scene.cycle().await.expect("the vault answers");
        scene.lose();
        waits(&scene.cycle().await);
        scene.site.stop_at(Some(call));
        scene.write();
        let (before, now) = (SystemClock.now(), [scene.site.content("web"), scene.site.content("db")]);
        scene.were.insert(before, now);
        let (replicator, stop) = (scene.replicator(), CancellationToken::new());
        let is_through = tokio::select! {
            _ = replicator.cycle(Wishes { is_asked: true, ..Wishes::default() }, &stop) => true,
            () = scene.site.was_stopped() => false,
        };
        drop(replicator);
        scene.site.stop_at(None);
        while SystemClock.now() == before {
            tokio::task::yield_now().await;
        }
        waits(&scene.cycle().await);
        scene.find().await;
        scene.cycle().await.unwrap_or_else(|error| panic!("after call {call}: {error:?}"));
        let points = scene.right_points().await;
        assert!((4..=5).contains(&points.len()), "{} points after call {call}", points.len());
        assert!(points[1..].iter().all(|point| bases(point) == [Basis::Tracked; 2]), "after call {call}");
        assert_eq!((scene.files(), scene.site.captures(), scene.site.tracked("web")), (0, 0, 1), "after call {call}");
        if is_through {
            assert!(call > 5, "a cycle calls more than {call} times");
            return;
        }
    }
}

#[tokio::test]
async fn a_full_spool_takes_no_more_and_loses_nothing() {
    let mut scene = Scene::new(CatchUp::EveryPoint).await;
    scene.cycle().await.expect("the vault answers");
    scene.lose();
    waits(&scene.cycle().await);
    scene.room.limit(scene.room.used_bytes() + 1_000);
    let error = scene.cycle().await.expect_err("there is no room");
    assert_eq!(error.code().to_string(), "FS6401", "{error:?}");
    assert_eq!((scene.waiting(), scene.files(), scene.site.captures()), (1, 1, 0));
    scene.find().await;
    // Still no room for its own point: that is made in the vault, behind what waited.
    let next = scene.cycle().await.expect("what waited is in the vault");
    assert_eq!(bases(&next.point), [Basis::Tracked; 2]);
    assert_eq!((scene.right_points().await.len(), scene.files(), scene.room.used_bytes()), (3, 0, 0));
}

#[tokio::test]
async fn without_room_nothing_waits_and_the_error_is_the_vaults() {
    let mut scene = Scene::new(CatchUp::EveryPoint).await;
    scene.cycle().await.expect("the vault answers");
    scene.room.limit(0);
    scene.lose();
    let error = scene.cycle().await.expect_err("the vault is lost");
    assert!(matches!(error, ReplicationError::Vault { .. }), "{error:?}");
    assert_eq!(scene.files(), 0);
}

/// With nothing that waits and nothing that can, a vault that was lost is asked again too.
#[tokio::test]
async fn what_can_never_wait_finds_the_vault_again() {
    let mut scene = Scene::new(CatchUp::EveryPoint).await;
    scene.cycle().await.expect("the vault answers");
    scene.lose();
    scene.site.lose_tracking();
    for _ in 0..3 {
        let error = scene.cycle().await.expect_err("it must be compared");
        assert_eq!(error.code().to_string(), "FS4011", "{error:?}");
        scene.pass(15).await;
    }
    scene.find().await;
    let report = scene.cycle().await.expect("the vault answers");
    assert_eq!(bases(&report.point), [Basis::Compared; 2]);
    scene.right_points().await;
}

/// A first copy, and a disk whose tracking was lost, need the vault.
#[tokio::test]
async fn what_must_be_compared_waits_for_the_vault() {
    let mut scene = Scene::new(CatchUp::EveryPoint).await;
    scene.lose();
    assert!(scene.cycle().await.is_err(), "there is no lineage yet");
    scene.find().await;
    scene.cycle().await.expect("the vault answers");
    scene.lose();
    waits(&scene.cycle().await);
    scene.site.lose_tracking();
    let error = scene.cycle().await.expect_err("it must be compared");
    assert_eq!(error.code().to_string(), "FS4011");
    assert!(error.to_string().contains("the token does not chain"), "{error}");
    assert_eq!((scene.waiting(), scene.site.captures()), (1, 0));
    scene.find().await;
    let next = scene.cycle().await.expect("the vault answers");
    assert_eq!(bases(&next.point), [Basis::Compared; 2], "behind what waited");
    assert_eq!(scene.right_points().await.len(), 3);
}

#[tokio::test]
async fn what_waits_does_not_come_in_after_a_failover() {
    let mut scene = Scene::new(CatchUp::EveryPoint).await;
    scene.cycle().await.expect("the vault answers");
    scene.lose();
    waits(&scene.cycle().await);
    scene.find().await;
    let lineage = scene.vault.lineage(&group()).await.expect("answers").expect("it is there");
    let (there, here) = (SiteName::new("recovery").expect("a name"), SiteName::new("production").expect("a name"));
    let head = lineage.head().await.expect("a head");
    lineage.raise_generation(&there, "failover", &head).await.expect("raised");
    let error = scene.cycle().await.expect_err("it was failed over");
    assert!(matches!(error, ReplicationError::Fenced { .. }), "{error:?}");
    assert_eq!((scene.right_points().await.len(), scene.site.captures()), (1, 0));
    let files = scene.files();
    assert!(files >= 1, "nothing is thrown away");
    for _ in 0..2 {
        let error = scene.cycle().await.expect_err("it was failed over");
        assert!(matches!(error, ReplicationError::Fenced { .. }), "{error:?}");
    }
    assert_eq!(scene.files(), files, "who was failed over is not captured any more");
    // It comes back without a point of the other side: what waits builds on the newest point again.
    let head = lineage.head().await.expect("a head");
    lineage.raise_generation(&here, "back", &head).await.expect("raised");
    scene.pass(600).await;
    scene.cycle().await.expect("it is active again");
    assert_eq!((scene.files(), scene.heard.given_up.lock().expect("no panic").len()), (0, 0));
    assert!(scene.right_points().await.len() >= 3);
}

/// A host that serves both sites has a spool for both: what was captured at one is not the other's.
#[tokio::test]
async fn what_waits_of_another_site_is_given_up() {
    let mut scene = Scene::new(CatchUp::EveryPoint).await;
    scene.cycle().await.expect("the vault answers");
    scene.lose();
    waits(&scene.cycle().await);
    scene.find().await;
    let lineage = scene.vault.lineage(&group()).await.expect("answers").expect("it is there");
    let head = lineage.head().await.expect("a head");
    lineage.raise_generation(&SiteName::new("recovery").expect("a name"), "failover", &head).await.expect("raised");
    let there = SimulatedSite::at("recovery", &["web", "db"]);
    let replicator = Replicator { source: Arc::clone(&there) as _, ..scene.replicator() };
    let report = replicator.cycle(Wishes::default(), &CancellationToken::new()).await.expect("it is active");
    assert_eq!(bases(&report.point), [Basis::Compared; 2]);
    assert!(restored(&scene.vault, report.point.sequence, "web").await == there.content("web"));
    let given_up = scene.heard.given_up.lock().expect("no panic").clone();
    assert!(given_up.len() == 1 && given_up[0].1.contains("site production"), "{given_up:?}");
    let points = lineage.points(None, 10).await.expect("whole");
    assert_eq!(points.len(), 2, "nothing of the other side's time came in: {points:?}");
}

/// A spool that cannot be written is no reason to make no points while the vault answers.
#[tokio::test]
async fn a_sick_spool_is_passed_by() {
    let mut scene = Scene::new(CatchUp::EveryPoint).await;
    scene.cycle().await.expect("the vault answers");
    scene.lose();
    waits(&scene.cycle().await);
    // A file of a later version cannot be read, and is not thrown away.
    let mut folder = scene.room.folder().to_owned();
    while folder.is_dir() {
        let entry = std::fs::read_dir(&folder).expect("a folder").next().expect("one entry").expect("an entry");
        folder = entry.path();
    }
    let mut bytes = std::fs::read(&folder).expect("a file");
    bytes[8] = 9;
    std::fs::write(&folder, bytes).expect("written");
    assert!(scene.cycle().await.is_err(), "the vault is lost, and nothing can be built on what waits");
    scene.find().await;
    scene.link.clone_from(&Arc::default());
    let report = scene.cycle().await.expect("the vault answers");
    assert_eq!(bases(&report.point), [Basis::Compared; 2]);
    assert_eq!(scene.right_points().await.len(), 2);
    assert!(scene.files() >= 1, "it is left where it is");
    let warnings = scene.heard.warnings.lock().expect("no panic").join("\n");
    assert!(warnings.contains("do without what waits") && warnings.contains("another version"), "{warnings}");
}

/// Another process of another host replicated the group meanwhile.
#[tokio::test]
async fn what_waits_is_given_up_if_the_vault_went_on_without_it() {
    let mut scene = Scene::new(CatchUp::EveryPoint).await;
    scene.cycle().await.expect("the vault answers");
    scene.lose();
    waits(&scene.cycle().await);
    waits(&scene.cycle().await);
    scene.store.find();
    let other = tempfile::tempdir().expect("a folder");
    let elsewhere = Replicator { state_folder: other.path().to_owned(), outage: None, ..scene.replicator() };
    scene.were.insert(SystemClock.now(), [scene.site.content("web"), scene.site.content("db")]);
    elsewhere.cycle(Wishes::default(), &CancellationToken::new()).await.expect("the vault answers");
    scene.pass(600).await;
    let report = scene.cycle().await.expect("the vault answers, and its own point is made there");
    assert_eq!(bases(&report.point), [Basis::Compared; 2]);
    let given_up = scene.heard.given_up.lock().expect("no panic").clone();
    // What was captured now cannot wait: the other process has moved the change tracking on.
    assert_eq!(given_up.iter().map(|(points, _)| points).sum::<usize>(), 2, "{given_up:?}");
    scene.cycle().await.expect("the vault answers");
    assert_eq!((scene.files(), scene.site.captures()), (0, 0));
    scene.right_points().await;
}

#[tokio::test]
async fn a_damaged_point_that_waits_takes_those_after_it_along_and_no_other() {
    let mut scene = Scene::new(CatchUp::EveryPoint).await;
    scene.cycle().await.expect("the vault answers");
    scene.lose();
    for _ in 0..3 {
        waits(&scene.cycle().await);
    }
    let mut files = Vec::new();
    let mut folders = vec![scene.room.folder().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let mut bytes = std::fs::read(&files[1]).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&files[1], bytes).expect("written");
    scene.find().await;
    let next = scene.cycle().await.expect("its own point waited behind the damaged one, and is made in the vault");
    assert_eq!(bases(&next.point), [Basis::Compared; 2], "what was given up is found by comparing");
    let given_up = scene.heard.given_up.lock().expect("no panic").clone();
    assert_eq!(given_up.len(), 1, "{given_up:?}");
    assert_eq!(given_up[0].0, 3);
    assert!(given_up[0].1.contains("damaged"), "{given_up:?}");
    assert_eq!(bases(&scene.cycle().await.expect("the vault answers").point), [Basis::Tracked; 2]);
    assert_eq!(scene.right_points().await.len(), 4);
}

/// A cycle begins to commit no more points than its objective has time for, and goes on with the next.
#[tokio::test]
async fn catching_up_is_shared_out_over_cycles() {
    let mut scene = Scene::new(CatchUp::EveryPoint).await;
    scene.cycle().await.expect("the vault answers");
    scene.lose();
    for _ in 0..8 {
        waits(&scene.cycle().await);
    }
    // Every request to the vault takes half a second, of an objective of fifteen.
    let clock = Arc::clone(&scene.clock);
    scene.store.meanwhile(move || clock.pass(Duration::from_millis(500)));
    scene.find().await;
    let mut caught_up = Vec::new();
    for _ in 0..40 {
        let before = scene.clock.monotonic();
        let result = scene.cycle().await;
        let took = scene.clock.monotonic().saturating_sub(before);
        caught_up.push(scene.heard.caught_up.lock().expect("no panic").len());
        match result {
            Err(ReplicationError::Waiting { is_catching_up: true, .. }) => {
                assert!(took < Duration::from_secs(15 + 8), "one point more than the time for it: {took:?}");
            }
            Ok(_) => break,
            other => panic!("{other:?}"),
        }
        scene.pass(15).await;
    }
    assert!(caught_up.len() > 2, "not in one cycle: {caught_up:?}");
    assert!(caught_up.is_sorted_by(|one, other| one < other), "each cycle catches up a little: {caught_up:?}");
    scene.store.meanwhile(|| {});
    scene.cycle().await.expect("the vault answers");
    assert_eq!(scene.right_points().await.len(), 1 + 8 + caught_up.len() + 1);
}

/// Turns come more often than captures have to while points wait.
#[tokio::test]
async fn who_looks_for_the_vault_captures_no_more_often_for_that() {
    let mut scene = Scene::new(CatchUp::EveryPoint).await;
    scene.cycle().await.expect("the vault answers");
    scene.lose();
    for _ in 0..3 {
        assert_eq!(waits(&scene.cycle_of(Wishes::default()).await), 1, "the one that waits is young");
    }
    assert_eq!(waits(&scene.cycle().await), 2, "somebody asked for one");
    scene.find().await;
    // What waited comes in, and the cycle makes a point of its own: the next is due an objective from now.
    let report = scene.cycle_of(Wishes::default()).await.expect("all that waited is there");
    assert_eq!((scene.right_points().await.len(), scene.files()), (4, 0));
    assert_eq!((bases(&report.point), report.point.note.as_str()), (vec![Basis::Tracked; 2], ""));
}

/// Whoever asks for a point gets one of after the question, or an error: never an older one, and never one without its label.
#[tokio::test]
async fn whoever_asks_gets_their_own_point() {
    let mut scene = Scene::new(CatchUp::EveryPoint).await;
    scene.cycle().await.expect("the vault answers");
    scene.lose();
    waits(&scene.cycle().await);
    scene.find().await;
    scene.room.limit(1);
    let label: PointLabel = "now".parse().expect("a label");
    let wishes = Wishes { label: Some(label.clone()), is_asked: true, ..Wishes::default() };
    let report = scene.cycle_of(wishes).await.expect("the vault answers");
    assert_eq!(report.point.label, Some(label), "it could not wait, and was made in the vault");
    let points = scene.right_points().await;
    assert_eq!(points.len(), 3);
    // A site that does not answer is said to be, whatever comes in.
    scene.room.limit(1 << 30);
    scene.lose();
    waits(&scene.cycle().await);
    scene.find().await;
    scene.site.break_captures(true);
    let error = scene.cycle().await.expect_err("the capture breaks");
    assert!(matches!(error, ReplicationError::Site { .. } | ReplicationError::Read { .. }), "{error:?}");
    scene.site.break_captures(false);
    assert_eq!(scene.right_points().await.len(), 4, "what waited came in");
}

/// While the vault is lost, a capture that fails says why, and the next one waits as always.
#[tokio::test]
async fn a_capture_that_fails_in_an_outage_is_no_vaults_fault() {
    let mut scene = Scene::new(CatchUp::EveryPoint).await;
    scene.cycle().await.expect("the vault answers");
    scene.store.swallow(true);
    scene.lose();
    assert_eq!(waits(&scene.cycle().await), 1);
    scene.find().await;
    scene.cycle().await.expect("the vault answers");
    scene.lose();
    // Lost again, with nothing that waits.
    scene.site.break_captures(true);
    for _ in 0..2 {
        let before = scene.clock.monotonic();
        let error = scene.cycle().await.expect_err("the capture breaks");
        assert!(matches!(error, ReplicationError::Site { .. } | ReplicationError::Read { .. }), "{error:?}");
        let took = scene.clock.monotonic().saturating_sub(before);
        assert!(took <= Duration::from_secs(15), "no vault is waited for: {took:?}");
    }
    scene.site.break_captures(false);
    assert_eq!(waits(&scene.cycle().await), 1);
    let Err(ReplicationError::Waiting { source: Some(source), .. }) = scene.cycle().await else { panic!("a reason") };
    assert_eq!(source.code().to_string(), "FS4010", "as whoever asked last found");
    scene.store.swallow(false);
    scene.find().await;
    scene.cycle().await.expect("the vault answers");
    scene.right_points().await;
}

/// A vault that never answers is not waited for longer than its patience.
#[tokio::test]
async fn a_black_hole_is_not_waited_for() {
    let mut scene = Scene::new(CatchUp::EveryPoint).await;
    scene.cycle().await.expect("the vault answers");
    scene.store.swallow(true);
    scene.lose();
    let before = scene.clock.monotonic();
    let result = scene.cycle().await;
    assert_eq!(waits(&result), 1);
    assert_eq!(scene.clock.monotonic().saturating_sub(before), Duration::from_secs(15), "one objective");
    let Err(ReplicationError::Waiting { source: Some(source), .. }) = result else { panic!("a reason") };
    assert_eq!(source.code().to_string(), "FS4010");
    // From then on a point is made in each objective's time, though the vault is asked again and again.
    for number in 2..12 {
        let before = scene.clock.monotonic();
        assert_eq!(waits(&scene.cycle().await), number);
        let took = scene.clock.monotonic().saturating_sub(before);
        assert!(took < Duration::from_secs(15), "{took:?} of an objective of 15 s");
        scene.pass(15 - took.as_secs()).await;
    }
    scene.store.swallow(false);
    scene.find().await;
    scene.cycle().await.expect("the vault answers");
    assert_eq!(scene.right_points().await.len(), 14 - 1);
}

/// The clock of a wall that shows a minute of a Thursday for ever.
struct Stopped;

#[async_trait::async_trait]
impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_milliseconds(30_000)
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }

    async fn sleep(&self, duration: Duration) {
        SystemClock.sleep(duration).await;
    }
}

/// Counts how often it hears that a cycle began.
#[derive(Default)]
struct Begun(AtomicUsize);

impl WatchObserver for Begun {
    fn begun(&self, _: &GroupName, _: Duration) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn committed(&self, _: &CycleReport, _: Duration, _: Option<Duration>) {}
    fn failed(&self, _: &GroupName, _: &ReplicationError, _: u32, _: Option<Duration>) {}
    fn application_failed(&self, _: &GroupName, _: &ReplicationError, _: Duration) {}
    fn waits(&self, _: &GroupName, _: &ReplicationError, _: Option<Duration>) {}
    fn rests(&self, _: &GroupName, _: Option<Duration>) {}
    fn stopped(&self, _: &GroupName) {}
}

#[tokio::test]
async fn in_a_blackout_what_waits_comes_in_and_no_guest_is_touched() {
    let mut scene = Scene::new(CatchUp::EveryPoint).await;
    scene.cycle().await.expect("the vault answers");
    scene.lose();
    for _ in 0..2 {
        waits(&scene.cycle().await);
    }
    let captures = scene.site.asked().len();
    let only = || Wishes { only_catches_up: true, ..Wishes::default() };
    assert_eq!(waits(&scene.cycle_of(only()).await), 2, "the vault is still lost");
    scene.find().await;

    let thursdays = "thu 00:00-00:01".parse().expect("hours");
    let blackout = Timetable::new(Zone::utc(), vec![(thursdays, ())]);
    let objective = Objective { rpo: Duration::from_millis(50) };
    let (site, newest_age) = (SiteName::new("production").expect("a name"), Some(Duration::ZERO));
    let turns = Turns { site, objective, priority: Priority::Normal, newest_age };
    let watched = Watched { replicator: scene.replicator(), turns, application: None, blackout };
    let ((sender, orders), stop, begun) = (orders(), CancellationToken::new(), Begun::default());
    sender.send(Order::Protect(Box::new(watched))).await.expect("there is room");
    let both = Stop::at_once(&stop);
    let story = async {
        while scene.waiting() > 0 {
            SystemClock.sleep(Duration::from_millis(5)).await;
        }
        // One more turn may have begun by now; then there is nothing to do until the blackout ends.
        SystemClock.sleep(Duration::from_millis(300)).await;
        let cycles = begun.0.load(Ordering::SeqCst);
        SystemClock.sleep(Duration::from_millis(300)).await;
        assert_eq!(begun.0.load(Ordering::SeqCst), cycles, "nothing waits any more");
        stop.cancel();
    };
    tokio::join!(watch(orders, Schedule::new(1), &Stopped, &begun, &both), story);
    assert_eq!(scene.site.asked().len(), captures, "no guest was touched");
    assert_eq!((scene.right_points().await.len(), scene.files(), scene.site.captures()), (3, 0, 0));
    let nothing = scene.cycle_of(only()).await.expect_err("there is nothing to do");
    assert!(matches!(nothing, ReplicationError::NothingWaits { .. }), "{nothing:?}");
    assert_eq!(bases(&scene.cycle().await.expect("the vault answers").point), [Basis::Tracked; 2]);
    scene.right_points().await;
}

/// What happens to the way to the vault, to the source and to the host, in any order.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Cycle,
    Lose,
    LoseAfter(i64),
    Find,
    Pass(u64),
    LoseTracking,
    Restart,
    Limit(u64),
    /// A turn comes.
    Turn,
    /// Something is wrong with a machine, or nothing.
    Ail(&'static str, Option<Ill>),
}

const ILLS: [Ill; 4] = [Ill::CannotBegin, Ill::Missing, Ill::Unreached, Ill::Unreadable];

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        8 => Just(Deed::Cycle),
        2 => Just(Deed::Lose),
        2 => (0..20i64).prop_map(Deed::LoseAfter),
        3 => Just(Deed::Find),
        3 => (1..30u64).prop_map(Deed::Pass),
        1 => Just(Deed::LoseTracking),
        1 => Just(Deed::Restart),
        1 => (0..2_000_000u64).prop_map(Deed::Limit),
        3 => Just(Deed::Turn),
        3 => (prop::bool::ANY, prop::option::of(prop::sample::select(&ILLS[..])))
            .prop_map(|(is_web, ill)| Deed::Ail(if is_web { "web" } else { "db" }, ill)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("FARSHORE_LONG").is_some() { 2_000 } else { 48 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever happens, every point of the vault is what the disks were, in the order of their instants; once the vault is there, nothing
    /// waits and nothing is left; and no point is made twice.
    #[test]
    fn points_are_right_whatever_happens_to_the_way(
        deeds in prop::collection::vec(deed(), 1..40),
        newest: bool,
        suspends: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut scene = Scene::new(if newest { CatchUp::Newest } else { CatchUp::EveryPoint }).await;
            scene.suspensions = suspends.then(Arc::default);
            scene.cycle().await.expect("the vault answers");
            for deed in &deeds {
                match deed {
                    Deed::Cycle => drop(scene.cycle().await),
                    Deed::Lose => scene.lose(),
                    Deed::LoseAfter(operations) => scene.store.lose_after(*operations),
                    Deed::Find => scene.store.find(),
                    Deed::Pass(seconds) => scene.pass(*seconds).await,
                    Deed::LoseTracking => scene.site.lose_tracking(),
                    Deed::Restart => scene.restart().await,
                    Deed::Limit(bytes) => scene.room.limit(*bytes),
                    Deed::Turn => drop(scene.cycle_of(Wishes::default()).await),
                    Deed::Ail(machine, ill) => scene.site.ail(machine, *ill),
                }
            }
            scene.find().await;
            ["web", "db"].iter().for_each(|machine| scene.site.ail(machine, None));
            for _ in 0..3 {
                let _ = scene.cycle().await;
                scene.pass(600).await;
            }
            scene.cycle().await.expect("all is well again");
            let points = scene.right_points().await;
            let instants: Vec<_> = points.iter().map(|point| point.captured_at).collect();
            assert!(instants.is_sorted(), "{instants:?}");
            for machine in ["web", "db"].map(machine_id) {
                let parts = points.iter().map(|point| Some(point.captured(point.machine(&machine)?)));
                let parts: Vec<_> = parts.map(|captured| captured.expect("each point has both")).collect();
                assert!(parts.is_sorted(), "no point has older bytes of {machine} than the one before: {parts:?}");
            }
            let last = points.last().expect("there are points");
            assert_eq!(last.oldest_part(), last.captured_at, "all machines are back");
            assert!(suspends || points.iter().all(|point| point.behind().count() == 0), "nobody asked for that");
            let mut captures: Vec<_> = points.iter().map(|point| point.capture).collect();
            captures.sort();
            captures.dedup();
            assert_eq!(captures.len(), points.len(), "no capture is two points");
            assert_eq!((scene.waiting(), scene.files(), scene.room.used_bytes(), scene.site.captures()), (0, 0, 0, 0));
        });
    }
}
