//! Spans in the protocol's own words (OTLP 1.x, `opentelemetry/proto/trace/v1/trace.proto`).

use farshore_core::{Entropy, Timestamp};
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::{Span as WireSpan, Status, span::Event, span::SpanKind, status::StatusCode},
};

use crate::{Attribute, Outcome, Span, Value};

/// A span has so many attributes and so many events at most, and an event so many attributes: what the protocol's own
/// exporters allow.
const ATTRIBUTES_MAX: usize = 128;
const EVENTS_MAX: usize = 128;
/// A text is cut when it is longer than this.
const TEXT_BYTES_MAX: usize = 4 << 10;
/// It was decided that the trace is kept; and it is known that no parent is on another host.
const FLAGS: u32 = 0x101;

/// A trace, its root first, as far as it has no more than `spans_max` spans.
pub(crate) fn trace(root: Span, spans_max: usize, entropy: &dyn Entropy) -> Vec<WireSpan> {
    let trace_id: [u8; 16] = id(entropy);
    let mut spans = Vec::new();
    let mut left = vec![(root, Vec::new())];
    while let Some((mut span, parent_span_id)) = left.pop()
        && spans.len() < spans_max
    {
        let span_id = id::<8>(entropy).to_vec();
        let children = std::mem::take(&mut span.children);
        left.extend(children.into_iter().rev().map(|child| (child, span_id.clone())));
        spans.push(WireSpan { trace_id: trace_id.to_vec(), span_id, parent_span_id, ..own(span) });
    }
    spans
}

/// What a span says of itself.
fn own(span: Span) -> WireSpan {
    let Span { name, begun, ended, attributes: known, outcome, events: happened, children: _ } = span;
    let (attributes, dropped_attributes_count) = attributes(known);
    let dropped_events_count = excess(happened.len(), EVENTS_MAX);
    let events = happened.into_iter().take(EVENTS_MAX).map(|event| {
        let (attributes, dropped_attributes_count) = self::attributes(event.attributes);
        Event {
            time_unix_nano: nanoseconds(event.at),
            name: event.name.to_owned(),
            attributes,
            dropped_attributes_count,
        }
    });
    let status = match outcome {
        // That something was as it should be is left unsaid (OpenTelemetry, "Set Status").
        Outcome::Ok => Status { message: String::new(), code: StatusCode::Unset.into() },
        Outcome::Failed { message } => Status { message: cut(message), code: StatusCode::Error.into() },
    };
    WireSpan {
        flags: FLAGS,
        name: name.to_owned(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: nanoseconds(begun),
        end_time_unix_nano: nanoseconds(ended.max(begun)),
        attributes,
        dropped_attributes_count,
        events: events.collect(),
        dropped_events_count,
        status: Some(status),
        ..WireSpan::default()
    }
}

fn attributes(known: Vec<Attribute>) -> (Vec<KeyValue>, u32) {
    let dropped = excess(known.len(), ATTRIBUTES_MAX);
    (known.into_iter().take(ATTRIBUTES_MAX).map(|(name, value)| attribute(name, value)).collect(), dropped)
}

/// One attribute.
pub(crate) fn attribute(name: &str, value: Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => any_value::Value::StringValue(cut(text)),
        Value::Integer(number) => any_value::Value::IntValue(number),
        Value::Float(number) => any_value::Value::DoubleValue(number),
        Value::Boolean(truth) => any_value::Value::BoolValue(truth),
    };
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// An id at random; one of zeros only means that there is none.
fn id<const BYTES: usize>(entropy: &dyn Entropy) -> [u8; BYTES] {
    let mut id = [0; BYTES];
    while id == [0; BYTES] {
        entropy.fill(&mut id);
    }
    id
}

/// Since 1970, where the protocol begins.
fn nanoseconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_unix_milliseconds()).unwrap_or(0).saturating_mul(1_000_000)
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

fn excess(count: usize, max: usize) -> u32 {
    u32::try_from(count.saturating_sub(max)).unwrap_or(u32::MAX)
}
