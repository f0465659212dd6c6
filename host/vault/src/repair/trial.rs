//! Finding out what a copy can lend: the check is run against the vault as it would be with those objects, and again with what it
//! finds then, until it finds nothing new.
//!
//! Packs and collections that are lent are read whole and compared with their hashes, which needs no key to what they hold. What
//! the check does not pass is refused, and all is begun anew without it: what was lent because of it may be needed by nobody. It
//! also finds what the loss had hidden: pages below a lost page, and packs below those.
//!
//! *A collection that is not right in the copy either* can still be replaced if the packs out of which it was made are here or in
//! the copy, as in a copy that is older than the prune that made it: then its pieces are looked for there.
//!
//! *Commits* that are lent must be named by the next one, or by the ledger. Of a lineage of which nothing is left the newest one is
//! that of the copy.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use farshore_core::{Coded as _, LineageId, PackId, Sequence};
use futures::TryStreamExt;

use super::{RepairedPoint, hurt_points, is_commit};
use crate::{
    CheckDepth, CheckFinding, CheckReport, Closes, Error, LineageInfo, Means, Power, Result, Store, Vault,
    boundary::{Boundary, boundary_folder},
    check::Suspect,
    collection::Sort,
    commit::{Commit, commit_folder, commit_key, commit_number},
    lineage::LineageShared,
    pack::packs_folder,
    page::maps_folder,
    store::lending::Loan,
};

/// How often the check is repeated because it found more: a commit, a ledger, five levels of pages and a pack lie below
/// each other, and it begins again when one of them is refused.
const ROUNDS_MAX: usize = 64;

/// What a copy can lend.
pub(super) struct Trial<'a> {
    vault: &'a Vault,
    copy: &'a Store,
    /// What was found without the copy.
    pub(super) before: CheckReport,
    suspects: Vec<Suspect>,
    may_replace: bool,
    /// Lineages without their first commit, which the copy has; each with the commits and boundaries that the copy has and that are
    /// missing here.
    lost: BTreeMap<LineageId, BTreeSet<String>>,
    pub(super) loan: Loan,
    /// Those of the lent objects that are here too.
    pub(super) damaged: BTreeSet<String>,
    /// Lent commits and boundaries that the lineage does not need any more.
    needless: BTreeSet<String>,
    pub(super) refused: BTreeSet<String>,
    pub(super) not_permitted: BTreeSet<String>,
    report: CheckReport,
}

impl<'a> Trial<'a> {
    pub(super) fn new(vault: &'a Vault, copy: &'a Store, before: CheckReport, suspects: Vec<Suspect>) -> Self {
        Self {
            vault,
            copy,
            report: before.clone(),
            before,
            suspects,
            may_replace: vault.0.access.has(Power::Pruner),
            lost: BTreeMap::new(),
            loan: Loan::default(),
            damaged: BTreeSet::new(),
            needless: BTreeSet::new(),
            refused: BTreeSet::new(),
            not_permitted: BTreeSet::new(),
        }
    }

    /// Looks for lineages that the copy has, and whose first commit is not here: no listing may propose these any more.
    pub(super) async fn look_for_lineages(&mut self) -> Result<()> {
        let (here, names) = (&self.vault.0.store, self.copy.folders("lineages").await?);
        for id in names.iter().filter_map(|name| name.parse::<LineageId>().ok()) {
            let first = commit_key(id, Sequence::FIRST);
            if here.size(&first).await?.is_some() || self.copy.size(&first).await?.is_none() {
                continue;
            }
            let mut missing = BTreeSet::from([first.clone()]);
            for folder in [commit_folder(id), boundary_folder(id)] {
                let listed: Vec<_> = self.copy.list(&folder).try_collect().await?;
                for object in listed {
                    if here.size(&object.key).await?.is_none() {
                        missing.insert(object.key);
                    }
                }
            }
            self.lost.insert(id, missing);
            if !self.before.findings.iter().any(|finding| finding.object == first) {
                self.before.findings.push(lost_lineage(id));
            }
        }
        Ok(())
    }

