//! What a bucket knows beside objects: versions, and until when each of them is locked.
//!
//! In a bucket with versions a key names a list. Farshore creates a key once; so its *first* version is the object, and what
//! lies above it, a newer version or a delete marker, was put there by somebody else and hides it. What is locked, and what a
//! prune deletes, is therefore named by version. A store that keeps no versions has no such side ([`Bucket`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use farshore_core::Timestamp;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{Error as ObjectError, path::Path};

use super::{
    Store,
    objects::Objects,
    pair::{Kept, kept},
};
use crate::{
    Error, Result,
    lock::{LockMode, VaultLock},
};

/// How many versions are deleted side by side.
const DELETED_AT_ONCE: usize = 8;

/// The most pages of one listing: a thousand million versions.
const PAGES_MAX: usize = 1_000_000;

/// How long a lock holds that a bucket puts on every new object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DefaultRetention {
    pub(crate) mode: LockMode,
    pub(crate) span_seconds: u64,
}

/// What a bucket is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BucketSettings {
    /// Whether it keeps versions.
    pub(crate) keeps_versions: bool,
    /// Whether objects in it can be locked at all.
    pub(crate) can_lock: bool,
    pub(crate) retention: Option<DefaultRetention>,
}

/// The lock of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retained {
    pub(crate) mode: LockMode,
    pub(crate) until: Timestamp,
}

/// One version of a key, as a listing says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) id: String,
    /// It holds nothing, and says that the key was deleted.
    pub(crate) is_marker: bool,
    pub(crate) received_at: Timestamp,
    pub(crate) bytes: u64,
    /// It is what a plain read of the key gets.
    pub(crate) is_latest: bool,
}

/// A part of a listing of versions: those of one key follow each other, newest first.
#[derive(Debug, Default)]
pub(crate) struct VersionsPage {
    pub(crate) versions: Vec<(String, Version)>,
    /// Where the next part begins; none if this is the last.
    pub(crate) next: Option<(String, String)>,
}

/// The side of a store that knows versions and locks.
#[async_trait::async_trait]
pub(crate) trait Bucket: fmt::Debug + Send + Sync {
    /// What it is set to.
    async fn settings(&self) -> Result<BucketSettings, ObjectError>;

    /// All versions of the keys that begin with this.
    async fn versions(&self, prefix: &str, after: Option<(String, String)>) -> Result<VersionsPage, ObjectError>;

    /// The lock of a version, or of what a plain read gets; none if it has none, or this caller may not know.
    async fn retained(&self, path: &Path, version: Option<&str>) -> Result<Option<Retained>, ObjectError>;

    /// Locks a version. A lock can be made longer, and not shorter.
    async fn retain(&self, path: &Path, version: &str, retained: Retained) -> Result<(), ObjectError>;

    /// Deletes a version for good.
    async fn delete(&self, path: &Path, version: &str) -> Result<(), ObjectError>;
}

/// The versions of one key, newest first, never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Versions(Vec<Version>);

impl Versions {
    /// The object: the oldest version that is no marker. None if only markers are left.
    pub(crate) fn first(&self) -> Option<&Version> {
        self.0.iter().rev().find(|version| !version.is_marker)
    }

    /// What was put above the object, newest first; empty if the object is what a plain read gets.
    pub(crate) fn above_first(&self) -> &[Version] {
        let first = self.0.iter().rposition(|version| !version.is_marker);
        first.map_or(&[], |first| &self.0[..first])
    }

    fn push(&mut self, version: Version) {
        self.0.push(version);
    }

    /// A listing may give markers and versions one after the other; so they are put in order again. Of two that the store
    /// received at one time the order of the listing counts.
    fn sort(&mut self) {
        self.0.sort_by_key(|version| (!version.is_latest, std::cmp::Reverse(version.received_at)));
    }
}

