//! Who takes traces of cycles, as `[telemetry]` says.
//!
//! Nobody waits for it. That the collector takes none is kept and printed, and nobody is alerted.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use farshore_core::{Coded as _, Passphrase, RunId};
use farshore_replication::PhaseTimes;
use farshore_state::{CycleRecord, Severity};
use farshore_telemetry::{Collector, ExportObserver, Exporter, Service, TelemetryError};
use serde_json::json;

use super::{cycle_span::cycle_span, diary::Kept, events};
use crate::{
    config::{Configuration, Telemetry, secret},
    context::Context,
    error::CliError,
    output::Failure,
};

/// A collector, before anything is sent to it.
pub struct Made {
    collector: Collector,
    /// The same for the same target, headers and certificates.
    fingerprint: blake3::Hash,
}

/// What a configuration makes, if it names a collector. Contacts nobody.
///
/// # Errors
/// When a secret or a certificate cannot be had, or the collector cannot be used.
pub fn make(context: &Context, configuration: &Configuration) -> Result<Option<Made>, Failure> {
    let Some(Telemetry { traces, headers }) = &configuration.telemetry else { return Ok(None) };
    let mut fingerprint = blake3::Hasher::new();
    fingerprint.update(format!("{traces:?}").as_bytes());
    let mut values = BTreeMap::new();
    for (name, place) in headers {
        let refused = |source| CliError::Secret { what: format!("the header `{name}` of [telemetry]"), source };
        let value = configuration.secret(context.output, place).map_err(refused)?;
        fingerprint.update(format!("\n{name}\n").as_bytes()).update(value.as_bytes());
        values.insert(name.clone(), Passphrase::new(value.as_str()));
    }
    let pem = match &traces.certificates {
        None => None,
        Some(file) => {
            let path = configuration.path(file);
            let read = secret::read_certificates(&path);
            Some(read.map_err(|source| CliError::CertificatesUnreadable { path, source })?)
        }
    };
    fingerprint.update(pem.as_deref().unwrap_or_default());
    let service = Service {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        // Any id that no other has.
        instance: RunId::timed(&*context.clock, &*context.entropy).to_string(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
    };
    let collector = Collector::new(traces, &service, values, pem.as_deref())?;
    Ok(Some(Made { collector, fingerprint: fingerprint.finalize() }))
}

/// Where traces go; nowhere if there is no collector.
#[derive(Default)]
pub struct Traces {
    taken: RwLock<Option<(blake3::Hash, Exporter)>>,
    /// Spans that earlier exporters gave up.
    dropped_before: AtomicU64,
}

impl Traces {
    /// A cycle has ended; its phases took so long.
    pub fn cycle(&self, record: &CycleRecord, times: Option<&PhaseTimes>) {
        if let Some((_, exporter)) = &*self.taken.read().unwrap_or_else(PoisonError::into_inner) {
            exporter.span(cycle_span(record, times));
        }
    }

    /// From now on this collector takes them. If it is the one before, it goes on; what waits for another is sent within seconds, or not.
    pub fn replace(&self, made: Option<Made>, kept: &Kept, context: &Context) {
        let mut taken = self.taken.write().unwrap_or_else(PoisonError::into_inner);
        if taken.as_ref().map(|(fingerprint, _)| *fingerprint) == made.as_ref().map(|made| made.fingerprint) {
            return;
        }
        if let Some((_, before)) = taken.take() {
            self.dropped_before.fetch_add(before.dropped(), Ordering::Relaxed);
        }
        *taken = made.map(|Made { collector, fingerprint }| {
            let (clock, entropy) = (Arc::clone(&context.clock), Arc::clone(&context.entropy));
            (fingerprint, Exporter::start(collector, clock, entropy, Arc::new(Heard(kept.clone()))))
        });
    }

    /// How many spans were given up.
    pub fn dropped(&self) -> u64 {
        let taken = self.taken.read().unwrap_or_else(PoisonError::into_inner);
        let now = taken.as_ref().map_or(0, |(_, exporter)| exporter.dropped());
        self.dropped_before.load(Ordering::Relaxed).saturating_add(now)
    }

    /// Sends what waits, within seconds.
    pub async fn end(&self) {
        let taken = self.taken.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((_, exporter)) = taken {
            exporter.end().await;
        }
    }
}

/// Hears how the collector fares.
struct Heard(Kept);

impl ExportObserver for Heard {
    fn failed(&self, collector: &str, error: &TelemetryError) {
        let text = format!("traces are not taken: [{}] {error}", error.code());
        let details = json!({ "collector": collector, "code": error.code(), "final": error.is_final() });
        self.0.tell(events::TELEMETRY_FAILED, Severity::Warning, None, text, details);
    }

    fn recovered(&self, collector: &str, lost_spans: u64) {
        let text = format!("{collector} takes traces again; {lost_spans} spans were lost");
        let details = json!({ "collector": collector, "lost_spans": lost_spans });
        self.0.tell(events::TELEMETRY_RECOVERED, Severity::Info, None, text, details);
    }
}
