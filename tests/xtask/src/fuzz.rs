//! `cargo xtask fuzz`: mutated bytes for every decoder, by libFuzzer, with no compiler but the stable one.
//!
//! Only our own crates are instrumented (`tests/fuzz/instrument.sh`); the libraries are those of every other build, so that
//! building takes little. What a target has found lies in `target/xtask/fuzz/corpus`, and the next run begins with it. An input that
//! made a target fail lies in `target/xtask/fuzz/failures`, and the error says how to give it again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};

use crate::checkout::Checkout;
use crate::debian;
use crate::demo;
use crate::needs;
use crate::process;

/// A target that needs more memory, or longer for one input, has failed.
const MEMORY_MEBIBYTES_MAX: u32 = 1024;
const INPUT_SECONDS_MAX: u32 = 20;
/// Lines of a failed target's output that are shown.
const LINES_SHOWN: usize = 40;

/// What to fuzz.
#[derive(Debug)]
pub struct Request {
    /// How long each target is fuzzed.
    pub seconds: u64,
    /// Only this target.
    pub target: Option<String>,
    /// Only this input.
    pub input: Option<PathBuf>,
}

/// How long each target is fuzzed in `cargo xtask test`.
pub fn seconds_each(long: bool) -> u64 {
    if long { 60 } else { 3 }
}

/// Installs what is missing, builds, and fuzzes.
pub fn run(checkout: &Checkout, request: &Request, allow_costs: bool) -> Result<()> {
    debian::ensure(&needs::fuzz(), "Fuzzing", allow_costs)?;
    match (&request.target, &request.input) {
        (Some(target), Some(input)) => {
            let mut command = command(&build(checkout)?, &golden(checkout));
            process::run("the target", command.env("FARSHORE_FUZZ_TARGET", target).arg(input))
        }
        (Some(target), None) => {
            let fuzzer = Fuzzer::prepare(checkout, request.seconds)?;
            ensure!(fuzzer.targets.contains(target), "the targets are: {}", fuzzer.targets.join(", "));
            eprintln!("{}", fuzzer.fuzz(target)?);
            Ok(())
        }
        (None, _) => all(checkout, request.seconds),
    }
}

