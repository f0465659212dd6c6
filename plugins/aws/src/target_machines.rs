//! Recovered machines: an image of the sealed snapshots, and the instance that is started from it.
//!
//! ```text
//! define   RegisterImage, by a name that only this machine has
//! start    RunInstances, with the machine's id as its token
//! remove   TerminateInstances, DeregisterImage, DeleteSnapshot
//! ```
//!
//! What exists is always looked for by the machine's id, in tags and names: the state holds nothing that could be wrong.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    answers::{
        Image, Images, Instance, InstanceStatuses, Page as _, Registered, Reservations, SecurityGroups, Subnets,
    },
    api::{Api, Call, Watch, wait},
    bindings::exports::farshore::platform::target_machines::{
        Finding, FindingPage, Level as ReadinessLevel, MachineRequest, MachineStatus, MachineStep, Manner, Readiness,
    },
    bindings::farshore::platform::model::{Done, Firmware, Machine, Pending},
    error::{ApiError, PlatformError, Result, no_state, platform_sentence, shortened},
    inventory::{self, GIB},
    ports::Host,
    power::{self, Progress},
    quotas::{self, Wanted},
    settings::{Placement, Settings},
    snapshots,
    tags::{ID, KIND, MACHINE_KIND, NAME, OWNER, RUN, Tags, is_id, is_owner, tags_of},
    target_disks::{DiskState, VOLUME_GIB_MAX},
};

const POLL_MILLISECONDS: u32 = 2_000;
/// So often is looked for an image or an instance that nobody sees.
const LOOKS_MAX: u32 = 15;
/// The device that is booted from, and those of the others.
const ROOT_DEVICE: &str = "/dev/sda1";
const DATA_DEVICES: std::ops::RangeInclusive<char> = 'b'..='z';
const DISKS_MAX: usize = 26;
/// A terminating instance cannot come back; so often is looked whether it is one.
const END_LOOKS_MAX: u32 = 16;
const END_PAUSE_MILLISECONDS: u32 = 500;
/// So often is looked for an instance that nobody sees, before it is believed that there is none.
const UNSEEN_LOOKS: u32 = 4;

/// What later calls must know of a machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    version: u32,
    pub(crate) owner: String,
    pub(crate) run: String,
    pub(crate) id: String,
    /// What people call it, and its id at the source.
    name: String,
    source: String,
    /// The snapshots of its disks.
    pub(crate) snapshots: Vec<String>,
    doing: Doing,
    /// How often it was looked for.
    #[serde(default)]
    looks: u32,
}

/// What goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Doing {
    Defining,
    Starting,
    Stopping { by_force: bool },
}

impl State {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let state: Self = serde_json::from_slice(bytes).map_err(|error| no_state("a machine", error))?;
        if state.version != 1 || !is_owner(&state.owner) || !is_id(&state.id) {
            return Err(no_state("a machine", "its version, owner or id is wrong"));
        }
        Ok(state)
    }

    fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| PlatformError::Failed(error.to_string()))
    }

    fn image_name(&self) -> String {
        format!("farshore-{}", self.id)
    }

    fn tags(&self, settings: &Settings) -> Tags {
        let own =
            [(NAME, self.name.as_str()), (OWNER, &self.owner), (KIND, MACHINE_KIND), (ID, &self.id), (RUN, &self.run)];
        tags_of(&settings.tags, own)
    }

    fn ready(&self, note: &str) -> Result<MachineStep> {
        Ok(MachineStep { state: self.to_bytes()?, status: MachineStatus::Ready(Done { note: note.into() }) })
    }

    fn pending(mut self, doing: &str) -> Result<MachineStep> {
        self.looks = self.looks.saturating_add(1);
        let pending = Pending { doing: shortened(doing, 200), poll_after_milliseconds: POLL_MILLISECONDS };
        Ok(MachineStep { state: self.to_bytes()?, status: MachineStatus::Pending(pending) })
    }
}

