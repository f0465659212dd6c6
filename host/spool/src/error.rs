//! How the spool fails. Whatever it is, every point of the vault is where it was.

use std::{io, path::PathBuf};

use farshore_core::{Code, Coded};
use farshore_vault::Error as VaultError;

/// Why a point cannot wait, or what waits cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The file system refused.
    #[error("the spool's {} could not be {doing}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was being done to it.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It has as many bytes as it may have.
    #[error("the spool is full: it holds {used_bytes} bytes and may hold {limit_bytes}")]
    Full {
        /// Bytes in it, of all groups.
        used_bytes: u64,
        /// Bytes that it may have.
        limit_bytes: u64,
    },
    /// What is left of its file system is not for it.
    #[error("the spool is full: the file system of {} has {free_bytes} bytes left", folder.display())]
    NoSpace {
        /// The spool's folder.
        folder: PathBuf,
        /// Bytes that are left.
        free_bytes: u64,
    },
    /// Something cannot be sealed.
    #[error("what should wait in the spool cannot be sealed")]
    Seal {
        /// Why.
        source: VaultError,
    },
    /// Another version of Farshore wrote a file.
    #[error("{} was written by another version of Farshore: {problem}", path.display())]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// What is not known of it.
        problem: String,
    },
    /// A file is not what was written.
    #[error("{} is damaged: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl Coded for SpoolError {
    fn code(&self) -> Code {
        match self {
            Self::File { .. } | Self::Seal { .. } => Code::new(6400),
            Self::Full { .. } | Self::NoSpace { .. } => Code::new(6401),
            Self::Damaged { .. } => Code::new(6402),
            Self::OtherVersion { .. } => Code::new(6403),
        }
    }
}
