//! What holds for a group that goes on without a machine that cannot be captured: the others' points are right, those of this machine are what it
//! was and say when, nothing is left at the source, and it comes back with a delta.

#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use std::{sync::Arc, time::Duration};

use farshore_core::{Basis, Clock as _, Coded as _, Consistency, Instant, PowerState};
use farshore_replication::{CatchUp, CycleReport, ReplicationError, Wishes};
use farshore_vault::Point;
use support::{
    Ill, machine_id,
    scene::{Scene, bases, waits},
};
use tokio_util::sync::CancellationToken;

/// With machines that may be suspended.
async fn scene(catch_up: CatchUp) -> Scene {
    Scene { suspensions: Some(Arc::default()), ..Scene::new(catch_up).await }
}

/// A cycle that nobody asked for.
async fn turn(scene: &mut Scene) -> Result<CycleReport, ReplicationError> {
    scene.cycle_of(Wishes::default()).await
}

fn is_behind(point: &Point, machine: &str) -> bool {
    point.behind().any(|behind| behind.machine == machine_id(machine))
}

fn told(scene: &Scene) -> Vec<(String, Option<String>)> {
    let told = scene.heard.suspended.lock().expect("no panic");
    told.iter().map(|(machine, code)| (machine.to_string(), code.clone())).collect()
}

const ILLS: [(Ill, &str); 4] =
    [(Ill::CannotBegin, "FS3007"), (Ill::Missing, "FS4003"), (Ill::Unreached, "FS4013"), (Ill::Unreadable, "FS3104")];

#[tokio::test]
async fn the_others_go_on_and_it_comes_back_with_a_delta() {
    for (ill, code) in ILLS {
        let mut scene = scene(CatchUp::EveryPoint).await;
        let whole = turn(&mut scene).await.expect("both are well").point;
        scene.site.ail("db", Some(ill));
        if ill == Ill::Unreadable {
            // It is known when the capture is being read.
            let error = turn(&mut scene).await.expect_err("the point is all or nothing");
            assert!(matches!(error, ReplicationError::Suspending { .. }) && !error.is_final(), "{error:?}");
        }
        for _ in 0..3 {
            let without = turn(&mut scene).await.expect("the other goes on").point;
            assert_eq!(without.oldest_part(), whole.captured_at, "{ill:?}");
            assert!(without.captured_at > whole.captured_at && is_behind(&without, "db"), "{ill:?}");
            assert_eq!(
                (without.instant, without.note.as_str()),
                (Instant::Machine, "without db, which could not be captured")
            );
            assert_eq!((scene.site.captures(), scene.site.tracked("db")), (0, 1), "{ill:?}");
        }
        assert_eq!(told(&scene), [("db".to_owned(), Some(code.to_owned()))], "it is said once");
        scene.site.ail("db", None);
        if ill != Ill::Missing {
            scene.pass(700).await;
        }
        let back = turn(&mut scene).await.expect("both are well").point;
        assert_eq!((back.behind().count(), back.instant, back.note.as_str()), (0, Instant::Group, ""), "{ill:?}");
        assert_eq!(bases(&back), [Basis::Tracked; 2], "{ill:?}: its tracking went on");
        assert_eq!(told(&scene)[1..], [("db".to_owned(), None)], "{ill:?}");
        assert_eq!((scene.site.captures(), scene.site.tracked("web"), scene.site.tracked("db")), (0, 1, 1), "{ill:?}");
        assert_eq!(scene.right_points().await.len(), 5, "{ill:?}");
    }
}

#[tokio::test]
async fn without_the_policy_a_point_is_all_or_nothing() {
    for (ill, code) in ILLS {
        let mut scene = Scene::new(CatchUp::EveryPoint).await;
        turn(&mut scene).await.expect("both are well");
        scene.site.ail("db", Some(ill));
        let expected = if ill == Ill::Unreached { "FS3003" } else { code };
        for _ in 0..2 {
            let error = turn(&mut scene).await.expect_err("no point");
            assert_eq!(error.code().to_string(), expected, "{error:?}");
        }
        assert_eq!((told(&scene), scene.site.captures()), (vec![], 0));
        scene.site.ail("db", None);
        assert_eq!(bases(&turn(&mut scene).await.expect("both are well").point), [Basis::Tracked; 2]);
        assert_eq!(scene.right_points().await.len(), 2);
    }
}

