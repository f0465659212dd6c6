//! Who keeps the loop at what the configuration says: opens the vault, makes what replicates each group, and takes the file when it
//! changes.
//!
//! *Nothing is given up.* A vault that cannot be opened, and a site whose component cannot be used, are tried again; meanwhile all else
//! goes on, and what is not replicated gets late and is told.
//!
//! *A file is taken whole or not at all.* All of it is checked, with the adapters of all sites that this host serves, before any of it
//! counts. What only a restart changes refuses the file, so that it never says something else than what happens.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use farshore_core::{GroupName, Timestamp};
use farshore_replication::{Board, Newest, Order, Replicator, Turns, Watched};
use farshore_state::Severity;
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
    tcp::Identity,
};
use crate::{
    api::{ConfigurationStatus, ReloadReport},
    config::{Configuration, Group, difference::differences},
    context::Context,
    engine::{Engine, GROUPS_ASKED_AT_ONCE, application, newest, site_limits, turns},
    error::CliError,
    output::{Failure, Status},
};

/// How often what cannot be used is tried again, and the file looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const RETRY_EVERY: Duration = Duration::from_secs(30);
/// Keys that a running daemon does not change.
const FIXED: [&str; 7] = [
    "vault.",
    "host.state-folder",
    "host.cache-folder",
    "host.worker-threads",
    "host.drain-limit",
    "host.socket",
    "host.listen.address",
];

/// Somebody who wants the file to be taken now, and waits.
pub type ReloadAsked = oneshot::Sender<Result<ReloadReport, Failure>>;

/// What others may know of the configuration and of what is waited for.
pub struct Known {
    inner: Mutex<Inner>,
}

struct Inner {
    configuration: ConfigurationStatus,
    /// Why the vault is not open.
    vault: Option<String>,
    /// Why groups cannot be replicated.
    unusable: BTreeMap<GroupName, String>,
}

impl Known {
    /// Of a configuration that was just read.
    pub fn new(configuration: &Configuration, at: Timestamp) -> Self {
        let file = configuration.file().to_owned();
        let configuration = ConfigurationStatus { file, taken_at: at, refused: None };
        let vault = Some("it has not been opened yet".to_owned());
        Self { inner: Mutex::new(Inner { configuration, vault, unusable: BTreeMap::new() }) }
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

    /// Whether the vault is open.
    pub fn is_open(&self) -> bool {
        self.lock().vault.is_none()
    }
}

/// Keeps the loop at what the configuration says.
pub struct Keeper<'a> {
    pub context: &'a Context,
    pub configuration: Configuration,
    pub board: Arc<Board>,
    pub told: Told,
    pub identity: Option<Identity>,
    pub known: Arc<Known>,
    pub orders: mpsc::Sender<Order>,
    /// The file's text that was refused last.
    pub refused: Option<String>,
}

