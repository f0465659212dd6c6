//! The standing proof: within each window, such as a day, everything that points need is seen, and a part of it is read.
//!
//! A prover is turned again and again, some times in each window. Every object has a *phase*, which follows from its random
//! name: the turn at which it is looked at. So the looks are spread over the window, an object comes round once in each, and
//! nothing has to be remembered but when each phase was last done; who has lost that looks at everything at once, and goes
//! on from there. What has been stored since the last turn is looked at at once too, whatever its phase. So at any time all
//! that a point needs was seen at most a window ago, and that is what the proof of a point says that is written then.
//!
//! A look asks whether the object is there with its length; of frames and map pages that points need it also reads a random
//! part, each with the same chance. Objects come from the points themselves, never from a listing.
//!
//! What a point needs is learned once and kept: points share their pages, so a new point costs what it changed. When a point
//! is not there any more, because a prune gave it up, its lineage is learned anew.
//!
//! *When something is missing,* a check of the lineage's structure says whom it hurts. It has caches of its own and goes by the
//! ledger that counts then, so what a prune moved or deleted is no alarm. While something is lost each turn ends with such a
//! check, until the object is there again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use farshore_core::{LineageId, PackId, Sequence, Timestamp};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::{
    CheckFinding, Error, Means, Power, ProofClaim, ProofKind, Result, SampleSize, Vault,
    check::{Dice, Suspect},
    collection::{Collection, Sort, frame_piece},
    commit::{Event, commit_key},
    ledger::{Valid, ledger_key},
    lineage::LineageShared,
    pack::PackRef,
    page::map_key,
    prune::live::Live,
    seal::{Hash, stored_hash},
};

/// Turns of a window, and phases of objects.
const PHASES: u8 = 24;

/// How many objects are looked at side by side.
const LOOKS_AT_ONCE: usize = 16;

/// How often everything is seen, and how much is read.
#[derive(Debug, Clone, Copy)]
pub struct ProveOptions {
    /// Within this time everything that points need is seen.
    pub window: Duration,
    /// What is read within that time; nothing where the holder of the vault cannot read data.
    pub sample: SampleSize,
}

/// When each phase was last done: a cache. Whoever lost it looks at everything at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProverState {
    phases: BTreeMap<u8, Phase>,
    /// The newest point of each lineage whose objects have all been seen.
    seen_to: BTreeMap<LineageId, Sequence>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Phase {
    done_at: Timestamp,
    bytes_read: u64,
}

impl ProverState {
    /// The phases whose time has come: this turn's own; those that would be late in the next turn; and those of which
    /// nothing can be known, because they were never done, or in the future of a clock that was set back.
    fn due(&self, now: Timestamp, window: Duration) -> BTreeSet<u8> {
        let turn = turn_length(window);
        let turns = u128::from(now.as_unix_milliseconds().unsigned_abs()) / turn.as_millis().max(1);
        let own = u8::try_from(turns % u128::from(PHASES)).unwrap_or(0);
        let is_due = |phase: &u8| match self.phases.get(phase) {
            Some(done) => *phase == own || done.done_at > now || now.since(done.done_at) + turn >= window,
            None => true,
        };
        (0..PHASES).filter(is_due).collect()
    }
}

fn turn_length(window: Duration) -> Duration {
    window / u32::from(PHASES)
}

/// The phase of an object with a random name.
fn phase_of(id: PackId) -> u8 {
    let [.., last] = *id.as_bytes();
    last % PHASES
}

/// The phase of a point, and of its commit.
fn phase_of_point(point: Sequence) -> u8 {
    u8::try_from(point.get() % u64::from(PHASES)).unwrap_or(0)
}

/// What one turn found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ProveReport {
    /// Points that are known to stand.
    pub points: u64,
    /// Objects that were looked at in this turn.
    pub objects_seen: u64,
    /// Bytes that were read of them.
    pub bytes_read: u64,
    /// Proofs that were kept with points.
    pub proofs_written: u64,
    /// Why what was proven could not be kept with the points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_kept: Option<String>,
    /// Lineages that were not looked at, because their keys were never sealed for this host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub closed: Vec<LineageId>,
    /// What is wrong; empty if all is well.
    pub findings: Vec<CheckFinding>,
}

