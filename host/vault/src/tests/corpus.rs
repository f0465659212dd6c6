//! T07, the corpus of damaged vaults: each object that there is, missing, truncated, flipped, swapped with another of its kind,
//! stored a second time under the next name, and replaced by an older one. What must come of each is worked out here, from the
//! references that `whole` knows and the rules of FORMAT.md, and compared with what a host finds that knows nothing yet: whether
//! it opens the vault, which points it restores, what a full check names, and whom that hurts.

use std::collections::BTreeSet;

use farshore_core::Sequence;

use super::{
    whole::{RUN, Whole, billing, orders, whole},
    *,
};
use crate::{CheckDepth, Error, commit::commit_key};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Missing,
    Truncated,
    Flipped,
    /// It and another of its kind have changed places.
    Swapped,
    /// It is there again under the name that would come next, or any other.
    Duplicated,
    /// Another of its kind, that was stored before, is in its place.
    Older,
}

use Damage::{Duplicated, Flipped, Missing, Older, Swapped, Truncated};

const ALL: [Damage; 6] = [Missing, Truncated, Flipped, Swapped, Duplicated, Older];

/// An object, which other it is swapped with or replaced by, and what is made of it.
struct Row {
    name: String,
    /// Of its kind.
    other: Option<String>,
    /// Where a second one of it would be.
    next: Option<String>,
}

type Place = (GroupName, Sequence);

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    /// A host with every power can restore nothing, and no check tells it that all is well.
    refused: bool,
    /// Points that do not restore.
    lost: BTreeSet<Place>,
    /// What a full check names.
    named: BTreeSet<String>,
    /// Which commits the check takes for points that are hurt.
    hurt: BTreeSet<Place>,
    /// How many entries of the journal are read; none if it is refused.
    entries: Option<usize>,
    /// A replicator that was approved later can follow its groups.
    writer: bool,
}

/// All is well.
fn unharmed() -> Verdict {
    Verdict {
        refused: false,
        lost: BTreeSet::new(),
        named: BTreeSet::new(),
        hurt: BTreeSet::new(),
        entries: Some(2),
        writer: true,
    }
}

/// Nobody can use the vault without its administrator.
fn refused(whole: &Whole) -> Verdict {
    Verdict {
        refused: true,
        lost: whole.points.iter().map(|known| (known.group.clone(), known.sequence)).collect(),
        entries: None,
        writer: false,
        ..unharmed()
    }
}

fn key_of_next_commit(whole: &Whole, group: &GroupName) -> String {
    let lineage = whole.administrator.lineage_id(group);
    let folder = format!("lineages/{lineage}/commits/");
    let newest = whole.named.values().filter(|key| key.starts_with(&folder)).max().expect("it has commits");
    let number: u64 = newest.rsplit('/').next().and_then(|number| number.parse().ok()).expect("a number");
    commit_key(lineage, Sequence::new(number + 1))
}

/// The key with its last part replaced.
fn beside(key: &str, last: &str) -> String {
    format!("{}/{last}", key.rsplit_once('/').expect("it is in a folder").0)
}

/// The next number, or another id, after or beside a key.
fn next_name(key: &str) -> String {
    let last = key.rsplit('/').next().expect("a key has parts");
    match last.parse::<u64>() {
        Ok(number) if last.len() < 32 => beside(key, &format!("{:0width$}", number + 1, width = last.len())),
        _ => beside(key, &"f".repeat(32)),
    }
}

/// Every object of which something is expected, with another of its kind.
fn rows(whole: &Whole) -> Vec<Row> {
    let row = |name: &str, other: &str| Row {
        name: name.to_owned(),
        other: (!other.is_empty()).then(|| other.to_owned()),
        next: Some(next_name(&whole.named[name])),
    };
    let mut rows = vec![
        Row { name: "header".to_owned(), other: Some("slot".to_owned()), next: Some("vault-2".to_owned()) },
        row("enrolment of keeper", "enrolment of auditor"),
        row("enrolment of writer", "enrolment of auditor"),
        row("grant of keeper", "grant of auditor"),
        row("lineage box 1", "lineage box 2"),
        row("lineage box 2", "lineage box 1"),
        row("run entry 1", ""),
        row("run entry 2", "run entry 1"),
        row("raise", "commit C"),
        row("collection 1", ""),
        // The next name is that of a ring that is there.
        Row { name: "ring 1".to_owned(), other: None, next: None },
    ];
    for (name, other) in [("ring", "ring 1"), ("boundary", "boundary 1"), ("ledger", "ledger 1")] {
        rows.push(row(&whole.newest(name), other));
    }
    for (name, other, group) in [
        ("first commit 1", "first commit 2", orders()),
        ("first commit 2", "first commit 1", billing()),
        ("commit A", "commit B", orders()),
        ("commit B", "commit A", orders()),
        ("commit C", "commit B", orders()),
        ("pin", "raise", orders()),
        ("commit Z", "commit Y", billing()),
        ("commit Y", "commit Z", billing()),
        ("pruned commit", "commit Z", billing()),
    ] {
        let name = if name == "pruned commit" { whole.newest(name) } else { name.to_owned() };
        let next = Some(key_of_next_commit(whole, &group));
        rows.push(Row { name, other: Some(other.to_owned()), next });
    }
    for kind in ["pack", "map"] {
        for (name, other) in [("A", "B"), ("B", "A"), ("C", "B"), ("Y", "A")] {
            rows.push(row(&format!("{kind} {name}"), &format!("{kind} {other}")));
        }
    }
    rows
}

