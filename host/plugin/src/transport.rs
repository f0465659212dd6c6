//! The ways to a disk's bytes that a component may hand over.

use std::{fmt, path::PathBuf};

use crate::HostPort;

/// A way to a disk's bytes that was granted: plain data, which the platform crate opens when it needs the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransportGrant {
    /// An export of an NBD server.
    Nbd {
        /// The server.
        address: NbdAddress,
        /// The export's name; empty for the server's default.
        export: String,
        /// The host may only read.
        read_only: bool,
    },
    /// A file or block device.
    File {
        /// Its path, with all symbolic links resolved.
        path: PathBuf,
        /// The host may only read.
        read_only: bool,
    },
}

/// Where an NBD server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NbdAddress {
    /// At a unix socket, by its path with symbolic links resolved as far as it existed.
    Unix(PathBuf),
    /// At a TCP port.
    Tcp(HostPort),
}

impl fmt::Display for NbdAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
            Self::Tcp(address) => write!(formatter, "tcp:{address}"),
        }
    }
}
