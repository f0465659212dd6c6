//! Powers: what a host may do, each against each, with the keys that it really has; and who writes what another may not.

use object_store::{ObjectStoreExt, path::Path};

use super::*;
use crate::{CheckDepth, Error, Grace, HostCredential, JoinFile, Power};

pub(super) struct World {
    pub(super) objects: Arc<InMemory>,
    pub(super) administrator: Vault,
    pub(super) kit: Kit,
}

impl World {
    pub(super) async fn new() -> Self {
        let objects = Arc::new(InMemory::new());
        let (administrator, kit) = make(store(&objects), "p").await.expect("made");
        Self { objects, administrator, kit }
    }

    async fn invite(&self, name: &str, powers: &[Power]) -> JoinFile {
        self.administrator.invite(&host_name(name), powers, far_future()).await.expect("invited")
    }

    /// A host that has joined, and was approved if it needs to be.
    pub(super) async fn host(&self, name: &str, powers: &[Power]) -> HostCredential {
        let join = self.invite(name, powers).await;
        let credential = HostCredential::new(&join, &SystemEntropy);
        credential.enrol(&store(&self.objects), &join, &context()).await.expect("joined");
        if powers.iter().any(|power| power.needs_approval()) {
            self.administrator.approve(&host_name(name)).await.expect("approved");
        }
        credential
    }

    pub(super) async fn open(&self, credential: &HostCredential) -> Result<Vault> {
        open_as(&self.objects, credential).await
    }
}

pub(super) async fn open_as(objects: &Arc<InMemory>, credential: &HostCredential) -> Result<Vault> {
    Vault::open(store(objects), &Opener::Host(Box::new(credential.clone())), context()).await
}

pub(super) fn host_name(name: &str) -> farshore_core::HostName {
    farshore_core::HostName::new(name).expect("a good name")
}

fn far_future() -> Timestamp {
    // In the year 2255.
    Timestamp::from_unix_milliseconds(9_000_000_000_000)
}

fn is_refused<T>(outcome: Result<T>, power: Power) -> bool {
    matches!(outcome, Err(Error::PowerMissing { power: missing, .. }) if missing == power)
}

/// Every thing that a power is for, by everybody who has one power only: T16, against the keys.
#[tokio::test]
async fn each_power_can_do_what_it_is_for_and_nothing_else() {
    let world = World::new().await;
    let first = world.host("first", &[Power::Replicator]).await;
    let content = noise(1, 20 * CHUNK);
    let written = commit_disk(&lineage(&world.open(&first).await.expect("opened")).await, &content).await;
    let point = written.expect("a replicator commits to the group that it began");
    let run = farshore_core::RunId::from_bytes([9; 16]);
    world.administrator.create_run(run, b"made").await.expect("written");

    for (number, power) in (10u8..).zip(Power::ALL) {
        let vault = world.open(&world.host(power.name(), &[power]).await).await.expect("opened");
        assert_eq!(vault.powers(), [power]);
        assert!(!vault.info().await.expect("readable").is_administrator);
        let opened = vault.lineage(&group()).await;
        // The second replicator has no key to a group that another host began, until it is approved.
        if power == Power::Replicator {
            assert!(matches!(opened, Err(Error::NoKey { .. })));
            assert_eq!(vault.info().await.expect("readable").closed, [vault.lineage_id(&group())]);
            world.administrator.approve(&host_name("replicator")).await.expect("approved");
        } else {
            opened.expect("readable");
        }
        let lineage = vault.lineage(&group()).await.expect("readable").expect("there");
        let head = lineage.head().await.expect("anybody with a key follows the lineage");
        assert_eq!(lineage.point(point.sequence).await.expect("and its points"), point);

        let read = restore(&lineage, &point).await;
        match power {
            Power::Recoverer => assert!(read.expect("it reads") == content),
            _ => assert!(is_refused(read, Power::Recoverer)),
        }
        let checked = vault.check(CheckDepth::Full, &|_| {}).await;
        match power {
            Power::Recoverer => assert_eq!(checked.expect("it reads").findings, []),
            _ => assert!(is_refused(checked, Power::Recoverer)),
        }
        assert_eq!(vault.check(CheckDepth::Structure, &|_| {}).await.expect("anybody can").findings, []);

        let begun = lineage.begin_point(head.generation, &head.active_site).await.map(drop);
        let another = GroupName::new(format!("of-{power}")).expect("a good name");
        let made = vault.create_lineage(&another, &site("a")).await.map(drop);
        match power {
            Power::Replicator => {
                begun.expect("it writes");
                made.expect("it begins groups");
                assert_eq!(commit_disk(&lineage, &content).await.expect("committed").stats.bytes_changed, 0);
            }
            _ => assert!(is_refused(begun, Power::Replicator) && is_refused(made, Power::Replicator)),
        }

        let own = farshore_core::RunId::from_bytes([number; 16]);
        let (journal, read) = (vault.create_run(own, b"x").await, vault.run_entries(run).await);
        let head = lineage.head().await.expect("readable");
        let raised = lineage.raise_generation(&head.active_site, "a test", &head).await.map(drop);
        let (pinned, unpinned) = (lineage.pin(own, point.sequence).await, lineage.unpin(own).await);
        match power {
            Power::Controller => {
                journal.expect("it makes runs");
                raised.expect("it fences");
                pinned.expect("it pins");
                unpinned.expect("and gives the pin up");
            }
            _ => {
                assert!(is_refused(journal, Power::Controller) && is_refused(raised, Power::Controller));
                assert!(is_refused(pinned, Power::Controller) && is_refused(unpinned, Power::Controller));
            }
        }
        match power {
            Power::Controller | Power::Recoverer => assert_eq!(read.expect("it reads journals"), ["made"]),
            Power::Replicator | Power::Pruner => assert!(is_refused(read, Power::Controller)),
        }
        let planned = lineage.plan_prune(&KEEP_ALL, Grace::default()).await;
        match power {
            Power::Pruner => drop(lineage.prune(planned.expect("it plans")).await.expect("it prunes")),
            _ => assert!(is_refused(planned.map(drop), Power::Pruner)),
        }

        for outcome in [
            vault.invite(&host_name("more"), &[power], far_future()).await.map(drop),
            vault.approve(&host_name("first")).await.map(drop),
            vault.withdraw(&host_name("first")).await,
        ] {
            assert!(matches!(outcome, Err(Error::NotAdministrator { .. })));
        }
    }
    // What each of them wrote is read by who may.
    let report = world.administrator.check(CheckDepth::Full, &|_| {}).await.expect("checked");
    assert_eq!(report.findings, []);
    assert!(restore(&lineage(&world.administrator).await, &point).await.expect("readable") == content);
}

