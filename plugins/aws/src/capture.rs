//! Captures: snapshots of all volumes of an instance, made by one call and therefore at one instant.
//!
//! ```text
//! begin      leftovers of other captures go; CreateSnapshots for each instance, one after the other
//! continue   until EC2 says of all of them that they are complete
//! (reads)    over EBS direct
//! end        committed: this capture's snapshots become the base of the next, and the base before goes
//!            given up:  this capture's snapshots go, and the base stays
//! ```
//!
//! The snapshots of the newest committed point are what the next changes are told from, and stay; their ids are the tokens.
//!
//! `CreateSnapshots` takes no token, so that asking it again makes more snapshots. Each call of it therefore tags what it
//! makes with a number of its own (*attempt*). When an answer is lost, what the attempt has made is looked for, for a while,
//! because it can be seen only a little later; what is seen later still goes with the next capture, or at its end.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    answers::{Page as _, Snapshot, Snapshots, Volume},
    api::{Api, ApiResult, Call, Watch},
    bindings::exports::farshore::platform::source::{
        Allocation, CaptureEnd, CaptureReport, CaptureRequest, CaptureStatus, CaptureStep, CapturedDisk,
        CapturedDiskPage, Changes, Consistency, Instant, Outcome,
    },
    bindings::farshore::platform::model::Pending,
    error::{PlatformError, Result, no_state, platform_sentence, shortened},
    inventory::{self, GIB},
    ports::{Host, Level},
    settings::Settings,
    snapshots::{self, Time},
    tags::{ATTEMPT, BASE, CAPTURE, ID, KIND, MACHINE, NAME, OWNER, is_id, is_owner, tags, tags_of},
};

const PAGE_DISKS: usize = 100;
const STATE_BYTES_MAX: usize = 64 << 10;
const POLL_MILLISECONDS_MIN: u32 = 500;
const POLL_MILLISECONDS_MAX: u32 = 15_000;
/// So often is looked for what a call has made whose answer was lost, and for a snapshot that nobody sees.
const LOOKS_MAX: u32 = 15;
const LOOK_MILLISECONDS: u32 = 2_000;
/// In so many calls leftovers are removed before anything is captured. What is left then goes with the next capture.
const CLEANS_MAX: u32 = 60;
/// So often is waited for, with the longest pause, until EC2 makes more snapshots: ten minutes.
const THROTTLES_MAX: u32 = 40;
/// Since a call began: so long leftovers are removed before anything else, so long snapshots are asked for, and so long they
/// are removed again. What is not done by then the next call does.
const LEFTOVERS_MILLISECONDS: u64 = 4_000;
const MAKE_MILLISECONDS: u64 = 9_000;
const END_MILLISECONDS: u64 = 14_000;

/// What later calls must know of a capture.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    version: u32,
    pub(crate) owner: String,
    pub(crate) id: String,
    /// How often it was looked whether they are complete.
    #[serde(default)]
    polls: u32,
    /// How often EC2 wanted fewer snapshots to be asked for.
    #[serde(default)]
    throttles: u32,
    /// How many calls had no time to remove all that was left over of other captures; 0 when it is removed.
    #[serde(default)]
    cleans: u32,
    /// How often nobody has answered since a look was answered.
    #[serde(default)]
    blind_looks: u32,
    machines: Vec<MachineState>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineState {
    machine: String,
    step: MachineStep,
    disks: Vec<DiskState>,
}

/// How far the snapshots of an instance are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum MachineStep {
    /// They are not asked for.
    Wanted,
    /// They were asked for by this attempt, and it was looked for them so often.
    Asked { attempt: String, looks: u32 },
    /// They are there.
    Made,
}

/// A disk of a capture.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskState {
    disk: String,
    volume: String,
    pub(crate) gib: u64,
    /// The snapshot; empty until it is made.
    #[serde(default)]
    pub(crate) snapshot: String,
    /// What changes are told from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<String>,
}

impl DiskState {
    pub(crate) fn size_bytes(&self) -> u64 {
        self.gib.saturating_mul(GIB)
    }
}

