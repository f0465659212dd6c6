//! Revoking a host: what it wrote counts, what it would write does not, and nobody else is hurt.

use object_store::{ObjectStoreExt, path::Path};

use super::{
    faulty::{Fault, FaultyStore},
    powers::{World, host_name, open_as},
    *,
};
use crate::{
    Error, Grace, HostCredential, Power,
    keys::ring::{Revocation, RingHost, WrittenUntil},
    lineage::Lineage as AnyLineage,
    seal::Statement,
};

/// A vault with two replicators that write the same group, one point of the first.
struct Scene {
    world: World,
    leaving: HostCredential,
    staying: HostCredential,
    content: Vec<u8>,
    point: Point,
}

impl Scene {
    async fn new(powers: &[Power]) -> Self {
        let world = World::new().await;
        let leaving = world.host("leaving", powers).await;
        let content = noise(1, 6 * CHUNK);
        let written = commit_disk(&lineage(&world.open(&leaving).await.expect("opened")).await, &content).await;
        let staying = world.host("staying", &[Power::Replicator, Power::Controller, Power::Pruner]).await;
        Self { world, leaving, staying, content, point: written.expect("committed") }
    }

    async fn revoke(&self) {
        let plan = self.world.administrator.plan_revocation(&host_name("leaving")).await.expect("planned");
        self.world.administrator.revoke(&plan).await.expect("revoked");
    }

    async fn open(&self, credential: &HostCredential) -> Vault {
        self.world.open(credential).await.expect("opened")
    }

    /// Who stays reads what there is, and goes on.
    async fn assert_whole(&self, objects: &Arc<InMemory>, what: &str) {
        let administrator = self.world.administrator.reopen(store(objects), context());
        let lineage = administrator.lineage(&group()).await.expect(what).expect("there");
        assert!(restore(&lineage, &self.point).await.expect(what) == self.content, "{what}");
        let staying = open_as(objects, &self.staying).await.expect(what);
        let content = noise(9, 6 * CHUNK);
        let point = commit_disk(&self::lineage(&staying).await, &content).await.expect(what);
        assert!(restore(&lineage, &point).await.expect(what) == content, "{what}");
        let report = administrator.check(crate::CheckDepth::Full, &|_| {}).await.expect(what);
        assert_eq!(report.findings, [], "{what}");
    }
}

fn is_revoked<T>(outcome: Result<T>) -> bool {
    matches!(outcome, Err(Error::HostRevoked { .. }))
}

#[tokio::test]
async fn what_a_revoked_host_wrote_stands_and_it_writes_nothing_more() {
    let scene = Scene::new(&[Power::Replicator, Power::Controller, Power::Pruner]).await;
    let leaving = scene.open(&scene.leaving).await;
    let its_lineage = lineage(&leaving).await;
    let (run, head) = (farshore_core::RunId::from_bytes([3; 16]), its_lineage.head().await.expect("read"));
    leaving.create_run(run, b"begun").await.expect("written");
    its_lineage.pin(run, scene.point.sequence).await.expect("pinned");
    let administrator = &scene.world.administrator;
    let plan = administrator.plan_revocation(&host_name("leaving")).await.expect("planned");
    assert_eq!((plan.lineages, plan.has_begun, plan.had_keys), (1, false, true));
    administrator.revoke(&plan).await.expect("revoked");

    // It has the vault open, and is refused all the same.
    assert!(is_revoked(commit_disk(&its_lineage, &noise(2, CHUNK)).await));
    assert!(is_revoked(leaving.append_run(run, 2, b"more").await));
    assert!(is_revoked(leaving.create_run(farshore_core::RunId::from_bytes([4; 16]), b"x").await));
    assert!(is_revoked(its_lineage.unpin(run).await));
    let now = its_lineage.head().await.expect("read");
    assert!(is_revoked(its_lineage.raise_generation(&site("b"), "mine", &now).await));
    let other = GroupName::new("another").expect("a good name");
    assert!(is_revoked(leaving.create_lineage(&other, &site("a")).await));
    let prune = its_lineage.plan_prune(&KEEP_NEWEST, Grace::default()).await.expect("reading is not writing");
    assert!(prune.is_empty() || is_revoked(its_lineage.prune(prune).await));
    assert!(is_revoked(scene.world.open(&scene.leaving).await));
    assert_ne!(head, now, "the lineage says that the host was revoked");

    // What it said before counts.
    assert_eq!(administrator.run_entries(run).await.expect("read"), [Bytes::from_static(b"begun")]);
    assert_eq!(lineage(administrator).await.head().await.expect("read").pins.len(), 1);
    scene.assert_whole(&scene.world.objects, "after it was revoked").await;
    // The name is free for another.
    let hosts = administrator.hosts().await.expect("listed");
    assert_eq!(hosts.iter().filter(|host| host.revoked_at.is_some()).count(), 1);
    let again = scene.world.host("leaving", &[Power::Replicator]).await;
    scene.world.open(&again).await.expect("another host of the same name");
    let gone = administrator.plan_revocation(&host_name("nobody")).await.expect_err("there is none");
    assert!(matches!(gone, Error::HostMissing { .. }), "{gone}");
}

