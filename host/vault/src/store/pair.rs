//! A vault with two addresses: one of its metadata, one of its data.
//!
//! *What lies where.* Packs, collections and reserves lie at the address of the data only, proofs and the journals of runs at that of the
//! metadata only, and everything else at both. So the data alone is a vault that can be read: what is lost with the metadata is
//! what was proven, and the story of runs.
//!
//! *What decides* is the metadata: create-if-absent there says whose commit, ring or grant it is. Then the same object is created
//! at the data, and only then its writer is told that it is there: what is acknowledged is at both.
//!
//! *After a crash* in between, an object is at the metadata only. Its writer was told nothing; but whoever reads it builds on it. So a
//! writer copies to the data, before it creates anything, what it has read at the metadata and has not seen at the data. Of the
//! numbered objects of a folder the highest is enough: who created it had read the one before. Deletions begin at the metadata, so
//! that what is being deleted is not copied back.
//!
//! Each address says of itself which it is, and of which pair ([`Addresses`]): so that two addresses that do not belong together are
//! not written to, nor one of them alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use farshore_core::{AddressId, Entropy, Timestamp, VaultId};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use super::{
    Created, OBJECT_BYTES_MAX, Store,
    bucket::{BucketSettings, DefaultRetention, Versions},
    objects::{Objects, PROBE_KEY, is_denied},
};
use crate::{
    Error, Result,
    header::{HEADER_BYTES_MAX, HEADER_KEY, Header},
    keys::ring_key,
    plain,
    wire::Kind,
};

/// The folder of what an address says of itself.
const ADDRESSES_FOLDER: &str = "addresses";

/// The most bytes of what an address says of itself.
const ADDRESSES_BYTES_MAX: usize = 4096;

/// The number of what an address says of itself, and of the first ring.
const FIRST: u64 = 1;

/// How many objects are copied side by side.
const COPIED_AT_ONCE: usize = 8;

/// Where an object is kept in a vault with two addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Metadata,
    Data,
    Both,
}

/// Where the object of this key, or what lies below this folder, is kept.
pub(super) fn kept(key: &str) -> Kept {
    let mut parts = key.split('/');
    match (parts.next(), parts.nth(1)) {
        (Some("lineages"), Some("packs" | "maps" | "collections" | "reserves")) => Kept::Data,
        (Some("lineages"), Some("proofs")) | (Some("runs"), _) => Kept::Metadata,
        _ => Kept::Both,
    }
}

/// The folder and the number of an object whose folder holds numbers without gaps at their end, each made by somebody who had read
/// the one before.
fn numbered(key: &str) -> Option<(&str, u64)> {
    let (folder, number) = key.rsplit_once('/')?;
    let parts: Vec<&str> = folder.split('/').collect();
    let is_sequence = matches!(parts[..], ["keys", "ring"] | ["lineages", _, "commits" | "boundaries"]);
    if is_sequence { Some((folder, number.parse().ok()?)) } else { None }
}

/// Which of the two an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Role {
    Metadata,
    Data,
}

/// What an address says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Addresses {
    vault: VaultId,
    role: Role,
    metadata: AddressId,
    data: AddressId,
    written_at: Timestamp,
}

/// The key of what an address says of itself.
fn addresses_key(number: u64) -> String {
    format!("{ADDRESSES_FOLDER}/{number:08}")
}

impl Addresses {
    /// Reads what an address says of itself.
    ///
    /// # Errors
    /// It is damaged, or of another format.
    pub(crate) fn parse(object: &str, bytes: &[u8]) -> Result<Self> {
        plain::parse(object, Kind::Addresses, bytes)
    }

    fn pair(&self) -> (VaultId, AddressId, AddressId) {
        (self.vault, self.metadata, self.data)
    }

    /// Whether it was begun for this vault, whose data says this as yet.
    fn follows(&self, vault: VaultId, data: Option<&Self>) -> bool {
        self.vault == vault && data.is_none_or(|data| data.data == self.data)
    }

