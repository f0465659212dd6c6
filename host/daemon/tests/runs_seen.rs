//! The daemon's view of the vault's runs: filled from the vault, kept over a restart, made again when it was lost; and each piece of news
//! is told once.

mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    sync::Arc,
    time::Duration,
};

use farshore_core::{
    Clock as _, GroupName, LineageId, MachineId, RunId, Sequence, SiteName, SystemClock, SystemEntropy, Timestamp,
};
use farshore_failover::{MachineReport, RunEntry, RunHead, RunJournal, RunKind, RunOutcome, RunReport};
use farshore_vault::{Context, HostCredential, Opener, Store, StoreOptions, Vault};
use serde_json::{Value, json};
use support::{CONFIGURATION, Daemon, WAIT_MAX, World, success};
use tokio::runtime::Runtime;

const DAY_MILLISECONDS: i64 = 86_400_000;

/// Who executes runs, so to speak: the journals are real, and no machine is.
struct Runs {
    runtime: Runtime,
    vault: Arc<Vault>,
}

impl Runs {
    /// In the vault of this world, as its host.
    fn of(world: &World) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let mut files = fs::read_dir(world.path("state/credentials")).expect("a folder");
        let file = files.next().expect("a credential").expect("a file").path();
        let credential = HostCredential::parse(&fs::read_to_string(file).expect("text")).expect("a credential");
        let address = format!("file:{}", world.path("vault").display()).parse().expect("an address");
        let store = Store::open(&address, &StoreOptions::new(BTreeMap::new())).expect("a store");
        let opener = Opener::Host(Box::new(credential));
        let vault = runtime.block_on(Vault::open(store, &opener, Context::system())).expect("it opens");
        Self { runtime, vault: Arc::new(vault) }
    }

    /// A run that began so many days ago, from one site to the other.
    fn begin(&self, kind: RunKind, days_ago: i64, sites: [&str; 2]) -> RunId {
        let [source, target] = sites.map(|site| SiteName::new(site).expect("a name"));
        let began_at = days_before_now(days_ago);
        let run = RunId::timed(&SystemClock, &SystemEntropy);
        let head = RunHead {
            run,
            kind,
            group: GroupName::new("shop").expect("a name"),
            lineage: LineageId::from_bytes([2; 16]),
            point: Sequence::new(5),
            captured_at: began_at,
            machines: vec![MachineId::new("shop").expect("a name")],
            behind: Vec::new(),
            source,
            target,
            began_at,
            attestation: None,
            discards: Vec::new(),
            drill_reaches: Vec::new(),
        };
        let begin = RunJournal::begin(Arc::clone(&self.vault), head);
        self.runtime.block_on(begin).expect("it begins");
        // Their ids sort by the millisecond of their making.
        self.runtime.block_on(SystemClock.sleep(Duration::from_millis(2)));
        run
    }

    /// The run ends; what is left behind counts against it.
    fn end(&self, run: RunId, outcome: RunOutcome, days_ago: i64, leftovers: &[&str]) {
        let resume = RunJournal::resume(Arc::clone(&self.vault), run);
        let mut journal = self.runtime.block_on(resume).expect("it is taken up");
        let head = journal.state().head.clone();
        let machine = MachineReport {
            machine: head.machines[0].clone(),
            recovered_id: None,
            readiness: None,
            written_bytes: 0,
            seconds_to_readiness: None,
            error: (outcome != RunOutcome::Succeeded).then(|| "it did not start".to_owned()),
            left_running: false,
        };
        let report = RunReport {
            run,
            kind: head.kind,
            group: head.group,
            source: head.source,
            target: head.target,
            point: head.point,
            captured_at: head.captured_at,
            behind: Vec::new(),
            began_at: head.began_at,
            ended_at: days_before_now(days_ago),
            outcome,
            loss: "none".to_owned(),
            seconds_lost_at_most: None,
            seconds_to_recover: (outcome == RunOutcome::Succeeded).then_some(1.5),
            generation: None,
            fences: Vec::new(),
            attestation: None,
            isolation: None,
            refusals: Vec::new(),
            machines: vec![machine],
            cleaned_up: leftovers.is_empty(),
            leftovers: leftovers.iter().map(|text| (*text).to_owned()).collect(),
        };
        self.runtime.block_on(journal.record(RunEntry::Ended(Box::new(report)))).expect("it ends");
    }

    fn done(&self, kind: RunKind, outcome: RunOutcome, days_ago: i64, sites: [&str; 2]) -> RunId {
        let run = self.begin(kind, days_ago, sites);
        self.end(run, outcome, days_ago, &[]);
        run
    }

    /// What the daemon says of runs, once it has so many of them.
    fn shown(&self, world: &World, count: usize) -> Vec<Value> {
        let mut last = None;
        for _ in 0..WAIT_MAX.as_secs() * 10 {
            let (status, body) = ask(world, "/v1/runs");
            let runs: Value = serde_json::from_str(&body).expect("JSON");
            match runs.as_array() {
                Some(runs) if status == 200 && runs.len() == count => return runs.clone(),
                _ => last = Some((status, body)),
            }
            self.runtime.block_on(SystemClock.sleep(Duration::from_millis(100)));
        }
        panic!("never {count} runs: {last:?}");
    }
}

