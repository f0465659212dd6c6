//! The guest agent: asking the guest to bring its file systems to rest.
//!
//! The agent's socket keeps what a former visitor left unread, so that each visit begins with `guest-sync-delimited`:
//! everything before the byte 0xFF and our number is somebody else's. A guest without a running agent never answers.

use serde_json::{Value, json};

use crate::ports::{Connection, Host, HostError, member, text};

const READ_BYTES_MAX: u32 = 64 * 1024;
const LINE_BYTES_MAX: usize = 1024 * 1024;
const NANOSECONDS_PER_MILLISECOND: u64 = 1_000_000;

/// A visit to a guest agent.
pub struct Agent<'h> {
    host: &'h dyn Host,
    connection: Box<dyn Connection>,
    buffer: Vec<u8>,
    until: u64,
}

impl<'h> Agent<'h> {
    /// Visits the agent, which has this long for all that it is asked.
    ///
    /// # Errors
    /// A sentence when nothing answers.
    pub fn connect(host: &'h dyn Host, socket: &str, timeout_milliseconds: u32) -> Result<Self, String> {
        let failed = |error: HostError| crate::error::sentence(&error).to_owned();
        let connection = host.connect_unix(socket).map_err(failed)?;
        let now = host.monotonic_nanoseconds().map_err(failed)?;
        let until = now.saturating_add(u64::from(timeout_milliseconds).saturating_mul(NANOSECONDS_PER_MILLISECOND));
        let mut agent = Self { host, connection, buffer: Vec::new(), until };
        // Below 2^31, and different for each visit.
        let number = (now >> 10) & 0x7fff_ffff;
        // The byte makes the agent forget half a command of a former visitor's. It answers the byte itself with an error,
        // which is passed over here; before any other command it would be taken for that command's answer.
        agent.write(&[0xff], "guest-sync-delimited", &json!({ "id": number }))?;
        loop {
            if agent.read_message()?.get("return").and_then(Value::as_u64) == Some(number) {
                return Ok(agent);
            }
        }
    }

    fn write(&mut self, before: &[u8], command: &str, arguments: &Value) -> Result<(), String> {
        let mut bytes = before.to_vec();
        bytes.extend_from_slice(json!({ "execute": command, "arguments": arguments }).to_string().as_bytes());
        bytes.push(b'\n');
        self.connection.write(&bytes).map_err(|error| crate::error::sentence(&error).to_owned())
    }

    fn read_message(&mut self) -> Result<Value, String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).filter(|byte| *byte != 0xff).collect();
                // Half a line of a former visitor's is not an answer to us.
                if let Ok(message) = serde_json::from_slice(&line) {
                    return Ok(message);
                }
                continue;
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(format!("the guest agent sent a line of more than {LINE_BYTES_MAX} bytes"));
            }
            let failed = |error: HostError| crate::error::sentence(&error).to_owned();
            let now = self.host.monotonic_nanoseconds().map_err(failed)?;
            let left = self.until.saturating_sub(now).div_ceil(NANOSECONDS_PER_MILLISECOND);
            let silent = || "the guest agent does not answer: is it installed and running in the guest?".to_owned();
            if left == 0 {
                return Err(silent());
            }
            match self.connection.read(READ_BYTES_MAX, u32::try_from(left).unwrap_or(u32::MAX)) {
                Ok(chunk) if chunk.bytes.is_empty() && chunk.ended => {
                    return Err("the guest agent's socket was closed".into());
                }
                Ok(chunk) => self.buffer.extend_from_slice(&chunk.bytes),
                Err(HostError::TimedOut(_)) => return Err(silent()),
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Runs a command.
    ///
    /// # Errors
    /// What the agent answered, or that it did not.
    pub fn execute(&mut self, command: &str) -> Result<Value, String> {
        self.write(&[], command, &json!({}))?;
        let answer = self.read_message()?;
        match answer.get("error") {
            Some(error) => Err(format!("the guest agent refused {command}: {}", text(error, "desc"))),
            None => Ok(member(&answer, "return").clone()),
        }
    }
}
