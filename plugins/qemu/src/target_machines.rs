//! Recovered machines: QEMU processes from the operator's template, found again by their sockets and their UUIDs.
//!
//! The adapter cannot choose a program or an argument. It runs the operator's template `start-machine` of the mode (for a
//! machine with UEFI firmware `start-machine-uefi`), which must use exactly these slots:
//!
//! | slot | type | what |
//! | --- | --- | --- |
//! | `name` | name | the machine's name |
//! | `uuid` | uuid | its UUID, by which it is found again |
//! | `memory-mib`, `cpus` | integer | its size |
//! | `qmp`, `agent` | path | the sockets that QEMU has to make (`-qmp unix:{qmp:path},server=on,wait=off`) |
//! | `serial-log` | path | where its serial console may be kept |
//! | each of `disks`: `path`, `id` | path, name | a raw image, and the id of its device |
//! | each of `network-interfaces`: `mac`, `id` | mac, name | a network interface; the network is the template's |
//!
//! The template has to detach QEMU (`-daemonize`), so that the machine outlives this host, its terminal and its restart.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    agent::Agent,
    bindings::{
        exports::farshore::platform::target_machines::{
            Finding, FindingPage, Level, MachineRequest, MachineStatus, MachineStep, Manner, Readiness,
        },
        farshore::platform::model::{Done, Firmware, Machine},
    },
    cleanup::folder_names,
    error::{PlatformError, Result, platform_sentence, sentence, while_doing},
    ports::{Host, HostError, Repetition, Slot, text},
    power::{self, Progress},
    qmp::{Client, Door},
    settings::Settings,
    target_disks::{DiskState, is_id, is_owner, remove_empty_folders, run_folder},
};

const AGENT_TIMEOUT_MILLISECONDS: u32 = 2_000;
const ERROR_CHARACTERS_MAX: usize = 2_000;
const MEBIBYTE: u64 = 1 << 20;
/// A file of no bytes would do; this is one that every file system and every host accepts.
const MARKER_BYTES: u64 = 512;

/// What later calls must know of a machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MachineState {
    version: u32,
    owner: String,
    run: String,
    id: String,
    name: String,
    memory_mib: u64,
    cpus: u32,
    uefi: bool,
    disks: Vec<MachineDisk>,
    interfaces: Vec<MachineInterface>,
    /// How often a graceful stop was looked at; none when the machine is not being stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stop_polls: Option<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineDisk {
    id: String,
    bytes: u64,
    device: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineInterface {
    device: String,
    mac: String,
}

/// A text as QEMU takes it for the id of a device: what does not fit is replaced by the fallback.
fn device_id(id: &str, fallback: &str, index: usize) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let begins = id.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
    if begins && id.len() <= 64 && id.bytes().all(plain) { id.to_owned() } else { format!("{fallback}{index}") }
}

/// A machine's name as a template's slot takes it.
fn slot_name(name: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '.' | '_');
    let replaced: String = name.chars().take(64).map(|found| if plain(found) { found } else { '-' }).collect();
    if replaced.starts_with(|first: char| first.is_ascii_alphanumeric()) { replaced } else { format!("m{replaced}") }
}

/// An id of the host's as a UUID.
fn uuid(id: &str) -> String {
    let part = |range| id.get(range).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
}

/// An address of QEMU's own range, for an interface whose address nobody knew.
fn made_up_mac(id: &str, index: usize) -> String {
    let part = |range| id.get(range).unwrap_or("00");
    format!("52:54:00:{}:{}:{:02x}", part(28..30), part(30..32), index & 0xff)
}

/// How a machine of ours answers.
enum Presence<'h> {
    /// It is there.
    There(Client<'h>),
    /// Nothing listens on its socket, or there is none.
    Absent(String),
}

/// The error of a machine of which nobody knows whether it runs. Whoever gets it must not touch what the machine uses.
fn may_still_run(error: PlatformError) -> PlatformError {
    let text = format!("{}; the machine may still run, so nothing of it was touched", platform_sentence(&error));
    match error {
        PlatformError::Unreachable(_) => PlatformError::Unreachable(text),
        PlatformError::Conflict(_) => PlatformError::Conflict(text),
        _ => PlatformError::Failed(text),
    }
}

