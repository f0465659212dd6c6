//! Which compiler builds components.
//!
//! In order of preference: the compiler that is already in use, if it has the target `wasm32-unknown-unknown`; the same
//! after `rustup target add`, which gets 30 s; Debian's own compiler with its library sources, which builds the standard
//! library along. A machine that cannot reach rustup's server should not wait for it every time, so that a failure is
//! remembered for a day, as long as the compiler stays the same.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::checkout::Checkout;
use crate::clock;
use crate::debian::{self, Package, Stop};
use crate::process;

/// The target of every component.
pub const TARGET: &str = "wasm32-unknown-unknown";

const RUSTUP_LIMIT: Duration = Duration::from_secs(30);
const RUSTUP_RETRY_AFTER_SECONDS: u64 = 24 * 60 * 60;

/// Which compiler the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// The first that works.
    Auto,
    /// The one in use, and an error if it cannot.
    Active,
    /// Debian's.
    Debian,
}

/// A compiler that can build for [`TARGET`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compiler {
    /// The cargo that runs this program. The text is what `rustc -vV` says.
    Active(String),
    /// Debian's in `/usr/bin`, with `-Zbuild-std`. The text is what `/usr/bin/rustc -vV` says.
    Debian(String),
}

/// A failed `rustup target add`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Attempt {
    /// What `rustc -vV` said.
    compiler: String,
    failed_at_unix_seconds: u64,
}

impl Compiler {
    /// Finds a compiler, and installs one if there is none.
    pub fn find(checkout: &Checkout, choice: Choice, allow_costs: bool) -> Result<Self> {
        let version = process::answer(Command::new("rustc").arg("-vV")).context("rustc -vV failed")?;
        if choice != Choice::Debian && (has_target() || add_target(checkout, &version)?) {
            return Ok(Self::Active(version));
        }
        if choice == Choice::Active {
            let hint = format!("rustup target add {TARGET}");
            return Err(Stop::Missing { what: format!("the target {TARGET} of the compiler in use"), hint }.into());
        }
        debian::ensure(&debian_compiler(), "Building components with Debian's compiler", allow_costs)?;
        let version =
            process::answer(Command::new("/usr/bin/rustc").arg("-vV")).context("/usr/bin/rustc -vV failed")?;
        Ok(Self::Debian(version))
    }

    /// What tells two compilers apart.
    pub fn identity(&self) -> String {
        match self {
            Self::Active(version) => format!("active\n{version}"),
            Self::Debian(version) => format!("debian\n{version}"),
        }
    }

    /// A sentence for the operator.
    pub fn words(&self) -> String {
        let (who, version) = match self {
            Self::Active(version) => ("the compiler in use", version),
            Self::Debian(version) => ("Debian's compiler, which builds the standard library along", version),
        };
        format!("{who} ({})", version.lines().next().unwrap_or_default())
    }

    /// `cargo build` for the package in `folder`, in release and for [`TARGET`], with its messages as JSON on standard
    /// output. The machine's own paths are kept out of the result, so that two machines make the same bytes.
    pub fn build(&self, checkout: &Checkout, folder: &Path) -> Command {
        let (mut command, target_folder) = match self {
            Self::Active(_) => (process::cargo(checkout), "active"),
            Self::Debian(_) => (debian_cargo(), "debian"),
        };
        command.args(["build", "--release", "--target", TARGET, "--message-format=json-render-diagnostics"]);
        if matches!(self, Self::Debian(_)) {
            command.arg("-Zbuild-std=std,panic_abort");
        }
        command.current_dir(folder);
        command.env("CARGO_TARGET_DIR", checkout.cache("components").join(target_folder));
        command.env("CARGO_ENCODED_RUSTFLAGS", flags(checkout).join("\u{1f}"));
        command
    }
}

fn flags(checkout: &Checkout) -> Vec<String> {
    let mut flags = vec![format!("--remap-path-prefix={}=farshore", checkout.root().display())];
    if let Some(home) = cargo_home() {
        flags.push(format!("--remap-path-prefix={}=cargo", home.display()));
    }
    flags
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
}

/// Debian's cargo, shielded from the rustup toolchain that runs this program: its variables, its proxies at the front of
/// `PATH`, and its libraries, which have the same names.
fn debian_cargo() -> Command {
    let mut command = Command::new("/usr/bin/cargo");
    process::forget_own_package(&mut command);
    for name in ["CARGO", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        command.env_remove(name);
    }
    let mut path = std::ffi::OsString::from("/usr/bin:");
    path.push(env::var_os("PATH").unwrap_or_default());
    // Building the standard library is a feature of nightly compilers; the variable opens it on Debian's stable one.
    command.env("PATH", path).env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
    command
}