    async fn read(objects: &Objects, number: u64) -> Result<Option<Self>> {
        let object = addresses_key(number);
        let read = objects.read_dated(&object, ADDRESSES_BYTES_MAX).await?;
        read.map(|(bytes, _)| Self::parse(&object, &bytes)).transpose()
    }

    /// The newest that an address says, with its number. That of data says it again when it gets other metadata.
    async fn newest(objects: &Objects) -> Result<Option<(u64, Self)>> {
        let mut newest = None;
        for number in FIRST.. {
            let Some(read) = Self::read(objects, number).await? else { break };
            newest = Some((number, read));
        }
        Ok(newest)
    }
}

/// Whether each address has an object of this key of its own.
fn is_own(key: &str) -> bool {
    key == PROBE_KEY || key.split('/').next() == Some(ADDRESSES_FOLDER)
}

/// Whether whoever has opened the vault may read objects of this key, also where the store itself holds powers apart.
fn is_for_all(key: &str) -> bool {
    let parts: Vec<&str> = key.split('/').collect();
    matches!(parts[..], [HEADER_KEY] | ["keys", "ring" | "hosts", _] | ["lineages", _, "commits" | "boundaries", _])
}

/// An object that is not at the data as it is at the metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Uncopied {
    pub(crate) object: String,
    /// There is another one.
    pub(crate) differs: bool,
}

/// How a vault lies in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// At one address.
    One,
    /// At these two.
    Two,
    /// At two, of which that of the data was given.
    DataAlone,
}

/// Which objects were read at the address of the metadata, and may be missing at that of the data.
#[derive(Debug, Default)]
pub(super) struct Mirror(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// The highest number that was seen of a folder, with its key.
    highest: BTreeMap<String, (u64, String)>,
    /// Keys of other objects that were seen.
    others: BTreeSet<String>,
    /// Those of all these that are not known to be at the data.
    waiting: BTreeSet<String>,
}

impl Mirror {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object is at the metadata.
    fn note(&self, key: &str) {
        let mut seen = self.seen();
        if let Some((folder, number)) = numbered(key) {
            match seen.highest.get(folder) {
                Some((highest, _)) if *highest >= number => return,
                _ => {}
            }
            if let Some((_, lower)) = seen.highest.insert(folder.to_owned(), (number, key.to_owned())) {
                seen.waiting.remove(&lower);
            }
        } else if !seen.others.insert(key.to_owned()) {
            return;
        }
        seen.waiting.insert(key.to_owned());
    }

    /// The object is at the data too.
    fn settle(&self, key: &str) {
        self.seen().waiting.remove(key);
    }

    fn waiting(&self) -> Vec<String> {
        self.seen().waiting.iter().cloned().collect()
    }
}

/// The address of the data of a vault that has two.
#[derive(Debug, Clone)]
pub(super) struct DataSide {
    pub(super) objects: Objects,
    mirror: Arc<Mirror>,
}

impl Store {
    /// The same vault with its data at the address of another store; this one is that of its metadata.
    #[must_use]
    pub fn with_data(self, data: Self) -> Self {
        let data = DataSide { objects: data.objects, mirror: Arc::default() };
        Self { data: Some(data), ..Self::new(self.objects) }
    }

    /// The address of the data, if it is another one.
    pub fn data_address(&self) -> Option<&str> {
        self.data.as_ref().map(|data| &*data.objects.address)
    }

    /// The address from which everything can be read that points hold: that of the data, if there are two.
    pub fn rescue_address(&self) -> &str {
        self.data_address().unwrap_or_else(|| self.address())
    }

    /// Where the objects of this key, or in this folder, are created first, and read.
    pub(super) fn first(&self, key: &str) -> &Objects {
        match &self.data {
            Some(data) if kept(key) == Kept::Data => &data.objects,
            _ => &self.objects,
        }
    }

    /// Where they are as well.
    pub(super) fn second(&self, key: &str) -> Option<&DataSide> {
        self.data.as_ref().filter(|_| kept(key) == Kept::Both)
    }

