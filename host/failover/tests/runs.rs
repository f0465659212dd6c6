//! What runs promise: a drill leaves nothing, an unplanned failover that was cut short at any call is finished by the next
//! one without doing anything twice, the source is fenced before a second side starts, and every end has a report.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use farshore_core::{
    Basis, CHUNK_BYTES, Code, Coded as _, Consistency, Disk, DiskId, Firmware, GroupName, Instant, Machine, MachineId,
    Passphrase, PowerState, Sequence, SiteName, SystemClock, SystemEntropy, Timestamp,
};
use farshore_failover::{
    Execution, FailoverError, FailoverPlan, PlanRequest, RunEvent, RunKind, RunObserver, RunOutcome, RunReport,
    list_runs, plan,
};
use farshore_platform::{OwnedKind, ReadinessLevel, Source};
use farshore_vault::{
    Address, Context, CreateOptions, KdfParameters, MachineBehind, PointDetails, PointDiskDraft, PointMachineDraft,
    Store, StoreOptions, Vault, Workers,
};
use support::{SimulatedSource, SimulatedTarget};
use tokio_util::sync::CancellationToken;

const DISK_BYTES: u64 = 8 * CHUNK_BYTES;

struct Silent;

impl RunObserver for Silent {
    fn event(&self, _: RunEvent) {}
}

fn group() -> GroupName {
    GroupName::new("orders").expect("a name")
}

fn production() -> SiteName {
    SiteName::new("production").expect("a name")
}

fn machine(name: &str) -> Machine {
    let disk = |id: &str, boot| Disk {
        id: DiskId::new(id).expect("a name"),
        size_bytes: DISK_BYTES,
        boot,
        properties: BTreeMap::new(),
    };
    Machine {
        id: MachineId::new(name).expect("a name"),
        name: name.to_owned(),
        cpus: 1,
        memory_bytes: 1 << 28,
        firmware: Firmware::Bios,
        power: PowerState::Running,
        disks: vec![disk("vda", true), disk("vdb", false)],
        network_interfaces: Vec::new(),
        properties: BTreeMap::new(),
    }
}

fn content(machine: usize, disk: usize) -> Vec<u8> {
    later_content(0, machine, disk)
}

fn later_content(version: usize, machine: usize, disk: usize) -> Vec<u8> {
    let length = usize::try_from(DISK_BYTES).expect("small");
    (0..length).map(|index| ((index / 7 + machine * 31 + disk * 17 + version * 5) % 250) as u8 + 1).collect()
}

/// A vault in memory with one point of two machines of two disks.
async fn vault_with_point(name: &str) -> Arc<Vault> {
    let address: Address = format!("memory:{name}").parse().expect("an address");
    let store = Store::open(&address, &StoreOptions::default()).expect("a store in memory");
    let options = CreateOptions { kdf: KdfParameters::FLOOR };
    let context =
        Context { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy), workers: Workers::inline() };
    let draft = Vault::draft(store, &Passphrase::new("correct horse"), options, context).await.expect("a draft");
    let vault = draft.create().await.expect("a new vault");
    commit_point(&vault, 0).await;
    Arc::new(vault)
}

async fn commit_point(vault: &Vault, version: usize) -> Sequence {
    commit(vault, &|machine, disk| later_content(version, machine, disk)).await
}

async fn commit(vault: &Vault, content: &dyn Fn(usize, usize) -> Vec<u8>) -> Sequence {
    commit_at(vault, 0, &[], content).await
}

/// So many hours after the first, while these machines are suspended.
async fn commit_at(
    vault: &Vault,
    hours: i64,
    suspended: &[&str],
    content: &dyn Fn(usize, usize) -> Vec<u8>,
) -> Sequence {
    let lineage = vault.create_lineage(&group(), &production()).await.expect("a lineage");
    let head = lineage.head().await.expect("a head");
    let writer = lineage.begin_point(head.generation, &production()).await.expect("a writer");
    let mut machines = Vec::new();
    let captured = [machine("db"), machine("web")].into_iter().enumerate();
    for (number, machine) in captured.filter(|(_, machine)| !suspended.contains(&machine.id.as_str())) {
        let mut disks = Vec::new();
        for (index, disk) in machine.disks.iter().enumerate() {
            let to = writer.add_disk(&machine.id, &disk.id, disk.size_bytes).await.expect("a disk");
            to.write(0, Bytes::from(content(number, index))).await.expect("stored");
            disks.push(PointDiskDraft { disk: disk.id.clone(), basis: Basis::Full, tracking_token: None });
        }
        machines.push(PointMachineDraft { machine, disks });
    }
    let details = PointDetails {
        capture: None,
        captured_at: Timestamp::from_unix_milliseconds(1_790_000_000_000 + hours * 3_600_000),
        instant: Instant::Group,
        consistency: Consistency::Crash,
        machines,
        suspended: suspended.iter().map(|name| MachineId::new(*name).expect("a name")).collect(),
        label: None,
        note: String::new(),
    };
    writer.commit(details).await.expect("a point").sequence
}

