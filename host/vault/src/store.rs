//! The object store below a vault: the only module that names `object_store`.
//!
//! An object is created once, and never overwritten. Only a prune deletes, and it never makes a name again. The one decision that a store makes is *create if
//! absent*: [`Store::create`] tells whether this caller's bytes are the object's. A reply can be lost after the effect,
//! and a store may answer "exists" to its own repetition; both are resolved by reading the object back and comparing it
//! with what was to be written, which holds fresh random bytes in every kind of object.
//!
//! Reading needs no right to write: that conditions are honoured is proven before the first write of an opened vault, so
//! that a read-only or full store can still be recovered from.
//!
//! Nothing is decided by a listing: it only proposes keys, each of which is then read.
//!
//! A vault may have two addresses, one for its metadata and one for its data: `pair` says what lies where.

pub(crate) mod bucket;
pub(crate) mod lending;
mod objects;
mod paced;
mod pair;
mod s3;
mod unhide;

use std::{
    collections::BTreeSet,
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use farshore_core::{Entropy, Timestamp, VaultId};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use object_store::ObjectStore;
use tokio::sync::OnceCell;

pub(crate) use self::objects::is_denied;
pub use self::paced::PacedConnector;
#[cfg(fuzzing)]
pub(crate) use self::pair::Addresses;
pub use self::pair::MetadataPlan;
pub(crate) use self::pair::Uncopied;
pub use self::unhide::{HiddenObject, StillHidden, UnhidePlan, UnhideReport};
use self::{
    lending::Lender,
    objects::Objects,
    pair::{DataSide, Kept, Layout, kept},
};
use crate::{Address, Error, Result, StoreOptions, VaultLock};

/// The most bytes of any object but a reserve: more than those of a ledger.
pub(crate) const OBJECT_BYTES_MAX: usize = 160 * 1024 * 1024;

/// How long a bucket that was found to lock is not asked again.
const LOCK_PROOF_LASTS: Duration = Duration::from_secs(3_600);

/// Where a vault's objects are. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    /// The vault's objects; of a vault with two addresses those of its metadata.
    objects: Objects,
    /// Those of its data, if they are at another address.
    data: Option<DataSide>,
    /// How the vault lies there, once it was read.
    layout: Arc<OnceCell<Layout>>,
    /// Set once the store has proven that it honours conditions.
    proven: Arc<OnceCell<()>>,
    /// Which lock the bucket was last found to keep, and when, since the process began.
    lock_proven: Arc<Mutex<Option<(VaultLock, Duration)>>>,
    /// Another store that lends some objects, as if they were here.
    lender: Option<Arc<Lender>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Store").field(&self.address()).finish()
    }
}

/// What became of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Created {
    /// The object holds what was to be written.
    Mine,
    /// The object holds something else.
    Other,
}

/// An object that a listing proposes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its key below the vault's address.
    pub(crate) key: String,
    /// Its length.
    pub(crate) bytes: u64,
    /// When the store received it, as the store counts time.
    pub(crate) received_at: Timestamp,
}

impl Store {
    /// Prepares to reach the store at the address. Nothing is read or made yet: a folder that does not exist is made
    /// when a vault is created in it, and reported when one is opened.
    ///
    /// # Errors
    /// [`Error::StoreConfiguration`] when the options do not make sense for the address.
    pub fn open(address: &Address, options: &StoreOptions) -> Result<Self> {
        Self::open_paced(address, options, &PacedConnector::default())
    }

    /// The same, with what goes over a network by these limits. Folders and memory have none.
    ///
    /// # Errors
    /// As those of [`Store::open`].
    pub fn open_paced(address: &Address, options: &StoreOptions, connector: &PacedConnector) -> Result<Self> {
        Ok(Self::new(Objects::open(address, options, connector)?))
    }

    /// A store of the caller's own, such as one that injects faults; the vault's keys begin with `prefix`.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`] when the prefix cannot be part of a key.
    pub fn from_object_store(objects: Arc<dyn ObjectStore>, prefix: &str) -> Result<Self> {
        Ok(Self::new(Objects::from_object_store(objects, prefix)?))
    }

    fn new(objects: Objects) -> Self {
        Self {
            objects,
            data: None,
            layout: Arc::default(),
            proven: Arc::default(),
            lock_proven: Arc::default(),
            lender: None,
        }
    }

    /// The address, as it is shown to people.
    pub fn address(&self) -> &str {
        &self.objects.address
    }