    /// All places where they are.
    pub(super) fn all(&self, key: &str) -> impl Iterator<Item = &Objects> {
        std::iter::once(self.first(key)).chain(self.second(key).map(|data| &data.objects))
    }

    /// Notes that an object was found where it is created first.
    pub(super) fn note(&self, key: &str) {
        if let Some(data) = self.second(key) {
            data.mirror.note(key);
        }
    }

    /// Creates an object that is kept at both addresses, after what this process has read at the metadata is at the data.
    pub(super) async fn create_at_both(&self, data: &DataSide, key: &str, parts: Vec<Bytes>) -> Result<Created> {
        self.copy_seen(data, false).await?;
        let created = self.objects.create(key, parts.clone()).await?;
        data.mirror.note(key);
        if created == Created::Other {
            return Ok(Created::Other);
        }
        match data.objects.create(key, parts).await? {
            Created::Mine => data.mirror.settle(key),
            Created::Other => return Err(Error::AddressesDiffer { object: key.to_owned() }),
        }
        Ok(Created::Mine)
    }

    /// Copies to the data what this process has read at the metadata, so that what it says of that is true of both. Whoever tells somebody
    /// that something is there, which it did not create itself just now, asks for this first.
    ///
    /// # Errors
    /// [`Error::NotAtData`], [`Error::AddressesDiffer`]; or a store failed.
    pub(crate) async fn settle(&self) -> Result<()> {
        match &self.data {
            Some(data) => self.copy_seen(data, false).await,
            None => Ok(()),
        }
    }

    /// The same. Where the store itself holds powers apart, a host may not create all that it reads: it goes on without what points
    /// and their writers do not need, and before it deletes not without the boundaries that say so.
    pub(super) async fn copy_seen(&self, data: &DataSide, deletes: bool) -> Result<()> {
        let copied = stream::iter(data.mirror.waiting()).map(|key| async move {
            match self.copy(data, &key).await {
                Ok(()) => data.mirror.settle(&key),
                Err(error) if is_denied(&error) => {
                    let is_needed = key.starts_with("keys/ring/")
                        || key.contains("/commits/")
                        || deletes && key.contains("/boundaries/");
                    if is_needed {
                        return Err(Error::NotAtData { object: key });
                    }
                }
                Err(error) => return Err(error),
            }
            Ok(())
        });
        copied.buffer_unordered(COPIED_AT_ONCE).try_collect().await
    }

    /// Copies an object from the metadata to the data, if it is missing there. What is gone from both was deleted.
    async fn copy(&self, data: &DataSide, key: &str) -> Result<()> {
        let differ = || Err(Error::AddressesDiffer { object: key.to_owned() });
        match self.uncopied_object(key.to_owned()).await? {
            None => return Ok(()),
            Some(Uncopied { differs: true, .. }) => return differ(),
            Some(_) => {}
        }
        let Some((bytes, _)) = self.objects.read_dated(key, OBJECT_BYTES_MAX).await? else { return Ok(()) };
        match data.objects.create(key, vec![bytes]).await? {
            Created::Mine => Ok(()),
            Created::Other => differ(),
        }
    }

