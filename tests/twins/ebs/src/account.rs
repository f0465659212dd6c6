//! One account in one region: what is in it, who may do what, and how its instances run.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use farshore_core::{Clock as _, Entropy as _, SeededEntropy, SystemClock, Timestamp};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::{
    blocks::{BlockFile, Content},
    failure::Failure,
    faults::{Fault, Faults},
    model::{Call, Instance, InstanceState, Principal, Snapshot, SnapshotState, State, Subnet, Volume},
    policy::{Ask, Policy, Tags},
    quotas,
    signature::{Key, hex},
};

/// How many calls are kept.
const CALLS_MAX: usize = 100_000;

/// What the twin is like.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything is kept. Instances have sockets in it, so that its path is short.
    pub folder: PathBuf,
    /// Such as `eu-west-1`.
    pub region: String,
    /// Such as `eu-west-1a`.
    pub zone: String,
    /// Twelve digits.
    pub account: String,
    /// Who has an access key, by its id.
    pub principals: BTreeMap<String, Principal>,
    /// The networks that there are.
    pub subnets: Vec<Subnet>,
    /// The security groups that there are, with their tags.
    pub groups: BTreeMap<String, Tags>,
    /// Whether instances run, in QEMU. Otherwise they only say that they do.
    pub runs: bool,
    /// How long a snapshot is pending.
    pub settle: Duration,
    /// How long tokens of blocks are good for.
    pub block_token_life: Duration,
    /// How long tokens of pages are good for.
    pub page_token_life: Duration,
    /// How long there is between two snapshots of a volume.
    pub snapshot_interval: Duration,
    /// The values that Service Quotas tells for this account, by the codes of quotas. For others it tells AWS's defaults only.
    pub quotas: BTreeMap<String, f64>,
    /// AWS's defaults, by the codes of quotas. There are no other quotas.
    pub default_quotas: BTreeMap<String, f64>,
    /// How many snapshots may be pending at once.
    pub pending_max: usize,
    /// Whether to remove a snapshot that is not there is not allowed, rather than not possible: its tags cannot be asked for.
    pub missing_is_denied: bool,
    /// Whether a snapshot can be completed a second time, and nothing comes of it.
    pub completes_again: bool,
    /// What goes wrong.
    pub faults: Faults,
}

impl Options {
    /// An account that is kept in this folder: one key, `TWIN` with the secret `twin-secret`, that may do everything; a subnet
    /// and a security group for `live` and one for `drill`, tagged with their `purpose`; instances that do not run; AWS's default
    /// quotas; and nothing that goes wrong.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let tagged = |purpose: &str| Tags::from([("purpose".to_owned(), purpose.to_owned())]);
        let subnet = |purpose: &str, cidr: &str| Subnet {
            id: format!("subnet-0{purpose}"),
            cidr: cidr.to_owned(),
            tags: tagged(purpose),
        };
        let key = Key { secret: "twin-secret".to_owned(), token: None, expires_at: None };
        Self {
            folder: folder.into(),
            region: "eu-west-1".to_owned(),
            zone: "eu-west-1a".to_owned(),
            account: "123456789012".to_owned(),
            principals: BTreeMap::from([("TWIN".to_owned(), Principal { key, policy: Policy::everything() })]),
            subnets: vec![subnet("live", "10.0.1.0/24"), subnet("drill", "10.0.2.0/24")],
            groups: ["live", "drill"].map(|purpose| (format!("sg-0{purpose}"), tagged(purpose))).into(),
            runs: false,
            settle: Duration::ZERO,
            block_token_life: Duration::from_secs(7 * 86_400),
            page_token_life: Duration::from_secs(3_600),
            snapshot_interval: Duration::ZERO,
            quotas: BTreeMap::new(),
            default_quotas: quotas::QUOTAS.map(|(code, _, value)| (code.to_owned(), value)).into(),
            pending_max: 100,
            missing_is_denied: false,
            completes_again: true,
            faults: Faults { seed: 1, ..Faults::default() },
        }
    }
}

/// Who calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The access key.
    pub key_id: String,
    /// Who.
    pub principal: Principal,
}

/// What a policy was asked for, and has allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allowed {
    /// The access key.
    pub by: String,
    /// Such as `ec2:CreateTags`, which many calls ask for besides their own.
    pub action: String,
    /// Such as `snapshot`, or `*` where there are no resources.
    pub kind: String,
}

