//! What can go wrong with a vault, each case with its fields, its code and what to do.

use std::sync::Arc;

use farshore_core::{
    Code, Coded, DiskId, Generation, GroupName, HostName, LineageId, MachineId, RunId, Sequence, SiteName, Timestamp,
};

use crate::{Power, VaultLock, store::is_denied};

/// The error of a store, shared so that every caller that waits for the same failed work gets it.
pub type SharedSource = Arc<dyn std::error::Error + Send + Sync + 'static>;

/// Why something about a vault failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no vault at the address.
    #[error("there is no vault at {address}")]
    VaultMissing {
        /// Where it was looked for.
        address: String,
    },
    /// There is a vault at the address already.
    #[error("there is already a vault at {address}")]
    VaultExists {
        /// Where it was to be made.
        address: String,
    },
    /// The making of a vault at the address was interrupted.
    #[error("the making of a vault at {address} was interrupted")]
    VaultHalfMade {
        /// The vault's address.
        address: String,
    },
    /// The addresses that were given are not the two of one vault.
    #[error("{address} cannot be used so: {problem}")]
    AddressesUnfit {
        /// The address that does not fit.
        address: String,
        /// Why, as a sentence without a full stop.
        problem: String,
    },
    /// A vault with two addresses was opened at that of its data alone.
    #[error("{address} is where the vault's data is: without the address of its metadata it can be read only")]
    DataAddressAlone {
        /// The address of the data.
        address: String,
    },
    /// An object that should be at both addresses of the vault is at one only.
    #[error("{object} is at the address of the metadata, and not at that of the data")]
    NotAtData {
        /// The object.
        object: String,
    },
    /// The two addresses of the vault hold different objects under one name.
    #[error("{object} is one object at the address of the metadata, and another at that of the data")]
    AddressesDiffer {
        /// The object.
        object: String,
    },
    /// The passphrase does not open this vault with this kit; the slot is whole.
    #[error("the passphrase and the recovery kit do not open the vault at {address}")]
    WrongPassphrase {
        /// The vault's address.
        address: String,
    },
    /// A kit, join file or credential of another vault.
    #[error("the {what} is not of the vault at {address}")]
    OtherVault {
        /// What does not fit.
        what: &'static str,
        /// The vault's address.
        address: String,
    },
    /// A kit whose slot was retired.
    #[error("the recovery kit does not open the vault at {address} any more: its slot was replaced or removed")]
    KitRetired {
        /// The vault's address.
        address: String,
    },
    /// A file that is not the kit, join file or credential that it should be.
    #[error("the {what} cannot be used: {problem}")]
    KeyFile {
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The host lacks a power, or the keys for it.
    #[error("the host {host} has not the power {doing}: it would have to be a {power}{}", if *awaits_approval { ", and was not approved yet" } else { "" })]
    PowerMissing {
        /// The host.
        host: HostName,
        /// The power.
        power: Power,
        /// What needs it, as in `to add recovery points`.
        doing: &'static str,
        /// It was invited with the power, and lacks the keys only.
        awaits_approval: bool,
    },
    /// Only who has the kit and the passphrase may do it.
    #[error("the host {host} may not do it: {doing} the recovery kit and the passphrase are needed")]
    NotAdministrator {
        /// The host.
        host: HostName,
        /// What needs them, as in `to invite a host`.
        doing: &'static str,
    },
    /// The keys of a lineage were never sealed for this host.
    #[error("this host has no key to the lineage {lineage}")]
    NoKey {
        /// The lineage.
        lineage: LineageId,
    },
    /// A host cannot join, or has not joined.
    #[error("the host {host} cannot be let in: {why}")]
    JoinRefused {
        /// The host.
        host: HostName,
        /// Why, as a clause.
        why: String,
    },
    /// The host was revoked.
    #[error("the host {host} was revoked: it may do nothing in the vault any more")]
    HostRevoked {
        /// The host.
        host: HostName,
    },
    /// There is a host of this name already.
    #[error("there is already a host {host}")]
    HostExists {
        /// The host.
        host: HostName,
    },
    /// There is no host of this name.
    #[error("the vault has no host {host}")]
    HostMissing {
        /// The host.
        host: HostName,
    },
    /// Another administrator changed the ring first.
    #[error("another administrator wrote ring {number} first")]
    RingRace {
        /// The number that both wanted.
        number: u64,
    },
    /// A passphrase that cannot protect anything.
    #[error("the passphrase is empty")]
    EmptyPassphrase,
    /// An object is not what its reference says, or does not open.
    #[error("the object {object} is damaged: {problem}")]
    Damaged {
        /// The object's key below the vault's address.
        object: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An object that others refer to is gone.
    #[error("the object {object} is missing: {reason}")]
    ObjectMissing {
        /// The object's key below the vault's address.
        object: String,
        /// What refers to it.
        reason: String,
    },
    /// Another version of Farshore wrote this.
    #[error("the object {object} has format {found}; this version reads format {supported}")]
    UnsupportedFormat {
        /// The object's key below the vault's address.
        object: String,
        /// The format number in it.
        found: u16,
        /// The format number that this version reads and writes.
        supported: u16,
    },
    /// The store overwrites objects that it was told to create only if absent.
    #[error("the store {address} does not honour create-if-absent: {evidence}")]
    ConditionsIgnored {
        /// The store's address.
        address: String,
        /// What was done and what happened.
        evidence: String,
    },
    /// The store failed.
    #[error("could not {operation} the object {object}: {source}")]
    Store {
        /// What was asked of it: `read`, `create`, `list`, `look up`.
        operation: &'static str,
        /// The object's key below the vault's address.
        object: String,
        /// What the store said.
        source: SharedSource,
    },
    /// The store does not lock what a locked vault stores.
    #[error("the store {address} cannot keep a locked vault: {problem}")]
    BucketUnfit {
        /// The store's address.
        address: String,
        /// What it does not do.
        problem: String,
    },
    /// The locks of what the points of a group need end soon, or were never made longer.
    #[error(
        "the locks of what the group {group} needs {}",
        match horizon { Some(until) => format!("hold until {until} only"), None => "were never made longer".to_owned() }
    )]
    LockNear {
        /// The group.
        group: GroupName,
        /// Until when they hold, as far as it is recorded.
        horizon: Option<Timestamp>,
    },
    /// Only buckets of S3 have a bucket policy.
    #[error("there is no bucket policy for {address}")]
    NoBucketPolicy {
        /// The vault's address.
        address: String,
    },
    /// Only a locked vault has what was asked for.
    #[error("the vault is not locked")]
    NotLocked,
    /// A lock that would hold less than the one before.
    #[error(
        "the lock would hold less than before: {} for {} days instead of {} for {}",
        after.mode, after.span_seconds / 86_400, before.mode, before.span_seconds / 86_400
    )]
    LockWeaker {
        /// The lock that the vault has.
        before: VaultLock,
        /// The lock that was asked for.
        after: VaultLock,
    },
    /// The store cannot be used as it is configured.
    #[error("the store {address} cannot be used: {source}")]
    StoreConfiguration {
        /// The store's address.
        address: String,
        /// What is wrong.
        source: SharedSource,
    },
    /// A text that is not the address of a vault.
    #[error("{text:?} is not the address of a vault: {rule}")]
    InvalidAddress {
        /// The text, cut to 256 characters.
        text: String,
        /// What an address looks like.
        rule: String,
    },
    /// Somebody else may write to the lineage now.
    #[error(
        "the group {group} has been taken over: its generation is {current_generation} with the active site \
         {active_site}, not {generation} with {site}"
    )]
    Fenced {
        /// The group of the lineage.
        group: GroupName,
        /// The generation that the writer has.
        generation: Generation,
        /// The site of the writer.
        site: SiteName,
        /// The generation of the lineage's newest commit.
        current_generation: Generation,
        /// The active site of the lineage's newest commit.
        active_site: SiteName,
    },
    /// Another writer committed first.
    #[error("another writer made commit {sequence} of the group {group} first")]
    LostRace {
        /// The group of the lineage.
        group: GroupName,
        /// The number that both wanted.
        sequence: Sequence,
    },
    /// Another writer wrote this entry of a run's journal first, or the run exists.
    #[error("another writer made entry {number} of the run {run} first")]
    RunRace {
        /// The run.
        run: RunId,
        /// The number that both wanted.
        number: u64,
    },
    /// An entry whose predecessor is not there.
    #[error("entry {number} of the run {run} cannot be written: the entry before it is not there")]
    RunGap {
        /// The run.
        run: RunId,
        /// The number that was asked for.
        number: u64,
    },
    /// There is no journal of this run.
    #[error("the vault has no run {run}")]
    RunMissing {
        /// The run.
        run: RunId,
    },
    /// The lineage has no point of this number.
    #[error("the group {group} has no recovery point {sequence}")]
    PointMissing {
        /// The group of the lineage.
        group: GroupName,
        /// The number that was asked for.
        sequence: Sequence,
    },
    /// The point does not hold this disk.
    #[error("the recovery point {sequence} does not hold the disk {disk} of the machine {machine}")]
    DiskMissing {
        /// The point.
        sequence: Sequence,
        /// The machine that was asked for.
        machine: MachineId,
        /// The disk that was asked for.
        disk: DiskId,
    },
    /// A disk that is smaller than in the point before.
    #[error("the disk {disk} of the machine {machine} shrank from {parent_bytes} to {size_bytes} bytes")]
    DiskShrank {
        /// The machine.
        machine: MachineId,
        /// The disk.
        disk: DiskId,
        /// Its size in the parent point.
        parent_bytes: u64,
        /// Its size now.
        size_bytes: u64,
    },
    /// A read or write that makes no sense for the disk, or a point that contradicts its disks.
    #[error("{problem}")]
    InvalidRequest {
        /// What is wrong, as a sentence without a full stop.
        problem: String,
    },
    /// More than this version stores.
    #[error("{what} is {found}; the limit is {limit}")]
    LimitExceeded {
        /// What is too large, with its unit.
        what: &'static str,
        /// How large it is.
        found: u64,
        /// How large it may be.
        limit: u64,
    },
    /// Parameters of the passphrase's key derivation that are too weak to be used or too large to be safe.
    #[error("the key derivation parameter {parameter} is {found}; allowed are {floor} to {ceiling}")]
    KdfOutOfBounds {
        /// The parameter, with its unit.
        parameter: &'static str,
        /// What it is.
        found: u32,
        /// The least allowed.
        floor: u32,
        /// The most allowed.
        ceiling: u32,
    },
    /// The key derivation could not run.
    #[error("the key could not be derived from the passphrase with {memory_kib} KiB of memory: {reason}")]
    KdfFailed {
        /// The memory that it needs.
        memory_kib: u32,
        /// What the derivation said.
        reason: String,
    },
    /// What was sealed did not open to what was given: this machine computes or remembers wrongly.
    #[error("data that was just sealed for {object} did not read back as it was given: {problem}")]
    VerificationFailed {
        /// The object that was being made.
        object: String,
        /// What differed.
        problem: String,
    },
    /// The writer failed before, or its worker was stopped.
    #[error("the work cannot be finished: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! pages {
    ($($name:ident = $number:literal, $title:literal;)*) => {
        $(const $name: Code = Code::new($number);)*

        farshore_core::code_pages! {
            /// The pages behind this crate's codes.
            $($number $title),*
        }
    };
}

