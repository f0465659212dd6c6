//! Collectors on this machine that note what they hear.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, header::CONTENT_TYPE},
    response::Response,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse},
    trace::v1::Span,
};
use prost::Message as _;
use tokio::net::{TcpListener, TcpSocket};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

/// A request as a collector heard it.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) bytes: Bytes,
    pub(super) request: ExportTraceServiceRequest,
}

impl Heard {
    pub(super) fn spans(&self) -> Vec<Span> {
        let scopes = self.request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }
}

/// What a collector answers.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    pub(super) fn new(status: u16, text: &str) -> Self {
        Self { status, headers: Vec::new(), body: text.as_bytes().to_vec() }
    }

    pub(super) fn with(mut self, header: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((header, value.into()));
        self
    }

    pub(super) fn protobuf(status: u16, message: &impl prost::Message) -> Self {
        let body = message.encode_to_vec();
        Self { status, headers: Vec::new(), body }.with("content-type", "application/x-protobuf")
    }

    pub(super) fn partly(rejected_spans: i64, error_message: &str) -> Self {
        let partial = ExportTracePartialSuccess { rejected_spans, error_message: error_message.to_owned() };
        Self::protobuf(200, &ExportTraceServiceResponse { partial_success: Some(partial) })
    }

    pub(super) fn taken() -> Self {
        Self::protobuf(200, &ExportTraceServiceResponse::default())
    }
}

/// A collector that answers by a list, and with its last answer for ever.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
}

impl Server {
    pub(super) async fn with_answers(answers: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = Self {
            address: listener.local_addr().expect("an address"),
            heard: Arc::default(),
            answers: Arc::new(Mutex::new(answers.into_iter().collect())),
        };
        let router = Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("no panic").clone()
    }

    /// The roots of the traces of each request.
    pub(super) fn roots(&self) -> Vec<Vec<String>> {
        let roots = |heard: &Heard| {
            let spans = heard.spans().into_iter().filter(|span| span.parent_span_id.is_empty());
            spans.map(|span| span.name).collect()
        };
        self.heard().iter().map(roots).collect()
    }
}

async fn answer(State(server): State<Server>, request: axum::extract::Request) -> Response {
    let (head, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, 64 << 20).await.expect("a body");
    assert_eq!(head.headers[CONTENT_TYPE], "application/x-protobuf");
    let request = ExportTraceServiceRequest::decode(bytes.clone()).expect("protobuf");
    let heard = Heard { path: format!("{} {}", head.method, head.uri), headers: head.headers, bytes, request };
    server.heard.lock().expect("no panic").push(heard);
    let answer = {
        let mut answers = server.answers.lock().expect("no panic");
        let last = answers.front().cloned().expect("an answer");
        if answers.len() > 1 { answers.pop_front().expect("one") } else { last }
    };
    let response = Response::builder().status(answer.status);
    let response = answer.headers.iter().fold(response, |response, (name, value)| response.header(*name, value));
    response.body(Body::from(answer.body)).expect("a response")
}

/// An address where nobody listens, as long as the socket is there.
pub(super) fn nobody() -> (TcpSocket, String) {
    let closed = TcpSocket::new_v4().expect("a socket");
    closed.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let endpoint = format!("http://{}", closed.local_addr().expect("an address"));
    (closed, endpoint)
}

/// TLS as `localhost`, and the certificate as PEM.
pub(super) fn acceptor() -> (TlsAcceptor, String) {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], key.signing_key.into())
        .expect("a configuration");
    (TlsAcceptor::from(Arc::new(config)), key.cert.pem())
}
