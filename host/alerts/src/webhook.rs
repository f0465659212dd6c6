//! Telling a program: one POST of JSON for each event.
//!
//! ```json
//! {"version": 1, "host": "left", "event": {"at": "...", "name": "...", "severity": "...", "group": null, "text": "...", "details": {}}}
//! ```

use std::time::Duration;

use farshore_core::Passphrase;
use farshore_state::Event;
use reqwest::{
    Certificate, Client,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
    redirect,
};
use serde::Serialize;
use url::Url;

use crate::{AlertError, WebhookTarget, quote::quote};

/// A connection is made within this time, or not.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Of an answer that is no success so much is read, so that a secret in it is seen whole before it is cut;
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// and so long is it waited for: the status says more than what follows.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// The message, whose version changes when its fields change their meaning.
#[derive(Serialize)]
struct Message<'a> {
    version: u32,
    host: &'a str,
    event: &'a Event,
}

pub(crate) struct Webhook {
    url: Url,
    client: Client,
    bearer: Option<Bearer>,
}

struct Bearer {
    secret: Passphrase,
    header: HeaderValue,
}

impl Bearer {
    fn new(secret: Passphrase) -> Result<Self, String> {
        let text = secret.expose();
        let is_token = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let header = HeaderValue::from_str(&format!("Bearer {text}")).ok().filter(|_| is_token);
        let mut header = header.ok_or("the bearer is empty or has a character that none may have")?;
        header.set_sensitive(true);
        Ok(Self { secret, header })
    }
}

impl Webhook {
    /// The webhook, or why there cannot be one.
    pub(crate) fn new(
        target: &WebhookTarget,
        bearer: Option<Passphrase>,
        certificates_pem: Option<&[u8]>,
    ) -> Result<Self, String> {
        let url = target.url()?;
        // Events are rare: a connection that is kept would often be closed by the other side when it is used again.
        let mut client = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .http1_only()
            .https_only(url.scheme() == "https")
            .connect_timeout(CONNECT_MAX)
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
        let client = client.build().map_err(|error| error.to_string())?;
        Ok(Self { url, client, bearer: bearer.map(Bearer::new).transpose()? })
    }

    pub(crate) async fn send(&self, name: &str, host: &str, event: &Event) -> Result<(), AlertError> {
        let unreachable = |error: reqwest::Error| AlertError::Unreachable {
            target: name.to_owned(),
            source: Box::new(error.without_url()),
        };
        let body = serde_json::to_vec(&Message { version: 1, host, event })
            .map_err(|error| AlertError::Unusable { target: name.to_owned(), why: error.to_string() })?;
        let mut request = self.client.post(self.url.clone()).header(CONTENT_TYPE, "application/json").body(body);
        if let Some(bearer) = &self.bearer {
            request = request.header(AUTHORIZATION, bearer.header.clone());
        }
        let answer = request.send().await.map_err(unreachable)?;
        if answer.status().is_success() {
            return Ok(());
        }
        let status = answer.status().as_u16();
        let secrets = self.bearer.iter().map(|bearer| bearer.secret.expose());
        Err(AlertError::Status { target: name.to_owned(), status, said: quote(&beginning(answer).await, secrets) })
    }
}

/// As much of an answer as arrives: its status is known already, so that an end before its time changes nothing.
async fn beginning(mut answer: reqwest::Response) -> String {
    let mut bytes = Vec::new();
    let reading = async {
        while bytes.len() < ANSWER_BYTES_MAX
            && let Ok(Some(part)) = answer.chunk().await
        {
            bytes.extend_from_slice(&part);
        }
    };
    let _ = tokio::time::timeout(ANSWER_MAX, reading).await;
    String::from_utf8_lossy(&bytes).into_owned()
}
