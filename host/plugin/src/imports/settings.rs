//! What the operator configured for the site.

use crate::{
    state::CallState,
    v0_1::host::{
        errors::HostError,
        settings::{Document, Host},
    },
};

impl Host for CallState {
    async fn get(&mut self) -> wasmtime::Result<Result<Document, HostError>> {
        Ok(Ok(Document { json: self.bound.settings_json.clone() }))
    }
}
