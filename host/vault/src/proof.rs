//! Proofs: what was seen of a point, by whom and when. A point that nobody ever looked at again is a hope.
//!
//! A proof is an object of its own beside the point that it speaks of, so that who proves writes nothing that recovery needs:
//! no commit, no ledger and no map refers to it, and losing all of them loses no point.
//!
//! `lineages/<lineage>/proofs/<20 digits of the point>/<random id>`
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | prologue of kind 14; its length is that of what is sealed, before sealing |
//! | rest | sealed: author (16), signature (64), JSON |
//!
//! The JSON has the hash of the point's commit, so that a proof of another commit under the same number (one whose number was
//! free again) is none. A reader refuses a proof whose author has not the power for it: who cannot read data cannot have read
//! it. Times are the author's; a proof counts from the earlier of its end and of when the store received it.
//!
//! *Hurt points.* That a point is hurt holds until it is answered: by a newer proof that found it whole and had to see the damage. A
//! sample need not, so a sample that found rotten data is answered by a whole look at all data only.
//!
//! *Deleting.* A prune deletes proofs of points that are finally gone. Of a point that can still stand, it keeps of each kind
//! the newest that found it whole, and the newest that found it hurt if nothing answers that; the others say nothing that
//! these do not.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use farshore_core::{HostId, LineageId, PackId, Sequence, Timestamp};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::{
    CheckDepth, CheckReport, Error, Lineage, Result, Vault,
    check::CheckedPoint,
    commit::Event,
    keys::Power,
    ledger::Valid,
    lineage::LineageShared,
    seal::{Hash, Purpose, SEALED_OVERHEAD_BYTES, SIGNATURE_BYTES, Statement, stored_hash},
    store::{Created, Listed},
    wire::{Kind, PROLOGUE_BYTES, Reader, length_u32, open_prologue, prologue},
};

/// The most bytes of a proof before it is sealed.
const PROOF_BYTES_MAX: usize = 4 * 1024;

/// The most proofs of one point that are read: the newest, as the store counts time. Where prunes run there are few.
const PROOFS_READ_MAX: usize = 256;

/// How many proofs are read or written side by side.
const PROOFS_AT_ONCE: usize = 8;

/// With so many proofs of a point or fewer there is nothing worth deleting.
const PROOFS_KEPT_UNREAD: usize = 2;

/// What was done to prove a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProofKind {
    /// All that the point refers to was followed, and each object is there with its length.
    Structure,
    /// As well: a random part of all frames was read, opened and identified.
    Sample {
        /// The chance that each frame had, in billionths.
        billionths: u32,
    },
    /// As well: all frames were read, opened and identified.
    Full,
    /// All disks were restored.
    Restored,
    /// A drill brought all machines up, and they passed verification.
    Drill,
}

impl ProofKind {
    /// Its sort, without how large a sample was.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Structure => "structure",
            Self::Sample { .. } => "sample",
            Self::Full => "full",
            Self::Restored => "restored",
            Self::Drill => "drill",
        }
    }

    /// Who can have done it; the administrator can have done everything.
    const fn powers(&self) -> &'static [Power] {
        match self {
            Self::Structure => &[Power::Recoverer, Power::Controller, Power::Pruner],
            Self::Sample { .. } | Self::Full | Self::Restored | Self::Drill => &[Power::Recoverer],
        }
    }
}

/// How much of a point is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofHurt {
    /// Objects that are missing or damaged.
    pub objects: u64,
    /// Machines that are hurt.
    pub machines: u64,
    /// Bytes of disks that cannot be restored.
    pub bytes: u64,
}

/// What somebody says to have proven of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofClaim {
    /// What was done.
    pub what: ProofKind,
    /// When it began, as its host counts time.
    pub begun_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Bytes of the store that were read for it, for all points that were proven with this one.
    pub bytes_read: u64,
    /// What is lost; none if the point was found whole.
    pub hurt: Option<ProofHurt>,
}