/// A power is more than a good intention of our own code: what a host writes beyond it is refused by who reads it.
#[tokio::test]
async fn what_a_host_may_not_write_is_refused_by_its_readers() {
    let world = World::new().await;
    let replicator = world.host("replicator", &[Power::Replicator]).await;
    let vault = world.open(&replicator).await.expect("opened");
    let lineage = lineage(&vault).await;
    let point = commit_disk(&lineage, &noise(1, 2 * CHUNK)).await.expect("committed");
    let head = lineage.head().await.expect("readable");

    // A captured replicator has the lineage's keys, and code that does not ask for powers.
    let mut forged = head.clone();
    forged.sequence = head.sequence.next();
    forged.generation = head.generation.next();
    let event = crate::commit::Event::GenerationRaised { previous_site: site("a"), reason: "mine".to_owned() };
    let built_on = lineage.0.log.newest().await.expect("readable");
    lineage.0.log.create(&built_on, forged, event).await.expect("the store knows nothing of powers");
    let there = world.administrator.lineage(&group()).await.expect("readable").expect("there");
    let error = there.head().await.expect_err("a replicator cannot fence");
    assert!(error.is_damage() && error.to_string().contains("has not the power: controller"), "{error}");
    let earlier = there.point(point.sequence).await.expect("points before it are unharmed");
    assert_eq!(earlier, point);
}