impl MachineState {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let state: Self = serde_json::from_slice(bytes)
            .map_err(|error| PlatformError::NotFound(format!("this is not the state of a machine: {error}")))?;
        let ids = is_owner(&state.owner) && is_id(&state.run) && is_id(&state.id);
        if state.version != 1 || !ids || !state.disks.iter().all(|disk| is_id(&disk.id)) {
            return Err(PlatformError::NotFound("this is not the state of a machine".into()));
        }
        Ok(state)
    }

    fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| PlatformError::Failed(error.to_string()))
    }

    fn ready(&self, note: impl Into<String>) -> Result<MachineStep> {
        Ok(MachineStep { state: self.to_bytes()?, status: MachineStatus::Ready(Done { note: note.into() }) })
    }

    fn folder(&self, settings: &Settings) -> Result<String> {
        Ok(format!("{}/machine-{}", run_folder(settings, &self.owner, &self.run)?, self.id))
    }

    fn disk(&self, disk: &MachineDisk) -> DiskState {
        DiskState::new(&self.owner, &self.run, &disk.id, disk.bytes)
    }

    fn qmp(&self, settings: &Settings) -> Result<String> {
        settings.socket_path(&format!("{}.qmp", self.id))
    }

    fn agent(&self, settings: &Settings) -> Result<String> {
        settings.socket_path(&format!("{}.agent", self.id))
    }

    fn presence<'h>(&self, host: &'h dyn Host, settings: &Settings) -> Result<Presence<'h>> {
        let mut client = match Client::knock(host, &self.name, &self.qmp(settings)?).map_err(may_still_run)? {
            Door::Open(client) => client,
            Door::Deserted(text) => return Ok(Presence::Absent(text)),
        };
        let answer = client.run("query-uuid", json!({})).map_err(may_still_run)?;
        let (found, expected) = (text(&answer, "UUID"), uuid(&self.id));
        if found != expected {
            return Err(PlatformError::Conflict(format!(
                "the machine behind {} has the UUID {found}, not {expected}: is `{{uuid:uuid}}` in the template?",
                self.qmp(settings)?
            )));
        }
        Ok(Presence::There(client))
    }
}

/// A state with which a machine is removed of which only its folder is known.
pub(crate) fn bare_state(owner: &str, run: &str, id: &str, disks: Vec<String>) -> Result<Vec<u8>> {
    let disk = |id: String| MachineDisk { id, bytes: 0, device: String::new() };
    MachineState {
        version: 1,
        owner: owner.into(),
        run: run.into(),
        id: id.into(),
        name: id.into(),
        memory_mib: 0,
        cpus: 0,
        uefi: false,
        disks: disks.into_iter().map(disk).collect(),
        interfaces: Vec::new(),
        stop_polls: None,
    }
    .to_bytes()
}

/// `target-machines.check-machine`.
///
/// # Errors
/// As in the interface.
pub fn check(host: &dyn Host, machine: &Machine) -> Result<FindingPage> {
    let settings = Settings::load(host)?;
    let mut findings = Vec::new();
    let mut add = |blocking: bool, problem: String| findings.push(Finding { blocking, problem });
    for needed in
        [settings.machine_folder().map(drop), settings.socket_path(&format!("{}.agent", "0".repeat(32))).map(drop)]
    {
        if let Err(error) = needed {
            add(true, platform_sentence(&error).to_owned());
        }
    }
    let name = &machine.name;
    if machine.cpus == 0 || machine.memory_bytes < MEBIBYTE {
        add(true, format!("the size of machine {name} is not known: discover it while it answers"));
    }
    if machine.disks.is_empty() {
        add(true, format!("machine {name} has no disk to start from"));
    }
    if machine.firmware == Firmware::Uefi {
        add(
            false,
            format!(
                "machine {name} has UEFI firmware: it is started by the template `start-machine-uefi`, and without its UEFI variables"
            ),
        );
    }
    for interface in machine.network_interfaces.iter().filter(|interface| interface.mac.is_none()) {
        add(false, format!("network interface {} of machine {name} gets a new address", interface.id));
    }
    Ok(FindingPage { findings, next: None })
}

