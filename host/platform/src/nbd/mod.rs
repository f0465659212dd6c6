//! An NBD client: a disk's bytes behind a server such as QEMU, `qemu-nbd` or `nbdkit`.
//!
//! The protocol is that of <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>: fixed newstyle handshake,
//! structured replies, metadata contexts, block size limits; no TLS. This folder could be a crate of its own: only
//! `transport.rs` knows the rest of this one. It was written because no async client crate exists that reads structured
//! replies and block status, which is how QEMU tells what changed: `nbd` and `nbd-async` are small and synchronous or for
//! the kernel's client, `tokio-nbd` is a server, and `libnbd`'s binding needs a newer C library than Debian 12 has, under
//! the LGPL.
//!
//! **Use.** [`NbdDisk::connect`] gives a [`DiskTransport`](crate::DiskTransport); [`NbdClient`] is the same without that
//! trait. One of them is one connection. Neither reconnects: what a cycle read before and after is only one frozen view as
//! long as the server lived, so whoever owns the view decides.
//!
//! **Concurrency.** A reader task owns the receiving half of the socket, a writer task the sending half, and a watchdog
//! looks at the time. A call takes one of [`REQUESTS_IN_FLIGHT_MAX`] permits, lists itself under a fresh cookie, queues its
//! request and waits. Replies come in any order and are matched by cookie. The permit stays with the list's entry until
//! the reply is complete, so memory is bounded by that many requests whatever the callers do.
//!
//! **Cancellation.** A dropped call leaves its entry in the list. The reply is taken from the socket, checked and dropped,
//! so the next reply is found where it starts. A request that was queued is carried out: a dropped write may have been
//! written.
//!
//! **Time.** A connection on which something is in flight, but nothing arrives or leaves for the request timeout, is lost;
//! so is one that owes a single reply for ten times as long, however many bytes drip. All who wait are told.
//!
//! **Trust.** None. A server can be broken, or an attacker's. Each length is compared with what was asked before anything
//! is allocated; a reply to nobody, bytes that were not asked for or come twice, block status past the disk's end, a size
//! that changed, or an unknown kind of message end the connection with [`NbdError::Protocol`]. Text from the server is cut
//! and escaped. What the bytes *are* cannot be checked here.
//!
//! **Durability.** A write is durable once a later [`flush`](NbdClient::flush) returned; a flush covers the writes that
//! had returned before it was called. A server that cannot flush is told apart: the flush fails, it does not pretend.

mod client;
mod connection;
mod error;
mod handshake;
mod reply;
mod transport;
mod wire;

pub use client::{NbdAddress, NbdClient, NbdEndpoint, NbdOptions};
pub use connection::REQUESTS_IN_FLIGHT_MAX;
pub use error::NbdError;
pub use handshake::{BlockSizes, CONTEXTS_MAX};
pub use reply::{STATUS_ENTRIES_MAX, StatusEntry};
pub use transport::NbdDisk;
