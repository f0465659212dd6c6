//! QEMU's control socket (QMP): one command at a time, each with a limit.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    error::{AtPath, DemoError},
    wait::{Deadline, POLL, Stop, pause},
};

/// The longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// How many events may come before an answer.
const EVENTS_MAX: usize = 10_000;

const ENDED: &str = "the connection ended";

/// How much of an answer an error quotes.
const QUOTED_BYTES_MAX: usize = 500;

/// A connection to a QMP socket. QEMU serves one connection of a socket at a time: a second one waits.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
    limit: Duration,
    stop: Stop,
}

impl Qmp {
    /// Connects, waiting until QEMU listens and nobody else is connected. `limit` also bounds each command.
    ///
    /// # Errors
    /// QEMU does not answer in time, or says something else than a greeting.
    pub fn connect(socket: &Path, limit: Duration, stop: &Stop) -> Result<Self, DemoError> {
        let deadline = Deadline::after(limit, stop);
        loop {
            let stream = connect(socket, &deadline)?;
            let mut qmp = Self { reader: BufReader::new(stream), limit, stop: stop.clone() };
            let greeted = qmp.read(&deadline, "the greeting of QEMU");
            match greeted.and_then(|_| qmp.execute("qmp_capabilities", json!({}))) {
                Ok(_) => return Ok(qmp),
                // QEMU hangs up on a visitor when an answer to the one before finds nobody: who is thrown out at the door comes again.
                Err(error) if is_hung_up(&error) => {
                    deadline.check("the greeting of QEMU", || error.to_string())?;
                    pause(POLL);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs a command and returns what it answers.
    ///
    /// # Errors
    /// QEMU refuses, does not answer in time or hung up. After the last two the connection must not be used again.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, DemoError> {
        let deadline = Deadline::after(self.limit, &self.stop);
        let mut text = json!({ "execute": command, "arguments": arguments }).to_string();
        text.push('\n');
        self.reader.get_mut().write_all(text.as_bytes()).at("send a command to", "the control socket of QEMU")?;
        for _ in 0..EVENTS_MAX {
            let mut answer = self.read(&deadline, command)?;
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            if answer.get("event").is_none() {
                return Err(refused(command, &answer.to_string()));
            }
        }
        Err(refused(command, "too many events"))
    }

    fn read(&mut self, deadline: &Deadline, awaited: &str) -> Result<Value, DemoError> {
        let line = read_line(&mut self.reader, deadline, awaited)?;
        serde_json::from_str(&line).map_err(|_| refused(awaited, &line))
    }
}

/// Whether QEMU ended the connection.
fn is_hung_up(error: &DemoError) -> bool {
    match error {
        DemoError::File { source, .. } => {
            matches!(source.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
        }
        DemoError::Refused { answer, .. } => answer == ENDED,
        _ => false,
    }
}

fn refused(command: &str, answer: &str) -> DemoError {
    let answer = answer.chars().take(QUOTED_BYTES_MAX).collect();
    DemoError::Refused { peer: "QEMU", command: command.to_owned(), answer }
}

/// Connects to a socket as soon as somebody listens there.
pub(super) fn connect(socket: &Path, deadline: &Deadline) -> Result<UnixStream, DemoError> {
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                deadline.check(&format!("somebody to listen at {}", socket.display()), || error.to_string())?;
                pause(POLL);
            }
            Err(source) => return Err(DemoError::File { doing: "connect to", path: socket.to_owned(), source }),
        }
    }
}

/// Reads one line within the deadline; it wakes often enough to notice a wish to stop.
pub(super) fn read_line(
    reader: &mut BufReader<UnixStream>,
    deadline: &Deadline,
    awaited: &str,
) -> Result<String, DemoError> {
    let mut bytes = Vec::new();
    loop {
        let slice = deadline.left().min(Duration::from_millis(100));
        reader.get_ref().set_read_timeout(Some(slice)).at("set the time limit of", "a control socket")?;
        let left = ANSWER_BYTES_MAX.saturating_sub(bytes.len() as u64);
        match reader.take(left).read_until(b'\n', &mut bytes) {
            Ok(_) if bytes.ends_with(b"\n") => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Ok(_) => return Err(refused(awaited, ENDED)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                deadline.check(awaited, || String::from_utf8_lossy(&bytes).into_owned())?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(DemoError::File { doing: "read", path: "a control socket".into(), source });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn who_is_thrown_out_at_the_door_comes_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("qmp");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let host = std::thread::spawn(move || {
            // One is hung up on, and one after its greeting.
            drop(listener.accept().expect("a visitor"));
            let (mut visitor, _) = listener.accept().expect("a visitor");
            visitor.write_all(b"{\"QMP\": {}}\n").expect("greeted");
            drop(visitor);
            let (mut visitor, _) = listener.accept().expect("a visitor");
            visitor.write_all(b"{\"QMP\": {}}\n").expect("greeted");
            let mut reader = BufReader::new(visitor.try_clone().expect("a handle"));
            for _ in 0..2 {
                let mut line = String::new();
                reader.read_line(&mut line).expect("a command");
                visitor.write_all(b"{\"return\": {\"status\": \"running\"}}\n").expect("answered");
            }
        });
        let mut qmp = Qmp::connect(&socket, Duration::from_secs(20), &Stop::default()).expect("the third visit");
        assert_eq!(qmp.execute("query-status", json!({})).expect("an answer")["status"], "running");
        host.join().expect("three visits");
    }
}
