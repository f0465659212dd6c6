//! An API that can be asked.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use farshore_core::{Clock, CredentialName, EndpointName, Entropy};
use reqwest::{Certificate, Client, redirect};

use crate::{
    ApiAddress, EndpointError, EndpointGrant, HttpError, Request, Response, SigV4, SigV4Keys,
    pace::Pace,
    resolve::{JudgedResolver, Refused},
    sign::Signer,
};

/// A connection is made within this time, or not.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Connections that nobody uses are kept for so long.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Connections that nobody uses are kept, so many.
const IDLE_CONNECTIONS_MAX: usize = 32;
/// The most that a pause between attempts can be grows from here,
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// to here.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// An attempt of a request that may be sent again waits at least this long for its answer.
const ATTEMPT_MIN: Duration = Duration::from_secs(5);
/// Signatures are refused when clocks differ by more than this. (AWS allows five minutes, some services more.)
const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(300);

/// What an endpoint is made of.
pub struct EndpointOptions {
    /// Its name, for sentences.
    pub name: EndpointName,
    /// What the operator granted. Files that it names are read by the caller.
    pub grant: EndpointGrant,
    /// The text of the grant's certificates: PEM.
    pub certificates: Option<Vec<u8>>,
    /// What the grant's credential signs with.
    pub signing: Option<SigV4>,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where the randomness of pauses comes from.
    pub entropy: Arc<dyn Entropy>,
}

/// An API that can be asked. Connections are pooled; requests run side by side.
pub struct Endpoint {
    name: EndpointName,
    address: ApiAddress,
    credential: Option<CredentialName>,
    client: Client,
    signer: Option<Signer>,
    pace: Pace,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Endpoint({} at {})", self.name, self.address)
    }
}

