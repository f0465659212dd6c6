//! Captures: frozen views of all disks of a group, read over NBD, and what changed since the last one.
//!
//! # How a view is made
//! In front of each disk a `copy-before-write` filter is put, which saves what the guest is about to overwrite into a
//! *fleece*; a `snapshot-access` node shows the disk as it was at the instant. The filter has `on-cbw-error =
//! break-snapshot` and a time limit, so that a fleece that is full or slow breaks the view, and the guest's write goes on.
//! The filter is not restricted to what changed: the whole frozen view stays readable, for a comparison where tracking
//! was lost and for independent verification.
//!
//! The fleece is a qcow2 image on a `raw` node whose `size` is the operator's limit, over a sparse file of that size, all
//! made by QEMU itself (`blockdev-create`), so that no program is needed at the source. Past the limit QEMU's write fails
//! with ENOSPC, whatever room the file system has.
//!
//! # Order
//! Slow things come before the instant: recording bitmap, fleece, filter, NBD server. Then, if asked for, the guests'
//! file systems are frozen, the instant is taken (`instant.rs`), and they are thawed. What may take its time comes after:
//! the frozen copy of the tracking bitmap, the view, its export. An error anywhere undoes everything.
//!
//! # Change tracking
//! Three bitmaps a disk. The *token's* bitmap of the last committed point records until the commit. The *recording*
//! bitmap of this capture records from just before its instant; its name is this capture's token. The *frozen* bitmap is
//! a copy of the token's, which the export shows. A commit drops the token's, an abandonment the recording one; nothing
//! is merged, so that there is no moment at which a crash loses a write. A bitmap's name holds the capture's id, which is
//! never used again: that it exists, records and is consistent means that it has seen every write since its instant.
//!
//! # Machines that are off
//! They are captured beside the others, from their images (`off.rs`), as far as the operator has named those. Nobody has
//! to be held for them.
//!
//! # A host that dies
//! Nothing here is remembered by the adapter: names say whose everything is (`names.rs`), and the next capture of the
//! owner, `end_capture` or `release_owned` removes it (`cleanup.rs`).

use std::collections::BTreeSet;

use serde_json::json;

use crate::{
    agent::Agent,
    bindings::exports::farshore::platform::source::{
        Allocation, CaptureEnd, CaptureReport, CaptureRequest, CaptureStatus, CaptureStep, CapturedDisk,
        CapturedDiskPage, Changes, Consistency, Outcome,
    },
    capture_state::{State, StateDisk, StateMachine},
    cleanup,
    error::{PlatformError, Result, platform_sentence, while_doing},
    graph::{Graph, Node},
    instant,
    names::{Names, NodeName, Role, Scope},
    nbd_probe, off,
    ports::{Host, Level, Place},
    qmp::{Client, Door, QmpError},
    settings::{MachineSettings, Settings},
    storage_daemon,
    tracking::{self, GRANULARITY_BYTES, Token},
};

/// How long a guest's write may wait for the fleece before the view is given up.
const COPY_TIMEOUT_SECONDS: u64 = 5;
const FREEZE_TIMEOUT_MILLISECONDS: u32 = 10_000;
/// More would not fit into the state of a capture.
const DISKS_MAX: usize = 256;
const PAGE_ITEMS: usize = 100;
const NANOSECONDS_PER_MICROSECOND: u64 = 1_000;
/// `copy-before-write` gives its snapshot up instead of the guest's write since this version.
const QEMU_VERSION_MIN: (u64, u64) = (7, 1);
/// Fixed parts of a qcow2 image, so that the smallest limit still holds something.
const FLEECE_BYTES_MIN: u64 = 4 << 20;

/// A disk on its way into a capture.
struct Planned {
    disk: String,
    device: String,
    base: Node,
    /// The bitmap of the request's token.
    replaces: Option<String>,
    /// The same, if it has seen every write, or why not.
    follows: std::result::Result<String, String>,
}

/// A machine on its way into a capture.
struct Member<'h> {
    settings: MachineSettings,
    client: Client<'h>,
    disks: Vec<Planned>,
}

