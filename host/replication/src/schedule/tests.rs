//! What turns promise: limits, order, and that nobody waits for ever.

use proptest::prelude::*;

use super::*;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn turns(site: &str, rpo: Duration, priority: Priority) -> Turns {
    let site = SiteName::new(site).expect("a name");
    Turns { site, objective: Objective { rpo }, priority, newest_age: Some(Duration::ZERO) }
}

fn without_point(turns: Turns) -> Turns {
    Turns { newest_age: None, ..turns }
}

fn site_limits(limits: &[(&str, usize)]) -> BTreeMap<SiteName, usize> {
    limits.iter().map(|(name, limit)| (SiteName::new(*name).expect("a name"), *limit)).collect()
}

/// The members that begin now.
fn beginning(schedule: &mut Schedule, now: Duration) -> Vec<Member> {
    std::iter::from_fn(|| schedule.begin(now)).map(|begun| begun.member).collect()
}

#[test]
fn a_group_whose_points_wait_looks_for_the_vault_long_before_its_objective() {
    let mut schedule = Schedule::new(1);
    let member = schedule.add(&turns("a", seconds(86_400), Priority::Normal), seconds(0));
    for (end, pause) in [
        (CycleEnd::Waiting, seconds(60)),
        (CycleEnd::CatchingUp, seconds(5)),
        (CycleEnd::Committed, seconds(86_400 - 4_320 - 3 - 2)),
    ] {
        let now = schedule.wakes_at().expect("it is due");
        assert_eq!(beginning(&mut schedule, now), [member]);
        assert_eq!(schedule.end(member, end, now + seconds(2)), Some(pause), "{end:?}");
        assert_eq!(schedule.failures(member), 0);
    }
    // With a short one it is the usual pause.
    let pause = |end| {
        let mut schedule = Schedule::new(1);
        let member = schedule.add(&turns("a", seconds(10), Priority::Normal), seconds(0));
        assert_eq!(beginning(&mut schedule, seconds(0)), [member]);
        schedule.end(member, end, seconds(1))
    };
    assert_eq!(pause(CycleEnd::Waiting), pause(CycleEnd::Committed));
}

#[test]
fn who_is_postponed_has_its_place_back_and_its_turn_later() {
    let mut schedule = Schedule::new(1);
    let [one, other] = ["a", "b"].map(|site| schedule.add(&turns(site, seconds(60), Priority::Normal), seconds(0)));
    let first = schedule.begin(seconds(0)).expect("one is due").member;
    schedule.postpone(first, seconds(30), seconds(0));
    let second = schedule.begin(seconds(0)).expect("the place is free").member;
    assert!(first != second && [one, other].contains(&first) && [one, other].contains(&second));
    assert_eq!(schedule.end(second, CycleEnd::Final, seconds(1)), Some(FINAL_PAUSE));
    assert_eq!(schedule.begin(seconds(29)), None);
    assert_eq!(schedule.begin(seconds(30)).map(|begun| (begun.member, begun.waited)), Some((first, seconds(0))));
    schedule.remove(first);
    schedule.postpone(first, seconds(30), seconds(31));
    assert_eq!(beginning(&mut schedule, seconds(200)), []);
}

#[test]
fn the_next_cycle_begins_early_enough_for_its_length() {
    let objective = Objective { rpo: seconds(5) };
    for length_milliseconds in [0, 50, 500, 1_500] {
        let length = Duration::from_millis(length_milliseconds);
        assert!(objective.pause(length) + length <= objective.rpo, "{length:?}");
        assert!(objective.pause(length) >= length, "{length:?}");
    }
    // An objective that cannot be met still leaves the source some peace.
    let length = seconds(20);
    assert_eq!(objective.pause(length), length + Duration::from_millis(500));
}

#[test]
fn the_earliest_deadline_begins_and_priorities_move_it() {
    let mut schedule = Schedule::new(1);
    let names = [(40, Priority::Normal), (60, Priority::High), (30, Priority::Low), (50, Priority::Normal)];
    let members: Vec<_> = names
        .iter()
        .map(|(rpo, priority)| schedule.add(&turns("a", seconds(*rpo), *priority), Duration::ZERO))
        .collect();
    let mut order = Vec::new();
    while let Some(begun) = schedule.begin(Duration::ZERO) {
        assert_eq!(schedule.begin(Duration::ZERO), None, "there is one place");
        order.push(begun.member);
        schedule.end(begun.member, CycleEnd::Committed, Duration::ZERO);
    }
    assert_eq!(order, [members[1], members[0], members[3], members[2]], "30, 40, 50 and 60 seconds");
}