/// What is known of one lineage.
struct Known {
    lineage: Arc<LineageShared>,
    valid: Option<Arc<Valid>>,
    live: Live,
    points: BTreeMap<Sequence, Hash>,
    /// The newest commit that was read.
    followed_to: Sequence,
    /// Points that came since the last turn.
    new: BTreeSet<Sequence>,
    /// Objects that have been looked at, or were by an earlier process.
    looked: BTreeSet<PackId>,
}

/// Frames that lie together: in a collection, or where they were born.
type Placed = (Option<Arc<Collection>>, BTreeSet<u32>);

/// An object that is to be looked at.
struct Look {
    key: String,
    id: Option<PackId>,
    /// Its least and its most bytes.
    size: std::ops::RangeInclusive<u64>,
    frames: Vec<(Arc<PackRef>, Placed)>,
    pages: Vec<(std::ops::Range<u64>, Hash)>,
}

/// What is known to be wrong with a lineage.
#[derive(Default)]
struct Alarm {
    /// Objects by key: missing, cut short, or with pages that are damaged.
    lost: BTreeSet<String>,
    rotten: BTreeMap<String, Vec<Suspect>>,
    /// Its commits, maps or ledger could not be followed.
    is_lost_itself: bool,
    /// Points whose hurt has been kept with them.
    told: BTreeSet<Sequence>,
}

impl Alarm {
    fn is_off(&self) -> bool {
        self.lost.is_empty() && self.rotten.is_empty() && !self.is_lost_itself
    }
}

/// Proves a vault, turn by turn.
pub struct Prover {
    vault: Vault,
    options: ProveOptions,
    state: ProverState,
    known: BTreeMap<LineageId, Known>,
    alarms: BTreeMap<LineageId, Alarm>,
}

impl Vault {
    /// A prover that goes on from a state.
    ///
    /// # Errors
    /// [`Error::PowerMissing`] for a mere replicator, who may say nothing of what it has stored; a window or sample that makes
    /// no sense.
    pub fn prover(&self, options: ProveOptions, state: ProverState) -> Result<Prover> {
        if ![Power::Controller, Power::Pruner].iter().any(|power| self.0.access.has(*power)) {
            self.0.access.require(Power::Recoverer, "to prove recovery points")?;
        }
        if turn_length(options.window).is_zero() {
            return Err(Error::invalid("the window of the standing proof is too short"));
        }
        let (known, alarms) = (BTreeMap::new(), BTreeMap::new());
        Ok(Prover { vault: self.clone(), options, state, known, alarms })
    }
}

impl Prover {
    /// When each phase was done: to be kept for the next process.
    pub fn state(&self) -> &ProverState {
        &self.state
    }

    /// How long to wait between two turns.
    pub fn turn_length(&self) -> Duration {
        turn_length(self.options.window)
    }

    /// Looks at what is due, and keeps what that proved with the points.
    ///
    /// # Errors
    /// The store failed; what was due then is due in the next turn. Damage is no error but a finding.
    pub async fn turn(&mut self) -> Result<ProveReport> {
        if self.vault.0.access.refresh().await? {
            // What was opened before an epoch began was opened without its keys.
            self.known.clear();
        }
        let now = self.vault.0.context.clock.now();
        let due = self.state.due(now, self.options.window);
        let mut report = ProveReport::default();
        // Nothing takes a lineage away: one that was seen, and that no listing shows any more, is lost.
        let listed = self.vault.lineage_ids().await?;
        let seen = self.known.keys().chain(self.alarms.keys()).chain(self.state.seen_to.keys()).copied();
        let ids: BTreeSet<LineageId> = seen.chain(listed).collect();
        for id in &ids {
            match self.learn(*id).await {
                Ok(()) => {
                    if let Some(alarm) = self.alarms.get_mut(id) {
                        alarm.is_lost_itself = false;
                    }
                }
                Err(Error::NoKey { .. }) => report.closed.push(*id),
                Err(error) if error.is_damage() => {
                    tracing::debug!(%error, lineage = %id, "a lineage cannot be followed");
                    self.known.remove(id);
                    self.alarms.entry(*id).or_default().is_lost_itself = true;
                }
                Err(error) => return Err(error),
            }
        }
        let dice = self.dice().await?;
        for id in ids {
            if let Some(known) = self.known.get_mut(&id) {
                let alarm = self.alarms.entry(id).or_default();
                let (seen, bytes) = known.look(&due, dice.as_ref().map(|(dice, _)| dice), alarm).await?;
                report.points += u64::try_from(known.points.len()).unwrap_or(u64::MAX);
                report.objects_seen += seen;
                report.bytes_read += bytes;
            }
        }
        let phases = u64::try_from(due.len()).unwrap_or(1).max(1);
        for phase in &due {
            self.state.phases.insert(*phase, Phase { done_at: now, bytes_read: report.bytes_read / phases });
        }
        let kind = dice.map_or(ProofKind::Structure, |(_, billionths)| ProofKind::Sample { billionths });
        self.conclude(&due, kind, &mut report).await?;
        Ok(report)
    }

