//! The ways to a disk's bytes that a component may hand over.

use std::{fmt, path::PathBuf, sync::Arc};

use farshore_http::{Endpoint, Header};

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
    /// Blocks that are read and written by requests to an API.
    Blocks {
        /// The API.
        endpoint: Arc<Endpoint>,
        /// What the requests are made of.
        words: BlockWords,
    },
}

/// What the requests for a disk's blocks are made of: the component's words, checked for form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockWords {
    /// The disk's size in bytes. Its end may cut the last block, which is read and written whole.
    pub size_bytes: u64,
    /// A block's size in bytes: a power of two, from 4 KiB to 1 MiB.
    pub block_bytes: u32,
    /// How a block is read, if it is.
    pub read: Option<BlockRead>,
    /// How a block is written, if it is.
    pub write: Option<BlockWrite>,
    /// What of a refusal means a throttle.
    pub throttle_words: Vec<String>,
}

/// How a block is read: by `GET`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRead {
    /// Path and query, with `{index}` for the block's number and `{key}` for the key that its listing told.
    pub target: String,
    /// The header of the answer that holds the SHA-256 of the block as base64; in lower case.
    pub checksum_header: String,
}

/// How a block is written: by `PUT`, with the block as its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockWrite {
    /// Path and query, with `{index}` for the block's number.
    pub target: String,
    /// With `{length}` for the block's length and `{sha256}` for its SHA-256 as base64 in the values.
    pub headers: Vec<Header>,
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
