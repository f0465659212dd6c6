//! The adapter beside the twin of EC2 and EBS direct, or beside what else answers as they do: a host that sends, signs and
//! sometimes dies.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::disallowed_methods, reason = "the twin lives in real time")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use farshore_adapter_aws::{
    bindings::{
        exports::farshore::platform::{
            ownership::{Kind, Owned},
            source::{CaptureRequest, CaptureStatus, CaptureStep, Consistency, Outcome, TrackedDisk},
            source_blocks::{Block, BlockSet},
            target_disks::{DiskRequest, DiskStatus, DiskStep, WrittenBlocks},
            target_machines::{Level as ReadinessLevel, MachineRequest, MachineStatus, MachineStep},
        },
        farshore::platform::model::{Disk, Firmware, Machine, NetworkInterface, PowerState},
    },
    blocks, capture,
    error::PlatformError,
    inventory, ownership,
    ports::{BlockDisk, Host, HostError, Level, Method, Request, Response},
    target_disks, target_machines,
};
use farshore_core::{SeededEntropy, SystemClock};
use farshore_http::{Endpoint, EndpointGrant, EndpointOptions, HttpError, KeyError, KeySource, SigV4, SigV4Keys};
use farshore_twin_ebs::{Key, Options, Policy, Principal, Twin};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

pub const BLOCK: usize = 512 << 10;
pub const OWNER: &str = "farshore-test";
pub const RUN: &str = "0000000000000000000000000000000a";
const SETTINGS: &str = r#"{"instance-type": "t3.large", "subnet": "subnet-0live", "security-groups": ["sg-0live"]}"#;

struct Keys(String, String);

impl KeySource for Keys {
    fn keys(&self) -> Result<SigV4Keys, KeyError> {
        let text = |text: &str| text.to_owned().into();
        Ok(SigV4Keys { access_key_id: text(&self.0), secret_access_key: text(&self.1), session_token: None })
    }
}

/// Lets somebody have an access key, whose secret is [`secret_of`] it, and what this policy allows.
pub fn add_principal(options: &mut Options, key_id: &str, policy: &str) {
    let key = Key { secret: secret_of(key_id), token: None, expires_at: None };
    let policy = Policy::parse(policy).expect("a policy");
    options.principals.insert(key_id.to_owned(), Principal { key, policy });
}

fn secret_of(key_id: &str) -> String {
    format!("{}-secret", key_id.to_lowercase())
}

/// How a host dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// Before this request is sent, counting from 0.
    Before(u64),
    /// After this request was carried out.
    After(u64),
}

/// The twin, or what answers in its place, and a host that sends to it.
pub struct Scene<S = Twin> {
    pub twin: S,
    pub folder: TempDir,
    runtime: tokio::runtime::Runtime,
    endpoints: BTreeMap<&'static str, Endpoint>,
    pub settings: String,
    death: Option<Death>,
    sent: AtomicU64,
    began: Instant,
}

impl Scene {
    pub fn new(change: impl FnOnce(&mut Options)) -> Self {
        let folder = tempfile::Builder::new().prefix("aws").rand_bytes(6).tempdir().expect("a folder");
        let mut options = Options::new(folder.path());
        change(&mut options);
        let twin = Twin::start(options, [0, 0]).expect("it serves");
        let (ec2, ebs) = (twin.ec2_url(), twin.ebs_url());
        Self::at(twin, folder, [&ec2, &ebs])
    }

    /// The file of an instance's volume.
    pub fn volume(&self, instance: &str, device: &str) -> PathBuf {
        self.folder.path().join(instance).join(format!("-dev-{device}.raw"))
    }

    /// From now on the host signs with this key, and the adapter has these settings.
    pub fn act_as(&mut self, key_id: &str, settings: &str) {
        (self.endpoints, self.settings) =
            (endpoints([&self.twin.ec2_url(), &self.twin.ebs_url()], key_id), settings.to_owned());
    }

    /// The ids of all snapshots, however young.
    pub fn snapshots(&self) -> BTreeSet<String> {
        self.twin.seen().snapshots.into_iter().collect()
    }
}

impl<S> Scene<S> {
    /// What answers at these addresses of EC2 and EBS direct.
    pub fn at(twin: S, folder: TempDir, [ec2, ebs]: [&str; 2]) -> Self {
        let endpoints = endpoints([ec2, ebs], "TWIN");
        Self {
            twin,
            folder,
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("a runtime"),
            endpoints,
            settings: SETTINGS.to_owned(),
            death: None,
            sent: AtomicU64::new(0),
            began: Instant::now(),
        }
    }

