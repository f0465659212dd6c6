//! The daemon: it keeps every group of the configuration at its objective, for years.
//!
//! Four hands share a board and a diary. The *loop* gives turns and runs cycles ([`farshore_replication::watch`]). The *keeper* opens
//! the vault and keeps the loop at what the configuration says. The *judge* looks once a second who is late. The *API* answers the
//! command line. Who is alerted hears of events from the diary.
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
mod heard;
mod keeper;
mod metrics;
mod proofs;
mod socket;
mod tcp;

use std::{sync::Arc, time::Duration};

use farshore_replication::{Board, Judged, Schedule, Stop, orders, watch};
use farshore_state::{Severity, State};
use serde_json::json;
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub use self::proofs::newest_proven;
use self::{
    alarms::Alarms,
    api::{LAST_ANSWERS_MAX, Served},
    diary::{Diary, Kept},
    heard::Loop,
    keeper::{Keeper, Known},
    socket::{Lock, Socket},
    tcp::{Identity, TlsListener},
};
use crate::{
    command::state_folder,
    config::{Configuration, format_duration},
    context::Context,
    output::{Failure, human},
};

/// The state file, in the state folder.
pub const STATE_FILE: &str = "farshore.db";
/// How often the judge looks.
const JUDGE_EVERY: Duration = Duration::from_secs(1);
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
    let opened = State::open(&folder.join(STATE_FILE))?;
    let mut socket = Socket::listen(configuration.socket())?;
    let identity = Identity::read(context, &configuration)?;
    let tcp = match (&configuration.host.listen, &identity) {
        (Some(listen), Some(identity)) => {
            Some(TlsListener::bind(listen.address, identity.clone(), Arc::clone(&context.clock)).await?)
        }
        _ => None,
    };
    let state = Arc::new(opened.state);
    let alarms = Arc::new(Alarms::default());
    let made = alarms::make(context, &configuration)?;
    let (kept, writing) = Kept::new(context.output, Arc::clone(&context.clock), Arc::clone(&state));
    alarms.replace(made, &kept, &context.clock);
    let diary = Diary::new(kept.clone(), Arc::clone(&alarms));
    let told = Told { diary: diary.clone(), kept, alarms: Arc::clone(&alarms) };
    let doors = Doors { socket: socket.listener.take(), tcp, identity };
    let begun = began(&diary, &configuration, &socket);
    if let Some(aside) = opened.set_aside {
        let text = format!(
            "the state file was damaged, and is now {}: cycles and events before now are there",
            aside.display()
        );
        diary.tell(events::DIARY_SET_ASIDE, Severity::Warning, None, text, json!({ "file": aside }));
    }
    let result = match begun {
        Ok(hangups) => work(context, configuration, doors, state, told, hangups).await,
        Err(failure) => Err(failure),
    };
    if result.is_ok() {
        diary.tell(events::DAEMON_STOPPED, Severity::Info, None, "all cycles have ended".to_owned(), json!({}));
    }
    alarms.end().await;
    writing.end();
    result
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
}

async fn work(
    context: &Context,
    configuration: Configuration,
    doors: Doors,
    state: Arc<State>,
    told: Told,
    hangups: mpsc::Receiver<()>,
) -> Result<(), Failure> {
    let diary = &told.diary;
    let clock = Arc::clone(&context.clock);
    let board = Arc::new(Board::new(Arc::clone(&clock)));
    let known = Arc::new(Known::new(&configuration, clock.now()));
    let (orders_sender, orders) = orders();
    let (reloads_sender, reloads) = mpsc::channel(RELOADS_MAX);
    let stop = Stop { begin_no_more: context.stop.clone(), end_now: CancellationToken::new() };
    let end_answers = CancellationToken::new();
    let served = Arc::new(Served {
        board: Arc::clone(&board),
        diary: diary.clone(),
        state,
        known: Arc::clone(&known),
        clock: Arc::clone(&clock),
        orders: orders_sender.clone(),
        reloads: reloads_sender,
        started_at: clock.now(),
        stop: context.stop.clone(),
    });
    let identity = doors.identity.clone();
    let mut answering = doors.open(&served, &end_answers);
    let heard = Loop::new(Arc::clone(&board), diary.clone(), Arc::clone(&clock));
    let schedule = Schedule::new(configuration.host.concurrent_cycles.into());
    let drain_limit = configuration.host.drain_limit;
    let keeper = Keeper {
        context,
        configuration,
        board: Arc::clone(&board),
        told: told.clone(),
        identity,
        known,
        orders: orders_sender,
        refused: None,
    };
    let replicating = async {
        watch(orders, schedule, &*clock, &heard, &stop).await;
    };
    let keeping = async {
        let kept = tokio::select! {
            biased;
            () = context.stop.cancelled() => Ok(()),
            kept = keeper.run(reloads, hangups) => kept,
        };
        // What the operator has to mend ends everything.
        context.stop.cancel();
        kept
    };
    let judging = async {
        while !stop.end_now.is_cancelled() {
            judge(&board, diary);
            tokio::select! {
                () = stop.end_now.cancelled() => {}
                () = clock.sleep(JUDGE_EVERY) => {}
            }
        }
    };
    let draining = async {
        context.stop.cancelled().await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        let text = format!("no cycle begins any more; those that run have {}", format_duration(drain_limit));
        diary.tell(events::DAEMON_STOPPING, Severity::Info, None, text, json!({}));
        clock.sleep(drain_limit).await;
        stop.end_now.cancel();
        std::future::pending::<()>().await;
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let (kept, ()) = tokio::select! {
        // That it stops is told before it has stopped.
        biased;
        () = async { tokio::join!(draining, judging); } => (Ok(()), ()),
        ended = async { tokio::join!(keeping, replicating) } => ended,
    };
    end_answers.cancel();
    tokio::select! {
        () = async { while answering.join_next().await.is_some() {} } => {}
        () = clock.sleep(LAST_ANSWERS_MAX) => {}
    }
    kept
}

/// Tells who has passed their objective, and who is back.
fn judge(board: &Board, diary: &Diary) {
    for Judged { group, is_late, status, late_for } in board.judge() {
        let objective = human::duration(Duration::from_millis(status.objective_milliseconds));
        let age = status.age_milliseconds.map(|age| human::duration(Duration::from_millis(age)));
        let failing = status.failing.as_ref();
        let why = failing.map(|failing| format!("; its cycles fail: [{}] {}", failing.code, failing.message));
        let details = json!({
            "state": status.state,
            "age_milliseconds": status.age_milliseconds,
            "objective_milliseconds": status.objective_milliseconds,
            "point": status.newest.as_ref().map(|newest| newest.point),
            "late_milliseconds": u64::try_from(late_for.as_millis()).unwrap_or(u64::MAX),
        });
        if !is_late {
            let text = format!("the newest point is within {objective} again, after {}", human::duration(late_for));
            diary.tell_end(Severity::Error, events::OBJECTIVE_MET, Some(&group), text, details);
            continue;
        }
        let what = age.map_or("there is no recovery point".to_owned(), |age| format!("the newest point is {age} old"));
        let text = format!("{what}, and the objective is {objective}{}", why.unwrap_or_default());
        diary.tell(events::OBJECTIVE_MISSED, Severity::Error, Some(&group), text, details);
    }
}
