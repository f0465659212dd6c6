//! Ledgers: what a prune decided. One object, written before the commit that makes it valid.
//!
//! A ledger says which of the points that it judged stand; what is condemned, in batches that wait for their grace; and
//! which collections hold sealed frames and pages that were moved. The newest prune's ledger counts alone: it repeats what
//! is still true of the one before.
//!
//! `lineages/<lineage>/ledgers/<number of the newest commit that was judged>/<id>`
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | prologue of kind 12; its length is that of what is sealed, before sealing |
//! | rest | sealed: |
//! | 4 | count of points, oldest first; each: sequence 8, BLAKE3 of the commit 32, received at 8, 1 if it stands, else 0 |
//! | 4 | count of batches, oldest first; each: judged 8, condemned at 8, received at 8, 1 if it is final, else 0, count of objects 4; each object: kind 1, base 8, id 16, bytes 4 |
//! | 4 | count of collections; each: id 16, base 8, bytes 4, header bytes 4, BLAKE3 of the header 32, count of sources 4; each source: sort 1, id 16 |
//!
//! Times are milliseconds since 1970, signed. The kind of an object is that of its prologue; a commit's base is its number
//! and its id is zeros.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use farshore_core::{LineageId, PackId, Sequence, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    Context, Error, Pin, Result, Store,
    collection::{CollectionRef, Sort, collection_key},
    commit::{Event, Pruned, commit_key},
    log::{CommitLog, HeadCommit},
    pack::pack_key,
    page::map_key,
    seal::{Hash, Purpose, SEALED_OVERHEAD_BYTES, Sealer, stored_hash},
    wire::{Kind, PROLOGUE_BYTES, Reader, length_u32, open_prologue, prologue},
};

/// The most bytes of a ledger before it is sealed.
const LEDGER_BYTES_MAX: usize = 128 * 1024 * 1024;

/// The most points of which a ledger speaks.
pub(crate) const LEDGER_POINTS_MAX: usize = 500_000;

/// The most objects that a ledger condemns; what is more waits for the next prune.
pub(crate) const LEDGER_OBJECTS_MAX: usize = 1_000_000;

/// The most batches of a ledger.
pub(crate) const LEDGER_BATCHES_MAX: usize = 4_096;

/// The most collections of a ledger.
pub(crate) const LEDGER_COLLECTIONS_MAX: usize = 400_000;

/// The most sources that the collections of a ledger have together.
pub(crate) const LEDGER_SOURCES_MAX: usize = 2_000_000;

/// How many damaged commits and ledgers are passed over to find one that can be read.
const PASSED_OVER_MAX: usize = 64;

/// How often the newest ledger is looked for anew because prunes went on meanwhile.
const SEARCHES_MAX: usize = 8;

/// The folder of a lineage's ledgers.
pub(crate) fn ledger_folder(lineage: LineageId) -> String {
    format!("lineages/{lineage}/ledgers")
}

/// The key of a ledger.
pub(crate) fn ledger_key(lineage: LineageId, judged: u64, id: PackId) -> String {
    format!("{}/{judged:020}/{id}", ledger_folder(lineage))
}

/// Which object a ledger is, as its commit says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LedgerRef {
    pub(crate) id: PackId,
    /// BLAKE3 of its stored bytes.
    #[serde(with = "crate::wire::hex")]
    pub(crate) hash: Hash,
}

/// A point that was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JudgedPoint {
    pub(crate) sequence: Sequence,
    /// BLAKE3 of its commit's stored bytes.
    pub(crate) hash: Hash,
    /// When the store received it.
    pub(crate) received_at: Timestamp,
    /// It stands; else it can be brought back as long as its batch is not final.
    pub(crate) stands: bool,
}

/// An object that is to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Condemned {
    pub(crate) kind: u8,
    pub(crate) base: u64,
    pub(crate) id: PackId,
    pub(crate) bytes: u32,
}

impl Condemned {
    /// A commit.
    pub(crate) fn commit(number: u64) -> Self {
        Self { kind: Kind::Commit as u8, base: number, id: PackId::from_bytes([0; 16]), bytes: 0 }
    }

    /// Whether it is a commit or a ledger: small, and left by every prune.
    pub(crate) fn is_small(&self) -> bool {
        self.is_commit() || self.kind == Kind::Ledger as u8
    }