/// `source.begin-capture`.
///
/// # Errors
/// As in the interface.
pub fn begin(host: &dyn Host, request: &CaptureRequest) -> Result<CaptureStep> {
    check_request(request)?;
    let settings = Settings::load(host)?;
    let names = Names::new(&request.owner, &request.id);
    let (mut members, mut off) = (Vec::with_capacity(request.machines.len()), Vec::new());
    for name in &request.machines {
        let machine = settings.machine(name)?;
        let client = match Client::knock(host, name, &machine.qmp)? {
            Door::Open(client) => client,
            Door::Deserted(_) if !machine.images.is_empty() => {
                off.push(machine);
                continue;
            }
            Door::Deserted(text) => return Err(PlatformError::Unreachable(text)),
        };
        if client.version() < QEMU_VERSION_MIN {
            let (major, minor) = client.version();
            let text = format!("machine {name} runs on QEMU {major}.{minor}; captures need 7.1 or newer");
            return Err(PlatformError::Unsupported(text));
        }
        members.push(Member { settings: machine.clone(), client, disks: Vec::new() });
    }
    for member in &mut members {
        clear_leftovers(host, &settings, request, member)?;
    }
    for machine in &off {
        storage_daemon::make_room(host, &settings, &machine.name, &request.owner)?;
    }
    cleanup::remove_fleece_files(host, &settings, Scope { owner: &request.owner, capture: None })?;
    for member in &mut members {
        member.plan(request)?;
    }
    let off: Vec<off::Member<'_>> =
        off.into_iter().map(|machine| off::Member::plan(host, request, machine)).collect::<Result<_>>()?;
    let disks = members.iter().map(|member| member.disks.len()).chain(off.iter().map(off::Member::disk_count));
    let disks: usize = disks.sum();
    if disks > DISKS_MAX {
        return Err(PlatformError::Unsupported(format!(
            "the group has {disks} disks; {DISKS_MAX} can be captured together"
        )));
    }
    let off_names: Vec<&str> = off.iter().map(off::Member::name).collect();
    let made = make(host, &settings, request, &names, &mut members, &off).and_then(|(report, off)| {
        let live = members.iter().map(Member::to_state);
        let state = State::new(&request.owner, &request.id, live.chain(off).collect());
        Ok(CaptureStep { state: state.to_bytes()?, status: CaptureStatus::Ready(report) })
    });
    if made.is_err() {
        undo(host, &settings, &names, members, &off_names);
    }
    made
}

fn check_request(request: &CaptureRequest) -> Result<()> {
    let wrong = |what: &str| Err(PlatformError::Failed(format!("the host asked for a capture with {what}")));
    let owner_character = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !(1..=32).contains(&request.owner.len()) || !request.owner.bytes().all(owner_character) {
        return wrong("an owner that is not one");
    }
    if request.id.len() != 32 || !request.id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return wrong("an id that is not one");
    }
    let distinct: BTreeSet<&String> = request.machines.iter().collect();
    if request.machines.is_empty() || distinct.len() != request.machines.len() {
        return wrong("no machine, or with one twice");
    }
    Ok(())
}

/// Removes what crashed cycles of this owner left on a machine, and all of its bitmaps but those of the request.
fn clear_leftovers(
    host: &dyn Host,
    settings: &Settings,
    request: &CaptureRequest,
    member: &mut Member<'_>,
) -> Result<()> {
    let scope = Scope { owner: &request.owner, capture: None };
    if !member.settings.images.is_empty() {
        // It was off then. What else may be there does not stand in the way of a machine that runs.
        let ended = storage_daemon::end_if_there(host, settings, &member.settings.name, scope);
        ended.unwrap_or_else(|error| log_leftover(host, &error));
    }
    if cleanup::remove_nodes(host, &member.settings, &mut member.client, scope)? {
        host.log(Level::Info, &format!("machine {}: removed what an earlier capture left", member.settings.name));
    }
    let machine = &member.settings.name;
    let tracked = request.tracked.iter().filter(|entry| entry.machine == *machine);
    let bitmaps: BTreeSet<&str> = tracked.filter_map(|entry| Token::parse(&entry.token).bitmap).collect();
    cleanup::remove_bitmaps(&mut member.client, |name, bitmap| scope.has_bitmap(bitmap) && !bitmaps.contains(name))
}

