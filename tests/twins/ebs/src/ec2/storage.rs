//! Volumes and snapshots.

use farshore_core::Timestamp;

use super::*;

const VOLUME_FILTERS: [&str; 4] = ["volume-id", "attachment.instance-id", "snapshot-id", "status"];
const SNAPSHOT_FILTERS: [&str; 4] = ["snapshot-id", "volume-id", "status", "description"];

pub(super) fn describe_volumes(account: &Arc<Account>, caller: &Caller, parameters: &mut Parameters) -> Answer {
    may_look(account, caller, "ec2:DescribeVolumes")?;
    let (ids, filters) = (parameters.list("VolumeId"), parameters.filters(&VOLUME_FILTERS)?);
    let state = account.state();
    let keep = |id: &str, volume: &Volume| {
        passes(&filters, &volume.tags, |name| match name {
            "volume-id" => vec![id.to_owned()],
            "attachment.instance-id" => vec![volume.instance.clone()],
            "snapshot-id" => volume.snapshot.clone().into_iter().collect(),
            "status" => vec![volume_status(volume).to_owned()],
            _ => Vec::new(),
        })
    };
    let found = select(account, &state.volumes, &state, "Volume", &ids, keep)?;
    let (found, next) = page(found, parameters, account, !ids.is_empty())?;
    let items = found.into_iter().map(|(id, volume)| {
        let attached = (!volume.instance.is_empty()).then(|| {
            Node::Fields(vec![
                field("volumeId", id.clone()),
                field("instanceId", volume.instance.clone()),
                field("device", volume.device.clone()),
                field("status", "attached"),
                field("deleteOnTermination", volume.delete_on_termination),
            ])
        });
        Node::Fields(vec![
            field("volumeId", id),
            field("size", volume.size_gib),
            field("snapshotId", volume.snapshot.clone().unwrap_or_default()),
            field("availabilityZone", account.options.zone.clone()),
            field("status", volume_status(volume)),
            field("createTime", volume.created_at.to_string()),
            ("attachmentSet", Node::List(attached.into_iter().collect())),
            ("tagSet", tag_set(&volume.tags)),
            field("volumeType", "gp3"),
            field("encrypted", false),
        ])
    });
    let items = items.collect();
    Ok(with_next(vec![("volumeSet", Node::List(items))], next))
}

fn volume_status(volume: &Volume) -> &'static str {
    if volume.instance.is_empty() { "available" } else { "in-use" }
}

pub(super) fn describe_snapshots(account: &Arc<Account>, caller: &Caller, parameters: &mut Parameters) -> Answer {
    may_look(account, caller, "ec2:DescribeSnapshots")?;
    let (ids, filters) = (parameters.list("SnapshotId"), parameters.filters(&SNAPSHOT_FILTERS)?);
    let owners = parameters.list("Owner");
    if let Some(other) = owners.iter().find(|owner| **owner != "self" && **owner != account.options.account) {
        return Err(Failure::invalid(format!("The owner {other} has nothing in this twin")));
    }
    let mut state = account.state();
    account.look_after(&mut state);
    let keep = |id: &str, snapshot: &Snapshot| {
        passes(&filters, &snapshot.tags, |name| match name {
            "snapshot-id" => vec![id.to_owned()],
            "volume-id" => vec![snapshot.volume.clone()],
            "status" => vec![account.snapshot_status(snapshot).to_owned()],
            "description" => vec![snapshot.description.clone()],
            _ => Vec::new(),
        })
    };
    let found = select(account, &state.snapshots, &state, "Snapshot", &ids, keep)?;
    let (found, next) = page(found, parameters, account, !ids.is_empty())?;
    let items = found.into_iter().map(|(id, snapshot)| Node::Fields(snapshot_fields(account, &id, snapshot)));
    let items = items.collect();
    Ok(with_next(vec![("snapshotSet", Node::List(items))], next))
}

