//! The session's side of the index: asking it, having its proposals confirmed, and telling it what was changed.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::StreamExt;
use tokio::sync::OnceCell;

use super::{
    CATCH_UP, MapTag, PENDING_MAX, PLACES_READ_AT_ONCE, catch_up,
    entry::{Change, EntryKey, Place},
    roots, run,
    table::{Ahead, IndexError, Row, Table},
};
use crate::{
    Point,
    map::leaf_slots,
    page::PageRef,
    seal::Hash,
    session::{Session, lock},
    working::{ChangedSlot, Slot, WorkingDisk},
};

/// What a session has of the index.
#[derive(Debug, Default)]
pub(crate) struct SessionIndex {
    /// The maps of the parent point.
    parent: BTreeMap<MapTag, PageRef>,
    /// Opened when it is needed first; none if it cannot be used.
    table: OnceCell<Option<Arc<Table>>>,
    /// Whether it turned out to be of no use after it was opened.
    is_off: AtomicBool,
    /// What the index is to be told.
    pending: Mutex<Vec<Change>>,
}

impl SessionIndex {
    /// For a session that builds on this point.
    pub(crate) fn new(parent: Option<&Point>) -> Self {
        Self { parent: parent.map(roots).unwrap_or_default(), ..Self::default() }
    }
}

impl Session {
    /// The index, opened and brought nearer to the parent; none if it cannot be used.
    async fn table(&self) -> Option<&Arc<Table>> {
        let open = || async {
            let table = self.shared.index.open(&self.shared).await?;
            match catch_up(&self.shared, &table, &self.index.parent, CATCH_UP).await {
                Ok(()) => Some(table),
                Err(error) => {
                    self.shared.index.trouble(&self.shared, Some(&table), &error);
                    None
                }
            }
        };
        let table = self.index.table.get_or_init(open).await.as_ref();
        table.filter(|_| !self.index.is_off.load(Ordering::Acquire))
    }

    fn index_trouble(&self, table: &Arc<Table>, error: &IndexError) {
        self.index.is_off.store(true, Ordering::Release);
        lock(&self.index.pending).clear();
        self.shared.index.trouble(&self.shared, Some(table), error);
    }

    /// Where the parent point has these chunks at any place; none for those that it is not known to have.
    pub(crate) async fn elsewhere(&self, identities: Vec<Hash>) -> Vec<Option<Slot>> {
        let nothing = vec![None; identities.len()];
        if identities.is_empty() || self.index.parent.is_empty() {
            return nothing;
        }
        let Some(table) = self.table().await else { return nothing };
        let keys: Vec<EntryKey> = identities.iter().map(EntryKey::from).collect();
        let places = match run(&self.shared, table, move |table| table.propose(&keys)).await {
            Ok(Some(places)) => places,
            Ok(None) => return nothing,
            Err(error) => {
                self.index_trouble(table, &error);
                return nothing;
            }
        };
        let confirm = |(identity, place): (Hash, Option<Place>)| async move {
            match place {
                Some(place) => self.confirm(&identity, place).await,
                None => None,
            }
        };
        let proposed = identities.into_iter().zip(places);
        futures::stream::iter(proposed).map(confirm).buffered(PLACES_READ_AT_ONCE).collect().await
    }

    /// The parent's own word for it: what its map has at the place, if that is the chunk. A map that cannot be read confirms
    /// nothing, and the chunk is stored again.
    async fn confirm(&self, identity: &Hash, place: Place) -> Option<Slot> {
        let root = self.index.parent.get(&place.map())?;
        let leaf = self.shared.maps.leaf(Some(*root), place.leaf()).await;
        let leaf = leaf.inspect_err(|error| {
            tracing::debug!(group = %self.shared.group, %error, "a chunk that may be stored is stored again");
        });
        let leaf = leaf.ok().flatten()?;
        let slot = leaf_slots(&leaf).get(place.slot())?.as_ref()?;
        (slot.identity == *identity).then(|| Slot::from(slot))
    }

    /// Notes what has changed in a leaf, for the index. It may wait until the index has been told of earlier changes.
    pub(crate) async fn note_changes(&self, disk: &WorkingDisk, leaf: u64, changed: &[ChangedSlot]) {
        if changed.is_empty() {
            return;
        }
        let Some(table) = self.table().await else { return };
        let full = {
            let mut pending = lock(&self.index.pending);
            for ChangedSlot { slot, before, after } in changed {
                let place = Place::new(disk.tag, leaf, *slot);
                let change = |identity: &Hash, has_it| Change { key: EntryKey::from(identity), place, has_it };
                pending.extend(before.iter().map(|identity| change(identity, false)));
                pending.extend(after.iter().map(|identity| change(identity, true)));
            }
            if pending.len() < PENDING_MAX {
                return;
            }
            std::mem::take(&mut *pending)
        };
        // Before the commit, so these places are not confirmed until then; if the commit is lost, what these changes have
        // taken out is missed until it is written again.
        if let Err(error) = run(&self.shared, table, move |table| table.apply(full, &[])).await {
            self.index_trouble(table, &error);
        }
    }

    /// Tells the index of the point that this session has made.
    pub(crate) async fn index_point(&self, point: &Point) {
        // Where it was not opened, no chunk has changed.
        let Some(Some(table)) = self.index.table.get() else { return };
        if self.index.is_off.load(Ordering::Acquire) {
            return;
        }
        let changes = std::mem::take(&mut *lock(&self.index.pending));
        let (parent, roots) = (self.index.parent.clone(), roots(point));
        let tell = move |table: &Table| {
            let rows = table.rows()?;
            let advanced = advance(&rows, &parent, &roots);
            table.apply(changes, &advanced)
        };
        if let Err(error) = run(&self.shared, table, tell).await {
            self.index_trouble(table, &error);
        }
    }
}

/// How far maps are indexed when all changes between these two points have been told.
pub(super) fn advance(
    rows: &BTreeMap<MapTag, Row>,
    parent: &BTreeMap<MapTag, PageRef>,
    point: &BTreeMap<MapTag, PageRef>,
) -> Vec<(MapTag, Option<Row>)> {
    let mut advanced = Vec::new();
    for (tag, root) in point {
        let row = rows.get(tag).cloned().unwrap_or_default();
        let before = parent.get(tag);
        let next = match row.ahead {
            None if row.done.as_ref() == before => Row { done: Some(*root), ahead: None },
            Some(Ahead { root: walked, leaf }) if Some(&walked) == before => {
                Row { done: row.done, ahead: Some(Ahead { root: *root, leaf }) }
            }
            // It was behind before: the next session catches up.
            _ => continue,
        };
        if rows.get(tag) != Some(&next) {
            advanced.push((*tag, Some(next)));
        }
    }
    advanced
}
