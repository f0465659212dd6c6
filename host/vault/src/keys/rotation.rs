//! A new epoch: what is stored from then on is sealed to new keys, which only today's slots and hosts get.
//!
//! Whoever had keys and lost the right to them (a host that was revoked, a kit whose slot was taken out) keeps what it
//! could open before, and opens nothing that comes later: data, and the secrets of groups that begin later. See CRYPTO.md
//! for what a new epoch does not change.
//!
//! ## Crash consistency
//! First the private keys are stored for every slot ([`super::epochs`]), then granted to the hosts that need them, and last
//! the ring says that the epoch has begun; nobody seals to keys that somebody lacks. What an interrupted rotation leaves is
//! never used: the next makes keys of its own.

use bytes::Bytes;
use farshore_core::{Epoch, HostName};
use serde::Serialize;

use super::{
    Bundle, EpochSecrets, Ring, SlotInfo, epochs,
    grant::grant_key,
    ring::{RingHost, RingSlot},
    slots::slot_info,
};
use crate::{Error, Result, Vault, seal::PublicKey};

/// The most epochs of a vault: their keys have to fit into a slot.
const EPOCHS_MAX: usize = 200;

/// What a rotation will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EpochPlan {
    /// The epoch that will begin.
    pub epoch: Epoch,
    /// The slots that will get its keys: all of them.
    pub slots: Vec<SlotInfo>,
    /// The hosts that will get its keys, as their powers need them.
    pub hosts: Vec<HostName>,
    /// The ring that was looked at.
    #[serde(skip)]
    ring: u64,
}

impl Vault {
    /// Plans a new epoch.
    ///
    /// # Errors
    /// [`Error::NotAdministrator`]; [`Error::InvalidRequest`] when a slot cannot be given its keys; [`Error::LimitExceeded`];
    /// or the store failed.
    pub async fn plan_epoch(&self) -> Result<EpochPlan> {
        let access = &self.0.access;
        let own = access.as_administrator("to begin a new epoch")?.slot;
        let ring = access.read_ring().await?;
        let (found, limit) = (ring.epochs.len() + 1, EPOCHS_MAX);
        if found > limit {
            let number = |count| u64::try_from(count).unwrap_or(u64::MAX);
            return Err(Error::LimitExceeded {
                what: "the number of epochs",
                found: number(found),
                limit: number(limit),
            });
        }
        let slots: Vec<_> = ring.slots.iter().map(|slot| slot_info(slot, Some(own))).collect();
        if let Some(slot) = slots.iter().find(|slot| !slot.follows_epochs) {
            return Err(Error::invalid(format!(
                "the slot {} was made by a version that could not begin epochs, and would not get the keys: its keeper has \
                 to make a new kit, or the slot has to be removed",
                slot.id
            )));
        }
        let mut hosts = Vec::new();
        for invited in &ring.hosts {
            if self.needs_epochs(invited).await? {
                hosts.push(invited.name.clone());
            }
        }
        let epoch = ring.current()?.epoch.next();
        Ok(EpochPlan { epoch, slots, hosts, ring: ring.number })
    }

    /// Whether a host has keys of epochs that it must get the next of.
    async fn needs_epochs(&self, invited: &RingHost) -> Result<bool> {
        let is_candidate = invited.needs_approval() && invited.revoked.is_none();
        Ok(is_candidate && self.0.store.size(&grant_key(invited.host, 1)).await?.is_some())
    }

    /// Begins the epoch of a plan.
    ///
    /// # Errors
    /// [`Error::RingRace`] when the ring has changed since: plan anew. An enrolment is damaged, or the store failed: then the
    /// epoch has not begun, unless the ring says so.
    pub async fn begin_epoch(&self, plan: &EpochPlan) -> Result<()> {
        let access = &self.0.access;
        let entropy = &*self.0.context.entropy;
        let bundle = access.bundle("to begin a new epoch")?;
        access.may_write(&self.0.context).await?;
        let ring = access.ring();
        let race = |number| Error::RingRace { number };
        if ring.number != plan.ring {
            return Err(race(ring.number));
        }
        let keys = EpochSecrets::random(plan.epoch, entropy);
        let object = epochs::epoch_key(&keys.public());
        let slots = ring.slots.iter().map(|slot| Ok((slot.slot, self.receiving(slot)?)));
        let slots = slots.collect::<Result<Vec<_>>>()?;
        let bytes = epochs::encode(&access.member, &keys, &slots, entropy)?;
        self.0.store.create(&object, vec![Bytes::from(bytes)]).await?;
        // What was stored must open, or the epoch would seal what nobody opens.
        let administrator = access.as_administrator("to begin a new epoch")?;
        let own = (administrator.slot, &administrator.receiving);
        if epochs::read(&self.0.store, &access.member, &keys.public(), own).await?.is_none() {
            return Err(Error::ObjectMissing { object, reason: "it was just created".to_owned() });
        }
        let public = keys.public();
        let mut all = bundle;
        all.epochs.push(keys);
        self.grant_epochs(&ring, &all).await?;
        self.change_ring("to begin a new epoch", |ring| {
            if ring.number != plan.ring.saturating_add(1) {
                return Err(race(ring.number));
            }
            ring.epochs.push(public.clone());
            Ok(())
        })
        .await
    }

    /// To which key what is for a slot is sealed.
    fn receiving(&self, slot: &RingSlot) -> Result<PublicKey> {
        let administrator = self.0.access.as_administrator("to begin a new epoch")?;
        let own = (slot.slot == administrator.slot).then(|| administrator.receiving.public());
        let lacking = || Error::invalid(format!("the slot {} cannot be given keys", slot.slot));
        own.or_else(|| slot.receiving()).ok_or_else(lacking)
    }

    /// Grants keys to each host that has some.
    async fn grant_epochs(&self, ring: &Ring, bundle: &Bundle) -> Result<()> {
        for invited in &ring.hosts {
            if self.needs_epochs(invited).await?
                && let Some(enrolment) = self.0.access.enrolment(invited).await?
            {
                self.grant(bundle, invited, &enrolment).await?;
            }
        }
        Ok(())
    }
}
