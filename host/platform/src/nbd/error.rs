//! How the client fails.

use std::io;

/// A failure of a connection or of one request. It can be cloned, because one broken connection fails every request that
/// is in flight.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NbdError {
    /// No connection came about: nothing listens, or the server does not want to serve.
    #[error("{what}")]
    Refused {
        /// The kind of failure.
        kind: io::ErrorKind,
        /// What the system or the server said.
        what: String,
    },
    /// The connection ended, was closed, or took too long.
    #[error("{what}")]
    Lost {
        /// The kind of failure.
        kind: io::ErrorKind,
        /// What happened.
        what: String,
    },
    /// The server broke the protocol. The connection has been ended.
    #[error("{what}")]
    Protocol {
        /// What it did.
        what: String,
    },
    /// The server failed one request; the connection can still be used.
    #[error("the server answered with error {number}{}{message}", if message.is_empty() { "" } else { ": " })]
    Request {
        /// The protocol's error number, which is Linux's.
        number: u32,
        /// The server's words; may be empty.
        message: String,
    },
    /// The request was not sent: this server cannot do it.
    #[error("{what}")]
    Unsupported {
        /// What cannot be done.
        what: String,
    },
}

impl NbdError {
    pub(super) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol { what: what.into() }
    }

    pub(super) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }

    pub(super) fn lost(kind: io::ErrorKind, what: impl Into<String>) -> Self {
        Self::Lost { kind, what: what.into() }
    }

    /// A failure of the socket.
    pub(super) fn socket(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::lost(error.kind(), "the server hung up"),
            kind => Self::lost(kind, error.to_string()),
        }
    }
}