/// The state of a machine of which this is known.
pub(crate) fn bare_state(owner: &str, run: &str, id: &str, name: &str, snapshots: Vec<String>) -> Result<Vec<u8>> {
    let (owner, run, id, name) = (owner.to_owned(), run.to_owned(), id.to_owned(), name.to_owned());
    State { version: 1, owner, run, id, name, source: String::new(), snapshots, doing: Doing::Defining, looks: 0 }
        .to_bytes()
}

/// `target-machines.check-machine`.
///
/// # Errors
/// As in the interface.
pub fn check(host: &dyn Host, machine: &Machine) -> Result<FindingPage> {
    let settings = Settings::load(host)?;
    let (api, watch) = (Api::new(host), Watch::start(host)?);
    let mut findings = Vec::new();
    let mut find = |blocking, problem: String| findings.push(Finding { blocking, problem: shortened(&problem, 1_000) });
    let name = &machine.name;
    if machine.disks.is_empty() || machine.disks.len() > DISKS_MAX {
        let count = machine.disks.len();
        find(true, format!("machine {name} has {count} disks, and an instance is made with 1 to {DISKS_MAX}"));
    }
    if machine.disks.iter().filter(|disk| disk.boot).count() != 1 {
        find(true, format!("machine {name} does not boot from exactly one disk, which an image of EC2 must"));
    }
    let large = machine.disks.iter().filter(|disk| disk.size_bytes.div_ceil(GIB) > VOLUME_GIB_MAX);
    let large: Vec<&str> = large.map(|disk| disk.id.as_str()).collect();
    if !large.is_empty() {
        find(true, format!("disks of machine {name} are larger than {VOLUME_GIB_MAX} GiB: {}", large.join(", ")));
    }
    if machine.network_interfaces.len() > 1 {
        let count = machine.network_interfaces.len();
        find(false, format!("machine {name} has {count} network interfaces, and is recovered with one"));
    }
    match settings.placement(&machine.id) {
        Err(PlatformError::Settings(problem)) => find(true, problem),
        Err(error) => return Err(error),
        Ok(placement) => {
            let vcpus = check_placement(&api, machine, &placement, &mut find)?;
            if let Some(vcpus) = vcpus.filter(|_| settings.check_quotas) {
                let wanted = Wanted { machine: name, instance_type: &placement.instance_type, vcpus };
                quotas::problem(&api, watch, wanted).into_iter().for_each(|problem| find(false, problem));
            }
        }
    }
    Ok(FindingPage { findings, next: None })
}

/// Finds what is wrong with where and as what a machine is to run. Returns the vCPUs of its type, if there is such a type.
fn check_placement(
    api: &Api<'_>,
    machine: &Machine,
    placement: &Placement,
    find: &mut impl FnMut(bool, String),
) -> Result<Option<u32>> {
    let name = &machine.name;
    let wanted = placement.instance_type.as_str();
    let mut vcpus = None;
    match inventory::types(api, &[wanted]).map(|mut types| types.remove(wanted)) {
        Ok(Some(kind)) => {
            vcpus = Some(kind.v_cpu_info.count);
            let modes: Vec<&str> = kind.supported_boot_modes.iter().map(String::as_str).collect();
            let mode = boot_mode(machine.firmware);
            if !modes.is_empty() && !modes.contains(&mode) {
                find(true, format!("machine {name} boots by {mode}, and {wanted} only by {}", modes.join(", ")));
            }
            let mut architectures = kind.processor_info.supported_architectures.iter();
            if !architectures.any(|architecture| architecture == "x86_64") {
                find(true, format!("instances of the type {wanted} are not x86_64, and machine {name} is"));
            }
            let bytes = kind.memory_info.mebibytes.saturating_mul(1 << 20);
            if bytes < machine.memory_bytes {
                let has = machine.memory_bytes >> 20;
                let text = format!("machine {name} has {has} MiB of memory, and {wanted} has {}", bytes >> 20);
                find(false, format!("{text}: set `instance-type` if it needs more"));
            }
        }
        Ok(None) => find(true, format!("there is no type of instances {wanted} in this region")),
        Err(ApiError::Refused { code, message, .. }) if code == "InvalidInstanceType" => find(true, message),
        Err(error) => return Err(error.while_doing(format!("looking at the type of instances {wanted}"))),
    }
    let subnet = placement.subnet.as_str();
    match api.all::<Subnets>(&Call::new("DescribeSubnets").list("SubnetId", [subnet])) {
        Ok(found) => {
            let range = found.first().map(|found| found.cidr_block.clone()).unwrap_or_default();
            if let Some(address) = placement.address.as_ref().filter(|address| !is_in(address, &range)) {
                find(true, format!("the address {address} of machine {name} is not in {subnet} ({range})"));
            }
        }
        Err(error) if error.is_not_found() => find(true, format!("there is no subnet {subnet} in this account")),
        Err(error) => return Err(error.while_doing(format!("looking at the subnet {subnet}"))),
    }
    let groups = placement.security_groups.iter().map(String::as_str);
    match api.all::<SecurityGroups>(&Call::new("DescribeSecurityGroups").list("GroupId", groups)) {
        Ok(_) => {}
        Err(ApiError::Refused { message, code, .. }) if code.ends_with(".NotFound") => find(true, message),
        Err(error) => return Err(error.while_doing("looking at the security groups")),
    }
    Ok(vcpus)
}