struct Scene {
    vault: Arc<Vault>,
    target: Arc<SimulatedTarget>,
    source: Option<Arc<SimulatedSource>>,
    folder: tempfile::TempDir,
}

impl Scene {
    async fn new(name: &str, source_power: Option<PowerState>) -> Self {
        let source = source_power.map(|power| SimulatedSource::new(vec![machine("db"), machine("web")], power));
        let folder = tempfile::tempdir().expect("a folder");
        Self { vault: vault_with_point(name).await, target: SimulatedTarget::new(), source, folder }
    }

    fn source(&self) -> Option<Arc<dyn Source>> {
        self.source.clone().map(|source| source as Arc<dyn Source>)
    }

    async fn plan(&self, kind: RunKind) -> Result<FailoverPlan, FailoverError> {
        self.plan_of(kind, None, false).await
    }

    async fn plan_of(
        &self,
        kind: RunKind,
        point: Option<Sequence>,
        discard_recovered: bool,
    ) -> Result<FailoverPlan, FailoverError> {
        let request = PlanRequest {
            vault: &self.vault,
            kind,
            group: &group(),
            point,
            machines: &[],
            discard_recovered,
            source: self.source(),
            target: &*self.target,
            clock: &SystemClock,
        };
        plan(request).await
    }

    fn execution(&self, attestation: Option<&str>) -> Execution {
        Execution {
            vault: Arc::clone(&self.vault),
            source: self.source(),
            target: Arc::clone(&self.target) as _,
            state_folder: Path::to_owned(self.folder.path()),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            observer: Arc::new(Silent),
            readiness: ReadinessLevel::Ready,
            readiness_limit: Duration::from_millis(50),
            attestation: attestation.map(ToOwned::to_owned),
            drill_reaches: Vec::new(),
        }
    }

    async fn run(&self, kind: RunKind, attestation: Option<&str>) -> Result<RunReport, FailoverError> {
        self.run_plan(&self.plan(kind).await?, attestation).await
    }

    async fn run_plan(&self, plan: &FailoverPlan, attestation: Option<&str>) -> Result<RunReport, FailoverError> {
        self.execution(attestation).execute(plan, &production(), &CancellationToken::new()).await
    }

    fn assert_recovered_once(&self, what: &str) {
        assert!(self.target.disks().is_empty(), "{what}: no disk is left beside the machines");
        let machines: Vec<_> = self.target.machines().into_values().collect();
        assert_eq!(machines.len(), 2, "{what}: each machine once");
        for made in machines {
            let number = usize::from(made.source.as_str() == "web");
            assert!(made.running, "{what}");
            assert!(made.disks == [content(number, 0), content(number, 1)], "{what}: {} byte for byte", made.source);
        }
    }
}

#[tokio::test]
async fn a_drill_recovers_everything_and_leaves_nothing() {
    let scene = Scene::new("drill", Some(PowerState::Running)).await;
    let lineage = scene.vault.lineage(&group()).await.expect("an answer").expect("a lineage");
    let before = lineage.head().await.expect("a head").sequence;
    let report = scene.run(RunKind::Drill, None).await.expect("a drill");
    assert_eq!(report.outcome, RunOutcome::Succeeded);
    assert!(report.cleaned_up && report.seconds_lost_at_most.is_none() && report.generation.is_none());
    assert!(report.machines.iter().all(|machine| machine.written_bytes == 2 * DISK_BYTES));
    assert!(scene.target.disks().is_empty() && scene.target.machines().is_empty());
    assert!(scene.source.as_ref().expect("a source").gone().is_empty(), "the source was not touched");
    let head = lineage.head().await.expect("a head");
    assert_eq!(head.active_site, production());
    assert_eq!(head.sequence, before.next().next(), "it has pinned its point, and given the pin up");
    assert_eq!(head.pins, []);
    let runs = list_runs(&scene.vault, 10).await.expect("a list");
    assert!(runs.len() == 1 && runs[0].state.as_ref().expect("readable").report.as_ref() == Some(&report));
    assert!(report.isolation.as_ref().is_some_and(|text| text.starts_with("linked")));
    let open = Execution { drill_reaches: vec!["both may use /srv/recovered".to_owned()], ..scene.execution(None) };
    let plan = scene.plan(RunKind::Drill).await.expect("a plan");
    let other = open.execute(&plan, &production(), &CancellationToken::new()).await.expect("a drill");
    assert_eq!(other.isolation.as_deref(), Some("none: both may use /srv/recovered"));
}

