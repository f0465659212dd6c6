//! The policies of `policies/`, beside the twin that enforces them: what each of them is for works with it alone, it allows no
//! more than that, and what it must not allow is refused.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::FileExt as _,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use farshore_adapter_aws::{
    api::header,
    bindings::exports::farshore::platform::{
        ownership::Kind,
        power::{Manner, PowerStatus},
        source::{Changes, Outcome},
        source_blocks::BlockSet,
        target_disks::{DiskRequest, DiskStatus},
        target_machines::Manner as MachineManner,
    },
    blocks, capture, ownership,
    ports::{Host as _, Method, Request},
    power, target_disks, target_machines,
};
use farshore_twin_ebs::{Ask, Fault, InstanceState, Policy};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use support::{BLOCK, OWNER, RUN, Scene, add_principal, discovered, end, machine, tokens, wanted};

/// What is said when a policy does not allow something.
const REFUSALS: [&str; 2] = ["UnauthorizedOperation", "AccessDeniedException"];
/// The settings of the source, whose snapshots carry the tag of failovers: what they are is told by their kind all the same.
const SOURCE: &str = r#"{"tags": {"purpose": "live"}}"#;
const MACHINES: [&str; 3] =
    ["00000000000000000000000000000001", "00000000000000000000000000000002", "00000000000000000000000000000003"];

fn policy(name: &str) -> String {
    // Read when the test runs, so that a change of a policy is tried without a build.
    let path = format!("{}/policies/{name}.json", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).expect(&path)
}

/// The twin, in which each policy has a key: `PROTECT`, `FENCE`, `LIVE` and `DRILL`.
fn scene() -> Scene {
    Scene::new(|options| {
        for name in ["protect", "fence", "live", "drill"] {
            add_principal(options, &name.to_uppercase(), &policy(name));
        }
    })
}

fn recovery(purpose: &str) -> String {
    json!({
        "instance-type": "t3.large",
        "subnet": format!("subnet-0{purpose}"),
        "security-groups": [format!("sg-0{purpose}")],
        "tags": {"purpose": purpose},
        "check-quotas": true,
    })
    .to_string()
}

fn content(pairs: &[(u64, u8)]) -> BTreeMap<u64, u8> {
    pairs.iter().copied().collect()
}

fn id(number: u32) -> String {
    format!("{number:0>32x}")
}

/// An instance that is protected, with two disks, made by somebody who may do everything.
fn source(scene: &mut Scene) -> String {
    scene.act_as(
        "TWIN",
        &json!({"instance-type": "t3.large", "subnet": "subnet-0live", "security-groups": ["sg-0live"]}).to_string(),
    );
    scene.run(MACHINES[0], &[&content(&[(0, 1)]), &content(&[(3, 4)])]).expect("a source").0
}

/// What a policy allows: actions, each with a kind of resources.
fn allowed_by(name: &str) -> BTreeSet<(String, String)> {
    let document: Value = serde_json::from_str(&policy(name)).expect("JSON");
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().expect("a list").iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
    };
    let mut all = BTreeSet::new();
    for statement in document["Statement"].as_array().expect("statements") {
        let actions = texts(&statement["Action"]);
        assert!(actions.iter().all(|action| !action.contains('*')), "{name}: {actions:?}");
        if statement["Effect"] == "Allow" {
            for resource in texts(&statement["Resource"]) {
                let kind = resource.rsplit(':').next().and_then(|named| named.split('/').next()).expect("a kind");
                all.extend(actions.iter().map(|action| (action.clone(), kind.to_owned())));
            }
        }
    }
    all
}

/// Nothing was refused, and everything that the policy allows was needed.
fn was_enough_and_no_more(scene: &Scene, name: &str) {
    let key = name.to_uppercase();
    let calls = scene.twin.calls();
    let own: Vec<_> = calls.iter().filter(|call| call.by == key).collect();
    assert!(!own.is_empty());
    for call in &own {
        assert!(!call.error.as_deref().is_some_and(|code| REFUSALS.contains(&code)), "{call:?}");
    }
    let allowed = allowed_by(name);
    assert_eq!(allowed, scene.twin.allowed(&key), "{name}: what it allows, and what it was asked for");
    // Tags may be asked for only by calls that make what carries them; all other actions are calls of their own.
    let is_a_call = |action: &&str| *action != "ec2:CreateTags";
    let called: BTreeSet<&str> = own.iter().map(|call| call.action.as_str()).filter(is_a_call).collect();
    assert_eq!(called, allowed.iter().map(|(action, _)| action.as_str()).filter(is_a_call).collect(), "{name}");
}

