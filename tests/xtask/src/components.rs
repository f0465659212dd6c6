//! Builds the components that are written in Rust.
//!
//! Each crate of the table becomes one file, `target/components/NAME.wasm` in the checkout, where the daemon's build
//! script and the tests find it: the core module that the compiler made, turned into a component and validated, followed
//! by a custom section `farshore-manifest` with the bytes of the crate's `manifest.toml`. The file is replaced as a
//! whole, and only when its bytes change: its modification time makes cargo build the daemon again.
//!
//! A build is skipped when nothing that it reads has changed (see [`crate::fingerprint`]). The note about that is written
//! after the component, so that a crash in between only costs a build.

use std::borrow::Cow;
use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use wasm_encoder::{CustomSection, Section as _};
use wit_component::{ComponentEncoder, DecodedWasm};

use crate::checkout::Checkout;
use crate::clock::{Stopwatch, words};
use crate::fingerprint::Fingerprint;
use crate::process;
use crate::wasm::{Choice, Compiler};

/// The name of the custom section that holds the manifest, as the host looks for it.
pub const MANIFEST_SECTION: &str = "farshore-manifest";

/// Raise this when the same inputs give another component because this module changed.
const RECIPE: &[u8] = b"1";

/// A crate that becomes a component.
#[derive(Debug, Clone, Copy)]
pub struct Component {
    /// What the file is called, without its extension.
    pub name: &'static str,
    /// The crate's folder in the checkout. It has a `manifest.toml` beside its `Cargo.toml`.
    pub folder: &'static str,
}

/// Every component in Rust that the project builds. An owner adds a line here together with the crate.
pub const COMPONENTS: &[Component] = &[
    Component { name: "aws", folder: "plugins/aws" },
    Component { name: "qemu", folder: "plugins/qemu" },
    Component { name: "echo-rust", folder: "tests/components/echo/rust" },
    Component { name: "hostile", folder: "tests/components/hostile" },
];

/// What all of them may read besides their own folder.
const SHARED_INPUTS: &[&str] = &[
    "wit",
    "sdk/rust",
    "plugins/Cargo.toml",
    "plugins/Cargo.lock",
    "tests/components/Cargo.toml",
    "tests/components/Cargo.lock",
    "tests/components/echo/wit",
];

/// What happened to one component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Its file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// Whether the file has other bytes than before.
    pub changed: bool,
}

/// Builds the named components, or all when there is no name.
pub fn build(checkout: &Checkout, names: &[String], choice: Choice, allow_costs: bool) -> Result<Vec<Built>> {
    let wanted = select(COMPONENTS, names)?;
    let compiler = Compiler::find(checkout, choice, allow_costs)?;
    let mut built = Vec::new();
    let mut announced = false;
    for component in wanted {
        let stopwatch = Stopwatch::start();
        let result = build_one(checkout, component, &compiler, || {
            if !announced {
                eprintln!("Building components with {}; the first time takes a minute or two.", compiler.words());
                announced = true;
            }
            eprintln!("Building the component {}.", component.name);
        });
        let result = result.with_context(|| format!("building the component {}", component.name))?;
        if result.changed {
            eprintln!("The component {} took {}.", component.name, words(stopwatch.elapsed()));
        }
        built.push(result);
    }
    Ok(built)
}

fn select(table: &[Component], names: &[String]) -> Result<Vec<Component>> {
    if names.is_empty() {
        return Ok(table.to_vec());
    }
    names
        .iter()
        .map(|name| {
            let known = || table.iter().map(|component| component.name).collect::<Vec<_>>().join(", ");
            let found = table.iter().find(|component| component.name == name).copied();
            found.with_context(|| format!("there is no component {name}; there are: {}", known()))
        })
        .collect()
}

fn build_one(checkout: &Checkout, component: Component, compiler: &Compiler, announce: impl FnOnce()) -> Result<Built> {
    let folder = checkout.path(component.folder);
    let path = checkout.components().join(format!("{}.wasm", component.name));
    let note_path = checkout.notes().join(format!("{}.note", component.name));
    // Taken before the build, so that an edit during the build is seen as one by the next call.
    let inputs = inputs(checkout, component, compiler)?;
    if let Ok(present) = fs::read(&path)
        && fs::read_to_string(&note_path).is_ok_and(|text| text == note(&inputs, &present))
    {
        return Ok(Built { path, bytes: present.len() as u64, changed: false });
    }
    announce();
    let manifest_path = folder.join("manifest.toml");
    let manifest = fs::read(&manifest_path).with_context(|| format!("reading {}", manifest_path.display()))?;
    let module_path = compile(checkout, &folder, compiler)?;
    let module = fs::read(&module_path).with_context(|| format!("reading {}", module_path.display()))?;
    let bytes = assemble(&module, &manifest)?;
    let changed = replace(&path, &bytes)?;
    replace(&note_path, note(&inputs, &bytes).as_bytes())?;
    Ok(Built { path, bytes: bytes.len() as u64, changed })
}

