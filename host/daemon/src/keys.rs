//! The files that hold keys: the recovery kit, join files, this host's credentials.
//!
//! A credential lies in the state folder as `credentials/<vault>.toml`, so that a host can have joined several vaults, and a
//! vault that moves to another address keeps its credential. Each file is made for its owner alone, and none is overwritten.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use farshore_core::VaultId;
use farshore_vault::{HostCredential, Kit};
use zeroize::Zeroizing;

use crate::{
    config::{
        Configuration,
        secret::{self, SecretError},
    },
    context::Context,
    error::CliError,
    output::{Failure, Output},
};

/// Where the recovery kit is: what the command line says, or the configuration.
pub fn kit_file(context: &Context, configuration: &Configuration) -> Option<PathBuf> {
    let configured = || configuration.vault.kit_file.as_ref().map(|file| configuration.path(file));
    context.kit_file.clone().or_else(configured)
}

/// Reads a file with keys.
///
/// # Errors
/// When it cannot be read.
pub fn read(output: Output, what: &str, file: &Path) -> Result<Zeroizing<String>, CliError> {
    let refused = |source| CliError::Secret { what: what.to_owned(), source };
    let read = secret::read_file(file).map_err(refused)?;
    read.warning.iter().for_each(|warning| output.warn(warning));
    Ok(read.secret)
}

/// Reads a recovery kit.
///
/// # Errors
/// When it cannot be read, or is none.
pub fn read_kit(output: Output, file: &Path) -> Result<Kit, Failure> {
    Ok(Kit::parse(&read(output, "the recovery kit", file)?)?)
}

/// Writes a new file that only its owner can read. It is durable when this returns.
///
/// # Errors
/// When it is there already, or cannot be written.
pub fn write(file: &Path, text: &str) -> Result<(), CliError> {
    let failed = |source: std::io::Error| match source.kind() {
        ErrorKind::AlreadyExists => CliError::OutputExists { path: file.to_owned() },
        _ => CliError::OutputFailed { path: file.to_owned(), source },
    };
    let mut opened = File::options().write(true).create_new(true).mode(0o600).open(file).map_err(failed)?;
    let written = opened.write_all(text.as_bytes()).and_then(|()| opened.sync_all());
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let synced = written.and_then(|()| File::open(folder)).and_then(|folder| folder.sync_all());
    synced.map_err(|source| {
        // Half a key is worth nothing, and would be in the way of the next try.
        let _ = fs::remove_file(file);
        failed(source)
    })
}

/// Where this host's credential for a vault is, or would be.
pub fn credential_file(configuration: &Configuration, vault: VaultId) -> PathBuf {
    configuration.path(&configuration.host.state_folder).join("credentials").join(format!("{vault}.toml"))
}

/// This host's credential for a vault; none if it has not joined.
///
/// # Errors
/// When it cannot be read, or is none.
pub fn credential(
    context: &Context,
    configuration: &Configuration,
    vault: VaultId,
) -> Result<Option<HostCredential>, Failure> {
    match read(context.output, "this host's credential", &credential_file(configuration, vault)) {
        Ok(text) => Ok(Some(HostCredential::parse(&text)?)),
        Err(CliError::Secret { source: SecretError::Unreadable { source, .. }, .. })
            if source.kind() == ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Keeps this host's credential; where it is.
///
/// # Errors
/// When the folder cannot be made, or the file cannot be written.
pub fn keep_credential(configuration: &Configuration, credential: &HostCredential) -> Result<PathBuf, CliError> {
    let file = credential_file(configuration, credential.vault());
    if let Some(folder) = file.parent() {
        let refused = |source| CliError::Folder { what: "folder of credentials", path: folder.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(refused)?;
    }
    write(&file, &credential.to_text())?;
    Ok(file)
}
