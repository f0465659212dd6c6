//! `cargo xtask test`: everything that must hold before a change is kept.
//!
//! Cheap checks come first. Nothing is built twice: one profile, and one set of features for the program and its tests.
//! The output of the tests passes through here on its way, so that suites can be counted: it is printed as it comes, and
//! the last line of all is `N passed, M failed`.
//!
//! A test may leave a process behind that keeps the pipe open. Cargo's end counts, not the pipe's: after a short grace
//! such a process is reported as the failure that it is.

use std::io::{self, BufRead as _, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::checkout::Checkout;
use crate::clock::words;
use crate::components;
use crate::debian;
use crate::demo;
use crate::echo;
use crate::fuzz;
use crate::long;
use crate::needs;
use crate::node_tools;
use crate::process;
use crate::python_tools;
use crate::stages::Stages;
use crate::suites::{Reader, Suite};
use crate::tools;
use crate::wasm::Choice;
use crate::wit_check;

/// Tests read this variable to choose sizes, seeds and durations.
const LONG_VARIABLE: &str = "FARSHORE_LONG";

/// Tells the end-to-end tests where MinIO is, if they are to use it too.
const MINIO_VARIABLE: &str = "FARSHORE_MINIO";
/// How long the output may stay open after cargo ended.
const PIPE_GRACE: Duration = Duration::from_secs(10);

/// What to test.
#[derive(Debug)]
pub struct Request {
    /// Only tests whose name contains this; then the checks of the sources are left out.
    pub filter: Option<String>,
    /// Soaks, many seeds, long fuzzing; the result is recorded.
    pub long: bool,
    /// Packages may be removed or downgraded.
    pub allow_costs: bool,
}

/// Runs all stages. An error is the first that failed.
pub fn run(checkout: &Checkout, request: &Request) -> Result<()> {
    debian::ensure(&needs::test(), "Testing", request.allow_costs)?;
    let mut stages = Stages::start();
    if request.filter.is_none() {
        needs::ensure_lints()?;
        stages.run("formatting", || check_formatting(checkout))?;
        stages.run("WIT", || check_wit(checkout))?;
    }
    // Before anything that compiles the daemon, which embeds them.
    stages.run("components", || components::build(checkout, &[], Choice::Auto, request.allow_costs))?;
    stages.run("components in Python and JavaScript", || echo::build(checkout))?;
    stages.run("programs in Python", || python_tools::ready(checkout))?;
    stages.run("the program in JavaScript", || node_tools::ready(checkout))?;
    // Where it cannot be built the long run says so, and its tests have one server less.
    let minio = request.long.then(|| stages.run("the S3 server MinIO", || Ok(tools::minio(checkout)))).transpose()?;
    if let Some(Err(error)) = &minio {
        eprintln!("The tests run without MinIO: {error:#}");
    }
    let server = minio.as_ref().and_then(|minio| minio.as_ref().ok());
    demo::announce_first_build(checkout);
    if request.filter.is_none() {
        stages.run("clippy", || check_lints(checkout))?;
    }
    stages.run("the program farshore, and the tests", || {
        demo::build_program(checkout)?;
        process::run("building the tests", process::cargo(checkout).args(["test", "--workspace", "--no-run"]))
    })?;
    let mut suites = Vec::new();
    let tested = run_suites(checkout, request, server, &mut stages, &mut suites).and_then(|()| match request.filter {
        Some(_) => Ok(()),
        None => stages.run("fuzzing", || fuzz::all(checkout, fuzz::seconds_each(request.long))),
    });
    let passed = sum(&suites, |suite| suite.passed);
    let failed = sum(&suites, |suite| suite.failed);
    if request.long {
        let without = minio.and_then(Result::err).map(|error| format!("{error}"));
        long::record(checkout, &suites, &stages, without.as_deref(), tested.is_ok())?;
    }
    eprintln!("\nEverything took {}.", words(stages.elapsed()));
    println!("{passed} passed, {failed} failed");
    tested?;
    ensure!(passed > 0, "no test ran; does the filter match anything?");
    Ok(())
}

fn sum(suites: &[Suite], count: fn(&Suite) -> u64) -> u64 {
    suites.iter().map(count).fold(0, u64::saturating_add)
}

fn check_formatting(checkout: &Checkout) -> Result<()> {
    for folder in workspaces(checkout) {
        let mut command = process::cargo(checkout);
        command.current_dir(folder).args(["fmt", "--all", "--check"]);
        process::run("checking the formatting (cargo fmt corrects it)", &mut command)?;
    }
    Ok(())
}

fn check_lints(checkout: &Checkout) -> Result<()> {
    for folder in workspaces(checkout) {
        let mut command = process::cargo(checkout);
        command.current_dir(&folder).args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]);
        process::run("clippy", &mut command)?;
    }
    Ok(())
}

/// Fails if a function of `wit/` breaks a rule, after naming all of them.
pub fn check_wit(checkout: &Checkout) -> Result<()> {
    let violations = wit_check::check(&[&checkout.path("wit/host"), &checkout.path("wit/platform")])?;
    for violation in &violations {
        eprintln!("{violation}");
    }
    ensure!(violations.is_empty(), "wit/ breaks {} rules", violations.len());
    Ok(())
}