    /// Whether it is a commit.
    pub(crate) fn is_commit(&self) -> bool {
        self.kind == Kind::Commit as u8
    }

    /// The object's key.
    pub(crate) fn key(&self, lineage: LineageId) -> String {
        let Self { kind, base, id, .. } = *self;
        match kind {
            kind if kind == Kind::Commit as u8 => commit_key(lineage, Sequence::new(base)),
            kind if kind == Kind::DataPack as u8 => pack_key(lineage, base, id),
            kind if kind == Kind::MapPack as u8 => map_key(lineage, base, id),
            kind if kind == Kind::Ledger as u8 => ledger_key(lineage, base, id),
            _ => collection_key(lineage, base, id),
        }
    }
}

/// Objects that were condemned together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The newest commit that was looked at then.
    pub(crate) judged: Sequence,
    /// When it was condemned, as the pruner counts time.
    pub(crate) condemned_at: Timestamp,
    /// When the store had received the newest commit that was looked at.
    pub(crate) received_at: Timestamp,
    /// Its grace has passed: its objects are being deleted, and none of them comes back.
    pub(crate) is_final: bool,
    pub(crate) objects: Vec<Condemned>,
}

/// What a prune decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) points: Vec<JudgedPoint>,
    pub(crate) batches: Vec<Batch>,
    pub(crate) collections: Vec<CollectionRef>,
}