fn snapshot_fields(account: &Account, id: &str, snapshot: &Snapshot) -> Vec<(&'static str, Node)> {
    let status = account.snapshot_status(snapshot);
    vec![
        field("snapshotId", id),
        field("volumeId", snapshot.volume.clone()),
        field("status", status),
        field("startTime", snapshot.started_at.to_string()),
        field("progress", if status == "completed" { "100%" } else { "0%" }),
        field("ownerId", account.options.account.clone()),
        field("volumeSize", snapshot.size_gib),
        field("description", snapshot.description.clone()),
        field("encrypted", false),
        ("tagSet", tag_set(&snapshot.tags)),
    ]
}

/// What `CreateSnapshots` is asked for.
struct Freeze {
    instance: String,
    excluded: Vec<String>,
    excludes_boot: bool,
    description: String,
    copies_tags: bool,
    tags: Tags,
}

impl Freeze {
    const ACTION: &str = "ec2:CreateSnapshots";

    fn read(parameters: &mut Parameters) -> Result<Self, Failure> {
        let freeze = Self {
            instance: parameters.require("InstanceSpecification.InstanceId")?,
            excluded: parameters.list("InstanceSpecification.ExcludeDataVolumeId"),
            excludes_boot: parameters.truth("InstanceSpecification.ExcludeBootVolume")?.unwrap_or(false),
            description: parameters.description()?,
            copies_tags: match parameters.get("CopyTagsFromSource").as_deref() {
                None => false,
                Some("volume") => true,
                Some(other) => return Err(Failure::invalid(format!("CopyTagsFromSource cannot be '{other}'"))),
            },
            tags: parameters.tag_specifications(&["snapshot"])?.remove("snapshot").unwrap_or_default(),
        };
        parameters.finish()?;
        Ok(freeze)
    }

    /// The volumes that it is for, if the caller may.
    fn volumes(&self, account: &Account, caller: &Caller, state: &State) -> Result<Vec<(String, Volume)>, Failure> {
        let id = &self.instance;
        let instance = state.instances.get(id).filter(|_| account.is_visible(state, id));
        let instance = instance.ok_or_else(|| Failure::not_found("InstanceID", id))?;
        let ask = Ask::of(Self::ACTION, account.arn("instance", id));
        account.require(caller, &Ask { resource_tags: Some(&instance.tags), ..ask })?;
        let own: Vec<_> = state.volumes.iter().filter(|(_, volume)| volume.instance == *id).collect();
        let is_boot = |volume: &Volume| volume.device == instance.root_device;
        let is_data = |excluded: &String| own.iter().any(|(id, volume)| *id == excluded && !is_boot(volume));
        if let Some(wrong) = self.excluded.iter().find(|excluded| !is_data(excluded)) {
            return Err(Failure::invalid(format!("{wrong} is no data volume of {id}")));
        }
        let is_left_out =
            |id: &String, volume: &Volume| self.excluded.contains(id) || (is_boot(volume) && self.excludes_boot);
        let meant = own.into_iter().filter(|(id, volume)| !is_left_out(id, volume));
        let meant: Vec<_> = meant.map(|(id, volume)| (id.clone(), volume.clone())).collect();
        if meant.is_empty() {
            return Err(Failure::invalid("All volumes of the instance are excluded"));
        }
        for (id, volume) in &meant {
            let ask = Ask::of(Self::ACTION, account.arn("volume", id));
            account.require(caller, &Ask { resource_tags: Some(&volume.tags), ..ask })?;
            check_tags(&self.tags_for(volume))?;
            let is_early = |at: Timestamp| account.now().since(at) < account.options.snapshot_interval;
            if volume.frozen_at.is_some_and(is_early) {
                let message = format!("The volume {id} was frozen a moment ago: wait a little");
                return Err(Failure::new(400, "SnapshotCreationPerVolumeRateExceeded", message));
            }
        }
        let ask = Ask::of(Self::ACTION, account.arn("snapshot", "*"));
        account.require(caller, &Ask { request_tags: Some(&self.tags), ..ask })?;
        account.require_tags(caller, Some("CreateSnapshots"), "snapshot", &self.tags)?;
        Ok(meant)
    }

