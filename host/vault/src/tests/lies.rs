//! What a captured host claims of a group's state: it is named, no pin is lost or held by it, and it is in the way of no repair.

use farshore_core::{RunId, Sequence};

use super::{
    powers::World,
    repair::{Objects, contents, open, original, repair, store_of},
    *,
};
use crate::{
    CheckDepth, CheckFinding, Error, Grace, Head, Means, Pin, Power,
    commit::{Event, commit_key},
    store::Created,
};

const NO_GRACE: Grace = Grace { seconds: 0, commits: 0 };

fn run(number: u8) -> RunId {
    RunId::from_bytes([number; 16])
}

fn far_future() -> Timestamp {
    // In the year 2255.
    Timestamp::from_unix_milliseconds(9_000_000_000_000)
}

fn pins(of: &[Pin]) -> Vec<(RunId, Sequence)> {
    of.iter().map(|pin| (pin.run, pin.point)).collect()
}

/// Stores a point whose commit says of the group's state what its author may not.
async fn lie(lineage: &Lineage, like: &Point, forge: impl FnOnce(&mut Head)) -> Sequence {
    a_moment().await;
    let log = &lineage.0.log;
    let built_on = log.newest().await.expect("readable");
    let sequence = built_on.head.sequence.next();
    let mut head = Head { sequence, newest_point: Some(sequence), ..built_on.head.clone() };
    forge(&mut head);
    let point = Point { sequence, generation: head.generation, ..like.clone() };
    let (created, _) = log.create(&built_on, head, Event::Point(Box::new(point))).await.expect("stored");
    assert_eq!(created, Created::Mine);
    sequence
}

fn forget(head: &mut Head) {
    head.pins.clear();
}

fn claim(head: &mut Head, number: u8, point: Sequence) {
    head.pins.push(Pin { run: run(number), point, since: Timestamp::from_unix_milliseconds(1) });
}

/// A group that a replicator has begun, with a point; and who may pin and prune.
struct Group {
    world: World,
    source: Lineage,
    controller: Lineage,
    pruner: Lineage,
    first: Point,
}

impl Group {
    async fn begin() -> Self {
        let world = World::new().await;
        let source =
            lineage(&world.open(&world.host("source", &[Power::Replicator]).await).await.expect("opened")).await;
        let first = commit_disk(&source, &noise(1, CHUNK)).await.expect("committed");
        let controller = Self::of(&world, "control", Power::Controller).await;
        let pruner = Self::of(&world, "prune", Power::Pruner).await;
        Self { world, source, controller, pruner, first }
    }

    async fn of(world: &World, name: &str, power: Power) -> Lineage {
        let vault = world.open(&world.host(name, &[power]).await).await.expect("opened");
        vault.lineage(&group()).await.expect("readable").expect("there")
    }

    async fn commit(&self, seed: u64) -> Point {
        commit_disk(&self.source, &noise(seed, CHUNK)).await.expect("committed")
    }

    async fn check(&self) -> Vec<CheckFinding> {
        self.world.administrator.check(CheckDepth::Structure, &|_| {}).await.expect("checked").findings
    }

    async fn head(&self) -> Head {
        self.controller.head().await.expect("readable")
    }

    /// That one commit is named, and for this.
    async fn expect_named(&self, commit: Sequence, what: &str) {
        let findings = self.check().await;
        let [finding] = &findings[..] else { panic!("{what}: {findings:?}") };
        assert_eq!(finding.object, commit_key(self.source.id(), commit), "{what}");
        assert_eq!(finding.means, Some(Means::WrongState));
        assert!(finding.problem.contains("host source ("), "{finding:?}");
        assert!(finding.problem.ends_with(&format!(": {what}")), "{what}: {finding:?}");
    }
}

