//! The daemon without a machine to protect: what it tells whom, whom it lets in, what it takes and refuses, and how it ends.

mod support;

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use axum::{Json, Router, extract::State, http::HeaderMap, routing::post};
use serde_json::Value;
use support::{CONFIGURATION, Daemon, WAIT_MAX, World, success};

/// A world with an empty vault, and this added to its configuration.
fn world(more: &str) -> World {
    let world = World::new();
    world.write("farshore.toml", &format!("{CONFIGURATION}{more}"));
    success(world.run(&["--json", "--yes", "vault", "create"]));
    world
}

/// What was posted: the bearer and the body.
#[derive(Default)]
struct Posted {
    queue: Mutex<VecDeque<(String, Value)>>,
    came: Condvar,
}

impl Posted {
    /// The next event of this name that was posted.
    fn next(&self, name: &str) -> (String, Value) {
        let mut queue = self.queue.lock().expect("no panic");
        loop {
            while let Some((bearer, body)) = queue.pop_front() {
                if body["event"]["name"] == name {
                    return (bearer, body);
                }
            }
            let (next, waited) = self.came.wait_timeout(queue, WAIT_MAX).expect("no panic");
            assert!(!waited.timed_out(), "{name} was never posted");
            queue = next;
        }
    }
}

/// A program that takes events.
async fn receiver() -> (String, Arc<Posted>) {
    let posted = Arc::new(Posted::default());
    let take = |State(posted): State<Arc<Posted>>, headers: HeaderMap, Json(body): Json<Value>| async move {
        let bearer = headers.get("authorization").map(|value| value.to_str().expect("text").to_owned());
        posted.queue.lock().expect("no panic").push_back((bearer.unwrap_or_default(), body));
        posted.came.notify_all();
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let router = Router::new().route("/hook", post(take)).with_state(Arc::clone(&posted));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, posted)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_to_be_told_hears_of_a_breach_while_nothing_happens() {
    let (address, posted) = receiver().await;
    let alert = format!("\n[alerts.on-call]\nwebhook.address = \"{address}\"\nsecret = {{ file = \"hook-token\" }}\n");
    let world = world(&alert);
    world.write("hook-token", "never-to-be-seen\n");
    let daemon = Daemon::start(&world);
    tokio::task::spawn_blocking(move || {
        // The machine's socket is not there.
        let (bearer, body) = posted.next("cycle-failed");
        assert_eq!((bearer.as_str(), &body["event"]["group"]), ("Bearer never-to-be-seen", &"shop".into()));
        let (_, body) = posted.next("objective-missed");
        assert_eq!(body["event"]["severity"], "error", "{body}");
        assert!(body["event"]["text"].as_str().expect("a text").contains("there is no recovery point"), "{body}");
        let (status, errors) = daemon.end();
        assert_eq!(status, Some(0), "{errors}");
        assert!(!errors.contains("never-to-be-seen"));
        // It is kept as well.
        let kept = success(world.run(&["--json", "events", "--name", "objective-missed"]));
        assert_eq!(kept.lines().count(), 1, "{kept}");
    })
    .await
    .expect("no panic");
}

/// What a collector was sent: the header and the body of each request.
type Taken = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A collector that keeps what it is sent.
async fn collector() -> (String, Taken) {
    let taken = Taken::default();
    let take = |State(taken): State<Taken>, headers: HeaderMap, body: axum::body::Bytes| async move {
        let bearer = headers.get("authorization").map(|value| value.to_str().expect("text").to_owned());
        taken.lock().expect("no panic").push((bearer.unwrap_or_default(), body.to_vec()));
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&taken));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn cycles_are_traced_to_the_collector_that_the_file_names() {
    let (address, taken) = collector().await;
    let world = world("");
    world.write("collector-token", "Bearer never-to-be-seen\n");
    let traced = format!(
        "{CONFIGURATION}\n[telemetry.traces]\nendpoint = \"{address}\"\nresource = {{ \"deployment.environment.name\" = \"drill\" }}\n\
         [telemetry.headers]\nauthorization = {{ file = \"collector-token\" }}\n"
    );
    let daemon = Daemon::start(&world);
    tokio::task::spawn_blocking(move || {
        daemon.event("vault-opened");
        // It counts without a restart.
        world.write("farshore.toml", &traced);
        success(world.run(&["--json", "config", "reload"]));
        daemon.event("configuration-changed");
        // The machine's socket is not there: its cycles fail, one after the other.
        let _ = world.run(&["--json", "point", "create", "shop"]);
        let (status, errors) = daemon.end();
        assert_eq!(status, Some(0), "{errors}");
        assert!(!errors.contains("never-to-be-seen"), "{errors}");
    })
    .await
    .expect("no panic");
    let taken = taken.lock().expect("no panic");
    let (bearer, body) = taken.first().expect("what waits is sent before it ends");
    assert_eq!(bearer, "Bearer never-to-be-seen");
    let text = String::from_utf8_lossy(body);
    for part in ["cycle", "farshore.group", "shop", "error.type", "FS", "service.name", "deployment.environment.name"] {
        assert!(text.contains(part), "{part} is in {text:?}");
    }
}

/// Whoever follows the events asks once, and hears of the next as soon as it is kept.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_waited_for() {
    let world = world("");
    let daemon = Daemon::start(&world);
    let socket = world.path("state/farshore.sock");
    let (daemon, world) = tokio::task::spawn_blocking(move || {
        daemon.event("vault-opened");
        (daemon, world)
    })
    .await
    .expect("no panic");
    let client = reqwest::Client::builder().unix_socket(socket).no_proxy().build().expect("a client");
    let ask = |query: &str| client.get(format!("http://farshore/v1/events?{query}")).send();
    let newest = ask("name=daemon-started").await.expect("an answer").json::<Value>().await.expect("JSON");
    let id = newest[0]["id"].as_u64().expect("an id");
    let waiting = ask("name=configuration-changed&after=0&wait=60");
    let change = async {
        // Long after the question was asked, on any machine.
        farshore_core::Clock::sleep(&farshore_core::SystemClock, Duration::from_secs(1)).await;
        world.write("farshore.toml", &format!("# changed\n{CONFIGURATION}"));
    };
    let (answer, ()) = tokio::join!(waiting, change);
    let answer = answer.expect("an answer").json::<Value>().await.expect("JSON");
    assert_eq!(answer[0]["name"], "configuration-changed", "{answer}");
    assert!(answer[0]["id"].as_u64() > Some(id), "{answer}");
    let none = ask("name=never&after=0&wait=1").await.expect("an answer").json::<Value>().await.expect("JSON");
    assert_eq!(none, Value::Array(vec![]));
    for query in ["wait=5", "after=0&wait=61", "after=0&wait=soon"] {
        assert_eq!(ask(query).await.expect("an answer").status(), 400, "{query}");
    }
    let ended = tokio::task::spawn_blocking(move || daemon.end().0).await.expect("no panic");
    assert_eq!(ended, Some(0));
}

