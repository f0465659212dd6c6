//! One target that can be told.

use std::{fmt, time::Duration};

use farshore_core::Passphrase;
use farshore_state::Event;

use crate::{AlertError, MailTarget, WebhookTarget, mail::Mail, webhook::Webhook};

/// A try ends within this time.
const TRY_MAX: Duration = Duration::from_secs(20);

/// One target that can be told.
pub struct Sender {
    name: String,
    limit: Duration,
    way: Way,
}

enum Way {
    Webhook(Webhook),
    Mail(Mail),
}

impl fmt::Debug for Sender {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Sender({})", self.name)
    }
}

impl Sender {
    /// A sender to a program. `certificates_pem` is what the target's file of authorities holds. Nothing is contacted.
    ///
    /// # Errors
    /// [`AlertError::Unusable`].
    pub fn webhook(
        target: &WebhookTarget,
        bearer: Option<Passphrase>,
        certificates_pem: Option<Vec<u8>>,
    ) -> Result<Self, AlertError> {
        let host = target.url().ok().and_then(|url| url.host_str().map(str::to_owned));
        let name = host.map_or("the webhook".to_owned(), |host| format!("the webhook at {host}"));
        let unusable = |why| AlertError::Unusable { target: name.clone(), why };
        refuse_problems(target.problems()).map_err(unusable)?;
        let certificates = certificates(target.certificates.is_some(), certificates_pem).map_err(unusable)?;
        let webhook = Webhook::new(target, bearer, certificates.as_deref()).map_err(unusable)?;
        Ok(Self { name, limit: TRY_MAX, way: Way::Webhook(webhook) })
    }

    /// A sender to people. `certificates_pem` is what the target's file of authorities holds. Nothing is contacted.
    ///
    /// # Errors
    /// [`AlertError::Unusable`].
    pub fn mail(
        target: &MailTarget,
        password: Option<Passphrase>,
        certificates_pem: Option<Vec<u8>>,
    ) -> Result<Self, AlertError> {
        let server: String = target.server.chars().filter(|character| !character.is_control()).take(256).collect();
        let name = format!("the mail server {server}");
        let unusable = |why| AlertError::Unusable { target: name.clone(), why };
        refuse_problems(target.problems()).map_err(unusable)?;
        let certificates = certificates(target.certificates.is_some(), certificates_pem).map_err(unusable)?;
        let mail = Mail::new(target, password, certificates.as_deref()).map_err(unusable)?;
        Ok(Self { name, limit: TRY_MAX, way: Way::Mail(mail) })
    }

    /// What it is called in a sentence, such as `the webhook at hooks.example.org`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells the target once, within 20 seconds. If this is cancelled, or the answer is lost, the target may have heard of
    /// the event all the same.
    ///
    /// # Errors
    /// [`AlertError`]; [`AlertError::is_final`] says whether it is worth another try.
    pub async fn send(&self, host: &str, event: &Event) -> Result<(), AlertError> {
        let telling = async {
            match &self.way {
                Way::Webhook(webhook) => webhook.send(&self.name, host, event).await,
                Way::Mail(mail) => mail.send(&self.name, host, event).await,
            }
        };
        tokio::time::timeout(self.limit, telling)
            .await
            .unwrap_or_else(|_| Err(AlertError::TimedOut { target: self.name.clone(), limit: self.limit }))
    }

    #[cfg(test)]
    pub(crate) fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

fn refuse_problems(problems: Vec<(&'static str, String)>) -> Result<(), String> {
    problems.into_iter().next().map_or(Ok(()), |(key, why)| Err(format!("`{key}`: {why}")))
}

/// The authorities, if the target names any: with the system's in their place it would trust others than it says.
fn certificates(are_named: bool, pem: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, String> {
    match pem {
        None if are_named => Err("the file of its certificates was not read".to_owned()),
        pem => Ok(pem),
    }
}
