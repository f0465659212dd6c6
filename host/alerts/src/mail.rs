//! Telling people: one plain mail for each event, handed to the operator's mail server.

use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use farshore_core::Passphrase;
use farshore_state::Event;
use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    message::{
        Mailbox, SinglePart,
        header::{HeaderName, HeaderValue},
    },
    transport::smtp::{
        Error as SmtpError,
        authentication::Credentials,
        client::{Certificate, CertificateStore, Tls, TlsParameters},
    },
};
use serde_json::Value;

use crate::{
    AlertError, MailSecurity, MailTarget,
    quote::{plain, quote},
    rule::mailbox,
};

/// A connection is made within this time, or not.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// A subject is cut to this.
const SUBJECT_CHARACTERS_MAX: usize = 200;
/// The last second that a mail's date can name, after 1970.
const DATE_SECONDS_MAX: u64 = 253_402_300_799;

pub(crate) struct Mail {
    from: Mailbox,
    to: Vec<Mailbox>,
    transport: AsyncSmtpTransport<Tokio1Executor>,
    /// The forms in which the password goes to the server, which may repeat them in an answer.
    secrets: Vec<Passphrase>,
}

impl Mail {
    /// The way to the people, or why there cannot be one.
    pub(crate) fn new(
        target: &MailTarget,
        password: Option<Passphrase>,
        certificates_pem: Option<&[u8]>,
    ) -> Result<Self, String> {
        let (host, port) = target.server()?;
        let tls = match target.security {
            MailSecurity::Tls => Tls::Wrapper(tls(&host, certificates_pem)?),
            MailSecurity::StartTls => Tls::Required(tls(&host, certificates_pem)?),
            MailSecurity::None => Tls::None,
        };
        let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
            .port(port)
            .tls(tls)
            .timeout(Some(CONNECT_MAX));
        let mut secrets = Vec::new();
        match (&target.user, password) {
            (Some(user), Some(password)) => {
                let text = password.expose();
                transport = transport.credentials(Credentials::new(user.clone(), text.to_owned()));
                secrets.push(Passphrase::new(BASE64.encode(format!("\0{user}\0{text}"))));
                secrets.push(Passphrase::new(BASE64.encode(text)));
                secrets.push(password);
            }
            (None, None) => {}
            (Some(_), None) => return Err("it has a user, and no password".to_owned()),
            (None, Some(_)) => return Err("it has a password, and no user".to_owned()),
        }
        let to = target.to.iter().map(|text| mailbox(text)).collect::<Result<_, _>>()?;
        Ok(Self { from: mailbox(&target.from)?, to, transport: transport.build(), secrets })
    }

    pub(crate) async fn send(&self, name: &str, host: &str, event: &Event) -> Result<(), AlertError> {
        let message = self.message(host, event).map_err(|error| {
            let (target, why) = (name.to_owned(), error.to_string());
            AlertError::Unusable { target, why }
        })?;
        match self.transport.send(message).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failure(name, error)),
        }
    }

    fn failure(&self, name: &str, error: SmtpError) -> AlertError {
        let target = name.to_owned();
        let Some(code) = error.status() else { return AlertError::Unreachable { target, source: Box::new(error) } };
        let said = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        let said = quote(&said, self.secrets.iter().map(Passphrase::expose));
        AlertError::MailRefused { target, status: code.into(), said }
    }

    fn message(&self, host: &str, event: &Event) -> Result<Message, lettre::error::Error> {
        // So that no absence note comes back (RFC 3834).
        let automatic = HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned());
        let mut message = Message::builder().from(self.from.clone()).subject(subject(host, event)).date(date(event));
        for recipient in &self.to {
            message = message.to(recipient.clone());
        }
        message.raw_header(automatic).singlepart(SinglePart::plain(text(host, event)))
    }
}

fn tls(host: &str, certificates_pem: Option<&[u8]>) -> Result<TlsParameters, String> {
    let mut parameters = TlsParameters::builder(host.to_owned());
    if let Some(pem) = certificates_pem {
        let unreadable = |why: &str| format!("its certificates cannot be read: {why}");
        if !pem.windows(CERTIFICATE.len()).any(|window| window == CERTIFICATE) {
            return Err(unreadable("there is none in the file"));
        }
        let certificates = Certificate::from_pem(pem).map_err(|error| unreadable(&error.to_string()))?;
        parameters = parameters.certificate_store(CertificateStore::None).add_root_certificate(certificates);
    }
    parameters.build().map_err(|error| error.to_string())
}

/// What begins a certificate in a PEM file.
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

fn subject(host: &str, event: &Event) -> String {
    let first = event.text.lines().next().unwrap_or_default();
    format!("[farshore] {}: {}", plain(host), plain(first)).chars().take(SUBJECT_CHARACTERS_MAX).collect()
}

/// When it happened, moved into the years that a mail can name.
fn date(event: &Event) -> SystemTime {
    let seconds = u64::try_from(event.at.as_unix_milliseconds() / 1_000).unwrap_or(0).min(DATE_SECONDS_MAX);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// The event for people: its text, and then a line for each thing that is known.
fn text(host: &str, event: &Event) -> String {
    let mut lines: Vec<String> = event.text.lines().map(plain).collect();
    lines.push(String::new());
    let mut line = |key: &str, value: &str| lines.push(format!("{}: {}", plain(key), plain(value)));
    line("host", host);
    line("time", &event.at.to_string());
    line("event", &event.name);
    line("severity", &event.severity.to_string());
    if let Some(group) = &event.group {
        line("group", group.as_str());
    }
    for (key, value) in &event.details {
        match value {
            Value::String(text) => line(key, text),
            other => line(key, &other.to_string()),
        }
    }
    lines.push(String::new());
    lines.join("\n")
}
