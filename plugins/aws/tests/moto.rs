//! The adapter and moto, an independent server of EC2 and EBS direct, which `cargo xtask test` installs.
//!
//! The twin and the adapter could share a wrong idea of how something is written on the wire. moto reads and writes it as AWS's
//! own descriptions of the services say, so that these tests prove how things are written; what they mean the twin proves, which
//! is strict where moto is lax. What moto 5.2.5 lacks is left out:
//!
//! - No signature is checked, and no policy.
//! - `CreateSnapshots` heeds `ExcludeBootVolume`, but not `ExcludeDataVolumeId`: it makes a snapshot of each volume of data.
//! - `ListSnapshotBlocks` of a snapshot that `CreateSnapshots` has made fails with the status 500: blocks can be listed and read
//!   only of snapshots that EBS direct has begun.
//! - `ListChangedBlocks` leaves out the blocks that only the later snapshot has.
//! - Neither listing of blocks heeds `maxResults` and `startingBlockIndex`, or gives a `NextToken`: there is one page.
//! - `DescribeSnapshots`, `DescribeVolumes` and `DescribeImages` do not heed `MaxResults`: only pages of `DescribeInstances` are
//!   followed.
//! - `DescribeSnapshots` does not heed `Owner`.
//! - EBS direct fails with the status 500 when it is asked about a snapshot that it does not know, instead of refusing.
//! - A snapshot of EBS direct is `completed` for EC2 before `CompleteSnapshot`, whose count and checksum it does not compare with
//!   what was put, as `PutSnapshotBlock` does not compare a block with its checksum.
//! - Neither `StartSnapshot` nor `RunInstances` heeds `ClientToken`: the same makes another.
//! - `RegisterImage` heeds only `Name` and `Description`, and takes a name twice: an image has no tags, boots by UEFI, and has one
//!   disk of 15 GiB that is made of nothing of ours.
//! - `RunInstances` does not heed the disks of its image: an instance has one of 8 GiB.
//! - `DescribeInstances` does not say by what an instance boots.
//! - An instance has started or stopped at the next look, and is always reached by the checks of its status.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use farshore_adapter_aws::{
    answers::{
        Images, Registered, Reservation, Reservations, SecurityGroup, Snapshot, Snapshots, Subnet, Volume, Volumes,
    },
    api::{Api, Call},
    bindings::{
        exports::farshore::platform::{
            ownership::{Kind, Owned},
            power::{Manner, PowerStatus},
            source::{CaptureStatus, Changes, Instant, Outcome},
            source_blocks::BlockSet,
            target_disks::DiskStatus,
            target_machines::{Level, Manner as StopManner},
        },
        farshore::platform::model::{Firmware, Machine, PowerState, Property},
    },
    blocks, capture,
    error::PlatformError,
    inventory, ownership,
    ports::{BlockDisk, Host as _, Method, Request},
    power,
    tags::{Tags, tags},
    target_disks, target_machines,
};
use farshore_e2e::{Says, Server, installed};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use support::{OWNER, RUN, Scene, discovered, end, machine, tokens, wanted};

const MACHINE: &str = "00000000000000000000000000000001";
/// Ids of things that are not there.
const NO_INSTANCE: &str = "i-0123456789abcdef0";
const NO_IMAGE: &str = "ami-0123456789abcdef0";
const NO_SNAPSHOT: &str = "snap-0123456789abcdef0";

fn id(number: u32) -> String {
    format!("{number:0>32x}")
}

