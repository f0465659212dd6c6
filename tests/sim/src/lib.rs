//! Runs worlds in which hosts, stores and clocks fail as a seed decides, and says which promises of the vault were broken.
//!
//! It must not reach around the vault's public interface, must not read the machine's clock or randomness, and must not
//! decide anything by the order of threads: a seed is a world, and the same seed is the same world.
//!
//! [`run::seed`] runs one: [`world`] holds what its parts share, [`store`] is the object store as each process reaches it,
//! [`actors`] live in it, [`history`] is what they were told, [`evidence`] what is found at the end, and [`checkers`]
//! compare the two. [`script`] is the other kind of world: one writer, killed at every operation in turn; [`prune_script`] is its second part.

pub mod actors;
pub mod checkers;
pub mod clock;
pub mod content;
pub mod dice;
pub mod evidence;
pub mod faults;
pub mod history;
pub mod many;
pub mod panics;
pub mod process;
pub mod prune_script;
pub mod run;
pub mod script;
pub mod store;
pub mod template;
pub mod time;
pub mod trace;
pub mod world;
