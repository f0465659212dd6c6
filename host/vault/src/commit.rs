//! Commits: the sequence of a lineage.
//!
//! A commit is the object `lineages/<lineage>/commits/<number of 20 digits>`. The numbers are 1, 2, 3 without gaps, and
//! who creates a number if absent has made that commit. The first is the genesis and holds the lineage's secret; the
//! others are recovery points and raises of the generation. Each says what the lineage's state is after it, so that the
//! newest is all that a writer needs, and holds the hash of the commit before it.
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | prologue of kind 2; its length is that of the JSON |
//! | rest | sealed: the Zstandard frame of the JSON |

use bytes::Bytes;
use farshore_core::{Entropy, Generation, GroupName, LineageId, Sequence, SiteName, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    Error, Head, Point, Result, Store,
    seal::{self, Hash, Purpose, SEALED_OVERHEAD_BYTES, Sealer},
    store::Created,
    wire::{Kind, PROLOGUE_BYTES, length_u32, open_prologue, prologue},
};

/// The most bytes of a commit's JSON.
pub(crate) const COMMIT_PLAIN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The most bytes of a commit that a reader accepts.
const COMMIT_BYTES_MAX: usize = COMMIT_PLAIN_BYTES_MAX + COMMIT_PLAIN_BYTES_MAX / 64 + SEALED_OVERHEAD_BYTES + 1024;

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
        #[serde(with = "crate::wire::hex")]
        secret: [u8; 32],
    },
    /// It makes a point visible.
    Point(Box<Point>),
    /// It takes the right to write from whoever had it.
    GenerationRaised { previous_site: SiteName, reason: String },
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
    /// BLAKE3 of its stored bytes.
    pub(crate) hash: Hash,
}

impl CommitBody {
    fn purpose(&self) -> Purpose {
        purpose(self.lineage, self.head.sequence)
    }

    /// The stored bytes.
    pub(crate) fn encode(&self, sealer: &Sealer, entropy: &dyn Entropy) -> Result<Vec<u8>> {
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
        let mut bytes = prologue(Kind::Commit, length_u32(json.len())).to_vec();
        bytes.extend_from_slice(&sealer.seal(&object, self.purpose(), &Zeroizing::new(packed), entropy)?);
        Ok(bytes)
    }
}

fn purpose(lineage: LineageId, sequence: Sequence) -> Purpose {
    if sequence == Sequence::FIRST {
        Purpose::Genesis { lineage }
    } else {
        Purpose::Commit { lineage, sequence: sequence.get() }
    }
}

/// Reads a commit; none if there is none of this number.
///
/// # Errors
/// It is damaged, or the store failed.
pub(crate) async fn read_commit(
    store: &Store,
    sealer: &Sealer,
    lineage: LineageId,
    sequence: Sequence,
) -> Result<Option<Commit>> {
    let key = commit_key(lineage, sequence);
    let Some(bytes) = store.read(&key, COMMIT_BYTES_MAX).await? else { return Ok(None) };
    decode_commit(&key, sealer, lineage, sequence, &bytes).map(Some)
}

fn decode_commit(key: &str, sealer: &Sealer, lineage: LineageId, sequence: Sequence, bytes: &[u8]) -> Result<Commit> {
    let damaged = |problem: String| Error::damaged(key, problem);
    let (length, sealed) = open_prologue(key, Kind::Commit, bytes)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > COMMIT_PLAIN_BYTES_MAX {
        return Err(damaged(format!("it claims to hold {length} bytes")));
    }
    let packed = sealer.open(key, purpose(lineage, sequence), sealed)?;
    let json = zstd::bulk::decompress(&packed, length).map_err(|error| damaged(error.to_string()))?;
    let json = Zeroizing::new(json);
    if json.len() != length {
        return Err(damaged("it has another length than it claims".to_owned()));
    }
    let body: CommitBody = serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
    let is_genesis = matches!(body.event, Event::Genesis { .. });
    let names_itself = match &body.event {
        Event::Point(point) => point.sequence == sequence && body.head.newest_point == Some(sequence),
        Event::Genesis { .. } | Event::GenerationRaised { .. } => body.head.newest_point != Some(sequence),
    };
    if body.lineage != lineage
        || body.head.sequence != sequence
        || is_genesis != (sequence == Sequence::FIRST)
        || !names_itself
    {
        return Err(damaged("it contradicts its own name".to_owned()));
    }
    Ok(Commit { body, hash: seal::stored_hash(bytes) })
}

/// Creates a commit if there is none of its number.
pub(crate) async fn create_commit(
    store: &Store,
    sealer: &Sealer,
    body: &CommitBody,
    entropy: &dyn Entropy,
) -> Result<Created> {
    let bytes = body.encode(sealer, entropy)?;
    debug_assert!(bytes.len() > PROLOGUE_BYTES);
    store.create(&commit_key(body.lineage, body.head.sequence), vec![Bytes::from(bytes)]).await
}

/// The state of a lineage that begins.
pub(crate) fn genesis(
    lineage: LineageId,
    group: &GroupName,
    active_site: &SiteName,
    secret: [u8; 32],
    written_at: Timestamp,
) -> CommitBody {
    CommitBody {
        lineage,
        head: Head {
            sequence: Sequence::FIRST,
            generation: Generation::FIRST,
            active_site: active_site.clone(),
            newest_point: None,
        },
        previous: [0; 32],
        written_at,
        event: Event::Genesis { group: group.clone(), secret },
    }
}
