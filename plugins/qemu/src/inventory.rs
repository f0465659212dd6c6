//! What machines there are, as their QEMU processes tell.

use serde_json::{Value, json};

use crate::{
    bindings::{
        exports::farshore::platform::inventory::{Description, MachinePage},
        farshore::platform::model::{Disk, Firmware, Machine, NetworkInterface, PowerState, Property},
    },
    error::{PlatformError, Result, platform_sentence},
    graph::{Device, Graph},
    ports::{Host, Level, items, member, text},
    qmp::{Client, Door},
    settings::{MachineSettings, SCHEMA, Settings},
};

/// How many machines are asked in one call, which has 30 s.
const PAGE_ITEMS: usize = 20;
const NETWORK_INTERFACES_MAX: usize = 64;
const DEVICES_MAX: usize = 512;

/// `inventory.describe`.
pub fn describe() -> Description {
    Description { name: "qemu".into(), version: env!("CARGO_PKG_VERSION").into(), settings_schema: SCHEMA.into() }
}

/// `inventory.list-machines`.
///
/// # Errors
/// As in the interface.
pub fn list_machines(host: &dyn Host, cursor: Option<&str>) -> Result<MachinePage> {
    let settings = Settings::load(host)?;
    let start: usize = cursor.map_or(Ok(0), str::parse).map_err(|_| PlatformError::Failed("a wrong cursor".into()))?;
    let mut machines = Vec::new();
    for machine in settings.machines.iter().skip(start).take(PAGE_ITEMS) {
        machines.push(match look(host, machine) {
            Ok(found) => found,
            Err(error) => {
                host.log(Level::Warn, platform_sentence(&error));
                bare(machine, PowerState::Unknown, platform_sentence(&error))
            }
        });
    }
    let end = start.saturating_add(PAGE_ITEMS);
    Ok(MachinePage { machines, next: (end < settings.machines.len()).then(|| end.to_string()) })
}

fn property(name: &str, value: impl Into<String>) -> Property {
    let mut value: String = value.into();
    value.truncate(value.floor_char_boundary(1_024));
    Property { name: name.into(), value }
}

/// A machine of which nothing can be asked, and why.
fn bare(machine: &MachineSettings, power: PowerState, why: &str) -> Machine {
    Machine {
        id: machine.name.clone(),
        name: machine.name.clone(),
        cpus: 0,
        memory_bytes: 0,
        firmware: Firmware::Bios,
        power,
        disks: Vec::new(),
        network_interfaces: Vec::new(),
        properties: vec![property("unreachable", why)],
    }
}

/// What a status of QEMU's means.
pub(crate) fn power_state(status: &str) -> PowerState {
    match status {
        "running" => PowerState::Running,
        "paused" | "suspended" | "prelaunch" | "io-error" | "watchdog" | "save-vm" | "postmigrate" => {
            PowerState::Paused
        }
        "shutdown" => PowerState::Off,
        _ => PowerState::Unknown,
    }
}

fn look(host: &dyn Host, machine: &MachineSettings) -> Result<Machine> {
    let mut client = match Client::knock(host, &machine.name, &machine.qmp)? {
        Door::Open(client) => client,
        // It can be captured all the same. Elsewhere a socket where nobody listens is no proof: see `power.rs`.
        Door::Deserted(text) if !machine.images.is_empty() => return Ok(bare(machine, PowerState::Off, &text)),
        Door::Deserted(text) => return Err(PlatformError::Unreachable(text)),
    };
    let status = client.run("query-status", json!({}))?;
    let memory = client.run("query-memory-size-summary", json!({}))?;
    let memory_bytes = ["base-memory", "plugged-memory"]
        .into_iter()
        .filter_map(|name| member(&memory, name).as_u64())
        .fold(0, u64::saturating_add);
    let cpus = items(&client.run("query-cpus-fast", json!({}))?).len();
    let uuid = client.run("query-uuid", json!({}))?;
    let graph = Graph::load(&mut client)?;
    let (major, minor) = client.version();
    Ok(Machine {
        id: machine.name.clone(),
        name: machine.name.clone(),
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        memory_bytes,
        firmware: if graph.has_flash { Firmware::Uefi } else { Firmware::Bios },
        power: power_state(text(&status, "status")),
        disks: disks(&mut client, machine, &graph)?,
        network_interfaces: network_interfaces(&mut client)?,
        properties: vec![property("uuid", text(&uuid, "UUID")), property("qemu-version", format!("{major}.{minor}"))],
    })
}

