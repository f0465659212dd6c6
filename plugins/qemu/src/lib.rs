//! Protects and recovers QEMU machines: what `wit/platform` asks of an adapter, over QEMU's control protocol.
//!
//! It must not move a disk's bytes, remember anything between calls, or name anything in a QEMU process that a later call
//! could not recognise as its own. Read `capture.rs` first. All logic sits on the traits of [`ports`], so that the tests run
//! it natively against real QEMU processes; `component.rs` binds it to the sandbox.

// What QEMU, a guest agent or the operator says is never trusted to be there.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub mod agent;
pub mod capture;
mod capture_state;
pub mod cleanup;
pub mod error;
pub mod graph;
pub mod instant;
pub mod inventory;
pub mod names;
pub mod nbd_probe;
mod off;
pub mod ownership;
pub mod ports;
pub mod power;
pub mod qmp;
pub mod settings;
mod storage_daemon;
pub mod target_disks;
pub mod target_machines;
mod tracking;

#[cfg(target_arch = "wasm32")]
#[expect(unsafe_code, reason = "the exported symbols of a component are made by a macro")]
mod component;

/// The types of `wit/`, generated.
#[allow(unsafe_code, missing_docs, reason = "the code is generated")]
#[allow(clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "it is generated")]
#[allow(clippy::arithmetic_side_effects, reason = "it is generated")]
pub mod bindings {
    wit_bindgen::generate!({
        path: ["../../wit/host", "../../wit/platform"],
        world: "farshore:platform/adapter",
        generate_all,
        pub_export_macro: true,
        additional_derives: [PartialEq],
    });
}
