//! HTTP APIs: refused without a grant and a manifest that asks, asked as the operator wrote, and never anywhere else.

mod support;

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use farshore_plugin::{CallError, Limits, Mode, Outcome, Refusal, RefusalReason};
use serde_json::json;
use support::{World, told};

/// A server that answers each connection with this, and counts them.
fn server(answer: &'static str) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let count: Arc<AtomicUsize> = Arc::default();
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4_096];
            if stream.read(&mut head).is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
                // Whether the client reads it is the client's to say.
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    });
    (port, count)
}

fn grant(address: &str) -> String {
    format!("[endpoints.api]\naddress = \"http://{address}\"\nallow-http = true\n")
}

const FINE: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";

#[tokio::test]
async fn an_endpoint_needs_two_yeses() {
    let world = World::new(Limits::default()).await;
    let get = |mode, endpoint: &str, grants: &str| {
        let settings = json!({ "behaviour": "http-get", "host": endpoint, "path": "/", "port": 2_000 });
        world.bind(mode, settings, grants, "")
    };
    let error = get(Mode::Protect, "api", "").list_machines(None).await.expect_err("no grant");
    assert_eq!(error.outcome(), Outcome::Refused);
    assert_eq!(
        error.to_string(),
        "component hostile of site \"production\" wanted to use the endpoint api in mode protect, which is not granted. To \
         grant it, add to the configuration:\n[sites.production.grants.protect.endpoints.api]\naddress = \
         \"https://...\" # where the API is\ncredential = \"...\" # one of [sites.production.credentials]; leave it and \
         `service` out if nothing is to be signed\nservice = \"...\" # what it signs for"
    );
    for (mode, name) in [(Mode::Protect, "other"), (Mode::Live, "api")] {
        let grants = grant("127.0.0.1:1").replace("api", name);
        let error = get(mode, name, &grants).list_machines(None).await.expect_err("the manifest does not ask");
        let CallError::Refused { refusal, .. } = &error else { panic!("{error}") };
        let manifest = format!("[wants.{mode}]\nendpoints = [\"{name}\"]");
        assert!(refusal.to_string().ends_with(&manifest), "{refusal}");
    }
}

#[tokio::test]
async fn a_component_asks_the_endpoint_and_gets_what_is_answered() {
    let world = World::new(Limits::default()).await;
    let (port, count) = server(FINE);
    let settings = json!({ "behaviour": "http-get", "host": "api", "path": "/a?b=c", "port": 2_000 });
    let bound = world.bind(Mode::Protect, settings, &grant(&format!("127.0.0.1:{port}")), "");
    assert_eq!(told(&bound).await.expect("an answer"), "200 hello");
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_leads_nowhere() {
    let world = World::new(Limits::default()).await;
    let (elsewhere, asked) = server(FINE);
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nconnection: close\r\nlocation: http://127.0.0.1:{elsewhere}/\r\ncontent-length: 0\r\n\r\n"
    );
    let (port, count) = server(redirect.leak());
    let settings = json!({ "behaviour": "http-get", "host": "api", "path": "/", "port": 2_000 });
    let bound = world.bind(Mode::Protect, settings, &grant(&format!("127.0.0.1:{port}")), "");
    assert_eq!(told(&bound).await.expect("an answer"), "302 ");
    assert_eq!((count.load(Ordering::Relaxed), asked.load(Ordering::Relaxed)), (1, 0));
}

#[tokio::test]
async fn a_name_that_leads_to_this_machine_is_a_refusal_on_the_record() {
    let world = World::new(Limits::default()).await;
    let (port, count) = server(FINE);
    let settings = json!({ "behaviour": "http-get", "host": "api", "path": "/", "port": 2_000 });
    let bound = world.bind(Mode::Protect, settings, &grant(&format!("localhost:{port}")), "");
    let error = bound.list_machines(None).await.expect_err("it leads here");
    assert_eq!(error.outcome(), Outcome::Refused, "{error}");
    assert!(error.to_string().contains("but localhost leads to "), "{error}");
    assert!(matches!(&bound.refusals()[..], [Refusal { reason: RefusalReason::AddressNotAllowed { .. }, .. }]));
    let near = "networks = [\"127.0.0.0/8\", \"::1/128\"]\n";
    let settings = json!({ "behaviour": "http-get", "host": "api", "path": "/", "port": 2_000 });
    let bound = world.bind(Mode::Protect, settings, &(grant(&format!("localhost:{port}")) + near), "");
    assert_eq!(told(&bound).await.expect("an answer"), "200 hello");
    assert_eq!(count.load(Ordering::Relaxed), 1, "nobody was asked before");
}

