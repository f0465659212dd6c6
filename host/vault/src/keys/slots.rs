//! Slots: each opens the vault with a recovery kit and a passphrase of its own, so that two administrators need share
//! neither. A new passphrase or a new kit is a new slot that takes the place of an old one.
//!
//! ## Crash consistency
//! The kit's file is its keeper's to write, before [`SlotDraft::commit`]: the slot's object comes next, and one change of
//! the ring puts the new slot in and the old one out. Until that change the old kit opens the vault, from then on the new
//! one. A command that was interrupted before it goes on with the kit's file that it left ([`Vault::resume_slot`]).

use bytes::Bytes;
use farshore_core::{Epoch, Passphrase, SecretBytes, SlotId, Timestamp};
use serde::Serialize;

use super::{
    Bundle, Holder, KdfParameters, Kit, Ring, RingSlot,
    epochs::{self, SLOTS_MAX},
    slot::{Slot, slot_key},
};
use crate::{
    Error, Result, Vault,
    seal::{PublicKey, stored_hash},
};

/// The most bytes of a slot's label.
const LABEL_BYTES_MAX: usize = 128;

/// A slot that opens the vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlotInfo {
    /// Its id, as its kit says it.
    pub id: SlotId,
    /// Whose it is, for people.
    pub label: String,
    /// When it was made, as its maker counted time; none of a slot that does not say.
    pub made_at: Option<Timestamp>,
    /// Whether the vault was opened with it.
    pub is_own: bool,
    /// Whether it can be given the keys of epochs that begin later.
    pub follows_epochs: bool,
}

/// What a new slot is made of.
#[derive(Debug)]
pub struct SlotRequest<'a> {
    /// Its passphrase.
    pub passphrase: &'a Passphrase,
    /// How dear it is to try the passphrase.
    pub kdf: KdfParameters,
    /// A kit whose words stay what they are; otherwise there will be new ones.
    pub same_words_as: Option<&'a Kit>,
    /// Whose it is, for people.
    pub label: &'a str,
}

/// A slot that is about to be made: its kit is there, and nothing in the store yet.
#[derive(Debug)]
pub struct SlotDraft {
    vault: Vault,
    kit: Kit,
    receiving: PublicKey,
    label: String,
    made_at: Timestamp,
    epochs: Vec<Epoch>,
}

impl Vault {
    /// The slots that open the vault, in the order in which they were made.
    ///
    /// # Errors
    /// The ring is damaged, or the store failed.
    pub async fn slots(&self) -> Result<Vec<SlotInfo>> {
        let access = &self.0.access;
        let own = match &access.holder {
            Holder::Administrator(administrator) => Some(administrator.slot),
            Holder::Host { .. } => None,
        };
        let ring = access.read_ring().await?;
        Ok(ring.slots.iter().map(|slot| slot_info(slot, own)).collect())
    }

    /// The slot with which the vault was opened.
    ///
    /// # Errors
    /// [`Error::NotAdministrator`].
    pub fn own_slot(&self) -> Result<SlotId> {
        Ok(self.0.access.as_administrator("to change how the vault is opened")?.slot)
    }

    /// Begins to make a slot. It takes the time of one key derivation, and writes nothing.
    ///
    /// # Errors
    /// [`Error::NotAdministrator`]; [`Error::LimitExceeded`] for the label; a bad passphrase or key derivation;
    /// [`Error::ObjectMissing`] when this handle lacks keys that the slot would lack; or the store failed.
    pub async fn draft_slot(&self, request: SlotRequest<'_>) -> Result<SlotDraft> {
        request.kdf.check()?;
        check_label(request.label)?;
        let bundle = self.whole_bundle().await?;
        let (context, vault, id) = (&self.0.context, self.id(), SlotId::random(&*self.0.context.entropy));
        let entropy = std::sync::Arc::clone(&context.entropy);
        let secret = match request.same_words_as {
            Some(kit) if kit.vault() == vault => kit.secret().clone(),
            Some(_) => {
                return Err(Error::OtherVault { what: "recovery kit", address: self.0.store.address().to_owned() });
            }
            None => SecretBytes::random(&*entropy),
        };
        let (epochs, admin) = (bundle.epochs.iter().map(|keys| keys.epoch).collect(), bundle.admin.public());
        let (passphrase, kit_secret, kdf) = (request.passphrase.clone(), secret.clone(), request.kdf);
        let make = move || Slot::make(id, vault, &bundle, &passphrase, &kit_secret, kdf, &*entropy);
        let (object, receiving) = context.workers.run(make).await??;
        let made_at = context.clock.now();
        let slot = Slot::parse(&slot_key(id), &object)?;
        let kit = Kit::new(self.0.store.rescue_address(), made_at, admin, &slot, object, secret);
        let receiving = receiving.public();
        Ok(SlotDraft { vault: self.clone(), kit, receiving, label: request.label.to_owned(), made_at, epochs })
    }