/// `target-machines.define-machine`.
///
/// # Errors
/// As in the interface.
pub fn define(host: &dyn Host, request: &MachineRequest) -> Result<MachineStep> {
    let MachineRequest { id, owner, run, machine, disks } = request;
    if !is_id(id) || !is_id(run) || !is_owner(owner) || disks.len() != machine.disks.len() {
        return Err(PlatformError::Failed("the host asked for a machine that makes no sense".into()));
    }
    let settings = Settings::load(host)?;
    let mut of_machine = Vec::with_capacity(disks.len());
    for (index, (disk, bytes)) in machine.disks.iter().zip(disks).enumerate() {
        let state = DiskState::parse(bytes)?;
        if state.owner != *owner || state.run != *run {
            return Err(PlatformError::Conflict(format!("disk {} was made for another run", disk.id)));
        }
        let device = device_id(&disk.id, "disk", index);
        // The firmware tries the first disk: the one that the machine boots from goes first.
        let position = if disk.boot { 0 } else { of_machine.len() };
        of_machine.insert(position, MachineDisk { id: state.id, bytes: state.bytes, device });
    }
    let interfaces = machine.network_interfaces.iter().enumerate().map(|(index, interface)| MachineInterface {
        device: device_id(&interface.id, "net", index),
        mac: interface.mac.clone().unwrap_or_else(|| made_up_mac(id, index)),
    });
    let state = MachineState {
        version: 1,
        owner: owner.clone(),
        run: run.clone(),
        id: id.clone(),
        name: slot_name(&machine.name),
        memory_mib: machine.memory_bytes.div_ceil(MEBIBYTE),
        cpus: machine.cpus.max(1),
        uefi: machine.firmware == Firmware::Uefi,
        disks: of_machine,
        interfaces: interfaces.collect(),
        stop_polls: None,
    };
    state.qmp(&settings)?;
    let folder = state.folder(&settings)?;
    for disk in &state.disks {
        let path = state.disk(disk).path(&settings)?;
        host.inspect_file(&path).map_err(|error| while_doing(format!("looking at {path}"), &error))?;
        match host.create_file(&format!("{folder}/{}.disk", disk.id), MARKER_BYTES) {
            Ok(_) | Err(HostError::Conflict(_)) => {}
            Err(error) => return Err(while_doing(format!("writing in {folder}"), &error)),
        }
    }
    state.ready("")
}

fn slot(name: &str, value: impl Into<String>) -> Slot {
    Slot { name: name.into(), value: value.into() }
}

/// `target-machines.start-machine`.
///
/// # Errors
/// As in the interface.
pub fn start(host: &dyn Host, state: &[u8]) -> Result<MachineStep> {
    let settings = Settings::load(host)?;
    let mut state = MachineState::parse(state)?;
    state.stop_polls = None;
    if let Presence::There(_) = state.presence(host, &settings)? {
        return state.ready("it was running already");
    }
    let slots = [
        slot("name", state.name.clone()),
        slot("uuid", uuid(&state.id)),
        slot("memory-mib", state.memory_mib.to_string()),
        slot("cpus", state.cpus.to_string()),
        slot("qmp", state.qmp(&settings)?),
        slot("agent", state.agent(&settings)?),
        slot("serial-log", format!("{}/serial.log", state.folder(&settings)?)),
    ];
    let mut disks = Vec::with_capacity(state.disks.len());
    for disk in &state.disks {
        disks.push(vec![slot("path", state.disk(disk).path(&settings)?), slot("id", disk.device.clone())]);
    }
    let interfaces =
        state.interfaces.iter().map(|found| vec![slot("mac", found.mac.clone()), slot("id", found.device.clone())]);
    let repetitions = [
        Repetition { name: "disks".into(), items: disks },
        Repetition { name: "network-interfaces".into(), items: interfaces.collect() },
    ];
    let template = if state.uefi { "start-machine-uefi" } else { "start-machine" };
    host.progress(&format!("starting machine {}", state.name), 0, None);
    let completion = host.run_program(template, &slots, &repetitions).map_err(|error| match error {
        HostError::NotFound(text) | HostError::Invalid(text) => {
            PlatformError::Settings(format!("the program template `{template}`: {text}"))
        }
        error => while_doing(format!("starting machine {}", state.name), &error),
    })?;
    if completion.exit_code != 0 {
        let errors: String = completion.errors.trim().chars().take(ERROR_CHARACTERS_MAX).collect();
        let text = format!("machine {} did not start (exit code {}): {errors}", state.name, completion.exit_code);
        return Err(PlatformError::Failed(text));
    }
    match state.presence(host, &settings)? {
        Presence::There(_) => state.ready(""),
        Presence::Absent(text) => Err(PlatformError::Failed(format!(
            "the template `{template}` ended well, but the machine is not there: {text}: does it have `-daemonize` and `-qmp unix:{{qmp:path}},server=on,wait=off`?"
        ))),
    }
}