#[tokio::test]
async fn a_captured_replicator_drops_no_pin_and_its_commit_is_named() {
    let group = Group::begin().await;
    let Group { source, controller, pruner, first, .. } = &group;
    let reader = group.world.administrator.lineage(&super::group()).await.expect("readable").expect("there");
    controller.pin(run(1), first.sequence).await.expect("pinned");
    let forge = |head: &mut Head| {
        forget(head);
        head.generation = head.generation.next();
    };
    let forged = lie(source, first, forge).await;
    // Who goes on repeats it in good faith.
    group.commit(2).await;
    assert_eq!(group.head().await.pins, []);
    assert_eq!(pins(&controller.pins().await.expect("readable")), [(run(1), first.sequence)]);
    group.expect_named(forged, "generation, pins").await;

    let retention = Retention { hourly: 1, ..Retention::default() };
    for lies_between in [false, true] {
        let plan = pruner.plan_prune(&retention, NO_GRACE).await.expect("planned");
        assert_eq!(pins(&plan.pins), [(run(1), first.sequence)]);
        if lies_between {
            lie(source, first, forge).await;
        }
        pruner.prune(plan).await.expect("pruned");
        assert_eq!(pins(&group.head().await.pins), [(run(1), first.sequence)]);
        assert_eq!(restore(&reader, first).await.expect("it is pinned"), noise(1, CHUNK));
        if !lies_between {
            assert_eq!(group.check().await, [], "the commit is gone");
            assert_eq!(group.head().await.generation, Generation::new(2), "only a controller may change that");
            group.commit(3).await;
        }
    }
    controller.unpin(run(1)).await.expect("given up");
    let plan = pruner.plan_prune(&retention, NO_GRACE).await.expect("planned");
    assert_eq!(plan.pins, [], "what a controller gives up is given up");
    assert!(plan.dropped.iter().any(|point| point.sequence == first.sequence), "{:?}", plan.dropped);
}

/// A prune judges up to a commit that is no point; the one after it is a lie, and is written on top of it.
#[tokio::test]
async fn a_lie_that_comes_while_a_prune_is_under_way_is_named() {
    let group = Group::begin().await;
    let Group { source, controller, pruner, first, .. } = &group;
    group.commit(2).await;
    group.commit(3).await;
    controller.pin(run(1), first.sequence).await.expect("pinned");
    let plan = pruner.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect("planned");
    assert_eq!(plan.judged, group.head().await.sequence);
    let forged = lie(source, first, forget).await;
    pruner.prune(plan).await.expect("pruned");
    group.commit(4).await;
    group.expect_named(forged, "pins").await;
}

/// Who must go on although a commit cannot be read takes the next one's word for it, and not the last one's.
#[tokio::test]
async fn a_pin_that_cannot_be_read_is_held_by_the_commit_after_it() {
    let group = Group::begin().await;
    let Group { source, controller, pruner, first, .. } = &group;
    controller.pin(run(1), first.sequence).await.expect("pinned");
    let pinned = group.head().await.sequence;
    group.commit(2).await;
    lie(source, first, forget).await;
    let newest = group.commit(3).await.sequence;
    let path = object_store::path::Path::from(format!("v/{}", commit_key(source.id(), pinned)));
    object_store::ObjectStoreExt::put(&*group.world.objects, &path, "rot".into()).await.expect("written");
    assert_eq!(pins(&controller.pins().await.expect("readable")), [(run(1), first.sequence)]);
    let held = crate::succession::Held::at(&controller.0, None, newest).await.expect("readable");
    assert!(held.certain().expect_err("it may be another").is_damage());
    assert!(pruner.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect_err("nobody knows all pins").is_damage());
    // It is given up and laid all the same.
    controller.unpin(run(2)).await.expect("given up");
    controller.pin(run(3), newest).await.expect("pinned");
}

/// A host that goes on after a lie repeats it, and is not named.
#[tokio::test]
async fn each_lie_is_named_for_what_it_is() {
    type Forge = fn(&mut Head);
    let lies: [(&str, Forge); 8] = [
        ("generation", |head| head.generation = head.generation.next()),
        ("active_site", |head| head.active_site = site("elsewhere")),
        ("pruned", |head| head.pruned = None),
        ("pins", |head| head.pins[0].point = head.sequence),
        ("pins", |head| head.pins[0].since = Timestamp::from_unix_milliseconds(1)),
        ("pins", |head| claim(head, 2, Sequence::new(2))),
        ("pins", |head| head.pins.extend_from_within(..)),
        ("locked_until", |head| head.locked_until = Some(far_future())),
    ];
    for (what, forge) in lies {
        let group = Group::begin().await;
        group.controller.pin(run(1), group.first.sequence).await.expect("pinned");
        // What it drops waits for its grace, so that nothing is deleted yet.
        for seed in [7, 8] {
            group.commit(seed).await;
        }
        let grace = Grace { seconds: 3600, commits: 1000 };
        let plan = group.pruner.plan_prune(&KEEP_NEWEST, grace).await.expect("planned");
        group.commit(3).await;
        group.pruner.prune(plan).await.expect("pruned");
        let last = group.commit(4).await;
        assert!(group.head().await.pruned.is_some());
        assert_eq!(group.check().await, [], "{what}: all are honest");
        let forged = lie(&group.source, &last, forge).await;
        group.controller.pin(run(3), last.sequence).await.expect("pinned");
        if what != "active_site" {
            group.commit(5).await;
        }
        group.controller.unpin(run(3)).await.expect("given up");
        group.expect_named(forged, what).await;
    }
}

