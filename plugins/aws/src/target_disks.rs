//! Disks in the making at the target: snapshots that are written block by block over EBS direct, and exist once they are
//! sealed.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    api::{Api, header},
    bindings::exports::farshore::platform::target_disks::{DiskRequest, DiskStatus, DiskStep, WrittenBlocks},
    bindings::farshore::platform::model::{Done, Pending},
    blocks::place_of_target,
    error::{PlatformError, Result, no_state},
    inventory::GIB,
    ports::{BlockDisk, Host, Method},
    snapshots,
    tags::{DISK, ID, KIND, NAME, OWNER, RUN, is_id, is_owner, tags},
};

/// A snapshot that no block comes to for so long fails by itself. It is EBS's longest: a run may wait for a decision.
const WRITE_TIMEOUT_MINUTES: u32 = 4_320;
const POLL_MILLISECONDS_MIN: u32 = 500;
const POLL_MILLISECONDS_MAX: u32 = 15_000;
/// So often is looked for a snapshot that nobody sees.
const LOOKS_MAX: u32 = 15;
/// In GiB, of a volume.
pub(crate) const VOLUME_GIB_MAX: u64 = 65_536;

/// What later calls must know of a disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskState {
    version: u32,
    pub(crate) owner: String,
    pub(crate) run: String,
    pub(crate) id: String,
    pub(crate) snapshot: String,
    pub(crate) size_bytes: u64,
    /// How often it was looked whether it is complete.
    #[serde(default)]
    polls: u32,
}

impl DiskState {
    pub(crate) fn new(owner: &str, run: &str, id: &str, snapshot: &str, size_bytes: u64) -> Self {
        let (owner, run, id) = (owner.to_owned(), run.to_owned(), id.to_owned());
        Self { version: 1, owner, run, id, snapshot: snapshot.to_owned(), size_bytes, polls: 0 }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let state: Self = serde_json::from_slice(bytes).map_err(|error| no_state("a disk", error))?;
        if state.version != 1 || !is_owner(&state.owner) || !state.snapshot.starts_with("snap-") {
            return Err(no_state("a disk", "its version, owner or snapshot is wrong"));
        }
        Ok(state)
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| PlatformError::Failed(error.to_string()))
    }

    /// In GiB, of which volumes have whole ones.
    pub(crate) fn gib(&self) -> u64 {
        self.size_bytes.div_ceil(GIB)
    }
}

fn ready(state: &DiskState) -> Result<DiskStep> {
    Ok(DiskStep { state: state.to_bytes()?, status: DiskStatus::Ready(Done { note: String::new() }) })
}

/// `target-disks.begin-disk`.
///
/// # Errors
/// As in the interface.
pub fn begin(host: &dyn Host, request: &DiskRequest) -> Result<DiskStep> {
    if !is_id(&request.id) || !is_id(&request.run) || !is_owner(&request.owner) {
        return Err(PlatformError::Failed("the host asked for a disk with ids that are none".into()));
    }
    let named = format!("disk {} of machine {}", request.disk, request.machine_name);
    let gib = request.size_bytes.div_ceil(GIB);
    if gib == 0 || gib > VOLUME_GIB_MAX {
        let text = format!("{named} has {gib} GiB: a volume of EBS has at most {VOLUME_GIB_MAX}");
        return Err(PlatformError::Unsupported(text));
    }
    let name = format!("farshore {} {}", request.machine_name, request.disk);
    let tags =
        tags([(NAME, name.as_str()), (OWNER, &request.owner), (KIND, DISK), (ID, &request.id), (RUN, &request.run)]);
    let tags: Vec<Value> = tags.iter().map(|(key, value)| json!({ "Key": key, "Value": value })).collect();
    let body = json!({
        "VolumeSize": gib,
        "ClientToken": request.id,
        "Description": "Farshore restores a disk to this",
        "Tags": tags,
        "Timeout": WRITE_TIMEOUT_MINUTES,
    });
    let begun = Api::new(host).ebs(Method::Post, "/snapshots".into(), Vec::new(), Some(&body));
    let begun = begun.map_err(|error| error.while_doing(format!("beginning the snapshot of {named}")))?;
    let snapshot = begun.get("SnapshotId").and_then(Value::as_str).unwrap_or_default();
    if !snapshot.starts_with("snap-")
        || begun.get("BlockSize").and_then(Value::as_u64) != Some(crate::blocks::BLOCK_BYTES.into())
    {
        return Err(PlatformError::Failed(format!("EBS began a snapshot for {named} that is none of 512 KiB blocks")));
    }
    ready(&DiskState::new(&request.owner, &request.run, &request.id, snapshot, request.size_bytes))
}

