//! The daemon's end of the API, see [`crate::api`].

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, Query, State, rejection::JsonRejection},
    http::{HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use farshore_core::{Clock, Coded as _, GroupName, Timestamp};
use farshore_replication::{Asked, Board, CycleReport, Order, Wishes};
use farshore_state::{CycleQuery, CycleRecord, EventQuery, EventRecord, RunQuery, RunRecord, Severity, StateError};
use serde::Deserialize;
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use super::{
    diary::Diary,
    judge::Judge,
    keeper::{Known, ReloadAsked},
    metrics,
    runs::{RunsView, Standing},
    tcp::{Identity, TlsListener, check_token},
};
use crate::{
    api::{CycleRequest, DaemonStatus, HostStatus, Problem, ReloadReport, Source},
    error::CliError,
    output::{Failure, Status},
};

/// How many events, cycles or runs one answer has, if nobody says and at most.
const ROWS_DEFAULT: u32 = 100;
const ROWS_MAX: u32 = 10_000;

/// For how long events are waited for, at most.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What the answers are made of.
pub struct Served {
    pub board: Arc<Board>,
    pub diary: Diary,
    /// None if it cannot be used.
    pub state: Option<Arc<farshore_state::State>>,
    pub runs: Arc<RunsView>,
    pub known: Arc<Known>,
    pub judge: Arc<Judge>,
    pub clock: Arc<dyn Clock>,
    pub orders: mpsc::Sender<Order>,
    pub reloads: mpsc::Sender<ReloadAsked>,
    pub started_at: Timestamp,
    pub stop: CancellationToken,
}

/// Answers at the socket of this machine until `end` is cancelled.
pub async fn serve(listener: UnixListener, served: Arc<Served>, end: CancellationToken) -> std::io::Result<()> {
    axum::serve(listener, router(served)).with_graceful_shutdown(end.cancelled_owned()).await
}

/// Answers at a TCP address until `end` is cancelled, whoever has the token.
pub async fn serve_others(
    listener: TlsListener,
    identity: Identity,
    served: Arc<Served>,
    end: CancellationToken,
) -> std::io::Result<()> {
    let router = router(served).layer(middleware::from_fn_with_state(identity, check_token));
    axum::serve(listener, router).with_graceful_shutdown(end.cancelled_owned()).await
}

/// The answer to who has not the token.
pub fn unauthorised() -> Response {
    let mut refused = Refused::new(StatusCode::UNAUTHORIZED, CliError::Unauthorised).into_response();
    refused.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    refused
}

fn router(served: Arc<Served>) -> Router {
    Router::new()
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .route("/metrics", get(tell_metrics))
        .route("/v1/status", get(status))
        .route("/v1/events", get(events))
        .route("/v1/cycles", get(cycles))
        .route("/v1/runs", get(runs))
        .route("/v1/groups/{group}/cycles", post(begin_cycle))
        .route("/v1/reload", post(reload))
        .fallback(|| async { Refused::new(StatusCode::NOT_FOUND, usage("there is no such path in this API")) })
        .method_not_allowed_fallback(|| async {
            Refused::new(StatusCode::METHOD_NOT_ALLOWED, usage("this path takes another method"))
        })
        .with_state(served)
}

/// An error as a problem document.
struct Refused {
    status: StatusCode,
    failure: Failure,
}

impl Refused {
    fn new(status: StatusCode, failure: impl Into<Failure>) -> Self {
        Self { status, failure: failure.into() }
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        let status = match failure.status {
            Status::Usage => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, failure }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self { status, failure } = self;
        let title = crate::codes::page(failure.code).map_or("It failed", |page| page.title).to_owned();
        let problem =
            Problem { kind: format!("urn:farshore:{}", failure.code), status: status.as_u16(), title, failure };
        (status, [(header::CONTENT_TYPE, "application/problem+json")], Json(problem)).into_response()
    }
}

fn usage(message: impl Into<String>) -> CliError {
    CliError::Usage { message: message.into(), advice: None }
}

type Shared = State<Arc<Served>>;

async fn healthy(State(served): Shared) -> Response {
    match served.judge.is_awake() {
        true => "alive\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "nobody looks whether objectives are met\n").into_response(),
    }
}

async fn ready(State(served): Shared) -> Response {
    let mut why = served.known.waits_for();
    if served.stop.is_cancelled() {
        why.push("it was told to stop".to_owned());
    }
    match why.is_empty() {
        true => "ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, why.join("\n") + "\n").into_response(),
    }
}

async fn tell_metrics(State(served): Shared) -> Response {
    let is_ready = served.known.waits_for().is_empty() && !served.stop.is_cancelled();
    match metrics::render(&served.board.all(), [served.diary.dropped(), served.diary.dropped_spans()], is_ready) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => {
            let failure = CliError::NotDone { why: error.to_string() };
            Refused::new(StatusCode::INTERNAL_SERVER_ERROR, failure).into_response()
        }
    }
}

