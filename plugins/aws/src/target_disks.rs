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
    settings::Settings,
    snapshots,
    tags::{DISK, ID, KIND, NAME, OWNER, RUN, is_id, is_owner, tags_of},
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
    /// Empty until EBS has answered when it was asked to begin.
    pub(crate) snapshot: String,
    pub(crate) size_bytes: u64,
    /// The snapshot that it begins from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<String>,
    /// What people call it.
    #[serde(default)]
    name: String,
    /// Why EBS refused to seal it, if it did: perhaps because it is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    /// How often it was looked whether it is complete.
    #[serde(default)]
    polls: u32,
}

impl DiskState {
    pub(crate) fn new(owner: &str, run: &str, id: &str, snapshot: &str, size_bytes: u64) -> Self {
        let (owner, run, id) = (owner.to_owned(), run.to_owned(), id.to_owned());
        let (snapshot, name) = (snapshot.to_owned(), String::new());
        Self { version: 1, owner, run, id, snapshot, size_bytes, base: None, name, refused: None, polls: 0 }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let state: Self = serde_json::from_slice(bytes).map_err(|error| no_state("a disk", error))?;
        let is_begun = state.snapshot.starts_with("snap-") || (state.snapshot.is_empty() && is_id(&state.id));
        if state.version != 1 || !is_owner(&state.owner) || !is_begun {
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
    beginning(&Api::new(host), requested(request)?)
}

/// `sealed-disks.begin-disk-from`: a snapshot of which the base's is the parent.
///
/// # Errors
/// As in the interface.
pub fn begin_from(host: &dyn Host, request: &DiskRequest, base: &[u8]) -> Result<DiskStep> {
    let (state, base) = (requested(request)?, DiskState::parse(base)?);
    if base.snapshot.is_empty() || (&base.owner, base.size_bytes) != (&state.owner, state.size_bytes) {
        let text = format!("disk {} of machine {} cannot begin from another one", request.disk, request.machine_name);
        return Err(PlatformError::Failed(text));
    }
    beginning(&Api::new(host), DiskState { base: Some(base.snapshot), ..state })
}

fn requested(request: &DiskRequest) -> Result<DiskState> {
    if !is_id(&request.id) || !is_id(&request.run) || !is_owner(&request.owner) {
        return Err(PlatformError::Failed("the host asked for a disk with ids that are none".into()));
    }
    let named = format!("disk {} of machine {}", request.disk, request.machine_name);
    let gib = request.size_bytes.div_ceil(GIB);
    if gib == 0 || gib > VOLUME_GIB_MAX {
        let text = format!("{named} has {gib} GiB: a volume of EBS has at most {VOLUME_GIB_MAX}");
        return Err(PlatformError::Unsupported(text));
    }
    let mut state = DiskState::new(&request.owner, &request.run, &request.id, "", request.size_bytes);
    state.name = format!("farshore {} {}", request.machine_name, request.disk).chars().take(200).collect();
    Ok(state)
}

/// Asks EBS to begin the snapshot. The disk's id is the token, so that asking again begins no second one.
fn beginning(api: &Api<'_>, mut state: DiskState) -> Result<DiskStep> {
    let DiskState { owner, run, id, name, .. } = &state;
    let settings = Settings::load(api.host)?;
    let tags = tags_of(&settings.tags, [(NAME, name.as_str()), (OWNER, owner), (KIND, DISK), (ID, id), (RUN, run)]);
    let tags: Vec<Value> = tags.iter().map(|(key, value)| json!({ "Key": key, "Value": value })).collect();
    let mut body = json!({
        "VolumeSize": state.gib(),
        "ClientToken": id,
        "Description": "Farshore restores a disk to this",
        "Tags": tags,
        "Timeout": WRITE_TIMEOUT_MINUTES,
    });
    let mut doing = format!("beginning the snapshot {name}");
    if let (Some(base), Some(fields)) = (&state.base, body.as_object_mut()) {
        fields.insert("ParentSnapshotId".to_owned(), base.as_str().into());
        doing = format!("{doing} from {base}");
    }
    let begun = match api.ebs(Method::Post, "/snapshots".into(), Vec::new(), Some(&body)) {
        Ok(begun) => begun,
        // With its state the host can give back what may have been made.
        Err(error) if error.may_pass() && state.polls < LOOKS_MAX => {
            return waiting(state, "waiting for EBS, which did not answer when it was asked to begin a snapshot");
        }
        Err(error) => return Err(error.while_doing(doing)),
    };
    let snapshot = begun.get("SnapshotId").and_then(Value::as_str).unwrap_or_default();
    let block_bytes = begun.get("BlockSize").and_then(Value::as_u64);
    if !snapshot.starts_with("snap-") || block_bytes != Some(crate::blocks::BLOCK_BYTES.into()) {
        return Err(PlatformError::Failed(format!("{doing}: EBS answered with none of 512 KiB blocks")));
    }
    (state.snapshot, state.polls) = (snapshot.to_owned(), 0);
    ready(&state)
}

fn waiting(mut state: DiskState, doing: &str) -> Result<DiskStep> {
    let poll_after_milliseconds =
        POLL_MILLISECONDS_MIN.saturating_mul(1 << state.polls.min(5)).min(POLL_MILLISECONDS_MAX);
    state.polls = state.polls.saturating_add(1);
    let pending = Pending { doing: doing.to_owned(), poll_after_milliseconds };
    Ok(DiskStep { state: state.to_bytes()?, status: DiskStatus::Pending(pending) })
}

/// `target-disks.open-disk`: its blocks.
///
/// # Errors
/// As in the interface.
pub fn open(state: &[u8]) -> Result<BlockDisk> {
    let state = DiskState::parse(state)?;
    if state.snapshot.is_empty() {
        return Err(PlatformError::NotFound("the snapshot is not begun".into()));
    }
    Ok(place_of_target(&state.snapshot, state.size_bytes))
}

/// `target-disks.seal-disk`.
///
/// # Errors
/// As in the interface.
pub fn seal(host: &dyn Host, state: &[u8], written: Option<&WrittenBlocks>) -> Result<DiskStep> {
    let mut state = DiskState::parse(state)?;
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
        // It may be sealed already, by an answer that was lost: then it will be seen as complete.
        Err(error) if error.code() == "ValidationException" => {
            let refused = error.while_doing(format!("sealing the snapshot {}", state.snapshot));
            state.refused = Some(crate::error::platform_sentence(&refused).to_owned());
            go_on_from(&api, state)
        }
        Err(error) => Err(error.while_doing(format!("sealing the snapshot {}", state.snapshot))),
    }
}

/// `target-disks.continue-disk`.
///
/// # Errors
/// As in the interface.
pub fn go_on(host: &dyn Host, state: &[u8]) -> Result<DiskStep> {
    let (api, state) = (Api::new(host), DiskState::parse(state)?);
    if state.snapshot.is_empty() { beginning(&api, state) } else { go_on_from(&api, state) }
}

fn go_on_from(api: &Api<'_>, state: DiskState) -> Result<DiskStep> {
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
        Some(_) if state.polls >= LOOKS_MAX && state.refused.is_some() => {
            return Err(PlatformError::Failed(state.refused.unwrap_or_default()));
        }
        Some(_) | None => {}
    }
    let progress = seen.map(|seen| seen.progress).filter(|progress| !progress.is_empty());
    let progress = progress.map(|progress| format!(" (at {progress})")).unwrap_or_default();
    waiting(state, &format!("waiting for the snapshot {id} to be complete{progress}"))
}

/// `target-disks.discard-disk`.
///
/// # Errors
/// As in the interface.
pub fn discard(host: &dyn Host, state: &[u8]) -> Result<Done> {
    let (api, mut state) = (Api::new(host), DiskState::parse(state)?);
    if state.snapshot.is_empty() {
        // What may have been begun is found by beginning it again.
        match beginning(&api, DiskState { polls: LOOKS_MAX, ..state.clone() }) {
            Ok(begun) => state = DiskState::parse(&begun.state)?,
            // It is refused now, perhaps because what it begins from is gone or denied: then by its tags.
            Err(error) => {
                let seen = snapshots::list(&api, &state.owner, &[DISK], &[(ID, &state.id)]);
                let seen = seen.map_err(|_| error)?;
                for snapshot in &seen {
                    snapshots::delete(&api, &snapshot.snapshot_id, true)?;
                }
                return Ok(Done { note: String::new() });
            }
        }
    }
    snapshots::delete(&api, &state.snapshot, false)?;
    Ok(Done { note: String::new() })
}
