//! Repair: bringing back what a vault has lost, from a copy of it.
//!
//! A copy is another place that holds objects of the same vault: a mirror, or what is left of the bucket as it was. Nothing is
//! ever deleted or overwritten.
//!
//! *What is missing* is created again under its own name with the bytes that it has in the copy: objects are created if absent,
//! and names are random, so the name of a lost object is free and means this object only.
//!
//! *What is damaged* is in the way of its own name. Of packs, map packs and collections the pieces that points need are moved
//! from the copy into new collections, and a ledger is made valid that names these (see `prune::replace`): readers look there
//! first. That takes the power to prune. Commits, ledgers, boundaries and rings cannot be replaced while they are there: whoever
//! owns the store can move them aside; then they are missing, and can be repaired.
//!
//! *What is right* is decided by the same check that found the loss (see `trial`). It is run against the vault as it would be
//! with those objects: a store that lends them from the copy. So every signature, hash and reference is compared as always.
//!
//! *A lineage of which nothing is left,* or not its first commit, is found in the copy's list of lineages: its commits and
//! boundaries are lent as they are there, and what they lead to is found like any other loss. Its first commit is created last,
//! and the others before it from the newest down: until it is there nobody can write to the lineage, nor begin it anew.
//!
//! *Of two addresses* that of the data may lack what is at that of the metadata, because a writer was interrupted: that is copied without
//! any other copy. What the metadata has lost the data may still have: it is a copy of it, to be named as one.
//!
//! *Crashes, and prunes beside it.* Each object is created by itself, and the plan can be made anew at any time. What a prune
//! gives up in between is an object that no point needs, which a later prune deletes.

mod trial;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use bytes::Bytes;
use farshore_core::{Coded as _, GroupName, Sequence};
use serde::Serialize;

use self::trial::Trial;
use crate::{
    CheckDepth, CheckFinding, CheckReport, Error, Lineage, LineageInfo, Power, Result, Store, Vault,
    check::Suspect,
    commit::commit_key,
    prune::replace::Replacement,
    seal::{Hash, stored_hash},
    store::{Created, OBJECT_BYTES_MAX, lending::Loan},
};

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
#[derive(Debug, Clone, Serialize)]
pub struct RepairPlan {
    /// How far it was looked for damage.
    pub depth: CheckDepth,
    /// Objects that are missing here, and right in the copy.
    pub objects: Vec<LostObject>,
    /// Packs and collections that are damaged here, out of whose copies what points need is moved; by key.
    pub replaced: BTreeSet<String>,
    /// Damaged packs and collections that are in the copy, and which only a pruner or the administrator can replace; by key.
    pub not_permitted: BTreeSet<String>,
    /// Lineages of which nothing was left, or not the first commit, and which come back.
    pub lineages: Vec<LineageInfo>,
    /// Points that are whole afterwards, and are not now.
    pub healed: Vec<RepairedPoint>,
    /// Objects that are at the address of the metadata and not at that of the data, by key: they are to be copied there, which takes no
    /// other copy ([`Vault::copy_to_data`]).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uncopied: Vec<String>,
    /// Objects of the copy that are missing or damaged here and are not right there, by key.
    pub refused: BTreeSet<String>,
    /// What is wrong now.
    pub findings: Vec<CheckFinding>,
    /// What will still be wrong.
    pub left: Vec<CheckFinding>,
    #[serde(skip)]
    work: Work,
}

impl RepairPlan {
    /// Whether there is nothing that it would do.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.work.replacements.is_empty()
    }
}

/// What the execution needs, and nobody else.
#[derive(Debug, Clone, Default)]
struct Work {
    loan: Loan,
    replacements: Vec<Replacement>,
    /// What only reading has shown to be damaged, and is not replaced.
    suspects: Vec<Suspect>,
}

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// Objects that were created again.
    pub objects_copied: u64,
    /// Their bytes.
    pub bytes_copied: u64,
    /// Objects that somebody else had brought back meanwhile.
    pub objects_found: u64,
    /// Collections that were written in the place of what is damaged.
    pub collections_written: u64,
    /// The commits that made them valid, by group.
    pub commits: BTreeMap<GroupName, Sequence>,
    /// What could not be moved although points need it.
    pub problems: Vec<String>,
    /// What a check afterwards found wrong.
    pub left: Vec<CheckFinding>,
}

