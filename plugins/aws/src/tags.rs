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
//! Policies can rely on `farshore:owner` and `farshore:kind`, which every call gives that makes something, and on what the
//! operator's setting `tags` adds: by it drills are told from failovers. `POLICIES.md` has policies that do.

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
/// AWS has 50 for a thing, and some are ours.
const OPERATORS_TAGS_MAX: usize = 40;

/// These tags. Long values are cut.
pub fn tags<'t>(pairs: impl IntoIterator<Item = (&'t str, &'t str)>) -> Tags {
    let cut = |value: &str| value.chars().take(VALUE_CHARACTERS_MAX).collect();
    pairs.into_iter().map(|(name, value)| (name.to_owned(), cut(value))).collect()
}

/// These tags, and the operator's.
pub fn tags_of<'t>(operators: &Tags, pairs: impl IntoIterator<Item = (&'t str, &'t str)>) -> Tags {
    let mut all = operators.clone();
    all.extend(tags(pairs));
    all
}

/// Why the operator's tags cannot be given, if they cannot.
pub fn wrong_tag(operators: &Tags) -> Option<String> {
    if operators.len() > OPERATORS_TAGS_MAX {
        return Some(format!("`tags` has {} tags, and {OPERATORS_TAGS_MAX} are allowed", operators.len()));
    }
    operators.iter().find_map(|(name, value)| {
        if name.is_empty() || name.chars().count() > 128 || value.chars().count() > VALUE_CHARACTERS_MAX {
            return Some(format!("the tag {name:?} is empty or too long: a name has 128 characters, a value 255"));
        }
        let is_taken =
            name == NAME || ["aws:", "farshore:"].iter().any(|prefix| name.to_lowercase().starts_with(prefix));
        is_taken.then(|| format!("the tag {name:?} is not the operator's to give: choose another name"))
    })
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