#[tokio::test]
async fn an_unplanned_failover_fences_stops_the_source_and_states_the_loss() {
    let scene = Scene::new("unplanned", Some(PowerState::Running)).await;
    let lineage = scene.vault.lineage(&group()).await.expect("an answer").expect("a lineage");
    let before = lineage.head().await.expect("a head").sequence;
    let report = scene.run(RunKind::Unplanned, None).await.expect("a failover");
    assert_eq!(report.outcome, RunOutcome::Succeeded);
    assert!(report.fences.len() == 2 && report.fences.iter().all(|fence| fence.proof.is_some()));
    assert_eq!(scene.source.as_ref().expect("a source").gone().len(), 2);
    let proven = report.fences.iter().map(|fence| fence.at).max().expect("proofs");
    let lost = proven.since(report.captured_at).as_secs_f64();
    assert_eq!(report.seconds_lost_at_most, Some(lost), "a source that lived went on until it was turned off");
    assert!(report.loss.contains("point"), "{}", report.loss);
    scene.assert_recovered_once("after a failover");
    let head = lineage.head().await.expect("a head");
    assert_eq!(
        head.sequence.get(),
        before.get() + 3,
        "it has fenced the group, pinned its point, and given the pin up"
    );
    assert_eq!(head.pins, []);
    assert_eq!((head.active_site.as_str(), Some(head.generation)), ("recovery", report.generation));
    assert!(
        lineage.begin_point(farshore_core::Generation::FIRST, &production()).await.is_err(),
        "the source is fenced"
    );
}

#[tokio::test]
async fn what_is_lost_of_a_machine_that_was_suspended_is_stated() {
    let scene = Scene::new("behind", Some(PowerState::Running)).await;
    commit_at(&scene.vault, 3, &["web"], &|machine, disk| later_content(1, machine, disk)).await;
    let first = Timestamp::from_unix_milliseconds(1_790_000_000_000);
    let behind = [MachineBehind { machine: MachineId::new("web").expect("a name"), captured_at: first }];
    let plan = scene.plan(RunKind::Unplanned).await.expect("a plan");
    assert_eq!((&plan.behind[..], plan.captured_at.since(first)), (&behind[..], Duration::from_secs(3 * 3_600)));
    assert!(plan.age_seconds >= 3.0 * 3_600.0, "it is as old as the machine that is furthest behind");

    let report = scene.run_plan(&plan, None).await.expect("a failover");
    assert_eq!((report.outcome, &report.behind[..]), (RunOutcome::Succeeded, &behind[..]));
    let proven = report.fences.iter().map(|fence| fence.at).max().expect("proofs");
    assert_eq!(report.seconds_lost_at_most, Some(proven.since(first).as_secs_f64()));
    assert!(
        report.loss.contains(&format!("what machine web, which was suspended, did after {first}")),
        "{}",
        report.loss
    );
    for made in scene.target.machines().into_values() {
        let (version, number) = if made.source.as_str() == "db" { (1, 0) } else { (0, 1) };
        let was = [0, 1].map(|disk| later_content(version, number, disk));
        assert!(made.disks == was, "{} as it was captured last", made.source);
    }
    // Only who is recovered counts.
    let only_db = PlanRequest {
        vault: &scene.vault,
        kind: RunKind::Drill,
        group: &group(),
        point: None,
        machines: &[MachineId::new("db").expect("a name")],
        discard_recovered: false,
        source: None,
        target: &*scene.target,
        clock: &SystemClock,
    };
    assert_eq!(farshore_failover::plan(only_db).await.expect("a plan").behind, []);
}

