//! Who lives in a world: each actor is one host's work, done by processes that die and start again.
//!
//! An actor is what outlives its processes: what is still to be done, and the guest at its site. A process knows only what
//! it learnt since its start. Actors use nothing of the vault but its public interface.

pub mod controller;
pub mod pruner;
pub mod recoverer;
pub mod replicator;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use farshore_vault::{Context, Error, Vault};
use futures::future::{Either, select};

use crate::{
    checkers::liveness,
    dice::Dice,
    faults::GetFault,
    history::Progress,
    process::{Kill, Process},
    template::{Host, Template},
    world::{Phase, World},
};

/// How long it takes at most until a dead process is started again.
const RESTART_MAX: Duration = Duration::from_secs(3600);

/// How long an actor waits before it tries again after the faults.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// After so many failures in a row a process opens the vault anew.
const FAILURES_BEFORE_REOPENING: u32 = 3;

/// One host's work.
#[async_trait]
pub trait Actor: Send + Sync + 'static {
    /// Its host.
    fn host(&self) -> Host;

    /// Does its work as this process, until the world is over.
    async fn run(&self, desk: &mut Desk);
}

/// What a process works with.
pub struct Desk {
    /// The world.
    pub world: World,
    /// The vault's template.
    pub template: Arc<Template>,
    /// The host.
    pub host: Host,
    /// The process.
    pub process: Arc<Process>,
    /// What this process decides by.
    pub dice: Dice,
    /// The host's clock and randomness, as this process has them.
    pub context: Context,
    vault: Option<Vault>,
}

impl Desk {
    /// The desk of a process that has just started.
    pub fn new(world: &World, template: &Arc<Template>, host: Host, process: &Arc<Process>) -> Self {
        Self {
            world: world.clone(),
            template: Arc::clone(template),
            host,
            process: Arc::clone(process),
            dice: world.dice(&format!("decisions of {}", process.name())),
            context: world.context(&host.name(), process),
            vault: None,
        }
    }

    /// The vault, opened the first time.
    ///
    /// # Errors
    /// The vault's.
    pub async fn vault(&mut self) -> Result<Vault, Error> {
        if let Some(vault) = &self.vault {
            return Ok(vault.clone());
        }
        let vault = self.template.open(&self.world, self.host, &self.process, self.context.clone()).await?;
        self.vault = Some(vault.clone());
        Ok(vault)
    }

    /// The vault is opened anew the next time.
    pub fn close(&mut self) {
        self.vault = None;
    }

    /// Remembers an error; what no store can be the cause of must never be.
    pub fn note(&self, error: &Error) {
        let text = error.to_string();
        let may_be = match error {
            Error::Store { .. }
            | Error::Fenced { .. }
            | Error::LostRace { .. }
            | Error::RunRace { .. }
            | Error::RunGap { .. }
            | Error::RunMissing { .. } => true,
            // What a reader or a writer that stood still looks for may have been dropped, and be gone. Whether it was
            // is for the checkers, and the recoverer looks again at once. Who reads and writes no disks is not told so.
            Error::PointMissing { .. } if self.is_pruned() => true,
            Error::ObjectMissing { .. } if self.is_pruned() && self.handles_content() => true,
            // On one and the same commit a name can come again, and the store tells.
            Error::Stopped { .. } if self.world.plan().repeats_randomness => true,
            // A body that was cut without a word looks like damage; nothing else may.
            Error::Damaged { .. } | Error::ObjectMissing { .. } | Error::Stopped { .. } => {
                self.world.plan().get.contains(&GetFault::Truncated)
            }
            _ => false,
        };
        let mut history = self.world.history();
        if !may_be {
            history.impossible.push(format!("{} was told: {text}", self.process.name()));
        }
        history.note_error(text);
    }

    /// Whether this host reads or writes the content of points.
    const fn handles_content(&self) -> bool {
        matches!(self.host, Host::Replicator(_) | Host::Recoverer)
    }