impl State {
    fn new(owner: &str, id: &str, machines: Vec<MachineState>) -> Self {
        Self {
            version: 1,
            owner: owner.to_owned(),
            id: id.to_owned(),
            polls: 0,
            throttles: 0,
            cleans: 0,
            blind_looks: 0,
            machines,
        }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let state: Self = serde_json::from_slice(bytes).map_err(|error| no_state("a capture", error))?;
        if state.version != 1 || !is_owner(&state.owner) || !is_id(&state.id) {
            return Err(no_state("a capture", "its version, owner or id is wrong"));
        }
        Ok(state)
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        let bytes = serde_json::to_vec(self).map_err(|error| PlatformError::Failed(error.to_string()))?;
        if bytes.len() > STATE_BYTES_MAX {
            let disks: usize = self.machines.iter().map(|machine| machine.disks.len()).sum();
            let text = format!("a group of {disks} disks is too large for this adapter: split it");
            return Err(PlatformError::Unsupported(text));
        }
        Ok(bytes)
    }

    fn disks(&self) -> impl Iterator<Item = (&str, &DiskState)> {
        self.machines.iter().flat_map(|machine| machine.disks.iter().map(|disk| (machine.machine.as_str(), disk)))
    }

    pub(crate) fn disk(&self, machine: &str, disk: &str) -> Result<&DiskState> {
        let found = self.disks().find(|(of, found)| *of == machine && found.disk == disk);
        let none = || PlatformError::NotFound(format!("the capture has no disk {disk} of machine {machine}"));
        found.map(|(_, found)| found).ok_or_else(none)
    }

    fn snapshot_ids(&self) -> BTreeSet<&str> {
        self.disks().map(|(_, disk)| disk.snapshot.as_str()).filter(|id| !id.is_empty()).collect()
    }
}

/// The state of a capture of which only its owner and id are known.
pub(crate) fn bare_state(owner: &str, id: &str) -> Result<Vec<u8>> {
    State::new(owner, id, Vec::new()).to_bytes()
}

/// `source.begin-capture`.
///
/// # Errors
/// As in the interface.
pub fn begin(host: &dyn Host, request: &CaptureRequest) -> Result<CaptureStep> {
    if !is_id(&request.id) || !is_owner(&request.owner) {
        return Err(PlatformError::Failed("the host asked for a capture with ids that are none".into()));
    }
    let (settings, watch) = (Settings::load(host)?, Watch::start(host)?);
    let api = Api::new(host);
    let own = snapshots::list(&api, &request.owner, &[CAPTURE, BASE], &[]);
    let own = own.map_err(|error| error.while_doing("looking for snapshots of earlier captures"))?;
    let is_clean = clean(&api, request, &own, Time { watch, milliseconds: LEFTOVERS_MILLISECONDS });
    let ids: Vec<&str> = request.machines.iter().map(String::as_str).collect();
    let mut volumes = BTreeMap::new();
    for ids in ids.chunks(100) {
        let found = inventory::volumes(&api, &settings, ids);
        volumes.extend(found.map_err(|error| error.while_doing("looking for the volumes of the machines"))?);
    }
    let mut machines = Vec::new();
    for machine in &request.machines {
        let Some(volumes) = volumes.remove(machine) else {
            let state = inventory::instance(&api, machine)?.instance_state.name;
            if ["terminated", "shutting-down"].contains(&state.as_str()) {
                return Err(PlatformError::NotFound(format!("instance {machine} is `{state}`")));
            }
            let text =
                format!("instance {machine} has no volume of EBS that is not left out: there is nothing to protect");
            return Err(PlatformError::Unsupported(text));
        };
        let base = |disk: &str, volume: &Volume| {
            let tracked = request.tracked.iter().find(|tracked| tracked.machine == *machine && tracked.disk == disk)?;
            let snapshot = own.iter().find(|snapshot| snapshot.snapshot_id == tracked.token)?;
            let fits = snapshot.volume_id == volume.volume_id
                && snapshot.volume_size == volume.size
                && snapshot.status == "completed";
            fits.then(|| tracked.token.clone())
        };
        let disks = volumes.into_iter().map(|(disk, volume)| DiskState {
            base: base(&disk, &volume),
            disk,
            gib: volume.size,
            volume: volume.volume_id,
            snapshot: String::new(),
        });
        machines.push(MachineState { machine: machine.clone(), step: MachineStep::Wanted, disks: disks.collect() });
    }
    let mut state = State::new(&request.owner, &request.id, machines);
    state.cleans = u32::from(!is_clean);
    // Before anything is made: too large a group must not leave snapshots behind.
    check_room(&state)?;
    // What was made for this id before belongs to it, if it is whole; what is not goes at the end.
    let before: Vec<Snapshot> = own.into_iter().filter(|snapshot| snapshot.tag_set.get(ID) == request.id).collect();
    state.machines.iter_mut().for_each(|machine| machine.adopt(&before, None));
    advance(host, watch, request, state)
}