/// Whether an address can be an instance's in this range: the first four and the last belong to the network.
fn is_in(address: &str, range: &str) -> bool {
    let parsed = || {
        let (base, bits) = range.split_once('/')?;
        let base = u32::from(base.parse::<std::net::Ipv4Addr>().ok()?);
        let bits: u32 = bits.parse().ok().filter(|bits| *bits <= 32)?;
        let size = 1_u64.checked_shl(32_u32.checked_sub(bits)?)?;
        let address = u32::from(address.parse::<std::net::Ipv4Addr>().ok()?);
        Some((u64::from(address.checked_sub(base)?), size))
    };
    parsed().is_some_and(|(offset, size)| offset >= 4 && offset < size.saturating_sub(1))
}

fn boot_mode(firmware: Firmware) -> &'static str {
    match firmware {
        Firmware::Bios => "legacy-bios",
        Firmware::Uefi => "uefi",
    }
}

/// `target-machines.define-machine`.
///
/// # Errors
/// As in the interface.
pub fn define(host: &dyn Host, request: &MachineRequest) -> Result<MachineStep> {
    if !is_id(&request.id) || !is_id(&request.run) || !is_owner(&request.owner) {
        return Err(PlatformError::Failed("the host asked for a machine with ids that are none".into()));
    }
    let machine = &request.machine;
    let disks: Vec<DiskState> = request.disks.iter().map(|state| DiskState::parse(state)).collect::<Result<_>>()?;
    if disks.len() != machine.disks.len() || disks.is_empty() || disks.len() > DISKS_MAX {
        return Err(PlatformError::Failed(format!("machine {} has other disks than were made", machine.name)));
    }
    let state = State {
        version: 1,
        owner: request.owner.clone(),
        run: request.run.clone(),
        id: request.id.clone(),
        name: machine.name.clone(),
        source: machine.id.clone(),
        snapshots: disks.iter().map(|disk| disk.snapshot.clone()).collect(),
        doing: Doing::Defining,
        looks: 0,
    };
    let api = Api::new(host);
    if let Some(image) = image(&api, &state)? {
        return defined(state, Some(&image));
    }
    let mut call = Call::new("RegisterImage")
        .with("Name", state.image_name())
        .with("Description", shortened(&format!("Farshore has recovered {}", machine.name), 255))
        .with("Architecture", "x86_64")
        .with("VirtualizationType", "hvm")
        .with("EnaSupport", true)
        .with("BootMode", boot_mode(machine.firmware))
        .with("RootDeviceName", ROOT_DEVICE);
    let mut names = DATA_DEVICES.map(|letter| format!("/dev/sd{letter}"));
    for ((number, disk), made) in (1..).zip(&machine.disks).zip(&disks) {
        let device = if disk.boot { Some(ROOT_DEVICE.to_owned()) } else { names.next() };
        let device = device.ok_or_else(|| PlatformError::Unsupported("there are more disks than devices".into()))?;
        let prefix = format!("BlockDeviceMapping.{number}");
        call = call
            .with(format!("{prefix}.DeviceName"), device)
            .with(format!("{prefix}.Ebs.SnapshotId"), &made.snapshot)
            .with(format!("{prefix}.Ebs.VolumeSize"), made.gib())
            .with(format!("{prefix}.Ebs.VolumeType"), "gp3")
            .with(format!("{prefix}.Ebs.DeleteOnTermination"), true);
    }
    let call = call.tagged("image", &state.tags(&Settings::load(host)?));
    match api.ec2::<Registered>(&call) {
        Ok(_) => defined(state, None),
        // By an answer that was lost: nobody else gives this name.
        Err(error) if error.code() == "InvalidAMIName.Duplicate" => defined(state, None),
        // With its state the host can give back what may have been made.
        Err(error) if error.may_have_been_done() => defined(state, None),
        Err(error) => Err(error.while_doing(format!("registering the image of machine {}", machine.name))),
    }
}