/// `target-machines.continue-machine`.
///
/// # Errors
/// As in the interface.
pub fn go_on(host: &dyn Host, state: &[u8]) -> Result<MachineStep> {
    match MachineState::parse(state)? {
        MachineState { stop_polls: Some(_), .. } => stop(host, state, Manner::Graceful),
        state => state.ready(""),
    }
}

/// `target-machines.check-readiness`.
///
/// # Errors
/// As in the interface.
pub fn check_readiness(host: &dyn Host, state: &[u8]) -> Result<Readiness> {
    let settings = Settings::load(host)?;
    let state = MachineState::parse(state)?;
    let mut client = match state.presence(host, &settings)? {
        Presence::There(client) => client,
        Presence::Absent(evidence) => return Ok(Readiness { level: Level::Off, evidence }),
    };
    let status = client.run("query-status", json!({}))?;
    let status = text(&status, "status");
    if status != "running" {
        return Ok(Readiness { level: Level::Off, evidence: format!("QEMU answered `query-status` with `{status}`") });
    }
    drop(client);
    let ping = Agent::connect(host, &state.agent(&settings)?, AGENT_TIMEOUT_MILLISECONDS)
        .and_then(|mut agent| agent.execute("guest-ping"));
    Ok(match ping {
        Ok(_) => Readiness { level: Level::Ready, evidence: "the guest agent answered `guest-ping`".into() },
        Err(text) => Readiness {
            level: Level::Running,
            evidence: format!("QEMU answered `query-status` with `running`; {text}"),
        },
    })
}

/// `target-machines.stop-machine`.
///
/// # Errors
/// As in the interface.
pub fn stop(host: &dyn Host, state: &[u8], manner: Manner) -> Result<MachineStep> {
    let settings = Settings::load(host)?;
    let mut state = MachineState::parse(state)?;
    let mut client = match state.presence(host, &settings)? {
        Presence::There(client) => client,
        Presence::Absent(_) => {
            state.stop_polls = None;
            return state.ready("it was not running");
        }
    };
    if manner == Manner::Graceful {
        let polls = state.stop_polls.unwrap_or(0);
        if let Progress::Waiting(pending) = power::shut_down(&mut client, polls)? {
            state.stop_polls = Some(polls.saturating_add(1));
            return Ok(MachineStep { state: state.to_bytes()?, status: MachineStatus::Pending(pending) });
        }
    }
    let proof = power::quit(&mut client)?;
    state.stop_polls = None;
    state.ready(proof)
}

/// `target-machines.remove-machine`.
///
/// # Errors
/// As in the interface.
pub fn remove(host: &dyn Host, state: &[u8]) -> Result<Done> {
    let settings = Settings::load(host)?;
    let state = MachineState::parse(state)?;
    if let Presence::There(mut client) = state.presence(host, &settings)? {
        power::quit(&mut client)?;
    }
    let folder = state.folder(&settings)?;
    let mut paths = vec![state.qmp(&settings)?, state.agent(&settings)?];
    for disk in &state.disks {
        paths.push(state.disk(disk).path(&settings)?);
    }
    // The markers go after the disks, so that a half-removed machine still knows them.
    let inside = folder_names(host, &folder)?;
    paths.extend(inside.into_iter().filter(|(_, is_folder)| !is_folder).map(|(name, _)| format!("{folder}/{name}")));
    paths.push(folder);
    for path in &paths {
        host.remove_file(path).map_err(|error| {
            PlatformError::Failed(format!("removing {path} of machine {}: {}", state.name, sentence(&error)))
        })?;
    }
    remove_empty_folders(host, &settings, &state.owner, &state.run)?;
    Ok(Done { note: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_into_a_slot_fits_it() {
        assert_eq!(uuid("0123456789abcdef0123456789abcdef"), "01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!(made_up_mac("0123456789abcdef0123456789abcdef", 1), "52:54:00:cd:ef:01");
        for (name, expected) in [("orders", "orders"), ("-x", "m-x"), ("a b,c", "a-b-c"), ("", "m")] {
            assert_eq!(slot_name(name), expected);
        }
        for (id, expected) in [("vd0", "vd0"), ("unattached/device[23]", "disk3"), ("0a", "disk3"), ("a,b=c", "disk3")]
        {
            assert_eq!(device_id(id, "disk", 3), expected);
        }
    }
}
