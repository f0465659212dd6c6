//! Revoking a host: what it wrote up to then counts, and nothing that it writes later.
//!
//! Its key would go on to sign, and no clock tells which signature came first. So each lineage says it: a commit
//! `host-revoked` has a number, and commits of the host that come after it do not count; the ring keeps these numbers, and
//! those of the last boundaries and of the last entries of the runs that it took part in.
//!
//! ## Crash consistency and concurrency
//! 1. The ring says that the host is being revoked. A Farshore that runs there writes nothing from then on: it reads the
//!    ring after what it builds on, and before each write.
//! 2. Each lineage gets its commit. A write of the host that began before loses its number to that commit, reads the ring,
//!    and gives up; so nothing that it wrote honestly is cut off.
//! 3. The ring gets the numbers. From then on who reads the host's later objects refuses them.
//!
//! Whoever has stolen the host's key, and can write to the store, can put objects in the way of others until its access
//! to the store is taken away: that is the store's part. An interrupted revocation goes on where it stopped.

use std::collections::BTreeSet;

use farshore_core::{HostId, HostName, LineageId, Timestamp};
use futures::TryStreamExt;
use serde::Serialize;

use super::{
    Power,
    grant::grant_key,
    host::enrolment_key,
    ring::{Revocation, RingHost, WrittenUntil},
};
use crate::{
    Error, Head, Result, Vault,
    boundary::{boundary_folder, boundary_key},
    commit::{Event, commit_folder},
    lineage::LineageShared,
    store::Created,
};

/// How often a commit is tried again because others committed meanwhile.
const RACES_MAX: usize = 64;

/// What revoking a host will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RevocationPlan {
    /// The host.
    pub host: HostId,
    /// Its name.
    pub name: HostName,
    /// What it could do.
    pub powers: Vec<Power>,
    /// Whether it is revoked already, or its revocation was interrupted: what was out of reach then is told now.
    pub has_begun: bool,
    /// How many lineages will get a commit that says it: none if the host could write to none.
    pub lineages: usize,
    /// Whether it had keys of the vault, so that a new epoch is needed to keep it from reading what comes.
    pub had_keys: bool,
}

impl Vault {
    /// Plans to revoke a host that has joined.
    ///
    /// # Errors
    /// [`Error::NotAdministrator`]; [`Error::HostMissing`]; [`Error::InvalidRequest`] when it has neither joined nor got keys:
    /// then its invitation can be withdrawn; or the store failed.
    pub async fn plan_revocation(&self, name: &HostName) -> Result<RevocationPlan> {
        let access = &self.0.access;
        access.as_administrator("to revoke a host")?;
        let ring = access.read_ring().await?;
        let mut named: Vec<&RingHost> = ring.hosts.iter().filter(|host| host.name == *name).collect();
        named.sort_by_key(|host| (host.revoked.is_some(), std::cmp::Reverse(host.invited_at)));
        let invited = *named.first().ok_or_else(|| Error::HostMissing { host: name.clone() })?;
        if invited.revoked.is_none() && !self.has_taken_part(invited).await? {
            return Err(Error::invalid(format!("the host {name} has not joined: withdraw its invitation")));
        }
        let lineages = if writes_lineages(&invited.powers) { self.lineage_ids().await?.len() } else { 0 };
        Ok(RevocationPlan {
            host: invited.host,
            name: name.clone(),
            powers: invited.powers.clone(),
            has_begun: invited.revoked.is_some(),
            lineages,
            had_keys: invited.needs_approval(),
        })
    }

    /// Whether a host has joined, or has keys: then its word may be what groups stand on, even if its enrolment is lost.
    pub(super) async fn has_taken_part(&self, invited: &RingHost) -> Result<bool> {
        let has_joined = self.0.store.size(&enrolment_key(invited.host)).await?.is_some();
        Ok(has_joined || self.0.store.size(&grant_key(invited.host, 1)).await?.is_some())
    }

