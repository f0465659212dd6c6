//! Keeps recovery points of groups of machines, encrypted and deduplicated, in an object store.
//!
//! It must not know what a platform or a component is, must not read the machine's clock or randomness itself, and must
//! never release a byte that it has not authenticated and re-identified. Only its module `store` names `object_store`;
//! only `seal` touches a key. `FORMAT.md` beside this crate says what lies in the store, byte by byte,
//! and `CRYPTO.md` under which keys.
//!
//! [`Vault::draft`] and [`Vault::open`] give a vault; [`Vault::lineage`] the sequence of recovery points of a group;
//! [`Lineage::begin_point`] a writer of the next point; [`Lineage::open_point`] a reader of one.

mod address;
mod boundary;
mod cache;
mod capsule;
mod check;
mod collection;
mod commit;
mod context;
mod error;
mod frames;
#[cfg(fuzzing)]
pub mod fuzzing;
mod header;
mod index;
mod keys;
mod ledger;
mod leftovers;
mod lineage;
mod lock;
mod log;
mod map;
mod map_writer;
mod pack;
mod packer;
mod page;
mod pin;
mod pipeline;
mod plain;
mod point;
mod policy;
mod proof;
mod prove;
mod prune;
mod reader;
mod repair;
mod retention;
mod run;
mod seal;
mod session;
mod store;
mod succession;
mod vault;
mod waiting;
mod wire;
mod working;

#[cfg(test)]
mod tests;

pub use address::{Address, StoreOptions};
pub use capsule::{CAPSULE_ITEM_BYTES_MAX, CAPSULE_ITEMS_MAX, CapsuleDraft, CapsuleItem};
pub use check::{
    CheckDepth, CheckFinding, CheckProgress, CheckReport, Closes, HurtExtent, HurtPoint, Means, SampleSize,
};
pub use context::{Context, Workers};
pub use error::{CODES, Error, Result, SharedSource};
pub use keys::{
    Approval, EpochPlan, HostCredential, HostInfo, JoinFile, KIT_WORDS, KdfParameters, Kit, Power, RevocationPlan,
    SlotDraft, SlotInfo, SlotRequest,
};
pub use lineage::{Lineage, LineageInfo};
pub use lock::{LockMode, VaultLock};
pub use page::PageRef;
pub use pin::PINS_MAX;
pub use point::{
    Head, MachineBehind, Pin, Point, PointDetails, PointDisk, PointDiskDraft, PointMachine, PointMachineDraft,
    PointStats,
};
pub use policy::{StoreRole, bucket_policy};
pub use proof::{Proof, ProofClaim, ProofHurt, ProofKind, telling_proofs};
pub use prove::{ProveOptions, ProveReport, Prover, ProverState};
pub use prune::{Amount, ExtensionPlan, ExtensionReport, Grace, PrunePlan, PruneReport, PrunedPoint};
pub use reader::{DiskReader, Piece, PointReader, READ_BYTES_MAX};
pub use repair::{LostObject, RepairPlan, RepairReport, RepairedPoint};
pub use retention::Retention;
pub use run::{RUN_ENTRIES_MAX, RUN_ENTRY_BYTES_MAX};
pub use session::{DiskWriter, PointWriter, WRITE_BYTES_MAX};
pub use store::{HiddenObject, MetadataPlan, PacedConnector, StillHidden, Store, UnhidePlan, UnhideReport};
pub use vault::{CreateOptions, Draft, KindUsage, Opener, UnreadableLineage, Usage, Vault, VaultInfo};
pub use waiting::WaitingSealer;
