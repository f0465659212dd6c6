//! Disks in the making at the target: sparse raw files, which every QEMU starts from.
//!
//! ```text
//! MACHINE-FOLDER/OWNER/run-RUN/disk-ID.raw            a disk
//! MACHINE-FOLDER/OWNER/run-RUN/machine-ID/ID.disk     says that the disk belongs to the machine
//! MACHINE-FOLDER/OWNER/run-RUN/machine-ID/serial.log  what the machine printed
//! SOCKET-FOLDER/ID.qmp, ID.agent                      the machine's sockets, whose paths have to be short
//! ```
//!
//! The folders say whose everything is, so that nothing depends on a journal.

use serde::{Deserialize, Serialize};

use crate::{
    bindings::{
        exports::farshore::platform::target_disks::{DiskRequest, DiskStatus, DiskStep},
        farshore::platform::model::Done,
    },
    error::{PlatformError, Result, while_doing},
    ports::{Host, HostError, Place},
    settings::Settings,
};

/// What later calls must know of a disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskState {
    version: u32,
    pub(crate) owner: String,
    pub(crate) run: String,
    pub(crate) id: String,
    pub(crate) bytes: u64,
}

/// An id of the host's: it becomes part of a path.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// An owner tag: it becomes part of a path.
pub(crate) fn is_owner(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=32).contains(&text.len()) && text.bytes().all(allowed)
}

impl DiskState {
    pub(crate) fn new(owner: &str, run: &str, id: &str, bytes: u64) -> Self {
        Self { version: 1, owner: owner.into(), run: run.into(), id: id.into(), bytes }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let state: Self = serde_json::from_slice(bytes)
            .map_err(|error| PlatformError::NotFound(format!("this is not the state of a disk: {error}")))?;
        if state.version != 1 || !is_owner(&state.owner) || !is_id(&state.run) || !is_id(&state.id) {
            return Err(PlatformError::NotFound("this is not the state of a disk".into()));
        }
        Ok(state)
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| PlatformError::Failed(error.to_string()))
    }

    pub(crate) fn path(&self, settings: &Settings) -> Result<String> {
        Ok(format!("{}/disk-{}.raw", run_folder(settings, &self.owner, &self.run)?, self.id))
    }
}

/// The folder of a run.
pub(crate) fn run_folder(settings: &Settings, owner: &str, run: &str) -> Result<String> {
    Ok(format!("{}/{owner}/run-{run}", settings.machine_folder()?))
}

/// Removes the folders of a run, if nothing else is in them.
pub(crate) fn remove_empty_folders(host: &dyn Host, settings: &Settings, owner: &str, run: &str) -> Result<()> {
    let run = run_folder(settings, owner, run)?;
    if host.remove_file(&run).is_ok() {
        // The owner's folder often holds other runs, and then stays.
        let _ = host.remove_file(&format!("{}/{owner}", settings.machine_folder()?));
    }
    Ok(())
}

fn ready(state: &DiskState, note: &str) -> Result<DiskStep> {
    Ok(DiskStep { state: state.to_bytes()?, status: DiskStatus::Ready(Done { note: note.into() }) })
}

/// `target-disks.begin-disk`.
///
/// # Errors
/// As in the interface.
pub fn begin(host: &dyn Host, request: &DiskRequest) -> Result<DiskStep> {
    if !is_id(&request.id) || !is_id(&request.run) || !is_owner(&request.owner) {
        return Err(PlatformError::Failed("the host asked for a disk with ids that are none".into()));
    }
    let settings = Settings::load(host)?;
    let state = DiskState::new(&request.owner, &request.run, &request.id, request.size_bytes);
    let path = state.path(&settings)?;
    match host.create_file(&path, request.size_bytes) {
        Ok(_) => {}
        // Asked again for the same id.
        Err(HostError::Conflict(_)) => check_size(host, &path, request.size_bytes)?,
        Err(error) => {
            remove_empty_folders(host, &settings, &request.owner, &request.run)?;
            let doing = format!("making disk {} of machine {}", request.disk, request.machine_name);
            return Err(while_doing(doing, &error));
        }
    }
    ready(&state, "")
}

fn check_size(host: &dyn Host, path: &str, expected_bytes: u64) -> Result<()> {
    let file = host.inspect_file(path).map_err(|error| match error {
        HostError::NotFound(text) => PlatformError::NotFound(text),
        error => while_doing(format!("looking at {path}"), &error),
    })?;
    if file.size_bytes != expected_bytes {
        let text = format!("{path} has {} bytes where {expected_bytes} are expected", file.size_bytes);
        return Err(PlatformError::Conflict(text));
    }
    Ok(())
}

/// `target-disks.open-disk`: where it is.
///
/// # Errors
/// As in the interface.
pub fn open(host: &dyn Host, state: &[u8]) -> Result<Place> {
    Ok(Place::File { path: DiskState::parse(state)?.path(&Settings::load(host)?)? })
}

/// `target-disks.seal-disk` and `continue-disk`.
///
/// # Errors
/// As in the interface.
pub fn seal(host: &dyn Host, state: &[u8]) -> Result<DiskStep> {
    let state = DiskState::parse(state)?;
    check_size(host, &state.path(&Settings::load(host)?)?, state.bytes)?;
    ready(&state, "")
}

/// `target-disks.discard-disk`.
///
/// # Errors
/// As in the interface.
pub fn discard(host: &dyn Host, state: &[u8]) -> Result<Done> {
    let state = DiskState::parse(state)?;
    let settings = Settings::load(host)?;
    let path = state.path(&settings)?;
    host.remove_file(&path).map_err(|error| while_doing(format!("removing {path}"), &error))?;
    remove_empty_folders(host, &settings, &state.owner, &state.run)?;
    Ok(Done { note: String::new() })
}
