//! The S3 server of the tests: moto, from PyPI at a fixed version, in an environment of its own in the user's cache.
//!
//! Tests find it at its place below the cache, which no version changes; a note there says which version is complete.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::checkout::Checkout;
use crate::components::replace;
use crate::process;

const MOTO: &str = "moto[s3,server]==5.2.5";
/// Below the cache; the end-to-end tests know it too.
const FOLDER: &str = "s3-server";

/// Installs the server unless it is there.
pub fn ready(checkout: &Checkout) -> Result<()> {
    let folder = checkout.cache(FOLDER);
    let complete = folder.join("complete");
    if fs::read_to_string(&complete).is_ok_and(|version| version == MOTO) {
        return Ok(());
    }
    // What is there is another version, or what an interrupted installation left.
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    eprintln!("Installing an S3 server for the tests ({MOTO} from PyPI).");
    let python = folder.join("python");
    let mut command = Command::new("python3");
    process::run("making a Python environment", command.args(["-m", "venv"]).arg(&python))?;
    let mut command = Command::new(python.join("bin/pip"));
    command.args(["install", "--quiet", "--disable-pip-version-check", MOTO]);
    process::run("installing moto from PyPI", &mut command)?;
    replace(&complete, MOTO.as_bytes())?;
    Ok(())
}
