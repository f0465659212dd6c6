//! The program of the tests that comes from npm: an Azure blob server, at a fixed version, with the Node.js of the
//! JavaScript components, in the user's cache.
//!
//! The test finds `node` and `node_modules` at a place below the cache that no version changes; a note there says which
//! versions are complete.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Context as _, Result};

use crate::checkout::Checkout;
use crate::components::replace;
use crate::echo::{NODE, Toolchain};

/// Where it is below the cache; the end-to-end test knows it too.
const FOLDER: &str = "azure-server";

/// The server, as a package of npm.
const AZURITE: &str = "azurite@3.37.0";

/// Installs what is not there.
pub fn ready(checkout: &Checkout) -> Result<()> {
    let toolchain = Toolchain::ready(checkout)?;
    let node = toolchain.node_folder()?.join("bin/node");
    let versions = format!("{AZURITE} node@{NODE} {}", node.display());
    let folder = checkout.cache(FOLDER);
    let complete = folder.join("complete");
    if fs::read_to_string(&complete).is_ok_and(|found| found == versions) {
        return Ok(());
    }
    // What is there is another version, or what an interrupted installation left.
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    eprintln!("Installing an Azure blob server for the tests ({AZURITE} from npm).");
    toolchain.npm_install(&folder, AZURITE)?;
    symlink(&node, folder.join("node")).with_context(|| format!("linking {}", node.display()))?;
    replace(&complete, versions.as_bytes())?;
    Ok(())
}