pages! {
    VAULT_MISSING = 1001, "There is no vault at the address";
    VAULT_EXISTS = 1002, "There is already a vault at the address";
    WRONG_PASSPHRASE = 1003, "The passphrase does not open the vault";
    DAMAGED = 1004, "An object of the vault is damaged";
    OBJECT_MISSING = 1005, "An object of the vault is missing";
    UNSUPPORTED_FORMAT = 1006, "The vault has another format";
    CONDITIONS_IGNORED = 1007, "The store cannot keep a vault safe";
    STORE = 1008, "The store failed";
    INVALID_ADDRESS = 1009, "The vault's address or its options are wrong";
    FENCED = 1010, "Another site has taken over the group";
    LOST_RACE = 1011, "Another writer committed first";
    RUN_RACE = 1012, "Another host is writing this run's journal";
    NOT_THERE = 1013, "The vault does not hold what was asked for";
    DISK_SHRANK = 1014, "A disk is smaller than in the point before";
    INVALID_REQUEST = 1015, "A request to the vault makes no sense";
    LIMIT_EXCEEDED = 1016, "A limit of the vault is reached";
    KDF = 1017, "The key cannot be derived from the passphrase";
    VERIFICATION_FAILED = 1018, "This machine corrupts data";
    STOPPED = 1019, "The recovery point was given up";
    POWER_MISSING = 1020, "This host may not do that";
    KEY_FILE = 1021, "A recovery kit, join file or credential does not fit";
    JOIN_REFUSED = 1022, "A host cannot be let in";
    RING_RACE = 1023, "Another administrator was faster";
    HOST_REVOKED = 1024, "This host was revoked";
    ADDRESSES = 1025, "The two addresses of the vault do not fit";
}