/// Removes what is left over of other captures. Whether there was time for all of it.
fn clean(api: &Api<'_>, request: &CaptureRequest, own: &[Snapshot], time: Time<'_>) -> bool {
    let bases: BTreeSet<&str> = request.tracked.iter().map(|tracked| tracked.token.as_str()).collect();
    let is_left_over = |snapshot: &&Snapshot| {
        // Also of machines that have left the group: what leads from no committed point is of no use.
        snapshot.tag_set.get(ID) != request.id && !bases.contains(snapshot.snapshot_id.as_str())
    };
    // What cannot be removed now is removed by the next, and is no reason not to capture.
    let left_over = own.iter().filter(is_left_over).map(|snapshot| snapshot.snapshot_id.as_str());
    snapshots::delete_all(api, left_over, time);
    !time.is_over()
}

/// That the state fits when the snapshots' ids are in it.
fn check_room(state: &State) -> Result<()> {
    let mut full = state.clone();
    let disks = full.machines.iter_mut().flat_map(|machine| machine.disks.iter_mut());
    disks.for_each(|disk| disk.snapshot = "snap-0123456789abcdef0".into());
    full.to_bytes().map(drop)
}

impl MachineState {
    /// Takes the snapshots of one attempt, if one has made all of them.
    fn adopt(&mut self, found: &[Snapshot], attempt: Option<&str>) {
        let mut by_attempt: BTreeMap<&str, Vec<&Snapshot>> = BTreeMap::new();
        for snapshot in found.iter().filter(|snapshot| snapshot.tag_set.get(MACHINE) == self.machine) {
            by_attempt.entry(snapshot.tag_set.get(ATTEMPT)).or_default().push(snapshot);
        }
        by_attempt.retain(|of, _| attempt.is_none_or(|attempt| attempt == *of));
        let of = |made: &[&Snapshot], disk: &DiskState| {
            let fits = |snapshot: &&&Snapshot| snapshot.volume_id == disk.volume && snapshot.volume_size == disk.gib;
            let snapshot = made.iter().find(fits);
            snapshot.map(|snapshot| snapshot.snapshot_id.clone())
        };
        for made in by_attempt.values() {
            let ids: Option<Vec<String>> = self.disks.iter().map(|disk| of(made, disk)).collect();
            if let Some(ids) = ids {
                self.disks.iter_mut().zip(ids).for_each(|(disk, id)| disk.snapshot = id);
                self.step = MachineStep::Made;
                return;
            }
        }
    }
}

/// `source.continue-capture`.
///
/// # Errors
/// As in the interface.
pub fn go_on(host: &dyn Host, request: &CaptureRequest, state: &[u8]) -> Result<CaptureStep> {
    advance(host, Watch::start(host)?, request, State::parse(state)?)
}

fn pending(state: &State, doing: &str, poll_after_milliseconds: u32) -> Result<CaptureStep> {
    let doing = shortened(doing, 200);
    Ok(CaptureStep {
        state: state.to_bytes()?,
        status: CaptureStatus::Pending(Pending { doing, poll_after_milliseconds }),
    })
}