impl Objects {
    fn bucket(&self) -> Result<&Arc<dyn Bucket>> {
        self.bucket.as_ref().ok_or_else(|| self.unfit("only buckets of S3, and what speaks like it, can lock objects"))
    }

    fn unfit(&self, problem: impl Into<String>) -> Error {
        Error::BucketUnfit { address: self.address.to_string(), problem: problem.into() }
    }

    /// That the bucket locks every new object for at least as long, and at least as strictly, as the vault wants.
    ///
    /// # Errors
    /// [`Error::BucketUnfit`] with what is missing, or the store failed.
    pub(super) async fn prove_lock(&self, lock: &VaultLock) -> Result<()> {
        let settings = self.bucket()?.settings().await;
        let settings = settings.map_err(|error| Self::failed("ask for the settings of", "the bucket", error))?;
        if !settings.keeps_versions {
            return Err(self.unfit("it keeps no versions of objects, so what is deleted or overwritten is gone"));
        }
        if !settings.can_lock {
            return Err(self.unfit("object lock is not enabled"));
        }
        let Some(found) = settings.retention else {
            return Err(self.unfit("it has no default retention, so new objects would not be locked"));
        };
        if found.mode < lock.mode {
            let problem = format!("its default retention has the mode {}; the vault wants {}", found.mode, lock.mode);
            return Err(self.unfit(problem));
        }
        if found.span_seconds < lock.span_seconds {
            let days = |seconds: u64| seconds / 86_400;
            let problem = format!(
                "its default retention is {} days; the vault wants {}",
                days(found.span_seconds),
                lock.span_seconds.div_ceil(86_400)
            );
            return Err(self.unfit(problem));
        }
        Ok(())
    }

    /// The versions of everything below a folder, or of one object, by key below the vault's address.
    ///
    /// # Errors
    /// [`Error::BucketUnfit`] when the store has no versions; or the store failed.
    pub(super) async fn versions(&self, folder: &str) -> Result<BTreeMap<String, Versions>> {
        let bucket = self.bucket()?;
        let mut found: BTreeMap<String, Versions> = BTreeMap::new();
        let mut after = None;
        let prefix = self.path(folder).to_string();
        let below = self.prefix.to_string();
        for _ in 0..PAGES_MAX {
            let page = bucket.versions(&prefix, after).await;
            let page = page.map_err(|error| Self::failed("list the versions of", folder, error))?;
            for (path, version) in page.versions {
                // The prefix is text: `keys` would find `keys2` too.
                let rest = path.strip_prefix(&prefix).unwrap_or_default();
                let is_below = prefix.is_empty() || rest.is_empty() || rest.starts_with('/');
                let key = path.strip_prefix(&below).map(|key| key.trim_start_matches('/'));
                if let Some(key) = key.filter(|_| is_below) {
                    found.entry(key.to_owned()).or_insert_with(|| Versions(Vec::new())).push(version);
                }
            }
            after = page.next;
            if after.is_none() {
                found.values_mut().for_each(Versions::sort);
                return Ok(found);
            }
        }
        Err(self.unfit("its listing does not end"))
    }

    /// The lock of a version of an object, as far as this caller may know.
    pub(super) async fn retained(&self, key: &str, version: &str) -> Result<Option<Retained>> {
        let retained = self.bucket()?.retained(&self.path(key), Some(version)).await;
        retained.map_err(|error| Self::failed("look up the lock of", key, error))
    }

    /// Until when an object is locked of which nobody has hidden anything, as far as this caller may know; none in the outer
    /// place if there is no object.
    pub(super) async fn object_locked_until(&self, key: &str) -> Result<Option<Option<Timestamp>>> {
        match self.bucket()?.retained(&self.path(key), None).await {
            Ok(retained) => Ok(Some(retained.map(|retained| retained.until))),
            Err(ObjectError::NotFound { .. }) => Ok(None),
            Err(error) => Err(Self::failed("look up the lock of", key, error)),
        }
    }

