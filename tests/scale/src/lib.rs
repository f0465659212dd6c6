//! What a vault costs in the long run: the bytes that it stores for those that points need ([`thinning`]), the requests
//! that cycles make ([`requests`]), what a lineage of very many commits takes ([`commits`]), and the memory that very large
//! disks take ([`size`]). And what giving turns to very many groups costs ([`schedule`]).
//!
//! The vault is the real one; time and the store are not, but for very large disks: days pass in moments, and every request is
//! counted.

pub mod commits;
pub mod requests;
pub mod scene;
pub mod schedule;
pub mod site;
pub mod size;
pub mod store;
pub mod thinning;
