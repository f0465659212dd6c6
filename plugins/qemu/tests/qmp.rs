//! The control protocol, against what QEMU does to a visitor that comes after one that was killed.

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
};

use farshore_adapter_qemu::{error::PlatformError, qmp::Client};
use serde_json::{Value, json};
use support::{folder, host, sentence};

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}}"#;

/// Answers one visitor. The thread ends with the test's process.
fn play(socket: &Path, answer: impl FnOnce(UnixStream) + Send + 'static) {
    let listener = UnixListener::bind(socket).expect("a socket");
    std::thread::spawn(move || answer(listener.accept().expect("a visitor").0));
}

fn tell(stream: &mut UnixStream, message: &Value) {
    writeln!(stream, "{message}").expect("the visitor reads");
}

fn requests(stream: &UnixStream) -> impl Iterator<Item = Value> + use<> {
    let lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
    lines.map_while(Result::ok).map(|line| serde_json::from_str(&line).expect("a request"))
}

#[test]
fn what_a_killed_visitor_left_is_never_taken_for_an_answer() {
    let folder = folder();
    let socket = folder.path().join("q.sock");
    let host = host(folder.path(), &[]);
    // The killed visitor's requests, with the ids that a visit just before ours would have given them.
    play(&socket, |mut stream| {
        let stale = |id: u64| json!({ "return": { "stale": true }, "id": id });
        tell(&mut stream, &stale(1));
        tell(&mut stream, &json!({ "event": "RESUME", "timestamp": { "seconds": 1, "microseconds": 2 } }));
        writeln!(stream, "{GREETING}").expect("the visitor reads");
        for request in requests(&stream) {
            for id in 1..20 {
                tell(&mut stream, &stale(id));
            }
            tell(&mut stream, &json!({ "return": { "asked": request["execute"] }, "id": request["id"] }));
        }
    });
    let socket = socket.to_str().expect("text");
    let mut client = Client::connect(&host, "orders", socket).expect("the greeting is found");
    assert_eq!(client.version(), (7, 2));
    for command in ["query-status", "query-block"] {
        assert_eq!(client.execute(command, json!({})).expect("an answer"), json!({ "asked": command }));
    }
}

#[test]
fn who_is_thrown_out_at_the_door_comes_again() {
    let folder = folder();
    let socket = folder.path().join("q.sock");
    let host = host(folder.path(), &[]);
    let listener = UnixListener::bind(&socket).expect("a socket");
    std::thread::spawn(move || {
        drop(listener.accept().expect("a visitor"));
        let (mut stream, _) = listener.accept().expect("the visitor again");
        writeln!(stream, "{GREETING}").expect("the visitor reads");
        for request in requests(&stream) {
            tell(&mut stream, &json!({ "return": {}, "id": request["id"] }));
        }
    });
    let socket = socket.to_str().expect("text");
    assert_eq!(Client::connect(&host, "orders", socket).expect("the second visit").version(), (7, 2));
}

#[test]
fn a_socket_that_always_hangs_up_is_unreachable() {
    let folder = folder();
    let socket = folder.path().join("q.sock");
    let host = host(folder.path(), &[]);
    let listener = UnixListener::bind(&socket).expect("a socket");
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let error = Client::connect(&host, "orders", socket.to_str().expect("text")).err().expect("nobody speaks");
    assert!(matches!(error, PlatformError::Unreachable(_)), "{error:?}");
}

#[test]
fn a_socket_that_is_not_qemus_is_named() {
    let folder = folder();
    let socket = folder.path().join("q.sock");
    let host = host(folder.path(), &[]);
    play(&socket, |mut stream| {
        stream.write_all(b"220 mail.example.com ESMTP\r\n").expect("the visitor reads");
        requests(&stream).for_each(drop);
    });
    let error = Client::connect(&host, "orders", socket.to_str().expect("text")).err().expect("it is no QEMU");
    assert!(matches!(error, PlatformError::Failed(_)), "{error:?}");
    assert!(
        sentence(&error).contains("machine orders: the control socket does not speak QEMU's protocol"),
        "{error:?}"
    );
}