/// Limits count for a daemon that runs if it began with one; the first takes a restart, and the file says nothing else than what happens.
#[test]
fn limits_of_bandwidth_are_taken_or_refused() {
    let limited = |limit: &str| format!("{CONFIGURATION}\n[vault.bandwidth]\nlimit = \"{limit}\"\n");
    let world = world("");
    let daemon = Daemon::start(&world);
    daemon.event("vault-opened");
    world.write("farshore.toml", &limited("20MiB/s"));
    let refused = world.run(&["--json", "config", "reload"]);
    let told: Value = serde_json::from_slice(&refused.stderr).expect("JSON");
    assert!(told["message"].as_str().expect("a text").contains("vault.bandwidth.limit"), "{told}");
    assert_eq!(daemon.end().0, Some(0));
    let daemon = Daemon::start(&world);
    daemon.event("vault-opened");
    world.write("farshore.toml", &limited("unlimited"));
    let taken: Value = serde_json::from_str(&success(world.run(&["--json", "config", "reload"]))).expect("JSON");
    assert_eq!(taken["differences"][0]["key"], "vault.bandwidth.limit", "{taken}");
    assert_eq!(daemon.end().0, Some(0));
}

#[test]
fn at_its_tcp_address_it_lets_in_whoever_has_the_token_and_nobody_else() {
    let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let listen = format!(
        "[host]\nlisten = {{ address = \"{free}\", certificate = \"host.crt\", key = {{ file = \"host.key\" }}, \
         token = {{ file = \"token\" }} }}\n"
    );
    let world = World::new();
    world.write("farshore.toml", &CONFIGURATION.replacen("[host]\n", &listen, 1));
    success(world.run(&["--json", "--yes", "vault", "create"]));
    world.write("host.crt", &identity.cert.pem());
    world.write("host.key", &identity.signing_key.serialize_pem());
    world.write("token", "short\n");
    let refused = world.run(&["--json", "serve"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && told.contains("FS6042") && !told.contains("short"), "{told}");

    world.write("token", "a token that nobody guesses\n");
    let daemon = Daemon::start(&world);
    daemon.event("vault-opened");
    world.write("authority.pem", &identity.cert.pem());
    let curl = |arguments: &[&str]| {
        let resolve = format!("localhost:{}:127.0.0.1", free.port());
        let output = std::process::Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--max-time",
                "30",
                "--write-out",
                "\n%{http_code}",
                "--resolve",
                &resolve,
            ])
            .args(arguments)
            .current_dir(world.folder())
            .output()
            .expect("curl runs");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let url = |path: &str| format!("https://localhost:{}{path}", free.port());
    let trusted = ["--cacert", "authority.pem"];
    let with = |token: &str| format!("authorization: Bearer {token}");
    assert!(curl(&[&url("/healthz")]).ends_with("\n000"), "whoever does not know the certificate does not speak to it");
    assert!(
        curl(&[&format!("http://localhost:{}/healthz", free.port())]).ends_with("\n000"),
        "without TLS it is silent"
    );
    assert!(curl(&[&trusted[..], &[&url("/healthz")]].concat()).ends_with("\n200"));
    for header in ["x: y".to_owned(), with("a token that nobody guessed"), with("")] {
        for path in ["/v1/status", "/metrics", "/readyz", "/nowhere"] {
            let answer = curl(&[&trusted[..], &["--header", &header, &url(path)]].concat());
            assert!(answer.ends_with("\n401") && answer.contains("FS6043"), "{header} {path}: {answer}");
        }
    }
    let right = with("a token that nobody guesses");
    let answer = curl(&[&trusted[..], &["--header", &right, &url("/v1/status")]].concat());
    assert!(answer.ends_with("\n200") && answer.contains("\"group\":\"shop\""), "{answer}");
    for (method, path, status, code) in [
        ("GET", "/nowhere", 404, "FS6003"),
        ("DELETE", "/v1/status", 405, "FS6003"),
        ("GET", "/v1/events?limit=many", 400, "FS6003"),
        ("GET", "/v1/events?since=never", 400, "FS6003"),
        ("POST", "/v1/groups/orders/cycles", 415, "FS6003"),
    ] {
        let answer = curl(&[&trusted[..], &["--header", &right, "--request", method, &url(path)]].concat());
        let (body, told) = answer.rsplit_once('\n').expect("a status");
        let problem: Value = serde_json::from_str(body).expect("a problem document");
        assert!(told == status.to_string() || (status == 415 && told == "400"), "{method} {path}: {answer}");
        assert_eq!((&problem["code"], &problem["type"]), (&code.into(), &format!("urn:farshore:{code}").into()));
    }
    let json = ["--header", "content-type: application/json", "--data", "{}"];
    let answer = curl(&[&trusted[..], &["--header", &right], &json, &[&url("/v1/groups/orders/cycles")]].concat());
    assert!(answer.ends_with("\n404") && answer.contains("FS6037"), "{answer}");

    // A token that was changed counts when the file is taken again.
    world.write("token", "another that nobody guesses\n");
    success(world.run(&["--json", "config", "reload"]));
    let answer = curl(&[&trusted[..], &["--header", &right, &url("/v1/status")]].concat());
    assert!(answer.ends_with("\n401"), "{answer}");
    assert_eq!(daemon.end().0, Some(0));
}

