//! One collector that can be told: a POST of protobuf for each batch (OTLP 1.x over HTTP).

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use farshore_core::{Clock, Passphrase};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::InstrumentationScope,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span as WireSpan},
};
use prost::Message as _;
use reqwest::{
    Certificate, Client, Response,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect,
};
use url::Url;

use crate::{TelemetryError, TelemetryTarget, quote::quote, wire};

/// How a body is written, and the answer to it.
const PROTOBUF: &str = "application/x-protobuf";
/// Of an answer so much is read, so that a secret in it is seen whole before it is cut;
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// and so long is it waited for: the status says more than what follows.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// A word of a header's value that is as long as this is taken for a secret of its own, such as the token after `Bearer`.
const SECRET_BYTES_MIN: usize = 8;

/// The program that exports, and where it runs.
#[derive(Debug, Clone)]
pub struct Service {
    /// The program's version.
    pub version: String,
    /// What tells this instance from all others, also from those on the same host.
    pub instance: String,
    /// The host's name.
    pub host: String,
}

/// One collector that can be told.
pub struct Collector {
    name: String,
    url: Url,
    timeout: Duration,
    client: Client,
    headers: HeaderMap,
    /// What of the headers may not be shown, the longest first.
    secrets: Vec<Passphrase>,
    resource: Resource,
    scope: InstrumentationScope,
}

impl fmt::Debug for Collector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Collector({})", self.name)
    }
}

impl Collector {
    /// The collector of a target. `headers` go with each request, and all their values are kept secret;
    /// `certificates_pem` is what the target's file of authorities holds. Nothing is contacted.
    ///
    /// # Errors
    /// [`TelemetryError::Unusable`].
    pub fn new(
        target: &TelemetryTarget,
        service: &Service,
        headers: BTreeMap<String, Passphrase>,
        certificates_pem: Option<&[u8]>,
    ) -> Result<Self, TelemetryError> {
        let url = target.url();
        let host = url.as_ref().ok().and_then(Url::host_str);
        let name = host.map_or("the collector".to_owned(), |host| format!("the collector at {host}"));
        let unusable = |why| TelemetryError::Unusable { collector: name.clone(), why };
        if let Some((key, why)) = target.problems().into_iter().next() {
            return Err(unusable(format!("`{key}`: {why}")));
        }
        if target.certificates.is_some() && certificates_pem.is_none() {
            return Err(unusable("the file of its certificates was not read".to_owned()));
        }
        let url = url.map_err(unusable)?;
        let client = client(&url, certificates_pem).map_err(unusable)?;
        let (headers, secrets) = prepare(headers).map_err(unusable)?;
        let resource = resource(target, service);
        let scope = InstrumentationScope {
            name: "farshore".to_owned(),
            version: service.version.clone(),
            ..InstrumentationScope::default()
        };
        Ok(Self { name, url, timeout: target.timeout, client, headers, secrets, resource, scope })
    }

    /// What it is called in a sentence, such as `the collector at otel.example.org`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The body of a request with these spans.
    pub(crate) fn body(&self, spans: Vec<WireSpan>) -> Bytes {
        let scope_spans = ScopeSpans { scope: Some(self.scope.clone()), spans, ..ScopeSpans::default() };
        let resource_spans = ResourceSpans {
            resource: Some(self.resource.clone()),
            scope_spans: vec![scope_spans],
            ..ResourceSpans::default()
        };
        ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec().into()
    }

    /// Tells it once, within the target's time. If this is cancelled, or the answer is lost, it may have taken the spans all
    /// the same; it knows them again by their ids.
    pub(crate) async fn send(&self, body: Bytes, clock: &dyn Clock) -> Result<(), TelemetryError> {
        tokio::select! {
            biased;
            result = self.post(body, clock) => result,
            () = clock.sleep(self.timeout) => {
                Err(TelemetryError::TimedOut { collector: self.name.clone(), limit: self.timeout })
            }
        }
    }