/// The machine's image, if it can be seen.
fn image(api: &Api<'_>, state: &State) -> Result<Option<Image>> {
    let call = Call::new("DescribeImages").list("Owner", ["self"]).filter("name", [state.image_name().as_str()]);
    let found = api.all::<Images>(&call);
    Ok(found
        .map_err(|error| error.while_doing(format!("looking for the image of machine {}", state.name)))?
        .into_iter()
        .next())
}

fn defined(state: State, image: Option<&Image>) -> Result<MachineStep> {
    match image.map(|image| image.image_state.as_str()) {
        Some("available") => State { looks: 0, ..state }.ready(""),
        Some("pending") => State { looks: 0, ..state }.pending("waiting for the image to be available"),
        None if state.looks < LOOKS_MAX => state.pending("waiting for the image to be seen"),
        None => Err(PlatformError::NotFound(format!("the image of machine {} is gone", state.name))),
        Some(other) => Err(PlatformError::Failed(format!("the image of machine {} is `{other}`", state.name))),
    }
}

/// The machine's instances that are not gone, and how those that are gone ended.
fn instances(api: &Api<'_>, state: &State) -> Result<(Vec<Instance>, Option<String>)> {
    let call = Call::new("DescribeInstances")
        .filter(&format!("tag:{OWNER}"), [state.owner.as_str()])
        .filter(&format!("tag:{ID}"), [state.id.as_str()]);
    let found = api.all::<Reservations>(&call);
    let found =
        found.map_err(|error| error.while_doing(format!("looking for the instance of machine {}", state.name)))?;
    let all = found.into_iter().flat_map(|reservation| reservation.instances_set.into_vec());
    let is_gone =
        |instance: &Instance| ["terminated", "shutting-down"].contains(&instance.instance_state.name.as_str());
    let (gone, there): (Vec<Instance>, Vec<Instance>) = all.partition(is_gone);
    Ok((there, gone.into_iter().next().map(|gone| format!("{}: {}", gone.instance_id, gone.state_reason.message))))
}

/// `target-machines.start-machine`.
///
/// # Errors
/// As in the interface.
pub fn start(host: &dyn Host, state: &[u8]) -> Result<MachineStep> {
    let state = State { doing: Doing::Starting, looks: 0, ..State::parse(state)? };
    starting(host, state)
}