/// The host, the components that we ship, and the components that only tests need.
fn workspaces(checkout: &Checkout) -> Vec<PathBuf> {
    let mut folders = vec![checkout.root().to_path_buf(), checkout.path("plugins"), checkout.path("tests/components")];
    folders.retain(|folder| folder.join("Cargo.toml").is_file());
    folders
}

/// All tests of all workspaces; the first workspace with a failure is the last that runs, but it runs to its end.
fn run_suites(
    checkout: &Checkout,
    request: &Request,
    minio: Option<&PathBuf>,
    stages: &mut Stages,
    suites: &mut Vec<Suite>,
) -> Result<()> {
    for (name, folder) in
        [("tests of the host", checkout.root().to_path_buf()), ("tests of the plugins", checkout.path("plugins"))]
    {
        if folder.join("Cargo.toml").is_file() {
            stages.run(name, || run_tests(checkout, &folder, request, minio, suites))?;
        }
    }
    Ok(())
}

fn run_tests(
    checkout: &Checkout,
    folder: &Path,
    request: &Request,
    minio: Option<&PathBuf>,
    suites: &mut Vec<Suite>,
) -> Result<()> {
    let mut command = process::cargo(checkout);
    command.current_dir(folder).args(["test", "--workspace", "--no-fail-fast"]);
    if let Some(filter) = &request.filter {
        command.args(["--", filter]);
    }
    match request.long {
        true => command.env(LONG_VARIABLE, "1"),
        false => command.env_remove(LONG_VARIABLE),
    };
    // It would count more than the numbers that tests name themselves.
    command.env_remove("PROPTEST_CASES");
    match minio {
        Some(program) => command.env(MINIO_VARIABLE, program),
        None => command.env_remove(MINIO_VARIABLE),
    };
    let (reader, outcome) = run_counted(&mut command, PIPE_GRACE, &mut io::stdout())?;
    let (_, failed) = reader.totals();
    suites.extend(reader.suites);
    outcome?;
    ensure!(failed == 0, "{failed} tests failed");
    Ok(())
}

/// Runs cargo with both outputs in one pipe, so that its headings stand where they belong, and copies them to `output`.
///
/// The second value is how it ended; the suites that were read are there either way.
fn run_counted(command: &mut Command, grace: Duration, output: &mut dyn Write) -> Result<(Reader, Result<()>)> {
    let (pipe_reader, pipe_writer) = io::pipe().context("making a pipe")?;
    command.stdin(Stdio::null()).stdout(pipe_writer.try_clone().context("making a pipe")?).stderr(pipe_writer);
    let mut child = command.spawn().with_context(|| format!("starting {}", process::shown(command)))?;
    // The command holds our ends of the pipe for writing; with them open the pipe would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (lines_sender, lines) = mpsc::sync_channel::<Vec<u8>>(1024);
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe_reader);
        let mut line = Vec::new();
        // An error is an end; and when nobody listens any more, the thread ends with the process.
        while pipe.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            if lines_sender.send(std::mem::take(&mut line)).is_err() {
                break;
            }
        }
    });
    let mut reader = Reader::default();
    let mut status = None;
    loop {
        match lines.recv_timeout(if status.is_some() { grace } else { Duration::from_millis(200) }) {
            Ok(line) => {
                reader.line(&String::from_utf8_lossy(&line));
                output.write_all(&line).context("writing the output of the tests")?;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) if status.is_some() => {
                let left = "cargo test ended, and a process that some test started still holds its output".to_owned();
                return Ok((reader, Err(anyhow::Error::msg(left))));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => status = child.try_wait().context("waiting for cargo")?,
        }
    }
    let status = match status {
        Some(status) => status,
        None => child.wait().context("waiting for cargo")?,
    };
    let outcome = process::succeeded("cargo test", command, status);
    Ok((reader, outcome))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Stopwatch;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const ONE: &str = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored; finished in 0.10s'";

    #[test]
    fn results_are_counted_whether_or_not_cargo_succeeds() {
        let heading = "echo '     Running tests/a.rs (t/deps/a-0123)' >&2";
        let mut output = Vec::new();
        let (reader, outcome) = run_counted(&mut shell(&format!("{heading}; {ONE}")), PIPE_GRACE, &mut output).unwrap();
        outcome.unwrap();
        assert_eq!(output.iter().filter(|&&byte| byte == b'\n').count(), 2, "both outputs are passed on");
        assert_eq!(reader.totals(), (2, 0));
        assert_eq!(reader.suites[0].name, "a (tests/a.rs)");
        let (reader, outcome) = run_counted(&mut shell(&format!("{ONE}; exit 101")), PIPE_GRACE, &mut output).unwrap();
        assert!(outcome.unwrap_err().to_string().contains("exit status: 101"));
        assert_eq!(reader.totals(), (2, 0));
    }

    #[test]
    fn a_process_that_outlives_its_test_is_a_failure_and_no_hang() {
        let stopwatch = Stopwatch::start();
        let script = format!("{ONE}; sleep 3 & exit 0");
        let (reader, outcome) = run_counted(&mut shell(&script), Duration::from_millis(300), &mut Vec::new()).unwrap();
        assert!(outcome.unwrap_err().to_string().contains("still holds its output"));
        assert_eq!(reader.totals(), (2, 0));
        assert!(stopwatch.elapsed() < Duration::from_secs(3));
    }
}