#[test]
fn a_site_that_is_full_does_not_keep_others_from_beginning() {
    let mut schedule = Schedule::new(8);
    schedule.limit(8, &site_limits(&[("a", 1)]));
    let (first, second) = (turns("a", seconds(5), Priority::High), turns("b", seconds(60), Priority::Low));
    let members = [&first, &first, &second].map(|turns| schedule.add(turns, Duration::ZERO));
    let begun: Vec<_> =
        std::iter::from_fn(|| schedule.begin(seconds(1))).map(|begun| (begun.member, begun.waited)).collect();
    assert_eq!(begun, [(members[0], seconds(1)), (members[2], seconds(1))]);
    schedule.remove(members[0]);
    assert_eq!(schedule.end(members[0], CycleEnd::Committed, seconds(2)), None);
    assert_eq!(schedule.begin(seconds(3)), Some(Begun { member: members[1], waited: seconds(3) }));
}

#[test]
fn first_copies_have_half_of_the_places_and_long_cycles_three_quarters() {
    let mut schedule = Schedule::new(8);
    schedule.limit(8, &site_limits(&[("small", 2)]));
    let high = |site| turns(site, seconds(1), Priority::High);
    let first_copies: Vec<_> = (0..9).map(|_| schedule.add(&without_point(high("a")), Duration::ZERO)).collect();
    assert_eq!(beginning(&mut schedule, Duration::ZERO), first_copies[..4]);
    // Those whose last try was long have two more, however urgent.
    let long: Vec<_> = (0..3).map(|_| schedule.add(&high("a"), Duration::ZERO)).collect();
    assert_eq!(beginning(&mut schedule, Duration::ZERO), long);
    for member in &long {
        schedule.end(*member, CycleEnd::Committed, seconds(100));
    }
    let due = seconds(300);
    assert_eq!(beginning(&mut schedule, due), long[..2]);
    // The others are for those that are short, which begin although the first copies wait for longer.
    let short: Vec<_> = (0..3).map(|_| schedule.add(&turns("b", seconds(60), Priority::Low), due)).collect();
    assert_eq!(beginning(&mut schedule, due), short[..2]);
    // A site leaves half of its places to groups that have a point.
    for member in &first_copies {
        schedule.remove(*member);
        schedule.end(*member, CycleEnd::Committed, due);
    }
    let small: Vec<_> = (0..2).map(|_| schedule.add(&without_point(high("small")), Duration::ZERO)).collect();
    let begun = beginning(&mut schedule, due);
    assert!(!small.iter().all(|member| begun.contains(member)), "{begun:?}");
    // The host's only place is for everybody.
    let mut schedule = Schedule::new(1);
    schedule.add(&without_point(high("a")), Duration::ZERO);
    assert!(schedule.begin(Duration::ZERO).is_some());
}

#[test]
fn points_that_are_older_than_the_process_count_as_they_are() {
    let mut schedule = Schedule::new(1);
    let aged = |age| Turns { newest_age: Some(seconds(age)), ..turns("a", seconds(60), Priority::Normal) };
    let members = [0, 7_200, 3_600].map(|age| schedule.add(&aged(age), Duration::ZERO));
    let mut order = Vec::new();
    while let Some(begun) = schedule.begin(Duration::ZERO) {
        order.push(begun.member);
        schedule.end(begun.member, CycleEnd::Final, Duration::ZERO);
    }
    assert_eq!(order, [members[1], members[2], members[0]]);
}

#[test]
fn who_is_hurried_begins_before_all_others_once() {
    let mut schedule = Schedule::new(1);
    let urgent = schedule.add(&turns("a", seconds(1), Priority::High), Duration::ZERO);
    let late = schedule.add(&turns("a", seconds(3_600), Priority::Low), Duration::ZERO);
    // While it waits for a place,
    assert_eq!(beginning(&mut schedule, Duration::ZERO), [urgent]);
    schedule.hurry(late, Duration::ZERO);
    schedule.end(urgent, CycleEnd::Committed, Duration::ZERO);
    assert_eq!(beginning(&mut schedule, seconds(5)), [late]);
    // while it has a cycle,
    schedule.hurry(late, seconds(6));
    assert_eq!(schedule.end(late, CycleEnd::Committed, seconds(7)), Some(Duration::ZERO));
    assert_eq!(beginning(&mut schedule, seconds(7)), [late]);
    // and while it sleeps; but once only.
    assert!(schedule.end(late, CycleEnd::Committed, seconds(8)) > Some(seconds(3_000)));
    schedule.hurry(late, seconds(9));
    assert_eq!(beginning(&mut schedule, seconds(9)), [late]);
    schedule.end(late, CycleEnd::Committed, seconds(10));
    assert_eq!(beginning(&mut schedule, seconds(10)), [urgent]);
    schedule.end(urgent, CycleEnd::Committed, seconds(10));
    assert!(!beginning(&mut schedule, seconds(20)).contains(&late));
}

