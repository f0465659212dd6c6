//! Reading a secret from the place that the configuration names, a file or an environment variable; and certificates.

use std::{
    fs::File,
    io::{Read as _, Take},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// The most bytes of a file that holds a secret: a cloud's key file has a few KiB.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// The most bytes of a file of certificates.
const CERTIFICATES_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A secret that cannot be had. No variant holds any of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("the file {path} cannot be read: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What is there is no secret.
    #[error("the file {path} {why}", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why, after the file's name.
        why: &'static str,
    },
    /// The variable is not set.
    #[error("the environment variable {name} is not set, is empty or is not UTF-8")]
    Variable {
        /// Its name.
        name: String,
    },
}

/// A secret from a file, and what the operator should hear about the file.
#[derive(Debug)]
pub struct SecretFile {
    /// What the file holds, without the line break at its end.
    pub secret: Zeroizing<String>,
    /// Others than its owner can read or change it.
    pub warning: Option<String>,
}

/// Reads a whole file as a secret.
///
/// # Errors
/// When it cannot be read, is empty, too large, or not UTF-8.
pub fn read_file(path: &Path) -> Result<SecretFile, SecretError> {
    let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
    let unusable = |why| SecretError::Unusable { path: path.to_owned(), why };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mut text = Zeroizing::new(String::new());
    let mut limited: Take<File> = file.take(SECRET_BYTES_MAX + 1);
    limited.read_to_string(&mut text).map_err(|source| match source.kind() {
        std::io::ErrorKind::InvalidData => unusable("is not UTF-8 text"),
        _ => unreadable(source),
    })?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(unusable("is larger than 64 KiB, which no secret is"));
    }
    while text.ends_with(['\n', '\r']) {
        text.pop();
    }
    if text.is_empty() {
        return Err(unusable("is empty"));
    }
    Ok(SecretFile { secret: text, warning: permission_warning(path, metadata.mode()) })
}

/// What the operator should hear about the permissions of a file that holds a secret.
pub fn permission_warning(path: &Path, mode: u32) -> Option<String> {
    (mode & 0o077 != 0).then(|| {
        let shown = path.display();
        format!("others can read or change {shown} (mode {:04o}): run `chmod 600 {shown}`", mode & 0o7777)
    })
}

/// Reads a secret from an environment variable.
///
/// # Errors
/// When it is not there.
pub fn read_variable(name: &str) -> Result<Zeroizing<String>, SecretError> {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => Ok(Zeroizing::new(value)),
        _ => Err(SecretError::Variable { name: name.to_owned() }),
    }
}

/// Reads a PEM file of certificates. It holds no secret.
///
/// # Errors
/// When it cannot be read, or is larger than a list of authorities can be.
pub fn read_certificates(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(CERTIFICATES_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > CERTIFICATES_BYTES_MAX {
        return Err(std::io::Error::other("the file is larger than 4 MiB, which no list of authorities is"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_loses_only_its_line_break() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        std::fs::write(&path, " two words \r\n").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("changed");
        let file = read_file(&path).expect("readable");
        assert_eq!(file.secret.as_str(), " two words ");
        assert!(file.warning.expect("a warning").contains("mode 0640"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("changed");
        assert_eq!(read_file(&path).expect("readable").warning, None);
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        assert!(matches!(read_file(&path), Err(SecretError::Unreadable { .. })));
        for content in [b"".as_slice(), b"\n", b"\xff\xfe", &[b'x'; 70_000]] {
            std::fs::write(&path, content).expect("written");
            assert!(matches!(read_file(&path), Err(SecretError::Unusable { .. })), "{} bytes", content.len());
        }
        assert!(matches!(read_variable("FARSHORE_NO_SUCH_VARIABLE"), Err(SecretError::Variable { .. })));
    }
}
