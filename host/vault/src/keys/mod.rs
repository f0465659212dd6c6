//! Who may do what with a vault.
//!
//! ## Powers
//! A host gets only the powers that it needs ([`Power`]), each a set of keys that the others do not have. Whoever has the
//! recovery kit and the passphrase is the vault's *administrator*, and has them all; that is for making hosts, and for the
//! worst day.
//!
//! | who | seals data | reads data | follows references | writes and reads journals | changes the ring |
//! | --- | --- | --- | --- | --- | --- |
//! | replicator | its groups | no | its groups | no | no |
//! | recoverer | no | yes | yes | reads | no |
//! | controller | no | no | yes | yes | no |
//! | pruner | no | no | yes | no | no |
//! | administrator | yes | yes | yes | yes | yes |
//!
//! ## How trust is found
//! The kit, a join file and a host's credential each name the vault and its administrator's public key. The administrator
//! signs the *ring* ([`ring`]): which hosts were invited, with which powers. An invited host makes its own keys, and its
//! *enrolment* ([`host`]) is signed with the key in its join file. What it needs of the vault's keys beyond those is
//! *granted* to it ([`grant`]). Everything that a host writes is signed, and a reader compares the author's powers.
//!
//! ## Concurrency
//! Rings and grants are numbered objects that are created if absent, so two administrators cannot overwrite each other.

pub(crate) mod access;
pub(crate) mod boxes;
pub(crate) mod epochs;
mod file;
mod grant;
mod host;
mod kit;
mod members;
mod revoke;
pub(crate) mod ring;
mod rotation;
mod slot;
mod slots;

use std::fmt;

use farshore_core::{HostId, HostName, Timestamp};
use serde::{Deserialize, Serialize};

pub(crate) use self::{
    access::{Access, Administrator, Holder},
    ring::{Ring, RingEpoch, RingSlot, ring_key},
    slot::{Bundle, EpochSecrets, SLOT_BYTES_MAX, Slot, slot_key},
};
pub use self::{
    grant::Approval,
    host::{HostCredential, JoinFile},
    kit::{KIT_WORDS, Kit},
    revoke::RevocationPlan,
    rotation::EpochPlan,
    slot::KdfParameters,
    slots::{SlotDraft, SlotInfo, SlotRequest},
};

/// What a host may do with a vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// It adds recovery points to its groups. It can read nothing that was stored before.
    Replicator,
    /// It reads what disks hold, to restore and to prove it.
    Recoverer,
    /// It makes runs, fences groups, and pins points.
    Controller,
    /// It deletes what retention gives up. It follows references, and cannot read what disks hold.
    Pruner,
}

impl Power {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Replicator, Self::Recoverer, Self::Controller, Self::Pruner];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Replicator => "replicator",
            Self::Recoverer => "recoverer",
            Self::Controller => "controller",
            Self::Pruner => "pruner",
        }
    }

    /// Whether it needs keys of the vault that an administrator has to grant.
    pub const fn needs_approval(self) -> bool {
        matches!(self, Self::Recoverer | Self::Controller | Self::Pruner)
    }
}

impl fmt::Display for Power {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl std::str::FromStr for Power {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|power| power.name() == text);
        known.ok_or_else(|| {
            format!("there is no power {text:?}: replicator, recoverer, controller and pruner are those")
        })
    }
}

/// A host that was invited to a vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostInfo {
    /// Its id.
    pub id: HostId,
    /// What the administrator calls it.
    pub name: HostName,
    /// What it may do.
    pub powers: Vec<Power>,
    /// When it was invited, as the administrator's host counts time.
    pub invited_at: Timestamp,
    /// Until when its join file can be used.
    pub expires_at: Timestamp,
    /// Whether it has joined.
    pub has_joined: bool,
    /// Whether it has got the keys that its powers need.
    pub is_approved: bool,
    /// When it was revoked, as the administrator's host counts time: it may do nothing any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
}
