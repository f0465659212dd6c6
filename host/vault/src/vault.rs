//! A vault: its header, its lineages, and what it takes up.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use farshore_core::{GroupName, LineageId, Passphrase, SecretBytes, SiteName, SlotId, Timestamp, VaultId};
use futures::TryStreamExt;
use serde::Serialize;

use crate::{
    Context, Error, HostCredential, KdfParameters, Kit, Lineage, LineageInfo, Power, Result, Store,
    header::{HEADER_KEY, Header},
    keys::{Access, Administrator, Bundle, EpochSecrets, Holder, Ring, RingSlot, SLOT_BYTES_MAX, Slot, slot_key},
    lineage::{LineageShared, open_or_begin},
    seal::{MemberKeys, PrivateKey, stored_hash},
    store::Created,
    wire::FORMAT,
};

/// How a vault is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct CreateOptions {
    /// How dear it is to try a passphrase.
    pub kdf: KdfParameters,
}

/// What can be told of a vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VaultInfo {
    /// Its id.
    pub id: VaultId,
    /// Where it is; of a vault with two addresses where its metadata is.
    pub address: String,
    /// Where its data is, if that is another address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_address: Option<String>,
    /// The number of its format.
    pub format: u16,
    /// When it was made, as its maker counted time.
    pub created_at: Timestamp,
    /// The powers that it was opened with, as far as there are keys for them.
    pub powers: Vec<Power>,
    /// Whether it was opened with the recovery kit and the passphrase.
    pub is_administrator: bool,
    /// Its lineages that can be read, by name of their groups.
    pub lineages: Vec<LineageInfo>,
    /// Lineages whose keys were never sealed for this host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub closed: Vec<LineageId>,
    /// Its other lineages: the names of their groups are not known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<UnreadableLineage>,
}

/// A lineage whose first commit is damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnreadableLineage {
    /// Its id.
    pub id: LineageId,
    /// What is wrong, as a sentence.
    pub problem: String,
}

/// What a vault takes up in its store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// By kind: `header` (with what addresses say of themselves), `probe`, `keys`, `commits`, `data packs`, `map packs`, `collections`,
    /// `ledgers` (with boundaries), `proofs`, `reserves`, `runs`, `other`.
    pub kinds: BTreeMap<String, KindUsage>,
    /// All kinds together.
    pub total: KindUsage,
}

/// Objects of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct KindUsage {
    /// How many objects.
    pub objects: u64,
    /// How many bytes they have together.
    pub bytes: u64,
}