/// Goes as far as is possible now. If it fails, nothing stays.
fn advance(host: &dyn Host, watch: Watch<'_>, request: &CaptureRequest, mut state: State) -> Result<CaptureStep> {
    let api = Api::new(host);
    let settings = Settings::load(host)?;
    if (1..CLEANS_MAX).contains(&state.cleans) && !watch.has_passed(LEFTOVERS_MILLISECONDS) {
        let own = snapshots::list(&api, &request.owner, &[CAPTURE, BASE], &[]);
        let own = own.map_err(|error| error.while_doing("looking for snapshots of earlier captures"))?;
        let is_clean = clean(&api, request, &own, Time { watch, milliseconds: MAKE_MILLISECONDS });
        state.cleans = if is_clean { 0 } else { state.cleans.saturating_add(1) };
    }
    if (1..CLEANS_MAX).contains(&state.cleans) {
        return pending(&state, "removing snapshots of earlier captures", POLL_MILLISECONDS_MIN);
    }
    let result = make(&api, watch, &settings, &mut state).and_then(|waiting| match waiting {
        Some((doing, milliseconds)) => pending(&state, &doing, milliseconds),
        // There is no time for another request in this call.
        None if watch.has_passed(MAKE_MILLISECONDS) => {
            pending(&state, "waiting for the snapshots to be complete", POLL_MILLISECONDS_MIN)
        }
        None => settle(&api, request, &mut state),
    });
    result.inspect_err(|_| {
        // What cannot be removed now goes with the next capture.
        let left = give_up(&api, watch, &state);
        left.iter().for_each(|text| host.log(Level::Warn, text));
    })
}

/// Makes the snapshots that are not made yet. What is waited for, if something is.
fn make(api: &Api<'_>, watch: Watch<'_>, settings: &Settings, state: &mut State) -> Result<Option<(String, u32)>> {
    let (owner, id) = (state.owner.clone(), state.id.clone());
    for machine in &mut state.machines {
        let name = machine.machine.clone();
        if machine.step != MachineStep::Made && watch.has_passed(MAKE_MILLISECONDS) {
            return Ok(Some((format!("making the snapshots of instance {name}"), POLL_MILLISECONDS_MIN)));
        }
        match machine.step.clone() {
            MachineStep::Made => {}
            MachineStep::Wanted => {
                let now = api.host.monotonic_nanoseconds();
                let attempt = now.map_err(|error| crate::error::while_doing("reading the clock", error))?.to_string();
                let call = create(settings, &owner, &id, machine, &attempt, api)?;
                match api.ec2::<Snapshots>(&call) {
                    Ok(made) => machine.take(&made.into_parts().0)?,
                    // Instances of one point are not to be captured hours after each other.
                    Err(error) if error.is_throttled() && state.throttles < THROTTLES_MAX => {
                        state.throttles = state.throttles.saturating_add(1);
                        let doing = format!("waiting until EC2 makes another snapshot of instance {name}");
                        return Ok(Some((doing, POLL_MILLISECONDS_MAX)));
                    }
                    Err(error) if error.may_have_been_done() => {
                        machine.step = MachineStep::Asked { attempt, looks: 0 };
                        return Ok(Some((looking(&name), LOOK_MILLISECONDS)));
                    }
                    Err(error) => return Err(error.while_doing(format!("making the snapshots of instance {name}"))),
                }
            }
            MachineStep::Asked { attempt, looks } => {
                match snapshots::list(api, &owner, &[CAPTURE], &[(ID, &id), (ATTEMPT, &attempt)]) {
                    Ok(found) => machine.adopt(&found, Some(&attempt)),
                    Err(error) if error.may_pass() => {}
                    Err(error) => return Err(error.while_doing(looking(&name))),
                }
                if machine.step != MachineStep::Made {
                    if looks >= LOOKS_MAX {
                        let text = format!("EC2 did not answer when it was asked for snapshots of instance {name}");
                        return Err(PlatformError::Unreachable(format!("{text}, and none can be seen")));
                    }
                    machine.step = MachineStep::Asked { attempt, looks: looks.saturating_add(1) };
                    return Ok(Some((looking(&name), LOOK_MILLISECONDS)));
                }
            }
        }
    }
    Ok(None)
}

fn looking(machine: &str) -> String {
    format!("looking for the snapshots of instance {machine}, which EC2 was asked for without an answer")
}

