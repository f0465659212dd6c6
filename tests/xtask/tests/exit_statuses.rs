//! What a caller sees when packages are missing: statuses, messages, and that nothing is changed without leave.
//!
//! `PATH` holds only programs of the test, which answer as dpkg, apt and id do and keep a diary of their calls.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

const ROOT: &str = "echo 0";
const USER: &str = "echo 1000";
const HARMLESS: &str = "echo 'Inst mtools (4.0 Debian:12 [amd64])'";
const COSTLY: &str = "\
echo 'The following packages will be REMOVED:'
echo '  qemu-block-extra'
echo 'The following packages will be DOWNGRADED:'
echo '  qemu-utils'
echo 'Remv qemu-block-extra [10.0]'
echo 'Inst qemu-utils [10.0] (7.2 Debian:12 [amd64])'";

struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    /// A machine where no package is installed, whose `apt-get install --simulate` prints what `plan` says.
    fn new(who: &str, plan: &str) -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        machine.program("id", who);
        machine.program("dpkg-query", "exit 1");
        let diary = machine.folder.path().join("diary");
        let apt = format!("echo \"$*\" >> '{}'\ncase \"$*\" in *--simulate*) {plan} ;; esac", diary.display());
        machine.program("apt-get", &apt);
        machine
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn xtask(&self, arguments: &[&str]) -> (i32, String) {
        let Output { status, stderr, .. } = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(arguments)
            .env("PATH", self.folder.path())
            .env("HOME", self.folder.path())
            .env_remove("XDG_CACHE_HOME")
            .output()
            .unwrap();
        (status.code().unwrap(), String::from_utf8(stderr).unwrap())
    }

    /// The calls of apt-get, one a line, without their `-o` options.
    fn diary(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("diary")).unwrap_or_default();
        let without_options = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            words.into_iter().filter(|word| *word != "-o" && !word.contains("::")).collect::<Vec<_>>().join(" ")
        };
        text.lines().map(without_options).collect()
    }
}

/// On another system packages are never installed, and there is nothing to see here.
fn on_debian() -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|text| text.lines().any(|line| line == "ID=debian"))
}

#[test]
fn who_is_not_root_gets_the_exact_command() {
    let machine = Machine::new(USER, HARMLESS);
    let (status, message) = machine.xtask(&["demo", "--yes"]);
    assert_eq!(status, 2, "{message}");
    if on_debian() {
        assert!(message.contains("apt-get update && apt-get install --no-install-recommends gcc "), "{message}");
    }
    assert_eq!(machine.diary(), [""; 0], "nothing may be tried");
}

#[test]
fn what_costs_the_operator_something_needs_leave() {
    if !on_debian() {
        return;
    }
    let machine = Machine::new(ROOT, COSTLY);
    let (status, message) = machine.xtask(&["demo"]);
    assert_eq!(status, 2, "{message}");
    assert!(message.contains("apt would remove qemu-block-extra and downgrade qemu-utils"), "{message}");
    assert!(message.contains("--yes"), "{message}");
    let diary = machine.diary();
    assert_eq!(diary.len(), 2, "{diary:?}");
    assert!(diary[0].ends_with("update"), "{diary:?}");
    assert!(diary[1].starts_with("install") && diary[1].ends_with("--simulate"), "{diary:?}");
}

#[test]
fn with_leave_it_is_done_and_checked() {
    if !on_debian() {
        return;
    }
    let machine = Machine::new(ROOT, COSTLY);
    let (status, message) = machine.xtask(&["demo", "--yes"]);
    // This dpkg never calls a package installed, whatever apt says.
    assert_eq!(status, 1, "{message}");
    assert!(message.contains("still not installed: gcc "), "{message}");
    let diary = machine.diary();
    assert!(diary[2].starts_with("install --yes") && !diary[2].contains("--simulate"), "{diary:?}");
    assert_eq!(diary.iter().filter(|line| line.ends_with("update")).count(), 1, "{diary:?}");
}

#[test]
fn a_failing_installation_is_a_failure() {
    if !on_debian() {
        return;
    }
    let machine = Machine::new(ROOT, "exit 100");
    let (status, message) = machine.xtask(&["demo"]);
    assert_eq!(status, 1, "{message}");
    assert!(message.contains("working out what apt would do failed (exit status: 100)"), "{message}");
}

#[test]
fn a_command_line_that_makes_no_sense_has_status_2() {
    let machine = Machine::new(USER, HARMLESS);
    assert_eq!(machine.xtask(&["frobnicate"]).0, 2);
    let (status, message) = machine.xtask(&["components", "no-such-component"]);
    assert_eq!(status, 1, "{message}");
    assert!(message.contains("there is no component no-such-component"), "{message}");
}
