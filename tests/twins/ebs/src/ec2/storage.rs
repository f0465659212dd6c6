//! Volumes and snapshots.

use super::*;

pub(super) fn describe_volumes(account: &Arc<Account>, caller: &Caller, parameters: &mut Parameters) -> Answer {
    may_look(account, caller, "ec2:DescribeVolumes")?;
    let (ids, filters) = (parameters.list("VolumeId"), parameters.filters()?);
    let state = account.state();
    let keep = |id: &str, volume: &Volume| {
        passes(&filters, &volume.tags, |name| match name {
            "volume-id" => Some(vec![id.to_owned()]),
            "attachment.instance-id" => Some(vec![volume.instance.clone()]),
            "snapshot-id" => Some(volume.snapshot.clone().into_iter().collect()),
            "status" => Some(vec![volume_status(volume).to_owned()]),
            _ => None,
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
    let (ids, filters) = (parameters.list("SnapshotId"), parameters.filters()?);
    let owners = parameters.list("Owner");
    if let Some(other) = owners.iter().find(|owner| **owner != "self" && **owner != account.options.account) {
        return Err(Failure::invalid(format!("The owner {other} has nothing in this twin")));
    }
    let state = account.state();
    let keep = |id: &str, snapshot: &Snapshot| {
        passes(&filters, &snapshot.tags, |name| match name {
            "snapshot-id" => Some(vec![id.to_owned()]),
            "volume-id" => Some(vec![snapshot.volume.clone()]),
            "status" => Some(vec![account.snapshot_status(snapshot).to_owned()]),
            "description" => Some(vec![snapshot.description.clone()]),
            _ => None,
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
            description: parameters.get("Description").unwrap_or_default(),
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
        if !matches!(instance.state, InstanceState::Running | InstanceState::Stopped) {
            let message = format!("The instance '{id}' is {}", instance.state.shown().1);
            return Err(Failure::new(400, "IncorrectInstanceState", message));
        }
        let is_meant = |(own, volume): &(&String, &Volume)| {
            let is_boot = volume.device == instance.root_device;
            volume.instance == *id && !self.excluded.contains(own) && !(is_boot && self.excludes_boot)
        };
        let meant = state.volumes.iter().filter(is_meant);
        let meant: Vec<_> = meant.map(|(id, volume)| (id.clone(), volume.clone())).collect();
        for (id, volume) in &meant {
            let ask = Ask::of(Self::ACTION, account.arn("volume", id));
            account.require(caller, &Ask { resource_tags: Some(&volume.tags), ..ask })?;
            check_tags(&self.tags_for(volume))?;
        }
        let ask = Ask::of(Self::ACTION, account.arn("snapshot", "*"));
        account.require(caller, &Ask { request_tags: Some(&self.tags), ..ask })?;
        account.require_tags(caller, "CreateSnapshots", "snapshot", &self.tags)?;
        Ok(meant)
    }

    fn tags_for(&self, volume: &Volume) -> Tags {
        let copied = if self.copies_tags { volume.tags.clone() } else { Tags::new() };
        copied.into_iter().chain(self.tags.clone()).collect()
    }
}

pub(super) fn create_snapshots(account: &Arc<Account>, caller: &Caller, parameters: &mut Parameters) -> Answer {
    let freeze = Freeze::read(parameters)?;
    let mut state = account.state();
    account.look_after(&mut state);
    let volumes = freeze.volumes(account, caller, &state)?;
    // One instant for all of them: the guest is held, and what it has written is in the files.
    let held = account.hold(&state, &freeze.instance)?;
    let contents: anyhow::Result<Vec<_>> = volumes.iter().map(|(_, volume)| account.content_of(volume)).collect();
    drop(held);
    let mut items = Vec::new();
    for ((volume_id, volume), content) in volumes.into_iter().zip(contents.map_err(Failure::internal)?) {
        if let Some(volume) = state.volumes.get_mut(&volume_id) {
            volume.newest = content.clone();
        }
        let snapshot = Snapshot {
            size_gib: volume.size_gib,
            tags: freeze.tags_for(&volume),
            line: volume.line,
            volume: volume_id,
            description: freeze.description.clone(),
            started_at: account.now(),
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
    let snapshot = state.snapshots.get(&id).ok_or_else(|| Failure::not_found("Snapshot", &id))?;
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
    let volume = state.volumes.get(&id).ok_or_else(|| Failure::not_found("Volume", &id))?;
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
