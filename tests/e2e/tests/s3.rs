//! Story: the vault is in a bucket of an S3 server. Points go there and come back, who may commit is decided there, what
//! retention gives up is deleted there, and a server that is gone is said to be gone.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use farshore_e2e::{Finished, World};
use serde_json::Value;

/// An S3 server that ends with the test.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start() -> Self {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache"))).expect("a home");
        let program = cache.join("farshore/s3-server/python/bin/moto_server");
        let mut process = Command::new(&program)
            .args(["-H", "127.0.0.1", "-p", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask test` installs it", program.display()));
        let mut lines = BufReader::new(process.stderr.take().expect("its messages")).lines().map_while(Result::ok);
        let address = lines.find_map(|line| Some(line.split_once("http://")?.1.trim().to_owned()));
        // Whatever else it says is read and dropped, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, address: address.expect("it says where it listens") }
    }

    /// Makes a bucket. The server does not ask who wants it.
    fn make_bucket(&self, name: &str) {
        assert_eq!(self.ask("PUT", name, ""), 200);
    }

    /// The status of its answer.
    fn ask(&self, verb: &str, path: &str, body: &str) -> u16 {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        let (address, length) = (&self.address, body.len());
        let head = format!(
            "{verb} /{path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all((head + body).as_bytes()).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Moves a world's vault into the bucket.
fn keep_in_bucket(world: &World, server: &Server) {
    let file = world.site.configuration_file();
    let text = fs::read_to_string(&file).expect("the configuration");
    let folder = format!("address = \"file:{}\"", world.site.vault_folder().display());
    assert!(text.contains(&folder), "{text}");
    let text = text.replace(&folder, "address = \"s3://recovery/farshore\"");
    let options = format!(
        "\n[vault.options]\nregion = \"us-east-1\"\nendpoint = \"http://{}\"\nallow-http = true\n\n\
         [vault.secrets]\naccess-key-id = {{ file = \"s3-key-id\" }}\nsecret-access-key = {{ file = \"s3-secret\" }}\n",
        server.address
    );
    fs::write(&file, text + &options).expect("written");
    for name in ["s3-key-id", "s3-secret"] {
        let secret = file.with_file_name(name);
        fs::write(&secret, "testing\n").expect("written");
        fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("closed to others");
    }
}

#[expect(clippy::disallowed_methods, reason = "this test waits for the machine's own time")]
fn pause(length: Duration) {
    std::thread::sleep(length);
}

fn code(finished: &Finished) -> Value {
    assert!(!finished.status.success(), "`{}` should have failed: {}", finished.command, finished.output);
    finished.failure().unwrap_or_else(|| panic!("an error as JSON, not {:?}", finished.errors))["code"].clone()
}

#[test]
fn points_go_to_the_bucket_and_come_back() {
    let server = Server::start();
    server.make_bucket("recovery");
    let mut world = World::new().expect("a world");
    world.resume_guest("orders").expect("a guest");
    world.protect("orders", &["orders"]).expect("a group");
    keep_in_bucket(&world, &server);
    assert_eq!(code(&world.run(&["points"]).expect("ran")), "FS1001", "there is no vault yet");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    assert_eq!(
        code(&world.run(&["vault", "create", "--yes"]).expect("ran")),
        "FS1002",
        "the server decides who was first"
    );

    world.succeed(&["replicate", "--once"]).expect("the first copy");
    world.guest("orders").start_workload("writer 16 512").expect("a writer");
    world.succeed(&["replicate", "--once"]).expect("a delta");
    world.guest("orders").stop_workload("writer").expect("stopped");
    let mut control = world.guest("orders").control().expect("QEMU answers");
    control.execute("stop", serde_json::json!({})).expect("held");
    drop(control);
    // So that the points before are older than what is kept of all points.
    pause(Duration::from_secs(6));
    let reports = world.succeed(&["replicate", "--once"]).expect("another delta");
    assert_eq!(reports[0]["point"]["machines"][0]["disks"][0]["basis"], "tracked");
    world.succeed(&["vault", "check", "--full"]).expect("whole");

    let retention = "\n[groups.orders.retention]\nall = \"5s\"\n";
    let file = world.site.configuration_file();
    let text = fs::read_to_string(&file).expect("the configuration");
    fs::write(&file, text + retention).expect("written");
    let planned = world.succeed(&["vault", "prune", "--dry-run"]).expect("planned");
    assert_eq!(planned[0]["planned"]["dropped"].as_array().map(Vec::len), Some(2), "{planned}");
    // What a writer left that was interrupted before the points: no point needs it.
    let info = world.succeed(&["vault", "info"]).expect("told");
    let lineage = info["groups"][0]["lineage"].as_str().expect("an id");
    let orphan = format!("recovery/farshore/lineages/{lineage}/packs/{:020}/{}", 1, "0123456789abcdef".repeat(2));
    assert_eq!(server.ask("PUT", &orphan, "left behind"), 200);
    let packs = |world: &World| {
        let info = world.succeed(&["vault", "info"]).expect("told");
        info["usage"]["kinds"]["data packs"]["objects"].as_u64().expect("a number")
    };
    let before = packs(&world);
    for objects_deleted in [false, true] {
        let done = world.succeed(&["vault", "prune", "--grace", "none"]).expect("pruned");
        let deleted = done[0]["done"]["deleted"]["objects"].as_u64().expect("a report");
        assert_eq!(deleted > 0, objects_deleted, "{done}");
        assert_eq!(packs(&world) < before, objects_deleted, "{done}");
    }
    world.succeed(&["vault", "check", "--full"]).expect("whole");
    let points = world.succeed(&["points"]).expect("points");
    assert_eq!(points[0]["points"].as_array().map(Vec::len), Some(1), "{points}");

    let restored = world.folder().join("restored.raw");
    let file = restored.to_string_lossy().into_owned();
    world.succeed(&["restore", "orders", "--machine", "orders", "--to", &file]).expect("a restore");
    world.guest_mut("orders").kill();
    assert!(world.identical("orders", 0, &restored).expect("compared"), "byte for byte");

    drop(server);
    assert_eq!(code(&world.run(&["points"]).expect("ran")), "FS1008", "the server is gone");
}
