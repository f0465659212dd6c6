//! A guest that runs: QEMU with the image's disk, its console, its control socket and its agent.
//!
//! A [`Guest`] is a QEMU process that this process started. Software emulation is used on purpose: it works on every
//! machine. Each guest has a folder:
//!
//! | name | what |
//! | --- | --- |
//! | `qmp`, `agent` | sockets for Farshore: QMP, guest agent |
//! | `control` | a second QMP socket, for the guest's owner, because QEMU serves one connection of a socket at a time |
//! | `serial`, `serial.log` | the console: a socket for its input, and everything that the guest wrote |
//! | `qemu.log` | what QEMU itself said |
//! | `disk0.qcow2`... | its disks, if they were made for it |
//!
//! Disk N is the node `diskN` (and `fileN` below it) behind the device `vdN`.
//!
//! ## Booting and resuming
//! A cold boot takes 6 to 10 s on a quiet machine. [`Guest::resume`] takes half a second: the first use boots a guest once,
//! saves its memory, and freezes its disk beside it in the cache (`warm/KEY`); each resumed guest gets an overlay over that
//! frozen disk, so that memory and disk fit. The key covers the image, QEMU's version and the machine's shape.
//!
//! ## Its end
//! Dropping a guest kills it, by its own process handle, and removes nothing. Should this process be killed itself, its
//! guests live on: whoever cannot accept that starts it in a process group of its own and ends that.

use std::{
    fs::{self, File},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use farshore_core::{Entropy, SystemEntropy};
use serde_json::{Value, json};

use crate::{
    console::Console,
    error::{AtPath, DemoError},
    program,
    wait::{Deadline, POLL, Stop, pause},
    witness::BootReport,
};

mod agent;
pub mod disk;
mod input;
mod qmp;
mod warm;

pub use agent::{Agent, Completed};
pub use input::ConsoleInput;
pub use qmp::Qmp;

/// How long a cold boot may take. It takes 6 to 10 s on a quiet machine and ten times that on a very busy one.
pub const BOOT_MAX: Duration = Duration::from_secs(240);

/// How long QEMU and the agent may take to answer, and QEMU to end when it was asked to.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// The longest path of a unix socket, in bytes: 108 with the zero at its end.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A guest's memory.
pub const MEMORY_MIB: u32 = 256;

/// How a disk's bytes are laid out in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    /// As they are.
    Raw,
    /// QEMU's own format, which can hold bitmaps and lie over another file.
    Qcow2,
}

impl DiskFormat {
    /// The format's name in QEMU.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// A disk of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestDisk {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
}

/// What a guest is started from.
#[derive(Debug, Clone)]
pub struct GuestOptions {
    /// What people call it.
    pub name: String,
    /// Where its sockets and logs go; made if it is not there. Two guests never share one.
    pub folder: PathBuf,
    /// Its disks; it boots from the first.
    pub disks: Vec<GuestDisk>,
    /// More arguments for QEMU.
    pub arguments: Vec<String>,
    /// What ends every wait for this guest early.
    pub stop: Stop,
}

/// A guest that was started here. See the module.
#[derive(Debug)]
pub struct Guest {
    name: String,
    folder: PathBuf,
    uuid: String,
    disks: Vec<GuestDisk>,
    child: Child,
    ended: Option<ExitStatus>,
    console: Console,
    stop: Stop,
}

impl Guest {
    /// Starts QEMU with these disks and returns as soon as it answers; the guest then boots.
    ///
    /// # Errors
    /// A socket's path would be too long, QEMU cannot be started, ends, or does not answer.
    pub fn start(options: GuestOptions) -> Result<Self, DemoError> {
        Self::launch(options, None)
    }

    /// Starts it and waits until it is up.
    ///
    /// # Errors
    /// As [`Guest::start`] and [`Guest::wait_until_up`].
    pub fn boot(options: GuestOptions) -> Result<(Self, BootReport), DemoError> {
        let mut guest = Self::start(options)?;
        let report = guest.wait_until_up()?;
        Ok((guest, report))
    }

    fn launch(options: GuestOptions, incoming: Option<&Path>) -> Result<Self, DemoError> {
        let GuestOptions { name, folder, disks, arguments, stop } = options;
        stop.check()?;
        fs::create_dir_all(&folder).at("make", &folder)?;
        for socket in ["qmp", "control", "agent", "serial"] {
            let path = folder.join(socket);
            let length_bytes = path.as_os_str().len();
            if length_bytes > SOCKET_PATH_BYTES_MAX {
                return Err(DemoError::PathTooLong { path, length_bytes, length_bytes_max: SOCKET_PATH_BYTES_MAX });
            }
        }
        let log = folder.join("serial.log");
        File::create(&log).at("make", &log)?;
        let words = folder.join("qemu.log");
        let words = File::create(&words).at("make", &words)?;
        let uuid = random_uuid();
        let mut command = qemu(&name, &folder, &uuid, &disks);
        command.args(arguments);
        if let Some(state) = incoming {
            // Only our own cache is named here, and `warm` refuses a path that a shell would not take as it is.
            command.args(["-S", "-incoming", &format!("exec:cat '{}'", state.display())]);
        }
        command.stdout(Stdio::null()).stderr(words).process_group(0);
        let child = command.spawn().at("start", "qemu-system-x86_64")?;
        let console = Console::follow(&log);
        let mut child = child;
        let console = match console {
            Ok(console) => console,
            Err(error) => {
                end(&mut child);
                return Err(error);
            }
        };
        let mut guest = Self { name, folder, uuid, disks, child, ended: None, console, stop };
        guest.wait_until_it_listens()?;
        Ok(guest)
    }

