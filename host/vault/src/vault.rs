//! A vault: its header, its lineages, and what it takes up.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use farshore_core::{GroupName, LineageId, Passphrase, SecretBytes, Sequence, SiteName, Timestamp, VaultId};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::{
    Context, Error, Lineage, LineageInfo, Result, Store,
    commit::read_commit,
    header::{self, HEADER_BYTES, HEADER_KEY, Header},
    lineage::{LineageShared, create_genesis},
    seal::VaultKeys,
    store::Created,
    wire::FORMAT,
};

/// How dear it is to try a passphrase: Argon2id's parameters. Memory times passes may be at most 16 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KdfParameters {
    /// Memory in KiB: 65,536 (64 MiB) to 4,194,304 (4 GiB).
    pub memory_kib: u32,
    /// Passes over the memory: 3 to 16.
    pub passes: u32,
    /// Lanes that can be computed side by side: 1 to 16.
    pub lanes: u32,
}

impl KdfParameters {
    /// The least that is allowed: for tests, and for machines with little memory.
    pub const FLOOR: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };
}

impl Default for KdfParameters {
    /// 256 MiB, 3 passes, 4 lanes: about a second of one processor.
    fn default() -> Self {
        Self { memory_kib: 256 * 1024, passes: 3, lanes: 4 }
    }
}

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
    /// Where it is.
    pub address: String,
    /// The number of its format.
    pub format: u16,
    /// When it was made, as its maker counted time.
    pub created_at: Timestamp,
    /// How dear it is to try a passphrase.
    pub kdf: KdfParameters,
    /// Its lineages that can be read, by name of their groups.
    pub lineages: Vec<LineageInfo>,
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
    /// By kind: `header`, `probe`, `commits`, `data packs`, `map packs`, `runs`, `other`.
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
    pub(crate) keys: VaultKeys,
    header: Header,
    lineages: Mutex<BTreeMap<LineageId, Arc<LineageShared>>>,
}

impl Vault {
    /// Makes a vault. It takes the time of one key derivation.
    ///
    /// # Errors
    /// [`Error::VaultExists`], [`Error::ConditionsIgnored`], a bad passphrase or key derivation, or the store failed.
    pub async fn create(
        store: Store,
        passphrase: &Passphrase,
        options: CreateOptions,
        context: Context,
    ) -> Result<Self> {
        options.kdf.check()?;
        let exists = || Error::VaultExists { address: store.address().to_owned() };
        if store.size(HEADER_KEY).await?.is_some() {
            return Err(exists());
        }
        store.prove_conditions(&*context.entropy).await?;
        let id = VaultId::random(&*context.entropy);
        let keys = VaultKeys::new(id, SecretBytes::random(&*context.entropy));
        let (passphrase, entropy, made) = (passphrase.clone(), Arc::clone(&context.entropy), keys.clone());
        let created_at = context.clock.now();
        let make = move || Header::make(id, &made, created_at, &passphrase, options.kdf, &*entropy);
        let bytes = context.workers.run(make).await??;
        let header = Header::parse(&bytes)?;
        match store.create(HEADER_KEY, vec![Bytes::from(bytes)]).await? {
            Created::Mine => Ok(Self::new(store, context, keys, header)),
            Created::Other => Err(exists()),
        }
    }

    /// Opens a vault. It takes the time of one key derivation, and writes nothing: a vault on a full or read-only store
    /// can be recovered from. Before its first write the store must prove that it honours conditions, so that whatever
    /// writes may fail with [`Error::ConditionsIgnored`].
    ///
    /// # Errors
    /// [`Error::VaultMissing`], [`Error::WrongPassphrase`], [`Error::UnsupportedFormat`], [`Error::Damaged`], a bad key
    /// derivation, or the store failed.
    pub async fn open(store: Store, passphrase: &Passphrase, context: Context) -> Result<Self> {
        let header = Self::read_header(&store).await?;
        let (passphrase, derive_from) = (passphrase.clone(), header.clone());
        let key = context.workers.run(move || derive_from.passphrase_key(&passphrase)).await??;
        let wrong = || Error::WrongPassphrase { address: store.address().to_owned() };
        let keys = header.unlock(&key).ok_or_else(wrong)?;
        Ok(Self::new(store, context, keys, header))
    }