/// A cycle takes hours; the host is revoked meanwhile.
#[tokio::test]
async fn a_writer_at_work_loses_and_cuts_nobody_off() {
    let scene = Scene::new(&[Power::Replicator]).await;
    let its_lineage = lineage(&scene.open(&scene.leaving).await).await;
    let writer = begin(&its_lineage).await;
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), 6 * CHUNK as u64).await.expect("added");
    write_all(&disk, &noise(5, 6 * CHUNK)).await.expect("accepted");
    scene.revoke().await;
    let outcome = writer.commit(details(&[(&machine_id(), &["d"])])).await;
    assert!(is_revoked(outcome));
    scene.assert_whole(&scene.world.objects, "after its writer lost").await;
}

/// A prune takes hours too; the host is revoked when its ledger is stored.
#[tokio::test]
async fn a_pruner_at_work_gives_up_and_cuts_nobody_off() {
    let scene = Scene::new(&[Power::Replicator, Power::Pruner]).await;
    let mut gate = Arc::new(FaultyStore::sound(&scene.world.objects));
    let (sent, wake) = gate.hold("/ledgers/");
    let opener = Opener::Host(Box::new(scene.leaving.clone()));
    let vault = Vault::open(wrap(gate as Arc<dyn ObjectStore>), &opener, context()).await.expect("opened");
    let its_lineage = lineage(&vault).await;
    for seed in 2..5 {
        commit_disk(&its_lineage, &noise(seed, 6 * CHUNK)).await.expect("committed");
    }
    let newest = commit_disk(&its_lineage, &scene.content).await.expect("committed");
    let plan = its_lineage.plan_prune(&KEEP_NEWEST, Grace { seconds: 0, commits: 0 }).await.expect("planned");
    let (outcome, ()) = tokio::join!(its_lineage.prune(plan), async {
        sent.notified().await;
        scene.revoke().await;
        wake.notify_one();
    });
    assert!(is_revoked(outcome));
    let scene = Scene { point: newest, ..scene };
    scene.assert_whole(&scene.world.objects, "after its prune was given up").await;
}

/// Who has looked at the lineage before a revocation does not build on what was written after it.
#[tokio::test]
async fn a_stale_ring_is_nothing_to_build_on() {
    let scene = Scene::new(&[Power::Replicator, Power::Controller]).await;
    let staying = lineage(&scene.open(&scene.staying).await).await;
    staying.head().await.expect("it has looked");
    let rings = scene.world.administrator.0.access.read_ring().await.expect("read").number;
    scene.revoke().await;
    let stolen = without_news(&scene.world.objects, rings).await;
    let thief = open_as(&stolen, &scene.leaving).await.expect("it has not heard");
    commit_disk(&lineage(&thief).await, &noise(66, 6 * CHUNK)).await.expect("it may, as far as it knows");
    put_back(&stolen, &scene.world.objects).await;
    let run = farshore_core::RunId::from_bytes([3; 16]);
    for outcome in [staying.pin(run, scene.point.sequence).await, staying.pin(run, scene.point.sequence).await] {
        assert!(outcome.expect_err("the newest commit does not count").to_string().contains("was revoked"));
    }
}

