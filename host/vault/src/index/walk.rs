//! What differs between two maps, leaf by leaf: how the index catches up with points that it does not know.

use std::sync::Arc;

use super::entry::{Change, EntryKey, MapTag, Place};
use crate::{
    Result,
    map::{Maps, PagePair, leaf_slots},
    page::{LeafSlot, Page, PageRef, SLOTS},
};

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
    let mut waiting = vec![PagePair::roots(old, Some(new))];
    while let Some(pair) = waiting.pop() {
        if pair.is_same() || pair.end() <= from {
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
            waiting.extend(pair.children(old.as_deref(), new.as_deref()));
        }
    }
    Ok((changes, None))
}

async fn read(maps: &Maps, reference: Option<PageRef>, pair: &PagePair) -> Result<Option<Arc<Page>>> {
    let Some(reference) = reference else { return Ok(None) };
    match maps.page(&reference, pair.level, pair.index).await {
        Ok(page) => Ok(Some(page)),
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error),
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
