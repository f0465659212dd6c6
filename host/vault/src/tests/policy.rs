//! T16, against the store: each power makes the calls that the table of `policy` says, and no others; and the bucket policy that is
//! made of the table lets exactly these through.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Mutex,
};

use async_trait::async_trait;
use farshore_core::{HostName, RunId};
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error as ObjectError, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, path::Path,
};
use serde_json::Value;

use super::{
    bucket::{DAY, LockingBucket},
    *,
};
use crate::{
    Address, CheckDepth, Error, Grace, HostCredential, LockMode, Power, StoreRole, VaultLock, bucket_policy,
    policy::{Verb, grants},
    store::bucket::{Bucket, BucketSettings, Retained, VersionsPage},
};

const NO_GRACE: Grace = Grace { seconds: 0, commits: 0 };

type Call = (StoreRole, Verb, String);

/// Lets through what the table allows to a role, and remembers it.
struct Gate {
    role: StoreRole,
    is_locked: bool,
    objects: Arc<dyn ObjectStore>,
    bucket: Arc<LockingBucket>,
    made: Arc<Mutex<BTreeSet<Call>>>,
    refused: Arc<Mutex<BTreeSet<Call>>>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Gate")
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("gate")
    }
}

/// Whether a key is of this pattern, in which `*` is any text.
fn matches(pattern: &str, key: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == key,
        Some((front, rest)) => key
            .strip_prefix(front)
            .is_some_and(|key| (0..=key.len()).any(|at| key.is_char_boundary(at) && matches(rest, &key[at..]))),
    }
}

fn is_in_table(role: StoreRole, verb: Verb, key: &str, is_locked: bool) -> bool {
    let of_role = grants(is_locked).filter(|grant| grant.verb == verb && grant.roles.contains(&role));
    of_role.into_iter().any(|grant| grant.keys.is_empty() || grant.keys.iter().any(|pattern| matches(pattern, key)))
}

impl Gate {
    fn pass(&self, verb: Verb, path: &Path) -> object_store::Result<()> {
        let key = path.as_ref().strip_prefix("v/").unwrap_or_default().to_owned();
        let allowed = is_in_table(self.role, verb, &key, self.is_locked);
        let call = (self.role, verb, key);
        let list = if allowed { &self.made } else { &self.refused };
        list.lock().expect("whole").insert(call);
        match allowed {
            true => Ok(()),
            false => Err(ObjectError::PermissionDenied { path: path.to_string(), source: format!("{verb:?}").into() }),
        }
    }
}

