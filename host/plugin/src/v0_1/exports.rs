//! Which interfaces a component exports, found one by one.

use wasmtime::component::{Component, InstancePre};

use super::bindings::exports::farshore::platform::{
    inventory, ownership, power, sealed_disks, source, source_blocks, target_disks, target_machines,
};

/// The version of `farshore:platform` that this module binds.
pub(crate) const VERSION: &str = "0.1.0-draft.5";

/// The exported interfaces of one component.
#[derive(Clone)]
pub(crate) struct Exports {
    pub(crate) inventory: Option<inventory::GuestIndices>,
    pub(crate) source: Option<source::GuestIndices>,
    pub(crate) source_blocks: Option<source_blocks::GuestIndices>,
    pub(crate) power: Option<power::GuestIndices>,
    pub(crate) target_disks: Option<target_disks::GuestIndices>,
    pub(crate) sealed_disks: Option<sealed_disks::GuestIndices>,
    pub(crate) target_machines: Option<target_machines::GuestIndices>,
    pub(crate) ownership: Option<ownership::GuestIndices>,
}

impl Exports {
    /// Looks for each interface. An interface that is there but lacks a function is an error.
    pub(crate) fn find<T>(component: &Component, pre: &InstancePre<T>) -> wasmtime::Result<Self> {
        let has = |interface: &str| {
            component.get_export_index(None, format!("farshore:platform/{interface}@{VERSION}")).is_some()
        };
        macro_rules! find {
            ($name:literal, $module:ident) => {
                if has($name) { Some($module::GuestIndices::new(pre)?) } else { None }
            };
        }
        Ok(Self {
            inventory: find!("inventory", inventory),
            source: find!("source", source),
            source_blocks: find!("source-blocks", source_blocks),
            power: find!("power", power),
            target_disks: find!("target-disks", target_disks),
            sealed_disks: find!("sealed-disks", sealed_disks),
            target_machines: find!("target-machines", target_machines),
            ownership: find!("ownership", ownership),
        })
    }

    /// The names of the interfaces that are there.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        [
            ("inventory", self.inventory.is_some()),
            ("source", self.source.is_some()),
            ("source-blocks", self.source_blocks.is_some()),
            ("power", self.power.is_some()),
            ("target-disks", self.target_disks.is_some()),
            ("sealed-disks", self.sealed_disks.is_some()),
            ("target-machines", self.target_machines.is_some()),
            ("ownership", self.ownership.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, exported)| exported.then_some(name))
        .collect()
    }
}