    /// What is at the metadata, and should be at the data, and is not; in the order of keys. With `compare` also what differs there,
    /// which costs a reading of it at both. Ledgers are left out: what an interrupted
    /// prune left of them nobody needs.
    ///
    /// # Errors
    /// A store failed.
    pub(crate) async fn uncopied(&self, compare: bool) -> Result<Vec<Uncopied>> {
        let Some(data) = &self.data else { return Ok(Vec::new()) };
        let mut proposed = BTreeMap::new();
        let mut listed = std::pin::pin!(self.objects.list(""));
        while let Some(object) = listed.try_next().await? {
            if kept(&object.key) == Kept::Both && !is_own(&object.key) && !object.key.contains("/ledgers/") {
                proposed.insert(object.key, (object.bytes, None));
            }
        }
        let mut listed = std::pin::pin!(data.objects.list(""));
        while let Some(object) = listed.try_next().await? {
            if let Some((_, at_data)) = proposed.get_mut(&object.key) {
                *at_data = Some(object.bytes);
            }
        }
        let suspect = proposed.into_iter().filter_map(|(object, (bytes, at_data))| {
            let is_same = at_data == Some(bytes);
            (!is_same || compare && is_for_all(&object)).then_some(Uncopied { object, differs: at_data.is_some() })
        });
        let differs = stream::iter(suspect).map(|suspect| async move {
            // Of the others a listing has to do: not everybody may read them.
            if is_for_all(&suspect.object) { self.uncopied_object(suspect.object).await } else { Ok(Some(suspect)) }
        });
        let found: Vec<_> = differs.buffered(COPIED_AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The same of one object; none if it is at the data as it should be, or not at the metadata.
    ///
    /// # Errors
    /// A store failed.
    pub(crate) async fn uncopied_object(&self, object: String) -> Result<Option<Uncopied>> {
        let Some(data) = &self.data else { return Ok(None) };
        let mut second = data.objects.read_dated(&object, OBJECT_BYTES_MAX).await?;
        // It is deleted at the metadata first, and created there first: its writer may be at work.
        let Some((first, _)) = self.objects.read_dated(&object, OBJECT_BYTES_MAX).await? else { return Ok(None) };
        if second.is_none() {
            second = data.objects.read_dated(&object, OBJECT_BYTES_MAX).await?;
        }
        Ok(match second {
            None => Some(Uncopied { object, differs: false }),
            Some((second, _)) => (first != second).then_some(Uncopied { object, differs: true }),
        })
    }

    /// The key of an object that was found missing at the data, if it still is, as far as this host may know.
    pub(crate) async fn missing_at_data(&self, object: &str) -> Result<Option<String>> {
        match self.uncopied_object(object.to_owned()).await {
            Ok(found) => Ok(found.filter(|found| !found.differs).map(|found| found.object)),
            Err(error) if is_denied(&error) => Ok(Some(object.to_owned())),
            Err(error) => Err(error),
        }
    }

    /// Copies these objects from the metadata to the data, where they are missing there.
    ///
    /// # Errors
    /// [`Error::AddressesDiffer`]; or a store failed.
    pub(crate) async fn copy_to_data(&self, objects: &[String]) -> Result<()> {
        let Some(data) = &self.data else { return Ok(()) };
        for object in objects {
            self.copy(data, object).await?;
        }
        Ok(())
    }

    /// The key of what an address says of itself, by number.
    pub(crate) fn says_key(number: u64) -> String {
        addresses_key(number)
    }

    /// The first of the addresses that has this object already.
    pub(crate) async fn taken(&self, key: &str) -> Result<Option<&str>> {
        for objects in std::iter::once(&self.objects).chain(self.data.iter().map(|data| &data.objects)) {
            if objects.size(key).await?.is_some() {
                return Ok(Some(&objects.address));
            }
        }
        Ok(None)
    }

    /// Whether an interrupted making has left something at one of the addresses; which.
    pub(crate) async fn half_made(&self) -> Result<Option<&str>> {
        match self.taken(&addresses_key(FIRST)).await? {
            Some(address) => Ok(Some(address)),
            None => self.taken(&ring_key(FIRST)).await,
        }
    }

    /// Lets each address say of itself which of the two it is. Nothing of the vault is there yet.
    pub(super) async fn name_addresses(&self, vault: VaultId, now: Timestamp, entropy: &dyn Entropy) -> Result<()> {
        let Some(data) = &self.data else { return Ok(()) };
        let (first, second) = (AddressId::random(entropy), AddressId::random(entropy));
        let says = |role| Addresses { vault, role, metadata: first, data: second, written_at: now };
        for (objects, role) in [(&data.objects, Role::Data), (&self.objects, Role::Metadata)] {
            let bytes = Bytes::from(plain::encode(Kind::Addresses, &says(role)));
            if objects.create(&addresses_key(FIRST), vec![bytes]).await? == Created::Other {
                return Err(Error::VaultHalfMade { address: objects.address.to_string() });
            }
        }
        Ok(())
    }

    /// How the vault lies in what was given, after what the addresses say of themselves; it is read once.
    ///
    /// # Errors
    /// [`Error::AddressesUnfit`]; what an address says is damaged; or the store failed.
    pub(super) async fn layout(&self) -> Result<Layout> {
        self.layout.get_or_try_init(|| self.read_layout()).await.copied()
    }

    async fn read_layout(&self) -> Result<Layout> {
        let unfit = |objects: &Objects, problem: &str| {
            Err(Error::AddressesUnfit { address: objects.address.to_string(), problem: problem.to_owned() })
        };
        let first = Addresses::newest(&self.objects).await?.map(|(_, says)| says);
        let Some(data) = &self.data else {
            return match first.map(|first| first.role) {
                None => Ok(Layout::One),
                Some(Role::Data) => Ok(Layout::DataAlone),
                Some(Role::Metadata) => {
                    unfit(&self.objects, "it holds the metadata of a vault whose data is at another address")
                }
            };
        };
        let second = Addresses::newest(&data.objects).await?.map(|(_, says)| says);
        let (first, second) = match (first, second) {
            (Some(first), Some(second)) => (first, second),
            (None, _) => return unfit(&self.objects, "it is not the address of the metadata of a vault with two"),
            (_, None) => return unfit(&data.objects, "it is not the address of the data of a vault with two"),
        };
        if first.role != Role::Metadata {
            return unfit(&self.objects, "it holds the data of a vault, and was given as the address of metadata");
        }
        if second.role != Role::Data {
            return unfit(&data.objects, "it holds the metadata of a vault, and was given as the address of data");
        }
        if first.pair() != second.pair() {
            return unfit(&data.objects, "its metadata is not, or not any more, at the other address that was given");
        }
        Ok(Layout::Two)
    }
}

/// What a bucket is set to; none if the store knows no such settings.
async fn settings(objects: &Objects) -> Result<Option<BucketSettings>> {
    let Some(bucket) = &objects.bucket else { return Ok(None) };
    let failed = |error| Objects::failed("ask for the settings of", "the bucket", error);
    bucket.settings().await.map(Some).map_err(failed)
}

/// What making metadata again would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MetadataPlan {
    /// The vault.
    pub vault: VaultId,
    /// How many objects are to be copied.
    pub objects: u64,
    /// How many bytes they have together.
    pub bytes: u64,
    /// The metadata is there, and only what an address says of itself is missing.
    pub says_only: bool,
    #[serde(skip)]
    keys: Vec<String>,
    /// What is still to be said at the data: its number, and what.
    #[serde(skip)]
    says: Option<(u64, Addresses)>,
    /// What is said at the metadata.
    #[serde(skip)]
    metadata: Addresses,
}

impl Store {
    /// Plans to make the metadata of a vault at an address where there is none, from all that lies at its data: because the
    /// metadata was lost, or because the vault had one address until now. It needs no keys, and changes nothing; an interrupted making
    /// goes on. Where the metadata is, and only an address says nothing of itself, that is made again.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] when the store has one address; [`Error::VaultExists`] when nothing is missing of the metadata;
    /// [`Error::AddressesUnfit`]; [`Error::VaultMissing`]; or a store failed.
    pub async fn plan_metadata(&self, now: Timestamp, entropy: &dyn Entropy) -> Result<MetadataPlan> {
        let Some(data) = &self.data else {
            return Err(Error::invalid("the vault has one address: there is no other for its metadata"));
        };
        let address = |objects: &Objects| objects.address.to_string();
        self.expect_shown(&self.objects).await?;
        self.expect_shown(&data.objects).await?;
        self.expect_as_locked(data).await?;
        if self.objects.size(HEADER_KEY).await?.is_some() {
            return self.plan_addresses(data, now, entropy).await;
        }
        let vault = Header::read(&Self::new(data.objects.clone())).await?.vault;
        let said = Addresses::newest(&data.objects).await?;
        let begun = Addresses::newest(&self.objects).await?.map(|(_, says)| says);
        let unfit = |objects: &Objects, problem: &str| {
            Err(Error::AddressesUnfit { address: address(objects), problem: problem.to_owned() })
        };
        let (number, known) = match said {
            Some((_, says)) if says.role != Role::Data => {
                return unfit(&data.objects, "it holds the metadata of a vault, and was given as the address of data");
            }
            Some((number, says)) => (number, Some(says)),
            None => (0, None),
        };
        let (says, metadata) = match (begun, known) {
            (Some(begun), Some(known)) if begun.role == Role::Metadata && begun.pair() == known.pair() => (None, begun),
            // The address is said at the metadata first: what was begun by somebody for this data goes on.
            (Some(begun), known) if begun.role == Role::Metadata && begun.follows(vault, known.as_ref()) => {
                (Some((number + 1, Addresses { role: Role::Data, ..begun.clone() })), begun)
            }
            (Some(_), _) => return unfit(&self.objects, "it belongs to another vault with two addresses"),
            (None, known) => {
                let data = known.map_or_else(|| AddressId::random(entropy), |known| known.data);
                let metadata = AddressId::random(entropy);
                let says = Addresses { vault, role: Role::Metadata, metadata, data, written_at: now };
                (Some((number + 1, Addresses { role: Role::Data, ..says.clone() })), says)
            }
        };
        // What lies at the metadata only was at the one address that the vault had before; what is left there later is old.
        let has_one = number == 0 || number == 1 && says.is_none();
        let mut plan = MetadataPlan { vault, objects: 0, bytes: 0, says_only: false, keys: Vec::new(), says, metadata };
        let mut listed = std::pin::pin!(data.objects.list(""));
        while let Some(object) = listed.try_next().await? {
            let is_copied = match kept(&object.key) {
                Kept::Both => !is_own(&object.key),
                Kept::Metadata => has_one,
                Kept::Data => false,
            };
            if is_copied {
                plan.objects += 1;
                plan.bytes = plan.bytes.saturating_add(object.bytes);
                plan.keys.push(object.key);
            }
        }
        // The header makes it a vault: it comes last.
        plan.keys.sort_by_key(|key| key == HEADER_KEY);
        Ok(plan)
    }