    /// Locks a version of an object, or makes its lock longer.
    pub(super) async fn retain(&self, key: &str, version: &str, retained: Retained) -> Result<()> {
        let done = self.bucket()?.retain(&self.path(key), version, retained).await;
        done.map_err(|error| Self::failed("lock", key, error))
    }

    /// Deletes one version of an object.
    pub(super) async fn delete_version(&self, key: &str, version: &str) -> Result<()> {
        match self.bucket()?.delete(&self.path(key), version).await {
            Ok(()) | Err(ObjectError::NotFound { .. }) => Ok(()),
            Err(error) => Err(Self::failed("delete a version of", key, error)),
        }
    }

    /// Deletes all versions of these objects, and what hides them. What is not there is passed over. Returns those of which a
    /// version is still locked at this time: they are left, and can be tried again.
    ///
    /// # Errors
    /// The first version that could not be deleted though it is not locked; others may be gone.
    pub(super) async fn delete_all_versions(&self, keys: Vec<String>, now: Timestamp) -> Result<Vec<String>> {
        let outcomes = stream::iter(keys).map(|key| async move {
            let deleted = self.delete_versions_of(&key, now).await?;
            Ok::<_, Error>((!deleted).then_some(key))
        });
        let locked: Vec<Option<String>> = outcomes.buffered(DELETED_AT_ONCE).try_collect().await?;
        Ok(locked.into_iter().flatten().collect())
    }

    /// Whether all versions of the object are gone; else one of them is locked. The object goes first: what hides it would else
    /// be gone while the object is still there.
    async fn delete_versions_of(&self, key: &str, now: Timestamp) -> Result<bool> {
        let Some(versions) = self.versions(key).await?.remove(key) else { return Ok(true) };
        for version in versions.0.iter().rev() {
            let Err(error) = self.delete_version(key, &version.id).await else { continue };
            // A store says the same of a locked version and of a caller without the right to delete.
            let locked = !version.is_marker
                && self.retained(key, &version.id).await?.is_some_and(|retained| retained.until > now);
            return if locked { Ok(false) } else { Err(error) };
        }
        Ok(true)
    }
}

/// One of the addresses of a vault; one that has a single address has its metadata and its data there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// That of the metadata.
    Metadata,
    /// That of the data.
    Data,
}

/// The versions of one key at each address that has some.
pub(crate) type Copies = BTreeMap<Side, Versions>;

impl Store {
    fn sides(&self, key: &str) -> impl Iterator<Item = (Side, &Objects)> {
        let data = self.data.as_ref().map(|data| (Side::Data, &data.objects));
        let (metadata, data) = match (data, kept(key)) {
            (None, _) | (_, Kept::Metadata) => (Some((Side::Metadata, &self.objects)), None),
            (data, Kept::Data) => (None, data),
            (data, Kept::Both) => (Some((Side::Metadata, &self.objects)), data),
        };
        metadata.into_iter().chain(data)
    }

    /// The addresses at which the object of this key is kept.
    pub(crate) fn sides_of(&self, key: &str) -> impl Iterator<Item = Side> {
        self.sides(key).map(|(side, _)| side)
    }

    fn at(&self, side: Side) -> &Objects {
        match (side, &self.data) {
            (Side::Data, Some(data)) => &data.objects,
            _ => &self.objects,
        }
    }

    /// That the bucket, or both buckets, lock every new object for at least as long, and at least as strictly, as the vault wants.
    ///
    /// # Errors
    /// [`Error::BucketUnfit`] with what is missing, or the store failed.
    pub(crate) async fn prove_lock(&self, lock: &VaultLock) -> Result<()> {
        for (_, objects) in self.sides("") {
            objects.prove_lock(lock).await?;
        }
        Ok(())
    }

