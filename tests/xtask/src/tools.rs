//! Tools that Debian does not have, built from their sources at fixed versions, in the user's cache: rustic and kopia for the bench,
//! the S3 server MinIO for the long run.
//!
//! Each is optional: where one cannot be built, because there is no Go compiler or nothing can be downloaded, what wants it runs
//! without it, and its page says why. What went wrong in full is told on standard error; the page gets only the first
//! sentence, which names no folder. A folder is named by its version and complete once its note is written.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::checkout::Checkout;
use crate::components::replace;
use crate::process;

/// The version of the crate `rustic-rs`.
const RUSTIC: &str = "0.11.4";
/// The version of the Go module `github.com/kopia/kopia`.
const KOPIA: &str = "0.21.1";
const KOPIA_MODULE: &str = "github.com/kopia/kopia";
/// The version of the Go module `github.com/minio/minio`, which names a commit.
const MINIO: &str = "0.0.0-20260212201848-7aac2a2c5b7c";
const MINIO_MODULE: &str = "github.com/minio/minio";
/// What their `go.mod` ask for, as major and minor.
const GO_MIN: (u32, u32) = (1, 24);

/// A tool.
struct Tool {
    name: &'static str,
    version: &'static str,
    /// What building it the first time costs.
    costs: &'static str,
    /// Puts the program into the folder `bin` of a folder, which is there and empty.
    install: fn(&Checkout, &Path) -> Result<()>,
}

const PEERS: [Tool; 2] = [
    Tool { name: "rustic", version: RUSTIC, costs: "about 10 minutes on two cores", install: install_rustic },
    Tool { name: "kopia", version: KOPIA, costs: "about 4 minutes on two cores", install: install_kopia },
];

const SERVER: Tool =
    Tool { name: "minio", version: MINIO, costs: "about 8 minutes on two cores", install: install_minio };

/// The S3 server MinIO, built if it is not there yet; or why it is not.
///
/// # Errors
/// It cannot be built here.
pub fn minio(checkout: &Checkout) -> Result<PathBuf> {
    ready(checkout, &SERVER)
}

/// What the bench is told about its peers: where each is, or why it is not there. Builds what is not there yet.
pub fn peers(checkout: &Checkout) -> Vec<OsString> {
    PEERS.iter().flat_map(|peer| argument(peer, ready(checkout, peer))).collect()
}

fn argument(tool: &Tool, ready: Result<PathBuf>) -> [OsString; 2] {
    match ready {
        Ok(program) => [format!("--{}", tool.name).into(), program.into()],
        Err(error) => {
            eprintln!("The bench runs without {}: {error:#}", tool.name);
            ["--absent".into(), format!("{}: {error}", tool.name).into()]
        }
    }
}

fn ready(checkout: &Checkout, tool: &Tool) -> Result<PathBuf> {
    let folder = checkout.cache("tools").join(format!("{}-{}", tool.name, tool.version));
    let (program, complete) = (folder.join("bin").join(tool.name), folder.join("complete"));
    if complete.is_file() {
        return Ok(program);
    }
    eprintln!("Building {} {}; the first time that takes {}.", tool.name, tool.version, tool.costs);
    let prepare = || {
        // A folder without its note is what an interrupted build left.
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))
    };
    prepare().context("the cache cannot be written")?;
    (tool.install)(checkout, &folder)?;
    replace(&complete, b"").context("the cache cannot be written")?;
    Ok(program)
}

fn install_rustic(checkout: &Checkout, folder: &Path) -> Result<()> {
    let build = folder.join("build");
    let mut command = process::cargo(checkout);
    command.args(["install", "rustic-rs", "--version", RUSTIC, "--locked", "--no-default-features", "--root"]);
    command.arg(folder).arg("--target-dir").arg(&build).env_remove("CARGO_TARGET_DIR");
    // As in our own profile `release`. Its own takes several times as long to link.
    command.env("CARGO_PROFILE_RELEASE_LTO", "thin").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "4");
    process::run("building rustic", &mut command).context("cargo could not build it")?;
    fs::remove_dir_all(&build).context("what building it left could not be removed")
}

