//! Requests over real sockets, to servers that answer as a test wants it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use farshore_core::{Clock, Coded as _, SeededEntropy, SystemClock, Timestamp};
use farshore_http::{
    Endpoint, EndpointGrant, EndpointOptions, HttpError, KeyError, KeySource, Method, Request, SigV4, SigV4Keys,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// What a server does with a request.
#[derive(Clone)]
enum Act {
    /// Writes this.
    Answer(String),
    /// Writes this and hangs up.
    BreakOff(String),
    /// Hangs up without a word.
    HangUp,
    /// Says nothing until the client gives up.
    Silence,
}

fn answer(status: &str, headers: &str, body: &str) -> Act {
    Act::Answer(format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()))
}

/// A server whose n-th request meets the n-th act, and the last for ever; with the requests that it saw.
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(acts: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, acts.clone(), Arc::clone(&shared)));
            }
        });
        Self { address, seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn endpoint(&self) -> Endpoint {
        endpoint(&format!("address = 'http://{}'\nallow-http = true", self.address), None)
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, acts: Vec<Act>, seen: Arc<Mutex<Vec<String>>>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match stream.read(&mut byte).await {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let length =
            text.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let index = {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push(text);
            seen.len() - 1
        };
        match acts.get(index).or(acts.last()) {
            Some(Act::Answer(text)) if stream.write_all(text.as_bytes()).await.is_ok() => {}
            Some(Act::BreakOff(text)) => {
                // Whether it arrives is the client's to say.
                let _ = stream.write_all(text.as_bytes()).await;
                return;
            }
            Some(Act::Silence) => {
                // Ends when the client hangs up.
                let _ = stream.read(&mut [0]).await;
                return;
            }
            _ => return,
        }
    }
}

struct Fixed(&'static str, &'static str, Option<&'static str>);

impl KeySource for Fixed {
    fn keys(&self) -> Result<SigV4Keys, KeyError> {
        Ok(SigV4Keys {
            access_key_id: self.0.to_owned().into(),
            secret_access_key: self.1.to_owned().into(),
            session_token: self.2.map(|token| token.to_owned().into()),
        })
    }
}

fn sigv4(keys: impl KeySource + 'static) -> SigV4 {
    SigV4 { region: "eu-west-1".to_owned(), service: "ec2".to_owned(), keys: Arc::new(keys) }
}

fn endpoint(grant: &str, signing: Option<SigV4>) -> Endpoint {
    endpoint_with(grant, signing, None, Arc::new(SystemClock))
}

fn endpoint_with(
    grant: &str,
    signing: Option<SigV4>,
    certificates: Option<Vec<u8>>,
    clock: Arc<dyn Clock>,
) -> Endpoint {
    let mut grant: EndpointGrant = toml::from_str(grant).expect("a grant");
    if signing.is_some() {
        grant.credential = Some("keys".parse().expect("a name"));
    }
    let name = "api".parse().expect("a name");
    let entropy = Arc::new(SeededEntropy::new(1));
    Endpoint::new(EndpointOptions { name, grant, certificates, signing, clock, entropy }).expect("an endpoint")
}

fn get(target: &str) -> Request {
    Request::get(target, Duration::from_secs(20))
}

#[tokio::test]
async fn what_is_asked_arrives_and_what_is_answered_comes_back() {
    let server = Server::start(vec![answer("201 Created", "x-Amz-Checksum: abc\r\n", "body")]).await;
    let request = Request {
        method: Method::Put,
        headers: vec![("x-amz-Data-Length".to_owned(), "3".to_owned())],
        body: Bytes::from_static(b"abc"),
        ..get("/a/b?c=%2Fd")
    };
    let response = server.endpoint().send(&request).await.expect("an answer");
    assert_eq!((response.status, &response.body[..]), (201, &b"body"[..]));
    assert_eq!(response.header("x-amz-checksum"), Some("abc"));
    let seen = server.seen();
    assert!(
        seen[0].starts_with("PUT /a/b?c=%2Fd HTTP/1.1\r\n") && seen[0].contains("x-amz-data-length: 3\r\n"),
        "{seen:?}"
    );
    assert!(!seen[0].to_ascii_lowercase().contains("authorization"), "nothing is signed without a credential");
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let other = Server::start(vec![answer("200 OK", "", "")]).await;
    let to = format!("location: http://{}/\r\n", other.address);
    let server = Server::start(vec![answer("307 Temporary Redirect", &to, "")]).await;
    let response = server.endpoint().send(&get("/")).await.expect("an answer");
    assert_eq!(response.status, 307);
    assert_eq!(other.seen().len(), 0, "nobody was asked who was not named");
}

#[tokio::test]
async fn what_may_be_repeated_is_and_what_may_not_is_not() {
    let acts =
        || vec![Act::HangUp, answer("503 Slow Down", "", ""), answer("500 Oh", "", ""), answer("200 OK", "", "fine")];
    let server = Server::start(acts()).await;
    let response = server.endpoint().send(&get("/")).await.expect("an answer");
    assert_eq!((response.status, server.seen().len()), (200, 4));

    let server = Server::start(acts()).await;
    let once = Request { repeatable: false, method: Method::Post, ..get("/") };
    let error = server.endpoint().send(&once).await.expect_err("it hung up");
    assert!(matches!(error, HttpError::Unreachable { was_sent: true, .. }), "{error:?}");
    assert_eq!(server.seen().len(), 1, "it may have been carried out");
    let response = server.endpoint().send(&once).await.expect("an answer");
    assert_eq!((response.status, server.seen().len()), (503, 2));
}

#[tokio::test]
async fn a_service_has_its_own_word_for_a_throttle() {
    let refusals = [
        answer("400 Bad Request", "x-amzn-errortype: RequestThrottledException:http\r\n", ""),
        answer("400 Bad Request", "", "{\"__type\": \"RequestThrottledException\"}"),
        answer("200 OK", "", "RequestThrottledException is what this says"),
    ];
    let request = Request { throttle_words: vec!["RequestThrottledException".to_owned()], ..get("/") };
    let server = Server::start(refusals.to_vec()).await;
    let response = server.endpoint().send(&request).await.expect("an answer");
    assert_eq!((response.status, server.seen().len()), (200, 3), "a success is never a throttle");
    let server = Server::start(refusals.to_vec()).await;
    let response = server.endpoint().send(&get("/")).await.expect("an answer");
    assert_eq!((response.status, server.seen().len()), (400, 1), "without the word it is a refusal like any other");
}

#[tokio::test]
async fn what_never_answers_ends_in_time_with_what_happened_last() {
    let server = Server::start(vec![Act::Silence]).await;
    let request = Request { timeout: Duration::from_millis(300), ..get("/slow?token=secret") };
    let error = server.endpoint().send(&request).await.expect_err("silence");
    assert_eq!(error.code().to_string(), "FS2504");
    assert!(error.to_string().contains("did not answer GET /slow within "), "{error}");
    let server = Server::start(vec![answer("503 No", "retry-after: 3600\r\n", "")]).await;
    let response = server.endpoint().send(&get("/")).await.expect("an answer");
    assert_eq!((response.status, server.seen().len()), (503, 1), "it says that no other attempt fits into the time");
}

#[tokio::test]
async fn an_answer_that_is_too_large_or_breaks_off_is_none() {
    let server = Server::start(vec![answer("200 OK", "", &"a".repeat(2_000))]).await;
    let request = Request { response_bytes_max: 1_000, ..get("/") };
    let error = server.endpoint().send(&request).await.expect_err("too much");
    assert!(error.to_string().ends_with("with more than 1000 bytes"), "{error}");
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7d0\r\n".to_owned()
        + &"a".repeat(2_000)
        + "\r\n0\r\n\r\n";
    let server = Server::start(vec![Act::Answer(chunked)]).await;
    let error = server.endpoint().send(&request).await.expect_err("it did not say how much");
    assert!(matches!(error, HttpError::TooLarge { .. }), "{error:?}");
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_owned();
    let server = Server::start(vec![Act::BreakOff(half)]).await;
    let once = Request { repeatable: false, ..get("/") };
    let error = server.endpoint().send(&once).await.expect_err("half an answer");
    assert!(matches!(error, HttpError::Unreachable { was_sent: true, .. }), "{error:?}");
}

#[tokio::test]
async fn who_does_not_listen_is_told_with_the_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let api = endpoint(&format!("address = 'http://{address}'\nallow-http = true"), None);
    let request = Request { timeout: Duration::from_millis(500), repeatable: false, ..get("/?token=secret") };
    let error = api.send(&request).await.expect_err("nobody listens");
    assert!(matches!(error, HttpError::Unreachable { was_sent: false, .. }), "{error:?}");
    assert!(error.to_string().contains("onnection refused"), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn a_name_that_leads_to_this_machine_is_refused_unless_the_operator_named_the_network() {
    let server = Server::start(vec![answer("200 OK", "", "")]).await;
    let port = server.address.port();
    let grant = format!("address = 'http://localhost:{port}'\nallow-http = true");
    let error = endpoint(&grant, None).send(&get("/")).await.expect_err("a refusal");
    assert_eq!(error.code().to_string(), "FS2503");
    assert!(error.to_string().contains("localhost leads to") && error.to_string().contains("127.0.0.1"), "{error}");
    assert_eq!(server.seen().len(), 0);
    let grant = format!("{grant}\nnetworks = ['127.0.0.0/8']");
    endpoint(&grant, None).send(&get("/")).await.expect("an answer");
}

/// A machine whose clock is wrong by so many milliseconds.
struct Off(i64);

#[async_trait::async_trait]
impl Clock for Off {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_milliseconds(SystemClock.now().as_unix_milliseconds() + self.0)
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }

    async fn sleep(&self, duration: Duration) {
        SystemClock.sleep(duration).await;
    }
}

#[tokio::test]
async fn clocks_that_differ_are_told_by_their_name() {
    let date = httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(1_790_000_000));
    let now = SystemClock.now().as_unix_milliseconds();
    let theirs = 1_790_000_000_000;
    let server = Server::start(vec![answer("403 Forbidden", &format!("date: {date}\r\n"), "no")]).await;
    let grant = format!("address = 'http://{}'\nallow-http = true", server.address);
    let at = |seconds: i64| {
        let keys = sigv4(Fixed("id", "secret", None));
        endpoint_with(&grant, Some(keys), None, Arc::new(Off(theirs + seconds * 1_000 - now)))
    };
    for (seconds, words) in [(1_000, "s ahead of its own"), (-1_000, "s behind its own")] {
        let error = at(seconds).send(&get("/")).await.expect_err("a wrong clock");
        assert_eq!(error.code().to_string(), "FS2508");
        assert!(error.to_string().contains(words), "{error}");
    }
    let response = at(100).send(&get("/")).await.expect("an answer");
    assert_eq!(response.status, 403, "a refusal for another reason stays one");
}

/// Keys that change each time they are asked for.
struct Renewed(AtomicU64);

impl KeySource for Renewed {
    fn keys(&self) -> Result<SigV4Keys, KeyError> {
        let turn = self.0.fetch_add(1, Ordering::Relaxed);
        if turn >= 2 {
            return Err("the file keys.txt cannot be read".into());
        }
        let text = |what: &str| format!("{what}{turn}").into();
        Ok(SigV4Keys { access_key_id: text("id"), secret_access_key: text("k"), session_token: Some(text("session")) })
    }
}

#[tokio::test]
async fn keys_are_kept_and_asked_for_again_when_they_are_refused() {
    let refused = answer("403 Forbidden", "", "");
    let fine = answer("200 OK", "", "");
    let server = Server::start(vec![fine.clone(), fine.clone(), refused.clone(), fine, refused]).await;
    let grant = format!("address = 'http://{}'\nallow-http = true", server.address);
    let api = endpoint(&grant, Some(sigv4(Renewed(AtomicU64::new(0)))));
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(api.send(&get("/")).await.expect("an answer").status);
    }
    assert_eq!(statuses, [200, 200, 200, 403], "the third was refused, and sent again with the new keys");
    let error = api.send(&get("/")).await.expect_err("the file is gone");
    assert_eq!(
        error.to_string(),
        "the credential keys of the endpoint api cannot be had: the file keys.txt cannot be read"
    );
    let key =
        |text: &String| text.split("Credential=").nth(1).and_then(|rest| rest.split('/').next()).map(str::to_owned);
    let keys: Vec<String> = server.seen().iter().filter_map(key).collect();
    assert_eq!(keys, ["id0", "id0", "id0", "id1", "id1"]);
    assert!(server.seen()[0].contains("x-amz-security-token: session0\r\n"));
}

