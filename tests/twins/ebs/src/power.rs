//! The lives of instances: QEMU, which one thread at a time starts, holds or ends.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use farshore_demo::{
    Stop,
    guest::{DiskFormat, Guest, GuestDisk, GuestOptions, Qmp},
};
use serde_json::json;

use crate::{
    account::Account,
    failure::Failure,
    model::{InstanceState, State},
};

/// How long a guest has to turn itself off after its power button was pressed.
const OBEYS_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// What runs an instance. Who has the guest is the only one who starts, holds or ends it.
#[derive(Debug)]
pub struct Power {
    guest: Mutex<Option<Guest>>,
    /// Whoever waits for the guest to obey waits no more.
    forced: AtomicBool,
    stop: Stop,
    /// Its sockets, its logs and the files of its volumes.
    pub folder: PathBuf,
}

/// A guest that stands still until this is dropped.
#[derive(Debug)]
pub struct Held<'a> {
    control: Option<Qmp>,
    guest: MutexGuard<'a, Option<Guest>>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // A guest that has ended meanwhile needs nothing.
        let goes_on = self.control.as_mut().map(|control| control.execute("cont", json!({})));
        if let (Some(Err(_)), Some(guest)) = (goes_on, &*self.guest) {
            let _ = guest.control().and_then(|mut control| control.execute("cont", json!({})));
        }
    }
}

impl Power {
    /// That of a new instance.
    pub fn new(folder: PathBuf) -> Arc<Self> {
        Arc::new(Self { guest: Mutex::default(), forced: AtomicBool::new(false), stop: Stop::default(), folder })
    }

    fn guest(&self) -> MutexGuard<'_, Option<Guest>> {
        self.guest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the guest has written to its console.
    pub fn console(&self) -> Vec<u8> {
        // One that was never started has written nothing.
        fs::read(self.folder.join("serial.log")).unwrap_or_default()
    }

    /// Whether the guest has turned itself off. Not told while somebody is at it.
    pub fn has_ended(&self) -> bool {
        let Ok(mut guest) = self.guest.try_lock() else { return false };
        let has_ended = guest.as_mut().is_some_and(|guest| !guest.is_running());
        if has_ended {
            *guest = None;
        }
        has_ended
    }

    /// Holds the guest, if there is one.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn hold(&self) -> Result<Held<'_>> {
        let mut held = Held { control: None, guest: self.guest() };
        if let Some(guest) = &*held.guest {
            held.control = Some(guest.control()?);
        }
        if let Some(control) = &mut held.control {
            control.execute("stop", json!({}))?;
        }
        Ok(held)
    }

    /// Ends everything, and whoever waits.
    pub fn end(&self) {
        self.stop.request();
        self.forced.store(true, Ordering::SeqCst);
        *self.guest() = None;
    }

    /// Starts QEMU with these disks.
    fn start(&self, name: &str, disks: Vec<PathBuf>) -> Result<Guest> {
        let disks = disks.into_iter().map(|path| GuestDisk { path, format: DiskFormat::Raw }).collect();
        let (folder, stop) = (self.folder.clone(), self.stop.clone());
        Ok(Guest::start(GuestOptions { name: name.to_owned(), folder, disks, arguments: Vec::new(), stop })?)
    }

    /// Presses the power button, and kills the guest that does not obey, or when that is wanted.
    fn turn_off(&self) {
        let mut place = self.guest();
        let Some(mut guest) = place.take() else { return };
        // One that does not answer does not obey either.
        let pressed = guest.control().and_then(|mut control| control.execute("system_powerdown", json!({})));
        let mut waited = Duration::ZERO;
        while pressed.is_ok() && guest.is_running() && waited < OBEYS_MAX && !self.forced.load(Ordering::SeqCst) {
            std::thread::park_timeout(POLL);
            waited += POLL;
        }
        guest.kill();
    }
}

impl Account {
    /// Makes an instance run that is pending.
    pub fn power_on(self: &Arc<Self>, id: String) {
        self.in_background(move |account| {
            let power = account.state().instances.get(&id).map(|instance| Arc::clone(&instance.power));
            let Some(power) = power else { return };
            let mut guest = power.guest();
            let started = account.started(&id, &power);
            let mut state = account.state();
            // It may have been terminated before it ran.
            let Some(instance) = state.instances.get_mut(&id).filter(|found| found.state == InstanceState::Pending)
            else {
                return;
            };
            match started {
                Ok(started) => (instance.state, *guest) = (InstanceState::Running, started),
                Err(error) => {
                    instance.reason = format!("Server.InternalError: {error:#}");
                    instance.state = InstanceState::ShuttingDown;
                    account.gone(&mut state, &id);
                }
            }
        });
    }

