//! A group is never called `ok` while its newest point is older than its objective, whatever its clock says.

use std::sync::atomic::{AtomicI64, Ordering};

use farshore_core::{Consistency, Firmware, Generation, Instant, LineageId, Machine, PowerState, SessionId};
use farshore_vault::PointMachine;
use proptest::prelude::*;

use super::*;
use crate::PhaseTimes;

/// A clock of two hands: the civil one can be put anywhere.
#[derive(Default)]
struct TwoHands {
    passed_milliseconds: AtomicI64,
    civil_ahead_milliseconds: AtomicI64,
}

impl TwoHands {
    fn pass(&self, milliseconds: u32) {
        self.passed_milliseconds.fetch_add(milliseconds.into(), Ordering::SeqCst);
    }

    fn put(&self, by_milliseconds: i64) {
        self.civil_ahead_milliseconds.fetch_add(by_milliseconds, Ordering::SeqCst);
    }
}

#[async_trait::async_trait]
impl Clock for TwoHands {
    fn now(&self) -> Timestamp {
        let passed = self.passed_milliseconds.load(Ordering::SeqCst);
        let civil = 1_800_000_000_000 + passed + self.civil_ahead_milliseconds.load(Ordering::SeqCst);
        Timestamp::from_unix_milliseconds(civil)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.passed_milliseconds.load(Ordering::SeqCst).unsigned_abs())
    }

    async fn sleep(&self, _: Duration) {
        unreachable!("nothing here waits");
    }
}

fn group() -> GroupName {
    GroupName::new("shop").expect("a name")
}

fn board(clock: &Arc<TwoHands>, rpo: Duration) -> Board {
    let board = Board::new(Arc::clone(clock) as _);
    board.put(&group(), &SiteName::new("production").expect("a name"), rpo, Timetable::default());
    board
}

fn report(sequence: u64, captured_at: Timestamp, lag: Duration) -> CycleReport {
    let point = Point {
        sequence: Sequence::new(sequence),
        generation: Generation::FIRST,
        lineage: LineageId::from_bytes([1; 16]),
        site: SiteName::new("production").expect("a name"),
        session: SessionId::from_bytes([2; 16]),
        parent: None,
        capture: None,
        captured_at,
        committed_at: captured_at,
        instant: Instant::Group,
        consistency: Consistency::Crash,
        machines: Vec::new(),
        capsule: Vec::new(),
        stats: Default::default(),
        label: None,
        note: String::new(),
    };
    CycleReport {
        group: group(),
        point,
        read_bytes: 10,
        zero_bytes: 0,
        untracked_bytes: 0,
        held_microseconds: 7,
        lag_milliseconds: milliseconds(lag),
        times: PhaseTimes::default(),
        release_note: String::new(),
    }
}

fn only(board: &Board) -> GroupStatus {
    let mut all = board.all();
    all.pop().expect("a group").0
}

#[test]
fn nothing_is_ok_before_it_is_known_and_a_group_gets_late_while_nothing_happens() {
    let clock = Arc::new(TwoHands::default());
    let board = board(&clock, Duration::from_secs(60));
    assert_eq!((only(&board).state, board.unknown()), (GroupState::Unknown, vec![group()]));
    assert_eq!(board.judge(), [], "it has just come");
    board.read(&group(), Newest::Unknown);
    clock.pass(60_001);
    let judged = board.judge();
    assert!(judged.len() == 1 && judged[0].is_late && judged[0].status.state == GroupState::Unknown);
    assert_eq!(board.judge(), [], "it is told once");
    board.read(&group(), Newest::None);
    assert_eq!(only(&board).state, GroupState::Unprotected);
    assert_eq!(board.judge(), []);

    board.begun(&group());
    clock.pass(500);
    let captured_at = clock.now();
    clock.pass(1_500);
    let (failing, age) =
        board.committed(&report(1, captured_at, Duration::from_millis(1_500)), Some(Duration::from_secs(9)));
    assert_eq!((failing, age), (None, None));
    let status = only(&board);
    assert_eq!((status.state, status.age_milliseconds), (GroupState::Ok, Some(1_500)));
    assert_eq!(status.activity, Activity::Waiting { due_in_milliseconds: 9_000 });
    let judged = board.judge();
    assert!(
        judged.len() == 1 && !judged[0].is_late && judged[0].late_for == Duration::from_millis(2_000),
        "{judged:?}"
    );
    clock.pass(58_500);
    assert_eq!((only(&board).state, board.judge().len()), (GroupState::Ok, 0), "the objective itself is met");
    clock.pass(1);
    assert_eq!((only(&board).state, board.judge().len()), (GroupState::Late, 1));
}