#[test]
fn what_is_tried_otherwise_begins_at_once_and_counts_as_no_failure() {
    let mut schedule = Schedule::new(1);
    let member = schedule.add(&turns("a", seconds(60), Priority::Normal), Duration::ZERO);
    assert_eq!(beginning(&mut schedule, Duration::ZERO), [member]);
    assert_eq!(schedule.end(member, CycleEnd::Otherwise, seconds(1)), Some(Duration::ZERO));
    assert_eq!((schedule.failures(member), schedule.is_hopeless()), (0, false));
    assert_eq!(beginning(&mut schedule, seconds(1)), [member]);
}

#[test]
fn groups_and_limits_change_while_cycles_run() {
    let mut schedule = Schedule::new(4);
    let members: Vec<_> =
        (0..4).map(|_| schedule.add(&turns("a", seconds(60), Priority::Normal), Duration::ZERO)).collect();
    assert_eq!(beginning(&mut schedule, Duration::ZERO), members);
    // Fewer places than there are cycles: none begins until enough have ended.
    schedule.limit(4, &site_limits(&[("a", 2)]));
    let other = schedule.add(&turns("a", seconds(1), Priority::High), Duration::ZERO);
    for member in &members[..2] {
        schedule.end(*member, CycleEnd::Committed, seconds(1));
        assert_eq!(beginning(&mut schedule, seconds(1)), []);
    }
    schedule.end(members[2], CycleEnd::Committed, seconds(1));
    assert_eq!(beginning(&mut schedule, seconds(1)), [other]);
    // A cycle gives its place back where it began, wherever the group is now.
    schedule.change(other, &turns("b", seconds(600), Priority::Normal), seconds(2));
    schedule.end(other, CycleEnd::Committed, seconds(2));
    schedule.limit(4, &site_limits(&[("a", 2), ("b", 1)]));
    let third = schedule.add(&turns("a", seconds(60), Priority::Normal), seconds(2));
    assert_eq!(beginning(&mut schedule, seconds(2)), [third]);
    // Who sleeps is due at once with other turns, and who has left is not.
    schedule.change(other, &turns("b", seconds(5), Priority::Normal), seconds(3));
    schedule.remove(members[0]);
    assert_eq!(beginning(&mut schedule, seconds(3)), [other]);
    schedule.change(members[1], &turns("a", seconds(60), Priority::Normal), seconds(3));
    assert!(schedule.wakes_at() > Some(seconds(3)), "nothing is changed, and nothing is due");
    schedule.remove(other);
    assert_eq!(schedule.end(other, CycleEnd::Failed, seconds(4)), None);
    schedule.hurry(other, seconds(4));
    assert_eq!(
        beginning(&mut schedule, seconds(9_999)),
        [],
        "who has left does not begin, and the others have no place"
    );
}

#[test]
fn groups_that_fail_do_not_keep_others_from_their_turns() {
    let mut schedule = Schedule::new(2);
    let broken: Vec<_> =
        (0..20).map(|_| schedule.add(&turns("a", seconds(5), Priority::High), Duration::ZERO)).collect();
    let healthy = schedule.add(&turns("b", seconds(30), Priority::Low), Duration::ZERO);
    let (mut running, mut turns, mut now) = (BTreeSet::new(), 0, Duration::ZERO);
    while now < seconds(3_600) {
        for member in beginning(&mut schedule, now) {
            // A site that does not answer holds them for half a minute.
            running.insert((now + seconds(if member == healthy { 1 } else { 30 }), member));
        }
        let ends = running.first().map(|(ends, _)| *ends);
        now = [ends, schedule.wakes_at()].into_iter().flatten().min().expect("something happens").max(now);
        while let Some((_, member)) = running.pop_first_if(|(ends, _)| *ends <= now) {
            let is_healthy = member == healthy;
            turns += usize::from(is_healthy);
            schedule.end(member, if is_healthy { CycleEnd::Committed } else { CycleEnd::Failed }, now);
        }
    }
    assert!(broken.iter().all(|member| schedule.failures(*member) > 2));
    assert!(turns > 8, "{turns} turns in an hour");
}