#[tokio::test]
async fn the_last_machine_is_not_suspended() {
    for (ill, code) in ILLS {
        let mut scene = scene(CatchUp::EveryPoint).await;
        turn(&mut scene).await.expect("both are well");
        ["web", "db"].iter().for_each(|name| scene.site.ail(name, Some(ill)));
        for _ in 0..3 {
            let error = turn(&mut scene).await.expect_err("there is nothing to capture");
            let expected = if ill == Ill::Unreached { "FS3003" } else { code };
            assert_eq!(error.code().to_string(), expected, "{error:?}");
        }
        // One that was suspended first is back when it can be.
        ["web", "db"].iter().for_each(|name| scene.site.ail(name, None));
        scene.pass(700).await;
        let point = turn(&mut scene).await.expect("both are well").point;
        assert_eq!((point.behind().count(), bases(&point)), (0, vec![Basis::Tracked; 2]), "{ill:?}");
        assert_eq!(scene.right_points().await.len(), 2, "{ill:?}");
    }
}

#[tokio::test]
async fn a_platform_that_never_says_whether_machines_run_blames_none_for_that() {
    let mut scene = scene(CatchUp::EveryPoint).await;
    scene.site.ail("web", Some(Ill::Unclear));
    turn(&mut scene).await.expect("both are well");
    scene.site.ail("db", Some(Ill::Unreached));
    let point = turn(&mut scene).await.expect("the other goes on").point;
    assert!(is_behind(&point, "db") && !is_behind(&point, "web"), "each was tried alone");
    scene.right_points().await;
}

#[tokio::test]
async fn who_was_to_come_back_is_suspected_first() {
    let mut scene = scene(CatchUp::EveryPoint).await;
    turn(&mut scene).await.expect("both are well");
    scene.site.ail("db", Some(Ill::CannotBegin));
    let begun = scene.site.asked().len();
    turn(&mut scene).await.expect("the other goes on");
    assert_eq!(scene.site.asked().len(), begun + 2, "the other alone, and the point");
    scene.pass(11).await;
    turn(&mut scene).await.expect("the other goes on");
    assert_eq!(scene.site.asked().len(), begun + 3, "the point: nobody else is tried for it");
}

#[tokio::test]
async fn one_that_is_well_is_not_suspended_for_another() {
    let mut scene = scene(CatchUp::EveryPoint).await;
    turn(&mut scene).await.expect("both are well");
    scene.site.ail("db", Some(Ill::CannotBegin));
    turn(&mut scene).await.expect("the other goes on");
    // By the time it is well, and may come back, the other cannot be captured.
    scene.site.ail("db", None);
    scene.site.ail("web", Some(Ill::CannotBegin));
    scene.pass(11).await;
    let point = turn(&mut scene).await.expect("it is well").point;
    assert!(is_behind(&point, "web") && !is_behind(&point, "db"), "{}", point.note);
    scene.right_points().await;
}

#[tokio::test]
async fn of_two_that_were_suspended_together_the_one_that_is_well_comes_back() {
    let mut scene = scene(CatchUp::EveryPoint).await;
    scene.add_machine("cache");
    turn(&mut scene).await.expect("all are well");
    ["db", "cache"].iter().for_each(|name| scene.site.ail(name, Some(Ill::Unreached)));
    let point = turn(&mut scene).await.expect("one goes on").point;
    assert_eq!(point.behind().count(), 2);
    scene.site.ail("cache", None);
    let mut is_back = false;
    for _ in 0..4 {
        scene.pass(700).await;
        is_back |= !is_behind(&turn(&mut scene).await.expect("one goes on at least").point, "cache");
    }
    assert!(is_back, "it does not wait for the other");
    let last = turn(&mut scene).await.expect("two go on").point;
    assert!(is_behind(&last, "db") && !is_behind(&last, "cache"), "{}", last.note);
    scene.right_points().await;
}

#[tokio::test]
async fn nobody_is_tried_alone_all_the_time_when_nobody_is_to_blame() {
    let mut scene = scene(CatchUp::EveryPoint).await;
    turn(&mut scene).await.expect("both are well");
    scene.site.refuse_together(true);
    let begun = scene.site.asked().len();
    for _ in 0..5 {
        turn(&mut scene).await.expect_err("together they cannot");
    }
    assert_eq!(scene.site.asked().len(), begun + 2, "each was tried once");
    scene.site.refuse_together(false);
    assert_eq!(turn(&mut scene).await.expect("both are well").point.behind().count(), 0);
    assert_eq!((told(&scene), scene.site.captures()), (vec![], 0));
}

