//! `cargo xtask bench`: Farshore beside other tools, on one disk, and the page with the figures; `cargo xtask bench rpo`: how old
//! the newest point gets of a guest that writes all the time.

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
use crate::tools;
use crate::wasm::Choice;

/// The page that is written, unless what is passed on names another.
const PAGE: &str = "tests/bench/RESULTS.md";
/// Names the program that is measured; `tests/e2e` reads it.
const PROGRAM_VARIABLE: &str = "FARSHORE_BINARY";
/// What is passed on first to measure achieved RPO instead.
const RPO: &str = "rpo";

/// What to measure.
#[derive(Debug)]
pub struct Request {
    /// Farshore as operators build it, with cargo's profile `release`, instead of as the tests have it.
    pub release: bool,
    /// For the bench itself.
    pub passed_on: Vec<OsString>,
}

/// Installs, builds, and runs the bench with the arguments that were passed on.
pub fn run(checkout: &Checkout, request: &Request, allow_costs: bool) -> Result<()> {
    if request.passed_on.first().is_some_and(|first| first == RPO) {
        return run_rpo(checkout, request, allow_costs);
    }
    debian::ensure(&needs::bench(), "The bench", allow_costs)?;
    let mut stages = Stages::start();
    stages.run("components", || components::build(checkout, &[], Choice::Auto, allow_costs))?;
    demo::announce_first_build(checkout);
    let profile: &[&str] = if request.release { &["--release"] } else { &[] };
    let program = stages.run("the program farshore", || demo::build_program_as(checkout, profile))?;
    let bench = stages.run("the bench", || demo::build(checkout, "farshore-bench", "tests/bench/Cargo.toml"))?;
    let peers = stages.run("rustic and kopia", || Ok(tools::peers(checkout)))?;
    let mut command = Command::new(bench);
    command.env(PROGRAM_VARIABLE, program).args(peers);
    if !request.passed_on.iter().any(|argument| argument.to_string_lossy().starts_with("--output")) {
        command.arg("--output").arg(checkout.path(PAGE));
    }
    // A tree that is no clone has no commit: the page is then without it.
    let describe = ["describe", "--always", "--dirty"];
    if let Some(commit) = process::answer(Command::new("git").args(describe).current_dir(checkout.root())) {
        command.arg("--commit").arg(commit.trim());
    }
    command.arg("--machine").arg(machine::described()).arg("--command").arg(typed(request));
    command.args(&request.passed_on);
    eprintln!("\n=== {}", process::shown(&command));
    let status = command.status().with_context(|| format!("starting {}", process::shown(&command)))?;
    process::succeeded("the bench", &command, status)
}

/// The same for achieved RPO, which has no peers: what it prints is not written to the page.
fn run_rpo(checkout: &Checkout, request: &Request, allow_costs: bool) -> Result<()> {
    debian::ensure(&needs::demo(), "The bench", allow_costs)?;
    let mut stages = Stages::start();
    stages.run("components", || components::build(checkout, &[], Choice::Auto, allow_costs))?;
    demo::announce_first_build(checkout);
    let profile: &[&str] = if request.release { &["--release"] } else { &[] };
    let program = stages.run("the program farshore", || demo::build_program_as(checkout, profile))?;
    let build = |name| demo::build(checkout, name, "tests/bench/Cargo.toml");
    let writer = stages.run("the guest's load", || build("farshore-bench-writer"))?;
    let bench = stages.run("the bench", || build("farshore-bench"))?;
    let mut command = Command::new(bench);
    command.env(PROGRAM_VARIABLE, program).args(&request.passed_on).arg("--writer").arg(writer);
    eprintln!("\n=== {}, on {}", process::shown(&command), machine::described());
    let status = command.status().with_context(|| format!("starting {}", process::shown(&command)))?;
    process::succeeded("the bench", &command, status)
}

/// What the operator typed. Where the page goes is nobody's concern who reads it.
fn typed(request: &Request) -> String {
    let mut words = vec!["cargo xtask bench".to_owned()];
    if request.release {
        words.push("--release".to_owned());
    }
    let mut passed_on = request.passed_on.iter().map(|word| word.to_string_lossy());
    while let Some(word) = passed_on.next() {
        if word == "--output" {
            passed_on.next();
        } else if !word.starts_with("--output=") {
            words.push(word.into_owned());
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_the_command_without_a_folder() {
        let request = |release, words: &[&str]| Request { release, passed_on: words.iter().map(Into::into).collect() };
        assert_eq!(typed(&request(false, &[])), "cargo xtask bench");
        let words = ["--rounds", "1", "--output", "/home/me/page.md", "--seed=2", "--output=/home/me/page.md"];
        assert_eq!(typed(&request(true, &words)), "cargo xtask bench --release --rounds 1 --seed=2");
    }
}
