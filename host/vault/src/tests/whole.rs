//! A small vault with an object of every kind, whose references are known from how it was made: what the store held before and
//! after each step says which objects a point brought, and the step says which of those before it still needs.

use std::collections::{BTreeMap, BTreeSet};

use farshore_core::{HostId, HostName, RunId, Sequence};
use object_store::{ObjectStoreExt, path::Path};

use super::*;
use crate::{Grace, HostCredential, JoinFile, Power};

/// Points of the second group that change one chunk each: enough that a prune collects their packs.
const SMALL_POINTS: u64 = 18;

pub(crate) const RUN: RunId = RunId::from_bytes([7; 16]);
pub(crate) const PIN: RunId = RunId::from_bytes([8; 16]);

/// A point, and everything that it needs to be restored.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) group: GroupName,
    pub(crate) sequence: Sequence,
    pub(crate) content: Vec<u8>,
    /// Keys below the vault's address.
    pub(crate) needs: BTreeSet<String>,
}

/// The vault, and what is known of it.
pub(crate) struct Whole {
    pub(crate) objects: InMemory,
    pub(crate) administrator: Vault,
    pub(crate) kit: Kit,
    /// A host with every power.
    pub(crate) keeper: HostCredential,
    /// A replicator of groups that the keeper began.
    pub(crate) writer: HostCredential,
    /// Another host with a grant.
    pub(crate) auditor: HostCredential,
    /// What each object is called here; every object that there is has a name.
    pub(crate) named: BTreeMap<String, String>,
    pub(crate) points: Vec<Known>,
}

pub(crate) fn orders() -> GroupName {
    group()
}

pub(crate) fn billing() -> GroupName {
    GroupName::new("billing").expect("a good name")
}

/// Chunks that differ from each other and by seed, and compress well: the objects stay small.
pub(crate) fn lines(seed: u64, chunks: usize) -> Vec<u8> {
    let line = |chunk: usize| format!("seed {seed} chunk {chunk:04} ").into_bytes();
    (0..chunks).flat_map(|chunk| line(chunk).into_iter().cycle().take(CHUNK)).collect()
}

/// The vault that all tests start from.
pub(crate) async fn whole() -> &'static Whole {
    static WHOLE: OnceCell<Whole> = OnceCell::const_new();
    WHOLE.get_or_init(Whole::make).await
}

/// Which objects a step has made.
struct Watch<'a> {
    objects: &'a Arc<InMemory>,
    before: BTreeSet<String>,
}

impl<'a> Watch<'a> {
    async fn keys(objects: &Arc<InMemory>) -> BTreeSet<String> {
        objects_of(objects).await.into_iter().collect()
    }

    async fn new(objects: &'a Arc<InMemory>) -> Self {
        Self { objects, before: Self::keys(objects).await }
    }

    async fn made(&mut self) -> BTreeSet<String> {
        let now = Self::keys(self.objects).await;
        let made = now.difference(&self.before).cloned().collect();
        self.before = now;
        made
    }
}

/// The keys of all objects, below the vault's address.
pub(crate) async fn objects_of(objects: &InMemory) -> Vec<String> {
    let below = |(key, _): (String, u64)| key.trim_start_matches("v/").to_owned();
    self::objects(objects).await.into_iter().map(below).collect()
}

fn of_kind(made: &BTreeSet<String>, folder: &str) -> String {
    let mut found = made.iter().filter(|key| key.contains(folder));
    let only = found.next().unwrap_or_else(|| panic!("one of {folder} was made: {made:?}")).clone();
    assert_eq!(found.next(), None, "one of {folder} was made");
    only
}

async fn host(administrator: &Vault, objects: &Arc<InMemory>, name: &str, powers: &[Power]) -> HostCredential {
    let expires_at = Timestamp::from_unix_milliseconds(9_000_000_000_000);
    let name = HostName::new(name).expect("a good name");
    let join: JoinFile = administrator.invite(&name, powers, expires_at).await.expect("invited");
    let credential = HostCredential::new(&join, &SystemEntropy);
    credential.enrol(&store(objects), &join, &context()).await.expect("joined");
    credential
}