#[async_trait]
impl ObjectStore for Gate {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        assert_eq!(options.mode, PutMode::Create, "nothing is ever overwritten");
        self.pass(Verb::Create, path)?;
        self.objects.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        unreachable!("the vault writes objects at once, as the policy wants it")
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.pass(Verb::Read, path)?;
        self.objects.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        let paths: Vec<_> = futures::executor::block_on_stream(paths).collect();
        let judged: Vec<_> =
            paths.into_iter().map(|path| path.and_then(|path| self.pass(Verb::Delete, &path).map(|()| path))).collect();
        self.objects.delete_stream(futures::stream::iter(judged).boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        match self.pass(Verb::List, &Path::default()) {
            Ok(()) => self.objects.list(prefix),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        match self.pass(Verb::List, &Path::default()) {
            Ok(()) => self.objects.list_with_offset(prefix, offset),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.pass(Verb::List, &Path::default())?;
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
        unreachable!("the vault copies nothing")
    }
}

#[async_trait]
impl Bucket for Gate {
    async fn settings(&self) -> Result<BucketSettings, ObjectError> {
        self.pass(Verb::ReadSettings, &Path::default())?;
        self.bucket.settings().await
    }

    async fn versions(&self, prefix: &str, after: Option<(String, String)>) -> Result<VersionsPage, ObjectError> {
        self.pass(Verb::ListVersions, &Path::default())?;
        self.bucket.versions(prefix, after).await
    }

    async fn retained(&self, path: &Path, version: Option<&str>) -> Result<Option<Retained>, ObjectError> {
        self.pass(Verb::ReadLock, path)?;
        if version.is_none() {
            // The lock of what a plain read gets is a part of its answer.
            self.pass(Verb::Read, path)?;
        }
        self.bucket.retained(path, version).await
    }

    async fn retain(&self, path: &Path, version: &str, retained: Retained) -> Result<(), ObjectError> {
        self.pass(Verb::Lock, path)?;
        self.bucket.retain(path, version, retained).await
    }

    async fn delete(&self, path: &Path, version: &str) -> Result<(), ObjectError> {
        self.pass(Verb::DeleteVersion, path)?;
        self.bucket.delete(path, version).await
    }
}

struct World {
    bucket: Arc<LockingBucket>,
    /// The data's address, of the vault that is locked.
    data_bucket: Arc<LockingBucket>,
    plain: Arc<InMemory>,
    /// The data's address, of the vault that is not locked.
    data: Arc<InMemory>,
    is_locked: bool,
    made: Arc<Mutex<BTreeSet<Call>>>,
    refused: Arc<Mutex<BTreeSet<Call>>>,
}

impl World {
    fn store(&self, role: StoreRole) -> Store {
        let gate = |objects, bucket: &Arc<LockingBucket>| {
            let (bucket, is_locked) = (Arc::clone(bucket), self.is_locked);
            let (made, refused) = (Arc::clone(&self.made), Arc::clone(&self.refused));
            Arc::new(Gate { role, is_locked, objects, bucket, made, refused })
        };
        // A vault with two addresses asks for all that one with one does.
        if self.is_locked {
            let at = |bucket: &Arc<LockingBucket>| {
                let gate = gate(Arc::clone(bucket) as Arc<dyn ObjectStore>, bucket);
                wrap(Arc::clone(&gate) as Arc<dyn ObjectStore>).with_bucket(gate)
            };
            return at(&self.bucket).with_data(at(&self.data_bucket));
        }
        let at = |objects: &Arc<InMemory>| wrap(gate(Arc::clone(objects) as Arc<dyn ObjectStore>, &self.bucket));
        at(&self.plain).with_data(at(&self.data))
    }

    fn context(&self) -> Context {
        if self.is_locked { self.bucket.context() } else { context() }
    }

    async fn host(&self, administrator: &Vault, power: Power) -> Vault {
        let name = HostName::new(power.name()).expect("a good name");
        let far = Timestamp::from_unix_milliseconds(9_000_000_000_000);
        let join = administrator.invite(&name, &[power], far).await.expect("invited");
        let credential = HostCredential::new(&join, &SystemEntropy);
        credential.enrol(&self.store(role(power)), &join, &self.context()).await.expect("joined");
        administrator.approve(&name).await.expect("approved");
        self.open(power, &credential).await
    }

    async fn open(&self, power: Power, credential: &HostCredential) -> Vault {
        let opener = Opener::Host(Box::new(credential.clone()));
        Vault::open(self.store(role(power)), &opener, self.context()).await.expect("opened")
    }

    /// Every power does everything that it is for.
    async fn live(&self) {
        let passphrase = Passphrase::new("p");
        let options = CreateOptions { kdf: KdfParameters::FLOOR };
        let store = self.store(StoreRole::Administrator);
        let draft = Vault::draft(store.clone(), &passphrase, options, self.context()).await.expect("a draft");
        let kit = draft.kit().clone();
        let administrator = draft.create().await.expect("made");
        if self.is_locked {
            let lock = VaultLock { mode: LockMode::Governance, span_seconds: 2 * DAY };
            administrator.set_lock(lock, false).await.expect("locked");
        }
        let sheet = kit.words().join(" ");
        Vault::kit_from_words(store, &sheet, &passphrase, self.context()).await.expect("its own words");

        let replicator = self.host(&administrator, Power::Replicator).await;
        let lineage = lineage(&replicator).await;
        commit_disk(&lineage, &noise(1, 80 * CHUNK)).await.expect("a group is begun");
        let another = HostName::new("another").expect("a good name");
        let far = Timestamp::from_unix_milliseconds(9_000_000_000_000);
        let join = administrator.invite(&another, &[Power::Replicator], far).await.expect("invited");
        let credential = HostCredential::new(&join, &SystemEntropy);
        credential.enrol(&self.store(StoreRole::Replicator), &join, &self.context()).await.expect("joined");
        for _ in 0..2 {
            administrator.approve(&another).await.expect("it gets the keys of the group, and has them");
        }
        let second = self.open(Power::Replicator, &credential).await;
        let lineage = second.lineage(&group()).await.expect("readable").expect("there");
        // What is kept of the first of these is less than half of its packs, so that it is moved.
        let mut content = noise(2, 80 * CHUNK);
        commit_disk(&lineage, &content).await.expect("committed");
        content[..64 * CHUNK].copy_from_slice(&noise(3, 64 * CHUNK));
        commit_disk(&lineage, &content).await.expect("committed");
        administrator.info().await.expect("told");
        administrator.hosts().await.expect("told");
        administrator.usage().await.expect("told");

        let controller = self.host(&administrator, Power::Controller).await;
        let (run, at_controller) = (RunId::from_bytes([7; 16]), controller.lineage(&group()).await);
        let at_controller = at_controller.expect("readable").expect("there");
        controller.create_run(run, b"made").await.expect("written");
        controller.append_run(run, 2, b"x").await.expect("written");
        controller.run_entries(run).await.expect("readable");
        at_controller.pin(run, farshore_core::Sequence::new(2)).await.expect("pinned");
        at_controller.unpin(run).await.expect("given up");
        // A writer that loses leaves packs, and the next one looks into them.
        let (head, writer) = begin_next(&lineage).await.expect("begun");
        let disk = writer.add_disk(&machine_id(), &disk_id("d"), 80 * CHUNK as u64).await.expect("added");
        disk.write(0, Bytes::from(noise(4, CHUNK))).await.expect("written");
        at_controller.raise_generation(&site("a"), "a test", &head).await.expect("raised");
        let lost = writer.commit(details(&[(&machine_id(), &["d"])])).await;
        assert!(matches!(lost, Err(Error::Fenced { .. })), "{lost:?}");
        content[..CHUNK].copy_from_slice(&noise(4, CHUNK));
        commit_disk(&lineage, &content).await.expect("committed");

        let pruner = self.host(&administrator, Power::Pruner).await;
        self.prune(&pruner).await;
        // One that was started anew remembers no page.
        let second = self.open(Power::Replicator, &credential).await;
        let lineage = second.lineage(&group()).await.expect("readable").expect("there");
        content[79 * CHUNK..].copy_from_slice(&noise(5, CHUNK));
        commit_disk(&lineage, &content).await.expect("a replicator follows what was moved");
        for seed in [6, 7] {
            commit_disk(&lineage, &noise(seed, 80 * CHUNK)).await.expect("nothing that was moved is needed any more");
        }
        // What is proven of points goes with them.
        let recoverer = self.host(&administrator, Power::Recoverer).await;
        for vault in [&recoverer, &controller, &pruner] {
            let report = vault.check(CheckDepth::Structure, &|_| {}).await.expect("checked");
            vault.record(&report).await.expect("kept");
        }
        let newest = lineage.head().await.expect("readable").newest_point.expect("there is one");
        for vault in [&second, &recoverer, &controller, &pruner, &administrator] {
            let lineage = vault.lineage(&group()).await.expect("readable").expect("there");
            assert_eq!(lineage.proofs(newest).await.expect("readable").len(), 3);
        }
        self.prune(&pruner).await;
        content = noise(7, 80 * CHUNK);
        content[..64 * CHUNK].copy_from_slice(&noise(8, 64 * CHUNK));
        commit_disk(&lineage, &content).await.expect("committed");
        self.prune(&pruner).await;
        at_controller.points(None, 10).await.expect("listed");
        let at_administrator = administrator.lineage(&group()).await.expect("readable").expect("there");
        at_administrator.points(None, 10).await.expect("listed");

        recoverer.run_entries(run).await.expect("readable");
        let at_recoverer = recoverer.lineage(&group()).await.expect("readable").expect("there");
        for point in at_recoverer.points(None, 10).await.expect("listed") {
            restore(&at_recoverer, &point).await.expect("it reads");
        }
        assert_eq!(recoverer.check(CheckDepth::Full, &|_| {}).await.expect("checked").findings, []);

        let name = HostName::new(Power::Controller.name()).expect("a good name");
        let plan = administrator.plan_revocation(&name).await.expect("planned");
        administrator.revoke(&plan).await.expect("revoked");
        let plan = administrator.plan_epoch().await.expect("planned");
        administrator.begin_epoch(&plan).await.expect("begun");
        // The keys of the epoch lie where only an administrator may look.
        for vault in [&second, &recoverer, &pruner] {
            let report = vault.check(CheckDepth::Structure, &|_| {}).await.expect("checked");
            assert_eq!(report.findings, []);
        }
    }

    /// Points are given up, moved together, and deleted.
    async fn prune(&self, pruner: &Vault) {
        let lineage = pruner.lineage(&group()).await.expect("readable").expect("there");
        for _ in 0..4 {
            if self.is_locked {
                let plan = lineage.plan_extension().await.expect("planned");
                lineage.extend(plan).await.expect("extended");
                self.bucket.clock.pass(3 * DAY);
            }
            let plan = lineage.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect("planned");
            lineage.prune(plan).await.expect("pruned");
            if !self.is_locked {
                // As when the store is full.
                let freed = crate::prune::reserve::Reserve::new(&lineage.0).delete_all().await.expect("deleted");
                assert!(freed > 0, "there is a reserve");
            }
        }
        if self.is_locked {
            let plan = lineage.plan_extension().await.expect("planned");
            lineage.extend(plan).await.expect("extended");
        }
    }
}

fn role(power: Power) -> StoreRole {
    match power {
        Power::Replicator => StoreRole::Replicator,
        Power::Recoverer => StoreRole::Recoverer,
        Power::Controller => StoreRole::Controller,
        Power::Pruner => StoreRole::Pruner,
    }
}

async fn lived(is_locked: bool) -> World {
    let bucket = LockingBucket::new(LockMode::Governance, 2);
    let data_bucket = LockingBucket::by(Arc::clone(&bucket.clock), LockMode::Governance, 2);
    let (plain, data) = (Arc::default(), Arc::default());
    let world = World { bucket, data_bucket, plain, data, is_locked, made: Arc::default(), refused: Arc::default() };
    world.live().await;
    world
}

/// One of whom a policy speaks.
fn arn(role: StoreRole) -> String {
    format!("arn:aws:iam::123456789012:role/{}", role.name())
}

fn policy(is_locked: bool) -> Value {
    let principals: BTreeMap<_, _> = StoreRole::ALL.into_iter().map(|role| (role, vec![arn(role)])).collect();
    let address: Address = "s3://recovery/some/folder".parse().expect("an address");
    bucket_policy(std::slice::from_ref(&address), &principals, is_locked).expect("a policy")
}

fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(texts) => texts.iter().filter_map(Value::as_str).collect(),
        text => text.as_str().into_iter().collect(),
    }
}