// Their pages are among those of the command line, beside the commands that they speak of.
const BUCKET_UNFIT: Code = Code::new(6030);
const LOCK_NEAR: Code = Code::new(6031);
const NOT_LOCKED: Code = Code::new(6032);
const LOCK_WEAKER: Code = Code::new(6033);
const NO_BUCKET_POLICY: Code = Code::new(6034);

impl Coded for Error {
    fn code(&self) -> Code {
        match self {
            Self::VaultMissing { .. } => VAULT_MISSING,
            Self::VaultExists { .. } | Self::VaultHalfMade { .. } => VAULT_EXISTS,
            Self::AddressesUnfit { .. }
            | Self::DataAddressAlone { .. }
            | Self::NotAtData { .. }
            | Self::AddressesDiffer { .. } => ADDRESSES,
            Self::WrongPassphrase { .. } => WRONG_PASSPHRASE,
            Self::Damaged { .. } => DAMAGED,
            Self::ObjectMissing { .. } => OBJECT_MISSING,
            Self::UnsupportedFormat { .. } => UNSUPPORTED_FORMAT,
            Self::ConditionsIgnored { .. } => CONDITIONS_IGNORED,
            Self::Store { .. } => STORE,
            Self::StoreConfiguration { .. } | Self::InvalidAddress { .. } => INVALID_ADDRESS,
            Self::Fenced { .. } => FENCED,
            Self::LostRace { .. } => LOST_RACE,
            Self::RunRace { .. } | Self::RunGap { .. } => RUN_RACE,
            Self::RunMissing { .. } | Self::PointMissing { .. } | Self::DiskMissing { .. } => NOT_THERE,
            Self::DiskShrank { .. } => DISK_SHRANK,
            Self::InvalidRequest { .. } => INVALID_REQUEST,
            Self::LimitExceeded { .. } => LIMIT_EXCEEDED,
            Self::EmptyPassphrase | Self::KdfOutOfBounds { .. } | Self::KdfFailed { .. } => KDF,
            Self::VerificationFailed { .. } => VERIFICATION_FAILED,
            Self::Stopped { .. } => STOPPED,
            Self::PowerMissing { .. } | Self::NotAdministrator { .. } | Self::NoKey { .. } => POWER_MISSING,
            Self::OtherVault { .. } | Self::KitRetired { .. } | Self::KeyFile { .. } => KEY_FILE,
            Self::HostRevoked { .. } => HOST_REVOKED,
            Self::JoinRefused { .. } | Self::HostExists { .. } | Self::HostMissing { .. } => JOIN_REFUSED,
            Self::RingRace { .. } => RING_RACE,
            Self::BucketUnfit { .. } => BUCKET_UNFIT,
            Self::LockNear { .. } => LOCK_NEAR,
            Self::NotLocked => NOT_LOCKED,
            Self::LockWeaker { .. } => LOCK_WEAKER,
            Self::NoBucketPolicy { .. } => NO_BUCKET_POLICY,
        }
    }