impl Ledger {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let put_count = |bytes: &mut Vec<u8>, count: usize| bytes.extend_from_slice(&length_u32(count).to_le_bytes());
        let put_time = |bytes: &mut Vec<u8>, time: Timestamp| {
            bytes.extend_from_slice(&time.as_unix_milliseconds().to_le_bytes());
        };
        put_count(&mut bytes, self.points.len());
        for point in &self.points {
            bytes.extend_from_slice(&point.sequence.get().to_le_bytes());
            bytes.extend_from_slice(&point.hash);
            put_time(&mut bytes, point.received_at);
            bytes.push(u8::from(point.stands));
        }
        put_count(&mut bytes, self.batches.len());
        for batch in &self.batches {
            bytes.extend_from_slice(&batch.judged.get().to_le_bytes());
            put_time(&mut bytes, batch.condemned_at);
            put_time(&mut bytes, batch.received_at);
            bytes.push(u8::from(batch.is_final));
            put_count(&mut bytes, batch.objects.len());
            for object in &batch.objects {
                bytes.push(object.kind);
                bytes.extend_from_slice(&object.base.to_le_bytes());
                bytes.extend_from_slice(object.id.as_bytes());
                bytes.extend_from_slice(&object.bytes.to_le_bytes());
            }
        }
        put_count(&mut bytes, self.collections.len());
        for collection in &self.collections {
            collection.encode(&mut bytes);
        }
        if bytes.len() > LEDGER_BYTES_MAX {
            let (found, limit) = (u64::from(length_u32(bytes.len())), u64::from(length_u32(LEDGER_BYTES_MAX)));
            return Err(Error::LimitExceeded {
                what: "the list of points and of what is condemned, in bytes,",
                found,
                limit,
            });
        }
        Ok(bytes)
    }

    pub(crate) fn decode(object: &str, plain: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(object, plain);
        // A time outside the years that a timestamp can have would be another one when it is written again.
        let time = |reader: &mut Reader<'_>| {
            let milliseconds = i64::from_le_bytes(reader.array()?);
            let time = Timestamp::from_unix_milliseconds(milliseconds);
            let is_possible = time.as_unix_milliseconds() == milliseconds;
            if is_possible { Ok(time) } else { Err(reader.damaged("it tells an impossible time")) }
        };
        let count = |reader: &mut Reader<'_>, limit: usize, bytes_each: usize| {
            let count = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
            reader.count(count, limit, bytes_each)
        };
        let flag = |reader: &mut Reader<'_>| match reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(reader.damaged("a flag in it is neither 0 nor 1")),
        };
        let points = count(&mut reader, LEDGER_POINTS_MAX, 49)?;
        let mut ledger = Self { points: Vec::with_capacity(points), ..Self::default() };
        for _ in 0..points {
            let (sequence, hash) = (Sequence::new(reader.u64()?), reader.array()?);
            let (received_at, stands) = (time(&mut reader)?, flag(&mut reader)?);
            if ledger.points.last().is_some_and(|last| last.sequence >= sequence) {
                return Err(reader.damaged("its points are not in order"));
            }
            ledger.points.push(JudgedPoint { sequence, hash, received_at, stands });
        }
        let mut condemned: usize = 0;
        for _ in 0..count(&mut reader, LEDGER_BATCHES_MAX, 29)? {
            let judged = Sequence::new(reader.u64()?);
            let (condemned_at, received_at) = (time(&mut reader)?, time(&mut reader)?);
            let is_final = flag(&mut reader)?;
            let objects = count(&mut reader, LEDGER_OBJECTS_MAX - condemned.min(LEDGER_OBJECTS_MAX), 29)?;
            condemned = condemned.saturating_add(objects);
            let mut batch = Batch { judged, condemned_at, received_at, is_final, objects: Vec::with_capacity(objects) };
            for _ in 0..objects {
                let kind = reader.u8()?;
                let known = [Kind::Commit, Kind::DataPack, Kind::MapPack, Kind::Ledger, Kind::Collection];
                if !known.iter().any(|known| *known as u8 == kind) {
                    return Err(reader.damaged("it condemns an object of a kind that is never deleted"));
                }
                let (base, id, bytes) = (reader.u64()?, PackId::from_bytes(reader.array()?), reader.u32()?);
                let is_commit = kind == Kind::Commit as u8;
                if is_commit && (base <= Sequence::FIRST.get() || base > judged.get()) {
                    return Err(reader.damaged("it condemns a commit that cannot be condemned"));
                }
                batch.objects.push(Condemned { kind, base, id, bytes });
            }
            ledger.batches.push(batch);
        }
        let mut sources: usize = 0;
        for _ in 0..count(&mut reader, LEDGER_COLLECTIONS_MAX, CollectionRef::BYTES_MIN)? {
            let collection = CollectionRef::decode(&mut reader, LEDGER_SOURCES_MAX - sources.min(LEDGER_SOURCES_MAX))?;
            sources = sources.saturating_add(collection.sources.len());
            ledger.collections.push(collection);
        }
        reader.finish()?;
        Ok(ledger)
    }

    /// Its object under a fresh name: the key, the bytes, and the reference to it.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`].
    pub(crate) fn object(
        &self,
        context: &Context,
        sealer: &Sealer,
        lineage: LineageId,
        (id, judged): (PackId, Sequence),
    ) -> Result<(String, Bytes, LedgerRef)> {
        let object = ledger_key(lineage, judged.get(), id);
        let plain = self.encode()?;
        // Nobody could prune or find moved pieces any more if a ledger were made valid that its readers refuse.
        if Self::decode(&object, &plain)? != *self {
            let problem = "it does not read back as it was written".to_owned();
            return Err(Error::VerificationFailed { object, problem });
        }
        let purpose = Purpose::Ledger { lineage, judged: judged.get(), ledger: id };
        let mut bytes = prologue(Kind::Ledger, length_u32(plain.len())).to_vec();
        bytes.extend_from_slice(&sealer.seal(&object, purpose, &plain, &*context.entropy)?);
        let reference = LedgerRef { id, hash: stored_hash(&bytes) };
        Ok((object, Bytes::from(bytes), reference))
    }

    /// How many bytes it has, about.
    pub(crate) fn size_bytes(&self) -> u64 {
        let objects: usize = self.batches.iter().map(|batch| batch.objects.len()).sum();
        let sources: usize = self.collections.iter().map(|collection| collection.sources.len()).sum();
        let (batches, collections) = (self.batches.len(), self.collections.len());
        let bytes =
            self.points.len() * 49 + (batches + objects) * 29 + collections * CollectionRef::BYTES_MIN + sources * 17;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    async fn read(
        store: &Store,
        sealer: &Sealer,
        lineage: LineageId,
        judged: Sequence,
        reference: &LedgerRef,
    ) -> Result<Self> {
        let object = ledger_key(lineage, judged.get(), reference.id);
        let missing =
            || Error::ObjectMissing { object: object.clone(), reason: "the newest prune refers to it".to_owned() };
        let bytes_max = PROLOGUE_BYTES + SEALED_OVERHEAD_BYTES + LEDGER_BYTES_MAX;
        let bytes = store.read(&object, bytes_max).await?.ok_or_else(missing)?;
        if stored_hash(&bytes) != reference.hash {
            return Err(Error::damaged(object, "it does not have the hash of its reference"));
        }
        let (length, sealed) = open_prologue(&object, Kind::Ledger, &bytes)?;
        let purpose = Purpose::Ledger { lineage, judged: judged.get(), ledger: reference.id };
        let plain = sealer.open(&object, purpose, sealed)?;
        if usize::try_from(length) != Ok(plain.len()) {
            return Err(Error::damaged(object, "it has another length than it claims"));
        }
        Self::decode(&object, &plain)
    }
}

