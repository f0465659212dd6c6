//! A component that does what no component should. What it does is chosen by `behaviour` in its settings, and is done by
//! `inventory.list-machines` unless the behaviour names a wrong answer of another function.

#![allow(missing_docs, reason = "the code is generated")]

mod bindings {
    wit_bindgen::generate!({
        path: ["../../../wit/host", "../../../wit/platform"],
        world: "farshore:platform/adapter@0.1.0-draft.5",
        generate_all,
    });
}
mod answers;
mod deeds;

use bindings::farshore::{host::settings, platform::model::PlatformError};
use serde::Deserialize;

/// What to do, and with what.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Settings {
    behaviour: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    host: String,
    #[serde(default)]
    port: u16,
    #[serde(default)]
    value: String,
}

impl Settings {
    fn read() -> Result<Self, PlatformError> {
        let document = settings::get().map_err(told)?;
        serde_json::from_str(&document.json).map_err(|error| PlatformError::Settings(error.to_string()))
    }

    fn size(&self) -> Result<u64, PlatformError> {
        self.value.parse().map_err(|_| PlatformError::Settings("`value` is not a number of bytes".to_owned()))
    }
}

/// A host's error as the component's own.
fn told(error: bindings::farshore::host::errors::HostError) -> PlatformError {
    PlatformError::Failed(format!("{error:?}"))
}

struct Component;

bindings::export!(Component with_types_in bindings);