async fn status(State(served): Shared) -> Json<HostStatus> {
    Json(HostStatus {
        source: Source::Daemon(DaemonStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            started_at: served.started_at,
            waits_for: served.known.waits_for(),
            is_stopping: served.stop.is_cancelled(),
            configuration: served.known.configuration(),
        }),
        at: served.clock.now(),
        groups: served.board.all().into_iter().map(|(status, _)| status).collect(),
    })
}

/// What events are asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsAsked {
    group: Option<GroupName>,
    name: Option<String>,
    severity: Option<Severity>,
    after: Option<u64>,
    limit: Option<u32>,
    /// If there is none after `after`, so many seconds are waited for one.
    wait: Option<u64>,
}

async fn events(
    State(served): Shared,
    asked: Result<Query<EventsAsked>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Vec<EventRecord>>, Refused> {
    let Query(asked) = asked.map_err(|error| Refused::new(StatusCode::BAD_REQUEST, usage(error.body_text())))?;
    let query = EventQuery {
        group: asked.group,
        name: asked.name,
        severity_min: asked.severity,
        after: asked.after,
        limit: asked.limit.unwrap_or(ROWS_DEFAULT).min(ROWS_MAX),
    };
    let wait = Duration::from_secs(asked.wait.unwrap_or_default());
    if wait > WAIT_MAX || (!wait.is_zero() && query.after.is_none()) {
        let message = format!("`wait` is at most {} seconds, and stands beside `after`", WAIT_MAX.as_secs());
        return Err(Refused::new(StatusCode::BAD_REQUEST, usage(message)));
    }
    let deadline = served.clock.monotonic().saturating_add(wait);
    loop {
        let mut written = std::pin::pin!(served.diary.written().notified());
        written.as_mut().enable();
        let of_this_turn = query.clone();
        let found = read(Arc::clone(&served), move |state| state.events(&of_this_turn)).await?;
        let left = deadline.saturating_sub(served.clock.monotonic());
        if !found.is_empty() || left.is_zero() || served.stop.is_cancelled() {
            return Ok(found);
        }
        tokio::select! {
            () = written => {}
            () = served.clock.sleep(left) => {}
            () = served.stop.cancelled() => {}
        }
    }
}

/// What cycles are asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CyclesAsked {
    group: Option<GroupName>,
    limit: Option<u32>,
}

async fn cycles(
    State(served): Shared,
    asked: Result<Query<CyclesAsked>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Vec<CycleRecord>>, Refused> {
    let Query(asked) = asked.map_err(|error| Refused::new(StatusCode::BAD_REQUEST, usage(error.body_text())))?;
    let query = CycleQuery { group: asked.group, limit: asked.limit.unwrap_or(ROWS_DEFAULT).min(ROWS_MAX) };
    read(served, move |state| state.cycles(&query)).await
}

/// What runs are asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunsAsked {
    group: Option<GroupName>,
    limit: Option<u32>,
}