/// A request as S3 judges it.
struct Request<'a> {
    principal: &'a str,
    action: &'a str,
    resource: &'a str,
    is_create: bool,
}

impl Request<'_> {
    fn concerns(&self, statement: &Value) -> bool {
        let principal = &statement["Principal"];
        let is_meant = principal == "*" || texts(&principal["AWS"]).contains(&self.principal);
        let condition = statement.get("Condition");
        let holds = condition.is_none_or(|condition| {
            if let Some(excepted) = condition.get("ArnNotEquals") {
                !texts(&excepted["aws:PrincipalArn"]).contains(&self.principal)
            } else if condition.get("Null").is_some() {
                !self.is_create
            } else {
                assert!(condition.get("StringLikeIfExists").is_some(), "{condition}");
                true
            }
        });
        is_meant
            && holds
            && texts(&statement["Action"]).contains(&self.action)
            && texts(&statement["Resource"]).iter().any(|pattern| matches(pattern, self.resource))
    }

    fn is_allowed(&self, policy: &Value) -> bool {
        let statements = policy["Statement"].as_array().expect("statements");
        let meant =
            |effect: &str| statements.iter().any(|statement| statement["Effect"] == effect && self.concerns(statement));
        meant("Allow") && !meant("Deny")
    }
}

const BUCKET: &str = "arn:aws:s3:::recovery";

