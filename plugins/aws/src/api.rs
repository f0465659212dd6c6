//! The APIs: EC2's query protocol, with forms and XML, and EBS direct and Service Quotas, with JSON.
//!
//! Requests that do no harm when they are carried out twice are repeated by the host, until their time is over. What an
//! answer means is for the caller to say: that a thing is not there can mean that it is not there yet.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    answers::{Failures, Page},
    error::{ApiError, PlatformError},
    ports::{Header, Host, HostError, Method, Request, Response},
    tags::Tags,
};

/// What a call of the host's may take before it hands back what it has done. The host ends it after 30 s, and one request may
/// take twelve of them.
#[derive(Clone, Copy)]
pub struct Watch<'h> {
    host: &'h dyn Host,
    began_nanoseconds: u64,
}

impl<'h> Watch<'h> {
    /// From now on.
    ///
    /// # Errors
    /// The call is over.
    pub fn start(host: &'h dyn Host) -> Result<Self, PlatformError> {
        let now = host.monotonic_nanoseconds();
        let began_nanoseconds = now.map_err(|error| crate::error::while_doing("reading the clock", error))?;
        Ok(Self { host, began_nanoseconds })
    }

    /// Whether so many milliseconds have passed.
    pub fn has_passed(&self, milliseconds: u64) -> bool {
        let passed = |now: u64| now.saturating_sub(self.began_nanoseconds) >= milliseconds.saturating_mul(1_000_000);
        self.host.monotonic_nanoseconds().map_or(true, passed)
    }
}

/// The endpoint of EC2.
pub const EC2: &str = "ec2";
/// The endpoint of EBS direct.
pub const EBS: &str = "ebs";
/// The endpoint of Service Quotas.
pub const SERVICE_QUOTAS: &str = "servicequotas";

const EC2_VERSION: &str = "2016-11-15";
const TIMEOUT_MILLISECONDS: u32 = 12_000;
/// How many things are on a page of a listing: their XML is to be less than what the host takes of an answer.
pub const PAGE_RESULTS: u32 = 400;
/// A listing that does not end is none.
const PAGES_MAX: usize = 200;
/// What the services call a throttle where the status does not say so.
pub const THROTTLE_WORDS: [&str; 5] = [
    "ConcurrentLimitExceededException",
    "RequestLimitExceeded",
    "RequestThrottledException",
    "ThrottlingException",
    "TooManyRequestsException",
];

/// What a call of an API returns.
pub type ApiResult<T> = Result<T, ApiError>;

/// A call of EC2.
#[derive(Debug, Clone)]
pub struct Call {
    action: &'static str,
    parameters: Vec<(String, String)>,
    is_repeatable: bool,
}

impl Call {
    /// One that does no harm when it is carried out twice.
    pub fn new(action: &'static str) -> Self {
        Self { action, parameters: Vec::new(), is_repeatable: true }
    }

    /// It makes something each time that it is carried out.
    pub fn only_once(self) -> Self {
        Self { is_repeatable: false, ..self }
    }

