//! The quotas of vCPUs, beside the twin that tells them: what is counted, what is said, and that nothing of it is an obstacle.

mod support;

use std::collections::BTreeMap;

use farshore_adapter_aws::{
    answers::Reservation,
    api::{Api, Call},
    target_machines,
};
use farshore_twin_ebs::{Fault, InstanceState, Options};
use support::{Scene, add_principal, machine};

const STANDARD: &str = "L-1216C47A";
const GPU: &str = "L-DB2E81BA";

fn settings(instance_type: &str) -> String {
    let placement = r#""subnet": "subnet-0live", "security-groups": ["sg-0live"]"#;
    format!(r#"{{"instance-type": "{instance_type}", {placement}, "check-quotas": true}}"#)
}

/// The twin with these quotas, in which one `t3.large` of 2 vCPUs runs.
fn scene(quotas: &[(&str, f64)], change: impl FnOnce(&mut Options)) -> Scene {
    let mut scene = Scene::new(|options| {
        options.quotas = quotas.iter().map(|(code, value)| ((*code).to_owned(), *value)).collect();
        change(options);
    });
    scene.run("00000000000000000000000000000001", &[&BTreeMap::from([(0, 1)])]).expect("an instance");
    scene.settings = settings("t3.large");
    scene
}

/// Runs another instance of this type.
fn run(scene: &Scene, instance_type: &str, more: &[(&str, &str)]) -> String {
    let image = scene.twin.seen().images.remove(0);
    let call = Call::new("RunInstances")
        .with("ImageId", image)
        .with("InstanceType", instance_type)
        .with("MinCount", 1)
        .with("MaxCount", 1)
        .with("SubnetId", "subnet-0live");
    let call = more.iter().fold(call, |call, (name, value)| call.with(*name, value));
    let made = Api::new(scene).ec2::<Reservation>(&call).expect("an instance").instances_set.into_vec().remove(0);
    made.instance_id
}

fn stop(scene: &Scene, instance: &str) {
    let is = |state| scene.twin.seen().instances.contains(&(instance.to_owned(), state));
    while !is(InstanceState::Running) {
        support::pause();
    }
    Api::new(scene).ec2_done(&Call::new("StopInstances").list("InstanceId", [instance])).expect("it stops");
    while !is(InstanceState::Stopped) {
        support::pause();
    }
}

/// What is said of a machine, which blocks nothing.
fn told(scene: &Scene) -> Vec<String> {
    let findings = target_machines::check(scene, &machine(1)).expect("findings").findings;
    assert!(findings.iter().all(|finding| !finding.blocking), "{findings:?}");
    findings.into_iter().map(|finding| finding.problem).collect()
}

/// The one thing that is said has all of these parts.
fn says(scene: &Scene, parts: &[&str]) {
    let told = told(scene);
    assert_eq!(told.len(), 1, "{parts:?}: {told:?}");
    for part in parts {
        assert!(told[0].contains(part), "{part}: {told:?}");
    }
}

/// How often Service Quotas was asked.
fn asked(scene: &Scene) -> usize {
    scene.twin.calls().iter().filter(|call| call.action.starts_with("servicequotas:")).count()
}

#[test]
fn a_quota_with_room_is_not_spoken_of() {
    let scene = scene(&[(STANDARD, 4.0)], |_| {});
    assert_eq!(told(&scene), Vec::<String>::new());
    assert_eq!(asked(&scene), 1);
}

#[test]
fn a_quota_without_room_is_said_with_its_numbers() {
    let scene = scene(&[(STANDARD, 21.0)], |_| {});
    run(&scene, "m5.4xlarge", &[]);
    // 2 and 16 run: 2 more are 20.
    assert_eq!(told(&scene), Vec::<String>::new());
    run(&scene, "t3.micro", &[]);
    assert_eq!(
        told(&scene),
        ["machine Orders needs 2 vCPUs as t3.large, and 20 of the 21 that the quota Running On-Demand Standard \
          (A, C, D, H, I, M, R, T, Z) instances (L-1216C47A) allows are in use: end instances, or ask AWS to raise the quota in \
          time, because it may take days"]
    );
}

#[test]
fn only_what_the_quota_is_for_is_counted() {
    let mut scene = scene(&[(STANDARD, 8.0), (GPU, 7.0)], |_| {});
    let stopped = run(&scene, "m5.4xlarge", &[]);
    stop(&scene, &stopped);
    run(&scene, "m5.4xlarge", &[("InstanceMarketOptions.MarketType", "spot")]);
    run(&scene, "g4dn.xlarge", &[]);
    run(&scene, "inf1.xlarge", &[]);
    assert_eq!(told(&scene), Vec::<String>::new(), "2 run, and 2 more are 4");
    // Of 16 vCPUs it has 4.
    run(&scene, "m5.4xlarge", &[("CpuOptions.CoreCount", "4"), ("CpuOptions.ThreadsPerCore", "1")]);
    assert_eq!(told(&scene), Vec::<String>::new(), "6 run, and 2 more are 8");
    run(&scene, "t3.micro", &[]);
    says(&scene, &["8 of the 8 that the quota Running On-Demand Standard"]);
    scene.settings = settings("g4dn.xlarge");
    says(
        &scene,
        &["needs 4 vCPUs as g4dn.xlarge, and 4 of the 7 that", "Running On-Demand G and VT instances (L-DB2E81BA)"],
    );
}

#[test]
fn all_pages_are_counted() {
    let scene = scene(&[(STANDARD, 23.0)], |options| options.faults.short_pages = 800);
    (0..10).for_each(|_| drop(run(&scene, "t3.micro", &[])));
    says(&scene, &["22 of the 23 that"]);
    let pages = scene.twin.calls().iter().filter(|call| call.action == "ec2:DescribeInstances").count();
    assert!(pages > 5, "{pages} are no pages");
}

#[test]
fn an_account_without_a_quota_of_its_own_has_the_default() {
    let scene = scene(&[(GPU, 100.0)], |_| {});
    assert_eq!(told(&scene), Vec::<String>::new(), "AWS's default is 5");
    run(&scene, "t3.micro", &[]);
    says(&scene, &["4 of the 5 that the quota Running On-Demand Standard"]);
    let actions = ["GetServiceQuota", "GetAWSDefaultServiceQuota"].map(|name| format!("servicequotas:{name}"));
    for action in actions {
        assert!(scene.twin.calls().iter().any(|call| call.action == action), "{action}");
    }
}

#[test]
fn what_is_not_known_is_said_and_stops_nothing() {
    let allowing = |actions: &str| {
        let statement = format!(r#"{{"Effect": "Allow", "Action": ["ec2:*"{actions}], "Resource": "*"}}"#);
        format!(r#"{{"Version": "2012-10-17", "Statement": [{statement}]}}"#)
    };
    let mut scene = scene(&[], |options| {
        add_principal(options, "NONE", &allowing(""));
        add_principal(options, "APPLIED", &allowing(r#", "servicequotas:GetServiceQuota""#));
        options.default_quotas.remove(GPU);
    });
    let denied = "because the credential may not ask for it: allow it";
    for (key, action) in
        [("NONE", "`servicequotas:GetServiceQuota`"), ("APPLIED", "`servicequotas:GetAWSDefaultServiceQuota`")]
    {
        scene.act_as(key, &settings("t3.large"));
        says(&scene, &[&format!("{denied} {action}"), "(L-1216C47A) has room for machine Orders"]);
    }
    scene.act_as("TWIN", &settings("g4dn.xlarge"));
    says(&scene, &["(L-DB2E81BA) has room for machine Orders", "NoSuchResourceException"]);
    let before = asked(&scene);
    scene.act_as("TWIN", &settings("mac1.metal"));
    says(&scene, &["no quota of vCPUs is known for instances of the type mac1.metal of machine Orders"]);
    assert_eq!(asked(&scene), before, "there is nothing to ask for");
}

#[test]
fn what_goes_wrong_for_a_moment_is_asked_for_again() {
    let scene = scene(&[(STANDARD, 3.0)], |_| {});
    for fault in [Fault::Throttled, Fault::Failing, Fault::Lost] {
        scene.twin.fail_next("servicequotas:GetServiceQuota", fault);
        let before = asked(&scene);
        says(&scene, &["2 of the 3 that"]);
        assert_eq!(asked(&scene), before + 2, "{fault:?}");
    }
}

#[test]
fn who_does_not_want_it_never_asks() {
    let mut scene = scene(&[(STANDARD, 0.0)], |_| {});
    scene.settings = settings("t3.large").replace("true", "false");
    assert_eq!(told(&scene), Vec::<String>::new());
    scene.settings = settings("t3.large").replace(r#", "check-quotas": true"#, "");
    assert_eq!(told(&scene), Vec::<String>::new());
    assert_eq!(asked(&scene), 0);
}