/// An enrolment that was only out of sight does not make a host's words worthless for good.
#[tokio::test]
async fn a_withdrawn_host_that_had_joined_can_still_be_revoked() {
    let scene = Scene::new(&[Power::Replicator]).await;
    let (objects, administrator) = (&scene.world.objects, &scene.world.administrator);
    let enrolment = Path::from(format!("v/keys/hosts/{}", scene.leaving.host()));
    let bytes = objects.get(&enrolment).await.expect("there").bytes().await.expect("there");
    objects.delete(&enrolment).await.expect("out of sight");
    administrator.withdraw(&host_name("leaving")).await.expect("nobody seems to have joined");
    objects.put(&enrolment, bytes.into()).await.expect("there again");
    let unread = administrator.reopen(store(objects), context());
    unread.0.access.read_ring().await.expect("read");
    let unread = unread.lineage(&group()).await;
    assert!(unread.expect_err("nothing of it counts").to_string().contains("was revoked"));
    scene.revoke().await;
    scene.assert_whole(objects, "after it was revoked").await;
}

/// So does a first commit that is out of sight.
#[tokio::test]
async fn a_first_commit_that_is_out_of_sight_is_no_lineage_that_never_began() {
    let scene = Scene::new(&[Power::Replicator]).await;
    let objects = &scene.world.objects;
    let id = scene.world.administrator.lineage_id(&group());
    let first = Path::from(format!("v/lineages/{id}/commits/{:020}", 1));
    let bytes = objects.get(&first).await.expect("there").bytes().await.expect("there");
    objects.delete(&first).await.expect("out of sight");
    // A second first commit would put other keys in the place of those with which all else was sealed.
    let staying = scene.open(&scene.staying).await;
    let refused = staying.create_lineage(&group(), &site("a")).await.expect_err("others follow it");
    assert!(matches!(&refused, Error::ObjectMissing { object, .. } if first.as_ref().ends_with(object)), "{refused}");
    scene.revoke().await;
    objects.put(&first, bytes.into()).await.expect("there again");
    scene.assert_whole(objects, "after it was revoked").await;
}

/// Nor is a revocation stopped by a lineage that the administrator has no key to.
#[tokio::test]
async fn a_lineage_that_nobody_can_open_is_in_no_revocations_way() {
    let scene = Scene::new(&[Power::Replicator]).await;
    let objects = &scene.world.objects;
    let of_orders = scene.world.administrator.lineage_id(&group());
    let closed = of_orders.to_string().chars().rev().collect::<String>();
    // The boxes of a first commit are for whoever its writer says: here for an epoch that there never was.
    let first = Path::from(format!("v/lineages/{of_orders}/commits/{:020}", 1));
    let mut bytes = objects.get(&first).await.expect("there").bytes().await.expect("there").to_vec();
    let count = usize::from(bytes[16]);
    let mut at = 17;
    for _ in 0..count {
        bytes[at] = 1;
        bytes[at + 1..at + 9].copy_from_slice(&99u64.to_le_bytes());
        bytes[at + 9..at + 17].fill(0);
        at += 19 + usize::from(u16::from_le_bytes([bytes[at + 17], bytes[at + 18]]));
    }
    let forged = Path::from(format!("v/lineages/{closed}/commits/{:020}", 1));
    objects.put(&forged, bytes.into()).await.expect("written");
    scene.revoke().await;
    assert!(is_revoked(scene.world.open(&scene.leaving).await));
    let administrator = &scene.world.administrator;
    let lineage = administrator.lineage(&group()).await.expect("readable").expect("there");
    assert!(restore(&lineage, &scene.point).await.expect("read") == scene.content);
}

/// Everybody else who writes meanwhile goes on.
#[tokio::test]
async fn another_writer_at_work_does_not_lose() {
    let scene = Scene::new(&[Power::Replicator]).await;
    let staying = lineage(&scene.open(&scene.staying).await).await;
    let writer = begin(&staying).await;
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), 6 * CHUNK as u64).await.expect("added");
    write_all(&disk, &noise(5, 6 * CHUNK)).await.expect("accepted");
    scene.revoke().await;
    let point = writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("it commits after the revocation");
    let read = lineage(&scene.world.administrator).await;
    assert!(restore(&read, &point).await.expect("read") == noise(5, 6 * CHUNK));
}