    /// With a parameter.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl fmt::Display) -> Self {
        self.parameters.push((name.into(), value.to_string()));
        self
    }

    /// With `NAME.1`, `NAME.2` and so on.
    #[must_use]
    pub fn list<'v>(self, name: &str, values: impl IntoIterator<Item = &'v str>) -> Self {
        (1..).zip(values).fold(self, |call, (number, value): (u32, _)| call.with(format!("{name}.{number}"), value))
    }

    /// With a filter: one of the values fits.
    #[must_use]
    pub fn filter<'v>(self, name: &str, values: impl IntoIterator<Item = &'v str>) -> Self {
        let number = self.parameters.iter().filter(|(known, _)| known.ends_with(".Name")).count().saturating_add(1);
        self.with(format!("Filter.{number}.Name"), name).list(&format!("Filter.{number}.Value"), values)
    }

    /// With the tags that what it makes gets: `kind` is EC2's word for it, such as `snapshot`.
    #[must_use]
    pub fn tagged(mut self, kind: &str, tags: &Tags) -> Self {
        let specifications = self.parameters.iter().filter(|(known, _)| known.ends_with(".ResourceType")).count();
        let prefix = format!("TagSpecification.{}", specifications.saturating_add(1));
        self = self.with(format!("{prefix}.ResourceType"), kind);
        self.tag_list(&format!("{prefix}.Tag"), tags)
    }

    /// With `NAME.1.Key`, `NAME.1.Value` and so on.
    #[must_use]
    pub fn tag_list(self, name: &str, tags: &Tags) -> Self {
        (1..).zip(tags).fold(self, |call, (number, (key, value)): (u32, _)| {
            call.with(format!("{name}.{number}.Key"), key).with(format!("{name}.{number}.Value"), value)
        })
    }

    fn body(&self) -> Vec<u8> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("Action", self.action).append_pair("Version", EC2_VERSION);
        form.extend_pairs(&self.parameters);
        form.finish().into_bytes()
    }
}

/// All of them.
#[derive(Clone, Copy)]
pub struct Api<'h> {
    /// Who sends.
    pub host: &'h dyn Host,
}

impl<'h> Api<'h> {
    /// The APIs that this host reaches.
    pub fn new(host: &'h dyn Host) -> Self {
        Self { host }
    }

    /// Calls EC2.
    ///
    /// # Errors
    /// No answer, a refusal, or an answer that cannot be read.
    pub fn ec2<T: DeserializeOwned>(&self, call: &Call) -> ApiResult<T> {
        let request = Request {
            method: Method::Post,
            target: "/".into(),
            headers: vec![header("content-type", "application/x-www-form-urlencoded; charset=utf-8")],
            body: call.body(),
            repeatable: call.is_repeatable,
            timeout_milliseconds: TIMEOUT_MILLISECONDS,
            throttle_words: THROTTLE_WORDS.map(str::to_owned).to_vec(),
        };
        let response = self.host.send(EC2, &request).map_err(ApiError::Unanswered)?;
        let text = String::from_utf8_lossy(&response.body);
        if !is_success(&response) {
            let failure = quick_xml::de::from_str::<Failures>(&text).ok().and_then(Failures::first);
            return Err(refusal(call.action, &response, failure));
        }
        quick_xml::de::from_str(&text)
            .map_err(|error| unclear(format!("EC2's answer to {} cannot be read: {error}", call.action)))
    }

    /// Calls EC2, and does not look at what it answers.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub fn ec2_done(&self, call: &Call) -> ApiResult<()> {
        self.ec2::<crate::answers::Nothing>(call).map(drop)
    }

    /// All pages of a listing of EC2.
    ///
    /// # Errors
    /// As of [`ec2`](Self::ec2), or there is no end of it.
    pub fn all<P: Page>(&self, call: &Call) -> ApiResult<Vec<P::Item>> {
        let mut items = Vec::new();
        let mut next: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let call = match &next {
                Some(token) => call.clone().with("NextToken", token),
                None => call.clone(),
            };
            let (more, token) = self.ec2::<P>(&call)?.into_parts();
            items.extend(more);
            next = token.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(items);
            }
        }
        Err(unclear(format!("EC2's answer to {} has no end", call.action)))
    }

    /// Calls EBS direct. The answer is JSON.
    ///
    /// # Errors
    /// No answer, a refusal, or an answer that cannot be read.
    pub fn ebs(&self, method: Method, target: String, headers: Vec<Header>, body: Option<&Value>) -> ApiResult<Value> {
        let what = format!("{method:?} {}", target.split('?').next().unwrap_or_default());
        let mut headers = headers;
        if body.is_some() {
            headers.push(header("content-type", "application/json"));
        }
        let request = Request {
            method,
            target,
            headers,
            body: body.map(|body| body.to_string().into_bytes()).unwrap_or_default(),
            // Snapshots are begun with a token, and completed once.
            repeatable: true,
            timeout_milliseconds: TIMEOUT_MILLISECONDS,
            throttle_words: THROTTLE_WORDS.map(str::to_owned).to_vec(),
        };
        json(&what, "EBS", &self.host.send(EBS, &request).map_err(ApiError::Unanswered)?)
    }

    /// Calls Service Quotas: an operation that does no harm when it is carried out twice, such as `GetServiceQuota`.
    ///
    /// # Errors
    /// No answer, a refusal, or an answer that cannot be read.
    pub fn service_quotas(&self, operation: &str, body: &Value) -> ApiResult<Value> {
        let request = Request {
            method: Method::Post,
            target: "/".into(),
            headers: vec![
                header("content-type", "application/x-amz-json-1.1"),
                header("x-amz-target", format!("ServiceQuotasV20190624.{operation}")),
            ],
            body: body.to_string().into_bytes(),
            repeatable: true,
            timeout_milliseconds: TIMEOUT_MILLISECONDS,
            throttle_words: THROTTLE_WORDS.map(str::to_owned).to_vec(),
        };
        let response = self.host.send(SERVICE_QUOTAS, &request).map_err(ApiError::Unanswered)?;
        json(operation, "Service Quotas", &response)
    }
}

