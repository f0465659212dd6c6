use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value as WireValue},
    trace::v1::{Span as WireSpan, span::SpanKind, status::StatusCode},
};

use super::{
    servers::{Answer, Heard, Server},
    *,
};
use crate::{BATCH_SPANS_MAX, Outcome, SpanEvent, Value};

/// What arrives of these traces.
async fn arrived(traces: Vec<Span>, resource: &[(&str, &str)]) -> Heard {
    let server = Server::with_answers([Answer::taken()]).await;
    let resource = resource.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let target = TelemetryTarget { resource, ..target(server.endpoint()) };
    let collector = Collector::new(&target, &service(), headers(), None).expect("a collector");
    let clock = TestClock::standing();
    let notes = Arc::<Notes>::default();
    let exporter = Exporter::start(collector, clock, Arc::new(SeededEntropy::new(3)), Arc::clone(&notes) as _);
    for trace in traces {
        exporter.span(trace);
    }
    in_time(exporter.end()).await;
    assert_eq!(notes.lines(), [""; 0]);
    let heard = server.heard();
    let [heard] = heard.as_slice() else { panic!("{heard:?}") };
    heard.clone()
}

fn known(attributes: &[KeyValue]) -> BTreeMap<String, WireValue> {
    let value = |value: &Option<AnyValue>| value.clone().and_then(|value| value.value).expect("a value");
    attributes.iter().map(|attribute| (attribute.key.clone(), value(&attribute.value))).collect()
}

fn text(text: &str) -> WireValue {
    WireValue::StringValue(text.to_owned())
}

fn times(span: &WireSpan) -> (u64, u64) {
    let base = u64::try_from(NOW).expect("after 1970") * 1_000_000;
    (span.start_time_unix_nano - base, span.end_time_unix_nano - base)
}

#[tokio::test]
async fn a_trace_arrives_with_its_ids_parents_times_and_all_that_is_known() {
    let shares = vec![("farshore.share", Value::Float(0.5)), ("farshore.whole", Value::Boolean(true))];
    let grandchild = Span { attributes: shares, ..Span::new("read", at(20), at(30)) };
    let copy = Span { children: vec![grandchild], ..Span::new("copy", at(10), at(40)) };
    let event = SpanEvent { name: "retried", at: at(50), attributes: vec![("farshore.tries", Value::Integer(-2))] };
    let commit = Span {
        outcome: Outcome::Failed { message: "the vault is gone".to_owned() },
        events: vec![event],
        ..Span::new("commit", at(40), at(60))
    };
    let root = Span::new("cycle", at(0), at(61)).with("farshore.group", "orders").with("farshore.point", u64::MAX);
    let heard = arrived(vec![Span { children: vec![copy, commit], ..root }], &[]).await;
    assert_eq!(heard.path, "POST /v1/traces");
    let spans = heard.spans();
    let [cycle, copy, read, commit] = spans.as_slice() else { panic!("{spans:?}") };
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["cycle", "copy", "read", "commit"]);
    let parents = [&b""[..], &cycle.span_id, &copy.span_id, &cycle.span_id];
    assert_eq!(spans.iter().map(|span| &*span.parent_span_id).collect::<Vec<_>>(), parents);
    assert_eq!(spans.iter().map(|span| span.span_id.clone()).collect::<BTreeSet<_>>().len(), 4);
    for span in &spans {
        assert_eq!((span.trace_id.len(), span.span_id.len(), span.flags), (16, 8, 0x101));
        assert_eq!((&span.trace_id, span.kind()), (&cycle.trace_id, SpanKind::Internal));
        assert!(span.trace_id.iter().any(|byte| *byte != 0));
    }
    let millisecond = 1_000_000;
    assert_eq!(times(cycle), (0, 61 * millisecond));
    assert_eq!(times(copy), (10 * millisecond, 40 * millisecond));
    assert_eq!(times(read), (20 * millisecond, 30 * millisecond));
    let expected =
        [("farshore.group".to_owned(), text("orders")), ("farshore.point".to_owned(), WireValue::IntValue(i64::MAX))];
    assert_eq!(known(&cycle.attributes), BTreeMap::from(expected));
    let expected = [
        ("farshore.share".to_owned(), WireValue::DoubleValue(0.5)),
        ("farshore.whole".to_owned(), WireValue::BoolValue(true)),
    ];
    assert_eq!(known(&read.attributes), BTreeMap::from(expected));
    assert_eq!(cycle.status.as_ref().expect("a status").code(), StatusCode::Unset);
    let status = commit.status.as_ref().expect("a status");
    assert_eq!((status.code(), status.message.as_str()), (StatusCode::Error, "the vault is gone"));
    let [event] = commit.events.as_slice() else { panic!("{commit:?}") };
    assert_eq!(event.name, "retried");
    assert_eq!(event.time_unix_nano, times(commit).0 + cycle.start_time_unix_nano + 10 * millisecond);
    assert_eq!(known(&event.attributes)["farshore.tries"], WireValue::IntValue(-2));
}

#[tokio::test]
async fn the_resource_says_who_it_is_and_what_the_operator_adds_or_replaces() {
    let added = [("deployment.environment.name", "production"), ("host.name", "left.example.org")];
    let heard = arrived(vec![trace("a", 1)], &added).await;
    let [resource] = heard.request.resource_spans.as_slice() else { panic!("{heard:?}") };
    let expected = [
        ("deployment.environment.name", "production"),
        ("host.name", "left.example.org"),
        ("service.instance.id", "instance-1"),
        ("service.name", "farshore"),
        ("service.version", "1.2.3"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), text(value)));
    assert_eq!(known(&resource.resource.as_ref().expect("a resource").attributes), BTreeMap::from(expected));
    let scope = resource.scope_spans[0].scope.as_ref().expect("a scope");
    assert_eq!((scope.name.as_str(), scope.version.as_str()), ("farshore", "1.2.3"));
}

#[tokio::test]
async fn each_root_makes_a_trace_of_its_own() {
    let spans = arrived(vec![trace("a", 2), trace("b", 2)], &[]).await.spans();
    let traces: BTreeSet<Vec<u8>> = spans.iter().map(|span| span.trace_id.clone()).collect();
    assert_eq!((spans.len(), traces.len()), (4, 2));
    assert_eq!(spans[2].trace_id, spans[3].trace_id);
}

#[tokio::test]
async fn what_is_too_much_is_cut_and_counted() {
    let mut root = Span::new("a", at(5), at(-5)).with("farshore.text", "é".repeat(3_000));
    root.attributes.extend(vec![("farshore.number", Value::Integer(1)); 130]);
    let event = SpanEvent { name: "b", at: Timestamp::from_unix_milliseconds(-1), attributes: root.attributes.clone() };
    root.events = vec![event; 129];
    root.outcome = Outcome::Failed { message: "x".repeat(5_000) };
    root.children = vec![Span::new("child", at(0), at(1)); BATCH_SPANS_MAX + 9];
    let spans = arrived(vec![root], &[]).await.spans();
    assert_eq!(spans.len(), BATCH_SPANS_MAX);
    let root = &spans[0];
    assert_eq!(root.start_time_unix_nano, root.end_time_unix_nano);
    assert_eq!((root.attributes.len(), root.dropped_attributes_count), (128, 3));
    assert_eq!((root.events.len(), root.dropped_events_count), (128, 1));
    assert_eq!((root.events[0].time_unix_nano, root.events[0].dropped_attributes_count), (0, 3));
    assert_eq!(known(&root.attributes)["farshore.text"], text(&"é".repeat(2_048)));
    assert_eq!(root.status.as_ref().expect("a status").message.len(), 4_096);
}
