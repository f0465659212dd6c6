//! Putting something in the place of what is damaged, without overwriting it: what points need of it is moved, from a copy, into
//! collections, and a ledger is made valid that names them. Readers look there first.
//!
//! It is a prune that gives up nothing, condemns nothing and deletes nothing: its ledger is the newest one with collections more.
//! Where there was none, its ledger has judged the first commit only, which is no point. What was damaged is needed by nobody
//! then, and a later prune condemns it as always.
//!
//! *What is moved* is what points need that stand, or that were given up and can still be brought back. Of these it is moved as
//! far as it can be; a pack of which something is wrong even in the copy is tried once more without them. A collection that is
//! damaged is not named any more when all that points need of it was moved.
//!
//! *Who reads.* A view of the lineage: the vault as it would be with objects of the copy. Everything is verified as it always is
//! when it is moved. Nothing but new collections, a ledger and a commit is written, so a crash anywhere leaves what a later
//! prune sweeps, and it can be planned anew. If another prune comes between, it is given up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use farshore_core::{GroupName, LineageId, PackId, Sequence};

use super::{
    collect::{Move, Moved, Mover},
    live::Live,
    placement::room_beside,
    publish::Decision,
    read_point, to_u64,
};
use crate::{
    Error, Lineage, Result, Retention,
    collection::{CollectionRef, Found, Sort, frame_piece},
    commit::Event,
    keys::Power,
    ledger::{LEDGER_SOURCES_MAX, Ledger, Valid},
    lineage::LineageShared,
    page::map_key,
    succession::Held,
};

/// A pack, of one sort or the other.
type Source = (Sort, PackId);

/// What is to be put in the place of what is damaged in one lineage.
#[derive(Debug, Clone)]
pub(crate) struct Replacement {
    pub(crate) lineage: LineageId,
    /// The prune whose ledger counted when it was planned.
    pruned: Option<Sequence>,
    /// With what points need that stand, or can stand again.
    moves: BTreeMap<Source, Move>,
    /// With what points need that stand.
    least: BTreeMap<Source, Move>,
    /// Collections that are damaged, each with the packs of which something is needed that it should have.
    broken: BTreeMap<PackId, BTreeSet<Source>>,
}

/// What was put there.
#[derive(Debug)]
pub(crate) struct Replaced {
    pub(crate) group: GroupName,
    /// The commit that made it valid; none if nothing could be moved.
    pub(crate) commit: Option<Sequence>,
    pub(crate) collections: u64,
    /// What could not be moved though points that stand need it.
    pub(crate) problems: Vec<Error>,
}

impl Replacement {
    /// Plans it; none if there is nothing to do. The view has what a copy lends; `damaged` are those of the lent objects that are
    /// here too.
    ///
    /// # Errors
    /// The newest commit or ledger is missing or damaged, or a store failed.
    pub(crate) async fn plan(view: &LineageShared, damaged: &BTreeSet<String>) -> Result<Option<Self>> {
        let (head, valid) = view.ledgers.newest().await?;
        let valid = valid.as_deref();
        let (mut live, mut least) = (Live::default(), Live::default());
        for judged in valid.iter().flat_map(|valid| &valid.ledger.points) {
            let Some(point) = readable(read_point(view, judged).await)? else { continue };
            live.add_readable(&view.maps, &point).await?;
            if judged.stands {
                least.add_readable(&view.maps, &point).await?;
            }
        }
        let judged = valid.map_or(Sequence::FIRST, |valid| valid.pruned.judged);
        for number in judged.get() + 1..=head.head.sequence.get() {
            let commit = readable(view.commit_in(valid, Sequence::new(number)).await)?.flatten();
            let Some(Event::Point(point)) = commit.map(|commit| commit.body.event) else { continue };
            live.add_readable(&view.maps, &point).await?;
            least.add_readable(&view.maps, &point).await?;
        }
        let mut search = Search { view, valid, damaged, broken: BTreeMap::new() };
        search.name_broken();
        let moves = search.moves(&live).await?;
        // Those that only points need that were given up hide nothing if they cannot be moved.
        let least = search.moves(&least).await?;
        let plan = Self {
            lineage: view.id,
            pruned: head.head.pruned,
            moves,
            least,
            broken: std::mem::take(&mut search.broken),
        };
        let has_work = !plan.moves.is_empty() || !plan.broken.is_empty();
        Ok(has_work.then_some(plan))
    }

