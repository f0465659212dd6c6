use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use farshore_core::Clock;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use super::{servers::HttpServer, *};
use crate::{AlertError, Outbox, OutboxObserver, QUEUE_MAX, Sender};

/// A clock on which every pause is over at once, as if its time had gone by.
#[derive(Default)]
struct QuickClock {
    pauses: Mutex<Vec<Duration>>,
}

impl QuickClock {
    fn pauses(&self) -> Vec<u64> {
        self.pauses.lock().expect("no panic").iter().map(Duration::as_secs).collect()
    }
}

#[async_trait::async_trait]
impl Clock for QuickClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_milliseconds(0)
    }

    fn monotonic(&self) -> Duration {
        self.pauses.lock().expect("no panic").iter().sum()
    }

    async fn sleep(&self, duration: Duration) {
        self.pauses.lock().expect("no panic").push(duration);
        tokio::task::yield_now().await;
    }
}

/// A clock that stands until it is set.
#[derive(Default)]
struct HandClock(watch::Sender<Duration>);

#[async_trait::async_trait]
impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_milliseconds(0)
    }

    fn monotonic(&self) -> Duration {
        *self.0.borrow()
    }

    async fn sleep(&self, duration: Duration) {
        let end = self.monotonic() + duration;
        self.0.subscribe().wait_for(|now| *now >= end).await.expect("a clock");
    }
}

/// Notes what it hears, and stops the outbox after so many ends.
struct Notes {
    lines: Mutex<Vec<String>>,
    stop: CancellationToken,
    ends_left: Mutex<usize>,
}

impl Notes {
    fn stopping_after(ends: usize) -> Self {
        Self { lines: Mutex::default(), stop: CancellationToken::new(), ends_left: Mutex::new(ends) }
    }

    fn note(&self, line: String, ends: usize) {
        self.lines.lock().expect("no panic").push(line);
        let mut left = self.ends_left.lock().expect("no panic");
        *left -= ends;
        if *left == 0 {
            self.stop.cancel();
        }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no panic").clone()
    }

    async fn wait_for_lines(&self, count: usize) {
        while self.lines().len() < count {
            tokio::task::yield_now().await;
        }
    }
}

impl OutboxObserver for Notes {
    fn failed(&self, _: &str, error: &AlertError, given_up: bool) {
        let status = if let AlertError::Status { status, .. } = error { *status } else { 0 };
        self.note(format!("failed {status}{}", if given_up { ", given up" } else { "" }), usize::from(given_up));
    }

    fn sent(&self, target: &str) {
        assert_eq!(target, "the webhook at 127.0.0.1");
        self.note("sent".to_owned(), 1);
    }

    fn dropped(&self, _: &str, count: u64) {
        self.note(format!("dropped {count}"), usize::try_from(count).expect("few"));
    }
}

fn outbox(address: std::net::SocketAddr, clock: Arc<dyn Clock>) -> Outbox {
    let sender = Sender::webhook(&webhook_target(format!("http://{address}/")), secret(), None).expect("a sender");
    Outbox::new(sender, "left", clock)
}

/// An outbox that never ends fails its test.
async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("an end")
}

#[tokio::test]
async fn what_fails_is_tried_again_until_it_is_taken() {
    let server = HttpServer::with_answers(&[(500, ""), (429, ""), (200, "")]).await;
    let clock = Arc::new(QuickClock::default());
    let outbox = outbox(server.address, Arc::clone(&clock) as _);
    outbox.put(event("first"));
    let notes = Notes::stopping_after(1);
    outbox.run(&notes.stop, &notes).await;
    assert_eq!(notes.lines(), ["failed 500", "failed 429", "sent"]);
    assert_eq!(server.texts(), ["first"; 3]);
    assert_eq!(clock.pauses(), [1, 2]);
}

