//! Programs of the tests that come from PyPI: servers of S3 and EC2, and what the independent reader of vaults needs.
//! Each at fixed versions, in an environment of its own in the user's cache.
//!
//! Tests find an environment at its place below the cache, which no version changes; a note there says which versions are
//! complete.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::checkout::Checkout;
use crate::components::replace;
use crate::process;

/// An environment.
struct Tools {
    /// Its folder below the cache; the end-to-end tests know it too.
    folder: &'static str,
    /// What it is for.
    purpose: &'static str,
    /// Packages of PyPI with their versions.
    packages: &'static [&'static str],
}

const TOOLS: [Tools; 2] = [
    Tools {
        folder: "s3-server",
        purpose: "servers of S3 and EC2 for the tests",
        packages: &["moto[s3,server]==5.2.5"],
    },
    Tools {
        folder: "vault-reader",
        purpose: "what the independent reader of vaults is made of",
        packages: &["cryptography==50.0.2", "argon2-cffi==25.1.0", "blake3==1.0.11", "zstandard==0.25.0"],
    },
];

/// Installs what is not there.
pub fn ready(checkout: &Checkout) -> Result<()> {
    TOOLS.iter().try_for_each(|tools| install(checkout, tools))
}

fn install(checkout: &Checkout, tools: &Tools) -> Result<()> {
    let packages = tools.packages.join(" ");
    let folder = checkout.cache(tools.folder);
    let complete = folder.join("complete");
    if fs::read_to_string(&complete).is_ok_and(|found| found == packages) {
        return Ok(());
    }
    // What is there is another version, or what an interrupted installation left.
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    eprintln!("Installing {} ({packages} from PyPI).", tools.purpose);
    let python = folder.join("python");
    let mut command = Command::new("python3");
    process::run("making a Python environment", command.args(["-m", "venv"]).arg(&python))?;
    let mut command = Command::new(python.join("bin/pip"));
    command.args(["install", "--quiet", "--disable-pip-version-check"]).args(tools.packages);
    process::run(&format!("installing {} from PyPI", tools.purpose), &mut command)?;
    replace(&complete, packages.as_bytes())?;
    Ok(())
}