#[tokio::test]
async fn a_machine_is_never_started_twice() {
    let scene = Scene::new("twice", Some(PowerState::Running)).await;
    let made_before_it_was_refused = scene.plan(RunKind::Unplanned).await.expect("a plan");
    let first = scene.run(RunKind::Unplanned, None).await.expect("a failover");
    let before: Vec<_> = scene.target.machines().into_keys().collect();
    let error = scene.run(RunKind::Unplanned, None).await.expect_err("they run already");
    assert_eq!(error.code(), Code::new(5010), "{error}");
    for part in ["db", "web", "recovery", &first.run.to_string()] {
        assert!(error.to_string().contains(part), "{part} is in {error}");
    }
    let late = scene.run_plan(&made_before_it_was_refused, None).await;
    assert_eq!(late.expect_err("another process was faster").code(), Code::new(5010));
    assert_eq!(scene.target.machines().into_keys().collect::<Vec<_>>(), before);

    // What happened there may be given up, on request only.
    let plan = scene.plan_of(RunKind::Unplanned, None, true).await.expect("a plan");
    assert_eq!(plan.discards.len(), 2);
    let again = scene.run_plan(&plan, None).await.expect("a failover: what was proven once needs nobody's word");
    assert_eq!(again.outcome, RunOutcome::Succeeded);
    scene.assert_recovered_once("after the first copies were given up");
    assert!(scene.target.machines().keys().all(|id| !before.contains(id)), "the first copies are gone");
    let error = scene.run(RunKind::Unplanned, None).await.expect_err("they run already");
    assert!(error.to_string().contains(&again.run.to_string()), "only the second failover's are left: {error}");
}

/// Little else than the first point: a chunk of it is another, and one is zeros.
fn nearly_content(machine: usize, disk: usize) -> Vec<u8> {
    let (mut bytes, chunk) = (content(machine, disk), usize::try_from(CHUNK_BYTES).expect("small"));
    bytes[2 * chunk..3 * chunk].copy_from_slice(&later_content(1, machine, disk)[2 * chunk..3 * chunk]);
    bytes[5 * chunk..6 * chunk].fill(0);
    bytes
}

/// A scene that was failed over to a point that differs little from the first, at a target where disks begin from others.
async fn failed_over_to_the_newest(name: &str) -> Scene {
    let scene = Scene::new(name, Some(PowerState::Running)).await;
    commit(&scene.vault, &nearly_content).await;
    scene.target.begin_from_sealed();
    let report = scene.run(RunKind::Unplanned, None).await.expect("a failover");
    assert!(report.machines.iter().all(|machine| machine.written_bytes == 2 * (DISK_BYTES - CHUNK_BYTES)));
    scene.target.work();
    scene
}

#[tokio::test]
async fn another_point_is_reached_by_writing_what_differs() {
    let scene = failed_over_to_the_newest("differs").await;
    let plan = scene.plan_of(RunKind::Unplanned, Some(Sequence::new(2)), true).await.expect("a plan");
    let report = scene.run_plan(&plan, None).await.expect("a failover");
    assert_eq!(report.outcome, RunOutcome::Succeeded);
    scene.assert_recovered_once("from the older point");
    assert!(report.machines.iter().all(|machine| machine.written_bytes == 2 * 2 * CHUNK_BYTES), "{report:?}");
    let runs = list_runs(&scene.vault, 10).await.expect("a list");
    let first = runs.last().expect("two runs").state.as_ref().expect("readable").head.run;
    let second = runs.first().expect("two runs").state.as_ref().expect("readable");
    let mut disks = second.machines.values().flat_map(|made| made.disks.values());
    assert!(disks.all(|disk| disk.base == Some(first)), "the journal says from what they began");

    // And on to the newest again, where a chunk is zeros that is none in what it begins from.
    let plan = scene.plan_of(RunKind::Unplanned, None, true).await.expect("a plan");
    let report = scene.run_plan(&plan, None).await.expect("a failover");
    assert!(report.machines.iter().all(|machine| machine.written_bytes == 2 * 2 * CHUNK_BYTES), "{report:?}");
    for made in scene.target.machines().into_values() {
        let number = usize::from(made.source.as_str() == "web");
        assert!(made.disks == [nearly_content(number, 0), nearly_content(number, 1)], "{}", made.source);
    }
}

#[tokio::test]
async fn a_disk_that_cannot_begin_from_another_is_written_whole() {
    let scene = failed_over_to_the_newest("refused-bases").await;
    scene.target.refuse_bases();
    let plan = scene.plan_of(RunKind::Unplanned, Some(Sequence::new(2)), true).await.expect("a plan");
    let report = scene.run_plan(&plan, None).await.expect("a failover");
    assert_eq!(report.outcome, RunOutcome::Succeeded, "{report:?}");
    scene.assert_recovered_once("from the older point");
    assert!(report.machines.iter().all(|machine| machine.written_bytes == 2 * DISK_BYTES), "{report:?}");
}