/// A point that has of one machine what an earlier one had.
fn report_behind(sequence: u64, captured_at: Timestamp, part: Timestamp) -> CycleReport {
    let mut report = report(sequence, captured_at, Duration::ZERO);
    let id = MachineId::new("db").expect("a name");
    let machine = Machine {
        name: id.to_string(),
        id,
        cpus: 1,
        memory_bytes: 1,
        firmware: Firmware::Bios,
        power: PowerState::Running,
        disks: Vec::new(),
        network_interfaces: Vec::new(),
        properties: BTreeMap::new(),
    };
    report.point.machines = vec![PointMachine { machine, disks: Vec::new(), captured_at: Some(part) }];
    report
}

#[test]
fn a_group_is_as_old_as_the_machine_that_is_furthest_behind_whatever_the_clock_says() {
    let clock = Arc::new(TwoHands::default());
    let board = board(&clock, Duration::from_secs(60));
    let part = clock.now();
    board.committed(&report(1, part, Duration::ZERO), None);
    clock.pass(40_000);
    board.committed(&report_behind(2, clock.now(), part), None);
    assert_eq!((only(&board).state, only(&board).age_milliseconds), (GroupState::Ok, Some(40_000)));
    assert_eq!(only(&board).newest.expect("a point").behind.len(), 1);
    // The clock on the wall is put back, and another point follows.
    clock.put(-3_600_000);
    clock.pass(21_000);
    board.committed(&report_behind(3, clock.now(), part), None);
    assert_eq!((only(&board).state, only(&board).age_milliseconds), (GroupState::Late, Some(61_000)));
    clock.pass(1_000);
    board.committed(&report(4, clock.now(), Duration::ZERO), None);
    assert_eq!((only(&board).state, only(&board).age_milliseconds), (GroupState::Ok, Some(0)));
}

#[test]
fn a_group_without_one_of_its_machines_gets_late_and_says_why() {
    let clock = Arc::new(TwoHands::default());
    let board = board(&clock, Duration::from_secs(60));
    let db = MachineId::new("db").expect("a name");
    board.committed(&report(1, clock.now(), Duration::ZERO), None);
    board.suspended(&group(), &db, Code::new(4003), "it is missing".to_owned(), None);
    let since = clock.now();
    for number in 2..5 {
        clock.pass(25_000);
        board.committed(&report(number, clock.now(), Duration::ZERO), None);
        board.suspended(
            &group(),
            &db,
            Code::new(4003 + u16::try_from(number).expect("small")),
            "again".to_owned(),
            None,
        );
    }
    let status = only(&board);
    assert_eq!((status.state, status.age_milliseconds), (GroupState::Late, Some(0)), "no point has the machine");
    let [suspended] = &status.suspended[..] else { panic!("{status:?}") };
    assert_eq!(
        (suspended.since, suspended.code.as_str()),
        (since, "FS4007"),
        "since the first, why as it was said last"
    );
    board.keep_machines(&group(), std::slice::from_ref(&db));
    assert_eq!(only(&board).suspended.len(), 1);
    board.returned(&group(), &db);
    assert_eq!((only(&board).state, only(&board).suspended.len()), (GroupState::Ok, 0));
    board.suspended(&group(), &db, Code::new(4003), "it is missing".to_owned(), Some(since));
    board.keep_machines(&group(), &[]);
    assert_eq!(only(&board).suspended.len(), 0, "it has left the group");
}

