//! A machine's disks as QEMU knows them: which device stands on which block node, and which bitmaps a node has.
//!
//! Everything is asked anew in each call and nothing is taken from a journal: QEMU may have been restarted meanwhile, and
//! what it says now is what counts.

use serde_json::{Value, json};

use crate::{
    error::{PlatformError, Result},
    names::{BitmapName, NodeName},
    ports::{items, member, text},
    qmp::Client,
    settings::MachineSettings,
};

/// The most disks of one machine.
pub const DISKS_PER_MACHINE_MAX: usize = 256;

/// A dirty bitmap.
#[derive(Debug, Clone)]
pub struct Bitmap {
    /// Its name.
    pub name: String,
    /// It takes note of writes.
    pub recording: bool,
    /// Something uses it.
    pub busy: bool,
    /// It was not saved when QEMU ended, so that it may have missed writes.
    pub inconsistent: bool,
    /// Bytes for each of its bits.
    pub granularity: u64,
}

/// A block node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// Bytes that its users see.
    pub size_bytes: u64,
    /// It cannot be written.
    pub read_only: bool,
    /// It can keep bitmaps when QEMU ends.
    pub keeps_bitmaps: bool,
    /// It is an image whose data is in another file.
    pub data_elsewhere: bool,
    /// Its bitmaps.
    pub bitmaps: Vec<Bitmap>,
}

/// A device with a disk in it.
#[derive(Debug, Clone)]
pub struct Device {
    /// The disk's id.
    pub disk: String,
    /// The device's path in QEMU's object tree.
    pub path: String,
    /// The node that the device uses now: a filter of ours during a capture.
    pub root: String,
    /// The disk's own node.
    pub base: Node,
}

/// The block layer of a machine.
#[derive(Debug, Clone)]
pub struct Graph {
    /// The devices, in QEMU's order.
    pub devices: Vec<Device>,
    /// All nodes.
    pub nodes: Vec<Node>,
    /// A flash memory holds firmware.
    pub has_flash: bool,
}

fn bitmap(value: &Value) -> Option<Bitmap> {
    let flag = |name| member(value, name).as_bool().unwrap_or(false);
    Some(Bitmap {
        name: value.get("name")?.as_str()?.to_owned(),
        recording: flag("recording"),
        busy: flag("busy"),
        inconsistent: flag("inconsistent"),
        granularity: member(value, "granularity").as_u64().unwrap_or(0),
    })
}

fn node(value: &Value) -> Node {
    let image = member(value, "image");
    let details = member(member(image, "format-specific"), "data");
    let driver = text(value, "drv").to_owned();
    Node {
        name: text(value, "node-name").to_owned(),
        keeps_bitmaps: driver == "qcow2" && !matches!(text(details, "compat"), "" | "0.10"),
        data_elsewhere: details.get("data-file").is_some(),
        driver,
        size_bytes: member(image, "virtual-size").as_u64().unwrap_or(0),
        read_only: member(value, "ro").as_bool().unwrap_or(false),
        bitmaps: items(member(value, "dirty-bitmaps")).iter().filter_map(bitmap).collect(),
    }
}

/// All block nodes of a process.
///
/// # Errors
/// When it does not answer.
pub fn nodes(client: &mut Client<'_>) -> Result<Vec<Node>> {
    let nodes = client.run("query-named-block-nodes", json!({ "flat": true }))?;
    Ok(items(&nodes).iter().map(node).collect())
}

/// The path of a device in QEMU's object tree.
fn device_path(qdev: &str) -> String {
    if qdev.starts_with('/') { qdev.to_owned() } else { format!("/machine/peripheral/{qdev}") }
}

/// What people call a disk: its device's id, or the short form of its path where it has none.
fn disk_id(path: &str) -> String {
    let short = path.strip_prefix("/machine/").unwrap_or(path);
    let short = short.strip_prefix("peripheral/").unwrap_or(short);
    short.strip_suffix("/virtio-backend").unwrap_or(short).to_owned()
}

impl Graph {
    /// Asks QEMU.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn load(client: &mut Client<'_>) -> Result<Self> {
        let nodes = nodes(client)?;
        let blocks = client.run("query-block", json!({}))?;
        let mut graph = Self { devices: Vec::new(), nodes, has_flash: false };
        for block in items(&blocks) {
            let (qdev, inserted) = (text(block, "qdev"), member(block, "inserted"));
            if qdev.contains("flash") {
                graph.has_flash = true;
                continue;
            }
            let root = text(inserted, "node-name");
            if qdev.is_empty() || root.is_empty() || member(block, "removable").as_bool() == Some(true) {
                continue;
            }
            let path = device_path(qdev);
            let base = graph.base_of(root);
            let device = Device { disk: disk_id(&path), path, root: root.to_owned(), base };
            if !device.base.read_only {
                graph.devices.push(device);
            }
        }
        if graph.devices.len() > DISKS_PER_MACHINE_MAX {
            let text = format!("machine {} has more than {DISKS_PER_MACHINE_MAX} disks", client.machine());
            return Err(PlatformError::Unsupported(text));
        }
        Ok(graph)
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The disk's own node below what a device uses: below a node of ours, the one with the bitmap that goes with it.
    fn base_of(&self, root: &str) -> Node {
        let ours = NodeName::parse(root);
        let below = ours.and_then(|ours| {
            let goes_with = |name: &str| BitmapName::parse(name).is_some_and(|bitmap| ours.goes_with(&bitmap));
            self.nodes.iter().find(|node| node.bitmaps.iter().any(|bitmap| goes_with(&bitmap.name)))
        });
        let own = || Node {
            name: root.to_owned(),
            driver: String::new(),
            size_bytes: 0,
            read_only: false,
            keeps_bitmaps: false,
            data_elsewhere: false,
            bitmaps: Vec::new(),
        };
        below.or_else(|| self.node(root)).cloned().unwrap_or_else(own)
    }

    /// The disks that the operator wants protected.
    ///
    /// # Errors
    /// `settings` when a disk is excluded that the machine does not have; `unsupported` when none is left.
    pub fn protected(&self, machine: &MachineSettings) -> Result<Vec<&Device>> {
        for excluded in &machine.exclude_disks {
            if !self.devices.iter().any(|device| device.disk == *excluded) {
                let known: Vec<&str> = self.devices.iter().map(|device| device.disk.as_str()).collect();
                let text = format!("machine {} has no disk {excluded:?} to exclude", machine.name);
                return Err(PlatformError::Settings(format!("{text}; its disks are: {}", known.join(", "))));
            }
        }
        let wanted = |device: &&Device| !machine.exclude_disks.contains(&device.disk);
        let disks: Vec<&Device> = self.devices.iter().filter(wanted).collect();
        if disks.is_empty() {
            let text = format!("machine {} has no disk that can be written, so nothing to protect", machine.name);
            return Err(PlatformError::Unsupported(text));
        }
        Ok(disks)
    }
}

impl Node {
    /// The bitmap of this name.
    pub fn bitmap(&self, name: &str) -> Option<&Bitmap> {
        self.bitmaps.iter().find(|bitmap| bitmap.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_called_after_their_devices() {
        for (qdev, expected) in [
            ("vd0", "vd0"),
            ("/machine/peripheral/vd0/virtio-backend", "vd0"),
            ("/machine/peripheral-anon/device[0]/virtio-backend", "peripheral-anon/device[0]"),
            ("/machine/unattached/device[23]", "unattached/device[23]"),
        ] {
            assert_eq!(disk_id(&device_path(qdev)), expected);
        }
    }
}