/// The objects of a store, without the rings that came after this one: what a host sees that is kept from the news, or
/// does not want to hear them.
async fn without_news(objects: &InMemory, rings: u64) -> Arc<InMemory> {
    let stale = Arc::new(objects.fork());
    for (key, _) in self::objects(objects).await {
        let number = key.strip_prefix("v/keys/ring/").and_then(|number| number.parse::<u64>().ok());
        if number.is_some_and(|number| number > rings) {
            stale.delete(&Path::from(key)).await.expect("deleted");
        }
    }
    stale
}

/// Copies what is in one store and not in the other.
async fn put_back(from: &InMemory, to: &InMemory) -> Vec<String> {
    let there = self::objects(to).await;
    let mut new = self::objects(from).await;
    new.retain(|object| !there.contains(object));
    for (key, _) in &new {
        let bytes = from.get(&Path::from(key.as_str())).await.expect("there").bytes().await.expect("there");
        to.put(&Path::from(key.as_str()), bytes.into()).await.expect("copied");
    }
    new.into_iter().map(|(key, _)| key).collect()
}

/// Whoever has stolen the host's key does not read the ring.
#[tokio::test]
async fn what_is_signed_with_a_revoked_hosts_key_does_not_count() {
    let scene = Scene::new(&[Power::Replicator, Power::Controller, Power::Pruner]).await;
    let objects = &scene.world.objects;
    let run = farshore_core::RunId::from_bytes([3; 16]);
    let leaving = scene.open(&scene.leaving).await;
    leaving.create_run(run, b"begun").await.expect("written");
    let rings = scene.world.administrator.0.access.read_ring().await.expect("read").number;
    scene.revoke().await;

    let stolen = without_news(objects, rings).await;
    let thief = open_as(&stolen, &scene.leaving).await.expect("it has not heard");
    let its_lineage = lineage(&thief).await;
    commit_disk(&its_lineage, &noise(66, 6 * CHUNK)).await.expect("it may, as far as it knows");
    thief.append_run(run, 2, b"forged").await.expect("written");
    thief.create_run(farshore_core::RunId::from_bytes([4; 16]), b"forged").await.expect("written");
    let forged_group = GroupName::new("forged").expect("a good name");
    thief.create_lineage(&forged_group, &site("a")).await.expect("begun");
    let prune = its_lineage.plan_prune(&KEEP_NEWEST, Grace { seconds: 0, commits: 0 }).await.expect("planned");
    let attacked = Arc::new(objects.fork());
    put_back(&stolen, &attacked).await;

    let administrator = scene.world.administrator.reopen(store(&attacked), context());
    administrator.0.access.read_ring().await.expect("read");
    let refused = |what: &str, error: Error| assert!(error.to_string().contains("was revoked"), "{what}: {error}");
    let victim = administrator.lineage(&group()).await.expect("its first commit counts").expect("there");
    refused("the newest commit", victim.head().await.expect_err("forged"));
    refused("an entry", administrator.run_entries(run).await.expect_err("forged"));
    let entries = administrator.run_entries(farshore_core::RunId::from_bytes([4; 16])).await;
    refused("a run", entries.expect_err("forged"));
    refused("a group", administrator.lineage(&forged_group).await.expect_err("forged"));
    // What was there before is read all the same.
    assert!(restore(&victim, &scene.point).await.expect("read") == scene.content);
    // A prune, with its boundary.
    let raised = its_lineage.prune(prune).await.expect("it may, as far as it knows");
    assert!(raised.commit.is_some());
    put_back(&stolen, &attacked).await;
    let again = scene.world.administrator.reopen(store(&attacked), context());
    again.0.access.read_ring().await.expect("read");
    let victim = again.lineage(&group()).await.expect("its first commit counts").expect("there");
    refused("a prune", victim.head().await.expect_err("forged"));
}

