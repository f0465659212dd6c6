//! What the adapter asks of its surroundings, as a trait: the host's imports in the sandbox, a client of its own in the tests.

pub use crate::bindings::farshore::host::{
    errors::HostError,
    http::{BlockDisk, BlockRead, BlockWrite, Header, Method, Request, Response},
    log::Level,
};

/// The host. The errors are those of the interfaces in `wit/host`.
#[expect(clippy::missing_errors_doc, reason = "wit/host documents each of them")]
pub trait Host {
    /// The site's settings as JSON.
    fn settings(&self) -> Result<String, HostError>;
    /// Asks an endpoint.
    fn send(&self, endpoint: &str, request: &Request) -> Result<Response, HostError>;
    /// Nanoseconds since some fixed moment.
    fn monotonic_nanoseconds(&self) -> Result<u64, HostError>;
    /// Returns after at least this long.
    fn sleep(&self, milliseconds: u32) -> Result<(), HostError>;
    /// A line for the operator or the developer.
    fn log(&self, level: Level, line: &str);
}