/// Fuzzes every target for so long, as many side by side as there are processors.
pub fn all(checkout: &Checkout, seconds: u64) -> Result<()> {
    let fuzzer = Fuzzer::prepare(checkout, seconds)?;
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let count = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(|| {
                while let Some(target) = fuzzer.targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match fuzzer.fuzz(target) {
                        Ok(result) => eprintln!("{result}"),
                        Err(error) => failures.lock().expect("no thread panics").push(format!("{error:#}")),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no thread panics");
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn build(checkout: &Checkout) -> Result<PathBuf> {
    let mut cargo = process::cargo(checkout);
    cargo.env("RUSTC_WORKSPACE_WRAPPER", checkout.path("tests/fuzz/instrument.sh"));
    demo::build_by(cargo, checkout, &[], "farshore-fuzz", "tests/fuzz/Cargo.toml")
}

/// The program, with the vault whose objects it hurts.
fn command(program: &Path, vault: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("FARSHORE_FUZZ_VAULT", vault);
    command
}

fn golden(checkout: &Checkout) -> PathBuf {
    checkout.path("tests/compat/golden-1")
}

struct Fuzzer {
    program: PathBuf,
    vault: PathBuf,
    folder: PathBuf,
    seconds: u64,
    targets: Vec<String>,
}

impl Fuzzer {
    /// Builds the program, and lets it write the inputs to begin with: a folder for each target.
    fn prepare(checkout: &Checkout, seconds: u64) -> Result<Self> {
        let program = build(checkout)?;
        let folder = checkout.notes().join("fuzz");
        let seeds = folder.join("seeds");
        if seeds.exists() {
            fs::remove_dir_all(&seeds).with_context(|| format!("removing {}", seeds.display()))?;
        }
        let vault = golden(checkout);
        let mut writing = command(&program, &vault);
        process::run_quietly("writing inputs to begin with", writing.env("FARSHORE_FUZZ_SEEDS", &seeds))?;
        let targets = targets(&seeds)?;
        ensure!(!targets.is_empty(), "{} names no target", program.display());
        Ok(Self { program, vault, folder, seconds, targets })
    }

    /// What to say of a target that has not failed.
    fn fuzz(&self, target: &str) -> Result<String> {
        let [corpus, failures] = ["corpus", "failures"].map(|name| self.folder.join(name).join(target));
        for folder in [&corpus, &failures] {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let mut command = command(&self.program, &self.vault);
        command.env("FARSHORE_FUZZ_TARGET", target).stdin(Stdio::null()).stdout(Stdio::null());
        command.arg(format!("-max_total_time={}", self.seconds)).arg(format!("-timeout={INPUT_SECONDS_MAX}"));
        command.arg(format!("-rss_limit_mb={MEMORY_MEBIBYTES_MAX}"));
        command.arg(format!("-artifact_prefix={}/", failures.display()));
        command.args([&corpus, &self.folder.join("seeds").join(target)]);
        let output = command.output().with_context(|| format!("starting {}", process::shown(&command)))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return Ok(format!("{target}: {}", summary(&said)));
        }
        let shown: Vec<&str> = said.lines().rev().take(LINES_SHOWN).collect();
        eprintln!("{}", shown.into_iter().rev().collect::<Vec<_>>().join("\n"));
        let replay = match artifact(&said) {
            Some(input) => format!("cargo xtask fuzz --target {target} --input {input}"),
            None => format!("cargo xtask fuzz --target {target}"),
        };
        bail!("the target {target} failed; again: {replay}");
    }
}

fn targets(seeds: &Path) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in fs::read_dir(seeds).with_context(|| format!("listing {}", seeds.display()))? {
        let name = entry.with_context(|| format!("listing {}", seeds.display()))?.file_name();
        targets.push(name.to_string_lossy().into_owned());
    }
    targets.sort();
    Ok(targets)
}

/// What libFuzzer says at its end: `Done 1234 runs in 4 second(s)`.
fn summary(said: &str) -> String {
    let done = said.lines().rev().find_map(|line| line.strip_prefix("Done ")).unwrap_or("no runs");
    let covered = said.lines().rev().find_map(|line| line.split_once(" cov: ")?.1.split(' ').next());
    format!("{done}, {} edges", covered.unwrap_or("0"))
}

/// Where the input lies that made a target fail.
fn artifact(said: &str) -> Option<&str> {
    said.lines().rev().find_map(|line| line.split_once("Test unit written to ")).map(|(_, path)| path.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "INFO: seed corpus: files: 3\n#131\tREDUCE cov: 565 ft: 1349 corp: 20/23Kb\n\
        #140\tDONE   cov: 570 ft: 1350 corp: 20/23Kb lim: 9\nDone 140 runs in 4 second(s)\n";

    #[test]
    fn a_target_is_summed_up_by_its_last_lines() {
        assert_eq!(summary(SAID), "140 runs in 4 second(s), 570 edges");
        assert_eq!(summary(""), "no runs, 0 edges");
    }

    #[test]
    fn the_input_that_failed_is_named() {
        let said = "==1== ERROR: libFuzzer: deadly signal\nartifact_prefix='/f/'; Test unit written to /f/crash-12\nBase64: AA";
        assert_eq!(artifact(said), Some("/f/crash-12"));
        assert_eq!(artifact(SAID), None);
    }

    fn fuzzer(script: &str) -> (tempfile::TempDir, Fuzzer) {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let vault = folder.path().join("v");
        let folder_of_notes = folder.path().join("f");
        let fuzzer = Fuzzer { program, vault, folder: folder_of_notes, seconds: 1, targets: vec!["one".into()] };
        (folder, fuzzer)
    }

    #[test]
    fn a_target_that_fails_says_how_to_repeat_it() {
        let (_folder, sound) = fuzzer("echo 'Done 3 runs in 1 second(s)' >&2");
        assert_eq!(sound.fuzz("one").unwrap(), "one: 3 runs in 1 second(s), 0 edges");
        let (_folder, failing) = fuzzer("echo 'Test unit written to /f/crash-1' >&2; exit 77");
        let error = failing.fuzz("one").unwrap_err().to_string();
        assert!(error.ends_with("cargo xtask fuzz --target one --input /f/crash-1"), "{error}");
    }
}