#[test]
fn captures_need_no_more_than_the_policy_for_them() {
    let mut scene = scene();
    let instance = source(&mut scene);
    let restored = scene.snapshots();
    scene.act_as("PROTECT", SOURCE);
    assert_eq!(discovered(&scene)[0].disks.len(), 2);

    let first = scene.capture(&wanted(&id(1), &instance, &[])).expect("a capture");
    let listed = scene.blocks(&first, &instance, "sda1", BlockSet::Allocated).expect("blocks");
    let place = blocks::place(&first, &instance, "sda1").expect("a place");
    assert_eq!(scene.read(&place, &listed).expect("bytes"), content(&[(0, 1)]));
    capture::verify(&scene, &first).expect("it holds");
    // An answer that is lost: the host asks again, of snapshots that are marked already.
    scene.twin.fail_next("ec2:CreateTags", Fault::Lost);
    end(&scene, &first, Outcome::Committed).expect("it ends");

    let base = tokens(&first);
    let tracked: Vec<_> = base.iter().map(|(disk, token)| (disk.as_str(), token.as_str())).collect();
    let file = std::fs::File::options().write(true).open(scene.volume(&instance, "sda1")).expect("a volume");
    file.write_all_at(&vec![7; BLOCK], 5 * BLOCK as u64).expect("a write");
    let second = scene.capture(&wanted(&id(2), &instance, &tracked)).expect("a capture");
    assert!(
        capture::list_disks(&second, None).expect("disks").disks.iter().all(|disk| disk.changes == Changes::Listed)
    );
    let changed = scene.blocks(&second, &instance, "sda1", BlockSet::Changed).expect("changes");
    let place = blocks::place(&second, &instance, "sda1").expect("a place");
    assert_eq!(scene.read(&place, &changed).expect("bytes"), content(&[(5, 7)]));
    end(&scene, &second, Outcome::Committed).expect("it ends");

    let base = tokens(&second);
    let tracked: Vec<_> = base.iter().map(|(disk, token)| (disk.as_str(), token.as_str())).collect();
    let given_up = scene.capture(&wanted(&id(3), &instance, &tracked)).expect("a capture");
    end(&scene, &given_up, Outcome::Abandoned).expect("it ends");
    // One whose end is never told, and which the next removes; and one that is found by its owner's tag.
    scene.capture(&wanted(&id(4), &instance, &tracked)).expect("a capture");
    scene.act_as("PROTECT", &json!({"exclude-volumes": [volume_of(&scene, &instance, "sdb")]}).to_string());
    scene.capture(&wanted(&id(5), &instance, &tracked[..1])).expect("a capture");
    scene.release_all(&[Kind::Capture]);
    let stays: BTreeSet<String> = restored.into_iter().chain([base["sda1"].clone()]).collect();
    assert_eq!(scene.snapshots(), stays);
    was_enough_and_no_more(&scene, "protect");
}

fn volume_of(scene: &Scene, instance: &str, disk: &str) -> String {
    let found = discovered(scene).into_iter().find(|machine| machine.id == instance).expect("an instance");
    let disk = found.disks.into_iter().find(|found| found.id == disk).expect("a disk");
    disk.properties.into_iter().find(|property| property.name == "volume").expect("a volume").value
}

#[test]
fn recoveries_need_no_more_than_the_policies_for_them() {
    for purpose in ["live", "drill"] {
        let mut scene = scene();
        source(&mut scene);
        let before = scene.twin.seen();
        scene.act_as(&purpose.to_uppercase(), &recovery(purpose));
        let findings = target_machines::check(&scene, &machine(2)).expect("findings").findings;
        assert!(findings.is_empty(), "{findings:?}");
        let (instance, state) =
            scene.run(MACHINES[1], &[&content(&[(0, 1)]), &content(&[(9, 2)])]).expect("a recovered machine");
        for manner in [MachineManner::Graceful, MachineManner::Forced] {
            scene.settle_machine(target_machines::stop(&scene, &state, manner).expect("a stop")).expect("it is off");
        }
        scene.settle_machine(target_machines::start(&scene, &state).expect("a start")).expect("it runs again");
        target_machines::remove(&scene, &state).expect("it goes");
        assert!(scene.twin.seen().instances.iter().all(|(there, _)| *there != instance));
        // What only its owner's tag tells of: a machine whose journal is lost, a disk that no machine uses, and one that is
        // still written.
        scene.run(MACHINES[2], &[&content(&[(0, 1)])]).expect("a machine");
        scene.disk(&id(0x51), &machine(1).disks[0], &content(&[(1, 1)])).expect("a disk");
        begun(&scene, 0x52);
        for kind in [Kind::Machine, Kind::Disk] {
            for item in ownership::list(&scene, kind, OWNER, None).expect("a list").items {
                if item.id != MACHINES[0] {
                    ownership::release(&scene, &item).expect(&item.description);
                }
            }
        }
        assert_eq!(scene.twin.seen(), before, "the source stays, and nothing else");
        was_enough_and_no_more(&scene, purpose);
    }
}