#[tokio::test]
async fn a_disk_whose_beginning_is_not_answered_is_written_whole_and_what_stays_of_it_is_told() {
    for can_be_removed in [true, false] {
        let scene = failed_over_to_the_newest(&format!("lost-bases-{can_be_removed}")).await;
        scene.target.lose_bases(can_be_removed);
        let plan = scene.plan_of(RunKind::Unplanned, Some(Sequence::new(2)), true).await.expect("a plan");
        let report = scene.run_plan(&plan, None).await.expect("a failover");
        assert_eq!(report.outcome, RunOutcome::Succeeded, "{report:?}");
        assert!(report.machines.iter().all(|machine| machine.written_bytes == 2 * DISK_BYTES), "{report:?}");
        assert_eq!(report.leftovers.len(), if can_be_removed { 0 } else { 4 }, "{report:?}");
        let left = scene.target.disks();
        assert_eq!(left.len(), report.leftovers.len());
        assert!(left.keys().all(|id| report.leftovers.iter().any(|text| text.contains(id))), "{report:?}");
        assert_eq!(scene.target.machines().values().filter(|made| made.running).count(), 2);
    }
}

#[tokio::test]
async fn what_was_written_is_not_written_again_when_what_is_given_up_could_not_be_removed() {
    let scene = failed_over_to_the_newest("keeps").await;
    let oldest = Some(Sequence::new(2));
    scene.target.keep_machines(true);
    let plan = scene.plan_of(RunKind::Unplanned, oldest, true).await.expect("a plan");
    let error = scene.run_plan(&plan, None).await.expect_err("what is there stays");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains("it cannot be removed"), "{cause}");
    let made: BTreeSet<_> = scene.target.disks().into_keys().collect();
    assert!(made.len() == 4 && scene.target.disks().values().all(|disk| disk.sealed));
    assert!(scene.target.machines().values().any(|old| !old.running), "it was turned off all the same");
    scene.target.keep_machines(false);
    let plan = scene.plan_of(RunKind::Unplanned, oldest, true).await.expect("a plan");
    let report = scene.run_plan(&plan, None).await.expect("a failover");
    assert_eq!(report.outcome, RunOutcome::Succeeded, "{report:?}");
    scene.assert_recovered_once("from the older point");
    assert_eq!(newest_disks(&scene).await, made, "the same run went on with the same disks");
}

/// The ids of the disks of the newest run.
async fn newest_disks(scene: &Scene) -> BTreeSet<String> {
    let runs = list_runs(&scene.vault, 10).await.expect("a list");
    let state = runs[0].state.as_ref().expect("readable");
    state.machines.values().flat_map(|made| made.disks.values().map(|disk| disk.id.clone())).collect()
}

#[tokio::test]
async fn differences_are_those_from_the_point_that_was_written_not_from_the_one_that_was_planned() {
    let scene = Scene::new("moved-base", Some(PowerState::Running)).await;
    scene.target.begin_from_sealed();
    let plan = scene.plan(RunKind::Unplanned).await.expect("a plan");
    let newer = commit(&scene.vault, &nearly_content).await;
    let report = scene.run_plan(&plan, None).await.expect("a failover");
    assert_eq!(report.point, newer, "it was committed while the plan was confirmed");
    let plan = scene.plan_of(RunKind::Unplanned, Some(Sequence::new(2)), true).await.expect("a plan");
    let report = scene.run_plan(&plan, None).await.expect("a failover");
    assert!(report.machines.iter().all(|machine| machine.written_bytes == 2 * 2 * CHUNK_BYTES), "{report:?}");
    scene.assert_recovered_once("from the older point");
}

