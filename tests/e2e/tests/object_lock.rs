//! Story: a vault in a bucket of an S3 server with object lock, through weeks that pass when the test says so. The bucket is asked
//! what it locks; what points need stays locked; a prune waits for locks and deletes versions; and what an attacker with the
//! bucket's credentials leaves is enough to restore.
//!
//! moto refuses to delete a locked version, as S3 does. It does not refuse to make a lock shorter; a bucket in memory in the vault's
//! own tests does.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use farshore_core::{
    Basis, Clock, Consistency, DiskId, Firmware, Generation, GroupName, Instant, Machine, MachineId, Passphrase,
    PowerState, SiteName, SystemClock, Timestamp,
};
use farshore_e2e::S3Server;
use farshore_vault::{
    Context, CreateOptions, Error, Grace, KdfParameters, Kit, Lineage, LockMode, Opener, Point, PointDetails,
    PointDiskDraft, PointMachineDraft, Retention, Store, StoreOptions, Vault, VaultLock,
};

const DAY: u64 = 86_400;

const NO_GRACE: Grace = Grace { seconds: 0, commits: 0 };

const KEEP_NEWEST: Retention = Retention { all_seconds: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0 };

const LOCK: VaultLock = VaultLock { mode: LockMode::Compliance, span_seconds: 4 * DAY };

/// The machine's clock, ahead by what the test says.
struct Ahead(Arc<AtomicU64>);

#[async_trait::async_trait]
impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        let ahead = i64::try_from(self.0.load(Ordering::SeqCst) * 1_000).expect("not for ever");
        Timestamp::from_unix_milliseconds(SystemClock.now().as_unix_milliseconds() + ahead)
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic() + Duration::from_secs(self.0.load(Ordering::SeqCst))
    }

    async fn sleep(&self, duration: Duration) {
        SystemClock.sleep(duration).await;
    }
}

/// An S3 server that ends with the test, and the time that both sides have.
struct Server {
    moto: S3Server,
    seconds: Arc<AtomicU64>,
    folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ahead = folder.path().join("ahead");
        fs::write(&ahead, "0").expect("written");
        Self { moto: S3Server::moto_ahead(&ahead), seconds: Arc::default(), folder }
    }

    /// Lets time pass, here and there.
    fn pass(&self, seconds: u64) {
        let ahead = self.seconds.fetch_add(seconds, Ordering::SeqCst) + seconds;
        fs::write(self.folder.path().join("ahead"), ahead.to_string()).expect("written");
    }

    /// The answer to a request by who may do everything.
    fn ask(&self, verb: &str, path: &str, header: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.moto.address()).expect("it listens");
        let (address, length) = (self.moto.address(), body.len());
        let head = format!(
            "{verb} /{path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\nConnection: close\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=owner/20260101/us-east-1/s3/aws4_request, \
             SignedHeaders=host, Signature=0\r\n{header}\r\n"
        );
        stream.write_all((head + body).as_bytes()).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("{answer}")), answer)
    }

    fn make_bucket(&self, name: &str) {
        let (status, answer) = self.ask("PUT", name, "x-amz-bucket-object-lock-enabled: true\r\n", "");
        assert_eq!(status, 200, "{answer}");
    }

    fn retain_by_default(&self, bucket: &str, mode: &str, days: u64) {
        let rule = format!("<Rule><DefaultRetention><Mode>{mode}</Mode><Days>{days}</Days></DefaultRetention></Rule>");
        let body = format!(
            "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled>{rule}</ObjectLockConfiguration>"
        );
        let (status, answer) = self.ask("PUT", &format!("{bucket}?object-lock"), "", &body);
        assert_eq!(status, 200, "{answer}");
    }

    /// Key and version of everything in the bucket, newest first.
    fn versions(&self, bucket: &str) -> Vec<(String, String)> {
        let (_, answer) = self.ask("GET", &format!("{bucket}?versions"), "", "");
        let text = |part: &str, tag: &str| {
            let rest = part.split_once(&format!("<{tag}>"))?.1;
            Some(rest.split_once('<')?.0.to_owned())
        };
        let parts = answer.split("<Key>").skip(1).map(|part| format!("<Key>{part}"));
        parts.filter_map(|part| Some((text(&part, "Key")?, text(&part, "VersionId")?))).collect()
    }

    fn store(&self, bucket: &str) -> Store {
        let options = [
            ("region", "us-east-1".to_owned()),
            ("endpoint", format!("http://{}", self.moto.address())),
            ("allow_http", "true".to_owned()),
            ("access_key_id", "testing".to_owned()),
            ("secret_access_key", "testing".to_owned()),
        ];
        let options = options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let address = format!("s3://{bucket}/some/folder").parse().expect("an address");
        Store::open(&address, &StoreOptions::new(options)).expect("usable options")
    }

    fn context(&self) -> Context {
        Context { clock: Arc::new(Ahead(Arc::clone(&self.seconds))), ..Context::system() }
    }

    async fn make_vault(&self, bucket: &str) -> (Vault, Kit) {
        let options = CreateOptions { kdf: KdfParameters::FLOOR };
        let draft = Vault::draft(self.store(bucket), &Passphrase::new("p"), options, self.context()).await;
        let draft = draft.expect("a draft");
        let kit = draft.kit().clone();
        (draft.create().await.expect("made"), kit)
    }

    async fn open(&self, bucket: &str, kit: &Kit) -> Vault {
        let opener = Opener::Kit(Box::new(kit.clone()), Passphrase::new("p"));
        Vault::open(self.store(bucket), &opener, self.context()).await.expect("opened")
    }
}

