//! Story: the vault is in a container of an Azure blob server. Points go there and come back, who may commit is decided
//! there, what retention gives up is deleted there, and a clean machine brings disks back from there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use farshore_e2e::{Finished, Says, Server, World, binary, installed};
use serde_json::Value;

const ACCOUNT: &str = "farshoretests";

/// Known to everybody who reads this: base64 of "a key of the tests, and no secret".
const KEY: &str = "YSBrZXkgb2YgdGhlIHRlc3RzLCBhbmQgbm8gc2VjcmV0";

const CONTAINER: &str = "recovery";

/// Signs one request as Azure's Shared Key scheme wants it, sends it, and prints the status of the answer.
const REQUEST: &str = r"
const [verb, account, key, base, path, query, body] = process.argv.slice(1);
const headers = { 'x-ms-date': new Date().toUTCString(), 'x-ms-version': '2021-12-02' };
if (query === '') headers['x-ms-blob-type'] = 'BlockBlob';
const length = Buffer.byteLength(body);
const signed = Object.keys(headers).sort().map((name) => `${name}:${headers[name]}\n`).join('');
const resource = `/${account}/${account}/${path}${query === '' ? '' : '\n' + query.replace('=', ':')}`;
const text = `${verb}\n\n\n${length || ''}\n\n\n\n\n\n\n\n\n${signed}${resource}`;
const hash = require('crypto').createHmac('sha256', Buffer.from(key, 'base64')).update(text).digest('base64');
headers['Authorization'] = `SharedKey ${account}:${hash}`;
headers['Content-Length'] = length;
const url = `${base}/${path}${query === '' ? '' : '?' + query}`;
const request = require('http').request(url, { method: verb, headers }, (answer) => {
  answer.resume();
  console.log(answer.statusCode);
});
request.end(body);
";

/// An Azure blob server that ends with the test.
struct Azurite {
    _server: Server,
    /// With the account in its path, as a server says that is no part of Azure.
    endpoint: String,
}

fn tools() -> PathBuf {
    installed("azure-server")
}

impl Azurite {
    fn start(folder: &Path) -> Self {
        let mut command = Command::new(tools().join("node"));
        command
            .arg(tools().join("node_modules/azurite/dist/src/blob/main.js"))
            .args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--skipApiVersionCheck", "--disableTelemetry"])
            .arg("--location")
            .arg(folder)
            .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"));
        let server = Server::start(command, Says::Output, "listens on ");
        let endpoint = format!("{}/{ACCOUNT}", server.said);
        Self { _server: server, endpoint }
    }

