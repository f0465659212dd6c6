use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use farshore_core::Clock;
use tokio::net::TcpListener;
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

/// A clock on which no pause is ever over.
struct StillClock;

#[async_trait::async_trait]
impl Clock for StillClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_milliseconds(0)
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    async fn sleep(&self, _: Duration) {
        std::future::pending().await
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

    fn note(&self, line: String, is_end: bool) {
        self.lines.lock().expect("no panic").push(line);
        let mut left = self.ends_left.lock().expect("no panic");
        *left -= usize::from(is_end);
        if *left == 0 {
            self.stop.cancel();
        }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no panic").clone()
    }
}

impl OutboxObserver for Notes {
    fn failed(&self, _: &str, error: &AlertError, given_up: bool) {
        let status = if let AlertError::Status { status, .. } = error { *status } else { 0 };
        self.note(format!("failed {status}{}", if given_up { ", given up" } else { "" }), given_up);
    }

    fn sent(&self, target: &str) {
        assert_eq!(target, "the webhook at 127.0.0.1");
        self.note("sent".to_owned(), true);
    }

    fn dropped(&self, _: &str, count: u64) {
        self.note(format!("dropped {count}"), false);
    }
}

fn outbox(address: std::net::SocketAddr, clock: Arc<dyn Clock>) -> Outbox {
    let sender = Sender::webhook(&webhook_target(format!("http://{address}/")), secret(), None).expect("a sender");
    Outbox::new(sender, "left", clock)
}

#[tokio::test]
async fn what_fails_is_tried_again_until_it_is_taken() {
    let server = HttpServer::with_answers(&[(500, ""), (429, ""), (200, "")]).await;
    let clock = Arc::new(QuickClock::default());
    let outbox = outbox(server.address, Arc::clone(&clock) as _);
    outbox.put(event("first"));
    outbox.put(event("second"));
    let notes = Notes::stopping_after(2);
    outbox.run(&notes.stop, &notes).await;
    assert_eq!(notes.lines(), ["failed 500", "failed 429", "sent", "sent"]);
    assert_eq!(server.texts(), ["first", "first", "first", "second"]);
    assert_eq!(clock.pauses()[..2], [1, 2]);
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
async fn pauses_double_to_a_minute_and_end_after_an_hour() {
    let server = HttpServer::with_answers(&[(503, "")]).await;
    let clock = Arc::new(QuickClock::default());
    let outbox = outbox(server.address, Arc::clone(&clock) as _);
    outbox.put(event("first"));
    outbox.put(event("second"));
    let notes = Notes::stopping_after(2);
    outbox.run(&notes.stop, &notes).await;
    let pauses = clock.pauses();
    assert_eq!(pauses[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
    // The second one waited behind the first, and has what is left of its own hour.
    let second = pauses[1..].iter().position(|pause| *pause == 1).expect("a pause of the second") + 1;
    let (first, second) = pauses.split_at(second);
    let first: u64 = first.iter().sum();
    assert!((3_540..=3_600).contains(&first), "{first}");
    assert_eq!(second, [1, 2, 4, 8, 16]);
    let given_up = notes.lines().iter().filter(|line| *line == "failed 503, given up").count();
    assert_eq!((given_up, notes.lines().len(), server.heard().len()), (2, pauses.len() + 2, pauses.len() + 2));
    assert_eq!(server.texts().last().map(String::as_str), Some("second"));
}

#[tokio::test]
async fn a_full_queue_gives_up_the_oldest_and_says_how_many() {
    let server = HttpServer::with_answers(&[(200, "")]).await;
    let outbox = outbox(server.address, Arc::new(QuickClock::default()));
    for number in 0..QUEUE_MAX + 3 {
        outbox.put(event(&number.to_string()));
    }
    let notes = Notes::stopping_after(QUEUE_MAX);
    outbox.run(&notes.stop, &notes).await;
    assert_eq!(notes.lines()[..2], ["dropped 3", "sent"]);
    let expected: Vec<String> = (3..QUEUE_MAX + 3).map(|number| number.to_string()).collect();
    assert_eq!(server.texts(), expected);
}

#[tokio::test]
async fn an_event_wakes_an_outbox_that_waits() {
    let server = HttpServer::with_answers(&[(200, "")]).await;
    let outbox = outbox(server.address, Arc::new(StillClock));
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
    let server = HttpServer::with_answers(&[(500, ""), (200, ""), (500, ""), (200, "")]).await;
    let outbox = outbox(server.address, Arc::new(StillClock));
    for text in ["first", "second", "third"] {
        outbox.put(event(text));
    }
    let notes = Notes::stopping_after(usize::MAX);
    let stops = async {
        while notes.lines().is_empty() {
            tokio::task::yield_now().await;
        }
        notes.stop.cancel();
    };
    tokio::join!(outbox.run(&notes.stop, &notes), stops);
    assert_eq!(notes.lines(), ["failed 500", "sent", "failed 500, given up", "sent"]);
    assert_eq!(server.texts(), ["first", "first", "second", "third"]);
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
