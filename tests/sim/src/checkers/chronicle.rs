//! What a lineage's commits must mean, from who made which of them and what each maker said: the model that the checkers of
//! pruning compare the vault with. Nothing in it was read out of a commit.

use std::collections::{BTreeMap, BTreeSet};

use farshore_core::{RunId, Sequence};

use crate::{
    evidence::{FoundLineage, Made},
    history::{AttemptId, History, Prune, Task},
};

/// The commits of one lineage by their numbers, each as it was made first: what was made again lies in a hole.
#[derive(Debug)]
pub(crate) struct Chronicle<'a> {
    history: &'a History,
    commits: BTreeMap<u64, Made>,
}

impl<'a> Chronicle<'a> {
    pub(crate) fn of(history: &'a History, lineage: &FoundLineage) -> Self {
        let mut commits = BTreeMap::new();
        for made in &lineage.made {
            commits.entry(made.number).or_insert(*made);
        }
        Self { history, commits }
    }

    /// The commit of this number, as it was made first.
    pub(crate) fn commit(&self, number: u64) -> Option<&Made> {
        self.commits.get(&number)
    }

    /// Its points, oldest first.
    pub(crate) fn points(&self) -> impl DoubleEndedIterator<Item = (&Made, AttemptId)> {
        self.commits.values().filter_map(|made| match made.by {
            Task::Point(attempt) => Some((made, attempt)),
            _ => None,
        })
    }

    /// Its prunes, oldest first.
    pub(crate) fn prunes(&self) -> impl DoubleEndedIterator<Item = (&Made, &'a Prune)> {
        self.commits.values().filter_map(|made| match made.by {
            Task::Prune(id) => Some((made, self.history.prunes.get(id)?)),
            _ => None,
        })
    }

    /// The newest point up to a commit.
    pub(crate) fn newest_point(&self, up_to: u64) -> Option<u64> {
        self.points().map(|(made, _)| made.number).rfind(|number| *number <= up_to)
    }

    /// The pins before a commit: runs and points.
    pub(crate) fn pins(&self, before: u64) -> BTreeMap<RunId, Sequence> {
        let mut pins = BTreeMap::new();
        for made in self.commits.range(..before).map(|(_, made)| made) {
            let Task::Pin(id) = made.by else { continue };
            match self.history.pins.get(id) {
                Some(request) if request.point.is_some() => {
                    pins.extend(request.point.map(|point| (request.run, point)));
                }
                Some(request) => {
                    pins.remove(&request.run);
                }
                None => {}
            }
        }
        pins
    }

    /// The points that do not stand any more.
    pub(crate) fn dropped(&self) -> BTreeSet<u64> {
        let mut dropped = BTreeSet::new();
        for (_, prune) in self.prunes() {
            dropped.extend(prune.dropped.iter().map(|point| point.get()));
            prune.revived.iter().for_each(|point| {
                dropped.remove(&point.get());
            });
        }
        dropped
    }
}