#[tokio::test]
async fn a_refused_event_does_not_hold_up_those_that_wait() {
    let server = HttpServer::with_answers(&[(500, ""), (200, ""), (429, ""), (200, "")]).await;
    let clock = Arc::new(QuickClock::default());
    let outbox = outbox(server.address, Arc::clone(&clock) as _);
    for text in ["first", "second", "third", "fourth"] {
        outbox.put(event(text));
    }
    let notes = Notes::stopping_after(4);
    outbox.run(&notes.stop, &notes).await;
    assert_eq!(server.texts(), ["first", "second", "third", "fourth", "first", "third"]);
    assert_eq!(clock.pauses(), [1]);
}

#[tokio::test]
async fn a_refused_event_does_not_hold_up_those_that_come_in_its_pause_nor_they_the_end_of_it() {
    let server = HttpServer::with_answers(&[(500, ""), (200, ""), (500, ""), (200, "")]).await;
    let clock = Arc::new(HandClock::default());
    let outbox = outbox(server.address, Arc::clone(&clock) as _);
    outbox.put(event("first"));
    let notes = Notes::stopping_after(3);
    let puts = async {
        notes.wait_for_lines(1).await;
        outbox.put(event("second"));
        notes.wait_for_lines(2).await;
        clock.0.send_replace(Duration::from_millis(600));
        outbox.put(event("third"));
        notes.wait_for_lines(3).await;
        clock.0.send_replace(Duration::from_millis(1_000));
    };
    in_time(async { tokio::join!(outbox.run(&notes.stop, &notes), puts) }).await;
    assert_eq!(notes.lines(), ["failed 500", "sent", "failed 500", "sent", "sent"]);
    assert_eq!(server.texts(), ["first", "second", "third", "first", "third"]);
}

#[tokio::test]
async fn when_all_are_refused_each_has_one_try_for_a_pause_and_a_success_makes_the_pauses_short_again() {
    let mut answers = vec![(503, ""); 9];
    answers.extend([(200, ""), (503, ""), (503, ""), (200, "")]);
    let server = HttpServer::with_answers(&answers).await;
    let clock = Arc::new(QuickClock::default());
    let outbox = outbox(server.address, Arc::clone(&clock) as _);
    for text in ["first", "second", "third"] {
        outbox.put(event(text));
    }
    let notes = Notes::stopping_after(3);
    outbox.run(&notes.stop, &notes).await;
    let mut expected = ["first", "second", "third"].repeat(4);
    expected.extend(["second", "third"]);
    assert_eq!(server.texts(), expected);
    assert_eq!(clock.pauses(), [1, 2, 4, 1]);
}

#[tokio::test]
async fn a_final_refusal_is_not_tried_again_and_the_next_event_goes_on() {
    let server = HttpServer::with_answers(&[(400, "no"), (200, "")]).await;
    let outbox = outbox(server.address, Arc::new(QuickClock::default()));
    outbox.put(event("first"));
    outbox.put(event("second"));
    let notes = Notes::stopping_after(2);
    outbox.run(&notes.stop, &notes).await;
    assert_eq!(notes.lines(), ["failed 400, given up", "sent"]);
    assert_eq!(server.texts(), ["first", "second"]);
}

