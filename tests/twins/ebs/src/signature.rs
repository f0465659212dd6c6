//! AWS Signature Version 4, from the side of the server: whether a request was signed, by whom, when, and for what.
//!
//! Written from AWS's description of the signing process for APIs, and with other libraries than the host's, so that the two
//! can only agree about what is right.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use farshore_core::Timestamp;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// How far a request's time may be from the twin's, in milliseconds.
const SKEW_MAX: i64 = 5 * 60 * 1_000;
/// What stands for the hash of a body that is not signed.
pub const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// What was signed, as it came over the wire.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, percent-encoded as it came.
    pub path: &'a str,
    /// What follows the question mark.
    pub query: &'a str,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// The whole body.
    pub body: &'a [u8],
    /// Whether the body may be left out of the signature, as in EBS direct's puts.
    pub may_leave_body_out: bool,
}

/// Why a request is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no signature.
    Missing,
    /// It is not one, or lacks what has to be signed.
    Malformed(String),
    /// Nobody has this access key.
    UnknownKey,
    /// The session's token is not the key's.
    WrongToken,
    /// It was signed too long ago.
    Late(String),
    /// It was signed in the future.
    Early(String),
    /// The key is good no more.
    Expired,
    /// It was signed for another region or service.
    WrongScope(String),
    /// The signature is not the one of this request; what should have been signed.
    Mismatch(String),
}

/// A key that signs.
#[derive(Debug, Clone)]
pub struct Key {
    /// The secret.
    pub secret: String,
    /// The token of a temporary key.
    pub token: Option<String>,
    /// It is good until then.
    pub expires_at: Option<Timestamp>,
}

/// The access key that signed the request for this region and service.
///
/// # Errors
/// See [`Refusal`].
pub fn signer(
    signed: Signed<'_>,
    key_of: impl Fn(&str) -> Option<Key>,
    now: Timestamp,
    region: &str,
    service: &str,
) -> Result<String, Refusal> {
    let malformed = |what: &str| Refusal::Malformed(what.to_owned());
    let header = |name: &str| signed.headers.get(name).and_then(|value| value.to_str().ok());
    let authorization = header("authorization").ok_or(Refusal::Missing)?;
    let fields = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or_else(|| malformed("another algorithm"))?;
    let fields: BTreeMap<&str, &str> = fields.split(',').filter_map(|field| field.trim().split_once('=')).collect();
    let field = |name: &str| fields.get(name).copied().ok_or_else(|| Refusal::Malformed(format!("no {name}")));
    let (credential, names, signature) = (field("Credential")?, field("SignedHeaders")?, field("Signature")?);
    let [key_id, day, scope_region, scope_service, "aws4_request"] = credential.split('/').collect::<Vec<_>>()[..]
    else {
        return Err(malformed("the credential's scope"));
    };
    if (scope_region, scope_service) != (region, service) {
        return Err(Refusal::WrongScope(format!(
            "Credential should be scoped to a valid region and service: {region}/{service}, not {scope_region}/{scope_service}"
        )));
    }
    let key = key_of(key_id).ok_or(Refusal::UnknownKey)?;
    let time = header("x-amz-date").ok_or_else(|| malformed("no X-Amz-Date"))?;
    let at = parse_time(time).ok_or_else(|| malformed("X-Amz-Date is no time"))?;
    if time.get(..8) != Some(day) {
        return Err(malformed("the credential's day is not that of X-Amz-Date"));
    }
    let apart = now.as_unix_milliseconds() - at.as_unix_milliseconds();
    if apart.abs() > SKEW_MAX {
        let seconds = apart.abs() / 1_000;
        return Err(match apart > 0 {
            true => Refusal::Late(format!("Signature expired: {time} was {seconds} s ago")),
            false => Refusal::Early(format!("Signature not yet current: {time} is in {seconds} s")),
        });
    }
    let names: Vec<&str> = names.split(';').collect();
    if !names.is_sorted_by(|one, next| one < next) || names.iter().any(|name| *name != name.to_lowercase()) {
        return Err(malformed("SignedHeaders is not sorted, or not in lower case"));
    }
    for name in signed.headers.keys().map(axum::http::HeaderName::as_str) {
        let must_be_signed = name == "host" || name.starts_with("x-amz-");
        if must_be_signed && !names.contains(&name) {
            return Err(Refusal::Malformed(format!("'{name}' must be a signed header")));
        }
    }
    if key.token.as_deref() != header("x-amz-security-token") {
        return Err(Refusal::WrongToken);
    }
    if key.expires_at.is_some_and(|expires_at| expires_at < now) {
        return Err(Refusal::Expired);
    }
    let stated = header("x-amz-content-sha256");
    let hash = match stated {
        Some(UNSIGNED) if signed.may_leave_body_out => UNSIGNED.to_owned(),
        _ => hex(&Sha256::digest(signed.body)),
    };
    if stated.is_some_and(|stated| stated != hash) {
        return Err(malformed("X-Amz-Content-SHA256 is not the hash of the body"));
    }
    let canonical = canonical(signed, &names, &hash)?;
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{time}\n{day}/{region}/{service}/aws4_request\n{}",
        hex(&Sha256::digest(canonical.as_bytes()))
    );
    let signing = [day, region, service, "aws4_request"]
        .iter()
        .fold(format!("AWS4{}", key.secret).into_bytes(), |key, part| keyed(&key, part.as_bytes()));
    if hex(&keyed(&signing, to_sign.as_bytes())) != signature {
        return Err(Refusal::Mismatch(canonical));
    }
    Ok(key_id.to_owned())
}

