//! Loading components.

use std::{fmt, path::PathBuf, sync::Arc};

use farshore_core::{Clock, Code, Coded, Entropy};
use tokio::sync::Semaphore;
use wasmtime::component::{InstancePre, Linker};

use crate::{
    EngineError, Limits, Manifest, ManifestError,
    cache::Cache,
    engine::Running,
    imports::LogBudget,
    limits::{CALLS_AT_ONCE_MAX, CALLS_OF_COMPONENT_AT_ONCE_MAX, COMPONENT_BYTES_MAX},
    state::CallState,
    v0_1::{self, Exports},
};

/// What the component host needs.
pub struct HostOptions {
    /// Where compiled components are kept. Made if it is missing, for the user alone. Its content is executed, so a
    /// folder that others can write is not used, and components are compiled at each start.
    pub cache_folder: PathBuf,
    /// Time, as components and their deadlines see it.
    pub clock: Arc<dyn Clock>,
    /// Randomness, as components see it.
    pub entropy: Arc<dyn Entropy>,
    /// What a call may take.
    pub limits: Limits,
}

impl HostOptions {
    /// The machine's own clock and randomness, and the limits that `wit/` promises.
    pub fn new(cache_folder: impl Into<PathBuf>) -> Self {
        Self {
            cache_folder: cache_folder.into(),
            clock: Arc::new(farshore_core::SystemClock),
            entropy: Arc::new(farshore_core::SystemEntropy),
            limits: Limits::default(),
        }
    }
}

/// The sandbox in which components run. Cloning it shares everything; the last one ends its threads.
#[derive(Clone)]
pub struct PluginHost {
    inner: Arc<HostInner>,
}

/// What all components of a host share.
pub(crate) struct HostInner {
    pub(crate) running: Running,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) limits: Limits,
    pub(crate) turns: Semaphore,
    linker: Linker<CallState>,
    cache: Cache,
}

/// The BLAKE3 hash of a component's bytes: its name in the cache, in a capsule and in a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of a component's bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    /// `blake3:` and 64 lower-case hexadecimal digits.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "blake3:{}", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

/// A component that is compiled and linked, ready to be bound. Cloning it shares everything.
#[derive(Clone)]
pub struct Component {
    pub(crate) loaded: Arc<Loaded>,
}

/// What all bindings of a component share.
pub(crate) struct Loaded {
    pub(crate) host: Arc<HostInner>,
    pub(crate) manifest: Manifest,
    pub(crate) exports: Exports,
    pub(crate) pre: InstancePre<CallState>,
    pub(crate) turns: Semaphore,
    pub(crate) log_budget: LogBudget,
    digest: Digest,
    from_cache: bool,
}

impl PluginHost {
    /// Starts the engine and its threads.
    ///
    /// # Errors
    /// When the machine cannot run WebAssembly or has no threads to give.
    pub fn new(options: HostOptions) -> Result<Self, EngineError> {
        let running = Running::start()?;
        let mut linker = Linker::new(running.engine());
        v0_1::link(&mut linker)
            .and_then(|()| crate::imports::link_closed_wasi(&mut linker))
            .map_err(|error| EngineError::Engine(format!("{error:#}")))?;
        let cache = Cache::open(options.cache_folder);
        let HostOptions { clock, entropy, limits, .. } = options;
        let turns = Semaphore::new(CALLS_AT_ONCE_MAX);
        Ok(Self { inner: Arc::new(HostInner { running, clock, entropy, limits, turns, linker, cache }) })
    }

    /// Loads a component: reads its manifest, compiles it or takes what was compiled before, links it, and looks at what
    /// it exports. Nothing of it runs. A first compilation takes 30 ms for a small component and 8 s for a Python one;
    /// it happens on a thread of the host's own.
    ///
    /// # Errors
    /// When the bytes are not a component, its manifest is missing or wrong, it imports what this host does not have, or
    /// it does not export `inventory`.
    pub async fn load(&self, bytes: impl Into<bytes::Bytes>) -> Result<Component, LoadError> {
        let (host, bytes) = (Arc::clone(&self.inner), bytes.into());
        let task = self.inner.running.handle().spawn_blocking(move || load(host, &bytes));
        match task.await {
            Ok(loaded) => loaded.map(|loaded| Component { loaded: Arc::new(loaded) }),
            Err(error) => Err(LoadError::Compile { reason: format!("the host's own code failed: {error}") }),
        }
    }
}