    /// That nobody has hidden what makes this address one of a vault: what would be written then is not what counts.
    async fn expect_shown(&self, objects: &Objects) -> Result<()> {
        let Some(settings) = settings(objects).await? else { return Ok(()) };
        if !settings.keeps_versions {
            return Ok(());
        }
        for folder in [HEADER_KEY, ADDRESSES_FOLDER] {
            let is_hidden = |versions: &Versions| versions.first().is_some() && !versions.above_first().is_empty();
            if let Some((key, _)) = objects.versions(folder).await?.iter().find(|(_, versions)| is_hidden(versions)) {
                let problem = format!("somebody has hidden {key} there, and `farshore vault unhide` shows it again");
                return Err(Error::AddressesUnfit { address: objects.address.to_string(), problem });
            }
        }
        Ok(())
    }

    /// That the metadata is locked as strictly and for as long as the data: what lies at both is locked at both.
    async fn expect_as_locked(&self, data: &DataSide) -> Result<()> {
        let Some(wanted) = settings(&data.objects).await?.and_then(|settings| settings.retention) else {
            return Ok(());
        };
        let found = settings(&self.objects).await?.filter(|found| found.keeps_versions && found.can_lock);
        let is_enough =
            |found: DefaultRetention| found.mode >= wanted.mode && found.span_seconds >= wanted.span_seconds;
        if found.and_then(|found| found.retention).is_some_and(is_enough) {
            return Ok(());
        }
        let problem = format!(
            "the bucket of the data locks all that it gets for {} days, in mode {}, and this one does not",
            wanted.span_seconds / 86_400,
            wanted.mode
        );
        Err(Error::AddressesUnfit { address: self.objects.address.to_string(), problem })
    }