/// See the module.
#[derive(Debug)]
pub struct Account {
    /// What it is like.
    pub options: Options,
    state: Mutex<State>,
    entropy: SeededEntropy,
    /// What seals tokens.
    secret: [u8; 32],
    /// How far the account's time is ahead of the machine's, in milliseconds.
    ahead: AtomicI64,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// What policies were asked for and have allowed.
    allowed: Mutex<BTreeSet<Allowed>>,
    /// How many calls of each kind there were, and pages, and whatever else dice are thrown for.
    counts: Mutex<BTreeMap<String, u64>>,
}

impl<'a> Ask<'a> {
    /// To do this to that.
    pub fn of(action: &'a str, resource: String) -> Self {
        Self { action, resource, ..Self::default() }
    }
}

impl State {
    /// The tags of a thing of any kind.
    pub fn tags_of(&mut self, id: &str) -> Option<&mut Tags> {
        let Self { snapshots, volumes, images, instances, .. } = self;
        let snapshot = snapshots.get_mut(id).map(|found| &mut found.tags);
        let volume = volumes.get_mut(id).map(|found| &mut found.tags);
        let image = images.get_mut(id).map(|found| &mut found.tags);
        let instance = instances.get_mut(id).map(|found| &mut found.tags);
        snapshot.or(volume).or(image).or(instance)
    }
}

impl Account {
    /// An account in which there is nothing yet.
    ///
    /// # Errors
    /// Its folder cannot be made.
    pub fn new(options: Options) -> Result<Self> {
        std::fs::create_dir_all(&options.folder).with_context(|| format!("making {}", options.folder.display()))?;
        let entropy = SeededEntropy::new(options.faults.seed);
        let mut secret = [0; 32];
        entropy.fill(&mut secret);
        Ok(Self {
            options,
            state: Mutex::default(),
            entropy,
            secret,
            ahead: AtomicI64::new(0),
            threads: Mutex::default(),
            allowed: Mutex::default(),
            counts: Mutex::default(),
        })
    }

    /// What is in it.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account's time.
    pub fn now(&self) -> Timestamp {
        let now = SystemClock.now().as_unix_milliseconds();
        Timestamp::from_unix_milliseconds(now.saturating_add(self.ahead.load(Ordering::SeqCst)))
    }