#[tokio::test]
async fn keys_that_cannot_stand_in_a_header_are_named_and_not_shown() {
    let server = Server::start(vec![answer("200 OK", "", "")]).await;
    let grant = format!("address = 'http://{}'\nallow-http = true", server.address);
    for (keys, what) in [
        (Fixed("id\nhunter", "secret", None), "access key id"),
        (Fixed("id", "hunter 2", None), "secret access key"),
        (Fixed("id", "secret", Some("hunter\n2")), "session token"),
    ] {
        let error = endpoint(&grant, Some(sigv4(keys))).send(&get("/")).await.expect_err(what);
        assert!(matches!(error, HttpError::Credential { .. }) && error.to_string().contains(what), "{error}");
        assert!(!error.to_string().contains("hunter"), "{error}");
    }
    assert_eq!(server.seen().len(), 0);
}

#[tokio::test]
async fn nothing_shows_a_key() {
    let keys = Fixed("id", "hunter2", Some("hunter3"));
    let shown = format!("{:?}", keys.keys().expect("keys"));
    assert_eq!(shown, "SigV4Keys(hidden)");
    let api = endpoint("address = 'https://api.example.org'", Some(sigv4(keys)));
    assert_eq!(format!("{api:?}"), "Endpoint(api at https://api.example.org)");
}

