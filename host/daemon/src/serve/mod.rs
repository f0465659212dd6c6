//! The daemon: it keeps every group of the configuration at its objective, for years.
//!
//! Four hands share a board and a diary. The *loop* gives turns and runs cycles ([`farshore_replication::watch`]). The *keeper* opens
//! the vault and keeps the loop at what the configuration says. The *judge* looks once a second who is late. The *API* answers the
//! command line. Two more look into the vault now and then: what was proven of points, and which runs there are. Who is alerted hears
//! of events from the diary.
//!
//! *Stopping.* With the first SIGTERM or SIGINT no cycle begins any more; those that run have the configuration's `drain-limit` to become
//! points, and are then ended, their captures released. The second ends the process at once, which costs no more than a crash does.
//!
//! *A crash, and another version.* What a cycle needs to go on after it is in its capture's journal and in the vault. The state file is for
//! people: without it nothing is lost.

pub mod diary;
pub mod events;

mod alarms;
mod api;
mod cycle_span;
mod heard;
mod judge;
mod keeper;
mod metrics;
mod proofs;
mod runs;
mod socket;
mod tcp;
mod traces;

use std::{sync::Arc, time::Duration};

use farshore_replication::{Board, Schedule, Stop, orders, watch};
use farshore_state::{Severity, State};
use sd_notify::NotifyState;
use serde_json::json;
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub use self::proofs::{Proven, proven};
use self::{
    alarms::Alarms,
    api::{LAST_ANSWERS_MAX, Served},
    diary::{Diary, Kept},
    heard::Loop,
    judge::Judge,
    keeper::{Keeper, Known, Wanted},
    runs::RunsView,
    socket::{Lock, Socket},
    tcp::{Identity, TlsListener},
    traces::Traces,
};
use crate::{
    command::state_folder,
    config::{Configuration, format_duration},
    context::Context,
    output::Failure,
};

/// The state file, in the state folder.
pub const STATE_FILE: &str = "farshore.db";
/// Cycles that were told to end, and do not, are left after so long: a request to a store that does not answer may take minutes.
const END_MAX: Duration = Duration::from_secs(30);
/// Reloads that wait, at most.
const RELOADS_MAX: usize = 16;

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// What keeps it from beginning.
pub async fn run(context: &Context) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let folder = state_folder(&configuration)?;
    let _lock = Lock::take(&folder)?;
    let mut socket = Socket::listen(configuration.socket())?;
    let identity = Identity::read(context, &configuration)?;
    let tcp = match (&configuration.host.listen, &identity) {
        (Some(listen), Some(identity)) => {
            Some(TlsListener::bind(listen.address, identity.clone(), Arc::clone(&context.clock)).await?)
        }
        _ => None,
    };
    // A diary that cannot be kept is no reason to stop protecting machines.
    let opened = State::open(&folder.join(STATE_FILE));
    let (state, aside, unusable) = match opened {
        Ok(opened) => (Some(Arc::new(opened.state)), opened.set_aside, None),
        Err(error) => (None, None, Some(Failure::from(error))),
    };
    let alarms = Arc::new(Alarms::default());
    let made = alarms::make(context, &configuration)?;
    let (traces, collector) = (Arc::new(Traces::default()), traces::make(context, &configuration)?);
    let (kept, writing) = Kept::new(context.output, Arc::clone(&context.clock), state.clone());
    alarms.replace(made, &kept, &context.clock);
    traces.replace(collector, &kept, context);
    let diary = Diary::new(kept.clone(), Arc::clone(&alarms), Arc::clone(&traces));
    let told = Told { diary: diary.clone(), kept, alarms: Arc::clone(&alarms), traces: Arc::clone(&traces) };
    let doors = Doors { socket: socket.listener.take(), tcp, identity };
    let begun = began(&diary, &configuration, &socket);
    if let Some(aside) = aside {
        let aside = aside.display().to_string();
        let text = format!("the state file was damaged, and is now {aside}: cycles and events before now are there");
        diary.tell(events::DIARY_SET_ASIDE, Severity::Warning, None, text, json!({ "file": aside }));
    }
    if let Some(failure) = unusable {
        let text = format!("what happens is not kept: [{}] {}", failure.code, failure.in_a_line());
        diary.tell(events::DIARY_UNUSABLE, Severity::Error, None, text, json!({ "code": failure.code }));
    }
    let result = match begun {
        Ok(hangups) => work(context, configuration, doors, state, told, hangups).await,
        Err(failure) => Err(failure),
    };
    if let Ok(are_left) = &result {
        let text = if *are_left { "cycles are left as they are" } else { "all cycles have ended" };
        diary.tell(events::DAEMON_STOPPED, Severity::Info, None, text.to_owned(), json!({ "cycles_left": are_left }));
    }
    tokio::join!(alarms.end(), traces.end());
    writing.end(&*context.clock).await;
    result.map(|_| ())
}

