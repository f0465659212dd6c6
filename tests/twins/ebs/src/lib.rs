//! A strict twin of EC2, EBS direct and Service Quotas, as far as Farshore uses them: it checks what it is asked, and runs instances in QEMU.
//!
//! Snapshots and volumes are sparse files. What the service would refuse the twin refuses: wrong signatures, checksums,
//! tokens and parameters, blocks of a snapshot that is sealed, snapshots that are not complete, and what the caller's
//! policy does not allow. What the service does later it does later. It goes wrong by a seed, if it is told to.
//!
//! Service Quotas is asked at the address of EC2, and told from it by `X-Amz-Target`. It tells quotas of vCPUs, which nothing
//! here is held to.
//!
//! What it does not do: encryption, networks (an instance's guest never sees its address), UEFI, the size of an instance's type,
//! several network interfaces, `DryRun`, HTTPS. A block that was written with the bytes that it had is not told to have
//! changed, unless it was put. Whether a thing that was deleted is still shown for a while it leaves out too.
//!
//! It is written from the documentation of the APIs, and shares no code with what is tested against it. boto3
//! checks it from outside (`tests/boto3.rs`). What the service does that is not documented it does not know.

mod account;
mod blocks;
mod direct;
mod ec2;
mod failure;
mod faults;
mod model;
mod policy;
mod power;
mod query;
mod quotas;
mod server;
mod signature;

pub use account::Options;
pub use faults::{Fault, Faults};
pub use model::{Call, InstanceState, Principal, Subnet};
pub use policy::{Ask, Policy};
pub use server::{Seen, Twin};
pub use signature::Key;
