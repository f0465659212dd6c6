use tokio::net::TcpListener;

use super::{
    servers::{Answer, Server, nobody},
    *,
};
use crate::{BATCH_SPANS_MAX, QUEUE_SPANS_MAX};

const SECOND: Duration = Duration::from_secs(1);

/// Lets everything happen that can without the clock.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_few_spans_are_sent_when_the_oldest_has_waited_long_enough() {
    let server = Server::with_answers([Answer::taken()]).await;
    let clock = TestClock::standing();
    let (exporter, notes) = start(server.endpoint(), &clock);
    exporter.span(trace("first", 1));
    settle().await;
    clock.advance(4 * SECOND);
    exporter.span(trace("second", 2));
    settle().await;
    assert_eq!(server.heard().len(), 0);
    clock.advance(SECOND);
    until(|| server.heard().len() == 1).await;
    assert_eq!(server.roots(), [["first", "second"]]);
    assert_eq!((exporter.dropped(), notes.lines().len()), (0, 0));
}

#[tokio::test]
async fn a_full_batch_is_sent_at_once_and_no_trace_is_parted() {
    let server = Server::with_answers([Answer::taken()]).await;
    let (exporter, _) = start(server.endpoint(), &TestClock::standing());
    exporter.span(trace("first", 300));
    exporter.span(trace("second", 200));
    settle().await;
    assert_eq!(server.heard().len(), 0);
    exporter.span(trace("third", 13));
    until(|| server.heard().len() == 1).await;
    settle().await;
    assert_eq!(server.roots(), [["first", "second"]]);
    assert_eq!(server.heard()[0].spans().len(), 500);
    assert_eq!(in_time(exporter.end()).await, 0);
    assert_eq!(server.roots()[1], ["third"]);
}

#[tokio::test]
async fn what_fails_for_now_is_tried_again_as_it_was_and_told_once_and_its_end() {
    let busy = || Answer::new(503, "busy");
    let answers = [busy().with("retry-after", "7"), Answer::new(429, "many"), busy(), Answer::taken()];
    let server = Server::with_answers(answers).await;
    let clock = TestClock::quick();
    let (exporter, notes) = start(server.endpoint(), &clock);
    exporter.span(trace("first", 3));
    until(|| notes.lines().len() == 2).await;
    assert_eq!(notes.lines(), ["failed answered with status 503: busy", "recovered, 0 lost"]);
    let heard = server.heard();
    assert_eq!(heard.len(), 4);
    assert!(heard.iter().all(|again| again.bytes == heard[0].bytes));
    assert_eq!(clock.pauses(), [7, 2, 4]);
    assert_eq!(exporter.dropped(), 0);
}

#[tokio::test]
async fn a_collector_is_not_asked_before_the_time_that_it_wants() {
    let server = Server::with_answers([Answer::new(503, "").with("retry-after", "20"), Answer::taken()]).await;
    let clock = TestClock::standing();
    let (exporter, notes) = start(server.endpoint(), &clock);
    exporter.span(trace("first", BATCH_SPANS_MAX));
    until(|| notes.lines().len() == 1).await;
    clock.advance(Duration::from_millis(19_999));
    exporter.span(trace("second", BATCH_SPANS_MAX));
    settle().await;
    assert_eq!(server.heard().len(), 1);
    clock.advance(Duration::from_millis(1));
    until(|| server.heard().len() == 3).await;
    assert_eq!(server.roots(), [["first"], ["first"], ["second"]]);
}

#[tokio::test]
async fn a_collector_that_wants_no_pause_is_left_alone_for_a_second() {
    let server = Server::with_answers([Answer::new(503, "").with("retry-after", "0"), Answer::taken()]).await;
    let clock = TestClock::standing();
    let (exporter, notes) = start(server.endpoint(), &clock);
    exporter.span(trace("first", BATCH_SPANS_MAX));
    until(|| notes.lines().len() == 1).await;
    clock.advance(Duration::from_millis(999));
    settle().await;
    assert_eq!(server.heard().len(), 1);
    clock.advance(Duration::from_millis(1));
    until(|| notes.lines().len() == 2).await;
}

