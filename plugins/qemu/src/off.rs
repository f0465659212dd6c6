//! Captures of machines that are off: nobody listens on their control sockets, and the operator has named their images.
//!
//! # How the view is made
//! A storage daemon (`storage_daemon.rs`) opens the images and exports them, each with a frozen bitmap of what changed, as
//! QEMU does for a machine that runs. Nothing is written to an image, nor locked, so that the machine can be started at
//! any time. There is nothing to freeze and nobody to hold: the images are what the machine left, and share any instant
//! with other machines of the group.
//!
//! # That it holds
//! A view is whole if nobody wrote to the image from before it was opened until after it was read. Each image is looked at
//! before the daemon is started, and again when the capture is verified, and must have the same [`Stamp`]; and nobody may
//! listen on the machine's control socket then. A QEMU that is started meanwhile spoils what is read, and is noticed by
//! both.
//!
//! # Change tracking
//! It is told in `tracking.rs` what the tokens stand for. An image whose stamp is that of the request's token has not
//! changed. Otherwise the bitmap that QEMU kept in it tells what has, if it has seen every write.

use serde_json::json;

use crate::{
    bindings::exports::farshore::platform::source::{CaptureRequest, TrackedDisk},
    capture_state::{StateDisk, StateMachine},
    error::{PlatformError, Result, platform_sentence, while_doing},
    graph::Node,
    names::{Names, Role},
    nbd_probe,
    ports::{Host, Level},
    qmp::{self, Client},
    settings::{ImageSettings, MachineSettings, Settings},
    storage_daemon::{self, Image},
    tracking::{self, GRANULARITY_BYTES, Stamp, Token},
};

/// A machine that is off, on its way into a capture.
pub(crate) struct Member<'s> {
    machine: &'s MachineSettings,
    disks: Vec<Planned<'s>>,
}

/// A disk of it.
struct Planned<'s> {
    image: &'s ImageSettings,
    stamp: Stamp,
    tracked: Option<&'s TrackedDisk>,
}

/// What the changes of a disk are since the request's token.
enum Changes {
    /// None. The bitmap that the token names, if it names one, goes on.
    None(Option<String>),
    /// What this bitmap in the image has recorded.
    Bitmap(String),
    /// Nobody knows, for this reason.
    Unknown(String),
}

fn what(machine: &str, disk: &str) -> String {
    format!("machine {machine} is off, and the image of its disk {disk}")
}

impl<'s> Member<'s> {
    /// Looks at the images of a machine, before they are opened.
    ///
    /// # Errors
    /// As [`Stamp::take`].
    pub(crate) fn plan(host: &dyn Host, request: &'s CaptureRequest, machine: &'s MachineSettings) -> Result<Self> {
        let mut disks = Vec::with_capacity(machine.images.len());
        for image in &machine.images {
            let tracked = |entry: &&TrackedDisk| entry.machine == machine.name && entry.disk == image.disk;
            let stamp = Stamp::take(host, &what(&machine.name, &image.disk), &image.path)?;
            disks.push(Planned { image, stamp, tracked: request.tracked.iter().find(tracked) });
        }
        Ok(Self { machine, disks })
    }

    /// The machine's name.
    pub(crate) fn name(&self) -> &'s str {
        &self.machine.name
    }

    /// How many disks it has.
    pub(crate) fn disk_count(&self) -> usize {
        self.disks.len()
    }

    fn images(&self, names: &Names) -> Vec<Image<'s>> {
        let images = self.disks.iter().enumerate();
        images.map(|(index, disk)| Image { node: names.node(index, Role::Image), settings: disk.image }).collect()
    }

    /// Has the daemon export everything.
    fn show(&self, host: &dyn Host, settings: &Settings, names: &Names) -> Result<StateMachine> {
        let name = self.name();
        let (mut client, nodes) = storage_daemon::visit(host, settings, name, &self.images(names))?;
        let socket = storage_daemon::disk_socket(settings, name)?;
        client.run("nbd-server-start", json!({ "addr": { "type": "unix", "data": { "path": socket } } }))?;
        let mut disks = Vec::with_capacity(self.disks.len());
        for (index, (disk, node)) in self.disks.iter().zip(&nodes).enumerate() {
            let changes = disk.changes(&names.owner, node);
            show(&mut client, names, index, &changes)?;
            disks.push(disk.to_state(node.size_bytes, changes));
        }
        Ok(StateMachine { name: name.to_owned(), off: true, disks })
    }
}

/// The frozen copy of what changed, and the export.
fn show(client: &mut Client<'_>, names: &Names, index: usize, changes: &Changes) -> Result<()> {
    let (view, frozen, export) = (names.node(index, Role::Image), names.frozen(index), names.node(index, Role::Export));
    let bitmap = json!({ "node": view, "name": frozen, "granularity": GRANULARITY_BYTES, "disabled": true });
    // Also where it is of no use: it has the capture's whole id, which `list_owned` tells.
    client.run("block-dirty-bitmap-add", bitmap)?;
    let mut bitmaps = vec![json!({ "node": view, "name": frozen })];
    match changes {
        Changes::None(_) => {}
        Changes::Bitmap(name) => {
            let merge = json!({ "node": view, "target": frozen, "bitmaps": [name] });
            client.run("block-dirty-bitmap-merge", merge)?;
        }
        Changes::Unknown(_) => bitmaps.clear(),
    }
    let arguments = json!({ "id": export, "type": "nbd", "node-name": view, "name": export, "writable": false, "bitmaps": bitmaps });
    client.run("block-export-add", arguments).map(drop)
}

