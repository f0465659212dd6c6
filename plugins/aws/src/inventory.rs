//! What there is: instances, with their volumes.

use std::collections::BTreeMap;

use crate::{
    answers::{Instance, InstanceType, InstanceTypes, Page as _, Reservations, Volume, Volumes},
    api::{Api, ApiResult, Call, PAGE_RESULTS},
    bindings::exports::farshore::platform::inventory::{Description, MachinePage},
    bindings::farshore::platform::model::{Disk, Firmware, Machine, NetworkInterface, PowerState, Property},
    error::{PlatformError, Result, printable, shortened},
    ports::Host,
    settings::{SCHEMA, Settings},
    tags::NAME,
};

/// How many instances are on a page: of so many the volumes can be asked for at once.
const PAGE_INSTANCES: u32 = 50;
/// A volume is counted in these.
pub(crate) const GIB: u64 = 1 << 30;

/// `inventory.describe`.
pub fn describe() -> Description {
    Description { name: "aws".into(), version: env!("CARGO_PKG_VERSION").into(), settings_schema: SCHEMA.into() }
}

/// `inventory.list-machines`.
///
/// # Errors
/// As in the interface.
pub fn list_machines(host: &dyn Host, cursor: Option<&str>) -> Result<MachinePage> {
    let settings = Settings::load(host)?;
    let api = Api::new(host);
    let call = Call::new("DescribeInstances")
        .filter("instance-state-name", ["pending", "running", "stopping", "stopped"])
        .with("MaxResults", PAGE_INSTANCES);
    let call =
        settings.discover.iter().fold(call, |call, (key, value)| call.filter(&format!("tag:{key}"), [value.as_str()]));
    let call = cursor.map_or(call.clone(), |token| call.with("NextToken", token));
    let failed = |error: crate::error::ApiError| error.while_doing("listing instances");
    let (reservations, next) = api.ec2::<Reservations>(&call).map_err(failed)?.into_parts();
    let instances: Vec<Instance> =
        reservations.into_iter().flat_map(|reservation| reservation.instances_set.into_vec()).collect();
    let machines = machines(&api, &settings, instances).map_err(failed)?;
    Ok(MachinePage { machines, next: next.filter(|token| !token.is_empty()) })
}

/// The instance of this id, which may have ended.
///
/// # Errors
/// `not-found` when there is none.
pub(crate) fn instance(api: &Api<'_>, id: &str) -> Result<Instance> {
    let call = Call::new("DescribeInstances").filter("instance-id", [id]);
    let found = api.all::<Reservations>(&call);
    let found = found.map_err(|error| error.while_doing(format!("looking at the instance {id}")))?;
    let mut instances = found.into_iter().flat_map(|reservation| reservation.instances_set.into_vec());
    let none = || PlatformError::NotFound(format!("there is no instance {id} in this account and region"));
    instances.next().ok_or_else(none)
}

/// The volumes that are attached to these instances, and not left out, by instance; each instance's in the order of their
/// devices.
pub(crate) fn volumes(
    api: &Api<'_>,
    settings: &Settings,
    instances: &[&str],
) -> ApiResult<BTreeMap<String, Vec<(String, Volume)>>> {
    let mut found: BTreeMap<String, Vec<(String, Volume)>> = BTreeMap::new();
    if instances.is_empty() {
        return Ok(found);
    }
    let call = Call::new("DescribeVolumes")
        .with("MaxResults", PAGE_RESULTS)
        .filter("attachment.instance-id", instances.iter().copied());
    for volume in api.all::<Volumes>(&call)? {
        if settings.exclude_volumes.contains(&volume.volume_id) {
            continue;
        }
        // A volume may be attached to others, too.
        let is_asked = |id: &str| instances.contains(&id);
        for attachment in volume.attachment_set.iter().filter(|attachment| is_asked(&attachment.instance_id)) {
            let device = attachment.device.trim_start_matches("/dev/").to_owned();
            found.entry(attachment.instance_id.clone()).or_default().push((device, volume.clone()));
        }
    }
    found.values_mut().for_each(|volumes| volumes.sort_by(|one, other| one.0.cmp(&other.0)));
    Ok(found)
}

/// What there is of these types, by name.
pub(crate) fn types(api: &Api<'_>, names: &[&str]) -> ApiResult<BTreeMap<String, InstanceType>> {
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let call = Call::new("DescribeInstanceTypes").list("InstanceType", names.iter().copied());
    let found = api.all::<InstanceTypes>(&call)?;
    Ok(found.into_iter().map(|found| (found.instance_type.clone(), found)).collect())
}

fn machines(api: &Api<'_>, settings: &Settings, instances: Vec<Instance>) -> ApiResult<Vec<Machine>> {
    let ids: Vec<&str> = instances.iter().map(|instance| instance.instance_id.as_str()).collect();
    let mut volumes = volumes(api, settings, &ids)?;
    let mut names: Vec<&str> = instances.iter().map(|instance| instance.instance_type.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let types = types(api, &names)?;
    let machine = |instance: &Instance| {
        let own = volumes.remove(&instance.instance_id).unwrap_or_default();
        machine(instance, own, types.get(&instance.instance_type))
    };
    Ok(instances.iter().map(machine).collect())
}

fn property(name: &str, value: &str) -> Property {
    Property { name: name.into(), value: value.into() }
}

fn machine(instance: &Instance, volumes: Vec<(String, Volume)>, kind: Option<&InstanceType>) -> Machine {
    let named = instance.tag_set.get(NAME);
    let booted = match instance.current_instance_boot_mode.as_str() {
        "" => instance.boot_mode.as_str(),
        booted => booted,
    };
    let root = instance.root_device_name.trim_start_matches("/dev/");
    let disk = |(device, volume): (String, Volume)| Disk {
        boot: device == root,
        size_bytes: volume.size.saturating_mul(GIB),
        properties: vec![property("volume", &volume.volume_id)],
        id: device,
    };
    let interfaces = instance.network_interface_set.iter().map(|interface| NetworkInterface {
        id: interface.network_interface_id.clone(),
        mac: Some(interface.mac_address.to_lowercase()).filter(|mac| !mac.is_empty()),
        network: Some(interface.subnet_id.clone()).filter(|subnet| !subnet.is_empty()),
        properties: vec![property("address", &interface.private_ip_address)],
    });
    Machine {
        id: instance.instance_id.clone(),
        name: if named.is_empty() { instance.instance_id.clone() } else { shortened(&printable(named), 256) },
        cpus: kind.map_or(1, |kind| kind.v_cpu_info.count),
        memory_bytes: kind.map_or(GIB, |kind| kind.memory_info.mebibytes.saturating_mul(1 << 20)),
        firmware: if booted.starts_with("uefi") { Firmware::Uefi } else { Firmware::Bios },
        power: match instance.instance_state.name.as_str() {
            "running" => PowerState::Running,
            "stopped" => PowerState::Off,
            _ => PowerState::Unknown,
        },
        disks: volumes.into_iter().map(disk).collect(),
        network_interfaces: interfaces.collect(),
        properties: vec![property("instance-type", &instance.instance_type)],
    }
}
