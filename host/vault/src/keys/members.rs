//! What the administrator does about hosts: invites, approves, lists them.

use bytes::Bytes;
use farshore_core::{HostId, HostName, SecretBytes, Timestamp};

use super::{
    Access, Approval, Bundle, HostInfo, JoinFile, Power, Ring,
    grant::{Grant, grant_key, lineage_box, lineage_host_key},
    host::Enrolment,
    revoke::revoked_at,
    ring::{Revocation, RingHost, WrittenUntil},
};
use crate::{Error, Result, Vault, seal::SigningKey, store::Created};

/// The most hosts of a vault.
const HOSTS_MAX: usize = 4096;

/// How often a change of the ring is tried again because another administrator was faster.
const RING_RACES_MAX: usize = 8;

impl Vault {
    /// Invites a host: whoever has the file that is returned can join once, until it expires.
    ///
    /// # Errors
    /// [`Error::NotAdministrator`]; [`Error::HostExists`]; [`Error::InvalidRequest`] without a power;
    /// [`Error::LimitExceeded`]; or the store failed.
    pub async fn invite(&self, name: &HostName, powers: &[Power], expires_at: Timestamp) -> Result<JoinFile> {
        let access = &self.0.access;
        let administrator = access.as_administrator("to invite a host")?;
        if powers.is_empty() {
            return Err(Error::invalid(format!("the host {name} would have no power")));
        }
        let entropy = &*self.0.context.entropy;
        let invitation = SigningKey::from_seed(SecretBytes::random(entropy));
        let mut powers = powers.to_vec();
        powers.sort_unstable();
        powers.dedup();
        let invited = RingHost {
            host: HostId::random(entropy),
            name: name.clone(),
            powers: powers.clone(),
            invitation: *invitation.public().as_bytes(),
            invited_at: self.0.context.clock.now(),
            expires_at,
            revoked: None,
        };
        let host = invited.host;
        self.change_ring("to invite a host", |ring| {
            if ring.hosts.iter().any(|host| host.name == *name && host.revoked.is_none()) {
                return Err(Error::HostExists { host: name.clone() });
            }
            if ring.hosts.len() >= HOSTS_MAX {
                let limit = u64::try_from(HOSTS_MAX).unwrap_or(u64::MAX);
                return Err(Error::LimitExceeded { what: "the number of hosts", found: limit + 1, limit });
            }
            ring.hosts.push(invited.clone());
            Ok(())
        })
        .await?;
        Ok(JoinFile {
            vault: self.id(),
            address: self.0.store.address().to_owned(),
            admin: administrator.bundle.admin.public(),
            host,
            name: name.clone(),
            powers,
            expires_at,
            member: administrator.bundle.member.clone(),
            invitation,
        })
    }

