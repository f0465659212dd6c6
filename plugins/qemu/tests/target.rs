//! The target's side: disks, machines from a real template, readiness, stopping, and finding all of it again.

mod support;

use std::{
    io::{Seek, Write},
    os::unix::net::{UnixListener, UnixStream},
    process::Command,
};

use farshore_adapter_qemu::{
    bindings::{
        exports::farshore::platform::{
            ownership::Kind,
            target_disks::{DiskRequest, DiskStatus},
            target_machines::{Level, MachineRequest, MachineStatus, Manner},
        },
        farshore::platform::model::{Disk, Firmware, Machine, NetworkInterface, PowerState},
    },
    error::PlatformError,
    ownership,
    ports::{Place, Repetition, Slot},
    qmp::Client,
    target_disks, target_machines,
};
use serde_json::json;
use support::{OWNER, TestHost, folder, host, id, sentence};

fn value<'s>(slots: &'s [Slot], name: &str) -> &'s str {
    &slots.iter().find(|slot| slot.name == name).unwrap_or_else(|| panic!("no slot {name}")).value
}

/// What an operator writes, as a program: a detached QEMU with no network but an isolated one.
fn template(slots: &[Slot], repetitions: &[Repetition]) -> Command {
    let of = |name| value(slots, name);
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "tcg,tb-size=32", "-nodefaults", "-no-user-config", "-display", "none", "-daemonize"]);
    command.args(["-name", of("name"), "-uuid", of("uuid"), "-smp", of("cpus")]);
    command.args(["-m", &format!("{}M", of("memory-mib")), "-qmp", &format!("unix:{},server=on,wait=off", of("qmp"))]);
    command.args([
        "-chardev",
        &format!("socket,id=agent,path={},server=on,wait=off", of("agent")),
        "-device",
        "virtio-serial-pci",
    ]);
    command.args(["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]);
    command.args(["-serial", &format!("file:{}", of("serial-log"))]);
    for repetition in repetitions {
        for item in &repetition.items {
            let id = value(item, "id");
            if repetition.name == "disks" {
                command.args(["-drive", &format!("if=none,id=d-{id},format=raw,file={}", value(item, "path"))]);
                command.args(["-device", &format!("virtio-blk-pci,id={id},drive=d-{id}")]);
            } else {
                command.args(["-netdev", &format!("user,id=n-{id},restrict=on")]);
                command.args(["-device", &format!("virtio-net-pci,id={id},netdev=n-{id},mac={}", value(item, "mac"))]);
            }
        }
    }
    command
}

/// Ends the detached machines of a test that failed: nobody else knows them.
struct Strays(std::path::PathBuf);

impl Drop for Strays {
    fn drop(&mut self) {
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.path());
        for socket in entries.filter(|path| path.extension().is_some_and(|extension| extension == "qmp")) {
            let host = host(&self.0, &[]);
            if let Ok(mut client) = Client::connect(&host, "stray", &socket.to_string_lossy()) {
                let _ = client.execute("quit", json!({}));
            }
        }
    }
}

fn target(folder: &std::path::Path) -> TestHost {
    let mut host = host(folder, &[]);
    host.settings = json!({ "socket-folder": folder, "machine-folder": folder.join("machines") });
    host.templates = vec![("start-machine".into(), template)];
    host
}

fn disk_request(number: u32, bytes: u64) -> DiskRequest {
    DiskRequest {
        id: id(number),
        owner: OWNER.into(),
        run: id(99),
        machine_name: "orders".into(),
        disk: "vd0".into(),
        size_bytes: bytes,
        properties: vec![],
    }
}

fn machine(disks: usize) -> Machine {
    let disk = |index| Disk { id: format!("vd{index}"), size_bytes: 1 << 20, boot: index == 1, properties: vec![] };
    let interface = |id: &str, mac: Option<&str>| NetworkInterface {
        id: id.into(),
        mac: mac.map(str::to_owned),
        network: None,
        properties: vec![],
    };
    Machine {
        id: "orders".into(),
        name: "orders, the first".into(),
        cpus: 1,
        memory_bytes: 16 << 20,
        firmware: Firmware::Bios,
        power: PowerState::Running,
        disks: (0..disks).map(disk).collect(),
        network_interfaces: vec![
            interface("n0", Some("52:54:00:aa:bb:cc")),
            interface("peripheral-anon/device[3]", None),
        ],
        properties: vec![],
    }
}

