//! Finding what is left when a journal is lost: everything carries its owner's tag.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    answers::{Image, Images, Instance, Reservations, Snapshot},
    api::{Api, Call},
    bindings::exports::farshore::platform::ownership::{Kind, Owned, OwnedPage},
    bindings::farshore::platform::model::Done,
    capture,
    error::{ApiError, PlatformError, Result},
    ports::Host,
    snapshots,
    tags::{CAPTURE, DISK, ID, KIND, MACHINE, MACHINE_KIND, NAME, OWNER, RUN, is_id, is_owner},
    target_disks::{self, DiskState},
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
    let api = Api::new(host);
    let mut all = match kind {
        Kind::Capture => captures(&api, owner)?,
        Kind::Disk => disks(&api, owner)?,
        Kind::Machine => machines(&api, owner)?,
    };
    let start: usize = cursor.map_or(Ok(0), str::parse).map_err(|_| PlatformError::Failed("a wrong cursor".into()))?;
    let end = start.saturating_add(PAGE_ITEMS);
    let next = (end < all.len()).then(|| end.to_string());
    all.truncate(end);
    Ok(OwnedPage { items: all.into_iter().skip(start).collect(), next })
}

fn failed(error: ApiError) -> PlatformError {
    error.while_doing("looking for what belongs to this owner")
}

/// Captures whose end was not told. What a committed point relies on is marked otherwise.
fn captures(api: &Api<'_>, owner: &str) -> Result<Vec<Owned>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for snapshot in snapshots::list(api, owner, &[CAPTURE], &[]).map_err(failed)? {
        let machine = snapshot.tag_set.get(MACHINE).to_owned();
        found.entry(snapshot.tag_set.get(ID).to_owned()).or_default().insert(machine);
    }
    let owned = |(id, machines): (String, BTreeSet<String>)| {
        let names: Vec<&str> = machines.iter().map(String::as_str).collect();
        let description = format!("snapshots of an unfinished capture of {}", names.join(", "));
        let state = capture::bare_state(owner, &id)?;
        Ok(Owned { kind: Kind::Capture, owner: owner.into(), run: None, description, state, id })
    };
    found.into_iter().filter(|(id, _)| is_id(id)).map(owned).collect()
}

fn images(api: &Api<'_>, owner: &str) -> Result<Vec<Image>> {
    let call = Call::new("DescribeImages").list("Owner", ["self"]).filter(&format!("tag:{OWNER}"), [owner]);
    api.all::<Images>(&call).map_err(failed)
}

/// Snapshots that are restored, and that no image uses.
fn disks(api: &Api<'_>, owner: &str) -> Result<Vec<Owned>> {
    let used: BTreeSet<String> = images(api, owner)?.iter().flat_map(target_machines::image_snapshots).collect();
    let owned = |snapshot: Snapshot| {
        let (id, run) = (snapshot.tag_set.get(ID), snapshot.tag_set.get(RUN));
        let state = DiskState::new(owner, run, id, &snapshot.snapshot_id, 0).to_bytes()?;
        let description = format!("the snapshot {}, which no machine uses", snapshot.snapshot_id);
        let (id, run) = (id.to_owned(), Some(run.to_owned()).filter(|run| is_id(run)));
        Ok(Owned { kind: Kind::Disk, owner: owner.into(), run, description, state, id })
    };
    let all = snapshots::list(api, owner, &[DISK], &[]).map_err(failed)?;
    all.into_iter().filter(|snapshot| !used.contains(&snapshot.snapshot_id)).map(owned).collect()
}

/// What there is of a machine.
#[derive(Default)]
struct Parts {
    run: String,
    name: String,
    what: Vec<String>,
    snapshots: Vec<String>,
}

/// Images and instances.
fn machines(api: &Api<'_>, owner: &str) -> Result<Vec<Owned>> {
    let mut found: BTreeMap<String, Parts> = BTreeMap::new();
    let mut part = |tags: &crate::answers::TagSet, what: String, snapshots: Vec<String>| {
        if tags.get(KIND) != MACHINE_KIND {
            return;
        }
        let parts = found.entry(tags.get(ID).to_owned()).or_default();
        (parts.run, parts.name) = (tags.get(RUN).to_owned(), tags.get(NAME).to_owned());
        parts.what.push(what);
        parts.snapshots.extend(snapshots);
    };
    for image in images(api, owner)? {
        part(&image.tag_set, format!("the image {}", image.image_id), target_machines::image_snapshots(&image));
    }
    let call = Call::new("DescribeInstances")
        .filter(&format!("tag:{OWNER}"), [owner])
        .filter("instance-state-name", ["pending", "running", "stopping", "stopped"]);
    let reservations = api.all::<Reservations>(&call).map_err(failed)?;
    let instances = reservations.into_iter().flat_map(|reservation| reservation.instances_set.into_vec());
    for instance in instances.collect::<Vec<Instance>>() {
        part(&instance.tag_set, format!("the instance {}", instance.instance_id), Vec::new());
    }
    let owned = |(id, Parts { run, name, what, snapshots }): (String, Parts)| {
        let state = target_machines::bare_state(owner, &run, &id, &name, snapshots)?;
        let description = format!("{} of the recovered machine {name}", what.join(" and "));
        let run = Some(run).filter(|run| is_id(run));
        Ok(Owned { kind: Kind::Machine, owner: owner.into(), run, description, state, id })
    };
    found.into_iter().filter(|(id, _)| is_id(id)).map(owned).collect()
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
