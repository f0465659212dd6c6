//! What is not granted is refused, with the words that would grant it; what is granted works; and a mode has its own
//! grants only.

mod support;

use std::{
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::PathBuf,
    time::Duration,
};

use farshore_core::{Clock, SystemClock};
use farshore_plugin::{BoundComponent, CallError, Limits, Mode, NbdAddress, Outcome, RefusalReason, TransportGrant};
use serde_json::json;
use support::{World, told};

const SHORT: Limits =
    Limits { call_milliseconds: 4_000, host_function_milliseconds: 400, instance_memory_bytes: 64 << 20 };

async fn refusal(bound: &BoundComponent) -> farshore_plugin::Refusal {
    match bound.list_machines(None).await.expect_err("a refusal") {
        CallError::Refused { refusal, .. } => *refusal,
        other => panic!("not refused: {other}"),
    }
}

#[tokio::test]
async fn every_import_is_refused_without_a_grant() {
    let world = World::new(SHORT).await;
    let socket = world.path("x.qmp");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    let file = world.path("disk.raw");
    std::fs::write(&file, b"disk").expect("a file");
    let folder = world.path("");
    let (socket, file, folder) = (socket.display(), file.display(), folder.display().to_string());
    let folder = folder.trim_end_matches('/');
    let cases = [
        ("connect-unix", format!("connect to unix:{socket}"), format!("unix = [\"{socket}\"]")),
        ("connect-tcp", "connect to tcp:localhost:1".to_owned(), "tcp = [\"localhost:1\"]".to_owned()),
        ("nbd-unix", format!("use the NBD server unix:{socket}"), format!("nbd = [\"unix:{socket}\"]")),
        ("nbd-tcp", "use the NBD server tcp:localhost:1".to_owned(), "nbd = [\"tcp:localhost:1\"]".to_owned()),
        ("file-open", format!("read {file}"), read_only(folder)),
        ("file-inspect", format!("read {file}"), read_only(folder)),
        ("file-list", format!("read {file}"), read_only(folder)),
        ("file-write", format!("write {file}"), read_write(folder)),
        ("file-create", format!("write {file}"), read_write(folder)),
        ("file-remove", format!("write {file}"), read_write(folder)),
    ];
    for (behaviour, wanted, line) in cases {
        let path = if behaviour.starts_with("file") { file.to_string() } else { socket.to_string() };
        let settings = json!({ "behaviour": behaviour, "path": path, "host": "localhost", "port": 1 });
        let bound = world.bind(Mode::Protect, settings.clone(), "", "");
        let error = bound.list_machines(None).await.expect_err(behaviour);
        assert_eq!(error.outcome(), Outcome::Refused, "{error}");
        let text = format!(
            "component hostile of site \"production\" wanted to {wanted} in mode protect, which is not granted. To \
             grant it, add to the configuration:\n[sites.production.grants.protect]\n{line}"
        );
        assert_eq!(error.to_string(), text);
        assert_eq!(bound.refusals().len(), 1);

        // In the mode `live` the manifest asks for nothing, so a grant of everything changes nothing.
        let everything = format!(
            "unix = [\"{socket}\"]\ntcp = [\"localhost:1\"]\nnbd = [\"unix:{socket}\", \"tcp:localhost:1\"]\n{}",
            read_write(folder)
        );
        let refusal = refusal(&world.bind(Mode::Live, settings, &everything, "")).await;
        assert!(matches!(refusal.reason, RefusalReason::NotInManifest { .. }), "{refusal}");
        assert!(refusal.to_string().contains("no configuration can grant it"), "{refusal}");
    }
    assert_eq!(std::fs::read(world.path("disk.raw")).expect("the file"), b"disk");
    assert_eq!(told(&world.with("nothing")).await.expect("an honest call"), "");
}

fn read_only(folder: &str) -> String {
    format!("files = [{{ folder = \"{folder}\", access = \"read-only\" }}]")
}

fn read_write(folder: &str) -> String {
    format!("files = [{{ folder = \"{folder}\", access = \"read-write\" }}]")
}

#[tokio::test]
async fn a_refusal_cannot_be_swallowed_and_is_remembered_once() {
    let world = World::new(SHORT).await;
    let settings = json!({ "behaviour": "swallow", "path": "/run/nowhere/x.qmp" });
    let bound = world.bind(Mode::Protect, settings, "", "");
    for _ in 0..3 {
        assert_eq!(bound.list_machines(None).await.expect_err("a refusal").outcome(), Outcome::Refused);
    }
    assert_eq!(bound.refusals().len(), 1);
}

/// A server that answers each connection by `serve`, on a thread that ends with its listener's connections.
fn server(path: PathBuf, connections: usize, serve: impl Fn(std::os::unix::net::UnixStream) + Send + 'static) {
    let listener = UnixListener::bind(path).expect("a socket");
    std::thread::spawn(move || {
        for _ in 0..connections {
            match listener.accept() {
                Ok((stream, _)) => serve(stream),
                Err(_) => return,
            }
        }
    });
}