    /// Learns what the points of a lineage need that are not known yet.
    async fn learn(&mut self, id: LineageId) -> Result<()> {
        let seen_to = self.state.seen_to.get(&id).copied();
        let mut known = match self.known.remove(&id) {
            Some(known) => known,
            None => Known::open(&self.vault, id).await?,
        };
        if !known.follow(seen_to).await? {
            // A point that was known does not stand any more: what only it needed is not to be asked for.
            known = Known { looked: known.looked, ..Known::open(&self.vault, id).await? };
            known.follow(seen_to).await?;
        }
        self.known.insert(id, known);
        Ok(())
    }

    /// Chooses what is read, if the holder of the vault can read; with the chance that each frame has.
    async fn dice(&self) -> Result<Option<(Dice, u32)>> {
        if !self.vault.0.access.has(Power::Recoverer) {
            return Ok(None);
        }
        let packs = self.known.values().flat_map(|known| known.live.data.values());
        let stored = packs.fold(0u64, |sum, pack| sum.saturating_add(u64::from(pack.reference.bytes)));
        let share = self.options.sample.share(|| async { Ok(stored) }).await?;
        Ok(Some((Dice::new(share, &*self.vault.0.context.entropy), share.billionths())))
    }

    /// Says whom it hurts if something is lost, and keeps what was proven.
    async fn conclude(&mut self, due: &BTreeSet<u8>, kind: ProofKind, report: &mut ProveReport) -> Result<()> {
        let ended_at = self.vault.0.context.clock.now();
        let begun_at = self.state.phases.values().map(|phase| phase.done_at).min().unwrap_or(ended_at);
        let bytes_read = self.state.phases.values().fold(0u64, |sum, phase| sum.saturating_add(phase.bytes_read));
        let whole = ProofClaim { what: kind, begun_at, ended_at, bytes_read, hurt: None };
        let mut claims = Vec::new();
        let alarms: Vec<_> = self.alarms.iter().filter(|(_, alarm)| !alarm.is_off()).map(|(id, _)| *id).collect();
        for id in &alarms {
            let (findings, hurt) = self.whom_it_hurts(*id, due, kind).await?;
            report.findings.extend(findings);
            claims.extend(hurt);
        }
        for (id, known) in &mut self.known {
            if !alarms.contains(id) {
                // Points that were said to be hurt, and are whole again, are said to be so at once.
                let told = self.alarms.get_mut(id).map(|alarm| std::mem::take(&mut alarm.told)).unwrap_or_default();
                let is_due = |point: &Sequence| {
                    due.contains(&phase_of_point(*point)) || known.new.contains(point) || told.contains(point)
                };
                let points = known.points.iter().filter(|(point, _)| is_due(point));
                claims.extend(points.map(|(point, hash)| (*id, *point, *hash, whole)));
            }
            if let Some(newest) = known.points.keys().next_back() {
                self.state.seen_to.insert(*id, *newest);
            }
            known.new.clear();
        }
        match self.vault.write_proofs(claims).await {
            Ok(written) => report.proofs_written = written,
            // What was seen was seen, whether that can be kept or not.
            Err(error) => report.not_kept = Some(error.to_string()),
        }
        Ok(())
    }

