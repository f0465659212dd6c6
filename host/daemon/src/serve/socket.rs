//! The daemon's socket and its lock: one daemon has a state folder, and only its own user may speak to it.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

use crate::error::CliError;

/// The claim of a daemon to its state folder, as long as it lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes it.
    ///
    /// # Errors
    /// [`CliError::DaemonRuns`] if another daemon has it.
    pub fn take(folder: &Path) -> Result<Self, CliError> {
        let path = folder.join("daemon.lock");
        let failed = |source| CliError::Folder { what: "state folder", path: folder.to_owned(), source };
        let mut file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(CliError::DaemonRuns { path }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // For people who wonder which process it is.
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// A socket that goes with its daemon.
pub struct Socket {
    /// Where it is.
    pub path: PathBuf,
    /// What listens.
    pub listener: Option<UnixListener>,
}

impl Socket {
    /// Listens there. What an earlier daemon left is replaced; the lock says that none is alive.
    ///
    /// # Errors
    /// When nobody can listen there.
    pub fn listen(path: PathBuf) -> Result<Self, CliError> {
        let listen = || {
            let folder = path.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(folder)?;
            if let Ok(metadata) = fs::symlink_metadata(&path)
                && !is_socket(&metadata)
            {
                return Err(io::Error::other("something that is no socket stands there"));
            }
            // Nobody else may speak to it, not for the moment before its mode is set either: until then it has another name.
            let young = folder.join(format!(".{}.sock", std::process::id()));
            let _ = fs::remove_file(&young);
            let listener = UnixListener::bind(&young)?;
            fs::set_permissions(&young, fs::Permissions::from_mode(0o600))?;
            fs::rename(&young, &path)?;
            Ok(listener)
        };
        match listen() {
            Ok(listener) => Ok(Self { path, listener: Some(listener) }),
            Err(source) => Err(CliError::Folder { what: "socket", path, source }),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn is_socket(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    metadata.file_type().is_socket()
}