impl Member<'_> {
    /// Finds out what is to be captured, and whether the request's tokens still hold.
    fn plan(&mut self, request: &CaptureRequest) -> Result<()> {
        let graph = Graph::load(&mut self.client)?;
        for device in graph.protected(&self.settings)? {
            if NodeName::parse(&device.root).is_some() {
                return Err(PlatformError::Conflict(format!(
                    "disk {} of machine {} is part of a capture of another group or vault: {}",
                    device.disk, self.settings.name, device.root
                )));
            }
            let token =
                request.tracked.iter().find(|entry| entry.machine == self.settings.name && entry.disk == device.disk);
            self.disks.push(Planned {
                disk: device.disk.clone(),
                device: device.path.clone(),
                base: device.base.clone(),
                replaces: token.and_then(|entry| Token::parse(&entry.token).bitmap).map(str::to_owned),
                follows: tracking::follow(&request.owner, &device.disk, &device.base, token),
            });
        }
        Ok(())
    }

    fn run(&mut self, command: &str, arguments: serde_json::Value) -> Result<()> {
        self.client.run(command, arguments).map(drop)
    }

    /// What later calls must know of it.
    fn to_state(&self) -> StateMachine {
        let disk = |planned: &Planned| StateDisk {
            disk: planned.disk.clone(),
            bytes: planned.base.size_bytes,
            replaces: planned.replaces.clone(),
            unknown: planned.follows.clone().err().unwrap_or_default(),
            image: None,
            kept: None,
        };
        StateMachine { name: self.settings.name.clone(), off: false, disks: self.disks.iter().map(disk).collect() }
    }
}