#[tokio::test]
async fn a_final_refusal_is_given_up_at_once_and_told_once() {
    let server = Server::with_answers([Answer::new(400, "no"), Answer::new(400, "no"), Answer::taken()]).await;
    let clock = TestClock::quick();
    let (exporter, notes) = start(server.endpoint(), &clock);
    for (index, name) in ["first", "second", "third"].into_iter().enumerate() {
        exporter.span(trace(name, 2));
        until(|| server.heard().len() == index + 1).await;
        settle().await;
    }
    until(|| notes.lines().len() == 2).await;
    assert_eq!(notes.lines(), ["failed answered with status 400: no", "recovered, 4 lost"]);
    assert_eq!(server.roots(), [["first"], ["second"], ["third"]]);
    assert_eq!((exporter.dropped(), clock.pauses().len()), (4, 0));
}

#[tokio::test]
async fn a_trouble_that_becomes_final_is_told_again_and_not_what_passes_in_it() {
    let answers = [503, 401, 503].map(|status| Answer::new(status, "")).into_iter().chain([Answer::taken()]);
    let server = Server::with_answers(answers).await;
    let (exporter, notes) = start(server.endpoint(), &TestClock::quick());
    exporter.span(trace("first", 1));
    until(|| notes.lines().len() == 2).await;
    exporter.span(trace("second", 1));
    until(|| notes.lines().len() == 3).await;
    let expected = ["failed answered with status 503", "failed answered with status 401", "recovered, 1 lost"];
    assert_eq!(notes.lines(), expected);
}

#[tokio::test]
async fn after_a_trouble_pauses_are_short_again_and_losses_counted_anew() {
    let answers = [400, 200, 503, 503, 200, 503, 200].map(|status| Answer::new(status, ""));
    let server = Server::with_answers(answers).await;
    let clock = TestClock::quick();
    let (exporter, notes) = start(server.endpoint(), &clock);
    for heard in [1, 2, 5, 7] {
        exporter.span(trace("first", 2));
        until(|| server.heard().len() == heard).await;
        settle().await;
    }
    until(|| notes.lines().len() == 6).await;
    let (refused, busy) = ("failed answered with status 400", "failed answered with status 503");
    let ends = ["recovered, 2 lost", "recovered, 0 lost"];
    assert_eq!(notes.lines(), [refused, ends[0], busy, ends[1], busy, ends[1]]);
    assert_eq!(clock.pauses(), [1, 2, 1]);
}

#[tokio::test]
async fn spans_that_were_rejected_are_counted_and_told() {
    let server = Server::with_answers([Answer::partly(2, "too old"), Answer::partly(9, "more"), Answer::taken()]).await;
    let (exporter, notes) = start(server.endpoint(), &TestClock::quick());
    for (spans, dropped) in [(3, 2), (3, 5)] {
        exporter.span(trace("first", spans));
        until(|| exporter.dropped() == dropped).await;
    }
    exporter.span(trace("second", 1));
    until(|| notes.lines().len() == 2).await;
    let told = "failed took the request, but rejected 2 spans of it: too old";
    assert_eq!(notes.lines(), [told, "recovered, 5 lost"]);
}

#[tokio::test]
async fn pauses_double_to_half_a_minute_and_a_batch_is_given_up_after_five() {
    let (_closed, endpoint) = nobody();
    let clock = TestClock::quick();
    let (exporter, notes) = start(endpoint, &clock);
    exporter.span(trace("first", 3));
    until(|| exporter.dropped() == 3).await;
    let pauses = clock.pauses();
    let ranges = [1..=1, 2..=2, 4..=5, 8..=10, 16..=20, 30..=37, 30..=37];
    assert!(ranges.iter().zip(&pauses).all(|(range, pause)| range.contains(pause)), "{pauses:?}");
    let all: u64 = pauses.iter().sum();
    assert!((255..=300).contains(&all), "{pauses:?}");
    assert_eq!(notes.lines().len(), 1);
    assert!(notes.lines()[0].starts_with("failed cannot be reached: "), "{:?}", notes.lines());
}