    fn advice(&self) -> Option<String> {
        let advice = match self {
            Self::VaultMissing { address } => format!(
                "check the address {address}; `farshore vault create` makes a vault there, if that is what you want"
            ),
            Self::VaultExists { address } => format!("open the vault at {address}, or choose another address"),
            Self::WrongPassphrase { .. } => {
                "type the passphrase again; check the keyboard layout, and that passphrase and kit are this vault's"
                    .to_owned()
            }
            Self::Damaged { object, .. } | Self::ObjectMissing { object, .. } => format!(
                "bring back {object} from a copy or an earlier version of the store, and run `farshore vault check` to \
                 see which recovery points are hurt"
            ),
            Self::UnsupportedFormat { found: 0, .. } => {
                "format 0 was a preview: recover what you need with the version of Farshore that wrote it, then make a \
                 new vault at another address"
                    .to_owned()
            }
            Self::UnsupportedFormat { .. } => "use the version of Farshore that wrote the vault".to_owned(),
            Self::VaultHalfMade { address } => {
                format!("nothing can be stored in it: empty {address}, or choose another address")
            }
            Self::AddressesUnfit { .. } => {
                "name the address of the vault's metadata with `address` in [vault], and that of its data with `address` in \
                 [vault.data]; a vault with one address has no [vault.data]"
                    .to_owned()
            }
            Self::DataAddressAlone { .. } => {
                "restore with `farshore rescue`; to write, name the address of the metadata with `address` in [vault], and \
                 this one in [vault.data]"
                    .to_owned()
            }
            Self::NotAtData { .. } => {
                "`farshore vault repair --execute` copies it, with the recovery kit and the passphrase if this host may not".to_owned()
            }
            Self::AddressesDiffer { .. } => {
                "stop writing, and find out whether one of the two stores was replaced or set back: `farshore explain FS1025`"
                    .to_owned()
            }
            Self::PowerMissing { host, awaits_approval: true, .. } => {
                format!("with the recovery kit and the passphrase, run `farshore vault join approve {host}`")
            }
            Self::PowerMissing { .. } | Self::NotAdministrator { .. } => {
                "do it where the recovery kit and the passphrase are: name the kit with `kit-file` in [vault] or `--kit`"
                    .to_owned()
            }
            Self::NoKey { .. } => {
                "with the recovery kit and the passphrase, run `farshore vault join approve` for this host".to_owned()
            }
            Self::HostRevoked { .. } => {
                "if it was not meant, invite it again under a new join file, with the recovery kit and the passphrase"
                    .to_owned()
            }
            Self::KitRetired { .. } => "use the newest kit; `farshore vault slots list` shows which there are".to_owned(),
            Self::BucketUnfit { .. } => {
                "enable versioning and object lock for the bucket, with a default retention of at least the vault's span and \
                 mode; `farshore vault lock show` says them"
                    .to_owned()
            }
            Self::LockNear { .. } => {
                "run `farshore vault lock extend` on a host that is a pruner, and see why it was not run daily".to_owned()
            }
            Self::NotLocked => "`farshore vault lock set` locks it".to_owned(),
            Self::LockWeaker { .. } => {
                "say --weaken when you mean it; what is locked already stays locked as it is".to_owned()
            }
            Self::RingRace { .. } => "look at `farshore vault join list`, and try again".to_owned(),
            Self::Store { source, .. } if is_out_of_space(source.as_ref()) => {
                "make room in the store; nothing that was committed is harmed".to_owned()
            }
            Self::Store { operation: "create", .. } => {
                "see whether the store can be reached and may be written to (it may be mounted read-only, or its \
                 credentials may only read); then try again. Recovering needs no right to write"
                    .to_owned()
            }
            Self::Store { .. } => {
                "see whether the store is reachable and its credentials are right; then try again".to_owned()
            }
            Self::Fenced { active_site, .. } => {
                format!("the machines of this group belong to {active_site} now: stop replicating them from here")
            }
            Self::LostRace { .. } => {
                "see whether a second host replicates this group; then start a new cycle".to_owned()
            }
            Self::DiskShrank { disk, .. } => {
                format!("if {disk} really was made smaller or replaced, protect its machine under a new group name")
            }
            Self::VerificationFailed { .. } => "test this machine's memory before you trust it with data".to_owned(),
            _ => return None,
        };
        Some(advice)
    }
}

