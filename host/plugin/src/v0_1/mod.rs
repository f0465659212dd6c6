//! The binding to WIT 0.1.0-draft.5: one module for each version that the host keeps.

mod bindings {
    #![allow(missing_docs, reason = "the generated code carries the documents of the WIT where there are any")]

    wasmtime::component::bindgen!({
        path: ["../../wit/host", "../../wit/platform"],
        world: "farshore:platform/adapter-of-blocks@0.1.0-draft.5",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "farshore:host/transports.transport": crate::TransportGrant,
            "farshore:host/streams.connection": crate::imports::Connection,
        },
        additional_derives: [PartialEq, Eq],
    });
}

pub mod abi;
mod answers;
mod calls;
mod exports;

use wasmtime::component::{HasSelf, Linker};

pub(crate) use self::{
    answers::check_error,
    bindings::farshore::host,
    exports::{Exports, VERSION},
};
use crate::state::CallState;

/// Links everything that a component of this version may import.
pub(crate) fn link(linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
    bindings::AdapterOfBlocks::add_to_linker::<_, HasSelf<CallState>>(linker, |state| state)
}

impl bindings::farshore::platform::model::Host for CallState {}

#[cfg(test)]
mod echo;
