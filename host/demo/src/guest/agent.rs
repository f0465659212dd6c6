//! The guest agent: running a command inside the guest.
//!
//! Each call connects anew and hangs up at its end, because the socket serves one connection at a time and Farshore needs
//! it too. A call first synchronises, so that what an earlier caller left unread is skipped.

use std::{
    io::{BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use farshore_core::{Entropy, SystemEntropy};
use serde_json::{Value, json};

use super::qmp::{connect, read_line};
use crate::{
    error::{AtPath, DemoError},
    wait::{Deadline, POLL, Stop, pause},
};

/// How many lines of earlier callers are skipped.
const LINES_SKIPPED_MAX: usize = 1_000;

/// How a command in the guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// Its exit code; none if a signal ended it.
    pub exit_code: Option<i64>,
    /// Its standard output.
    pub output: String,
    /// Its standard error.
    pub errors: String,
}

/// The guest agent behind a socket.
#[derive(Debug, Clone)]
pub struct Agent {
    socket: PathBuf,
    limit: Duration,
    stop: Stop,
}

impl Agent {
    /// The agent behind this socket; `limit` bounds each call.
    pub fn new(socket: &Path, limit: Duration, stop: &Stop) -> Self {
        Self { socket: socket.to_owned(), limit, stop: stop.clone() }
    }

    /// Returns when the agent has answered.
    ///
    /// # Errors
    /// It did not within the limit.
    pub fn ping(&self) -> Result<(), DemoError> {
        let deadline = Deadline::after(self.limit, &self.stop);
        self.session(&deadline)?.call("guest-ping", json!({}), &deadline).map(drop)
    }

    /// Runs a line of shell in the guest and waits for its end.
    ///
    /// # Errors
    /// The agent refuses or does not answer, or the command takes longer than the limit. A command that fails is no error.
    pub fn shell(&self, line: &str) -> Result<Completed, DemoError> {
        let deadline = Deadline::after(self.limit, &self.stop);
        let mut session = self.session(&deadline)?;
        let arguments = json!({ "path": "/bin/sh", "arg": ["-c", line], "capture-output": true });
        let started = session.call("guest-exec", arguments, &deadline)?;
        let pid = started.get("pid").and_then(Value::as_i64);
        let pid = pid.ok_or_else(|| refused("guest-exec", &started.to_string()))?;
        loop {
            let status = session.call("guest-exec-status", json!({ "pid": pid }), &deadline)?;
            if status.get("exited").and_then(Value::as_bool) == Some(true) {
                let text = |name| {
                    let encoded = status.get(name).and_then(Value::as_str).unwrap_or_default();
                    String::from_utf8_lossy(&STANDARD.decode(encoded).unwrap_or_default()).into_owned()
                };
                let exit_code = status.get("exitcode").and_then(Value::as_i64);
                return Ok(Completed { exit_code, output: text("out-data"), errors: text("err-data") });
            }
            deadline.check(&format!("the end of `{line}` in the guest"), String::new)?;
            pause(POLL);
        }
    }

    /// Runs a line of shell in the guest that must succeed, and returns its output.
    ///
    /// # Errors
    /// As [`Agent::shell`], and the command fails.
    pub fn succeed(&self, line: &str) -> Result<String, DemoError> {
        let completed = self.shell(line)?;
        if completed.exit_code == Some(0) {
            Ok(completed.output)
        } else {
            Err(refused(line, &format!("{completed:?}")))
        }
    }

    fn session(&self, deadline: &Deadline) -> Result<Session, DemoError> {
        let stream = connect(&self.socket, deadline)?;
        let mut session = Session { reader: BufReader::new(stream) };
        let mut random = [0; 4];
        SystemEntropy.fill(&mut random);
        let id = u32::from_le_bytes(random);
        // The byte 0xff resets the agent's parser; its answer begins with one too.
        session.send(&json!({ "execute": "guest-sync-delimited", "arguments": { "id": id } }), &[0xff])?;
        for _ in 0..LINES_SKIPPED_MAX {
            let line = read_line(&mut session.reader, deadline, "the guest agent")?;
            let line = line.trim_start_matches(char::REPLACEMENT_CHARACTER);
            let answer = serde_json::from_str::<Value>(line).ok();
            if answer.and_then(|answer| answer.get("return").and_then(Value::as_u64)) == Some(u64::from(id)) {
                return Ok(session);
            }
        }
        Err(refused("guest-sync-delimited", "too many lines without the answer"))
    }
}

struct Session {
    reader: BufReader<UnixStream>,
}

impl Session {
    fn send(&mut self, command: &Value, prefix: &[u8]) -> Result<(), DemoError> {
        let bytes = [prefix, command.to_string().as_bytes(), b"\n"].concat();
        self.reader.get_mut().write_all(&bytes).at("send a command to", "the guest agent")
    }

    fn call(&mut self, command: &str, arguments: Value, deadline: &Deadline) -> Result<Value, DemoError> {
        self.send(&json!({ "execute": command, "arguments": arguments }), &[])?;
        let line = read_line(&mut self.reader, deadline, command)?;
        let mut answer: Value = serde_json::from_str(&line).map_err(|_| refused(command, &line))?;
        answer.get_mut("return").map(Value::take).ok_or_else(|| refused(command, &line))
    }
}

fn refused(command: &str, answer: &str) -> DemoError {
    DemoError::Refused { peer: "the guest agent", command: command.to_owned(), answer: answer.trim().to_owned() }
}