    /// Moves what the view has, and makes a ledger valid that says so.
    ///
    /// # Errors
    /// [`Error::PowerMissing`]; [`Error::LostRace`] when another prune came between: plan anew. [`Error::LimitExceeded`], or a store
    /// failed: nothing that is needed has changed then, or all of it.
    pub(crate) async fn execute(&self, lineage: &Lineage, view: &LineageShared) -> Result<Replaced> {
        let shared = &*lineage.0;
        shared.access.require(Power::Pruner, "to put something in the place of what is damaged")?;
        let began_at = shared.context.clock.now();
        let (mut built_on, valid, _) = shared.newest_to_build_on().await?;
        let (_, seen) = view.ledgers.newest().await?;
        let number = |valid: &Option<Arc<Valid>>| valid.as_ref().map(|valid| valid.commit);
        if built_on.head.pruned != self.pruned || number(&seen) != number(&valid) {
            return Err(Error::LostRace { group: shared.group.clone(), sequence: built_on.head.sequence });
        }
        // What is damaged must not keep from being mended.
        built_on.head.pins = Held::at(shared, valid.as_deref(), built_on.head.sequence).await?.pins;
        let (judged, retention) = match &valid {
            Some(valid) => (valid.pruned.judged, valid.pruned.retention),
            // Nothing was ever given up.
            None => (Sequence::FIRST, Retention { all_seconds: u64::MAX, ..Retention::default() }),
        };
        let mut ledger = valid.as_ref().map_or_else(Ledger::default, |valid| valid.ledger.clone());
        if self.moves.len() > room_beside(&ledger.collections) {
            let (found, limit) = (to_u64(self.moves.len()), to_u64(LEDGER_SOURCES_MAX));
            return Err(Error::LimitExceeded {
                what: "the number of packs out of which something was moved",
                found,
                limit,
            });
        }
        let mut mover = Mover::new(view, seen.as_deref(), &built_on, judged);
        let wide: Vec<Move> = self.moves.values().cloned().collect();
        let mut moved = mover.run(&wide).await?.or_full()?;
        let stuck: Vec<Source> = std::mem::take(&mut moved.stuck);
        moved.problems.clear();
        let least: Vec<Move> = stuck.iter().filter_map(|source| self.least.get(source)).cloned().collect();
        let Moved { collections, problems, .. } = mover.run(&least).await?.or_full()?;
        moved.collections.extend(collections);

        // One that has more than was moved is still named: a point that comes back may find in it what is whole.
        let is_left = |source: &Source| stuck.contains(source) || !self.moves.contains_key(source);
        let is_named = |collection: &CollectionRef| {
            self.broken.get(&collection.id).is_none_or(|needed| needed.iter().any(is_left))
        };
        let before = ledger.collections.len();
        ledger.collections.retain(is_named);
        let mut replaced = Replaced {
            group: shared.group.clone(),
            commit: None,
            collections: to_u64(moved.collections.len()),
            problems,
        };
        if moved.collections.is_empty() && ledger.collections.len() == before {
            return Ok(replaced);
        }
        ledger.collections.extend(moved.collections);
        let points_kept = to_u64(ledger.points.iter().filter(|point| point.stands).count());
        let decision = Decision { judged, retention, points_dropped: 0, points_kept, brings_back: false, began_at };
        replaced.commit = Some(lineage.publish(&built_on, &ledger, decision, None).await?);
        Ok(replaced)
    }
}

/// What can be read; none if it is missing or damaged.
fn readable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Looks for what lies in what is damaged.
struct Search<'a> {
    view: &'a LineageShared,
    valid: Option<&'a Valid>,
    damaged: &'a BTreeSet<String>,
    broken: BTreeMap<PackId, BTreeSet<Source>>,
}

impl Search<'_> {
    /// Begins the list of collections that are damaged.
    fn name_broken(&mut self) {
        for collection in self.valid.iter().flat_map(|valid| &valid.ledger.collections) {
            let is_rerouted =
                collection.sources.iter().any(|source| self.view.store.is_rerouted(collection.id, *source));
            if is_rerouted || self.damaged.contains(&collection.key(self.view.id)) {
                self.broken.insert(collection.id, BTreeSet::new());
            }
        }
    }

    /// The packs of which something that is needed lies in what is damaged, with all that is needed of each.
    async fn moves(&mut self, live: &Live) -> Result<BTreeMap<Source, Move>> {
        let mut moves = BTreeMap::new();
        for (pack, data) in &live.data {
            let (source, keys) = ((Sort::Data, *pack), data.frames.iter().map(frame_piece));
            let own = data.reference.key(self.view.id);
            if self.is_hit(source, keys, &own).await? {
                moves.insert(source, Move::data(data));
            }
        }
        for (pack, map) in &live.maps {
            let source = (Sort::Map, *pack);
            let own = map_key(self.view.id, map.base, *pack);
            if self.is_hit(source, map.pages.keys().copied(), &own).await? {
                moves.insert(source, Move::map(*pack, map));
            }
        }
        Ok(moves)
    }

    /// Whether one of these pieces lies in what is damaged: the pack, whose key is given, or a collection.
    async fn is_hit(&mut self, source: Source, keys: impl Iterator<Item = u32>, own: &str) -> Result<bool> {
        let keys: Vec<u32> = keys.collect();
        let (sort, pack) = source;
        let found = self.view.places.find(self.valid, sort, pack, keys.iter().copied()).await;
        let Some(found): Option<Found> = readable(found)? else {
            // Nobody knows what the collections have of it.
            let naming = self.valid.iter().flat_map(|valid| &valid.ledger.collections);
            for collection in naming.filter(|collection| collection.sources.contains(&source)) {
                if let Some(needed) = self.broken.get_mut(&collection.id) {
                    needed.insert(source);
                }
            }
            return Ok(false);
        };
        let mut is_hit = found.len() < keys.len() && self.damaged.contains(own);
        for (collection, needed) in &mut self.broken {
            let lies_there = found.values().any(|(place, _)| place.reference.id == *collection);
            if lies_there || self.view.store.is_rerouted(*collection, source) {
                needed.insert(source);
                is_hit = true;
            }
        }
        Ok(is_hit)
    }
}