    async fn post(&self, body: Bytes, clock: &dyn Clock) -> Result<(), TelemetryError> {
        let collector = self.name.clone();
        let request = self.client.post(self.url.clone()).headers(self.headers.clone()).body(body);
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => {
                return Err(TelemetryError::Unreachable { collector, source: Box::new(error.without_url()) });
            }
        };
        let (status, retry_after) = (answer.status(), retry_after(&answer, clock));
        let is_protobuf = answer.headers().get(CONTENT_TYPE).is_some_and(|form| form == PROTOBUF);
        let bytes = beginning(answer, clock).await;
        if status.is_success() {
            // What cannot be read is no refusal.
            let decoded = ExportTraceServiceResponse::decode(&*bytes).ok().filter(|_| is_protobuf);
            let remark = decoded.and_then(|response| response.partial_success).unwrap_or_default();
            let rejected_spans = u64::try_from(remark.rejected_spans).unwrap_or(0);
            if rejected_spans == 0 && remark.error_message.is_empty() {
                return Ok(());
            }
            return Err(TelemetryError::Partly { collector, rejected_spans, said: self.quote(&remark.error_message) });
        }
        let decoded = RpcStatus::decode(&*bytes).ok().filter(|_| is_protobuf);
        let text = decoded.map_or_else(|| String::from_utf8_lossy(&bytes).into_owned(), |status| status.message);
        Err(TelemetryError::Status { collector, status: status.as_u16(), retry_after, said: self.quote(&text) })
    }

    fn quote(&self, text: &str) -> String {
        quote(text, self.secrets.iter().map(Passphrase::expose))
    }
}

/// What an answer says that is no success (`google/rpc/status.proto`); its details are left out.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

fn client(url: &Url, certificates_pem: Option<&[u8]>) -> Result<Client, String> {
    // Batches are seconds apart: a connection that is kept would often be closed by the other side when it is used again.
    let mut client = Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .http1_only()
        .https_only(url.scheme() == "https")
        .pool_max_idle_per_host(0)
        .referer(false)
        .user_agent("farshore");
    if let Some(pem) = certificates_pem {
        let unreadable = |why: &str| format!("its certificates cannot be read: {why}");
        let certificates = Certificate::from_pem_bundle(pem).map_err(|error| unreadable(&error.to_string()))?;
        if certificates.is_empty() {
            return Err(unreadable("there is none in the file"));
        }
        client = client.tls_certs_only(certificates);
    }
    client.build().map_err(|error| error.to_string())
}

/// The headers of each request, and what of them may not be shown.
fn prepare(given: BTreeMap<String, Passphrase>) -> Result<(HeaderMap, Vec<Passphrase>), String> {
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(PROTOBUF))]);
    let mut secrets = Vec::new();
    for (name, secret) in given {
        if let Some(why) = TelemetryTarget::header_problem(&name) {
            return Err(why);
        }
        let text = secret.expose().trim();
        let value = HeaderValue::from_str(text).ok().filter(|_| !text.is_empty());
        let value = value.zip(HeaderName::from_bytes(name.as_bytes()).ok());
        let Some((mut value, header)) = value else {
            return Err(format!("the value of the header `{name}` is empty or has a character that none may have"));
        };
        value.set_sensitive(true);
        headers.insert(header, value);
        let words = text.split_whitespace().filter(|word| word.len() >= SECRET_BYTES_MIN).map(Passphrase::new);
        secrets.extend(words.chain([Passphrase::new(text)]));
    }
    // A part is hidden after the whole, which could not be found any more otherwise.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.expose().len()));
    Ok((headers, secrets))
}

/// Who says it, by the names of OpenTelemetry's semantic conventions for a service and a host.
fn resource(target: &TelemetryTarget, service: &Service) -> Resource {
    let mut attributes = BTreeMap::from([
        ("service.name", "farshore"),
        ("service.version", &service.version),
        ("service.instance.id", &service.instance),
        ("host.name", &service.host),
    ]);
    attributes.extend(target.resource.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let attributes = attributes.into_iter().map(|(name, value)| wire::attribute(name, value.into()));
    Resource { attributes: attributes.collect(), ..Resource::default() }
}

/// How long it wants to be left alone: in seconds, or until a date.
fn retry_after(answer: &Response, clock: &dyn Clock) -> Option<Duration> {
    let text = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let now = Duration::from_millis(u64::try_from(clock.now().as_unix_milliseconds()).unwrap_or(0));
    Some(until.saturating_sub(now))
}

/// As much of an answer as arrives: its status is known already, so that an end before its time changes nothing.
async fn beginning(mut answer: Response, clock: &dyn Clock) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reading = async {
        while bytes.len() < ANSWER_BYTES_MAX
            && let Ok(Some(part)) = answer.chunk().await
        {
            bytes.extend_from_slice(&part);
        }
    };
    tokio::select! {
        biased;
        () = reading => {}
        () = clock.sleep(ANSWER_MAX) => {}
    }
    bytes
}