/// What was proven of a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// Its name.
    pub id: PackId,
    /// The point.
    pub point: Sequence,
    /// The host that says so; zeros for the administrator.
    pub author: HostId,
    /// When the store received it.
    pub received_at: Timestamp,
    /// What was proven.
    #[serde(flatten)]
    pub claim: ProofClaim,
}

impl Proof {
    /// Since when it holds: a time that is not later than any clock says.
    pub fn proven_at(&self) -> Timestamp {
        self.claim.ended_at.min(self.received_at)
    }

    /// Whether the point was found whole.
    pub const fn is_whole(&self) -> bool {
        self.claim.hurt.is_none()
    }

    /// Whether this one, which is newer, says that what the other found is mended. Where objects were missing or cut short any
    /// look at the whole structure tells; where data was rotten only a look at all data does: another sample may have looked
    /// elsewhere.
    fn answers(&self, other: &Self) -> bool {
        let sees_it = match other.claim.what {
            ProofKind::Structure => true,
            ProofKind::Sample { .. } | ProofKind::Full | ProofKind::Restored | ProofKind::Drill => {
                matches!(self.claim.what, ProofKind::Full | ProofKind::Restored | ProofKind::Drill)
            }
        };
        self.is_whole() && !other.is_whole() && sees_it
    }
}

/// A proof as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    /// BLAKE3 of the point's commit.
    #[serde(with = "crate::wire::hex")]
    commit: Hash,
    claim: ProofClaim,
}

fn proofs_folder(lineage: LineageId) -> String {
    format!("lineages/{lineage}/proofs")
}

fn point_folder(lineage: LineageId, point: Sequence) -> String {
    format!("{}/{:020}", proofs_folder(lineage), point.get())
}

fn proof_key(lineage: LineageId, point: Sequence, id: PackId) -> String {
    format!("{}/{id}", point_folder(lineage, point))
}

/// The point and the name in a listed key; none if it is not a proof's.
fn parse_key(key: &str) -> Option<(Sequence, PackId)> {
    let mut parts = key.rsplit('/');
    let (id, point) = (parts.next()?.parse().ok()?, parts.next()?);
    let point = Some(point).filter(|point| point.len() == 20)?.parse().ok()?;
    Some((Sequence::new(point), id))
}

/// Writes what was proven of a point whose commit has this hash.
async fn write(shared: &LineageShared, point: Sequence, commit: Hash, claim: &ProofClaim) -> Result<()> {
    let access = &shared.access;
    if !claim.what.powers().iter().any(|power| access.has(*power)) {
        access.require(Power::Recoverer, "to say what was proven of a recovery point")?;
    }
    access.may_write(&shared.context).await?;
    let id = PackId::random(shared.entropy());
    let object = proof_key(shared.id, point, id);
    let bytes = encode(shared, point, id, commit, claim)?;
    match shared.store.create(&object, vec![Bytes::from(bytes)]).await? {
        Created::Mine => Ok(()),
        Created::Other => Err(Error::repeated_randomness(&object)),
    }
}

fn encode(shared: &LineageShared, point: Sequence, id: PackId, commit: Hash, claim: &ProofClaim) -> Result<Vec<u8>> {
    let access = &shared.access;
    let object = proof_key(shared.id, point, id);
    let body = Body { commit, claim: *claim };
    let body =
        serde_json::to_vec(&body).map_err(|error| Error::invalid(format!("a proof cannot be written: {error}")))?;
    let (lineage, author) = (shared.id, access.author());
    let statement = Statement::Proof { lineage, point: point.get(), proof: id, author, body: stored_hash(&body) };
    let mut plain = author.as_bytes().to_vec();
    plain.extend_from_slice(&access.sign(&statement));
    plain.extend_from_slice(&body);
    let purpose = Purpose::Proof { lineage, point: point.get(), proof: id };
    let mut bytes = prologue(Kind::Proof, length_u32(plain.len())).to_vec();
    bytes.extend_from_slice(&shared.keys.metadata.seal(&object, purpose, &plain, shared.entropy())?);
    Ok(bytes)
}

