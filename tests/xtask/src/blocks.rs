//! `cargo xtask blocks`: what it costs to move a disk of blocks through a component, beside a plain copy by HTTP.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::checkout::Checkout;
use crate::components;
use crate::debian;
use crate::demo;
use crate::needs;
use crate::process;
use crate::stages::Stages;
use crate::wasm::Choice;

/// Installs what a compiler needs, builds the component and what measures, as operators build it, and runs it with the
/// arguments that were passed on.
pub fn run(checkout: &Checkout, arguments: &[OsString], allow_costs: bool) -> Result<()> {
    debian::ensure(&needs::compiler(), "Measuring", allow_costs)?;
    let mut stages = Stages::start();
    stages.run("components", || components::build(checkout, &["aws".to_owned()], Choice::Auto, allow_costs))?;
    let build = || {
        let cargo = process::cargo(checkout);
        demo::build_by(cargo, checkout, &["--release"], "farshore-blocks", "tests/blocks/Cargo.toml")
    };
    let mut command = Command::new(stages.run("what measures", build)?);
    command.args(arguments).current_dir(checkout.root());
    eprintln!("\n=== {}", process::shown(&command));
    let status = command.status().with_context(|| format!("starting {}", process::shown(&command)))?;
    process::succeeded("farshore-blocks", &command, status)
}