fn machine_id() -> MachineId {
    MachineId::new("vm").expect("a good name")
}

fn disk_id() -> DiskId {
    DiskId::new("d").expect("a good name")
}

fn details() -> PointDetails {
    let machine = Machine {
        id: machine_id(),
        name: "vm".to_owned(),
        cpus: 1,
        memory_bytes: 1 << 28,
        firmware: Firmware::Bios,
        power: PowerState::Running,
        disks: Vec::new(),
        network_interfaces: Vec::new(),
        properties: BTreeMap::new(),
    };
    let disk = PointDiskDraft { disk: disk_id(), basis: Basis::Full, tracking_token: None };
    PointDetails {
        capture: None,
        captured_at: Timestamp::from_unix_milliseconds(0),
        instant: Instant::Group,
        consistency: Consistency::Crash,
        machines: vec![PointMachineDraft { machine, disks: vec![disk] }],
        suspended: Vec::new(),
        label: None,
        note: String::new(),
    }
}

/// A point of one disk of this content.
async fn point(lineage: &Lineage, content: &[u8]) -> Result<Point, Error> {
    let writer = lineage.begin_point(Generation::FIRST, &SiteName::new("a").expect("a good name")).await?;
    let disk = writer.add_disk(&machine_id(), &disk_id(), content.len() as u64).await?;
    disk.write(0, Bytes::copy_from_slice(content)).await?;
    writer.commit(details()).await
}

async fn restored(lineage: &Lineage, point: &Point, bytes: u64) -> Vec<u8> {
    let reader = lineage.open_point(point.sequence).await.expect("it stands");
    let disk = reader.disk(&machine_id(), &disk_id()).expect("its disk");
    disk.read(0, bytes).await.expect("readable").to_vec()
}

const CONTENT_BYTES: u64 = 4 * 65_536;

fn content(seed: u8) -> Vec<u8> {
    (0..4 * 65_536u32).flat_map(|at| [seed, at.to_le_bytes()[1]]).take(4 * 65_536).collect()
}

fn group() -> GroupName {
    GroupName::new("orders").expect("a good name")
}

async fn extend(lineage: &Lineage) -> farshore_vault::ExtensionReport {
    let plan = lineage.plan_extension().await.expect("planned");
    lineage.extend(plan).await.expect("extended")
}

async fn prune(lineage: &Lineage) -> farshore_vault::PruneReport {
    let plan = lineage.plan_prune(&KEEP_NEWEST, NO_GRACE).await.expect("planned");
    lineage.prune(plan).await.expect("pruned")
}

#[tokio::test]
async fn a_bucket_that_does_not_lock_is_refused() {
    let server = Server::start();
    assert_eq!(server.ask("PUT", "plain", "", "").0, 200);
    let (vault, _) = server.make_vault("plain").await;
    let refused = vault.set_lock(LOCK, false).await.expect_err("it keeps no versions");
    assert!(matches!(&refused, Error::BucketUnfit { problem, .. } if problem.contains("no versions")), "{refused}");
    server.make_bucket("recovery");
    let (vault, _) = server.make_vault("recovery").await;
    let refused = vault.set_lock(LOCK, false).await.expect_err("no default retention");
    assert!(matches!(&refused, Error::BucketUnfit { problem, .. } if problem.contains("no default")), "{refused}");
    // moto lets an empty bucket be set only.
    for (bucket, mode, days, expected) in
        [("weak", "GOVERNANCE", 4, "mode governance"), ("short", "COMPLIANCE", 3, "3 days")]
    {
        server.make_bucket(bucket);
        server.retain_by_default(bucket, mode, days);
        let (vault, _) = server.make_vault(bucket).await;
        let refused = vault.set_lock(LOCK, false).await.expect_err("too weak");
        assert!(matches!(&refused, Error::BucketUnfit { problem, .. } if problem.contains(expected)), "{refused}");
    }
    server.make_bucket("right");
    server.retain_by_default("right", "COMPLIANCE", 4);
    let (vault, _) = server.make_vault("right").await;
    vault.set_lock(LOCK, false).await.expect("it locks");
    assert_eq!(vault.lock(), Some(LOCK));
}

