//! How old the newest point of each group is that was proven: read in the vault, now and then.

use std::{sync::Arc, time::Duration};

use farshore_core::{Clock, GroupName, Sequence};
use farshore_replication::{Board, ProvenStatus};
use farshore_vault::{Lineage, Point, Vault, telling_proofs};
use tokio_util::sync::CancellationToken;

/// Every group is looked at once in so long.
const EVERY: Duration = Duration::from_secs(600);
/// So many of the newest points are looked at.
const POINTS_MAX: usize = 100;

/// Looks until the daemon stops.
pub async fn look(vault: &Vault, board: &Arc<Board>, clock: &dyn Clock, stop: &CancellationToken) {
    loop {
        let groups: Vec<GroupName> = board.all().into_iter().map(|(status, _)| status.group).collect();
        // One at a time, and spread over the time, so that a thousand groups make no crowd.
        let pause = EVERY / u32::try_from(groups.len().max(1)).unwrap_or(u32::MAX);
        let mut rest = EVERY;
        for group in groups {
            if let Ok(Some(lineage)) = vault.lineage(&group).await
                && let Ok(Proven { whole, hurt }) = proven(&lineage).await
            {
                board.proven(&group, whole, hurt);
            }
            rest = rest.saturating_sub(pause);
            tokio::select! {
                () = stop.cancelled() => return,
                () = clock.sleep(pause) => {}
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = clock.sleep(rest) => {}
        }
    }
}

/// What was proven of a group's points.
#[derive(Debug, Default)]
pub struct Proven {
    /// The newest point of which something was proven, and nothing that is wrong.
    pub whole: Option<ProvenStatus>,
    /// The newest point of which something was proven, if that is damaged.
    pub hurt: Option<Sequence>,
}

/// What was proven of the newest points of a group.
///
/// # Errors
/// What the vault says.
pub async fn proven(lineage: &Lineage) -> farshore_vault::Result<Proven> {
    let points = lineage.list_points(None, POINTS_MAX).await?;
    let points: Vec<Point> = points.into_iter().filter_map(|(_, point)| point.ok()).collect();
    let numbers: Vec<Sequence> = points.iter().map(|point| point.sequence).collect();
    let mut proofs = lineage.proofs_of(&numbers).await?;
    let mut proven = Proven::default();
    for point in points {
        let proofs = proofs.remove(&point.sequence).unwrap_or_default();
        let telling = telling_proofs(&proofs);
        let Some(best) = telling.first() else { continue };
        if telling.iter().all(|proof| proof.is_whole()) {
            proven.whole = Some(ProvenStatus {
                point: point.sequence,
                captured_at: point.captured_at,
                by: best.claim.what.name().to_owned(),
                proven_at: best.proven_at(),
            });
            break;
        }
        proven.hurt.get_or_insert(point.sequence);
    }
    Ok(proven)
}