#[test]
fn a_disk_is_made_once_sealed_and_thrown_away() {
    let folder = folder();
    let host = target(folder.path());
    let request = disk_request(1, 3 << 20);
    let step = target_disks::begin(&host, &request).expect("a disk");
    assert!(matches!(step.status, DiskStatus::Ready(_)));
    assert_eq!(target_disks::begin(&host, &request).expect("the same disk"), step);
    let error = target_disks::begin(&host, &disk_request(1, 4 << 20)).expect_err("another size");
    assert!(matches!(error, PlatformError::Conflict(_)), "{error:?}");
    let Place::File { path } = target_disks::open(&host, &step.state).expect("a place") else { panic!("not a file") };
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).expect("it can be written");
    file.seek(std::io::SeekFrom::Start(1 << 20)).and_then(|_| file.write_all(b"data")).expect("it is there");
    target_disks::seal(&host, &step.state).expect("whole");
    file.set_len(1 << 20).expect("a shorter file");
    let error = target_disks::seal(&host, &step.state).expect_err("it lost its end");
    assert!(sentence(&error).contains("3145728"), "{error:?}");
    for _ in 0..2 {
        target_disks::discard(&host, &step.state).expect("gone, and still gone");
    }
    assert!(matches!(target_disks::seal(&host, &step.state), Err(PlatformError::NotFound(_))));
    assert!(!folder.path().join("machines").join(OWNER).exists(), "no empty folder is left");
    let escape = DiskRequest { owner: "../x".into(), ..disk_request(2, 512) };
    assert!(target_disks::begin(&host, &escape).is_err());
}

#[test]
fn a_machine_lives_outlives_the_host_and_leaves_nothing() {
    let folder = folder();
    let _strays = Strays(folder.path().to_owned());
    let host = target(folder.path());
    let states: Vec<Vec<u8>> = (0..2)
        .map(|number| target_disks::begin(&host, &disk_request(number, 1 << 20)).expect("a disk").state)
        .map(|state| target_disks::seal(&host, &state).expect("sealed").state)
        .collect();
    let request = MachineRequest { id: id(7), owner: OWNER.into(), run: id(99), machine: machine(2), disks: states };
    let findings = target_machines::check(&host, &request.machine).expect("findings").findings;
    assert!(findings.iter().all(|finding| !finding.blocking) && findings.len() == 1, "{findings:?}");
    let defined = target_machines::define(&host, &request).expect("defined");
    assert_eq!(target_machines::define(&host, &request).expect("again"), defined);
    let readiness = target_machines::check_readiness(&host, &defined.state).expect("readiness");
    assert_eq!(readiness.level, Level::Off);
    let started = target_machines::start(&host, &defined.state).expect("it starts");
    assert!(matches!(&started.status, MachineStatus::Ready(done) if done.note.is_empty()));
    // Another host finds it: started again, it is left alone.
    let another = target(folder.path());
    let again = target_machines::start(&another, &defined.state).expect("it runs");
    assert!(matches!(&again.status, MachineStatus::Ready(done) if done.note.contains("already")));
    let readiness = target_machines::check_readiness(&another, &started.state).expect("readiness");
    assert_eq!(readiness.level, Level::Running, "{readiness:?}");
    assert!(readiness.evidence.contains("guest agent"), "{readiness:?}");
    assert!(
        folder
            .path()
            .join("machines")
            .join(OWNER)
            .join(format!("run-{}", id(99)))
            .join(format!("machine-{}", id(7)))
            .join("serial.log")
            .exists()
    );

    // The journal is lost: the folders tell, and the disks belong to the machine.
    let list = |kind| ownership::list(&another, kind, OWNER, None).expect("a list").items;
    assert!(list(Kind::Capture).is_empty());
    let owned = [list(Kind::Machine), list(Kind::Disk)].concat();
    assert_eq!(owned.iter().map(|item| (item.kind, item.id.clone())).collect::<Vec<_>>(), [(Kind::Machine, id(7))]);
    assert_eq!(owned[0].run, Some(id(99)));

    // The guest has no system that could shut itself down: graceful goes on, forced ends it.
    let stopping = target_machines::stop(&another, &started.state, Manner::Graceful).expect("asked");
    assert!(matches!(stopping.status, MachineStatus::Pending(_)));
    assert!(matches!(
        target_machines::go_on(&another, &stopping.state).expect("still").status,
        MachineStatus::Pending(_)
    ));
    let stopped = target_machines::stop(&another, &stopping.state, Manner::Forced).expect("ended");
    assert!(matches!(&stopped.status, MachineStatus::Ready(done) if done.note.contains("quit")), "{stopped:?}");
    let stopped = target_machines::stop(&another, &stopped.state, Manner::Forced).expect("still ended");
    assert!(matches!(&stopped.status, MachineStatus::Ready(done) if done.note.contains("not running")), "{stopped:?}");

    // It starts again, and is removed by what the folders tell, while it runs.
    target_machines::start(&another, &stopped.state).expect("it starts again");
    for _ in 0..2 {
        ownership::release(&another, &owned[0]).expect("removed");
    }
    assert!(UnixStream::connect(folder.path().join(format!("{}.qmp", id(7)))).is_err(), "it still runs");
    assert!(!folder.path().join("machines").join(OWNER).exists(), "something is left");
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
    assert!(left.iter().all(|name| name == "machines" || name == "fleece"), "{left:?}");
}

