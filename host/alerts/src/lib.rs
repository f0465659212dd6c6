//! Tells people and programs outside what happened: webhooks and mail.
//!
//! It must not decide what is worth telling: events come to it with their severity, and the operator's rules say who
//! hears of which. It must not hold up whoever has something to tell, and it is no record: what was told, or could not be,
//! is in the host's state file.
//!
//! ## How an event goes out
//! 1. Each [`AlertRule`] names one target, and [`AlertRule::wants`] an event or not.
//! 2. The target's [`Outbox`] takes the event without waiting. It holds a limited number and gives up the oldest first:
//!    when everything fails, the newest news counts most.
//! 3. [`Outbox::run`] hands the events to the [`Sender`] one after the other, and tries again what may succeed later, up
//!    to an hour after the event was handed over. An event that the target refuses for now does not hold up the others. So
//!    an event may arrive after one that is newer, twice, if an answer was lost on the way, or never.
//!
//! ## What may leak
//! To a target goes the event and the host's name, and nothing else of the host. The bearer of a webhook and the password
//! of a mail server are in no error, no log and no debug text, not even if the other side repeats them in its answer. Of a
//! webhook's address only the host is shown, because some services put a secret into the path. Nothing is sent without
//! TLS but to this machine; no redirect is followed and no proxy asked.

mod codes;
mod error;
mod mail;
mod outbox;
mod quote;
mod rule;
mod sender;
#[cfg(test)]
mod tests;
mod webhook;

pub use self::{
    codes::CODES,
    error::AlertError,
    outbox::{Outbox, OutboxObserver, QUEUE_MAX},
    rule::{AlertRule, MailSecurity, MailTarget, WebhookTarget},
    sender::Sender,
};
