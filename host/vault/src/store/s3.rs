//! Requests to S3 that `object_store` has no call for: what a bucket is set to, versions, locks.
//!
//! They go the way that `object_store`'s own requests go: with its HTTP client (kept when the store is built), its address of
//! the bucket, its credentials and its signature in headers, so that no signature stands in an address that could be logged.
//! All of them can be repeated, and are when the server or the network lost them.

use std::{
    fmt,
    str::FromStr as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest;
use base64::Engine as _;
use bytes::Bytes;
use farshore_core::{Clock as _, SystemClock, Timestamp};
use object_store::{
    ClientOptions, Error as ObjectError, Result as ObjectResult,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsAuthorizer},
    client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody},
    path::Path,
    signer::{HeaderMap, HeaderValue, Method, Signer, Url},
};
use serde::Deserialize;

use super::{
    bucket::{Bucket, BucketSettings, DefaultRetention, Retained, Version, VersionsPage},
    paced::PacedConnector,
};
use crate::lock::LockMode;

/// How often a request is tried.
const ATTEMPTS_MAX: u32 = 6;

/// How long the first pause before another attempt is; each is twice as long as the one before.
const PAUSE_MILLISECONDS: u64 = 100;

/// The most bytes of an answer that is read.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long a signed address would be valid; only its front is used.
const SIGNED_SECONDS: u64 = 60;

/// Makes HTTP clients that keep to limits, and keeps the last: the one of the store itself.
#[derive(Debug, Clone)]
struct Connector {
    paced: PacedConnector,
    last: Arc<Mutex<Option<HttpClient>>>,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> ObjectResult<HttpClient> {
        let client = self.paced.connect(options)?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }
}

/// A bucket of S3. See the module.
pub(crate) struct S3Bucket {
    store: Arc<AmazonS3>,
    http: HttpClient,
    region: String,
    payer: bool,
}

impl fmt::Debug for S3Bucket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("S3Bucket").field("store", &self.store.to_string()).finish_non_exhaustive()
    }
}

/// A refusal in the store's words.
#[derive(Debug, thiserror::Error)]
#[error("the store answered {status} {code}: {message}")]
struct Refusal {
    status: u16,
    code: String,
    message: String,
}

struct Answer {
    headers: HeaderMap,
    body: Bytes,
}

fn unreadable(what: &'static str, problem: impl fmt::Display) -> ObjectError {
    ObjectError::Generic { store: "S3", source: format!("its answer to {what} cannot be read: {problem}").into() }
}

