//! Who keeps the loop at what the configuration says: opens the vault, makes what replicates each group, and takes the file when it
//! changes.
//!
//! *Nothing is given up.* A vault that cannot be opened, and a site whose component cannot be used, are tried again; meanwhile all else
//! goes on, and what is not replicated gets late and is told.
//!
//! *A file is taken whole or not at all.* All of it is checked, with the adapters of all sites that this host serves, before any of it
//! counts. What only a restart changes refuses the file, so that it never says something else than what happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use farshore_core::{GroupName, SiteName, Timestamp};
use farshore_replication::{Board, FailingMachine, Newest, Order, Replicator, Turns, Watched};
use farshore_state::{Severity, State};
use farshore_vault::Vault;
use futures::{StreamExt as _, stream};
use sd_notify::NotifyState;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::{
    Told,
    alarms::{self, Made},
    events,
    heard::Cycles,
    proofs,
    runs::{Looker, RunsView},
    tcp::Identity,
    traces,
};
use crate::{
    api::{ConfigurationStatus, ReloadReport},
    config::{
        Configuration, Group,
        difference::{Difference, differences},
    },
    context::Context,
    engine::{Engine, GROUPS_ASKED_AT_ONCE, application, newest, site_limits, turns},
    error::CliError,
    output::{Failure, Status},
};

/// How often what cannot be used is tried again, and the file looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const RETRY_EVERY: Duration = Duration::from_secs(30);
/// Keys that a running daemon does not change; the first, only while the vault is not open.
const FIXED_WITH_VAULT: usize = 1;
const FIXED: [&str; 8] = [
    "vault.",
    "host.state-folder",
    "host.cache-folder",
    "host.worker-threads",
    "host.drain-limit",
    "host.socket",
    "host.listen.address",
    "host.spool.folder",
];

/// Keys among them that it does change, if there was a limit when it began.
const BANDWIDTH: &str = "vault.bandwidth.";

/// Somebody who wants the file to be taken now, and waits.
pub type ReloadAsked = oneshot::Sender<Result<ReloadReport, Failure>>;

/// What others may know of the configuration and of what is waited for.
pub struct Known {
    inner: Mutex<Inner>,
}

struct Inner {
    configuration: ConfigurationStatus,
    /// The sites that this host serves.
    sites: BTreeSet<SiteName>,
    /// Why the vault is not open.
    vault: Option<String>,
    /// Why groups cannot be replicated.
    unusable: BTreeMap<GroupName, String>,
}