    async fn read_header(store: &Store) -> Result<Header> {
        // A header of another format may have another length, and must still be refused for its format.
        const HEADER_READ_BYTES_MAX: usize = 64 * HEADER_BYTES;
        let bytes = store.read(HEADER_KEY, HEADER_READ_BYTES_MAX).await?;
        Header::parse(&bytes.ok_or_else(|| header::missing(store.address()))?)
    }

    fn new(store: Store, context: Context, keys: VaultKeys, header: Header) -> Self {
        Self(Arc::new(VaultShared { store, context, keys, header, lineages: Mutex::default() }))
    }

    /// Another handle as if another process had opened the vault, without the cost of its key derivation.
    #[cfg(test)]
    pub(crate) fn reopen(&self, store: Store, context: Context) -> Self {
        Self::new(store.assume_conditions(), context, self.0.keys.clone(), self.0.header.clone())
    }

    /// Its id.
    pub fn id(&self) -> VaultId {
        self.0.header.id
    }

    /// What can be told of it.
    ///
    /// # Errors
    /// The store failed.
    pub async fn info(&self) -> Result<VaultInfo> {
        let (mut lineages, mut unreadable) = (Vec::new(), Vec::new());
        for (id, lineage) in self.list_lineages().await? {
            match lineage {
                Ok(lineage) => lineages.push(lineage),
                Err(error) => unreadable.push(UnreadableLineage { id, problem: error.to_string() }),
            }
        }
        Ok(VaultInfo {
            id: self.id(),
            address: self.0.store.address().to_owned(),
            format: FORMAT,
            created_at: self.0.header.created_at,
            kdf: self.0.header.kdf,
            lineages,
            unreadable,
        })
    }

    /// Its lineages, by name of their groups.
    ///
    /// # Errors
    /// A lineage's first commit is missing or damaged, or the store failed.
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
                Err(error) if error.is_damage() => lineages.push((id, Err(error))),
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
        match read_commit(&self.0.store, &self.0.keys.genesis, id, Sequence::FIRST).await? {
            Some(genesis) => Ok(Some(self.remember(&genesis)?)),
            None => Ok(None),
        }
    }

    fn remember(&self, genesis: &crate::commit::Commit) -> Result<Arc<LineageShared>> {
        let VaultShared { store, context, keys, lineages, .. } = &*self.0;
        let made = LineageShared::new(store.clone(), context.clone(), keys.clone(), genesis)?;
        let mut lineages = lineages.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(lineages.entry(made.id).or_insert_with(|| Arc::new(made))))
    }

    /// The id that the lineage of this group has, or would have. It follows from the vault's keys: nothing is read.
    pub fn lineage_id(&self, group: &GroupName) -> LineageId {
        self.0.keys.lineage_id(group)
    }

    /// The lineage of a group; none if it has none yet.
    ///
    /// # Errors
    /// Its first commit is damaged, or the store failed.
    pub async fn lineage(&self, group: &GroupName) -> Result<Option<Lineage>> {
        let shared = self.lineage_by_id(self.0.keys.lineage_id(group)).await?;
        Ok(shared.map(Lineage))
    }

    /// The lineage of a group, begun with this active site if there is none yet. Idempotent: creators that race get the
    /// same lineage, and the first of them decides the active site.
    ///
    /// # Errors
    /// Its first commit is damaged, the store failed, or it may not be written to.
    pub async fn create_lineage(&self, group: &GroupName, active_site: &SiteName) -> Result<Lineage> {
        let genesis = create_genesis(&self.0.store, &self.0.context, &self.0.keys, group, active_site).await?;
        Ok(Lineage(self.remember(&genesis)?))
    }

    /// What it takes up, as a listing of the store says.
    ///
    /// # Errors
    /// The store failed.
    pub async fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        let mut listed = std::pin::pin!(self.0.store.list(""));
        while let Some(object) = listed.try_next().await? {
            let parts: Vec<&str> = object.key.split('/').collect();
            let kind = match parts.as_slice() {
                [HEADER_KEY] => "header",
                ["probe"] => "probe",
                ["lineages", _, "commits", ..] => "commits",
                ["lineages", _, "packs", ..] => "data packs",
                ["lineages", _, "maps", ..] => "map packs",
                ["runs", ..] => "runs",
                _ => "other",
            };
            usage.kinds.entry(kind.to_owned()).or_default().add(object.bytes);
            usage.total.add(object.bytes);
        }
        Ok(usage)
    }
}