fn starting(host: &dyn Host, state: State) -> Result<MachineStep> {
    let api = Api::new(host);
    let (there, gone) = instances(&api, &state)?;
    let name = state.name.clone();
    if let Some(instance) = there.first() {
        let id = &instance.instance_id;
        match instance.instance_state.name.as_str() {
            "running" => return state.ready(&format!("instance {id}")),
            "stopped" => {
                let started = api.ec2_done(&Call::new("StartInstances").list("InstanceId", [id.as_str()]));
                started.map_err(|error| error.while_doing(format!("starting the instance {id} of machine {name}")))?;
            }
            _ => {}
        }
        let doing = format!("waiting for the instance {id} to run (now {})", instance.instance_state.name);
        return State { looks: 0, ..state }.pending(&doing);
    }
    if let Some(gone) = gone {
        return Err(PlatformError::Failed(format!("the instance of machine {name} has ended ({gone})")));
    }
    // Nobody sees one. Asking again with the same token makes no second one, and tells of the first.
    if state.looks >= LOOKS_MAX {
        return Err(PlatformError::NotFound(format!("the instance of machine {name} was started and cannot be seen")));
    }
    let settings = Settings::load(host)?;
    let placement = settings.placement(&state.source)?;
    let Some(image) = image(&api, &state)? else {
        return state.pending("waiting for the image to be seen");
    };
    let call = Call::new("RunInstances")
        .with("ImageId", &image.image_id)
        .with("InstanceType", &placement.instance_type)
        .with("MinCount", 1)
        .with("MaxCount", 1)
        .with("SubnetId", &placement.subnet)
        .list("SecurityGroupId", placement.security_groups.iter().map(String::as_str))
        .with("ClientToken", &state.id)
        .tagged("instance", &state.tags(&settings))
        .tagged("volume", &state.tags(&settings));
    let call = placement.address.iter().fold(call, |call, address| call.with("PrivateIpAddress", address));
    match api.ec2::<crate::answers::Reservation>(&call) {
        Ok(_) => state.pending("waiting for the instance to run"),
        Err(error) if ["InvalidAMIID.Unavailable", "InvalidAMIID.NotFound"].contains(&error.code()) => {
            state.pending("waiting until the image can be used")
        }
        // An instance that was ended a moment ago still has it.
        Err(error) if error.code() == "InvalidIPAddress.InUse" && state.looks.saturating_add(1) < LOOKS_MAX => {
            state.pending("waiting until the private address is free")
        }
        // EC2 has no room for such an instance, and made none.
        Err(error) if error.code().starts_with("Insufficient") => {
            let error = error.while_doing(format!("starting an instance for machine {name}"));
            Err(PlatformError::Failed(platform_sentence(&error).to_owned()))
        }
        Err(error) if error.is_throttled() => {
            let looks = state.looks.saturating_sub(1);
            State { looks, ..state }.pending("waiting until EC2 takes more requests")
        }
        Err(error) if error.may_have_been_done() => {
            state.pending("waiting for EC2, which did not answer when it was asked to start the instance")
        }
        Err(error) => Err(error.while_doing(format!("starting an instance for machine {name}"))),
    }
}

/// `target-machines.continue-machine`.
///
/// # Errors
/// As in the interface.
pub fn go_on(host: &dyn Host, state: &[u8]) -> Result<MachineStep> {
    let state = State::parse(state)?;
    match state.doing {
        Doing::Defining => {
            let image = image(&Api::new(host), &state)?;
            defined(state, image.as_ref())
        }
        Doing::Starting => starting(host, state),
        Doing::Stopping { by_force } => stopping(host, state, by_force),
    }
}

/// `target-machines.stop-machine`.
///
/// # Errors
/// As in the interface.
pub fn stop(host: &dyn Host, state: &[u8], manner: Manner) -> Result<MachineStep> {
    let by_force = manner == Manner::Forced;
    let state = State { doing: Doing::Stopping { by_force }, looks: 0, ..State::parse(state)? };
    stopping(host, state, by_force)
}

fn stopping(host: &dyn Host, state: State, by_force: bool) -> Result<MachineStep> {
    let api = Api::new(host);
    let Some(instance) = instances(&api, &state)?.0.into_iter().next() else {
        return state.ready("there is no instance");
    };
    match power::stop(&api, &instance, by_force)? {
        Progress::Off(proof) => state.ready(&proof),
        Progress::Waiting(pending) => state.pending(&pending.doing),
    }
}