    /// The host dies in this way, counting from now; with none it lives again.
    pub fn die(&mut self, death: Option<Death>) {
        (self.death, self.sent) = (death, AtomicU64::new(0));
    }

    /// How many requests there were since then.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Makes a machine of disks of one GiB with these blocks, and starts it. The id of its instance.
    pub fn run(&self, id: &str, disks: &[&BTreeMap<u64, u8>]) -> Result<(String, Vec<u8>), PlatformError> {
        let (machine, mut states) = (machine(disks.len()), Vec::new());
        for (disk, blocks) in machine.disks.iter().zip(disks) {
            states.push(self.disk(
                &format!("{:0>32x}", states.len() + 0x100 + usize::from_str_radix(&id[30..], 16).expect("hex") * 16),
                disk,
                blocks,
            )?);
        }
        self.run_of(id, states)
    }

    /// Makes a machine of sealed disks, and starts it. The id of its instance.
    pub fn run_of(&self, id: &str, disks: Vec<Vec<u8>>) -> Result<(String, Vec<u8>), PlatformError> {
        let machine = machine(disks.len());
        let request =
            MachineRequest { id: id.to_owned(), owner: OWNER.to_owned(), run: RUN.to_owned(), machine, disks };
        let state = self.settle_machine(target_machines::define(self, &request)?)?;
        let state = self.settle_machine(target_machines::start(self, &state)?)?;
        let readiness = target_machines::check_readiness(self, &state)?;
        assert_eq!(readiness.level, ReadinessLevel::Ready, "{}", readiness.evidence);
        let evidence = readiness.evidence;
        let instance = evidence.split_whitespace().find(|word| word.starts_with("i-")).expect("an instance");
        Ok((instance.to_owned(), state))
    }

    /// Makes a disk with these blocks.
    pub fn disk(&self, id: &str, disk: &Disk, blocks: &BTreeMap<u64, u8>) -> Result<Vec<u8>, PlatformError> {
        let state = self.settle_disk(target_disks::begin(self, &disk_request(id, disk))?)?;
        self.write_and_seal(state, blocks)
    }

    /// Makes a disk that begins as another was sealed, and has these blocks besides.
    pub fn disk_from(
        &self,
        id: &str,
        disk: &Disk,
        base: &[u8],
        blocks: &BTreeMap<u64, u8>,
    ) -> Result<Vec<u8>, PlatformError> {
        let state = self.settle_disk(target_disks::begin_from(self, &disk_request(id, disk), base)?)?;
        self.write_and_seal(state, blocks)
    }

    fn write_and_seal(&self, state: Vec<u8>, blocks: &BTreeMap<u64, u8>) -> Result<Vec<u8>, PlatformError> {
        let place = target_disks::open(&state)?;
        let mut digests = Sha256::new();
        for (index, byte) in blocks {
            digests.update(self.put(&place, *index, &vec![*byte; BLOCK])?);
        }
        let written = WrittenBlocks { count: blocks.len() as u64, checksum: STANDARD.encode(digests.finalize()) };
        self.settle_disk(target_disks::seal(self, &state, Some(&written))?)
    }

    pub fn settle_disk(&self, mut step: DiskStep) -> Result<Vec<u8>, PlatformError> {
        for _ in 0..200 {
            match step.status {
                DiskStatus::Ready(_) => return Ok(step.state),
                DiskStatus::Pending(_) => step = target_disks::go_on(self, &step.state)?,
            }
            pause();
        }
        panic!("the disk is never ready")
    }

    pub fn settle_machine(&self, mut step: MachineStep) -> Result<Vec<u8>, PlatformError> {
        for _ in 0..200 {
            match step.status {
                MachineStatus::Ready(_) => return Ok(step.state),
                MachineStatus::Pending(_) => step = target_machines::go_on(self, &step.state)?,
            }
            pause();
        }
        panic!("the machine is never ready")
    }

    /// Captures, and returns the state.
    pub fn capture(&self, request: &CaptureRequest) -> Result<Vec<u8>, PlatformError> {
        let mut step: CaptureStep = capture::begin(self, request)?;
        for _ in 0..200 {
            match step.status {
                CaptureStatus::Ready(_) => return Ok(step.state),
                CaptureStatus::Pending(_) => step = capture::go_on(self, request, &step.state)?,
            }
            pause();
        }
        panic!("the capture is never ready")
    }