/// Reads a proof, and which commit it speaks of; none if it is not there any more.
async fn read(shared: &LineageShared, point: Sequence, id: PackId) -> Result<Option<(Proof, Hash)>> {
    let object = proof_key(shared.id, point, id);
    let bytes_max = PROLOGUE_BYTES + SEALED_OVERHEAD_BYTES + PROOF_BYTES_MAX;
    let Some((bytes, received_at)) = shared.store.read_dated(&object, bytes_max).await? else { return Ok(None) };
    let (length, sealed) = open_prologue(&object, Kind::Proof, &bytes)?;
    let lineage = shared.id;
    let purpose = Purpose::Proof { lineage, point: point.get(), proof: id };
    let plain = shared.keys.metadata.open(&object, purpose, sealed)?;
    if usize::try_from(length) != Ok(plain.len()) {
        return Err(Error::damaged(object, "it has another length than it claims"));
    }
    let mut reader = Reader::new(&object, &plain);
    let (author, signature) = (HostId::from_bytes(reader.array()?), reader.array::<SIGNATURE_BYTES>()?);
    let body = reader.rest();
    let Body { commit, claim } = serde_json::from_slice(body)
        .map_err(|error| Error::damaged(&object, format!("it is not the JSON of a proof: {error}")))?;
    let statement = Statement::Proof { lineage, point: point.get(), proof: id, author, body: stored_hash(body) };
    shared.access.verify(&object, author, claim.what.powers(), &statement, &signature).await?;
    Ok(Some((Proof { id, point, author, received_at, claim }, commit)))
}