fn create(
    settings: &Settings,
    owner: &str,
    id: &str,
    machine: &MachineState,
    attempt: &str,
    api: &Api<'_>,
) -> Result<Call> {
    let name = &machine.machine;
    let call = Call::new("CreateSnapshots")
        .only_once()
        .with("InstanceSpecification.InstanceId", name)
        .with("Description", format!("Farshore reads this to protect {name}; it goes by itself"))
        .tagged(
            "snapshot",
            &tags_of(
                &settings.tags,
                [
                    (NAME, format!("farshore {name}").as_str()),
                    (OWNER, owner),
                    (KIND, CAPTURE),
                    (ID, id),
                    (MACHINE, name),
                    (ATTEMPT, attempt),
                ],
            ),
        );
    if settings.exclude_volumes.is_empty() {
        return Ok(call);
    }
    let instance = inventory::instance(api, name)?;
    let all = inventory::volumes(api, &Settings::default(), &[name.as_str()]);
    let all = all.map_err(|error| error.while_doing(format!("looking for the volumes of instance {name}")))?;
    let root = instance.root_device_name.trim_start_matches("/dev/");
    let volumes = all.get(name).map(Vec::as_slice).unwrap_or_default();
    let left_out = volumes.iter().filter(|(_, volume)| settings.exclude_volumes.contains(&volume.volume_id));
    let (boot, data): (Vec<_>, Vec<_>) = left_out.partition(|(device, _)| device == root);
    let call = call
        .list("InstanceSpecification.ExcludeDataVolumeId", data.iter().map(|(_, volume)| volume.volume_id.as_str()));
    Ok(if boot.is_empty() { call } else { call.with("InstanceSpecification.ExcludeBootVolume", true) })
}

impl MachineState {
    /// Takes what a call has answered.
    fn take(&mut self, made: &[Snapshot]) -> Result<()> {
        for disk in &mut self.disks {
            let Some(snapshot) = made.iter().find(|snapshot| snapshot.volume_id == disk.volume) else {
                let text = format!("EC2 made no snapshot of disk {} of instance {}", disk.disk, self.machine);
                return Err(PlatformError::Failed(format!("{text}: was it detached a moment ago?")));
            };
            if snapshot.volume_size != disk.gib {
                let text = format!("disk {} of instance {} was resized a moment ago", disk.disk, self.machine);
                return Err(PlatformError::Failed(text));
            }
            disk.snapshot.clone_from(&snapshot.snapshot_id);
        }
        self.step = MachineStep::Made;
        Ok(())
    }
}

/// Whether all snapshots are complete.
fn settle(api: &Api<'_>, request: &CaptureRequest, state: &mut State) -> Result<CaptureStep> {
    let found = match seen(api, state) {
        Ok(found) => found,
        // Hours may have been waited for them: one answer that does not come is no reason to begin again.
        Err(error) if error.may_pass() && state.blind_looks < LOOKS_MAX => {
            state.blind_looks = state.blind_looks.saturating_add(1);
            return pending(
                state,
                "waiting for EC2, which does not say how far the snapshots are",
                POLL_MILLISECONDS_MAX,
            );
        }
        Err(error) => return Err(error.while_doing(LOOKING_AT_SNAPSHOTS)),
    };
    state.blind_looks = 0;
    let mut waits = 0_u32;
    for (machine, disk) in state.disks() {
        match found.get(&disk.snapshot) {
            Some(snapshot) if snapshot.status == "completed" => {}
            Some(snapshot) if snapshot.status == "error" => {
                let text = format!("the snapshot {} of disk {} of instance {machine}", disk.snapshot, disk.disk);
                return Err(PlatformError::Failed(format!("EC2 could not make {text}: {}", snapshot.status_message)));
            }
            None if state.polls >= LOOKS_MAX => return Err(missing(machine, disk)),
            Some(_) | None => waits = waits.saturating_add(1),
        }
    }
    if waits > 0 {
        let progress = found.values().map(|snapshot| snapshot.progress.as_str()).find(|text| *text != "100%");
        let doing = format!(
            "waiting for {waits} snapshots to be complete, the first at {}",
            progress.filter(|text| !text.is_empty()).unwrap_or("0%")
        );
        let shift = state.polls.min(5);
        state.polls = state.polls.saturating_add(1);
        return pending(state, &doing, POLL_MILLISECONDS_MIN.saturating_mul(1 << shift).min(POLL_MILLISECONDS_MAX));
    }
    let mut notes = Vec::new();
    if state.machines.len() > 1 {
        notes.push("EC2 freezes the volumes of one instance at one instant, and instances one after the other");
    }
    if request.consistency == Consistency::Application {
        notes.push("EC2 freezes volumes as they are: nothing in the guests was asked to be quiet");
    }
    let report = CaptureReport {
        instant: if state.machines.len() > 1 { Instant::Machine } else { Instant::Group },
        consistency: Consistency::Crash,
        held_microseconds: 0,
        note: notes.join(". "),
    };
    Ok(CaptureStep { state: state.to_bytes()?, status: CaptureStatus::Ready(report) })
}