    /// Goes on with a slot whose kit was written before its making was interrupted. It takes the time of one key
    /// derivation, and writes nothing.
    ///
    /// # Errors
    /// [`Error::NotAdministrator`]; [`Error::OtherVault`], [`Error::WrongPassphrase`] when the kit and the passphrase do not
    /// belong together or to this vault; or the store failed.
    pub async fn resume_slot(&self, kit: Kit, passphrase: &Passphrase, label: &str) -> Result<SlotDraft> {
        check_label(label)?;
        let address = || self.0.store.address().to_owned();
        let other = || Error::OtherVault { what: "recovery kit", address: address() };
        let own = self.whole_bundle().await?;
        if kit.vault() != self.id() || kit.admin() != own.admin.public() {
            return Err(other());
        }
        let slot = Slot::parse("the slot in the recovery kit", kit.slot_object())?;
        if slot.vault != self.id() || slot.id != kit.slot() {
            return Err(Error::damaged("the slot in the recovery kit", "it is another one"));
        }
        let (passphrase, secret) = (passphrase.clone(), kit.secret().clone());
        let opened = self.0.context.workers.run(move || slot.open(&passphrase, &secret)).await??;
        let (bundle, receiving) = opened.ok_or_else(|| Error::WrongPassphrase { address: address() })?;
        if bundle.admin.public() != own.admin.public() {
            return Err(other());
        }
        let epochs = bundle.epochs.iter().map(|keys| keys.epoch).collect();
        let made_at = self.0.context.clock.now();
        let receiving = receiving.public();
        Ok(SlotDraft { vault: self.clone(), kit, receiving, label: label.to_owned(), made_at, epochs })
    }

    /// Takes a slot out of the ring: its kit does not open the vault any more. Idempotent. It does not help against whoever
    /// opened the vault with it before: begin a new epoch then.
    ///
    /// # Errors
    /// [`Error::NotAdministrator`]; [`Error::InvalidRequest`] for the slot with which the vault was opened; or the store
    /// failed.
    pub async fn remove_slot(&self, slot: SlotId) -> Result<()> {
        if self.own_slot()? == slot {
            let problem = "the vault was opened with this slot: remove it with the kit of another";
            return Err(Error::invalid(problem));
        }
        self.change_ring("to remove a slot", |ring| {
            ring.slots.retain(|found| found.slot != slot);
            Ok(())
        })
        .await
    }

    /// All keys that there are; a slot with fewer would lose what was sealed with the others.
    pub(super) async fn whole_bundle(&self) -> Result<Bundle> {
        let access = &self.0.access;
        let ring = access.read_ring().await?;
        let bundle = access.bundle("to change how the vault is opened")?;
        let lacking = ring.epochs.iter().find(|keys| bundle.epochs.iter().all(|known| known.epoch != keys.epoch));
        match lacking {
            None => Ok(bundle),
            Some(keys) => Err(Error::ObjectMissing {
                object: epochs::epoch_key(keys),
                reason: format!("the keys of epoch {} lie in it", keys.epoch),
            }),
        }
    }
}

impl SlotDraft {
    /// The kit that will open the vault. Keep it before [`SlotDraft::commit`].
    pub fn kit(&self) -> &Kit {
        &self.kit
    }

    /// Makes the slot, and takes another out in the same change. Idempotent.
    ///
    /// # Errors
    /// [`Error::NotAdministrator`]; [`Error::InvalidRequest`] when an epoch has begun whose keys the slot lacks;
    /// [`Error::LimitExceeded`]; or the store failed.
    pub async fn commit(self, replaces: Option<SlotId>) -> Result<()> {
        let Self { vault, kit, receiving, label, made_at, epochs } = self;
        let object = kit.slot_object().to_vec();
        let made = RingSlot::new(kit.slot(), stored_hash(&object), receiving, label, made_at);
        vault.0.store.prove_conditions(&*vault.0.context.entropy).await?;
        vault.0.store.create(&slot_key(kit.slot()), vec![Bytes::from(object)]).await?;
        vault.change_ring("to add a slot", |ring| put(ring, &made, &epochs, replaces)).await
    }
}

fn put(ring: &mut Ring, made: &RingSlot, epochs: &[Epoch], replaces: Option<SlotId>) -> Result<()> {
    if replaces == Some(made.slot) {
        return Err(Error::invalid(
            "this kit is the one that the vault was opened with: name a new file for the new kit",
        ));
    }
    if ring.slots.iter().all(|slot| slot.slot != made.slot) {
        if ring.epochs.iter().any(|keys| !epochs.contains(&keys.epoch)) {
            let problem =
                "a new epoch has begun since this recovery kit was made, and its keys are not in it: make another";
            return Err(Error::invalid(problem));
        }
        ring.slots.push(made.clone());
    }
    if let Some(replaced) = replaces {
        ring.slots.retain(|slot| slot.slot != replaced);
    }
    let (found, limit) = (ring.slots.len(), SLOTS_MAX);
    if found > limit {
        let number = |count| u64::try_from(count).unwrap_or(u64::MAX);
        return Err(Error::LimitExceeded { what: "the number of slots", found: number(found), limit: number(limit) });
    }
    Ok(())
}

pub(super) fn slot_info(slot: &RingSlot, own: Option<SlotId>) -> SlotInfo {
    SlotInfo {
        id: slot.slot,
        label: slot.label.clone(),
        made_at: slot.made_at,
        is_own: own == Some(slot.slot),
        follows_epochs: slot.receiving().is_some() || own == Some(slot.slot),
    }
}

fn check_label(label: &str) -> Result<()> {
    let number = |count| u64::try_from(count).unwrap_or(u64::MAX);
    let (found, limit) = (number(label.len()), number(LABEL_BYTES_MAX));
    if found > limit {
        return Err(Error::LimitExceeded { what: "the label of a slot, in bytes,", found, limit });
    }
    if label.chars().any(char::is_control) {
        return Err(Error::invalid("the label of a slot has a control character"));
    }
    Ok(())
}
