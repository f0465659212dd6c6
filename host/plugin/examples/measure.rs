//! Measures what a component costs: compiling it, taking its code from the cache, and a call in a fresh instance.
//!
//! ```sh
//! cargo run -p farshore-plugin --example measure -- target/components/*.wasm
//! ```

use std::{sync::Arc, time::Duration};

use farshore_core::{Clock, SystemClock};
use farshore_plugin::{Binding, Component, Endpoints, Grants, HostOptions, LogObserver, Mode, PluginHost, Templates};

const CALLS: usize = 1_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cache = std::env::temp_dir().join(format!("farshore-measure-{}", std::process::id()));
    println!("component  compile ms  from cache ms  fresh instance and call: median us  95th of 100 us");
    for path in std::env::args().skip(1) {
        let bytes = std::fs::read(&path)?;
        let (compiled, _) = load(&cache, &bytes).await?;
        let (cached, component) = load(&cache, &bytes).await?;
        let calls = calls(&component).await?;
        let at = |part: usize| calls.get(calls.len() * part / 100).map_or(0, Duration::as_micros);
        let name = &component.manifest().name;
        println!("{name}  {}  {:.1}  {}  {}", compiled.as_millis(), cached.as_secs_f64() * 1e3, at(50), at(95));
    }
    std::fs::remove_dir_all(cache)?;
    Ok(())
}

/// Loads the component in a new host, as a new process would.
async fn load(cache: &std::path::Path, bytes: &[u8]) -> Result<(Duration, Component), Box<dyn std::error::Error>> {
    let host = PluginHost::new(HostOptions::new(cache))?;
    let started = SystemClock.monotonic();
    let component = host.load(bytes.to_vec()).await?;
    Ok((SystemClock.monotonic().saturating_sub(started), component))
}

/// How long each of many calls of `describe` takes, in order.
async fn calls(component: &Component) -> Result<Vec<Duration>, Box<dyn std::error::Error>> {
    let bound = component.bind(Binding {
        site: "site".parse()?,
        mode: Mode::Observe,
        settings: serde_json::json!({}),
        grants: Grants::default(),
        endpoints: Endpoints::new(),
        programs: Templates::new(),
        observer: Arc::new(LogObserver),
    })?;
    let mut calls = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let started = SystemClock.monotonic();
        bound.describe().await?;
        calls.push(SystemClock.monotonic().saturating_sub(started));
    }
    calls.sort_unstable();
    Ok(calls)
}