async fn commit_change(lineage: &Lineage, content: &[u8], changed: std::ops::Range<usize>) -> Sequence {
    let (_, writer) = begin_next(lineage).await.expect("active");
    let disk = writer.add_disk(&machine_id(), &disk_id("d"), content.len() as u64).await.expect("added");
    for (at, piece) in (changed.start..).step_by(1 << 20).zip(content[changed].chunks(1 << 20)) {
        disk.write(at as u64, Bytes::copy_from_slice(piece)).await.expect("accepted");
    }
    writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("committed").sequence
}

impl Whole {
    async fn make() -> Self {
        let objects = Arc::new(InMemory::new());
        let (administrator, kit) = super::make(store(&objects), "correct horse").await.expect("made");
        let plan = administrator.plan_epoch().await.expect("planned");
        administrator.begin_epoch(&plan).await.expect("begun");
        let keeper = host(&administrator, &objects, "keeper", &Power::ALL).await;
        let auditor = host(&administrator, &objects, "auditor", &[Power::Recoverer, Power::Controller]).await;
        let writer = host(&administrator, &objects, "writer", &[Power::Replicator]).await;
        for name in ["keeper", "auditor"] {
            administrator.approve(&HostName::new(name).expect("a good name")).await.expect("approved");
        }
        let mut whole = Self {
            objects: InMemory::new(),
            administrator,
            kit,
            keeper,
            writer,
            auditor,
            named: BTreeMap::new(),
            points: Vec::new(),
        };
        whole.name_keys(&objects).await;
        let vault = whole.open_on(&objects).await;
        whole.add_orders(&objects, &vault).await;
        whole.add_billing(&objects, &vault).await;
        let mut watch = Watch::new(&objects).await;
        whole.administrator.approve(&HostName::new("writer").expect("a good name")).await.expect("approved");
        for (group, name) in [(orders(), "lineage box 1"), (billing(), "lineage box 2")] {
            let made = watch.made().await;
            let folder = format!("{}/hosts/", whole.administrator.lineage_id(&group));
            whole.named.insert(name.to_owned(), of_kind(&made, &folder));
            watch.before.retain(|key| !key.contains("/hosts/"));
        }
        for (number, entry) in [&b"first"[..], b"second"].into_iter().enumerate() {
            match number {
                0 => vault.create_run(RUN, entry).await.expect("written"),
                _ => vault.append_run(RUN, 2, entry).await.expect("written"),
            }
            whole.named.insert(format!("run entry {}", number + 1), format!("runs/{RUN}/{:08}", number + 1));
        }
        let named: BTreeSet<&String> = whole.named.values().collect();
        for key in objects_of(&objects).await {
            assert!(named.contains(&key) || key == "probe", "{key} has no name here");
        }
        whole.objects = objects.fork();
        whole
    }

    async fn open_on(&self, objects: &Arc<InMemory>) -> Vault {
        self.open(store(objects), &self.keeper).await.expect("opened")
    }

    /// The vault as a host sees it that knows nothing yet.
    pub(crate) async fn open(&self, store: Store, host: &HostCredential) -> Result<Vault> {
        Vault::open(store, &Opener::Host(Box::new(host.clone())), context()).await
    }

