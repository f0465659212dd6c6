//! The API at a TCP address: with TLS and a token, or not at all.
//!
//! A handshake holds nobody up: many are under way at once, and each has a limit, as connections have. The certificate is read again when the configuration
//! is, so that a renewed one counts from the next connection on; one that cannot be read leaves the old one in place.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::{Context as Polling, Poll},
    time::Duration,
};

use axum::{
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::Response,
    serve::Listener,
};
use farshore_core::Clock;
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
    server::TlsStream,
};

use crate::{
    config::{Configuration, model::Listen, secret::read_certificates},
    context::Context,
    error::CliError,
    output::Failure,
};

/// Connections at once, at most, so that whoever reaches the port cannot take the handles that cycles need.
const CONNECTIONS_MAX: usize = 128;
/// How long a handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// A shorter token can be guessed.
const TOKEN_BYTES_MIN: usize = 20;

/// What shows who this host is, and what whoever asks has to show.
#[derive(Clone)]
pub struct Identity {
    tls: Arc<RwLock<Arc<ServerConfig>>>,
    /// The token's BLAKE3 hash: comparing hashes tells nothing by the time that it takes.
    token: Arc<RwLock<blake3::Hash>>,
}

impl Identity {
    /// Reads the certificate, its key and the token; none if the configuration names no address.
    ///
    /// # Errors
    /// When one of them cannot be read or used.
    pub fn read(context: &Context, configuration: &Configuration) -> Result<Option<Self>, Failure> {
        let Some(listen) = &configuration.host.listen else { return Ok(None) };
        let (tls, token) = read(context, configuration, listen)?;
        Ok(Some(Self { tls: Arc::new(RwLock::new(tls)), token: Arc::new(RwLock::new(token)) }))
    }

    /// Takes these over from what was read anew.
    pub fn renew(&self, other: &Self) {
        let tls = Arc::clone(&other.tls.read().unwrap_or_else(PoisonError::into_inner));
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = tls;
        let token = *other.token.read().unwrap_or_else(PoisonError::into_inner);
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = token;
    }

    fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.tls.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn knows(&self, token: &[u8]) -> bool {
        blake3::hash(token) == *self.token.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(
    context: &Context,
    configuration: &Configuration,
    listen: &Listen,
) -> Result<(Arc<ServerConfig>, blake3::Hash), Failure> {
    let secret = |what: &str, place| {
        let refused = |source| CliError::Secret { what: what.to_owned(), source };
        configuration.secret(context.output, place).map_err(refused)
    };
    let token = secret("the token of [host.listen]", &listen.token)?;
    if token.len() < TOKEN_BYTES_MIN {
        let why = format!("the token has fewer than {TOKEN_BYTES_MIN} characters");
        return Err(CliError::ListenUnusable { why }.into());
    }
    let key = secret("the key of [host.listen]", &listen.key)?;
    let path = configuration.path(&listen.certificate);
    let chain = read_certificates(&path).map_err(|source| CliError::CertificatesUnreadable { path, source })?;
    let unusable =
        |what: &str, error: &dyn std::fmt::Display| CliError::ListenUnusable { why: format!("{what}: {error}") };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable("the certificate is not PEM", &error))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| unusable("the key is not PEM", &error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("TLS cannot be used", &error))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| unusable("the certificate and its key cannot be used", &error))?;
    Ok((Arc::new(tls), blake3::hash(token.as_bytes())))
}

/// Lets nobody in without the token, but to what asks only whether the daemon lives.
pub async fn check_token(State(identity): State<Identity>, request: Request, next: Next) -> Response {
    let given =
        request.headers().get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if request.uri().path() == "/healthz" || given.is_some_and(|token| identity.knows(token)) {
        return next.run(request).await;
    }
    super::api::unauthorised()
}

type Handshake = BoxFuture<'static, Option<(Limited, SocketAddr)>>;

/// A connection, which has one of a limited number of places.
pub struct Limited {
    stream: TlsStream<TcpStream>,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Limited {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Polling<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Limited {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Polling<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Polling<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Polling<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Accepts connections with TLS.
pub struct TlsListener {
    listener: TcpListener,
    identity: Identity,
    clock: Arc<dyn Clock>,
    handshakes: FuturesUnordered<Handshake>,
    places: Arc<Semaphore>,
}

impl TlsListener {
    /// Listens there.
    ///
    /// # Errors
    /// When nobody can.
    pub async fn bind(address: SocketAddr, identity: Identity, clock: Arc<dyn Clock>) -> Result<Self, CliError> {
        let unusable = |error: std::io::Error| CliError::ListenUnusable { why: format!("{address}: {error}") };
        let listener = TcpListener::bind(address).await.map_err(unusable)?;
        Ok(Self {
            listener,
            identity,
            clock,
            handshakes: FuturesUnordered::new(),
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        })
    }

    fn shake_hands(&self, stream: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit) -> Handshake {
        let (acceptor, clock) = (self.identity.acceptor(), Arc::clone(&self.clock));
        Box::pin(async move {
            let accepted = tokio::select! {
                accepted = acceptor.accept(stream) => accepted,
                () = clock.sleep(HANDSHAKE_MAX) => return None,
            };
            match accepted {
                Ok(stream) => Some((Limited { stream, _place: place }, peer)),
                Err(error) => {
                    tracing::debug!(%peer, "no TLS: {error}");
                    None
                }
            }
        })
    }
}

impl Listener for TlsListener {
    type Io = Limited;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                (stream, peer) = Listener::accept(&mut self.listener) => {
                    // Who finds no place is turned away: somebody may hold all of them and say nothing.
                    if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
                        let handshake = self.shake_hands(stream, peer, place);
                        self.handshakes.push(handshake);
                    }
                }
                Some(ended) = self.handshakes.next(), if !self.handshakes.is_empty() => {
                    if let Some(accepted) = ended {
                        return accepted;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