#[tokio::test]
async fn pauses_double_to_a_minute_and_the_refused_are_given_up_after_an_hour() {
    let server = HttpServer::with_answers(&[(503, "")]).await;
    let clock = Arc::new(QuickClock::default());
    let outbox = outbox(server.address, Arc::clone(&clock) as _);
    outbox.put(event("first"));
    outbox.put(event("second"));
    let notes = Notes::stopping_after(2);
    outbox.run(&notes.stop, &notes).await;
    let (lines, pauses) = (notes.lines(), clock.pauses());
    assert_eq!(pauses[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
    let age: u64 = pauses.iter().sum();
    assert!((3_540..=3_600).contains(&age), "{age}");
    assert_eq!(server.texts(), ["first", "second"].repeat(pauses.len() + 1));
    let (before, last) = lines.split_at(lines.len() - 2);
    assert!(before.iter().all(|line| line == "failed 503"));
    assert_eq!((before.len(), last), (pauses.len() * 2, &["failed 503, given up"; 2].map(str::to_owned)[..]));
}

#[tokio::test]
async fn a_target_that_does_not_answer_has_one_try_for_a_pause_however_many_wait() {
    let closed = TcpSocket::new_v4().expect("a socket");
    closed.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let clock = Arc::new(QuickClock::default());
    let outbox = outbox(closed.local_addr().expect("an address"), Arc::clone(&clock) as _);
    for text in ["first", "second", "third"] {
        outbox.put(event(text));
    }
    let notes = Notes::stopping_after(3);
    in_time(outbox.run(&notes.stop, &notes)).await;
    let (lines, pauses) = (notes.lines(), clock.pauses());
    assert_eq!(pauses[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(lines.len(), pauses.len() + 1);
    assert_eq!(lines[lines.len() - 3..], ["failed 0", "failed 0, given up", "dropped 2"]);
}

#[tokio::test]
async fn a_full_queue_gives_up_the_oldest_also_if_it_was_refused_and_says_how_many() {
    let server = HttpServer::with_answers(&[(500, ""), (200, "")]).await;
    let outbox = outbox(server.address, Arc::new(HandClock::default()));
    outbox.put(event("0"));
    let notes = Notes::stopping_after(QUEUE_MAX + 3);
    let puts = async {
        notes.wait_for_lines(1).await;
        for number in 1..QUEUE_MAX + 3 {
            outbox.put(event(&number.to_string()));
        }
    };
    in_time(async { tokio::join!(outbox.run(&notes.stop, &notes), puts) }).await;
    assert_eq!(notes.lines()[..3], ["failed 500", "dropped 3", "sent"]);
    let expected: Vec<String> = (3..QUEUE_MAX + 3).map(|number| number.to_string()).collect();
    assert_eq!(server.texts()[1..], expected);
}

#[tokio::test]
async fn an_event_wakes_an_outbox_that_waits() {
    let server = HttpServer::with_answers(&[(200, "")]).await;
    let outbox = outbox(server.address, Arc::new(HandClock::default()));
    let notes = Notes::stopping_after(2);
    let puts = async {
        for text in ["first", "second"] {
            tokio::task::yield_now().await;
            outbox.put(event(text));
        }
    };
    tokio::join!(outbox.run(&notes.stop, &notes), puts);
    assert_eq!(server.texts(), ["first", "second"]);
}

#[tokio::test]
async fn a_stop_sends_what_waits_and_ends_a_pause() {
    let server = HttpServer::with_answers(&[(500, ""), (500, ""), (500, ""), (200, ""), (500, ""), (200, "")]).await;
    let outbox = outbox(server.address, Arc::new(HandClock::default()));
    for text in ["first", "second", "third"] {
        outbox.put(event(text));
    }
    let notes = Notes::stopping_after(usize::MAX);
    let stops = async {
        notes.wait_for_lines(3).await;
        notes.stop.cancel();
    };
    tokio::join!(outbox.run(&notes.stop, &notes), stops);
    assert_eq!(notes.lines()[3..], ["sent", "failed 500, given up", "sent"]);
    assert_eq!(server.texts(), ["first", "second", "third"].repeat(2));
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_target_that_hangs() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let outbox = outbox(listener.local_addr().expect("an address"), Arc::new(QuickClock::default()));
    for text in ["first", "second", "third"] {
        outbox.put(event(text));
    }
    let notes = Notes::stopping_after(usize::MAX);
    let stops = async {
        let _held = listener.accept().await.expect("the first try");
        notes.stop.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = outbox.run(&notes.stop, &notes) => {}
        () = stops => unreachable!(),
    }
    assert_eq!(notes.lines(), ["dropped 3"]);
}
