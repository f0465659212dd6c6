//! Commits: the sequence of a lineage.
//!
//! A commit is the object `lineages/<lineage>/commits/<number of 20 digits>`. The numbers are 1, 2, 3 without gaps, and
//! who creates a number if absent has made that commit. The first is the genesis and carries the lineage's secrets, in a
//! box for each who may have them; the others are recovery points, raises of the generation, pins, prunes and
//! extensions of locks. Each says what the
//! lineage's state is after it, so that the newest is all that a writer needs, and holds the hash of the commit before it.
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | prologue of kind 2; its length is that of the JSON |
//! | | the boxes, see `keys::boxes` |
//! | rest | sealed: author (16), signature (64), the Zstandard frame of the JSON |

use bytes::Bytes;
use farshore_core::{Entropy, Generation, GroupName, HostId, LineageId, RunId, Sequence, SiteName, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    Error, Head, Point, Result, Retention, Store,
    keys::{
        Access, Power,
        boxes::{self, KeyBox},
    },
    ledger::LedgerRef,
    seal::{self, Hash, Purpose, SEALED_OVERHEAD_BYTES, SIGNATURE_BYTES, Sealer, Statement},
    wire::{Kind, Reader, length_u32, open_prologue, prologue},
};

/// The most bytes of a commit's JSON.
pub(crate) const COMMIT_PLAIN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The most bytes of a commit that a reader accepts.
const COMMIT_BYTES_MAX: usize =
    COMMIT_PLAIN_BYTES_MAX + COMMIT_PLAIN_BYTES_MAX / 64 + SEALED_OVERHEAD_BYTES + 16 * 1024;

/// The folder of a lineage's commits.
pub(crate) fn commit_folder(lineage: LineageId) -> String {
    format!("lineages/{lineage}/commits")
}

/// The key of a commit.
pub(crate) fn commit_key(lineage: LineageId, sequence: Sequence) -> String {
    format!("{}/{:020}", commit_folder(lineage), sequence.get())
}

/// The number in a commit's name.
pub(crate) fn commit_number(name: &str) -> Option<u64> {
    if name.len() == 20 { name.parse().ok() } else { None }
}

/// What a commit does.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) enum Event {
    /// It begins the lineage.
    Genesis {
        group: GroupName,
        /// What the keys of its content are, so that wrong ones are found.
        #[serde(with = "crate::wire::hex")]
        content_check: Hash,
    },
    /// It makes a point visible.
    Point(Box<Point>),
    /// It takes the right to write from whoever had it.
    GenerationRaised { previous_site: SiteName, reason: String },
    /// It says which points stand from now on, and what is to be deleted.
    Pruned(Box<Pruned>),
    /// A run lays claim to a point.
    Pinned { run: RunId, point: Sequence },
    /// A run gives its claim up.
    Unpinned { run: RunId },
    /// What this host commits from here on does not count.
    HostRevoked { host: HostId },
    /// The locks of what the points that stand need hold at least until then.
    LockExtended { until: Timestamp, objects: u64 },
}

/// What a prune decided, in few words; the ledger has all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pruned {
    /// The newest commit that was looked at: what follows it stands.
    pub(crate) judged: Sequence,
    pub(crate) ledger: LedgerRef,
    /// The rules that were applied.
    pub(crate) retention: Retention,
    /// How many points they gave up.
    pub(crate) points_dropped: u64,
    /// How many points stand, as far as it looked.
    pub(crate) points_kept: u64,
}

impl Event {
    /// Its author must have one of these powers, or be the administrator.
    fn powers(&self) -> &'static [Power] {
        match self {
            Self::Genesis { .. } | Self::Point(_) => &[Power::Replicator],
            Self::GenerationRaised { .. } | Self::Pinned { .. } | Self::Unpinned { .. } => &[Power::Controller],
            Self::Pruned(_) | Self::LockExtended { .. } => &[Power::Pruner],
            Self::HostRevoked { .. } => &[],
        }
    }
}

