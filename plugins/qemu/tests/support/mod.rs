//! Real QEMU processes without a guest, driven through a control socket of the test's own, and the adapter's traits over
//! the real system. Writes go through the device's own block backend, as a guest's do (`qemu-io -d`).

#![allow(dead_code, reason = "each test file uses its own part of this")]
#![expect(clippy::disallowed_methods, reason = "outside the sandbox the machine's clock is the host's")]

use std::{
    cell::RefCell,
    io::{Read, Write},
    os::unix::{fs::MetadataExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use farshore_adapter_qemu::{
    bindings::{
        exports::farshore::platform::source::{CaptureRequest, CapturedDisk, Changes, Consistency, TrackedDisk},
        farshore::host::files::Entry,
    },
    capture,
    error::PlatformError,
    ports::{Chunk, Completion, Connection, EntryPage, File, Host, HostError, Level, Place, Repetition, Slot},
    qmp::Client,
};
use serde_json::{Value, json};

/// The owner tag of the tests.
pub const OWNER: &str = "farshore-ababababab-1212121212";

/// A capture's id with this number.
pub fn id(number: u32) -> String {
    format!("019342aabbcc{number:020x}")
}

/// A host that dies, for its component, after so many more writes to control sockets.
pub type WritesLeft = Rc<RefCell<Option<u32>>>;

/// The adapter's host, over the real system.
pub struct TestHost {
    pub settings: Value,
    pub start: Instant,
    pub templates: Vec<(String, Template)>,
    pub writes_left: WritesLeft,
    /// Set by whoever plays a part of the world: the host is killed from then on.
    pub killed: Arc<AtomicBool>,
    pub lines: RefCell<Vec<String>>,
    /// Before this command is sent to any machine, so many milliseconds pass.
    pub delay: Option<(&'static str, u64)>,
    pub file_times: FileTimes,
}

/// How the file system counts when a file was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileTimes {
    /// As this system's does.
    Fine,
    /// In seconds.
    WholeSeconds,
    /// Not at all, as for block devices.
    None,
}

/// What an operator's template does with its slots.
pub type Template = fn(&[Slot], &[Repetition]) -> Command;

struct Socket {
    stream: UnixStream,
    writes_left: WritesLeft,
    killed: Arc<AtomicBool>,
    delay: Option<(&'static str, u64)>,
}

fn host_error(error: &std::io::Error, what: &str) -> HostError {
    let text = format!("{what}: {error}");
    match error.kind() {
        std::io::ErrorKind::NotFound => HostError::NotFound(text),
        std::io::ErrorKind::AlreadyExists => HostError::Conflict(text),
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => HostError::TimedOut(text),
        std::io::ErrorKind::ConnectionRefused
        | std::io::ErrorKind::BrokenPipe
        | std::io::ErrorKind::ConnectionReset => HostError::Unreachable(text),
        _ => HostError::Failed(text),
    }
}

impl Connection for Socket {
    fn read(&mut self, max_bytes: u32, timeout_milliseconds: u32) -> Result<Chunk, HostError> {
        let timeout = Duration::from_millis(u64::from(timeout_milliseconds.max(1)));
        self.stream.set_read_timeout(Some(timeout)).map_err(|error| host_error(&error, "socket"))?;
        let mut bytes = vec![0; max_bytes.min(65_536) as usize];
        let count = self.stream.read(&mut bytes).map_err(|error| host_error(&error, "socket"))?;
        bytes.truncate(count);
        Ok(Chunk { bytes, ended: count == 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), HostError> {
        if self.killed.load(Ordering::SeqCst) {
            return Err(HostError::Failed("the host was killed".into()));
        }
        if let Some(left) = self.writes_left.borrow_mut().as_mut() {
            *left = left.checked_sub(1).ok_or_else(|| HostError::Failed("the host was killed".into()))?;
        }
        if let Some((command, milliseconds)) = self.delay
            && String::from_utf8_lossy(bytes).contains(&format!("\"execute\":\"{command}\""))
        {
            std::thread::sleep(Duration::from_millis(milliseconds));
        }
        self.stream.write_all(bytes).map_err(|error| host_error(&error, "socket"))
    }
}

impl Host for TestHost {
    fn settings(&self) -> Result<String, HostError> {
        Ok(self.settings.to_string())
    }

    fn connect_unix(&self, path: &str) -> Result<Box<dyn Connection>, HostError> {
        if *self.writes_left.borrow() == Some(0) || self.killed.load(Ordering::SeqCst) {
            return Err(HostError::Failed("the host was killed".into()));
        }
        let stream = UnixStream::connect(path).map_err(|error| host_error(&error, path))?;
        Ok(Box::new(Socket {
            stream,
            writes_left: Rc::clone(&self.writes_left),
            killed: Arc::clone(&self.killed),
            delay: self.delay,
        }))
    }

    fn monotonic_nanoseconds(&self) -> Result<u64, HostError> {
        Ok(u64::try_from(self.start.elapsed().as_nanos()).expect("a short test"))
    }

    fn sleep(&self, milliseconds: u32) -> Result<(), HostError> {
        std::thread::sleep(Duration::from_millis(u64::from(milliseconds)));
        Ok(())
    }

    fn create_file(&self, path: &str, size_bytes: u64) -> Result<File, HostError> {
        std::fs::create_dir_all(Path::new(path).parent().expect("a folder"))
            .map_err(|error| host_error(&error, path))?;
        let file = std::fs::File::create_new(path).map_err(|error| host_error(&error, path))?;
        file.set_len(size_bytes).map_err(|error| host_error(&error, path))?;
        self.inspect_file(path)
    }

    fn inspect_file(&self, path: &str) -> Result<File, HostError> {
        let found = std::fs::metadata(path).map_err(|error| host_error(&error, path))?;
        let seconds = u64::try_from(found.ctime()).expect("after 1970") * 1_000_000;
        let changed_microseconds = match self.file_times {
            FileTimes::Fine => Some(seconds + u64::try_from(found.ctime_nsec()).expect("positive") / 1_000),
            FileTimes::WholeSeconds => Some(seconds),
            FileTimes::None => None,
        };
        Ok(File { size_bytes: found.len(), allocated_bytes: found.blocks() * 512, changed_microseconds })
    }

    fn remove_file(&self, path: &str) -> Result<bool, HostError> {
        if self.writes_left.borrow().is_some_and(|left| left == 0) || self.killed.load(Ordering::SeqCst) {
            return Err(HostError::Failed("the host was killed".into()));
        }
        let path = Path::new(path);
        let removed = if path.is_dir() { std::fs::remove_dir(path) } else { std::fs::remove_file(path) };
        match removed {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(host_error(&error, "remove")),
        }
    }

    /// Three entries a page, so that paging happens.
    fn list_folder(&self, path: &str, cursor: Option<&str>) -> Result<EntryPage, HostError> {
        let Ok(folder) = std::fs::read_dir(path) else { return Ok(EntryPage { entries: vec![], next: None }) };
        let mut entries: Vec<Entry> = folder
            .map(|entry| entry.expect("an entry"))
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.file_type().expect("its type")))
            .filter(|(_, kind)| kind.is_file() || kind.is_dir())
            .map(|(name, kind)| Entry { name, folder: kind.is_dir() })
            .collect();
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        let start = cursor.map_or(0, |cursor| cursor.parse().expect("our cursor"));
        let next = (start + 3 < entries.len()).then(|| (start + 3).to_string());
        Ok(EntryPage { entries: entries.into_iter().skip(start).take(3).collect(), next })
    }

    fn run_program(&self, template: &str, slots: &[Slot], repetitions: &[Repetition]) -> Result<Completion, HostError> {
        if *self.writes_left.borrow() == Some(0) || self.killed.load(Ordering::SeqCst) {
            return Err(HostError::Failed("the host was killed".into()));
        }
        let found = self.templates.iter().find(|(name, _)| name == template);
        let (_, template) = found.ok_or_else(|| HostError::NotFound(format!("no template {template}")))?;
        let Output { status, stdout, stderr } = template(slots, repetitions)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| host_error(&error, "program"))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Completion { exit_code: status.code().unwrap_or(255), output: text(stdout), errors: text(stderr) })
    }

    fn log(&self, _level: Level, line: &str) {
        self.lines.borrow_mut().push(line.to_owned());
    }

    fn progress(&self, _doing: &str, _done: u64, _total: Option<u64>) {}
}

/// A QEMU process; it ends with the value.
pub struct Qemu {
    pub folder: PathBuf,
    pub name: String,
    child: Child,
}

/// How a QEMU process is made.
pub struct Machine<'a> {
    pub name: &'a str,
    pub disks: usize,
    pub mebibytes: u64,
    pub paused: bool,
    pub extra: &'a [&'a str],
}