    /// Revokes the host of a plan. Idempotent: what was told stays as it is, and lineages and runs that were out of reach are told
    /// now.
    ///
    /// # Errors
    /// [`Error::NotAdministrator`]; [`Error::LostRace`] when others committed all the while; or the store failed: then the
    /// host writes nothing any more, and it must be run again until it succeeds.
    pub async fn revoke(&self, plan: &RevocationPlan) -> Result<()> {
        self.change_ring("to revoke a host", |ring| {
            let at = ring.written_at;
            let invited = ring.host_mut(plan.host).ok_or_else(|| Error::HostMissing { host: plan.name.clone() })?;
            invited.revoked.get_or_insert(Revocation { at, written_until: None });
            Ok(())
        })
        .await?;
        let ring = self.0.access.ring();
        let told =
            ring.host(plan.host).and_then(|host| host.revoked.as_ref()?.written_until.clone()).unwrap_or_default();
        let mut until = WrittenUntil::default();
        if writes_lineages(&plan.powers) {
            for id in self.lineage_ids().await?.into_iter().filter(|id| !told.lineages.contains_key(id)) {
                until.lineages.insert(id, self.tell_lineage(id, plan.host).await?);
            }
        }
        if plan.powers.contains(&Power::Controller) {
            for run in self.runs(usize::MAX).await?.into_iter().filter(|run| !told.runs.contains_key(run)) {
                if let Some(last) = self.last_entry_of(run, plan.host).await? {
                    until.runs.insert(run, last);
                }
            }
        }
        self.change_ring("to revoke a host", |ring| {
            if let Some(revoked) = ring.host_mut(plan.host).and_then(|host| host.revoked.as_mut()) {
                let known = revoked.written_until.get_or_insert_default();
                for (id, last) in &until.lineages {
                    known.lineages.entry(*id).or_insert(*last);
                }
                for (run, last) in &until.runs {
                    known.runs.entry(*run).or_insert(*last);
                }
            }
            Ok(())
        })
        .await
    }

    /// Tells a lineage that a host is revoked; the numbers of its last commit and boundary that count.
    async fn tell_lineage(&self, id: LineageId, host: HostId) -> Result<(u64, u64)> {
        let told = match self.lineage_by_id(id).await {
            Ok(Some(lineage)) => commit_revoked(&lineage, host).await.map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        match told {
            Ok(Some(commit)) => {
                let boundary = self.0.store.last_number(0, |number| boundary_key(id, number)).await?;
                Ok((commit, boundary))
            }
            // A lineage that is damaged, or that nobody here can open, must not keep a host from being revoked: what is there
            // counts as before.
            Ok(None) => Ok((0, 0)),
            Err(error) if error.is_damage() || matches!(error, Error::NoKey { .. }) => {
                tracing::warn!(%error, lineage = %id, "the lineage cannot be told that the host is revoked");
                Ok((self.last_listed(&commit_folder(id)).await?, self.last_listed(&boundary_folder(id)).await?))
            }
            Err(error) => Err(error),
        }
    }

    /// The end of the longest sequence of numbers without a gap among a folder's objects; 0 if there is none. Somebody may have put a
    /// far number there, so that what he writes up to it would count.
    async fn last_listed(&self, folder: &str) -> Result<u64> {
        let mut numbers = BTreeSet::new();
        let mut listed = std::pin::pin!(self.0.store.list(folder));
        while let Some(object) = listed.try_next().await? {
            let name = object.key.rsplit('/').next().unwrap_or_default();
            numbers.extend(name.parse::<u64>().ok());
        }
        Ok(end_of_longest(&numbers))
    }
}

fn end_of_longest(numbers: &BTreeSet<u64>) -> u64 {
    let (mut longest, mut run) = ((0u64, 0u64), (0u64, 0u64));
    for number in numbers {
        let length = if run.1.checked_add(1) == Some(*number) { run.0 + 1 } else { 1 };
        run = (length, *number);
        longest = longest.max(run);
    }
    longest.1
}

/// Whether these powers let a host write to lineages.
fn writes_lineages(powers: &[Power]) -> bool {
    powers.iter().any(|power| matches!(power, Power::Replicator | Power::Controller | Power::Pruner))
}

/// Commits that a host is revoked; the number of that commit.
async fn commit_revoked(lineage: &LineageShared, host: HostId) -> Result<u64> {
    for _ in 0..RACES_MAX {
        let built_on = lineage.log.newest().await?;
        let head = Head { sequence: built_on.head.sequence.next(), ..built_on.head.clone() };
        let number = head.sequence.get();
        if lineage.log.create(&built_on, head, Event::HostRevoked { host }).await?.0 == Created::Mine {
            return Ok(number);
        }
    }
    let sequence = lineage.log.newest().await?.head.sequence;
    Err(Error::LostRace { group: lineage.group.clone(), sequence })
}

/// When a host was revoked.
pub(super) fn revoked_at(host: &RingHost) -> Option<Timestamp> {
    host.revoked.as_ref().map(|revoked| revoked.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_far_number_does_not_lead_the_count_astray() {
        let end = |numbers: &[u64]| end_of_longest(&numbers.iter().copied().collect());
        assert_eq!(end(&[]), 0);
        assert_eq!(end(&[1, 2, 3, u64::MAX - 1]), 3);
        assert_eq!(end(&[1, 7, 90, 91, 92, 93, 500]), 93);
        assert_eq!(end(&[1, 9]), 9);
    }
}