const LOOKING_AT_SNAPSHOTS: &str = "looking at the snapshots of the capture";

/// The snapshots of the capture that can be seen, by id.
fn seen(api: &Api<'_>, state: &State) -> ApiResult<BTreeMap<String, Snapshot>> {
    let found = snapshots::list(api, &state.owner, &[CAPTURE, BASE], &[(ID, &state.id)])?;
    Ok(found.into_iter().map(|snapshot| (snapshot.snapshot_id.clone(), snapshot)).collect())
}

fn missing(machine: &str, disk: &DiskState) -> PlatformError {
    let text = format!("the snapshot {} of disk {} of instance {machine}", disk.snapshot, disk.disk);
    PlatformError::CaptureBroken(format!("{text} is gone: somebody has removed it"))
}

/// `source.list-disks`.
///
/// # Errors
/// As in the interface.
pub fn list_disks(state: &[u8], cursor: Option<&str>) -> Result<CapturedDiskPage> {
    let state = State::parse(state)?;
    let start: usize = cursor.map_or(Ok(0), str::parse).map_err(|_| PlatformError::Failed("a wrong cursor".into()))?;
    let end = start.saturating_add(PAGE_DISKS);
    let captured = |(machine, disk): (&str, &DiskState)| CapturedDisk {
        machine: machine.into(),
        disk: disk.disk.clone(),
        size_bytes: disk.size_bytes(),
        token: Some(disk.snapshot.clone()),
        changes: match disk.base {
            Some(_) => Changes::Listed,
            None => {
                Changes::Unknown("there is no earlier snapshot of this volume, with its size, to compare with".into())
            }
        },
        allocation: Allocation::Listed,
    };
    let disks = state.disks().skip(start).take(PAGE_DISKS).map(captured).collect();
    Ok(CapturedDiskPage { disks, next: (end < state.disks().count()).then(|| end.to_string()) })
}

/// `source.verify-capture`.
///
/// # Errors
/// As in the interface.
pub fn verify(host: &dyn Host, state: &[u8]) -> Result<CaptureEnd> {
    let state = State::parse(state)?;
    let found = seen(&Api::new(host), &state).map_err(|error| error.while_doing(LOOKING_AT_SNAPSHOTS))?;
    let is_whole = |disk: &DiskState| found.get(&disk.snapshot).is_some_and(|found| found.status == "completed");
    match state.disks().find(|(_, disk)| !is_whole(disk)) {
        Some((machine, disk)) => Err(missing(machine, disk)),
        None => Ok(CaptureEnd { note: String::new() }),
    }
}

/// `source.end-capture`; without an outcome nobody knows it, and the view goes.
///
/// # Errors
/// As in the interface.
pub fn end(host: &dyn Host, state: &[u8], outcome: Option<Outcome>) -> Result<CaptureEnd> {
    let state = State::parse(state)?;
    let (api, watch) = (Api::new(host), Watch::start(host)?);
    let left = match outcome {
        Some(Outcome::Committed) => keep(&api, watch, &state)?,
        Some(Outcome::Abandoned) | None => give_up(&api, watch, &state),
    };
    match &left[..] {
        [] => Ok(CaptureEnd { note: String::new() }),
        [only] => Err(PlatformError::Failed(format!("snapshots could not be removed: {only}"))),
        [first, .., last] => {
            Err(PlatformError::Failed(format!("snapshots could not be removed: {first}; and others, the last: {last}")))
        }
    }
}