    /// The blocks of a set, as the host asks for them: page by page.
    pub fn blocks(&self, state: &[u8], machine: &str, disk: &str, set: BlockSet) -> Result<Vec<Block>, PlatformError> {
        let (size_bytes, mut offset, mut all) = (1_u64 << 30, 0, Vec::new());
        while offset < size_bytes {
            let page = blocks::list(self, state, machine, disk, set, offset)?;
            assert!(page.told_to > offset && page.told_to <= size_bytes, "it goes on");
            assert!(page.blocks.len() <= 1_000);
            all.extend(page.blocks);
            offset = page.told_to;
        }
        Ok(all)
    }

    /// The bytes of these blocks. Each is one byte over and over.
    pub fn read(&self, place: &BlockDisk, blocks: &[Block]) -> Result<BTreeMap<u64, u8>, PlatformError> {
        let mut bytes = BTreeMap::new();
        for block in blocks {
            let Some(key) = &block.key else {
                bytes.insert(block.index, 0);
                continue;
            };
            let key: String = form_urlencoded::byte_serialize(key.as_bytes()).collect();
            let read = place.read.as_ref().expect("it can be read");
            let target = read.target.replace("{index}", &block.index.to_string()).replace("{key}", &key);
            let response =
                self.send("ebs", &request(Method::Get, target, Vec::new())).map_err(|error| failed(&error))?;
            assert_eq!(response.status, 200, "{}", String::from_utf8_lossy(&response.body));
            assert_eq!(response.body.len(), BLOCK);
            assert!(response.body.iter().all(|byte| *byte == response.body[0]), "each block is of one byte");
            bytes.insert(block.index, response.body[0]);
        }
        Ok(bytes)
    }

    fn put(&self, place: &BlockDisk, index: u64, data: &[u8]) -> Result<[u8; 32], PlatformError> {
        let write = place.write.as_ref().expect("it can be written");
        let digest: [u8; 32] = Sha256::digest(data).into();
        let mut request = request(Method::Put, write.target.replace("{index}", &index.to_string()), data.to_vec());
        request.headers = write.headers.clone();
        for header in &mut request.headers {
            header.value =
                header.value.replace("{length}", &data.len().to_string()).replace("{sha256}", &STANDARD.encode(digest));
        }
        let response = self.send("ebs", &request).map_err(|error| failed(&error))?;
        assert_eq!(response.status, 201, "{}", String::from_utf8_lossy(&response.body));
        Ok(digest)
    }

    /// Gives back whatever is left of these kinds, as a host does that knows nothing.
    pub fn release_all(&self, kinds: &[Kind]) {
        for kind in kinds {
            let page = ownership::list(self, *kind, OWNER, None).expect("a list");
            for item in page.items {
                let item: Owned = item;
                ownership::release(self, &item).expect(&item.description);
            }
        }
    }
}

fn failed(error: &HostError) -> PlatformError {
    PlatformError::Failed(format!("{error:?}"))
}

fn request(method: Method, target: String, body: Vec<u8>) -> Request {
    let throttle_words = vec!["RequestThrottledException".to_owned()];
    let (headers, repeatable, timeout_milliseconds) = (Vec::new(), true, 20_000);
    Request { method, target, headers, body, repeatable, timeout_milliseconds, throttle_words }
}

pub fn pause() {
    std::thread::sleep(Duration::from_millis(60));
}

fn endpoints([ec2, ebs]: [&str; 2], key_id: &str) -> BTreeMap<&'static str, Endpoint> {
    let secret = secret_of(key_id);
    // Where EC2 is, Service Quotas is too.
    let all = [("ec2", ec2), ("ebs", ebs), ("servicequotas", ec2)];
    all.map(|(service, url)| (service, endpoint(service, url, (key_id, &secret)))).into()
}

fn endpoint(service: &str, url: &str, (id, secret): (&str, &str)) -> Endpoint {
    let grant = format!(r#"{{"address": "{url}", "allow-http": true, "credential": "keys"}}"#);
    let grant: EndpointGrant = serde_json::from_str(&grant).expect("a grant");
    let keys = Arc::new(Keys(id.to_owned(), secret.to_owned()));
    let made = Endpoint::new(EndpointOptions {
        name: service.parse().expect("a name"),
        grant,
        certificates: None,
        signing: Some(SigV4 { region: "eu-west-1".to_owned(), service: service.to_owned(), keys }),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SeededEntropy::new(1)),
    });
    made.expect("an endpoint")
}

impl<S> Host for Scene<S> {
    fn settings(&self) -> Result<String, HostError> {
        Ok(self.settings.clone())
    }