    /// Plans to let an address say again what it is, of a vault that has both.
    async fn plan_addresses(&self, data: &DataSide, now: Timestamp, entropy: &dyn Entropy) -> Result<MetadataPlan> {
        let unfit = |objects: &Objects, problem: &str| {
            Err(Error::AddressesUnfit { address: objects.address.to_string(), problem: problem.to_owned() })
        };
        let first = Addresses::newest(&self.objects).await?.map(|(_, says)| says);
        let second = Addresses::newest(&data.objects).await?.map(|(_, says)| says);
        let header = async |objects: &Objects| {
            let read = objects.read_dated(HEADER_KEY, HEADER_BYTES_MAX).await?;
            let missing = || Error::VaultMissing { address: objects.address.to_string() };
            read.map(|(bytes, _)| Header::parse(&bytes)).ok_or_else(missing)?
        };
        let vault = header(&self.objects).await?.vault;
        if header(&data.objects).await?.vault != vault {
            return unfit(&data.objects, "it holds another vault");
        }
        let (says, metadata) = match (first, second) {
            (Some(_), Some(_)) => {
                self.layout().await?;
                return Err(Error::VaultExists { address: self.objects.address.to_string() });
            }
            (Some(first), None) if first.role == Role::Metadata => {
                (Some((FIRST, Addresses { role: Role::Data, ..first.clone() })), first)
            }
            (None, Some(second)) if second.role == Role::Data => (None, Addresses { role: Role::Metadata, ..second }),
            (None, None) => {
                let (metadata, data) = (AddressId::random(entropy), AddressId::random(entropy));
                let says = Addresses { vault, role: Role::Metadata, metadata, data, written_at: now };
                (Some((FIRST, Addresses { role: Role::Data, ..says.clone() })), says)
            }
            (Some(_), None) => {
                return unfit(&self.objects, "it holds the data of a vault, and was given as the address of metadata");
            }
            (None, Some(_)) => {
                return unfit(&data.objects, "it holds the metadata of a vault, and was given as the address of data");
            }
        };
        self.expect_not_behind(data).await?;
        Ok(MetadataPlan { vault, objects: 0, bytes: 0, says_only: true, keys: Vec::new(), says, metadata })
    }