/// Makes the capture's snapshots the base of the next, and removes what was that before.
fn keep(api: &Api<'_>, watch: Watch<'_>, state: &State) -> Result<Vec<String>> {
    let own = state.snapshot_ids();
    let found = snapshots::list(api, &state.owner, &[CAPTURE, BASE], &[]);
    let found = found.map_err(|error| error.while_doing("looking for the snapshots of earlier captures"))?;
    let unmarked: Vec<&str> = found
        .iter()
        .filter(|snapshot| own.contains(snapshot.snapshot_id.as_str()) && snapshot.tag_set.get(KIND) != BASE)
        .map(|snapshot| snapshot.snapshot_id.as_str())
        .collect();
    if !unmarked.is_empty() {
        let call = Call::new("CreateTags").list("ResourceId", unmarked).tag_list("Tag", &tags([(KIND, BASE)]));
        let marked = api.ec2_done(&call);
        marked.map_err(|error| error.while_doing("marking the snapshots that the next changes are told from"))?;
    }
    // A machine that was not captured this time keeps its base. What those have that have left the group goes with the next capture.
    let is_captured = |machine: &str| state.machines.iter().any(|captured| captured.machine == machine);
    let is_other = |snapshot: &&Snapshot| {
        !own.contains(snapshot.snapshot_id.as_str()) && is_captured(snapshot.tag_set.get(MACHINE))
    };
    let others = found.iter().filter(is_other).map(|snapshot| snapshot.snapshot_id.as_str());
    Ok(snapshots::delete_all(api, others, Time { watch, milliseconds: END_MILLISECONDS }))
}