/// `target-disks.open-disk`: its blocks.
///
/// # Errors
/// As in the interface.
pub fn open(state: &[u8]) -> Result<BlockDisk> {
    let state = DiskState::parse(state)?;
    Ok(place_of_target(&state.snapshot, state.size_bytes))
}

/// `target-disks.seal-disk`.
///
/// # Errors
/// As in the interface.
pub fn seal(host: &dyn Host, state: &[u8], written: Option<&WrittenBlocks>) -> Result<DiskStep> {
    let state = DiskState::parse(state)?;
    let Some(written) = written else {
        return Err(PlatformError::Failed("the host does not say what it wrote to the snapshot".into()));
    };
    let headers = vec![
        header("x-amz-changedblockscount", written.count.to_string()),
        header("x-amz-checksum", written.checksum.clone()),
        header("x-amz-checksum-algorithm", "SHA256"),
        header("x-amz-checksum-aggregation-method", "LINEAR"),
    ];
    let api = Api::new(host);
    let target = format!("/snapshots/completion/{}", state.snapshot);
    match api.ebs(Method::Post, target, headers, None) {
        Ok(_) => go_on_from(&api, state),
        // It may be sealed already, by an answer that was lost: then it can be seen.
        Err(error) if error.code() == "ValidationException" => match snapshots::look(&api, &state.snapshot) {
            Ok(Some(seen)) if seen.status == "completed" => ready(&state),
            _ => Err(error.while_doing(format!("sealing the snapshot {}", state.snapshot))),
        },
        Err(error) => Err(error.while_doing(format!("sealing the snapshot {}", state.snapshot))),
    }
}

/// `target-disks.continue-disk`.
///
/// # Errors
/// As in the interface.
pub fn go_on(host: &dyn Host, state: &[u8]) -> Result<DiskStep> {
    go_on_from(&Api::new(host), DiskState::parse(state)?)
}

fn go_on_from(api: &Api<'_>, mut state: DiskState) -> Result<DiskStep> {
    let id = state.snapshot.clone();
    let seen = snapshots::look(api, &id);
    let seen = seen.map_err(|error| error.while_doing(format!("looking at the snapshot {id}")))?;
    match seen.as_ref().map(|seen| seen.status.as_str()) {
        Some("completed") => return ready(&state),
        Some("error") => {
            let why = seen.map(|seen| seen.status_message).unwrap_or_default();
            let text = format!("EBS did not accept what was written to the snapshot {id}");
            return Err(PlatformError::Failed(if why.is_empty() { text } else { format!("{text}: {why}") }));
        }
        None if state.polls >= LOOKS_MAX => {
            return Err(PlatformError::NotFound(format!("the snapshot {id} cannot be seen: somebody has removed it")));
        }
        Some(_) | None => {}
    }
    let poll_after_milliseconds =
        POLL_MILLISECONDS_MIN.saturating_mul(1 << state.polls.min(5)).min(POLL_MILLISECONDS_MAX);
    state.polls = state.polls.saturating_add(1);
    let doing = format!("waiting for the snapshot {id} to be complete");
    Ok(DiskStep { state: state.to_bytes()?, status: DiskStatus::Pending(Pending { doing, poll_after_milliseconds }) })
}

/// `target-disks.discard-disk`.
///
/// # Errors
/// As in the interface.
pub fn discard(host: &dyn Host, state: &[u8]) -> Result<Done> {
    let state = DiskState::parse(state)?;
    snapshots::delete(&Api::new(host), &state.snapshot, false)?;
    Ok(Done { note: String::new() })
}