/// It goes between the commit and the release: what the point has of it is what its tracking leads from, whatever points come after.
#[tokio::test]
async fn one_that_goes_before_its_capture_is_released_comes_back_with_a_delta() {
    let mut scene = scene(CatchUp::EveryPoint).await;
    turn(&mut scene).await.expect("both are well");
    scene.site.hold_on_to("db", true);
    turn(&mut scene).await.expect("it became a point, and is not released");
    scene.site.ail("db", Some(Ill::CannotBegin));
    for _ in 0..3 {
        assert!(is_behind(&turn(&mut scene).await.expect("the other goes on").point, "db"));
    }
    scene.site.hold_on_to("db", false);
    scene.pass(700).await;
    assert!(is_behind(&turn(&mut scene).await.expect("the other goes on").point, "db"), "its capture is released");
    scene.site.ail("db", None);
    scene.pass(700).await;
    let back = turn(&mut scene).await.expect("both are well").point;
    assert_eq!((back.behind().count(), bases(&back)), (0, vec![Basis::Tracked; 2]));
    assert_eq!((scene.site.captures(), scene.site.tracked("web"), scene.site.tracked("db")), (0, 1, 1));
    scene.right_points().await;
}

#[tokio::test]
async fn one_that_no_point_has_is_left_out_and_comes_later() {
    let mut scene = scene(CatchUp::EveryPoint).await;
    scene.site.ail("db", Some(Ill::CannotBegin));
    let first = turn(&mut scene).await.expect("the other goes on").point;
    assert!(first.machine(&machine_id("db")).is_none() && first.machine(&machine_id("web")).is_some());
    assert_eq!((first.instant, first.note.as_str()), (Instant::Group, "without db, which could not be captured"));
    scene.site.ail("db", None);
    scene.pass(700).await;
    let both = turn(&mut scene).await.expect("both are well").point;
    assert_eq!(bases(&both), [Basis::Tracked, Basis::Full]);
    scene.right_points().await;
}

#[tokio::test]
async fn it_is_tried_after_its_pause_or_when_somebody_asks() {
    let mut scene = scene(CatchUp::EveryPoint).await;
    turn(&mut scene).await.expect("both are well");
    scene.site.ail("db", Some(Ill::CannotBegin));
    turn(&mut scene).await.expect("the other goes on");
    scene.site.ail("db", None);
    let paused = turn(&mut scene).await.expect("the other goes on").point;
    assert!(is_behind(&paused, "db"), "nobody knows yet that it is well");
    scene.site.ail("db", Some(Ill::CannotBegin));
    scene.pass(11).await;
    turn(&mut scene).await.expect("it was tried");
    scene.site.ail("db", None);
    scene.pass(11).await;
    assert!(is_behind(&turn(&mut scene).await.expect("the other goes on").point, "db"), "its pause is longer now");
    let asked = scene.cycle().await.expect("both are well").point;
    assert!(!is_behind(&asked, "db"), "whoever asks has not to wait");
    scene.right_points().await;
}

#[tokio::test]
async fn a_point_at_rest_is_all_or_nothing() {
    let mut scene = scene(CatchUp::EveryPoint).await;
    turn(&mut scene).await.expect("both are well");
    scene.site.ail("db", Some(Ill::CannotBegin));
    let wishes = Wishes { consistency: Some(Consistency::Application), ..Wishes::default() };
    let error = scene.cycle_of(wishes).await.expect_err("an ordinary point takes its place");
    assert!(matches!(error, ReplicationError::Site { .. }) && told(&scene).is_empty(), "{error:?}");
    assert!(is_behind(&turn(&mut scene).await.expect("the other goes on").point, "db"));
}

#[tokio::test]
async fn a_machine_that_is_off_is_described_by_the_point_before() {
    let mut scene = Scene::new(CatchUp::EveryPoint).await;
    scene.site.ail("db", Some(Ill::Off));
    let error = turn(&mut scene).await.expect_err("nobody knows what it is");
    assert_eq!((error.code().to_string(), error.is_final()), ("FS4012".to_owned(), false));
    scene.site.ail("db", None);
    let on = turn(&mut scene).await.expect("it is on").point;
    scene.site.ail("db", Some(Ill::Off));
    for _ in 0..2 {
        let off = turn(&mut scene).await.expect("it can be captured").point;
        let (was, is) = (on.machine(&machine_id("db")).expect("there"), off.machine(&machine_id("db")).expect("there"));
        assert_eq!(is.machine.power, PowerState::Off);
        assert_eq!((is.machine.cpus, &is.machine.disks), (was.machine.cpus, &was.machine.disks));
        assert_eq!((is.disks[0].basis, off.behind().count()), (Basis::Tracked, 0));
    }
    scene.lose();
    waits(&turn(&mut scene).await);
    scene.pass(10).await;
    waits(&scene.cycle().await);
    scene.find().await;
    scene.cycle().await.expect("all are in the vault");
    assert_eq!(scene.right_points().await.len(), 6);
}