impl Keeper<'_> {
    /// Works until it is dropped, which may be at any moment.
    ///
    /// # Errors
    /// When the vault cannot be opened because of what the operator wrote or did not give.
    pub async fn run(
        mut self,
        mut asked: mpsc::Receiver<ReloadAsked>,
        mut hangups: mpsc::Receiver<()>,
    ) -> Result<(), Failure> {
        for (name, group) in self.configuration.served_groups() {
            self.board.put(name, &group.site, group.rpo);
        }
        let mut engine = self.open().await?;
        let (vault, board, clock) =
            (Arc::clone(&engine.vault), Arc::clone(&self.board), Arc::clone(&self.context.clock));
        let stop = self.context.stop.clone();
        tokio::spawn(async move { proofs::look(&vault, &board, &*clock, &stop).await });
        self.limit().await;
        let groups: Vec<(GroupName, Group)> = self.served();
        self.protect(&mut engine, groups).await;
        let mut modified = self.modified();
        let mut retried_at = self.context.clock.monotonic();
        loop {
            tokio::select! {
                biased;
                Some(answer) = asked.recv() => {
                    let taken = self.reload(&mut engine).await;
                    let _ = answer.send(taken);
                }
                Some(()) = hangups.recv() => {
                    // What came of it is told as an event.
                    let _ = self.reload(&mut engine).await;
                }
                () = self.context.clock.sleep(LOOK_EVERY) => {
                    let now = self.modified();
                    if now != modified {
                        modified = now;
                        let _ = self.reload(&mut engine).await;
                    }
                }
            }
            let now = self.context.clock.monotonic();
            if now.saturating_sub(retried_at) >= RETRY_EVERY {
                retried_at = now;
                let unusable: Vec<GroupName> = self.known.lock().unusable.keys().cloned().collect();
                let groups = self.served().into_iter().filter(|(name, _)| unusable.contains(name)).collect();
                self.protect(&mut engine, groups).await;
                let asking = stream::iter(self.board.unknown()).map(|group| {
                    let (board, vault, clock) = (&self.board, &engine.vault, &self.context.clock);
                    async move { board.read(&group, newest(vault, &group, &**clock).await) }
                });
                asking.buffer_unordered(GROUPS_ASKED_AT_ONCE).collect::<Vec<()>>().await;
            }
        }
    }

    fn served(&self) -> Vec<(GroupName, Group)> {
        self.configuration.served_groups().map(|(name, group)| (name.clone(), group.clone())).collect()
    }

    /// What the system says of the file, as long as it stays the same; reading it is for when it does not.
    fn modified(&self) -> Option<(SystemTime, u64)> {
        let metadata = std::fs::metadata(self.configuration.file()).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    }

    /// Opens the vault, however long that takes.
    async fn open(&self) -> Result<Engine, Failure> {
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
                Err(failure) if failure.status == Status::Usage => return Err(failure),
                Err(failure) => failure,
            };
            let why = format!("[{}] {}", failure.code, failure.in_a_line());
            if self.known.lock().vault.replace(why.clone()).as_ref() != Some(&why) {
                was_told = true;
                let details = json!({ "code": failure.code });
                self.told.diary.tell(events::VAULT_UNREACHABLE, Severity::Error, None, why, details);
            }
            self.context.clock.sleep(RETRY_EVERY).await;
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
                    self.known.lock().unusable.remove(&name);
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
        let (newest, application) = tokio::join!(newest(vault, &name, clock), application(vault, &name, &group, clock));
        let newest_age = match &newest {
            Newest::Point(point) => Some(clock.now().since(point.captured_at)),
            Newest::None => None,
            // Its cycle will tell why. Until then it is no first copy.
            Newest::Unknown => Some(Duration::ZERO),
        };
        self.board.read(&name, newest);
        let turns = Turns { newest_age, ..turns(&group) };
        self.order(Order::Protect(Box::new(Watched { replicator, turns, application }))).await;
    }

    fn cannot(&self, group: &GroupName, failure: &Failure) {
        let why = format!("[{}] {}", failure.code, failure.in_a_line());
        let before = self.known.lock().unusable.insert(group.clone(), why.clone());
        if before.as_ref() != Some(&why) {
            let details = json!({ "code": failure.code });
            self.told.diary.tell(events::GROUP_UNUSABLE, Severity::Error, Some(group), why, details);
        }
    }

    /// Takes the file as it is now, or refuses it.
    async fn reload(&mut self, engine: &mut Engine) -> Result<ReloadReport, Failure> {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            let _ = sd_notify::notify(&[NotifyState::Reloading, now]);
        }
        let taken = self.take(engine).await;
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        taken
    }

    async fn take(&mut self, engine: &mut Engine) -> Result<ReloadReport, Failure> {
        let file: PathBuf = self.configuration.file().to_owned();
        let (next, next_engine, alarms) = match self.examine(&file, engine).await {
            Ok(Some(examined)) => examined,
            Ok(None) => {
                self.known.lock().configuration.refused = None;
                self.refused = None;
                return Ok(ReloadReport { differences: Vec::new() });
            }
            Err(failure) => {
                self.refuse(&file, &failure);
                return Err(failure);
            }
        };
        let differences = differences(&self.configuration, &next);
        let before = std::mem::replace(&mut self.configuration, next);
        *engine = next_engine;
        self.told.alarms.replace(alarms, &self.told.kept, &self.context.clock);
        let was_refused = self.refused.take().is_some();
        {
            let mut inner = self.known.lock();
            inner.configuration.taken_at = self.context.clock.now();
            inner.configuration.refused = None;
            inner.unusable.retain(|name, _| self.configuration.groups.contains_key(name));
        }
        self.limit().await;
        for (name, _) in before.served_groups() {
            if !self.configuration.served_groups().any(|(now, _)| now == name) {
                self.board.remove(name);
                self.order(Order::Forget(name.clone())).await;
            }
        }
        for (name, group) in self.configuration.served_groups() {
            self.board.put(name, &group.site, group.rpo);
        }
        // Also those that are as they were: their points carry the file's new text.
        self.protect(engine, self.served()).await;
        let lines: String = differences.iter().map(|difference| format!("\n{difference}")).collect();
        let text = match differences.len() {
            0 => format!("{} was written anew, and means the same", file.display()),
            count => format!("{} differs in {count} key{}:{lines}", file.display(), if count == 1 { "" } else { "s" }),
        };
        let details = json!({ "differences": differences });
        let trouble = if was_refused { Severity::Error } else { Severity::Info };
        self.told.diary.tell_end(trouble, events::CONFIGURATION_CHANGED, None, text, details);
        Ok(ReloadReport { differences })
    }

    /// The file as it is now, with what it makes; none if it is as it was.
    async fn examine(
        &self,
        file: &std::path::Path,
        engine: &Engine,
    ) -> Result<Option<(Configuration, Engine, Vec<Made>)>, Failure> {
        let next = Configuration::load(file)?;
        // Certificates and tokens are in other files, which change when this one does not.
        let identity = Identity::read(self.context, &next)?;
        if next.text() == self.configuration.text() {
            self.renew(identity.as_ref());
            return Ok(None);
        }
        let fixed = differences(&self.configuration, &next).into_iter().map(|difference| difference.key);
        let fixed: Vec<String> = fixed.filter(|key| FIXED.iter().any(|fixed| key.starts_with(fixed))).collect();
        if !fixed.is_empty() {
            return Err(CliError::NeedsRestart { keys: fixed.join(", ") }.into());
        }
        let mut engine = Engine::of(self.context, &next, Arc::clone(&engine.vault))?;
        for (name, group) in next.served_groups() {
            let cycles = Arc::new(Cycles::new(name, &self.board, &self.told.diary, &self.context.clock));
            engine.replicator(&next, name, group, cycles).await?;
        }
        let alarms = alarms::make(self.context, &next)?;
        self.renew(identity.as_ref());
        Ok(Some((next, engine, alarms)))
    }

    fn renew(&self, identity: Option<&Identity>) {
        if let (Some(own), Some(read)) = (&self.identity, identity) {
            own.renew(read);
        }
    }

    fn refuse(&mut self, file: &std::path::Path, failure: &Failure) {
        let text = std::fs::read_to_string(file).ok();
        let problems: String =
            failure.problems.iter().map(|problem| format!("\n{}", problem.render().trim_end())).collect();
        let why = format!("[{}] {}{problems}", failure.code, failure.in_a_line());
        self.known.lock().configuration.refused = Some(why.clone());
        if self.refused.is_some() && self.refused == text {
            return;
        }
        self.refused = text;
        let details = json!({ "code": failure.code });
        let text = format!("the file is not taken, and all goes on as before: {why}");
        self.told.diary.tell(events::CONFIGURATION_REFUSED, Severity::Error, None, text, details);
    }
}
