//! Who outside is told of events, as `[alerts.NAME]` says.
//!
//! Nobody waits for them: each has a queue and a task of its own. That somebody could not be told is kept and printed, and told nobody.

use std::{
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use farshore_alerts::{AlertError, AlertRule, Outbox, OutboxObserver, Sender};
use farshore_core::{AlertName, Clock, Coded as _, Passphrase};
use farshore_state::{Event, Severity};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{diary::Kept, events};
use crate::{
    config::{Alert, Configuration, secret},
    context::Context,
    error::CliError,
    output::Failure,
};

/// A rule, and who is told.
pub struct Made {
    name: AlertName,
    rule: AlertRule,
    sender: Sender,
    /// The same for the same rule, secret and certificates.
    fingerprint: blake3::Hash,
}

/// What all rules of a configuration make. Contacts nobody.
///
/// # Errors
/// When a secret or a certificate cannot be had, or a target cannot be used.
pub fn make(context: &Context, configuration: &Configuration) -> Result<Vec<Made>, Failure> {
    let make = |(name, alert): (&AlertName, &Alert)| {
        let made = sender(context, configuration, name, alert)?;
        Ok(made.map(|(sender, fingerprint)| Made { name: name.clone(), rule: alert.rule(), sender, fingerprint }))
    };
    configuration.alerts.iter().filter_map(|entry| make(entry).transpose()).collect()
}

fn sender(
    context: &Context,
    configuration: &Configuration,
    name: &AlertName,
    alert: &Alert,
) -> Result<Option<(Sender, blake3::Hash)>, Failure> {
    let refused = |source| CliError::Secret { what: format!("the secret of the alert {name}"), source };
    let secret = alert.secret.as_ref().map(|place| configuration.secret(context.output, place).map_err(refused));
    let secret = secret.transpose()?;
    let mut fingerprint = blake3::Hasher::new();
    fingerprint.update(format!("{name} {:?}", alert.rule()).as_bytes());
    fingerprint.update(secret.as_ref().map_or(&b""[..], |secret| secret.as_bytes()));
    let secret = secret.map(|secret| Passphrase::new(secret.as_str()));
    let certificates = |file: &Option<PathBuf>| {
        let Some(file) = file else { return Ok(None) };
        let path = configuration.path(file);
        secret::read_certificates(&path).map(Some).map_err(|source| CliError::CertificatesUnreadable { path, source })
    };
    let file = alert.webhook.as_ref().map(|webhook| &webhook.certificates);
    let pem = certificates(file.or(alert.mail.as_ref().map(|mail| &mail.certificates)).unwrap_or(&None))?;
    fingerprint.update(pem.as_deref().unwrap_or_default());
    let sender = match (&alert.webhook, &alert.mail) {
        (Some(webhook), _) => Sender::webhook(webhook, secret, pem)?,
        (None, Some(mail)) => Sender::mail(mail, secret, pem)?,
        // The file's check refuses a rule that tells nobody.
        (None, None) => return Ok(None),
    };
    Ok(Some((sender, fingerprint.finalize())))
}

struct Target {
    fingerprint: blake3::Hash,
    rule: AlertRule,
    outbox: Arc<Outbox>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Target {
    fn begin(made: Made, kept: &Kept, clock: &Arc<dyn Clock>) -> Self {
        let Made { name, rule, sender, fingerprint } = made;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let outbox = Arc::new(Outbox::new(sender, host, Arc::clone(clock)));
        let stop = CancellationToken::new();
        let heard = Heard { alert: name, kept: kept.clone(), is_failing: AtomicBool::new(false) };
        let (of_task, stop_task) = (Arc::clone(&outbox), stop.clone());
        let task = tokio::spawn(async move { of_task.run(&stop_task, &heard).await });
        Self { fingerprint, rule, outbox, stop, task }
    }
}

/// All who are told.
#[derive(Default)]
pub struct Alarms(RwLock<Vec<Target>>);

impl Alarms {
    /// Tells whoever wants to hear of events that are so severe. Who heard of a trouble hears of its end, which is as severe here.
    pub fn tell(&self, event: &Event, severity: Severity) {
        let as_trouble = Event { severity, ..event.clone() };
        for Target { rule, outbox, .. } in &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            if rule.wants(&as_trouble) {
                outbox.put(event.clone());
            }
        }
    }

    /// From now on these are told. Those that are as before keep what waits for them; to others it is sent within seconds, or not.
    pub fn replace(&self, made: Vec<Made>, kept: &Kept, clock: &Arc<dyn Clock>) {
        let mut targets = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *targets);
        for made in made {
            match before.iter().position(|target| target.fingerprint == made.fingerprint) {
                Some(index) => targets.push(before.swap_remove(index)),
                None => targets.push(Target::begin(made, kept, clock)),
            }
        }
        before.iter().for_each(|target| target.stop.cancel());
    }

    /// Ends all. What waits is tried once more, within seconds.
    pub async fn end(&self) {
        let targets = std::mem::take(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner));
        targets.iter().for_each(|target| target.stop.cancel());
        for target in targets {
            // A panic of the task was printed when it came.
            let _ = target.task.await;
        }
    }
}

/// Hears how a target fares.
struct Heard {
    alert: AlertName,
    kept: Kept,
    is_failing: AtomicBool,
}

impl Heard {
    fn warn(&self, target: &str, text: &str, details: serde_json::Value) {
        let text = format!("alert {}: {target} {text}", self.alert);
        self.kept.tell(events::ALERT_FAILED, Severity::Warning, None, text, details);
    }
}

impl OutboxObserver for Heard {
    fn failed(&self, target: &str, error: &AlertError, given_up: bool) {
        let details = json!({ "alert": self.alert, "code": error.code(), "given_up": given_up });
        if given_up {
            self.warn(target, &format!("was not told of an event: {error}"), details);
        } else if !self.is_failing.swap(true, Ordering::Relaxed) {
            self.warn(target, &format!("cannot be told now, and is tried again: {error}"), details);
        }
    }

    fn sent(&self, target: &str) {
        if self.is_failing.swap(false, Ordering::Relaxed) {
            self.warn(target, "can be told again", json!({ "alert": self.alert }));
        }
    }

    fn dropped(&self, target: &str, count: u64) {
        self.warn(target, &format!("was not told of {count} events"), json!({ "alert": self.alert, "events": count }));
    }
}