#[tokio::test]
async fn a_first_commit_may_not_claim_what_has_not_been() {
    let group = Group::begin().await;
    let log = &group.source.0.log;
    let mut genesis = log.read(Sequence::FIRST).await.expect("readable").expect("there");
    let mut succession = crate::succession::Succession::default();
    assert_eq!(succession.follow(&genesis), None);
    genesis.body.head.generation = Generation::new(u64::MAX);
    claim(&mut genesis.body.head, 1, Sequence::new(2));
    let wrong = crate::succession::Contradiction::State(vec!["generation", "pins"]);
    assert_eq!(succession.follow(&genesis), Some(wrong));
}

/// A claim holds nothing, and is no pin: who lays one in earnest lays it, and it outlives the claim.
#[tokio::test]
async fn what_is_claimed_to_be_pinned_is_not_and_can_be_pinned() {
    let group = Group::begin().await;
    let Group { source, controller, pruner, first, .. } = &group;
    let second = group.commit(2).await;
    lie(source, first, |head| claim(head, 1, first.sequence)).await;
    group.commit(3).await;
    assert_eq!(controller.pins().await.expect("readable"), []);
    let planned = async || pruner.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect("planned");
    let plan = planned().await;
    assert_eq!((plan.pins.len(), plan.dropped.len()), (0, 3), "{plan:?}");

    let before = group.head().await.sequence;
    for _ in 0..2 {
        controller.pin(run(1), first.sequence).await.expect("pinned");
        assert_eq!(group.head().await.sequence, before.next(), "it is laid once");
    }
    lie(source, first, forget).await;
    assert_eq!(pins(&planned().await.pins), [(run(1), first.sequence)]);

    // Claims take no room from those who pin.
    lie(source, first, |head| (10..90).for_each(|number| claim(head, number, second.sequence))).await;
    controller.pin(run(2), second.sequence).await.expect("there is room");
    let plan = planned().await;
    assert_eq!(pins(&plan.pins), [(run(1), first.sequence), (run(2), second.sequence)]);
    pruner.prune(plan).await.expect("pruned");
    assert_eq!(group.head().await.pins.len(), 2, "and no commit after a prune repeats them");
    for number in 10..10 + 62 {
        controller.pin(run(number), second.sequence).await.expect("there is room");
    }
    let full = controller.pin(run(100), second.sequence).await.expect_err("64 are all");
    assert!(matches!(full, Error::LimitExceeded { limit: 64, .. }), "{full}");
}

#[tokio::test]
async fn what_was_given_up_does_not_come_back() {
    let group = Group::begin().await;
    let Group { source, controller, pruner, first, .. } = &group;
    controller.pin(run(1), first.sequence).await.expect("pinned");
    lie(source, first, forget).await;
    group.commit(2).await;
    let before = group.head().await.sequence;
    for _ in 0..2 {
        controller.unpin(run(1)).await.expect("given up");
        assert_eq!(group.head().await.sequence, before.next(), "it is given up once");
    }
    assert_eq!(controller.pins().await.expect("readable"), []);
    let plan = pruner.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect("planned");
    assert_eq!(plan.pins, []);
    pruner.prune(plan).await.expect("pruned");
    assert_eq!(group.head().await.pins, []);
}

#[tokio::test]
async fn a_last_generation_that_is_claimed_is_an_error() {
    let group = Group::begin().await;
    lie(&group.source, &group.first, |head| head.generation = Generation::new(u64::MAX)).await;
    let head = group.head().await;
    let refused = group.controller.raise_generation(&site("b"), "", &head).await.expect_err("there is none after it");
    assert!(refused.is_damage(), "{refused}");
}

