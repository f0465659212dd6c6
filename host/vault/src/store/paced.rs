//! Requests to an object store that keep to limits of bandwidth.
//!
//! The bytes of a request's body pass the upload [`Throttle`] when the connection has room for them, and those of a
//! reply's body the download one when they have come, in pieces of [`PIECE_BYTES_MAX`]. So what flows on the wire is even,
//! the connections that share a throttle take turns piece by piece, and each attempt is charged for what it really
//! sends. A reply that is not taken is not read from the socket, which makes the store send slower; only what the
//! system's receive buffer holds comes unasked.
//!
//! A body of an `object_store` request holds bytes and no stream, and its own client takes nothing else. So this has a
//! client of its own, made from the same options, that is given the request with its head unchanged: the signature stays
//! valid, and because the length of the body is known it is sent as `content-length` and never in chunks. Without any
//! throttle the client is `object_store`'s.
//!
//! **Timeouts.** A limit on the time of a whole request would fail all that is slow on purpose. Instead the options'
//! `timeout` (30 s unless said; or `read_timeout`, if that is shorter) limits how long *nothing moves*: the connection
//! takes no more bytes, the answer does not begin, or a reply does not go on. The time for which a piece waits for the
//! throttle does not count, nor that for which nobody asks for more of a reply. That the last bytes leave the buffers of
//! this host cannot be seen, and they may be megabytes: so if the connection took longer than the timeout to take the
//! whole body, the answer may take as long as that.
//!
//! **Queue.** Whoever is first in the queue of a throttle holds up all others, so it must not be a future that rests
//! while its owner does something else, as those of a `buffered` stream do. Each piece of a body waits in a task of its
//! own. While no limit holds at this hour, pieces pass without asking.
//!
//! **Cancellation.** A body waits inside the connection's task. When nobody is interested in the reply any more, because
//! the request was dropped, has stalled, or was answered before it was sent, its body ends with an error at the next
//! piece, and the connection is closed, so that nothing waits for the throttle or is charged in vain.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use farshore_core::{Clock as _, SystemClock, Throttle};
use hyper::body::{Body, Frame, SizeHint};
use object_store::{
    ClientOptions, Result as ObjectResult,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
        ReqwestConnector,
    },
};
use tokio_util::task::AbortOnDropHandle;

mod client;

/// How many bytes pass a throttle at once: a record of TLS. The fewer they are, the shorter are the silences of one
/// connection among many at a low limit, and stores give up a request that is silent for too long.
const PIECE_BYTES_MAX: usize = 16 << 10;

/// Makes HTTP clients as `object_store` would, that keep to the limits of these throttles. Clones share them.
#[derive(Clone, Default)]
pub struct PacedConnector {
    /// What the bodies of requests pass.
    pub upload: Option<Arc<Throttle>>,
    /// What the bodies of replies pass.
    pub download: Option<Arc<Throttle>>,
}

impl PacedConnector {
    /// Whether there is a throttle, even one without a limit at this hour.
    pub const fn is_paced(&self) -> bool {
        self.upload.is_some() || self.download.is_some()
    }
}

impl fmt::Debug for PacedConnector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paced = (self.upload.is_some(), self.download.is_some());
        formatter.debug_tuple("PacedConnector").field(&paced).finish()
    }
}

impl HttpConnector for PacedConnector {
    fn connect(&self, options: &ClientOptions) -> ObjectResult<HttpClient> {
        if !self.is_paced() {
            return ReqwestConnector::default().connect(options);
        }
        let (client, stall) = (client::client(options)?, client::stall_timeout(options)?);
        Ok(HttpClient::new(PacedService { client, stall, throttles: self.clone() }))
    }
}

#[derive(Debug)]
struct PacedService {
    client: reqwest::Client,
    stall: Duration,
    throttles: PacedConnector,
}

#[async_trait::async_trait]
impl HttpService for PacedService {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (head, body) = request.into_parts();
        let url = head.uri.to_string().parse().map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let mut request = reqwest::Request::new(head.method, url);
        *request.headers_mut() = head.headers;
        let exchange = Arc::new(Exchange::begin(self.stall));
        // `HttpRequestBody::is_empty` says the opposite of the truth of payloads.
        *request.body_mut() = Some(if body.content_length() == 0 {
            Bytes::new().into()
        } else {
            let side = Side::Sent(Arc::downgrade(&exchange));
            reqwest::Body::wrap(Paced::new(body, |error| error, self.throttles.upload.clone(), side))
        });
        let response = tokio::select! {
            biased;
            response = self.client.execute(request) => response.map_err(client::failed)?,
            error = exchange.stalled() => return Err(error),
        };
        let (head, body) = hyper::Response::<reqwest::Body>::from(response).into_parts();
        let side = Side::Received { exchange, waiting: None };
        let body = Paced::new(body, client::failed, self.throttles.download.clone(), side);
        Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)))
    }
}

/// A request and its answer, for as long as somebody wants the answer.
struct Exchange {
    stall: Duration,
    progress: Mutex<Progress>,
}