/// The operation of [`Error::Store`] of an object that was created and could not be made durable.
pub(crate) const NOT_DURABLE: &str = "make durable";

/// Whether the system said somewhere below that no room is left.
fn is_out_of_space(error: &(dyn std::error::Error + 'static)) -> bool {
    const CAUSES_MAX: usize = 16;
    std::iter::successors(Some(error), |error| error.source()).take(CAUSES_MAX).any(|error| {
        error.downcast_ref::<std::io::Error>().is_some_and(|error| {
            matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
        })
    })
}

impl Error {
    /// An object that is not what it should be.
    pub(crate) fn damaged(object: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Damaged { object: object.into(), problem: problem.into() }
    }

    /// A random name that is taken already.
    pub(crate) fn repeated_randomness(object: &str) -> Self {
        Self::Stopped {
            reason: format!(
                "{object} exists already, so this machine's randomness has repeated (was it cloned or rolled back?); \
                 try again"
            ),
        }
    }

    /// A request that makes no sense.
    pub(crate) fn invalid(problem: impl Into<String>) -> Self {
        Self::InvalidRequest { problem: problem.into() }
    }

    /// Whether an object was created, and is visible, but may be gone after a power failure. A commit of which this is
    /// said must not be taken for durable though it can be read.
    pub fn is_not_durable(&self) -> bool {
        matches!(self, Self::Store { operation: NOT_DURABLE, .. })
    }

    /// Whether the store answered, and does not let this be done or has no room for it.
    pub fn is_refusal(&self) -> bool {
        let Self::Store { source, .. } = self else { return false };
        is_denied(self) || is_out_of_space(&**source)
    }

    /// Whether the vault itself is at fault: what `check` reports as a finding.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::ObjectMissing { .. } | Self::UnsupportedFormat { .. })
    }
}