#[test]
fn what_the_vault_said_before_a_cycle_ended_does_not_count_after_it() {
    let clock = Arc::new(TwoHands::default());
    let board = board(&clock, Duration::from_secs(60));
    let old = PointStatus::from(&report(3, clock.now(), Duration::ZERO).point);
    clock.pass(1_000);
    board.committed(&report(4, clock.now(), Duration::ZERO), None);
    for said in [Newest::Point(old), Newest::None, Newest::Unknown] {
        board.read(&group(), said);
        assert_eq!(only(&board).newest.map(|newest| newest.point), Some(Sequence::new(4)));
    }
    let newer = PointStatus::from(&report(5, clock.now(), Duration::ZERO).point);
    board.read(&group(), Newest::Point(newer));
    assert_eq!(only(&board).newest.map(|newest| newest.point), Some(Sequence::new(5)), "another host made one");
}

#[test]
fn a_point_that_was_proven_bad_is_no_good_point() {
    let clock = Arc::new(TwoHands::default());
    let board = board(&clock, Duration::from_secs(60));
    board.committed(&report(1, clock.now(), Duration::ZERO), None);
    board.proven(&group(), None, Some(Sequence::new(1)));
    assert_eq!(only(&board).state, GroupState::Hurt);
    assert!(board.judge().first().is_some_and(|judged| judged.is_late));
    // A point that comes later may stand on the same damage: only a proof ends it.
    board.committed(&report(2, clock.now(), Duration::ZERO), None);
    assert_eq!(only(&board).state, GroupState::Hurt);
    let (captured_at, proven_at) = (clock.now(), clock.now());
    let proven = ProvenStatus { point: Sequence::new(2), captured_at, by: "full".to_owned(), proven_at };
    board.proven(&group(), Some(proven), None);
    assert_eq!(only(&board).state, GroupState::Ok);
    assert!(board.judge().first().is_some_and(|judged| !judged.is_late));
    // Of a group that is late already it is news all the same, and so is that it is only late.
    clock.pass(60_001);
    let judged = |board: &Board| {
        board.judge().into_iter().map(|judged| (judged.is_late, judged.status.state)).collect::<Vec<_>>()
    };
    assert_eq!(judged(&board), [(true, GroupState::Late)]);
    board.proven(&group(), None, Some(Sequence::new(2)));
    assert_eq!((judged(&board), judged(&board)), (vec![(true, GroupState::Hurt)], vec![]));
    board.proven(&group(), None, None);
    assert_eq!(judged(&board), [(true, GroupState::Late)]);
}

#[test]
fn failures_stand_beside_the_state_until_a_point_comes() {
    let clock = Arc::new(TwoHands::default());
    let board = board(&clock, Duration::from_secs(60));
    let fail = |code, failures| board.failed(&group(), Code::new(code), "why".to_owned(), false, failures, None);
    board.committed(&report(1, clock.now(), Duration::ZERO), None);
    let since = clock.now();
    assert!(fail(3001, 1) && !fail(3001, 2) && fail(3002, 3), "another code is news");
    assert!(!fail(3001, 3) && !fail(3002, 3), "and none that came before");
    clock.pass(10);
    let status = only(&board);
    let failing = status.failing.expect("it fails");
    assert_eq!((status.state, failing.failures, failing.since), (GroupState::Ok, 3, since));
    assert_eq!(failing.code, "FS3002");
    let (failing, _) = board.committed(&report(2, clock.now(), Duration::ZERO), None);
    assert_eq!((failing.map(|failing| failing.failures), only(&board).failing), (Some(3), None));
    assert_eq!(
        board.all()[0].1,
        Totals { committed: 2, failed: 5, read_bytes: 20, held_microseconds: 7, ..Totals::default() }
    );
    // Of a group that has gone nothing is kept.
    board.remove(&group());
    board.committed(&report(3, clock.now(), Duration::ZERO), None);
    assert!(board.all().is_empty() && !board.has(&group()));
}

/// What happens: time passes, the civil clock is put, a cycle begins, ends well, or fails.
#[derive(Debug, Clone)]
enum Step {
    Pass(u32),
    Put(i64),
    Begin,
    Commit,
    Fail,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u32..90_000).prop_map(Step::Pass),
        1 => (-100_000_000_i64..100_000_000).prop_map(Step::Put),
        2 => Just(Step::Begin),
        3 => Just(Step::Commit),
        1 => Just(Step::Fail),
    ]
}