    /// Makes the files of the volumes of an instance that has none yet, and starts its guest if this twin has guests.
    fn started(&self, id: &str, power: &Power) -> Result<Option<Guest>> {
        let volumes: Vec<_> = {
            let state = self.state();
            let instance = state.instances.get(id).context("it is gone")?;
            if instance.state != InstanceState::Pending {
                return Ok(None);
            }
            let volumes = state.volumes.values().filter(|volume| volume.instance == id);
            let mut volumes: Vec<_> = volumes.cloned().collect();
            volumes.sort_by_key(|volume| (volume.device != instance.root_device, volume.device.clone()));
            volumes
        };
        for volume in volumes.iter().filter(|volume| !volume.file.exists()) {
            volume.newest.to_volume(&volume.file, volume.size_gib)?;
        }
        if !self.options.runs {
            return Ok(None);
        }
        power.start(id, volumes.into_iter().map(|volume| volume.file).collect()).map(Some)
    }

    /// Starts an instance that is stopped.
    pub fn start(self: &Arc<Self>, state: &mut State, id: &str) {
        if let Some(instance) = state.instances.get_mut(id).filter(|found| found.state == InstanceState::Stopped) {
            instance.state = InstanceState::Pending;
            instance.power.forced.store(false, Ordering::SeqCst);
            self.power_on(id.to_owned());
        }
    }

    /// Stops an instance: by its power button, or at once.
    pub fn stop(self: &Arc<Self>, state: &mut State, id: &str, forced: bool) {
        let Some(instance) = state.instances.get_mut(id) else { return };
        if !matches!(instance.state, InstanceState::Running | InstanceState::Stopping) {
            return;
        }
        if forced {
            instance.power.forced.store(true, Ordering::SeqCst);
        }
        if instance.state == InstanceState::Running {
            instance.state = InstanceState::Stopping;
            self.turn_off(id.to_owned(), Arc::clone(&instance.power));
        }
    }

    /// Ends an instance, with those of its volumes that go with it.
    pub fn terminate(self: &Arc<Self>, state: &mut State, id: &str) {
        let Some(instance) = state.instances.get_mut(id) else { return };
        if matches!(instance.state, InstanceState::ShuttingDown | InstanceState::Terminated) {
            return;
        }
        instance.state = InstanceState::ShuttingDown;
        instance.power.forced.store(true, Ordering::SeqCst);
        self.turn_off(id.to_owned(), Arc::clone(&instance.power));
    }

    /// Turns an instance off, after whatever is being done with it.
    fn turn_off(self: &Arc<Self>, id: String, power: Arc<Power>) {
        self.in_background(move |account| {
            power.turn_off();
            let mut state = account.state();
            match state.instances.get_mut(&id) {
                Some(instance) if instance.state == InstanceState::Stopping => instance.state = InstanceState::Stopped,
                Some(instance) if instance.state == InstanceState::ShuttingDown => account.gone(&mut state, &id),
                _ => {}
            }
        });
    }

    /// An instance is gone, with those of its volumes that go with it.
    fn gone(&self, state: &mut State, id: &str) {
        if let Some(instance) = state.instances.get_mut(id) {
            instance.state = InstanceState::Terminated;
        }
        for volume in state.volumes.values_mut().filter(|volume| volume.instance == id) {
            volume.instance.clear();
            if volume.delete_on_termination {
                // It may not have been made.
                let _ = fs::remove_file(&volume.file);
            }
        }
        state.volumes.retain(|_, volume| !(volume.instance.is_empty() && volume.delete_on_termination));
    }

    /// Holds an instance's guest, if it runs or is stopped.
    ///
    /// # Errors
    /// It does neither, or QEMU does not answer.
    pub fn hold<'a>(&self, id: &str, power: &'a Power) -> Result<Held<'a>, Failure> {
        let held = power.hold().map_err(Failure::internal)?;
        let state = self.state().instances.get(id).map(|instance| instance.state);
        match state {
            Some(InstanceState::Running | InstanceState::Stopped) => Ok(held),
            state => {
                let shown = state.map_or("gone", |state| state.shown().1);
                Err(Failure::new(400, "IncorrectInstanceState", format!("The instance '{id}' is {shown}")))
            }
        }
    }
}
