//! A tiny guest with an outside witness, and the story of losing and recovering it.
//!
//! It must not reach into the host's crates: it drives the `farshore` command line and QEMU as an operator would, so that
//! what it shows is what an operator gets. Its guest also serves the end-to-end tests.

pub mod command;
mod console;
mod error;
pub mod guest;
pub mod image;
mod program;
pub mod recovered;
pub mod site;
pub mod story;
mod wait;
mod witness;

pub use console::{Console, LINES_MAX, Line};
pub use error::{CODES, DemoError};
pub use wait::Stop;
pub use witness::{Acknowledgement, BootReport, Witness};