    /// That the metadata is neither the data, nor older than it, nor another history: nothing else tells.
    async fn expect_not_behind(&self, data: &DataSide) -> Result<()> {
        let unfit = |problem: &str| {
            Err(Error::AddressesUnfit { address: self.objects.address.to_string(), problem: problem.to_owned() })
        };
        let behind = || unfit("it is older than the data, or something is missing or hidden in it");
        let mut there = BTreeSet::new();
        let mut highest: BTreeMap<String, u64> = BTreeMap::new();
        let mut listed = std::pin::pin!(self.objects.list(""));
        while let Some(object) = listed.try_next().await? {
            if kept(&object.key) == Kept::Data {
                return unfit("it holds packs of data, and was given as the address of metadata");
            }
            if let Some((folder, number)) = numbered(&object.key) {
                let known = highest.entry(folder.to_owned()).or_insert(number);
                *known = number.max(*known);
            }
            there.insert(object.key);
        }
        let mut same = Vec::new();
        let mut listed = std::pin::pin!(data.objects.list(""));
        while let Some(object) = listed.try_next().await? {
            if kept(&object.key) != Kept::Both || is_own(&object.key) {
                continue;
            }
            match numbered(&object.key) {
                Some((folder, number)) => match highest.get(folder) {
                    Some(highest) if number < *highest => {}
                    Some(highest) if number == *highest => same.push(object.key),
                    _ => return behind(),
                },
                // What a prune deletes is gone from the metadata first; nothing else is ever deleted.
                None if object.key.contains("/ledgers/") || there.contains(&object.key) => {}
                None => return behind(),
            }
        }
        for object in same {
            if self.uncopied_object(object.clone()).await?.is_some() {
                return Err(Error::AddressesDiffer { object });
            }
        }
        Ok(())
    }