/// `target-machines.check-readiness`.
///
/// # Errors
/// As in the interface.
pub fn check_readiness(host: &dyn Host, state: &[u8]) -> Result<Readiness> {
    let state = State::parse(state)?;
    let api = Api::new(host);
    let (there, gone) = instances(&api, &state)?;
    let Some(instance) = there.first() else {
        let evidence = gone.map_or("there is no instance".to_owned(), |gone| format!("the instance has ended: {gone}"));
        return Ok(Readiness { level: ReadinessLevel::Off, evidence: shortened(&evidence, 1_024) });
    };
    let (id, now) = (&instance.instance_id, instance.instance_state.name.as_str());
    if now != "running" {
        let evidence = format!("EC2 answered `DescribeInstances` for {id} with the state `{now}`");
        return Ok(Readiness { level: ReadinessLevel::Off, evidence });
    }
    let statuses = api.ec2::<InstanceStatuses>(&Call::new("DescribeInstanceStatus").list("InstanceId", [id.as_str()]));
    let statuses = match statuses {
        Ok(statuses) => statuses.into_parts().0,
        Err(error) if error.is_not_found() => Vec::new(),
        Err(error) => return Err(error.while_doing(format!("asking for the status of instance {id}"))),
    };
    let status = statuses.iter().find(|status| status.instance_id == *id);
    let checked = status.map_or("not known yet", |status| status.instance_status.status.as_str());
    let level = if checked == "ok" { ReadinessLevel::Ready } else { ReadinessLevel::Running };
    let evidence = format!("EC2's check whether the guest of {id} can be reached answers `{checked}`");
    Ok(Readiness { level, evidence })
}

/// `target-machines.remove-machine`.
///
/// # Errors
/// As in the interface.
pub fn remove(host: &dyn Host, state: &[u8]) -> Result<Done> {
    let state = State::parse(state)?;
    let api = Api::new(host);
    for look in 0..END_LOOKS_MAX {
        let (there, gone) = instances(&api, &state)?;
        if there.is_empty() {
            // One that was started a moment ago is not seen for a while.
            if gone.is_some() || look >= UNSEEN_LOOKS {
                break;
            }
            wait(host, END_PAUSE_MILLISECONDS)?;
            continue;
        }
        let ids: Vec<&str> = there.iter().map(|instance| instance.instance_id.as_str()).collect();
        match api.ec2_done(&Call::new("TerminateInstances").list("InstanceId", ids)) {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                return Err(error.while_doing(format!("ending the instance of machine {}", state.name)));
            }
        }
        if look.saturating_add(1) == END_LOOKS_MAX {
            let text = format!("the instance of machine {} does not end", state.name);
            return Err(PlatformError::Conflict(text));
        }
        wait(host, END_PAUSE_MILLISECONDS)?;
    }
    let mut snapshots: BTreeSet<String> = state.snapshots.iter().cloned().collect();
    if let Some(image) = image(&api, &state)? {
        snapshots.extend(image_snapshots(&image));
        let call = Call::new("DeregisterImage").with("ImageId", &image.image_id);
        match api.ec2_done(&call) {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.while_doing(format!("removing the image of machine {}", state.name))),
        }
    }
    for snapshot in &snapshots {
        snapshots::delete(&api, snapshot, true)?;
    }
    Ok(Done { note: String::new() })
}

/// The snapshots that an image is made of.
pub(crate) fn image_snapshots(image: &Image) -> Vec<String> {
    let volumes = image.block_device_mapping.iter().filter_map(|mapping| mapping.ebs.as_ref());
    volumes.map(|volume| volume.snapshot_id.clone()).filter(|id| !id.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_subnet() {
        for (address, range, is_inside) in [
            ("10.0.1.4", "10.0.1.0/24", true),
            ("10.0.1.254", "10.0.1.0/24", true),
            ("10.0.1.3", "10.0.1.0/24", false),
            ("10.0.1.255", "10.0.1.0/24", false),
            ("10.0.2.4", "10.0.1.0/24", false),
            ("10.0.0.4", "10.0.1.0/24", false),
            ("10.0.1.4", "", false),
            ("10.0.1.4", "10.0.1.0/33", false),
            ("1.2.3.4", "0.0.0.0/0", true),
        ] {
            assert_eq!(is_in(address, range), is_inside, "{address} in {range}");
        }
    }
}
