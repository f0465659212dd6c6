//! What telling promises, against servers on this machine.

mod mail;
mod outbox;
mod rules;
mod servers;
mod webhook;

use farshore_core::{GroupName, Passphrase, Timestamp};
use farshore_state::{Event, Severity};
use serde_json::json;

use crate::{MailSecurity, MailTarget, WebhookTarget};

/// No error and no debug text may hold this.
const SECRET: &str = "s3cret-Of-The-Operator";

fn secret() -> Option<Passphrase> {
    Some(Passphrase::new(SECRET))
}

fn event(text: &str) -> Event {
    Event {
        at: Timestamp::from_unix_milliseconds(1_790_000_000_123),
        name: "objective-missed".to_owned(),
        severity: Severity::Warning,
        group: Some(GroupName::new("orders").expect("a name")),
        text: text.to_owned(),
        details: json!({"age-seconds": 90, "site": "left"}).as_object().expect("an object").clone(),
    }
}

fn webhook_target(address: impl Into<String>) -> WebhookTarget {
    WebhookTarget { address: address.into(), certificates: None }
}

fn mail_target(server: impl Into<String>) -> MailTarget {
    MailTarget {
        server: server.into(),
        security: MailSecurity::None,
        from: "Farshore <farshore@example.org>".to_owned(),
        to: vec!["ops@example.org".to_owned(), "Boss <boss@example.org>".to_owned()],
        user: None,
        certificates: None,
    }
}