/// A server with a certificate of an authority of its own.
async fn secure(host: &str) -> (SocketAddr, String) {
    let key = rcgen::generate_simple_self_signed(vec![host.to_owned()]).expect("a certificate");
    let config = tokio_rustls::rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], key.signing_key.into())
        .expect("a configuration");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(secured(acceptor.clone(), stream));
        }
    });
    (address, key.cert.pem())
}

async fn secured(acceptor: tokio_rustls::TlsAcceptor, stream: TcpStream) {
    if let Ok(stream) = acceptor.accept(stream).await {
        serve(stream, vec![answer("200 OK", "", "secure")], Arc::default()).await;
    }
}

#[tokio::test]
async fn only_the_operators_authorities_vouch_where_they_are_named() {
    let (address, pem) = secure("127.0.0.1").await;
    let grant = format!("address = 'https://{address}'");
    let clock = || Arc::new(SystemClock);
    let api = endpoint_with(&grant, None, Some(pem.into_bytes()), clock());
    assert_eq!(&api.send(&get("/")).await.expect("an answer").body[..], b"secure");
    let once = Request { timeout: Duration::from_secs(2), repeatable: false, ..get("/") };
    let error = endpoint(&grant, None).send(&once).await.expect_err("the system does not know it");
    assert!(error.to_string().contains("certificate"), "{error}");
    let (_, other) = secure("127.0.0.1").await;
    let api = endpoint_with(&grant, None, Some(other.into_bytes()), clock());
    api.send(&once).await.expect_err("another authority");
    let (address, pem) = secure("other.example.org").await;
    let api = endpoint_with(&format!("address = 'https://{address}'"), None, Some(pem.into_bytes()), clock());
    let error = api.send(&once).await.expect_err("a certificate for somebody else");
    assert!(error.to_string().contains("name") || error.to_string().contains("not valid for"), "{error}");
}

#[test]
fn certificates_that_are_none_are_refused() {
    let grant: EndpointGrant = toml::from_str("address = 'https://a'").expect("a grant");
    for text in ["", "no certificate"] {
        let options = EndpointOptions {
            name: "api".parse().expect("a name"),
            grant: grant.clone(),
            certificates: Some(text.as_bytes().to_vec()),
            signing: None,
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SeededEntropy::new(1)),
        };
        let error = Endpoint::new(options).expect_err("no certificate");
        assert_eq!(error.code().to_string(), "FS2501");
    }
}