#[derive(Deserialize)]
struct MadeVpc {
    vpc: Vpc,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Vpc {
    vpc_id: String,
}

#[derive(Deserialize)]
struct MadeSubnet {
    subnet: Subnet,
}

/// moto, with a network and an image in it.
struct Site {
    scene: Scene<Server>,
    subnet: String,
    group: String,
    image: String,
}

impl Site {
    fn new() -> Self {
        let mut command = Command::new(installed("s3-server/python/bin").join("python"));
        command.args(["-B", "-c", include_str!("support/moto_server.py")]);
        // It checks more than it does by itself, and has no images of others.
        let strict = ["MOTO_ENABLE_AMI_VALIDATION", "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION"];
        command.envs(strict.map(|name| (name, "true"))).env("MOTO_EC2_LOAD_DEFAULT_AMIS", "false");
        let server = Server::start(command, Says::Errors, "http://");
        let url = format!("http://{}", server.said);
        let folder = tempfile::tempdir().expect("a folder");
        let mut scene = Scene::at(server, folder, [&url, &url]);
        let api = Api::new(&scene);
        let vpc: MadeVpc = api.ec2(&Call::new("CreateVpc").with("CidrBlock", "10.0.0.0/16")).expect("a VPC");
        let vpc = vpc.vpc.vpc_id;
        let call = Call::new("CreateSubnet").with("VpcId", &vpc).with("CidrBlock", "10.0.1.0/24");
        let subnet: MadeSubnet = api.ec2(&call.with("AvailabilityZone", "eu-west-1a")).expect("a subnet");
        let call = Call::new("CreateSecurityGroup").with("VpcId", &vpc).with("GroupName", "drills");
        let group: SecurityGroup = api.ec2(&call.with("GroupDescription", "Drills")).expect("a group");
        let image: Registered = api.ec2(&Call::new("RegisterImage").with("Name", "a system")).expect("an image");
        let (subnet, group, image) = (subnet.subnet.subnet_id, group.group_id, image.image_id);
        scene.settings = settings(&subnet, &group, "");
        Self { scene, subnet, group, image }
    }

    /// The settings of the site, with more.
    fn set(&mut self, more: &str) {
        self.scene.settings = settings(&self.subnet, &self.group, more);
    }

    /// Runs an instance with this name, a root disk of 1 GiB and one of 3 GiB.
    fn instance(&self, name: &str) -> String {
        let call = Call::new("RunInstances")
            .with("ImageId", &self.image)
            .with("InstanceType", "t3.large")
            .with("MinCount", 1)
            .with("MaxCount", 1)
            .with("SubnetId", &self.subnet)
            .with("BlockDeviceMapping.1.DeviceName", "/dev/sda1")
            .with("BlockDeviceMapping.1.Ebs.VolumeSize", 1)
            .with("BlockDeviceMapping.1.Ebs.DeleteOnTermination", true)
            .tagged("instance", &tags([("Name", name), ("team", name)]));
        let api = Api::new(&self.scene);
        let mut made: Vec<_> = api.ec2::<Reservation>(&call).expect("an instance").instances_set.into_vec();
        let instance = made.remove(0).instance_id;
        let call = Call::new("CreateVolume").with("Size", 3).with("AvailabilityZone", "eu-west-1a");
        let volume: Volume = api.ec2(&call).expect("a volume");
        let call = Call::new("AttachVolume").with("InstanceId", &instance).with("VolumeId", volume.volume_id);
        api.ec2_done(&call.with("Device", "/dev/sdf")).expect("it is attached");
        instance
    }

    fn terminate(&self, instance: &str) {
        let call = Call::new("TerminateInstances").list("InstanceId", [instance]);
        Api::new(&self.scene).ec2_done(&call).expect("it ends");
    }

    /// The snapshots that carry a tag of ours, by id.
    fn snapshots(&self) -> BTreeMap<String, Snapshot> {
        let all = Api::new(&self.scene).all::<Snapshots>(&Call::new("DescribeSnapshots")).expect("snapshots");
        let ours = all.into_iter().filter(|snapshot| !snapshot.tag_set.get("farshore:owner").is_empty());
        ours.map(|snapshot| (snapshot.snapshot_id.clone(), snapshot)).collect()
    }

    fn snapshot_ids(&self) -> BTreeSet<String> {
        self.snapshots().into_keys().collect()
    }

