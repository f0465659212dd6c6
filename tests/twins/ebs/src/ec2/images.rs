//! Images.

use super::*;

/// In GiB, of a gp3 volume.
const VOLUME_GIB_MAX: u32 = 65_536;

/// The devices that an image may name.
fn is_device(name: &str) -> bool {
    ["/dev/xvda", "/dev/sda1"].contains(&name)
        || ["/dev/sd", "/dev/xvd"]
            .iter()
            .any(|prefix| name.strip_prefix(prefix).is_some_and(|rest| rest.len() == 1 && ("b"..="z").contains(&rest)))
}

const IMAGE_FILTERS: [&str; 4] = ["image-id", "name", "state", "block-device-mapping.snapshot-id"];

fn image_state(account: &Account, image: &Image) -> &'static str {
    if image.available_at > account.now() { "pending" } else { "available" }
}

pub(super) fn describe_images(account: &Arc<Account>, caller: &Caller, parameters: &mut Parameters) -> Answer {
    may_look(account, caller, "ec2:DescribeImages")?;
    let (ids, filters) = (parameters.list("ImageId"), parameters.filters(&IMAGE_FILTERS)?);
    let owners = parameters.list("Owner");
    if owners.iter().any(|owner| *owner != "self" && *owner != account.options.account) {
        return Err(Failure::invalid("Only this account's images are in this twin"));
    }
    let state = account.state();
    let keep = |id: &str, image: &Image| {
        passes(&filters, &image.tags, |name| match name {
            "image-id" => vec![id.to_owned()],
            "name" => vec![image.name.clone()],
            "state" => vec![image_state(account, image).to_owned()],
            "block-device-mapping.snapshot-id" => {
                image.mappings.iter().map(|mapping| mapping.snapshot.clone()).collect()
            }
            _ => Vec::new(),
        })
    };
    let found = select(account, &state.images, &state, "AMIID", &ids, keep)?;
    let (found, next) = page(found, parameters, account, !ids.is_empty())?;
    let items = found.into_iter().map(|(id, image)| {
        let disks = image.mappings.iter().map(|mapping| {
            Node::Fields(vec![
                field("deviceName", mapping.device.clone()),
                (
                    "ebs",
                    Node::Fields(vec![
                        field("snapshotId", mapping.snapshot.clone()),
                        field("volumeSize", mapping.size_gib),
                        field("deleteOnTermination", mapping.delete_on_termination),
                        field("volumeType", "gp3"),
                        field("encrypted", false),
                    ]),
                ),
            ])
        });
        Node::Fields(vec![
            field("imageId", id),
            field("imageOwnerId", account.options.account.clone()),
            field("imageState", image_state(account, image)),
            field("isPublic", false),
            field("name", image.name.clone()),
            field("description", image.description.clone()),
            field("architecture", "x86_64"),
            field("imageType", "machine"),
            field("rootDeviceType", "ebs"),
            field("rootDeviceName", image.root_device.clone()),
            field("virtualizationType", "hvm"),
            field("bootMode", image.boot_mode.clone()),
            field("enaSupport", true),
            field("creationDate", image.created_at.to_string()),
            ("blockDeviceMapping", Node::List(disks.collect())),
            ("tagSet", tag_set(&image.tags)),
        ])
    });
    let items = items.collect();
    Ok(with_next(vec![("imagesSet", Node::List(items))], next))
}

