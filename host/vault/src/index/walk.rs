//! What differs between two maps, leaf by leaf: how the index catches up with points that it does not know.

use std::sync::Arc;

use super::entry::{Change, EntryKey, MapTag, Place};
use crate::{
    Result,
    map::{Maps, leaf_slots},
    page::{LEVELS, LeafSlot, Page, PageRef, SLOT_BITS, SLOTS},
};

/// A page of the one map, and the page of the other map at its place.
#[derive(Debug, Clone, Copy)]
struct Pair {
    level: usize,
    index: u64,
    old: Option<PageRef>,
    new: Option<PageRef>,
}

impl Pair {
    /// The leaf after all that it covers.
    fn end(&self) -> u64 {
        (self.index + 1) << (SLOT_BITS * u32::try_from(self.level).unwrap_or(0))
    }
}

/// What differs in the leaves from this one on, of at most so many leaves; and the leaf to go on with, if there are more.
///
/// Pages that both maps share are not read. A page of the old map that is gone counts as empty; what is below a damaged page of
/// the new one is passed over.
///
/// # Errors
/// The store failed.
pub(super) async fn differences(
    maps: &Maps,
    map: MapTag,
    old: Option<PageRef>,
    new: PageRef,
    from: u64,
    leaves_max: usize,
) -> Result<(Vec<Change>, Option<u64>)> {
    let mut changes = Vec::new();
    let mut leaves: usize = 0;
    let mut waiting = vec![Pair { level: LEVELS - 1, index: 0, old, new: Some(new) }];
    while let Some(pair) = waiting.pop() {
        if pair.old == pair.new || pair.end() <= from {
            continue;
        }
        if pair.level == 0 && leaves == leaves_max {
            return Ok((changes, Some(pair.index)));
        }
        let old = read(maps, pair.old, &pair).await?;
        let new = read(maps, pair.new, &pair).await?;
        if pair.level == 0 {
            leaves += 1;
            compare(map, pair.index, leaf(old.as_ref()), leaf(new.as_ref()), &mut changes);
        } else {
            let children = (0..SLOTS).rev().map(|slot| Pair {
                level: pair.level - 1,
                index: pair.index * SLOTS as u64 + slot as u64,
                old: child(old.as_ref(), slot),
                new: child(new.as_ref(), slot),
            });
            waiting.extend(children);
        }
    }
    Ok((changes, None))
}

async fn read(maps: &Maps, reference: Option<PageRef>, pair: &Pair) -> Result<Option<Arc<Page>>> {
    let Some(reference) = reference else { return Ok(None) };
    match maps.page(&reference, pair.level, pair.index).await {
        Ok(page) => Ok(Some(page)),
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error),
    }
}

fn child(page: Option<&Arc<Page>>, slot: usize) -> Option<PageRef> {
    match page.map(|page| &**page) {
        Some(Page::Inner(children)) => children.get(slot).copied().flatten(),
        _ => None,
    }
}

fn leaf(page: Option<&Arc<Page>>) -> &[Option<LeafSlot>] {
    page.map_or(&[], |page| leaf_slots(page))
}

fn compare(map: MapTag, index: u64, old: &[Option<LeafSlot>], new: &[Option<LeafSlot>], changes: &mut Vec<Change>) {
    for slot in 0..SLOTS {
        let identity = |slots: &[Option<LeafSlot>]| Some(slots.get(slot)?.as_ref()?.identity);
        let (before, after) = (identity(old), identity(new));
        if before == after {
            continue;
        }
        let place = Place::new(map, index, slot);
        let change = |identity: &_, has_it| Change { key: EntryKey::from(identity), place, has_it };
        changes.extend(before.iter().map(|identity| change(identity, false)));
        changes.extend(after.iter().map(|identity| change(identity, true)));
    }
}