    /// QEMU makes its sockets before it has opened its disks, so a socket that is there may still belong to a QEMU that
    /// gives up: its process is looked at all the while.
    fn wait_until_it_listens(&mut self) -> Result<(), DemoError> {
        let deadline = Deadline::after(ANSWER_MAX, &self.stop);
        loop {
            match Qmp::connect(&self.control_socket(), Duration::from_millis(200), &self.stop) {
                Ok(_) => return Ok(()),
                Err(error @ DemoError::Interrupted) => return Err(error),
                Err(error) => {
                    self.check_running()?;
                    deadline.check("QEMU to listen", || error.to_string())?;
                }
            }
            pause(POLL);
        }
    }

    /// Waits until the guest has said that it is up, since it was started.
    ///
    /// # Errors
    /// It does not within [`BOOT_MAX`], or QEMU ends.
    pub fn wait_until_up(&mut self) -> Result<BootReport, DemoError> {
        self.wait_for("the guest to be up", 0, BOOT_MAX, BootReport::parse).map(|(report, _)| report)
    }

    /// Waits for a line of the console that the function takes, from this line on; and notices when QEMU ends. Returns
    /// what was taken and the number of the line after it.
    ///
    /// # Errors
    /// None comes within `limit`, or QEMU ends before one came.
    pub fn wait_for<T>(
        &mut self,
        awaited: &str,
        from: usize,
        limit: Duration,
        mut take: impl FnMut(&crate::console::Line) -> Option<T>,
    ) -> Result<(T, usize), DemoError> {
        let deadline = Deadline::after(limit, &self.stop);
        loop {
            let slice = deadline.left().min(Duration::from_secs(1));
            match self.console.wait_for(awaited, from, slice, &self.stop, &mut take) {
                Err(DemoError::TooLate { seen, .. }) => {
                    self.check_running()?;
                    deadline.check(awaited, || seen)?;
                }
                result => return result,
            }
        }
    }

    /// Whether QEMU runs.
    pub fn is_running(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended.is_none()
    }

    fn check_running(&mut self) -> Result<(), DemoError> {
        if self.is_running() {
            return Ok(());
        }
        let words = fs::read_to_string(self.folder.join("qemu.log")).unwrap_or_default();
        let status = self.ended.map_or_else(|| "unknown".to_owned(), |status| status.to_string());
        Err(DemoError::GuestEnded { status, errors: program::last_bytes(&words, 2_000).to_owned() })
    }

    /// Ends QEMU as a power failure would: SIGKILL. Nothing happens if it has ended.
    pub fn kill(&mut self) {
        if self.is_running() {
            end(&mut self.child);
            self.ended = self.child.try_wait().ok().flatten().or(Some(ExitStatus::from_raw(9)));
        }
    }

    /// Ends QEMU in its own good order, without the guest's knowledge; kills it if it does not obey.
    ///
    /// # Errors
    /// Stopping was asked for.
    pub fn quit(&mut self) -> Result<(), DemoError> {
        // The answer may get lost with QEMU itself; what counts is that the process ends.
        let _ = self.control().and_then(|mut control| control.execute("quit", json!({})));
        let ended = self.wait_until_ended(ANSWER_MAX);
        self.kill();
        match ended {
            Err(error @ DemoError::Interrupted) => Err(error),
            _ => Ok(()),
        }
    }

    /// Presses the power button, and waits until the guest has shut down and QEMU has ended.
    ///
    /// # Errors
    /// It does not within a minute.
    pub fn shut_down(&mut self) -> Result<(), DemoError> {
        self.control()?.execute("system_powerdown", json!({}))?;
        self.wait_until_ended(ANSWER_MAX)
    }

    fn wait_until_ended(&mut self, limit: Duration) -> Result<(), DemoError> {
        let deadline = Deadline::after(limit, &self.stop);
        while self.is_running() {
            deadline.check("QEMU to end", String::new)?;
            pause(POLL);
        }
        Ok(())
    }

    /// Starts one of the guest's loads: `database 500`, `writer 32 512`, `pair`.
    ///
    /// # Errors
    /// The agent does not answer or the guest has no such load.
    pub fn start_workload(&self, line: &str) -> Result<(), DemoError> {
        self.agent().succeed(&format!("workload {line}")).map(drop)
    }

