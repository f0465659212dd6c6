//! A store as it would be with objects of another: so that what a repair would do can be checked before it is done.
//!
//! What is lent is read from the lender, whether there is something of that name here or not. Only reads are turned aside: what is
//! created is created here.

use std::{collections::BTreeSet, sync::Arc};

use farshore_core::PackId;

use super::Store;
use crate::collection::Sort;

/// What a store lends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Loan {
    /// The keys of the objects.
    pub(crate) keys: BTreeSet<String>,
    /// Packs whose pieces are not to be looked for in this collection, but in the packs: the collection is damaged.
    pub(crate) rerouted: BTreeSet<(PackId, (Sort, PackId))>,
}

/// A store, and what it lends.
pub(super) struct Lender {
    store: Store,
    loan: Loan,
}

impl Store {
    /// The same store as it would be with this loan of another.
    pub(crate) fn lending(&self, from: &Self, loan: Loan) -> Self {
        Self { lender: Some(Arc::new(Lender { store: from.clone(), loan })), ..self.clone() }
    }

    /// The store that lends this object.
    pub(crate) fn lender_of(&self, key: &str) -> Option<&Self> {
        self.lender.as_ref().filter(|lender| lender.loan.keys.contains(key)).map(|lender| &lender.store)
    }

    /// Whether pieces of this pack are not to be looked for in this collection, although the ledger names it.
    pub(crate) fn is_rerouted(&self, collection: PackId, source: (Sort, PackId)) -> bool {
        self.lender.as_ref().is_some_and(|lender| lender.loan.rerouted.contains(&(collection, source)))
    }

    /// The names of the folders right below a folder in which lent objects are.
    pub(super) fn lent_folders<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = String> + 'a {
        let keys = self.lender.iter().flat_map(|lender| &lender.loan.keys);
        let below = keys.filter_map(move |key| key.strip_prefix(folder)?.strip_prefix('/'));
        below.filter_map(|below| Some(below.split_once('/')?.0.to_owned()))
    }
}