impl Vault {
    /// Plans a repair from a copy; without one it says what is hurt. It changes nothing. What a check of this depth finds is
    /// repaired: `Structure` does not read the data.
    ///
    /// # Errors
    /// [`Error::OtherVault`] when the copy is another vault's; [`Error::PowerMissing`] to read data; or a store failed.
    pub async fn plan_repair(&self, copy: Option<&Store>, depth: CheckDepth) -> Result<RepairPlan> {
        if let Some(copy) = copy
            && Self::id_at(copy).await? != Some(self.id())
        {
            return Err(Error::OtherVault { what: "copy", address: self.0.store.address().to_owned() });
        }
        let (before, suspects) = self.check_knowing(depth, &[], &|_| {}).await?;
        let mut plan = RepairPlan {
            depth,
            objects: Vec::new(),
            replaced: BTreeSet::new(),
            not_permitted: BTreeSet::new(),
            lineages: Vec::new(),
            healed: Vec::new(),
            uncopied: self.uncopied(&before).await?,
            refused: BTreeSet::new(),
            findings: before.findings.clone(),
            left: before.findings.clone(),
            work: Work { suspects: suspects.clone(), ..Work::default() },
        };
        // They are copied with the rest.
        plan.left.retain(|finding| !plan.uncopied.contains(&finding.object));
        let Some(copy) = copy else { return Ok(plan) };
        let mut trial = Trial::new(self, copy, before, suspects);
        trial.look_for_lineages().await?;
        plan.findings.clone_from(&trial.before.findings);
        trial.run().await?;
        for object in trial.missing() {
            let bytes = read_copy(copy, &object).await?;
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            plan.objects.push(LostObject { hash: stored_hash(&bytes), object, bytes: length });
        }
        for (lineage, objects) in trial.replaced() {
            let Some(view) = trial.view().open_lineage(lineage).await? else { continue };
            if let Some(replacement) = Replacement::plan(&view, &trial.damaged).await? {
                plan.work.replacements.push(replacement);
                plan.replaced.extend(objects);
            }
        }
        plan.healed = trial.healed().await?;
        plan.lineages = trial.lineages().await?;
        plan.left = trial.left();
        plan.left.retain(|finding| !plan.uncopied.contains(&finding.object));
        plan.work.suspects = trial.suspects_left();
        plan.refused = trial.refused;
        plan.not_permitted = trial.not_permitted;
        plan.work.loan = trial.loan;
        Ok(plan)
    }

    /// What a check has found to be missing at the data.
    async fn uncopied(&self, report: &CheckReport) -> Result<Vec<String>> {
        let code = Error::NotAtData { object: String::new() }.code();
        let mut uncopied = Vec::new();
        for finding in report.findings.iter().filter(|finding| finding.code == code) {
            uncopied.extend(self.0.store.missing_at_data(&finding.object).await?);
        }
        Ok(uncopied)
    }

    /// Copies what a plan found at the address of the metadata, and not at that of the data, to there.
    ///
    /// # Errors
    /// [`Error::AddressesDiffer`]; or a store failed, or may only be read.
    pub async fn copy_to_data(&self, plan: &RepairPlan) -> Result<()> {
        self.0.access.may_write(&self.0.context).await?;
        self.0.store.copy_to_data(&plan.uncopied).await
    }