    /// Creates the object if there is none. The parts are written one after the other.
    ///
    /// # Errors
    /// [`Error::Store`] when it could not be told whether the object is there; it may be. The same when it is there, but
    /// may be gone after a power failure.
    pub(crate) async fn create(&self, key: &str, parts: Vec<Bytes>) -> Result<Created> {
        match self.second(key) {
            Some(data) => self.create_at_both(data, key, parts).await,
            None => self.first(key).create(key, parts).await,
        }
    }

    /// The object's bytes; none if there is no object.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is larger than its kind may be; nothing is read then.
    pub(crate) async fn read(&self, key: &str, bytes_max: usize) -> Result<Option<Bytes>> {
        Ok(self.read_dated(key, bytes_max).await?.map(|(bytes, _)| bytes))
    }

    /// The object's bytes, and when the store received it, as the store counts time; none if there is no object.
    ///
    /// # Errors
    /// As those of [`Store::read`].
    pub(crate) async fn read_dated(&self, key: &str, bytes_max: usize) -> Result<Option<(Bytes, Timestamp)>> {
        if let Some(lender) = self.lender_of(key) {
            return Box::pin(lender.read_dated(key, bytes_max)).await;
        }
        let read = self.first(key).read_dated(key, bytes_max).await?;
        if read.is_some() {
            self.note(key);
        }
        Ok(read)
    }

    /// At most the bytes of this range, fewer where the object ends; none if there is no object.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the object ends before the range begins.
    pub(crate) async fn read_range(&self, key: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        if let Some(lender) = self.lender_of(key) {
            return Box::pin(lender.read_range(key, range)).await;
        }
        self.first(key).read_range(key, range).await
    }

    /// Exactly the bytes of this range.
    ///
    /// # Errors
    /// [`Error::ObjectMissing`] or [`Error::Damaged`] when they are not there.
    pub(crate) async fn read_exact(&self, key: &str, range: Range<u64>, reason: &str) -> Result<Bytes> {
        let missing = || Error::ObjectMissing { object: key.to_owned(), reason: reason.to_owned() };
        let bytes = self.read_range(key, range.clone()).await?.ok_or_else(missing)?;
        let expected = range.end.saturating_sub(range.start);
        if u64::try_from(bytes.len()) != Ok(expected) {
            let problem = format!("it ends after {} of the {expected} bytes at {}", bytes.len(), range.start);
            return Err(Error::damaged(key, problem));
        }
        Ok(bytes)
    }

    /// The last of the numbered objects that are there without a gap from one that is known to be there: in steps that
    /// double, then by halving.
    pub(crate) async fn last_number(&self, known: u64, key: impl Fn(u64) -> String) -> Result<u64> {
        let (mut there, mut step) = (known, 1);
        let mut absent = loop {
            let next = there.saturating_add(step);
            if self.size(&key(next)).await?.is_none() {
                break next;
            }
            there = next;
            step = step.saturating_mul(2);
        };
        while absent - there > 1 {
            let middle = there + (absent - there) / 2;
            if self.size(&key(middle)).await?.is_some() {
                there = middle;
            } else {
                absent = middle;
            }
        }
        Ok(there)
    }

    /// The object's length; none if there is no object.
    pub(crate) async fn size(&self, key: &str) -> Result<Option<u64>> {
        if let Some(lender) = self.lender_of(key) {
            return Box::pin(lender.size(key)).await;
        }
        let size = self.first(key).size(key).await?;
        if size.is_some() {
            self.note(key);
        }
        Ok(size)
    }

    /// Whether there is an object of this key, which not everybody may look at: a listing says so. What it does not have is looked
    /// at as far as the store lets this host.
    pub(crate) async fn is_listed(&self, key: &str) -> Result<bool> {
        let folder = key.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut listed = std::pin::pin!(self.first(key).list(folder));
        while let Some(listed) = listed.try_next().await? {
            if listed.key == key {
                return Ok(true);
            }
        }
        match self.size(key).await {
            Err(error) if is_denied(&error) => Ok(false),
            size => Ok(size?.is_some()),
        }
    }

    /// The objects below a folder, in no order; twice those that are kept at two addresses.
    pub(crate) fn list(&self, folder: &str) -> impl Stream<Item = Result<Listed>> + Send + use<> {
        let listed: Vec<_> = self.all(folder).map(|objects| objects.list(folder)).collect();
        stream::iter(listed).flatten()
    }

    /// The names of the folders right below a folder, sorted.
    pub(crate) async fn folders(&self, folder: &str) -> Result<Vec<String>> {
        let mut names: BTreeSet<String> = self.lent_folders(folder).collect();
        for objects in self.all(folder) {
            names.extend(objects.folders(folder).await?);
        }
        Ok(names.into_iter().collect())
    }