fn inputs(checkout: &Checkout, component: Component, compiler: &Compiler) -> Result<String> {
    let mut fingerprint = Fingerprint::new();
    fingerprint.value("recipe", RECIPE);
    fingerprint.value("compiler", compiler.identity().as_bytes());
    fingerprint.tree(component.folder, &checkout.path(component.folder))?;
    for input in SHARED_INPUTS {
        fingerprint.tree(input, &checkout.path(input))?;
    }
    Ok(fingerprint.finish())
}

/// Ties a component's bytes to what it was made of.
fn note(inputs: &str, component: &[u8]) -> String {
    let digest: String = Sha256::digest(component).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("inputs {inputs}\ncomponent {digest}\n")
}

/// Lines of cargo's `--message-format=json` that matter here.
#[derive(Debug, Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

/// Compiles the crate and says where its core module is.
fn compile(checkout: &Checkout, folder: &Path, compiler: &Compiler) -> Result<PathBuf> {
    let mut command = compiler.build(checkout, folder);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {}", process::shown(&command)))?;
    process::succeeded("compiling", &command, output.status)?;
    find_module(&String::from_utf8_lossy(&output.stdout), &folder.join("Cargo.toml"))
}

/// The one `.wasm` file that cargo reports for the package with this manifest.
fn find_module(messages: &str, manifest: &Path) -> Result<PathBuf> {
    let mut modules: Vec<PathBuf> = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| message.reason == "compiler-artifact" && message.manifest_path == manifest)
        .flat_map(|message| message.filenames)
        .filter(|file| file.extension().is_some_and(|extension| extension == "wasm"))
        .collect();
    ensure!(modules.len() <= 1, "{} makes several modules: {modules:?}", manifest.display());
    modules.pop().with_context(|| {
        format!("{} makes no WebAssembly module; it needs crate-type = [\"cdylib\"]", manifest.display())
    })
}

/// Makes a validated component of a core module, with the manifest as a custom section at its end.
fn assemble(module: &[u8], manifest: &[u8]) -> Result<Vec<u8>> {
    let mut component = ComponentEncoder::default()
        .validate(true)
        .module(module)
        .context("the module's WIT cannot be read")?
        .encode()
        .context("the module does not make a valid component")?;
    // A crate that forgot its `export!` compiles to a valid component that does nothing.
    let DecodedWasm::Component(resolve, world) = wit_component::decode(&component)? else {
        bail!("the module does not make a component");
    };
    let exports = resolve.worlds.get(world).map_or(0, |world| world.exports.len());
    ensure!(exports > 0, "the component exports nothing; does the crate call `export!`?");
    attach_manifest(&mut component, manifest)?;
    wasmparser::Validator::new().validate_all(&component).context("the component with its manifest is not valid")?;
    Ok(component)
}

/// Appends the manifest to a component, in whatever language that was written. The host reads one and only one section.
pub fn attach_manifest(component: &mut Vec<u8>, manifest: &[u8]) -> Result<()> {
    if let Err(error) = std::str::from_utf8(manifest) {
        bail!("the manifest is not UTF-8: {error}");
    }
    let section = CustomSection { name: Cow::Borrowed(MANIFEST_SECTION), data: Cow::Borrowed(manifest) };
    section.append_to(component);
    Ok(())
}

/// Writes a file as a whole, unless it has these bytes already. Says whether it wrote.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<bool> {
    if fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(false);
    }
    let folder = path.parent().context("a file has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    // Two commands may run at once; each has a half-written file of its own, and it is gone if this one fails.
    let write = || -> io::Result<()> {
        let mut half_written =
            tempfile::Builder::new().permissions(Permissions::from_mode(0o644)).tempfile_in(folder)?;
        half_written.write_all(bytes)?;
        half_written.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("writing {}", path.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests;