#[tokio::test]
async fn a_collector_that_wants_too_long_costs_the_batch_and_is_left_alone_for_five_minutes() {
    let long = Answer::new(429, "").with("retry-after", "86400");
    let server = Server::with_answers([Answer::new(503, ""), long, Answer::taken()]).await;
    let clock = TestClock::standing();
    let (exporter, notes) = start(server.endpoint(), &clock);
    exporter.span(trace("first", BATCH_SPANS_MAX));
    exporter.span(trace("second", BATCH_SPANS_MAX));
    until(|| notes.lines().len() == 1).await;
    clock.advance(2 * SECOND);
    until(|| exporter.dropped() == 512).await;
    clock.advance(299 * SECOND);
    settle().await;
    assert_eq!(server.roots(), [["first"], ["first"]]);
    clock.advance(SECOND);
    until(|| notes.lines().len() == 2).await;
    assert_eq!(server.roots()[2], ["second"]);
    assert_eq!(notes.lines(), ["failed answered with status 503", "recovered, 512 lost"]);
}

#[tokio::test]
async fn a_full_queue_gives_up_the_oldest_traces_and_counts_their_spans() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let clock = TestClock::standing();
    let (exporter, _) = start(endpoint, &clock);
    exporter.span(trace("sent", BATCH_SPANS_MAX));
    let _held = in_time(listener.accept()).await.expect("a try that hangs");
    for _ in 0..QUEUE_SPANS_MAX / 4 {
        exporter.span(trace("waits", 4));
    }
    assert_eq!(exporter.dropped(), 0);
    exporter.span(trace("more", 5));
    assert_eq!(exporter.dropped(), 8);
    exporter.span(trace("huge", BATCH_SPANS_MAX + 100));
    assert_eq!(exporter.dropped(), 8 + 100 + 512);
    let ending = exporter.end();
    let passes = async {
        until(|| clock.sleeps().iter().filter(|length| **length == 5 * SECOND).count() == 1).await;
        clock.advance(5 * SECOND);
    };
    let (dropped, ()) = in_time(async { tokio::join!(ending, passes) }).await;
    // All that waited, what hung, and what had been dropped before.
    assert_eq!(dropped, (QUEUE_SPANS_MAX / 4 * 4 + 5 + 612 + BATCH_SPANS_MAX) as u64);
}

#[tokio::test]
async fn the_newest_of_a_full_queue_arrive() {
    let server = Server::with_answers([Answer::new(503, "").with("retry-after", "9"), Answer::taken()]).await;
    let clock = TestClock::standing();
    let (exporter, notes) = start(server.endpoint(), &clock);
    exporter.span(trace("sent", BATCH_SPANS_MAX));
    until(|| notes.lines().len() == 1).await;
    exporter.span(trace("old", BATCH_SPANS_MAX));
    for _ in 0..8 {
        exporter.span(trace("new", BATCH_SPANS_MAX));
    }
    clock.advance(9 * SECOND);
    until(|| server.heard().len() == 10).await;
    let mut expected = vec!["sent", "sent"];
    expected.extend(["new"; 8]);
    assert_eq!(server.roots().concat(), expected);
    assert_eq!(exporter.dropped(), 512);
    assert_eq!(notes.lines()[1], "recovered, 512 lost");
}

#[tokio::test]
async fn an_end_sends_what_waits_and_ends_a_pause() {
    let server = Server::with_answers([Answer::new(503, ""), Answer::new(503, ""), Answer::taken()]).await;
    let clock = TestClock::standing();
    let (exporter, notes) = start(server.endpoint(), &clock);
    exporter.span(trace("first", BATCH_SPANS_MAX));
    until(|| notes.lines().len() == 1).await;
    exporter.span(trace("second", 7));
    assert_eq!(in_time(exporter.end()).await, 512);
    assert_eq!(server.roots(), [["first"], ["first"], ["second"]]);
    assert_eq!(clock.monotonic(), Duration::ZERO);
}

#[tokio::test]
async fn an_exporter_that_is_dropped_sends_what_waits() {
    let server = Server::with_answers([Answer::taken()]).await;
    let (exporter, _) = start(server.endpoint(), &TestClock::standing());
    exporter.span(trace("first", 1));
    drop(exporter);
    until(|| server.heard().len() == 1).await;
}

#[tokio::test]
async fn an_end_without_spans_asks_nobody() {
    let server = Server::with_answers([Answer::taken()]).await;
    let (exporter, _) = start(server.endpoint(), &TestClock::standing());
    settle().await;
    assert_eq!(in_time(exporter.end()).await, 0);
    assert_eq!(server.heard().len(), 0);
}
