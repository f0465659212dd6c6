//! `cargo xtask bench`: Farshore beside other tools, on one disk, and the page with the figures.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::checkout::Checkout;
use crate::components;
use crate::debian;
use crate::demo;
use crate::machine;
use crate::needs;
use crate::process;
use crate::stages::Stages;
use crate::wasm::Choice;

/// The page that is written, unless what is passed on names another.
const PAGE: &str = "tests/bench/RESULTS.md";

/// Installs, builds, and runs the bench with the arguments that were passed on.
pub fn run(checkout: &Checkout, arguments: &[OsString], allow_costs: bool) -> Result<()> {
    debian::ensure(&needs::bench(), "The bench", allow_costs)?;
    let mut stages = Stages::start();
    stages.run("components", || components::build(checkout, &[], Choice::Auto, allow_costs))?;
    demo::announce_first_build(checkout);
    // The bench takes the program beside itself.
    stages.run("the program farshore", || demo::build_program(checkout))?;
    let bench = stages.run("the bench", || demo::build(checkout, "farshore-bench", "tests/bench/Cargo.toml"))?;
    let mut command = Command::new(bench);
    if !arguments.iter().any(|argument| argument.to_string_lossy().starts_with("--output")) {
        command.arg("--output").arg(checkout.path(PAGE));
    }
    // A tree that is no clone has no commit: the page is then without it.
    let describe = ["describe", "--always", "--dirty"];
    if let Some(commit) = process::answer(Command::new("git").args(describe).current_dir(checkout.root())) {
        command.arg("--commit").arg(commit.trim());
    }
    command.arg("--machine").arg(machine::described());
    command.args(arguments);
    eprintln!("\n=== {}", process::shown(&command));
    let status = command.status().with_context(|| format!("starting {}", process::shown(&command)))?;
    process::succeeded("the bench", &command, status)
}