#[test]
fn a_group_that_fails_is_tried_again_with_growing_pauses_and_one_that_cannot_be_helped_seldom() {
    let mut schedule = Schedule::new(1);
    let member = schedule.add(&turns("a", seconds(3_600), Priority::Normal), Duration::ZERO);
    let mut now = Duration::ZERO;
    for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
        schedule.begin(now).expect("it is due");
        assert_eq!(schedule.end(member, CycleEnd::Failed, now), Some(seconds(expected)));
        assert_eq!(schedule.begin(now), None);
        now += seconds(expected);
    }
    assert_eq!(schedule.failures(member), 8);
    schedule.begin(now).expect("it is due");
    schedule.end(member, CycleEnd::Committed, now);
    assert_eq!(schedule.failures(member), 0);
    now = schedule.wakes_at().expect("it is due again");
    schedule.begin(now).expect("it is due");
    assert!(!schedule.is_hopeless());
    assert_eq!(schedule.end(member, CycleEnd::Final, now), Some(seconds(300)));
    assert!(schedule.is_hopeless() && schedule.begin(now + seconds(299)).is_none());
    now += seconds(300);
    schedule.begin(now).expect("somebody may have changed something");
    schedule.end(member, CycleEnd::Failed, now);
    assert!(!schedule.is_hopeless());
    schedule.remove(member);
    assert!(schedule.is_hopeless() && schedule.begin(now + seconds(9_999)).is_none());
    // One with a short objective is not left alone for longer than that.
    let member = schedule.add(&turns("a", seconds(3), Priority::Normal), now);
    for expected in [1, 2, 3, 3] {
        now += seconds(3);
        schedule.begin(now).expect("it is due");
        assert_eq!(schedule.end(member, CycleEnd::Failed, now), Some(seconds(expected)));
    }
}

/// A group of a world: its site, its objective and the length of its cycles in seconds, and its priority.
fn group() -> impl Strategy<Value = (usize, u64, u64, Priority)> {
    let priority = prop_oneof![Just(Priority::High), Just(Priority::Normal), Just(Priority::Low)];
    (0..3_usize, 5_u64..600, 1_u64..100, priority)
}

proptest! {
    /// Whatever there is to do: no limit is passed, whoever begins was due, and no group waits for ever.
    #[test]
    fn limits_hold_and_every_group_has_its_turns(
        groups in prop::collection::vec(group(), 1..40),
        host in 1_usize..12,
        sites in prop::array::uniform3(1_usize..6),
        failing in 1_usize..6,
    ) {
        let mut schedule = Schedule::new(host);
        let names = ["a", "b", "c"];
        schedule.limit(host, &site_limits(&[(names[0], sites[0]), (names[1], sites[1]), (names[2], sites[2])]));
        let mut now = Duration::ZERO;
        let members: Vec<_> = groups
            .iter()
            .map(|(site, rpo, length, priority)| {
                let turns = turns(names[*site], seconds(*rpo), *priority);
                schedule.add(&if length % 3 == 0 { without_point(turns) } else { turns }, now)
            })
            .collect();
        let (mut running, mut begun_at, mut counts) = (BTreeSet::new(), vec![Duration::ZERO; groups.len()], vec![0; groups.len()]);
        let mut longest = vec![Duration::ZERO; groups.len()];
        for _ in 0..4_000 {
            while let Some(Begun { member, .. }) = schedule.begin(now) {
                let index = members.iter().position(|known| *known == member).expect("a member");
                longest[index] = longest[index].max(now - begun_at[index]);
                (begun_at[index], counts[index]) = (now, counts[index] + 1);
                running.insert((now + seconds(groups[index].2), index));
                let mut by_site: BTreeMap<usize, usize> = BTreeMap::new();
                running.iter().for_each(|(_, index)| *by_site.entry(groups[*index].0).or_default() += 1);
                prop_assert!(running.len() <= host && by_site.iter().all(|(site, count)| *count <= sites[*site]));
            }
            let ends = running.first().map(|(ends, _)| *ends);
            now = [ends, schedule.wakes_at()].into_iter().flatten().min().expect("something happens").max(now);
            while let Some((_, index)) = running.pop_first_if(|(ends, _)| *ends <= now) {
                let fails = (counts[index] + index) % failing == 0;
                schedule.end(members[index], if fails { CycleEnd::Failed } else { CycleEnd::Committed }, now);
            }
        }
        // All cycles that can be before its turn: each other group's, as often as its low deadline lets it be passed.
        let all: u64 = groups.iter().map(|(_, _, length, _)| length).sum();
        let bound = seconds(3 * (2 * 600 + 2 * all * groups.len() as u64));
        for (index, longest) in longest.iter().enumerate() {
            prop_assert!(counts[index] > 1 && *longest < bound, "{index}: {} turns, {longest:?}", counts[index]);
        }
    }
}

/// As `BTreeSet::pop_first`, if it is wanted.
trait PopFirstIf<T> {
    fn pop_first_if(&mut self, wanted: impl Fn(&T) -> bool) -> Option<T>;
}

impl<T: Ord> PopFirstIf<T> for BTreeSet<T> {
    fn pop_first_if(&mut self, wanted: impl Fn(&T) -> bool) -> Option<T> {
        if wanted(self.first()?) { self.pop_first() } else { None }
    }
}
