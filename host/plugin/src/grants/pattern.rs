//! The patterns of grants, and what they match.

use std::{
    fmt,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::{HOST_NAME_BYTES_MAX, PATH_BYTES_MAX};

/// A text that is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} cannot be granted: {rule}")]
pub struct PatternError {
    /// The text, cut to 256 characters.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

fn error(text: &str, rule: &'static str) -> PatternError {
    PatternError { text: text.chars().take(256).collect(), rule }
}

/// Why a path is not one that a grant or a component may name, or nothing.
pub(crate) fn path_rule(text: &str) -> Option<&'static str> {
    if text.len() > PATH_BYTES_MAX {
        return Some("it has more than 4,095 bytes");
    }
    if text.chars().any(char::is_control) {
        return Some("it has a control character");
    }
    if !text.starts_with('/') {
        return Some("it is not absolute");
    }
    if text.split('/').any(|part| part == ".." || part == ".") {
        return Some("it has a . or .. as a part");
    }
    None
}

pub(super) fn absolute_folder<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let text = String::deserialize(deserializer)?;
    match path_rule(&text) {
        Some(rule) => Err(serde::de::Error::custom(error(&text, rule))),
        // Collecting the components drops doubled and trailing slashes.
        None => Ok(Path::new(&text).components().collect()),
    }
}

/// Paths, with `*` for any part of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern(String);

impl PathPattern {
    /// Whether it matches an absolute path that is already resolved.
    pub fn matches(&self, path: &Path) -> bool {
        let Some(path) = path.to_str() else { return false };
        let (mut wanted, mut found) = (self.0.split('/'), path.split('/'));
        loop {
            match (wanted.next(), found.next()) {
                (None, None) => return true,
                (Some(pattern), Some(name)) if name_matches(pattern, name) => {}
                _ => return false,
            }
        }
    }
}

/// Whether a name fits a pattern in which `*` stands for any text. The pieces between the stars must be found in order,
/// the first at the start and the last at the end; taking each at its earliest place is enough.
fn name_matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some((_, after)) = name.split_once(piece) else { return false };
        name = after;
    }
    name.ends_with(last)
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        match path_rule(text) {
            Some(rule) => Err(error(text, rule)),
            None if text.ends_with('/') || text.contains("//") => Err(error(text, "it has an empty name")),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A host and a port, written `host:port`, or `[address]:port` for IPv6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// The pair, if the host can be one.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn new(host: &str, port: u16) -> Result<Self, PatternError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        if host.is_empty() || host.len() > HOST_NAME_BYTES_MAX || !host.bytes().all(allowed) {
            return Err(error(host, "the host is not a name or an address"));
        }
        if port == 0 {
            return Err(error(host, "the port is 0"));
        }
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }

    /// The host, in lower case.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for HostPort {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (host, port) = text.rsplit_once(':').ok_or_else(|| error(text, "expected host:port"))?;
        let port = port.parse().map_err(|_| error(text, "the port is not a number from 1 to 65535"))?;
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        match inner {
            None if host.contains(':') => Err(error(text, "an IPv6 address is written in brackets")),
            _ => Self::new(inner.unwrap_or(host), port).map_err(|reason| error(text, reason.rule)),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

/// NBD servers, written `unix:PATTERN` or `tcp:host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NbdPattern {
    /// Servers at unix sockets.
    Unix(PathPattern),
    /// A server at a TCP port.
    Tcp(HostPort),
}

impl FromStr for NbdPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if let Some(path) = text.strip_prefix("unix:") {
            path.parse().map(Self::Unix)
        } else if let Some(address) = text.strip_prefix("tcp:") {
            address.parse().map(Self::Tcp)
        } else {
            Err(error(text, "expected unix:/path or tcp:host:port"))
        }
    }
}

impl fmt::Display for NbdPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "unix:{path}"),
            Self::Tcp(address) => write!(formatter, "tcp:{address}"),
        }
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
as_text!(PathPattern, HostPort, NbdPattern);

/// What of a path lies below a folder, if it lies there by its names alone. Links are the kernel's to judge.
pub(crate) fn below<'a>(folder: &Path, path: &'a Path) -> Option<&'a Path> {
    let rest = path.strip_prefix(folder).ok()?;
    rest.components().all(|part| matches!(part, Component::Normal(_))).then_some(rest)
}