impl Default for Machine<'_> {
    fn default() -> Self {
        Self { name: "orders", disks: 1, mebibytes: 64, paused: false, extra: &[] }
    }
}

impl Qemu {
    /// Starts a process on qcow2 images in the folder, made if they are missing.
    pub fn start(folder: &Path, machine: &Machine<'_>) -> Self {
        let name = machine.name;
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", "tcg,tb-size=32", "-m", "16", "-nodefaults", "-no-user-config", "-display", "none"]);
        for socket in ["qmp", "test"] {
            let path = folder.join(format!("{name}.{socket}"));
            let _ = std::fs::remove_file(&path);
            command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", path.display()));
        }
        for index in 0..machine.disks {
            let image = folder.join(format!("{name}{index}.qcow2"));
            if !image.exists() {
                run(Command::new("qemu-img")
                    .args(["create", "-q", "-f", "qcow2"])
                    .arg(&image)
                    .arg(format!("{}M", machine.mebibytes)));
            }
            command.arg("-blockdev").arg(format!("driver=file,node-name=file{index},filename={}", image.display()));
            command.arg("-blockdev").arg(format!("driver=qcow2,node-name=disk{index},file=file{index}"));
            command.arg("-device").arg(format!("virtio-blk-pci,drive=disk{index},id=vd{index}"));
        }
        if machine.paused {
            command.arg("-S");
        }
        let errors = std::fs::File::create(folder.join(format!("{name}.stderr"))).expect("a log");
        command.args(machine.extra).stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        let child = command.spawn().expect("qemu-system-x86_64 is installed");
        let qemu = Self { folder: folder.to_owned(), name: name.to_owned(), child };
        let socket = qemu.folder.join(format!("{name}.test"));
        let until = Instant::now() + Duration::from_secs(60);
        while UnixStream::connect(&socket).is_err() {
            let errors = std::fs::read_to_string(folder.join(format!("{name}.stderr"))).unwrap_or_default();
            assert!(Instant::now() < until, "QEMU does not listen on {}: {errors}", socket.display());
            std::thread::sleep(Duration::from_millis(10));
        }
        qemu
    }