    /// Whether a listing proposes an object in the folder, after this key in the order of keys, whose name satisfies the
    /// condition.
    pub(crate) async fn any_after(
        &self,
        folder: &str,
        after: &str,
        mut condition: impl FnMut(&str) -> bool,
    ) -> Result<bool> {
        for objects in self.all(folder) {
            if objects.any_after(folder, after, &mut condition).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Deletes these objects. What is not there is passed over, so that an interrupted deletion can be repeated.
    ///
    /// # Errors
    /// [`Error::Store`] for the first that could not be deleted; others may be gone.
    pub(crate) async fn delete(&self, keys: Vec<String>) -> Result<()> {
        let Some(data) = &self.data else { return self.objects.delete(keys).await };
        if keys.iter().any(|key| kept(key) == Kept::Both) {
            self.copy_seen(data, true).await?;
        }
        let at = |place: Kept| keys.iter().filter(move |key| kept(key) != place).cloned().collect::<Vec<_>>();
        // Who finds an object at the metadata copies it to the data: so it goes there first.
        self.objects.delete(at(Kept::Data)).await?;
        data.objects.delete(at(Kept::Metadata)).await
    }

    /// That the addresses are those of one vault, as far as they say so themselves.
    ///
    /// # Errors
    /// [`Error::AddressesUnfit`]; what an address says is damaged; or the store failed.
    pub(crate) async fn check_addresses(&self) -> Result<()> {
        self.layout().await.map(drop)
    }

    /// Makes the store ready for a new vault: it proves that it honours conditions, and each of two addresses says which it is.
    ///
    /// # Errors
    /// [`Error::ConditionsIgnored`]; [`Error::VaultHalfMade`]; or the store failed.
    pub(crate) async fn begin(&self, vault: VaultId, now: Timestamp, entropy: &dyn Entropy) -> Result<()> {
        self.probe(entropy).await?;
        self.name_addresses(vault, now, entropy).await
    }

    /// Lets the store prove, before the first write, that it honours conditions: once for all clones of this handle. Who
    /// only reads never asks, and needs no right to write.
    ///
    /// # Errors
    /// [`Error::DataAddressAlone`], and as those of the proof; it is tried again the next time.
    pub(crate) async fn prove_conditions(&self, entropy: &dyn Entropy) -> Result<()> {
        if self.layout().await? == Layout::DataAlone {
            return Err(Error::DataAddressAlone { address: self.address().to_owned() });
        }
        self.probe(entropy).await
    }

    async fn probe(&self, entropy: &dyn Entropy) -> Result<()> {
        let probe = || async {
            self.objects.probe(entropy).await?;
            match &self.data {
                Some(data) => data.objects.probe(entropy).await,
                None => Ok(()),
            }
        };
        self.proven.get_or_try_init(probe).await.copied()
    }

    /// That the bucket locks what is written to it, if nobody looked within the hour.
    ///
    /// # Errors
    /// As those of [`Store::prove_lock`]; it is tried again the next time.
    pub(crate) async fn prove_lock_lately(&self, lock: VaultLock, now: Duration) -> Result<()> {
        let proven = *self.lock_proven.lock().unwrap_or_else(PoisonError::into_inner);
        if proven.is_some_and(|(known, at)| known == lock && now.saturating_sub(at) < LOCK_PROOF_LASTS) {
            return Ok(());
        }
        self.prove_lock(&lock).await?;
        *self.lock_proven.lock().unwrap_or_else(PoisonError::into_inner) = Some((lock, now));
        Ok(())
    }

    /// With a side that knows versions and locks.
    #[cfg(test)]
    pub(crate) fn with_bucket(self, bucket: Arc<dyn bucket::Bucket>) -> Self {
        Self { objects: self.objects.with_bucket(bucket), ..self }
    }

    /// As if its objects were files of this system.
    #[cfg(test)]
    pub(crate) fn assume_local(self) -> Self {
        Self { objects: self.objects.assume_local(), ..self }
    }

    /// Takes the proof as given, and what addresses say of themselves, as for a handle of a vault that was written to before.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn assume_conditions(self) -> Self {
        let layout = if self.data.is_some() { Layout::Two } else { Layout::One };
        let (proven, layout) = (OnceCell::new_with(Some(())), OnceCell::new_with(Some(layout)));
        Self { proven: Arc::new(proven), layout: Arc::new(layout), ..self }
    }
}
