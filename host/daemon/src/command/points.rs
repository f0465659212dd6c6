//! `points`.

use farshore_core::{Basis, Consistency, GroupName, Instant, SiteName, Timestamp};
use farshore_vault::{Point, Vault};
use serde::Serialize;

use crate::{
    arguments::PointsArguments,
    context::Context,
    output::{Failure, Table, human},
    vault,
};

#[derive(Serialize)]
struct GroupPoints {
    group: GroupName,
    active_site: SiteName,
    /// The newest first.
    points: Vec<Point>,
}

/// Runs it.
pub async fn run(context: &Context, arguments: &PointsArguments) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let vault = vault::open(context, &configuration).await?;
    let groups = match &arguments.group {
        Some(group) => vec![group.clone()],
        None => vault.lineages().await?.into_iter().map(|lineage| lineage.group).collect(),
    };
    let limit = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    let gathering = gather(&vault, groups, limit);
    let all = context.until_stopped("nothing was changed", gathering).await??;
    context.output.result(&all, || render(&all, context.clock.now()))?;
    Ok(())
}

async fn gather(vault: &Vault, groups: Vec<GroupName>, limit: usize) -> Result<Vec<GroupPoints>, Failure> {
    let mut all = Vec::new();
    for group in groups {
        let lineage = super::lineage(vault, &group).await?;
        let active_site = lineage.head().await?.active_site;
        all.push(GroupPoints { points: lineage.points(None, limit).await?, group, active_site });
    }
    Ok(all)
}

fn render(all: &[GroupPoints], now: Timestamp) -> String {
    let head = ["GROUP", ">POINT", "CAPTURED", "AGE", "INSTANT", "CONSISTENCY", "BASIS", ">CHANGED", ">STORED", "NOTE"];
    let mut table = Table::new(&head);
    for GroupPoints { group, points, .. } in all {
        for point in points {
            table.row([
                group.to_string(),
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
    }
    if table.is_empty() { "The vault has no recovery points yet.\n".to_owned() } else { table.render() }
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
