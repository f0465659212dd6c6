//! One account in one region: what is in it, who may do what, and how its instances run.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use farshore_core::{Clock as _, Entropy as _, SeededEntropy, SystemClock, Timestamp};
use farshore_demo::{
    BootReport, Stop,
    guest::{DiskFormat, Guest, GuestDisk, GuestOptions, Qmp},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::json;
use sha2::Sha256;

use crate::{
    blocks::{Content, new_file},
    failure::Failure,
    faults::Faults,
    model::{Call, Instance, InstanceState, Principal, Snapshot, SnapshotState, State, Subnet, Volume},
    policy::{Ask, Tags},
    signature::hex,
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
    /// The security groups that there are.
    pub groups: Vec<String>,
    /// Whether instances run, in QEMU. Otherwise they only say that they do.
    pub runs: bool,
    /// How long a snapshot is pending.
    pub settle: Duration,
    /// How long tokens of blocks and pages are good for.
    pub token_life: Duration,
    /// How many snapshots may be pending at once.
    pub pending_max: usize,
    /// What goes wrong.
    pub faults: Faults,
}

/// Who calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The access key.
    pub key_id: String,
    /// Who.
    pub principal: Principal,
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
}

/// A guest that stands still until this is dropped.
#[derive(Debug)]
pub struct Held(Option<Qmp>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(control) = &mut self.0 {
            // A guest that has ended meanwhile needs nothing.
            let _ = control.execute("cont", json!({}));
        }
    }
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
        Ok(Self { options, state: Mutex::default(), entropy, secret })
    }

    /// What is in it.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    /// A random number below this.
    pub fn random(&self, below: u64) -> u64 {
        let mut bytes = [0; 8];
        self.entropy.fill(&mut bytes);
        u64::from_le_bytes(bytes).checked_rem(below).unwrap_or(0)
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
            return Ok(());
        }
        let message = format!("You are not authorized to perform {} on {}", ask.action, ask.resource);
        match ask.action.strip_prefix("ebs:") {
            None => Err(Failure::new(403, "UnauthorizedOperation", message)),
            Some(_) => Err(Failure::new(403, "AccessDeniedException", message)),
        }
    }

    /// That the caller may give these tags to what a call makes.
    ///
    /// # Errors
    /// It may not.
    pub fn require_tags(&self, caller: &Caller, call: &str, kind: &str, tags: &Tags) -> Result<(), Failure> {
        if tags.is_empty() {
            return Ok(());
        }
        let context = vec![("ec2:CreateAction", call.to_owned())];
        let ask = Ask::of("ec2:CreateTags", self.arn(kind, "*"));
        self.require(caller, &Ask { request_tags: Some(tags), context, ..ask })
    }

    /// Notes what was called, and how it ended.
    pub fn note(&self, by: &str, action: &str, error: Option<String>) {
        let mut state = self.state();
        state.calls.push_back(Call { by: by.to_owned(), action: action.to_owned(), error });
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
            let later = Duration::from_millis(self.random(most));
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

    /// When a token that is given now expires.
    pub fn tokens_expire_at(&self) -> Timestamp {
        self.after(self.options.token_life)
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
    pub fn token(&self, purpose: &str, means: &str) -> String {
        let expires = self.tokens_expire_at().as_unix_milliseconds();
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
        self.token(&format!("block {snapshot}"), &number.to_string())
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
        // The subnets here are of 256 addresses.
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

    /// Holds an instance's guest.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn hold(&self, state: &State, id: &str) -> Result<Held, Failure> {
        let guest = state.instances.get(id).and_then(|instance| instance.guest.as_ref());
        let Some(guest) = guest else { return Ok(Held(None)) };
        let mut control = guest.control().map_err(Failure::internal)?;
        control.execute("stop", json!({})).map_err(Failure::internal)?;
        Ok(Held(Some(control)))
    }

    /// What is in a volume now.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn content_of(&self, volume: &Volume) -> Result<Content> {
        Content::of_volume(&volume.file, &volume.newest, &new_file(&self.options.folder)?)
    }

    /// Whether an instance's guest is up.
    pub fn has_booted(&self, instance: &Instance) -> bool {
        !self.options.runs
            || instance
                .guest
                .as_ref()
                .is_some_and(|guest| guest.console().lines_from(0).iter().any(|line| BootReport::parse(line).is_some()))
    }

    /// Notices guests that have turned themselves off.
    pub fn look_after(&self, state: &mut State) {
        for instance in state.instances.values_mut() {
            if instance.state == InstanceState::Running
                && instance.guest.as_mut().is_some_and(|guest| !guest.is_running())
            {
                (instance.state, instance.guest) = (InstanceState::Stopped, None);
            }
        }
    }

    /// Starts an instance that is stopped.
    pub fn start(self: &Arc<Self>, state: &mut State, id: &str) {
        if let Some(instance) = state.instances.get_mut(id).filter(|found| found.state == InstanceState::Stopped) {
            instance.state = InstanceState::Pending;
            self.power_on(id.to_owned());
        }
    }

    /// Makes an instance run that is pending.
    pub fn power_on(self: &Arc<Self>, id: String) {
        let account = Arc::clone(self);
        std::thread::spawn(move || {
            let guest = account.guest_of(&id);
            let mut state = account.state();
            let Some(instance) = state.instances.get_mut(&id) else { return };
            // It may have been terminated before it ran.
            if instance.state != InstanceState::Pending {
                return;
            }
            match guest {
                Ok(guest) => (instance.state, instance.guest) = (InstanceState::Running, guest),
                Err(error) => {
                    eprintln!("{id} does not start: {error:#}");
                    instance.state = InstanceState::Stopped;
                }
            }
        });
    }

    fn guest_of(&self, id: &str) -> Result<Option<Guest>> {
        if !self.options.runs {
            return Ok(None);
        }
        let (folder, mut disks) = {
            let state = self.state();
            let instance = state.instances.get(id).context("it is gone")?;
            let volumes = state.volumes.values().filter(|volume| volume.instance == id);
            let disks: Vec<_> = volumes
                .map(|volume| (volume.device != instance.root_device, volume.device.clone(), volume.file.clone()))
                .collect();
            (instance.folder.clone(), disks)
        };
        disks.sort();
        let disks = disks.into_iter().map(|(_, _, path)| GuestDisk { path, format: DiskFormat::Raw }).collect();
        let options = GuestOptions { name: id.to_owned(), folder, disks, arguments: Vec::new(), stop: Stop::default() };
        Ok(Some(Guest::start(options)?))
    }

    /// Stops an instance: by its power button, or at once.
    pub fn stop(self: &Arc<Self>, state: &mut State, id: &str, forced: bool) {
        let Some(instance) = state.instances.get_mut(id) else { return };
        if !matches!(instance.state, InstanceState::Running | InstanceState::Stopping) {
            return;
        }
        instance.state = InstanceState::Stopping;
        let guest = instance.guest.take();
        self.end(id.to_owned(), guest, forced, InstanceState::Stopping, InstanceState::Stopped);
    }

    /// Ends an instance, with those of its volumes that go with it.
    pub fn terminate(self: &Arc<Self>, state: &mut State, id: &str) {
        let Some(instance) = state.instances.get_mut(id) else { return };
        if instance.state == InstanceState::Terminated {
            return;
        }
        instance.state = InstanceState::ShuttingDown;
        let guest = instance.guest.take();
        self.end(id.to_owned(), guest, true, InstanceState::ShuttingDown, InstanceState::Terminated);
    }

    fn end(self: &Arc<Self>, id: String, guest: Option<Guest>, forced: bool, from: InstanceState, to: InstanceState) {
        let account = Arc::clone(self);
        std::thread::spawn(move || {
            if let Some(mut guest) = guest {
                // A guest that does not obey is turned off after a while.
                if forced || guest.shut_down().is_err() {
                    guest.kill();
                }
            }
            let mut state = account.state();
            let Some(instance) = state.instances.get_mut(&id).filter(|instance| instance.state == from) else { return };
            instance.state = to;
            if to != InstanceState::Terminated {
                return;
            }
            for volume in state.volumes.values_mut().filter(|volume| volume.instance == id) {
                volume.instance.clear();
                if volume.delete_on_termination {
                    // It may be gone already.
                    let _ = std::fs::remove_file(&volume.file);
                }
            }
            state.volumes.retain(|_, volume| !(volume.instance.is_empty() && volume.delete_on_termination));
        });
    }
}
