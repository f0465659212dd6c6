//! QEMU's control protocol: one JSON object a line, over a connection of our own.
//!
//! A control socket serves one client at a time: a second connection is accepted by the system, but QEMU says nothing on
//! it until the first has gone. Silence instead of a greeting therefore means *busy*, and is reported as a conflict after
//! a wait that outlasts our own short visits. Events are dropped: whoever waits for something asks for it, because an event
//! that was sent before we came is never repeated.
//!
//! A visitor that was killed leaves requests behind, and QEMU sends their answers to whoever comes next, even before its
//! greeting. What precedes the greeting is therefore passed over, and a visit counts its requests from the nanosecond at
//! which it began: no visit has the ids of another, and no late answer is taken for the answer to a later request. When
//! such an answer finds nobody, QEMU may even hang up on the next visitor: whoever is thrown out at the door comes again.

use std::fmt;

use serde_json::{Value, json};

use crate::{
    error::{PlatformError, Result, sentence},
    ports::{Connection, Host, HostError, member, text},
};

const GREETING_TIMEOUT_MILLISECONDS: u32 = 6_000;
/// How long a command may take; a component's call has 30 s in all.
pub const COMMAND_TIMEOUT_MILLISECONDS: u32 = 15_000;
/// How often a visit is tried that QEMU ended before it began, and the pause between.
const VISITS_MAX: u32 = 5;
const REVISIT_PAUSE_MILLISECONDS: u32 = 50;
/// How many questions are sent before the first answer is read: few enough that no buffer between us and QEMU fills up.
const QUESTIONS_AT_ONCE: usize = 64;
const READ_BYTES_MAX: u32 = 256 * 1024;
const LINE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How much a killed visitor may have left before the greeting.
const LEFT_MESSAGES_MAX: u32 = 10_000;
const NANOSECONDS_PER_MILLISECOND: u64 = 1_000_000;

/// Why a command did not do what it should.
#[derive(Debug)]
pub enum QmpError {
    /// QEMU answered with an error.
    Refused {
        /// The command.
        command: String,
        /// QEMU's own words.
        description: String,
    },
    /// No answer within the time. The request may still be carried out.
    TimedOut {
        /// The command.
        command: String,
    },
    /// QEMU closed the connection.
    Ended,
    /// The connection failed.
    Connection(HostError),
    /// QEMU said something that is not its protocol.
    Protocol(String),
}

impl fmt::Display for QmpError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { command, description } => write!(formatter, "QEMU refused {command}: {description}"),
            Self::TimedOut { command } => write!(formatter, "QEMU did not answer {command} in time"),
            Self::Ended => write!(formatter, "QEMU closed the control socket"),
            Self::Connection(error) => write!(formatter, "the control socket failed: {}", sentence(error)),
            Self::Protocol(text) => write!(formatter, "the control socket does not speak QEMU's protocol: {text}"),
        }
    }
}

/// What a client of QEMU's returns.
pub type QmpResult<T> = std::result::Result<T, QmpError>;

/// A request that has been sent.
#[derive(Debug, Clone)]
pub struct Sent {
    id: u64,
    command: String,
}

/// A visit to one machine's control socket.
pub struct Client<'h> {
    host: &'h dyn Host,
    machine: String,
    connection: Box<dyn Connection>,
    buffer: Vec<u8>,
    scanned: usize,
    next_id: u64,
    answers: Vec<(u64, Value)>,
    version: (u64, u64),
}

/// What is behind a control socket.
pub enum Door<'h> {
    /// A QEMU that answers.
    Open(Client<'h>),
    /// Nobody: there is no such socket, or the system says that nothing listens on it. The text says which.
    Deserted(String),
}

/// Whether anybody listens on a machine's control socket, on the system's word alone: whether it answers does not matter.
///
/// # Errors
/// `failed` when the system does not say.
pub fn is_inhabited(host: &dyn Host, machine: &str, socket: &str) -> Result<bool> {
    Client::dial(host, machine, socket).map(|door| matches!(door, Door::Open(_)))
}

impl<'h> Client<'h> {
    /// Visits the machine behind a socket.
    ///
    /// # Errors
    /// `unreachable` when no QEMU listens there or it hangs up, `conflict` when another program occupies the socket.
    pub fn connect(host: &'h dyn Host, machine: &str, socket: &str) -> Result<Self> {
        match Self::knock(host, machine, socket)? {
            Door::Open(client) => Ok(client),
            Door::Deserted(text) => Err(PlatformError::Unreachable(text)),
        }
    }