    /// Lets time pass. Signatures are still judged by the machine's.
    pub fn pass(&self, span: Duration) {
        self.ahead.fetch_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// How often there was something of this kind before.
    pub fn count(&self, kind: &str) -> u64 {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(kind.to_owned()).or_default();
        let before = *count;
        *count = before.saturating_add(1);
        before
    }

    /// What goes wrong with a call that comes now.
    pub fn fault_of(&self, action: &str) -> Option<Fault> {
        let nth = self.count(action);
        let mut state = self.state();
        match state.wanted.iter().position(|(wanted, _)| wanted == action) {
            Some(position) => Some(state.wanted.remove(position).1),
            None => self.options.faults.of_call(action, nth),
        }
    }

    /// A new id of this kind.
    pub fn new_id(&self, kind: &str) -> String {
        let mut bytes = [0; 9];
        self.entropy.fill(&mut bytes);
        let digits = hex(&bytes);
        format!("{kind}-0{}", digits.get(..16).unwrap_or_default())
    }

    /// A new hardware address.
    pub fn new_mac(&self) -> String {
        let mut bytes = [0; 6];
        self.entropy.fill(&mut bytes);
        bytes[0] = 0x02;
        bytes.map(|byte| format!("{byte:02x}")).join(":")
    }

    /// The name of a thing in policies.
    pub fn arn(&self, kind: &str, id: &str) -> String {
        let Options { region, account, .. } = &self.options;
        // What can be public belongs to no account.
        let account = if ["snapshot", "image"].contains(&kind) { "" } else { account };
        format!("arn:aws:ec2:{region}:{account}:{kind}/{id}")
    }

    /// That the caller may.
    ///
    /// # Errors
    /// It may not.
    pub fn require(&self, caller: &Caller, ask: &Ask<'_>) -> Result<(), Failure> {
        if caller.principal.policy.allows(ask) {
            let kind = ask.resource.rsplit(':').next().and_then(|named| named.split('/').next()).unwrap_or_default();
            let (by, action, kind) = (caller.key_id.clone(), ask.action.to_owned(), kind.to_owned());
            self.lock_allowed().insert(Allowed { by, action, kind });
            return Ok(());
        }
        let message = format!("You are not authorized to perform {} on {}", ask.action, ask.resource);
        Err(match ask.action.split(':').next() {
            Some("ebs") => Failure::new(403, "AccessDeniedException", message),
            Some("servicequotas") => Failure::new(400, "AccessDeniedException", message),
            _ => Failure::new(403, "UnauthorizedOperation", message),
        })
    }

    /// What policies were asked for and have allowed.
    pub fn lock_allowed(&self) -> MutexGuard<'_, BTreeSet<Allowed>> {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That the caller may give these tags to what a call makes. The call is known to policies if it is one of EC2's.
    ///
    /// # Errors
    /// It may not.
    pub fn require_tags(&self, caller: &Caller, call: Option<&str>, kind: &str, tags: &Tags) -> Result<(), Failure> {
        if tags.is_empty() {
            return Ok(());
        }
        let context = call.map(|call| ("ec2:CreateAction", call.to_owned())).into_iter().collect();
        let ask = Ask::of("ec2:CreateTags", self.arn(kind, "*"));
        self.require(caller, &Ask { request_tags: Some(tags), context, ..ask })
    }

    /// Notes what was called, and how it ended.
    pub fn note(&self, by: &str, action: &str, error: Option<String>, fault: Option<Fault>) {
        let mut state = self.state();
        state.calls.push_back(Call { by: by.to_owned(), action: action.to_owned(), error, fault });
        if state.calls.len() > CALLS_MAX {
            state.calls.pop_front();
        }
    }

    /// Whether a thing is seen yet by those who look.
    pub fn is_visible(&self, state: &State, id: &str) -> bool {
        state.visible_from.get(id).is_none_or(|from| *from <= self.now())
    }

    /// What was just made is seen a little later, as eventual consistency has it.
    pub fn show_later(&self, state: &mut State, id: &str) {
        let most = u64::try_from(self.options.faults.unseen.as_millis()).unwrap_or(u64::MAX);
        if most > 0 {
            let nth = self.count("unseen");
            let later = Duration::from_millis(self.options.faults.thrown("unseen", nth, most));
            state.visible_from.insert(id.to_owned(), self.after(later));
        }
    }

    fn after(&self, span: Duration) -> Timestamp {
        let milliseconds = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_unix_milliseconds(self.now().as_unix_milliseconds().saturating_add(milliseconds))
    }

    /// So many minutes from now.
    pub fn after_minutes(&self, minutes: i64) -> Timestamp {
        self.after(Duration::from_secs(u64::try_from(minutes).unwrap_or(0) * 60))
    }

    /// When a snapshot that is made now is complete.
    pub fn settles_at(&self) -> Timestamp {
        self.after(self.options.settle)
    }

    /// When a block's token that is given now expires.
    pub fn block_tokens_expire_at(&self) -> Timestamp {
        self.after(self.options.block_token_life)
    }

    /// How far a snapshot has come, in the API's words.
    pub fn snapshot_status(&self, snapshot: &Snapshot) -> &'static str {
        match snapshot.state {
            SnapshotState::CompletesAt(at) if at <= self.now() => "completed",
            SnapshotState::Pending | SnapshotState::CompletesAt(_) => "pending",
            SnapshotState::Error => "error",
        }
    }

    /// A token that only this twin can have given, for this purpose, with what it means.
    pub fn page_token(&self, purpose: &str, means: &str) -> String {
        self.token(purpose, means, self.after(self.options.page_token_life))
    }

    fn token(&self, purpose: &str, means: &str, expires_at: Timestamp) -> String {
        let expires = expires_at.as_unix_milliseconds();
        let seal = self.seal(&format!("{expires}|{purpose}|{means}"));
        STANDARD.encode(format!("{expires}|{}|{means}", hex(&seal)))
    }