async fn runs(
    State(served): Shared,
    asked: Result<Query<RunsAsked>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Vec<RunRecord>>, Refused> {
    let Query(asked) = asked.map_err(|error| Refused::new(StatusCode::BAD_REQUEST, usage(error.body_text())))?;
    let query = RunQuery { group: asked.group, limit: asked.limit.unwrap_or(ROWS_DEFAULT).min(ROWS_MAX) };
    // Before the rows are read, so that an answer without any is not taken for one after a look that came meanwhile.
    let has_looked = match served.runs.standing() {
        Standing::NotLooked => false,
        Standing::Refused(failure) => return Err(Refused::new(StatusCode::FORBIDDEN, failure)),
        Standing::Looked => true,
    };
    let found = read(served, move |state| state.runs(&query)).await?;
    if found.is_empty() && !has_looked {
        let why = "the vault has not been asked yet which runs it has".to_owned();
        return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, CliError::NotDone { why }));
    }
    Ok(found)
}

/// Reads the state file, which may have to wait for a disk.
async fn read<T: Send + 'static>(
    served: Arc<Served>,
    query: impl FnOnce(&farshore_state::State) -> Result<T, StateError> + Send + 'static,
) -> Result<Json<T>, Refused> {
    let unusable = |why: String| Refused::new(StatusCode::SERVICE_UNAVAILABLE, CliError::NotDone { why });
    let Some(state) = served.state.clone() else { return Err(unusable("the state file cannot be used".to_owned())) };
    match tokio::task::spawn_blocking(move || query(&state)).await {
        Ok(Ok(rows)) => Ok(Json(rows)),
        Ok(Err(error)) => Err(Failure::from(error).into()),
        Err(error) => Err(unusable(error.to_string())),
    }
}

async fn begin_cycle(
    State(served): Shared,
    Path(group): Path<String>,
    body: Result<Json<CycleRequest>, JsonRejection>,
) -> Result<Json<CycleReport>, Refused> {
    let Json(request) = body.map_err(|error| Refused::new(StatusCode::BAD_REQUEST, usage(error.body_text())))?;
    let not_served = || Refused::new(StatusCode::NOT_FOUND, CliError::NotServed { group: group.clone() });
    let name = GroupName::new(group.clone()).map_err(|_| not_served())?;
    if !served.board.has(&name) {
        return Err(not_served());
    }
    let not_begun = |why| {
        let failure = CliError::NotBegun { group: group.clone(), why };
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, failure)
    };
    if !served.known.is_open() {
        return Err(not_begun("the vault is not open yet"));
    }
    let (answer, answered) = oneshot::channel();
    let asked = Asked {
        wishes: Wishes { label: request.label, consistency: request.consistency, is_asked: true, ..Wishes::default() },
        answer,
    };
    let is_taken = served.orders.send(Order::Now(name, asked)).await.is_ok();
    match answered.await {
        Ok(result) if is_taken => match &*result {
            Ok(report) => Ok(Json(report.clone())),
            Err(error) => {
                tracing::debug!(code = %error.code(), "a cycle that was asked for failed");
                Err(Failure::describe(error).into())
            }
        },
        _ if served.stop.is_cancelled() => Err(not_begun("the daemon was told to stop")),
        _ => Err(not_begun("its turn has not been given yet, its site cannot be used, or too many ask for the same")),
    }
}

async fn reload(State(served): Shared) -> Result<Json<ReloadReport>, Refused> {
    let (answer, answered) = oneshot::channel();
    let not_done = |why: &str| {
        let failure = CliError::NotDone { why: why.to_owned() };
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, failure)
    };
    served.reloads.try_send(answer).map_err(|_| not_done("too many ask for the same"))?;
    Ok(Json(answered.await.map_err(|_| not_done("it was told to stop"))??))
}

/// How long the last answers may take when the daemon ends.
pub const LAST_ANSWERS_MAX: Duration = Duration::from_secs(2);