/// Debian's compiler that is new enough, and the linker of the LLVM that it was built with.
fn debian_compiler() -> Vec<Package> {
    let package = |name: &str, brings, purpose| Package { name: name.to_owned(), brings, purpose };
    let mut packages = vec![
        package("rustc-web", "/usr/bin/rustc", "the compiler"),
        package("cargo-web", "/usr/bin/cargo", "what drives the compiler"),
        package("rust-web-src", "/usr/lib/rustlib/src/rust/library", "the standard library's sources"),
        package("rust-web-llvm", "/usr/bin/rust-lld", "the compiler's linker for WebAssembly"),
    ];
    let depends = process::answer(Command::new("apt-cache").args(["depends", "rust-web-llvm"]));
    if let Some(version) = depends.as_deref().and_then(llvm_version) {
        packages.push(package(&format!("lld-{version}"), "/usr/bin/rust-lld", "the linker itself"));
    }
    packages
}

/// The `22` of the dependency `llvm-22`.
fn llvm_version(depends: &str) -> Option<u32> {
    depends.lines().find_map(|line| line.trim().strip_prefix("Depends: llvm-")?.parse().ok())
}

fn has_target() -> bool {
    let Some(sysroot) = process::answer(Command::new("rustc").args(["--print", "sysroot"])) else { return false };
    let libraries = Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib");
    fs::read_dir(libraries)
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-")))
}

fn add_target(checkout: &Checkout, version: &str) -> Result<bool> {
    if process::find_program("rustup").is_none() {
        return Ok(false);
    }
    let note = checkout.cache("rustup-target-add-failed.json");
    if is_recent(fs::read_to_string(&note).ok().as_deref(), version, clock::unix_seconds()) {
        return Ok(false);
    }
    eprintln!(
        "Adding the target {TARGET} to the compiler in use, by rustup (a few seconds; at most {} s).",
        RUSTUP_LIMIT.as_secs()
    );
    let status = process::run_limited(Command::new("rustup").args(["target", "add", TARGET]), RUSTUP_LIMIT)?;
    if status.is_some_and(|status| status.success()) && has_target() {
        return Ok(true);
    }
    eprintln!("rustup could not add it; not trying again for a day.");
    let attempt = Attempt { compiler: version.to_owned(), failed_at_unix_seconds: clock::unix_seconds() };
    if let Some(folder) = note.parent() {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    fs::write(&note, serde_json::to_vec(&attempt)?).with_context(|| format!("writing {}", note.display()))?;
    Ok(false)
}

/// Whether the note tells of a failure of this compiler less than a day ago. A note that cannot be read tells nothing,
/// and neither does one from the future.
fn is_recent(note: Option<&str>, version: &str, now_unix_seconds: u64) -> bool {
    let Some(attempt) = note.and_then(|note| serde_json::from_str::<Attempt>(note).ok()) else { return false };
    let age = now_unix_seconds.checked_sub(attempt.failed_at_unix_seconds);
    attempt.compiler == version && age.is_some_and(|age| age < RUSTUP_RETRY_AFTER_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_rustup_is_remembered_for_a_day_and_for_one_compiler() {
        let note = serde_json::to_string(&Attempt { compiler: "1.95".into(), failed_at_unix_seconds: 1_000 }).unwrap();
        assert!(is_recent(Some(&note), "1.95", 1_000));
        assert!(is_recent(Some(&note), "1.95", 1_000 + 86_399));
        assert!(!is_recent(Some(&note), "1.95", 1_000 + 86_400));
        assert!(!is_recent(Some(&note), "1.96", 1_000));
        assert!(!is_recent(Some(&note), "1.95", 999), "a note from the future");
        assert!(!is_recent(Some("{"), "1.95", 1_000));
        assert!(!is_recent(None, "1.95", 1_000));
    }

    #[test]
    fn the_linker_is_that_of_the_compilers_llvm() {
        let depends =
            "rust-web-llvm\n  Depends: libc6\n  Depends: libgcc-s1\n  Depends: llvm-22\n  Conflicts: <rust-llvm>\n";
        assert_eq!(llvm_version(depends), Some(22));
        assert_eq!(llvm_version("rust-web-llvm\n  Depends: libc6\n"), None);
    }
}
