//! `points`.

use farshore_core::{Basis, Consistency, GroupName, Instant, LineageId, Sequence, SiteName, Timestamp};
use farshore_vault::{Lineage, Point, Vault};
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
    points: Vec<Point>,
    /// What is damaged, and hides no more than itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreadable: Vec<Unreadable>,
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
    Ok(GroupPoints { group: Some(lineage.group().clone()), lineage: lineage.id(), active_site, points, unreadable })
}

fn render(all: &[GroupPoints], now: Timestamp) -> String {
    let head = ["GROUP", ">POINT", "CAPTURED", "AGE", "INSTANT", "CONSISTENCY", "BASIS", ">CHANGED", ">STORED", "NOTE"];
    let mut table = Table::new(&head);
    let mut unreadable_lines = String::new();
    for GroupPoints { group, lineage, points, unreadable, .. } in all {
        let name = group.as_ref().map_or_else(|| format!("of lineage {lineage}"), ToString::to_string);
        for point in points {
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

/// How the disks were obtained: one word when all were alike, else `mixed` with what each was.
pub fn basis(point: &Point) -> String {
    let disks = point.machines.iter().flat_map(|machine| &machine.disks);
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