    /// Finds the objects that the copy can lend so that the check passes them, and what it finds then.
    ///
    /// # Errors
    /// A store failed.
    pub(super) async fn run(&mut self) -> Result<()> {
        self.begin();
        for _ in 0..ROUNDS_MAX {
            let wrong = self.wrong();
            if !wrong.is_empty() {
                self.refuse(wrong);
                continue;
            }
            if self.lend_more().await? {
                let view = self.view();
                let suspects = self.suspects_left();
                (self.report, _) = view.check_knowing(CheckDepth::Structure, &suspects, &|_| {}).await?;
                continue;
            }
            let wrong = self.wrong_commits().await?;
            if wrong.is_empty() {
                return Ok(());
            }
            self.refuse(wrong);
        }
        // It goes on changing under the eyes of the check: nothing that it said holds.
        self.begin();
        Ok(())
    }

    fn begin(&mut self) {
        self.loan = Loan::default();
        self.damaged.clear();
        self.needless.clear();
        self.report = self.before.clone();
    }

    fn refuse(&mut self, wrong: BTreeSet<String>) {
        self.refused.extend(wrong);
        self.begin();
    }

    /// The vault as it would be.
    pub(super) fn view(&self) -> Vault {
        self.vault.with_store(self.vault.0.store.lending(self.copy, self.loan.clone()))
    }

    /// What only reading has shown to be damaged, and what would still be in use.
    pub(super) fn suspects_left(&self) -> Vec<Suspect> {
        let is_left = |suspect: &&Suspect| {
            let (pack, collection) = suspect.part;
            let is_rerouted =
                collection.is_some_and(|collection| self.loan.rerouted.contains(&(collection, (Sort::Data, pack))));
            let is_lent = matches!(&suspect.error, Error::Damaged { object, .. } if self.loan.keys.contains(object));
            !is_lent && !is_rerouted
        };
        self.suspects.iter().filter(is_left).cloned().collect()
    }

    /// Lent objects that the check does not pass.
    fn wrong(&self) -> BTreeSet<String> {
        let lent = &self.loan.keys;
        // What somebody has claimed is as he has written it, in the copy as here.
        let damage = || self.report.findings.iter().filter(|finding| finding.means != Some(Means::WrongState));
        let found = damage().map(|finding| &finding.object);
        let mut wrong: BTreeSet<String> = found.filter(|object| lent.contains(*object)).cloned().collect();
        // A commit that the next one does not follow is no finding of its own, but one of the next; and what is before a commit or
        // boundary that is wrong would be taken for all that there is.
        let known: BTreeSet<&String> = self.before.findings.iter().map(|finding| &finding.object).collect();
        for finding in damage().filter(|finding| !is_missing(finding) && is_log(&finding.object)) {
            if !known.contains(&finding.object) {
                let lineage = lineage_of(&finding.object);
                wrong.extend(lent.iter().filter(|object| is_log(object) && lineage_of(object) == lineage).cloned());
            }
        }
        // One whose keys the holder of the vault has not cannot be looked at.
        for lineage in &self.report.closed {
            let folder = format!("lineages/{lineage}/");
            wrong.extend(lent.iter().filter(|object| object.starts_with(&folder)).cloned());
        }
        wrong
    }