/// The proofs of a point among these, the newest first. What is no proof, or its author's to give, is passed over.
async fn read_all(
    shared: &LineageShared,
    point: Sequence,
    commit: Hash,
    mut listed: Vec<Listed>,
) -> Result<Vec<Proof>> {
    listed.sort_by_key(|object| std::cmp::Reverse(object.received_at));
    let ids = listed.into_iter().filter_map(|object| parse_key(&object.key)).take(PROOFS_READ_MAX);
    let reads = stream::iter(ids).map(|(_, id)| async move {
        match read(shared, point, id).await {
            Ok(read) => Ok(read.filter(|(_, of)| *of == commit).map(|(proof, _)| proof)),
            Err(error) if error.is_damage() => {
                tracing::warn!(%error, "a proof of a recovery point is passed over");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    });
    let read: Vec<Option<Proof>> = reads.buffered(PROOFS_AT_ONCE).try_collect().await?;
    let mut proofs: Vec<Proof> = read.into_iter().flatten().collect();
    proofs.sort_by_key(|proof| std::cmp::Reverse((proof.proven_at(), proof.id)));
    Ok(proofs)
}

/// Those of a point's proofs, the newest first, that say nothing which others do not: whole ones of which there is a newer whole one
/// of the same kind, and hurt ones that are answered, or of which there is a newer hurt one of the same kind.
fn superseded(proofs: &[Proof]) -> impl Iterator<Item = &Proof> {
    proofs.iter().enumerate().filter_map(|(at, proof)| {
        let newer = proofs.get(..at).unwrap_or_default();
        let is_repeated = newer
            .iter()
            .any(|newer| newer.claim.what.name() == proof.claim.what.name() && newer.is_whole() == proof.is_whole());
        (is_repeated || newer.iter().any(|newer| newer.answers(proof))).then_some(proof)
    })
}

/// Those of a point's proofs, the newest first, that tell what is known of it: of each kind the newest that found it hurt, as long as
/// no newer one answers that; then of each kind the newest that found it whole, the one that says most first, and none that is
/// older than one which says more.
pub fn telling_proofs(proofs: &[Proof]) -> Vec<&Proof> {
    let mut telling: Vec<&Proof> = Vec::new();
    for is_whole in [false, true] {
        let mut newest: Vec<&Proof> = Vec::new();
        for (at, proof) in proofs.iter().enumerate().filter(|(_, proof)| proof.is_whole() == is_whole) {
            let is_answered = proofs.iter().take(at).any(|newer| newer.answers(proof));
            let is_known = newest.iter().any(|other| other.claim.what.name() == proof.claim.what.name());
            if !is_answered && !is_known {
                newest.push(proof);
            }
        }
        newest.sort_by_key(|proof| std::cmp::Reverse(proof.claim.what));
        let mut since = None;
        for proof in newest {
            let at = proof.proven_at();
            if !is_whole || since.is_none_or(|since| at > since) {
                telling.push(proof);
                since = Some(at);
            }
        }
    }
    telling
}

/// The keys of proofs that may be deleted: those of points that are finally gone, and of `standing` points those that are
/// superseded. `gone` says of a point whether it is finally gone.
pub(crate) async fn removable(
    shared: &LineageShared,
    known: &BTreeMap<Sequence, Hash>,
    gone: impl Fn(Sequence) -> bool,
) -> Result<Vec<String>> {
    let mut by_point: BTreeMap<Sequence, Vec<Listed>> = BTreeMap::new();
    let mut listed = std::pin::pin!(shared.store.list(&proofs_folder(shared.id)));
    while let Some(object) = listed.try_next().await? {
        if let Some((point, _)) = parse_key(&object.key) {
            by_point.entry(point).or_default().push(object);
        }
    }
    let mut keys = Vec::new();
    for (point, listed) in by_point {
        if gone(point) {
            keys.extend(listed.into_iter().map(|object| object.key));
        } else if let Some(commit) = known.get(&point).filter(|_| listed.len() > PROOFS_KEPT_UNREAD) {
            let proofs = read_all(shared, point, *commit, listed).await?;
            keys.extend(superseded(&proofs).map(|proof| proof_key(shared.id, point, proof.id)));
        }
    }
    Ok(keys)
}

impl Lineage {
    /// What was proven of a point, the newest first. What somebody wrote who could not have proven it is passed over.
    ///
    /// # Errors
    /// [`Error::PointMissing`]; the point's commit is damaged; [`Error::LostRace`] when others pruned all the while; or the store failed.
    pub async fn proofs(&self, point: Sequence) -> Result<Vec<Proof>> {
        let commit = self.point_hash(point).await?;
        self.proofs_at(point, async || Ok(commit)).await
    }

    /// The points of which somebody says to have proven something, the newest first, by a listing: what is said may be worth nothing, and a
    /// point may be gone.
    ///
    /// # Errors
    /// When the store failed.
    pub async fn points_with_proofs(&self) -> Result<Vec<Sequence>> {
        let mut points = BTreeSet::new();
        let mut listed = std::pin::pin!(self.0.store.list(&proofs_folder(self.0.id)));
        while let Some(object) = listed.try_next().await? {
            points.extend(parse_key(&object.key).map(|(point, _)| point));
        }
        Ok(points.into_iter().rev().collect())
    }

    /// The same of several points; what is damaged, or no point, has none.
    ///
    /// # Errors
    /// [`Error::LostRace`] when others pruned all the while, or the store failed.
    pub async fn proofs_of(&self, points: &[Sequence]) -> Result<BTreeMap<Sequence, Vec<Proof>>> {
        let read = |_, valid: Option<Arc<Valid>>| {
            let reads = stream::iter(points).map(move |point| {
                let valid = valid.clone();
                async move {
                    let commit = async || self.point_hash_in(valid.as_deref(), *point).await;
                    match self.proofs_at(*point, commit).await {
                        Err(error) if error.is_damage() || matches!(error, Error::PointMissing { .. }) => {
                            Ok((*point, Vec::new()))
                        }
                        read => read.map(|proofs| (*point, proofs)),
                    }
                }
            });
            reads.buffered(PROOFS_AT_ONCE).try_collect().boxed()
        };
        self.0.by_newest_that_opens(read).await
    }

    /// The commit's hash is asked for only if there is something to compare with it.
    async fn proofs_at(&self, point: Sequence, commit: impl AsyncFnOnce() -> Result<Hash>) -> Result<Vec<Proof>> {
        let shared = &self.0;
        let listed: Vec<Listed> = shared.store.list(&point_folder(shared.id, point)).try_collect().await?;
        if listed.is_empty() {
            return Ok(Vec::new());
        }
        read_all(shared, point, commit().await?, listed).await
    }

    /// Writes what was proven of a point, beside it. Nothing but this object is changed.
    ///
    /// # Errors
    /// [`Error::PowerMissing`] when the holder of the vault cannot have proven it; [`Error::PointMissing`]; the point's commit
    /// is damaged; [`Error::LostRace`] when others pruned all the while; or the store failed or may only be read.
    pub async fn record_proof(&self, point: Sequence, claim: &ProofClaim) -> Result<()> {
        let commit = self.point_hash(point).await?;
        write(&self.0, point, commit, claim).await
    }

    /// What its holder would have to write to claim this, whether it has the power or not.
    #[cfg(test)]
    pub(crate) async fn forged_proof(&self, point: Sequence, claim: &ProofClaim) -> Result<(String, Vec<u8>)> {
        let shared = &self.0;
        let commit = self.point_hash(point).await?;
        let id = PackId::random(shared.entropy());
        Ok((proof_key(shared.id, point, id), encode(shared, point, id, commit, claim)?))
    }

    /// The hash of a point's commit.
    async fn point_hash(&self, point: Sequence) -> Result<Hash> {
        let find =
            |_, valid: Option<Arc<Valid>>| async move { self.point_hash_in(valid.as_deref(), point).await }.boxed();
        self.0.by_newest(find).await
    }

    /// The same, as this ledger says.
    async fn point_hash_in(&self, valid: Option<&Valid>, point: Sequence) -> Result<Hash> {
        let shared = &self.0;
        match shared.commit_in(valid, point).await? {
            Some(commit) if matches!(commit.body.event, Event::Point(_)) => Ok(commit.hash),
            _ => Err(Error::PointMissing { group: shared.group.clone(), sequence: point }),
        }
    }
}

impl CheckReport {
    /// What it proves of a point.
    pub(crate) fn claim(&self, point: &CheckedPoint) -> ProofClaim {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let hurt = ProofHurt { objects: count(point.findings), machines: count(point.machines), bytes: point.bytes };
        ProofClaim {
            what: match (self.depth, self.sampled_billionths) {
                // What was found without reading data needs no look at all data to be answered.
                _ if point.findings > 0 && !point.is_rotten => ProofKind::Structure,
                (CheckDepth::Full, _) => ProofKind::Full,
                (CheckDepth::Sample(_), Some(billionths)) => ProofKind::Sample { billionths },
                (CheckDepth::Sample(_) | CheckDepth::Structure, _) => ProofKind::Structure,
            },
            begun_at: self.begun_at,
            ended_at: self.ended_at,
            bytes_read: self.bytes_read,
            hurt: (point.findings > 0).then_some(hurt),
        }
    }
}

impl Vault {
    /// Whether what a check of this depth finds may be kept in the vault by its holder.
    pub fn may_record(&self, depth: CheckDepth) -> bool {
        let powers = match depth {
            CheckDepth::Structure => ProofKind::Structure.powers(),
            CheckDepth::Sample(_) | CheckDepth::Full => ProofKind::Full.powers(),
        };
        powers.iter().any(|power| self.0.access.has(*power))
    }

    /// Writes for each point what a check proved of it; how many proofs were written.
    ///
    /// # Errors
    /// [`Error::PowerMissing`], or the store failed or may only be read.
    pub async fn record(&self, report: &CheckReport) -> Result<u64> {
        let claims = report.points.iter().map(|point| (point.lineage, point.point, point.hash, report.claim(point)));
        self.write_proofs(claims.collect()).await
    }

    /// Writes what was proven of points of these lineages, whose commits have these hashes.
    pub(crate) async fn write_proofs(&self, claims: Vec<(LineageId, Sequence, Hash, ProofClaim)>) -> Result<u64> {
        let writes = stream::iter(claims).map(|(lineage, point, commit, claim)| async move {
            let Some(lineage) = self.lineage_by_id(lineage).await? else { return Ok(0) };
            write(&lineage, point, commit, &claim).await.map(|()| 1)
        });
        writes.buffered(PROOFS_AT_ONCE).try_fold(0, |sum, one| async move { Ok(sum + one) }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(minute: i64, what: ProofKind, is_whole: bool) -> Proof {
        let at = Timestamp::from_unix_milliseconds(minute * 60_000);
        let hurt = (!is_whole).then_some(ProofHurt { objects: 1, machines: 1, bytes: 1 });
        Proof {
            id: PackId::from_bytes([u8::try_from(minute).expect("small"); 16]),
            point: Sequence::new(2),
            author: HostId::from_bytes([0; 16]),
            received_at: at,
            claim: ProofClaim { what, begun_at: at, ended_at: at, bytes_read: 0, hurt },
        }
    }

    #[test]
    fn of_each_kind_the_newest_whole_stays_and_the_newest_that_found_the_point_hurt() {
        let sample = |billionths| ProofKind::Sample { billionths };
        let proofs = [
            proof(9, ProofKind::Full, false),
            proof(8, sample(7), true),
            proof(7, ProofKind::Full, false),
            proof(6, ProofKind::Full, true),
            proof(5, sample(3), false),
            proof(4, ProofKind::Full, true),
            proof(3, ProofKind::Structure, true),
        ];
        let gone: Vec<_> = superseded(&proofs).map(minute).collect();
        assert_eq!(gone, [7, 5, 4]);
    }

    fn minute(proof: &Proof) -> i64 {
        proof.received_at.as_unix_milliseconds() / 60_000
    }

    /// A sample that found rotten data is not covered by a later one that looked elsewhere.
    #[test]
    fn a_point_stays_hurt_until_a_proof_answers_that_had_to_see_it() {
        let sample = ProofKind::Sample { billionths: 7 };
        let kinds = [ProofKind::Structure, sample, ProofKind::Full, ProofKind::Restored, ProofKind::Drill];
        for hurt in kinds {
            for later in kinds {
                let proofs = [proof(9, later, true), proof(5, hurt, false)];
                let answers = hurt == ProofKind::Structure || ![ProofKind::Structure, sample].contains(&later);
                let expected: &[i64] = if answers { &[9] } else { &[5, 9] };
                let told: Vec<_> = telling_proofs(&proofs).into_iter().map(minute).collect();
                assert_eq!(told, expected, "{hurt:?}, then {later:?}");
                let gone: Vec<_> = superseded(&proofs).map(minute).collect();
                assert_eq!(gone, if answers { vec![5] } else { vec![] }, "{hurt:?}, then {later:?}");
                // One that came before answers nothing.
                let proofs = [proof(5, hurt, false), proof(3, later, true)];
                assert_eq!(superseded(&proofs).count(), 0);
                assert_eq!(minute(telling_proofs(&proofs)[0]), 5);
            }
        }
    }

    #[test]
    fn only_keys_of_proofs_are_taken_for_proofs() {
        let (lineage, id) = (LineageId::from_bytes([1; 16]), PackId::from_bytes([2; 16]));
        let key = proof_key(lineage, Sequence::new(77), id);
        assert_eq!(parse_key(&key), Some((Sequence::new(77), id)));
        assert_eq!(parse_key(&format!("{key}0")), None);
        assert_eq!(parse_key(&format!("{}/7/{id}", proofs_folder(lineage))), None);
    }

    /// A clock that runs ahead makes no proof younger than it is.
    #[test]
    fn a_proof_holds_from_the_earlier_of_two_clocks() {
        let mut proof = proof(5, ProofKind::Full, true);
        proof.claim.ended_at = Timestamp::from_unix_milliseconds(900_000_000);
        assert_eq!(proof.proven_at(), proof.received_at);
    }
}