#[tokio::test]
async fn what_cannot_be_asked_is_an_error_of_the_components() {
    let world = World::new(Limits::default()).await;
    let (port, count) = server(FINE);
    let grants = grant(&format!("127.0.0.1:{port}"));
    let with = |behaviour: &str, path: &str, value: &str, milliseconds: u32| {
        let settings = json!({
            "behaviour": behaviour, "host": "api", "path": path, "value": value, "port": milliseconds
        });
        world.bind(Mode::Protect, settings, &grants, "")
    };
    let cases = [
        ("http-get", "/", "", 0, "Invalid", "a request has 1 to 25000 ms"),
        ("http-get", "/", "", 25_001, "Invalid", "a request has 1 to 25000 ms"),
        ("http-get", "@127.0.0.1:1/", "", 1_000, "Invalid", "leads elsewhere"),
        ("http-header", "/", "Authorization", 1_000, "Invalid", "the host's to write"),
    ];
    for (behaviour, path, value, milliseconds, kind, part) in cases {
        let error = with(behaviour, path, value, milliseconds).list_machines(None).await.expect_err(part).to_string();
        assert!(error.contains(kind) && error.contains(part), "{error}");
    }
    assert_eq!(count.load(Ordering::Relaxed), 0, "nobody was asked");
}

#[tokio::test]
async fn a_silent_server_costs_the_time_that_the_request_has() {
    let world = World::new(Limits { call_milliseconds: 4_000, ..Limits::default() }).await;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let get = |milliseconds: u32| {
        let settings = json!({ "behaviour": "http-get", "host": "api", "path": "/", "port": milliseconds });
        world.bind(Mode::Protect, settings, &grant(&address), "")
    };
    let error = get(300).list_machines(None).await.expect_err("silence");
    assert_eq!(error.outcome(), Outcome::PluginError, "{error}");
    let told = error.to_string();
    assert!(told.contains("did not answer GET / within") && told.contains("[FS2504]"), "{told}");
    let error = get(20_000).list_machines(None).await.expect_err("the call is over before");
    assert_eq!(error.outcome(), Outcome::TimedOut, "{error}");
    drop(listener);
}

#[tokio::test]
async fn a_disk_of_blocks_has_the_form_that_it_must_have() {
    let world = World::new(Limits::default()).await;
    let with = |size: &str, kib: u32, target: &str| {
        let settings = json!({ "behaviour": "http-blocks", "host": "api", "path": target, "value": size, "port": kib });
        world.bind(Mode::Protect, settings, &grant("127.0.0.1:1"), "")
    };
    assert_eq!(told(&with("1048576", 512, "/{index}?t={key}")).await.expect("a disk"), "opened");
    let cases = [
        ("0", 512, "/{index}?t={key}", "0 bytes"),
        ("1000", 512, "/{index}?t={key}", "not a multiple of 512"),
        ("9007199254740992", 512, "/{index}?t={key}", "not a multiple"),
        ("1048576", 3, "/{index}?t={key}", "not a power of two"),
        ("1048576", 2, "/{index}?t={key}", "from 4 KiB"),
        ("1048576", 2_048, "/{index}?t={key}", "to 1 MiB"),
        ("1048576", 512, "/{index}", "where {key} stands"),
        ("1048576", 512, "/?t={key}", "where {index} stands"),
    ];
    for (size, kib, target, part) in cases {
        let error = with(size, kib, target).list_machines(None).await.expect_err(part).to_string();
        assert!(error.contains("Invalid") && error.contains(part), "{error}");
    }
}