    async fn name_keys(&mut self, objects: &Arc<InMemory>) {
        self.named.insert("header".to_owned(), "vault".to_owned());
        let hosts: [(&str, HostId); 3] =
            [("keeper", self.keeper.host()), ("auditor", self.auditor.host()), ("writer", self.writer.host())];
        for key in objects_of(objects).await {
            let last = key.rsplit('/').next().unwrap_or_default();
            let host = hosts.iter().find(|(_, id)| key.contains(&id.to_string())).map(|(name, _)| *name);
            let name = match (key.split('/').nth(1), host) {
                (Some("slots"), _) => "slot".to_owned(),
                (Some("epochs"), _) => "epoch keys".to_owned(),
                (Some("ring"), _) => format!("ring {}", last.trim_start_matches('0')),
                (Some("hosts"), Some(host)) => format!("enrolment of {host}"),
                (Some("grants"), Some(host)) => format!("grant of {host}"),
                _ => continue,
            };
            self.named.insert(name, key);
        }
    }

    fn know(&mut self, group: &GroupName, sequence: Sequence, content: &[u8], needs: &[String]) {
        let mut needs: BTreeSet<String> = needs.iter().cloned().collect();
        let lineage = self.administrator.lineage_id(group);
        needs.insert(crate::commit::commit_key(lineage, Sequence::FIRST));
        self.points.push(Known { group: group.clone(), sequence, content: content.to_vec(), needs });
    }

    /// Three points, of which the second shares nothing with the first, and the third all but one chunk with the second: it has a
    /// leaf of its own and the other of the second's. Then a raise of the generation, and a pin of the first.
    async fn add_orders(&mut self, objects: &Arc<InMemory>, vault: &Vault) {
        let mut watch = Watch::new(objects).await;
        let lineage = vault.create_lineage(&orders(), &site("a")).await.expect("begun");
        self.named.insert("first commit 1".to_owned(), of_kind(&watch.made().await, "/commits/"));
        let mut content = lines(1, 70);
        for (name, seed, changed) in [("A", 1, 0..70), ("B", 2, 0..70), ("C", 3, 0..1)] {
            let changed = changed.start * CHUNK..changed.end * CHUNK;
            content[changed.clone()].copy_from_slice(&lines(seed, 70)[changed.clone()]);
            let sequence = commit_change(&lineage, &content, changed).await;
            let made = watch.made().await;
            let mut needs = Vec::new();
            for (kind, folder) in [("commit", "/commits/"), ("pack", "/packs/"), ("map", "/maps/")] {
                let key = of_kind(&made, folder);
                self.named.insert(format!("{kind} {name}"), key.clone());
                needs.push(key);
            }
            if name == "C" {
                needs.extend(["pack B", "map B"].map(|name| self.named[name].clone()));
            }
            self.know(&orders(), sequence, &content, &needs);
        }
        let head = lineage.head().await.expect("readable");
        lineage.raise_generation(&site("b"), "for a test", &head).await.expect("raised");
        self.named.insert("raise".to_owned(), of_kind(&watch.made().await, "/commits/"));
        lineage.pin(PIN, self.points[0].sequence).await.expect("pinned");
        self.named.insert("pin".to_owned(), of_kind(&watch.made().await, "/commits/"));
    }

