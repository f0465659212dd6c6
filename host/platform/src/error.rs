//! How a transport fails.

use std::io;

use farshore_core::{Code, Coded, Extent};

/// A transport's failure. `transport` names the export or file for the operator.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Nothing listens, the file is not there, or access was denied.
    #[error("{transport} cannot be opened: {source}")]
    Open {
        /// Which transport.
        transport: String,
        /// What the system said.
        source: io::Error,
    },
    /// The connection ended, or the other side did not answer in time.
    #[error("{transport} was lost: {source}")]
    Lost {
        /// Which transport.
        transport: String,
        /// What the system said.
        source: io::Error,
    },
    /// The other side broke the protocol or told something that cannot be true.
    #[error("{transport} answered nonsense: {what}")]
    Protocol {
        /// Which transport.
        transport: String,
        /// What was wrong.
        what: String,
    },
    /// The other side refused or failed one request; the transport can still be used.
    #[error("{transport} failed to {operation} {} bytes at byte {}: {source}", extent.length, extent.offset)]
    Request {
        /// Which transport.
        transport: String,
        /// `read`, `write`, `zero`, `flush` or `ask about`.
        operation: &'static str,
        /// What was asked for.
        extent: Extent,
        /// What the other side said.
        source: io::Error,
    },
    /// The caller asked for what no transport of this kind can do, or for bytes outside the disk.
    #[error("{transport} cannot do that: {what}")]
    Unsupported {
        /// Which transport.
        transport: String,
        /// What was asked for.
        what: String,
    },
    /// The disk is full at the other side.
    #[error("{transport} has no room left to write {} bytes at byte {}", extent.length, extent.offset)]
    NoSpace {
        /// Which transport.
        transport: String,
        /// What was being written.
        extent: Extent,
    },
}

impl TransportError {
    /// Every later call on this transport fails too.
    pub const fn is_lost(&self) -> bool {
        matches!(self, Self::Open { .. } | Self::Lost { .. } | Self::Protocol { .. })
    }
}

impl Coded for TransportError {
    fn code(&self) -> Code {
        match self {
            Self::Open { .. } => Code::new(3101),
            Self::Lost { .. } => Code::new(3102),
            Self::Protocol { .. } => Code::new(3103),
            Self::Request { .. } => Code::new(3104),
            Self::Unsupported { .. } => Code::new(3105),
            Self::NoSpace { .. } => Code::new(3106),
        }
    }
}
