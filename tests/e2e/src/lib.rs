//! Support for the end-to-end tests: a temporary world of guests, a vault and the real command line.
//!
//! It must not reach into the host's crates: a test sees what an operator sees. A [`World`] has a folder of its own below
//! the system's folder for temporary files, and when it is dropped it ends every guest, every command and every recovered
//! machine that came from it, whether the test passed or not.
//!
//! ```no_run
//! # fn main() -> Result<(), farshore_demo::DemoError> {
//! let mut world = farshore_e2e::World::new()?;
//! world.resume_guest("orders")?;
//! world.protect("orders", &["orders"])?;
//! world.succeed(&["vault", "create", "--yes"])?;
//! let point = world.succeed(&["replicate", "--once"])?;
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

mod binary;
mod cloud;
mod leftovers;
mod pair;
mod s3_server;
mod server;
mod world;

pub use binary::binary;
pub use cloud::Cloud;
pub use farshore_demo::{
    Acknowledgement, BootReport, Console, DemoError, Line, Stop, Witness,
    command::{Farshore, Finished, Running},
    guest::{BOOT_MAX, DiskFormat, Guest, GuestDisk, GuestOptions, Qmp, disk},
    image::{self, GuestImage},
    recovered::{self, RecoveredMachine},
    site::{ProtectedGroup, ProtectedMachine, Site},
};
pub use leftovers::{Leftovers, leftovers, processes_with_uuid};
pub use pair::PairRelay;
pub use s3_server::{S3Kind, S3Server};
pub use server::{Says, Server, installed};
pub use world::{COMMAND_MAX, World, image, json};

/// Lets time pass. A thread of a test has nothing else to do.
pub fn pause(length: Duration) {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let _ = receiver.recv_timeout(length);
    drop(sender);
}

/// Whether this is a long run, `cargo xtask test --long`: more rounds of the same.
pub fn is_long() -> bool {
    std::env::var_os("FARSHORE_LONG").is_some()
}