    fn owned(&self, kind: Kind) -> Vec<Owned> {
        let page = ownership::list(&self.scene, kind, OWNER, None).expect("a list");
        assert_eq!(page.next, None);
        page.items
    }
}

fn settings(subnet: &str, group: &str, more: &str) -> String {
    let settings = format!(r#""instance-type": "t3.large", "subnet": "{subnet}", "security-groups": ["{group}"]"#);
    format!(r#"{{{settings}, "tags": {{"purpose": "drill"}}{more}}}"#)
}

fn property<'m>(properties: &'m [Property], name: &str) -> &'m str {
    properties.iter().find(|property| property.name == name).map_or("", |property| &property.value)
}

fn is_not_found<T: std::fmt::Debug>(outcome: Result<T, PlatformError>, part: &str) {
    match outcome {
        Err(PlatformError::NotFound(text)) if text.contains(part) => {}
        other => panic!("{part}: {other:?}"),
    }
}

/// The tags that are asked for, and the operator's.
fn has_tags(snapshot: &Snapshot, expected: &[(&str, &str)]) {
    for (name, value) in expected.iter().chain(&[("farshore:owner", OWNER), ("purpose", "drill")]) {
        assert_eq!(snapshot.tag_set.get(name), *value, "{name} of {snapshot:?}");
    }
}

#[test]
fn instances_are_discovered_with_their_disks_and_networks() {
    let mut site = Site::new();
    let (orders, invoices, gone) = (site.instance("Orders"), site.instance("Invoices"), site.instance("Gone"));
    site.terminate(&gone);
    let found = discovered(&site.scene);
    let ids: BTreeSet<&str> = found.iter().map(|machine| machine.id.as_str()).collect();
    assert_eq!(ids, BTreeSet::from([orders.as_str(), &invoices]), "what has ended is not there");
    let found = found.into_iter().find(|machine| machine.id == orders).expect("it is there");
    assert_eq!((found.name.as_str(), found.cpus, found.memory_bytes), ("Orders", 2, 8 << 30));
    assert_eq!((found.power, found.firmware), (PowerState::Running, Firmware::Bios));
    assert_eq!(property(&found.properties, "instance-type"), "t3.large");
    let disks: Vec<_> = found.disks.iter().map(|disk| (disk.id.as_str(), disk.size_bytes >> 30, disk.boot)).collect();
    assert_eq!(disks, [("sda1", 1, true), ("sdf", 3, false)]);
    let volumes = Api::new(&site.scene).all::<Volumes>(&Call::new("DescribeVolumes")).expect("volumes");
    for disk in &found.disks {
        let volume = volumes.iter().find(|volume| volume.volume_id == property(&disk.properties, "volume"));
        assert_eq!(volume.map(|volume| volume.size << 30), Some(disk.size_bytes), "{disk:?}");
    }
    assert_eq!(found.network_interfaces.len(), 1);
    let interface = &found.network_interfaces[0];
    assert!(interface.id.starts_with("eni-"), "{interface:?}");
    assert_eq!(interface.mac.as_deref().map(|mac| mac.split(':').count()), Some(6), "{interface:?}");
    assert_eq!(interface.network.as_deref(), Some(site.subnet.as_str()));
    assert!(property(&interface.properties, "address").starts_with("10.0.1."), "{interface:?}");

    // What the operator has chosen.
    let data = property(&found.disks[1].properties, "volume").to_owned();
    site.set(&format!(r#", "discover": {{"team": "Orders"}}, "exclude-volumes": ["{data}"]"#));
    let chosen = discovered(&site.scene);
    assert_eq!(chosen.iter().map(|machine| machine.id.as_str()).collect::<Vec<_>>(), [orders.as_str()]);
    assert_eq!(chosen[0].disks.iter().map(|disk| disk.id.as_str()).collect::<Vec<_>>(), ["sda1"]);
    site.set("");

    // Off is what EC2 says is off.
    for manner in [Manner::Graceful, Manner::Forced] {
        let mut step = power::stop_machine(&site.scene, &orders, manner).expect("an answer");
        if let PowerStatus::Pending(_) = step.status {
            step = power::stop_machine(&site.scene, &orders, manner).expect("an answer");
        }
        let PowerStatus::Off(proof) = step.status else { panic!("{step:?}") };
        assert!(proof.contains("with the state `stopped`"), "{proof}");
    }
    let off = discovered(&site.scene).into_iter().find(|machine| machine.id == orders).expect("it is there");
    assert_eq!(off.power, PowerState::Off);
    let unknown = power::stop_machine(&site.scene, NO_INSTANCE, Manner::Forced).expect_err("nobody knows");
    assert!(matches!(&unknown, PlatformError::Unreachable(text) if text.contains("no proof")), "{unknown:?}");
}

#[test]
fn all_instances_are_found_page_by_page() {
    let site = Site::new();
    let all: BTreeSet<String> = (0..51).map(|number| site.instance(&format!("number {number}"))).collect();
    let first = inventory::list_machines(&site.scene, None).expect("a page");
    assert_eq!(first.machines.len(), 50);
    let second = inventory::list_machines(&site.scene, first.next.as_deref()).expect("a page");
    assert_eq!(second.next, None);
    let small_pages = Call::new("DescribeInstances").with("MaxResults", 20);
    assert_eq!(Api::new(&site.scene).all::<Reservations>(&small_pages).expect("instances").len(), 51);
    let machines: Vec<Machine> = first.machines.into_iter().chain(second.machines).collect();
    assert!(machines.iter().all(|machine| machine.disks.len() == 2), "each page has its disks");
    assert_eq!(machines.into_iter().map(|machine| machine.id).collect::<BTreeSet<_>>(), all);
}

#[test]
fn a_capture_is_of_all_volumes_and_its_end_is_told_by_tags() {
    let site = Site::new();
    let (scene, orders, invoices) = (&site.scene, site.instance("Orders"), site.instance("Invoices"));
    let found = discovered(scene).into_iter().find(|machine| machine.id == orders).expect("it is there");
    let first = scene.capture(&wanted(&id(1), &orders, &[])).expect("a capture");
    let made = site.snapshots();
    let base = tokens(&first);
    assert_eq!(base.values().cloned().collect::<BTreeSet<_>>(), site.snapshot_ids(), "no more than was asked for");
    assert_eq!(base.keys().map(String::as_str).collect::<Vec<_>>(), ["sda1", "sdf"]);
    for disk in &found.disks {
        let snapshot = &made[&base[&disk.id]];
        assert_eq!(snapshot.volume_id, property(&disk.properties, "volume"));
        assert_eq!(snapshot.volume_size << 30, disk.size_bytes);
        let name = format!("farshore {orders}");
        has_tags(snapshot, &[("Name", &name), ("farshore:kind", "capture"), ("farshore:id", &id(1))]);
        has_tags(snapshot, &[("farshore:machine", &orders)]);
        assert!(!snapshot.tag_set.get("farshore:attempt").is_empty());
    }
    for disk in capture::list_disks(&first, None).expect("disks").disks {
        assert!(matches!(disk.changes, Changes::Unknown(_)), "{disk:?}");
    }
    let owned = site.owned(Kind::Capture);
    assert_eq!(owned.iter().map(|owned| owned.id.clone()).collect::<Vec<_>>(), [id(1)]);
    assert!(owned[0].description.ends_with(&orders), "{}", owned[0].description);
    assert!(ownership::list(scene, Kind::Capture, "another", None).expect("a list").items.is_empty());
    capture::verify(scene, &first).expect("it holds");
    end(scene, &first, Outcome::Committed).expect("it ends");
    assert!(site.owned(Kind::Capture).is_empty(), "the base is nobody's");
    for snapshot in site.snapshots().values() {
        has_tags(snapshot, &[("farshore:kind", "base"), ("farshore:id", &id(1))]);
    }

    // One that is given up leaves the base, and the next is told from it.
    let tracked: Vec<_> = base.iter().map(|(disk, token)| (disk.as_str(), token.as_str())).collect();
    let mut both = wanted(&id(2), &orders, &tracked);
    both.machines.push(invoices);
    let step = capture::begin(scene, &both).expect("a capture");
    let CaptureStatus::Ready(report) = &step.status else { panic!("{step:?}") };
    assert_eq!(report.instant, Instant::Machine);
    let told = capture::list_disks(&step.state, None).expect("disks").disks;
    let listed = told.iter().filter(|disk| disk.changes == Changes::Listed).map(|disk| disk.machine.as_str());
    assert_eq!(listed.collect::<Vec<_>>(), [orders.as_str(); 2]);
    assert_eq!(site.snapshots().len(), 2 + 4);
    end(scene, &step.state, Outcome::Abandoned).expect("it ends");
    assert_eq!(site.snapshot_ids(), base.values().cloned().collect());
    end(scene, &step.state, Outcome::Abandoned).expect("it has ended");
    let broken = capture::verify(scene, &step.state).expect_err("it is gone");
    assert!(matches!(broken, PlatformError::CaptureBroken(_)), "{broken:?}");

    let next = scene.capture(&wanted(&id(3), &orders, &tracked)).expect("a capture");
    assert_eq!(site.snapshots().len(), 4);
    end(scene, &next, Outcome::Committed).expect("it ends");
    assert_eq!(site.snapshot_ids(), tokens(&next).into_values().collect(), "the base before is gone");

    // What a host left that knows nothing.
    let left = scene.capture(&wanted(&id(4), &orders, &[])).expect("a capture");
    assert_eq!(site.snapshot_ids(), tokens(&left).into_values().collect(), "what nothing is told from has gone");
    scene.release_all(&[Kind::Capture]);
    assert!(site.snapshots().is_empty());
}

#[test]
fn what_is_not_there_or_left_out_is_not_captured() {
    let mut site = Site::new();
    let (orders, gone) = (site.instance("Orders"), site.instance("Gone"));
    site.terminate(&gone);
    is_not_found(site.scene.capture(&wanted(&id(1), NO_INSTANCE, &[])), "there is no instance");
    is_not_found(site.scene.capture(&wanted(&id(1), &gone, &[])), "is `terminated`");
    let found = discovered(&site.scene).remove(0);
    let boot = property(&found.disks[0].properties, "volume").to_owned();
    site.set(&format!(r#", "exclude-volumes": ["{boot}"]"#));
    let state = site.scene.capture(&wanted(&id(1), &orders, &[])).expect("a capture");
    let made: Vec<u64> = site.snapshots().values().map(|snapshot| snapshot.volume_size).collect();
    assert_eq!(made, [3], "the disk that is booted from is left out");
    // Somebody removes it.
    let snapshot = tokens(&state).remove("sdf").expect("a token");
    let api = Api::new(&site.scene);
    api.ec2_done(&Call::new("DeleteSnapshot").with("SnapshotId", &snapshot)).expect("it goes");
    let broken = capture::verify(&site.scene, &state).expect_err("it is gone");
    assert!(matches!(&broken, PlatformError::CaptureBroken(text) if text.contains(&snapshot)), "{broken:?}");
    end(&site.scene, &state, Outcome::Abandoned).expect("what is gone needs no end");

    for call in [
        Call::new("CreateSnapshots").with("InstanceSpecification.InstanceId", NO_INSTANCE),
        Call::new("CreateTags").list("ResourceId", [NO_SNAPSHOT]).tag_list("Tag", &tags([("a", "b")])),
        Call::new("DeleteSnapshot").with("SnapshotId", NO_SNAPSHOT),
        Call::new("DeregisterImage").with("ImageId", NO_IMAGE),
        Call::new("DescribeInstanceStatus").list("InstanceId", [NO_INSTANCE]),
        Call::new("RunInstances").with("ImageId", NO_IMAGE).with("MinCount", 1).with("MaxCount", 1),
        Call::new("StartInstances").list("InstanceId", [NO_INSTANCE]),
        Call::new("StopInstances").list("InstanceId", [NO_INSTANCE]),
        Call::new("TerminateInstances").list("InstanceId", [NO_INSTANCE]),
    ] {
        let unknown = api.ec2_done(&call).expect_err("there is none");
        assert!(unknown.is_not_found(), "{call:?}: {unknown:?}");
    }
}

/// The state of a capture that has this snapshot, and perhaps one that changes are told from.
fn captured(snapshot: &str, base: Option<&str>) -> Vec<u8> {
    let disk = serde_json::json!({"disk": "sda1", "volume": "vol-1", "gib": 1, "snapshot": snapshot, "base": base});
    let machine = serde_json::json!({"machine": "i-1", "step": "Made", "disks": [disk]});
    serde_json::json!({"version": 1, "owner": OWNER, "id": id(9), "machines": [machine]}).to_string().into_bytes()
}

#[test]
fn what_is_written_block_by_block_is_read_again() {
    let site = Site::new();
    let scene = &site.scene;
    let disk = &machine(1).disks[0];
    let snapshot_of = |state: &[u8]| {
        let state: serde_json::Value = serde_json::from_slice(state).expect("JSON");
        state["snapshot"].as_str().expect("a snapshot").to_owned()
    };
    let before = BTreeMap::from([(0, 1), (7, 2), (9, 5), (2_047, 3)]);
    let after = BTreeMap::from([(0, 1), (7, 8), (2_047, 9)]);
    let first = scene.disk(&id(1), disk, &before).expect("a disk");
    let second = scene.disk(&id(2), disk, &after).expect("a disk");
    let (first_snapshot, second_snapshot) = (snapshot_of(&first), snapshot_of(&second));
    let made = site.snapshots();
    assert_eq!(made.keys().collect::<BTreeSet<_>>(), BTreeSet::from([&first_snapshot, &second_snapshot]));
    for (number, snapshot) in [(1, &first_snapshot), (2, &second_snapshot)] {
        has_tags(&made[snapshot], &[("Name", "farshore Orders vd0"), ("farshore:kind", "disk")]);
        has_tags(&made[snapshot], &[("farshore:id", &id(number)), ("farshore:run", RUN)]);
        assert_eq!(made[snapshot].volume_size, 1);
    }

    for (snapshot, content) in [(&first_snapshot, &before), (&second_snapshot, &after)] {
        let state = captured(snapshot, None);
        let listed = scene.blocks(&state, "i-1", "sda1", BlockSet::Allocated).expect("blocks");
        assert!(listed.iter().all(|block| block.key.is_some()), "{listed:?}");
        let place = blocks::place(&state, "i-1", "sda1").expect("a place");
        assert_eq!(scene.read(&place, &listed).expect("bytes"), *content);
    }
    let state = captured(&second_snapshot, Some(&first_snapshot));
    let listed = scene.blocks(&state, "i-1", "sda1", BlockSet::Changed).expect("blocks");
    let place = blocks::place(&state, "i-1", "sda1").expect("a place");
    assert_eq!(scene.read(&place, &listed).expect("bytes"), BTreeMap::from([(7, 8), (9, 0), (2_047, 9)]));
    has_checksum(scene, &place, listed[0].index, listed[0].key.as_deref().expect("a token"));

    // What belongs to this owner, and how it goes.
    let owned: BTreeSet<_> = site.owned(Kind::Disk).into_iter().map(|owned| (owned.id, owned.run)).collect();
    let expected = [1, 2].map(|number| (id(number), Some(RUN.to_owned())));
    assert_eq!(owned, BTreeSet::from(expected));
    target_disks::discard(scene, &first).expect("it goes");
    target_disks::discard(scene, &first).expect("it is gone");
    assert_eq!(site.snapshot_ids(), BTreeSet::from([second_snapshot]));
    scene.release_all(&[Kind::Disk]);
    assert!(site.snapshots().is_empty());
    let gone = target_disks::go_on(scene, &second).expect("it may not be seen yet");
    assert!(matches!(gone.status, DiskStatus::Pending(_)), "{gone:?}");
}

/// The header by which the host checks a block is there, and is the digest of the block.
fn has_checksum(scene: &Scene<Server>, place: &BlockDisk, index: u64, token: &str) {
    let read = place.read.as_ref().expect("it can be read");
    let request = Request {
        method: Method::Get,
        target: read.target.replace("{index}", &index.to_string()).replace("{key}", token),
        headers: Vec::new(),
        body: Vec::new(),
        repeatable: true,
        timeout_milliseconds: 20_000,
        throttle_words: Vec::new(),
    };
    let response = scene.send("ebs", &request).expect("an answer");
    let found = response.headers.iter().find(|header| header.name == read.checksum_header).expect("a checksum");
    assert_eq!(found.value, STANDARD.encode(Sha256::digest(&response.body)));
}

#[test]
fn a_machine_is_started_stopped_and_removed() {
    let mut site = Site::new();
    site.set(r#", "machines": {"orders": {"address": "10.0.1.77"}}"#);
    let scene = &site.scene;
    let (instance, state) =
        scene.run(MACHINE, &[&BTreeMap::from([(0, 1)]), &BTreeMap::from([(3, 4)])]).expect("it runs");
    let found = discovered(scene).remove(0);
    assert_eq!((found.id.as_str(), found.name.as_str(), found.cpus), (instance.as_str(), "Orders", 2));
    assert_eq!(found.network_interfaces[0].network.as_deref(), Some(site.subnet.as_str()));
    assert_eq!(property(&found.network_interfaces[0].properties, "address"), "10.0.1.77");
    let api = Api::new(scene);
    let expected = [("Name", "Orders"), ("farshore:kind", "machine"), ("farshore:id", MACHINE), ("farshore:run", RUN)];
    let expected: Tags = tags(expected.into_iter().chain([("farshore:owner", OWNER), ("purpose", "drill")]));
    let of_group = Call::new("DescribeInstances").filter("instance.group-id", [site.group.as_str()]);
    let instances: Vec<_> = api.all::<Reservations>(&of_group).expect("instances");
    let instances: Vec<_> = instances.into_iter().flat_map(|found| found.instances_set.into_vec()).collect();
    assert_eq!(instances.len(), 1, "it is in the group");
    let volumes =
        api.all::<Volumes>(&Call::new("DescribeVolumes").filter("attachment.instance-id", [instance.as_str()]));
    let volumes = volumes.expect("volumes");
    for (name, value) in &expected {
        assert_eq!(instances[0].tag_set.get(name), value, "{name}");
        assert!(volumes.iter().all(|volume| volume.tag_set.get(name) == value), "{name}: {volumes:?}");
    }

    // Whatever is asked for again is what is there.
    let again = scene.settle_machine(target_machines::start(scene, &state).expect("a start")).expect("it runs");
    for manner in [StopManner::Graceful, StopManner::Forced] {
        let stopped =
            scene.settle_machine(target_machines::stop(scene, &again, manner).expect("a stop")).expect("it is off");
        let readiness = target_machines::check_readiness(scene, &stopped).expect("an answer");
        assert_eq!(readiness.level, Level::Off);
        assert!(readiness.evidence.ends_with("the state `stopped`"), "{}", readiness.evidence);
        let started = target_machines::start(scene, &stopped).expect("a start");
        let started = scene.settle_machine(started).expect("it runs");
        assert_eq!(target_machines::check_readiness(scene, &started).expect("an answer").level, Level::Ready);
    }
    assert_eq!(discovered(scene).len(), 1);

    let owned = site.owned(Kind::Machine);
    assert_eq!(owned.len(), 1, "{owned:?}");
    assert_eq!((owned[0].id.as_str(), owned[0].run.as_deref()), (MACHINE, Some(RUN)));
    assert!(owned[0].description.contains(&instance), "{}", owned[0].description);
    for _ in 0..2 {
        target_machines::remove(scene, &again).expect("it goes, and is gone");
    }
    assert!(discovered(scene).is_empty() && site.snapshots().is_empty() && site.owned(Kind::Machine).is_empty());
    let image = Call::new("DescribeImages").filter("name", [format!("farshore-{MACHINE}").as_str()]);
    assert!(api.all::<Images>(&image).expect("images").is_empty());
    let readiness = target_machines::check_readiness(scene, &again).expect("an answer");
    assert!(readiness.evidence.contains("has ended"), "{}", readiness.evidence);
    let ended = target_machines::start(scene, &again).expect_err("it does not come back");
    assert!(matches!(&ended, PlatformError::Failed(text) if text.contains(&instance)), "{ended:?}");
}

#[test]
fn what_stands_in_the_way_is_found_before_anything_is_made() {
    let mut site = Site::new();
    let problems = |site: &Site| {
        let findings = target_machines::check(&site.scene, &machine(1)).expect("findings").findings;
        findings.into_iter().map(|finding| (finding.blocking, finding.problem)).collect::<Vec<_>>()
    };
    assert_eq!(problems(&site), []);
    for (own, part) in [
        (r#""instance-type": "x9.tiny""#, "x9.tiny"),
        (r#""instance-type": "t4g.large""#, "boots by legacy-bios, and t4g.large only by uefi"),
        (r#""instance-type": "t4g.large""#, "are not x86_64"),
        (r#""subnet": "subnet-0123456789abcdef0""#, "no subnet subnet-0123456789abcdef0"),
        (r#""security-groups": ["sg-0123456789abcdef0"]"#, "sg-0123456789abcdef0"),
        (r#""address": "10.0.2.9""#, "(10.0.1.0/24)"),
    ] {
        site.set(&format!(r#", "machines": {{"orders": {{{own}}}}}"#));
        let told = problems(&site);
        assert!(told.iter().all(|(is_blocking, _)| *is_blocking), "{told:?}");
        assert!(told.iter().any(|(_, problem)| problem.contains(part)), "{part}: {told:?}");
    }
    // One that is too small is no obstacle.
    site.set(r#", "machines": {"orders": {"instance-type": "t3.nano"}}"#);
    let told = problems(&site);
    assert!(told.len() == 1 && !told[0].0 && told[0].1.contains("t3.nano has 512"), "{told:?}");
}