/// The answer of an API that speaks JSON.
fn json(what: &str, service: &str, response: &Response) -> ApiResult<Value> {
    let json = serde_json::from_slice::<Value>(&response.body);
    if is_success(response) {
        return json.map_err(|error| unclear(format!("the answer of {service} to {what} cannot be read: {error}")));
    }
    let failure = json.ok().and_then(|answer| {
        let text = |names: [&str; 2]| {
            let found = names.iter().find_map(|name| answer.get(name)?.as_str());
            found.map(|text| text.rsplit('#').next().unwrap_or(text).to_owned())
        };
        // The kind of the refusal stands in a header, or in the body.
        let kind = header_of(response, "x-amzn-errortype").or_else(|| text(["__type", "code"]))?;
        let message = text(["message", "Message"]).unwrap_or_default();
        let reason = answer.get("Reason").and_then(Value::as_str).map(|reason| format!(" ({reason})"));
        Some((kind, format!("{message}{}", reason.unwrap_or_default())))
    });
    Err(refusal(what, response, failure))
}

/// What is not the answer that it should be.
pub fn unclear(message: String) -> ApiError {
    ApiError::Unclear { code: String::new(), message }
}

/// A header.
pub fn header(name: &str, value: impl Into<String>) -> Header {
    Header { name: name.to_owned(), value: value.into() }
}

fn header_of(response: &Response, name: &str) -> Option<String> {
    let found = response.headers.iter().find(|header| header.name == name)?;
    // A URL may follow the kind.
    Some(found.value.split(':').next().unwrap_or_default().to_owned())
}

fn is_success(response: &Response) -> bool {
    (200..300).contains(&response.status)
}

fn refusal(what: &str, response: &Response, failure: Option<(String, String)>) -> ApiError {
    let status = response.status;
    match failure {
        Some((code, message)) if status < 500 || status == 503 => ApiError::Refused { status, code, message },
        Some((code, message)) => {
            let message = format!("the service failed at {what} (status {status}): {code}: {message}");
            ApiError::Unclear { code, message }
        }
        None if status < 500 => ApiError::Refused {
            status,
            code: "NoReason".into(),
            message: format!("{what} was answered with the status {status}"),
        },
        None => unclear(format!("the service failed at {what} (status {status})")),
    }
}

/// Waits for a moment inside a call.
///
/// # Errors
/// The call is over.
pub fn wait(host: &dyn Host, milliseconds: u32) -> Result<(), PlatformError> {
    host.sleep(milliseconds).map_err(|error: HostError| crate::error::while_doing("waiting", error))
}
