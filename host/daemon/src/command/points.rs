//! `points`.

use farshore_core::{Basis, Consistency, GroupName, Instant, LineageId, Sequence, SiteName, Timestamp};
use farshore_vault::{Lineage, Point, Proof, ProofKind, SampleSize, Vault, telling_proofs};
use serde::Serialize;

use crate::{
    arguments::PointsArguments,
    context::Context,
    error::CliError,
    output::{Failure, Table, human},
    vault::{self, Needs},
};

#[derive(Serialize)]
struct GroupPoints {
    /// None if damage hides the name.
    group: Option<GroupName>,
    lineage: LineageId,
    /// None if damage hides it.
    active_site: Option<SiteName>,
    /// The newest first.
    points: Vec<ProvenPoint>,
    /// What is damaged, and hides no more than itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreadable: Vec<Unreadable>,
}

/// A point, and what was proven of it, the newest proof first.
#[derive(Serialize)]
struct ProvenPoint {
    #[serde(flatten)]
    point: Point,
    proofs: Vec<Proof>,
}

#[derive(Serialize)]
struct Unreadable {
    /// The number of the commit; none if it is not known or the whole group cannot be read.
    point: Option<Sequence>,
    problem: String,
}

/// Runs it.
pub async fn run(context: &Context, arguments: &PointsArguments) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let vault = vault::open(context, &configuration, Needs::Powers(&[])).await?;
    list(context, &vault, arguments).await
}

/// Lists the points of an open vault.
pub async fn list(context: &Context, vault: &Vault, arguments: &PointsArguments) -> Result<(), Failure> {
    let limit = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    let gathering = gather(vault, arguments.group.as_ref(), limit);
    let all = context.until_stopped("nothing was changed", gathering).await??;
    context.output.result(&all, || render(&all, context.clock.now()))?;
    match all.iter().map(|group| group.unreadable.len()).sum() {
        0 => Ok(()),
        count => Err(CliError::Damage { count }.into()),
    }
}

async fn gather(vault: &Vault, group: Option<&GroupName>, limit: usize) -> Result<Vec<GroupPoints>, Failure> {
    let Some(group) = group else {
        let mut all = Vec::new();
        for (id, known) in vault.list_lineages().await? {
            all.push(match known {
                Ok(known) => group_points(&super::lineage(vault, &known.group).await?, limit).await?,
                // `vault info` counts those.
                Err(farshore_vault::Error::NoKey { .. }) => continue,
                Err(error) => GroupPoints {
                    group: None,
                    lineage: id,
                    active_site: None,
                    points: Vec::new(),
                    unreadable: vec![Unreadable { point: None, problem: error.to_string() }],
                },
            });
        }
        return Ok(all);
    };
    let lineage = super::lineage(vault, group).await?;
    Ok(vec![group_points(&lineage, limit).await?])
}

async fn group_points(lineage: &Lineage, limit: usize) -> Result<GroupPoints, Failure> {
    let active_site = match lineage.head().await {
        Ok(head) => Some(head.active_site),
        // The newest commit is then among those that are listed as unreadable.
        Err(error) if error.is_damage() => None,
        Err(error) => return Err(error.into()),
    };
    let (mut points, mut unreadable) = (Vec::new(), Vec::new());
    for (sequence, point) in lineage.list_points(None, limit).await? {
        match point {
            Ok(point) => points.push(point),
            Err(error) => unreadable.push(Unreadable { point: Some(sequence), problem: error.to_string() }),
        }
    }
    let numbers: Vec<Sequence> = points.iter().map(|point: &Point| point.sequence).collect();
    let mut proofs = lineage.proofs_of(&numbers).await?;
    let proven = |point: Point| ProvenPoint { proofs: proofs.remove(&point.sequence).unwrap_or_default(), point };
    let points = points.into_iter().map(proven).collect();
    Ok(GroupPoints { group: Some(lineage.group().clone()), lineage: lineage.id(), active_site, points, unreadable })
}

