//! Taking away what a capture put into QEMU, however far it came.
//!
//! The order follows from what uses what: the guest is let go first, then exports, views, the filters in front of the
//! disks, and the fleece below them; bitmaps last, because they say which node a disk's own is. Every step looks at what
//! is there and can be repeated, so that the same function ends a capture, undoes one that failed, and cleans up after a
//! host that was killed anywhere in between, and after a QEMU that was restarted and has forgotten everything but bitmaps.

use serde_json::{Value, json};

use crate::{
    agent::Agent,
    error::{PlatformError, Result, while_doing},
    graph::Graph,
    names::{BitmapName, NodeName, Role, Scope},
    ports::{Host, HostError, Level, items, text},
    qmp::{Client, QmpError},
    settings::{MachineSettings, Settings},
};

/// How often something that ends by itself is looked at.
const POLLS_MAX: usize = 2_000;
const POLL_MILLISECONDS: u32 = 5;
const THAW_TIMEOUT_MILLISECONDS: u32 = 3_000;
const THAW_ATTEMPTS: usize = 2;
const FOLDER_PAGES_MAX: usize = 1_000;

/// Lets go of a guest whose file systems are at rest.
///
/// # Errors
/// A sentence when the agent does not say that it did: the guest may still be at rest.
pub fn thaw(host: &dyn Host, socket: &str) -> std::result::Result<(), String> {
    let mut outcome = Ok(());
    for _ in 0..THAW_ATTEMPTS {
        let thawed = Agent::connect(host, socket, THAW_TIMEOUT_MILLISECONDS)
            .and_then(|mut agent| agent.execute("guest-fsfreeze-thaw"));
        outcome = thawed.map(drop);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Takes away everything in scope but the recording bitmaps and the fleece files. Returns whether there was anything.
///
/// # Errors
/// What stands in the way. What came before it is gone, and the call can be repeated.
pub fn remove_nodes(
    host: &dyn Host,
    machine: &MachineSettings,
    client: &mut Client<'_>,
    scope: Scope<'_>,
) -> Result<bool> {
    let nodes = node_names(client, scope)?;
    let with = |role: Role| -> Vec<String> {
        nodes.iter().filter(|(_, found)| *found == role).map(|(name, _)| name.clone()).collect()
    };
    let (held, frozen) = (with(Role::HoldMarker), with(Role::FreezeMarker));
    if !held.is_empty() {
        let status = client.run("query-status", json!({}))?;
        if text(&status, "status") == "paused" {
            host.log(Level::Warn, &format!("machine {} was left held by a capture: it goes on", machine.name));
            client.run("cont", json!({}))?;
        }
        delete_nodes(client, &held)?;
    }
    if !frozen.is_empty() {
        match machine.agent.as_ref().map_or(Ok(()), |socket| thaw(host, socket)) {
            Ok(()) => delete_nodes(client, &frozen)?,
            // The mark stays, so that it is tried again; what else is left does not wait for a guest that may be gone.
            Err(error) => {
                let text = format!("machine {}: its file systems may still be frozen: {error}", machine.name);
                host.log(Level::Warn, &text);
            }
        }
    }
    let exports = remove_exports(host, client, scope)?;
    dismiss_jobs(host, client, scope)?;
    if exports == 0 && nodes.is_empty() {
        return Ok(false);
    }
    delete_nodes(client, &with(Role::View))?;
    detach(client, scope)?;
    for role in [Role::Switch, Role::Filter, Role::Fleece, Role::Limit, Role::File] {
        delete_nodes(client, &with(role))?;
    }
    stop_idle_server(client)?;
    Ok(true)
}

fn node_names(client: &mut Client<'_>, scope: Scope<'_>) -> Result<Vec<(String, Role)>> {
    let nodes = client.run("query-named-block-nodes", json!({ "flat": true }))?;
    let names = items(&nodes).iter().map(|node| text(node, "node-name"));
    let ours = names.filter_map(|name| {
        let found = NodeName::parse(name).filter(|node| scope.has_node(node))?;
        Some((name.to_owned(), found.role))
    });
    Ok(ours.collect())
}

fn delete_nodes(client: &mut Client<'_>, names: &[String]) -> Result<()> {
    for name in names {
        client.run("blockdev-del", json!({ "node-name": name }))?;
    }
    Ok(())
}

/// The ids of the exports of this process, and the nodes that they show.
pub fn exports(client: &mut Client<'_>) -> Result<Vec<(String, String)>> {
    let exports = client.run("query-block-exports", json!({}))?;
    Ok(items(&exports).iter().map(|item| (text(item, "id").to_owned(), text(item, "node-name").to_owned())).collect())
}

fn remove_exports(host: &dyn Host, client: &mut Client<'_>, scope: Scope<'_>) -> Result<usize> {
    let in_scope = |id: &str| NodeName::parse(id).is_some_and(|node| scope.has_node(&node));
    let mut found = 0_usize;
    for (id, _) in exports(client)?.iter().filter(|(id, _)| in_scope(id)) {
        found = found.saturating_add(1);
        match client.execute("block-export-del", json!({ "id": id, "mode": "hard" })) {
            Ok(_) => {}
            // It is on its way out already.
            Err(QmpError::Refused { description, .. }) if description.contains("shutting down") => {}
            Err(QmpError::Refused { description, .. }) if description.contains("not found") => {}
            Err(error) => return Err(client.error(&error)),
        }
    }
    for _ in 0..POLLS_MAX {
        if found == 0 || !exports(client)?.iter().any(|(id, _)| in_scope(id)) {
            return Ok(found);
        }
        host.sleep(POLL_MILLISECONDS).map_err(|error| while_doing("waiting", &error))?;
    }
    Err(PlatformError::Failed(format!("machine {}: QEMU does not end the exports of a capture", client.machine())))
}

/// Waits for a job of ours to end and forgets it.
///
/// # Errors
/// How it failed, in QEMU's words.
pub fn finish_job(host: &dyn Host, client: &mut Client<'_>, id: &str) -> Result<()> {
    for _ in 0..POLLS_MAX {
        let jobs = client.run("query-jobs", json!({}))?;
        let Some(job) = items(&jobs).iter().find(|job| text(job, "id") == id) else { return Ok(()) };
        if text(job, "status") == "concluded" {
            let error = job.get("error").and_then(Value::as_str).map(str::to_owned);
            client.run("job-dismiss", json!({ "id": id }))?;
            let named = |error| PlatformError::Failed(format!("machine {}: {error}", client.machine()));
            return error.map_or(Ok(()), |error| Err(named(error)));
        }
        host.sleep(1).map_err(|error| while_doing("waiting for QEMU", &error))?;
    }
    Err(PlatformError::Failed(format!("machine {}: QEMU does not end the job {id}", client.machine())))
}

fn dismiss_jobs(host: &dyn Host, client: &mut Client<'_>, scope: Scope<'_>) -> Result<()> {
    let jobs = client.run("query-jobs", json!({}))?;
    for job in items(&jobs) {
        let id = text(job, "id");
        if NodeName::parse(id).is_some_and(|node| scope.has_node(&node)) {
            // How it ended does not matter any more.
            let _ = finish_job(host, client, id);
        }
    }
    Ok(())
}

/// Gives every device its own disk back. Disks that were switched together go back together.
fn detach(client: &mut Client<'_>, scope: Scope<'_>) -> Result<()> {
    let graph = Graph::load(client)?;
    let in_front =
        |root: &str, role| NodeName::parse(root).is_some_and(|node| scope.has_node(&node) && (role == node.role));
    let (mut switches, mut devices) = (Vec::new(), Vec::new());
    for device in &graph.devices {
        let switched = in_front(&device.root, Role::Switch);
        if !switched && !in_front(&device.root, Role::Filter) {
            continue;
        }
        if device.base.name == device.root {
            return Err(PlatformError::Conflict(format!(
                "machine {}: the bitmap is gone that says which node is below {}: give the device its own node back by hand, with `qom-set {} drive NODE`",
                client.machine(),
                device.root,
                device.path
            )));
        }
        if switched {
            switches.push(json!({ "driver": "raw", "node-name": device.root, "file": device.base.name }));
        }
        devices.push(device);
    }
    if !switches.is_empty() {
        client.run("blockdev-reopen", json!({ "options": switches }))?;
    }
    for device in devices {
        set_drive(client, &device.path, &device.base.name).map_err(|error| client.error(&error))?;
    }
    Ok(())
}

/// Makes a device use another node, without the guest noticing.
///
/// # Errors
/// QEMU's.
pub fn set_drive(client: &mut Client<'_>, path: &str, node: &str) -> std::result::Result<(), QmpError> {
    client.execute("qom-set", json!({ "path": path, "property": "drive", "value": node })).map(drop)
}

fn stop_idle_server(client: &mut Client<'_>) -> Result<()> {
    if exports(client)?.is_empty() {
        match client.execute("nbd-server-stop", json!({})) {
            // None is running.
            Ok(_) | Err(QmpError::Refused { .. }) => {}
            Err(error) => return Err(client.error(&error)),
        }
    }
    Ok(())
}

/// Removes the bitmaps of ours that `unwanted` picks by their names.
///
/// # Errors
/// QEMU's, such as that something uses a bitmap.
pub fn remove_bitmaps(client: &mut Client<'_>, unwanted: impl Fn(&str, &BitmapName<'_>) -> bool) -> Result<()> {
    let nodes = Graph::load(client)?.nodes;
    for node in nodes {
        // Filters show the bitmaps of the node below them; only the disk's own node can give one up.
        if NodeName::parse(&node.name).is_some() {
            continue;
        }
        for bitmap in &node.bitmaps {
            if BitmapName::parse(&bitmap.name).is_some_and(|name| unwanted(&bitmap.name, &name)) {
                client.run("block-dirty-bitmap-remove", json!({ "node": node.name, "name": bitmap.name }))?;
            }
        }
    }
    Ok(())
}

/// Removes the fleece files in scope. QEMU must have let go of them.
///
/// # Errors
/// What the host said.
pub fn remove_fleece_files(host: &dyn Host, settings: &Settings, scope: Scope<'_>) -> Result<()> {
    let folder = settings.fleece_folder()?;
    let names = folder_names(host, folder)?;
    for (name, _) in names.iter().filter(|(name, is_folder)| !is_folder && scope.has_fleece_file(name)) {
        let path = format!("{folder}/{name}");
        host.remove_file(&path).map_err(|error| while_doing(format!("removing {path}"), &error))?;
    }
    Ok(())
}

/// What is in a folder: names, and whether each is a folder. Nothing if there is no such folder.
///
/// # Errors
/// What the host said.
pub fn folder_names(host: &dyn Host, folder: &str) -> Result<Vec<(String, bool)>> {
    let (mut names, mut cursor) = (Vec::new(), None::<String>);
    for _ in 0..FOLDER_PAGES_MAX {
        let page = match host.list_folder(folder, cursor.as_deref()) {
            Ok(page) => page,
            Err(HostError::NotFound(_)) => return Ok(names),
            Err(error) => return Err(while_doing(format!("listing {folder}"), &error)),
        };
        names.extend(page.entries.into_iter().map(|entry| (entry.name, entry.folder)));
        cursor = page.next;
        if cursor.is_none() {
            return Ok(names);
        }
    }
    Err(PlatformError::Failed(format!("{folder} holds more than a million entries")))
}
