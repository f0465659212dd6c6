//! Finding what is left when a journal is lost.
//!
//! Captures are looked for in every machine of the settings and in what serves the images of those that are off, disks and machines below the machine folder. The host names
//! the kind, because looking where its mode has no grant would end the call.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::{
    bindings::{
        exports::farshore::platform::ownership::{Kind, Owned, OwnedPage},
        farshore::platform::model::Done,
    },
    capture, capture_state,
    cleanup::folder_names,
    error::{PlatformError, Result, platform_sentence},
    graph,
    names::{BitmapName, NodeName, Scope, tail},
    ports::{Host, Level, items, text},
    qmp::Client,
    settings::{MachineSettings, Settings},
    storage_daemon::{self, Server},
    target_disks::{self, DiskState, is_id, is_owner, run_folder},
    target_machines,
};

const PAGE_ITEMS: usize = 100;

/// `ownership.list-owned`.
///
/// # Errors
/// As in the interface.
pub fn list(host: &dyn Host, kind: Kind, owner: &str, cursor: Option<&str>) -> Result<OwnedPage> {
    if !is_owner(owner) {
        return Err(PlatformError::Failed("the host asked for an owner that is not one".into()));
    }
    let settings = Settings::load(host)?;
    let mut all = match kind {
        Kind::Capture => captures(host, &settings, owner)?,
        Kind::Disk | Kind::Machine => made_things(host, &settings, owner)?,
    };
    all.retain(|item| item.kind == kind);
    let start: usize = cursor.map_or(Ok(0), str::parse).map_err(|_| PlatformError::Failed("a wrong cursor".into()))?;
    let end = start.saturating_add(PAGE_ITEMS);
    let next = (end < all.len()).then(|| end.to_string());
    all.truncate(end);
    Ok(OwnedPage { items: all.into_iter().skip(start).collect(), next })
}

/// Captures that still have something in QEMU or a storage daemon, by id, with their machines.
fn captures(host: &dyn Host, settings: &Settings, owner: &str) -> Result<Vec<Owned>> {
    let mut found: BTreeMap<String, BTreeMap<String, bool>> = BTreeMap::new();
    let mut add = |machine: &MachineSettings, off: bool, ids: Result<BTreeSet<String>>| match ids {
        Ok(ids) => {
            for id in ids {
                found.entry(id).or_default().insert(machine.name.clone(), off);
            }
        }
        // Whatever was in a process that is gone is gone. That it does not answer is said by whoever lists machines.
        Err(error) => host.log(Level::Debug, platform_sentence(&error)),
    };
    for machine in &settings.machines {
        let running = Client::connect(host, &machine.name, &machine.qmp);
        add(machine, false, running.and_then(|mut client| captures_of(&mut client, owner)));
        if !machine.images.is_empty() {
            add(machine, true, captures_from_images(host, settings, machine, owner));
        }
    }
    let owned = |(id, machines): (String, BTreeMap<String, bool>)| {
        let names: Vec<&str> = machines.keys().map(String::as_str).collect();
        Ok(Owned {
            kind: Kind::Capture,
            owner: owner.into(),
            run: None,
            description: format!("an unfinished capture of {}", names.join(", ")),
            state: capture_state::bare_state(owner, &id, &machines)?,
            id,
        })
    };
    found.into_iter().map(owned).collect()
}

/// Those for which a storage daemon serves the images of a machine that was off.
fn captures_from_images(
    host: &dyn Host,
    settings: &Settings,
    machine: &MachineSettings,
    owner: &str,
) -> Result<BTreeSet<String>> {
    match storage_daemon::look(host, settings, &machine.name, Scope { owner, capture: None })? {
        Server::Ours(mut client) => captures_of(&mut client, owner),
        Server::Nobody | Server::Other(_) => Ok(BTreeSet::new()),
    }
}

fn captures_of(client: &mut Client<'_>, owner: &str) -> Result<BTreeSet<String>> {
    let nodes = graph::nodes(client)?;
    let exports = client.run("query-block-exports", json!({}))?;
    let scope = Scope { owner, capture: None };
    let bitmaps = || nodes.iter().flat_map(|node| &node.bitmaps).filter_map(|bitmap| BitmapName::parse(&bitmap.name));
    let ours = || bitmaps().filter(|bitmap| scope.has_bitmap(bitmap));
    let mut ids: BTreeSet<String> = ours().filter(|bitmap| bitmap.frozen).map(|bitmap| bitmap.capture.into()).collect();
    let node_names =
        nodes.iter().map(|node| node.name.as_str()).chain(items(&exports).iter().map(|item| text(item, "id")));
    for name in node_names.filter_map(NodeName::parse).filter(|name| scope.has_node(name)) {
        // A node's name has only the end of the id; a bitmap has all of it, unless somebody removed it.
        let full = ours().find(|bitmap| tail(bitmap.capture) == name.capture_tail).map(|bitmap| bitmap.capture);
        ids.insert(full.unwrap_or(name.capture_tail).to_owned());
    }
    Ok(ids)
}

/// Disks and machines below the machine folder.
fn made_things(host: &dyn Host, settings: &Settings, owner: &str) -> Result<Vec<Owned>> {
    let mut found = Vec::new();
    for (name, is_folder) in folder_names(host, &format!("{}/{owner}", settings.machine_folder()?))? {
        let Some(run) = name.strip_prefix("run-").filter(|run| is_folder && is_id(run)) else { continue };
        let folder = run_folder(settings, owner, run)?;
        let inside = folder_names(host, &folder)?;
        let mut taken = BTreeSet::new();
        for (name, _) in inside.iter().filter(|(_, is_folder)| *is_folder) {
            let Some(id) = name.strip_prefix("machine-").filter(|id| is_id(id)) else { continue };
            let markers = folder_names(host, &format!("{folder}/{name}"))?;
            let disks = markers.iter().filter_map(|(name, _)| name.strip_suffix(".disk")).filter(|id| is_id(id));
            let disks: Vec<String> = disks.map(str::to_owned).collect();
            taken.extend(disks.iter().cloned());
            found.push(Owned {
                kind: Kind::Machine,
                id: id.to_owned(),
                owner: owner.into(),
                run: Some(run.to_owned()),
                description: format!("a recovered machine with {} disks in {folder}", disks.len()),
                state: target_machines::bare_state(owner, run, id, disks)?,
            });
        }
        for (name, _) in inside.iter().filter(|(_, is_folder)| !is_folder) {
            let id = name.strip_prefix("disk-").and_then(|name| name.strip_suffix(".raw"));
            let Some(id) = id.filter(|id| is_id(id) && !taken.contains(*id)) else { continue };
            found.push(Owned {
                kind: Kind::Disk,
                id: id.to_owned(),
                owner: owner.into(),
                run: Some(run.to_owned()),
                description: format!("the disk {folder}/{name}, which no machine uses"),
                state: DiskState::new(owner, run, id, 0).to_bytes()?,
            });
        }
    }
    Ok(found)
}

/// `ownership.release-owned`.
///
/// # Errors
/// As in the interface.
pub fn release(host: &dyn Host, item: &Owned) -> Result<Done> {
    match item.kind {
        Kind::Capture => capture::end(host, &item.state, None).map(|end| Done { note: end.note }),
        Kind::Disk => target_disks::discard(host, &item.state),
        Kind::Machine => target_machines::remove(host, &item.state),
    }
}