fn actions(verb: Verb) -> &'static [&'static str] {
    match verb {
        Verb::Read => &["s3:GetObject"],
        Verb::Create => &["s3:PutObject"],
        Verb::Delete => &["s3:DeleteObject"],
        Verb::List => &["s3:ListBucket"],
        Verb::ReadSettings => &["s3:GetBucketVersioning", "s3:GetBucketObjectLockConfiguration"],
        Verb::ListVersions => &["s3:ListBucketVersions"],
        Verb::ReadLock => &["s3:GetObjectVersion", "s3:GetObjectRetention"],
        Verb::Lock => &["s3:PutObjectRetention"],
        Verb::DeleteVersion => &["s3:DeleteObjectVersion"],
    }
}

#[tokio::test]
async fn each_power_uses_the_calls_of_the_table_all_of_them_and_no_others() {
    for is_locked in [false, true] {
        let world = lived(is_locked).await;
        let (made, refused) = (world.made.lock().expect("whole"), world.refused.lock().expect("whole"));
        assert_eq!(*refused, BTreeSet::new(), "refused, locked: {is_locked}");
        let mut unused = Vec::new();
        for grant in grants(is_locked) {
            for role in grant.roles {
                let keys = if grant.keys.is_empty() { &["*"] } else { grant.keys };
                unused.extend(keys.iter().filter_map(|pattern| {
                    let is_used =
                        made.iter().any(|(by, verb, key)| by == role && *verb == grant.verb && matches(pattern, key));
                    (!is_used).then(|| format!("{} {:?} {pattern}", role.name(), grant.verb))
                }));
            }
        }
        assert_eq!(unused, [""; 0], "more than is needed, locked: {is_locked}");

        // What was really called passes the policy; what another role alone called does not.
        let policy = policy(is_locked);
        for (by, verb, key) in made.iter() {
            for role in StoreRole::ALL {
                let resource = if key.is_empty() { BUCKET.to_owned() } else { format!("{BUCKET}/some/folder/{key}") };
                let expected = is_in_table(role, *verb, key, is_locked);
                assert!(expected || role != *by);
                for action in actions(*verb) {
                    let request = Request { principal: &arn(role), action, resource: &resource, is_create: true };
                    assert_eq!(request.is_allowed(&policy), expected, "{} {action} {resource}", role.name());
                }
            }
        }
    }
}