#[tokio::test]
async fn a_point_that_is_not_of_its_commit_is_refused() {
    let group = Group::begin().await;
    let log = &group.source.0.log;
    let built_on = log.newest().await.expect("readable");
    let sequence = built_on.head.sequence.next();
    let head = Head { sequence, newest_point: Some(sequence), ..built_on.head.clone() };
    let honest = Point { sequence, ..group.first.clone() };
    let of_another = Point { lineage: farshore_core::LineageId::from_bytes([7; 16]), ..honest.clone() };
    let later = Point { generation: honest.generation.next(), ..honest.clone() };
    for forged in [of_another, later] {
        let objects = Arc::new(group.world.objects.fork());
        let there = open_with(store(&objects), &group.world.kit, "p").await.expect("opened");
        let there = there.lineage(&super::group()).await.expect("readable").expect("there");
        let event = Event::Point(Box::new(forged));
        there.0.log.create(&built_on, head.clone(), event).await.expect("the store knows nothing of points");
        let error = there.head().await.expect_err("noticed");
        assert!(error.is_damage() && error.to_string().contains("contradicts"), "{error}");
    }
}

/// Two histories were mixed. Who wrote the later commit has built on another one, and has claimed nothing.
#[tokio::test]
async fn whose_commit_was_exchanged_below_him_is_not_accused() {
    let (objects, _) = original().await;
    let like = open(&store_of(&objects).await).await.lineage(&group()).await.expect("readable").expect("there");
    let newest = like.head().await.expect("readable").sequence;
    let key = |number: Sequence| format!("v/{}", commit_key(like.id(), number));
    // What was a pin is a point of another history; and the point after it knows of the pin.
    let (one, other) = (store_of(&objects).await, {
        let mut without = objects.clone();
        without.remove(&key(newest));
        store_of(&without).await
    });
    let content = noise(70, 40 * CHUNK);
    let of = async |objects| open(objects).await.lineage(&group()).await.expect("readable").expect("there");
    let after = commit_disk(&of(&one).await, &content).await.expect("committed").sequence;
    commit_disk(&of(&other).await, &content).await.expect("committed");
    let mut mixed = contents(&other).await;
    mixed.insert(key(after), contents(&one).await[&key(after)].clone());
    let findings = open(&store_of(&mixed).await).await.check(CheckDepth::Structure, &|_| {}).await.expect("checked");
    let broken = findings.findings.iter().filter(|finding| format!("v/{}", finding.object) == key(after));
    let broken: Vec<_> = broken.map(|finding| finding.means).collect();
    assert_eq!(broken, [Some(Means::BrokenChain)], "{findings:?}");
    assert!(!findings.findings.iter().any(|finding| finding.means == Some(Means::WrongState)), "{findings:?}");
}

/// A commit that claims too much is in the copy what it is here: it keeps nothing from coming back.
#[tokio::test]
async fn what_is_lost_comes_back_though_somebody_has_lied() {
    let (honest, points) = original().await;
    let objects = store_of(&honest).await;
    let there = open(&objects).await.lineage(&group()).await.expect("readable").expect("there");
    let like = there.point(*points.keys().next().expect("some")).await.expect("it stands");
    let before = commit_disk(&there, &noise(50, 40 * CHUNK)).await.expect("committed").sequence;
    let forged = lie(&there, &like, forget).await;
    commit_disk(&there, &noise(51, 40 * CHUNK)).await.expect("committed");
    let whole = contents(&objects).await;
    let copy = store_of(&whole).await;
    let key = |number: Sequence| format!("v/{}", commit_key(there.id(), number));
    let commits: Vec<&String> = whole.keys().filter(|key| key.contains("/commits/")).collect();
    let without = |lost: &dyn Fn(&String) -> bool| -> Objects {
        whole.iter().filter(|(key, _)| !lost(key)).map(|(key, bytes)| (key.clone(), bytes.clone())).collect()
    };
    let losses = [
        ("the first commit", without(&|key| key == commits[0])),
        ("the commit before it", without(&|lost| *lost == key(before))),
        ("the commit itself", without(&|lost| *lost == key(forged))),
        ("both", without(&|lost| *lost == key(before) || *lost == key(forged))),
        ("the lineage", without(&|key| key.contains("/lineages/"))),
    ];
    for (what, damaged) in losses {
        let objects = store_of(&damaged).await;
        let (plan, report) = repair(&objects, &copy).await;
        assert!(!plan.objects.is_empty(), "{what}: {plan:?}");
        let left: Vec<_> = report.left.iter().map(|finding| (format!("v/{}", finding.object), finding.means)).collect();
        assert_eq!(left, [(key(forged), Some(Means::WrongState))], "{what}");
        assert_eq!(contents(&objects).await.len(), damaged.len() + plan.objects.len(), "{what}");
        let back = open(&objects).await.lineage(&group()).await.expect("readable").expect("there");
        for (point, content) in &points {
            let point = back.point(*point).await.expect("it stands");
            assert!(restore(&back, &point).await.expect("readable") == *content, "{what}");
        }
    }
}
