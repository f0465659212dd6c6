//! `cargo xtask demo`: from a fresh clone to the demonstration, without a question.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::checkout::Checkout;
use crate::components;
use crate::debian;
use crate::needs;
use crate::process;
use crate::stages::Stages;
use crate::wasm::Choice;

/// Installs, builds, and runs `farshore demo` with the arguments that were passed on.
pub fn run(checkout: &Checkout, arguments: &[OsString], allow_costs: bool) -> Result<()> {
    debian::ensure(&needs::demo(), "The demonstration", allow_costs)?;
    let mut stages = Stages::start();
    stages.run("components", || components::build(checkout, &[], Choice::Auto, allow_costs))?;
    announce_first_build(checkout);
    let program = stages.run("the program farshore", || build_program(checkout))?;
    let mut command = Command::new(program);
    command.arg("demo").args(arguments);
    eprintln!("\n=== {}", process::shown(&command));
    let status = command.status().with_context(|| format!("starting {}", process::shown(&command)))?;
    process::succeeded("the demonstration", &command, status)
}

/// Builds the program with the components that are there, and says where it is.
///
/// The whole workspace is named so that libraries get the same features as in `cargo test --workspace`, and are built
/// once for both.
pub fn build_program(checkout: &Checkout) -> Result<PathBuf> {
    build_program_as(checkout, &[])
}

/// The same with options of `cargo build`.
pub fn build_program_as(checkout: &Checkout, options: &[&str]) -> Result<PathBuf> {
    build_by(process::cargo(checkout), checkout, options, "farshore", "host/daemon/Cargo.toml")
}

/// Builds the program of this name of the package with this manifest, and says where it is. See [`build_program`].
pub fn build(checkout: &Checkout, program: &str, manifest: &str) -> Result<PathBuf> {
    build_by(process::cargo(checkout), checkout, &[], program, manifest)
}

/// The same, by this cargo, with these options.
pub fn build_by(
    mut command: Command,
    checkout: &Checkout,
    options: &[&str],
    program: &str,
    manifest: &str,
) -> Result<PathBuf> {
    command.args(["build", "--workspace", "--bin", program, "--message-format=json-render-diagnostics"]).args(options);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {}", process::shown(&command)))?;
    process::succeeded(&format!("building {program}"), &command, output.status)?;
    find_executable(&String::from_utf8_lossy(&output.stdout), &checkout.path(manifest))
}

/// Says what the first build costs, when this is one.
pub fn announce_first_build(checkout: &Checkout) {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout.path("target"), PathBuf::from);
    if !target.join("debug/farshore").exists() {
        eprintln!("The first build compiles some 400 libraries: about 11 minutes on two cores, and 6 GB of disk.");
    }
}

#[derive(Debug, Deserialize)]
struct Message {
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    executable: Option<PathBuf>,
}

fn find_executable(messages: &str, manifest: &Path) -> Result<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| message.manifest_path == manifest)
        .find_map(|message| message.executable)
        .with_context(|| format!("{} made no executable", manifest.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_the_daemons_executable() {
        let messages = r#"
{"reason":"compiler-artifact","manifest_path":"/c/tests/xtask/Cargo.toml","executable":"/t/debug/xtask"}
{"reason":"compiler-artifact","manifest_path":"/c/host/daemon/Cargo.toml","executable":null}
{"reason":"compiler-artifact","manifest_path":"/c/host/daemon/Cargo.toml","executable":"/t/debug/farshore"}
{"reason":"build-finished","success":true}
"#;
        let found = find_executable(messages, Path::new("/c/host/daemon/Cargo.toml")).unwrap();
        assert_eq!(found, PathBuf::from("/t/debug/farshore"));
        assert!(find_executable(messages, Path::new("/c/host/core/Cargo.toml")).is_err());
    }
}
