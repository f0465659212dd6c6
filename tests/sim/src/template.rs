//! The vault that every world begins with. It is made once in a process, because deriving a key from a passphrase is slow
//! on purpose; each world gets a copy of its objects.
//!
//! Its hosts have joined and are approved, and two of its groups have a lineage that all replicators may write.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use farshore_core::{GroupName, HostName, Passphrase, SeededEntropy, SiteName, Timestamp};
use farshore_vault::{
    Context, CreateOptions, Error, HostCredential, KdfParameters, Opener, Power, Result, Store, Vault, Workers,
};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory};

use crate::{
    clock::{ClockPlan, HostClock},
    dice::Dice,
    process::Process,
    time::Time,
    world::{DATA_PREFIX, PREFIX, World},
};

/// The passphrase of the vault; it must never be seen anywhere.
pub const PASSPHRASE: &str = "correct horse battery staple";

/// The sites.
pub const SITES: [&str; 2] = ["a", "b"];

/// The groups whose lineages all replicators may write.
pub const SHARED_GROUPS: [&str; 2] = ["orders", "ledger"];

/// A host of the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// One of three that write: the first two at site `a`, the third at site `b`.
    Replicator(usize),
    /// One of two that raise generations and keep journals.
    Controller(usize),
    /// One of two that prune.
    Pruner(usize),
    /// The one that restores.
    Recoverer,
    /// One with every power.
    Keeper,
}

/// All of them.
pub const HOSTS: [Host; 9] = [
    Host::Replicator(0),
    Host::Replicator(1),
    Host::Replicator(2),
    Host::Controller(0),
    Host::Controller(1),
    Host::Pruner(0),
    Host::Pruner(1),
    Host::Recoverer,
    Host::Keeper,
];

impl Host {
    /// What it is called.
    pub fn name(self) -> String {
        match self {
            Self::Replicator(number) => format!("replicator-{number}"),
            Self::Controller(number) => format!("controller-{number}"),
            Self::Pruner(number) => format!("pruner-{number}"),
            Self::Recoverer => "recoverer".to_owned(),
            Self::Keeper => "keeper".to_owned(),
        }
    }

    fn powers(self) -> &'static [Power] {
        match self {
            Self::Replicator(_) => &[Power::Replicator],
            Self::Controller(_) => &[Power::Controller],
            Self::Pruner(_) => &[Power::Pruner],
            Self::Recoverer => &[Power::Recoverer],
            Self::Keeper => &Power::ALL,
        }
    }

    /// Which of [`SITES`] it is at.
    pub fn site(self) -> usize {
        usize::from(matches!(self, Self::Replicator(2) | Self::Controller(1)))
    }
}

/// A site's name.
///
/// # Panics
/// When the text is no name.
pub fn site(name: &str) -> SiteName {
    SiteName::new(name).expect("a good name")
}

/// A group's name.
///
/// # Panics
/// When the text is no name.
pub fn group(name: &str) -> GroupName {
    GroupName::new(name).expect("a good name")
}

/// A secret that must never be seen: what it is, and its bytes.
#[derive(Debug, Clone)]
pub struct Secret {
    /// What it is.
    pub what: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

fn without_probe(mut objects: BTreeMap<String, Bytes>, with_probe: bool) -> BTreeMap<String, Bytes> {
    if !with_probe {
        objects.retain(|key, _| !key.ends_with("/probe"));
    }
    objects
}

async fn everything(memory: &InMemory) -> Result<BTreeMap<String, Bytes>> {
    let failed = |error: object_store::Error| Error::InvalidRequest { problem: error.to_string() };
    let mut objects = BTreeMap::new();
    let listed: Vec<_> = memory.list(None).try_collect().await.map_err(failed)?;
    for meta in listed {
        let bytes = memory.get(&meta.location).await.map_err(failed)?.bytes().await.map_err(failed)?;
        objects.insert(meta.location.to_string(), bytes);
    }
    Ok(objects)
}

/// The vault, which has one address, with its metadata at another: it stays where it is, and what it has becomes that of the data.
async fn paired(objects: &BTreeMap<String, Bytes>) -> Result<BTreeMap<String, Bytes>> {
    let failed = |error: object_store::Error| Error::InvalidRequest { problem: error.to_string() };
    let memory = Arc::new(InMemory::new());
    for (key, bytes) in objects {
        let key = key.strip_prefix(PREFIX).map(|key| format!("{DATA_PREFIX}{key}")).unwrap_or_default();
        memory.put(&key.into(), bytes.clone().into()).await.map_err(failed)?;
    }
    let at = |prefix| Store::from_object_store(Arc::clone(&memory) as Arc<dyn ObjectStore>, prefix);
    let pair = at(PREFIX)?.with_data(at(DATA_PREFIX)?);
    let Context { clock, entropy, .. } = Template::context("addresses");
    let plan = pair.plan_metadata(clock.now(), &*entropy).await?;
    pair.make_metadata(&plan, &*entropy).await?;
    everything(&memory).await
}

/// See the module.
#[derive(Debug)]
pub struct Template {
    objects: BTreeMap<String, Bytes>,
    /// The same vault with its metadata at one prefix and its data at another.
    paired: BTreeMap<String, Bytes>,
    credentials: BTreeMap<Host, HostCredential>,
    secrets: Vec<Secret>,
}

impl Template {
    /// The one of this process.
    ///
    /// # Panics
    /// When the vault cannot be made: then nothing could be tested. It must not be called within a runtime.
    pub fn get() -> Arc<Self> {
        static TEMPLATE: OnceLock<Arc<Template>> = OnceLock::new();
        let make = || Arc::new(Time::default().run(Self::make()).expect("nobody waits").expect("a vault can be made"));
        Arc::clone(TEMPLATE.get_or_init(make))
    }