    /// Visits the machine behind a socket, or says that nobody is there. That is said on the system's word alone: a QEMU
    /// that hangs up, keeps silent or cannot be connected to for another reason may well be running.
    ///
    /// # Errors
    /// `unreachable` when it hangs up, `conflict` when another program occupies the socket, `failed` when the socket cannot
    /// be connected to although something may listen.
    pub fn knock(host: &'h dyn Host, machine: &str, socket: &str) -> Result<Door<'h>> {
        let mut tries = 0..VISITS_MAX;
        loop {
            let last = tries.next().is_none();
            let mut client = match Self::dial(host, machine, socket)? {
                Door::Open(client) => client,
                nobody @ Door::Deserted(_) => return Ok(nobody),
            };
            let error = match client.greet() {
                Ok(()) => return Ok(Door::Open(client)),
                Err(error) => error,
            };
            return Err(match error {
                QmpError::TimedOut { .. } => PlatformError::Conflict(format!(
                    "machine {machine}: another program is connected to its control socket {socket}: give Farshore a socket of its own (QEMU takes several -qmp options)"
                )),
                QmpError::Protocol(_) => client.error(&error),
                QmpError::Refused { .. } | QmpError::Ended | QmpError::Connection(_) if last => client.error(&error),
                QmpError::Refused { .. } | QmpError::Ended | QmpError::Connection(_) => {
                    host.sleep(REVISIT_PAUSE_MILLISECONDS).map_err(|error| {
                        PlatformError::Failed(format!("machine {machine}: the host cannot wait: {}", sentence(&error)))
                    })?;
                    continue;
                }
            });
        }
    }

    /// Connects, without a word yet.
    fn dial(host: &'h dyn Host, machine: &str, socket: &str) -> Result<Door<'h>> {
        let connection = match host.connect_unix(socket) {
            Ok(connection) => connection,
            // For a unix socket the host says `unreachable` when the system refuses the connection (ECONNREFUSED).
            Err(error @ (HostError::NotFound(_) | HostError::Unreachable(_))) => {
                let advice = "is the machine running, and is this its control socket?";
                return Ok(Door::Deserted(format!("machine {machine}: {}: {advice}", sentence(&error))));
            }
            // Too many who wait there, a missing permission, the time that a call has, a limit of ours: all of them say
            // nothing of the machine.
            Err(error) => {
                let text =
                    format!("machine {machine}: its control socket cannot be connected to: {}", sentence(&error));
                return Err(PlatformError::Failed(text));
            }
        };
        let begun = host.monotonic_nanoseconds().map_err(|error| {
            PlatformError::Failed(format!("machine {machine}: the time cannot be read: {}", sentence(&error)))
        })?;
        Ok(Door::Open(Self {
            host,
            machine: machine.into(),
            connection,
            buffer: Vec::new(),
            scanned: 0,
            next_id: begun,
            answers: Vec::new(),
            version: (0, 0),
        }))
    }

    fn greet(&mut self) -> QmpResult<()> {
        let until = self.deadline(GREETING_TIMEOUT_MILLISECONDS)?;
        let greeting = self.read_greeting(until)?;
        let version = member(member(member(&greeting, "QMP"), "version"), "qemu");
        let number = |name| member(version, name).as_u64();
        let (Some(major), Some(minor)) = (number("major"), number("minor")) else {
            return Err(QmpError::Protocol("its greeting does not tell QEMU's version".into()));
        };
        self.version = (major, minor);
        self.execute("qmp_capabilities", json!({})).map(drop)
    }

    fn read_greeting(&mut self, until: u64) -> QmpResult<Value> {
        for _ in 0..=LEFT_MESSAGES_MAX {
            let message = self.read_message(until, "the greeting")?;
            if message.get("QMP").is_some() {
                return Ok(message);
            }
        }
        Err(QmpError::Protocol(format!("more than {LEFT_MESSAGES_MAX} messages precede QEMU's greeting")))
    }

    /// The machine's name.
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// QEMU's version: major, minor.
    pub fn version(&self) -> (u64, u64) {
        self.version
    }

    /// An error of this machine, for the operator.
    pub fn error(&self, error: &QmpError) -> PlatformError {
        let text = format!("machine {}: {error}", self.machine);
        match error {
            QmpError::Refused { .. } | QmpError::Protocol(_) => PlatformError::Failed(text),
            QmpError::TimedOut { .. } | QmpError::Ended | QmpError::Connection(_) => PlatformError::Unreachable(text),
        }
    }

    /// Runs a command and returns its answer.
    ///
    /// # Errors
    /// What QEMU or the connection said.
    pub fn execute(&mut self, command: &str, arguments: Value) -> QmpResult<Value> {
        let sent = self.send(command, arguments)?;
        self.receive(&sent, COMMAND_TIMEOUT_MILLISECONDS)
    }

    /// Runs a command whose failure is the operator's to read.
    ///
    /// # Errors
    /// `failed` or `unreachable`, naming the machine.
    pub fn run(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.execute(command, arguments).map_err(|error| self.error(&error))
    }

    /// Sends a command and does not wait.
    ///
    /// # Errors
    /// When the connection failed.
    pub fn send(&mut self, command: &str, arguments: Value) -> QmpResult<Sent> {
        let (sent, line) = self.request(command, arguments);
        self.connection.write(line.as_bytes()).map_err(QmpError::Connection)?;
        Ok(sent)
    }

    /// Asks many questions of one kind at once, and returns their answers in order: none where QEMU refused. It takes the
    /// time of one round trip for every [`QUESTIONS_AT_ONCE`] of them instead of one for each.
    ///
    /// # Errors
    /// When the connection failed.
    pub fn ask_all(&mut self, command: &str, questions: impl IntoIterator<Item = Value>) -> Result<Vec<Option<Value>>> {
        let questions: Vec<Value> = questions.into_iter().collect();
        let mut answers = Vec::with_capacity(questions.len());
        for some in questions.chunks(QUESTIONS_AT_ONCE) {
            let (sent, lines): (Vec<Sent>, Vec<String>) =
                some.iter().map(|arguments| self.request(command, arguments.clone())).unzip();
            self.connection
                .write(lines.concat().as_bytes())
                .map_err(|error| self.error(&QmpError::Connection(error)))?;
            for sent in sent {
                match self.receive(&sent, COMMAND_TIMEOUT_MILLISECONDS) {
                    Ok(answer) => answers.push(Some(answer)),
                    Err(QmpError::Refused { .. }) => answers.push(None),
                    Err(error) => return Err(self.error(&error)),
                }
            }
        }
        Ok(answers)
    }

    fn request(&mut self, command: &str, arguments: Value) -> (Sent, String) {
        self.next_id = self.next_id.saturating_add(1);
        let sent = Sent { id: self.next_id, command: command.into() };
        let mut line = json!({ "execute": command, "arguments": arguments, "id": sent.id }).to_string();
        line.push('\n');
        (sent, line)
    }

    /// Waits for the answer to a command.
    ///
    /// # Errors
    /// [`QmpError::TimedOut`] when it did not come: it can be waited for again.
    pub fn receive(&mut self, sent: &Sent, timeout_milliseconds: u32) -> QmpResult<Value> {
        let until = self.deadline(timeout_milliseconds)?;
        let answer = loop {
            if let Some(position) = self.answers.iter().position(|(id, _)| *id == sent.id) {
                break self.answers.swap_remove(position).1;
            }
            let message = self.read_message(until, &sent.command)?;
            self.file(message);
        };
        if let Some(error) = answer.get("error") {
            let description = text(error, "desc").to_owned();
            return Err(QmpError::Refused { command: sent.command.clone(), description });
        }
        Ok(member(&answer, "return").clone())
    }

    /// Waits until QEMU closes the connection, or the time is over; whether it closed it.
    pub fn wait_for_end(&mut self, timeout_milliseconds: u32) -> bool {
        let Ok(until) = self.deadline(timeout_milliseconds) else { return false };
        loop {
            match self.read_message(until, "quit") {
                Ok(message) => self.file(message),
                Err(QmpError::Ended) => return true,
                Err(QmpError::Connection(HostError::Unreachable(_))) => return true,
                Err(_) => return false,
            }
        }
    }

    fn file(&mut self, message: Value) {
        if let Some(id) = message.get("id").and_then(Value::as_u64) {
            // An answer that nobody waits for any more is not kept for ever.
            self.answers.retain(|(known, _)| known.saturating_add(1_000) > id);
            self.answers.push((id, message));
        }
    }

    fn deadline(&self, timeout_milliseconds: u32) -> QmpResult<u64> {
        let now = self.host.monotonic_nanoseconds().map_err(QmpError::Connection)?;
        Ok(now.saturating_add(u64::from(timeout_milliseconds).saturating_mul(NANOSECONDS_PER_MILLISECOND)))
    }

    fn read_message(&mut self, until: u64, command: &str) -> QmpResult<Value> {
        loop {
            if let Some(line) = self.take_line() {
                return serde_json::from_slice(&line).map_err(|error| QmpError::Protocol(error.to_string()));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(QmpError::Protocol(format!("a line of more than {LINE_BYTES_MAX} bytes")));
            }
            let now = self.host.monotonic_nanoseconds().map_err(QmpError::Connection)?;
            // Rounded up, so that the last part of a millisecond is waited for too.
            let left = until.saturating_sub(now).div_ceil(NANOSECONDS_PER_MILLISECOND);
            let timed_out = || QmpError::TimedOut { command: command.to_owned() };
            if left == 0 {
                return Err(timed_out());
            }
            match self.connection.read(READ_BYTES_MAX, u32::try_from(left).unwrap_or(u32::MAX)) {
                Ok(chunk) => {
                    self.buffer.extend_from_slice(&chunk.bytes);
                    if chunk.ended && chunk.bytes.is_empty() {
                        return Err(QmpError::Ended);
                    }
                }
                Err(HostError::TimedOut(_)) => return Err(timed_out()),
                Err(error) => return Err(QmpError::Connection(error)),
            }
        }
    }

    fn take_line(&mut self) -> Option<Vec<u8>> {
        let unscanned = self.buffer.get(self.scanned..)?;
        match unscanned.iter().position(|byte| *byte == b'\n') {
            Some(position) => {
                let line = self.buffer.drain(..=self.scanned.saturating_add(position)).collect();
                self.scanned = 0;
                Some(line)
            }
            None => {
                self.scanned = self.buffer.len();
                None
            }
        }
    }
}