/// A ledger that counts, and what it says, arranged for questions.
#[derive(Debug)]
pub(crate) struct Valid {
    /// The commit that made it valid.
    pub(crate) commit: Sequence,
    /// The pins that stood then.
    pub(crate) pins: Vec<Pin>,
    pub(crate) pruned: Pruned,
    pub(crate) ledger: Ledger,
    /// In which collections pieces of a pack are, in the ledger's order.
    pub(crate) moved: BTreeMap<(Sort, PackId), Vec<usize>>,
}

impl Valid {
    /// A point that was judged and stands.
    pub(crate) fn standing(&self, sequence: Sequence) -> Option<&JudgedPoint> {
        let index = self.ledger.points.binary_search_by_key(&sequence, |point| point.sequence).ok()?;
        self.ledger.points.get(index).filter(|point| point.stands)
    }
}

/// The ledgers of one lineage; the newest that was read is kept.
#[derive(Debug)]
pub(crate) struct Ledgers {
    store: Store,
    log: Arc<CommitLog>,
    lineage: LineageId,
    sealer: Sealer,
    kept: Mutex<Option<Arc<Valid>>>,
}

impl Ledgers {
    pub(crate) fn new(store: Store, log: Arc<CommitLog>, lineage: LineageId, sealer: Sealer) -> Self {
        Self { store, log, lineage, sealer, kept: Mutex::default() }
    }