fn render(all: &[GroupPoints], now: Timestamp) -> String {
    let head = [
        "GROUP",
        ">POINT",
        "CAPTURED",
        "AGE",
        "INSTANT",
        "CONSISTENCY",
        "BASIS",
        ">CHANGED",
        ">STORED",
        "PROVEN",
        "LABEL",
        "NOTE",
    ];
    let mut table = Table::new(&head);
    let mut unreadable_lines = String::new();
    for GroupPoints { group, lineage, points, unreadable, .. } in all {
        let name = group.as_ref().map_or_else(|| format!("of lineage {lineage}"), ToString::to_string);
        for ProvenPoint { point, proofs } in points {
            table.row([
                name.clone(),
                point.sequence.to_string(),
                point.captured_at.to_string(),
                human::age(point.captured_at, now),
                instant(point.instant).to_owned(),
                consistency(point.consistency).to_owned(),
                basis(point),
                human::bytes(point.stats.bytes_changed),
                human::bytes(point.stats.bytes_stored),
                proven(proofs, now),
                point.label.as_ref().map(ToString::to_string).unwrap_or_default(),
                point.note.clone(),
            ]);
        }
        for Unreadable { point, problem } in unreadable {
            let what = point.map(|point| format!(", commit {point}")).unwrap_or_default();
            unreadable_lines.push_str(&format!("group {name}{what}: unreadable: {problem}\n"));
        }
    }
    match (table.is_empty(), unreadable_lines.is_empty()) {
        (true, true) => "The vault has no recovery points yet.\n".to_owned(),
        (true, false) => unreadable_lines,
        (false, _) => table.render() + &unreadable_lines,
    }
}

const fn instant(instant: Instant) -> &'static str {
    match instant {
        Instant::Group => "group",
        Instant::Machine => "per machine",
    }
}

const fn consistency(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Crash => "crash",
        Consistency::Application => "application",
    }
}

/// How the disks that were captured for it were obtained: one word when all were alike, else `mixed` with what each was.
pub fn basis(point: &Point) -> String {
    let captured = point.machines.iter().filter(|machine| machine.captured_at.is_none());
    let disks = captured.flat_map(|machine| &machine.disks);
    let mut words: Vec<&str> = disks
        .map(|disk| match disk.basis {
            Basis::Tracked => "tracked",
            Basis::Compared => "compared",
            Basis::Full => "full",
        })
        .collect();
    words.sort_unstable();
    words.dedup();
    words.join("+")
}

/// What is known of a point in a few words; `-` if nothing was ever proven.
fn proven(proofs: &[Proof], now: Timestamp) -> String {
    let word = |proof: &Proof| {
        let hurt = if proof.is_whole() { "" } else { "HURT " };
        format!("{hurt}{} {}", kind(proof), human::age(proof.proven_at(), now))
    };
    let words: Vec<String> = telling_proofs(proofs).into_iter().map(word).collect();
    if words.is_empty() { "-".to_owned() } else { words.join("; ") }
}

fn kind(proof: &Proof) -> String {
    match proof.claim.what {
        ProofKind::Sample { billionths } => format!("sample {},", SampleSize::Billionths(billionths)),
        what => what.name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use farshore_core::{HostId, PackId};
    use farshore_vault::{ProofClaim, ProofHurt};

    use super::*;

    #[test]
    fn what_was_proven_is_said_in_a_few_words() {
        let now = Timestamp::from_unix_milliseconds(100_000_000);
        let proof = |minutes: i64, what, is_whole: bool| {
            let at = Timestamp::from_unix_milliseconds(100_000_000 - minutes * 60_000);
            let hurt = (!is_whole).then_some(ProofHurt { objects: 1, machines: 1, bytes: 1 });
            Proof {
                id: PackId::from_bytes([1; 16]),
                point: Sequence::new(2),
                author: HostId::from_bytes([0; 16]),
                received_at: at,
                claim: ProofClaim { what, begun_at: at, ended_at: at, bytes_read: 0, hurt },
            }
        };
        let sample = ProofKind::Sample { billionths: 10_000_000 };
        for (proofs, expected) in [
            (vec![], "-"),
            (vec![proof(120, ProofKind::Full, true)], "full 2 h ago"),
            (vec![proof(20, sample, true), proof(30, ProofKind::Structure, true)], "sample 1 %, 20 min ago"),
            (
                vec![
                    proof(5, ProofKind::Structure, true),
                    proof(120, ProofKind::Full, true),
                    proof(180, sample, false),
                ],
                "full 2 h ago; structure 5 min ago",
            ),
            (
                vec![proof(5, sample, true), proof(180, sample, false)],
                "HURT sample 1 %, 3 h ago; sample 1 %, 5 min ago",
            ),
            (vec![proof(5, sample, true), proof(180, ProofKind::Structure, false)], "sample 1 %, 5 min ago"),
            (
                vec![
                    proof(5, ProofKind::Structure, false),
                    proof(6, ProofKind::Structure, true),
                    proof(9, sample, true),
                ],
                "HURT structure 5 min ago; sample 1 %, 9 min ago; structure 6 min ago",
            ),
        ] {
            assert_eq!(proven(&proofs, now), expected);
        }
    }
}