    /// Withdraws the invitation of a host that has not joined: its join file is worth nothing from then on. The ring goes on
    /// saying whose it was: should its enrolment only have been out of sight, the host can still be revoked, and what it wrote be
    /// read.
    ///
    /// # Errors
    /// [`Error::NotAdministrator`]; [`Error::HostMissing`]; [`Error::InvalidRequest`] when it has joined, or has got keys; or the
    /// store failed.
    pub async fn withdraw(&self, name: &HostName) -> Result<()> {
        let access = &self.0.access;
        access.as_administrator("to withdraw an invitation")?;
        let ring = access.read_ring().await?;
        let invited = find(&ring, name)?;
        if self.has_taken_part(invited).await? {
            return Err(Error::invalid(format!(
                "the host {name} has joined: its invitation was used; the host can be revoked"
            )));
        }
        let withdrawn = invited.host;
        self.change_ring("to withdraw an invitation", |ring| {
            let at = ring.written_at;
            if let Some(invited) = ring.host_mut(withdrawn) {
                let nothing = Some(WrittenUntil::default());
                invited.revoked.get_or_insert(Revocation { at, written_until: nothing });
            }
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Changes the newest ring, again if another administrator was faster. A change that changes nothing writes nothing.
    pub(crate) async fn change_ring(
        &self,
        doing: &'static str,
        change: impl Fn(&mut Ring) -> Result<()>,
    ) -> Result<()> {
        let access = &self.0.access;
        let admin = &access.as_administrator(doing)?.bundle.admin;
        access.may_write(&self.0.context).await?;
        let mut races = 0;
        loop {
            let mut ring = Ring::clone(&*access.read_ring().await?);
            // A kit that was retired meanwhile changes nothing any more.
            access.is_let_write(&ring)?;
            ring.number = ring.number.saturating_add(1);
            ring.written_at = self.0.context.clock.now();
            let before = ring.clone();
            change(&mut ring)?;
            if ring == before {
                return self.0.store.settle().await;
            }
            // Two administrators who take each other's slots out at once would leave a vault that nobody opens.
            if ring.slots.is_empty() {
                return Err(Error::invalid("no slot would be left, and nobody could open the vault any more"));
            }
            match ring.create(&self.0.store, &access.member, admin, &*self.0.context.entropy).await {
                Err(Error::RingRace { .. }) if races < RING_RACES_MAX => races += 1,
                created => {
                    created?;
                    access.read_ring().await?;
                    return Ok(());
                }
            }
        }
    }

    /// Gives a host the keys that its powers need, and a replicator those of the vault's groups. Idempotent: what the host
    /// has already is given again.
    ///
    /// # Errors
    /// [`Error::NotAdministrator`]; [`Error::HostMissing`]; [`Error::JoinRefused`] when it has not joined yet; or the store
    /// failed.
    pub async fn approve(&self, name: &HostName) -> Result<Approval> {
        let access = &self.0.access;
        access.as_administrator("to approve a host")?;
        access.may_write(&self.0.context).await?;
        let ring = access.read_ring().await?;
        let invited = find(&ring, name)?;
        let not_joined = || Error::JoinRefused { host: name.clone(), why: "it has not joined yet".to_owned() };
        let enrolment = access.enrolment(invited).await?.ok_or_else(not_joined)?;
        let entropy = &*self.0.context.entropy;
        let to = (invited.host, enrolment.receiving());
        let mut approval = Approval { host: invited.host, powers: Vec::new(), groups: Vec::new() };
        // An epoch that begins meanwhile is granted to those that have a grant: this host may not have been among them.
        loop {
            let number = access.ring().number;
            let bundle = self.whole_bundle().await?;
            if self.grant(&bundle, invited, &enrolment).await? {
                approval.powers = invited.powers.iter().copied().filter(|power| power.needs_approval()).collect();
            }
            if access.read_ring().await?.number == number {
                break;
            }
        }
        if invited.has(Power::Replicator) {
            for (id, lineage) in self.list_lineages().await? {
                let Some(lineage) = self.lineage_by_id(lineage?.id).await? else { continue };
                let bytes = lineage_box(&access.member, id, &lineage.secrets, to, entropy)?;
                self.0.store.create(&lineage_host_key(id, invited.host), vec![Bytes::from(bytes)]).await?;
                approval.groups.push(lineage.group.clone());
            }
        }
        Ok(approval)
    }

    /// Gives a host the keys of this bundle that its powers need; whether there are any.
    pub(crate) async fn grant(&self, bundle: &Bundle, invited: &RingHost, enrolment: &Enrolment) -> Result<bool> {
        let Some(grant) = Grant::of(bundle, invited) else { return Ok(false) };
        let to = (invited.host, enrolment.receiving());
        let mut number = 1;
        loop {
            let bytes = grant.encode(&self.0.access.member, bundle, to, number, &*self.0.context.entropy)?;
            match self.0.store.create(&grant_key(invited.host, number), vec![Bytes::from(bytes)]).await? {
                Created::Mine => return Ok(true),
                Created::Other => number = number.saturating_add(1),
            }
        }
    }

    /// The hosts that were invited, by name.
    ///
    /// # Errors
    /// The ring or an enrolment is damaged, or the store failed.
    pub async fn hosts(&self) -> Result<Vec<HostInfo>> {
        let access: &Access = &self.0.access;
        let ring = access.read_ring().await?;
        let mut hosts = Vec::with_capacity(ring.hosts.len());
        for invited in &ring.hosts {
            let has_joined = access.enrolment(invited).await?.is_some();
            if invited.revoked.is_some() && !has_joined {
                continue;
            }
            let is_granted = self.0.store.size(&grant_key(invited.host, 1)).await?.is_some();
            hosts.push(HostInfo {
                id: invited.host,
                name: invited.name.clone(),
                powers: invited.powers.clone(),
                invited_at: invited.invited_at,
                expires_at: invited.expires_at,
                has_joined,
                is_approved: has_joined && (is_granted || !invited.needs_approval()),
                revoked_at: revoked_at(invited),
            });
        }
        hosts.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(hosts)
    }
}

fn find<'a>(ring: &'a Ring, name: &HostName) -> Result<&'a RingHost> {
    let missing = || Error::HostMissing { host: name.clone() };
    ring.hosts.iter().find(|host| host.name == *name && host.revoked.is_none()).ok_or_else(missing)
}
