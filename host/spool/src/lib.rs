//! Points that wait on their source's host, sealed, until the vault can be reached.
//!
//! It must not know a platform, and must not decide when a point waits or comes into the vault: it keeps what it is given, within a
//! limit, and gives back nothing that it cannot open.
//!
//! ## What is stored
//! One file for each point, `FOLDER/VAULT/LINEAGE/<20 digits>.point`, in the order in which they were captured. A file is
//!
//! | bytes | what |
//! | --- | --- |
//! | 8, 4 | `FARSPOOL`, version (1, little-endian) |
//! | 16 | the file's random id |
//! | each part | length (4), then the sealed part |
//! | 8, 4 | how many parts are before the last, length of the last part |
//!
//! Part *n* is sealed for its place: vault, lineage, file, *n* ([`farshore_vault::WaitingSealer`]). Each but the last is bytes of a disk: number
//! of the disk (4), offset (8), length (4), one Zstandard frame. The last says what the point is, as JSON ([`SpooledPoint`]). So a file that was
//! cut, joined of others or changed does not open.
//!
//! ## Crash consistency
//! A file is written as `.part`, synced, and renamed, and the folder is synced: a point waits wholly or not at all. What a crash left
//! as `.part` goes when the group's spool is opened again. Whoever opens it holds the group's journal, so that no other process writes there.
//!
//! ## Limits
//! All groups of a host share one [`SpoolRoom`]: so many bytes at most, and never the last [`FREE_BYTES_MIN`] of the file system, which hosts'
//! journals need.

mod codes;
mod error;
mod part;
mod point;
mod read;
mod room;
mod spool;
#[cfg(test)]
mod tests;
mod write;

pub use self::{
    codes::CODES,
    error::SpoolError,
    point::{SpooledDisk, SpooledPoint, SuspendedDisk},
    read::{SpoolReader, SpooledBytes},
    room::{FREE_BYTES_MIN, SpoolRoom},
    spool::{Spool, Waiting},
    write::{RECORD_BYTES_MAX, SpoolWriter},
};