fn load(host: Arc<HostInner>, bytes: &[u8]) -> Result<Loaded, LoadError> {
    if bytes.len() > COMPONENT_BYTES_MAX {
        return Err(LoadError::TooLarge { bytes: bytes.len() });
    }
    let manifest = Manifest::of_component(bytes)?;
    let digest = Digest::of(bytes);
    let (component, from_cache) = host
        .cache
        .load_or_compile(host.running.engine(), &digest, bytes)
        .map_err(|error| LoadError::Compile { reason: format!("{error:#}") })?;
    let name = || manifest.name.clone();
    let pre = host.linker.instantiate_pre(&component).map_err(|error| LoadError::Imports {
        component: name(),
        wit: manifest.wit.clone(),
        reason: format!("{error:#}"),
    })?;
    let exports = Exports::find(&component, &pre).map_err(|error| LoadError::Exports {
        component: name(),
        wit: manifest.wit.clone(),
        reason: format!("{error:#}"),
    })?;
    if exports.inventory.is_none() {
        return Err(LoadError::NoInventory { component: name(), wit: manifest.wit });
    }
    let turns = Semaphore::new(CALLS_OF_COMPONENT_AT_ONCE_MAX);
    Ok(Loaded { host, manifest, exports, pre, turns, log_budget: LogBudget::default(), digest, from_cache })
}

impl Component {
    /// The hash of its bytes.
    pub fn digest(&self) -> Digest {
        self.loaded.digest
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.loaded.manifest
    }

    /// The interfaces that it exports, by their names in WIT.
    pub fn interfaces(&self) -> Vec<&'static str> {
        self.loaded.exports.names()
    }

    /// Whether its compiled code was in the cache.
    pub fn from_cache(&self) -> bool {
        self.loaded.from_cache
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Manifest { name, version, .. } = self.manifest();
        write!(formatter, "Component({name} {version}, {})", self.digest())
    }
}

/// Why a component cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is larger than 64 MiB.
    #[error("the component has {bytes} bytes; {COMPONENT_BYTES_MAX} are allowed")]
    TooLarge {
        /// How large it is.
        bytes: usize,
    },
    /// It is not a component, or its manifest is missing or wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// It cannot be compiled.
    #[error("the component cannot be compiled: {reason}")]
    Compile {
        /// What the compiler said.
        reason: String,
    },
    /// It imports what this host does not have.
    #[error(
        "the component {component} (WIT {wit}) needs something that this version of Farshore does not have: {reason}"
    )]
    Imports {
        /// The component's name.
        component: String,
        /// The WIT version in its manifest.
        wit: String,
        /// What the linker said.
        reason: String,
    },
    /// An interface that it exports is not the one that it should be.
    #[error(
        "the component {component} (WIT {wit}) exports an interface that is not as this version of Farshore knows it: {reason}"
    )]
    Exports {
        /// The component's name.
        component: String,
        /// The WIT version in its manifest.
        wit: String,
        /// What is missing.
        reason: String,
    },
    /// It does not export `inventory` of a version that this host knows.
    #[error(
        "the component {component} (WIT {wit}) does not export the interface farshore:platform/inventory@{}",
        v0_1::VERSION
    )]
    NoInventory {
        /// The component's name.
        component: String,
        /// The WIT version in its manifest.
        wit: String,
    },
}

impl Coded for LoadError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::TooLarge { .. } | Self::Compile { .. } => 2001,
            Self::Manifest(_) => 2002,
            Self::Imports { .. } | Self::Exports { .. } => 2003,
            Self::NoInventory { .. } => 2004,
        })
    }

    fn advice(&self) -> Option<String> {
        match self {
            Self::Imports { wit, .. } | Self::Exports { wit, .. } | Self::NoInventory { wit, .. }
                if wit != v0_1::VERSION =>
            {
                Some(format!(
                    "Get the component built for WIT {}, or the Farshore that knows WIT {wit}.",
                    v0_1::VERSION
                ))
            }
            _ => None,
        }
    }
}

impl Coded for EngineError {
    fn code(&self) -> Code {
        Code::new(2005)
    }
}
