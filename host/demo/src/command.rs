//! The `farshore` command line, run as an operator would, with `--json`.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use farshore_core::{Clock, SystemClock};
use serde_json::Value;

use crate::{
    error::{AtPath, DemoError},
    program,
    wait::{Deadline, Stop},
};

/// How much of a command's words an error quotes, in bytes.
const WORDS_QUOTED_BYTES_MAX: usize = 3_000;

/// How many lines of a command that goes on are kept; the oldest go first.
const LINES_MAX: usize = 100_000;

/// The longest line that a command may write, in bytes.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// How long a command may take to end after it was asked to.
const END_MAX: Duration = Duration::from_secs(60);

/// The `farshore` binary with a configuration.
#[derive(Debug, Clone)]
pub struct Farshore {
    /// The binary.
    pub binary: PathBuf,
    /// The configuration.
    pub configuration: PathBuf,
    /// A folder for what commands say on standard error.
    pub logs: PathBuf,
    /// What ends every wait early.
    pub stop: Stop,
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The command line, as an operator would type it.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub output: String,
    /// Its standard error.
    pub errors: String,
}

impl Finished {
    /// The exit status as a number; none if a signal ended it.
    pub fn exit_code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The JSON document on its standard output.
    ///
    /// # Errors
    /// There is none.
    pub fn json(&self) -> Result<Value, DemoError> {
        serde_json::from_str(&self.output).map_err(|_| DemoError::Answer {
            command: self.command.clone(),
            missing: "a JSON document",
            answer: program::last_bytes(&self.output, WORDS_QUOTED_BYTES_MAX).to_owned(),
        })
    }

    /// The JSON object of the error on its standard error: `code`, `message`, `advice`.
    pub fn failure(&self) -> Option<Value> {
        let objects = self.errors.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        objects.into_iter().find(|object| object.get("code").is_some())
    }

    /// The same, if the command succeeded.
    ///
    /// # Errors
    /// It did not.
    pub fn succeeded(self) -> Result<Self, DemoError> {
        if self.status.success() {
            return Ok(self);
        }
        let message = self.failure().map_or_else(
            || program::last_bytes(&self.errors, WORDS_QUOTED_BYTES_MAX).trim().to_owned(),
            |failure| {
                let text = |name: &str| failure.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
                let causes = failure.get("causes").and_then(Value::as_array).into_iter().flatten();
                let causes: String = causes.filter_map(Value::as_str).map(|cause| format!("; {cause}")).collect();
                format!("[{}] {}{causes}", text("code"), text("message"))
            },
        );
        Err(DemoError::Farshore { command: self.command, status: self.status.to_string(), message })
    }
}

impl Farshore {
    /// Runs a command with `--json` to its end. Also a command that fails is a result.
    ///
    /// # Errors
    /// It cannot be started, does not end within `limit` (it is killed then), or stopping was asked for.
    pub fn run(&self, arguments: &[&str], limit: Duration) -> Result<Finished, DemoError> {
        let mut running = self.start(arguments)?;
        let deadline = Deadline::after(limit, &self.stop);
        let status = loop {
            if let Some(status) = running.try_status()? {
                break status;
            }
            deadline.check(&format!("the end of `{}`", running.command), || running.words())?;
            crate::wait::pause(crate::wait::POLL);
        };
        running.finish(status)
    }

    /// Starts a command with `--json` that goes on until it is ended. Dropping it kills it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, arguments: &[&str]) -> Result<Running, DemoError> {
        self.stop.check()?;
        let name =
            arguments.join("-").replace(|character: char| !character.is_ascii_alphanumeric() && character != '-', "_");
        let name: String = name.chars().take(80).collect();
        let log = self.logs.join(format!("{name}.{:x}.log", SystemClock.monotonic().as_nanos()));
        let errors = File::create(&log).at("make", &log)?;
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(&self.configuration).arg("--json").args(arguments);
        // A process group of its own: Ctrl-C on the terminal reaches whoever started this, who ends it in good order.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).process_group(0);
        let mut child = command.spawn().at("start", &self.binary)?;
        let lines = Lines::read(child.stdout.take());
        Ok(Running { command: format!("farshore {}", arguments.join(" ")), child, log, lines, status: None })
    }

    /// The command as an operator would type it, with the configuration.
    pub fn typed(&self, arguments: &str) -> String {
        format!("farshore --config {} {arguments}", self.configuration.display())
    }
}