struct Progress {
    /// Since when it waits for the other side, on the monotonic clock; none while it waits for this one.
    since: Option<Duration>,
    /// How long the connection has taken to take what there is of the body.
    taking: Duration,
    /// How long the other side may take now.
    limit: Duration,
}

impl Exchange {
    fn begin(stall: Duration) -> Self {
        let progress = Progress { since: Some(SystemClock.monotonic()), taking: Duration::ZERO, limit: stall };
        Self { stall, progress: Mutex::new(progress) }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection has room for more of the body.
    fn asked(&self) {
        let mut progress = self.progress();
        let since = progress.since.take();
        progress.taking += since.map_or(Duration::ZERO, |since| SystemClock.monotonic().saturating_sub(since));
    }

    /// The connection has more of the body, or all of it.
    fn given(&self, is_all: bool) {
        let mut progress = self.progress();
        progress.since = Some(SystemClock.monotonic());
        if is_all {
            progress.limit = self.stall.max(progress.taking);
        }
    }

    /// How much longer the other side may take; zero is too long.
    fn left(&self) -> Duration {
        let progress = self.progress();
        let waited = progress.since.map_or(Duration::ZERO, |since| SystemClock.monotonic().saturating_sub(since));
        progress.limit.saturating_sub(waited)
    }

    /// Returns when the other side has kept it waiting for too long.
    async fn stalled(&self) -> HttpError {
        loop {
            match self.left() {
                Duration::ZERO => return stalled(self.progress().limit),
                left => SystemClock.sleep(left).await,
            }
        }
    }
}

/// A body whose bytes pass a throttle, if there is one.
struct Paced<B: Body> {
    body: B,
    failed: fn(B::Error) -> HttpError,
    throttle: Option<Arc<Throttle>>,
    side: Side,
    /// What has come of the body and not yet passed.
    rest: Bytes,
    /// Ends when the first piece of the rest may pass. It leaves the queue when the body is dropped.
    passing: Option<AbortOnDropHandle<()>>,
}

enum Side {
    /// A request's body, which has all its bytes from the beginning.
    Sent(Weak<Exchange>),
    /// A reply's.
    Received {
        exchange: Arc<Exchange>,
        /// Ends when nothing has come for too long; none if something has come since it was last asked for. Bodies must be
        /// `Sync`, which futures need not be: the lock is never taken.
        waiting: Option<Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    },
}

impl<B: Body> Paced<B> {
    fn new(body: B, failed: fn(B::Error) -> HttpError, throttle: Option<Arc<Throttle>>, side: Side) -> Self {
        Self { body, failed, throttle, side, rest: Bytes::new(), passing: None }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Paced<B> {
    /// The body's next frame, or that it has stalled.
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context).map_err(self.failed);
        if let Side::Received { exchange, waiting } = &mut self.side {
            if frame.is_ready() {
                *waiting = None;
            } else {
                let stall = exchange.stall;
                let waiting = waiting
                    .get_or_insert_with(|| Mutex::new(Box::pin(async move { SystemClock.sleep(stall).await })))
                    .get_mut();
                ready!(waiting.unwrap_or_else(PoisonError::into_inner).as_mut().poll(context));
                return Poll::Ready(Some(Err(stalled(stall))));
            }
        }
        frame
    }

    /// Gives the next piece once it has passed.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        while self.rest.is_empty() {
            match ready!(self.poll_body(context)).transpose()?.map(Frame::into_data) {
                Some(Ok(bytes)) => self.rest = bytes,
                Some(Err(trailers)) => return Poll::Ready(Some(Ok(trailers))),
                None => return Poll::Ready(None),
            }
        }
        let bytes = self.rest.len().min(PIECE_BYTES_MAX);
        let limited = |throttle: &&Arc<Throttle>| throttle.rate(SystemClock.now()).is_some();
        if self.passing.is_none()
            && let Some(throttle) = self.throttle.as_ref().filter(limited)
        {
            let throttle = Arc::clone(throttle);
            let passing = tokio::spawn(async move { throttle.pass(bytes as u64).await });
            self.passing = Some(AbortOnDropHandle::new(passing));
        }
        if let Some(passing) = &mut self.passing {
            // It fails only if the runtime ends.
            let _ = ready!(Pin::new(passing).poll(context));
            self.passing = None;
        }
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(bytes)))))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Paced<B> {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let exchange = match &self.side {
            Side::Received { .. } => return self.poll_piece(context),
            Side::Sent(exchange) => exchange.upgrade(),
        };
        let exchange = exchange.ok_or_else(|| HttpError::new(HttpErrorKind::Interrupted, Ended::Unwanted))?;
        exchange.asked();
        let piece = ready!(self.poll_piece(context));
        // The connection may never ask for the end.
        exchange.given(self.size_hint().exact() == Some(0));
        Poll::Ready(piece)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, of_body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(of_body.lower().saturating_add(rest));
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

/// Why this side ends a request.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the other side neither took nor gave anything for {limit:?}")]
    Stalled { limit: Duration },
    #[error("nobody waits for the answer to this request")]
    Unwanted,
}

fn stalled(limit: Duration) -> HttpError {
    HttpError::new(HttpErrorKind::Timeout, Ended::Stalled { limit })
}

#[cfg(test)]
mod tests;