fn disks(client: &mut Client<'_>, machine: &MachineSettings, graph: &Graph) -> Result<Vec<Disk>> {
    // A machine without disks is still a machine: that it cannot be protected is said when that is tried.
    let devices: Vec<&Device> = match graph.protected(machine) {
        Ok(devices) => devices,
        Err(PlatformError::Unsupported(_)) => Vec::new(),
        Err(error) => return Err(error),
    };
    let names = ["bootindex", "type", "serial"];
    let told = get_all(client, devices.iter().flat_map(|device| names.map(|name| (device.path.as_str(), name))))?;
    let told: Vec<&[Option<Value>]> = told.chunks(names.len()).collect();
    let orders: Vec<Option<i64>> =
        told.iter().map(|told| told.first()?.as_ref()?.as_i64().filter(|order| *order >= 0)).collect();
    // Where nothing says an order, the firmware takes the first disk.
    let first = orders.iter().flatten().min().copied();
    let boot = orders.iter().position(|order| first.is_some() && *order == first).unwrap_or(0);
    let mut disks = Vec::with_capacity(devices.len());
    for (index, (device, told)) in devices.into_iter().zip(told).enumerate() {
        let mut properties = vec![property("format", &*device.base.driver)];
        for (name, value) in ["device-type", "serial"].into_iter().zip(told.iter().skip(1)) {
            properties.extend(as_text(value.as_ref()).map(|value| property(name, value)));
        }
        disks.push(Disk {
            id: device.disk.clone(),
            size_bytes: device.base.size_bytes,
            boot: index == boot,
            properties,
        });
    }
    Ok(disks)
}

/// Properties of QEMU's objects, each by the object's path and its name; none where an object does not have it.
fn get_all<'n>(
    client: &mut Client<'_>,
    wanted: impl IntoIterator<Item = (&'n str, &'n str)>,
) -> Result<Vec<Option<Value>>> {
    client.ask_all("qom-get", wanted.into_iter().map(|(path, name)| json!({ "path": path, "property": name })))
}

fn as_text(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn network_interfaces(client: &mut Client<'_>) -> Result<Vec<NetworkInterface>> {
    let folders = ["/machine/peripheral", "/machine/peripheral-anon", "/machine/unattached"];
    let children = client.ask_all("qom-list", folders.map(|folder| json!({ "path": folder })))?;
    let mut devices = Vec::new();
    for (folder, children) in folders.into_iter().zip(&children) {
        let children = children.as_ref().map_or(&[][..], items);
        for child in children.iter().filter(|child| text(child, "type").starts_with("child<")).take(DEVICES_MAX) {
            let (id, kind) = (text(child, "name"), text(child, "type"));
            let kind = kind.strip_prefix("child<").and_then(|kind| kind.strip_suffix('>')).unwrap_or(kind);
            devices.push((format!("{folder}/{id}"), id, kind));
        }
    }
    // Nothing says which objects are network interfaces, but every one of those has both properties.
    let paths = || devices.iter().map(|(path, _, _)| path.as_str());
    let told = get_all(client, paths().flat_map(|path| [(path, "mac"), (path, "netdev")]))?;
    let mut found = Vec::new();
    for ((_, id, kind), told) in devices.iter().zip(told.chunks(2)) {
        if let [Some(mac), network] = told
            && found.len() < NETWORK_INTERFACES_MAX
        {
            found.push(NetworkInterface {
                id: (*id).to_owned(),
                mac: as_text(Some(mac)).map(|mac| mac.to_ascii_lowercase()),
                network: as_text(network.as_ref()),
                properties: vec![property("device-type", *kind)],
            });
        }
    }
    Ok(found)
}
