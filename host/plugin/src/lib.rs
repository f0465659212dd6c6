//! The sandbox in which components run: it compiles them, gives each call a fresh instance, and lets it reach what the
//! operator granted for this site and mode, and nothing else.
//!
//! It must not know what a vault, a cycle or a failover is, and no component ever sees a disk's bytes through it. It is
//! the only crate that names wasmtime: its public types are plain data.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use farshore_plugin::{Binding, Endpoints, Grants, HostOptions, LogObserver, Mode, PluginHost, Templates};
//!
//! let host = PluginHost::new(HostOptions::new("/var/cache/farshore/components"))?;
//! let component = host.load(std::fs::read("qemu.wasm")?).await?;
//! let bound = component.bind(Binding {
//!     site: "production".parse()?,
//!     mode: Mode::Protect,
//!     settings: serde_json::json!({}),
//!     grants: Grants::default(),
//!     endpoints: Endpoints::new(),
//!     programs: Templates::new(),
//!     observer: Arc::new(LogObserver),
//! })?;
//! let page = bound.list_machines(None).await?;
//! # Ok(())
//! # }
//! ```

mod bound;
mod cache;
mod call;
mod codes;
mod component;
mod engine;
mod folder;
mod grants;
mod imports;
mod judge;
pub mod limits;
mod manifest;
mod mode;
mod observer;
mod programs;
mod refusal;
mod state;
mod transport;
mod v0_1;

pub use self::{
    bound::{BindError, Binding, BoundComponent, Endpoints},
    call::{Call, CallError, Outcome},
    codes::CODES,
    component::{Component, Digest, HostOptions, LoadError, PluginHost},
    engine::EngineError,
    grants::{Access, FolderGrant, Grants, HostPort, NbdPattern, PathPattern, PatternError, SiteGrants},
    limits::Limits,
    manifest::{Manifest, ManifestError, SECTION as MANIFEST_SECTION, Wants, WantsByMode},
    mode::{Mode, ModeError},
    observer::{LogLevel, LogObserver, Observer, Progress},
    programs::{Argument, Repeated, SiteTemplates, SlotType, Template, TemplateError, Templates, Text},
    refusal::{Refusal, RefusalReason, Wanted},
    transport::{BlockRead, BlockWords, BlockWrite, NbdAddress, TransportGrant},
    v0_1::abi,
};
