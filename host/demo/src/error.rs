//! What can go wrong with the guest and the story, and what to do then.

use std::{io, path::PathBuf, process::ExitStatus};

use farshore_core::{Code, Coded};

/// How the demonstration, or a guest of the tests, fails.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Programs that the guest needs are not installed.
    #[error("the demonstration needs programs that are not installed: {}", .programs.join(", "))]
    MissingPrograms {
        /// The programs.
        programs: Vec<&'static str>,
        /// The Debian packages that have them, sorted, each once.
        packages: Vec<&'static str>,
    },
    /// A program ended with an error.
    #[error("`{command}` failed ({status}): {}", .errors.trim())]
    Program {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its standard error.
        errors: String,
    },
    /// The package lists do not have what the guest is made of.
    #[error("the package lists of this machine do not offer {package}")]
    NoPackage {
        /// The package.
        package: String,
    },
    /// A file or folder could not be used.
    #[error("cannot {doing} {}: {source}", .path.display())]
    File {
        /// What was tried, as a verb: `write`.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A socket's path is longer than the system takes.
    #[error("{} is too long for a socket: {length_bytes} of at most {length_bytes_max} bytes", .path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length_bytes: usize,
        /// The longest that works.
        length_bytes_max: usize,
    },
    /// Something did not happen in time.
    #[error("waited {waited_seconds:.0} s for {awaited}; the last that was seen: {seen:?}")]
    TooLate {
        /// What was waited for.
        awaited: String,
        /// For how long.
        waited_seconds: f64,
        /// The end of what was seen instead.
        seen: String,
    },
    /// The guest's QEMU ended by itself.
    #[error("QEMU ended while it was needed ({status}): {}", .errors.trim())]
    GuestEnded {
        /// How it ended.
        status: String,
        /// The end of what it said.
        errors: String,
    },
    /// QEMU or the guest agent refused a command or answered nonsense.
    #[error("{peer} did not accept {command}: {answer}")]
    Refused {
        /// Who was asked: `QEMU` or `the guest agent`.
        peer: &'static str,
        /// The command.
        command: String,
        /// What it answered.
        answer: String,
    },
    /// `farshore` itself ended with an error.
    #[error("`{command}` failed ({status}): {message}")]
    Farshore {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        message: String,
    },
    /// `farshore` said something that the story does not understand.
    #[error("`{command}` answered without {missing}: {answer}")]
    Answer {
        /// The command line.
        command: String,
        /// What the answer should have had.
        missing: &'static str,
        /// The beginning of the answer.
        answer: String,
    },
    /// The recovered machine does not hold what it must hold.
    #[error("the recovered machine is not as it must be: {found}")]
    NotAsPromised {
        /// What was found.
        found: String,
    },
    /// The operator asked to stop.
    #[error("stopped as asked")]
    Interrupted,
}

impl Coded for DemoError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::MissingPrograms { .. } => 6901,
            Self::Program { .. } => 6902,
            Self::NoPackage { .. } => 6903,
            Self::File { .. } => 6904,
            Self::PathTooLong { .. } => 6905,
            Self::TooLate { .. } => 6906,
            Self::GuestEnded { .. } => 6907,
            Self::Refused { .. } => 6908,
            Self::Farshore { .. } | Self::Answer { .. } => 6909,
            Self::NotAsPromised { .. } => 6910,
            Self::Interrupted => 6911,
        })
    }

    fn advice(&self) -> Option<String> {
        match self {
            Self::MissingPrograms { packages, .. } => {
                Some(format!("install them: apt-get install --no-install-recommends {}", packages.join(" ")))
            }
            Self::NoPackage { .. } => Some("refresh the lists: apt-get update".to_owned()),
            Self::PathTooLong { .. } => Some("choose a folder with a shorter path".to_owned()),
            _ => None,
        }
    }
}

/// Attaches what was tried, and on which file, to an error of the system.
pub(crate) trait AtPath<T> {
    /// The same result, with an error that names `path`.
    fn at(self, doing: &'static str, path: impl Into<PathBuf>) -> Result<T, DemoError>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, doing: &'static str, path: impl Into<PathBuf>) -> Result<T, DemoError> {
        self.map_err(|source| DemoError::File { doing, path: path.into(), source })
    }
}

farshore_core::code_pages! {
    /// The error codes of this crate.
    6901 "Programs for the demonstration are missing",
    6902 "A program of the demonstration failed",
    6903 "A package for the guest is not on offer",
    6904 "A file of the demonstration cannot be used",
    6905 "A path is too long for a socket",
    6906 "The demonstration waited too long",
    6907 "The demonstration's guest ended by itself",
    6908 "QEMU or the guest agent refused a command",
    6909 "A farshore command failed inside the demonstration",
    6910 "The recovered guest is not as it must be",
    6911 "The demonstration was stopped",
}