#[tokio::test]
async fn weeks_in_a_locked_bucket_and_an_attack() {
    let server = Server::start();
    server.make_bucket("recovery");
    server.retain_by_default("recovery", "COMPLIANCE", 4);
    let (vault, kit) = server.make_vault("recovery").await;
    vault.set_lock(LOCK, false).await.expect("it locks");
    let lineage = vault.create_lineage(&group(), &SiteName::new("a").expect("a good name")).await.expect("begun");
    for seed in 0..3 {
        point(&lineage, &content(seed)).await.expect("committed");
        server.pass(60);
    }
    // Whatever it is, it is locked from the moment at which it was stored.
    for (key, version) in server.versions("recovery") {
        let (status, answer) = server.ask("DELETE", &format!("recovery/{key}?versionId={version}"), "", "");
        assert_eq!(status, 403, "{key}: {answer}");
    }

    server.pass(3 * DAY + DAY / 2);
    let refused = point(&lineage, &content(3)).await.expect_err("the locks run out");
    assert!(matches!(refused, Error::LockNear { .. }), "{refused}");
    let report = extend(&lineage).await;
    assert!(report.extended == report.needed && report.extended > 8, "{report:?}");
    let newest = point(&lineage, &content(3)).await.expect("locked again");

    // What is given up waits for its lock, then all of it goes, and no delete marker is left.
    let before = server.versions("recovery").len();
    assert!(prune(&lineage).await.condemned.objects > 4);
    server.pass(DAY);
    assert_eq!(prune(&lineage).await.deleted.objects, 0);
    for _ in 0..2 {
        server.pass(2 * DAY);
        extend(&lineage).await;
    }
    let after = point(&lineage, &content(4)).await.expect("committed");
    let report = prune(&lineage).await;
    assert!(report.deleted.objects > 4, "{report:?}");
    // Commits that were condemned lead to the newest one until a boundary says that they are gone; so their locks end a span later.
    assert!(report.still_locked.objects > 0, "{report:?}");
    for _ in 0..3 {
        server.pass(2 * DAY);
        extend(&lineage).await;
    }
    let again = prune(&lineage).await;
    assert_eq!(again.still_locked.objects, 0, "{again:?}");
    let versions = server.versions("recovery");
    assert!(versions.len() < before + 16, "{} versions, {before} before", versions.len());
    let mut keys: Vec<_> = versions.iter().map(|(key, _)| key).collect();
    keys.dedup();
    assert_eq!(keys.len(), versions.len(), "no marker and no second version");
    assert!(restored(&lineage, &after, CONTENT_BYTES).await == content(4));
    assert!(lineage.point(newest.sequence).await.is_err(), "it was given up");

    // Somebody with all rights but over locks destroys what can be destroyed, and hides the rest.
    extend(&lineage).await;
    server.pass(3 * DAY);
    let mut hidden = Vec::new();
    for (key, version) in server.versions("recovery") {
        if server.ask("DELETE", &format!("recovery/{key}?versionId={version}"), "", "").0 == 403 {
            server.ask("DELETE", &format!("recovery/{key}"), "", "");
            hidden.push(key);
        }
    }
    let opener = Opener::Kit(Box::new(kit.clone()), Passphrase::new("p"));
    let gone = Vault::open(server.store("recovery"), &opener, server.context()).await.expect_err("all is hidden");
    assert!(matches!(gone, Error::VaultMissing { .. }), "{gone}");
    let store = server.store("recovery");
    let plan = store.plan_unhide().await.expect("no keys are needed");
    assert_eq!(plan.hidden.len(), hidden.len());
    let report = store.unhide(plan, false, server.context().clock.now()).await;
    assert_eq!((report.shown, report.still_hidden.len()), (hidden.len() as u64, 0), "{report:?}");
    let lineage = server.open("recovery", &kit).await.lineage(&group()).await.expect("readable").expect("there");
    let points = lineage.points(None, 10).await.expect("readable");
    assert!(points.iter().any(|found| found.sequence == after.sequence));
    for found in &points {
        assert!(restored(&lineage, found, CONTENT_BYTES).await == content(4), "what stands is whole");
    }
}
