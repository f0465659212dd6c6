//! How the state file fails. Whatever it is, every recovery point is where it was.

use std::{io, path::PathBuf};

use farshore_core::{Code, Coded};

/// Why something was not remembered, or cannot be said.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system refused.
    #[error("the state file {} could not be {doing}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was being done to it.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The database refused.
    #[error("the state file {} could not be {doing}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What was being done to it.
        doing: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// It is a sound database that Farshore has not made.
    #[error("the state file {} is the database of another program", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A newer version made it.
    #[error("the state file {} has version {found}, and this version of Farshore knows {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version of its tables.
        found: u32,
        /// The newest version that is known.
        known: u32,
    },
}

impl Coded for StateError {
    fn code(&self) -> Code {
        match self {
            Self::File { .. } | Self::Database { .. } | Self::Foreign { .. } => Code::new(6200),
            Self::Newer { .. } => Code::new(6201),
        }
    }
}
