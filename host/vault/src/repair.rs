//! Repair: bringing back what a vault has lost, from a copy of it.
//!
//! A copy is another place that holds objects of the same vault: a mirror, or what is left of the bucket as it was. An object
//! that is missing here is created again under its own name with the bytes that it has there. Nothing is ever deleted or
//! overwritten: objects are created if absent, and names are random, so the name of a lost object is free and means this
//! object only.
//!
//! *What is right* is decided by the same check that found the loss. It is run against the vault as it would be with those
//! objects: a store that lends them from the copy. So every signature, hash and reference is compared as always, and packs
//! and collections that are lent are read whole and compared with their hashes, which needs no key to what they hold. What
//! the check does not pass is not copied. It also finds what the loss had hidden: pages below a lost page, and packs below
//! those; it is repeated until it finds nothing new.
//!
//! *Of two addresses* that of the data may lack what is at that of the metadata, because a writer was interrupted: that is copied without
//! any other copy. What the metadata has lost the data may still have: it is a copy of it, to be named as one.
//!
//! *What is damaged* is not touched: it cannot be replaced while it is there. Whoever owns the store can move it aside; then
//! it is missing, and can be repaired.
//!
//! *Crashes, and prunes beside it.* Each object is created by itself, and the plan can be made anew at any time. What a prune
//! gives up in between is an object that no point needs, which a later prune deletes.

use std::collections::BTreeSet;

use bytes::Bytes;
use farshore_core::{Coded as _, GroupName, Sequence};
use serde::Serialize;

use crate::{
    CheckDepth, CheckFinding, CheckReport, Error, Result, Store, Vault,
    seal::{Hash, stored_hash},
    store::Created,
};

/// How often the check is repeated because it found more: a commit, a ledger, five levels of pages and a pack lie below
/// each other, and it begins again when one of them is refused.
const ROUNDS_MAX: usize = 64;

/// The most bytes of an object.
const OBJECT_BYTES_MAX: usize = 160 * 1024 * 1024;

/// An object that is to be copied back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostObject {
    /// Its key below the vault's address.
    pub object: String,
    /// Its bytes.
    pub bytes: u64,
    #[serde(skip)]
    hash: Hash,
}

/// A point.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RepairedPoint {
    /// The group.
    pub group: GroupName,
    /// The point.
    pub sequence: Sequence,
}

/// What a repair would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepairPlan {
    /// Objects that are missing here, and right in the copy.
    pub objects: Vec<LostObject>,
    /// Points that are whole afterwards, and are not now.
    pub healed: Vec<RepairedPoint>,
    /// Objects that are at the address of the metadata and not at that of the data, by key: they are to be copied there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uncopied: Vec<String>,
    /// Objects of the copy that are missing here and are not right there, by key.
    pub refused: BTreeSet<String>,
    /// What is wrong now.
    pub findings: Vec<CheckFinding>,
    /// What will still be wrong.
    pub left: Vec<CheckFinding>,
}

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// Objects that were created again.
    pub objects_copied: u64,
    /// Their bytes.
    pub bytes_copied: u64,
    /// Objects that are at the address of the data again, or for the first time.
    pub objects_mirrored: u64,
    /// Objects that somebody else had brought back meanwhile.
    pub objects_found: u64,
    /// What a check afterwards found wrong.
    pub left: Vec<CheckFinding>,
}

impl Vault {
    /// Plans a repair from a copy; without one it says what is hurt. It changes nothing.
    ///
    /// # Errors
    /// [`Error::OtherVault`] when the copy is another vault's; or a store failed.
    pub async fn plan_repair(&self, copy: Option<&Store>) -> Result<RepairPlan> {
        if let Some(copy) = copy
            && Self::id_at(copy).await? != Some(self.id())
        {
            return Err(Error::OtherVault { what: "copy", address: self.0.store.address().to_owned() });
        }
        let before = self.check(CheckDepth::Structure, &|_| {}).await?;
        let mut plan = RepairPlan {
            objects: Vec::new(),
            healed: Vec::new(),
            uncopied: self.uncopied(&before).await?,
            refused: BTreeSet::new(),
            findings: before.findings.clone(),
            left: before.findings.clone(),
        };
        // They are copied with the rest.
        plan.left.retain(|finding| !is_uncopied(finding, &plan.uncopied));
        let Some(copy) = copy else { return Ok(plan) };
        let (lent, after) = self.try_lending(copy, &before, &mut plan.refused).await?;
        for object in lent {
            let bytes = read_copy(copy, &object).await?;
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            plan.objects.push(LostObject { hash: stored_hash(&bytes), object, bytes: length });
        }
        let still_hurt = hurt_points(&after);
        plan.healed = hurt_points(&before).into_iter().filter(|point| !still_hurt.contains(point)).collect();
        plan.left = after.findings;
        plan.left.retain(|finding| !is_uncopied(finding, &plan.uncopied));
        Ok(plan)
    }