    /// Many points of which the newest alone stands and needs a piece of each; its pieces are moved, and all else deleted. Then a
    /// point that shares nothing with it.
    async fn add_billing(&mut self, objects: &Arc<InMemory>, vault: &Vault) {
        let lineage = vault.create_lineage(&billing(), &site("a")).await.expect("begun");
        let mut content = lines(10, 20);
        let mut newest = commit_change(&lineage, &content, 0..content.len()).await;
        for number in 0..SMALL_POINTS {
            let at = usize::try_from(number).expect("few") * CHUNK;
            content[at..at + CHUNK].copy_from_slice(&lines(20 + number, 1));
            newest = commit_change(&lineage, &content, at..at + CHUNK).await;
        }
        for _ in 0..4 {
            let plan = lineage.plan_prune(&KEEP_NEWEST, Grace { seconds: 0, commits: 0 }).await.expect("planned");
            lineage.prune(plan).await.expect("pruned");
        }
        // What is left is needed, but for the prunes' own traces.
        let lineage_id = self.administrator.lineage_id(&billing());
        let mut needs = Vec::new();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let newest_commit = crate::commit::commit_key(lineage_id, newest);
        let keys = objects_of(objects).await;
        for key in keys.iter().filter(|key| key.contains(&lineage_id.to_string())) {
            let kind = match key.split('/').nth(2) {
                Some("commits") if *key == newest_commit => "commit Z",
                Some("commits") => "pruned commit",
                Some("boundaries") => "boundary",
                Some("ledgers") => "ledger",
                Some("collections") => "collection",
                Some("reserves") => "reserve",
                other => panic!("{other:?} is left: {key}"),
            };
            let count = counts.entry(kind).or_default();
            *count += 1;
            match kind {
                "commit Z" => self.named.insert("commit Z".to_owned(), key.clone()),
                "pruned commit" if *count == 1 => self.named.insert("first commit 2".to_owned(), key.clone()),
                _ => self.named.insert(format!("{kind} {count}"), key.clone()),
            };
            if ["commit Z", "collection"].contains(&kind) {
                needs.push(key.clone());
            }
        }
        let ledger = self.newest("ledger");
        needs.push(self.named[&ledger].clone());
        // The commit that makes the ledger valid says which it is.
        needs.push(self.named[&self.newest("pruned commit")].clone());
        self.know(&billing(), newest, &content, &needs);

        let mut watch = Watch::new(objects).await;
        let content = lines(99, 20);
        let sequence = commit_change(&lineage, &content, 0..content.len()).await;
        let made = watch.made().await;
        let needs = [("commit", "/commits/"), ("pack", "/packs/"), ("map", "/maps/")].map(|(kind, folder)| {
            let key = of_kind(&made, folder);
            self.named.insert(format!("{kind} Y"), key.clone());
            key
        });
        self.know(&billing(), sequence, &content, &needs);
    }

    /// The name of the last object of a kind: its key is the greatest.
    pub(crate) fn newest(&self, kind: &str) -> String {
        let of_kind =
            self.named.iter().filter(|(name, _)| name.rsplit_once(' ').is_some_and(|(front, _)| front == kind));
        of_kind.max_by_key(|(_, key)| (*key).clone()).map(|(name, _)| name.clone()).expect("there is one")
    }

    /// The bytes of an object.
    pub(crate) async fn bytes(&self, name: &str) -> Vec<u8> {
        let path = Path::from(format!("v/{}", self.named[name]));
        self.objects.get(&path).await.expect("there").bytes().await.expect("there").to_vec()
    }

    /// The store with other bytes in the place of an object; without it if there are none.
    pub(crate) async fn with(&self, changes: &[(&str, Option<Vec<u8>>)]) -> Arc<InMemory> {
        let objects = self.objects.fork();
        for (key, bytes) in changes {
            let path = Path::from(format!("v/{key}"));
            match bytes {
                Some(bytes) => drop(objects.put(&path, bytes.clone().into()).await.expect("memory takes it")),
                None => objects.delete(&path).await.expect("memory deletes"),
            }
        }
        Arc::new(objects)
    }
}

#[tokio::test]
async fn the_whole_vault_is_whole_and_has_every_kind() {
    let whole = whole().await;
    let objects = whole.with(&[]).await;
    let vault = whole.open_on(&objects).await;
    let report = vault.check(crate::CheckDepth::Full, &|_| {}).await.expect("checked");
    assert_eq!((report.findings, report.points_checked), (Vec::new(), 5));
    for known in &whole.points {
        let lineage = vault.lineage(&known.group).await.expect("readable").expect("there");
        let point = lineage.point(known.sequence).await.expect("it stands");
        assert!(restore(&lineage, &point).await.expect("readable") == known.content);
    }
    for kind in ["ring", "boundary", "ledger", "run entry"] {
        assert!(whole.named.contains_key(&format!("{kind} 2")), "{kind}: {:?}", whole.named.keys());
    }
    assert!(whole.named.contains_key("collection 1"));
}
