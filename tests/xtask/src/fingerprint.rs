//! Says whether anything that a build depends on has changed.
//!
//! A fingerprint is the SHA-256 of a list of labelled values and file contents. Contents, not times: a fresh clone, a
//! branch switched forth and back, and a restored CI cache all keep what was built. Every field is preceded by its
//! length, so that no two different lists run together into the same bytes.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

/// More files than this below one root means that the root is not a source folder.
const FILES_MAX: usize = 10_000;

/// Collects what a build depends on.
#[derive(Debug, Default)]
pub struct Fingerprint {
    hasher: Sha256,
    files: usize,
}

impl Fingerprint {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value, such as the compiler's version.
    pub fn value(&mut self, label: &str, value: &[u8]) {
        for field in [label.as_bytes(), value] {
            self.hasher.update((field.len() as u64).to_le_bytes());
            self.hasher.update(field);
        }
    }

    /// Adds a file, or every file below a folder in the order of their names. What does not exist counts as absent,
    /// which differs from empty. Folders named `target` and hidden files are left out: no build reads them.
    ///
    /// Fails if something cannot be read, or holds more than 10 000 files.
    pub fn tree(&mut self, label: &str, path: &Path) -> Result<()> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.value(label, b"absent");
                return Ok(());
            }
            Err(error) => return Err(error).with_context(|| format!("looking at {}", path.display())),
        };
        if metadata.is_file() {
            return self.file(label, path);
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(path).with_context(|| format!("listing {}", path.display()))? {
            names.push(entry.with_context(|| format!("listing {}", path.display()))?.file_name());
        }
        names.sort();
        self.value(label, b"folder");
        for name in names {
            let shown = name.to_string_lossy();
            if shown.starts_with('.') || shown == "target" {
                continue;
            }
            self.tree(&format!("{label}/{shown}"), &path.join(&name))?;
        }
        Ok(())
    }

    fn file(&mut self, label: &str, path: &Path) -> Result<()> {
        self.files += 1;
        if self.files > FILES_MAX {
            bail!("more than {FILES_MAX} files to compare; the last one was {}", path.display());
        }
        let content = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        self.value(label, b"file");
        self.value(label, &content);
        Ok(())
    }

    /// The fingerprint as 64 hexadecimal digits.
    pub fn finish(self) -> String {
        self.hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &Path) -> String {
        let mut fingerprint = Fingerprint::new();
        fingerprint.tree("crate", path).unwrap();
        fingerprint.finish()
    }

    #[test]
    fn follows_contents_names_and_absence_but_not_times_or_build_output() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("crate");
        assert_eq!(of(&root), of(&root));
        let absent = of(&root);
        fs::create_dir_all(root.join("src")).unwrap();
        let empty = of(&root);
        assert_ne!(absent, empty);

        fs::write(root.join("src/lib.rs"), "one").unwrap();
        let one = of(&root);
        assert_ne!(empty, one);
        fs::write(root.join("src/lib.rs"), "two").unwrap();
        assert_ne!(one, of(&root));
        fs::write(root.join("src/lib.rs"), "one").unwrap();
        assert_eq!(one, of(&root), "a rewritten file with the same content is the same");

        fs::create_dir_all(root.join("target/release")).unwrap();
        fs::write(root.join("target/release/lib.d"), "output").unwrap();
        fs::write(root.join("src/.lib.rs.swp"), "an editor's file").unwrap();
        assert_eq!(one, of(&root));

        fs::rename(root.join("src/lib.rs"), root.join("src/main.rs")).unwrap();
        assert_ne!(one, of(&root), "a renamed file is a change");
    }

    #[test]
    fn fields_do_not_run_together() {
        let of = |fields: &[(&str, &[u8])]| {
            let mut fingerprint = Fingerprint::new();
            fields.iter().for_each(|(label, value)| fingerprint.value(label, value));
            fingerprint.finish()
        };
        assert_ne!(of(&[("ab", b"c")]), of(&[("a", b"bc")]));
        assert_ne!(of(&[("a", b""), ("b", b"")]), of(&[("a", b"b")]));
        assert_eq!(of(&[("a", b"b")]).len(), 64);
    }
}