/// Tells that the daemon has begun, and listens for SIGHUP.
fn began(diary: &Diary, configuration: &Configuration, socket: &Socket) -> Result<mpsc::Receiver<()>, Failure> {
    let mut hangup = signal(SignalKind::hangup()).map_err(|source| crate::error::CliError::Runtime { source })?;
    let (sender, hangups) = mpsc::channel(1);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // One that waits already is as good as two.
            let _ = sender.try_send(());
        }
    });
    let groups = configuration.served_groups().count();
    let text = format!(
        "version {}, {groups} group{}, listening at {}",
        env!("CARGO_PKG_VERSION"),
        if groups == 1 { "" } else { "s" },
        socket.path.display()
    );
    diary.tell(events::DAEMON_STARTED, Severity::Info, None, text, json!({ "groups": groups }));
    Ok(hangups)
}

/// Where it is asked.
struct Doors {
    socket: Option<UnixListener>,
    tcp: Option<TlsListener>,
    identity: Option<Identity>,
}

impl Doors {
    /// Answers at all of them until `end` is cancelled. What is served may change hands meanwhile.
    fn open(self, served: &Arc<Served>, end: &CancellationToken) -> JoinSet<std::io::Result<()>> {
        let mut answering = JoinSet::new();
        if let Some(listener) = self.socket {
            answering.spawn(api::serve(listener, Arc::clone(served), end.clone()));
        }
        if let (Some(listener), Some(identity)) = (self.tcp, self.identity) {
            answering.spawn(api::serve_others(listener, identity, Arc::clone(served), end.clone()));
        }
        answering
    }
}

/// Where it tells what happens.
#[derive(Clone)]
struct Told {
    diary: Diary,
    kept: Kept,
    alarms: Arc<Alarms>,
    traces: Arc<Traces>,
}

/// Works until the daemon is told to stop. Whether cycles are left that did not end.
async fn work(
    context: &Context,
    configuration: Configuration,
    doors: Doors,
    state: Option<Arc<State>>,
    told: Told,
    hangups: mpsc::Receiver<()>,
) -> Result<bool, Failure> {
    let (diary, clock) = (&told.diary, Arc::clone(&context.clock));
    let board = Arc::new(Board::new(Arc::clone(&clock)));
    let known = Arc::new(Known::new(&configuration, clock.now()));
    let runs = Arc::<RunsView>::default();
    let judge = Judge::new(&board, diary, &clock);
    let (orders_sender, orders) = orders();
    let (reloads_sender, asked) = mpsc::channel(RELOADS_MAX);
    let end_answers = CancellationToken::new();
    let served = Arc::new(Served {
        board: Arc::clone(&board),
        diary: diary.clone(),
        state: state.clone(),
        runs: Arc::clone(&runs),
        known: Arc::clone(&known),
        judge: Arc::clone(&judge),
        clock: Arc::clone(&clock),
        orders: orders_sender.clone(),
        reloads: reloads_sender,
        started_at: clock.now(),
        stop: context.stop.clone(),
    });
    let identity = doors.identity.clone();
    let mut answering = doors.open(&served, &end_answers);
    let judging = tokio::spawn(async move { judge.look().await });
    let schedule = Schedule::new(configuration.host.concurrent_cycles.into());
    let drain_limit = configuration.host.drain_limit;
    let keeper = Keeper {
        context,
        configuration,
        board: Arc::clone(&board),
        told: told.clone(),
        identity,
        known,
        state,
        runs,
        orders: orders_sender,
        refused: None,
        modified: None,
    };
    let keeping = async {
        let kept = tokio::select! {
            biased;
            () = context.stop.cancelled() => Ok(()),
            kept = keeper.run(Wanted { asked, hangups }) => kept,
        };
        // What the operator has to mend ends everything.
        context.stop.cancel();
        kept
    };
    let heard = Loop::new(board, diary.clone(), Arc::clone(&clock));
    let stop = Stop { begin_no_more: context.stop.clone(), end_now: CancellationToken::new() };
    let replicating = async {
        watch(orders, schedule, &*clock, &heard, &stop).await;
    };
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let kept = tokio::select! {
        // That it stops is told before it has stopped.
        biased;
        () = drain(context, diary, drain_limit, &stop.end_now) => Ok(true),
        (kept, ()) = async { tokio::join!(keeping, replicating) } => kept.map(|()| false),
    };
    judging.abort();
    end_answers.cancel();
    tokio::select! {
        () = async { while answering.join_next().await.is_some() {} } => {}
        () = clock.sleep(LAST_ANSWERS_MAX) => {}
    }
    kept
}

/// Once the daemon is told to stop: lets cycles that run go on for a while, then ends them. It returns only if they do not end then.
async fn drain(context: &Context, diary: &Diary, limit: Duration, end_now: &CancellationToken) {
    context.stop.cancelled().await;
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    let text = format!("no cycle begins any more; those that run have {}", format_duration(limit));
    diary.tell(events::DAEMON_STOPPING, Severity::Info, None, text, json!({}));
    context.clock.sleep(limit).await;
    end_now.cancel();
    context.clock.sleep(END_MAX).await;
    // As after a crash: the next cycle of each group finds what is left.
    let text =
        "cycles that wait for a platform or a store are left as they are; the next of each group goes on".to_owned();
    diary.tell(events::DAEMON_STOPPING, Severity::Warning, None, text, json!({}));
}
