//! AWS's own client asks the twin, and finds what the services document.

use std::{path::Path, process::Command, time::Duration};

use farshore_core::Timestamp;
use farshore_e2e::installed;
use farshore_twin_ebs::{Fault, Faults, Key, Options, Policy, Principal, Seen, Twin};
use serde_json::Value;
use tempfile::TempDir;

/// An adapter that makes snapshots with its own tag, and sees no instances and no defaults of quotas.
const LIMITED: &str = r#"{"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": ["ec2:DescribeSnapshots", "servicequotas:GetServiceQuota"], "Resource": "*"},
    {"Effect": "Allow", "Action": ["ebs:StartSnapshot", "ec2:CreateTags"], "Resource": "arn:aws:ec2:*::snapshot/*",
     "Condition": {"StringEquals": {"aws:RequestTag/farshore-owner": "a"}}},
    {"Effect": "Deny", "Action": "ec2:CreateTags", "Resource": "arn:aws:ec2:*::snapshot/snap-*"},
    {"Effect": "Allow", "Action": ["ebs:*Block*", "ebs:CompleteSnapshot", "ec2:DeleteSnapshot"], "Resource": "arn:aws:ec2:*::snapshot/*",
     "Condition": {"StringEquals": {"aws:ResourceTag/farshore-owner": "a"}}}]}"#;

/// A drill: instances of its own in one subnet with one group, and nothing else.
const DRILL: &str = r#"{"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": "ec2:RunInstances",
     "Resource": ["arn:aws:ec2:*::image/*", "arn:aws:ec2:*::snapshot/*", "arn:aws:ec2:*:*:network-interface/*"]},
    {"Effect": "Allow", "Action": "ec2:RunInstances", "Resource": ["arn:aws:ec2:*:*:subnet/*", "arn:aws:ec2:*:*:security-group/*"],
     "Condition": {"StringEquals": {"ec2:ResourceTag/purpose": "drill"}}},
    {"Effect": "Deny", "Action": "ec2:RunInstances", "Resource": "arn:aws:ec2:*:*:network-interface/*",
     "Condition": {"ArnNotEquals": {"ec2:Subnet": "arn:aws:ec2:*:*:subnet/subnet-0drill"}}},
    {"Effect": "Allow", "Action": "ec2:RunInstances", "Resource": ["arn:aws:ec2:*:*:instance/*", "arn:aws:ec2:*:*:volume/*"],
     "Condition": {"StringEquals": {"aws:RequestTag/farshore-owner": "a"}}},
    {"Effect": "Allow", "Action": "ec2:CreateTags", "Resource": "*", "Condition": {"StringEquals": {"ec2:CreateAction": "RunInstances"}}},
    {"Effect": "Allow", "Action": ["ec2:StopInstances", "ec2:TerminateInstances"], "Resource": "*",
     "Condition": {"StringEquals": {"aws:ResourceTag/farshore-owner": "a"}}}]}"#;

fn options(folder: &Path) -> Options {
    let with = |secret: &str, token: Option<&str>, policy| {
        let key = Key { secret: secret.to_owned(), token: token.map(str::to_owned), expires_at: None };
        Principal { key, policy }
    };
    let policy = |text| Policy::parse(text).expect("a policy");
    let mut expired = with("expired-secret", Some("a-token"), Policy::everything());
    expired.key.expires_at = Some(Timestamp::from_unix_milliseconds(0));
    let principals = [
        ("TEMPORARY", with("temporary-secret", Some("a-token"), Policy::everything())),
        ("EXPIRED", expired),
        ("LIMITED", with("limited-secret", None, policy(LIMITED))),
        ("DRILL", with("drill-secret", None, policy(DRILL))),
    ];
    let quotas = [("L-DB2E81BA".to_owned(), 48.0)].into();
    let mut options = Options { settle: Duration::from_millis(100), quotas, ..Options::new(folder) };
    options.principals.extend(principals.map(|(id, principal)| (id.to_owned(), principal)));
    options
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("tw").rand_bytes(6).tempdir().expect("a folder")
}