    /// Makes the metadata as it was planned. No host may write to the vault meanwhile, nor afterwards to metadata that it had before.
    ///
    /// # Errors
    /// [`Error::ConditionsIgnored`]; [`Error::AddressesDiffer`] when something else is there by now; or a store failed.
    pub async fn make_metadata(&self, plan: &MetadataPlan, entropy: &dyn Entropy) -> Result<()> {
        let Some(data) = &self.data else { return Err(Error::invalid("the vault has one address")) };
        self.probe(entropy).await?;
        let differ = |object: &str| Err(Error::AddressesDiffer { object: object.to_owned() });
        let said = [(&self.objects, Some((FIRST, plan.metadata.clone()))), (&data.objects, plan.says.clone())];
        for (objects, says) in said {
            let Some((number, says)) = says else { continue };
            let (object, bytes) = (addresses_key(number), plain::encode(Kind::Addresses, &says));
            if objects.create(&object, vec![Bytes::from(bytes)]).await? == Created::Other {
                return differ(&object);
            }
        }
        let (header, others): (Vec<&String>, Vec<&String>) = plan.keys.iter().partition(|key| *key == HEADER_KEY);
        let copy = |key: &String| {
            let key = key.clone();
            async move {
                // A pruner's deletion has gone on to its end.
                let Some((bytes, _)) = data.objects.read_dated(&key, OBJECT_BYTES_MAX).await? else { return Ok(()) };
                match self.objects.create(&key, vec![bytes]).await? {
                    Created::Mine => Ok(()),
                    Created::Other => Err(Error::AddressesDiffer { object: key }),
                }
            }
        };
        stream::iter(others).map(copy).buffer_unordered(COPIED_AT_ONCE).try_collect::<()>().await?;
        stream::iter(header).map(copy).buffer_unordered(1).try_collect().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_numbered_objects_only_the_highest_waits() {
        let mirror = Mirror::default();
        let commit = |number: u64| format!("lineages/0a/commits/{number:020}");
        for key in [commit(1), commit(9), commit(4), "keys/hosts/1".to_owned(), "keys/hosts/1".to_owned()] {
            mirror.note(&key);
        }
        assert_eq!(mirror.waiting(), ["keys/hosts/1".to_owned(), commit(9)]);
        mirror.settle(&commit(9));
        mirror.settle("keys/hosts/1");
        mirror.note("keys/hosts/1");
        mirror.note(&commit(9));
        assert!(mirror.waiting().is_empty(), "what is known to be there is not looked for again");
        mirror.note(&commit(10));
        assert_eq!(mirror.waiting(), [commit(10)]);
    }

    #[test]
    fn each_key_has_its_place() {
        for (key, place) in [
            ("vault", Kept::Both),
            ("keys/ring/00000001", Kept::Both),
            ("lineages/0a/commits/00000000000000000001", Kept::Both),
            ("lineages/0a/ledgers/00000000000000000001/0b", Kept::Both),
            ("lineages/0a/packs/00000000000000000001/0b", Kept::Data),
            ("lineages/0a/maps", Kept::Data),
            ("lineages/0a/collections/00000000000000000001/0b", Kept::Data),
            ("lineages/0a/reserves/0b", Kept::Data),
            ("lineages/0a/proofs/00000000000000000001/0b", Kept::Metadata),
            ("runs/0a/00000001", Kept::Metadata),
            ("runs", Kept::Metadata),
            ("lineages", Kept::Both),
            ("", Kept::Both),
        ] {
            assert_eq!(kept(key), place, "{key}");
        }
    }
}
