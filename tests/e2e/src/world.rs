//! A temporary world: guests, a configuration, a vault, and whatever comes from them.

use std::{path::Path, time::Duration};

use farshore_demo::{
    DemoError, Stop,
    command::{Farshore, Finished, Running},
    guest::{DiskFormat, Guest, GuestDisk, GuestOptions, disk},
    image::{self, GuestImage},
    recovered::{self, RecoveredMachine},
    site::{ProtectedGroup, ProtectedMachine, Site},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::binary;

/// How long a command may take that runs to its end: a drill boots a guest under emulation.
pub const COMMAND_MAX: Duration = Duration::from_secs(400);

/// The guest's image, from the cache; built if it is not there.
///
/// # Errors
/// As [`image::prepare`].
pub fn image() -> Result<GuestImage, DemoError> {
    image::prepare(&image::default_cache(), &mut |line| eprintln!("{line}"))
}

/// A temporary world. See the crate.
#[derive(Debug)]
pub struct World {
    /// The configuration's site; `protect` and `protect_group` write it. Change it and call `write_configuration`.
    pub site: Site,
    guests: Vec<Guest>,
    /// Declared last: the folder goes after everything that uses it.
    folder: TempDir,
}

impl World {
    /// An empty world with a folder and a passphrase.
    ///
    /// # Errors
    /// The folder for temporary files cannot be written, or its path is too long.
    pub fn new() -> Result<Self, DemoError> {
        let parent = std::env::temp_dir();
        let made = tempfile::Builder::new().prefix("fs").rand_bytes(6).tempdir_in(&parent);
        let folder = made.map_err(|source| DemoError::File { doing: "make a folder in", path: parent, source })?;
        Ok(Self { site: Site::new(folder.path())?, guests: Vec::new(), folder })
    }

    /// The folder of the world.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Adds a guest that has just booted, in about half a second. Its disk is a qcow2 overlay.
    ///
    /// # Errors
    /// As [`Guest::resume`].
    pub fn resume_guest(&mut self, name: &str) -> Result<&mut Guest, DemoError> {
        let guest = Guest::resume(&image()?, name, &self.guest_folder(name), &Stop::default())?;
        Ok(self.add_guest(guest))
    }

    /// Adds a guest that boots from a disk of its own, which stands alone, and waits until it is up.
    ///
    /// # Errors
    /// As [`Guest::boot`].
    pub fn boot_guest(&mut self, name: &str, format: DiskFormat) -> Result<&mut Guest, DemoError> {
        let folder = self.guest_folder(name);
        std::fs::create_dir_all(&folder).map_err(|source| DemoError::File {
            doing: "make",
            path: folder.clone(),
            source,
        })?;
        let disk = disk::copy(&image()?.disk, &folder.join(format!("disk0.{}", format.as_str())), format)?;
        let (guest, _) = Guest::boot(self.guest_options(name, vec![disk]))?;
        Ok(self.add_guest(guest))
    }

    /// Adds a guest that was started otherwise.
    pub fn add_guest(&mut self, guest: Guest) -> &mut Guest {
        self.guests.push(guest);
        self.guests.last_mut().expect("one was just added")
    }

    /// What starts a guest of this name with these disks in its own folder of this world.
    pub fn guest_options(&self, name: &str, disks: Vec<GuestDisk>) -> GuestOptions {
        let folder = self.guest_folder(name);
        GuestOptions { name: name.to_owned(), folder, disks, arguments: Vec::new(), stop: Stop::default() }
    }

    fn guest_folder(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join("g").join(name)
    }

    /// A guest by its name.
    ///
    /// # Panics
    /// There is none of this name: the test is wrong.
    pub fn guest(&self, name: &str) -> &Guest {
        self.guests.iter().find(|guest| guest.name() == name).expect("a guest of this name")
    }

    /// A guest by its name, to change it.
    ///
    /// # Panics
    /// There is none of this name: the test is wrong.
    pub fn guest_mut(&mut self, name: &str) -> &mut Guest {
        self.guests.iter_mut().find(|guest| guest.name() == name).expect("a guest of this name")
    }

    /// Takes a guest out of the world; dropping it kills it.
    ///
    /// # Panics
    /// There is none of this name: the test is wrong.
    pub fn take_guest(&mut self, name: &str) -> Guest {
        let position = self.guests.iter().position(|guest| guest.name() == name).expect("a guest of this name");
        self.guests.remove(position)
    }

    /// Protects guests as one group, crash-consistent with an objective of 5 s, and writes the configuration.
    ///
    /// # Errors
    /// The configuration cannot be written.
    pub fn protect(&mut self, group: &str, guests: &[&str]) -> Result<(), DemoError> {
        self.protect_group(ProtectedGroup::new(group, guests))
    }

    /// Protects a group, and writes the configuration.
    ///
    /// # Errors
    /// The configuration cannot be written.
    pub fn protect_group(&mut self, group: ProtectedGroup) -> Result<(), DemoError> {
        for name in &group.machines {
            let machine = ProtectedMachine::from(self.guest(name));
            self.site.machines.retain(|known| known.name != *name);
            self.site.machines.push(machine);
        }
        self.site.groups.retain(|known| known.name != group.name);
        self.site.groups.push(group);
        self.write_configuration()
    }

    /// Writes the configuration as [`World::site`] is now.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_configuration(&self) -> Result<(), DemoError> {
        self.site.write()
    }

    /// The command line with this world's configuration.
    ///
    /// # Errors
    /// The binary was not built.
    pub fn farshore(&self) -> Result<Farshore, DemoError> {
        let logs = self.folder.path().join("logs");
        std::fs::create_dir_all(&logs).map_err(|source| DemoError::File {
            doing: "make",
            path: logs.clone(),
            source,
        })?;
        Ok(Farshore { binary: binary()?, configuration: self.site.configuration_file(), logs, stop: Stop::default() })
    }

    /// Runs a command to its end, whether it succeeds or not.
    ///
    /// # Errors
    /// It cannot be started or takes longer than [`COMMAND_MAX`].
    pub fn run(&self, arguments: &[&str]) -> Result<Finished, DemoError> {
        self.farshore()?.run(arguments, COMMAND_MAX)
    }

    /// Runs a command that must succeed, and returns its JSON document.
    ///
    /// # Errors
    /// It fails, or answers something else than one JSON document (several lines become an array).
    pub fn succeed(&self, arguments: &[&str]) -> Result<Value, DemoError> {
        json(&self.run(arguments)?.succeeded()?)
    }

    /// Starts a command that goes on, such as `replicate --watch`. Dropping it kills it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, arguments: &[&str]) -> Result<Running, DemoError> {
        self.farshore()?.start(arguments)
    }

    /// The recovered machines of this world that run now, of drills and of failovers.
    ///
    /// # Errors
    /// The system does not show its processes.
    pub fn recovered(&self) -> Result<Vec<RecoveredMachine>, DemoError> {
        self.site.recovered_machines()
    }

    /// Whether a restored raw disk is the same as a guest's disk, as `qemu-img compare` says. The guest must be held or
    /// ended.
    ///
    /// # Errors
    /// `qemu-img` cannot read one of them.
    pub fn identical(&self, guest: &str, disk: usize, raw: &Path) -> Result<bool, DemoError> {
        let disks = self.guest(guest).disks();
        let own = disks.get(disk).expect("the guest has this disk");
        disk::identical(own, &GuestDisk { path: raw.to_owned(), format: DiskFormat::Raw })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for guest in &mut self.guests {
            guest.kill();
        }
        let recovered = recovered::machines_below(self.folder.path()).unwrap_or_default();
        for machine in recovered {
            if let Err(error) = machine.end() {
                eprintln!("a recovered machine outlives its test: {error}");
            }
        }
    }
}

/// The JSON document of a command that ended; several documents, one a line, become an array.
///
/// # Errors
/// What it wrote is not JSON.
pub fn json(finished: &Finished) -> Result<Value, DemoError> {
    if let Ok(document) = finished.json() {
        return Ok(document);
    }
    let lines: Result<Vec<Value>, _> = finished.output.lines().map(serde_json::from_str).collect();
    lines.map(Value::Array).or_else(|_| finished.json())
}
