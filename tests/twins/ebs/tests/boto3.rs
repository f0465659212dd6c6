//! AWS's own client asks the twin, and finds what the services document.

use std::{collections::BTreeMap, path::Path, process::Command, time::Duration};

use farshore_e2e::installed;
use farshore_twin_ebs::{Faults, Key, Options, Policy, Principal, Seen, Subnet, Twin};
use serde_json::Value;
use tempfile::TempDir;

/// An adapter that makes snapshots with its own tag, and sees no instances.
const LIMITED: &str = r#"{"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": "ec2:DescribeSnapshots", "Resource": "*"},
    {"Effect": "Allow", "Action": "ebs:StartSnapshot", "Resource": "arn:aws:ec2:*::snapshot/*",
     "Condition": {"StringEquals": {"aws:RequestTag/farshore-owner": "a"}}},
    {"Effect": "Allow", "Action": ["ebs:*Block*", "ebs:CompleteSnapshot", "ec2:DeleteSnapshot"], "Resource": "arn:aws:ec2:*::snapshot/*",
     "Condition": {"StringEquals": {"aws:ResourceTag/farshore-owner": "a"}}}]}"#;

fn options(folder: &Path) -> Options {
    let principal = |secret: &str, policy| Principal { key: Key { secret: secret.to_owned(), token: None }, policy };
    let limited = Policy::parse(LIMITED).expect("a policy");
    Options {
        folder: folder.to_owned(),
        region: "eu-west-1".to_owned(),
        zone: "eu-west-1a".to_owned(),
        account: "123456789012".to_owned(),
        principals: BTreeMap::from([
            ("TWIN".to_owned(), principal("twin-secret", Policy::everything())),
            ("LIMITED".to_owned(), principal("limited-secret", limited)),
        ]),
        subnets: vec![Subnet { id: "subnet-0live".to_owned(), cidr: "10.0.1.0/24".to_owned() }],
        groups: vec!["sg-0live".to_owned()],
        runs: false,
        settle: Duration::from_millis(100),
        token_life: Duration::from_secs(3_600),
        pending_max: 100,
        faults: Faults { seed: 1, ..Faults::default() },
    }
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("tw").rand_bytes(6).tempdir().expect("a folder")
}

/// Lets boto3 ask, and returns what it printed.
fn ask(twin: &Twin, folder: &Path, what: &str, more: &[&str]) -> String {
    let mut command = Command::new(installed("s3-server/python/bin").join("python"));
    command.args(["-B", "tests/check.py", what, &twin.url()]).arg(folder).args(more);
    let output = command.output().expect("Python runs");
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn it_is_as_documented() {
    let folder = folder();
    let twin = Twin::start(options(folder.path()), 0).expect("it serves");
    ask(&twin, folder.path(), "wire", &[]);
    assert_eq!(twin.seen(), Seen::default(), "all that was made was removed again");
    assert!(twin.calls().iter().any(|call| call.action == "ebs:PutSnapshotBlock" && call.error.is_none()));
}

#[test]
fn who_may_do_little_does_no_more() {
    let folder = folder();
    let twin = Twin::start(options(folder.path()), 0).expect("it serves");
    ask(&twin, folder.path(), "policy", &[]);
    let denied = |call: &&farshore_twin_ebs::Call| call.error.as_deref() == Some("UnauthorizedOperation");
    assert_eq!(twin.calls().iter().filter(denied).count(), 3);
}

#[test]
fn a_client_that_tries_again_gets_through_a_storm() {
    let folder = folder();
    let unseen = Duration::from_millis(500);
    let faults = Faults { seed: 7, throttled: 100, failing: 100, lost: 100, unseen };
    let twin = Twin::start(Options { faults, ..options(folder.path()) }, 0).expect("it serves");
    ask(&twin, folder.path(), "storm", &[]);
    let calls = twin.calls();
    for code in ["RequestThrottledException", "InternalServerException"] {
        assert!(calls.iter().any(|call| call.error.as_deref() == Some(code)), "{code} never came");
    }
}

#[test]
fn a_token_that_is_too_old_is_refused() {
    let folder = folder();
    let twin = Twin::start(Options { token_life: Duration::ZERO, ..options(folder.path()) }, 0).expect("it serves");
    let mut command = Command::new(installed("s3-server/python/bin").join("python"));
    command.args(["-B", "tests/check.py", "storm", &twin.url()]).arg(folder.path());
    let told = String::from_utf8(command.output().expect("Python runs").stderr).expect("text");
    assert!(told.contains("The block token is wrong or has expired"), "{told}");
}

/// The whole way of a machine: its disk is put, an instance boots from it, is frozen while it runs, and is turned off.
#[test]
fn an_image_of_blocks_boots() {
    let folder = folder();
    let twin = Twin::start(Options { runs: true, ..options(folder.path()) }, 0).expect("it serves");
    let image = farshore_e2e::image().expect("an image");
    let told = ask(&twin, folder.path(), "boot", &[&image.disk.to_string_lossy()]);
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let instance = told["instance"].as_str().expect("an id");
    let console = twin.console_of(instance);
    let is_up = || std::fs::read_to_string(&console).is_ok_and(|text| text.contains("FARSHORE-UP boots=1"));
    for _ in 0..2_400 {
        if is_up() {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
    assert!(is_up(), "{}", std::fs::read_to_string(&console).unwrap_or_default());
    let frozen = ask(&twin, folder.path(), "freeze", &[instance, told["snapshot"].as_str().expect("an id")]);
    let frozen: Value = serde_json::from_str(&frozen).expect("JSON");
    let number = |name: &str| frozen[name].as_u64().expect("a number");
    assert_eq!(frozen["checks"], "ok");
    assert!(frozen["console"].as_str().is_some_and(|text| text.contains("FARSHORE-UP boots=1")), "{frozen}");
    // The guest has mounted its disk and counted its boot, and no more.
    assert!((1..number("all") / 2).contains(&number("changed")), "{frozen}");
}