    /// What a check has found to be missing at the data.
    async fn uncopied(&self, report: &CheckReport) -> Result<Vec<String>> {
        let code = Error::NotAtData { object: String::new() }.code();
        let mut uncopied = Vec::new();
        for finding in report.findings.iter().filter(|finding| finding.code == code) {
            let found = self.0.store.uncopied_object(finding.object.clone()).await?;
            uncopied.extend(found.filter(|found| !found.differs).map(|found| found.object));
        }
        Ok(uncopied)
    }

    /// Finds the objects that the copy can lend so that the check passes them, and what it finds then.
    async fn try_lending(
        &self,
        copy: &Store,
        before: &CheckReport,
        refused: &mut BTreeSet<String>,
    ) -> Result<(BTreeSet<String>, CheckReport)> {
        let mut lent: BTreeSet<String> = BTreeSet::new();
        let mut report = before.clone();
        for _ in 0..ROUNDS_MAX {
            let objects = |report: &CheckReport| -> BTreeSet<String> {
                report.findings.iter().map(|finding| finding.object.clone()).collect()
            };
            let mut wrong: BTreeSet<String> = objects(&report).intersection(&lent).cloned().collect();
            // A commit that the next one does not follow is no finding of its own, but one of the next.
            let known = objects(before);
            for commit in objects(&report).iter().filter(|object| is_commit(object) && !known.contains(*object)) {
                let lineage = folder(commit);
                wrong.extend(lent.iter().filter(|object| folder(object) == lineage && is_commit(object)).cloned());
            }
            if !wrong.is_empty() {
                // What was lent because of what is wrong may be needed by nobody: it is begun again without that.
                refused.extend(wrong);
                lent.clear();
                report = before.clone();
                continue;
            }
            let mut new = BTreeSet::new();
            for finding in report.findings.iter().filter(|finding| is_missing(finding)) {
                let object = &finding.object;
                let is_known = lent.contains(object) || refused.contains(object);
                if !is_known && copy.size(object).await?.is_some() {
                    new.insert(object.clone());
                }
            }
            if new.is_empty() {
                return Ok((lent, report));
            }
            lent.extend(new);
            let vault = self.with_store(self.0.store.lending(copy, lent.clone()));
            report = vault.check(CheckDepth::Structure, &|_| {}).await?;
        }
        // It goes on changing under the eyes of the check: nothing that it said holds.
        Ok((BTreeSet::new(), before.clone()))
    }

    /// Copies what the plan says, and checks the vault. Nothing is deleted or overwritten.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the copy has changed since the plan was made; or a store failed, or may only be read.
    pub async fn repair(&self, copy: Option<&Store>, plan: &RepairPlan) -> Result<RepairReport> {
        let store = &self.0.store;
        self.0.access.may_write(&self.0.context).await?;
        let mut report = RepairReport {
            objects_copied: 0,
            bytes_copied: 0,
            objects_mirrored: 0,
            objects_found: 0,
            left: Vec::new(),
        };
        store.copy_to_data(&plan.uncopied).await?;
        report.objects_mirrored = u64::try_from(plan.uncopied.len()).unwrap_or(u64::MAX);
        // What others refer to comes first, as when it was written.
        let mut objects: Vec<&LostObject> = plan.objects.iter().collect();
        objects.sort_by_key(|lost| (is_commit(&lost.object), &lost.object));
        let Some(copy) = copy else { return self.repaired(report).await };
        for lost in objects {
            let bytes = read_copy(copy, &lost.object).await?;
            if stored_hash(&bytes) != lost.hash {
                return Err(Error::damaged(&lost.object, "the copy has changed since the repair was planned"));
            }
            match store.create(&lost.object, vec![bytes]).await? {
                Created::Mine => {
                    report.objects_copied += 1;
                    report.bytes_copied += lost.bytes;
                }
                // The check afterwards says whether it is right.
                Created::Other => report.objects_found += 1,
            }
        }
        self.repaired(report).await
    }

    async fn repaired(&self, mut report: RepairReport) -> Result<RepairReport> {
        report.left = self.check(CheckDepth::Structure, &|_| {}).await?.findings;
        Ok(report)
    }
}

async fn read_copy(copy: &Store, object: &str) -> Result<Bytes> {
    let missing =
        || Error::ObjectMissing { object: object.to_owned(), reason: "the copy had it a moment ago".to_owned() };
    copy.read(object, OBJECT_BYTES_MAX).await?.ok_or_else(missing)
}

fn is_missing(finding: &CheckFinding) -> bool {
    let missing = Error::ObjectMissing { object: String::new(), reason: String::new() };
    finding.code == missing.code()
}

fn is_uncopied(finding: &CheckFinding, uncopied: &[String]) -> bool {
    let error = Error::NotAtData { object: String::new() };
    finding.code == error.code() && uncopied.contains(&finding.object)
}

fn is_commit(object: &str) -> bool {
    object.contains("/commits/")
}

/// The folder of a lineage in which an object is.
fn folder(object: &str) -> &str {
    object.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn hurt_points(report: &CheckReport) -> BTreeSet<RepairedPoint> {
    let points = report.findings.iter().flat_map(|finding| &finding.points);
    points.map(|point| RepairedPoint { group: point.group.clone(), sequence: point.sequence }).collect()
}