    /// Runs a command through the test's own control socket.
    pub fn command(&self, command: &str, arguments: Value) -> Value {
        let host = host(&self.folder, &[]);
        let socket = self.folder.join(format!("{}.test", self.name));
        let mut client = Client::connect(&host, &self.name, &socket.to_string_lossy()).expect("the test's socket");
        client.execute(command, arguments).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Reads or writes as the guest would, and fails if QEMU does.
    pub fn io(&self, disk: usize, io: &str) {
        let line = format!("qemu-io -d /machine/peripheral/vd{disk}/virtio-backend \"{io}\"");
        let answer = self.command("human-monitor-command", json!({ "command-line": line }));
        let answer = answer.as_str().expect("text");
        assert!(!answer.contains("rror") && !answer.contains("ailed"), "{io}: {answer}");
    }

    /// The names of all block nodes.
    pub fn nodes(&self) -> Vec<String> {
        let nodes = self.command("query-named-block-nodes", json!({ "flat": true }));
        nodes
            .as_array()
            .expect("a list")
            .iter()
            .map(|node| node["node-name"].as_str().expect("a name").into())
            .collect()
    }

    /// The names of the bitmaps of a node.
    pub fn bitmaps(&self, node: &str) -> Vec<String> {
        let nodes = self.command("query-named-block-nodes", json!({ "flat": true }));
        let node = nodes.as_array().expect("a list").iter().find(|found| found["node-name"] == node).expect("the node");
        let names = node["dirty-bitmaps"].as_array().into_iter().flatten();
        names.filter_map(|bitmap| bitmap["name"].as_str().map(str::to_owned)).collect()
    }

    /// QEMU's status.
    pub fn status(&self) -> String {
        self.command("query-status", json!({}))["status"].as_str().expect("a status").into()
    }

    /// Nothing of Farshore's is left but bitmaps: nodes, exports, files.
    pub fn assert_clean(&self) {
        let ours: Vec<String> = self.nodes().into_iter().filter(|name| name.starts_with("fs")).collect();
        assert_eq!(ours, Vec::<String>::new(), "nodes are left");
        assert_eq!(self.command("query-block-exports", json!({})), json!([]), "exports are left");
        assert_eq!(self.command("query-jobs", json!({})), json!([]), "jobs are left");
        assert_eq!(self.status(), "running");
        let blocks = self.command("query-block", json!({}));
        for (index, block) in blocks.as_array().expect("a list").iter().enumerate() {
            assert_eq!(block["inserted"]["node-name"], format!("disk{index}"), "a device uses another node");
        }
        let left = std::fs::read_dir(self.folder.join("fleece")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "fleece files are left");
    }

    /// Ends the process as a power failure would.
    pub fn kill(mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }

    /// Ends the process in good order, so that bitmaps are saved.
    pub fn quit(mut self) {
        self.command("quit", json!({}));
        self.child.wait().expect("our child");
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            if self.child.try_wait().expect("our child").is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program that has to succeed.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A folder for a test; short, because socket paths are.
pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("fsq").tempdir_in("/tmp").expect("a temporary folder");
    std::fs::create_dir(folder.path().join("fleece")).expect("its fleece folder");
    folder
}

/// A host whose settings name these machines.
pub fn host(folder: &Path, machines: &[&str]) -> TestHost {
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let machine = |name: &&str| json!({ "name": name, "qmp": path(&format!("{name}.qmp")) });
    let machines: Vec<Value> = machines.iter().map(machine).collect();
    let settings = json!({ "machines": machines, "socket-folder": path(""), "fleece-folder": path("fleece"), "fleece-limit-mib": 64 });
    TestHost {
        settings,
        start: Instant::now(),
        templates: Vec::new(),
        writes_left: WritesLeft::default(),
        killed: Arc::default(),
        lines: RefCell::default(),
        delay: None,
        file_times: FileTimes::Fine,
    }
}

/// What an operator writes to have images served, as a program: the template of examples/config/maximal.toml.
pub fn serve_images(slots: &[Slot], repetitions: &[Repetition]) -> Command {
    let value = |slots: &[Slot], name: &str| {
        slots.iter().find(|slot| slot.name == name).unwrap_or_else(|| panic!("no slot {name}")).value.clone()
    };
    let mut command = Command::new("qemu-storage-daemon");
    command.args(["--daemonize", "--chardev"]);
    command.arg(format!("socket,id=monitor,path={},server=on,wait=off", value(slots, "monitor")));
    command.args(["--monitor", "chardev=monitor"]);
    for item in repetitions.iter().filter(|repetition| repetition.name == "images").flat_map(|found| &found.items) {
        let (format, node, path) = (value(item, "format"), value(item, "node"), value(item, "path"));
        command.arg("--blockdev").arg(format!(
            "driver={format},node-name={node},read-only=on,force-share=on,file.driver=file,file.filename={path}"
        ));
    }
    command
}

/// A host that knows where the images of these machines are, and can serve them: a qcow2 image of `vd0` for each.
pub fn host_with_images(folder: &Path, machines: &[&str]) -> TestHost {
    let mut host = host(folder, machines);
    host.templates = vec![("serve-images".into(), serve_images)];
    for (index, name) in machines.iter().enumerate() {
        let path = folder.join(format!("{name}0.qcow2"));
        host.settings["machines"][index]["images"] = json!([{ "disk": "vd0", "path": path, "format": "qcow2" }]);
    }
    host
}

/// The storage daemons whose sockets are in a folder. They end with the value, also those of a test that failed.
pub struct Daemons(pub PathBuf);

impl Daemons {
    /// Their process ids.
    pub fn pids(&self) -> Vec<u32> {
        let folder = self.0.to_string_lossy().into_owned();
        let is_ours = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.starts_with("qemu-storage-daemon") && line.contains(&format!("path={folder}/"))
        };
        let processes = std::fs::read_dir("/proc").expect("a proc file system").flatten();
        processes.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).filter(is_ours).collect()
    }

