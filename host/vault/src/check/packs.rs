//! What is looked at of packs and collections, and which chunks of a leaf that hurts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use farshore_core::PackId;
use futures::{StreamExt, stream};

use super::{Check, Hurts, Look, PackVerdict, Part, Suspect};
use crate::{
    Error, Result,
    collection::{COLLECTION_BYTES_MAX, Collection, Sort, frame_piece},
    lineage::LineageShared,
    pack::{Directory, PackRef},
    page::{LeafSlot, SLOTS},
};

/// How many packs are checked side by side.
const PACKS_AT_ONCE: usize = 4;

/// The collection that was read last.
pub(super) struct ReadCollection {
    id: PackId,
    bytes: Bytes,
    is_sound: bool,
}

impl Check<'_> {
    pub(super) async fn leaf(
        &mut self,
        lineage: &Arc<LineageShared>,
        leaf: u64,
        slots: &[Option<LeafSlot>],
        below: &mut Hurts,
    ) -> Result<()> {
        let mut places = Vec::with_capacity(slots.len());
        let mut unknown: BTreeMap<PackId, Arc<PackRef>> = BTreeMap::new();
        let chunks = leaf.saturating_mul(SLOTS as u64)..;
        for (chunk, slot) in chunks.zip(slots).filter_map(|(chunk, slot)| Some((chunk, slot.as_ref()?))) {
            if let Some(finding) = self.unplaced.get(&slot.pack.pack) {
                below.entry(*finding).or_default().add(chunk..chunk + 1);
                continue;
            }
            let collection = match place(lineage, slot).await {
                Ok(collection) => collection,
                Err(error) => {
                    let finding = self.find(&error)?;
                    self.unplaced.insert(slot.pack.pack, finding);
                    below.entry(finding).or_default().add(chunk..chunk + 1);
                    continue;
                }
            };
            let part = (slot.pack.pack, collection.as_ref().map(|collection| collection.reference.id));
            match &collection {
                Some(collection) if !self.packs.contains_key(&part) => {
                    let checked = self.check_moved(lineage, &slot.pack, collection).await;
                    self.take(lineage, part, &slot.pack, checked)?;
                }
                None if !self.packs.contains_key(&part) => {
                    unknown.insert(slot.pack.pack, Arc::clone(&slot.pack));
                }
                Some(_) | None => {}
            }
            places.push((chunk, slot, part, collection));
        }
        let look = &self.look;
        let checks = stream::iter(unknown.into_values()).map(|pack| async move {
            let checked = check_pack(lineage, &pack, look).await;
            (pack, checked)
        });
        let checked: Vec<_> = checks.buffered(PACKS_AT_ONCE).collect().await;
        for (pack, checked) in checked {
            self.take(lineage, (pack.pack, None), &pack, checked)?;
        }
        for (chunk, slot, part, collection) in places {
            let finding = match self.packs.get(&part) {
                Some(PackVerdict::Lost(finding)) => Some(*finding),
                Some(PackVerdict::Frames(finding, frames)) if frames.contains(&slot.ordinal) => Some(*finding),
                Some(PackVerdict::Whole | PackVerdict::Frames(..)) | None => {
                    match mismatch(lineage, slot, collection.as_deref()).await? {
                        Some(error) => Some(self.find(&error)?),
                        None => None,
                    }
                }
            };
            if let Some(finding) = finding {
                below.entry(finding).or_default().add(chunk..chunk + 1);
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        lineage: &LineageShared,
        part: Part,
        pack: &PackRef,
        checked: Result<CheckedPack>,
    ) -> Result<()> {
        let verdict = match checked {
            Ok(checked) => {
                if let Some(error) = checked.error.as_ref().filter(|_| !matches!(self.look, Look::Structure)) {
                    let (lineage, error, frames) = (lineage.id, error.clone(), checked.bad_frames.clone());
                    self.rotten.push(Suspect { lineage, part, error, frames });
                }
                self.take_pack(pack, checked)?
            }
            Err(error) => PackVerdict::Lost(self.find(&error)?),
        };
        self.packs.insert(part, verdict);
        self.count_object();
        Ok(())
    }

    /// Checks the frames of a pack that were moved into a collection.
    async fn check_moved(
        &mut self,
        lineage: &Arc<LineageShared>,
        pack: &PackRef,
        collection: &Collection,
    ) -> Result<CheckedPack> {
        let directory = lineage.frames.moved_directory(pack, collection).await?;
        let object = &collection.object;
        let missing =
            || Error::ObjectMissing { object: object.clone(), reason: "recovery points need what is in it".to_owned() };
        let source = collection.source(Sort::Data, pack.pack);
        let ordinals: BTreeSet<u32> = source.into_iter().flat_map(|source| source.ordinals()).collect();
        let mut checked = CheckedPack::default();
        if !matches!(self.look, Look::Full) {
            let size = lineage.store.size(object).await?.ok_or_else(missing)?;
            let expected = u64::from(collection.reference.bytes);
            if size != expected {
                checked.error =
                    Some(Error::damaged(object, format!("it has {size} bytes, and should have {expected}")));
                checked.bad_frames = ordinals;
            } else if let Look::Sample(dice) = &self.look {
                let chosen = ordinals.into_iter().filter(|ordinal| dice.choose(pack.pack, *ordinal));
                checked.sample(lineage, directory, chosen.collect()).await?;
            }
            return Ok(checked);
        }
        let id = collection.reference.id;
        let read = match self.collection.take().filter(|read| read.id == id) {
            Some(read) => read,
            None => {
                let bytes = lineage.store.read(object, COLLECTION_BYTES_MAX).await?.ok_or_else(missing)?;
                checked.bytes_read = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                ReadCollection { id, is_sound: collection.is_as_stored(&bytes), bytes }
            }
        };
        let count = ordinals.len();
        let bad = lineage.frames.verify_frames(directory, read.bytes.clone(), Some(ordinals)).await;
        let is_sound = read.is_sound;
        self.collection = Some(read);
        let bad = bad?;
        checked.frames_verified = u64::try_from(count - bad.len()).unwrap_or(u64::MAX);
        if !is_sound || !bad.is_empty() {
            let problem = match bad.first() {
                Some((ordinal, _)) => format!("{} frames in it do not open, the first is {ordinal}", bad.len()),
                None => "its stored bytes do not have the length and hash of its header".to_owned(),
            };
            checked.error = Some(Error::damaged(object, problem));
            checked.bad_frames = bad.into_iter().map(|(ordinal, _)| ordinal).collect();
        }
        Ok(checked)
    }

    fn take_pack(&mut self, pack: &PackRef, checked: CheckedPack) -> Result<PackVerdict> {
        self.progress.bytes_read += checked.bytes_read;
        self.frames_verified += checked.frames_verified;
        let Some(error) = checked.error else { return Ok(PackVerdict::Whole) };
        let finding = self.find(&error)?;
        if !matches!(self.look, Look::Structure) {
            self.rotten_findings.insert(finding);
        }
        tracing::debug!(pack = %pack.pack, frames = checked.bad_frames.len(), "a pack is damaged");
        Ok(PackVerdict::Frames(finding, Arc::new(checked.bad_frames)))
    }
}

/// The collection into which the frame of a slot was moved; none if it was not.
async fn place(lineage: &LineageShared, slot: &LeafSlot) -> Result<Option<Arc<Collection>>> {
    let valid = lineage.places.kept();
    let piece = frame_piece(slot.ordinal);
    let mut found = lineage.places.find(valid.as_deref(), Sort::Data, slot.pack.pack, [piece]).await?;
    Ok(found.remove(&piece).map(|(collection, _)| collection))
}

/// That a slot means a chunk which its pack does not have where the slot says.
async fn mismatch(
    lineage: &Arc<LineageShared>,
    slot: &LeafSlot,
    collection: Option<&Collection>,
) -> Result<Option<Error>> {
    let directory = match collection {
        Some(collection) => lineage.frames.moved_directory(&slot.pack, collection).await,
        None => lineage.frames.directory(&slot.pack).await,
    };
    let directory = match directory {
        Ok(directory) => directory,
        Err(error) if error.is_damage() => return Ok(Some(error)),
        Err(error) => return Err(error),
    };
    let frame = usize::try_from(slot.ordinal).ok().and_then(|index| directory.frames.get(index));
    let chunk = frame.and_then(|frame| frame.chunks.get(usize::from(slot.chunk)));
    let problem = "it does not hold a chunk that a recovery point expects in it";
    Ok((chunk != Some(&slot.identity)).then(|| Error::damaged(&directory.object, problem)))
}

/// What was found of a pack.
#[derive(Debug, Default)]
struct CheckedPack {
    bytes_read: u64,
    frames_verified: u64,
    error: Option<Error>,
    bad_frames: BTreeSet<u32>,
}

impl CheckedPack {
    /// Reads and opens these frames, each by itself.
    async fn sample(
        &mut self,
        lineage: &LineageShared,
        directory: Arc<Directory>,
        chosen: BTreeSet<u32>,
    ) -> Result<()> {
        let count = chosen.len();
        let (bytes_read, bad) = lineage.frames.read_and_verify(&directory, chosen).await?;
        self.bytes_read += bytes_read;
        self.frames_verified += u64::try_from(count - bad.len()).unwrap_or(u64::MAX);
        if let Some((ordinal, _)) = bad.first() {
            let problem =
                format!("{} of the {count} frames that were read of it do not open, the first is {ordinal}", bad.len());
            self.error = Some(Error::damaged(&directory.object, problem));
            self.bad_frames = bad.into_iter().map(|(ordinal, _)| ordinal).collect();
        }
        Ok(())
    }
}

/// Checks a pack. Damage that leaves some of its frames readable is part of the result.
async fn check_pack(lineage: &Arc<LineageShared>, pack: &PackRef, look: &Look) -> Result<CheckedPack> {
    let object = pack.key(lineage.id);
    let missing =
        || Error::ObjectMissing { object: object.clone(), reason: "a recovery point refers to it".to_owned() };
    let directory = lineage.frames.directory(pack).await?;
    if !matches!(look, Look::Full) {
        let size = lineage.store.size(&object).await?.ok_or_else(missing)?;
        let expected = u64::from(pack.bytes);
        let bytes_read = u64::from(pack.header_bytes);
        let mut checked = CheckedPack { bytes_read, ..CheckedPack::default() };
        if size != expected {
            checked.error = Some(Error::damaged(object, format!("it has {size} bytes, and should have {expected}")));
            let lost = |(_, frame): &(u32, &crate::pack::FrameInfo)| {
                u64::from(frame.offset) + u64::from(frame.stored_bytes) > size
            };
            checked.bad_frames = (0..).zip(&directory.frames).filter(lost).map(|(ordinal, _)| ordinal).collect();
        } else if lineage.store.lender_of(&object).is_some() {
            lineage.frames.verify_stored(pack).await?;
        } else if let Look::Sample(dice) = look {
            let ordinals = (0u32..).zip(&directory.frames).map(|(ordinal, _)| ordinal);
            let chosen = ordinals.filter(|ordinal| dice.choose(pack.pack, *ordinal)).collect();
            checked.sample(lineage, directory, chosen).await?;
        }
        return Ok(checked);
    }
    let bytes_max = usize::try_from(pack.bytes).unwrap_or(usize::MAX);
    let bytes = lineage.store.read(&object, bytes_max).await?.ok_or_else(missing)?;
    let mut checked =
        CheckedPack { bytes_read: u64::try_from(bytes.len()).unwrap_or(u64::MAX), ..CheckedPack::default() };
    let sound = lineage.frames.is_as_stored(&directory, bytes.clone()).await?;
    let bad = lineage.frames.verify_frames(Arc::clone(&directory), bytes, None).await?;
    checked.frames_verified = u64::try_from(directory.frames.len() - bad.len()).unwrap_or(u64::MAX);
    if !sound || !bad.is_empty() {
        let problem = match bad.first() {
            Some((ordinal, _)) => format!("{} of its frames do not open, the first is {ordinal}", bad.len()),
            None => "its stored bytes do not have the length and hash of its header".to_owned(),
        };
        checked.error = Some(Error::damaged(object, problem));
        checked.bad_frames = bad.into_iter().map(|(ordinal, _)| ordinal).collect();
    }
    Ok(checked)
}