/// Lets boto3 ask, and returns what it printed.
fn ask(twin: &Twin, folder: &Path, what: &str, more: &[&str]) -> String {
    let mut command = Command::new(installed("s3-server/python/bin").join("python"));
    command.args(["-B", "tests/check.py", what, &twin.ec2_url(), &twin.ebs_url()]).arg(folder).args(more);
    let output = command.output().expect("Python runs");
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn it_is_as_documented() {
    let folder = folder();
    let twin = Twin::start(options(folder.path()), [0, 0]).expect("it serves");
    ask(&twin, folder.path(), "wire", &[]);
    assert_eq!(twin.seen(), Seen::default(), "all that was made was removed again");
    assert!(twin.calls().iter().any(|call| call.action == "ebs:PutSnapshotBlock" && call.error.is_none()));
}

#[test]
fn who_may_do_little_does_no_more() {
    let folder = folder();
    let twin = Twin::start(options(folder.path()), [0, 0]).expect("it serves");
    ask(&twin, folder.path(), "policy", &[]);
    let denied = |call: &&farshore_twin_ebs::Call| call.error.as_deref() == Some("UnauthorizedOperation");
    assert_eq!(twin.calls().iter().filter(denied).count(), 3);
}

#[test]
fn a_drill_touches_nothing_that_is_live() {
    let folder = folder();
    let twin = Twin::start(options(folder.path()), [0, 0]).expect("it serves");
    ask(&twin, folder.path(), "drill", &[]);
    assert!(twin.calls().iter().filter(|call| call.by == "DRILL" && call.error.is_some()).count() >= 11);
}

#[test]
fn a_client_that_tries_again_gets_through_a_storm() {
    for seed in 1..3 {
        let folder = folder();
        let unseen = Duration::from_millis(500);
        let faults = Faults { seed, throttled: 100, failing: 100, lost: 100, unseen, ..Faults::default() };
        let twin = Twin::start(Options { faults, ..options(folder.path()) }, [0, 0]).expect("it serves");
        ask(&twin, folder.path(), "storm", &[]);
        let calls = twin.calls();
        let codes = ["RequestThrottledException", "InternalServerException", "RequestLimitExceeded", "InternalError"];
        for code in codes {
            assert!(calls.iter().any(|call| call.error.as_deref() == Some(code)), "{code} never came");
        }
        assert!(calls.iter().any(|call| call.fault == Some(Fault::Lost) && call.error.is_none()), "nothing was lost");
        assert_eq!(twin.seen(), Seen::default(), "a call whose answer was lost was done");
    }
}

#[test]
fn pages_may_be_short_and_blocks_may_be_said_to_have_changed() {
    let folder = folder();
    let faults = Faults { seed: 1, short_pages: 700, over_reported: 100, ..Faults::default() };
    let twin = Twin::start(Options { faults, ..options(folder.path()) }, [0, 0]).expect("it serves");
    ask(&twin, folder.path(), "short", &[]);
}

#[test]
fn what_a_test_wants_to_fail_fails_once() {
    let folder = folder();
    let twin = Twin::start(options(folder.path()), [0, 0]).expect("it serves");
    twin.fail_next("ebs:CompleteSnapshot", Fault::Failing);
    let mut command = Command::new(installed("s3-server/python/bin").join("python"));
    command.args(["-B", "tests/check.py", "begin", &twin.ec2_url(), &twin.ebs_url()]).arg(folder.path());
    let told = String::from_utf8(command.output().expect("Python runs").stderr).expect("text");
    assert!(told.contains("InternalServerException"), "{told}");
    ask(&twin, folder.path(), "begin", &[]);
}

#[test]
fn what_takes_too_long_expires() {
    let folder = folder();
    let twin = Twin::start(options(folder.path()), [0, 0]).expect("it serves");
    let begun = ask(&twin, folder.path(), "begin", &[]);
    twin.pass(Duration::from_secs(61 * 60));
    ask(&twin, folder.path(), "late", &[&begun]);
    twin.pass(Duration::from_secs(7 * 86_400));
    ask(&twin, folder.path(), "later", &[&begun]);
}

/// The whole way of a machine: its disk is put, an instance boots from it, is frozen while it runs, and is turned off.
#[test]
fn an_image_of_blocks_boots() {
    let folder = folder();
    let twin = Twin::start(Options { runs: true, ..options(folder.path()) }, [0, 0]).expect("it serves");
    let image = farshore_e2e::image().expect("an image");
    let told = ask(&twin, folder.path(), "boot", &[&image.disk.to_string_lossy()]);
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let instance = told["instance"].as_str().expect("an id");
    wait_for(&twin, instance, "FARSHORE-UP boots=1 ");
    let frozen = ask(&twin, folder.path(), "freeze", &[instance, told["snapshot"].as_str().expect("an id")]);
    let frozen: Value = serde_json::from_str(&frozen).expect("JSON");
    let number = |name: &str| frozen[name].as_u64().expect("a number");
    assert_eq!(frozen["checks"], "ok");
    assert!(frozen["console"].as_str().is_some_and(|text| text.contains("FARSHORE-UP boots=1 ")), "{frozen}");
    // The guest has mounted its disk and counted its boot, and no more.
    assert!((1..number("all") / 2).contains(&number("changed")), "{frozen}");
    // What was frozen while it ran is a disk that boots, with what the guest had written.
    wait_for(&twin, frozen["again"].as_str().expect("an id"), "FARSHORE-UP boots=2 ");
    let mine = processes_below(folder.path());
    assert_eq!(mine, 1, "the one that was stopped runs no more");
    drop(twin);
    assert_eq!(processes_below(folder.path()), 0, "nothing is left");
}

/// Waits until an instance's guest has said this.
fn wait_for(twin: &Twin, instance: &str, said: &str) {
    let console = twin.console_of(instance);
    let has_said = || std::fs::read_to_string(&console).is_ok_and(|text| text.contains(said));
    for _ in 0..2_400 {
        if has_said() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
    panic!("{}", std::fs::read_to_string(&console).unwrap_or_default());
}

/// How many programs were started with a path below this.
fn processes_below(folder: &Path) -> usize {
    let below = format!("{}/", folder.display());
    let names = |entry: std::fs::DirEntry| {
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments);
        arguments.contains("qemu-system") && arguments.contains(&below)
    };
    std::fs::read_dir("/proc").expect("listed").filter_map(Result::ok).map(names).filter(|is_below| *is_below).count()
}