    fn tags_for(&self, volume: &Volume) -> Tags {
        let copied = if self.copies_tags { volume.tags.clone() } else { Tags::new() };
        copied.into_iter().chain(self.tags.clone()).collect()
    }
}

pub(super) fn create_snapshots(account: &Arc<Account>, caller: &Caller, parameters: &mut Parameters) -> Answer {
    let freeze = Freeze::read(parameters)?;
    let (power, volumes) = {
        let mut state = account.state();
        account.look_after(&mut state);
        let volumes = freeze.volumes(account, caller, &state)?;
        (Arc::clone(&find(account, &state.instances, &state, "InstanceID", &freeze.instance)?.power), volumes)
    };
    // One instant for all of them: the guest is held, and what it has written is in the files.
    let held = account.hold(&freeze.instance, &power)?;
    let started_at = account.now();
    let contents: anyhow::Result<Vec<_>> = volumes.iter().map(|(_, volume)| account.content_of(volume)).collect();
    drop(held);
    let mut state = account.state();
    let mut items = Vec::new();
    for ((volume_id, volume), content) in volumes.into_iter().zip(contents.map_err(Failure::internal)?) {
        if let Some(volume) = state.volumes.get_mut(&volume_id) {
            (volume.newest, volume.frozen_at) = (content.clone(), Some(started_at));
        }
        let snapshot = Snapshot {
            size_gib: volume.size_gib,
            tags: freeze.tags_for(&volume),
            line: volume.line,
            volume: volume_id,
            description: freeze.description.clone(),
            started_at,
            state: SnapshotState::CompletesAt(account.settles_at()),
            content,
            puts: None,
            parent: None,
        };
        let id = account.new_id("snap");
        // What is a status elsewhere is a state here.
        let named = |(name, node)| (if name == "status" { "state" } else { name }, node);
        items.push(Node::Fields(snapshot_fields(account, &id, &snapshot).into_iter().map(named).collect()));
        account.show_later(&mut state, &id);
        state.snapshots.insert(id, snapshot);
    }
    Ok(Node::Fields(vec![("snapshotSet", Node::List(items))]))
}

pub(super) fn delete_snapshot(account: &Arc<Account>, caller: &Caller, parameters: &mut Parameters) -> Answer {
    let id = parameters.require("SnapshotId")?;
    parameters.finish()?;
    let mut state = account.state();
    let snapshot = find(account, &state.snapshots, &state, "Snapshot", &id).map_err(|missing| {
        let denied = || Failure::new(403, "UnauthorizedOperation", "You are not authorized to perform this operation.");
        if account.options.missing_is_denied { denied() } else { missing }
    })?;
    let resource = account.arn("snapshot", &id);
    account.require(caller, &Ask { resource_tags: Some(&snapshot.tags), ..Ask::of("ec2:DeleteSnapshot", resource) })?;
    let user = state.images.iter().find(|(_, image)| image.mappings.iter().any(|mapping| mapping.snapshot == id));
    if let Some((image, _)) = user {
        let message = format!("The snapshot {id} is currently in use by {image}");
        return Err(Failure::new(400, "InvalidSnapshot.InUse", message));
    }
    state.snapshots.remove(&id);
    Ok(Node::Fields(vec![field("return", true)]))
}

pub(super) fn delete_volume(account: &Arc<Account>, caller: &Caller, parameters: &mut Parameters) -> Answer {
    let id = parameters.require("VolumeId")?;
    parameters.finish()?;
    let mut state = account.state();
    let volume = find(account, &state.volumes, &state, "Volume", &id)?;
    let resource = account.arn("volume", &id);
    account.require(caller, &Ask { resource_tags: Some(&volume.tags), ..Ask::of("ec2:DeleteVolume", resource) })?;
    if !volume.instance.is_empty() {
        let message = format!("Volume {id} is currently attached to {}", volume.instance);
        return Err(Failure::new(400, "VolumeInUse", message));
    }
    // It may be gone already.
    let _ = std::fs::remove_file(&volume.file);
    state.volumes.remove(&id);
    Ok(Node::Fields(vec![field("return", true)]))
}
