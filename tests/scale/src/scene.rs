//! A vault in a counting store, with one group of one machine of one disk.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Result;
use farshore_core::{
    Basis, Consistency, Disk, DiskId, Firmware, GroupName, Instant, Machine, MachineId, Passphrase, PowerState,
    SeededEntropy, SiteName,
};
use farshore_vault::{
    Context, CreateOptions, KdfParameters, Kit, Lineage, Opener, PointDetails, PointDiskDraft, PointMachineDraft,
    Store, Vault, Workers,
};

use crate::store::{CountingStore, Time};

const PASSPHRASE: &str = "correct horse battery staple";

/// See the module.
pub struct Scene {
    /// Its time.
    pub time: Time,
    /// Where the vault lies.
    pub objects: CountingStore,
    /// The vault, opened with its kit.
    pub vault: Arc<Vault>,
    kit: Kit,
}

impl Scene {
    /// A vault that was just made.
    ///
    /// # Errors
    /// The vault's.
    pub async fn new(seed: u64) -> Result<Self> {
        let time = Time::default();
        let objects = CountingStore::new(&time);
        let store = Store::from_object_store(Arc::new(objects.clone()), "v")?;
        let options = CreateOptions { kdf: KdfParameters::FLOOR };
        let draft = Vault::draft(store, &Passphrase::new(PASSPHRASE), options, context(&time, seed)).await?;
        let kit = draft.kit().clone();
        let vault = Arc::new(draft.create().await?);
        Ok(Self { time, objects, vault, kit })
    }

    /// Another handle of the vault, as another process would open it; its randomness is that of the seed, and of when it is opened.
    ///
    /// # Errors
    /// The vault's.
    pub async fn open(&self, seed: u64) -> Result<Vault> {
        let store = Store::from_object_store(Arc::new(self.objects.clone()), "v")?;
        let opener = Opener::Kit(Box::new(self.kit.clone()), Passphrase::new(PASSPHRASE));
        Ok(Vault::open(
            store,
            &opener,
            context(&self.time, seed ^ farshore_core::Clock::monotonic(&self.time).as_secs() << 16),
        )
        .await?)
    }

    /// The group's lineage, begun if it is not there.
    ///
    /// # Errors
    /// The vault's.
    pub async fn lineage(&self) -> Result<Lineage> {
        Ok(self.vault.create_lineage(&group()?, &site()?).await?)
    }
}

fn context(time: &Time, seed: u64) -> Context {
    Context { clock: Arc::new(time.clone()), entropy: Arc::new(SeededEntropy::new(seed)), workers: Workers::inline() }
}

/// The group.
///
/// # Errors
/// Never.
pub fn group() -> Result<GroupName> {
    Ok(GroupName::new("orders")?)
}

/// The site at which it runs.
///
/// # Errors
/// Never.
pub fn site() -> Result<SiteName> {
    Ok(SiteName::new("production")?)
}

/// Its machine.
///
/// # Errors
/// Never.
pub fn machine(disk_bytes: u64) -> Result<Machine> {
    Ok(Machine {
        id: MachineId::new("orders-1")?,
        name: "orders-1".to_owned(),
        cpus: 2,
        memory_bytes: 4 << 30,
        firmware: Firmware::Bios,
        power: PowerState::Running,
        disks: vec![Disk { id: disk()?, size_bytes: disk_bytes, boot: true, properties: BTreeMap::new() }],
        network_interfaces: Vec::new(),
        properties: BTreeMap::new(),
    })
}

/// Its disk.
///
/// # Errors
/// Never.
pub fn disk() -> Result<DiskId> {
    Ok(DiskId::new("vda")?)
}

/// What a point says of itself.
///
/// # Errors
/// Never.
pub fn details(time: &Time, disk_bytes: u64, basis: Basis) -> Result<PointDetails> {
    let disks = vec![PointDiskDraft { disk: disk()?, basis, tracking_token: None }];
    Ok(PointDetails {
        capture: None,
        captured_at: farshore_core::Clock::now(time),
        instant: Instant::Group,
        consistency: Consistency::Crash,
        machines: vec![PointMachineDraft { machine: machine(disk_bytes)?, disks }],
        suspended: Vec::new(),
        label: None,
        note: String::new(),
    })
}
