//! What fuzzing reaches of the decoders. This module exists only where the compiler is given `--cfg fuzzing`: the crate's
//! interface is the same without it.
//!
//! Most decoders stand behind a seal or a signature, which no mutated input would ever pass. So the first byte of an input
//! chooses how deep the rest goes: it is a stored object as it is (0), or it is what lies behind, and is signed, sealed and
//! stored first, with the keys of a vault that is there for that ([`World`]). `tests/fuzz` has the program.
//!
//! A target fails by a panic: its own, or that of what it calls. Beside that the decoders shall not panic, whatever is
//! decoded must be the same when it is encoded and decoded again; and what is refused must be refused as damage.

mod files;
mod keys;
mod lineage;
mod seeds;

use std::sync::Arc;

use farshore_core::{LineageId, PackId, Passphrase, SeededEntropy, Sequence, SessionId};
use futures::future::BoxFuture;
use object_store::{ObjectStoreExt, memory::InMemory, path::Path};

use crate::{
    Context, Error, HostCredential, Kit, Opener, Result, Store, Vault, Workers,
    lineage::LineageShared,
    seal::SessionKey,
    wire::{Kind, length_u32, prologue},
};

/// A target: what it does with the depth that was asked for, and the rest of an input.
type Target = fn(&World, u8, &[u8]);

/// Every target by its name.
const TARGETS: [(&str, Target); 21] = [
    ("header", keys::header),
    ("addresses", keys::addresses),
    ("slot", keys::slot),
    ("ring", keys::ring),
    ("enrolment", keys::enrolment),
    ("grant", keys::grant),
    ("epoch-keys", keys::epoch_keys),
    ("lineage-box", keys::lineage_box),
    ("run-entry", keys::run_entry),
    ("commit", lineage::commit),
    ("point", lineage::point),
    ("page", lineage::page),
    ("pack", lineage::pack),
    ("frame", lineage::frame),
    ("boundary", lineage::boundary),
    ("ledger", lineage::ledger),
    ("collection", lineage::collection),
    ("kit", files::kit),
    ("kit-words", files::kit_words),
    ("join-file", files::join_file),
    ("credential", files::credential),
];

/// The names of all targets.
pub fn targets() -> impl Iterator<Item = &'static str> {
    TARGETS.iter().map(|(name, _)| *name)
}

/// A small vault with all its keys, in memory: inputs take the place of its objects.
pub struct World {
    runtime: tokio::runtime::Runtime,
    objects: InMemory,
    administrator: Vault,
    credential: HostCredential,
    kit: Kit,
    lineage: Arc<LineageShared>,
    session: SessionId,
    session_key: SessionKey,
    sealed_secret: Vec<u8>,
}

/// The names that inputs have as objects.
const PACK: PackId = PackId::from_bytes([1; 16]);
const BASE: u64 = 5;

impl World {
    /// The vault in a folder like those of `tests/compat`: with `kit.toml`, `passphrase`, `host.toml` and the folder `vault`.
    ///
    /// # Panics
    /// When there is no such vault in the folder.
    pub fn load(folder: &std::path::Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let text =
            |name: &str| std::fs::read_to_string(folder.join(name)).expect("a vault of tests/compat has this file");
        let objects = InMemory::new();
        let mut folders = vec![folder.join("vault")];
        while let Some(next) = folders.pop() {
            for entry in std::fs::read_dir(&next).expect("a folder") {
                let path = entry.expect("readable").path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let key = path.strip_prefix(folder).ok().and_then(|key| key.to_str()).expect("a key").to_owned();
                let bytes = std::fs::read(&path).expect("readable");
                runtime.block_on(objects.put(&Path::from(key), bytes.into())).expect("memory takes it");
            }
        }
        let kit = Kit::parse(&text("kit.toml")).expect("a kit");
        let credential = HostCredential::parse(&text("host.toml")).expect("a credential");
        let opener = Opener::Kit(Box::new(kit.clone()), Passphrase::new(text("passphrase")));
        let administrator = Vault::open(on(objects.fork()), &opener, context());
        let administrator = runtime.block_on(administrator).expect("it opens");
        let lineages = runtime.block_on(administrator.lineage_ids()).expect("readable");
        let lineage = administrator.lineage_by_id(*lineages.first().expect("it has one"));
        let lineage = runtime.block_on(lineage).expect("readable").expect("there");
        let session = SessionId::from_bytes([2; 16]);
        let sealed = lineage.access.seal_session(lineage.id, session, &SeededEntropy::new(3)).expect("sealed");
        let (session_key, sealed_secret) = sealed;
        Self { runtime, objects, administrator, credential, kit, lineage, session, session_key, sealed_secret }
    }

    /// Gives an input to a target.
    ///
    /// # Panics
    /// When a decoder breaks a promise; or there is no target of this name.
    pub fn run(&self, target: &str, input: &[u8]) {
        let (_, target) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target of this name");
        if let Some((depth, rest)) = input.split_first() {
            target(self, *depth, rest);
        }
    }

    fn id(&self) -> LineageId {
        self.lineage.id
    }

    fn wait<'a, T>(&self, future: impl Future<Output = T> + Send + 'a) -> T {
        let future: BoxFuture<'a, T> = Box::pin(future);
        self.runtime.block_on(future)
    }

    /// The vault's store with this object instead of its own.
    fn with_object(&self, key: &str, bytes: Vec<u8>) -> Store {
        let objects = self.objects.fork();
        self.wait(objects.put(&Path::from(format!("vault/{key}")), bytes.into())).expect("memory takes it");
        on(objects)
    }

    /// The lineage as a handle sees it that knows nothing yet, in this store.
    fn lineage_in(&self, store: Store) -> Result<Arc<LineageShared>> {
        let vault = self.administrator.reopen(store, context());
        self.wait(vault.lineage_by_id(self.id())).map(|found| found.expect("its first commit is there"))
    }

    /// The newest number of the lineage, so that an input can be the next.
    fn next_commit(&self) -> Sequence {
        self.wait(self.lineage.log.newest()).expect("readable").head.sequence.next()
    }
}

fn on(objects: InMemory) -> Store {
    Store::from_object_store(Arc::new(objects), "vault").expect("a good prefix").assume_conditions()
}

fn context() -> Context {
    Context { entropy: Arc::new(SeededEntropy::new(1)), workers: Workers::inline(), ..Context::system() }
}

/// An object of this kind: its prologue, and what follows.
fn object(kind: Kind, length: usize, rest: &[u8]) -> Vec<u8> {
    let mut bytes = prologue(kind, length_u32(length)).to_vec();
    bytes.extend_from_slice(rest);
    bytes
}

/// That what was refused was refused as damage.
fn expect_damage<T>(outcome: Result<T>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(error.is_damage(), "refused, and not as damage: {error}");
            None
        }
    }
}

/// The same where limits are bounds on numbers in the object.
fn expect_damage_or_bounds<T>(outcome: Result<T>) -> Option<T> {
    match outcome {
        Err(Error::KdfOutOfBounds { .. } | Error::LimitExceeded { .. }) => None,
        outcome => expect_damage(outcome),
    }
}
