//! Exports what the daemon does as OpenTelemetry traces, by OTLP over HTTP.
//!
//! It must not hold up whoever has done something, and it must not decide what is worth a span. It is no record: what was
//! done is in the host's state file, and a trace may be lost.
//!
//! ## How a trace goes out
//! 1. What was done becomes a [`Span`] when it has ended, with its own times and with what was done for it: a whole trace
//!    at once. Ids are given to it when it is sent.
//! 2. The [`Exporter`] takes it without waiting. It holds a limited number of spans and gives up the oldest first: when the
//!    collector is away for long, the newest traces count most.
//! 3. Its task sends them to the [`Collector`] in batches, and tries again what may succeed later.
//!
//! ## What may leak
//! To the collector goes what is in the spans, what the resource says of the host, and the headers; to nobody else. The
//! headers' values are in no error and no debug text, not even if the other side repeats them in its answer. Nothing is sent
//! without TLS but to this machine; no redirect is followed, no proxy asked, and no `OTEL_*` variable of the environment read.
//!
//! ## Why the protocol's own exporter is not used
//! The messages are OpenTelemetry's own (the crate `opentelemetry-proto`). Its exporter (`opentelemetry-otlp` 0.33) waits by
//! a clock of its own, takes headers from the environment, and says that spans were rejected in a log only.

mod codes;
mod collector;
mod error;
mod exporter;
mod quote;
mod span;
mod target;
#[cfg(test)]
mod tests;
mod wire;

pub use self::{
    codes::CODES,
    collector::{Collector, Service},
    error::TelemetryError,
    exporter::{BATCH_SPANS_MAX, ExportObserver, Exporter, QUEUE_SPANS_MAX},
    span::{Attribute, Outcome, Span, SpanEvent, Value},
    target::TelemetryTarget,
};