#[test]
fn a_vault_that_is_not_there_is_waited_for_and_a_bad_file_is_refused_whole() {
    let world = world("");
    let vault = world.path("vault");
    std::fs::rename(&vault, world.path("elsewhere")).expect("moved");
    let daemon = Daemon::start(&world);
    let unreachable = daemon.event("vault-unreachable");
    assert_eq!(unreachable["severity"], "error");
    let status = world.run(&["--json", "status"]);
    let told: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!((status.status.code(), &told["groups"][0]["state"]), (Some(3), &"unknown".into()), "{told}");
    assert!(told["waits_for"].to_string().contains("the vault"), "{told}");
    let missed = daemon.event("objective-missed");
    assert_eq!(missed["details"]["state"], "unknown", "what is not known is not called good: {missed}");
    assert!(missed["text"].as_str().expect("a text").contains("the vault has not said"), "{missed}");
    // A file that is changed meanwhile counts at once.
    let text = CONFIGURATION.replace("rpo = \"5s\"", "rpo = \"6s\"");
    world.write("farshore.toml", &text);
    let report = success(world.run(&["--json", "config", "reload"]));
    assert!(report.contains("groups.shop.rpo"), "{report}");
    world.write("farshore.toml", CONFIGURATION);
    std::fs::rename(world.path("elsewhere"), &vault).expect("moved back");
    daemon.event("vault-opened");

    // Each mistake refuses the whole file, whatever else in it is right.
    for (mistake, part) in [
        ("rpo = \"soon\"", "\"soon\" is not a length of time"),
        ("site = \"barn\"", "there is no site"),
        ("machines = []", "has no machines"),
    ] {
        let line = mistake.split(" = ").next().expect("a key");
        let text: String = CONFIGURATION
            .replace("consistency", "")
            .lines()
            .map(|known| if known.starts_with(&format!("{line} = ")) { mistake } else { known })
            .map(|line| format!("{line}\n"))
            .collect();
        world.write(
            "farshore.toml",
            &(text + "\n[groups.another]\nsite = \"farm\"\nmachines = [\"x\"]\nrpo = \"1m\"\n"),
        );
        daemon.signal("-HUP");
        let refused = daemon.event("configuration-refused");
        assert!(refused["text"].as_str().expect("a text").contains(part), "{mistake}: {refused}");
        let status = world.run(&["--json", "status"]);
        let told: Value = serde_json::from_slice(&status.stdout).expect("the daemon answers though its file is wrong");
        assert_eq!(told["groups"].as_array().map(Vec::len), Some(1), "{told}");
        assert!(told["configuration"]["refused"].as_str().is_some_and(|why| why.contains(part)), "{told}");
    }
    // A group comes, another goes.
    let text = CONFIGURATION.replace("[groups.shop]", "[groups.harbour]");
    world.write("farshore.toml", &text);
    let changed = daemon.event("configuration-changed");
    let text = changed["text"].as_str().expect("a text");
    assert!(text.contains("+ [groups.harbour]") && text.contains("- [groups.shop]"), "{text}");
    let status = world.run(&["--json", "status"]);
    let told: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(told["groups"][0]["group"], "harbour");
    assert_eq!(told["groups"].as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(daemon.end().0, Some(0));
}

#[test]
fn a_state_file_of_a_later_version_is_left_alone_and_all_else_goes_on() {
    let world = world("");
    let daemon = Daemon::start(&world);
    daemon.event("vault-opened");
    assert_eq!(daemon.end().0, Some(0));
    let file = world.path("state/farshore.db");
    let changed = std::process::Command::new("python3")
        .args(["-c", "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('pragma user_version = 999')"])
        .arg(&file)
        .status();
    assert!(changed.expect("Python runs").success());
    let daemon = Daemon::start(&world);
    let unusable = daemon.event("diary-unusable");
    assert!(unusable["text"].as_str().expect("a text").contains("FS6201"), "{unusable}");
    daemon.event("vault-opened");
    let refused = world.run(&["--json", "events"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("FS6201"));
    assert_eq!(daemon.end().0, Some(0));
}

#[test]
fn a_host_replicates_the_groups_of_the_sites_that_it_serves() {
    let world = World::new();
    world.write("farshore.toml", &CONFIGURATION.replacen("[host]", "[host]\nsites = [\"shelter\"]", 1));
    success(world.run(&["--json", "--yes", "vault", "create"]));
    let daemon = Daemon::start(&world);
    daemon.event("vault-opened");
    let told: Value = serde_json::from_slice(&world.run(&["--json", "status"]).stdout).expect("JSON");
    assert_eq!(told["groups"], Value::Array(vec![]), "its only group runs at another site");
    let refused = world.run(&["--json", "point", "create", "shop"]);
    let told: Value = serde_json::from_slice(&refused.stderr).expect("JSON");
    assert_eq!((refused.status.code(), &told["code"]), (Some(1), &"FS6037".into()), "{told}");
    assert_eq!(daemon.end().0, Some(0));
}