/// A command that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    command: String,
    child: Child,
    log: PathBuf,
    lines: Lines,
    status: Option<ExitStatus>,
}

impl Running {
    /// The process number.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard error.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How many lines it wrote to standard output so far.
    pub fn line_count(&self) -> usize {
        let state = self.lines.shared.lock();
        state.first + state.lines.len()
    }

    /// The first JSON line from this number on that the function takes, as soon as there is one, with the number after it.
    ///
    /// # Errors
    /// None came within `limit`, the command ended before one came, or stopping was asked for.
    pub fn wait_for<T>(
        &mut self,
        awaited: &str,
        from: usize,
        limit: Duration,
        stop: &Stop,
        mut take: impl FnMut(&Value) -> Option<T>,
    ) -> Result<(T, usize), DemoError> {
        let deadline = Deadline::after(limit, stop);
        let mut next = from;
        loop {
            // Asked before looking: a command that ended writes no more, so nothing is missed between the two.
            let status = self.try_status()?;
            let ended = self.lines.shared.lock().ended;
            while let Some(line) = self.lines.get(&mut next) {
                next += 1;
                if let Some(taken) = serde_json::from_str(&line).ok().as_ref().and_then(&mut take) {
                    return Ok((taken, next));
                }
            }
            if let (Some(status), true) = (status, ended) {
                let message = format!("it ended before {awaited}: {}", self.words());
                return Err(DemoError::Farshore { command: self.command.clone(), status: status.to_string(), message });
            }
            deadline.check(awaited, || self.words())?;
            self.lines.shared.wait();
        }
    }