    /// The newest that this handle has read.
    pub(crate) fn kept(&self) -> Option<Arc<Valid>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, valid: &Arc<Valid>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_none_or(|kept| kept.commit < valid.commit) {
            *kept = Some(Arc::clone(valid));
        }
    }

    /// The newest commit, and the ledger that counts with it.
    ///
    /// # Errors
    /// A commit or the ledger is missing or damaged, or the store failed.
    pub(crate) async fn newest(&self) -> Result<(HeadCommit, Option<Arc<Valid>>)> {
        let (head, valid, _) = self.newest_seen().await?;
        Ok((head, valid))
    }

    /// The same, with the number of the newest boundary then (see [`CommitLog::newest_seen`]).
    pub(crate) async fn newest_seen(&self) -> Result<(HeadCommit, Option<Arc<Valid>>, u64)> {
        for _ in 0..SEARCHES_MAX {
            let (head, seen) = self.log.newest_seen().await?;
            let Some(pruned) = head.head.pruned else { return Ok((head, None, seen)) };
            if let Some(kept) = self.kept().filter(|kept| kept.commit == pruned) {
                return Ok((head, Some(kept), seen));
            }
            let read = self.read(pruned).await;
            // A newer prune may have deleted it since; then the newest commit is another by now.
            if self.log.has_risen(seen).await? {
                continue;
            }
            let valid = read?;
            self.keep(&valid);
            return Ok((head, Some(valid), seen));
        }
        Err(self.log.overtaken())
    }

    /// The ledger of the newest commit that opens and whose ledger opens: for reading only, when the newest does not.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn readable(&self) -> Result<Option<Arc<Valid>>> {
        let mut number = self.log.newest_listed().await?;
        for _ in 0..PASSED_OVER_MAX {
            let pruned = match self.log.read(Sequence::new(number)).await {
                Ok(commit) => commit.map(|commit| commit.body.head.pruned),
                Err(error) if error.is_damage() => None,
                Err(error) => return Err(error),
            };
            number = match pruned {
                None => number.saturating_sub(1),
                Some(None) if self.log.deleted_to() == 0 => return Ok(None),
                Some(None) => number.saturating_sub(1),
                Some(Some(pruned)) => match self.read(pruned).await {
                    // Nothing is deleted as long as the newest cannot be told.
                    Ok(valid) => {
                        self.keep(&valid);
                        return Ok(Some(valid));
                    }
                    // The prune before it had a ledger too, which waits for its grace.
                    Err(error) if error.is_damage() => pruned.get().saturating_sub(1),
                    Err(error) => return Err(error),
                },
            };
            if number <= Sequence::FIRST.get() {
                break;
            }
        }
        Ok(self.kept())
    }

    /// The ledger that the commit of this number made valid.
    async fn read(&self, sequence: Sequence) -> Result<Arc<Valid>> {
        let commit = self.log.read_existing(sequence, "the newest commit says that it made a prune valid").await?;
        let object = commit_key(self.lineage, sequence);
        let pins = commit.body.head.pins;
        let Event::Pruned(pruned) = commit.body.event else {
            return Err(Error::damaged(object, "it is not the prune that the newest commit takes it for"));
        };
        let ledger = Ledger::read(&self.store, &self.sealer, self.lineage, pruned.judged, &pruned.ledger).await?;
        if ledger.points.last().is_some_and(|point| point.sequence > pruned.judged) {
            return Err(Error::damaged(object, "its ledger judges points that it cannot have known"));
        }
        let mut moved: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (index, collection) in ledger.collections.iter().enumerate() {
            for source in collection.sources.iter().filter(|source| !self.store.is_rerouted(collection.id, **source)) {
                moved.entry(*source).or_default().push(index);
            }
        }
        Ok(Arc::new(Valid { commit: sequence, pins, pruned: *pruned, ledger, moved }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let point = |sequence: u64, stands| JudgedPoint {
            sequence: Sequence::new(sequence),
            hash: [7; 32],
            received_at: Timestamp::from_unix_milliseconds(-5),
            stands,
        };
        let object = Condemned { kind: 3, base: 9, id: PackId::from_bytes([1; 16]), bytes: 77 };
        let batch = |is_final| Batch {
            judged: Sequence::new(11),
            condemned_at: Timestamp::from_unix_milliseconds(1),
            received_at: Timestamp::from_unix_milliseconds(2),
            is_final,
            objects: vec![Condemned::commit(3), object],
        };
        let collection = CollectionRef {
            id: PackId::from_bytes([2; 16]),
            base: 4,
            bytes: 900,
            header_bytes: 100,
            header_hash: [3; 32],
            sources: vec![(Sort::Data, PackId::from_bytes([4; 16])), (Sort::Map, PackId::from_bytes([5; 16]))],
        };
        Ledger {
            points: vec![point(2, true), point(8, false)],
            batches: vec![batch(true), batch(false)],
            collections: vec![collection],
        }
    }

    #[test]
    fn a_ledger_comes_back_as_it_was() {
        let bytes = ledger().encode().expect("small");
        assert_eq!(Ledger::decode("ledger", &bytes).expect("its own bytes"), ledger());
        assert_eq!(
            Ledger::decode("ledger", &Ledger::default().encode().expect("small")).expect("empty"),
            Ledger::default()
        );
    }

    #[test]
    fn every_prefix_and_every_impossible_count_is_refused() {
        let bytes = ledger().encode().expect("small");
        for length in 0..bytes.len() {
            assert!(Ledger::decode("ledger", &bytes[..length]).is_err(), "{length} bytes");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(Ledger::decode("ledger", &longer).is_err());
        let mut huge = bytes.clone();
        huge[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Ledger::decode("ledger", &huge).is_err());
        let mut disordered = ledger();
        disordered.points.reverse();
        assert!(Ledger::decode("ledger", &disordered.encode().expect("small")).is_err());
    }

    /// Found by fuzzing: such a time was taken for the nearest that there is.
    #[test]
    fn a_time_that_no_clock_tells_is_refused() {
        let mut bytes = ledger().encode().expect("small");
        bytes[4 + 40..4 + 48].copy_from_slice(&i64::MAX.to_le_bytes());
        let error = Ledger::decode("ledger", &bytes).expect_err("after the year 9999");
        assert!(error.to_string().contains("impossible time"), "{error}");
    }

    #[test]
    fn what_is_never_deleted_cannot_be_condemned() {
        let mut ledger = ledger();
        ledger.batches[0].objects[0].kind = Kind::Boundary as u8;
        assert!(Ledger::decode("ledger", &ledger.encode().expect("small")).is_err());
    }
}
