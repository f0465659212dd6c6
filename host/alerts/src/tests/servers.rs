//! Servers on this machine that note what they hear.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

/// A request as a webhook heard it.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: serde_json::Value,
}

/// An HTTP server that answers by a list, and with its last answer for ever.
#[derive(Clone)]
pub(super) struct HttpServer {
    pub(super) address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    answers: Arc<Mutex<VecDeque<(u16, String)>>>,
}

impl HttpServer {
    pub(super) async fn with_answers(answers: &[(u16, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let answers = answers.iter().map(|(status, body)| (*status, (*body).to_owned())).collect();
        let server = Self {
            address: listener.local_addr().expect("an address"),
            heard: Arc::default(),
            answers: Arc::new(Mutex::new(answers)),
        };
        let router = Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    pub(super) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("no panic").clone()
    }

    pub(super) fn texts(&self) -> Vec<String> {
        self.heard().iter().map(|heard| heard.body["event"]["text"].as_str().expect("a text").to_owned()).collect()
    }
}

async fn answer(State(server): State<HttpServer>, request: axum::extract::Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    let body = serde_json::from_slice(&body).expect("JSON");
    let heard = Heard { path: format!("{} {}", head.method, head.uri), headers: head.headers, body };
    server.heard.lock().expect("no panic").push(heard);
    let (status, text) = {
        let mut answers = server.answers.lock().expect("no panic");
        let last = answers.front().cloned().expect("an answer");
        if answers.len() > 1 { answers.pop_front().expect("one") } else { last }
    };
    let status = StatusCode::from_u16(status).expect("a status");
    if status.is_redirection() {
        return (status, [(header::LOCATION, text)]).into_response();
    }
    (status, text).into_response()
}

/// What a mail server was told, line by line.
type Session = Arc<Mutex<Vec<String>>>;

/// What a mail server answers to lines that begin so. To others it answers what is usual.
pub(super) type Script = &'static [(&'static str, &'static str)];

/// A mail server that speaks by a script.
pub(super) struct MailServer {
    pub(super) address: SocketAddr,
    pub(super) certificate: String,
    session: Session,
}

impl MailServer {
    /// Without TLS, unless it is told `STARTTLS`: then as `localhost`, and from there without a script.
    pub(super) async fn plain(script: Script) -> Self {
        Self::start(script, false).await
    }

    /// With TLS from the first byte, as `localhost`.
    pub(super) async fn secured() -> Self {
        Self::start(&[], true).await
    }

    async fn start(script: Script, is_secured: bool) -> Self {
        let (acceptor, certificate) = acceptor();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let session = Session::default();
        let noted = Arc::clone(&session);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (noted, acceptor) = (Arc::clone(&noted), acceptor.clone());
                tokio::spawn(async move {
                    if is_secured {
                        let stream = acceptor.accept(stream).await.ok()?;
                        converse(stream, "220 here\r\n", script, &noted).await
                    } else {
                        let stream = converse(stream, "220 here\r\n", script, &noted).await?;
                        noted.lock().expect("no panic").push("(TLS)".to_owned());
                        let stream = acceptor.accept(stream).await.ok()?;
                        converse(stream, "", &[], &noted).await.map(|_| unreachable!("TLS in TLS"))
                    }
                });
            }
        });
        Self { address, certificate, session }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.session.lock().expect("no panic").clone()
    }
}

/// Speaks until the other side ends, or wants TLS: then it returns the stream.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    greeting: &str,
    script: Script,
    session: &Session,
) -> Option<S> {
    let mut stream = BufReader::new(stream);
    let (mut line, mut in_data) = (String::new(), false);
    let mut reply = greeting.to_owned();
    loop {
        stream.write_all(reply.as_bytes()).await.ok()?;
        stream.flush().await.ok()?;
        line.clear();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let said = line.trim_end().to_owned();
        session.lock().expect("no panic").push(said.clone());
        let scripted = script.iter().find(|(begin, _)| !in_data && said.starts_with(begin));
        let answer = match (scripted, said.as_str()) {
            (Some((_, answer)), _) => answer.replace("{said}", &said),
            (None, ".") => "250 taken".to_owned(),
            (None, _) if in_data => String::new(),
            (None, "DATA") => "354 go on".to_owned(),
            (None, "QUIT") => "221 bye".to_owned(),
            (None, "STARTTLS") => "220 go on".to_owned(),
            (None, said) if said.starts_with("EHLO") => "250-here\r\n250 AUTH PLAIN LOGIN".to_owned(),
            (None, said) if said.starts_with("AUTH") => "235 welcome".to_owned(),
            (None, _) => "250 fine".to_owned(),
        };
        in_data = (in_data && said != ".") || answer.starts_with("354");
        reply = if answer.is_empty() { answer } else { format!("{answer}\r\n") };
        if said == "STARTTLS" {
            stream.write_all(reply.as_bytes()).await.ok()?;
            return Some(stream.into_inner());
        }
    }
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
