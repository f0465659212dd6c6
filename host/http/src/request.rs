//! What is asked and what is answered.

use std::time::Duration;

use bytes::Bytes;

use crate::{ApiAddress, HttpError};

/// The most bytes of an answer's body, unless the request says another number.
pub const RESPONSE_BYTES_MAX: usize = 1 << 20;
/// The most headers of a request.
const HEADERS_MAX: usize = 64;
/// The most bytes of a target.
const TARGET_BYTES_MAX: usize = 8 << 10;
/// The most bytes of a header's value.
const HEADER_VALUE_BYTES_MAX: usize = 8 << 10;

/// What of a refusal is looked through for a throttle's word.
const REFUSAL_BYTES_LOOKED_AT: usize = 4 << 10;

/// What the host writes itself, so that neither a signature nor the framing can be replaced.
const RESERVED_HEADERS: [&str; 14] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-amz-security-token",
];
/// Others that the host writes begin so.
const RESERVED_PREFIXES: [&str; 2] = ["x-amz-date", "x-amz-content-sha256"];

/// What is done with what the target names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Reads.
    Get,
    /// Asks for work.
    Post,
    /// Writes.
    Put,
    /// Changes.
    Patch,
    /// Removes.
    Delete,
}

impl Method {
    /// The client's word for it.
    pub(crate) const fn word(self) -> reqwest::Method {
        match self {
            Self::Get => reqwest::Method::GET,
            Self::Post => reqwest::Method::POST,
            Self::Put => reqwest::Method::PUT,
            Self::Patch => reqwest::Method::PATCH,
            Self::Delete => reqwest::Method::DELETE,
        }
    }
}

/// A header's name and value.
pub type Header = (String, String);

/// What is asked of an API.
#[derive(Debug, Clone)]
pub struct Request {
    /// What to do.
    pub method: Method,
    /// Path and query as they go over the wire, percent-encoded, from the first `/`.
    pub target: String,
    /// At most 64. What the host writes itself is refused.
    pub headers: Vec<Header>,
    /// What is sent.
    pub body: Bytes,
    /// The SHA-256 of the body, if the caller knows it, so that a signature need not read it again.
    pub body_sha256: Option<[u8; 32]>,
    /// The answer may have so many bytes.
    pub response_bytes_max: usize,
    /// All of it together, with the waiting and all attempts.
    pub timeout: Duration,
    /// It does no harm if it is carried out twice.
    pub repeatable: bool,
    /// A refusal (4xx) whose headers, or the first 4 KiB of whose body, contain one of these is a throttle, as 429 is.
    pub throttle_words: Vec<String>,
}

impl Request {
    /// A request without headers and body, that may be sent again.
    pub fn get(target: impl Into<String>, timeout: Duration) -> Self {
        Self {
            method: Method::Get,
            target: target.into(),
            headers: Vec::new(),
            body: Bytes::new(),
            body_sha256: None,
            response_bytes_max: RESPONSE_BYTES_MAX,
            timeout,
            repeatable: true,
            throttle_words: Vec::new(),
        }
    }

    /// Whether an answer to it says that too much was asked.
    pub fn is_throttled_by(&self, response: &Response) -> bool {
        if matches!(response.status, 429 | 503) {
            return true;
        }
        if !matches!(response.status, 400..=499) || self.throttle_words.is_empty() {
            return false;
        }
        let body = response.body.get(..REFUSAL_BYTES_LOOKED_AT).unwrap_or(&response.body);
        let body = String::from_utf8_lossy(body);
        let says =
            |word: &String| body.contains(word) || response.headers.iter().any(|(_, value)| value.contains(word));
        self.throttle_words.iter().any(says)
    }

    /// The target's path, for a sentence: a query may hold a session's token.
    pub(crate) fn path(&self) -> String {
        let path = self.target.split(['?', '#']).next().unwrap_or_default();
        path.chars().filter(|character| !character.is_control()).take(200).collect()
    }

    /// The URL, if the request is one that may be sent.
    pub(crate) fn url_at(&self, address: &ApiAddress) -> Result<url::Url, HttpError> {
        let wrong = |why: String| HttpError::Invalid { address: address.to_string(), why };
        if self.target.len() > TARGET_BYTES_MAX {
            return Err(wrong(format!("its target has more than {TARGET_BYTES_MAX} bytes")));
        }
        if !self.target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("its target has characters that must be percent-encoded".to_owned()));
        }
        if self.headers.len() > HEADERS_MAX {
            return Err(wrong(format!("it has more than {HEADERS_MAX} headers")));
        }
        for (name, value) in &self.headers {
            check_header(name, value).map_err(wrong)?;
        }
        address.at(&self.target).ok_or_else(|| wrong("its target does not begin with / or leads elsewhere".to_owned()))
    }
}

fn check_header(name: &str, value: &str) -> Result<(), String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let shown: String = name.chars().take(64).collect();
    if name.is_empty() || name.len() > 256 || !name.bytes().all(token) {
        return Err(format!("{shown:?} is not the name of a header"));
    }
    let lower = name.to_ascii_lowercase();
    if RESERVED_HEADERS.contains(&lower.as_str()) || RESERVED_PREFIXES.iter().any(|prefix| lower.starts_with(prefix)) {
        return Err(format!("the header {shown} is the host's to write"));
    }
    let visible = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    if value.len() > HEADER_VALUE_BYTES_MAX || !value.bytes().all(visible) || value.trim() != value {
        return Err(format!("the value of the header {shown} has characters that cannot be sent, or too many"));
    }
    Ok(())
}

/// What an API answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Such as 200.
    pub status: u16,
    /// Names in lower case; values that are not ASCII are left out.
    pub headers: Vec<Header>,
    /// The body, whole.
    pub body: Bytes,
}

impl Response {
    /// The first header of this name, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The request was carried out.
    pub const fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(request: &Request) -> String {
        let address = "https://api.example.org".parse().expect("an address");
        request.url_at(&address).expect_err("a refusal").to_string()
    }

    fn with_header(name: &str, value: &str) -> Request {
        Request { headers: vec![(name.to_owned(), value.to_owned())], ..Request::get("/", Duration::from_secs(1)) }
    }

    #[test]
    fn what_the_host_writes_is_refused() {
        for name in
            ["Authorization", "HOST", "x-amz-date", "X-Amz-Security-Token", "content-length", "Transfer-Encoding"]
        {
            assert!(error(&with_header(name, "a")).contains("the host's to write"), "{name}");
        }
        for (name, value) in [("a b", "c"), ("", "c"), ("a\r\nb", "c"), ("a", "b\r\nc: d"), ("a", " b"), ("a", "é")] {
            error(&with_header(name, value));
        }
        let fine = with_header("x-amz-Checksum", "a b");
        fine.url_at(&"https://api.example.org".parse().expect("an address")).expect("a header like any other");
    }

    #[test]
    fn a_target_is_what_goes_over_the_wire() {
        for target in ["/a b", "/é", "a", "/a\n"] {
            error(&Request::get(target, Duration::from_secs(1)));
        }
        error(&Request::get(format!("/{}", "a".repeat(TARGET_BYTES_MAX)), Duration::from_secs(1)));
        assert_eq!(Request::get("/a?token=secret", Duration::ZERO).path(), "/a");
    }
}
