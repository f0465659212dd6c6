//! What makes a request ours: AWS Signature Version 4.
//!
//! Keys are asked for at each request and kept for a minute, so that those of a session are renewed where the operator
//! renews them, while a run goes on. <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html>

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{self, SignableBody, SignableRequest, SigningSettings},
    sign::v4,
};
use farshore_core::{Clock, Timestamp};
use zeroize::Zeroizing;

use crate::{Header, Request};

/// Keys are asked for again after this long.
const KEYS_KEPT: Duration = Duration::from_secs(60);

/// Why keys cannot be had.
pub type KeyError = Box<dyn std::error::Error + Send + Sync>;

/// The keys of a credential.
#[derive(Clone, PartialEq, Eq)]
pub struct SigV4Keys {
    /// Which key it is.
    pub access_key_id: Zeroizing<String>,
    /// The key.
    pub secret_access_key: Zeroizing<String>,
    /// What a session's keys come with.
    pub session_token: Option<Zeroizing<String>>,
}

impl SigV4Keys {
    /// Whether they can stand in a header: one with a line break in its middle cannot.
    fn check(&self) -> Result<(), KeyError> {
        let token = self.session_token.as_ref().map(|token| ("session token", token));
        let all = [("access key id", &self.access_key_id), ("secret access key", &self.secret_access_key)];
        match all.into_iter().chain(token).find(|(_, key)| !key.bytes().all(|byte| byte.is_ascii_graphic())) {
            Some((what, _)) => {
                Err(format!("the {what} has a space, a line break or another character that no key has").into())
            }
            None => Ok(()),
        }
    }
}

impl fmt::Debug for SigV4Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SigV4Keys(hidden)")
    }
}

/// Where keys come from: a file, a variable.
pub trait KeySource: Send + Sync {
    /// The keys as they are now.
    ///
    /// # Errors
    /// When they are not there; the sentence holds none of them.
    fn keys(&self) -> Result<SigV4Keys, KeyError>;
}

/// How the requests of an endpoint are signed.
#[derive(Clone)]
pub struct SigV4 {
    /// Such as `eu-west-1`.
    pub region: String,
    /// Such as `ec2`.
    pub service: String,
    /// The keys.
    pub keys: Arc<dyn KeySource>,
}

/// A signer that keeps keys for a while.
pub(crate) struct Signer {
    how: SigV4,
    kept: Mutex<Option<(Duration, SigV4Keys)>>,
}

impl Signer {
    pub(crate) fn new(how: SigV4) -> Self {
        Self { how, kept: Mutex::new(None) }
    }

    /// The keys, read again if they were read long ago.
    pub(crate) async fn keys(&self, clock: &dyn Clock) -> Result<SigV4Keys, KeyError> {
        let now = clock.monotonic();
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((read_at, keys)) = kept
            && now.saturating_sub(read_at) < KEYS_KEPT
        {
            return Ok(keys);
        }
        let source = Arc::clone(&self.how.keys);
        let keys = tokio::task::spawn_blocking(move || source.keys()).await.map_err(KeyError::from)??;
        keys.check()?;
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, keys.clone()));
        Ok(keys)
    }

    /// Asks for keys again, because these were refused. Whether there are others now.
    pub(crate) async fn renew(&self, refused: &SigV4Keys, clock: &dyn Clock) -> bool {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // Why they cannot be had is told by the next request that needs them.
        self.keys(clock).await.is_ok_and(|keys| keys != *refused)
    }

    /// The headers that sign the request.
    pub(crate) fn sign(
        &self,
        keys: &SigV4Keys,
        request: &Request,
        url: &url::Url,
        now: Timestamp,
    ) -> Result<Vec<Header>, String> {
        let token = keys.session_token.as_ref().map(|token| token.to_string());
        let identity =
            Credentials::new(keys.access_key_id.as_str(), keys.secret_access_key.as_str(), token, None, "operator")
                .into();
        let now = Duration::from_millis(now.as_unix_milliseconds().max(0).unsigned_abs());
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.how.region)
            .name(&self.how.service)
            .time(UNIX_EPOCH + now)
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| error.to_string())?
            .into();
        let body = match &request.body_sha256 {
            Some(digest) => SignableBody::Precomputed(hex::encode(digest)),
            None => SignableBody::Bytes(&request.body),
        };
        let headers = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let method = request.method.word();
        let signable =
            SignableRequest::new(method.as_str(), url.as_str(), headers, body).map_err(|error| error.to_string())?;
        let (signed, _) = http_request::sign(signable, &params).map_err(|error| error.to_string())?.into_parts();
        Ok(signed.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}