#[tokio::test]
async fn another_point_cut_short_at_any_call_is_reached_once() {
    let oldest = Some(Sequence::new(2));
    for call in 0.. {
        let scene = failed_over_to_the_newest(&format!("differs-cut-{call}")).await;
        let plan = scene.plan_of(RunKind::Unplanned, oldest, true).await.expect("a plan");
        scene.target.stop_at(Some(call));
        let cut = tokio::select! {
            _ = scene.run_plan(&plan, None) => false,
            () = scene.target.was_stopped() => true,
        };
        scene.target.stop_at(None);
        if !cut {
            assert!(call > 30, "it has more calls than {call}");
            return;
        }
        let sealed: Vec<_> =
            scene.target.disks().into_iter().filter(|(_, disk)| disk.sealed).map(|(id, _)| id).collect();
        // Asked for again as it was; without giving anything up once nothing is left to give up.
        let report = match scene.plan_of(RunKind::Unplanned, oldest, false).await {
            Ok(plan) => scene.run_plan(&plan, None).await,
            Err(error) => {
                assert_eq!(error.code(), Code::new(5010), "cut at call {call}: {error}");
                let plan = scene.plan_of(RunKind::Unplanned, oldest, true).await.expect("a plan");
                scene.run_plan(&plan, None).await
            }
        };
        let report = report.expect("a failover");
        assert_eq!(report.outcome, RunOutcome::Succeeded, "cut at call {call}: {report:?}");
        scene.assert_recovered_once(&format!("cut at call {call}"));
        let runs = list_runs(&scene.vault, 10).await.expect("a list");
        assert_eq!(runs.len(), 2, "cut at call {call}: the run was taken up");
        let used = newest_disks(&scene).await;
        assert!(sealed.iter().all(|id| used.contains(id)), "cut at call {call}: what was sealed is used");
    }
}

#[tokio::test]
async fn another_point_does_not_start_a_second_copy_of_what_was_cut_short() {
    let scene = Scene::new("another-point", Some(PowerState::Running)).await;
    let newest = commit_point(&scene.vault, 1).await;
    let oldest = Sequence::new(2);
    let plan = scene.plan(RunKind::Unplanned).await.expect("a plan");
    assert!(plan.point == newest && oldest < newest);
    scene.target.never_ready(Some(&MachineId::new("db").expect("a name")));
    let slow = Execution { readiness_limit: Duration::from_secs(60), ..scene.execution(None) };
    let (source, stop) = (production(), CancellationToken::new());
    let started = async {
        while !scene.target.machines().values().any(|made| made.running) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = slow.execute(&plan, &source, &stop) => panic!("it does not get ready"),
        () = started => {}
    }
    let error = scene.plan_of(RunKind::Unplanned, Some(oldest), false).await.expect_err("a copy runs");
    assert_eq!(error.code(), Code::new(5010), "{error}");
    scene.target.never_ready(None);
    let plan = scene.plan_of(RunKind::Unplanned, Some(oldest), true).await.expect("a plan");
    let report = scene.run_plan(&plan, None).await.expect("a failover");
    assert_eq!((report.outcome, report.point), (RunOutcome::Succeeded, oldest));
    scene.assert_recovered_once("from the older point");
    let runs = list_runs(&scene.vault, 10).await.expect("a list");
    assert!(runs.iter().all(|run| run.state.as_ref().expect("readable").has_ended()));
}

#[tokio::test]
async fn a_drill_that_could_not_be_cleaned_up_is_cleaned_up_later() {
    let scene = Scene::new("clings", None).await;
    scene.target.cling(true);
    let report = scene.run(RunKind::Drill, None).await.expect("a report");
    assert!(
        !report.cleaned_up && report.leftovers.iter().any(|left| left.contains("something holds it")),
        "{report:?}"
    );
    assert!(!scene.target.machines().is_empty());
    scene.target.cling(false);
    let report = scene.run(RunKind::Drill, None).await.expect("the next drill");
    assert!(report.cleaned_up && report.outcome == RunOutcome::Succeeded);
    assert!(scene.target.machines().is_empty(), "what the first one left is gone too");
    let runs = list_runs(&scene.vault, 10).await.expect("a list");
    assert!(runs.iter().all(|run| run.state.as_ref().expect("readable").has_ended()));
}

#[tokio::test]
async fn a_target_that_is_busy_for_a_moment_is_asked_again() {
    let scene = Scene::new("busy", Some(PowerState::Running)).await;
    scene.target.be_busy(2);
    let plan = scene.plan(RunKind::Unplanned).await.expect("a plan");
    let patient = Execution { readiness_limit: Duration::from_secs(30), ..scene.execution(None) };
    let report = patient.execute(&plan, &production(), &CancellationToken::new()).await.expect("a failover");
    assert_eq!(report.outcome, RunOutcome::Succeeded, "{report:?}");
}