fn canonical(signed: Signed<'_>, names: &[&str], hash: &str) -> Result<String, Refusal> {
    // Of services other than S3 what is encoded once on the wire is encoded twice in what is signed.
    let path: Vec<String> = signed.path.split('/').map(encoded).collect();
    let mut query: Vec<(String, String)> = url::form_urlencoded::parse(signed.query.as_bytes())
        .map(|(name, value)| (encoded(&name), encoded(&value)))
        .collect();
    query.sort();
    let query: Vec<String> = query.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut headers = String::new();
    for name in names {
        let values: Vec<&str> = signed.headers.get_all(*name).iter().filter_map(|value| value.to_str().ok()).collect();
        if values.is_empty() {
            return Err(Refusal::Malformed(format!("'{name}' was signed and is not there")));
        }
        let values: Vec<String> =
            values.iter().map(|value| value.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        headers.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    let (method, path, query, names) = (signed.method, path.join("/"), query.join("&"), names.join(";"));
    Ok(format!("{method}\n{path}\n{query}\n{headers}\n{names}\n{hash}"))
}

/// `20261126T090800Z`.
fn parse_time(text: &str) -> Option<Timestamp> {
    let digits = |range: std::ops::Range<usize>| text.get(range);
    let (year, month, day) = (digits(0..4)?, digits(4..6)?, digits(6..8)?);
    let (hour, minute, second) = (digits(9..11)?, digits(11..13)?, digits(13..15)?);
    if (text.len(), digits(8..9), digits(15..16)) != (16, Some("T"), Some("Z")) {
        return None;
    }
    format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z").parse().ok()
}

/// Everything but RFC 3986's unreserved characters is percent-encoded.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn keyed(key: &[u8], message: &[u8]) -> Vec<u8> {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

/// In lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    /// The request `get-vanilla` of AWS's test suite for this signature.
    const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
        SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";

    fn asked(authorization: &str, query: &str, more: &[(&'static str, &'static str)]) -> Result<String, Refusal> {
        let mut headers = HeaderMap::new();
        let given = [("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")];
        for (name, value) in given.iter().chain(more) {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        headers.insert("authorization", HeaderValue::from_str(authorization).expect("a value"));
        let signed =
            Signed { method: "GET", path: "/", query, headers: &headers, body: b"", may_leave_body_out: false };
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned();
        let key_of =
            |id: &str| (id == "AKIDEXAMPLE").then(|| Key { secret: secret.clone(), token: None, expires_at: None });
        signer(signed, key_of, "2015-08-30T12:37:00Z".parse().expect("a time"), "us-east-1", "service")
    }

    #[test]
    fn a_signature_of_the_test_suite_is_right_and_others_are_not() {
        assert_eq!(asked(AUTHORIZATION, "", &[]), Ok("AKIDEXAMPLE".to_owned()));
        assert!(matches!(asked(AUTHORIZATION, "a=b", &[]), Err(Refusal::Mismatch(_))));
        assert!(matches!(asked(&AUTHORIZATION.replace("fbf31", "fbf32"), "", &[]), Err(Refusal::Mismatch(_))));
        assert_eq!(asked(&AUTHORIZATION.replace("AKIDE", "AKIDX"), "", &[]), Err(Refusal::UnknownKey));
        assert!(matches!(
            asked(&AUTHORIZATION.replace("us-east-1", "us-west-2"), "", &[]),
            Err(Refusal::WrongScope(_))
        ));
        assert!(
            matches!(asked(AUTHORIZATION, "", &[("x-amz-data-length", "1")]), Err(Refusal::Malformed(_))),
            "not signed"
        );
        assert!(matches!(asked("AWS4-HMAC-SHA256 Credential=x", "", &[]), Err(Refusal::Malformed(_))));
    }
}