    /// Lends what was found to be missing or damaged; whether that is anything new.
    async fn lend_more(&mut self) -> Result<bool> {
        let (mut new, mut damaged) = (BTreeSet::new(), BTreeSet::new());
        new.extend(self.lost.values().flatten().filter(|object| self.is_new(object)).cloned());
        let mut writable: BTreeMap<LineageId, bool> = BTreeMap::new();
        for finding in &self.report.findings {
            let object = &finding.object;
            if !self.is_new(object) || self.copy.size(object).await?.is_none() {
                continue;
            }
            if is_missing(finding) {
                new.insert(object.clone());
                continue;
            }
            let Some(lineage) = lineage_of(object).filter(|_| is_replaceable(object)) else { continue };
            if !self.may_replace {
                self.not_permitted.insert(object.clone());
                continue;
            }
            let is_writable = match writable.entry(lineage) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(unknown) => *unknown.insert(self.may_be_written(lineage).await?),
            };
            if is_writable {
                damaged.insert(object.clone());
            }
        }
        let mut is_more = !new.is_empty() || !damaged.is_empty();
        self.loan.keys.extend(new.into_iter().chain(damaged.iter().cloned()));
        self.damaged.extend(damaged);
        if !is_more && self.may_replace {
            is_more = self.reroute().await?;
        }
        Ok(is_more)
    }

    fn is_new(&self, object: &str) -> bool {
        !self.loan.keys.contains(object) && !self.refused.contains(object)
    }

    /// Whether a ledger could be made valid in this lineage, with what is lent.
    async fn may_be_written(&self, lineage: LineageId) -> Result<bool> {
        let read = match self.view().open_lineage(lineage).await {
            Ok(Some(view)) => view.ledgers.newest().await.map(drop),
            Ok(None) => return Ok(false),
            Err(error) => Err(error),
        };
        match read {
            Ok(()) => Ok(true),
            Err(error) if error.is_damage() || matches!(error, Error::NoKey { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Looks for what a collection should have, that is lost and not right in the copy, in the packs out of which it was made;
    /// whether that is anything new.
    async fn reroute(&mut self) -> Result<bool> {
        let mut lost: BTreeMap<LineageId, BTreeSet<&str>> = BTreeMap::new();
        for finding in &self.report.findings {
            if let Some(lineage) = lineage_of(&finding.object).filter(|_| finding.object.contains("/collections/")) {
                lost.entry(lineage).or_default().insert(&finding.object);
            }
        }
        let before = self.loan.clone();
        let mut loan = self.loan.clone();
        for (lineage, lost) in lost {
            if !self.may_be_written(lineage).await? {
                continue;
            }
            let Some(view) = self.view().open_lineage(lineage).await? else { continue };
            let (_, valid) = view.ledgers.newest().await?;
            let here = packs_in(&self.vault.0.store, lineage).await?;
            let there = packs_in(self.copy, lineage).await?;
            let collections = valid.iter().flat_map(|valid| &valid.ledger.collections);
            for collection in collections.filter(|collection| lost.contains(collection.key(lineage).as_str())) {
                for source in &collection.sources {
                    if here.contains_key(source) {
                        loan.rerouted.insert((collection.id, *source));
                    } else if let Some(key) = there.get(source).filter(|key| !self.refused.contains(*key)) {
                        loan.rerouted.insert((collection.id, *source));
                        loan.keys.insert(key.clone());
                    }
                }
            }
        }
        self.loan = loan;
        Ok(self.loan != before)
    }

    /// Lent commits that nothing names which is right; all of a lineage of whose lent boundaries one is not right.
    async fn wrong_commits(&mut self) -> Result<BTreeSet<String>> {
        let mut lent: BTreeMap<LineageId, Lent> = BTreeMap::new();
        for object in &self.loan.keys {
            let number = object.rsplit('/').next().unwrap_or_default();
            let Some(lineage) = lineage_of(object) else { continue };
            if is_commit(object) {
                lent.entry(lineage).or_default().commits.extend(commit_number(number));
            } else if object.contains("/boundaries/") {
                lent.entry(lineage).or_default().boundaries.extend(number.parse::<u64>().ok());
            }
        }
        let mut wrong = BTreeSet::new();
        for (lineage, lent) in lent {
            let key = |number: &u64| commit_key(lineage, Sequence::new(*number));
            let judged = match self.view().open_lineage(lineage).await {
                Ok(Some(view)) => lent.judge(&view).await,
                Ok(None) => Ok(Judged::all_wrong(&lent)),
                Err(error) => Err(error),
            };
            let judged = match judged {
                Err(error) if error.is_damage() => Judged::all_wrong(&lent),
                judged => judged?,
            };
            wrong.extend(judged.wrong.iter().map(key));
            self.needless.extend(judged.needless.iter().map(key));
        }
        Ok(wrong)
    }

    /// Objects that are to be created again.
    pub(super) fn missing(&self) -> BTreeSet<String> {
        // What is moved on need not come back where it was.
        let rerouted: BTreeSet<PackId> = self.loan.rerouted.iter().map(|(_, (_, pack))| *pack).collect();
        let is_moved = |object: &String| {
            let id = object.rsplit('/').next().and_then(|name| name.parse().ok());
            is_replaceable(object) && id.is_some_and(|id| rerouted.contains(&id))
        };
        // Nothing is begun of a lineage that does not come back.
        let returning = self.returning();
        let stays_lost = |object: &String| {
            lineage_of(object).is_some_and(|id| self.lost.contains_key(&id) && !returning.contains(&id))
        };
        let lent = self.loan.keys.difference(&self.damaged);
        let lent = lent.filter(|object| !self.needless.contains(*object) && !is_moved(object) && !stays_lost(object));
        lent.cloned().collect()
    }

    /// Objects whose place others are to take, by lineage.
    pub(super) fn replaced(&self) -> BTreeMap<LineageId, BTreeSet<String>> {
        let rerouted: BTreeSet<PackId> = self.loan.rerouted.iter().map(|(collection, _)| *collection).collect();
        let lost = self.before.findings.iter().chain(&self.report.findings).map(|finding| &finding.object);
        let lost = lost.filter(|object| object.contains("/collections/")).filter(|object| {
            object.rsplit('/').next().and_then(|name| name.parse().ok()).is_some_and(|id| rerouted.contains(&id))
        });
        let mut replaced: BTreeMap<LineageId, BTreeSet<String>> = BTreeMap::new();
        for object in self.damaged.iter().chain(lost) {
            if let Some(lineage) = lineage_of(object) {
                replaced.entry(lineage).or_default().insert(object.clone());
            }
        }
        replaced
    }

    /// What can be told of the lineages that come back.
    pub(super) async fn lineages(&self) -> Result<Vec<LineageInfo>> {
        let view = self.view();
        let mut lineages = Vec::new();
        for id in self.returning() {
            let lineage = view.open_lineage(id).await?;
            lineages.extend(lineage.map(|lineage| LineageInfo { id, group: lineage.group.clone() }));
        }
        Ok(lineages)
    }

    /// Lineages that come back.
    fn returning(&self) -> BTreeSet<LineageId> {
        let comes_back = |id: &&LineageId| self.loan.keys.contains(&commit_key(**id, Sequence::FIRST));
        self.lost.keys().filter(comes_back).copied().collect()
    }

    /// Points that are whole then, and are not now.
    pub(super) async fn healed(&self) -> Result<Vec<RepairedPoint>> {
        let still_hurt = hurt_points(&self.report);
        let mut healed = hurt_points(&self.before);
        let view = self.view();
        for id in self.returning() {
            let Some(lineage) = view.open_lineage(id).await? else { continue };
            let points = self.report.points.iter().filter(|point| point.lineage == id);
            healed.extend(points.map(|point| RepairedPoint { group: lineage.group.clone(), sequence: point.point }));
        }
        Ok(healed.into_iter().filter(|point| !still_hurt.contains(point)).collect())
    }

    /// What is still wrong then.
    pub(super) fn left(&self) -> Vec<CheckFinding> {
        let mut left = self.report.findings.clone();
        for id in self.lost.keys() {
            let lost = lost_lineage(*id);
            let is_known = left.iter().any(|finding| finding.object == lost.object);
            if !is_known && !self.loan.keys.contains(&lost.object) {
                left.push(lost);
            }
        }
        left
    }
}

/// Commits and boundaries of a lineage that are lent, by number.
#[derive(Default)]
struct Lent {
    commits: BTreeSet<u64>,
    boundaries: BTreeSet<u64>,
}

/// What was found of lent commits.
struct Judged {
    wrong: BTreeSet<u64>,
    /// What the lineage does not need any more.
    needless: BTreeSet<u64>,
}

impl Judged {
    fn all_wrong(lent: &Lent) -> Self {
        Self { wrong: lent.commits.clone(), needless: BTreeSet::new() }
    }
}

impl Lent {
    /// Judges the commits by what names them: the ledger, or the commit that follows. The first holds the keys of its lineage, and
    /// the newest has nothing that could name it; neither needs another witness than its author.
    async fn judge(&self, view: &LineageShared) -> Result<Judged> {
        let (newest, valid) = match view.ledgers.newest().await {
            Ok((head, valid)) => (head.head.sequence.get(), valid),
            Err(error) if error.is_damage() => (view.log.newest_listed().await?, view.ledgers.readable().await?),
            Err(error) => return Err(error),
        };
        for number in 1..=self.boundaries.last().copied().unwrap_or(0) {
            Boundary::read(&view.store, &view.access, &view.keys.metadata, view.id, number).await?;
        }
        if self.commits.last().is_some_and(|last| *last > newest) {
            // The copy has a hole. What is before it would be taken for all that there is.
            return Ok(Judged::all_wrong(self));
        }
        let mut judged = Judged { wrong: BTreeSet::new(), needless: BTreeSet::new() };
        let (_, boundary) = view.log.boundary();
        for number in &self.commits {
            let sequence = Sequence::new(*number);
            let is_first = sequence == Sequence::FIRST;
            if valid.as_ref().is_some_and(|valid| valid.standing(sequence).is_some()) {
                continue;
            }
            if *number < boundary && !is_first {
                judged.needless.insert(*number);
                continue;
            }
            let (commit, next) = (read(view, sequence).await?, read(view, sequence.next()).await?);
            let is_right = match (commit, next) {
                (Some(commit), Some(next)) => next.body.previous == commit.hash,
                (Some(_), None) => is_first || *number == newest,
                (None, _) => false,
            };
            if !is_right {
                judged.wrong.insert(*number);
            }
        }
        Ok(judged)
    }
}

/// A commit; none if it is missing or damaged.
async fn read(view: &LineageShared, sequence: Sequence) -> Result<Option<Commit>> {
    match view.log.read(sequence).await {
        Err(error) if error.is_damage() => Ok(None),
        read => read,
    }
}

/// The packs and map packs that a listing of a store proposes, with their keys.
async fn packs_in(store: &Store, lineage: LineageId) -> Result<BTreeMap<(Sort, PackId), String>> {
    let mut packs = BTreeMap::new();
    for (sort, folder) in [(Sort::Data, packs_folder(lineage)), (Sort::Map, maps_folder(lineage))] {
        let listed: Vec<_> = store.list(&folder).try_collect().await?;
        let named =
            listed.into_iter().filter_map(|object| Some((object.key.rsplit('/').next()?.parse().ok()?, object.key)));
        packs.extend(named.map(|(id, key)| ((sort, id), key)));
    }
    Ok(packs)
}

fn lost_lineage(id: LineageId) -> CheckFinding {
    let reason = "the copy has a lineage that begins with it, of which nothing is here".to_owned();
    let error = Error::ObjectMissing { object: commit_key(id, Sequence::FIRST), reason };
    CheckFinding {
        object: commit_key(id, Sequence::FIRST),
        code: error.code(),
        problem: error.to_string(),
        points: Vec::new(),
        closes: Some(Closes::Lineage(id)),
        means: None,
    }
}

fn is_missing(finding: &CheckFinding) -> bool {
    let missing = Error::ObjectMissing { object: String::new(), reason: String::new() };
    finding.code == missing.code()
}

/// Whether readers look for pieces of such an object elsewhere first.
fn is_replaceable(object: &str) -> bool {
    ["/packs/", "/maps/", "/collections/"].iter().any(|kind| object.contains(kind))
}

/// Whether it is one of the numbered objects by which the newest commit is found.
fn is_log(object: &str) -> bool {
    is_commit(object) || object.contains("/boundaries/")
}

fn lineage_of(object: &str) -> Option<LineageId> {
    object.strip_prefix("lineages/")?.split('/').next()?.parse().ok()
}
