//! Rules as the operator writes them.
//!
//! ```toml
//! [alerts.on-call]
//! severity = "error"
//! webhook.address = "https://hooks.example.org/farshore"
//!
//! [alerts.team]
//! groups = ["orders"]
//! mail = { server = "mail.example.org", from = "farshore@example.org", to = ["team@example.org"] }
//! ```
//!
//! Secrets do not stand here; they are handed over when a [`Sender`](crate::Sender) is made.

use std::{net::IpAddr, path::PathBuf};

use farshore_core::GroupName;
use farshore_state::{Event, Severity};
use lettre::message::Mailbox;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// A mail goes to at most so many.
const RECIPIENTS_MAX: usize = 32;

/// Who hears of which events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AlertRule {
    /// Events as severe as this, or more.
    #[serde(default = "warning")]
    pub severity: Severity,
    /// Events about these groups. If empty: about all, and about the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupName>,
    /// The program that hears of them; or
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookTarget>,
    /// the people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<MailTarget>,
}

const fn warning() -> Severity {
    Severity::Warning
}

/// A program that takes events by HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct WebhookTarget {
    /// Where each event is posted: `https://`, or `http://` on this machine.
    pub address: String,
    /// A PEM file of the authorities that may vouch for it, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<PathBuf>,
}

/// People that get a mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MailTarget {
    /// The mail server: `HOST` or `HOST:PORT`. The port, if left out, is that of the security.
    pub server: String,
    /// How the way to the server is secured.
    #[serde(default)]
    pub security: MailSecurity,
    /// Whom the mail is from: `a@b` or `Name <a@b>`.
    pub from: String,
    /// Whom it is for.
    pub to: Vec<String>,
    /// Who the server is told to be asked by, if it wants to know. The password belongs to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A PEM file of the authorities that may vouch for the server, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<PathBuf>,
}

/// How the way to a mail server is secured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MailSecurity {
    /// TLS from the first byte, at port 465.
    #[default]
    Tls,
    /// TLS after a greeting in the clear, at port 587; without it nothing is sent.
    StartTls,
    /// None, at port 25: only for a server on this machine.
    None,
}

impl MailSecurity {
    const fn port(self) -> u16 {
        match self {
            Self::Tls => 465,
            Self::StartTls => 587,
            Self::None => 25,
        }
    }
}

/// What is wrong: the key below the rule, and a sentence.
type Problem = (&'static str, String);

impl AlertRule {
    /// Whether the target shall hear of an event. A rule with groups hears nothing about the host.
    pub fn wants(&self, event: &Event) -> bool {
        let is_about = |group: &GroupName| self.groups.contains(group);
        event.severity >= self.severity && (self.groups.is_empty() || event.group.as_ref().is_some_and(is_about))
    }

    /// All that is wrong with the rule: the key below the rule, and a sentence. No file is read and nothing contacted.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        match (&self.webhook, &self.mail) {
            (Some(webhook), None) => webhook.problems(),
            (None, Some(mail)) => mail.problems(),
            (None, None) => vec![("webhook", "the rule has no target: it needs `webhook` or `mail`".to_owned())],
            (Some(_), Some(_)) => {
                vec![("mail", "the rule has two targets: write a rule of its own for each".to_owned())]
            }
        }
    }
}

impl WebhookTarget {
    pub(crate) fn problems(&self) -> Vec<Problem> {
        match self.url() {
            Err(why) => vec![("webhook.address", why)],
            Ok(url) if url.scheme() == "http" && self.certificates.is_some() => {
                vec![("webhook.certificates", "an address without TLS shows no certificate".to_owned())]
            }
            Ok(_) => Vec::new(),
        }
    }

    /// The address, or what is wrong with it.
    pub(crate) fn url(&self) -> Result<Url, String> {
        let url = Url::parse(&self.address).map_err(|error| format!("the address cannot be read: {error}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the address holds a name or a password; a bearer has its own place".to_owned());
        }
        let is_loopback = match url.host() {
            Some(Host::Domain(name)) => is_loopback(name),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => return Err("the address has no host".to_owned()),
        };
        match url.scheme() {
            "https" => Ok(url),
            "http" if is_loopback => Ok(url),
            "http" => Err("the address has no TLS: http:// is taken only for this machine itself".to_owned()),
            scheme => Err(format!("the address begins with {scheme}:// and not with https://")),
        }
    }
}

impl MailTarget {
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = Vec::new();
        match self.server() {
            Err(why) => problems.push(("mail.server", why)),
            Ok((host, _)) if self.security == MailSecurity::None && !is_loopback(&host) => {
                problems.push(("mail.security", "`none` is taken only for a server on this machine itself".to_owned()));
            }
            Ok(_) => {}
        }
        if self.security == MailSecurity::None && self.certificates.is_some() {
            problems.push(("mail.certificates", "a server without TLS shows no certificate".to_owned()));
        }
        problems.extend(mailbox(&self.from).err().map(|why| ("mail.from", why)));
        problems.extend(self.to.iter().filter_map(|text| mailbox(text).err()).map(|why| ("mail.to", why)));
        if self.to.is_empty() {
            problems.push(("mail.to", "the mail is for nobody".to_owned()));
        }
        if self.to.len() > RECIPIENTS_MAX {
            problems
                .push(("mail.to", format!("the mail is for more than {RECIPIENTS_MAX}; let the server have a list")));
        }
        if self.user.as_ref().is_some_and(|user| user.is_empty() || user.chars().any(char::is_control)) {
            problems.push(("mail.user", "the user is empty or has a control character".to_owned()));
        }
        problems
    }

    /// The server's host and port, or what is wrong with them.
    pub(crate) fn server(&self) -> Result<(String, u16), String> {
        let wrong = || "the server is not written as HOST or HOST:PORT".to_owned();
        let url = Url::parse(&format!("smtp://{}", self.server)).map_err(|_| wrong())?;
        let is_plain = url.username().is_empty()
            && url.password().is_none()
            && url.path().is_empty()
            && url.query().is_none()
            && url.fragment().is_none();
        let host = match url.host() {
            Some(Host::Domain(name)) if is_plain && !name.is_empty() && !name.contains('%') => name.to_owned(),
            Some(Host::Ipv4(address)) if is_plain => address.to_string(),
            Some(Host::Ipv6(address)) if is_plain => address.to_string(),
            _ => return Err(wrong()),
        };
        Ok((host, url.port().unwrap_or(self.security.port())))
    }
}

/// Whether a host is this machine itself.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// One mail address, and nothing behind it.
pub(crate) fn mailbox(text: &str) -> Result<Mailbox, String> {
    let is_whole = |mailbox: &Mailbox| {
        let address: &str = mailbox.email.as_ref();
        let end = text.trim_end();
        end.strip_suffix('>').unwrap_or(end).ends_with(address) && !text.chars().any(char::is_control)
    };
    let mailbox = text.parse().ok().filter(is_whole);
    mailbox.ok_or_else(|| format!("{:?} is no mail address", text.chars().take(64).collect::<String>()))
}
