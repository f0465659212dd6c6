//! An API as the operator grants it.
//!
//! ```toml
//! [sites.cloud.grants.protect.endpoints.ec2]
//! address = "https://ec2.eu-west-1.amazonaws.com"
//! credential = "protect"
//! service = "ec2"
//! ```
//!
//! The operator writes the address and which credential signs for it; a component knows the endpoint's name only. So a
//! credential never leaves for another address, and a drill reaches what its own table says.

use std::{fmt, net::IpAddr, num::NonZeroU32, path::PathBuf, str::FromStr};

use farshore_core::CredentialName;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::{Host, Url};

/// An API as the operator grants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EndpointGrant {
    /// Where it is.
    pub address: ApiAddress,
    /// What signs its requests; none for an API that wants no signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialName>,
    /// The service that requests are signed for, such as `ec2`, if the credential's scheme wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// A PEM file of the authorities that may vouch for it, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<PathBuf>,
    /// Where its name may lead. If empty: anywhere but to this machine itself and what is link-local, such as a cloud's
    /// metadata service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<IpNet>,
    /// Without TLS, if the address says so: for a test on one machine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_http: bool,
    /// At most so many requests a second, all together. If left out: as many as the service bears.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<NonZeroU32>,
}

impl EndpointGrant {
    /// What of it contradicts itself, as the end of a sentence, if anything does.
    pub fn contradiction(&self) -> Option<&'static str> {
        if !self.address.is_encrypted() && !self.allow_http {
            return Some("its address has no TLS; write https, or `allow-http = true` for a test on one machine");
        }
        if !self.address.is_encrypted() && self.certificates.is_some() {
            return Some("it has certificates, but its address has no TLS");
        }
        if self.service.is_some() && self.credential.is_none() {
            return Some("it has a service to sign for, but no credential to sign with");
        }
        match self.address.literal() {
            Some(address) if !self.networks.is_empty() && !self.networks.iter().any(|one| one.contains(&address)) => {
                Some("its address is in none of its networks")
            }
            _ => None,
        }
    }
}

/// A text that is not the address of an API.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not the address of an API: {rule}. Write it as https://host or https://host:port")]
pub struct AddressError {
    /// The rule that it breaks. The text is not repeated: it may hold a password.
    pub rule: &'static str,
}

/// Where an API is: a scheme, a host and perhaps a port.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiAddress(Url);

impl ApiAddress {
    /// Requests go through TLS.
    pub fn is_encrypted(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// The host as it stands there: a name, or an address (IPv6 in brackets).
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// The host's address, if it is no name.
    pub fn literal(&self) -> Option<IpAddr> {
        match self.0.host()? {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        }
    }

    /// The URL of a target (a path and perhaps a query) there. None if the target leads elsewhere or is none.
    pub(crate) fn at(&self, target: &str) -> Option<Url> {
        if !target.starts_with('/') {
            return None;
        }
        let url = Url::parse(&format!("{self}{target}")).ok()?;
        let stays = url.origin() == self.0.origin() && url.username().is_empty() && url.fragment().is_none();
        stays.then_some(url)
    }
}

impl FromStr for ApiAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = |rule| AddressError { rule };
        let url = Url::parse(text).map_err(|_| wrong("it cannot be read"))?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(wrong("it does not begin with https://"));
        }
        if url.host().is_none() {
            return Err(wrong("it has no host"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("it holds a name or a password, which belong into a credential"));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("it has a path or a query"));
        }
        Ok(Self(url))
    }
}

impl fmt::Display for ApiAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for ApiAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ApiAddress({self})")
    }
}

impl Serialize for ApiAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ApiAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(text: &str) -> EndpointGrant {
        toml::from_str(text).expect("a grant")
    }

    #[test]
    fn an_address_is_a_host_and_nothing_more() {
        let address: ApiAddress = "https://ec2.eu-west-1.amazonaws.com/".parse().expect("an address");
        assert_eq!(address.to_string(), "https://ec2.eu-west-1.amazonaws.com");
        assert_eq!(address.host(), "ec2.eu-west-1.amazonaws.com");
        let rules = [
            ("ec2", "it cannot be read"),
            ("ftp://ec2", "it does not begin with https://"),
            ("https://key:secret@ec2", "it holds a name or a password, which belong into a credential"),
            ("https://ec2/path", "it has a path or a query"),
            ("https://ec2?a", "it has a path or a query"),
        ];
        for (text, rule) in rules {
            let error = text.parse::<ApiAddress>().expect_err(text);
            assert_eq!(error.rule, rule, "{text}");
            assert!(!error.to_string().contains("secret"), "{text}");
        }
    }

    #[test]
    fn a_target_cannot_lead_elsewhere() {
        let address: ApiAddress = "https://ec2.example.org:8443".parse().expect("an address");
        let at = |target: &str| address.at(target).map(|url| url.to_string());
        assert_eq!(at("/a/b?c=%2F"), Some("https://ec2.example.org:8443/a/b?c=%2F".to_owned()));
        assert_eq!(at("//evil.example.org/"), Some("https://ec2.example.org:8443//evil.example.org/".to_owned()));
        for target in ["", "a", "@evil.example.org/", ".evil.example.org/", "/a#b", ":1/"] {
            assert_eq!(at(target), None, "{target}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_found() {
        let fine = ["address = 'https://a'", "address = 'http://127.0.0.1:1'\nallow-http = true"];
        for text in fine {
            assert_eq!(grant(text).contradiction(), None, "{text}");
        }
        let wrong = [
            ("address = 'http://a'", "no TLS"),
            ("address = 'http://a'\nallow-http = true\ncertificates = 'a.pem'", "certificates"),
            ("address = 'https://a'\nservice = 'ec2'", "no credential"),
            ("address = 'https://10.0.0.1'\nnetworks = ['10.1.0.0/16']", "none of its networks"),
        ];
        for (text, part) in wrong {
            assert!(grant(text).contradiction().expect(text).contains(part), "{text}");
        }
        toml::from_str::<EndpointGrant>("address = 'https://a'\nnetwork = []").expect_err("a key that is not known");
    }
}