    /// The findings of a check of a lineage of which something is lost, and what they say of its points.
    async fn whom_it_hurts(
        &mut self,
        id: LineageId,
        due: &BTreeSet<u8>,
        kind: ProofKind,
    ) -> Result<(Vec<CheckFinding>, Vec<Claim>)> {
        let Some(alarm) = self.alarms.get_mut(&id) else { return Ok((Vec::new(), Vec::new())) };
        let suspects: Vec<Suspect> = alarm.rotten.values().flatten().cloned().collect();
        let checked = self.vault.check_suspects(id, &suspects).await?;
        // What somebody claims of the group's state hurts no point.
        if checked.findings.iter().all(|finding| finding.means == Some(Means::WrongState)) {
            // It was moved or deleted rightly, or is there again: the lineage is learned anew.
            let points = checked.points.iter().filter(|point| alarm.told.contains(&point.point));
            let claims = points.map(|point| (id, point.point, point.hash, checked.claim(point))).collect();
            self.alarms.remove(&id);
            self.known.remove(&id);
            return Ok((Vec::new(), claims));
        }
        let new = self.known.get(&id).map(|known| &known.new);
        let mut claims = Vec::new();
        for point in &checked.points {
            let is_hurt = point.findings > 0;
            let is_news = is_hurt && alarm.told.insert(point.point);
            let is_new = new.is_some_and(|new| new.contains(&point.point));
            if is_news || is_new || due.contains(&phase_of_point(point.point)) {
                let what = if is_hurt && point.is_rotten { kind } else { ProofKind::Structure };
                claims.push((id, point.point, point.hash, ProofClaim { what, ..checked.claim(point) }));
            }
        }
        Ok((checked.findings, claims))
    }
}

/// What is claimed of a point whose commit has this hash.
type Claim = (LineageId, Sequence, Hash, ProofClaim);

impl Known {
    async fn open(vault: &Vault, id: LineageId) -> Result<Self> {
        let missing = || Error::ObjectMissing {
            object: commit_key(id, Sequence::FIRST),
            reason: "its lineage has a folder".to_owned(),
        };
        Ok(Self {
            lineage: vault.open_lineage(id).await?.ok_or_else(missing)?,
            valid: None,
            live: Live::default(),
            points: BTreeMap::new(),
            followed_to: Sequence::FIRST,
            new: BTreeSet::new(),
            looked: BTreeSet::new(),
        })
    }

    /// Follows the points that came since, and by the ledger that counts now; false if a known point does not stand any more.
    /// What points up to `seen_to` need was looked at by an earlier process.
    async fn follow(&mut self, seen_to: Option<Sequence>) -> Result<bool> {
        let (head, valid) = self.lineage.ledgers.newest().await?;
        let judged = valid.as_ref().map_or(Sequence::FIRST, |valid| valid.pruned.judged);
        let stands = |point: &Sequence, hash: &Hash| {
            *point > judged
                || valid.as_ref().is_some_and(|valid| valid.standing(*point).is_some_and(|point| point.hash == *hash))
        };
        if !self.points.iter().all(|(point, hash)| stands(point, hash)) {
            return Ok(false);
        }
        let standing = valid.iter().flat_map(|valid| &valid.ledger.points).filter(|point| point.stands);
        let standing: BTreeSet<Sequence> = standing.map(|point| point.sequence).collect();
        let since = self.followed_to.max(judged).get() + 1..=head.head.sequence.get();
        let numbers: BTreeSet<Sequence> = standing.into_iter().chain(since.map(Sequence::new)).collect();
        self.valid.clone_from(&valid);
        let is_new = |point: &Sequence| seen_to.is_none_or(|seen_to| *point > seen_to);
        let (new, old): (Vec<_>, Vec<_>) =
            numbers.into_iter().filter(|number| !self.points.contains_key(number)).partition(is_new);
        for number in &old {
            self.add(*number).await?;
        }
        if !old.is_empty() {
            let collections = valid.iter().flat_map(|valid| &valid.ledger.collections);
            self.looked.extend(collections.map(|collection| collection.id));
            self.looked.extend(self.live.data.keys().chain(self.live.maps.keys()));
        }
        for number in &new {
            if self.add(*number).await? {
                self.new.insert(*number);
            }
        }
        self.followed_to = head.head.sequence;
        Ok(true)
    }