pub(super) fn register_image(account: &Arc<Account>, caller: &Caller, parameters: &mut Parameters) -> Answer {
    let name = parameters.require("Name")?;
    let description = parameters.description()?;
    let root_device = parameters.require("RootDeviceName")?;
    for (name, only) in [("Architecture", "x86_64"), ("VirtualizationType", "hvm"), ("EnaSupport", "true")] {
        parameters.only(name, only)?;
    }
    let boot_mode = parameters.get("BootMode").unwrap_or_else(|| "legacy-bios".to_owned());
    if !["legacy-bios", "uefi"].contains(&boot_mode.as_str()) {
        return Err(Failure::invalid(format!("BootMode cannot be '{boot_mode}'")));
    }
    let tags = parameters.tag_specifications(&["image"])?.remove("image").unwrap_or_default();
    let is_good = |character: char| character.is_ascii_alphanumeric() || "()[] ./-'@_".contains(character);
    if !(3..=128).contains(&name.len()) || !name.chars().all(is_good) {
        let message = "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, '(', ')', '.', '-', '/' and '_'";
        return Err(Failure::new(400, "InvalidAMIName.Malformed", message));
    }
    let mut state = account.state();
    let mappings = mappings(account, caller, &state, parameters)?;
    parameters.finish()?;
    account.require(
        caller,
        &Ask { request_tags: Some(&tags), ..Ask::of("ec2:RegisterImage", account.arn("image", "*")) },
    )?;
    account.require_tags(caller, Some("RegisterImage"), "image", &tags)?;
    if !mappings.iter().any(|mapping| mapping.device == root_device) {
        let message = format!("The root device {root_device} has no snapshot");
        return Err(Failure::new(400, "InvalidBlockDeviceMapping", message));
    }
    if let Some((id, _)) = state.images.iter().find(|(_, image)| image.name == name) {
        let message = format!("AMI name {name} is already in use by AMI {id}");
        return Err(Failure::new(400, "InvalidAMIName.Duplicate", message));
    }
    let id = account.new_id("ami");
    account.show_later(&mut state, &id);
    let (created_at, available_at) = (account.now(), account.settles_at());
    let image = Image { name, description, root_device, mappings, boot_mode, tags, created_at, available_at };
    state.images.insert(id.clone(), image);
    Ok(Node::Fields(vec![field("imageId", id)]))
}

/// The disks that are asked for.
fn mappings(
    account: &Account,
    caller: &Caller,
    state: &State,
    parameters: &mut Parameters,
) -> Result<Vec<Mapping>, Failure> {
    let mut mappings = Vec::new();
    for number in 1..=parameters.count("BlockDeviceMapping") {
        let prefix = format!("BlockDeviceMapping.{number}");
        let device = parameters.require(&format!("{prefix}.DeviceName"))?;
        if !is_device(&device) {
            return Err(Failure::invalid(format!("The device name {device} is none")));
        }
        let snapshot = parameters.require(&format!("{prefix}.Ebs.SnapshotId"))?;
        let size = parameters.number(&format!("{prefix}.Ebs.VolumeSize"), 1..=VOLUME_GIB_MAX)?;
        let delete_on_termination = parameters.truth(&format!("{prefix}.Ebs.DeleteOnTermination"))?.unwrap_or(true);
        parameters.only(&format!("{prefix}.Ebs.VolumeType"), "gp3")?;
        if mappings.iter().any(|mapping: &Mapping| mapping.device == device) {
            let message = format!("The device {device} is named twice");
            return Err(Failure::new(400, "InvalidBlockDeviceMapping", message));
        }
        let found = find(account, &state.snapshots, state, "Snapshot", &snapshot)?;
        if account.snapshot_status(found) != "completed" {
            let message = format!("The snapshot {snapshot} is {}", account.snapshot_status(found));
            return Err(Failure::new(400, "IncorrectState", message));
        }
        let resource = account.arn("snapshot", &snapshot);
        account.require(caller, &Ask { resource_tags: Some(&found.tags), ..Ask::of("ec2:RegisterImage", resource) })?;
        let size_gib = size.unwrap_or(found.size_gib);
        if size_gib < found.size_gib {
            return Err(Failure::new(400, "InvalidBlockDeviceMapping", "A volume is smaller than its snapshot"));
        }
        mappings.push(Mapping { device, snapshot, size_gib, delete_on_termination });
    }
    Ok(mappings)
}

pub(super) fn deregister_image(account: &Arc<Account>, caller: &Caller, parameters: &mut Parameters) -> Answer {
    let id = parameters.require("ImageId")?;
    parameters.finish()?;
    let mut state = account.state();
    let image = find(account, &state.images, &state, "AMIID", &id)?;
    let resource = account.arn("image", &id);
    account.require(caller, &Ask { resource_tags: Some(&image.tags), ..Ask::of("ec2:DeregisterImage", resource) })?;
    state.images.remove(&id);
    Ok(Node::Fields(vec![field("return", true)]))
}