    /// Does what the plan says, and checks the vault. Nothing is deleted or overwritten.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the copy has changed since the plan was made; [`Error::LostRace`] when a prune came between: plan anew.
    /// [`Error::PowerMissing`] to replace what is damaged; or a store failed, or may only be read.
    pub async fn repair(&self, copy: &Store, plan: &RepairPlan) -> Result<RepairReport> {
        let store = &self.0.store;
        if !plan.work.replacements.is_empty() {
            self.0.access.require(Power::Pruner, "to put something in the place of what is damaged")?;
        }
        self.0.access.may_write(&self.0.context).await?;
        self.expect_gone(plan).await?;
        let mut report = RepairReport::default();
        // What others refer to comes first, as when it was written; of commits the newest, and a lineage's first at last.
        let mut objects: Vec<&LostObject> = plan.objects.iter().filter(|lost| !is_commit(&lost.object)).collect();
        let mut commits: Vec<&LostObject> = plan.objects.iter().filter(|lost| is_commit(&lost.object)).collect();
        objects.sort_by_key(|lost| &lost.object);
        commits.sort_by_key(|lost| Reverse(&lost.object));
        for lost in objects {
            self.copy_back(copy, lost, &mut report).await?;
        }
        // What was copied until now may have taken hours.
        self.expect_gone(plan).await?;
        for lost in commits {
            self.copy_back(copy, lost, &mut report).await?;
        }
        let view = self.with_store(store.lending(copy, plan.work.loan.clone()));
        for replacement in &plan.work.replacements {
            let id = replacement.lineage;
            let missing = || Error::ObjectMissing {
                object: commit_key(id, Sequence::FIRST),
                reason: "the lineage was there a moment ago".to_owned(),
            };
            let lineage = Lineage(self.open_lineage(id).await?.ok_or_else(missing)?);
            let lending = view.open_lineage(id).await?.ok_or_else(missing)?;
            let replaced = replacement.execute(&lineage, &lending).await?;
            report.collections_written += replaced.collections;
            report.problems.extend(replaced.problems.iter().map(ToString::to_string));
            report.commits.extend(replaced.commit.map(|commit| (replaced.group, commit)));
        }
        report.left = self.check_knowing(CheckDepth::Structure, &plan.work.suspects, &|_| {}).await?.0.findings;
        Ok(report)
    }

    async fn copy_back(&self, copy: &Store, lost: &LostObject, report: &mut RepairReport) -> Result<()> {
        let bytes = read_copy(copy, &lost.object).await?;
        if stored_hash(&bytes) != lost.hash {
            return Err(Error::damaged(&lost.object, "the copy has changed since the repair was planned"));
        }
        match self.0.store.create(&lost.object, vec![bytes]).await? {
            Created::Mine => {
                report.objects_copied += 1;
                report.bytes_copied += lost.bytes;
            }
            // The check afterwards says whether it is right.
            Created::Other => report.objects_found += 1,
        }
        Ok(())
    }

    /// That nobody has begun anew a lineage that is to come back: its commits would be in the way of the new one's.
    async fn expect_gone(&self, plan: &RepairPlan) -> Result<()> {
        for lineage in &plan.lineages {
            let first = commit_key(lineage.id, Sequence::FIRST);
            let planned = plan.objects.iter().find(|lost| lost.object == first).map(|lost| lost.hash);
            let there = self.0.store.read(&first, OBJECT_BYTES_MAX).await?;
            if there.is_some_and(|there| Some(stored_hash(&there)) != planned) {
                return Err(Error::LostRace { group: lineage.group.clone(), sequence: Sequence::FIRST });
            }
        }
        Ok(())
    }
}

async fn read_copy(copy: &Store, object: &str) -> Result<Bytes> {
    let missing =
        || Error::ObjectMissing { object: object.to_owned(), reason: "the copy had it a moment ago".to_owned() };
    copy.read(object, OBJECT_BYTES_MAX).await?.ok_or_else(missing)
}

fn is_commit(object: &str) -> bool {
    object.contains("/commits/")
}

fn hurt_points(report: &CheckReport) -> BTreeSet<RepairedPoint> {
    let points = report.findings.iter().flat_map(|finding| &finding.points);
    points.map(|point| RepairedPoint { group: point.group.clone(), sequence: point.sequence }).collect()
}