#[tokio::test]
async fn a_join_file_works_once_until_it_expires_and_opens_nothing() {
    let world = World::new().await;
    let (here, elsewhere) = (store(&world.objects), store(&Arc::default()));
    make(elsewhere.clone(), "p").await.expect("another vault");
    let join = world.invite("one", &[Power::Replicator, Power::Recoverer]).await;
    let text = join.to_text();
    let join = JoinFile::parse(&text).expect("its own text");
    assert_eq!((join.name().as_str(), join.powers().len()), ("one", 2));
    let credential = HostCredential::new(&join, &SystemEntropy);
    let refused = |outcome: Result<()>, why: &str| {
        let error = outcome.expect_err("refused");
        assert!(matches!(error, Error::JoinRefused { .. }) && error.to_string().contains(why), "{error}");
    };

    refused(credential.enrol(&elsewhere, &join, &context()).await, "another one");
    let never = world.open(&credential).await.map(drop);
    refused(never, "never enrolled");
    credential.enrol(&here, &join, &context()).await.expect("joined");
    credential.enrol(&here, &join, &context()).await.expect("idempotent");
    let thief = HostCredential::new(&join, &SystemEntropy);
    refused(thief.enrol(&here, &join, &context()).await, "used already");
    refused(open_as(&world.objects, &thief).await.map(drop), "never enrolled");

    // Powers that need keys wait for the administrator; the credential survives its file.
    let credential = HostCredential::parse(&credential.to_text()).expect("its own text");
    let vault = world.open(&credential).await.expect("opened");
    assert_eq!(vault.powers(), [Power::Replicator]);
    let point = commit_disk(&lineage(&vault).await, &noise(1, CHUNK)).await.expect("committed");
    let error = restore(&lineage(&vault).await, &point).await.expect_err("it cannot read what it wrote");
    assert!(matches!(error, Error::PowerMissing { awaits_approval: true, .. }), "{error}");
    let hosts = world.administrator.hosts().await.expect("listed");
    assert!(hosts.len() == 1 && hosts[0].has_joined && !hosts[0].is_approved, "{hosts:?}");
    let approval = world.administrator.approve(&host_name("one")).await.expect("approved");
    assert_eq!((approval.powers, approval.groups), (vec![Power::Recoverer], vec![group()]));
    world.administrator.approve(&host_name("one")).await.expect("idempotent");
    let vault = world.open(&credential).await.expect("opened");
    assert_eq!(vault.powers(), [Power::Replicator, Power::Recoverer]);
    restore(&lineage(&vault).await, &point).await.expect("readable");

    let long_ago = Timestamp::from_unix_milliseconds(1);
    let late = world.administrator.invite(&host_name("late"), &[Power::Replicator], long_ago).await;
    let late = late.expect("invited");
    refused(HostCredential::new(&late, &SystemEntropy).enrol(&here, &late, &context()).await, "expired");
    let not_joined = world.administrator.approve(&host_name("late")).await.map(drop);
    refused(not_joined, "not joined yet");
    let twice = world.administrator.invite(&host_name("late"), &[Power::Replicator], far_future()).await;
    assert!(matches!(twice, Err(Error::HostExists { .. })));
    world.administrator.withdraw(&host_name("late")).await.expect("withdrawn");
    refused(HostCredential::new(&late, &SystemEntropy).enrol(&here, &late, &context()).await, "withdrawn");
    let used = world.administrator.withdraw(&host_name("one")).await;
    assert!(matches!(used, Err(Error::InvalidRequest { .. })));
    let gone = world.administrator.approve(&host_name("late")).await;
    assert!(matches!(gone, Err(Error::HostMissing { .. })));
    let powerless = world.administrator.invite(&host_name("none"), &[], far_future()).await;
    assert!(matches!(powerless, Err(Error::InvalidRequest { .. })));
}

/// An object of the ring, an enrolment and a grant: each bit that a store flips, and each object that it takes from
/// another host or an earlier time.
#[tokio::test]
async fn keys_that_a_store_tampers_with_are_noticed() {
    let world = World::new().await;
    let host = world.host("host", &[Power::Controller]).await;
    let other = world.host("other", &[Power::Controller]).await;
    let keys: Vec<String> = objects(&world.objects).await.into_iter().map(|(key, _)| key).collect();
    let is_of = |key: &str, host: &HostCredential| key.contains(&host.host().to_string());
    let newest_ring = keys.iter().rfind(|key| key.contains("/ring/")).expect("rings").clone();
    let of_host: Vec<&String> = keys.iter().filter(|key| **key == newest_ring || is_of(key, &host)).collect();
    assert_eq!(of_host.len(), 3, "{keys:?}");
    for key in of_host {
        let path = Path::from(key.as_str());
        let whole = world.objects.get(&path).await.expect("there").bytes().await.expect("there").to_vec();
        for position in (0..whole.len()).step_by(if whole.len() > 600 { 7 } else { 1 }) {
            let mut flipped = whole.clone();
            flipped[position] ^= 1 << (position % 8);
            world.objects.put(&path, flipped.into()).await.expect("written");
            let error = world.open(&host).await.map(drop).expect_err("noticed");
            assert!(error.is_damage(), "a flip at {position} of {key}: {error}");
        }
        for exchanged in keys.iter().filter(|other| *other != key) {
            let bytes = world.objects.get(&Path::from(exchanged.as_str())).await.expect("there").bytes().await;
            world.objects.put(&path, bytes.expect("there").into()).await.expect("written");
            let error = world.open(&host).await.map(drop).expect_err("noticed");
            assert!(error.is_damage(), "{exchanged} in the place of {key}: {error}");
        }
        world.objects.put(&path, whole.into()).await.expect("written");
    }
    world.open(&host).await.expect("whole again");
    world.open(&other).await.expect("and never harmed");
}