    /// What a vault is made with: the right time, and randomness that repeats.
    pub fn context(purpose: &str) -> Context {
        let clock = HostClock::new(&Time::default(), ClockPlan::Right, Dice::new(0, "template clock"));
        let entropy = SeededEntropy::new(crate::dice::stream_seed(0, purpose));
        Context { clock, entropy: Arc::new(entropy), workers: Workers::inline() }
    }

    async fn make() -> Result<Self> {
        let memory = Arc::new(InMemory::new());
        let store = || Store::from_object_store(Arc::clone(&memory) as Arc<dyn ObjectStore>, PREFIX);
        let options = CreateOptions { kdf: KdfParameters::FLOOR };
        let draft = Vault::draft(store()?, &Passphrase::new(PASSPHRASE), options, Self::context("vault")).await?;
        let mut secrets = vec![Secret { what: "the passphrase".to_owned(), bytes: PASSPHRASE.as_bytes().to_vec() }];
        add_secrets(&mut secrets, "the kit", &draft.kit().to_text());
        let words = draft.kit().words().join(" ");
        secrets.push(Secret { what: "the words of the kit's sheet".to_owned(), bytes: words.into_bytes() });
        let administrator = draft.create().await?;
        let year_2255 = Timestamp::from_unix_milliseconds(9_000_000_000_000);
        let mut credentials = BTreeMap::new();
        for host in HOSTS {
            let name =
                HostName::new(host.name()).map_err(|error| Error::InvalidRequest { problem: error.to_string() })?;
            let join = administrator.invite(&name, host.powers(), year_2255).await?;
            add_secrets(&mut secrets, &format!("the join file of {name}"), &join.to_text());
            let context = Self::context(&host.name());
            let credential = HostCredential::new(&join, &*context.entropy);
            add_secrets(&mut secrets, &format!("the credential of {name}"), &credential.to_text());
            credential.enrol(&store()?, &join, &context).await?;
            if host == Host::Replicator(0) {
                let opener = Opener::Host(Box::new(credential.clone()));
                let vault = Vault::open(store()?, &opener, Self::context("first lineages")).await?;
                for name in SHARED_GROUPS {
                    vault.create_lineage(&group(name), &site(SITES[0])).await?;
                }
            }
            administrator.approve(&name).await?;
            credentials.insert(host, credential);
        }
        let objects = everything(&memory).await?;
        Ok(Self { paired: paired(&objects).await?, objects, credentials, secrets })
    }

    /// Its objects. Without the probe, the store has never proven that it honours conditions.
    pub fn objects(&self, with_probe: bool) -> BTreeMap<String, Bytes> {
        without_probe(self.objects.clone(), with_probe)
    }

    /// The same of the vault with two addresses.
    pub fn paired_objects(&self, with_probe: bool) -> BTreeMap<String, Bytes> {
        without_probe(self.paired.clone(), with_probe)
    }

    /// What must never be seen: keys as bytes and as text.
    pub fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    /// What opens the vault for this host.
    pub fn opener(&self, host: Host) -> Opener {
        Opener::Host(Box::new(self.credentials[&host].clone()))
    }

    /// The vault of a world, opened by a process of this host.
    ///
    /// # Errors
    /// The vault's.
    pub async fn open(&self, world: &World, host: Host, process: &Arc<Process>, context: Context) -> Result<Vault> {
        Vault::open(world.store(process), &self.opener(host), context).await
    }
}

/// Adds the keys in a file's text, as they stand there and as bytes.
fn add_secrets(secrets: &mut Vec<Secret>, file: &str, text: &str) {
    const NAMES: [&str; 5] = ["secret", "member-key", "invitation-key", "signing-key", "receiving-key"];
    for line in text.lines() {
        let Some((name, value)) = line.split_once('=') else { continue };
        let (name, value) = (name.trim(), value.trim().trim_matches('"'));
        if !NAMES.contains(&name) {
            continue;
        }
        let pair = |at: usize| u8::from_str_radix(value.get(at..at + 2)?, 16).ok();
        let bytes: Vec<u8> = (0..value.len()).step_by(2).map_while(pair).collect();
        assert_eq!(bytes.len() * 2, value.len(), "{name} of {file} is hexadecimal");
        let what = format!("{name} of {file}");
        secrets.push(Secret { what: format!("{what}, as text"), bytes: value.as_bytes().to_vec() });
        secrets.push(Secret { what, bytes });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vault_repeats_and_its_secrets_are_known() {
        let made = Template::get();
        let again = Time::default().run(Template::make()).expect("nobody waits").expect("made");
        assert_eq!(made.objects(true), again.objects(true), "all its randomness is the seed's");
        // The passphrase, the words; the kit's secret; two keys of each join file and three of each credential: twice.
        assert_eq!(made.secrets().len(), 2 + 2 * (1 + HOSTS.len() * 5));
        assert_eq!(made.objects(true).len(), made.objects(false).len() + 1);
    }
}