/// A module as `go mod download -json` tells of it.
#[derive(Deserialize)]
struct Module {
    #[serde(rename = "Dir")]
    folder: PathBuf,
}

fn install_kopia(_: &Checkout, folder: &Path) -> Result<()> {
    // Its web pages are a module of their own, and of no use here.
    let version = format!("-X {KOPIA_MODULE}/repo.BuildVersion={KOPIA}");
    build_module("kopia", KOPIA_MODULE, KOPIA, &["-tags", "nohtmlui", "-ldflags", &version], folder)
}

fn install_minio(_: &Checkout, folder: &Path) -> Result<()> {
    build_module("minio", MINIO_MODULE, MINIO, &[], folder)
}

/// Not `go install`, which also asks for the list of all versions, and not every mirror of modules has one. Built in its own
/// folder, the module is held to its own `go.sum`.
fn build_module(name: &str, module: &str, version: &str, arguments: &[&str], folder: &Path) -> Result<()> {
    let go = go()?;
    let named = format!("{module}@v{version}");
    let mut download = Command::new(&go);
    // What `go.mod` recommends beside the oldest that will do is not downloaded.
    download.args(["mod", "download", "-json", &named]).current_dir(folder).env("GOTOOLCHAIN", "local");
    let answer = process::answer(&mut download).with_context(|| format!("go could not download {named}"))?;
    let module: Module = serde_json::from_str(&answer).context("go did not say where it put the module")?;
    let mut build = Command::new(&go);
    build.arg("build").args(arguments).arg("-o").arg(folder.join("bin").join(name)).arg(".");
    build.current_dir(&module.folder).env("GOTOOLCHAIN", "local");
    process::run(&format!("building {name}"), &mut build).context("go could not build it")
}

/// A Go compiler that is new enough.
fn go() -> Result<PathBuf> {
    let (major, minor) = GO_MIN;
    let wanted = format!("building it takes Go {major}.{minor} or newer");
    let Some(go) = process::find_program("go") else { bail!("{wanted}, and there is none") };
    let found = process::answer(Command::new(&go).args(["env", "GOVERSION"])).unwrap_or_default();
    match go_version(&found) {
        Some(version) if version >= GO_MIN => Ok(go),
        _ => bail!("{wanted}, and there is only {}", found.trim()),
    }
}

/// Major and minor of `go1.26.8`.
fn go_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().strip_prefix("go")?.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(install: fn(&Checkout, &Path) -> Result<()>) -> Tool {
        Tool { name: "peer", version: "1", costs: "a moment", install }
    }

    #[test]
    fn go_says_its_version_in_several_ways() {
        assert_eq!(go_version("go1.26.8\n"), Some((1, 26)));
        assert_eq!(go_version("go1.24rc1"), Some((1, 24)));
        assert_eq!(go_version("devel"), None);
        assert!(go_version("go1.9").unwrap() < GO_MIN);
    }

    #[test]
    fn a_tool_is_built_once_and_one_that_cannot_be_had_is_a_reason_without_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let checkout = Checkout::at(folder.path().join("checkout"), folder.path().join("cache"));
        let refused = tool(|_, folder| {
            let failed: Result<()> = Err(anyhow::anyhow!("no such file: {}", folder.display()));
            failed.context("it could not be built")
        });
        let told = argument(&refused, ready(&checkout, &refused));
        assert_eq!(told, ["--absent", "peer: it could not be built"]);
        let built = tool(|_, folder| {
            fs::create_dir(folder.join("bin"))?;
            Ok(fs::write(folder.join("bin/peer"), "a program")?)
        });
        let program = folder.path().join("cache/tools/peer-1/bin/peer");
        let told = argument(&built, ready(&checkout, &built));
        assert_eq!(told, ["--peer".into(), program.clone().into_os_string()]);
        assert!(program.is_file());
        assert_eq!(ready(&checkout, &refused).unwrap(), program, "it is there already");
    }
}
