//! What the adapter asks of its surroundings, as traits: the host's imports in the sandbox, real sockets in the tests.

use serde_json::Value;

pub use crate::bindings::farshore::host::{
    errors::HostError,
    files::{EntryPage, File},
    log::Level,
    programs::{Completion, Repetition, Slot},
    streams::Chunk,
};

/// A connection to a local socket. Dropping it closes it.
pub trait Connection {
    /// Waits for at least one byte, unless the stream ended.
    ///
    /// # Errors
    /// [`HostError::TimedOut`] when no byte came in time; the connection stays usable. Anything else ends it.
    fn read(&mut self, max_bytes: u32, timeout_milliseconds: u32) -> Result<Chunk, HostError>;

    /// Writes all the bytes.
    ///
    /// # Errors
    /// [`HostError::Unreachable`] when the other side hung up.
    fn write(&mut self, bytes: &[u8]) -> Result<(), HostError>;
}

/// The host. The errors are those of the interfaces in `wit/host`.
#[expect(clippy::missing_errors_doc, reason = "wit/host documents each of them")]
pub trait Host {
    /// The site's settings as JSON.
    fn settings(&self) -> Result<String, HostError>;
    /// Connects to a unix socket.
    fn connect_unix(&self, path: &str) -> Result<Box<dyn Connection>, HostError>;
    /// Nanoseconds since some fixed moment.
    fn monotonic_nanoseconds(&self) -> Result<u64, HostError>;
    /// Returns after at least this long.
    fn sleep(&self, milliseconds: u32) -> Result<(), HostError>;
    /// Makes a new sparse file.
    fn create_file(&self, path: &str, size_bytes: u64) -> Result<File, HostError>;
    /// What a file is.
    fn inspect_file(&self, path: &str) -> Result<File, HostError>;
    /// Removes a file, a socket or an empty folder; whether there was one.
    fn remove_file(&self, path: &str) -> Result<bool, HostError>;
    /// What is in a folder.
    fn list_folder(&self, path: &str, cursor: Option<&str>) -> Result<EntryPage, HostError>;
    /// Runs a program from the operator's templates to its end.
    fn run_program(&self, template: &str, slots: &[Slot], repetitions: &[Repetition]) -> Result<Completion, HostError>;
    /// A line for the operator or the developer.
    fn log(&self, level: Level, line: &str);
    /// What is being done.
    fn progress(&self, doing: &str, done: u64, total: Option<u64>);
}

/// Where the bytes of a disk are. The component's shell turns it into a transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// An export of an NBD server behind a unix socket; it is only read.
    Nbd {
        /// The socket's absolute path.
        socket: String,
        /// The export's name.
        name: String,
    },
    /// An image file that is written.
    File {
        /// Its absolute path.
        path: String,
    },
}

/// A member of a JSON object, or null.
pub(crate) fn member<'v>(value: &'v Value, name: &str) -> &'v Value {
    value.get(name).unwrap_or(&Value::Null)
}

/// A text member of a JSON object, or the empty text.
pub(crate) fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    member(value, name).as_str().unwrap_or_default()
}

/// The items of a JSON list, or none.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