    /// The status of its answer to a request that is signed with the account's key.
    fn ask(&self, verb: &str, path: &str, query: &str, body: &str) -> u16 {
        let mut command = Command::new(tools().join("node"));
        command.args(["-e", REQUEST, verb, ACCOUNT, KEY, &self.endpoint, path, query, body]);
        let output = command.output().expect("node runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.trim().parse().unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// Moves a world's vault into the container. The account's key stands in a file of its own.
fn keep_in_container(world: &World, server: &Azurite) {
    let file = world.site.configuration_file();
    let text = fs::read_to_string(&file).expect("the configuration");
    let folder = format!("address = \"file:{}\"", world.site.vault_folder().display());
    assert!(text.contains(&folder), "{text}");
    let text = text.replace(&folder, &format!("address = \"az://{CONTAINER}/farshore\""));
    let options = format!(
        "\n[vault.options]\naccount-name = \"{ACCOUNT}\"\nendpoint = \"{}\"\nallow-http = true\n\n\
         [vault.secrets]\naccount-key = {{ file = \"azure-key\" }}\n",
        server.endpoint
    );
    fs::write(&file, text + &options).expect("written");
    let secret = file.with_file_name("azure-key");
    fs::write(&secret, format!("{KEY}\n")).expect("written");
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("closed to others");
}

#[expect(clippy::disallowed_methods, reason = "this test waits for the machine's own time")]
fn pause(length: Duration) {
    std::thread::sleep(length);
}

fn code(finished: &Finished) -> Value {
    assert!(!finished.status.success(), "`{}` should have failed: {}", finished.command, finished.output);
    finished.failure().unwrap_or_else(|| panic!("an error as JSON, not {:?}", finished.errors))["code"].clone()
}

/// Two points, the older of which retention gives up, and what an interrupted writer left.
fn prune(world: &World, server: &Azurite) {
    let file = world.site.configuration_file();
    let text = fs::read_to_string(&file).expect("the configuration");
    fs::write(&file, text + "\n[groups.orders.retention]\nall = \"5s\"\n").expect("written");
    let info = world.succeed(&["vault", "info"]).expect("told");
    let lineage = info["groups"][0]["lineage"].as_str().expect("an id");
    let orphan = format!("{CONTAINER}/farshore/lineages/{lineage}/packs/{:020}/{}", 1, "0123456789abcdef".repeat(2));
    assert_eq!(server.ask("PUT", &orphan, "", "left behind"), 201);
    let planned = world.succeed(&["vault", "prune", "--dry-run"]).expect("planned");
    assert_eq!(planned[0]["planned"]["dropped"].as_array().map(Vec::len), Some(1), "{planned}");
    for objects_deleted in [false, true] {
        let done = world.succeed(&["vault", "prune", "--grace", "none"]).expect("pruned");
        let deleted = done[0]["done"]["deleted"]["objects"].as_u64().expect("a report");
        assert_eq!(deleted > 0, objects_deleted, "{done}");
    }
    assert_eq!(server.ask("GET", &orphan, "", ""), 404, "what no point needs is gone");
    let points = world.succeed(&["points"]).expect("points");
    assert_eq!(points[0]["points"].as_array().map(Vec::len), Some(1), "{points}");
}

/// Brings the disk back on a machine with nothing but the program, the kit, and the secrets.
fn rescue(world: &World, server: &Azurite) -> PathBuf {
    let there = world.folder().join("clean");
    fs::create_dir(&there).expect("made");
    fs::copy(world.site.kit_file(), there.join("kit.toml")).expect("copied");
    fs::copy(world.site.passphrase_file(), there.join("passphrase")).expect("copied");
    let mut command = Command::new(binary().expect("it was built"));
    command.current_dir(&there).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", &there);
    command.env("AZURE_STORAGE_ACCOUNT_KEY", KEY);
    command.args(["--json", "rescue", "--vault", &format!("az://{CONTAINER}/farshore"), "--kit", "kit.toml"]);
    command.args(["--passphrase-file", "passphrase", "--option", &format!("account-name={ACCOUNT}")]);
    command.args(["--option", &format!("endpoint={}", server.endpoint), "--option", "allow-http=true"]);
    command.args(["orders", "--to", "disk.raw"]);
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    there.join("disk.raw")
}

#[test]
fn points_go_to_the_container_and_come_back() {
    let mut world = World::new().expect("a world");
    let server = Azurite::start(&world.folder().join("azure"));
    assert_eq!(server.ask("PUT", CONTAINER, "restype=container", ""), 201);
    world.resume_guest("orders").expect("a guest");
    world.protect("orders", &["orders"]).expect("a group");
    keep_in_container(&world, &server);
    assert_eq!(code(&world.run(&["points"]).expect("ran")), "FS1001", "there is no vault yet");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    assert_eq!(
        code(&world.run(&["vault", "create", "--yes"]).expect("ran")),
        "FS1002",
        "the server decides who was first"
    );

    world.succeed(&["replicate", "--once"]).expect("the first copy");
    world.guest("orders").start_workload("writer 16 512").expect("a writer");
    // So that the point before is older than what is kept of all points.
    pause(Duration::from_secs(6));
    world.guest("orders").stop_workload("writer").expect("stopped");
    let mut control = world.guest("orders").control().expect("QEMU answers");
    control.execute("stop", serde_json::json!({})).expect("held");
    drop(control);
    let reports = world.succeed(&["replicate", "--once"]).expect("a delta");
    assert_eq!(reports[0]["point"]["machines"][0]["disks"][0]["basis"], "tracked");
    world.succeed(&["vault", "check", "--full"]).expect("whole");
    prune(&world, &server);
    world.succeed(&["vault", "check", "--full"]).expect("whole");
    let rescued = rescue(&world, &server);
    world.guest_mut("orders").kill();
    assert!(world.identical("orders", 0, &rescued).expect("compared"), "byte for byte");

    drop(server);
    assert_eq!(code(&world.run(&["points"]).expect("ran")), "FS1008", "the server is gone");
}
