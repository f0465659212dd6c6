//! What the points that stand refer to: which frames of which data packs, and which pages of which map packs.
//!
//! Points share their unchanged pages, so each page is read once: a page that was met before leads to nothing new.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use farshore_core::PackId;

use crate::{
    Error, PageRef, Point, Result,
    map::Maps,
    pack::PackRef,
    page::{LEVELS, Page, SLOTS},
    seal::Hash,
};

/// No frame of a pack has a higher ordinal: a pack that a writer makes has at most 4,096 chunks.
const ORDINAL_MAX: u32 = 65_535;

/// A set of ordinals.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ordinals(Vec<u64>);

impl Ordinals {
    fn insert(&mut self, ordinal: u32) {
        let (word, bit) = (usize::try_from(ordinal / 64).unwrap_or(0), ordinal % 64);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << bit;
    }

    /// In order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        (0u32..).zip(&self.0).flat_map(|(word, bits)| {
            (0..64).filter(move |bit| bits & (1u64 << bit) != 0).map(move |bit| word * 64 + bit)
        })
    }
}

/// A data pack of which something is needed.
#[derive(Debug, Clone)]
pub(crate) struct LiveData {
    pub(crate) reference: Arc<PackRef>,
    pub(crate) frames: Ordinals,
}

/// A map pack of which something is needed.
#[derive(Debug, Clone, Default)]
pub(crate) struct LiveMap {
    pub(crate) base: u64,
    /// By offset: length, and hash of the stored page.
    pub(crate) pages: BTreeMap<u32, (u32, Hash)>,
}

/// What is needed.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) data: BTreeMap<PackId, LiveData>,
    pub(crate) maps: BTreeMap<PackId, LiveMap>,
}

impl Live {
    /// Adds what a point refers to.
    ///
    /// # Errors
    /// A page is missing or damaged: then nobody knows what is needed, and nothing may be deleted. Or the store failed.
    pub(crate) async fn add(&mut self, maps: &Maps, point: &Point) -> Result<()> {
        self.follow(maps, point, false).await.map_err(|error| match error {
            Error::Damaged { object, problem } => Error::damaged(
                object,
                format!("{problem}; point {} needs it, and nothing is pruned before", point.sequence),
            ),
            error => error,
        })
    }

    /// Adds what a point refers to as far as it can be told: pages that are missing or damaged are left out, with all that is
    /// below them. What is deleted must not be decided by it.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn add_readable(&mut self, maps: &Maps, point: &Point) -> Result<()> {
        self.follow(maps, point, true).await
    }

    async fn follow(&mut self, maps: &Maps, point: &Point, passes_over: bool) -> Result<()> {
        let mut waiting: Vec<(PageRef, usize, u64)> = point.maps().map(|root| (root, LEVELS - 1, 0)).collect();
        while let Some((reference, level, index)) = waiting.pop() {
            if !self.add_page(&reference) {
                continue;
            }
            let page = match maps.page(&reference, level, index).await {
                Ok(page) => page,
                Err(error) if passes_over && error.is_damage() => {
                    self.remove_page(&reference);
                    continue;
                }
                Err(error) => return Err(error),
            };
            match &*page {
                Page::Inner(children) => {
                    for (child, slot) in children.iter().zip(index * SLOTS as u64..) {
                        waiting.extend(child.map(|child| (child, level - 1, slot)));
                    }
                }
                Page::Leaf(slots) => {
                    for slot in slots.iter().flatten() {
                        match self.add_frame(&slot.pack, slot.ordinal) {
                            Err(error) if !(passes_over && error.is_damage()) => return Err(error),
                            Ok(()) | Err(_) => {}
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the page is new.
    fn add_page(&mut self, reference: &PageRef) -> bool {
        let map = self.maps.entry(reference.pack).or_default();
        map.base = reference.base;
        map.pages.insert(reference.offset, (reference.length, reference.hash)).is_none()
    }

    fn remove_page(&mut self, reference: &PageRef) {
        if let Entry::Occupied(mut entry) = self.maps.entry(reference.pack) {
            entry.get_mut().pages.remove(&reference.offset);
            if entry.get().pages.is_empty() {
                entry.remove();
            }
        }
    }

    fn add_frame(&mut self, pack: &Arc<PackRef>, ordinal: u32) -> Result<()> {
        let impossible = |problem: &str| Error::damaged(format!("pack {}", pack.pack), problem);
        if ordinal > ORDINAL_MAX {
            return Err(impossible("a map refers to a frame that it cannot have"));
        }
        match self.data.entry(pack.pack) {
            Entry::Vacant(entry) => {
                let live = entry.insert(LiveData { reference: Arc::clone(pack), frames: Ordinals::default() });
                live.frames.insert(ordinal);
            }
            Entry::Occupied(mut entry) => {
                if *entry.get().reference != **pack {
                    return Err(impossible("two references to it differ"));
                }
                entry.get_mut().frames.insert(ordinal);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_come_back_in_order() {
        let mut ordinals = Ordinals::default();
        for ordinal in [4095, 0, 64, 63, 64] {
            ordinals.insert(ordinal);
        }
        assert_eq!(ordinals.iter().collect::<Vec<_>>(), [0, 63, 64, 4095]);
    }
}
