//! The collector as the operator writes it.
//!
//! ```toml
//! endpoint = "https://collector.example.org:4318"
//! timeout = "10s"
//! resource."deployment.environment.name" = "production"
//! ```
//!
//! The values of headers do not stand here; they are handed over when a [`Collector`](crate::Collector) is made.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use reqwest::header::HeaderName;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// Where spans are posted below an address that does not say so.
const TRACES_PATH: &str = "/v1/traces";
/// What a collector has for its answer, as the protocol's exporters have it, and at most.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// What is written here itself, so that neither the framing nor the body's form can be replaced.
const RESERVED_HEADERS: [&str; 8] =
    ["connection", "content-encoding", "content-length", "content-type", "expect", "host", "te", "transfer-encoding"];

/// Who takes the traces, by OTLP over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TelemetryTarget {
    /// The collector: `https://`, or `http://` on this machine. `/v1/traces` is added unless the path ends so.
    pub endpoint: String,
    /// How long it has for an answer.
    #[serde(default = "timeout_default", with = "duration")]
    pub timeout: Duration,
    /// A PEM file of the authorities that may vouch for it, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<PathBuf>,
    /// What is said of this host beside its name, such as `deployment.environment.name`. It replaces what is said anyway.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resource: BTreeMap<String, String>,
}

const fn timeout_default() -> Duration {
    TIMEOUT_DEFAULT
}

impl TelemetryTarget {
    /// All that is wrong with it: the key, and a sentence. No file is read and nothing contacted.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        match self.url() {
            Err(why) => problems.push(("endpoint", why)),
            Ok(url) if url.scheme() == "http" && self.certificates.is_some() => {
                problems.push(("certificates", "an address without TLS shows no certificate".to_owned()));
            }
            Ok(_) => {}
        }
        if self.timeout.is_zero() || self.timeout > TIMEOUT_MAX {
            problems.push(("timeout", format!("it is not between 1 ms and {} s", TIMEOUT_MAX.as_secs())));
        }
        if self.resource.keys().any(String::is_empty) {
            problems.push(("resource", "an attribute has no name".to_owned()));
        }
        problems
    }

    /// What is wrong with a header of this name, if anything is.
    pub fn header_problem(name: &str) -> Option<String> {
        let shown = || name.chars().take(64).collect::<String>();
        match HeaderName::from_bytes(name.as_bytes()) {
            Err(_) => Some(format!("{:?} is no name of a header", shown())),
            Ok(name) if RESERVED_HEADERS.contains(&name.as_str()) => {
                Some(format!("the header `{name}` is written by the exporter itself"))
            }
            Ok(_) => None,
        }
    }

    /// Where spans are posted, or what is wrong with the address.
    pub(crate) fn url(&self) -> Result<Url, String> {
        let mut url = Url::parse(&self.endpoint).map_err(|error| format!("the address cannot be read: {error}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the address holds a name or a password; a header is their place".to_owned());
        }
        let is_loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => return Err("the address has no host".to_owned()),
        };
        match url.scheme() {
            "https" => {}
            "http" if is_loopback => {}
            "http" => return Err("the address has no TLS: http:// is taken only for this machine itself".to_owned()),
            scheme => return Err(format!("the address begins with {scheme}:// and not with https://")),
        }
        let path = url.path().trim_end_matches('/');
        let path = if path.ends_with(TRACES_PATH) { path.to_owned() } else { format!("{path}{TRACES_PATH}") };
        url.set_path(&path);
        url.set_fragment(None);
        Ok(url)
    }
}

/// A length of time as people write it: `250ms`, `5s`, `1m`.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        let signed: Option<jiff::SignedDuration> = text.parse().ok();
        let duration = signed.and_then(|signed| Duration::try_from(signed).ok());
        duration.ok_or_else(|| D::Error::custom(format!("{text:?} is not a length of time such as \"10s\"")))
    }

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        let milliseconds = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        serializer.collect_str(&format_args!("{:#}", jiff::SignedDuration::from_millis(milliseconds)))
    }
}