#[test]
fn a_policy_lets_nobody_overwrite_bypass_or_delete_what_is_never_deleted() {
    let keys = [
        "vault",
        "probe",
        "keys/ring/00000001",
        "keys/slots/a",
        "runs/a/00000001",
        "lineages/a/boundaries/00000001",
        "lineages/a/hosts/b",
        "lineages/a/commits/00000000000000000001",
    ];
    for is_locked in [false, true] {
        let policy = policy(is_locked);
        let ask = |role, action: &str, key: &str, is_create| {
            let resource = format!("{BUCKET}/some/folder/{key}");
            Request { principal: &arn(role), action, resource: &resource, is_create }.is_allowed(&policy)
        };
        for role in StoreRole::ALL {
            for key in keys {
                for action in ["s3:DeleteObject", "s3:DeleteObjectVersion", "s3:BypassGovernanceRetention"] {
                    assert!(!ask(role, action, key, true), "{} {action} {key}", role.name());
                }
                assert!(!ask(role, "s3:PutObject", key, false), "{} overwrites {key}", role.name());
            }
            let pack = "lineages/a/packs/00000000000000000001/b";
            let deletes = [("s3:DeleteObject", !is_locked), ("s3:DeleteObjectVersion", is_locked)];
            for (action, is_used) in deletes {
                let expected = role == StoreRole::Pruner && is_used;
                assert_eq!(ask(role, action, pack, true), expected, "{} {action}", role.name());
            }
            let outside = format!("{BUCKET}/another/vault");
            let request =
                Request { principal: &arn(role), action: "s3:GetObject", resource: &outside, is_create: true };
            assert!(!request.is_allowed(&policy));
        }
    }
}

/// Denials count whatever else somebody is allowed elsewhere.
#[test]
fn whoever_has_all_rights_elsewhere_is_still_denied() {
    let mut policy = policy(true);
    let statements = policy["Statement"].as_array_mut().expect("statements");
    statements.push(serde_json::json!({ "Effect": "Allow", "Principal": "*", "Action": [
        "s3:PutObject", "s3:DeleteObjectVersion", "s3:PutObjectRetention", "s3:BypassGovernanceRetention", "s3:PutBucketPolicy",
    ], "Resource": ["arn:aws:s3:::recovery", "arn:aws:s3:::recovery/*"] }));
    let pack = format!("{BUCKET}/some/folder/lineages/a/packs/00000000000000000001/b");
    let ask = |principal: &str, action: &str, resource: &str, is_create| {
        Request { principal, action, resource, is_create }.is_allowed(&policy)
    };
    for principal in [arn(StoreRole::Replicator), "arn:aws:iam::123456789012:role/somebody".to_owned()] {
        for action in ["s3:DeleteObjectVersion", "s3:PutObjectRetention", "s3:BypassGovernanceRetention"] {
            assert!(!ask(&principal, action, &pack, true), "{principal} {action}");
        }
        assert!(!ask(&principal, "s3:PutObject", &pack, false));
        assert!(ask(&principal, "s3:PutObject", &pack, true), "the table of allowances is another matter");
    }
    assert!(ask(&arn(StoreRole::Pruner), "s3:PutObjectRetention", &pack, true));
    assert!(!ask(&arn(StoreRole::Pruner), "s3:BypassGovernanceRetention", &pack, true));
    assert!(!ask(&arn(StoreRole::Pruner), "s3:PutBucketPolicy", BUCKET, true));
}