/// The store of a case; none where there is no such case.
async fn damaged(whole: &Whole, row: &Row, damage: Damage) -> Option<Arc<InMemory>> {
    let (key, own) = (whole.named[&row.name].as_str(), whole.bytes(&row.name).await);
    // Neighbours in a map pack are needed by different points: all of its pages are hit.
    let is_map = row.name.starts_with("map ");
    let changes = match damage {
        Missing => vec![(key, None)],
        Truncated => vec![(key, Some(own[..if is_map { 24 } else { own.len() / 2 }].to_vec()))],
        Flipped => {
            let mut flipped = own.clone();
            match is_map {
                true => flipped.iter_mut().skip(33).step_by(60).for_each(|byte| *byte ^= 16),
                false => flipped[own.len() / 2] ^= 16,
            }
            vec![(key, Some(flipped))]
        }
        Duplicated => vec![(row.next.as_deref()?, Some(own))],
        Older => vec![(key, Some(whole.bytes(row.other.as_deref()?).await))],
        Swapped => {
            let other = row.other.as_deref()?;
            vec![(key, Some(whole.bytes(other).await)), (whole.named[other].as_str(), Some(own))]
        }
    };
    Some(whole.with(&changes).await)
}

/// Points that need one of these objects, and what a check must say of them.
fn broken(whole: &Whole, names: &[&str]) -> Verdict {
    let keys: BTreeSet<String> = names.iter().map(|name| whole.named[*name].clone()).collect();
    let hit = whole.points.iter().filter(|known| !known.needs.is_disjoint(&keys));
    let mut verdict = unharmed();
    verdict.lost = hit.map(|known| (known.group.clone(), known.sequence)).collect();
    verdict.hurt = verdict.lost.clone();
    // Whether a commit that cannot be read was a point nobody can tell.
    for key in keys.iter().filter(|key| key.contains("/commits/")) {
        let group = [orders(), billing()].into_iter().find(|group| is_of(whole, group, key)).expect("of a group");
        let number = key.rsplit('/').next().and_then(|number| number.parse().ok()).expect("a number");
        verdict.hurt.insert((group, Sequence::new(number)));
    }
    verdict.named = keys;
    verdict
}

fn is_of(whole: &Whole, group: &GroupName, key: &str) -> bool {
    key.contains(&whole.administrator.lineage_id(group).to_string())
}

/// What must come of a case.
fn answer(whole: &Whole, row: &Row, damage: Damage) -> Verdict {
    let name = row.name.as_str();
    let (kind, _) = name.rsplit_once(' ').unwrap_or((name, ""));
    let both = |other: &Option<String>| match (damage, other) {
        (Swapped, Some(other)) => vec![name, other.clone().leak()],
        _ => vec![name],
    };
    match (kind, damage) {
        ("header", Duplicated) | ("enrolment of", Duplicated) | ("lineage box", Duplicated) => unharmed(),
        ("header", _) => refused(whole),
        ("enrolment of", _) if name.ends_with("writer") => Verdict { writer: false, ..unharmed() },
        // What the keeper wrote cannot be verified without its enrolment, by anybody.
        ("enrolment of", _) => refused(whole),
        ("grant of", _) => Verdict { writer: true, ..refused(whole) },
        // A box is its host's alone.
        ("lineage box", _) => Verdict { writer: false, ..unharmed() },
        // An older ring cannot be told from the newest, if that one was hidden; it does not know who came later.
        ("ring", Missing) if name != "ring 1" => Verdict { writer: false, ..unharmed() },
        // Its number is that of ring 2, which is there.
        ("ring", _) if name == "ring 1" => unharmed(),
        ("ring", _) => refused(whole),
        ("run entry", Missing) if name.ends_with('2') => Verdict { entries: Some(1), ..unharmed() },
        ("run entry", _) => Verdict { entries: None, ..unharmed() },
        ("pack" | "map" | "collection" | "ledger", Duplicated) => unharmed(),
        ("pack" | "map" | "collection", _) => broken(whole, &both(&row.other)),
        ("first commit", Missing | Truncated | Flipped | Swapped | Older) => first_commits(whole, &both(&row.other)),
        // A number past the end: as if somebody had committed what nobody can read. What counts before it is as it was.
        (_, Duplicated) => {
            let next = row.next.clone().expect("there is such a case");
            let group = [orders(), billing()].into_iter().find(|group| is_of(whole, group, &next)).expect("of a group");
            let number = next.rsplit('/').next().and_then(|number| number.parse().ok()).expect("a number");
            let is_commit = next.contains("/commits/");
            let hurt = is_commit.then_some((group, Sequence::new(number))).into_iter().collect();
            Verdict { named: BTreeSet::from([next]), hurt, ..unharmed() }
        }
        // The newest, if it is hidden, cannot be told from one that never was; the one before names a commit that is still there.
        ("pin" | "boundary", Missing) => unharmed(),
        // Of boundaries only the newest counts.
        ("boundary", _) => broken(whole, &[name]),
        ("commit", Missing) if name == "commit Y" => {
            let hidden = whole.points.last().expect("some");
            Verdict { lost: BTreeSet::from([(hidden.group.clone(), hidden.sequence)]), ..unharmed() }
        }
        _ => broken(whole, &both(&row.other)),
    }
}