fn make(
    host: &dyn Host,
    settings: &Settings,
    request: &CaptureRequest,
    names: &Names,
    members: &mut [Member<'_>],
    off: &[off::Member<'_>],
) -> Result<(CaptureReport, Vec<StateMachine>)> {
    let off = off::serve(host, settings, names, off)?;
    for member in members.iter_mut() {
        start_server(settings, &request.owner, member)?;
        for index in 0..member.disks.len() {
            prepare_disk(host, settings, names, member, index)?;
        }
    }
    let freeze_began = now(host)?;
    let application = request.consistency == Consistency::Application;
    if application {
        freeze(host, names, members)?;
    }
    let ready = members.iter_mut().map(|member| instant::Ready {
        devices: member.disks.iter().map(|disk| disk.device.clone()).collect(),
        client: &mut member.client,
    });
    let mut ready: Vec<_> = ready.collect();
    let mut held = instant::take(host, names, &mut ready, request.stall_limit_milliseconds)?;
    if application {
        thaw(host, names, members)?;
    }
    if application && !members.is_empty() {
        held.microseconds = now(host)?.saturating_sub(freeze_began) / NANOSECONDS_PER_MICROSECOND;
    }
    for member in members.iter_mut() {
        for index in 0..member.disks.len() {
            show_disk(names, member, index)?;
        }
    }
    let report = CaptureReport {
        instant: held.instant,
        consistency: request.consistency,
        held_microseconds: held.microseconds,
        note: note(held.note, application, &off),
    };
    Ok((report, off))
}

/// What there is to say beside the instant: of machines that are off, that nobody could ask their guests.
fn note(instant: String, application: bool, off: &[StateMachine]) -> String {
    let off = off.iter().filter(|_| application);
    let off = off.map(|machine| format!("machine {} is off: its disks are as its QEMU left them", machine.name));
    let all = Some(instant).filter(|text| !text.is_empty()).into_iter().chain(off);
    shortened(all.collect::<Vec<_>>().join("; "))
}

fn shortened(mut note: String) -> String {
    note.truncate(note.floor_char_boundary(1_000));
    note
}

fn now(host: &dyn Host) -> Result<u64> {
    host.monotonic_nanoseconds().map_err(|error| while_doing("reading the clock", &error))
}

/// The socket of a machine's NBD server: a process has one server, so that the machine's name is enough.
fn server_socket(settings: &Settings, machine: &str) -> Result<String> {
    settings.socket_path(&format!("{machine}.nbd"))
}

fn start_server(settings: &Settings, owner: &str, member: &mut Member<'_>) -> Result<()> {
    let socket = server_socket(settings, &member.settings.name)?;
    let arguments = json!({ "addr": { "type": "unix", "data": { "path": socket } } });
    match member.client.execute("nbd-server-start", arguments.clone()) {
        Ok(_) => return Ok(()),
        Err(QmpError::Refused { description, .. }) if description.contains("already running") => {}
        Err(error) => return Err(member.client.error(&error)),
    }
    let scope = Scope { owner, capture: None };
    let foreign = |id: &str| NodeName::parse(id).is_none_or(|node| !scope.has_node(&node));
    let exports = cleanup::exports(&mut member.client)?;
    let foreign: Vec<String> =
        exports.iter().filter(|(id, _)| foreign(id)).map(|(id, node)| format!("{id} (node {node})")).collect();
    if !foreign.is_empty() {
        return Err(PlatformError::Conflict(format!(
            "machine {}: its NBD server is in use by something else, and QEMU has only one: {}",
            member.settings.name,
            foreign.join(", ")
        )));
    }
    member.run("nbd-server-stop", json!({}))?;
    member.run("nbd-server-start", arguments)
}

/// All that can be done before the instant.
fn prepare_disk(
    host: &dyn Host,
    settings: &Settings,
    names: &Names,
    member: &mut Member<'_>,
    index: usize,
) -> Result<()> {
    let Some(disk) = member.disks.get(index) else { return Ok(()) };
    let (base, device, several) = (disk.base.clone(), disk.device.clone(), member.disks.len() > 1);
    // First, because it tells whoever cleans up which node the disk's own is.
    let bitmap = json!({ "node": base.name, "name": names.recording(index), "granularity": GRANULARITY_BYTES, "persistent": base.keeps_bitmaps });
    member.run("block-dirty-bitmap-add", bitmap)?;
    let file = format!("{}/{}", settings.fleece_folder()?, names.fleece_file(&member.settings.name, index));
    let limit = settings.fleece_limit_bytes().max(FLEECE_BYTES_MIN);
    let (file_node, limit_node) = (names.node(index, Role::File), names.node(index, Role::Limit));
    let fleece_node = names.node(index, Role::Fleece);
    create_image(host, names, member, index, json!({ "driver": "file", "filename": file, "size": limit }))?;
    // Whether the fleece survives a power failure is of no interest.
    let cache = json!({ "no-flush": true });
    member
        .run("blockdev-add", json!({ "driver": "file", "node-name": file_node, "filename": file, "cache": cache }))?;
    member
        .run("blockdev-add", json!({ "driver": "raw", "node-name": limit_node, "file": file_node, "size": limit }))?;
    create_image(
        host,
        names,
        member,
        index,
        json!({ "driver": "qcow2", "file": limit_node, "size": base.size_bytes }),
    )?;
    member.run("blockdev-add", json!({ "driver": "qcow2", "node-name": fleece_node, "file": limit_node }))?;
    if several {
        let switch = names.node(index, Role::Switch);
        member.run("blockdev-add", json!({ "driver": "raw", "node-name": switch, "file": base.name }))?;
        cleanup::set_drive(&mut member.client, &device, &switch).map_err(|error| member.client.error(&error))?;
    }
    let filter = json!({
        "driver": "copy-before-write", "node-name": names.node(index, Role::Filter), "file": base.name,
        "target": fleece_node, "on-cbw-error": "break-snapshot", "cbw-timeout": COPY_TIMEOUT_SECONDS,
    });
    member.run("blockdev-add", filter)
}

fn create_image(
    host: &dyn Host,
    names: &Names,
    member: &mut Member<'_>,
    index: usize,
    options: serde_json::Value,
) -> Result<()> {
    let job = names.node(index, Role::Job);
    member.run("blockdev-create", json!({ "job-id": job, "options": options }))?;
    cleanup::finish_job(host, &mut member.client, &job).map_err(|error| {
        let text = platform_sentence(&error);
        PlatformError::Failed(format!("{text}: QEMU must be able to write in the fleece-folder"))
    })
}

fn freeze(host: &dyn Host, names: &Names, members: &mut [Member<'_>]) -> Result<()> {
    for member in members {
        let machine = member.settings.name.clone();
        let failed = |text: String| PlatformError::Failed(format!("machine {machine}: {text}"));
        let none = || failed("an application-consistent capture needs `agent` in the machine's settings".into());
        let socket = member.settings.agent.clone().ok_or_else(none)?;
        let marker = names.node(0, Role::FreezeMarker);
        member.run("blockdev-add", json!({ "driver": "null-co", "node-name": marker, "size": 512 }))?;
        let mut agent = Agent::connect(host, &socket, FREEZE_TIMEOUT_MILLISECONDS).map_err(failed)?;
        let frozen = agent.execute("guest-fsfreeze-freeze").map_err(failed)?;
        if frozen.as_u64().unwrap_or(0) == 0 {
            return Err(failed("the guest agent froze no file system".into()));
        }
    }
    Ok(())
}

fn thaw(host: &dyn Host, names: &Names, members: &mut [Member<'_>]) -> Result<()> {
    let mut outcome = Ok(());
    for member in members {
        let socket = member.settings.agent.clone().unwrap_or_default();
        match cleanup::thaw(host, &socket) {
            Ok(()) => member.run("blockdev-del", json!({ "node-name": names.node(0, Role::FreezeMarker) }))?,
            Err(text) => {
                let machine = &member.settings.name;
                let advice = "its file systems may still be frozen: run `guest-fsfreeze-thaw` on its agent's socket";
                outcome = Err(PlatformError::Failed(format!("machine {machine}: {text}: {advice}")));
            }
        }
    }
    outcome
}

/// What follows the instant: the frozen copy of what changed, the view, its export.
fn show_disk(names: &Names, member: &mut Member<'_>, index: usize) -> Result<()> {
    let Some(disk) = member.disks.get(index) else { return Ok(()) };
    let (base, follows) = (disk.base.name.clone(), disk.follows.clone().ok());
    let mut bitmaps = Vec::new();
    if let Some(token) = follows {
        let frozen = names.frozen(index);
        let actions = json!([
            { "type": "block-dirty-bitmap-add", "data": { "node": base, "name": frozen, "granularity": GRANULARITY_BYTES, "disabled": true } },
            { "type": "block-dirty-bitmap-merge", "data": { "node": base, "target": frozen, "bitmaps": [token] } },
        ]);
        member.run("transaction", json!({ "actions": actions }))?;
        bitmaps.push(json!({ "node": base, "name": frozen }));
    }
    let (view, filter) = (names.node(index, Role::View), names.node(index, Role::Filter));
    member.run("blockdev-add", json!({ "driver": "snapshot-access", "node-name": view, "file": filter }))?;
    let export = names.node(index, Role::Export);
    let arguments = json!({ "id": export, "type": "nbd", "node-name": view, "name": export, "writable": false, "bitmaps": bitmaps });
    member.run("block-export-add", arguments)
}

fn log_leftover(host: &dyn Host, error: &PlatformError) {
    let text = platform_sentence(error);
    host.log(Level::Warn, &format!("a failed capture could not be removed yet: {text}"));
}

/// Removes a capture that failed on its way, over fresh connections: the old ones may be what failed.
fn undo(host: &dyn Host, settings: &Settings, names: &Names, members: Vec<Member<'_>>, off: &[&str]) {
    let scope = Scope { owner: &names.owner, capture: Some(&names.capture) };
    for machine in off {
        let ended = storage_daemon::end(host, settings, machine, scope);
        ended.unwrap_or_else(|error| log_leftover(host, &error));
    }
    for Member { settings: machine, client, .. } in members {
        drop(client);
        let undone = Client::connect(host, &machine.name, &machine.qmp).and_then(|mut client| {
            cleanup::remove_nodes(host, &machine, &mut client, scope)?;
            cleanup::remove_bitmaps(&mut client, |_, bitmap| scope.has_bitmap(bitmap))
        });
        undone.unwrap_or_else(|error| log_leftover(host, &error));
    }
    if let Err(error) = cleanup::remove_fleece_files(host, settings, scope) {
        host.log(Level::Warn, platform_sentence(&error));
    }
}

/// `source.list-disks`.
///
/// # Errors
/// As in the interface.
pub fn list_disks(state: &[u8], cursor: Option<&str>) -> Result<CapturedDiskPage> {
    let state = State::parse(state)?;
    let names = state.names();
    let start: usize = cursor.map_or(Ok(0), str::parse).map_err(|_| PlatformError::Failed("a wrong cursor".into()))?;
    let all = state
        .machines
        .iter()
        .flat_map(|machine| machine.disks.iter().enumerate().map(|(index, disk)| (machine.name.clone(), index, disk)));
    let mut disks: Vec<CapturedDisk> = all
        .skip(start)
        .take(PAGE_ITEMS.saturating_add(1))
        .map(|(machine, index, disk)| CapturedDisk {
            machine,
            disk: disk.disk.clone(),
            size_bytes: disk.bytes,
            token: Some(match &disk.image {
                Some(image) => image.token(disk.kept.as_deref()),
                None => names.recording(index),
            }),
            changes: if disk.unknown.is_empty() {
                Changes::Context(format!("qemu:dirty-bitmap:{}", names.frozen(index)))
            } else {
                Changes::Unknown(disk.unknown.clone())
            },
            allocation: Allocation::Context("base:allocation".into()),
        })
        .collect();
    let more = disks.len() > PAGE_ITEMS;
    disks.truncate(PAGE_ITEMS);
    Ok(CapturedDiskPage { disks, next: more.then(|| start.saturating_add(PAGE_ITEMS).to_string()) })
}

/// `source.open-disk`: where the view is.
///
/// # Errors
/// As in the interface.
pub fn open_disk(host: &dyn Host, state: &[u8], machine: &str, disk: &str) -> Result<Place> {
    let state = State::parse(state)?;
    let settings = Settings::load(host)?;
    let found = state.machines.iter().find(|known| known.name == machine);
    let found = found.and_then(|found| Some((found, found.disks.iter().position(|known| known.disk == disk)?)));
    let missing = || PlatformError::NotFound(format!("the capture has no disk {disk} of machine {machine}"));
    let (found, index) = found.ok_or_else(missing)?;
    let socket =
        if found.off { storage_daemon::disk_socket(&settings, machine) } else { server_socket(&settings, machine) };
    Ok(Place::Nbd { socket: socket?, name: state.names().node(index, Role::Export) })
}

/// `source.verify-capture`.
///
/// # Errors
/// As in the interface.
pub fn verify(host: &dyn Host, state: &[u8]) -> Result<CaptureEnd> {
    let state = State::parse(state)?;
    let (settings, names) = (Settings::load(host)?, state.names());
    for machine in &state.machines {
        if machine.off {
            off::verify(host, &settings, &names, machine)?;
            continue;
        }
        let socket = server_socket(&settings, &machine.name)?;
        for (index, disk) in machine.disks.iter().enumerate() {
            nbd_probe::check(host, &socket, &names.node(index, Role::Export)).map_err(|error| match error {
                PlatformError::CaptureBroken(text) => PlatformError::CaptureBroken(format!(
                    "the frozen view of disk {} of machine {} broke: {text}: is the fleece-folder full, or fleece-limit-mib ({} MiB) too small for what the guest overwrites?",
                    disk.disk,
                    machine.name,
                    settings.fleece_limit_bytes() >> 20
                )),
                other => other,
            })?;
        }
    }
    Ok(CaptureEnd { note: String::new() })
}

/// `source.end-capture`. Without an outcome, all tracking stays as it is.
///
/// # Errors
/// As in the interface.
pub fn end(host: &dyn Host, state: &[u8], outcome: Option<Outcome>) -> Result<CaptureEnd> {
    let state = State::parse(state)?;
    let settings = Settings::load(host)?;
    let scope = state.scope();
    let mut notes = Vec::new();
    for machine in &state.machines {
        if machine.off {
            // What is in its QEMU, if it has one again, is not of this capture.
            storage_daemon::end(host, &settings, &machine.name, scope)?;
            continue;
        }
        let Ok(known) = settings.machine(&machine.name) else {
            notes.push(format!("machine {} is no longer in the site's settings", machine.name));
            continue;
        };
        let mut client = match Client::knock(host, &machine.name, &known.qmp)? {
            Door::Open(client) => client,
            // Without QEMU there are no nodes, and bitmaps that it saved are dropped by the next capture.
            Door::Deserted(text) => {
                notes.push(text);
                continue;
            }
        };
        cleanup::remove_nodes(host, known, &mut client, scope)?;
        let replaced: BTreeSet<&String> = machine.disks.iter().filter_map(|disk| disk.replaces.as_ref()).collect();
        cleanup::remove_bitmaps(&mut client, |name, bitmap| match outcome {
            Some(Outcome::Committed) => {
                (scope.has_bitmap(bitmap) && bitmap.frozen)
                    || (bitmap.owner == state.owner && replaced.iter().any(|token| *token == name))
            }
            Some(Outcome::Abandoned) => scope.has_bitmap(bitmap),
            None => scope.has_bitmap(bitmap) && bitmap.frozen,
        })?;
    }
    cleanup::remove_fleece_files(host, &settings, scope)?;
    Ok(CaptureEnd { note: shortened(notes.join("; ")) })
}