impl KindUsage {
    fn add(&mut self, bytes: u64) {
        self.objects = self.objects.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// An open vault. Clones share its caches.
#[derive(Debug, Clone)]
pub struct Vault(pub(crate) Arc<VaultShared>);

#[derive(Debug)]
pub(crate) struct VaultShared {
    pub(crate) store: Store,
    pub(crate) context: Context,
    pub(crate) access: Arc<Access>,
    header: Header,
    lineages: Mutex<BTreeMap<LineageId, Arc<LineageShared>>>,
}

/// What opens a vault.
#[derive(Debug, Clone)]
pub enum Opener {
    /// The recovery kit and the passphrase: every power, and one key derivation.
    Kit(Box<Kit>, Passphrase),
    /// The credential of a host that has joined.
    Host(Box<HostCredential>),
}

/// A vault that is about to be made: its kit is there, and nothing in the store yet.
#[derive(Debug)]
pub struct Draft {
    store: Store,
    context: Context,
    header: Header,
    bundle: Bundle,
    receiving: PrivateKey,
    kit: Kit,
}

impl Draft {
    /// The kit that will open it. Keep it before [`Draft::create`]: without it the vault could never be read.
    pub fn kit(&self) -> &Kit {
        &self.kit
    }

    /// Makes the vault. Its header comes last: until then nobody takes it for one.
    ///
    /// # Errors
    /// [`Error::VaultExists`] when another was faster, [`Error::ConditionsIgnored`], or the store failed.
    pub async fn create(self) -> Result<Vault> {
        let Self { store, context, header, bundle, receiving, kit } = self;
        let entropy = &*context.entropy;
        store.begin(header.vault, header.created_at, entropy).await?;
        let slot = kit.slot_object().to_vec();
        let public = receiving.public();
        let ring = Ring {
            vault: header.vault,
            number: 1,
            written_at: header.created_at,
            epochs: bundle.epochs.iter().map(EpochSecrets::public).collect(),
            slots: vec![RingSlot::new(kit.slot(), stored_hash(&slot), public, String::new(), header.created_at)],
            hosts: Vec::new(),
            lock: None,
        };
        let member = MemberKeys::new(header.vault, &bundle.member);
        let exists = || Error::VaultExists { address: store.address().to_owned() };
        store.create(&slot_key(kit.slot()), vec![Bytes::from(slot)]).await?;
        match ring.create(&store, &member, &bundle.admin, entropy).await {
            Ok(()) => {}
            // Another makes one at this moment.
            Err(Error::RingRace { .. }) => return Err(exists()),
            Err(error) => return Err(error),
        }
        match store.create(HEADER_KEY, vec![Bytes::from(header.encode())]).await? {
            Created::Mine => {}
            Created::Other => return Err(exists()),
        }
        let administrator = Administrator { bundle, slot: kit.slot(), receiving };
        let access = Access::administrator(store.clone(), header.vault, administrator, ring).await?;
        Ok(Vault::new(store, context, access, header))
    }
}

impl Vault {
    /// Begins to make a vault. It takes the time of one key derivation, and writes nothing.
    ///
    /// # Errors
    /// [`Error::VaultExists`], a bad passphrase or key derivation, or the store failed.
    pub async fn draft(
        store: Store,
        passphrase: &Passphrase,
        options: CreateOptions,
        context: Context,
    ) -> Result<Draft> {
        options.kdf.check()?;
        if let Some(address) = store.taken(HEADER_KEY).await? {
            return Err(Error::VaultExists { address: address.to_owned() });
        }
        if let Some(address) = store.half_made().await? {
            return Err(Error::VaultHalfMade { address: address.to_owned() });
        }
        let entropy = Arc::clone(&context.entropy);
        let (vault, slot) = (VaultId::random(&*entropy), SlotId::random(&*entropy));
        let (bundle, secret) = (Bundle::random(&*entropy), SecretBytes::random(&*entropy));
        let (keys, passphrase, kit_secret) = (bundle.clone(), passphrase.clone(), secret.clone());
        let make = move || Slot::make(slot, vault, &keys, &passphrase, &kit_secret, options.kdf, &*entropy);
        let (object, receiving) = context.workers.run(make).await??;
        let created_at = context.clock.now();
        let slot = Slot::parse(&slot_key(slot), &object)?;
        let kit = Kit::new(store.rescue_address(), created_at, bundle.admin.public(), &slot, object, secret);
        let header = Header::new(vault, created_at, bundle.admin.public());
        Ok(Draft { store, context, header, bundle, receiving, kit })
    }

    /// Opens a vault. It writes nothing: a vault on a full or read-only store can be recovered from. Before its first write
    /// the store must prove that it honours conditions, so that whatever writes may fail with
    /// [`Error::ConditionsIgnored`].
    ///
    /// # Errors
    /// [`Error::VaultMissing`], [`Error::WrongPassphrase`], [`Error::OtherVault`], [`Error::JoinRefused`],
    /// [`Error::UnsupportedFormat`], [`Error::Damaged`], a bad key derivation, or the store failed.
    pub async fn open(store: Store, opener: &Opener, context: Context) -> Result<Self> {
        let header = Header::read(&store).await?;
        let access = match opener {
            Opener::Kit(kit, passphrase) => Access::with_kit(store.clone(), &header, kit, passphrase, &context).await?,
            Opener::Host(credential) => Access::with_credential(store.clone(), &header, credential).await?,
        };
        Ok(Self::new(store, context, access, header))
    }

    /// The id of the vault in a store; none if there is none.
    ///
    /// # Errors
    /// Its header is damaged or of another format, or the store failed.
    pub async fn id_at(store: &Store) -> Result<Option<VaultId>> {
        match Header::read(store).await {
            Ok(header) => Ok(Some(header.vault)),
            Err(Error::VaultMissing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the kit again from the words of its sheet, and with it opens the vault: so it is known to be right.
    ///
    /// # Errors
    /// [`Error::KeyFile`] when the words are not those of a kit, [`Error::WrongPassphrase`] when no slot opens with them and
    /// the passphrase; the vault is damaged, or the store failed.
    pub async fn kit_from_words(store: Store, words: &str, passphrase: &Passphrase, context: Context) -> Result<Kit> {
        let header = Header::read(&store).await?;
        // One damaged slot hides no other, and one that was taken out says so only if none opens.
        let (mut unusable, mut retired) = (None, None);
        let mut listed = std::pin::pin!(store.list("keys/slots"));
        while let Some(object) = listed.try_next().await? {
            let bytes = match store.read(&object.key, SLOT_BYTES_MAX).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => continue,
                Err(error) if error.is_damage() => {
                    unusable.get_or_insert(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let slot = match Slot::parse(&object.key, &bytes) {
                // Whoever may write to the store can put slots of other vaults there.
                Ok(slot) if slot.vault == header.vault => slot,
                Ok(_) => continue,
                Err(error) => {
                    unusable.get_or_insert(error);
                    continue;
                }
            };
            let kit = Kit::from_words(
                words,
                store.rescue_address(),
                header.created_at,
                header.admin(),
                &slot,
                bytes.to_vec(),
            )?;
            match Access::with_kit(store.clone(), &header, &kit, passphrase, &context).await {
                Ok(_) => return Ok(kit),
                Err(Error::WrongPassphrase { .. }) => {}
                Err(error @ Error::KitRetired { .. }) => retired = Some(error),
                Err(error @ Error::Store { .. }) => return Err(error),
                Err(error) => drop(unusable.get_or_insert(error)),
            }
        }
        let wrong = || Error::WrongPassphrase { address: store.address().to_owned() };
        Err(retired.or(unusable).unwrap_or_else(wrong))
    }

    fn new(store: Store, context: Context, access: Access, header: Header) -> Self {
        let access = Arc::new(access);
        Self(Arc::new(VaultShared { store, context, access, header, lineages: Mutex::default() }))
    }

    /// Another handle as if another process had opened the vault with its kit, without the cost of its key derivation.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn reopen(&self, store: Store, context: Context) -> Self {
        let store = store.assume_conditions();
        Self::new(store.clone(), context, self.0.access.reopen(store), self.0.header.clone())
    }

    /// Its header, for a store in which only lineages were made.
    #[cfg(test)]
    pub(crate) fn header_object(&self) -> (String, Vec<u8>) {
        (HEADER_KEY.to_owned(), self.0.header.encode())
    }

    /// What may be done with it as it was opened, as far as there are keys.
    pub fn powers(&self) -> Vec<Power> {
        self.0.access.powers()
    }

    /// Its id.
    pub fn id(&self) -> VaultId {
        self.0.header.vault
    }

    /// What can be told of it.
    ///
    /// # Errors
    /// The store failed.
    pub async fn info(&self) -> Result<VaultInfo> {
        let (mut lineages, mut closed, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
        for (id, lineage) in self.list_lineages().await? {
            match lineage {
                Ok(lineage) => lineages.push(lineage),
                Err(Error::NoKey { .. }) => closed.push(id),
                Err(error) => unreadable.push(UnreadableLineage { id, problem: error.to_string() }),
            }
        }
        Ok(VaultInfo {
            id: self.id(),
            address: self.0.store.address().to_owned(),
            data_address: self.0.store.data_address().map(str::to_owned),
            format: FORMAT,
            created_at: self.0.header.created_at,
            powers: self.powers(),
            is_administrator: matches!(self.0.access.holder, Holder::Administrator(_)),
            lineages,
            closed,
            unreadable,
        })
    }

    /// Its lineages, by name of their groups.
    ///
    /// # Errors
    /// A lineage's first commit is missing or damaged, its keys were never sealed for this host, or the store failed.
    pub async fn lineages(&self) -> Result<Vec<LineageInfo>> {
        self.list_lineages().await?.into_iter().map(|(_, lineage)| lineage).collect()
    }

    /// The same item by item: a lineage whose first commit is damaged hides no other. The name of its group is then not
    /// known. Those that can be read come first, by name of their groups.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list_lineages(&self) -> Result<Vec<(LineageId, Result<LineageInfo>)>> {
        let mut lineages = Vec::new();
        for id in self.lineage_ids().await? {
            match self.lineage_by_id(id).await {
                Ok(Some(shared)) => lineages.push((id, Ok(LineageInfo { id, group: shared.group.clone() }))),
                Ok(None) => {}
                Err(error) if error.is_damage() || matches!(error, Error::NoKey { .. }) => {
                    lineages.push((id, Err(error)));
                }
                Err(error) => return Err(error),
            }
        }
        lineages.sort_by_key(|(_, lineage)| match lineage {
            Ok(lineage) => (false, Some(lineage.group.clone())),
            Err(_) => (true, None),
        });
        Ok(lineages)
    }

    pub(crate) async fn lineage_ids(&self) -> Result<Vec<LineageId>> {
        let names = self.0.store.folders("lineages").await?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    pub(crate) async fn lineage_by_id(&self, id: LineageId) -> Result<Option<Arc<LineageShared>>> {
        let known = self.0.lineages.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let VaultShared { store, context, access, .. } = &*self.0;
        Ok(LineageShared::open(store, context, access, id).await?.map(|made| self.remember(made)))
    }

    /// The same with caches of its own, for who asks what the store holds now.
    pub(crate) async fn open_lineage(&self, id: LineageId) -> Result<Option<Arc<LineageShared>>> {
        let VaultShared { store, context, access, .. } = &*self.0;
        Ok(LineageShared::open(store, context, access, id).await?.map(Arc::new))
    }

    /// The same vault with another store under it, and caches of its own.
    pub(crate) fn with_store(&self, store: Store) -> Self {
        let VaultShared { context, access, header, .. } = &*self.0;
        let (context, access, header) = (context.clone(), Arc::clone(access), header.clone());
        Self(Arc::new(VaultShared { store, context, access, header, lineages: Mutex::default() }))
    }

    fn remember(&self, made: LineageShared) -> Arc<LineageShared> {
        let mut lineages = self.0.lineages.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lineages.entry(made.id).or_insert_with(|| Arc::new(made)))
    }

    /// Asks the store for something small that is there.
    ///
    /// # Errors
    /// The store failed, or the header is not what it was.
    pub async fn answers(&self) -> Result<()> {
        Header::read(&self.0.store).await.map(|_| ())
    }

    /// The id that the lineage of this group has, or would have. It follows from the vault's keys: nothing is read.
    pub fn lineage_id(&self, group: &GroupName) -> LineageId {
        self.0.access.member.lineage_id(group)
    }

    /// The lineage of a group; none if it has none yet.
    ///
    /// # Errors
    /// Its first commit is damaged, or the store failed.
    pub async fn lineage(&self, group: &GroupName) -> Result<Option<Lineage>> {
        let shared = self.lineage_by_id(self.0.access.member.lineage_id(group)).await?;
        Ok(shared.map(Lineage))
    }

    /// The lineage of a group, begun with this active site if there is none yet. Idempotent: creators that race get the
    /// same lineage, and the first of them decides the active site.
    ///
    /// # Errors
    /// Its first commit is damaged, the store failed, or it may not be written to.
    pub async fn create_lineage(&self, group: &GroupName, active_site: &SiteName) -> Result<Lineage> {
        let VaultShared { store, context, access, lineages, .. } = &*self.0;
        let id = access.member.lineage_id(group);
        if let Some(known) = lineages.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(Lineage(Arc::clone(known)));
        }
        Ok(Lineage(self.remember(open_or_begin(store, context, access, group, active_site).await?)))
    }

    /// What it takes up, as a listing of the store says; what is kept at two addresses counts twice.
    ///
    /// # Errors
    /// The store failed.
    pub async fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        let mut listed = std::pin::pin!(self.0.store.list(""));
        while let Some(object) = listed.try_next().await? {
            let parts: Vec<&str> = object.key.split('/').collect();
            let kind = match parts.as_slice() {
                [HEADER_KEY] | ["addresses", _] => "header",
                ["probe"] => "probe",
                ["lineages", _, "commits", ..] => "commits",
                ["lineages", _, "packs", ..] => "data packs",
                ["lineages", _, "maps", ..] => "map packs",
                ["lineages", _, "collections", ..] => "collections",
                ["lineages", _, "ledgers" | "boundaries", ..] => "ledgers",
                ["lineages", _, "proofs", ..] => "proofs",
                ["lineages", _, "reserves", ..] => "reserves",
                ["runs", ..] => "runs",
                ["keys", ..] | ["lineages", _, "hosts", ..] => "keys",
                _ => "other",
            };
            usage.kinds.entry(kind.to_owned()).or_default().add(object.bytes);
            usage.total.add(object.bytes);
        }
        Ok(usage)
    }
}
