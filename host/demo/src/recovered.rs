//! Recovered machines: QEMU processes that `farshore` started and that outlive it.
//!
//! They are found by what they run from: a process of QEMU whose arguments name the folder of the recovered machines. A
//! process number alone is never trusted: it is looked at again before it is acted on.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::{
    error::{AtPath, DemoError},
    guest::Qmp,
    wait::{Deadline, POLL, Stop, pause},
};

/// How long QEMU may take to end after it was asked to.
const END_MAX: Duration = Duration::from_secs(20);

/// A machine that runs somewhere below a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredMachine {
    /// QEMU's process number, when it was looked at.
    pub process_id: u32,
    /// Its UUID, with dashes.
    pub uuid: String,
    /// Its control socket.
    pub qmp: Option<PathBuf>,
    /// The guest agent's socket.
    pub agent: Option<PathBuf>,
    /// The file that its console is written to.
    pub console: Option<PathBuf>,
    /// The arguments that QEMU was started with.
    pub arguments: Vec<String>,
}

impl RecoveredMachine {
    /// Whether it was started without a network.
    pub fn is_without_network(&self) -> bool {
        let networks = ["-nic", "-netdev", "-net", "-device"];
        let mut pairs = self.arguments.iter().zip(self.arguments.iter().skip(1));
        let is_network = |option: &str, value: &str| match option {
            "-nic" | "-net" => value != "none",
            "-netdev" => true,
            _ => value.contains("netdev="),
        };
        pairs.all(|(option, value)| !networks.contains(&option.as_str()) || !is_network(option, value))
    }

    /// Ends it: QEMU is asked to quit, and killed if it does not.
    ///
    /// # Errors
    /// It is still there afterwards.
    pub fn end(&self) -> Result<(), DemoError> {
        let stop = Stop::default();
        if let Some(qmp) = &self.qmp {
            // The answer may get lost with QEMU itself; what counts is that the process ends.
            let _ = Qmp::connect(qmp, Duration::from_secs(2), &stop)
                .and_then(|mut control| control.execute("quit", json!({})));
        }
        let deadline = Deadline::after(END_MAX, &stop);
        let mut asked = 0_u32;
        while look(self.process_id).is_some_and(|now| now.arguments == self.arguments) {
            deadline.check("a recovered machine to end", || format!("{self:?}"))?;
            asked += 1;
            let number = i32::try_from(self.process_id).ok().and_then(Pid::from_raw);
            if let (200, Some(pid)) = (asked, number) {
                // It fails only if the process has just ended.
                let _ = kill_process(pid, Signal::KILL);
            }
            pause(POLL);
        }
        Ok(())
    }
}

/// The machines that run from this folder, whoever started them.
///
/// # Errors
/// The system does not show its processes.
pub fn machines_below(folder: &Path) -> Result<Vec<RecoveredMachine>, DemoError> {
    let name = folder.to_string_lossy();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").at("list", "/proc")? {
        let Some(number) = entry.ok().and_then(|entry| entry.file_name().to_str()?.parse().ok()) else { continue };
        found.extend(look(number).filter(|machine| machine.names(&name)));
    }
    Ok(found)
}

/// The process with this number, if it is a QEMU.
fn look(process_id: u32) -> Option<RecoveredMachine> {
    // A process that ended meanwhile has no file or an empty one.
    let bytes = fs::read(format!("/proc/{process_id}/cmdline")).ok()?;
    let arguments: Vec<String> =
        bytes.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect();
    if !arguments.first()?.contains("qemu-system") {
        return None;
    }
    let after = |option: &str| {
        let position = arguments.iter().position(|argument| argument == option)?;
        arguments.get(position + 1).cloned()
    };
    let qmp = after("-qmp").and_then(|value| Some(value.strip_prefix("unix:")?.split(',').next()?.into()));
    let character_device = |kind: &str| {
        let value = arguments.iter().find_map(|argument| argument.strip_prefix(kind))?;
        value.split(',').find_map(|part| part.strip_prefix("path=")).map(PathBuf::from)
    };
    let (agent, console) = (character_device("socket,id=agent,"), character_device("file,id=console,"));
    let uuid = after("-uuid").unwrap_or_default();
    Some(RecoveredMachine { process_id, uuid, qmp, agent, console, arguments })
}

impl RecoveredMachine {
    /// Whether an argument names a path below the folder: not one that only begins alike.
    fn names(&self, folder: &str) -> bool {
        let below = format!("{}/", folder.trim_end_matches('/'));
        self.arguments.iter().any(|argument| argument.contains(&below))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(arguments: &[&str]) -> RecoveredMachine {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        RecoveredMachine { process_id: 0, uuid: String::new(), qmp: None, agent: None, console: None, arguments }
    }

    #[test]
    fn a_network_is_seen_in_every_form() {
        for without in [&["qemu", "-nic", "none"][..], &["qemu", "-device", "virtio-blk-pci,drive=d"], &["qemu"]] {
            assert!(machine(without).is_without_network(), "{without:?}");
        }
        for with in [
            &["qemu", "-nic", "user"][..],
            &["qemu", "-netdev", "user,id=n"],
            &["qemu", "-device", "virtio-net-pci,netdev=n"],
            &["qemu", "-net", "nic"],
        ] {
            assert!(!machine(with).is_without_network(), "{with:?}");
        }
    }

    #[test]
    fn only_the_folder_itself_counts() {
        let running = machine(&["qemu-system-x86_64", "-drive", "file=/tmp/a1/recovered/x,format=raw"]);
        assert!(running.names("/tmp/a1/recovered") && running.names("/tmp/a1"));
        assert!(!running.names("/tmp/a1/recover") && !running.names("/tmp/a"));
    }

    #[test]
    fn a_machine_is_found_by_its_folder_and_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("qmp");
        let mut command = crate::program::command("qemu-system-x86_64");
        command.args(["-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-daemonize", "-m", "16"]);
        command.args(["-uuid", "01234567-89ab-4def-8123-456789abcdef", "-qmp"]);
        command
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .args(["-chardev", &format!("file,id=console,path={}", folder.path().join("log").display())]);
        crate::program::output(&mut command).expect("it starts");
        let found = machines_below(folder.path()).expect("processes are shown");
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (found[0].uuid.as_str(), found[0].qmp.as_ref()),
            ("01234567-89ab-4def-8123-456789abcdef", Some(&socket))
        );
        assert_eq!(found[0].console, Some(folder.path().join("log")));
        found[0].end().expect("it ends");
        assert_eq!(machines_below(folder.path()).expect("processes are shown"), []);
    }
}
