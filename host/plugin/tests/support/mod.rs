//! What the tests of the host share: the hostile component, and somebody who remembers what it says.

#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use farshore_core::{EndpointName, SystemClock, SystemEntropy};
use farshore_http::{Endpoint, EndpointGrant, EndpointOptions};
use farshore_plugin::{
    Binding, BoundComponent, Call, Component, Endpoints, Grants, HostOptions, Limits, LogLevel, Mode, Observer,
    PluginHost, Progress, Refusal, Templates,
};

/// What a component said.
#[derive(Default)]
pub struct Heard {
    /// Its lines.
    pub lines: Mutex<Vec<String>>,
    /// What it was doing.
    pub progress: Mutex<Vec<Progress>>,
}

impl Observer for Heard {
    fn log(&self, _: &Call, _: LogLevel, line: &str) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_owned());
    }

    fn progress(&self, _: &Call, progress: &Progress) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).push(progress.clone());
    }

    fn refused(&self, _: &Call, _: &Refusal) {}
}

/// The folder of built components.
pub fn components() -> PathBuf {
    std::env::var_os("FARSHORE_COMPONENTS").map_or_else(|| PathBuf::from("../../target/components"), PathBuf::from)
}

/// The bytes of a built component.
pub fn bytes(name: &str) -> Vec<u8> {
    let path = components().join(format!("{name}.wasm"));
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask components` builds it", path.display()))
}

/// A host with its own cache, and the hostile component in it.
pub struct World {
    /// What it writes.
    pub folder: tempfile::TempDir,
    /// The component.
    pub component: Component,
    /// What it says.
    pub heard: Arc<Heard>,
}

impl World {
    /// A world whose calls may take this long.
    pub async fn new(limits: Limits) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let host = PluginHost::new(HostOptions { limits, ..HostOptions::new(folder.path().join("cache")) });
        let component = host.expect("a host").load(bytes("hostile")).await.expect("the hostile component");
        Self { folder, component, heard: Arc::default() }
    }

    /// A path in the world's folder, with links resolved.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().expect("the folder").join(name)
    }

    /// The component, with this behaviour.
    pub fn bind(&self, mode: Mode, settings: serde_json::Value, grants: &str, programs: &str) -> BoundComponent {
        let grants = toml::from_str::<Grants>(grants).expect(grants);
        let binding = Binding {
            site: "production".parse().expect("a name"),
            mode,
            settings,
            endpoints: endpoints(&grants),
            grants,
            programs: toml::from_str::<Templates>(programs).expect(programs),
            observer: Arc::clone(&self.heard) as Arc<dyn Observer>,
        };
        self.component.bind(binding).expect("a binding")
    }

    /// The component in the mode `protect` without grants.
    pub fn with(&self, behaviour: &str) -> BoundComponent {
        self.bind(Mode::Protect, serde_json::json!({ "behaviour": behaviour }), "", "")
    }
}

/// The endpoints that are granted, without credentials.
fn endpoints(grants: &Grants) -> Endpoints {
    let endpoint = |(name, grant): (&EndpointName, &EndpointGrant)| {
        let options = EndpointOptions {
            name: name.clone(),
            grant: grant.clone(),
            certificates: None,
            signing: None,
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
        };
        (name.clone(), Arc::new(Endpoint::new(options).expect("an endpoint")))
    };
    grants.endpoints.iter().map(endpoint).collect()
}

/// What a deed came to, as the component tells it.
pub async fn told(bound: &BoundComponent) -> Result<String, farshore_plugin::CallError> {
    let page = bound.list_machines(None).await?;
    let name = &page.machines.first().expect("one machine").name;
    Ok(name.strip_prefix('=').expect("a deed").to_owned())
}