/// An endpoint is equal to itself: another with the same grant has connections and a pace of its own.
impl PartialEq for Endpoint {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Endpoint {}

/// What is done after an attempt.
enum Verdict {
    /// It is the answer.
    Final,
    /// It is worth another attempt, not before this long.
    Again(Duration),
}

impl Endpoint {
    /// The endpoint of a grant. Nothing is contacted.
    ///
    /// # Errors
    /// When the grant contradicts itself, or its certificates are none.
    pub fn new(options: EndpointOptions) -> Result<Self, EndpointError> {
        let EndpointOptions { name, grant, certificates, signing, clock, entropy } = options;
        if let Some(why) = grant.contradiction() {
            return Err(EndpointError::Contradiction { endpoint: name, why });
        }
        let mut client = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .http1_only()
            .https_only(!grant.allow_http)
            .connect_timeout(CONNECT_MAX)
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .tcp_nodelay(true)
            .referer(false)
            .user_agent(concat!("farshore/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(JudgedResolver { networks: grant.networks.clone() });
        if let Some(text) = certificates {
            let unreadable = |why: String| EndpointError::Certificates { endpoint: name.clone(), why };
            let certificates = Certificate::from_pem_bundle(&text).map_err(|error| unreadable(error.to_string()))?;
            if certificates.is_empty() {
                return Err(unreadable("there is no certificate in the file".to_owned()));
            }
            client = client.tls_certs_only(certificates);
        }
        let client = client.build().map_err(|source| EndpointError::Client { endpoint: name.clone(), source })?;
        Ok(Self {
            name,
            address: grant.address,
            credential: grant.credential,
            client,
            signer: signing.map(Signer::new),
            pace: Pace::new(Arc::clone(&clock), grant.requests_per_second.map(u32::from)),
            clock,
            entropy,
        })
    }

    /// Where it is.
    pub fn address(&self) -> &ApiAddress {
        &self.address
    }

    /// Sends a request and returns what was answered, whatever its status.
    ///
    /// One that may be sent again is: after no answer, after a throttle and after a server's failure, until its time is
    /// over; then what happened last is returned. One that may not is sent again only if it certainly was not sent.
    ///
    /// # Errors
    /// When there is no answer, or none that can be used.
    pub async fn send(&self, request: &Request) -> Result<Response, HttpError> {
        let url = request.url_at(&self.address)?;
        let deadline = self.clock.monotonic().saturating_add(request.timeout);
        let (mut attempt, mut renewed) = (0_u32, false);
        loop {
            attempt = attempt.saturating_add(1);
            let keys = self.keys().await?;
            let result = self.attempt(request, &url, keys.as_ref(), deadline).await;
            if let (Ok(Response { status: 400 | 401 | 403, .. }), Some(signer), Some(keys), false) =
                (&result, &self.signer, &keys, renewed)
                && signer.renew(keys, &*self.clock).await
            {
                // What was refused was not carried out.
                renewed = true;
                continue;
            }
            let verdict = match &result {
                Ok(response) => self.judge(request, response),
                Err(error) => self.judge_error(request, error),
            };
            let left = deadline.saturating_sub(self.clock.monotonic());
            match verdict {
                Verdict::Again(least) => {
                    let pause = self.pause(attempt).max(least);
                    if pause >= left {
                        return result;
                    }
                    tracing::debug!(endpoint = %self.name, attempt, ?pause, "a request is sent again");
                    self.clock.sleep(pause).await;
                }
                Verdict::Final => {
                    self.check_clocks(request, result.as_ref().ok())?;
                    return result;
                }
            }
        }
    }

    /// One attempt, from its turn to the end of its answer.
    async fn attempt(
        &self,
        request: &Request,
        url: &url::Url,
        keys: Option<&SigV4Keys>,
        deadline: Duration,
    ) -> Result<Response, HttpError> {
        let left = deadline.saturating_sub(self.clock.monotonic());
        if !self.pace.turn(left).await {
            return Err(HttpError::NoTurn { address: self.address.to_string(), request: shown(request) });
        }
        let left = deadline.saturating_sub(self.clock.monotonic());
        // Where another attempt is possible, one that hears nothing does not use up all the time.
        let limit = if request.repeatable { (request.timeout / 3).max(ATTEMPT_MIN).min(left) } else { left };
        tokio::select! {
            result = self.exchange(request, url, keys) => result,
            () = self.clock.sleep(limit) => {
                Err(HttpError::TimedOut { address: self.address.to_string(), request: shown(request), limit })
            }
        }
    }

    /// The keys that sign, if there are any.
    async fn keys(&self) -> Result<Option<SigV4Keys>, HttpError> {
        let (Some(signer), Some(credential)) = (&self.signer, &self.credential) else { return Ok(None) };
        let keys = signer.keys(&*self.clock).await.map_err(|source| HttpError::Credential {
            endpoint: self.name.clone(),
            credential: credential.clone(),
            source,
        })?;
        Ok(Some(keys))
    }

    async fn exchange(
        &self,
        request: &Request,
        url: &url::Url,
        keys: Option<&SigV4Keys>,
    ) -> Result<Response, HttpError> {
        let mut builder = self.client.request(request.method.word(), url.clone());
        if let (Some(signer), Some(keys)) = (&self.signer, keys) {
            let invalid = |why| HttpError::Invalid { address: self.address.to_string(), why };
            for (name, value) in signer.sign(keys, request, url, self.clock.now()).map_err(invalid)? {
                builder = builder.header(name, value);
            }
        }
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        let sent = builder.body(request.body.clone()).send().await;
        let answer = sent.map_err(|error| self.unanswered(request, error))?;
        let status = answer.status().as_u16();
        let headers = answer.headers().iter();
        let headers = headers
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
            .collect();
        let body = self.body(request, answer).await?;
        Ok(Response { status, headers, body })
    }

    async fn body(&self, request: &Request, mut answer: reqwest::Response) -> Result<Bytes, HttpError> {
        let bytes_max = request.response_bytes_max;
        let told = answer.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        let mut body = BytesMut::with_capacity(told.min(bytes_max));
        while let Some(part) = answer.chunk().await.map_err(|error| self.unanswered(request, error))? {
            if body.len().saturating_add(part.len()) > bytes_max {
                return Err(HttpError::TooLarge {
                    address: self.address.to_string(),
                    request: shown(request),
                    bytes_max,
                });
            }
            body.extend_from_slice(&part);
        }
        Ok(body.freeze())
    }

    fn unanswered(&self, request: &Request, error: reqwest::Error) -> HttpError {
        if let Some(refused) = refused_address(&error) {
            let (host, found) = (self.address.host().to_owned(), refused.found.clone());
            return HttpError::AddressRefused { endpoint: self.name.clone(), host, found };
        }
        if error.is_builder() {
            let why = "it holds what no request can hold".to_owned();
            return HttpError::Invalid { address: self.address.to_string(), why };
        }
        HttpError::Unreachable {
            address: self.address.to_string(),
            request: shown(request),
            was_sent: !error.is_connect(),
            source: error.without_url(),
        }
    }

    fn judge(&self, request: &Request, response: &Response) -> Verdict {
        let throttled = request.is_throttled_by(response);
        if throttled {
            self.pace.throttled();
        } else if response.status < 500 {
            self.pace.answered();
        }
        let failed = matches!(response.status, 408 | 500 | 502 | 504);
        if request.repeatable && (throttled || failed) {
            let told = response.header("retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs);
            return Verdict::Again(told.unwrap_or_default());
        }
        Verdict::Final
    }

    fn judge_error(&self, request: &Request, error: &HttpError) -> Verdict {
        match error {
            HttpError::Unreachable { .. } if request.repeatable || error.was_not_sent() => {
                Verdict::Again(Duration::ZERO)
            }
            HttpError::TimedOut { .. } if request.repeatable => Verdict::Again(Duration::ZERO),
            _ => Verdict::Final,
        }
    }

    /// A pause at random, whose most is twice that of the one before.
    fn pause(&self, attempt: u32) -> Duration {
        let most = PAUSE_MIN.saturating_mul(1 << attempt.min(16)).min(PAUSE_MAX);
        let mut bytes = [0; 4];
        self.entropy.fill(&mut bytes);
        let share = f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX);
        most.mul_f64(share).max(PAUSE_MIN / 2)
    }

    /// Whether a refusal comes of clocks that differ: the service names the time in its answer.
    fn check_clocks(&self, request: &Request, response: Option<&Response>) -> Result<(), HttpError> {
        let Some(response) = response.filter(|response| matches!(response.status, 400 | 401 | 403)) else {
            return Ok(());
        };
        let date = response.header("date").and_then(|text| httpdate::parse_http_date(text).ok());
        let theirs = date.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let (Some(theirs), true) = (theirs, self.signer.is_some()) else { return Ok(()) };
        let ours = Duration::from_millis(self.clock.now().as_unix_milliseconds().max(0).unsigned_abs());
        let difference = ours.abs_diff(theirs);
        if difference <= CLOCK_DIFFERENCE_MAX {
            return Ok(());
        }
        Err(HttpError::ClockDiffers {
            address: self.address.to_string(),
            request: shown(request),
            status: response.status,
            seconds: difference.as_secs(),
            direction: if ours > theirs { "ahead of" } else { "behind" },
        })
    }
}

/// A request for a sentence: without its query.
fn shown(request: &Request) -> String {
    format!("{} {}", request.method.word(), request.path())
}

fn refused_address(error: &reqwest::Error) -> Option<&Refused> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref::<Refused>() {
            return Some(refused);
        }
        cause = error.source();
    }
    None
}