    /// Adds what a point needs; false if the commit is no point.
    async fn add(&mut self, number: Sequence) -> Result<bool> {
        let missing = || Error::ObjectMissing {
            object: commit_key(self.lineage.id, number),
            reason: "there are later commits in its lineage".to_owned(),
        };
        let commit = self.lineage.commit_in(self.valid.as_deref(), number).await?.ok_or_else(missing)?;
        let Event::Point(point) = commit.body.event else { return Ok(false) };
        self.live.add(&self.lineage.maps, &point).await?;
        self.points.insert(number, commit.hash);
        Ok(true)
    }

    /// Looks at what is due and at what was never looked at; how many objects were seen, and bytes read.
    async fn look(&mut self, due: &BTreeSet<u8>, dice: Option<&Dice>, alarm: &mut Alarm) -> Result<(u64, u64)> {
        let looks = self.looks(due, dice, alarm).await;
        let lineage = Arc::clone(&self.lineage);
        let looks = stream::iter(looks?).map(|look| {
            let lineage = Arc::clone(&lineage);
            async move { look.see(&lineage).await.map(|seen| (look, seen)) }
        });
        let mut looks = std::pin::pin!(looks.buffer_unordered(LOOKS_AT_ONCE));
        let (mut objects, mut bytes_read) = (0, 0);
        while let Some((look, seen)) = looks.try_next().await? {
            objects += 1;
            bytes_read += seen.bytes_read;
            match seen.lost {
                Some(error) => {
                    tracing::debug!(%error, "something is lost that recovery points need");
                    alarm.lost.insert(look.key.clone());
                }
                None => {
                    alarm.lost.remove(&look.key);
                    // Frames that did not open were read again.
                    alarm.rotten.remove(&look.key);
                    if !seen.suspects.is_empty() {
                        alarm.rotten.insert(look.key.clone(), seen.suspects);
                    }
                }
            }
            self.looked.extend(look.id);
        }
        Ok((objects, bytes_read))
    }

    async fn looks(&self, due: &BTreeSet<u8>, dice: Option<&Dice>, alarm: &Alarm) -> Result<Vec<Look>> {
        let mut looks: BTreeMap<String, Look> = BTreeMap::new();
        let is_due = |id: PackId| due.contains(&phase_of(id)) || !self.looked.contains(&id);
        let (lineage, valid) = (&self.lineage, self.valid.as_deref());
        for (pack, live) in &self.live.data {
            let moved = lineage.places.find(valid, Sort::Data, *pack, live.frames.iter().map(frame_piece)).await?;
            let mut by_place: BTreeMap<Option<PackId>, Placed> = BTreeMap::new();
            for ordinal in live.frames.iter() {
                let place = moved.get(&frame_piece(ordinal)).map(|(collection, _)| Arc::clone(collection));
                let id = place.as_ref().map(|collection| collection.reference.id);
                by_place.entry(id).or_insert_with(|| (place, BTreeSet::new())).1.insert(ordinal);
            }
            for (id, (place, ordinals)) in by_place {
                if !is_due(id.unwrap_or(*pack)) {
                    continue;
                }
                let look = match &place {
                    Some(collection) => Look::collection(&mut looks, collection),
                    None => Look::at(&mut looks, live.reference.key(lineage.id), Some(*pack), live.reference.bytes),
                };
                let rotten = alarm.rotten.get(&look.key).into_iter().flatten();
                let rotten: BTreeSet<u32> = rotten
                    .filter(|suspect| suspect.part == (*pack, id))
                    .flat_map(|suspect| suspect.frames.iter().copied())
                    .collect();
                let chosen =
                    |ordinal: &u32| dice.is_some_and(|dice| dice.choose(*pack, *ordinal) || rotten.contains(ordinal));
                let chosen: BTreeSet<u32> = ordinals.into_iter().filter(chosen).collect();
                if !chosen.is_empty() {
                    look.frames.push((Arc::clone(&live.reference), (place, chosen)));
                }
            }
        }
        for (pack, live) in &self.live.maps {
            let found = lineage.places.find(valid, Sort::Map, *pack, live.pages.keys().copied()).await?;
            for (offset, (length, hash)) in &live.pages {
                let moved = found.get(offset);
                if !is_due(moved.map_or(*pack, |(collection, _)| collection.reference.id)) {
                    continue;
                }
                let (look, start) = match moved {
                    Some((collection, piece)) => (Look::collection(&mut looks, collection), piece.offset),
                    None => {
                        let look = Look::at(&mut looks, map_key(lineage.id, live.base, *pack), Some(*pack), 0);
                        let end = u64::from(*offset) + u64::from(*length);
                        look.size = end.max(*look.size.start())..=u64::MAX;
                        (look, *offset)
                    }
                };
                if dice.is_some_and(|dice| dice.choose(*pack, *offset)) || alarm.lost.contains(&look.key) {
                    look.pages.push((u64::from(start)..u64::from(start) + u64::from(*length), *hash));
                }
            }
        }
        let points = self.points.keys().filter(|point| due.contains(&phase_of_point(**point)));
        points.for_each(|point| {
            Look::at(&mut looks, commit_key(lineage.id, *point), None, 0).size = 1..=u64::MAX;
        });
        if let Some(valid) = valid.filter(|_| due.contains(&0)) {
            let key = ledger_key(lineage.id, valid.pruned.judged.get(), valid.pruned.ledger.id);
            Look::at(&mut looks, key, None, 0).size = 1..=u64::MAX;
        }
        Ok(looks.into_values().collect())
    }
}

