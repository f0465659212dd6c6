//! A site as the rest of the host sees it, and the transports that move bytes.
//!
//! It must not know what a vault is, and it must not look into a disk's bytes.

pub mod blocks;
mod codes;
mod component;
mod convert;
mod error;
pub mod file;
pub mod nbd;
mod patience;
mod site;
mod site_error;
mod transport;

pub use codes::CODES;
pub use component::ComponentSite;
pub use error::TransportError;
pub use patience::Patience;
pub use site::{
    AdapterState, CaptureOutcome, CaptureReport, CaptureRequest, CapturedDisk, Changes, DiskRequest, Finding,
    MachineRequest, Owned, OwnedKind, Pending, Readiness, ReadinessLevel, Source, Step, StepStatus, StopManner, Target,
    TrackedDisk,
};
pub use site_error::SiteError;
pub use transport::{BlockStatus, DiskTransport, REQUEST_BYTES_MAX, WrittenBlocks, extents};