    /// Ends one of the guest's loads.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn stop_workload(&self, name: &str) -> Result<(), DemoError> {
        self.agent().succeed(&format!("workload stop {name}")).map(drop)
    }

    /// Holds the guest, writes its memory to a file, and leaves it held. Its disks must not be written to afterwards by
    /// anybody, or the memory will not fit them.
    ///
    /// # Errors
    /// QEMU refuses, or the file cannot be written.
    pub fn save(&mut self, state: &Path) -> Result<(), DemoError> {
        let target = warm::shell_safe(state)?;
        let mut control = self.control()?;
        control.execute("stop", json!({}))?;
        control.execute("migrate-set-parameters", json!({ "max-bandwidth": 10u64 << 30 }))?;
        control.execute("migrate", json!({ "uri": format!("exec:cat > '{target}'") }))?;
        let deadline = Deadline::after(ANSWER_MAX, &self.stop);
        loop {
            let answer = control.execute("query-migrate", json!({}))?;
            match answer.get("status").and_then(Value::as_str) {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    let (peer, command) = ("QEMU", "migrate".to_owned());
                    return Err(DemoError::Refused { peer, command, answer: answer.to_string() });
                }
                _ => deadline.check("the guest's memory to be saved", || answer.to_string())?,
            }
            pause(POLL);
        }
    }

    /// A connection to the owner's QMP socket.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn control(&self) -> Result<Qmp, DemoError> {
        Qmp::connect(&self.control_socket(), ANSWER_MAX, &self.stop)
    }

    /// The guest's agent.
    pub fn agent(&self) -> Agent {
        Agent::new(&self.agent_socket(), ANSWER_MAX, &self.stop)
    }

    /// A connection that writes to the console's input. Only one can be open at a time.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn console_input(&self) -> Result<ConsoleInput, DemoError> {
        ConsoleInput::connect(&self.folder.join("serial"), &Deadline::after(ANSWER_MAX, &self.stop))
    }

    /// What the guest writes to its console.
    pub const fn console(&self) -> &Console {
        &self.console
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its sockets and logs are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The UUID that it was started with.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Its disks, in order.
    pub fn disks(&self) -> &[GuestDisk] {
        &self.disks
    }

    /// The process number of QEMU.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// The QMP socket that is meant for Farshore.
    pub fn qmp_socket(&self) -> PathBuf {
        self.folder.join("qmp")
    }

    /// The guest agent's socket.
    pub fn agent_socket(&self) -> PathBuf {
        self.folder.join("agent")
    }

    fn control_socket(&self) -> PathBuf {
        self.folder.join("control")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Kills a child and waits for its end. Both only fail if it has ended.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn qemu(name: &str, folder: &Path, uuid: &str, disks: &[GuestDisk]) -> Command {
    let mut command = program::command("qemu-system-x86_64");
    let socket = |socket: &str| format!("path={},server=on,wait=off", escape(&folder.join(socket)));
    command.args(["-accel", "tcg,tb-size=128", "-cpu", "Nehalem", "-smp", "1", "-m", &MEMORY_MIB.to_string()]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc"]);
    command.args(["-name", &escape(Path::new(name)), "-uuid", uuid]);
    for monitor in ["qmp", "control"] {
        command.args(["-chardev", &format!("socket,id={monitor},{}", socket(monitor))]);
        command.args(["-mon", &format!("chardev={monitor},mode=control")]);
    }
    let log = escape(&folder.join("serial.log"));
    command.args(["-chardev", &format!("socket,id=serial,{},logfile={log}", socket("serial"))]);
    command.args(["-serial", "chardev:serial", "-device", "virtio-serial-pci,id=ports"]);
    command.args(["-chardev", &format!("socket,id=agent,{}", socket("agent"))]);
    command.args(["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]);
    command.args(["-netdev", "user,id=net0,restrict=on"]);
    command.args(["-device", "virtio-net-pci,netdev=net0,id=nic0,mac=52:54:00:fa:25:01,romfile="]);
    for (number, disk) in disks.iter().enumerate() {
        let path = escape(&disk.path);
        command.args(["-blockdev", &format!("driver=file,node-name=file{number},filename={path}")]);
        let format = disk.format.as_str();
        command.args(["-blockdev", &format!("driver={format},node-name=disk{number},file=file{number}")]);
        command.args(["-device", &format!("virtio-blk-pci,id=vd{number},drive=disk{number},bootindex={number}")]);
    }
    command
}

/// QEMU's options end at a comma; a doubled one stands for itself.
fn escape(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// A random UUID, version 4 of RFC 9562.
fn random_uuid() -> String {
    let mut bytes = [0; 16];
    SystemEntropy.fill(&mut bytes);
    let number = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
    let digits = format!("{number:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| digits.get(range).unwrap_or_default());
    parts.join("-")
}

#[cfg(test)]
mod tests;
