//! How old the newest point of each group is that was proven: read in the vault, now and then.

use std::{sync::Arc, time::Duration};

use farshore_core::{Clock, GroupName, Sequence};
use farshore_replication::{Board, ProvenStatus};
use farshore_vault::{Lineage, Vault, telling_proofs};
use tokio_util::sync::CancellationToken;

/// Every group is looked at once in so long.
const EVERY: Duration = Duration::from_secs(600);
/// So many of the newest points that have proofs are looked at.
const POINTS_MAX: usize = 1_000;

/// Looks until the daemon stops.
pub async fn look(vault: &Vault, board: &Arc<Board>, clock: &dyn Clock, stop: &CancellationToken) {
    let mut is_first = true;
    loop {
        // After a start all are looked at at once: what is damaged must not look good for long.
        let pace = if is_first { Duration::ZERO } else { EVERY };
        is_first = false;
        let groups: Vec<GroupName> = board.all().into_iter().map(|(status, _)| status.group).collect();
        // One at a time, and spread over the time, so that a thousand groups make no crowd.
        let pause = pace / u32::try_from(groups.len().max(1)).unwrap_or(u32::MAX);
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

/// What was proven of a group's points: from the newest of which something was, back to the newest of which nothing is wrong.
///
/// # Errors
/// What the vault says.
pub async fn proven(lineage: &Lineage) -> farshore_vault::Result<Proven> {
    let mut proven = Proven::default();
    for sequence in lineage.points_with_proofs().await?.into_iter().take(POINTS_MAX) {
        let mut proofs = lineage.proofs_of(&[sequence]).await?;
        let proofs = proofs.remove(&sequence).unwrap_or_default();
        let telling = telling_proofs(&proofs);
        let Some(best) = telling.first() else { continue };
        if telling.iter().any(|proof| !proof.is_whole()) {
            proven.hurt.get_or_insert(sequence);
            continue;
        }
        let (by, proven_at) = (best.claim.what.name().to_owned(), best.proven_at());
        // It is as old as what it has of the machine that is furthest behind.
        let captured_at = lineage.point(sequence).await?.oldest_part();
        proven.whole = Some(ProvenStatus { point: sequence, captured_at, by, proven_at });
        break;
    }
    Ok(proven)
}