impl Planned<'_> {
    /// Whether the image is as the request's token says.
    fn is_unchanged(&self) -> bool {
        let token = self.tracked.map(|entry| Token::parse(&entry.token));
        token.and_then(|token| token.image).is_some_and(|image| image == self.stamp.token(None))
    }

    fn changes(&self, owner: &str, node: &Node) -> Changes {
        let disk = &self.image.disk;
        match self.tracked.map(|entry| Token::parse(&entry.token)) {
            Some(token) if self.is_unchanged() => Changes::None(token.bitmap.map(str::to_owned)),
            Some(Token { image: Some(_), bitmap: None }) => Changes::Unknown(format!(
                "the image of disk {disk} was written since it was captured last, and nothing took note of what"
            )),
            _ => match tracking::follow(owner, disk, node, self.tracked) {
                Ok(bitmap) => Changes::Bitmap(bitmap),
                Err(text) => Changes::Unknown(text),
            },
        }
    }

    /// What later calls must know of it.
    fn to_state(&self, bytes: u64, changes: Changes) -> StateDisk {
        let (kept, unknown) = match changes {
            Changes::None(bitmap) => (bitmap, String::new()),
            Changes::Bitmap(bitmap) => (Some(bitmap), String::new()),
            Changes::Unknown(text) => (None, text),
        };
        let disk = self.image.disk.clone();
        StateDisk { disk, bytes, replaces: None, unknown, image: Some(self.stamp.clone()), kept }
    }
}

/// Starts the daemons of all machines that are off, has them export everything, and returns what later calls must know.
/// There must be room for them.
///
/// # Errors
/// What stands in the way. No daemon is left then.
pub(crate) fn serve(
    host: &dyn Host,
    settings: &Settings,
    names: &Names,
    members: &[Member<'_>],
) -> Result<Vec<StateMachine>> {
    if members.is_empty() {
        return Ok(Vec::new());
    }
    settle(host, members)?;
    let started = members
        .iter()
        .try_for_each(|member| storage_daemon::start(host, settings, member.name(), &member.images(names)))
        .and_then(|()| wait(host, storage_daemon::SETUP_MILLISECONDS));
    let served = started.and_then(|()| members.iter().map(|member| member.show(host, settings, names)).collect());
    if served.is_err() {
        for member in members {
            if let Err(error) = storage_daemon::end_started(host, settings, member.name()) {
                host.log(Level::Warn, &format!("a storage daemon is left: {}", platform_sentence(&error)));
            }
        }
    }
    served
}

/// Waits until the images may be read: see [`Stamp`]. For an image that is as an earlier capture left it, that one has
/// waited.
fn settle(host: &dyn Host, members: &[Member<'_>]) -> Result<()> {
    let disks = members.iter().flat_map(|member| &member.disks).filter(|disk| !disk.is_unchanged());
    disks.map(|disk| disk.stamp.settles_after_milliseconds()).max().map_or(Ok(()), |longest| wait(host, longest))
}

fn wait(host: &dyn Host, milliseconds: u32) -> Result<()> {
    host.sleep(milliseconds).map_err(|error| while_doing("waiting", &error))
}

/// Whether the view of a machine that was off still holds.
///
/// # Errors
/// `capture-broken` when it does not.
pub(crate) fn verify(host: &dyn Host, settings: &Settings, names: &Names, machine: &StateMachine) -> Result<()> {
    let broken = |text: String| PlatformError::CaptureBroken(text);
    let name = &machine.name;
    let known = settings.machine(name)?;
    if qmp::is_inhabited(host, name, &known.qmp)? {
        return Err(broken(format!("machine {name} was off, and was started while its images were read")));
    }
    let socket = storage_daemon::disk_socket(settings, name)?;
    for (index, disk) in machine.disks.iter().enumerate() {
        let id = &disk.disk;
        let image = known.images.iter().find(|image| image.disk == *id).ok_or_else(|| {
            broken(format!("disk {id} of machine {name} is no longer in the site's settings, while its image is read"))
        })?;
        let stamp = Stamp::take(host, &what(name, id), &image.path)?;
        if disk.image.as_ref() != Some(&stamp) {
            return Err(broken(format!(
                "machine {name} was off, and the image of its disk {id}, {}, was written while it was read",
                image.path
            )));
        }
        nbd_probe::check(host, &socket, &names.node(index, Role::Export)).map_err(|error| match error {
            PlatformError::CaptureBroken(text) => {
                broken(format!("the image of disk {id} of machine {name} is no longer served: {text}"))
            }
            other => other,
        })?;
    }
    Ok(())
}