#[tokio::test]
async fn a_point_committed_while_the_operator_confirms_is_not_lost() {
    let scene = Scene::new("meanwhile", Some(PowerState::Running)).await;
    let plan = scene.plan(RunKind::Unplanned).await.expect("a plan");
    let newer = commit_point(&scene.vault, 1).await;
    assert!(newer > plan.point);
    let execution = scene.execution(None);
    let report = execution.execute(&plan, &production(), &CancellationToken::new()).await.expect("a failover");
    assert_eq!(report.point, newer);
    for made in scene.target.machines().into_values() {
        let number = usize::from(made.source.as_str() == "web");
        assert!(made.disks == [later_content(1, number, 0), later_content(1, number, 1)], "{}", made.source);
    }
    let runs = list_runs(&scene.vault, 10).await.expect("a list");
    assert_eq!(runs[0].state.as_ref().expect("readable").head.point, newer, "the journal says so too");
}

#[tokio::test]
async fn a_source_that_nobody_can_reach_needs_somebodys_word() {
    for power in [None, Some(PowerState::Unknown)] {
        let scene = Scene::new(&format!("attest-{power:?}"), power).await;
        let error = scene.run(RunKind::Unplanned, None).await.expect_err("nobody says that it is off");
        assert_eq!(error.code(), Code::new(5005), "{error}");
        assert!(scene.target.machines().is_empty() && list_runs(&scene.vault, 10).await.expect("a list").is_empty());
        let report = scene.run(RunKind::Unplanned, Some("ann saw it off")).await.expect("a failover");
        assert_eq!(report.attestation.as_deref(), Some("ann saw it off"));
        assert!(report.fences.iter().all(|fence| fence.proof.is_none() && fence.error.is_some()));
        scene.assert_recovered_once("with an attestation");
    }
}

#[tokio::test]
async fn a_failover_cut_short_at_any_call_is_finished_once() {
    for call in 0.. {
        let scene = Scene::new(&format!("cut-{call}"), Some(PowerState::Running)).await;
        scene.target.stop_at(Some(call));
        let cut = tokio::select! {
            _ = scene.run(RunKind::Unplanned, None) => false,
            () = scene.target.was_stopped() => true,
        };
        scene.target.stop_at(None);
        if !cut {
            assert!(call > 20, "a failover has more calls than {call}");
            return;
        }
        let report = scene.run(RunKind::Unplanned, None).await.expect("the next failover");
        assert_eq!(report.outcome, RunOutcome::Succeeded, "cut at call {call}");
        scene.assert_recovered_once(&format!("cut at call {call}"));
        let runs = list_runs(&scene.vault, 10).await.expect("a list");
        assert_eq!(runs.len(), 1, "cut at call {call}: the run was taken up, not begun again");
    }
}

#[tokio::test]
async fn a_drill_cut_short_at_any_call_is_cleaned_up_by_the_next() {
    for call in 0.. {
        let scene = Scene::new(&format!("drill-cut-{call}"), None).await;
        scene.target.stop_at(Some(call));
        let cut = tokio::select! {
            _ = scene.run(RunKind::Drill, None) => false,
            () = scene.target.was_stopped() => true,
        };
        scene.target.stop_at(None);
        if !cut {
            assert!(call > 20, "a drill has more calls than {call}");
            return;
        }
        let report = scene.run(RunKind::Drill, None).await.expect("the next drill");
        assert!(report.outcome == RunOutcome::Succeeded && report.cleaned_up, "cut at call {call}");
        let left = (scene.target.disks().len(), scene.target.machines().len());
        assert_eq!(left, (0, 0), "cut at call {call}");
        let runs = list_runs(&scene.vault, 10).await.expect("a list");
        assert!(runs.iter().all(|run| run.state.as_ref().expect("readable").has_ended()), "cut at call {call}");
    }
}

#[tokio::test]
async fn a_full_target_leaves_nothing_half_made_and_is_reported() {
    let scene = Scene::new("full", Some(PowerState::Running)).await;
    scene.target.be_full(true);
    let drill = scene.run(RunKind::Drill, None).await.expect("a report");
    assert_eq!(drill.outcome, RunOutcome::Failed);
    assert!(
        drill.cleaned_up
            && drill
                .machines
                .iter()
                .any(|machine| machine.error.as_ref().is_some_and(|error| error.contains("no room")))
    );
    let failover = scene.run(RunKind::Unplanned, None).await.expect("a report");
    assert_eq!(failover.outcome, RunOutcome::Failed);
    assert!(scene.target.disks().is_empty() && scene.target.machines().is_empty(), "nothing half-made is left");
    scene.target.be_full(false);
    let again = scene.run(RunKind::Unplanned, None).await.expect("a failover");
    assert_eq!(again.outcome, RunOutcome::Succeeded);
    scene.assert_recovered_once("after room was made");
}