#[test]
fn what_cannot_start_says_why() {
    let folder = folder();
    let _strays = Strays(folder.path().to_owned());
    let mut host = target(folder.path());
    let state = target_disks::begin(&host, &disk_request(1, 1 << 20)).expect("a disk").state;
    let define = |host: &TestHost, machine| {
        let request =
            MachineRequest { id: id(7), owner: OWNER.into(), run: id(99), machine, disks: vec![state.clone()] };
        target_machines::define(host, &request)
    };
    let defined = define(&host, machine(1)).expect("defined").state;
    let failure = |host: &TestHost, state: &[u8]| target_machines::start(host, state).expect_err("it cannot start");

    host.templates = vec![("start-machine".into(), |_, _| {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-machine", "no-such-machine"]);
        command
    })];
    let error = failure(&host, &defined);
    assert!(matches!(&error, PlatformError::Failed(text) if text.contains("unsupported machine type")), "{error:?}");
    host.templates = vec![("start-machine".into(), |_, _| Command::new("true"))];
    let error = failure(&host, &defined);
    assert!(sentence(&error).contains("-daemonize"), "{error:?}");
    host.templates = vec![];
    assert!(matches!(failure(&host, &defined), PlatformError::Settings(text) if text.contains("start-machine")));

    // A template without the UUID: a machine that is not ours is left alone, and stays found.
    host.templates = vec![("start-machine".into(), |slots, repetitions| {
        let mut slots = slots.to_vec();
        slots.iter_mut().find(|slot| slot.name == "uuid").expect("the slot").value =
            "00000000-0000-0000-0000-000000000001".into();
        template(&slots, repetitions)
    })];
    assert!(matches!(failure(&host, &defined), PlatformError::Conflict(text) if text.contains("uuid")));
    assert!(matches!(target_machines::remove(&host, &defined), Err(PlatformError::Conflict(_))));
    let socket = folder.path().join(format!("{}.qmp", id(7))).to_string_lossy().into_owned();
    let mut client = Client::connect(&host, "stray", &socket).expect("it runs");
    client.execute("quit", json!({})).expect("it ends");
    assert!(client.wait_for_end(10_000));
    target_machines::remove(&host, &defined).expect("removed");

    let uefi = Machine { firmware: Firmware::Uefi, disks: vec![], cpus: 0, ..machine(1) };
    let problems: Vec<_> = target_machines::check(&host, &uefi).expect("findings").findings;
    assert_eq!(problems.iter().filter(|finding| finding.blocking).count(), 2, "{problems:?}");
    assert!(problems.iter().any(|finding| !finding.blocking && finding.problem.contains("start-machine-uefi")));
}

#[test]
fn a_machine_that_may_still_run_is_neither_started_nor_removed() {
    let folder = folder();
    let mut host = target(folder.path());
    // A template that must not run: it would be a second QEMU on the same disks.
    host.templates = vec![("start-machine".into(), |_, _| panic!("a machine that may run was started"))];
    let disk = target_disks::begin(&host, &disk_request(1, 1 << 20)).expect("a disk").state;
    let Place::File { path } = target_disks::open(&host, &disk).expect("a place") else { panic!("not a file") };
    let request =
        MachineRequest { id: id(7), owner: OWNER.into(), run: id(99), machine: machine(1), disks: vec![disk] };
    let state = target_machines::define(&host, &request).expect("defined").state;
    let socket = folder.path().join(format!("{}.qmp", id(7)));
    let refuse = |expected: fn(&PlatformError) -> bool| {
        let start = target_machines::start(&host, &state).expect_err("it may run");
        let stop = target_machines::stop(&host, &state, Manner::Forced).expect_err("it may run");
        let remove = target_machines::remove(&host, &state).expect_err("it may run");
        for error in [start, stop, remove] {
            assert!(expected(&error) && sentence(&error).contains("may still run"), "{error:?}");
        }
        assert!(std::path::Path::new(&path).exists(), "its disk is gone");
        assert!(socket.symlink_metadata().is_ok(), "its socket is gone");
    };

    // The socket cannot be connected to, for a reason that says nothing of who listens.
    std::os::unix::fs::symlink(&socket, &socket).expect("a link to itself");
    refuse(|error| matches!(error, PlatformError::Failed(_)));
    std::fs::remove_file(&socket).expect("removed");

    // Somebody listens, and says nothing.
    let silent = UnixListener::bind(&socket).expect("a socket");
    refuse(|error| matches!(error, PlatformError::Conflict(_)));
    drop(silent);
    std::fs::remove_file(&socket).expect("removed");

    // Somebody listens, and hangs up each time.
    let listener = UnixListener::bind(&socket).expect("a socket");
    let ending = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let shared = std::sync::Arc::clone(&ending);
    let hanging_up = std::thread::spawn(move || {
        listener.incoming().take_while(|_| !shared.load(std::sync::atomic::Ordering::SeqCst)).for_each(drop);
    });
    refuse(|error| matches!(error, PlatformError::Unreachable(_)));
    ending.store(true, std::sync::atomic::Ordering::SeqCst);
    drop(UnixStream::connect(&socket).expect("the last visitor"));
    hanging_up.join().expect("it ends");

    // The socket is still there and nothing listens: the machine is gone, and so is what it left.
    target_machines::remove(&host, &state).expect("removed");
    assert!(!std::path::Path::new(&path).exists() && socket.symlink_metadata().is_err());
}
