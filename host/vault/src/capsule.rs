//! The capsule of a recovery point: what is needed to use it, beside its disks.
//!
//! It is a list of *items*: named bytes with a kind, a digest and a few details. What the kinds are is the caller's business; one that
//! nobody knows is kept, listed and given back like any other.
//!
//! *Stored like a disk.* The bytes of an item have a map, as those of a disk have: they are chunks, sealed in frames of data packs, and
//! whatever follows the references of a point (readers, checks, prunes) follows these too. An item that the parent point has
//! with the same digest and size is not written again: its map is taken over, so that an idle cycle writes its commit only. One that
//! changed begins with the map of the parent's item of its name, and adds the chunks that differ.
//!
//! *Never in a disk's way.* A capsule that breaks a rule, or an item that is damaged, is an error for whoever asks for it and a finding
//! of a check; the point's disks are read all the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Error, PageRef, Point, Result, commit::commit_key, seal::stored_hash, wire::hex, working::WorkingDisk};

/// The most items of a point.
pub const CAPSULE_ITEMS_MAX: usize = 128;

/// The most bytes of an item.
pub const CAPSULE_ITEM_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The most details of an item.
const DETAILS_MAX: usize = 16;

/// The most bytes of a detail's text.
const DETAIL_BYTES_MAX: usize = 1024;

/// The most parts of a name, with `/` between them.
const NAME_PARTS_MAX: usize = 4;

/// An item of a point's capsule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapsuleItem {
    /// Its name within the point: at most four words of a-z, 0-9 and `-`, with `/` between them.
    pub name: String,
    /// What it is, in one such word.
    pub kind: String,
    /// How many bytes it has.
    pub size_bytes: u64,
    /// BLAKE3 of its bytes.
    #[serde(with = "hex")]
    pub digest: [u8; 32],
    /// What else should be known of it without its bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
    /// The root page of its map; none if all of it is zero.
    pub map: Option<PageRef>,
}

impl CapsuleItem {
    /// The digest as manifests and configurations write it: `blake3:` and 64 hexadecimal digits.
    pub fn digest_text(&self) -> String {
        format!("blake3:{}", hex::encode(&self.digest))
    }

    /// What breaks a rule, as a clause after the item's name.
    fn problem(&self) -> Option<String> {
        let parts = self.name.split('/').count();
        if parts > NAME_PARTS_MAX || !self.name.split('/').all(is_word) {
            return Some("has a name that is not one to four words of a-z, 0-9 and -, with / between them".to_owned());
        }
        if !is_word(&self.kind) {
            return Some("has a kind that is not a word of a-z, 0-9 and -".to_owned());
        }
        if self.size_bytes > CAPSULE_ITEM_BYTES_MAX {
            return Some(format!("has {} bytes; {CAPSULE_ITEM_BYTES_MAX} are allowed", self.size_bytes));
        }
        let is_detail = |(name, text): (&String, &String)| is_word(name) && text.len() <= DETAIL_BYTES_MAX;
        if self.details.len() > DETAILS_MAX || !self.details.iter().all(is_detail) {
            return Some("has details that are too many, too long or not named by words of a-z, 0-9 and -".to_owned());
        }
        None
    }
}

/// Whether a text is 1 to 64 of `[a-z0-9-]`.
fn is_word(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= 64 && text.bytes().all(allowed)
}

/// An item for the capsule of points in the making. Clones share its bytes.
#[derive(Clone)]
pub struct CapsuleDraft {
    item: CapsuleItem,
    content: Bytes,
}

impl fmt::Debug for CapsuleDraft {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The bytes are as confidential as a disk's.
        formatter.debug_struct("CapsuleDraft").field("item", &self.item).finish_non_exhaustive()
    }
}

impl CapsuleDraft {
    /// An item of this content, whose digest is computed here, once.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] when it breaks a rule of [`CapsuleItem`], or has more than [`CAPSULE_ITEM_BYTES_MAX`] bytes.
    pub fn new(
        name: impl Into<String>,
        kind: impl Into<String>,
        details: BTreeMap<String, String>,
        content: impl Into<Bytes>,
    ) -> Result<Self> {
        let content = content.into();
        let size_bytes = u64::try_from(content.len()).unwrap_or(u64::MAX);
        let (name, kind, digest) = (name.into(), kind.into(), stored_hash(&content));
        let item = CapsuleItem { name, kind, size_bytes, digest, details, map: None };
        match item.problem() {
            Some(problem) => Err(Error::invalid(format!("the item {:?} of a capsule {problem}", item.name))),
            None => Ok(Self { item, content }),
        }
    }

    /// What a point will say of it; its map is not known before.
    pub fn item(&self) -> &CapsuleItem {
        &self.item
    }

    /// Its bytes.
    pub(crate) fn content(&self) -> &Bytes {
        &self.content
    }
}

/// An item of the point that a session writes.
#[derive(Debug)]
pub(crate) struct WorkingItem {
    /// With the map of the parent's, if that is the same.
    pub(crate) item: CapsuleItem,
    /// Its bytes, if the parent has not the same.
    pub(crate) written: Option<Arc<WorkingDisk>>,
}

impl WorkingItem {
    /// The item as it is stored, when the session has settled all maps.
    pub(crate) fn finished(&self) -> CapsuleItem {
        let map = self.written.as_ref().map_or(self.item.map, |written| written.map().root);
        CapsuleItem { map, ..self.item.clone() }
    }
}

/// The items of a point's capsule, if no rule is broken.
///
/// # Errors
/// [`Error::Damaged`], which names the commit and the item.
pub(crate) fn sound_items(point: &Point) -> Result<&[CapsuleItem]> {
    let damaged = |problem: String| Err(Error::damaged(commit_key(point.lineage, point.sequence), problem));
    let count = point.capsule.len();
    if count > CAPSULE_ITEMS_MAX {
        return damaged(format!("its capsule has {count} items; {CAPSULE_ITEMS_MAX} are allowed"));
    }
    let mut names = BTreeSet::new();
    for item in &point.capsule {
        // What a hostile writer called it is cut and quoted.
        let name: String = item.name.chars().take(64).collect();
        if let Some(problem) = item.problem() {
            return damaged(format!("the item {name:?} of its capsule {problem}"));
        }
        if !names.insert(&item.name) {
            return damaged(format!("its capsule has two items {name:?}"));
        }
    }
    Ok(&point.capsule)
}

/// Says which item needs what is damaged.
pub(crate) fn name_item(error: Error, point: &Point, item: &CapsuleItem) -> Error {
    let needs = format!("the item {} of the capsule of point {} needs it", item.name, point.sequence);
    match error {
        Error::Damaged { object, problem } => Error::damaged(object, format!("{problem}; {needs}")),
        Error::ObjectMissing { object, reason } => {
            Error::ObjectMissing { object, reason: format!("{reason}; {needs}") }
        }
        error => error,
    }
}

/// Compares an item's bytes with its digest.
///
/// # Errors
/// [`Error::Damaged`] when they differ: each chunk is what its writer stored, so the writer itself was wrong.
pub(crate) fn check_digest(point: &Point, item: &CapsuleItem, content: &[u8]) -> Result<()> {
    if stored_hash(content) == item.digest {
        return Ok(());
    }
    let problem = format!("the item {} of its capsule has other bytes than its digest says", item.name);
    Err(Error::damaged(commit_key(point.lineage, point.sequence), problem))
}