/// A commit's content.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommitBody {
    pub(crate) lineage: LineageId,
    /// The lineage's state with this commit.
    pub(crate) head: Head,
    /// BLAKE3 of the stored bytes of the commit before; zeros in the first.
    #[serde(with = "crate::wire::hex")]
    pub(crate) previous: Hash,
    /// When it was written, as its writer counts time.
    pub(crate) written_at: Timestamp,
    pub(crate) event: Event,
}

/// A commit as it was read.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    pub(crate) body: CommitBody,
    /// Who signed it.
    pub(crate) author: HostId,
    /// BLAKE3 of its stored bytes.
    pub(crate) hash: Hash,
    /// When the store received it, as the store counts time.
    pub(crate) received_at: Timestamp,
}

impl CommitBody {
    /// The stored bytes: signed as the holder of the vault, sealed with the lineage's key.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`], or [`Error::VerificationFailed`].
    pub(crate) fn encode(
        &self,
        access: &Access,
        sealer: &Sealer,
        boxes: &[KeyBox],
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>> {
        let object = commit_key(self.lineage, self.head.sequence);
        let json = serde_json::to_vec(self)
            .map_err(|error| Error::invalid(format!("the commit cannot be written: {error}")))?;
        let json = Zeroizing::new(json);
        if json.len() > COMMIT_PLAIN_BYTES_MAX {
            let found = u64::try_from(json.len()).unwrap_or(u64::MAX);
            let limit = u64::try_from(COMMIT_PLAIN_BYTES_MAX).unwrap_or(u64::MAX);
            return Err(Error::LimitExceeded {
                what: "the description of the recovery point, in bytes,",
                found,
                limit,
            });
        }
        let packed = zstd::bulk::compress(&json, 3)
            .map_err(|error| Error::VerificationFailed { object: object.clone(), problem: error.to_string() })?;
        let boxes = boxes::encode(boxes);
        let (lineage, sequence, author) = (self.lineage, self.head.sequence.get(), access.author());
        let boxes_hash = seal::stored_hash(&boxes);
        let body = seal::stored_hash(&packed);
        let statement = Statement::Commit { lineage, sequence, author, boxes: boxes_hash, body };
        let mut plain = Zeroizing::new(Vec::with_capacity(16 + SIGNATURE_BYTES + packed.len()));
        plain.extend_from_slice(author.as_bytes());
        plain.extend_from_slice(&access.sign(&statement));
        plain.extend_from_slice(&packed);
        let mut bytes = prologue(Kind::Commit, length_u32(json.len())).to_vec();
        bytes.extend_from_slice(&boxes);
        let purpose = Purpose::Commit { lineage, sequence, boxes: boxes_hash };
        bytes.extend_from_slice(&sealer.seal(&object, purpose, &plain, entropy)?);
        Ok(bytes)
    }
}

/// A commit's stored bytes, taken apart.
pub(crate) struct StoredCommit {
    object: String,
    lineage: LineageId,
    sequence: Sequence,
    json_bytes: usize,
    /// The boxes with the secrets of its lineage; none but in the first.
    pub(crate) boxes: Vec<KeyBox>,
    boxes_hash: Hash,
    sealed: Bytes,
    hash: Hash,
    received_at: Timestamp,
}

/// Reads a commit's stored bytes; none if there is none of this number.
///
/// # Errors
/// It is damaged, or the store failed.
pub(crate) async fn read_stored(store: &Store, lineage: LineageId, sequence: Sequence) -> Result<Option<StoredCommit>> {
    let object = commit_key(lineage, sequence);
    let Some((bytes, received_at)) = store.read_dated(&object, COMMIT_BYTES_MAX).await? else { return Ok(None) };
    let (length, rest) = open_prologue(&object, Kind::Commit, &bytes)?;
    let json_bytes = usize::try_from(length).unwrap_or(usize::MAX);
    if json_bytes > COMMIT_PLAIN_BYTES_MAX {
        return Err(Error::damaged(object, format!("it claims to hold {json_bytes} bytes")));
    }
    let (boxes, boxes_bytes) = boxes::decode(&object, rest)?;
    if boxes.is_empty() == (sequence == Sequence::FIRST) {
        return Err(Error::damaged(object, "its lineage's keys are not where they should be"));
    }
    Ok(Some(StoredCommit {
        lineage,
        sequence,
        json_bytes,
        boxes,
        boxes_hash: seal::stored_hash(&rest[..boxes_bytes]),
        sealed: bytes.slice_ref(&rest[boxes_bytes..]),
        hash: seal::stored_hash(&bytes),
        received_at,
        object,
    }))
}

impl StoredCommit {
    /// The commit, if it was sealed for its place and signed by an author who may make it.
    ///
    /// # Errors
    /// It is damaged, or the store failed.
    pub(crate) async fn open(&self, access: &Access, sealer: &Sealer) -> Result<Commit> {
        let Self { object, lineage, sequence, .. } = self;
        let damaged = |problem: String| Error::damaged(object, problem);
        let number = sequence.get();
        let purpose = Purpose::Commit { lineage: *lineage, sequence: number, boxes: self.boxes_hash };
        let plain = sealer.open(object, purpose, &self.sealed)?;
        let mut reader = Reader::new(object, &plain);
        let (author, signature) = (HostId::from_bytes(reader.array()?), reader.array()?);
        let packed = reader.rest();
        let json = zstd::bulk::decompress(packed, self.json_bytes).map_err(|error| damaged(error.to_string()))?;
        let json = Zeroizing::new(json);
        if json.len() != self.json_bytes {
            return Err(damaged("it has another length than it claims".to_owned()));
        }
        let body: CommitBody = serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
        let statement = Statement::Commit {
            lineage: *lineage,
            sequence: number,
            author,
            boxes: self.boxes_hash,
            body: seal::stored_hash(packed),
        };
        let powers = body.event.powers();
        access.verify(object, author, powers, &statement, &signature).await?;
        let is_genesis = matches!(body.event, Event::Genesis { .. });
        let names_itself = match &body.event {
            Event::Point(point) => {
                (point.lineage, point.sequence) == (*lineage, *sequence)
                    && point.generation == body.head.generation
                    && body.head.newest_point == Some(*sequence)
            }
            Event::Pruned(pruned) => {
                pruned.judged < *sequence
                    && body.head.pruned == Some(*sequence)
                    && body.head.newest_point != Some(*sequence)
            }
            Event::LockExtended { until, .. } => {
                body.head.newest_point != Some(*sequence) && body.head.locked_until == Some(*until)
            }
            Event::Genesis { .. }
            | Event::GenerationRaised { .. }
            | Event::Pinned { .. }
            | Event::Unpinned { .. }
            | Event::HostRevoked { .. } => body.head.newest_point != Some(*sequence),
        };
        if body.lineage != *lineage
            || body.head.sequence != *sequence
            || is_genesis != (*sequence == Sequence::FIRST)
            || !names_itself
        {
            return Err(damaged("it contradicts its own name".to_owned()));
        }
        Ok(Commit { body, author, hash: self.hash, received_at: self.received_at })
    }
}

/// The state of a lineage that begins.
pub(crate) fn genesis(
    lineage: LineageId,
    group: &GroupName,
    active_site: &SiteName,
    content_check: Hash,
    (written_at, locked_until): (Timestamp, Option<Timestamp>),
) -> CommitBody {
    CommitBody {
        lineage,
        head: Head {
            sequence: Sequence::FIRST,
            generation: Generation::FIRST,
            active_site: active_site.clone(),
            newest_point: None,
            pruned: None,
            pins: Vec::new(),
            locked_until,
        },
        previous: [0; 32],
        written_at,
        event: Event::Genesis { group: group.clone(), content_check },
    }
}
