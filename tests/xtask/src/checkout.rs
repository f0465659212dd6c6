//! Where things are: the checkout, and the user's cache folder.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// A checkout of the project, and the folders that the commands write to.
#[derive(Debug, Clone)]
pub struct Checkout {
    root: PathBuf,
    cache: PathBuf,
}

impl Checkout {
    /// The checkout that `cargo xtask` was called in, with the cache of the user who runs it.
    ///
    /// Fails if the sources are gone, or if neither `XDG_CACHE_HOME` nor `HOME` is set.
    pub fn find() -> Result<Self> {
        // Of run time: two checkouts may share a target folder, and so a program that one of them built.
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .map(PathBuf::from)
            .context("this program is started by `cargo xtask`, which says where the checkout is")?;
        let root = package.ancestors().nth(2).context("the package has no checkout around it")?.to_path_buf();
        ensure!(
            root.join("wit/host/host.wit").is_file(),
            "{} is not a checkout of Farshore: it has no wit/host/host.wit",
            root.display()
        );
        Ok(Self::at(root, user_cache()?.join("farshore")))
    }

    /// A checkout at `root` that caches below `cache`.
    pub fn at(root: PathBuf, cache: PathBuf) -> Self {
        Self { root, cache }
    }

    /// The folder that holds the workspace's `Cargo.toml`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside the checkout.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Where finished components go. The daemon's build script reads them from here.
    pub fn components(&self) -> PathBuf {
        self.root.join("target/components")
    }

    /// Where these commands keep what they must remember about this checkout.
    pub fn notes(&self) -> PathBuf {
        self.root.join("target/xtask")
    }

    /// A folder of the user's cache that all checkouts share.
    pub fn cache(&self, name: &str) -> PathBuf {
        self.cache.join(name)
    }
}

/// The user's cache folder, by the XDG base directory specification: an empty or relative value counts as unset.
fn user_cache() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("XDG_CACHE_HOME").map(PathBuf::from)
        && folder.is_absolute()
    {
        return Ok(folder);
    }
    let home = env::var_os("HOME").filter(|home| !home.is_empty());
    Ok(PathBuf::from(home.context("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache"))
}