/// Removes what the capture has made, and says why something stays.
fn give_up(api: &Api<'_>, watch: Watch<'_>, state: &State) -> Vec<String> {
    let time = Time { watch, milliseconds: END_MILLISECONDS };
    let found = match seen(api, state) {
        Ok(found) => found,
        Err(error) => return vec![platform_sentence(&error.while_doing(LOOKING_AT_SNAPSHOTS)).to_owned()],
    };
    // What a committed point relies on stays, whatever is said of the capture.
    let captured = found.iter().filter(|(_, snapshot)| snapshot.tag_set.get(KIND) == CAPTURE);
    let mut left = snapshots::delete_all(api, captured.map(|(id, _)| id.as_str()), time);
    // What was made a moment ago may not be seen yet.
    let unseen = state.snapshot_ids().into_iter().filter(|id| !found.contains_key(*id));
    left.extend(snapshots::delete_unseen(api, unseen.collect(), time));
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ports::HostError,
        script::{Answer, Script},
    };

    const ID: &str = "00000000000000000000000000000001";

    fn request(machines: usize) -> CaptureRequest {
        CaptureRequest {
            id: ID.to_owned(),
            owner: "o".to_owned(),
            machines: (0..machines).map(|number| format!("i-{number}")).collect(),
            tracked: Vec::new(),
            consistency: Consistency::Crash,
            stall_limit_milliseconds: 1_000,
        }
    }

    fn state(machines: usize, step: &MachineStep) -> State {
        let machine = |number: usize| {
            let (disk, volume) = ("sda1".to_owned(), format!("vol-{number}"));
            let snapshot = if *step == MachineStep::Made { format!("snap-{number}") } else { String::new() };
            let disks = vec![DiskState { disk, volume, gib: 1, snapshot, base: None }];
            MachineState { machine: format!("i-{number}"), step: step.clone(), disks }
        };
        State::new("o", ID, (0..machines).map(machine).collect())
    }

    fn snapshots(elements: &str, snapshots: &[(usize, &str)]) -> Answer {
        let one = |(number, status): &(usize, &str)| {
            format!(
                "<item><snapshotId>snap-{number}</snapshotId><volumeId>vol-{number}</volumeId><volumeSize>1</volumeSize>\
                 <status>{status}</status><progress>50%</progress>\
                 <tagSet><item><key>farshore:kind</key><value>capture</value></item></tagSet></item>"
            )
        };
        let items: String = snapshots.iter().map(one).collect();
        Ok(format!("<{elements}><snapshotSet>{items}</snapshotSet></{elements}>"))
    }

    fn seen(found: &[(usize, &str)]) -> Answer {
        snapshots("DescribeSnapshotsResponse", found)
    }

    fn no_answer() -> Answer {
        Err(HostError::TimedOut("no answer came".to_owned()))
    }

    #[test]
    fn a_look_without_an_answer_gives_up_no_snapshot_that_was_waited_for() {
        let mut state = state(1, &MachineStep::Made).to_bytes().expect("a state");
        for _ in 0..LOOKS_MAX {
            // The first answer after some that did not come is as good as ever.
            for answer in [no_answer(), no_answer(), seen(&[(0, "pending")])] {
                let host = Script::new([answer]);
                let step = go_on(&host, &request(1), &state).expect("it waits");
                assert!(matches!(step.status, CaptureStatus::Pending(_)));
                state = step.state;
            }
        }
        let host = Script::new([seen(&[(0, "completed")])]);
        let step = go_on(&host, &request(1), &state).expect("it is complete");
        assert!(matches!(step.status, CaptureStatus::Ready(_)));
    }

    #[test]
    fn if_no_look_is_answered_any_more_the_capture_is_given_up() {
        let mut state = state(1, &MachineStep::Made).to_bytes().expect("a state");
        for looks in 0.. {
            let host = Script::new([no_answer(), no_answer()]);
            match go_on(&host, &request(1), &state) {
                Ok(step) => state = step.state,
                Err(error) => {
                    assert!(matches!(&error, PlatformError::Unreachable(text) if text.contains("no answer came")));
                    assert_eq!(
                        (looks, host.asked().len()),
                        (LOOKS_MAX, 2),
                        "and its snapshots are looked for once more"
                    );
                    return;
                }
            }
        }
    }

    #[test]
    fn a_call_asks_for_as_many_snapshots_as_there_is_time_for_and_the_next_goes_on() {
        let mut state = state(20, &MachineStep::Wanted).to_bytes().expect("a state");
        let mut made = 0;
        for calls in 1.. {
            let answers = (made..20).map(|number| snapshots("CreateSnapshotsResponse", &[(number, "pending")]));
            let all: Vec<_> = (0..20).map(|number| (number, "completed")).collect();
            let host = Script::new(answers.chain([seen(&all)]));
            let step = go_on(&host, &request(20), &state).expect("it goes on");
            made += host.asked().len();
            state = step.state;
            if matches!(step.status, CaptureStatus::Ready(_)) {
                assert_eq!((calls, made), (3, 21), "nine a call, and a look at all of them");
                return;
            }
            assert_eq!(made % 9, 0, "each request takes a second");
        }
    }

    #[test]
    fn what_is_left_over_goes_before_anything_is_captured_however_much_it_is() {
        let mut state = State { cleans: 1, ..state(1, &MachineStep::Wanted) }.to_bytes().expect("a state");
        let mut removed = 0;
        for calls in 1.. {
            let left: Vec<_> = (100 + removed..120).map(|number| (number, "completed")).collect();
            let deletions = left.iter().map(|_| Ok("<DeleteSnapshotResponse/>".to_owned()));
            let made = snapshots("CreateSnapshotsResponse", &[(0, "pending")]);
            let host = Script::new([seen(&left)].into_iter().chain(deletions).chain([made, seen(&[(0, "completed")])]));
            let step = go_on(&host, &request(1), &state).expect("it goes on");
            state = step.state;
            if matches!(step.status, CaptureStatus::Ready(_)) {
                assert_eq!((calls, removed, host.asked().len()), (3, 16, 7), "the last four, and the capture");
                return;
            }
            removed += host.asked().len() - 1;
        }
    }

    #[test]
    fn a_call_removes_as_much_as_there_is_time_for_and_says_how_much_stays() {
        let state = state(20, &MachineStep::Made).to_bytes().expect("a state");
        let nothing = || Ok("<DeleteSnapshotResponse/>".to_owned());
        let all: Vec<_> = (0..20).map(|number| (number, "completed")).collect();
        let host = Script::new([seen(&all)].into_iter().chain((0..20).map(|_| nothing())));
        let error = end(&host, &state, Some(Outcome::Abandoned)).expect_err("there is more");
        let PlatformError::Failed(text) = error else { panic!("{error:?}") };
        assert_eq!(text, "snapshots could not be removed: there was no time for 7 of them");
        assert_eq!(host.asked().len(), 14);
    }
}