    /// What a token means that was given for this purpose and is still good.
    ///
    /// # Errors
    /// It is another, or too old.
    pub fn open_token(&self, purpose: &str, token: &str) -> Result<String, Failure> {
        let opened = || {
            let text = String::from_utf8(STANDARD.decode(token).ok()?).ok()?;
            let [expires, seal, means] = text.splitn(3, '|').collect::<Vec<_>>()[..] else { return None };
            let is_own = hex(&self.seal(&format!("{expires}|{purpose}|{means}"))) == seal;
            let is_good = expires.parse::<i64>().ok()? > self.now().as_unix_milliseconds();
            (is_own && is_good).then(|| means.to_owned())
        };
        opened().ok_or_else(|| Failure::new(400, "InvalidNextToken", "The token is wrong or has expired"))
    }

    /// The token of a block.
    pub fn block_token(&self, snapshot: &str, number: u32) -> String {
        self.token(&format!("block {snapshot}"), &number.to_string(), self.block_tokens_expire_at())
    }

    /// Whether it is.
    pub fn is_block_token(&self, snapshot: &str, number: u32, token: &str) -> bool {
        self.open_token(&format!("block {snapshot}"), token).is_ok_and(|means| means == number.to_string())
    }

    fn seal(&self, text: &str) -> Vec<u8> {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.secret) else { return Vec::new() };
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().to_vec()
    }

    /// An address in a subnet: this one, or the first that is free.
    ///
    /// # Errors
    /// It is not in the subnet, or not free.
    pub fn free_address(&self, state: &State, subnet: &str, wanted: Option<String>) -> Result<String, Failure> {
        let known = self.options.subnets.iter().find(|known| known.id == subnet);
        let known = known.ok_or_else(|| Failure::not_found("SubnetID", subnet))?;
        // Subnets have 256 addresses here.
        let prefix = known.cidr.rsplit_once('.').map_or("", |(prefix, _)| prefix);
        let is_free = |address: &String| {
            !state.instances.values().any(|instance| {
                instance.state != InstanceState::Terminated && instance.subnet == subnet && instance.address == *address
            })
        };
        match wanted {
            None => {
                let full = || Failure::new(400, "InsufficientFreeAddressesInSubnet", "No address is free");
                (4..255).map(|number| format!("{prefix}.{number}")).find(is_free).ok_or_else(full)
            }
            Some(address) => {
                let number = address.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')?.parse::<u8>().ok());
                if !number.is_some_and(|number| (4..255).contains(&number)) {
                    return Err(Failure::invalid(format!("Address {address} does not fall within the subnet's range")));
                }
                if !is_free(&address) {
                    return Err(Failure::new(400, "InvalidIPAddress.InUse", format!("Address {address} is in use.")));
                }
                Ok(address)
            }
        }
    }

    /// What is in a volume now.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn content_of(&self, volume: &Volume) -> Result<Content> {
        Content::of_volume(&volume.file, &volume.newest, &BlockFile::new(&self.options.folder)?)
    }

    /// Whether an instance's guest is up.
    pub fn has_booted(&self, instance: &Instance) -> bool {
        !self.options.runs || String::from_utf8_lossy(&instance.power.console()).contains("FARSHORE-UP ")
    }

    /// Notices what happened by itself: guests that have turned themselves off, and snapshots whose blocks did not come.
    pub fn look_after(&self, state: &mut State) {
        for instance in state.instances.values_mut() {
            if instance.state == InstanceState::Running && instance.power.has_ended() {
                instance.state = InstanceState::Stopped;
            }
        }
        let now = self.now();
        for snapshot in state.snapshots.values_mut() {
            if snapshot.puts.as_ref().is_some_and(|puts| puts.expires_at < now) {
                (snapshot.puts, snapshot.state) = (None, SnapshotState::Error);
            }
        }
    }

    /// Does what takes its time, without anybody who waits for it.
    pub fn in_background(self: &Arc<Self>, work: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let account = Arc::clone(self);
        let thread = std::thread::spawn(move || work(&account));
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }

    /// Ends all instances, and waits for whatever is being done with them.
    pub fn end(&self) {
        let powers: Vec<_> = self.state().instances.values().map(|instance| Arc::clone(&instance.power)).collect();
        powers.iter().for_each(|power| power.end());
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        // One that failed has said so.
        threads.into_iter().for_each(|thread| drop(thread.join()));
        // What was being started meanwhile.
        powers.iter().for_each(|power| power.end());
    }
}