/// A disk that is begun and not sealed: its snapshot.
fn begun(scene: &Scene, number: u32) -> String {
    let before = scene.snapshots();
    let request = DiskRequest {
        id: id(number),
        owner: OWNER.to_owned(),
        run: RUN.to_owned(),
        machine_name: "Orders".to_owned(),
        disk: "vd0".to_owned(),
        size_bytes: 1 << 30,
        properties: Vec::new(),
    };
    let step = target_disks::begin(scene, &request).expect("a disk");
    assert!(matches!(step.status, DiskStatus::Ready(_)));
    scene.snapshots().difference(&before).next().expect("a snapshot").clone()
}

#[test]
fn fencing_needs_no_more_than_the_policy_for_it() {
    let mut scene = scene();
    let instance = source(&mut scene);
    scene.act_as("FENCE", "{}");
    assert_eq!(discovered(&scene).len(), 1);
    for _ in 0..200 {
        match power::stop_machine(&scene, &instance, Manner::Forced).expect("an answer").status {
            PowerStatus::Off(_) => return was_enough_and_no_more(&scene, "fence"),
            PowerStatus::Pending(_) => support::pause(),
        }
    }
    panic!("it is never off");
}

#[test]
fn the_page_names_every_action() {
    let path = format!("{}/POLICIES.md", env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(&path).expect(&path);
    for name in ["protect", "fence", "live"] {
        // The table of a policy begins with its name, and ends where the next begins.
        let (_, rest) =
            page.split_once(&format!("\n`{}.json`", if name == "live" { "drill" } else { name })).expect(name);
        let table = rest.split("\n`").next().expect("a table");
        for (action, _) in allowed_by(name) {
            let (_, short) = action.split_once(':').expect("a service");
            let is_named = table.contains(&format!("`{action}`")) || table.contains(&format!("`{short}`"));
            assert!(is_named, "{name}: {action}");
        }
    }
}

#[test]
fn drills_and_failovers_have_one_policy_but_for_the_purpose() {
    assert_eq!(policy("drill").replace("\"drill\"", "\"live\""), policy("live"));
}

/// What the twin has no call for, and AWS has: a network interface that is there already.
#[test]
fn no_instance_gets_a_network_interface_that_is_there() {
    for name in ["live", "drill"] {
        let policy = Policy::parse(&policy(name)).expect("a policy");
        let may = |id: &str| {
            let resource = format!("arn:aws:ec2:eu-west-1:123456789012:network-interface/{id}");
            policy.allows(&Ask { action: "ec2:RunInstances", resource, ..Ask::default() })
        };
        assert!(may("*") && !may("eni-0123456789abcdef0"), "{name}");
    }
}

/// Something that somebody tries.
enum Attempt {
    /// The parameters of a call of EC2.
    Ec2(Vec<(String, String)>),
    Ebs(Method, String, Option<Value>),
    /// Writes a block to this snapshot.
    Write(String),
}

/// It must be refused, because this action is not allowed on this resource.
struct Refusal {
    attempt: Attempt,
    action: &'static str,
    on: String,
}

fn ec2(action: &str, parameters: &[(&str, &str)]) -> Attempt {
    let all = [("Action", action), ("Version", "2016-11-15")].into_iter().chain(parameters.iter().copied());
    Attempt::Ec2(all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

impl Attempt {
    /// With the tags that something of this kind is to get.
    fn tagged(mut self, number: usize, kind: &str, tags: &[(&str, &str)]) -> Self {
        if let (Self::Ec2(parameters), false) = (&mut self, tags.is_empty()) {
            let prefix = format!("TagSpecification.{number}");
            parameters.push((format!("{prefix}.ResourceType"), kind.to_owned()));
            for (number, (key, value)) in (1..).zip(tags) {
                parameters.push((format!("{prefix}.Tag.{number}.Key"), (*key).to_owned()));
                parameters.push((format!("{prefix}.Tag.{number}.Value"), (*value).to_owned()));
            }
        }
        self
    }
}

fn refused(attempt: Attempt, action: &'static str, on: impl Into<String>) -> Refusal {
    Refusal { attempt, action, on: on.into() }
}

impl Attempt {
    fn request(&self) -> (&'static str, Request) {
        let (endpoint, method, target, headers, body) = match self {
            Self::Ec2(parameters) => {
                let headers = vec![header("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
                let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
                ("ec2", Method::Post, "/".to_owned(), headers, form.into_bytes())
            }
            Self::Ebs(method, target, body) => {
                let mut headers = vec![header("x-amz-changedblockscount", "0")];
                headers.extend(body.as_ref().map(|_| header("content-type", "application/json")));
                let body = body.as_ref().map(|body| body.to_string().into_bytes()).unwrap_or_default();
                ("ebs", *method, target.clone(), headers, body)
            }
            Self::Write(snapshot) => {
                let body = vec![9; BLOCK];
                let headers = vec![
                    header("x-amz-data-length", BLOCK.to_string()),
                    header("x-amz-checksum", STANDARD.encode(Sha256::digest(&body))),
                    header("x-amz-checksum-algorithm", "SHA256"),
                ];
                ("ebs", Method::Put, format!("/snapshots/{snapshot}/blocks/0"), headers, body)
            }
        };
        let (repeatable, timeout_milliseconds, throttle_words) = (false, 20_000, Vec::new());
        (endpoint, Request { method, target, headers, body, repeatable, timeout_milliseconds, throttle_words })
    }

    /// What is answered.
    fn answer(&self, scene: &Scene) -> (u16, String) {
        let (endpoint, request) = self.request();
        let response = scene.send(endpoint, &request).expect("an answer");
        let kind = response.headers.iter().find(|header| header.name == "x-amzn-errortype");
        let kind = kind.map(|header| header.value.clone()).unwrap_or_default();
        (response.status, format!("{kind} {}", String::from_utf8_lossy(&response.body)))
    }
}

/// What an operator has that is no machine of Farshore's, and carries the purpose all the same: an image and an instance.
fn operators(scene: &mut Scene, snapshot: &str, purpose: &str) -> [String; 2] {
    scene.act_as("TWIN", "{}");
    let new = |attempt: Attempt, element: &str| {
        let (status, text) = attempt.answer(scene);
        let id = text.split_once(&format!("<{element}>")).and_then(|(_, rest)| rest.split_once('<'));
        assert_eq!(status, 200, "{text}");
        id.expect("an id").0.to_owned()
    };
    let tags = [("purpose", purpose)];
    let image = new(register("the operator's", snapshot, &tags), "imageId");
    let instance = new(run(&image, [purpose, purpose], &tags, &tags), "instanceId");
    while !scene.twin.seen().instances.contains(&(instance.clone(), InstanceState::Running)) {
        support::pause();
    }
    [image, instance]
}

/// All that there is, as EC2 shows it to somebody who may see it.
fn all(scene: &mut Scene) -> Vec<String> {
    scene.act_as("TWIN", "{}");
    let shown = |action: &'static str| {
        let (status, text) = ec2(action, &[]).answer(scene);
        assert_eq!(status, 200, "{text}");
        let (_, text) = text.split_once("</requestId>").expect("an answer");
        text.to_owned()
    };
    ["DescribeInstances", "DescribeVolumes", "DescribeSnapshots", "DescribeImages"].map(shown).into()
}

/// A machine, and what it is made of.
struct Made {
    instance: String,
    image: String,
    snapshot: String,
    volume: String,
    /// A disk of the same run that is still written.
    begun: String,
}

fn made(scene: &mut Scene, number: usize, key: &str, settings: &str) -> Made {
    scene.act_as(key, settings);
    let before = scene.twin.seen();
    let (instance, _) = scene.run(MACHINES[number], &[&content(&[(0, 1)])]).expect("a machine");
    let after = scene.twin.seen();
    let new = |before: &[String], after: &[String]| {
        after.iter().find(|id| !before.contains(id)).expect("something new").clone()
    };
    Made {
        instance,
        image: new(&before.images, &after.images),
        snapshot: new(&before.snapshots, &after.snapshots),
        volume: new(&before.volumes, &after.volumes),
        begun: begun(scene, 0x60 + u32::try_from(number).expect("a small number")),
    }
}

/// What there is when somebody tries what is not allowed.
struct World {
    scene: Scene,
    source: Made,
    live: Made,
    drill: Made,
    /// Snapshots of the source: what changes are told from, and what is being read. They carry the tag of failovers and that
    /// of drills, as an operator may have it.
    base: String,
    capture: String,
}

fn world() -> World {
    let mut scene = scene();
    let plain = json!({"instance-type": "t3.large", "subnet": "subnet-0live", "security-groups": ["sg-0live"]});
    let source = made(&mut scene, 0, "TWIN", &plain.to_string());
    let capture_of = |scene: &mut Scene, number: u32, purpose: &str, tracked: &[(&str, &str)]| {
        scene.act_as("PROTECT", &json!({"tags": {"purpose": purpose}}).to_string());
        scene.capture(&wanted(&id(number), &source.instance, tracked)).expect("a capture")
    };
    let state = capture_of(&mut scene, 1, "live", &[]);
    end(&scene, &state, Outcome::Committed).expect("it ends");
    let base = tokens(&state)["sda1"].clone();
    let capture = tokens(&capture_of(&mut scene, 2, "drill", &[("sda1", &base)]))["sda1"].clone();
    let live = made(&mut scene, 1, "LIVE", &recovery("live"));
    let drill = made(&mut scene, 2, "DRILL", &recovery("drill"));
    World { scene, source, live, drill, base, capture }
}

fn tag_calls(resource: &str, tags: &[(&str, &str)]) -> Attempt {
    let mut attempt = ec2("CreateTags", &[("ResourceId.1", resource)]);
    if let Attempt::Ec2(parameters) = &mut attempt {
        for (number, (key, value)) in (1..).zip(tags) {
            parameters.push((format!("Tag.{number}.Key"), (*key).to_owned()));
            parameters.push((format!("Tag.{number}.Value"), (*value).to_owned()));
        }
    }
    attempt
}

/// A run of an image in these networks, whose instance and volumes get these tags.
fn run(image: &str, [subnet, group]: [&str; 2], instance: &[(&str, &str)], volume: &[(&str, &str)]) -> Attempt {
    let (subnet, group) = (format!("subnet-0{subnet}"), format!("sg-0{group}"));
    let parameters = [
        ("ImageId", image),
        ("InstanceType", "t3.large"),
        ("MinCount", "1"),
        ("MaxCount", "1"),
        ("SubnetId", subnet.as_str()),
        ("SecurityGroupId.1", group.as_str()),
    ];
    let attempt = ec2("RunInstances", &parameters).tagged(1, "instance", instance);
    attempt.tagged(if instance.is_empty() { 1 } else { 2 }, "volume", volume)
}

fn register(name: &str, snapshot: &str, tags: &[(&str, &str)]) -> Attempt {
    let parameters = [
        ("Name", name),
        ("Architecture", "x86_64"),
        ("VirtualizationType", "hvm"),
        ("EnaSupport", "true"),
        ("RootDeviceName", "/dev/sda1"),
        ("BlockDeviceMapping.1.DeviceName", "/dev/sda1"),
        ("BlockDeviceMapping.1.Ebs.SnapshotId", snapshot),
        ("BlockDeviceMapping.1.Ebs.VolumeType", "gp3"),
    ];
    ec2("RegisterImage", &parameters).tagged(1, "image", tags)
}

fn start_snapshot(tags: &[(&str, &str)], parent: Option<&str>) -> Attempt {
    let tags: Vec<Value> = tags.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect();
    let mut body = json!({"VolumeSize": 1, "Tags": tags});
    if let Some(parent) = parent {
        body["ParentSnapshotId"] = parent.into();
    }
    Attempt::Ebs(Method::Post, "/snapshots".to_owned(), Some(body))
}

fn freeze(instance: &str, tags: &[(&str, &str)]) -> Attempt {
    ec2("CreateSnapshots", &[("InstanceSpecification.InstanceId", instance)]).tagged(1, "snapshot", tags)
}

/// To read what is in a snapshot.
fn reads(snapshot: &str) -> [Refusal; 2] {
    let list = Attempt::Ebs(Method::Get, format!("/snapshots/{snapshot}/blocks"), None);
    let get = Attempt::Ebs(Method::Get, format!("/snapshots/{snapshot}/blocks/0?blockToken=none"), None);
    [refused(list, "ebs:ListSnapshotBlocks", snapshot), refused(get, "ebs:GetSnapshotBlock", snapshot)]
}

/// To change, write and remove what somebody else has.
fn harm(other: &Made) -> Vec<Refusal> {
    let Made { instance, image, snapshot, volume, begun } = other;
    let complete = Attempt::Ebs(Method::Post, format!("/snapshots/completion/{begun}"), None);
    vec![
        refused(ec2("GetConsoleOutput", &[("InstanceId", instance)]), "ec2:GetConsoleOutput", instance),
        refused(ec2("StartInstances", &[("InstanceId.1", instance)]), "ec2:StartInstances", instance),
        refused(ec2("DeleteVolume", &[("VolumeId", volume)]), "ec2:DeleteVolume", volume),
        refused(ec2("DeleteSnapshot", &[("SnapshotId", snapshot)]), "ec2:DeleteSnapshot", snapshot),
        refused(Attempt::Write(begun.clone()), "ebs:PutSnapshotBlock", begun),
        refused(complete, "ebs:CompleteSnapshot", begun),
        refused(ec2("DeleteSnapshot", &[("SnapshotId", begun)]), "ec2:DeleteSnapshot", begun),
        refused(ec2("DeregisterImage", &[("ImageId", image)]), "ec2:DeregisterImage", image),
        refused(ec2("StopInstances", &[("InstanceId.1", instance)]), "ec2:StopInstances", instance),
        refused(ec2("TerminateInstances", &[("InstanceId.1", instance)]), "ec2:TerminateInstances", instance),
    ]
}

/// Tries all of it with a key: each is refused for its reason, and nothing has changed. Who may do everything gets past the
/// policy with each of them, so that it was the policy that refused.
fn is_refused(scene: &mut Scene, key: &str, refusals: &[Refusal]) {
    let before = all(scene);
    scene.act_as(key, "{}");
    for Refusal { attempt, action, on } in refusals {
        let (status, text) = attempt.answer(scene);
        assert_eq!(status, 403, "{key}: {action} on {on}: {text}");
        assert!(REFUSALS.iter().any(|code| text.contains(code)), "{key}: {action} on {on}: {text}");
        let reason = format!("perform {action} on ");
        let resource = text.split_once(&reason).map(|(_, rest)| rest).and_then(|rest| rest.split(['<', '"']).next());
        let is_it = |resource: &str| resource == on || resource.ends_with(&format!("/{on}"));
        assert!(resource.is_some_and(is_it), "{key}: {action} on {on}: {text}");
    }
    assert_eq!(all(scene), before, "{key} has changed something");
    for Refusal { attempt, action, on } in refusals {
        let (_, text) = attempt.answer(scene);
        let is_about_something_else = text.contains("NotFound") || text.contains("MissingParameter");
        assert!(!is_about_something_else, "{action} on {on} would not have worked anyway: {text}");
        assert!(!REFUSALS.iter().any(|code| text.contains(code)), "{action} on {on}: {text}");
    }
}

#[test]
fn recoveries_touch_nothing_that_is_not_theirs() {
    for (purpose, other_purpose) in [("drill", "live"), ("live", "drill")] {
        let World { mut scene, source, live, drill, base, capture } = world();
        let (own, other) = if purpose == "drill" { (&drill, &live) } else { (&live, &drill) };
        let disk = [("farshore:kind", "disk"), ("purpose", purpose)];
        let machine = [("farshore:kind", "machine"), ("purpose", purpose)];
        let others_disk = [("farshore:kind", "disk"), ("purpose", other_purpose)];
        let others_machine = [("farshore:kind", "machine"), ("purpose", other_purpose)];
        let as_capture = [("farshore:kind", "capture"), ("purpose", purpose)];
        let here = [purpose, purpose];
        let mixed = ec2("StopInstances", &[("InstanceId.1", &own.instance), ("InstanceId.2", &other.instance)]);
        let (own_image, other_subnet) = (own.image.as_str(), format!("subnet-0{other_purpose}"));
        let mut refusals = vec![
            // What is made with another purpose, or as something else, or without saying what it is.
            refused(start_snapshot(&others_disk, None), "ebs:StartSnapshot", "*"),
            refused(start_snapshot(&as_capture, None), "ebs:StartSnapshot", "*"),
            refused(start_snapshot(&[], None), "ebs:StartSnapshot", "*"),
            refused(register("an image", &own.snapshot, &others_machine), "ec2:RegisterImage", "*"),
            refused(register("an image", &own.snapshot, &disk), "ec2:RegisterImage", "*"),
            refused(run(own_image, here, &others_machine, &machine), "ec2:RunInstances", "*"),
            refused(run(own_image, here, &machine, &others_machine), "ec2:RunInstances", "*"),
            refused(run(own_image, here, &disk, &machine), "ec2:RunInstances", "*"),
            refused(run(own_image, here, &machine, &[]), "ec2:RunInstances", "*"),
            // What is made in other networks, or of what others have.
            refused(run(own_image, [other_purpose, purpose], &machine, &machine), "ec2:RunInstances", other_subnet),
            refused(
                run(own_image, [purpose, other_purpose], &machine, &machine),
                "ec2:RunInstances",
                format!("sg-0{other_purpose}"),
            ),
            refused(mixed, "ec2:StopInstances", &other.instance),
            refused(tag_calls(&own.instance, &others_machine), "ec2:CreateTags", &own.instance),
            refused(tag_calls(&own.snapshot, &disk), "ec2:CreateTags", &own.snapshot),
            refused(tag_calls(&own.image, &machine), "ec2:CreateTags", &own.image),
            refused(tag_calls(&own.volume, &machine), "ec2:CreateTags", &own.volume),
        ];
        for other in [&source, other] {
            refusals.extend(reads(&other.snapshot));
            refusals.extend([
                refused(run(&other.image, here, &machine, &machine), "ec2:RunInstances", &other.image),
                refused(register("another image", &other.snapshot, &machine), "ec2:RegisterImage", &other.snapshot),
                refused(start_snapshot(&disk, Some(&other.snapshot)), "ebs:StartSnapshot", "*"),
                refused(freeze(&other.instance, &as_capture), "ec2:CreateSnapshots", &other.instance),
                refused(tag_calls(&other.instance, &machine), "ec2:CreateTags", &other.instance),
                refused(tag_calls(&other.snapshot, &disk), "ec2:CreateTags", &other.snapshot),
                refused(tag_calls(&other.image, &machine), "ec2:CreateTags", &other.image),
                refused(tag_calls(&other.volume, &machine), "ec2:CreateTags", &other.volume),
            ]);
        }
        for snapshot in [&base, &capture] {
            refusals.extend(reads(snapshot));
            refusals.extend([
                refused(register("an image of a capture", snapshot, &machine), "ec2:RegisterImage", snapshot),
                refused(start_snapshot(&disk, Some(snapshot)), "ebs:StartSnapshot", "*"),
                refused(tag_calls(snapshot, &disk), "ec2:CreateTags", snapshot),
                refused(ec2("DeleteSnapshot", &[("SnapshotId", snapshot)]), "ec2:DeleteSnapshot", snapshot),
            ]);
        }
        let [image, instance] = operators(&mut scene, &source.snapshot, purpose);
        refusals.extend([
            refused(run(&image, here, &machine, &machine), "ec2:RunInstances", &image),
            refused(ec2("DeregisterImage", &[("ImageId", &image)]), "ec2:DeregisterImage", &image),
            refused(ec2("StartInstances", &[("InstanceId.1", &instance)]), "ec2:StartInstances", &instance),
            refused(ec2("StopInstances", &[("InstanceId.1", &instance)]), "ec2:StopInstances", &instance),
            refused(ec2("TerminateInstances", &[("InstanceId.1", &instance)]), "ec2:TerminateInstances", &instance),
        ]);
        refusals.extend(harm(&source).into_iter().chain(harm(other)));
        is_refused(&mut scene, &purpose.to_uppercase(), &refusals);
    }
}

#[test]
fn captures_touch_nothing_but_captures() {
    let World { mut scene, source, live, drill, base, capture } = world();
    let (kind, as_capture, as_base) = ("farshore:kind", [("farshore:kind", "capture")], [("farshore:kind", "base")]);
    let changed = |first: &str, second: &str| {
        Attempt::Ebs(Method::Get, format!("/snapshots/{second}/changedblocks?firstSnapshotId={first}"), None)
    };
    let mut refusals = vec![
        // Captures that are none, or are not told as such.
        refused(freeze(&source.instance, &[]), "ec2:CreateSnapshots", "*"),
        refused(freeze(&source.instance, &as_base), "ec2:CreateSnapshots", "*"),
        refused(freeze(&source.instance, &[(kind, "disk"), ("purpose", "live")]), "ec2:CreateSnapshots", "*"),
        // Captures are marked, and nothing else is done to their tags.
        refused(tag_calls(&capture, &as_capture), "ec2:CreateTags", &capture),
        refused(tag_calls(&base, &[(kind, "disk")]), "ec2:CreateTags", &base),
        refused(tag_calls(&capture, &[(kind, "base"), ("purpose", "live")]), "ec2:CreateTags", &capture),
        refused(tag_calls(&capture, &[("purpose", "live")]), "ec2:CreateTags", &capture),
        refused(start_snapshot(&as_capture, None), "ebs:StartSnapshot", "*"),
        refused(start_snapshot(&as_capture, Some(&capture)), "ebs:StartSnapshot", "*"),
        refused(register("an image of a capture", &capture, &[]), "ec2:RegisterImage", &capture),
    ];
    for other in [&source, &live, &drill] {
        let Made { instance, image, snapshot, volume, .. } = other;
        refusals.extend(reads(snapshot));
        refusals.extend([
            refused(changed(&capture, snapshot), "ebs:ListChangedBlocks", snapshot),
            refused(changed(snapshot, &capture), "ebs:ListChangedBlocks", snapshot),
            refused(run(image, ["live", "live"], &[], &[]), "ec2:RunInstances", image),
            refused(tag_calls(snapshot, &as_base), "ec2:CreateTags", snapshot),
            refused(tag_calls(snapshot, &as_capture), "ec2:CreateTags", snapshot),
            refused(tag_calls(instance, &as_base), "ec2:CreateTags", instance),
            refused(tag_calls(image, &as_base), "ec2:CreateTags", image),
            refused(tag_calls(volume, &as_base), "ec2:CreateTags", volume),
        ]);
    }
    refusals.extend([&source, &live, &drill].into_iter().flat_map(harm));
    is_refused(&mut scene, "PROTECT", &refusals);
}

#[test]
fn fencing_stops_and_does_no_more() {
    let World { mut scene, source, base, .. } = world();
    let mut refusals = vec![
        refused(ec2("DescribeSnapshots", &[]), "ec2:DescribeSnapshots", "*"),
        refused(ec2("DescribeImages", &[]), "ec2:DescribeImages", "*"),
        refused(freeze(&source.instance, &[("farshore:kind", "capture")]), "ec2:CreateSnapshots", &source.instance),
        refused(tag_calls(&source.instance, &[("purpose", "live")]), "ec2:CreateTags", &source.instance),
        refused(start_snapshot(&[], None), "ebs:StartSnapshot", "*"),
        refused(run(&source.image, ["live", "live"], &[], &[]), "ec2:RunInstances", &source.image),
    ];
    refusals.extend(reads(&base));
    refusals.push(refused(ec2("DeleteSnapshot", &[("SnapshotId", &base)]), "ec2:DeleteSnapshot", &base));
    refusals.extend(harm(&source).into_iter().filter(|refusal| refusal.action != "ec2:StopInstances"));
    is_refused(&mut scene, "FENCE", &refusals);
}

/// `live.json` without the statement that keeps disks from beginning as another was, as POLICIES.md tells whoever has an account
/// for recoveries alone.
#[test]
fn disks_begin_from_others_only_without_the_statement_that_denies_it() {
    let mut document: Value = serde_json::from_str(&policy("live")).expect("JSON");
    let statements = document["Statement"].as_array_mut().expect("statements");
    let before = statements.len();
    statements.retain(|statement| statement["Sid"] != "OnNoOtherSnapshot");
    assert_eq!(statements.len() + 1, before);
    let mut scene = Scene::new(|options| {
        add_principal(options, "LIVE", &policy("live"));
        add_principal(options, "ALONE", &document.to_string());
    });
    scene.act_as("LIVE", &recovery("live"));
    let boot = machine(1).disks.remove(0);
    let base = scene.disk(&id(1), &boot, &content(&[(0, 1), (1, 2)])).expect("a disk");
    let error = scene.disk_from(&id(2), &boot, &base, &content(&[(1, 3)])).expect_err("it is denied");
    assert!(format!("{error:?}").contains("ebs:StartSnapshot"), "{error:?}");
    assert_eq!(scene.snapshots().len(), 1, "nothing was made");
    scene.act_as("ALONE", &recovery("live"));
    let next = scene.disk_from(&id(3), &boot, &base, &content(&[(1, 3)])).expect("a disk");
    scene.run_of(MACHINES[0], vec![next]).expect("a machine of it");
}