#[test]
fn two_addresses_in_one_bucket_have_one_policy() {
    let address = |text: &str| text.parse::<Address>().expect("an address");
    let principals: BTreeMap<_, _> = StoreRole::ALL.into_iter().map(|role| (role, vec![arn(role)])).collect();
    let both = [address("s3://recovery/metadata"), address("s3://recovery/data")];
    let long = "s3://a-company-s-disaster-recovery-eu-central-1/farshore";
    let long = [address(&format!("{long}/metadata")), address(&format!("{long}/data"))];
    for is_locked in [false, true] {
        bucket_policy(&long, &principals, is_locked).expect("small enough for S3");
    }
    let too_long = [address(&format!("s3://recovery/{}", "x".repeat(200))), address("s3://recovery/data")];
    let refused = bucket_policy(&too_long, &principals, false).expect_err("S3 takes no more");
    assert!(refused.to_string().contains("S3 takes 20480"), "{refused}");
    let together = bucket_policy(&both, &principals, false).expect("a policy");
    for (prefix, one) in ["metadata", "data"].into_iter().zip(&both) {
        let alone = bucket_policy(std::slice::from_ref(one), &principals, false).expect("a policy");
        for role in StoreRole::ALL {
            for action in ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"] {
                for key in ["vault", "keys/slots/a", "runs/a/1", "lineages/a/packs/1/b", "lineages/a/commits/2"] {
                    let resource = format!("{BUCKET}/{prefix}/{key}");
                    let request = Request { principal: &arn(role), action, resource: &resource, is_create: true };
                    let what = format!("{} {action} {resource}", role.name());
                    assert_eq!(request.is_allowed(&together), request.is_allowed(&alone), "{what}");
                }
            }
        }
        let listed = together.to_string();
        assert!(listed.contains(&format!("\"{prefix}\",\"{prefix}/*\"")), "{listed}");
    }
    let apart = [address("s3://recovery"), address("s3://another")];
    assert!(matches!(bucket_policy(&apart, &principals, false), Err(Error::InvalidRequest { .. })));
    assert!(matches!(bucket_policy(&[], &principals, false), Err(Error::InvalidRequest { .. })));
}

#[test]
fn what_cannot_be_a_policy_is_refused() {
    let address: Address = "s3://recovery".parse().expect("an address");
    let named = |arn: &str| BTreeMap::from([(StoreRole::Pruner, vec![arn.to_owned()])]);
    let good = "arn:aws-cn:iam::123456789012:role/p";
    let policy = bucket_policy(std::slice::from_ref(&address), &named(good), false).expect("a policy").to_string();
    assert!(policy.contains("arn:aws-cn:s3:::recovery/vault") && !policy.contains("s3:prefix"), "{policy}");
    for bad in
        ["", "*", "role/p", "arn:aws:iam::123456789012:", "arn:aws:iam::123456789012:role/*", "arn:aws:s3:::recovery"]
    {
        assert!(
            matches!(
                bucket_policy(std::slice::from_ref(&address), &named(bad), false),
                Err(Error::InvalidRequest { .. })
            ),
            "{bad}"
        );
    }
    assert!(bucket_policy(std::slice::from_ref(&address), &BTreeMap::new(), false).is_err());
    let folder: Address = "file:/vault".parse().expect("an address");
    assert!(matches!(
        bucket_policy(std::slice::from_ref(&folder), &named(good), false),
        Err(Error::NoBucketPolicy { .. })
    ));
}