#[tokio::test]
async fn a_granted_socket_can_be_talked_to() {
    let world = World::new(SHORT).await;
    server(world.path("a.qmp"), 1, |mut stream| {
        let mut line = [0; 5];
        stream.read_exact(&mut line).expect("a line");
        stream.write_all(&[b"you said ", &line[..]].concat()).expect("an answer");
    });
    let settings = json!({ "behaviour": "converse", "path": world.path("a.qmp"), "value": "hello" });
    let grants = format!("unix = [\"{}/*.qmp\"]", world.path("").display().to_string().trim_end_matches('/'));
    let answer = told(&world.bind(Mode::Protect, settings.clone(), &grants, "")).await.expect("an answer");
    assert_eq!(answer, "you said hello");

    // Nothing listens any more; the path of another name is not granted; a link to it is judged by what it leads to.
    let error = world.bind(Mode::Protect, settings, &grants, "").list_machines(None).await.expect_err("nobody");
    assert!(error.to_string().contains("HostError::Unreachable"), "{error}");
    std::fs::remove_file(world.path("a.qmp")).expect("removed");
    let absent = json!({ "behaviour": "connect-unix", "path": world.path("a.qmp") });
    let error = world.bind(Mode::Protect, absent, &grants, "").list_machines(None).await.expect_err("nobody");
    assert!(error.to_string().contains("HostError::NotFound"), "{error}");
    let _listener = UnixListener::bind(world.path("other")).expect("a socket");
    std::os::unix::fs::symlink(world.path("other"), world.path("b.qmp")).expect("a link");
    let linked = json!({ "behaviour": "connect-unix", "path": world.path("b.qmp") });
    let refused = refusal(&world.bind(Mode::Protect, linked, &grants, "")).await.to_string();
    assert!(refused.contains(&format!("unix:{}", world.path("other").display())), "{refused}");
}

#[tokio::test]
async fn a_silent_or_full_server_holds_a_component_no_longer_than_allowed() {
    let world = World::new(SHORT).await;
    let listener = UnixListener::bind(world.path("s.qmp")).expect("a socket");
    let grants = format!("unix = [\"{}\"]", world.path("s.qmp").display());
    let with = |behaviour: &str| {
        world.bind(Mode::Protect, json!({ "behaviour": behaviour, "path": world.path("s.qmp") }), &grants, "")
    };
    let answer = told(&with("silent-server")).await.expect("it ends well");
    assert!(answer.contains("HostError::TimedOut") && answer.ends_with(" 10"), "{answer}");
    let answer = told(&with("write-without-reader")).await.expect("it ends well");
    assert!(answer.contains("HostError::TimedOut") && answer.contains("streams.write"), "{answer}");
    let error = with("big-argument").list_machines(None).await.expect_err("48 MiB");
    assert_eq!(error.outcome(), Outcome::Trapped, "{error}");
    drop(listener);
}

#[tokio::test]
async fn handles_and_connections_are_limited_and_given_back() {
    let world = World::new(SHORT).await;
    let listener = UnixListener::bind(world.path("l.qmp")).expect("a socket");
    let path = world.path("l.qmp");
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept() {
            kept.push(stream);
        }
    });
    let grants = format!("unix = [\"{0}\"]\nnbd = [\"unix:{0}\"]", path.display());
    for (behaviour, wanted) in [("connection-leak", "64 HostError::Limit"), ("handle-leak", "1024 HostError::Limit")] {
        for _ in 0..3 {
            let settings = json!({ "behaviour": behaviour, "path": path });
            let answer = told(&world.bind(Mode::Protect, settings, &grants, "")).await.expect("it ends well");
            assert!(answer.starts_with(wanted), "{answer}");
        }
    }
    let mine = std::fs::read_dir("/proc/self/fd").expect("files").count();
    assert!(mine < 600, "{mine} open files");
}

#[tokio::test]
async fn transports_come_back_as_plain_data() {
    let world = World::new(SHORT).await;
    let grants = format!("nbd = [\"unix:{}/*\"]\n{}", folder(&world), read_only(&folder(&world)));
    let nbd = json!({ "behaviour": "nbd", "path": world.path("later.nbd") });
    let bound = world.bind(Mode::Protect, nbd, &grants, "");
    let transport = bound.open_captured_disk(Vec::new(), "one".to_owned(), "d".to_owned()).await.expect("a transport");
    let address = NbdAddress::Unix(world.path("later.nbd"));
    assert_eq!(transport, TransportGrant::Nbd { address, export: "d".to_owned(), read_only: true });

    std::fs::write(world.path("disk.raw"), b"disk").expect("a file");
    std::os::unix::fs::symlink("disk.raw", world.path("link")).expect("a link");
    let file = json!({ "behaviour": "file", "path": world.path("link") });
    let bound = world.bind(Mode::Protect, file, &grants, "");
    let transport = bound.open_captured_disk(Vec::new(), "one".to_owned(), "d".to_owned()).await.expect("a transport");
    assert_eq!(transport, TransportGrant::File { path: world.path("disk.raw"), read_only: true });
}