#[tokio::test]
async fn a_host_that_is_killed_while_it_looks_for_who_fails_leaves_nothing() {
    for ill in [Ill::CannotBegin, Ill::Unreached, Ill::Unreadable] {
        let mut calls = 0;
        for call in 0.. {
            let mut scene = scene(CatchUp::EveryPoint).await;
            turn(&mut scene).await.expect("both are well");
            scene.site.ail("db", Some(ill));
            scene.write_and_remember();
            scene.site.stop_at(Some(call));
            let (replicator, stop) = (scene.replicator(), CancellationToken::new());
            let was_killed = tokio::select! {
                _ = replicator.cycle(Wishes::default(), &stop) => false,
                () = scene.site.was_stopped() => true,
            };
            scene.site.stop_at(None);
            drop(replicator);
            if !was_killed {
                calls = call;
                break;
            }
            // Another process knows nothing of who was suspended.
            scene.suspensions = Some(Arc::default());
            let again = turn(&mut scene).await;
            assert!(again.is_ok() || ill == Ill::Unreadable, "{ill:?}, killed at call {call}: {again:?}");
            scene.site.ail("db", None);
            scene.pass(700).await;
            let back = turn(&mut scene).await.expect("both are well").point;
            assert_eq!(bases(&back), [Basis::Tracked; 2], "{ill:?}, killed at call {call}");
            let left = (scene.site.captures(), scene.site.tracked("web"), scene.site.tracked("db"));
            assert_eq!(left, (0, 1, 1), "{ill:?}, killed at call {call}");
            scene.right_points().await;
        }
        assert!(calls > 6, "{ill:?}: {calls} calls");
    }
}

#[tokio::test]
async fn points_that_wait_know_who_is_behind() {
    for catch_up in [CatchUp::EveryPoint, CatchUp::Newest] {
        let mut scene = scene(catch_up).await;
        turn(&mut scene).await.expect("both are well");
        scene.lose();
        waits(&scene.cycle().await);
        scene.site.ail("db", Some(Ill::CannotBegin));
        for _ in 0..2 {
            waits(&scene.cycle().await);
        }
        scene.site.ail("db", None);
        scene.pass(700).await;
        for _ in 0..2 {
            waits(&scene.cycle().await);
        }
        scene.find().await;
        scene.cycle().await.expect("all are in the vault");
        let points = scene.right_points().await;
        let behind: Vec<bool> = points.iter().map(|point| is_behind(point, "db")).collect();
        match catch_up {
            CatchUp::EveryPoint => {
                assert_eq!(behind, [false, false, true, true, false, false, false]);
                assert_eq!(points[3].oldest_part(), points[1].captured_at, "what waited before it has of the machine");
            }
            // What a machine was when it was captured last is not mixed with what others were later.
            CatchUp::Newest => {
                assert_eq!(behind, [false, false, true, false]);
                assert_eq!(points[2].oldest_part(), points[1].captured_at);
            }
        }
        assert!(points[1..].iter().all(|point| bases(point) == [Basis::Tracked; 2]), "no disk was compared");
        assert_eq!(scene.heard.given_up.lock().expect("no panic").len(), 0);
        let next = scene.cycle().await.expect("the vault answers").point;
        assert_eq!((bases(&next), scene.site.tracked("db")), (vec![Basis::Tracked; 2], 1));
    }
}

#[tokio::test]
async fn who_cannot_wait_does_not_keep_the_others_from_it() {
    let mut scene = scene(CatchUp::EveryPoint).await;
    turn(&mut scene).await.expect("both are well");
    scene.lose();
    scene.site.lose_tracking_of("db");
    let error = scene.cycle().await.expect_err("it must be compared, and that needs the vault");
    assert!(matches!(error, ReplicationError::Suspending { .. }), "{error:?}");
    scene.clock.sleep(Duration::from_secs(1)).await;
    waits(&turn(&mut scene).await);
    scene.find().await;
    scene.pass(700).await;
    let point = scene.cycle().await.expect("all are in the vault").point;
    assert_eq!(scene.heard.given_up.lock().expect("no panic").len(), 0);
    assert!(!is_behind(&point, "db") || scene.cycle().await.is_ok_and(|report| !is_behind(&report.point, "db")));
    scene.right_points().await;
}
