//! `cargo xtask scale`: what a vault costs in the long run: stored bytes, requests, a lineage of very many commits; and turns for very many
//! groups.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::checkout::Checkout;
use crate::debian;
use crate::demo;
use crate::needs;
use crate::process;
use crate::stages::Stages;

/// Installs what a compiler needs, builds what measures, and runs it with the arguments that were passed on.
pub fn run(checkout: &Checkout, arguments: &[OsString], allow_costs: bool) -> Result<()> {
    debian::ensure(&needs::compiler(), "Measuring", allow_costs)?;
    let mut stages = Stages::start();
    let program = stages.run("what measures", || demo::build(checkout, "farshore-scale", "tests/scale/Cargo.toml"))?;
    let mut command = Command::new(program);
    command.args(arguments);
    eprintln!("\n=== {}", process::shown(&command));
    let status = command.status().with_context(|| format!("starting {}", process::shown(&command)))?;
    process::succeeded("farshore-scale", &command, status)
}
