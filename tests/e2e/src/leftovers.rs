//! What Farshore left behind in a QEMU process, and which processes there are: asked of QEMU and of the system, not of
//! Farshore.

use std::{collections::BTreeSet, fs};

use farshore_demo::{DemoError, guest::Guest};
use serde_json::{Value, json};

/// What there is in a QEMU process beside the machine's own disks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Block nodes that are none of the machine's own (`diskN`, `fileN` and what QEMU opened below them).
    pub nodes: BTreeSet<String>,
    /// Exports of the NBD server and others.
    pub exports: BTreeSet<String>,
    /// Block jobs.
    pub jobs: BTreeSet<String>,
    /// Dirty bitmaps, as `NODE/BITMAP`. A committed point relies on one for each disk.
    pub bitmaps: BTreeSet<String>,
    /// The node that each of the machine's devices uses, as `DEVICE=NODE`.
    pub devices: BTreeSet<String>,
}

impl Leftovers {
    /// Nothing is attached: no node, no export, no job, and each device uses its own disk. Bitmaps may be there.
    pub fn nothing_attached(&self) -> bool {
        let own = |device: &String| {
            device.split_once('=').is_some_and(|(device, node)| {
                device.strip_prefix("vd").is_some_and(|number| node.strip_prefix("disk") == Some(number))
            })
        };
        self.nodes.is_empty() && self.exports.is_empty() && self.jobs.is_empty() && self.devices.iter().all(own)
    }
}

/// Asks a guest's QEMU, through the owner's control socket.
///
/// # Errors
/// QEMU does not answer.
pub fn leftovers(guest: &Guest) -> Result<Leftovers, DemoError> {
    let mut control = guest.control()?;
    let mut found = Leftovers::default();
    let nodes = control.execute("query-named-block-nodes", json!({ "flat": true }))?;
    for node in nodes.as_array().into_iter().flatten() {
        let name = text(node, "node-name");
        // QEMU numbers what it opens by itself, such as the backing files of a disk: `#block123`.
        if !is_own(&name) && !name.starts_with('#') {
            found.nodes.insert(name.clone());
        }
        for bitmap in node.get("dirty-bitmaps").and_then(Value::as_array).into_iter().flatten() {
            found.bitmaps.insert(format!("{name}/{}", text(bitmap, "name")));
        }
    }
    for export in control.execute("query-block-exports", json!({}))?.as_array().into_iter().flatten() {
        found.exports.insert(text(export, "id"));
    }
    for job in control.execute("query-jobs", json!({}))?.as_array().into_iter().flatten() {
        found.jobs.insert(text(job, "id"));
    }
    for number in 0..guest.disks().len() {
        let path = format!("/machine/peripheral/vd{number}");
        let drive = control.execute("qom-get", json!({ "path": path, "property": "drive" }))?;
        found.devices.insert(format!("vd{number}={}", drive.as_str().unwrap_or_default()));
    }
    Ok(found)
}

fn is_own(node: &str) -> bool {
    let numbered = |prefix: &str| {
        node.strip_prefix(prefix)
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    numbered("disk") || numbered("file")
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The numbers of the processes whose arguments have this UUID, with dashes.
pub fn processes_with_uuid(uuid: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has_uuid = |number: &u32| {
        let arguments = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument == uuid.as_bytes())
    };
    numbers.filter(has_uuid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::World;

    #[test]
    fn what_is_added_to_a_guest_is_found() {
        let mut world = World::new().expect("a world");
        world.resume_guest("orders").expect("a guest");
        let guest = world.guest("orders");
        let before = leftovers(guest).expect("asked");
        assert!(before.nothing_attached() && before.bitmaps.is_empty(), "{before:?}");
        assert_eq!(processes_with_uuid(guest.uuid()), [guest.process_id()]);

        let mut control = guest.control().expect("QEMU answers");
        let mut run = |command: &str, arguments: Value| control.execute(command, arguments).expect(command);
        run("block-dirty-bitmap-add", json!({ "node": "disk0", "name": "b" }));
        run("blockdev-add", json!({ "driver": "null-co", "node-name": "extra", "size": 1 << 20 }));
        drop(control);
        let after = leftovers(guest).expect("asked");
        assert!(!after.nothing_attached(), "{after:?}");
        assert_eq!(after.nodes.into_iter().collect::<Vec<_>>(), ["extra"]);
        assert_eq!(after.bitmaps.into_iter().collect::<Vec<_>>(), ["disk0/b"]);
    }
}
