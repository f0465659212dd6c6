//! An HTTP server that answers as a test says, and keeps what came and when.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    body::{Body, BodyDataStream},
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode},
    response::Response,
};
use futures::{StreamExt as _, stream};

use super::*;

/// What the server does with a request.
#[derive(Clone, Copy, Default)]
pub(super) struct Way {
    /// How long it rests after each chunk that it reads, or 64 KiB that it sends.
    pub(super) pause: Duration,
    /// It goes no further after so many bytes of either body.
    pub(super) stops_at: Option<usize>,
    /// It answers so without waiting for the body, which it reads on.
    pub(super) early: Option<u16>,
    /// It answers so; 200 if nothing is said.
    pub(super) answer: Option<u16>,
    /// It never answers.
    pub(super) silent: bool,
}

/// A request as it came.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) headers: HeaderMap,
    /// What came at which time.
    pub(super) chunks: Vec<(Duration, Bytes)>,
    /// How many bytes of the answer the connection has asked for.
    pub(super) sent: usize,
    /// Whether its body came to its end, or to another; none if it is under way.
    pub(super) is_whole: Option<bool>,
}

impl Seen {
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.chunks.iter().flat_map(|(_, chunk)| chunk.to_vec()).collect()
    }

    pub(super) fn arrivals(&self) -> Vec<(Duration, usize)> {
        self.chunks.iter().map(|(at, chunk)| (*at, chunk.len())).collect()
    }
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    object: Bytes,
    ways: Vec<Way>,
    seen: Mutex<Vec<Seen>>,
}

impl Server {
    /// Answers the first request in the first way, and so on; all others in the last. What can be read is the object.
    pub(super) async fn start(object: Bytes, ways: Vec<Way>) -> Self {
        let shared = Arc::new(Shared { object, ways, seen: Mutex::default() });
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(64 << 10).expect("a small buffer");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let listener = socket.listen(64).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, shared }
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.shared.seen.lock().expect("no panic")
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let number = {
        let mut seen = shared.seen.lock().expect("no panic");
        seen.push(Seen { headers: head.headers, ..Seen::default() });
        seen.len() - 1
    };
    let way = shared.ways.get(number).or(shared.ways.last()).copied().unwrap_or_default();
    let reading = read(Arc::clone(&shared), number, way, body.into_data_stream());
    let status = match way.early {
        Some(status) => {
            tokio::spawn(reading);
            status
        }
        None => {
            reading.await;
            way.answer.unwrap_or(200)
        }
    };
    if way.silent {
        std::future::pending::<()>().await;
    }
    let response = Response::builder().status(StatusCode::from_u16(status).expect("a status")).header("etag", "\"e\"");
    if head.method != Method::GET || status != 200 {
        return response.body(Body::empty()).expect("a response");
    }
    let response =
        response.header("content-length", shared.object.len()).header("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT");
    let chunks: Vec<Bytes> = shared.object.chunks(64 << 10).map(Bytes::copy_from_slice).collect();
    let sent = stream::iter(chunks).then(move |chunk| {
        let shared = Arc::clone(&shared);
        async move {
            if !way.pause.is_zero() {
                SystemClock.sleep(way.pause).await;
            }
            let sent = shared.seen.lock().expect("no panic")[number].sent;
            if way.stops_at.is_some_and(|stop| sent >= stop) {
                std::future::pending::<()>().await;
            }
            shared.seen.lock().expect("no panic")[number].sent += chunk.len();
            Ok::<_, std::convert::Infallible>(chunk)
        }
    });
    response.body(Body::from_stream(sent)).expect("a response")
}

async fn read(shared: Arc<Shared>, number: usize, way: Way, mut body: BodyDataStream) {
    let mut whole = true;
    let mut bytes = 0;
    while let Some(chunk) = body.next().await {
        match chunk {
            Ok(chunk) => {
                bytes += chunk.len();
                let at = SystemClock.monotonic();
                shared.seen.lock().expect("no panic")[number].chunks.push((at, chunk));
            }
            Err(_) => whole = false,
        }
        if way.stops_at.is_some_and(|stop| bytes >= stop) {
            std::future::pending::<()>().await;
        }
        if !way.pause.is_zero() {
            SystemClock.sleep(way.pause).await;
        }
    }
    shared.seen.lock().expect("no panic")[number].is_whole = Some(whole);
}