    /// Ends them as a power failure would.
    pub fn kill(&self) {
        for pid in self.pids() {
            let _ = Command::new("kill").arg("-9").arg(pid.to_string()).status();
        }
        self.assert_none();
    }

    /// One runs. Another may be about to end.
    pub fn assert_one(&self) {
        self.wait_for(1);
    }

    /// So many run, as soon as those have ended that are about to.
    pub fn wait_for(&self, count: usize) {
        let until = Instant::now() + Duration::from_secs(10);
        while self.pids().len() != count {
            assert!(Instant::now() < until, "not {count} storage daemons but {:?}", self.pids());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// None runs, or the last is about to end.
    pub fn assert_none(&self) {
        self.wait_for(0);
    }

    /// None runs, and none has left a socket.
    pub fn assert_nothing_left(&self) {
        self.assert_none();
        let names = std::fs::read_dir(&self.0).expect("a folder").flatten().map(|entry| entry.file_name());
        let names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        assert!(!names.iter().any(|name| name.contains(".off-")), "sockets are left: {names:?}");
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        for pid in self.pids() {
            let _ = Command::new("kill").arg("-9").arg(pid.to_string()).status();
        }
    }
}

/// A request for a capture that follows these points.
pub fn request(number: u32, machines: &[&str], tracked: &[CapturedDisk]) -> CaptureRequest {
    let tracked = tracked.iter().map(|disk| TrackedDisk {
        machine: disk.machine.clone(),
        disk: disk.disk.clone(),
        token: disk.token.clone().expect("QEMU tracks every disk"),
    });
    CaptureRequest {
        id: id(number),
        owner: OWNER.into(),
        machines: machines.iter().map(|name| (*name).to_owned()).collect(),
        tracked: tracked.collect(),
        consistency: Consistency::Crash,
        stall_limit_milliseconds: 2_000,
    }
}

/// All disks of a capture.
pub fn disks(state: &[u8]) -> Vec<CapturedDisk> {
    capture::list_disks(state, None).expect("a capture's disks").disks
}

/// The address of a captured disk for the tools of others.
pub fn uri(host: &TestHost, state: &[u8], disk: &CapturedDisk) -> String {
    match capture::open_disk(host, state, &disk.machine, &disk.disk).expect("a place") {
        Place::Nbd { socket, name } => format!("nbd+unix:///{name}?socket={socket}"),
        Place::File { path } => panic!("a capture is not a file: {path}"),
    }
}

/// The extents that an independent client reads from a block-status context, with bit 0 as asked.
pub fn dirty(uri: &str, disk: &CapturedDisk) -> Vec<(u64, u64)> {
    let Changes::Context(context) = &disk.changes else { panic!("{:?} is unknown", disk) };
    let output = run(Command::new("nbdinfo").arg(format!("--map={context}")).arg("--json").arg(uri));
    let extents: Value = serde_json::from_slice(&output.stdout).expect("nbdinfo writes JSON");
    let number = |extent: &Value, name: &str| extent[name].as_u64().expect("a number");
    let extents = extents.as_array().expect("a list").iter().filter(|extent| number(extent, "type") & 1 == 1);
    extents.map(|extent| (number(extent, "offset"), number(extent, "length"))).collect()
}

/// Copies a frozen view, all of it or what changed, onto a replica, by an independent client.
pub fn copy(uri: &str, disk: &CapturedDisk, replica: &Path) {
    match disk.changes {
        Changes::Listed => panic!("QEMU lists no blocks"),
        Changes::Unknown(_) => drop(run(Command::new("nbdcopy").arg(uri).arg(replica))),
        Changes::Context(_) => {
            for (offset, length) in dirty(uri, disk) {
                let part = replica.with_extension("part");
                let source = format!("driver=raw,offset={offset},size={length},file.driver=nbd,{}", nbd_options(uri));
                run(Command::new("qemu-img").args(["convert", "-O", "raw", "--image-opts", &source]).arg(&part));
                run(Command::new("dd")
                    .arg(format!("if={}", part.display()))
                    .arg(format!("of={}", replica.display()))
                    .args(["bs=64K", "conv=notrunc", "oflag=seek_bytes", &format!("seek={offset}")]));
            }
        }
    }
}

fn nbd_options(uri: &str) -> String {
    let rest = uri.strip_prefix("nbd+unix:///").expect("our own address");
    let (name, socket) = rest.split_once("?socket=").expect("our own address");
    format!("file.export={name},file.server.type=unix,file.server.path={socket}")
}

/// Whether an independent tool finds the view and the replica the same.
pub fn is_same(uri: &str, replica: &Path) -> bool {
    let output = Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw", uri]).arg(replica).output();
    let output = output.expect("qemu-img is installed");
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&output.stderr));
    output.status.code() == Some(0)
}

/// The sentence of an error.
pub fn sentence(error: &PlatformError) -> String {
    farshore_adapter_qemu::error::platform_sentence(error).to_owned()
}