impl Known {
    /// Of a configuration that was just read.
    pub fn new(configuration: &Configuration, at: Timestamp) -> Self {
        let file = configuration.file().to_owned();
        let sites = served_sites(configuration);
        let configuration = ConfigurationStatus { file, taken_at: at, refused: None };
        let vault = Some("it has not been opened yet".to_owned());
        Self { inner: Mutex::new(Inner { configuration, sites, vault, unusable: BTreeMap::new() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration that counts.
    pub fn configuration(&self) -> ConfigurationStatus {
        self.lock().configuration.clone()
    }

    /// Why not all is replicated that should be.
    pub fn waits_for(&self) -> Vec<String> {
        let inner = self.lock();
        let vault = inner.vault.iter().map(|why| format!("the vault: {why}"));
        vault.chain(inner.unusable.iter().map(|(group, why)| format!("group {group}: {why}"))).collect()
    }

    /// Whether a site is in the configuration, and this host serves it.
    pub fn serves(&self, site: &SiteName) -> bool {
        self.lock().sites.contains(site)
    }

    /// Whether the vault is open.
    pub fn is_open(&self) -> bool {
        self.lock().vault.is_none()
    }
}

fn served_sites(configuration: &Configuration) -> BTreeSet<SiteName> {
    configuration.sites.keys().filter(|site| configuration.serves(site)).cloned().collect()
}

/// Keeps the loop at what the configuration says.
pub struct Keeper<'a> {
    pub context: &'a Context,
    pub configuration: Configuration,
    pub board: Arc<Board>,
    pub told: Told,
    pub identity: Option<Identity>,
    pub known: Arc<Known>,
    /// None if it cannot be used.
    pub state: Option<Arc<State>>,
    pub runs: Arc<RunsView>,
    pub orders: mpsc::Sender<Order>,
    /// What was refused last, if it was not mended since.
    pub refused: Option<Refused>,
    /// What the system said of the file when it was looked at last. None before: it may have changed since it was read.
    pub modified: Option<(SystemTime, u64)>,
}

/// The text of a file that was refused; none if it could not be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(Option<String>);

/// Who wants the file to be taken.
pub struct Wanted {
    /// Through the API.
    pub asked: mpsc::Receiver<ReloadAsked>,
    /// By SIGHUP.
    pub hangups: mpsc::Receiver<()>,
}

/// A configuration in which nothing is wrong, and what it makes.
struct Accepted {
    configuration: Configuration,
    /// None while nothing is replicated.
    engine: Option<Engine>,
    alarms: Vec<Made>,
    traces: Option<traces::Made>,
}

impl Keeper<'_> {
    /// Works until it is dropped, which may be at any moment.
    ///
    /// # Errors
    /// When the vault cannot be opened because of what the operator wrote or did not give.
    pub async fn run(mut self, mut wanted: Wanted) -> Result<(), Failure> {
        self.show_groups();
        let mut engine = self.open(&mut wanted).await?;
        let (vault, board) = (Arc::clone(&engine.vault), Arc::clone(&self.board));
        let (clock, stop) = (Arc::clone(&self.context.clock), self.context.stop.clone());
        tokio::spawn(async move { proofs::look(&vault, &board, &*clock, &stop).await });
        self.look_at_runs(&engine);
        self.limit().await;
        self.protect(&mut engine, self.served()).await;
        let mut retried_at = self.context.clock.monotonic();
        loop {
            self.wait_and_reload(&mut wanted, LOOK_EVERY, Some(&mut engine)).await;
            let now = self.context.clock.monotonic();
            if now.saturating_sub(retried_at) >= RETRY_EVERY {
                retried_at = now;
                if self.refused.is_some() {
                    // What it names may be there by now.
                    let _ = self.reload(Some(&mut engine)).await;
                }
                self.retry(&mut engine).await;
            }
        }
    }

    /// Keeps the view of the vault's runs from now on.
    fn look_at_runs(&self, engine: &Engine) {
        let Some(state) = &self.state else { return };
        let (vault, state, view) = (Arc::clone(&engine.vault), Arc::clone(state), Arc::clone(&self.runs));
        let (diary, known) = (self.told.diary.clone(), Arc::clone(&self.known));
        let (clock, stop) = (Arc::clone(&self.context.clock), self.context.stop.clone());
        let looker = Looker::new(vault, state, view, diary, known, clock);
        tokio::spawn(async move { looker.look(&stop).await });
    }

    /// Waits for so long, or until somebody wants the file to be taken; takes it then, or if it was changed.
    async fn wait_and_reload(&mut self, wanted: &mut Wanted, length: Duration, engine: Option<&mut Engine>) {
        tokio::select! {
            biased;
            Some(answer) = wanted.asked.recv() => {
                let taken = self.reload(engine).await;
                let _ = answer.send(taken);
            }
            Some(()) = wanted.hangups.recv() => {
                // What came of it is told as an event.
                let _ = self.reload(engine).await;
            }
            () = self.context.clock.sleep(length) => {
                let now = self.modified();
                if now != self.modified {
                    self.modified = now;
                    let _ = self.reload(engine).await;
                }
            }
        }
    }

    /// Tries again what could not be used, and asks again what was not known.
    async fn retry(&self, engine: &mut Engine) {
        let unusable: Vec<GroupName> = self.known.lock().unusable.keys().cloned().collect();
        let groups = self.served().into_iter().filter(|(name, _)| unusable.contains(name)).collect();
        self.protect(engine, groups).await;
        let asking = stream::iter(self.board.unknown()).map(|group| {
            let (board, vault, clock) = (&self.board, &engine.vault, &self.context.clock);
            async move { board.read(&group, newest(vault, &group, &**clock).await) }
        });
        asking.buffer_unordered(GROUPS_ASKED_AT_ONCE).collect::<Vec<()>>().await;
    }

    fn served(&self) -> Vec<(GroupName, Group)> {
        self.configuration.served_groups().map(|(name, group)| (name.clone(), group.clone())).collect()
    }

    fn show_groups(&self) {
        for (name, group) in self.configuration.served_groups() {
            self.board.put(name, &group.site, group.rpo, self.configuration.blackout(group));
            let may_be_suspended = match group.failing_machine {
                FailingMachine::StopGroup => &[][..],
                FailingMachine::Suspend => &group.machines,
            };
            self.board.keep_machines(name, may_be_suspended);
        }
    }

    /// What the system says of the file, as long as it stays the same; reading it is for when it does not.
    fn modified(&self) -> Option<(SystemTime, u64)> {
        let metadata = std::fs::metadata(self.configuration.file()).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    }

    /// Opens the vault, however long that takes. A file that is changed meanwhile is taken, with another vault too.
    async fn open(&mut self, wanted: &mut Wanted) -> Result<Engine, Failure> {
        let mut was_told = false;
        loop {
            let failure = match Engine::open(self.context, &self.configuration).await {
                Ok(engine) => {
                    self.known.lock().vault = None;
                    let text = format!("{} is open", self.configuration.vault.address);
                    // At a start that goes well nobody has to hear of it.
                    let trouble = if was_told { Severity::Error } else { Severity::Info };
                    let details = json!({ "vault": engine.vault.id() });
                    self.told.diary.tell_end(trouble, events::VAULT_OPENED, None, text, details);
                    return Ok(engine);
                }
                // Waiting mends no mistake of the operator's.
                Err(failure) if failure.status == Status::Usage && !was_told => return Err(failure),
                Err(failure) => failure,
            };
            let why = format!("[{}] {}", failure.code, failure.in_a_line());
            if self.known.lock().vault.replace(why.clone()).as_ref() != Some(&why) {
                was_told = true;
                let details = json!({ "code": failure.code });
                self.told.diary.tell(events::VAULT_UNREACHABLE, Severity::Error, None, why, details);
            }
            self.wait_and_reload(wanted, RETRY_EVERY, None).await;
        }
    }

    async fn order(&self, order: Order) {
        // The loop ends before this does only when the daemon stops.
        let _ = self.orders.send(order).await;
    }

    async fn limit(&self) {
        let concurrent_cycles = self.configuration.host.concurrent_cycles.into();
        self.order(Order::Limit { concurrent_cycles, sites: site_limits(&self.configuration) }).await;
    }

    /// Gives the loop what replicates these groups. Those that cannot be replicated are told, and tried again later.
    async fn protect(&self, engine: &mut Engine, groups: Vec<(GroupName, Group)>) {
        let mut usable = Vec::new();
        for (name, group) in groups {
            let cycles = Arc::new(Cycles::new(&name, &self.board, &self.told.diary, &self.context.clock));
            match engine.replicator(&self.configuration, &name, &group, cycles).await {
                Ok(replicator) => {
                    self.can(&name);
                    usable.push((name, group, replicator));
                }
                Err(failure) => self.cannot(&name, &failure),
            }
        }
        let vault = &engine.vault;
        let giving = stream::iter(usable).map(|(name, group, replicator)| self.give(vault, name, group, replicator));
        giving.buffer_unordered(GROUPS_ASKED_AT_ONCE).collect::<Vec<()>>().await;
    }

    async fn give(&self, vault: &Vault, name: GroupName, group: Group, replicator: Replicator) {
        let clock = &*self.context.clock;
        let asking = async {
            // What is known already only gets better by cycles.
            match self.board.knows(&name) {
                true => Newest::Unknown,
                false => newest(vault, &name, clock).await,
            }
        };
        let (newest, application) = tokio::join!(asking, application(vault, &name, &group, clock));
        let newest_age = match &newest {
            Newest::Point(point) => Some(clock.now().since(point.captured_at)),
            Newest::None => None,
            // Its cycle will tell why. Until then it is no first copy.
            Newest::Unknown => Some(Duration::ZERO),
        };
        self.board.read(&name, newest);
        let turns = Turns { newest_age, ..turns(&group) };
        let blackout = self.configuration.blackout(&group);
        self.order(Order::Protect(Box::new(Watched { replicator, turns, application, blackout }))).await;
    }

    fn can(&self, group: &GroupName) {
        if self.known.lock().unusable.remove(group).is_some() {
            let text = "it can be replicated again".to_owned();
            self.told.diary.tell_end(Severity::Error, events::GROUP_USABLE, Some(group), text, json!({}));
        }
    }

    fn cannot(&self, group: &GroupName, failure: &Failure) {
        let why = format!("[{}] {}", failure.code, failure.in_a_line());
        let before = self.known.lock().unusable.insert(group.clone(), why.clone());
        if before.as_ref() != Some(&why) {
            let details = json!({ "code": failure.code });
            self.told.diary.tell(events::GROUP_UNUSABLE, Severity::Error, Some(group), why, details);
        }
    }

    /// Takes the file as it is now, or refuses it. Without an engine nothing is replicated yet.
    async fn reload(&mut self, engine: Option<&mut Engine>) -> Result<ReloadReport, Failure> {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            let _ = sd_notify::notify(&[NotifyState::Reloading, now]);
        }
        let taken = match self.examine(engine.as_deref()).await {
            Ok(Some(accepted)) => Ok(self.take(accepted, engine).await),
            Ok(None) => Ok(self.keep()),
            Err(failure) => {
                self.refuse(&failure);
                Err(failure)
            }
        };
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        taken
    }

    /// The file as it is now, with what it makes; none if it is as it was.
    async fn examine(&self, engine: Option<&Engine>) -> Result<Option<Accepted>, Failure> {
        let next = Configuration::load(self.configuration.file())?;
        // Certificates and tokens are in other files, which change when this one does not.
        let identity = Identity::read(self.context, &next)?;
        if next.text() == self.configuration.text() {
            let traces = traces::make(self.context, &next)?;
            self.renew(identity.as_ref());
            self.told.traces.replace(traces, &self.told.kept, self.context);
            return Ok(None);
        }
        let fixed = if engine.is_some() { &FIXED[..] } else { &FIXED[FIXED_WITH_VAULT..] };
        let changed = differences(&self.configuration, &next).into_iter().map(|difference| difference.key);
        // What was opened without any limit has no place for one.
        let may_change = engine.is_some_and(Engine::is_limited);
        let is_fixed = |key: &String| {
            fixed.iter().any(|fixed| key.starts_with(fixed)) && !(may_change && key.starts_with(BANDWIDTH))
        };
        let changed: Vec<String> = changed.filter(is_fixed).collect();
        if !changed.is_empty() {
            return Err(CliError::NeedsRestart { keys: changed.join(", ") }.into());
        }
        let engine = match engine {
            None => None,
            Some(engine) => {
                let mut engine = engine.again(self.context, &next)?;
                for (name, group) in next.served_groups() {
                    let cycles = Arc::new(Cycles::new(name, &self.board, &self.told.diary, &self.context.clock));
                    engine.replicator(&next, name, group, cycles).await?;
                }
                Some(engine)
            }
        };
        let alarms = alarms::make(self.context, &next)?;
        let traces = traces::make(self.context, &next)?;
        self.renew(identity.as_ref());
        Ok(Some(Accepted { configuration: next, engine, alarms, traces }))
    }

    /// Goes by another configuration from now on.
    async fn take(&mut self, accepted: Accepted, engine: Option<&mut Engine>) -> ReloadReport {
        let Accepted { configuration, engine: next_engine, alarms, traces } = accepted;
        let before = std::mem::replace(&mut self.configuration, configuration);
        self.told.alarms.replace(alarms, &self.told.kept, &self.context.clock);
        self.told.traces.replace(traces, &self.told.kept, self.context);
        let is_served = |name: &GroupName| self.configuration.served_groups().any(|(served, _)| served == name);
        {
            let mut inner = self.known.lock();
            inner.configuration.taken_at = self.context.clock.now();
            inner.configuration.refused = None;
            inner.sites = served_sites(&self.configuration);
            inner.unusable.retain(|name, _| is_served(name));
        }
        let gone: Vec<GroupName> =
            before.served_groups().map(|(name, _)| name.clone()).filter(|name| !is_served(name)).collect();
        gone.iter().for_each(|name| self.board.remove(name));
        self.show_groups();
        if let (Some(engine), Some(next)) = (engine, next_engine) {
            *engine = next;
            engine.limit(&self.configuration);
            let limits = self.configuration.vault.bandwidth.limits(&self.configuration.host.time_zone);
            self.context.uploads.set(limits);
            self.limit().await;
            for name in gone {
                self.order(Order::Forget(name)).await;
            }
            // Also those that are as they were: their points carry the file's new text.
            self.protect(engine, self.served()).await;
        }
        let differences = differences(&before, &self.configuration);
        self.tell_taken(&differences);
        ReloadReport { differences }
    }

    fn tell_taken(&mut self, differences: &[Difference]) {
        let lines: String = differences.iter().map(|difference| format!("\n{difference}")).collect();
        let file = self.configuration.file().display();
        let text = match differences.len() {
            0 => format!("{file} was written anew, and means the same"),
            count => format!("{file} differs in {count} key{}:{lines}", if count == 1 { "" } else { "s" }),
        };
        let details = json!({ "differences": differences });
        let trouble = if self.refused.take().is_some() { Severity::Error } else { Severity::Info };
        self.told.diary.tell_end(trouble, events::CONFIGURATION_CHANGED, None, text, details);
    }

    /// The file is as it was.
    fn keep(&mut self) -> ReloadReport {
        self.known.lock().configuration.refused = None;
        if self.refused.take().is_some() {
            let text = format!("{} is again as it was taken", self.configuration.file().display());
            let details = json!({ "differences": [] });
            self.told.diary.tell_end(Severity::Error, events::CONFIGURATION_CHANGED, None, text, details);
        }
        ReloadReport { differences: Vec::new() }
    }

    fn renew(&self, identity: Option<&Identity>) {
        if let (Some(own), Some(read)) = (&self.identity, identity) {
            own.renew(read);
        }
    }

    fn refuse(&mut self, failure: &Failure) {
        let refused = Refused(std::fs::read_to_string(self.configuration.file()).ok());
        let problems: String =
            failure.problems.iter().map(|problem| format!("\n{}", problem.render().trim_end())).collect();
        let why = format!("[{}] {}{problems}", failure.code, failure.in_a_line());
        self.known.lock().configuration.refused = Some(why.clone());
        if self.refused.as_ref() != Some(&refused) {
            self.refused = Some(refused);
            let details = json!({ "code": failure.code });
            let text = format!("the file is not taken, and all goes on as before: {why}");
            self.told.diary.tell(events::CONFIGURATION_REFUSED, Severity::Error, None, text, details);
        }
    }
}