    fn send(&self, endpoint: &str, request: &Request) -> Result<Response, HostError> {
        let dead = || Err(HostError::Failed("the host is dead".to_owned()));
        let number = self.sent.fetch_add(1, Ordering::SeqCst);
        match self.death {
            Some(Death::Before(at)) if number >= at => return dead(),
            Some(Death::After(at)) if number > at => return dead(),
            _ => {}
        }
        let method = match request.method {
            Method::Get => farshore_http::Method::Get,
            Method::Post => farshore_http::Method::Post,
            Method::Put => farshore_http::Method::Put,
            Method::Patch => farshore_http::Method::Patch,
            Method::Delete => farshore_http::Method::Delete,
        };
        let asked = farshore_http::Request {
            method,
            headers: request.headers.iter().map(|header| (header.name.clone(), header.value.clone())).collect(),
            body: request.body.clone().into(),
            repeatable: request.repeatable,
            throttle_words: request.throttle_words.clone(),
            ..farshore_http::Request::get(
                request.target.as_str(),
                Duration::from_millis(u64::from(request.timeout_milliseconds)),
            )
        };
        let endpoint = self.endpoints.get(endpoint).expect("an endpoint");
        let answer = self.runtime.block_on(endpoint.send(&asked));
        if self.death == Some(Death::After(number)) {
            return dead();
        }
        let answer = answer.map_err(|error| match error {
            HttpError::Unreachable { .. } => HostError::Unreachable(error.to_string()),
            HttpError::TimedOut { .. } => HostError::TimedOut(error.to_string()),
            HttpError::Invalid { .. } => HostError::Invalid(error.to_string()),
            error => HostError::Failed(error.to_string()),
        })?;
        let header = |(name, value): (String, String)| farshore_adapter_aws::ports::Header { name, value };
        Ok(Response {
            status: answer.status,
            headers: answer.headers.into_iter().map(header).collect(),
            body: answer.body.to_vec(),
        })
    }

    fn monotonic_nanoseconds(&self) -> Result<u64, HostError> {
        Ok(u64::try_from(self.began.elapsed().as_nanos()).expect("a short test"))
    }

    fn sleep(&self, milliseconds: u32) -> Result<(), HostError> {
        std::thread::sleep(Duration::from_millis(u64::from(milliseconds)));
        Ok(())
    }

    fn log(&self, _: Level, line: &str) {
        eprintln!("{line}");
    }
}

/// A request for a disk of the machine.
pub fn disk_request(id: &str, disk: &Disk) -> DiskRequest {
    DiskRequest {
        id: id.to_owned(),
        owner: OWNER.to_owned(),
        run: RUN.to_owned(),
        machine_name: "Orders".to_owned(),
        disk: disk.id.clone(),
        size_bytes: disk.size_bytes,
        properties: Vec::new(),
    }
}

/// A machine with so many disks of one GiB.
pub fn machine(disks: usize) -> Machine {
    let disk = |number: usize| Disk {
        id: format!("vd{number}"),
        size_bytes: 1 << 30,
        boot: number == 0,
        properties: Vec::new(),
    };
    let interface = NetworkInterface { id: "net0".to_owned(), mac: None, network: None, properties: Vec::new() };
    Machine {
        id: "orders".to_owned(),
        name: "Orders".to_owned(),
        cpus: 2,
        memory_bytes: 1 << 30,
        firmware: Firmware::Bios,
        power: PowerState::Running,
        disks: (0..disks).map(disk).collect(),
        network_interfaces: vec![interface],
        properties: Vec::new(),
    }
}

/// A request for a capture of an instance.
pub fn wanted(id: &str, instance: &str, tracked: &[(&str, &str)]) -> CaptureRequest {
    let tracked = tracked.iter().map(|(disk, token)| TrackedDisk {
        machine: instance.to_owned(),
        disk: (*disk).to_owned(),
        token: (*token).to_owned(),
    });
    CaptureRequest {
        id: id.to_owned(),
        owner: OWNER.to_owned(),
        machines: vec![instance.to_owned()],
        tracked: tracked.collect(),
        consistency: Consistency::Crash,
        stall_limit_milliseconds: 1_000,
    }
}

/// The tokens of a capture, by disk.
pub fn tokens(state: &[u8]) -> BTreeMap<String, String> {
    let page = capture::list_disks(state, None).expect("disks");
    page.disks.into_iter().map(|disk| (disk.disk, disk.token.expect("a token"))).collect()
}

pub fn end(scene: &dyn Host, state: &[u8], outcome: Outcome) -> Result<(), PlatformError> {
    capture::end(scene, state, Some(outcome)).map(drop)
}

/// What an instance is, as it is discovered.
pub fn discovered(scene: &dyn Host) -> Vec<Machine> {
    inventory::list_machines(scene, None).expect("machines").machines
}