/// As RFC 3986 has it: everything but letters, digits and four signs.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// In whole seconds, as every store understands it. A lock may end a second later than was asked.
fn seconds_text(time: Timestamp) -> String {
    let seconds = time.as_unix_milliseconds().div_euclid(1_000).saturating_add(1);
    let text = Timestamp::from_unix_milliseconds(seconds.saturating_mul(1_000)).to_string();
    text.replace(".000Z", "Z")
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LockConfiguration {
    object_lock_enabled: Option<String>,
    rule: Option<LockRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LockRule {
    default_retention: Option<RuleRetention>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RuleRetention {
    mode: String,
    days: Option<u64>,
    years: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Versioning {
    status: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedVersions {
    #[serde(default)]
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_version_id_marker: Option<String>,
    #[serde(default, rename = "Version")]
    versions: Vec<ListedVersion>,
    #[serde(default, rename = "DeleteMarker")]
    markers: Vec<ListedVersion>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedVersion {
    key: String,
    version_id: String,
    is_latest: bool,
    last_modified: String,
    #[serde(default)]
    size: u64,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Told {
    code: String,
    message: String,
}

impl ListedVersion {
    fn version(self, is_marker: bool) -> ObjectResult<(String, Version)> {
        let received_at = Timestamp::from_str(&self.last_modified);
        let received_at = received_at.map_err(|error| unreadable("a listing of versions", error))?;
        let Self { key, version_id: id, is_latest, size: bytes, .. } = self;
        Ok((key, Version { id, is_marker, received_at, bytes, is_latest }))
    }
}

fn parse<T: for<'de> Deserialize<'de>>(what: &'static str, answer: &Answer) -> ObjectResult<T> {
    let text = std::str::from_utf8(&answer.body).map_err(|error| unreadable(what, error))?;
    quick_xml::de::from_str(text).map_err(|error| unreadable(what, error))
}

impl S3Bucket {
    /// Builds the store, and its other side.
    pub(super) fn build(builder: AmazonS3Builder, paced: &PacedConnector) -> ObjectResult<(Arc<AmazonS3>, Self)> {
        let connector = Connector { paced: paced.clone(), last: Arc::default() };
        let setting = |key| builder.get_config_value(&key);
        let region = setting(AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".to_owned());
        let payer = setting(AmazonS3ConfigKey::RequestPayer);
        let payer =
            payer.is_some_and(|payer| matches!(payer.to_ascii_lowercase().as_str(), "true" | "requester" | "1"));
        let store = Arc::new(builder.with_http_connector(connector.clone()).build()?);
        let http = connector.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let http = http.ok_or_else(|| unreadable("nothing", "no HTTP client was made"))?;
        Ok((Arc::clone(&store), Self { store, http, region, payer }))
    }

    async fn address(&self, path: &Path, query: &[(&str, &str)]) -> ObjectResult<Url> {
        let mut url = self.store.signed_url(Method::GET, path, Duration::from_secs(SIGNED_SECONDS)).await?;
        let pairs: Vec<String> =
            query.iter().map(|(key, value)| format!("{}={}", encoded(key), encoded(value))).collect();
        url.set_query(Some(pairs.join("&").as_str()).filter(|query| !query.is_empty()));
        Ok(url)
    }

    async fn request(&self, method: Method, path: &Path, query: &[(&str, &str)], body: &str) -> ObjectResult<Answer> {
        let failed =
            |error: Box<dyn std::error::Error + Send + Sync>| ObjectError::Generic { store: "S3", source: error };
        let url = self.address(path, query).await?;
        let mut attempt: u32 = 1;
        loop {
            let payload = if body.is_empty() { HttpRequestBody::empty() } else { body.to_owned().into() };
            let mut request = HttpRequest::new(payload);
            *request.method_mut() = method.clone();
            *request.uri_mut() = url.as_str().parse().map_err(|error| failed(Box::new(error)))?;
            if !body.is_empty() {
                let hash = digest::digest(&digest::SHA256, body.as_bytes());
                let hash = base64::engine::general_purpose::STANDARD.encode(hash);
                let hash = HeaderValue::from_str(&hash).map_err(|error| failed(Box::new(error)))?;
                request.headers_mut().insert("x-amz-checksum-sha256", hash);
                request.headers_mut().insert("x-amz-sdk-checksum-algorithm", HeaderValue::from_static("SHA256"));
            }
            let credential = self.store.credentials().get_credential().await?;
            let authorizer = AwsAuthorizer::new(&credential, "s3", &self.region).with_request_payer(self.payer);
            authorizer.try_authorize(&mut request, None)?;
            let error = match self.answer(path, request).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if attempt >= ATTEMPTS_MAX || !may_pass(&error) {
                return Err(error);
            }
            SystemClock.sleep(Duration::from_millis(PAUSE_MILLISECONDS << (attempt - 1))).await;
            attempt += 1;
        }
    }

    async fn answer(&self, path: &Path, request: HttpRequest) -> ObjectResult<Answer> {
        let failed = |error| ObjectError::Generic { store: "S3", source: Box::new(error) };
        let response = self.http.execute(request).await.map_err(failed)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let length = headers.get("content-length").and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        // The answer to a HEAD states the object's length, and has no bytes.
        let body = response.into_body().bytes().await.map_err(failed)?;
        if body.len() > ANSWER_BYTES_MAX {
            return Err(unreadable("a request", format!("it has {} bytes", length.unwrap_or(body.len()))));
        }
        if (200..300).contains(&status) {
            return Ok(Answer { headers, body });
        }
        let Told { code, message } =
            std::str::from_utf8(&body).ok().and_then(|text| quick_xml::de::from_str(text).ok()).unwrap_or_default();
        let source = Box::new(Refusal { status, code, message });
        let path = path.to_string();
        Err(match status {
            404 => ObjectError::NotFound { path, source },
            401 => ObjectError::Unauthenticated { path, source },
            403 => ObjectError::PermissionDenied { path, source },
            _ => ObjectError::Generic { store: "S3", source },
        })
    }
}

/// Whether another attempt may go better: the server was busy or failed, or was not reached.
fn may_pass(error: &ObjectError) -> bool {
    let ObjectError::Generic { source, .. } = error else { return false };
    match source.downcast_ref::<Refusal>() {
        Some(refusal) => refusal.status >= 500 || refusal.status == 429,
        None => source.downcast_ref::<object_store::client::HttpError>().is_some(),
    }
}

#[async_trait::async_trait]
impl Bucket for S3Bucket {
    async fn settings(&self) -> ObjectResult<BucketSettings> {
        let root = Path::default();
        let versioning = self.request(Method::GET, &root, &[("versioning", "")], "").await?;
        let versioning: Versioning = parse("GetBucketVersioning", &versioning)?;
        let keeps_versions = versioning.status.as_deref() == Some("Enabled");
        let configuration: LockConfiguration = match self.request(Method::GET, &root, &[("object-lock", "")], "").await
        {
            Ok(answer) => parse("GetObjectLockConfiguration", &answer)?,
            // So it says that object lock was never configured.
            Err(ObjectError::NotFound { .. }) => {
                return Ok(BucketSettings { keeps_versions, can_lock: false, retention: None });
            }
            Err(error) => return Err(error),
        };
        let can_lock = configuration.object_lock_enabled.as_deref() == Some("Enabled");
        let rule = configuration.rule.and_then(|rule| rule.default_retention);
        let retention = rule.map(|rule| {
            let mode =
                LockMode::of_store(&rule.mode).ok_or_else(|| unreadable("GetObjectLockConfiguration", &rule.mode))?;
            let days = rule.days.unwrap_or(0).saturating_add(rule.years.unwrap_or(0).saturating_mul(365));
            Ok::<_, ObjectError>(DefaultRetention { mode, span_seconds: days.saturating_mul(86_400) })
        });
        Ok(BucketSettings { keeps_versions, can_lock, retention: retention.transpose()? })
    }

    async fn versions(&self, prefix: &str, after: Option<(String, String)>) -> ObjectResult<VersionsPage> {
        let mut query = vec![("versions", ""), ("prefix", prefix)];
        if let Some((key, version)) = &after {
            query.push(("key-marker", key));
            query.push(("version-id-marker", version));
        }
        let answer = self.request(Method::GET, &Path::default(), &query, "").await?;
        let listed: ListedVersions = parse("ListObjectVersions", &answer)?;
        let versions = listed.versions.into_iter().map(|version| version.version(false));
        let versions = versions.chain(listed.markers.into_iter().map(|marker| marker.version(true)));
        let next = match (listed.is_truncated, listed.next_key_marker) {
            (false, _) => None,
            (true, Some(key)) => Some((key, listed.next_version_id_marker.unwrap_or_default())),
            (true, None) => return Err(unreadable("ListObjectVersions", "it does not say how it goes on")),
        };
        Ok(VersionsPage { versions: versions.collect::<ObjectResult<_>>()?, next })
    }

    async fn retained(&self, path: &Path, version: Option<&str>) -> ObjectResult<Option<Retained>> {
        let query: Vec<_> = version.iter().map(|version| ("versionId", *version)).collect();
        let answer = self.request(Method::HEAD, path, &query, "").await?;
        let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
        let mode = header("x-amz-object-lock-mode").and_then(LockMode::of_store);
        let until = header("x-amz-object-lock-retain-until-date").map(Timestamp::from_str).transpose();
        let until = until.map_err(|error| unreadable("HeadObject", error))?;
        Ok(mode.zip(until).map(|(mode, until)| Retained { mode, until }))
    }

    async fn retain(&self, path: &Path, version: &str, retained: Retained) -> ObjectResult<()> {
        let (mode, until) = (retained.mode.in_store(), seconds_text(retained.until));
        let body = format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{mode}</Mode>\
             <RetainUntilDate>{until}</RetainUntilDate></Retention>"
        );
        self.request(Method::PUT, path, &[("retention", ""), ("versionId", version)], &body).await.map(drop)
    }

    async fn delete(&self, path: &Path, version: &str) -> ObjectResult<()> {
        self.request(Method::DELETE, path, &[("versionId", version)], "").await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_id_survives_an_address() {
        assert_eq!(encoded("3/L4+q= ~"), "3%2FL4%2Bq%3D%20~");
    }

    #[test]
    fn a_lock_never_ends_before_it_was_asked_to() {
        let text = seconds_text(Timestamp::from_unix_milliseconds(1_790_000_000_123));
        assert_eq!(text, "2026-09-21T14:13:21Z");
        let whole = Timestamp::from_unix_milliseconds(1_790_000_000_000);
        assert!(seconds_text(whole).parse::<Timestamp>().expect("a time") >= whole);
    }

    /// Versions and markers of AWS stand mixed; those of others one after the other.
    #[test]
    fn listings_are_read_as_stores_write_them() {
        let text = r#"<?xml version="1.0" encoding="UTF-8"?>
            <ListVersionsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix>v</Prefix>
            <KeyMarker></KeyMarker><MaxKeys>1000</MaxKeys><IsTruncated>true</IsTruncated><NextKeyMarker>v/b</NextKeyMarker>
            <NextVersionIdMarker>n+1</NextVersionIdMarker>
            <DeleteMarker><Key>v/a</Key><VersionId>m</VersionId><IsLatest>true</IsLatest>
            <LastModified>2026-11-12T00:30:57.000Z</LastModified><Owner><ID>1</ID></Owner></DeleteMarker>
            <Version><Key>v/a</Key><VersionId>o</VersionId><IsLatest>false</IsLatest>
            <LastModified>2026-11-11T00:30:57.000Z</LastModified><ETag>"x"</ETag><Size>7</Size></Version>
            <DeleteMarker><Key>v/b</Key><VersionId>n+1</VersionId><IsLatest>true</IsLatest>
            <LastModified>2026-11-12T00:30:57.000Z</LastModified></DeleteMarker></ListVersionsResult>"#;
        let answer = Answer { headers: HeaderMap::new(), body: Bytes::from_static(text.as_bytes()) };
        let listed: ListedVersions = parse("ListObjectVersions", &answer).expect("readable");
        assert!(listed.is_truncated);
        assert_eq!(listed.next_version_id_marker.as_deref(), Some("n+1"));
        assert_eq!((listed.versions.len(), listed.markers.len()), (1, 2));
        let (key, version) = listed.versions.into_iter().next().expect("one").version(false).expect("sound");
        assert_eq!((key.as_str(), version.bytes, version.is_latest), ("v/a", 7, false));
    }
}
