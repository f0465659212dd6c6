//! `cargo xtask sim`: worlds of many seeds, in which the vault must keep its promises; and the replay of one that failed.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::checkout::Checkout;
use crate::debian;
use crate::demo;
use crate::needs;
use crate::process;
use crate::stages::Stages;

/// Installs what a compiler needs, builds the simulator, and runs it with the arguments that were passed on.
pub fn run(checkout: &Checkout, arguments: &[OsString], allow_costs: bool) -> Result<()> {
    debian::ensure(&needs::compiler(), "The simulator", allow_costs)?;
    let mut stages = Stages::start();
    let simulator = stages.run("the simulator", || demo::build(checkout, "farshore-sim", "tests/sim/Cargo.toml"))?;
    let mut command = Command::new(simulator);
    command.args(arguments);
    eprintln!("\n=== {}", process::shown(&command));
    let status = command.status().with_context(|| format!("starting {}", process::shown(&command)))?;
    process::succeeded("the simulator", &command, status)
}