    /// Whether anybody has begun a prune.
    fn is_pruned(&self) -> bool {
        !self.world.history().prunes.is_empty()
    }

    /// Waits between two rounds: seconds in some worlds, days in others.
    pub async fn pause(&self) {
        let scale = self.world.pace_seconds();
        let most = if self.dice.permille(300) { scale * 10 } else { scale };
        self.world.time().sleep(Duration::from_millis(self.dice.below(most * 1000))).await;
    }

    /// Does nothing in the phases that are left.
    pub async fn idle(&self) {
        loop {
            let phase = self.world.phase();
            if phase == Phase::Over {
                return;
            }
            self.world.arrive(&self.host.name(), phase).await;
        }
    }
}

/// Something that an actor must get done after the faults. Nothing goes wrong any more, so it must not take long.
#[derive(Debug)]
pub struct Trying {
    what: String,
    began: Duration,
    failures: u32,
    error: String,
}

impl Trying {
    /// Begins to count the time.
    pub fn begin(desk: &Desk, what: String) -> Self {
        Self { what, began: desk.world.time().now(), failures: 0, error: String::new() }
    }

    /// Judges a try, which may have found that there was nothing that it could do: whether another shall follow.
    pub async fn again(&mut self, desk: &mut Desk, outcome: Result<bool, Error>) -> bool {
        let took = desk.world.time().now().saturating_sub(self.began);
        let is_done = matches!(outcome, Ok(true));
        match outcome {
            Ok(true) => {}
            Ok(false) => "there was nothing that it could do".clone_into(&mut self.error),
            Err(error) => {
                desk.note(&error);
                self.error = error.to_string();
            }
        }
        if is_done || took > liveness::LIMIT {
            let took = is_done.then_some(took);
            let (actor, what, error) = (desk.host.name(), self.what.clone(), self.error.clone());
            desk.world.history().progress.push(Progress { actor, what, took, error });
            return false;
        }
        self.failures += 1;
        if self.failures.is_multiple_of(FAILURES_BEFORE_REOPENING) {
            desk.close();
        }
        desk.world.time().sleep(RETRY_PAUSE).await;
        true
    }
}

/// Keeps an actor at work: starts its processes, and starts another when one has died.
pub async fn supervise(world: World, template: Arc<Template>, actor: Arc<dyn Actor>, first: Option<Kill>) {
    let name = actor.host().name();
    let dice = world.dice(&format!("supervisor of {name}"));
    let mut kill = first;
    for number in 1_u64.. {
        let process = Process::start(format!("{name}.{number}"), kill.take());
        let mut desk = Desk::new(&world, &template, actor.host(), &process);
        let work = Arc::clone(&actor);
        let task = tokio::spawn(async move { work.run(&mut desk).await });
        if world.plan().dies_any_time {
            spawn_reaper(&world, &name, &process, &dice);
        }
        let death = std::pin::pin!(process.death());
        match select(task, death).await {
            Either::Left((Ok(()), _)) => return,
            Either::Left((Err(error), _)) => {
                world.history().impossible.push(format!("{} ended: {error}", process.name()));
                return;
            }
            Either::Right(((), task)) => {
                task.abort();
                world.totals().crashes += 1;
                let until_restart =
                    Duration::from_millis(dice.below(u64::try_from(RESTART_MAX.as_millis()).unwrap_or(1)));
                world.time().sleep(until_restart).await;
            }
        }
    }
}

/// Kills a process at some moment of its life, unless it has done its part by then.
fn spawn_reaper(world: &World, name: &str, process: &Arc<Process>, dice: &Dice) {
    let scale_milliseconds = *dice.pick(&[1_000, 60_000, 3_600_000, 86_400_000]);
    let lives = Duration::from_millis(dice.below(scale_milliseconds));
    if !dice.permille(400) {
        return;
    }
    let (world, name, process) = (world.clone(), name.to_owned(), Arc::clone(process));
    tokio::spawn(async move {
        world.time().sleep(lives).await;
        if world.has_faults() && !world.has_arrived(&name) {
            process.kill();
        }
    });
}
