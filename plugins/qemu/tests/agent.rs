//! Application-consistent captures, with a guest agent that the test plays: real ones run in guests that boot.

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixListener,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use farshore_adapter_qemu::{
    bindings::exports::farshore::platform::source::{CaptureRequest, CaptureStatus, Consistency, Outcome},
    capture,
    error::PlatformError,
};
use serde_json::{Value, json};
use support::{Machine, Qemu, TestHost, folder, host, request, sentence};

/// What the agent was asked, and whether it refuses to freeze.
#[derive(Default)]
struct Played {
    asked: Mutex<Vec<String>>,
    refuses: AtomicBool,
    /// Who is killed at the moment at which the guest is frozen.
    kills_when_frozen: Mutex<Option<Arc<AtomicBool>>>,
}

/// Answers as qemu-ga does. The thread ends with the test's process.
fn play(socket: &Path) -> Arc<Played> {
    let listener = UnixListener::bind(socket).expect("a socket");
    let played = Arc::new(Played::default());
    let seen = Arc::clone(&played);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a visitor");
            // What a former visitor left unread.
            stream.write_all(b"{\"return\": 7}\n{\"half").expect("it reads");
            for line in BufReader::new(stream.try_clone().expect("a socket")).split(b'\n') {
                let Ok(line) = line else { break };
                // qemu-ga answers the byte that begins a visit with an error of its own, before the command's answer.
                if line.contains(&0xff) && stream.write_all(b"{\"error\": {\"desc\": \"stray byte\"}}\n").is_err() {
                    break;
                }
                let line: Vec<u8> = line.into_iter().filter(|byte| *byte != 0xff).collect();
                let request: Value = serde_json::from_slice(&line).expect("a request");
                let command = request["execute"].as_str().expect("a command");
                seen.asked.lock().expect("no panic").push(command.to_owned());
                let answer = match command {
                    "guest-sync-delimited" => format!("\n\u{0}{}", json!({ "return": request["arguments"]["id"] })),
                    "guest-fsfreeze-freeze" if seen.refuses.load(Ordering::SeqCst) => {
                        json!({ "error": { "class": "GenericError", "desc": "a file system is busy" } }).to_string()
                    }
                    _ => {
                        let victim = seen.kills_when_frozen.lock().expect("no panic").clone();
                        if let (Some(victim), "guest-fsfreeze-freeze") = (victim, command) {
                            victim.store(true, Ordering::SeqCst);
                        }
                        json!({ "return": 2 }).to_string()
                    }
                };
                let bytes = answer.bytes().map(|byte| if byte == 0 { 0xff } else { byte }).chain(*b"\n");
                if stream.write_all(&bytes.collect::<Vec<u8>>()).is_err() {
                    break;
                }
            }
        }
    });
    played
}

fn application(number: u32) -> CaptureRequest {
    CaptureRequest { consistency: Consistency::Application, ..request(number, &["orders"], &[]) }
}

fn asked(played: &Played) -> Vec<String> {
    let asked = std::mem::take(&mut *played.asked.lock().expect("no panic"));
    asked.into_iter().filter(|command| command != "guest-sync-delimited").collect()
}

fn with_agent(folder: &Path) -> (TestHost, Arc<Played>) {
    let mut host = host(folder, &["orders"]);
    let socket = folder.join("orders.agent");
    host.settings["machines"][0]["agent"] = json!(socket);
    (host, play(&socket))
}

#[test]
fn file_systems_rest_during_the_instant_only() {
    let folder = folder();
    let qemu = Qemu::start(folder.path(), &Machine { mebibytes: 8, ..Machine::default() });
    let (host, played) = with_agent(folder.path());
    let step = capture::begin(&host, &application(1)).expect("a capture");
    let CaptureStatus::Ready(report) = &step.status else { panic!("captures are never pending") };
    assert_eq!(report.consistency, Consistency::Application);
    assert_eq!(asked(&played), ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw"]);
    capture::end(&host, &step.state, Some(Outcome::Committed)).expect("its end");
    qemu.assert_clean();

    played.refuses.store(true, Ordering::SeqCst);
    let error = capture::begin(&host, &application(2)).expect_err("it refuses");
    assert!(matches!(&error, PlatformError::Failed(text) if text.contains("a file system is busy")), "{error:?}");
    assert_eq!(asked(&played), ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw"], "it is thawed in any case");
    qemu.assert_clean();
}

#[test]
fn a_guest_that_a_killed_host_left_frozen_is_thawed() {
    let folder = folder();
    let qemu = Qemu::start(folder.path(), &Machine { mebibytes: 8, ..Machine::default() });
    let (host, played) = with_agent(folder.path());
    *played.kills_when_frozen.lock().expect("no panic") = Some(Arc::clone(&host.killed));
    capture::begin(&host, &application(1)).expect_err("the host was killed");
    assert_eq!(asked(&played), ["guest-fsfreeze-freeze"], "the guest was left frozen");
    *played.kills_when_frozen.lock().expect("no panic") = None;
    host.killed.store(false, Ordering::SeqCst);
    let step = capture::begin(&host, &request(2, &["orders"], &[])).expect("a capture");
    assert_eq!(asked(&played), ["guest-fsfreeze-thaw"], "a crash-consistent capture asks nothing else");
    capture::end(&host, &step.state, Some(Outcome::Abandoned)).expect("its end");
    qemu.assert_clean();
}

#[test]
fn without_an_agent_nothing_is_called_application_consistent() {
    let folder = folder();
    let qemu = Qemu::start(folder.path(), &Machine { mebibytes: 8, ..Machine::default() });
    let error = capture::begin(&host(folder.path(), &["orders"]), &application(1)).expect_err("no agent");
    assert!(sentence(&error).contains("`agent`"), "{error:?}");
    let mut host = host(folder.path(), &["orders"]);
    host.settings["machines"][0]["agent"] = json!(folder.path().join("nobody"));
    let error = capture::begin(&host, &application(2)).expect_err("nobody listens");
    assert!(matches!(error, PlatformError::Failed(_)), "{error:?}");
    // The mark that it may be frozen stays until somebody could ask, and nothing else.
    let ours: Vec<String> = qemu.nodes().into_iter().filter(|name| name.starts_with("fs")).collect();
    assert!(ours.iter().all(|name| name.ends_with('z')), "{ours:?}");
}
