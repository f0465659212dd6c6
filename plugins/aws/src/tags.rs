//! The tags that say whose everything is.
//!
//! | tag | value |
//! | --- | --- |
//! | `farshore:owner` | the owner's tag |
//! | `farshore:kind` | `capture` or `base` (snapshots of protected instances), `disk` (snapshots that are restored), `machine` (images, instances, volumes) |
//! | `farshore:id` | the host's id of it |
//! | `farshore:run` | the run that made it |
//! | `farshore:machine` | the instance that a capture is of |
//! | `farshore:attempt` | which of several calls made it |
//!
//! Policies can rely on `farshore:owner`, which every call gives that makes something.

use std::collections::BTreeMap;

/// Names and values.
pub type Tags = BTreeMap<String, String>;

/// Whose it is.
pub const OWNER: &str = "farshore:owner";
/// What it is.
pub const KIND: &str = "farshore:kind";
/// The host's id.
pub const ID: &str = "farshore:id";
/// The run.
pub const RUN: &str = "farshore:run";
/// The instance that a capture is of.
pub const MACHINE: &str = "farshore:machine";
/// Which of several calls.
pub const ATTEMPT: &str = "farshore:attempt";
/// What people call it.
pub const NAME: &str = "Name";

/// A snapshot that is read.
pub const CAPTURE: &str = "capture";
/// A snapshot that changes are told from.
pub const BASE: &str = "base";
/// A snapshot that is restored.
pub const DISK: &str = "disk";
/// An image, an instance or a volume of a recovered machine.
pub const MACHINE_KIND: &str = "machine";

const VALUE_CHARACTERS_MAX: usize = 255;

/// These tags. Long values are cut.
pub fn tags<'t>(pairs: impl IntoIterator<Item = (&'t str, &'t str)>) -> Tags {
    let cut = |value: &str| value.chars().take(VALUE_CHARACTERS_MAX).collect();
    pairs.into_iter().map(|(name, value)| (name.to_owned(), cut(value))).collect()
}

/// An id of the host's.
pub fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// An owner tag.
pub fn is_owner(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=32).contains(&text.len()) && text.bytes().all(allowed)
}