    /// Asks it to end, as Ctrl-C does (SIGINT), and waits for that.
    ///
    /// # Errors
    /// It does not end within a minute.
    pub fn interrupt(mut self, stop: &Stop) -> Result<Finished, DemoError> {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let (None, Some(pid)) = (self.try_status()?, pid) {
            // It has not been waited for, so the number is still its own; it fails only if it has just ended.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        let deadline = Deadline::after(END_MAX, stop);
        let status = loop {
            if let Some(status) = self.try_status()? {
                break status;
            }
            deadline.check(&format!("the end of `{}`", self.command), || self.words())?;
            crate::wait::pause(crate::wait::POLL);
        };
        self.finish(status)
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        if !matches!(self.try_status(), Ok(Some(_))) {
            // Both fail only if it has ended.
            let _ = self.child.kill();
            self.status = self.child.wait().ok();
        }
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// The system cannot say.
    pub fn try_status(&mut self) -> Result<Option<ExitStatus>, DemoError> {
        if self.status.is_none() {
            self.status = self.child.try_wait().at("wait for", self.command.as_str())?;
        }
        Ok(self.status)
    }

    fn words(&self) -> String {
        let words = std::fs::read_to_string(&self.log).unwrap_or_default();
        program::last_bytes(&words, WORDS_QUOTED_BYTES_MAX).to_owned()
    }

    fn finish(mut self, status: ExitStatus) -> Result<Finished, DemoError> {
        self.status = Some(status);
        self.lines.join();
        let output = self.lines.shared.lock().lines.iter().map(|line| format!("{line}\n")).collect();
        let errors = std::fs::read_to_string(&self.log).at("read", &self.log)?;
        Ok(Finished { command: self.command.clone(), status, output, errors })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The lines of a pipe, read by a thread so that the command never waits for its reader.
#[derive(Debug)]
struct Lines {
    shared: Arc<SharedLines>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct SharedLines {
    state: Mutex<LinesState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LinesState {
    lines: VecDeque<String>,
    first: usize,
    ended: bool,
}

impl SharedLines {
    fn lock(&self) -> MutexGuard<'_, LinesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something changed, or a little while.
    fn wait(&self) {
        let state = self.lock();
        if !state.ended {
            drop(self.changed.wait_timeout(state, Duration::from_millis(50)));
        } else {
            drop(state);
            crate::wait::pause(crate::wait::POLL);
        }
    }
}

impl Lines {
    fn read(pipe: Option<ChildStdout>) -> Self {
        let shared = Arc::new(SharedLines::default());
        let for_thread = Arc::clone(&shared);
        let run = move || {
            let mut reader = pipe.map(BufReader::new);
            while let Some(line) = reader.as_mut().and_then(next_line) {
                let mut state = for_thread.lock();
                state.lines.push_back(line);
                if state.lines.len() > LINES_MAX {
                    state.lines.pop_front();
                    state.first += 1;
                }
                drop(state);
                for_thread.changed.notify_all();
            }
            for_thread.lock().ended = true;
            for_thread.changed.notify_all();
        };
        Self { shared, reader: Some(std::thread::spawn(run)) }
    }

    fn get(&self, next: &mut usize) -> Option<String> {
        let state = self.shared.lock();
        *next = (*next).max(state.first);
        state.lines.get(*next - state.first).cloned()
    }

    fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            // A panic there was reported there.
            let _ = reader.join();
        }
    }
}

fn next_line(reader: &mut BufReader<ChildStdout>) -> Option<String> {
    let mut bytes = Vec::new();
    let count = reader.take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes).ok()?;
    if count == 0 {
        return None;
    }
    Some(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// A stand-in for the binary: a shell that is told what to do by the last argument. A shell cannot catch an interrupt that
    /// was ignored when it was started, as it is for whatever runs in the background of another shell.
    fn stand_in(folder: &Path, script: &str) -> Farshore {
        use std::os::unix::fs::PermissionsExt;
        let binary = folder.join("farshore");
        std::fs::write(&binary, format!("#!/usr/bin/env -S --default-signal=INT sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).expect("executable");
        let logs = folder.to_owned();
        Farshore { binary, configuration: folder.join("farshore.toml"), logs, stop: Stop::default() }
    }

    #[test]
    fn a_failure_is_told_with_its_code() {
        let folder = tempfile::tempdir().expect("a folder");
        let script =
            r#"echo '{"code":"FS1002","message":"it does not open","causes":["why"],"advice":null}' >&2; exit 1"#;
        let finished = stand_in(folder.path(), script).run(&["vault", "info"], SOON).expect("it ran");
        assert_eq!(finished.exit_code(), Some(1));
        let error = finished.succeeded().expect_err("it failed").to_string();
        assert!(error.contains("[FS1002] it does not open; why"), "{error}");
    }

    #[test]
    fn lines_are_taken_as_they_come_and_an_early_end_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let farshore = stand_in(folder.path(), r#"echo '{"n":1}'; echo '{"n":2}'; exec sleep 0.2"#);
        let mut running = farshore.start(&["replicate", "--watch"]).expect("started");
        let n = |wanted: i64| move |line: &Value| line.get("n").and_then(Value::as_i64).filter(|n| *n == wanted);
        let (found, next) = running.wait_for("two", 0, SOON, &Stop::default(), n(2)).expect("there is a two");
        assert_eq!((found, next), (2, 2));
        let error = running.wait_for("three", next, SOON, &Stop::default(), n(3)).expect_err("there is no three");
        assert!(matches!(error, DemoError::Farshore { .. }), "{error}");
    }

    #[test]
    fn an_interrupt_ends_it_and_a_command_that_hangs_is_killed() {
        let folder = tempfile::tempdir().expect("a folder");
        let farshore =
            stand_in(folder.path(), r#"trap 'echo "{}"; exit 7' INT; echo '{"up":1}'; while :; do sleep 0.01; done"#);
        let mut running = farshore.start(&["replicate"]).expect("started");
        running.wait_for("up", 0, SOON, &Stop::default(), |line| line.get("up").cloned()).expect("it is up");
        let finished = running.interrupt(&Stop::default()).expect("it ends");
        assert_eq!((finished.exit_code(), finished.output.as_str()), (Some(7), "{\"up\":1}\n{}\n"));
        let error = farshore.run(&["replicate"], Duration::from_millis(200)).expect_err("it hangs");
        assert!(matches!(error, DemoError::TooLate { .. }), "{error}");
    }
}