/// All points of a group need its first commit; it names no point, and who follows the group cannot either.
fn first_commits(whole: &Whole, names: &[&str]) -> Verdict {
    Verdict { hurt: BTreeSet::new(), writer: false, ..broken(whole, names) }
}

async fn restores(vault: &Vault, known: &super::whole::Known) -> Result<()> {
    let missing = || Error::PointMissing { group: known.group.clone(), sequence: known.sequence };
    let lineage = vault.lineage(&known.group).await?.ok_or_else(missing)?;
    let point = lineage.point(known.sequence).await?;
    assert!(restore(&lineage, &point).await? == known.content, "point {} has other content", known.sequence);
    Ok(())
}

async fn follows(whole: &Whole, objects: &Arc<InMemory>) -> Result<bool> {
    let vault = whole.open(store(objects), &whole.writer).await?;
    let mut both = true;
    for group in [orders(), billing()] {
        both &= vault.lineage(&group).await?.is_some();
    }
    Ok(both)
}

/// What a host finds that knows nothing yet.
async fn find(whole: &Whole, objects: &Arc<InMemory>) -> Verdict {
    let writer = follows(whole, objects).await.unwrap_or(false);
    let vault = match whole.open(store(objects), &whole.keeper).await {
        Ok(vault) => vault,
        Err(error) => {
            let is_expected =
                error.is_damage() || matches!(error, Error::VaultMissing { .. } | Error::JoinRefused { .. });
            assert!(is_expected, "{error}");
            return Verdict { writer, ..refused(whole) };
        }
    };
    let mut verdict = Verdict { writer, ..unharmed() };
    for known in &whole.points {
        if let Err(error) = restores(&vault, known).await {
            let is_expected =
                error.is_damage() || matches!(error, Error::PointMissing { .. } | Error::PowerMissing { .. });
            assert!(is_expected, "{error}");
            verdict.lost.insert((known.group.clone(), known.sequence));
        }
    }
    verdict.entries = vault.run_entries(RUN).await.ok().map(|entries| entries.len());
    match vault.check(CheckDepth::Full, &|_| {}).await {
        Ok(report) => {
            for finding in report.findings {
                let hurt = finding.points.into_iter().map(|point| (point.group, point.sequence));
                verdict.hurt.extend(hurt);
                verdict.named.insert(finding.object);
            }
        }
        Err(Error::PowerMissing { .. }) => verdict.refused = true,
        Err(error) => panic!("damage is no error of a check: {error}"),
    }
    verdict
}

/// A case of which the graph alone says only the most that may be lost.
fn is_second_best(row: &Row) -> bool {
    ["ledger", "pruned commit"].iter().any(|kind| row.name.starts_with(kind))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damaged_vault_gets_its_right_verdict() {
    let whole = whole().await;
    let (mut cases, mut wrong) = (0, Vec::new());
    for row in rows(whole) {
        for damage in ALL {
            let Some(objects) = damaged(whole, &row, damage).await else { continue };
            cases += 1;
            let before = super::objects(&objects).await;
            let (expected, found) = (answer(whole, &row, damage), find(whole, &objects).await);
            assert_eq!(super::objects(&objects).await, before, "looking changes nothing");
            let is_right = match is_second_best(&row) && damage != Duplicated {
                false => found == expected,
                true => {
                    found.lost.is_subset(&expected.lost)
                        && !found.named.is_disjoint(&expected.named)
                        && Verdict {
                            lost: expected.lost.clone(),
                            named: expected.named.clone(),
                            hurt: expected.hurt.clone(),
                            ..found.clone()
                        } == expected
                }
            };
            if !is_right {
                wrong.push(format!("{} {damage:?}:\n  expected {expected:?}\n  found    {found:?}", row.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {cases} verdicts are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(cases >= 120, "{cases} cases");
}
