//! A folder with a configuration, and the binary run in it, also as a daemon.

#![allow(dead_code, reason = "each test uses its part")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::Duration,
};

use serde_json::Value;

/// What is waited for comes within seconds on an idle machine.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// A folder for one test.
pub struct World {
    folder: tempfile::TempDir,
}

/// A configuration without machines: what can be refused without a platform.
pub const CONFIGURATION: &str = r#"
[host]
state-folder = "state"
cache-folder = "cache"

[vault]
address = "file:[FOLDER]/vault"
kit-file = "kit.toml"
passphrase-file = "passphrase"

[sites.farm]
adapter = "qemu"
settings.machines = [{ name = "shop", qmp = "[FOLDER]/shop.qmp" }]
settings.socket-folder = "[FOLDER]"
settings.fleece-folder = "[FOLDER]"
grants.observe.unix = ["[FOLDER]/*"]
grants.protect.unix = ["[FOLDER]/*"]

[sites.shelter]
adapter = "qemu"

[groups.shop]
site = "farm"
machines = ["shop"]
recovery-site = "shelter"
rpo = "5s"
"#;

impl World {
    /// A folder with a configuration that is right, and a passphrase.
    pub fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().expect("a folder") };
        world.write("farshore.toml", CONFIGURATION);
        world.write("passphrase", "correct horse battery staple\n");
        fs::set_permissions(world.path("passphrase"), fs::Permissions::from_mode(0o600)).expect("closed to others");
        world
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Writes a file in it; `[FOLDER]` stands for the folder.
    pub fn write(&self, name: &str, text: &str) {
        let folder = self.folder().to_str().expect("UTF-8");
        fs::write(self.path(name), text.replace("[FOLDER]", folder)).expect("written");
    }

    /// The binary, told to use this configuration and nothing of the machine's own.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farshore"));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("FARSHORE_CONFIG", self.path("farshore.toml"));
        command.args(arguments).current_dir(self.folder()).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary runs")
    }

    /// What it wrote and how it ended, with the folder's name and what differs each time taken out.
    pub fn told(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = |bytes: &[u8]| {
            let folder = self.folder().to_str().expect("UTF-8");
            String::from_utf8(bytes.to_vec()).expect("UTF-8").replace(folder, "[FOLDER]")
        };
        let status = output.status.code().map_or("a signal".to_owned(), |code| code.to_string());
        format!(
            "$ farshore {}\n--- standard output\n{}--- standard error\n{}--- status {status}\n",
            arguments.join(" "),
            text(&output.stdout),
            text(&output.stderr)
        )
    }
}

/// A daemon, and the events that it prints. It is killed when it is dropped.
pub struct Daemon {
    child: Child,
    events: mpsc::Receiver<Value>,
}

impl Daemon {
    /// Starts it.
    pub fn start(world: &World) -> Self {
        let mut command = world.command(&["--json", "serve"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let (sender, events) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).expect("JSON"));
            }
        });
        Self { child, events }
    }

    /// The next event of this name.
    pub fn event(&self, name: &str) -> Value {
        let mut others = Vec::new();
        loop {
            match self.events.recv_timeout(WAIT_MAX) {
                Ok(event) if event["name"] == name => return event,
                Ok(event) => others.push(event),
                Err(error) => panic!("no event {name}: {error}; {others:#?}"),
            }
        }
    }

    /// Sends it a signal, such as `-HUP`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill").success());
    }

    /// Its status after SIGTERM, and what it wrote to standard error.
    pub fn end(mut self) -> (Option<i32>, String) {
        self.signal("-TERM");
        let mut errors = String::new();
        std::io::Read::read_to_string(&mut self.child.stderr.take().expect("a pipe"), &mut errors).expect("UTF-8");
        (self.child.wait().expect("it ends").code(), errors)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What it wrote to standard output; it must have done what it was asked.
pub fn success(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Compares with `tests/expected/NAME.txt`. With `FARSHORE_UPDATE_EXPECTED=1` it writes the file instead: read the
/// difference before you keep it.
pub fn expect(name: &str, told: &str) {
    let file = Path::new("tests/expected").join(format!("{name}.txt"));
    if std::env::var_os("FARSHORE_UPDATE_EXPECTED").is_some() {
        fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        fs::write(&file, told).expect("written");
        return;
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        told == expected,
        "{name} changed (FARSHORE_UPDATE_EXPECTED=1 keeps it). Expected:\n{expected}\nTold:\n{told}"
    );
}