#[tokio::test]
async fn a_revocation_that_is_killed_anywhere_goes_on_and_hurts_nobody() {
    let scene = Scene::new(&[Power::Replicator, Power::Controller]).await;
    let leaving = scene.open(&scene.leaving).await;
    leaving.create_run(farshore_core::RunId::from_bytes([3; 16]), b"begun").await.expect("written");
    let name = host_name("leaving");
    let mut interrupted = 0;
    for operation in 0.. {
        for (fault, stays_dead) in [(Fault::Before, true), (Fault::After, true), (Fault::After, false)] {
            let what = format!("operation {operation}, {fault:?}, stays dead: {stays_dead}");
            let copy = Arc::new(scene.world.objects.fork());
            let faulty = Arc::new(FaultyStore::new(&copy, operation, fault, stays_dead));
            let dying = scene.world.administrator.reopen(wrap(Arc::clone(&faulty) as _), context());
            let outcome = match dying.plan_revocation(&name).await {
                Ok(plan) => dying.revoke(&plan).await,
                Err(error) => Err(error),
            };
            interrupted += usize::from(outcome.is_err());
            scene.assert_whole(&copy, &what).await;
            let administrator = scene.world.administrator.reopen(store(&copy), context());
            match administrator.plan_revocation(&name).await {
                Ok(plan) => administrator.revoke(&plan).await.expect(&what),
                Err(Error::HostMissing { .. }) => {}
                Err(error) => panic!("{what}: {error}"),
            }
            assert!(is_revoked(open_as(&copy, &scene.leaving).await), "{what}");
            scene.assert_whole(&copy, &what).await;
            if faulty.operations() <= operation {
                assert!(outcome.is_ok(), "{what}");
                assert!(interrupted >= 20, "only {interrupted} interruptions");
                return;
            }
        }
    }
}

/// A lineage whose first commit is rotten keeps nobody from being shut out.
#[tokio::test]
async fn a_damaged_lineage_is_in_no_revocations_way() {
    let scene = Scene::new(&[Power::Replicator]).await;
    let second = GroupName::new("second").expect("a good name");
    let its: AnyLineage = scene.open(&scene.leaving).await.create_lineage(&second, &site("a")).await.expect("begun");
    let genesis = Path::from(format!("v/lineages/{}/commits/{:020}", its.id(), 1));
    scene.world.objects.put(&genesis, Bytes::from_static(b"rotten").into()).await.expect("written");
    scene.revoke().await;
    assert!(is_revoked(scene.world.open(&scene.leaving).await));
    let administrator = &scene.world.administrator;
    let lineage = administrator.lineage(&group()).await.expect("readable").expect("there");
    assert!(restore(&lineage, &scene.point).await.expect("read") == scene.content);
}

/// What has a number is judged by it; what has none counts no more.
#[test]
fn a_revoked_hosts_word_counts_up_to_its_numbers() {
    let ids = (farshore_core::LineageId::from_bytes([1; 16]), farshore_core::RunId::from_bytes([2; 16]));
    let ((lineage, run), author) = (ids, farshore_core::HostId::from_bytes([3; 16]));
    let written_until = WrittenUntil { lineages: [(lineage, (7, 2))].into(), runs: [(run, 4)].into() };
    let at = Timestamp::from_unix_milliseconds(0);
    let invited = |revoked| RingHost {
        host: author,
        name: host_name("leaving"),
        powers: Power::ALL.to_vec(),
        invitation: [0; 32],
        invited_at: at,
        expires_at: at,
        revoked,
    };
    let commit = |lineage, sequence| Statement::Commit { lineage, sequence, author, boxes: [0; 32], body: [0; 32] };
    let boundary =
        |lineage, number| Statement::Boundary { lineage, number, author, commit: number + 1, deleted_to: number };
    let entry = |run, number| Statement::RunEntry { run, number, author, entry: [0; 32] };
    let other = farshore_core::LineageId::from_bytes([9; 16]);
    let (other_run, body) = (farshore_core::RunId::from_bytes([9; 16]), [0; 32]);
    let cases = [
        (commit(lineage, 7), true),
        (commit(lineage, 8), false),
        (commit(other, 1), false),
        (boundary(lineage, 2), true),
        (boundary(lineage, 3), false),
        (boundary(other, 1), false),
        (entry(run, 4), true),
        (entry(run, 5), false),
        (entry(other_run, 1), false),
        (Statement::Enrolment { host: author, body }, false),
    ];
    for revoked in [None, Some(Revocation { at, written_until: None })] {
        assert!(cases.iter().all(|(statement, _)| invited(revoked.clone()).counts(statement)), "{revoked:?}");
    }
    let revoked = invited(Some(Revocation { at, written_until: Some(written_until) }));
    for (number, (statement, expected)) in cases.iter().enumerate() {
        assert_eq!(revoked.counts(statement), *expected, "case {number}");
    }
}