    /// The versions of everything below a folder, or of one object, by key below the vault's address.
    ///
    /// # Errors
    /// [`Error::BucketUnfit`] when the store has no versions; or the store failed.
    pub(crate) async fn versions(&self, folder: &str) -> Result<BTreeMap<String, Copies>> {
        let mut found: BTreeMap<String, Copies> = BTreeMap::new();
        for (side, objects) in self.sides(folder) {
            for (key, versions) in objects.versions(folder).await? {
                found.entry(key).or_default().insert(side, versions);
            }
        }
        Ok(found)
    }

    /// The lock of a version of an object, as far as this caller may know.
    pub(crate) async fn retained(&self, side: Side, key: &str, version: &str) -> Result<Option<Retained>> {
        self.at(side).retained(key, version).await
    }

    /// Until when an object is locked of which nobody has hidden anything, for each address at which it is kept, as far as this caller
    /// may know; none in the outer place if it is not there.
    pub(crate) async fn object_locked_until(&self, key: &str) -> Result<Vec<Option<Option<Timestamp>>>> {
        let mut ends = Vec::new();
        for (_, objects) in self.sides(key) {
            ends.push(objects.object_locked_until(key).await?);
        }
        Ok(ends)
    }

    /// Locks a version of an object, or makes its lock longer.
    pub(crate) async fn retain(&self, side: Side, key: &str, version: &str, retained: Retained) -> Result<()> {
        self.at(side).retain(key, version, retained).await
    }

    /// Deletes one version of an object.
    #[cfg(test)]
    pub(crate) async fn delete_version(&self, key: &str, version: &str) -> Result<()> {
        self.first(key).delete_version(key, version).await
    }

    /// Deletes all versions of these objects, and what hides them. What is not there is passed over. Returns those of which a
    /// version is still locked at this time: they are left, and can be tried again.
    ///
    /// # Errors
    /// The first version that could not be deleted though it is not locked; others may be gone.
    pub(crate) async fn delete_all_versions(&self, keys: Vec<String>, now: Timestamp) -> Result<Vec<String>> {
        let Some(data) = &self.data else { return self.objects.delete_all_versions(keys, now).await };
        if keys.iter().any(|key| kept(key) == Kept::Both) {
            self.copy_seen(data, true).await?;
        }
        // As in a deletion without locks: at the metadata first.
        let first = keys.iter().filter(|key| kept(key) != Kept::Data).cloned().collect();
        let mut locked: BTreeSet<String> = self.objects.delete_all_versions(first, now).await?.into_iter().collect();
        let second = keys.into_iter().filter(|key| kept(key) != Kept::Metadata && !locked.contains(key)).collect();
        locked.extend(data.objects.delete_all_versions(second, now).await?);
        Ok(locked.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(id: &str, seconds: i64, is_marker: bool, is_latest: bool) -> Version {
        let received_at = Timestamp::from_unix_milliseconds(seconds * 1_000);
        Version { id: id.to_owned(), is_marker, received_at, bytes: 1, is_latest }
    }

    fn ids(versions: &[Version]) -> Vec<&str> {
        versions.iter().map(|version| version.id.as_str()).collect()
    }

    /// Listings give versions first and markers after them, or mixed; and times have whole seconds.
    #[test]
    fn the_first_version_is_the_object_whatever_lies_above_it() {
        let mut versions = Versions(vec![
            version("newer", 5, false, false),
            version("object", 5, false, false),
            version("marker", 9, true, true),
        ]);
        versions.sort();
        assert_eq!(versions.first().map(|first| first.id.as_str()), Some("object"));
        assert_eq!(ids(versions.above_first()), ["marker", "newer"]);
        let alone = Versions(vec![version("object", 5, false, true)]);
        assert_eq!(ids(alone.above_first()), [""; 0]);
        // A key that was deleted before it was ever written: the marker below is nobody's concern.
        let below = Versions(vec![version("object", 5, false, true), version("old", 1, true, false)]);
        assert!(below.above_first().is_empty() && below.first().is_some());
        let gone = Versions(vec![version("marker", 5, true, true)]);
        assert!(gone.first().is_none() && gone.above_first().is_empty());
    }
}