impl Look {
    fn at(looks: &mut BTreeMap<String, Self>, key: String, id: Option<PackId>, bytes: u32) -> &mut Self {
        let size = u64::from(bytes)..=u64::from(bytes);
        let look = || Self { key: key.clone(), id, size, frames: Vec::new(), pages: Vec::new() };
        looks.entry(key.clone()).or_insert_with(look)
    }

    fn collection<'a>(looks: &'a mut BTreeMap<String, Self>, collection: &Collection) -> &'a mut Self {
        let reference = &collection.reference;
        Self::at(looks, collection.object.clone(), Some(reference.id), reference.bytes)
    }

    /// Looks. What is wrong is part of the answer.
    async fn see(&self, lineage: &LineageShared) -> Result<Seen> {
        match self.try_see(lineage).await {
            Ok(seen) => Ok(seen),
            Err(error) if error.is_damage() => Ok(Seen { lost: Some(error), ..Seen::default() }),
            Err(error) => Err(error),
        }
    }

    async fn try_see(&self, lineage: &LineageShared) -> Result<Seen> {
        const REASON: &str = "recovery points need it";
        let missing = || Error::ObjectMissing { object: self.key.clone(), reason: REASON.to_owned() };
        let size = lineage.store.size(&self.key).await?.ok_or_else(missing)?;
        if !self.size.contains(&size) {
            return Err(Error::damaged(
                &self.key,
                format!("it has {size} bytes, and should have {}", self.size.start()),
            ));
        }
        let mut seen = Seen::default();
        for (range, hash) in &self.pages {
            let stored = lineage.store.read_exact(&self.key, range.clone(), REASON).await?;
            seen.bytes_read += range.end - range.start;
            if stored_hash(&stored) != *hash {
                return Err(Error::damaged(&self.key, "a map page in it does not have the hash of its reference"));
            }
        }
        for (pack, (place, chosen)) in &self.frames {
            let directory = match place {
                Some(collection) => lineage.frames.moved_directory(pack, collection).await?,
                None => lineage.frames.directory(pack).await?,
            };
            let (bytes_read, bad) = lineage.frames.read_and_verify(&directory, chosen.clone()).await?;
            seen.bytes_read += bytes_read;
            if let Some((_, error)) = bad.first() {
                let part = (pack.pack, place.as_ref().map(|collection| collection.reference.id));
                let frames = bad.iter().map(|(ordinal, _)| *ordinal).collect();
                seen.suspects.push(Suspect { lineage: lineage.id, part, error: error.clone(), frames });
            }
        }
        Ok(seen)
    }
}

/// What a look at an object found.
#[derive(Debug, Default)]
struct Seen {
    bytes_read: u64,
    lost: Option<Error>,
    suspects: Vec<Suspect>,
}
