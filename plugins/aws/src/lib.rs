//! Protects and recovers EC2 instances: what `wit/platform` asks of an adapter, over the APIs of EC2 and EBS direct,
//! and, if the operator wants quotas compared, of Service Quotas.
//!
//! It must not move a disk's bytes, see a key, or remember anything between calls. Whatever it makes carries the owner's tag
//! from the call that makes it, so that nothing depends on a journal; and what it makes is visible to later calls only after a
//! while, so that *not found* is believed only when it has been heard for some time. Read `capture.rs` first. All logic sits
//! on the trait of [`ports`], so that the tests run it natively; `component.rs` binds it to the sandbox.

// What the service or the operator says is never trusted to be there.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub mod answers;
pub mod api;
pub mod blocks;
pub mod capture;
pub mod error;
pub mod inventory;
pub mod ownership;
pub mod ports;
pub mod power;
pub mod quotas;
#[cfg(test)]
mod script;
pub mod settings;
pub mod snapshots;
pub mod tags;
pub mod target_disks;
pub mod target_machines;

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
        world: "farshore:platform/adapter-of-blocks",
        generate_all,
        pub_export_macro: true,
        additional_derives: [PartialEq],
    });
}