fn days_before_now(days: i64) -> Timestamp {
    Timestamp::from_unix_milliseconds(SystemClock.now().as_unix_milliseconds() - days * DAY_MILLISECONDS)
}

/// What the daemon answers: its status and its body.
fn ask(world: &World, path: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(world.path("state/farshore.sock")).expect("it listens");
    stream.set_read_timeout(Some(WAIT_MAX)).expect("a limit");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// The events of runs that are kept, oldest first: the name, the severity and the run.
fn told(world: &World) -> Vec<(String, String, String)> {
    let mut told = Vec::new();
    for line in success(world.run(&["--json", "events", "--limit", "1000"])).lines() {
        let event: Value = serde_json::from_str(line).expect("JSON");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        if text(&event["name"]).starts_with("run-") {
            told.push((text(&event["name"]), text(&event["severity"]), text(&event["details"]["run"])));
        }
    }
    told
}

fn ids(runs: &[Value]) -> Vec<String> {
    runs.iter().map(|run| run["run"].as_str().expect("an id").to_owned()).collect()
}

const HERE: [&str; 2] = ["farm", "shelter"];

#[test]
fn the_view_follows_the_vault_and_each_run_is_told_once() {
    let world = World::new();
    success(world.run(&["--json", "--yes", "vault", "create"]));
    let runs = Runs::of(&world);
    let drill = runs.done(RunKind::Drill, RunOutcome::Succeeded, 0, HERE);
    let failover = runs.done(RunKind::Unplanned, RunOutcome::Partly, 0, HERE);
    let lasting = runs.begin(RunKind::Drill, 0, HERE);

    // Into an empty view everything comes without a word.
    let daemon = Daemon::start(&world);
    daemon.event("vault-opened");
    let shown = runs.shown(&world, 3);
    assert_eq!(ids(&shown), [lasting, failover, drill].map(|run| run.to_string()), "newest first");
    assert_eq!(
        (&shown[0]["kind"], &shown[0]["ended_at"], &shown[0]["outcome"]),
        (&json!("drill"), &Value::Null, &Value::Null)
    );
    let of_failover = &shown[1];
    assert_eq!(
        (&of_failover["kind"], &of_failover["group"], &of_failover["point"], &of_failover["outcome"]),
        (&json!("unplanned"), &json!("shop"), &json!(5), &json!("partly"))
    );
    assert_eq!((&of_failover["source"], &of_failover["target"]), (&json!("farm"), &json!("shelter")));
    assert_eq!((&shown[2]["machines_recovered"], &shown[2]["recovered_in_milliseconds"]), (&json!(1), &json!(1_500)));
    let length =
        |path: &str| serde_json::from_str::<Value>(&ask(&world, path).1).expect("JSON").as_array().map(Vec::len);
    assert_eq!(length("/v1/runs?group=shop&limit=2"), Some(2));
    assert_eq!(length("/v1/runs?group=other"), Some(0));
    for query in ["limit=many", "since=never"] {
        assert_eq!(ask(&world, &format!("/v1/runs?{query}")).0, 400, "{query}");
    }
    assert_eq!(daemon.end().0, Some(0));
    assert_eq!(told(&world), []);

    // What happened while no daemon ran is told when one looks again: what is news, and what its sites have to do with.
    runs.end(lasting, RunOutcome::Succeeded, 0, &[]);
    let untidy = runs.begin(RunKind::Drill, 0, ["elsewhere", "shelter"]);
    runs.end(untidy, RunOutcome::Succeeded, 0, &["machine shop"]);
    let old = runs.done(RunKind::Drill, RunOutcome::Failed, 30, HERE);
    let foreign = runs.done(RunKind::Drill, RunOutcome::Failed, 0, ["elsewhere", "nowhere"]);
    let next = runs.begin(RunKind::Unplanned, 0, HERE);
    let daemon = Daemon::start(&world);
    let ended = daemon.event("run-ended");
    assert_eq!(
        ended["details"],
        json!({
            "run": lasting, "kind": "drill", "group": "shop", "point": 5, "source": "farm", "target": "shelter",
            "outcome": "succeeded", "leftovers": 0,
        })
    );
    let ended = daemon.event("run-ended");
    let text = ended["text"].as_str().expect("a text");
    assert!(text.contains("elsewhere -> shelter: succeeded") && text.contains("left behind: machine shop"), "{text}");
    let began = daemon.event("run-began");
    assert_eq!((&began["group"], &began["details"]["run"]), (&json!("shop"), &json!(next)), "{began}");
    let shown = runs.shown(&world, 7);
    assert!(ids(&shown).contains(&old.to_string()) && ids(&shown).contains(&foreign.to_string()), "{shown:?}");
    assert_eq!(daemon.end().0, Some(0));
    let expected = [("run-ended", "info", lasting), ("run-ended", "warning", untidy), ("run-began", "info", next)];
    let expected = expected.map(|(name, severity, run)| (name.to_owned(), severity.to_owned(), run.to_string()));
    assert_eq!(told(&world), expected);

    // A restart tells nothing again; that it has looked is seen by what is new.
    let last = runs.done(RunKind::Drill, RunOutcome::Failed, 0, HERE);
    let daemon = Daemon::start(&world);
    assert_eq!(daemon.event("run-ended")["details"]["run"], json!(last));
    let shown = runs.shown(&world, 8);
    assert_eq!(daemon.end().0, Some(0));
    assert_eq!(told(&world).len(), expected.len() + 1);

    // The file is lost: the same view is made again, without a word.
    for file in fs::read_dir(world.path("state")).expect("a folder").map(|file| file.expect("a file").path()) {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        if name.starts_with("farshore.db") {
            fs::remove_file(file).expect("removed");
        }
    }
    let daemon = Daemon::start(&world);
    daemon.event("vault-opened");
    assert_eq!(runs.shown(&world, 8), shown);
    assert_eq!(daemon.end().0, Some(0));
    assert_eq!(told(&world), []);
}

#[test]
fn a_host_that_may_not_read_journals_says_so_and_tells_nothing() {
    let office = World::new();
    success(office.run(&["--json", "--yes", "vault", "create"]));
    Runs::of(&office).done(RunKind::Drill, RunOutcome::Failed, 0, HERE);
    let farm = World::new();
    let vault = office.path("vault");
    let configuration = CONFIGURATION
        .replace("[FOLDER]/vault", vault.to_str().expect("UTF-8"))
        .replace("kit-file = \"kit.toml\"\npassphrase-file = \"passphrase\"\n", "");
    farm.write("farshore.toml", &configuration);
    success(office.run(&["vault", "join", "create", "farm", "--powers=replicator", "--output", "farm.join"]));
    fs::copy(office.path("farm.join"), farm.path("farm.join")).expect("brought over");
    success(farm.run(&["vault", "join", "accept", "farm.join"]));
    success(office.run(&["vault", "join", "approve", "farm"]));

    let daemon = Daemon::start(&farm);
    daemon.event("vault-opened");
    let runtime = Runtime::new().expect("a runtime");
    let mut answer = (0, String::new());
    for _ in 0..WAIT_MAX.as_secs() * 10 {
        answer = ask(&farm, "/v1/runs");
        // Before it has asked it says that, and not that there is none.
        if answer.0 != 503 {
            break;
        }
        runtime.block_on(SystemClock.sleep(Duration::from_millis(100)));
    }
    let (status, body) = answer;
    let problem: Value = serde_json::from_str(&body).expect("a problem document");
    assert_eq!((status, &problem["code"]), (403, &json!("FS1020")), "{body}");
    assert!(problem["message"].as_str().expect("a text").contains("to read the journals of runs"), "{body}");
    assert_eq!(daemon.end().0, Some(0));
    assert_eq!(told(&farm), []);
}
