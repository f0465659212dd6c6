//! Running other programs: what they inherit, how long they may take, and how their failure is told.

use std::env;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::checkout::Checkout;
use crate::clock::{self, Stopwatch};

/// How often a program with a limit is looked at.
const POLL: Duration = Duration::from_millis(20);

/// A program that ended with anything but success.
#[derive(Debug, thiserror::Error)]
#[error("{what} failed ({status}): {command}")]
pub struct Failed {
    /// What it was for, in words.
    pub what: String,
    /// How it ended.
    pub status: ExitStatus,
    /// The command line, to be tried by hand.
    pub command: String,
}

/// The cargo that runs this program, at the root of the checkout. `CARGO_TARGET_DIR` is inherited; what cargo told *this*
/// program about its own package is not.
pub fn cargo(checkout: &Checkout) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(checkout.root());
    forget_own_package(&mut command);
    command
}

/// Takes away the variables by which `cargo run` describes the package that it runs.
pub fn forget_own_package(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let name_shown = name.to_string_lossy();
        if name_shown.starts_with("CARGO_PKG_") || name_shown.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
}

/// Runs a program that may take its time, with the output going where ours goes and nothing to read.
///
/// `what` says in words what it is for. Fails if it cannot be started or does not succeed.
pub fn run(what: &str, command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("starting {}", shown(command)))?;
    succeeded(what, command, status)
}

/// An error unless the program succeeded.
pub fn succeeded(what: &str, command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    Err(Failed { what: what.to_owned(), status, command: shown(command) }.into())
}

/// The same for a program whose output matters only if it fails.
pub fn run_quietly(what: &str, command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {}", shown(command)))?;
    if !output.status.success() {
        eprint!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    succeeded(what, command, output.status)
}

/// Runs a program for its output. `None` if it is not installed, or does not succeed.
pub fn answer(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program for at most `limit`, then ends it. `None` if it had to be ended.
pub fn run_limited(command: &mut Command, limit: Duration) -> Result<Option<ExitStatus>> {
    let mut child = command.stdin(Stdio::null()).spawn().with_context(|| format!("starting {}", shown(command)))?;
    let stopwatch = Stopwatch::start();
    loop {
        if let Some(status) = child.try_wait().context("waiting for a program")? {
            return Ok(Some(status));
        }
        if stopwatch.elapsed() >= limit {
            // It may have ended on its own in the meantime: then there is nothing left to end.
            let _ = child.kill();
            child.wait().context("waiting for a program that was ended")?;
            return Ok(None);
        }
        clock::sleep(POLL);
    }
}

/// The command line of a program, with quotes where a shell would need them.
pub fn shown(command: &Command) -> String {
    let mut words = vec![quoted(command.get_program())];
    words.extend(command.get_args().map(quoted));
    words.join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:+,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Where a program is, by the folders of `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    find_program_in(&env::var_os("PATH")?, name)
}

fn find_program_in(path: &OsStr, name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    env::split_paths(path).map(|folder| folder.join(name)).find(|file| {
        file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_program_that_takes_too_long_is_ended() {
        let stopwatch = Stopwatch::start();
        let ended = run_limited(Command::new("sleep").arg("60"), Duration::from_millis(50)).unwrap();
        assert!(ended.is_none());
        assert!(stopwatch.elapsed() < Duration::from_secs(20));
        let status = run_limited(Command::new("sh").args(["-c", "exit 3"]), Duration::from_secs(20)).unwrap();
        assert_eq!(status.unwrap().code(), Some(3));
    }

    #[test]
    fn a_failure_names_the_purpose_and_the_command() {
        let error = run("counting", Command::new("sh").args(["-c", "exit 7"])).unwrap_err();
        assert_eq!(error.to_string(), "counting failed (exit status: 7): sh -c 'exit 7'");
        assert!(error.downcast_ref::<Failed>().is_some());
    }

    #[test]
    fn only_executable_files_are_programs() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tool");
        fs::write(&file, "#!/bin/sh\n").unwrap();
        assert_eq!(find_program_in(folder.path().as_os_str(), "tool"), None);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find_program_in(folder.path().as_os_str(), "tool"), Some(file));
        assert_eq!(find_program_in(folder.path().as_os_str(), "other"), None);
    }
}