proptest! {
    /// The oracle knows when each capture really was.
    #[test]
    fn no_group_is_ok_while_its_point_is_older_than_its_objective(steps in prop::collection::vec(step(), 1..80), rpo in 1_u32..120_000) {
        let clock = Arc::new(TwoHands::default());
        let rpo = Duration::from_millis(rpo.into());
        let board = board(&clock, rpo);
        let (mut capture, mut newest, mut sequence, mut is_late) = (None, None, 0, false);
        for step in steps {
            match step {
                Step::Pass(milliseconds) => clock.pass(milliseconds),
                Step::Put(by) => clock.put(by),
                Step::Begin => {
                    board.begun(&group());
                    capture = Some((clock.now(), clock.monotonic()));
                }
                Step::Commit => if let Some((captured_at, captured)) = capture.take() {
                    sequence += 1;
                    board.committed(&report(sequence, captured_at, clock.monotonic() - captured), None);
                    newest = Some(captured);
                },
                Step::Fail => {
                    capture = None;
                    board.failed(&group(), Code::new(3001), String::new(), false, 1, None);
                }
            }
            let true_age = newest.map(|captured| clock.monotonic() - captured);
            let status = only(&board);
            prop_assert!(status.state != GroupState::Ok || true_age.is_some_and(|age| age <= rpo), "{status:?} {true_age:?}");
            // Every miss is told at the first look after it, and never twice.
            for judged in board.judge() {
                prop_assert!(judged.is_late != is_late);
                is_late = judged.is_late;
            }
            prop_assert!(is_late || true_age.unwrap_or(clock.monotonic()) <= rpo);
        }
    }
}

/// The time of a blackout counts against nobody, and excuses nobody for longer than it lasts.
#[test]
fn a_blackout_is_no_miss_and_excuses_none() {
    let (clock, rpo) = (Arc::new(TwoHands::default()), Duration::from_secs(60));
    let board = Board::new(Arc::clone(&clock) as _);
    let hours = |text: &str| Timetable::new(farshore_core::Zone::utc(), vec![(text.parse().expect("hours"), ())]);
    let put = |rpo, blackout| board.put(&group(), &SiteName::new("production").expect("a name"), rpo, blackout);
    put(rpo, hours("08:10-09:00"));
    let state = || board.all()[0].0.state;
    // It is 08:00 by this clock at its beginning.
    board.committed(&report(1, clock.now(), Duration::ZERO), None);
    clock.pass(61_000);
    assert_eq!((state(), board.judge().len()), (GroupState::Late, 1));
    // A minute into the blackout: who was late before is late.
    clock.pass(600_000);
    assert_eq!((state(), board.judge().len()), (GroupState::Late, 0));
    let (status, _) = board.all().remove(0);
    assert_eq!(status.blackout_until.map(|until| until.to_string()), Some("2027-01-15T09:00:00.000Z".to_owned()));
    // A point that somebody asked for.
    board.committed(&report(2, clock.now(), Duration::ZERO), None);
    assert_eq!((state(), board.judge().len()), (GroupState::Ok, 1));
    clock.pass(600_000);
    assert_eq!((state(), board.judge().len()), (GroupState::Paused, 0));
    // What waits at this host is lost with it, blackout or not.
    board.spooled(&group(), 1, 100);
    assert_eq!(state(), GroupState::Late);
    board.spooled(&group(), 0, 0);
    // A second before an objective is over after its end, and one after that.
    clock.pass(3_600_000 - 1_261_000 + 59_000);
    assert_eq!((state(), board.judge().len()), (GroupState::Paused, 0));
    clock.pass(2_000);
    let judged = board.judge();
    assert!(matches!(judged.as_slice(), [Judged { is_late: true, .. }]), "{judged:?}");

    // An objective of a day, and a blackout each night: the nights are not counted, and the days are.
    put(Duration::from_secs(86_400), hours("20:00-06:00"));
    board.committed(&report(3, clock.now(), Duration::ZERO), None);
    assert_eq!((state(), board.judge().len()), (GroupState::Ok, 1));
    clock.pass(26 * 3_600_000);
    assert_eq!(state(), GroupState::Paused);
    clock.pass(22 * 3_600_000);
    assert_eq!((state(), board.judge().len()), (GroupState::Late, 1));
    for _ in 0..20 {
        clock.pass(7 * 3_600_000);
        assert_eq!(state(), GroupState::Late, "whatever the hour");
    }
}