fn folder(world: &World) -> String {
    world.path("").display().to_string().trim_end_matches('/').to_owned()
}

#[tokio::test]
async fn files_are_reached_below_their_folder_only() {
    let world = World::new(SHORT).await;
    std::fs::create_dir(world.path("granted")).expect("a folder");
    std::fs::write(world.path("secret"), b"secret").expect("a file");
    std::os::unix::fs::symlink("../secret", world.path("granted/out")).expect("a link");
    let granted = world.path("granted").display().to_string();
    let does = async |behaviour: &str, path: String, grants: String| {
        let settings = json!({ "behaviour": behaviour, "path": path });
        let bound = world.bind(Mode::Protect, settings, &grants, "");
        told(&bound).await.map_err(|error| error.to_string())
    };
    let both = || read_write(&granted);
    assert_eq!(does("file-create", format!("{granted}/a/new"), both()).await, Ok("4096".to_owned()));
    assert_eq!(does("file-inspect", format!("{granted}/a/new"), both()).await, Ok("4096".to_owned()));
    assert_eq!(does("file-list", format!("{granted}/a"), both()).await, Ok("new".to_owned()));
    let again = does("file-create", format!("{granted}/a/new"), both()).await.expect_err("it exists");
    assert!(again.contains("HostError::Conflict"), "{again}");
    assert_eq!(does("file-remove", format!("{granted}/a/new"), both()).await, Ok("true".to_owned()));
    assert_eq!(does("file-remove", format!("{granted}/a/new"), both()).await, Ok("false".to_owned()));

    let outside = does("file-open", format!("{granted}/out"), both()).await.expect_err("a link out");
    assert!(outside.contains("a symbolic link on that path leads out of the granted folder"), "{outside}");
    let dots = does("file-open", format!("{granted}/../secret"), both()).await.expect_err("dots");
    assert!(dots.contains("HostError::Invalid"), "{dots}");
    let beside = does("file-open", format!("{granted}-beside"), both()).await.expect_err("another folder");
    assert!(beside.contains("which is not granted"), "{beside}");
    let write = does("file-create", format!("{granted}/b"), read_only(&granted)).await.expect_err("read-only");
    assert!(write.contains("which is not granted") && write.ends_with(&read_write(&granted)), "{write}");
}

#[tokio::test]
async fn programs_run_from_the_operators_templates_only() {
    let world = World::new(SHORT).await;
    let programs = "[tool]\nprogram = \"/bin/echo\"\narguments = [\"value={value:name}\", \"{{literal}}\"]";
    let run = |value: &str, name: &str, programs: &str, mode| {
        world.bind(mode, json!({ "behaviour": "program", "value": value, "host": name }), "", programs)
    };
    assert_eq!(told(&run("good", "", programs, Mode::Drill)).await.expect("a run"), "0 value=good {literal}  ");
    let error = run("a,b", "", programs, Mode::Drill).list_machines(None).await.expect_err("a comma");
    assert!(error.to_string().contains("HostError::Invalid"), "{error}");
    let error = run("good", "", "", Mode::Drill).list_machines(None).await.expect_err("no template");
    assert!(error.to_string().contains("[sites.production.programs.drill.tool]"), "{error}");
    for (name, mode) in [("other", Mode::Drill), ("", Mode::Protect)] {
        let refused = refusal(&run("good", name, programs, mode)).await.to_string();
        assert!(refused.contains("run the program template"), "{refused}");
        assert!(refused.contains("no configuration can grant it"), "{refused}");
    }
    // A path slot needs a folder that is granted read-write; in `drill` this manifest asks to read only.
    let paths = "[tool]\nprogram = \"/bin/echo\"\narguments = [\"{value:path}\"]";
    let settings = json!({ "behaviour": "program", "value": world.path("x") });
    let bound = world.bind(Mode::Drill, settings, &read_write(&folder(&world)), paths);
    let refused = refusal(&bound).await.to_string();
    assert!(refused.contains("its manifest does not ask for"), "{refused}");
}

#[tokio::test]
async fn a_program_is_killed_when_its_call_ends() {
    let world = World::new(Limits { call_milliseconds: 700, ..SHORT }).await;
    let number = world.path("number");
    let programs = format!(
        "[tool]\nprogram = \"/bin/sh\"\narguments = [\"-c\", \"echo $$ > {}; sleep 60; : {{value:name}}\"]",
        number.display()
    );
    let bound = world.bind(Mode::Drill, json!({ "behaviour": "program", "value": "x" }), "", &programs);
    let error = bound.list_machines(None).await.expect_err("too long");
    assert!(error.to_string().contains("waiting in programs.run"), "{error}");
    let number = std::fs::read_to_string(number).expect("the program ran");
    for _ in 0..300 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", number.trim()));
        if stat.map_or(true, |stat| stat.contains(") Z ")) {
            return;
        }
        SystemClock.sleep(Duration::from_millis(10)).await;
    }
    panic!("the program goes on");
}