#[tokio::test]
async fn a_disk_that_was_written_is_not_given_up_for_an_answer_that_is_lost() {
    let scene = Scene::new("silent", Some(PowerState::Running)).await;
    scene.target.be_silent(1);
    let report = scene.run(RunKind::Unplanned, None).await.expect("a failover");
    assert_eq!(report.outcome, RunOutcome::Succeeded);
    scene.assert_recovered_once("after a seal that was not answered");
}

#[tokio::test]
async fn a_failover_that_is_stopped_while_the_platform_does_not_answer_keeps_what_it_wrote() {
    let scene = Scene::new("stopped", Some(PowerState::Running)).await;
    scene.target.be_silent(u32::MAX);
    let (plan, stop) = (scene.plan(RunKind::Unplanned).await.expect("a plan"), CancellationToken::new());
    let operator = async {
        // It has sealed one, and does not answer.
        while !scene.target.disks().values().any(|disk| disk.sealed) {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    let (execution, source) = (scene.execution(None), production());
    let (result, ()) = tokio::join!(execution.execute(&plan, &source, &stop), operator);
    assert!(matches!(result, Err(FailoverError::Stopped)), "{result:?}");
    let written: BTreeSet<_> = scene.target.disks().into_keys().collect();
    assert!(!written.is_empty(), "it is there");
    scene.target.be_silent(0);
    let report = scene.run(RunKind::Unplanned, None).await.expect("the same failover");
    assert_eq!(report.outcome, RunOutcome::Succeeded, "{report:?}");
    scene.assert_recovered_once("after it was stopped");
    assert!(written.is_subset(&newest_disks(&scene).await), "the disks are those that were written");
}

#[tokio::test]
async fn what_was_made_by_a_call_without_an_answer_does_not_stay() {
    for kind in [OwnedKind::Disk, OwnedKind::Machine] {
        let scene = Scene::new(&format!("unanswered {kind:?}"), Some(PowerState::Running)).await;
        scene.target.lose_answers(Some(kind));
        for run in [RunKind::Drill, RunKind::Unplanned] {
            let report = scene.run(run, None).await.expect("a report");
            assert_eq!(report.outcome, RunOutcome::Failed, "{run} {kind:?}");
            let left = (scene.target.disks().len(), scene.target.machines().len());
            assert_eq!(left, (0, 0), "{run} {kind:?}");
        }
        scene.target.lose_answers(None);
        let again = scene.run(RunKind::Unplanned, None).await.expect("a failover");
        assert_eq!(again.outcome, RunOutcome::Succeeded);
        scene.assert_recovered_once("after answers came again");
    }
}

#[tokio::test]
async fn a_machine_that_does_not_get_ready_is_reported_and_the_others_go_on() {
    let scene = Scene::new("unready", Some(PowerState::Off)).await;
    let db = MachineId::new("db").expect("a name");
    scene.target.never_ready(Some(&db));
    let report = scene.run(RunKind::Unplanned, None).await.expect("a report");
    assert_eq!(report.outcome, RunOutcome::Partly);
    assert!(
        report.machines.iter().find(|machine| machine.machine == db).is_some_and(|machine| machine.error.is_some())
    );
    assert_eq!(scene.target.machines().len(), 2, "it is left for the operator to look at");
    assert!(report.machines.iter().all(|machine| machine.left_running == (machine.machine == db)), "{report:?}");
    let error = scene.run(RunKind::Unplanned, None).await.expect_err("it was started");
    assert_eq!(error.code(), Code::new(5010), "{error}");
    assert_eq!(scene.target.machines().len(), 2, "no second copy was started");
    let drill = scene.run(RunKind::Drill, None).await.expect("a report");
    assert!(drill.outcome != RunOutcome::Succeeded && drill.cleaned_up);
    assert_eq!(scene.target.machines().len(), 2, "the drill removed only its own");
}

#[tokio::test]
async fn what_cannot_be_recovered_is_said_before_anything_is_made() {
    let scene = Scene::new("refused", Some(PowerState::Running)).await;
    scene.target.refuse(Some("not enough memory"));
    for kind in [RunKind::Drill, RunKind::Unplanned] {
        let error = scene.run(kind, None).await.expect_err("refused");
        assert!(error.code() == Code::new(5004) && error.to_string().contains("not enough memory"), "{error}");
    }
    assert!(list_runs(&scene.vault, 10).await.expect("a list").is_empty());
    assert!(scene.source.as_ref().expect("a source").gone().is_empty());
}
